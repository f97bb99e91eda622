"""Layers onto crossbars: how many arrays a layer takes, how full they are, what is added across them, what is rewritten.

Every operation is a GEMM (M, N, K, groups): a convolution by im2col (K = kernel volume, M = output pixels), a dense layer,
a depthwise or grouped convolution (many small products), or a product of two activations. With s = ceil(weight bits / bits
per cell) slices a weight takes (rows per weight) x (s columns per slice) cells, so that one array holds

    I = floor(rows / rows per weight) inputs  x  F = floor((columns - reference columns) / cells of a weight) outputs
    arrays = ceil(groups / sharing) ceil(K / I) ceil(N / F),   sharing = min(floor(I / K), floor(F / N)) >= 1

Groups share an array block-diagonally, which is why the utilisation of depthwise layers collapses: of I F places only K N
per group hold a weight. Row tiles of a layer leave (ceil(K / I) - 1) M N groups partial sums to be added.
Encodings of signed weights: `plain` (unsigned or digital), `offset` (one reference column an array), `differential_columns`,
`differential_rows`; and the seventeen mappings of CIM-Explorer, whose cells and passes are those of `physics.crossbar`.
Valid for M, N, K >= 1. Non-smooth points: every ceil and floor goes through the relaxation policy.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from costmodel import relax
from costmodel.processors.base import as_arrays, masked
from costmodel.relax import Relaxation, Value
from physics import Cell, unknown_name
from physics.crossbar.mappings import INTEGER, list_mappings, load_mapping
from workloads import OpKind, OpTable


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Cells of one weight and array activations of one product; hashable, for static fields.

    `slices` and `cycles` are None where they follow from the operand widths (weight bits over cell bits, input bits over
    converter bits).
    """

    name: str
    rows_per_weight: int = 1
    columns_per_slice: int = 1
    reference_columns: int = 0  # of every array
    slices: int | None = None
    cycles: int | None = None


PLAIN = Encoding("plain")
ENCODINGS = {
    encoding.name: encoding
    for encoding in (
        PLAIN,
        Encoding("offset", reference_columns=1),
        Encoding("differential_columns", columns_per_slice=2),
        Encoding("differential_rows", rows_per_weight=2),
    )
}


