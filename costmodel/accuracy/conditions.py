"""What a stored network suffers: the conditions shared by the measurement and the closed form."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from physics import unknown_name
from physics.types import Value

SLACK = 1e-6  # relative room for rounding to float32
IDEAL_BITS = 16.0  # a converter that no accuracy notices


class DeviceConditions(NamedTuple):
    """One set of conditions, or arrays of them (all of one shape or scalar). The defaults disturb nothing."""

    program_noise: Value = 0.0  # standard deviation of a written cell, over its swing g_lrs - g_hrs
    read_noise: Value = 0.0  # the same, anew at every read
    stuck_hrs: Value = 0.0  # share of cells stuck in the high resistance state (SA0)
    stuck_lrs: Value = 0.0  # in the low resistance state (SA1)
    wire_resistance: Value = 0.0  # ohm, of one segment of a bit line
    adc_bits: Value = IDEAL_BITS  # resolution of the converter, full range
    temperature: Value = 318.15  # K, while stored
    storage_time: Value = 0.0  # s since programming


RANGES = {  # smallest, largest, unit
    "program_noise": (0.0, 10.0, "of the swing"),
    "read_noise": (0.0, 10.0, "of the swing"),
    "stuck_hrs": (0.0, 1.0, "of the cells"),
    "stuck_lrs": (0.0, 1.0, "of the cells"),
    "wire_resistance": (0.0, 1e4, "ohm"),
    "adc_bits": (1.0, 24.0, "bit"),
    "temperature": (200.0, 700.0, "K"),
    "storage_time": (0.0, 1e12, "s"),
}


def check(conditions: DeviceConditions) -> None:
    """ValueError for a number or an array outside its range; traced values pass."""
    for name, (lo, hi, unit) in RANGES.items():
        value = getattr(conditions, name)
        if isinstance(value, Tracer):
            continue
        bad = ~((np.asarray(value) >= lo - SLACK * lo) & (np.asarray(value) <= hi + SLACK * hi))
        if bad.any():
            worst = np.asarray(value, float)[bad].flat[0]
            raise ValueError(f"conditions.{name} = {worst:g} {unit} is outside its range [{lo:g}, {hi:g}] {unit}")


def batch(conditions: DeviceConditions) -> DeviceConditions:
    """The same conditions as arrays of one shape, (n,); checked."""
    check(conditions)
    return DeviceConditions(*(jnp.atleast_1d(x) for x in jnp.broadcast_arrays(*(jnp.asarray(x, float) for x in conditions))))


def vary_condition(base: DeviceConditions, name: str, values: Float[Array, " n"] | np.ndarray | list[float]) -> DeviceConditions:
    """`base` with one condition varied: arrays (n,). ValueError for an unknown name or a value outside its range."""
    if name not in RANGES:
        raise ValueError(unknown_name("condition", name, RANGES))
    return batch(base._replace(**{name: jnp.asarray(values, float)}))
