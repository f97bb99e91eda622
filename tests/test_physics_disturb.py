"""Read disturb of magnetic and resistive cells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from physics import MagneticDisturb, ResistiveDisturb, ThermalStability, log_failure_probability

CRITICAL = 50e-6


def magnetic(ratio, delta=60.0, duration=5e-9):
    stability = ThermalStability(delta_ref=delta, temperature_ref=300.0)
    return MagneticDisturb(critical_current=CRITICAL).log_hazard(stability, 300.0, ratio * CRITICAL, duration)


# P = 1 - exp(-(t / tau_0) exp(-Delta (1 - I / I_c0))), 5 ns reads, tau_0 = 1 ns. For Delta 60, I / I_c0 = 0.1:
# ln P = ln 5 - 54 = -52.39, P = 1.8e-23.
TABLE = [
    (60, 0.1, 1.8e-23),
    (60, 0.2, 7.1e-21),
    (60, 0.3, 2.9e-18),
    (60, 0.5, 4.7e-13),
    (40, 0.1, 1.2e-15),
    (40, 0.2, 6.3e-14),
    (40, 0.3, 3.5e-12),
    (40, 0.5, 1.0e-8),
]


@pytest.mark.parametrize(("delta", "ratio", "probability"), TABLE)
def test_probability_of_one_read(delta, ratio, probability):
    np.testing.assert_allclose(log_failure_probability(magnetic(ratio, delta)), np.log(probability), atol=0.05)


def test_without_current_a_read_is_retention():
    stability = ThermalStability(delta_ref=60.0, temperature_ref=300.0)
    np.testing.assert_allclose(magnetic(0.0), stability.log_hazard(300.0, 5e-9), rtol=1e-6)


def test_hazard_saturates_without_a_jump_at_the_critical_current():
    # No barrier: hazard t / tau_0 = 5, ln 5 = 1.609438.
    ratios = jnp.linspace(0.9, 1.2, 3001)
    hazard = jax.vmap(magnetic)(ratios)
    assert np.all(np.diff(hazard) >= 0)
    assert np.max(np.diff(hazard)) < 0.01
    np.testing.assert_allclose(hazard[ratios > 1.006], np.log(5.0), rtol=1e-5)
    assert abs(magnetic(1.0) - np.log(5.0)) < 0.1
    slopes = jax.vmap(jax.grad(magnetic))(ratios)
    assert np.all(np.isfinite(slopes)) and np.max(np.abs(np.diff(slopes))) < 1.0  # continuous slope
    assert np.all(slopes[ratios > 1.006] == 0)


def test_more_current_time_or_heat_means_more_disturb():
    law, stability = MagneticDisturb(critical_current=CRITICAL), ThermalStability()
    slopes = jax.grad(lambda t, i, d: law.log_hazard(stability, t, i, d), argnums=(0, 1, 2))(350.0, 0.3 * CRITICAL, 5e-9)
    assert all(s > 0 for s in slopes)
    assert magnetic(-0.3) == magnetic(0.3)


def test_resistive_rate_by_hand():
    # At the reference point: 10 ns * exp(-6.907755) 1/s = 1e-11 per read, so 1e9 reads give 0.01.
    law = ResistiveDisturb(log_rate_ref=np.log(1e-3))
    np.testing.assert_allclose(law.log_hazard(300.0, 0.4, 10e-9), np.log(1e-11), rtol=1e-6)
    # Half the voltage: sinh(0.2 / 0.0776) / sinh(0.4 / 0.0776) = 6.54292 / 86.6138 = 0.0755413.
    np.testing.assert_allclose(law.log_hazard(300.0, 0.2, 10e-9) - np.log(1e-11), np.log(6.54292 / 86.6138), atol=1e-4)


def test_a_billion_inference_reads_do_not_lose_a_level():
    """28 nm OxRAM kept its levels over 1e9 inference reads (CEA-Leti 2025)."""
    assert ResistiveDisturb().log_hazard(300.0, 0.4, 10e-9) + np.log(1e9) < np.log(0.05)


def test_resistive_disturb_vanishes_without_voltage():
    law = ResistiveDisturb()
    voltages = jnp.asarray([1e-3, 1e-6, 1e-9, 1e-12])
    hazard = law.log_hazard(300.0, voltages, 10e-9)
    np.testing.assert_allclose(np.diff(hazard), -np.log(1e3), rtol=1e-5)  # proportional to V
    assert law.log_hazard(300.0, 0.0, 10e-9) < -400
    assert law.log_hazard(300.0, -0.3, 1e-8) == law.log_hazard(300.0, 0.3, 1e-8)


def test_resistive_field_has_one_slope_at_high_voltage():
    # sinh becomes exponential: one more volt multiplies the rate by exp(1 / 0.0776).
    law = ResistiveDisturb()
    np.testing.assert_allclose(jax.grad(lambda v: law.log_hazard(300.0, v, 1e-8))(3.0), 1 / 0.0776, rtol=1e-5)


def test_heat_helps_the_ions_at_read_voltage():
    # d ln h / dT = (e_a - field) / k T^2 in short: 0.6 eV against 0.4 / 0.0776 = 5.15 kT = 0.133 eV of field lowering.
    law = ResistiveDisturb()
    slope = jax.grad(lambda t: law.log_hazard(t, 0.4, 1e-8))(300.0)
    np.testing.assert_allclose(slope, (0.6 / 8.617333e-5 / 300 - 0.4 / 0.0776) / 300, rtol=1e-3)


@pytest.mark.parametrize("voltage", [0.0, 1e-30, 0.4, 5.0])
def test_gradients_are_finite(voltage):
    slopes = jax.grad(lambda p, t, v: p.log_hazard(t, v, 1e-8), argnums=(0, 1))(ResistiveDisturb(), 350.0, voltage)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))
    magnetic_slopes = jax.grad(lambda p, s: p.log_hazard(s, 350.0, voltage * 1e-4, 1e-8), argnums=(0, 1))(
        MagneticDisturb(), ThermalStability()
    )
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(magnetic_slopes))


def test_gradients_agree_with_finite_differences():
    with jax.enable_x64(True):
        law = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), ResistiveDisturb())
        function = jax.jit(lambda p, t, v: p.log_hazard(t, v, 1e-8))
        check_grads(function, (law, jnp.asarray(350.0), jnp.asarray(0.3)), order=1, rtol=1e-5, eps=1e-6)
        check_grads(jax.jit(lambda r: magnetic(r)), (jnp.asarray(0.4),), order=1, rtol=1e-5, eps=1e-6)
