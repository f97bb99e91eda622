"""Policies compared on the same episodes: score, gap to the optimum, probability of improvement over the best rule.

score         interquartile mean over training runs of a run's mean return over the episodes; a rule has one run
gap           what is missing to the mean return of the optimum on the same episodes, in per cent of it
improvement   probability that a run beats the best rule on the same episode, a tie counting half

Intervals draw runs and episodes anew, the same episodes for both sides ("crossed", see `statistics.py`): 95 %.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rl.study.statistics import Estimate, bootstrap, improvement, optimality_gap, over_runs


def compare(found: Mapping[str, dict[str, Any]], rules: Iterable[str], optimum: str | None = None) -> dict[str, dict[str, Any]]:
    """The policies of `found` (from `summarise`), each with its score, gap and improvement; best score first.

    `rules` names those that need no training, `optimum` the reference; without one there are no gaps.
    """
    scores = {name: np.asarray(figures["scores"], np.float64) for name, figures in found.items()}
    rule = max(rules, key=lambda name: float(over_runs(scores[name])), default=None)
    judged = {}
    for name in sorted(scores, key=lambda name: -float(over_runs(scores[name]))):
        figures = {"runs": len(scores[name])} | _entry("score", bootstrap(over_runs, scores[name]))
        if optimum is not None and name != optimum:
            figures |= _entry("gap", optimality_gap(scores[name], scores[optimum]))
        if rule is not None and name != rule:
            figures |= _entry("improvement", bootstrap(improvement, scores[name], scores[rule]))
        judged[name] = found[name] | figures
    return judged


def best_of(judged: Mapping[str, dict[str, Any]], names: Iterable[str]) -> str:
    """The name of the highest score among `names`."""
    return max(names, key=lambda name: judged[name]["score_iqm"])


def median_run(scores: Any) -> int:
    """The run whose mean score is in the middle, the lower one of two; `scores` [runs, episodes]."""
    order = np.argsort(np.mean(np.asarray(scores, np.float64), axis=1), kind="stable")
    return int(order[(len(order) - 1) // 2])


def _entry(name: str, estimate: Estimate) -> dict[str, Any]:
    key = "score_iqm" if name == "score" else name
    return {key: estimate.value, f"{name}_interval": [estimate.lo, estimate.hi]}
