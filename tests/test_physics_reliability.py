"""What keeps and loses data over long times: sums of millions of hazards, refresh rules, ranges of validity, fading levels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physics import (
    NEVER,
    YEAR,
    Endurance,
    LogTotal,
    MagneticDisturb,
    ReadDisturb,
    ResistiveDisturb,
    Retention,
    ThermalStability,
    from_celsius,
    load_device,
    log_sum,
    replace,
    to_celsius,
)
from physics.validity import in_bounds, inside, require_inside

X64 = jax.config.read("jax_enable_x64")


def tol(single: float, double: float) -> float:
    return double if X64 else single


@pytest.mark.parametrize(("start", "count", "plain_error"), [(-1e4, 100_000, 1e-4), (NEVER, 1_000_000, 1e-2)])
def test_accumulated_hazard_of_many_equal_steps(start, count, plain_error):
    """Each step adds e^-30: the total is count e^-30. A plain float32 logarithmic sum is off by more than `plain_error`."""

    def run(x, step):
        return jax.lax.scan(lambda s, _: (s.add(step), None), LogTotal.start(x), None, length=count)[0].value

    steps = jnp.asarray([-30.0, -30.1, -29.77])
    found = jax.jit(jax.vmap(run, in_axes=(None, 0)))(start, steps)
    expected = np.asarray(steps, float) + np.log(count)
    np.testing.assert_allclose(np.asarray(found, float), expected, atol=tol(3e-6, 1e-9))
    if not X64:
        plain = jax.jit(lambda s: jax.lax.fori_loop(0, count, lambda _, x: log_sum(x, s), jnp.full(3, start)))(steps)
        assert np.max(np.abs(np.asarray(plain, float) - expected)) > plain_error


def test_accumulated_hazard_of_unequal_steps_and_restarts():
    rng = np.random.default_rng(0)
    steps = jnp.asarray(rng.normal(-25, 4, (20000, 3)))
    restart = jnp.asarray(rng.uniform(size=(20000, 3)) < 2e-4)

    def advance(total, given):
        step, again = given
        return total.restart(again).add(step), None

    final = jax.jit(lambda s, r: jax.lax.scan(advance, LogTotal.start(jnp.full(3, NEVER)), (s, r))[0].value)(steps, restart)
    for column in range(3):
        marks = np.flatnonzero(restart[:, column])
        since = np.asarray(steps[marks[-1] if marks.size else 0 :, column], np.longdouble)
        np.testing.assert_allclose(float(final[column]), float(np.log(np.sum(np.exp(since)))), atol=tol(1e-5, 1e-10))


def test_a_jump_of_thousands_is_not_rounded():
    """From -1e4, the increment itself must come out; -1e4 + 9969.877 would be off by half a thousandth in float32."""
    assert LogTotal.start(-1e4).add(-30.123).value == jnp.asarray(-30.123)


def test_derivatives_of_an_accumulated_hazard():
    x, y = jnp.linspace(-40.0, 0.0, 801), jnp.full(801, -20.0)
    slopes = jax.vmap(jax.grad(lambda a, b: LogTotal.start(a).add(b).value, argnums=(0, 1)))(x, y)
    np.testing.assert_allclose(slopes[0], jax.nn.sigmoid(x - y), atol=1e-5)
    np.testing.assert_allclose(slopes[0] + slopes[1], np.ones(801), rtol=1e-6)


def test_hazard_of_a_trace_against_exact_sum():
    law, rng = load_device("cbram").retention, np.random.default_rng(1)
    temperatures, durations = rng.uniform(300, 420, 1000), 10 ** rng.uniform(-3, 5, 1000)
    hazard = np.sum(durations * np.exp(-np.asarray(law.log_time(jnp.asarray(temperatures)), np.float64)))
    found = law.log_hazard_of_trace(jnp.asarray(temperatures), jnp.asarray(durations))
    np.testing.assert_allclose(found, np.log(hazard), atol=tol(2e-5, 1e-10))


@pytest.mark.parametrize(("first", "last"), [(350.0, 350.0), (350.0, 350.01), (340.0, 355.0), (355.0, 340.0)])
def test_hazard_of_a_ramp(first, last):
    law = Retention()
    fine = np.linspace(first, last, 20001)
    rate = np.exp(-(24.3622 + 1.5588 / 8.617333262e-5 * (1 / fine - 1 / 358.15)))
    exact = np.log(np.trapezoid(rate, dx=1 / 20000))
    np.testing.assert_allclose(law.log_hazard_of_ramp(first, last, 1.0), exact, atol=0.005)
    slopes = jax.grad(lambda a, b: law.log_hazard_of_ramp(a, b, 1.0), argnums=(0, 1))(first, last)
    assert all(s > 0 for s in slopes)


def test_refresh_interval_by_hand():
    # tau = e^24.3622 = 3.805e10 s at 85 C, so 1e-6 of it is 38051 s.
    np.testing.assert_allclose(jnp.exp(Retention().log_refresh_interval(358.15, 1e-6)), 38051, rtol=tol(1e-4, 1e-4))


def test_refreshing_at_the_interval_uses_the_budget_up():
    law, temperatures = load_device("hfox_reram").retention, jnp.linspace(250.0, 500.0, 500)
    interval = jnp.exp(law.log_refresh_interval(temperatures, 1e-5))
    np.testing.assert_allclose(law.log_hazard(temperatures, interval), np.full(500, np.log(1e-5)), atol=tol(2e-5, 1e-10))
    np.testing.assert_allclose(law.log_margin(NEVER, temperatures, interval, 1e-5), np.zeros(500), atol=tol(2e-5, 1e-10))


def test_budget_and_kelvin_margins_change_sign_together():
    law, temperatures = load_device("hfox_reram").retention, jnp.linspace(300.0, 500.0, 2001)
    kelvin = law.margin(temperatures, 3600.0, 1e-6)
    budget = law.log_margin(NEVER, temperatures, 3600.0, 1e-6)
    clear = np.abs(kelvin) > 0.01
    assert np.all((kelvin > 0)[clear] == (budget > 0)[clear])
    gathered = law.log_margin(-20.0, temperatures, 3600.0, 1e-6)
    assert np.all(gathered <= budget) and np.all((gathered < budget)[budget > 0])  # what has been gathered counts


def test_published_rule_looks_at_tau_only():
    relaxed = ThermalStability(delta_ref=20.0, temperature_ref=300.0)
    # ln tau = ln 1e-9 + 20 at 300 K, minus ln 1e-3: 20 - 13.8155 = 6.1845. It falls to zero at 161 C.
    np.testing.assert_allclose(relaxed.log_margin(0.0, 300.0, 1.0, rule="published"), 6.1845, atol=1e-3)
    assert abs(relaxed.log_margin(NEVER, from_celsius(161.0), 1.0, rule="published")) < 0.05
    with pytest.raises(ValueError, match="unknown rule 'budgt'; close: budget"):
        relaxed.log_margin(0.0, 300.0, 1.0, rule="budgt")


# Ten-year temperature (C) from activation energy (eV) and log10 of the prefactor (s) of fits to bakes of three stacks, by
# the change of resistance that counts as loss (x2, x3, x5, x10; abrupt).
FITS = [
    (2.13, -18.4, 126),
    (2.09, -17.5, 132),
    (1.89, -14.9, 133),
    (1.56, -11.3, 123),
    (1.93, -15.8, 128),
    (1.61, -11.9, 125),
    (1.66, -11.9, 137),
    (1.302, -10.25, 77),
]


@pytest.mark.parametrize(("e_a", "log10_tau_0", "celsius"), FITS)
def test_ten_year_temperatures_of_the_fits(e_a, log10_tau_0, celsius):
    law = Retention.from_prefactor(log10_tau_0, e_a)
    assert abs(to_celsius(law.temperature_budget(10 * YEAR, 1.0)) - celsius) < 1.0


@pytest.mark.parametrize("name", ["hfox_reram", "perpendicular_stt_mram"])
def test_a_cell_knows_where_it_holds(name):
    cell = load_device(name)
    temperatures = jnp.asarray([150.0, 199.0, 200.0, 350.0, 700.0, 701.0])
    np.testing.assert_array_equal(cell.valid(temperatures), [False, False, True, True, True, False])
    hot = jax.jit(lambda r: replace(cell, {"r_thermal": r}).valid(350.0))  # 60 to 100 uW through 1e7 K/W
    assert bool(hot(0.0)) and not bool(hot(1e7))


def test_a_read_above_the_critical_current_is_flagged():
    cell = load_device("perpendicular_stt_mram")
    flag = jax.jit(lambda v: replace(cell, {"read_voltage": v}).valid(350.0))
    assert bool(flag(0.1)) and not bool(flag(0.2))  # 60 uA through 3 kilo-ohm are 0.18 V
    law = MagneticDisturb()
    np.testing.assert_array_equal(law.valid(300.0, jnp.asarray([-50e-6, 59e-6, 61e-6])), [True, True, False])
    assert not bool(ResistiveDisturb().valid(100.0)) and not bool(Endurance().valid(800.0))


def test_traced_parameters_outside_their_bounds_are_flagged():
    flag = jax.jit(lambda e: in_bounds(replace(Retention(), {"e_a": e})))
    assert bool(flag(1.5)) and not bool(flag(5.0)) and not bool(flag(jnp.nan))


def test_plain_numbers_outside_a_range_are_refused_and_traced_ones_flagged():
    with pytest.raises(ValueError, match=r"voltage = 2 V is outside its range \[0, 1\] V"):
        require_inside("voltage", 2.0, 0.0, 1.0, "V")
    with pytest.raises(ValueError, match="voltage = -1 V"):
        require_inside("voltage", jnp.array([0.5, -1.0]), 0.0, 1.0, "V")
    np.testing.assert_array_equal(
        jax.vmap(lambda v: require_inside("voltage", v, 0.0, 1.0, "V"))(jnp.array([0.5, 2.0])), [True, False]
    )
    assert bool(inside(1.0 + 1e-8, 0.0, 1.0)) and not bool(inside(jnp.nan, 0.0, 1.0))


# |V|, exponent p, transition time (s) of a fresh cell; analog-cim-sim 68e3bdc.
FADING = [(0.2, 0.01593, 102.05), (0.3, 0.02437, 0.04038), (0.4, 0.03730, 241e-6)]


@pytest.mark.parametrize(("voltage", "exponent", "seconds"), FADING)
def test_fading_levels(voltage, exponent, seconds):
    law = ReadDisturb()
    np.testing.assert_allclose(law.exponent(-voltage), exponent, rtol=5e-4)
    np.testing.assert_allclose(jnp.exp(law.log_transition_time(voltage)), seconds, rtol=3e-3)
    np.testing.assert_allclose(law.factor(1e3 * seconds, voltage), 1e3**-exponent, rtol=3e-3)
    assert law.factor(0.5 * seconds, voltage) == 1.0


def test_cycling_brings_fading_forward():
    law = ReadDisturb()
    # After 100 cycles at 0.2 V the simulator gives 29.03 s, at 0.3 V 17.76 ms.
    np.testing.assert_allclose(jnp.exp(law.log_transition_time(0.2, 300.0, 100.0)), 29.03, rtol=2e-3)
    np.testing.assert_allclose(jnp.exp(law.log_transition_time(0.3, 300.0, 100.0)), 0.01776, rtol=2e-3)
    cycles = jnp.logspace(0, 7, 2000)
    times = law.log_transition_time(0.3, 300.0, cycles)
    assert np.all(np.diff(times) <= 0) and np.all(np.isfinite(times))
    assert bool(law.valid(0.3, 7e4)) and not bool(law.valid(0.3, 8e4))
    assert not bool(jax.jit(lambda v: law.valid(v))(0.6))
