"""Tilings of one layer scored on one core, double-buffered, and their gradients.

Targets: 1e6 tilings in at most 1 s; the gradient in the tile and in the hardware at most 4 times the forward pass. The ratio is
to the same formulas in NumPy, one array operation after the other. The recurrence, tile by tile, has no target.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from timing import best, one_core, report

import workloads
from costmodel.mapping.tiles.choices import score_tilings
from costmodel.mapping.tiles.constraints import memory_use, nest_arrays
from costmodel.mapping.tiles.levels import Dma, load_hierarchy
from costmodel.mapping.tiles.pipelines import double_buffered
from costmodel.mapping.tiles.rules import buffers
from costmodel.mapping.tiles.scores import score
from costmodel.relax import STRAIGHT_THROUGH

COUNT, CHUNK = 1_000_000, 8192


def in_numpy(nest, tiles, link, kernels):
    """Double-buffered cycles of separate channels: totals, first and last tile."""
    extents = np.asarray(nest.extents)
    follows, scale, offset, sizes = (np.asarray(x) for x in (nest.follows, nest.scale, nest.offset, nest.sizes))

    def parts(tile):
        return np.clip(np.ceil(scale * np.einsum("tad,nd->nta", follows, tile) + offset - 1e-3), 1, sizes)

    n = np.ceil(extents / tiles)
    edge = extents - (n - 1) * tiles
    full, last = parts(tiles), parts(edge)
    cut = full < sizes
    counted = np.cumsum(cut[:, :, ::-1], axis=2)[:, :, ::-1] - cut >= link.dimensions
    element, write = np.asarray(nest.element), np.asarray(nest.write)
    setup, bandwidth = float(link.setup), float(link.bandwidth)

    def cycles(part, commands):
        return (setup * np.where(counted, commands, 1).prod(-1) + element * part.prod(-1) / bandwidth) * (element > 0)

    along = np.einsum("tad,nd->nta", follows, n - 1)
    others = np.where(follows.sum(1) > 0, 1, n[:, None]).prod(-1)
    total = others * (setup * np.where(counted, along * full + last, along + 1).prod(-1) * (element > 0))
    total = total + others * element * (along * full + last).prod(-1) / bandwidth
    first_, last_ = cycles(full, full), cycles(last, last)
    count = n.prod(-1)
    control = float(kernels.call) + float(kernels.loop) * np.clip(count - 1, 0, 1)
    work = float(nest.products) / float(kernels.mac_rate) + float(nest.operations) / float(kernels.operation_rate)
    k_first, k_last = (control + work * (t / extents).prod(-1) for t in (tiles, edge))
    load, store = (total * (1 - write)).sum(-1), (total * write).sum(-1)
    i_first, o_last = (first_ * (1 - write)).sum(-1), (last_ * write).sum(-1)
    return np.maximum(np.maximum(load + k_last + o_last, i_first + count * control + work + o_last), i_first + k_first + store)


def main() -> None:
    one_core()
    program, hierarchy = workloads.load_program("resnet8"), load_hierarchy("gap9")
    nest = program.nests[1]
    own = nest_arrays(nest, program.tensors, buffers(nest, program.tensors, "double"))
    rng = np.random.default_rng(0)
    tiles = np.stack([rng.integers(1, e + 1, COUNT) for e in nest.extents], axis=-1)
    points, kernels = jnp.asarray(tiles, float), hierarchy.kernels
    for link in (Dma(), Dma(shared=True)):
        run = functools.partial(score_tilings, own, points, link, kernels, double=True)
        seconds = best(run)
        figures = {"seconds": seconds, "target_s": 1.0, "per_second": COUNT / seconds}
        if not link.shared:
            slow = best(lambda: in_numpy(own, tiles[:100_000].astype(np.float32), Dma(), kernels), repeat=3) * COUNT / 100_000
            np.testing.assert_allclose(in_numpy(own, tiles[:1000], link, kernels), run()[0][:1000], rtol=1e-4)
            figures["ratio"] = slow / seconds
        report(f"1e6 tilings of one layer, {'one channel' if link.shared else 'two channels'}", **figures)
        each = lambda tile, link: score(own, tile, link, kernels, double=True, policy=STRAIGHT_THROUGH) + memory_use(own, tile)  # noqa: E731
        forward = jax.jit(jax.vmap(each, in_axes=(0, None)))
        gradient = jax.jit(jax.vmap(jax.value_and_grad(each, argnums=(0, 1)), in_axes=(0, None)))
        times = [best(lambda f=f: f(points[:CHUNK], link)) for f in (forward, gradient)]
        report("gradient over forward, tilings", ratio=times[1] / times[0], target=4.0, forward_s=times[0], batch=CHUNK)
    stages = [jnp.asarray(rng.uniform(1, 9, (CHUNK, 64)), float) for _ in range(3)]
    for shared in (False, True):
        total = lambda *x, s=shared: double_buffered(*x, shared=s).total  # noqa: E731
        forward = jax.jit(jax.vmap(total))
        gradient = jax.jit(jax.vmap(jax.value_and_grad(total, argnums=(0, 1, 2))))
        times = [best(lambda f=f: f(*stages)) for f in (forward, gradient)]
        report(
            "gradient over forward, recurrence of 64 tiles",
            ratio=times[1] / times[0],
            target=4.0,
            shared=shared,
            forward_s=times[0],
        )


if __name__ == "__main__":
    main()
