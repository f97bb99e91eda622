"""Cross-layer schedules: against a simulation place by place, published sizes, identities, bounds and gradients."""

import heapq
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import costmodel
import workloads
from costmodel import PIXELS, WHOLE_ROWS, Axis, Join, Layer, LayerGraph, Merge, Sets, Window
from costmodel.mapping.dependencies import INPUT
from workloads.networks import vision

pytestmark = pytest.mark.single  # whole numbers: the same in either precision

# CLSA-CIM, Pelke et al., DATE 2024: crossbars (256 x 256) that hold every layer once; cycles are output places, by hand.
NETWORKS = {
    "tiny-yolo-v3": (142, 232_882),
    "tiny-yolo-v4": (117, 113_061),
    "vgg16": (233, 137_788),
    "vgg19": (314, 141_904),
    "resnet50": (390, 58_310),
    "resnet101": (679, 68_306),
    "resnet152": (936, 85_358),
}
# An independent simulation of TinyYOLOv4 (a set per pixel, a set per row of a strip; vertical strips), made for this project in
# NumPy before this package existed: extra crossbars and rule -> copies of the first layers, layer by layer, pixel, row.
TINY_YOLO_V4 = {
    (0, "greedy"): ([1] * 6, 113_061, 43_945, 44_837),
    (4, "greedy"): ([5, 1, 1, 1, 1, 1], 78_450, 11_560, 12_369),
    (4, "min_sum"): ([4, 1, 1, 1, 1, 2], 75_205, 11_575, 12_337),
    (16, "greedy"): ([7, 2, 2, 2, 2, 2], 48_938, 6_852, 7_397),
    (16, "min_sum"): ([6, 2, 2, 2, 2, 3], 48_166, 7_889, 8_420),
    (32, "greedy"): ([13, 3, 3, 3, 3, 3], 37_075, 4_203, 4_658),
    (32, "min_sum"): ([10, 3, 3, 3, 3, 5], 35_280, 4_931, 5_349),
}
# The same for the two other networks, copies given, pixel sets.
OTHERS = {
    "vgg16": {(32, "greedy"): (39_228, 7_738), (32, "min_sum"): (37_856, 10_621)},
    "resnet50": {(32, "greedy"): (28_870, 1_896), (32, "min_sum"): (27_308, 2_132)},
}
SIDE = 6  # places along each side of the random graphs: few sizes, so that few programs are compiled


@pytest.fixture(scope="module")
def yolo():
    return costmodel.layer_graph("tiny-yolo-v4")


# -- a simulation that shares nothing with the package: sets as lists of places, dependencies place by place


def strips(size, copies):
    """Boundaries of vertical strips: rounded equal parts (NumPy rounds ties to even)."""
    edges = np.round(np.arange(copies + 1) * size / copies).astype(int)
    return [range(a, b) for a, b in itertools.pairwise(edges) if b > a]


def sets_of(layer, copies, sets, direction):
    """For each copy the sets in order, each a list of places."""
    row_parts = strips(layer.rows, min(copies, layer.rows)) if direction == "horizontal" else [range(layer.rows)]
    column_parts = strips(layer.columns, min(copies, layer.columns)) if direction == "vertical" else [range(layer.columns)]
    for rows, columns in itertools.product(row_parts, column_parts):
        width = sets.columns or len(columns)
        yield [
            [(r, c) for r in rows[i : i + sets.rows] for c in columns[j : j + width]]
            for i in range(0, len(rows), sets.rows)
            for j in range(0, len(columns), width)
        ]


def needs(graph, index, place):
    """Places of base layers, as (step, row, column), that a place of step `index` waits for: back through what lies between."""
    if index == INPUT:
        return set()
    step = graph.steps[index]
    r, c = place = tuple(p if size > 1 else 0 for p, size in zip(place, step.size, strict=True))  # size 1 goes with any other
    if isinstance(step, Layer):
        return {(index, r, c)}
    if isinstance(step, Window):
        rows, columns = (1, 1) if step.source == INPUT else graph.steps[step.source].size
        found = itertools.product(taps(step.row, r, rows), taps(step.column, c, columns))
        return set().union(*(needs(graph, step.source, p) for p in found))
    if isinstance(step, Join):
        for source in step.sources:
            length = graph.steps[source].size[step.axis]
            if place[step.axis] < length:
                return needs(graph, source, place)
            place = tuple(p - length if axis == step.axis else p for axis, p in enumerate(place))
    return set().union(*(needs(graph, source, place) for source in step.sources))


