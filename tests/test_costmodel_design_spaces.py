"""Design spaces of systolic accelerators: tables, and the oracle against brute force in Python's own integers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from costmodel import ArraySpace, BufferSpace, ScheduleSpace, count_systolic_cycles, layer_products

pytestmark = pytest.mark.single  # whole numbers: the same in either precision

KEY = jax.random.key(0)


def best_of(costs, ok):
    """Least of the costs that count, and where it stands."""
    least = min(cost for cost, allowed in zip(costs, ok, strict=True) if allowed)
    same = [i for i, (cost, allowed) in enumerate(zip(costs, ok, strict=True)) if allowed and cost == least]
    return least, same


def array_cycles(m, n, k, flow, rows, columns):
    down, across, stream = ((m, n, k), (k, n, m), (k, m, n))[flow]
    return -(-down // rows) * -(-across // columns) * (stream + (1 if flow == 0 else 2) * rows + columns - 2)


def buffer_latency(m, n, k, rows, columns, flow, bandwidth, inputs, filters, outputs):
    """The law of `costmodel.processors.systolic` in whole numbers, written out again; sizes in KiB."""
    ifmap, weight, sums = inputs * 512, filters * 512, outputs * 128  # words in half a buffer, 1 and 4 bytes each
    again = lambda size, passes, room: size + (passes - 1) * max(size - room, 0)  # noqa: E731
    if flow == 0:
        fold = -(-n // columns) * (-(-m // rows) - 1) * max(k * min(n, columns) - weight, 0)
        moved = again(m * k, -(-n // columns), ifmap) + k * n + fold + m * n
        return max(array_cycles(m, n, k, 0, rows, columns), -(-moved // bandwidth))
    down, across, stream = (k, n, m) if flow == 1 else (k, m, n)
    folds, fill = (-(-down // rows), -(-across // columns)), 2 * rows + columns - 2
    streamed, held = (m * k, k * n) if flow == 1 else (k * n, m * k)
    room, kept = (ifmap, weight) if flow == 1 else (weight, ifmap)
    partial = stream * min(across, columns)
    returned = 2 * folds[1] * (folds[0] - 1) * max(partial - sums, 0)
    fit = max(-(-partial // sums), 1)
    small = max(-(-streamed // room), fit)
    scanned = again(streamed, folds[1], room)
    found = []
    for pieces, words, back in ((1, scanned, returned), (fit, scanned, 0), (small, streamed, 0)):
        cycles = folds[0] * folds[1] * (stream + pieces * fill)
        moved = words + again(held, pieces, kept) + m * n + 4 * back
        found.append(max(cycles, -(-moved // bandwidth)))
    return min(found)


def check(space, rows, cost, allowed):
    """The oracle's answers by brute force."""
    table = list(zip(*(map(int, column) for column in space.table.values()), strict=True))
    found = space.oracle(rows)
    for i, row in enumerate(rows.tolist()):
        least, same = best_of([cost(row, choice) for choice in table], [allowed(row, choice) for choice in table])
        assert (found.configuration[i], found.cost[i], found.ties[i]) == (same[0], least, len(same))


@pytest.mark.parametrize("lower, most", [(0, 16), (1, 18), (2, 20)])
def test_three_bounds_give_459_arrays(lower, most):
    space = ArraySpace(lower=lower, most=most)
    assert space.count == 459
    assert len({*zip(*(column.tolist() for column in space.table.values()), strict=True)}) == 459
    assert (space.table["rows"] * space.table["columns"].astype(np.int64)).max() == 2**most


def test_tables_are_complete_and_ordered():
    buffers, schedules = BufferSpace(), ScheduleSpace()
    assert (buffers.count, schedules.count) == (1000, 1944)
    total = sum(buffers.table.values())
    assert (np.diff(total) >= 0).all() and (total[0], total[-1]) == (300, 3000)
    arrays = np.stack([schedules.table[f"array{i}"] for i in range(4)])
    assert (np.sort(arrays, axis=0) == np.arange(4)[:, None]).all()
    assert [int(column[-1]) for column in schedules.table.values()] == [3, 2, 1, 0, 2, 2, 2, 2]


def test_best_array_equals_brute_force():
    space = ArraySpace()
    rows = np.concatenate(
        [space.sample(KEY, 12), [[1, 1, 1, 1], [4, 4, 4, 16], [2**20, 2**20, 2**20, 1], [173056, 16, 27, 65536]]]
    )
    check(space, rows, lambda row, choice: array_cycles(*row[:3], *choice), lambda row, choice: choice[1] * choice[2] <= row[3])
    # os on 4 x 4: 1 fold of 4 + 4 + 4 - 2 = 10 cycles; every other array of at most 16 cells needs more for 4 x 4 x 4
    found = space.oracle(rows[13:15])
    assert found.cost.tolist() == [10, 2**60]  # 2^40 folds of 2^20 + 1 + 1 - 2 on a single cell, os
    assert [int(column[found.configuration[0]]) for column in space.table.values()] == [0, 4, 4]
    assert (space.tied(rows).argmax(axis=1) == space.oracle(rows).configuration).all()
    assert (space.tied(rows).sum(axis=1) == space.oracle(rows).ties).all()


