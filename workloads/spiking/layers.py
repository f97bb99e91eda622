"""Layers of spiking networks: weighted ones, those that only rearrange, and neurons. Shapes are channels first, without batch.

A weighted layer is linear in its input; its bias (a constant current) is no synaptic operation. For one time step

    pairs   = weight-activation pairs that exist, products with zero padding left out (NeuroBench's dense operations)
    padded  = the same with padding, outputs x taps (what TFLite tools and most papers count)
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from workloads.importers.products import valid_taps
from workloads.spiking.neurons import Neuron

Shape = tuple[int, ...]
Tensor = Float[Array | np.ndarray, "..."]


@dataclasses.dataclass(frozen=True)
class Layer:
    """One node of a network: what it reads (`in_shape`) and what it puts out (`shape`) in one time step."""

    name: str
    in_shape: Shape
    shape: Shape

    def parameter_shapes(self) -> dict[str, Shape]:
        """Shapes of the layer's weights, by name."""
        return {}

    def __call__(self, parameters: Any, x: Tensor) -> Tensor:
        """The layer's output of one step; the identity unless a subclass says otherwise."""
        return x

    @property
    def size(self) -> int:
        """Elements put out in one step."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Weighted(Layer):
    """A layer of synapses; `bias` says whether it adds a constant current."""

    bias: bool = True

    def linear(self, weight: Tensor, x: Tensor) -> Tensor:
        """The layer without its bias."""
        raise NotImplementedError

    def __call__(self, parameters: Any, x: Tensor) -> Tensor:
        """Weights applied to `x`, and the bias."""
        y = self.linear(parameters["weight"], x)
        return y + self._along_outputs(parameters["bias"]) if self.bias else y

    def _along_outputs(self, bias: Tensor) -> Tensor:
        return bias

    def fan_out(self, weight: Tensor) -> Tensor:
        """How many non-zero weights each input element meets, shape `in_shape`; exact below 2**24 in float32."""
        present = jnp.where(jnp.asarray(weight) != 0, 1.0, 0.0)
        return jax.grad(lambda x: jnp.sum(self.linear(present, x)))(jnp.zeros(self.in_shape, present.dtype))

    @property
    def gemm(self) -> tuple[int, int, int, int]:
        """(M, N, K, groups) of one step."""
        raise NotImplementedError

    @property
    def pairs(self) -> int:
        """Weight-activation pairs of one step, padding left out."""
        return self.padded

    @property
    def padded(self) -> int:
        """The same with products with padding zeros."""
        return math.prod(self.gemm)


@dataclasses.dataclass(frozen=True)
class Dense(Weighted):
    """All to all: weight (..., outputs, inputs) on (..., inputs)."""

    def parameter_shapes(self) -> dict[str, Shape]:
        """weight and, if there is one, bias."""
        weight = {"weight": (*self.shape, self.in_shape[-1])}
        return weight | ({"bias": self.shape} if self.bias else {})

    def linear(self, weight: Tensor, x: Tensor) -> Tensor:
        """W x."""
        return weight @ x if weight.ndim == 2 else jnp.einsum("...nk,...k->...n", weight, x)

    def fan_out(self, weight: Tensor) -> Tensor:
        """Non-zero weights of each column, on the host."""
        return np.count_nonzero(np.asarray(weight), axis=-2).astype(np.float64)

    @property
    def gemm(self) -> tuple[int, int, int, int]:
        """One position."""
        return 1, self.shape[-1], self.in_shape[-1], math.prod(self.shape[:-1])


@dataclasses.dataclass(frozen=True)
class Conv(Weighted):
    """A convolution over one or two dimensions: weight (outputs, inputs / groups, *kernel) on (inputs, *space)."""

    kernel: Shape = ()
    stride: Shape = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: Shape = ()
    groups: int = 1

    def parameter_shapes(self) -> dict[str, Shape]:
        """weight and, if there is one, bias."""
        weight = {"weight": (self.shape[0], self.in_shape[0] // self.groups, *self.kernel)}
        return weight | ({"bias": (self.shape[0],)} if self.bias else {})

    def linear(self, weight: Tensor, x: Tensor) -> Tensor:
        """Cross-correlation, as every framework's convolution."""
        space = "HW"[: len(self.kernel)]
        layout = (f"NC{space}", f"OI{space}", f"NC{space}")
        options: dict[str, Any] = dict(rhs_dilation=self.dilation, feature_group_count=self.groups, dimension_numbers=layout)
        return jax.lax.conv_general_dilated(
            jnp.asarray(x, float)[None], jnp.asarray(weight, float), self.stride, self.padding, **options
        )[0]

    def _along_outputs(self, bias: Tensor) -> Tensor:
        return bias.reshape(-1, *[1] * len(self.kernel))

    @property
    def gemm(self) -> tuple[int, int, int, int]:
        """im2col: output positions, outputs and taps of each group."""
        taps = math.prod(self.kernel) * self.in_shape[0] // self.groups
        return math.prod(self.shape[1:]), self.shape[0] // self.groups, taps, self.groups

    @property
    def pairs(self) -> int:
        """Taps that fall on input elements: independent along each dimension."""
        along = zip(self.in_shape[1:], self.shape[1:], self.kernel, self.stride, self.padding, self.dilation, strict=True)
        valid = math.prod(valid_taps(i, o, k, s, low, kernel_dilation=d) for i, o, k, s, (low, _), d in along)
        return valid * self.shape[0] * self.in_shape[0] // self.groups


