"""Tempo inside other tools; each needs its extra."""
