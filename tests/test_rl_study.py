"""The study: complete, readable offline, resumable after kill -9 to bit-identical results."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray

from rl.study.progress import live_progress
from rl.study.report import render_report

pytestmark = pytest.mark.single  # computes in float32 whatever the default

ARGUMENTS = ["study", "--steps", "6000", "--seeds", "2", "--episodes", "8", "--networks", "resnet8,fc-autoencoder"]
ARGUMENTS += ["--algorithms", "dqn,edge-sched-dqn"]
COMMAND = [sys.executable, "-c", "from rl.cli import main; main()", *ARGUMENTS, "--out"]


def run(out, **options):
    """The study, to the end."""
    return subprocess.run([*COMMAND, str(out)], capture_output=True, text=True, timeout=900, **options)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    result = run(out)
    assert result.returncode == 0, result.stderr
    return out


@pytest.mark.slow
def test_everything_is_there(study):
    assert {p.name for p in (study / "plots").iterdir()} == {
        f"{n}.png" for n in ("costs", "policies", "decisions", "learning", "sensitivity", "heat")
    }
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in (study / "plots").iterdir())
    results = json.loads((study / "results.json").read_text())
    assert results["profile"]["resnet8"]["macs_padded"] == 12_501_632
    assert set(results["evaluation"]) == {
        "random",
        "always-cpu",
        "always-gpu",
        "always-pim",
        "threshold",
        "slack-greedy",
        "cost-greedy",
        "dqn",
        "edge-sched-dqn",
        "optimal",
    }
    agent, optimum = results["evaluation"]["dqn"], results["evaluation"]["optimal"]
    assert agent["runs"] == 2 and np.shape(agent["scores"]) == (2, 8) and np.shape(optimum["scores"]) == (1, 8)
    missing = np.mean(optimum["scores"]) - np.mean(agent["scores"])
    assert agent["gap"] == pytest.approx(100 * missing / abs(np.mean(optimum["scores"])))
    assert results["best_rule"] in results["evaluation"] and results["decisions"]["agent"].rpartition("-")[2] in "01"
    assert set(results["efficiency"]) == set(results["training"]) == {"dqn", "edge-sched-dqn"}
    assert np.shape(results["training"]["dqn"]["returns"]) == (2, len(results["training"]["dqn"]["steps"]))
    assert not any("seconds" in key or "time" in key for key in results)  # wall times live in timings.json
    assert json.loads((study / "timings.json").read_text())["training-dqn-0"] > 0
    with xarray.open_dataset(study / "sweep.nc", engine="h5netcdf") as data:
        assert data.temperature.attrs["units"] == "K" and bool(np.isfinite(data.temperature).all())
        assert set(data.dims) == set(results["sweep"]["labels"])


@pytest.mark.slow
def test_report_is_one_offline_file_with_the_facts(study):
    page = (study / "report.html").read_text()
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page) and "<script" not in page
    assert page.count("data:image/png;base64,") == 6
    for word in (
        "temperature",
        "deadline",
        "load",
        "residency",
        "cost-greedy",
        "12,501,632",
        "DQN",
        "EdgeSched-DQN",
        "READYS baseline",
    ):
        assert word in page
    results = json.loads((study / "results.json").read_text())
    plots = {p.stem: p for p in (study / "plots").iterdir()}
    assert render_report(results, plots) == page  # nothing in it comes from elsewhere


def kill_when(out, appears):
    """Start the study and kill -9 it as soon as a file appears."""
    process = subprocess.Popen([*COMMAND, str(out)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (out / appears).exists():
        assert time.monotonic() < deadline and process.poll() is None, f"{appears} never appeared"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_killed_studies_resume_to_the_same_bits(study, tmp_path):
    """kill -9 in the middle of several stages, then the same command: the same results and the same data."""
    out = tmp_path / "out"
    for appears in ("stages/cost.json", "sweep.nc", "checkpoints/dqn-0.npz", "stages/evaluation.json"):
        kill_when(out, appears)
        assert not (out / "results.json").exists()
    (out / ".sweep.nc.left.nc").write_text("what a killed write leaves")
    result = run(out)
    assert result.returncode == 0, result.stderr
    for name in ("results.json", "sweep.nc"):
        assert (out / name).read_bytes() == (study / name).read_bytes(), name
    assert not list(out.rglob(".*.*"))


@pytest.mark.slow
def test_a_finished_study_is_only_read_again(study):
    before = {p: p.stat().st_mtime_ns for p in (study / "stages").iterdir()}
    results, timings = (study / "results.json").read_bytes(), json.loads((study / "timings.json").read_text())
    assert run(study).returncode == 0
    assert {p: p.stat().st_mtime_ns for p in (study / "stages").iterdir()} == before
    assert (study / "results.json").read_bytes() == results
    assert json.loads((study / "timings.json").read_text())["evaluation"] == timings["evaluation"]


@pytest.mark.slow
def test_damaged_stages_are_made_anew(study):
    """A truncated stage, one that is something else, and a lost data file: recomputed, to the same results."""
    results = (study / "results.json").read_bytes()
    (study / "stages" / "cost.json").write_text('{"settings": ')
    (study / "stages" / "profile.json").write_text('{"settings": {}, "value": {}}')
    (study / "timings.json").write_text("[]")
    (study / "sweep.nc").unlink()
    assert run(study).returncode == 0
    assert (study / "results.json").read_bytes() == results and (study / "sweep.nc").exists()


@pytest.mark.slow
def test_another_study_in_the_same_folder_is_refused(study):
    other = subprocess.run(
        [*COMMAND, str(study), "--steps", "8000"], capture_output=True, text=True, timeout=300, env={**os.environ}
    )
    assert other.returncode == 2 and "holds a study with steps = 6000, not 8000" in other.stderr
    assert len(other.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_an_interrupt_is_quiet(tmp_path):
    process = subprocess.Popen([*COMMAND, str(tmp_path / "out")], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    time.sleep(8)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in errors and "goes on where it was" in errors


def test_an_interrupt_dropped_in_a_finalizer_is_raised_by_the_next_report(capfd):
    class Interrupting:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    with live_progress() as report:
        Interrupting()
        with pytest.raises(KeyboardInterrupt):
            report("train", 1, 2)
    assert capfd.readouterr().err == ""


def test_an_interrupt_that_became_another_error_is_an_interrupt():
    with pytest.raises(KeyboardInterrupt), live_progress():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise RuntimeError from error
