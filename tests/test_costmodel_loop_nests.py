"""Loop-nest mappings: access counts against brute force, energy and cycles against Timeloop, gradients."""

import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from costmodel import (
    LoopAccelerator,
    LoopMapping,
    complete_loop_mapping,
    count_loop_accesses,
    format_loop_mapping,
    parse_loop_mapping,
)
from costmodel.mapping.loop_nests.accesses import TENSORS
from costmodel.mapping.loop_nests.mappings import DIMENSIONS

X64 = jax.config.jax_enable_x64
QUICK = {"xla_llvm_disable_expensive_passes": True, "xla_backend_optimization_level": 0}  # compile fast, run slowly

# Timeloop + Accelergy: cycles, energy (uJ), mapping, stride, accumulator words per bank (of 16, 32 bit), scratchpad (B).
# Source: ucb-bar/dosa 322d6848, data/firesim_test_data/dataset.csv
TIMELOOP = [
    (294912, 196.615, "L3[WIO] K48 - L2[WI] K16X - L1[O] C48 P16 C16X - L0[W] P8", 1, 256, 110592),
    (1188864, 816.557, "L3[WIO] C4 K48 - L2[WI] K16X - L1[O] C48 P16 C16X - L0[W] P8", 1, 256, 110592),
    (2458624, 423.604, "L3[WIO] P7 Q14 - L2[WI] K16X - L1[O] K4 S7 R7 Q2 P4 C3X - L0[W] Q4 P4", 2, 512, 130048),
    (451584, 239.362, "L3[WIO] Q14 P2 - L2[WI] K16X - L1[O] K4 S3 R3 C4 Q2 P2 C16X - L0[W] Q2 P14", 1, 512, 130048),
    (451584, 345.716, "L3[WIO] P4 K2 Q2 - L2[WI] K16X - L1[O] K4 S3 R3 C8 C16X - L0[W] Q14 P7", 2, 512, 130048),
    (205888, 150.203, "L3[WIO] P7 Q7 - L2[WI] K16X - L1[O] K32 C8 Q4 P4 C16X - L0[W] N1", 1, 512, 130048),
    (453152, 344.313, "L3[WIO] C2 P2 K4 - L2[WI] K16X - L1[O] K4 S3 R3 C8 Q14 P7 C16X - L0[W] N1", 2, 512, 130048),
    (610112, 694.361, "L3[WIO] S3 K8 R3 - L2[WI] K16X - L1[O] K4 C32 Q7 P7 C16X - L0[W] N1", 2, 512, 130048),
    (453152, 486.062, "L3[WIO] S3 K4 R3 - L2[WI] K16X - L1[O] K8 C32 Q7 P7 C16X - L0[W] N1", 1, 512, 130048),
    (256637, 224.843, "L3[WIO] K2 C8 - L2[WI] K10X - L1[O] K50 C16 C16X - L0[W] N1", 1, 512, 130048),
    (5080320, 2574.19, "L3[WIO] K45 - L2[WI] K16X - L1[O] S3 R3 C16 Q14 P28 C16X - L0[W] Q2", 1, 784, 267264),
    (317520, 348.64, "L3[WIO] K5 R3 - L2[WI] K16X - L1[O] K9 S3 C16 Q7 P7 C16X - L0[W] N1", 1, 784, 267264),
    (687104, 757.614, "L3[WIO] K2 R3 C2 S3 - L2[WI] K16X - L1[O] K8 C64 P4 C16X - L0[W] Q4", 2, 784, 267264),
    (11593, 13.0925, "L3[WIO] N1 - L2[WI] K12X - L1[O] K3 S3 R3 C16 P2 C16X - L0[W] Q4 P2", 1, 784, 267264),
    (11696400, 3434.61, "L3[WIO] K2 Q95 P19 - L2[WI] K16X - L1[O] K2 S3 R3 Q3 P3 - L0[W] Q2 P10", 1, 1376, 398336),
    (28901376, 24281.7, "L3[WIO] K64 Q2 P7 - L2[WI] K16X - L1[O] S3 R3 C64 Q14 C16X - L0[W] P4", 1, 1376, 398336),
]  # fmt: skip

# What the levels keep: Gemmini; everything everywhere; sums also in the scratchpad
GEMMINI = ("W", "O", "WI", "WIO")
ARCHITECTURES = {"gemmini": GEMMINI, "everything": ("WIO", "WIO", "WIO", "WIO"), "sums": ("I", "WO", "WIO", "WIO")}
QUICKEST = [("gemmini", 1, "neighbour"), ("sums", 2, "all")]  # the others are slow


# Brute force ------------------------------------------------------------------------------------------------------------


