"""OpenAI's wire format, shared by the worker, the gateway and their clients. Contains no engine and no network code."""
