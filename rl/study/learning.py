"""What was learned when: learning curves of several runs on common rows, and the steps until they reach 90 % of the way.

The returns are those of the training episodes themselves, exploration included, so a curve stays a little below what the
greedy policy would score, and the steps to a target are an upper bound.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rl.agents.records import Metrics
from rl.study.statistics import Estimate, learning_band, steps_to_reach, target_return

WINDOW = 4  # rows that are averaged: about 40 episodes of the default settings
FRACTION = 0.9


def learning_curves(metrics: Sequence[Metrics]) -> dict[str, Any]:
    """The curves of several runs of one algorithm: {"steps": [rows], "returns": [runs, rows], "episodes": [runs]}.

    Where no episode of a run ended in a row, its last value stands; rows before every run has one are left out.
    """
    steps = np.asarray(metrics[0].env_steps)
    ended = np.stack([np.asarray(run.episodes) > 0 for run in metrics])
    newest = np.maximum.accumulate(np.where(ended, np.arange(steps.size), -1), axis=1)
    returns = np.stack([np.asarray(run.episode_return, np.float64) for run in metrics])
    shown = ended.any(axis=0) & (newest >= 0).all(axis=0)
    return {
        "steps": steps[shown].astype(int).tolist(),
        "returns": np.take_along_axis(returns, np.maximum(newest, 0), axis=1)[:, shown].round(6).tolist(),
        "episodes": [int(np.sum(np.asarray(run.episodes))) for run in metrics],
    }


def sample_efficiency(curves: Mapping[str, Any], start: float, optimum: float) -> dict[str, Any]:
    """Environment steps until the curve reaches 90 % of the way from `start` to `optimum`; None stands for never."""
    target = target_return(start, optimum, FRACTION)
    found = Estimate(math.inf, math.inf, math.inf)
    if curves["steps"]:
        found = steps_to_reach(curves["steps"], curves["returns"], target, WINDOW)
    value, lo, hi = (int(steps) if math.isfinite(steps) else None for steps in found)
    return {"target": target, "steps": value, "interval": [lo, hi]}


def drawn_curve(curves: Mapping[str, Any]) -> dict[str, list[float]]:
    """The curve as it is drawn: interquartile mean over runs of the smoothed returns, with its interval."""
    band = learning_band(curves["steps"], curves["returns"], WINDOW)
    return {name: np.asarray(values).round(6).tolist() for name, values in band._asdict().items()}
