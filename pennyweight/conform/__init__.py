"""Which engine serves which architecture right: tried on tiny random models against stock transformers."""
