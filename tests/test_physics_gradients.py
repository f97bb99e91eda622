"""Derivatives of thermal networks: right where eigenvectors have none, finite everywhere, refused where incomplete."""

from decimal import Decimal, getcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from physics import SharedPackage, ThermalNetwork
from physics.thermal.responses import divided_difference, phi, phi_slope

X64 = jax.config.read("jax_enable_x64")


def tol(single: float, double: float) -> float:
    return double if X64 else single


def grid(n: int = 8) -> ThermalNetwork:
    """Uniform n x n floorplan: many repeated rates."""
    links = [(i * n + j, i * n + j + 1) for i in range(n) for j in range(n - 1)]
    links += [(i * n + j, (i + 1) * n + j) for i in range(n - 1) for j in range(n)]
    return ThermalNetwork(np.full(n * n, 0.02), np.full(len(links), 1.5), np.full(n * n, 0.05), links)


def small() -> ThermalNetwork:
    """Four equal junctions on one spreader: a triple rate."""
    return SharedPackage(names=("a", "b", "c", "d"), r_junction=0.4, c_junction=0.02).network()


def by_expm(net: ThermalNetwork, theta, power, dt):
    """The same step through jax's matrix exponential of the augmented generator: an independent gradient."""
    n = net.capacitance.shape[0]
    block = jnp.zeros((n + 1, n + 1))
    block = block.at[:-1, :-1].set(-net.matrix() / net.capacitance[:, None]).at[:-1, -1].set(power / net.capacitance)
    return (jax.scipy.linalg.expm(block * dt) @ jnp.append(theta, 1.0))[:-1]


def relative(a, b):
    flat_a, flat_b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (a, b))
    return np.max(np.abs(flat_a - flat_b)) / np.max(np.abs(flat_b))


def test_uniform_grid_has_expms_gradient_where_eigh_has_none():
    net, rng = grid(), np.random.default_rng(0)
    theta, power, weights = (jnp.asarray(rng.uniform(0, s, 64)) for s in (30.0, 2.0, 1.0))

    def through(step):
        return jax.jit(jax.grad(lambda n, t, p, d: jnp.asarray(weights) @ step(n, t, p, d), argnums=(0, 1, 2, 3)))

    times = (1e-3, 0.05, 1.0)
    slopes = through(lambda n, t, p, d: n.step(t, p, d))
    ours = [slopes(net, theta, power, jnp.asarray(dt)) for dt in times]
    with jax.enable_x64(True):  # in float32 expm itself is off by 1e-3
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), (net, theta, power))
        weights, slopes = np.asarray(weights, np.float64), through(by_expm)
        reference = [slopes(*wide, jnp.asarray(dt)) for dt in times]
    for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True):
        assert relative(mine, theirs) < tol(1e-4, 1e-11)


def test_plain_decomposition_has_no_gradient_on_a_uniform_grid():
    """Why the divided differences are there."""

    def naive(n):
        root = jnp.sqrt(n.capacitance)
        w, v = jnp.linalg.eigh(n.matrix() / root[:, None] / root)
        return jnp.sum(v * jnp.exp(-w * 0.05) @ v.T)

    assert any(np.isnan(leaf).any() for leaf in jax.tree.leaves(jax.jit(jax.grad(naive))(grid())))


def test_gradients_are_finite_for_every_step_length():
    def outputs(net, theta, power, dt):
        modes = net.modes()
        parts = (modes.step, modes.mean, lambda *a: modes.maximum(*a).value)
        return sum(jnp.sum(part(theta, power, dt)) for part in parts)

    slopes = jax.jit(jax.grad(outputs, argnums=(0, 1, 2, 3)))
    for dt in (0.0, 1e-9, 1e-4, 1e-2, 1.0, 100.0, 1e6):
        for leaf in jax.tree.leaves(slopes(small(), jnp.linspace(1, 30, 6), jnp.ones(6), jnp.asarray(dt))):
            assert np.all(np.isfinite(leaf)), dt


def test_gradients_agree_with_finite_differences():
    with jax.enable_x64(True):  # differences need the digits; float32 gradients are compared with expm above
        net = small()
        theta, power, dt = jnp.linspace(1, 30, 6), jnp.array([10.0, 0, 4, 1, 0, 0]), jnp.asarray(0.03)
        trace = jnp.stack([power, 0.3 * power, jnp.zeros(6), power])

        def function(log_c, log_g, ambient, theta, power, dt):
            n = ThermalNetwork(jnp.exp(log_c), jnp.exp(log_g), jnp.zeros(6).at[-1].set(ambient), net.links)
            modes = n.modes()
            return [
                modes.step(theta, power, dt),
                modes.mean(theta, power, dt),
                modes.maximum(theta, power, dt).value,
                n.steady(power),
                modes.rollout(theta, trace * power[0], dt, parallel=True),
            ]

        arguments = (jnp.log(net.capacitance), jnp.log(net.conductance), net.ambient_conductance[-1], theta, power, dt)
        check_grads(jax.jit(function), arguments, order=1, modes=["rev"], rtol=1e-5, atol=1e-5, eps=1e-6)