def steps(loops: list[tuple[int, int, int]]) -> Iterator[tuple[tuple[int, ...], int]]:
    """Positions of nested loops (dimension, factor, step), outermost first; with each, which loop advanced (-1: the first)."""
    before: tuple[int, ...] | None = None
    for indices in itertools.product(*(range(n) for _, n, _ in loops)):
        moved = -1 if before is None else next(j for j, (a, b) in enumerate(zip(indices, before, strict=True)) if a != b)
        yield indices, moved
        before = indices


def brute_force(mapping: LoopMapping, keeps: tuple[str, ...], stride: int, windows: str) -> dict[str, np.ndarray]:
    """Reads, writes and updates by running the nest: every copy of every level holds a set of elements."""
    temporal, spatial, place = (np.asarray(table).astype(int) for table in mapping)
    levels = len(keeps)
    counts = {name: np.zeros((levels, 3)) for name in ("reads", "writes", "updates")}

    def loops_of(level: int, across: bool) -> list[tuple[int, int, int]]:
        inner = np.prod(temporal[:level] * spatial[:level], axis=0)
        if across:
            return [(d, spatial[level, d], inner[d]) for d in range(7) if spatial[level, d] > 1]
        order = np.argsort(place[level])
        return [(d, temporal[level, d], inner[d] * spatial[level, d]) for d in order if temporal[level, d] > 1]

    def places(loops: list[tuple[int, int, int]]) -> list[tuple[int, ...]]:
        found = []
        for indices, _ in steps(loops):
            at = [0] * 7
            for (d, _, step), index in zip(loops, indices, strict=True):
                at[d] += index * step
            found.append(tuple(at))
        return found

    def element(tensor: str, at: tuple[int, ...]) -> tuple[int, ...]:
        r, s, p, q, c, k, n = at
        return {"W": (k, c, r, s), "I": (n, c, stride * p + r, stride * q + s), "O": (n, k, p, q)}[tensor]

    def box(tensor: str, base: tuple[int, ...], inside: list[tuple[int, ...]]) -> frozenset[tuple[int, ...]]:
        points = {element(tensor, tuple(a + b for a, b in zip(base, off, strict=True))) for off in inside}
        if stride == 1:
            return frozenset(points)  # without gaps the set is its hull
        return frozenset(itertools.product(*(range(min(axis), max(axis) + 1) for axis in zip(*points, strict=True))))

    own = {"W": {0, 1, 4, 5}, "I": {0, 1, 2, 3, 4, 6}, "O": {2, 3, 5, 6}}
    for tensor, column in zip(TENSORS, range(3), strict=True):
        kept = [level for level in range(levels) if tensor in keeps[level]]
        for level, outside in zip([-1, *kept[:-1]], kept, strict=True):
            outer = [loop for above in reversed(range(level + 1, levels)) for loop in loops_of(above, False)]
            inside = places([loop for below in range(level + 1) for across in (False, True) for loop in loops_of(below, across)])
            near = places([loop for between in range(level + 1, outside + 1) for loop in loops_of(between, True)])
            far = places([loop for above in range(outside + 1, levels) for loop in loops_of(above, True)])
            held: dict[tuple[tuple[int, ...], tuple[int, ...]], frozenset] = {}
            seen: dict[tuple[tuple[int, ...], tuple[int, ...]], set] = {}
            for base, (_, moved) in zip(places(outer), steps(outer), strict=True):
                restarts = moved >= 0 and any(d in own[tensor] for d, _, _ in outer[moved + 1 :])
                for parent in far:
                    sent: set = set()
                    again: set = set()
                    for copy in near:
                        at = tuple(a + b + c for a, b, c in zip(base, parent, copy, strict=True))
                        tile, old = box(tensor, at, inside), held.get((parent, copy), frozenset())
                        if level < 0 or (windows == "neighbour" and restarts and tile != old):
                            old = frozenset()  # the cells themselves hold nothing
                        new, known = tile - old, seen.setdefault((parent, copy), set())
                        sent |= new
                        again |= new & known
                        if level >= 0:
                            counts["writes"][level, column] += len(new & known) if tensor == "O" else len(new)
                        known |= new
                        held[parent, copy] = tile
                    top = outside == levels - 1
                    counts["updates" if tensor == "O" else "reads"][outside, column] += len(sent)
                    if tensor == "O":
                        counts["reads"][outside, column] += len(again) if top else len(sent)
    return counts


