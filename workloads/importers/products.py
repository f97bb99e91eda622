"""Products as matrix products: convolutions (im2col) and general dot products.

    macs = M N K groups

A convolution has M output positions (batch and space), N outputs and K = taps x input channels for each of its groups.
A tap is valid when it falls on an element of the input, not on zero padding and not between the elements of a dilated
(transposed-convolution) input:

    0 <= p <= (n - 1) d   and   p = 0 (mod d),    p = o s + t r - pad

for output o, tap t, stride s, kernel dilation r, input dilation d. The number of valid (o, t) pairs of a window is the
product over the spatial dimensions, because the conditions are independent. XLA's cost analysis counts the same.
"""

import math
from typing import NamedTuple

from workloads.importers.graph import Node, Value
from workloads.ops import OpKind


class Product(NamedTuple):
    """One product in the GEMM view; `macs_valid` leaves out products with padding zeros."""

    kind: OpKind
    m: int
    n: int
    k: int
    groups: int
    macs: int
    macs_valid: int
    weight: Value | None  # the constant operand


def valid_taps(size: int, out: int, kernel: int, stride: int, low: int, size_dilation: int = 1, kernel_dilation: int = 1) -> int:
    """Number of (output, tap) pairs of one dimension that fall on input elements.

    `size` input elements spread `size_dilation` apart after `low` zeros, `out` outputs `stride` apart, `kernel` taps
    `kernel_dilation` apart. Exact, in O(kernel): for each tap the outputs form an arithmetic progression.
    """
    common = math.gcd(stride, size_dilation)
    period = size_dilation // common
    inverse = pow(stride // common, -1, period) if period > 1 else 0
    count = 0
    for tap in range(kernel):
        offset = tap * kernel_dilation - low
        if size == 0 or offset % common:
            continue
        first = max(0, -(offset // stride))  # the smallest o with o s + offset >= 0
        last = min(out - 1, ((size - 1) * size_dilation - offset) // stride)
        residue = (-(offset // common) * inverse) % period
        if last >= first:
            count += (last - residue) // period - (first - 1 - residue) // period
    return count


def convolution(node: Node) -> Product:
    """`conv_general_dilated` in any layout, with 1 to n spatial dimensions, groups and dilations."""
    image, kernel, result = node.inputs[0], node.inputs[1], node.outputs[0]
    spec = node.params["dimension_numbers"]
    groups = node.params["feature_group_count"] * node.params["batch_group_count"]
    channels = kernel.shape[spec.rhs_spec[1]]
    n = kernel.shape[spec.rhs_spec[0]] // groups
    valid = taps = 1
    spatial = zip(
        spec.lhs_spec[2:],
        spec.rhs_spec[2:],
        spec.out_spec[2:],
        node.params["window_strides"],
        node.params["padding"],
        node.params["lhs_dilation"],
        node.params["rhs_dilation"],
        strict=True,
    )
    for i, j, o, stride, (low, _), size_dilation, kernel_dilation in spatial:
        taps *= kernel.shape[j]
        valid *= valid_taps(image.shape[i], result.shape[o], kernel.shape[j], stride, low, size_dilation, kernel_dilation)
    positions = math.prod(result.shape[o] for o in spec.out_spec[2:])
    m = result.shape[spec.out_spec[0]] * positions
    per_position = n * groups * channels * result.shape[spec.out_spec[0]]
    weight = kernel if kernel.constant else image if image.constant else None
    kind = OpKind.CONV if weight else OpKind.MATMUL
    if weight and channels == 1 and node.params["feature_group_count"] > 1:
        kind = OpKind.DEPTHWISE
    return Product(kind, m, n, taps * channels, groups, per_position * positions * taps, per_position * valid, weight)


def matrix_product(node: Node) -> Product:
    """`dot_general`: DENSE if one operand is constant, else MATMUL. M counts the rows of the activation.

    A batch dimension of a constant that is a mere broadcast shares one matrix: it counts as rows, not as groups.
    """
    left, right = node.inputs[0], node.inputs[1]
    (left_k, right_k), (left_batch, right_batch) = node.params["dimension_numbers"]
    k = math.prod(left.shape[i] for i in left_k)
    batch = math.prod(left.shape[i] for i in left_batch)
    m = math.prod(s for i, s in enumerate(left.shape) if i not in left_k and i not in left_batch)
    n = math.prod(s for i, s in enumerate(right.shape) if i not in right_k and i not in right_batch)
    weight = right if right.constant else left if left.constant else None
    if weight is left:
        m, n = n, m
    macs = batch * m * n * k
    if weight is not None and batch > 1 and weight.stored * batch <= weight.size:
        m, batch = m * batch, 1
    return Product(OpKind.MATMUL if weight is None else OpKind.DENSE, m, n, k, batch, macs, macs, weight)
