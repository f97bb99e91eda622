"""`tempo cost --tiling`: the table, the picture, --json, and one line for bad input."""

import json
import sys

import pytest

import rl.cli

pytestmark = pytest.mark.single  # computes in float32 whatever the default


@pytest.fixture
def tempo(monkeypatch, capsys):
    """The command in this process: exit status, what it printed, and what it complained about."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tempo", "cost", *arguments, "--tiling"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            rl.cli.main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return run


@pytest.mark.slow
def test_table_timeline_and_json(tempo, tmp_path):
    """Dense layers of 64 KiB in 32 KiB of L1: they are cut, and parts add up to the whole."""
    picture = tmp_path / "timeline.png"
    options = ["ad", "--l1", "32768", "--tile-rule", "largest"]
    status, text, _ = tempo(*options, "--timeline", str(picture))
    assert status == 0 and picture.stat().st_size > 1000
    for word in ("prologue", "overlap", "epilogue", "waits", "single buffered", "double buffered", f"timeline: {picture}"):
        assert word in text
    found = json.loads(tempo(*options, "--json")[1])["ad"]
    assert found["l1_bytes"] == 32768 and found["home"] == "L2" and 0 < found["gain"] < 0.5
    assert sum(o["cycles"] for o in found["operations"]) == pytest.approx(found["double_cycles"])
    for o in found["operations"]:
        assert o["prologue"] + o["overlap"] + o["epilogue"] == pytest.approx(o["cycles"], rel=1e-4) and o["bytes"] <= 32768
        assert o["kernel"] + o["wait_load"] + o["wait_store"] == pytest.approx(o["overlap"], rel=1e-4)
    assert {o["waits"] for o in found["operations"]} == {"nothing overlaps", "DMA waits for core"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ad", "--memory", "gap7"], "unknown memory hierarchy 'gap7'; close: gap"),
        (["ad", "--l1", "0"], "Level.size = 0 B is outside its range"),
        (["ad", "--l1", "512"], "; L1 has 512 B"),
        (["ad", "--home", "l4"], "unknown home 'L4'; close: L3"),
        (["ad", "--tile-rule", "smallest"], "unknown tile rule 'smallest'; close: largest"),
        (["lenet"], "unknown network 'lenet'"),
        (["ad", "--timeline", "/proc/nope.png"], "/proc/nope.png"),
        (["ad", "--timeline", "a.png", "--tile-rule", "all"], "--timeline shows the tiles of one rule"),
    ],
    ids=range(8),
)
def test_bad_input_is_one_line(tempo, arguments, expected):
    status, out, error = tempo(*arguments)
    assert status == 2 and out == "" and len(error.strip().splitlines()) == 1 and expected in error
