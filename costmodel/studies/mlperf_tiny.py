"""MLPerf Tiny by its rules: latency, energy and quality of the four networks under the conditions of a device.

Rules (mlcommons/tiny, MLPerfTiny_Rules, version 1.2), single stream: five windows, one per input; in each the input is run
some times to warm up, then measured over at least a number of iterations of the network, 10 iterations and 10 seconds.
Latency is one over the median throughput, energy the median per inference.

Quality is NOT that of the benchmark. Its datasets (Speech Commands, Visual Wake Words, ToyADMOS, CIFAR-10) are not at hand, so
the networks are trained here, briefly, on a stand-in made of scikit-learn's digits, resized to each network's input; every
result names it in `data`, and `comparable` is false. What such a figure is good for: how much of the answers a device
condition destroys (`quality` against `ideal_quality`), in networks of the true shapes. The benchmark's targets are listed,
not judged.

Weights are 8-bit integers per layer in the mapping I_UINT_W_DIFF, activations floating point, the converter exact: what is
measured is what cells do to weights. Each channel's filter of a depthwise convolution counts as a column of its own.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from costmodel.accuracy.conditions import DeviceConditions, check
from costmodel.accuracy.datasets import load_dataset
from costmodel.accuracy.memories import WeightMemory
from costmodel.accuracy.monte_carlo import effective_weights
from costmodel.cost import Conditions
from costmodel.estimation import estimate
from costmodel.processors.base import Processor
from physics import TwoNode, load_mapping, unknown_name
from workloads import fold_batch_norm, load, load_network
from workloads.networks.mlperf_tiny import BATCH_NORM_MOMENTUM

WINDOWS = 5
LEAST_TIME = 10.0  # s, of a window
LEAST_ITERATIONS = 10
BATCH = 50  # inputs at a time


@dataclasses.dataclass(frozen=True)
class Rules:
    """One network's benchmark: iterations of a window, measured and to warm up; the quality asked for and on what."""

    task: str
    measured: int
    warm_up: int
    metric: str
    target: float
    dataset: str


RULES = {
    "ds-cnn": Rules("kws", 70, 10, "top-1", 0.90, "Speech Commands v2"),
    "mobilenet-v1-0.25": Rules("vww", 20, 5, "top-1", 0.80, "Visual Wake Words"),
    "fc-autoencoder": Rules("ad", 1500, 10, "ROC AUC", 0.85, "ToyADMOS / DCASE 2020"),
    "resnet8": Rules("ic", 20, 5, "top-1", 0.85, "CIFAR-10"),
}


class Window(NamedTuple):
    """One measuring window."""

    iterations: int
    duration: float  # s
    throughput: float  # 1/s
    energy: float  # J per inference
    temperature: float  # K, of the junction at its end


class BenchmarkResult(NamedTuple):
    """One network on one device. `comparable` says whether quality is on the benchmark's own data; `data` says on which."""

    network: str
    task: str
    latency: float  # s, one over the median throughput
    energy: float  # J per inference, median
    windows: tuple[Window, ...]
    metric: str
    quality: float
    ideal_quality: float
    target: float  # of the benchmark on its own data
    comparable: bool
    data: str


def run_mlperf_tiny(
    hardware: Processor,
    network: str,
    conditions: DeviceConditions = DeviceConditions(),
    standin: "StandIn | None" = None,
    package: TwoNode | None = None,
    seeds: int = 3,
) -> BenchmarkResult:
    """The benchmark `network` on `hardware` under `conditions`, quality averaged over `seeds` devices.

    `conditions.temperature` (K) is that of the surroundings; without a `package` the junction stays there. `standin` is made
    (and trained, which takes a minute) if not given. ValueError for an unknown network.
    """
    if network not in RULES:
        raise ValueError(unknown_name("benchmark", network, RULES))
    rules = RULES[network]
    windows = measure_windows(hardware, network, float(conditions.temperature), package)
    standin = standin or train_standin(network)
    quality, ideal = quality_under(standin, conditions._replace(temperature=windows[-1].temperature), seeds)
    return BenchmarkResult(
        network=network,
        task=rules.task,
        latency=1 / float(np.median([window.throughput for window in windows])),
        energy=float(np.median([window.energy for window in windows])),
        windows=windows,
        metric=rules.metric,
        quality=quality,
        ideal_quality=ideal,
        target=rules.target,
        comparable=False,
        data=f"{standin.data}, not {rules.dataset}",
    )


