"""The block model: HotSpot's numbers, an independent matrix, the identities of every passive network, untrusted files."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physics import (
    Floorplan,
    HeatSinkPackage,
    bounds,
    draw_floorplan,
    parse_power_trace,
    read_floorplan,
    read_power_trace,
)

X64 = jax.config.read("jax_enable_x64")
MM = 1e-3


def tol(single: float, double: float) -> float:
    return double if X64 else single


def numbers(text: str) -> np.ndarray:
    return np.array(text.split(), float)


# Run of HotSpot (uvahotspot/HotSpot f18831e, block model, integrator tolerance tightened) on 64 tiles, example1 package,
# ambient 318.15 K: column widths and row heights (mm), sixty times the mean power and the power of the first 5 ms (W), and some
# of the temperatures (K) it wrote.
WIDTHS, HEIGHTS = [1, 1.5, 1, 1.25, 1.25, 1.5, 1, 1.5], [1.25, 1.25, 1, 1.5, 1, 1.5, 1.5, 1]
SIXTY_MEANS = numbers("""
    21.268059 24.852352 22.053035 10.247833 25.864673 13.726875 10.835578 28.537324
    19.413080 13.738127 14.300436 14.049030 16.718402 20.325769 13.451346 17.563961
    14.489051 20.908038 10.784348 10.176352 10.684032 15.211100 13.889845 19.648109
    14.508524 7.090631 12.805987 14.482670 25.260869 16.614852 16.617706 31.021429
    16.416839 44.590446 31.497595 7.523097 42.513858 17.260004 10.372270 31.617916
    11.213499 15.189163 19.684909 13.063074 8.968566 11.127245 19.891460 17.598785
    31.125732 26.412097 22.438885 19.069171 13.051359 11.225146 16.086105 31.868797
    11.113574 28.281889 36.583751 7.560732 10.320702 10.973056 25.523362 26.070588""")
FIRST = numbers("""
    0.156274 0.224303 0.193921 0.056302 0.075042 0.218388 0.001316 0.205307
    1.185042 0.116984 0.075758 0.069606 0.063717 1.097044 0.126137 1.124149
    0.248875 0.198165 0.155545 0.247240 0.053827 0.040053 1.138910 0.996760
    0.008920 0.128722 0.116552 0.229292 0.157307 0.128529 0.124218 0.061879
    0.002949 0.048101 0.173008 0.050152 1.078159 0.986708 0.207512 1.024390
    0.066900 0.220083 0.127448 0.211788 0.159929 0.185443 0.022874 0.135286
    0.126943 0.217835 0.090316 1.135321 1.000588 0.096908 0.080759 0.037550
    0.204085 0.094862 1.230462 0.147498 0.151264 0.159499 1.154887 0.037697""")
STEADY = {
    "t0_0": 323.143867149, "t1_1": 322.477997943, "t3_3": 322.678391189, "t5_5": 322.276463315, "t7_7": 323.272824437,
    "iface_t1_2": 322.605724217, "hsp_t2_4": 321.775292465, "hsink_t3_6": 321.331843895, "inode_0": 320.610960431,
    "inode_2": 320.605181752, "inode_4": 320.598819596, "inode_6": 320.592897065, "inode_8": 320.094566814,
    "inode_10": 320.089863831, "inode_11": 320.06373607,
}  # fmt: skip
AFTER_5_MS = {
    "t0_0": 319.525093041, "t0_1": 319.134318454, "t0_2": 319.185800713, "t0_5": 319.229486066, "t0_7": 319.299524429,
    "t1_1": 319.094381451, "t3_3": 319.119625952, "t5_5": 319.101304417, "t7_7": 318.842109821,
}  # fmt: skip


@functools.cache
def tiles() -> Floorplan:
    lefts, bottoms = np.cumsum([0, *WIDTHS[:-1]]), np.cumsum([0, *HEIGHTS[:-1]])
    lines = [
        f"t{i}_{j} {WIDTHS[j] * MM:.9f} {HEIGHTS[i] * MM:.9f} {lefts[j] * MM:.9f} {bottoms[i] * MM:.9f}"
        for i in range(8)
        for j in range(8)
    ]
    return Floorplan.from_text("\n".join(lines))


def uneven() -> Floorplan:
    """Seven blocks of unlike sizes; the cache is wider than four neighbours, the pins are slim."""
    return Floorplan.from_blocks(
        {
            "cache": (12 * MM, 3 * MM, 0, 0),
            "core0": (4 * MM, 5 * MM, 0, 3 * MM),
            "core1": (4 * MM, 5 * MM, 4 * MM, 3 * MM),
            "pim0": (2 * MM, 2 * MM, 8 * MM, 3 * MM),
            "pim1": (2 * MM, 2 * MM, 10 * MM, 3 * MM),
            "pins": (0.5 * MM, 3 * MM, 8 * MM, 5 * MM),
            "io": (3.5 * MM, 3 * MM, 8.5 * MM, 5 * MM),
        }
    )


UNEVEN_POWER = np.array([4.0, 10.0, 6.0, 2.0, 5.0, 0.5, 1.0])


def random_floorplan(seed: int) -> Floorplan:
    """A chip of any aspect cut by straight lines into 9 to 14 unlike blocks, moved away from the origin."""
    rng = np.random.default_rng(seed)
    boxes = [(*rng.uniform(3, 18, 2), 0.0, 0.0)]
    while len(boxes) < rng.integers(9, 15):
        w, h, x, y = boxes.pop(int(np.argmax([b[0] * b[1] * rng.uniform(0.3, 1) for b in boxes])))
        cut = rng.uniform(0.25, 0.75)
        if w > h:
            boxes += [(w * cut, h, x, y), (w * (1 - cut), h, x + w * cut, y)]
        else:
            boxes += [(w, h * cut, x, y), (w, h * (1 - cut), x, y + h * cut)]
    moved = np.array(boxes) + np.append([0, 0], rng.uniform(-5, 5, 2))
    return Floorplan.from_blocks({f"b{i}": box * MM for i, box in enumerate(moved)})


def random_package(seed: int, batch: int | None = None) -> HeatSinkPackage:
    """Every constant up to a factor 2 from the default, convection over three decades, spreader above 20 mm."""
    rng = np.random.default_rng(seed + 1000)
    shape = () if batch is None else (batch,)
    default = HeatSinkPackage()
    values = {f.name: getattr(default, f.name) * np.exp(rng.uniform(-0.69, 0.69, shape)) for f in dataclasses.fields(default)}
    values["s_spreader"] = rng.uniform(0.02, 0.05, shape)
    values["s_sink"] = values["s_spreader"] * rng.uniform(1.1, 4.0, shape)
    values["r_convec"] = 10 ** rng.uniform(-2, 1, shape)
    values["ambient"] = np.full(shape, 318.15)
    if batch is None:
        return HeatSinkPackage(**values)
    return jax.vmap(lambda v: HeatSinkPackage(**v))({k: jnp.asarray(v, float) for k, v in values.items()})


def matrix_in_float64(floorplan: Floorplan, package: HeatSinkPackage):
    """G and C written out block by block in the way of HotSpot's source, with resistances in series and no shared code."""
    p = {f.name: float(getattr(package, f.name)) for f in dataclasses.fields(package)}
    w, h, x, y = (np.asarray(a, float) for a in (floorplan.width, floorplan.height, floorplan.left, floorplan.bottom))
    x, y = x - x.min(), y - y.min()
    n, chip_w, chip_l = len(w), (x + w).max(), (y + h).max()
    k = [p["k_chip"], p["k_interface"], p["k_spreader"], p["k_sink"]]
    t = [p["t_chip"], p["t_interface"], p["t_spreader"], p["t_sink"]]
    g, c = np.zeros((4 * n + 12, 4 * n + 12)), np.zeros(4 * n + 12)

    def join(i, j, *resistances):
        value = 1 / sum(resistances)
        g[i, i] += value
        g[j, j] += value
        g[i, j] -= value
        g[j, i] -= value

    def slab(k, t, area):
        return t / (k * area)

    for layer in range(4):
        for i in range(n):
            for j in range(i):
                across = min(x[i] + w[i], x[j] + w[j]) - max(x[i], x[j])
                along = min(y[i] + h[i], y[j] + h[j]) - max(y[i], y[j])
                if abs(across) < 1e-6 < along:
                    sides, length = (w[i], w[j]), along
                elif abs(along) < 1e-6 < across:
                    sides, length = (h[i], h[j]), across
                else:
                    continue
                join(layer * n + i, layer * n + j, *(slab(k[layer], s / 2, length * t[layer]) for s in sides))
    area = w * h
    for i in range(n):
        for layer in range(3):
            join(layer * n + i, (layer + 1) * n + i, slab(k[layer], t[layer], area[i]))
        g[3 * n + i, 3 * n + i] += 1 / (slab(k[3], t[3], area[i]) + p["r_convec"] * p["s_sink"] ** 2 / area[i])
        for layer, heat in enumerate(("p_chip", "p_interface", "p_spreader", "p_sink")):
            c[layer * n + i] = 0.333 * p[heat] * t[layer] * area[i]
        c[3 * n + i] += 0.333 * p["c_convec"] * area[i] / p["s_sink"] ** 2
    inner, sink = p["s_spreader"], p["s_sink"]
    outer_area = (sink**2 - inner**2) / 4
    for side, (a, b) in enumerate([(chip_w, chip_l)] * 2 + [(chip_l, chip_w)] * 2):
        on = [x < 1e-6, x + w > chip_w - 1e-6, y + h > chip_l - 1e-6, y < 1e-6][side]
        rim_area = (inner + b) * (inner - a) / 4
        for layer, base in ((2, 4 * n), (3, 4 * n + 4)):
            half = [1 / slab(k[layer], (w if side < 2 else h)[i] / 2, (h if side < 2 else w)[i] * t[layer]) for i in range(n)]
            entry = slab(k[layer], (inner - a) / 4, (inner + 3 * b) / 4 * t[layer])
            total = sum(half[i] for i in np.flatnonzero(on))
            for i in np.flatnonzero(on):
                join(layer * n + i, base + side, 1 / half[i], entry * total / half[i])
        join(4 * n + side, 4 * n + 4 + side, slab(k[2], t[2], rim_area))
        out = slab(k[3], (sink - inner) / 4, (sink + 3 * inner) / 4 * t[3])
        join(4 * n + 4 + side, 4 * n + 8 + side, out, slab(k[3], (inner - a) / 4, (3 * inner + b) / 4 * t[3]))
        for node, size in ((4 * n + 4 + side, rim_area), (4 * n + 8 + side, outer_area)):
            g[node, node] += 1 / (slab(k[3], t[3], size) + p["r_convec"] * sink**2 / size)
            c[node] = 0.333 * (p["p_sink"] * t[3] * size + p["c_convec"] * size / sink**2)
        c[4 * n + side] = 0.333 * p["p_spreader"] * t[2] * rim_area
    return g, c


