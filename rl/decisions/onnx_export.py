"""The network that decides as an ONNX graph, for runtimes without JAX.

It is one chain

    (observation - mean) / standard deviation, clipped  ->  Gemm, Relu  ->  ...  ->  Gemm  ->  ArgMax

since everything after the last Relu is linear: the dueling head Q = V + A - mean A and the unit of the reward are folded
into the last product. Known rewards, the last entries of the observation, are added to the values. Noise is off. Of soft
actor-critic it is the actor, and its output is logarithms of probabilities.
A graph is compared with its agent before it is written, so that a network of another form is refused and not
mistranslated. Needs the package `onnx` (extra `onnx`).
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from rl.agents.normalization import LIMIT, VARIANCE_FLOOR, Statistics
from rl.decisions.export import checked_entries, facts
from rl.decisions.ranges import ask
from rl.files import write_bytes

OPSET, IR_VERSION = 17, 8  # read by runtimes of 2022 and later
CHECKED = 256  # observations on which a graph is compared with its agent
TOLERANCE = 1e-4  # of the largest value among them


class Chain(NamedTuple):
    """A network as what the graph is made of: statistics of the observation, and layers y = W x + b."""

    statistics: Statistics | None
    kernels: list[np.ndarray]  # [outputs, inputs]
    biases: list[np.ndarray]  # [outputs]
    output: str  # "values", or "log_probabilities"
    known_rewards: bool = False  # are the last entries of the observation added to the values?


def export_onnx(agent: Any, env: Any, path: str | os.PathLike[str]) -> None:
    """Write the network of a trained agent: `observation` [batch, F] float32 -> `action` [batch], `values` [batch, A].

    The second output is called `log_probabilities` for soft actor-critic. Names of entries and targets are in the
    metadata. ValueError where `onnx` is missing, for an agent without such a network, or if the graph is not the agent.
    """
    try:
        import onnx
        from onnx.reference import ReferenceEvaluator
    except ImportError:
        raise ValueError("export_onnx needs the package onnx, which is not installed: pip install 'tempo-pim[onnx]'") from None
    entries = checked_entries(agent, env)
    chain = chain_of(agent)
    model = build(chain, facts(agent, env))
    onnx.checker.check_model(model, full_check=True)
    observations = np.random.default_rng(0).normal(size=(CHECKED, entries)).astype(np.float32)
    action, output = ReferenceEvaluator(model).run(None, {"observation": observations})
    compare(agent, chain, observations, np.asarray(action), np.asarray(output))
    write_bytes(Path(path), model.SerializeToString(deterministic=True))


def chain_of(agent: Any) -> Chain:
    """The layers of the network that decides; ValueError for an agent without one."""
    try:
        params = agent.params
        discrete_actor = hasattr(params, "actor")
        layers = (params.actor if discrete_actor else params)["params"]
        names = [f"hidden_{number}" for number in range(len(agent.config.hidden))] + ["head"]
        kernels = [np.asarray(layers[name]["kernel"], np.float64) for name in names]
        biases = [np.asarray(layers[name]["bias"], np.float64)[:, 0] for name in names]
    except (AttributeError, KeyError, TypeError, IndexError):
        raise ValueError(
            f"agent of type {type(agent).__name__} has no network that export_onnx knows: hidden layers and a head"
        ) from None
    if discrete_actor:
        return Chain(agent.statistics, kernels, biases, "log_probabilities")
    fold = head_fold(len(biases[-1]), agent.config.dueling) / agent.config.reward_scale
    kernels, biases = [*kernels[:-1], fold @ kernels[-1]], [*biases[:-1], fold @ biases[-1]]
    return Chain(agent.statistics, kernels, biases, "values", agent.config.known_rewards)


def head_fold(outputs: int, dueling: bool) -> np.ndarray:
    """The matrix from a head's outputs to values: the identity, or of (V, A) with rows (1, e_a - 1 / number of actions)."""
    if not dueling:
        return np.eye(outputs)
    actions = outputs - 1
    return np.hstack([np.ones((actions, 1)), np.eye(actions) - 1 / actions])


def build(chain: Chain, about: dict[str, Any]) -> Any:
    """The ONNX model of a chain."""
    from onnx import TensorProto, helper, numpy_helper

    constants: dict[str, np.ndarray] = {}
    nodes, last = [], "observation"

    def add(kind: str, output: str, arrays: dict[str, np.ndarray], **attributes: Any) -> None:
        nonlocal last
        constants.update(arrays)
        nodes.append(helper.make_node(kind, [last, *arrays], [output], name=output, **attributes))
        last = output

    if chain.statistics is not None:
        add("Sub", "centred", {"mean": np.asarray(chain.statistics.mean)})
        deviation = np.sqrt(np.asarray(chain.statistics.variance) + np.float32(VARIANCE_FLOOR))
        add("Div", "scaled", {"standard_deviation": deviation})
        add("Clip", "normalized", {"lowest": np.array(-LIMIT), "highest": np.array(LIMIT)})
    for number, (kernel, bias) in enumerate(zip(chain.kernels, chain.biases, strict=True)):
        hidden = number < len(chain.kernels) - 1
        product = f"hidden_{number}" if hidden or chain.output != "values" or chain.known_rewards else chain.output
        add("Gemm", product, {f"kernel_{number}": kernel, f"bias_{number}": bias}, transB=1)
        if hidden:
            add("Relu", f"{product}_relu", {})
    entries, actions = chain.kernels[0].shape[1], chain.kernels[-1].shape[0]
    if chain.known_rewards:
        learned, last = last, "observation"
        window = {"from": np.array([entries - actions]), "to": np.array([entries]), "along": np.array([1])}
        add("Slice", "known_rewards", window)
        nodes.append(helper.make_node("Add", [learned, last], [chain.output], name=chain.output))
        last = chain.output
    if chain.output != "values":
        add("LogSoftmax", chain.output, {}, axis=1)
    add("ArgMax", "action", {}, axis=1, keepdims=0)
    graph = helper.make_graph(
        nodes,
        "tempo-policy",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["batch", entries])],
        [
            helper.make_tensor_value_info("action", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info(chain.output, TensorProto.FLOAT, ["batch", actions]),
        ],
        [numpy_helper.from_array(_stored(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="tempo-pim"
    )
    helper.set_model_props(model, {name: json.dumps(value) for name, value in about.items()})
    return model


def _stored(array: np.ndarray) -> np.ndarray:
    return array if array.dtype == np.int64 else array.astype(np.float32)


def compare(
    agent: Any,
    chain: Chain,
    observations: Float[np.ndarray, "b F"],
    action: Int[np.ndarray, " b"],
    output: Float[np.ndarray, "b A"],
) -> None:
    """ValueError unless the graph gives the agent's values, and its action wherever the two best differ by more than rounding."""
    policy, values = ask(agent)
    expected = np.asarray(jax.jit(jax.vmap(policy))(observations))
    tolerance = TOLERANCE * np.max(np.abs(output))
    best = np.sort(output, axis=1)
    clear = best[:, -1] - best[:, -2] > tolerance if output.shape[1] > 1 else np.ones(len(output), bool)
    wrong = np.sum(action[clear] != expected[clear])
    off = 0.0
    if chain.output == "values":
        off = float(np.max(np.abs(output - np.asarray(jax.jit(jax.vmap(values))(observations)))))
    if wrong or off > tolerance:
        raise ValueError(
            f"the ONNX graph is not the agent: {wrong} of {len(action)} actions differ, values by {off:.3g}; nothing written"
        )