def taps(axis, output, inputs):
    """The definition: the padded, spread and repeated input written out, then cut."""
    written = [source for source in range(inputs) for _ in range(axis.repeat)]
    spread = [p for source in written for p in [source] + [None] * (axis.spread - 1)][: (len(written) - 1) * axis.spread + 1]
    low, high = axis.low, axis.high
    padded = [None] * max(low, 0) + spread[max(-low, 0) : len(spread) - max(-high, 0)] + [None] * max(high, 0)
    picked = [padded[output * axis.stride + tap * axis.dilation] for tap in range(axis.kernel)]
    return [p for p in picked if p is not None]


def simulate(graph, duplicates, sets, direction, cycle, transfer):
    """Makespan and start of every layer, as soon as possible, set by set."""
    finish, start, at = {}, [], {}
    for index, step in enumerate(graph.steps):
        if not isinstance(step, Layer):
            continue
        i = len(start)
        first = np.inf
        for copy in sets_of(step, duplicates[i], sets, direction):
            free = 0.0
            for places in copy:
                waits = set().union(*(needs(graph, step.source, p) for p in places))
                begin = max([free, *(finish[w] + transfer[at[w[0]]] for w in waits)])
                first, free = min(first, begin), begin + len(places) * step.repeat * cycle[i]
                finish.update({(index, *p): free for p in places})
        start.append(first)
        at[index] = i
    return max(finish.values()), start


def simulate_limited(graph, duplicates, sets, direction, cycle, transfer, buffer):
    """Makespan and starts event by event, with a ring of `buffer` cells beside each layer; infinite if it stands still."""
    steps = [index for index, step in enumerate(graph.steps) if isinstance(step, Layer)]
    waits, users, turn, copies = {}, {}, {}, []
    for i, index in enumerate(steps):
        layer = graph.steps[index]
        places = [(index, r, c) for r in range(layer.rows) for c in range(layer.columns)]
        turn[index] = list(range(buffer[i]))  # the place for which each cell is free, or that is in it
        for place in places:
            users[place] = {place}  # a place is there at least until it is finished
            waits[place] = needs(graph, layer.source, place[1:])
            for needed in waits[place]:
                users[needed].add(place)
        copies += [[i, index, 0.0, list(queue)] for queue in sets_of(layer, duplicates[i], sets, direction)]
    number = {(index, r, c): r * graph.steps[index].columns + c for index, r, c in waits}
    finish, start, end, events = {}, [np.inf] * len(steps), [np.inf] * len(steps), [(0.0, [])]
    at = dict(zip(steps, range(len(steps)), strict=True))
    left = [sum(len(queue) for i, _, _, queue in copies if i == j) for j in range(len(steps))]
    while events:
        now, done = heapq.heappop(events)
        finish.update({place: now for place in done})
        for place in done:
            for held in (place, *waits[place]):
                users[held].discard(place)
                if not users[held]:
                    cells = turn[held[0]]
                    cells[number[held] % len(cells)] += len(cells)
        if events and events[0][0] == now:
            continue
        for copy in copies:
            i, index, free, queue = copy
            if not queue or free > now:
                continue
            places = [(index, *p) for p in queue[0]]
            seen = all(w in finish and finish[w] + transfer[at[w[0]]] <= now for p in places for w in waits[p])
            if seen and all(turn[index][number[p] % buffer[i]] == number[p] for p in places):
                copy[2] = now + len(places) * graph.steps[index].repeat * cycle[i]
                copy[3] = queue[1:]
                left[i] -= 1
                start[i] = min(start[i], now)
                end[i] = np.inf if left[i] else max(copy[2], *(c[2] for c in copies if c[0] == i))
                heapq.heappush(events, (copy[2], places))
                heapq.heappush(events, (copy[2] + transfer[i], []))
    return max(end), start


