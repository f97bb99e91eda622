"""The study's pictures, drawn from `results.json` and `sweep.nc` alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from rl.files import write_with
from rl.study.algorithms import label, run_label
from rl.study.learning import drawn_curve

PALETTE = {
    "cpu": "#4c78a8",
    "gpu": "#f58518",
    "pim": "#54a24b",
    "stm32l4r5": "#4c78a8",
    "edge-gpu": "#f58518",
    "edge-pim": "#54a24b",
    "isaac": "#9d755d",
    "isaac-ce": "#b279a2",
    "puma": "#e45756",
    "neurram": "#72b7b2",
}
TONES = {"dqn": "#b279a2", "sac": "#e45756", "edge-sched-dqn": "#72b7b2", "optimal": "#222222"}
INK, FAINT = "#222222", "#999999"
STYLE: Any = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold", "axes.titlesize": 11,
    "axes.titlelocation": "left", "font.size": 10, "axes.edgecolor": FAINT, "axes.labelcolor": INK, "legend.frameon": False,
    "figure.dpi": 110, "savefig.bbox": "tight",
}  # fmt: skip


def draw_plots(results: dict[str, Any], out: Path) -> dict[str, Path]:
    """All plots as PNG files in OUT/plots; their paths by name."""
    drawers: dict[str, Callable[[], Figure]] = {
        "costs": lambda: costs(results),
        "policies": lambda: policies(results),
        "decisions": lambda: probes(results),
        "learning": lambda: learning(results),
        "sensitivity": lambda: sensitivity(results),
        "heat": lambda: heat(Path(out) / results["sweep"]["file"]),
    }
    paths = {}
    with plt.rc_context(STYLE):
        for name, draw in drawers.items():
            figure = draw()
            paths[name] = Path(out) / "plots" / f"{name}.png"
            write_with(paths[name], lambda temporary, f=figure: f.savefig(temporary, format="png", metadata={"Software": None}))
            plt.close(figure)
    return paths


def costs(results: dict[str, Any]) -> Figure:
    """Latency and energy of every network on every named processor."""
    networks = results["settings"]["networks"]
    hardware = list(results["cost"][networks[0]])
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.8))
    for axis, (field, title) in zip(axes, (("latency", "latency (s)"), ("energy", "energy per inference (J)")), strict=True):
        for i, name in enumerate(hardware):
            value = [results["cost"][n][name][field] for n in networks]
            place = np.arange(len(networks)) + (i - (len(hardware) - 1) / 2) * 0.7 / len(hardware)
            axis.plot(place, value, "o", markersize=8, color=PALETTE.get(name, FAINT), label=name)
        axis.grid(axis="y", color="#eeeeee")
        axis.set_yscale("log")
        axis.set_xticks(np.arange(len(networks)), networks, rotation=12)
        axis.set_title(title)
    axes[1].legend(ncols=1, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def policies(results: dict[str, Any]) -> Figure:
    """Score of every policy with its interval, and what its tasks went to."""
    found = results["evaluation"]
    names = sorted(found, key=lambda n: found[n]["score_iqm"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 0.36 * len(names) + 1.2), sharey=True)
    for row, name in enumerate(names):
        _score_bar(left, row, found[name], TONES.get(name, "#777777"))
        start = 0.0
        for processor, share in zip(results["processors"], found[name]["shares"], strict=True):
            right.barh(row, share, left=start, color=PALETTE.get(processor, FAINT), label=processor if row == 0 else None)
            start += share
    left.set_yticks(range(len(names)), [label(name) for name in names])
    left.set_xscale("log")
    left.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.xaxis.set_major_formatter("{x:g}")
    left.xaxis.set_minor_locator(NullLocator())
    left.set_title("cost of an episode = -score (lower is better)")
    right.set_title("share of tasks on each processor")
    right.set_xlim(0, 1)
    right.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _score_bar(axis: Any, row: int, figures: dict[str, Any], color: str) -> None:
    lo, hi = figures["score_interval"]
    axis.plot([-lo, -hi], [row, row], color=color, linewidth=3, solid_capstyle="butt")
    axis.plot(-figures["score_iqm"], row, "o", color=color)
    text, place = f"{-figures['score_iqm']:.1f}", (-figures["score_iqm"], row)
    axis.annotate(text, place, xytext=(0, 5), textcoords="offset points", ha="center", fontsize=8)


def probes(results: dict[str, Any]) -> Figure:
    """Where the choice changes: the agent above, the best rule below."""
    decided = results["decisions"]
    rows = [decided["agent"], decided["rule"]]
    variables = list(decided["probes"][rows[0]])
    figure, axes = plt.subplots(len(rows), len(variables), figsize=(3.1 * len(variables), 5.2), sharey=True, squeeze=False)
    for line, policy in enumerate(rows):
        for column, variable in enumerate(variables):
            _share_areas(axes[line][column], decided["probes"][policy][variable], results["processors"])
            if line == 0:
                axes[line][column].set_title(variable)
        axes[line][0].set_ylabel(f"{run_label(policy)}\nshare of decisions")
    axes[0][-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.tight_layout()
    return figure


def _share_areas(axis: Any, probe: dict[str, Any], processors: list[str]) -> None:
    shares, positions = np.array(probe["shares"]), np.arange(len(probe["values"]))
    if len(positions) == 2:
        start = np.zeros(2)
        for i, name in enumerate(processors):
            axis.bar(positions, shares[:, i], 0.6, bottom=start, color=PALETTE.get(name, FAINT), label=name)
            start = start + shares[:, i]
    else:
        axis.stackplot(positions, shares.T, colors=[PALETTE.get(name, FAINT) for name in processors], labels=processors)
    axis.set_xticks(positions, [f"{v:g}" for v in probe["values"]], rotation=45)
    axis.set_xlabel(probe["label"])
    axis.set_ylim(0, 1)


def learning(results: dict[str, Any]) -> Figure:
    """Learning curves of all algorithms with their intervals, and where the optimum and the best rule stand."""
    figure, axis = plt.subplots(figsize=(8.5, 4.2))
    found, rule = results["evaluation"], results["best_rule"]
    for name in results["settings"]["algorithms"]:
        curves = results["training"][name]
        if not curves["steps"]:
            continue
        band, tone = drawn_curve(curves), TONES.get(name, INK)
        axis.fill_between(band["at"], band["lo"], band["hi"], color=tone, alpha=0.2, linewidth=0)
        axis.plot(band["at"], band["value"], color=tone, linewidth=1.8, label=f"{label(name)}, {len(curves['returns'])} runs")
    for name, style in ((rule, ":"), ("optimal", "-")):
        if name in found:
            axis.axhline(found[name]["score_iqm"], color=TONES.get(name, "#777777"), linestyle=style, label=label(name))
    target = min(entry["target"] for entry in results["efficiency"].values())
    axis.axhline(target, color=FAINT, linestyle="--", linewidth=1, label="90 % of the way from random")
    axis.set_xlabel("environment steps")
    axis.set_title("return of training episodes, exploration included (95 % interval over runs)")
    axis.set_ylim(bottom=min(4 * found[rule]["score_iqm"], 1.5 * target), top=0)
    axis.legend(fontsize=9)
    return figure


def sensitivity(results: dict[str, Any]) -> Figure:
    """The largest elasticities of the heat chain and of the energies."""
    tables = {name: t for name, t in results["sensitivity"].items() if not name.startswith("latency")}
    figure, axes = plt.subplots(2, 2, figsize=(12, 6.4))
    for axis, (name, table) in zip(axes.ravel(), tables.items(), strict=False):
        rows = [row for row in table["rows"] if row["elasticity"]][:8][::-1]
        values = [row["elasticity"] for row in rows]
        axis.barh(range(len(rows)), values, color=["#e45756" if v > 0 else "#4c78a8" for v in values])
        axis.set_yticks(range(len(rows)), [row["label"].removeprefix("processors.") for row in rows], fontsize=9)
        axis.axvline(0, color=INK, linewidth=0.8)
        axis.set_title(name)
        axis.set_xlabel("elasticity (% per %)")
    figure.tight_layout()
    return figure


def heat(path: Path) -> Figure:
    """The swept chain: lost share of the hazard budget over package and power, at three activation energies."""
    import xarray

    with xarray.open_dataset(path, engine="h5netcdf") as data:
        r, p, e = data["lost_share_of_budget"].dims
        picks = [0, data.sizes[e] // 2, data.sizes[e] - 1]
        figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), sharey=True)
        levels = np.linspace(-1.5, 1.5, 13)
        drawn: Any = None
        for axis, pick in zip(axes, picks, strict=True):
            lost = np.log10(np.maximum(data["lost_share_of_budget"].isel({e: pick}).values, 1e-12))
            drawn = axis.contourf(data[p], data[r], np.clip(lost, -1.5, 1.5), levels=levels, cmap="RdYlGn_r")
            if lost.min() < 0 < lost.max():
                axis.contour(data[p], data[r], lost, levels=[0], colors=INK, linewidths=1.5)
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_xticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
            axis.set_yticks([3, 5, 10, 20], ["3", "5", "10", "20"])
            axis.minorticks_off()
            axis.set_xlabel("GPU active power (W)")
            axis.set_title(f"activation energy {float(data[e][pick]):.2f} eV")
        axes[0].set_ylabel("resistance of package to ambient (K/W)")
        figure.colorbar(drawn, ax=axes, label="log10(lost cells / error budget)")
    return figure
