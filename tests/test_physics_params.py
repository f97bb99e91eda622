"""Parameter trees: ranges, labels, replacing, describing, and one trace for changed values."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physics import (
    ParameterTree,
    bounds,
    describe,
    labels,
    list_devices,
    load_device,
    lookup,
    param,
    parameters,
    replace,
    unknown_name,
    values,
)


class Resistor(ParameterTree):
    r: jax.Array = param(10.0, unit="ohm", lo=1.0, hi=100.0, log=True, source="test")
    heat: jax.Array = param(1.0, unit="J/K", lo=0.0, hi=float("inf"), source="test")
    offset: jax.Array = param(-1.0, unit="V", lo=-2.0, hi=0.0, source="test")


class Board(ParameterTree):
    parts: dict[str, Resistor]
    pair: tuple[Resistor, Resistor]
    gain: jax.Array = param((1.0, 2.0), unit="1", lo=0.5, hi=4.0, source="test")
    name: str = eqx.field(static=True, default="board")
    sources: tuple[tuple[str, str], ...] = eqx.field(static=True, default=())


def board(**extra) -> Board:
    return Board(parts={"b": Resistor(heat=1.0), "a": Resistor(heat=2.0)}, pair=(Resistor(heat=3.0), Resistor(heat=4.0)), **extra)


def test_labels_follow_the_tree_in_leaf_order():
    expected = ("parts.a", "parts.b", "pair.0", "pair.1")
    wanted = tuple(f"{p}.{f}" for p in expected for f in ("r", "heat", "offset"))
    assert labels(board()) == (*wanted, "gain")
    for leaf, p in zip(jax.tree.leaves(board()), parameters(board()), strict=True):
        assert leaf is not None and np.array_equal(leaf, p.value)


def test_values_bounds_and_lookup_agree():
    tree = board()
    assert values(tree)["parts.a.heat"] == 2.0 and values(tree)["pair.1.heat"] == 4.0
    assert bounds(tree)["parts.a.r"] == (1.0, 100.0)
    found = lookup(tree, "pair.0.r")
    assert (found.param.unit, found.param.log, found.param.source) == ("ohm", True, "test")


def test_leaves_are_strongly_typed_arrays():
    r = Resistor(r=5, heat=np.float32(2))
    for leaf in jax.tree.leaves(r):
        assert isinstance(leaf, jax.Array) and not leaf.weak_type and leaf.dtype == jnp.asarray(0.0).dtype


@pytest.mark.parametrize("value", [0.9, 100.1, float("nan"), float("inf"), -float("inf"), [10.0, 0.5]])
def test_values_outside_their_range_are_refused(value):
    with pytest.raises(ValueError, match=r"Resistor.r = .* ohm is outside its range \[1, 100\] ohm"):
        Resistor(r=value, heat=1.0)
    with pytest.raises(ValueError, match=r"pair.0.r = .* ohm is outside its range \[1, 100\] ohm"):
        replace(board(), {"pair.0.r": value})


def test_an_open_range_still_refuses_infinity():
    with pytest.raises(ValueError, match=r"Resistor.heat = inf"):
        Resistor(heat=float("inf"))


@pytest.mark.parametrize(("field", "value"), [("r", 1.0), ("r", 100.0), ("offset", 0.0), ("offset", -2.0), ("heat", 0.0)])
def test_ends_of_the_range_are_inside(field, value):
    assert getattr(Resistor(**({"heat": 1.0} | {field: value})), field) == value


def test_the_sign_of_a_parameter_bounded_by_zero_is_kept():
    with pytest.raises(ValueError, match=r"Resistor.offset = 1e-07"):
        Resistor(heat=1.0, offset=1e-7)
    with pytest.raises(ValueError, match=r"Resistor.heat = -1e-07"):
        Resistor(heat=-1e-7)


@pytest.mark.parametrize("value", [None, "3", object(), [None]])
def test_non_numbers_are_refused(value):
    with pytest.raises(ValueError, match="a parameter must be a number"):
        Resistor(heat=value)


def test_replace_changes_only_what_is_named():
    tree = board()
    changed = replace(tree, {"parts.b.r": 7.0, "gain": [3.0, 4.0]})
    assert changed.parts["b"].r == 7.0 and changed.parts["a"].r == 10.0 and tree.parts["b"].r == 10.0
    np.testing.assert_array_equal(changed.gain, [3.0, 4.0])
    assert jax.tree.structure(changed) == jax.tree.structure(tree)


def test_replace_accepts_a_batch_for_vmap():
    tree = replace(board(), {"pair.0.r": jnp.array([1.0, 2.0, 3.0])})
    axes = jax.tree.map(lambda _: None, board())
    axes = eqx.tree_at(lambda t: t.pair[0].r, axes, 0, is_leaf=lambda x: x is None)
    np.testing.assert_allclose(jax.vmap(lambda t: t.pair[0].r * t.pair[1].r, in_axes=(axes,))(tree), [10.0, 20.0, 30.0])


def test_replace_inside_jit_and_grad():
    slope = jax.jit(jax.grad(lambda r: replace(board(), {"pair.0.r": r}).pair[0].r ** 2))(3.0)
    assert slope == 6.0


def test_unknown_labels_name_their_neighbours():
    with pytest.raises(ValueError, match=r"unknown parameter 'parts.a.rr'; close: parts.a.r"):
        replace(board(), {"parts.a.rr": 1.0})
    with pytest.raises(ValueError, match="unknown parameter"):
        lookup(board(), "name")
    assert unknown_name("colour", "zzz", ("red", "blue")) == "unknown colour 'zzz'; known: blue, red"


def test_description_shows_value_unit_range_and_source():
    text = str(describe(board()))
    assert "parts.a.r" in text and "ohm" in text and "[1, 100]" in text and "array(2,)" in text
    assert len(describe(board())) == len(labels(board())) == 13


def test_a_tree_can_name_the_sources_of_its_own_numbers():
    tree = board(sources=(("pair.0.r", "data sheet"),))
    assert lookup(tree, "pair.0.r").param.source == "data sheet"
    assert lookup(tree, "pair.1.r").param.source == "test"
    assert lookup(tree, "pair.0.r").param.hi == 100.0


def test_changed_values_do_not_retrace():
    traces = 0

    @jax.jit
    def total(tree):
        nonlocal traces
        traces += 1
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree))

    total(board())
    total(replace(board(), {"parts.a.r": 3}))
    total(replace(board(), {"parts.a.r": np.float64(4.5), "gain": (1, 2)}))
    assert traces == 1


@pytest.mark.parametrize("name", list_devices())
def test_every_number_of_a_device_has_a_unit_a_range_and_a_source(name):
    for p in parameters(load_device(name)):
        assert p.param.unit and len(p.param.source) > 5, p.label
        assert p.param.lo < p.param.hi and p.param.lo <= np.min(p.value) and np.max(p.value) <= p.param.hi, p.label
        assert not p.param.log or p.param.lo > 0, p.label
