"""Spiking neurons in discrete time: one update per step, pure, scanned over time and batched by `jax.vmap`.

    Leaky      v' = beta v + gain I + drive                                      beta = 1: integrate and fire
    Synaptic   i' = alpha i + gain_in I,   v' = beta v + gain i' + drive         current-based leaky neuron
    Lapicque   v' = (1 - dt / (R C)) v + dt / C I
    Alpha      e' = alpha e + I,   h' = beta h - I,   v' = tau (e' + h')         tau = 1 + ln alpha / (ln beta - ln alpha)
    AdaptiveLeaky  v' = beta v + I - s (threshold + a),   a' = gamma a + (1 - gamma) s

A neuron spikes where v > threshold and is then reset: "subtract" takes the threshold away, "zero" the potential (it returns to
`rest`), "none" leaves it. WHEN both happen differs between libraries, and so do spike trains:

    snntorch   spike from the NEW potential; the reset follows one step later, as part of the next update, and carries no
               gradient. "zero" clears Leaky's potential BEFORE the input of that step arrives (0.9 * 0 + I after a spike), but
               Lapicque's, Synaptic's and Alpha's AFTER it (they lose that input). Synaptic keeps its current.
    spyx       spike from the OLD potential, so one step later than snntorch; the reset happens in the same update and carries
               the surrogate's gradient. Synaptic is reset before its leak, Leaky after.
    nir        spike from the new potential and reset at once, in the same step. snntorch's `reset_delay=False` is the same until
               a potential passes two thresholds (there, what is left above one spikes again and resets a step late).

For Leaky, the potentials under snntorch and spyx are the same and spyx's train is snntorch's, delayed by one step.
Sources: snntorch 1.0.0 (_neurons/), spyx 1.0.0 (nn.py), nir 1.0.8 (ir/neuron.py); equality with the first two was measured.
"""

import abc
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from workloads.spiking.surrogates import Surrogate, spike

State = tuple[Float[Array, "..."], ...]  # the potential last
Number = Float[Array, "..."] | float  # given as anything, kept as an array
RESETS = ("subtract", "zero", "none")
SEMANTICS = ("snntorch", "spyx", "nir")

# Operations per update, by reset. Leaky to Alpha: NeuroBench 2.3 (metrics/workload/neuron_operations.py). Its rule counts every
# addition, subtraction and product as 1 and the comparison as 0; "none" (the reset's 2 per state left out), AdaptiveLeaky and IF
# are ours by that rule.
OPERATIONS: dict[str, dict[str, int]] = {
    "Leaky": {"subtract": 4, "zero": 4, "none": 2},
    "Synaptic": {"subtract": 6, "zero": 8, "none": 4},
    "Lapicque": {"subtract": 11, "zero": 11, "none": 9},
    "Alpha": {"subtract": 18, "zero": 24, "none": 12},
    "AdaptiveLeaky": {"subtract": 8, "zero": 8, "none": 6},
    "IF": {"subtract": 3, "zero": 3, "none": 1},
}
ALIASES = {"lif": "Leaky", "cubalif": "Synaptic", "alif": "AdaptiveLeaky"}


def neuron_operations(model: str, reset: str = "subtract") -> int:
    """Operations of one update of one neuron; models of `OPERATIONS` in any case, and LIF, CuBaLIF, ALIF.

    Raises ValueError for an unknown model or reset.
    """
    known = {name.lower(): name for name in OPERATIONS} | ALIASES
    if model.lower() not in known:
        raise ValueError(f"unknown neuron model {model!r}; known: {', '.join((*OPERATIONS, *ALIASES))}")
    if reset not in RESETS:
        raise ValueError(f"unknown reset {reset!r}; known: {', '.join(RESETS)}")
    return OPERATIONS[known[model.lower()]][reset]


def _array(value: Any) -> Any:
    return jnp.asarray(value, float)


def _number(default: float) -> Any:
    return eqx.field(converter=_array, default=default)


def _check(name: str, value: Any, lo: float, hi: float, *, open_ends: bool = False) -> None:
    """Refuse concrete numbers outside [lo, hi], or (lo, hi)."""
    if isinstance(value, Tracer) or not isinstance(value, jax.Array | np.ndarray):
        return
    array = np.asarray(value)
    good = (array > lo) & (array < hi) if open_ends else (array >= lo) & (array <= hi)
    if not good.all():
        ends = f"({lo:g}, {hi:g})" if open_ends else f"[{lo:g}, {hi:g}]"
        raise ValueError(f"{name} = {array[~good].flat[0]:g} is outside its range {ends}")


def _ordered(beta: Any, alpha: Any) -> None:
    if not isinstance(beta, Tracer) and not isinstance(alpha, Tracer) and np.any(np.asarray(beta) >= np.asarray(alpha)):
        raise ValueError(f"Alpha.beta = {np.max(beta):g} must be below alpha = {np.min(alpha):g}")


