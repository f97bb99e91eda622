"""Deep Q-networks trained entirely on the device: one pure function from a random key to a trained network.

One iteration steps every lane until `train_every` environment steps have passed (at least once), then makes the
updates that are due (`q_learning.learn`). Whether learning has begun depends on the iteration counter only, never on
lane data, so that the branch stays a branch when seeds are batched; the replay buffer is read there but never carried
through it. Everything that changes is in `TrainState`, the metrics included: running it in one go, in chunks, or after
a restart is the same sequence of operations.

An environment is any object with `reset(key, params)`, `step(key, state, action, params)` of six results and
automatic reset, and `info["final_observation"]` at every step (the protocol of gymnax 1.0).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from rl.agents.dqn_config import DQNConfig
from rl.agents.networks import DuelingQNetwork, action_values
from rl.agents.q_learning import Learner, epsilon_at, epsilon_greedy, init_learner, learn, make_optimizer
from rl.agents.records import Metrics, Tally, empty_metrics, empty_tally, metrics_row
from rl.agents.replay import Transition, empty_transition, make_replay

__all__ = ["DQNConfig", "Metrics", "Program", "TrainResult", "TrainState", "greedy_policy", "make_program", "make_train"]


class Lanes(NamedTuple):
    """The environments side by side: their states, current features, and the running return and length."""

    env_state: PyTree
    features: Float[Array, "lanes features"]
    episode_return: Float[Array, " lanes"]
    episode_length: Int[Array, " lanes"]


class TrainState(NamedTuple):
    """Everything that changes during training; a run continued from it is the same run."""

    iteration: Int[Array, ""]
    key: PRNGKeyArray
    learner: Learner
    lanes: Lanes
    replay: PyTree
    metrics: Metrics


class TrainResult(eqx.Module):
    """A trained network and the record of its training; batched over seeds where the training was.

    `params` and `target_params` are those of the last update.
    """

    params: PyTree
    target_params: PyTree
    metrics: Metrics
    config: DQNConfig = eqx.field(static=True)
    num_actions: int = eqx.field(static=True)

    def policy(self) -> Callable[[Float[Array, "..."]], Int[Array, ""]]:
        """The greedy policy: observation -> action. It is a pytree, so that jitted code may take it as an argument."""
        return jax.tree_util.Partial(greedy_policy(self.config, self.num_actions), self.params)


class Program(NamedTuple):
    """Training in parts: a fresh state, that state some rows of metrics further, and what is handed out of it.

    `n_rows` may be traced.
    """

    init: Callable[[PRNGKeyArray], TrainState]
    run: Callable[[TrainState, Any], TrainState]
    result: Callable[[TrainState], TrainResult]


def flat_features(observation: Float[Array, "..."] | Int[Array, "..."] | Bool[Array, "..."]) -> Float[Array, " features"]:
    """An observation of any shape as a float32 vector; learning is in float32 whatever JAX's default."""
    return jnp.ravel(observation).astype(jnp.float32)


def make_network(config: DQNConfig, num_actions: int) -> DuelingQNetwork:
    """The network that `config` describes."""
    return DuelingQNetwork(num_actions=num_actions, hidden=config.hidden, dueling=config.dueling)


@functools.cache
def greedy_policy(config: DQNConfig, num_actions: int) -> Callable[[PyTree, Float[Array, "..."]], Int[Array, ""]]:
    """`act(params, observation) -> action`: the action of highest value for ONE observation; vmap it for many.

    Of equal values the lowest action wins.
    """
    network = make_network(config, num_actions)

    def act(params: PyTree, observation: Float[Array, "..."]) -> Int[Array, ""]:
        return jnp.argmax(action_values(network, params, flat_features(observation)), axis=-1).astype(jnp.int32)

    return act


class Machine(NamedTuple):
    """The parts that do not change during training."""

    env: Any
    env_params: PyTree
    config: DQNConfig
    network: Any
    optimizer: Any
    replay: Any


def reset_lanes(machine: Machine, key: PRNGKeyArray) -> Lanes:
    """Every lane at the start of an episode."""
    count = machine.config.num_envs
    observation, env_state = jax.vmap(machine.env.reset, (0, None))(jax.random.split(key, count), machine.env_params)
    return Lanes(env_state, jax.vmap(flat_features)(observation), jnp.zeros(count, jnp.float32), jnp.zeros(count, jnp.int32))


