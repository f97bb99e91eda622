"""Variability: how far a programmed conductance lies from its target, as measured on chips.

    sigma(G) = max(polynomial in G, 0)        G and sigma in uS in the sources, in siemens here

Each law holds in the range of G of its measurement; outside, the polynomial is held at the nearer end and `valid` is false.

    milo     HfOx, 50 to 225 uS          wan     ReRAM, up to 39.26 uS          joshi     PCM, up to 25 uS

Source: CrossSim's device models (Milo et al. 2021; Wan et al. 2022; Joshi et al. 2020). How the spread grows with time: see
`drift.py`.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from physics.params import ParameterTree, param, unknown_name
from physics.types import Result, Value
from physics.validity import Flag, inside

# name: (coefficients of G^0, G^1, ... in uS; smallest and largest G in uS)
MEASURED = {
    "milo": ((4.782, -0.009107), (50.0, 225.0)),
    "wan": ((1.053, 0.2374, -1.167e-2, 1.536e-4), (0.0, 39.26)),
    "joshi": ((0.2864, 0.07586, -0.001788), (0.0, 25.0)),
}


class ProgrammingSpread(ParameterTree):
    """Standard deviation of a programmed level. Raises ValueError for an unknown `measurement`."""

    scale: Float[Array, ""] = param(1.0, unit="1", lo=0.0, hi=100.0, source="chosen: the spread as measured")
    measurement: str = eqx.field(static=True, default="milo")

    def __check_init__(self) -> None:
        if self.measurement not in MEASURED:
            raise ValueError(unknown_name("measurement", self.measurement, MEASURED))

    def spread(self, conductance: Value) -> Result:
        """Standard deviation (S) of a level `conductance` (S). Slope 0 outside the measured range."""
        coefficients, (lo, hi) = MEASURED[self.measurement]
        level = jnp.clip(jnp.asarray(conductance, float) * 1e6, lo, hi)
        return self.scale * 1e-6 * jnp.maximum(jnp.polyval(jnp.asarray(coefficients[::-1]), level), 0.0)

    def valid(self, conductance: Value) -> Flag:
        """Whether `conductance` (S) was measured."""
        lo, hi = MEASURED[self.measurement][1]
        return inside(conductance, lo * 1e-6, hi * 1e-6)
