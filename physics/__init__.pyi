from .aging import (
    AgingLaw,
    BiasInstability,
    Corrosion,
    Cycling,
    DielectricBreakdown,
    Electromigration,
    StressMigration,
    ThresholdDrift,
    log_series_mttf,
    log_series_quantile,
    log_series_survival,
    soft_swing,
)
from .cells.devices import Cell, cbram, hfalo_reram, hfox_reram, list_devices, load_device, perpendicular_stt_mram
from .cells.disturb import MagneticDisturb, ResistiveDisturb
from .cells.drift import OxideDrift, PhaseChangeDrift, ResistiveDrift
from .cells.endurance import Endurance, Wear
from .cells.logs import NEVER, LogTotal, add_log, log_failure_probability, log_hazard_of, log_sum, log_survival
from .cells.populations import LognormalLives, LognormalTime, NormalBarrier, WeibullLives, log_mixed_failure
from .cells.retention import Retention, RetentionLaw, ThermalStability, required_stability
from .cells.variability import ProgrammingSpread
from .compensated import CompensatedSum
from .constants import BOLTZMANN_EV, YEAR, from_celsius, to_celsius
from .crossbar.arrays import Crossbar, program_crossbar
from .crossbar.cells import CrossbarCells, Wires
from .crossbar.converters import Adc
from .crossbar.disturb import ReadDisturb
from .crossbar.mappings import CrossbarMapping, list_mappings, load_mapping
from .dvfs import OperatingPoint, VoltageScaling, syntiant_ndp9120
from .lifetimes import Lifetime, lifetime
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
from .thermal.floorplan import Floorplan, parse_power_trace, read_floorplan, read_power_trace
from .thermal.grid import GridField, ThermalGrid, block_means, power_map
from .thermal.heatsink import HeatSinkPackage
from .thermal.leakage import Leakage, LeakyNetwork, LeakyState
from .thermal.lumped import Ladder, TwoNode, default_package
from .thermal.maps import draw_floorplan, draw_layer
from .thermal.modal import Bounded, Modes
from .thermal.networks import EnergyBalance, ThermalNetwork
from .thermal.packages import SharedPackage

__all__ = [
    "BOLTZMANN_EV",
    "NEVER",
    "YEAR",
    "Adc",
    "AgingLaw",
    "BiasInstability",
    "Bounded",
    "Cell",
    "CompensatedSum",
    "Corrosion",
    "Crossbar",
    "CrossbarCells",
    "CrossbarMapping",
    "Cycling",
    "DielectricBreakdown",
    "Electromigration",
    "Endurance",
    "EnergyBalance",
    "Floorplan",
    "GridField",
    "HeatSinkPackage",
    "LabelledParam",
    "Ladder",
    "Leakage",
    "LeakyNetwork",
    "LeakyState",
    "Lifetime",
    "LogTotal",
    "LognormalLives",
    "LognormalTime",
    "MagneticDisturb",
    "Modes",
    "NormalBarrier",
    "OperatingPoint",
    "OxideDrift",
    "Param",
    "ParameterTree",
    "PhaseChangeDrift",
    "ProgrammingSpread",
    "ReadDisturb",
    "ResistiveDisturb",
    "ResistiveDrift",
    "Retention",
    "RetentionLaw",
    "SharedPackage",
    "StressMigration",
    "ThermalGrid",
    "ThermalNetwork",
    "ThermalStability",
    "ThresholdDrift",
    "TwoNode",
    "VoltageScaling",
    "Wear",
    "WeibullLives",
    "Wires",
    "add_log",
    "block_means",
    "bounds",
    "cbram",
    "default_package",
    "describe",
    "draw_floorplan",
    "draw_layer",
    "from_celsius",
    "hfalo_reram",
    "hfox_reram",
    "labels",
    "lifetime",
    "list_devices",
    "list_mappings",
    "load_device",
    "load_mapping",
    "log_failure_probability",
    "log_hazard_of",
    "log_mixed_failure",
    "log_series_mttf",
    "log_series_quantile",
    "log_series_survival",
    "log_sum",
    "log_survival",
    "lookup",
    "param",
    "parameters",
    "parse_power_trace",
    "perpendicular_stt_mram",
    "power_map",
    "program_crossbar",
    "read_floorplan",
    "read_power_trace",
    "replace",
    "required_stability",
    "soft_swing",
    "syntiant_ndp9120",
    "to_celsius",
    "unknown_name",
    "values",
    "with_sources",
]
