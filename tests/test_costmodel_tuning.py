"""Schedules of crossbars: the chip's own estimate, a loop nest counted by hand, and searches against the exhaustive optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from costmodel import HARD, Conditions, CrossbarChip, Tuning, estimate, load_hardware, tune
from costmodel.mapping.sketches import (
    DECISIONS,
    Schedule,
    Stationary,
    default_schedule,
    make_decisions,
    make_schedule,
    schedule_cost,
)
from costmodel.processors.base import as_arrays
from workloads import OpKind, OpTable, make_table

pytestmark = pytest.mark.single  # whole numbers: the same in either precision

X64 = jax.config.read("jax_enable_x64")
SMALL = dict(elements=1, units=3, arrays=8, rows=16, cols=32, weight_bits=8, input_bits=8, write_arrays=2)
OBJECTIVES = ("latency", "energy", "energy_delay")


def tol(single: float, double: float) -> float:
    return double if X64 else single


def matrix(m: int, k: int, n: int, groups: int = 1, kind: OpKind = OpKind.DENSE, **more) -> dict:
    """A row of a table: `groups` matrix products, M x K times K x N; every input and output moves once."""
    macs = float(m) * k * n * groups
    moved = dict(inputs=float(m) * k * groups, outputs=float(m) * n * groups)
    return dict(kind=kind, m=m, n=n, k=k, groups=groups, macs=macs, flops=2 * macs) | moved | more


def one_row_tables(table: OpTable) -> OpTable:
    """A batch of tables of one row, to be vmapped."""
    return jax.tree.map(lambda column: column[:, None], as_arrays(table))


def plan(*numbers: int) -> Schedule:
    return Schedule(*map(jnp.asarray, numbers))


EXAMPLE = matrix(3136, 576, 64, kind=OpKind.CONV)  # 3 x 3, 64 -> 64 channels, 56 x 56: the source's law in test_costmodel_cim
OPS = [matrix(12, 20, 6), matrix(40, 50, 9), matrix(7, 33, 20, kind=OpKind.MATMUL)]


@pytest.fixture(scope="module")
def many() -> OpTable:
    """Random products; a fifth grouped, some with other work, some not constant."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(400):
        m, k, n = (int(x) for x in np.exp(rng.uniform(0, np.log((4000, 1500, 500)))))
        groups = int(rng.integers(1, 60)) if rng.random() < 0.2 else 1
        row = matrix(m, k, n, groups, rng.choice([OpKind.CONV, OpKind.DENSE, OpKind.MATMUL]))
        rows.append(row | dict(flops=row["flops"] * rng.choice([1.0, 1.5])))
    return make_table([*rows, dict(kind=OpKind.ELEMENTWISE, flops=1e4, inputs=1e3, outputs=1e3)])


# The chip's own schedule ----------------------------------------------------------------------------------------------


@jax.jit
def own_and_estimated(chip, rows, resident):
    """(latency, energy, bytes) of the chip's own schedule and of the chip's estimate, and whether the weights fit."""
    conditions = Conditions(resident=resident)

    def one(row):
        ours = schedule_cost(chip, row, default_schedule(chip, row), conditions)
        theirs = chip.op_costs(row, conditions, HARD)
        energy = theirs.dynamic_energy + theirs.programming_energy + chip.static_power(conditions) * theirs.latency
        pair = (ours.latency, ours.energy, ours.bytes_moved), (theirs.latency[0], energy[0], theirs.bytes_moved[0])
        return *pair, theirs.memory[0] <= 1, ours.feasible

    return jax.vmap(one)(rows)


@pytest.mark.parametrize(
    ("timing", "scope"),
    [("physical", "chip"), ("physical", "pe"), ("physical", "layer"), ("literal", "pe"), ("literal", "layer")],
)
def test_the_default_schedule_costs_what_the_chip_estimates(many, timing, scope):
    rows = one_row_tables(many)
    for chip in (CrossbarChip(timing=timing, scope=scope), CrossbarChip(elements=1, units=4, timing=timing, scope=scope)):
        for resident in (1.0, 0.3):
            ours, theirs, fits, feasible = own_and_estimated(chip, rows, jnp.asarray(resident))
            assert np.all(feasible)
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(a[fits], b[fits], rtol=tol(1e-5, 1e-12))
                assert np.all(a >= b * (1 - tol(1e-5, 1e-12)))  # taking turns costs traffic, which the estimate leaves out
    assert 0 < np.sum(~np.asarray(fits)) < len(fits) / 2


