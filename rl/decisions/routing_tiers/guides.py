"""What the second tier needs: a tree, the range of states it was trained on, and the processors it was trained for.

The guide of the "edge" platform ships with the package (`edge.npz`, made by `python -m rl.decisions.routing_tiers.training`).
A guide fits a platform whose rates are those it was trained with, to a part in a thousand: where a preset has changed, or on
another platform, the third tier answers everything until a guide is trained for it.
"""

import os
import zipfile
import zlib
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rl.decisions.routing_tiers.features import Rates
from rl.decisions.routing_tiers.trees import Tree, tree_arrays, tree_from_arrays

SHIPPED = Path(__file__).with_name("edge.npz")
THRESHOLD = 0.9  # confidence from which a tree answers
ALIKE = 1e-3  # relative difference of rates


class Guide(eqx.Module):
    """A trained tree with the range of its training states and the rates of the processors it knows."""

    tree: Tree
    lo: Float[Array, " features"]
    hi: Float[Array, " features"]
    rates: Rates
    features: tuple[str, ...] = eqx.field(static=True)

    def fits(self, rates: Rates, features: tuple[str, ...]) -> bool:
        """Whether processors with these `rates` are the ones the tree was trained for."""
        if features != self.features:
            return False
        pairs = zip(self.rates, rates, strict=True)
        return all(np.allclose(a, b, rtol=ALIKE, atol=ALIKE * float(np.max(np.abs(a)))) for a, b in pairs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one .npz file."""
        rates = {f"rate_{name}": np.asarray(rate, np.float32) for name, rate in zip(Rates._fields, self.rates, strict=True)}
        bounds = {"lo": np.asarray(self.lo), "hi": np.asarray(self.hi), "features": np.asarray(self.features)}
        np.savez_compressed(path, **tree_arrays(self.tree), **bounds, **rates, allow_pickle=False)


def load_guide(path: str | os.PathLike[str] = SHIPPED) -> Guide:
    """The guide in a file that `Guide.save` wrote; ValueError, one line, if it is none."""
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            rates = Rates(*(jnp.asarray(file[f"rate_{name}"]) for name in Rates._fields))
            names = tuple(str(name) for name in file["features"])
            return Guide(tree_from_arrays(file), jnp.asarray(file["lo"]), jnp.asarray(file["hi"]), rates, names)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as problem:
        raise ValueError(f"{os.fspath(path)}: no guide of a router ({problem})") from None
