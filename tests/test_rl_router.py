"""The router: margins and costs by hand, the tree bit for bit scikit-learn's, which tier answers when, and its regret."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import costmodel
import physics
import workloads
from costmodel import best_tiles
from rl import ComplexityRouter, HardwareState
from rl.decisions import router as router_module
from rl.decisions.routing_tiers import training
from rl.decisions.routing_tiers.guides import THRESHOLD, load_guide
from rl.decisions.routing_tiers.outlooks import outlooks
from rl.decisions.routing_tiers.pricing import MEMORIES, price, split
from rl.decisions.routing_tiers.states import checked
from rl.decisions.routing_tiers.training import draw_states
from rl.decisions.routing_tiers.trees import export_tree, round_down, tree_arrays, tree_from_arrays

TASKS = ("fft 2^14", "sort 1000", "gemm 64", "gemm 512x16x64", "convolution 28", "lu 100", "fft 2^30")
COLUMNS = ("latency", "energy", "log_cost", "retention", "capacity", "heat", "deadline")


@pytest.fixture(scope="module")
def router():
    return ComplexityRouter()


@pytest.fixture(scope="module")
def fitted():
    """A tree of scikit-learn on labels that no small tree gets right, and its arrays."""
    tree = pytest.importorskip("sklearn.tree")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8_000, 8)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] + x[:, 2] > 0).astype(int) + (x[:, 3] + 0.3 * x[:, 4] > 1)
    model = tree.DecisionTreeClassifier(max_depth=12, min_samples_leaf=10, random_state=0).fit(x, y)
    return model, export_tree(model, x.std(axis=0))


def test_the_seeds_usage(router):
    """The large transform does not fit into the microcontroller's memory, and its work is 100 times the GPU's launch overhead."""
    report = router.route("FFT", hw=HardwareState.from_temperature(T=45.0))
    assert (report.target, report.tier_used) == ("GPU", "TIER2_SKLEARN")
    assert report.confidence >= THRESHOLD and report.margin > 0 and "the tree gives it" in report.reason
    assert report.task == "fft n=1048576" and str(report).startswith("fft n=1048576: GPU (TIER2_SKLEARN), ")
    assert json.loads(json.dumps(report.as_dict()))["options"][0]["target"] == "CPU"
    assert report == router.route("fft n=2^20")  # 45 C is the default


# Tier 2


def test_rounding_down():
    """0.1 lies between the float32 numbers 0.0999999940395 and 0.1000000014901; 0.5 and -2 are float32 themselves."""
    assert round_down(0.1) == np.float32(0.09999999403953552) and round_down(-0.1) == np.float32(-0.10000000149011612)
    assert list(round_down([0.5, -2.0])) == [0.5, -2.0]


def test_decisions_are_scikit_learns_on_200000_states(fitted):
    """Random states, and states that stand exactly on a threshold or one float32 beside it in every entry."""
    model, tree = fitted
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200_000, 8)).astype(np.float32)
    on = np.flatnonzero(np.isfinite(np.asarray(tree.threshold)))
    for i in range(8):
        levels = np.asarray(tree.threshold)[on[np.asarray(tree.feature)[on] == i]]
        nudged = np.concatenate([levels, np.nextafter(levels, np.float32(9)), np.nextafter(levels, np.float32(-9))])
        x[:50_000, i] = rng.choice(nudged, 50_000)
    expected, leaves = model.predict(x), model.apply(x)
    decide = jax.jit(jax.vmap(lambda row: (tree.decide(row), tree.leaf(row))))
    choice, leaf = decide(jnp.asarray(x))
    np.testing.assert_array_equal(choice, expected)
    np.testing.assert_array_equal(leaf, leaves)


def test_the_shipped_tree_leads_columns_and_rows_to_the_same_leaf():
    guide = load_guide()
    rng, lo, hi = np.random.default_rng(2), np.asarray(guide.lo), np.asarray(guide.hi)
    x = jnp.asarray(rng.uniform(lo - 0.1 * (hi - lo), hi + 0.1 * (hi - lo), (50_000, lo.size)), jnp.float32)
    rows = jax.jit(jax.vmap(guide.tree.leaf))(x)
    columns = jax.jit(lambda x: guide.tree.leaf_of_columns(list(x.T)))(x)
    np.testing.assert_array_equal(rows, columns.astype(int))
    assert len(np.unique(rows)) > 20


def test_soft_votes():
    """They add up to 1, tend to the hard tree away from thresholds, and have the slope of finite differences."""
    guide = load_guide()
    tree, lo, hi = guide.tree, np.asarray(guide.lo), np.asarray(guide.hi)
    x = jnp.asarray(np.random.default_rng(3).uniform(lo, hi, (500, lo.size)), jnp.float32)
    step = 1e-2 * tree.scale * jnp.asarray(np.random.default_rng(4).normal(size=lo.size), jnp.float32)
    votes = jax.jit(jax.vmap(lambda row, s: jax.jvp(lambda r: tree.soft_votes(r, s), (row,), (step,)), (0, None)))
    (soft, slope), sharp = votes(x, 3.0), votes(x, 1e6)[0]
    np.testing.assert_allclose(soft.sum(axis=1), 1.0, rtol=1e-5)
    leaves = jax.jit(lambda x: tree.leaf_of_columns(list(x.T)))(x).astype(int)
    assert (np.abs(sharp - tree.votes[leaves]).max(axis=1) < 1e-3).mean() > 0.98
    difference = votes(x + step, 3.0)[0] - votes(x - step, 3.0)[0]
    assert float(jnp.abs(slope).max()) > 1e-3
    np.testing.assert_allclose(2 * slope, difference, atol=2e-4)


def test_arrays_come_back(fitted, tmp_path):
    tree = fitted[1]
    again = tree_from_arrays(tree_arrays(tree))
    assert again.depth == tree.depth and jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), tree, again))
    guide = load_guide()
    guide.save(tmp_path / "guide.npz")
    assert load_guide(tmp_path / "guide.npz").fits(guide.rates, guide.features)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no")
    for name in ("bad.npz", "absent.npz"):
        with pytest.raises(ValueError, match=f"{name}: no guide of a router"):
            load_guide(tmp_path / name)


def test_the_shipped_guide_fits_the_edge_platform(router):
    """A change detector: where a preset of the edge platform has changed, train again with the command in `training.py`."""
    assert router.guide is not None


# Tiers 1 and 3


def test_costs_and_margins_by_hand(router):
    """A transform of 2^14 points, 10 ms of work ahead on the GPU at 60 C, due in 1 s; everything else from `costmodel`."""
    state = HardwareState.from_temperature(60.0, backlog=[0.0, 0.01, 0.0], deadline=1.0)
    options = {o.target: o for o in router.route("fft 2^14", hw=state).options}
    gpu, platform = costmodel.load_hardware("edge-gpu"), router.platform
    # 2 bytes an element, so that the 256 KB cache holds 131,072 of them: 2 n = 32,768 fit, and 4 n = 65,536 move once
    table = workloads.make_table([{"kind": 7, "flops": 5 * 2**14 * 14, "inputs": 4 * 2**14}])
    cost = jax.jit(costmodel.estimate)(gpu, table.without_info(), costmodel.Conditions(temperature=333.15))
    energy = float(cost.dynamic_energy + gpu.static_power(costmodel.Conditions(temperature=333.15)) * cost.latency)
    np.testing.assert_allclose([options["GPU"].latency, options["GPU"].energy], [0.01 + cost.latency, energy], rtol=1e-5)
    np.testing.assert_allclose(options["GPU"].deadline, np.log(1 / (0.01 + cost.latency)), rtol=1e-5)
    rise = energy / float(cost.latency) * 3.0 * (1 - np.exp(-float(cost.latency) / (3.0 * 0.5)))  # 3 K/W, 0.5 J/K
    np.testing.assert_allclose(options["GPU"].heat, (398.15 - 333.15 - rise) / 10, rtol=1e-5)
    np.testing.assert_allclose(options["CPU"].capacity, np.log(640 * 1024 / 2**15), rtol=1e-5)
    chip = platform.chip("pim")
    lost = chip.cell.log_loss(333.15, options["PIM"].latency, 0.0)
    np.testing.assert_allclose(options["PIM"].retention, np.log(1e-6) - lost, rtol=1e-4)


def test_products_move_what_their_best_tile_moves(router):
    """1024^3 at 2 bytes in 256 KB: the price of the GPU holds `best_tiles`' traffic, not the 6 MB that move once."""
    table = workloads.resolve("gemm 1024").table.with_bits(activation=16, weight=16)
    moved = float(best_tiles(table, 256.0 * 1024).bytes_moved[0])
    assert (
        2 * 1024**3 * 2 / np.sqrt(128 * 1024) < moved < 4 * 1024**3 * 2 / np.sqrt(128 * 1024)
    )  # Smith et al.: 2 m n k / sqrt(S)
    offer = price(router.platform, [workloads.resolve("gemm 1024")], MEMORIES).offer
    gpu = costmodel.load_hardware("edge-gpu")
    seconds = float(gpu.overhead + jnp.maximum(1024**3 / (gpu.peak_macs * gpu.efficiency_dense), moved / gpu.bandwidth))
    np.testing.assert_allclose(offer.latency[0, 1], seconds, rtol=1e-5)


