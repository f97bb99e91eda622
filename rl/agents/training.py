"""Training with a voice and a memory: progress while it runs, checkpoints it can be resumed from, many seeds at once.

`make_train` is one program that says nothing until it is done. `train` runs the same program in chunks of rows, so that
it can report after each and put everything that changes on disk: networks, optimizer, schedules, replay, environments,
random keys, counters, the metrics so far. An interrupted run that is started again with the same checkpoint ends in the
same numbers, bit for bit, as one that was never interrupted (same machine and library versions).
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rl import checkpoints
from rl.agents.algorithm import action_space
from rl.agents.config import TrainingConfig, check_integer, check_real, refuse
from rl.agents.program import Program, TrainResult, TrainState, make_program, make_train
from rl.agents.records import Metrics
from rl.agents.registry import config_class

Progress = Callable[[int, int, Metrics], None]


def train(
    env: Any,
    config: TrainingConfig,
    seed: int = 0,
    progress: Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    chunk_steps: int | None = None,
    *,
    params: PyTree = None,
    checkpoint_seconds: float = 10.0,
) -> TrainResult:
    """Train on `env` with its parameters `params` (default: the environment's own).

    `progress(done_steps, total_steps, row)` is called after every `chunk_steps` environment steps (a multiple of
    config.log_every; default: about a fiftieth of the run) with the newest row of metrics as numbers. With `checkpoint`,
    a path, the run continues from that file if it exists, and writes it after a chunk when `checkpoint_seconds` have
    passed since it last did (0: after every chunk), and at the end. Raises ValueError for a wrong setting, and
    CheckpointError where the file cannot be used: it is damaged, or belongs to another config, environment or seed.
    """
    check_integer("seed", seed, least=0)
    check_real("checkpoint_seconds", checkpoint_seconds, 0.0, float("inf"))
    chunk_rows = rows_per_chunk(config, chunk_steps)
    program, run = shared_program(
        Same(env), config, Same(params), contents(env, env.default_params if params is None else params)
    )
    path = None if checkpoint is None else Path(checkpoint)
    meta = {} if path is None else description(env, config, params, seed)
    state = first_state(program, seed, path, meta)
    saved_at = time.monotonic()
    row = rows_done(state, config)
    while row < config.rows:
        state = run(state, min(chunk_rows, config.rows - row))
        row = rows_done(state, config)
        if path is not None and (row == config.rows or time.monotonic() - saved_at >= checkpoint_seconds):
            checkpoints.save(path, state, meta)
            saved_at = time.monotonic()
        if progress is not None:
            newest = row_of(state.metrics, row - 1)
            progress(int(newest.env_steps), config.total_steps, newest)
    return program.result(state)


def train_many(
    env: Any, config: TrainingConfig, seeds: Sequence[int], *, params: PyTree = None, devices: Sequence[Any] | None = None
) -> TrainResult:
    """One run per seed in one batched program; every array of the result has a leading axis of seeds.

    The seeds are shared out over `devices` (default: all local ones), each of which runs its part by itself.
    `train(env, config, seed)` of one of the seeds gives the same up to rounding. On a single core this saves the
    compilations, not the arithmetic.
    """
    if len(seeds) == 0:
        refuse("seeds", list(seeds), "at least one integer")
    for seed in seeds:
        check_integer("seeds", seed, least=0)
    devices = jax.local_devices() if devices is None else list(devices)
    used = devices[: len(seeds)]
    padded = [*seeds, *[seeds[-1]] * (-len(seeds) % len(used))]  # the same number on every device
    mesh = jax.make_mesh((len(used),), ("seeds",), devices=used, axis_types=(jax.sharding.AxisType.Auto,))
    over_seeds = jax.sharding.PartitionSpec("seeds")
    keys = jax.vmap(jax.random.key)(jnp.asarray(padded, dtype=jnp.uint32))
    batched = jax.vmap(make_train(env, config, params))
    spread = jax.shard_map(batched, mesh=mesh, in_specs=over_seeds, out_specs=over_seeds, check_vma=False)
    result = jax.jit(spread)(jax.device_put(keys, jax.sharding.NamedSharding(mesh, over_seeds)))
    return result if len(padded) == len(seeds) else jax.tree.map(lambda leaf: leaf[: len(seeds)], result)


class Same:
    """An object that is equal to itself only, so that it may key a cache whatever it is."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


@functools.lru_cache(maxsize=4)
def shared_program(
    env: Same, config: TrainingConfig, params: Same, contents: str
) -> tuple[Program, Callable[[TrainState, Any], TrainState]]:
    """The program and its compiled runner, made once for runs that differ in their seed only.

    `contents` is the digest of environment and parameters: one that was changed in the meantime is compiled anew.
    """
    program = make_program(env.value, config, params.value)
    return program, jax.jit(program.run, donate_argnums=0)


def contents(env: Any, env_params: PyTree) -> str:
    """The digest of an environment and its parameters."""
    return digest((vars(env) if hasattr(env, "__dict__") else {}, env_params))


def rows_per_chunk(config: TrainingConfig, chunk_steps: int | None) -> int:
    """Rows of metrics in one chunk."""
    if chunk_steps is None:
        return -(-config.rows // 50)
    check_integer("chunk_steps", chunk_steps)
    if chunk_steps % config.log_every:
        refuse("chunk_steps", chunk_steps, f"a multiple of log_every = {config.log_every}")
    return chunk_steps // config.log_every


def rows_done(state: TrainState, config: TrainingConfig) -> int:
    """Rows of metrics that are complete; waits for the device."""
    return -(-int(state.iteration) * config.steps_per_iteration // config.log_every)


def row_of(metrics: Metrics, row: int) -> Metrics:
    """One row of the table as Python numbers."""
    return Metrics(*(table[row].item() for table in metrics))


def first_state(program: Program, seed: int, path: Path | None, meta: dict[str, Any]) -> TrainState:
    """The state in the checkpoint, or a fresh one where there is no such file yet."""
    key = jax.random.key(seed)
    if path is None or not path.exists():
        return jax.jit(program.init)(key)
    return checkpoints.load(path, jax.eval_shape(program.init, key), meta)


def load_agent(path: str | os.PathLike[str], env: Any, *, params: PyTree = None) -> TrainResult:
    """The agent in a checkpoint that `train` wrote, as far as it was trained, to act in `env`.

    The environment must be of the same kind with the same observations and actions; its numbers may differ. Raises
    CheckpointError naming the file and what does not fit.
    """
    found = checkpoints.load_meta(path)
    try:
        config = config_class(found["algorithm"])(**{**found["config"], "hidden": tuple(found["config"]["hidden"])})
        meta = description(env, config, params, found["seed"]) | {"environment_digest": found["environment_digest"]}
    except (KeyError, TypeError, ValueError) as error:
        raise checkpoints.CheckpointError(f"{path}: holds no agent of this version: {error}") from error
    program = make_program(env, config, params)
    return program.result(checkpoints.load(path, jax.eval_shape(program.init, jax.random.key(0)), meta))


def description(env: Any, config: TrainingConfig, params: PyTree, seed: int) -> dict[str, Any]:
    """What a checkpoint belongs to: algorithm, settings, environment, seed."""
    kind = type(env)
    env_params = env.default_params if params is None else params
    return {
        "algorithm": config.algorithm,
        "config": dataclasses.asdict(config),
        "environment": f"{kind.__module__}.{kind.__qualname__}",
        "observation": observed(env, env_params),
        "actions": json.loads(action_space(env, env_params).facts),
        "environment_digest": contents(env, env_params),
        "seed": seed,
        "default_float": str(jnp.zeros(()).dtype),
    }


def observed(env: Any, env_params: PyTree) -> list[Any]:
    """The names of what is observed, or the shapes where it has none."""
    if hasattr(env, "observation_names"):
        return list(env.observation_names)
    observation, _ = jax.eval_shape(env.reset, jax.random.key(0), env_params)
    return [list(leaf.shape) for leaf in jax.tree.leaves(observation)]


def digest(tree: PyTree) -> str:
    """A short hash of the structure of a tree and of every number and text in it; functions count by their name."""
    total = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", str(jax.tree.structure(tree))).encode())
    for name, leaf in checkpoints.named_leaves(tree):
        total.update(f"{name}\0".encode())
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if isinstance(leaf, jax.Array | np.ndarray):
            array = np.ascontiguousarray(leaf)
            total.update(f"{array.dtype}{array.shape}\0".encode() + array.tobytes())
        elif isinstance(leaf, bool | int | float | complex | str | bytes):
            total.update(f"{leaf!r}\0".encode())
        else:
            total.update(f"{getattr(leaf, '__qualname__', type(leaf).__qualname__)}\0".encode())
    return total.hexdigest()[:16]
