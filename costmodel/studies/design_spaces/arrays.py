"""Case 1: dataflow and shape of one array."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from costmodel.processors.systolic_counts import Words, systolic_cycle_words, systolic_cycles
from costmodel.studies.design_spaces.spaces import Columns, DesignSpace, draw_powers


@dataclasses.dataclass(frozen=True)
class ArraySpace(DesignSpace):
    """Dataflow and shape of one array for a product m, n, k within `budget` multiply-accumulators: rows x columns <= budget."""

    lower: int = 0
    most: int = 16
    least: int = 5  # budgets are drawn from 2^least ... 2^most
    form: str = "tool"
    fields: ClassVar[tuple[str, ...]] = ("m", "n", "k", "budget")
    limits: ClassVar[tuple[str, ...]] = ("budget",)
    block: ClassVar[str | None] = "dataflow"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= 2 * self.lower <= self.least <= self.most <= 20):
            raise ValueError(
                f"lower = {self.lower}, least = {self.least}, most = {self.most}: 0 <= 2 lower <= least <= most <= 20 needed"
            )

    def _make_table(self) -> dict[str, Any]:
        sides = range(self.lower, self.most - self.lower + 1)
        choices = [(f, 2**a, 2**b) for f in range(3) for a in sides for b in sides if a + b <= self.most]
        return dict(zip(("dataflow", "rows", "columns"), zip(*choices, strict=True), strict=True))

    def _range(self, name: str) -> tuple[int, int]:
        return (4**self.lower, 2**31 - 1) if name == "budget" else super()._range(name)

    def _surroundings(self, key: PRNGKeyArray, count: int) -> list[Array]:
        return [draw_powers(key, count, self.least, self.most)]

    def _allowed(self, work: Columns, choice: Columns) -> Array:
        return choice["rows"] * choice["columns"] <= work["budget"]

    def _cycles(self, work: Columns, choice: Columns) -> Array:
        sizes = (work["m"], work["n"], work["k"], choice["rows"], choice["columns"])
        m, n, k, rows, columns = (jnp.asarray(size, jnp.float32) for size in sizes)
        return systolic_cycles(m, n, k, rows, columns, choice["dataflow"], self.form)

    def _words(self, work: Columns, choice: Columns) -> Words:
        shape = (work["m"], work["n"], work["k"], choice["rows"], choice["columns"])
        return systolic_cycle_words(*shape, choice["dataflow"], self.form)
