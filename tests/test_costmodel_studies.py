"""Sweeps, sensitivities and the comparison with published figures."""

import inspect
import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import workloads
from costmodel import (
    HARD,
    STRAIGHT_THROUGH,
    Cost,
    CrossbarChip,
    Roofline,
    batched_gradients,
    chunked,
    estimate,
    load_hardware,
    load_platform,
    sensitivity,
    soft,
    sweep,
)
from costmodel.cost import UNITS
from costmodel.studies import validation
from physics import ParameterTree, SharedPackage, labels, load_device, lookup, param, parameters, replace
from workloads import OpKind, make_table

X64 = jax.config.read("jax_enable_x64")
CONV = dict(kind=OpKind.CONV, m=100, n=100, k=100, macs=1e6, flops=2.04e6, inputs=3e3, outputs=2e3, weights=1e3)
TABLE = make_table([CONV, dict(kind=OpKind.MOVE, inputs=1e5, outputs=1e5)])


def tol(single: float, double: float) -> float:
    return double if X64 else single


def latency(hardware):
    return estimate(hardware, TABLE).latency


# Sweeps ---------------------------------------------------------------------------------------------------------------


VARY = {
    "peak_macs": np.geomspace(1e6, 1e12, 7),
    "bandwidth": [1e6, 3e7, 1e9],
    "leakage_slope": (0.0, 0.036),
}


@pytest.fixture(scope="module")
def gpu() -> Roofline:
    return load_hardware("edge-gpu")


@pytest.mark.parametrize("chunk", [1, 5, 41, 42, 1000])
def test_a_sweep_equals_point_by_point_estimates(gpu, chunk):
    calls = []
    data = sweep(lambda h: estimate(h, TABLE), gpu, VARY, chunk, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(min(start + chunk, 42), 42) for start in range(0, 42, chunk)]
    alone = jax.jit(lambda h: estimate(h, TABLE))
    for i, peak in enumerate(VARY["peak_macs"]):
        for j, bandwidth in enumerate(VARY["bandwidth"]):
            for k, slope in enumerate(VARY["leakage_slope"]):
                cost = alone(replace(gpu, {"peak_macs": peak, "bandwidth": bandwidth, "leakage_slope": slope}))
                for name in ("latency", "energy", "static_energy", "utilization", "bound", "bytes_moved"):
                    np.testing.assert_allclose(
                        data[name].values[i, j, k], getattr(cost, name), rtol=tol(2e-6, 1e-12), err_msg=name
                    )


def test_a_sweep_is_labelled(gpu):
    data = sweep(lambda h: estimate(h, TABLE, relaxation=soft(3.0)), gpu, VARY)
    assert set(data.data_vars) == set(UNITS) <= set(Cost.__dataclass_fields__)
    for name, variable in data.items():
        assert variable.dims == tuple(VARY) and variable.shape == (7, 3, 2)
        assert variable.attrs["units"] == UNITS[name]
    for label, values in VARY.items():
        info = lookup(gpu, label).param
        np.testing.assert_allclose(data.coords[label], values)
        assert data.coords[label].attrs == {"units": info.unit, "source": info.source}
    assert data.attrs["relaxation"] == "soft(3)"
    assert data["bound"].dtype.kind == "i"
    np.testing.assert_allclose(data["latency"].sel(bandwidth=3e7, peak_macs=1e6, leakage_slope=0.0), data["latency"][0, 1, 0])


def test_what_an_objective_may_return(gpu):
    class Pair(NamedTuple):
        latency: jax.Array
        score: jax.Array

    vary = {"bandwidth": [1e6, 1e9]}
    expected = [float(latency(replace(gpu, {"bandwidth": b}))) for b in vary["bandwidth"]]
    scalar = sweep(latency, gpu, vary)
    table = sweep(lambda h: {"latency": latency(h), "twice": 2 * latency(h)}, gpu, vary)
    pair = sweep(lambda h: Pair(latency(h), latency(h) ** 2), gpu, vary)
    np.testing.assert_allclose(scalar["objective"], expected, rtol=1e-6)
    np.testing.assert_allclose(table["twice"], 2 * np.array(expected), rtol=1e-6)
    np.testing.assert_allclose(pair["score"], np.square(expected), rtol=1e-5)
    assert table["latency"].attrs == {"units": "s"} and table["twice"].attrs == {} and scalar.attrs == {}


