"""Lifetime in one call: each mechanism by hand, mission profiles, elasticities, flags."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physics import (
    YEAR,
    DielectricBreakdown,
    Electromigration,
    lifetime,
    list_devices,
    load_device,
    parameters,
    replace,
)

X64 = jax.config.read("jax_enable_x64")
HFOX = load_device("hfox_reram")
FLAT = jnp.full(5, 358.15)
NEVER = 400.0  # ln s


def tol(single: float, double: float) -> float:
    return double if X64 else single


def profile(seed: int = 0, points: int = 96):
    """A day of work and nights: 300 to 380 K."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(340 + 30 * np.sin(np.linspace(0, 12 * np.pi, points)) + rng.uniform(-8, 8, points))


def test_retention_by_hand():
    # tau = e^24.3622 s at 85 C, budget 1e-6: 38,051 s.
    found = lifetime(HFOX, FLAT, 0.0, 0.0)
    assert found.mechanism == "retention" and bool(found.valid) and not bool(found.restored)
    np.testing.assert_allclose(jnp.exp(found.log_time), np.exp(24.3622) * 1e-6, rtol=tol(2e-5, 1e-6))
    np.testing.assert_allclose(found.log_times[1:] > NEVER, [True, True])
    np.testing.assert_allclose(found.elasticities["retention.log_tau_ref"], 1.0, rtol=1e-5)
    np.testing.assert_allclose(found.elasticities["budget"], 1.0, rtol=1e-5)
    # d ln tau / dT = -1.5588 / (8.617333e-5 * 358.15^2) = -0.141022 per K.
    np.testing.assert_allclose(found.per_kelvin, -0.141022, rtol=1e-4)


def test_endurance_by_hand():
    # 1e6 writes at 300 K; at 358.15 K exp(-0.3 / 8.617333e-5 * (1/300 - 1/358.15)) = 0.151903: 151,903 writes at 10 per second.
    found = lifetime(HFOX, FLAT, 10.0, 0.0)
    assert found.mechanism == "endurance" and bool(found.restored)
    np.testing.assert_allclose(jnp.exp(found.log_time), 15190, rtol=1e-3)
    np.testing.assert_allclose(found.elasticities["write_rate"], -1.0, rtol=1e-5)
    np.testing.assert_allclose(found.elasticities["damage"], 1.0, rtol=1e-5)
    np.testing.assert_allclose(lifetime(HFOX, FLAT, 10.0, 0.0, damage=0.5).log_time - found.log_time, np.log(0.5), atol=1e-5)


def test_disturb_by_hand():
    # Hazard of a read exp(log_disturb); 1e6 reads per second reach 1e-6 when their sum does.
    found = lifetime(HFOX, FLAT, 0.0, 1e6)
    assert found.mechanism == "disturb"
    np.testing.assert_allclose(found.log_times[1], np.log(1e-6) - np.log(1e6) - HFOX.log_disturb(358.15), rtol=1e-5)
    np.testing.assert_allclose(found.elasticities["read_rate"], -1.0, rtol=1e-3)
    assert found.elasticities["disturb.log_rate_ref"] < 0


def test_retention_and_disturb_share_the_budget():
    """Where both alone would take equally long, together they take half as long."""
    rate = float(jnp.exp(HFOX.retention.log_hazard_rate(358.15) - HFOX.log_disturb(358.15)))
    found = lifetime(HFOX, FLAT, 0.0, rate)
    np.testing.assert_allclose(found.log_times[0], found.log_times[1], rtol=1e-5)
    np.testing.assert_allclose(found.log_time, found.log_times[0] - np.log(2), rtol=1e-5)


def test_writing_restores_unless_told_otherwise():
    often, seldom = 1e-3, 1e-6  # every 1,000 s and every 1e6 s; the budget of 1e-6 lasts 38,051 s
    assert lifetime(HFOX, FLAT, often, 0.0).mechanism == "endurance"
    assert lifetime(HFOX, FLAT, often, 0.0, restoring=False).mechanism == "retention"
    assert lifetime(HFOX, FLAT, seldom, 0.0).mechanism == "retention"


