"""Rules of operators that work element by element: arithmetic, comparisons, activation functions, casts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from workloads.importers.nodes import Op
from workloads.importers.tflite.rules import option, real, result_of, rounded, rule, stored

# Element by element

BINARY = {
    "ADD": "add",
    "SUB": "subtract",
    "MUL": "multiply",
    "DIV": "divide",
    "MAXIMUM": "maximum",
    "MINIMUM": "minimum",
    "POW": "power",
    "FLOOR_DIV": "floor_divide",
    "FLOOR_MOD": "mod",
}
COMPARE = {
    "EQUAL": "equal",
    "NOT_EQUAL": "not_equal",
    "GREATER": "greater",
    "GREATER_EQUAL": "greater_equal",
    "LESS": "less",
    "LESS_EQUAL": "less_equal",
}
UNARY = {
    "ABS": "abs",
    "NEG": "negative",
    "EXP": "exp",
    "LOG": "log",
    "SQRT": "sqrt",
    "SQUARE": "square",
    "SIN": "sin",
    "COS": "cos",
    "TANH": "tanh",
    "FLOOR": "floor",
    "CEIL": "ceil",
    "ROUND": "round",
    "SIGN": "sign",
}
LOGICAL = {"LOGICAL_AND": "logical_and", "LOGICAL_OR": "logical_or", "LOGICAL_NOT": "logical_not"}


@rule(*BINARY)
def binary(op: Op, *_: Any) -> Any:
    """Arithmetic on two tensors."""
    value = getattr(op.xp, BINARY[op.kind])(real(op, 0), real(op, 1))
    return stored(op, value, activate=op.kind in ("ADD", "SUB", "MUL", "DIV"))


@rule(*COMPARE, *LOGICAL)
def compare(op: Op, *_: Any) -> Any:
    """A comparison, or logic."""
    return getattr(op.xp, (COMPARE | LOGICAL)[op.kind])(*(real(op, i) for i in range(len(op.inputs))))


@rule(*UNARY)
def unary(op: Op, _: Any) -> Any:
    """A function of one tensor."""
    return rounded(op, getattr(op.xp, UNARY[op.kind])(real(op, 0)))


FUNCTIONS = {
    "LOGISTIC": jax.nn.sigmoid,
    "RSQRT": jax.lax.rsqrt,
    "ELU": jax.nn.elu,
    "HARD_SWISH": jax.nn.hard_swish,
    "RELU": lambda x: jnp.maximum(x, 0),
    "RELU6": lambda x: jnp.clip(x, 0, 6),
    "RELU_N1_TO_1": lambda x: jnp.clip(x, -1, 1),
    "LOG_SOFTMAX": jax.nn.log_softmax,
}


@rule(*FUNCTIONS)
def function(op: Op, _: Any) -> Any:
    """An activation function."""
    return rounded(op, FUNCTIONS[op.kind](jnp.asarray(real(op, 0))))


@rule("LEAKY_RELU")
def leaky_relu(op: Op, _: Any) -> Any:
    """x, or alpha x below zero."""
    x = real(op, 0)
    return rounded(op, jnp.where(x < 0, np.float32(option(op, "Alpha", 0.0)) * x, x))


@rule("PRELU")
def parametric_relu(op: Op, *_: Any) -> Any:
    """x, or slope x below zero."""
    x = real(op, 0)
    return rounded(op, jnp.where(x < 0, real(op, 1) * x, x))


@rule("GELU")
def gelu(op: Op, _: Any) -> Any:
    """x times the normal distribution function, or its tanh form."""
    return rounded(op, jax.nn.gelu(real(op, 0), approximate=bool(option(op, "Approximate", False))))


@rule("SOFTMAX")
def softmax(op: Op, _: Any) -> Any:
    """Over the last axis."""
    return rounded(op, jax.nn.softmax(np.float32(option(op, "Beta", 1.0)) * jnp.asarray(real(op, 0)), axis=-1))


@rule("L2_NORMALIZATION")
def l2_normalise(op: Op, _: Any) -> Any:
    """Divided by the norm over the last axis."""
    x = real(op, 0)
    return stored(op, x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-12)))


@rule("SELECT", "SELECT_V2")
def select(op: Op, condition: Any, *_: Any) -> Any:
    """One tensor where a condition holds, else another."""
    return rounded(op, op.xp.where(condition, real(op, 1), real(op, 2)))


@rule("CAST")
def cast(op: Op, x: Any) -> Any:
    """Another type."""
    return x.astype(result_of(op).dtype)


@rule("QUANTIZE", "DEQUANTIZE")
def requantise(op: Op, _: Any) -> Any:
    """Between real numbers and integers."""
    return rounded(op, real(op, 0))


@rule("DENSIFY")
def densify(op: Op, x: Any) -> Any:
    """Sparse weights written out; their numbers matter to nobody who counts operations, their shape does."""
    return x
