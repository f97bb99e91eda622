"""Workloads by name: `load("resnet8")` is the operation table of a deployed network.

Deployed means one input at a time, batch normalisation folded, 32-bit floating point and, where the reference network
has one, its softmax head. `OpTable.with_bits(activation=8, weight=8)` gives the quantised version.
"""

import dataclasses
import difflib
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from workloads.importers.jaxpr import profile
from workloads.ops import OpTable

FILE_SUFFIXES = (".onnx", ".tflite")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One network of the catalog; `module` names a class of `workloads.networks.mlperf_tiny`."""

    name: str
    aliases: tuple[str, ...]
    module: str
    input_shape: tuple[int, ...]  # without the batch
    n_outputs: int
    softmax: bool  # whether the deployed network ends in one


@dataclasses.dataclass(frozen=True)
class Network:
    """A network to train: a flax module, the shape of one input and the number of outputs (classes or features)."""

    module: Any
    input_shape: tuple[int, ...]
    n_outputs: int


ENTRIES = (
    Entry("ds-cnn", ("kws",), "DSCNN", (49, 10, 1), 12, softmax=True),
    Entry("mobilenet-v1-0.25", ("vww",), "MobileNetV1", (96, 96, 3), 2, softmax=True),
    Entry("fc-autoencoder", ("ad",), "FCAutoencoder", (640,), 640, softmax=False),
    Entry("resnet8", ("ic",), "ResNet8", (32, 32, 3), 10, softmax=True),
)


def build_index(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Entries by name and alias, in lower case; ValueError if two claim the same one."""
    index: dict[str, Entry] = {}
    for entry in entries:
        for name in (entry.name, *entry.aliases):
            if name.lower() in index:
                raise ValueError(f"network name {name!r} is claimed by both {index[name.lower()].name!r} and {entry.name!r}")
            index[name.lower()] = entry
    return index


INDEX = build_index(ENTRIES)


def list_networks() -> tuple[str, ...]:
    """Names of the networks that `load` and `load_network` know; aliases (kws, vww, ad, ic) are left out."""
    return tuple(entry.name for entry in ENTRIES)


def load(source: str | os.PathLike[str] | Callable[..., Any], *args: Any, weights: Sequence[int] = (), **options: Any) -> OpTable:
    """The operation table of a named network, or of a function.

    `load("resnet8")` takes a name of `list_networks()` or an alias, in upper or lower case; the table is cached.
    `load(fn, *args, weights=(0,))` is `profile(fn, *args, weights=(0,))` and takes the same options.
    Raises ValueError for an unknown name (with close matches), for a file, whose importers come in a later version,
    and for function arguments given together with a name.
    """
    if callable(source):
        return profile(source, *args, weights=weights, **options)
    name = os.fspath(source)
    if args or weights or options:
        raise ValueError(f"arguments go with a function, not with the name {name!r}")
    return _load_named(_find(name).name)


def load_network(name: str) -> Network:
    """The trainable network called `name` (name or alias); ValueError if it is unknown. Needs flax."""
    from workloads.networks import mlperf_tiny  # here, so that `import workloads` does not import flax

    entry = _find(name)
    return Network(getattr(mlperf_tiny, entry.module)(), entry.input_shape, entry.n_outputs)


def _find(name: str) -> Entry:
    key = name.strip().lower()
    if key in INDEX:
        return INDEX[key]
    if key.endswith(FILE_SUFFIXES):
        raise ValueError(f"cannot load {name!r}: importers for {' and '.join(FILE_SUFFIXES)} files come in a later version")
    close = difflib.get_close_matches(key, INDEX, n=3, cutoff=0.4)
    hint = f"close: {', '.join(close)}" if close else f"known: {', '.join(list_networks())}"
    raise ValueError(f"unknown network {name!r}; {hint}")


@functools.cache
def _load_named(name: str) -> OpTable:
    entry = INDEX[name]
    module = load_network(name).module.clone(folded=True, **({"softmax": True} if entry.softmax else {}))
    image = jax.ShapeDtypeStruct((1, *entry.input_shape), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    return profile(module.apply, variables, image, weights=(0,), name=name)