@pytest.mark.parametrize("duration", [3.0, 100.0, 3e3, 1e5, 3e5, 3e6])
def test_a_mission_profile_is_followed_exactly(duration):
    """Against the interpolated running sum in float64; after the end of the profile, by its mean."""
    temperatures = profile()
    rates = np.exp(-np.asarray(HFOX.retention.log_time(temperatures), np.float64)) + 5.0 * np.exp(
        np.asarray(HFOX.log_disturb(temperatures), np.float64)
    )
    running = np.concatenate([[0.0], np.cumsum(rates * duration)])
    runs = 1e-6 / running[-1]
    exact = np.interp(1e-6, running, np.arange(97) * duration) if runs < 1 else runs * 96 * duration
    found = lifetime(HFOX, temperatures, 0.0, 5.0, durations=duration)
    np.testing.assert_allclose(jnp.exp(found.log_time), exact, rtol=tol(5e-5, 1e-6))


def test_the_end_passes_through_the_whole_profile():
    """Over budgets of thirteen decades, through all points and the end of the profile."""
    temperatures, budgets = profile(1), jnp.logspace(-9, 4, 4000)
    times = jax.jit(jax.vmap(lambda b: lifetime(HFOX, temperatures, 0.0, 0.0, durations=1e5, budget=b).log_time))(budgets)
    rates = np.exp(-np.asarray(HFOX.retention.log_time(temperatures), np.float64))
    running = np.concatenate([[0.0], np.cumsum(rates * 1e5)])
    exact = np.interp(np.asarray(budgets, float), running, np.arange(97) * 1e5)
    exact = np.log(np.where(budgets > running[-1], budgets / running[-1] * 96e5, exact))
    assert np.sum(budgets < running[-1]) > 500 and np.sum(budgets > running[-1]) > 500
    np.testing.assert_allclose(times, exact, atol=tol(2e-4, 1e-6))


def test_constant_trace_is_one_point():
    for device in list_devices():
        cell = load_device(device)
        one = lifetime(cell, jnp.array([350.0]), 1e-4, 10.0, durations=YEAR)
        many = lifetime(cell, jnp.full(23, 350.0), 1e-4, 10.0, durations=YEAR / 23)
        np.testing.assert_allclose(one.log_times, many.log_times, rtol=tol(3e-6, 1e-10))


def test_unequal_durations_and_rates_per_point():
    """A point of two halves is the point; writes count where they happen."""
    temperatures, cell = jnp.array([320.0, 350.0, 330.0]), HFOX
    split = jnp.array([320.0, 350.0, 350.0, 330.0])
    whole = lifetime(cell, temperatures, jnp.array([0.0, 8.0, 1.0]), 3.0, durations=jnp.array([5.0, 6.0, 7.0]))
    halves = lifetime(cell, split, jnp.array([0.0, 8.0, 8.0, 1.0]), 3.0, durations=jnp.array([5.0, 3.0, 3.0, 7.0]))
    np.testing.assert_allclose(whole.log_times, halves.log_times, rtol=tol(2e-6, 1e-10))
    worn = 48 / np.exp(float(cell.endurance.log_cycles(350.0))) + 7 / np.exp(float(cell.endurance.log_cycles(330.0)))
    np.testing.assert_allclose(whole.log_times[2], np.log(18 / worn), rtol=1e-5)


