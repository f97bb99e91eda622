"""Case 3: which of four arrays runs which of four products, and how."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from costmodel.processors.systolic_counts import Words, systolic_cycle_words, systolic_cycles
from costmodel.studies.design_spaces.spaces import Columns, DesignSpace, Products, draw_sizes


@dataclasses.dataclass(frozen=True)
class ScheduleSpace(DesignSpace):
    """Which of four arrays (rows, columns) runs which of four products, and with which dataflow; cost is the slowest's cycles."""

    arrays: tuple[tuple[int, int], ...] = ((128, 128), (64, 64), (16, 256), (256, 16))
    form: str = "tool"
    fields: ClassVar[tuple[str, ...]] = tuple(f"{size}{i}" for i in range(4) for size in "mnk")
    pieces: ClassVar[int] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.arrays)) != 4 or min(map(min, self.arrays)) < 1 or max(map(max, self.arrays)) > 4096:
            raise ValueError(f"arrays = {self.arrays}: four different ones needed, sides in [1, 4096]")

    def _draw(self, key: PRNGKeyArray, count: int, products: Products | None) -> Array:
        """Four products in a row, each drawn by itself."""
        drawn = [jnp.stack(draw_sizes(each, count, self.largest, products), 1) for each in jax.random.split(key, 4)]
        return jnp.concatenate(drawn, axis=1).astype(jnp.int32)

    def _make_table(self) -> dict[str, Any]:
        flows = list(itertools.product(range(3), repeat=4))
        choices = [array + flow for array in itertools.permutations(range(4)) for flow in flows]
        names = [f"{what}{i}" for what in ("array", "dataflow") for i in range(4)]
        return dict(zip(names, zip(*choices, strict=True), strict=True))

    def _each(self, work: Columns, choice: Columns, kind: Any, law: Callable[..., Any]) -> list[Any]:
        rows, columns = (jnp.asarray(side, kind) for side in zip(*self.arrays, strict=True))
        found = []
        for i in range(4):
            sizes = (work[f"{name}{i}"].astype(kind) for name in "mnk")
            array = choice[f"array{i}"]
            found.append(law(*sizes, rows[array], columns[array], choice[f"dataflow{i}"], self.form))
        return found

    def _cycles(self, work: Columns, choice: Columns) -> Array:
        return functools.reduce(jnp.maximum, self._each(work, choice, jnp.float32, systolic_cycles))

    def _words(self, work: Columns, choice: Columns) -> Words:
        return functools.reduce(_larger, self._each(work, choice, jnp.int32, systolic_cycle_words))


def _larger(a: Words, b: Words) -> Words:
    """The larger of two integers."""
    first = (a.high > b.high) | ((a.high == b.high) & (a.low >= b.low))
    return jax.tree.map(lambda x, y: jnp.where(first, x, y), a, b)
