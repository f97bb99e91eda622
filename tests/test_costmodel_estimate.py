"""estimate(): hand-computed operations, identities, scaling laws, monotonicity, and gradients in every parameter."""

import re
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import workloads
from costmodel import (
    HARD,
    STRAIGHT_THROUGH,
    Bound,
    Conditions,
    CrossbarChip,
    Roofline,
    estimate,
    load_hardware,
    soft,
)
from physics import parameters, replace
from workloads import OpKind, OpTable, make_table

X64 = jax.config.read("jax_enable_x64")
COLD = 318.15  # K, reference temperature of the leakage law
# one or two of every family of processors; what is left out differs from these in numbers alone
FAMILIES = ("stm32l4r5", "edge-gpu", "edge-pim", "isaac", "isaac-ce", "neurram", "aimc1", "colonnade")
FAMILIES += ("gemmini", "neoverse-v1", "nexys_video")
POLICIES = (HARD, STRAIGHT_THROUGH, soft(4.0))


def tol(single: float, double: float) -> float:
    return double if X64 else single


def device(**changes) -> Roofline:
    """Round numbers for hand computation."""
    numbers = dict(
        peak_macs=1e9, vector_rate=2e8, bandwidth=1e8, overhead=5e-6, efficiency_conv=0.5, efficiency_depthwise=0.1,
        efficiency_dense=0.25, operand_bits=16, energy_per_mac=2e-12, energy_per_byte=1e-11, active_power=0.2, leakage_power=0.05,
    )  # fmt: skip
    return Roofline(**(numbers | changes))


CONV = dict(kind=OpKind.CONV, m=100, n=100, k=100, macs=1e6, flops=2.04e6, inputs=3e3, outputs=2e3, weights=1e3)
DEPTHWISE = CONV | dict(kind=OpKind.DEPTHWISE, m=1000, n=1, k=10, groups=100)
DENSE = CONV | dict(kind=OpKind.DENSE)
COPY = dict(kind=OpKind.MOVE, inputs=1e5, outputs=1e5)
TINY = dict(kind=OpKind.ELEMENTWISE, flops=10, inputs=10, outputs=10)
ATTENTION = dict(kind=OpKind.MATMUL, m=40, n=50, k=60, macs=1.2e5, flops=2.4e5, inputs=5400, outputs=2000)
MIXED = (CONV, DEPTHWISE, DENSE, ATTENTION, COPY, TINY)


QUICK = {"xla_llvm_disable_expensive_passes": True, "xla_backend_optimization_level": 0}  # compile fast, run slowly


@pytest.fixture(scope="module")
def networks() -> OpTable:
    """The four networks as one batch."""
    return workloads.stack([workloads.load(name) for name in workloads.list_networks()])


@pytest.fixture(scope="module")
def price(networks):
    """Costs of all networks on a named machine, one program for each family."""
    run = jax.jit(jax.vmap(estimate, in_axes=(None, 0, None)))
    return lambda name, conditions=Conditions(): run(load_hardware(name), networks, conditions)


# By hand --------------------------------------------------------------------------------------------------------------


def test_compute_bound_operation_by_hand():
    cost = estimate(device(), make_table([CONV]))
    # compute 1e6 / (1e9 0.5) + 4e4 / 2e8 = 2e-3 + 2e-4 s; 6000 operands x 2 B = 12000 B / 1e8 = 1.2e-4 s
    np.testing.assert_allclose(cost.latency, 5e-6 + 2.2e-3, rtol=1e-6)
    np.testing.assert_allclose(cost.bytes_moved, 12_000, rtol=1e-6)
    # 1e6 x 2 pJ + 12000 B x 10 pJ/B + 2.205 ms x 0.2 W = 2e-6 + 1.2e-7 + 4.41e-4 J
    np.testing.assert_allclose(cost.dynamic_energy, 4.4312e-4, rtol=1e-6)
    np.testing.assert_allclose(cost.static_energy, 0.05 * 2.205e-3, rtol=1e-6)
    np.testing.assert_allclose(cost.energy, 4.4312e-4 + 1.1025e-4, rtol=1e-6)
    np.testing.assert_allclose(cost.power, (4.4312e-4 + 1.1025e-4) / 2.205e-3, rtol=1e-6)
    np.testing.assert_allclose(cost.utilization, 1e6 / 2.205e-3 / 1e9, rtol=1e-6)
    assert Bound(int(cost.bound)) is Bound.COMPUTE
    assert float(cost.programming_energy) == float(cost.programming_latency) == float(cost.memory) == float(cost.reads) == 0.0


