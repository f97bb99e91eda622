"""Polyhedral estimates: footprints against enumeration, traffic against traced programs, bounds, fusion, legality."""

import functools
import itertools
import math
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from costmodel import (
    HARD,
    STRAIGHT_THROUGH,
    AffineProgram,
    ReuseProfile,
    best_tiles,
    bound_sizes,
    check_fusion,
    check_tiling,
    footprints,
    fuse,
    group_stages,
    io_lower_bound,
    list_bounds,
    list_polybench,
    lru_misses,
    make_nest,
    nest_traffic,
    overlap_redundancy,
    overlapped_loads,
    polybench,
    reuse_profile,
    soft,
    time_tiling,
)
from workloads import OpKind, make_table

pytestmark = pytest.mark.single  # whole numbers: the same in either precision

GEMM = make_nest("i j k", "C[i, j] += A[i, k] * B[k, j]")
CONVOLUTION = make_nest("c y x r s", "O[y, x] += I[c, y + r, x + s] * W[c, r, s]")
CAPACITIES = (64, 256, 1024, 4096, 16384, 65536)

# Read misses of traced programs in an LRU cache of each of CAPACITIES: shared/reference/workloads/polybench_lru.json, measured
# there by executing each program on arrays that record every access, stack distances exact.
TILED = {
    ("ctile", 60, 5): (90000, 90000, 50400, 50400, 10800, 10800),
    ("ctile", 60, 10): (259200, 46800, 46800, 28800, 10800, 10800),
    ("ctile", 60, 15): (244800, 243856, 32400, 21600, 10800, 10800),
    ("ctile", 60, 30): (230400, 230400, 18000, 18000, 10800, 10800),
    ("cube", 60, 6): (108000, 75600, 43200, 43200, 10800, 10800),
    ("cube", 60, 10): (259200, 64800, 46800, 28800, 10800, 10800),
    ("cube", 60, 15): (244800, 243008, 32400, 21600, 10800, 10800),
    ("cube", 60, 30): (230400, 230400, 21600, 18000, 10800, 10800),
}
SKEWED = {  # dimensions, extent, width, steps
    (1, 2000, 16, 64): (17958, 2002, 2002, 2002, 2002, 2002),
    (1, 2000, 64, 64): (130990, 5901, 2002, 2002, 2002, 2002),
    (1, 2000, 256, 64): (128819, 128819, 2868, 2002, 2002, 2002),
    (2, 96, 16, 16): (292427, 173612, 44727, 26649, 9588, 9588),
    (2, 96, 32, 16): (415408, 163686, 144096, 23043, 9588, 9588),
}
UNTILED = {
    "correlation": (dict(m=64, n=64), (278592, 145286, 138602, 17789, 4096, 4096)),
    "2mm": (dict(ni=48, nj=48, nk=48, nl=48), (444672, 228096, 228096, 11520, 9216, 9216)),
    "atax": (dict(m=200, n=200), (160000, 160000, 40200, 40200, 40200, 40200)),
    "doitgen": (dict(nq=20, nr=20, np=32), (831600, 432400, 422800, 13824, 13824, 13824)),
    "gemm": (dict(ni=64, nj=64, nk=64), (532480, 270336, 270336, 270336, 12288, 12288)),
    "gesummv": (dict(n=200), (120000, 120000, 80200, 80200, 80200, 80200)),
    "syr2k": (dict(m=64, n=64), (387516, 268193, 264845, 206813, 10272, 10272)),
    "trmm": (dict(m=64, n=64), (230896, 134766, 127890, 13796, 6112, 6112)),
    "durbin": (dict(n=200), (63407, 21591, 200, 200, 200, 200)),
    "lu": (dict(n=80), (286312, 176752, 170513, 6400, 6400, 6400)),
    "trisolv": (dict(n=300), (89804, 82172, 45450, 45450, 45450, 45450)),
    "floyd-warshall": (dict(n=64), (520129, 261888, 260352, 4096, 4096, 4096)),
    "adi": (dict(n=64, t=8), (285696, 222208, 63323, 61133, 3968, 3968)),
    "heat-3d": (dict(n=24, t=6), (650496, 406560, 406560, 162624, 162624, 16456)),
    "jacobi-2d": (dict(n=64, t=20), (466240, 163680, 163680, 163680, 4340, 4340)),
}


def traced(text: str, arrays: str, **names: int) -> list[tuple[tuple, bool]]:
    """Accesses (element, written) of a program, executed."""
    log: list[tuple[tuple, bool]] = []

    class Traced:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, index: object) -> float:
            log.append(((self.name, index), False))
            return 1.0

        def __setitem__(self, index: object, value: float) -> None:
            log.append(((self.name, index), True))

    exec(text, {name: Traced(name) for name in arrays.split()} | dict(range=range, max=max, min=min) | names)
    return log


def lru_reads(log: list[tuple[tuple, bool]], fast: int) -> int:
    """Read misses of an LRU cache of `fast` elements, simulated."""
    cache: OrderedDict[tuple, None] = OrderedDict()
    missed = 0
    for element, written in log:
        if element in cache:
            cache.move_to_end(element)
            continue
        missed += not written
        cache[element] = None
        if len(cache) > fast:
            cache.popitem(last=False)
    return missed


# Footprints -----------------------------------------------------------------------------------------------------------


