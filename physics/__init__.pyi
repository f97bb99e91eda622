from .cells.devices import Cell, cbram, hfox_reram, list_devices, load_device, perpendicular_stt_mram
from .cells.disturb import MagneticDisturb, ResistiveDisturb
from .cells.endurance import Endurance, Wear
from .cells.logs import NEVER, add_log, log_failure_probability, log_sum, log_survival
from .cells.retention import Retention, RetentionLaw, ThermalStability
from .compensated import CompensatedSum
from .constants import BOLTZMANN_EV, YEAR, from_celsius, to_celsius
from .params import (
    LabelledParam,
    Param,
    ParameterTree,
    bounds,
    describe,
    labels,
    lookup,
    param,
    parameters,
    replace,
    unknown_name,
    values,
    with_sources,
)
from .thermal.lumped import Ladder, TwoNode, default_package
from .thermal.modal import Bounded, Modes
from .thermal.networks import EnergyBalance, ThermalNetwork
from .thermal.packages import SharedPackage

__all__ = [
    "BOLTZMANN_EV",
    "NEVER",
    "YEAR",
    "Bounded",
    "Cell",
    "CompensatedSum",
    "Endurance",
    "EnergyBalance",
    "LabelledParam",
    "Ladder",
    "MagneticDisturb",
    "Modes",
    "Param",
    "ParameterTree",
    "ResistiveDisturb",
    "Retention",
    "RetentionLaw",
    "SharedPackage",
    "ThermalNetwork",
    "ThermalStability",
    "TwoNode",
    "Wear",
    "add_log",
    "bounds",
    "cbram",
    "default_package",
    "describe",
    "from_celsius",
    "hfox_reram",
    "labels",
    "list_devices",
    "load_device",
    "log_failure_probability",
    "log_sum",
    "log_survival",
    "lookup",
    "param",
    "parameters",
    "perpendicular_stt_mram",
    "replace",
    "to_celsius",
    "unknown_name",
    "values",
    "with_sources",
]