@pytest.mark.parametrize(
    ("task", "state", "target", "words"),
    [
        ("fft 2^30", {}, "PIM", "nothing else is allowed: CPU lacks the memory; GPU lacks the memory"),
        ("gemm 64", {"deadline": 1e-9}, "GPU", "nothing is allowed, GPU comes nearest"),
        ("lu 300", {"T": 140.0}, "GPU", "would get too hot"),
        ("convolution 112", {"T": 124.0}, "GPU", "PIM would lose its weights before the result is there"),
    ],
)
def test_tier_1(router, task, state, target, words):
    report = router.route(task, hw=HardwareState.from_temperature(**{"T": 45.0} | state))
    assert (report.target, report.tier_used, report.confidence) == (target, "TIER1_FEASIBILITY", 1.0)
    assert words in report.reason and report.margin == np.inf
    assert report.feasible == ("nothing is" not in report.reason)


def test_tier_3_where_the_tree_may_not_speak(router):
    """Weights that are four months old were in no training state; a tree that must be certain is never asked."""
    report = router.route("gemm 64", hw=HardwareState.from_temperature(-20.0, age=1e7))
    assert report.tier_used == "TIER3_COSTMODEL" and "outside the tree's training range" in report.reason
    doubter = ComplexityRouter(router.platform, confidence=1.0)
    doubter._priced, doubter._one = router._priced, router._one
    report = doubter.route("gemm 64")
    assert report.tier_used == "TIER3_COSTMODEL" and "are below 100.0%" in report.reason
    best = min(report.options, key=lambda option: option.log_cost)
    second = sorted(option.log_cost for option in report.options)[1]
    assert report.target == best.target
    np.testing.assert_allclose(report.margin, np.expm1(second - best.log_cost), rtol=1e-3)


