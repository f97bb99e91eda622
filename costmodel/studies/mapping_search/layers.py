"""Layers as loop nests: sizes of the seven dimensions and strides, written down or taken from an operation table.

    outputs[n, k, p, q] += inputs[n, c, stride p + r, stride q + s] * weights[k, c, r, s]

A matrix product (M, K) x (K, N) is P = M, C = K, K = N. An operation table has convolutions lowered to products (im2col): the
sizes are right, but windows of inputs no longer overlap, so inputs are read more often than by the convolution itself.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from costmodel.mapping.loop_nests.mappings import DIMENSIONS
from workloads import OpTable

LARGEST = 1 << 24  # of a dimension: exact in float32


class LoopLayer(NamedTuple):
    """One layer, `repeats` times in a network. Sizes in the order R, S, P, Q, C, K, N."""

    sizes: tuple[int, ...]
    stride: tuple[int, int] = (1, 1)
    repeats: int = 1
    name: str = ""

    def __str__(self) -> str:
        return " ".join(f"{d}{n}" for d, n in zip(DIMENSIONS, self.sizes, strict=True) if n > 1) or "N1"


def loop_layer(sizes: Mapping[str, int], stride: int = 1, repeats: int = 1, name: str = "") -> LoopLayer:
    """A layer from its sizes by dimension ("R" .. "N", 1 where left out); ValueError for unknown ones or a size below 1."""
    for dimension, size in sizes.items():
        if dimension not in DIMENSIONS or len(dimension) != 1:
            raise ValueError(f"layer: unknown dimension {dimension!r}; known: {', '.join(DIMENSIONS)}")
        if int(size) != size or not 1 <= size <= LARGEST:
            raise ValueError(f"layer: {dimension} = {size} is not a whole number in [1, {LARGEST}]")
    for field, value in (("stride", stride), ("repeats", repeats)):
        if int(value) != value or value < 1:
            raise ValueError(f"layer: {field} = {value} is not a whole number of at least 1")
    return LoopLayer(tuple(int(sizes.get(d, 1)) for d in DIMENSIONS), (int(stride), int(stride)), int(repeats), name)


def product_layers(ops: OpTable) -> tuple[LoopLayer, ...]:
    """The matrix products of a table, each distinct size once and counted (groups are repeats); ValueError if there are none."""
    counts: dict[tuple[int, int, int], int] = {}
    for m, n, k, groups, macs, real in zip(ops.m, ops.n, ops.k, ops.groups, ops.macs, ops.mask, strict=True):
        if real and macs > 0:
            size = (int(m), int(n), int(k))
            counts[size] = counts.get(size, 0) + int(groups)
    if not counts:
        raise ValueError("ops has no matrix product, so there is nothing to map")
    return tuple(loop_layer({"P": m, "K": n, "C": k}, repeats=count, name=f"{m}x{n}x{k}") for (m, n, k), count in counts.items())


def as_layer(layer: LoopLayer | Mapping[str, int]) -> LoopLayer:
    """A layer given as such or by its sizes."""
    return layer if isinstance(layer, LoopLayer) else loop_layer(layer)


def sizes_of(layers: tuple[LoopLayer, ...]) -> np.ndarray:
    """Sizes (layers, 7)."""
    return np.asarray([layer.sizes for layer in layers])
