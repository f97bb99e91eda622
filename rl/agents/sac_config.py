"""The settings of soft actor-critic: those of every off-policy agent, and those of target network and temperatures."""

import dataclasses
import math
from typing import ClassVar

from rl.agents.config import TrainingConfig, check_real, refuse


@dataclasses.dataclass(frozen=True, kw_only=True)
class SACConfig(TrainingConfig):
    """What soft actor-critic training does; every field is checked in the constructor (ValueError, one line).

    Shared settings: see TrainingConfig; `hidden` holds for actor and critics alike and needs at least one layer,
    `max_grad_norm` for either on its own. Its default is None: Adam does not mind the scale of gradients, and where rewards
    are large a limit of 10 is met by nearly all of them (on Pendulum it left one seed in eight untrained).
    target_soft_factor: after each update, target += factor * (online - target).
    initial_temperature: what a nat of entropy is worth in (scaled) reward before the temperatures are learned.
    choice_entropy: the entropy of choices that is held, as a share of the largest, ln choices. Near 1 only a temperature
    without end can hold it: on CartPole 0.98 led to temperatures of 4000 and values of 55,000 (four seeds of four, 25,000
    updates), 0.5 and 0.05 to values of at most 65.
    epsilon_*: the chance of a random action goes linearly from start to end during the first fraction of total_steps; 0, none,
    by default. Where the critics know rewards beforehand, an actor of low entropy is soon sure of what pays at once and
    never tries what pays later: on routing half of the runs ended 23 % below the optimum without it.
    amount_entropy: the entropy of amounts that is held, in nats per dimension of an amount in [-1, 1]; -1 is customary, a
    uniform amount has ln 2.
    """

    algorithm: ClassVar[str] = "sac"

    train_every: int = 2
    learning_rate: float = 1e-3
    max_grad_norm: float | None = None
    target_soft_factor: float = 0.01
    initial_temperature: float = 0.1
    choice_entropy: float = 0.05
    amount_entropy: float = -1.0
    epsilon_start: float = 0.0
    epsilon_end: float = 0.0
    epsilon_fraction: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.hidden:
            refuse("hidden", self.hidden, "a sequence of at least one integer")
        check_real("target_soft_factor", self.target_soft_factor, 0.0, 1.0, open_lo=True)
        check_real("initial_temperature", self.initial_temperature, 0.0, math.inf, open_lo=True)
        check_real("choice_entropy", self.choice_entropy, 0.0, 1.0)
        check_real("amount_entropy", self.amount_entropy, -math.inf, math.log(2.0))
        for name in ("epsilon_start", "epsilon_end"):
            check_real(name, getattr(self, name), 0.0, 1.0)
        check_real("epsilon_fraction", self.epsilon_fraction, 0.0, 1.0, open_lo=True)