def test_a_sweep_of_nested_labels():
    platform = load_platform("edge")
    label = "processors.pim.cell.retention.e_a"
    data = sweep(lambda p: p.chip("pim").cell.retention.log_time(jnp.asarray(360.0)), platform, {label: [0.5, 1.0, 1.5]}, chunk=2)
    e_a = np.array([0.5, 1.0, 1.5])
    law = platform.chip("pim").cell.retention
    expected = float(law.log_tau_ref) + e_a / 8.617333262e-5 * (1 / 360.0 - 1 / float(law.temperature_ref))
    np.testing.assert_allclose(data["objective"], expected, rtol=1e-5)
    assert data["objective"].dims == (label,) and data.coords[label].attrs["units"] == "eV"


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ({"bandwith": [1e9]}, "unknown parameter 'bandwith'; close: bandwidth"),
        ({"bandwidth": [1e9, 1e20]}, "bandwidth = 1e+20 B/s is outside its range [1000, 1e+14] B/s"),
        ({"bandwidth": [1e9, math.nan]}, "bandwidth = nan B/s is outside its range [1000, 1e+14] B/s"),
        ({"bandwidth": []}, "bandwidth: the values of a sweep must be a non-empty 1-D sequence, got shape (0,)"),
        ({"bandwidth": 1e9}, "bandwidth: the values of a sweep must be a non-empty 1-D sequence, got shape ()"),
        ({}, "vary names no parameter; give at least one label, such as {'cell.retention.e_a': [...]}"),
    ],
)
def test_a_sweep_over_nonsense_is_refused(gpu, vary, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        sweep(latency, gpu, vary)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (lambda h: estimate(h, TABLE).per_op, "the objective's 'latency' has shape (2,); a sweep needs scalars"),
        (lambda h: (latency(h), latency(h)), "the objective's 'objective' is a tuple; a sweep needs scalars"),
        (lambda h: {"all": {"latency": latency(h)}}, "the objective's 'all' is a dict; a sweep needs scalars"),
    ],
)
def test_an_objective_that_is_not_scalar_is_refused(gpu, objective, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        sweep(objective, gpu, {"bandwidth": [1e9]})


def test_a_vector_parameter_and_an_empty_chunk_are_refused(gpu):
    with pytest.raises(ValueError, match=r"^package.r_junction has shape \(3,\); a sweep varies scalar parameters$"):
        sweep(lambda p: p.package.r_ambient, load_platform("edge"), {"package.r_junction": [1.0]})
    with pytest.raises(ValueError, match=r"^chunk = 0 points is below 1$"):
        sweep(latency, gpu, {"bandwidth": [1e9]}, chunk=0)


# Sensitivities --------------------------------------------------------------------------------------------------------


class Law(ParameterTree):
    """y = a**2 b + c . (1, 10) + e**d: every elasticity is known."""

    a: jax.Array = param(3.0, unit="m", lo=0.1, hi=10, source="test")
    b: jax.Array = param(2.0, unit="s", lo=0.1, hi=10, source="test")
    c: jax.Array = param((1.0, 0.5), unit="K", lo=0.0, hi=10, source="test")
    d: jax.Array = param(0.5, unit="ln s", lo=-10, hi=10, source="test")
    unused: jax.Array = param(1.0, unit="1", lo=0, hi=10, source="test")


def law(tree: Law):
    return tree.a**2 * tree.b + tree.c[0] + 10 * tree.c[1] + jnp.exp(tree.d)


def test_sensitivities_by_hand():
    table = sensitivity(law, Law())
    y = 18 + 1 + 5 + math.exp(0.5)
    assert table.value == pytest.approx(y, rel=1e-6) and table.relaxation == "objective's own"
    # elasticities 2 a^2 b / y, a^2 b / y, c_i slope_i / y; d is a logarithm: (e^d) / y per unit, not d e^d / y
    expected = {"a": 36 / y, "b": 18 / y, "c[1]": 5 / y, "d": math.exp(0.5) / y, "c[0]": 1 / y, "unused": 0.0}
    assert [row.label for row in table.rows] == sorted(expected, key=lambda label: -expected[label])
    for row in table.rows:
        assert row.elasticity == pytest.approx(expected[row.label], rel=1e-5), row.label
    assert (table["a"].gradient, table["a"].value, table["a"].unit) == (pytest.approx(12.0), 3.0, "m")
    assert (table["c[1]"].gradient, table["c[1]"].value) == (10.0, 0.5)
    assert table["d"].gradient == pytest.approx(math.exp(0.5), rel=1e-6)


def test_sensitivities_are_printed_as_a_table():
    lines = str(sensitivity(law, Law())).splitlines()
    assert lines[0].startswith("objective 25.6487") and "relaxation objective's own" in lines[0]
    assert lines[2].split()[0] == "a" and lines[2].split()[-2:] == ["3", "m"]
    assert len(lines) == 2 + 6


def test_an_objective_is_given_the_policy_if_it_asks():
    chip = load_hardware("isaac")
    asked = []

    def energy(hardware, relaxation):
        asked.append(relaxation)
        return estimate(hardware, TABLE, relaxation=relaxation).energy

    tables = {policy: sensitivity(energy, chip, policy) for policy in (HARD, STRAIGHT_THROUGH, soft(5.0))}
    assert {p: table.relaxation for p, table in tables.items()} == {HARD: "hard", STRAIGHT_THROUGH: "straight_through",
                                                                   soft(5.0): "soft(5)"}  # fmt: skip
    assert set(asked) == set(tables)
    assert inspect.signature(sensitivity).parameters["relaxation"].default is STRAIGHT_THROUGH
    assert tables[HARD]["rows"].gradient == 0.0 != tables[STRAIGHT_THROUGH]["rows"].gradient
    assert tables[HARD].value == tables[STRAIGHT_THROUGH].value != tables[soft(5.0)].value


def test_a_second_argument_with_a_default_is_not_the_policy(gpu):
    table = sensitivity(lambda h, ops=TABLE: estimate(h, ops).latency, gpu)
    assert table.relaxation == "objective's own" and table.value == pytest.approx(float(latency(gpu)))
    chosen = sensitivity(lambda h, relaxation=HARD: estimate(h, TABLE, relaxation=relaxation).latency, gpu, soft(2.0))
    assert chosen.relaxation == "soft(2)"


def test_every_parameter_has_a_row_and_all_are_finite():
    platform = load_platform("edge")

    def objective(p, relaxation):
        pim = estimate(p.processors["pim"], TABLE, relaxation=relaxation)
        rise = p.package.network().steady(jnp.asarray([1.0, 2.0, 0.5, 0.0, 0.0], float))
        return jnp.log(pim.energy) + rise[0]

    for policy in (HARD, STRAIGHT_THROUGH):
        table = sensitivity(objective, platform, policy)
        sizes = {p.label: np.size(p.value) for p in parameters(platform)}
        expected = {f"{label}[{i}]" if label in ("package.r_junction", "package.c_junction") else label
                    for label, size in sizes.items() for i in range(size)}  # fmt: skip
        assert {row.label for row in table.rows} == expected
        assert all(np.isfinite([row.gradient, row.elasticity]).all() for row in table.rows)
        assert [abs(row.elasticity) for row in table.rows] == sorted((abs(row.elasticity) for row in table.rows), reverse=True)
        assert sum(row.elasticity != 0 for row in table.rows) > 15


@pytest.mark.parametrize("policy", [HARD, soft(3.0)], ids=str)
def test_sensitivities_equal_central_differences(policy):
    with jax.enable_x64(True):
        generic = dict(rows=121.7, cols=131.3, bits_per_cell=1.87, weight_bits=7.3, input_bits=6.6, dac_bits=1.3)
        chip = CrossbarChip(**generic, elements=1.37, units=5.7, arrays=6.3, cell=load_device("cbram"), scope="layer")

        @jax.jit
        def objective(hardware, relaxation=policy):
            cost = estimate(hardware, TABLE, relaxation=relaxation)
            return cost.energy * 1e6 + hardware.cell.log_loss(jnp.asarray(350.0), 1.0, 10.0)

        table = sensitivity(lambda h: objective(h), chip)
        for label in labels(chip):
            value = float(lookup(chip, label).value)
            width = 1e-7 * (abs(value) or 1.0)
            info = lookup(chip, label).param
            up, down = (objective(replace(chip, {label: np.clip(value + s * width, info.lo, info.hi)})) for s in (1, -1))
            ends = [np.clip(value + s * width, info.lo, info.hi) for s in (1, -1)]
            difference = float(up - down) / (ends[0] - ends[1])
            row = table[label]
            size = abs(table.value) * 1e-7 / (abs(value) or 1.0)
            assert row.gradient == pytest.approx(difference, rel=1e-5, abs=size), label
            scale = 1.0 if row.unit.startswith("ln") else value
            assert row.elasticity == pytest.approx(row.gradient * scale / table.value, rel=1e-12)


def test_objectives_without_a_finite_scalar_are_refused(gpu):
    with pytest.raises(ValueError, match=r"^the objective has shape \(2,\); a sensitivity needs a scalar$"):
        sensitivity(lambda h: estimate(h, TABLE).per_op.latency, gpu)
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match=rf"^the objective is {value}; a sensitivity needs a finite value$"):
            sensitivity(lambda h, value=value: h.bandwidth * value, gpu)


