"""Layer lists of systolic-array simulators as operation tables: convolutions lowered to products, plain products as they are.

A convolution of H x W x c inputs with f filters of r x s x c at stride d becomes, without padding,

    M = Eh Ew,   N = f,   K = r s c,        Eh = ceil((H - r + d) / d)

which is SCALE-Sim's rounding: one position more than the floor((H - r) / d) + 1 that lie inside wherever the stride does not
divide (224, 7 at stride 2: 110, not 109). `form="valid"` counts those inside only. Inputs of such lists often include the padding
already. What is called depthwise there is one filter over all channels, an ordinary convolution with N = 1; a true one is
`depthwise=True`: c groups of K = r s, N = f / c.

Source of the format: github.com/scalesim-project/scale-sim-v2, topologies (a header line, one layer a line, a comma at the end).
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from workloads import OpInfo, OpKind, OpTable, make_table

FORMS = ("tool", "valid")
Row = Sequence[Any]


class Lowered(NamedTuple):
    """`groups` products of (m, k) x (k, n)."""

    m: int
    n: int
    k: int
    groups: int = 1


def lower_convolution(
    height: int,
    width: int,
    kernel_height: int,
    kernel_width: int,
    channels: int,
    filters: int,
    stride: int = 1,
    *,
    padding: int = 0,
    depthwise: bool = False,
    form: str = "tool",
) -> Lowered:
    """The product that an im2col convolution is. `padding` is added on every side.

    Raises ValueError for a size below 1, a kernel larger than its input, or depthwise filters no multiple of the channels.
    """
    sizes = (height, width, kernel_height, kernel_width, channels, filters, stride)
    if min(sizes) < 1 or padding < 0 or form not in FORMS:
        raise ValueError(f"convolution {sizes}, padding {padding}, form {form!r}: sizes of at least 1, form one of {FORMS}")
    outputs = [_positions(size + 2 * padding, kernel, stride, form) for size, kernel in zip(sizes[:2], sizes[2:4], strict=True)]
    if depthwise:
        if filters % channels:
            raise ValueError(
                f"filters = {filters} is outside its range: a multiple of the {channels} channels of a depthwise layer"
            )
        return Lowered(outputs[0] * outputs[1], filters // channels, kernel_height * kernel_width, channels)
    return Lowered(outputs[0] * outputs[1], filters, kernel_height * kernel_width * channels)


def topology_table(rows: Sequence[Row], name: str = "topology") -> OpTable:
    """An operation table of 8-bit layers: rows (name, M, N, K), or (name, H, W, r, s, channels, filters, stride) to be lowered.

    Raises ValueError for a row of another length or with something that is not a whole number.
    """
    names = tuple(str(row[0]).strip() for row in rows if len(row))
    info = OpInfo(name, names, tuple((i, i + 1) for i in range(len(rows) - 1)), 0, 0, ())
    return make_table([_operation(row) for row in rows], info)


def read_topology(path: str | Path) -> OpTable:
    """A SCALE-Sim topology file (.csv), of products or of convolutions; ValueError as for `topology_table`."""
    with open(path, newline="") as file:
        lines = [[cell for cell in (c.strip() for c in line) if cell] for line in csv.reader(file)]
    return topology_table([line for line in lines[1:] if line], Path(path).stem)


def _operation(row: Row) -> dict[str, Any]:
    label, *cells = row
    try:
        numbers = [int(cell) for cell in cells]
    except (TypeError, ValueError):
        raise ValueError(f"layer {str(label)!r}: {list(cells)!r} is not a row of whole numbers") from None
    if len(numbers) == 3:
        m, n, k = numbers
        return _counted(Lowered(m, n, k), OpKind.DENSE, m * k)
    if len(numbers) == 7:
        return _counted(lower_convolution(*numbers), OpKind.CONV, numbers[0] * numbers[1] * numbers[4])
    raise ValueError(f"layer {str(label)!r} has {len(numbers)} numbers; a product has 3 (M, N, K), a convolution 7")


def _counted(product: Lowered, kind: OpKind, inputs: int) -> dict[str, Any]:
    m, n, k, groups = product
    macs = m * n * k * groups
    return dict(
        kind=kind, m=m, n=n, k=k, groups=groups, macs=macs, macs_valid=macs, flops=2 * macs, inputs=inputs,
        outputs=m * n * groups, weights=n * k * groups, live=inputs + m * n * groups, activation_bits=8, weight_bits=8,
    )  # fmt: skip


def _positions(size: int, kernel: int, stride: int, form: str) -> int:
    if kernel > size:
        raise ValueError(f"kernel = {kernel} is outside its range [1, {size}], the padded input")
    return -(-(size - kernel) // stride) + 1 if form == "tool" else (size - kernel) // stride + 1
