"""Aging of CMOS and package: signs, published ratios, and systems that their first mechanism ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate
from scipy.special import gamma

from physics import (
    YEAR,
    BiasInstability,
    Corrosion,
    Cycling,
    DielectricBreakdown,
    Electromigration,
    StressMigration,
    ThresholdDrift,
    log_series_mttf,
    log_series_quantile,
    log_series_survival,
    parameters,
    replace,
    soft_swing,
)

X64 = jax.config.read("jax_enable_x64")
LAWS = [
    Electromigration(),
    Electromigration.oldspot(),
    StressMigration(),
    DielectricBreakdown(),
    BiasInstability(),
    ThresholdDrift(),
    Cycling(),
    Cycling(e_a=0.12),
    Corrosion(),
]


def tol(single: float, double: float) -> float:
    return double if X64 else single


def ratio(law, cold: float, hot: float) -> float:
    return float(jnp.exp(law.log_mttf(cold) - law.log_mttf(hot)))


def grid(law, count: int = 1500):
    temperatures = jnp.linspace(*law.RANGE, count)
    return temperatures[law.valid(temperatures)]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_hotter_means_sooner(law):
    """d ln MTTF / dT < 0 in the whole declared range."""
    temperatures = grid(law)
    assert temperatures.size > 500
    slopes = jax.jit(jax.vmap(jax.grad(law.log_mttf)))(temperatures)
    assert np.all(slopes < 0) and np.all(np.isfinite(slopes))


@pytest.mark.parametrize("kind", [type(law) for law in LAWS[:1] + LAWS[2:7] + LAWS[8:]])
def test_hotter_means_sooner_for_every_parameter_in_its_range(kind, getkey):
    """The same for 1,500 laws with all their parameters drawn from their declared ranges."""
    law, count = kind(), 1500
    drawn = {p.label: jax.random.uniform(getkey(), (count,), minval=p.param.lo, maxval=p.param.hi) for p in parameters(law)}
    if "ambient" in drawn:
        drawn["ambient"] = jnp.minimum(drawn["ambient"], 330.0)
    low = max(law.RANGE[0], 332.0 if "ambient" in drawn else 0.0)
    temperatures = jax.random.uniform(getkey(), (count,), minval=low, maxval=law.RANGE[1])

    def slope(values, temperature):
        return jax.grad(replace(law, values).log_mttf)(temperature), replace(law, values).valid(temperature)

    slopes, valid = jax.jit(jax.vmap(slope))(drawn, temperatures)
    assert np.all(valid) and np.all(slopes <= 0)


def test_published_accelerations():
    """RAMP from 345 K to 358 K: 3.00 times for electromigration, 2.41 for stress migration."""
    np.testing.assert_allclose(ratio(Electromigration(), 345.0, 358.0), 3.00, atol=0.01)
    np.testing.assert_allclose(ratio(StressMigration(), 345.0, 358.0), 2.41, atol=0.01)


def test_black_by_hand():
    # Twice the current: 2^-1.1 = 0.466517; n = 2: 0.25.
    at = [float(Electromigration(current_density=j).log_mttf(350.0)) for j in (1.0, 2.0)]
    np.testing.assert_allclose(np.exp(at[1] - at[0]), 0.466517, rtol=1e-5)
    old = [float(replace(Electromigration.oldspot(), {"current_density": j}).log_mttf(350.0)) for j in (1.0, 2.0)]
    np.testing.assert_allclose(np.exp(old[1] - old[0]), 0.25, rtol=1e-5)


def test_reference_is_ramps():
    # 4000 FIT in five parts: 800 per 1e9 h: 1.25e6 h = 142.6 years each; the sum of rates gives 250,000 h, 28.5 years.
    laws = [Electromigration(), StressMigration(), DielectricBreakdown(), BiasInstability(), Cycling()]
    at = jnp.stack([law.log_mttf(345.0) for law in laws])
    np.testing.assert_allclose(jnp.exp(at) / 3600, np.full(5, 1.25e6), rtol=1e-4)
    np.testing.assert_allclose(jnp.exp(log_series_mttf(at, jnp.ones(5), rule="published")) / YEAR, 28.5, atol=0.1)


def test_bias_instability_with_both_signs():
    """ln of the expression at 320, 345, 370, 400 K with d = +0.06852 and -0.06852 eV, rounded to a tenth and a hundredth."""
    temperatures = jnp.array([320.0, 345.0, 370.0, 400.0])
    for signs, values in (("physical", [22.2, 21.2, 20.3, 19.4]), ("published", [5.63, 5.80, 5.98, 6.19])):
        law = BiasInstability(signs=signs)
        np.testing.assert_allclose(law.log_mttf(temperatures) - law.log_mttf(345.0), np.subtract(values, values[1]), atol=0.1)
    assert jax.grad(BiasInstability(signs="published").log_mttf)(380.0) > 0


def test_dielectric_breakdown_with_both_signs():
    # Exponent of the voltage at 345 K: 78 + 0.081 * 345 = 105.945 or 78 - 27.945 = 50.055.
    for signs, exponent in (("physical", 105.945), ("published", 50.055)):
        slope = jax.grad(lambda v, s=signs: DielectricBreakdown(voltage=v, signs=s).log_mttf(345.0))(1.0)
        np.testing.assert_allclose(slope, -exponent, rtol=1e-4)
    voltages = jnp.linspace(0.8, 1.5, 1000)
    assert np.all(np.diff(jax.vmap(lambda v: DielectricBreakdown(voltage=v).log_mttf(360.0))(voltages)) < 0)


def test_voltage_outside_the_range_of_a_law():
    with pytest.raises(ValueError, match=r"DielectricBreakdown.voltage = 1.6 V is outside its range \[0.8, 1.5\] V"):
        DielectricBreakdown(voltage=1.6)
    with pytest.raises(ValueError, match=r"ThresholdDrift.voltage = 2 V"):
        ThresholdDrift(voltage=2.0)
    for kind, bad in ((DielectricBreakdown, 1.6), (ThresholdDrift, 2.0)):
        flags = jax.vmap(lambda v, k=kind: k(voltage=v).valid(345.0))(jnp.array([1.0, bad]))
        np.testing.assert_array_equal(flags, [True, False])
    assert not bool(Electromigration().valid(520.0)) and not bool(StressMigration().valid(460.0))
    with pytest.raises(ValueError, match="unknown signs 'phys'; close: physical"):
        BiasInstability(signs="phys")


def test_threshold_drift_by_hand():
    # 345 K: kT = 0.0297298 eV. v = 0.50842 V, v^4.5 = 0.0476432; duty' = (0.5 / 1.5)^(1/6) = 0.832683.
    # After 1e6 s: 2.7e-14 * 0.832683 * 0.0476432 * (5.5e12 * 0.0678162 * 10 + 8e11 * 0.364568) = 4.3074e-3 V.
    law = ThresholdDrift()
    np.testing.assert_allclose(law.threshold_shift(345.0, 1e6), 4.3074e-3, rtol=1e-3)
    # 5 % slower clock: 0.50842 (1 - 1.05^(-1/1.3)) = 0.018729 V.
    np.testing.assert_allclose(law.limit(), 0.018729, rtol=1e-3)
    times = jnp.exp(jax.vmap(law.log_mttf)(jnp.linspace(300.0, 400.0, 50)))
    np.testing.assert_allclose(law.threshold_shift(jnp.linspace(300.0, 400.0, 50), times), np.full(50, law.limit()), rtol=1e-4)
    assert ThresholdDrift(voltage=1.2).log_mttf(345.0) < law.log_mttf(345.0)
    assert ThresholdDrift(duty=0.9).log_mttf(345.0) < law.log_mttf(345.0)


def test_cycles_to_failure():
    # Doubling the swing: 2^2.35 = 5.0983 times fewer.
    law = Cycling()
    np.testing.assert_allclose(np.exp(law.log_cycles(20.0, 350.0) - law.log_cycles(40.0, 350.0)), 5.0983, rtol=1e-4)
    # One cycle a day between ambient and 345 K lasts 1.25e6 h = 52,083 days.
    np.testing.assert_allclose(jnp.exp(law.log_cycles(345.0 - 318.15, 331.0)), 52083, rtol=1e-3)
    assert Cycling(e_a=0.2).log_cycles(20.0, 370.0) < Cycling(e_a=0.2).log_cycles(20.0, 340.0)
    assert np.isfinite(law.log_mttf(300.0)) and not bool(law.valid(300.0))  # colder than ambient: no cycle


def test_soft_swing():
    rng = np.random.default_rng(0)
    traces = jnp.asarray(300 + 20 * rng.uniform(size=(500, 200)))
    exact = jnp.max(traces, axis=1) - jnp.min(traces, axis=1)
    swings = jax.jit(jax.vmap(soft_swing, (0, None)))
    swing = swings(traces, 2.0)
    assert np.all(swing <= exact + 1e-3) and np.all(swing >= exact - 2 * np.log(200) / 2.0) and np.all(swing >= 0)
    np.testing.assert_allclose(swings(traces, 1e4), exact, atol=0.01)
    assert abs(soft_swing(jnp.full(50, 333.0))) < 1e-4
    np.testing.assert_allclose(jnp.sum(jax.grad(soft_swing)(traces[0])), 0.0, atol=1e-5)  # a uniform shift changes nothing


def test_gradients_against_central_differences():
    with jax.enable_x64(True):
        for law in LAWS:
            wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), law)
            temperatures = grid(wide)
            f = jax.jit(jax.vmap(wide.log_mttf))
            central = (f(temperatures + 1e-4) - f(temperatures - 1e-4)) / 2e-4
            np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(wide.log_mttf)))(temperatures), central, rtol=1e-6)
            ones = jax.tree.map(jnp.ones_like, wide)  # relative changes of all parameters at once

            @jax.jit
            def scaled(step, wide=wide, ones=ones):
                return jax.tree.map(lambda p, o: p * (1 + step * 1e-2 * o), wide, ones).log_mttf(350.0)

            h = 1e-4
            np.testing.assert_allclose(jax.grad(scaled)(0.0), (scaled(h) - scaled(-h)) / (2 * h), rtol=1e-5)


MEANS, SHAPES = jnp.log(jnp.array([1e8, 2e8, 5e8])), jnp.array([2.0, 3.0, 0.7])


def test_constant_hazards_add_up():
    ones = jnp.ones(3)
    exact = 1 / (1 / 1e8 + 1 / 2e8 + 1 / 5e8)
    np.testing.assert_allclose(jnp.exp(log_series_mttf(MEANS, ones)), exact, rtol=tol(1e-5, 1e-9))
    np.testing.assert_allclose(jnp.exp(log_series_mttf(MEANS, ones, rule="published")), exact, rtol=1e-5)
    with pytest.raises(ValueError, match="unknown rule 'sum'"):
        log_series_mttf(MEANS, ones, rule="sum")


def test_series_system_against_direct_integration():
    scales = np.exp(np.asarray(MEANS, float)) / gamma(1 + 1 / np.asarray(SHAPES, float))
    survival = lambda t: np.exp(-np.sum((t / scales) ** np.asarray(SHAPES, float)))  # noqa: E731
    exact = integrate.quad(lambda x: survival(x * 1e8) * 1e8, 0, 20, epsrel=1e-10)[0]
    np.testing.assert_allclose(jnp.exp(log_series_mttf(MEANS, SHAPES)), exact, rtol=tol(1e-5, 1e-6))
    for time in (1e6, 1e8, 3e8):
        np.testing.assert_allclose(jnp.exp(log_series_survival(np.log(time), MEANS, SHAPES)), survival(time), rtol=1e-4)
    # Wear-out does not add up: the sum of rates is a third too pessimistic when every shape is 4.
    four = jnp.full(3, 4.0)
    assert log_series_mttf(MEANS, four) - log_series_mttf(MEANS, four, rule="published") > 0.3


@pytest.mark.parametrize("shape", [0.5, 1.0, 5.0, 20.0])
def test_one_mechanism_is_the_system(shape):
    np.testing.assert_allclose(log_series_mttf(jnp.array([18.0]), jnp.array([shape])), 18.0, atol=tol(1e-5, 1e-7))


def test_quantiles_invert_survival():
    shares = jnp.asarray(np.concatenate([np.logspace(-9, -1, 300), np.linspace(0.1, 0.999, 300)]))
    times = jax.jit(jax.vmap(lambda s: log_series_quantile(s, MEANS, SHAPES)))(shares)
    assert np.all(np.diff(times) >= 0)
    lost = -jnp.expm1(jax.vmap(lambda u: log_series_survival(u, MEANS, SHAPES))(times))
    np.testing.assert_allclose(lost, shares, rtol=tol(2e-4, 1e-9))


def test_series_properties_and_gradients(getkey):
    means = 18 + jax.random.normal(getkey(), (500, 4)) * 2
    shapes = jax.random.uniform(getkey(), (500, 4), minval=0.6, maxval=8.0)
    for function in (log_series_mttf, lambda m, k: log_series_quantile(0.01, m, k)):
        by_mean, by_shape = jax.jit(jax.vmap(jax.grad(function, argnums=(0, 1))))(means, shapes)
        assert np.all(by_mean > -1e-6) and np.all(np.isfinite(by_shape))
        np.testing.assert_allclose(jnp.sum(by_mean, axis=1), np.ones(500), rtol=tol(1e-3, 1e-6))  # all times scale together
    assert np.all(
        jax.jit(jax.vmap(log_series_mttf))(means, shapes) <= jnp.min(means, axis=1) + 1e-4
    )  # never later than the first
    with jax.enable_x64(True):
        m, k = jnp.asarray(np.asarray(means[0], np.float64)), jnp.asarray(np.asarray(shapes[0], np.float64))
        for function in (jax.jit(log_series_mttf), jax.jit(lambda m, k: log_series_quantile(0.01, m, k))):
            step = jnp.array([1.0, -0.5, 0.3, 0.7])
            central = (function(m + 1e-5 * step, k + 1e-5 * step) - function(m - 1e-5 * step, k - 1e-5 * step)) / 2e-5
            by_mean, by_shape = jax.grad(function, argnums=(0, 1))(m, k)
            np.testing.assert_allclose(by_mean @ step + by_shape @ step, central, rtol=1e-6)
