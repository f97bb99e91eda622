"""OpTable: the one exchange format between whatever describes a computation and whatever prices it.

One row is one operation as a device would run it (bias, batch normalisation and activation are fused into the
operation before them). Matrix-like work is seen as a GEMM: for each of `groups` groups, M output positions times
N outputs per group times K products per output; a convolution is lowered by im2col.

    macs       = M N K groups          counts products with zero padding (the TFLite convention)
    macs_valid <= macs                 leaves those products out (the XLA convention)
    flops      = 2 macs + elementwise operations

Counts are host-side float64 and exact up to 2**53; inside jit they become the default float type.
"""

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Num


class OpKind(enum.IntEnum):
    """What an operation is, as far as a processor's efficiency depends on it."""

    CONV = 0  # ordinary or grouped convolution, weights constant
    DEPTHWISE = 1  # one input channel per group
    DENSE = 2  # matrix product with constant weights
    MATMUL = 3  # matrix product of two activations (attention): nothing stays resident
    ELEMENTWISE = 4
    REDUCE = 5  # pooling, sums, maxima
    MOVE = 6  # data movement only
    OTHER = 7


@dataclasses.dataclass(frozen=True)
class OpInfo:
    """What is known about a table beside its numbers; dropped from batches."""

    name: str
    op_names: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]  # (producer row, consumer row)
    parameters: int  # distinct parameter elements
    peak_op: int  # row at which the live activations peak
    peak_tensors: tuple[str, ...]  # the tensors alive there, largest first, as "name shape"
    uncounted: tuple[tuple[str, int], ...] = ()  # primitives without a rule, with how often they occur
    flags: tuple[str, ...] = ()  # assumptions made, such as a while loop's unknown trip count


COUNTS = ("macs", "macs_valid", "flops", "transcendentals", "inputs", "outputs", "weights", "live")


class OpTable(eqx.Module):
    """A struct of arrays, one entry per operation; a pytree, so it can be jitted, stacked and vmapped.

    All arrays have shape (..., n_ops). `inputs`, `outputs` are activation elements read and written, `weights` are
    parameter elements read, `live` are the activation elements alive while the row runs. Rows with `mask` False are padding.
    """

    kind: Num[Array | np.ndarray, "..."]
    m: Num[Array | np.ndarray, "..."]
    n: Num[Array | np.ndarray, "..."]
    k: Num[Array | np.ndarray, "..."]
    groups: Num[Array | np.ndarray, "..."]
    macs: Float[Array | np.ndarray, "..."]
    macs_valid: Float[Array | np.ndarray, "..."]
    flops: Float[Array | np.ndarray, "..."]
    transcendentals: Float[Array | np.ndarray, "..."]
    inputs: Float[Array | np.ndarray, "..."]
    outputs: Float[Array | np.ndarray, "..."]
    weights: Float[Array | np.ndarray, "..."]
    live: Float[Array | np.ndarray, "..."]
    activation_bits: Float[Array | np.ndarray, "..."]
    weight_bits: Float[Array | np.ndarray, "..."]
    mask: Bool[Array | np.ndarray, "..."]
    info: OpInfo | None = eqx.field(static=True, default=None)

    @property
    def n_ops(self) -> int:
        """Number of rows, padding included."""
        return self.kind.shape[-1]

    @property
    def bytes_in(self) -> Any:
        """Activation bytes read per operation."""
        return self.inputs * self.activation_bits / 8

    @property
    def bytes_out(self) -> Any:
        """Activation bytes written per operation."""
        return self.outputs * self.activation_bits / 8

    @property
    def bytes_weights(self) -> Any:
        """Parameter bytes read per operation."""
        return self.weights * self.weight_bits / 8

    def total(self, column: str) -> int:
        """Exact sum of one count column over all rows of an unbatched table (for example `"macs"`)."""
        if column not in COUNTS:
            raise ValueError(f"unknown count {column!r}; known: {', '.join(COUNTS)}")
        return int(np.sum(np.asarray(getattr(self, column), dtype=np.float64)[np.asarray(self.mask)]))

    @property
    def peak_live(self) -> int:
        """Largest number of activation elements alive at once."""
        return int(np.max(np.where(self.mask, np.asarray(self.live), 0), initial=0))

    def with_bits(self, *, activation: float | int, weight: float | int) -> "OpTable":
        """The same work stored with other operand widths (bits); the computation itself is unchanged."""
        for name, bits in (("activation", activation), ("weight", weight)):
            if not 1 <= bits <= 64:
                raise ValueError(f"{name} width = {bits:g} bit is outside its range [1, 64] bit")
        full = np.ones(self.kind.shape)
        return dataclasses.replace(self, activation_bits=full * activation, weight_bits=full * weight)

    def without_info(self) -> "OpTable":
        """The numbers alone: a table whose tree structure depends on nothing but the shapes."""
        return dataclasses.replace(self, info=None)

    def padded(self, n_ops: int) -> "OpTable":
        """The table with masked rows appended up to `n_ops` rows (zero counts, unit dimensions)."""
        extra = n_ops - self.n_ops
        if extra < 0:
            raise ValueError(f"n_ops = {n_ops} is below the table's own {self.n_ops} operations")
        ones = {"m", "n", "k", "groups", "activation_bits", "weight_bits"}

        def pad(name: str, column: Any) -> np.ndarray:
            column = np.asarray(column)
            width = [(0, 0)] * (column.ndim - 1) + [(0, extra)]
            return np.pad(column, width, constant_values=1 if name in ones else 0)

        names = [f.name for f in dataclasses.fields(self) if f.name != "info"]
        return OpTable(**{name: pad(name, getattr(self, name)) for name in names}, info=self.info)


