"""Statistics of few runs: interquartile means, intervals, probability of improvement, gap to the optimum, sample efficiency.

Scores are matrices [runs, tasks]: one row per training seed, one column per task, or per evaluation episode where every
policy plays the same episodes. Intervals are percentile bootstraps; what is drawn again is named by `design`:

stratified   in every column the runs are drawn anew, the columns stay: right where each (run, task) is a training of its
             own, as in Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021,
             whose library rliable this module agrees with
crossed      whole rows and whole columns are drawn: right where one agent plays all episodes and the episodes are themselves
             a sample. Drawing rows within columns would treat the episodes of a bad seed as independent and give intervals
             several times too narrow. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007: at worst the
             intervals are a little wide.

A rule without training has a single row; its uncertainty is that of the episodes. Matrices compared with one another
share their columns, so an episode is drawn for both or for neither, and what makes it hard for both cancels.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

Design = Literal["stratified", "crossed"]
Matrix = Float[np.ndarray, "*draws runs tasks"]
Values = Float[np.ndarray, "*draws"] | np.floating
Statistic = Callable[..., Values]  # of matrices, one value per draw
AT_ONCE = 2**22  # numbers drawn at once


class Estimate(NamedTuple):
    """A value with the bounds of its interval."""

    value: float
    lo: float
    hi: float


class Band(NamedTuple):
    """A curve with the bounds of its interval at each point `at`; arrays [points]."""

    at: np.ndarray
    value: np.ndarray
    lo: np.ndarray
    hi: np.ndarray


def interquartile_mean(values: Any) -> float:
    """Mean of the middle half of all `values`, [values] or [runs, tasks]: a quarter, rounded down, is cut off at each end."""
    return float(_middle(_matrix(values).ravel()))


def bootstrap_interval(
    values: Any, seed: int = 0, draws: int = 2000, level: float = 0.95, design: Design = "stratified"
) -> tuple[float, float]:
    """Percentile bootstrap interval of the interquartile mean of `values`, [values] or [runs, tasks].

    `level` is the coverage; `draws` resamples come from NumPy's generator with this `seed`. ValueError if `values` are none.
    """
    found = bootstrap(pooled, values, seed=seed, draws=draws, level=level, design=design)
    return found.lo, found.hi


def pooled(scores: Matrix) -> Values:
    """Interquartile mean over all runs and tasks [..., runs, tasks]: the aggregate of Agarwal et al."""
    return _middle(scores.reshape(*scores.shape[:-2], -1))


def over_runs(scores: Matrix) -> Values:
    """Interquartile mean over runs of each run's mean over its tasks [..., runs, tasks].

    The mean over episodes is what agents are trained for; only whole runs, lucky or unlucky, are cut off.
    """
    return _middle(scores.mean(axis=-1))


def improvement(x: Matrix, y: Float[np.ndarray, "*draws others tasks"]) -> Values:
    """Probability that a run of `x` beats one of `y` on the same task, a tie counting half; mean over tasks."""
    return _wins(x, y).mean(axis=(-3, -2, -1))


def gap(scores: Matrix, reference: Float[np.ndarray, "*draws others tasks"]) -> Values:
    """How far `over_runs(scores)` stays below the mean of `reference`, in per cent of that mean's size.

    Negative where the reference is surpassed. The mean of the reference must not be zero.
    """
    best = reference.mean(axis=(-2, -1))
    return 100 * (best - over_runs(scores)) / np.abs(best)


def bootstrap(
    statistic: Statistic, *scores: Any, seed: int = 0, draws: int = 2000, level: float = 0.95, design: Design = "crossed"
) -> Estimate:
    """`statistic(*scores)` with its interval; vectors count as one column.

    In the crossed design all matrices must have the same columns. ValueError for empty, unequal or non-finite scores, and for
    `draws` or `level` out of range.
    """
    matrices = [_matrix(values) for values in scores]
    found = np.concatenate(list(_resampled(statistic, matrices, seed, draws, level, design)))
    lo, hi = np.percentile(found, _tails(level))
    return Estimate(float(statistic(*matrices)), float(lo), float(hi))


def probability_of_improvement(
    x: Any, y: Any, seed: int = 0, draws: int = 2000, level: float = 0.95, design: Design = "stratified"
) -> Estimate:
    """Probability that a run of `x` [runs, tasks] beats a run of `y` [other runs, tasks] on a task: Mann and Whitney's U."""
    if _matrix(x).shape[1] != _matrix(y).shape[1]:
        raise ValueError(f"x and y need the same tasks, got {_matrix(x).shape[1]} and {_matrix(y).shape[1]} columns")
    return bootstrap(improvement, x, y, seed=seed, draws=draws, level=level, design=design)


