"""Training of the second tier, and its regret against the full cost model: `python -m rl.decisions.routing_tiers.training`.

The command prints the regret of the guide that ships with the package; with a path it trains one and writes it there.

States are drawn over the whole range a user may ask for: kernels and products with sizes over decades, junctions from 0 to
110 C, queues from empty to a second, processors asleep or awake, weights in place or not and up to a day old, with or
without a deadline. The label of a state is the cheapest processor that the first tier allows; a state counts by what the wrong
choice would cost there, so that the tree spends its leaves where they matter.

    regret = latency x energy of the choice / least latency x energy - 1         over the processors allowed

`HELD_BACK` kernels and networks take no part in training. scikit-learn is needed here, not where the tree is used.
"""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from costmodel import Platform, load_platform
from rl.decisions.routing_tiers.features import Rates, feature_names, features, find_rates
from rl.decisions.routing_tiers.guides import THRESHOLD, Guide, load_guide
from rl.decisions.routing_tiers.outlooks import outlooks
from rl.decisions.routing_tiers.pricing import MEMORIES, Priced, price, split
from rl.decisions.routing_tiers.states import HardwareState
from rl.decisions.routing_tiers.trees import Tree, export_tree
from rl.decisions.routing_tiers.verdicts import consult
from workloads import find_kernel, list_kernels, list_networks
from workloads.kernel_tables import TYPICAL, kernel_table
from workloads.resolution import Workload, resolve

HELD_BACK = ("lu", "convolution", "attention", "sort", "spiking layer", "ds-cnn", "fc-autoencoder")
SIZES = 40  # of every kernel
STATES = 250_000
DEPTH, LEAVES, LEAST = 7, 40, 30
LARGEST = 6.0  # ln of the cost beyond which a wrong choice counts no more


class Sample(NamedTuple):
    """Drawn states: entries (N, F), ln cost with infinity where forbidden (N, P)."""

    entries: np.ndarray
    log_cost: np.ndarray


def kernel_works(names: Sequence[str], rng: np.random.Generator) -> list[Workload]:
    """Every kernel at sizes from a hundredth of the typical work to ten times as much, as far as they stay above 1."""
    works = []
    for name in names:
        kernel, typical = find_kernel(name), TYPICAL[name]
        first = next(iter(typical))
        for scale in 10 ** rng.uniform(-2.0, 0.7, SIZES):
            sizes = typical | {first: float(max(round(typical[first] * scale), 8))}
            if name == "gemm":
                sizes |= {key: float(max(round(512 * 10 ** rng.uniform(-2.0, 0.5)), 1)) for key in ("m", "k")}
            works.append(Workload(name, kernel_table(kernel, sizes), kernel, tuple(sizes.items())))
    return works


def draw_states(count: int, processors: int, rng: np.random.Generator) -> HardwareState:
    """Random states with arrays (P, N) and (N,)."""

    def either(p: float, a: Any, b: Any, *shape: int) -> np.ndarray:
        return np.where(rng.random((*shape, count)) < p, a, b)

    def decades(lo: float, hi: float, *shape: int) -> np.ndarray:
        return 10 ** rng.uniform(lo, hi, (*shape, count))

    base = rng.uniform(273.15, 383.15, count)
    state = HardwareState(
        temperature=base + either(0.5, 0.0, rng.uniform(0, 20, (processors, count)), processors),
        backlog=either(0.6, 0.0, decades(-4, 0, processors), processors),
        awake=either(0.6, 1.0, 0.0, processors),
        resident=either(0.7, 1.0, 0.0),
        age=either(0.4, 0.0, decades(0, 5)),
        deadline=either(0.6, np.inf, decades(-3, 1)),
    )
    return HardwareState(*(jnp.asarray(value, jnp.float32) for value in state))


def sample(platform: Platform, rates: Rates, priced: Priced, count: int, rng: np.random.Generator) -> Sample:
    """`count` states of workloads drawn evenly from `priced`."""
    parts = split(platform)
    which = jnp.asarray(rng.integers(0, priced.capacity.shape[0], count))

    @jax.jit
    def look(which: jax.Array, state: HardwareState) -> tuple[list[jax.Array], list[jax.Array]]:
        def one(index: jax.Array, state: HardwareState) -> tuple[list[jax.Array], list[jax.Array]]:
            mine = jax.tree.map(lambda x: x[index], priced)
            seen = outlooks(parts, mine, state)
            costs = [jnp.where(s.feasible, s.log_cost, jnp.inf) for s in seen]
            return features(rates, mine, state, seen), costs

        return jax.vmap(one, in_axes=(0, -1))(which, state)

    entries, costs = look(which, draw_states(count, len(platform.names), rng))
    return Sample(np.stack(entries, axis=1), np.stack(costs, axis=1))


