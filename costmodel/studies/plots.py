"""Pictures of costs. Every function draws into given axes or makes its own figure, and returns the figure."""

from typing import Any

import numpy as np

from costmodel.studies.breakdowns import Breakdown


def plot_breakdown(result: Breakdown, axes: Any = None, layers: int = 60) -> Any:
    """Stacked bars of energy (J) by layer and component, components in the order of their totals; returns the figure.

    Components below a thousandth of the total are left out of the legend; at most the first `layers` layers are drawn.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4), layout="constrained") if axes is None else (axes.figure, axes)
    totals = {name: float(value) for name, value in result.totals().items()}
    shown = min(layers, len(result.names))
    bottom, places = np.zeros(shown), np.arange(shown)
    for name in sorted(totals, key=lambda key: totals[key], reverse=True):
        share = totals[name] / max(sum(totals.values()), 1e-300)
        label = f"{name} {100 * share:.1f} %" if share > 1e-3 else None
        height = np.asarray(result.energy[name])[:shown]
        axes.bar(places, height, bottom=bottom, width=0.9, label=label)
        bottom = bottom + height
    axes.set_xticks(places, result.names[:shown], rotation=90, fontsize=6)
    axes.set_ylabel("energy (J)")
    axes.set_title(f"{sum(totals.values()):.3g} J in {float(np.sum(result.latency)):.3g} s")
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
