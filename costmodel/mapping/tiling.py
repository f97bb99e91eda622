"""Tiling and double buffering: a program in a small memory, operation by operation, and what hiding the transfers is worth.

Every operation is cut into tiles that fit into L1, moved there from where its tensors live (`home`: L2, or L3 through L2),
computed and moved back; nothing overlaps between operations. Double buffering hides transfers behind kernels but needs two
buffers of everything, so it works with about half the memory, smaller tiles, and more traffic: a plan is compared with the plan
of the other kind in the same memory, SB(C) with DB(C / 2), never at the same tiling. One tile gains exactly 0.

With home L3 an operation is first cut into tiles for L2, then each of these into tiles for L1: the inner pipeline is the kernel
of the outer one. The outer tile is chosen first, as if the inner one cost nothing but its computing. Tensors that are promoted
live in L2 and skip the outer hop.

What is modelled of Deeploy: transfers of every operand for every tile (nothing stays because the next tile needs it too),
reductions uncut, its rules for training (`rules`), one fused operation at a time. What is not: its CP solver's ties and
random permutations, contention between the cores and the DMA, alignment of kernels to unrolled sizes.

Parts: `tiles.levels` (memories, DMA), `tiles.constraints` (what a tile needs), `tiles.pipelines` (recurrences),
`tiles.scores` (cycles of a tiling), `tiles.choices` (which tile), `tiles.rules` (Deeploy), `tiles.promotion`, `tiles.timeline`.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from costmodel.mapping.tiles.choices import RULES
from costmodel.mapping.tiles.constraints import nest_arrays, packing_peak, tensor_cycles
from costmodel.mapping.tiles.levels import Hierarchy
from costmodel.mapping.tiles.plans import OperatorPlan, Planner, program_shape
from costmodel.mapping.tiles.promotion import Promotion, promote, saved_cycles
from costmodel.mapping.tiles.rules import Buffers
from physics.params import unknown_name
from workloads.nests import Program

HOMES = ("L2", "L3")
MOST = 1 << 15  # tilings of one operation that are tried when a whole program is planned


class TilingPlan(NamedTuple):
    """A program's plan: its operations, the sum of their cycles, and the settings it was made with."""

    name: str
    operators: tuple[OperatorPlan, ...]
    cycles: float
    buffering: str
    rule: str
    home: str
    peak: int  # B that the program's tensors take where they live, with nothing tiled

    def tile_counts(self) -> dict[int, int]:
        """How many operations have how many tiles in L1 (over all L2 tiles)."""
        return dict(sorted(Counter(o.inner.tiles * (o.outer.tiles if o.outer else 1) for o in self.operators).items()))


class BufferingGain(NamedTuple):
    """Two plans of one program in the same memory, and what the second saves of the first (fraction)."""

    single: TilingPlan
    double: TilingPlan
    gain: float


def plan_tiling(
    program: Program,
    hierarchy: Hierarchy,
    *,
    buffering: str = "training",
    rule: str = "exhaustive",
    home: str = "L2",
    opt_out: str = "pr22",
    outer_only: bool | None = None,
    promoted: Collection[int] = (),
    reserved: float = 0.0,
    most: int = MOST,
) -> TilingPlan:
    """Tiles and times of every operation of `program`.

    `buffering` is "single", "double" or "training" with the set `opt_out` (see `tiles.rules`); `outer_only` (default: training
    from L3) doubles nothing but the outer hop. `rule` is one of `tiles.choices`. `promoted` tensors (positions) live in L2,
    `reserved` bytes of L2 for what is not in the program (stacks, code). At most `most` tilings of an operation are tried.
    Raises ValueError for an unknown setting, a hierarchy without L3, or an operation of which not even one iteration fits.
    """
    if home not in HOMES:
        raise ValueError(unknown_name("home", home, HOMES))
    if home == "L3" and len(hierarchy.levels) < 3:
        raise ValueError(f"home = 'L3' needs three memory levels; {hierarchy.name} has {len(hierarchy.levels)}")
    only = buffering == "training" and home == "L3" if outer_only is None else outer_only
    planner = Planner(program, hierarchy, buffering, rule, home == "L3", opt_out, only, frozenset(promoted), reserved, most)
    operators = tuple(planner.operator(row) for row in range(len(program.nests)))
    total = float(np.sum([o.cycles for o in operators]))
    return TilingPlan(program.name, operators, total, buffering, rule, home, program_peak(program))


