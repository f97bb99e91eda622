"""Vector cores: kernels by hand, counted instructions, published observations, scaling with the vector length, gradients."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import workloads
from costmodel import (
    STRAIGHT_THROUGH,
    Bound,
    Conditions,
    VectorCore,
    estimate,
    instruction_counts,
    list_vector_cores,
    load_hardware,
    soft,
    sweep,
    vector_core,
)
from costmodel.processors import vector_packing
from costmodel.processors.vector import phases
from costmodel.processors.vector_kernels import DATA_TYPES, kernel_step, tile_ends, tiling
from costmodel.studies.rooflines import roofline_points
from physics import parameters, replace
from workloads import OpKind, make_table

LENGTHS = (128.0, 256.0, 512.0, 1024.0, 2048.0)
QUICK = {"xla_llvm_disable_expensive_passes": True, "xla_backend_optimization_level": 0}  # compile fast, run slowly


def product(m, n, k, kind=OpKind.DENSE):
    """A table of one matrix product; the right operand is a constant unless `kind` is MATMUL."""
    live = kind == OpKind.MATMUL
    row = dict(kind=kind, m=m, n=n, k=k, macs=m * n * k, flops=2 * m * n * k, outputs=m * n)
    return make_table([row | dict(inputs=m * k + (n * k if live else 0), weights=0 if live else n * k)])


def step_of(core):
    tiles = tiling(core, jnp.asarray(64.0), jnp.asarray(256.0), jnp.asarray(64.0))
    return kernel_step(core, tiles.m0, tiles.n0)


run = jax.jit(estimate, compiler_options=QUICK)
parts = jax.jit(phases, compiler_options=QUICK)
count = jax.jit(instruction_counts, compiler_options=QUICK)


def rate(core, table):
    """Useful MACs per second."""
    return float(run(core, table).utilization) * float(core.peak_rate())


# By hand --------------------------------------------------------------------------------------------------------------


def test_one_step_by_hand():
    step = step_of(VectorCore())
    # 256 bits: 8 x 16 sums in rows of two registers: 16; 8 left values in two quadwords; 16 right values in two registers
    assert [float(x) for x in (step.accumulators, step.lhs_loads, step.rhs_loads, step.spilled)] == [16, 2, 2, 0]
    # 16 FMLA, 4 loads, 5 of the loop; two pipes take 8 cycles, two ports 2, eight instructions per cycle 25 / 8
    assert (float(step.instructions), float(step.cycles)) == (25, 8)
    assert float(tile_ends(VectorCore(), step)) == 16 + 16 + 10  # clear, store, the loop's own


@pytest.mark.parametrize(
    "data, accumulators, loads, macs",
    [  # at 128 bits: registers of an 8 x 8 tile, loads (left and right), MACs of one instruction
        ("f64", 32, 4 + 4, 2),
        ("f32", 16, 2 + 2, 4),
        ("f16", 8, 1 + 1, 8),
        ("bf16", 16, 4 + 4, 16),  # BFMMLA: 2 x 2 sums of 4 products
        ("bf16-dot", 16, 2 + 2, 8),
        ("i8", 16, 4 + 4, 32),  # SMMLA: 2 x 2 sums of 8 products
        ("i8-dot", 16, 2 + 2, 16),
    ],
)
def test_registers_and_loads_do_not_depend_on_the_vector_length(data, accumulators, loads, macs):
    for bits in LENGTHS:
        core = VectorCore(data=data, vector_bits=bits)
        step = step_of(core)
        assert float(step.accumulators) == accumulators
        assert float(step.lhs_loads + step.rhs_loads) == loads
        assert float(core.macs_per_cycle) == 2 * macs * bits / 128
        # every product of the tile is made once: M0 N0 K0 = accumulators x MACs of an instruction
        assert 8 * float(core.tile_columns) * core.data_type.depth == accumulators * macs * bits / 128


def test_a_product_by_hand():
    core = VectorCore(overhead=0.0)
    found = parts(core, product(64, 64, 100))
    # tiles of 8 x 16: 8 x 4, each 100 steps of 8 cycles and 42 instructions at its ends, eight per cycle
    cycles = 32 * (100 * 8 + 42 / 8)
    np.testing.assert_allclose(found.kernel, cycles / 2.6e9, rtol=1e-6)
    # left: 6400 values one by one, 2 + 5/8 instructions each; reading 25.6 kB at 20 GB/s takes longer
    assert 6400 * 2.625 / 8 / 2.6e9 < 25_600 / 20e9
    np.testing.assert_allclose(found.pack, 25_600 / 20e9, rtol=1e-6)
    np.testing.assert_allclose(found.unpack, 64 * 64 * 4 / 20e9, rtol=1e-6)  # 16,384 B out; moves take 0.1 us
    np.testing.assert_allclose(found.bytes_moved, 25_600 + 64 * 100 * 4 + 16_384, rtol=1e-6)
    cost = run(core, product(64, 64, 100))
    np.testing.assert_allclose(cost.latency, found.pack + found.kernel + found.unpack, rtol=1e-6)
    # 32 tiles of 100 x 25 + 42; packing 6400 x 2.625 and for eight tiles 10 + 8 rows x 3; unpacking 512 units of 4.5 and 32 x 10
    # (two registers a row)
    executed = 32 * 2542 + 16_800 + 8 * 34 + 512 * 2 * 4.5 / 2 * 1.0 + 320
    counts = count(core, product(64, 64, 100))
    np.testing.assert_allclose(counts.kernel + counts.pack_lhs + counts.unpack, executed, rtol=1e-6)
    energy = executed * 20e-12 + 409_600 * 1e-12 + float(found.bytes_moved[0]) * 60e-12 + float(cost.latency) * 0.3
    np.testing.assert_allclose(cost.dynamic_energy, energy, rtol=1e-5)


def test_padding_is_computed():
    # 64 columns in a tile of 128 at 2048 bits: half of the lanes idle (facts: "half idle")
    core = VectorCore(vector_bits=2048.0, overhead=0.0, cold=0.0)
    narrow, wide = (parts(core, product(512, n, 512)).kernel for n in (64, 128))
    np.testing.assert_allclose(narrow, wide, rtol=1e-6)


@pytest.mark.parametrize("m, m0", [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8), (9, 8)])
def test_narrow_products_take_narrow_tiles(m, m0):
    assert float(tiling(VectorCore(), *map(jnp.asarray, (float(m), 64.0, 64.0))).m0) == m0


def test_a_fixed_layout_turns_a_narrow_product_on_its_side_and_a_scalable_one_does_not():
    fixed, scalable = vector_core("neoverse-v2", isa="neon"), vector_core("neoverse-v2")
    times = [float(parts(replace(core, {"cold": 0.0}), product(512, 2, 512)).kernel[0]) for core in (fixed, scalable)]
    # 16 accumulators on four pipes with two of eight columns in use, against 4 that wait for 2 cycles
    assert times[1] == pytest.approx(2 * times[0], rel=0.1)


def test_traffic_by_hand():
    tiles = tiling(VectorCore(), *map(jnp.asarray, (80.0, 160.0, 100.0)))
    lhs, rhs = jnp.asarray(32_000.0), jnp.asarray(64_000.0)  # 80 x 100 and 160 x 100 values, ten tiles each
    # half of 20 kB holds a third of the left operand: ceil(3.2) = 4 blocks, B passes by four times; the other way ceil(6.4) = 7;
    # in 1 MB both fit; in 100 B tile by tile
    got = vector_packing.traffic(lhs, rhs, tiles, jnp.asarray([20_000.0, 1e6, 100.0]))
    np.testing.assert_allclose(got, [min(32_000 + 4 * 64_000, 64_000 + 7 * 32_000), 96_000, 64_000 + 10 * 32_000])


def test_cores_share_tiles():
    core = VectorCore(overhead=0.0, cold=0.0)
    one, many = (parts(replace(core, {"cores": n}), product(64, 64, 512)).kernel for n in (1, 5))
    np.testing.assert_allclose(one / many, 32 / math.ceil(32 / 5), rtol=1e-6)


# Counted instructions -------------------------------------------------------------------------------------------------

# Executed instructions of sve/gemm_*.c under QEMU 7.2 (GCC 12.2, M x N x K = 61 x 97 x 123): kernel, and with packing and
# unpacking. Made by tests/benchmarks/sve_instructions.py.
COUNTED = {
    ("f32", 128): (324_153, 364_473),
    ("f32", 512): (99_801, 124_083),
    ("f32", 2048): (25_017, 43_953),
    ("f16", 128): (194_567, 232_819),
    ("f16", 2048): (15_047, 36_547),
    ("bf16", 128): (99_513, 123_209),
    ("bf16", 2048): (7_737, 25_190),
    ("i8", 128): (54_273, 71_362),
    ("i8", 2048): (4_257, 14_188),
}
# The same of wide and of tall products, where packing counts for as much as the kernel: shape, totals at 128 and 2048 bits
SHAPES = {
    ("f32", (200, 33, 257)): (941_295, 276_787),
    ("f16", (200, 33, 257)): (632_486, 230_442),
    ("bf16", (9, 500, 40)): (67_784, 19_094),
    ("bf16", (40, 700, 63)): (305_276, 57_210),
    ("i8", (9, 500, 40)): (43_044, 11_305),
    ("i8", (40, 700, 63)): (188_195, 33_879),
}


@pytest.mark.parametrize("data, bits", COUNTED)
def test_instructions_are_those_that_run(data, bits):
    counts = count(VectorCore(data=data, vector_bits=bits), product(61, 97, 123, OpKind.MATMUL))
    kernel, total = COUNTED[data, bits]
    np.testing.assert_allclose(counts.kernel, kernel, rtol=0.02)
    np.testing.assert_allclose(counts.total, total, rtol=0.10)


@pytest.mark.parametrize("data, shape", SHAPES, ids=lambda value: value if isinstance(value, str) else "x".join(map(str, value)))
def test_instructions_of_other_shapes(data, shape):
    totals = [count(VectorCore(data=data, vector_bits=bits), product(*shape, OpKind.MATMUL)).total[0] for bits in (128, 2048)]
    np.testing.assert_allclose(totals, SHAPES[data, shape], rtol=0.10)


def test_spills_are_those_of_the_compiler():
    # GCC keeps 26 of 32 accumulators beside six operand registers: six are loaded and stored in every step
    core = VectorCore(vector_bits=128.0, tile_n=16.0)
    step = step_of(core)
    assert (float(step.accumulators), float(step.spilled)) == (32, 6)
    counts = count(core, product(61, 97, 123, OpKind.MATMUL))
    np.testing.assert_allclose(counts.kernel, 390_493, rtol=0.03)  # gemm_f32_wide.c under QEMU, 128 bit


# Published observations -----------------------------------------------------------------------------------------------


def test_neoverse_v1_has_one_peak_and_a64fx_four():
    """OpenBLAS #4786: 2 x 256-bit SVE = 4 x 128-bit NEON on Neoverse V1; 2 x 512 against 2 x 128 on A64FX."""
    for data in ("f64", "f32", "f16", "i8"):
        ratios = [
            vector_core(name, data).peak_rate() / vector_core(name, data, "neon").peak_rate() for name in ("neoverse-v1", "a64fx")
        ]
        np.testing.assert_allclose(ratios, [1, 4])
    big = product(1024, 1024, 1024)
    sve, neon = (rate(vector_core("neoverse-v1", isa=isa), big) for isa in ("sve", "neon"))
    assert sve == pytest.approx(neon, rel=0.02)