def test_efficiency_belongs_to_the_kind_of_operation():
    per_op = estimate(device(), make_table([CONV, DEPTHWISE, DENSE, ATTENTION])).per_op
    # 5e-6 + 2e-4 + 1e6 / (1e9 efficiency), and the matrix product of activations as a dense one: 1.2e5 / 2.5e8
    np.testing.assert_allclose(per_op.latency, [2.205e-3, 1.0205e-2, 4.205e-3, 5e-6 + 4.8e-4], rtol=1e-6)


def test_memory_bound_and_launch_bound_operations_by_hand():
    per_op = estimate(device(), make_table([COPY, TINY])).per_op
    # 2e5 x 2 B / 1e8 = 4e-3 s;   20 x 2 B / 1e8 = 4e-7 s against 10 / 2e8 = 5e-8 s, both below the launch of 5e-6 s
    np.testing.assert_allclose(per_op.latency, [4.005e-3, 5.4e-6], rtol=1e-6)
    assert [Bound(int(b)) for b in per_op.bound] == [Bound.MEMORY, Bound.OVERHEAD]


def test_bound_of_a_table_is_the_one_that_takes_most_time():
    assert int(estimate(device(), make_table([CONV, COPY])).bound) == Bound.MEMORY  # 2.2 ms against 4 ms
    assert int(estimate(device(), make_table([CONV, CONV, COPY])).bound) == Bound.COMPUTE  # 4.4 ms
    assert int(estimate(device(), make_table([TINY] * 3)).bound) == Bound.OVERHEAD


def test_clock_and_supply_by_hand():
    cost = estimate(device(), make_table([CONV, COPY]), Conditions(frequency=0.5, voltage=1.2, temperature=COLD + 10))
    # conv: (5e-6 + 2.2e-3) / 0.5 = 4.41e-3; copy: 1e-5 + 4e-3 (memory keeps its own clock)
    np.testing.assert_allclose(cost.per_op.latency, [4.41e-3, 4.01e-3], rtol=1e-6)
    # 1.44 (2e-6 + 1.2e-7 + 4.41e-3 0.5 0.2) and 1.44 (4e5 1e-11 + 4.01e-3 0.5 0.2)
    np.testing.assert_allclose(cost.per_op.dynamic_energy, [1.44 * 4.4312e-4, 1.44 * 4.05e-4], rtol=1e-6)
    np.testing.assert_allclose(cost.static_energy, 0.05 * 1.2 * np.exp(0.36) * 8.42e-3, rtol=2e-6)


def test_a_table_without_flops_costs_its_multiply_accumulates():
    cost = estimate(device(), make_table([dict(kind=OpKind.CONV, m=100, n=100, k=100, macs=1e6)]))
    np.testing.assert_allclose(cost.latency, 5e-6 + 2e-3, rtol=1e-6)


def test_an_operation_without_work_is_free_and_its_gradients_are_finite():
    table = make_table([dict(kind=OpKind.MOVE)])
    for hardware in (device(overhead=0.0), load_hardware("edge-pim")):
        cost = estimate(hardware, table)
        assert float(cost.latency) == float(cost.energy) == float(cost.power) == float(cost.utilization) == 0.0

        def everything(h):
            cost = estimate(h, table)
            return cost.latency + cost.energy + cost.power + cost.utilization + cost.reads

        gradient = jax.jit(jax.grad(everything), compiler_options=QUICK)(hardware)
        assert all(np.isfinite(p.value).all() for p in parameters(gradient))


# Identities -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_energy_and_latency_are_the_sums_of_their_parts(name, price):
    conditions = Conditions(temperature=350.0, voltage=0.9, frequency=0.8, resident=0.3)
    cost = price(name, conditions)
    np.testing.assert_allclose(cost.energy, cost.dynamic_energy + cost.static_energy + cost.programming_energy, rtol=1e-6)
    np.testing.assert_allclose(cost.power * cost.latency, cost.energy, rtol=1e-6)
    np.testing.assert_allclose(cost.static_energy, load_hardware(name).static_power(conditions) * cost.latency, rtol=1e-6)
    for field in ("latency", "dynamic_energy", "programming_latency", "programming_energy", "bytes_moved", "memory"):
        np.testing.assert_allclose(getattr(cost, field), getattr(cost.per_op, field).sum(-1), rtol=1e-6)
    assert (np.asarray(cost.programming_latency) <= np.asarray(cost.latency)).all()
    assert ((np.asarray(cost.utilization) > 0) & (np.asarray(cost.utilization) <= 1)).all()
    assert cost.relaxation == "hard"