def random_graph(seed, layers=5):
    """Base layers joined by windows (pooling, strides, padding, dilation), sums, joins and upsampling, on few sizes."""
    rng = np.random.default_rng(seed)
    steps, maps = [Layer("0", INPUT, SIDE, SIDE, 9, 4)], {SIDE: [0], SIDE // 2: []}

    def add(step):
        steps.append(step)
        return len(steps) - 1

    for i in range(1, layers):
        size = int(rng.choice([s for s, known in maps.items() if known]))
        source = int(rng.choice(maps[size]))
        if rng.random() < 0.4 and len(maps[size]) > 1:
            source = add(Merge(tuple(sorted(map(int, rng.choice(maps[size], 2, replace=False)))), (size, size)))
        kind = rng.integers(6)
        if kind == 0 and size == SIDE:  # pooling
            size = SIDE // 2
            source = add(Window(source, Axis(size, 2, 2), Axis(size, 2, 2)))
        elif kind == 1 and size == SIDE:  # strided convolution, padded above and left
            size = SIDE // 2
            source = add(Window(source, Axis(size, 3, 2, 1, 0), Axis(size, 3, 2, 1, 0)))
        elif kind == 2 and size < SIDE:  # upsampling
            size = SIDE
            source = add(Window(source, Axis(size, repeat=2), Axis(size, repeat=2)))
        elif kind == 3:  # dilated, and one-sided
            source = add(Window(source, Axis(size, 2, 1, 2, 0, 2), Axis(size, 3, 1, 1, 1)))
        elif kind == 4 and size < SIDE:  # two maps side by side, then a part of them
            joined = add(Join((source, maps[size][0]), 1, (size, 2 * size)))
            source = add(Window(joined, Axis(size), Axis(size, low=-2, high=2 - size)))
        else:
            source = add(Window(source, Axis(size, 3, 1, 1, 1), Axis(size, 3, 1, 1, 1)))
        maps[size].append(add(Layer(str(i), source, size, size, 9, 4, repeat=1)))
    return LayerGraph(f"random {seed}", tuple(steps))


CASES = [
    *[(PIXELS, "vertical", seed) for seed in range(12)],
    *[(WHOLE_ROWS, "vertical", seed) for seed in range(6)],
    *[(Sets(2, 2), "vertical", seed) for seed in range(6)],
    *[(Sets(2, 0), "horizontal", seed) for seed in range(6)],
]


@pytest.mark.parametrize(("sets", "direction", "seed"), CASES)
def test_equals_a_simulation_place_by_place(sets, direction, seed):
    graph, rng = random_graph(seed), np.random.default_rng(100 + seed)
    n = len(graph.layers)
    duplicates, cycle = rng.integers(1, 5, n), rng.integers(1, 4, n).astype(float)
    transfer = rng.integers(0, 3, n).astype(float)
    schedule = costmodel.cross_layer(graph, duplicates, cycle=cycle, transfer=transfer, sets=sets, direction=direction)
    makespan, start = simulate(graph, duplicates, sets, direction, cycle, transfer)
    assert float(schedule.makespan) == makespan
    np.testing.assert_array_equal(schedule.start, start)
    work = np.asarray(graph.cycles) * cycle
    np.testing.assert_array_equal(schedule.busy, work)  # copies conserve the work
    assert np.max(work / duplicates) <= makespan <= work.sum() + transfer.sum()


# -- limited buffers

LIMITED = [
    (PIXELS, "vertical", 0),
    (Sets(2, 0), "horizontal", 7),
    *[pytest.param(PIXELS, "vertical", seed, marks=pytest.mark.slow) for seed in (1, 2, 3, 4)],
    *[pytest.param(WHOLE_ROWS, "vertical", seed, marks=pytest.mark.slow) for seed in (5, 6)],
]


@pytest.mark.parametrize(("sets", "direction", "seed"), LIMITED)
def test_limited_buffers_equal_a_simulation_of_their_cells(sets, direction, seed):
    graph, rng, n, draws = random_graph(seed, layers=4), np.random.default_rng(seed), 4, 24
    copies, cycle = rng.integers(1, 4, (draws, n)), rng.integers(1, 4, (draws, n)).astype(float)
    transfer, buffer = rng.integers(0, 3, (draws, n)).astype(float), rng.integers(6, 40, (draws, n))

    @jax.jit
    @jax.vmap
    def run(d, c, t, b):
        return costmodel.cross_layer(graph, d, cycle=c, transfer=t, sets=sets, direction=direction, buffer=b)

    found = run(copies, cycle, transfer, buffer)
    expected = [
        simulate_limited(graph, d, sets, direction, c, t, b) for d, c, t, b in zip(copies, cycle, transfer, buffer, strict=True)
    ]
    makespan = np.array([end for end, _ in expected])
    np.testing.assert_array_equal(found.makespan, makespan)
    moving = np.isfinite(makespan)
    assert moving.any() and not moving.all()
    np.testing.assert_array_equal(np.asarray(found.start)[moving], np.array([s for _, s in expected])[moving])
    whole = np.asarray(run(copies, cycle, transfer, np.full((draws, n), SIDE * SIDE)).makespan)  # room for everything
    assert (makespan >= whole).all()
    for i in range(3):
        plain = costmodel.cross_layer(graph, copies[i], cycle=cycle[i], transfer=transfer[i], sets=sets, direction=direction)
        assert float(plain.makespan) == whole[i]
    single = [run(np.ones_like(copies), cycle, transfer, buffer + more).makespan for more in (0, 3)]
    assert (np.asarray(single[1]) <= np.asarray(single[0])).all()  # more room never hurts one copy


def test_smallest_buffer_of_a_convolution():
    """(k - 1) columns + k places, ISAAC's figure: with one less the first place is never dropped."""
    steps = (Layer("0", INPUT, 8, 7, 9, 4), Window(0, Axis(8, 3, 1, 1, 1), Axis(7, 3, 1, 1, 1)), Layer("1", 1, 8, 7, 36, 4))
    graph = LayerGraph("pair", steps)
    smallest = 2 * 7 + 3
    tight = costmodel.cross_layer(graph, buffer=smallest)
    alone = simulate_limited(graph, [1, 1], PIXELS, "vertical", [1, 1], [0, 0], [smallest] * 2)
    assert float(costmodel.cross_layer(graph).makespan) == 56 + 9  # the first reader waits for row 1, column 1
    assert 65 < float(tight.makespan) == alone[0] < 2 * 56
    with pytest.raises(ValueError, match=r"^buffer of 0 = 16 places is too small: full before any of it can be dropped$"):
        costmodel.cross_layer(graph, buffer=smallest - 1)
    with pytest.raises(ValueError, match=r"^buffer of 0 = 16 places"):
        costmodel.cross_layer(graph, buffer=[smallest - 1, 1])  # the last layer has no readers
    times = costmodel.finish_times(graph, buffer=8 * 7)
    for limited, plain in zip(times, costmodel.finish_times(graph), strict=True):
        np.testing.assert_array_equal(limited, plain)
    slope = jax.jvp(lambda c: costmodel.cross_layer(graph, cycle=c, buffer=smallest).makespan, (jnp.ones(2),), (jnp.ones(2),))
    assert float(slope[1]) == pytest.approx(float(tight.makespan))  # homogeneous in the cycle times


def test_a_short_way_beside_a_long_one():
    """The first map is added to what two more convolutions make of it: it waits for them, and its buffer is the one to blame."""
    window = Axis(SIDE, 3, 1, 1, 1)

    def layer(name, source):
        return Layer(name, source, SIDE, SIDE, 9, 4)

    steps = (layer("in", INPUT), layer("first", 0), Window(1, window, window), layer("mid", 2), Window(3, window, window))
    steps = (*steps, layer("long", 4), Merge((1, 5), (SIDE, SIDE)), layer("sum", 6))
    graph, enough = LayerGraph("skip", steps), 2 * SIDE + 3
    # mid is one row and one place behind, long two; the sum has first's place, so all between must be kept: 2 (SIDE + 1) + 1
    assert np.isfinite(costmodel.cross_layer(graph, buffer=[1, 2 * SIDE + 3, enough, 1, 1]).makespan)
    with pytest.raises(ValueError, match=r"^buffer of first = 14 places is too small"):
        costmodel.cross_layer(graph, buffer=[1, 2 * SIDE + 2, enough, 1, 1])


# -- networks


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n[-2:] in ("01", "52") else []) for n in NETWORKS])
def test_published_crossbars_and_cycles(name):
    graph, table = costmodel.layer_graph(name), workloads.load(name)
    assert (sum(graph.crossbars()), sum(graph.cycles)) == NETWORKS[name]
    assert float(costmodel.layer_by_layer(graph).makespan) == NETWORKS[name][1]
    rows = np.flatnonzero(np.asarray(table.macs) > 0)  # the table and the graph are made from the same program, by other code
    expected = [tuple(int(column[i]) for column in (table.k, table.n, table.groups, table.m)) for i in rows]
    assert [(layer.k, layer.n, layer.groups, layer.cycles) for layer in graph.layers] == expected


