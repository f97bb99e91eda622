"""Energy and latency of a layer on an accelerator of the Gemmini kind, from the accesses of its mapping.

Levels: registers (weights, one per cell), accumulators (outputs, a bank per column), scratchpad (weights and inputs), memory.

    E = MACs e_mac + sum over levels of accesses x energy per access
    e_accumulator = base + slope KiB / columns,   e_scratchpad = base + slope KiB
    cycles = max( MACs / cells in use,  accumulator / (2 K_spatial),  scratchpad / (2 side),  memory / words per cycle )

The coefficients are DOSA's, fitted to Accelergy's 40 nm tables: predictions of Timeloop + Accelergy, not of silicon. Against
Gemmini's RTL such cycles are a lower bound (measured 1.43 times as long in the median, p10 to p90 1.05 to 2.36, by DOSA's data).
Writing 32-bit sums to memory costs a word as any other, as there. Whether a mapping fits is a field of the result, not an error.
Non-smooth points: the maximum (by policy), and those of the access counts.

Source: Hong et al., DOSA, MICRO 2023, github.com/ucb-bar/dosa (energy_model.py, latency_model.py).
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from costmodel import relax
from costmodel.mapping.loop_nests.accesses import WINDOWS, K, LoopAccesses, Stride, count_loop_accesses, product
from costmodel.mapping.loop_nests.mappings import LoopMapping
from costmodel.relax import HARD, Relaxation
from physics import ParameterTree, param
from physics.params import unknown_name

Scalar = Float[Array, ""]
DOSA = "DOSA, Hong et al., MICRO 2023"
GEMMINI = "Gemmini, Genc et al., DAC 2021: default configuration"
KEEPS = ("W", "O", "WI", "WIO")


class LoopNeeds(NamedTuple):
    """The smallest accelerator that a mapping runs on."""

    side: Scalar  # rows or columns of the array, the larger
    accumulator: Scalar  # B
    scratchpad: Scalar  # B


class LoopCost(NamedTuple):
    """Cost of one layer under one mapping."""

    latency: Scalar  # s
    energy: Scalar  # J
    cycles: Scalar
    bound: Int[Array, ""]  # 0: the array; 1, 2, 3: accumulators, scratchpad, memory
    utilization: Scalar  # of the array's peak
    excess: Scalar  # the most needed of anything over what there is; the mapping fits up to 1
    needs: LoopNeeds
    accesses: LoopAccesses


class LoopAccelerator(ParameterTree):
    """An array of side x side cells with registers, accumulators, a scratchpad and a memory."""

    side: Scalar = param(16.0, unit="1", lo=1, hi=4096, log=True, source=GEMMINI)
    accumulator: Scalar = param(65_536.0, unit="B", lo=64, hi=1e9, log=True, source=GEMMINI)
    scratchpad: Scalar = param(262_144.0, unit="B", lo=64, hi=1e10, log=True, source=GEMMINI)
    clock: Scalar = param(1e9, unit="Hz", lo=1e3, hi=1e11, log=True, source=GEMMINI)
    memory_words: Scalar = param(8.0, unit="1/cycle", lo=1e-3, hi=1e6, log=True, source=DOSA)
    operand_bytes: Scalar = param(1.0, unit="B", lo=0.125, hi=8, source=GEMMINI)
    sum_bytes: Scalar = param(4.0, unit="B", lo=0.125, hi=8, source=GEMMINI)
    energy_mac: Scalar = param(0.5608e-12, unit="J", lo=0.0, hi=1e-6, log=True, source=DOSA)
    energy_register: Scalar = param(0.48746172e-12, unit="J", lo=0.0, hi=1e-6, log=True, source=DOSA)
    energy_accumulator: Scalar = param(1.94e-12, unit="J", lo=0.0, hi=1e-6, log=True, source=DOSA)
    slope_accumulator: Scalar = param(0.1005e-12, unit="J/KiB", lo=0.0, hi=1e-6, log=True, source=DOSA + ": KiB per column")
    energy_scratchpad: Scalar = param(0.49e-12, unit="J", lo=0.0, hi=1e-6, log=True, source=DOSA)
    slope_scratchpad: Scalar = param(0.02513e-12, unit="J/KiB", lo=0.0, hi=1e-6, log=True, source=DOSA)
    energy_memory: Scalar = param(100e-12, unit="J", lo=0.0, hi=1e-6, log=True, source=DOSA)
    windows: str = eqx.field(static=True, default="neighbour")

    def __check_init__(self) -> None:
        if self.windows not in WINDOWS:
            raise ValueError(unknown_name("windows", self.windows, WINDOWS))

    def access_energies(self) -> Float[Array, " levels"]:
        """Energy (J) of one access of every level, the innermost first."""
        accumulator = self.energy_accumulator + self.slope_accumulator * self.accumulator / 1024 / self.side
        scratchpad = self.energy_scratchpad + self.slope_scratchpad * self.scratchpad / 1024
        return jnp.stack([self.energy_register, accumulator, scratchpad, self.energy_memory])

    def cost(self, mapping: LoopMapping, stride: Stride = (1, 1), relaxation: Relaxation = HARD) -> LoopCost:
        """Cost of the layer that `mapping` (four levels) tiles; differentiable in the factors and the parameters."""
        accesses = count_loop_accesses(mapping, KEEPS, stride, self.windows)
        spatial, total = jnp.asarray(mapping.spatial, float), accesses.total
        cells = product(spatial)
        columns = spatial[2, K]
        times = jnp.stack(
            [accesses.macs / cells, total[1] / (2 * columns), total[2] / (2 * self.side), total[3] / self.memory_words]
        )
        cycles = relax.maximum(*times, policy=relaxation)
        needs = self.needs(mapping, accesses)
        return LoopCost(
            latency=cycles / self.clock,
            energy=accesses.macs * self.energy_mac + jnp.sum(total * self.access_energies()),
            cycles=cycles,
            bound=jnp.argmax(times),
            utilization=accesses.macs / (cycles * self.side**2),
            excess=jnp.max(
                jnp.stack([needs.side / self.side, needs.accumulator / self.accumulator, needs.scratchpad / self.scratchpad])
            ),
            needs=needs,
            accesses=accesses,
        )

    def needs(self, mapping: LoopMapping, accesses: LoopAccesses) -> LoopNeeds:
        """What the mapping takes up: the array's sides by its spatial loops, the buffers by its tiles."""
        spatial = jnp.asarray(mapping.spatial, float)
        rows = product(spatial[:2]) * product(spatial[3])
        columns = product(spatial[2])
        sums = accesses.tiles[1, 2] * product(spatial[2:]) * self.sum_bytes
        operands = (accesses.tiles[2, 0] + accesses.tiles[2, 1]) * self.operand_bytes
        return LoopNeeds(jnp.maximum(rows, columns), sums, operands)
