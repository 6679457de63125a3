"""One batch loop for libraries that only run a model forward (transformers, ONNX Runtime)."""
