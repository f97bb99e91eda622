"""Experience replay: a ring of transitions on the device, drawn from uniformly or by priority.

A transition carries the observation it really ended in (not the first one of the next episode) and the factor by which
the value of that observation counts: gamma, gamma^n for n steps, 0 after a natural end, but not after a time limit.
Every lane adds one transition per step; the oldest are overwritten. All numbers of a transition lie side by side in one
row of a float32 table, so that adding is one write and drawing one gather (integers are exact up to 2^24).

Priorities (Schaul et al., ICLR 2016, proportional variant):

    P_i = p_i / sum p,  p_i = (|error_i| + floor)^alpha,  w_i = (N P_i)^-beta / max_j w_j

New transitions get the largest priority so far. The sums live in flashbax's binary tree, drawn from by stratified
sampling; one after another is the fastest way to write a batch on CPU (`set_batch_scan`), all at once on accelerators.
Sources: Lin, Machine Learning 8 (1992); Mnih et al., Nature 518 (2015); Schaul et al. as above.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flashbax.buffers import sum_tree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from rl.agents.config import TrainingConfig


class Transition(NamedTuple):
    """One step of one lane, or a batch of them: features before, action, scaled reward, features after and their factor."""

    features: Float[Array, "*batch features"]
    action: PyTree
    reward: Float[Array, "*batch"]
    next_features: Float[Array, "*batch features"]
    discount: Float[Array, "*batch"]


class Ring(NamedTuple):
    """The table of transitions, the row that is written next, how many are there, and the priorities if there are any."""

    table: Float[Array, "*seeds capacity width"]
    position: Int[Array, "*seeds"]
    size: Int[Array, "*seeds"]
    priorities: Any


class Draw(NamedTuple):
    """A batch, the rows it came from, and the weights that undo the preference."""

    batch: Transition
    rows: Int[Array, " batch"]
    weights: Float[Array, " batch"]


def empty_transition(num_features: int, action: PyTree) -> Transition:
    """One transition of zeros, the shape of all."""
    zeros, zero = jnp.zeros(num_features, jnp.float32), jnp.zeros((), jnp.float32)
    return Transition(zeros, action, zero, zeros, zero)


def empty_ring(config: TrainingConfig, example: Transition) -> Ring:
    """A ring of `config.buffer_size` transitions like `example` with none in it."""
    width = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(example))
    zero = jnp.zeros((), jnp.int32)
    priorities = None
    if config.prioritized:
        priorities = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), sum_tree.init(config.buffer_size))
    return Ring(jnp.zeros((config.buffer_size, width), jnp.float32), zero, zero, priorities)


def packed(transitions: Transition) -> Float[Array, "batch width"]:
    """A batch of transitions as rows."""
    leaves = jax.tree.leaves(transitions)
    return jnp.concatenate([leaf.reshape(leaf.shape[0], -1).astype(jnp.float32) for leaf in leaves], axis=1)


def unpacked(rows: Float[Array, "batch width"], example: Transition) -> Transition:
    """The transitions in `rows`, each leaf with the shape and type of `example`'s behind the batch."""
    leaves, structure = jax.tree.flatten(example)
    found, start = [], 0
    for leaf in leaves:
        stop = start + math.prod(leaf.shape)
        found.append(rows[:, start:stop].reshape(rows.shape[0], *leaf.shape).astype(leaf.dtype))
        start = stop
    return jax.tree.unflatten(structure, found)


def add(ring: Ring, transitions: Transition, counts: Bool[Array, ""] | bool = True) -> Ring:
    """One transition per lane; where `counts` is false the next ones take their place.

    The capacity must be a multiple of the lanes.
    """
    rows = packed(transitions)
    capacity, lanes = ring.table.shape[0], rows.shape[0]
    table = jax.lax.dynamic_update_slice(ring.table, rows, (ring.position, jnp.zeros((), jnp.int32)))
    priorities = ring.priorities
    if priorities is not None:
        fresh = jnp.where(counts, priorities.max_recorded_priority, 0.0)
        indices = ring.position + jnp.arange(lanes, dtype=jnp.int32)
        priorities = write(priorities, indices, jnp.broadcast_to(fresh, (lanes,)))
    step = jnp.where(counts, lanes, 0).astype(jnp.int32)
    return Ring(table, (ring.position + step) % capacity, jnp.minimum(ring.size + step, capacity), priorities)


def draw(ring: Ring, key: PRNGKeyArray, config: TrainingConfig, example: Transition, exponent: Float[Array, ""]) -> Draw:
    """`config.batch_size` transitions with replacement; `exponent` is beta, unused without priorities.

    The ring must not be empty.
    """
    if ring.priorities is None:
        bits = jax.random.bits(key, (config.batch_size,), jnp.uint32)
        rows = (bits % ring.size.astype(jnp.uint32)).astype(jnp.int32)  # uneven by one part in 2^32 / size
        weights = jnp.ones(config.batch_size, jnp.float32)
    else:
        rows = sum_tree.stratified_sample(ring.priorities, config.batch_size, key).astype(jnp.int32)
        rows = jnp.minimum(rows, ring.size - 1)  # rounding of the sums must not lead past the last transition
        weights = importance_weights(sum_tree.get_probability(ring.priorities, rows), ring.size, exponent)
    return Draw(unpacked(ring.table[rows], example), rows, weights)


def importance_weights(
    probability: Float[Array, " batch"], size: Int[Array, ""], exponent: Float[Array, ""]
) -> Float[Array, " batch"]:
    """w = (N P)^-beta, the largest of the batch scaled to 1."""
    log_weights = -exponent * jnp.log(jnp.maximum(size * probability, 1e-30))
    return jnp.exp(log_weights - jnp.max(log_weights)).astype(jnp.float32)


def mark(priorities: Any, rows: Int[Array, " batch"], td_error: Float[Array, " batch"], config: TrainingConfig) -> Any:
    """The priorities that follow from the errors; of a row that was drawn twice the later one stays. None stays None."""
    if priorities is None:
        return None
    return write(priorities, rows, (jnp.abs(td_error) + config.priority_floor) ** config.priority_exponent)


def write(tree: Any, rows: Int[Array, " batch"], priority: Float[Array, " batch"]) -> Any:
    """The tree with new leaves, written in the way that suits the device."""
    on_cpu = jax.default_backend() == "cpu"
    return (sum_tree.set_batch_scan if on_cpu else sum_tree.set_batch_bincount)(tree, rows, priority.astype(tree.nodes.dtype))