def load_encoding(name: str, weight_bits: int = 8, input_bits: int = 8, slices: tuple[int, ...] = (4, 4)) -> Encoding:
    """The encoding called `name`: one of the four general ones or of the seventeen mappings (see `physics.crossbar`).

    The other arguments are those of `physics.crossbar.load_mapping` and are used by the integer mappings only. Cycles are
    the passes as executed; the two arrays of I_DIFF_W_DIFF_2XB work at the same time. ValueError for an unknown name.
    """
    if name in ENCODINGS:
        return ENCODINGS[name]
    try:
        mapping = load_mapping(name, weight_bits, input_bits, slices)
    except ValueError as problem:
        if "unknown" in str(problem):
            raise ValueError(unknown_name("encoding", name, list_encodings())) from None
        raise
    cycles, parts = mapping.passes, len(slices) if name in INTEGER else 1
    if name.endswith("2XB"):  # each drive goes to one of the two arrays
        negative = sum(drive[0].sign < 0 for drive in mapping.drives)
        cycles = max(negative, cycles - negative)
    return Encoding(name, mapping.rows_per_weight, mapping.columns_per_weight // parts, slices=parts, cycles=cycles)


def list_encodings() -> tuple[str, ...]:
    """Names that `load_encoding` takes."""
    return (*ENCODINGS, *list_mappings())


class Grid(NamedTuple):
    """What one array holds of a layer's weights (scalars)."""

    inputs: Float[Array, ""]  # rows of the weight matrix
    outputs: Float[Array, ""]  # its columns
    cells: Float[Array, ""]  # memory cells of one weight


def grid(
    rows: Value,
    columns: Value,
    weight_bits: Value,
    bits_per_cell: Value,
    encoding: Encoding = PLAIN,
    relaxation: Relaxation = relax.HARD,
) -> Grid:
    """Places for weights in an array of rows x columns cells, at least one by one (see `check_mappable`)."""
    slices = relax.ceil_div(weight_bits, bits_per_cell, relaxation)
    if encoding.slices is not None:
        slices = jnp.full((), float(encoding.slices))
    wide = slices * encoding.columns_per_slice
    outputs = relax.floor_div(jnp.maximum(columns - encoding.reference_columns, 0.0), wide, relaxation)
    rows = jnp.asarray(rows, float)
    inputs = rows if encoding.rows_per_weight == 1 else relax.floor_div(rows, encoding.rows_per_weight, relaxation)
    return Grid(jnp.maximum(inputs, 1.0), jnp.maximum(outputs, 1.0), wide * encoding.rows_per_weight)


class Placement(NamedTuple):
    """A table on arrays; all (n_ops,), 0 for operations without matrix products."""

    tiles: Float[Array, " ops"]  # arrays that hold the weights once
    row_tiles: Float[Array, " ops"]  # of one group
    column_tiles: Float[Array, " ops"]
    weights: Float[Array, " ops"]  # K N groups
    utilization: Float[Array, " ops"]  # share of the places for weights that hold one
    row_share: Float[Array, " ops"]  # share of an array's inputs in use
    column_share: Float[Array, " ops"]  # and of its outputs
    partial_sums: Float[Array, " ops"]  # additions across row tiles


def place(ops: OpTable, inputs: Value, outputs: Value, relaxation: Relaxation = relax.HARD) -> Placement:
    """Every row of `ops` on arrays that hold `inputs` x `outputs` weights."""
    t = as_arrays(ops)
    beside = jnp.minimum(
        relax.floor_div(inputs, t.k, relaxation), relax.floor_div(outputs, t.n, relaxation)
    )  # exact: a p-norm would share less than fits
    sharing = jnp.clip(beside, 1.0, t.groups)
    row_tiles, column_tiles = relax.ceil_div(t.k, inputs, relaxation), relax.ceil_div(t.n, outputs, relaxation)

    def busy(values: Array) -> Array:
        return masked(jnp.where(t.macs > 0, values, 0.0), t)

    sets = relax.ceil_div(t.groups, sharing, relaxation)
    tiles, together = busy(sets * (row_tiles * column_tiles)), t.groups / sets
    weights = busy(t.k * t.n * t.groups)
    return Placement(
        tiles,
        busy(row_tiles),
        busy(column_tiles),
        weights,
        weights / inputs / outputs / jnp.where(tiles > 0, tiles, 1.0),
        busy(together * t.k / (row_tiles * inputs)),
        busy(together * t.n / (column_tiles * outputs)),
        busy((row_tiles - 1) * (t.m * t.n) * t.groups),
    )


def missing_share(ops: OpTable, needed: Value, resident: Value, relaxation: Relaxation = relax.HARD) -> Float[Array, " ops"]:
    """Share of each operation's weights that a run writes: not `resident`, beyond capacity, or the second operand of a product.

    `needed` is the memory that the whole table needs over what there is: the part beyond 1 is rewritten at every run.
    """
    needed = jnp.asarray(needed, float)
    fits = 1 / relax.maximum(jnp.ones_like(needed), needed, policy=relaxation)
    return jnp.where(jnp.asarray(ops.kind) == OpKind.MATMUL, 1.0, 1 - resident * fits)


def log_runs_to_failure(written: Float[Array, ""], cell: Cell, temperature: Value, pulses: Value = 1.0) -> Float[Array, ""]:
    """ln of the runs until the cells' characteristic life is used up; `written` is `Cost.written`, the share of the chip.

    Writes are spread over all cells (ideal levelling) and count `pulses` times. At most 85, where next to nothing is written.
    """
    per_run = jnp.log(jnp.maximum(jnp.asarray(written * pulses, float), 1e-37))
    return jnp.minimum(cell.endurance.log_cycles(temperature) - per_run, 85.0)


def layer_name(ops: OpTable, index: int) -> str:
    """What to call one row in a message."""
    named = ops.info is not None and index < len(ops.info.op_names)
    return f"layer {ops.info.op_names[index]!r}" if named and ops.info is not None else f"operation {index}"


def check_mappable(
    ops: OpTable,
    *,
    rows: Value,
    columns: Value,
    weight_bits: Value,
    bits_per_cell: Value,
    encoding: Encoding = PLAIN,
    dynamic: bool = True,
    arrays: Value | None = None,
) -> None:
    """Raise ValueError, one line naming layer and limit, if a layer of `ops` cannot be laid onto such arrays.

    `dynamic` False refuses products of two activations; `arrays`, if given, is the number of arrays that a single layer may
    take. Does nothing for traced values: call it before jit.
    """
    numbers = (rows, columns, weight_bits, bits_per_cell, arrays, ops.kind, ops.macs, ops.k, ops.n)
    if any(isinstance(x, Tracer) or jnp.ndim(x) > 1 for x in numbers if x is not None):
        return
    busy = np.asarray(ops.mask) & (np.asarray(ops.macs) > 0)
    if not busy.any():
        return
    first = layer_name(ops, int(np.argmax(busy)))
    width, cell, high, wide = (float(jnp.asarray(x)) for x in (weight_bits, bits_per_cell, rows, columns))
    slices = -(-width // cell) if encoding.slices is None else encoding.slices
    needed, free = slices * encoding.columns_per_slice, wide - encoding.reference_columns
    if needed > free:
        raise ValueError(
            f"{first}: a {width:g}-bit weight takes {needed:g} columns ({encoding.name}, {cell:g} bit per cell), "
            f"the array has {free:g}"
        )
    if encoding.rows_per_weight > high:
        raise ValueError(f"{first}: a weight takes {encoding.rows_per_weight} rows ({encoding.name}), the array has {high:g}")
    products = busy & (np.asarray(ops.kind) == OpKind.MATMUL)
    if products.any() and not dynamic:
        raise ValueError(
            f"{layer_name(ops, int(np.argmax(products)))}: a product of two activations needs cells rewritten at every run, "
            'this hardware has dynamic = "refuse"'
        )
    if arrays is not None:
        tiles = np.asarray(place(ops, *grid(rows, columns, weight_bits, bits_per_cell, encoding)[:2]).tiles)
        if tiles.max() > float(jnp.asarray(arrays)):
            worst = int(np.argmax(tiles))
            raise ValueError(
                f"{layer_name(ops, worst)}: needs {tiles[worst]:g} arrays, the limit is {float(jnp.asarray(arrays)):g}"
            )
