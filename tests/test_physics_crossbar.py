"""Crossbars: seventeen mappings against an independent derivation, converters, tiles, faults, gradients, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from physics import (
    Adc,
    CrossbarCells,
    ReadDisturb,
    Wires,
    list_mappings,
    load_mapping,
    program_crossbar,
    replace,
)

X64 = jax.config.read("jax_enable_x64")
HRS, LRS, VOLTAGE, OHM = 5.37, 31.91, 0.2, 20.0  # uA, uA, V, ohm
D = LRS - HRS
SLICES = (1, 3, 4)
INPUTS, OUTPUTS, ROOM = 11, 7, 13  # inputs, outputs, inputs that the array has room for


def tol(single: float, double: float) -> float:
    return double if X64 else single


def cells(**named) -> CrossbarCells:
    return CrossbarCells.from_currents(HRS * 1e-6, LRS * 1e-6, VOLTAGE, **named)


def numbers(name: str, seed: int = 0):
    rng = np.random.default_rng(seed)
    if name.startswith("BNN"):
        return rng.choice([-1, 1], (INPUTS, OUTPUTS)), rng.choice([-1, 1], (9, INPUTS))
    if name.startswith("TNN"):
        return rng.integers(-1, 2, (INPUTS, OUTPUTS)), rng.integers(-1, 2, (9, INPUTS))
    low, high = (0, 256) if "UINT" in name else (-128, 128)
    return rng.integers(-128, 128, (INPUTS, OUTPUTS)), rng.integers(low, high, (9, INPUTS))


class Derivation:
    """The products written out in currents (uA), cell by cell, one formula per mapping; float64 NumPy, wires by a loop."""

    def __init__(self, w, bits=None, low=-1.0, high=1.0, ohm=0.0):
        self.w, self.bits, self.low, self.high, self.ohm = w, bits, low, high, ohm

    def line(self, levels, drive):
        """Current of the columns of cells with `levels` (rows, columns), 0 to 1, far end first."""
        currents = np.where(drive[:, None] > 0, HRS + D * levels, 0.0)
        if self.ohm == 0:
            return currents.sum(0)
        g = np.zeros(levels.shape[1])
        rows = ROOM * (levels.shape[0] // INPUTS)
        for row in range(rows):
            g = g + (currents[row] / VOLTAGE if row < len(currents) else 0)
            g = 1 / (1 / np.maximum(g, 1e-30) + self.ohm * 1e-6)
        return g * VOLTAGE

    def adc(self, current, scale, signed):
        if self.bits is None:
            return current * scale
        full = ROOM * (D if signed else LRS)
        codes = 2**self.bits - 1 if signed else 2**self.bits
        q = (self.high - self.low) * full / (codes - 1)
        x = np.minimum(np.maximum(current, self.low * full), self.high * full)
        return np.rint((np.rint((x - self.low * full) / q) * q + self.low * full) * scale)

    def product(self, name, x):
        w, n = self.w, len(x)
        up, down, v, u = (w > 0) * 1, (w < 0) * 1, (x > 0) * 1, (x < 0) * 1
        if name in ("BNN_I", "BNN_II"):
            drive, sign = (v, 1) if name == "BNN_I" else (u, -1)
            difference = self.line(up, drive) - self.line(down, drive)
            return self.adc(difference, sign * 2 / D, True) - sign * w.sum(0)
        if name in ("BNN_III", "BNN_IV"):
            stored, sign = (up, 1) if name == "BNN_III" else (down, -1)
            positive = self.adc(self.line(stored, v) - HRS * x.sum(), sign * 2 / D, False)
            return positive - self.adc(self.line(stored, u), sign * 2 / D, False) - sign * x.sum()
        two_rows = np.stack([up, down], 1).reshape(-1, w.shape[1]), np.stack([v, u], 1).ravel()
        if name == "BNN_V":
            return self.adc(self.line(*two_rows) - n * HRS, 2 / D, False) - n
        if name in ("BNN_VI", "TNN_I"):
            mirrored = np.stack([down, up], 1).reshape(-1, w.shape[1])
            return self.adc(self.line(*two_rows) - self.line(mirrored, two_rows[1]), 1 / D, True)
        if name in ("TNN_II", "TNN_III"):
            code = x % 4 if name == "TNN_II" else x + 1
            one, two = ((code // place) % 2 for place in (1, 2))
            first, second = (self.line(up, bit) - self.line(down, bit) for bit in (one, two))
            if name == "TNN_II":
                return self.adc(first, 1 / D, True) - self.adc(second, 2 / D, True)
            return self.adc(first, 1 / D, True) + self.adc(second, 2 / D, True) - w.sum(0)
        if name in ("TNN_IV", "TNN_V"):
            code = w % 4 if name == "TNN_IV" else w + 1
            low, high, h = code % 2, code // 2, HRS * x.sum()
            before, after, sign = (h / 2, -h / 2, -1) if name == "TNN_IV" else (0, 3 * h, 1)
            small = self.adc(self.line(low, v) + before, 1 / D, False) - self.adc(self.line(low, u) + after, 1 / D, False)
            big = self.adc(self.line(high, v), 2 / D, False) - self.adc(self.line(high, u), 2 / D, False)
            return small + sign * big - (x.sum() if name == "TNN_V" else 0)
        return self.integers(name, x)

    def integers(self, name, x):
        w, result, shifts = self.w, 0.0, np.cumsum((0, *SLICES[::-1]))[::-1][1:]
        if name.startswith("I_DIFF"):
            passes = [(np.maximum(s * x, 0) >> b & 1, s * 2**b) for s, count in ((1, 7), (-1, 8)) for b in range(count)]
        elif name.startswith("I_TC"):
            passes = [((x % 256) >> b & 1, 2**b if b < 7 else -128) for b in range(8)]
        else:
            shifted = x + 128 if name.startswith("I_OFFS") else x
            passes = [(shifted >> b & 1, 2**b) for b in range(9 if name.startswith("I_OFFS") else 8)]
        for bits, shift in zip(SLICES, shifts, strict=True):
            top = 2**bits - 1
            for drive, place in passes:
                scale = place * 2.0**shift * top / D
                if name.endswith("OFFS"):
                    result += self.adc(self.line(((w + 128) >> shift & top) / top, drive), scale, False)
                else:
                    pair = (self.line((np.maximum(s * w, 0) >> shift & top) / top, drive) for s in (1, -1))
                    result += self.adc(np.subtract(*pair), scale, True)
        if name.endswith("OFFS"):
            result = result - x.sum() * (128 + HRS / D * sum((2**b - 1) * 2**s for b, s in zip(SLICES, shifts, strict=True)))
        return result - 128 * w.sum(0) if name.startswith("I_OFFS") else result


def build(name: str, weights, wires=None, spare=1, **named):
    mapping = load_mapping(name, slices=SLICES)
    return program_crossbar(
        weights, mapping, cells(), rows=ROOM * mapping.rows_per_weight * spare, columns=100, wires=wires, **named
    )


@pytest.mark.parametrize("name", list_mappings())
def test_mapping_against_an_independent_derivation(name):
    """Ideal: exact integers. 5-bit converter whose range avoids halves, and IR drop with two unused rows: the same numbers."""
    w, x = numbers(name)
    ideal, dropping = build(name, w), build(name, w, Wires(OHM))
    low = -0.93 if ideal.mapping.differential else 0.03
    converter = Adc(bits=5.0, low=low, high=0.971)
    run = jax.jit(lambda a, b, adc: (a.mvm(x, Adc.ideal()), a.mvm(x, adc), b.mvm(x, Adc.ideal())))
    exact, coarse, dropped = (np.asarray(r) for r in run(ideal, dropping, converter))
    np.testing.assert_array_equal(exact, x @ w)
    np.testing.assert_allclose(coarse, [Derivation(w, 5, low, 0.971).product(name, i) for i in x], atol=tol(0.05, 1e-6))
    expected = np.array([Derivation(w, ohm=OHM).product(name, i) for i in x])
    np.testing.assert_allclose(dropped, expected, atol=tol(3e-6, 1e-12) * np.abs(expected).max() + tol(2e-4, 0))
    assert np.abs(expected - x @ w).max() > 0.3  # the wires matter


def test_published_costs_of_mappings():
    """Cells per weight (rows x columns) and sequential activations, as in CIM-Explorer's table."""
    found = {n: load_mapping(n) for n in list_mappings()}
    costs = {n: (m.rows_per_weight, m.columns_per_weight, m.passes) for n, m in found.items()}
    assert len(costs) == 17
    assert costs["BNN_I"] == costs["BNN_II"] == (1, 2, 1)
    assert costs["BNN_III"] == costs["BNN_IV"] == (1, 1, 2)
    assert costs["BNN_V"] == (2, 1, 1)
    assert costs["BNN_VI"] == costs["TNN_I"] == (2, 2, 1)
    assert all(costs[n] == (1, 2, 2) for n in ("TNN_II", "TNN_III", "TNN_IV", "TNN_V"))
    assert costs["I_DIFF_W_DIFF_1XB"] == (1, 4, 15)  # as coded; the text says 16
    assert costs["I_DIFF_W_DIFF_2XB"] == (1, 8, 8)
    assert costs["I_OFFS_W_DIFF"] == (1, 4, 9)
    assert costs["I_TC_W_DIFF"] == costs["I_UINT_W_DIFF"] == (1, 4, 8)
    assert costs["I_UINT_W_OFFS"] == (1, 2, 8)


