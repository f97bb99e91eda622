"""Surroundings that change: ambient temperature over time, linear between points and repeated.

A trace is played round and round: after its last time it starts again at its first. `day` is a sinusoidal day; measured records
are given as times and temperatures. Sheltered electronics follow the air within minutes, so the trace is taken as it is.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

DAY = 86400.0  # s
RANGE = (200.0, 500.0)  # K


class AmbientTrace(eqx.Module):
    """Temperatures (K) at times (s); the first time is 0, the last one is the period.

    Raises ValueError for fewer than two points, times that do not start at 0 and ascend, or temperatures outside [200, 500] K;
    concrete values only.
    """

    times: Float[Array, " points"]
    temperatures: Float[Array, " points"]

    def __init__(self, times: Any, temperatures: Any) -> None:
        self.times, self.temperatures = jnp.asarray(times, float), jnp.asarray(temperatures, float)
        if self.times.ndim != 1 or self.times.shape != self.temperatures.shape or self.times.size < 2:
            raise ValueError(
                f"AmbientTrace: times of shape {self.times.shape} and temperatures of shape {self.temperatures.shape} "
                "must be two lists of the same length, at least 2"
            )
        if isinstance(self.times, Tracer) or isinstance(self.temperatures, Tracer):
            return
        seconds, kelvin = np.asarray(self.times), np.asarray(self.temperatures)
        if not (seconds[0] == 0 and np.all(np.diff(seconds) > 0) and np.isfinite(seconds[-1])):
            raise ValueError("AmbientTrace.times must start at 0 s, ascend and be finite")
        if not np.all((kelvin >= RANGE[0]) & (kelvin <= RANGE[1])):
            raise ValueError(f"AmbientTrace.temperatures: {kelvin.min():g} to {kelvin.max():g} K leave the range [200, 500] K")

    @classmethod
    def day(cls, coldest: float, warmest: float, coldest_at: float = DAY / 4, points: int = 49) -> "AmbientTrace":
        """A sinusoidal day between two temperatures (K), coldest at `coldest_at` (s after midnight); linear between points."""
        times = np.linspace(0.0, DAY, points)
        swing = (warmest - coldest) / 2
        return cls(times, warmest - swing - swing * np.cos(2 * np.pi * (times - coldest_at) / DAY))

    @property
    def period(self) -> Float[Array, ""]:
        """Length of the trace (s)."""
        return self.times[-1]

    def at(self, clock: Float[Array, ""]) -> Float[Array, ""]:
        """Temperature (K) at `clock` (s); kinks at the points, a jump at the period if the ends differ."""
        return jnp.interp(jnp.mod(clock, self.period), self.times, self.temperatures)
