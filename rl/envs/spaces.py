"""The spaces our environments speak: a finite set of choices, a box of real numbers, and a choice with an amount.

They carry what a learner needs before it has seen a step: how many actions there are, and the shape of an observation.
The attribute names `n`, `low`, `high`, `shape` and `dtype` are those of gymnasium and gymnax, so that tools written for
either can read them.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


@dataclasses.dataclass(frozen=True)
class Discrete:
    """The integers 0, 1, ..., n - 1; `n` is at least 1."""

    n: int

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int | np.integer) or self.n < 1:
            raise ValueError(f"n = {self.n!r} must be an integer of at least 1")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one element: a scalar."""
        return ()

    @property
    def dtype(self) -> Any:
        """Type of one element."""
        return jnp.int32

    def sample(self, key: PRNGKeyArray) -> Int[Array, ""]:
        """One element, uniformly."""
        return jax.random.randint(key, (), 0, self.n, dtype=jnp.int32)

    def contains(self, x: Any) -> Bool[Array, ""]:
        """Whether `x` is a single integer of this space; usable inside jit."""
        x = jnp.asarray(x)
        if x.shape != () or not jnp.issubdtype(x.dtype, jnp.integer):
            return jnp.asarray(False)
        return (x >= 0) & (x < self.n)


@dataclasses.dataclass(frozen=True, eq=False)
class Box:
    """The closed box [low, high] of real arrays of one shape; each bound is a number or an array that broadcasts to it.

    Infinite bounds are allowed. Raises ValueError where a bound is NaN, does not fit the shape, or low exceeds high.
    """

    low: Any
    high: Any
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            bound = np.asarray(getattr(self, name), dtype=float)
            if np.isnan(bound).any():
                raise ValueError(f"{name} = {bound} must not hold NaN")
            try:
                np.broadcast_to(bound, self.shape)
            except ValueError:
                raise ValueError(f"{name} of shape {bound.shape} does not fit the box of shape {self.shape}") from None
        if np.any(np.asarray(self.low, dtype=float) > np.asarray(self.high, dtype=float)):
            raise ValueError(f"low = {self.low} must not exceed high = {self.high}")

    @property
    def dtype(self) -> Any:
        """Type of one element: the default float of JAX."""
        return jnp.result_type(float)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "..."]:
        """One element: uniform where both bounds are finite, a standard exponential away from one, a normal between none."""
        low, high = (jnp.broadcast_to(jnp.asarray(bound, dtype=self.dtype), self.shape) for bound in (self.low, self.high))
        uniform_key, exponential_key, normal_key = jax.random.split(key, 3)
        finite_low, finite_high = jnp.isfinite(low), jnp.isfinite(high)
        start = jnp.where(finite_low, low, 0.0)
        width = jnp.where(finite_low & finite_high, high - start, 0.0)
        inside = start + width * jax.random.uniform(uniform_key, self.shape, dtype=self.dtype)
        distance = jax.random.exponential(exponential_key, self.shape, dtype=self.dtype)
        beside = jnp.where(finite_low, low + distance, high - distance)
        anywhere = jax.random.normal(normal_key, self.shape, dtype=self.dtype)
        return jnp.where(finite_low & finite_high, inside, jnp.where(finite_low | finite_high, beside, anywhere))

    def contains(self, x: Any) -> Bool[Array, ""]:
        """Whether `x` has this shape and lies inside the bounds; NaN never does. Usable inside jit."""
        x = jnp.asarray(x)
        if x.shape != self.shape:
            return jnp.asarray(False)
        return jnp.all((x >= jnp.asarray(self.low)) & (x <= jnp.asarray(self.high)))


class HybridAction(NamedTuple):
    """An element of `Hybrid`: what is chosen, and how much of it."""

    choice: Int[Array, ""]
    amount: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class Hybrid:
    """Pairs of one of the integers 0 to choices - 1 and one real number in [low, high]: a `HybridAction`.

    Raises ValueError for no choice, an infinite or NaN bound, or low above high.
    """

    choices: int
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.choices, bool) or not isinstance(self.choices, int | np.integer) or self.choices < 1:
            raise ValueError(f"choices = {self.choices!r} must be an integer of at least 1")
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"[low, high] = [{self.low:g}, {self.high:g}] must be finite and ordered")

    @property
    def choice(self) -> Discrete:
        """The space of the choice."""
        return Discrete(self.choices)

    @property
    def amount(self) -> Box:
        """The space of the amount."""
        return Box(self.low, self.high)

    @property
    def shape(self) -> HybridAction:
        """Shapes of one element: two scalars."""
        return HybridAction((), ())  # pyright: ignore[reportArgumentType]

    @property
    def dtype(self) -> HybridAction:
        """Types of one element."""
        return HybridAction(self.choice.dtype, self.amount.dtype)

    def sample(self, key: PRNGKeyArray) -> HybridAction:
        """One element, uniformly."""
        for_choice, for_amount = jax.random.split(key)
        return HybridAction(self.choice.sample(for_choice), self.amount.sample(for_amount))

    def contains(self, x: Any) -> Bool[Array, ""]:
        """Whether `x` is a pair of a choice and an amount of this space; usable inside jit."""
        if not isinstance(x, tuple) or len(x) != 2:
            return jnp.asarray(False)
        return self.choice.contains(x[0]) & self.amount.contains(x[1])
