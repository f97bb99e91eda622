"""Systolic arrays: cycles, buffer accesses and stalls against SCALE-Sim, the processor against arithmetic by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import costmodel
import workloads
from costmodel import (
    STRAIGHT_THROUGH,
    Bound,
    Conditions,
    Systolic,
    count_systolic_accesses,
    count_systolic_cycles,
    estimate,
    simulate_convolution_stalls,
    simulate_stalls,
    soft,
    systolic_cycle_words,
    systolic_cycles,
    topology_table,
)
from costmodel.processors.systolic_counts import DATAFLOWS, argmin_words, buffer_accesses

pytestmark = pytest.mark.single  # whole numbers: the same in either precision

X64 = jax.config.jax_enable_x64
QUICK = {"xla_llvm_disable_expensive_passes": True, "xla_backend_optimization_level": 0}  # compile fast, run slowly
priced = jax.jit(estimate, compiler_options=QUICK)

# scalesim 3.0.0 (identical in v2 22f88b17): dataflow, M, N, K, rows, columns, demand rows, ifmap and filter reads, ofmap writes
SCALESIM = [
    ("os", 1, 5, 13, 2, 14, 27, 13, 65, 21), ("os", 31, 33, 64, 4, 2, 9248, 33728, 16896, 1839),
    ("os", 100, 32, 13, 4, 2, 6800, 20800, 10400, 5600), ("os", 64, 17, 65, 12, 16, 1092, 8320, 6630, 1424),
    ("os", 64, 2, 8, 12, 2, 120, 512, 96, 212), ("os", 13, 7, 31, 4, 32, 260, 403, 868, 235),
    ("os", 3, 13, 16, 4, 32, 50, 48, 208, 75), ("os", 1, 2, 2, 4, 16, 20, 2, 4, 22),
    ("ws", 13, 31, 17, 16, 4, 752, 1768, 527, 806), ("ws", 17, 5, 16, 8, 32, 126, 272, 80, 170),
    ("ws", 33, 64, 32, 14, 16, 900, 4224, 2048, 6336), ("ws", 5, 17, 7, 8, 2, 189, 315, 119, 85),
    ("ws", 17, 100, 3, 2, 16, 490, 357, 300, 3400), ("ws", 40, 17, 16, 32, 4, 530, 3200, 272, 680),
    ("ws", 65, 2, 64, 4, 14, 1360, 4160, 128, 2080), ("ws", 65, 40, 64, 2, 12, 10112, 16640, 2560, 83200),
    ("is", 3, 13, 16, 4, 32, 204, 48, 208, 156), ("is", 5, 100, 40, 16, 2, 1188, 200, 12000, 1500),
    ("is", 13, 7, 31, 4, 32, 360, 403, 217, 728), ("is", 13, 17, 33, 16, 12, 354, 429, 1122, 663),
    ("is", 13, 8, 2, 14, 16, 50, 26, 16, 104), ("is", 40, 1, 100, 32, 32, 760, 4000, 200, 160),
    ("is", 100, 32, 13, 4, 2, 8000, 1300, 20800, 12800), ("is", 3, 32, 100, 14, 2, 960, 300, 6400, 768),
]  # fmt: skip

# The same tool with its memory: dataflow, M, N, K, rows, columns, buffers (words), words per cycle, total cycles,
# memory reads of ifmap and filter, memory writes of ofmap
STALLS = [
    ("os", 64, 64, 64, 16, 16, (1024, 1024, 1024), 10, 5909, 29120, 58240, 4096),
    ("os", 64, 64, 64, 16, 16, (1024, 1024, 1024), 50, 1567, 30800, 61600, 4096),
    ("is", 64, 64, 64, 16, 16, (1024, 1024, 1024), 50, 1759, 39050, 30800, 16384),
    ("ws", 128, 96, 80, 16, 16, (1024, 1024, 1024), 10, 13742, 93080, 131560, 61765),
    ("is", 128, 96, 80, 16, 16, (1024, 1024, 1024), 20, 12530, 237120, 100880, 61440),
    ("os", 256, 64, 128, 16, 16, (1024, 1024, 1024), 50, 11903, 383900, 540650, 16384),
    ("is", 256, 64, 128, 16, 16, (1024, 1024, 1024), 50, 124822, 5717250, 261800, 131072),
    ("is", 43, 115, 93, 32, 12, (1024, 2048, 65536), 20, 6638, 32240, 130000, 14835),
    ("is", 120, 5, 32, 8, 16, (1024, 128, 700), 1, 49791, 49664, 5056, 2400),
    ("ws", 45, 51, 114, 4, 4, (128, 128, 128), 10, 221360, 1936550, 108150, 66555),
    ("os", 105, 120, 21, 32, 12, (2048, 4096, 128), 5, 15199, 75850, 4100, 12859),
    ("ws", 25, 64, 14, 32, 12, (700, 2048, 1024), 1, 721, 350, 1008, 1600),
    ("os", 18, 110, 35, 8, 16, (128, 1024, 4096), 50, 1470, 17800, 66000, 1980),
]  # fmt: skip

# The same for convolutions: dataflow, height, width, kernel, channels, filters, stride, rows, columns, and so on
WINDOWS = [
    ("is", (11, 18, 3, 3, 1, 8, 1), 8, 8, (512, 2048, 256), 4, 1355, 5376, 128, 2307),  # as its product 6407 cycles
    ("is", (20, 11, 3, 1, 8, 4, 2), 16, 16, (256, 256, 256), 1, 18189, 18048, 128, 480),
    ("is", (12, 13, 2, 5, 3, 1, 3), 32, 32, (256, 1000, 256), 4, 778, 2816, 32, 20),
    ("os", (5, 18, 1, 3, 8, 20, 1), 30, 5, (2048, 1000, 1000), 3, 4259, 13338, 480, 1600),
    ("os", (24, 10, 1, 5, 8, 4, 3), 2, 24, (2048, 1000, 2048), 1, 895, 1024, 500, 108),
    ("os", (8, 13, 1, 1, 16, 20, 3), 16, 16, (256, 256, 512), 20, 183, 700, 1400, 400),
    ("ws", (17, 20, 5, 3, 16, 1, 3), 32, 32, (2048, 1024, 2048), 50, 1254, 57750, 550, 280),
    ("ws", (7, 22, 2, 5, 8, 8, 3), 12, 14, (256, 100, 64), 3, 3524, 5547, 9792, 1195),
]  # fmt: skip


def sizes(seed: int, count: int, largest: int) -> list[np.ndarray]:
    """m, n, k, rows, columns; a third of the products are exact multiples of the array."""
    rng = np.random.default_rng(seed)
    shape = [np.exp(rng.uniform(0, np.log(largest), count)).astype(np.int64) for _ in range(3)]
    array = [rng.integers(1, 300, count), 2 ** rng.integers(0, 12, count)]
    multiple = rng.random(count) < 1 / 3
    return [
        np.where(multiple, np.maximum(x // a, 1) * a, x) for x, a in zip(shape, [array[0], array[1], array[0]], strict=True)
    ] + array


# SCALE-Sim ------------------------------------------------------------------------------------------------------------


def test_cycles_and_accesses_are_scalesims():
    for dataflow, m, n, k, rows, columns, cycles, *accesses in SCALESIM:
        shape = (m, n, k, rows, columns, dataflow)
        assert int(count_systolic_cycles(*shape)) == cycles, shape
        assert [int(x) for x in count_systolic_accesses(*shape, form="tool")] == accesses, shape
        assert int(count_systolic_accesses(*shape).outputs) == m * n * (1 if dataflow == "os" else -(-k // rows)), shape


def test_stalls_and_memory_words_are_scalesims():
    for dataflow, m, n, k, rows, columns, buffers, bandwidth, total, *words in STALLS:
        got = simulate_stalls(m, n, k, rows=rows, columns=columns, dataflow=dataflow, buffers=buffers, bandwidth=bandwidth)
        assert (got.total, [got.inputs, got.filters, got.outputs]) == (total, words), (dataflow, m, n, k, buffers, bandwidth)
        assert got.compute == int(count_systolic_cycles(m, n, k, rows, columns, dataflow))
        assert got.total == got.compute - 1 + got.stall


def test_stalls_of_convolutions_are_scalesims():
    for dataflow, sizes, rows, columns, buffers, bandwidth, total, *words in WINDOWS:
        hardware = dict(rows=rows, columns=columns, dataflow=dataflow, buffers=buffers, bandwidth=bandwidth)
        got = simulate_convolution_stalls(*sizes, **hardware)
        assert (got.total, [got.inputs, got.filters, got.outputs]) == (total, words), (dataflow, sizes)
    # windows of one word that do not overlap are a product: 5 x 6 positions, 7 channels, 4 filters
    hardware = dict(rows=4, columns=4, dataflow="ws", buffers=(64, 64, 64), bandwidth=2)
    assert simulate_convolution_stalls(5, 6, 1, 1, 7, 4, **hardware) == simulate_stalls(30, 4, 7, **hardware)


def test_no_stalls_where_everything_fits():
    for dataflow in DATAFLOWS:
        for bandwidth in (1, 10, 50):
            got = simulate_stalls(64, 64, 64, rows=16, columns=16, dataflow=dataflow, bandwidth=bandwidth)
            assert got.stall == 0


def test_the_printed_form_charges_the_loading_to_output_stationary_too():
    m, n, k, rows, columns = sizes(0, 2000, 10_000)
    for index, dataflow in enumerate(DATAFLOWS):
        tool, printed = (count_systolic_cycles(m, n, k, rows, columns, dataflow, form) for form in ("tool", "printed"))
        folds = -(-m // rows) * -(-n // columns)
        np.testing.assert_array_equal(printed - tool, folds * rows if index == 0 else 0)
    # four rows and columns, T = 4: 4 + 4 + 4 - 2 = 10 cycles; the tool's index of the last is 9 (its issue 125)
    assert int(count_systolic_cycles(4, 4, 4, 4, 4, "os")) == 10


# One law, three ways to count -------------------------------------------------------------------------------------------


def test_words_are_exact_beyond_two_to_the_31_and_saturate():
    m, n, k, rows, columns = sizes(1, 20_000, 2**31 - 1)
    for index in range(3):
        flow = np.full(m.shape, index)
        exact = np.asarray(count_systolic_cycles(m, n, k, rows, columns, flow)).astype(object)
        words = _words(*(jnp.asarray(x, jnp.int32) for x in (m, n, k, rows, columns, flow)))
        got = np.asarray(words.high).astype(object) * 2**32 + np.asarray(words.low).astype(object)
        np.testing.assert_array_equal(got, np.minimum(exact, 2**64 - 1))
        assert np.mean(exact > 2**31) > 0.3 and np.any(exact >= 2**64)


_words = jax.jit(systolic_cycle_words)


def test_whole_numbers_of_any_size():
    most = 2**31 - 1  # (2^31 - 1)^2 folds of a single cell, each 2^31 - 1 + 1 + 1 - 2 cycles
    assert int(count_systolic_cycles(most, most, most, 1, 1, "os")) == most**3
    assert int(count_systolic_accesses(most, most, most, 1, 1, "os").inputs) == most**3
    # 2^30 x 2^30 folds of 7 + 2 + 2 - 2: 9 * 2^60 does not fit int64, and three of it not uint64
    counts = [count_systolic_cycles(most, most, 7, 2, 2, flow) for flow in ("os", 0, np.int64(0), jnp.asarray(0))]
    assert [int(3 * count) for count in counts] == [27 * 2**60] * 4


def test_the_least_of_words():
    high, low = jnp.asarray([[1, 0, 0, 0]], jnp.uint32), jnp.asarray([[0, 2**32 - 1, 7, 7]], jnp.uint32)
    assert int(argmin_words(costmodel.processors.systolic_counts.Words(high, low))[0]) == 2


def test_floats_agree_with_integers():
    *shape, flow = [*sizes(2, 15_000, 1_000_000), np.arange(15_000) % 3]
    arrays, tolerance = [*(jnp.asarray(x, float) for x in shape), jnp.asarray(flow)], 1e-14 if X64 else 1e-6
    exact = count_systolic_cycles(*shape, flow).astype(float)
    np.testing.assert_allclose(jax.jit(systolic_cycles)(*arrays), exact, rtol=tolerance)
    for got, want in zip(jax.jit(buffer_accesses)(*arrays), count_systolic_accesses(*shape, flow), strict=True):
        np.testing.assert_allclose(got, want.astype(float), rtol=tolerance)
    relaxed = jax.jit(lambda *a: systolic_cycles(*a, policy=soft(4.0)))(*arrays)
    assert np.all(np.asarray(relaxed) <= exact * (1 + 1e-6))


# The processor ----------------------------------------------------------------------------------------------------------


def product(m: int, n: int, k: int) -> workloads.OpTable:
    return topology_table([("product", m, n, k)])


WIDE = dict(input_buffer=1e12, filter_buffer=1e12, output_buffer=1e12)


def test_a_product_by_hand():
    # ws, 16 x 16: 32 x 20 x 40 has ceil(40 / 16) ceil(20 / 16) = 6 folds of 32 + 32 + 16 - 2 = 78 cycles: 468 at 1 GHz
    hardware = Systolic(
        dataflow="ws", bandwidth=1e12, energy_per_mac=1e-12, energy_buffer=2e-12, energy_accumulator=3e-12, **WIDE
    )
    cost = priced(hardware, product(32, 20, 40).without_info())
    np.testing.assert_allclose(cost.latency, 468e-9, rtol=1e-6)
    # all fits: 32 * 40 + 40 * 20 + 32 * 20 = 2720 bytes
    np.testing.assert_allclose(cost.bytes_moved, 2720, rtol=1e-6)
    # buffers: 32 * 40 * 2 + 40 * 20 = 3360 words; sums: 3 * 640 written, 2 * 640 read again; MACs: 25,600
    np.testing.assert_allclose(cost.dynamic_energy, 25_600e-12 + 3360 * 2e-12 + 5 * 640 * 3e-12, rtol=1e-6)
    np.testing.assert_allclose(cost.utilization, 25_600 / 468 / 256, rtol=1e-6)


moved = jax.jit(lambda hardware: hardware.memory_words(product(32, 20, 40)), compiler_options=QUICK)


def test_what_does_not_fit_comes_again():
    # os, 16 x 16, inputs 32 x 40 (1280 words), half of 1000 B stays; 2 column folds: 1280 + 1 * (1280 - 500)
    hardware = Systolic(dataflow="os", input_buffer=1000, filter_buffer=600, output_buffer=1e12)
    words = moved(hardware)
    np.testing.assert_allclose(words.inputs, [2060], rtol=1e-6)
    # one column fold of filters has 40 * 16 = 640 words, 300 stay; 2 row folds of 32 rows: 800 + 2 * 1 * (640 - 300)
    np.testing.assert_allclose(words.filters, [1480], rtol=1e-6)
    np.testing.assert_allclose(words.outputs, [640], rtol=1e-6)
    # ws: the sums of one column fold, 32 * 16 of 4 B; 400 / 8 = 50 stay; 3 row folds: 2 * 2 * 2 * (512 - 50) = 3696 words
    wide = Systolic(dataflow="ws", output_buffer=400, input_buffer=1e12, filter_buffer=2, bandwidth=1e15)
    np.testing.assert_allclose(moved(wide).sums, [3696], rtol=1e-6)
    # behind a slow memory the stream is cut into ceil(512 / 50) = 11 pieces: filters come 11 times (800 + 10 * 799), no sums
    slow = dataclasses.replace(wide, bandwidth=jnp.asarray(1e6))
    np.testing.assert_allclose(moved(slow).sums, [0])
    np.testing.assert_allclose(moved(slow).filters, [800 + 10 * 799], rtol=1e-6)


def test_networks_take_the_exact_cycles_where_memory_is_fast():
    ops = workloads.load("resnet8")
    m, n, k, groups = (np.asarray(x).astype(np.int64) for x in (ops.m, ops.n, ops.k, ops.groups))
    hardware = Systolic(dataflow="is", rows=12.0, columns=14.0, bandwidth=1e15, vector_rate=1e16)
    cycles = hardware.exact_cycles(ops)
    found = np.asarray(priced(hardware, ops.without_info()).per_op.latency) * float(hardware.clock)
    busy = cycles > 0
    np.testing.assert_allclose(found[busy], cycles[busy].astype(float), rtol=2e-3)  # the vector unit's share on top
    np.testing.assert_array_equal(cycles[busy], (groups * count_systolic_cycles(m, n, k, 12, 14, "is"))[busy])


def sweep_cost(dataflow: str):
    ops = topology_table([("a", 1000, 40, 300), ("b", 3, 500, 2000), ("c", 28, 28, 3, 3, 64, 128, 1)]).without_info()

    def cost(hardware, bandwidth, buffers):
        hardware = dataclasses.replace(
            hardware, bandwidth=bandwidth, input_buffer=buffers, filter_buffer=buffers, output_buffer=buffers
        )
        found = estimate(hardware, ops)
        return found.latency, found.bytes_moved, found.bound

    return jax.jit(jax.vmap(cost, (None, 0, 0)), compiler_options=QUICK)


def test_more_memory_is_never_worse_and_bounds_make_sense():
    run, hardware = sweep_cost("ws"), Systolic(dataflow="ws")
    latency, _, bound = run(hardware, jnp.geomspace(1e6, 1e13, 400), jnp.full(400, 4096.0))
    assert np.all(np.diff(latency) <= 1e-6 * np.asarray(latency)[:-1])
    assert bound[0] == Bound.MEMORY and bound[-1] == Bound.COMPUTE
    latency, moved, _ = run(hardware, jnp.full(400, 1e8), jnp.geomspace(64.0, 1e9, 400))
    assert np.all(np.diff(latency) <= 1e-5 * np.asarray(latency)[:-1])
    assert moved[-1] < moved[0]


def test_gradients_match_differences():
    ops = workloads.load("resnet8").without_info()
    labels = ("clock", "bandwidth", "output_buffer", "energy_buffer", "energy_memory", "operand_bits")

    def objective(logs):
        changes = dict(zip(labels, jnp.exp(logs), strict=True))
        cost = estimate(dataclasses.replace(costmodel.load_hardware("gemmini"), **changes), ops)
        return jnp.log(cost.latency) + jnp.log(cost.energy)

    at = jnp.log(jnp.asarray([0.9e9, 5e9, 20_000.0, 7e-12, 9e-11, 8.0]))
    both = jax.jit(jax.value_and_grad(objective), compiler_options=QUICK)
    slopes = both(at)[1]
    step = 1e-5 if X64 else 1e-3
    for index, label in enumerate(labels):
        move = step * jnp.eye(len(labels))[index]
        numeric = (both(at + move)[0] - both(at - move)[0]) / (2 * step)
        np.testing.assert_allclose(slopes[index], numeric, atol=5e-3, err_msg=label)
    assert both._cache_size() == 1
    signs = np.sign(np.asarray(slopes))
    np.testing.assert_array_equal(signs[[1, 3, 4, 5]], [-1, 1, 1, 1])  # faster memory, cheaper words, narrower words


def test_peaks_follow_the_clock():
    hardware = costmodel.load_hardware("gemmini")
    np.testing.assert_allclose(hardware.peak_rate(Conditions(frequency=0.5)), 128e9)
    np.testing.assert_allclose(hardware.peak_bandwidth(Conditions(frequency=0.5)), 8e9)


@pytest.mark.slow
@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_larger_arrays_are_faster_where_rounding_is_seen_through(dataflow):
    ops = workloads.load("resnet8").without_info()
    latency = jax.grad(lambda h: estimate(h, ops, relaxation=STRAIGHT_THROUGH).latency)
    slopes = jax.jit(latency, compiler_options=QUICK)(Systolic(dataflow=dataflow, bandwidth=1e15))
    assert slopes.rows < 0 and slopes.columns < 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: count_systolic_cycles(np.asarray([4.0, np.inf]), 1, 1, 1, 1), "m = inf is outside its range"),
        (lambda: count_systolic_cycles(1, 1, 1, 1, 1, 3), "dataflow = 3 is outside its range"),
        (lambda: simulate_convolution_stalls(4, 4, 5, 5, 1, 1, rows=4, columns=4), "kernel = 5 is outside its range"),
        (lambda: count_systolic_cycles(0, 1, 1, 1, 1), "m = 0 is outside its range"),
        (lambda: count_systolic_cycles(1, 1, 1, 1, 1, "rs"), "unknown dataflow 'rs'"),
        (lambda: count_systolic_cycles(1, 1, 1, 1, 1, "os", "paper"), "unknown form 'paper'"),
        (lambda: Systolic(dataflow="rs"), "unknown dataflow 'rs'"),
        (lambda: Systolic(rows=0.0), r"Systolic.rows = 0 is outside its range \[1, 65536\]"),
        (lambda: simulate_stalls(4, 4, 4, rows=4, columns=4, bandwidth=0), "bandwidth 0"),
    ],
    ids=["infinite", "flow", "window", "size", "dataflow", "form", "processor", "rows", "bandwidth"],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
