"""Training entirely on the device: one pure function from a random key to a trained agent, for every algorithm.

One iteration steps every lane until `train_every` environment steps have passed (at least once), then makes the updates
that are due. How many are due depends on the iteration counter only, never on lane data, so that batched seeds still
skip the warm-up; the counter must therefore stay outside of what is batched. The replay's table is read by the updates
but never carried through the branch, which would copy it; priorities, which updates change, go through a loop of as many
rounds as are due, which changes them in place. Everything that changes is in `TrainState`, the metrics included: running
it in one go, in chunks, or after a restart is the same sequence of operations.

An environment is any object with `reset(key, params)`, `step(key, state, action, params)` of six results and
automatic reset, and `info["final_observation"]` at every step (the protocol of gymnax 1.0); observations may be pytrees.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from rl.agents import replay
from rl.agents.algorithm import ActionSpace, Algorithm, action_space, example_action
from rl.agents.config import TrainingConfig
from rl.agents.normalization import Statistics, first_statistics, merge, normalized
from rl.agents.records import Metrics, Tally, empty_metrics, empty_tally, metrics_row
from rl.agents.registry import make_algorithm
from rl.agents.replay import Ring, Transition
from rl.agents.windows import Window, empty_window, n_step_transition, slide


class Lanes(NamedTuple):
    """The environments side by side: their states, current features, and the running return and length."""

    env_state: PyTree
    features: Float[Array, "lanes features"]
    episode_return: Float[Array, " lanes"]
    episode_length: Int[Array, " lanes"]


class TrainState(NamedTuple):
    """Everything that changes during training; a run continued from it is the same run.

    `learner` is the algorithm's: networks, optimizer, schedules. `window` is None for one step, `statistics` without
    normalisation.
    """

    iteration: Int[Array, ""]
    key: PRNGKeyArray
    learner: Any
    lanes: Lanes
    window: Window | None
    statistics: Statistics | None
    replay: Ring
    metrics: Metrics


class TrainResult(eqx.Module):
    """A trained agent and the record of its training; batched over seeds where the training was.

    `params`, `target_params` and the `statistics` of observations are those after the last update.
    """

    params: PyTree
    target_params: PyTree
    statistics: Statistics | None
    metrics: Metrics
    config: TrainingConfig = eqx.field(static=True)
    actions: ActionSpace = eqx.field(static=True)

    def policy(self) -> Callable[[PyTree], PyTree]:
        """The greedy policy: observation -> action. It is a pytree, so that jitted code may take it as an argument."""
        return jax.tree_util.Partial(greedy_policy(self.config, self.actions), self.params, self.statistics)

    def values(self, observation: PyTree) -> PyTree:
        """The values of the actions at ONE observation; for a finite set of choices, an array with one entry for each."""
        return greedy_values(self.config, self.actions)(self.params, self.statistics, observation)


class Program(NamedTuple):
    """Training in parts: a fresh state, that state some rows of metrics further, and what is handed out of it.

    `n_rows` may be traced.
    """

    init: Callable[[PRNGKeyArray], TrainState]
    run: Callable[[TrainState, Any], TrainState]
    result: Callable[[TrainState], TrainResult]


def flat_features(observation: PyTree) -> Float[Array, " features"]:
    """An observation of any shape as a float32 vector; learning is in float32 whatever JAX's default."""
    leaves = [jnp.ravel(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(observation)]
    return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves)


@functools.cache
def greedy_policy(config: TrainingConfig, actions: ActionSpace) -> Callable[[PyTree, Statistics | None, PyTree], PyTree]:
    """`act(params, statistics, observation) -> action` for ONE observation; the same function for equal arguments."""
    return on_observations(make_algorithm(config, actions).policy)


@functools.cache
def greedy_values(config: TrainingConfig, actions: ActionSpace) -> Callable[[PyTree, Statistics | None, PyTree], PyTree]:
    """`values(params, statistics, observation)` for ONE observation; the same function for equal arguments."""
    return on_observations(make_algorithm(config, actions).values)


def on_observations(function: Callable[[PyTree, Any], PyTree]) -> Callable[[PyTree, Statistics | None, PyTree], PyTree]:
    """A function of features as one of observations."""

    def of_observation(params: PyTree, statistics: Statistics | None, observation: PyTree) -> PyTree:
        return function(params, normalized(statistics, flat_features(observation)))

    return of_observation


class Machine(NamedTuple):
    """The parts that do not change during training."""

    env: Any
    env_params: PyTree
    config: TrainingConfig
    algorithm: Algorithm
    example: Transition


