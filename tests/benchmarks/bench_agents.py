"""Agents on the classic tasks and on routing: what they reach, how fast they train, what replay and compilation cost.

    bench_agents.py                         all of it
    bench_agents.py returns [task ...]      8 seeds, 128 greedy episodes of each: interquartile mean, interval, per seed
    bench_agents.py speed                   environment steps per second of the plain DQN on CartPole, one core
    bench_agents.py priorities              one draw and write-back of 64 among 2^20 priorities
    bench_agents.py compile                 cold, and from the persistent cache
    bench_agents.py routing [dqn] [sac]     the presets with foresight on the default platform, 10 seeds, against the optimum;
                                            a few minutes each, only when asked for

The tasks are gymnax's (extra `gymnax`); without it those parts say so and are left out. To race another program, time
`ours_cartpole(steps)` and that program by turns in one process.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import best, one_core, report

import costmodel
import rl
from rl.agents import replay
from rl.agents.presets import acrobot, cartpole, pendulum, routing_dqn, routing_sac
from rl.references.optimal import solve_routing
from rl.study.comparison import compare
from rl.study.evaluation import EVALUATION_KEY, evaluate_runs, summarise
from rl.study.learning import learning_curves, sample_efficiency

SEEDS, EPISODES = 8, 128
ROUTING = {"dqn": routing_dqn, "sac": routing_sac}
ROUTING_SEEDS, ROUTING_EPISODES = range(10), 256  # settings were chosen on seeds 100 to 102 and on other episodes
PRESETS = {"CartPole-v1": cartpole, "Acrobot-v1": acrobot, "Pendulum-v1": pendulum}


def gymnax_task(name: str) -> tuple[Any, Any]:
    """A task of gymnax with its parameters."""
    import gymnax

    return gymnax.make(name)


def plain_dqn(steps: int) -> rl.DQNConfig:
    """The plain DQN that other libraries ship: net 120-84, batch 128, 10 lanes, one update per 10 steps."""
    return rl.DQNConfig(
        total_steps=steps, num_envs=10, train_every=10, batch_size=128, buffer_size=10_000, learning_starts=10_000,
        hidden=(120, 84), double=False, dueling=False, learning_rate=2.5e-4, learning_rate_schedule="constant",
        target_update_every=50, epsilon_fraction=min(1.0, 250_000 / steps), max_grad_norm=None, log_every=steps // 10,
    )  # fmt: skip


def ours_cartpole(steps: int = 500_000, config: rl.DQNConfig | None = None) -> Callable[[int], Any]:
    """A compiled training on gymnax's CartPole-v1: call it with a seed, get a TrainResult that is ready."""
    env, params = gymnax_task("CartPole-v1")
    program = jax.jit(rl.make_train(env, config or plain_dqn(steps), params)).lower(jax.random.key(0)).compile()
    return lambda seed: jax.block_until_ready(program(jax.random.key(seed)))


def returns(agent: rl.TrainResult, env: Any, params: Any, episodes: int = EPISODES) -> np.ndarray:
    """Return of greedy episodes, shape [seeds, episodes]; a batch of agents plays the same episodes."""
    limit = int(params.max_steps_in_episode)

    def episode(policy: Any, key: Any) -> Any:
        reset_key, run_key = jax.random.split(key)

        def body(carry: Any, key: Any) -> Any:
            observation, state, live, total = carry
            observation, state, reward, terminated, truncated, _ = env.step(key, state, policy(observation), params)
            return (observation, state, live & ~(terminated | truncated), total + jnp.where(live, reward, 0.0)), None

        observation, state = env.reset(reset_key, params)
        start = (observation, state, jnp.array(True), jnp.zeros((), jnp.float32))
        return jax.lax.scan(body, start, jax.random.split(run_key, limit))[0][3]

    keys = jax.random.split(jax.random.key(10**6), episodes)
    play = jax.vmap(jax.vmap(episode, (None, 0)), (0, None))
    return np.asarray(jax.jit(play)(agent.policy(), keys))


def report_returns(task: str) -> None:
    env, params = gymnax_task(task)
    config = PRESETS[task]()
    start = time.perf_counter()
    agent = jax.block_until_ready(rl.train_many(env, config, list(range(SEEDS)), params=params))
    seconds = time.perf_counter() - start
    per_seed = returns(agent, env, params).mean(axis=1)
    low, high = rl.bootstrap_interval(per_seed)
    report(
        "agents_returns",
        task=task,
        algorithm=config.algorithm,
        steps=config.total_steps,
        iqm=rl.interquartile_mean(per_seed),
        interval=[round(low, 1), round(high, 1)],
        per_seed=[round(float(value), 1) for value in per_seed],
        seconds=seconds,
    )