def test_other_crossbars(yolo):
    assert sum(yolo.crossbars(128, 128)) == sum(-(-x.k // 128) * -(-x.n // 128) for x in yolo.layers)
    mobile = costmodel.layer_graph("vww")
    depthwise = next(layer for layer in mobile.layers if layer.groups > 1)
    assert (depthwise.k, depthwise.n, depthwise.groups) == (9, 1, 8)
    index = mobile.layers.index(depthwise)
    assert mobile.crossbars(256, 256)[index] == 1 and mobile.crossbars(9, 1)[index] == 8  # groups share, or do not fit beside


@pytest.mark.parametrize(("extra", "rule"), TINY_YOLO_V4)
def test_tiny_yolo_v4_equals_the_reference_simulation(yolo, extra, rule):
    copies, serial, pixel, row = TINY_YOLO_V4[extra, rule]
    for sets, cycles in ((PIXELS, pixel), (WHOLE_ROWS, row)):
        plan = costmodel.plan_schedule(yolo, 117 + extra, rule=rule, sets=sets)
        assert plan.duplicates[:6].tolist() == copies
        assert float(plan.serial.makespan) == serial
        assert float(plan.schedule.makespan) == cycles


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_equal_the_reference_simulation(name):
    graph = costmodel.layer_graph(name)
    for (extra, rule), (serial, pixel) in OTHERS[name].items():
        plan = costmodel.plan_schedule(graph, NETWORKS[name][0] + extra, rule=rule)
        assert (float(plan.serial.makespan), float(plan.schedule.makespan)) == (serial, pixel)


@pytest.mark.parametrize("extra", [0, 4, 32])
def test_identity_of_speedup_and_utilisation(yolo, extra):
    for plan in costmodel.speedup_band(yolo, 117 + extra):
        gain = plan.utilisation / plan.reference_utilisation
        assert gain == pytest.approx(plan.speedup * 117 / (117 + extra), rel=1e-5)
        assert 1 <= plan.speedup <= 113_061 / costmodel.lower_bound(yolo, plan.duplicates)
    assert plan.reference_utilisation == pytest.approx(0.01644245, rel=1e-6)  # sum c t / (117 x 113,061)


@pytest.mark.slow
def test_coarser_sets_and_strips_across_the_flow_are_slower(yolo):
    copies = costmodel.greedy_duplicates(yolo.cycles, yolo.crossbars(), 32)
    pixel, row = (float(costmodel.cross_layer(yolo, copies, sets=s).makespan) for s in (PIXELS, WHOLE_ROWS))
    horizontal = float(costmodel.cross_layer(yolo, copies, direction="horizontal").makespan)
    assert pixel < row < horizontal  # the last horizontal strip waits for the end of its producer


# -- copies


def test_rules_by_hand():
    # 100, 40 and 10 cycles; 1, 2 and 1 crossbars each; 4 extra: 100 -> 50 -> 33.3, then 40 -> 20 costs the other two
    assert costmodel.greedy_duplicates([100, 40, 10], [1, 2, 1], 4).tolist() == [3, 2, 1]
    # sums: 5 1 1 -> 20 + 40 + 10 = 70; 3 2 1 -> 33.3 + 20 + 10 = 63.3; 4 1 2 -> 25 + 40 + 5 = 70; 2 2 2 -> 75
    assert costmodel.min_sum_duplicates([100, 40, 10], [1, 2, 1], 4).tolist() == [3, 2, 1]
    # the greedy rule stops where the slowest layer no longer fits, although the first one would
    assert costmodel.greedy_duplicates([100, 80], [1, 3], 2).tolist() == [2, 1]
    assert costmodel.min_sum_duplicates([100, 80], [1, 3], 2).tolist() == [3, 1]
    assert costmodel.greedy_duplicates([100, 10], [1, 1], 5, limits=[2, 9]).tolist() == [2, 5]


def test_sum_is_the_smallest_of_all_choices():
    rng = np.random.default_rng(0)
    for _ in range(30):
        cycles, cost, extra = rng.integers(1, 200, 4), rng.integers(1, 4, 4), int(rng.integers(0, 8))
        limits = rng.integers(1, 6, 4)
        grid = np.stack(np.meshgrid(*[np.arange(1, 2 + extra)] * 4, indexing="ij"), -1).reshape(-1, 4)
        grid = grid[((grid - 1) @ cost <= extra) & (grid <= limits).all(axis=1)]
        found = costmodel.min_sum_duplicates(cycles.tolist(), cost.tolist(), extra, limits.tolist())
        assert (found - 1) @ cost <= extra and (found <= limits).all()
        assert (cycles / found).sum() == pytest.approx((cycles / grid).sum(axis=1).min(), rel=1e-12)
        greedy = costmodel.greedy_duplicates(cycles.tolist(), cost.tolist(), extra, limits.tolist())
        assert (greedy - 1) @ cost <= extra and (greedy <= limits).all()


def test_search_against_all_choices():
    """On small graphs: never worse than the rules, never better than the bound, and the best of all choices."""
    for seed in (0, 3, 7):
        graph, cost, extra = random_graph(seed, layers=4), [1, 2, 1, 1], 3
        found = costmodel.search_duplicates(graph, cost, extra)
        grid = np.stack(np.meshgrid(*[np.arange(1, 2 + extra)] * 4, indexing="ij"), -1).reshape(-1, 4)
        grid = grid[(grid - 1) @ np.asarray(cost) <= extra]
        best = min(float(costmodel.cross_layer(graph, copies).makespan) for copies in grid)
        assert (found.duplicates - 1) @ np.asarray(cost) <= extra
        assert found.bound <= best == found.makespan and found.proven
        quick = costmodel.search_duplicates(graph, cost, extra, exhaustive=0)
        assert quick.bound <= best <= quick.makespan
        rules = [rule(graph.cycles, cost, extra) for rule in (costmodel.greedy_duplicates, costmodel.min_sum_duplicates)]
        assert found.makespan <= min(float(costmodel.cross_layer(graph, copies).makespan) for copies in rules)


# -- derivatives, batches, traces


def test_gradients_are_those_of_the_critical_path():
    graph, rng = random_graph(1, layers=3), np.random.default_rng(5)
    n = len(graph.layers)
    copies = rng.integers(1, 4, n)

    def makespan(cycle, transfer):
        return costmodel.cross_layer(graph, copies, cycle=cycle, transfer=transfer).makespan

    point = jnp.asarray(rng.uniform(1, 2, n)), jnp.asarray(rng.uniform(0, 1, n))
    slopes = jax.grad(makespan, argnums=(0, 1))(*point)
    # piecewise linear and homogeneous of degree 1: Euler's theorem gives the value back
    total = sum(float(jnp.vdot(s, p)) for s, p in zip(slopes, point, strict=True))
    assert total == pytest.approx(float(makespan(*point)), rel=1e-5)
    step = 1e-3
    for argument, i in itertools.product((0, 1), range(n)):
        up, down = (makespan(*[p.at[i].add(s) if k == argument else p for k, p in enumerate(point)]) for s in (step, -step))
        assert float(slopes[argument][i]) == pytest.approx(float(up - down) / (2 * step), abs=0.05)
    assert all(bool((s >= 0).all()) for s in slopes)


def test_subgradients_where_paths_tie():
    """Convex in the cycle times: the gradient at a tie supports the function everywhere."""
    graph = random_graph(2, layers=3)
    n = len(graph.layers)
    run = jax.jit(lambda cycle: costmodel.cross_layer(graph, cycle=cycle).makespan)
    slope = jax.grad(run)(jnp.ones(n))
    assert np.isfinite(slope).all()
    others = np.random.default_rng(0).uniform(0.2, 3, (200, n))
    values = jax.vmap(run)(jnp.asarray(others))
    assert (np.asarray(values) >= float(run(jnp.ones(n))) + (others - 1) @ np.asarray(slope) - 1e-3).all()


def test_interleaved_copies_have_a_slope():
    graph = random_graph(4, layers=3)
    n = len(graph.layers)
    run = jax.jit(lambda copies: costmodel.cross_layer(graph, copies, direction="interleaved").makespan)
    point = jnp.asarray(np.random.default_rng(3).uniform(1, 3, n))
    slope = jax.grad(run)(point)
    assert (np.asarray(slope) <= 1e-6).all() and float(slope.sum()) < 0  # more copies are never slower
    along = jnp.asarray(slope) / jnp.linalg.norm(slope)
    difference = (run(point + 1e-2 * along) - run(point - 1e-2 * along)) / 2e-2
    assert float(difference) == pytest.approx(float(slope @ along), rel=0.05)
    one = costmodel.cross_layer(graph, direction="interleaved").makespan
    assert float(one) == float(costmodel.cross_layer(graph).makespan)


def test_monotone_in_times_and_copies():
    graph = random_graph(6, layers=4)
    n, limits = len(graph.layers), [layer.columns for layer in graph.layers]
    rng = np.random.default_rng(1)
    run = jax.jit(jax.vmap(lambda d, c, t: costmodel.cross_layer(graph, d, cycle=c, transfer=t).makespan))
    copies, cycle, transfer = rng.integers(1, 6, (500, n)), rng.uniform(0.5, 2, (500, n)), rng.uniform(0, 2, (500, n))
    base = np.asarray(run(copies, cycle, transfer))
    assert (np.asarray(run(copies, cycle * rng.uniform(1, 2, (500, n)), transfer)) >= base - 1e-3).all()
    assert (np.asarray(run(copies, cycle, transfer + rng.uniform(0, 2, (500, n)))) >= base - 1e-3).all()
    assert (np.asarray(run(np.broadcast_to(limits, (500, n)), cycle, transfer)) <= base + 1e-3).all()  # the bound of the search


def test_batched_equals_scalar_with_one_trace():
    graph, traces = random_graph(8, layers=3), []

    @jax.jit
    def run(copies, cycle):
        traces.append(1)
        return costmodel.cross_layer(graph, copies, cycle=cycle).makespan

    rng = np.random.default_rng(0)
    copies, cycle = rng.integers(1, 7, (20, 3)), rng.integers(1, 9, 20).astype(float)
    single = [float(run(jnp.asarray(d), jnp.asarray(c))) for d, c in zip(copies, cycle, strict=True)]
    assert len(traces) == 1
    np.testing.assert_array_equal(jax.vmap(run)(jnp.asarray(copies), jnp.asarray(cycle)), single)


# -- from functions to graphs


def trace(fn, shape=(1, 6, 6, 4), **kernels):
    weights = {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in kernels.items()}
    return costmodel.layer_graph(fn, weights, jax.ShapeDtypeStruct(shape, jnp.float32), name="traced")


def conv(x, w, strides=(1, 1), padding="SAME", **options):
    return jax.lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)


def depends(graph, index, place):
    return {(r, c) for _, r, c in needs(graph, graph.layers[index].source, place)}


def test_dependencies_of_what_lies_between():
    square, w = (3, 3, 4, 4), (1, 1, 4, 4)
    cases = {
        "pad": (lambda y: jnp.pad(y, ((0, 0), (1, 0), (0, 1), (0, 0))), (0, 0), set()),
        "upsample": (vision.upsample, (5, 3), {(2, 1)}),
        "slice": (lambda y: y[:, 1:, 2:], (0, 1), {(1, 3)}),
        "stride": (lambda y: y[:, ::2, 1::2], (2, 1), {(4, 3)}),
        "channels": (lambda y: jnp.concatenate([y[..., :2], y[..., 2:]], -1), (1, 1), {(1, 1)}),
        "transpose": (lambda y: jnp.transpose(y, (0, 3, 1, 2)).transpose(0, 2, 3, 1), (1, 2), {(1, 2)}),
        "blocks": (lambda y: y.reshape(1, 3, 2, 3, 2, 4).max((2, 4)), (1, 2), {(2, 4), (2, 5), (3, 4), (3, 5)}),
        "joined rows": (lambda y: jnp.concatenate([y, y], 1), (7, 3), {(1, 3)}),
    }
    for name, (between, place, expected) in cases.items():
        graph = trace(lambda p, x, f=between: conv(f(conv(x, p["a"])), p["b"]), a=square, b=w)
        assert depends(graph, 1, place) == expected, name
    everything = {(r, c) for r in range(6) for c in range(6)}
    for between in (
        lambda y: y * jax.nn.sigmoid(y.mean((1, 2), keepdims=True)),
        lambda y: jax.nn.softmax(y, axis=(1, 2)),
        lambda y: jnp.sort(y, axis=1)[:, :, ::-1],
        lambda y: y.reshape(1, -1)[:, :144].reshape(1, 6, 6, 4),
    ):
        graph = trace(lambda p, x, f=between: conv(f(conv(x, p["a"])), p["b"]), a=square, b=w)
        assert depends(graph, 1, (3, 3)) == everything


def test_dense_layers_and_batches():
    graph = trace(lambda p, x: jax.nn.relu(conv(x, p["a"])).reshape(2, -1) @ p["b"], (2, 6, 6, 4), a=(3, 3, 4, 8), b=(288, 10))
    first, dense = graph.layers
    assert (first.repeat, dense.k, dense.n, dense.cycles) == (2, 288, 10, 2)
    assert graph.cycles == (72, 2) and float(costmodel.cross_layer(graph).makespan) == 74
    tokens = trace(lambda p, x: jax.nn.gelu(x @ p["a"]) @ p["b"], (1, 16, 8), a=(8, 32), b=(32, 8))
    assert tokens.cycles == (16, 16) and float(costmodel.cross_layer(tokens).makespan) == 17  # one token behind


# -- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda g: costmodel.plan_schedule(g, 100),
            "needs 117 crossbars .* 100 are available; its largest layer, conv14, takes 36",
        ),
        (lambda g: costmodel.plan_schedule(g, rule="best"), "unknown rule 'best'; known: greedy, min_sum, search"),
        (lambda g: costmodel.cross_layer(g, direction="diagonal"), "unknown direction 'diagonal'; known: vertical"),
        (lambda g: costmodel.cross_layer(g, sets=Sets(0, 1)), "sets = 0 x 1 places is outside its range"),
        (lambda g: costmodel.cross_layer(g, [1, 2]), r"duplicates has shape \(2,\), tiny-yolo-v4 has 21 layers"),
        (lambda g: costmodel.cross_layer(g, [0] * 21), "duplicates of conv0 = 0 is below its limit 1"),
        (lambda g: costmodel.cross_layer(g, transfer=-1.0), "transfer of conv0 = -1.0 is below its limit 0"),
        (lambda g: costmodel.cross_layer(g, buffer=0), "buffer of conv0 = 0 is below its limit 1"),
        (lambda g: costmodel.cross_layer(g, buffer=[9, 9]), r"buffer has shape \(2,\), tiny-yolo-v4 has 21 layers"),
        (lambda g: g.crossbars(0, 4), r"crossbar rows = 0 is outside its range \[1, 65536\]"),
        (lambda g: costmodel.greedy_duplicates(g.cycles, g.crossbars(), -1), r"extra = -1 crossbars is outside its range"),
        (lambda g: costmodel.layer_graph("resnet51"), "unknown network 'resnet51'; close: resnet50"),
        (
            lambda g: LayerGraph("loop", (Layer("a", 1, 4, 4, 9, 4), Layer("b", 0, 4, 4, 9, 4))),
            "loop: a reads step 1, which is not before it: the graph has a cycle",
        ),
        (lambda g: LayerGraph("flat", (Layer("a", INPUT, 0, 4, 9, 4),)), "flat: a has 0 x 4 places, at least 1 x 1"),
        (lambda g: LayerGraph("twins", (Layer("a", INPUT, 1, 1, 9, 4),) * 2), "layer name 'a' occurs twice"),
        (lambda g: trace(lambda p, x: x + 1), "no layer with constant weights"),
        (
            lambda g: trace(lambda p, x: x @ jnp.swapaxes(x, 2, 3)),
            "multiplies two activations and cannot be mapped onto crossbars",
        ),
        (
            lambda g: trace(lambda p, x: jax.lax.fori_loop(0, 3, lambda _, y: conv(y, p["a"]), x), a=(3, 3, 4, 4)),
            "is inside a .* and cannot be mapped onto crossbars",
        ),
    ],
)
def test_bad_input_is_one_line(yolo, call, message):
    with pytest.raises(ValueError, match=message) as raised:
        call(yolo)
    assert "\n" not in str(raised.value)