def test_aging_mechanisms_compete():
    def end(temperatures, budget, current_density=1.0):
        aging = {"wires": Electromigration(current_density=current_density), "oxide": DielectricBreakdown()}
        return lifetime(HFOX, temperatures, 0.0, 0.0, durations=1.0, budget=budget, aging=aging)

    found = end(jnp.full(9, 400.0), 1.0)
    assert found.mechanisms == ("retention", "disturb", "endurance", "oxide", "wires")
    np.testing.assert_allclose(found.log_times[4], Electromigration().log_mttf(400.0), rtol=1e-6)
    np.testing.assert_allclose(found.log_time, jnp.min(found.log_times), rtol=1e-6)
    stressed = end(FLAT, 1e9, 100.0)
    assert stressed.mechanism == "wires"
    np.testing.assert_allclose(stressed.elasticities["wires.current_density"], -1.1, rtol=1e-5)
    assert set(stressed.elasticities) >= {"wires.e_a", "retention.e_a", "write_rate", "read_rate", "budget", "damage"}
    # Half of the time at 400 K, half at 300 K: the hot half alone decides.
    half = end(jnp.array([300.0, 400.0]), 1e9)
    np.testing.assert_allclose(half.log_times[4], Electromigration().log_mttf(400.0) + np.log(2), atol=1e-3)
    assert not bool(end(jnp.array([520.0]), 1.0).valid)


@pytest.mark.parametrize("name", ["hfox_reram", "perpendicular_stt_mram"])
def test_properties_over_many_traces(name, getkey):
    cell, count = load_device(name), 2000
    shift = jax.random.uniform(getkey(), (count,), minval=-60.0, maxval=60.0)
    writes = jnp.exp(jax.random.uniform(getkey(), (count,), minval=-25.0, maxval=5.0))
    reads = jnp.exp(jax.random.uniform(getkey(), (count,), minval=-10.0, maxval=18.0))
    trace = profile(2, 30)

    def every(warmer, w, r):
        here, hotter = (lifetime(cell, trace + t, w, r) for t in (warmer, warmer + 5.0))
        return here, hotter.log_times, lifetime(cell, trace + warmer, w, 2 * r).log_times

    found, hotter, busier = jax.jit(jax.vmap(every))(shift, writes, reads)
    assert np.all(hotter < found.log_times)  # heat shortens every life
    assert np.all(busier[:, 1] <= found.log_times[:, 1]) and np.all(busier[:, 2] == found.log_times[:, 2])
    alive = jnp.where(found.restored[:, None], found.log_times[:, 2:], found.log_times)
    assert np.all(found.log_time <= jnp.min(alive, axis=1) + 1e-4)
    assert np.all(found.valid)
    assert all(np.all(np.isfinite(e)) for e in found.elasticities.values())
    assert np.all(found.per_kelvin < 0)
    assert set(np.unique(found.first)) <= {0, 1, 2} and len(np.unique(found.first)) >= 2


def test_elasticities_against_central_differences():
    with jax.enable_x64(True):
        cell = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), HFOX)
        cell = replace(cell, {"r_thermal": 1e5})
        trace = jnp.asarray(np.asarray(profile(3, 30), np.float64))
        logs = {p.label: p.param.unit.startswith("ln") for p in parameters(cell)}
        solve = jax.jit(lambda v, w, r, b, t, d: lifetime(replace(cell, v), trace + t, w, r, d, budget=b).log_time)
        values = {p.label: p.value for p in parameters(cell)}
        h = 1e-6
        for writes, reads, duration in ((0.0, 0.0, 1e2), (0.0, 0.0, 1e6), (0.0, 50.0, 1e4), (0.1, 1.0, 1e2), (0.1, 1.0, 1e6)):
            found = lifetime(cell, trace, writes, reads, duration)
            rest = (writes, reads, 1e-6, 0.0, duration)
            for label, value in values.items():
                step = h if logs[label] else h * float(value)
                up, down = (solve(values | {label: value + s * step}, *rest) for s in (1, -1))
                np.testing.assert_allclose(found.elasticities[label], (up - down) / (2 * h), rtol=1e-4, atol=1e-6, err_msg=label)
            for name, index in (("write_rate", 0), ("read_rate", 1), ("budget", 2)):
                args = [[x * (1 + s * h) if i == index else x for i, x in enumerate(rest)] for s in (1, -1)]
                slope = (solve(values, *args[0]) - solve(values, *args[1])) / (2 * h)
                np.testing.assert_allclose(found.elasticities[name], slope, rtol=1e-4, atol=1e-6, err_msg=name)
            up, down = (solve(values, writes, reads, 1e-6, s * 1e-4, duration) for s in (1, -1))
            np.testing.assert_allclose(found.per_kelvin, (up - down) / 2e-4, rtol=1e-4)


