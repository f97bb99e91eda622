"""What every off-policy training is told, checked when it is made; each algorithm adds its own settings to these.

Three clocks, never mixed: *environment steps* count single transitions over all lanes (total_steps, buffer_size,
learning_starts, train_every, log_every, schedules of exploration); *updates* count gradient steps (the learning-rate
schedule, the annealing of importance weights); *iterations* are the program's own unit, one round of collecting and
learning, and appear in no setting.
"""

import dataclasses
import math
from typing import Any, ClassVar, Literal

INTEGERS = ("total_steps", "num_envs", "buffer_size", "batch_size", "learning_starts", "train_every", "log_every", "n_step")
SCHEDULES = ("constant", "linear", "cosine")


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


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse what is not one of the words `choices`."""
    if value not in choices:
        refuse(name, value, f"{', '.join(repr(choice) for choice in choices[:-1])} or {choices[-1]!r}")


def check_flag(name: str, value: Any) -> None:
    """Refuse what is not true or false."""
    if not isinstance(value, bool):
        refuse(name, value, "true or false")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings shared by all algorithms; every field is checked in the constructor (ValueError, one line).

    total_steps: environment steps of the whole run, a multiple of max(train_every, num_envs).
    num_envs: lanes stepped side by side. train_every and num_envs: one must be a multiple of the other.
    buffer_size: transitions kept, a multiple of num_envs; the oldest are overwritten.
    learning_starts: environment steps before the first update, at least batch_size and n_step num_envs.
    train_every: environment steps per update.
    learning_rate: Adam's, held constant or brought to zero at the last update, linearly or along half a cosine
    (learning_rate_schedule). max_grad_norm: the gradient is scaled down to this global norm; None leaves it.
    hidden: widths of the layers between input and head.
    reward_scale: multiplies rewards before learning, to bring them near 1; metrics of episodes stay in the environment's
    own unit, loss and mean_q are scaled.
    n_step: rewards summed before the bootstrap; fewer where the episode ends.
    normalize: observations enter the networks with running mean 0 and variance 1.
    known_rewards: the last entries of an observation, one per action, are rewards that are known before acting (as those of
    `SchedulingEnv(foresight=True)`): they are added to the values, and the network learns only what follows. Not with
    normalize, which would change their unit.
    prioritized: draw transitions by their last error: chance ~ (|error| + priority_floor)^priority_exponent, corrected by
    weights whose exponent grows linearly from importance_exponent to 1 over the updates.
    log_every: environment steps per row of metrics, a multiple of max(train_every, num_envs); the last row may be shorter.
    """

    algorithm: ClassVar[str]

    total_steps: int = 200_000
    num_envs: int = 10
    buffer_size: int = 50_000
    batch_size: int = 128
    learning_starts: int = 2_000
    train_every: int = 10
    learning_rate: float = 5e-4
    learning_rate_schedule: Literal["constant", "linear", "cosine"] = "linear"
    gamma: float = 0.99
    hidden: tuple[int, ...] = (120, 84)
    max_grad_norm: float | None = 10.0
    reward_scale: float = 1.0
    n_step: int = 1
    normalize: bool = False
    known_rewards: bool = False
    prioritized: bool = False
    priority_exponent: float = 0.5
    priority_floor: float = 1e-6
    importance_exponent: float = 0.4
    log_every: int = 2_000

    def __post_init__(self) -> None:
        for name in INTEGERS:
            check_integer(name, getattr(self, name))
        self._check_clocks()
        self._check_reals()
        check_choice("learning_rate_schedule", self.learning_rate_schedule, SCHEDULES)
        for name in ("normalize", "prioritized", "known_rewards"):
            check_flag(name, getattr(self, name))
        if self.known_rewards and self.normalize:
            refuse("known_rewards", True, "false where normalize = True")
        if not isinstance(self.hidden, tuple | list):
            refuse("hidden", self.hidden, "a sequence of integers")
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for width in self.hidden:
            check_integer("hidden", width)

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
        if self.learning_starts < self.n_step * self.num_envs:
            refuse("n_step", self.n_step, f"at most learning_starts / num_envs = {self.learning_starts // self.num_envs}")

    def _check_reals(self) -> None:
        for name in ("learning_rate", "max_grad_norm", "reward_scale", "priority_floor"):
            if name != "max_grad_norm" or self.max_grad_norm is not None:
                check_real(name, getattr(self, name), 0.0, math.inf, open_lo=True)
        for name in ("gamma", "priority_exponent", "importance_exponent"):
            check_real(name, getattr(self, name), 0.0, 1.0)

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
