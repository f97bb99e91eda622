"""Recommended arrays against the exhaustive optimum on one core: how good, and how many per second.

Scores are on 1e5 random workloads (sizes 1 to 1e4, budgets 2^5 to 2^16 multiply-accumulators) and on the layers of all networks
that the package knows, neither seen in training. Speeds are of calls with 65536 workloads, the oracle's of the same
workloads in the same run. `bench_recommender.py ablation` also trains (3000 steps each) networks that lack the embedding of
integers, the parts, or both; `bench_recommender.py spaces` trains recommenders for the other two spaces.
"""

import sys

import jax
import numpy as np
from timing import best, one_core, report

import rl
from costmodel import ArraySpace, BufferSpace, ScheduleSpace, layer_products
from rl.decisions.recommending.judging import Judgement
from rl.decisions.recommending.networks import Shape

WORKLOADS, REAL, STREAM = 100_000, 20_000, 1 << 16
TARGET_SPEED = 1e6
TARGETS = {"first choice": {"tie_aware": 0.95, "geomean": 0.999}, "best of 8": {"geomean": 0.9999, "worst": 0.99}}
STEPS = 3000
LACKING = {
    "logarithms": Shape(embedding="logarithms", parts=False, width=256, rank=64),
    "logarithms, parts": Shape(embedding="logarithms", width=256),
    "integers": Shape(parts=False, width=256, rank=64),
    "integers, parts": Shape(),
}
OTHERS = {
    "buffers": (BufferSpace(largest=1 << 18), Shape(embedding="logarithms", width=256, rank=16)),
    "schedules": (ScheduleSpace(largest=1 << 18), Shape()),
}


def show(workloads: str, judged: Judgement) -> None:
    for name, score in judged.items():
        targets = {f"target_{part}": value for part, value in TARGETS.get(name, {}).items()}
        report("recommender", workloads=workloads, choice=name, **score._asdict(), **targets)


def bench_quality(recommender: rl.Recommender) -> None:
    space = ArraySpace()
    show("random", rl.judge_recommender(recommender, space.sample(jax.random.key(1), WORKLOADS)))
    show("real layers", rl.judge_recommender(recommender, space.sample(jax.random.key(2), REAL, layer_products())))


def bench_speed(recommender: rl.Recommender) -> None:
    rows = np.asarray(ArraySpace().sample(jax.random.key(4), STREAM))
    every = STREAM / best(lambda: recommender.space.oracle(rows).cost)
    for name, options in (("first choice", {}), ("eight", {"top": 8}), ("best of 8", {"rescore": True})):
        rate = STREAM / best(lambda o=options: recommender.recommend(rows, **o))
        report("recommendations", choice=name, per_s=rate, target=TARGET_SPEED, oracle_per_s=every, over_oracle=rate / every)


def bench_ablation() -> None:
    rows = ArraySpace().sample(jax.random.key(1), REAL)
    for name, shape in LACKING.items():
        judged = rl.judge_recommender(rl.train_recommender(ArraySpace(), steps=STEPS, shape=shape), rows)
        for choice in TARGETS:
            report("ablation", network=name, choice=choice, **judged[choice]._asdict())


def bench_spaces() -> None:
    for name, (space, shape) in OTHERS.items():
        recommender = rl.train_recommender(space, steps=STEPS, batch=256, shape=shape)
        show(name, rl.judge_recommender(recommender, type(space)().sample(jax.random.key(1), REAL)))
        show(f"{name}, real layers", rl.judge_recommender(recommender, space.sample(jax.random.key(2), REAL, layer_products())))


def main() -> None:
    one_core()
    shipped = rl.load_recommender()
    bench_speed(shipped)
    bench_quality(shipped)
    if "ablation" in sys.argv[1:]:
        bench_ablation()
    if "spaces" in sys.argv[1:]:
        bench_spaces()


if __name__ == "__main__":
    main()
