"""What every test shares: shapes and types of the four packages checked at run time, fresh keys, no display.

Annotations of the packages are enforced by jaxtyping and beartype in tests only; TEMPO_SHAPE_CHECKS=0 switches that off.
Dtype promotion stays standard because optax adds differently typed numbers inside its optimizers.
"""

import itertools
import os
from collections.abc import Callable

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several test processes share one GPU

import beartype
import hypothesis
import jax
import jaxtyping
import pytest

checked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))  # an int is a float, as type checkers see it

if os.environ.get("TEMPO_SHAPE_CHECKS", "1") != "0":
    jaxtyping.install_import_hook(["physics", "workloads", "costmodel", "rl"], "conftest.checked")

hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("reproducible", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("reproducible" if os.environ.get("CI") else "local")


@pytest.fixture
def getkey() -> Callable[[], jax.Array]:
    """A function that gives a fresh random key at each call; the same sequence in every test."""
    count = itertools.count()
    return lambda: jax.random.fold_in(jax.random.key(0), next(count))
