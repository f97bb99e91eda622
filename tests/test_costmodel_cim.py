"""The crossbar chip: the published timing example, ISAAC's roll-up, tiles by integers, programming and energy by hand."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from costmodel import HARD, STRAIGHT_THROUGH, Bound, Conditions, CrossbarChip, estimate, load_hardware, soft
from physics import load_device, parameters, replace
from workloads import OpKind, make_table

X64 = jax.config.read("jax_enable_x64")


def tol(single: float, double: float) -> float:
    return double if X64 else single


def matrix(m: int, k: int, n: int, groups: int = 1, kind: OpKind = OpKind.DENSE, **more) -> dict:
    """A row of a table: `groups` matrix products, M x K times K x N, and nothing else."""
    macs = float(m) * k * n * groups
    return dict(kind=kind, m=m, n=n, k=k, groups=groups, macs=macs, flops=2 * macs) | more


def conv(size: int, inputs: int, outputs: int, kernel: int = 3) -> dict:
    return matrix(size * size, kernel * kernel * inputs, outputs, kind=OpKind.CONV)


def depthwise(size: int, channels: int, kernel: int = 3) -> dict:
    return matrix(size * size, kernel * kernel, 1, channels, kind=OpKind.DEPTHWISE)


def cycles(chip: CrossbarChip, *rows: dict) -> list[int]:
    latency = np.asarray(estimate(chip, make_table(rows)).per_op.latency, np.float64)
    return [round(x) for x in latency / float(chip.cycle_time)]


# The published timing example -----------------------------------------------------------------------------------------


EXAMPLE = conv(56, 64, 64)  # 3 x 3, 64 -> 64 channels, 56 x 56: M = 3136, K = 576, N = 64; 128 word lines, 16 filters


def test_the_example_as_printed():
    # (576 / 128) (64 / 16) 3136 / (8 x 12) = 4.5 x 4 x 3136 / 96 = 588 batches; 588 x 16 + 6 = 9414 cycles
    chip = CrossbarChip(timing="literal", scope="pe")
    assert float(chip.batches(make_table([EXAMPLE]))[0]) == 588
    assert cycles(chip, EXAMPLE) == [9414]


def test_the_example_in_its_physical_form():
    # ceil(4.5) x 4 x 3136 / 96 = 653.3 -> 654 batches; 654 x 16 + 6 = 10470 cycles, 11 % more
    chip = CrossbarChip(scope="pe")
    assert float(chip.batches(make_table([EXAMPLE]))[0]) == 654
    assert cycles(chip, EXAMPLE) == [10470]


def test_the_example_on_other_arrays_in_scope():
    # whole chip: 20 x 3136 / 16128 = 3.89 -> 4 batches, 70 cycles; only its own arrays: 3136 batches, 50182 cycles
    assert cycles(CrossbarChip(scope="chip"), EXAMPLE) == [70]
    assert cycles(CrossbarChip(scope="layer"), EXAMPLE) == [50182]


def test_a_layer_larger_than_the_chip_takes_turns():
    # 200 arrays of work on 96: every product takes 200 / 96 turns
    chip = CrossbarChip(elements=1, scope="layer")
    row = matrix(48, 128 * 200, 16)
    assert float(chip.tiles(make_table([row]))[0]) == 200
    np.testing.assert_allclose(chip.batches(make_table([row]))[0], 48 * 200 / 96, rtol=1e-6)


def test_cycles_of_a_product_follow_the_converter():
    # 16 input bits through 1, 3, 5, 16 bit converters: 16, 6, 4, 1 cycles
    for dac, phases in ((1, 16), (3, 6), (5, 4), (16, 1)):
        assert cycles(CrossbarChip(scope="pe", dac_bits=dac), EXAMPLE) == [654 * phases + 6]


# ISAAC ----------------------------------------------------------------------------------------------------------------


def test_isaac_reaches_its_published_rate_and_power():
    # Shafiee et al., ISCA 2016: 168 x 12 x 8 x 128 x 128 / 8 x 2 / (16 x 100 ns) = 41.29 TOPS, 65.8 W
    chip = load_hardware("isaac")
    assert 2 * float(chip.peak_rate()) == pytest.approx(41.29e12, rel=5e-3)
    assert 2 * float(chip.peak_rate()) == pytest.approx(168 * 12 * 8 * 128 * 16 * 2 / 1.6e-6, rel=1e-6)
    assert float(chip.peak_power()["total"]) == pytest.approx(65.8, rel=5e-3)


def test_isaacs_roll_up_closes_at_every_level():
    power = {name: float(x) for name, x in load_hardware("isaac").peak_power().items()}
    unit = ("adc", "dac", "sample and hold", "crossbars", "shift and add", "input register", "output register")
    # 16 + 4 + 0.01 + 2.4 + 0.2 + 1.24 + 0.23 = 24.08 mW; 12 units + 20.7 + 7 + 10.5 + 2.65 = 329.81 mW
    assert sum(power[name] for name in unit) / (168 * 12) == pytest.approx(24.08e-3, rel=1e-6)
    tile = sum(power[name] for name in unit) + sum(power[name] for name in ("buffer", "bus", "router", "digital"))
    assert tile / 168 == pytest.approx(329.8e-3, rel=1e-4)
    assert power["standby"] == pytest.approx(10.4)
    assert sum(x for name, x in power.items() if name != "total") == pytest.approx(power["total"], rel=1e-6)


def test_a_chip_full_of_work_draws_its_peak_power_at_its_peak_rate():
    # 128 x 16128 inputs, 16 filters: all arrays busy in every cycle but the 6 of the pipeline
    chip = load_hardware("isaac")
    table = make_table([matrix(100_000, 128 * 16128, 16)])
    cost = estimate(chip, table)
    assert float(cost.memory) == 1.0
    np.testing.assert_allclose(cost.power, chip.peak_power()["total"], rtol=1e-5)
    np.testing.assert_allclose(cost.utilization, 1.0, rtol=1e-5)
    np.testing.assert_allclose(cost.latency, (100_000 * 16 + 6) * 100e-9, rtol=1e-6)


def test_the_leaking_part_of_the_power_does_not_switch():
    chip = load_hardware("isaac")
    table = make_table([matrix(1000, 128, 16)])
    for share in (0.0, 0.1, 0.7):
        cost = estimate(replace(chip, {"leakage_fraction": share}), table)
        # one array, 1000 products of 16 cycles: (1 - share) x 55.4 W / 16128 x 1.6 ms
        np.testing.assert_allclose(cost.dynamic_energy, (1 - share) * 168 * 0.32981 / 16128 * 1.6e-3, rtol=1e-4)
        np.testing.assert_allclose(cost.static_energy, (share * 168 * 0.32981 + 10.4) * cost.latency, rtol=1e-4)


# Tiles ----------------------------------------------------------------------------------------------------------------


def tiles_by_integers(k, n, groups, rows, filters):
    """Independent count: as many groups side by side in one array as both its rows and its columns allow."""
    sharing = max(1, min(rows // k, filters // n, groups))
    return -(-groups // sharing) * -(-k // rows) * -(-n // filters)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (matrix(1, 128, 16), 1),
        (matrix(1, 129, 16), 2),
        (matrix(1, 128, 17), 2),
        (matrix(1, 640, 128), 5 * 8),  # first layer of the autoencoder
        (conv(32, 16, 32), 2 * 2),  # K = 144, N = 32
        (depthwise(25, 64), 5),  # 128 // 9 = 14 kernels side by side (16 filters would fit): 64 / 14
        (depthwise(12, 14), 1),
        (depthwise(12, 15), 2),
        (depthwise(12, 100, kernel=9), 100),  # 81 word lines: one kernel per array
        (matrix(9, 30, 5, groups=7), 3),  # 4 by rows, 3 by filters: 7 / 3
        (matrix(9, 200, 20, groups=3), 3 * 2 * 2),  # larger than an array: no sharing
    ],
)
def test_tiles_by_hand(row, expected):
    chip = CrossbarChip()
    assert float(chip.tiles(make_table([row]))[0]) == expected
    assert tiles_by_integers(row["k"], row["n"], row["groups"], 128, 16) == expected


def test_filters_in_an_array():
    for weight, cell, cols, filters in ((16, 2, 128, 16), (8, 2, 128, 32), (7, 2, 128, 32), (9, 2, 128, 25), (8, 3, 100, 33)):
        assert float(CrossbarChip(weight_bits=weight, bits_per_cell=cell, cols=cols).filters_per_array()) == filters
    assert float(CrossbarChip(weight_bits=32, bits_per_cell=1, cols=16).filters_per_array()) == 1  # never none


@pytest.fixture(scope="module")
def many():
    """100 random matrix products, and 300 random array geometries."""
    rng = np.random.default_rng(0)
    k, n = (np.exp(rng.uniform(0, 8, 100)).astype(int) for _ in range(2))
    groups, m = np.exp(rng.uniform(0, 5, 100)).astype(int), np.exp(rng.uniform(0, 7, 100)).astype(int)
    groups[::2] = 1
    table = make_table([matrix(*(int(x) for x in shape)) for shape in zip(m, k, n, groups, strict=True)])
    rows, cols = (2 ** rng.integers(4, 11, 300) + rng.integers(0, 2, 300) for _ in range(2))
    bits = rng.integers(1, 17, 300)
    changes = {"rows": rows, "cols": cols, "weight_bits": bits, "bits_per_cell": rng.integers(1, 5, 300), "input_bits": bits}
    return changes, table


@pytest.fixture(scope="module")
def counted(many):
    """Tiles, batches and phases of all of them by policy; arrays (300, 100) or (300,)."""
    changes, table = many

    def count(point, policy):
        chip = replace(CrossbarChip(), point)
        return chip.tiles(table, policy), chip.batches(table, policy), chip.phases(policy)

    points = {label: jnp.asarray(values, float) for label, values in changes.items()}
    return {p: jax.jit(jax.vmap(lambda point, p=p: count(point, p)))(points)
            for p in (HARD, STRAIGHT_THROUGH, soft(1.0), soft(20.0))}  # fmt: skip


def test_tiles_and_batches_equal_integer_arithmetic_in_batches(many, counted):
    (rows, cols, weight, cell, _), table = many[0].values(), many[1]
    tiles, batches, _ = (np.asarray(x) for x in counted[HARD])
    k, n, groups, m = (np.asarray(x).tolist() for x in (table.k, table.n, table.groups, table.m))
    for i in range(300):
        filters = max(1, int(cols[i]) // -(-int(weight[i]) // int(cell[i])))
        expected = [tiles_by_integers(k[j], n[j], groups[j], int(rows[i]), filters) for j in range(100)]
        assert tiles[i].tolist() == expected
        for j, work in enumerate(a * b for a, b in zip(expected, m, strict=True)):
            assert work >= 2**24 or batches[i, j] == -(-work // 16128)


def test_relaxed_counts_never_exceed_the_hard_ones(counted):
    hard = counted[HARD]
    for through, exact in zip(counted[STRAIGHT_THROUGH], hard, strict=True):
        np.testing.assert_array_equal(through, exact)
    for policy in (soft(1.0), soft(20.0)):
        for relaxed, exact in zip(counted[policy], hard, strict=True):
            assert (np.asarray(relaxed) <= np.asarray(exact) * (1 + tol(1e-5, 1e-12))).all()
            assert (np.asarray(relaxed) > 0).all()
    gap = [np.mean(np.asarray(counted[p][0]) / np.asarray(hard[0])) for p in (soft(1.0), soft(20.0))]
    assert gap[0] < gap[1] < 1  # sharper is closer


def test_relaxed_cycles_never_exceed_the_hard_ones_in_either_timing():
    """As printed and in its physical form, with ISAAC's 168 x 12 x 8 arrays: cycles of a whole network, layer by layer."""
    rng = np.random.default_rng(3)
    points = {"rows": rng.integers(40, 300, 64), "cols": rng.integers(40, 300, 64), "dac_bits": rng.integers(1, 7, 64)}
    points = {label: jnp.asarray(values, float) for label, values in points.items()}
    table = make_table([EXAMPLE, depthwise(25, 64), matrix(1, 640, 128), conv(96, 3, 8), matrix(9, 30, 5, groups=7)])
    for timing in ("literal", "physical"):
        chip = CrossbarChip(timing=timing, scope="pe")
        assert float(chip.n_arrays) == 168 * 12 * 8

        def cycles_under(point, policy, chip=chip):
            here = replace(chip, point)
            return here.batches(table, policy) * here.phases(policy) + here.pipeline

        quick = {"xla_llvm_disable_expensive_passes": True, "xla_backend_optimization_level": 0}
        run = jax.jit(jax.vmap(cycles_under, (0, None)), static_argnums=1, compiler_options=quick)
        hard = np.asarray(run(points, HARD), np.float64)
        np.testing.assert_array_equal(run(points, STRAIGHT_THROUGH), hard)
        slack = [np.asarray(run(points, soft(s))) / hard for s in (1.0, 20.0)]
        assert all((ratio <= 1 + tol(1e-5, 1e-12)).all() for ratio in slack)
        assert slack[0].mean() < slack[1].mean() <= 1 + 1e-6
        if timing == "literal":  # the printed form counts fractions of arrays: never more than the physical one
            products = [
                replace(CrossbarChip(scope="pe", timing=t), {"rows": 100, "cols": 90}).batches(table)
                for t in ("physical", timing)
            ]
            whole = np.asarray(table.groups) == 1
            assert (np.asarray(products[1])[whole] <= np.asarray(products[0])[whole]).all()