def openblas(name, isa, rows):
    """OpenBLAS's f64 kernels, as written: SVE two vectors by `rows` values broadcast by loads, NEON 8 x 4 by lane."""
    if isa == "sve":
        core = replace(vector_core(name, "f64"), {"tile_m": rows, "tile_n": 4.0, "loop_instructions": 3.25})
        return dataclasses.replace(core, broadcast="load")
    return replace(vector_core(name, "f64", "neon"), {"tile_m": 4.0, "tile_n": 8.0, "loop_instructions": 2.25})


def test_a64fx_kernel_of_two_vectors_by_eight_is_too_small():
    """OpenBLAS #3492: latency 9, two pipes; 2v x 8 stalls (16 of 18 results in flight), 2v x 10 is the smallest that does not."""
    steps = {rows: step_of(openblas("a64fx", "sve", rows)) for rows in (8.0, 10.0)}
    efficiency = {rows: float(step.accumulators / (2 * step.cycles)) for rows, step in steps.items()}
    assert efficiency == {8.0: pytest.approx(16 / 18), 10.0: pytest.approx(1.0)}


def test_sve_loses_on_grace():
    """OpenBLAS #4440: DGEMM, 72 threads, 1.975e12 against 2.223e12 flop/s, ratio 0.89; sign and, within 10 %, size."""
    big = product(8000, 8000, 8000, OpKind.MATMUL)
    ratio = rate(openblas("neoverse-v2", "sve", 8.0), big) / rate(openblas("neoverse-v2", "neon", 8.0), big)
    assert ratio < 1
    assert ratio == pytest.approx(1.975 / 2.223, rel=0.10)


