"""Converters: from column currents to digital numbers.

    x = clip(J, low, high),   q = (high - low) / (codes - 1),   y = q round((x - low) / q) + low,   result = round(weight y)

Ranges are fractions of the full scale of the array: all inputs driven, every cell at LRS (single-ended, 0 to 1) or all
differences LRS - HRS (differential, -1 to 1). Differential converters use 2^bits - 1 codes, so that zero is one of them,
single-ended ones 2^bits. `rounding` says what gradients see: see `rounding.py`; clipped currents have slope 0.
Source: CIM-Explorer / analog-cim-sim.
"""

from typing import Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from physics.crossbar.mappings import CrossbarMapping, Whole
from physics.crossbar.rounding import check_policy, nearest
from physics.params import ParameterTree, param
from physics.types import Result, Value


@runtime_checkable
class Programmed(Protocol):
    """What calibration asks of a programmed crossbar."""

    @property
    def mapping(self) -> CrossbarMapping: ...

    def currents(self, inputs: Whole) -> Array: ...


class Adc(ParameterTree):
    """An analog-to-digital converter; see `ideal`, `full_range` and `calibrated`.

    `integer`: every conversion gives an integer in units of the result, as in the published simulator; else the scaled
    code. `exact`: no clipping, quantisation or rounding at all;
    products are then whole numbers as long as partial sums stay below 2^24 (float32: up to 8-bit weights and inputs).
    """

    bits: Float[Array, ""] = param(8.0, unit="bit", lo=1.0, hi=24.0, source="8: usual; CIM-Explorer studies 3 to 8")
    low: Float[Array, ""] = param(-1.0, unit="full scale", lo=-4.0, hi=4.0, source="differential full range")
    high: Float[Array, ""] = param(1.0, unit="full scale", lo=-4.0, hi=4.0, source="full range")
    rounding: str = eqx.field(static=True, default="hard")
    sharpness: float = eqx.field(static=True, default=8.0)
    integer: bool = eqx.field(static=True, default=True)
    exact: bool = eqx.field(static=True, default=False)

    def __check_init__(self) -> None:
        super().__check_init__()
        check_policy(self.rounding)

    @classmethod
    def ideal(cls) -> "Adc":
        """Unlimited resolution and range; results are real numbers."""
        return cls(exact=True)

    @classmethod
    def full_range(cls, mapping: CrossbarMapping, bits: Value = 8.0, rounding: str = "hard", sharpness: float = 8.0) -> "Adc":
        """Covers every current that the array can give."""
        return cls(bits, -1.0 if mapping.differential else 0.0, 1.0, rounding, sharpness)

    @classmethod
    def calibrated(
        cls, crossbar: Programmed, inputs: Whole, bits: Value = 8.0, rounding: str = "hard", sharpness: float = 8.0
    ) -> "Adc":
        """Covers the currents that `inputs` (..., inputs) give: mean -+ 3 standard deviations (differential) or all of them."""
        currents = crossbar.currents(inputs)
        if crossbar.mapping.differential:
            middle, reach = jnp.mean(currents), 3 * jnp.std(currents)
            return cls(bits, middle - reach, middle + reach, rounding, sharpness)
        return cls(bits, jnp.min(currents), jnp.max(currents), rounding, sharpness)

    def convert(self, current: Result, full_scale: Value, scale: Value, differential: bool) -> Result:
        """`scale` times the digitised `current`; `current` and `full_scale` in the same unit.

        Currents exactly half way between two codes are common, and rounding errors decide them: in uA and in this order of
        operations they mostly fall as in the published simulator.
        """
        spans = jnp.maximum(2.0**self.bits - (2.0 if differential else 1.0), 1.0)
        low, high = self.low * full_scale, self.high * full_scale
        step = (high - low) / spans
        code = nearest((jnp.clip(current, low, high) - low) / step, self.rounding, self.sharpness)
        digital = (code * step + low) * scale
        return nearest(digital, self.rounding, self.sharpness) if self.integer else digital
