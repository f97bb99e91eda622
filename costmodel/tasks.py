"""Tasks: what a network costs on every processor of a platform (`Offer`), and one request to run it (`Task`)."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from costmodel.cost import Conditions, Cost
from costmodel.estimation import estimate
from costmodel.platform import Platform
from costmodel.relax import HARD, Relaxation
from workloads import OpTable, stack


class Offer(NamedTuple):
    """What one network costs on every processor at its nominal clock, weights resident; arrays (P,).

    The last three say what a slower clock changes; only platforms with clock domains have them (see `clocks.py`).
    """

    latency: Float[Array, " processors"]  # s
    energy: Float[Array, " processors"]  # J, switching only
    write_latency: Float[Array, " processors"]  # s, to program its weights
    write_energy: Float[Array, " processors"]  # J
    memory: Float[Array, " processors"]  # share of the chip's weight memory
    streamed: Float[Array, " processors"]  # share of the chip that every run writes: weights beyond capacity, second operands
    reads: Float[Array, " processors"]  # reads per cell and run
    clocked: Float[Array, " processors"] | None = None  # s of `latency` that follow the clock; None: all of it
    stalled: Float[Array, " processors"] | None = None  # J of `energy` that fall with the clock itself; None: nothing
    programming: Float[Array, " processors"] | None = None  # J of `energy` spent on streamed cells; None: nothing


class Task(NamedTuple):
    """One request: run network number `network` within `deadline` (s); the next task comes `gap` (s) later."""

    offer: Offer
    network: Int[Array, ""]
    deadline: Float[Array, ""]
    gap: Float[Array, ""]


def make_offer(platform: Platform, ops: OpTable, relaxation: Relaxation = HARD) -> Offer:
    """Cost of `ops` on every processor at nominal conditions; differentiable in every parameter of `platform`."""
    rows = []
    for name in platform.names:
        fresh = estimate(platform.processors[name], ops, Conditions(), relaxation)
        empty = estimate(platform.processors[name], ops, Conditions(resident=0.0), relaxation)
        write = (empty.programming_latency - fresh.programming_latency, empty.programming_energy - fresh.programming_energy)
        switching = fresh.dynamic_energy + fresh.programming_energy
        row = Offer(fresh.latency, switching, *write, jnp.minimum(fresh.memory, 1.0), fresh.written, fresh.reads)
        rows.append(_clocked(platform, name, ops, relaxation, fresh, row) if platform.clocks else row)
    return jax.tree.map(lambda *columns: jnp.stack(columns), *rows)


def _clocked(platform: Platform, name: str, ops: OpTable, relaxation: Relaxation, fresh: Cost, row: Offer) -> Offer:
    """`row` with what a slower clock changes, from the processor's own model at the two ends of its range of clocks."""
    if name not in platform.clocks:
        return row._replace(clocked=jnp.zeros(()), stalled=jnp.zeros(()), programming=fresh.programming_energy)
    slowest = jnp.minimum(platform.clocks[name].slowest, 1 - 1e-3)  # a domain without a range keeps a slope
    slow = estimate(platform.processors[name], ops, Conditions(frequency=slowest), relaxation)
    return row._replace(
        clocked=(slow.latency - fresh.latency) * slowest / (1 - slowest),
        stalled=jnp.maximum(fresh.dynamic_energy - slow.dynamic_energy, 0.0) / (1 - slowest),  # rounding may leave it below 0
        programming=fresh.programming_energy,
    )


def make_offers(platform: Platform, tables: Sequence[OpTable], relaxation: Relaxation = HARD) -> Offer:
    """Offers of several networks: arrays (W, P)."""
    if not tables:
        raise ValueError("a platform needs at least one workload, got 0")
    return _offers(platform, stack(tables), relaxation)


@partial(jax.jit, static_argnums=2)
def _offers(platform: Platform, tables: OpTable, relaxation: Relaxation) -> Offer:
    return jax.vmap(lambda table: make_offer(platform, table, relaxation))(tables)


def make_task(platform: Platform, ops: OpTable, *, deadline: float, gap: float, network: int = 0) -> Task:
    """A task that runs `ops`, kept on the chip as network number `network`. `deadline` and `gap` in s, > 0."""
    for name, value in (("deadline", deadline), ("gap", gap)):
        if isinstance(value, int | float) and not 0 < value < 1e9:
            raise ValueError(f"{name} = {value:g} s is outside its range (0, 1e9) s")
    if isinstance(network, int) and network < 0:
        raise ValueError(f"network = {network} is below 0")
    return Task(make_offer(platform, ops), jnp.asarray(network), jnp.asarray(deadline, float), jnp.asarray(gap, float))
