"""Which of two models answers a request: what the search fits and the gateway decides by."""
