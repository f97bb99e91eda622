"""Capacity regimes: PLENA's Rust models to the picosecond, the closed form beside the replay, every corrected quirk, gradients.

Reference: AICrossSim/PLENA_Simulator pull request 90, its memory library driven by a small harness (simulated picoseconds).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from costmodel import (
    CORRECTED_RULES,
    DDR3_800_X16,
    DDR4_2400,
    PUBLISHED_RULES,
    DramTiming,
    Manifest,
    Regime,
    Region,
    RegionKind,
    burst_times,
    choose_regime,
    plan_bursts,
    regime_times,
    relaxed_time,
    replay,
    trace_bursts,
    trace_segments,
)
from costmodel.memory.regimes import pinned_bytes
from costmodel.memory.replays import transfer_time
from costmodel.memory.validation import clm60m_manifest, clm60m_plan

W, KV, ACT = RegionKind
X64 = jax.config.read("jax_enable_x64")


def regions(*rows):
    return Manifest(tuple(Region(offset, size, kind, layer) for layer, offset, size, kind in rows))


LAYERS = regions(*((layer, 65536 * layer, 65536, W) for layer in range(4)))
MIXED = regions((0, 0, 884736, W), *((0, 884736 + 221184 * i, 221184, KV) for i in range(4)),
                *((0, 1769472 + 65536 * i, 65536, ACT) for i in range(3)))  # fmt: skip
ONE = regions((0, 0, 49152, W))
CYCLE = tuple((65536 * layer, 16, 16) for _ in range(3) for layer in range(4))
STATE = (*((884736 + 221184 * i, 32, 16) for i in range(4)), *((1769472 + 65536 * i, 16, 16) for i in range(3)))
# manifest, segments, capacity, link, auto; regime: picoseconds, swaps, bytes swapped, streamed, resident (None: not counted)
CASES = {
    "serial": (ONE, ((0, 768, 1),), 2**29, 60e6, "resident", {
        "resident": (23670528, 0, 0, 0, 49152), "kv-swap": (23670528, 0, 0, 0, 49152),
        "weight-stream": (842358528, 0, 0, 49152, 0), "host-stream": (842358528, 0, 0, 49152, 0),
        "layer-swap": (842870528, 1, 49152, 0, None)}),
    "burst": (ONE, ((0, 768, 64),), 2**29, 1.5e9, "resident", {
        "resident": (2888844, 0, 0, 0, 49152), "weight-stream": (55926528, 0, 0, 49152, 0),
        "host-stream": (55926528, 0, 0, 49152, 0), "layer-swap": (35444429, 1, 49152, 0, None)}),
    "cyclic, all fit": (LAYERS, CYCLE, 262144, 4.75e6, "resident", {
        "resident": (969612, 0, 0, 0, 12288), "layer-swap": (55188975193, 4, 262144, 0, None),
        "weight-stream": (2592733632, 0, 0, 12288, 0)}),
    "cyclic, half a layer fits": (LAYERS, CYCLE, 32768, 4.75e6, "weight-stream", {
        "layer-swap": (165564993852, 12, 786432, 0, None), "kv-swap": (969612, 0, 0, 0, 12288)}),
    "state fits": (MIXED, ((0, 64, 16), *STATE, *STATE), 1966080, 1.5e9, "resident", {
        "resident": (2100826, 0, 0, 0, 26624), "kv-swap": (722632471, 7, 1081344, 0, 4096),
        "weight-stream": (6438166, 0, 0, 4096, 22528), "layer-swap": (1312768347, 1, 1966080, 0, None),
        "host-stream": (30293536, 0, 0, 26624, 0)}),
    "state hardly fits": (MIXED, ((0, 64, 16), *STATE, *STATE), 984736, 1.5e9, "kv-swap", {
        "kv-swap": (1443169114, 14, 2162688, 0, 4096)}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_published_cases_to_the_picosecond(name):
    manifest, segments, capacity, link, auto, expected = CASES[name]
    trace = trace_segments(segments)
    assert choose_regime(manifest.footprint, capacity) == auto
    assert replay(manifest, trace, link=link, capacity=capacity).regime == auto
    for regime, (time, swaps, swapped, streamed, resident) in expected.items():
        result = replay(manifest, trace, regime, link=link, capacity=capacity)
        found = (result.picoseconds, result.swaps, result.swapped_bytes, result.streamed_bytes)
        assert found == (time, swaps, swapped, streamed), regime
        assert resident is None or result.resident_bytes == resident


def test_closed_form_per_burst_agrees_with_the_replay():
    manifest, segments, capacity, link, _, expected = CASES["state fits"]
    plan = plan_bursts(manifest, trace_segments(segments))
    for regime, (time, swaps, swapped, streamed, _) in expected.items():
        result = regime_times(plan, capacity, link, regime)
        assert result.time[0, 0] == pytest.approx(1e-12 * time, rel=1e-4), regime
        assert (result.swaps[0], result.swapped_bytes[0], result.streamed_bytes[0]) == (swaps, swapped, streamed)


@pytest.mark.parametrize("rules", [
    pytest.param(PUBLISHED_RULES, id="plena", marks=pytest.mark.slow),
    pytest.param(dataclasses.replace(CORRECTED_RULES, oversized=True), id="corrected"),
])  # fmt: skip
def test_closed_form_on_a_random_trace(rules):
    rng = np.random.default_rng(0)
    starts, counts, bursts = 64 * rng.integers(0, 1900544 // 64, 40), rng.integers(1, 40, 40), rng.choice([1, 16], 40)
    trace = trace_segments([(int(s), int(n), int(b)) for s, n, b in zip(starts, counts, bursts, strict=True)])
    capacities, links = [900_000, 1_300_000, 1_900_000], [4.75e6, 1.5e9]
    plan = plan_bursts(MIXED, trace, rules=rules)
    for regime in ("kv-swap", "weight-stream", "host-stream"):
        quick = regime_times(plan, capacities, links, regime)
        for i, capacity in enumerate(capacities):
            for j, link in enumerate(links):
                exact = replay(MIXED, trace, regime, link=link, capacity=capacity, rules=rules)
                assert quick.time[i, j] == pytest.approx(exact.seconds, rel=5e-3)
                assert quick.swapped_bytes[i] == exact.swapped_bytes and quick.streamed_bytes[i] == exact.streamed_bytes


# Memory timing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("addresses, expected", [
    ([0], 30821),  # tCK + tRCD + tCAS + burst = 0.833 (1 + 16 + 16 + 4) ns
    ([1024 * i for i in range(8)], 124117),  # one row: 0.833 (1 + 16 + 8 x 16 + 4)
    ([16384 * i for i in range(8)], 310709),  # eight rows of a bank: 30821 + 7 x 0.833 x 48 ns
    ([64 * i for i in range(16)], 80801),  # sixteen banks: 0.833 (1 + 16 + 16 + 16 x 4)
])  # fmt: skip
def test_memory_closed_forms(addresses, expected):
    assert replay(ONE, trace_bursts([addresses]), "resident", link=1.0, capacity=1).picoseconds == expected


def test_bursts_of_64_stream_at_17_gigabytes_per_second():
    # 1 MiB in 61,628.7 ns in the Rust model; peak 64 B / 3.332 ns = 19.2 GB/s
    result = replay(ONE, trace_segments([(0, 2**14, 64)]), "resident", link=1.0, capacity=1)
    assert result.seconds == pytest.approx(61628.7e-9, rel=1e-6) and DDR4_2400.peak_bandwidth == pytest.approx(19.2e9, rel=1e-3)
    board = replay(ONE, trace_segments([(0, 2**12, 64)]), "resident", link=1.0, capacity=1, dram=DDR3_800_X16)
    assert 2**18 / board.seconds < DDR3_800_X16.peak_bandwidth == 1.6e9


def test_writes_take_their_own_banks_under_the_published_rules():
    # 16 writes of 1 KiB strides: one bank by bits 6..9, sixteen banks by bits 10..13 (the published mismatch)
    addresses = [[1024 * i for i in range(16)]]
    trace = trace_bursts(addresses, writes=[True])
    published, corrected = (
        replay(ONE, trace, "resident", link=1.0, capacity=1, rules=rules) for rules in (PUBLISHED_RULES, CORRECTED_RULES)
    )
    # tCK + tRCD, then the data bus: 16 x 3.332 after 14.161 ns. In one bank the row opens once, the same bus time.
    assert published.picoseconds == corrected.picoseconds == 833 * 17 + 16 * 3332
    assert published.bytes_read == 0


# Rules ----------------------------------------------------------------------------------------------------------------


def change(**rules):
    return dataclasses.replace(PUBLISHED_RULES, **rules)


def test_published_lru_is_fifo():
    # order 0 1 0 2 0 1, room for two equal layers: 5 loads first in first out, 4 least recently used
    trace = trace_bursts([[65536 * layer] for layer in (0, 1, 0, 2, 0, 1)])
    swaps = [
        replay(LAYERS, trace, "layer-swap", link=1e9, capacity=131072, rules=change(policy=p)).swaps for p in ("fifo", "lru")
    ]
    assert swaps == [5, 4]


def test_transfers_in_whole_nanoseconds():
    # floor(64e9 / 1.5e9) = 42 ns, exactly 42.667; 64 B at 60 MB/s: 1066 ns; at 4.75 MB/s: 13473 ns
    assert [transfer_time(64, link) for link in (1.5e9, 60e6, 4.75e6)] == [42000, 1066000, 13473000]
    assert transfer_time(64, 1.5e9, whole_nanoseconds=False) == 42666
    trace = trace_segments([(0, 16, 16)])
    times = [
        replay(ONE, trace, "weight-stream", link=1.5e9, capacity=1, rules=change(whole_nanoseconds=w)) for w in (True, False)
    ]
    assert times[1].picoseconds - times[0].picoseconds == 16 * 666


def test_streamed_chunks_may_bypass_memory():
    trace = trace_segments([(0, 16, 16)])
    through, direct = (
        replay(ONE, trace, "host-stream", link=60e6, capacity=1, rules=change(through_memory=t)).picoseconds
        for t in (True, False)
    )
    assert (through, direct) == (16 * (1066000 + 30821), 16 * 1066000)


def test_host_streaming_takes_keys_for_weights():
    trace = trace_segments([(0, 16, 16), (884736, 16, 16)])
    found = [
        replay(MIXED, trace, "host-stream", link=1e9, capacity=1, rules=change(stream_all_kinds=k)).streamed_bytes
        for k in (True, False)
    ]
    assert found == [2048, 1024]


def test_a_load_holds_up_its_region():
    # 16 reads, one load of 221,184 B at 1.5 GB/s (147,456 ns). Published: the other 15 go on, so the last ends 30.821 ns behind.
    trace = trace_segments([(884736, 16, 16)])
    alone, all_wait = (
        replay(MIXED, trace, "kv-swap", link=1.5e9, capacity=2**21, rules=change(load_alone=a)).picoseconds for a in (True, False)
    )
    assert (alone, all_wait) == (147456000 + 30821, 147456000 + 80801)


def test_two_loads_share_the_link():
    trace = trace_bursts([[884736, 884736 + 221184]])
    times = [
        replay(MIXED, trace, "kv-swap", link=1.5e9, capacity=2**21, rules=change(load_alone=a)).seconds for a in (True, False)
    ]
    assert times[1] / times[0] == pytest.approx(2, rel=1e-3)


def test_written_regions_go_back():
    # room for one key region: read 1, write 1, read 2 -> 1 crosses the link back before 2 comes; weights stay
    trace = trace_bursts([[884736], [884736], [1105920]], writes=[False, True, False])
    room = 884736 + 221184
    kept, back = (replay(MIXED, trace, "kv-swap", link=1.5e9, capacity=room, rules=change(write_back=w)) for w in (False, True))
    assert (kept.written_back_bytes, back.written_back_bytes) == (0, 221184)
    assert back.seconds - kept.seconds == pytest.approx(147.456e-6, rel=1e-6)
    first = trace_bursts([[884736]], writes=[True])  # published: writes bring nothing in
    loads = [replay(MIXED, first, "kv-swap", link=1e9, capacity=room, rules=change(write_back=w)).swaps for w in (False, True)]
    assert loads == [0, 1]


def test_activations_among_the_swapped_bytes_are_told_apart():
    trace = trace_segments(STATE)
    result = replay(MIXED, trace, "kv-swap", link=1.5e9, capacity=1966080)
    assert result.swapped_by_kind == (0, 884736, 196608) and result.swapped_bytes == 1081344 and result.fits
    assert not replay(MIXED, trace, "kv-swap", link=1.5e9, capacity=900_000).fits


def test_corrected_rules_never_stream_more_and_refuse_what_cannot_be_loaded():
    trace = trace_segments(CYCLE)
    with pytest.raises(ValueError, match="65536 B is larger than the memory left for it, 32768 B"):
        replay(LAYERS, trace, "layer-swap", link=4.75e6, capacity=32768, rules=CORRECTED_RULES)
    with pytest.raises(ValueError, match="65536 B is larger than the memory left for it, 32768 B"):
        regime_times(plan_bursts(LAYERS, trace, rules=CORRECTED_RULES), 32768, 4.75e6, "layer-swap")
    assert replay(LAYERS, trace, "weight-stream", link=4.75e6, capacity=32768, rules=CORRECTED_RULES).fits


# clm60m ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan():
    return clm60m_plan()


SIZES = [2**29, 4718592, 4718591, 3833856, 3833855]  # weights 3,833,856 B, all 4,718,592 B; both comparisons are inclusive
LINKS = np.geomspace(1e6, 1e11, 2000)


@pytest.fixture(scope="module")
def swept(plan):
    return {regime: regime_times(plan, SIZES, LINKS, regime) for regime in ("auto", *Regime)}


def test_regimes_of_clm60m(swept):
    expected = ("resident", "resident", "kv-swap", "kv-swap", "weight-stream")
    assert swept["auto"].regime == expected == tuple(choose_regime(clm60m_manifest().footprint, size) for size in SIZES)
    assert swept["auto"].swaps == (0, 0, 10, 14, 0) and swept["auto"].streamed_bytes == (0, 0, 0, 0, 4259840)
    assert swept["host-stream"].streamed_bytes[0] == 5242880 and swept["layer-swap"].swapped_bytes[0] == 4718592


def test_time_falls_with_the_link_and_pinned_bytes_with_capacity(plan, swept):
    for result in swept.values():
        assert (np.diff(result.time, axis=1) <= 1e-6 * result.time[:, :-1]).all()
    assert (np.diff(swept["auto"].time, axis=0) >= 0).all()  # less room
    rooms = jnp.linspace(0.0, 1e6, 2000)
    loaded = jax.jit(jax.vmap(lambda room: pinned_bytes(plan.regions, plan.unit, room)))(rooms)
    assert (jnp.diff(loaded) <= 0).all() and float(loaded[-1]) == 884736.0


@pytest.fixture(scope="module")
def exact_times(plan):
    """The plan with transfers not floored: a floor makes finite differences meaningless."""
    return dataclasses.replace(plan, rules=change(whole_nanoseconds=False))


def test_gradients(exact_times):
    def both(capacity, link):
        return relaxed_time(exact_times, capacity, link), *jax.grad(relaxed_time, (1, 2))(exact_times, capacity, link)

    points = np.array([(4.2e6, 1.5e9), (3.8e6, 60e6), (5e6, 4.75e6)])
    steps = np.stack([np.full(3, 2e3), 3e-3 * points[:, 1]], 1)
    around = [points + sign * steps * np.eye(2)[axis] for axis in (0, 1) for sign in (1, -1)]
    batch = np.concatenate([points, *around, [(0.0, 1e30)] * 3])
    time, *slopes = (np.asarray(x).reshape(6, 3) for x in jax.jit(jax.vmap(both))(*jnp.asarray(batch.T, float)))
    for axis in (0, 1):
        found = (time[1 + 2 * axis] - time[2 + 2 * axis]) / (2 * steps[:, axis])
        np.testing.assert_allclose(slopes[axis][0], found, rtol=2e-2)
        assert (found < 0).all()
    assert np.isfinite(time).all() and np.isfinite(slopes).all()


def test_link_gradient_of_the_hard_regimes(exact_times):
    # on a slow link everything that loads or streams takes time 1 / link: d ln T / d ln link -> -1
    def log_time(log_link, regime):
        return jnp.log(jnp.sum(burst_times(exact_times, jnp.asarray(3000, jnp.int32), jnp.exp(log_link), regime)))

    names = ("weight-stream", "kv-swap", "layer-swap", "resident")
    slopes = jax.jit(lambda x: [jax.grad(log_time)(x, name) for name in names])(jnp.log(1e5))
    np.testing.assert_allclose(slopes, [-1, -1, -1, 0], atol=1e-3)


def test_sharp_blend_is_the_hard_choice(plan, swept):
    blend = jax.jit(lambda c: relaxed_time(plan, c, jnp.asarray(LINKS[500]), 1000.0))
    hard = [swept[regime].time[0, 500] for regime in ("resident", "weight-stream")]
    np.testing.assert_allclose([blend(5.5e6), blend(1e6)], hard, rtol=1e-3)


def test_one_trace_for_changed_values(plan):
    traces = []

    @jax.jit
    def total(capacity, link):
        traces.append(1)
        return jnp.sum(burst_times(plan, capacity, link))

    for units, link in ((10, 1e6), (500, 2e9), (2**20, 5e7)):
        total(jnp.asarray(units, jnp.int32), jnp.asarray(link))
    assert len(traces) == 1


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, message", [
    (dict(link=0.0), r"link bandwidth = 0 B/s is outside its range \(0, inf\) B/s"),
    (dict(link=float("nan")), "link bandwidth = nan"),
    (dict(capacity=0), r"capacity = 0 B is outside its range \[1, "),
    (dict(capacity=None), "capacity is missing"),
    (dict(regime="paging"), "unknown regime 'paging'; known: auto, resident"),
])  # fmt: skip
def test_bad_replays(options, message):
    given = dict(regime="auto", link=1e9, capacity=2**20) | options
    with pytest.raises(ValueError, match=message):
        replay(ONE, trace_segments([(0, 1, 1)]), **given)


def test_bad_sweeps_traces_and_timings(plan):
    for arguments, message in (
        ((0, 1e9), "capacity = 0 B"), ((1, 0.0), "bandwidth = 0 B/s"), ((1, 1e9, "x"), "unknown regime"),
        (([10.5], 1e9), r"capacity = 10.5 B is outside"), ((float("nan"), 1e9), "capacity = nan B"),
        (([], 1e9), "capacities must be a number or a row of at least one"), ((1, []), "links must be a number or a row"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            regime_times(plan, *arguments)
    for make, message in (
        (lambda: trace_bursts([]), "at least one burst"),
        (lambda: trace_bursts([[-64]]), "address = -64 B"),
        (lambda: trace_bursts([np.asarray([0.5])]), "addresses of a trace must be whole numbers, got float64"),
        (lambda: trace_segments([(0, 0, 1)]), "chunks = 0"),
        (lambda: DramTiming("x", 0, 1, 1, 1, 1), r"x: clock = 0 is outside its range \[1, inf\)"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