def test_another_platform_has_no_tree(router):
    slower = {"gpu": costmodel.load_hardware("stm32l4r5")}
    package = router.platform.package
    platform = costmodel.Platform(router.platform.processors | slower, package)
    other = ComplexityRouter(platform)
    assert other.guide is None
    with pytest.raises(ValueError, match="trained for other processors"):
        ComplexityRouter(platform, guide=router.guide)


# Batches


@pytest.fixture(scope="module")
def batch(router):
    """3000 states in chunks of 1024, the last of which is not full."""
    count, rng = 3000, np.random.default_rng(5)
    chunk, router_module.CHUNK = router_module.CHUNK, 1024
    state = draw_states(count, 3, rng)
    state = HardwareState(*(np.asarray(value).T for value in state))
    which = rng.integers(0, len(TASKS), count)
    found = router.route_batch(TASKS, state, which)
    router_module.CHUNK = chunk
    return state, which, found


def test_a_batch_decides_as_single_states_do(router, batch):
    state, which, found = batch
    for i in range(0, 3000, 60):
        one = HardwareState(*(value[i] for value in state))
        report = router.route(TASKS[which[i]], hw=one)
        if abs(report.margin) > 1e-4:  # else rounding may decide
            assert (found.names[found.target[i]], router_module.TIERS[found.tier[i] - 1]) == (report.target, report.tier_used)
            np.testing.assert_allclose(found.margin[i], report.margin, rtol=1e-3)
            np.testing.assert_allclose(found.confidence[i], report.confidence, rtol=1e-5)
    assert set(found.tier) == {1, 2, 3}


def test_tier_3_has_no_regret_and_tier_2_little(batch):
    """The margin is that of the best other processor: never negative in tier 3, and rarely in tier 2."""
    _, _, found = batch
    assert bool(np.all(found.margin[found.tier == 3] >= -1e-5))
    margin = found.margin[found.tier == 2]
    regret = np.where(margin < 0, 1 / (1 + margin) - 1, 0.0)
    assert regret.mean() < 0.02 and np.isfinite(margin).all()


def test_a_program_is_traced_once(router, batch):
    before = router._one._cache_size()
    for celsius in (10.0, 70.0):
        router.route("fft 2^12", hw=HardwareState.from_temperature(celsius, backlog=0.1, age=celsius))
    assert router._one._cache_size() == before == 1


def test_numbers_spread_over_batches(router):
    shared = router.route_batch(["gemm 64"], HardwareState(np.linspace(280, 380, 256), deadline=1.0))
    alike = np.broadcast_to(np.linspace(280, 380, 256)[:, None], (256, 3))
    each = router.route_batch(["gemm 64"], HardwareState(alike, deadline=np.ones(256)), np.zeros(256, int))
    np.testing.assert_array_equal(shared.target, each.target)


# Properties