def enumerated(matrix: np.ndarray, offsets: np.ndarray, tile: tuple[int, ...]) -> int:
    points = np.stack(np.meshgrid(*map(np.arange, tile), indexing="ij"), -1).reshape(-1, len(tile))
    images = [points @ matrix.T + offset for offset in offsets]
    return len(np.unique(np.concatenate(images), axis=0))


def subscript(row: np.ndarray, offset: int, names: str) -> str:
    return " + ".join([*(f"{c} * {name}" for name, c in zip(names, row, strict=True) if c), str(offset)])


def test_footprints_of_known_tiles() -> None:
    # a 32^3 tile of a product: three 32 x 32 faces; an 8 x 8 tile under a 3 x 3 window: (8 + 2)^2 for each of 5 channels
    np.testing.assert_array_equal(footprints(GEMM, [32, 32, 32]), [1024, 1024, 1024])
    found = dict(zip((s.array for s in CONVOLUTION.streams), footprints(CONVOLUTION, [5, 8, 8, 3, 3]), strict=True))
    assert (found["I"], found["W"], found["O"]) == ((8 + 2) ** 2 * 5, 45, 64)


def test_footprints_equal_enumeration_over_random_references() -> None:
    """Every iteration count of two subscripts, each of one or two loops with any coefficients: 200 references, 800 tiles."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        matrix = np.zeros((2, 4), int)
        own = rng.permutation(4)
        for row, loops in enumerate((own[:2], own[2:])):
            used = loops[: rng.integers(1, 3)]
            matrix[row, used] = rng.choice([1, 2, 3, 4, -1, -2], len(used))
        nest = make_nest("i j k l", f"x = A[{subscript(matrix[0], 0, 'ijkl')}, {subscript(matrix[1], 1, 'ijkl')}]")
        tiles = rng.integers(1, 7, (4, 4))
        got = nest.streams[0].elements(list(jnp.asarray(tiles.T, float)))
        want = [enumerated(matrix, np.zeros((1, 2), int), tuple(tile)) for tile in tiles]
        np.testing.assert_array_equal(np.broadcast_to(got, 4), want)


def test_footprints_of_coupled_subscripts_equal_enumeration() -> None:
    """Subscripts that share loops: diagonals, skews, and kernels of one dimension."""
    rng = np.random.default_rng(1)
    for text, matrix in {
        "A[i, i]": [[1, 0, 0], [1, 0, 0]],
        "A[i + j, j]": [[1, 1, 0], [0, 1, 0]],
        "A[i + j, i - j]": [[1, 1, 0], [1, -1, 0]],
        "A[i + j, j + k]": [[1, 1, 0], [0, 1, 1]],
        "A[2 * i + j, j - k]": [[2, 1, 0], [0, 1, -1]],
    }.items():
        nest = make_nest("i j k", f"x = {text}")
        for tile in rng.integers(1, 8, (30, 3)):
            want = enumerated(np.asarray(matrix), np.zeros((1, 2), int), tuple(tile))
            assert float(footprints(nest, tile)[0]) == want, (text, tile)


def test_footprints_of_stencils_equal_enumeration() -> None:
    """Unions of translates: any set of up to five offsets, overlapping or not, and with a stride."""
    rng = np.random.default_rng(2)
    for _ in range(60):
        stride = int(rng.integers(1, 3))
        offsets = rng.integers(-3, 4, (rng.integers(2, 6), 2))
        reads = " + ".join(f"A[{stride} * i + {a}, j + {b}]" for a, b in offsets)
        tile = tuple(rng.integers(1, 6, 2))
        want = enumerated(np.asarray([[stride, 0], [0, 1]]), offsets, tile)
        assert float(footprints(make_nest("i j", f"x = {reads}"), tile)[0]) == want, (stride, offsets, tile)


def test_footprints_where_one_of_three_loops_does_not_turn() -> None:
    """Sides of 1 leave the common factor of the others; closed runs, so exact."""
    # A[4 i + 2 j + k], 3 x 7 x 1: the even numbers from 0 to 20
    assert float(footprints(make_nest("i j k", "x = A[4 * i + 2 * j + k]"), [3, 7, 1])[0]) == 11
    for row in ((4, 2, 1), (6, 2, 3), (9, 3, 1), (2, 2, 1)):
        nest = make_nest("i j k", f"x = A[{subscript(np.asarray(row), 0, 'ijk')}]")
        for side in itertools.product((1, 3, 7), repeat=3):
            if 1 in side:
                assert float(footprints(nest, side)[0]) == enumerated(np.asarray([row]), np.zeros((1, 1), int), side), (row, side)


# Scratchpad and LRU ---------------------------------------------------------------------------------------------------


@jax.jit
@jax.vmap
def tiled_gemm(extents, tile, fast):
    return nest_traffic(GEMM, extents, tile, fast, memory="lru")


@jax.jit
@jax.vmap
def tiled_gemm_ikj(extents, tile, fast):
    return nest_traffic(GEMM, extents, tile, fast, memory="lru", inner="i k j")


def in_one_call(run, extents, tile, fast, lanes: int = 128):
    """Batches of any length in one compiled program."""
    columns = [np.asarray(column, np.float32) for column in (extents, tile, fast)]
    count = len(columns[2])
    padded = [np.pad(c, [(0, lanes - count)] + [(0, 0)] * (c.ndim - 1), mode="edge") for c in columns]
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], run(*padded))


def ctile(extent, tile, fast):
    """i, j in tiles, then k, then within the tile."""
    extent, tile, fast = np.broadcast_arrays(extent, tile, fast)
    sides = np.stack([tile.ravel(), tile.ravel(), np.ones(tile.size)], -1)
    return in_one_call(tiled_gemm, np.stack([extent.ravel()] * 3, -1), sides, fast.ravel())


def cube(extent, tile, fast):
    """i, j, k in tiles, then i, k, j within."""
    extent, tile, fast = np.broadcast_arrays(extent, tile, fast)
    return in_one_call(tiled_gemm_ikj, np.stack([extent.ravel()] * 3, -1), np.stack([tile.ravel()] * 3, -1), fast.ravel())


@pytest.mark.parametrize("kind", ["ctile", "cube"])
def test_tiled_products_load_what_traced_ones_do(kind: str) -> None:
    """All 48 measured points within 1 %; all but the two where S lies between b^2 + 2 b and b^2 + 3 b + 1 to the element."""
    cases = [(n, b, want) for (k, n, b), want in TILED.items() if k == kind]
    n, b, want = (np.asarray(column, float) for column in zip(*cases, strict=True))
    found = {"ctile": ctile, "cube": cube}[kind](n[:, None], b[:, None], np.asarray(CAPACITIES, float)[None])
    got = found.loaded.reshape(want.shape)
    np.testing.assert_allclose(got, want, rtol=0.01)
    cliff = (b[:, None] ** 2 + 2 * b[:, None] <= CAPACITIES) & (CAPACITIES < b[:, None] ** 2 + 3 * b[:, None] + 1)
    np.testing.assert_array_equal(got[~cliff], want[~cliff])
    assert cliff.sum() == 1


def test_the_two_thresholds_are_exact() -> None:
    # n = 60, b = 15: 2 n^3 / b + n^2 = 28,800 + 3,600 from 15^2 + 3 * 15 + 1 on; below, C is loaded for every k: n^3 + 28,800
    # n = 70, b = 14: 14^2 + 3 * 14 + 1 = 239
    found = ctile([60, 60, 70], [15, 15, 14], [271, 270, 239])
    np.testing.assert_array_equal(found.loaded, [32_400, 60**3 + 28_800, 53_900])
    sides = np.arange(2.0, 60)
    need = nest_traffic(GEMM, [120.0] * 3, [2.0, 3.0, 1.0], 1e6).need
    assert float(need) == 2 * 3 + 2 + 3
    for more, fits in ((0, 1), (-1, 0)):
        np.testing.assert_array_equal(ctile(120.0, sides, sides**2 + 3 * sides + 1 + more).fits, np.full(len(sides), fits))


def test_other_tiled_products_match_a_simulated_cache() -> None:
    """Sizes not in the table, tiles that divide and rectangular ones: executed here, away from the cliff within 5 %."""
    text = """
