"""Case 2: sizes of three buffers."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from costmodel.cost import Conditions
from costmodel.processors.systolic import Systolic
from costmodel.processors.systolic_counts import Words
from costmodel.relax import HARD
from costmodel.studies.design_spaces.spaces import Columns, DesignSpace, Rows, draw_powers
from workloads import OpKind, OpTable

KIB = 1024
CYCLE = 2.0**30  # Hz: a power of two, so that latency times clock is a whole number of bus beats


@dataclasses.dataclass(frozen=True)
class BufferSpace(DesignSpace):
    """Three buffers for one product on a given array.

    A workload is m, n, k, the array's rows and columns, its dataflow (0, 1, 2: os, ws, is), the bandwidth (bytes per cycle) and
    the limit of all buffers together (KiB). Exact for m n k up to 2^50.
    """

    sizes: int = 10
    step: int = 100  # KiB
    fields: ClassVar[tuple[str, ...]] = ("m", "n", "k", "rows", "columns", "dataflow", "bandwidth", "limit")
    limits: ClassVar[tuple[str, ...]] = ("limit",)
    categories: ClassVar[Mapping[str, int]] = {"dataflow": 3}
    precise: ClassVar[bool] = True

    def checked(self, workloads: Rows) -> Int[np.ndarray, "workloads fields"]:
        """As `DesignSpace.checked`, and m n k within 2^50."""
        rows = super().checked(workloads)
        if (most := rows[:, :3].astype(float).prod(axis=1).max()) > 2.0**50:
            raise ValueError(f"m n k = {most:g} is outside its range [1, {2.0**50:g}]")
        return rows

    def _make_table(self) -> dict[str, Any]:
        sizes = range(self.step, self.step * self.sizes + 1, self.step)
        choices = sorted(itertools.product(sizes, repeat=3), key=lambda choice: (sum(choice), choice))
        return dict(zip(("input_buffer", "filter_buffer", "output_buffer"), zip(*choices, strict=True), strict=True))

    def _range(self, name: str) -> tuple[int, int]:
        ranges = {"rows": (1, 4096), "columns": (1, 4096), "bandwidth": (1, 65536), "limit": (3 * self.step, 2**31 - 1)}
        return ranges.get(name) or super()._range(name)

    def _surroundings(self, key: PRNGKeyArray, count: int) -> list[Array]:
        keys = jax.random.split(key, 5)
        flow = jax.random.randint(keys[2], (count,), 0, 3)
        limit = self.step * jax.random.randint(keys[4], (count,), 3, 3 * self.sizes + 1)
        return [
            draw_powers(keys[0], count, 3, 8),
            draw_powers(keys[1], count, 3, 8),
            flow,
            draw_powers(keys[3], count, 0, 7),
            limit,
        ]

    def _allowed(self, work: Columns, choice: Columns) -> Array:
        return choice["input_buffer"] + choice["filter_buffer"] + choice["output_buffer"] <= work["limit"]

    def _cycles(self, work: Columns, choice: Columns) -> Array:
        values = [*(work[name] for name in self.fields[:-1]), *choice.values()]
        shape = jnp.broadcast_shapes(*(value.shape for value in values))
        flat = [jnp.broadcast_to(value, shape).ravel() for value in values]
        return jax.vmap(_systolic_latency)(*flat).reshape(shape)

    def _words(self, work: Columns, choice: Columns) -> Words:
        whole = jnp.ceil(self._cycles(work, choice)).astype(jnp.uint64)
        return Words((whole >> 32).astype(jnp.uint32), whole.astype(jnp.uint32))


def _systolic_latency(
    m: Array, n: Array, k: Array, rows: Array, columns: Array, flow: Array, bandwidth: Array, *buffers: Array
) -> Array:
    """Cycles, or bus beats over bandwidth, of one product on `Systolic` with buffers in KiB: exact in 64-bit floats.

    Input stationary is weight stationary of the transposed product, inputs and filters changing places.
    """
    swap = flow == 2
    m, n, k, rows, columns, bandwidth, *sizes = (jnp.asarray(x, float) for x in (m, n, k, rows, columns, bandwidth, *buffers))
    first, second = jnp.where(swap, n, m), jnp.where(swap, m, n)
    inputs, filters = jnp.where(swap, sizes[1], sizes[0]) * KIB, jnp.where(swap, sizes[0], sizes[1]) * KIB
    one, none = jnp.ones((1,)), jnp.zeros((1,))
    macs = one * m * n * k
    product = OpTable(
        kind=one * OpKind.DENSE, m=one * first, n=one * second, k=one * k, groups=one, mask=one > 0,
        macs=macs, macs_valid=macs, flops=2 * macs, transcendentals=none, live=none,
        inputs=one * first * k, outputs=one * m * n, weights=one * second * k, activation_bits=8 * one, weight_bits=8 * one,
    )  # fmt: skip
    found = []
    for dataflow in ("os", "ws"):
        chip = Systolic(
            rows=rows, columns=columns, clock=CYCLE, input_buffer=inputs, filter_buffer=filters, output_buffer=sizes[2] * KIB,
            bandwidth=bandwidth * CYCLE, dataflow=dataflow,
        )  # fmt: skip
        found.append(chip.op_costs(product, Conditions(), HARD).latency[0] * CYCLE)
    return jnp.where(flow == 0, *found)
