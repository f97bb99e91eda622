"""Lifetime of memory cells under a temperature trace: which mechanism ends it, when, and what that depends on.

    retention     integral of dt / tau(T(t))                         reaches `budget`
    disturb       integral of read_rate h(T(t)) dt                   reaches `budget`
    endurance     integral of write_rate / N(T_write(t)) dt          reaches `damage` (Miner)
    aging laws   integral of dt / MTTF(T(t)), one each              reaches 1

Retention and disturb lose the same stored level, so their hazards are added before they are compared with the budget. The
trace is a mission profile: it is followed exactly (constant temperature between points) up to its end, and after that
repeated, whole and broken repetitions counting by the trace's mean. Writing restores the level: where even at the trace's
hottest point the hazard between two writes stays within the budget, retention and disturb never end the life.

Times are logarithms; a mechanism that never acts (no writes, no reads) has ln t above 400. The elasticity of the lifetime t
in a parameter p is (p / t) dt/dp; a parameter that is a logarithm itself (unit "ln ...") stands for its quantity.
Valid where the laws are: see `Lifetime.valid`. Non-smooth where another mechanism becomes the first, where a level becomes
restored, and between points of the trace inside its first run; there the derivative of the later side is taken.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from physics.aging import AgingLaw
from physics.cells.devices import Cell
from physics.cells.logs import NEVER, log_amount
from physics.params import parameters
from physics.types import Value

BLOCK = 32  # points whose hazards are summed before the point of failure is looked for
EARLIEST = -80.0  # ln of the smallest share of a trace that is told apart


class Lifetime(eqx.Module):
    """`lifetime()`'s result."""

    log_time: Float[Array, ""]  # ln s, until the first mechanism ends it
    first: Int[Array, ""]  # its place in `mechanisms`
    log_times: Float[Array, " mechanisms"]  # ln s, each mechanism alone
    elasticities: dict[str, Float[Array, "..."]]  # by label; also "write_rate", "read_rate", "budget" and "damage"
    per_kelvin: Float[Array, ""]  # d ln t / dT (1/K) of a uniformly hotter trace
    restored: Bool[Array, ""]  # whether writes come often enough that no level is lost
    valid: Bool[Array, ""]  # whether every law holds along the whole trace
    mechanisms: tuple[str, ...] = eqx.field(static=True)  # retention, disturb, endurance, then the aging laws

    @property
    def mechanism(self) -> str:
        """Name of the mechanism that ends the life; for one device, outside compiled programs."""
        return self.mechanisms[int(self.first)]


class _Inputs(NamedTuple):
    """What the elasticities are taken in; `scales` are ln of factors on write and read rate, `warmer` is in K."""

    device: Cell
    aging: Mapping[str, AgingLaw]
    budget: Array
    damage: Array
    scales: Array
    warmer: Array


class _Trace(NamedTuple):
    """The trace in blocks of points, the last one padded with points of no duration."""

    temperatures: Float[Array, "blocks length"]
    durations: Float[Array, "blocks length"]
    counts: dict[str, Float[Array, "blocks length"]]  # s, writes and reads at each point


def lifetime(
    device: Cell,
    temperatures: Value,
    write_rate: Value,
    read_rate: Value,
    durations: Value | None = None,
    *,
    budget: Value = 1e-6,
    damage: Value = 1.0,
    aging: Mapping[str, AgingLaw] | None = None,
    restoring: bool = True,
) -> Lifetime:
    """When and by what the life of `device` ends under a temperature trace.

    `temperatures` (points,) K; `durations` (points,) or one for all points, s: default one year in all. `write_rate` and
    `read_rate`: writes and reads of each cell per second, one number or one per point. `budget`: share of stored levels
    that may be lost before error correction; `damage`: Miner's sum at the end of life; `aging`: further mechanisms, taken in
    the order of their names.
    `restoring=False` ignores that writes restore levels. One device: the caller vmaps over devices or traces; results that
    are not used cost nothing under jit. Raises ValueError for a wrong shape and for plain numbers that are negative.
    """
    temperatures = jnp.asarray(temperatures, float)
    if temperatures.ndim != 1 or temperatures.shape[0] == 0:
        raise ValueError(f"temperatures has shape {temperatures.shape}, expected (points,), at least one")
    year = 365.25 * 86400.0
    each = year / temperatures.shape[0] if durations is None else durations
    rates = {"durations": each, "write_rate": write_rate, "read_rate": read_rate}
    for name, value in rates.items():
        if jnp.shape(value) not in ((), temperatures.shape):
            raise ValueError(f"{name} has shape {jnp.shape(value)}, expected () or {temperatures.shape}")
    for name, value in (rates | {"temperatures": temperatures, "budget": budget, "damage": damage}).items():
        _refuse(name, value, positive=name not in rates)
    counts = {"time": each, "writes": each * jnp.asarray(write_rate), "reads": each * jnp.asarray(read_rate)}
    spread = {name: _blocked(jnp.broadcast_to(value, temperatures.shape)) for name, value in counts.items()}
    trace = _Trace(_blocked(temperatures, fill=temperatures[-1]), spread["time"], spread)
    inputs = _Inputs(
        device=device,
        aging=dict(sorted((aging or {}).items())),
        budget=jnp.asarray(budget, float),
        damage=jnp.asarray(damage, float),
        scales=jnp.zeros(2),
        warmer=jnp.zeros(()),
    )
    return _lifetime(inputs, trace, restoring)


