"""What work costs: (hardware, operations, state) -> latency, energy, heat and wear, with gradients."""

from costmodel.cost import Bound, Conditions, Cost, OpCost
from costmodel.estimation import estimate
from costmodel.hardware import list_hardware, list_platforms, load_hardware, load_platform
from costmodel.platform import (
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
from costmodel.processors.base import Processor
from costmodel.processors.cim import CrossbarChip
from costmodel.processors.roofline import Roofline
from costmodel.relax import HARD, STRAIGHT_THROUGH, Relaxation, soft
from costmodel.studies.sensitivities import SensitivityTable, batched_gradients, sensitivity
from costmodel.studies.sweeps import sweep
from costmodel.weights import CellState

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