# -- charts and the command


def test_activity_conserves_the_work(yolo):
    from costmodel.mapping.gantt import activity

    plan = costmodel.plan_schedule(yolo, 149)
    share = activity(plan, 200)
    assert share.shape == (21, 200) and share.min() >= 0 and share.max() <= 1
    work = share.sum(axis=1) * float(plan.schedule.makespan) / 200 * plan.duplicates
    np.testing.assert_allclose(work, yolo.cycles, rtol=0.02)
    assert len(costmodel.gantt_text(plan, 40).splitlines()) == 21


def test_command(monkeypatch, capsys, tmp_path):
    import rl.cli

    def tempo(*arguments):
        monkeypatch.setattr("sys.argv", ["tempo", "schedule", *arguments])
        with pytest.raises(SystemExit) as ended:
            rl.cli.main()
        return ended.value.code or 0, capsys.readouterr()

    chart = tmp_path / "chart.png"
    code, printed = tempo("tiny-yolo-v4", "--extra-pes", "32", "--gantt", str(chart), "--json")
    value = json.loads(printed.out)
    assert code == 0 and chart.read_bytes()[:4] == b"\x89PNG"
    assert (value["crossbars_needed"], value["crossbars_available"]) == (117, 149)
    assert value["speedup"] == pytest.approx(113_061 / 4_203, rel=1e-6)
    assert value["utilisation"] == pytest.approx(0.34731, rel=1e-4)
    assert len(value["layers"]) == 21 and len(value["band"]) == 4
    code, printed = tempo("tiny-yolo-v4", "--extra-pes", "32")
    assert code == 0 and "speedup 26.90" in printed.out and "utilisation 34.73 %" in printed.out and "conv14" in printed.out
    for arguments, expected in (
        (["resnet51"], "unknown network 'resnet51'; close: resnet50"),
        (["tiny-yolo-v4", "--extra-pes", "-1"], "--extra-pes = -1 crossbars is outside its range [0, 100000]"),
        (["tiny-yolo-v4", "--crossbar", "big"], "--crossbar = 'big' is not a whole number or ROWSxCOLUMNS"),
        (["tiny-yolo-v4", "--sets", "0x1"], "sets = 0 x 1 places is outside its range"),
        (["tiny-yolo-v4", "--gantt", "/proc/chart.png"], "cannot write /proc/chart.png"),
    ):
        code, printed = tempo(*arguments)
        assert code == 2 and printed.out == "" and expected in printed.err and len(printed.err.strip().splitlines()) == 1