class Neuron(eqx.Module):
    """What all models share. Numbers are scalars or arrays of the layer's shape; `spiking=False` gives out the potential."""

    threshold: Number = _number(1.0)
    rest: Number = _number(0.0)
    reset: str = eqx.field(static=True, default="subtract")
    semantics: str = eqx.field(static=True, default="snntorch")
    surrogate: Surrogate = eqx.field(static=True, default=Surrogate())
    spiking: bool = eqx.field(static=True, default=True)

    n_states: ClassVar[int] = 1

    def __check_init__(self) -> None:
        for name, value, known in (("reset", self.reset, RESETS), ("semantics", self.semantics, SEMANTICS)):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
        for name in ("threshold", "rest", "gain", "gain_in", "drive"):
            _check(f"{type(self).__name__}.{name}", getattr(self, name, None), -np.inf, np.inf, open_ends=True)

    @abc.abstractmethod
    def update(self, state: State, current: Float[Array, "..."], fired: Float[Array, "..."]) -> State:
        """The next state; `fired` is 1 where a reset is due."""

    def reset_now(self, state: State, fired: Float[Array, "..."]) -> State:
        """The state after an immediate reset (nir)."""
        return (*state[:-1], state[-1] - self._taken(state[-1], fired))

    def _taken(self, potential: Array, fired: Array) -> Array:
        """What a reset takes from `potential`."""
        if self.reset == "none":
            return jnp.zeros_like(potential)
        return fired * (self.threshold if self.reset == "subtract" else potential - self.rest)

    def excess(self, state: State) -> Float[Array, "..."]:
        """Potential above the threshold; the neuron spikes where it is positive."""
        return state[-1] - self.threshold

    def initial(self, shape: tuple[int, ...]) -> State:
        """The state at the start: zeros."""
        return (jnp.zeros(shape, jnp.result_type(float)),) * self.n_states

    def step(self, state: State, current: Float[Array, "*shape"]) -> tuple[State, Float[Array, "*shape"]]:
        """One time step: (state, spikes), with the neuron's `semantics`; spikes are 0 or 1."""
        if not self.spiking or self.semantics == "nir":
            after = self.update(state, current, jnp.zeros_like(current))
            fired = spike(self.excess(after), self.surrogate) if self.spiking else after[-1]
            return (self.reset_now(after, fired) if self.spiking else after), fired
        due = spike(self.excess(state), self.surrogate)
        if self.semantics == "spyx":
            return self.update(state, current, due), due
        after = self.update(state, current, jax.lax.stop_gradient(due))
        return after, spike(self.excess(after), self.surrogate)

    @property
    def operations(self) -> int:
        """Operations of one update of one neuron, see `OPERATIONS`."""
        return neuron_operations(type(self).__name__, self.reset if self.spiking else "none")


class Leaky(Neuron):
    """Leaky integrate-and-fire; beta = 1 integrates without leak."""

    beta: Number = _number(0.9)
    gain: Number = _number(1.0)
    drive: Number = _number(0.0)

    def __check_init__(self) -> None:
        _check("Leaky.beta", self.beta, 0.0, 1.0)

    def update(self, state: State, current: Float[Array, "..."], fired: Float[Array, "..."]) -> State:
        """A reset to zero comes before the leak, one by subtraction after it."""
        (v,) = state
        beta, arriving = jnp.clip(self.beta, 0.0, 1.0), self.gain * current + self.drive
        if self.reset == "zero":
            return (beta * (v - self._taken(v, fired)) + arriving,)
        return (beta * v + arriving - self._taken(v, fired),)


class IF(Leaky):
    """Integrate-and-fire: no leak."""

    beta: Number = _number(1.0)


class Synaptic(Neuron):
    """Leaky neuron behind a leaky synaptic current; the state is (current, potential)."""

    alpha: Number = _number(0.9)
    beta: Number = _number(0.8)
    gain_in: Number = _number(1.0)
    gain: Number = _number(1.0)
    drive: Number = _number(0.0)
    n_states: ClassVar[int] = 2

    def __check_init__(self) -> None:
        _check("Synaptic.alpha", self.alpha, 0.0, 1.0)
        _check("Synaptic.beta", self.beta, 0.0, 1.0)

    def update(self, state: State, current: Float[Array, "..."], fired: Float[Array, "..."]) -> State:
        """spyx resets before the leak, snntorch after it."""
        i, v = state
        if self.semantics == "spyx":
            v = v - self._taken(v, fired)
        i = jnp.clip(self.alpha, 0.0, 1.0) * i + self.gain_in * current
        after = jnp.clip(self.beta, 0.0, 1.0) * v + self.gain * i + self.drive
        return (i, after if self.semantics == "spyx" else after - self._taken(after, fired))


