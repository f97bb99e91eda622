"""Leakage that grows with temperature: Lambert's W, the fold, margins and their derivatives, transients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import lambertw

from physics import Floorplan, HeatSinkPackage, Leakage, LeakyNetwork, ThermalNetwork, bounds, replace

X64 = jax.config.read("jax_enable_x64")
AMBIENT, SLOPE, DENSITY, REFERENCE = 318.15, 0.036, 1.5e4, 383.15
MM = 1e-3


def tol(single: float, double: float) -> float:
    return double if X64 else single


def one_node(resistance, area, capacitance=2.0) -> LeakyNetwork:
    parts = (jnp.atleast_1d(jnp.asarray(x, float)) for x in (capacitance, [], 1 / jnp.asarray(resistance), area))
    c, none, g, a = parts
    return LeakyNetwork(ThermalNetwork(c, none.reshape(0), g), Leakage(), a, AMBIENT)


def exact_rise(resistance, area, power):
    """T - T_a = R P - W(-b R L) / b with L the leakage at T_a + R P; NaN beyond the fold."""
    start = resistance * power
    x = SLOPE * resistance * DENSITY * area * np.exp(SLOPE * (AMBIENT + start - REFERENCE))
    with np.errstate(invalid="ignore"):
        rise = start - lambertw(-x).real / SLOPE
    return np.where(x <= 1 / np.e, rise, np.nan), x


@jax.jit
@jax.vmap
def solve_one(resistance, area, power):
    return one_node(resistance, area).steady(power[None])


def chip() -> Floorplan:
    return Floorplan.from_blocks(
        {
            "cache": (12 * MM, 4 * MM, 0, 0),
            "core0": (5 * MM, 6 * MM, 0, 4 * MM),
            "core1": (5 * MM, 6 * MM, 5 * MM, 4 * MM),
            "pim": (2 * MM, 6 * MM, 10 * MM, 4 * MM),
        }
    )


def leaky_chip(package: HeatSinkPackage, leakage: Leakage | None = None) -> LeakyNetwork:
    floorplan = chip()
    return LeakyNetwork(floorplan.network(package), leakage or Leakage(), floorplan.inject(floorplan.area), package.ambient)


POWER = np.append([3.0, 8.0, 6.0, 4.0], np.zeros(24))


@functools.cache
def by_convection():
    """Equilibrium of the chip as a function of its convection resistance, compiled once."""
    return jax.jit(lambda r: leaky_chip(HeatSinkPackage(r_convec=r)).steady(jnp.asarray(POWER)))


def test_one_node_against_lambert_w():
    """3000 nodes on both sides of the fold; close to it the rise is infinitely sensitive, so 2 % around it are left out."""
    rng = np.random.default_rng(0)
    resistance, area, power = 10 ** rng.uniform(-1, 1, 3000), 10 ** rng.uniform(-5, -3.5, 3000), rng.uniform(0, 25, 3000)
    rise, x = exact_rise(resistance, area, power)
    state = solve_one(*(jnp.asarray(v) for v in (resistance, area, power)))
    clear = (np.abs(x * np.e - 1) > 0.02) & ~(rise > 600)
    beyond = np.isnan(rise)
    assert 100 < beyond.sum() < 2000
    np.testing.assert_array_equal(np.asarray(state.runaway)[clear], beyond[clear])
    held = clear & ~beyond
    np.testing.assert_allclose(np.asarray(state.theta)[held, 0], rise[held], rtol=tol(5e-5, 1e-10))
    # margin = 1/R - b L(T)
    leak = DENSITY * area * np.exp(SLOPE * (AMBIENT + rise - REFERENCE))
    margin = 1 / resistance - SLOPE * leak
    np.testing.assert_allclose(np.asarray(state.margin)[held], margin[held], rtol=tol(1e-3, 1e-8), atol=tol(1e-5, 1e-12))
    assert np.all(np.asarray(state.margin)[beyond & clear] <= 0)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))
    assert np.all(np.asarray(state.theta) <= 1000 - AMBIENT + 1e-3)


def test_at_the_fold_the_rise_exceeds_the_linear_one_by_one_over_slope():
    # b R L(T_0) = 1/e: R = 2 K/W, P = 10 W, T_0 = 338.15 K: area = 1 / (e 0.036 * 2 * 1.5e4 exp(-1.62)) = 1.72125e-3 m2.
    resistance, power = 2.0, 10.0
    area = 1 / (np.e * SLOPE * resistance * DENSITY * np.exp(SLOPE * (AMBIENT + 20 - REFERENCE)))
    np.testing.assert_allclose(area, 1.72125e-3, rtol=1e-3)
    state = one_node(resistance, area * (1 - tol(1e-5, 1e-8))).steady(jnp.array([power]))
    assert not state.runaway
    np.testing.assert_allclose(state.theta[0], 20 + 1 / SLOPE, rtol=tol(5e-3, 2e-4))
    assert 0 < state.margin < 0.01
    assert one_node(resistance, area * 1.001).steady(jnp.array([power])).runaway


def test_derivatives_are_implicit():
    # dT/dP = R / (1 - b R L(T)): closed form from Lambert's equation.
    resistance, area = 2.0, 2e-4
    powers = np.linspace(1, 35, 50)
    rise, _ = exact_rise(resistance, area, powers)
    gain = SLOPE * resistance * DENSITY * area * np.exp(SLOPE * (AMBIENT + rise - REFERENCE))
    node = one_node(resistance, area)
    slopes = jax.jit(jax.vmap(jax.grad(lambda p: node.steady(p[None]).theta[0])))(jnp.asarray(powers))
    np.testing.assert_allclose(slopes, resistance / (1 - gain), rtol=tol(1e-4, 1e-9))


def test_without_leakage_the_network_is_linear():
    leaky = leaky_chip(HeatSinkPackage(), Leakage(density=0.0))
    state = leaky.steady(jnp.asarray(POWER))
    np.testing.assert_allclose(state.theta, leaky.network.steady(jnp.asarray(POWER)), rtol=tol(1e-5, 1e-11))
    smallest = np.linalg.eigvalsh(np.asarray(leaky.network.matrix(), float))[0]
    np.testing.assert_allclose(state.margin, smallest, rtol=tol(1e-3, 1e-8))
    assert not state.runaway and not np.any(state.leakage)


def reference_fold(power: np.ndarray) -> float:
    """Convection resistance at which the smallest eigenvalue reaches zero: bisection over a plain Newton iteration in NumPy."""
    floorplan = chip()
    area = np.append(np.asarray(floorplan.area, float), np.zeros(24))

    def holds(r: float) -> bool:
        g = np.asarray(floorplan.network(HeatSinkPackage(r_convec=r)).matrix(), float)
        theta = np.linalg.solve(g, power)
        for _ in range(200):
            leak = area * DENSITY * np.exp(SLOPE * (np.minimum(AMBIENT + theta, 1000) - REFERENCE))
            matrix = g - np.diag(SLOPE * leak)
            if np.linalg.eigvalsh(matrix)[0] <= 0:
                return False
            move = np.linalg.solve(matrix, power + leak - g @ theta)
            theta = theta + move
            if np.max(np.abs(move)) < 1e-9:
                return True
        return False

    low, high = 0.1, 20.0
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def test_fold_of_a_chip():
    """Runaway begins where an independent iteration says, and the margin falls to zero there."""
    fold = reference_fold(POWER)
    assert 1.0 < fold < 10.0
    for r, expected in ((0.999 * fold, False), (1.001 * fold, True)):
        assert bool(by_convection()(r).runaway) is expected
    margins = [float(by_convection()(fold * part).margin) for part in (0.3, 0.6, 0.9, 0.999)]
    assert np.all(np.diff(margins) < 0) and 0 < margins[-1] < 0.1 * margins[0]


def test_chip_in_equilibrium():
    """Energy: heat to ambient is power plus leakage. More of anything that heats means hotter, and closer to runaway."""
    leaky = leaky_chip(HeatSinkPackage(r_convec=1.0))
    state = by_convection()(1.0)
    released = jnp.sum(leaky.network.ambient_conductance * state.theta)
    np.testing.assert_allclose(released, POWER.sum() + state.leakage.sum(), rtol=tol(1e-5, 1e-10))
    expected = np.asarray(chip().area) * DENSITY * np.exp(SLOPE * (AMBIENT + np.asarray(state.theta)[:4] - REFERENCE))
    np.testing.assert_allclose(state.leakage[:4], expected, rtol=tol(1e-5, 1e-11))
    assert not np.any(state.leakage[4:])
    assert np.all(state.theta > leaky.network.steady(jnp.asarray(POWER)))
    slopes = jax.jit(jax.grad(lambda n, p: jnp.max(n.steady(p).theta), argnums=(0, 1)))(leaky, jnp.asarray(POWER))
    assert np.all(np.asarray(slopes[1])[:4] > 0) and np.all(np.asarray(slopes[0].area)[:4] > 0)
    assert slopes[0].leakage.density > 0 and slopes[0].leakage.temperature_ref < 0 and slopes[0].ambient > 0
    margins = jax.jit(jax.grad(lambda n, p: n.steady(p).margin, argnums=(0, 1)))(leaky, jnp.asarray(POWER))
    assert np.all(np.asarray(margins[1])[:4] < 0) and margins[0].leakage.density < 0 and margins[0].ambient < 0


@pytest.mark.skipif(not X64, reason="central differences need float64")
def test_gradients_against_central_differences():
    leaky, power = leaky_chip(HeatSinkPackage(r_convec=1.5)), jnp.asarray(POWER)

    def outcome(leaky):
        state = leaky.steady(power)
        after = leaky.rollout(state.theta / 2, jnp.stack([power, 2 * power]), 0.05, substeps=2)
        return jnp.sum(state.theta[:4]) + 1e4 * state.margin + jnp.sum(after[:, :4])

    value, slopes = jax.jit(outcome), jax.jit(jax.grad(outcome))(leaky)
    for label in ("leakage.density", "leakage.slope", "leakage.temperature_ref", "ambient", "area", "network.conductance"):
        at = functools.reduce(getattr, label.split("."), leaky)
        slope = functools.reduce(getattr, label.split("."), slopes)
        ends = [value(replace(leaky, {label: at * s})) for s in (1 + 1e-6, 1 - 1e-6)]
        np.testing.assert_allclose(jnp.sum(slope * at), (ends[0] - ends[1]) / 2e-6, rtol=1e-5, err_msg=label)


def test_gradients_are_finite_everywhere():
    """At the ends of every range of the law, also in runaway, where they are zero."""

    def outcome(leakage, power):
        state = leaky_chip(HeatSinkPackage(), leakage).steady(power)
        return jnp.sum(state.theta) + state.margin

    slopes = jax.jit(jax.value_and_grad(outcome, argnums=(0, 1)))
    for label, ends in bounds(Leakage()).items():
        for end in ends:
            leaves = jax.tree.leaves(slopes(dataclasses.replace(Leakage(), **{label: end}), jnp.asarray(POWER)))
            assert all(np.all(np.isfinite(leaf)) for leaf in leaves), (label, end)
    extremes = (Leakage(slope=0.2), Leakage(slope=0.2, temperature_ref=200.0, density=1e8))
    for steep in (*extremes, Leakage(slope=0.12, temperature_ref=250.0)):
        for scale in (1.0, 1e3):  # with and without runaway, and nodes that do not leak
            leaves = jax.tree.leaves(slopes(steep, scale * jnp.asarray(POWER)))
            assert all(np.all(np.isfinite(leaf)) for leaf in leaves), (steep, scale)
    _, (by_law, by_power) = slopes(Leakage(density=1e8), jnp.asarray(POWER))
    assert by_law.slope == 0 and not np.any(by_power)


def test_transients_against_an_ode_solver():
    leaky, dt, steps = one_node(2.0, 6e-4, capacitance=0.05), 0.02, 8
    power = jnp.asarray(np.linspace(5, 15, steps))[:, None]
    theta, expected = np.zeros(1), []
    for p in np.asarray(power, float):

        def flow(_, t, p=p):
            return (p - t / 2.0 + 6e-4 * DENSITY * np.exp(SLOPE * (AMBIENT + t - REFERENCE))) / 0.05

        theta = solve_ivp(flow, (0, dt), theta, method="LSODA", rtol=1e-10, atol=1e-10).y[:, -1]
        expected.append(theta)
    errors = [
        float(np.max(np.abs(leaky.rollout(jnp.zeros(1), power, dt, substeps=n) - np.stack(expected)))) for n in (1, 2, 4, 32)
    ]
    assert errors[0] < 0.05 and errors[-1] < tol(1e-4, 5e-5)
    if X64:
        assert 3.4 < errors[0] / errors[1] < 4.8 and 3.4 < errors[1] / errors[2] < 4.8


def test_transients_end_in_equilibrium_or_stay_finite():
    rollout = jax.jit(
        lambda r: leaky_chip(HeatSinkPackage(r_convec=r)).rollout(jnp.zeros(28), jnp.tile(jnp.asarray(POWER), (40, 1)), 30.0, 2)
    )
    np.testing.assert_allclose(rollout(1.0)[-1], by_convection()(1.0).theta, rtol=tol(1e-4, 1e-5))
    lost = rollout(20.0)
    assert np.all(np.isfinite(lost)) and np.max(lost) + AMBIENT > 1000


def test_batched_equals_single():
    resistances = jnp.array([0.1, 0.5, 1.0, 2.0])
    batched = jax.jit(jax.vmap(lambda r: leaky_chip(HeatSinkPackage(r_convec=r)).steady(jnp.asarray(POWER)).theta))(resistances)
    for r, theta in zip(resistances, batched, strict=True):
        np.testing.assert_allclose(by_convection()(r).theta, theta, rtol=tol(1e-5, 1e-10))


def test_impossible_leakage_is_refused():
    network = one_node(1.0, 1e-4).network
    with pytest.raises(ValueError, match=r"LeakyNetwork.area has shape \(2,\), expected \(1,\), one per node"):
        LeakyNetwork(network, Leakage(), [1e-4, 1e-4])
    with pytest.raises(ValueError, match=r"LeakyNetwork.area = -1 m2 is outside"):
        LeakyNetwork(network, Leakage(), [-1.0])
    with pytest.raises(ValueError, match=r"Leakage.slope = 2 1/K is outside its range \[0, 0.2\]"):
        Leakage(slope=2.0)
    with pytest.raises(ValueError, match=r"node 'node0' has no path to ambient"):
        LeakyNetwork(ThermalNetwork([1.0], [], [0.0]), Leakage(), [1e-4])
