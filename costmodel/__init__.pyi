from .cost import Bound, Conditions, Cost, OpCost
from .estimation import estimate
from .hardware import list_hardware, list_platforms, load_hardware, load_platform
from .platform import (
    Decision,
    Offer,
    Outcome,
    Platform,
    PlatformState,
    Quote,
    Task,
    make_offer,
    make_offers,
    make_task,
    quote,
    rollout,
    step,
)
from .processors.base import Processor
from .processors.cim import CrossbarChip
from .processors.roofline import Roofline
from .relax import HARD, STRAIGHT_THROUGH, Relaxation, soft
from .studies.chunks import chunked
from .studies.sensitivities import SensitivityTable, batched_gradients, sensitivity
from .studies.sweeps import sweep
from .weights import CellState

__all__ = [
    "HARD",
    "STRAIGHT_THROUGH",
    "Bound",
    "CellState",
    "Conditions",
    "Cost",
    "CrossbarChip",
    "Decision",
    "Offer",
    "OpCost",
    "Outcome",
    "Platform",
    "PlatformState",
    "Processor",
    "Quote",
    "Relaxation",
    "Roofline",
    "SensitivityTable",
    "Task",
    "batched_gradients",
    "chunked",
    "estimate",
    "list_hardware",
    "list_platforms",
    "load_hardware",
    "load_platform",
    "make_offer",
    "make_offers",
    "make_task",
    "quote",
    "rollout",
    "sensitivity",
    "soft",
    "step",
    "sweep",
]
