"""The settings of DQN training, checked when they are made.

Three clocks, never mixed: *environment steps* count single transitions over all lanes (total_steps, buffer_size,
learning_starts, train_every, log_every, the exploration schedule); *updates* count gradient steps (target_update_every,
the learning-rate schedule); *iterations* are the program's own unit, one round of collecting and learning, and appear
in no setting.
"""

import dataclasses
import math
from typing import Any, Literal

INTEGERS = ("total_steps", "num_envs", "buffer_size", "batch_size", "learning_starts", "train_every", "log_every")


def refuse(name: str, value: Any, allowed: str) -> None:
    """Raise the one-line ValueError of a setting."""
    raise ValueError(f"{name} = {value!r} must be {allowed}")


def check_integer(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is not an integer of at least `least` that fits the 32-bit step counter."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        refuse(name, value, f"an integer in [{least}, {2**31 - 1}]")


def check_real(name: str, value: Any, lo: float, hi: float, open_lo: bool = False) -> None:
    """Refuse what is not a number in [lo, hi], or in (lo, hi] with `open_lo`; an infinite `hi` is itself excluded."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not lo <= value <= hi or (open_lo and value == lo):
        refuse(name, value, f"a number in {'(' if open_lo else '['}{lo:g}, {hi:g}{')' if hi == math.inf else ']'}")


@dataclasses.dataclass(frozen=True)
class DQNConfig:
    """What DQN training does; every field is checked in the constructor (ValueError, one line).

    total_steps: environment steps of the whole run, a multiple of max(train_every, num_envs).
    num_envs: lanes stepped side by side. train_every and num_envs: one must be a multiple of the other.
    buffer_size: transitions kept, a multiple of num_envs; the oldest are overwritten.
    learning_starts: environment steps before the first update, at least batch_size.
    train_every: environment steps per update. target_update_every: updates between hard copies of the target network,
    or None with target_soft_factor set: target += factor * (online - target) after each update. Never both.
    learning_rate: Adam's, held constant or brought linearly to zero at the last update (learning_rate_schedule).
    epsilon_*: the chance of a random action goes linearly from start to end during the first fraction of total_steps.
    max_grad_norm: the gradient is scaled down to this global norm. reward_scale: multiplies rewards before learning,
    to bring them near 1; metrics of episodes stay in the environment's own unit, loss and mean_q are scaled.
    log_every: environment steps per row of metrics, a multiple of max(train_every, num_envs); the last row may be shorter.
    """

    total_steps: int = 200_000
    num_envs: int = 10
    buffer_size: int = 50_000
    batch_size: int = 128
    learning_starts: int = 2_000
    train_every: int = 10
    target_update_every: int | None = 50
    target_soft_factor: float | None = None
    learning_rate: float = 5e-4
    learning_rate_schedule: Literal["constant", "linear"] = "linear"
    gamma: float = 0.99
    epsilon_start: float = 1.0
    epsilon_end: float = 0.05
    epsilon_fraction: float = 0.3
    hidden: tuple[int, ...] = (120, 84)
    double: bool = True
    dueling: bool = True
    max_grad_norm: float = 10.0
    reward_scale: float = 1.0
    log_every: int = 2_000

    def __post_init__(self) -> None:
        for name in INTEGERS:
            check_integer(name, getattr(self, name))
        self._check_clocks()
        self._check_target()
        self._check_reals()
        if not isinstance(self.hidden, tuple | list):
            refuse("hidden", self.hidden, "a sequence of integers")
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for width in self.hidden:
            check_integer("hidden", width)
        for name in ("double", "dueling"):
            if not isinstance(getattr(self, name), bool):
                refuse(name, getattr(self, name), "true or false")

    def _check_clocks(self) -> None:
        if self.train_every % self.num_envs and self.num_envs % self.train_every:
            refuse("train_every", self.train_every, f"a multiple or a divisor of num_envs = {self.num_envs}")
        for name in ("log_every", "total_steps"):
            if getattr(self, name) % self.steps_per_iteration:
                refuse(name, getattr(self, name), f"a multiple of max(train_every, num_envs) = {self.steps_per_iteration}")
        if self.buffer_size % self.num_envs:
            refuse("buffer_size", self.buffer_size, f"a multiple of num_envs = {self.num_envs}")
        if not self.batch_size <= self.buffer_size:
            refuse("batch_size", self.batch_size, f"at most buffer_size = {self.buffer_size}")
        if not self.batch_size <= self.learning_starts <= self.total_steps:
            refuse(
                "learning_starts", self.learning_starts, f"in [batch_size, total_steps] = [{self.batch_size}, {self.total_steps}]"
            )

    def _check_target(self) -> None:
        if (self.target_update_every is None) == (self.target_soft_factor is None):
            both = f"target_update_every = {self.target_update_every!r} and target_soft_factor = {self.target_soft_factor!r}"
            raise ValueError(f"{both}: exactly one must be set, hard copies every so many updates or a soft factor at each")
        if self.target_update_every is not None:
            check_integer("target_update_every", self.target_update_every)
        if self.target_soft_factor is not None:
            check_real("target_soft_factor", self.target_soft_factor, 0.0, 1.0, open_lo=True)

    def _check_reals(self) -> None:
        check_real("learning_rate", self.learning_rate, 0.0, math.inf, open_lo=True)
        if self.learning_rate_schedule not in ("constant", "linear"):
            refuse("learning_rate_schedule", self.learning_rate_schedule, "'constant' or 'linear'")
        for name in ("gamma", "epsilon_start", "epsilon_end"):
            check_real(name, getattr(self, name), 0.0, 1.0)
        check_real("epsilon_fraction", self.epsilon_fraction, 0.0, 1.0, open_lo=True)
        for name in ("max_grad_norm", "reward_scale"):
            check_real(name, getattr(self, name), 0.0, math.inf, open_lo=True)

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of one iteration: the least that is whole for both the lanes and the updates."""
        return max(self.train_every, self.num_envs)

    @property
    def total_iterations(self) -> int:
        """Iterations of the whole run."""
        return self.total_steps // self.steps_per_iteration

    @property
    def updates_per_iteration(self) -> int:
        """Updates that follow the collecting of one iteration."""
        return self.steps_per_iteration // self.train_every

    @property
    def warmup_iterations(self) -> int:
        """Iterations that only collect."""
        return -(-self.learning_starts // self.steps_per_iteration) - 1

    @property
    def total_updates(self) -> int:
        """Updates of the whole run."""
        return (self.total_iterations - self.warmup_iterations) * self.updates_per_iteration

    @property
    def rows(self) -> int:
        """Rows of metrics of the whole run."""
        return -(-self.total_steps // self.log_every)
