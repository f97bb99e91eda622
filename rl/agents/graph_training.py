"""Training a scheduler of task graphs by policy gradient, on device.

Each update draws problems, plays each several times, and compares the plays of one problem with each other:

    gain_kt = - (makespan_k - estimate_kt) / unit                     what play k lost from decision t on
    advantage_kt = gain_kt - mean over the other plays of gain_t      then scaled to a root mean square of 1
    loss = - sum_kt advantage_kt ln pi(a_kt) - entropy * entropy of pi

The estimate before decision t is a lower bound, so what was lost earlier does not count against a_t; the other plays are a
baseline that costs nothing and needs no critic. Sources: Williams, Machine Learning 8 (1992) 229 (REINFORCE); Kool et
al., "Buy 4 REINFORCE samples, get a baseline for free!", ICLR workshop 2019; Kwon et al., "POMO", NeurIPS 2020.
Plays are made once to draw the actions and once more, decision by decision, for the gradient: nothing grows with their length.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from rl import checkpoints
from rl.agents.config import check_integer, check_real, refuse
from rl.agents.graph_policy import GraphScheduler, PairScorer, Playthrough, play
from rl.envs.dag_features import GraphObservation
from rl.envs.dag_problems import Outlook, SchedulingProblem, outlook
from rl.envs.dag_simulator import Placement, decide, makespan, start_placement
from rl.envs.dags import GraphParams, draw_durations, look
from workloads import TaskGraph, cholesky, layered_graph, lu, qr
from workloads.graphs import TILE_BYTES
from workloads.kernel_times import READYS

ALGORITHM = "graph-scheduler"
MOST_TASKS = 24  # of the problems to train on
READYS_TIMES = {kind: times for table in READYS.values() for kind, times in table.items()}


@dataclasses.dataclass(frozen=True)
class GraphTrainConfig:
    """Settings of the training; ValueError for those out of range."""

    updates: int = 200
    problems: int = 8  # per update
    plays: int = 16  # per problem
    hidden: int = 32
    window: int = 12  # ready tasks shown
    learning_rate: float = 1e-2  # Adam, falling to 0 as a cosine
    entropy: float = 0.01
    max_norm: float = 1.0  # of the gradient
    live: bool = False
    sigma: tuple[float, ...] = (0.0,)  # s, added noise (live only), for all processors or for each
    spread: float = 0.0  # noise of ln(duration) (live only)

    def __post_init__(self) -> None:
        for name, least in (("updates", 1), ("problems", 1), ("plays", 2), ("hidden", 1), ("window", 1)):
            check_integer(name, getattr(self, name), least=least)
        check_real("learning_rate", self.learning_rate, 0.0, 1.0)
        check_real("entropy", self.entropy, 0.0, 10.0)
        check_real("max_norm", self.max_norm, 0.0, float("inf"))
        check_real("spread", self.spread, 0.0, 10.0)
        if not self.live and (any(self.sigma) or self.spread):
            refuse("sigma, spread", (self.sigma, self.spread), "0 unless live: a plan knows the durations")


class GraphTrainResult(NamedTuple):
    """A scheduler and how it came about."""

    scheduler: GraphScheduler
    loss_to_bound: Float[Array, " updates"]  # mean of makespan / bound over the plays of each update


def make_graph_train(
    config: GraphTrainConfig, problems: SchedulingProblem
) -> Callable[[PRNGKeyArray], tuple[PyTree, Float[Array, " updates"]]]:
    """The pure function of a key that trains on a stack of problems: (weights, mean makespan / bound of each update)."""
    scorer = PairScorer(config.hidden)
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.updates)
    optimizer = optax.chain(optax.clip_by_global_norm(config.max_norm), optax.adam(schedule))

    def update(carry: tuple[PyTree, Any], key: Array) -> tuple[tuple[PyTree, Any], Array]:
        params, memory = carry
        batch = draw_batch(config, problems, key)
        plays = batch_plays(config, scorer, params, batch)
        gradient = policy_gradient(config, scorer, params, batch, plays)
        step, memory = optimizer.update(gradient, memory, params)
        lengths = jax.vmap(jax.vmap(makespan))(plays.placement)
        return (optax.apply_updates(params, step), memory), jnp.mean(lengths / batch.ahead.bound[:, None])

    def train(key: PRNGKeyArray) -> tuple[PyTree, Float[Array, " updates"]]:
        key_init, key_run = jax.random.split(key)
        params = first_params(config, problems, key_init)
        carry, progress = jax.lax.scan(update, (params, optimizer.init(params)), jax.random.split(key_run, config.updates))
        return carry[0], progress

    return train


class Batch(NamedTuple):
    """Problems of one update, with their outlooks and true durations, and one key for each play."""

    problem: SchedulingProblem
    ahead: Outlook
    durations: Float[Array, "problems tasks processors"]
    keys: PRNGKeyArray


def draw_batch(config: GraphTrainConfig, problems: SchedulingProblem, key: PRNGKeyArray) -> Batch:
    """Problems drawn with replacement; all plays of one problem meet the same durations."""
    key_problem, key_play, key_noise = jax.random.split(key, 3)
    number = jax.random.randint(key_problem, (config.problems,), 0, problems.mask.shape[0])
    problem = jax.tree.map(lambda x: x[number], problems)
    true = problem.durations
    if config.live:
        noise = GraphParams(sigma=jnp.asarray(config.sigma, true.dtype), spread=config.spread)
        keys = jax.random.split(key_noise, config.problems)
        true = jax.vmap(lambda key, nominal: draw_durations(key, nominal, noise))(keys, true)
    return Batch(problem, jax.vmap(outlook)(problem), true, jax.random.split(key_play, (config.problems, config.plays)))


def batch_plays(config: GraphTrainConfig, scorer: PairScorer, params: PyTree, batch: Batch) -> Playthrough:
    """Every play of a batch; arrays (problems, plays, ...)."""

    def one(problem: SchedulingProblem, ahead: Outlook, true: Array, key: Array) -> Playthrough:
        return play(scorer, params, problem, ahead, key, window=config.window, durations=true, live=config.live)

    return jax.vmap(jax.vmap(one, in_axes=(None, None, None, 0)))(*batch)


def policy_gradient(config: GraphTrainConfig, scorer: PairScorer, params: PyTree, batch: Batch, plays: Playthrough) -> PyTree:
    """The gradient of the loss of the module, by playing the same actions again."""
    advantage = advantages(batch, plays)
    total = config.problems * config.plays

    def loss(params: PyTree, seen: GraphObservation, action: Array, weight: Array, chosen: Array) -> Array:
        log_pi = jax.nn.log_softmax(cast(Array, scorer.apply(params, seen)))
        entropy = -jnp.sum(jnp.exp(log_pi) * log_pi, axis=-1)
        taken = jnp.take_along_axis(log_pi, action[..., None], axis=-1)[..., 0]
        return -jnp.sum(jnp.where(chosen, taken * weight + config.entropy * entropy, 0.0)) / total

    def see(problem: SchedulingProblem, ahead: Outlook, placement: Placement) -> GraphObservation:
        return look(problem, ahead, placement, config.window, live=config.live)[0]

    def act(problem: SchedulingProblem, true: Array, placement: Placement, seen: GraphObservation, action: Array) -> Placement:
        width = seen.legal.shape[-1]
        return decide(problem, placement, seen.task[action // width], action % width, true, live=config.live)

    def body(carry: tuple[Placement, PyTree], row: tuple[Array, Array, Array]) -> tuple[tuple[Placement, PyTree], None]:
        placement, total = carry
        seen = jax.vmap(jax.vmap(see, in_axes=(None, None, 0)))(batch.problem, batch.ahead, placement)
        total = jax.tree.map(jnp.add, total, jax.grad(loss)(params, seen, *row))
        each = jax.vmap(jax.vmap(act, in_axes=(None, None, 0, 0, 0)))
        return (each(batch.problem, batch.durations, placement, seen, row[0]), total), None

    start = jax.vmap(lambda problem: jax.vmap(lambda _: start_placement(problem))(jnp.arange(config.plays)))(batch.problem)
    rows = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (plays.actions, advantage, plays.chosen))
    return jax.lax.scan(body, (start, jax.tree.map(jnp.zeros_like, params)), rows)[0][1]


def advantages(batch: Batch, plays: Playthrough) -> Float[Array, "problems plays decisions"]:
    """How much better each decision went than those of the other plays of its problem, scaled; 0 where nothing was chosen."""
    lengths = jax.vmap(jax.vmap(makespan))(plays.placement)
    gain = (plays.estimates - lengths[..., None]) / batch.ahead.unit[:, None, None]
    others = (jnp.sum(gain, axis=1, keepdims=True) - gain) / (gain.shape[1] - 1)
    better = jnp.where(plays.chosen, gain - others, 0.0)
    spread = jnp.sqrt(jnp.sum(better**2) / jnp.maximum(jnp.sum(plays.chosen), 1))
    return better / (spread + 1e-3)


def first_params(config: GraphTrainConfig, problems: SchedulingProblem, key: PRNGKeyArray) -> PyTree:
    """Fresh weights."""
    problem = jax.tree.map(lambda x: x[0], problems)
    seen, _ = look(problem, outlook(problem), start_placement(problem), config.window)
    return PairScorer(config.hidden).init(key, seen)


def train_graph_scheduler(
    config: GraphTrainConfig | None = None, seed: int = 0, problems: SchedulingProblem | None = None
) -> GraphTrainResult:
    """Train a scheduler on a stack of problems (default: `training_problems()`); the same seed gives the same weights."""
    config = GraphTrainConfig() if config is None else config
    check_integer("seed", seed, least=0)
    problems = training_problems() if problems is None else problems
    params, progress = jax.jit(make_graph_train(config, problems))(jax.random.key(seed))
    return GraphTrainResult(GraphScheduler(params, config.hidden, config.window), progress)


def training_problems(seed: int = 0, count: int = 192, random_graphs: int = 12) -> SchedulingProblem:
    """A stack of problems to train on, for 2 CPUs + 2 GPUs and 3 + 1 in turn: three of four tiled, the others random graphs.

    Tiled: Cholesky of 3 and 4 tiles a side, LU and QR of 2 and 3. Random: 3 to 6 layers of up to 5 tasks. At most 24 tasks.
    Four of every eight, all tiled, have READYS's times; in the others each entry is multiplied by a factor drawn
    log-uniformly from [1/2, 2], and in half of those handing a tile to another processor takes log-uniformly 1 to 16.
    """
    rng = np.random.default_rng(seed)
    tiled = [cholesky(3), cholesky(4), lu(2), lu(3), qr(2), qr(3)]
    drawn = [_random_graph(rng) for _ in range(random_graphs)] or tiled
    problems = [_training_problem(rng, number, drawn if number % 8 > 5 else tiled) for number in range(count)]
    return SchedulingProblem(*(jnp.asarray(np.stack(column)) for column in zip(*problems, strict=True)))


def _training_problem(rng: np.random.Generator, number: int, graphs: list[TaskGraph]) -> tuple[np.ndarray, ...]:
    """The fields of one problem, in NumPy: hundreds of them would take a minute as small device arrays."""
    graph = graphs[rng.integers(len(graphs))]
    gpus = 1 + number % 2
    table = np.array([[READYS_TIMES[kind][unit] for unit in [1] * gpus + [0] * (4 - gpus)] for kind in graph.kinds])
    hop = 0.0
    if number // 2 % 2:
        changed = 2 ** rng.uniform(-1, 1, (len(table), 2))
        table = table * np.repeat(changed, (gpus, 4 - gpus), axis=1)
        hop = 2 ** rng.uniform(0, 4) if rng.random() < 0.5 else 0.0
    extra = MOST_TASKS - graph.n_tasks
    dtype = jnp.result_type(float)
    return (
        np.pad(table[np.asarray(graph.kind)], ((0, extra), (0, 0))).astype(dtype),
        np.pad(np.asarray(graph.edges), (0, extra)),
        np.pad(np.asarray(graph.data), (0, extra)).astype(dtype),
        np.arange(MOST_TASKS) < graph.n_tasks,
        (hop / TILE_BYTES * (1 - np.eye(4))).astype(dtype),
        np.zeros((4, 4), dtype),
    )


def _random_graph(rng: np.random.Generator) -> TaskGraph:
    kinds = tuple(READYS[("cholesky", "lu", "qr")[rng.integers(3)]])
    while True:
        key = jax.random.key(int(rng.integers(2**31)))
        graph = layered_graph(key, int(rng.integers(3, 7)), 5, kinds=kinds, density=float(rng.uniform(0.1, 0.6)))
        if graph.n_tasks <= MOST_TASKS:
            return graph


def save_graph_scheduler(path: str | os.PathLike[str], scheduler: GraphScheduler) -> None:
    """Write a scheduler as a checkpoint; CheckpointError where the file cannot be written."""
    checkpoints.save(path, scheduler.params, _meta(scheduler.hidden, scheduler.window))


def load_graph_scheduler(path: str | os.PathLike[str]) -> GraphScheduler:
    """The scheduler in a checkpoint; CheckpointError where it cannot be read or holds something else."""
    found = checkpoints.load_meta(path)
    hidden, window = found.get("hidden"), found.get("window")
    if found.get("algorithm") != ALGORITHM or not isinstance(hidden, int) or not isinstance(window, int):
        raise checkpoints.CheckpointError(f"{path}: holds no {ALGORITHM}: algorithm is {found.get('algorithm')!r}")
    problem = training_problems(count=1, random_graphs=0)
    config = GraphTrainConfig(hidden=hidden, window=window)
    like = jax.eval_shape(lambda key: first_params(config, problem, key), jax.random.key(0))
    return GraphScheduler(checkpoints.load(path, like, _meta(hidden, window)), hidden, window)


def _meta(hidden: int, window: int) -> dict[str, Any]:
    return {"algorithm": ALGORITHM, "hidden": hidden, "window": window}
