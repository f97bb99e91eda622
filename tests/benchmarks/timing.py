"""Shared by the benchmark scripts: best-of-n timing of a call that returns JAX arrays, and one JSON line per result."""

import json
import os
import time
from collections.abc import Callable
from typing import Any

import jax


def one_core() -> None:
    """Keep this process on one core; call before JAX computes anything."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def best(call: Callable[[], Any], repeat: int = 7, at_least: float = 0.2) -> float:
    """Seconds of the fastest of `repeat` rounds, each long enough to be timed; the first call (compilation) is not counted."""
    jax.block_until_ready(call())
    start = time.perf_counter()
    jax.block_until_ready(call())
    inner = max(1, int(at_least / max(time.perf_counter() - start, 1e-7) / repeat))
    rounds = []
    for _ in range(repeat):
        start = time.perf_counter()
        for _ in range(inner):
            result = call()
        jax.block_until_ready(result)
        rounds.append((time.perf_counter() - start) / inner)
    return min(rounds)


def report(name: str, **figures: Any) -> None:
    """Print one result as a JSON line."""
    rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in figures.items()}
    print(json.dumps({"benchmark": name, **rounded}), flush=True)