def test_whole_chip_batches_do_not_exceed_those_of_one_element():
    table = make_table([EXAMPLE, depthwise(25, 64), matrix(1, 640, 128), conv(96, 3, 8)])
    batches = [np.asarray(CrossbarChip(scope=scope).batches(table)) for scope in ("chip", "pe", "layer")]
    assert (batches[0] <= batches[1]).all() and (batches[0] <= batches[2]).all()


# Programming ----------------------------------------------------------------------------------------------------------


def small_chip(**changes) -> CrossbarChip:
    """One element of 2 x 4 arrays of 16 x 16 two-bit cells, 4-bit operands: 8 filters per array, 8 arrays."""
    numbers = dict(elements=1, units=2, arrays=4, rows=16, cols=16, weight_bits=4, input_bits=4, write_arrays=2, write_pulses=3,
                   verify_time=50e-9, pipeline=0)  # fmt: skip
    return CrossbarChip(**(numbers | changes))


def test_programming_by_hand():
    # K = 20, N = 10: ceil(20/16) ceil(10/8) = 4 arrays; a row takes 3 (10 + 50) ns = 180 ns, 16 rows 2.88 us, two at once
    cost = estimate(small_chip(), make_table([matrix(5, 20, 10)]), Conditions(resident=0.0))
    np.testing.assert_allclose(cost.programming_latency, 4 * 16 * 180e-9 / 2, rtol=1e-6)
    # 20 x 10 weights of two cells, 3 pulses of 0.6 pJ each
    np.testing.assert_allclose(cost.programming_energy, 20 * 10 * 2 * 3 * 0.6e-12, rtol=1e-6)
    np.testing.assert_allclose(cost.memory, 4 / 8, rtol=1e-7)
    # 5 products x 4 arrays on 8: 3 batches of 2 cycles x 2 bits... = ceil(20 / 8) x 4 cycles of 100 ns, after the writing
    np.testing.assert_allclose(cost.latency, 4 * 16 * 180e-9 / 2 + 3 * 4 * 100e-9, rtol=1e-6)
    assert Bound(int(cost.bound)) is Bound.PROGRAMMING


