"""Gantt charts of cross-layer schedules: which layers work when, as a picture and as text."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from costmodel.mapping.bands import Plan
from costmodel.mapping.schedule import finish_times

SHADES = " .:-=+*#%@"


def activity(plan: Plan, bins: int) -> np.ndarray:
    """Share of each layer's copies that work, (layers, bins), over the time from 0 to the makespan.

    A place counts as evenly worked on during the cycle before its set is finished; of coarse sets, during the set.
    """
    maps = finish_times(plan.graph, plan.duplicates, sets=plan.sets, direction=plan.direction)
    edges = np.linspace(0, float(plan.schedule.makespan), bins + 1)
    rows = []
    for times, start, layer, copies in zip(
        maps, np.asarray(plan.schedule.start), plan.graph.layers, plan.duplicates, strict=True
    ):
        finished, count = np.unique(np.asarray(times), return_counts=True)
        done = np.concatenate([[0.0], np.cumsum(count)]) * layer.repeat  # products done at each of these times
        steps = np.diff(np.concatenate([[float(start)], finished]))
        lasting = np.minimum(steps, np.maximum(count * layer.repeat, 1.0))  # not longer than one copy needs for them
        moments = np.column_stack([finished - lasting, finished]).ravel()
        level = np.column_stack([done[:-1], done[1:]]).ravel()
        rows.append(np.diff(np.interp(edges, moments, level)) / (np.diff(edges) * float(copies)))
    return np.clip(np.stack(rows), 0.0, 1.0)


def gantt_chart(plan: Plan, title: str | None = None) -> Figure:
    """One line per layer: the darker, the more of its copies work; the number of copies stands beside it."""
    layers = plan.graph.layers
    height = float(np.clip(0.17 * len(layers) + 1.2, 2.5, 24.0))
    figure = Figure(figsize=(10, height), layout="constrained")
    axis: Any = figure.subplots()
    share = activity(plan, 600)
    end = float(plan.schedule.makespan)
    image = axis.imshow(
        share, aspect="auto", cmap="Blues", vmin=0, vmax=1, extent=(0, end, len(layers) - 0.5, -0.5), interpolation="nearest"
    )
    size = float(np.clip(7 * 24.0 / (0.17 * len(layers) + 1.2), 4, 7))
    spans = np.stack([np.asarray(plan.schedule.start), np.asarray(plan.schedule.finish)])
    axis.hlines(np.arange(len(layers)) + 0.42, *spans, color="#e45756", linewidth=0.7)
    names = [f"{n} x{d}" if d > 1 else n for n, d in zip(plan.graph.names, plan.duplicates, strict=True)]
    axis.set_yticks(range(len(layers)), names, fontsize=size)
    axis.set_xlabel("time (cycles: matrix-vector products)")
    axis.set_title(title or _title(plan), loc="left", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    figure.colorbar(image, ax=axis, label="share of the layer's copies at work", pad=0.01, aspect=40)
    return figure


def _title(plan: Plan) -> str:
    return (
        f"{plan.graph.name}: {plan.available} crossbars, sets {plan.sets}, {plan.rule}: "
        f"speedup {plan.speedup:.2f}, utilisation {100 * plan.utilisation:.1f} %"
    )


def draw_gantt(plan: Plan, path: str | Path, title: str | None = None) -> None:
    """Write the chart as a PNG file; OSError if that is not possible."""
    gantt_chart(plan, title).savefig(path, format="png", dpi=130, metadata={"Software": None})


def gantt_text(plan: Plan, width: int = 60) -> str:
    """The chart in characters, one line per layer: the denser the character, the more copies work."""
    share = activity(plan, width)
    longest = max(map(len, plan.graph.names))
    level = np.ceil(share * (len(SHADES) - 1) - 1e-6).astype(int)
    rows = zip(plan.graph.names, plan.duplicates, level, strict=True)
    return "\n".join(f"{name:{longest}}  x{d:<3} |{''.join(SHADES[i] for i in line)}|" for name, d, line in rows)
