"""A stream of tasks: which network is asked for, when, and by when it must be done.

    network   ~ the relative frequencies `weights`
    gap       ~ exponential with the mean gap of the episode (Poisson arrivals), or in bursts (`Burst`)
    mean gap  ~ log-uniform in [gap_lo, gap_hi], drawn once for an episode: from busy to idle
    deadline  ~ log-uniform in the network's own [deadline_lo, deadline_hi], counted from arrival

Pure functions of a key, made for an environment that runs on the device; log-uniform because urgency and load are
ratios. A range of zero width is a constant. One call of the random generator draws a task of a Poisson stream.

Bursts are a Markov-modulated Poisson process of two states, calm and burst, with arrival rates r_c and r_b = ratio r_c. A
burst ends at rate q_b = r_b / length, and begins at rate q_c so that the process spends the share s of its time in bursts. Rates
are set so that the mean gap stays that of the episode, 1 / r. The number N of arrivals within a time t is dispersed by

    var N / mean N = 1 + 2 (r_b - r_c)^2 s (1 - s) / (r q) (1 - (1 - exp(-q t)) / (q t)),      q = q_b + q_c

and by 1 if arrivals are Poisson. Source: Fischer and Meier-Hellstern, "The Markov-modulated Poisson process (MMPP) cookbook",
Performance Evaluation 18, 1993.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from workloads.catalog import list_networks, load
from workloads.ops import OpTable

DEADLINE = (0.02, 1.0)  # s; assumed: from ten audio frames to what a person still calls prompt
MEAN_GAP = (0.03, 3.0)  # s; assumed: two decades, from overload of a microcontroller to mostly idle
LARGEST = 1e6  # ratio of rates, and tasks in a burst
ARRIVALS = 2**31 - 2  # folded into a task's key: far beyond the counters that draw the task itself


class Draw(NamedTuple):
    """One task: the network's position in `TaskStream.networks`, deadline after arrival (s), time to the next arrival (s).

    `bursting`: 1 if the next arrival falls into a burst, 0 if not; None in streams without bursts.
    """

    network: Int[Array, ""]
    deadline: Float[Array, ""]
    gap: Float[Array, ""]
    bursting: Float[Array, ""] | None = None


class Burst(eqx.Module):
    """Bursts of arrivals: how much denser they are, their share of the time, and how many tasks one brings on average.

    The mean gap of the stream stays what it is. Raises ValueError outside ratio >= 1, 0 < share < 1, length > 0;
    concrete values only.
    """

    ratio: Float[Array, ""]  # arrival rate in a burst over that in calm times
    share: Float[Array, ""]  # of the time
    length: Float[Array, ""]  # mean number of tasks in one burst

    def __init__(self, ratio: Any = 10.0, share: Any = 0.1, length: Any = 20.0) -> None:
        self.ratio, self.share, self.length = _scalar("ratio", ratio), _scalar("share", share), _scalar("length", length)
        if not isinstance(self.ratio, Tracer) and not 1 <= self.ratio < LARGEST:
            raise ValueError(f"Burst.ratio = {self.ratio:g} is outside its range [1, {LARGEST:g})")
        for name, value, highest in (("share", self.share, 1.0), ("length", self.length, LARGEST)):
            if not isinstance(value, Tracer) and not 0 < value < highest:
                raise ValueError(f"Burst.{name} = {value:g} is outside its range (0, {highest:g})")

    def rates(self) -> tuple[Float[Array, " 2"], Float[Array, " 2"]]:
        """Arrivals, and ends, of (calm, burst) per mean gap."""
        calm = 1 / (1 + self.share * (self.ratio - 1))
        end = self.ratio * calm / self.length
        return jnp.stack([calm, self.ratio * calm]), jnp.stack([end * self.share / (1 - self.share), end])

    def dispersion(self, span: Float[Array, ""] | float = math.inf) -> Float[Array, ""]:
        """Index of dispersion of the number of arrivals within `span` mean gaps (in the long run by default)."""
        arrivals, ends = self.rates()
        change = jnp.sum(ends)
        most = 2 * (arrivals[1] - arrivals[0]) ** 2 * self.share * (1 - self.share) / change
        x = jnp.asarray(change * span)
        return 1 + most * jnp.where(jnp.isinf(x), 1.0, 1 + jnp.expm1(-x) / jnp.where(jnp.isinf(x), 1.0, x))


class TaskStream(eqx.Module):
    """Networks with their relative frequencies, deadline ranges (s, from arrival) and the range of mean gaps (s).

    `networks` are names (or paths) that `workloads.load` takes, or a mapping from any names to operation tables, to what `load`
    takes, or to tuples of its arguments: `{"mine": workloads.profile(fn, x), "kws": "ds-cnn", "other": (function, x, y)}`.
    `weights`, `deadline_lo` and `deadline_hi` have one entry for each network (a number stands for all of them). `burst`:
    arrivals in bursts; None: Poisson.
    Raises ValueError for an empty or repeated network name, a negative or zero-sum weight, or a range that is not
    positive, finite and ordered; concrete values only, traced ones are passed through.
    """

    networks: tuple[str, ...] = eqx.field(static=True)
    weights: Float[Array, " n"]
    deadline_lo: Float[Array, " n"]
    deadline_hi: Float[Array, " n"]
    gap_lo: Float[Array, ""]
    gap_hi: Float[Array, ""]
    burst: Burst | None
    given: dict[str, OpTable]  # the tables of a mapping

    def __init__(
        self,
        networks: Sequence[str] | Mapping[str, Any],
        *,
        weights: Any = 1.0,
        deadline_lo: Any = DEADLINE[0],
        deadline_hi: Any = DEADLINE[1],
        gap_lo: Any = MEAN_GAP[0],
        gap_hi: Any = MEAN_GAP[1],
        burst: Burst | None = None,
    ) -> None:
        self.networks = tuple(networks)
        if not self.networks or len(set(self.networks)) != len(self.networks):
            raise ValueError(f"networks = {self.networks} must be one or more different names")
        for name in self.networks:
            if not isinstance(name, str):
                raise ValueError(f"networks: {name!r} must be a name; give other workloads as a mapping from names to them")
        sources = networks if isinstance(networks, Mapping) else {}
        self.given = {name: _table(source) for name, source in sources.items()}
        self.weights = self._per_network("weights", weights)
        self.deadline_lo = self._per_network("deadline_lo", deadline_lo)
        self.deadline_hi = self._per_network("deadline_hi", deadline_hi)
        self.gap_lo = _scalar("gap_lo", gap_lo)
        self.gap_hi = _scalar("gap_hi", gap_hi)
        self.burst = burst
        _check_weights(self.weights)
        _check_range("deadline", self.deadline_lo, self.deadline_hi)
        _check_range("gap", self.gap_lo, self.gap_hi)

    def tables(self) -> tuple[OpTable, ...]:
        """The operation table of every network; ValueError for a name that `workloads.load` does not know."""
        return tuple(self.given[name] if name in self.given else load(name) for name in self.networks)

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


def draw(
    stream: TaskStream,
    key: PRNGKeyArray,
    mean_gap: Float[Array, ""] | float,
    bursting: Float[Array, ""] | float | None = None,
) -> Draw:
    """The next task of an episode whose mean gap is `mean_gap` (s). Scalars; use `jax.vmap` over keys for many.

    `bursting`: whether this task came in a burst (`Draw.bursting` of the one before, `draw_phase` for the first); not used, and
    None, in a stream without bursts. ValueError if a stream with bursts is not told.
    """
    of_network, of_deadline, of_gap = jax.random.uniform(key, (3,), stream.gap_lo.dtype)
    reached = jnp.cumsum(stream.weights)
    network = jnp.sum(of_network >= reached[:-1] / reached[-1], dtype=jnp.int32)
    deadline = _log_uniform(of_deadline, stream.deadline_lo[network], stream.deadline_hi[network])
    mean_gap = jnp.asarray(mean_gap, stream.gap_lo.dtype)
    if stream.burst is None:
        return Draw(network, deadline, mean_gap * -jnp.log1p(-of_gap))
    if bursting is None:
        raise ValueError("bursting is None: a stream with bursts needs to know whether this task came in one (draw_phase)")
    gaps, phase = _modulated_gap(stream.burst, jax.random.fold_in(key, ARRIVALS), jnp.asarray(bursting, mean_gap.dtype))
    return Draw(network, deadline, mean_gap * gaps, phase)


def draw_mean_gap(stream: TaskStream, key: PRNGKeyArray) -> Float[Array, ""]:
    """The mean gap (s) of a new episode."""
    return _log_uniform(jax.random.uniform(key, dtype=stream.gap_lo.dtype), stream.gap_lo, stream.gap_hi)


def draw_phase(stream: TaskStream, key: PRNGKeyArray) -> Float[Array, ""] | None:
    """Whether the first task of a new episode comes in a burst (1) or not (0); None in a stream without bursts."""
    if stream.burst is None:
        return None
    in_burst = stream.burst.share * stream.burst.rates()[0][1]  # share of the arrivals
    return jnp.where(jax.random.uniform(key, dtype=in_burst.dtype) < in_burst, 1.0, 0.0)


def _modulated_gap(burst: Burst, key: PRNGKeyArray, phase: Array) -> tuple[Array, Array]:
    """Time to the next arrival, in mean gaps, and the phase it falls into; exact: phases end until an arrival comes first."""
    arrivals, ends = burst.rates()

    def wait(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        key, phase, elapsed, _ = carry
        key, now = jax.random.split(key)
        of_time, of_kind = jax.random.uniform(now, (2,), elapsed.dtype)
        index = phase.astype(jnp.int32)
        total = arrivals[index] + ends[index]
        arrived = of_kind * total < arrivals[index]
        return key, jnp.where(arrived, phase, 1 - phase), elapsed - jnp.log1p(-of_time) / total, arrived

    start = (key, phase, jnp.zeros_like(phase), jnp.zeros((), bool))
    _, phase, elapsed, _ = jax.lax.while_loop(lambda carry: ~carry[3], wait, start)
    return elapsed, phase


def _log_uniform(uniform: Array, lo: Array, hi: Array) -> Array:
    return lo * jnp.exp(uniform * jnp.log(hi / lo))


def _table(source: Any) -> OpTable:
    if isinstance(source, OpTable):
        return source
    return load(*source) if isinstance(source, tuple) else load(source)


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
