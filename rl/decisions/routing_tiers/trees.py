"""Tier 2: a decision tree of scikit-learn as arrays, evaluated in JAX without scikit-learn.

scikit-learn compares float32 entries x with float64 thresholds t, going left where x <= t. With t rounded down to float32 the
same comparison has the same result for every float32 x, so that decisions are equal, also for entries exactly on a threshold.
A leaf leads to itself, so that every state takes `depth` steps.

`soft_votes` weighs the leaves instead: at each node the share sigmoid(sharpness (t - x) / scale) goes left. It is
differentiable everywhere and tends to the hard tree as the sharpness grows (off the thresholds).
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

LEAF = -1  # of scikit-learn, as a child


class Tree(eqx.Module):
    """Nodes in an order in which parents come before their children; `depth` is that of the deepest leaf."""

    feature: Int[Array, " nodes"]
    threshold: Float[Array, " nodes"]  # float32; infinite at leaves
    left: Int[Array, " nodes"]
    right: Int[Array, " nodes"]
    choice: Int[Array, " nodes"]  # the class with most votes
    votes: Float[Array, "nodes classes"]  # share of the training weight that each class had there
    scale: Float[Array, " features"]  # typical spread of every entry
    depth: int = eqx.field(static=True)

    def leaf(self, x: Float[Array, " features"]) -> Int[Array, ""]:
        """Where the entries `x` (float32) lead."""

        def descend(_: Array, node: Array) -> Array:
            return jnp.where(x[self.feature[node]] <= self.threshold[node], self.left[node], self.right[node])

        return jax.lax.fori_loop(0, self.depth, descend, jnp.zeros((), jnp.int32))

    def decide(self, x: Float[Array, " features"]) -> Int[Array, ""]:
        """The class of the entries `x`: bit for bit what scikit-learn's `predict` gives."""
        return self.choice[self.leaf(x)]

    def leaf_of_columns(self, x: Sequence[Float[Array, "..."]]) -> Float[Array, "..."]:
        """The same leaf for entries that are apart, as a float: one comparison and one choice for every node, all of them.

        Nothing is looked up, so that a batch of columns is one fused loop, for hundreds of nodes faster than `leaf`. The tree's
        structure must be concrete, its thresholds may be traced.
        """
        feature, left, right = (np.asarray(a).tolist() for a in (self.feature, self.left, self.right))

        def below(node: int) -> Any:
            if left[node] == node:
                return jnp.float32(node)
            return jnp.where(x[feature[node]] <= self.threshold[node], below(left[node]), below(right[node]))

        return below(0)

    def soft_votes(self, x: Float[Array, " features"], sharpness: Float[Array, ""] | float = 10.0) -> Float[Array, " classes"]:
        """Votes of all leaves, weighted by how much of `x` reaches them; they add up to 1."""
        inner = self.left != jnp.arange(self.left.shape[0])
        entry = x[self.feature]
        level = jnp.where(inner, self.threshold, entry)  # a leaf's infinite threshold must not meet a gradient
        goes_left = jax.nn.sigmoid(sharpness * (level - entry) / self.scale[self.feature])
        parts = jnp.where(inner, goes_left, 1.0), jnp.where(inner, 1.0 - goes_left, 0.0)

        def down(_: Array, reach: Array) -> Array:
            return jnp.zeros_like(reach).at[self.left].add(reach * parts[0]).at[self.right].add(reach * parts[1])

        start = jnp.zeros(self.left.shape[0], goes_left.dtype).at[0].set(1.0)
        return jax.lax.fori_loop(0, self.depth, down, start) @ self.votes


def round_down(values: Any) -> np.ndarray:
    """The largest float32 that is not above each float64 value."""
    wide = np.asarray(values, np.float64)
    near = wide.astype(np.float32)
    return np.where(near.astype(np.float64) > wide, np.nextafter(near, np.float32(-np.inf)), near)


def export_tree(model: Any, scale: Any) -> Tree:
    """The arrays of a fitted `sklearn.tree.DecisionTreeClassifier` whose classes are 0, 1, ... (`n_classes_` of them)."""
    raw = model.tree_
    if list(model.classes_) != list(range(len(model.classes_))):
        raise ValueError(f"the tree's classes are {list(model.classes_)}, expected 0 to {len(model.classes_) - 1}")
    leaf, self_ = raw.children_left == LEAF, np.arange(raw.node_count)
    votes = raw.value[:, 0, :] / raw.value[:, 0, :].sum(axis=1, keepdims=True)
    arrays = {
        "feature": np.where(leaf, 0, raw.feature).astype(np.int32),
        "threshold": np.where(leaf, np.float32(np.inf), round_down(raw.threshold)).astype(np.float32),
        "left": np.where(leaf, self_, raw.children_left).astype(np.int32),
        "right": np.where(leaf, self_, raw.children_right).astype(np.int32),
        "choice": raw.value[:, 0, :].argmax(axis=1).astype(np.int32),
        "votes": votes.astype(np.float32),
        "scale": np.maximum(np.asarray(scale), 1e-6).astype(np.float32),
    }
    return Tree(**{name: jnp.asarray(array) for name, array in arrays.items()}, depth=int(raw.max_depth))


def tree_arrays(tree: Tree) -> dict[str, np.ndarray]:
    """What a file has to hold."""
    return {name: np.asarray(getattr(tree, name)) for name in (*ARRAYS, "depth")}


def tree_from_arrays(arrays: Any) -> Tree:
    """The tree that `tree_arrays` came from."""
    return Tree(**{name: jnp.asarray(arrays[name]) for name in ARRAYS}, depth=int(arrays["depth"]))


ARRAYS = ("feature", "threshold", "left", "right", "choice", "votes", "scale")
