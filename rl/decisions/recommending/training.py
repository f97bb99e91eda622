"""Training of recommenders on labels that never end: `python -m rl.decisions.recommending.training`.

The command prints how good the shipped recommender is; with a path it trains one like it and writes it there.

Every step draws new workloads and has the cost model label them, all inside one compiled scan, so nothing is ever seen twice.
What is learned is not the best position but the costs near the best,

    loss = mean over workloads of  NEAR sum_c w_c (d_c - d)^2  +  mean_c (d_c - d)^2,        d_c = score_c - ln cost_c
    w = softmax(-ln cost / temperature) over the allowed configurations,   d = sum_c w_c d_c

which says how much a wrong choice costs where a hard label would not, and leaves each workload's own constant free. The entries
of the embedding are strongly correlated; Adam works on decorrelated ones (inverse square root of their covariance), and the
trained weights take that matrix in at the end. Training is in float32, the merging on the host in 64 bits.
"""

import functools
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from costmodel.studies.design_spaces.arrays import ArraySpace
from costmodel.studies.design_spaces.layers import layer_products
from costmodel.studies.design_spaces.spaces import DesignSpace
from rl.decisions.recommender import Recommender, load_recommender
from rl.decisions.recommending.judging import judge_recommender
from rl.decisions.recommending.networks import ScoreNetwork, Shape, embed

SHIPPED_SPACE, SHIPPED_STEPS = ArraySpace(largest=1 << 18), 20_000
BATCH, RATE = 512, 1e-2
TEMPERATURE = 0.07  # of ln cost
NEAR = 100.0
RIDGE = 1e-5  # of the covariance of entries
DRAWN = 1 << 14  # workloads for the covariance


def train_recommender(
    space: DesignSpace, *, key: PRNGKeyArray | None = None, steps: int = 6000, batch: int = BATCH, shape: Shape = Shape()
) -> Recommender:
    """A recommender for `space`, trained on `steps` times `batch` random workloads of it; `key` is that of seed 0 by default.

    Large sizes are met in use as well: train with `largest` as large as they come. Raises ValueError for steps or batch below 1.
    """
    if min(steps, batch) < 1:
        raise ValueError(f"steps = {steps}, batch = {batch}: both must be at least 1")
    first, second, third = jax.random.split(jax.random.key(0) if key is None else key, 3)
    network = ScoreNetwork(space, shape)
    entries, weights = _prepare(network, first, second)
    mean, matrix = decorrelation(entries)
    trained = _train(network, steps, batch, weights, jnp.asarray(mean, jnp.float32), jnp.asarray(matrix, jnp.float32), third)
    return Recommender(space, shape, merged(jax.device_get(trained), mean, matrix))


def decorrelation(entries: Float[Array, "entries workloads"]) -> tuple[np.ndarray, np.ndarray]:
    """Mean (entries, 1) and matrix W of columns x: W (x - mean) has, nearly, the unit matrix as covariance."""
    columns = np.asarray(entries, np.float64)
    values, vectors = np.linalg.eigh(np.cov(columns))
    return columns.mean(axis=1, keepdims=True), (vectors / np.sqrt(np.maximum(values, 0) + RIDGE)) @ vectors.T


def merged(weights: Any, mean: np.ndarray, matrix: np.ndarray) -> Any:
    """The same network on entries as they are: `matrix` and `mean` taken into the layers that read them."""
    params = dict(weights["params"])
    for name in ("hidden", "terms"):
        kernel, bias = (np.asarray(params[name][part], np.float64) for part in ("kernel", "bias"))
        reading = kernel[:, : len(mean)] @ matrix
        params[name] = {
            "kernel": np.concatenate([reading, kernel[:, len(mean) :]], axis=1).astype(np.float32),
            "bias": (bias - reading @ mean).astype(np.float32),
        }
    return {"params": params}


@functools.partial(jax.jit, static_argnames="network")
def _prepare(network: ScoreNetwork, drawing: PRNGKeyArray, starting: PRNGKeyArray) -> tuple[Array, Any]:
    """Entries of random workloads, and the weights to start from."""
    entries = embed(network.space, network.shape.embedding, network.space.sample(drawing, DRAWN))
    return entries, network.init(starting, entries[:, : network.space.pieces])


@functools.partial(jax.jit, static_argnames=("network", "steps", "batch"))
def _train(network: ScoreNetwork, steps: int, batch: int, weights: Any, mean: Array, matrix: Array, key: PRNGKeyArray) -> Any:
    schedule = optax.cosine_onecycle_schedule(steps, RATE, 0.1, 25, 1e4)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def step(carry: tuple[Any, optax.OptState], key: PRNGKeyArray) -> tuple[tuple[Any, optax.OptState], None]:
        weights, memory = carry
        slopes = jax.grad(_loss)(weights, network, mean, matrix, network.space.sample(key, batch))
        updates, memory = optimizer.update(slopes, memory)
        return (optax.apply_updates(weights, updates), memory), None

    return jax.lax.scan(step, (weights, optimizer.init(weights)), jax.random.split(key, steps))[0][0]


def _loss(weights: Any, network: ScoreNetwork, mean: Array, matrix: Array, workloads: Array) -> Float[Array, ""]:
    space = network.space
    costs = space.log_costs(workloads).T.astype(jnp.float32)
    near = jax.nn.softmax(jnp.where(space.allowed(workloads).T, -costs / TEMPERATURE, -jnp.inf), axis=0)
    scores = network.apply(weights, matrix @ (embed(space, network.shape.embedding, workloads) - mean))
    assert isinstance(scores, jax.Array)
    apart = scores - costs
    apart = apart - jnp.sum(near * apart, axis=0)
    return jnp.mean(NEAR * jnp.sum(near * apart**2, axis=0) + jnp.mean(apart**2, axis=0))


def main(arguments: Sequence[str]) -> None:
    """Train and write a recommender if a path is given; judge it, or the shipped one, on random and on real workloads."""
    if arguments:
        train_recommender(SHIPPED_SPACE, steps=SHIPPED_STEPS).save(arguments[0])
    recommender, space = load_recommender(*arguments[:1]), ArraySpace()
    print(f"100000 random workloads, sizes 1 to {space.largest}")
    print(judge_recommender(recommender, space.sample(jax.random.key(1), 100_000)))
    print("layers of real networks, all budgets")
    print(judge_recommender(recommender, space.sample(jax.random.key(2), 20_000, layer_products())))


if __name__ == "__main__":
    main(sys.argv[1:])
