"""What is analog in a crossbar: IR drop, noise and its statistics, read disturb."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.stats import norm

from physics import Adc, CrossbarCells, ReadDisturb, load_mapping, program_crossbar
from physics.crossbar.ladder import column_conductance
from physics.crossbar.noise import clipped_moments, correlated_normal, normal_of_bits, standard_normal

X64 = jax.config.read("jax_enable_x64")


def tol(single: float, double: float) -> float:
    return double if X64 else single


def line(rows: int, columns: int, batch: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.2, 1.2, (rows, columns)), rng.integers(0, 2, (batch, rows)).astype(float)


def node_potentials(c, v, wire):
    """Conductance of each column by Kirchhoff's laws: one linear system for the nodes of each line."""
    found = np.empty((len(v), c.shape[1]))
    for b, drive in enumerate(v):
        for m in range(c.shape[1]):
            g, links = c[:, m] * drive, np.full(len(c), 1 / wire)
            matrix = np.diag(g + links) + np.diag(np.r_[0, links[:-1]])
            matrix -= np.diag(links[:-1], 1) + np.diag(links[:-1], -1)
            found[b, m] = np.linalg.solve(matrix, g)[-1] / wire
    return found


@pytest.mark.parametrize("method", ["scan", "tree"])
@pytest.mark.parametrize("wire", [1e-3, 0.3])
def test_ladder_obeys_kirchhoff(method, wire):
    c, v = line(13, 5, 6)
    found = column_conductance(jnp.asarray(c), jnp.asarray(v), wire, method=method)
    np.testing.assert_allclose(found, node_potentials(c, v, wire), rtol=tol(2e-6, 1e-12), atol=1e-12)


@pytest.mark.parametrize("method", ["scan", "tree"])
def test_ladder_limits(method):
    c, v = (jnp.asarray(a) for a in line(50, 300, 70))
    solve = jax.jit(lambda wire, trailing=0: column_conductance(c, v, wire, trailing, method), static_argnums=1)
    ideal = np.asarray(v @ c)
    np.testing.assert_allclose(solve(0.0), ideal, rtol=tol(1e-5, 1e-13))
    previous = ideal
    for wire in (1e-4, 1e-2, 1.0):  # more resistance, less current; never more than one segment lets through
        present = np.asarray(solve(wire))
        assert np.all(present < previous) and np.all(present < 1 / wire)
        previous = present
    # Unused rows next to the amplifier are wire alone: 1/g grows by 3 * 0.01.
    np.testing.assert_allclose(1 / solve(0.01, 3), 1 / solve(0.01) + 0.03, rtol=tol(1e-5, 1e-12))


def test_ladder_of_uniform_cells_loses_the_first_order_share():
    # n = 40 ON cells of g w = 1e-6: first order loss of the current is w g (n + 1)(2 n + 1) / 6 = 41 * 81 / 6 * 1e-6 = 5.535e-4.
    near = column_conductance(jnp.ones((40, 1)), jnp.ones((1, 40)), 1e-6)
    np.testing.assert_allclose(1 - near[0, 0] / 40, 5.535e-4, rtol=tol(2e-3, 2e-3))


@pytest.mark.parametrize("wire", [0.0, 0.02])
def test_ladder_gradients(wire):
    """The closed form of the scan's backward pass against automatic differentiation of the tree, and both against differences."""
    c, v = line(10, 3, 130)

    def total(method, c, wire):
        return jnp.sum(jnp.sin(column_conductance(c, jnp.asarray(v, c.dtype), wire, 2, method)))

    slopes = [jax.jit(jax.grad(total, (1, 2)), static_argnums=0)(m, jnp.asarray(c), jnp.asarray(wire)) for m in ("scan", "tree")]
    for scan, tree in zip(*slopes, strict=True):
        np.testing.assert_allclose(scan, tree, rtol=tol(1e-4, 1e-10), atol=tol(3e-4, 1e-10))
    with jax.enable_x64(True):
        arguments = (jnp.asarray(c, jnp.float64), jnp.asarray(0.02, jnp.float64))
        check_grads(jax.jit(lambda c, w: total("scan", c, w)), arguments, order=1, modes=["rev"], rtol=1e-5)


def test_extreme_wires_stay_finite():
    """Each row's Moebius map may grow by 1 + w c; 1000 rows of it do not overflow."""
    c, v = (jnp.asarray(a) for a in line(1000, 4, 3))
    for wire in (1.0, 10.0):
        near, slope = jax.value_and_grad(lambda c, w=wire: jnp.sum(column_conductance(c, v, w)))(c)
        assert np.isfinite(near) and np.all(np.isfinite(slope))


def test_fast_normal_numbers_are_normal():
    z = np.asarray(standard_normal(jax.random.key(0), (1_000_000,), jnp.float32), np.float64)
    moments = [np.mean(z**k) for k in (1, 2, 3, 4)]
    for found, exact, variance in zip(moments, (0, 1, 0, 3), (1, 2, 15, 96), strict=True):
        assert abs(found - exact) < 3 * np.sqrt(variance / z.size)
    for limit in (1.0, 3.0, 4.0):
        chance = 2 * norm.sf(limit)
        assert abs(np.mean(np.abs(z) > limit) - chance) < 3 * np.sqrt(chance / z.size)


