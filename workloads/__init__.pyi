from .catalog import Network, list_networks, load, load_network
from .graphs import TaskGraph, cholesky, layered_graph, lu, ops_graph, qr, stack_graphs, task_graph
from .importers.cache import CacheInfo, profile_cache_info
from .importers.graph_files import read_network
from .importers.jaxpr import profile
from .kernel_times import KernelTimes, Machine, communication, durations, machine, ready_times, transfer
from .kernels import Complexity, Kernel, complexity, find_kernel, list_kernels
from .networks.folding import fold_batch_norm
from .networks.transformer import TRANSFORMERS, Transformer, decode, prefill
from .ops import OpInfo, OpKind, OpTable, make_table, stack
from .streams import Burst, Draw, TaskStream, default_stream, draw, draw_mean_gap, draw_phase

__all__ = [
    "TRANSFORMERS",
    "Burst",
    "CacheInfo",
    "Complexity",
    "Draw",
    "Kernel",
    "KernelTimes",
    "Machine",
    "Network",
    "OpInfo",
    "OpKind",
    "OpTable",
    "TaskGraph",
    "TaskStream",
    "Transformer",
    "cholesky",
    "communication",
    "complexity",
    "decode",
    "default_stream",
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
    "lu",
    "machine",
    "make_table",
    "ops_graph",
    "prefill",
    "profile",
    "profile_cache_info",
    "qr",
    "read_network",
    "ready_times",
    "stack",
    "stack_graphs",
    "task_graph",
    "transfer",
]
