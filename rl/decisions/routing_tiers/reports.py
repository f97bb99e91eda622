"""What a router answers: the target, which tier said so, by how much it is ahead, every alternative, and the reason in words."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rl.decisions.routing_tiers.guides import Guide
from rl.decisions.routing_tiers.outlooks import LIMITS, Outlook
from rl.decisions.routing_tiers.verdicts import TIERS, Verdict

SHOWN = 2  # of the tree's comparisons, in a reason
BROKEN = {
    "retention": "would lose its weights before the result is there",
    "capacity": "lacks the memory",
    "heat": "would get too hot",
    "deadline": "would miss the deadline",
}


class RouteOption(NamedTuple):
    """One processor in the state that was asked about."""

    target: str
    latency: float  # s
    energy: float  # J
    log_cost: float  # ln(latency x energy)
    retention: float  # margins: negative forbids; see `outlooks.py`
    capacity: float
    heat: float
    deadline: float

    @classmethod
    def of(cls, target: str, seen: Outlook) -> "RouteOption":
        """The option that an outlook describes."""
        return cls(target, *(float(getattr(seen, name)) for name in cls._fields[1:]))

    @property
    def broken(self) -> tuple[str, ...]:
        """The limits that forbid it, worst first."""
        return tuple(sorted((name for name in LIMITS if not getattr(self, name) >= 0), key=lambda name: getattr(self, name)))

    @property
    def feasible(self) -> bool:
        """Whether nothing forbids it."""
        return not self.broken


@dataclasses.dataclass(frozen=True)
class RoutingReport:
    """One decision; `str()` is one line. `margin`: cost of the best other option allowed over the target's, minus 1."""

    task: str
    target: str  # a processor's name in capitals: CPU, GPU, PIM
    tier_used: str  # TIER1_FEASIBILITY, TIER2_SKLEARN or TIER3_COSTMODEL
    confidence: float  # in [0, 1]; of the tree where it answers, else 1
    margin: float  # infinite where no other option is allowed; negative where the tree is wrong
    reason: str
    feasible: bool  # False where nothing is allowed and the target only comes nearest
    options: tuple[RouteOption, ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values; what is not finite is None."""
        rows = [{k: _json(v) for k, v in o._asdict().items()} | {"feasible": o.feasible} for o in self.options]
        own = {f.name: _json(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "options"}
        return own | {"options": rows}

    def __str__(self) -> str:
        return f"{self.task}: {self.target} ({self.tier_used}), {self.reason}"


def give_reason(
    verdict: Verdict, options: Sequence[RouteOption], guide: Guide | None, entries: np.ndarray, threshold: float
) -> str:
    """Why, in one sentence, from the verdict on one state."""
    target = options[int(verdict.target)]
    if int(verdict.allowed) < 2:
        return _why_forbidden(target, options)
    best = min((o.log_cost for o in options if o.feasible and o is not target), default=np.inf)
    lead = f"its latency x energy is {np.exp(target.log_cost - best):.3g} of that of the best other"
    if TIERS[int(verdict.tier) - 1] == "TIER2_SKLEARN" and guide is not None:
        return f"the tree gives it {float(verdict.confidence):.1%} of the votes where {_path(guide, entries)}; {lead}"
    return f"least latency x energy by the cost model, asked because {_why_asked(guide, entries, options, threshold)}; {lead}"


def _why_forbidden(target: RouteOption, options: Sequence[RouteOption]) -> str:
    others = "; ".join(f"{o.target} {' and '.join(BROKEN[name] for name in o.broken)}" for o in options if o.broken)
    if target.feasible:
        return f"nothing else is allowed: {others}" if others else f"{target.target} is the only processor"
    return f"nothing is allowed, {target.target} comes nearest: {others}"


def _why_asked(guide: Guide | None, entries: np.ndarray, options: Sequence[RouteOption], threshold: float) -> str:
    if guide is None:
        return "no tree was trained for this platform"
    outside = np.flatnonzero((entries < np.asarray(guide.lo)) | (entries > np.asarray(guide.hi)))
    if outside.size:
        i = int(outside[0])
        lo, hi = float(guide.lo[i]), float(guide.hi[i])
        return f"{guide.features[i]} = {entries[i]:.4g} is outside the tree's training range [{lo:.4g}, {hi:.4g}]"
    leaf = int(guide.tree.leaf(jnp.asarray(entries)))
    choice, votes = options[int(guide.tree.choice[leaf])], float(guide.tree.votes[leaf].max())
    if not choice.feasible:
        return f"the tree would take {choice.target}, which {' and '.join(BROKEN[name] for name in choice.broken)}"
    return f"the tree's {votes:.1%} for {choice.target} are below {threshold:.1%}"


def _path(guide: Guide, entries: np.ndarray) -> str:
    """The last comparisons on the way to the leaf."""
    tree, node, passed = guide.tree, 0, []
    feature, threshold, left, right = (np.asarray(a) for a in (tree.feature, tree.threshold, tree.left, tree.right))
    while left[node] != node:
        below = entries[feature[node]] <= threshold[node]
        passed.append(f"{guide.features[feature[node]]} {'<=' if below else '>'} {threshold[node]:.3g}")
        node = left[node] if below else right[node]
    return " and ".join(passed[-SHOWN:]) or "nothing is asked"


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