def test_steady_state_of_hotspot():
    floorplan, package = tiles(), HeatSinkPackage()
    network = floorplan.network(package)
    theta = network.steady(floorplan.inject(jnp.asarray(SIXTY_MEANS / 60)))
    found = [318.15 + float(theta[network.names.index(name)]) for name in STEADY]
    np.testing.assert_allclose(found, list(STEADY.values()), rtol=0, atol=tol(3e-6, 1e-6))
    assert len(network.names) == 4 * 64 + 12


def test_first_interval_of_hotspot():
    floorplan = tiles()
    network = floorplan.network(HeatSinkPackage())
    power = floorplan.inject(jnp.asarray(FIRST))
    theta = network.step(jnp.zeros(268), power, 5e-3)
    found = [318.15 + float(theta[network.names.index(name)]) for name in AFTER_5_MS]
    np.testing.assert_allclose(found, list(AFTER_5_MS.values()), rtol=0, atol=tol(1e-4, 1e-6))


def test_one_block_by_hand():
    # 10 mm x 10 mm: die 130 * 1e-4 / 150e-6 = 86.6667 W/K, interface 20, spreader 40; convection
    # 1e-4 / (6.9e-3 / 400 + 0.1 * 3.6e-3) = 1e-4 / 3.7725e-4 = 0.265076 W/K.
    # Die 0.333 * 1.6303e6 * 150e-6 * 1e-4 = 8.143349e-3 J/K.
    # Rim west: area (0.03 + 0.01) (0.03 - 0.01) / 4 = 2e-4 m2, down 400 * 2e-4 / 1e-3 = 80 W/K.
    # Edge of the spreader: half 0.4 * 2 = 0.8 W/K, entry 0.005 / (0.4 * 0.015) = 0.833333 K/W: 0.8 / (1 + 0.6666667) = 0.48 W/K.
    network = Floorplan.from_blocks({"die": (0.01, 0.01, 0, 0)}).network(HeatSinkPackage())
    assert network.names[:5] == ("die", "iface_die", "hsp_die", "hsink_die", "inode_0")
    by_link = dict(zip(network.links, np.asarray(network.conductance), strict=True))
    expected = {(0, 1): 86.66667, (1, 2): 20.0, (2, 3): 40.0, (2, 4): 0.48, (4, 8): 80.0}
    np.testing.assert_allclose([by_link[link] for link in expected], list(expected.values()), rtol=1e-6)
    np.testing.assert_allclose(network.ambient_conductance[3], 0.265076, rtol=1e-5)
    np.testing.assert_allclose(network.capacitance[0], 8.143349e-3, rtol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_matrix_of_unlike_floorplans_and_packages(seed):
    floorplan, package = random_floorplan(seed), random_package(seed)
    network = floorplan.network(package)
    g, c = matrix_in_float64(floorplan, package)
    scale = np.sqrt(np.outer(np.diag(g), np.diag(g)))
    np.testing.assert_allclose(np.asarray(network.matrix(), float) / scale, g / scale, rtol=0, atol=tol(2e-5, 1e-11))
    np.testing.assert_allclose(network.capacitance, c, rtol=tol(1e-5, 1e-11))
    power = np.random.default_rng(seed).uniform(0, 3, len(floorplan.names))
    exact = np.linalg.solve(g, np.append(power, np.zeros(len(g) - len(power))))
    theta = network.steady(floorplan.inject(jnp.asarray(power)))
    np.testing.assert_allclose(theta, exact, rtol=tol(3e-5, 1e-9), atol=tol(1e-4, 1e-9))


@functools.cache
def over_packages(batch: int = 100):
    """Everything the identities below compare, for the uneven chip in many packages; compiled once."""
    floorplan = uneven()
    nodes = 4 * len(floorplan.names) + 12

    def look(package, theta, power):
        network = floorplan.network(package)
        modes, zero, dt = network.modes(), jnp.zeros(nodes), 4e-3
        steady = network.steady(power)
        return {
            "propagator": jax.vmap(lambda e: modes.step(e, zero, dt))(jnp.eye(nodes)).T,
            "heated": modes.step(zero, power, dt),
            "cooled": modes.step(theta, zero, dt),
            "once": modes.step(theta, power, dt),
            "twice": modes.step(modes.step(theta, power, dt), power, dt),
            "double": modes.step(theta, power, 2 * dt),
            "start": modes.step(theta, power, 0.0),
            "end": modes.step(theta, power, 1e7),
            "steady": steady,
            "resistance": network.resistance(),
            "gains": modes.shapes @ jnp.diag(1 / modes.rates) @ modes.shapes.T,
            "stored": jnp.sum(network.capacitance * modes.increment(theta, power, dt)),
            "released": dt * jnp.sum(network.ambient_conductance * modes.mean(theta, power, dt)),
            "supplied": dt * jnp.sum(power),
            "released_for_ever": jnp.sum(network.ambient_conductance * steady),
            "theta": theta,
            "power": power,
        }

    rng = np.random.default_rng(3)
    theta, power = jnp.asarray(rng.uniform(0, 40, (batch, nodes))), jnp.asarray(rng.uniform(0, 5, (batch, nodes)))
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(look))(random_package(7, batch), theta, power))