@partial(jax.jit, inline=True, static_argnames="restoring")
def _lifetime(inputs: _Inputs, trace: _Trace, restoring: bool) -> Lifetime:
    slopes, (log_time, first, log_times, restored) = jax.grad(_first_end, has_aux=True)(inputs, trace, restoring)
    written = inputs.device.write_temperature(trace.temperatures)
    valid = inputs.device.valid(trace.temperatures) & inputs.device.endurance.valid(written)
    for law in inputs.aging.values():
        valid &= law.valid(trace.temperatures)
    return Lifetime(
        log_time=log_time,
        first=first,
        log_times=log_times,
        elasticities=_elasticities(inputs, slopes),
        per_kelvin=slopes.warmer,
        restored=restored,
        valid=jnp.all(valid),
        mechanisms=("retention", "disturb", "endurance", *sorted(inputs.aging)),
    )


def _first_end(given: _Inputs, trace: _Trace, restoring: bool) -> tuple[Array, Any]:
    """ln of the lifetime, and with it the other results. Limits: every mechanism alone, then loss by any of the first two."""
    mechanisms = _mechanisms(given)
    count = len(mechanisms)
    log_budget = jnp.log(given.budget)
    log_limits = jnp.stack([log_budget, log_budget, jnp.log(given.damage), *[jnp.zeros(())] * (count - 3), log_budget])
    members = np.vstack([np.eye(count), np.arange(count) < 2])
    rates = [_scaled(rate, trace) for rate, _ in mechanisms]
    log_scales = jnp.stack([log_scale for _, log_scale in rates])
    counts = jnp.stack([trace.counts[counted] for _, counted in mechanisms])
    blocks = jnp.stack([jnp.sum(rate(trace.temperatures) * n, axis=-1) for (rate, _), n in zip(rates, counts, strict=True)])

    def rates_at(temperatures: Array) -> Array:
        return jnp.stack([rate(temperatures) for rate, _ in rates])

    reach = jax.vmap(lambda member, log_limit: _reach(member, log_limit, log_scales, blocks, counts, rates_at, trace))
    reached = reach(jnp.asarray(members, log_scales.dtype), log_limits)
    log_times = reached[:-1]
    restored = _restored(log_scales, trace, given.scales, log_budget) if restoring else jnp.asarray(False)
    candidates = jnp.concatenate([jnp.where(restored, -NEVER, reached[-1:]), log_times[2:]])
    which = jnp.argmin(candidates)
    log_time = jnp.min(candidates)
    first = jnp.where(which == 0, jnp.argmin(log_times[:2]), which + 1)
    return log_time, (log_time, first, log_times, restored)


def _mechanisms(given: _Inputs) -> list[tuple[Callable[[Array], Array], str]]:
    """ln of the rate of every mechanism as a function of the trace's temperatures (K), and what it counts."""
    device, warmer, (writes, reads) = given.device, given.warmer, given.scales

    def disturb(temperature: Array) -> Array:
        return reads + device.log_disturb(temperature + warmer)

    def wear(temperature: Array) -> Array:
        return writes - device.endurance.log_cycles(device.write_temperature(temperature + warmer))

    found = [(lambda t: device.retention.log_hazard_rate(t + warmer), "time"), (disturb, "reads"), (wear, "writes")]
    return found + [(lambda t, law=law: -law.log_mttf(t + warmer), "time") for law in given.aging.values()]


def _blocked(values: Array, fill: Any = 0.0) -> Array:
    """(points,) as (blocks, length), padded with `fill`."""
    missing = -values.shape[0] % BLOCK
    return jnp.concatenate([values, jnp.broadcast_to(fill, (missing,))]).reshape(-1, BLOCK)


def _scaled(log_rate: Callable[[Array], Array], trace: _Trace) -> tuple[Callable[[Array], Array], Array]:
    """A mechanism's rate over exp(log_scale), and log_scale: the rate at an end of the range of temperatures; any near does."""
    ends = jnp.stack([jnp.min(trace.temperatures), jnp.max(trace.temperatures)])
    log_scale = lax.stop_gradient(jnp.max(log_rate(ends)))
    return lambda temperatures: jnp.exp(log_rate(temperatures) - log_scale), log_scale


