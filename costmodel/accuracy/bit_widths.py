"""Networks whose bit widths are numbers, not types: one compiled program trains and measures any policy of bits.

    w_int = round(w / step),  step = max|w| / (2^(w_bits - 1) - 1)          per output, signed
    x_int = round(clip(x / top, 0, 1) (2^a_bits - 1))                      per layer, `top` is trained
    y     = scale (x_int W_int) + offset                                   batch normalisation, folded as in `training`

The bits of every layer's weights and inputs are traced, so all policies share one compilation and can be batched (vmap or
lax.map), and have a slope: rounding passes gradients straight through, the step and `top` keep theirs (Esser et al. 2020, learned
step size quantisation; Choi et al. 2018, clipped activations).

    study = prepare_study(load_dataset("digits"), conv_net((8, 16)))       trained at 8 bits, training images split for validation
    found = measure_policy(study, policy, steps=50)                        fine-tuned from there, then validated and tested

Policies are chosen on validation images and judged on test images: the second never take part in a choice.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from costmodel.accuracy.datasets import Dataset
from costmodel.accuracy.networks import FLOAT, RELU_RANGE, Shape, forward, input_sizes
from costmodel.accuracy.training import EPSILON
from costmodel.mapping.precision import BASELINE_BITS, BitPolicy, MatrixShapes, check_policy, matrix_shapes
from physics import Adc, CrossbarCells, load_mapping, program_crossbar
from physics.types import Scalar

FOLDED_ON = 2048  # training images whose statistics are folded
CHUNK = 500  # images answered at once
LARGEST_VALIDATION = 10_000
LEAST_SIGNED = 2  # bits: one bit has no levels beside its sign


class BitLayer(eqx.Module):
    """What is trained of one layer; `log_top` is ln of the input that the largest integer stands for."""

    weights: Float[Array, "inputs outputs"]
    gain: Float[Array, " outputs"]
    shift: Float[Array, " outputs"]
    log_top: Float[Array, ""]


class WholeLayer(eqx.Module):
    """One layer as it runs: integers (held as floats), and what makes integers of inputs and numbers of outputs."""

    weights: Float[Array, "inputs outputs"]
    scale: Float[Array, " outputs"]
    offset: Float[Array, " outputs"]
    top: Float[Array, ""]
    levels: Float[Array, ""]  # largest integer of an input


class BitStudy(eqx.Module):
    """A network trained at 8 bits, and the images that policies are trained on, chosen by and judged by."""

    layers: tuple[BitLayer, ...]
    train_images: Float[Array, "n h w c"]
    train_labels: Int[Array, " n"]
    valid_images: Float[Array, "v h w c"]
    valid_labels: Int[Array, " v"]
    test_images: Float[Array, "t h w c"]
    test_labels: Int[Array, " t"]
    shapes: tuple[Shape, ...] = eqx.field(static=True)
    source: str = eqx.field(static=True)

    @property
    def matrices(self) -> MatrixShapes:
        """The network's layers as matrix products."""
        return network_matrices(self.shapes, self.train_images.shape[1:])


class PolicyAccuracy(NamedTuple):
    """How one policy does after fine-tuning."""

    valid_accuracy: Float[Array, ""]
    valid_entropy: Float[Array, ""]  # mean cross entropy, smoother than the accuracy
    test_right: Bool[Array, " t"]  # of every test image

    @property
    def test_accuracy(self) -> Float[Array, ""]:
        """Share of the test images that are right."""
        return jnp.mean(self.test_right)


