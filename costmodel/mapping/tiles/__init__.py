"""Tiles of one operation in a small memory: levels, constraints, pipelines, choices, and what stays on chip."""
