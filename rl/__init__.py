"""Who decides: the scheduling environment, agents trained on device, the rules they are judged against, and the study."""

from rl.agents.dqn import TrainResult, make_train
from rl.agents.dqn_config import DQNConfig
from rl.agents.training import train, train_many
from rl.checkpoints import CheckpointError
from rl.envs.routing import RoutingParams, RoutingState, SchedulingEnv
from rl.envs.spaces import Box, Discrete
from rl.references.rules import Policy, baselines
from rl.study.evaluation import Episodes, bootstrap_interval, evaluate, interquartile_mean

__all__ = [
    "Box",
    "CheckpointError",
    "DQNConfig",
    "Discrete",
    "Episodes",
    "Policy",
    "RoutingParams",
    "RoutingState",
    "SchedulingEnv",
    "TrainResult",
    "baselines",
    "bootstrap_interval",
    "evaluate",
    "interquartile_mean",
    "make_train",
    "train",
    "train_many",
]
