"""llama.cpp: its settings, and the running `llama-server` behind our worker."""