def test_slow_packing_loses_on_neoverse_n2():
    """BLIS #641: same 2 x 128 bits, but packing by a reference routine: SVE slower than NEON. The sign; sizes are not known."""
    table = product(500, 500, 500, OpKind.MATMUL)
    sve, neon = vector_core("neoverse-n2", "f64"), vector_core("neoverse-n2", "f64", "neon")
    assert rate(sve, table) == pytest.approx(rate(neon, table), rel=0.02)
    slow = replace(sve, {"move_instructions": 60.0})
    assert rate(slow, table) < 0.9 * rate(neon, table)


def test_axpy_gains_lie_between_one_and_the_ratio_of_load_widths():
    """OpenBLAS #5426: DAXPY, SVE over NEON 2.57 on A64FX, 1.13 on Graviton3E (sizes in and out of cache). In the caches more
    than observed, or at most the ratio of the load widths (4 and 64 B / 48 B); from memory 1."""
    row = dict(kind=OpKind.ELEMENTWISE, flops=2e6, inputs=2e6, outputs=1e6)
    table = make_table([row])
    for name, limit in (("a64fx", 4.0), ("neoverse-v1", 4 / 3)):
        sve, neon = (replace(vector_core(name, "f64", isa), {"overhead": 0.0}) for isa in ("sve", "neon"))
        cached = [float(run(replace(core, {"cold": 0.0, "l2_bandwidth": 1024.0}), table).latency) for core in (neon, sve)]
        assert 1 < cached[0] / cached[1] <= limit + 1e-3
        assert float(run(neon, table).latency) == pytest.approx(float(run(sve, table).latency), rel=1e-3)


