"""How good recommendations are: against the exact optimum, beside two rules that need no learning.

top-1        share of workloads whose recommendation is the oracle's own, the lowest index among ties
tie-aware    share whose recommendation costs as little as the optimum
geomean      geometric mean of the ratio least cost / cost of the recommendation; percentile: the ratio that 1 % fall below;
             worst: the least ratio

majority     the configuration that was best most often among `references` random workloads, of those allowed
neighbour    what was best for the nearest of them (distance in log2 of the sizes; categories count much), if it is allowed
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from costmodel.studies.design_spaces.spaces import Best, DesignSpace, Rows, in_blocks
from rl.decisions.recommender import Recommender

REFERENCES = 8192
APART = 8.0  # distance between two categories, in powers of two
SMALL = 64  # workloads compared with all references at once


class Score(NamedTuple):
    """Quality of one way to choose; ratios are least cost over cost chosen, 1 is best."""

    top1: float
    tie_aware: float
    geomean: float
    percentile: float
    worst: float


class Judgement(dict[str, Score]):
    """Scores by name; prints as a table."""

    def __str__(self) -> str:
        lines = [f"{'':<18} {'top-1':>8} {'tie-aware':>9} {'geomean':>9} {'1st perc.':>9} {'worst':>9}"]
        for name, s in self.items():
            lines.append(f"{name:<18} {s[0]:8.2%} {s[1]:9.2%} {s[2]:9.4%} {s[3]:9.4%} {s[4]:9.4%}")
        return "\n".join(lines)


def judge_recommender(
    recommender: Recommender, workloads: Rows, *, key: PRNGKeyArray | None = None, references: int = REFERENCES
) -> Judgement:
    """Scores of the first choice, of the best of eight by exact cost, and of both rules, on workloads of the recommender's space.

    The rules know `references` workloads of the training distribution, drawn from `key` (default: that of seed 3).
    ValueError for workloads out of range.
    """
    space = recommender.space
    rows = space.checked(workloads)
    best = space.oracle(rows)
    known = np.asarray(space.sample(jax.random.key(3) if key is None else key, references))
    labels = space.oracle(known).configuration
    choices: Mapping[str, np.ndarray] = {
        "first choice": recommender.recommend(rows),
        "best of 8": recommender.recommend(rows, rescore=True),
        "majority": _usual(space, rows, labels),
        "neighbour": _nearest(space, rows, known, labels),
    }
    return Judgement({name: score_choices(space, rows, choice, best) for name, choice in choices.items()})


def score_choices(space: DesignSpace, workloads: Rows, choice: Int[np.ndarray, " workloads"], best: Best) -> Score:
    """Quality of one configuration for each workload."""
    costs = space.costs_of(workloads, choice)
    ratio = best.cost / costs
    same = np.mean(choice == best.configuration), np.mean(costs == best.cost)
    return Score(*map(float, (*same, np.exp(np.mean(np.log(ratio))), np.quantile(ratio, 0.01), ratio.min())))


def _usual(space: DesignSpace, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    order = np.argsort(-np.bincount(labels, minlength=space.count), kind="stable")
    rank = jnp.asarray(np.argsort(order), jnp.int32)
    program = jax.jit(lambda some: (jnp.argmin(jnp.where(space.allowed(some), rank, space.count), axis=1),))
    return in_blocks(program, rows)[0].astype(np.int32)


def _nearest(space: DesignSpace, rows: np.ndarray, known: np.ndarray, labels: np.ndarray) -> np.ndarray:
    there, names = _points(space, jnp.asarray(known)), jnp.asarray(labels)

    def part(some: Array) -> Array:
        here = _points(space, some)
        distance = jnp.sum(there**2, axis=1) - 2 * here @ there.T
        return names[jnp.argmin(jnp.where(space.allowed(some)[:, names], distance, jnp.inf), axis=1)]

    program = jax.jit(lambda some: (jax.lax.map(part, some.reshape(-1, SMALL, some.shape[1])).ravel(),))
    return in_blocks(program, rows)[0].astype(np.int32)


def _points(space: DesignSpace, rows: Int[Array, "workloads fields"]) -> Float[Array, "workloads axes"]:
    """Positions in which distances are taken: log2 of sizes and limits, categories far apart."""
    axes = [APART * x if n in space.categories else jnp.log2(x) for n, x in zip(space.fields, rows.T, strict=True)]
    return jnp.stack([axis.astype(jnp.float32) for axis in axes], axis=1)
