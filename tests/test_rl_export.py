"""Exported agents and controllers: the same decisions in another process and another runtime, damaged files refused."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import costmodel
import rl
from rl import checkpoints
from rl.agents.algorithm import action_space
from rl.agents.dqn_config import DQNConfig
from rl.agents.normalization import Statistics
from rl.agents.program import TrainResult
from rl.agents.records import empty_metrics
from rl.agents.registry import make_algorithm
from rl.agents.sac_config import SACConfig
from rl.checkpoints import CheckpointError
from rl.decisions.controller import Controller, no_memory
from rl.decisions.export import export_controller, export_policy, load_policy, platform_arrays
from rl.decisions.onnx_export import export_onnx, head_fold
from rl.decisions.ranges import ObservationRange
from rl.envs.spaces import Box, Discrete

pytestmark = pytest.mark.single  # computes in float32 whatever the default

FEATURES, ACTIONS = 7, 4
SMALL = {"total_steps": 400, "num_envs": 4, "buffer_size": 400, "batch_size": 16, "learning_starts": 40, "train_every": 4}
SMALL |= {"hidden": (24, 16), "log_every": 100}


class Still:
    """What an export looks at of an environment: shapes and names."""

    default_params = None
    num_actions = ACTIONS
    observation_names = tuple("abcdefg")

    def observation_space(self, params=None):
        return Box(-10.0, 10.0, (FEATURES,))

    def action_space(self, params=None):
        return Discrete(ACTIONS)


CONFIGS = {
    "dueling": DQNConfig(**SMALL, reward_scale=0.1),
    "plain": DQNConfig(**SMALL, dueling=False),
    "noisy": DQNConfig(**SMALL, noisy=True),
    "known rewards": DQNConfig(**SMALL, known_rewards=True, reward_scale=0.1),
    "normalized": DQNConfig(**SMALL, normalize=True, reward_scale=2.0),
    "sac-normalized": SACConfig(**SMALL, normalize=True),
}


def agent_of(name: str) -> TrainResult:
    """An agent with every parameter and statistic drawn at random, biases and variances included."""
    config, space = CONFIGS[name], action_space(Still(), None)
    zeros = jnp.zeros(FEATURES, jnp.float32)
    init = jax.jit(make_algorithm(config, space).init)
    params = init(jax.random.key(0), zeros, jnp.zeros((), jnp.int32)).params
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [leaf + 0.3 * jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]
    statistics = None
    if config.normalize:
        key_mean, key_variance = jax.random.split(jax.random.key(2))
        mean, variance = jax.random.normal(key_mean, (FEATURES,)), jnp.exp(jax.random.normal(key_variance, (FEATURES,)))
        statistics = Statistics(jnp.float32(1e4), mean.astype(jnp.float32), variance.astype(jnp.float32))
    drawn = jax.tree.unflatten(structure, drawn)
    return TrainResult(drawn, drawn, statistics, empty_metrics(4), config, space)


@pytest.fixture(scope="module", params=list(CONFIGS))
def agent(request):
    return agent_of(request.param)


@pytest.fixture(scope="module")
def observations():
    return np.asarray(5 * jax.random.normal(jax.random.key(4), (10_000, FEATURES)), np.float32)


def decided(agent, observations):
    """Actions, values in units of the reward, and where the choice is clear beyond rounding."""
    actions = np.asarray(jax.jit(jax.vmap(agent.policy()))(observations))
    values = np.asarray(jax.jit(jax.vmap(agent.values))(observations)) / agent.config.reward_scale
    return actions, values


def clear(scores):
    """Where the best score leads by more than rounding in float32."""
    ordered = np.sort(scores, axis=1)
    return ordered[:, -1] - ordered[:, -2] > 1e-5 * np.abs(scores).max()


def test_onnx_agrees_on_10000_observations(agent, observations, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    path = tmp_path / "agent.onnx"
    export_onnx(agent, Still(), path)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found, scores = session.run(None, {"observation": observations})
    actions, values = decided(agent, observations)
    sure = clear(scores)
    assert sure.mean() > 0.999
    assert np.array_equal(found[sure], actions[sure])
    if isinstance(agent.config, DQNConfig):
        assert names == ["action", "values"]
        assert np.max(np.abs(scores - values)) < 3e-6 * np.abs(values).max()
    else:
        assert names == ["action", "log_probabilities"]
        assert np.allclose(np.exp(scores).sum(axis=1), 1.0, atol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["observation"]) == list("abcdefg")
    assert json.loads(metadata["algorithm"]) == agent.config.algorithm
    one = session.run(None, {"observation": observations[:1]})
    assert one[0].shape == (1,) and one[1].shape == (1, ACTIONS)


def test_onnx_is_deterministic_and_only_gemm_and_relu(tmp_path):
    onnx = pytest.importorskip("onnx")
    for number in range(2):
        export_onnx(agent_of("dueling"), Still(), tmp_path / f"{number}.onnx")
    assert (tmp_path / "0.onnx").read_bytes() == (tmp_path / "1.onnx").read_bytes()
    graph = onnx.load(tmp_path / "0.onnx").graph
    assert [node.op_type for node in graph.node] == ["Gemm", "Relu", "Gemm", "Relu", "Gemm", "ArgMax"]


def test_head_fold_by_hand():
    """(V, A) = (2; 3, 6, 0): mean A is 3, so Q = (2, 5, -1)."""
    assert np.allclose(head_fold(4, True) @ np.array([2.0, 3.0, 6.0, 0.0]), [2.0, 5.0, -1.0])
    assert np.array_equal(head_fold(3, False), np.eye(3))


def test_a_network_of_another_form_is_refused(tmp_path):
    pytest.importorskip("onnx")
    with pytest.raises(ValueError, match="has no network that export_onnx knows"):
        export_onnx(lambda observation: jnp.zeros(ACTIONS), Still(), tmp_path / "a.onnx")
    agent = agent_of("dueling")
    other = TrainResult(**(vars(agent) | {"config": CONFIGS["plain"]}))  # a plain head of five values for four actions
    with pytest.raises(ValueError, match="agent does not take an observation of 7 entries"):
        export_onnx(other, Still(), tmp_path / "a.onnx")

    class Doubled(TrainResult):
        def values(self, observation):
            return 2 * super().values(observation)

    with pytest.raises(ValueError, match=r"is not the agent: 0 of 256 actions differ, values by .*; nothing written"):
        export_onnx(Doubled(**vars(agent)), Still(), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_exported_function_agrees(agent, observations, tmp_path):
    export_policy(agent, Still(), tmp_path / "agent.tempo")
    policy = load_policy(tmp_path / "agent.tempo")
    found = policy(observations)
    actions, values = decided(agent, observations)
    sure = clear(np.asarray(found["values"])) if isinstance(agent.config, DQNConfig) else np.ones(len(actions), bool)
    assert np.mean(found["action"] == actions) > 0.999 and np.array_equal(found["action"][sure], actions[sure])
    assert np.max(np.abs(found["values"] - values)) < 1e-6 * np.abs(values).max()  # compiled for any batch
    assert policy(observations[:3])["values"].shape == (3, ACTIONS)  # any number at once
    assert policy.about["algorithm"] == agent.config.algorithm and policy.about["observation"] == list("abcdefg")
    used = len(jax.tree.leaves(agent.params)) + 2 * (agent.statistics is not None)
    assert len(policy.parameters) <= used + 1  # a count of observations is there, no metrics, no target network


def test_a_plain_function_is_exported(observations, tmp_path):
    export_policy(lambda observation: observation[:ACTIONS] ** 2, Still(), tmp_path / "f.tempo")
    policy = load_policy(tmp_path / "f.tempo")
    assert policy.parameters == [] and policy.about["algorithm"] == "function"
    assert np.array_equal(policy(observations)["action"], np.argmax(observations[:, :ACTIONS] ** 2, axis=1))


READER = """
import io, json, sys, zipfile
import numpy as np
from jax import export
archive = zipfile.ZipFile(sys.argv[1])
read = lambda name: np.load(io.BytesIO(archive.read(name)), allow_pickle=False)
names = list(json.loads(bytes(read("header.npy")))["leaves"])
leaves = {name: read(f"{number}.npy") for number, name in enumerate(names)}
function = export.deserialize(bytearray(leaves.pop("function").tobytes()))
parameters = [leaves[f"parameter {number}"] for number in range(len(leaves))]
observations = np.load(sys.argv[2])
print(function.call(parameters, observations)["action"].tolist())
assert not {"rl", "costmodel", "physics", "flax", "equinox"} & set(sys.modules)
"""


def test_jax_alone_can_read_it(observations, tmp_path):
    """Another process without this project: a zip of arrays without pickles, and `jax.export`."""
    agent = agent_of("normalized")
    export_policy(agent, Still(), tmp_path / "agent.tempo")
    np.save(tmp_path / "observations.npy", observations[:200])
    command = [sys.executable, "-c", READER, str(tmp_path / "agent.tempo"), str(tmp_path / "observations.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout) == decided(agent, observations[:200])[0].tolist()


def rewritten(path: Path, member: str, content: bytes) -> Path:
    """The same archive with one member replaced."""
    other = path.with_name("other.tempo")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            target.writestr(name, content if name == member else source.read(name))
    return other


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "agent.tempo"
    export_policy(lambda observation: observation[:ACTIONS], Still(), path)
    text = tmp_path / "text.tempo"
    text.write_text("no archive")
    with zipfile.ZipFile(path) as archive:
        function = archive.read("0.npy")
    damaged = function[:256] + bytes(len(function) - 256)
    checkpoints.save(tmp_path / "other.npz", {"a": np.zeros(3)}, {"algorithm": "dqn"})
    cases = {
        text: "damaged, or not a checkpoint",
        tmp_path / "absent.tempo": "cannot be read",
        tmp_path / "other.npz": "does not fit: kind is absent",
        rewritten(path, "0.npy", damaged): "damaged",
    }
    for file, words in cases.items():
        with pytest.raises(CheckpointError, match=words) as caught:
            load_policy(file)
        assert "\n" not in str(caught.value) and file.name in str(caught.value)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_policy(path)


def test_an_exported_controller_decides_alike(tmp_path):
    env = rl.SchedulingEnv(costmodel.load_platform("edge"))
    full = jnp.full(len(env.observation_names), 100.0)
    weights = jax.random.normal(jax.random.key(5), (3, len(env.observation_names)))
    controller = Controller(env, lambda o: weights @ o, trained=ObservationRange(-full, full, full))
    export_controller(controller, tmp_path / "controller.tempo")
    exported = load_policy(tmp_path / "controller.tempo")
    assert exported.about["targets"] == ["cpu", "gpu", "pim"]
    memory = no_memory(env)
    for number in range(10):
        plant = env.platform.initial_state(ambient=300.0 + 7 * number, workloads=4)
        request = controller.request(number % 4, deadline=0.02 * 1.5**number, mean_gap=0.1)
        arrays = platform_arrays(plant, request)
        assert list(arrays) == exported.about["inputs"]
        found, decision = exported(memory, arrays), controller.decide(plant, request)
        memory = found["memory"]
        assert int(found["target"]) == decision.index and bool(found["fallback"]) == decision.fallback
        assert np.allclose(found["latency"], [row.latency for row in decision.alternatives], rtol=1e-5)
        assert np.allclose(found["rewards"], [row.reward for row in decision.alternatives], rtol=1e-5, atol=1e-6)
    assert np.array_equal(memory, controller.memory)
    meta = checkpoints.load_meta(tmp_path / "controller.tempo")
    other = "float64" if meta["default_float"] == "float32" else "float32"
    checkpoints.save(tmp_path / "precise.tempo", {}, meta | {"default_float": other})
    with pytest.raises(CheckpointError, match=f"does not fit: default_float is {other}, here it is"):
        load_policy(tmp_path / "precise.tempo")
