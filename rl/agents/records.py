"""What training writes down: one row of metrics per `log_every` environment steps, made from running sums.

The table has a fixed number of rows and lives inside the training state, so that a training of a billion steps keeps
a hundred rows and not a billion, and a resumed one has the rows from before.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Metrics(NamedTuple):
    """What a row says about its `log_every` steps; every field has shape [rows]. Nothing is NaN: see the two counts.

    `env_steps` and `epsilon` are those at the end of the row. `episode_return` (unscaled) and `episode_length` are
    means over the `episodes` that finished in the row, 0 where none did. `loss` and `mean_q` (of the actions taken)
    are means over the `updates` made in the row, 0 where none was.
    """

    env_steps: Int[Array, "*rows"]
    episodes: Int[Array, "*rows"]
    episode_return: Float[Array, "*rows"]
    episode_length: Float[Array, "*rows"]
    updates: Int[Array, "*rows"]
    loss: Float[Array, "*rows"]
    mean_q: Float[Array, "*rows"]
    epsilon: Float[Array, "*rows"]


class Tally(NamedTuple):
    """Sums over one row of metrics."""

    episodes: Int[Array, ""]
    episode_return: Float[Array, ""]
    episode_length: Float[Array, ""]
    updates: Int[Array, ""]
    loss: Float[Array, ""]
    mean_q: Float[Array, ""]


def empty_metrics(rows: int) -> Metrics:
    """A table of zeros."""
    kinds = {"env_steps": jnp.int32, "episodes": jnp.int32, "updates": jnp.int32}
    return Metrics(**{name: jnp.zeros(rows, kinds.get(name, jnp.float32)) for name in Metrics._fields})


def empty_tally() -> Tally:
    """Nothing counted yet."""
    kinds = {"episodes": jnp.int32, "updates": jnp.int32}
    return Tally(**{name: jnp.zeros((), kinds.get(name, jnp.float32)) for name in Tally._fields})


def metrics_row(tally: Tally, env_steps: Int[Array, ""], epsilon: Float[Array, ""]) -> Metrics:
    """The row that a tally makes."""
    episodes = jnp.maximum(tally.episodes, 1).astype(jnp.float32)
    updates = jnp.maximum(tally.updates, 1).astype(jnp.float32)
    return Metrics(
        env_steps=env_steps,
        episodes=tally.episodes,
        episode_return=tally.episode_return / episodes,
        episode_length=tally.episode_length / episodes,
        updates=tally.updates,
        loss=tally.loss / updates,
        mean_q=tally.mean_q / updates,
        epsilon=epsilon,
    )
