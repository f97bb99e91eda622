"""The space that is searched: one whole number for every decision, so that each method sees the same grid of choices.

Per layer ten genes: the factorisation of each dimension (R .. N) and the order of the loops at accumulators, scratchpad and
memory (the order inside the registers changes nothing). Then one gene for each hardware parameter that is free. A gene is a
position in its table of choices (`tables`), so a random genome is a uniform draw, and a neighbour is one table look-up.

Hardware: the capacities named in `FITTED` only cost energy (an access costs more in a larger buffer) and never time, so given the
mappings the least of the allowed sizes that holds them all is the best one, as DOSA takes it: they are computed, not searched.
All else that is free (the array's side, bandwidth, clock, energies) is a gene. Nothing in this model charges for a larger array
or a faster memory: those run to the end of what is allowed, unless mappings tie.

Score: the logarithm of energy, latency or energy times delay, summed over layers and their repeats. Infinite where a mapping
does not fit; `rank` is finite there, worse by `OVERFLOW` times the logarithm of the excess.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from costmodel.mapping.loop_nests.accelerators import LoopAccelerator, LoopCost
from costmodel.mapping.loop_nests.mappings import DIMENSIONS, LoopMapping
from costmodel.relax import HARD, Relaxation
from costmodel.studies.mapping_search.layers import LoopLayer, sizes_of
from costmodel.studies.mapping_search.tables import (
    COLUMNS,
    FIRST_SPATIAL,
    ORDERS,
    Choices,
    factor_choices,
    order_choices,
    value_choices,
)
from physics import lookup, replace
from physics.params import check_range, unknown_name

OBJECTIVES = ("energy_delay", "energy", "latency")
FITTED = ("accumulator", "scratchpad")
FACTORS, LEVELS = len(DIMENSIONS), 3
PER_LAYER = FACTORS + LEVELS
OVERFLOW = 4.0
ROUNDING = 1e-5  # of a capacity: float32
Genes = Int[Array, " genes"]
Scalar = Float[Array, ""]


class Score(NamedTuple):
    """The logarithm of the objective (infinite where nothing fits), and a finite one to compare by."""

    value: Scalar
    rank: Scalar


class SearchSpace(eqx.Module):
    """Genes, what each may be, and what a genome costs; all methods are written against this."""

    accelerator: LoopAccelerator
    rows: Float[Array, "kinds width 8"]
    moves: Int[Array, "kinds width most"]
    degree: Int[Array, "kinds width"]
    kind: Int[Array, " genes"]
    counts: Int[Array, " genes"]  # choices of every gene
    sizes: Float[Array, "layers 7"]
    strides: Float[Array, "layers 2"]
    repeats: Float[Array, " layers"]
    fitted: tuple[Float[Array, " values"], ...]  # allowed capacities in rising order, of those in `fits`
    free: tuple[str, ...] = eqx.field(static=True)  # labels that are genes
    fits: tuple[str, ...] = eqx.field(static=True)  # of FITTED, those that are free
    objective: str = eqx.field(static=True)
    factor_width: int = eqx.field(static=True)  # rows of the longest table of tilings

    @property
    def layers(self) -> int:
        """How many layers are mapped: the cost model's evaluations per genome."""
        return self.sizes.shape[0]

    @property
    def total(self) -> int:
        """How many genomes there are."""
        return math.prod(map(int, np.asarray(self.counts)))

    def draw(self, key: PRNGKeyArray, n: int) -> Int[Array, "n genes"]:
        """`n` genomes, every gene drawn evenly."""
        return self.choose(jax.random.uniform(key, (n, self.counts.shape[0])))

    def choose(self, u: Float[Array, "*n genes"]) -> Int[Array, "*n genes"]:
        """The choice at each share `u` (0 to 1) of a table."""
        return _positions(u, self.counts)

    def neighbours(self, u: Float[Array, "*n genes"], genes: Int[Array, "*n genes"]) -> Int[Array, "*n genes"]:
        """For every gene of every genome the neighbour at share `u` of those that it has."""
        return self.moves[self.kind, genes, _positions(u, self.degree[self.kind, genes])]

    def mappings(self, genes: Genes) -> LoopMapping:
        """The mapping of every layer, a batch (layers, 4, 7)."""
        chosen = self.rows[self.kind, genes][: self.layers * PER_LAYER].reshape(self.layers, PER_LAYER, COLUMNS)
        factors = jnp.swapaxes(chosen[:, :FACTORS], 1, 2)
        return LoopMapping(factors[:, :FIRST_SPATIAL], factors[:, FIRST_SPATIAL:], self.places(genes))

    def places(self, genes: Genes) -> Int[Array, "layers 4 7"]:
        """The orders alone."""
        chosen = self.rows[self.kind, genes][: self.layers * PER_LAYER].reshape(self.layers, PER_LAYER, COLUMNS)
        orders = chosen[:, FACTORS:, :FACTORS].astype(jnp.int32)
        inner = jnp.broadcast_to(jnp.arange(FACTORS), (self.layers, 1, FACTORS))
        return jnp.concatenate([inner, orders], axis=1)

    def hardware(self, genes: Genes) -> LoopAccelerator:
        """The accelerator with its free parameters, but for the capacities to be fitted: those at their largest."""
        values = self.rows[self.kind, genes][self.layers * PER_LAYER :, 0]
        chosen = dict(zip(self.free, values, strict=True))
        return replace(self.accelerator, chosen | {label: v[-1] for label, v in zip(self.fits, self.fitted, strict=True)})

    def price(
        self, accelerator: LoopAccelerator, mappings: LoopMapping, relaxation: Relaxation = HARD
    ) -> tuple[LoopAccelerator, LoopCost]:
        """The accelerator with capacities fitted to the mappings, and each layer's cost on it.

        Under a relaxation capacities are what is needed, without rounding up to an allowed size.
        """
        costs = jax.vmap(lambda m, stride: accelerator.cost(m, (stride[0], stride[1]), relaxation))(mappings, self.strides)
        if not self.fits:
            return accelerator, costs
        sizes = {}
        for label, allowed in zip(self.fits, self.fitted, strict=True):
            need = jnp.max(getattr(costs.needs, label))
            fitting = allowed[jnp.minimum(jnp.searchsorted(allowed, need * (1 - ROUNDING)), allowed.shape[0] - 1)]
            sizes[label] = fitting if relaxation == HARD else jnp.clip(need, allowed[0], allowed[-1])
        fitted = replace(accelerator, sizes)
        saved = accelerator.access_energies() - fitted.access_energies()  # all that a capacity changes
        return fitted, costs._replace(energy=costs.energy - jnp.sum(costs.accesses.total * saved, axis=-1))

    def log_objective(self, costs: LoopCost) -> Scalar:
        """Logarithm of the objective of all layers together."""
        energy, latency = (jnp.log(jnp.sum(self.repeats * x)) for x in (costs.energy, costs.latency))
        return {"energy": energy, "latency": latency, "energy_delay": energy + latency}[self.objective]

    def score(self, genes: Genes) -> Score:
        """What one genome is worth, by the exact model."""
        costs = self.price(self.hardware(genes), self.mappings(genes))[1]
        value, excess = self.log_objective(costs), jnp.max(costs.excess)
        fits = excess <= 1 + ROUNDING
        return Score(jnp.where(fits, value, jnp.inf), jnp.where(fits, value, value + OVERFLOW * (1 + jnp.log(excess))))

    def scores(self, genes: Int[Array, "n genes"]) -> Score:
        """Of many genomes."""
        return jax.vmap(self.score)(genes)


