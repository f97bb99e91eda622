"""Convolution of integers with a zero point, as one primitive.

    y = sum over the taps inside the image of (x - zero) w = conv(x, w) - zero conv(1, w)

The second term depends on weights alone, but differs along the borders; a device never stores it. As a primitive of its own
the operation is counted for what it is, a convolution of 8-bit operands, and still computes exactly.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

integer_convolution_p = Primitive("integer_convolution")


def integer_convolution(x: Any, w: Any, zero: int, **parameters: Any) -> Any:
    """The convolution above in 32 bits; `parameters` are those of `jax.lax.conv_general_dilated`, all of them given."""
    return integer_convolution_p.bind(x, w, zero=zero, **parameters)


@functools.partial(jax.jit, static_argnames=("zero", "parameters"))
def _compiled(x: Any, w: Any, zero: int, parameters: Any) -> Any:
    return _formula(x, w, zero=zero, **dict(parameters))


def _formula(x: Any, w: Any, *, zero: int, **parameters: Any) -> Any:
    convolve = functools.partial(jax.lax.conv_general_dilated, preferred_element_type=jnp.int32, **parameters)
    total = convolve(x, w)
    return total if zero == 0 else total - zero * convolve(jnp.ones_like(x), w)


def _batched(arguments: Any, axes: Any, **parameters: Any) -> Any:
    return jax.vmap(functools.partial(_formula, **parameters), axes)(*arguments), 0


def _shape(x: Any, w: Any, *, zero: int, **parameters: Any) -> Any:
    result = jax.eval_shape(
        functools.partial(_formula, zero=0, **parameters), *(jax.ShapeDtypeStruct(v.shape, v.dtype) for v in (x, w))
    )
    return ShapedArray(result.shape, result.dtype)


integer_convolution_p.def_abstract_eval(_shape)
integer_convolution_p.def_impl(lambda x, w, *, zero, **parameters: _compiled(x, w, zero, tuple(sorted(parameters.items()))))
mlir.register_lowering(integer_convolution_p, mlir.lower_fun(_formula, multiple_results=False))
batching.primitive_batchers[integer_convolution_p] = _batched
