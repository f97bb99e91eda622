"""What hardware does over time: heat, memory cells. One law per file; no tasks, no cost, no policy."""

import lazy_loader

# The public names stand in __init__.pyi; a room is imported when a name of it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