def reset_lanes(machine: Machine, key: PRNGKeyArray) -> Lanes:
    """Every lane at the start of an episode."""
    count = machine.config.num_envs
    observation, env_state = jax.vmap(machine.env.reset, (0, None))(jax.random.split(key, count), machine.env_params)
    return Lanes(env_state, jax.vmap(flat_features)(observation), jnp.zeros(count, jnp.float32), jnp.zeros(count, jnp.int32))


class LaneStep(NamedTuple):
    """One step of every lane: where they are then, what was done, whether an episode ended and by its nature or not."""

    lanes: Lanes
    transition: Transition
    ended: Array


def step_lanes(machine: Machine, lanes: Lanes, action: PyTree, key: PRNGKeyArray) -> tuple[LaneStep, Array]:
    """One step of every lane, and the plain rewards."""
    config = machine.config
    keys = jax.random.split(key, config.num_envs)
    step = jax.vmap(machine.env.step, (0, 0, 0, None))
    observation, env_state, reward, terminated, truncated, info = step(keys, lanes.env_state, action, machine.env_params)
    reward = reward.astype(jnp.float32)
    next_features = jax.vmap(flat_features)(info["final_observation"])
    discount = jnp.where(terminated, 0.0, config.gamma).astype(jnp.float32)
    transition = Transition(lanes.features, action, reward * config.reward_scale, next_features, discount)
    lanes = lanes._replace(env_state=env_state, features=jax.vmap(flat_features)(observation))
    return LaneStep(lanes, transition, terminated | truncated), reward


def account(step: LaneStep, reward: Array, tally: Tally) -> tuple[Lanes, Tally]:
    """The lanes with their returns so far, and the tally with the episodes that ended in this step."""
    lanes, ended = step.lanes, step.ended
    returns, lengths = lanes.episode_return + reward, lanes.episode_length + 1
    tally = tally._replace(
        episodes=tally.episodes + jnp.sum(ended, dtype=jnp.int32),
        episode_return=tally.episode_return + jnp.sum(jnp.where(ended, returns, 0.0)),
        episode_length=tally.episode_length + jnp.sum(jnp.where(ended, lengths, 0).astype(jnp.float32)),
    )
    lanes = lanes._replace(episode_return=jnp.where(ended, 0.0, returns), episode_length=jnp.where(ended, 0, lengths))
    return lanes, tally


def remember(machine: Machine, state: TrainState, step: LaneStep, vector_step: Any) -> TrainState:
    """The state with one step of every lane in its window, replay and statistics; `vector_step` counts from 0."""
    config, transition, window, statistics = machine.config, step.transition, state.window, state.statistics
    if statistics is not None:
        statistics = merge(statistics, transition.next_features)
    counts = True
    if window is not None:
        window = slide(window, transition, step.ended)
        transition, counts = n_step_transition(window, config.gamma), vector_step >= config.n_step - 1
    return state._replace(window=window, statistics=statistics, replay=replay.add(state.replay, transition, counts))


def collect(machine: Machine, state: TrainState, tally: Tally, key: PRNGKeyArray) -> tuple[TrainState, Tally]:
    """The vector steps of one iteration, written into the replay."""
    config = machine.config
    per_iteration = config.steps_per_iteration // config.num_envs

    def body(k: Any, carry: tuple[TrainState, Tally]) -> tuple[TrainState, Tally]:
        state, tally = carry
        act_key, env_key = jax.random.split(jax.random.fold_in(key, k))
        vector_step = state.iteration * per_iteration + k
        features = normalized(state.statistics, state.lanes.features)
        action = machine.algorithm.act(state.learner, features, act_key, vector_step * config.num_envs)
        step, reward = step_lanes(machine, state.lanes, action, env_key)
        lanes, tally = account(step, reward, tally)
        return remember(machine, state._replace(lanes=lanes), step, vector_step), tally

    return repeat(per_iteration, body, (state, tally))


def improve(machine: Machine, state: TrainState, tally: Tally, key: PRNGKeyArray) -> tuple[TrainState, Tally]:
    """The updates of one iteration; none while warming up."""
    config = machine.config
    done = (state.iteration - config.warmup_iterations) * config.updates_per_iteration

    def update(k: Any, carry: tuple[Any, Any, Tally]) -> tuple[Any, Any, Tally]:
        learner, priorities, tally = carry
        draw_key, update_key = jax.random.split(jax.random.fold_in(key, k))
        ring, exponent = state.replay._replace(priorities=priorities), importance_exponent(config, done + k)
        drawn = replay.draw(ring, draw_key, config, machine.example, exponent)
        batch = drawn.batch._replace(
            features=normalized(state.statistics, drawn.batch.features),
            next_features=normalized(state.statistics, drawn.batch.next_features),
        )
        learner, report = machine.algorithm.update(learner, batch, drawn.weights, update_key)
        tally = tally._replace(updates=tally.updates + 1, loss=tally.loss + report.loss, mean_q=tally.mean_q + report.mean_q)
        return learner, replay.mark(priorities, drawn.rows, report.td_error, config), tally

    begun, count = state.iteration >= config.warmup_iterations, config.updates_per_iteration
    carry = (state.learner, state.replay.priorities, tally)
    if config.prioritized:
        carry = jax.lax.fori_loop(0, jnp.where(begun, count, 0), update, carry)
    else:
        carry = jax.lax.cond(begun, lambda carry: repeat(count, update, carry), lambda carry: carry, carry)
    learner, priorities, tally = carry
    return state._replace(learner=learner, replay=state.replay._replace(priorities=priorities)), tally