def test_extreme_bits_give_finite_normal_numbers():
    extremes = normal_of_bits(jnp.array([0, 2**32 - 1, 2**31, 2**31 - 1], jnp.uint32))
    np.testing.assert_allclose(extremes[:2], [-5.29, 5.29], atol=0.02)
    np.testing.assert_array_equal(extremes[2:], -extremes[3:1:-1])


def test_clipped_moments_by_integration():
    mean, sigma = np.meshgrid(np.linspace(-2.0, 6.0, 9), [0.3, 1.0, 4.0])
    z, dz = np.linspace(-9, 9, 200_001, retstep=True)
    draws = np.maximum(mean[..., None] + sigma[..., None] * z, 0) * norm.pdf(z) * dz
    first = draws.sum(-1)
    second = (np.maximum(mean[..., None] + sigma[..., None] * z, 0) ** 2 * norm.pdf(z) * dz).sum(-1) - first**2
    found = clipped_moments(jnp.asarray(mean), jnp.asarray(sigma))
    np.testing.assert_allclose(found[0], first, atol=tol(3e-6, 1e-8))
    np.testing.assert_allclose(found[1], second, atol=tol(2e-5, 1e-8))
    still = clipped_moments(jnp.array([-1.0, 2.0]), jnp.zeros(2))
    np.testing.assert_array_equal(still, [[0.0, 2.0], [0.0, 0.0]])


def test_published_statistics_of_clipped_programming_noise():
    """CIM-Explorer, 5/30 uA, HRS sigma 4 uA: HRS mean 5.20, deviation 3.65, 10.9 % at zero; LRS unclipped."""
    cells = CrossbarCells.from_currents(5e-6, 30e-6, 0.2, program_noise=(4e-6, 4e-6))
    w = np.random.default_rng(0).choice([-1, 1], (256, 256))
    crossbar = program_crossbar(w, load_mapping("BNN_I"), cells, jax.random.key(0), columns=512)
    current = np.asarray(crossbar.conductance, np.float64)[0] * 0.2e6
    told = np.asarray(crossbar.level)[0]
    low, high = current[told == 0], current[told == 1]
    # exact: mean 5 Phi(1.25) + 4 phi(1.25) = 4.47175 + 0.73060 = 5.2024; Phi(-1.25) = 0.10565 at zero
    assert abs(low.mean() - 5.2024) < 3 * 3.65 / np.sqrt(low.size)
    assert abs(np.mean(low < 1e-6) - 0.10565) < 3 * np.sqrt(0.10565 * 0.894 / low.size)
    assert abs(low.std() / 3.65 - 1) < 0.01
    assert abs(high.mean() - 30) < 3 * 4 / np.sqrt(high.size) and abs(high.std() / 4 - 1) < 3 / np.sqrt(2 * high.size)


def errors(noise: str, read: tuple[float, float], draws: int, name: str = "BNN_I"):
    """Read noise in the products of one input, (draws, outputs): in units of the result."""
    rng = np.random.default_rng(1)
    w, x = rng.choice([-1, 1], (64, 40)), rng.choice([-1, 1], 64)
    cells = CrossbarCells.from_currents(5e-6, 30e-6, 0.2, read_noise=read)
    crossbar = program_crossbar(w, load_mapping(name), cells)
    many = jnp.broadcast_to(jnp.asarray(x), (draws, 64))
    noisy = jax.jit(lambda c, k: c.mvm(many, Adc.ideal(), k, noise=noise))(crossbar, jax.random.key(5))
    return np.asarray(noisy, np.float64) - x @ w, x, w


@pytest.mark.parametrize("noise", ["cell", "column"])
def test_read_noise_of_a_product_by_hand(noise):
    """Deviation (2 / 25 uA) sqrt(n_active (s_L^2 + s_H^2)) without clipping; independent between products and outputs."""
    found, x, _ = errors(noise, (0.5e-6, 4e-6), 1000)
    exact = 2 / 25 * np.sqrt((x > 0).sum() * (4.0**2 + 0.5**2))
    assert abs(found.std() / exact - 1) < 3 / np.sqrt(2 * found.size)
    assert abs(found.mean()) < 3 * exact / np.sqrt(found.size)
    assert np.abs(np.corrcoef(found[:, :8].T) - np.eye(8)).max() < 4.5 / np.sqrt(1000)


@pytest.mark.parametrize("name", ["BNN_III", "TNN_II", pytest.param("I_TC_W_DIFF", marks=pytest.mark.slow)])
def test_column_noise_has_the_moments_of_cell_noise(name):
    """Also where cells clip, and where several passes read the same cells."""
    size = 1500
    (cell, *_), (column, *_) = (errors(noise, (6e-6, 8e-6), size, name) for noise in ("cell", "column"))
    deviation = cell.std(0)
    assert np.all(np.abs(column.mean(0) - cell.mean(0)) < 4.5 * deviation * np.sqrt(2 / size))
    assert np.all(np.abs(np.log(column.std(0) / deviation)) < 4.5 / np.sqrt(size))


