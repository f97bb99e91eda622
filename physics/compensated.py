"""Sums of very many very small numbers, right in float32.

Adding 1e-9 a million times to 0.5 gives exactly 0.5 in float32: every increment is below half the spacing of the sum. A
compensated sum keeps what each addition rounds away in a second number (two-sum: Knuth, The Art of Computer Programming
2, 4.2.2; Kahan, Comm. ACM 8, 1965), which doubles the number of digits. Derivatives are those of plain addition.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from physics.types import Result, Value


class CompensatedSum(eqx.Module):
    """An unevaluated sum `high + low` with |low| at most half a unit in the last place of `high`."""

    high: Float[Array, "*shape"]
    low: Float[Array, "*shape"]

    @classmethod
    def start(cls, value: Value = 0.0) -> "CompensatedSum":
        """A sum that begins at `value`."""
        high = jnp.asarray(value, float)
        return cls(high, jnp.zeros_like(high))

    def add(self, increment: Value) -> "CompensatedSum":
        """The sum plus `increment`."""
        total, lost = _two_sum(self.high, increment)
        return CompensatedSum(*_two_sum(total, lost + self.low))

    @property
    def value(self) -> Result:
        """The sum, rounded once."""
        return self.high + self.low


def _two_sum(a: Array, b: Value) -> tuple[Array, Array]:
    """a + b rounded, and exactly what rounding lost."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)
