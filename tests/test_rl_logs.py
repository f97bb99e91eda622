"""Logs of training: CSV and TensorBoard event files that survive kills and resumes without a repeated step."""

import csv
import errno
import struct

import jax.numpy as jnp
import numpy as np
import pytest

import rl
from rl.agents.records import Metrics
from rl.files import WriteError, append_bytes
from rl.study import event_files, progress
from rl.study.event_files import EventFile, crc32c, framed

pytestmark = pytest.mark.single  # computes in float32 whatever the default


def row(step, episodes=3, value=-1.5):
    """A row of metrics as numbers, with the means that belong to its counts; fields that others add are 0."""
    known = {"env_steps": step, "episodes": episodes, "episode_return": value, "episode_length": 256.0, "updates": 10}
    known |= {"loss": float(np.float32(0.1)), "mean_q": -0.25, "epsilon": 0.05}
    return Metrics(**{name: known.get(name, 0.0) for name in Metrics._fields})


def lines(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


class Walk:
    """Five steps to the end; reward 1 for action 1. The protocol of gymnax 1.0."""

    num_actions = 2
    default_params = None

    def reset(self, key, params=None):
        return jnp.zeros(1), jnp.zeros((), jnp.int32)

    def step(self, key, state, action, params=None):
        time = state + 1
        done, final = time >= 5, jnp.asarray(time, float)[None]
        observation, after = jnp.where(done, 0.0, final), jnp.where(done, 0, time)
        return observation, after, jnp.asarray(action, float), done, jnp.zeros((), bool), {"final_observation": final}


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def fields(message):
    """A protocol-buffer message as {field: [values]}, read by the rules of the wire format."""
    found, at = {}, 0
    while at < len(message):
        tag, at = varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = varint(message, at)
        else:
            size, at = varint(message, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            value, at = message[at : at + size], at + size
        found.setdefault(tag >> 3, []).append(value)
    return found


def scalars(folder):
    """{tag: [(step, value)]} of the event file, every record's length as it says."""
    content, at, found = (folder / "events.out.tfevents").read_bytes(), 0, {}
    while at < len(content):
        (size,) = struct.unpack_from("<Q", content, at)
        event = fields(content[at + 12 : at + 12 + size])
        for summary in event.get(5, []):
            for value in fields(summary)[1]:
                tag, number = fields(value)[1][0].decode(), struct.unpack("<f", fields(value)[2][0])[0]
                found.setdefault(tag, []).append((event[2][0], number))
        at += 16 + size
    assert at == len(content)
    return found


def test_checksum_by_the_standard():
    """RFC 3720, appendix B.4: 32 bytes of zeros, of ones, and rising."""
    assert crc32c(bytes(32)) == 0x8A9136AA and crc32c(b"\xff" * 32) == 0x62A8AB43 and crc32c(bytes(range(32))) == 0x46DD794E


def test_a_record_is_tensorboards():
    """The bytes that tensorboard 2.21.0's RecordWriter makes of Event(wall_time=1234.5, step=300, "train/loss" = 0.25)."""
    event = event_files._double(1, 1234.5) + event_files._integer(2, 300)
    event += event_files._bytes(5, event_files._value("train/loss", 0.25))
    expected = "2100000000000000017becf60900000000004a934010ac022a130a110a0a747261696e2f6c6f7373150000803ef9b422eb"
    assert framed(event).hex() == expected


def test_rows_in_both_files(tmp_path):
    log = rl.TrainingLog(tmp_path / "run")
    log(2000, 6000, row(2000, episodes=0, value=0.0))
    log(4000, 6000, row(4000, value=-2.5))
    first, second = lines(tmp_path / "run")
    assert list(first) == list(Metrics._fields)
    assert first["episode_return"] == "" and first["episode_length"] == "" and first["loss"] == "0.100000001"
    assert second["env_steps"] == "4000" and second["episode_return"] == "-2.5" and second["episodes"] == "3"
    found = scalars(tmp_path / "run")
    assert found["train/episode_return"] == [(4000, -2.5)]  # no placeholder for a mean over no episode
    assert [step for step, _ in found["train/loss"]] == [2000, 4000] and found["train/loss"][0][1] == np.float32(0.1)
    assert set(found) == {f"train/{name}" for name in Metrics._fields if name != "env_steps"}


@pytest.mark.parametrize("torn", [1, 7, 20])
def test_a_killed_log_goes_on_without_repeats(tmp_path, torn):
    """The last bytes are missing and training resumes two rows earlier: both files end as if nothing had happened."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        log = rl.TrainingLog(folder)
        for step in range(1, 4):
            log(step, 6, row(step, value=-float(step)))
    for name in ("metrics.csv", "events.out.tfevents"):
        content = (killed / name).read_bytes()
        (killed / name).write_bytes(content[:-torn])
    for folder in (whole, killed):
        log = rl.TrainingLog(folder)
        for step in range(2, 7):
            log(step, 6, row(step, value=-float(step)))
    assert (whole / "metrics.csv").read_bytes() == (killed / "metrics.csv").read_bytes()
    assert [line["env_steps"] for line in lines(killed)] == ["1", "2", "3", "4", "5", "6"]
    assert scalars(whole) == scalars(killed)
    assert scalars(killed)["train/episode_return"] == [(step, -float(step)) for step in range(1, 7)]


@pytest.mark.parametrize("size", [0, 3, 12, 25])
def test_a_file_torn_in_its_first_record_begins_anew(tmp_path, size):
    rl.TrainingLog(tmp_path)(1, 2, row(1))
    path = tmp_path / "events.out.tfevents"
    path.write_bytes(path.read_bytes()[:size])
    EventFile(path).append(5, {"a": 1.0})
    assert scalars(tmp_path) == {"a": [(5, 1.0)]}


def test_the_log_of_another_run_is_refused(tmp_path):
    log = rl.TrainingLog(tmp_path)
    log(1, 2, row(1, value=-1.0))
    with pytest.raises(ValueError, match=r"metrics\.csv holds another run, with episode_return = -1 at step 1, not -2: choose"):
        rl.TrainingLog(tmp_path)(1, 2, row(1, value=-2.0))
    with pytest.raises(ValueError, match="updates = 10 at step 1, not 0"):
        rl.TrainingLog(tmp_path)(1, 2, row(1, value=-1.0)._replace(updates=0))
    (tmp_path / "metrics.csv").write_text("a,b\nx,1\n")
    with pytest.raises(ValueError, match="is not the log of a training run"):
        rl.TrainingLog(tmp_path)
    (tmp_path / "metrics.csv").write_text("env_steps,b\n1,1\n")
    with pytest.raises(ValueError, match="holds another kind of run, with columns env_steps, b"):
        rl.TrainingLog(tmp_path)(2, 2, row(2))
    (tmp_path / "events.out.tfevents").write_bytes(b"something else altogether")
    with pytest.raises(ValueError, match="is not an event file"):
        rl.TrainingLog(tmp_path)


def test_a_full_disk_is_one_line_and_leaves_whole_records(tmp_path, monkeypatch):
    path = tmp_path / "grows"
    append_bytes(path, b"abc")

    class Full:
        """A file that takes two bytes and then has no room."""

        def __init__(self, file):
            self.file, self.taken = file, 0

        def write(self, content):
            if self.taken:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.taken = self.file.write(content[:2])
            return self.taken

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *reason):
            self.file.close()

    monkeypatch.setattr("rl.files.open", lambda *args, **options: Full(open(*args, **options)), raising=False)
    with pytest.raises(WriteError, match=r"cannot write .*grows: No space left on device"):
        append_bytes(path, b"defg")
    assert path.read_bytes() == b"abc"
    with pytest.raises(WriteError, match="cannot write"):
        append_bytes(tmp_path / "grows" / "inside", b"x")


def test_training_resumed_from_a_checkpoint_logs_every_row_once(tmp_path):
    """Interrupted after its third row of five and resumed from an earlier checkpoint: the log of an undisturbed run."""
    env = Walk()
    config = rl.DQNConfig(
        total_steps=500, num_envs=2, train_every=10, batch_size=8, buffer_size=100, learning_starts=50, hidden=(4,), log_every=100
    )
    rl.train(env, config, progress=rl.TrainingLog(tmp_path / "whole"), chunk_steps=100)
    killed = rl.TrainingLog(tmp_path / "killed")

    def until_the_third(done, total, row):
        killed(done, total, row)
        if done == 300:
            raise KeyboardInterrupt

    options = {"chunk_steps": 100, "checkpoint": tmp_path / "agent.npz"}
    with pytest.raises(KeyboardInterrupt):
        rl.train(env, config, progress=until_the_third, checkpoint_seconds=1e9, **options)
    rl.train(env, config, progress=rl.TrainingLog(tmp_path / "killed"), **options)
    assert (tmp_path / "killed" / "metrics.csv").read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()
    assert scalars(tmp_path / "killed") == scalars(tmp_path / "whole")
    assert [line["env_steps"] for line in lines(tmp_path / "killed")] == ["100", "200", "300", "400", "500"]


def test_progress_shows_rate_return_and_remaining_time():
    """10,000 steps at 0 s, 20,000 at 2 s (too soon to speak), 60,000 at 10 s, the end at 18 s without a new return."""
    written, times = [], iter([0.0, 2.0, 10.0, 18.0])
    report = progress.lines(written.append, lambda: next(times))
    for done, note in ((10_000, ""), (20_000, "return -30"), (60_000, "return -22.5"), (100_000, "")):
        report("training", done, 100_000, note)
    assert written == [
        "tempo: training 10,000/100,000",
        "tempo: training 60,000/100,000, 5,000 steps/s, return -22.5, 8 s left",
        "tempo: training 100,000/100,000, 5,000 steps/s, return -22.5",
    ]