def test_heat_and_load_never_help(router):
    """Hotter and with a longer queue, the margins of heat and retention fall; d cost / d backlog = 1 / latency."""
    parts = split(router.platform)
    priced = jax.tree.map(lambda x: jnp.asarray(x[0]), price(router.platform, [workloads.resolve("gemm 64")], MEMORIES))

    def margins(celsius, backlog):
        seen = outlooks(parts, priced, spread_traced(celsius, backlog))
        return jnp.stack([jnp.stack([getattr(o, name) for name in COLUMNS]) for o in seen])

    def spread_traced(celsius, backlog):
        one = jnp.ones(3)
        return HardwareState((celsius + 273.15) * one, backlog * one, one, jnp.ones(()), jnp.zeros(()), jnp.ones(()))

    at = jnp.linspace(0.0, 110.0, 4000), jnp.geomspace(1e-3, 1.0, 4000)
    values, slopes = jax.jit(jax.vmap(lambda c, b: jax.jvp(lambda b: margins(c, b), (b,), (1.0,))))(*at)
    falling = jnp.diff(values, axis=0)[:, :, COLUMNS.index("heat")]
    assert bool(jnp.all(falling <= 1e-4))
    np.testing.assert_allclose(slopes[..., 2], 1 / values[..., 0], rtol=1e-3)
    assert bool(jnp.all(jnp.diff(values[:, 2, COLUMNS.index("retention")]) <= 1e-4))
    assert bool(jnp.all(jnp.isfinite(slopes)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.route("fftt"), "unknown workload 'fftt'; close: fft"),
        (lambda r: r.route("fft", hw=HardwareState.from_temperature(-100.0)), "temperature = 173.15 K is outside its range"),
        (lambda r: r.route("fft", hw=HardwareState(float("nan"))), "temperature = nan K is outside its range \\[200, 500\\] K"),
        (lambda r: r.route("fft", hw=HardwareState(300.0, backlog=-1.0)), "backlog = -1 s is outside its range"),
        (lambda r: r.route("fft", hw=HardwareState(300.0, resident="yes")), "resident must be numbers, got 'yes'"),
        (lambda r: r.route("fft", hw=HardwareState(np.full(2, 300.0))), "temperature has shape \\(2,\\), expected one number or"),
        (lambda r: HardwareState.from_temperature("hot"), "T must be a temperature in degrees Celsius, got 'hot'"),
        (lambda r: HardwareState.from_temperature(45.0, backlok=1.0), "unknown field of HardwareState 'backlok'; close: backlog"),
        (lambda r: checked(45), "hw must be a HardwareState, got 45"),
        (lambda r: r.route_batch([], HardwareState(300.0)), "tasks is empty"),
        (lambda r: r.route_batch(["fft", "sort"], HardwareState(300.0)), "which is missing: there are 2 tasks"),
        (lambda r: r.route_batch(["fft"], HardwareState(300.0), [0, 1]), "which = 0 to 1 is outside its range \\[0, 0\\]"),
        (lambda r: r.route_batch(["fft"], HardwareState(300.0), [0.5]), "which has shape"),
        (lambda r: ComplexityRouter(confidence=2.0), "confidence = 2 is outside its range"),
        (lambda r: ComplexityRouter("egde"), "close: edge"),
    ],
)
def test_errors_are_one_line(router, call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(router)
    assert "\n" not in str(error.value)


def test_an_unknown_task_is_a_key_error(router):
    with pytest.raises(KeyError, match="close: fft"):
        router.route("fftt")


@pytest.mark.slow
def test_regret_on_new_states_and_on_work_held_back(router, monkeypatch):
    """Tiers 1 and 2 against the cost model: below 2 % in the mean, on work trained on and on work held back."""
    monkeypatch.setattr(training, "SIZES", 8)
    for row in training.measure(router.guide, router.platform, states=20_000).values():
        assert row.answered > 0.8 and row.mean < 0.02 and row.tiers_1_2 < 0.02 and row.forbidden == 0


@pytest.mark.slow
def test_a_guide_trained_for_another_platform(router, monkeypatch):
    """A GPU that computes four times faster: a guide of few states knows it, and answers most states."""
    monkeypatch.setattr(training, "SIZES", 20)
    gpu = router.platform.processors["gpu"]
    faster = costmodel.Platform(
        router.platform.processors | {"gpu": physics.replace(gpu, {"peak_macs": 4 * gpu.peak_macs})}, router.platform.package
    )
    guide = training.train_guide(faster, training.kernel_works(("fft",), np.random.default_rng(0)), states=20_000)
    found = ComplexityRouter(faster, guide=guide).route_batch(["fft 2^17"], HardwareState(np.linspace(290.0, 360.0, 100)))
    assert (found.tier == 2).mean() > 0.5
