"""Checkpoints: a true round trip, one clear line for everything that can be wrong, nothing lost when writing fails."""

import errno
import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rl.checkpoints as checkpoints
from rl.checkpoints import CheckpointError, load, load_meta, save

pytestmark = pytest.mark.single  # files: the same in either precision

META = {"seed": 3, "config": {"gamma": 0.99, "hidden": (120, 84), "soft": None}}


class Pair(NamedTuple):
    weights: Any
    key: Any


def make_tree(seed: int = 0) -> dict[str, Any]:
    """A tree with every kind of leaf: floats, integers, booleans, no elements, no axes, random keys."""
    key = jax.random.key(seed)
    return {
        "pair": Pair(jax.random.normal(key, (3, 4)), key),
        "keys": jax.random.split(jax.random.key(1, impl="rbg"), 2),
        "counts": [jnp.arange(5), jnp.zeros((), jnp.int32), jnp.zeros((0, 2)), jnp.array([True, False])],
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint of `make_tree()`."""
    path = tmp_path / "one.npz"
    save(path, make_tree(), META)
    return path


def raw(leaf: Any) -> np.ndarray:
    """The words of a leaf."""
    return np.asarray(jax.random.key_data(leaf) if checkpoints.is_key(leaf) else leaf)


def assert_same(one: Any, other: Any) -> None:
    """Equal structure, types and bits."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(raw(a), raw(b))


def refused(path: Path, match: str, like: Any = None, meta: Any = None) -> None:
    """Loading fails in one line that names the file."""
    with pytest.raises(CheckpointError, match=match) as caught:
        load(path, make_tree() if like is None else like, META if meta is None else meta)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def with_weights(weights: Any) -> Any:
    """A change of the tree's weights."""
    return lambda tree: tree | {"pair": tree["pair"]._replace(weights=weights)}


def rewrite(source: Path, target: Path, change: Any, compression: int = zipfile.ZIP_STORED) -> None:
    """Copy a zip, passing each member's name and bytes through `change`; None drops the member."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)


def test_round_trip_of_arrays_and_random_keys(saved: Path) -> None:
    assert_same(load(saved, make_tree(1), META), make_tree())
    structs = jax.eval_shape(make_tree)
    assert_same(load(saved, structs, META), make_tree())
    again = load(saved, structs, META)
    assert jax.random.normal(again["pair"].key) == jax.random.normal(jax.random.key(0))
    assert load_meta(saved) == {"seed": 3, "config": {"gamma": 0.99, "hidden": [120, 84], "soft": None}}


def test_a_loaded_tree_may_be_donated(saved: Path) -> None:
    """The arrays belong to the device, not to a buffer of the reader."""
    counts = load(saved, make_tree(), META)["counts"][0]
    assert np.array_equal(jax.jit(lambda x: x + 1, donate_argnums=0)(counts), np.arange(1, 6))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.npz", "cannot be read: No such file")
    refused(tmp_path, "cannot be read: Is a directory")


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.npz"
    text.write_text("not a zip at all")
    refused(text, "damaged, or not a checkpoint: File is not a zip file")
    other = tmp_path / "other.npz"
    np.savez(other, weights=np.zeros(3))
    refused(other, "not a checkpoint of this program: it has no header")
    np.savez(other, header=np.frombuffer(b"[1, 2]", np.uint8))
    refused(other, "the header is not a JSON object")
    np.savez(other, header=np.frombuffer(b'{"format": "pickle-jar"}', np.uint8))
    refused(other, 'format is "pickle-jar", expected "tempo-checkpoint"')
    np.savez(other, header=np.frombuffer(b'{"format": "tempo-checkpoint", "version": 99}', np.uint8))
    refused(other, "version is 99, expected 1")


def test_nothing_in_a_file_is_ever_run(saved: Path, tmp_path: Path) -> None:
    """An object array holds a pickle; reading it would create the file `ran`."""

    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    trap = tmp_path / "trap.npy"
    np.save(trap, np.array([Trap()], dtype=object), allow_pickle=True)
    for member in ("header.npy", "0.npy"):
        bad = tmp_path / f"bad-{member}.npz"
        rewrite(saved, bad, lambda name, content, member=member: trap.read_bytes() if name == member else content)
        refused(bad, "damaged")
    assert not (tmp_path / "ran").exists()


def test_truncated_files_are_refused(saved: Path, tmp_path: Path) -> None:
    content, short = saved.read_bytes(), tmp_path / "short.npz"
    for size in np.linspace(0, len(content) - 1, 40).astype(int):
        short.write_bytes(content[:size])
        refused(short, "damaged, or not a checkpoint")


def test_a_flipped_byte_is_refused_or_without_effect(saved: Path, tmp_path: Path) -> None:
    """400 files with one changed byte: a checksum, the header or the zip's own records notice, or no array is touched."""
    content, bad = saved.read_bytes(), tmp_path / "bad.npz"
    positions, noticed = np.random.default_rng(0).integers(0, len(content), 400), 0
    for position in positions:
        changed = bytearray(content)
        changed[position] ^= 0x55
        bad.write_bytes(changed)
        try:
            assert_same(load(bad, make_tree(), META), make_tree())
        except CheckpointError as error:
            noticed += 1
            assert str(bad) in str(error) and "\n" not in str(error)
    assert noticed > 200


def test_a_missing_or_exchanged_leaf_is_refused(saved: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.npz"
    rewrite(saved, bad, lambda name, content: None if name == "1.npy" else content)
    refused(bad, r"leaf counts\.1 is missing")
    with zipfile.ZipFile(saved) as archive:
        five, none = archive.read("0.npy"), archive.read("1.npy")
    rewrite(saved, bad, lambda name, content: five if name == "1.npy" else content)
    refused(bad, r"damaged: leaf counts\.1 is int\d\d\(5,\), expected int32\(\)")
    rewrite(saved, bad, lambda name, content: none if name == "0.npy" else content)
    refused(bad, r"damaged: leaf counts\.0 is int32\(\), expected")


def test_size_claims_are_checked_before_reading(saved: Path, tmp_path: Path) -> None:
    """A compressed file, a member far larger than its leaf, and a member that claims a shape of terabytes."""
    bomb = tmp_path / "bomb.npz"
    rewrite(saved, bomb, lambda name, content: content, zipfile.ZIP_DEFLATED)
    refused(bomb, "it is compressed")
    rewrite(saved, bomb, lambda name, content: bytes(10**6) if name == "0.npy" else content)
    refused(bomb, r"leaf counts\.0 has 1000000 bytes, expected about")
    claim = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
    claim += b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999,), }".ljust(117) + b"\n"
    rewrite(saved, bomb, lambda name, content: claim if name == "0.npy" else content)
    refused(bomb, r"leaf counts\.0 is uint8\(99999999999999,\), expected")
    rewrite(saved, bomb, lambda name, content: claim if name == "header.npy" else content)
    refused(bomb, "damaged")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_weights(jnp.zeros((3, 5))), r"pair\.weights\.shape is \[3, 4\], expected \[3, 5\]"),
        (with_weights(jnp.zeros((3, 4), bool)), r'pair\.weights\.type is "float'),
        (lambda tree: tree | {"more": jnp.zeros(2)}, r"leaves\.more is absent, expected {"),
        (lambda tree: {name: tree[name] for name in ("pair", "keys")}, r"leaves\.counts\.0 is {.*}, expected absent"),
        (lambda tree: tree | {"keys": jax.random.split(jax.random.key(0), 2)}, r'keys\.type is "key<rbg>", expected "key<fry>"'),
    ],
)  # fmt: skip
def test_another_tree_is_refused_with_field_found_and_expected(saved: Path, change: Any, message: str) -> None:
    refused(saved, message, like=change(make_tree()))


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({**META, "seed": 4}, r"meta\.seed is 3, expected 4"),
        ({**META, "seed": None}, r"meta\.seed is 3, expected absent"),
        ({**META, "config": {**META["config"], "gamma": 0.9}}, r"meta\.config\.gamma is 0\.99, expected 0\.9"),
        ({**META, "config": {**META["config"], "hidden": (64,)}}, r"meta\.config\.hidden is \[120, 84\], expected \[64\]"),
        ({"config": META["config"]}, r"meta\.seed is 3, expected absent"),
        ({**META, "more": 1}, r"meta\.more is absent, expected 1"),
    ],
)
def test_another_owner_is_refused_with_field_found_and_expected(saved: Path, meta: Any, message: str) -> None:
    refused(saved, message, meta=meta)