def test_converter_by_hand():
    # BNN_I, 16 rows: full scale 16 D, 4 bits differential: 15 codes, step 32/14 = 2.2857 D. Two inputs +1 on weights +1, +1 and
    # one -1: current 2 D, (2 + 16) / 2.2857 = 7.875 -> 8 -> 8 * 2.2857 - 16 = 2.2857 D, times 2 = 4.571 -> 5, less sum w = 3: 2.
    mapping = load_mapping("BNN_I")
    crossbar = program_crossbar(np.ones((3, 1), int), mapping, cells(), rows=16)
    assert crossbar.mvm(np.array([1, 1, -1]), Adc.full_range(mapping, 4.0)) == 2.0
    np.testing.assert_allclose(crossbar.full_scale, 16 * D * 1e-6, rtol=1e-5)


def test_truncation_of_the_published_simulator():
    """Each pass is stored into an integer: an IR drop that loses a little of every pass loses up to one unit in each."""
    w, x = numbers("TNN_III")
    crossbar = build("TNN_III", w, Wires(1.0))
    real, whole = (np.asarray(crossbar.mvm(x, Adc.ideal(), accumulate=kind)) for kind in ("real", "int32"))
    np.testing.assert_array_equal(whole, np.rint(whole))
    assert 0 < np.abs(real - whole).max() <= 2


