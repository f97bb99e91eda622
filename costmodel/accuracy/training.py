"""Training: one compiled program, seconds on one core, the same result for the same seed.

Weights are trained in floating point and quantised in every forward pass, gradients straight through; every layer is
followed by batch normalisation, folded into scale and offset with the statistics of (up to 4096) training images.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from costmodel.accuracy.datasets import Dataset
from costmodel.accuracy.networks import BINARY, FLOAT, Layer, Precision, Shape, TrainedNetwork, forward, input_sizes, quantise
from physics.types import Scalar

EPSILON = 1e-3  # of batch normalisation
FOLDED_ON = 4096  # training images


def train_network(
    dataset: Dataset,
    shapes: Sequence[Shape],
    precision: Precision = BINARY,
    seed: int = 0,
    steps: int = 600,
    batch: int = 64,
    learning_rate: float = 3e-3,
) -> TrainedNetwork:
    """A network of `shapes` trained on the dataset's training images.

    Adam with a cosine schedule over `steps` batches, each drawn at random; cross entropy. ValueError for less than one step
    or image per batch.
    """
    if steps < 1 or batch < 1:
        raise ValueError(f"steps = {steps} and batch = {batch} must be at least 1")
    shapes = tuple(shapes)
    images, labels = jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels)
    layers = _train(images, labels, jax.random.key(seed), shapes, precision, steps, batch, learning_rate)
    source = f"{dataset.source}; {precision.name}, {steps} steps of {batch}, seed {seed}"
    return TrainedNetwork(layers, shapes, precision, source)


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _train(
    images: Float[Array, "n h w c"],
    labels: Array,
    key: Array,
    shapes: tuple[Shape, ...],
    precision: Precision,
    steps: int,
    batch: int,
    learning_rate: Scalar,
) -> tuple[Layer, ...]:
    start, draws = jax.random.split(key)
    params = _initial(start, shapes, images.shape[1:], images.dtype)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def loss(params: PyTree, chosen: Array) -> Array:
        answers, _ = _normalised(params, shapes, precision, images[chosen])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(answers, labels[chosen]))

    def step(state: Any, key: Array) -> tuple[Any, None]:
        params, moments = state
        chosen = jax.random.randint(key, (batch,), 0, len(labels))
        updates, moments = optimizer.update(jax.grad(loss)(params, chosen), moments, params)
        return (_bounded(optax.apply_updates(params, updates), precision), moments), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(draws, steps))
    return _folded(params, shapes, precision, images[:FOLDED_ON])


def _initial(key: Array, shapes: Sequence[Shape], image: tuple[int, ...], dtype: Any) -> list[dict[str, Array]]:
    height, width, channels = image
    sizes = input_sizes(shapes, (height, width, channels))
    keys = jax.random.split(key, len(shapes))
    return [
        {
            "weights": jax.random.normal(k, (size, shape.outputs), dtype) / np.sqrt(size).astype(dtype),
            "gain": jnp.ones(shape.outputs, dtype),
            "shift": jnp.zeros(shape.outputs, dtype),
        }
        for k, size, shape in zip(keys, sizes, shapes, strict=True)
    ]


def _normalised(params: PyTree, shapes: Sequence[Shape], precision: Precision, images: Array) -> tuple[Array, list[Any]]:
    """Logits with every layer normalised over this batch, and the mean and deviation of every layer's products."""
    statistics: list[Any] = []

    def product(i: int, x: Array) -> Array:
        return x @ quantise(params[i]["weights"], precision)

    def rescale(i: int, z: Array) -> Array:
        over = tuple(range(z.ndim - 1))
        mean, deviation = jnp.mean(z, over), jnp.sqrt(jnp.var(z, over) + EPSILON)
        statistics.append((mean, deviation))
        return (z - mean) / deviation * params[i]["gain"] + params[i]["shift"]

    return forward(shapes, precision, images, product, rescale), statistics


def _bounded(params: PyTree, precision: Precision) -> PyTree:
    """Binary weights beyond 1 would never change their sign again."""
    if precision.name != "binary":
        return params
    return [layer | {"weights": jnp.clip(layer["weights"], -1, 1)} for layer in params]


def _folded(params: PyTree, shapes: Sequence[Shape], precision: Precision, images: Array) -> tuple[Layer, ...]:
    _, statistics = _normalised(params, shapes, precision, images)
    layers = []
    for layer, (mean, deviation) in zip(params, statistics, strict=True):
        scale = layer["gain"] / deviation
        weights = quantise(layer["weights"], precision)
        whole = weights if precision == FLOAT else jnp.round(weights).astype(jnp.int32)
        layers.append(Layer(whole, scale, layer["shift"] - mean * scale))
    return tuple(layers)
