"""The learned schedulers that are compared, by name, and how each is called in print.

dqn              deep Q-network with double targets and a dueling head, settings of `presets.routing_dqn`
sac              soft actor-critic, over a finite set of choices here, settings of `presets.routing_sac`
edge-sched-dqn   the ablation: a flat DQN that has to find the rewards of actions itself, with one-step targets from uniform
                 replay, neither double nor dueling, settings of `DQNConfig`. The seed project names such an agent
                 "EdgeSched-DQN"; no published method of that name was found
"""

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from physics import unknown_name
from rl.agents.config import TrainingConfig
from rl.agents.presets import ROUTING_DQN, ROUTING_SAC
from rl.agents.registry import config_class

WORDS = {"true": True, "false": False, "none": None}
FLAT = {
    "known_rewards": False,
    "double": False,
    "dueling": False,
    "noisy": False,
    "prioritized": False,
    "n_step": 1,
    "normalize": False,
}
ALGORITHMS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "dqn": ("dqn", ROUTING_DQN),
    "sac": ("sac", ROUTING_SAC),
    "edge-sched-dqn": ("dqn", FLAT),
}
LABELS = {
    "dqn": "DQN",
    "sac": "SAC",
    "edge-sched-dqn": "EdgeSched-DQN",
    "slack-greedy": "slack-greedy (READYS baseline)",  # the seed project's name for this rule; READYS itself is a GCN with A2C
    "optimal": "optimal (value iteration)",
}


def label(name: str) -> str:
    """How a policy is called in tables and plots."""
    return LABELS.get(name, name)


def run_label(run: str) -> str:
    """How one training run, ALGORITHM-SEED, is called; other policies as by `label`."""
    name, _, seed = run.rpartition("-")
    return f"{label(name)}, seed {seed}" if name in ALGORITHMS else label(run)


def algorithm_config(name: str, total_steps: int, settings: Mapping[str, Any] | None = None) -> TrainingConfig:
    """The training settings of a named algorithm, some replaced by `settings`. ValueError, one line, for what is not known."""
    if name not in ALGORITHMS:
        raise ValueError(unknown_name("algorithm", name, list(ALGORITHMS)))
    kind, base = ALGORITHMS[name]
    config, replaced = config_class(kind), dict(settings or {})
    known = [field.name for field in dataclasses.fields(config)]
    for setting in replaced:
        if setting not in known:
            raise ValueError(unknown_name("setting", setting, known))
    return config(**{"total_steps": total_steps, **base, **replaced})


def algorithm_name(config: TrainingConfig) -> str:
    """The name under which a config is compared: the ablation's if it is flat, else its algorithm's."""
    flat = config.algorithm == "dqn" and all(getattr(config, name) == value for name, value in FLAT.items())
    return "edge-sched-dqn" if flat else config.algorithm


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """ "batch_size=256", "hidden=(64, 64)", ... as values by name; what is no Python literal stays text."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise ValueError(f"--set {text!r} is not name=value")
        if name in found:
            raise ValueError(f"--set names {name!r} twice")
        found[name] = _literal(value.strip())
    return found


def _literal(text: str) -> Any:
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