def test_all_costs_are_those_of_the_host_count():
    space = ArraySpace(form="printed")
    rows = np.asarray(space.sample(KEY, 50))
    m, n, k = rows.T[:3, :, None]
    table = space.table
    expected = count_systolic_cycles(m, n, k, table["rows"], table["columns"], table["dataflow"], "printed")
    every = np.tile(np.arange(space.count), (50, 1))
    assert (space.costs_of(rows, every) == expected).all()
    np.testing.assert_allclose(jax.jit(space.log_costs)(jnp.asarray(rows)), np.log(expected.astype(float)), atol=5e-6)


def test_buffers_by_hand():
    # 1024^3, os on 32 x 32: 32 * 32 folds of 1024 + 32 + 32 - 2 cycles = 1,112,064. Inputs pass 32 times, 51,200 words stay in
    # 100 KiB: 2^20 + 31 (2^20 - 51,200) = 31,967,232; filters of a fold, 1024 * 32 = 32,768, stay: 2^20; outputs 2^20:
    # 34,064,384 bytes. At 64 bytes per cycle the array is slower
    rows = np.asarray([[1024, 1024, 1024, 32, 32, 0, 1, 300], [1024, 1024, 1024, 32, 32, 0, 64, 300]])
    found = BufferSpace().oracle(rows)
    assert found.cost.tolist() == [34_064_384, 1_112_064] and found.ties.tolist() == [1, 1]


def test_best_buffers_equal_brute_force():
    space = BufferSpace()
    rows = np.asarray(space.sample(KEY, 6))
    check(space, rows, lambda row, sizes: buffer_latency(*row[:7], *sizes), lambda row, sizes: sum(sizes) <= row[7])


def test_best_schedules_equal_brute_force():
    space = ScheduleSpace()
    rows = np.asarray(space.sample(KEY, 30))
    cells = np.asarray(space.arrays)
    m, n, k = (rows.reshape(-1, 4, 3)[..., i, None, None] for i in range(3))
    each = count_systolic_cycles(
        m, n, k, cells[:, 0, None], cells[:, 1, None], np.arange(3)
    )  # workload, product, array, dataflow
    makespan = np.stack(
        [
            each[:, range(4), arrays, flows].max(axis=1)
            for arrays in itertools.permutations(range(4))
            for flows in itertools.product(range(3), repeat=4)
        ],
        axis=1,
    )
    found = space.oracle(rows)
    assert (found.configuration == makespan.argmin(axis=1)).all() and (found.cost == makespan.min(axis=1)).all()
    assert (found.ties == (makespan == found.cost[:, None]).sum(axis=1)).all()


def test_samples_are_reproducible_and_within_range():
    space = ArraySpace(largest=300)
    rows = np.asarray(space.sample(KEY, 20_000))
    assert (rows == np.asarray(space.sample(KEY, 20_000))).all()
    assert rows[:, :3].min() == 1 and rows[:, :3].max() == 300
    assert set(rows[:, 3]) == {2**p for p in range(5, 17)}
    # even in the logarithm: P(size <= 16) = ln 17 / ln 301 = 0.4964
    assert np.mean(rows[:, :3] <= 16) == pytest.approx(0.4964, abs=0.01)
    products = np.asarray([[7, 8, 9], [10, 11, 12]])
    four = np.asarray(ScheduleSpace().sample(KEY, 5, products)).reshape(-1, 3)
    assert {*map(tuple, four.tolist())} == {(7, 8, 9), (10, 11, 12)}


def test_layers_of_real_networks():
    found = layer_products(["resnet8", "fc-autoencoder"])
    assert [1024, 16, 27] in found.tolist()  # first convolution of ResNet-8: 32 x 32 positions, 16 filters of 3 x 3 x 3
    assert [1, 8, 128] in found.tolist()  # bottleneck of the autoencoder
    assert len(found) == len({*map(tuple, found.tolist())})


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ArraySpace(largest=1), "largest = 1 is outside"),
        (lambda: ArraySpace(lower=3, least=5), "lower = 3"),
        (lambda: ScheduleSpace(arrays=((8, 8),) * 4), "four different ones"),
        (lambda: ArraySpace().oracle(np.asarray([[1, 1, 0, 16]])), "k = 0 to 0 is outside its range"),
        (lambda: ArraySpace().oracle(np.asarray([[1, 1, 1]])), "rows of 4 whole numbers"),
        (lambda: ArraySpace(lower=2).oracle(np.asarray([[1, 1, 1, 8]])), "budget = 8"),
        (lambda: ArraySpace().costs_of(np.asarray([[1, 1, 1, 1]]), [459]), "positions in"),
        (lambda: BufferSpace().oracle(np.asarray([[2**20, 2**20, 2**20, 8, 8, 0, 1, 300]])), "m n k"),
        (lambda: BufferSpace().oracle(np.asarray([[8, 8, 8, 8, 8, 3, 1, 300]])), "dataflow = 3"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
