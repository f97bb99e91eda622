"""What work costs: (hardware, operations, state) -> latency, energy, heat and wear, with gradients."""

import lazy_loader

# The public names stand in __init__.pyi; a room is imported when a name of it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
