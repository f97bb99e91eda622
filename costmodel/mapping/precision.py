"""Latency of bit widths: what the bits of every layer's weights and inputs cost on one crossbar that is rewritten layer by layer.

A layer is a matrix of n inputs x m outputs that meets k input vectors (a convolution by im2col: n = kernel volume, m = channels,
k = output pixels), r times over (heads, groups). With w bits a weight, a bits an input, R_cell bits a cell, R_in bits a drive:

    columns = m ceil(w / R_cell)    twice for differential columns; plus one for an offset column
    rows = n                        twice for differential rows
    W = ceil(columns / C) ceil(rows / R)              arrays' worth of cells, each written once per inference
    E = k W ceil(a / R_in)                            array activations
    L = r (W t_write + E t_execute),   network = sum over layers

So one array serves the whole network serially: no conversion or transfer time, no overlap, nothing resident. The offset column is
one of the whole matrix, not of every array (contrast `costmodel.mapping.crossbars`). Source: Pelke et al. 2026 (arXiv 2601.21737)
and its code, jmkle/cim-aq, lib/simulator/create_custom_latency_table.py. Valid for 1 to 16 bits. Every ceil goes through the
relaxation policy; under `soft` the latency never exceeds the hard one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Num

from costmodel import relax
from costmodel.mapping.crossbars import ENCODINGS, Encoding
from costmodel.relax import Relaxation
from physics import ParameterTree, param, unknown_name
from workloads import OpTable

LEAST_BITS, MOST_BITS = 1, 16
BASELINE_BITS = 8  # of weights and inputs, what speedups refer to
PELKE = "Pelke et al. 2026, code: jmkle/cim-aq lib/simulator/hardware_config.yaml"
Bits = Num[Array | np.ndarray, " layers"]


class MatrixShapes(NamedTuple):
    """The layers of a network that are matrix products; arrays (layers,)."""

    outputs: Num[Array | np.ndarray, " layers"]  # m
    inputs: Num[Array | np.ndarray, " layers"]  # n
    calls: Num[Array | np.ndarray, " layers"]  # k, input vectors per inference
    repeats: Num[Array | np.ndarray, " layers"]  # r, separate matrices of this shape

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.outputs)


class BitPolicy(NamedTuple):
    """Bits of every layer's weights and inputs; arrays (layers,)."""

    weight_bits: Bits
    input_bits: Bits


class PolicyLatency(NamedTuple):
    """What a policy costs in every layer; arrays (layers,), of all repeats."""

    latency: Float[Array, " layers"]  # s
    writes: Float[Array, " layers"]  # arrays written
    executions: Float[Array, " layers"]  # array activations

    @property
    def total(self) -> Float[Array, ""]:
        """Latency of one inference (s)."""
        return jnp.sum(self.latency)


class SerialCrossbar(ParameterTree):
    """One crossbar that is written and used once for every part of a network, one after another.

    `encoding` is one of plain, offset, differential_columns and differential_rows (see `load_encoding`).
    """

    rows: Float[Array, ""] = param(256.0, unit="cells", lo=1.0, hi=65536.0, log=True, source=PELKE)
    columns: Float[Array, ""] = param(256.0, unit="cells", lo=1.0, hi=65536.0, log=True, source=PELKE)
    cell_bits: Float[Array, ""] = param(4.0, unit="bit", lo=1.0, hi=8.0, source=PELKE + " (2 or 4)")
    drive_bits: Float[Array, ""] = param(1.0, unit="bit", lo=1.0, hi=16.0, source=PELKE)
    write_time: Float[Array, ""] = param(56e-6, unit="s", lo=1e-12, hi=1.0, log=True, source=PELKE)
    execute_time: Float[Array, ""] = param(1.4e-6, unit="s", lo=1e-12, hi=1.0, log=True, source=PELKE)
    encoding: Encoding = eqx.field(static=True, default=ENCODINGS["differential_columns"])

    def __check_init__(self) -> None:
        if self.encoding.name not in ENCODINGS:
            raise ValueError(unknown_name("encoding", self.encoding.name, ENCODINGS))


def matrix_shapes(layers: OpTable | Sequence[tuple[int, ...]]) -> MatrixShapes:
    """The matrix products of a table, or of a list of (outputs, inputs, calls) or (outputs, inputs, calls, repeats).

    Rows of a table without multiplications are left out; groups count as repeats. ValueError where no layer is left, or for
    a size below 1.
    """
    if isinstance(layers, OpTable):
        busy = np.asarray(layers.mask) & (np.asarray(layers.macs) > 0)
        columns = [np.asarray(x)[busy] for x in (layers.n, layers.k, layers.m, layers.groups)]
    else:
        columns = list(np.asarray([(*row, 1)[:4] for row in layers], float).reshape(-1, 4).T)
    shapes = MatrixShapes(*(np.asarray(column, float) for column in columns))
    if shapes.n_layers == 0:
        raise ValueError("layers has no matrix product, so no policy has a latency")
    for name, sizes in shapes._asdict().items():
        if not (sizes >= 1).all():
            worst = int(np.argmax(~(sizes >= 1)))
            raise ValueError(f"layer {worst}: {name} = {sizes[worst]:g} is below 1")
    return shapes


