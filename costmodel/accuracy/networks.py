"""Small networks of integers: what a crossbar multiplies is integer weights times integer activations.

    z = x_int W_int,    y = scale z + offset (digital, one pair per output),    x_int = alphabet(y)

Every layer is one matrix: a dense layer, or a 3 x 3 convolution over patches. Scale and offset are batch normalisation
folded with the statistics of the training set, so that integers need no other scale. The last layer's y are the logits.

Alphabets (`Precision`) follow from what a mapping can hold: binary {-1, 1}, ternary {-1, 0, 1}, integers in a range;
FLOAT is the unquantised reference, not something that a crossbar runs. Rounding passes gradients straight through where
the number is inside the range (Bengio et al. 2013); binary weights and activations as in Hubara et al. 2016.
"""

import dataclasses
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from physics import CrossbarMapping

RELU_RANGE = 4.0  # standard deviations that the largest unsigned activation stands for
TERNARY_THRESHOLD = 0.7  # of the mean magnitude: weights below become 0; Li et al. 2016, ternary weight networks


@dataclasses.dataclass(frozen=True)
class Precision:
    """Alphabet of weights and activations; hashable. `bits` of 0 mean floating point."""

    name: str
    weights: tuple[int, int] = (0, 0)
    inputs: tuple[int, int] = (0, 0)

    @property
    def padding(self) -> int:
        """What stands beyond the image's edge: the smallest input of a binary alphabet, else 0."""
        return -1 if self.name == "binary" else 0


FLOAT = Precision("float")
BINARY = Precision("binary", (-1, 1), (-1, 1))
TERNARY = Precision("ternary", (-1, 1), (-1, 1))


def precision_of(mapping: CrossbarMapping) -> Precision:
    """What networks for `mapping` are made of. Activations are unsigned where it takes integers: they follow a ReLU."""
    if mapping.no_zero:
        return BINARY
    if mapping.input_range == (-1, 1):
        return TERNARY
    largest = min(-mapping.weight_range[0], mapping.weight_range[1])
    return Precision("integer", (-largest, largest), (0, mapping.input_range[1]))


class Layer(eqx.Module):
    """One matrix of a network that runs: integer `weights`, then scale and offset of every output."""

    weights: Int[Array, "inputs outputs"] | Float[Array, "inputs outputs"]
    scale: Float[Array, " outputs"]
    offset: Float[Array, " outputs"]


@dataclasses.dataclass(frozen=True)
class Shape:
    """How a layer reads its input: all of it (`kernel` 0), or patches of kernel x kernel pixels every `stride` pixels."""

    outputs: int
    kernel: int = 0
    stride: int = 1


def mlp(hidden: Sequence[int] = (128,), n_classes: int = 10) -> tuple[Shape, ...]:
    """Dense layers."""
    return (*(Shape(width) for width in hidden), Shape(n_classes))


def conv_net(filters: Sequence[int] = (16, 32), n_classes: int = 10) -> tuple[Shape, ...]:
    """3 x 3 convolutions, each but the first halving the image, and a dense layer."""
    return (*(Shape(width, 3, 1 if i == 0 else 2) for i, width in enumerate(filters)), Shape(n_classes))


class TrainedNetwork(eqx.Module):
    """A trained network. `source` says on what data and how."""

    layers: tuple[Layer, ...]
    shapes: tuple[Shape, ...] = eqx.field(static=True)
    precision: Precision = eqx.field(static=True)
    source: str = eqx.field(static=True, default="")


Product = Callable[[int, Array], Array]  # layer number, inputs (..., inputs) -> (..., outputs)


def digital(network: TrainedNetwork) -> Product:
    """Exact products of the network's own weights."""
    return lambda i, x: x @ network.layers[i].weights.astype(x.dtype)


