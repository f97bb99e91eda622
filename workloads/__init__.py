"""What is to be computed: operation tables of networks and functions, and streams of tasks."""

import lazy_loader

# The public names stand in __init__.pyi; a room is imported when a name of it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
