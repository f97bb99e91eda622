"""Weights kept in memory cells: which networks are resident, how much of them is lost, how much life is used up.

    ln H  grows by retention loss, dt / tau(T), and by read disturb, reads x rate(T); writing sets H to 0
    life  is consumed by writing: (written share of the chip) / N_end(T), spread over all cells (ideal wear levelling)

Networks that no longer fit are evicted, least recently used first. A network whose lost fraction exceeds the hazard
budget is written again before its next run; one that exceeds it before its run has finished has failed and is gone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from costmodel.processors.cim import CrossbarChip
from physics import Cell, LogTotal, Wear

JUST_WRITTEN = -1e4  # ln of the lost fraction of freshly written cells
NO_CELLS = 50.0  # retention margin reported where a run uses no cells


class CellState(NamedTuple):
    """Weights in the cells of one chip; arrays (W,), one entry per distinct network."""

    resident: Float[Array, " networks"]  # 1 where the network's weights are on the chip
    memory: Float[Array, " networks"]  # share of the chip they take
    age: Float[Array, " networks"]  # runs on this chip since they were last used
    lost: LogTotal  # fraction of their cells lost since programming
    wear: Wear  # fraction of life consumed, mean over the chip

    @property
    def log_hazard(self) -> Float[Array, "..."]:
        """ln of the fraction of each network's cells lost since programming."""
        return self.lost.value

    @classmethod
    def empty(cls, networks: int) -> "CellState":
        """Fresh cells, nothing resident."""
        zeros = jnp.zeros(networks)
        return cls(zeros, zeros, zeros, LogTotal.start(jnp.full(networks, JUST_WRITTEN)), Wear.zero())


class CellRun(NamedTuple):
    """What one step asks of one chip."""

    used: Float[Array, ""]  # 1 if the task runs on this chip
    network: Int[Array, ""]
    memory: Float[Array, ""]  # share of the chip its weights take
    reads: Float[Array, ""]  # reads per cell
    written: Float[Array, ""]  # 1 if its weights are written first
    streamed: Float[Array, ""]  # share of the chip that the run writes in any case
    failed: Float[Array, ""]  # 1 if they are lost before the result
    gap: Float[Array, ""]  # s to the next arrival
    temperature: Float[Array, ""]  # K at arrival
    mean_temperature: Float[Array, ""]  # K, mean until the next arrival


def needs_writing(cells: CellState, network: Int[Array, ""], log_budget: Float[Array, ""]) -> Float[Array, ""]:
    """1 if the network's weights are absent or have lost more cells than the budget allows, else 0."""
    mine = jax.nn.one_hot(network, cells.resident.shape[-1], dtype=cells.resident.dtype)
    usable = cells.resident * jnp.where(cells.log_hazard < log_budget, 1.0, 0.0)
    return 1.0 - jnp.sum(mine * usable)


def retention_margin(
    cell: Cell,
    cells: CellState,
    network: Int[Array, ""],
    writing: Array,
    temperature: Array,
    latency: Array,
    reads: Array,
    log_budget: Array,
) -> Float[Array, ""]:
    """ln(hazard budget / lost fraction) of a network's weights when a run of `latency` (s) ends; negative: they are lost."""
    mine = jax.nn.one_hot(network, cells.resident.shape[-1], dtype=cells.resident.dtype)
    start = jnp.where(writing > 0, JUST_WRITTEN, jnp.sum(mine * cells.log_hazard))
    return jnp.minimum(log_budget - _log_add(start, cell.log_loss(temperature, latency, reads)), NO_CELLS)


def use_cells(cell: Cell, cells: CellState, run: CellRun) -> tuple[CellState, Float[Array, ""]]:
    """Cells after one step, and the fraction of the chip's life it consumed."""
    mine = run.used * jax.nn.one_hot(run.network, cells.resident.shape[-1], dtype=cells.resident.dtype)
    kept = cells.lost.restart(mine * run.written > 0, JUST_WRITTEN)
    lost = kept.add(cell.log_loss(run.mean_temperature, run.gap, mine * run.reads))
    memory = jnp.where(mine > 0, run.memory, cells.memory)
    age = jnp.where(mine > 0, 0.0, cells.age + run.used)
    resident = _evict(jnp.maximum(cells.resident, mine), memory, age) * (1 - mine * run.failed)
    wear = run.used * (run.written * run.memory + run.streamed) * cell.endurance.damage(cell.write_temperature(run.temperature))
    return CellState(resident, memory, age, lost, cells.wear.add(wear)), wear


class WritingCosts(NamedTuple):
    """What it takes to program every cell of a chip once; a part of the arrays takes its share."""

    latency: Float[Array, ""]  # s
    energy: Float[Array, ""]  # J


def writing_costs(chip: CrossbarChip) -> WritingCosts:
    """Programming all of `chip`: row after row, `write_arrays` arrays at once, `write_pulses` pulses for every cell."""
    pulses = chip.n_arrays * chip.rows * chip.write_pulses
    latency = pulses * (chip.cell.write_time + chip.verify_time) / chip.write_arrays
    return WritingCosts(latency, pulses * chip.cols * chip.cell.write_energy)


def rewrite(
    cell: Cell, cells: CellState, used: Float[Array, ""], temperature: Float[Array, ""]
) -> tuple[CellState, Float[Array, ""], Float[Array, ""]]:
    """Cells with all resident networks written again if `used` is 1: (cells, share of the chip written, life it consumed)."""
    mine = used * cells.resident
    share = jnp.sum(mine * cells.memory)
    wear = share * cell.endurance.damage(cell.write_temperature(temperature))
    return cells._replace(lost=cells.lost.restart(mine > 0, JUST_WRITTEN), wear=cells.wear.add(wear)), share, wear


def settle(cells: CellState) -> CellState:
    """The same chip with those networks evicted that do not fit together, least recently used first."""
    return cells._replace(resident=_evict(cells.resident, cells.memory, cells.age))


def _log_add(a: Array, b: Array) -> Array:
    """ln(e^a + e^b); cheaper than jnp.logaddexp, for finite arguments."""
    return jnp.maximum(a, b) + jnp.log1p(jnp.exp(-jnp.abs(a - b)))


def _evict(resident: Array, memory: Array, age: Array) -> Array:
    """Which networks stay: the most recently used ones whose memory adds up to at most the chip."""
    index = jnp.arange(age.shape[-1])
    earlier = (age[None, :] < age[:, None]) | ((age[None, :] == age[:, None]) & (index[None, :] <= index[:, None]))
    filled = jnp.sum(jnp.where(earlier, resident * memory, 0.0), axis=-1)
    return resident * jnp.where(filled <= 1 + 1e-5, 1.0, 0.0)
