"""Rounding and maxima: exact counts at every multiple in large batches, and what the three policies promise."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from costmodel import HARD, STRAIGHT_THROUGH, Relaxation, soft
from costmodel.relax import ceil_div, floor_div, maximum, minimum, tile_count

X64 = jax.config.read("jax_enable_x64")
POLICIES = (HARD, STRAIGHT_THROUGH, soft(1.0), soft(2.5), soft(8.0), soft(1000.0))
SIZES = np.arange(2, 129)
MOST = 2**24 // 128  # quotients; the largest product stays below 2**24


def tol(single: float, double: float) -> float:
    return double if X64 else single


def points(seed: int = 0, count: int = 20_000):
    """Random n and k, not multiples of each other."""
    rng = np.random.default_rng(seed)
    k = rng.uniform(1.3, 300.0, count)
    fraction = rng.uniform(0.02, 0.98, count)
    whole = rng.integers(0, 2000, count)
    return jnp.asarray((whole + fraction) * k, float), jnp.asarray(k, float), whole, fraction


# Exact counts ---------------------------------------------------------------------------------------------------------


@jax.jit
def wrong_counts(k):
    """How many of all quotients at and beside the multiples of `k` come out wrong, by path."""
    q = jnp.arange(1, MOST, dtype=jnp.int32)
    n, size = q * k, k.astype(float)
    below, above = (n - 1).astype(float), (n + 1).astype(float)
    middle = n.astype(float)
    checks = {
        "ceil at": ceil_div(middle, size) != q,
        "ceil below": ceil_div(below, size) != q,
        "ceil above": ceil_div(above, size) != q + 1,
        "floor at": floor_div(middle, size) != q,
        "floor below": floor_div(below, size) != q - 1,
        "floor above": floor_div(above, size) != q,
        "int at": tile_count(n, k) != q,
        "int below": tile_count(n - 1, k) != q,
        "int above": tile_count(n + 1, k) != q + 1,
    }
    return {name: jnp.sum(wrong) for name, wrong in checks.items()}


def test_counts_are_exact_at_and_beside_every_multiple():
    wrong = jax.jit(partial(jax.lax.map, wrong_counts))(jnp.asarray(SIZES, jnp.int32))
    for name, counts in wrong.items():
        bad = {int(k): int(count) for k, count in zip(SIZES, counts, strict=True) if count}
        assert not bad, f"{name}: wrong counts by divisor {bad}"


@pytest.mark.parametrize("k", [3, 7, 13, 15, 28, 63, 95, 127])
def test_counts_are_exact_for_a_constant_divisor(k):
    # A compiler may turn division by a constant into multiplication by its reciprocal.
    q = np.arange(1, 50_000)
    up = jax.jit(lambda n: ceil_div(n, float(k)))(jnp.asarray(q * k, float))
    down = jax.jit(lambda n: floor_div(n, float(k)))(jnp.asarray(q * k, float))
    np.testing.assert_array_equal(up, q)
    np.testing.assert_array_equal(down, q)


def test_counts_equal_python_integers():
    rng = np.random.default_rng(1)
    k = rng.integers(1, 9000, 4000)
    n = np.minimum(rng.integers(0, 2**24 // 2, 4000), 2**24 - 1 - k)
    ups, downs = [-(-int(a) // int(b)) for a, b in zip(n, k, strict=True)], [int(a) // int(b) for a, b in zip(n, k, strict=True)]
    up, down = jax.jit(jax.vmap(lambda a, b: (ceil_div(a, b), floor_div(a, b))))(jnp.asarray(n, float), jnp.asarray(k, float))
    assert np.asarray(up).tolist() == ups
    assert np.asarray(down).tolist() == downs
    assert np.asarray(tile_count(jnp.asarray(n), jnp.asarray(k))).tolist() == ups


def test_large_integer_counts_do_not_overflow():
    n, k = np.array([2**31 - 1, 2**31 - 1, 10**9, 0]), np.array([2**31 - 1, 2, 7, 5])
    counts = jax.jit(tile_count)(jnp.asarray(n, jnp.int32), jnp.asarray(k, jnp.int32))
    assert np.asarray(counts).tolist() == [1, 2**30, 142_857_143, 0]


def test_counts_beyond_the_exact_range_stay_close_and_finite():
    n = jnp.asarray([1e9, 1e18, 1e27, 3.0], float)
    got = np.asarray(ceil_div(n, jnp.asarray([7.0, 128.0, 13.0, 1e9], float)), np.float64)
    np.testing.assert_allclose(got, [1e9 / 7, 1e18 / 128, 1e27 / 13, 1.0], rtol=3e-7)


def test_rounding_zero_gives_zero():
    for policy in POLICIES:
        assert float(ceil_div(0.0, 7.0, policy)) == 0.0
        assert float(floor_div(0.0, 7.0, policy)) == 0.0


# Policies of rounding -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharpness", [1.0, 2.5, 8.0, 100.0, 1000.0])
def test_soft_rounding_lies_between_the_ratio_and_the_count(sharpness):
    n, k, _, _ = points()
    x = np.asarray(n) / np.asarray(k)
    slack = tol(2e-6, 1e-13) * np.maximum(x, 1)
    up, down = ceil_div(n, k, soft(sharpness)), floor_div(n, k, soft(sharpness))
    assert (up >= x - slack).all() and (up <= ceil_div(n, k) + slack).all()
    assert (down <= x + slack).all() and (down >= floor_div(n, k) - slack).all()


@pytest.mark.parametrize("sharpness", [1.0, 8.0, 1000.0])
def test_soft_rounding_is_exact_at_multiples(sharpness):
    q = np.arange(0, 100_000)
    for k in (7.0, 13.0, 95.0, 128.0):
        n = jnp.asarray(q * k, float)
        np.testing.assert_array_equal(jax.jit(lambda n, k=k: ceil_div(n, k, soft(sharpness)))(n), q)
        np.testing.assert_array_equal(jax.jit(lambda n, k=k: floor_div(n, k, soft(sharpness)))(n), q)


def test_soft_rounding_becomes_hard_with_sharpness():
    n, k, whole, _ = points()  # fractions at least 0.02 from an integer: exp(-1000 x 0.02) = 2e-9
    np.testing.assert_allclose(ceil_div(n, k, soft(1000.0)), whole + 1, rtol=1e-6)
    np.testing.assert_allclose(floor_div(n, k, soft(1000.0)), whole, rtol=1e-6, atol=1e-6)


def test_soft_rounding_becomes_the_ratio_without_sharpness():
    n, k, whole, fraction = points()
    gentle = Relaxation("soft", 1e-3)  # below what soft() admits: the limit itself. Difference at most s / 8
    for function in (ceil_div, floor_div):
        np.testing.assert_allclose(function(n, k, gentle), whole + fraction, atol=1e-3 / 8 + tol(3e-4, 1e-9))


def test_soft_rounding_by_hand():
    # 10 / 4 = 2.5, s = 2: up 2 + (1 - e^-1) / (1 - e^-2) = 2.731059, down 2 + (e^1 - 1) / (e^2 - 1) = 2.268941
    np.testing.assert_allclose(ceil_div(10.0, 4.0, soft(2.0)), 2 + (1 - math.exp(-1)) / (1 - math.exp(-2)), rtol=1e-6)
    np.testing.assert_allclose(floor_div(10.0, 4.0, soft(2.0)), 2 + (math.e - 1) / (math.exp(2) - 1), rtol=1e-6)


@pytest.mark.parametrize("function", [ceil_div, floor_div])
def test_rounding_is_monotone_under_every_policy(function):
    n = jnp.sort(jnp.asarray(np.random.default_rng(2).uniform(0, 400, 5000), float))
    for policy in POLICIES:
        values = np.asarray(function(n, 7.3, policy))
        assert (np.diff(values) >= -tol(1e-5, 1e-12)).all(), str(policy)


@pytest.mark.parametrize("function", [ceil_div, floor_div])
def test_hard_rounding_has_slope_zero(function):
    n, k, _, _ = points(count=2000)
    slopes = jax.vmap(jax.grad(lambda a, b: function(a, b), argnums=(0, 1)))(n, k)
    assert all((np.asarray(s) == 0).all() for s in slopes)


@pytest.mark.parametrize("function", [ceil_div, floor_div])
def test_straight_through_has_the_hard_value_and_the_slope_of_the_ratio(function):
    n, k, _, _ = points(count=2000)
    multiples = jnp.round(n / k) * k
    for a in (n, multiples):
        slope = jax.vmap(jax.grad(lambda a, b: function(a, b, STRAIGHT_THROUGH), argnums=(0, 1)))
        np.testing.assert_array_equal(function(a, k, STRAIGHT_THROUGH), function(a, k))
        by_n, by_k = slope(a, k)
        np.testing.assert_allclose(by_n, 1 / k, rtol=1e-6)
        np.testing.assert_allclose(by_k, -a / k**2, rtol=1e-6)


@pytest.mark.parametrize("function", [ceil_div, floor_div])
@pytest.mark.parametrize("sharpness", [1.0, 8.0, 30.0])
def test_soft_slopes_off_the_kinks(function, sharpness):
    with jax.enable_x64(True):
        rng = np.random.default_rng(3)
        k = jnp.asarray(rng.uniform(2.0, 20.0, 40))
        n = k * (rng.integers(0, 5, 40) + rng.uniform(0.1, 0.9, 40))
        check_grads(
            lambda a, b: function(jnp.asarray(a), jnp.asarray(b), soft(sharpness)), (n, k), order=1, modes=["rev"], rtol=1e-4
        )


@pytest.mark.parametrize("function", [ceil_div, floor_div])
def test_slopes_are_finite_at_multiples(function):
    for policy in POLICIES:
        for n in (0.0, 7.0, 700.0, 7e6):
            slopes = jax.grad(lambda a, b, policy=policy: function(a, b, policy), argnums=(0, 1))(n, 7.0)
            assert all(np.isfinite(s) for s in slopes), f"{policy} at {n}"


def test_soft_slope_at_a_multiple_is_the_one_from_the_right():
    # s / (1 - exp(-s)) / k = 2 / (1 - e^-2) / 4
    np.testing.assert_allclose(jax.grad(lambda n: ceil_div(n, 4.0, soft(2.0)))(12.0), 2 / (1 - math.exp(-2)) / 4, rtol=1e-6)


# Maxima ---------------------------------------------------------------------------------------------------------------


def pairs(seed: int = 4, count: int = 5000):
    rng = np.random.default_rng(seed)
    return (jnp.asarray(10 ** rng.uniform(-3, 3, count), float), jnp.asarray(10 ** rng.uniform(-3, 3, count), float))


def test_exact_maximum_under_hard_and_straight_through():
    a, b = pairs()
    for policy in (HARD, STRAIGHT_THROUGH):
        np.testing.assert_array_equal(maximum(a, b, policy=policy), np.maximum(a, b))
        np.testing.assert_array_equal(maximum(a, b, 2 * a, policy=policy), np.maximum(2 * np.asarray(a), b))
        np.testing.assert_allclose(minimum(a, b, policy=policy), np.minimum(a, b), rtol=1e-6)


@pytest.mark.parametrize("sharpness", [1.0, 2.5, 8.0, 1000.0])
def test_soft_maximum_is_the_p_norm_and_within_its_bound(sharpness):
    a, b = pairs()
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    largest, got = np.maximum(x, y), np.asarray(maximum(a, b, policy=soft(sharpness)), np.float64)
    norm = largest * ((x / largest) ** sharpness + (y / largest) ** sharpness) ** (1 / sharpness)
    np.testing.assert_allclose(got, norm, rtol=tol(3e-6, 1e-12))
    slack = 1 + tol(1e-6, 1e-13)
    assert (got >= largest / slack).all() and (got <= 2 ** (1 / sharpness) * largest * slack).all()
    smallest, low = np.minimum(x, y), np.asarray(minimum(a, b, policy=soft(sharpness)), np.float64)
    assert (low <= smallest * slack).all() and (low >= smallest / 2 ** (1 / sharpness) / slack).all()


def test_soft_maximum_of_a_tie_reaches_its_bound():
    # three equal values: 3**(1/4) = 1.316074
    three = maximum(jnp.asarray(2.0), jnp.asarray(2.0), jnp.asarray(2.0), policy=soft(4.0))
    np.testing.assert_allclose(three, 2 * 3**0.25, rtol=1e-6)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_maximum_and_minimum_do_not_depend_on_the_unit(policy):
    a, b = pairs(count=500)
    for scale in (1e-30, 1e-9, 1e12, 1e30):
        scaled = jnp.asarray(scale, float)
        for function in (maximum, minimum):
            expected = np.asarray(function(a, b, policy=policy), np.float64) * float(scaled)
            np.testing.assert_allclose(function(a * scaled, b * scaled, policy=policy), expected, rtol=tol(5e-6, 1e-12))


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_maximum_shares_the_slope_of_a_tie(policy):
    slopes = jax.grad(lambda a, b: maximum(a, b, policy=policy), argnums=(0, 1))(3.0, 3.0)
    share = 0.5 if policy is HARD else 0.5 * 2 ** (1 / policy.sharpness)  # d/da (a^p + b^p)^(1/p) at a = b: 2^(1/p - 1)
    np.testing.assert_allclose(slopes, share, rtol=1e-5)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_slopes_of_the_maximum_are_finite_everywhere(policy):
    grid = jnp.asarray([0.0, 1e-37, 1e-20, 1.0, 1.0000001, 1e20, 1e37], float)
    a, b = (x.ravel() for x in jnp.meshgrid(grid, grid))
    slope = jax.vmap(jax.grad(lambda a, b: maximum(a, b, policy=policy), argnums=(0, 1)))
    for values in slope(a, b):
        values = np.asarray(values)
        assert np.isfinite(values).all() and (values >= 0).all() and (values <= 1 + 1e-6).all()


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_minimum_of_nothing_is_nothing_and_its_slopes_are_finite(policy):
    grid = jnp.asarray([0.0, 1e-15, 1.0, 1.0000001, 3.0, 1e15], float)
    a, b = (x.ravel() for x in jnp.meshgrid(grid, grid))
    assert (np.asarray(minimum(a, b, policy=policy))[np.asarray(a * b) == 0] == 0).all()
    for values in jax.vmap(jax.grad(lambda a, b: minimum(a, b, policy=policy), argnums=(0, 1)))(a, b):
        values = np.asarray(values)
        assert np.isfinite(values).all() and (values >= -1e-6).all() and (values <= 1 + 1e-6).all()


@pytest.mark.parametrize("function", [maximum, minimum])
@pytest.mark.parametrize("sharpness", [1.0, 2.5, 8.0, 20.0])
def test_soft_maximum_and_minimum_slopes(function, sharpness):
    with jax.enable_x64(True):
        rng = np.random.default_rng(5)
        a, b = (jnp.asarray(rng.uniform(0.5, 2.0, 30)) for _ in range(2))
        check_grads(
            lambda x, y: function(jnp.asarray(x), jnp.asarray(y), policy=soft(sharpness)),
            (a, b),
            order=1,
            modes=["rev"],
            rtol=1e-5,
        )


def test_straight_through_maximum_has_the_slope_of_its_p_norm():
    a, b = pairs(count=300)
    p = STRAIGHT_THROUGH.sharpness
    of = {policy: jax.vmap(jax.grad(lambda x, y, policy=policy: maximum(x, y, policy=policy), argnums=(0, 1)))(a, b)
          for policy in (STRAIGHT_THROUGH, soft(p))}  # fmt: skip
    for through, smooth in zip(of[STRAIGHT_THROUGH], of[soft(p)], strict=True):
        np.testing.assert_allclose(through, smooth, rtol=1e-6)


# The policies themselves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharpness", [0.0, 0.99, -1.0, 1000.1, math.inf, math.nan])
def test_sharpness_outside_its_range_is_refused(sharpness):
    with pytest.raises(ValueError, match=rf"^sharpness = {sharpness:g} is outside its range \[1, 1000\]$"):
        soft(sharpness)


def test_policies_are_named_hashable_and_comparable():
    assert (str(HARD), str(STRAIGHT_THROUGH), str(soft(8))) == ("hard", "straight_through", "soft(8)")
    assert soft(8) == soft(8.0) and hash(soft(8)) == hash(soft(8.0)) and soft(8) != soft(9)
