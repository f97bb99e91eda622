"""compare_searches(): every method over many keys at equal evaluations and at equal time, beside the exhaustive optimum.

    regret = best found / optimum - 1

of the objective itself. Where the space can be enumerated the optimum is exact; else it is the best that any run ever found,
`reference` evaluations of each method included, and regret can only be too small: `optimum_is` says which. A method that
ended by itself (Bayesian, or any that met the exact optimum) keeps what it had.

For context, not reproduced here: Mind Mappings (Hegde et al., ASPLOS 2021, arXiv 2103.01489) reports EDP 1.40, 1.76 and 1.29
times better than simulated annealing, a genetic algorithm and reinforcement learning at equal steps and 3.16, 4.19 and 2.90
times at equal time; ArchGym (arXiv 2306.08888), over 21,000 experiments, finds that no algorithm wins once all are tuned.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from costmodel.mapping.loop_nests.accelerators import LoopAccelerator
from costmodel.studies.mapping_search.layers import LoopLayer, as_layer
from costmodel.studies.mapping_search.methods import Method
from costmodel.studies.mapping_search.results import as_method
from costmodel.studies.mapping_search.runs import METHODS, SAME, Budget, Run, run_exhaustive, run_method
from costmodel.studies.mapping_search.spaces import OBJECTIVES, SearchSpace, make_space

if TYPE_CHECKING:
    import xarray

EVALUATIONS = (1e2, 1e3, 1e4, 1e5)
UNITS: dict[str, str] = dict(zip(OBJECTIVES, ("J s", "J", "s"), strict=True))
ENUMERABLE = 30_000_000  # choices that are all tried, unless said otherwise


def compare_searches(
    accelerator: LoopAccelerator,
    layers: Sequence[LoopLayer | Mapping[str, int]],
    hardware: Mapping[str, Sequence[float] | np.ndarray] | None = None,
    *,
    methods: Sequence[str] | Mapping[str, Method] = tuple(METHODS),
    seeds: int = 10,
    evaluations: Sequence[float] = EVALUATIONS,
    seconds: Sequence[float] = (),
    objective: str = "energy_delay",
    orders: str = "all",
    reference: float = 0.0,
    enumerable: int = ENUMERABLE,
    key: PRNGKeyArray | None = None,
) -> "xarray.Dataset":
    """The best objective so far of every method and seed, at the numbers of `evaluations` and at `seconds`.

    Variables `best` (algorithm, seed, evaluations), `best_in_time` (algorithm, seed, seconds), `rate` (evaluations/s, algorithm)
    and `optimum` (scalar); attributes `optimum_is` ("exhaustive" or "best found"), `choices` and `objective`. Spaces of up to
    `enumerable` choices are enumerated; for larger ones each method is run once more with `reference` evaluations (0: not). A
    search goes on until the last of both axes is reached. ValueError as `search_hardware`.
    """
    if seeds < 1 or not (len(evaluations) or len(seconds)):
        raise ValueError(f"seeds = {seeds}, evaluations and seconds: at least 1 seed and 1 budget are needed")
    space = make_space(accelerator, [as_layer(layer) for layer in layers], hardware, objective=objective, orders=orders)
    named = dict(methods) if isinstance(methods, Mapping) else {name: as_method(name) for name in methods}
    axes = {"evaluations": _axis("evaluations", evaluations), "seconds": _axis("seconds", seconds)}
    key = jax.random.key(0) if key is None else key
    exact = space.total <= enumerable
    optimum = run_exhaustive(space).value if exact else np.inf
    most = [max(axis, default=0.0) for axis in axes.values()]
    budget = Budget(most[0], most[1], either=False, target=_target(optimum))
    runs = {
        name: [run_method(space, method, jax.random.fold_in(key, seed), budget) for seed in range(seeds)]
        for name, method in named.items()
    }
    best = min([optimum, *(run.value for some in runs.values() for run in some)])
    if not exact and reference:
        longer = Budget(reference, np.inf)
        best = min([best, *(run_method(space, m, jax.random.fold_in(key, seeds), longer).value for m in named.values())])
    return _dataset(space, runs, axes, best, exact)


def _target(optimum: float) -> float:
    """A value that nothing but rounding can beat."""
    return optimum + SAME * abs(optimum) if np.isfinite(optimum) else -np.inf


def _axis(name: str, points: Sequence[float]) -> np.ndarray:
    axis = np.unique(np.asarray(points, float))
    if (axis <= 0).any() or not np.isfinite(axis).all():
        raise ValueError(f"{name} must be finite and above 0, got {list(points)}")
    return axis


def _dataset(
    space: SearchSpace, runs: dict[str, list[Run]], axes: dict[str, np.ndarray], optimum: float, exact: bool
) -> "xarray.Dataset":
    import xarray

    unit = UNITS[space.objective]

    def best(axis: str) -> Any:
        points = [[np.exp(run.history.after(axis, axes[axis])) for run in some] for some in runs.values()]
        shape = (len(runs), len(next(iter(runs.values()))), len(axes[axis]))
        return ("algorithm", "seed", axis), np.asarray(points).reshape(shape), {"units": unit}

    rates = [np.median([run.evaluations / run.seconds for run in some]) for some in runs.values()]
    return xarray.Dataset(
        {
            "best": best("evaluations"),
            "best_in_time": best("seconds"),
            "rate": ("algorithm", rates, {"units": "1/s"}),
            "optimum": ((), np.exp(optimum), {"units": unit}),
        },
        coords={"algorithm": list(runs), "seed": np.arange(len(next(iter(runs.values())))), **axes},
        attrs={
            "optimum_is": "exhaustive" if exact else "best found",
            "choices": float(space.total),
            "objective": space.objective,
        },
    )


def regret_table(data: "xarray.Dataset") -> str:
    """Median regret over the seeds as text: one row per method, a column per budget; "-" where nothing was found."""
    columns = [(f"{int(n):,}", data["best"].sel(evaluations=n)) for n in data["evaluations"].values]
    columns += [(f"{s:g} s", data["best_in_time"].sel(seconds=s)) for s in data["seconds"].values]
    head = ["median regret", *(name for name, _ in columns), "evaluations/s"]
    rows = [head]
    for method in data["algorithm"].values:
        cells = [_percent(float(np.median(best.sel(algorithm=method) / data["optimum"] - 1))) for _, best in columns]
        rows.append([str(method), *cells, f"{float(data['rate'].sel(algorithm=method)):.2g}"])
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)


def _percent(regret: float) -> str:
    if not np.isfinite(regret):
        return "-"
    return "0" if regret < 2 * SAME * 20 else f"{100 * regret:.2g} %" if regret < 10 else f"x {1 + regret:.0f}"
