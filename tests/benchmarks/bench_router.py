"""One million states routed on one core: the whole rule of three tiers, the cost model alone, and scikit-learn's own tree.

Seconds are the best of several rounds, of the wall clock and of the processor (the latter hardly depends on what else runs).
The states are of eight workloads at random, with everything different between them: temperatures, queues, age, deadline.
"""

import time

import jax
import numpy as np
from timing import one_core, report

from rl import ComplexityRouter, HardwareState
from rl.decisions.routing_tiers.training import draw_states

TASKS = ("fft", "fft 1024", "gemm 512x512x512", "gemm 64", "convolution 28", "sort 1000", "stencil 100", "lu 300")
STATES, ROUNDS, TARGET = 10**6, 9, 0.2


def best(call) -> tuple[float, float]:
    """Seconds of the fastest round on the wall clock, and of the processor."""
    call()
    wall, core = [], []
    for _ in range(ROUNDS):
        start = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - start[0])
        core.append(time.process_time() - start[1])
    return min(wall), min(core)


def sklearn_tree(x: np.ndarray, y: np.ndarray):
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(max_depth=7, max_leaf_nodes=40).fit(x[:50_000], y[:50_000])


def main() -> None:
    one_core()
    rng = np.random.default_rng(0)
    drawn = draw_states(STATES, 3, rng)
    state = HardwareState(*(np.ascontiguousarray(np.asarray(value).T) for value in drawn))
    which = rng.integers(0, len(TASKS), STATES).astype(np.int32)
    start = time.perf_counter()
    router = ComplexityRouter()
    start, made = time.perf_counter(), time.perf_counter() - start
    router.route("fft")
    report("router_start", init_s=made, first_route_s=time.perf_counter() - start)

    wall, core = best(lambda: router.route_batch(TASKS, state, which))
    report("router_batch", states=STATES, wall_s=wall, core_s=core, target_s=TARGET)
    oracle = ComplexityRouter()
    oracle.guide = None
    report(
        "router_cost_model_alone",
        **dict(zip(("wall_s", "core_s"), best(lambda: oracle.route_batch(TASKS, state, which)), strict=True)),
    )
    x = rng.normal(size=(STATES, len(router.features))).astype(np.float32)
    model = sklearn_tree(x, rng.integers(0, 3, STATES))
    alone = best(lambda: model.predict(x))
    report("sklearn_predict_alone", wall_s=alone[0], core_s=alone[1], batch_over_sklearn=core / alone[1])
    once = best(lambda: jax.block_until_ready(router.route("fft").target))
    report("router_single", wall_us=1e6 * once[0], core_us=1e6 * once[1])


if __name__ == "__main__":
    main()
