"""NIR's neurons, which are continuous in time, as the discrete ones of this package: Euler's method with a step `dt` (s).

    LIF, LI           tau v' = (v_leak - v) + r I         beta = 1 - dt / tau, gain = r dt / tau, drive = v_leak dt / tau
    IF, I             v' = r I                            beta = 1,            gain = r dt
    CubaLIF, CubaLI   tau_syn i' = -i + w_in I            alpha = 1 - dt / tau_syn, gain_in = w_in dt / tau_syn, then as LIF
    Threshold         spikes where the input is above it, without memory

Those with an F spike above v_threshold and return to v_reset. Source: nir 1.0.8, ir/neuron.py.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from workloads.spiking.hdf5 import Fields
from workloads.spiking.layers import Layer, Neurons, Shape
from workloads.spiking.neurons import IF, Leaky, Neuron, Synaptic


def population_shape(own: Shape, arriving: Shape | None) -> Shape:
    """The shape of a population: its numbers', or what arrives where those are the same for all."""
    if math.prod(own) == 1 and arriving is not None:
        return arriving
    if arriving is not None and own != arriving:
        raise ValueError(f"its numbers have shape {own}, but {arriving} arrives")
    return own


def population(key: str, fields: Fields, arriving: Shape | None, dt: float, rules: dict[str, str]) -> Layer:
    """I, IF, LI, LIF, CubaLI, CubaLIF."""
    kind = fields["type"]
    own = max((np.shape(v) for n, v in fields.items() if isinstance(v, np.ndarray) and n != "w_in"), key=math.prod, default=())
    shape = population_shape(own, arriving)
    numbers = {name: _number(fields, name, shape) for name in fields if isinstance(fields[name], np.ndarray)}
    spiking = kind in ("IF", "LIF", "CubaLIF")
    common: dict[str, Any] = {"spiking": spiking, **rules}
    if spiking:
        common |= {"threshold": numbers["v_threshold"], "rest": numbers.get("v_reset", 0.0)}
    return Neurons(key, shape, shape, neuron=_neuron(kind, numbers, dt, common))


def _neuron(kind: str, numbers: Mapping[str, Any], dt: float, common: dict[str, Any]) -> Neuron:
    unit = common["semantics"] == "spyx"  # its decays alone are meant
    if kind in ("I", "IF"):
        return IF(gain=1.0 if unit else numbers["r"] * dt, **common)
    syn = kind.startswith("Cuba")
    tau = numbers["tau_mem" if syn else "tau"]
    membrane = {"beta": _decay(dt, tau)}
    if not unit:
        membrane |= {"gain": numbers["r"] * dt / tau, "drive": numbers["v_leak"] * dt / tau}
    if not syn:
        return Leaky(**membrane, **common)
    tau_syn = numbers["tau_syn"]
    gain = 1.0 if unit else numbers.get("w_in", 1.0) * dt / tau_syn
    return Synaptic(alpha=_decay(dt, tau_syn), gain_in=gain, **membrane, **common)


def _decay(dt: float, tau: Any) -> Any:
    if not np.all(np.asarray(tau) >= dt * (1 - 1e-6)):
        raise ValueError(f"a time constant of {np.min(tau):g} s is below the time step dt = {dt:g} s")
    return np.maximum(1 - dt / np.asarray(tau), 0.0)


def _number(fields: Fields, name: str, shape: Shape) -> Any:
    """A neuron's number, of the population's shape or one for all."""
    values = np.asarray(fields[name], np.float64)
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{name} is not finite")
    return values.reshape(()) if values.size == 1 else values.reshape(shape)


def threshold(key: str, fields: Fields, arriving: Shape | None, dt: float, rules: dict[str, str]) -> Layer:
    """A spike for every step above the threshold, without memory: a potential that is the input."""
    shape = population_shape(np.shape(fields["threshold"]), arriving)
    neuron = Leaky(beta=0.0, reset="none", semantics="nir", threshold=_number(fields, "threshold", shape))
    return Neurons(key, shape, shape, neuron=neuron)
