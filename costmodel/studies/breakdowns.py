"""Where the energy of a network goes: by component and by layer, adding up to the total of `estimate`.

The components of switching are those of the processor (`energy_parts`, for chips of macros: array, dac, adc, digital,
control, buffer, network, memory, vector); a processor without such a list has one, "dynamic". Beside them stand
"programming" (writing weights), "leakage" (with temperature and supply) and "standby", the last two by each layer's time.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from costmodel.cost import Conditions
from costmodel.estimation import estimate
from costmodel.processors.base import Processor
from costmodel.processors.macro_chip import MacroChip
from costmodel.relax import HARD, Relaxation
from workloads import OpTable


class Breakdown(NamedTuple):
    """Energy of a table by component and layer, and the layers' times."""

    energy: dict[str, Float[Array, " ops"]]  # J
    latency: Float[Array, " ops"]  # s
    names: tuple[str, ...]  # of the layers

    def totals(self) -> dict[str, Float[Array, ""]]:
        """Energy (J) of the whole table by component."""
        return {name: jnp.sum(values) for name, values in self.energy.items()}

    def by_layer(self) -> Float[Array, " ops"]:
        """Energy (J) of every layer."""
        return sum(self.energy.values(), jnp.zeros_like(self.latency))


def breakdown(
    hardware: Processor, ops: OpTable, conditions: Conditions = Conditions(), relaxation: Relaxation = HARD
) -> Breakdown:
    """The energy of `estimate(hardware, ops, conditions, relaxation)`, split. Raises what `estimate` raises."""
    cost = estimate(hardware, ops, conditions, relaxation)
    per_op = cost.per_op
    if isinstance(hardware, MacroChip):
        parts = hardware.energy_parts(ops, conditions, relaxation)
    else:
        parts = {"dynamic": per_op.dynamic_energy}
    standby = hardware.reference_static_power(conditions)[1]
    leakage = hardware.static_power(conditions) - standby
    parts |= {
        "programming": per_op.programming_energy,
        "leakage": leakage * per_op.latency,
        "standby": standby * per_op.latency,
    }
    named = ops.info.op_names if ops.info is not None else ()
    names = tuple(named[i] if i < len(named) else f"operation {i}" for i in range(ops.n_ops))
    return Breakdown(parts, per_op.latency, names)
