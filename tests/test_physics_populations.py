"""Populations: what share of many unequal cells is lost, against an independent quadrature and published values."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate
from scipy import stats as scipy_stats

from physics import (
    YEAR,
    LognormalLives,
    LognormalTime,
    NormalBarrier,
    Retention,
    ThermalStability,
    WeibullLives,
    log_failure_probability,
    log_hazard_of,
    log_mixed_failure,
    required_stability,
)

X64 = jax.config.read("jax_enable_x64")
TEN_YEARS = 10 * YEAR
START = np.log(TEN_YEARS / 1e-9)  # 40.29


def tol(single: float, double: float) -> float:
    return double if X64 else single


def barrier(mean: float, deviation: float) -> NormalBarrier:
    return NormalBarrier(ThermalStability(delta_ref=mean, temperature_ref=300.0), spread=deviation / mean)


def adaptive(log_hazard: float, sigma: float) -> float:
    """ln E[1 - exp(-H)] by scipy's adaptive quadrature in pieces around the step, scaled by its largest term."""

    def log_term(z):
        x = min(log_hazard - sigma * z, 30.0)
        p = x - np.exp(x) / 2 if x < -20 else np.log(-np.expm1(-np.exp(x)))
        return p - z**2 / 2 - np.log(2 * np.pi) / 2

    grid = np.linspace(-45, 45, 1801)
    scale = max(log_term(z) for z in grid)
    edges = np.linspace(-45, 45, 91)
    parts = [integrate.quad(lambda z: np.exp(log_term(z) - scale), a, b, epsabs=0, epsrel=1e-11)[0] for a, b in pairwise(edges)]
    return scale + np.log(sum(parts))


# Ten years, mean and deviation of Delta, share lost by direct quadrature, and by the published closed form.
BARRIERS = [(60, 3, 2.49e-7, 2.49e-7), (60, 6, 9.7e-4, 0.18), (70, 7, 2.37e-5, 5.5e-3)]


@pytest.mark.parametrize(("mean", "deviation", "exact", "published"), BARRIERS)
def test_bit_error_rates_of_normal_barriers(mean, deviation, exact, published):
    cells = barrier(mean, deviation)
    np.testing.assert_allclose(jnp.exp(cells.log_error_rate(300.0, TEN_YEARS)), exact, rtol=5e-3)
    np.testing.assert_allclose(jnp.exp(cells.log_error_rate(300.0, TEN_YEARS, form="published")), published, rtol=1e-2)


def test_the_published_form_says_where_it_fails():
    """s^2 < mu - ln(t / tau_0): 9 < 19.7, 36 > 19.7, 49 > 29.7."""
    flags = [bool(barrier(m, s).valid(300.0, TEN_YEARS, form="published")) for m, s, *_ in BARRIERS]
    assert flags == [True, False, False]
    assert all(bool(barrier(m, s).valid(300.0, TEN_YEARS)) for m, s, *_ in BARRIERS)
    assert not bool(barrier(60, 3).valid(900.0, TEN_YEARS))


@pytest.mark.parametrize(
    ("log_hazard", "sigma"), [(-20.0, 3.0), (-20.0, 6.0), (-30.0, 7.0), (0.0, 1.0), (3.0, 5.0), (-160.0, 12.0), (-60.0, 25.0)]
)
def test_against_adaptive_quadrature(log_hazard, sigma):
    np.testing.assert_allclose(log_mixed_failure(log_hazard, sigma), adaptive(log_hazard, sigma), rtol=2e-6, atol=tol(2e-5, 1e-6))


def test_without_spread_all_cells_are_alike():
    x = jnp.linspace(-80.0, 6.0, 2000)
    np.testing.assert_allclose(jax.jit(log_mixed_failure)(x, 0.0), log_failure_probability(x), atol=tol(1e-4, 1e-8), rtol=1e-6)
    slope = jax.grad(log_mixed_failure, argnums=(0, 1))(-20.0, 0.0)
    np.testing.assert_allclose(slope, (1.0, 0.0), atol=1e-5)