def train_guide(platform: Platform, works: Sequence[Workload] | None = None, states: int = STATES, seed: int = 0) -> Guide:
    """A guide for `platform`, trained on `states` states of `works` (default: all that are not held back). Needs scikit-learn."""
    rates, rng = find_rates(platform), np.random.default_rng(seed)
    priced = price(platform, training_works(rng) if works is None else works, MEMORIES)
    found = sample(platform, rates, priced, states, rng)
    lo, hi = found.entries.min(axis=0), found.entries.max(axis=0)
    return Guide(fit(found), jnp.asarray(lo), jnp.asarray(hi), rates, feature_names(platform))


def training_works(rng: np.random.Generator, held_back: bool = False) -> list[Workload]:
    """The works that a guide is trained on, or those that it is not; networks as often as ten sizes of a kernel."""
    chosen = [name for name in (*list_kernels(), *list_networks()) if (name in HELD_BACK) == held_back]
    networks = [resolve(name) for name in chosen if name in list_networks()]
    return kernel_works([name for name in chosen if name not in list_networks()], rng) + 10 * networks


def fit(found: Sample) -> Tree:
    """A tree for the states of `found` where the first tier leaves a choice."""
    from sklearn.tree import DecisionTreeClassifier

    some = np.isfinite(found.log_cost).sum(axis=1) >= 2
    x, costs = found.entries[some], found.log_cost[some]
    ordered = np.sort(costs, axis=1)
    weight = np.minimum(ordered[:, 1] - ordered[:, 0], LARGEST) + 1e-3
    model = DecisionTreeClassifier(max_depth=DEPTH, max_leaf_nodes=LEAVES, min_samples_leaf=LEAST, random_state=0)
    model.fit(x, costs.argmin(axis=1), sample_weight=weight)
    return export_tree(model, x.std(axis=0))


class Regret(NamedTuple):
    """Of the states where the first tier leaves a choice: who answered, and by how much its cost is above the least."""

    answered: float  # share that the tree answers under the router's rule
    mean: float  # regret of these answers
    worst: float
    forbidden: int  # of these answers, how many the first tier forbids: 0 by the rule
    tree: float  # mean regret of the tree alone, without a threshold, counting 1 where its choice is forbidden
    guess: float  # mean regret of the roofline guess alone
    tiers_1_2: float  # mean regret of all states that tiers 1 and 2 answer, those without a choice included


def regret(guide: Guide, found: Sample, threshold: float = THRESHOLD) -> Regret:
    """How much the second tier of `guide` costs on the states of `found`."""
    some = np.isfinite(found.log_cost).sum(axis=1) >= 2
    x, costs = found.entries[some], found.log_cost[some]
    choice, votes, known = (np.asarray(part) for part in jax.jit(lambda c: consult(guide, c))(list(jnp.asarray(x).T)))

    def above(which: np.ndarray) -> np.ndarray:
        return np.expm1(costs[np.arange(len(x)), which] - costs.min(axis=1))

    guesses = x[:, [i for i, name in enumerate(guide.features) if name.startswith("guess ")]]
    mine, alone = above(choice), above(np.where(np.isfinite(costs), guesses, np.inf).argmin(axis=1))
    answered = known & (votes >= threshold) & np.isfinite(mine)
    total = np.sum(mine[answered])
    return Regret(
        answered.mean(),
        total / max(answered.sum(), 1),
        mine[answered].max(initial=0.0),
        int(np.isinf(mine[answered]).sum()),
        np.where(np.isfinite(mine), mine, 1.0).mean(),
        alone.mean(),
        total / max(answered.sum() + (~some).sum(), 1),
    )


def measure(guide: Guide, platform: Platform, states: int = STATES // 2, seed: int = 1) -> dict[str, Regret]:
    """Regret on new states of the kernels trained on, and of those held back."""
    found, rates = {}, find_rates(platform)
    for label, held_back in (("new states of trained work", False), ("work held back", True)):
        rng = np.random.default_rng((seed, held_back))
        works = training_works(rng, held_back)
        found[label] = regret(guide, sample(platform, rates, price(platform, works, MEMORIES), states, rng))
    return found


def main(arguments: Sequence[str]) -> None:
    """Train and write a guide if a path is given; print the regret of that guide, or of the shipped one."""
    platform = load_platform("edge")
    if arguments:
        train_guide(platform).save(arguments[0])
    guide = load_guide(*arguments[:1])
    print(f"{guide.tree.feature.shape[0]} nodes, depth {guide.tree.depth}, confidence from {THRESHOLD:g}")
    for label, row in measure(guide, platform).items():
        print(f"{label}: the tree answers {row.answered:.1%} of the states with a choice,", end=" ")
        print(f"regret mean {row.mean:.4%}, worst {row.worst:.1%}; tiers 1 and 2 together {row.tiers_1_2:.4%}", end="; ")
        print(f"without a threshold {row.tree:.4%}, the guess alone {row.guess:.4%}")


if __name__ == "__main__":
    main(sys.argv[1:])