@pytest.mark.parametrize("name", ["BNN_I", "BNN_V", "TNN_III", "TNN_V", "I_UINT_W_OFFS"])
def test_tiles_add_their_digital_results(name):
    w, x = numbers(name)
    mapping = load_mapping(name)
    rows = 4 * mapping.rows_per_weight  # 11 inputs: tiles of 4, 4 and 3
    adc = Adc.full_range(mapping, 6.0)
    whole = program_crossbar(w, mapping, cells(), rows=rows, tiled=True)
    parts = [program_crossbar(w[i : i + 4], mapping, cells(), rows=rows) for i in (0, 4, 8)]
    single = sum(np.asarray(part.mvm(x[:, i : i + 4], adc)) for part, i in zip(parts, (0, 4, 8), strict=True))
    np.testing.assert_allclose(whole.mvm(x, adc), single, atol=tol(1e-2, 1e-9))
    np.testing.assert_array_equal(whole.mvm(x, Adc.ideal()), x @ w)
    assert whole.mvm(x.reshape(3, 3, -1), adc).shape == (3, 3, OUTPUTS)


def test_more_bits_are_better_and_clipping_costs():
    w, x = numbers("BNN_I")
    crossbar = build("BNN_I", w)
    errors = [np.abs(np.asarray(crossbar.mvm(x, Adc.full_range(crossbar.mapping, b))) - x @ w).max() for b in (2.0, 4.0, 8.0)]
    assert errors[0] > errors[1] > errors[2] == 0
    calibrated = Adc.calibrated(crossbar, x, 4.0)
    assert calibrated.high - calibrated.low < 2
    finer = np.abs(np.asarray(crossbar.mvm(x, calibrated)) - x @ w).mean()
    assert finer < np.abs(np.asarray(crossbar.mvm(x, Adc.full_range(crossbar.mapping, 4.0))) - x @ w).mean()


def test_calibrated_range_of_single_ended_converters_is_what_was_seen():
    w, x = numbers("BNN_III")
    crossbar = build("BNN_III", w)
    adc, currents = Adc.calibrated(crossbar, x, 8.0), crossbar.currents(x)
    np.testing.assert_allclose([adc.low, adc.high], [currents.min(), currents.max()], rtol=1e-6)
    np.testing.assert_allclose(crossbar.mvm(x, adc), x @ w, atol=1)


