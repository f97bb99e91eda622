"""The plan of one operation: its tile at each hop, and where the time goes."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from costmodel.mapping.tiles.choices import choose_tile
from costmodel.mapping.tiles.constraints import ALIGNMENT, Nest, check_fits, inside, nest_arrays
from costmodel.mapping.tiles.levels import Dma, Hierarchy
from costmodel.mapping.tiles.pipelines import Split, Stages, split
from costmodel.mapping.tiles.rules import Buffers, buffers
from costmodel.mapping.tiles.scores import Exact, exact_stages, tile_grid
from workloads.nests import LoopNest, Program

_inside, _split = jax.jit(inside), jax.jit(split)


class Hop(NamedTuple):
    """One operation over one link: its tile, how many there are, and where the time goes (cycles)."""

    tile: tuple[int, ...]
    tiles: int
    double: bool
    cycles: float
    load: float
    kernel: float
    store: float
    split: Split
    use: float  # B of the inner level
    stages: Stages

    @property
    def waits(self) -> str:
        """Which side waits between the first and the last kernel: the core (for loads or stores), the DMA, or neither."""
        waited = float(self.split.wait_load), float(self.split.wait_store)
        if self.tiles == 1:
            return "nothing overlaps"
        if max(waited) <= 1e-6 * self.cycles:
            return "DMA waits for core"
        return f"core waits for {'load' if waited[0] >= waited[1] else 'store'}"


class OperatorPlan(NamedTuple):
    """One operation: its hop into L1 (of one full L2 tile, if it has two hops) and, from L3, its hop into L2. Times in cycles."""

    name: str
    operator: str
    phase: str
    cycles: float  # all of it, repetitions included
    inner: Hop
    outer: Hop | None
    reason: str  # why it is not double-buffered, though others are

    @property
    def tiles(self) -> int:
        """Tiles of the hop into L1 (within a full tile of the outer hop)."""
        return self.inner.tiles


class Planner:
    """Plans the operations of one program, equal ones once; settings as for `plan_tiling`."""

    def __init__(
        self,
        program: Program,
        hierarchy: Hierarchy,
        buffering: str,
        rule: str,
        outer: bool,
        opt_out: str,
        outer_only: bool,
        promoted: frozenset[int],
        reserved: float,
        most: int,
    ) -> None:
        self.program, self.hierarchy, self.buffering, self.rule = program, hierarchy, buffering, rule
        self.outer, self.opt_out, self.outer_only, self.promoted, self.most = outer, opt_out, outer_only, promoted, most
        self.shape = program_shape(program)
        self.room = float(hierarchy.levels[1].size) - reserved - _profile(program, promoted)
        self.known: dict[object, OperatorPlan] = {}

    def operator(self, row: int) -> OperatorPlan:
        """The plan of one row; ValueError if not even one iteration of it fits."""
        nest, tensors = self.program.nests[row], self.program.tensors
        hops = [
            buffers(nest, tensors, self.buffering, opt_out=self.opt_out, outer=outer, outer_only=self.outer_only)
            for outer in (False, True)
        ]
        moved = tuple(a.tensor not in self.promoted for a in nest.accesses)
        what = tuple((a.axes, a.write, tensors[a.tensor].bits) for a in nest.accesses)
        work = nest.extents, nest.macs, nest.operations, nest.depthwise, nest.repeat
        key = (what, work, tuple(hops), moved, float(self.room[row]) if self.outer else 0.0)
        if key not in self.known:
            self.known[key] = self._plan(row, nest, hops, moved)
        return self.known[key]._replace(name=nest.name, operator=nest.operator, phase=nest.phase)

    def _plan(self, row: int, nest: LoopNest, hops: list[Buffers], moved: Sequence[bool]) -> OperatorPlan:
        h, tensors = self.hierarchy, self.program.tensors
        arrays = nest_arrays(nest, tensors, hops[0], shape=self.shape)
        check_fits(nest, tensors, arrays, float(h.levels[0].size), h.levels[0].name)
        if not self.outer:
            hop, _ = self._hop(arrays, h.links[0], float(h.levels[0].size), hops[0].double)
            return _named(nest, hop, None, hops[0].reason)
        kept = hops[1]._replace(coefficients=tuple(c * m for c, m in zip(hops[1].coefficients, moved, strict=True)))
        outside = nest_arrays(nest, tensors, kept, moved=moved, shape=self.shape)
        room = float(self.room[row])
        check_fits(nest, tensors, outside, room, f"what is free of {h.levels[1].name}")
        choice = choose_tile(outside, h.links[1], h.kernels, room, double=hops[1].double, rule=self.rule, most=self.most)
        inner, tile = self._hop(
            _inside(arrays, np.asarray(choice.tile, float)), h.links[0], float(h.levels[0].size), hops[0].double
        )
        kernels = self._inner_cycles(arrays, outside, choice.tile, tile, hops[0].double)
        exact = exact_stages(outside, np.asarray(choice.tile), h.links[1], h.kernels, double=hops[1].double, inner=kernels)
        use = choice.use
        return _named(nest, inner, summary(exact, choice.tile, hops[1].double, use), hops[1].reason)

    def _hop(self, arrays: Nest, link: Dma, room: float, double: bool) -> tuple[Hop, tuple[int, ...]]:
        kernels = self.hierarchy.kernels
        choice = choose_tile(arrays, link, kernels, room, double=double, rule=self.rule, most=self.most)
        exact = exact_stages(arrays, np.asarray(choice.tile), link, kernels, double=double)
        return summary(exact, choice.tile, double, choice.use), choice.tile

    def _inner_cycles(
        self, arrays: Nest, outside: Nest, outer: tuple[int, ...], inner: tuple[int, ...], double: bool
    ) -> np.ndarray:
        """Cycles (outer tiles,) of the pipeline within each outer tile; those of equal sizes once."""
        h = self.hierarchy
        grid = tile_grid(np.asarray(outside.extents), np.asarray(outer))
        sizes, which = np.unique(grid, axis=0, return_inverse=True)
        totals = [
            exact_stages(
                _inside(arrays, size.astype(float)), np.minimum(inner, size), h.links[0], h.kernels, double=double
            ).stages.total
            for size in sizes
        ]
        return np.asarray(totals, float)[which.ravel()]


def summary(exact: Exact, tile: tuple[int, ...], double: bool, use: float) -> Hop:
    """The hop that an exact pipeline makes."""
    s = exact.stages
    load, kernel, store = (
        float(np.sum(np.asarray(end) - np.asarray(start)))
        for start, end in ((s.load_start, s.load_end), (s.kernel_start, s.kernel_end), (s.store_start, s.store_end))
    )
    return Hop(tile, len(exact.sizes), double, float(s.total), load, kernel, store, _split(s, exact.mask), use, s)


def _named(nest: LoopNest, inner: Hop, outer: Hop | None, reason: str) -> OperatorPlan:
    loops = len(nest.extents)
    hops = [hop and hop._replace(tile=hop.tile[:loops]) for hop in (inner, outer)]
    assert hops[0] is not None
    cycles = nest.repeat * (outer or inner).cycles
    return OperatorPlan(nest.name, nest.operator, nest.phase, cycles, hops[0], hops[1], reason)


def _profile(program: Program, promoted: frozenset[int]) -> np.ndarray:
    """Bytes (rows,) that promoted tensors take while each operation runs; what is in place takes nothing of its own."""
    profile = np.zeros(len(program.nests))
    for i in promoted:
        tensor = program.tensors[i]
        if tensor.alias is None:
            last = max([tensor.last, *(program.tensors[j].last for j in promoted if program.tensors[j].alias == i)])
            profile[tensor.first : last + 1] += ALIGNMENT * np.ceil(tensor.bytes / ALIGNMENT)
    return profile


def program_shape(program: Program) -> tuple[int, int, int]:
    """(tensors, axes, loops) that the arrays of all nests of a program are padded to."""
    accesses = [len(n.accesses) for n in program.nests]
    axes, loops = [len(a.axes) for n in program.nests for a in n.accesses], [len(n.extents) for n in program.nests]
    return max(accesses), max(axes), max(loops)