def step_lanes(
    machine: Machine, lanes: Lanes, tally: Tally, params: PyTree, key: PRNGKeyArray, epsilon: Float[Array, ""]
) -> tuple[Lanes, Tally, Transition]:
    """One step of every lane, and the account of the episodes that finished in it."""
    action_key, env_key = jax.random.split(key)
    action = epsilon_greedy(action_key, action_values(machine.network, params, lanes.features), epsilon)
    env_keys = jax.random.split(env_key, machine.config.num_envs)
    observation, env_state, reward, terminated, truncated, info = jax.vmap(machine.env.step, (0, 0, 0, None))(
        env_keys, lanes.env_state, action, machine.env_params
    )
    reward = reward.astype(jnp.float32)
    next_features = jax.vmap(flat_features)(info["final_observation"])
    transition = Transition(lanes.features, action, reward * machine.config.reward_scale, next_features, terminated)
    returns, lengths, finished = lanes.episode_return + reward, lanes.episode_length + 1, terminated | truncated
    tally = tally._replace(
        episodes=tally.episodes + jnp.sum(finished, dtype=jnp.int32),
        episode_return=tally.episode_return + jnp.sum(jnp.where(finished, returns, 0.0)),
        episode_length=tally.episode_length + jnp.sum(jnp.where(finished, lengths, 0).astype(jnp.float32)),
    )
    returns, lengths = jnp.where(finished, 0.0, returns), jnp.where(finished, 0, lengths)
    return Lanes(env_state, jax.vmap(flat_features)(observation), returns, lengths), tally, transition


def collect(machine: Machine, state: TrainState, tally: Tally, key: PRNGKeyArray) -> tuple[TrainState, Tally]:
    """The vector steps of one iteration, written into the replay buffer."""
    count = machine.config.num_envs
    start = state.iteration * machine.config.steps_per_iteration

    def body(k: Any, carry: tuple[Lanes, Tally, PyTree]) -> tuple[Lanes, Tally, PyTree]:
        lanes, tally, replay = carry
        epsilon = epsilon_at(machine.config, start + k * count)
        step_key = jax.random.fold_in(key, k)
        lanes, tally, rows = step_lanes(machine, lanes, tally, state.learner.params, step_key, epsilon)
        return lanes, tally, machine.replay.add(replay, rows)

    vector_steps = machine.config.steps_per_iteration // count
    lanes, tally, replay = repeat(vector_steps, body, (state.lanes, tally, state.replay))
    return state._replace(lanes=lanes, replay=replay), tally


def improve(machine: Machine, state: TrainState, tally: Tally, key: PRNGKeyArray) -> tuple[TrainState, Tally]:
    """The updates of one iteration; none while warming up."""
    config = machine.config

    def update(k: Any, carry: tuple[Learner, Tally]) -> tuple[Learner, Tally]:
        batch = machine.replay.sample(state.replay, jax.random.fold_in(key, k)).experience
        learner, report = learn(config, machine.network, machine.optimizer, carry[0], batch)
        tally = carry[1]
        return learner, tally._replace(
            updates=tally.updates + 1, loss=tally.loss + report.loss, mean_q=tally.mean_q + report.mean_q
        )

    def all_updates(carry: tuple[Learner, Tally]) -> tuple[Learner, Tally]:
        return repeat(config.updates_per_iteration, update, carry)

    begun = state.iteration >= config.warmup_iterations
    learner, tally = jax.lax.cond(begun, all_updates, lambda carry: carry, (state.learner, tally))
    return state._replace(learner=learner), tally


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
    new = metrics_row(tally, env_steps, epsilon_at(machine.config, env_steps))
    return state._replace(metrics=jax.tree.map(lambda table, value: table.at[row].set(value), state.metrics, new))


def make_program(env: Any, config: DQNConfig, params: PyTree = None) -> Program:
    """The initial state and the runner for `env` with its parameters `params` (default: the environment's own)."""
    env_params = env.default_params if params is None else params
    num_actions = int(env.num_actions)
    num_features = math.prod(env.observation_space(env_params).shape)
    machine = Machine(env, env_params, config, make_network(config, num_actions), make_optimizer(config), make_replay(config))

    def init(key: PRNGKeyArray) -> TrainState:
        key, network_key, lanes_key = jax.random.split(key, 3)
        return TrainState(
            iteration=jnp.zeros((), jnp.int32),
            key=key,
            learner=init_learner(machine.network, machine.optimizer, network_key, num_features),
            lanes=reset_lanes(machine, lanes_key),
            replay=machine.replay.init(empty_transition(num_features)),
            metrics=empty_metrics(config.rows),
        )

    def run(state: TrainState, n_rows: Any) -> TrainState:
        return jax.lax.fori_loop(0, n_rows, lambda _, state: run_row(machine, state), state)

    def result(state: TrainState) -> TrainResult:
        return TrainResult(state.learner.params, state.learner.target_params, state.metrics, config, num_actions)

    return Program(init, run, result)


def make_train(env: Any, config: DQNConfig, params: PyTree = None) -> Callable[[PRNGKeyArray], TrainResult]:
    """`train(key) -> TrainResult`: the whole of training as one pure function, to be jitted and vmapped over keys."""
    program = make_program(env, config, params)

    def train(key: PRNGKeyArray) -> TrainResult:
        # behind the barrier the compiler knows as little of the start as in a chunk, and so rounds alike
        state, rows = jax.lax.optimization_barrier((program.init(key), jnp.asarray(config.rows, jnp.int32)))
        return program.result(program.run(state, rows))

    return train
