"""Processor families, one per file, one signature for all."""
