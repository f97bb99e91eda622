"""Packages: two nodes in closed form, the three-node ladder, and processors that share a spreader."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
from jax.test_util import check_grads

from physics import CompensatedSum, Ladder, SharedPackage, TwoNode, default_package, labels, replace

X64 = jax.config.read("jax_enable_x64")


def tol(single: float, double: float) -> float:
    return double if X64 else single


def random_two_nodes(count: int) -> TwoNode:
    """Packages of the range in which the closed form was first checked: 0.5-5, 5-50 K/W, 1e-3..1e-1, 1..20 J/K."""
    rng = np.random.default_rng(0)
    draws = (rng.uniform(0.5, 5, count), rng.uniform(5, 50, count), 10 ** rng.uniform(-3, -1, count), rng.uniform(1, 20, count))
    return jax.vmap(TwoNode)(*(jnp.asarray(d) for d in draws))


def test_two_node_steady_state_by_hand():
    # 10 W through 0.0442 + 0.1373 K/W: junction 10 * 0.1815 = 1.815 K, case 1.373 K above ambient.
    np.testing.assert_allclose(TwoNode().steady(10.0), [1.815, 1.373], rtol=1e-6)
    np.testing.assert_allclose(TwoNode().step(jnp.zeros(2), 10.0, 1e4), [1.815, 1.373], rtol=1e-5)


def test_two_node_time_constants_by_hand():
    # r = 1, 1 K/W, c = 1, 1 J/K: rates are the roots of w^2 - 3 w + 1 = 0, (3 +- sqrt 5) / 2 = 2.618034, 0.381966 1/s.
    package = TwoNode(1.0, 1.0, 1.0, 1.0)
    np.testing.assert_allclose(package.time_constants(), [1 / 0.38196601, 1 / 2.61803399], rtol=1e-6)


def test_two_node_agrees_with_an_ode_solver():
    package = TwoNode()
    r1, r2, c1, c2 = (float(x) for x in jax.tree.leaves(package))

    def slope(_, y):
        across = (y[0] - y[1]) / r1
        return [(7.0 - across) / c1, (across - y[1] / r2) / c2]

    for dt in (1e-4, 1e-3, 0.1, 3.0):
        solved = scipy.integrate.solve_ivp(slope, (0, dt), [20.0, 5.0], method="Radau", rtol=1e-11, atol=1e-12).y[:, -1]
        np.testing.assert_allclose(package.step(jnp.array([20.0, 5.0]), 7.0, dt), solved, rtol=tol(1e-6, 1e-8))


def test_two_node_agrees_with_the_general_network_and_with_expm():
    packages = random_two_nodes(2000)
    theta, power = jnp.array([30.0, 10.0]), 8.0
    times = np.tile([1e-6, 1e-2, 10.0, 1e5], 500)
    closed = jax.jit(jax.vmap(lambda p, t: p.step(theta, power, t)))(packages, jnp.asarray(times))
    general = jax.jit(jax.vmap(lambda p, t: p.network().step(theta, jnp.array([power, 0.0]), t)))(packages, jnp.asarray(times))
    np.testing.assert_allclose(closed, general, rtol=tol(3e-6, 1e-11))
    for i in range(0, 2000, 51):
        r1, r2, c1, c2 = (float(x[i]) for x in jax.tree.leaves(packages))
        generator = np.array([[-1 / (r1 * c1), 1 / (r1 * c1)], [1 / (r1 * c2), -(1 / r1 + 1 / r2) / c2]])
        steady = power * np.array([r1 + r2, r2])
        exact = steady + scipy.linalg.expm(generator * times[i]) @ (np.array([30.0, 10.0]) - steady)
        np.testing.assert_allclose(closed[i], exact, rtol=tol(2e-6, 1e-8))


def test_very_short_steps_add_up_in_a_compensated_sum():
    """The case cools by 1e-7 of its temperature per microsecond, about the spacing of float32: a plain sum is 8 % off."""
    package, start = TwoNode(), jnp.array([20.0, 15.0])

    def advance(_, total):
        return total.add(package.increment(total.value, 30.0, 1e-6))

    compensated = jax.jit(lambda t: jax.lax.fori_loop(0, 10000, advance, CompensatedSum.start(t)))(start).value
    np.testing.assert_allclose(compensated - start, package.increment(start, 30.0, 1e-2), rtol=tol(1e-4, 1e-11))
    if not X64:
        plain = jax.jit(lambda t: jax.lax.fori_loop(0, 10000, lambda _, t: package.step(t, 30.0, 1e-6), t))(start)
        assert abs((plain - start)[1] / package.increment(start, 30.0, 1e-2)[1] - 1) > 0.02


def test_two_node_gradients_to_second_order():
    package = TwoNode(1.0, 20.0, 0.01, 5.0)
    with jax.enable_x64(True):
        package = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), package)
        arguments = (package, jnp.array([20.0, 5.0]), jnp.asarray(7.0), jnp.asarray(0.02))
        slopes = jax.jit(jax.grad(lambda p, t, q, d: p.step(t, q, d)[0], argnums=(0, 1, 2, 3)))
        check_grads(slopes, arguments, order=1, modes=["fwd"], rtol=1e-4, atol=1e-4, eps=1e-5)


def test_two_node_gradient_in_float32():
    """Elasticities p dT/dp, relative to a rise of 30 K, against float64: no loss by cancellation."""

    def slopes(p):
        g = jax.grad(lambda q: jnp.sum(jax.vmap(lambda one: one.step(jnp.array([30.0, 10.0]), 8.0, 0.01)[0])(q)))(p)
        return jax.tree.map(jnp.multiply, g, p)

    packages = random_two_nodes(2000)
    single = jax.jit(slopes)(packages)
    with jax.enable_x64(True):
        double = jax.jit(slopes)(jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), packages))
    for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(double), strict=True):
        assert np.max(np.abs(np.asarray(a) - np.asarray(b))) / 30 < tol(2e-6, 1e-13)


def test_ladder_is_its_foster_terms():
    """Published fit to HotSpot's ev6 block model, r_convec 1 K/W: R = 0.0318, 0.0483, 1.006 K/W, tau = 1.03 ms, 0.377, 77.4 s."""
    resistances, constants = np.array([0.0318, 0.0483, 1.006]), np.array([1.03e-3, 0.377, 77.4])
    modes = default_package().network().modes()
    np.testing.assert_allclose(modes.time_constants, constants[::-1], rtol=tol(2e-6, 1e-9))
    times = jnp.asarray(np.geomspace(1e-5, 1e3, 60))
    junction = jax.vmap(lambda t: modes.step(jnp.zeros(3), jnp.array([1.0, 0.0, 0.0]), t)[0])(times)
    foster = np.sum(resistances * -np.expm1(-np.asarray(times, float)[:, None] / constants), axis=1)
    np.testing.assert_allclose(junction, foster, atol=1e-6 * 1.0861, rtol=tol(3e-6, 1e-6))


