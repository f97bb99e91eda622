"""Memories of a tiled accelerator and what moves data between them: named targets with sources.

A transfer of b bytes in c commands takes  c t_setup + b / bandwidth  cycles of the core clock. A command moves one run of
contiguous bytes, or a rectangle of such runs (`dimensions` 2), and at most `longest` bytes: more take more commands.
A kernel on one tile takes  call + macs / mac_rate + operations / operation_rate  cycles; double buffering adds
`loop` cycles to each tile but the only one of an operation that is not split.

Levels run from the innermost (L1, where kernels work) outwards; `links[i]` is between level i and level i + 1.
Times are in cycles of the cluster clock, as everything published about these chips is; divide by `frequency` for seconds.

Sources: DORY (pulp-platform/dory, HW_description), Deeploy (pulp-platform/Deeploy tutorial and PR 138), TrainDeeploy's memory
annotation pass for L3 (200 cycles + 4 B/cycle, assumed there too, not measured).
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from physics import ParameterTree, param
from physics.params import unknown_name

DORY = "pulp-platform/dory HW_description"
DEEPLOY = "pulp-platform/Deeploy tutorial, PR 138"
TRAIN = "runwangdl/TrainDeeploy, memory level annotation (assumed there)"


class Level(ParameterTree):
    """One memory."""

    size: Float[Array, ""] = param(65_536.0, unit="B", lo=64.0, hi=1e13, log=True, source="assumed: 64 KiB")
    name: str = eqx.field(static=True, default="L1")


class Dma(ParameterTree):
    """What moves data between two neighbouring levels; `shared`: one channel for both directions."""

    setup: Float[Array, ""] = param(50.0, unit="cycle", lo=0.0, hi=1e6, source=DEEPLOY + ": small transfers take 49-56")
    bandwidth: Float[Array, ""] = param(8.0, unit="B/cycle", lo=1e-6, hi=1e6, log=True, source=DORY)
    shared: bool = eqx.field(static=True, default=False)
    longest: int = eqx.field(static=True, default=131_072)  # B of one command: mchan has 17 bits for it
    dimensions: int = eqx.field(static=True, default=2)  # of a command: 1 (runs) or 2 (rectangles)

    def __check_init__(self) -> None:
        if self.longest < 1 or self.dimensions not in (1, 2):
            raise ValueError(
                f"Dma.longest = {self.longest} B or Dma.dimensions = {self.dimensions} is outside its range: at least 1 B, 1 or 2"
            )

    def time(self, commands: Num[Array, "..."] | float, size: Num[Array, "..."] | float) -> Float[Array, "..."]:
        """Cycles of moving `size` bytes in `commands` commands (any shapes that broadcast); nothing takes no time."""
        return commands * self.setup + jnp.asarray(size, float) / self.bandwidth


class Kernels(ParameterTree):
    """How fast the cores work on a tile that is in the innermost memory."""

    mac_rate: Float[Array, ""] = param(
        1.507, unit="MAC/cycle", lo=1e-3, hi=1e6, log=True, source="Deeploy PR 138: FP32 GEMM, 68,608 operations in 22,768 cycles"
    )
    depthwise_rate: Float[Array, ""] = param(
        0.5, unit="MAC/cycle", lo=1e-3, hi=1e6, log=True, source="assumed: a third of the GEMM, no operand is used twice"
    )
    operation_rate: Float[Array, ""] = param(
        0.7,
        unit="1/cycle",
        lo=1e-3,
        hi=1e6,
        log=True,
        source="derived from the tutorial: 11.2 cycles per element and core, 8 cores",
    )
    call: Float[Array, ""] = param(100.0, unit="cycle", lo=0.0, hi=1e6, source="assumed: fork and join of 8 cores")
    loop: Float[Array, ""] = param(
        275.0, unit="cycle", lo=0.0, hi=1e6, source="Deeploy PR 138: 200 before and 75 after each tile"
    )


class Hierarchy(ParameterTree):
    """Memories from the innermost outwards, the links between neighbours, and the kernels that work in the first."""

    levels: tuple[Level, ...]
    links: tuple[Dma, ...]
    kernels: Kernels
    frequency: Float[Array, ""] = param(370e6, unit="Hz", lo=1e3, hi=1e11, log=True, source="assumed: GAP9's highest, 370 MHz")
    name: str = eqx.field(static=True, default="custom")

    def __check_init__(self) -> None:
        if len(self.levels) < 2 or len(self.links) != len(self.levels) - 1:
            raise ValueError(
                f"Hierarchy.links = {len(self.links)} for {len(self.levels)} levels; it takes at least 2, and a link between each"
            )


def _target(name: str, l1: float, l2: float, l3: float, *, shared: bool = False, frequency: float = 370e6) -> Hierarchy:
    inner = Dma(shared=shared)
    outer = Dma(setup=200.0, bandwidth=4.0, shared=True, longest=2**31 - 1)
    levels = (Level(l1, "L1"), Level(l2, "L2"), Level(l3, "L3"))
    return Hierarchy(levels=levels, links=(inner, outer), kernels=Kernels(), frequency=frequency, name=name)


TARGETS: dict[str, Any] = {
    # L1, L2, L3 in bytes; L3 of the tests: Deeploy's 64,000,000 B
    "siracusa": lambda: _target("siracusa", 262_144, 2_097_152, 16_777_216, frequency=360e6),
    "gap9": lambda: _target("gap9", 131_072, 1_572_864, 64_000_000),
    "gap8": lambda: _target("gap8", 65_536, 524_288, 8_388_608, frequency=175e6),
    "deeploy-test": lambda: _target("deeploy-test", 64_000, 1_024_000, 64_000_000),
}


def list_hierarchies() -> tuple[str, ...]:
    """Names of the memory hierarchies that `load_hierarchy` knows."""
    return tuple(TARGETS)


def load_hierarchy(name: str, **sizes: float) -> Hierarchy:
    """The memory hierarchy called `name`; `l1`, `l2`, `l3` (B) replace the sizes of its levels.

    Raises ValueError for an unknown name or level, and for a size outside its range.
    """
    if name not in TARGETS:
        raise ValueError(unknown_name("memory hierarchy", name, TARGETS))
    found: Hierarchy = TARGETS[name]()
    known = {level.name.lower(): i for i, level in enumerate(found.levels)}
    for label, size in sizes.items():
        if label not in known:
            raise ValueError(unknown_name("memory level", label, known))
        level = Level(size, found.levels[known[label]].name)
        found = eqx.tree_at(lambda h, i=known[label]: h.levels[i], found, level)
    return found
