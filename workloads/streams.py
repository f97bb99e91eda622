"""A stream of tasks: which network is asked for, when, and by when it must be done.

    network   ~ the relative frequencies `weights`
    gap       ~ exponential with the mean gap of the episode (Poisson arrivals)
    mean gap  ~ log-uniform in [gap_lo, gap_hi], drawn once for an episode: from busy to idle
    deadline  ~ log-uniform in the network's own [deadline_lo, deadline_hi], counted from arrival

Pure functions of a key, made for an environment that runs on the device; log-uniform because urgency and load are
ratios. A range of zero width is a constant.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from workloads.catalog import list_networks

DEADLINE = (0.02, 1.0)  # s; assumed: from ten audio frames to what a person still calls prompt
MEAN_GAP = (0.03, 3.0)  # s; assumed: two decades, from overload of a microcontroller to mostly idle


class Draw(NamedTuple):
    """One task: the network's position in `TaskStream.networks`, deadline after arrival (s), time since the last arrival (s)."""

    network: Int[Array, ""]
    deadline: Float[Array, ""]
    gap: Float[Array, ""]


class TaskStream(eqx.Module):
    """Networks with their relative frequencies, deadline ranges (s, from arrival) and the range of mean gaps (s).

    `weights`, `deadline_lo` and `deadline_hi` have one entry for each network (a number stands for all of them).
    Raises ValueError for an empty or repeated network name, a negative or zero-sum weight, or a range that is not
    positive, finite and ordered; concrete values only, traced ones are passed through.
    """

    networks: tuple[str, ...] = eqx.field(static=True)
    weights: Float[Array, " n"]
    deadline_lo: Float[Array, " n"]
    deadline_hi: Float[Array, " n"]
    gap_lo: Float[Array, ""]
    gap_hi: Float[Array, ""]

    def __init__(
        self,
        networks: Sequence[str],
        *,
        weights: Any = 1.0,
        deadline_lo: Any = DEADLINE[0],
        deadline_hi: Any = DEADLINE[1],
        gap_lo: Any = MEAN_GAP[0],
        gap_hi: Any = MEAN_GAP[1],
    ) -> None:
        self.networks = tuple(networks)
        if not self.networks or len(set(self.networks)) != len(self.networks):
            raise ValueError(f"networks = {self.networks} must be one or more different names")
        self.weights = self._per_network("weights", weights)
        self.deadline_lo = self._per_network("deadline_lo", deadline_lo)
        self.deadline_hi = self._per_network("deadline_hi", deadline_hi)
        self.gap_lo = _scalar("gap_lo", gap_lo)
        self.gap_hi = _scalar("gap_hi", gap_hi)
        _check_weights(self.weights)
        _check_range("deadline", self.deadline_lo, self.deadline_hi)
        _check_range("gap", self.gap_lo, self.gap_hi)

    def _per_network(self, name: str, value: Any) -> Array:
        array = jnp.asarray(value, dtype=float)
        if array.shape not in ((), (len(self.networks),)):
            raise ValueError(
                f"{name} has shape {array.shape}; expected a number or one for each of {len(self.networks)} networks"
            )
        return jnp.broadcast_to(array, (len(self.networks),))


def default_stream() -> TaskStream:
    """The networks of `list_networks()`, equally frequent, deadlines 0.02..1 s, mean gaps 0.03..3 s (both assumed)."""
    return TaskStream(list_networks())


def draw(stream: TaskStream, key: PRNGKeyArray, mean_gap: Float[Array, ""] | float) -> Draw:
    """The next task of an episode whose mean gap is `mean_gap` (s). Scalars; use `jax.vmap` over keys for many."""
    for_network, for_deadline, for_gap = jax.random.split(key, 3)
    network = jax.random.categorical(for_network, jnp.log(stream.weights))
    deadline = _log_uniform(for_deadline, stream.deadline_lo[network], stream.deadline_hi[network])
    gap = jnp.asarray(mean_gap, stream.gap_lo.dtype) * jax.random.exponential(for_gap, dtype=stream.gap_lo.dtype)
    return Draw(network, deadline, gap)


def draw_mean_gap(stream: TaskStream, key: PRNGKeyArray) -> Float[Array, ""]:
    """The mean gap (s) of a new episode."""
    return _log_uniform(key, stream.gap_lo, stream.gap_hi)


def _log_uniform(key: PRNGKeyArray, lo: Array, hi: Array) -> Array:
    return lo * (hi / lo) ** jax.random.uniform(key, dtype=lo.dtype)


def _scalar(name: str, value: Any) -> Array:
    array = jnp.asarray(value, dtype=float)
    if array.shape != ():
        raise ValueError(f"{name} has shape {array.shape}; expected a number")
    return array


def _check_weights(weights: Array) -> None:
    if isinstance(weights, Tracer):
        return
    values = np.asarray(weights)
    if not (np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0):
        raise ValueError(f"weights = {values.tolist()} must be finite, not negative and not all zero")


def _check_range(name: str, lo: Array, hi: Array) -> None:
    if isinstance(lo, Tracer) or isinstance(hi, Tracer):
        return
    for low, high in zip(np.atleast_1d(lo), np.atleast_1d(hi), strict=True):
        if not 0 < low <= high < math.inf:
            raise ValueError(f"{name} range = [{low:g}, {high:g}] s must be positive, finite and ordered")