@pytest.mark.parametrize("name", FAMILIES)
def test_padding_rows_cost_nothing(name, price):
    cost = price(name, Conditions(resident=0.0))
    for index, network in enumerate(workloads.list_networks()):
        for field in ("latency", "dynamic_energy", "programming_latency", "programming_energy", "bytes_moved", "memory", "reads"):
            padding = np.asarray(getattr(cost.per_op, field))[index, workloads.load(network).n_ops :]
            assert (padding == 0).all(), f"{network} {field}"


@pytest.mark.parametrize("name", ["edge-gpu", "edge-pim"])
def test_batches_equal_single_tables(name, price):
    batch, hardware = price(name), load_hardware(name)
    for network in ("fc-autoencoder", "ds-cnn"):
        index = workloads.list_networks().index(network)
        single = jax.jit(lambda ops: estimate(hardware, ops))(workloads.load(network).without_info())
        for field in ("latency", "energy", "power", "bytes_moved", "utilization", "memory", "reads", "bound"):
            np.testing.assert_allclose(
                getattr(batch, field)[index], getattr(single, field), rtol=2e-6, err_msg=f"{network} {field}"
            )


def test_every_family_prices_very_large_operations():
    # M = N = K = 1e9 would be 1e27 products, beyond the table's range; the dimensions alone must not overflow
    table = make_table([dict(kind=OpKind.DENSE, m=10**9, n=10**9, k=10**9, macs=2.0**52, flops=2.0**53, weights=2.0**53)] * 2)
    for name in FAMILIES:
        hardware = load_hardware(name)
        cost = estimate(hardware, table)
        assert all(np.isfinite(x) and x > 0 for x in (cost.latency, cost.energy, cost.power)), name
        slope = jax.grad(lambda h: jnp.log(estimate(h, table, relaxation=STRAIGHT_THROUGH).energy))
        gradient = jax.jit(slope, compiler_options=QUICK)(hardware)
        assert all(np.isfinite(p.value).all() for p in parameters(gradient)), name


def test_one_trace_for_changed_values():
    traces = []

    @jax.jit
    def energy(hardware, ops, conditions):
        traces.append(1)
        return estimate(hardware, ops, conditions).energy

    table, changed = make_table([CONV]), make_table([CONV | dict(macs=2e6, flops=4e6)])
    results = [
        energy(device(), table, Conditions()),
        energy(device(peak_macs=2e9), table, Conditions(temperature=300.0)),
        energy(replace(device(), {"bandwidth": 1e7}), changed, Conditions(voltage=0.7, frequency=0.5)),
        energy(device(overhead=1), table, Conditions(resident=0.25)),
    ]
    assert len(traces) == 1
    assert len({float(r) for r in results}) == 4


# Scaling laws and monotonicity over thousands of random machines ------------------------------------------------------


COUNT = 3000


def random_tree(tree, seed: int, count: int, ends: float = 0.0):
    """`count` random points over the whole declared range of every parameter; a share `ends` of them at each end."""
    rng = np.random.default_rng(seed)
    changes = {}
    for p in parameters(tree):
        lo, hi = p.param.lo, p.param.hi
        u = rng.random((count, *np.shape(p.value)))
        low = max(lo, 1e-12 * hi)
        value = low * (hi / low) ** u if p.param.log else lo + (hi - lo) * u
        pick = rng.random(u.shape)
        value = np.where(pick < ends, lo, np.where(pick > 1 - ends, hi, value))
        changes[p.label] = np.clip(value, lo, hi)
    return replace(tree, changes)


def random_conditions(seed: int, count: int, ends: float = 0.0) -> Conditions:
    rng = np.random.default_rng(seed)
    columns = []
    for lo, hi in ((200.0, 500.0), (1e-3, 10.0), (0.1, 3.0), (0.0, 1.0)):
        pick = rng.random(count)
        value = lo + (hi - lo) * rng.random(count)
        columns.append(jnp.asarray(np.where(pick < ends, lo, np.where(pick > 1 - ends, hi, value)), float))
    return Conditions(*columns)


