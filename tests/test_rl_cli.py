"""The command line as a user meets it: output, --json, one-line errors with exit status 2."""

import json
import subprocess
import sys
from typing import NamedTuple

import pytest

import rl.cli

pytestmark = pytest.mark.single  # computes in float32 whatever the default

NETWORKS = ["--networks", "resnet8,fc-autoencoder"]
SMALL = ["--steps", "6000", "--seeds", "1", "--episodes", "4", *NETWORKS]
TINY = ["--set", "batch_size=16", "--set", "learning_starts=100", "--set", "hidden=(8,)", "--set", "buffer_size=1000"]


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def tempo(monkeypatch, capsys):
    """The command in this process: exit status and what it printed."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tempo", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            rl.cli.main()
        printed = capsys.readouterr()
        return Result(ended.value.code or 0, printed.out, printed.err)

    return run


def one_line(result):
    """The single line of a refused call."""
    assert result.returncode == 2, result
    assert result.stdout == "" and "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_as_a_program(tmp_path):
    """The same in a fresh interpreter, from another folder."""
    code = "from rl.cli import main; main()"
    refused = subprocess.run(
        [sys.executable, "-c", code, "profile", "resnet9"], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert "unknown workload 'resnet9'; close: resnet8" in one_line(refused)


def test_help_shows_an_example_for_every_command(tempo):
    overview = tempo("--help")
    assert overview.returncode == 0
    for command in ("profile", "cost", "sweep", "sensitivity", "train", "evaluate", "route", "study"):
        assert command in overview.stdout
        shown = tempo(command, "--help")
        assert shown.returncode == 0 and f"Example: tempo {command}" in shown.stdout and "--json" in shown.stdout


def test_profile(tempo, tmp_path):
    value = json.loads(tempo("profile", "resnet8", "--json").stdout)
    assert value["totals"]["macs_padded"] == 12_501_632 and value["totals"]["macs_valid"] == 11_574_592
    assert value["totals"]["parameters"] == 77_706 and value["totals"]["peak_live_elements"] == 49_152
    assert sum(row["macs"] for row in value["operations"]) == 12_501_632
    assert len(value["roofline"]["points"]) == 10 and value["roofline"]["hardware"] == "edge-gpu"
    picture = tmp_path / "roof.png"
    text = tempo("profile", "kws", "--on", "stm32l4r5", "--roofline", str(picture)).stdout
    assert picture.read_bytes().startswith(b"\x89PNG") and "ridge at 0.5 MAC/B" in text
    assert "2,656,768" in text and "2,562,432" in text and "22,604" in text and "16,000" in text


def test_cost_and_validation(tempo):
    value = json.loads(tempo("cost", "resnet8", "--on", "isaac", "--json").stdout)
    cost = value["resnet8"]["isaac"]
    assert cost["energy"] == pytest.approx(cost["dynamic_energy"] + cost["static_energy"] + cost["programming_energy"], rel=1e-5)
    assert cost["relaxation"] == "hard"
    hot = json.loads(tempo("cost", "resnet8", "--on", "edge-gpu", "--temperature", "95", "--json").stdout)
    cool = json.loads(tempo("cost", "resnet8", "--on", "edge-gpu", "--temperature", "25", "--json").stdout)
    assert hot["resnet8"]["edge-gpu"]["static_energy"] > 5 * cool["resnet8"]["edge-gpu"]["static_energy"]
    text = tempo("cost", "--validate").stdout
    assert "predicted" in text and "calibrated" in text and "mean error" in text


def test_sweep_and_sensitivity(tempo, tmp_path):
    out = tmp_path / "sweep.nc"
    value = json.loads(
        tempo(
            "sweep", "isaac", "resnet8", "--vary", "rows=32:512:5", "--vary", "bits_per_cell=1,2,4", "--out", str(out), "--json"
        ).stdout
    )
    assert value["points"] == 15 and out.exists()
    import xarray

    with xarray.open_dataset(out, engine="h5netcdf") as data:
        assert dict(data.sizes) == {"rows": 5, "bits_per_cell": 3} and data.latency.attrs["units"] == "s"
        assert float(data.latency.min()) == pytest.approx(value["figures"]["latency"]["smallest"])
    value = json.loads(tempo("sensitivity", "isaac", "resnet8", "--of", "latency", "--policy", "soft:8", "--json").stdout)
    assert value["relaxation"] == "soft(8)" and {row["label"] for row in value["rows"][:3]} >= {"cycle_time", "input_bits"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["profile", "resnet9"], "unknown workload 'resnet9'; close: resnet8"),
        (["profile", "resnet8", "--roofline", "r.xyz"], "--roofline = 'r.xyz' must end in .png"),
        (["cost", "resnet8", "--l1", "100"], "--l1 means nothing without --tiling"),
        (["cost", "resnet8", "--training"], "--training means nothing without --tiling"),
        (["cost", "resnet8", "--timeline", "a.png"], "--timeline means nothing without --tiling"),
        (["cost", "resnet8", "--tile-rule", "all"], "--tile-rule means nothing without --tiling"),
        (["cost", "resnet8", "--tiling", "--on", "isaac"], "--on means nothing with --tiling"),
        (["cost", "resnet8", "--tiling", "--temperature", "45"], "--temperature means nothing with --tiling"),
        (["route", "resnet8", "--networks", "nope"], "unknown network 'nope'"),
        (["cost", "resnet8", "--on", "isac"], "unknown hardware 'isac'; close: isaac"),
        (["cost", "resnet8", "--temperature", "2000"], "--temperature = 2000 C is outside its range [-73.15, 226.85] C"),
        (["sweep", "isaac", "resnet8", "--vary", "row=1,2"], "unknown parameter 'row'; close: rows"),
        (["sweep", "isaac", "resnet8", "--vary", "rows=1:2"], "is not label=start:stop:count"),
        (["schedule", "resnet8", "--extra-pes", "-1"], "--extra-pes = -1 crossbars is outside its range [0, 100000]"),
        (["schedule", "nosuch"], "unknown network 'nosuch'"),
        (["schedule", "resnet8", "--gantt", "chart.svg"], "--gantt = 'chart.svg' must end in .png"),
        (["sweep", "isaac", "resnet8", "--vary", "rows=-4,2"], "rows = -4 is outside its range [2, 8192]"),
        (["sweep", "isaac", "resnet8", "--vary", "rows=nan,2"], "rows = nan is outside its range [2, 8192]"),
        (["sensitivity", "isaac", "resnet8", "--of", "enery"], "unknown figure 'enery'; close: energy"),
        (["sensitivity", "isaac", "resnet8", "--policy", "soft:0"], "sharpness = 0 is outside its range [1, 1000]"),
        (["study", "--networks", "resnet8,lenet"], "unknown network 'lenet'"),
        (["study", "--steps", "10"], "steps = 10 is outside its range"),
        (["sweep", "isaac", "resnet8", "--vary", "rows=2:8192:100000000"], "count in [1, 1e7]"),
        (
            ["sweep", "isaac", "resnet8", "--vary", "rows=2:99:20000", "--vary", "cols=2:99:20000"],
            "the grid has 400,000,000 points",
        ),
        (["sweep", "isaac", "resnet8", "--vary", "rows=64", "--vary", "rows=32"], "--vary names 'rows' twice"),
        (["study", "--networks", ","], "--networks ',' names no network"),
        (["train", "--out", "/proc/nope.npz"], "cannot write /proc/nope.npz"),
        (["train", "--out", ""], "cannot write .: it is a folder"),
        (["study", "--steps", "many"], "Invalid value for '--steps'"),
        (["profile"], "Missing argument 'network'"),
        (["profile", "a.onnx", "--shape", "q"], "--shape 'q' is not NAME=1x3x224x224"),
        (["profile", "/nowhere/a.onnx"], "/nowhere/a.onnx: cannot be read: No such file"),
        (["profile", "resnet8", "--on", "isac"], "unknown hardware 'isac'; close: isaac"),
        (["profile", "resnet8", "--roofline", "/proc/r.png"], "cannot write /proc/r.png"),
        (["profil"], "No such command 'profil'"),
        (["evaluate", "--episodes", "0"], "episodes = 0 is outside its range"),
        (["evaluate", "--agents", ","], "--agents ',' names no checkpoint"),
        (["evaluate", "--agents", "a.npz,a.npz"], "a.npz is named twice"),
        (["train", "--algorithm", "ddqn"], "unknown algorithm 'ddqn'; close: dqn"),
        (["train", "--set", "batchsize=3"], "unknown setting 'batchsize'; close: batch_size"),
        (["train", "--set", "batch_size"], "--set 'batch_size' is not name=value"),
        (["train", "--set", "batch_size=0"], "batch_size = 0 must be an integer in"),
        (["train", "--set", "gamma=1", "--set", "gamma=0.9"], "--set names 'gamma' twice"),
        (["train", "--steps", "12345"], "total_steps = 12345 must be a multiple of"),
        (["study", "--algorithms", "dqn,ppo"], "unknown algorithm 'ppo'"),
        (["route", "resnet9"], "unknown workload 'resnet9'; close: resnet8"),
        (["route", "fft", "--agent", "/nowhere/a.npz"], "unknown network 'fft'"),
        (["route", "gemm 3x4"], "gemm takes one, or m x n x k"),
        (["route", "resnet8", "--temperature", "-300"], "--temperature = -300 C is outside its range [-73.15, 226.85] C"),
        (["route", "resnet8", "--deadline", "0"], "--deadline (s) = 0.0 must be a number in (0, 1e+06]"),
        (["route", "resnet8", "--load", "-1"], "--load (s) = -1.0 must be a number in [0, 1e+06]"),
        (["route", "resnet8", "--agent", "/nowhere/a.npz"], "/nowhere/a.npz"),
    ],
)
def test_bad_input_is_one_line(tempo, arguments, expected):
    assert expected in one_line(tempo(*arguments))


def test_unusable_files_are_one_line(tempo, tmp_path):
    (tmp_path / "a-file").write_text("x")
    assert "a-file is not a folder" in one_line(tempo("study", *SMALL, "--out", str(tmp_path / "a-file")))
    assert "cannot write" in one_line(tempo("study", *SMALL, "--out", "/proc/nowhere/study"))
    (tmp_path / "foreign.npz").write_bytes(b"PK\x03\x04 not a checkpoint")
    assert "foreign.npz" in one_line(tempo("evaluate", str(tmp_path / "foreign.npz"), "--episodes", "2"))
    assert "missing.npz" in one_line(tempo("evaluate", str(tmp_path / "missing.npz"), "--episodes", "2"))
    assert (tmp_path / "a-file").read_text() == "x"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Checkpoints of two seeds of a tiny DQN, and the log of the first."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patched:
        for seed in ("0", "1"):
            log = ["--log", str(folder / "log")] if seed == "0" else []
            arguments = ["train", "--steps", "6000", *TINY, *NETWORKS, *log, "--seed", seed, "--out", str(folder / f"{seed}.npz")]
            patched.setattr(sys, "argv", ["tempo", *arguments, "--json"])
            with pytest.raises(SystemExit) as ended:
                rl.cli.main()
            assert not ended.value.code
    return folder


def test_train_writes_a_checkpoint_and_a_log(trained):
    header, *rows = (trained / "log" / "metrics.csv").read_text().splitlines()
    assert header.startswith("env_steps,episodes,episode_return") and [row.split(",")[0] for row in rows] == [
        "2000",
        "4000",
        "6000",
    ]
    assert (trained / "log" / "events.out.tfevents").stat().st_size > 100


@pytest.mark.slow
def test_evaluate_compares_agents_rules_and_the_optimum(tempo, trained):
    """Two checkpoints of equal settings are two runs of one agent."""
    agents = f"{trained / '0.npz'},{trained / '1.npz'}"
    result = tempo("evaluate", "--agents", agents, "--episodes", "4", *NETWORKS, "--json")
    found = json.loads(result.stdout)
    assert found["dqn"]["runs"] == 2 and found["optimal"]["runs"] == 1 and "gap" not in found["optimal"]
    lo, hi = found["dqn"]["gap_interval"]
    assert lo <= found["dqn"]["gap"] <= hi and 0 <= found["dqn"]["improvement"] <= 1
    assert found["optimal"]["score_iqm"] == max(f["score_iqm"] for f in found.values())
    rules = {"random", "always-cpu", "always-gpu", "always-pim", "threshold", "slack-greedy", "cost-greedy"}
    assert set(found) == rules | {"dqn", "optimal"}


def test_evaluate_prints_a_table(tempo, trained):
    text = tempo("evaluate", str(trained / "0.npz"), "--no-optimum", "--episodes", "2", *NETWORKS).stdout
    assert "slack-greedy (READYS baseline)" in text and "DQN" in text and "beats best rule" in text and "optimal" not in text


def test_route_answers_kernels_by_the_router(tempo):
    value = json.loads(tempo("route", "fft n=2^20", "--deadline", "10", "--json").stdout)
    assert (value["target"], value["tier_used"]) == ("GPU", "TIER2_SKLEARN") and value["task"] == "fft n=1048576"
    text = tempo("route", "lu 600", "--temperature", "130").stdout
    assert "would get too hot" in text and "<- chosen" in text and "TIER1_FEASIBILITY" in text


def test_route_tells_target_reason_and_alternatives(tempo, trained):
    value = json.loads(tempo("route", "resnet8", "--temperature", "45", *NETWORKS, "--json").stdout)
    assert value["target"] == "pim" and [row["target"] for row in value["alternatives"]] == ["cpu", "gpu", "pim"]
    assert "pim has the best reward" in value["reason"] and value["agent"] is None
    rewards = {row["target"]: row["reward"] for row in value["alternatives"]}
    assert value["margin"] == pytest.approx(rewards["pim"] - max(rewards["cpu"], rewards["gpu"]), rel=1e-5)
    absent = json.loads(tempo("route", "resnet8", "--no-resident", *NETWORKS, "--json").stdout)
    assert absent["alternatives"][2]["latency"] > value["alternatives"][2]["latency"]
    text = tempo("route", "resnet8", "--agent", str(trained / "0.npz"), *NETWORKS).stdout
    assert "retention margin" in text and "<- " in text and f"agent {trained / '0.npz'}" in text