def test_stuck_cells():
    """All stuck at HRS: differential outputs are the digital constant alone. A share stuck: that share of cells."""
    w, x = numbers("BNN_I")
    mapping = load_mapping("BNN_I")
    dead = program_crossbar(w, mapping, cells(stuck=(1.0, 0.0)), jax.random.key(0))
    np.testing.assert_allclose(dead.mvm(x, Adc.ideal()), np.broadcast_to(-w.sum(0), (9, OUTPUTS)))
    large = np.ones((256, 200), int)
    some = program_crossbar(large, mapping, cells(stuck=(0.1, 0.02)), jax.random.key(1), columns=400)
    state, cell_count = np.asarray(some.state)[0], 256 * 200
    for observed, chance in ((np.mean(state[:, 0] == 0), 0.1), (np.mean(state[:, 1] == 1), 0.02)):
        assert abs(observed - chance) < 3 * np.sqrt(chance * (1 - chance) / cell_count)


def test_effects_act_together():
    """With wires, the published simulator forgets read noise and disturb; here each changes the product of the others."""
    w, x = numbers("BNN_I")
    key, mapping = jax.random.key(3), load_mapping("BNN_I")
    noisy = cells(read_noise=(1e-6, 4e-6))
    wired = program_crossbar(w, mapping, noisy, rows=ROOM, wires=Wires(OHM))
    plain = program_crossbar(w, mapping, noisy, rows=ROOM)
    disturbed = wired.disturbed(ReadDisturb(), 1e12, 1e-6)
    results = [np.asarray(c.mvm(x, Adc.ideal(), k)) for c in (plain, wired, disturbed) for k in (None, key)]
    for i, first in enumerate(results):
        for second in results[i + 1 :]:
            assert np.abs(first - second).max() > 0.01
    # LRS loses (1e6 s / 102 s)^-0.0159 = 0.864 of its conductance, HRS nothing.
    np.testing.assert_allclose(np.asarray(disturbed.conductance).max(), 0.8639 * LRS / VOLTAGE * 1e-6, rtol=1e-3)
    np.testing.assert_allclose(np.asarray(disturbed.conductance).min(), HRS / VOLTAGE * 1e-6, rtol=1e-5)


def test_drift_takes_a_number_an_array_or_a_law():
    w, x = numbers("BNN_III")
    crossbar = build("BNN_III", w)
    for factor in (0.9, jnp.full(crossbar.state.shape, 0.9), lambda conductance: 0.9 + 0 * conductance):
        faded = crossbar.drifted(factor)
        np.testing.assert_allclose(faded.conductance, 0.9 * crossbar.conductance, rtol=1e-5)
    np.testing.assert_allclose(faded.drifted(1 / 0.9).mvm(x, Adc.ideal()), x @ w, atol=tol(1e-4, 1e-12))


def test_devices_and_seeds_are_batched_by_vmap():
    w, x = numbers("BNN_I")
    mapping, adc = load_mapping("BNN_I"), Adc.ideal()

    def run(lrs, key):
        device = replace(cells(program_noise=(1e-6, 2e-6)), {"g_lrs": lrs})
        return program_crossbar(w, mapping, device, key, rows=ROOM).mvm(x, adc)

    levels, keys = jnp.array([100e-6, 150e-6]), jax.random.split(jax.random.key(0), 3)
    every = jax.vmap(jax.vmap(run, (None, 0)), (0, None))(levels, keys)
    assert every.shape == (2, 3, 9, OUTPUTS)
    np.testing.assert_allclose(every[1, 2], run(levels[1], keys[2]), atol=tol(1e-3, 1e-10))
    assert np.std(np.asarray(every), axis=1).mean() > 0.01


def test_changed_values_do_not_retrace():
    w, x = numbers("TNN_I")
    traces = 0

    @jax.jit
    def run(crossbar, adc, key):
        nonlocal traces
        traces += 1
        return crossbar.mvm(x, adc, key)

    for seed, bits in enumerate((4, 8.0, 6.5)):
        crossbar = build("TNN_I", np.roll(w, seed), Wires(1.0 + seed))
        run(crossbar, Adc.full_range(crossbar.mapping, bits), jax.random.key(seed))
    assert traces == 1


SLOW = pytest.mark.slow


@pytest.mark.parametrize("wires", [pytest.param(None, marks=SLOW), "scan", pytest.param("tree", marks=SLOW)])
def test_gradients_agree_with_finite_differences(wires):
    """Of a product with read noise and a soft converter: in the cells, the wires, the range and resolution of the converter."""
    w, x = numbers("BNN_III")
    with jax.enable_x64(True):
        device = cells(read_noise=(1e-6, 4e-6), program_noise=(0.5e-6, 2e-6))
        device = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), device)
        line = None if wires is None else Wires(jnp.asarray(OHM, jnp.float64), method=wires)
        adc = Adc(bits=jnp.asarray(4.0, jnp.float64), low=0.03, high=0.97, rounding="soft", sharpness=3.0)
        mapping, key = load_mapping("BNN_III"), jax.random.key(0)

        @jax.jit
        def product(factors):
            scaled = jax.tree.map(jnp.multiply, (device, line, adc), factors)
            crossbar = program_crossbar(w, mapping, scaled[0], key, rows=ROOM, wires=scaled[1])
            return crossbar.mvm(x[:2], scaled[2], key).sum()

        ones = jax.tree.map(jnp.ones_like, (device, line, adc))
        check_grads(product, (ones,), order=1, modes=["rev"], rtol=2e-4, atol=2e-4, eps=1e-6)