@pytest.mark.parametrize("chunk", [1, 7, 16_384])
def test_batched_gradients_equal_single_ones(chunk):
    rng = np.random.default_rng(0)
    count = 20
    package = SharedPackage(names=("a", "b"))
    trees = jax.tree.map(lambda leaf: leaf * jnp.asarray(rng.uniform(0.5, 2.0, (count, *leaf.shape)), float), package)
    objective = lambda p: p.r_ambient * p.r_junction[0] + jnp.log(p.c_case)  # noqa: E731
    values, slopes = jax.jit(lambda t: batched_gradients(objective, t, chunk))(trees)
    for i in range(count):
        value, slope = jax.value_and_grad(objective)(jax.tree.map(lambda leaf, i=i: leaf[i], trees))
        np.testing.assert_allclose(values[i], value, rtol=1e-6)
        for a, b in zip(jax.tree.leaves(slopes), jax.tree.leaves(slope), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-6)


@pytest.mark.parametrize(("n", "chunk"), [(1, 1), (5, 8), (8, 8), (9, 8), (31, 8), (1000, 7)])
def test_chunks_give_what_vmap_gives(n, chunk):
    x = {"a": jnp.arange(n, dtype=float), "b": jnp.arange(2 * n, dtype=jnp.int32).reshape(n, 2)}
    function = lambda t: (jnp.sin(t["a"]), t["b"].sum() + 1)  # noqa: E731
    for ours, theirs in zip(jax.jit(lambda t: chunked(function, t, chunk))(x), jax.vmap(function)(x), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_a_batch_that_cannot_be_chunked_is_refused():
    with pytest.raises(ValueError, match=r"^every leaf of a batch needs the same leading axis, got lengths \[2, 3\]$"):
        chunked(jnp.add, (jnp.zeros(2), jnp.zeros(3)))
    with pytest.raises(ValueError, match=r"^a batch of 0 elements in chunks of 4096: both must be at least 1$"):
        chunked(jnp.sin, jnp.zeros(0))
    with pytest.raises(ValueError, match=r"^a batch of 3 elements in chunks of 0: both must be at least 1$"):
        chunked(jnp.sin, jnp.zeros(3), 0)


# Published figures ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    return validation.validate()


def board(rows):
    """The comparisons with the microcontroller."""
    return [row for row in rows if row.target.startswith("stm32l4r5")]


def test_every_published_figure_has_a_row_with_its_role(rows):
    roles = {(row.target, row.quantity): row.role for row in rows}
    assert len(roles) == len(rows)  # ten of them, then the chips of test_costmodel_macros.py
    assert [row.target for row in rows[8:10]] == ["isaac", "isaac"] and len(board(rows)) == 8
    for network in ("resnet8", "fc-autoencoder", "ds-cnn", "mobilenet-v1-0.25"):
        expected = "calibrated" if network in ("resnet8", "fc-autoencoder") else "predicted"
        assert roles[f"stm32l4r5 {network}", "latency"] == roles[f"stm32l4r5 {network}", "energy"] == expected
    assert roles["isaac", "peak rate"] == roles["isaac", "peak power"] == "reproduced"
    assert all(row.source and row.unit and row.role in ("calibrated", "predicted", "reproduced") for row in rows)


def test_published_figures_are_those_of_the_submission(rows):
    # MLPerf Tiny v1.2, ST, STM32L4R5: ms and uJ for ad, kws, ic, vww
    ms_uj = {"fc-autoencoder": (5.26, 203), "ds-cnn": (43.2, 1820), "resnet8": (165.1, 6919), "mobilenet-v1-0.25": (88.9, 3895)}
    published = {(row.target, row.quantity): row.published for row in rows}
    for network, (ms, uj) in ms_uj.items():
        assert published[f"stm32l4r5 {network}", "latency"] == pytest.approx(ms * 1e-3, rel=1e-3)
        assert published[f"stm32l4r5 {network}", "energy"] == pytest.approx(uj * 1e-6, rel=1e-3)


def test_calibrated_latencies_match_and_energies_share_one_power(rows):
    rows = board(rows)
    for row in rows:
        if row.role == "calibrated":
            assert abs(row.error) < (1e-3 if row.quantity == "latency" else 0.05), row
    # the fitted power is the mean of two: its errors have opposite signs
    errors = [row.error for row in rows if row.role == "calibrated" and row.quantity == "energy"]
    assert errors[0] * errors[1] < 0


def test_isaac_is_reproduced(rows):
    assert all(abs(row.error) < 5e-3 for row in rows if row.target == "isaac")


def test_predictions_are_within_a_quarter_and_their_error_is_reported(rows):
    predicted = [row for row in rows if row.role == "predicted"]
    assert len([row for row in board(rows) if row.role == "predicted"]) == 4
    for row in predicted:
        assert row.error == pytest.approx(row.modelled / row.published - 1)
        assert 1e-3 < abs(row.error) < 0.25, row  # a prediction that is exact would have been fitted


def test_predicted_figures_take_no_part_in_the_calibration(monkeypatch, rows):
    changed = {name: (1.7 * a, 0.6 * b) if name not in validation.CALIBRATED_ON else (a, b)
               for name, (a, b) in validation.PUBLISHED.items()}  # fmt: skip
    monkeypatch.setattr(validation, "PUBLISHED", changed)
    for before, after in zip(board(rows), validation.board_rows(), strict=True):
        assert after.modelled == before.modelled
        assert (after.published == before.published) == (after.role != "predicted")


def test_calibrated_figures_do_take_part(monkeypatch):
    changed = validation.PUBLISHED | {"resnet8": (0.2, 8e-3)}
    monkeypatch.setattr(validation, "PUBLISHED", changed)
    board = validation.calibrate_stm32()
    assert float(estimate(board, workloads.load("resnet8")).latency) == pytest.approx(0.2, rel=1e-3)
    assert float(estimate(board, workloads.load("fc-autoencoder")).latency) == pytest.approx(5.26e-3, rel=1e-3)


def test_the_named_board_carries_its_calibration():
    board, fitted = load_hardware("stm32l4r5"), validation.calibrate_stm32()
    for label in ("efficiency_conv", "efficiency_depthwise", "efficiency_dense", "active_power"):
        assert float(lookup(board, label).value) == pytest.approx(float(lookup(fitted, label).value), rel=1e-3), label
