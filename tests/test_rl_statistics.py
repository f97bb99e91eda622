"""Statistics of few runs: values by hand, figures of rliable, coverage, and sample efficiency for negative returns."""

import jax.numpy as jnp
import numpy as np
import pytest

import rl
from rl.agents.records import Metrics
from rl.study.algorithms import ALGORITHMS, algorithm_config, algorithm_name, label, parse_settings, run_label
from rl.study.comparison import compare, median_run
from rl.study.learning import learning_curves, sample_efficiency
from rl.study.statistics import (
    bootstrap,
    improvement,
    learning_band,
    optimality_gap,
    over_runs,
    performance_profile,
    pooled,
    probability_of_improvement,
    running_mean,
    steps_to_reach,
    target_return,
)

pytestmark = pytest.mark.single  # computes in float32 whatever the default

# [runs, tasks], drawn once; the figures of rliable 1.2.0 (with arch 7.2.0 and pandas 2.3.3) below are for these.
X = np.array([
    [0.779, 0.594, 0.563, 1.123, 0.797], [0.663, 0.788, 0.014, 0.553, 0.337], [0.936, 0.682, 1.087, 0.914, 0.433],
    [0.849, 0.587, 0.757, 0.861, 0.593], [1.038, 0.859, 0.791, 0.378, 0.661], [0.582, 1.082, 1.5, 0.82, 0.147],
    [0.433, 1.071, 0.512, 1.615, 0.335], [1.053, 0.806, 0.648, 0.664, 0.621], [1.021, 0.571, 0.819, 0.571, 1.346],
    [1.119, 0.89, 0.664, 0.588, 0.955],
])  # fmt: skip
Y = np.array([
    [0.568, 0.689, 0.512, 1.005, 0.858], [0.752, 0.959, 0.575, 0.576, 0.948], [0.712, 0.838, 0.714, 0.685, 0.24],
    [0.657, 0.273, 0.322, 0.448, 1.289], [0.917, 0.722, 0.865, 1.093, 0.563], [0.3, 0.715, 0.964, 0.702, 0.879],
    [1.025, 0.949, 0.596, 0.819, 0.786], [0.78, 0.881, 0.962, 0.311, 0.723],
])  # fmt: skip


def test_interquartile_mean_by_hand():
    # sorted 0 1 2 3 4 5 6 100: the middle half is 2 3 4 5
    assert rl.interquartile_mean(np.array([100, 3, 1, 2, 0, 6, 5, 4])) == 3.5
    assert rl.interquartile_mean(np.array([7.0])) == 7.0


@pytest.mark.parametrize(("scores", "value", "lo", "hi"), [(X, 0.73896, 0.66808, 0.82658), (Y, 0.74745, 0.67075, 0.82330)])
def test_interquartile_mean_agrees_with_rliable(scores, value, lo, hi):
    """`get_interval_estimates` with `aggregate_iqm`, 20,000 resamples; two such intervals differ by less than 0.003."""
    assert rl.interquartile_mean(scores) == pytest.approx(value, abs=1e-5)
    assert rl.bootstrap_interval(scores, draws=20_000) == pytest.approx((lo, hi), abs=0.003)


def test_interval_of_one_task_agrees_with_rliable():
    assert rl.interquartile_mean(X[:, 0]) == pytest.approx(0.881, abs=1e-5)
    assert rl.bootstrap_interval(X[:, 0], draws=20_000) == pytest.approx((0.68633, 1.02033), abs=0.004)


def test_probability_of_improvement_agrees_with_rliable():
    """`probability_of_improvement` with its stratified independent bootstrap, 4,000 resamples."""
    found = probability_of_improvement(X, Y, draws=4_000)
    assert found.value == pytest.approx(0.52375)
    assert (found.lo, found.hi) == pytest.approx((0.3975, 0.6450), abs=0.008)


def test_performance_profile_agrees_with_rliable():
    """`create_performance_profile`, 4,000 resamples; shares of 50 scores move in steps of 0.02."""
    found = performance_profile(X, [0.2, 0.5, 0.8, 1.1], draws=4_000)
    assert found.value == pytest.approx([0.96, 0.86, 0.42, 0.10])
    assert found.lo == pytest.approx([0.90, 0.76, 0.30, 0.02], abs=0.021)
    assert found.hi == pytest.approx([1.00, 0.94, 0.56, 0.18], abs=0.021)


def test_probability_of_improvement_by_hand():
    # task 1: 2 and 4 against 1 and 4: wins 1, 0, 1, 1/2 of 4; task 2: 0 and 0 against 5 and 5: none
    assert float(improvement(np.array([[2.0, 0], [4, 0]]), np.array([[1.0, 5], [4, 5]]))) == pytest.approx((2.5 / 4 + 0) / 2)
    # the other way round is the complement
    assert float(improvement(X, Y) + improvement(Y, X)) == pytest.approx(1.0)


