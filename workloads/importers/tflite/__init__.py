"""TFLite files as JAX functions."""
