"""transformers: the reference engine."""