def random_mapping(rng: np.random.Generator) -> LoopMapping:
    temporal, spatial = np.ones((4, 7)), np.ones((4, 7))
    for _ in range(rng.integers(3, 8)):
        temporal[rng.integers(4), rng.integers(7)] = rng.choice([2, 2, 3])
    for _ in range(rng.integers(0, 3)):
        spatial[rng.integers(4), rng.choice([4, 5, 6])] = 2  # channels, filters, batch: windows of copies do not overlap
    return LoopMapping(temporal, spatial, np.argsort(rng.random((4, 7)), axis=1))


@functools.cache
def counter(keeps: tuple[str, ...], stride: int, windows: str):
    count = jax.vmap(lambda mapping: count_loop_accesses(mapping, keeps, (stride, stride), windows))
    return jax.jit(count, compiler_options=QUICK)


CASES = [
    pytest.param(
        keeps,
        stride,
        windows,
        id=f"{name}-{stride}-{windows}",
        marks=() if (name, stride, windows) in QUICKEST else pytest.mark.slow,
    )
    for name, keeps in ARCHITECTURES.items()
    for stride, windows in ((1, "all"), (1, "neighbour"), (2, "all"))
]


@pytest.mark.parametrize(("keeps", "stride", "windows"), CASES)
def test_accesses_equal_brute_force(keeps, stride, windows):
    rng = np.random.default_rng(len(keeps[0]) + stride)
    drawn = [random_mapping(rng) for _ in range(200)]
    mappings = [m for m in drawn if m.temporal.prod() * m.spatial.prod() <= 200][:40]
    assert len(mappings) == 40
    batch = LoopMapping(*(jnp.asarray(np.stack(column)) for column in zip(*mappings, strict=True)))
    got = counter(keeps, stride, windows)(batch)
    for index, mapping in enumerate(mappings):
        want = brute_force(mapping, keeps, stride, windows)
        for name, table in want.items():
            np.testing.assert_allclose(
                getattr(got, name)[index], table, rtol=1e-5, err_msg=f"{name} {format_loop_mapping(mapping, keeps)}"
            )


# Timeloop ---------------------------------------------------------------------------------------------------------------


def test_energy_and_cycles_are_timeloops():
    cost = jax.jit(LoopAccelerator.cost, static_argnums=2, compiler_options=QUICK)
    for cycles, energy, text, stride, words, scratchpad in TIMELOOP:
        got = cost(LoopAccelerator(accumulator=words * 64, scratchpad=scratchpad), parse_loop_mapping(text), (stride, stride))
        np.testing.assert_allclose(got.cycles, cycles, rtol=1e-4, err_msg=text)
        np.testing.assert_allclose(got.energy * 1e6, energy, rtol=3e-3, err_msg=text)
        assert got.excess <= 1 + 1e-6, text


def test_a_matrix_product_by_hand():
    # C = K = 4, P = 2, no reuse but what order gives: K outside, P inside at the memory, all in single-word levels
    mapping = parse_loop_mapping("L3[WIO] K4 C4 P2 - L2[WI] N1 - L1[O] N1 - L0[W] N1")
    one = LoopMapping(*(jnp.repeat(jnp.asarray(table)[None], 40, 0) for table in mapping))
    got = jax.tree.map(lambda x: x[0], counter(GEMMINI, 1, "neighbour")(one))
    # weights move with K and C only, innermost P leaves them: 16 fills of registers and scratchpad
    np.testing.assert_allclose(got.writes[:, 0], [16, 0, 16, 0])
    # inputs (c, p) change in each of the 32 iterations
    np.testing.assert_allclose(got.writes[2, 1], 32)
    # outputs (k, p): each of 8 comes once for each of 4 c: 32 updates of memory, 24 times the old sum is read
    np.testing.assert_allclose([got.updates[3, 2], got.reads[3, 2]], [32, 24])
    np.testing.assert_allclose(got.macs, 32)


# Mappings and properties ------------------------------------------------------------------------------------------------


