"""Named memory cells: loading, published pass points, derived quantities, and gradients through the whole cell."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import physics
from physics import (
    NEVER,
    YEAR,
    Cell,
    Endurance,
    MagneticDisturb,
    Retention,
    describe,
    from_celsius,
    labels,
    list_devices,
    load_device,
    log_failure_probability,
    log_sum,
    lookup,
    replace,
    to_celsius,
)

X64 = jax.config.read("jax_enable_x64")


def tol(single: float, double: float) -> float:
    return double if X64 else single


@pytest.mark.parametrize("name", list_devices())
def test_every_device_loads_and_names_itself(name):
    cell = load_device(name)
    assert name.split("_")[0] in ("hfox", "hfalo", "cbram", "perpendicular")
    assert str(describe(cell)).count("\n") == len(labels(cell))
    assert cell.r_on < cell.r_off


@pytest.mark.parametrize("name", list_devices())
def test_sources_of_a_device_name_its_own_parameters(name):
    cell = load_device(name)
    for label, source in cell.sources:
        assert lookup(cell, label).param.source == source


def test_unknown_device():
    with pytest.raises(ValueError, match=r"unknown device 'hfox'; close: hfox_reram"):
        load_device("hfox")


def test_a_disturb_law_must_belong_to_the_retention_law():
    with pytest.raises(ValueError, match="disturb MagneticDisturb does not belong to retention Retention"):
        Cell(Retention(), Endurance(), MagneticDisturb())


@pytest.mark.parametrize("name", list_devices())
def test_write_energy_is_voltage_times_current_times_pulse(name):
    cell = load_device(name)
    np.testing.assert_allclose(cell.write_voltage * cell.write_current * cell.write_time, cell.write_energy, rtol=1e-5)


def test_embedded_mram_keeps_its_bits():
    """Ten years at 120 C and 125 C are reported for embedded STT-MRAM (TDK-Headway 2015; VLSI 2017), and 260 C reflow."""
    retention = load_device("perpendicular_stt_mram").retention
    assert log_failure_probability(retention.log_hazard(from_celsius(120.0), 10 * YEAR)) < np.log(1e-6)
    assert log_failure_probability(retention.log_hazard(from_celsius(125.0), 10 * YEAR)) < np.log(1.1e-6)
    assert log_failure_probability(retention.log_hazard(from_celsius(260.0), 90.0)) < np.log(1e-6)


def test_devices_are_ranked_by_their_ten_year_temperature():
    budgets = {n: float(to_celsius(load_device(n).retention.temperature_budget(10 * YEAR, 1.0))) for n in list_devices()}
    assert budgets["cbram"] < budgets["hfox_reram"] < budgets["perpendicular_stt_mram"]


@pytest.mark.parametrize("name", list_devices())
def test_loss_joins_retention_and_reads(name):
    cell = load_device(name)
    idle, reads = cell.log_loss(350.0, 10.0), jnp.array([0.0, 1.0, 1e6])
    np.testing.assert_allclose(idle, cell.retention.log_hazard(350.0, 10.0), rtol=1e-6)
    expected = log_sum(cell.retention.log_hazard(350.0, 10.0), jnp.log(1e6) + cell.log_disturb(350.0))
    np.testing.assert_allclose(cell.log_loss(350.0, 10.0, reads), [idle, cell.log_loss(350.0, 10.0, 1.0), expected], rtol=1e-5)
    assert cell.log_loss(350.0, 0.0, 0.0) < NEVER / 2
    doubled = cell.log_loss(350.0, 20.0, 2e6) - cell.log_loss(350.0, 10.0, 1e6)
    np.testing.assert_allclose(doubled, np.log(2.0), atol=tol(1e-5, 1e-12))


def test_a_pulse_heats_the_cell_only_if_told_so():
    cell = load_device("hfox_reram")
    assert cell.write_temperature(350.0) == 350.0
    # 0.6 pJ in 10 ns are 60 uW; through 1e6 K/W that is 60 K.
    np.testing.assert_allclose(replace(cell, {"r_thermal": 1e6}).write_temperature(350.0), 410.0, rtol=1e-6)


@pytest.mark.parametrize("name", list_devices())
def test_gradients_of_the_loss_are_finite_and_signed(name):
    cell = load_device(name)

    def loss(c, temperature):
        return c.log_loss(temperature, 3600.0, 1e4)

    temperatures = jnp.linspace(200.0, 700.0, 501)
    by_cell, by_temperature = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1)), in_axes=(None, 0)))(cell, temperatures)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(by_cell))
    assert np.all(np.isfinite(by_temperature)) and np.all(by_temperature > 0)
    barrier = by_cell.retention.log_tau_ref if name != "perpendicular_stt_mram" else by_cell.retention.delta_ref
    assert np.all(barrier <= 0)


@pytest.mark.parametrize("name", list_devices())
def test_float32_and_float64_agree(name):
    cell = load_device(name)
    temperatures = np.linspace(250, 600, 200)
    single = jax.vmap(lambda t: cell.log_loss(t, 3600.0, 1e4))(jnp.asarray(temperatures))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), cell)
        double = jax.vmap(lambda t: wide.log_loss(t, 3600.0, 1e4))(jnp.asarray(temperatures))
    assert np.max(np.abs(np.asarray(single, float) - np.asarray(double))) < tol(3e-5, 1e-12)  # absolute, in ln H


def test_the_public_surface_is_what_all_says():
    for name in physics.__all__:
        assert hasattr(physics, name)
    assert len(set(physics.__all__)) == len(physics.__all__)


def test_named_devices_of_one_family_can_be_stacked():
    """Citations are documentation, not structure: a batch of two devices is one tree, and needs one trace."""
    first, second = physics.hfox_reram(), physics.cbram()
    assert jax.tree.structure(first) == jax.tree.structure(second)
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), first, second)
    times = jax.vmap(lambda cell: cell.retention.log_time(358.15))(batch)
    assert np.allclose(times, [float(first.retention.log_time(358.15)), float(second.retention.log_time(358.15))])
    assert dict(first.sources) != dict(second.sources)


def test_physics_is_a_leaf():
    """Importing it pulls in none of the other packages, nor anything heavy."""
    script = "import physics, sys; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"workloads", "costmodel", "rl", "scipy.integrate", "matplotlib", "xarray", "pandas", "flax", "optax"} & set(
        loaded
    )
