"""Accuracy measured: a network's integers programmed into crossbars, and real images sent through them.

    deployed = deploy_network(network, WeightMemory(mapping=...), dataset)         converters calibrated, test images chosen
    table    = measure_accuracy(deployed, conditions, seeds=8)               accuracies (conditions, seeds)

One seed is one device: its own programming noise, faults and read noise. The same seeds serve all conditions, so that two
conditions differ by less than two devices do. Everything analog is `physics.crossbar`; the digital part (scale, offset,
activation) is exact. All conditions share one compiled program, or up to four: with and without wires and read noise.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from costmodel.accuracy.conditions import IDEAL_BITS, DeviceConditions, batch
from costmodel.accuracy.datasets import Dataset
from costmodel.accuracy.memories import WeightMemory
from costmodel.accuracy.networks import Product, TrainedNetwork, logits, precision_of, share_right
from physics import Adc, Crossbar, CrossbarMapping, program_crossbar

CALIBRATED_ON = 128  # training images


class Deployment(eqx.Module):
    """A network in a memory, with a converter for every layer and the images that it is tested on."""

    network: TrainedNetwork
    memory: WeightMemory
    adcs: tuple[Adc, ...]
    images: Float[Array, "n h w c"]
    labels: Int[Array, " n"]
    source: str = eqx.field(static=True)


def deploy_network(network: TrainedNetwork, memory: WeightMemory, dataset: Dataset, images: int = 500) -> Deployment:
    """`network` in `memory`, tested on the first `images` test images of `dataset`.

    ValueError if the network's alphabet is not the mapping's or there are no images.
    """
    needed = precision_of(memory.mapping)
    if network.precision != needed:
        raise ValueError(f"{memory.mapping.name} holds {needed.name} networks {needed.weights}, this one is {network.precision}")
    if images < 1:
        raise ValueError(f"images = {images} is below 1")
    test = jnp.asarray(dataset.test_images[:images], float)
    labels = jnp.asarray(dataset.test_labels[:images])
    source = f"{network.source}; tested on {len(labels)} images"
    adcs = _converters(network, memory, jnp.asarray(dataset.train_images[:CALIBRATED_ON], float))
    return Deployment(network, memory, adcs, test, labels, source)


def measure_accuracy(
    deployed: Deployment, conditions: DeviceConditions, seeds: int = 8, seed: int = 0
) -> Float[np.ndarray, "n seeds"]:
    """Accuracy of `seeds` devices under each of the `conditions` (scalars or arrays (n,)).

    ValueError for conditions outside their range or without seeds.
    """
    if seeds < 1:
        raise ValueError(f"seeds = {seeds} is below 1")
    keys = jax.random.split(jax.random.key(seed), seeds)
    columns = batch(conditions)
    rows = [jax.tree.map(lambda column, i=i: column[i], columns) for i in range(len(jnp.asarray(columns.temperature)))]
    asked = [(bool(row.wire_resistance > 0), bool(row.read_noise > 0)) for row in rows]
    return np.stack([_devices(deployed, row, keys, *needs) for row, needs in zip(rows, asked, strict=True)])


@functools.partial(jax.jit, static_argnums=(3, 4))
def _devices(
    deployed: Deployment, conditions: DeviceConditions, keys: Array, wires: bool, read_noise: bool
) -> Float[Array, " seeds"]:
    return jax.vmap(lambda key: run(deployed, conditions, key, wires, read_noise))(keys)


def run(
    deployed: Deployment, conditions: DeviceConditions, key: PRNGKeyArray, wires: bool = False, read_noise: bool = False
) -> Float[Array, ""]:
    """Accuracy of one device under one set of conditions (scalars). Pure: jit it, vmap it over keys and conditions.

    The resistance of wires and the noise of reads count only if asked for, because they cost time even if they are 0.
    """
    writing, reading = jax.random.split(key)
    crossbars = program_layers(deployed.network, deployed.memory, conditions, writing, wires)
    adcs = [eqx.tree_at(lambda a: a.bits, adc, jnp.asarray(conditions.adc_bits, float)) for adc in deployed.adcs]
    product = _analog(crossbars, adcs, reading if read_noise else None)
    return share_right(logits(deployed.network, deployed.images, product), deployed.labels)


def program_layers(
    network: TrainedNetwork, memory: WeightMemory, conditions: DeviceConditions, key: PRNGKeyArray, wires: bool = False
) -> list[Crossbar]:
    """Every layer's weights, written into crossbars and aged as `conditions` say."""
    keys = jax.random.split(key, len(network.layers))
    return [_program(layer.weights, memory, conditions, k, wires) for layer, k in zip(network.layers, keys, strict=True)]