def test_text_of_mappings():
    text = "L3[WIO] C4 K48 - L2[WI] K16X - L1[O] C48 P16 C16X - L0[W] P8"
    mapping = parse_loop_mapping(text)
    assert format_loop_mapping(mapping) == text
    sizes = dict(zip(DIMENSIONS, mapping.temporal.prod(0) * mapping.spatial.prod(0), strict=True))
    assert sizes == dict(R=1, S=1, P=128, Q=1, C=3072, K=768, N=1)
    whole = complete_loop_mapping(mapping, sizes | {"C": 6144})
    assert float(whole.temporal[3, DIMENSIONS.index("C")]) == 8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: parse_loop_mapping("L1[O] C4 - L0[W] X3"), "cannot read 'L0"),
        (lambda: parse_loop_mapping("L2[O] C4 - L0[W] C3"), r"levels \[2, 0\]"),
        (lambda: parse_loop_mapping("L1[WIO] C4 C2 - L0[W] C3"), "C occurs twice"),
        (lambda: count_loop_accesses(parse_loop_mapping("L1[WIO] C4 - L0[W] C3")), "one entry per level"),
        (lambda: count_loop_accesses(parse_loop_mapping("L1[WIO] C4 - L0[W] C3"), ("W", "WI")), "the last of them WIO"),
        (lambda: LoopAccelerator(windows="some"), "unknown windows 'some'"),
        (lambda: parse_loop_mapping("L1[O] C0 - L0[W] C3"), "cannot read 'L1"),
        (lambda: count_loop_accesses(parse_loop_mapping("L1[WIO] C4 - L0[W] C3"), ("WX", "WIO")), "the last of them WIO"),
        (lambda: count_loop_accesses(parse_loop_mapping("L0[WIO] C4"), ("WIO",), (0, 1)), "stride = .0, 1. is outside"),
        (lambda: complete_loop_mapping(parse_loop_mapping("L0[WIO] C4"), {"Z": 2}), "unknown dimension 'Z'"),
    ],
    ids=["loop", "levels", "twice", "number", "last", "windows", "zero", "tensor", "stride", "dimension"],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def real_mappings(count: int) -> LoopMapping:
    rng = np.random.default_rng(5)
    temporal, place = np.exp(rng.uniform(0.1, 1.5, (count, 4, 7))), np.argsort(rng.random((count, 4, 7)), axis=2)
    spatial = np.ones((count, 4, 7))
    spatial[:, 1, 4], spatial[:, 2, 5] = rng.uniform(1, 16, (2, count))
    return LoopMapping(jnp.asarray(temporal, float), jnp.asarray(spatial, float), jnp.asarray(place))


def log_product(logs: jax.Array, mapping: LoopMapping) -> jax.Array:
    cost = LoopAccelerator(windows="all").cost(mapping._replace(temporal=jnp.exp(logs)))
    return jnp.log(cost.energy) + jnp.log(cost.latency)


def log_accesses(logs: jax.Array, mapping: LoopMapping) -> jax.Array:
    inner = LoopMapping(jnp.exp(logs)[:2], mapping.spatial[:2], mapping.place[:2])
    return jnp.sum(jnp.log(count_loop_accesses(inner, ("WIO", "WIO"), (2, 1), "all").total))


@functools.cache
def value_and_slope(function):
    return jax.jit(jax.vmap(jax.value_and_grad(function)), compiler_options=QUICK)


@pytest.mark.parametrize("function", [log_accesses, pytest.param(log_product, marks=pytest.mark.slow)], ids=["accesses", "cost"])
def test_gradients_match_differences(function):
    mappings = real_mappings(64)
    run, logs = value_and_slope(function), jnp.log(mappings.temporal)
    slopes = run(logs, mappings)[1]
    assert np.isfinite(slopes).all()
    direction = jnp.asarray(np.random.default_rng(6).normal(size=logs.shape))
    step = 1e-6 if X64 else 1e-3
    up, down = (run(logs + sign * step * direction, mappings)[0] for sign in (1, -1))
    error = np.abs(np.asarray((up - down) / (2 * step) - jnp.sum(slopes * direction, (1, 2))))
    assert np.median(error) < (1e-6 if X64 else 5e-3) and np.mean(error > 3e-2) < 0.05  # a few straddle a kink
    assert run._cache_size() == 1


def test_a_factor_close_to_one_does_next_to_nothing_where_all_windows_are_kept():
    mappings = real_mappings(64)
    rows = jnp.asarray(np.random.default_rng(7).random((64, 4, 7)) < 0.5)
    at = [jnp.where(rows, scale, mappings.temporal) for scale in (1.0, 1.0001)]
    values = [value_and_slope(log_accesses)(jnp.log(temporal), mappings)[0] for temporal in at]
    np.testing.assert_allclose(*values, atol=0.05)


def test_bounds_and_monotony():
    mappings = real_mappings(500)
    run = jax.jit(jax.vmap(LoopAccelerator.cost, (None, 0)), compiler_options=QUICK)
    base, more = run(LoopAccelerator(), mappings), run(LoopAccelerator(memory_words=16.0), mappings)
    assert np.all(more.cycles <= base.cycles) and np.all(more.energy == base.energy)
    assert np.all((base.utilization > 0) & (base.utilization <= 1 + 1e-5))
    used = np.asarray(mappings.spatial).max((1, 2))
    np.testing.assert_allclose(base.needs.side, used, rtol=1e-6)
    assert np.all(base.excess >= used / 16 - 1e-6)
