"""Thermal limits: above one temperature a processor is throttled, above another the platform must be shut off.

    pace(T) = 1                                                T <= limit
            = 1 - (1 - lowest) (T - limit) / width             between
            = lowest                                           T >= limit + width

Throttling is clock modulation: the clock of everything queued on the processor runs only a share `pace` of the time. Work takes
1 / pace as long and costs the same switching energy, so power falls with pace. It is set from the junction temperature at
the arrival of a task and holds until the next arrival. A processor that works longer also stays awake, and leaks, longer: where
leakage dominates, as in a thermal runaway, throttling cannot cool it. Non-smooth at both ends of the ramp; a narrow `width`
approaches a hard switch. At `critical` or above at the end of a step the outcome says `tripped`; what follows (usually the
end) is up to the caller. Source of the scheme: thermal monitor with on-demand clock modulation, Intel 64 and IA-32 Software
Developer's Manual, volume 3, "Power and thermal management".
"""

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from physics import ParameterTree, param


class ThermalLimit(ParameterTree):
    """When the processors of a platform are throttled, and when it must be shut off."""

    temperature: Float[Array, ""] = param(
        368.15, unit="K", lo=250.0, hi=500.0, source="assumed: 95 C, 10 K below a 105 C junction rating"
    )
    width: Float[Array, ""] = param(10.0, unit="K", lo=1e-3, hi=100.0, log=True, source="assumed: lowest pace at the rating")
    lowest: Float[Array, ""] = param(0.125, unit="1", lo=0.01, hi=1.0, source="Intel clock modulation: duty cycles from 12.5 %")
    critical: Float[Array, ""] = param(398.15, unit="K", lo=250.0, hi=700.0, source="assumed: 125 C, end of the junction range")

    def __check_init__(self) -> None:
        pair = (self.temperature, self.critical)
        if not any(isinstance(v, Tracer) for v in pair) and np.any(np.asarray(pair[1]) <= np.asarray(pair[0])):
            raise ValueError(f"ThermalLimit.critical = {np.min(pair[1]):g} K must exceed temperature = {np.max(pair[0]):g} K")

    def pace(self, temperature: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Share of the time the clock runs at a junction `temperature` (K): 1 down to `lowest`."""
        above = jnp.clip((temperature - self.temperature) / self.width, 0.0, 1.0)
        return 1 - (1 - self.lowest) * above

    def tripped(self, temperature: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """1 where a junction `temperature` (K) is at `critical` or above, else 0."""
        return jnp.where(temperature >= self.critical, 1.0, 0.0)
