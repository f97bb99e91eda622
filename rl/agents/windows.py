"""Returns of n steps: each lane remembers its last n transitions and hands on what follows from the oldest.

    R = sum_{i<m} gamma^i r_i,   then the value of the observation after step m, weighted by gamma^m (1 - terminated_m)

m is n, or the step at which the episode ends if that comes first. A natural end has no value after it; after a time limit
the observation that the episode really ended in is worth what it would have been, so it keeps its bootstrap. Nothing is
ever summed across an end: a lane's next episode begins with a return of its own.
A lane hands on one transition per step, n - 1 steps late; the first n - 1 hand on nothing that counts.
Source: Sutton and Barto, Reinforcement Learning (2018), section 7.1; Pardo et al., ICML 2018 (time limits).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from rl.agents.replay import Transition


class Window(NamedTuple):
    """The last n transitions of every lane, the oldest first, each leaf [n, lanes, ...], and which of them ended one."""

    steps: Transition
    ended: Bool[Array, "*seeds n lanes"]


def empty_window(n_step: int, lanes: int, example: Transition) -> Window:
    """A window of zeros."""
    steps = jax.tree.map(lambda leaf: jnp.zeros((n_step, lanes, *leaf.shape), leaf.dtype), example)
    return Window(steps, jnp.zeros((n_step, lanes), bool))


def slide(window: Window, steps: Transition, ended: Bool[Array, " lanes"]) -> Window:
    """The window one step further: the oldest transition leaves, `steps` enters."""
    push = lambda old, new: jnp.concatenate([old[1:], new[None]])  # noqa: E731
    return Window(jax.tree.map(push, window.steps, steps), push(window.ended, ended))


def n_step_transition(window: Window, gamma: float) -> Transition:
    """What follows from the oldest transition of each lane; see the module."""
    reward, n_step = window.steps.reward, window.ended.shape[0]
    alive = jnp.cumprod(jnp.concatenate([jnp.ones_like(window.ended[:1]), ~window.ended[:-1]]).astype(jnp.int32), axis=0)
    powers = jnp.asarray([gamma**i for i in range(n_step)], reward.dtype)[:, None]
    return Transition(
        features=window.steps.features[0],
        action=first(window.steps.action),
        reward=jnp.sum(jnp.where(alive == 1, powers * reward, 0.0), axis=0),
        next_features=at_end(window.steps.next_features, alive),
        discount=jnp.prod(jnp.where(alive == 1, window.steps.discount, 1.0), axis=0),
    )


def first(tree: PyTree) -> PyTree:
    """The oldest of each leaf."""
    return jax.tree.map(lambda leaf: leaf[0], tree)


def at_end(features: Float[Array, "n lanes features"], alive: Array) -> Float[Array, "lanes features"]:
    """The features after the last step that counts."""
    last = jnp.sum(alive, axis=0) - 1
    return jnp.take_along_axis(features, last[None, :, None], axis=0)[0]
