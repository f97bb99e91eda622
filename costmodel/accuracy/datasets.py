"""Real images for accuracy studies, without a download.

    digits           8 x 8 handwritten digits, 1347 to train and 450 to test; comes with scikit-learn (UCI optical digits)
    fashion-mnist    28 x 28 garments, 60 000 and 10 000; where the Debian package `dataset-fashion-mnist` is installed

Images are (height, width, 1), values in [0, 1]; ten classes each. Every dataset says what it is in `source`.
"""

import functools
import gzip
import struct
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from physics import unknown_name

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where the Debian package puts it
SPLIT_SEED = 0  # of the digits; they come in one piece
TEST_DIGITS = 450
IDX_BYTES = 0x08  # the only element type of these files
LARGEST_FILE = 1 << 26  # bytes, unpacked; the largest of these files has 47 million


class Dataset(NamedTuple):
    """Images (n, height, width, channels) in [0, 1] and their classes (n,), to train with and to test with."""

    name: str
    source: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    n_classes: int = 10

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.train_images.shape[1:]

    def first(self, train: int, test: int) -> "Dataset":
        """The same data with at most so many training and test images; `source` says so."""
        used = f"{self.source}; first {min(train, len(self.train_labels))} and {min(test, len(self.test_labels))} images"
        return self._replace(
            source=used,
            train_images=self.train_images[:train],
            train_labels=self.train_labels[:train],
            test_images=self.test_images[:test],
            test_labels=self.test_labels[:test],
        )

    def resized(self, height: int, width: int, channels: int = 1) -> "Dataset":
        """The same images, linearly interpolated (antialiased) to another size and repeated over `channels`; `source` says so."""
        old, new = self.image_shape, (height, width, channels)
        return self._replace(
            source=f"{self.source}; resized {'x'.join(map(str, old))} to {'x'.join(map(str, new))}",
            train_images=_resized(self.train_images, new),
            test_images=_resized(self.test_images, new),
        )


def list_datasets() -> tuple[str, ...]:
    """Names of the datasets that are there."""
    return ("digits", "fashion-mnist") if _fashion_files_exist() else ("digits",)


def load_dataset(name: str) -> Dataset:
    """The named dataset; ValueError if there is none of that name, if it is not installed or if its files are damaged."""
    if name not in LOADERS:
        raise ValueError(unknown_name("dataset", name, LOADERS))
    return LOADERS[name]()


@functools.cache
def _digits() -> Dataset:
    from sklearn.datasets import load_digits  # here, so that `import costmodel` does not import scikit-learn

    digits: Any = load_digits()
    pixels, labels = digits["data"], digits["target"]
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    images = (pixels.reshape(-1, 8, 8, 1) / 16).astype(np.float32)[order]
    labels = labels.astype(np.int32)[order]
    split = len(labels) - TEST_DIGITS
    source = f"scikit-learn digits (UCI optical digits), {split} to train, {TEST_DIGITS} to test"
    return Dataset("digits", source, images[:split], labels[:split], images[split:], labels[split:])


@functools.cache
def _fashion_mnist() -> Dataset:
    if not _fashion_files_exist():
        raise ValueError(f"fashion-mnist is not in {FASHION_MNIST}; install the Debian package dataset-fashion-mnist")
    parts = [read_idx(FASHION_MNIST / f"{part}-{kind}-ubyte.gz") for part in ("train", "t10k") for kind in KINDS]
    images, labels = parts[0::2], parts[1::2]
    train, test = ((x[..., None] / np.float32(255)).astype(np.float32) for x in images)
    source = "Fashion-MNIST (Debian dataset-fashion-mnist), 60000 to train, 10000 to test"
    return Dataset("fashion-mnist", source, train, labels[0].astype(np.int32), test, labels[1].astype(np.int32))


KINDS = ("images-idx3", "labels-idx1")
LOADERS = {"digits": _digits, "fashion-mnist": _fashion_mnist}


def _fashion_files_exist() -> bool:
    return all((FASHION_MNIST / f"{part}-{kind}-ubyte.gz").is_file() for part in ("train", "t10k") for kind in KINDS)


def read_idx(path: Path) -> np.ndarray:
    """The unsigned bytes of a gzipped IDX file, in the shape that its header gives.

    ValueError unless the file is one, its length is exactly what its header says, and at most 64 MiB.
    """
    try:
        with gzip.open(path) as file:
            data = file.read(LARGEST_FILE + 1)
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: not a readable gzip file ({error})") from None
    if len(data) > LARGEST_FILE:
        raise ValueError(f"{path}: more than {LARGEST_FILE} bytes unpacked")
    zeros, kind, ndim = struct.unpack(">HBB", data[:4]) if len(data) >= 4 else (1, 0, 0)
    header = 4 + 4 * ndim
    if zeros != 0 or kind != IDX_BYTES or not 1 <= ndim <= 3 or len(data) < header:
        raise ValueError(f"{path}: not an IDX file of unsigned bytes with one to three dimensions")
    shape = struct.unpack(f">{ndim}I", data[4:header])
    if len(data) - header != int(np.prod(shape, dtype=object)):
        raise ValueError(f"{path}: {len(data) - header} bytes of data, but its header says {shape}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _resized(images: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    resize = jax.jit(lambda x: jax.image.resize(x, (len(x), *shape[:2], x.shape[-1]), "linear"))
    resized = np.asarray(resize(jnp.asarray(images, jnp.float32)))
    return np.repeat(resized, shape[2] // resized.shape[-1], axis=-1)
