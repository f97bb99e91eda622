"""Thermal networks: exact steps, the properties every passive network has, and precision in float32."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from physics import ThermalNetwork

X64 = jax.config.read("jax_enable_x64")
LINKS = ((0, 1), (1, 2), (0, 2), (2, 3), (3, 4))  # a triangle with a tail, so that heat has more than one way
N, BATCH = 5, 2000


def tol(single: float, double: float) -> float:
    return double if X64 else single


def random_leaves(seed: int, batch: int = BATCH):
    """Leaves of many networks with heat capacities over five decades and conductances over four."""
    rng = np.random.default_rng(seed)
    capacitance = 10 ** rng.uniform(-3, 2, (batch, N))
    conductance = 10 ** rng.uniform(-2, 2, (batch, len(LINKS)))
    ambient = 10 ** rng.uniform(-2, 1, (batch, N)) * (rng.random((batch, N)) < 0.4)
    ambient[:, 4] = 10 ** rng.uniform(-2, 1, batch)
    return tuple(jnp.asarray(a) for a in (capacitance, conductance, ambient))


def network(capacitance, conductance, ambient) -> ThermalNetwork:
    return ThermalNetwork(capacitance, conductance, ambient, LINKS)


@functools.cache
def random_modes(seed: int):
    return jax.jit(jax.vmap(lambda leaf: network(*leaf).modes()))(random_leaves(seed))


def over_networks(function, seed: int = 0):
    """`function(network, modes, theta, power)` for every random network."""
    rng = np.random.default_rng(seed + 100)
    theta = jnp.asarray(rng.uniform(-20, 80, (BATCH, N)))
    power = jnp.asarray(rng.uniform(0, 30, (BATCH, N)))
    batched = jax.jit(jax.vmap(lambda leaf, modes, t, p: function(network(*leaf), modes, t, p)))
    return batched(random_leaves(seed), random_modes(seed), theta, power)


def matrix_in_float64(net: ThermalNetwork):
    g = np.diag(np.asarray(net.ambient_conductance, float))
    for (i, j), value in zip(net.links, np.asarray(net.conductance, float), strict=True):
        g[[i, j], [i, j]] += value
        g[[i, j], [j, i]] -= value
    return g


def exact_step(net: ThermalNetwork, theta, power, dt):
    """Reference in float64 by the matrix exponential of the augmented generator [[A, b], [0, 0]]."""
    c, g = np.asarray(net.capacitance, float), matrix_in_float64(net)
    block = np.zeros((len(c) + 1, len(c) + 1))
    block[:-1, :-1], block[:-1, -1] = -g / c[:, None], np.asarray(power, float) / c
    return (scipy.linalg.expm(block * dt) @ np.append(np.asarray(theta, float), 1.0))[:-1]


def one_node() -> ThermalNetwork:
    return ThermalNetwork(jnp.array([2.0]), jnp.zeros(0), jnp.array([0.5]))


def test_one_node_by_hand():
    # C = 2 J/K, g = 0.5 W/K: rate 0.25 1/s. From 10 K with 3 W: steady 3 / 0.5 = 6 K,
    # after 4 s: 6 + (10 - 6) exp(-1) = 7.4715178 K; mean over the step: 6 + 4 (1 - exp(-1)) / 1 = 8.5284822 K.
    modes = one_node().modes()
    theta, power = jnp.array([10.0]), jnp.array([3.0])
    np.testing.assert_allclose(modes.rates, [0.25], rtol=1e-6)
    np.testing.assert_allclose(modes.step(theta, power, 4.0), [7.4715178], rtol=1e-6)
    np.testing.assert_allclose(modes.mean(theta, power, 4.0), [8.5284822], rtol=1e-6)
    np.testing.assert_allclose(one_node().steady(power), [6.0], rtol=1e-6)


def test_two_nodes_matrix_by_hand():
    # Link 2 W/K, ambient 0 and 3 W/K: G = [[2, -2], [-2, 5]]; G^-1 = 1/6 [[5, 2], [2, 2]].
    net = ThermalNetwork(jnp.ones(2), jnp.array([2.0]), jnp.array([0.0, 3.0]), [(0, 1)])
    np.testing.assert_allclose(net.matrix(), [[2, -2], [-2, 5]])
    np.testing.assert_allclose(net.resistance(), np.array([[5, 2], [2, 2]]) / 6, rtol=1e-6)


@pytest.mark.parametrize("dt", [1e-4, 1e-2, 1.0, 30.0])
def test_step_agrees_with_the_matrix_exponential(dt):
    worst = 0.0
    for seed in range(20):
        leaves = jax.tree.map(lambda a: a[0], random_leaves(seed, 1))
        net = network(*leaves)
        theta = jnp.linspace(-10.0, 40.0, N)
        power = jnp.array([10.0, 0.0, 3.0, 0.0, 1.0])
        exact = exact_step(net, theta, power, dt)
        worst = max(worst, np.max(np.abs(net.step(theta, power, dt) - exact)) / max(40.0, np.max(np.abs(exact))))
    assert worst < tol(2e-6, 1e-9)  # relative to the largest rise; float64: limited by expm at large norms


def test_conductance_matrix_is_symmetric_with_ambient_row_sums():
    g, ambient = over_networks(lambda net, modes, t, p: (net.matrix(), net.ambient_conductance))
    np.testing.assert_array_equal(g, np.swapaxes(g, 1, 2))
    scale = np.max(np.abs(g), axis=(1, 2))
    np.testing.assert_allclose((g.sum(-1) - ambient) / scale[:, None], 0, atol=1e-6)
    off_diagonal = np.asarray(g) * (1 - np.eye(N))
    assert np.all(off_diagonal <= 0)


def test_rates_are_positive_and_the_shapes_mass_orthonormal():
    modes, c = over_networks(lambda net, modes, t, p: (modes, net.capacitance))
    assert np.all(np.asarray(modes.rates) > 0)
    assert np.all(np.diff(modes.rates, axis=1) >= 0)
    gram = np.einsum("bik,bi,bil->bkl", modes.shapes, c, modes.shapes)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(N), gram.shape), atol=tol(2e-6, 1e-14))


def test_propagator_obeys_the_maximum_principle():
    """Ad >= 0 entrywise, row sums <= 1: without power nothing gets hotter than the hottest or colder than ambient."""

    def propagator(net, modes, theta, power):
        return jax.vmap(lambda e: modes.step(e, jnp.zeros(N), 0.3))(jnp.eye(N)).T

    ad = over_networks(propagator)
    assert np.min(ad) > -tol(1e-6, 1e-13)
    assert np.max(ad.sum(-1)) < 1 + tol(1e-6, 1e-13)


def test_heating_is_never_negative():
    theta = over_networks(lambda net, modes, t, p: modes.step(jnp.zeros(N), p, 0.3))
    assert np.min(theta) > -tol(1e-5, 1e-12)


def test_superposition():
    def parts(net, modes, theta, power):
        zero = jnp.zeros(N)
        both = modes.step(theta, power, 0.2)
        return both, modes.step(theta, zero, 0.2) + modes.step(zero, power, 0.2)

    both, summed = over_networks(parts)
    np.testing.assert_allclose(both, summed, atol=tol(3e-4, 1e-11), rtol=tol(1e-5, 1e-12))


def test_reciprocity_at_steady_state():
    r = over_networks(lambda net, modes, t, p: net.resistance())
    np.testing.assert_allclose(r, np.swapaxes(r, 1, 2), rtol=tol(2e-5, 1e-12))
    assert np.all(np.asarray(r) > 0)


def test_modes_and_cholesky_give_the_same_resistance():
    def both(net, modes, theta, power):
        return net.resistance(), modes.shapes @ jnp.diag(1 / modes.rates) @ modes.shapes.T

    solved, summed = over_networks(both)
    scale = np.max(solved, axis=(1, 2), keepdims=True)
    assert np.max(np.abs(solved - summed) / scale) < tol(1e-5, 1e-12)


def test_two_half_steps_make_one():
    def both(net, modes, theta, power):
        return modes.step(theta, power, 0.5), modes.step(modes.step(theta, power, 0.25), power, 0.25)

    whole, halves = over_networks(both)
    np.testing.assert_allclose(whole, halves, rtol=tol(1e-5, 1e-12), atol=tol(1e-4, 1e-11))


def test_limits_of_the_step():
    def limits(net, modes, theta, power):
        return modes.step(theta, power, 0.0), modes.step(theta, power, 1e7), net.steady(power), theta

    start, end, steady, theta = over_networks(limits)
    np.testing.assert_array_equal(start, theta)
    hottest = np.max(steady, axis=1, keepdims=True)
    assert np.max(np.abs(end - steady) / hottest) < tol(5e-6, 1e-12)


def test_energy_is_conserved():
    balance = over_networks(lambda net, modes, t, p: net.energy(t, p, 0.7))
    scale = np.abs(balance.supplied) + np.abs(balance.stored) + np.abs(balance.released)
    assert np.max(np.abs(balance.supplied - balance.stored - balance.released) / scale) < tol(1e-5, 1e-13)


def test_heat_to_ambient_equals_power_at_steady_state():
    released, supplied = over_networks(lambda net, modes, t, p: (jnp.sum(net.ambient_conductance * net.steady(p)), jnp.sum(p)))
    np.testing.assert_allclose(released, supplied, rtol=tol(5e-6, 1e-13))


def test_more_conductance_means_less_heat_and_more_power_more():
    """Signs of the derivatives of the hottest node at steady state, by reverse mode."""

    def slopes(net, modes, theta, power):
        return jax.grad(lambda n, p: jnp.max(n.steady(p)), argnums=(0, 1))(net, power)

    by_network, by_power = over_networks(slopes)
    assert np.all(np.asarray(by_network.ambient_conductance) <= 0)
    assert np.all(np.asarray(by_power) >= 0)
    assert np.all(np.asarray(by_network.capacitance) == 0)


def test_total_heat_never_rises_when_a_link_is_widened():
    """sum_i P_i theta_i = theta' G theta falls with every conductance (Rayleigh's monotonicity law)."""
    slopes = over_networks(lambda net, modes, t, p: jax.grad(lambda n: jnp.sum(p * n.steady(p)))(net))
    scale = np.max(np.abs(slopes.conductance))
    assert np.max(slopes.conductance) <= 1e-6 * scale


def test_names_do_not_matter_only_the_network_does():
    order = np.array([3, 0, 4, 1, 2])  # new node k is old node order[k]
    where = np.argsort(order)
    c, g, a = (leaf[0] for leaf in random_leaves(3, 1))
    theta, power = jnp.linspace(0, 30, N), jnp.linspace(5, 0, N)
    shuffled = ThermalNetwork(c[order], g, a[order], [(where[i], where[j]) for i, j in LINKS])
    np.testing.assert_allclose(
        shuffled.step(theta[order], power[order], 0.1), network(c, g, a).step(theta, power, 0.1)[order], rtol=tol(2e-5, 1e-11)
    )


def test_scaling_of_units():
    """C and G scaled alike leave rates alone; time scales with C."""
    c, g, a = (leaf[0] for leaf in random_leaves(4, 1))
    theta, power = jnp.linspace(0, 30, N), jnp.linspace(5, 0, N)
    base = network(c, g, a).step(theta, power, 0.1)
    np.testing.assert_allclose(network(7 * c, 7 * g, 7 * a).step(theta, 7 * power, 0.1), base, rtol=tol(2e-5, 1e-11))
    np.testing.assert_allclose(network(7 * c, g, a).step(theta, power, 0.7), base, rtol=tol(2e-5, 1e-11))


def test_batched_equals_single():
    batched = over_networks(lambda net, modes, t, p: modes.step(t, p, 0.1))
    rng = np.random.default_rng(100)
    theta, power = rng.uniform(-20, 80, (BATCH, N)), rng.uniform(0, 30, (BATCH, N))
    leaves = random_leaves(0)
    for i in (0, 17, 1999):
        single = network(*(leaf[i] for leaf in leaves)).step(jnp.asarray(theta[i]), jnp.asarray(power[i]), 0.1)
        np.testing.assert_allclose(batched[i], single, rtol=tol(2e-5, 1e-11), atol=tol(1e-4, 1e-11))


def stiff_chain(nodes: int = 12) -> ThermalNetwork:
    """Rates over twelve decades: a plain eigenvalue solver in float32 gets the slow ones wrong altogether."""
    capacitance = np.where(np.arange(nodes) % 2, 1e-5, 10.0)
    links = [(i, i + 1) for i in range(nodes - 1)]
    return ThermalNetwork(capacitance, np.geomspace(1e3, 1e2, nodes - 1), 0.01 * (np.arange(nodes) == nodes - 1), links)


def test_slow_rates_of_a_stiff_network_are_relatively_accurate():
    net = stiff_chain()
    c, g = np.asarray(net.capacitance, float), np.asarray(net.conductance, float)
    # Resistances of a chain in closed form: R_ij is the series resistance from max(i, j) to ambient. Its slowest time constants
    # are the largest eigenvalues of sqrt(C) R sqrt(C), which float64 gives to full relative precision.
    series = np.cumsum(np.append(1 / np.asarray(net.ambient_conductance, float)[-1], 1 / g[::-1]))[::-1]
    r = series[np.maximum.outer(np.arange(len(c)), np.arange(len(c)))]
    slow = np.linalg.eigvalsh(np.sqrt(c)[:, None] * r * np.sqrt(c))[::-1][:4]
    np.testing.assert_allclose(net.modes().time_constants[:4], slow, rtol=tol(2e-6, 1e-10))
    np.testing.assert_allclose(net.resistance(), r, rtol=tol(2e-6, 1e-13))
    if not X64:
        root = np.sqrt(c)
        plain = np.linalg.eigvalsh((matrix_in_float64(net) / root / root[:, None]).astype(np.float32))[0]
        assert abs(plain * slow[0] - 1) > 1e-4  # what the polishing is for


def test_short_steps_do_not_drift():
    """Many short steps equal one long one: each makes an error of its own change only, not of the temperature."""
    net = stiff_chain(5)
    modes = net.modes()
    power = jnp.array([1.0, 0.0, 2.0, 0.0, 0.0])
    start = net.steady(power) * 0.5
    steps = 1000
    walked = jax.jit(lambda t: jax.lax.fori_loop(0, steps, lambda _, t: modes.step(t, power, 1e-3), t))(start)
    np.testing.assert_allclose(walked, modes.step(start, power, 1e-3 * steps), rtol=tol(3e-5, 1e-11))


@pytest.mark.parametrize("parallel", [False, True])
def test_rollout_equals_repeated_steps(parallel):
    net = network(*(leaf[0] for leaf in random_leaves(8, 1)))
    power = jnp.asarray(np.random.default_rng(1).uniform(0, 20, (200, N)))
    theta = jnp.linspace(0, 10, N)
    trace = jax.jit(lambda t: net.rollout(t, power, 0.01, parallel=parallel))(theta)
    modes, expected = net.modes(), []
    step = jax.jit(lambda t, p: modes.step(t, p, 0.01))
    for p in power:
        theta = step(theta, p)
        expected.append(theta)
    np.testing.assert_allclose(trace, np.stack(expected), rtol=tol(3e-5, 1e-11), atol=tol(1e-4, 1e-11))


def test_mean_is_the_average_of_a_finely_sampled_step():
    net = network(*(leaf[0] for leaf in random_leaves(9, 1)))
    theta, power, dt = jnp.linspace(40, 0, N), jnp.array([20.0, 0, 0, 5, 0]), 0.5
    modes = net.modes()
    x, w = np.polynomial.legendre.leggauss(40)
    pieces = np.concatenate([[0.0], dt * 2.0 ** np.arange(-16, 1)])  # graded panels for the fast modes
    total = 0.0
    for a, b in itertools.pairwise(pieces):
        samples = jax.vmap(lambda s: modes.step(theta, power, s))(jnp.asarray(a + (b - a) * (x + 1) / 2))
        total = total + (b - a) / 2 * (w @ np.asarray(samples, float))
    np.testing.assert_allclose(modes.mean(theta, power, dt), total / dt, rtol=tol(1e-5, 1e-9), atol=1e-5)


def test_mean_of_a_vanishing_step_is_the_start():
    modes = network(*(leaf[0] for leaf in random_leaves(9, 1))).modes()
    theta, power = jnp.linspace(40, 0, N), jnp.ones(N)
    np.testing.assert_allclose(modes.mean(theta, power, 0.0), theta)
    np.testing.assert_allclose(modes.mean(theta, power, 1e-12), theta, rtol=1e-6, atol=1e-6)


def test_maximum_brackets_the_true_maximum():
    """Cold junction beside hot neighbours: it overshoots inside the step. The dense search lies inside the stated bracket."""

    def bracket(net, modes, theta, power):
        dt = 2.0
        found = modes.maximum(theta, power, dt)
        times = jnp.concatenate([jnp.zeros(1), dt * jnp.exp(-jnp.linspace(0.0, 14.0, 400))])
        dense = jnp.max(jax.vmap(lambda t: modes.step(theta, power, t))(times), axis=0)
        ends = jnp.maximum(theta, modes.step(theta, power, dt))
        return found.value, found.error, dense, ends

    value, error, dense, ends = over_networks(bracket)
    slack = tol(2e-4, 1e-9)
    assert np.all(value >= ends - slack)
    assert np.all(value <= dense + np.abs(dense) * 2e-3 + slack)
    assert np.all(dense <= value + error + slack)
    assert np.mean(dense > ends + 0.1) > 0.05  # the case is not trivial: interior maxima happen


def test_maximum_is_exact_where_the_step_is_monotone():
    net = one_node()
    heating = net.maximum(jnp.array([0.0]), jnp.array([3.0]), 2.0)
    np.testing.assert_allclose(heating.value, net.step(jnp.array([0.0]), jnp.array([3.0]), 2.0), rtol=1e-6)
    cooling = net.maximum(jnp.array([10.0]), jnp.array([3.0]), 2.0)
    np.testing.assert_allclose(cooling.value, [10.0])


def test_changed_values_do_not_retrace():
    traces = 0

    @jax.jit
    def advance(net, theta, power, dt):
        nonlocal traces
        traces += 1
        return net.step(theta, power, dt)

    for k in range(1, 4):
        net = ThermalNetwork([0.1 * k, 2], [k], [0, 1], [(0, 1)])
        advance(net, jnp.zeros(2), jnp.ones(2), jnp.asarray(0.1 * k)).block_until_ready()
    assert traces == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"capacitance": [1.0, -1.0]}, r"capacitance = -1 J/K is outside"),
        ({"capacitance": [1.0, 0.0]}, r"capacitance = 0 J/K is outside"),
        ({"conductance": [-2.0]}, r"conductance = -2 W/K is outside"),
        ({"conductance": [float("nan")]}, r"conductance = nan W/K is outside"),
        ({"ambient_conductance": [0.0, float("inf")]}, r"ambient_conductance = inf W/K is outside"),
        ({"ambient_conductance": [0.0, 0.0]}, r"node 'hot' has no path to ambient"),
        ({"conductance": [0.0]}, r"node 'hot' has no path to ambient"),
        ({"conductance": [1.0, 1.0]}, r"conductance has shape \(2,\), expected \(1,\)"),
        ({"links": [(0, 2)]}, r"\(0, 2\) does not join two of the nodes"),
        ({"links": [(1, 1)]}, r"\(1, 1\) does not join two of the nodes"),
    ],
)
def test_impossible_networks_are_refused(changes, message):
    arguments = {
        "capacitance": [1.0, 2.0],
        "conductance": [3.0],
        "ambient_conductance": [0.0, 1.0],
        "links": [(0, 1)],
        "names": ("hot", "cold"),
    }
    with pytest.raises(ValueError, match=message):
        ThermalNetwork(**(arguments | changes))
