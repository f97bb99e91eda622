"""Settings by name: what works on the classic control tasks and on routing, and the flat agent that ablations compare with.

Scores of the classic tasks, with seeds and intervals, are printed by `tests/benchmarks/bench_agents.py returns`.
"""

from typing import Any

from rl.agents.dqn_config import DQNConfig
from rl.agents.sac_config import SACConfig

CLASSIC: dict[str, Any] = {  # many small updates
    "total_steps": 100_000,
    "num_envs": 2,
    "train_every": 2,
    "batch_size": 64,
    "learning_starts": 1_000,
    "learning_rate": 1e-3,
    "target_update_every": 200,
    "epsilon_fraction": 0.2,
}


def cartpole(**changes: Any) -> DQNConfig:
    """DQN for CartPole-v1 in 100,000 steps, with `changes`; ValueError as of DQNConfig."""
    return DQNConfig(**CLASSIC | changes)


def acrobot(**changes: Any) -> DQNConfig:
    """DQN for Acrobot-v1 in 100,000 steps, with `changes`; ValueError as of DQNConfig."""
    return DQNConfig(**CLASSIC | changes)


def pendulum(**changes: Any) -> SACConfig:
    """Soft actor-critic for Pendulum-v1 in 10,000 steps, an update after each, with `changes`; ValueError as of SACConfig."""
    settings: dict[str, Any] = {"total_steps": 10_000, "buffer_size": 10_000, "learning_starts": 1_000, "train_every": 1}
    settings |= {"num_envs": 1, "batch_size": 256, "hidden": (64, 64), "learning_rate_schedule": "constant", "log_every": 1_000}
    settings |= {"target_soft_factor": 0.02, "initial_temperature": 1.0}
    return SACConfig(**settings | changes)


ROUTING: dict[str, Any] = {  # for SchedulingEnv(foresight=True)
    "known_rewards": True,
    "train_every": 5,
    "learning_rate": 1e-3,
    "gamma": 0.996,  # a written network pays for itself over a hundred tasks and more: the optimum for 0.99 loses 5 %
}
ROUTING_DQN: dict[str, Any] = ROUTING | {"target_update_every": None, "target_soft_factor": 0.005}
ROUTING_SAC: dict[str, Any] = ROUTING | {"epsilon_start": 1.0, "epsilon_end": 0.05}


def routing_dqn(**changes: Any) -> DQNConfig:
    """DQN for routing with foresight in 400,000 steps, with `changes`; ValueError as of DQNConfig."""
    settings: dict[str, Any] = ROUTING_DQN | {"total_steps": 400_000} | changes
    return DQNConfig(**settings)


def routing_sac(**changes: Any) -> SACConfig:
    """Soft actor-critic for routing with foresight in 200,000 steps, with `changes`; ValueError as of SACConfig."""
    return SACConfig(**ROUTING_SAC | changes)


def edge_sched_dqn(**changes: Any) -> DQNConfig:
    """EdgeSched-DQN, the flat baseline: uniform replay, one step, neither double nor dueling; the rest as `DQNConfig`."""
    return DQNConfig(**{"double": False, "dueling": False, "prioritized": False, "n_step": 1} | changes)