def conv_output(size: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int) -> int:
    """Positions of a window along one dimension; below 1 where it does not fit."""
    return (size + sum(padding) - dilation * (kernel - 1) - 1) // stride + 1


@dataclasses.dataclass(frozen=True)
class Pool(Layer):
    """Sums (or means) of windows over the last two dimensions."""

    kernel: Shape = (2, 2)
    stride: Shape = (2, 2)
    padding: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))
    mean: bool = False

    def __call__(self, parameters: Any, x: Tensor) -> Tensor:
        """Padding counts as zeros, in means too."""
        lead = x.ndim - len(self.kernel)
        ones, none = (1,) * lead, ((0, 0),) * lead
        window, stride = (*ones, *self.kernel), (*ones, *self.stride)
        total = jax.lax.reduce_window(x, np.zeros((), x.dtype), jax.lax.add, window, stride, (*none, *self.padding))
        return total / math.prod(self.kernel) if self.mean else total


@dataclasses.dataclass(frozen=True)
class Flatten(Layer):
    """Another shape of the same elements."""

    def __call__(self, parameters: Any, x: Tensor) -> Tensor:
        """Row-major."""
        return x.reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Scale(Layer):
    """Elementwise factors."""

    def parameter_shapes(self) -> dict[str, Shape]:
        """scale."""
        return {"scale": self.shape}

    def __call__(self, parameters: Any, x: Tensor) -> Tensor:
        """Elementwise product."""
        return x * parameters["scale"]


@dataclasses.dataclass(frozen=True)
class Rectifier(Layer):
    """max(x, 0): the neuron of an ordinary network, for comparison."""

    def __call__(self, parameters: Any, x: Tensor) -> Tensor:
        """Slope 0 at 0 and below."""
        return jax.nn.relu(x)


@dataclasses.dataclass(frozen=True)
class Maximum(Layer):
    """Maxima of four neighbours along the last dimension, the rest dropped."""

    def __call__(self, parameters: Any, x: Tensor) -> Tensor:
        """The first of equals takes the slope's share evenly."""
        kept = x[..., : self.shape[-1] * 4].reshape(*self.shape, 4)
        return jnp.max(kept, axis=-1)


@dataclasses.dataclass(frozen=True)
class Stateful(Layer):
    """A layer that remembers something from step to step."""

    def initial(self, parameters: Any) -> Any:
        """The state before the first step."""
        raise NotImplementedError

    def step(self, parameters: Any, state: Any, x: Tensor) -> tuple[Any, Tensor]:
        """(state, output) of one step."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Delay(Stateful):
    """Every element comes out `steps` (an array of `shape`, whole numbers) later."""

    steps: Any = None

    def initial(self, parameters: Any) -> Any:
        """What is under way: (longest delay + 1, *shape)."""
        return jnp.zeros((int(np.max(self.steps, initial=0)) + 1, *self.shape), jnp.result_type(float))

    def step(self, parameters: Any, state: Any, x: Tensor) -> tuple[Any, Tensor]:
        """Push the new values, take the old ones."""
        line = jnp.concatenate([x[None], state[:-1]])
        return line, jnp.take_along_axis(line, jnp.asarray(self.steps, int)[None], axis=0)[0]


@dataclasses.dataclass(frozen=True)
class Neurons(Stateful):
    """A population; `neuron` gives its model and its numbers unless `parameters` hold others."""

    neuron: Neuron = dataclasses.field(kw_only=True)

    def initial(self, parameters: Any) -> Any:
        """The neuron's initial state."""
        return parameters.initial(self.shape)

    def step(self, parameters: Any, state: Any, x: Tensor) -> tuple[Any, Tensor]:
        """One update; `parameters` is a `Neuron`."""
        return parameters.step(state, x)
