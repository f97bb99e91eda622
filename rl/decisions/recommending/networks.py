"""From a workload to a score of every configuration: an embedding of its sizes, a small network, and parts that add up.

Every size s of a workload becomes a row of an embedding that knows its arithmetic,

    ln ceil(s / 2^a),  a = 0 ... 16          how often an array of 2^a rows must be filled: jumps where a multiple is passed
    ln(s + 2^j),       j = 0, 2 ... 18       how much filling and draining adds to a stream of s

and every category one entry for each value. AIRCHITECT learns such a table of embeddings entry by entry; here it is a formula,
and so holds for every integer. `embedding="logarithms"` sees ln s alone, the usual input of learned cost models.

    hidden = relu(A x + a)                                          x: the embedding
    terms  = B (x, hidden) + b
    score  = sum of the terms of the configuration's columns + (rank terms) . (loadings of the configuration)

The table of configurations is cut into equal blocks (the dataflows of `ArraySpace`) with terms of their own; within one, every
value of every column (rows = 16, columns = 8, ...) has a term, which all configurations with this value share. With
`parts=False` only the rank terms are left: an ordinary dense output layer of that width. Where a workload is made of pieces that
run side by side (the four products of `ScheduleSpace`), the same network sees each of them, one term stands for every choice that
a piece has, and the score is the largest of the pieces' terms. A score estimates ln cost up to a constant of the workload; the
least is best. Workloads are columns, as in `rl.agents.networks`.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from costmodel.studies.design_spaces.spaces import DesignSpace
from rl.agents.networks import ColumnDense

EMBEDDINGS = ("integers", "logarithms")
CEILINGS, SUMS = range(17), range(0, 19, 2)


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a network looks like: the embedding, the hidden width, the rank, and whether columns of the table have terms."""

    embedding: str = "integers"
    width: int = 32
    rank: int = 8
    parts: bool = True

    def __post_init__(self) -> None:
        if self.embedding not in EMBEDDINGS:
            raise ValueError(f"embedding = {self.embedding!r} is not one of {', '.join(EMBEDDINGS)}")
        if min(self.width, self.rank) < 1:
            raise ValueError(f"width = {self.width}, rank = {self.rank}: both must be at least 1")


class ScoreNetwork(nn.Module):
    """Scores of all configurations, one column per workload."""

    space: DesignSpace
    shape: Shape

    @nn.compact
    def __call__(self, entries: Float[Array, "entries pieces"]) -> Float[Array, "configurations workloads"]:
        """See the module for the law."""
        hidden = nn.relu(ColumnDense(self.shape.width, name="hidden")(entries))
        both = jnp.concatenate([entries, hidden])
        return self._slowest(both) if self.space.pieces > 1 else self._sums(both)

    def _sums(self, both: Array) -> Array:
        fixed = pattern(self.space) if self.shape.parts else np.zeros((*blocks(self.space), 0), np.float32)
        terms = ColumnDense(len(fixed) * (fixed.shape[-1] + self.shape.rank), name="terms")(both)
        loadings = self.param("loadings", nn.initializers.normal(0.3), (*fixed.shape[:2], self.shape.rank), jnp.float32)
        weights = jnp.concatenate([jnp.asarray(fixed), loadings], axis=-1)
        return (weights @ terms.reshape(len(fixed), -1, both.shape[1])).reshape(self.space.count, -1)

    def _slowest(self, both: Array) -> Array:
        which = choices(self.space)
        terms = ColumnDense(int(which.max()) + 1, name="terms")(both)
        each = jnp.moveaxis(terms.reshape(len(terms), -1, len(which)), -1, 0)
        return functools.reduce(jnp.maximum, (mine[chosen] for mine, chosen in zip(each, which, strict=True)))


def embed(space: DesignSpace, embedding: str, workloads: Int[Array, "workloads fields"]) -> Float[Array, "entries pieces"]:
    """The embedding of workloads as columns, one for each piece; fields that only say what is allowed are not seen."""
    names = space.fields[: len(space.fields) // space.pieces]
    columns = dict(zip(names, workloads.reshape(-1, len(names)).T, strict=True))
    sizes = jnp.stack([x for name, x in columns.items() if name not in space.limits and name not in space.categories])
    kinds = [columns[name] == value for name, values in space.categories.items() for value in range(values)]
    if embedding == "logarithms":
        entries = jnp.log(sizes.astype(jnp.float32))
    else:
        powers, shifts = np.float32(2.0) ** np.asarray(SUMS, np.float32), np.asarray(CEILINGS, np.int32)
        folds = ((sizes[:, None] - 1) >> shifts[:, None]) + 1
        sums = sizes[:, None].astype(jnp.float32) + powers[:, None]
        entries = jnp.log(jnp.concatenate([folds.astype(jnp.float32), sums], axis=1)).reshape(-1, sizes.shape[1])
    return jnp.concatenate([entries, *(kind[None].astype(jnp.float32) for kind in kinds)])


def blocks(space: DesignSpace) -> tuple[int, int]:
    """Equal parts of the table, and configurations in each."""
    parts = 1 if space.block is None else len(np.unique(space.table[space.block]))
    return parts, space.count // parts


@functools.cache
def pattern(space: DesignSpace) -> np.ndarray:
    """Which terms make up a configuration: ones and zeros (blocks, configurations of a block, terms)."""
    parts, members = blocks(space)
    columns = [np.unique(column, return_inverse=True)[1] for name, column in space.table.items() if name != space.block]
    ones = np.concatenate([np.eye(column.max() + 1, dtype=np.float32)[column] for column in columns], axis=1)
    return ones.reshape(parts, members, -1)


@functools.cache
def choices(space: DesignSpace) -> np.ndarray:
    """What a configuration chooses for every piece, numbered: (pieces, configurations)."""
    found = []
    for piece in range(space.pieces):
        mine = [column for name, column in space.table.items() if name.endswith(str(piece))]
        found.append(np.ravel_multi_index(mine, [int(column.max()) + 1 for column in mine]))
    return np.stack(found)


def ranked(scores: Float[Array, "configurations workloads"], top: int) -> Int[Array, "workloads top"]:
    """The `top` lowest scores' positions, best first; where fewer are finite, the best again."""
    place = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)

    def lowest(left: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        least = jnp.min(left, axis=0)
        found = jnp.min(jnp.where(left == least, place, left.shape[0]), axis=0)
        return jnp.where(place == found, jnp.inf, left), (found, jnp.isfinite(least))

    if top == 1:
        return lowest(scores, None)[1][0][:, None]
    found, finite = jax.lax.scan(lowest, scores, None, length=top)[1]
    return jnp.where(finite, found, found[:1]).T
