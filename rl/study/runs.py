"""The training runs of a study: every algorithm, every seed, as many at a time as there are cores.

Each run is a program of its own with its own checkpoint, so what is finished stays finished, and its numbers do not depend
on what trains beside it.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from rl.agents.config import TrainingConfig
from rl.agents.program import TrainResult
from rl.agents.records import Metrics
from rl.agents.training import train
from rl.study.agent_tables import latest
from rl.study.algorithms import label
from rl.study.progress import Report

Run = tuple[str, int]  # algorithm and seed


class Stopped(Exception):
    """Ends a run because another failed or the user has had enough."""


def train_all(
    env: Any,
    configs: Mapping[str, TrainingConfig],
    seeds: int,
    folder: Path,
    progress: Report,
    note: Callable[[str, float], None],
    meanwhile: Callable[[], object] = lambda: None,
) -> dict[str, list[TrainResult]]:
    """Every algorithm of `configs` with the seeds 0 ... `seeds` - 1, from and into checkpoints in `folder`.

    `note(name, seconds)` hears how long each run took; `meanwhile()` is called in this thread once the others have begun. The
    first failure stops all runs and is raised.
    """
    stop, found = threading.Event(), {}
    runs = [(name, seed) for name in configs for seed in range(seeds)]

    def one(run: Run) -> tuple[TrainResult, float]:
        name, seed = run
        start = time.perf_counter()

        def report(done: int, total: int, row: Metrics) -> None:
            if stop.is_set():
                raise Stopped
            progress(f"{label(name)} seed {seed}", done, total, latest(row))

        path = folder / f"{name}-{seed}.npz"
        return train(env, configs[name], seed=seed, progress=report, checkpoint=path), time.perf_counter() - start

    with ThreadPoolExecutor(max_workers=cores()) as workers:
        try:
            futures = {workers.submit(one, run): run for run in runs}
            meanwhile()
            for run, (agent, seconds) in as_finished(futures):
                found[run] = agent
                note(f"training-{run[0]}-{run[1]}", seconds)
        finally:
            stop.set()
            workers.shutdown(cancel_futures=True)
    return {name: [found[name, seed] for seed in range(seeds)] for name in configs}


def as_finished(futures: dict[Future[Any], Run]) -> Iterator[tuple[Run, Any]]:
    """Results as they come; raises what a run raised."""
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
        for future in done:
            yield futures[future], future.result()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