def make_space(
    accelerator: LoopAccelerator,
    layers: Sequence[LoopLayer],
    hardware: Mapping[str, Sequence[float] | np.ndarray] | None = None,
    *,
    objective: str = "energy_delay",
    orders: str = "all",
) -> SearchSpace:
    """The space of mappings of `layers` and of parameters in `hardware` (label: allowed values); ValueError for bad names."""
    _check(layers, objective, orders)
    axes = {label: _axis(accelerator, label, values) for label, values in (hardware or {}).items()}
    free = tuple(label for label in axes if label not in FITTED)
    fits = tuple(label for label in FITTED if label in axes)
    side = int(max(axes.get("side", [float(accelerator.side)])))
    genes = [table for layer in layers for table in _layer_choices(layer, side, orders)]
    genes += [value_choices(axes[label]) for label in free]
    rows, moves, degree, kind = _stacked(genes)
    return SearchSpace(
        accelerator,
        jnp.asarray(rows, float),
        jnp.asarray(moves, jnp.int32),
        jnp.asarray(degree, jnp.int32),
        jnp.asarray(kind, jnp.int32),
        jnp.asarray([len(table.rows) for table in genes], jnp.int32),
        jnp.asarray(sizes_of(tuple(layers)), float),
        jnp.asarray([layer.stride for layer in layers], float),
        jnp.asarray([layer.repeats for layer in layers], float),
        tuple(jnp.asarray(axes[label], float) for label in fits),
        free,
        fits,
        objective,
        _factor_width(genes[: PER_LAYER * len(layers)]),
    )


