"""Which tier answers, and with what: the rule, for one state, as one pure function.

1. Two or more processors allowed? If only one is, it is the answer; if none is, the one whose worst margin is best.
2. Every entry within the training range, the tree's choice allowed, and its confidence - the share of the training weight at its
   leaf that agrees - at least the threshold? Then the tree answers.
3. Else the processor with the least latency x energy among those allowed.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rl.decisions.routing_tiers.features import Rates, features
from rl.decisions.routing_tiers.guides import Guide
from rl.decisions.routing_tiers.outlooks import Outlook
from rl.decisions.routing_tiers.pricing import Priced
from rl.decisions.routing_tiers.states import HardwareState

TIERS = ("TIER1_FEASIBILITY", "TIER2_SKLEARN", "TIER3_COSTMODEL")
NOT_ALLOWED = 1e4  # ln of a cost


class Verdict(NamedTuple):
    """The answer for one state."""

    target: Int[Array, "..."]  # index of the processor
    tier: Int[Array, "..."]  # 1, 2 or 3
    confidence: Float[Array, "..."]  # of the tree where it answers, else 1
    margin: Float[Array, "..."]  # cost of the best other processor allowed / that of the target - 1; infinite without another
    allowed: Int[Array, "..."]  # how many processors are


class Evidence(NamedTuple):
    """What a verdict rests on, every processor and every entry apart."""

    log_cost: tuple[Float[Array, "..."], ...]
    margin: tuple[Float[Array, "..."], ...]  # of the tightest limit; at least 0 where the processor is allowed
    entries: tuple[Float[Array, "..."], ...]  # what the tree sees


def gather(rates: Rates, priced: Priced, state: HardwareState, seen: Sequence[Outlook]) -> Evidence:
    """The evidence in one spread-out state, from its outlooks. Pure; vmap it."""
    entries = features(rates, priced, state, seen)
    return Evidence(tuple(s.log_cost for s in seen), tuple(s.margin for s in seen), tuple(entries))


def decide(guide: Guide | None, threshold: Array, evidence: Evidence) -> Verdict:
    """The verdict, element by element: states may be arrays of any one shape. (For them a program of its own is fastest.)"""
    allowed = [margin >= 0 for margin in evidence.margin]
    count = sum((jnp.where(a, 1, 0) for a in allowed), jnp.zeros((), jnp.int32))
    costs = [jnp.where(a, cost, NOT_ALLOWED) for a, cost in zip(allowed, evidence.log_cost, strict=True)]
    nearest, cheapest = _least([-margin for margin in evidence.margin]), _least(costs)
    target, tier = jnp.where(count > 0, cheapest, nearest), jnp.where(count > 1, 3, 1)
    confidence = jnp.ones_like(costs[0])
    if guide is not None:
        choice, votes, known = consult(guide, evidence.entries)
        sure = known & (count > 1) & (votes >= threshold) & _pick(allowed, choice)
        target, tier = jnp.where(sure, choice, target), jnp.where(sure, 2, tier)
        confidence = jnp.where(sure, votes, confidence)
    others = [jnp.where(target == i, NOT_ALLOWED, cost) for i, cost in enumerate(costs)]
    second, mine = functools.reduce(jnp.minimum, others), _pick(evidence.log_cost, target)
    margin = jnp.where(second < NOT_ALLOWED, jnp.expm1(second - mine), jnp.inf)
    return Verdict(target, tier, confidence, margin, count)


def consult(guide: Guide, entries: Sequence[Array]) -> tuple[Array, Array, Array]:
    """The tree's choice, its share of the votes, and whether all entries are within the training range."""
    inside = [(entry >= guide.lo[i]) & (entry <= guide.hi[i]) for i, entry in enumerate(entries)]
    leaf = guide.tree.leaf_of_columns(entries).astype(jnp.int32)
    choice = guide.tree.choice[leaf]
    return choice, jnp.max(guide.tree.votes, axis=-1)[leaf], functools.reduce(jnp.logical_and, inside)


def _least(values: Sequence[Array]) -> Array:
    """Index of the least value, the first of equals."""
    best, index = values[0], jnp.zeros((), jnp.int32)
    for i, value in enumerate(values[1:], 1):
        index, best = jnp.where(value < best, i, index), jnp.minimum(value, best)
    return index


def _pick(values: Sequence[Array], index: Array) -> Array:
    return functools.reduce(lambda found, i: jnp.where(index == i, values[i], found), range(1, len(values)), values[0])
