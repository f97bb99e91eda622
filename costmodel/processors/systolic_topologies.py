"""Layer lists of systolic-array simulators as operation tables: convolutions lowered to products, plain products as they are.

A convolution of H x W x c inputs with f filters of r x s x c at strides d, e becomes, without padding,

    M = Eh Ew,   N = f,   K = r s c,        Eh = ceil((H - r + d) / d),   Ew = ceil((W - s + e) / e)

which is SCALE-Sim's rounding: one position more than the floor((H - r) / d) + 1 that lie inside wherever the stride does not
divide (224, 7 at stride 2: 110, not 109). `form="valid"` counts those inside only. Inputs of such lists often include the padding
already. A layer with "DP" in its name is depthwise there: c products of K = r s with all f filters each. What is called depthwise
otherwise is one filter over all channels, an ordinary convolution with N = 1. In `lower_convolution`, `depthwise=True` is the
usual meaning: c groups of K = r s, N = f / c.

A file has a header line (or none), then one layer a line: name, then M, N, K, or H, W, r, s, c, f, stride. Lists in use also hold
a second stride, a batch size or a sparsity (by the header; an eighth number without one is the second stride), notes after an
empty cell or a #, titles, blank lines, tabs for commas, and a comma at the end of a line or not. Sparsity other than n:n is an
error: it is not modelled.

Source of the format: github.com/scalesim-project/scale-sim-v2 and scalesim 3.0.0, topology_utils.py and topologies.
"""

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from workloads import OpInfo, OpKind, OpTable, make_table

FORMS = ("tool", "valid")
DEPTHWISE = "DP"  # in a layer's name
PRODUCT, CONVOLUTION = 3, 7  # numbers of a row
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
    stride: int | tuple[int, int] = 1,
    *,
    padding: int = 0,
    depthwise: bool = False,
    form: str = "tool",
) -> Lowered:
    """The product that an im2col convolution is. `stride` is along both sides or (down, across); `padding` is on every side.

    Raises ValueError for a size below 1, a kernel larger than its input, or depthwise filters no multiple of the channels.
    """
    strides = stride if isinstance(stride, tuple) else (stride, stride)
    sizes = (height, width, kernel_height, kernel_width, channels, filters, *strides)
    if min(sizes) < 1 or padding < 0 or form not in FORMS or any(size % 1 for size in (*sizes, padding)):
        raise ValueError(f"convolution {sizes}, padding {padding}, form {form!r}: whole sizes of at least 1, form one of {FORMS}")
    down = _positions(height + 2 * padding, kernel_height, strides[0], form)
    across = _positions(width + 2 * padding, kernel_width, strides[1], form)
    if depthwise:
        if filters % channels:
            raise ValueError(
                f"filters = {filters} is outside its range: a multiple of the {channels} channels of a depthwise layer"
            )
        return Lowered(down * across, filters // channels, kernel_height * kernel_width, channels)
    return Lowered(down * across, filters, kernel_height * kernel_width * channels)


def topology_table(rows: Sequence[Row], name: str = "topology") -> OpTable:
    """An operation table of 8-bit layers: rows (name, M, N, K), or (name, H, W, r, s, channels, filters, stride) to be lowered.

    A convolution may have a second stride, and is depthwise if its name says "DP" (see the module). Raises ValueError for a row
    of another length or with something that is not a whole number.
    """
    return _table([_Layer(str(row[0]).strip(), list(row[1:])) for row in rows if len(row)], name)


def read_topology(path: str | Path) -> OpTable:
    """A SCALE-Sim topology file (.csv), of products or of convolutions; ValueError as for `topology_table`."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        text = [line.strip() for line in file.read().splitlines()]
    separator = "," if any("," in line for line in text) else "\t"
    lines = [line for line in map(_cells, csv.reader(text, delimiter=separator)) if line]
    headed = bool(lines) and not (len(lines[0]) > 1 and lines[0][1].isdigit())
    labels = [cell.lower() for cell in lines[0]] if headed else []
    return _table([_layer(line, labels) for line in lines[headed:] if len(line) > 1], Path(path).stem)


class _Layer(NamedTuple):
    name: str
    numbers: list[Any]
    batch: int = 1


def _table(layers: list[_Layer], name: str) -> OpTable:
    edges = tuple((i, i + 1) for i in range(len(layers) - 1))
    info = OpInfo(name, tuple(layer.name for layer in layers), edges, 0, 0, ())
    return make_table([_operation(layer) for layer in layers], info)


def _cells(line: list[str]) -> list[str]:
    """Stripped cells of a line, up to a note and without the empty ones at its end."""
    cells = [cell.strip() for cell in line]
    cells = list(itertools.takewhile(lambda cell: not cell.startswith("#"), cells))
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _layer(cells: list[str], labels: list[str]) -> _Layer:
    """One line of a file; what stands behind its numbers is read by the header's label, or dropped."""
    columns = len(list(itertools.takewhile(bool, labels)))
    size = 1 + (CONVOLUTION if (columns if columns > PRODUCT else len(cells)) > CONVOLUTION else PRODUCT)
    numbers, batch = cells[1:size], 1
    for index, cell in itertools.takewhile(lambda pair: pair[1], enumerate(cells[size:], size)):
        label = labels[index] if index < columns else ""
        if "sparsity" in label or ":" in cell:
            _check_dense(cells[0], cell)
        elif "batch" in label:
            batch = _whole(cells[0], [cell])[0]
        elif size > CONVOLUTION and index == size and (not label or "stride" in label):
            numbers.append(cell)
    return _Layer(cells[0], numbers, batch)


def _check_dense(layer: str, ratio: str) -> None:
    kept, _, block = ratio.partition(":")
    if kept != block:
        raise ValueError(f"layer {layer!r}: sparsity = {ratio!r} is outside its range: dense, as 1:1; sparsity is not modelled")


def _whole(layer: str, cells: list[Any]) -> list[int]:
    try:
        return [int(cell) for cell in cells]
    except (TypeError, ValueError):
        raise ValueError(f"layer {layer!r}: {cells!r} is not a row of whole numbers") from None


def _operation(layer: _Layer) -> dict[str, Any]:
    numbers = _whole(layer.name, layer.numbers)
    if len(numbers) == PRODUCT:
        m, n, k = numbers
        return _counted(Lowered(layer.batch * m, n, k), OpKind.DENSE, layer.batch * m * k)
    if len(numbers) not in (CONVOLUTION, CONVOLUTION + 1):
        raise ValueError(f"layer {layer.name!r} has {len(numbers)} numbers; a product has 3 (M, N, K), a convolution 7 or 8")
    height, width, kernel_height, kernel_width, channels, filters, *strides = numbers
    depthwise = DEPTHWISE in layer.name
    within = 1 if depthwise else channels
    m, n, k, _ = lower_convolution(height, width, kernel_height, kernel_width, within, filters, (strides[0], strides[-1]))
    kind, groups = (OpKind.DEPTHWISE, channels) if depthwise else (OpKind.CONV, 1)
    return _counted(Lowered(layer.batch * m, n, k, groups), kind, layer.batch * height * width * channels)


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
