"""What a tiled operation does when: as a table row by row, and as a picture of its loads, kernels and stores."""

from pathlib import Path
from typing import Any

import numpy as np

from costmodel.mapping.tiles.pipelines import Stages
from costmodel.mapping.tiles.plans import Hop, OperatorPlan

LANES = (("load", "tab:blue"), ("kernel", "lightgreen"), ("store", "tab:red"))
MOST_BARS = 400  # tiles that are drawn


def hop_of(plan: OperatorPlan) -> Hop:
    """The hop that decides an operation's time: the outer one, if it has more than one tile, else the inner one."""
    return plan.outer if plan.outer is not None and plan.outer.tiles > 1 else plan.inner


def bars(stages: Stages, count: int) -> dict[str, list[tuple[float, float]]]:
    """(start, duration) in cycles of every load, kernel and store of the first `count` tiles that takes any time."""
    found = {}
    for name, _ in LANES:
        start = np.asarray(getattr(stages, f"{name}_start"), float)[:count]
        end = np.asarray(getattr(stages, f"{name}_end"), float)[:count]
        found[name] = [(float(a), float(b - a)) for a, b in zip(start, end, strict=True) if b > a]
    return found


def draw_timeline(pipelines: dict[str, Hop], path: Path | str, title: str | None = None) -> None:
    """Write a PNG of one or more pipelines below each other on one time axis: a lane each for loads, kernels and stores."""
    timeline_figure(pipelines, title).savefig(path, dpi=150)


def timeline_figure(pipelines: dict[str, Hop], title: str | None = None) -> Any:
    """The figure of `draw_timeline`; prologue and epilogue are shaded. At most the first `MOST_BARS` tiles are drawn."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.6 + 1.3 * len(pipelines)), layout="constrained")
    axes: Any = figure.subplots(len(pipelines), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, hop) in zip(axes, pipelines.items(), strict=True):
        own = bars(hop.stages, min(hop.tiles, MOST_BARS))
        for lane, (stage, colour) in enumerate(LANES):
            axis.broken_barh(own[stage], (-lane - 0.4, 0.8), facecolor=colour, edgecolor=colour, linewidth=0.4)
        start, end = float(hop.split.prologue), float(hop.split.prologue + hop.split.overlap)
        for low, high in ((0.0, start), (end, hop.cycles)):
            axis.axvspan(low, high, color="0.93", zorder=0)
        axis.set_yticks([0, -1, -2], [stage for stage, _ in LANES], fontsize=8)
        shown = "" if hop.tiles <= MOST_BARS else f", the first {MOST_BARS} drawn"
        axis.set_title(f"{name}: {hop.tiles} tiles, {hop.cycles:,.0f} cycles; {hop.waits}{shown}", fontsize=9, loc="left")
    axes[-1].set_xlabel("cycles")
    if title:
        figure.suptitle(title, fontsize=10)
    return figure