def test_the_default_of_a_named_chip_by_hand():
    # 5 x 4 tiles; one copy in scope "layer", as many as there are arrays (16128 / 20 -> 807) on the whole chip
    table = make_table([EXAMPLE])
    assert default_schedule(CrossbarChip(scope="layer"), table) == (128, 16, 5, 4, 1, 3136, Stationary.WEIGHTS)
    assert default_schedule(CrossbarChip(), table) == (128, 16, 5, 4, 807, 3136, Stationary.WEIGHTS)


# The law by hand ------------------------------------------------------------------------------------------------------


def test_copies_are_paid_for_with_writing():
    # 4 copies of 20 tiles: 784 products of 16 cycles + 6; three copies are written: 60 tiles x 128 rows x 8.52 pulses / 168
    chip, table = CrossbarChip(scope="layer"), make_table([EXAMPLE])
    cost = schedule_cost(chip, table, plan(128, 16, 5, 4, 4, 3136, 0))
    pulse = float(chip.cell.write_time) + 100e-9
    assert float(cost.batches) == 784
    assert float(cost.arrays) == 80
    assert float(cost.written) == 3
    np.testing.assert_allclose(cost.programming_latency, 60 * 128 * 8.52 * pulse / 168, rtol=1e-6)
    np.testing.assert_allclose(cost.latency - cost.programming_latency, (784 * 16 + 6) * 100e-9, rtol=1e-5)


def test_even_tiles_write_fewer_rows():
    # K = 144: two tiles of 72 word lines need as many products as 128 + 16, but 144 instead of 256 rows are written
    chip, table = CrossbarChip(scope="layer"), make_table([matrix(10, 144, 16)])
    new = Conditions(resident=0.0)
    even, uneven = (schedule_cost(chip, table, plan(w, 16, 2, 1, 1, 10, 0), new) for w in (72, 128))
    assert float(even.batches) == float(uneven.batches)
    np.testing.assert_allclose(even.programming_latency / uneven.programming_latency, 144 / 256, rtol=1e-6)


def test_what_is_stationary_by_hand():
    # M = 10, 4 tiles along K and 3 along N, 2 x 1 in place: 2 x 3 turns; blocks of 4, 4 and 2 vectors; words of 1 byte
    chip, table = CrossbarChip(**SMALL, scope="layer"), make_table([matrix(10, 64, 24)])
    costs = {s: schedule_cost(chip, table, plan(16, 8, 2, 1, 1, 4, s), Conditions(resident=0.0)) for s in Stationary}
    moved = {Stationary.WEIGHTS: 3 * 640 + 3 * 240, Stationary.OUTPUTS: 3 * 640 + 240, Stationary.INPUTS: 640 + 3 * 240}
    for stationary, cost in costs.items():
        assert float(cost.written) == (1 if stationary == Stationary.WEIGHTS else 3)
        assert float(cost.batches) == 60
        assert float(cost.bytes_moved) == moved[stationary]


