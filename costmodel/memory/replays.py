"""Replay of a memory trace under a capacity regime, read by read, in whole picoseconds.

    transfer(bytes) = floor(bytes 1e9 / link) ns      host link in B/s; one 64 B chunk at 1.5 GB/s: 42 ns (exactly 42.67)

`PUBLISHED_RULES` give AICrossSim/PLENA_Simulator (pull request 90) exactly; `CORRECTED_RULES` what its comments promise or what
hardware does. Each difference is one field of `MemoryRules`:

    policy              its "LRU" is first in first out
    whole_nanoseconds   transfers are floored to nanoseconds (1.6 % fast for a chunk at 1.5 GB/s)
    through_memory      a streamed chunk is read from memory after it has crossed the link, which stays taken meanwhile
    stream_all_kinds    host streaming takes keys, values and activations for weights when they lie above the ceiling
    load_alone          only the read that finds a region absent waits, others of the region go on; loads do not share the link
    oversized           a region above the capacity is loaded once per visit; corrected: refused
    write_back          writes bring nothing in and what was written is dropped when it leaves; corrected: a write loads its
                        region as a read does, and a written region crosses the link back before the next load
    write_banks         writes take their bank from other address bits than reads

Counters include activations in the swapped bytes, as the source does; `swapped_by_kind` tells them apart.
"""

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import NamedTuple, no_type_check

import jax
import jax.numpy as jnp
import numpy as np

from costmodel.memory.dram import DDR4_2400, Dram, DramTiming, Events, Slots
from costmodel.memory.formats import CHUNK
from costmodel.memory.manifests import Footprint, Manifest, Regime, RegionKind, choose_regime, resolve_capacity
from costmodel.memory.residency import Policy, track_residency, whole_units
from costmodel.memory.traces import MemoryTrace

PS = 10**12


@dataclasses.dataclass(frozen=True)
class MemoryRules:
    """Choices of the memory model, see the module; the defaults are the corrected ones."""

    policy: Policy = "lru"
    whole_nanoseconds: bool = False
    through_memory: bool = False
    stream_all_kinds: bool = False
    load_alone: bool = False
    oversized: bool = False
    write_back: bool = True
    write_banks: bool = False


CORRECTED_RULES = MemoryRules()
PUBLISHED_RULES = MemoryRules("fifo", True, True, True, True, True, False, True)


class Replay(NamedTuple):
    """What a trace cost. Times in whole picoseconds, counts in bytes; `fits`: what the regime keeps resident has room."""

    regime: Regime
    picoseconds: int
    burst_ends: tuple[int, ...]
    bytes_read: int
    resident_bytes: int
    streamed_bytes: int
    swaps: int
    swapped_bytes: int
    swapped_by_kind: Footprint
    written_back_bytes: int
    swap_nanoseconds: int
    fits: bool

    @property
    def seconds(self) -> float:
        """Time of the whole trace (s)."""
        return self.picoseconds / PS


class Visits(NamedTuple):
    """Runs of accesses to units that are loaded whole (regions or layers)."""

    sizes: tuple[int, ...]  # B, per unit
    of_access: np.ndarray  # unit of each access, -1 for none
    starts: np.ndarray  # first access of each run
    units: np.ndarray  # unit of each run
    writes: np.ndarray  # whether a run writes


def check_bandwidth(link: float) -> Fraction:
    """The link's bytes per second as an exact number; ValueError unless it is positive and finite."""
    if not 0 < link < float("inf"):
        raise ValueError(f"link bandwidth = {link:g} B/s is outside its range (0, inf) B/s")
    return Fraction(link)


def transfer_time(size: int, link: float, whole_nanoseconds: bool = True) -> int:
    """Picoseconds that `size` bytes need on a link of `link` B/s; floored to nanoseconds in the published model."""
    unit = 1000 if whole_nanoseconds else 1
    return size * PS // unit // check_bandwidth(link) * unit


def find_units(manifest: Manifest, regime: Regime) -> tuple[list[int], list[int]]:
    """What `regime` loads whole: (unit of each region, -1 for none; bytes of each unit). Layers, or regions without weights."""
    if regime == Regime.LAYER_SWAP:
        layers = {layer: unit for unit, layer in enumerate(sorted({region.layer for region in manifest.regions}))}
        sizes = [0] * len(layers)
        for region in manifest.regions:
            sizes[layers[region.layer]] += region.size
        return [layers[region.layer] for region in manifest.regions], sizes
    swapped = [region.kind != RegionKind.WEIGHT and regime == Regime.KV_SWAP for region in manifest.regions]
    return [index if swap else -1 for index, swap in enumerate(swapped)], [region.size for region in manifest.regions]


