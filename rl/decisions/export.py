"""Trained agents and whole controllers as serialised JAX functions with their parameters.

`export_policy` and `export_controller` write one file: the function as StableHLO in the format of `jax.export`, which runs
on CPU, CUDA and TPU and is read by later versions of JAX (six months are promised), and beside it the parameters as
arrays, in the container of `rl.checkpoints`. Reading it needs nothing that defined the agent or the platform and unpickles
nothing; what runs is compiled arithmetic.
"""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float, Int

from costmodel import PlatformState
from rl import checkpoints
from rl.agents.program import TrainResult
from rl.decisions.controller import Controller, Request, asked, make_decide, target_names
from rl.decisions.ranges import ask, check_agent

KIND, VERSION = "tempo-policy", 1
PLATFORMS = ("cpu", "cuda", "tpu")


class LoadedPolicy(NamedTuple):
    """An exported function with its parameters; `about` names its inputs, the entries of an observation and the targets.

    A policy: `policy(observations[b, F]) -> {"action": [b], "values": [b, A]}`. A controller: `policy(memory, state)`, with
    `state` from `platform_arrays` or made of the arrays that `about["inputs"]` names -> {"target", "memory", ...}.
    """

    about: dict[str, Any]
    parameters: list[Array]
    exported: export.Exported
    function: Callable[..., dict[str, Array]]

    def __call__(self, *arguments: Any) -> dict[str, Array]:
        """The function on `arguments`."""
        return self.function(self.parameters, *arguments)


def export_policy(agent: Any, env: Any, path: str | os.PathLike[str]) -> None:
    """Write the greedy policy and the values of `agent`, for any number of observations at once; see the module.

    `env` is the environment it acts in. Observations are float32. ValueError for an agent that does not fit it.
    """
    entries = checked_entries(agent, env)
    leaves, rebuilt = parts(agent)

    def function(leaves: list[Array], observations: Float[Array, "b F"]) -> dict[str, Array]:
        policy, values = ask(rebuilt(leaves))
        return {"action": jax.vmap(policy)(observations), "values": jax.vmap(values)(observations).astype(jnp.float32)}

    (batch,) = export.symbolic_shape("b")
    observations = jax.ShapeDtypeStruct((batch, entries), jnp.float32)
    write(path, function, leaves, [observations], facts(agent, env) | {"inputs": ["observations"]})


def export_controller(controller: Controller, path: str | os.PathLike[str]) -> None:
    """Write everything `controller` does as a pure function (memory, state) -> decision and memory; see the module.

    In the float type of this process, which the reading one must share.
    """
    env, template = controller.env, controller.template
    leaves, rebuilt = parts(controller.agent)
    waiting = (template.platform, Request(template.network, template.deadline, template.mean_gap))
    state, shape = platform_arrays(*waiting), jax.tree.structure(waiting)

    def function(leaves: list[Array], memory: Int[Array, " networks"], state: dict[str, Array]) -> dict[str, Array]:
        platform, request = jax.tree.unflatten(shape, [state[name] for name in platform_arrays(*waiting)])
        decide = make_decide(env, rebuilt(leaves), controller.trained, controller.limits, controller.params)
        verdict, memory = decide(memory, asked(template, platform, request))
        plain = {name: value for name, value in verdict._asdict().items() if name != "outcomes"}
        return plain | verdict.outcomes._asdict() | {"memory": memory}

    inputs = {"inputs": list(state), "default_float": str(template.deadline.dtype)}
    specs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (controller.memory, state))
    write(path, function, leaves, specs, facts(controller.agent, env) | inputs)


def platform_arrays(platform: PlatformState, request: Request) -> dict[str, Array]:
    """The arrays that an exported controller takes, by their dotted names."""
    named = checkpoints.named_leaves((platform, request))
    return {f"{('platform', 'request')[int(name[0])]}.{name[2:]}": jnp.asarray(leaf) for name, leaf in named}


def load_policy(path: str | os.PathLike[str]) -> LoadedPolicy:
    """What `export_policy` or `export_controller` wrote; CheckpointError where it is damaged or cannot run here."""
    path = Path(path)
    about = checkpoints.load_meta(path)
    checkpoints.check_header(path, about, {"kind": KIND, "version": VERSION})
    precision = str(jnp.zeros(()).dtype)
    if about.get("default_float", precision) != precision:
        raise checkpoints.CheckpointError(
            f"{path}: does not fit: default_float is {about['default_float']}, here it is {precision}"
        )
    with checkpoints.opened(path) as archive:
        leaves = checkpoints.read_header(path, archive)["leaves"].items()
        like: dict[str, Any] = {n: jax.ShapeDtypeStruct(tuple(leaf["shape"]), np.dtype(leaf["type"])) for n, leaf in leaves}
    tree: dict[str, Any] = checkpoints.load(path, like, about)
    try:
        exported = export.deserialize(bytearray(np.asarray(tree.pop("function")).tobytes()))
        parameters = [tree[f"parameter {number}"] for number in range(len(tree))]
    except Exception as error:  # a flat buffer that is damaged raises whatever its bytes happen to mean
        raise checkpoints.CheckpointError(f"{path}: damaged: {checkpoints.one_line(error)}") from error
    return LoadedPolicy(about, parameters, exported, jax.jit(exported.call))


def checked_entries(agent: Any, env: Any) -> int:
    """Entries of an observation of `env`; ValueError for an agent that does not fit."""
    entries = math.prod(env.observation_space(env.default_params).shape)
    check_agent(agent, entries, int(env.num_actions))
    return entries


def parts(agent: Any) -> tuple[list[Array], Callable[[list[Array]], Any]]:
    """The arrays that an agent decides by, and what puts them back; a plain function has none."""
    if not hasattr(agent, "policy"):
        return [], lambda leaves: agent
    if isinstance(agent, TrainResult):  # no metrics, no target network
        agent = eqx.tree_at(lambda result: (result.target_params, result.metrics), agent, (None, None))
    leaves, structure = jax.tree.flatten(agent)
    return leaves, lambda leaves: jax.tree.unflatten(structure, leaves)


def facts(agent: Any, env: Any) -> dict[str, Any]:
    """What the file says of itself."""
    config = getattr(agent, "config", None)
    return {
        "kind": KIND,
        "version": VERSION,
        "algorithm": getattr(config, "algorithm", "function"),
        "observation": list(getattr(env, "observation_names", ())),
        "targets": list(target_names(env)) if hasattr(env, "platform") else [],
    }


def write(
    path: str | os.PathLike[str], function: Callable, leaves: list[Array], specs: Sequence[Any], about: dict[str, Any]
) -> None:
    """Write `function(leaves, *arguments)` and its leaves; `specs` describe the arguments."""
    described = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    exported = export.export(jax.jit(function), platforms=PLATFORMS)(described, *specs)
    tree = {"function": np.frombuffer(bytes(exported.serialize()), np.uint8)}
    checkpoints.save(path, tree | {f"parameter {number}": leaf for number, leaf in enumerate(leaves)}, about)