def compare_buffering(program: Program, hierarchy: Hierarchy, *, buffering: str = "training", **settings) -> BufferingGain:
    """Single buffering in all of the memory against `buffering` in the same memory; settings as for `plan_tiling`.

    Both plans have all settings in common, promoted tensors too, so the gain is that of the buffering alone.
    """
    single = plan_tiling(program, hierarchy, buffering="single", **settings)
    double = plan_tiling(program, hierarchy, buffering=buffering, **settings)
    return BufferingGain(single, double, 1.0 - double.cycles / single.cycles)


def compare_rules(program: Program, hierarchy: Hierarchy, *, rules: Sequence[str] = RULES, **settings) -> dict[str, TilingPlan]:
    """The plans of a program by each of the tile rules, to be read side by side; settings as for `plan_tiling`."""
    return {rule: plan_tiling(program, hierarchy, **{**settings, "rule": rule}) for rule in rules}


def program_peak(program: Program) -> int:
    """Bytes that the tensors of a program take at most, alive together; in-place results cost nothing of their own."""
    own = [t for t in program.tensors if t.alias is None]
    return packing_peak([t.bytes for t in own], [t.first for t in own], [t.last for t in own])


def promotion_benefits(program: Program, hierarchy: Hierarchy, plan: TilingPlan | None = None) -> tuple[float, ...]:
    """Cycles that each tensor of a program costs on the link between L3 and L2.

    With a `plan` from L3, each operation moves the parts of its operands that its outer tiles need, as often as they
    do (trip counts);
    without one, each access moves the whole tensor once, as the published estimate has it.
    """
    link, benefit, shape = hierarchy.links[1], np.zeros(len(program.tensors)), program_shape(program)
    setup, bandwidth = float(link.setup), float(link.bandwidth)
    for row, nest in enumerate(program.nests):
        outer = plan.operators[row].outer if plan is not None else None
        if outer is None:
            cycles = [saved_cycles(program.tensors[a.tensor].bytes, 1, setup, bandwidth) for a in nest.accesses]
        else:
            arrays = nest_arrays(nest, program.tensors, Buffers((1,) * len(nest.accesses), False), shape=shape)
            tile = jnp.asarray([*outer.tile, *[1] * (shape[2] - len(outer.tile))], float)
            cycles = np.asarray(tensor_cycles(arrays, tile, link, hierarchy.kernels))[: len(nest.accesses)]
        for access, saved in zip(nest.accesses, cycles, strict=True):
            benefit[access.tensor] += nest.repeat * saved
    return tuple(map(float, benefit))


def promote_tensors(
    program: Program,
    hierarchy: Hierarchy,
    plan: TilingPlan | None = None,
    *,
    method: str = "greedy",
    headroom: float = 131_072.0,
) -> Promotion:
    """Tensors of a program worth keeping in L2, which leaves `headroom` bytes of it for tiles.

    Benefits as in `promotion_benefits`. A tensor updated in place counts with the storage it takes. Raises ValueError for an
    unknown method, or a headroom beyond the level.
    """
    size = float(hierarchy.levels[1].size)
    if not 0.0 <= headroom <= size:
        raise ValueError(f"headroom = {headroom:,.0f} B is outside its range [0, {size:,.0f}] B")
    benefit = np.asarray(promotion_benefits(program, hierarchy, plan))
    owners = [i if t.alias is None else t.alias for i, t in enumerate(program.tensors)]
    merged, last = np.zeros(len(owners)), np.zeros(len(owners), int)
    for i, owner in enumerate(owners):
        merged[owner] += benefit[i]
        last[owner] = max(last[owner], program.tensors[i].last)
    own = [i for i, owner in enumerate(owners) if i == owner]
    t = program.tensors
    found = promote(
        [t[i].bytes for i in own], merged[own].tolist(), [t[i].first for i in own], last[own].tolist(), size - headroom, method
    )
    kept = {own[k] for k in found.kept}
    return found._replace(kept=tuple(i for i, owner in enumerate(owners) if owner in kept))
