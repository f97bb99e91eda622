"""Endurance and wear: signs, additivity, and sums of very many very small numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from physics import CompensatedSum, Endurance, Wear, load_device

X64 = jax.config.read("jax_enable_x64")


def tol(single: float, double: float) -> float:
    return double if X64 else single


def test_endurance_by_hand():
    # e_a = 0.3 eV, 1e6 writes at 300 K. At 400 K: 0.3 / 8.617333e-5 * (1/400 - 1/300) = -2.901130, so 1e6 / 18.194715 = 54961.
    law = Endurance(log_cycles_ref=np.log(1e6), e_a=0.3)
    np.testing.assert_allclose(jnp.exp(law.log_cycles(400.0)), 1e6 / 18.194715, rtol=2e-5)
    np.testing.assert_allclose(law.damage(400.0, 54961.0), 1.0, rtol=1e-4)


def test_published_sign_makes_hot_cells_live_longer():
    # The same exponent with the published sign: 18.194715 times more at 400 K than at 300 K.
    law = Endurance(log_cycles_ref=np.log(1e6), e_a=0.3, sign="published")
    np.testing.assert_allclose(jnp.exp(law.log_cycles(400.0)), 1e6 * 18.194715, rtol=2e-5)
    assert jax.grad(law.log_cycles)(350.0) > 0 > jax.grad(Endurance().log_cycles)(350.0)


def test_unknown_sign():
    with pytest.raises(ValueError, match="unknown sign 'publised'; close: published"):
        Endurance(sign="publised")


def test_signed_activation_energy_turns_the_slope():
    slopes = [jax.grad(Endurance(e_a=e).log_cycles)(350.0) for e in (-0.3, 0.0, 0.3)]
    assert slopes[0] > 0 and slopes[1] == 0 and slopes[2] < 0


@pytest.mark.parametrize(
    ("device", "low", "high"),
    [("hfox_reram", 1e4, 1e9), ("hfalo_reram", 1e4, 1e9), ("cbram", 1e4, 1e9), ("perpendicular_stt_mram", 1e6, 1e15)],
)
def test_devices_lie_in_the_reported_range(device, low, high):
    """NVMExplorer's summary of 2016-2020 publications: ReRAM 1e4 to 1e9, STT-MRAM 1e6 to 1e15 writes."""
    assert np.log(low) <= load_device(device).endurance.log_cycles(300.0) <= np.log(high)


def test_a_million_small_increments_count():
    """A million times 1e-9 on 0.5 makes 0.501; a plain float32 sum stays at 0.5."""

    def run(wear):
        return jax.lax.scan(lambda w, _: (w.add(1e-9), None), wear, None, length=1_000_000)[0]

    np.testing.assert_allclose(float(jax.jit(run)(Wear.zero(0.5)).damage), 0.501, rtol=1e-7)
    batch = jax.jit(jax.vmap(run))(Wear.zero(jnp.array([0.5, 0.0, 0.25])))
    np.testing.assert_allclose(np.asarray(batch.damage, float), [0.501, 0.001, 0.251], rtol=2e-7)
    if not X64:
        plain = jax.jit(lambda x: jax.lax.fori_loop(0, 1_000_000, lambda _, s: s + jnp.float32(1e-9), x))
        assert plain(jnp.float32(0.5)) == 0.5


def test_compensated_sum_of_mixed_magnitudes_and_signs():
    """1 + 1e8 - 1e8 - 1 is zero, and a long random sum agrees with exact arithmetic."""
    total = CompensatedSum.start(1.0)
    for term in (1e8, -1e8, -1.0):
        total = total.add(jnp.asarray(term))
    assert total.value == 0.0
    terms = jnp.asarray(np.random.default_rng(0).normal(size=20000) * 10 ** np.random.default_rng(1).uniform(-6, 3, 20000))
    summed = jax.jit(lambda t: jax.lax.scan(lambda s, x: (s.add(x), None), CompensatedSum.start(), t)[0])(terms)
    exact = np.sum(np.asarray(terms, np.longdouble))
    np.testing.assert_allclose(float(summed.high) + float(summed.low), float(exact), rtol=tol(1e-7, 1e-15))


def test_derivatives_of_a_compensated_sum_are_those_of_a_sum():
    slopes = jax.grad(lambda xs: jax.lax.scan(lambda s, x: (s.add(x), None), CompensatedSum.start(0.5), xs)[0].value)(
        jnp.full(100, 1e-9)
    )
    np.testing.assert_array_equal(slopes, np.ones(100))


def test_damage_is_additive_and_independent_of_order():
    law, rng = Endurance(), np.random.default_rng(2)
    temperatures, writes = rng.uniform(280, 420, 2000), rng.uniform(1, 100, 2000)
    damage = law.damage(jnp.asarray(temperatures), jnp.asarray(writes))

    def total(d):
        return jax.lax.scan(lambda w, x: (w.add(x), None), Wear.zero(), d)[0].damage

    forward, backward = total(damage), total(damage[::-1])
    halves = total(jnp.repeat(damage / 2, 2))
    np.testing.assert_allclose([backward, halves], forward, rtol=tol(2e-7, 1e-14))
    np.testing.assert_allclose(forward, np.sum(np.asarray(damage, float)), rtol=tol(2e-7, 1e-14))


def test_log_damage_and_damage_agree():
    law = Endurance()
    np.testing.assert_allclose(jnp.exp(law.log_damage(350.0, 12.0)), law.damage(350.0, 12.0), rtol=1e-5)
    assert law.damage(350.0, 0.0) == 0.0 and law.log_damage(350.0, 0.0) < -400


def test_weibull_population_by_hand():
    # At D = 1 a share 1 - 1/e = 0.63212 has failed, whatever the slope; at D = 0.1 and slope 2, 1 - exp(-0.01) = 0.0099502.
    law = Endurance(shape=2.0)
    np.testing.assert_allclose(jnp.exp(law.log_failure_probability(jnp.array([1.0, 0.1]))), [0.6321206, 0.0099502], rtol=1e-5)
    assert law.log_failure_probability(jnp.asarray(0.0)) < -400


def test_lifetime_by_hand():
    # 1e6 writes per cell, 1e9 cells, levelling 0.5, 1e6 writes/s: 1e6 * 1e9 * 0.5 / 1e6 = 5e8 s.
    law = Endurance(log_cycles_ref=np.log(1e6))
    np.testing.assert_allclose(jnp.exp(law.log_lifetime(300.0, 1e6, 1e9, 0.5)), 5e8, rtol=1e-5)


def test_gradients():
    with jax.enable_x64(True):
        law = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), Endurance())
        function = jax.jit(lambda p, t: (p.log_cycles(t), p.log_damage(t, 7.0), p.log_failure_probability(0.3)))
        check_grads(function, (law, jnp.asarray(350.0)), order=1, rtol=1e-5, eps=1e-5)
    slopes = jax.vmap(jax.grad(lambda p, t: p.damage(t, 1.0)), in_axes=(None, 0))(Endurance(), jnp.linspace(200.0, 700.0, 500))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))