def measure_windows(hardware: Processor, network: str, ambient: float, package: TwoNode | None = None) -> tuple[Window, ...]:
    """Five windows in a row from the cold state at `ambient` (K). A window runs at the temperature that it starts with."""
    rules, ops = RULES[network], load(network).without_info()
    cost_at = jax.jit(lambda temperature: estimate(hardware, ops, Conditions(temperature=temperature)))
    rise, windows = jnp.zeros(2), []
    for _ in range(WINDOWS):
        cost = cost_at(jnp.asarray(ambient + rise[0]))
        latency, energy = float(cost.latency), float(cost.energy)
        iterations = max(rules.measured, LEAST_ITERATIONS, math.ceil(LEAST_TIME / latency))
        if package is not None:
            rise = package.step(rise, cost.power, (rules.warm_up + iterations) * latency)
        windows.append(Window(iterations, iterations * latency, 1 / latency, energy, ambient + float(rise[0])))
    return tuple(windows)


class StandIn(NamedTuple):
    """A network trained on substitute data, folded and ready to run, with that data's test half; `data` says what it is."""

    network: str
    data: str
    variables: Mapping[str, Any]
    inputs: Float[np.ndarray, "n ..."]
    labels: np.ndarray  # classes; for the autoencoder 1 where the input is an anomaly


class Recipe(NamedTuple):
    """How a stand-in is made: what the digits become and how long the network is trained."""

    task: str
    steps: int
    batch: int
    test_inputs: int


RECIPES = {
    "ds-cnn": Recipe("ten digits as ten of twelve words", 250, 32, 450),
    "mobilenet-v1-0.25": Recipe("odd or even digits", 60, 16, 200),
    "fc-autoencoder": Recipe("digits 0 to 4 are normal, 5 to 9 anomalies", 600, 64, 450),
    "resnet8": Recipe("ten digits", 200, 32, 450),
}


def train_standin(network: str, seed: int = 0, steps: int | None = None) -> StandIn:
    """The benchmark `network` trained on digits; `steps` overrides the recipe's. ValueError for an unknown network."""
    if network not in RECIPES:
        raise ValueError(unknown_name("benchmark", network, RECIPES))
    recipe, found = RECIPES[network], load_network(network)
    steps = recipe.steps if steps is None else steps
    train, test = _standin_inputs(network, found.input_shape)
    inputs, targets = jnp.asarray(train[0]), jnp.asarray(train[1])
    variables = _train(found.module, network, inputs, targets, jax.random.key(seed), steps, recipe.batch)
    kept = slice(recipe.test_inputs)
    shape = "x".join(map(str, found.input_shape))
    data = (
        f"scikit-learn digits resized to {shape} ({recipe.task}), trained for {steps} steps of {recipe.batch}, "
        f"tested on {len(test[1][kept])}"
    )
    return StandIn(network, data, fold_batch_norm(variables), test[0][kept], test[1][kept])


