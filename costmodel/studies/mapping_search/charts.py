"""Regret against evaluations and against seconds."""

from typing import TYPE_CHECKING, Any

import numpy as np

from costmodel.studies.mapping_search.runs import SAME

if TYPE_CHECKING:
    import xarray

COLOURS = {"gradient": "#4c78a8", "evolution": "#f58518", "bayesian": "#54a24b", "random": "#999999"}
FLOOR = 1e-4  # regret below which the axis ends: drawn on it


def plot_searches(data: "xarray.Dataset", axes: Any = None, title: str = "") -> Any:
    """Median regret over the seeds and its quartiles, left against evaluations, right against seconds; returns the figure.

    `data` of `compare_searches`, with as many points along both axes as the curves shall have; without seconds there is one
    panel. `axes`: as many as panels. Regret below 1e-4 is drawn on the lower edge.
    """
    import matplotlib.pyplot as plt

    panels = [name for name in ("evaluations", "seconds") if data.sizes[name]]
    if axes is None:
        _, axes = plt.subplots(1, len(panels), figsize=(4.8 * len(panels), 3.6), layout="constrained", sharey=True)
    panes = np.atleast_1d(axes)
    for pane, name in zip(panes, panels, strict=True):
        _draw(pane, data, name)
    panes[0].set_ylabel("regret: best / optimum - 1" + ("" if data.attrs["optimum_is"] == "exhaustive" else " (best found)"))
    panes[0].legend(frameon=False, fontsize=8)
    panes[0].set_title(title, loc="left", fontsize=10)
    return panes[0].figure


def _draw(pane: Any, data: "xarray.Dataset", name: str) -> None:
    best = data["best" if name == "evaluations" else "best_in_time"]
    for method in data["algorithm"].values:
        regret = (best.sel(algorithm=method) / data["optimum"] - 1).to_numpy()
        low, middle, high = (np.maximum(np.quantile(regret, q, axis=0, method="higher"), FLOOR) for q in (0.25, 0.5, 0.75))
        known, x = np.isfinite(middle), data[name].to_numpy()
        colour = COLOURS.get(str(method))
        line = pane.plot(x[known], middle[known], label=str(method), color=colour, linewidth=1.8)[0]
        pane.fill_between(
            x, low, np.where(np.isfinite(high), high, 1e6), where=known, color=line.get_color(), alpha=0.15, linewidth=0
        )
    pane.set(xscale="log", yscale="log", xlabel=name if name == "evaluations" else "seconds (compilation aside)")
    top = 10 ** np.ceil(np.log10(max(_highest(best, data), 1e-3)))
    pane.set_ylim(FLOOR * 0.8, min(top, 100.0))
    pane.set_yticks([FLOOR, 1e-3, 1e-2, 0.1, 1.0, 10.0][: 2 + int(np.log10(min(top, 10.0) / 1e-3))], minor=False)
    pane.set_yticklabels(["0", "0.1 %", "1 %", "10 %", "x 2", "x 11"][: len(pane.get_yticks())])
    pane.spines[["top", "right"]].set_visible(False)
    pane.grid(alpha=0.25, linewidth=0.5)


def _highest(best: "xarray.DataArray", data: "xarray.Dataset") -> float:
    regret = (best / data["optimum"] - 1).median("seed").to_numpy()
    return float(np.max(regret[np.isfinite(regret)], initial=SAME))
