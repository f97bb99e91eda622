"""What the training program asks of an algorithm: five pure functions over a learner it never looks into.

The program steps environments, keeps the replay, normalises observations and counts; an algorithm acts and improves.
Features are float32 vectors, already normalised where the config says so. Actions are pytrees whose leaves have a leading
axis of lanes (or of the batch): an integer for a finite set of choices, a vector of floats for a box, a named tuple of
both for a hybrid space. A learner is any pytree with the fields `params` (what acting needs) and `target_params`.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from rl.agents.replay import Transition


class UpdateReport(NamedTuple):
    """One update, seen before it: its loss, the mean value of the actions in its batch, the error of each transition."""

    loss: Float[Array, ""]
    mean_q: Float[Array, ""]
    td_error: Float[Array, " batch"]


class Algorithm(NamedTuple):
    """An off-policy algorithm in functions.

    init(key, features, action) -> learner, from ONE feature vector and ONE action of zeros.
    act(learner, features[lanes, F], key, env_steps) -> actions[lanes], exploring.
    update(learner, batch, weights[batch], key) -> (learner, UpdateReport); `weights` multiply each transition's loss.
    exploration(env_steps) -> the chance of a random action, for the metrics; 0 where there is none.
    policy(params, features[F]) -> the greedy action for ONE feature vector, without noise.
    values(params, features[F]) -> the values of the actions for ONE feature vector, without noise.
    """

    init: Callable[[PRNGKeyArray, Any, PyTree], Any]
    act: Callable[[Any, Any, PRNGKeyArray, Any], PyTree]
    update: Callable[[Any, Transition, Any, PRNGKeyArray], tuple[Any, UpdateReport]]
    exploration: Callable[[Any], Any]
    policy: Callable[[PyTree, Any], PyTree]
    values: Callable[[PyTree, Any], PyTree]


@dataclasses.dataclass(frozen=True)
class ActionSpace:
    """An environment's action space, compared by what it says instead of by identity, so that it may key a cache."""

    facts: str
    space: Any = dataclasses.field(compare=False)


def action_space(env: Any, params: PyTree) -> ActionSpace:
    """The actions of `env`: its `action_space(params)`, or its `num_actions` choices where it has no such method."""
    if hasattr(env, "action_space"):
        space = env.action_space(params)
    else:
        from rl.envs.spaces import Discrete

        space = Discrete(int(env.num_actions))
    return ActionSpace(json.dumps(plain(space), sort_keys=True), space)


def example_action(space: ActionSpace) -> PyTree:
    """One action of zeros: int32 for choices, float32 for amounts, whatever JAX's default."""
    shapes = jax.eval_shape(space.space.sample, jax.random.key(0))
    kind = lambda leaf: jnp.int32 if jnp.issubdtype(leaf.dtype, jnp.integer) else jnp.float32  # noqa: E731
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, kind(leaf)), shapes)


def plain(value: Any) -> Any:
    """A space, or what is in it, as JSON values."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return np.asarray(value).tolist()
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if isinstance(value, type | np.dtype):
        return np.dtype(value).name
    return {"kind": type(value).__name__, **plain(vars(value))}
