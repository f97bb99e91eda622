"""Large batches in cache-sized chunks of one compiled program: bounded memory, and faster than one big `jax.vmap`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

CHUNK = 4096  # elements: a few hundred bytes each stay in the second-level cache of one core


def chunked(function: Callable[[Any], Any], batch: Any, chunk: int = CHUNK) -> Any:
    """`jax.vmap(function)(batch)`, evaluated `chunk` elements at a time; every leaf of `batch` has shape (n, ...), n >= 1.

    The result is written in place, and the last chunk starts early enough to be whole: the elements it has in common with
    the one before are computed twice, which costs less than a remainder of its own. Not itself differentiable: take
    gradients inside, as in `chunked(jax.value_and_grad(energy), hardware)`. jit the call for repeated use.
    Raises ValueError for an empty batch, leaves of different length or a chunk below 1.
    """
    lengths = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(batch)}
    if len(lengths) != 1:
        raise ValueError(f"every leaf of a batch needs the same leading axis, got lengths {sorted(lengths)}")
    n = lengths.pop()
    if n < 1 or chunk < 1:
        raise ValueError(f"a batch of {n} elements in chunks of {chunk}: both must be at least 1")
    run = jax.vmap(function)
    if n <= chunk:
        return run(batch)

    def write(index: jax.Array, results: Any) -> Any:
        start = jnp.minimum(index * chunk, n - chunk)
        part = run(jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, chunk), batch))
        return jax.tree.map(lambda whole, new: jax.lax.dynamic_update_slice_in_dim(whole, new, start, 0), results, part)

    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(run, batch))
    return jax.lax.fori_loop(0, -(-n // chunk), write, empty)