for ii in range(0, n, b):
    for jj in range(0, m, c):
        for k in range(p):
            for i in range(ii, min(ii + b, n)):
                for j in range(jj, min(jj + c, m)):
                    C[i, j] += A[i, k] * B[k, j]
"""
    for n, m, p, b, c in ((12, 20, 9, 4, 5), (18, 12, 10, 6, 3), (14, 15, 8, 7, 5)):
        log = traced(text, "A B C", n=n, m=m, p=p, b=b, c=c)
        need = b * c + b + 1 + 2 * c
        for fast in (need // 2, need, 2 * need, n * m + p * (n + m)):
            got = float(in_one_call(tiled_gemm, [[n, m, p]], [[b, c, 1]], [fast]).loaded[0])
            assert got == pytest.approx(lru_reads(log, fast), rel=0.05), (n, b, c, fast)


def test_stencils_load_what_a_simulated_cache_does() -> None:
    """Several offsets: one iteration loads an element for each; in the plateaus between the thresholds, to the element."""
    line = make_nest("i", "B[i] = A[i - 1] + A[i] + A[i + 1]")
    assert float(nest_traffic(line, [1000], None, 100.0, memory="lru").loaded) == 1002
    body = "B[i, j] = A[i - 1, j] + A[i + 1, j] + A[i, j - 1] + A[i, j + 1] + A[i, j]"
    cross = make_nest("i j", body)
    text = f"""
for ii in range(0, n, b):
    for jj in range(0, n, b):
        for i in range(ii, ii + b):
            for j in range(jj, jj + b):
                {body}
