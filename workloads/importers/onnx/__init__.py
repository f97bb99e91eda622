"""ONNX files as JAX functions."""