def moderate(tree, seed: int):
    """Random machines near a named one: every positive parameter times 1/2 .. 2, inside its range."""
    rng = np.random.default_rng(seed)
    changes = {}
    for p in parameters(tree):
        factor = 2 ** rng.uniform(-1, 1, (COUNT, *np.shape(p.value)))
        if p.label.endswith("temperature_ref") or p.param.unit.startswith("ln"):
            factor = np.ones_like(factor)
        changes[p.label] = np.clip(np.asarray(p.value, np.float64) * factor, p.param.lo, p.param.hi)
    return replace(tree, changes)


@pytest.fixture(scope="module")
def compare():
    """For a machine: costs of a batch before and after parameters and conditions are scaled, from one compiled program."""
    table = make_table(MIXED)
    run = eqx.filter_jit(jax.vmap(lambda h, c: estimate(h, table, c)))
    machines = {
        "roofline": moderate(device(linger=0.1, wake_time=1e-3, wake_energy=1e-3), 1),
        "chip": moderate(CrossbarChip(), 2),
    }
    conditions = Conditions(*(x for x in random_conditions(3, COUNT)))
    conditions = conditions._replace(temperature=jnp.linspace(300.0, 345.0, COUNT), frequency=jnp.linspace(0.5, 1.5, COUNT))

    def compared(machine: str, factors: dict[str, float]):
        tree = machines[machine]
        info = {p.label: p for p in parameters(tree)}
        changes = {label: np.clip(np.asarray(info[label].value, np.float64) * x, info[label].param.lo, info[label].param.hi)
                   for label, x in factors.items() if label in info}  # fmt: skip
        other = conditions._replace(**{n: getattr(conditions, n) * x for n, x in factors.items() if n not in info})
        return run(tree, conditions), run(replace(tree, changes), other)

    return compared


FASTER = {
    "roofline": ("peak_macs", "vector_rate", "bandwidth", "frequency"),
    "chip": ("elements", "units", "arrays", "digital_rate", "buffer_bandwidth", "write_arrays", "frequency", "rows", "dac_bits"),
}
SLOWER = {
    "roofline": ("overhead", "operand_bits"),
    "chip": ("cycle_time", "pipeline", "verify_time", "write_pulses", "cell.write_time", "input_bits", "weight_bits"),
}
COSTLIER = {
    "roofline": ("energy_per_mac", "energy_per_byte", "active_power", "leakage_power", "voltage", "temperature", "overhead"),
    "chip": (
        "power_adc", "power_dac", "power_sample_hold", "power_crossbar", "power_shift_add", "power_input_register",
        "power_output_register", "power_buffer", "power_bus", "power_router", "power_digital", "standby_power", "voltage",
        "temperature", "cell.write_energy", "write_pulses", "cycle_time",
    ),
}  # fmt: skip


@pytest.mark.parametrize("machine", ["roofline", "chip"])
def test_latency_is_monotone(machine, compare):
    # `rows` makes programming slower (whole rows are written), so look at running time alone
    slack = tol(1e-5, 1e-12)
    for names, sign in ((FASTER[machine], 1), (SLOWER[machine], -1)):
        for name in names:
            before, after = compare(machine, {name: 1.37})
            running = [
                np.asarray(c.latency - (c.programming_latency if name == "rows" else 0.0), np.float64) for c in (before, after)
            ]
            change = (running[1] - running[0]) / running[0] * sign
            assert (change <= slack).all(), f"{name}: worst {change.max():.2e}"
            assert (change < -slack).any(), f"{name} has no effect at all"


@pytest.mark.parametrize("machine", ["roofline", "chip"])
def test_energy_is_monotone(machine, compare):
    for name in COSTLIER[machine]:
        before, after = compare(machine, {name: 1.02 if name == "temperature" else 1.37})
        ratio = np.asarray(after.energy, np.float64) / np.asarray(before.energy, np.float64)
        assert (ratio >= 1 - tol(1e-6, 1e-12)).all(), f"{name}: worst {ratio.min()}"
        assert (ratio > 1 + tol(1e-6, 1e-12)).any(), f"{name} has no effect at all"