"""
    log = traced(text, "A B", n=32, b=8)
    fast = np.asarray([10.0, 40.0, 200.0, 2500.0])
    got = jax.jit(jax.vmap(lambda s: nest_traffic(cross, [32, 32], [8, 8], s, memory="lru").loaded))(fast)
    np.testing.assert_allclose(got, [lru_reads(log, int(s)) for s in fast], rtol=1e-6)
    assert float(got[-1]) == pytest.approx(34**2 - 4)  # the halo once, without its corners


def test_a_scratchpad_moves_two_n_cubed_over_b() -> None:
    # b = 15: A and B 60^3 / 15 each, C 60^2 in and out; need 15^2 + 2 * 15 = 255
    traffic = nest_traffic(GEMM, [60, 60, 60], [15, 15, 1], 255)
    assert dict(zip(GEMM.arrays, traffic.loads.tolist(), strict=True)) == {"A": 14_400, "B": 14_400, "C": 3_600}
    assert float(traffic.stores.sum()) == 3_600 and float(traffic.need) == 255 and float(traffic.fits) == 1
    assert float(nest_traffic(GEMM, [60, 60, 60], [15, 15, 1], 254).fits) == 0
    # intensity before (no tiling: one element of C at a time, C once) and after: 2 n^3 / moved
    before = nest_traffic(GEMM, [60, 60, 60], [1, 1, 1], 255)
    assert float(before.intensity) == pytest.approx(2 * 60**3 / (2 * 60**3 + 2 * 3600))
    assert float(traffic.intensity / before.intensity) == pytest.approx((2 * 60**3 + 7200) / 36_000)


def test_traffic_properties_over_many_tilings() -> None:
    """2560 tilings: more memory never loads more, nothing loads less than its data or than the lower bound."""
    rng = np.random.default_rng(3)
    bound = jax.jit(jax.vmap(lambda s: io_lower_bound("gemm", s, ni=96.0, nj=96.0, nk=96.0).loads))
    managed = jax.jit(jax.vmap(lambda t, s: nest_traffic(GEMM, [96.0] * 3, t, s)))
    for _ in range(20):
        tiles = np.floor(rng.uniform(1, 97, (128, 3)))
        fast = np.exp(rng.uniform(np.log(16), np.log(40_000), 128))
        small, large = (in_one_call(tiled_gemm, np.full((128, 3), 96), tiles, size).loaded for size in (fast, 2 * fast))
        assert (large <= small * (1 + 1e-6)).all() and (large >= 3 * 96**2 * (1 - 1e-6)).all()
        assert (small >= np.asarray(bound(fast)) * (1 - 1e-5)).all()
        found = managed(tiles, fast)
        rigorous = np.maximum(3 * 96**2, 2 * 96**3 / np.sqrt(fast) - 2 * fast)  # Smith et al. 2019, all schedules
        assert (np.asarray(found.loaded) >= rigorous * (1 - 1e-5))[np.asarray(found.fits) > 0].all()


@pytest.mark.parametrize("memory", ["scratchpad", pytest.param("lru", marks=pytest.mark.slow)])
def test_gradients_are_finite_everywhere_and_point_the_right_way(memory: str) -> None:
    rng = np.random.default_rng(4)
    tiles = np.concatenate(
        [rng.uniform(1, 60, (400, 3)), np.floor(rng.uniform(1, 60, (400, 3))), np.ones((1, 3)), np.full((1, 3), 60)]
    )
    fast = np.concatenate([np.exp(rng.uniform(1, 11, 800)), [271.0, 3.0]])

    @jax.jit
    @jax.vmap
    def slopes(tile, size):
        def log_loads(t, s):
            return jnp.log(nest_traffic(GEMM, [60.0] * 3, t, s, memory=memory, policy=soft(8.0)).loaded)

        return jax.grad(log_loads, (0, 1))(tile, size)

    found = slopes(tiles, fast)
    assert all(np.isfinite(leaf).all() for leaf in found)
    assert (np.asarray(found[1]) <= 1e-6).all()  # more memory, fewer loads


def test_a_soft_policy_approaches_the_hard_one() -> None:
    """And a straight-through one is it."""

    @jax.jit
    @jax.vmap
    def all_three(fast):
        policies = (HARD, STRAIGHT_THROUGH, soft(200.0))
        return [nest_traffic(GEMM, [60] * 3, [15, 15, 1], fast, memory="lru", policy=p).loaded for p in policies]

    hard, through, near = all_three(jnp.asarray([100.0, 200.0, 400.0, 5000.0]))
    np.testing.assert_allclose(near, hard, rtol=1e-3)
    np.testing.assert_allclose(through, hard, rtol=1e-6)


# Fusion, overlapped tiles, time tiling --------------------------------------------------------------------------------

LAYERS = (make_nest("i h d", "H[i, h] = X[i, d] * V[h, d]"), make_nest("i o h", "Y[i, o] = H[i, h] * W[o, h]"))
EXTENTS = dict(i=64, h=64, d=32, o=32)
fused = jax.jit(lambda rows, fast: fuse(LAYERS, EXTENTS, rows, fast))


def test_fusion_that_makes_traffic_26_times_worse_is_predicted() -> None:
    # apart: X 2048 + V 2048 + H 4096 + W 2048; fused: X, and V + W for each of 64 rows because 4096 + two rows do not fit
    found = fused(1.0, 4096.0)
    assert (float(found.apart.loads), float(found.fused.loads)) == (10_240, 2048 + 64 * 4096)
    assert float(found.factor) == pytest.approx(25.8)
    assert float(found.fused.stores) == 2048 and float(found.apart.stores) == 4096 + 2048
    # one size smaller neither layer fits alone: 268,288 and 266,496 traced
    found = fused(1.0, 1024.0)
    assert float(found.apart.loads) == 268_288
    assert float(found.fused.loads) == pytest.approx(266_496, rel=1e-3)
    # traced fused counts at the other sizes: 268,032 and 6,144
    assert float(fused(1.0, 256.0).fused.loads) == pytest.approx(268_032, rel=1e-3)
    assert float(fused(1.0, 16_384.0).fused.loads) == 6_144


def test_larger_row_blocks_reload_weights_less_often() -> None:
    # Q = 2 n d + (n / b) 2 d h; inputs alone here, outputs are stored
    for b in (1.0, 2.0, 4.0, 8.0):
        assert float(fused(b, 4096.0).fused.loads) == 2048 + 64 / b * 4096
    managed = jax.jit(lambda s: fuse(LAYERS, EXTENTS, 1.0, s, memory="scratchpad"))(4096.0)
    # 4096 + 32 + 64 + 32 elements do not fit by 128, which come again for each further row
    assert float(managed.fused.loads) == 2048 + 4096 + 63 * 128
    slope = jax.jit(jax.grad(lambda b: fuse(LAYERS, EXTENTS, b, 4096.0, policy=soft(8.0)).fused.loads))(3.0)
    assert np.isfinite(slope) and slope < 0


def test_weights_that_do_not_fit_are_swept_once_a_row_not_once_a_block() -> None:
    # traced: X 2048 + H 4096 + 64 rows x (2048 + 2048), fused in blocks of 8 rows and apart; model: H not all pushed out
    nests = (make_nest("i j k", "H[i, j] = X[i, k] * W1[k, j]"), make_nest("i q p", "Y[i, q] = H[i, p] * W2[p, q]"))
    found = fuse(nests, dict(i=64, j=64, k=32, q=32, p=64), 8.0, 1024.0)
    assert float(found.apart.loads) == 268_288
    assert float(found.fused.loads) == pytest.approx(268_288, rel=0.005)


def test_overlapped_tiles_compute_the_halo_again() -> None:
    # two stages, radius 1, tile 8, 2-D: the first computes 10 x 10, the second 8 x 8: (100 + 64) / 128 - 1
    assert float(overlap_redundancy(8.0, 2)) == pytest.approx(36 / 128)
    assert float(overlap_redundancy(8.0, 1)) == 0
    assert float(overlap_redundancy(16.0, 3, dimensions=1)) == pytest.approx((20 + 18 + 16) / 48 - 1)
    assert group_stages(8.0, 6, threshold=0.3) == 2  # three stages: (144 + 100 + 64) / 192 - 1 = 0.60
    assert float(overlapped_loads(64.0, 8.0, 2)) == (64 / 8 * (8 + 4)) ** 2
    assert jax.jit(jax.grad(lambda tile: overlap_redundancy(tile, 3)))(8.0) < 0


@functools.partial(jax.jit, static_argnames="d")
def skewed(d, extent, steps, width, fast):
    return jax.vmap(lambda s: time_tiling(extent, steps, width, s, dimensions=d))(fast)


def test_time_tiling_has_two_thresholds() -> None:
    """W = 16, T = 64, n = 2000, traced: 17,993 from S = 2 W + 4 = 36 on, 135,074 below; compulsory from S = 4 W + 2 T on."""

    def loads(fast: float, width: float = 16.0) -> float:
        return float(skewed(1, 2000.0, 64.0, width, np.full(6, fast)).loads[0])

    np.testing.assert_array_equal(skewed(1, 2000.0, 64.0, 16.0, np.full(6, 64.0)).thresholds[0], [36, 192])
    assert loads(36) == pytest.approx(17_993, rel=0.02) and loads(34) == pytest.approx(135_074, rel=0.07)
    assert loads(192) == loads(1e4) == 2002  # 2000 inputs and two boundary elements of the other array
    assert loads(160, width=8.0) == 2002 and loads(150, width=8.0) == pytest.approx(31_886, rel=0.12)  # 8 W: 160 = 4 W + 2 T
    plain = skewed(1, 2000.0, 64.0, 16.0, np.full(6, 1024.0)).plain[0]
    assert float(plain) == 128_000
    assert loads(64, width=32.0) > float(plain)  # worse than no tiling: 133,967 traced


def test_time_tiling_matches_traced_programs_away_from_its_cliffs() -> None:
    worst = []
    for (d, n, w, t), want in SKEWED.items():
        found = skewed(d, float(n), float(t), float(w), np.asarray(CAPACITIES, float))
        rows = np.asarray([(2 + 2) * (w + 1.0)]) if d == 2 else np.empty(0)
        edges = np.concatenate([rows, found.thresholds[0]])
        near = (np.abs(np.log(np.asarray(CAPACITIES)[:, None] / edges)) < np.log(1.35)).any(1)
        between = (d == 2) & (w == 32) & (np.asarray(CAPACITIES) == 1024)  # half of S_1: rows of the window stay
        errors = np.asarray(found.loads) / np.asarray(want) - 1
        worst.append(np.abs(errors[~near & ~between]).max())
        assert (np.abs(errors[~near]) < 0.11).all()
    assert max(worst) < 0.05


def test_time_tiling_gradients() -> None:
    def log_loads(width, fast):
        return jnp.log(time_tiling(96.0, 16.0, width, fast, dimensions=2, policy=soft(8.0)).loads)

    width, fast = np.meshgrid(np.linspace(1, 96, 40), np.geomspace(4, 1e5, 40))
    slopes = jax.jit(jax.vmap(jax.grad(log_loads, (0, 1))))(width.ravel(), fast.ravel())
    assert all(np.isfinite(s).all() for s in slopes)


# Lower bounds ---------------------------------------------------------------------------------------------------------


def test_bounds_by_hand() -> None:
    gemm = io_lower_bound("gemm", 256.0, ni=100.0, nj=200.0, nk=300.0)
    assert float(gemm.loads) == pytest.approx(2 * 100 * 200 * 300 / 16)
    assert float(gemm.intensity) == pytest.approx(16)  # sqrt(S)
    cholesky = io_lower_bound("POTRF", 256.0, n=600.0)  # an alias of the complexity library
    assert float(cholesky.loads) == pytest.approx(600**3 / (3 * math.sqrt(2) * 16))  # attained
    assert float(cholesky.soap) > float(cholesky.loads)  # which is why it is no bound
    assert float(io_lower_bound("syrk", 256.0, m=300.0, n=600.0).loads) == pytest.approx(300 * 600**2 / (math.sqrt(2) * 16))
    assert float(io_lower_bound("jacobi-1d", 100.0, n=1e4, t=1e3).loads) == pytest.approx(1e4 * 1e3 / 400)
    assert float(io_lower_bound("heat-3d", 1000.0, n=500.0, t=100.0).intensity) == pytest.approx(160 / (3 * 3 ** (1 / 3)) * 10)
    assert np.isnan(io_lower_bound("adi", 100.0, n=100.0, t=5.0).soap)


def test_every_polybench_kernel_has_a_bound_and_a_program_with_the_same_sizes() -> None:
    assert list_bounds() == list_polybench() and len(list_bounds()) == 30
    for name in list_polybench():
        assert polybench(name).sizes == tuple(sorted(bound_sizes(name)))


def test_bounds_are_below_every_traced_count() -> None:
    """15 kernels at six cache sizes; durbin at S >= N moves only its input, which the leading term alone would forbid."""
    for name, (sizes, want) in UNTILED.items():
        given = {key: float(value) for key, value in sizes.items()}
        found = jax.vmap(lambda s, n=name, g=given: io_lower_bound(n, s, **g))(np.asarray(CAPACITIES, float))
        assert (np.asarray(found.loads) <= np.asarray(want) * (1 + 1e-6)).all(), name
    assert float(io_lower_bound("durbin", 1024.0, n=200.0).loads) == 200


def test_bounds_fall_back_to_the_inputs_where_a_kept_matrix_fits() -> None:
    """Counts that programs attain at sizes for which the leading term alone says more: traced in an LRU cache of S."""
    for name, fast, sizes, attained in (
        ("doitgen", 330, dict(nq=20, nr=20, np=16), 6_656),
        ("2mm", 200, dict(ni=300, nj=12, nk=12, nl=12), 11_088),
        ("3mm", 220, dict(ni=200, nj=12, nk=12, nl=12, nm=12), 5_363),
        ("symm", 400, dict(m=24, n=200), 9_901),
        ("durbin", 48, dict(n=22), 22),
        # np = 2 b, S = b^2 + 4 b: b x b blocks of C4 stay; A is loaded for 2 of them, sums again for 1: 3 nq nr np + np^2
        ("doitgen", 32**2 + 4 * 32, dict(nq=100, nr=100, np=64), 3 * 100**2 * 64 + 64**2),
    ):
        found = io_lower_bound(name, float(fast), **{key: float(value) for key, value in sizes.items()})
        assert found.leading > attained >= found.loads >= found.inputs, name
    assert float(io_lower_bound("2mm", 256.0, ni=900.0, nj=900.0, nk=900.0, nl=900.0).loads) == pytest.approx(
        4 * 900**3 / 16 - 2 * 900**2
    )
    slopes = jax.jit(jax.vmap(jax.grad(lambda s: io_lower_bound("doitgen", s, nq=20.0, nr=20.0, np=16.0).loads)))
    assert np.isfinite(slopes(np.asarray([4.0, 100.0, 256.0, 330.0, 1e5]))).all()


def test_bound_errors_are_one_line() -> None:
    for kernel, sizes, expected in (
        ("gem", {}, "close: gem"),
        ("gemm", dict(ni=1.0), "sizes ni, nj, nk"),
        ("lu", dict(n=0.0), r"n = 0 is outside its range \[1, inf\)"),
    ):
        with pytest.raises(ValueError, match=expected) as error:
            io_lower_bound(kernel, **sizes)
        assert "\n" not in str(error.value)


# Operations of a table ------------------------------------------------------------------------------------------------


def product_row(m: float, n: float, k: float, **more) -> dict:
    return (
        dict(kind=OpKind.DENSE, m=m, n=n, k=k, macs=m * n * k, flops=2 * m * n * k, inputs=m * k, outputs=m * n, weights=k * n)
        | more
    )


def test_best_tiles_by_hand() -> None:
    pool = dict(kind=OpKind.ELEMENTWISE, flops=10.0, inputs=100.0, outputs=50.0)
    table = make_table([product_row(512.0, 512.0, 512.0), product_row(32.0, 32.0, 32.0), pool]).padded(4)
    # 4 kB hold 1024 floats: p q + p + q <= 1024 at p = q = 31: A and B ceil(512 / 31) times, C once
    found = best_tiles(table, 4096.0)
    assert float(found.bytes_moved[0]) <= 4 * (2 * 512**2 * math.ceil(512 / 31) + 512**2)
    assert float(found.bytes_moved[0] / found.bound[0]) < 1.1
    # everything fits: each operand once; what is no product moves once; padding not at all
    found = best_tiles(table, 65_536.0)
    np.testing.assert_allclose(found.bytes_moved[1:], [3 * 4 * 32**2, 150 * 4, 0])
    assert float(found.intensity[1]) == pytest.approx(2 * 32**3 / (12 * 32**2))
    with pytest.raises(ValueError, match=r"fast = 8 bytes is outside its range \[16, inf\) bytes"):
        best_tiles(table, 8)


def test_best_tiles_of_many_products() -> None:
    """300 products: never below the bound, never above it by 2.2 times, less with more memory; one program for all sizes."""
    rng = np.random.default_rng(0)
    table = make_table([product_row(*(float(int(x)) for x in np.exp(rng.uniform(0, 7, 3)))) for _ in range(300)]).without_info()
    fast = np.asarray([64.0, 1e3, 1e4, 1e5, 1e6])
    found = jax.vmap(best_tiles, (None, 0))(table, fast)
    ratio = np.asarray(found.bytes_moved / found.bound)
    assert ratio.min() > 1 - 1e-5 and ratio.max() < 2.2 and np.median(ratio) < 1.4
    assert (np.diff(np.asarray(found.bytes_moved), axis=0) <= 1e-3 * np.asarray(found.bytes_moved[1:])).all()


# Programs as written --------------------------------------------------------------------------------------------------


TRIANGULAR = """
for i in range(n):
    for j in range(i, -1, -1):
        y[i] += L[i, j] * x[j]
    for j in range(0, n, b):
        z[j] = x[j]
