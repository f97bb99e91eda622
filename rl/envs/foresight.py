"""What the model of the platform tells about the tasks to come, as entries of an observation (`SchedulingEnv(foresight=True)`).

    runs left     life / (reads rate(T) / budget): how often a network can run before its weights have to be written again
    life left     1 - lost fraction / budget, of every network on a chip; 0 of one that is not there
    linger left   1 - idle time / linger, of every processor that stays awake for a while

The margins that an observation always has, ln(budget / lost fraction), say little where it matters most: between "one more
run" and "none" they differ by the loss of one run, often less than 0.01. Retention loss with time is not in the runs left.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from costmodel import Offer, Platform, PlatformState

SMALLEST_RUN = 1e-6  # of a life: runs left are not counted beyond a million


def foreseen_names(platform: Platform, networks: tuple[str, ...]) -> list[str]:
    """What every entry of `foreseen` is."""
    entries = []
    for chip in platform.cell_names:
        entries += [f"ln(1 + runs left of {n} on {chip}) / 5" for n in networks]
        entries += [f"share of the hazard budget left of {n} on {chip}" for n in networks]
    return entries + [f"share of its linger left to {p}" for p in lingering(platform)]


def foreseen(platform: Platform, offers: Offer, now: PlatformState) -> Float[Array, " entries"]:
    """The entries in one state; `offers` of all networks (W, P). Kinks where a life or a linger is used up."""
    parts = []
    for name in platform.cell_names:
        index, cells, cell = platform.names.index(name), now.cells[name], platform.chip(name).cell
        budget = jnp.log(platform.hazard_budget)
        life = cells.resident * jnp.clip(1.0 - jnp.exp(cells.log_hazard - budget), 0.0, 1.0)
        run = jnp.exp(cell.log_loss(now.temperature[index], jnp.zeros(()), offers.reads[:, index]) - budget)
        parts += [jnp.log1p(life / jnp.maximum(run, SMALLEST_RUN)) / 5, life]
    for name in lingering(platform):
        left = 1.0 - now.idle[platform.names.index(name)] / platform.processors[name].linger
        parts.append(jnp.clip(left, 0.0, 1.0)[None])
    return jnp.concatenate(parts) if parts else jnp.zeros(0)


def lingering(platform: Platform) -> tuple[str, ...]:
    """The processors that stay awake for a while after their last work."""
    return tuple(name for name in platform.names if float(platform.processors[name].linger) > 0)