def _standin_inputs(network: str, shape: tuple[int, ...]) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(inputs, labels) to train with and to test with."""
    digits = load_dataset("digits")
    height, width, channels = shape if len(shape) == 3 else (16, shape[0] // 16, 1)
    big = digits.resized(height, width, channels)
    scale = 255.0 if network == "resnet8" else 1.0  # its input is the raw byte
    train, test = ((x * scale).astype(np.float32).reshape(-1, *shape) for x in (big.train_images, big.test_images))
    if network == "fc-autoencoder":
        normal = digits.train_labels < 5
        return (train[normal], digits.train_labels[normal]), (test, (digits.test_labels >= 5).astype(np.int32))
    classes = 2 if network.startswith("mobilenet") else 10
    return (train, digits.train_labels % classes), (test, digits.test_labels % classes)


def _train(module: Any, network: str, inputs: Array, targets: Array, key: Array, steps: int, batch: int) -> Any:
    """Variables of the trained network. Steps are a host's loop: XLA's CPU convolutions are several times slower in a scan."""
    start, draws = jax.random.split(key)
    variables = module.init(start, inputs[:1])
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))

    def loss(params: Any, statistics: Any, key: Array) -> tuple[Array, Any]:
        chosen = jax.random.randint(key, (batch,), 0, len(inputs))
        x, variables = inputs[chosen], {"params": params, "batch_stats": statistics}
        answers, updated = module.apply(variables, x, True, mutable=["batch_stats"], rngs={"dropout": key})
        if network == "fc-autoencoder":
            return jnp.mean((answers - x) ** 2), updated["batch_stats"]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(answers, targets[chosen])), updated["batch_stats"]

    @jax.jit
    def step(params: Any, statistics: Any, moments: Any, key: Array) -> tuple[Any, Any, Any]:
        slope, statistics = jax.grad(loss, has_aux=True)(params, statistics, key)
        updates, moments = optimizer.update(slope, moments, params)
        return optax.apply_updates(params, updates), statistics, moments

    params, statistics, moments = variables["params"], variables["batch_stats"], optimizer.init(variables["params"])
    for k in jax.random.split(draws, steps):
        params, statistics, moments = step(params, statistics, moments, k)
    return {"params": params, "batch_stats": _settled(module, params, statistics, inputs, batch, start)}


def _settled(module: Any, params: Any, statistics: Any, inputs: Array, batch: int, key: Array) -> Any:
    """Means and variances of the trained network, over up to 16 batches.

    The running ones have a memory of a hundred steps (Keras' momentum of 0.99), too long for a short training. From zero, one
    step of a running mean gives 1 - 0.99 of the batch's own.
    """
    variables = {"params": params, "batch_stats": jax.tree.map(jnp.zeros_like, statistics)}
    one = jax.jit(lambda x: module.apply(variables, x, True, mutable=["batch_stats"], rngs={"dropout": key})[1]["batch_stats"])
    batches = min(len(inputs) // batch, 16)
    parts = [one(inputs[i * batch : (i + 1) * batch]) for i in range(batches)]
    return jax.tree.map(lambda *x: sum(x) / (batches * (1 - BATCH_NORM_MOMENTUM)), *parts)


def quality_under(
    standin: StandIn, conditions: DeviceConditions, seeds: int = 3, memory: WeightMemory | None = None
) -> tuple[float, float]:
    """(quality under `conditions`, mean of `seeds` devices; quality of the undisturbed 8-bit weights)."""
    memory = memory or WeightMemory(mapping=load_mapping("I_UINT_W_DIFF"))
    keys = jax.random.split(jax.random.key(0), seeds)
    module = load_network(standin.network).module.clone(folded=True)
    apply = jax.jit(lambda params, x: module.apply({"params": params}, x))

    def quality(conditions: DeviceConditions, key: Array) -> float:
        params = _stored(standin.variables["params"], memory, _plain(conditions), key)
        batches = np.split(standin.inputs, range(BATCH, len(standin.inputs), BATCH))
        return _quality(standin, np.concatenate([np.asarray(apply(params, batch)) for batch in batches]))

    return float(np.mean([quality(conditions, key) for key in keys])), quality(DeviceConditions(), keys[0])


def _plain(conditions: DeviceConditions) -> DeviceConditions:
    check(conditions)
    return DeviceConditions(*(jnp.asarray(x, float) for x in conditions))


@jax.jit
def _stored(params: Any, memory: WeightMemory, conditions: DeviceConditions, key: Array) -> Any:
    """`params` with every kernel rounded to integers (one scale per layer), written into cells and read back."""
    leaves, structure = jax.tree.flatten(params)
    kernels = [i for i, leaf in enumerate(leaves) if leaf.ndim > 1]
    steps = [jnp.max(jnp.abs(leaves[i])) / memory.mapping.weight_range[1] for i in kernels]
    whole = [jnp.round(leaves[i] / step).astype(jnp.int32).ravel() for i, step in zip(kernels, steps, strict=True)]
    cells = effective_weights(jnp.concatenate(whole), memory, conditions, key)
    parts = jnp.split(cells, np.cumsum([leaves[i].size for i in kernels])[:-1])
    for i, step, part in zip(kernels, steps, parts, strict=True):
        leaves[i] = (part * step).reshape(leaves[i].shape).astype(leaves[i].dtype)
    return jax.tree.unflatten(structure, leaves)


def _quality(standin: StandIn, answers: np.ndarray) -> float:
    if standin.network == "fc-autoencoder":
        from sklearn.metrics import roc_auc_score  # as the benchmark's rules ask

        error = np.mean((answers - standin.inputs) ** 2, axis=-1)
        return float(roc_auc_score(standin.labels, error))
    return float(np.mean(np.argmax(answers, axis=-1) == standin.labels))
