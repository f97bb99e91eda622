"""Learned scheduling of task graphs, ten seeds, against the list schedulers and the optimum; two to ten minutes on one core.

Trained on graphs of at most 24 tasks. Judged on Cholesky, LU and QR of up to 40 tasks, of which Cholesky of 5 tiles a side and
LU and QR of 4 are larger than any trained on; then on the same with communication and on random graphs drawn with other
keys. References are optima where CP-SAT proves them (the extra `exact`), else lower bounds; `proved` says how many.
"""

import time

import jax
from timing import one_core, report

from rl.agents.graph_policy import GraphScheduler
from rl.agents.graph_training import MOST_TASKS, GraphTrainConfig, make_graph_train, training_problems
from rl.study.graph_comparison import (
    GraphInstance,
    communicating_instances,
    compare_graph_schedulers,
    comparison_lines,
    random_instances,
    tiled_instances,
)

SEEDS, SAMPLES, SECONDS = 10, 64, 40.0


def main() -> None:
    one_core()
    schedulers = train(GraphTrainConfig())
    tiled = tiled_instances(SECONDS)
    table("tiled", schedulers, tiled, SAMPLES)
    table("tiled, larger than trained on", schedulers, [i for i in tiled if i.graph.n_tasks > MOST_TASKS])
    table("tiled, with communication", schedulers, communicating_instances(SECONDS))
    table("random", schedulers, random_instances(SECONDS))


def train(config: GraphTrainConfig) -> list[GraphScheduler]:
    """One scheduler for each seed, from one compiled program."""
    problems = training_problems()
    start = time.perf_counter()
    program = jax.jit(make_graph_train(config, problems)).lower(jax.random.key(0)).compile()
    report("dags training, compile", seconds=time.perf_counter() - start)
    schedulers = []
    for seed in range(SEEDS):
        start = time.perf_counter()
        params, progress = jax.block_until_ready(program(jax.random.key(seed)))
        seconds = time.perf_counter() - start
        plays = config.updates * config.problems * config.plays
        report("dags training", seed=seed, seconds=seconds, plays_per_s=plays / seconds, last=float(progress[-20:].mean()))
        schedulers.append(GraphScheduler(params, config.hidden, config.window))
    return schedulers


def table(name: str, schedulers: list[GraphScheduler], instances: list[GraphInstance], samples: int = 0) -> None:
    """Print one table, and a JSON line for each of its rows."""
    proved = sum(instance.proved for instance in instances)
    print(f"\n{name}: makespan / reference, {proved} of {len(instances)} references are proved optima")
    if not proved:
        print("(OR-tools is not installed: all references are lower bounds)")
    scores = compare_graph_schedulers(schedulers, instances, samples)
    print("\n".join(comparison_lines(scores)))
    for score in scores:
        seeds = len(score.ratios)
        report(f"dags {name}", group=score.group, scheduler=score.scheduler, mean=score.mean, worst=score.worst, seeds=seeds)


if __name__ == "__main__":
    main()
