"""Roofline processor: the time of an operation is a launch overhead plus the slower of computing and moving bytes.

    t = overhead / f + max( macs / (peak f efficiency[kind]) + other / (vector_rate f),  bytes / bandwidth )

f and V are the clock and supply as fractions of nominal; memory bandwidth does not follow the core clock.
Efficiency is one number per kind of operation because one cycles-per-MAC figure per device misses published
latencies by 17 % on average even when fitted in-sample (56 complete MLPerf Tiny submissions).

    E_dynamic = V**2 (macs energy_per_mac + bytes energy_per_byte + t f active_power)

The operand widths are the processor's own (`operand_bits`), not the table's. Non-smooth points: the maximum.
Source: Williams, Waterman, Patterson, "Roofline", CACM 2009.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from costmodel import relax
from costmodel.cost import Bound, Conditions, OpCost
from costmodel.processors.base import Processor, as_arrays, masked, other_operations
from costmodel.relax import Relaxation
from physics import param
from workloads import OpKind, OpTable

ASSUMED = "assumed: no published value"


class Roofline(Processor):
    """A processor bound by its MAC rate, its memory bandwidth or its launch overhead."""

    peak_macs: Float[Array, ""] = param(1e11, unit="MAC/s", lo=1e3, hi=1e16, log=True, source=ASSUMED)
    vector_rate: Float[Array, ""] = param(1e11, unit="op/s", lo=1e3, hi=1e16, log=True, source=ASSUMED)
    bandwidth: Float[Array, ""] = param(1e10, unit="B/s", lo=1e3, hi=1e14, log=True, source=ASSUMED)
    overhead: Float[Array, ""] = param(1e-6, unit="s", lo=0.0, hi=1.0, log=True, source=ASSUMED)
    efficiency_conv: Float[Array, ""] = param(1.0, unit="1", lo=1e-4, hi=1.0, log=True, source=ASSUMED)
    efficiency_depthwise: Float[Array, ""] = param(1.0, unit="1", lo=1e-4, hi=1.0, log=True, source=ASSUMED)
    efficiency_dense: Float[Array, ""] = param(1.0, unit="1", lo=1e-4, hi=1.0, log=True, source=ASSUMED)
    operand_bits: Float[Array, ""] = param(8.0, unit="bit", lo=1.0, hi=64.0, source=ASSUMED)
    energy_per_mac: Float[Array, ""] = param(0.0, unit="J/MAC", lo=0.0, hi=1e-6, log=True, source=ASSUMED)
    energy_per_byte: Float[Array, ""] = param(0.0, unit="J/B", lo=0.0, hi=1e-6, log=True, source=ASSUMED)
    active_power: Float[Array, ""] = param(0.0, unit="W", lo=0.0, hi=1e4, source=ASSUMED)
    leakage_power: Float[Array, ""] = param(0.0, unit="W", lo=0.0, hi=1e4, source=ASSUMED)

    def peak_rate(self, conditions: Conditions = Conditions()) -> Float[Array, ""]:
        """Highest MAC rate (1/s) at the given clock."""
        return self.peak_macs * conditions.frequency

    def peak_bandwidth(self, conditions: Conditions = Conditions()) -> Float[Array, ""]:
        """That of the memory (B/s), at any clock."""
        return self.bandwidth

    def reference_static_power(self, conditions: Conditions) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """All of the standby power is leakage."""
        return self.leakage_power, jnp.zeros(())

    def _efficiency(self, kind: Array) -> Array:
        depthwise = jnp.where(kind == OpKind.DEPTHWISE, self.efficiency_depthwise, self.efficiency_dense)
        return jnp.where(kind == OpKind.CONV, self.efficiency_conv, depthwise)

    def op_costs(self, ops: OpTable, conditions: Conditions, relaxation: Relaxation) -> OpCost:
        """Cost of every row; see the module for the law."""
        t, f, v = as_arrays(ops), conditions.frequency, conditions.voltage
        compute = t.macs / (self.peak_macs * self._efficiency(t.kind)) + other_operations(ops) / self.vector_rate
        moved = masked((t.inputs + t.outputs + t.weights) * (self.operand_bits / 8), t)
        compute, memory, overhead = compute / f, moved / self.bandwidth, self.overhead / f
        busy = relax.maximum(compute, memory, policy=relaxation)
        latency = masked(overhead + busy, t)
        energy = v**2 * (t.macs * self.energy_per_mac + moved * self.energy_per_byte + latency * f * self.active_power)
        bound = jnp.where(
            overhead > jnp.maximum(compute, memory), Bound.OVERHEAD, jnp.where(memory > compute, Bound.MEMORY, Bound.COMPUTE)
        )
        zero = jnp.zeros_like(latency)
        return OpCost(latency, masked(energy, t), zero, zero, moved, bound, zero, zero, zero)
