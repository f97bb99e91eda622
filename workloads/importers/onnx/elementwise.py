"""Rules of operators that work element by element: arithmetic, comparisons, activation functions, casts."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf as jax_erf

from workloads.importers.nodes import MOST_ELEMENTS, Op, Unsupported, bounded, concrete, content
from workloads.importers.onnx.rules import RULES, rule

# ONNX TensorProto.DataType, from its protocol file; 8-bit floats and complex numbers are not read
DTYPES: dict[int, Any] = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    4: np.uint16,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
    12: np.uint32,
    13: np.uint64,
    16: jnp.bfloat16,
}
SAME_NAME = {  # operator: name in NumPy and jax.numpy
    "Add": "add",
    "Sub": "subtract",
    "Mul": "multiply",
    "Neg": "negative",
    "Abs": "abs",
    "Sign": "sign",
    "Floor": "floor",
    "Ceil": "ceil",
    "Round": "round",
    "Sqrt": "sqrt",
    "Reciprocal": "reciprocal",
    "Exp": "exp",
    "Log": "log",
    "Sin": "sin",
    "Cos": "cos",
    "Tan": "tan",
    "Asin": "arcsin",
    "Acos": "arccos",
    "Atan": "arctan",
    "Sinh": "sinh",
    "Cosh": "cosh",
    "Tanh": "tanh",
    "Asinh": "arcsinh",
    "Acosh": "arccosh",
    "Atanh": "arctanh",
    "Equal": "equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "And": "logical_and",
    "Or": "logical_or",
    "Xor": "logical_xor",
    "Not": "logical_not",
    "BitwiseAnd": "bitwise_and",
    "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor",
    "BitwiseNot": "invert",
    "IsNaN": "isnan",
    "Where": "where",
}


def _plain(name: str) -> Any:
    def apply(op: Op, *operands: Any) -> Any:
        return getattr(op.xp, name)(*_legacy_broadcast(op, operands))

    return apply


def _legacy_broadcast(op: Op, operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """Before set 7 the second operand was aligned at `axis` when `broadcast` was set."""
    if op.version < 7 and op.get("broadcast") and op.get("axis") is not None and len(operands) == 2:
        left, right = operands
        after = np.ndim(left) - int(op.get("axis")) - np.ndim(right)
        return left, right.reshape(*right.shape, *([1] * max(after, 0)))
    return operands


for _kind, _name in SAME_NAME.items():
    RULES[_kind] = _plain(_name)


@rule("Div")
def divide(op: Op, left: Any, right: Any) -> Any:
    """Division; integers are divided towards zero."""
    left, right = _legacy_broadcast(op, (left, right))
    if not np.issubdtype(left.dtype, np.integer):
        return op.xp.divide(left, right)
    quotient = op.xp.abs(left) // op.xp.maximum(op.xp.abs(right), 1)
    return (op.xp.sign(left) * op.xp.sign(right) * quotient).astype(left.dtype)


@rule("Mod")
def modulo(op: Op, left: Any, right: Any) -> Any:
    """Remainder, with the sign of the divisor, or of the dividend with `fmod`."""
    return op.xp.fmod(left, right) if op.get("fmod", 0) else op.xp.mod(left, right)


@rule("Pow")
def power(op: Op, base: Any, exponent: Any) -> Any:
    """Powers; a known scalar whole exponent becomes products."""
    found = content(op, exponent)
    if found is not None and found.size == 1 and float(found.ravel()[0]).is_integer():
        whole = int(found.ravel()[0])
        if 0 < whole <= 8:
            return jax.lax.integer_pow(base, whole) if op.xp is jnp else base**whole
    return op.xp.power(base, exponent).astype(base.dtype)


@rule("Sum", "Max", "Min", "Mean")
def many(op: Op, *operands: Any) -> Any:
    """Sum, maximum, minimum or mean of any number of tensors."""
    combine = {"Sum": op.xp.add, "Mean": op.xp.add, "Max": op.xp.maximum, "Min": op.xp.minimum}[op.kind]
    total = operands[0]
    for operand in operands[1:]:
        total = combine(total, operand)
    return total / np.asarray(len(operands), total.dtype) if op.kind == "Mean" else total


@rule("Clip")
def clip(op: Op, x: Any, lo: Any = None, hi: Any = None) -> Any:
    """Limits from inputs, or from attributes before set 11."""
    lo, hi = (op.get("min") if lo is None else lo), (op.get("max") if hi is None else hi)
    if lo is not None:
        x = op.xp.maximum(x, op.xp.asarray(lo, x.dtype))
    return x if hi is None else op.xp.minimum(x, op.xp.asarray(hi, x.dtype))


@rule("Cast")
def cast(op: Op, x: Any) -> Any:
    """Another type."""
    return x.astype(dtype_of(op, int(op.get("to"))))


@rule("CastLike")
def cast_like(op: Op, x: Any, like: Any) -> Any:
    """The type of another tensor."""
    return x.astype(like.dtype)


def dtype_of(op: Op, number: int) -> Any:
    """The type that a number in the file stands for."""
    if number not in DTYPES:
        raise Unsupported(f"node {op.name!r} ({op.kind}): element type {number} is not read")
    return DTYPES[number]


# Activation functions: f(x) with the attributes alpha and beta of the schema


@rule("Relu")
def relu(op: Op, x: Any) -> Any:
    """max(x, 0)."""
    return op.xp.maximum(x, np.zeros((), x.dtype))


@rule("LeakyRelu")
def leaky_relu(op: Op, x: Any) -> Any:
    """x, or alpha x below zero."""
    return jnp.where(x < 0, np.asarray(op.get("alpha", 0.01), x.dtype) * x, x)


@rule("PRelu")
def parametric_relu(op: Op, x: Any, slope: Any) -> Any:
    """x, or slope x below zero."""
    return jnp.where(x < 0, slope * x, x)


@rule("ThresholdedRelu")
def thresholded_relu(op: Op, x: Any) -> Any:
    """x above alpha, else 0."""
    return jnp.where(x > op.get("alpha", 1.0), x, jnp.zeros((), x.dtype))


@rule("Elu")
def elu(op: Op, x: Any) -> Any:
    """alpha (exp x - 1) below zero."""
    return jnp.where(x < 0, np.asarray(op.get("alpha", 1.0), x.dtype) * jnp.expm1(jnp.minimum(x, 0)), x)


@rule("Celu")
def celu(op: Op, x: Any) -> Any:
    """alpha (exp(x / alpha) - 1) below zero."""
    alpha = np.asarray(op.get("alpha", 1.0), x.dtype)
    return jnp.where(x < 0, alpha * jnp.expm1(jnp.minimum(x, 0) / alpha), x)


@rule("Selu")
def selu(op: Op, x: Any) -> Any:
    """gamma times the elu of alpha."""
    alpha = np.asarray(op.get("alpha", 1.67326319217681884765625), x.dtype)
    return np.asarray(op.get("gamma", 1.05070102214813232421875), x.dtype) * jnp.where(x < 0, alpha * jnp.expm1(x), x)


@rule("Sigmoid")
def sigmoid(op: Op, x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return jax.nn.sigmoid(x)


@rule("HardSigmoid")
def hard_sigmoid(op: Op, x: Any) -> Any:
    """max(0, min(1, alpha x + beta))."""
    alpha, beta = np.asarray(op.get("alpha", 0.2), x.dtype), np.asarray(op.get("beta", 0.5), x.dtype)
    return jnp.clip(alpha * x + beta, 0, 1)


@rule("HardSwish")
def hard_swish(op: Op, x: Any) -> Any:
    """x max(0, min(1, x / 6 + 1 / 2))."""
    return x * jnp.clip(x / 6 + 0.5, 0, 1).astype(x.dtype)


@rule("Mish")
def mish(op: Op, x: Any) -> Any:
    """x tanh(softplus x)."""
    return x * jnp.tanh(jax.nn.softplus(x))


@rule("Swish")
def swish(op: Op, x: Any) -> Any:
    """x sigmoid(alpha x)."""
    return x * jax.nn.sigmoid(np.asarray(op.get("alpha", 1.0), x.dtype) * x)


@rule("Softplus")
def softplus(op: Op, x: Any) -> Any:
    """ln(1 + exp x)."""
    return jax.nn.softplus(x)


@rule("Softsign")
def softsign(op: Op, x: Any) -> Any:
    """x / (1 + |x|)."""
    return x / (1 + jnp.abs(x))


@rule("Erf")
def error_function(op: Op, x: Any) -> Any:
    """The error function."""
    return jax_erf(x)


@rule("Gelu")
def gelu(op: Op, x: Any) -> Any:
    """x times the normal distribution function, or its tanh form."""
    return jax.nn.gelu(x, approximate=op.get("approximate", "none") == "tanh")


@rule("IsInf")
def is_infinite(op: Op, x: Any) -> Any:
    """Infinite of the wanted signs."""
    positive, negative = op.get("detect_positive", 1), op.get("detect_negative", 1)
    return (op.xp.isposinf(x) & bool(positive)) | (op.xp.isneginf(x) & bool(negative))


@rule("Identity")
def identity(op: Op, x: Any) -> Any:
    """x."""
    return x


@rule("Dropout")
def dropout(op: Op, x: Any, *_: Any) -> Any:
    """x: files are read as they are deployed; the mask is all true."""
    return (x, op.xp.ones(x.shape, bool))[: op.n_outputs] if op.n_outputs > 1 else x


@rule("QuantizeLinear")
def quantize(op: Op, x: Any, scale: Any, zero: Any = None) -> Any:
    """round(x / scale) + zero, held to the type of `zero`; a vector of scales runs along `axis`."""
    dtype = np.dtype(np.uint8) if zero is None else zero.dtype
    scale, zero = _along(op, x, scale), 0 if zero is None else _along(op, x, zero).astype(np.int32)
    limits = np.iinfo(dtype)
    return op.xp.clip(op.xp.round(x / scale).astype(np.int32) + zero, limits.min, limits.max).astype(dtype)


@rule("DequantizeLinear")
def dequantize(op: Op, x: Any, scale: Any, zero: Any = None) -> Any:
    """(x - zero) scale; a vector of scales runs along `axis`."""
    shifted = x.astype(np.int32) if zero is None else x.astype(np.int32) - _along(op, x, zero).astype(np.int32)
    return shifted.astype(scale.dtype) * _along(op, x, scale)


@rule("DynamicQuantizeLinear")
def dynamic_quantize(op: Op, x: Any) -> Any:
    """8 bits without sign over the range of the data, zero included."""
    lo, hi = jnp.minimum(jnp.min(x), 0), jnp.maximum(jnp.max(x), 0)
    scale = ((hi - lo) / 255).astype(np.float32)
    divisor = jnp.where(scale > 0, scale, 1)
    zero = jnp.clip(jnp.round(-lo / divisor), 0, 255)
    return jnp.clip(jnp.round(x / divisor) + zero, 0, 255).astype(np.uint8), scale, zero.astype(np.uint8)


def _along(op: Op, x: Any, values: Any) -> Any:
    if np.ndim(values) == 0 or np.size(values) == 1:
        return values.reshape(())
    axis = int(op.get("axis", 1)) % np.ndim(x)
    return values.reshape([-1 if i == axis else 1 for i in range(np.ndim(x))])


@rule("Range")
def arange(op: Op, start: Any, limit: Any, delta: Any) -> Any:
    """start, start + delta, ... below limit."""
    first, last, step = (concrete(op, v, "range").item() for v in (start, limit, delta))
    bounded(op, math.ceil((last - first) / step) if step else MOST_ELEMENTS + 1)
    return np.arange(first, last, step, dtype=np.asarray(start).dtype)