@pytest.mark.parametrize("machine", ["roofline", "chip"])
def test_switching_energy_goes_with_the_square_of_the_supply(machine, compare):
    before, after = compare(machine, {"voltage": 1.3})
    np.testing.assert_allclose(after.dynamic_energy, 1.69 * before.dynamic_energy, rtol=tol(2e-6, 1e-12))
    np.testing.assert_allclose(after.latency, before.latency, rtol=1e-7)
    np.testing.assert_allclose(after.programming_energy, before.programming_energy, rtol=1e-7)


def test_time_goes_with_the_inverse_clock_where_the_clock_matters(compare):
    before, after = compare("roofline", {"frequency": 2.0})
    compute = np.asarray(before.per_op.bound) == Bound.COMPUTE
    still = compute & (np.asarray(after.per_op.bound) == Bound.COMPUTE)
    assert still.sum() > 1000
    ratio = np.asarray(after.per_op.latency) / np.asarray(before.per_op.latency)
    np.testing.assert_allclose(ratio[still], 0.5, rtol=2e-6)
    assert (ratio[~compute] >= 0.5 - 1e-6).all() and (ratio <= 1 + 1e-6).all()
    # At constant supply the switching energy of a clocked operation does not depend on the clock.
    energy = np.asarray(after.per_op.dynamic_energy) / np.asarray(before.per_op.dynamic_energy)
    np.testing.assert_allclose(energy[still], 1.0, rtol=3e-6)


