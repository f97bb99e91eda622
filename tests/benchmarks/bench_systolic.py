"""Systolic arrays and loop-nest mappings on one core: evaluations and mappings per second, forward and with gradients.

Pairs are (workload, configuration): 1e5 products of M, N, K in 1..1e4 (uniform in the logarithm) times 459 configurations, the
three dataflows on all arrays of 2^a rows and 2^b columns with a + b <= 16, reduced to the best cycles of every product. `words`
are exact integers of 64 bits, `floats` float32. A mapping is four levels of seven dimensions, every factor and order of its own.
"""

import jax
import jax.numpy as jnp
import numpy as np
from timing import best, one_core, report

import costmodel
from costmodel.processors.systolic_counts import argmin_words

TARGET_PAIRS, TARGET_MAPPINGS, TARGET_GRADIENTS = 5e7, 1e5, 3e4
DOSA_FORWARD, DOSA_GRADIENT = 108, 70  # mappings per second of its PyTorch model on such a core, layer by layer
PRODUCTS, CHUNK = 100_000, 500


def products(count: int) -> jax.Array:
    """Sizes m, n, k, shape (count, 3), int32."""
    drawn = np.exp(np.random.default_rng(0).uniform(0, np.log(1e4), (count, 3)))
    return jnp.asarray(drawn, jnp.int32)


def configurations() -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rows, columns and dataflow of the 459 configurations, int32."""
    shapes = [(flow, 2**a, 2**b) for flow in range(3) for a in range(17) for b in range(17 - a)]
    flow, rows, columns = (jnp.asarray(column, jnp.int32) for column in zip(*shapes, strict=True))
    return rows, columns, flow


@jax.jit
def best_words(sizes):
    """Position of the fewest cycles among all configurations, exact."""
    rows, columns, flow = configurations()

    def words(part):
        return costmodel.systolic_cycle_words(*(part[:, i, None] for i in range(3)), rows, columns, flow)

    def chunk(parts):
        return argmin_words(jax.lax.map(words, parts))  # a loop of its own, lest every pass computes them anew

    return jax.lax.map(chunk, sizes.reshape(-1, 10, 20, 3)).ravel()


@jax.jit
def best_floats(sizes):
    """The same in float32: cycles, which do not tell near ties apart."""
    rows, columns, flow = (x if i == 2 else x.astype(jnp.float32) for i, x in enumerate(configurations()))

    def chunk(part):
        return jnp.min(costmodel.systolic_cycles(*(part[:, i, None] for i in range(3)), rows, columns, flow), axis=1)

    return jax.lax.map(chunk, sizes.astype(jnp.float32).reshape(-1, CHUNK, 3)).ravel()


def mappings(count: int) -> costmodel.LoopMapping:
    """Random real factors, 16 x 16 cells, random orders."""
    rng = np.random.default_rng(1)
    spatial = np.ones((count, 4, 7))
    spatial[:, 1, 4] = spatial[:, 2, 5] = 16
    temporal, place = np.exp(rng.uniform(0, 2, (count, 4, 7))), np.argsort(rng.random((count, 4, 7)), axis=2)
    return costmodel.LoopMapping(
        jnp.asarray(temporal, jnp.float32), jnp.asarray(spatial, jnp.float32), jnp.asarray(place, jnp.int32)
    )


def log_product(accelerator, temporal, mapping):
    """Logarithm of energy times delay."""
    cost = accelerator.cost(mapping._replace(temporal=temporal))
    return jnp.log(cost.energy) + jnp.log(cost.latency)


def bench_pairs() -> None:
    sizes = products(PRODUCTS)
    pairs = PRODUCTS * configurations()[0].size
    for name, run in (("words", best_words), ("floats", best_floats)):
        report("systolic", counting=name, pairs=pairs, pairs_per_s=pairs / best(lambda: run(sizes), 5), target=TARGET_PAIRS)


def bench_mappings(count: int = 4096) -> None:
    batch = mappings(count)
    for windows in ("neighbour", "all"):
        accelerator = costmodel.LoopAccelerator(windows=windows)
        forward = jax.jit(jax.vmap(accelerator.cost))
        slopes = jax.jit(jax.vmap(jax.value_and_grad(lambda t, m, a=accelerator: log_product(a, t, m))))
        ahead, both = count / best(lambda: forward(batch)), count / best(lambda: slopes(batch.temporal, batch))
        report(
            "loop nests", windows=windows, forward_per_s=ahead, target=TARGET_MAPPINGS, over_dosa=ahead / DOSA_FORWARD,
            gradients_per_s=both, target_gradients=TARGET_GRADIENTS, gradients_over_dosa=both / DOSA_GRADIENT,
        )  # fmt: skip


def bench_stalls() -> None:
    """One layer's stalls, host-side; SCALE-Sim 3.0.0 takes about 0.3 s for the first."""
    for m, n, k in ((64, 64, 64), (256, 64, 128), (1024, 256, 512)):
        arguments = dict(rows=16, columns=16, dataflow="ws", buffers=(1024, 1024, 1024), bandwidth=10)
        seconds = best(lambda m=m, n=n, k=k, a=arguments: jnp.asarray(costmodel.simulate_stalls(m, n, k, **a).stall), 3)
        report("stalls", product=f"{m}x{n}x{k}", seconds=seconds)


def main() -> None:
    one_core()
    bench_pairs()
    bench_mappings()
    bench_stalls()


if __name__ == "__main__":
    main()
