"""Files are written aside and renamed: what was there stays intact whatever happens."""

import errno
import json
import os
import subprocess
import sys

import pytest

from rl.files import WriteError, read_json, write_json, write_text, write_with

pytestmark = pytest.mark.single  # files: the same in either precision


def test_replaces_whole_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "folder" / "value.json"
    write_json(path, {"b": 1, "a": [1.5, None]})
    write_json(path, {"b": 2})
    assert read_json(path) == {"b": 2}
    assert os.listdir(path.parent) == ["value.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "value.txt"
    write_text(path, "old")

    def half(temporary):
        temporary.write_text("ne")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(WriteError, match=r"cannot write .*value\.txt: No space left on device"):
        write_with(path, half)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["value.txt"]


def test_an_interrupted_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "value.txt"
    write_text(path, "old")

    def interrupted(temporary):
        temporary.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_with(path, interrupted)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["value.txt"]


def test_a_full_disk_is_one_line(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")

    def full(temporary):
        with open("/dev/full", "w") as disk:
            disk.write("x" * 10_000)

    with pytest.raises(WriteError) as caught:
        write_with(tmp_path / "value.txt", full)
    assert "No space left on device" in str(caught.value) and "\n" not in str(caught.value)


def test_netcdf_survives_a_limit_on_file_sizes(tmp_path):
    """What a full disk does to HDF5 must not reach the process: one line, the old file intact."""
    code = """
import resource, signal, sys, xarray, numpy as np
from rl.files import WriteError, write_netcdf
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_netcdf(sys.argv[1], xarray.Dataset({"a": ("x", np.random.rand(50_000))}))
except WriteError as error:
    sys.exit(str(error))
"""
    path = tmp_path / "data.nc"
    path.write_text("old")
    result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and "File too large" in result.stderr
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["data.nc"]


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "occupied").write_text("a file")
    with pytest.raises(WriteError, match="cannot write"):
        write_text(tmp_path / "occupied" / "value.txt", "x")


def test_nan_never_reaches_a_file(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "value.json", {"a": float("nan")})
    assert os.listdir(tmp_path) == []


def test_read_json_says_which_file(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json is not a JSON file"):
        read_json(tmp_path / "broken.json")
    (tmp_path / "good.json").write_text(json.dumps([1]))
    assert read_json(tmp_path / "good.json") == [1]