def find_visits(manifest: Manifest, trace: MemoryTrace, regime: Regime, rules: MemoryRules = PUBLISHED_RULES) -> Visits:
    """When the trace visits what `regime` loads whole; writes count where the rules let them load."""
    owner, sizes = find_units(manifest, regime)
    units = np.array([*owner, -1])[manifest.find(trace.addresses)]
    if not rules.write_back:
        units = np.where(trace.writes, -1, units)
    touching = np.flatnonzero(units >= 0)
    starts = touching[np.diff(units[touching], prepend=-1) != 0]
    run = np.searchsorted(starts, touching, side="right") - 1
    writes = np.zeros(starts.size, bool)
    np.logical_or.at(writes, run, trace.writes[touching])
    return Visits(tuple(sizes), units, starts, units[starts], writes)


def swap_room(footprint: Footprint, capacity: int, regime: Regime) -> int:
    """Bytes left for what `regime` loads: all for layers, what the weights leave for keys, values and activations."""
    return capacity if regime == Regime.LAYER_SWAP else max(0, capacity - footprint.weight)


def check_room(largest: int, room: int, rules: MemoryRules) -> None:
    """ValueError if the rules refuse that `largest` bytes are loaded into `room`."""
    if not rules.oversized and largest > room:
        raise ValueError(f"a region or layer of {largest} B is larger than the memory left for it, {room} B")


@partial(jax.jit, static_argnames="policy")
def _follow(sizes, units, capacity, writes, policy):
    return track_residency(sizes, units, capacity, writes, policy)


def follow_visits(visits: Visits, capacity: int, rules: MemoryRules = PUBLISHED_RULES) -> tuple[np.ndarray, np.ndarray]:
    """(which runs miss, bytes each drives out dirty), for `capacity` bytes; ValueError for an oversized unit if refused."""
    if not visits.units.size:
        return np.zeros(0, bool), np.zeros(0, np.int64)
    check_room(max(visits.sizes[unit] for unit in visits.units), capacity, rules)
    scaled = whole_units(visits.sizes, capacity)
    padded = np.full(1 << max(visits.units.size - 1, 7).bit_length(), -1, np.int32)  # few lengths, few compilations
    writes = np.zeros(padded.size, bool)
    padded[: visits.units.size], writes[: visits.units.size] = visits.units, visits.writes
    result = _follow(scaled.sizes, jnp.asarray(padded), scaled.capacities, jnp.asarray(writes), rules.policy)
    count = visits.units.size
    return np.asarray(result.missed)[:count], np.asarray(result.written_back, np.int64)[:count] * scaled.unit


def streamed_accesses(manifest: Manifest, trace: MemoryTrace, regime: Regime, rules: MemoryRules = PUBLISHED_RULES) -> np.ndarray:
    """Which accesses cross the link every time: reads of weights, or of whatever lies above the ceiling (see `MemoryRules`)."""
    regions = manifest.find(trace.addresses)
    weight = np.array([region.kind == RegionKind.WEIGHT for region in manifest.regions] + [False])[regions]
    if regime == Regime.WEIGHT_STREAM:
        return weight & ~trace.writes
    if regime == Regime.HOST_STREAM:
        inside = regions >= 0 if rules.stream_all_kinds else weight
        return inside & (trace.addresses >= manifest.activation_ceiling) & ~trace.writes
    return np.zeros(trace.addresses.shape, bool)


def replay(
    manifest: Manifest,
    trace: MemoryTrace,
    regime: Regime | str = "auto",
    *,
    link: float,
    capacity: int | None = None,
    dram: DramTiming = DDR4_2400,
    rules: MemoryRules = PUBLISHED_RULES,
) -> Replay:
    """Time and traffic of `trace` on a memory of `capacity` bytes behind a host link of `link` B/s.

    "auto" chooses resident, kv-swap or weight-stream by capacity; a regime by name is forced. `capacity` (B) may be left to the
    manifest. Raises ValueError for an unknown regime, a capacity or a bandwidth that is not positive, and, under rules that
    refuse it, for a region or layer larger than its memory. Host-side, about 4 microseconds per access.
    """
    size = resolve_capacity(manifest, capacity)
    check_bandwidth(link)
    chosen = choose_regime(manifest.footprint, size) if regime == "auto" else _named(regime)
    visits = find_visits(manifest, trace, chosen, rules)
    missed, dirty = follow_visits(visits, swap_room(manifest.footprint, size, chosen), rules)
    streamed = streamed_accesses(manifest, trace, chosen, rules)
    loaded = [int(unit) for unit in visits.units[missed]]
    times = [transfer_time(visits.sizes[unit], link, rules.whole_nanoseconds) for unit in loaded]
    back = [transfer_time(int(b), link, rules.whole_nanoseconds) if rules.write_back else 0 for b in dirty[missed]]
    loads = {int(at): time + extra for at, time, extra in zip(visits.starts[missed], times, back, strict=True)}
    machine = _Machine(trace, visits.of_access, loads, streamed, transfer_time(CHUNK, link, rules.whole_nanoseconds), dram, rules)
    ends = machine.run()
    reads = ~trace.writes
    held = reads & ~streamed & (visits.of_access < 0 if chosen == Regime.KV_SWAP else True)
    return Replay(
        regime=chosen,
        picoseconds=ends[-1],
        burst_ends=tuple(ends),
        bytes_read=trace.bytes,
        resident_bytes=CHUNK * int(held.sum()),
        streamed_bytes=CHUNK * int(streamed.sum()),
        swaps=len(loaded),
        swapped_bytes=sum(visits.sizes[unit] for unit in loaded),
        swapped_by_kind=_by_kind(manifest, chosen, loaded),
        written_back_bytes=int(dirty.sum()) if rules.write_back else 0,
        swap_nanoseconds=sum(times) // 1000,
        fits=_fits(manifest, visits, size, chosen),
    )


