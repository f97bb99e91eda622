"""One training step of a network as a workload: forward, loss, backward, accumulation of gradients, and the update.

    loss, g = value_and_grad(loss(network(parameters, x), y)),   a' = a + g,   parameters' = parameters - rate a'

The step is an ordinary JAX function; its operations are whatever `jax.grad` puts into the jaxpr, so the backward pass is the
real one (products for the gradients of inputs and weights, transposed convolutions, masks of the activation functions), not a
multiple of the forward pass. Named scopes tell the phases apart:

    forward, loss, loss_grad, backward, accumulate, update

Operators have the names that TrainDeeploy gives them: Conv, ConvGradX, ConvGradW, Gemm, ReluGrad, ReduceSum, Transpose,
SoftmaxCrossEntropyLoss(Grad), MSELoss(Grad), InPlaceAccumulatorV2, SGD. The last two write where they read.

Networks of the catalog are trained as they are deployed, batch normalisation folded (frozen), because on-device training works
on one image at a time; `normalised=True` trains the normalisation too (its running statistics are results nobody reads here).
Dropout is off. The parameters are held in 32-bit floating point. The losses of several results (the heads of a detector) are
added up: they stand in for the detector's own loss, of which they have the size but not the terms.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp

from workloads.catalog import load_network
from workloads.importers.fusion import Group
from workloads.importers.graph import Node
from workloads.nests import Program, inference_name, trace_program

LOSSES = ("cross_entropy", "mse")
UPDATED_IN_PLACE = ("accumulate", "update")
SCOPES = (
    ("transpose(jvp(loss))", "loss_grad"),
    ("jvp(loss)", "loss"),
    ("transpose(jvp(forward))", "backward"),
    ("jvp(forward)", "forward"),
    ("accumulate", "accumulate"),
    ("update", "update"),
)
BACKWARD = {"select_n": "ReluGrad", "reduce_window_sum": "AveragePoolGrad"}


def training_graph(
    network: Any,
    input_shape: tuple[int, ...] | None = None,
    *,
    batch: int = 1,
    loss: str | None = None,
    accumulate: bool = True,
    update: bool = True,
    normalised: bool = False,
    name: str | None = None,
) -> Program:
    """The training step of a network as a `Program`: operation table, loop nests, tensors with live ranges and aliases.

    `network` is a name of the catalog or any flax module, which is called with (batch, *input_shape) and must have a batch as
    its first axis. `loss` is "cross_entropy" against one-hot labels, or "mse"; the default is "mse" where the result has the
    shape of the input (an autoencoder) or there are several results, and "cross_entropy" elsewhere. Without `accumulate` the
    update takes the gradient itself; without `update` the step ends with the gradients. Raises ValueError for an unknown
    network or loss, a batch below 1, a module that is not flax's (a spiking network), or one without its input's shape.
    """
    module, shape, label = _resolve(network, input_shape, normalised)
    if batch < 1:
        raise ValueError(f"batch = {batch} inputs is outside its range [1, inf)")
    image = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    variables = dict(jax.eval_shape(module.init, jax.random.key(0), image))
    params = variables.pop("params", None)
    if not params:
        raise ValueError(f"{label} has no parameters, so there is nothing to train")
    result = jax.eval_shape(module.apply, {"params": params, **variables}, image)
    results = jax.tree.leaves(result)
    if not results:
        raise ValueError(f"{label} has no result, so there is no loss")
    kind = loss or ("mse" if len(results) > 1 or results[0].shape == image.shape else "cross_entropy")
    if kind not in LOSSES:
        raise ValueError(f"unknown loss {kind!r}; known: {', '.join(LOSSES)}")
    train = {"train": True, "mutable": ["batch_stats"]} if normalised and variables else {}
    step = _step(lambda p, rest, x: _call(module, p, rest, x, train), _LOSS[kind], accumulate, update)
    wanted = [jax.ShapeDtypeStruct(each.shape, jnp.float32) for each in results]
    args = (params, variables, params if accumulate else {}, image, wanted)
    return trace_program(
        step, *args, weights=(0, 1), name=name or f"{label} training", namer=_namer(kind), in_place=UPDATED_IN_PLACE
    )


def _resolve(network: Any, input_shape: tuple[int, ...] | None, normalised: bool) -> tuple[Any, tuple[int, ...], str]:
    if isinstance(network, str):
        found = load_network(network)
        _check_flax(found.module, network)
        return found.module.clone(folded=not normalised), input_shape or found.input_shape, network
    module, shape = getattr(network, "module", network), input_shape or getattr(network, "input_shape", None)
    _check_flax(module, type(module).__name__)
    if shape is None:
        raise ValueError(f"{type(module).__name__}: input_shape is missing; give the shape of one input, without the batch")
    return module, tuple(shape), type(module).__name__


def _check_flax(module: Any, label: str) -> None:
    if not isinstance(module, flax.linen.Module):
        raise ValueError(f"{label} is a {type(module).__name__}; a training step is made of flax modules only")


def _call(module: Any, params: Any, rest: Any, x: Any, train: dict[str, Any]) -> Any:
    result = module.apply({"params": params, **rest}, x, **train)
    return result[0] if train else result


def _step(forward: Callable[..., Any], loss: Callable[..., Any], accumulate: bool, update: bool) -> Callable[..., Any]:
    def step(params: Any, rest: Any, sums: Any, x: Any, y: Any) -> Any:
        def objective(p: Any) -> Any:
            with jax.named_scope("forward"):
                z = forward(p, rest, x)
            with jax.named_scope("loss"):
                return functools.reduce(jnp.add, map(loss, jax.tree.leaves(z), y))

        value, gradient = jax.value_and_grad(objective)(params)
        if accumulate:
            with jax.named_scope("accumulate"):
                gradient = jax.tree.map(jnp.add, sums, gradient)
        if not update:
            return value, gradient
        with jax.named_scope("update"):
            changed = jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient)
        return (value, gradient, changed) if accumulate else (value, changed)

    return step


def _cross_entropy(z: Any, y: Any) -> Any:
    return -jnp.sum(jax.nn.log_softmax(z) * y) / z.shape[0]


def _mse(z: Any, y: Any) -> Any:
    return jnp.mean((z - y) ** 2)


_LOSS: dict[str, Callable[..., Any]] = {"cross_entropy": _cross_entropy, "mse": _mse}


def _namer(loss: str) -> Callable[[Group, Node], tuple[str, str]]:
    head = {"cross_entropy": "SoftmaxCrossEntropyLoss", "mse": "MSELoss"}[loss]
    fixed = {"accumulate": "InPlaceAccumulatorV2", "update": "SGD", "loss": head, "loss_grad": f"{head}Grad"}

    def namer(own: Group, main: Node) -> tuple[str, str]:
        phase = next((phase for scope, phase in SCOPES if main.scope.startswith(scope)), "forward")
        if phase in fixed:
            return fixed[phase], phase
        name = BACKWARD.get(main.primitive) if phase == "backward" else None
        if phase == "backward" and main.primitive == "conv_general_dilated":
            name = "ConvGradX" if any(v.constant for v in main.inputs) else "ConvGradW"
        return name or inference_name(own, main)[0], phase

    return namer