def importance_exponent(config: TrainingConfig, updates: Int[Array, ""]) -> Float[Array, ""]:
    """beta after so many updates: along a line to 1 at the last one."""
    progress = updates.astype(jnp.float32) / max(config.total_updates - 1, 1)
    return config.importance_exponent + (1.0 - config.importance_exponent) * progress


def repeat(count: int, body: Callable[[Any, Any], Any], carry: Any) -> Any:
    """`count` applications of body(k, carry); a single one without a loop."""
    return body(0, carry) if count == 1 else jax.lax.fori_loop(0, count, body, carry)


def iterate(machine: Machine, state: TrainState, tally: Tally) -> tuple[TrainState, Tally]:
    """One iteration: collect, then learn."""
    key, collect_key, learn_key = jax.random.split(state.key, 3)
    state, tally = collect(machine, state, tally, collect_key)
    state, tally = improve(machine, state, tally, learn_key)
    return state._replace(iteration=state.iteration + 1, key=key), tally


def run_row(machine: Machine, state: TrainState) -> TrainState:
    """The iterations of one row of metrics, then the row."""
    full = machine.config.log_every // machine.config.steps_per_iteration
    row, count = state.iteration // full, jnp.minimum(full, machine.config.total_iterations - state.iteration)
    state, tally = jax.lax.fori_loop(0, count, lambda _, carry: iterate(machine, *carry), (state, empty_tally()))
    env_steps = state.iteration * machine.config.steps_per_iteration
    new = metrics_row(tally, env_steps, jnp.asarray(machine.algorithm.exploration(env_steps), jnp.float32))
    return state._replace(metrics=jax.tree.map(lambda table, value: table.at[row].set(value), state.metrics, new))


def make_program(env: Any, config: TrainingConfig, params: PyTree = None) -> Program:
    """The initial state and the runner for `env` with its parameters `params` (default: the environment's own)."""
    env_params = env.default_params if params is None else params
    actions = action_space(env, env_params)
    action = example_action(actions)
    observation, _ = jax.eval_shape(env.reset, jax.random.key(0), env_params)
    num_features = jax.eval_shape(flat_features, observation).size
    example = replay.empty_transition(num_features, action)
    machine = Machine(env, env_params, config, make_algorithm(config, actions), example)

    def init(key: PRNGKeyArray) -> TrainState:
        key, learner_key, lanes_key = jax.random.split(key, 3)
        return TrainState(
            iteration=jnp.zeros((), jnp.int32),
            key=key,
            learner=machine.algorithm.init(learner_key, example.features, action),
            lanes=reset_lanes(machine, lanes_key),
            window=None if config.n_step == 1 else empty_window(config.n_step, config.num_envs, example),
            statistics=first_statistics(num_features) if config.normalize else None,
            replay=replay.empty_ring(config, example),
            metrics=empty_metrics(config.rows),
        )

    def run(state: TrainState, n_rows: Any) -> TrainState:
        return jax.lax.fori_loop(0, n_rows, lambda _, state: run_row(machine, state), state)

    def result(state: TrainState) -> TrainResult:
        learner = state.learner
        return TrainResult(learner.params, learner.target_params, state.statistics, state.metrics, config, actions)

    return Program(init, run, result)


def make_train(env: Any, config: TrainingConfig, params: PyTree = None) -> Callable[[PRNGKeyArray], TrainResult]:
    """`train(key) -> TrainResult`: the whole of training as one pure function, to be jitted and vmapped over keys."""
    program = make_program(env, config, params)

    def train(key: PRNGKeyArray) -> TrainResult:
        # behind the barrier the compiler knows as little of the start as in a chunk, and so rounds alike
        state, rows = jax.lax.optimization_barrier((program.init(key), jnp.asarray(config.rows, jnp.int32)))
        return program.result(program.run(state, rows))

    return train
