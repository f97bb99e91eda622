"""Choosing bit widths layer by layer; gymnax 1.0 semantics. The published search for mixed precision as an environment.

One episode is one network. Every layer takes two decisions, bits of its weights and then of its inputs; the last one ends it:

    reward = -10 (target - accuracy)                                   if accuracy < target
             100 (L_8 / L - 1) + 0.1 (accuracy - target)               otherwise; 0 before the end of the episode
    target = accuracy of 8 bits - allowed_loss,  accuracies in per cent

Observation, min-max scaled over layers: kind, inputs, outputs, calls, weights, input size, index, the last action over the
most bits, and whether weights are to be decided. That hides what was decided before; `markov=True` adds all bits so far, over
the most bits. Latency is `costmodel.policy_latency`, exact; accuracy is any pure function of a policy (a table of measurements,
a surrogate, or `costmodel.measure_policy` itself). Source: Pelke et al. 2026 (arXiv 2601.21737), code jmkle/cim-aq
lib/env/linear_quantize_env.py, with three corrections: the flag is that of the decision to come, the last action is
cleared at reset, and only the last transition carries the reward (there it is copied to all of an episode).
The layers' stride and kernel are not known to a table of matrix products; `calls` and `inputs` stand for them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from costmodel import BitPolicy, MatrixShapes, SerialCrossbar, policy_latency, policy_speedup
from rl.envs.spaces import Box, Discrete

LEAST_BITS, MOST_BITS = 2, 8
ENTRIES = ("is dense", "inputs", "outputs", "calls", "weights", "input size", "index", "last action / most bits", "is weights")
AccuracyOf = Callable[[BitPolicy], Float[Array, ""]]


class PrecisionParams(NamedTuple):
    """The weights of the reward; every entry may be batched."""

    allowed_loss: float = 0.1  # points
    miss_slope: float = 10.0  # per point below the target
    speed_weight: float = 100.0  # per speedup above 1
    accuracy_weight: float = 0.1  # per point above the target


class PrecisionState(NamedTuple):
    """The bits decided so far (8 where not yet)."""

    weight_bits: Float[Array, " layers"]
    input_bits: Float[Array, " layers"]
    last_action: Float[Array, ""]  # bits, 0 at the start
    time: Int[Array, ""]  # decisions taken


class PrecisionEnv:
    """The environment of one network on one crossbar; `accuracy(policy)` is a share in [0, 1], a pure function.

    Action a of 7 is 2 + a bits for inputs; weights get the multiple of the cell's bits that the same share of the range picks, as
    published, unless `fill_cells` is False. `ends` fixes the bits of the first and the last layer (None: free). ValueError for
    cells of more than 8 bits, or `ends` outside [2, 8].
    """

    def __init__(
        self,
        shapes: MatrixShapes,
        accuracy: AccuracyOf,
        crossbar: SerialCrossbar | None = None,
        *,
        ends: int | None = None,
        fill_cells: bool = True,
        markov: bool = False,
    ) -> None:
        if ends is not None and not LEAST_BITS <= ends <= MOST_BITS:
            raise ValueError(f"ends = {ends} bit is outside its range [{LEAST_BITS}, {MOST_BITS}] bit")
        self.shapes, self.accuracy, self.ends, self.markov = shapes, accuracy, ends, markov
        self.crossbar = SerialCrossbar() if crossbar is None else crossbar
        cell = int(self.crossbar.cell_bits) if fill_cells else 1
        self.weight_choices = tuple(b for b in range(LEAST_BITS, MOST_BITS + 1) if b % cell == 0)
        if not self.weight_choices:
            raise ValueError(f"cell_bits = {cell} has no multiple in [{LEAST_BITS}, {MOST_BITS}] bit")
        full = jnp.full(shapes.n_layers, float(MOST_BITS))
        self.base_accuracy = jnp.asarray(accuracy(BitPolicy(full, full)), float)
        self.features = jnp.asarray(_features(shapes), float)
        self.default_params = PrecisionParams()

    @property
    def name(self) -> str:
        """Name of the environment."""
        return "tempo-precision"

    @property
    def num_actions(self) -> int:
        """2 to 8 bits."""
        return MOST_BITS - LEAST_BITS + 1

    @property
    def observation_names(self) -> tuple[str, ...]:
        """What each entry of the observation is, in order."""
        layers = range(self.shapes.n_layers) if self.markov else ()
        return (*ENTRIES, *(f"{what} bits of layer {i} / most bits" for what in ("weight", "input") for i in layers))

    def action_space(self, params: PrecisionParams | None = None) -> Discrete:
        """Bits, less 2."""
        return Discrete(self.num_actions)

    def observation_space(self, params: PrecisionParams | None = None) -> Box:
        """All entries are between 0 and 1."""
        return Box(0.0, 1.0, (len(self.observation_names),))

    def reset(self, key: Array, params: PrecisionParams | None = None) -> tuple[Float[Array, " entries"], PrecisionState]:
        """A fresh episode: (observation, state). Every episode starts alike."""
        del key
        full = jnp.full(self.shapes.n_layers, float(MOST_BITS))
        state = PrecisionState(full, full, jnp.zeros(()), jnp.zeros((), jnp.int32))
        return self.observe(state), state

    def step(
        self, key: Array, state: PrecisionState, action: Int[Array, ""], params: PrecisionParams | None = None
    ) -> tuple[Float[Array, " entries"], PrecisionState, Float[Array, ""], Array, Array, dict[str, Any]]:
        """Decide once: (observation, state, reward, terminated, truncated, info), with auto-reset after the last layer.

        `info` has the `policy`, and `final_observation`, the ended episode's.
        """
        params = self.default_params if params is None else params
        ended = self.decide(state, action)
        terminated = ended.time >= 2 * self.shapes.n_layers
        policy = BitPolicy(ended.weight_bits, ended.input_bits)
        reward = jax.lax.cond(terminated, lambda: self.reward(policy, params), lambda: jnp.zeros(()))
        final, (first, fresh) = self.observe(ended), self.reset(key, params)
        after = jax.tree.map(lambda a, b: jnp.where(terminated, a, b), fresh, ended)
        truncated = jnp.zeros((), bool)
        info = {"terminated": terminated, "truncated": truncated, "final_observation": final, "policy": policy}
        found = (jnp.where(terminated, first, final), after, reward, terminated, truncated, info)
        return jax.lax.stop_gradient(found)

    def reward(self, policy: BitPolicy, params: PrecisionParams) -> Float[Array, ""]:
        """The reward of a whole policy; see the module."""
        above = 100 * (jnp.asarray(self.accuracy(policy), float) - self.base_accuracy) + params.allowed_loss
        gain = policy_speedup(self.crossbar, self.shapes, policy) - 1
        kept = params.speed_weight * gain + params.accuracy_weight * above
        return jnp.where(above < -1e-4, params.miss_slope * above, kept)  # room for rounding to float32

    def decide(self, state: PrecisionState, action: Int[Array, ""]) -> PrecisionState:
        """One decision without reward or reset."""
        layer, of_weights = state.time // 2, state.time % 2 == 0
        bits = self.bits(action, of_weights)
        if self.ends is not None:
            at_end = (layer == 0) | (layer == self.shapes.n_layers - 1)
            bits = jnp.where(at_end, float(self.ends), bits)
        weights = jnp.where(of_weights, state.weight_bits.at[layer].set(bits), state.weight_bits)
        inputs = jnp.where(of_weights, state.input_bits, state.input_bits.at[layer].set(bits))
        return PrecisionState(weights, inputs, bits, state.time + 1)

    def bits(self, action: Int[Array, ""], of_weights: Array) -> Float[Array, ""]:
        """The bits that an action stands for."""
        share = (action + 0.5) / self.num_actions
        choices = jnp.asarray(self.weight_choices, float)
        filled = choices[jnp.clip(jnp.floor(share * len(choices)).astype(jnp.int32), 0, len(choices) - 1)]
        return jnp.where(of_weights, filled, jnp.asarray(action + LEAST_BITS, float))

    def observe(self, state: PrecisionState) -> Float[Array, " entries"]:
        """The observation of a state, entries as in `observation_names`."""
        layer = jnp.minimum(state.time // 2, self.shapes.n_layers - 1)
        of_weights = jnp.where(state.time % 2 == 0, 1.0, 0.0)
        parts = [self.features[layer], jnp.stack([state.last_action / MOST_BITS, of_weights])]
        if self.markov:
            parts += [state.weight_bits / MOST_BITS, state.input_bits / MOST_BITS]
        return jnp.concatenate(parts)

    def play(self, actions: Int[Array, " decisions"]) -> BitPolicy:
        """The policy that a whole episode of actions makes."""
        _, state = self.reset(jax.random.key(0))
        state, _ = jax.lax.scan(lambda s, a: (self.decide(s, a), None), state, actions)
        return BitPolicy(state.weight_bits, state.input_bits)

    def latency(self, policy: BitPolicy) -> Float[Array, ""]:
        """Latency of one inference (s)."""
        return policy_latency(self.crossbar, self.shapes, policy).total


def _features(shapes: MatrixShapes) -> np.ndarray:
    """What is fixed of every layer, each column scaled to [0, 1] over layers; 0 where all are the same."""
    outputs, inputs, calls, repeats = (np.asarray(x, float) for x in shapes)
    columns = [calls == 1, inputs, outputs, calls, inputs * outputs * repeats, inputs * calls * repeats, np.arange(len(inputs))]
    table = np.stack([np.asarray(c, float) for c in columns], axis=1)
    low, high = table.min(axis=0), table.max(axis=0)
    return (table - low) / np.where(high > low, high - low, 1.0)