def test_ladder_mode_gains_add_up_to_its_resistance():
    modes = Ladder().network().modes()
    gains = modes.shapes[0] * modes.inputs[:, 0] / modes.rates
    np.testing.assert_allclose(gains, [1.006, 0.0483, 0.0318], rtol=tol(1e-5, 1e-8))
    np.testing.assert_allclose(jnp.sum(gains), 1.0861, rtol=1e-6)


def test_shared_package_steady_state_by_hand():
    # 10 W on the first, 5 W on the second processor. Case: 15 W * 0.995703 = 14.935545; spreader + 15 * 0.0583064 = 15.810141;
    # first junction + 10 * 0.1 = 16.810141; second + 5 * 0.2 = 16.810141; third carries no power: 15.810141 K.
    package = SharedPackage(names=("a", "b", "c"), r_junction=[0.1, 0.2, 0.3], c_junction=0.01)
    theta = package.network().steady(jnp.array([10.0, 5.0, 0, 0, 0]))
    np.testing.assert_allclose(theta, [16.810141, 16.810141, 15.810141, 15.810141, 14.935545], rtol=1e-6)
    assert package.network().names == ("a", "b", "c", "spreader", "case")


def test_shared_package_with_one_processor_is_the_ladder():
    ladder = Ladder()
    package = SharedPackage(
        names=("only",),
        r_junction=ladder.r_junction_spreader,
        c_junction=ladder.c_junction,
        r_spreader=ladder.r_spreader_sink,
        c_spreader=ladder.c_spreader,
        r_ambient=ladder.r_sink_ambient,
        c_case=ladder.c_sink,
    )
    np.testing.assert_allclose(package.network().modes().rates, ladder.network().modes().rates, rtol=1e-6)


def test_shared_package_is_labelled_and_replaceable():
    package = SharedPackage(names=("a", "b"))
    assert labels(package) == ("r_junction", "c_junction", "r_spreader", "c_spreader", "r_ambient", "c_case")
    assert package.r_junction.shape == (2,)
    hotter = replace(package, {"r_ambient": 2.0, "r_junction": [0.1, 5.0]})
    assert hotter.network().steady(jnp.array([0, 1.0, 0, 0]))[1] > package.network().steady(jnp.array([0, 1.0, 0, 0]))[1]
    np.testing.assert_allclose(replace(package, {"r_junction": 0.3}).network().conductance[:2], 1 / 0.3, rtol=1e-6)


def test_identical_processors_heat_alike():
    theta = SharedPackage(names=tuple("abcd")).network().step(jnp.zeros(6), jnp.array([3.0, 3, 3, 3, 0, 0]), 0.1)
    np.testing.assert_allclose(theta[:4], theta[0], rtol=tol(1e-5, 1e-12))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ()}, "at least one processor"),
        ({"names": ("a", "b"), "r_junction": [1.0]}, r"r_junction has shape \(1,\), expected \(2,\)"),
        ({"names": ("a",), "r_ambient": -1.0}, r"SharedPackage.r_ambient = -1 K/W is outside its range"),
        ({"names": ("a",), "c_junction": float("nan")}, r"SharedPackage.c_junction = nan J/K is outside its range"),
    ],
)
def test_impossible_packages_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SharedPackage(**arguments)
