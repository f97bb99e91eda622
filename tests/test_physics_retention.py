"""Retention: measured bake times, published temperatures, float32 logarithms, budgets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from physics import (
    BOLTZMANN_EV,
    NEVER,
    YEAR,
    CompensatedSum,
    Retention,
    ThermalStability,
    add_log,
    from_celsius,
    load_device,
    log_failure_probability,
    log_sum,
    log_survival,
    to_celsius,
)

X64 = jax.config.read("jax_enable_x64")
TEN_YEARS = 10 * YEAR


def tol(single: float, double: float) -> float:
    return double if X64 else single


def test_arrhenius_by_hand():
    # e_a = 1 eV, tau = 1e5 s (ln 11.512925) at 400 K. At 300 K: 1 / 8.617333e-5 * (1/300 - 1/400) = 9.670434 more: 21.183359.
    law = Retention(log_tau_ref=np.log(1e5), e_a=1.0, temperature_ref=400.0)
    np.testing.assert_allclose(law.log_time(300.0), 21.183359, rtol=1e-6)
    np.testing.assert_allclose(law.log_time(400.0), 11.512925, rtol=1e-6)
    np.testing.assert_allclose(law.log_hazard_rate(300.0), -21.183359, rtol=1e-6)


def test_slope_by_hand():
    # d ln tau / dT = -e_a / (k T^2): 1.5 eV at 300 K: -1.5 / (8.617333e-5 * 9e4) = -0.193410 per K.
    slope = jax.grad(Retention(e_a=1.5).log_time)(300.0)
    np.testing.assert_allclose(slope, -0.193410, rtol=1e-5)


# Bake times until the resistance of the low state has changed tenfold (HfOx) or jumped (MoOx); points of the data set of
# Lammie, Azghadi and Ielmini 2021 (coreylammie/SST-Reproducibility).
MEASURED = [
    ("hfox_reram", 200, 2.05e5, 0.32),
    ("hfox_reram", 250, 3.34e3, 0.32),
    ("hfox_reram", 300, 268.0, 0.3),
    ("hfalo_reram", 250, 2.96e4, 0.01),
    ("hfalo_reram", 300, 1.42e3, 0.01),
    ("cbram", 200, 4.03e3, 0.1),
    ("cbram", 225, 875.0, 0.1),
    ("cbram", 250, 190.0, 0.1),
]


@pytest.mark.parametrize(("device", "celsius", "seconds", "scatter"), MEASURED)
def test_measured_bake_times(device, celsius, seconds, scatter):
    """Within the scatter of the points around a straight line, in ln t."""
    assert abs(load_device(device).retention.log_time(from_celsius(celsius)) - np.log(seconds)) < scatter


@pytest.mark.parametrize(("device", "celsius"), [("hfox_reram", 123), ("hfalo_reram", 140), ("cbram", 77)])
def test_ten_year_temperatures(device, celsius):
    assert abs(to_celsius(load_device(device).retention.temperature_budget(TEN_YEARS, 1.0)) - celsius) < 1.0


def test_magnetic_barrier_needed_for_ten_years_at_125_celsius():
    # ln(10 years / 1 ns) + ln 1e6 = 40.29 + 13.82 = 54.1 at 125 C; times 398.15 / 298.15 = 72.3 at 25 C.
    law = ThermalStability()
    np.testing.assert_allclose(law.delta(from_celsius(125.0)), 54.1, atol=0.1)
    np.testing.assert_allclose(law.delta(from_celsius(25.0)), 72.3, rtol=1e-6)
    assert abs(to_celsius(law.temperature_budget(TEN_YEARS, 1e-6)) - 125) < 1.0


def test_solder_reflow_needs_nearly_the_same_barrier():
    # Three times 90 s at 260 C at 1e-6: ln(270 / 1e-9) + 13.8155 = 40.138; times 533.15 / 298.15 = 71.8 at 25 C, 1 % below 72.3.
    hazard = ThermalStability(delta_ref=71.8).log_hazard(from_celsius(260.0), 270.0)
    np.testing.assert_allclose(hazard, np.log(1e-6), atol=0.05)


@pytest.mark.parametrize(("delta", "celsius"), [(60.0, 1030), (40.0, 595), (20.0, 161)])
def test_published_rule_acts_on_relaxed_magnetic_cells_only(delta, celsius):
    """Temperature at which tau = 1 ms: far above operation unless Delta is near 20."""
    law = ThermalStability(delta_ref=delta, temperature_ref=300.0)
    np.testing.assert_allclose(to_celsius(300.0 + law.margin(300.0, 1.0, rule="published")), celsius, atol=2.0)


def test_published_rule_never_acts_on_resistive_cells():
    # 1 ms = ln -6.91. HfOx: 1.5588 / (8.617e-5 * (26.15 - 6.91)) = 940 K with ln tau_0 = -26.15: 667 C.
    margin = load_device("hfox_reram").retention.margin(358.15, 1.0, rule="published")
    np.testing.assert_allclose(margin, 940 - 358.15, atol=3.0)


def test_unknown_rule():
    with pytest.raises(ValueError, match="unknown rule 'budgets'; close: budget"):
        Retention().margin(300.0, 1.0, rule="budgets")


@pytest.mark.parametrize("law", [Retention(), Retention(e_a=1.0), ThermalStability(), ThermalStability(exponent=1.5)])
def test_temperature_at_inverts_log_time(law):
    temperatures = jnp.linspace(250.0, 650.0, 200)
    np.testing.assert_allclose(law.temperature_at(law.log_time(temperatures)), temperatures, rtol=tol(3e-6, 1e-12))


def test_temperature_budget_is_capped_where_no_temperature_is_too_hot():
    law = Retention(log_tau_ref=100.0, e_a=0.1)
    budget, slope = jax.value_and_grad(law.temperature_budget)(1e-9, 1.0)
    np.testing.assert_allclose(budget, 2000.0, rtol=1e-6)
    assert slope == 0.0


def test_margin_falls_by_one_kelvin_per_kelvin():
    margin, slope = jax.value_and_grad(lambda t: Retention().margin(t, TEN_YEARS))(350.0)
    np.testing.assert_allclose(margin, Retention().temperature_budget(TEN_YEARS, 1e-6) - 350.0, rtol=1e-5)
    assert slope == -1.0


def test_parametrisations_agree():
    # ln tau = ln 10 * -11.35 + 1.5588 / (k 358.15 K) = -26.1343 + 50.5071 = 24.3728
    law = Retention.from_prefactor(log10_tau_0=-11.35, e_a=1.5588)
    np.testing.assert_allclose(law.log_tau_ref, 24.3728, atol=2e-4)
    expected = -11.35 * np.log(10) + 1.5588 / (BOLTZMANN_EV * 500.0)
    np.testing.assert_allclose(law.log_time(500.0), expected, rtol=tol(2e-6, 1e-12))


# T (K), ln p, d ln p / dT for e_a = 1.5 eV, tau_0 = 1e-13 s, 3600 s; computed in float64, where the naive float32 form gives
# 0, NaN or 1.
LOGARITHMS = [
    (150.0, -77.92, 0.7736),
    (250.0, -31.50, 0.27851),
    (300.0, -19.90, 0.19341),
    (358.15, -10.48, 0.13570),
    (500.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("temperature", "log_p", "slope"), LOGARITHMS)
def test_log_probability_where_float32_has_none(temperature, log_p, slope):
    law = Retention.from_prefactor(log10_tau_0=-13.0, e_a=1.5)
    found = jax.value_and_grad(lambda t: log_failure_probability(law.log_hazard(t, 3600.0)))(temperature)
    np.testing.assert_allclose(found, (log_p, slope), rtol=1e-3, atol=1e-4)


def test_probability_against_exact_values_over_its_whole_range():
    x = np.concatenate([np.linspace(-600, 90, 3000), [-15.0, -14.999, -15.001, 0.0, np.log(0.7), 6.999, 7.0, 7.001]])
    x = np.asarray(jnp.asarray(x), float)
    with np.errstate(over="ignore"):
        hazard = np.exp(np.minimum(x, 300))
        exact = np.where(
            x < -30, x, np.where(hazard > 0.5, np.log1p(-np.exp(-np.maximum(hazard, 0.5))), np.log(-np.expm1(-hazard)))
        )
    np.testing.assert_allclose(log_failure_probability(jnp.asarray(x)), exact, rtol=tol(1e-5, 1e-13), atol=tol(1e-38, 1e-300))
    np.testing.assert_allclose(log_survival(jnp.asarray(x[x < 80])), -np.exp(x[x < 80]), rtol=tol(1e-5, 1e-12), atol=1e-37)


@pytest.mark.parametrize(
    "function", [log_failure_probability, log_survival, lambda x: log_sum(x, NEVER), lambda x: log_sum(x, x)]
)
def test_derivatives_are_finite_everywhere(function):
    x = jnp.linspace(-1000.0, 1000.0, 4001)
    for derivative in (jax.grad(function), jax.grad(jax.grad(function))):
        assert np.all(np.isfinite(jax.vmap(derivative)(x)))


def test_slope_of_the_log_probability():
    # d ln p / d ln H = H / (e^H - 1): at H = 1, 1 / (e - 1) = 0.58197671; for H -> 0 it is 1.
    slopes = jax.vmap(jax.grad(log_failure_probability))(jnp.array([0.0, -40.0, -14.0]))
    np.testing.assert_allclose(slopes, [0.58197671, 1.0, 1.0], rtol=2e-6)


def test_hazard_is_additive_and_independent_of_order():
    law = load_device("cbram").retention
    rng = np.random.default_rng(0)
    temperatures, durations = jnp.asarray(rng.uniform(300, 420, (2000, 3))), jnp.asarray(10 ** rng.uniform(-3, 5, (2000, 3)))

    def gather(order):
        x = jnp.full(2000, NEVER)
        for i in order:
            x = law.accumulate(x, temperatures[:, i], durations[:, i])
        return x

    np.testing.assert_allclose(gather([0, 1, 2]), gather([2, 0, 1]), atol=tol(2e-5, 1e-12))
    halves = law.accumulate(law.log_hazard(350.0, 500.0), 350.0, 500.0)
    np.testing.assert_allclose(halves, law.log_hazard(350.0, 1000.0), atol=tol(1e-5, 1e-12))


def test_nothing_happens_in_no_time():
    law = Retention()
    assert law.accumulate(-10.0, 400.0, 0.0) == -10.0
    assert np.isfinite(jax.grad(lambda t: law.accumulate(-10.0, 400.0, t))(0.0))


def test_a_million_small_hazards_add_up():
    """Each adds 1e-9 of the total: in float32 a plain logarithmic sum stands still."""
    start, step, count = -14.0, -14.0 + np.log(1e-9), 1_000_000
    exact = start + np.log1p(1e-9 * count)

    def compensated(x):
        return jax.lax.scan(lambda s, _: (add_log(s, step), None), CompensatedSum.start(x), None, length=count)[0].value

    np.testing.assert_allclose(jax.jit(compensated)(start) - start, exact - start, rtol=tol(2e-3, 1e-6))
    if not X64:
        plain = jax.jit(lambda x: jax.lax.fori_loop(0, count, lambda _, s: log_sum(s, jnp.asarray(step, s.dtype)), x))
        assert plain(jnp.asarray(start)) == start


@pytest.mark.parametrize("law", [Retention(), ThermalStability()])
def test_properties_over_many_states(law):
    temperature = jnp.linspace(200.0, 700.0, 5000)
    log_time = jax.vmap(law.log_time)(temperature)
    assert np.all(np.diff(log_time) < 0)  # hotter forgets sooner
    np.testing.assert_allclose(log_time, law.log_time(temperature), rtol=tol(1e-5, 1e-13))  # batched equals elementwise
    slopes = jax.vmap(jax.grad(lambda p, t: p.log_time(t)), in_axes=(None, 0))(law, temperature)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))


@pytest.mark.parametrize("law", [Retention(), ThermalStability(exponent=1.3)])
def test_gradients_agree_with_finite_differences(law):
    with jax.enable_x64(True):
        law = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), law)
        function = jax.jit(lambda p, t, d: (p.log_hazard(t, d), p.temperature_budget(d, 1e-6)))
        ones = jax.tree.map(jnp.ones_like, law)  # relative changes: the parameters differ by ten orders of magnitude

        def scaled(factors, t, d):
            return function(jax.tree.map(jnp.multiply, law, factors), t, d)

        check_grads(jax.jit(scaled), (ones, jnp.asarray(350.0), jnp.asarray(1e3)), order=2, modes=["fwd"], rtol=1e-4, eps=1e-4)


def test_changed_values_do_not_retrace():
    traces = 0

    @jax.jit
    def log_time(law, temperature):
        nonlocal traces
        traces += 1
        return law.log_time(temperature)

    for e_a in (1, 1.2, np.float32(1.4)):
        log_time(Retention(e_a=e_a), jnp.asarray(300.0))
    assert traces == 1
