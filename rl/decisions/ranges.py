"""What an agent knows: its values, and the range of observations it was trained on.

A network answers any question, also one it has never met. The range of every entry over the observations that training
visits is the simplest honest statement of what it has met; outside of it the controller does not ask the agent.
The range is a box: it says nothing about unusual combinations of usual entries.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

Values = Callable[[Float[Array, " entries"]], Float[Array, " actions"]]  # observation -> a value for each action


class ObservationRange(NamedTuple):
    """Least, greatest and mean value of every entry of the observations met in training."""

    lo: Float[Array, " entries"]
    hi: Float[Array, " entries"]
    mean: Float[Array, " entries"]

    def excess(self, observation: Float[Array, " entries"]) -> Float[Array, " entries"]:
        """How far every entry lies outside, in widths of its range: 0 inside, infinite where it is not a number."""
        width = jnp.maximum(self.hi - self.lo, 1e-6)
        beyond = jnp.maximum(jnp.maximum(self.lo - observation, observation - self.hi), 0.0) / width
        return jnp.where(jnp.isfinite(beyond), beyond, jnp.inf)

    def check(self, entries: int) -> None:
        """ValueError unless it has `entries` entries, all finite and ordered."""
        for name, bound in zip(self._fields, self, strict=True):
            if np.shape(bound) != (entries,) or not np.isfinite(bound).all():
                raise ValueError(f"trained.{name} of shape {np.shape(bound)} must hold {entries} finite numbers")
        if np.any(np.asarray(self.lo) > np.asarray(self.hi)):
            entry = int(np.argmax(np.asarray(self.lo) > np.asarray(self.hi)))
            raise ValueError(f"trained.lo = {self.lo[entry]:g} of entry {entry} exceeds trained.hi = {self.hi[entry]:g}")


class Asked(NamedTuple):
    """A trained agent as two functions of ONE observation: its greedy action, and its values in units of the reward."""

    policy: Callable[[Float[Array, " entries"]], Int[Array, ""]]
    values: Values


def ask(agent: Any) -> Asked:
    """Policy and values of a trained agent (`TrainResult`), or of any function observation -> values, taken greedily.

    An actor's policy need not be the action of its critics' best value. ValueError if `agent` is neither.
    """
    if hasattr(agent, "policy") and hasattr(agent, "values"):
        scale = agent.config.reward_scale
        return Asked(agent.policy(), lambda observation: agent.values(observation) / scale)
    if not callable(agent):
        raise ValueError(f"agent must be a trained agent or a function of an observation, got {type(agent).__name__}")
    values = cast(Values, agent)
    return Asked(lambda observation: jnp.argmax(values(observation)).astype(jnp.int32), values)


def check_agent(agent: Any, entries: int, actions: int) -> None:
    """ValueError unless `agent` maps `entries` numbers to `actions` values."""
    try:
        found = jax.eval_shape(ask(agent).values, jax.ShapeDtypeStruct((entries,), jnp.result_type(float)))
    except (TypeError, ValueError, FlaxError) as error:
        raise ValueError(f"agent does not take an observation of {entries} entries: {str(error).splitlines()[0]}") from None
    if getattr(found, "shape", None) != (actions,):
        raise ValueError(
            f"agent gives values of shape {getattr(found, 'shape', None)}, expected ({actions},): one seed, one value per action"
        )


def training_range(
    env: Any, agent: Any, key: PRNGKeyArray, *, lanes: int = 256, steps: int = 256, params: Any = None
) -> ObservationRange:
    """The observations an agent meets in `env`: `lanes` episodes side by side, `steps` requests each.

    In every other lane actions are drawn at random, as in the beginning of training; in the rest the policy acts.
    """
    params = env.default_params if params is None else params
    policy = ask(agent).policy

    def act(key: Array, observation: Array, random: Bool[Array, ""]) -> Int[Array, ""]:
        return jnp.where(random, jax.random.randint(key, (), 0, env.num_actions), policy(observation))

    def body(carry: Any, key: Array) -> tuple[Any, None]:
        observations, states, met = carry
        key_act, key_step = jax.random.split(key)
        actions = jax.vmap(act)(jax.random.split(key_act, lanes), observations, jnp.arange(lanes) % 2 == 0)
        observations, states, *_ = jax.vmap(env.step, (0, 0, 0, None))(jax.random.split(key_step, lanes), states, actions, params)
        return (observations, states, widened(met, observations)), None

    @jax.jit
    def run(key: Array) -> ObservationRange:
        key_reset, key_run = jax.random.split(key)
        first, states = jax.vmap(env.reset, (0, None))(jax.random.split(key_reset, lanes), params)
        start = ObservationRange(first.min(axis=0), first.max(axis=0), first.mean(axis=0))
        (_, _, met), _ = jax.lax.scan(body, (first, states, start), jax.random.split(key_run, steps))
        return met._replace(mean=met.mean / (steps + 1))

    def widened(met: ObservationRange, seen: Float[Array, "lanes entries"]) -> ObservationRange:
        lo, hi = jnp.minimum(met.lo, seen.min(axis=0)), jnp.maximum(met.hi, seen.max(axis=0))
        return ObservationRange(lo, hi, met.mean + seen.mean(axis=0))

    return run(key)