def test_programming_is_proportional_to_what_is_missing():
    chip, table = small_chip(), make_table([matrix(5, 20, 10), matrix(5, 16, 8)])
    empty = estimate(chip, table, Conditions(resident=0.0))
    for resident in (0.25, 0.5, 1.0):
        cost = estimate(chip, table, Conditions(resident=resident))
        np.testing.assert_allclose(cost.programming_latency, (1 - resident) * empty.programming_latency, atol=1e-12)
        np.testing.assert_allclose(cost.programming_energy, (1 - resident) * empty.programming_energy, atol=1e-15)
        np.testing.assert_allclose(cost.latency - cost.programming_latency, empty.latency - empty.programming_latency, rtol=1e-5)
        np.testing.assert_allclose(cost.dynamic_energy, empty.dynamic_energy, rtol=1e-7)


def test_static_energy_covers_the_time_of_programming():
    chip, table = small_chip(), make_table([matrix(5, 20, 10)])
    for resident in (0.0, 1.0):
        cost = estimate(chip, table, Conditions(resident=resident))
        np.testing.assert_allclose(cost.static_energy, chip.static_power() * cost.latency, rtol=1e-6)


def test_weights_beyond_capacity_are_streamed():
    # 4 x 4 = 16 arrays of weights on 8: half of each matrix does not fit and is written at every run
    chip, rows = small_chip(), [matrix(5, 20, 10)] * 4
    cost = estimate(chip, make_table(rows))
    np.testing.assert_allclose(cost.memory, 2.0, rtol=1e-7)
    np.testing.assert_allclose(cost.programming_energy, 4 * 0.5 * 400 * 3 * 0.6e-12, rtol=1e-6)
    np.testing.assert_allclose(cost.programming_latency, 0.5 * 16 * 16 * 180e-9 / 2, rtol=1e-6)
    empty = estimate(chip, make_table(rows), Conditions(resident=0.0))
    np.testing.assert_allclose(empty.programming_energy, 2 * cost.programming_energy, rtol=1e-6)