"""


def test_reuse_distances_of_a_triangle_match_a_simulated_cache() -> None:
    """Loops that count down or in steps, a triangle, two statements: executed here at every cache size; sampled within 5 %."""
    fast = np.asarray([3, 4, 6, 10, 20, 30, 36, 60, 100, 400])
    log = traced(TRIANGULAR, "L x y z", n=20, b=3)
    profile = reuse_profile(AffineProgram.read(TRIANGULAR), dict(n=20, b=3), samples=256, elements=512)
    assert float(profile.weight.sum()) == pytest.approx(len(log), rel=1e-3)
    want = [lru_reads(log, int(s)) for s in fast]
    np.testing.assert_allclose(lru_misses(profile, fast.astype(float)).reads, want, rtol=0.05)
    slope = jax.grad(lambda s: lru_misses(profile, s, soft(8.0)).reads)(15.0)
    assert np.isfinite(slope) and slope < 0


@pytest.mark.slow
def test_reuse_distances_of_products_and_triangles() -> None:
    """gemm: 270,336 loads for S of 256 to 4096, 12,288 at 16,384, exactly; triangles within 6 %."""
    sizes, want = UNTILED["gemm"]
    got = lru_misses(reuse_profile(polybench("gemm"), sizes), CAPACITIES)
    np.testing.assert_allclose(got.reads, want, rtol=1e-5)
    np.testing.assert_allclose(got.writes, 0, atol=1e-3)
    for name in ("trmm", "syr2k"):  # triangles; trmm at 4096 is left out, where its 64 x 64 operand just fits or not
        sizes, want = UNTILED[name]
        got = np.asarray(lru_misses(reuse_profile(polybench(name), sizes), CAPACITIES).reads)
        some = [0, 1, 2, 4] if name == "trmm" else [0, 1, 2, 3, 4]
        np.testing.assert_allclose(got[some], np.asarray(want)[some], rtol=0.06)
    # any size in the same time: 4e9 accesses
    profile = reuse_profile(polybench("gemm"), dict(ni=1000, nj=1000, nk=1000), samples=16)
    assert float(profile.weight.sum()) == pytest.approx(1000**2 * 2 + 4 * 1000**3, rel=1e-3)


def test_programs_are_read_and_refused_with_line_numbers() -> None:
    with pytest.raises(ValueError, match=r"line 2: i \* i is not affine"):
        AffineProgram.read("for i in range(n):\n    A[i * i] = 0")
    with pytest.raises(ValueError, match="line 1: an else is not read"):
        AffineProgram.read("if n > 1:\n    A[0] = 1\nelse:\n    A[1] = 0")
    program = AffineProgram.read("for i in range(n):\n    for j in range(m):\n        A[i + j] = B[j]")
    assert program.sizes == ("m", "n") and program.arrays == ("A", "B")
    with pytest.raises(ValueError, match="subscript 1 i \\+ 1 j \\+ 0 is not a difference of two loops"):
        reuse_profile(program, dict(m=3, n=4))
    with pytest.raises(ValueError, match="the program has the sizes m, n; given: n"):
        reuse_profile(program, dict(n=4))
    with pytest.raises(ValueError, match="unknown PolyBench kernel 'gem'; close: gemm"):
        polybench("gem")


def test_nest_errors_are_one_line() -> None:
    for call, expected in (
        (lambda: make_nest("i i", "A[i] = 0"), "at least one is needed and none twice"),
        (lambda: make_nest("i", "A[j] = 0"), "A: j in a subscript is none of the loops i"),
        (lambda: nest_traffic(GEMM, [4, 4], None, 9), "extent has 2 sides, the nest has 3 loops: i j k"),
        (lambda: nest_traffic(GEMM, [4, 4, 0]), r"extent side of k = 0 is outside its range \[1, inf\)"),
        (lambda: nest_traffic(GEMM, [4, 4, 4], memory="l2"), "memory = 'l2' is not one of scratchpad, lru"),
        (lambda: nest_traffic(GEMM, [4, 4, 4], order="i j"), "order = i j does not name each of the loops i j k once"),
        (lambda: fuse(LAYERS[:1], EXTENTS), "at least two nests"),
        (lambda: fuse(LAYERS, dict(i=1)), "extents: loop d has none"),
        (lambda: time_tiling(10, 1, 0, 4), r"width = 0 is outside its range \[1, inf\)"),
        (lambda: nest_traffic(GEMM, [4, 4, 4], None, 0), r"fast = 0 elements is outside its range \(0, inf\) elements"),
        (lambda: fuse(LAYERS, EXTENTS, 1.0, -1.0), "fast = -1 elements is outside its range"),
        (lambda: group_stages(8, 0), r"most = 0 is outside its range \[1, inf\)"),
        (lambda: AffineProgram.read("for i in range():\n  A[i] = 0"), r"line 1: range\(\) takes 1 to 3 values, not 0"),
        (lambda: AffineProgram.read("for i in range(n):\n  A[i] = A[i, 0]"), "A has 2 subscripts in one place and 1 in another"),
        (lambda: make_nest("i", "A[i] = A[i, 0]"), "A has 2 subscripts in one place and 1 in another"),
        (lambda: AffineProgram.read("for i in range(3):\n  for i in range(2):\n    A[i] = 0"), "loop i is inside another loop"),
        (lambda: reuse_profile(AffineProgram.read(""), {}), "the program touches no array element"),
        (lambda: reuse_profile(STAGES, dict(n=3.5)), "n = 3.5 is not a whole number"),
        (lambda: lru_misses(ReuseProfile(*[jnp.ones(1)] * 2, jnp.ones(1, bool), *[jnp.zeros(())] * 2), 0), "fast = 0 elements"),
    ):
        with pytest.raises(ValueError, match=expected) as error:
            call()
        assert "\n" not in str(error.value)


# Legality -------------------------------------------------------------------------------------------------------------

SWEEP = AffineProgram.read("""
for s in range(t):
    for i in range(1, n - 1):
        A[s + 1, i] = A[s, i - 1] + A[s, i] + A[s, i + 1]
