from .catalog import Network, list_networks, load, load_network
from .importers.jaxpr import profile
from .networks.folding import fold_batch_norm
from .ops import OpInfo, OpKind, OpTable, make_table, stack
from .streams import Draw, TaskStream, default_stream, draw, draw_mean_gap

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