def test_gap_by_hand():
    # run means -12 and -14: their mean -13; the optimum's -10: 30 % are missing. Above it the gap is negative.
    scores, best = np.array([[-10.0, -14], [-11, -17]]), np.array([-8.0, -12])
    assert optimality_gap(scores, best).value == pytest.approx(30.0)
    assert optimality_gap(best[None], scores).value == pytest.approx(-100 * 3 / 13)


def test_common_episodes_cancel_in_the_gap():
    """Episodes differ by 100 times more than policies: the gap is still sharp, as both play the same ones."""
    rng = np.random.default_rng(0)
    hard = -rng.uniform(1, 100, 256)
    runs = hard * 1.02 + rng.normal(0, 0.05, (10, 256))
    found = optimality_gap(runs, hard)
    assert found.lo < 2.0 < found.hi and found.hi - found.lo < 0.2
    score = bootstrap(over_runs, runs)
    assert score.hi - score.lo > 5


@pytest.mark.parametrize(("design", "fewest", "most"), [("crossed", 90, 100), ("stratified", 0, 60)])
def test_coverage_when_good_runs_are_good_in_all_episodes(design, fewest, most):
    """Scores of 10 runs x 50 episodes = normal effects of the run, of the episode, and noise; true mean 0.

    Of 100 intervals of 95 %, the crossed ones cover it nearly always; those that take the episodes of a run as independent
    do not, and this is why the study does not use them.
    """
    rng, inside = np.random.default_rng(3), 0
    for seed in range(100):
        scores = rng.normal(size=(10, 1)) + 0.5 * rng.normal(size=(1, 50)) + rng.normal(size=(10, 50))
        found = bootstrap(lambda x: x.mean(axis=(-2, -1)), scores, seed=seed, draws=300, design=design)
        inside += found.lo <= 0 <= found.hi
    assert fewest <= inside <= most


def test_bootstrap_interval_covers_the_mean_of_a_normal():
    """95 % intervals of 100 samples of 64 draws cover the true mean in 88 to 99 cases."""
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(100):
        lo, hi = rl.bootstrap_interval(rng.normal(5.0, 2.0, 64), seed=seed, draws=400)
        inside += lo <= 5.0 <= hi
    assert 88 <= inside <= 99


def test_same_seed_same_bits_whatever_the_chunks(monkeypatch):
    first = bootstrap(pooled, X, draws=500)
    assert bootstrap(pooled, X, draws=500) == first != bootstrap(pooled, X, draws=500, seed=1)
    big = bootstrap(over_runs, np.tile(X, (1, 400)), draws=40)
    assert np.isfinite([big.value, big.lo, big.hi]).all() and big.lo <= big.value <= big.hi


def test_target_of_negative_returns():
    # random -400, optimum -30: nine tenths of the way is -67, not 0.9 * -30 = -27, which nobody reaches
    assert target_return(-400.0, -30.0) == pytest.approx(-67.0)
    assert target_return(0.0, 500.0) == pytest.approx(450.0)  # the plain 90 %
    assert target_return(-400.0 + 7, -30.0 + 7) == pytest.approx(-67.0 + 7)  # constants move nothing


def test_steps_to_reach_by_hand():
    steps = [10, 20, 30, 40]
    curves = [[0.0, 5, 9, 9], [0, 6, 9, 9], [0, 7, 8, 9], [0, 100, 9, 9]]  # middle half of four: the 2nd and 3rd
    assert steps_to_reach(steps, curves, 6.5).value == 20  # (6 + 7) / 2
    assert steps_to_reach(steps, curves, 6.6).value == 30
    assert steps_to_reach(steps, curves, 9.1).value == np.inf
    assert steps_to_reach(steps, [[0.0, 9, 0, 9]], 4.5, window=2) == (20, 20, 20)
    assert steps_to_reach(steps, [[0.0, 8, 0, 10]], 4.5, window=2).value == 40
    found = steps_to_reach(steps, curves, 8.9)
    assert found.lo <= found.value <= found.hi and {found.lo, found.hi} <= {10.0, 20.0, 30.0, 40.0, np.inf}


def test_learning_band_by_hand():
    curves = [[0.0, 5, 9], [0, 6, 9], [0, 7, 8], [0, 100, 9]]
    band = learning_band([10, 20, 30], curves)
    assert band.at.tolist() == [10, 20, 30] and band.value.tolist() == [0, 6.5, 9]
    assert np.all(band.lo <= band.value) and np.all(band.value <= band.hi) and band.lo[1] >= 5 and band.hi[1] <= 100