def test_scaling_all_rates_together_only_scales_time(compare):
    rates = dict(peak_macs=3.0, vector_rate=3.0, bandwidth=3.0, overhead=1 / 3)
    before, after = compare("roofline", rates)
    np.testing.assert_allclose(after.latency * 3, before.latency, rtol=3e-6)
    np.testing.assert_array_equal(after.bound, before.bound)
    np.testing.assert_allclose(after.utilization, before.utilization, rtol=3e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_leakage_is_exponential_in_temperature_and_linear_in_supply(name):
    hardware = load_hardware(name)
    leakage, standby = (float(x) for x in hardware.reference_static_power(Conditions()))
    slope, reference = float(hardware.leakage_slope), float(hardware.temperature_ref)
    for temperature in (260.0, reference, 340.0, 390.0):
        for voltage in (0.5, 1.0, 1.3):
            expected = leakage * voltage * np.exp(slope * (temperature - reference)) + standby
            got = hardware.static_power(Conditions(temperature=temperature, voltage=voltage))
            np.testing.assert_allclose(got, expected, rtol=tol(1e-5, 1e-9))
    elasticity = jax.grad(lambda t: jnp.log(hardware.static_power(Conditions(temperature=t)) - standby))(340.0)
    np.testing.assert_allclose(elasticity, slope, rtol=tol(1e-3, 1e-6))


def test_static_power_stays_finite_and_does_not_fall_at_the_ends_of_the_range():
    hardware = Roofline(leakage_power=1e4, leakage_slope=0.1, temperature_ref=200.0)
    powers = [float(hardware.static_power(Conditions(temperature=t))) for t in np.linspace(200, 500, 61)]
    assert np.isfinite(powers).all() and (np.diff(powers) >= 0).all() and powers[0] == pytest.approx(1e4)


# Gradients ------------------------------------------------------------------------------------------------------------


OUTPUTS = ("latency", "energy", "power", "utilization", "memory", "reads", "programming_energy")


def family(kind: str, seed: int):
    """The named machines of one family, then random ones over the declared ranges, with conditions."""
    names = {"roofline": ("stm32l4r5", "edge-gpu"), "chip": ("isaac",), "macro": ("edge-pim",)}[kind]
    named = [load_hardware(name) for name in names]
    count = 60
    wild = random_tree(named[0], seed, count, ends=0.2)
    if kind == "macro":
        assert wild.scope == "layer"
    conditions = random_conditions(seed + 1, count + len(named), ends=0.2)
    first = Conditions(*(jnp.ones(len(named)) * x for x in Conditions()))
    conditions = Conditions(*(jnp.concatenate([a, b[len(named) :]]) for a, b in zip(first, conditions, strict=True)))
    columns = zip(*(jax.tree.leaves(machine) for machine in named), jax.tree.leaves(wild), strict=True)
    leaves = [jnp.concatenate([jnp.stack(column[:-1]), column[-1]]) for column in columns]
    return jax.tree.unflatten(jax.tree.structure(wild), leaves), conditions


@pytest.mark.parametrize("kind", ["roofline", "chip", "macro"])
def test_every_value_and_gradient_is_finite_over_the_declared_ranges(kind, networks):
    """Under every policy; the straight-through values are the hard ones, the soft ones are not."""
    machines, conditions = family(kind, seed=sum(map(ord, kind)))
    seen = {}
    for policy in POLICIES:

        def outputs(hardware, conditions, ops, policy=policy):
            cost = estimate(hardware, ops, conditions, policy)
            values = jnp.stack([getattr(cost, name) for name in OUTPUTS])
            return jnp.sum(values), values  # one sum: its gradient is finite only if all are

        slope = jax.vmap(jax.value_and_grad(outputs, argnums=(0, 1), has_aux=True), in_axes=(0, 0, None))
        options = None if kind == "roofline" else QUICK
        result = jax.jit(jax.vmap(slope, in_axes=(None, None, 0)), compiler_options=options)(machines, conditions, networks)
        (_, values), (slopes, by_condition) = result
        assert np.isfinite(values).all() and (np.asarray(values) >= 0).all()
        assert (np.asarray(values)[..., :3] > 0).all()
        bad = {p.label for p in parameters(slopes) if not np.isfinite(p.value).all()}
        bad |= {name for name, x in by_condition._asdict().items() if not np.isfinite(x).all()}
        assert not bad, str(policy)
        seen[policy] = np.asarray(values)
    np.testing.assert_allclose(seen[STRAIGHT_THROUGH], seen[HARD], rtol=tol(1e-6, 1e-14))
    assert not np.allclose(seen[soft(4.0)], seen[HARD], rtol=1e-3)


def off_the_kinks(tree):
    """The same machine with geometry that is nowhere at an exact multiple, so that central differences cross no step."""
    generic = dict(rows=121.7, cols=131.3, bits_per_cell=1.87, weight_bits=7.3, input_bits=6.6, dac_bits=1.3, elements=1.37,
                   units=5.7, arrays=6.3, leakage_fraction=0.13)  # fmt: skip
    has = {p.label for p in parameters(tree)}
    return replace(tree, {label: value for label, value in generic.items() if label in has})


def central_differences(function, tree, step: float = 3e-7):
    """p df/dp (df/dp where p = 0) of every parameter by central differences, all in one batch."""
    leaves, structure = jax.tree.flatten(tree)
    labels = [p.label for p in parameters(tree)]
    assert len(labels) == len(leaves)
    scale = [float(x) if x != 0 else 1.0 for x in leaves]
    count = len(leaves)
    batch = []
    for index, leaf in enumerate(leaves):
        shift = np.zeros(2 * count)
        shift[index], shift[count + index] = step * scale[index], (-step if leaf != 0 else 0.0) * scale[index]
        batch.append(jnp.asarray(float(leaf) + shift))
    values = np.asarray(jax.jit(jax.vmap(function), compiler_options=QUICK)(jax.tree.unflatten(structure, batch)))
    width = np.asarray([2 * step if leaf != 0 else step for leaf in leaves])  # from zero only upwards: one-sided
    return labels, (values[:count] - values[count:]) / width, np.asarray(scale)


@pytest.mark.parametrize("policy", [HARD, soft(3.0)], ids=str)
@pytest.mark.parametrize("kind", ["roofline", "chip", "macro", "literal"])
def test_gradients_equal_central_differences_in_every_parameter(kind, policy):
    with jax.enable_x64(True):
        tree = {
            "roofline": lambda: device(wake_time=1e-3, sleep_fraction=0.3),
            "chip": lambda: off_the_kinks(CrossbarChip()),
            "macro": lambda: off_the_kinks(load_hardware("edge-pim")),
            "literal": lambda: off_the_kinks(CrossbarChip(timing="literal", scope="pe")),
        }[kind]()
        table = make_table(MIXED)
        conditions = Conditions(temperature=331.0, frequency=0.83, voltage=1.1, resident=0.37)

        def objective(hardware):
            cost = estimate(hardware, table, conditions, policy)
            rest = 0.0 if kind == "roofline" else 0.31 * jnp.log(cost.programming_latency) + 0.13 * jnp.log(cost.reads)
            return jnp.log(cost.latency) + 0.37 * jnp.log(cost.energy) + 0.11 * jnp.log(cost.utilization) + rest

        labels, differences, scale = central_differences(objective, tree)
        slopes = np.asarray(jax.tree.leaves(jax.jit(jax.grad(objective), compiler_options=QUICK)(tree))) * scale
        for label, slope, difference in zip(labels, slopes, differences, strict=True):
            assert slope == pytest.approx(difference, rel=3e-6, abs=1e-7), label
        assert (np.abs(slopes) > 1e-6).sum() >= (9 if kind == "roofline" else 20)


@pytest.mark.parametrize("policy", [HARD, soft(3.0)], ids=str)
def test_gradients_in_the_conditions_equal_central_differences(policy):
    with jax.enable_x64(True):
        table = make_table(MIXED)
        for tree in (device(), off_the_kinks(CrossbarChip())):
            function = jax.jit(lambda x, tree=tree: jnp.log(estimate(tree, table, Conditions(*x), policy).energy))
            at = jnp.array([331.0, 0.83, 1.1, 0.37])
            slopes, eye = jax.grad(function)(at), jnp.eye(4) * 1e-6
            for index in range(4):
                difference = (function(at * (1 + eye[index])) - function(at * (1 - eye[index]))) / (2e-6 * at[index])
                assert float(slopes[index]) == pytest.approx(float(difference), rel=1e-6, abs=1e-8), Conditions._fields[index]


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (Conditions(temperature=100.0), "conditions.temperature = 100 K is outside its range [200, 500] K"),
        (Conditions(temperature=float("nan")), "conditions.temperature = nan K is outside its range [200, 500] K"),
        (Conditions(temperature=np.float32(600.0)), "conditions.temperature = 600 K is outside its range [200, 500] K"),
        (Conditions(frequency=0), "conditions.frequency = 0 of nominal is outside its range [0.001, 10] of nominal"),
        (Conditions(voltage=-1.0), "conditions.voltage = -1 of nominal is outside its range [0.1, 3] of nominal"),
        (Conditions(resident=1.5), "conditions.resident = 1.5 of the weights is outside its range [0, 1] of the weights"),
        (Conditions(resident=None), "conditions.resident must be a number, got None"),
    ],
)
def test_conditions_outside_their_range_are_refused(conditions, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        estimate(device(), make_table([CONV]), conditions)


def test_the_ends_of_the_range_are_allowed():
    for conditions in (Conditions(200, 0.001, 0.1, 0), Conditions(500, 10, 3, 1)):
        assert np.isfinite(estimate(device(), make_table([CONV]), conditions).energy)


def test_a_batch_without_vmap_is_refused(networks):
    with pytest.raises(
        ValueError, match=r"^ops has columns of shape \(4, 30\); estimate takes one table, use jax.vmap for a batch$"
    ):
        estimate(device(), networks)


def test_a_table_without_rows_is_refused():
    empty = jax.tree.map(lambda x: x[:0], make_table([CONV]))
    with pytest.raises(ValueError, match=r"^ops: a workload needs at least one operation, got 0$"):
        estimate(device(), empty)


WRONG_TYPES = """
import costmodel, workloads
hardware, ops = costmodel.load_hardware("edge-gpu"), workloads.make_table([dict(macs=10.0, flops=20.0)])
for arguments in (("edge-gpu", ops), (hardware, "resnet8"), (hardware, ops, costmodel.Conditions(voltage="low"))):
    try:
        costmodel.estimate(*arguments)
    except ValueError as error:
        print(error)
"""


def test_wrong_types_are_refused_in_one_line():
    # In a process of its own, where no run-time type checks come first.
    done = subprocess.run([sys.executable, "-c", WRONG_TYPES], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.splitlines() == [
        "hardware must be a processor (see costmodel.list_hardware()), got str",
        "ops must be an OpTable (see workloads.load), got str",
        "conditions.voltage must be a number, got 'low'",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(peak_macs=0.0), "Roofline.peak_macs = 0 MAC/s is outside its range [1000, 1e+16] MAC/s"),
        (dict(efficiency_conv=1.2), "Roofline.efficiency_conv = 1.2 is outside its range [0.0001, 1]"),
        (dict(leakage_slope=float("nan")), "Roofline.leakage_slope = nan 1/K is outside its range [0, 0.1] 1/K"),
    ],
)
def test_hardware_outside_its_range_is_refused(changes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        device(**changes)


def test_unknown_hardware_lists_close_matches():
    with pytest.raises(ValueError, match=r"^unknown hardware 'isac'; close: isaac$"):
        load_hardware("isac")
