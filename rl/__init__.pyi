from .agents.dqn import TrainResult, make_train
from .agents.dqn_config import DQNConfig
from .agents.training import train, train_many
from .checkpoints import CheckpointError
from .envs.precision import PrecisionEnv, PrecisionParams, PrecisionState
from .envs.routing import RoutingParams, RoutingState, SchedulingEnv
from .envs.spaces import Box, Discrete
from .references.rules import Policy, baselines
from .study.evaluation import Episodes, bootstrap_interval, evaluate, interquartile_mean

__all__ = [
    "Box",
    "CheckpointError",
    "DQNConfig",
    "Discrete",
    "Episodes",
    "Policy",
    "PrecisionEnv",
    "PrecisionParams",
    "PrecisionState",
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
