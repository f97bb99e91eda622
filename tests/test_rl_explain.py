"""Explanations: attributions by hand and complete, maps that are the controller's own decisions, plots that draw."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

import costmodel
import rl
from rl.decisions.controller import Controller
from rl.decisions.explain import attributions, decision_map, reference_state, value_gaps
from rl.decisions.plots import plot_attributions, plot_decision_map, plot_value_gaps
from rl.decisions.ranges import ObservationRange
from rl.decisions.records import ControlLimits

pytestmark = pytest.mark.single  # computes in float32 whatever the default

POSITION = 4  # of ln(deadline / 0.1 s)


@pytest.fixture(scope="module")
def env():
    return rl.SchedulingEnv(costmodel.load_platform("edge"))


@pytest.fixture(scope="module")
def controller(env):
    """By temperature and rate: the GPU if cold, else the chip; the agent knows 1 to 10 requests per second."""
    names = env.observation_names
    heat, gap = names.index("(temperature of pim - 318.15 K) / 40 K"), names.index("ln(mean gap / 0.3 s)")
    full = jnp.full(len(names), 100.0)
    lo, hi = (-full).at[gap].set(np.log(0.1 / 0.3)), full.at[gap].set(np.log(1.0 / 0.3))
    limits = ControlLimits(retention_margin=-50.0, temperature=360.0, slack=0.0)
    return Controller(
        env, lambda o: jnp.stack([-5 + 0 * o[0], -o[heat], o[heat]]), trained=ObservationRange(lo, hi, 0 * lo), limits=limits
    )


def test_a_linear_agent_by_hand():
    """Q = W x: the lead of 1 over 0 has slope W_1 - W_0 = (1, -3); from b = (1, 1) to x = (3, 2) its parts are (2, -3)."""
    weights = jnp.array([[1.0, 2.0], [2.0, -1.0], [-9.0, -9.0]])
    found = attributions(lambda x: weights @ x, jnp.array([3.0, 2.0]), jnp.array([1.0, 1.0]), target=1, against=0)
    assert np.allclose(found.gradient, [1.0, -3.0])
    assert np.allclose(found.integrated, [2.0, -3.0], rtol=1e-6) and np.allclose(found.gradient_input, [2.0, -3.0])
    # 3 - 3 x 2 = -3 here, 1 - 3 = -2 at the baseline
    assert float(found.gap) == pytest.approx(-3) and float(found.baseline_gap) == pytest.approx(-2)
    assert abs(float(found.residual)) < 1e-5
    chosen = attributions(lambda x: weights @ x, jnp.array([3.0, 2.0]))  # values 7, 4, -45 from zeros
    assert (int(chosen.target), int(chosen.against), float(chosen.baseline_gap)) == (0, 1, 0.0)


def test_a_square_tells_the_two_kinds_apart():
    """Q_0 = x^2: the mean slope from 0 to 3 is 3, the slope at 3 is 6."""
    found = attributions(lambda x: jnp.array([x[0] ** 2, 0.0]), jnp.array([3.0, 5.0]))
    assert np.allclose(found.integrated, [9.0, 0.0], rtol=1e-5) and np.allclose(found.gradient_input, [18.0, 0.0])


def test_integrated_gradients_of_a_rectified_network_are_complete(getkey):
    """The parts add up to the difference of the leads; the error falls as one over the points."""
    first, second = jax.random.normal(getkey(), (32, 10)), jax.random.normal(getkey(), (3, 32))
    values = lambda x: second @ jax.nn.relu(first @ x)  # noqa: E731
    drawn = jax.random.normal(getkey(), (100, 2, 10))

    def residuals(points):
        return jax.jit(jax.vmap(lambda pair: attributions(values, *pair, target=0, against=1, points=points).residual))(drawn)

    change = jax.vmap(lambda pair: jnp.abs(jnp.diff(values(pair[0])[:2]) - jnp.diff(values(pair[1])[:2]))[0])(drawn)
    coarse, fine = (np.abs(np.asarray(residuals(points))) for points in (16, 1024))
    assert np.max(fine) < 0.01 * float(jnp.mean(change))
    assert np.mean(fine) < np.mean(coarse) / 20


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"target": 3}, "target = 3 must be below 3"),
        ({"target": 1, "against": 1}, "against = 1 must be another target than 1, of at least two"),
        ({"against": -1}, "against = -1 must be an integer"),
        ({"points": 0}, "points = 0 must be an integer"),
    ],
    ids=["unknown", "same", "negative", "points"],
)
def test_what_cannot_be_compared_is_refused(choice, words):
    with pytest.raises(ValueError, match=words):
        attributions(lambda x: jnp.arange(3.0) * x[0], jnp.ones(2), **choice)


def test_value_gaps_by_hand():
    found = value_gaps(lambda x: jnp.array([x[0], x[1], 0.0]), jnp.array([[3.0, 1.0], [-1.0, 2.0], [-2.0, -1.0]]))
    assert np.array_equal(found.target, [0, 1, 2]) and np.array_equal(found.gap, [2.0, 2.0, 1.0])


def test_reference_state_by_hand(env):
    state = reference_state(env, "resnet8", deadline=0.2, mean_gap=0.6)
    seen = dict(zip(env.observation_names, np.asarray(jax.jit(env.observe)(state)).tolist(), strict=True))
    assert seen["task is resnet8"] == 1 and seen["resnet8 is resident on pim"] == 1 and seen["ds-cnn is resident on pim"] == 0
    assert seen["ln(deadline / 0.1 s)"] == pytest.approx(np.log(2)) and seen["ln(mean gap / 0.3 s)"] == pytest.approx(np.log(2))
    assert seen["(temperature of cpu - 318.15 K) / 40 K"] == 0 and seen["ln(1 + backlog of gpu / 10 ms)"] == 0
    assert seen["ln(hazard budget / lost fraction) / 10 of resnet8 on pim"] == pytest.approx(0.4, rel=1e-5)


def test_a_map_is_what_the_controller_decides(env, controller):
    temperatures, rates = [300.0, 310.0, 330.0, 365.0], [0.5, 2.0, 20.0]
    found = decision_map(controller, "resnet8", temperatures, rates)
    assert found["target"].dims == ("temperature", "load") and found["values"].dims == ("temperature", "load", "option")
    assert list(found["option"].values) == ["cpu", "gpu", "pim"] and found["load"].attrs["units"] == "1/s"
    assert np.array_equal(found["fallback"].values, np.broadcast_to([True, False, True], (4, 3)))  # known are 1 to 10 per second
    assert found["target"].values[:, 1].tolist()[:3] == [1, 1, 2]  # it changes its mind at 318.15 K
    # leads: 2 |T - 318.15| / 40, as long as the other extreme is second
    assert found["gap"].values[0, 1] == pytest.approx(2 * 18.15 / 40, rel=1e-4)
    assert found["gap"].values[2, 1] == pytest.approx(2 * 11.85 / 40, rel=1e-4)
    for row, temperature in enumerate(temperatures):
        controller.reset()
        state = reference_state(env, "resnet8", mean_gap=0.5)
        state = state._replace(platform=state.platform._replace(ambient=jnp.asarray(temperature, float)))
        decision = controller.decide(state)
        assert decision.index == found["target"].values[row, 1]
        assert decision.migrated == found["migrated"].values[row, 1] and decision.fallback == found["fallback"].values[row, 1]
    for figure in (plot_decision_map(found), plot_decision_map(found.isel(load=[1]))):
        figure.canvas.draw()
        plt.close(figure)


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        (([300.0], [0.0]), r"loads = \[0.0\] must be a sequence of finite numbers above 0"),
        (([], [1.0]), "temperatures = "),
        (([300.0], [np.nan]), "loads = "),
    ],
    ids=["rate-zero", "empty", "nan"],
)
def test_bad_axes_are_refused(controller, axes, words):
    with pytest.raises(ValueError, match=words):
        decision_map(controller, "resnet8", *axes)
    with pytest.raises(ValueError, match="load = 'heat' must be one of rate, queue"):
        decision_map(controller, "resnet8", [300.0], [1.0], load="heat")
    with pytest.raises(ValueError, match="network = 'resnet' must be one of"):
        decision_map(controller, "resnet", [300.0], [1.0])


def test_other_plots_draw():
    weights = jnp.arange(30.0).reshape(2, 15) * jnp.array([[1.0], [-1.0]])
    found = attributions(lambda x: weights @ x, jnp.ones(15))
    gaps = value_gaps(lambda x: weights @ x, jax.random.normal(jax.random.key(0), (50, 15)))
    for figure in (
        plot_attributions(found, tuple("abcdefghijklmno"), ("one", "two"), top=5),
        plot_value_gaps(gaps, ("one", "two"), 0.05),
    ):
        assert figure.axes[0].get_xlabel()
        figure.canvas.draw()
        plt.close(figure)