def count_a_loop_nest(m: int, k: int, n: int, s: Schedule) -> dict[str, int]:
    """An independent count: the loops are run, tiles are put in place, words are moved one turn at a time."""
    w, f, hold_k, hold_n, copies, block, stationary = (int(x) for x in s)
    tiles_k, tiles_n = range(0, k, w), range(0, n, f)
    turns_k = [tiles_k[i : i + hold_k] for i in range(0, len(tiles_k), hold_k)]
    turns_n = [tiles_n[i : i + hold_n] for i in range(0, len(tiles_n), hold_n)]
    turns = (
        [(a, b) for a in turns_k for b in turns_n]
        if stationary == Stationary.INPUTS
        else [(a, b) for b in turns_n for a in turns_k]
    )
    step = m if stationary == Stationary.WEIGHTS or len(turns) == 1 else block
    written = batches = inputs = outputs = 0
    place: tuple | None = None
    for start in range(0, m, step):
        vectors, at_hand, begun = min(step, m - start), None, set()
        for a, b in turns:
            if place != (a, b):
                written, place = written + copies * len(a) * len(b), (a, b)
            batches += -(-vectors // copies)
            if not (stationary == Stationary.INPUTS and at_hand == a):
                inputs, at_hand = inputs + vectors * sum(min(w, k - x) for x in a), a
            columns = vectors * sum(min(f, n - x) for x in b)
            outputs += 0 if stationary == Stationary.OUTPUTS else columns * (1 + (b in begun))
            begun.add(b)
        outputs += vectors * n if stationary == Stationary.OUTPUTS else 0
    return dict(batches=batches, moved=inputs + outputs, written=written, tiles=len(tiles_k) * len(tiles_n))


def test_the_law_counts_what_a_loop_nest_does():
    chip, rng = CrossbarChip(**SMALL, scope="layer"), np.random.default_rng(1)
    sizes = np.stack([rng.integers(1, hi, 600) for hi in (30, 120, 50)], axis=1)
    rows = one_row_tables(make_table([matrix(*map(int, size)) for size in sizes]))
    choices = jnp.asarray(
        np.stack([rng.integers(lo, hi, 600) for lo, hi in ((0, 3), (1, 17), (1, 9), (1, 6), (1, 6), (1, 5), (1, 6))], 1)
    )
    make = jax.jit(jax.vmap(lambda row, choice: make_schedule(chip, row, choice)))
    schedules = make(rows, choices)
    costs = jax.jit(jax.vmap(lambda row, s: schedule_cost(chip, row, s, Conditions(resident=0.0))))(rows, schedules)
    assert np.all(costs.feasible)
    for i, (m, k, n) in enumerate(sizes):
        counted = count_a_loop_nest(int(m), int(k), int(n), Schedule(*(x[i] for x in schedules)))
        assert float(costs.batches[i]) == counted["batches"]
        assert float(costs.bytes_moved[i]) == counted["moved"]
        np.testing.assert_allclose(costs.written[i] * counted["tiles"], counted["written"], rtol=1e-6)
    assert len({int(x) for x in schedules.stationary}) == 3


def test_every_annotation_fits_the_chip(many):
    chip, rng = CrossbarChip(scope="layer"), np.random.default_rng(2)
    decisions = make_decisions(chip, many)
    at = np.floor(rng.random((len(decisions.counts), 20, len(DECISIONS))) * decisions.counts[:, None]).astype(int)
    choices = np.take_along_axis(np.swapaxes(decisions.values, 1, 2), at, axis=1)
    make = jax.jit(jax.vmap(jax.vmap(make_schedule, in_axes=(None, None, 0)), in_axes=(None, 0, 0)))
    plans = make(chip, one_row_tables(many), jnp.asarray(choices))
    assert all(np.all(x >= 1) for x in plans[:-1])
    assert np.all(plans.hold_k * plans.hold_n * plans.copies <= chip.n_arrays)
    assert np.all(plans.word_lines <= 128)
    assert np.all(plans.filters <= 16)


def test_decisions_are_few_distinct_and_contain_the_default():
    decisions = make_decisions(CrossbarChip(scope="layer"), make_table([EXAMPLE]))
    for name, values, count in zip(DECISIONS, decisions.values[0], decisions.counts[0], strict=True):
        assert np.all(np.diff(values[:count]) > 0), name
        assert np.all(values[count:] == values[count - 1]), name
    chosen = {name: set(values.tolist()) for name, values in zip(DECISIONS, decisions.values[0], strict=True)}
    assert {128, 116, 96} <= chosen["word_lines"]  # the whole array; 576 in 5 and in 6 parts
    assert {1, 2, 3, 3136} <= chosen["copies"]


# The search -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched() -> dict[str, Tuning]:
    chip, table = CrossbarChip(**SMALL, scope="layer"), make_table(OPS)
    return {method: tune(chip, table, jax.random.key(0), method=method) for method in ("evolution", "random", "exhaustive")}


def test_evolution_finds_the_exhaustive_optimum(searched):
    found, best = searched["evolution"], searched["exhaustive"]
    np.testing.assert_allclose(found.cost.latency, best.cost.latency, rtol=1e-6)
    assert best.evaluations > 10 * found.evaluations


def test_nothing_beats_the_exhaustive_optimum(searched):
    best = np.asarray(searched["exhaustive"].history[0]) * (1 - 1e-6)
    for result in searched.values():
        assert np.all(result.cost.latency >= best)
        assert np.all(result.cost.latency <= result.default.latency)
        assert np.all(result.cost.feasible)


def test_evolution_beats_its_random_start_and_random_search(searched):
    found, blind = searched["evolution"], searched["random"]
    assert found.evaluations == blind.evaluations
    assert np.all(found.history[-1] <= blind.history[-1])
    assert np.all(found.typical_start > 3 * found.history[-1])
    np.testing.assert_array_equal(found.history[0], blind.history[0])  # the same random start


def test_history_never_rises_and_ends_at_the_best(searched):
    for result in searched.values():
        assert np.all(np.diff(result.history, axis=0) <= 0)
        np.testing.assert_allclose(np.minimum(result.history[-1], result.default.latency), result.cost.latency, rtol=1e-6)


def test_the_key_decides(searched):
    chip, table = CrossbarChip(**SMALL, scope="layer"), make_table(OPS)
    again, other = (tune(chip, table, jax.random.key(seed)) for seed in (0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(searched["evolution"]), jax.tree.leaves(again), strict=True))
    assert not np.array_equal(again.history, other.history)


def test_other_numbers_and_objectives_do_not_compile_anew(searched):
    from costmodel.studies import tuning

    table, before = make_table(OPS), tuning._scores._cache_size()
    tune(
        CrossbarChip(**SMALL | dict(pipeline=7, rows=20), scope="layer"),
        table,
        conditions=Conditions(resident=0.5),
    )
    tune(
        CrossbarChip(**SMALL, scope="layer"),
        make_table([matrix(9, 9, 9), *OPS[1:]]),
        conditions=Conditions(resident=0.5),
    )
    assert tuning._scores._cache_size() == before


@pytest.mark.parametrize("objective", OBJECTIVES[1:])
def test_objectives(objective):
    result = tune(CrossbarChip(**SMALL, scope="layer"), make_table(OPS), objective=objective)
    value = result.cost.energy * (result.cost.latency if objective == "energy_delay" else 1)
    own = result.default.energy * (result.default.latency if objective == "energy_delay" else 1)
    np.testing.assert_allclose(value, np.minimum(result.history[-1], own), rtol=1e-6)


def test_under_the_sources_law_whole_arrays_are_best():
    # every array of the pool takes any tile, weights in place: fewer tiles are fewer batches, nothing beats the default tiling
    chip, table = CrossbarChip(**SMALL), make_table([*OPS[:2], matrix(7, 33, 20)])
    best = tune(chip, table, method="exhaustive")
    np.testing.assert_allclose(best.cost.latency, best.default.latency, rtol=1e-6)


def test_a_network_with_other_operations_is_tuned_in_one_call():
    relu = dict(kind=OpKind.ELEMENTWISE, flops=1e3, inputs=1e3, outputs=1e3)
    calls: list[tuple[int, int]] = []
    chip = CrossbarChip(**SMALL, scope="layer")
    result = tune(chip, make_table([OPS[0], relu, OPS[1]]), generations=3, progress=lambda *x: calls.append(x))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert result.cost.latency.shape == (3,)
    alone = estimate(chip, make_table([relu])).latency
    np.testing.assert_allclose([result.cost.latency[1], result.default.latency[1]], alone, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(hardware=load_hardware("edge-gpu")), r"tune\(\) schedules crossbars; hardware is a Roofline, not a CrossbarChip"),
        (dict(ops=make_table([dict(flops=1.0)])), "ops has no matrix product, so there is nothing to tune"),
        (dict(objective="latncy"), "unknown objective 'latncy'; close: latency"),
        (dict(method="annealing"), "unknown method 'annealing'; close: evolution"),
        (dict(population=3), r"population = 3 is outside its range \[4, 1000000\]"),
        (dict(generations=0), r"generations = 0 is outside its range \[1, 1000000\]"),
        (dict(conditions=Conditions(resident=2.0)), r"conditions.resident = 2 of the weights is outside its range \[0, 1\]"),
        (dict(method="exhaustive"), "operation 0 has [0-9,]+ schedules; at most 5,000,000 are tried one by one"),
    ],
)
def test_bad_input_is_refused_in_one_line(changes, message):
    arguments = dict(hardware=CrossbarChip(scope="layer"), ops=make_table([EXAMPLE])) | changes
    with pytest.raises(ValueError, match=message) as error:
        tune(arguments.pop("hardware"), arguments.pop("ops"), **arguments)
    assert "\n" not in str(error.value)
