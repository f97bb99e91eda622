"""Cross-layer schedules of ResNet50, one set per pixel, on one core: one at a time and batched over platforms.

Targets: at most 5 ms each one at a time, at least 200 per second batched. The ratio is to the same closed form in NumPy.
"""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
from timing import best, one_core, report

import costmodel
from costmodel import Layer, Window
from costmodel.mapping.dependencies import INPUT

BATCH = 64


def in_numpy(graph, copies):
    """The makespan: strips one after the other, each with one cumulative maximum in raster order."""
    maps, i = [], 0
    for step in graph.steps:
        if isinstance(step, Layer):
            ready = np.broadcast_to(0.0 if step.source == INPUT else maps[step.source], step.size)
            finish = np.empty(step.size)
            edges = np.round(np.arange(copies[i] + 1) * step.columns / copies[i]).astype(int)
            for low, high in itertools.pairwise(edges):
                order = np.arange(step.rows * (high - low))
                done = np.maximum.accumulate(ready[:, low:high].ravel() - order) + order + 1
                finish[:, low:high] = done.reshape(step.rows, -1)
            maps.append(finish)
            i += 1
        elif isinstance(step, Window):
            maps.append(windows(windows(maps[step.source], step.row, 0), step.column, 1))
        else:
            maps.append(np.broadcast_to(np.maximum.reduce([maps[source] for source in step.sources]), step.size))
    return max(float(m.max()) for m in maps)


def windows(x, axis, dim):
    """The maximum over the taps of one axis; only what ResNet50 needs: kernels, strides and padding."""
    if axis.kernel == x.shape[dim] and axis.size == 1:
        return x.max(dim, keepdims=True)
    padded = np.pad(x, [(axis.low, axis.high) if d == dim else (0, 0) for d in (0, 1)])
    reach = (axis.size - 1) * axis.stride + 1
    return np.maximum.reduce([padded.take(range(t, t + reach, axis.stride), dim) for t in range(axis.kernel)])


def main() -> None:
    one_core()
    graph = costmodel.layer_graph("resnet50")
    crossbars = graph.crossbars()
    copies = np.stack([costmodel.greedy_duplicates(graph.cycles, crossbars, extra) for extra in range(BATCH)])
    run = jax.jit(lambda d: costmodel.cross_layer(graph, d).makespan)
    start = time.perf_counter()
    run(jnp.asarray(copies[32])).block_until_ready()
    compilation = time.perf_counter() - start
    one = best(lambda: run(jnp.asarray(copies[32])))
    batched = jax.jit(jax.vmap(run))
    many = best(lambda: batched(jnp.asarray(copies))) / BATCH
    start = time.perf_counter()
    reference = [in_numpy(graph, d) for d in copies]
    numpy_s = (time.perf_counter() - start) / BATCH
    assert np.array_equal(batched(jnp.asarray(copies)), reference)
    eager = best(lambda: costmodel.cross_layer(graph, copies[32]).makespan)
    report(
        "cross-layer schedule, one", ms=1e3 * one, target_ms=5, ratio=numpy_s / one, eager_ms=1e3 * eager, compile_s=compilation
    )
    report("cross-layer schedule, batched", per_second=1 / many, target_per_second=200, ratio=numpy_s / many, batch=BATCH)


if __name__ == "__main__":
    main()
