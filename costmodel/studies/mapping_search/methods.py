"""What every search method is: a first batch of genomes and a rule for the next one, both compiled, both told by a key.

Evaluations are counted in runs of the cost model on one layer under one mapping: a genome of a network of L layers counts L, a
value with its gradient counts `GRADIENT` times that (its time in wide batches, measured; two restarts alone take 15 to 25).
"""

import functools
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from costmodel.studies.mapping_search.spaces import SearchSpace

GRADIENT = 10.0  # evaluations that a value and its gradient count for
CHUNK = 256  # genomes scored side by side: what they work on stays in the cache


class Batch(NamedTuple):
    """Genomes in the order in which they were tried."""

    genes: Int[Array, "n genes"]
    values: Float[Array, " n"]  # logarithm of the objective, infinite where nothing fits
    spent: Float[Array, " n"]  # evaluations for each, and for the gradients that led to it


@runtime_checkable
class Method(Protocol):
    """Settings of a search; hashable, so that what is compiled for them is kept."""

    def begin(self, space: SearchSpace, key: PRNGKeyArray) -> tuple[Any, Batch]:
        """The state after the first batch."""
        ...

    def advance(self, space: SearchSpace, state: Any, key: PRNGKeyArray) -> tuple[Any, Batch]:
        """The next batch."""
        ...

    def finished(self, evaluations: float) -> bool:
        """Whether the method ends by itself after so many evaluations."""
        ...


@functools.partial(jax.jit, static_argnums=0)
def begin(method: Method, space: SearchSpace, key: PRNGKeyArray) -> tuple[Any, Batch]:
    """`method.begin`, compiled."""
    return method.begin(space, key)


@functools.partial(jax.jit, static_argnums=0)
def advance(method: Method, space: SearchSpace, state: Any, key: PRNGKeyArray) -> tuple[Any, Batch]:
    """`method.advance`, compiled."""
    return method.advance(space, state, key)


def repeated(step: Any, state: Any, key: PRNGKeyArray, rounds: int) -> tuple[Any, Batch]:
    """`rounds` of step(state, key) -> (state, Batch) in one program, their batches as one."""
    state, batches = jax.lax.scan(step, state, jax.random.split(key, rounds))
    return state, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches)


def tried(space: SearchSpace, genes: Int[Array, "n genes"], values: Float[Array, " n"], extra: float = 0.0) -> Batch:
    """A batch of genomes that took `extra` further evaluations, all told with the first of them."""
    n = genes.shape[0]
    spent = jnp.full(n, float(space.layers)).at[0].add(extra)
    return Batch(genes, values, spent)
