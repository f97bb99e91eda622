"""The settings of DQN training: those of every off-policy agent, the target network, exploration, and the network."""

import dataclasses
import math
from typing import ClassVar

from rl.agents.config import TrainingConfig, check_flag, check_integer, check_real


@dataclasses.dataclass(frozen=True, kw_only=True)
class DQNConfig(TrainingConfig):
    """What DQN training does; every field is checked in the constructor (ValueError, one line).

    Shared settings: see TrainingConfig.
    target_update_every: updates between hard copies of the target network, or None with target_soft_factor set:
    target += factor * (online - target) after each update. Never both.
    epsilon_*: the chance of a random action goes linearly from start to end during the first fraction of total_steps.
    double, dueling: the double target, the dueling head. noisy: factorised noise in every layer, of first size
    noise_scale / sqrt(inputs), which explores by itself, so that epsilon may be 0.
    """

    algorithm: ClassVar[str] = "dqn"

    target_update_every: int | None = 50
    target_soft_factor: float | None = None
    epsilon_start: float = 1.0
    epsilon_end: float = 0.05
    epsilon_fraction: float = 0.3
    double: bool = True
    dueling: bool = True
    noisy: bool = False
    noise_scale: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_target()
        for name in ("epsilon_start", "epsilon_end"):
            check_real(name, getattr(self, name), 0.0, 1.0)
        check_real("epsilon_fraction", self.epsilon_fraction, 0.0, 1.0, open_lo=True)
        check_real("noise_scale", self.noise_scale, 0.0, math.inf, open_lo=True)
        for name in ("double", "dueling", "noisy"):
            check_flag(name, getattr(self, name))

    def _check_target(self) -> None:
        if (self.target_update_every is None) == (self.target_soft_factor is None):
            both = f"target_update_every = {self.target_update_every!r} and target_soft_factor = {self.target_soft_factor!r}"
            raise ValueError(f"{both}: exactly one must be set, hard copies every so many updates or a soft factor at each")
        if self.target_update_every is not None:
            check_integer("target_update_every", self.target_update_every)
        if self.target_soft_factor is not None:
            check_real("target_soft_factor", self.target_soft_factor, 0.0, 1.0, open_lo=True)
