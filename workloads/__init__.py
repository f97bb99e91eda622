"""What is to be computed: operation tables of networks and functions, and streams of tasks."""

from workloads.catalog import Network, list_networks, load, load_network
from workloads.importers.jaxpr import profile
from workloads.networks.folding import fold_batch_norm
from workloads.ops import OpInfo, OpKind, OpTable, make_table, stack
from workloads.streams import Draw, TaskStream, default_stream, draw, draw_mean_gap

__all__ = [
    "Draw",
    "Network",
    "OpInfo",
    "OpKind",
    "OpTable",
    "TaskStream",
    "default_stream",
    "draw",
    "draw_mean_gap",
    "fold_batch_norm",
    "list_networks",
    "load",
    "load_network",
    "make_table",
    "profile",
    "stack",
]
