"""Who decides: the scheduling environment, agents trained on device, the rules they are judged against, and the study."""

import lazy_loader

# The public names stand in __init__.pyi; a room is imported when a name of it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
