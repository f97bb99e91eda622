"""Where the operations of a workload stand under a processor's roofline.

    rate <= min( peak, intensity * bandwidth )        rate = macs / latency,  intensity = macs / bytes moved

Multiply-accumulates and not FLOPs, because only they run at the peak rate; operations without any have no place in the picture,
their share of the time stands beside it. The latency is the processor's own estimate, efficiencies, launches and mapping
losses included: the distance to the roof is what the workload loses on this machine.
Source: Williams, Waterman, Patterson, "Roofline", CACM 2009.
"""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from costmodel.cost import Bound, Conditions
from costmodel.estimation import estimate
from costmodel.processors.base import Processor
from workloads import OpTable

COLORS = {Bound.COMPUTE: "#4c78a8", Bound.MEMORY: "#f58518", Bound.OVERHEAD: "#999999", Bound.PROGRAMMING: "#e45756"}
Margins = tuple[float, float]


class RooflinePoints(NamedTuple):
    """The operations of one workload that multiply, on one processor. Arrays are (points,), host-side."""

    names: tuple[str, ...]
    intensity: np.ndarray  # MAC/B
    rate: np.ndarray  # MAC/s
    share: np.ndarray  # of the workload's latency
    bound: np.ndarray  # a `Bound`
    peak: float  # MAC/s
    bandwidth: float  # B/s
    latency: float  # s, of the whole workload

    @property
    def ridge(self) -> float:
        """Intensity (MAC/B) from which the peak is within reach."""
        return self.peak / self.bandwidth

    def roof(self, intensity: Any) -> Any:
        """Highest rate (MAC/s) at an intensity (MAC/B)."""
        return np.minimum(self.peak, np.asarray(intensity) * self.bandwidth)


def roofline_points(hardware: Processor, ops: OpTable, conditions: Conditions = Conditions()) -> RooflinePoints:
    """The points of `ops` (one table) under the roof of `hardware`; ValueError as `estimate` raises, or if nothing multiplies."""
    per_op = estimate(hardware, ops, conditions).per_op
    macs, moved, latency = (np.asarray(x, np.float64) for x in (ops.macs, per_op.bytes_moved, per_op.latency))
    there = np.asarray(ops.mask) & (macs > 0) & (moved > 0)
    if not there.any():
        raise ValueError("ops: a roofline needs at least one operation with multiply-accumulates, got 0")
    names = ops.info.op_names if ops.info else tuple(map(str, range(ops.n_ops)))
    return RooflinePoints(
        names=tuple(name for name, shown in zip(names, there, strict=True) if shown),
        intensity=(macs / np.maximum(moved, 1.0))[there],
        rate=(macs / np.maximum(latency, 1e-300))[there],
        share=(latency / latency.sum())[there],
        bound=np.asarray(per_op.bound)[there],
        peak=float(hardware.peak_rate(conditions)),
        bandwidth=float(hardware.peak_bandwidth(conditions)),
        latency=float(latency.sum()),
    )


def roofline_chart(points: RooflinePoints, title: str = "") -> Figure:
    """The roof, and one dot per operation: its area is its share of the time, its colour what holds it back."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axis: Any = figure.subplots()
    (left, right), _ = _margins(points)
    line = np.geomspace(left, right, 200)
    axis.loglog(line, points.roof(line), color="#222222", linewidth=1.5, zorder=1)
    axis.axvline(points.ridge, color="#dddddd", linewidth=1, zorder=0)
    for bound, color in COLORS.items():
        of = points.bound == bound
        if of.any():
            label = f"{bound.name.lower()}: {100 * points.share[of].sum():.0f} % of the time"
            axis.scatter(points.intensity[of], points.rate[of], 20 + 900 * points.share[of], color, alpha=0.6, label=label)
    for index in _apart(points, (left, right))[:5]:
        place = (points.intensity[index], points.rate[index])
        axis.annotate(points.names[index], place, textcoords="offset points", xytext=(6, -6), fontsize=8, rotation=-30, va="top")
    axis.set_xlabel("intensity (multiply-accumulates per byte moved)")
    axis.set_ylabel("rate (multiply-accumulates per second)")
    axis.set_title(title, loc="left", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    legend = axis.legend(loc="lower right", frameon=False, fontsize=9)
    for handle in legend.legend_handles:
        handle.set_sizes([40])
    return figure


def _apart(points: RooflinePoints, limits: Margins) -> list[int]:
    """Points by their share of the time, without those whose names would cover one another."""
    across, chosen = np.log(points.intensity) / np.log(limits[1] / limits[0]), []
    for index in np.argsort(-points.share):
        if all(abs(across[index] - across[other]) > 0.04 for other in chosen):
            chosen.append(int(index))
    return chosen


def _margins(points: RooflinePoints) -> tuple[Margins, Margins]:
    """Limits of both axes: all points and the ridge, with a little air."""
    left, right = min(points.intensity.min(), points.ridge) / 3, max(points.intensity.max(), points.ridge) * 3
    return (left, right), (min(points.rate.min(), float(points.roof(left))) / 2, points.peak * 2)


def roofline_text(points: RooflinePoints, width: int = 72, height: int = 16) -> str:
    """The picture in characters: the roof, and operations by the first letter of their bound (capital: over 5 % of the time)."""
    across, up = _margins(points)
    grid = [[" "] * width for _ in range(height)]

    def place(intensity: float, rate: float) -> tuple[int, int]:
        x, y = (np.log(v / lo) / np.log(hi / lo) for v, (lo, hi) in ((intensity, across), (rate, up)))
        return height - 1 - int(np.clip(y * height, 0, height - 1)), int(np.clip(x * width, 0, width - 1))

    for column in range(width):
        intensity = across[0] * (across[1] / across[0]) ** ((column + 0.5) / width)
        grid[place(intensity, float(points.roof(intensity)))[0]][column] = "-" if intensity > points.ridge else "/"
    for index in np.argsort(points.share):
        row, column = place(float(points.intensity[index]), float(points.rate[index]))
        letter = Bound(int(points.bound[index])).name[0]
        grid[row][column] = letter if points.share[index] > 0.05 else letter.lower()
    rates = np.geomspace(up[1], up[0], 2 * height + 1)[1::2]  # in the middle of the lines
    sides = [f"{rate:8.1e} |" if line % 5 == 0 else " " * 9 + "|" for line, rate in enumerate(rates)]
    ticks = "".join(f"{tick:<{width // 4}.3g}" for tick in np.geomspace(*across, 5))
    lines = [(side + "".join(row)).rstrip() for side, row in zip(sides, grid, strict=True)]
    return "\n".join(["   MAC/s", *lines, " " * 9 + "+" + "-" * width, " " * 10 + ticks.rstrip() + " MAC/B"])
