"""Rounding, maxima and choice: the only place where the cost model is not smooth.

Three policies, always visible in a signature and in the result:

    HARD              exact value, true gradient (0 through rounding, one-sided or split at a kink)
    STRAIGHT_THROUGH  exact value, the slope of the smooth relaxation
    soft(sharpness)   smooth value and slope; sharpness -> infinity gives HARD

Soft rounding up is  floor(x) + (1 - exp(-s f)) / (1 - exp(-s)),  f = x - floor(x): exact at integers, between x (s -> 0)
and ceil(x) (s -> infinity), so a relaxed cost never exceeds the hard one. At an integer it takes the slope from the right.
The soft maximum is the p-norm with p = sharpness (scale free; at most n**(1/p) above the maximum).

Float32 division is wrong by one ulp at some exact multiples (ceil(21 / 7) can be 4 in a vectorised loop), so tile
counts multiply back: exact while the rounded-up product stays below 2**24.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

Value = Num[Array, "..."] | float  # a number, or an array that is used element by element


@dataclasses.dataclass(frozen=True)
class Relaxation:
    """A relaxation policy; hashable, to be passed as a static argument."""

    name: str
    sharpness: float = 0.0

    def __str__(self) -> str:
        return f"{self.name}({self.sharpness:g})" if self.name == "soft" else self.name


HARD = Relaxation("hard")
STRAIGHT_THROUGH = Relaxation("straight_through", 8.0)


def soft(sharpness: float) -> Relaxation:
    """The smooth policy; `sharpness` in [1, 1000] (dimensionless)."""
    if not 1.0 <= sharpness <= 1000.0:
        raise ValueError(f"sharpness = {sharpness:g} is outside its range [1, 1000]")
    return Relaxation("soft", float(sharpness))


def tile_count(n: Int[Array, "..."] | int, k: Int[Array, "..."] | int) -> Int[Array, "..."] | int:
    """Exact number of tiles of size `k` that cover `n`, in integers (any shapes that broadcast); no gradient."""
    return -(-n // k)


def _hard_ceil_div(n: Array, k: Array) -> Array:
    q = jnp.ceil(n / k)
    q = jnp.where((q - 1) * k >= n, q - 1, q)
    return jnp.where(q * k < n, q + 1, q)


def _hard_floor_div(n: Array, k: Array) -> Array:
    q = jnp.floor(n / k)
    q = jnp.where((q + 1) * k <= n, q + 1, q)
    return jnp.where(q * k > n, q - 1, q)


@jax.custom_jvp
def _through(exact: Array, smooth: Array) -> Array:
    """The value of `exact` with the slope of `smooth`."""
    del smooth
    return exact


@_through.defjvp
def _through_jvp(primals, tangents):
    return primals[0], tangents[1]


def ceil_div(n: Value, k: Value, policy: Relaxation = HARD) -> Float[Array, "..."]:
    """Number of tiles of size `k` (> 0) that cover `n` (>= 0), as a float.

    HARD: exact, gradient 0. STRAIGHT_THROUGH: exact, gradient of n / k. soft: see the module.
    """
    n, k = _as_floats(n, k)
    exact = jax.lax.stop_gradient(_hard_ceil_div(n, k))
    if policy.name == "hard":
        return exact
    if policy.name == "straight_through":
        return _through(exact, n / k)
    below = jax.lax.stop_gradient(_hard_floor_div(n, k))
    fraction = (n - below * k) / k  # not n / k - below: exactly 0 at multiples
    return below + jnp.expm1(-policy.sharpness * fraction) / jnp.expm1(-policy.sharpness)


def floor_div(n: Value, k: Value, policy: Relaxation = HARD) -> Float[Array, "..."]:
    """Number of whole tiles of size `k` (> 0) inside `n` (>= 0), as a float; policies as for `ceil_div`.

    The soft value is the mirror image of soft rounding up, floor(x) + (exp(s f) - 1) / (exp(s) - 1): never above n / k.
    """
    n, k = _as_floats(n, k)
    exact = jax.lax.stop_gradient(_hard_floor_div(n, k))
    if policy.name == "hard":
        return exact
    if policy.name == "straight_through":
        return _through(exact, n / k)
    fraction, s = (n - exact * k) / k, policy.sharpness
    return exact + jnp.exp(s * (fraction - 1)) * (jnp.expm1(-s * fraction) / jnp.expm1(-s))


def maximum(*values: Value, policy: Relaxation = HARD) -> Float[Array, "..."]:
    """The largest of non-negative `values`. HARD: exact, two that tie share the slope. soft: p-norm. Finite slope at 0."""
    arrays = _as_floats(*values)
    exact = arrays[0]
    for value in arrays[1:]:
        exact = jnp.maximum(exact, value)
    if policy.name == "hard":
        return exact
    scale = jax.lax.stop_gradient(jnp.maximum(exact, jnp.finfo(exact.dtype).tiny))
    total = sum((_power(value / scale, policy.sharpness) for value in arrays), jnp.zeros_like(exact))
    smooth = scale * jnp.exp(jnp.log(jnp.maximum(total, 0.5)) / policy.sharpness)
    return _through(exact, smooth) if policy.name == "straight_through" else smooth


def _power(base: Array, exponent: float) -> Array:
    """base**exponent; by multiplication where the exponent is whole, because the general power is slow in batches."""
    return jax.lax.integer_pow(base, int(exponent)) if exponent == int(exponent) else base**exponent


def minimum(a: Value, b: Value, policy: Relaxation = HARD) -> Float[Array, "..."]:
    """The smaller of two non-negative values, a b / maximum(a, b); policies as for `maximum`."""
    a, b = _as_floats(a, b)
    exact = jnp.minimum(a, b)
    if policy.name == "hard":
        return exact
    larger = maximum(a, b, policy=dataclasses.replace(policy, name="soft"))
    smooth = a * (b / jnp.where(jnp.maximum(a, b) > 0, larger, 1.0))
    return _through(exact, smooth) if policy.name == "straight_through" else smooth


def fits(need: Value, capacity: Value, policy: Relaxation = HARD) -> Float[Array, "..."]:
    """1 where a positive `need` is at most `capacity`, else 0; gradient 0.

    soft: need^-s / (need^-s + (capacity + 1/2)^-s), between 0 and 1 and 1/2 half an element above the capacity.
    STRAIGHT_THROUGH: the exact value with that slope.
    """
    need, capacity = _as_floats(need, capacity)
    exact = (need <= capacity).astype(need.dtype)
    if policy.name == "hard":
        return exact
    smooth = jax.nn.sigmoid(policy.sharpness * (jnp.log(capacity + 0.5) - jnp.log(need)))
    return _through(exact, smooth) if policy.name == "straight_through" else smooth


def _as_floats(*values: Value) -> list[Array]:
    dtype = jnp.result_type(float)
    return [jnp.asarray(value, dtype) for value in values]
