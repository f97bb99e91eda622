"""Serving a decoder: prefill and decoding with a growing cache, weights and cache spread over device, host and disk.

A step reads every weight once for all sequences, and each sequence's keys and values:

    bytes_tier = weights w_tier + cache c_tier (+ activations on the device)
    T_step = overhead + max( flops / (peak efficiency), bytes_device / B_device, bytes_host / B_link, bytes_disk / B_disk )

or the sum of the transfers if `overlap=False`. Cache = 2 layers kv_heads head_dim positions sequences bits / 8 (exact, from the
operation table), so decoding at context c is linear in c and two tables give every step. Spreading fractions over tiers is the
pinned choice of `costmodel.memory.residency`: continuous, with gradients. `spread` fills the device first, then the host:

    share on the device = min(1, room / need), the rest to the host as far as it goes, the rest to disk.

(With perfect overlap a small share left on the host is slightly faster still, because both paths then carry bytes at once.)

With weights only and one tier beside the device, T is that of GenZ's offload rule, need / max(...) as an effective bandwidth.
Streaming to a fast device pays above  n > (W / link) / (t_slow - t_fast)  tokens per pass (asked for in llama.cpp 17026).
Non-smooth where two terms of a maximum tie and where a tier is just full.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from costmodel import relax
from costmodel.relax import HARD, Relaxation
from physics import ParameterTree, param
from workloads import OpKind, OpTable, Transformer, decode, prefill

ASSUMED = "assumed: no published value"


class ServingMachine(ParameterTree):
    """A device with its memory, a host memory behind a link, a disk behind another. Defaults: T4, PCIe 3, NVMe."""

    peak: Float[Array, ""] = param(65e12, unit="FLOP/s", lo=1e6, hi=1e18, log=True, source="NVIDIA T4 data sheet, fp16")
    efficiency: Float[Array, ""] = param(0.5, unit="1", lo=1e-4, hi=1.0, log=True, source=ASSUMED)
    device_capacity: Float[Array, ""] = param(16e9, unit="B", lo=0.0, hi=1e16, source="NVIDIA T4 data sheet: 16 GB")
    device_bandwidth: Float[Array, ""] = param(
        320e9, unit="B/s", lo=1e3, hi=1e16, log=True, source="NVIDIA T4 data sheet: up to 320 GB/s"
    )
    host_capacity: Float[Array, ""] = param(208e9, unit="B", lo=0.0, hi=1e16, source="FlexGen, its test machine: 208 GB")
    host_link: Float[Array, ""] = param(12.89 * 2**30, unit="B/s", lo=1e3, hi=1e16, log=True, source="FlexGen: 12.89 GiB/s")
    disk_link: Float[Array, ""] = param(0.473 * 2**30, unit="B/s", lo=1e3, hi=1e16, log=True, source="FlexGen: 0.473 GiB/s")
    overhead: Float[Array, ""] = param(0.0, unit="s", lo=0.0, hi=10.0, source="assumed: launches hidden")


class StepLoad(NamedTuple):
    """What one step computes, reads and keeps: FLOPs, and bytes of weights read, cache read, activations, weights kept."""

    flops: Float[Array, "..."]
    weights: Float[Array, "..."]
    cache: Float[Array, "..."]
    activations: Float[Array, "..."]
    held: Float[Array, "..."]


class Spread(NamedTuple):
    """Fractions on device, host and disk; they add up to 1."""

    device: Float[Array, "..."] | float
    host: Float[Array, "..."] | float
    disk: Float[Array, "..."] | float


class StepTime(NamedTuple):
    """Seconds of a step, and of each thing that may bound it."""

    time: Float[Array, "..."]
    compute: Float[Array, "..."]
    device: Float[Array, "..."]
    host: Float[Array, "..."]
    disk: Float[Array, "..."]


class Generation(NamedTuple):
    """Generating `tokens` for each sequence: first token after `first` s, decoding steps (s each), tokens per second, fit."""

    first: Float[Array, ""]
    steps: Float[Array, " steps"]
    throughput: Float[Array, ""]
    fits: Array


def table_load(table: OpTable, parameters: int | None = None) -> StepLoad:
    """The load of one pass of a decoder's table: exact sums; cache = second operands of products of two activations."""
    return StepLoad(*(jnp.asarray(figure, float) for figure in _figures(table, parameters)))


def _figures(table: OpTable, parameters: int | None = None) -> tuple[float, ...]:
    kept = np.where(np.asarray(table.kind) == OpKind.MATMUL, 1.0, 0.0) * table.mask
    width = np.asarray(table.activation_bits, np.float64) / 8
    cache = float(np.sum(kept * np.asarray(table.groups, np.float64) * table.n * table.k * width))
    moved = float(np.sum(np.where(table.mask, np.asarray(table.inputs + table.outputs) * width, 0.0))) - cache
    weights = float(np.sum(np.where(table.mask, table.bytes_weights, 0.0)))
    count = parameters if parameters is not None else table.info.parameters if table.info else None
    held = weights if count is None else count * float(np.max(table.weight_bits)) / 8
    return float(table.total("flops")), weights, cache, moved, held


def prefill_load(model: Transformer, prompt: int, sequences: int = 1, bits: int = 16) -> StepLoad:
    """The load of the first pass; ValueError for counts below 1."""
    return table_load(prefill(model, prompt, sequences, bits=bits))