def test_straight_through_has_the_exact_value_and_the_ideal_slope():
    w, x = numbers("BNN_I")
    crossbar = build("BNN_I", w)

    def total(scale, adc):
        return crossbar.drifted(scale).mvm(x, adc).sum()

    hard, through = (Adc.full_range(crossbar.mapping, 4.0, rounding) for rounding in ("hard", "straight_through"))
    value, slope = jax.value_and_grad(total)(1.01, through)
    assert value == total(1.01, hard)
    np.testing.assert_allclose(slope, jax.grad(total)(1.01, Adc.ideal()), rtol=tol(1e-4, 1e-10))
    assert jax.grad(total)(1.01, hard) == 0


@pytest.mark.parametrize("noise", ["cell", "column"])
def test_gradients_are_finite_without_noise(noise):
    """Zero deviations, zero reads and zero cycles are inside the declared range."""
    w, x = numbers("TNN_II")

    def total(device, reads):
        crossbar = program_crossbar(w, load_mapping("TNN_II"), device, jax.random.key(0))
        return jnp.sum(crossbar.disturbed(ReadDisturb(), reads, 1e-7).mvm(x, Adc.ideal(), jax.random.key(1), noise=noise) ** 2)

    slopes = jax.jit(jax.grad(total, argnums=(0, 1)))(cells(), 0.0)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))


BNN = load_mapping("BNN_I")
BAD = [
    (lambda: program_crossbar(np.zeros((2, 2), int), BNN, cells()), r"weight 0 is outside the mapping's alphabet \{-1, 1\}"),
    (
        lambda: program_crossbar(np.full((2, 2), 128), load_mapping("I_UINT_W_DIFF"), cells()),
        r"weight 128 is outside the mapping's alphabet -128\.\.127",
    ),
    (
        lambda: program_crossbar(np.ones((2, 2), int), load_mapping("I_UINT_W_DIFF"), cells(levels=8)),
        "I_UINT_W_DIFF needs 16 levels per cell, CrossbarCells.levels = 8",
    ),
    (
        lambda: program_crossbar(np.ones((300, 2), int), BNN, cells()),
        "weights 300 x 2 in BNN_I need 300 x 4 cells, the array has 256 x 256: use tiled=True",
    ),
    (lambda: program_crossbar(np.ones((4, 2), int), BNN, cells()).mvm(np.ones(3, int), Adc.ideal()), r"inputs have shape \(3,\)"),
    (lambda: program_crossbar(np.ones((2, 2), int), BNN, cells()).mvm(np.zeros(2, int), Adc.ideal()), "input 0 is outside"),
    (lambda: load_mapping("BNN_1"), "unknown mapping 'BNN_1'; close: BNN_V, BNN_I, BNN_VI"),
    (
        lambda: load_mapping("I_TC_W_DIFF", slices=(4, 3)),
        r"slices = \(4, 3\) bits must be positive and add up to weight_bits = 8",
    ),
    (lambda: CrossbarCells(g_hrs=2e-4, g_lrs=1e-4), "CrossbarCells.g_lrs = 0.0001 S must exceed g_hrs = 0.0002 S"),
    (lambda: cells(stuck=(0.6, 0.6)), "stuck_hrs [+] stuck_lrs = 1.2 is above 1"),
    (lambda: Adc(bits=0.5), r"Adc.bits = 0.5 bit is outside its range \[1, 24\] bit"),
    (lambda: Adc.full_range(BNN, 4.0, "softer"), "unknown rounding 'softer'; close: soft"),
    (lambda: ReadDisturb().factor(1.0, 0.5), r"ReadDisturb voltage = 0.5 V is outside its range \[-0.4, 0.4\] V"),
    (
        lambda: program_crossbar(np.ones((2, 2), int), BNN, cells(), wires=Wires()).mvm(
            np.ones(2, int), Adc.ideal(), jax.random.key(0), noise="column"
        ),
        "noise = 'column' needs an array without wires",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