def test_matrix_is_symmetric_positive_definite_with_ambient_row_sums():
    floorplan, packages = uneven(), random_package(11, 2000)

    @jax.jit
    @jax.vmap
    def look(package):
        network = floorplan.network(package)
        return network.matrix(), network.ambient_conductance

    g, ambient = map(np.asarray, look(packages))
    np.testing.assert_array_equal(g, np.swapaxes(g, 1, 2))
    diagonal = np.diagonal(g, axis1=1, axis2=2)
    assert np.max(np.abs(g.sum(-1) - ambient) / diagonal) < tol(2e-6, 1e-14)
    assert np.all(g[:, ~np.eye(g.shape[1], dtype=bool)] <= 0)
    scaled = g.astype(float) / np.sqrt(diagonal[:, :, None].astype(float) * diagonal[:, None, :])
    assert np.min(np.linalg.eigvalsh(scaled[:300])) > 0


def test_propagator_obeys_the_maximum_principle():
    found = over_packages()
    assert np.min(found["propagator"]) > -tol(1e-5, 1e-11)
    assert np.max(found["propagator"].sum(-1)) < 1 + tol(5e-6, 1e-11)
    assert np.min(found["heated"]) > -tol(1e-5, 1e-9)


def test_superposition_and_reciprocity():
    found = over_packages()
    np.testing.assert_allclose(found["once"], found["heated"] + found["cooled"], atol=tol(3e-4, 1e-9), rtol=tol(1e-5, 1e-10))
    np.testing.assert_allclose(found["resistance"], np.swapaxes(found["resistance"], 1, 2), rtol=tol(3e-5, 1e-11))
    assert np.all(found["resistance"] > 0)


