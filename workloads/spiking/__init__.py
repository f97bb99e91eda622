"""Spiking networks: neurons and their dynamics, networks of them, operation counts, NIR files."""