def test_packing_wins_where_products_are_large_and_loses_where_they_are_not():
    """IREE's data tiling: BertLarge 742.9 -> 273.1 ms, but MobileNets and DeepLabV3 7 to 20 % slower on one thread (#15256)."""
    packed, plain = vector_core("neoverse-v1"), vector_core("neoverse-v1", packed=False)
    bert = make_table(  # one layer of BERT-Large, 384 tokens: projections and the two dense layers
        [dict(kind=OpKind.DENSE, m=384, n=n, k=k, macs=384 * n * k, inputs=384 * k, outputs=384 * n, weights=n * k)
         for n, k in [(1024, 1024)] * 4 + [(4096, 1024), (1024, 4096)]]
    )  # fmt: skip
    mobilenet = workloads.load("mobilenet-v1-0.25").without_info()
    bert = bert.padded(mobilenet.n_ops)
    ratio = {
        name: float(run(packed, t).latency / run(plain, t).latency) for name, t in (("bert", bert), ("mobilenet", mobilenet))
    }
    assert ratio["bert"] < 0.9
    assert 1.0 < ratio["mobilenet"] < 1.25


# Scaling with the vector length ---------------------------------------------------------------------------------------


@partial(jax.jit, compiler_options=QUICK)
def latencies(core, table):
    """At every vector length."""
    return jax.vmap(lambda bits: estimate(replace(core, {"vector_bits": bits}), table).latency)(jnp.asarray(LENGTHS))


def lengths(core, table):
    """Speed-up over 128 bits at every vector length."""
    latency = np.asarray(latencies(core, table))
    return latency[0] / latency