def test_properties_over_many_populations(getkey):
    x = jax.random.uniform(getkey(), (2000,), minval=-60.0, maxval=5.0)
    sigma = jax.random.uniform(getkey(), (2000,), maxval=15.0)
    share, (by_hazard, by_sigma) = jax.jit(jax.vmap(jax.value_and_grad(log_mixed_failure, argnums=(0, 1))))(x, sigma)
    assert np.all(share <= 0) and np.all(np.isfinite(by_hazard)) and np.all(np.isfinite(by_sigma))
    assert np.all((by_hazard > -1e-6) & (by_hazard < 1 + 1e-4))  # more hazard loses more cells, at most in proportion
    early = x < -2
    assert np.all(by_sigma[early] > -1e-3)  # while few are lost, unequal cells lose more
    # Rare losses: the closed form where it holds.
    rare = (sigma**2 < -x - 6 * sigma) & (x < -20)
    np.testing.assert_allclose(share[rare], (x + sigma**2 / 2)[rare], atol=tol(2e-4, 1e-6))


def test_median_of_a_population_of_certain_deaths():
    """With a very wide spread half of the cells are lost when the median cell's hazard is about 1 (ln 2)."""
    np.testing.assert_allclose(jnp.exp(log_mixed_failure(jnp.log(jnp.log(2.0)), 25.0)), 0.5, atol=0.01)


def test_gradients_against_central_differences():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, sigma = jnp.asarray(rng.uniform(-60, 3, 300)), jnp.asarray(rng.uniform(0.1, 12, 300))
        slopes = jax.jit(jax.vmap(jax.grad(log_mixed_failure, argnums=(0, 1))))(x, sigma)
        h = 1e-5
        mixed = jax.jit(log_mixed_failure)
        by_x = (mixed(x + h, sigma) - mixed(x - h, sigma)) / (2 * h)
        by_sigma = (mixed(x, sigma + h) - mixed(x, sigma - h)) / (2 * h)
        np.testing.assert_allclose(slopes[0], by_x, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(slopes[1], by_sigma, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("error_rate", "needed"), [(1e-6, 54.1), (1e-9, 61.0), (1e-12, 67.9), (1 - np.exp(-1), 40.3)])
def test_stability_needed_for_ten_years(error_rate, needed):
    np.testing.assert_allclose(required_stability(TEN_YEARS, error_rate), needed, atol=0.05)


def test_stability_needed_for_a_megabit():
    # One failure of 2^20 cells with probability 1e-4: 40.29 + ln(2^20) + ln(1e4) = 40.29 + 13.86 + 9.21 = 63.37.
    np.testing.assert_allclose(required_stability(TEN_YEARS, 1e-4, cells=2**20), 63.37, atol=0.01)


def test_ten_years_at_125_celsius_and_three_reflows_need_the_same_barrier():
    ten_years = required_stability(TEN_YEARS, 1e-6) * 398.15 / 298.15
    reflow = required_stability(270.0, 1e-6) * 533.15 / 298.15
    assert abs(ten_years / reflow - 1) < 0.01


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.096, 0.143])
def test_required_stability_of_a_population_inverts_its_error_rate(spread):
    law = NormalBarrier(ThermalStability(temperature_ref=300.0), spread=spread)
    for error_rate in (1e-4, 1e-9):
        mean, slope = jax.value_and_grad(lambda e: law.required_stability(300.0, TEN_YEARS, e))(error_rate)
        made = NormalBarrier(ThermalStability(delta_ref=mean, temperature_ref=300.0), spread=spread)
        np.testing.assert_allclose(made.log_error_rate(300.0, TEN_YEARS), np.log(error_rate), atol=tol(2e-4, 1e-8))
        assert slope < 0
    if spread == 0.0:
        np.testing.assert_allclose(mean, required_stability(TEN_YEARS, 1e-9), rtol=1e-5)
        np.testing.assert_allclose(slope, -1e9, rtol=1e-3)  # d ln(1 / error rate)


def test_constant_trace_equals_constant_temperature():
    cells, durations = barrier(60, 5), jnp.full(7, TEN_YEARS / 7)
    traced = cells.log_error_rate_of_trace(jnp.full(7, 320.0), durations)
    np.testing.assert_allclose(traced, cells.log_error_rate(320.0, TEN_YEARS), atol=tol(1e-4, 1e-10))
    times = LognormalTime(Retention(), sigma=1.0)
    np.testing.assert_allclose(
        times.log_error_rate_of_trace(jnp.full(7, 420.0), durations),
        times.log_error_rate(420.0, TEN_YEARS),
        atol=tol(1e-4, 1e-10),
    )


