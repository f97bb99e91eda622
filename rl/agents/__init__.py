"""Agents trained on device."""
