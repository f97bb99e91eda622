"""What a network is stored in: crossbars of one kind, and what conditions make of their cells.

Cells that retention has lost stand in their high resistance state: to a product they are the same as cells stuck there,

    p_hrs = stuck_hrs + (1 - stuck_hrs - stuck_lrs) (1 - exp(-H(T, t)))

A drift law, if there is one, moves every conductance and adds its spread to that of programming (squares add).
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from costmodel.accuracy.conditions import DeviceConditions
from physics import (
    CrossbarCells,
    CrossbarMapping,
    OxideDrift,
    ParameterTree,
    PhaseChangeDrift,
    ResistiveDrift,
    Retention,
    RetentionLaw,
    Wires,
    load_mapping,
    unknown_name,
)
from physics.types import Result

CONVERTERS = ("full", "calibrated")


class WeightMemory(ParameterTree):
    """Crossbars of `rows` rows that hold weights in `mapping`, with converters of "full" range or "calibrated" to each layer.

    Of `cells` only the conductances, the read voltage and the number of levels are used: noise and faults are conditions.
    `drift` must have the cells' scale of conductance (its `g_max`). ValueError for another converter or less than one weight
    per column.
    """

    cells: CrossbarCells = eqx.field(default_factory=CrossbarCells)
    retention: RetentionLaw = eqx.field(default_factory=Retention)
    drift: PhaseChangeDrift | ResistiveDrift | OxideDrift | None = None
    mapping: CrossbarMapping = eqx.field(static=True, default=load_mapping("TNN_I"))
    rows: int = eqx.field(static=True, default=128)
    converter: str = eqx.field(static=True, default="full")

    def __check_init__(self) -> None:
        if self.converter not in CONVERTERS:
            raise ValueError(unknown_name("converter", self.converter, CONVERTERS))
        if self.rows < self.mapping.rows_per_weight:
            raise ValueError(f"WeightMemory.rows = {self.rows} has no room for a weight of {self.mapping.name}")

    def lost_share(self, conditions: DeviceConditions) -> Result:
        """Share of the cells that retention has lost."""
        return jnp.exp(self.retention.log_error_rate(conditions.temperature, conditions.storage_time))

    def high_resistance_share(self, conditions: DeviceConditions) -> Result:
        """Share of the cells that stand in HRS whatever was written: stuck there, or lost."""
        intact = jnp.maximum(1 - jnp.asarray(conditions.stuck_hrs) - conditions.stuck_lrs, 0.0)
        return conditions.stuck_hrs + intact * self.lost_share(conditions)

    def drift_spread(self, level: float, conditions: DeviceConditions) -> Result:
        """Standard deviation that drift gives cells of `level` (0: HRS, 1: LRS), over the swing."""
        if self.drift is None:
            return jnp.zeros_like(jnp.asarray(conditions.storage_time, float))
        return self.drift.spread(self._conductance(level), self._drift_time(conditions)) / self.cells.swing

    def drift_factor(self, conductance: Array, conditions: DeviceConditions) -> Result:
        """What drift leaves of a conductance (S), as a factor."""
        if self.drift is None:
            return jnp.ones_like(conductance)
        return self.drift.conductance(conductance, self._drift_time(conditions)) / jnp.maximum(conductance, 1e-12)

    def aged_cells(self, conditions: DeviceConditions) -> CrossbarCells:
        """The cells with the noise and the faults that `conditions` (scalars) give them."""
        program = [
            jnp.sqrt(jnp.square(conditions.program_noise) + jnp.square(self.drift_spread(level, conditions)))
            for level in (0.0, 1.0)
        ]
        swing, read = self.cells.swing, conditions.read_noise * self.cells.swing
        return CrossbarCells(
            self.cells.g_hrs,
            self.cells.g_lrs,
            self.cells.read_voltage,
            program[0] * swing,
            program[1] * swing,
            read,
            read,
            self.high_resistance_share(conditions),
            conditions.stuck_lrs,
            levels=self.cells.levels,
        )

    def wires(self, conditions: DeviceConditions) -> Wires:
        """Bit lines of the conditions' resistance."""
        return Wires(resistance=conditions.wire_resistance)

    def _conductance(self, level: float) -> Float[Array, ""]:
        return self.cells.g_hrs + level * self.cells.swing

    def _drift_time(self, conditions: DeviceConditions) -> Any:
        assert self.drift is not None
        return self.drift.equivalent_time(conditions.storage_time, conditions.temperature)
