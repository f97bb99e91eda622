"""A scheduler of task graphs that scores every pair of a ready task and a processor.

    h_ip  = relu(W_t task_i + W_p processor_p + W_q pair_ip + W_c context)
    g     = relu(W_g [mean of h, max of h])                                    over the legal pairs
    score = w . relu(W_1 h_ip + W_2 g) - exp(a) rank_i - exp(b) later_ip

The same weights serve every pair, so scores move with the tasks and processors when these are renumbered, and one set of weights
serves graphs and machines of any size. rank_i and later_ip are the priorities of PEFT (how far the task's optimistic rank
is below the highest; how much later its optimistic finish is than on its best processor): with w = 0, the first weights,
the highest score is PEFT's choice up to the balance of the two, and learning starts there. The idea of one scorer for
all candidate actions is that of Mao et al., "Learning scheduling algorithms for data processing clusters", SIGCOMM 2019.
"""

import math
from typing import NamedTuple, cast

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from rl.envs.dag_features import GraphObservation
from rl.envs.dag_problems import Outlook, SchedulingProblem, outlook, scheduling_problem
from rl.envs.dag_simulator import Heat, Placement, decide, makespan, start_placement
from rl.envs.dags import look
from rl.references.list_scheduling import Schedule
from workloads import Machine, TaskGraph

NEVER = -1e9  # score of a pair that is not legal
LEAST_SIZE = 40  # tasks; graphs are padded to this times a power of two, and each such size is compiled once


class PairScorer(nn.Module):
    """Scores of the pairs of an observation, row by row; `hidden` units in each layer."""

    hidden: int = 32

    @nn.compact
    def __call__(self, seen: GraphObservation) -> Float[Array, "*batch pairs"]:
        """One score for each pair, `NEVER` where it is not legal."""
        width = self.hidden
        tasks = nn.Dense(width, name="tasks")(seen.tasks)[..., :, None, :]
        processors = nn.Dense(width, use_bias=False, name="processors")(seen.processors)[..., None, :, :]
        pairs = nn.Dense(width, use_bias=False, name="pairs")(seen.pairs)
        context = nn.Dense(width, use_bias=False, name="context")(seen.context)[..., None, None, :]
        first = jax.nn.relu(tasks + processors + pairs + context)
        legal = seen.legal[..., None]
        open_pairs = jnp.where(legal, first, 0.0)
        mean = jnp.sum(open_pairs, axis=(-3, -2)) / jnp.maximum(jnp.sum(legal, axis=(-3, -2)), 1)
        pooled = jnp.concatenate([mean, jnp.max(open_pairs, axis=(-3, -2))], axis=-1)
        whole = jax.nn.relu(nn.Dense(width, name="pooled")(pooled))
        second = nn.Dense(width, name="second")(first)
        second += nn.Dense(width, use_bias=False, name="whole")(whole)[..., None, None, :]
        head = nn.Dense(1, use_bias=False, kernel_init=nn.initializers.zeros_init(), name="head")
        balance = self.param("balance", nn.initializers.constant(math.log(5.0)), (2,))
        score = head(jax.nn.relu(second))[..., 0] - seen.priority @ jnp.exp(balance)
        score = jnp.where(seen.legal, score, NEVER)
        return score.reshape(*score.shape[:-2], -1)


class Playthrough(NamedTuple):
    """One graph scheduled to the end; arrays along the decisions, those after the end with `chosen` False."""

    placement: Placement
    actions: Int[Array, " decisions"]
    estimates: Float[Array, " decisions"]  # s, before each decision
    chosen: Bool[Array, " decisions"]  # whether there was something to choose


