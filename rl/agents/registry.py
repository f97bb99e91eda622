"""Which algorithm a config asks for: the one place that knows them all.

An algorithm is named by its config's `algorithm`; its two modules are imported when it is first used.
"""

import functools
import importlib
from typing import NamedTuple

from rl.agents.algorithm import ActionSpace, Algorithm
from rl.agents.config import TrainingConfig, refuse


class Entry(NamedTuple):
    """Where the config class of an algorithm and its `make_algorithm(config, space) -> Algorithm` are."""

    config_module: str
    config_class: str
    module: str


ALGORITHMS = {
    "dqn": Entry("rl.agents.dqn_config", "DQNConfig", "rl.agents.dqn"),
    "sac": Entry("rl.agents.sac_config", "SACConfig", "rl.agents.sac"),
}


def config_class(name: str) -> type[TrainingConfig]:
    """The config class of the algorithm `name`; ValueError for one that is not known."""
    if name not in ALGORITHMS:
        refuse("algorithm", name, f"one of {', '.join(ALGORITHMS)}")
    entry = ALGORITHMS[name]
    return getattr(importlib.import_module(entry.config_module), entry.config_class)


@functools.cache
def make_algorithm(config: TrainingConfig, space: ActionSpace) -> Algorithm:
    """The algorithm of `config` for the actions of `space`; the same functions for equal arguments.

    ValueError where the algorithm cannot act in that space.
    """
    return importlib.import_module(ALGORITHMS[config.algorithm].module).make_algorithm(config, space)