def _positions(u: Array, counts: Array) -> Array:
    return jnp.minimum((u * counts).astype(jnp.int32), counts - 1)


def _check(layers: Sequence[LoopLayer], objective: str, orders: str) -> None:
    if not layers:
        raise ValueError("layers is empty, at least 1 is needed")
    if objective not in OBJECTIVES:
        raise ValueError(unknown_name("objective", objective, OBJECTIVES))
    if orders not in ORDERS:
        raise ValueError(unknown_name("orders", orders, ORDERS))


def _axis(accelerator: LoopAccelerator, label: str, values: Any) -> np.ndarray:
    found = lookup(accelerator, label)
    axis = np.unique(np.asarray(values, np.float64).ravel())
    if not axis.size:
        raise ValueError(f"hardware: {label} has no allowed value, at least 1 is needed")
    check_range(label, axis, found.param)
    return axis


def _layer_choices(layer: LoopLayer, side: int, orders: str) -> list[Choices]:
    active = tuple(d for d, size in enumerate(layer.sizes) if size > 1)
    factors = [factor_choices(d, size, side) for d, size in zip(DIMENSIONS, layer.sizes, strict=True)]
    return [*factors, *[order_choices(active, orders)] * LEVELS]


def _factor_width(genes: list[Choices]) -> int:
    return _power_of_two(max(len(table.rows) for gene, table in enumerate(genes) if gene % PER_LAYER < FACTORS))


def _power_of_two(count: int) -> int:
    """The next one, so that few programs are compiled."""
    return 1 << (count - 1).bit_length()


def _stacked(genes: list[Choices]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Distinct tables padded to one shape, and the number of each gene's table."""
    kinds = {id(table): table for table in genes}
    width = _power_of_two(max(len(table.rows) for table in kinds.values()))
    most = max(table.moves.shape[1] for table in kinds.values())
    padded = []
    for table in kinds.values():
        below = (0, width - len(table.rows))
        padded.append(
            (
                np.pad(table.rows, (below, (0, 0)), mode="edge"),
                np.pad(table.moves, (below, (0, most - table.moves.shape[1])), mode="edge"),
                np.pad(table.degree, below, mode="edge"),
            )
        )
    number = {key: index for index, key in enumerate(kinds)}
    rows, moves, degree = (np.stack(column) for column in zip(*padded, strict=True))
    return rows, moves, degree, [number[id(table)] for table in genes]
