"""What a workload costs on every processor of a platform before any state is known: the part of a decision done once.

A processor that has a fast memory before its main one moves more than what a matrix product reads and writes once: the
traffic of the product's best tile in that memory (`costmodel.best_tiles`, the polyhedral estimate). Other kernels move Q(n; S)
of the complexity library. Crossbars hold one operand, so their products read and write once.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from costmodel import Offer, Platform, best_tiles, estimate, make_offer
from costmodel.processors.roofline import Roofline
from workloads import OpKind, OpTable, stack
from workloads.resolution import Workload


class Memory(NamedTuple):
    """Memories of one processor, in bytes."""

    fast: float  # in which tiles are reused
    data: float = float("inf")  # for the activations alive at once
    weights: float = float("inf")  # for constant weights, beside memory cells


MEMORIES: dict[str, Memory] = {
    "cpu": Memory(640 * 1024, 640 * 1024, 2 * 1024**2),  # STM32L4R5ZI: 640 KB SRAM, 2 MB flash
    "gpu": Memory(256 * 1024, 4e9, 4e9),  # Jetson Nano: 256 KB second-level cache, 4 GB LPDDR4
    "pim": Memory(64 * 1024, 4e9),  # ISAAC: 64 KB buffer of a tile; activations from the GPU's memory (assumed)
}
BLOCK = (128, 32)  # inputs and outputs of the array that `Totals.blocks` counts: 8 bits in 128 x 128 cells of two
ALONE = "processor"
UNKNOWN = Memory(1024**2)  # of a processor without an entry: 1 MiB, no limits


class Totals(NamedTuple):
    """Sums over a workload's operations: what the second tier sees of it."""

    rows: Float[Array, "..."]
    conv: Float[Array, "..."]  # MACs of convolutions
    depthwise: Float[Array, "..."]  # of depthwise ones
    dense: Float[Array, "..."]  # of all other products
    positions: Float[Array, "..."]  # M of every product: what arrays that hold all of it do one after the other
    blocks: Float[Array, "..."]  # products of single arrays of BLOCK weights
    operations: Float[Array, "..."]  # beside multiply-accumulates
    activations: Float[Array, "..."]  # elements read and written
    constants: Float[Array, "..."]  # weights read
    kept: Float[Array, "..."]  # arrays of BLOCK weights that hold the constant operands
    streamed: Float[Array, "..."]  # those of second operands that are new at every run

    def described(self) -> Float[Array, "... entries"]:
        """ln(1 + n) of every sum, then ln of the operations for each element moved."""
        work, moved = self.conv + self.depthwise + self.dense + self.operations, self.activations + self.constants
        return jnp.stack([*(jnp.log1p(total) for total in self), jnp.log1p(work) - jnp.log1p(moved)], axis=-1)


class Priced(NamedTuple):
    """A workload on every processor; or several, with one more leading axis."""

    offer: Offer
    capacity: Float[Array, "... processors"]  # ln(memory there is / memory needed)
    totals: Totals
    described: Float[Array, "... entries"]


def element_bytes(platform: Platform, name: str) -> float:
    """Bytes of one element on a processor (1 where its family does not say)."""
    processor = platform.processors[name]
    bits = processor.operand_bits if isinstance(processor, Roofline) else getattr(processor, "input_bits", 8.0)
    return float(bits) / 8


def price(platform: Platform, works: Sequence[Workload], memories: Mapping[str, Memory]) -> Priced:
    """Offers, capacities and totals of `works`: arrays (W, P) and (W,)."""
    columns = []
    for name, alone in zip(platform.names, split(platform), strict=True):
        memory, size = memories.get(name, UNKNOWN), element_bytes(platform, name)
        tables = stack(_even([work.table_for(memory.fast / size) for work in works]))
        offer, needed = _offers(alone, tables, jnp.asarray(memory.fast, float), jnp.asarray(size, float))
        room = -jnp.log(jnp.maximum(needed, 1e-30))  # of the memory cells
        columns.append((offer, jnp.minimum(room, _room(works, memory, size))))
    offer, capacity = jax.tree.map(lambda *parts: jnp.stack(parts, axis=-1), *columns)
    totals = _totals(works)
    return Priced(offer, capacity, totals, totals.described())