def test_steps_compose_and_reach_their_limits():
    found = over_packages()
    np.testing.assert_allclose(found["double"], found["twice"], rtol=tol(2e-5, 1e-10), atol=tol(3e-4, 1e-9))
    np.testing.assert_array_equal(found["start"], found["theta"])
    hottest = np.max(found["steady"], axis=1, keepdims=True)
    assert np.max(np.abs(found["end"] - found["steady"]) / hottest) < tol(1e-5, 1e-9)


def test_energy_balances():
    found = over_packages()
    scale = np.abs(found["supplied"]) + np.abs(found["stored"]) + np.abs(found["released"])
    assert np.max(np.abs(found["supplied"] - found["stored"] - found["released"]) / scale) < tol(2e-5, 1e-10)
    np.testing.assert_allclose(found["released_for_ever"], found["power"].sum(-1), rtol=tol(1e-5, 1e-11))


def test_gains_of_the_modes_sum_to_the_resistance():
    found = over_packages()
    largest = np.max(found["resistance"], axis=(1, 2), keepdims=True)
    assert np.max(np.abs(found["resistance"] - found["gains"]) / largest) < tol(2e-5, 1e-10)


def test_conductance_cools_and_power_heats():
    """Every conductivity lowers the hottest block (dT/dg <= 0 node by node is tested in test_physics_networks)."""
    floorplan = uneven()

    def hottest(package, power):
        return jnp.max(floorplan.network(package).steady(floorplan.inject(power)))

    power = jnp.asarray(UNEVEN_POWER)
    by_package, by_power = jax.jit(jax.vmap(jax.grad(hottest, argnums=(0, 1)), (0, None)))(random_package(5, 400), power)
    for name in ("k_chip", "k_interface", "k_spreader", "k_sink"):
        assert np.all(np.asarray(getattr(by_package, name)) <= tol(1e-6, 1e-12)), name
    assert np.all(np.asarray(by_package.r_convec) > 0)
    assert np.all(np.asarray(by_power) > 0)
    for name in ("p_chip", "p_interface", "p_spreader", "p_sink", "c_convec", "ambient"):
        assert not np.any(np.asarray(getattr(by_package, name))), name


