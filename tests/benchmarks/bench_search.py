"""Searches over loop-nest mappings and hardware at equal evaluations and at equal time: median regret over ten seeds, and a plot.

One space is enumerated (regret is exact there); for a ResNet-50 convolution in small buffers and for BERT's products with the
hardware free, regret is against the best that any run found, `REFERENCE` evaluations of every method included. Seconds are of
one core, compilation aside. `bench_search.py [PLOT.png]` writes the plot there, else to .bench/search.png.
"""

import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray
from timing import one_core, report

import costmodel

SEEDS = 10
EVALUATIONS, SECONDS = (1e2, 1e3, 1e4, 1e5), (0.1, 1.0)
REFERENCE = 1e6  # ten times the largest budget
layer = costmodel.loop_layer
SMALL = dict(accumulator=2048.0, scratchpad=2048.0, memory_words=2.0)
CASES = {
    "product 32x32x32, three orders": dict(layers=[layer({"P": 32, "C": 32, "K": 32})], accelerator=SMALL, orders="stationary"),
    "ResNet-50 56x56, 64-64, 3x3, buffers of 8 KiB": dict(
        layers=[layer({"P": 56, "Q": 56, "C": 64, "K": 64, "R": 3, "S": 3})],
        accelerator=dict(accumulator=8192.0, scratchpad=8192.0, memory_words=2.0),
    ),
    "BERT-base, 512 tokens, hardware free": dict(
        layers=[
            layer({"P": 512, "C": 768, "K": 768}, repeats=48),
            layer({"P": 512, "C": 768, "K": 3072}, repeats=12),
            layer({"P": 512, "C": 3072, "K": 768}, repeats=12),
        ],
        accelerator={},
        hardware={"side": [8, 16, 32, 64], "accumulator": 2.0 ** np.arange(10, 21), "scratchpad": 2.0 ** np.arange(10, 22)},
    ),
}


def grid(points: tuple[float, ...], low: float) -> np.ndarray:
    """The points of the table and enough between them for a curve."""
    return np.unique(np.concatenate([np.geomspace(low, points[-1], 31), points]))


def compared(case: dict, seeds: int) -> xarray.Dataset:
    """Every method on one case."""
    case = case | {"accelerator": costmodel.LoopAccelerator(**case["accelerator"])}
    return costmodel.compare_searches(
        **case, seeds=seeds, evaluations=grid(EVALUATIONS, 20), seconds=grid(SECONDS, 0.003), reference=REFERENCE
    )


def main() -> None:
    one_core()
    figure, axes = plt.subplots(len(CASES), 2, figsize=(9.6, 3.2 * len(CASES)), layout="constrained", sharey="row")
    for (name, case), panes in zip(CASES.items(), axes, strict=True):
        start = time.perf_counter()
        data = compared(case, SEEDS)
        table = data.sel(evaluations=list(EVALUATIONS), seconds=list(SECONDS))
        print(costmodel.regret_table(table), file=sys.stderr)
        for method in data["algorithm"].values:
            some = table.sel(algorithm=method)
            regrets = {f"regret_{n:g}": some["best"].sel(evaluations=n) for n in EVALUATIONS}
            regrets |= {f"regret_{s:g}_s": some["best_in_time"].sel(seconds=s) for s in SECONDS}
            medians = {column: float((best / data["optimum"]).median("seed") - 1) for column, best in regrets.items()}
            report("search", case=name, method=str(method), **medians, optimum=data.attrs["optimum_is"])
        report("search", case=name, choices=data.attrs["choices"], seconds=time.perf_counter() - start)
        costmodel.plot_searches(data, panes, name)
    path = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2] / ".bench" / "search.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    main()
