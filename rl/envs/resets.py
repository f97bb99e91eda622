"""Auto-reset that costs nothing while no episode ends.

Gymnax's step draws the next episode in every step and keeps it where an episode has ended. For the scheduling problem that draw
costs as much as the step itself, and one step in hundreds needs it. A condition does not help by itself: `jax.vmap` turns
`lax.cond` with a batched predicate into a selection, and both branches run. `restart_where` therefore brings its own batching
rule: a batch of any number of axes asks once whether ANY of its episodes has ended, in a `lax.cond` that stays one.
Lanes that were reset together end together (unless one wears out), so the draw is computed once per episode.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool

Tree = TypeVar("Tree")


def restart_where(done: Bool[Array, ""], current: Tree, fresh: Callable[..., Tree], *arguments: Any) -> Tree:
    """`fresh(*arguments)` where `done`, else `current`: pytrees of the same structure; `arguments` are pytrees of arrays.

    For one environment; batch it with `jax.vmap`. `fresh` closes over nothing that is batched.
    """
    return _restart(fresh)(done, current, *arguments)


def _restart(fresh: Callable[..., Any]) -> Any:
    """`restart_where` for one `fresh`, which is vmapped once for every batch axis that is added."""

    @custom_vmap
    def restart(done: Array, current: Any, *arguments: Any) -> Any:
        def ended() -> Any:
            return jax.tree.map(lambda new, old: _select(done, new, old), fresh(*arguments), current)

        return jax.lax.cond(jnp.any(done), ended, lambda: current)

    @restart.def_vmap
    def _(size: int, batched: list[Any], *given: Any) -> tuple[Any, Any]:
        full = jax.tree.map(lambda has, x: x if has else jnp.broadcast_to(x, (size, *jnp.shape(x))), tuple(batched), given)
        return _restart(jax.vmap(fresh))(*full), jax.tree.map(lambda _: True, full[1])

    return restart


def _select(done: Array, new: Array, old: Array) -> Array:
    return jnp.where(jnp.reshape(done, jnp.shape(done) + (1,) * (jnp.ndim(old) - jnp.ndim(done))), new, old)