def optimality_gap(
    scores: Any, reference: Any, seed: int = 0, draws: int = 2000, level: float = 0.95, design: Design = "crossed"
) -> Estimate:
    """`gap` with its interval: per cent by which `scores` [runs, tasks] stay below `reference`, [tasks] or [runs, tasks].

    With the crossed design the same episodes are drawn for both.
    """
    row = np.asarray(reference, np.float64)
    return bootstrap(gap, scores, row[None] if row.ndim == 1 else row, seed=seed, draws=draws, level=level, design=design)


def performance_profile(
    scores: Any, thresholds: Any, seed: int = 0, draws: int = 2000, level: float = 0.95, design: Design = "stratified"
) -> Band:
    """Share of all runs and tasks that score more than each of `thresholds` [thresholds]."""
    marks = np.asarray(thresholds, np.float64).ravel()
    statistic = lambda x: (x[..., None] > marks).mean(axis=(-3, -2))  # noqa: E731
    matrix = _matrix(scores)
    found = np.concatenate(list(_resampled(statistic, [matrix], seed, draws, level, design, marks.size)))
    lo, hi = np.percentile(found, _tails(level), axis=0)
    return Band(marks, np.asarray(statistic(matrix)), lo, hi)


def learning_band(steps: Any, curves: Any, window: int = 1, seed: int = 0, draws: int = 2000, level: float = 0.95) -> Band:
    """The learning curve of several runs: interquartile mean over runs [runs, rows] of the mean of the last `window` rows.

    `steps` [rows] are those at the end of each row; the interval at each row draws runs anew.
    """
    drawn, curve = _learning(steps, curves, window, seed, draws)
    lo, hi = np.percentile(drawn, _tails(level), axis=0)
    return Band(np.asarray(steps, np.float64), np.asarray(curve), lo, hi)


def target_return(start: float, optimum: float, fraction: float = 0.9) -> float:
    """The return at `fraction` of the way from `start` (that of the random policy) to `optimum`.

    Returns of a cost are negative, and 90 % of -30 would be better than -30 itself; the way from random to optimal has no
    such trap, does not move when a constant is added to every return, and is the plain fraction where random scores 0.
    """
    return start + fraction * (optimum - start)


def steps_to_reach(
    steps: Any, curves: Any, target: float, window: int = 1, seed: int = 0, draws: int = 2000, level: float = 0.95
) -> Estimate:
    """Environment steps until a learning curve first reaches `target`; infinite where it never does.

    The curve is that of `learning_band`; the interval draws runs anew.
    """
    drawn, curve = _learning(steps, curves, window, seed, draws)
    at = np.asarray(steps, np.float64)

    def first(curve: np.ndarray) -> np.ndarray:
        reached = curve >= target
        return np.where(reached.any(axis=-1), at[np.argmax(reached, axis=-1)], np.inf)

    lo, hi = np.percentile(first(drawn), _tails(level), method="nearest")  # no halfway between a step and never
    return Estimate(float(first(curve)), float(lo), float(hi))