def test_modes_computed_once_carry_the_networks_gradient():
    """The path of a hot loop: modes outside, many steps inside."""
    net, theta, power = small(), jnp.linspace(1, 30, 6), jnp.ones(6)

    def loop(n):
        modes = n.modes()
        return jnp.sum(jax.lax.fori_loop(0, 5, lambda _, t: modes.step(t, power, 0.01), theta) ** 2)

    def afresh(n):
        t = theta
        for _ in range(5):
            t = by_expm(n, t, power, 0.01)
        return jnp.sum(t**2)

    ours, reference = jax.jit(jax.grad(loop))(net), jax.jit(jax.grad(afresh))(net)
    for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True):
        assert relative(mine, theirs) < tol(3e-4, 1e-10)


def test_serial_and_parallel_rollouts_have_the_same_gradient():
    net, theta = small(), jnp.linspace(1, 30, 6)
    power = jnp.asarray(np.random.default_rng(2).uniform(0, 5, (64, 6)))

    def loss(parallel):
        return jax.grad(lambda n, t, p, d: jnp.sum(n.rollout(t, p, d, parallel=parallel) ** 2), argnums=(0, 1, 2, 3))

    serial, parallel = (jax.jit(loss(flag))(net, theta, power, jnp.asarray(0.01)) for flag in (False, True))
    for a, b in zip(jax.tree.leaves(serial), jax.tree.leaves(parallel), strict=True):
        assert relative(a, b) < tol(1e-4, 1e-11)


def test_gradient_reaches_the_labelled_parameters_of_a_package():
    package = SharedPackage(names=("cpu", "pim"))
    slopes = jax.jit(jax.grad(lambda p: p.network().step(jnp.zeros(4), jnp.array([10.0, 0, 0, 0]), 5.0)[0]))(package)
    assert slopes.r_junction[0] > 0 and slopes.r_spreader > 0  # more resistance towards ambient: hotter
    assert slopes.c_junction[0] < 0 and slopes.c_spreader < 0  # more heat capacity: heats more slowly
    assert abs(slopes.r_junction[1]) < abs(slopes.r_junction[0]) / 100


def test_gradients_vmap_over_networks():
    @jax.jit
    def slope(c):
        return jax.grad(lambda n: jnp.sum(n.step(jnp.ones(2), jnp.ones(2), 0.1)))(
            ThermalNetwork(c * jnp.ones(2), jnp.ones(1), jnp.ones(2), [(0, 1)])
        ).capacitance

    scales = jnp.array([0.1, 1.0, 10.0])
    np.testing.assert_allclose(jax.vmap(slope)(scales), np.stack([slope(s) for s in scales]), rtol=tol(1e-4, 1e-10), atol=1e-6)


def test_second_derivatives_in_state_and_power_exist_and_those_in_the_network_are_refused():
    net, theta, power = small(), jnp.ones(6), jnp.ones(6)

    def loss(n, t, p):
        return jnp.sum(n.step(t, p, 0.1) ** 3)

    hessian = jax.jit(jax.hessian(loss, argnums=1))(net, theta, power)
    assert np.all(np.isfinite(hessian)) and np.any(np.asarray(hessian) != 0)
    with pytest.raises(NotImplementedError, match="second derivatives with respect to a thermal network"):
        jax.jit(jax.grad(lambda n: jnp.sum(jax.grad(loss)(n, theta, power).conductance)))(net)


def test_phi_functions_by_hand():
    # phi_1(2) = (1 - e^-2) / 2 = 0.43233236; phi_2(2) = (2 - 1 + e^-2) / 4 = 0.28383382; phi_1(0) = 1, phi_2(0) = 1/2.
    np.testing.assert_allclose(phi(1, jnp.array([0.0, 2.0])), [1.0, 0.43233236], rtol=1e-6)
    np.testing.assert_allclose(phi(2, jnp.array([0.0, 2.0])), [0.5, 0.28383382], rtol=1e-6)
    # phi_1'(0) = -1/2, phi_2'(0) = -1/6.
    np.testing.assert_allclose([phi_slope(1, jnp.zeros(())), phi_slope(2, jnp.zeros(()))], [-0.5, -1 / 6], rtol=1e-6)


@pytest.mark.parametrize("order", [1, 2])
def test_divided_differences_over_many_scales(order):
    """Against the definition in 60 digits, for arguments equal, close and far apart, over eleven decades."""
    rng = np.random.default_rng(3)
    a = np.concatenate([10 ** rng.uniform(-8, 3, 300), [0.5, 1.0, 3.0, 0.0]])
    b = np.concatenate([a[:150] * (1 + 10 ** rng.uniform(-7, 0, 150)), 10 ** rng.uniform(-8, 3, 150), [0.5, 1.0, 3.0, 2.0]])
    a, b = np.asarray(jnp.asarray(a), float), np.asarray(jnp.asarray(b), float)  # as the working precision holds them
    expected = [float(exact_difference(order, Decimal(p), Decimal(q))) for p, q in zip(a, b, strict=True)]
    found = divided_difference(order, jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(found, expected, rtol=tol(1e-5, 1e-13))


def exact_difference(order: int, a: Decimal, b: Decimal) -> Decimal:
    getcontext().prec = 80

    def value(x: Decimal) -> Decimal:
        if x == 0:
            return Decimal(1) / order
        first = (1 - (-x).exp()) / x
        return first if order == 1 else (1 - first) / x

    if a == b:
        b = a + Decimal("1e-25")
    return (value(a) - value(b)) / (a - b)
