"""The four packages as a user gets them: installed together, typed, importable from anywhere, at pinned versions."""

import importlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import jupytext
import pytest

pytestmark = pytest.mark.single  # files: the same in either precision

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("physics", "workloads", "costmodel", "rl")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

SMOKE = """
import math, sys
import costmodel, physics, rl, workloads

for package in (costmodel, physics, rl, workloads):
    assert package.__file__.startswith(sys.prefix), package.__file__

cost = costmodel.estimate(costmodel.load_hardware("isaac"), workloads.load("resnet8"))
assert 0 < float(cost.latency) < math.inf, cost.latency
assert 0 < float(cost.energy) < math.inf, cost.energy
"""


def read_project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def normalize(name: str) -> str:
    """A distribution name as the package index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {normalize(name): version for name, version in (line.split("==") for line in lines)}


def run(*command: str | Path, cwd: Path) -> str:
    """Output of a command started in `cwd`, without this repository on its path; fails with what it wrote."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_packages_lie_under_one_root():
    """Other distributions ship packages called `rl` and `physics`; a mixture of them must fail here, loudly."""
    roots = {Path(str(importlib.import_module(package).__file__)).resolve().parent.parent for package in PACKAGES}
    assert roots == {ROOT}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_typed(package):
    assert (ROOT / package / "py.typed").is_file()


@pytest.mark.parametrize("package", PACKAGES)
def test_public_surface_is_declared_and_importable(package):
    module = importlib.import_module(package)
    assert module.__all__
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_name_is_hidden_by_a_module(package):
    """A name loads when it is first used; a module of the same name, once imported, would stand in its place."""
    modules = {path.stem for path in (ROOT / package).iterdir()}
    assert not modules & set(importlib.import_module(package).__all__)


def test_constraints_are_versions_only():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line)] == []
    assert len(read_pins()) == len(lines)


def test_constraints_cover_every_dependency():
    project = read_project()
    requirements = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {normalize(re.split(r"[^A-Za-z0-9._-]", requirement)[0]) for requirement in requirements}
    assert names - read_pins().keys() == set()


def test_tests_are_not_packages():
    """tests/physics/__init__.py would shadow the package `physics`."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_notebook_names_are_numbered():
    """A notebook called physics.py would shadow the package `physics`."""
    names = [path.name for path in (ROOT / "notebooks").iterdir() if path.suffix in {".py", ".ipynb"}]
    assert [name for name in names if not re.match(r"\d\d_", name)] == []


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_equals_its_script(notebook):
    """`make format` writes the notebook from the script."""
    pair = [jupytext.read(path).cells for path in (notebook, notebook.with_suffix(".py"))]
    in_notebook, in_script = ([(cell.cell_type, cell.source) for cell in cells] for cells in pair)
    assert in_notebook == in_script


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stripped(notebook):
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["source"] for cell in cells if cell["outputs"] or cell["execution_count"]] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the source distribution and not from the checkout."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.mark.slow
def test_wheel_holds_the_four_packages_and_nothing_else(wheel):
    files = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in files}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(files)
    sources = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert sources - set(files) == set()


@pytest.mark.slow
def test_wheel_works_outside_the_repository(wheel, tmp_path):
    """In a fresh environment that borrows the dependencies of this one: a plain path, so that its .pth files stay unread."""
    home = tmp_path / "env"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", wheel, cwd=tmp_path)

    run(python, "-c", SMOKE, cwd=tmp_path)
    assert "study" in run(home / "bin" / "tempo", "--help", cwd=tmp_path)
