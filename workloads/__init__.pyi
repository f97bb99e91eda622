from .catalog import Network, list_networks, load, load_network
from .graphs import TaskGraph, cholesky, layered_graph, lu, ops_graph, qr, stack_graphs, task_graph
from .importers.cache import CacheInfo, profile_cache_info
from .importers.graph_files import read_network
from .importers.jaxpr import profile
from .kernel_times import KernelTimes, Machine, communication, durations, machine, ready_times, transfer
from .kernels import Complexity, Kernel, complexity, find_kernel, list_kernels
from .names import UnknownName
from .nests import LoopNest, Program, TensorInfo, load_program, trace_program
from .networks.folding import fold_batch_norm
from .networks.transformer import TRANSFORMERS, Transformer, decode, prefill
from .ops import OpInfo, OpKind, OpTable, make_table, stack
from .resolution import Workload, resolve
from .spiking.networks import SpikingNetwork, spiking_mlp
from .spiking.neurons import IF, AdaptiveLeaky, Alpha, Lapicque, Leaky, NeuronTrace, Synaptic, neuron_operations, simulate_neuron
from .spiking.nir import read_nir
from .spiking.operations import (
    OperationCounts,
    applied_rates,
    check_single_rate,
    count_operations,
    dense_operations,
    network_footprint,
    spiking_table,
)
from .spiking.surrogates import Surrogate
from .streams import Burst, Draw, TaskStream, default_stream, draw, draw_mean_gap, draw_phase
from .training_graphs import training_graph

__all__ = [
    "IF",
    "TRANSFORMERS",
    "AdaptiveLeaky",
    "Alpha",
    "Burst",
    "CacheInfo",
    "Complexity",
    "Draw",
    "Kernel",
    "KernelTimes",
    "Lapicque",
    "Leaky",
    "LoopNest",
    "Machine",
    "Network",
    "NeuronTrace",
    "OpInfo",
    "OpKind",
    "OpTable",
    "OperationCounts",
    "Program",
    "SpikingNetwork",
    "Surrogate",
    "Synaptic",
    "TaskGraph",
    "TaskStream",
    "TensorInfo",
    "Transformer",
    "UnknownName",
    "Workload",
    "applied_rates",
    "check_single_rate",
    "cholesky",
    "communication",
    "complexity",
    "count_operations",
    "decode",
    "default_stream",
    "dense_operations",
    "draw",
    "draw_mean_gap",
    "draw_phase",
    "durations",
    "find_kernel",
    "fold_batch_norm",
    "layered_graph",
    "list_kernels",
    "list_networks",
    "load",
    "load_network",
    "load_program",
    "lu",
    "machine",
    "make_table",
    "network_footprint",
    "neuron_operations",
    "ops_graph",
    "prefill",
    "profile",
    "profile_cache_info",
    "qr",
    "read_network",
    "read_nir",
    "ready_times",
    "resolve",
    "simulate_neuron",
    "spiking_mlp",
    "spiking_table",
    "stack",
    "stack_graphs",
    "task_graph",
    "trace_program",
    "training_graph",
    "transfer",
]