def play(
    scorer: PairScorer,
    params: PyTree,
    problem: SchedulingProblem,
    ahead: Outlook,
    key: PRNGKeyArray | None,
    *,
    window: int = 12,
    temperature: float | Float[Array, ""] = 1.0,
    durations: Float[Array, "tasks processors"] | None = None,
    live: bool = False,
    heat: Heat | None = None,
) -> Playthrough:
    """Schedule one problem: pairs drawn by scores / temperature; at temperature 0, or without a key, always the highest.

    `durations` (s) are the true ones, where they differ from those of the problem.
    """
    count, width = problem.durations.shape
    decisions = 2 * count if live else count
    keys = None if key is None else jax.random.split(key, decisions)

    def body(placement: Placement, key: Array | None) -> tuple[Placement, tuple[Array, Array, Array]]:
        seen, estimate = look(problem, ahead, placement, window, live=live, heat=heat)
        scores = cast(Array, scorer.apply(params, seen))
        noise = 0.0 if key is None else temperature * jax.random.gumbel(key, scores.shape, scores.dtype)
        action = jnp.argmax(scores + noise).astype(jnp.int32)
        task, processor = seen.task[action // width], action % width
        after = decide(problem, placement, task, processor, durations, live=live, heat=heat)
        return after, (action, estimate, jnp.any(seen.legal))

    placement, rows = jax.lax.scan(body, start_placement(problem, heat), keys, length=decisions)
    return Playthrough(placement, *rows)


class GraphScheduler(eqx.Module):
    """A trained scheduler; `train_graph_scheduler` makes one. The same for graphs and machines of any size."""

    params: PyTree
    hidden: int = eqx.field(static=True, default=32)
    window: int = eqx.field(static=True, default=12)

    @property
    def scorer(self) -> PairScorer:
        """The network."""
        return PairScorer(self.hidden)

    def place(
        self,
        problem: SchedulingProblem,
        durations: Float[Array, "tasks processors"] | None = None,
        *,
        live: bool = False,
        heat: Heat | None = None,
    ) -> Placement:
        """Greedy decisions to the end, in one go; can be jitted and vmapped. `durations` are the true ones where noisy."""
        ahead = outlook(problem)
        trace = play(
            self.scorer,
            self.params,
            problem,
            ahead,
            None,
            window=self.window,
            durations=durations,
            live=live,
            heat=heat,
        )
        return trace.placement

    def place_best(self, problem: SchedulingProblem, key: PRNGKeyArray, samples: int) -> Placement:
        """The shortest of the greedy schedule and of `samples` drawn ones: more computation, to be declared in comparisons."""
        ahead = outlook(problem)

        def one(key: Array, temperature: Array) -> Placement:
            trace = play(self.scorer, self.params, problem, ahead, key, window=self.window, temperature=temperature)
            return trace.placement

        warmth = jnp.ones(samples + 1).at[0].set(0.0)
        plays = jax.vmap(one)(jax.random.split(key, samples + 1), warmth)
        shortest = jnp.argmin(jax.vmap(makespan)(plays))
        return jax.tree.map(lambda x: x[shortest], plays)

    def schedule(
        self, graph: TaskGraph, durations: PyTree, machine: Machine | None = None, *, samples: int = 0, seed: int = 0
    ) -> Schedule:
        """A schedule of one graph, like those of `rl.references.list_scheduling`: greedy, or the best of `samples` more.

        Raises ValueError for durations that do not fit, and for a negative `samples`.
        """
        if samples < 0:
            raise ValueError(f"samples = {samples} must not be negative")
        size = LEAST_SIZE
        while size < graph.n_tasks:
            size *= 2
        problem = scheduling_problem(graph, durations, machine, n_tasks=size)
        placement = _placed(self, problem, jax.random.key(seed), samples)
        columns = (placement.processor, placement.start, placement.finish)
        return Schedule(*(np.asarray(column)[: graph.n_tasks] for column in columns))


@eqx.filter_jit
def _placed(scheduler: GraphScheduler, problem: SchedulingProblem, key: PRNGKeyArray, samples: int) -> Placement:
    return scheduler.place_best(problem, key, samples) if samples else scheduler.place(problem)