def test_trace_of_a_population_against_a_sum_over_junctions():
    """Monte-Carlo free: 20,001 junctions at equal steps of z, each followed through the trace on its own."""
    cells, rng = barrier(45, 4), np.random.default_rng(3)
    temperatures, durations = rng.uniform(300, 380, 40), rng.uniform(1e4, 1e6, 40)
    z = np.linspace(-9, 9, 20001)
    delta = 45 * (1 + 4 / 45 * z[:, None]) * 300 / temperatures
    hazard = np.sum(durations / 1e-9 * np.exp(-delta), axis=1)
    expected = np.log(np.sum(-np.expm1(-hazard) * np.exp(-(z**2) / 2)) * (z[1] - z[0]) / np.sqrt(2 * np.pi))
    found = cells.log_error_rate_of_trace(jnp.asarray(temperatures), jnp.asarray(durations))
    np.testing.assert_allclose(found, expected, atol=tol(2e-4, 1e-7))


def test_spread_changes_the_effective_barrier_by_half_its_variance():
    np.testing.assert_allclose(barrier(60, 3).effective_stability(300.0), 60 - 4.5, rtol=1e-6)


def test_lognormal_times():
    law = LognormalTime(Retention(log_tau_ref=10.0), sigma=2.0)
    # Published form: Phi((ln t - ln tau) / sigma): at ln t = 8, Phi(-1) = 0.158655.
    np.testing.assert_allclose(jnp.exp(law.log_error_rate(358.15, np.exp(8.0), form="published")), 0.158655, rtol=1e-4)
    exact = law.log_error_rate(358.15, np.exp(8.0))
    np.testing.assert_allclose(exact, adaptive(-2.0, 2.0), atol=tol(1e-4, 1e-7))
    with pytest.raises(ValueError, match="unknown form 'publised'; close: published"):
        law.log_error_rate(358.15, 1.0, form="publised")
    with pytest.raises(ValueError, match="unknown form"):
        barrier(60, 3).log_error_rate(300.0, 1.0, form="x")


@pytest.mark.parametrize("shape", [0.5, 2.0, 10.0])
def test_weibull_lives(shape):
    lives = WeibullLives(shape=shape)
    damage = jnp.linspace(0.01, 2.0, 1000)
    found = jnp.exp(lives.log_failed(jnp.log(damage)))
    np.testing.assert_allclose(found, scipy_stats.weibull_min.cdf(damage, shape), rtol=tol(2e-5, 1e-12))
    told_apart = found < 0.99  # of a share of nearly 1 nothing is left to invert
    again = jnp.exp(lives.log_damage(found))
    np.testing.assert_allclose(again[told_apart], damage[told_apart], rtol=tol(1e-4, 1e-9))


@pytest.mark.parametrize("sigma", [0.2, 0.64, 3.0])
def test_lognormal_lives(sigma):
    lives = LognormalLives(sigma=sigma)
    damage = jnp.linspace(0.05, 3.0, 1000)
    np.testing.assert_allclose(
        lives.log_failed(jnp.log(damage)), scipy_stats.lognorm.logcdf(damage, sigma), rtol=tol(1e-4, 1e-10), atol=tol(1e-6, 1e-12)
    )
    share = jnp.linspace(1e-6, 0.999, 500)
    np.testing.assert_allclose(jnp.exp(lives.log_failed(lives.log_damage(share))), share, rtol=tol(1e-3, 1e-9))
    assert np.all(np.isfinite(jax.vmap(jax.grad(lives.log_failed))(jnp.linspace(-500.0, 50.0, 1000))))


def test_lognormal_and_weibull_lives_have_the_same_variance_by_default():
    # sd of ln N: pi / (sqrt 6 shape) = 1.28255 / 2 = 0.641.
    np.testing.assert_allclose(LognormalLives().sigma, np.pi / np.sqrt(6) / WeibullLives().shape, rtol=2e-3)


def test_hazard_of_a_probability_inverts():
    x = jnp.linspace(-80.0, 2.0, 4000)
    np.testing.assert_allclose(log_hazard_of(log_failure_probability(x)), x, atol=tol(2e-3, 1e-9))
    y = jnp.linspace(-100.0, -1e-6, 2000)
    assert np.all(np.isfinite(jax.vmap(jax.grad(log_hazard_of))(y)))


def test_a_spread_too_wide_for_any_mean_asks_for_an_infinite_one():
    law = NormalBarrier(ThermalStability(), spread=0.3)
    assert law.required_stability(300.0, 10 * 3.156e7, 1e-6) == np.inf
