"""The recommender: the best configuration of an accelerator without trying them all.

    space = costmodel.ArraySpace()
    recommender = rl.load_recommender()                      # or rl.train_recommender(space)
    recommender.recommend(workloads)                         # positions in space.table, one for each workload
    recommender.recommend(workloads, top=8)                  # the eight best, best first
    recommender.recommend(workloads, rescore=True)           # the best of these eight by the exact cost model

The network (`recommending/networks.py`) scores all configurations; those that a workload's budget forbids are left out exactly,
not by learning. It was trained on random workloads only (`recommending/training.py`), and `judge_recommender` compares it with
the exhaustive optimum. The shipped file is a recommender for `ArraySpace` with sizes up to 2^18. Loading runs no code of the
file.
"""

import dataclasses
import functools
import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from costmodel.studies.design_spaces.arrays import ArraySpace
from costmodel.studies.design_spaces.buffers import BufferSpace
from costmodel.studies.design_spaces.schedules import ScheduleSpace
from costmodel.studies.design_spaces.spaces import DesignSpace, Rows, in_blocks
from rl.decisions.recommending.networks import ScoreNetwork, Shape, embed, ranked
from rl.files import write_bytes

SHIPPED = Path(__file__).parent / "recommending" / "arrays.npz"
SPACES = {kind.__name__: kind for kind in (ArraySpace, BufferSpace, ScheduleSpace)}
RESCORED = 8
CHUNK, BLOCK = 512, 1 << 16  # workloads whose scores stay in the cache; workloads in one call


@dataclasses.dataclass(frozen=True, eq=False)
class Recommender:
    """A trained network for one space; the weights are those of `ScoreNetwork`."""

    space: DesignSpace
    shape: Shape
    weights: Mapping[str, Any]

    def recommend(self, workloads: Rows, top: int = 1, rescore: bool = False) -> Int[np.ndarray, "..."]:
        """Positions in `space.table`: (workloads,), or (workloads, top) for `top` > 1, best first; all within the budget.

        `rescore`: the best of the eight (or `top`, if more) by the exact cost model, the lowest position among equals.
        A workload with fewer allowed configurations than `top` gets its best one again. ValueError for workloads out of range,
        or `top` outside [1, number of configurations].
        """
        rows = self.space.checked(workloads)
        if not 1 <= top <= self.space.count:
            raise ValueError(f"top = {top} is outside its range [1, {self.space.count}]")
        wanted = min(max(top, RESCORED), self.space.count) if rescore else top
        program = functools.partial(_recommend, self._network, wanted, self.weights)
        (found,) = in_blocks(lambda some: (program(some),), rows, block=BLOCK, fewest=CHUNK)
        if not rescore:
            return found[:, 0] if top == 1 else found
        costs = self.space.costs_of(rows, found)
        return np.where(costs == costs.min(axis=1, keepdims=True), found, self.space.count).min(axis=1)

    def scores(self, workloads: Rows) -> Float[np.ndarray, "workloads configurations"]:
        """Estimates of ln cost up to a constant of each workload, infinite where not allowed."""
        rows = self.space.checked(workloads)
        return in_blocks(lambda some: (_scores(self._network, self.weights, some).T,), rows, fewest=CHUNK)[0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one .npz file; WriteError, one line, if that fails."""
        flat = {f"{layer}/{part}": np.asarray(x) for layer, part, x in _leaves(self.weights["params"])}
        about = {
            "kind": type(self.space).__name__,
            "space": dataclasses.asdict(self.space),
            "shape": dataclasses.asdict(self.shape),
        }
        file = io.BytesIO()
        np.savez_compressed(file, about=np.asarray(json.dumps(about)), allow_pickle=False, **flat)
        write_bytes(Path(path), file.getvalue())

    @property
    def _network(self) -> ScoreNetwork:
        return ScoreNetwork(self.space, self.shape)


def load_recommender(path: str | os.PathLike[str] = SHIPPED) -> Recommender:
    """The recommender in a file that `Recommender.save` wrote, by default the shipped one; ValueError, one line, for another."""
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            options = {name: _tuples(value) for name, value in about["space"].items()}
            space, shape = SPACES[about["kind"]](**options), Shape(**about["shape"])
            weights = _unflatten({name: file[name] for name in file.files if name != "about"})
        workload = jax.ShapeDtypeStruct((1, len(space.fields)), jnp.int32)
        entries = jax.eval_shape(functools.partial(embed, space, shape.embedding), workload)
        expected = jax.eval_shape(ScoreNetwork(space, shape).init, jax.random.key(0), entries)
        if jax.tree.map(lambda x: (x.shape, x.dtype), weights) != jax.tree.map(lambda x: (x.shape, x.dtype), expected):
            raise ValueError("its weights have other shapes than its network")
        return Recommender(space, shape, weights)
    except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as problem:
        raise ValueError(f"{os.fspath(path)}: no recommender ({problem})") from None


@functools.partial(jax.jit, static_argnames=("network", "top"))
def _recommend(network: ScoreNetwork, top: int, weights: Any, rows: Array) -> Int[Array, "workloads top"]:
    def part(some: Array) -> Array:
        return ranked(_scores(network, weights, some), top)

    return jax.lax.map(part, rows.reshape(-1, CHUNK, rows.shape[1])).reshape(-1, top)


@functools.partial(jax.jit, static_argnames="network")
def _scores(network: ScoreNetwork, weights: Any, rows: Array) -> Float[Array, "configurations workloads"]:
    scores = network.apply(weights, embed(network.space, network.shape.embedding, rows))
    assert isinstance(scores, jax.Array)
    return jnp.where(network.space.allowed(rows).T, scores, jnp.inf)


def _leaves(params: Mapping[str, Any]) -> list[tuple[str, str, np.ndarray]]:
    """(layer, part, array); weights of the network itself have no layer."""
    nested = {layer: parts if isinstance(parts, Mapping) else {"": parts} for layer, parts in params.items()}
    return [(layer, part, array) for layer, parts in nested.items() for part, array in parts.items()]


def _unflatten(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for name, array in flat.items():
        layer, _, part = name.partition("/")
        if part:
            params.setdefault(layer, {})[part] = array
        else:
            params[layer] = array
    return {"params": params}


def _tuples(value: Any) -> Any:
    """Lists, as files keep them, back to tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