def logits(network: TrainedNetwork, images: Float[Array, "n h w c"], product: Product | None = None) -> Float[Array, "n classes"]:
    """What the network answers, with its products computed by `product` (exactly, if None)."""

    def rescale(i: int, z: Array) -> Array:
        return z * network.layers[i].scale + network.layers[i].offset

    return forward(network.shapes, network.precision, images, product or digital(network), rescale)


def forward(shapes: Sequence[Shape], precision: Precision, images: Array, product: Product, rescale: Product) -> Array:
    """The chain of layers, the same to train and to run: arrange, multiply, rescale, quantise."""
    x = encode(images, precision)
    for i, shape in enumerate(shapes):
        y = rescale(i, product(i, arrange(x, shape, precision.padding)))
        x = y if i == len(shapes) - 1 else activate(y, precision)
    return x


def encode(images: Array, precision: Precision) -> Array:
    """Pixels in [0, 1] as inputs of the first layer."""
    if precision.inputs[0] < 0:
        return activate(2 * images - 1, precision)
    return images if precision == FLOAT else activate(images * RELU_RANGE, precision)


def activate(y: Array, precision: Precision) -> Array:
    """Normalised outputs as inputs of the next layer."""
    if precision == FLOAT:
        return jax.nn.relu(y)
    if precision.name == "binary":
        return _sign(y)
    lo, hi = precision.inputs
    return _round(jnp.clip(y, lo, hi)) if lo < 0 else _round(jnp.clip(y, 0, RELU_RANGE) * (hi / RELU_RANGE))


def quantise(weights: Array, precision: Precision) -> Array:
    """Trained weights as whole numbers of the alphabet (floats), gradients passed through."""
    if precision == FLOAT:
        return weights
    if precision.name == "binary":
        return _sign(weights)
    if precision.name == "ternary":
        threshold = TERNARY_THRESHOLD * jnp.mean(jnp.abs(weights))
        return _through(jnp.sign(weights) * (jnp.abs(weights) > threshold), weights)
    step = lax.stop_gradient(jnp.max(jnp.abs(weights)) / precision.weights[1])
    return _round(weights / step)


def arrange(x: Array, shape: Shape, padding: int) -> Array:
    """Inputs of one layer: everything, (n, inputs), or patches, (n, rows, columns, inputs)."""
    if shape.kernel == 0:
        return x.reshape(len(x), -1)
    before, after = shape.kernel // 2, (shape.kernel - 1) // 2
    x = jnp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)), constant_values=padding)
    rows, columns = (side - shape.kernel + 1 for side in x.shape[1:3])
    stops = [(i, i + rows, j, j + columns) for i in range(shape.kernel) for j in range(shape.kernel)]
    return jnp.concatenate([x[:, a : b : shape.stride, c : d : shape.stride] for a, b, c, d in stops], axis=-1)


def input_sizes(shapes: Sequence[Shape], image: tuple[int, int, int]) -> tuple[int, ...]:
    """Rows of every layer's matrix."""
    (height, width, channels), sizes = image, []
    for shape in shapes:
        if shape.kernel:
            sizes.append(shape.kernel**2 * channels)
            height, width = -(-height // shape.stride), -(-width // shape.stride)
        else:
            sizes.append(height * width * channels)
            height = width = 1
        channels = shape.outputs
    return tuple(sizes)


def share_right(answers: Float[Array, "n classes"], labels: Int[Array, " n"]) -> Float[Array, ""]:
    """Share of the images whose largest logit is the label's."""
    return jnp.mean((jnp.argmax(answers, axis=-1) == labels).astype(answers.dtype))


def _through(value: Array, slope_of: Array) -> Array:
    """`value` with the slope of `slope_of`."""
    return slope_of + lax.stop_gradient(value - slope_of)


def _round(x: Array) -> Array:
    return _through(jnp.round(x), x)


def _sign(x: Array) -> Array:
    """-1 or 1, never 0; slope 1 between -1 and 1."""
    return _through(jnp.where(x >= 0, 1.0, -1.0).astype(x.dtype), jnp.clip(x, -1, 1))