def test_order_and_place_of_the_blocks_do_not_matter():
    floorplan, order = uneven(), np.array([3, 0, 6, 1, 5, 2, 4])
    parts = (floorplan.width, floorplan.height, floorplan.left + 0.01, floorplan.bottom - 0.02)
    moved = Floorplan([floorplan.names[i] for i in order], *(np.asarray(part)[order] for part in parts))
    theta = floorplan.network(HeatSinkPackage()).steady(floorplan.inject(jnp.asarray(UNEVEN_POWER)))
    other = moved.network(HeatSinkPackage()).steady(moved.inject(jnp.asarray(UNEVEN_POWER[order])))
    np.testing.assert_allclose(moved.blocks(other), floorplan.blocks(theta)[order], rtol=tol(2e-5, 1e-10))


def test_turning_and_mirroring_the_chip_changes_nothing():
    floorplan, power = uneven(), jnp.asarray(UNEVEN_POWER)
    theta = floorplan.blocks(floorplan.network(HeatSinkPackage()).steady(floorplan.inject(power)))
    turned = Floorplan(floorplan.names, floorplan.height, floorplan.width, floorplan.bottom, floorplan.left)
    mirrored = Floorplan(
        floorplan.names, floorplan.width, floorplan.height, -(floorplan.left + floorplan.width), floorplan.bottom
    )
    for other in (turned, mirrored):
        found = other.blocks(other.network(HeatSinkPackage()).steady(other.inject(power)))
        np.testing.assert_allclose(found, theta, rtol=tol(2e-5, 1e-10))