def test_derivatives_through_the_trace():
    """The lifetime is differentiable in the temperatures themselves; their slopes add up to that of a uniform shift."""
    trace = profile(4)
    found = lifetime(HFOX, trace, 0.0, 1.0, 1e6)
    slopes = jax.jit(jax.grad(lambda t: lifetime(HFOX, t, 0.0, 1.0, 1e6).log_time))(trace)
    np.testing.assert_allclose(jnp.sum(slopes), found.per_kelvin, rtol=1e-4)
    assert np.all(slopes <= 0)


def test_batches_and_single_precision():
    """1,000 devices at once equal one after the other, and float32 agrees with float64."""
    rng = np.random.default_rng(5)
    changes = {
        "retention.log_tau_ref": jnp.asarray(rng.normal(24, 3, 1000)),
        "retention.e_a": jnp.asarray(rng.uniform(1, 2, 1000)),
    }
    trace = profile(6)

    def end(values):
        return lifetime(replace(HFOX, values), trace, 1e-6, 1.0).log_time

    batch, single = jax.jit(jax.vmap(end))(changes), jax.jit(end)
    for i in (0, 500, 999):
        np.testing.assert_allclose(batch[i], single({k: v[i] for k, v in changes.items()}), rtol=tol(1e-5, 1e-10))
    with jax.enable_x64(True):
        cell, wide, long = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), (HFOX, changes, trace))
        exact = jax.jit(jax.vmap(lambda v: lifetime(replace(cell, v), long, 1e-6, 1.0).log_time))(wide)
    np.testing.assert_allclose(batch, exact, atol=tol(2e-4, 1e-12))


def test_flags():
    assert not bool(lifetime(HFOX, jnp.array([350.0, 710.0]), 0.0, 0.0).valid)
    assert not bool(lifetime(HFOX, jnp.array([350.0, 190.0]), 0.0, 0.0).valid)
    flag = jax.jit(jax.vmap(lambda e: lifetime(replace(HFOX, {"retention.e_a": e}), FLAT, 0.0, 0.0).valid))
    flags = flag(jnp.array([1.5, 5.0]))
    np.testing.assert_array_equal(flags, [True, False])
    hot = replace(HFOX, {"r_thermal": 1e7})  # 60 uW heat the written cell by 600 K
    assert not bool(lifetime(hot, FLAT, 1.0, 0.0).valid)


def test_self_heating_of_the_pulse_shortens_the_life():
    """60 uW through 1e6 K/W: the endurance is that of a cell 60 K hotter."""
    warm = replace(HFOX, {"r_thermal": 1e6})
    np.testing.assert_allclose(
        lifetime(warm, FLAT, 10.0, 0.0).log_time, lifetime(HFOX, FLAT + 60.0, 10.0, 0.0).log_times[2], rtol=1e-6
    )


def test_bad_input():
    with pytest.raises(ValueError, match=r"temperatures has shape \(2, 3\), expected \(points,\)"):
        lifetime(HFOX, jnp.full((2, 3), 300.0), 0.0, 0.0)
    with pytest.raises(ValueError, match=r"write_rate has shape \(2,\), expected \(\) or \(5,\)"):
        lifetime(HFOX, FLAT, jnp.ones(2), 0.0)
    with pytest.raises(ValueError, match="read_rate = -1 is not a finite number at least 0"):
        lifetime(HFOX, FLAT, 0.0, -1.0)
    with pytest.raises(ValueError, match="budget = 0 is not a finite number above 0"):
        lifetime(HFOX, FLAT, 0.0, 0.0, budget=0.0)


def test_changed_values_do_not_retrace():
    traces = 0

    @jax.jit
    def end(cell, trace, rate):
        nonlocal traces
        traces += 1
        return lifetime(cell, trace, rate, 0.0).log_time

    for e_a in (1.2, 1.5):
        end(replace(HFOX, {"retention.e_a": e_a}), FLAT, jnp.asarray(e_a))
    assert traces == 1
