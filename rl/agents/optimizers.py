"""The optimizer of every agent: clipping by global norm, then Adam, both on one flat vector; the rate counts updates."""

import optax

from rl.agents.config import TrainingConfig

ADAM_EPS = 1e-8  # optax's default; it only matters where gradients vanish


def learning_rate(config: TrainingConfig) -> optax.ScalarOrSchedule:
    """The rate after so many updates: constant, or down to zero at the last one along a line or half a cosine."""
    if config.learning_rate_schedule == "linear":
        return optax.linear_schedule(config.learning_rate, 0.0, config.total_updates)
    if config.learning_rate_schedule == "cosine":
        return optax.cosine_decay_schedule(config.learning_rate, config.total_updates)
    return config.learning_rate


def make_optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    """The optimizer that `config` describes."""
    adam = optax.adam(learning_rate(config), eps=ADAM_EPS)
    if config.max_grad_norm is None:
        return optax.flatten(adam)
    return optax.flatten(optax.chain(optax.clip_by_global_norm(config.max_grad_norm), adam))
