"""The router: where a kernel, a network or any other piece of work should run, which of three tiers says so, and why.

    report = ComplexityRouter().route("FFT", hw=HardwareState.from_temperature(T=45.0))
    report.target, report.tier_used, report.confidence, report.margin, report.reason

1. TIER1_FEASIBILITY  what is forbidden: weights that would be forgotten before the result is there, memory that is too small, a
                      junction that would be too hot, a deadline that would be missed. It answers where at most one is left.
2. TIER2_SKLEARN      a decision tree trained with scikit-learn on states like these, if it is confident enough.
3. TIER3_COSTMODEL    the least latency x energy by the whole cost model, traffic by polyhedral tiles.

The exact rule is in `routing_tiers/verdicts.py`, the margins and costs in `outlooks.py`, the tree's training and regret in
`training.py`. A workload is anything that `workloads.resolve` takes. It is priced once per router, and then costs the third tier
about as little as the second: the tree is for explaining, for gradients (`Tree.soft_votes`) and for comparison.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from costmodel import Platform, load_platform
from rl.decisions.routing_tiers.features import Rates, feature_names, find_rates
from rl.decisions.routing_tiers.guides import THRESHOLD, Guide, load_guide
from rl.decisions.routing_tiers.outlooks import Outlook, outlooks
from rl.decisions.routing_tiers.pricing import MEMORIES, Memory, Priced, price, split
from rl.decisions.routing_tiers.reports import RouteOption, RoutingReport, give_reason
from rl.decisions.routing_tiers.states import HardwareState, checked, columns, spread
from rl.decisions.routing_tiers.verdicts import TIERS, Evidence, Verdict, decide, gather
from workloads.resolution import Workload, resolve

MORE = 16  # workloads by which a batch may grow without being compiled again
CHUNK, FEWEST = 1 << 15, 1 << 10  # states computed at once: few enough for the cache; smaller batches are filled up


class RoutedBatch(NamedTuple):
    """Decisions on N states; `names[target[i]]` is the processor of state i."""

    names: tuple[str, ...]
    target: Int[Array | np.ndarray, " states"]
    tier: Int[Array | np.ndarray, " states"]  # 1, 2 or 3
    confidence: Float[Array | np.ndarray, " states"]
    margin: Float[Array | np.ndarray, " states"]  # cost of the best other processor over that of the target, minus 1


class ComplexityRouter:
    """Routes workloads on one platform. Prices each workload once; `guide` is what the second tier knows."""

    def __init__(
        self,
        platform: Platform | str = "edge",
        guide: Guide | None = None,
        confidence: float = THRESHOLD,
        memories: Mapping[str, Memory] = MEMORIES,
    ) -> None:
        """`confidence` in [0, 1] is that from which the tree answers; `memories` are those of the platform's processors.

        Without a `guide` the shipped one is used if it fits the platform, else the third tier answers. ValueError for an
        unknown platform, for a guide that belongs to another one, and for a confidence out of range.
        """
        if not 0 <= confidence <= 1:
            raise ValueError(f"confidence = {confidence:g} is outside its range [0, 1]")
        self.platform = load_platform(platform) if isinstance(platform, str) else platform
        self.names, self.confidence, self.memories = self.platform.names, confidence, dict(memories)
        self.targets = tuple(name.upper() for name in self.names)
        self.rates, self.features = find_rates(self.platform), feature_names(self.platform)
        shipped = guide is None
        guide = load_guide() if guide is None else guide
        fits = guide.fits(self.rates, self.features)
        if not (fits or shipped):
            raise ValueError("guide was trained for other processors than the platform's; train one with train_guide(platform)")
        self.guide = guide if fits else None
        self._parts, self._priced = split(self.platform), {}
        self._one = jax.jit(partial(_look, self._parts, self.guide, self.rates))
        self._judge = jax.jit(partial(decide, self.guide))
        self._many: Any = None

    def route(self, task: Any, *args: Any, hw: HardwareState | None = None, **options: Any) -> RoutingReport:
        """Where `task` should run in the state `hw` (default: 45 C, idle, awake, its weights in place).

        `task`, `args` and `options` are those of `workloads.resolve`. Raises ValueError, one line, for a task that nothing is
        called (also a KeyError, with close matches) and for a state that is out of range.
        """
        work = resolve(task, *args, **options)
        state = spread(checked(HardwareState.from_temperature(45.0) if hw is None else hw), len(self.names))
        verdict, seen, entries = jax.device_get(self._one(jnp.asarray(self.confidence, float), self._price(work), state))
        return self._report(work, verdict, seen, entries)

    def route_batch(self, tasks: Sequence[Any], hw: HardwareState, which: Any = None) -> RoutedBatch:
        """Decisions on many states of `tasks`, a list of what `route` takes: `hw` with arrays (N, P), (N, 1) or (N,), or
        numbers that all states share.

        `which` (N,) is the position in `tasks` of each state's task; left out if there is one task. Raises ValueError as `route`
        does, and for shapes that do not fit each other.
        """
        priced = [self._price(resolve(task)) for task in tasks]
        if not priced:
            raise ValueError("tasks is empty: a batch needs at least one")
        which = _positions(which, len(priced), hw)
        state = columns(checked(hw), len(self.names), len(which))
        # two programs, the second reading what the first has written: as one, the first part would be computed several times
        rows = np.stack([np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(one)]) for one in priced])
        rows = np.pad(rows, [(0, -len(rows) % MORE), (0, 0)])  # so that few shapes are compiled
        if self._many is None:  # all workloads have the same entries, so that one program does for all
            self._many = jax.jit(partial(_gather_rows, self._parts, self.rates, ravel_pytree(priced[0])[1]))
        return RoutedBatch(self.targets, *self._in_chunks(rows, which, state))

    def _price(self, work: Workload) -> Priced:
        key = work.name, work.sizes, *(np.asarray(column).tobytes() for column in jax.tree.leaves(work.table))
        if key not in self._priced:
            self._priced[key] = jax.device_get(jax.tree.map(lambda x: x[0], price(self.platform, [work], self.memories)))
        return self._priced[key]

    def _in_chunks(self, rows: np.ndarray, which: np.ndarray, state: HardwareState) -> list[np.ndarray]:
        count, found = len(which), []
        size, threshold = min(CHUNK, max(FEWEST, 1 << (count - 1).bit_length())), jnp.asarray(self.confidence, float)
        for start in range(0, count, size):
            part = jax.tree.map(partial(_cut, start=start, size=size), (which, state))
            found.append(self._judge(threshold, self._many(rows, *part)))
        parts = zip(*(verdict[:4] for verdict in found), strict=True)
        return [np.concatenate([np.asarray(part) for part in column])[:count] for column in parts]

    def _report(self, work: Workload, verdict: Verdict, seen: list[Outlook], entries: np.ndarray) -> RoutingReport:
        options = tuple(RouteOption.of(name, outlook) for name, outlook in zip(self.targets, seen, strict=True))
        target = int(verdict.target)
        return RoutingReport(
            task=work.name,
            target=self.targets[target],
            tier_used=TIERS[int(verdict.tier) - 1],
            confidence=float(verdict.confidence),
            margin=float(verdict.margin),
            reason=give_reason(verdict, options, self.guide, entries, self.confidence),
            feasible=options[target].feasible,
            options=options,
        )


def _look(
    parts: tuple[Platform, ...], guide: Guide | None, rates: Rates, threshold: Array, priced: Priced, state: HardwareState
) -> tuple[Verdict, list[Outlook], Array]:
    """The verdict on one state, what it rests on, and what the tree sees."""
    seen = outlooks(parts, priced, state)
    evidence = gather(rates, priced, state, seen)
    return decide(guide, threshold, evidence), seen, jnp.stack(evidence.entries)


def _gather_rows(
    parts: tuple[Platform, ...],
    rates: Rates,
    unravel: Callable[[Array], Priced],
    rows: Array,
    which: Array,
    state: HardwareState,
) -> Evidence:
    """The evidence in states (P, N) of the workloads `rows[which]`."""

    def one(index: Array, state: HardwareState) -> Evidence:
        priced = unravel(rows[index])
        return gather(rates, priced, state, outlooks(parts, priced, state))

    return jax.vmap(one, in_axes=(0, -1))(which, state)


def _cut(values: np.ndarray, start: int, size: int) -> np.ndarray:
    """`size` states from `start` on, the last one repeated where there are fewer."""
    part = values[..., start : start + size]
    missing = size - part.shape[-1]
    part = np.pad(part, [(0, 0)] * (part.ndim - 1) + [(0, missing)], mode="edge") if missing else part
    return np.ascontiguousarray(part, part.dtype if part.dtype.kind == "i" else jnp.zeros(()).dtype)


def _positions(which: Any, tasks: int, state: HardwareState) -> np.ndarray:
    """Which task every state is of; ValueError for positions that name none."""
    if which is None:
        if tasks != 1:
            raise ValueError(f"which is missing: there are {tasks} tasks")
        which = np.zeros(max((np.shape(value)[0] for value in state if np.ndim(value)), default=1), np.int32)
    positions = np.asarray(which)
    if positions.ndim != 1 or positions.dtype.kind not in "iu" or not positions.size:
        raise ValueError(f"which has shape {positions.shape} and type {positions.dtype}, expected whole numbers (N,)")
    if not 0 <= positions.min() <= positions.max() < tasks:
        raise ValueError(f"which = {positions.min()} to {positions.max()} is outside its range [0, {tasks - 1}]")
    return positions.astype(np.int32)