def test_halving_a_block_leaves_its_mean():
    """Only the discretisation changes: a block between equal neighbours, with the same power density in both halves."""
    whole = {f"b{i}": (2 * MM, 4 * MM, 2 * i * MM, 0) for i in range(3)}
    split = {"b0": whole["b0"], "low": (2 * MM, 2 * MM, 2 * MM, 0), "high": (2 * MM, 2 * MM, 2 * MM, 2 * MM), "b2": whole["b2"]}
    one, two = Floorplan.from_blocks(whole), Floorplan.from_blocks(split)
    coarse = one.network(HeatSinkPackage()).steady(one.inject(jnp.array([1.0, 6.0, 1.0])))
    fine = two.network(HeatSinkPackage()).steady(two.inject(jnp.array([1.0, 3.0, 3.0, 1.0])))
    np.testing.assert_allclose(fine[1], fine[2], rtol=tol(1e-5, 1e-11))
    np.testing.assert_allclose((fine[1] + fine[2]) / 2, coarse[1], rtol=0.03)


@pytest.mark.skipif(not X64, reason="central differences need float64")
def test_gradients_against_central_differences():
    """Steady state and transient, in every package constant and every size and position."""
    floorplan, power = uneven(), jnp.asarray(UNEVEN_POWER)
    weights = jnp.linspace(0.5, 1.5, len(floorplan.names))

    def outcome(floorplan, package):
        network = floorplan.network(package)
        start = network.steady(floorplan.inject(power))
        after = network.step(start, floorplan.inject(power[::-1]), 0.01)
        return jnp.sum(weights * floorplan.blocks(after)) + jnp.sum(floorplan.blocks(start) ** 2) / 50

    package = random_package(2)
    outcome_fast, slopes = jax.jit(outcome), jax.jit(jax.grad(outcome, argnums=(0, 1)))(floorplan, package)
    scale = float(outcome_fast(floorplan, package))
    for field in dataclasses.fields(package):
        value = getattr(package, field.name)
        step = 1e-6 * value
        ends = [outcome_fast(floorplan, dataclasses.replace(package, **{field.name: value + s})) for s in (step, -step)]
        by_log = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(
            getattr(slopes[1], field.name) * value, by_log, rtol=1e-5, atol=1e-8 * scale, err_msg=field.name
        )
    # A move that keeps the blocks together: the whole chip stretched along x, or its sizes grown with its positions.
    for fields in (("width", "left"), ("height", "bottom")):
        changed = [dataclasses.replace(floorplan, **{f: getattr(floorplan, f) * s for f in fields}) for s in (1 + 1e-6, 1 - 1e-6)]
        difference = (outcome_fast(changed[0], package) - outcome_fast(changed[1], package)) / 2e-6
        slope = sum(jnp.sum(getattr(slopes[0], f) * getattr(floorplan, f)) for f in fields)
        np.testing.assert_allclose(slope, difference, rtol=1e-5)


def test_gradients_are_finite_at_the_ends_of_every_range():
    floorplan, power = uneven(), jnp.asarray(UNEVEN_POWER)

    def hottest(package):
        network = floorplan.network(package)
        return jnp.max(network.step(network.steady(floorplan.inject(power)), floorplan.inject(2 * power), 1e-3))

    slopes = jax.jit(jax.value_and_grad(hottest))
    default = HeatSinkPackage()
    for label, ends in bounds(default).items():
        if label not in ("s_spreader", "s_sink"):
            for end in ends:
                for leaf in jax.tree.leaves(slopes(dataclasses.replace(default, **{label: end}))):
                    assert np.all(np.isfinite(leaf)), (label, end)