def test_saving_into_nowhere_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write .*x\.npz: (Not a directory|File exists)"):
        save(tmp_path / "file" / "x.npz", make_tree(), META)
    with pytest.raises(CheckpointError, match="cannot write"):
        save(tmp_path, make_tree(), META)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_an_unwritable_folder_is_one_clear_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="Permission denied"):
            save(tmp_path / "x.npz", make_tree(), META)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("culprit", ["savez", "replace", "fsync"])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(
    saved: Path, monkeypatch: pytest.MonkeyPatch, culprit: str, number: int
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        if culprit == "savez":
            arguments[0].write(b"half a file")
        raise OSError(number, os.strerror(number))

    before = saved.read_bytes()
    monkeypatch.setattr(np if culprit == "savez" else os, culprit, fail)
    with pytest.raises(CheckpointError, match=os.strerror(number)) as caught:
        save(saved, make_tree(5), META)
    monkeypatch.undo()
    assert str(saved) in str(caught.value) and "\n" not in str(caught.value)
    assert saved.read_bytes() == before and [path.name for path in saved.parent.iterdir()] == ["one.npz"]
    assert_same(load(saved, make_tree(), META), make_tree())


def test_an_interrupted_write_keeps_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(saved, make_tree(5), META)
    monkeypatch.undo()
    assert [path.name for path in saved.parent.iterdir()] == ["one.npz"]
    assert_same(load(saved, make_tree(), META), make_tree())


def test_what_is_not_an_array_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for leaf in (3.0, "text", np.array([None])):
        with pytest.raises(ValueError, match=r"leaf inner\.x of type .* cannot be checkpointed"):
            save(tmp_path / "x.npz", {"inner": {"x": leaf}}, META)
    assert not list(tmp_path.iterdir())
