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

PALETTE = {
    "cpu": "#4c78a8",
    "gpu": "#f58518",
    "pim": "#54a24b",
    "stm32l4r5": "#4c78a8",
    "edge-gpu": "#f58518",
    "edge-pim": "#54a24b",
    "isaac": "#9d755d",
}
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
    for axis, (field, label) in zip(axes, (("latency", "latency (s)"), ("energy", "energy per inference (J)")), strict=True):
        for i, name in enumerate(hardware):
            value = [results["cost"][n][name][field] for n in networks]
            place = np.arange(len(networks)) + (i - (len(hardware) - 1) / 2) * 0.16
            axis.plot(place, value, "o", markersize=8, color=PALETTE.get(name, FAINT), label=name)
        axis.grid(axis="y", color="#eeeeee")
        axis.set_yscale("log")
        axis.set_xticks(np.arange(len(networks)), networks, rotation=12)
        axis.set_title(label)
    axes[1].legend(ncols=1, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def policies(results: dict[str, Any]) -> Figure:
    """Score of every policy with its interval, and what its tasks went to."""
    found = results["evaluation"]
    names = sorted(found, key=lambda n: found[n]["score_iqm"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 0.36 * len(names) + 1.2), sharey=True)
    for row, name in enumerate(names):
        f = found[name]
        lo, hi = f["score_interval"]
        color = "#b279a2" if name.startswith("dqn") else "#777777"
        left.plot([-lo, -hi], [row, row], color=color, linewidth=3, solid_capstyle="butt")
        left.plot(-f["score_iqm"], row, "o", color=color)
        left.annotate(
            f"{-f['score_iqm']:.1f}", (-f["score_iqm"], row), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=8
        )
        start = 0.0
        for processor, share in zip(results["processors"], f["shares"], strict=True):
            right.barh(row, share, left=start, color=PALETTE.get(processor, FAINT), label=processor if row == 0 else None)
            start += share
    left.set_yticks(range(len(names)), names)
    left.set_xscale("log")
    left.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.xaxis.set_major_formatter("{x:g}")
    left.xaxis.set_minor_locator(NullLocator())
    left.set_title("cost of an episode = -score (lower is better)")
    right.set_title("share of tasks on each processor")
    right.set_xlim(0, 1)
    right.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


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
        axes[line][0].set_ylabel(f"{policy}\nshare of decisions")
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
    """Return of training episodes against environment steps, and the best rule's score."""
    figure, axis = plt.subplots(figsize=(7.5, 3.6))
    tones = plt.colormaps["plasma"](np.linspace(0.15, 0.75, len(results["training"])))
    for (seed, curve), tone in zip(results["training"].items(), tones, strict=True):
        axis.plot(curve["steps"], curve["return"], color=tone, linewidth=1.2, label=f"seed {seed}")
    rule = results["decisions"]["rule"]
    axis.axhline(results["evaluation"][rule]["score_iqm"], color="#777777", linestyle="--", label=f"{rule} (evaluation)")
    axis.set_xlabel("environment steps")
    axis.set_title("return of training episodes (with exploration)")
    axis.set_ylim(bottom=4 * results["evaluation"][rule]["score_iqm"], top=0)
    axis.legend()
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