def _reach(
    member: Array,
    log_limit: Array,
    log_scales: Array,
    blocks: Array,
    counts: Array,
    rates_at: Callable[[Array], Array],
    trace: _Trace,
) -> Array:
    """ln of the time (s) at which the mechanisms of `member` reach exp(log_limit): by repetitions of the trace, or inside."""
    log_scale = jnp.max(jnp.where(member > 0, log_scales, -jnp.inf))
    factors = member * jnp.exp(jnp.minimum(log_scales - log_scale, 0.0))
    sums = factors @ blocks
    log_runs = log_limit - log_scale - log_amount(jnp.sum(sums))
    inside = log_runs < 0

    share = jnp.exp(jnp.clip(log_runs, EARLIEST, 0.0)) * jnp.sum(sums)
    block, missing = _find(sums, share)
    temperatures, durations = trace.temperatures[block], trace.durations[block]
    amounts = factors @ (rates_at(temperatures) * counts[:, block])
    point, missing = _find(amounts, missing)
    there = _pick(amounts, point)
    fraction = jnp.minimum(missing / jnp.where(there > 0, there, 1.0), 1.0)
    before = jnp.sum(jnp.where(jnp.arange(sums.shape[0]) < block, jnp.sum(trace.durations, axis=-1), 0.0))
    before += jnp.sum(jnp.where(jnp.arange(BLOCK) < point, durations, 0.0))
    period = jnp.sum(trace.durations)
    time = jnp.maximum(before + fraction * _pick(durations, point), period * jnp.exp(EARLIEST))
    return jnp.where(inside, jnp.log(jnp.where(inside, time, 1.0)), log_runs + jnp.log(period))


def _find(amounts: Array, share: Array) -> tuple[Array, Array]:
    """Where the running sum of `amounts` first exceeds `share`, and what is missing there."""
    up_to = lax.stop_gradient(jnp.cumsum(amounts))
    last = jnp.max(jnp.where(amounts > 0, jnp.arange(amounts.shape[0]), 0))  # trailing zeros are no place to end
    index = jnp.minimum(jnp.sum(up_to <= lax.stop_gradient(share)), last)
    return index, jnp.maximum(share - jnp.sum(jnp.where(jnp.arange(amounts.shape[0]) < index, amounts, 0.0)), 0.0)


def _pick(values: Array, index: Array) -> Array:
    """values[index], by a mask: its derivative needs no scattering."""
    return jnp.sum(jnp.where(jnp.arange(values.shape[0]) == index, values, 0.0))


def _restored(log_scales: Array, trace: _Trace, scales: Array, log_budget: Array) -> Array:
    """Whether a level survives from one write to the next even at the trace's hottest point."""
    writes, reads = trace.counts["writes"], trace.counts["reads"]
    log_interval = jnp.log(jnp.sum(trace.durations)) - log_amount(jnp.sum(writes)) - scales[0]
    fastest = log_amount(jnp.max(reads / jnp.where(trace.durations > 0, trace.durations, 1.0)))
    rate = jnp.logaddexp(log_scales[0], log_scales[1] + fastest)
    return lax.stop_gradient((jnp.sum(writes) > 0) & (log_interval + rate < log_budget))


def _elasticities(inputs: _Inputs, slopes: _Inputs) -> dict[str, Array]:
    """(p / t) dt/dp by label; a rate given per point counts as a whole."""
    trees = [("", inputs.device, slopes.device), *((f"{n}.", inputs.aging[n], slopes.aging[n]) for n in inputs.aging)]
    table = {}
    for prefix, tree, slope in trees:
        for p, s in zip(parameters(tree), parameters(slope), strict=True):
            table[prefix + p.label] = s.value if p.param.unit.startswith("ln") else s.value * p.value
    table |= {"write_rate": slopes.scales[0], "read_rate": slopes.scales[1]}
    return table | {name: getattr(inputs, name) * getattr(slopes, name) for name in ("budget", "damage")}


def _refuse(name: str, value: Any, positive: bool) -> None:
    """Raise ValueError for a plain number that is negative, not finite, or zero where it must be positive."""
    if isinstance(value, Tracer):
        return
    array = np.asarray(value, np.float64)
    bad = ~(np.isfinite(array) & ((array > 0) if positive else (array >= 0)))
    if bad.any():
        allowed = "above 0" if positive else "at least 0"
        raise ValueError(f"{name} = {array[bad].flat[0]:g} is not a finite number {allowed}")
