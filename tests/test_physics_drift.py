"""Drift and spread of analog levels: the sources' formulas by hand, limits, monotonicity, smooth interpolation in ln t."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physics import OxideDrift, PhaseChangeDrift, ProgrammingSpread, ResistiveDrift

X64 = jax.config.read("jax_enable_x64")
DAY = 86400.0
LAWS = [PhaseChangeDrift(), ResistiveDrift(), OxideDrift(), OxideDrift(acceptance="0.2%")]


def tol(single: float, double: float) -> float:
    return double if X64 else single


def test_phase_change_drift_by_hand():
    law = PhaseChangeDrift()
    # At g = 0.5: nu = -0.0155 ln 0.5 + 0.0244 = 0.035144, clipped to 0.049; at g = 0.1: 0.0600901.
    np.testing.assert_allclose(law.exponent(jnp.array([12.5e-6, 2.5e-6, 1e-12])), [0.049, 0.0600901, 0.1], rtol=1e-5)
    # Spread of nu at g = 0.1: 0.0287823 - 0.0059 = 0.0228823; clipped to 0.045 and 0.008 at the ends.
    np.testing.assert_allclose(law.exponent_spread(jnp.array([2.5e-6, 1e-12, 25e-6])), [0.0228823, 0.045, 0.008], rtol=1e-5)
    # After 1980 s: (2000 / 20)^-0.049 = 0.797995.
    np.testing.assert_allclose(law.conductance(12.5e-6, 1980.0), 12.5e-6 * 0.797995, rtol=1e-5)
    # Programming at g = 0.5: 0.26348 + 0.9825 - 0.293275 = 0.952705 uS.
    np.testing.assert_allclose(law.programmed_spread(12.5e-6), 0.952705e-6, rtol=1e-5)
    # Read at g = 0.5, t = 1 s: 0.0088 / 0.5^0.65 = 0.0138089; sqrt(ln(21 / 5e-7)) = 4.18939; G = 12.5 * 1.05^-0.049.
    expected = 12.5e-6 * 1.05**-0.049 * 0.0138089 * 4.18939
    np.testing.assert_allclose(law.read_spread(12.5e-6, 1.0), expected, rtol=1e-4)


def polynomial(row: list[float], g: float) -> float:
    return sum(c * g**i for i, c in enumerate(row))


@pytest.mark.parametrize(
    ("duration", "row"),
    [
        (1.0, [0.348, 16.030, -43.853, 45.393, -16.815]),
        (DAY, [0.701, 22.086, -50.773, 47.095, -16.458]),
        (2 * DAY, [0.782, 20.274, -43.507, 37.062, -11.934]),
    ],
)
@pytest.mark.parametrize("g", [0.0, 0.2, 0.5, 1.0])
def test_resistive_spread_is_the_measured_one_at_the_measured_times(duration, row, g):
    found = ResistiveDrift().spread(g * 40e-6, duration)
    np.testing.assert_allclose(found, max(polynomial(row, g), 0.0) * 1e-6, rtol=1e-4, atol=1e-12)


def test_resistive_spread_between_the_measured_times():
    """Between its ends, and continuous with its slope in ln t."""
    law, g = ResistiveDrift(), jnp.linspace(0.0, 40e-6, 60)
    x = jnp.linspace(0.0, np.log(2 * DAY), 3001)
    spread = jax.vmap(lambda u: law.spread(g, jnp.exp(u)))(x)
    for first, last in ((0.0, np.log(DAY)), (np.log(DAY), np.log(2 * DAY))):
        rows = spread[(x >= first - 1e-4) & (x <= last + 1e-4)]
        low, high = jnp.minimum(rows[0], rows[-1]), jnp.maximum(rows[0], rows[-1])
        assert np.all((rows >= low - 2e-9) & (rows <= high + 2e-9))
    slope = jax.grad(lambda u: law.spread(20e-6, jnp.exp(u)) * 1e6)
    below, above = slope(np.log(DAY) - 1e-3), slope(np.log(DAY) + 1e-3)
    np.testing.assert_allclose(below, above, atol=2e-3)


def test_oxide_drift_by_hand():
    law = OxideDrift()
    # After e^10 s: 50 - 0.890 uS on average, 0.4118 + 0.420 = 0.8318 uS spread, whatever the level.
    np.testing.assert_allclose(law.conductance(50e-6, np.exp(10.0)), 49.11e-6, rtol=1e-6)
    np.testing.assert_allclose(law.spread(jnp.array([20e-6, 80e-6]), np.exp(10.0)), [0.8318e-6] * 2, rtol=1e-5)
    np.testing.assert_allclose(law.programmed_spread(50e-6), 0.57572e-6, rtol=1e-5)  # 0.01122 + 0.5645
    np.testing.assert_allclose(OxideDrift(acceptance="0.2%").programmed_spread(50e-6), 0.054261e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="unknown acceptance '3%'"):
        OxideDrift(acceptance="3%")


@pytest.mark.parametrize("law", LAWS)
def test_properties_over_many_levels_and_times(law, getkey):
    level = jax.random.uniform(getkey(), (3000,), minval=float(getattr(law, "g_min", 0.0)), maxval=float(law.g_max))
    start = jnp.exp(jax.random.uniform(getkey(), (3000,), minval=0.0, maxval=10.0))
    later = start * jnp.exp(jax.random.uniform(getkey(), (3000,), maxval=8.0))
    assert np.all(law.conductance(level, later) <= law.conductance(level, start) * (1 + 1e-6))  # never rises
    assert np.all(law.conductance(level, later) >= 0) and np.all(law.spread(level, later) >= 0)
    np.testing.assert_allclose(law.conductance(level, 0.0), level, rtol=1e-6)  # nothing drifts in no time
    each = jax.grad(lambda p, g, t: (p.conductance(g, t) + p.spread(g, t)) * 1e6, argnums=(0, 1, 2))
    for times in (start, later, jnp.zeros(3000)):
        slopes = jax.jit(jax.vmap(each, (None, 0, 0)))(law, level, times)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))


def test_conductance_scales_with_its_unit():
    """The same relative level on twice the full scale: twice the spread."""
    for kind, full in ((PhaseChangeDrift, 25e-6), (ResistiveDrift, 40e-6)):
        single, double = kind(), kind(g_max=2 * full)
        np.testing.assert_allclose(double.spread(full, 1e4), 2 * single.spread(full / 2, 1e4), rtol=1e-5)


def test_ranges():
    np.testing.assert_array_equal(ResistiveDrift().valid(20e-6, jnp.array([0.5, 1.0, DAY, 3 * DAY])), [False, True, True, False])
    np.testing.assert_array_equal(OxideDrift().valid(jnp.array([5e-6, 50e-6, 90e-6]), 10.0), [False, True, False])
    assert not bool(OxideDrift().valid(50e-6, 0.5)) and bool(PhaseChangeDrift().valid(20e-6, 0.0))
    assert not bool(PhaseChangeDrift().valid(30e-6, 1.0))


def test_equivalent_time():
    law = PhaseChangeDrift(e_a=0.5)
    # 0.5 / 8.617333e-5 * (1/300 - 1/350) = 2.762981: e^2.762981 = 15.84700.
    np.testing.assert_allclose(law.equivalent_time(100.0, 350.0), 1584.70, rtol=tol(1e-4, 1e-5))
    assert law.equivalent_time(100.0, 300.0) == 100.0
    np.testing.assert_allclose(PhaseChangeDrift().equivalent_time(100.0, 400.0), 100.0)  # off by default
    assert jax.grad(law.equivalent_time, argnums=1)(100.0, 350.0) > 0


def test_gradients_against_central_differences():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        for law in LAWS:
            wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), law)
            level = jnp.asarray(rng.uniform(0.3, 0.9, 500)) * wide.g_max
            x = jnp.asarray(rng.uniform(0.1, 11.0, 500))

            def both(g, u, law=wide):
                return (law.conductance(g, jnp.exp(u)) + law.spread(g, jnp.exp(u))) * 1e6

            f = jax.jit(jax.vmap(both))
            by_level, by_time = jax.jit(jax.vmap(jax.grad(both, argnums=(0, 1))))(level, x)
            np.testing.assert_allclose(by_level, (f(level + 1e-10, x) - f(level - 1e-10, x)) / 2e-10, rtol=1e-4, atol=1)
            np.testing.assert_allclose(by_time, (f(level, x + 1e-5) - f(level, x - 1e-5)) / 2e-5, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("measurement", "level", "sigma"),
    # 4.782 - 0.009107 * 100; at 20: 1.053 + 4.748 - 4.668 + 1.2288; at 10: 0.2864 + 0.7586 - 0.1788.
    [("milo", 100.0, 3.8713), ("wan", 20.0, 2.3618), ("joshi", 10.0, 0.8662)],
)
def test_programming_spread(measurement, level, sigma):
    law = ProgrammingSpread(measurement=measurement)
    np.testing.assert_allclose(law.spread(level * 1e-6), sigma * 1e-6, rtol=1e-4)
    assert bool(law.valid(level * 1e-6)) and not bool(law.valid(1e-3))
    levels = jnp.linspace(0.0, 1e-3, 3000)
    assert np.all(law.spread(levels) >= 0)
    assert np.all(np.isfinite(jax.vmap(jax.grad(law.spread))(levels)))


def test_unknown_measurement():
    with pytest.raises(ValueError, match="unknown measurement 'mil'; close: milo"):
        ProgrammingSpread(measurement="mil")


def test_long_reads_and_hot_relaxation_stay_finite():
    law = PhaseChangeDrift(t_0=1e-3, read_time=1.0, e_a=2.0, temperature_ref=200.0)
    value, slopes = jax.value_and_grad(lambda law: law.spread(10e-6, 0.0) + law.read_spread(10e-6, 1.0))(law)
    assert np.isfinite(value) and all(np.isfinite(leaf) for leaf in jax.tree.leaves(slopes))
    assert np.isfinite(law.equivalent_time(1e9, 500.0))
