"""search_mappings() and search_hardware(): the best mapping of a layer, or hardware and mappings of a network, found."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from costmodel.mapping.loop_nests.accelerators import LoopAccelerator, LoopCost
from costmodel.mapping.loop_nests.mappings import LoopMapping, format_loop_mapping
from costmodel.studies.mapping_search.layers import LoopLayer, as_layer
from costmodel.studies.mapping_search.methods import Method
from costmodel.studies.mapping_search.runs import METHODS, Budget, History, Run, run_exhaustive, run_method
from costmodel.studies.mapping_search.spaces import SearchSpace, make_space
from physics.params import unknown_name

EXHAUSTIVE = "exhaustive"


class LoopSearch(NamedTuple):
    """What a search found: hardware, a mapping and its cost for every layer, and the objective of them all together."""

    accelerator: LoopAccelerator
    layers: tuple[LoopLayer, ...]
    mappings: tuple[LoopMapping, ...]
    costs: tuple[LoopCost, ...]
    value: float  # J s, J or s
    evaluations: float  # runs of the cost model on one layer; a gradient counts as several
    seconds: float
    history: History
    choices: int  # size of the space

    def __str__(self) -> str:
        lines = [f"{self.value:.4g} after {self.evaluations:.4g} evaluations of {self.choices:.3g} choices, {self.seconds:.2g} s"]
        for layer, mapping, cost in zip(self.layers, self.mappings, self.costs, strict=True):
            lines.append(f"{layer.repeats} x {layer}: {float(cost.energy):.3g} J, {float(cost.latency):.3g} s")
            lines.append(f"    {format_loop_mapping(mapping)}")
        return "\n".join(lines)


def search_mappings(
    accelerator: LoopAccelerator,
    layer: LoopLayer | Mapping[str, int],
    *,
    method: str | Method = "gradient",
    objective: str = "energy_delay",
    orders: str = "all",
    evaluations: float = 100_000,
    seconds: float = np.inf,
    key: PRNGKeyArray | None = None,
) -> LoopSearch:
    """The best mapping of one layer found on an accelerator with `evaluations` of the cost model, or in `seconds`.

    `method`: "gradient", "evolution", "bayesian" (ends after some hundred by itself), "random", "exhaustive" (all there are,
    whatever the budget), or settings such as `Evolution(population=32)`. `objective`: "energy_delay" (J s), "energy" (J) or
    "latency" (s). `orders`: "all" orders of the loops at every level, or "stationary", those three that keep weights, inputs or
    outputs in place. The same `key` (default: that of seed 0) gives the same result. Compilation is not counted in `seconds`.
    Raises ValueError for an unknown name, a size outside its range, or where no mapping that fits was met.
    """
    return search_hardware(
        accelerator,
        {},
        [layer],
        method=method,
        objective=objective,
        orders=orders,
        evaluations=evaluations,
        seconds=seconds,
        key=key,
    )


def search_hardware(
    accelerator: LoopAccelerator,
    hardware: Mapping[str, Sequence[float] | np.ndarray],
    layers: Sequence[LoopLayer | Mapping[str, int]],
    *,
    method: str | Method = "gradient",
    objective: str = "energy_delay",
    orders: str = "all",
    evaluations: float = 1_000_000,
    seconds: float = np.inf,
    key: PRNGKeyArray | None = None,
) -> LoopSearch:
    """The best hardware, with the best mapping of every layer, for the sum over all layers and their repeats.

    `hardware`: allowed values of parameters of `accelerator`, by label ("side", "accumulator", "scratchpad", ...), which else
    stay what they are. Capacities are set to the least allowed that holds the mappings. The rest as `search_mappings`; a genome
    of L layers counts L evaluations.
    """
    space = make_space(accelerator, [as_layer(layer) for layer in layers], hardware, objective=objective, orders=orders)
    if method == EXHAUSTIVE:
        return _result(space, layers, run_exhaustive(space))
    key = jax.random.key(0) if key is None else key
    return _result(space, layers, run_method(space, as_method(method), key, make_budget(evaluations, seconds)))


def as_method(method: str | Method) -> Method:
    """A method by name, or as it is given."""
    if not isinstance(method, str):
        return method
    if method not in METHODS:
        raise ValueError(unknown_name("method", method, [*METHODS, EXHAUSTIVE]))
    return METHODS[method]


def make_budget(evaluations: float, seconds: float) -> Budget:
    """Checked; ValueError where nothing could be tried or nothing would end."""
    for name, value, unit in (("evaluations", evaluations, ""), ("seconds", seconds, " s")):
        if not value > 0:
            raise ValueError(f"{name} = {value:g}{unit} must be above 0")
    if np.isinf(evaluations) and np.isinf(seconds):
        raise ValueError("evaluations and seconds are both infinite, so the search would not end")
    return Budget(float(evaluations), float(seconds))


def _result(space: SearchSpace, layers: Sequence[LoopLayer | Mapping[str, int]], run: Run) -> LoopSearch:
    if not np.isfinite(run.value):
        raise ValueError(f"no mapping that fits was found in {run.evaluations:g} evaluations")
    accelerator, mappings, costs = _priced(space, run.genes)
    parts = [
        tuple(jax.tree.map(lambda x, i=i: np.asarray(x[i]), batch) for i in range(space.layers)) for batch in (mappings, costs)
    ]
    history = run.history._replace(best=np.exp(run.history.best))
    value, own = float(np.exp(run.value)), tuple(map(as_layer, layers))
    return LoopSearch(accelerator, own, parts[0], parts[1], value, run.evaluations, run.seconds, history, space.total)


@jax.jit
def _priced(space: SearchSpace, genes: jax.Array) -> tuple[LoopAccelerator, LoopMapping, LoopCost]:
    mappings = space.mappings(genes)
    accelerator, costs = space.price(space.hardware(genes), mappings)
    return accelerator, mappings, costs
