"""The optimum of the default routing problem: size, time, refinement; its policy beside rules, a DQN and the bound.

Scores are sums of rewards over the 256 tasks of an episode, on the episodes all policies of the study are judged on.
`bench_optimal.py 0` trains no agent.
"""

import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import one_core, report

import costmodel
import rl
from rl.references.bounds import score_bounds
from rl.references.grids import GridNodes
from rl.references.optimal import RoutingOptimum, extrapolate, predicted_scores, solve_routing, starts
from rl.study.evaluation import EVALUATION_KEY, agent_policy

EPISODES = 256


def solve(env: rl.SchedulingEnv, label: str, nodes: GridNodes) -> RoutingOptimum:
    """Solve and report; CPU time, because the machine may be shared."""
    wall, core = time.perf_counter(), time.process_time()
    optimum = jax.block_until_ready(solve_routing(env, nodes=nodes))
    report(
        f"optimum, {label} grid",
        nodes=optimum.grid.size,
        contexts=optimum.error.size,
        states=optimum.grid.size * optimum.error.size,
        seconds=time.perf_counter() - wall,
        cpu_seconds=time.process_time() - core,
        values_mb=optimum.values.nbytes / 1e6,
    )
    return optimum


def show(name: str, score: Any, reference: float) -> None:
    """Mean, interquartile mean with its interval, and the gap of the mean to `reference` in percent."""
    score = np.asarray(score, np.float64)
    low, high = rl.bootstrap_interval(score)
    gap = 100 * (reference - score.mean()) / abs(reference)
    report(name, mean=score.mean(), iqm=rl.interquartile_mean(score), low=low, high=high, gap_percent=gap)


def main(seeds: int) -> None:
    one_core()
    env, key = rl.SchedulingEnv(costmodel.load_platform("edge")), jax.random.key(EVALUATION_KEY)
    fine = solve(env, "default", GridNodes())
    coarse = solve(env, "coarse", GridNodes().coarser())
    states = starts(env, key, EPISODES)
    report("refinement, mean score", **extrapolate(coarse, fine, states)._asdict())
    played = rl.evaluate(env, fine.policy(), key, EPISODES)
    reference = float(jnp.mean(played.score))
    show("value iteration", played.score, reference)
    show("value iteration, coarse grid", rl.evaluate(env, coarse.policy(), key, EPISODES).score, reference)
    show("value iteration, predicted", predicted_scores(fine, states), reference)
    show("bound", score_bounds(env, key, EPISODES), reference)
    for name, rule in rl.baselines(env).items():
        show(name, rl.evaluate(env, rule, key, EPISODES).score, reference)
    for seed in range(seeds):
        agent = rl.train(env, rl.DQNConfig(), seed=seed)
        show(f"dqn, seed {seed}", rl.evaluate(env, agent_policy(agent), key, EPISODES).score, reference)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