def uniform_policy(shapes: MatrixShapes, weight_bits: float, input_bits: float, ends: float | None = None) -> BitPolicy:
    """The same bits in every layer; `ends`, if given, are the bits of weights and inputs of the first and the last layer."""
    policy = BitPolicy(np.full(shapes.n_layers, float(weight_bits)), np.full(shapes.n_layers, float(input_bits)))
    if ends is not None:
        for bits in policy:
            bits[[0, -1]] = ends
    return check_policy(shapes, policy)


def check_policy(shapes: MatrixShapes, policy: BitPolicy) -> BitPolicy:
    """`policy`, if it has one pair of bits for every layer and all are in [1, 16]; else ValueError. Traced bits pass."""
    for name, bits in policy._asdict().items():
        if np.shape(bits) != (shapes.n_layers,):
            raise ValueError(f"policy.{name} has shape {np.shape(bits)}, the network has {shapes.n_layers} layers")
        if isinstance(bits, Tracer):
            continue
        bad = ~((np.asarray(bits) >= LEAST_BITS) & (np.asarray(bits) <= MOST_BITS))
        if bad.any():
            layer = int(np.argmax(bad))
            raise ValueError(
                f"policy.{name}[{layer}] = {float(bits[layer]):g} bit is outside its range [{LEAST_BITS}, {MOST_BITS}] bit"
            )
    return policy


def policy_latency(
    crossbar: SerialCrossbar, shapes: MatrixShapes, policy: BitPolicy, relaxation: Relaxation = relax.HARD
) -> PolicyLatency:
    """What one inference takes; vmap over policies. ValueError for a policy of the wrong length or outside [1, 16] bit."""
    check_policy(shapes, policy)
    outputs, inputs, calls, repeats = (jnp.asarray(x, float) for x in shapes)
    slices = relax.ceil_div(jnp.asarray(policy.weight_bits, float), crossbar.cell_bits, relaxation)
    encoding = crossbar.encoding
    columns = outputs * slices * encoding.columns_per_slice + encoding.reference_columns
    rows = inputs * encoding.rows_per_weight
    arrays = relax.ceil_div(columns, crossbar.columns, relaxation) * relax.ceil_div(rows, crossbar.rows, relaxation)
    passes = relax.ceil_div(jnp.asarray(policy.input_bits, float), crossbar.drive_bits, relaxation)
    writes, executions = repeats * arrays, repeats * calls * arrays * passes
    return PolicyLatency(writes * crossbar.write_time + executions * crossbar.execute_time, writes, executions)


def policy_speedup(
    crossbar: SerialCrossbar,
    shapes: MatrixShapes,
    policy: BitPolicy,
    relaxation: Relaxation = relax.HARD,
    baseline_bits: float = BASELINE_BITS,
) -> Float[Array, ""]:
    """Latency of `baseline_bits` everywhere over that of `policy`, same crossbar; the baseline is always exact."""
    full = jnp.full(shapes.n_layers, float(baseline_bits))
    base = policy_latency(crossbar, shapes, BitPolicy(full, full)).total
    return base / policy_latency(crossbar, shapes, policy, relaxation).total


def latency_table(
    crossbar: SerialCrossbar, shapes: MatrixShapes, weight_choices: Sequence[float], input_choices: Sequence[float]
) -> Float[Array, "layers weights inputs"]:
    """Latency (s) of every layer with each of the bits for its weights and each for its inputs. Layers do not interact."""

    def one(weight_bits: Array, input_bits: Array) -> Array:
        full = jnp.ones(shapes.n_layers)
        return policy_latency(crossbar, shapes, BitPolicy(full * weight_bits, full * input_bits)).latency

    for name, choices in (("weight_choices", weight_choices), ("input_choices", input_choices)):
        outside = [bits for bits in choices if not LEAST_BITS <= bits <= MOST_BITS]
        if outside or not len(choices):
            raise ValueError(f"{name} = {list(choices)} must be bits in [{LEAST_BITS}, {MOST_BITS}] bit")
    over_inputs = jax.vmap(one, in_axes=(None, 0), out_axes=1)
    both = jax.vmap(over_inputs, in_axes=(0, None), out_axes=1)
    return both(jnp.asarray(weight_choices, float), jnp.asarray(input_choices, float))
