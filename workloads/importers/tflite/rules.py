"""The rules of TFLite operators: layouts are [batch, height, width, channels].

A rule gets an `Op` whose attributes hold the `step` (kind and options) and the `edges` it reads and makes. Quantised tensors
flow as the integers they are stored as. Products of them are summed in 32 bits,

    sum (x - zero_x) w = sum x w - zero_x sum w,

where the second sum depends on weights alone; other operators work on real numbers and round their result.
Source: the schema of TFLite (tensorflow/compiler/mlir/lite/schema) and its reference kernels.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from workloads.importers.nodes import Op, Rules, Unsupported
from workloads.importers.tflite.files import Edge

RULES = Rules()
rule = RULES.rule
ACTIVATIONS = {
    0: None,
    1: (0.0, np.inf),
    2: (-1.0, 1.0),
    3: (0.0, 6.0),
}  # ActivationFunctionType: none, relu, relu in -1..1, relu6


def edge_of(op: Op, place: int) -> Edge:
    """The edge of input number `place`."""
    return op.get("inputs")[place]


def result_of(op: Op, place: int = 0) -> Edge:
    """The edge of output number `place`."""
    return op.get("outputs")[place]


def option(op: Op, name: str, default: Any = 0) -> Any:
    """One field of the operator's options."""
    return op.get("step").option(name, default)


def real(op: Op, place: int) -> Any:
    """Input number `place` as real numbers."""
    value, found = op.inputs[place], edge_of(op, place).quantization
    if found is None or not np.issubdtype(value.dtype, np.integer):
        return value
    rank = np.ndim(value)
    return (value.astype(np.float32) - found.along(found.zero, rank).astype(np.float32)) * found.along(found.scale, rank)


def stored(op: Op, value: Any, place: int = 0, activate: bool = True) -> Any:
    """A real result through the fused activation, as output number `place` is stored."""
    if activate:
        value = activated(op, value)
    return rounded(op, value, place)


def rounded(op: Op, value: Any, place: int = 0) -> Any:
    """A real result as output number `place` is stored."""
    edge = result_of(op, place)
    found = edge.quantization
    if found is None or not np.issubdtype(edge.dtype, np.integer):
        return value.astype(edge.dtype)
    limits, rank = np.iinfo(edge.dtype), np.ndim(value)
    steps = op.xp.round(value / found.along(found.scale, rank)) + found.along(found.zero, rank).astype(np.float32)
    return op.xp.clip(steps, limits.min, limits.max).astype(edge.dtype)


def activated(op: Op, value: Any) -> Any:
    """The fused activation function."""
    number = option(op, "FusedActivationFunction")
    if number == 4:
        return jnp.tanh(value)
    if number not in ACTIVATIONS:
        raise Unsupported(f"node {op.name!r} ({op.kind}): fused activation {number} is not read")
    limits = ACTIVATIONS[number]
    if limits is None:
        return value
    value = op.xp.maximum(value, np.asarray(limits[0], value.dtype))
    return value if limits[1] == np.inf else op.xp.minimum(value, np.asarray(limits[1], value.dtype))
