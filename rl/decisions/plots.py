"""Pictures of decisions. Every function makes a figure and returns it; the caller shows or writes it."""

from typing import TYPE_CHECKING, Any

import numpy as np

from rl.decisions.explain import Attributions, ValueGaps

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

COLORS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#9d755d", "#bab0ac")  # Tableau 10, as in reports
INK, FAINT = "#222222", "#999999"
KELVIN = 273.15


def plot_decision_map(found: "xarray.Dataset") -> "Figure":
    """The targets of a `decision_map` and the gap of their scores; crosses where it fell back, dots where it migrated."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Rectangle

    names, celsius = [str(name) for name in found["option"].values], found["temperature"].values - KELVIN
    load = np.arange(found.sizes["load"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.9), sharey=True, layout="constrained")
    colors = [COLORS[i % len(COLORS)] for i in range(len(names))]
    norm = BoundaryNorm(np.arange(len(names) + 1) - 0.5, len(names))
    left.pcolormesh(load, celsius, found["target"].values, cmap=ListedColormap(colors), norm=norm, shading="nearest")
    drawn = right.pcolormesh(
        load, celsius, np.where(found["fallback"].values, np.nan, found["gap"].values), cmap="cividis", shading="nearest"
    )
    marks = [_mark(left, load, celsius, found[name].values, sign, name) for name, sign in (("fallback", "x"), ("migrated", "."))]
    patches = [Rectangle((0, 0), 1, 1, color=color) for color in colors]
    shown = [(patch, name) for patch, name in zip(patches, names, strict=True)] + [mark for mark in marks if mark]
    left.legend(
        *zip(*shown, strict=True), loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(shown), frameon=False, fontsize=9
    )
    figure.colorbar(drawn, ax=right, label="lead over the next best target (reward)")
    for axis in (left, right):
        step = max(1, len(load) // 8)
        axis.set_xticks(load[::step], [f"{value:.2g}" for value in found["load"].values[::step]])
        axis.set_xlabel(f"{found['load'].attrs['long_name']} ({found['load'].attrs['units']})")
    right.set_facecolor("#eeeeee")
    left.set_ylabel("temperature of the package (C)")
    right.set_title(f"{found.attrs['network']}, deadline {1e3 * found.attrs['deadline']:.0f} ms", fontsize=10, loc="left")
    return figure


def _mark(axis: Any, x: np.ndarray, y: np.ndarray, where: np.ndarray, sign: str, name: str) -> Any:
    rows, columns = np.nonzero(where)
    if not len(rows):
        return None
    return axis.plot(x[columns], y[rows], sign, color=INK, markersize=3.5, linestyle="none")[0], name


def plot_attributions(found: Attributions, entries: tuple[str, ...], targets: tuple[str, ...], top: int = 12) -> "Figure":
    """The `top` entries by integrated gradients, with gradient x input beside; the rest in one bar."""
    import matplotlib.pyplot as plt

    integrated, local = np.asarray(found.integrated, float), np.asarray(found.gradient_input, float)
    order = np.argsort(-np.abs(integrated))
    shown, rest = order[:top][::-1], order[top:]
    labels = ["all others"] * bool(len(rest)) + [entries[i] for i in shown]
    bars = np.concatenate([[integrated[rest].sum()] if len(rest) else [], integrated[shown]])
    ticks = np.concatenate([[local[rest].sum()] if len(rest) else [], local[shown]])
    figure, axis = plt.subplots(figsize=(9.5, 0.32 * len(labels) + 1.3), layout="constrained")
    places = np.arange(len(labels))
    axis.barh(places, bars, color=[COLORS[2] if value > 0 else COLORS[3] for value in bars], label="integrated gradients")
    axis.plot(ticks, places, "|", color=INK, markersize=11, label="gradient x input")
    axis.axvline(0, color=INK, linewidth=0.8)
    axis.set_yticks(places, labels, fontsize=9)
    target, against = targets[int(found.target)], targets[int(found.against)]
    axis.set_xlabel(f"speaks for {against}  <   share of the gap (reward)   >  speaks for {target}")
    start, end = float(found.baseline_gap), float(found.gap)
    axis.set_title(f"{target} over {against}: {start:+.3g} at the baseline, {end:+.3g} here", loc="left", fontsize=11)
    axis.legend(frameon=False, fontsize=9, loc="best")
    return figure


def plot_value_gaps(found: ValueGaps, targets: tuple[str, ...], hysteresis: float | None = None) -> "Figure":
    """How decided an agent is: the share of decisions with at most a given gap, one curve for each target."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    chosen, gap = np.asarray(found.target), np.maximum(np.asarray(found.gap, float), 1e-5)
    for number, name in enumerate(targets):
        mine = np.sort(gap[chosen == number])
        if len(mine):
            label = f"{name}, {len(mine) / len(gap):.0%} of decisions"
            axis.plot(mine, np.arange(1, len(mine) + 1) / len(mine), color=COLORS[number % len(COLORS)], label=label)
    if hysteresis:
        axis.axvline(hysteresis, color=FAINT, linestyle="--", label=f"hysteresis {hysteresis:g}")
    axis.set_xscale("log")
    axis.set_xlabel("lead of the chosen target's value over the next (reward)")
    axis.set_ylabel("share of its decisions")
    axis.set_ylim(0, 1)
    axis.legend(frameon=False, fontsize=9)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return figure
