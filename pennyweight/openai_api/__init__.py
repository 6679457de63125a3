"""OpenAI's wire format, shared by the worker, the gateway and whoever asks them. No engine and no network in here."""