def _program(weights: Array, memory: WeightMemory, conditions: DeviceConditions, key: PRNGKeyArray, wires: bool) -> Crossbar:
    crossbar = program_crossbar(
        weights,
        memory.mapping,
        memory.aged_cells(conditions),
        key,
        rows=memory.rows,
        columns=memory.rows,
        tiled=True,
        wires=memory.wires(conditions) if wires else None,
    )
    return crossbar if memory.drift is None else crossbar.drifted(lambda g: memory.drift_factor(g, conditions))


def _analog(crossbars: list[Crossbar], adcs: list[Adc], key: PRNGKeyArray | None) -> Product:
    def product(i: int, x: Array) -> Array:
        noise = "column" if crossbars[i].wires is None else "cell"
        drawn = None if key is None else jax.random.fold_in(key, i)
        return crossbars[i].mvm(jnp.round(x).astype(jnp.int32), adcs[i], drawn, noise=noise).astype(x.dtype)

    return product


def _converters(network: TrainedNetwork, memory: WeightMemory, images: Array) -> tuple[Adc, ...]:
    """One converter per layer; calibrated ones see the currents of undisturbed cells."""
    if memory.converter == "full":
        return tuple(Adc.full_range(memory.mapping, IDEAL_BITS) for _ in network.layers)
    adcs: list[Adc] = []

    def product(i: int, x: Array) -> Array:
        whole = jnp.round(x).astype(jnp.int32)
        crossbar = program_crossbar(
            network.layers[i].weights, memory.mapping, memory.cells, rows=memory.rows, columns=memory.rows, tiled=True
        )
        adcs.append(Adc.calibrated(crossbar, whole, IDEAL_BITS))
        return crossbar.mvm(whole, Adc.ideal()).astype(x.dtype)

    logits(network, images, product)
    return tuple(adcs)


def effective_weights(
    weights: Int[Array, " n"], memory: WeightMemory, conditions: DeviceConditions, key: PRNGKeyArray
) -> Float[Array, " n"]:
    """What integer `weights`, wherever they are stored, become in their cells: converter and wires ideal, no read noise."""
    crossbar = _program(weights[None, :], memory, conditions, key, wires=False)
    return crossbar.mvm(jnp.ones(1, jnp.int32), Adc.ideal())


class LevelStatistics(eqx.Module):
    """Mean and mean square of the levels (0 to 1) that a network's weights give to cells, and the share of driven rows."""

    mean_level: Float[Array, ""]
    mean_square_level: Float[Array, ""]
    drive_share: Float[Array, ""]


def level_statistics(deployed: Deployment) -> LevelStatistics:
    """Of all layers, every cell the same; cells that matter more (higher bits) weighted by the square of their weight."""
    mapping, network = deployed.memory.mapping, deployed.network
    weight = {use.channel: float(use.weight) ** 2 for use in mapping.conversions}
    levels, squares, total = 0.0, 0.0, 0.0
    for layer in network.layers:
        for columns in (mapping.plus, mapping.minus):
            for channel, fields in enumerate(columns):
                for field in fields:
                    level = field.digit(layer.weights) / mapping.steps[channel]
                    levels, squares = levels + weight[channel] * level.sum(), squares + weight[channel] * (level**2).sum()
                    total += weight[channel] * level.size
    return LevelStatistics(
        jnp.asarray(levels / total, float), jnp.asarray(squares / total, float), _drive_share(deployed, mapping)
    )


def _drive_share(deployed: Deployment, mapping: CrossbarMapping) -> Float[Array, ""]:
    """Mean share of driven rows over passes, layers and the first test images."""
    shares: list[Array] = []

    def product(i: int, x: Array) -> Array:
        whole = jnp.round(x).astype(jnp.int32)
        bits = [jnp.mean(field.digit(whole).astype(float)) for drive in mapping.drives for field in drive]
        shares.append(jnp.mean(jnp.stack(bits)))
        return x @ deployed.network.layers[i].weights.astype(x.dtype)

    logits(deployed.network, deployed.images[:64], product)
    return jnp.mean(jnp.stack(shares))
