"""Which primitives a device runs as one operation.

    epilogue        an elementwise computation on one activation (bias, batch normalisation, activation function, also
                    x * sigmoid(x)) joins the operation that made the activation, if nothing else needs the latter;
                    For products, a transposition of the result counts as elementwise: it is a layout to write in;
    normalisation   a reduction whose result is brought back onto its own operand (softmax, layer normalisation) is one
                    operation, from the operand to the result of the same size.

An elementwise operation on two activations (a residual sum) stays an operation of its own, and has epilogues too.
Both are single-entry single-exit regions, found by growing from the entry until one tensor of its size is left open.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

from workloads.importers.graph import Graph, Node, Region, Value
from workloads.importers.rules import ELEMENTWISE, REDUCTIONS

PRODUCTS = frozenset(("dot_general", "conv_general_dilated", "integer_convolution"))
REGION_LIMIT = 64  # primitives in one fused region; beyond it the primitives stay apart


@dataclasses.dataclass(eq=False)
class Group:
    """Primitives that run as one operation, in order."""

    nodes: list[Node]
    normalisation: bool = False

    @property
    def region(self) -> Region:
        """The loops around it."""
        return self.nodes[0].region


class _Uses:
    """Who reads each tensor, and the order of the nodes."""

    def __init__(self, graph: Graph) -> None:
        self.order = {id(node): i for i, node in enumerate(graph.nodes)}
        self.readers: dict[int, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            for root in {id(v.root): v.root for v in node.activations}.values():
                self.readers[id(root)].append(node)

    def of(self, tensor: Value) -> list[Node]:
        """The nodes that read `tensor`, in order."""
        return self.readers[id(tensor)]


class _Growth:
    """One region that grows from `entry`; `taken` are nodes that already belong to a fused group."""

    def __init__(self, entry: Value, uses: _Uses, taken: set[int], kinds: frozenset[str], region: Region) -> None:
        self.entry, self.uses, self.taken, self.kinds, self.region = entry, uses, taken, kinds, region
        self.nodes: dict[int, Node] = {}
        self.inside: dict[int, Value] = {id(entry): entry}

    def grow(self, seeds: Sequence[Node]) -> list[Node]:
        """The largest region that starts with the seeds and leaves one open tensor of the entry's size, in order.

        Empty if there is none, or if the seeds cannot be fused.
        """
        closed: list[Node] = []
        if not all(self._absorb(node) for node in seeds):
            return closed
        while len(self.nodes) <= REGION_LIMIT:
            open_tensors = [t for t in self.inside.values() if t is not self.entry and self._open(t)]
            if len(open_tensors) == 1 and open_tensors[0].size == self.entry.size:
                closed = list(self.nodes.values())
            waiting = [n for t in open_tensors for n in self.uses.of(t) if id(n) not in self.nodes]
            if not waiting or not self._absorb(min(waiting, key=lambda n: self.uses.order[id(n)])):
                break
        return sorted(closed, key=lambda n: self.uses.order[id(n)])

    def _open(self, tensor: Value) -> bool:
        return tensor.escapes or any(id(n) not in self.nodes for n in self.uses.of(tensor))

    def _absorb(self, node: Node, depth: int = 0) -> bool:
        """Take `node` and what its operands need, back to the entry; False if something there cannot be fused."""
        if id(node) in self.nodes:
            return True
        if node.primitive not in self.kinds or id(node) in self.taken or node.region != self.region:
            return False
        if len(node.results) != 1 or len(self.nodes) + depth > REGION_LIMIT:
            return False
        for value in node.activations:
            producer = value.root.producer
            if id(value.root) not in self.inside and (producer is None or not self._absorb(producer, depth + 1)):
                return False
        self.nodes[id(node)] = node
        self.inside[id(node.results[0])] = node.results[0]
        return True


def group(graph: Graph, *, fuse: bool) -> list[Group]:
    """The operations of a graph in order of execution; without `fuse` every primitive is one."""
    if not fuse:
        return [Group([node]) for node in graph.nodes]
    uses = _Uses(graph)
    owner: dict[int, Group] = {}
    for node in graph.nodes:
        if node.primitive in REDUCTIONS and id(node) not in owner:
            _normalisation(node, uses, owner)
    for node in graph.nodes:
        own = owner.setdefault(id(node), Group([node]))
        if own.nodes[0] is node:
            _chain(own, uses, owner)
            _epilogues(own, uses, owner)
    return list({id(owner[id(node)]): owner[id(node)] for node in graph.nodes}.values())


def _normalisation(reduction: Node, uses: _Uses, owner: dict[int, Group]) -> None:
    if len(reduction.activations) == 1:
        entry = reduction.activations[0].root
        members = _Growth(entry, uses, set(owner), ELEMENTWISE | REDUCTIONS, reduction.region).grow([reduction])
        if len(members) > 1:
            _claim(Group(members, normalisation=True), members, owner)


def _chain(own: Group, uses: _Uses, owner: dict[int, Group]) -> None:
    """Elementwise work on one tensor that cannot be an epilogue, because something else needs that tensor too."""
    first = own.nodes[0]
    roots = {id(v.root): v.root for v in first.activations}
    if len(own.nodes) == len(roots) == 1 and first.primitive in ELEMENTWISE:
        taken = {key for key, value in owner.items() if value is not own}
        members = _Growth(next(iter(roots.values())), uses, taken, ELEMENTWISE, own.region).grow([first])
        if members and members[0] is first:
            own.nodes = members
            _claim(own, members, owner)


def _epilogues(own: Group, uses: _Uses, owner: dict[int, Group]) -> None:
    result = _result(own, uses)
    if result is None or result.escapes or not uses.of(result):
        return
    kinds = ELEMENTWISE | {"transpose"} if any(n.primitive in PRODUCTS for n in own.nodes) else ELEMENTWISE
    extra = _Growth(result, uses, set(owner), kinds, own.region).grow(uses.of(result))
    own.nodes = own.nodes + extra
    _claim(own, extra, owner)


def _claim(own: Group, nodes: Sequence[Node], owner: dict[int, Group]) -> None:
    owner.update((id(n), own) for n in nodes)


def _result(own: Group, uses: _Uses) -> Value | None:
    """The one tensor that leaves the group, or None if there are several."""
    members = {id(n) for n in own.nodes}
    leaving = [v for n in own.nodes for v in n.results if v.escapes or any(id(r) not in members for r in uses.of(v))]
    return leaving[0] if len(leaving) == 1 and leaving[0].producer and len(leaving[0].producer.results) == 1 else None
