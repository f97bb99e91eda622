"""Which activations are alive while each operation runs.

A tensor lives from the operation that makes it (an argument: from the start) to the last one that reads it, both
included; results live to the end. What a loop reads from outside it keeps until it ends. Views share the storage of
what they show. Nothing is done in place, and tensors inside a fused operation are never stored.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from workloads.importers.fusion import Group
from workloads.importers.graph import Graph, Region, Value


@dataclasses.dataclass
class Lifetimes:
    """`live[i]` activation elements while operation i runs, and the tensors alive at the peak, largest first."""

    live: np.ndarray
    peak: int
    tensors: list[Value]


def lifetimes(graph: Graph, groups: Sequence[Group]) -> Lifetimes:
    """Live activation elements of every operation of `groups`, in their order."""
    row_of = {id(node): row for row, own in enumerate(groups) for node in own.nodes}
    spans = _loop_spans(groups)
    last = len(groups) - 1
    first_use: dict[int, int] = {}
    last_use: dict[int, int] = {}
    tensors: dict[int, Value] = {}

    def touch(value: Value, row: int) -> None:
        root = value.root
        tensors[id(root)] = root
        first_use[id(root)] = min(first_use.get(id(root), row), row)
        last_use[id(root)] = max(last_use.get(id(root), row), row)

    for row, own in enumerate(groups):
        for value in external(own):
            touch(value, row)
            touch(value, _after(value.region, own.region, spans, row))
    for loop, value in graph.carried:
        if loop in spans and id(value.root.producer) in row_of:
            touch(value, spans[loop][1])
    for value in graph.outputs:
        if not value.constant:
            touch(value, last)
    live = np.zeros(len(groups))
    births = {}
    for key, root in tensors.items():
        births[key] = _birth(root, row_of, spans, first_use[key])
        live[births[key] : last_use[key] + 1] += root.stored
    peak = int(np.argmax(live))
    alive = [root for key, root in tensors.items() if births[key] <= peak <= last_use[key]]
    return Lifetimes(live, peak, sorted(alive, key=lambda v: -v.stored))


def external(own: Group) -> list[Value]:
    """The activations that a group reads and did not make itself."""
    members = {id(n) for n in own.nodes}
    return [v for n in own.nodes for v in n.activations if v.root.producer is None or id(v.root.producer) not in members]


def _birth(root: Value, row_of: dict[int, int], spans: dict[int, tuple[int, int]], first_use: int) -> int:
    if root.since is not None:
        return spans[root.since][0] if root.since in spans else first_use
    return row_of.get(id(root.producer), 0)


def _after(owned: Region, reader: Region, spans: dict[int, tuple[int, int]], row: int) -> int:
    """The last row at which a reader in the loops `reader` needs a value owned by the loops `owned`."""
    inner = [loop for depth, loop in enumerate(reader) if depth >= len(owned) or owned[depth] != loop]
    return max([row, *(spans[loop][1] for loop in inner)])


def _loop_spans(groups: Sequence[Group]) -> dict[int, tuple[int, int]]:
    """First and last row of every loop."""
    spans: dict[int, tuple[int, int]] = {}
    for row, own in enumerate(groups):
        for loop in own.region:
            spans[loop] = (spans.get(loop, (row, row))[0], row)
    return spans
