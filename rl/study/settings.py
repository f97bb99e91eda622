"""What a study is made of; two studies with equal settings give equal results."""

import dataclasses
from typing import Any

from physics import unknown_name
from rl.study.algorithms import ALGORITHMS
from workloads import list_networks, load


@dataclasses.dataclass(frozen=True)
class StudySettings:
    """Networks to study, learned schedulers, environment steps of each training run, runs of each, evaluation episodes.

    With `optimum` the gaps to the value-iteration policy are measured, which takes its solution.
    """

    networks: tuple[str, ...] = dataclasses.field(default_factory=list_networks)
    steps: int = 200_000
    seeds: int = 3
    episodes: int = 256
    algorithms: tuple[str, ...] = tuple(ALGORITHMS)
    optimum: bool = True
    platform: str = "edge"

    def __post_init__(self) -> None:
        self._check_names("networks", list_networks())
        self._check_names("algorithms", list(ALGORITHMS))
        for name in self.networks:
            load(name)
        for name in self.algorithms:
            if name not in ALGORITHMS:
                raise ValueError(unknown_name("algorithm", name, list(ALGORITHMS)))
        for field, lo, hi in (("steps", 5_000, 10**9), ("seeds", 1, 1000), ("episodes", 2, 10**6)):
            value = getattr(self, field)
            if not lo <= value <= hi:
                raise ValueError(f"{field} = {value} is outside its range [{lo}, {hi}]")

    def _check_names(self, field: str, known: list[str] | tuple[str, ...]) -> None:
        names = getattr(self, field)
        if not names:
            raise ValueError(f"{field}: a study needs at least one, got 0; known: {', '.join(known)}")
        if len(set(names)) < len(names):
            raise ValueError(f"{field}: each may be named once, got {', '.join(names)}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self) | {"networks": list(self.networks), "algorithms": list(self.algorithms)}