def test_weights_that_just_fit_are_not_streamed():
    cost = estimate(small_chip(), make_table([matrix(5, 20, 10)] * 2))
    assert float(cost.memory) == 1.0 and float(cost.programming_energy) == 0.0 and float(cost.programming_latency) == 0.0


def test_the_second_operand_of_a_matrix_product_is_always_written():
    rows = [matrix(5, 20, 10, kind=OpKind.MATMUL), matrix(5, 20, 10)]
    for resident in (0.0, 1.0):
        per_op = estimate(small_chip(), make_table(rows), Conditions(resident=resident)).per_op
        energy = np.asarray(per_op.programming_energy)
        np.testing.assert_allclose(energy[0], 400 * 3 * 0.6e-12, rtol=1e-6)
        np.testing.assert_allclose(energy[1], (1 - resident) * 400 * 3 * 0.6e-12, rtol=1e-6)
        assert int(per_op.bound[0]) == Bound.PROGRAMMING


def test_block_diagonal_sharing_writes_only_the_weights():
    # 5 groups of 4 x 2, four side by side by the rows, four by the filters: 2 arrays, but 5 x 8 weights of 2 cells
    cost = estimate(small_chip(), make_table([matrix(3, 4, 2, groups=5)]), Conditions(resident=0.0))
    np.testing.assert_allclose(cost.memory, 2 / 8, rtol=1e-7)
    np.testing.assert_allclose(cost.programming_energy, 5 * 4 * 2 * 2 * 3 * 0.6e-12, rtol=1e-6)


