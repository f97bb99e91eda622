"""Where a law holds: a clear error for plain numbers, a flag that travels with the result for traced ones.

Nothing can be raised inside a compiled program, so every law that has a range offers `valid(...)`, an array of booleans;
where the argument is a plain number, a quantity that must not leave the range (a voltage) is refused instead.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool

from physics.params import parameters
from physics.types import Value

Flag = Bool[Array, "..."]

SLACK = 1e-6  # relative room for rounding to float32


def inside(value: Value, lo: Value, hi: Value) -> Flag:
    """Whether `value` lies in [lo, hi], up to rounding; false for NaN."""
    value, lo, hi = jnp.asarray(value), jnp.asarray(lo), jnp.asarray(hi)
    return (value >= lo - SLACK * jnp.abs(lo)) & (value <= hi + SLACK * jnp.abs(hi))


def require_inside(name: str, value: Value, lo: Value, hi: Value, unit: str) -> Flag:
    """`inside`, but a ValueError with name, value, unit and range where value and range are plain numbers and it is false."""
    flag = inside(value, lo, hi)
    if not isinstance(flag, Tracer) and not bool(jnp.all(flag)):
        worst = float(np.ravel(np.broadcast_to(np.asarray(value), flag.shape)[~np.asarray(flag)])[0])
        low, high = float(np.min(np.asarray(lo))), float(np.max(np.asarray(hi)))
        raise ValueError(f"{name} = {worst:g} {unit} is outside its range [{low:g}, {high:g}] {unit}".replace(" 1 ", " "))
    return flag


def in_bounds(tree: Any) -> Bool[Array, ""]:
    """Whether every parameter of `tree` lies in its declared range: the constructor's check, for traced values."""
    found = parameters(tree)
    if not found:
        return jnp.asarray(True)
    ranges = np.concatenate([np.tile([[p.param.lo], [p.param.hi]], np.size(p.value)) for p in found], axis=1)
    flat = jnp.concatenate([jnp.ravel(p.value) for p in found])
    return jnp.all(inside(flat, *jnp.asarray(ranges)))
