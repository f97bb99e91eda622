"""What each layer of a network waits for, place by place: the graph that cross-layer schedules are computed on.

A value of the network becomes a *map*: the time at which each of its places (rows x columns; channels share one time) is
ready. Base layers (convolutions, products with constant weights) run on crossbars; everything between them runs beside and
only says which places are needed:

    padding                        ready at 0                 pooling, strides, kernels      maximum of a window
    activation, bias, reshape      the same map               sum, concatenation             maximum of the operands
    upsampling                     repeats                    slice of rows or columns       a part; of channels: the same map
    mean over the image, flatten   maximum of the whole map   attention, normalisation over the image: likewise

Anything else that mixes places (sorting, gathering, reversing) waits for all of its operand: never too early.
Source of the rules: CLSA-CIM, Pelke et al., DATE 2024 (base and non-base layers).
"""

import dataclasses
import math
from typing import NamedTuple

DIRECTIONS = ("vertical", "horizontal", "interleaved")  # how copies share a layer, see `schedule`
INPUT = -1  # the network's own input: all of it is ready at 0


class Axis(NamedTuple):
    """How the places of one axis are read: `repeat` each, put `spread` apart, pad, then `kernel` taps for each output."""

    size: int  # outputs
    kernel: int = 1
    stride: int = 1
    low: int = 0
    high: int = 0
    dilation: int = 1
    spread: int = 1
    repeat: int = 1

    @property
    def trivial(self) -> bool:
        """Whether outputs are inputs."""
        return self[1:] == Axis(0)[1:]

    def taps(self, output: int, inputs: int) -> list[int]:
        """The inputs (of `inputs` in all) that an output reads; padding is left out."""
        places = (output * self.stride + tap * self.dilation - self.low for tap in range(self.kernel))
        inside = [p for p in places if 0 <= p <= (inputs * self.repeat - 1) * self.spread and p % self.spread == 0]
        return [p // self.spread // self.repeat for p in inside]


@dataclasses.dataclass(frozen=True)
class Layer:
    """A base layer: every output place takes `repeat` matrix-vector products, each with K inputs and N outputs per group."""

    name: str
    source: int
    rows: int
    columns: int
    k: int
    n: int
    groups: int = 1
    repeat: int = 1

    @property
    def sources(self) -> tuple[int, ...]:
        """The map it reads."""
        return (self.source,)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of its output."""
        return self.rows, self.columns

    @property
    def cycles(self) -> int:
        """Matrix-vector products, one after the other, without duplication."""
        return self.rows * self.columns * self.repeat


@dataclasses.dataclass(frozen=True)
class Window:
    """Every place waits for a window of places of one map."""

    source: int
    row: Axis
    column: Axis

    @property
    def sources(self) -> tuple[int, ...]:
        """The map it reads."""
        return (self.source,)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.row.size, self.column.size


@dataclasses.dataclass(frozen=True)
class Merge:
    """Every place waits for the same place of several maps; an axis of size 1 goes with any other."""

    sources: tuple[int, ...]
    size: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Join:
    """Maps one after the other along an axis (0: rows, 1: columns)."""

    sources: tuple[int, ...]
    axis: int
    size: tuple[int, int]


Step = Layer | Window | Merge | Join


@dataclasses.dataclass(frozen=True)
class LayerGraph:
    """Base layers and what lies between them, in an order in which every step comes after its sources. Hashable.

    Raises ValueError for a graph without a base layer, a source that comes later (a cycle) and a layer without places.
    """

    name: str
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError(f"{self.name}: no layer with constant weights, at least 1 is needed; there is nothing to map")
        for index, step in enumerate(self.steps):
            name = step.name if isinstance(step, Layer) else f"step {index} ({type(step).__name__.lower()})"
            if late := [s for s in step.sources if not INPUT <= s < index]:
                raise ValueError(f"{self.name}: {name} reads step {late[0]}, which is not before it: the graph has a cycle")
            if min(step.size) < 1:
                raise ValueError(f"{self.name}: {name} has {step.size[0]} x {step.size[1]} places, at least 1 x 1 are needed")
        if repeated := {n for n in self.names if self.names.count(n) > 1}:
            raise ValueError(f"{self.name}: layer name {min(repeated)!r} occurs twice")

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The base layers, in order."""
        return tuple(step for step in self.steps if isinstance(step, Layer))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the base layers, in order."""
        return tuple(layer.name for layer in self.layers)

    @property
    def cycles(self) -> tuple[int, ...]:
        """Matrix-vector products of every base layer."""
        return tuple(layer.cycles for layer in self.layers)

    def crossbars(self, rows: int = 256, columns: int = 256) -> tuple[int, ...]:
        """Crossbars that hold the weights of every base layer once, one weight per cell.

        ceil(K / rows) ceil(N / columns) for each group; small groups share a crossbar block-diagonally.
        Raises ValueError for a crossbar outside 1 to 65536 rows or columns.
        """
        for name, value in (("rows", rows), ("columns", columns)):
            if not 1 <= value <= 65536:
                raise ValueError(f"crossbar {name} = {value} is outside its range [1, 65536]")
        return tuple(_crossbars(layer, rows, columns) for layer in self.layers)


def _crossbars(layer: Layer, rows: int, columns: int) -> int:
    sharing = min(max(1, min(rows // layer.k, columns // layer.n)), layer.groups)
    return math.ceil(layer.groups / sharing) * -(-layer.k // rows) * -(-layer.n // columns)
