"""What duplication and cross-layer scheduling gain, as a band: over the rules for copies and the size of sets.

    speedup S = T(layer by layer, one copy each) / T          utilisation U = sum_i c_i busy_i / (F T)

with F crossbars in all, PE_min of which hold every layer once. Copies conserve the work, so U / U(layer by layer, one copy each)
= S PE_min / F exactly. Published speedups fix neither the sets nor the rule, hence the band.
Source: CLSA-CIM, Pelke et al., DATE 2024; identity: own derivation.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from costmodel.mapping.dependencies import LayerGraph
from costmodel.mapping.duplication import copies_limit, extra_crossbars, greedy_duplicates, min_sum_duplicates
from costmodel.mapping.schedule import PIXELS, WHOLE_ROWS, Schedule, Sets, cross_layer, layer_by_layer
from costmodel.mapping.searching import search_duplicates

RULES = ("greedy", "min_sum", "search")


class Plan(NamedTuple):
    """One way to run a network on crossbars: the copies of its layers, both schedules, and what they gain."""

    graph: LayerGraph
    crossbars: tuple[int, ...]  # of one copy of each layer
    available: int  # crossbars
    rule: str
    sets: Sets
    direction: str
    duplicates: np.ndarray
    serial: Schedule  # layer by layer, with the same copies
    schedule: Schedule  # across layers
    reference: float  # cycles layer by layer with one copy each
    bound: float | None  # cycles; no copies are faster (rule "search" only)

    @property
    def speedup(self) -> float:
        """Over layer by layer with one copy each."""
        return self.reference / float(self.schedule.makespan)

    @property
    def serial_speedup(self) -> float:
        """Of the copies alone, layer by layer."""
        return self.reference / float(self.serial.makespan)

    @property
    def utilisation(self) -> float:
        """Share of the time that an average crossbar works."""
        return float(self.schedule.utilisation(self.crossbars, self.available))

    @property
    def reference_utilisation(self) -> float:
        """The same, layer by layer on as many crossbars as one copy of each layer takes."""
        work = sum(c * t for c, t in zip(self.crossbars, self.graph.cycles, strict=True))
        return work / (sum(self.crossbars) * self.reference)


def plan_schedule(
    graph: LayerGraph,
    available: int | None = None,
    *,
    rule: str = "greedy",
    sets: Sets = PIXELS,
    direction: str = "vertical",
    crossbar: tuple[int, int] = (256, 256),
) -> Plan:
    """Copies by `rule` ("greedy", "min_sum" or "search") on `available` crossbars (default: enough for one each), and schedules.

    `crossbar`: its rows and columns. Raises ValueError, naming the largest layer, for fewer crossbars than one copy of each
    layer takes; for an unknown rule or direction; for a crossbar or sets outside their range.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; known: {', '.join(RULES)}")
    crossbars = graph.crossbars(*crossbar)
    available = sum(crossbars) if available is None else available
    extra = extra_crossbars(graph, crossbars, available)
    bound, limits = None, copies_limit(graph, direction)
    if rule == "search":
        found = search_duplicates(graph, crossbars, extra, sets=sets, direction=direction)
        duplicates, bound = found.duplicates, found.bound
    else:
        choose = greedy_duplicates if rule == "greedy" else min_sum_duplicates
        duplicates = choose(graph.cycles, crossbars, extra, limits)
    schedule = cross_layer(graph, duplicates, sets=sets, direction=direction)
    serial = layer_by_layer(graph, duplicates)
    return Plan(
        graph, crossbars, available, rule, sets, direction, duplicates, serial, schedule, float(sum(graph.cycles)), bound
    )  # fmt: skip


def speedup_band(
    graph: LayerGraph,
    available: int | None = None,
    *,
    rules: Sequence[str] = ("greedy", "min_sum"),
    sets: Sequence[Sets] = (PIXELS, WHOLE_ROWS),
    direction: str = "vertical",
    crossbar: tuple[int, int] = (256, 256),
) -> tuple[Plan, ...]:
    """`plan_schedule` for every rule and every size of sets."""
    options: dict[str, Any] = {"direction": direction, "crossbar": crossbar}
    return tuple(plan_schedule(graph, available, rule=rule, sets=size, **options) for rule in rules for size in sets)
