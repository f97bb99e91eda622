"""Environments with gymnax 1.0 semantics."""