def test_compute_bound_work_scales_and_memory_bound_work_does_not():
    square, vector = product(2048, 2048, 2048), product(1, 4096, 4096)
    compute, memory = lengths(vector_core("neoverse-v1"), square), lengths(vector_core("neoverse-v1"), vector)
    assert (np.diff(compute) > 0).all() and compute[1] > 1.9 and compute[-1] > 9
    np.testing.assert_allclose(memory, 1.0, rtol=0.03)


def test_scaling_ends_where_tiles_are_wider_than_the_product():
    narrow = lengths(vector_core("neoverse-v1"), product(2048, 64, 2048))
    assert narrow[3] > 2.5 and narrow[4] < 1.02 * narrow[3]  # N0 = 64 at 1024 bit
    # the padding is moved and unpacked too: with eight filters the longest vector is not the fastest
    assert int(np.argmax(lengths(vector_core("neoverse-v1"), product(1024, 8, 72)))) < 4


def test_pipes_times_length_counts_not_length_alone():
    table = product(1024, 1024, 1024)
    short = replace(vector_core("neoverse-v1"), {"vector_bits": 128.0, "pipes": 4.0})
    assert rate(short, table) == pytest.approx(rate(vector_core("neoverse-v1"), table), rel=0.03)


# Properties and gradients ---------------------------------------------------------------------------------------------


def random_cores(count, data="f32", seed=7):
    """`count` cores with every parameter drawn from its range on its natural scale; some at the ends."""
    generator = np.random.default_rng(seed)
    base = VectorCore(data=data)
    changes = {}
    for p in parameters(base):
        low, high = p.param.lo, p.param.hi
        u = generator.uniform(size=count)
        u = np.where(u < 0.05, 0.0, np.where(u > 0.95, 1.0, u))
        start = max(low, high * 1e-9)
        drawn = start * (high / start) ** u if p.param.log else low + (high - low) * u
        changes[p.label] = np.clip(np.where(u == 0.0, low, drawn), low, high)
    return replace(base, changes)


MIXED = [
    dict(kind=OpKind.CONV, m=1024, n=16, k=27, macs=442_368, flops=917_504, inputs=3072, outputs=16_384, weights=448),
    dict(
        kind=OpKind.DEPTHWISE, m=625, n=1, k=9, groups=64, macs=360_000, flops=760_000, inputs=40_000, outputs=40_000, weights=640
    ),
    dict(kind=OpKind.DENSE, m=1, n=12, k=64, macs=768, flops=1560, inputs=64, outputs=12, weights=780),
    dict(kind=OpKind.MATMUL, m=100, n=100, k=64, groups=12, macs=7_680_000, flops=15_360_000, inputs=153_600, outputs=120_000),
    dict(kind=OpKind.ELEMENTWISE, flops=10_000, inputs=10_000, outputs=10_000),
    dict(kind=OpKind.MOVE, inputs=512, outputs=512),
]


@pytest.fixture(scope="module")
def mixed():
    return make_table(MIXED).padded(8)


@partial(jax.jit, compiler_options=QUICK)
def everything(cores, table):
    """(utilization, latency of rows, least time of their bytes, instructions, energy, latency) of a batch of cores."""

    def one(core):
        cost, found = estimate(core, table), phases(core, table)
        floor = found.bytes_moved / core.peak_bandwidth()
        return cost.utilization, cost.per_op.latency, floor, found.instructions, cost.energy, cost.latency

    return jax.vmap(one)(cores)


def test_bounds_hold_over_the_declared_ranges(mixed):
    for seed in range(10):
        utilization, latency, floor, executed, energy, _ = map(np.asarray, everything(random_cores(300, seed=seed), mixed))
        assert ((utilization > 0) & (utilization <= 1 + 1e-5)).all()
        assert (latency >= floor * (1 - 1e-5)).all() and (latency[:, 6:] == 0).all()
        assert (executed[:, :6] > 0).all() and np.isfinite(energy).all()