def test_a_chip_of_other_cells_writes_with_their_pulses():
    table = make_table([matrix(5, 20, 10)])
    cells = load_device("perpendicular_stt_mram")
    cost = estimate(small_chip(cell=cells), table, Conditions(resident=0.0))
    np.testing.assert_allclose(cost.programming_energy, 400 * 3 * 1e-12, rtol=1e-6)


# Reads, traffic, digital work -----------------------------------------------------------------------------------------


def test_reads_of_a_cell():
    # weights held once: each of 5 products reads every cell once in each of 4 cycles; the mean is over arrays
    cost = estimate(small_chip(scope="layer"), make_table([matrix(5, 20, 10), matrix(7, 16, 8)]))
    np.testing.assert_allclose(cost.per_op.reads, [20, 28], rtol=1e-7)
    np.testing.assert_allclose(cost.reads, (4 * 20 + 28) / 5, rtol=1e-6)
    # copied into all arrays, each copy works only in its own rounds
    copied, table = small_chip(scope="chip"), make_table([matrix(5, 20, 10), matrix(7, 16, 8)])
    np.testing.assert_allclose(estimate(copied, table).per_op.reads, 4 * copied.batches(table), rtol=1e-7)
    assert (copied.batches(table) < np.array([5, 7])).all()


def test_what_a_run_writes():
    """Share of the chip: nothing if resident, all if absent, the part beyond capacity and second operands at every run."""
    small = make_table([matrix(5, 20, 10)])
    resident, absent = estimate(small_chip(), small), estimate(small_chip(), small, Conditions(resident=0.0))
    assert float(resident.written) == 0.0 and float(absent.written) == float(absent.memory) > 0
    product = make_table([matrix(5, 20, 10, kind=OpKind.MATMUL)])
    assert float(estimate(small_chip(), product).written) == float(absent.memory)
    large = make_table([matrix(5, 4000, 10)])
    needed = float(estimate(small_chip(), large).memory)
    assert needed > 1 and float(estimate(small_chip(), large).written) == pytest.approx(needed - 1, rel=1e-5)