def test_running_mean_by_hand():
    assert running_mean(np.array([2.0, 4, 9, 2]), 2).tolist() == [2, 3, 6.5, 5.5]
    assert running_mean(np.array([2.0, 4]), 9).tolist() == [2, 3]


def test_comparison_of_policies():
    found = {
        "agent": {"scores": [[-3.0, -5], [-3, -5]]},
        "good": {"scores": [[-4.0, -5]]},
        "bad": {"scores": [[-9.0, -9]]},
        "optimal": {"scores": [[-2.0, -3]]},
    }
    judged = compare(found, ["good", "bad"], "optimal")
    assert list(judged) == ["optimal", "agent", "good", "bad"]
    assert judged["agent"]["score_iqm"] == -4 and judged["agent"]["runs"] == 2
    assert judged["agent"]["gap"] == pytest.approx(100 * 1.5 / 2.5)
    assert judged["agent"]["improvement"] == pytest.approx((1 + 0.5) / 2)  # better in the first episode, equal in the second
    assert "gap" not in judged["optimal"] and "improvement" not in judged["good"]
    assert all("gap" not in figures for figures in compare(found, ["good", "bad"]).values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rl.bootstrap_interval([]), r"scores must be finite numbers \[runs\] or \[runs, tasks\], at least one"),
        (lambda: rl.bootstrap_interval([1.0, np.nan]), "scores must be finite numbers"),
        (lambda: rl.bootstrap_interval([1.0], draws=0), "draws = 0 and level = 0.95 are outside their ranges"),
        (lambda: rl.bootstrap_interval([1.0], level=1.0), "level = 1 are outside their ranges"),
        (lambda: probability_of_improvement(X, Y[:, :3]), "x and y need the same tasks, got 5 and 3 columns"),
        (lambda: optimality_gap(X, [1.0, 2.0]), "crossed scores need the same columns, got 5, 2"),
        (lambda: running_mean(X, 0), r"window = 0 rows is outside its range \[1, inf\)"),
        (lambda: steps_to_reach([1, 2], X, 0.5), "steps and curves need the same rows, got 2 and 5"),
    ],
    ids=["none", "nan", "no draws", "level", "tasks", "episodes", "window", "rows"],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as found:
        call()
    assert "\n" not in str(found.value)


def metrics(returns, episodes):
    """Rows of metrics of one run, 100 steps each."""
    rows = len(returns)
    values = {"env_steps": 100 * np.arange(1, rows + 1), "episodes": np.array(episodes), "episode_return": np.array(returns)}
    return Metrics(**{name: jnp.asarray(values.get(name, np.zeros(rows))) for name in Metrics._fields})


def test_learning_curves_skip_placeholders():
    """No episode ended in the first row, in the second only one of run 0; the fourth has none and is left out."""
    runs = [metrics([0.0, -8, -6, 0, -4], [0, 1, 1, 0, 1]), metrics([0.0, 0, -7, 0, -5], [0, 0, 2, 0, 1])]
    curves = learning_curves(runs)
    assert curves == {"steps": [300, 500], "returns": [[-6, -4], [-7, -5]], "episodes": [3, 3]}
    # from -10 to -4.5: nine tenths of the way is -5.05; running means -6.5 and -5.5 never come there, run 0 alone does
    assert sample_efficiency(curves, -10.0, -4.5) == {"target": -5.05, "steps": None, "interval": [500, None]}
    assert sample_efficiency(curves, -10.0, -5.1)["steps"] == 500
    assert sample_efficiency({"steps": [], "returns": [[], []]}, -10.0, -5.0)["steps"] is None


def test_median_run():
    assert median_run([[1.0, 3], [9, 9], [0, 1]]) == 0 and median_run([[4.0], [2], [3], [1]]) == 1


def test_named_algorithms():
    flat = algorithm_config("edge-sched-dqn", 50_000)
    assert not (flat.double or flat.dueling or flat.noisy or flat.prioritized) and flat.n_step == 1 and flat.total_steps == 50_000
    assert [algorithm_name(algorithm_config(name, 50_000)) for name in ("dqn", "sac", "edge-sched-dqn")] == [*ALGORITHMS]
    found = parse_settings(
        ["hidden=(8, 8)", "gamma=0.9", "learning-rate-schedule=cosine", "double=false", "target_update_every=none"]
    )
    expected = {"hidden": (8, 8), "gamma": 0.9, "learning_rate_schedule": "cosine", "double": False, "target_update_every": None}
    assert found == expected
    assert label("slack-greedy") == "slack-greedy (READYS baseline)" and label("random") == "random"
    assert run_label("edge-sched-dqn-3") == "EdgeSched-DQN, seed 3" and run_label("cost-greedy") == "cost-greedy"