@jax.jit
def _offers(alone: Platform, tables: OpTable, fast: Array, size: Array) -> tuple[Offer, Array]:
    """Of every table on the only processor: its offer (W,), and the share of its memory cells that it needs (W,)."""
    processor = alone.processors[ALONE]

    def one(table: OpTable) -> tuple[Offer, Array]:
        table = _tiled(table, fast, size) if isinstance(processor, Roofline) else table
        return jax.tree.map(lambda x: x[0], make_offer(alone, table)), estimate(processor, table).memory

    return jax.vmap(one)(tables)


def _tiled(table: OpTable, fast: Array, size: Array) -> OpTable:
    """The table with the traffic of every product's best tile in `fast` bytes, elements of `size` bytes, as inputs."""
    bits = jnp.full(table.kind.shape, 8 * size)
    moved = best_tiles(dataclasses.replace(table, activation_bits=bits, weight_bits=bits), fast).bytes_moved / size
    inputs = jnp.maximum(moved - table.outputs - table.weights, table.inputs)
    return dataclasses.replace(table, inputs=jnp.where(jnp.asarray(table.macs) > 0, inputs, table.inputs))


def split(platform: Platform) -> tuple[Platform, ...]:
    """Every processor as a platform of its own, on its own junction, all called the same: equal families share a program."""
    return tuple(_alone(platform, i) for i in range(len(platform.names)))


def _alone(platform: Platform, index: int) -> Platform:
    name, package = platform.names[index], platform.package
    junction = {field: getattr(package, field)[index : index + 1] for field in ("r_junction", "c_junction")}
    clocks = {ALONE: platform.clocks[name]} if name in platform.clocks else {}
    package = dataclasses.replace(package, names=(ALONE,), **junction)
    return Platform({ALONE: platform.processors[name]}, package, platform.hazard_budget, clocks, platform.limit)


def _even(tables: list[OpTable]) -> list[OpTable]:
    """Tables padded to a power of two of rows, so that few shapes are compiled."""
    longest = max(table.n_ops for table in tables)
    rows = 1 << (longest - 1).bit_length()
    return [table.padded(rows) for table in tables]


def _room(works: Sequence[Workload], memory: Memory, size: float) -> Float[Array, " works"]:
    """ln(elements there are / elements needed), of activations or of constant weights, whichever is less."""
    needed = [[max(work.table.peak_live, 1), max(work.table.total("weights"), 1)] for work in works]
    there = np.minimum(np.asarray([memory.data, memory.weights]) / size, 1e30)
    return jnp.asarray(np.log(there / np.asarray(needed, float)).min(axis=-1), float)


def _totals(works: Sequence[Workload]) -> Totals:
    """Of every workload: arrays (W,)."""
    return Totals(*jnp.asarray([_sums(work.table) for work in works], float).T)


def _sums(table: OpTable) -> list[float]:
    """The entries of `Totals` of one table."""
    on = np.asarray(table.mask)
    t = {name: np.asarray(getattr(table, name), float)[on] for name in ("kind", "m", "n", "k", "groups", "macs")}
    conv, depthwise, product = t["kind"] == OpKind.CONV, t["kind"] == OpKind.DEPTHWISE, t["macs"] > 0
    streamed = t["kind"] == OpKind.MATMUL
    sharing = np.clip(np.minimum(BLOCK[0] // t["k"], BLOCK[1] // t["n"]), 1, t["groups"])  # small groups share one array
    arrays = np.ceil(t["groups"] / sharing) * np.ceil(t["k"] / BLOCK[0]) * np.ceil(t["n"] / BLOCK[1])
    columns = (
        (1.0, True),
        (t["macs"], conv),
        (t["macs"], depthwise),
        (t["macs"], ~(conv | depthwise)),
        (t["m"], product),
        (t["m"] * arrays, product),
        (arrays, product & ~streamed),
        (arrays, product & streamed),
    )
    sums = [float(np.sum(np.where(which, value, 0.0) * np.ones(on.sum()))) for value, which in columns]
    operations = max(table.total("flops") - 2 * table.total("macs"), 0)
    return [*sums[:-2], operations, table.total("inputs") + table.total("outputs"), table.total("weights"), *sums[-2:]]