def test_correlated_normal_numbers():
    """Three passes, of which the last repeats the first: a singular covariance."""
    wanted = np.array([[2.0, 0.5, 2.0], [0.5, 1.0, 0.5], [2.0, 0.5, 2.0]])
    lower = [[jnp.full(200_000, wanted[i, j]) for j in range(i + 1)] for i in range(3)]
    draws = np.asarray(correlated_normal(jax.random.key(0), lower), np.float64)
    np.testing.assert_allclose(np.cov(draws), wanted, atol=0.03)
    np.testing.assert_allclose(draws[0], draws[2], atol=tol(1e-2, 1e-6))


# |V|, N, p and transition time (s) of analog-cim-sim 68e3bdc, 300 K
PUBLISHED = [
    (0.2, 0, 0.01592549, 102.0538),
    (0.2, 100, 0.01592549, 29.03214),
    (0.3, 0, 0.02437164, 0.04037991),
    (0.4, 0, 0.03729723, 2.413886e-4),
    (0.4, 100, 0.03729723, 1.411245e-4),
]


@pytest.mark.parametrize(("voltage", "cycles", "exponent", "transition"), PUBLISHED)
def test_published_read_disturb(voltage, cycles, exponent, transition):
    law = ReadDisturb()
    np.testing.assert_allclose(law.exponent(-voltage), exponent, rtol=4e-6)
    np.testing.assert_allclose(jnp.exp(law.log_transition_time(voltage, 300.0, cycles)), transition, rtol=1e-5)
    for ratio in (0.5, 1.5, 100.0):
        expected = min(1.0, ratio**-exponent)
        np.testing.assert_allclose(law.factor(ratio * transition, voltage, 300.0, cycles), expected, rtol=2e-6)


def test_published_current_after_many_reads():
    # 1e5 reads of 0.1 us at 0.4 V, 30 uA: 26.10965 uA fresh, 25.59214 uA after 100 cycles (analog-cim-sim 68e3bdc)
    currents = 30 * ReadDisturb().factor(1e5 * 1e-7, 0.4, 300.0, jnp.array([0.0, 100.0]))
    np.testing.assert_allclose(currents, [26.10965, 25.59214], rtol=1e-5)


def test_read_disturb_properties():
    """Longer, higher, hotter, more worn: less left; nothing left beyond 1.43e6 cycles."""
    law = ReadDisturb()
    time = jnp.logspace(-12, 8, 2000)
    for high in ((0.4, 300.0, 0.0), (0.2, 300.0, 1e4), (0.2, 400.0, 0.0)):
        low = (0.2, 300.0, 0.0)
        mild, harsh = law.factor(time, *low), law.factor(time, *high)
        assert np.all(np.diff(mild) <= 0) and np.all(harsh <= mild) and np.all((mild > 0) & (mild <= 1))
    assert law.factor(0.0, 0.3) == 1.0
    np.testing.assert_allclose(law.factor(1.0, 0.3, 300.0, 1.5e6), 0.0)
    points = (jnp.tile(time, 4), jnp.repeat(jnp.array([0.0, 10.0, 1e5, 2e6]), 2000))
    slopes = jax.vmap(jax.grad(lambda law, t, n: law.factor(t, 0.4, 350.0, n), (0, 1, 2)), (None, 0, 0))(law, *points)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))


def test_read_disturb_is_faster_by_arrhenius_and_by_the_published_exponent_slower():
    # exp(0.6 / 8.617333e-5 (1/300 - 1/400)) = exp(5.80226) times as fast
    # p = 0.0068 exp(0.11 * 0.4 / (8.617333e-5 * 400)) = 0.0068 exp(1.276497) = 0.0243726
    law, published = ReadDisturb(), ReadDisturb(form="published")
    np.testing.assert_allclose(published.exponent(0.4, 400.0), 0.0243726, rtol=1e-4)
    haste = law.log_transition_time(0.4, 300.0) - law.log_transition_time(0.4, 400.0)
    np.testing.assert_allclose(haste, 5.80226, rtol=1e-4)
    assert published.factor(1.0, 0.4, 400.0) > published.factor(1.0, 0.4, 300.0) > law.factor(1.0, 0.4, 400.0)
    with pytest.raises(ValueError, match=r"^unknown form 'hot'"):
        ReadDisturb(form="hot")


def test_read_disturb_is_finite_long_before_the_transition():
    law = ReadDisturb(exponent_0=0.5, hop_distance=2.0)
    value, slopes = jax.value_and_grad(lambda law: law.factor(1e-9, 0.4))(law)
    assert value == 1.0 and all(np.isfinite(leaf) for leaf in jax.tree.leaves(slopes))
