"""FlexGen: throughput of a model spread over a GPU, its host and a disk, from the cost model its policies were searched with.

Per layer, in bytes and seconds, with h = d_model, h2 = ffn, s prompt tokens, n tokens to generate, b sequences in a block,
weights w = 2 (4 h^2 + 2 h h2), and policy fractions on GPU (g), host (c), disk (n) of weights (w.), cache (c.), activations (h.):

    prefill   T_p = max( ctog + dtoc, gtoc + ctod, comp )
      ctog = (w (wc + wn) + 2 s h b (hc + hn)) / B_ctog   gtoc = 4 (s + 1) h b (cc + cn) / B_cache + 2 s h b (hc + hn) / B_hidden
      dtoc = (w wn + 2 s h b hn) / B_dtoc                 ctod = 4 b (s + 1) h cn / B_ctod_cache + 2 s h b hn / B_ctod_hidden
      comp = b (8 s h^2 + 4 s h h2) / F_mm_p + 4 b s^2 h / F_bmm_p
    decode    T_g = ctog + max( gtoc, dtoc, ctod, comp )       weights come serially: the authors fitted it so
      comp = b (8 h^2 + 4 h h2) / F_mm_g + 4 b (s + n/2) h (cg / F_bmm_g + (cc + cn) / F_cpu)
    throughput = b n / (layers (T_p + (n - 1) T_g))

The published model has no term for reading the GPU's own memory, which is all that a model that fits there does (it is twice too
fast then); `memory=True`, the default, adds (w wg + 4 b (s + n/2) h cg) / B_gpu to decoding and w wg / B_gpu to prefill.
Constants: FMInference/FlexLLMGen, experimental/cost_model.py, fitted by its authors on a T4 with 208 GB of DRAM and an SSD.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from physics import ParameterTree, param
from workloads import Transformer

SOURCE = "FMInference/FlexLLMGen, experimental/cost_model.py"
GIB = 2.0**30


def _rate(gib: float, what: str):
    return param(gib * GIB, unit="B/s", lo=1e3, hi=1e15, log=True, source=f"{SOURCE}: {what}, {gib} GiB/s")


def _flops(rate: float, what: str):
    return param(rate, unit="FLOP/s", lo=1e3, hi=1e18, log=True, source=f"{SOURCE}: {what}")


class FlexGenMachine(ParameterTree):
    """A GPU, its host and a disk: rates between them and of computing; prefill and decoding differ."""

    host_to_gpu: Float[Array, ""] = _rate(12.89, "ctog")
    gpu_to_host_cache: Float[Array, ""] = _rate(0.97, "gtoc cache")
    gpu_to_host_hidden: Float[Array, ""] = _rate(4.82, "gtoc hidden")
    disk_to_host: Float[Array, ""] = _rate(0.473, "dtoc")
    host_to_disk_cache: Float[Array, ""] = _rate(0.746, "ctod cache, prefill")
    host_to_disk_hidden: Float[Array, ""] = _rate(2.015, "ctod hidden, prefill")
    host_to_disk_decode: Float[Array, ""] = _rate(2.015, "ctod, decoding")
    disk_efficiency: Float[Array, ""] = param(0.95, unit="1", lo=0.01, hi=1.0, source=f"{SOURCE}: weights from disk in decoding")
    matmul_prefill: Float[Array, ""] = _flops(21.24e12, "mm, prefill")
    matmul_decode: Float[Array, ""] = _flops(4.3e12, "mm, decoding")
    attention_prefill: Float[Array, ""] = _flops(9.97e12, "bmm, prefill")
    attention_decode: Float[Array, ""] = _flops(79e9, "bmm, decoding")
    attention_host: Float[Array, ""] = _flops(12.3e9, "attention on the host")
    gpu_bandwidth: Float[Array, ""] = param(
        320e9, unit="B/s", lo=1e6, hi=1e15, log=True, source="NVIDIA T4 data sheet: up to 320 GB/s"
    )


class Shares(NamedTuple):
    """Fractions on the GPU and on the host; the rest is on disk."""

    gpu: float
    host: float

    @property
    def disk(self) -> float:
        """Fraction on disk."""
        return max(1.0 - self.gpu - self.host, 0.0)


class FlexGenPolicy(NamedTuple):
    """Where weights, key/value cache and hidden activations live."""

    weights: Shares
    cache: Shares
    hidden: Shares


class FlexGenTimes(NamedTuple):
    """Seconds per layer of prefill and of one decoding step, and tokens per second of the whole run."""

    prefill: Float[Array, ""]
    decode: Float[Array, ""]
    throughput: Float[Array, ""]


def flexgen_policy(*fractions: float) -> FlexGenPolicy:
    """A policy of six fractions (weights, cache, hidden: GPU, host each); ValueError unless each pair is in [0, 1] together."""
    if len(fractions) != 6:
        raise ValueError(f"a policy has 6 fractions (GPU and host of weights, cache, hidden), got {len(fractions)}")
    pairs = [Shares(gpu, host) for gpu, host in zip(fractions[::2], fractions[1::2], strict=True)]
    for name, pair in zip(FlexGenPolicy._fields, pairs, strict=True):
        if min(pair) < 0 or sum(pair) > 1 + 1e-9:
            raise ValueError(f"{name} fractions = {pair.gpu:g}, {pair.host:g} are outside their range [0, 1] together")
    return FlexGenPolicy(*pairs)


def flexgen_times(
    model: Transformer,
    machine: FlexGenMachine,
    policy: FlexGenPolicy,
    prompt: int,
    tokens: int,
    sequences: int,
    memory: bool = True,
) -> FlexGenTimes:
    """Times of generating `tokens` for each of `sequences` prompts of `prompt` tokens, by the equations of the module.

    `memory=False` is the published model. Gradients in every rate of `machine`; non-smooth where two transfers tie. ValueError
    for counts below 1.
    """
    for field, value in (("prompt", prompt), ("tokens", tokens), ("sequences", sequences)):
        if value < 1:
            raise ValueError(f"{field} = {value} is outside its range [1, inf)")
    return _times(model, machine, policy, float(prompt), float(tokens), float(sequences), memory)


def _times(model, machine, policy, s, n, b, memory) -> FlexGenTimes:
    h, ffn, m = float(model.d_model), float(model.ffn), machine
    w = 8 * h**2 + 4 * h * ffn
    weights, cache, hidden = policy
    off_w, off_c, off_h = (1.0 - share.gpu for share in policy)
    at = s + n / 2

    ctog = (w * off_w + 2 * s * h * b * off_h) / m.host_to_gpu
    gtoc = 4 * (s + 1) * h * b * off_c / m.gpu_to_host_cache + 2 * s * h * b * off_h / m.gpu_to_host_hidden
    dtoc = (w * weights.disk + 2 * s * h * b * hidden.disk) / m.disk_to_host
    ctod = 4 * b * (s + 1) * h * cache.disk / m.host_to_disk_cache + 2 * s * h * b * hidden.disk / m.host_to_disk_hidden
    comp = b * (8 * s * h**2 + 4 * s * h * ffn) / m.matmul_prefill + 4 * b * s**2 * h / m.attention_prefill
    own = w * weights.gpu / m.gpu_bandwidth if memory else 0.0
    prefill = jnp.maximum(jnp.maximum(ctog + dtoc, gtoc + ctod), comp + own)

    ctog = (w * off_w + 2 * h * b * off_h) / m.host_to_gpu
    gtoc = 2 * h * b * off_h / m.gpu_to_host_hidden
    dtoc = (4 * b * at * h * cache.disk + 2 * h * b * hidden.disk + w * weights.disk / m.disk_efficiency) / m.disk_to_host
    ctod = (4 * b * h * cache.disk + 2 * h * b * hidden.disk) / m.host_to_disk_decode
    comp = b * (8 * h**2 + 4 * h * ffn) / m.matmul_decode
    comp = comp + 4 * b * at * h * (cache.gpu / m.attention_decode + off_c / m.attention_host)
    own = (w * weights.gpu + 4 * b * at * h * cache.gpu) / m.gpu_bandwidth if memory else 0.0
    decode = ctog + jnp.maximum(jnp.maximum(gtoc, dtoc), jnp.maximum(ctod, comp + own))
    return FlexGenTimes(prefill, decode, b * n / (model.layers * (prefill + (n - 1) * decode)))


OPT = {  # hidden, heads, layers: Zhang et al., OPT, 2022, table 1
    name: Transformer(name, h, heads, heads, h // heads, 4 * h, layers, 50272, tied=True, gated=False, bias=True, positions=2050)
    for name, h, heads, layers in (("opt-6.7b", 4096, 32, 32), ("opt-30b", 7168, 56, 48), ("opt-175b", 12288, 96, 96))
}
