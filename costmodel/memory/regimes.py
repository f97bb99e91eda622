"""Time under a capacity regime in closed form per burst: jitted, batched over capacities and link rates, with gradients.

For burst b of a trace, T_b its time when everything is resident, t_chunk and t_read one 64 B chunk on the link and from memory:

    resident                      T_b
    weight-stream, host-stream    max( T_b, n_b (t_chunk + t_read) )                n_b: reads that cross the link
    kv-swap, layer-swap           max( T_b, max_missed size / link + t_read )       under the published rules
                                  T_b + sum_missed size / link                      under the corrected ones
    pinned                        sum_b T_b + (bytes loaded with the best fixed choice) / link

T_b comes from one replay of the trace, read by read. Against PLENA's Rust models (eight small cases, clm60m on three links) the
closed form is within 0.03 %, and exact up to rounding where bursts are single reads; a burst that mixes streamed and resident
reads on a link nearly as fast as memory can be off by more. `replay` is exact; this is fast and differentiable. Sizes and
capacities are integers in a common unit, so counts of loads are exact whatever the float type. The regimes jump in capacity,
and FIFO and LRU have gradient 0 in it; `relaxed_time` uses the pinned choice and blends the regimes over a width C / sharpness:

    p_resident = sigmoid((C - total) s / C),  p_weights = sigmoid((C - weight) s / C)
    T = p_r T_resident + (1 - p_r) p_w T_kv-swap + (1 - p_r)(1 - p_w) T_weight-stream
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from costmodel.memory.dram import DDR4_2400, DramTiming
from costmodel.memory.formats import CHUNK
from costmodel.memory.manifests import Footprint, Manifest, Regime, check_count, choose_regime
from costmodel.memory.replays import (
    PS,
    PUBLISHED_RULES,
    MemoryRules,
    check_bandwidth,
    check_room,
    find_visits,
    replay,
    streamed_accesses,
    swap_room,
)
from costmodel.memory.residency import pinned_loads, track_residency, whole_units
from costmodel.memory.traces import MemoryTrace

CHOICES = (Regime.RESIDENT, Regime.KV_SWAP, Regime.WEIGHT_STREAM)  # what "auto" chooses from, in order


class Loads(eqx.Module):
    """Runs of accesses to units that are loaded whole: sizes in units of the plan, and per run its unit and its burst."""

    sizes: Int[Array, " units"]
    units: Int[Array, " runs"]
    bursts: Int[Array, " runs"]
    visits: Float[Array, " units"]


class BurstPlan(eqx.Module):
    """A trace on a manifest, burst by burst; times in s. `unit` is the size (B) that sizes and capacities are counted in."""

    resident: Float[Array, " bursts"]
    weight_reads: Float[Array, " bursts"]
    host_reads: Float[Array, " bursts"]
    regions: Loads
    layers: Loads
    read_time: Float[Array, ""]
    unit: int = eqx.field(static=True)
    footprint: Footprint = eqx.field(static=True)
    rules: MemoryRules = eqx.field(static=True)


class RegimeTimes(NamedTuple):
    """For every capacity and link rate: time (s) and link traffic (B); `regime` per capacity. Bytes are exact Python integers."""

    time: np.ndarray  # (capacities, links)
    regime: tuple[Regime, ...]
    swaps: tuple[int, ...]
    swapped_bytes: tuple[int, ...]
    streamed_bytes: tuple[int, ...]


def plan_bursts(
    manifest: Manifest, trace: MemoryTrace, dram: DramTiming = DDR4_2400, rules: MemoryRules = PUBLISHED_RULES
) -> BurstPlan:
    """Prepare `trace` for `burst_time`: one replay with everything resident, and the runs of visits."""
    ends = replay(manifest, trace, Regime.RESIDENT, link=1.0, capacity=1, dram=dram, rules=rules).burst_ends
    unit = whole_units([region.size for region in manifest.regions], 0).unit

    def count(regime: Regime) -> Array:
        reads = streamed_accesses(manifest, trace, regime, rules)
        return jnp.asarray(np.bincount(trace.bursts, reads, trace.n_bursts), float)

    def loads(regime: Regime) -> Loads:
        runs = find_visits(manifest, trace, regime, rules)
        sizes = np.array(runs.sizes, np.int64) // unit
        visits = np.bincount(runs.units, minlength=len(runs.sizes))
        sizes, units, bursts = (jnp.asarray(x, jnp.int32) for x in (sizes, runs.units, trace.bursts[runs.starts]))
        return Loads(sizes, units, bursts, jnp.asarray(visits, float))

    return BurstPlan(
        resident=jnp.asarray(np.diff(ends, prepend=0) / PS, float),
        weight_reads=count(Regime.WEIGHT_STREAM),
        host_reads=count(Regime.HOST_STREAM),
        regions=loads(Regime.KV_SWAP),
        layers=loads(Regime.LAYER_SWAP),
        read_time=jnp.asarray(dram.read_time / PS, float),
        unit=unit,
        footprint=manifest.footprint,
        rules=rules,
    )


def link_time(size: Float[Array, "*shape"], link: Float[Array, ""], rules: MemoryRules) -> Float[Array, "*shape"]:
    """Seconds for `size` bytes; floored to nanoseconds under the published rules, with the slope of the exact time."""
    exact = size / link
    return exact + jax.lax.stop_gradient(jnp.floor(exact * 1e9 * (1 + 1e-6)) / 1e9 - exact) if rules.whole_nanoseconds else exact


def _streamed(plan: BurstPlan, reads: Array, link: Array) -> Array:
    chunk = link_time(jnp.asarray(float(CHUNK)), link, plan.rules) + (plan.read_time if plan.rules.through_memory else 0.0)
    return jnp.maximum(plan.resident, reads * chunk)


def _swapped(plan: BurstPlan, loads: Loads, missed: Array, link: Array) -> Array:
    """Time of every burst; with 0 for bursts that load nothing."""
    time = jnp.where(missed, link_time(loads.sizes[loads.units] * float(plan.unit), link, plan.rules), 0.0)
    if not plan.rules.load_alone:
        return plan.resident.at[loads.bursts].add(time)
    return plan.resident.at[loads.bursts].max(jnp.where(missed, time + plan.read_time, 0.0))


def _missed(plan: BurstPlan, loads: Loads, room: Array) -> Array:
    return track_residency(loads.sizes, loads.units, room, policy=plan.rules.policy).missed


def _room(plan: BurstPlan, capacity: Array) -> Array:
    return jnp.maximum(capacity - plan.footprint.weight // plan.unit, 0)


def burst_times(
    plan: BurstPlan, capacity: Int[Array, ""], link: Float[Array, ""], regime: Regime | str = "auto"
) -> Float[Array, " bursts"]:
    """Seconds of every burst with `capacity` (in `plan.unit`) and `link` (B/s); `regime` is static. vmap over both.

    Gradient in `link`; none in `capacity` (see the module). "auto" chooses by capacity.
    """
    if regime == "auto":
        total, weight = (x // plan.unit for x in (plan.footprint.total, plan.footprint.weight))
        times = [burst_times(plan, capacity, link, choice) for choice in CHOICES]
        return jnp.where(capacity >= total, times[0], jnp.where(capacity >= weight, times[1], times[2]))
    if regime == Regime.RESIDENT:
        return plan.resident
    if regime in (Regime.WEIGHT_STREAM, Regime.HOST_STREAM):
        return _streamed(plan, plan.weight_reads if regime == Regime.WEIGHT_STREAM else plan.host_reads, link)
    loads, room = (plan.regions, _room(plan, capacity)) if regime == Regime.KV_SWAP else (plan.layers, capacity)
    return _swapped(plan, loads, _missed(plan, loads, room), link)


@jax.jit
def _sweep(plan: BurstPlan, capacities: Array, links: Array) -> tuple[dict[str, Array], Array, Array]:
    """Times of every regime (capacities, links), and loads per region and per layer (capacities, units)."""

    def loads(units: Loads, room: Array) -> Array:
        return track_residency(units.sizes, units.units, room, policy=plan.rules.policy).loads

    def totals(capacity: Array, link: Array) -> dict[str, Array]:
        return {str(regime): jnp.sum(burst_times(plan, capacity, link, regime)) for regime in Regime}

    times = jax.vmap(jax.vmap(totals, (None, 0)), (0, None))(capacities, links)
    regions = jax.vmap(lambda c: loads(plan.regions, _room(plan, c)))(capacities)
    return times, regions, jax.vmap(lambda c: loads(plan.layers, c))(capacities)


def regime_times(plan: BurstPlan, capacities: Any, links: Any, regime: Regime | str = "auto") -> RegimeTimes:
    """Time and traffic for every pair of `capacities` (B, integers >= 1) and `links` (B/s), in one compiled program.

    Raises ValueError for a capacity that is not a positive whole number, for a rate that is not positive, if there are none, for
    an unknown regime and, under rules that refuse it, for a region or layer that is larger than its memory.
    """
    if regime != "auto" and regime not in set(Regime):
        raise ValueError(f"unknown regime {regime!r}; known: auto, {', '.join(Regime)}")
    sizes = [check_count("capacity", c, 1) for c in _listed("capacities", capacities)]
    rates = np.asarray(_listed("links", links), np.float64)
    for rate in rates:
        check_bandwidth(float(rate))
    total = plan.footprint.total // plan.unit
    units = jnp.asarray([min(size // plan.unit, total) for size in sizes], jnp.int32)
    times, regions, layers = _sweep(plan, units, jnp.asarray(rates, float))
    chosen = tuple(choose_regime(plan.footprint, size) if regime == "auto" else Regime(regime) for size in sizes)
    found = {name: np.asarray(values) for name, values in times.items()}
    for size, choice in zip(sizes, chosen, strict=True):
        _check_room(plan, size, choice)
    counts = [_traffic(plan, *item) for item in zip(chosen, np.asarray(regions), np.asarray(layers), strict=True)]
    picked = np.stack([found[name][index] for index, name in enumerate(chosen)])
    return RegimeTimes(picked, chosen, *(tuple(column) for column in zip(*counts, strict=True)))


def _listed(name: str, values: Any) -> list[Any]:
    """One number or a row of them as Python's own numbers; ValueError if there is none, or a table."""
    row = np.atleast_1d(values)
    if row.ndim > 1 or not row.size or row.dtype.kind not in "iufO":
        raise ValueError(f"{name} must be a number or a row of at least one, got {row.dtype} of shape {row.shape}")
    return row.tolist()


