"""Layers onto crossbars: counts by hand and by brute force, the seventeen mappings, partial sums, rewriting, refusals."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import workloads
from costmodel import (
    HARD,
    STRAIGHT_THROUGH,
    AnalogMacro,
    Conditions,
    CrossbarChip,
    Encoding,
    MacroChip,
    check_mappable,
    estimate,
    list_encodings,
    load_encoding,
    log_runs_to_failure,
    place,
    soft,
)
from costmodel.mapping.crossbars import grid
from physics import load_device
from workloads import OpInfo, OpKind, make_table


def matrix(m: int, k: int, n: int, groups: int = 1, kind: OpKind = OpKind.DENSE, **more) -> dict:
    macs = float(m) * k * n * groups
    return dict(kind=kind, m=m, n=n, k=k, groups=groups, macs=macs, flops=2 * macs) | more


def named(rows: list[dict], names: tuple[str, ...]):
    info = OpInfo(name="test", op_names=names, edges=(), parameters=0, peak_op=0, peak_tensors=())
    return make_table(rows, info)


# Counts ---------------------------------------------------------------------------------------------------------------


def test_every_kind_of_operation_by_hand():
    rows = [
        matrix(56 * 56, 9 * 64, 64, kind=OpKind.CONV),  # K = 576, N = 64
        matrix(1, 640, 128),  # dense
        matrix(100, 9, 1, groups=64, kind=OpKind.DEPTHWISE),
        matrix(49, 9 * 8, 8, groups=32, kind=OpKind.CONV),  # grouped: K = 72, N = 8
        matrix(197, 64, 197, groups=12, kind=OpKind.MATMUL),  # attention scores of 12 heads
        dict(kind=OpKind.ELEMENTWISE, flops=1000),
    ]
    p = place(make_table(rows), 128, 16)
    # conv ceil(4.5) x 4; dense 5 x 8; depthwise min(128 // 9, 16) = 14 side by side: ceil(64 / 14); grouped 72 > 64: one each
    # (N = 8: two by columns, one by rows); attention 12 x 1 x ceil(197 / 16)
    np.testing.assert_array_equal(p.tiles, [20, 40, 5, 32, 12 * 13, 0])
    np.testing.assert_array_equal(p.row_tiles, [5, 5, 1, 1, 1, 0])
    np.testing.assert_array_equal(p.column_tiles, [4, 8, 1, 1, 13, 0])
    # (row tiles - 1) M N groups additions
    np.testing.assert_array_equal(p.partial_sums, [4 * 3136 * 64, 4 * 128, 0, 0, 0, 0])
    # depthwise: 64 x 9 weights in 5 arrays of 2048 places = 5.6 %; grouped 32 x 576 in 32 = 28 %; conv 90 %
    np.testing.assert_allclose(p.utilization, [576 / 640, 1, 576 / 10240, 576 / 2048, 64 * 197 / (13 * 2048), 0], rtol=1e-6)
    np.testing.assert_allclose(p.row_share, [0.9, 1, 64 / 5 * 9 / 128, 72 / 128, 0.5, 0], rtol=1e-6)
    np.testing.assert_allclose(p.column_share, [1, 1, 64 / 5 / 16, 0.5, 197 / (13 * 16), 0], rtol=1e-6)


def by_laying_down(k, n, groups, inputs, outputs):
    """Arrays and partial sums per output by placing blocks one after the other."""
    blocks = [(min(inputs, k - a), min(outputs, n - b)) for a in range(0, k, inputs) for b in range(0, n, outputs)]
    if len(blocks) > 1:
        return groups * len(blocks), len(range(0, k, inputs)) - 1
    arrays, row, column = 0, inputs + 1, outputs + 1
    for _ in range(groups):
        if row + k > inputs or column + n > outputs:
            arrays, row, column = arrays + 1, 0, 0
        row, column = row + k, column + n
    return arrays, 0


def test_counts_equal_laying_blocks_down_one_by_one():
    rng = np.random.default_rng(1)
    k, n = (np.exp(rng.uniform(0, 7, 400)).astype(int) for _ in range(2))
    groups, m = np.exp(rng.uniform(0, 4, 400)).astype(int), rng.integers(1, 50, 400)
    table = make_table([matrix(*(int(x) for x in shape)) for shape in zip(m, k, n, groups, strict=True)])
    run = jax.jit(lambda inputs, outputs: place(table, inputs, outputs))
    for inputs, outputs in ((128, 16), (127, 33), (7, 5), (256, 256)):
        p = run(float(inputs), float(outputs))
        expected = [by_laying_down(*map(int, x), inputs, outputs) for x in zip(k, n, groups, strict=True)]
        np.testing.assert_array_equal(p.tiles, [arrays for arrays, _ in expected])
        np.testing.assert_allclose(p.partial_sums, [sums for _, sums in expected] * m * n * groups, rtol=1e-6)
        assert (np.asarray(p.utilization) <= 1 + 1e-6).all() and (np.asarray(p.utilization) > 0).all()
        for share in (p.row_share, p.column_share):
            assert (np.asarray(share) <= 1 + 1e-6).all() and (np.asarray(share) >= np.asarray(p.utilization) - 1e-6).all()


def test_relaxed_counts_never_exceed_the_hard_ones():
    table = workloads.stack([workloads.load(name) for name in ("resnet8", "ds-cnn")])
    hard = jax.vmap(lambda t: place(t, 128.0, 16.0))(table)
    for policy in (STRAIGHT_THROUGH, soft(1.0), soft(20.0)):
        relaxed = jax.vmap(lambda t, policy=policy: place(t, 128.0, 16.0, policy))(table)
        for name in ("tiles", "row_tiles", "column_tiles", "partial_sums"):
            exact = np.asarray(getattr(hard, name))
            assert (np.asarray(getattr(relaxed, name)) <= exact * (1 + 1e-5)).all(), (policy, name)


# Encodings ------------------------------------------------------------------------------------------------------------


# rows x columns of one weight and array activations per product, CIM-Explorer (facts of its README and mappers); integer
# ones with 8-bit operands in two slices of 4: passes as executed, I_DIFF_..._1XB 7 + 8, I_OFFS one more than the input has bits
SEVENTEEN = {
    "BNN_I": (1, 2, 1), "BNN_II": (1, 2, 1), "BNN_III": (1, 1, 2), "BNN_IV": (1, 1, 2), "BNN_V": (2, 1, 1), "BNN_VI": (2, 2, 1),
    "TNN_I": (2, 2, 1), "TNN_II": (1, 2, 2), "TNN_III": (1, 2, 2), "TNN_IV": (1, 2, 2), "TNN_V": (1, 2, 2),
    "I_DIFF_W_DIFF_1XB": (1, 4, 15), "I_DIFF_W_DIFF_2XB": (1, 8, 8), "I_OFFS_W_DIFF": (1, 4, 9), "I_TC_W_DIFF": (1, 4, 8),
    "I_UINT_W_DIFF": (1, 4, 8), "I_UINT_W_OFFS": (1, 2, 8),
}  # fmt: skip


def test_the_seventeen_mappings_take_the_published_cells_and_cycles():
    assert set(list_encodings()) == set(SEVENTEEN) | {"plain", "offset", "differential_columns", "differential_rows"}
    for name, (rows, columns, cycles) in SEVENTEEN.items():
        e = load_encoding(name)
        assert (e.rows_per_weight, e.columns_per_slice * (e.slices or 0), e.cycles) == (rows, columns, cycles), name


def test_an_array_under_every_encoding():
    # 256 x 256 cells, 8-bit weights in cells of 4 bit
    places = {name: grid(256, 256, 8, 4, load_encoding(name)) for name in list_encodings()}
    for name, (rows, columns, _) in SEVENTEEN.items():
        assert (float(places[name].inputs), float(places[name].outputs)) == (256 // rows, 256 // columns)
        assert float(places[name].cells) == rows * columns
    assert float(places["plain"].outputs) == 128 and float(places["differential_columns"].outputs) == 64
    assert float(places["offset"].outputs) == 127  # (256 - 1) // 2
    assert (float(places["differential_rows"].inputs), float(places["differential_rows"].outputs)) == (128, 128)


def test_a_macro_takes_the_passes_of_its_encoding():
    base = dict(rows=256, columns=256, weight_bits=8, bits_per_cell=4, input_bits=8)
    for name, (_, _, cycles) in SEVENTEEN.items():
        macro = AnalogMacro(encoding=load_encoding(name), **base)
        np.testing.assert_allclose(macro.product_time() / macro.pulse_time, max(cycles, cycles * 2), rtol=1e-5)  # 256 conversions
        assert float(macro.driven().phases) == cycles
    assert float(AnalogMacro(**base).driven().phases) == 8


def test_unknown_encodings_and_widths_are_refused():
    with pytest.raises(ValueError, match=r"^unknown encoding 'BNN_7'; close: BNN_"):
        load_encoding("BNN_7")
    with pytest.raises(ValueError, match=r"^slices = \(4, 3\) bits must be positive and add up to weight_bits = 8$"):
        load_encoding("I_TC_W_DIFF", slices=(4, 3))


# Rewriting and wear ---------------------------------------------------------------------------------------------------


def test_capacity_that_is_short_is_rewritten_at_every_run():
    chip = MacroChip(macro=AnalogMacro(weight_bits=16), macros=8, row_write_time=1e-6, cell_write_energy=1e-12, scope="layer")
    fits, twice = make_table([matrix(5, 1024, 16)]), make_table([matrix(5, 1024, 32)])
    assert float(estimate(chip, fits).written) == 0.0
    cost = estimate(chip, twice)  # 16 arrays on 8: half of them are written, 128 rows each, one at a time
    np.testing.assert_allclose(cost.memory, 2.0)
    np.testing.assert_allclose(cost.written, 1.0)
    np.testing.assert_allclose(cost.programming_latency, 8 * 128 * 1e-6, rtol=1e-6)
    np.testing.assert_allclose(cost.programming_energy, 0.5 * 1024 * 32 * 8 * 1e-12, rtol=1e-6)  # eight 2-bit cells a weight
    empty = estimate(chip, fits, Conditions(resident=0.0))
    np.testing.assert_allclose([empty.written, empty.programming_latency], [1.0, 8 * 128e-6], rtol=1e-6)


def test_wear_of_rewriting_by_hand():
    cell = load_device("hfox_reram")
    life = float(cell.endurance.log_cycles(300.0))
    assert float(log_runs_to_failure(jnp.asarray(0.5), cell, 300.0)) == pytest.approx(life + np.log(2.0), rel=1e-5)
    assert float(log_runs_to_failure(jnp.asarray(0.5), cell, 300.0, 8.0)) == pytest.approx(life - np.log(4.0), rel=1e-5)
    assert float(log_runs_to_failure(jnp.asarray(0.0), cell, 300.0)) == 85.0
    slope = jax.grad(lambda w: log_runs_to_failure(w, cell, 300.0))
    assert float(slope(jnp.asarray(0.5))) == pytest.approx(-2.0, rel=1e-4) and np.isfinite(slope(jnp.asarray(0.0)))


def test_attention_is_rewritten_or_refused():
    rows = [matrix(4, 8, 8), matrix(64, 32, 64, groups=4, kind=OpKind.MATMUL)]
    table = named(rows, ("project", "scores"))
    cost = estimate(MacroChip(macro=AnalogMacro(), macros=64, scope="layer"), table)
    assert float(cost.per_op.written[0]) == 0.0 and float(cost.per_op.written[1]) == float(cost.per_op.memory[1]) > 0
    with pytest.raises(ValueError, match=r"^layer 'scores': a product of two activations needs cells rewritten at every run"):
        estimate(MacroChip(macro=AnalogMacro(), macros=64, dynamic="refuse"), table)
    estimate(MacroChip(macro=AnalogMacro(), macros=64, dynamic="refuse"), make_table(rows[:1]))


# Refusals -------------------------------------------------------------------------------------------------------------


def line(message: str) -> str:
    return f"^{re.escape(message)}$"


def test_a_weight_wider_than_the_array_names_layer_and_limit():
    table = named([dict(kind=OpKind.MOVE, inputs=10), matrix(5, 20, 10)], ("load", "conv1"))
    message = "layer 'conv1': a 32-bit weight takes 32 columns (plain, 1 bit per cell), the array has 16"
    with pytest.raises(ValueError, match=line(message)):
        estimate(CrossbarChip(weight_bits=32, bits_per_cell=1, cols=16), table)
    macro = AnalogMacro(weight_bits=32, bits_per_cell=1, columns=16)
    with pytest.raises(ValueError, match=line(message)):
        estimate(MacroChip(macro=macro), table)
    with pytest.raises(ValueError, match=line(message.replace("layer 'conv1'", "operation 1"))):
        estimate(MacroChip(macro=macro), table.without_info())
    jax.jit(estimate)(MacroChip(macro=macro), table.without_info())  # traced: not checked
    estimate(MacroChip(macro=macro), make_table([dict(kind=OpKind.MOVE, inputs=10)]))  # nothing to map


def test_other_limits():
    table, base = named([matrix(5, 20, 10)], ("fc",)), dict(rows=16, columns=16, weight_bits=8, bits_per_cell=2)
    with pytest.raises(ValueError, match=line("layer 'fc': needs 6 arrays, the limit is 5")):
        check_mappable(table, **base, arrays=5)  # ceil(20 / 16) ceil(10 / 4)
    check_mappable(table, **base, arrays=6)
    with pytest.raises(ValueError, match=line("layer 'fc': a weight takes 2 rows (differential_rows), the array has 1")):
        check_mappable(table, **base | dict(rows=1), encoding=load_encoding("differential_rows"))
    with pytest.raises(
        ValueError, match=line("layer 'fc': a 8-bit weight takes 16 columns (wide, 2 bit per cell), the array has 15")
    ):
        check_mappable(table, **base, encoding=Encoding("wide", columns_per_slice=4, reference_columns=1))


def test_hard_policy_is_the_default():
    table = make_table([matrix(5, 20, 10)])
    np.testing.assert_array_equal(place(table, 16, 4).tiles, place(table, 16, 4, HARD).tiles)
