"""The process that hosts an engine and speaks the OpenAI API for it: `python -m pennyweight.worker`."""