def _learning(steps: Any, curves: Any, window: int, seed: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """The learning curve of `draws` resamples of runs [draws, rows], and that of the runs themselves [rows]."""
    returns, rng = _matrix(curves), np.random.default_rng(seed)
    if np.shape(steps) != returns.shape[1:]:
        raise ValueError(f"steps and curves need the same rows, got {np.size(steps)} and {returns.shape[1]}")
    smooth = running_mean(returns, window)
    drawn = smooth[rng.integers(0, len(smooth), (draws, len(smooth)))]
    return np.asarray(_middle(drawn, axis=-2)), np.asarray(_middle(smooth, axis=-2))


def running_mean(curves: Float[np.ndarray, "*runs rows"], window: int) -> Float[np.ndarray, "*runs rows"]:
    """Mean of the last `window` entries [..., rows], of fewer at the start. ValueError if `window` is not positive."""
    if window < 1:
        raise ValueError(f"window = {window} rows is outside its range [1, inf)")
    total = np.cumsum(curves, axis=-1)
    late = np.concatenate([total[..., :window], total[..., window:] - total[..., :-window]], axis=-1)
    return late / np.minimum(np.arange(1, curves.shape[-1] + 1), window)


def _middle(values: np.ndarray, axis: int = -1) -> Values:
    """Interquartile mean along one axis."""
    ordered = np.sort(np.moveaxis(values, axis, -1), axis=-1)
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1)


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1 where a run of `x` beats one of `y`, 1/2 where they tie: [..., runs of x, runs of y, tasks]."""
    left, right = x[..., :, None, :], y[..., None, :, :]
    return 0.5 * ((left > right).astype(np.float64) + (left >= right))


def _matrix(values: Any) -> np.ndarray:
    found = np.asarray(values, np.float64)
    found = found[:, None] if found.ndim == 1 else found
    if found.ndim != 2 or found.size == 0 or not np.isfinite(found).all():
        raise ValueError(f"scores must be finite numbers [runs] or [runs, tasks], at least one; got the shape {found.shape}")
    return found


def _tails(level: float) -> list[float]:
    return [50 * (1 - level), 50 * (1 + level)]


def _resampled(
    statistic: Statistic, matrices: list[np.ndarray], seed: int, draws: int, level: float, design: Design, wide: int = 1
) -> Iterator[Any]:
    """The statistic of `draws` resamples, some at a time; `wide`: numbers that the statistic makes of each score."""
    if draws < 1 or not 0 < level < 1:
        raise ValueError(f"draws = {draws} and level = {level:g} are outside their ranges [1, inf) and (0, 1)")
    if design not in ("stratified", "crossed"):
        raise ValueError(f"design = {design!r} is not one of 'stratified', 'crossed'")
    columns = matrices[0].shape[1]
    if design == "crossed" and any(matrix.shape[1] != columns for matrix in matrices):
        raise ValueError(f"crossed scores need the same columns, got {', '.join(str(m.shape[1]) for m in matrices)}")
    rng = np.random.default_rng(seed)
    size = wide * max(int(np.prod([len(m) for m in matrices])) * columns, *(m.size for m in matrices), 1)
    chunk = max(1, AT_ONCE // size)
    for start in range(0, draws, chunk):
        count = min(chunk, draws - start)
        picked = rng.integers(0, columns, (count, 1, columns))
        yield statistic(*[_drawn(rng, matrix, count, picked if design == "crossed" else None) for matrix in matrices])


def _drawn(rng: np.random.Generator, matrix: np.ndarray, count: int, picked: np.ndarray | None) -> np.ndarray:
    """`count` resamples of one matrix: rows anew in every column, or whole rows at the columns `picked`."""
    runs, tasks = matrix.shape
    if picked is None:
        return matrix[rng.integers(0, runs, (count, runs, tasks)), np.arange(tasks)]
    return matrix[rng.integers(0, runs, (count, runs, 1)), picked]