def report_routing(names: list[str]) -> None:
    """Every training run on the episodes of the study, its gap paired with the value-iteration policy's episodes."""
    env, key = rl.SchedulingEnv(costmodel.load_platform("edge"), foresight=True), jax.random.key(EVALUATION_KEY)
    rules, optimum = rl.baselines(env), solve_routing(env).policy()
    judged = {"optimal": optimum, "random": rules["random"], "cost-greedy": rules["cost-greedy"]}
    found = {name: summarise(rl.evaluate(env, policy, key, ROUTING_EPISODES)) for name, policy in judged.items()}
    means = {name: float(np.mean(figures["scores"])) for name, figures in found.items()}
    for name in names:
        seconds, runs, config = [], [], ROUTING[name]()
        for seed in ROUTING_SEEDS:
            start = time.perf_counter()
            runs.append(jax.block_until_ready(rl.train(env, config, seed=seed)))
            seconds.append(time.perf_counter() - start)
        played = summarise(evaluate_runs(env, runs, key, ROUTING_EPISODES))
        verdict = compare(found | {name: played}, ["random", "cost-greedy"], "optimal")
        curves = learning_curves([run.metrics for run in runs])
        efficiency = sample_efficiency(curves, means["random"], means["optimal"])
        figures = {k: verdict[name][k] for k in ("score_iqm", "score_interval", "gap", "gap_interval", "improvement", "missed")}
        report(
            "agents_routing",
            algorithm=name,
            steps=config.total_steps,
            **figures,
            per_seed=[round(float(np.mean(run)), 2) for run in played["scores"]],
            optimum=means["optimal"],
            best_rule=verdict["cost-greedy"]["score_interval"],
            steps_to_90=efficiency["steps"],
            seconds_first=seconds[0],
            seconds=min(seconds),
        )


def report_speed() -> None:
    steps = 200_000
    run = ours_cartpole(steps)
    seconds = []
    for seed in range(3):
        start = time.perf_counter()
        run(seed)
        seconds.append(time.perf_counter() - start)
    report("agents_speed", env_steps_per_s=steps / min(seconds), updates_per_s=(steps - 10_000) / 10 / min(seconds))


def report_priorities(rounds: int = 2_000) -> None:
    config = rl.DQNConfig(buffer_size=2**20, num_envs=16, train_every=16, batch_size=64, total_steps=160_000, prioritized=True,
                          log_every=16_000)  # fmt: skip
    example = replay.empty_transition(1, jnp.int32(0))
    ring = replay.empty_ring(config, example)
    everywhere = replay.sum_tree.set_batch_bincount(ring.priorities, jnp.arange(2**20), jnp.ones(2**20))
    ring = ring._replace(size=jnp.int32(2**20), priorities=everywhere)

    def round_trip(number: Any, priorities: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(0), number)
        drawn = replay.draw(ring._replace(priorities=priorities), key, config, example, jnp.float32(1.0))
        return replay.mark(priorities, drawn.rows, drawn.weights, config)

    many = jax.jit(lambda tree: jax.lax.fori_loop(0, rounds, round_trip, tree).nodes[0])
    seconds = best(lambda: many(ring.priorities), repeat=3) / rounds
    report("agents_priorities", microseconds=1e6 * seconds, target=30.0)


def compile_once() -> None:
    env, params = gymnax_task("CartPole-v1")
    config = dataclasses.replace(cartpole(), noisy=True, prioritized=True, normalize=True, n_step=3)
    for name, chosen in (("plain", plain_dqn(100_000)), ("all parts", config)):
        start = time.perf_counter()
        lowered = jax.jit(rl.make_train(env, chosen, params)).lower(jax.random.key(0))
        traced = time.perf_counter()
        lowered.compile()
        end = time.perf_counter()
        cache = "warm" if os.environ.get("BENCH_WARM") else "cold"
        report("agents_compile", program=name, cache=cache, trace_s=traced - start, compile_s=end - traced, total_s=end - start)


def report_compile() -> None:
    """Two fresh processes that share a cache folder: the first finds it empty."""
    with tempfile.TemporaryDirectory() as folder:
        cache = {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        for warm in ({}, {"BENCH_WARM": "1"}):
            subprocess.run([sys.executable, __file__, "compile_once"], env=os.environ | cache | warm, check=True)


def main() -> None:
    wanted = sys.argv[1:2] or ["returns", "speed", "priorities", "compile"]
    if "returns" not in wanted:
        one_core()
    if "routing" in wanted:
        report_routing(sys.argv[2:] or list(ROUTING))
    if "priorities" in wanted:
        report_priorities()
    try:
        import gymnax  # noqa: F401
    except ImportError:
        print("gymnax is not installed (pip install tempo-pim[gymnax]): the parts that need its tasks are left out")
        return
    if "returns" in wanted:
        for task in sys.argv[2:] or PRESETS:
            report_returns(task)
    for name, part in {"speed": report_speed, "compile": report_compile, "compile_once": compile_once}.items():
        if name in wanted:
            part()


if __name__ == "__main__":
    main()