@pytest.mark.parametrize("label", [
    "clock", "bandwidth", "core_bandwidth", "l2_bandwidth", "pipes", "load_ports", "issue_width", "l1_size", "l2_size",
    "fma_latency", "loop_instructions", "cold",
])  # fmt: skip
def test_latency_is_monotone(label, mixed):
    rises = label in ("fma_latency", "loop_instructions", "cold")
    cores = random_cores(300)
    info = {p.label: p.param for p in parameters(VectorCore())}[label]
    values = jnp.sort(jnp.stack([getattr(cores, label), jnp.clip(getattr(cores, label) * 1.7, info.lo, info.hi)]), axis=0)
    before, after = (np.asarray(everything(replace(cores, {label: v}), mixed)[-1]) for v in values)
    assert (after >= before * (1 - 1e-5)).all() if rises else (after <= before * (1 + 1e-5)).all()


def test_batched_equals_single(mixed):
    cores = random_cores(300)
    together = everything(cores, mixed)[-1]
    for index in range(0, 300, 50):
        one = jax.tree.map(lambda leaf, index=index: leaf[index], cores)
        np.testing.assert_allclose(run(one, mixed).latency, together[index], rtol=2e-6)


def test_clock_scales_time_where_memory_does_not_count(mixed):
    core = replace(vector_core("neoverse-v1"), {"cold": 0.0, "l2_size": 1e9})
    fast, slow = (run(core, mixed, Conditions(frequency=f)).latency for f in (1.0, 0.5))
    np.testing.assert_allclose(slow, 2 * fast, rtol=1e-6)


@pytest.mark.slow
def test_values_and_gradients_are_finite_over_the_declared_ranges(mixed):
    cores, seen = random_cores(60), {}
    for policy in (STRAIGHT_THROUGH, soft(4.0)):

        def objective(core, policy=policy):
            cost = estimate(core, mixed, relaxation=policy)
            return jnp.log(cost.latency) + jnp.log(cost.energy), jnp.stack([cost.utilization, cost.energy, cost.latency])

        slopes, seen[policy] = jax.jit(jax.vmap(jax.grad(objective, has_aux=True)), compiler_options=QUICK)(cores)
        assert np.isfinite(seen[policy]).all()
        assert not {p.label for p in parameters(slopes) if not np.isfinite(p.value).all()}, str(policy)
    hard = everything(cores, mixed)
    np.testing.assert_allclose(seen[STRAIGHT_THROUGH], np.stack([hard[0], hard[4], hard[5]], axis=1), rtol=1e-6)
    assert not np.allclose(seen[soft(4.0)], seen[STRAIGHT_THROUGH], rtol=1e-3)


@pytest.mark.slow
def test_gradients_equal_central_differences(mixed):
    """Soft, in float64, away from multiples: every parameter with an effect."""
    generic = dict(vector_bits=301.7, tile_m=7.3, tile_n=9.1, cores=1.37, prepacked=0.6, cold=0.7, registers_per_load=1.2)

    def log_energy(core):
        return jnp.log(estimate(core, mixed, Conditions(frequency=0.9, voltage=1.1), soft(3.0)).energy)

    with jax.enable_x64(True):
        core = replace(VectorCore(), generic)
        leaves, structure = jax.tree.flatten(core)
        labels = [p.label for p in parameters(core)]
        slopes = np.asarray(jax.tree.leaves(jax.jit(jax.grad(log_energy), compiler_options=QUICK)(core)))
        scale = np.asarray([abs(float(x)) or 1e-12 for x in leaves])
        steps = 1e-6 * np.diag(scale)
        shifted = [jnp.asarray(float(x) + np.concatenate([steps[i], -steps[i]])) for i, x in enumerate(leaves)]
        values = jax.jit(jax.vmap(log_energy), compiler_options=QUICK)(jax.tree.unflatten(structure, shifted))
        up, down = np.split(np.asarray(values), 2)
    for label, slope, difference in zip(labels, slopes * scale, (up - down) / 2e-6, strict=True):
        assert slope == pytest.approx(difference, rel=2e-4, abs=2e-6), label
    assert (np.abs(slopes * scale) > 1e-6).sum() >= 24


