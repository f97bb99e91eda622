"""How work is laid out on a machine."""