def test_batched_equals_single_and_changed_values_do_not_retrace():
    floorplan, power, traces = uneven(), jnp.asarray(UNEVEN_POWER), 0

    @jax.jit
    def hottest(floorplan, package):
        nonlocal traces
        traces += 1
        return jnp.max(floorplan.network(package).steady(floorplan.inject(power)))

    packages = random_package(9, 4)
    batched = jax.vmap(lambda p: jnp.max(floorplan.network(p).steady(floorplan.inject(power))))(packages)
    single = [hottest(floorplan, jax.tree.map(lambda a, i=i: a[i], packages)) for i in range(4)]
    np.testing.assert_allclose(batched, np.stack(single), rtol=tol(1e-5, 1e-12))
    wider = Floorplan(floorplan.names, floorplan.width * 1.01, floorplan.height, floorplan.left * 1.01, floorplan.bottom)
    assert hottest(wider, HeatSinkPackage()) < hottest(floorplan, HeatSinkPackage())
    assert traces == 1


FLP = """# a floorplan with everything HotSpot allows
# name width height left bottom
big\t0.004 0.002\t0.001 0.001   # words after the numbers

  small 2e-3 2e-3 1e-3 3e-3 1.75e6 0.01
Other 0.002 0.002 0.003 0.003
big small 0.5
"""


def test_floorplan_text():
    floorplan = Floorplan.from_text(FLP.replace("\n", "\r\n"))
    assert floorplan.names == ("big", "small", "Other")
    np.testing.assert_allclose(floorplan.extent, [4e-3, 4e-3], rtol=1e-6)
    np.testing.assert_allclose(floorplan.area, [8e-6, 4e-6, 4e-6], rtol=1e-6)
    assert floorplan.contacts.above == ((0, 1), (0, 2)) and floorplan.contacts.beside == ((1, 2),)
    assert floorplan.contacts.borders == ((0, 1), (0, 2), (1, 2), (0,))


def test_files(tmp_path):
    (tmp_path / "chip.flp").write_text(FLP)
    (tmp_path / "chip.ptrace").write_text("# powers\nOther BIG small\n1 2 3\n\n4 5.5 6e-1\n")
    floorplan = read_floorplan(tmp_path / "chip.flp")
    np.testing.assert_allclose(read_power_trace(str(tmp_path / "chip.ptrace"), floorplan), [[2, 3, 1], [5.5, 0.6, 4]], rtol=1e-6)
    (tmp_path / "bad.flp").write_bytes(b"\xff\xfe\x00block")
    with pytest.raises(ValueError, match=r"bad\.flp is not a text file"):
        read_floorplan(tmp_path / "bad.flp")


def test_files_of_any_size_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("physics.thermal.floorplan.MAX_BYTES", 2**20)
    (tmp_path / "huge.flp").write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(ValueError, match=r"huge\.flp is larger than 1 MiB"):
        read_floorplan(tmp_path / "huge.flp")