def stack(tables: Sequence[OpTable]) -> OpTable:
    """One batched table of shape (len(tables), longest), shorter ones padded; ValueError if there is none."""
    if not tables:
        raise ValueError("stack() needs at least one OpTable, got none")
    longest = max(table.n_ops for table in tables)
    padded = [table.padded(longest).without_info() for table in tables]
    return jax.tree.map(lambda *columns: np.stack(columns), *padded)


def make_table(rows: Sequence[dict[str, Any]], info: OpInfo | None = None) -> OpTable:
    """An OpTable from dictionaries; missing dimensions default to 1, missing counts to 0, widths to 32 bit.

    Raises ValueError for an empty workload, an unknown column, a count that is negative or not a number,
    or a dimension below 1 or beyond int32.
    """
    if not rows:
        raise ValueError("a workload needs at least one operation, got 0")
    defaults: dict[str, Any] = dict(m=1, n=1, k=1, groups=1, activation_bits=32.0, weight_bits=32.0, mask=True)
    known = {f.name for f in dataclasses.fields(OpTable)} - {"info"}
    columns: dict[str, np.ndarray] = {}
    for index, row in enumerate(rows):
        if unknown := set(row) - known:
            raise ValueError(f"operation {index}: unknown column {sorted(unknown)[0]!r}; known: {', '.join(sorted(known))}")
    for name in known:
        column = np.asarray([float(row.get(name, defaults.get(name, 0))) for row in rows])
        _check_column(name, column)
        columns[name] = column
    for name in ("kind", "m", "n", "k", "groups"):
        columns[name] = columns[name].astype(np.int32)
    columns["mask"] = columns["mask"].astype(bool)
    return OpTable(**columns, info=info)


def _check_column(name: str, column: np.ndarray) -> None:
    lo, hi, unit = (0.0, 2.0**53, "elements") if name in COUNTS else (0.0, 1.0, "") if name == "mask" else (1.0, 2.0**31 - 1, "")
    if name == "kind":
        lo, hi = 0.0, float(max(OpKind))
    if name.endswith("_bits"):
        hi, unit = 64.0, "bit"
    bad = ~((column >= lo) & (column <= hi))
    if bad.any():
        index = int(np.argmax(bad))
        raise ValueError(f"operation {index}: {name} = {column[index]:g} {unit} is outside its range [{lo:g}, {hi:g}] {unit}")
