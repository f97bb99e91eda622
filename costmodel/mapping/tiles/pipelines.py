"""Single and double buffering of a row of tiles: the times at which transfers and kernels start and end.

Tile i is brought in (in_i cycles), computed (k_i) and taken out (out_i). One core issues everything in program order:

    single buffered    start in[i], wait, kernel[i], start out[i], wait                     T = sum in + k + out
    double buffered    wait in[i]; start in[i+1]; kernel[i]; wait out[i-1]; start out[i]    and at last: wait out[n-1]

With s_i the start of kernel i and o_i the end of out[i], each direction on its own DMA channel,

    t_i = max(s_i + k_i, o_{i-1}),   o_i = t_i + out_i,   s_{i+1} = max(t_i, s_i + in_{i+1});

on one shared channel (first in, first out) in[i+1] also waits for o_{i-1}, and out[i] for the end of in[i+1]. Both are
recurrences of two numbers, run as a scan. For n equal tiles they have closed forms, exact for any in, k and out:

    separate   in + k + out + (n - 1) max(in, k, out)
    shared     in + max(k, in) + (n - 2) max(k, in + out) + max(k, out) + out      (n > 1)

and one tile gains exactly 0. The gain is thus at most 3x (separate) or 2x (shared).

Kinks: where two sides that the core waits for end together, the maximum shares the slope equally between them; off the kinks
the slope is the true one, through whichever side is waited for. Nothing divides, so gradients are finite everywhere.
Source: Deeploy's tile loop (pulp-platform/Deeploy, TilingExtension); the closed forms are longest paths through the recurrence.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from costmodel.relax import HARD, Relaxation, maximum


class Stages(NamedTuple):
    """When each tile is in each stage: starts and ends (tiles,) in cycles, and the total. Padding tiles repeat the last time."""

    load_start: Float[Array, " tiles"]
    load_end: Float[Array, " tiles"]
    kernel_start: Float[Array, " tiles"]
    kernel_end: Float[Array, " tiles"]
    store_start: Float[Array, " tiles"]
    store_end: Float[Array, " tiles"]
    total: Float[Array, ""]


class Split(NamedTuple):
    """Where the time of a pipeline goes (cycles); `prologue + overlap + epilogue` is the total.

    prologue: until the first kernel starts; epilogue: after the last kernel ends; overlap: between them. Of it, `kernel` is
    computing (all of it), `wait_load` and `wait_store` are the core waiting for a tile to arrive or for a buffer to be emptied.
    """

    prologue: Float[Array, ""]
    overlap: Float[Array, ""]
    epilogue: Float[Array, ""]
    kernel: Float[Array, ""]
    wait_load: Float[Array, ""]
    wait_store: Float[Array, ""]


def single_buffered(
    load: Num[Array | np.ndarray, " tiles"],
    kernel: Num[Array | np.ndarray, " tiles"],
    store: Num[Array | np.ndarray, " tiles"],
    mask: Bool[Array | np.ndarray, " tiles"] | None = None,
) -> Stages:
    """Stages of tiles (cycles each) that are brought in, computed and taken out one after the other.

    Tiles with `mask` False (which must come last) are padding and take no time. Smooth everywhere.
    """
    load, kernel, store = _masked(mask, load, kernel, store)
    store_end = jnp.cumsum(load + kernel + store)
    load_start = jnp.concatenate([jnp.zeros(1, store_end.dtype), store_end[:-1]])
    load_end = load_start + load
    kernel_end = load_end + kernel
    return Stages(load_start, load_end, load_end, kernel_end, kernel_end, kernel_end + store, store_end[-1])


def double_buffered(
    load: Num[Array | np.ndarray, " tiles"],
    kernel: Num[Array | np.ndarray, " tiles"],
    store: Num[Array | np.ndarray, " tiles"],
    mask: Bool[Array | np.ndarray, " tiles"] | None = None,
    *,
    shared: bool = False,
) -> Stages:
    """Stages of tiles (cycles each) with two buffers of every tensor; `shared`: one DMA channel serves both directions.

    Tiles with `mask` False (which must come last) are padding. Kinks as in the module.
    """
    load, kernel, store = _masked(mask, load, kernel, store)
    following = jnp.concatenate([load[1:], jnp.zeros(1, load.dtype)])
    more = jnp.concatenate([jnp.ones_like(load, bool)[1:] if mask is None else mask[1:], jnp.zeros(1, bool)])
    real = jnp.ones_like(load, bool) if mask is None else jnp.asarray(mask)

    def tile(carry: tuple[Array, Array], x: tuple[Array, ...]) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
        start, emptied = carry
        work, after, out, another, here = x
        fetch = jnp.maximum(start, emptied) if shared else start
        fetched = fetch + after
        free = jnp.maximum(start + work, emptied)  # the core has computed, and the buffer of out[i - 1] is empty
        begin = jnp.where(another, jnp.maximum(free, fetched), free) if shared else free
        emptied = jnp.where(here, begin + out, emptied)
        ready = jnp.where(another, jnp.maximum(free, fetched), start + work)
        return (ready, emptied), (fetch, fetched, start, start + work, begin, emptied)

    first = (load[0], jnp.zeros((), load.dtype))
    (_, end), (fetch, fetched, start, done, begin, emptied) = jax.lax.scan(tile, first, (kernel, following, store, more, real))
    zero = jnp.zeros(1, load.dtype)
    return Stages(
        jnp.concatenate([zero, fetch[:-1]]), jnp.concatenate([load[:1], fetched[:-1]]), start, done, begin, emptied, end
    )  # fmt: skip


def split(stages: Stages, mask: Bool[Array | np.ndarray, " tiles"] | None = None) -> Split:
    """Prologue, overlap and epilogue of a pipeline, and what the core waits for meanwhile; `mask` as for the pipeline.

    Waiting between two kernels counts as for the store up to its end and as for the load after that: the core asks for the
    buffer first. In a single-buffered pipeline the core waits for every store and every load.
    """
    real = jnp.ones_like(stages.kernel_end, bool) if mask is None else mask
    prologue, last = stages.kernel_start[0], jnp.max(jnp.where(real, stages.kernel_end, 0.0))
    kernel = jnp.sum(stages.kernel_end - stages.kernel_start)
    gap = jnp.where(real[1:], stages.kernel_start[1:] - stages.kernel_end[:-1], 0.0)
    emptied = jnp.concatenate([jnp.zeros(1, gap.dtype), stages.store_end[:-2]])[: gap.shape[0]]
    single = stages.load_start[1:] >= stages.store_end[:-1]  # nothing overlaps: the store of this very tile is waited for
    emptied = jnp.where(single, stages.store_end[:-1], emptied)
    for_store = jnp.clip(emptied - stages.kernel_end[:-1], 0.0, jnp.maximum(gap, 0.0))
    wait_store = jnp.sum(for_store)
    return Split(prologue, last - prologue, stages.total - last, kernel, jnp.sum(gap) - wait_store, wait_store)


def equal_tiles(
    load: Num[Array | np.ndarray, "..."] | float,
    kernel: Num[Array | np.ndarray, "..."] | float,
    store: Num[Array | np.ndarray, "..."] | float,
    n: Num[Array | np.ndarray, "..."] | float,
    *,
    double: bool,
    shared: bool = False,
    policy: Relaxation = HARD,
) -> Float[Array, "..."]:
    """Cycles of `n` equal tiles in closed form (any shapes that broadcast); the maxima follow `policy`.

    `n` >= 1 may be a fraction (the relaxed model). Kinks: ties among the maxima, and n = 2 of a shared channel.
    """
    load, kernel, store, n = (jnp.asarray(value, float) for value in (load, kernel, store, n))
    one = load + kernel + store
    if not double:
        return n * one
    if not shared:
        return one + (n - 1) * maximum(load, kernel, store, policy=policy)
    ends = maximum(kernel, load, policy=policy) + maximum(kernel, store, policy=policy)
    inner = maximum(kernel, load + store, policy=policy)
    first = jnp.clip(n - 1, 0.0, 1.0)  # a second tile overlaps with the first one only at the ends
    return one + first * (ends - kernel) + jnp.maximum(n - 2, 0.0) * inner


def _masked(mask: Any, *values: Any) -> list[Array]:
    floats = [jnp.asarray(value, float) for value in values]
    return floats if mask is None else [jnp.where(mask, value, 0.0) for value in floats]