def _check_room(plan: BurstPlan, capacity: int, regime: Regime) -> None:
    if regime in (Regime.KV_SWAP, Regime.LAYER_SWAP):
        units = plan.regions if regime == Regime.KV_SWAP else plan.layers
        visited = np.where(np.asarray(units.visits) > 0, np.asarray(units.sizes, np.int64), 0)
        check_room(plan.unit * int(visited.max(initial=0)), swap_room(plan.footprint, capacity, regime), plan.rules)


def _traffic(plan: BurstPlan, regime: Regime, regions: np.ndarray, layers: np.ndarray) -> tuple[int, int, int]:
    """(swaps, bytes swapped, bytes streamed)."""
    loaded = {Regime.KV_SWAP: (regions, plan.regions), Regime.LAYER_SWAP: (layers, plan.layers)}.get(regime)
    streamed = {Regime.WEIGHT_STREAM: plan.weight_reads, Regime.HOST_STREAM: plan.host_reads}.get(regime)
    swaps, swapped = 0, 0
    if loaded is not None:
        counts, units = loaded
        swaps, swapped = int(counts.sum()), plan.unit * int(counts.astype(np.int64) @ np.asarray(units.sizes, np.int64))
    return swaps, swapped, 0 if streamed is None else CHUNK * int(np.asarray(streamed, np.float64).sum())