@pytest.mark.slow
def test_straight_through_knows_the_directions():
    table = product(1000, 1000, 1000)

    def log_latency(core):
        return jnp.log(estimate(core, table, relaxation=STRAIGHT_THROUGH).latency)

    core = vector_core("neoverse-v1")
    slope = jax.jit(jax.grad(log_latency), compiler_options=QUICK)(core)
    elasticity = {p.label: float(getattr(slope, p.label) * p.value) for p in parameters(core)}
    assert all(np.isfinite(x) for x in elasticity.values())
    assert -1.1 < elasticity["vector_bits"] < -0.8  # twice the length, about half the time
    assert -1.1 < elasticity["clock"] < -0.8 and elasticity["fma_latency"] >= 0 and elasticity["core_bandwidth"] < 0


def test_one_trace_for_changed_values():
    traces = []

    @jax.jit
    def latency(core, table):
        traces.append(1)
        return estimate(core, table).latency

    table = product(64, 64, 64).without_info()
    for name in list_vector_cores():  # four cores, one program
        latency(vector_core(name), table)
    latency(VectorCore(vector_bits=512), product(32, 16, 8).without_info())
    assert len(traces) == 1


# The family among the others ------------------------------------------------------------------------------------------


def test_named_cores_are_hardware_with_sources():
    for name in list_vector_cores():
        assert isinstance(load_hardware(name), VectorCore)
        assert all(p.param.source for p in parameters(load_hardware(name)))
    # 2 x 8 lanes x 2.6 GHz; 4 x 4 x 3.1; 2 x 4 x 2.75; 2 x 16 x 2.2
    peaks = {name: float(load_hardware(name).peak_rate()) for name in list_vector_cores()}
    expected = {"neoverse-v1": 41.6e9, "neoverse-v2": 49.6e9, "neoverse-n2": 22e9, "a64fx": 70.4e9}
    assert peaks == {name: pytest.approx(value) for name, value in expected.items()}


def test_a64fx_draws_what_green500_says():
    """154 W a node of 48 cores (Green500 11/2019, prototype: 118.48 kW, 768 nodes), 3.2 W a core; the split is assumed."""
    cost = run(vector_core("a64fx", "f64"), product(2000, 2000, 2000))
    assert float(cost.power) == pytest.approx(118.48e3 / 768 / 48, rel=0.1)


@pytest.mark.slow
def test_sweep_and_roofline_take_vector_cores():
    table = workloads.load("resnet8").without_info()
    core = vector_core("neoverse-v1")

    def latency(hardware):
        return estimate(hardware, table, relaxation=STRAIGHT_THROUGH).latency

    data = sweep(latency, core, vary={"vector_bits": np.asarray(LENGTHS)})
    assert "vector_bits" in data.coords
    points = roofline_points(core, workloads.load("resnet8"))
    assert (points.rate <= points.roof(points.intensity) * (1 + 1e-5)).all()


def test_memory_sets_the_pace_of_matrix_times_vector():
    cost = run(vector_core("neoverse-v1"), product(1, 4096, 4096))
    assert Bound(int(cost.bound)) is Bound.MEMORY
    assert float(cost.latency) == pytest.approx(4 * 4096 * 4096 / 20e9, rel=0.05)


@pytest.mark.parametrize("call, message", [
    (lambda: vector_core("neoverse-v3"), "unknown vector core 'neoverse-v3'"),
    (lambda: vector_core("a64fx", "bf16"), "data = 'bf16': a64fx has no BFMMLA; it multiplies f64, f32, f16, i8-dot"),
    (lambda: vector_core("a64fx", "f8"), "unknown data type 'f8'"),
    (lambda: vector_core("a64fx", isa="avx"), "isa = 'avx' is not one of sve, neon"),
    (lambda: VectorCore(vector_bits=64), r"VectorCore.vector_bits = 64 bit is outside its range \[128, 2048\] bit"),
    (lambda: VectorCore(data="f8"), "VectorCore.data = 'f8' is not one of f64"),
    (lambda: VectorCore(broadcast="dup"), "VectorCore.broadcast = 'dup' is not one of lane, load"),
])  # fmt: skip
def test_bad_input_says_so_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_i8_takes_dot_products_where_there_is_no_matrix_instruction():
    assert vector_core("a64fx", "i8").data_type is DATA_TYPES["i8-dot"]
    assert vector_core("neoverse-v1", "i8").data_type is DATA_TYPES["i8"]
