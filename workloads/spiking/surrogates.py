"""The spike and its slope: a step in the forward direction, a named surrogate in the backward one.

    s(x) = 1 if x > 0 else 0,    x = membrane - threshold

The true derivative is 0 almost everywhere and undefined at the threshold, so training replaces it. Policies (ds/dx):

    none               0: the true slope wherever it exists
    straight_through   1
    atan               (a / 2) / (1 + (pi a x / 2)^2)     snntorch's default, a = 2 (Fang et al., ICCV 2021)
    fast_sigmoid       1 / (1 + a |x|)^2                  superspike, spyx's default, a = 25 (Zenke and Ganguli, 2018)
    triangle           max(0, 1 - a |x|)                  Esser et al., PNAS 2016, a = 1

At the threshold itself (x = 0) there is no spike and the slope is the surrogate's peak. All slopes are finite for every x.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

SLOPES = {"none": 1.0, "straight_through": 1.0, "atan": 2.0, "fast_sigmoid": 25.0, "triangle": 1.0}


@dataclasses.dataclass(frozen=True)
class Surrogate:
    """A slope policy by name; `slope` is its a (dimensionless, > 0), None for the policy's usual one."""

    name: str = "atan"
    slope: float | None = None

    def __post_init__(self) -> None:
        if self.name not in SLOPES:
            raise ValueError(f"unknown surrogate {self.name!r}; known: {', '.join(SLOPES)}")
        if self.slope is not None and not 0 < self.slope < math.inf:
            raise ValueError(f"surrogate slope = {self.slope:g} is outside its range (0, inf)")

    def derivative(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """ds/dx at `x` (membrane minus threshold)."""
        a = SLOPES[self.name] if self.slope is None else self.slope
        if self.name == "none":
            return jnp.zeros_like(x)
        if self.name == "straight_through":
            return jnp.ones_like(x)
        if self.name == "atan":
            return (a / 2) / (1 + (math.pi / 2 * a * x) ** 2)
        if self.name == "fast_sigmoid":
            return 1 / (1 + a * jnp.abs(x)) ** 2
        return jnp.maximum(0.0, 1 - a * jnp.abs(x))


def spike(x: Float[Array, "*shape"], surrogate: Surrogate = Surrogate()) -> Float[Array, "*shape"]:
    """1 where `x` > 0, else 0, of x's type; its slope is the surrogate's."""
    return _spike(surrogate, x)


@jax.custom_jvp
def _step(x: Array, slope: Array) -> Array:
    del slope
    return jnp.where(x > 0, 1.0, 0.0).astype(x.dtype)


@_step.defjvp
def _step_jvp(primals, tangents):
    x, slope = primals
    return _step(x, slope), slope * tangents[0]


def _spike(surrogate: Surrogate, x: Array) -> Array:
    return _step(x, jax.lax.stop_gradient(surrogate.derivative(x)))
