"""The record of one decision: what was decided, why, by how much, and what each alternative would have cost.

The numbers come from the device as one vector; sentences are written only when somebody reads them.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

KELVIN = 273.15


class ControlLimits(NamedTuple):
    """When a controller does not simply follow its agent."""

    retention_margin: float = 0.0  # ln(hazard budget / lost fraction) at the result: 0 just saves it, ln 2 keeps half in reserve
    temperature: float = 398.15  # K, hottest junction at the end of the step; assumed: the usual 125 C of industrial silicon
    hysteresis: float = 0.05  # in units of the reward: a target is left for one that is better by more than this
    slack: float = 0.05  # widths of the training range that an entry may lie outside of it


class Alternative(NamedTuple):
    """What one target would have cost: `costmodel.Outcome`, the reward of this request alone, and the agent's value."""

    target: str
    latency: float  # s
    energy: float  # J
    deadline_margin: float  # s, negative: missed
    retention_margin: float  # ln(hazard budget / lost fraction) at the result; 50 where no cells are used
    peak_temperature: float  # K
    wear: float  # fraction of a chip's life
    reward: float
    value: float  # in units of the reward; of the whole future

    def keeps(self, limits: ControlLimits) -> bool:
        """Whether it keeps both limits."""
        return self.retention_margin >= limits.retention_margin and self.peak_temperature <= limits.temperature


COLUMNS = Alternative._fields[1:]
HEADER = ("target", "preferred", "kept", "fallback", "entry")


@dataclasses.dataclass(frozen=True)
class Context:
    """What all decisions of one controller share: names, limits, the training range."""

    targets: tuple[str, ...]
    entries: tuple[str, ...]
    limits: ControlLimits
    lo: np.ndarray
    hi: np.ndarray


class ControlDecision:
    """One decision. `index` and `target` say where to run; `str()` gives the reason."""

    __slots__ = ("_context", "_numbers", "fallback", "index")

    def __init__(self, numbers: list[float], context: Context) -> None:
        """Read the vector `numbers`: HEADER, the observation, then COLUMNS of every target."""
        self._numbers, self._context = numbers, context
        self.index = int(numbers[0])
        self.fallback = numbers[3] > 0  # decided by cost-greedy because the agent cannot be asked

    @property
    def target(self) -> str:
        """Name of the target."""
        return self._context.targets[self.index]

    @property
    def preferred(self) -> int:
        """The target that the agent, or the fall-back, would have taken alone."""
        return int(self._numbers[1])

    @property
    def held(self) -> bool:
        """Whether hysteresis kept the network where it last ran against a slightly better value."""
        return self._numbers[1] != self._numbers[2]

    @property
    def migrated(self) -> bool:
        """Whether a limit forced another target."""
        return self._numbers[0] != self._numbers[2]

    @property
    def observation(self) -> dict[str, float]:
        """The observation by the names of its entries."""
        return dict(zip(self._context.entries, self._numbers[len(HEADER) :], strict=False))

    @property
    def alternatives(self) -> tuple[Alternative, ...]:
        """Every target's cost, the chosen one's included, in the order of targets."""
        start, width = len(HEADER) + len(self._context.entries), len(COLUMNS)
        rows = (self._numbers[start + i * width : start + (i + 1) * width] for i in range(len(self._context.targets)))
        return tuple(Alternative(name, *row) for name, row in zip(self._context.targets, rows, strict=True))

    @property
    def within_limits(self) -> bool:
        """Whether the target keeps both limits; false only where no target does."""
        return self.alternatives[self.index].keeps(self._context.limits)

    @property
    def margin(self) -> float:
        """How much better the target is than the best other one, in units of the reward; negative if held or migrated.

        Of the agent's values; of this request's reward where it fell back. Infinite if there is no other target.
        """
        others = [self._score(i) for i in range(len(self._context.targets)) if i != self.index]
        return self._score(self.index) - max(others, default=-np.inf)

    @property
    def reason(self) -> str:
        """Why, in one sentence."""
        parts = [self._why_not_the_agent()] if self.fallback else []
        parts.append(self._why_held() if self.held else self._why_preferred())
        if self.migrated or not self.within_limits:
            parts.append(self._why_moved())
        return "; ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the observation, as JSON values; what is not finite is None."""
        found = {
            "target": self.target,
            "reason": self.reason,
            "margin": self.margin,
            "fallback": self.fallback,
            "held": self.held,
            "migrated": self.migrated,
            "within_limits": self.within_limits,
            "alternatives": [{k: _json(v) for k, v in row._asdict().items()} for row in self.alternatives],
        }
        return {name: _json(value) for name, value in found.items()}

    def __str__(self) -> str:
        return f"{self.target}: {self.reason}"

    def __repr__(self) -> str:
        return f"ControlDecision({self.target!r}, {self.reason!r})"

    def _score(self, index: int) -> float:
        alternative = self.alternatives[index]
        return alternative.reward if self.fallback else alternative.value

    def _name(self, position: int) -> str:
        return self._context.targets[int(self._numbers[position])]

    def _why_not_the_agent(self) -> str:
        entry = int(self._numbers[HEADER.index("entry")])
        if entry < 0:
            return "the agent's values are not finite, so the reward of this request decides"
        found, context = self._numbers[len(HEADER) + entry], self._context
        trained = f"[{context.lo[entry]:.4g}, {context.hi[entry]:.4g}]"
        return (
            f"outside the training range: {context.entries[entry]} = {found:.4g}, trained on {trained}, "
            "so the reward of this request decides"
        )

    def _why_preferred(self) -> str:
        quantity, best = "reward" if self.fallback else "value", self.preferred
        others = [i for i in range(len(self._context.targets)) if i != best]
        if not others:
            return f"{self._name(1)} is the only target"
        if not np.isfinite(self._score(best)):
            return f"no {quantity} is a finite number, and {self._name(1)} is the first target"
        second = max(others, key=self._score)
        lead, name = self._score(best) - self._score(second), self._context.targets[second]
        if lead < 0:
            return f"the policy takes {self._name(1)}, though its critics value {name} higher by {-lead:.3g}"
        return f"{self._name(1)} has the best {quantity}, {lead:.3g} above {name}"

    def _why_held(self) -> str:
        quantity, kept = "reward" if self.fallback else "value", int(self._numbers[2])
        lead = self._score(self.preferred) - self._score(kept)
        return (
            f"held on {self._name(2)}: the {quantity} of {self._name(1)} is higher by {lead:.3g}, "
            f"not more than the hysteresis of {self._context.limits.hysteresis:g}"
        )

    def _why_moved(self) -> str:
        kept, limits = self.alternatives[int(self._numbers[2])], self._context.limits
        broken = []
        if not kept.retention_margin >= limits.retention_margin:
            broken.append(
                f"its retention margin of {kept.retention_margin:.3g} at the result is below {limits.retention_margin:.3g}"
            )
        if not kept.peak_temperature <= limits.temperature:
            peak, limit = kept.peak_temperature - KELVIN, limits.temperature - KELVIN
            broken.append(f"a junction would reach {peak:.1f} C, above {limit:.1f} C")
        found = f"migrated from {kept.target} to {self.target}" if self.migrated else f"kept on {kept.target}"
        last_resort = "" if self.within_limits else ", and no target keeps the limits"
        return f"{found}: {' and '.join(broken)}{last_resort}"


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
