"""Workloads by name: `load("resnet8")` is the operation table of a deployed network.

Three suites: the four networks of MLPerf Tiny ("mlperf-tiny"), larger convolutional networks ("vision"), and spiking networks
with an ordinary rival ("spiking", see `workloads.spiking.models`).

Deployed means one input at a time, batch normalisation folded, 32-bit floating point and, where the reference network
has one, its softmax head. `OpTable.with_bits(activation=8, weight=8)` gives the quantised version.
"""

import dataclasses
import functools
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from workloads.importers.jaxpr import profile
from workloads.names import find
from workloads.ops import OpTable

FILE_SUFFIXES = (".onnx", ".tflite", ".nir")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One network of the catalog; `module` names a class of the module of `workloads.networks` that holds its suite."""

    name: str
    aliases: tuple[str, ...]
    module: str
    input_shape: tuple[int, ...]  # without the batch
    n_outputs: int
    softmax: bool  # whether the deployed network ends in one
    suite: str = "mlperf-tiny"


class Deployed(NamedTuple):
    """A network as it is deployed: `apply(variables, image)`, with the shapes of both arguments."""

    apply: Callable[..., Any]
    variables: Any
    image: jax.ShapeDtypeStruct


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
    Entry("tiny-yolo-v3", ("tinyyolov3", "yolov3-tiny"), "TinyYOLOv3", (416, 416, 3), 255, softmax=False, suite="vision"),
    Entry("tiny-yolo-v4", ("tinyyolov4", "yolov4-tiny"), "TinyYOLOv4", (416, 416, 3), 255, softmax=False, suite="vision"),
    Entry("vgg16", ("vgg-16",), "VGG16", (224, 224, 3), 25088, softmax=False, suite="vision"),
    Entry("vgg19", ("vgg-19",), "VGG19", (224, 224, 3), 25088, softmax=False, suite="vision"),
    Entry("resnet50", ("resnet-50",), "ResNet50", (224, 224, 3), 2048, softmax=False, suite="vision"),
    Entry("resnet101", ("resnet-101",), "ResNet101", (224, 224, 3), 2048, softmax=False, suite="vision"),
    Entry("resnet152", ("resnet-152",), "ResNet152", (224, 224, 3), 2048, softmax=False, suite="vision"),
    Entry("gsc-snn", (), "gsc_snn", (20,), 35, softmax=False, suite="spiking"),
    Entry("gsc-m5", (), "gsc_m5", (1, 8000), 35, softmax=False, suite="spiking"),
    Entry("nmnist-scnn", (), "nmnist_scnn", (2, 34, 34), 10, softmax=False, suite="spiking"),
)
ROOMS = {
    "mlperf-tiny": "workloads.networks.mlperf_tiny",
    "vision": "workloads.networks.vision",
    "spiking": "workloads.spiking.models",
}


def list_networks(suite: str = "mlperf-tiny") -> tuple[str, ...]:
    """Names of the networks of one suite ("mlperf-tiny", "vision" or "spiking"), without aliases; ValueError for another suite.

    `load` and `load_network` know all of them, and their aliases (kws, vww, ad, ic, ...).
    """
    if suite not in ROOMS:
        raise ValueError(f"unknown suite {suite!r}; known: {', '.join(ROOMS)}")
    return tuple(entry.name for entry in ENTRIES if entry.suite == suite)


def load(
    source: str | os.PathLike[str] | Callable[..., Any],
    *args: Any,
    weights: Sequence[int] = (),
    shapes: Mapping[str, Any] | None = None,
    **options: Any,
) -> OpTable:
    """The operation table of a named network, of a file, or of a function.

    `load("resnet8")` takes a name of `list_networks()` or an alias, in any spelling. `load("model.onnx")` and
    `load("model.tflite")` read a file; `shapes` binds its inputs, as for `read_network`. `load("net.nir", steps=100)` reads a
    spiking network and counts that many time steps (1 by default). `load(fn, *args, weights=(0,))` is
    `profile(fn, *args, weights=(0,))`; .onnx and .tflite files take `profile`'s other options too. `load(module, *args)` exports
    a torch module to ONNX first. Tables are cached by content.
    Raises ValueError for an unknown name (with close matches), for a file that cannot be read or needs a shape, and for
    arguments that do not go with the source.
    """
    if callable(source):
        if shapes is not None:
            raise ValueError("shapes go with a file; a function's come from its arguments")
        if "torch" in sys.modules:
            from workloads.importers.torch_modules import is_torch_module, profile_torch

            if is_torch_module(source):
                if weights:
                    raise ValueError("weights go with a function; a torch module knows its own")
                return profile_torch(source, *args, **options)
        return profile(source, *args, weights=weights, **options)
    name = os.fspath(source)
    if args or weights:
        raise ValueError(f"arguments go with a function, not with {name!r}")
    if name.lower().endswith(".nir"):
        from workloads.spiking.nir import profile_nir

        return profile_nir(name, shapes, **options)
    if name.lower().endswith(FILE_SUFFIXES):
        from workloads.importers.graph_files import profile_file  # here: names need none of the importers

        return profile_file(name, shapes, **options)
    if shapes is not None or options:
        raise ValueError(f"shapes and options go with a file or a function, not with the name {name!r}")
    return _load_named(_find(name).name)


def load_network(name: str) -> Network:
    """The trainable network called `name` (name or alias); ValueError if it is unknown. Needs flax."""
    entry = _find(name)
    room = importlib.import_module(ROOMS[entry.suite])  # here, so that `import workloads` does not import flax
    return Network(getattr(room, entry.module)(), entry.input_shape, entry.n_outputs)


def load_deployed(name: str) -> Deployed:
    """The network called `name` (name or alias) as it is deployed, batch normalisation folded; ValueError if it is unknown."""
    entry = _find(name)
    if entry.suite == "spiking":
        from workloads.spiking.models import STEPS

        network = load_network(entry.name).module
        train = jax.ShapeDtypeStruct((STEPS[entry.name], *entry.input_shape), jnp.float32)
        return Deployed(network.apply, network.parameter_shapes(), train)
    module = load_network(entry.name).module.clone(folded=True, **({"softmax": True} if entry.softmax else {}))
    image = jax.ShapeDtypeStruct((1, *entry.input_shape), jnp.float32)
    return Deployed(module.apply, jax.eval_shape(module.init, jax.random.key(0), image), image)


def _find(name: str) -> Entry:
    return find(name.strip(), ENTRIES, "network")


@functools.cache
def _load_named(name: str) -> OpTable:
    if _find(name).suite == "spiking":
        from workloads.spiking.models import STEPS
        from workloads.spiking.operations import spiking_table

        return spiking_table(load_network(name).module, STEPS[name])
    deployed = load_deployed(name)
    return profile(deployed.apply, deployed.variables, deployed.image, weights=(0,), name=name)