def decode_loads(model: Transformer, prompt: int, tokens: int, sequences: int = 1, bits: int = 16) -> StepLoad:
    """The loads of decoding steps with prompt + 1, ..., prompt + tokens - 1 positions (the first token is prefill's).

    Linear in the positions, so two tables give all of them exactly (to float32); what does not grow is a scalar. ValueError for
    counts below 1.
    """
    if tokens < 1:
        raise ValueError(f"tokens = {tokens} is outside its range [1, inf)")
    low, high = (_figures(decode(model, context, sequences, bits)) for context in (1, 1025))
    context = np.arange(prompt + 1, prompt + tokens)
    growing = (a if a == b else a + (b - a) / 1024 * (context - 1) for a, b in zip(low, high, strict=True))
    return StepLoad(*(jnp.asarray(figure, float) for figure in growing))


def kv_bytes(model: Transformer, positions: int, sequences: int = 1, bits: float = 16) -> float:
    """Bytes of keys and values of `positions` positions of each of `sequences` sequences at `bits` per element."""
    return model.kv_elements(positions, sequences) * bits / 8


def spread(need: Float[Array, "..."] | float, device: Float[Array, "..."] | float, host: Float[Array, "..."] | float) -> Spread:
    """`need` bytes on a device with `device` bytes free, then on a host with `host` free, then on disk; as fractions."""
    whole = jnp.maximum(jnp.asarray(need, float), 1.0)
    on_device = jnp.clip(device / whole, 0.0, 1.0)
    on_host = jnp.clip(host / whole, 0.0, 1.0 - on_device)
    return Spread(on_device, on_host, 1.0 - on_device - on_host)


def step_time(
    load: StepLoad, machine: ServingMachine, weights: Spread, cache: Spread, overlap: bool = True, relaxation: Relaxation = HARD
) -> StepTime:
    """Seconds of one step with weights and cache spread as given; `overlap=False` adds the transfers to the computation."""
    compute = load.flops * (1 / (machine.peak * machine.efficiency))  # reciprocals: one division for all steps, cheap slopes
    device = (load.weights * weights.device + load.cache * cache.device + load.activations) * (1 / machine.device_bandwidth)
    host = (load.weights * weights.host + load.cache * cache.host) * (1 / machine.host_link)
    disk = (load.weights * weights.disk + load.cache * cache.disk) * (1 / machine.disk_link)
    busy = relax.maximum(compute, device, host, disk, policy=relaxation)
    if not overlap:
        busy = relax.maximum(compute, device, policy=relaxation) + host + disk
    return StepTime(machine.overhead + busy, compute, device, host, disk)


def place_model(
    held: Float[Array, ""], cache: Float[Array, ""], machine: ServingMachine
) -> tuple[Spread, Spread, Float[Array, ""]]:
    """(weights, cache, bytes beyond device and host): weights take the device first, the cache what they leave."""
    weights = spread(held, machine.device_capacity, machine.host_capacity)
    room = jnp.maximum(machine.device_capacity - held, 0.0)
    taken = jnp.maximum(machine.host_capacity - weights.host * held, 0.0)
    kept = spread(cache, room, taken)
    return weights, kept, weights.disk * held + kept.disk * cache


def generate_tokens(
    model: Transformer,
    machine: ServingMachine,
    prompt: int,
    tokens: int,
    sequences: int = 1,
    bits: int = 16,
    overlap: bool = True,
    relaxation: Relaxation = HARD,
) -> Generation:
    """Times of `tokens` (>= 1) new tokens for each of `sequences` prompts; weights and the full cache placed by `place_model`.

    `fits`: everything has room in device and host memory. Differentiable in every field of `machine`; vmap over machines.
    """
    first, later = prefill_load(model, prompt, sequences, bits), decode_loads(model, prompt, tokens, sequences, bits)
    cache = jnp.asarray(kv_bytes(model, prompt + tokens, sequences, bits), float)
    return generation(first, later, cache, machine, sequences, overlap, relaxation)


def generation(
    first: StepLoad,
    later: StepLoad,
    cache: Float[Array, ""],
    machine: ServingMachine,
    sequences: int,
    overlap: bool = True,
    relaxation: Relaxation = HARD,
) -> Generation:
    """`generate_tokens` from prepared loads: the pure part, to be jitted, vmapped over machines and differentiated."""
    weights, kept, beyond = place_model(first.held, cache, machine)
    start = step_time(first, machine, weights, kept, overlap, relaxation).time
    steps = step_time(later, machine, weights, kept, overlap, relaxation).time
    total = start + jnp.sum(steps)
    return Generation(start, steps, sequences * (1 + steps.shape[0]) / total, beyond <= 0)


def streamed_layers(
    compute: Float[Array, " layers"], sizes: Float[Array, " layers"], link: Float[Array, ""] | float, prefetch: bool = True
) -> Float[Array, ""]:
    """Seconds of a pass whose layers' weights (B) come over `link` (B/s) and are computed in `compute` (s).

    With `prefetch` the next layer is on its way while one is computed: load_0 + sum max(compute_l, load_{l+1}) + compute_last;
    without, the sum of all.
    """
    loads = sizes / link
    if not prefetch:
        return jnp.sum(loads) + jnp.sum(compute)
    return loads[0] + jnp.sum(jnp.maximum(compute[:-1], loads[1:])) + compute[-1]


def break_even_tokens(
    weights: Float[Array, ""] | float, link: float | Array, slow: float | Array, fast: float | Array
) -> Float[Array, ""]:
    """Tokens per pass above which moving `weights` bytes over `link` to a fast device beats computing where they are.

    `slow` and `fast` are the two devices' times per token (s); infinite if the fast one is not faster.
    """
    gain = jnp.asarray(slow, float) - fast
    return jnp.where(gain > 0, weights / jnp.asarray(link, float) / jnp.where(gain > 0, gain, 1.0), jnp.inf)