class Lapicque(Neuron):
    """A resistor and a capacitor, by Euler's method; see `from_beta` for a given decay."""

    resistance: Number = _number(5.1)
    capacitance: Number = _number(5e-3)
    time_step: Number = _number(1e-3)

    def __check_init__(self) -> None:
        for name in ("resistance", "capacitance", "time_step"):
            _check(f"Lapicque.{name}", getattr(self, name), 0.0, np.inf, open_ends=True)

    @classmethod
    def from_beta(cls, beta: float, **fields: Any) -> "Lapicque":
        """snntorch's circuit for a decay `beta` in (0, 1): R = 1, C = 1 / ln(1 / beta), one second per step."""
        if not 0 < beta < 1:
            raise ValueError(f"Lapicque.beta = {beta:g} is outside its range (0, 1)")
        return cls(resistance=1.0, capacitance=1 / np.log(1 / beta), time_step=1.0, **fields)

    def update(self, state: State, current: Float[Array, "..."], fired: Float[Array, "..."]) -> State:
        """Both resets come after the input."""
        (v,) = state
        rate = self.time_step / self.capacitance
        after = current * rate + (1 - rate / self.resistance) * v
        return (after - self._taken(after, fired),)


class Alpha(Neuron):
    """Alpha-shaped membrane response from an excitatory and an inhibitory current; beta < alpha. The state is (e, h, v)."""

    alpha: Number = _number(0.9)
    beta: Number = _number(0.8)
    n_states: ClassVar[int] = 3

    def __check_init__(self) -> None:
        _check("Alpha.alpha", self.alpha, 0.0, 1.0, open_ends=True)
        _check("Alpha.beta", self.beta, 0.0, 1.0, open_ends=True)
        _ordered(self.beta, self.alpha)
        if self.semantics != "snntorch":
            raise ValueError(f"Alpha.semantics = {self.semantics!r}: only snntorch has this neuron")

    def update(self, state: State, current: Float[Array, "..."], fired: Float[Array, "..."]) -> State:
        """A reset to zero clears all three; one by subtraction is snntorch's: the threshold from e, all of h, h's past to v."""
        e, h, _ = state
        tau = jnp.log(self.alpha) / (jnp.log(self.beta) - jnp.log(self.alpha)) + 1
        e_new, h_new = self.alpha * e + current, self.beta * h - current
        v_new = tau * (e_new + h_new)
        if self.reset == "subtract":
            return e_new - fired * self.threshold, h_new - fired * h_new, v_new + fired * h
        if self.reset == "zero":
            return e_new * (1 - fired), h_new * (1 - fired), v_new - self._taken(v_new, fired)
        return e_new, h_new, v_new


class AdaptiveLeaky(Neuron):
    """Leaky neuron whose threshold rises with its own spikes (spyx's ALIF; Bellec et al. 2018). The state is (a, v)."""

    beta: Number = _number(0.9)
    gamma: Number = _number(0.9)
    semantics: str = eqx.field(static=True, default="spyx")
    n_states: ClassVar[int] = 2

    def __check_init__(self) -> None:
        _check("AdaptiveLeaky.beta", self.beta, 0.0, 1.0)
        _check("AdaptiveLeaky.gamma", self.gamma, 0.0, 1.0)
        if self.semantics != "spyx":
            raise ValueError(f"AdaptiveLeaky.semantics = {self.semantics!r}: only spyx has this neuron")

    def excess(self, state: State) -> Float[Array, "..."]:
        """Potential above the present threshold."""
        return state[1] - self.threshold - state[0]

    def update(self, state: State, current: Float[Array, "..."], fired: Float[Array, "..."]) -> State:
        """A reset by subtraction takes the present threshold."""
        a, v = state
        beta, gamma = jnp.clip(self.beta, 0.0, 1.0), jnp.clip(self.gamma, 0.0, 1.0)
        taken = fired * (self.threshold + a) if self.reset == "subtract" else self._taken(beta * v, fired)
        return gamma * a + (1 - gamma) * fired, beta * v + current - taken


NEURONS = {model.__name__: model for model in (Leaky, IF, Synaptic, Lapicque, Alpha, AdaptiveLeaky)}


class NeuronTrace(NamedTuple):
    """A neuron's life; arrays (steps, *shape)."""

    spikes: Float[Array, "steps ..."]
    potential: Float[Array, "steps ..."]


def simulate_neuron(neuron: Neuron, current: Float[Array, "steps ..."], state: State | None = None) -> NeuronTrace:
    """Spikes and potentials of a layer of `neuron` driven by `current`, from `state` (default: zeros). Pure; one scan."""
    start = neuron.initial(current.shape[1:]) if state is None else state

    def advance(before: State, arriving: Array) -> tuple[State, NeuronTrace]:
        after, spikes = neuron.step(before, arriving)
        return after, NeuronTrace(spikes, after[-1])

    return jax.lax.scan(advance, start, current)[1]