def pinned_bytes(loads: Loads, unit: int, room: Float[Array, ""]) -> Float[Array, ""]:
    """Bytes loaded with `room` bytes and the best fixed choice of what stays; continuous, with gradient, in `room`."""
    sizes = loads.sizes * float(unit)
    return jnp.sum(sizes * pinned_loads(sizes, loads.visits, room))


def relaxed_time(
    plan: BurstPlan, capacity: Float[Array, ""], link: Float[Array, ""], sharpness: float = 50.0
) -> Float[Array, ""]:
    """Seconds of the trace, smooth in `capacity` (B) and `link` (B/s): regimes blended, pinned residency (see the module).

    `sharpness` -> infinity gives the hard regimes with the pinned choice. Finite at capacity -> 0.
    """
    room = jnp.maximum(capacity - plan.footprint.weight, 0.0)
    resident = jnp.sum(plan.resident)
    swap = resident + pinned_bytes(plan.regions, plan.unit, room) / link
    stream = jnp.sum(_streamed(plan, plan.weight_reads, link))
    width = jnp.maximum(capacity, 1.0) / sharpness
    all_fits = jax.nn.sigmoid((capacity - plan.footprint.total) / width)
    weights_fit = jax.nn.sigmoid((capacity - plan.footprint.weight) / width)
    return all_fits * resident + (1 - all_fits) * (weights_fit * swap + (1 - weights_fit) * stream)