""")
STAGES = AffineProgram.read("""
for i in range(n):
    H[i] = X[i]
for i in range(n):
    Y[i] = H[i]
for i in range(n - 1):
    Z[i] = Y[i + 1]
""")


def test_tiling_is_legal_iff_no_distance_is_negative() -> None:
    pytest.importorskip("islpy", reason="dependences need the extra `polyhedral`")
    assert check_tiling(polybench("gemm"), ("i", "k", "j"))
    plain = check_tiling(SWEEP, ("s", "i"))  # A[s, i + 1] was written by (s - 1, i + 1)
    assert not plain and plain.array == "A" and plain.distance == (1, -1)
    assert check_tiling(SWEEP, ("s", "i + s"))
    seidel = polybench("seidel-2d")
    assert not check_tiling(seidel, ("s", "i", "j")) and not check_tiling(seidel, ("s", "i + s", "j + s"))
    assert check_tiling(seidel, ("s", "i + s", "j + i + 2 * s"))
    assert check_tiling(polybench("floyd-warshall"), ("i", "j"))  # for one k at a time
    assert not check_tiling(polybench("floyd-warshall"), ("k", "i", "j"))
    with pytest.raises(ValueError, match="no access is inside all of these loops"):
        check_tiling(SWEEP, ("s", "q"))


def test_tiling_agrees_with_all_distances_enumerated() -> None:
    """20 random stencils in place: legal iff no later access of an element is at a smaller turn of some loop."""
    pytest.importorskip("islpy", reason="dependences need the extra `polyhedral`")
    rng = np.random.default_rng(5)
    for _ in range(20):
        (a, b), n = rng.integers(-2, 3, 2), 6
        text = f"for i in range(2, n):\n    for j in range(2, n):\n        A[i, j] = A[i + {a}, j + {b}]"
        log = traced(text, "A", n=n + 2)
        turns = [turn for turn in itertools.product(range(2, n + 2), repeat=2) for _ in range(2)]
        legal = True
        for (x, p), (y, q) in itertools.combinations(zip(log, turns, strict=True), 2):
            if x[0] == y[0] and (x[1] or y[1]):
                legal &= q[0] >= p[0] and q[1] >= p[1]
        assert bool(check_tiling(AffineProgram.read(text), ("i", "j"), dict(n=n + 2))) == legal, (a, b)


def test_fusion_is_legal_iff_nothing_is_read_before_it_is_written() -> None:
    pytest.importorskip("islpy", reason="dependences need the extra `polyhedral`")
    assert check_fusion(STAGES, 0, 1)
    ahead = check_fusion(STAGES, 1, 2)  # Z[i] needs Y[i + 1], of the next turn
    assert not ahead and ahead.array == "Y" and ahead.distance == (-1,)
    with pytest.raises(ValueError, match="the program has 3"):
        check_fusion(STAGES, 1, 3)


def test_changed_values_do_not_trace_again() -> None:
    for n, b, s in ((60.0, 15.0, 100.0), (48.0, 3.0, 1e4)):
        ctile(n, b, s)
    assert tiled_gemm._cache_size() == 1
