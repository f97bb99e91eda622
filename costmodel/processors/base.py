"""What every processor family has in common: leakage, sleep, and one way to be asked for a cost.

    P_static(T, V) = P_ref V exp(slope (T - T_ref))          leakage, HotSpot's exponential law
    a processor stays awake for `linger` after its last work, then draws `sleep_fraction` of that;
    waking it takes `wake_time` and `wake_energy`.

The leakage slope default 0.036 / K is HotSpot's (area law, valid about 300 K to 420 K).
"""

import abc
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from costmodel.cost import Conditions, OpCost
from costmodel.relax import Relaxation
from physics import ParameterTree, param
from physics.params import Citations, citations
from workloads import OpTable

HOTSPOT = "HotSpot leakage law, uvahotspot/HotSpot f18831e"


class Processor(ParameterTree):
    """A machine that can run an operation table. Subclasses give `op_costs`, `reference_static_power` and the two peaks."""

    leakage_slope: Float[Array, ""] = param(0.036, unit="1/K", lo=0.0, hi=0.1, source=HOTSPOT)
    temperature_ref: Float[Array, ""] = param(318.15, unit="K", lo=200.0, hi=500.0, source=HOTSPOT + ", ambient")
    sleep_fraction: Float[Array, ""] = param(0.05, unit="1", lo=0.0, hi=1.0, source="assumed: power gating")
    linger: Float[Array, ""] = param(0.0, unit="s", lo=0.0, hi=100.0, source="assumed: sleeps at once")
    wake_time: Float[Array, ""] = param(0.0, unit="s", lo=0.0, hi=10.0, source="assumed: no sleep state")
    wake_energy: Float[Array, ""] = param(0.0, unit="J", lo=0.0, hi=100.0, source="assumed: no sleep state")
    sources: Citations = citations()

    @abc.abstractmethod
    def op_costs(self, ops: OpTable, conditions: Conditions, relaxation: Relaxation) -> OpCost:
        """Cost of every row of `ops` (unbatched), static energy left out."""

    @abc.abstractmethod
    def reference_static_power(self, conditions: Conditions) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """(leakage at the reference temperature, temperature-independent standby power), both W, awake."""

    @abc.abstractmethod
    def peak_rate(self, conditions: Conditions = Conditions()) -> Float[Array, ""]:
        """Highest MAC rate (1/s)."""

    @abc.abstractmethod
    def peak_bandwidth(self, conditions: Conditions = Conditions()) -> Float[Array, ""]:
        """Highest rate (B/s) of the traffic that `OpCost.bytes_moved` counts."""

    def static_power(self, conditions: Conditions = Conditions()) -> Float[Array, ""]:
        """Power (W) drawn while awake and doing nothing; rises exponentially with temperature.

        Where the law ends, at an exponent of 4 (429 K with the defaults), leakage stays at its value there.
        """
        leakage, standby = self.reference_static_power(conditions)
        exponent = self.leakage_slope * (conditions.temperature - self.temperature_ref)
        return leakage * conditions.voltage * jnp.exp(jnp.minimum(exponent, 4.0)) + standby


def masked(values: Float[Array, " ops"], ops: OpTable) -> Float[Array, " ops"]:
    """`values` with padding rows set to zero."""
    return jnp.where(jnp.asarray(ops.mask), values, 0.0)


def other_operations(ops: OpTable) -> Float[Array, " ops"]:
    """Operations beside multiply-accumulates, flops - 2 macs and at least 0; subtracted in the table's own precision."""
    return jnp.maximum(jnp.asarray(ops.flops - 2 * ops.macs, dtype=float), 0.0)


def as_arrays(ops: OpTable) -> Any:
    """The table's numbers as JAX arrays, of the default float type (the mask: bool), without its host-side information."""
    bare = ops.without_info()
    return jax.tree.map(lambda x: jnp.asarray(x, None if x.dtype == bool else float), bare)
