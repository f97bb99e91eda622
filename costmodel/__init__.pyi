from .accuracy.bit_widths import (
    BitStudy,
    PolicyAccuracy,
    crossbar_accuracy,
    measure_policy,
    prepare_study,
    tune_policy,
)
from .accuracy.closed_form import AccuracyFit, AccuracyModel, expected_accuracy, fit_accuracy
from .accuracy.conditions import DeviceConditions, vary_condition
from .accuracy.datasets import Dataset, list_datasets, load_dataset
from .accuracy.memories import WeightMemory
from .accuracy.monte_carlo import Deployment, deploy_network, measure_accuracy
from .accuracy.networks import BINARY, FLOAT, TERNARY, Precision, TrainedNetwork, conv_net, mlp, precision_of
from .accuracy.surveys import Survey, survey_accuracy
from .accuracy.training import train_network
from .clocks import ClockDomain, list_clocks, load_clock
from .cost import Bound, Conditions, Cost, OpCost
from .estimation import estimate
from .hardware import list_hardware, list_platforms, load_hardware, load_platform
from .limits import ThermalLimit
from .mapping.bands import Plan, plan_schedule, speedup_band
from .mapping.crossbars import (
    Encoding,
    Placement,
    check_mappable,
    list_encodings,
    load_encoding,
    log_runs_to_failure,
    place,
)
from .mapping.dependencies import Axis, Join, Layer, LayerGraph, Merge, Window
from .mapping.duplication import greedy_duplicates, min_sum_duplicates
from .mapping.gantt import draw_gantt, gantt_chart, gantt_text
from .mapping.precision import (
    BitPolicy,
    MatrixShapes,
    PolicyLatency,
    SerialCrossbar,
    latency_table,
    matrix_shapes,
    policy_latency,
    policy_speedup,
    uniform_policy,
)
from .mapping.schedule import PIXELS, WHOLE_ROWS, Schedule, Sets, cross_layer, finish_times, layer_by_layer, lower_bound
from .mapping.searching import Search, search_duplicates
from .mapping.tracing import layer_graph
from .platform import Platform, PlatformState
from .processors.base import Processor
from .processors.cim import CrossbarChip
from .processors.digital_cim import BitSerialMacro, GateMacro, adder_tree_macro
from .processors.macro_chip import MacroChip
from .processors.macros import AnalogMacro
from .processors.roofline import Roofline
from .relax import HARD, STRAIGHT_THROUGH, Relaxation, soft
from .steps import Decision, Outcome, Quote, Refresh, quote, refresh_weights, rollout, step
from .studies.breakdowns import Breakdown, breakdown
from .studies.chunks import chunked
from .studies.mixed_precision import (
    BitChoices,
    LayerOptions,
    PrecisionSearch,
    chosen_policy,
    layer_options,
    search_precision,
    trade_off,
)
from .studies.mlperf_tiny import BenchmarkResult, run_mlperf_tiny, train_standin
from .studies.plots import plot_breakdown
from .studies.sensitivities import SensitivityTable, batched_gradients, sensitivity
from .studies.sweeps import sweep
from .studies.tuning import Tuning, tune
from .studies.validation import ValidationRow, validate
from .tasks import Offer, Task, make_offer, make_offers, make_task
from .weights import CellState

__all__ = [
    "BINARY",
    "FLOAT",
    "HARD",
    "PIXELS",
    "STRAIGHT_THROUGH",
    "TERNARY",
    "WHOLE_ROWS",
    "AccuracyFit",
    "AccuracyModel",
    "AnalogMacro",
    "Axis",
    "BenchmarkResult",
    "BitChoices",
    "BitPolicy",
    "BitSerialMacro",
    "BitStudy",
    "Bound",
    "Breakdown",
    "CellState",
    "ClockDomain",
    "Conditions",
    "Cost",
    "CrossbarChip",
    "Dataset",
    "Decision",
    "Deployment",
    "DeviceConditions",
    "Encoding",
    "GateMacro",
    "Join",
    "Layer",
    "LayerGraph",
    "LayerOptions",
    "MacroChip",
    "MatrixShapes",
    "Merge",
    "Offer",
    "OpCost",
    "Outcome",
    "Placement",
    "Plan",
    "Platform",
    "PlatformState",
    "PolicyAccuracy",
    "PolicyLatency",
    "Precision",
    "PrecisionSearch",
    "Processor",
    "Quote",
    "Refresh",
    "Relaxation",
    "Roofline",
    "Schedule",
    "Search",
    "SensitivityTable",
    "SerialCrossbar",
    "Sets",
    "Survey",
    "Task",
    "ThermalLimit",
    "TrainedNetwork",
    "Tuning",
    "ValidationRow",
    "WeightMemory",
    "Window",
    "adder_tree_macro",
    "batched_gradients",
    "breakdown",
    "check_mappable",
    "chosen_policy",
    "chunked",
    "conv_net",
    "cross_layer",
    "crossbar_accuracy",
    "deploy_network",
    "draw_gantt",
    "estimate",
    "expected_accuracy",
    "finish_times",
    "fit_accuracy",
    "gantt_chart",
    "gantt_text",
    "greedy_duplicates",
    "latency_table",
    "layer_by_layer",
    "layer_graph",
    "layer_options",
    "list_clocks",
    "list_datasets",
    "list_encodings",
    "list_hardware",
    "list_platforms",
    "load_clock",
    "load_dataset",
    "load_encoding",
    "load_hardware",
    "load_platform",
    "log_runs_to_failure",
    "lower_bound",
    "make_offer",
    "make_offers",
    "make_task",
    "matrix_shapes",
    "measure_accuracy",
    "measure_policy",
    "min_sum_duplicates",
    "mlp",
    "place",
    "plan_schedule",
    "plot_breakdown",
    "policy_latency",
    "policy_speedup",
    "precision_of",
    "prepare_study",
    "quote",
    "refresh_weights",
    "rollout",
    "run_mlperf_tiny",
    "search_duplicates",
    "search_precision",
    "sensitivity",
    "soft",
    "speedup_band",
    "step",
    "survey_accuracy",
    "sweep",
    "trade_off",
    "train_network",
    "train_standin",
    "tune",
    "tune_policy",
    "uniform_policy",
    "validate",
    "vary_condition",
]