def test_white_space_is_allowed_and_carries_no_heat():
    """As in HotSpot's block model: two blocks joined by a third around an empty corner."""
    square = (2 * MM, 2 * MM)
    floorplan = Floorplan.from_blocks({"a": (*square, 0, 0), "b": (*square, 2 * MM, 0), "c": (*square, 0, 2 * MM)})
    g, _ = matrix_in_float64(floorplan, HeatSinkPackage())
    exact = np.linalg.solve(g, np.append([0, 3.0, 1.0], np.zeros(21)))
    theta = floorplan.network(HeatSinkPackage()).steady(floorplan.inject(jnp.array([0, 3.0, 1.0])))
    np.testing.assert_allclose(theta, exact, rtol=tol(2e-5, 1e-10))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1e-3 1e-3 0 0\nb 1e-3 1e-3 5e-4 0", r"blocks 'a' and 'b' overlap by 0.0005 m x 0.001 m"),
        ("a 1e-3 1e-3 0 0\nb 1e-3 1e-3 0 0", r"blocks 'a' and 'b' overlap"),
        ("a 1e-3 1e-3 0 0\nb 1e-3 1e-3 2e-3 0", r"block 'b' does not touch the rest of the floorplan"),
        ("a 1e-3 1e-3 0 0\nb 1e-3 1e-3 1e-3 1e-3", r"block 'b' does not touch the rest"),  # a corner is no contact
        ("a 0 1e-3 0 0", r"block 'a': width = 0 m is outside its range \[1e-06, 1\] m"),
        ("a 1e-3 -1e-3 0 0", r"block 'a': height = -0.001 m is outside"),
        ("a 1e-3 nan 0 0", r"floorplan line 1: 'nan' is not a finite number"),
        ("a 1e-3 wide 0 0", r"floorplan line 1: 'wide' is not a finite number"),
        ("# nothing\n\na 1e-3 1e-3 0", r"floorplan line 3: 4 columns, expected name, width, height, left, bottom"),
        ("a 1e-3 1e-3 0 0 1e6", r"floorplan line 1: 6 columns"),
        ("a 1e-3 1e-3 0 0\na 1e-3 1e-3 1e-3 0", r"floorplan line 2: block 'a' appears twice"),
        ("a 1e-3 1e-3 0 0\nA 1e-3 1e-3 1e-3 0", r"names of the blocks must be different"),
        ("# only words", r"the floorplan has no blocks"),
        ("x" * 300 + " 1e-3 1e-3 0 0", r"name of a block is longer than 256 characters"),
        ("\n".join(f"b{i} 1e-4 1e-4 {i}e-4 0" for i in range(2049)), r"line 2049: more than 2048 blocks"),
    ],
)
def test_impossible_floorplans_are_refused(text, message):
    with pytest.raises(ValueError, match=message) as error:
        Floorplan.from_text(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"power trace is empty"),
        ("big small Other", r"power trace has block names but no step"),
        ("big small\n1 2", r"power trace has no column for block 'Other'"),
        ("big small Otter\n1 2 3", r"unknown block 'Otter'; close: Other"),
        ("big small Other big\n1 2 3 4", r"block 'big' appears twice"),
        ("big small Other\n1 2", r"power trace line 2: 2 columns, expected 3"),
        ("big small Other\n1 2 -3", r"power trace line 2: block 'Other' has -3 W, must not be negative"),
        ("big small Other\n1 inf 3", r"power trace line 2: 'inf' is not a finite number"),
        ("big small Other\n1 2 __import__('os')", r"is not a finite number"),
    ],
)
def test_impossible_power_traces_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_power_trace(text, Floorplan.from_text(FLP))


def test_impossible_packages_are_refused():
    chip = Floorplan.from_blocks({"a": (0.02, 0.01, 0, 0)})
    with pytest.raises(ValueError, match=r"chip of 0.02 m x 0.01 m does not fit on the spreader, s_spreader = 0.015 m"):
        chip.network(HeatSinkPackage(s_spreader=0.015))
    with pytest.raises(ValueError, match=r"s_sink = 0.02 m must be larger than s_spreader = 0.03 m"):
        HeatSinkPackage(s_sink=0.02)
    with pytest.raises(ValueError, match=r"HeatSinkPackage.r_convec = -1 K/W is outside its range"):
        HeatSinkPackage(r_convec=-1.0)
    with pytest.raises(ValueError, match=r"block 'a' has 3 numbers, expected 4"):
        Floorplan.from_blocks({"a": (1.0, 2.0, 3.0)})
    with pytest.raises(ValueError, match=r"Floorplan.left has shape \(2,\), expected \(1,\)"):
        Floorplan(["a"], [1e-3], [1e-3], [0.0, 1.0], [0.0])
    with pytest.raises(ValueError, match=r"must be built outside jit"):
        jax.jit(lambda w: Floorplan(["a"], w, w, w, w).area)(jnp.ones(1))


def test_map_of_the_floorplan():
    floorplan = uneven()
    temperature = 330.0 + np.arange(7.0)
    figure = draw_floorplan(floorplan, temperature, title="chip", limits=(320.0, 340.0))
    axes, scale = figure.axes
    assert len(axes.patches) == 7 and scale.get_ylabel() == "temperature (°C)"
    assert {text.get_text().split("\n")[0] for text in axes.texts} >= {"cache", "core0", "io"}
    assert axes.get_xlim() == pytest.approx((0, 12)) and axes.get_ylim() == pytest.approx((0, 8))
    figure.canvas.draw()
    with pytest.raises(ValueError, match=r"temperature has shape \(6,\), expected \(7,\), one per block"):
        draw_floorplan(floorplan, temperature[:-1])