def network_matrices(shapes: Sequence[Shape], image: tuple[int, ...]) -> MatrixShapes:
    """Layers of a network of `shapes` for images of shape `image` (height, width, channels)."""
    height, width, channels = image
    rows = []
    for shape, inputs in zip(shapes, input_sizes(shapes, (height, width, channels)), strict=True):
        height, width = (-(-side // shape.stride) if shape.kernel else 1 for side in (height, width))
        rows.append((shape.outputs, inputs, height * width))
    return matrix_shapes(rows)


def prepare_study(
    dataset: Dataset, shapes: Sequence[Shape], seed: int = 0, steps: int = 600, batch: int = 128, learning_rate: float = 3e-3
) -> BitStudy:
    """Train a network of `shapes` at 8 bits on the first part of the dataset's training images; the rest validates.

    A quarter, at most 10,000 images, is kept for validation. ValueError for less than one step or image per batch.
    """
    if steps < 1 or batch < 1:
        raise ValueError(f"steps = {steps} and batch = {batch} must be at least 1")
    shapes, kept = tuple(shapes), min(len(dataset.train_labels) // 4, LARGEST_VALIDATION)
    split = len(dataset.train_labels) - kept
    source = f"{dataset.source}; the last {kept} of the training images validate; {steps} steps of {batch} at 8 bits, seed {seed}"
    images, labels = jnp.asarray(dataset.train_images, float), jnp.asarray(dataset.train_labels)
    start, draws = jax.random.split(jax.random.key(seed))
    layers = _initial(start, shapes, images.shape[1:])
    tests = jnp.asarray(dataset.test_images, float), jnp.asarray(dataset.test_labels)
    study = BitStudy(layers, images[:split], labels[:split], images[split:], labels[split:], *tests, shapes=shapes, source=source)
    policy = baseline(study)
    return eqx.tree_at(lambda s: s.layers, study, _tuned(study, policy, draws, learning_rate, steps=steps, batch=batch))


def baseline(study: BitStudy) -> BitPolicy:
    """8 bits everywhere."""
    full = jnp.full(len(study.shapes), float(BASELINE_BITS))
    return BitPolicy(full, full)


def measure_policy(
    study: BitStudy, policy: BitPolicy, steps: int = 50, batch: int = 128, learning_rate: float = 1e-3, seed: int = 0
) -> PolicyAccuracy:
    """Fine-tune the 8-bit network with the bits of `policy`, then answer the validation and the test images.

    The same seed shows every policy the same batches. One compilation serves all policies; pure, so it can be mapped. ValueError
    for a policy of the wrong length, bits outside [1, 16] (weights: [2, 16]) and a negative number of steps.
    """
    _check(study, policy, steps)
    return _measured(study, _floats(policy), jax.random.key(seed), learning_rate, steps=steps, batch=batch)


def tune_policy(
    study: BitStudy, policy: BitPolicy, steps: int = 50, batch: int = 128, learning_rate: float = 1e-3, seed: int = 0
) -> tuple[WholeLayer, ...]:
    """The integers that `measure_policy` measures, ready for a crossbar; same arguments and errors."""
    _check(study, policy, steps)
    return _whole(study, _floats(policy), jax.random.key(seed), learning_rate, steps=steps, batch=batch)


def crossbar_accuracy(
    study: BitStudy,
    layers: tuple[WholeLayer, ...],
    policy: BitPolicy,
    cells: CrossbarCells,
    adc: Adc | None = None,
    key: PRNGKeyArray | None = None,
    cell_bits: int = 4,
    images: int = 500,
) -> float:
    """Accuracy on the first test images with every product computed by tiled 256 x 256 crossbars (mapping I_UINT_W_DIFF).

    Whole bits only. `key` draws programming noise and stuck cells; `adc` None is an ideal converter, which gives the digital
    answers. ValueError where `cells` have fewer levels than `cell_bits` need.
    """
    converter = Adc.ideal() if adc is None else adc
    keys = [None] * len(layers) if key is None else list(jax.random.split(key, len(layers)))
    crossbars = [
        program_crossbar(
            layer.weights.astype(jnp.int32),
            load_mapping("I_UINT_W_DIFF", int(w), int(a), _slices(int(w), cell_bits)),
            cells,
            drawn,
            tiled=True,
        )
        for layer, w, a, drawn in zip(layers, policy.weight_bits, policy.input_bits, keys, strict=True)
    ]

    def product(i: int, x: Array) -> Array:
        return crossbars[i].mvm(_integers(x, layers[i]).astype(jnp.int32), converter).astype(x.dtype)

    answers = _answers(study.shapes, layers, study.test_images[:images], product)
    return float(jnp.mean(jnp.argmax(answers, -1) == study.test_labels[:images]))


def quantise_weights(weights: Float[Array, "inputs outputs"], bits: Scalar) -> tuple[Array, Array]:
    """Integers of `bits` (at least 2) signed bits, as floats, and their step (outputs,). Slopes: straight through."""
    largest = jnp.exp2(bits - 1) - 1
    step = jnp.maximum(lax.stop_gradient(jnp.max(jnp.abs(weights), axis=0)), 1e-12) / largest
    return _round(weights / step), step


def quantise_inputs(x: Float[Array, "..."], top: Scalar, bits: Scalar) -> tuple[Array, Array]:
    """Integers of `bits` unsigned bits, as floats, and their step. Slopes: straight through, 0 to `x` where it is clipped."""
    levels = jnp.exp2(bits) - 1
    return _round(jnp.clip(x / top, 0, 1) * levels), top / levels


def normalised(
    shapes: Sequence[Shape], layers: Sequence[BitLayer], policy: BitPolicy, images: Array
) -> tuple[Array, list[tuple[Array, Array]]]:
    """Logits with every layer normalised over this batch, and mean and deviation of every layer's products."""
    statistics: list[tuple[Array, Array]] = []

    def product(i: int, x: Array) -> Array:
        weights, weight_step = quantise_weights(layers[i].weights, policy.weight_bits[i])
        inputs, input_step = quantise_inputs(x, jnp.exp(layers[i].log_top), policy.input_bits[i])
        return (inputs * input_step) @ (weights * weight_step)

    def rescale(i: int, z: Array) -> Array:
        over = tuple(range(z.ndim - 1))
        mean, deviation = jnp.mean(z, over), jnp.sqrt(jnp.var(z, over) + EPSILON)
        statistics.append((mean, deviation))
        return (z - mean) / deviation * layers[i].gain + layers[i].shift

    return forward(shapes, FLOAT, images, product, rescale), statistics


def entropy(answers: Array, labels: Array) -> Array:
    """Mean cross entropy."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(answers, labels))


def descend(
    loss: Callable[[PyTree, Array, Array], Array],
    start: PyTree,
    optimizer: optax.GradientTransformation,
    study: BitStudy,
    key: PRNGKeyArray,
    steps: int,
    batch: int,
) -> PyTree:
    """`steps` steps down `loss(params, images, labels)` on random batches of the training images."""

    def step(state: Any, key: PRNGKeyArray) -> tuple[Any, None]:
        params, moments = state
        chosen = jax.random.randint(key, (batch,), 0, len(study.train_labels))
        slopes = jax.grad(loss)(params, study.train_images[chosen], study.train_labels[chosen])
        updates, moments = optimizer.update(slopes, moments, params)
        return (optax.apply_updates(params, updates), moments), None

    keys = jax.random.split(key, steps)
    (params, _), _ = lax.scan(step, (start, optimizer.init(start)), keys)
    return params


@functools.partial(jax.jit, static_argnames=("steps", "batch"))
def _tuned(
    study: BitStudy, policy: BitPolicy, key: PRNGKeyArray, learning_rate: Scalar, *, steps: int, batch: int
) -> tuple[BitLayer, ...]:
    def loss(layers: tuple[BitLayer, ...], images: Array, labels: Array) -> Array:
        return entropy(normalised(study.shapes, layers, policy, images)[0], labels)

    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1)))
    return descend(loss, study.layers, optimizer, study, key, steps, batch)


@functools.partial(jax.jit, static_argnames=("steps", "batch"))
def _whole(
    study: BitStudy, policy: BitPolicy, key: PRNGKeyArray, learning_rate: Scalar, *, steps: int, batch: int
) -> tuple[WholeLayer, ...]:
    return _folded(study, _tuned(study, policy, key, learning_rate, steps=steps, batch=batch), policy)


@functools.partial(jax.jit, static_argnames=("steps", "batch"))
def _measured(
    study: BitStudy, policy: BitPolicy, key: PRNGKeyArray, learning_rate: Scalar, *, steps: int, batch: int
) -> PolicyAccuracy:
    layers = _whole(study, policy, key, learning_rate, steps=steps, batch=batch)
    valid, test = (_in_chunks(study.shapes, layers, images) for images in (study.valid_images, study.test_images))
    right = jnp.mean((jnp.argmax(valid, -1) == study.valid_labels).astype(valid.dtype))
    return PolicyAccuracy(right, entropy(valid, study.valid_labels), jnp.argmax(test, -1) == study.test_labels)


def _folded(study: BitStudy, layers: tuple[BitLayer, ...], policy: BitPolicy) -> tuple[WholeLayer, ...]:
    _, statistics = normalised(study.shapes, layers, policy, study.train_images[:FOLDED_ON])
    whole = []
    for i, (layer, (mean, deviation)) in enumerate(zip(layers, statistics, strict=True)):
        weights, weight_step = quantise_weights(layer.weights, policy.weight_bits[i])
        top, levels, scale = jnp.exp(layer.log_top), jnp.exp2(policy.input_bits[i]) - 1, layer.gain / deviation
        offset = layer.shift - mean * scale
        whole.append(WholeLayer(jnp.round(weights), scale * weight_step * top / levels, offset, top, levels))
    return tuple(whole)


def _integers(x: Array, layer: WholeLayer) -> Array:
    return jnp.round(jnp.clip(x / layer.top, 0, 1) * layer.levels)


def _answers(
    shapes: tuple[Shape, ...], layers: tuple[WholeLayer, ...], images: Array, product: Callable[[int, Array], Array] | None = None
) -> Array:
    """Logits of the integers, with their products computed by `product` (exactly, if None)."""

    def exact(i: int, x: Array) -> Array:
        return _integers(x, layers[i]) @ layers[i].weights

    return forward(shapes, FLOAT, images, product or exact, lambda i, z: z * layers[i].scale + layers[i].offset)


def _in_chunks(shapes: tuple[Shape, ...], layers: tuple[WholeLayer, ...], images: Array) -> Array:
    """Logits of any number of images in bounded memory."""
    count, size = len(images), min(CHUNK, len(images))
    chunks = jnp.pad(images, ((0, -count % size), (0, 0), (0, 0), (0, 0))).reshape(-1, size, *images.shape[1:])
    answers = lax.map(lambda chunk: _answers(shapes, layers, chunk), chunks)
    return answers.reshape(-1, answers.shape[-1])[:count]


def _initial(key: PRNGKeyArray, shapes: Sequence[Shape], image: tuple[int, ...]) -> tuple[BitLayer, ...]:
    height, width, channels = image
    keys = jax.random.split(key, len(shapes))
    layers = []
    for i, (k, size, shape) in enumerate(zip(keys, input_sizes(shapes, (height, width, channels)), shapes, strict=True)):
        weights = jax.random.normal(k, (size, shape.outputs)) / np.sqrt(size)
        top = jnp.log(jnp.asarray(1.0 if i == 0 else RELU_RANGE, float))  # pixels, or deviations after a ReLU
        layers.append(BitLayer(jnp.asarray(weights, float), jnp.ones(shape.outputs), jnp.zeros(shape.outputs), top))
    return tuple(layers)


def _check(study: BitStudy, policy: BitPolicy, steps: int) -> None:
    check_policy(study.matrices, policy)
    if not isinstance(policy.weight_bits, Tracer) and np.min(policy.weight_bits) < LEAST_SIGNED:
        raise ValueError(
            f"policy.weight_bits = {np.min(policy.weight_bits):g} bit is below {LEAST_SIGNED} bit: weights are signed"
        )
    if steps < 0:
        raise ValueError(f"steps = {steps} is below 0")


def _floats(policy: BitPolicy) -> BitPolicy:
    return BitPolicy(*(jnp.asarray(bits, float) for bits in policy))


def _slices(bits: int, cell_bits: int) -> tuple[int, ...]:
    """Bits of a weight's cells, the most significant first."""
    full, rest = divmod(bits, cell_bits)
    return (*((rest,) if rest else ()), *(cell_bits,) * full)


def _round(x: Array) -> Array:
    return x + lax.stop_gradient(jnp.round(x) - x)
