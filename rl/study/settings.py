"""What a study is made of; two studies with equal settings give equal results."""

import dataclasses
from typing import Any

from workloads import list_networks, load


@dataclasses.dataclass(frozen=True)
class StudySettings:
    """Networks to study, environment steps to train for, independent training seeds, evaluation episodes."""

    networks: tuple[str, ...] = dataclasses.field(default_factory=list_networks)
    steps: int = 200_000
    seeds: int = 5
    episodes: int = 256
    platform: str = "edge"

    def __post_init__(self) -> None:
        if not self.networks:
            raise ValueError(f"networks: a study needs at least one network, got 0; known: {', '.join(list_networks())}")
        if len(set(self.networks)) < len(self.networks):
            raise ValueError("networks: every network may be named once")
        for name in self.networks:
            load(name)
        for field, lo, hi in (("steps", 5_000, 10**9), ("seeds", 1, 1000), ("episodes", 2, 10**6)):
            value = getattr(self, field)
            if not lo <= value <= hi:
                raise ValueError(f"{field} = {value} is outside its range [{lo}, {hi}]")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self) | {"networks": list(self.networks)}