def test_operations_without_products_take_no_arrays():
    rows = [dict(kind=OpKind.ELEMENTWISE, flops=3400, inputs=300, outputs=100), dict(kind=OpKind.MOVE, inputs=6.8e6)]
    chip = CrossbarChip()
    cost = estimate(chip, make_table(rows), Conditions(resident=0.0))
    for field in ("memory", "reads", "written", "programming_energy", "programming_latency"):
        assert float(getattr(cost, field)) == 0.0, field
    # 1e-8 s of the digital units of 168 tiles at 2.65 mW, less their leakage share
    np.testing.assert_allclose(cost.dynamic_energy, 0.9 * 168 * 2.65e-3 * 1e-8, rtol=1e-5)
    # 3400 / 3.4e11 s; 6.8e6 x 2 B / 3.4e12 B/s
    np.testing.assert_allclose(cost.per_op.latency, [1e-8, 4e-6], rtol=1e-6)
    assert int(cost.bound) == Bound.MEMORY
    np.testing.assert_allclose(cost.bytes_moved, 2 * 400 + 13.6e6, rtol=1e-6)


def test_digital_work_comes_after_the_arrays_and_traffic_beside_them():
    # 1 batch x 16 + 6 cycles = 2.2 us, then 3.4e5 operations in 1 us; traffic of 2e6 x 2 B in 1.18 us is hidden
    row = matrix(1, 128, 16, inputs=2e6)
    row["flops"] += 3.4e5
    np.testing.assert_allclose(estimate(CrossbarChip(), make_table([row])).latency, 3.2e-6, rtol=1e-5)
    np.testing.assert_allclose(estimate(CrossbarChip(), make_table([row | dict(inputs=2e7)])).latency, 4e7 / 3.4e12, rtol=1e-5)


def test_slower_clock_and_lower_supply_by_hand():
    chip, table = load_hardware("isaac"), make_table([matrix(1000, 128, 16)])
    nominal = estimate(chip, table)
    cost = estimate(chip, table, Conditions(frequency=0.5, voltage=0.8, temperature=338.15))
    np.testing.assert_allclose(cost.latency, 2 * nominal.latency, rtol=1e-6)
    np.testing.assert_allclose(cost.dynamic_energy, 0.64 * nominal.dynamic_energy, rtol=1e-6)
    leakage = 0.1 * 168 * 0.32981 * 0.8 * math.exp(0.036 * 20)  # links do not scale
    np.testing.assert_allclose(cost.static_energy, (leakage + 10.4) * cost.latency, rtol=1e-4)


# Construction ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(rows=1), "CrossbarChip.rows = 1 is outside its range [2, 8192]"),
        (dict(dac_bits=0), "CrossbarChip.dac_bits = 0 bit is outside its range [1, 16] bit"),
        (dict(cycle_time=float("nan")), "CrossbarChip.cycle_time = nan s is outside its range [1e-10, 0.001] s"),
        (dict(leakage_fraction=-0.1), "CrossbarChip.leakage_fraction = -0.1 is outside its range [0, 1]"),
    ],
)
def test_a_chip_outside_its_range_is_refused(changes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        CrossbarChip(**changes)


def test_every_parameter_of_the_named_chips_has_a_unit_and_a_source():
    for name in ("isaac", "edge-pim"):
        for p in parameters(load_hardware(name)):
            assert p.param.unit and p.param.source, p.label
            assert p.param.lo <= float(jnp.max(p.value)) * (1 + 1e-6) and float(jnp.min(p.value)) <= p.param.hi * (1 + 1e-6)
