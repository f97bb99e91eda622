"""Between the actions of an environment and the pairs (choice, amount) that soft actor-critic reasons about.

The form of an action space is read from its attributes, so that spaces of any library serve: `n` makes it discrete,
`choices` (with `low`, `high`) hybrid, `low`, `high` and `shape` continuous. Amounts lie in (-1, 1) and are mapped
linearly onto [low, high]; batches are the last axis of an amount and the first of an action.
"""

import math
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from rl.envs.spaces import HybridAction


class ActionForm(NamedTuple):
    """A kind of action: how many choices, how many dimensions the amount of each has, and the bounds of every one."""

    kind: Literal["discrete", "hybrid", "continuous"]
    choices: int
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    shape: tuple[int, ...] = ()

    @property
    def dims(self) -> int:
        """Dimensions of the amount."""
        return len(self.low)


def action_form(space: Any) -> ActionForm:
    """The form of an action space; ValueError for one that has none, or whose bounds are not finite and ordered."""
    if hasattr(space, "n"):
        return ActionForm("discrete", int(space.n))
    for name in ("low", "high"):
        if not hasattr(space, name):
            raise ValueError(f"action space {space!r} must have `n`, or `low` and `high` with `choices` or `shape`")
    hybrid = hasattr(space, "choices")
    shape = () if hybrid else tuple(space.shape)
    low, high = (np.broadcast_to(np.asarray(bound, float), shape).ravel() for bound in (space.low, space.high))
    if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        raise ValueError(f"action space: [low, high] = [{space.low}, {space.high}] must be finite, and low less than high")
    kind, choices = ("hybrid", int(space.choices)) if hybrid else ("continuous", 1)
    return ActionForm(kind, choices, tuple(low.tolist()), tuple(high.tolist()), shape)


def to_action(form: ActionForm, choice: Int[Array, " batch"], amount: Float[Array, "dims batch"]) -> PyTree:
    """The environment's actions, with a leading axis, of choices and of amounts in [-1, 1]; int32 and float32."""
    if form.kind == "discrete":
        return choice
    low, high = (jnp.asarray(bound, jnp.float32)[:, None] for bound in (form.low, form.high))
    scaled = jnp.clip(low + 0.5 * (amount + 1.0) * (high - low), low, high)
    real = scaled.T.reshape(-1, *form.shape)
    return HybridAction(choice, real) if form.kind == "hybrid" else real


def from_action(form: ActionForm, action: PyTree) -> tuple[Int[Array, " batch"], Float[Array, "dims batch"]]:
    """The choices and the amounts in [-1, 1] of an environment's actions with a leading axis."""
    if form.kind == "discrete":
        return action, jnp.zeros((0, action.shape[0]), jnp.float32)
    real = action.amount if form.kind == "hybrid" else action
    columns = real.reshape(real.shape[0], math.prod(form.shape)).T.astype(jnp.float32)
    low, high = (jnp.asarray(bound, jnp.float32)[:, None] for bound in (form.low, form.high))
    choice = action.choice if form.kind == "hybrid" else jnp.zeros(real.shape[0], jnp.int32)
    return choice, 2.0 * (columns - low) / (high - low) - 1.0