def _named(regime: Regime | str) -> Regime:
    if regime not in set(Regime):
        raise ValueError(f"unknown regime {regime!r}; known: auto, {', '.join(Regime)}")
    return Regime(regime)


def _by_kind(manifest: Manifest, regime: Regime, loaded: list[int]) -> Footprint:
    if regime != Regime.LAYER_SWAP:
        kinds = [(manifest.regions[unit].kind, manifest.regions[unit].size) for unit in loaded]
    else:
        owner, _ = find_units(manifest, regime)
        kinds = [(r.kind, r.size) for unit in loaded for r, mine in zip(manifest.regions, owner, strict=True) if mine == unit]
    return Footprint(*(sum(size for kind, size in kinds if kind == wanted) for wanted in RegionKind))


def _fits(manifest: Manifest, visits: Visits, capacity: int, regime: Regime) -> bool:
    bytes_ = manifest.footprint
    if regime in (Regime.KV_SWAP, Regime.LAYER_SWAP):
        pinned = bytes_.weight if regime == Regime.KV_SWAP else 0
        return pinned + max((visits.sizes[unit] for unit in visits.units), default=0) <= capacity
    return (bytes_.total if regime == Regime.RESIDENT else bytes_.total - bytes_.weight) <= capacity


@no_type_check  # called for every access
class _Machine:
    """Host link and memory channel; issues the accesses burst by burst."""

    def __init__(self, trace, units, loads, streamed, chunk, dram, rules) -> None:
        self.units, self.loads, self.streamed = units.tolist(), loads, streamed.tolist()
        self.chunk, self.rules, self.events = chunk, rules, Events()
        timing = dram if rules.write_banks else dataclasses.replace(dram, write_bank_shift=6)
        self.dram, self.link = Dram(timing, self.events), Slots(1)
        self.bounds = [*np.flatnonzero(np.diff(trace.bursts, prepend=-1)).tolist(), trace.addresses.size]
        self.addresses, self.writes = trace.addresses.tolist(), trace.writes.tolist()
        self.left, self.ends, self.coming = 0, [], {}

    def run(self) -> list[int]:
        """End of every burst (ps)."""
        self.start()
        self.events.run()
        return self.ends

    def start(self) -> None:
        burst = len(self.ends)
        if burst + 1 < len(self.bounds):
            first, last = self.bounds[burst], self.bounds[burst + 1]
            self.left = last - first
            for access in range(first, last):
                self.issue(access)

    def finish(self) -> None:
        self.left -= 1
        if not self.left:
            self.ends.append(self.events.now)
            self.start()

    def read(self, access: int, then: Callable[[], None]) -> None:
        self.dram.access(self.addresses[access], self.writes[access], then)

    def issue(self, access: int) -> None:
        unit = self.units[access]
        if self.streamed[access]:
            self.link.take(partial(self.events.after, self.chunk, self.crossed, access))
        elif access in self.loads:
            self.load(access, unit)
        elif unit in self.coming:
            self.coming[unit].append(access)
        else:
            self.read(access, self.finish)

    def crossed(self, access: int) -> None:
        """A streamed chunk has crossed the link."""

        def done() -> None:
            self.link.release()
            self.finish()

        if self.rules.through_memory:
            self.read(access, done)
        else:
            done()

    def load(self, access: int, unit: int) -> None:
        time = self.loads[access]
        if self.rules.load_alone:
            self.events.after(time, self.read, access, self.finish)
        else:
            self.coming[unit] = [access]
            self.link.take(partial(self.events.after, time, self.loaded, unit))

    def loaded(self, unit: int) -> None:
        """A region has crossed the link; whoever waited for it goes on."""
        self.link.release()
        for access in self.coming.pop(unit):
            self.read(access, self.finish)
