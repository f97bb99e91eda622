"""Spiking networks: dynamics against snntorch and spyx, operation counts against NeuroBench, NIR files.

Reference figures: NeuroBench e521c28 (README, leaderboard, neuron_operations.py); traces measured with snntorch 1.0.0; spyx
38374e9 (docs/examples/nir/scnn); PMC10242054, Table 3.
"""

import dataclasses
import itertools
import random

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import costmodel
import workloads
from workloads import (
    IF,
    AdaptiveLeaky,
    Alpha,
    Lapicque,
    Leaky,
    Surrogate,
    Synaptic,
    applied_rates,
    check_single_rate,
    count_operations,
    dense_operations,
    neuron_operations,
    read_nir,
    simulate_neuron,
    spiking_mlp,
    spiking_table,
)
from workloads.spiking.layers import Dense, Flatten, Layer, Neurons, Pool
from workloads.spiking.models import convolution
from workloads.spiking.networks import chain, execution_order
from workloads.spiking.nir import build_network
from workloads.spiking.operations import record_batch
from workloads.spiking.surrogates import SLOPES, spike

# -- neurons

TRACES = {  # snntorch 1.0.0, Leaky(beta=0.9, threshold=1), constant input 0.6: potentials; it spikes where they pass 1
    "zero": [0.6, 1.14] * 5,
    "subtract": [0.6, 1.14, 0.626, 1.1634, 0.6471, 1.1824, 0.6641, 1.1977, 0.6779, 1.2101],
}


@pytest.mark.parametrize("reset", TRACES)
def test_the_published_traces_are_met(reset):
    trace = simulate_neuron(Leaky(beta=0.9, reset=reset), jnp.full(10, 0.6))
    np.testing.assert_allclose(trace.potential, TRACES[reset], atol=5e-5)  # given to four decimals
    np.testing.assert_array_equal(trace.spikes, np.asarray(TRACES[reset]) > 1)


def test_spyx_spikes_one_step_later_from_the_same_potential():
    # v: 0.6, 1.14 (above 1: snntorch spikes here), 0.9 * 1.14 + 0.6 - 1 = 0.626 (spyx spikes here)
    currents = jnp.asarray(np.random.default_rng(1).normal(0.3, 0.5, (2000, 7)), float)
    ours = {s: simulate_neuron(Leaky(beta=0.85, semantics=s), currents) for s in ("snntorch", "spyx")}
    np.testing.assert_array_equal(ours["snntorch"].potential, ours["spyx"].potential)
    np.testing.assert_array_equal(ours["snntorch"].spikes[:-1], ours["spyx"].spikes[1:])
    assert not ours["spyx"].spikes[0].any()
    assert ours["spyx"].spikes.sum() > 1000


# Input 1.5, 0.4, 1.2, 0.1 and decays 0.5 (alpha) and 0.75 (beta), threshold 1, by hand.
BY_HAND = {
    # i: 1.5, 1.15, 1.775, 0.9875.  v: 1.5 | .75*1.5+1.15-1 = 1.275 | .95625+1.775-1 = 1.73125 | 1.2984375+.9875-1 = 1.2859375
    ("synaptic", "snntorch", "subtract"): ([1, 1, 1, 1], [1.5, 1.275, 1.73125, 1.2859375]),
    # reset clears everything, the new input too: v: 1.5 | 0 | 1.775 | 0
    ("synaptic", "snntorch", "zero"): ([1, 0, 1, 0], [1.5, 0.0, 1.775, 0.0]),
    # before the leak: v: 1.5 | .75*.5+1.15 = 1.525 | .75*.525+1.775 = 2.16875 | .75*1.16875+.9875 = 1.8640625
    ("synaptic", "spyx", "subtract"): ([0, 1, 1, 1], [1.5, 1.525, 2.16875, 1.8640625]),
    # at once: v: 1.5 -> .5 | .375+1.15 = 1.525 -> .525 | .39375+1.775 = 2.16875 -> 1.16875 | .8765625+.9875 -> .8640625
    ("synaptic", "nir", "subtract"): ([1, 1, 1, 1], [0.5, 0.525, 1.16875, 0.8640625]),
    # v: 1.5 -> 0 | 0.4 | .3+1.2 = 1.5 -> 0 | .1
    ("leaky", "nir", "zero"): ([1, 0, 1, 0], [0.0, 0.4, 0.0, 0.1]),
    # v: 1.5 | 0.4 (cleared before the input) | .3+1.2 = 1.5 | .1
    ("leaky", "snntorch", "zero"): ([1, 0, 1, 0], [1.5, 0.4, 1.5, 0.1]),
    ("leaky", "snntorch", "none"): ([1, 1, 1, 1], [1.5, 1.525, 2.34375, 1.8578125]),  # 1.125+.4, 1.14375+1.2, 1.7578125+.1
}


@pytest.mark.parametrize(("case", "expected"), BY_HAND.items(), ids=["-".join(c) for c in BY_HAND])
def test_resets_by_hand(case, expected):
    model, semantics, reset = case
    rules = {"semantics": semantics, "reset": reset}
    neuron = Leaky(beta=0.75, **rules) if model == "leaky" else Synaptic(alpha=0.5, beta=0.75, **rules)
    with jax.disable_jit():
        trace = simulate_neuron(neuron, jnp.asarray([1.5, 0.4, 1.2, 0.1]))
    np.testing.assert_array_equal(trace.spikes, expected[0])
    np.testing.assert_allclose(trace.potential, expected[1], rtol=1e-6)


def test_the_other_models_by_hand():
    with jax.disable_jit():
        check_other_models()


def check_other_models():
    # Lapicque, R 2, C 4, dt 1: v' = 7/8 v + I/4. 4 -> 1 (not above 1) | 8: 2.875 spike | 1: (.25 + 2.515625) - 1 = 1.765625
    trace = simulate_neuron(Lapicque(resistance=2.0, capacitance=4.0, time_step=1.0), jnp.asarray([4.0, 8.0, 1.0]))
    np.testing.assert_allclose(trace.potential, [1.0, 2.875, 1.765625])
    np.testing.assert_array_equal(trace.spikes, [0, 1, 1])
    # Lapicque.from_beta(1/e): C = 1, so v' = I + 0 v
    np.testing.assert_allclose(
        simulate_neuron(Lapicque.from_beta(float(np.exp(-1))), jnp.asarray([0.5, 0.25])).potential, [0.5, 0.25]
    )
    # Alpha, alpha 0.5, beta 0.25: tau = 1 + ln .5 / (ln .25 - ln .5) = 2. Input 4, 0: e 4, 2; h -4, -1; v 0, 2 (1 + spike there);
    # then e = 1 - 1, h = -.25 + .25 and v = 2 (1 - .25) + h before = 1.5 - 1
    trace = simulate_neuron(Alpha(alpha=0.5, beta=0.25), jnp.asarray([4.0, 0.0, 0.0]))
    np.testing.assert_allclose(trace.potential, [0.0, 2.0, 0.5], atol=1e-6)
    np.testing.assert_array_equal(trace.spikes, [0, 1, 0])
    # ALIF, beta .5, gamma .75: v 2 | spike: 1 + 2 - 1 = 2, a = .25 | 2 > 1.25: spike, v = 1 + 2 - 1.25 = 1.75, a = .1875 + .25
    trace = simulate_neuron(AdaptiveLeaky(beta=0.5, gamma=0.75), jnp.full(4, 2.0))
    np.testing.assert_allclose(trace.potential[:3], [2.0, 2.0, 1.75])
    np.testing.assert_array_equal(trace.spikes, [0, 1, 1, 1])
    # no spikes, the potential itself: 1, 1.5, 1.75
    np.testing.assert_allclose(simulate_neuron(Leaky(beta=0.5, spiking=False), jnp.ones(3)).spikes, [1, 1.5, 1.75])
    np.testing.assert_allclose(simulate_neuron(IF(spiking=False), jnp.ones(3)).spikes, [1, 2, 3])


def test_neurobench_operations():
    published = {"Leaky": (4, 4), "Synaptic": (6, 8), "Lapicque": (11, 11), "Alpha": (18, 24)}
    assert {m: (neuron_operations(m), neuron_operations(m, "zero")) for m in published} == published
    assert neuron_operations("LIF") == 4
    assert (IF().operations, IF(spiking=False).operations, Leaky(reset="zero").operations) == (3, 1, 4)
    with pytest.raises(ValueError, match="unknown neuron model 'Izhikevich'; known: Leaky"):
        neuron_operations("Izhikevich")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Leaky(beta=1.5), r"Leaky.beta = 1.5 is outside its range \[0, 1\]"),
        (lambda: Leaky(threshold=float("nan")), "Leaky.threshold = nan is outside its range"),
        (lambda: Leaky(gain=float("nan")), "Leaky.gain = nan is outside its range"),
        (lambda: Leaky(reset="half"), "unknown reset 'half'; known: subtract, zero, none"),
        (lambda: Leaky(semantics="norse"), "unknown semantics 'norse'; known: snntorch, spyx, nir"),
        (lambda: Alpha(alpha=0.5, beta=0.6), "Alpha.beta = 0.6 must be below alpha = 0.5"),
        (lambda: Alpha(semantics="spyx"), "only snntorch has this neuron"),
        (lambda: Lapicque(capacitance=0.0), r"Lapicque.capacitance = 0 is outside its range \(0, inf\)"),
        (lambda: Surrogate("sigmoid"), "unknown surrogate 'sigmoid'; known: none, straight_through, atan"),
        (lambda: Surrogate("atan", -1.0), "surrogate slope = -1"),
    ],
    ids=["beta", "threshold", "gain", "reset", "semantics", "alpha-order", "alpha-spyx", "capacitance", "surrogate", "slope"],
)
def test_bad_neurons_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_slopes_are_the_policys_and_finite_everywhere():
    x = jnp.asarray([-1e30, -1.0, -0.1, 0.0, 0.1, 1.0, 1e30])
    at = {"none": 0.0, "straight_through": 1.0, "atan": 1 / (1 + (np.pi * 0.1) ** 2), "fast_sigmoid": 1 / 3.5**2, "triangle": 0.9}
    for name in SLOPES:
        slope = Surrogate(name).derivative(x)
        assert np.all(np.isfinite(slope))
        np.testing.assert_allclose(slope[jnp.asarray([2, 4])], at[name], rtol=1e-6)
        assert slope[3] == (0.0 if name == "none" else 1.0)  # at the threshold: the peak
    np.testing.assert_array_equal(spike(x), [0, 0, 0, 0, 1, 1, 1])  # not at the threshold itself
    slope = jax.grad(lambda v: jnp.sum(spike(v, Surrogate("triangle"))))(x)
    np.testing.assert_allclose(slope, [0, 0, 0.9, 1, 0.9, 0, 0], rtol=1e-6)


def test_gradients_through_time():
    currents = jnp.asarray(np.random.default_rng(3).normal(0.3, 0.4, (40, 5)), float)

    def loss(beta, threshold, semantics):
        return jnp.sum(simulate_neuron(Leaky(beta=beta, threshold=threshold, semantics=semantics), currents).spikes)

    for semantics in ("snntorch", "spyx", "nir"):
        slope = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)(0.8, 1.0, semantics)
        assert np.isfinite(slope).all() and slope[0] > 0 > slope[1]  # more memory, more spikes; more threshold, fewer
    # without spikes, v after two steps is gain (beta I1 + I2): slopes gain I1 = 1 in beta, and 0.5 * 0.5 + 0.25 in the gain
    with jax.disable_jit():
        quiet = lambda b, g: simulate_neuron(Leaky(beta=b, gain=g, threshold=99.0), jnp.asarray([0.5, 0.25])).potential[-1]  # noqa: E731
        assert jax.grad(quiet, (0, 1))(0.5, 2.0) == pytest.approx((1.0, 0.5))


def test_potentials_are_bounded_and_batches_are_scalars():
    rng = np.random.default_rng(0)
    currents = jnp.asarray(rng.uniform(0, 0.3, (50, 4000)), float)
    betas = jnp.asarray(rng.uniform(0.1, 0.95, 4000), float)
    run = jax.vmap(lambda b, i: simulate_neuron(Leaky(beta=b), i), (0, 1), 1)
    trace = jax.jit(run)(betas, currents)
    assert np.all(trace.potential <= 0.3 / (1 - betas) * (1 + 1e-5))  # the leak's fixed point: v <= I / (1 - beta)
    one = simulate_neuron(Leaky(beta=float(betas[7])), currents[:, 7])
    np.testing.assert_allclose(trace.potential[:, 7], one.potential, rtol=1e-5)


# -- networks and counts


def test_the_published_speech_network():
    net = workloads.load_network("gsc-snn").module
    # 20*256 + 2*256*256 + 256*35 = 145,152 synapses, 200 steps
    assert dense_operations(net, 1) == 145_152
    assert dense_operations(net, 200) == 29_030_400
    assert net.parameters == 145_955  # with 3*256 + 35 biases
    assert workloads.network_footprint(net) == 583_900  # 4 * 145,955 + 4 layers of 20 bytes of buffers
    assert net.n_neurons * 200 == 160_600
    table = workloads.load("GSC-SNN")
    assert table.total("macs") == table.total("macs_valid") == 29_030_400
    assert table.info.parameters == 145_955
    updates = [i for i, name in enumerate(table.info.op_names) if name.startswith("neurons")]
    assert table.flops[updates].sum() == 160_600 * 4
    rival = workloads.load("gsc-m5")
    assert rival.total("macs") == 1_880_256


def test_the_published_event_network():
    net = workloads.load_network("nmnist-scnn").module
    assert [layer.padded for layer in net.weighted] == [204_800, 589_824, 73_728, 32_768, 2_560]
    assert (net.parameters, net.n_neurons) == (39_584, 8_970)
    assert workloads.load("nmnist-scnn").total("macs") == 903_680


def test_effective_operations_are_not_dense_times_global_sparsity():
    # NeuroBench's GSC network: 3,289,834.32 effective of 29,030,400 dense operations at an activation sparsity of 0.9669
    dense, effective, sparsity = 29_030_400, 3_289_834.3206724217, 0.9668664144456199
    assert effective / dense == pytest.approx(0.1133, abs=5e-5)
    assert effective / (dense * (1 - sparsity)) == pytest.approx(3.42, abs=0.01)


def numbers(net, seed):
    """Parameters drawn on the host: `initial_parameters` compiles a generator for every shape."""
    rng = np.random.default_rng(seed)
    own = {layer.name: layer.neuron for layer in net.populations}
    for layer in net.weighted:
        shapes = layer.parameter_shapes()
        fan_in = np.prod(shapes["weight"][1:])
        own[layer.name] = {n: (rng.uniform(-1, 1, s) / fan_in**0.5).astype(np.float32) for n, s in shapes.items()}
    return own


def small_network():
    conv = convolution("conv", (2, 8, 8), 4, (3, 3), 2, 1)

    def fire(name, shape, beta, threshold):
        return Neurons(name, shape, shape, neuron=Leaky(beta=beta, threshold=threshold))

    layers = [Layer("input", (2, 8, 8), (2, 8, 8)), conv, fire("n1", conv.shape, 0.9, 0.2), Pool("pool", conv.shape, (4, 2, 2))]
    layers += [Flatten("flat", (4, 2, 2), (16,)), Dense("fc1", (16,), (12,)), fire("n2", (12,), 0.8, 0.1)]
    return chain("small", [*layers, Dense("fc2", (12,), (5,)), fire("n3", (5,), 0.8, 0.1)])


@pytest.fixture(scope="module")
def counted():
    """A network with some weights missing, its parameters, spike trains, what happened and the counts."""
    net = small_network()
    parameters = numbers(net, 0)
    weight = parameters["fc1"]["weight"]
    weight[np.abs(weight) < 0.1] = 0  # structural zeros are no synapses
    train = (np.random.default_rng(1).random((3, 9, 2, 8, 8)) < 0.3).astype(np.float32)
    return net, parameters, train, record_batch(net, parameters, train), count_operations(net, parameters, train)


def test_counts_equal_a_direct_count(counted):
    # NeuroBench's rules written out: every pair of a non-zero weight and a non-zero activation, found by loops
    _, parameters, train, record, counts = counted
    expected = dict.fromkeys(("conv", "fc1", "fc2"), 0)
    padded = np.pad(train, ((0, 0),) * 3 + ((1, 1),) * 2)
    for y in range(4):
        for x in range(4):
            expected["conv"] += 4 * np.count_nonzero(padded[..., 2 * y : 2 * y + 3, 2 * x : 2 * x + 3])
    for name in ("fc1", "fc2"):
        present = np.asarray(parameters[name]["weight"]) != 0
        expected[name] = sum(np.count_nonzero(present * (v != 0)) for v in np.asarray(record.arriving[name]).reshape(27, -1))
    for name, layer in counts.layers.items():
        assert (layer.macs + layer.acs) * 3 == pytest.approx(expected[name], rel=1e-12)
    assert counts.layers["conv"].macs == counts.layers["fc2"].macs == 0  # spikes only
    assert counts.layers["fc1"].macs > 0  # sums of four spikes are not binary
    # valid taps of the first layer, 9 steps: 4 outputs, 2 inputs, (3 * 4 - 1)^2 pairs
    assert counts.layers["conv"].dense == 9 * 4 * 2 * 11**2
    assert counts.updates == 9 * (64 + 12 + 5)
    assert 0 < counts.effective_updates <= counts.updates
    assert counts.neuron_operations == 4 * counts.updates
    assert 0 < counts.activation_sparsity < 1


def test_every_spike_and_no_spike():
    net = spiking_mlp((6, 5, 4), Leaky(threshold=-1e6, reset="none"))  # every neuron spikes at every step
    parameters = numbers(net, 0)
    full = count_operations(net, parameters, np.ones((2, 7, 6), np.float32))
    assert full.acs == full.dense == 7 * (30 + 20)
    assert full.activation_sparsity == 0
    deaf = parameters | {"neurons1": Leaky(threshold=1e6), "neurons2": Leaky(threshold=1e6)}
    silent = count_operations(net, deaf, np.zeros((2, 7, 6), np.float32))
    assert (silent.acs, silent.macs, silent.dense, silent.activation_sparsity) == (0, 0, 350, 1)
    with pytest.raises(ValueError, match="need a batch and time steps"):
        count_operations(net, parameters, np.ones((0, 7, 6), np.float32))


def test_tables_agree_with_the_profiler_and_go_everywhere():
    steps = 6
    net = small_network()
    table = spiking_table(net, steps)
    train = jax.ShapeDtypeStruct((steps, *net.layers[0].shape), jnp.float32)
    traced = workloads.profile(net.apply, net.parameter_shapes(), train, weights=(0,))
    assert not traced.info.uncounted
    for column in ("macs", "macs_valid"):
        assert table.total(column) == traced.total(column)
    cost = jax.jit(costmodel.estimate)(costmodel.load_hardware("isaac"), table)
    assert cost.latency > 0 and np.isfinite(cost.energy)
    assert table.info.edges == tuple((i, i + 1) for i in range(6))
    assert workloads.stack([table, workloads.load("gsc-snn")]).kind.shape == (2, 8)


def test_event_driven_tables_hold_the_effective_operations(counted):
    net, _, train, _, counts = counted
    table = spiking_table(net, 9, counts)
    assert table.macs.sum() == pytest.approx(counts.macs)
    row = table.info.op_names.index("conv")
    assert table.flops[row] == pytest.approx(counts.layers["conv"].acs + 9 * 64)  # one flop each, and the bias
    assert table.inputs[row] == pytest.approx(counts.layers["conv"].events) == pytest.approx(train.sum() / 3)
    cost = jax.jit(lambda ops: costmodel.estimate(costmodel.load_hardware("stm32l4r5"), ops).energy)
    assert cost(table.without_info()) < cost(spiking_table(net, 9).without_info())
    with pytest.raises(ValueError, match="the counts are those of another network"):
        spiking_table(spiking_mlp((3, 2)), 9, counts)
    with pytest.raises(ValueError, match=r"steps = 0 is outside its range \[1"):
        spiking_table(net, 0)


def test_recurrence_arrives_one_step_later():
    # one neuron that feeds itself with weight -10: v: 2 spikes | 1.8 - 1 + 2 - 10 = -7.2
    _, edges = execution_order(["x", "w", "n"], [("x", "n"), ("n", "w"), ("w", "n")], {"n"})
    assert [edge.delayed for edge in edges] == [False, True, False]
    layers = (Layer("x", (1,), (1,)), Dense("w", (1,), (1,), False), Neurons("n", (1,), (1,), neuron=Leaky(beta=0.9)))
    net = dataclasses.replace(chain("r", layers[:1]), layers=layers, edges=tuple(edges), outputs=("n",))
    parameters = {"w": {"weight": jnp.asarray([[-10.0]])}, "n": Leaky(beta=0.9)}
    np.testing.assert_allclose(net.record(parameters, jnp.full((2, 1), 2.0)).potential["n"][:, 0], [2.0, -7.2], rtol=1e-6)
    with pytest.raises(ValueError, match="a loop without neurons: a, b"):
        execution_order(["a", "b"], [("a", "b"), ("b", "a")], set())
    with pytest.raises(ValueError, match="given twice"):
        execution_order(["a", "b"], [("a", "b"), ("a", "b")], set())


def test_networks_train_and_compile_once():
    net = spiking_mlp((8, 6, 4))
    parameters = numbers(net, 0)
    train = (np.random.default_rng(1).random((3, 15, 8)) < 0.4).astype(np.float32)
    traces = []

    def loss(p, x):
        traces.append(0)
        return jnp.mean((jax.vmap(lambda one: net.apply(p, one))(x).mean(1) - 0.3) ** 2)

    step = jax.jit(jax.grad(loss))
    slope = step(parameters, train)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
    assert np.abs(slope["dense1"]["weight"]).max() > 0
    other = jax.tree.map(lambda leaf: np.asarray(leaf) * np.float32(0.9), parameters)
    assert not np.array_equal(step(other, 1 - train)["dense2"]["bias"], slope["dense2"]["bias"])
    assert len(traces) == 1
    with pytest.raises(ValueError, match="expected \\(steps, \\(8,\\)\\)"):
        net.apply(parameters, jnp.ones((15, 9)))
    with pytest.raises(ValueError, match="widths = "):
        spiking_mlp((8,))


# -- the double count


def test_a_rate_applied_twice_is_found():
    # PMC10242054, Table 3: 18.39e6 operations at a spike rate of 0.1366 are 2.51e6; printed 3.09e-7 J, right 22.59e-7 J
    dense, rate, printed, right = 18.39e6, 0.1366, 3.09e-7, 2.51e6 * 0.9e-12
    assert right == pytest.approx(22.59e-7, rel=1e-3)
    assert 845.94e-7 / right == pytest.approx(37.45, rel=1e-3)  # printed: 273.77
    assert applied_rates(printed, dense, 0.9e-12, rate) == pytest.approx(2, abs=0.01)
    assert applied_rates(right, dense, 0.9e-12, rate) == pytest.approx(1, abs=0.01)
    check_single_rate(right, dense, 0.9e-12, rate)
    with pytest.raises(ValueError, match=r"contains the spike rate 0.1366 2.00 times; once it is 2.261e-06 J"):
        check_single_rate(printed, dense, 0.9e-12, rate)
    with pytest.raises(ValueError, match=r"rate = 1.2 is outside its range \(0, 1\)"):
        applied_rates(right, dense, 0.9e-12, 1.2)


# -- NIR


def write_nir(path, nodes, edges, version="1.0.8"):
    """A NIR file as nir.write lays it out."""
    text = h5py.string_dtype()

    def write(group, fields):
        for name, value in fields.items():
            if isinstance(value, dict):
                write(group.create_group(name), value)
            elif isinstance(value, str):
                group.create_dataset(name, data=value, dtype=text)
            elif isinstance(value, list):
                group.create_dataset(name, data=value, dtype=text)
            else:
                group.create_dataset(name, data=value)

    with h5py.File(path, "w") as file:
        file.create_dataset("version", data=version, dtype=text)
        write(file.create_group("node"), {"type": "NIRGraph", "nodes": nodes, "edges": edges})
    return path


def node(kind, **fields):
    return {"type": kind, **{k: v if isinstance(v, dict | str) else np.asarray(v) for k, v in fields.items()}}


def lif(n, kind="LIF", tau=1e-3):
    ones = np.ones(n, np.float32)
    return node(kind, tau=ones * tau, r=ones * tau / 1e-4, v_leak=ones * 0, v_threshold=ones, v_reset=ones * 0)


def event_network(rng):
    """The layers of spyx's example, random weights; biases of zeros, as exporters write for none."""

    def conv(o, i, k, stride, pad, space):
        shape = (o, i, k, k)
        fields = dict(stride=(stride,) * 2, padding=pad, dilation=(1, 1), groups=1, bias=np.zeros(o), input_shape=(space,) * 2)
        return node("Conv2d", weight=rng.normal(0, 0.3, shape).astype(np.float32), **fields)

    def integrate(*shape):
        return node("IF", r=np.full(shape, 1e4), v_threshold=np.ones(shape))

    pool = node("SumPool2d", kernel_size=(2, 2), stride=(2, 2), padding=(0, 0))
    chained = [node("Input", shape=(2, 34, 34)), conv(16, 2, 5, 2, (1, 1), 34), integrate(16, 16, 16)]
    chained += [
        conv(16, 16, 3, 1, "same", 16),
        integrate(16, 16, 16),
        pool,
        conv(8, 16, 3, 1, (1, 1), 8),
        integrate(8, 8, 8),
        pool,
    ]
    chained += [node("Flatten", start_dim=0, end_dim=-1), node("Linear", weight=rng.normal(0, 0.3, (256, 128))), integrate(256)]
    chained += [
        node("Affine", weight=rng.normal(0, 0.3, (10, 256)), bias=np.zeros(10)),
        integrate(10),
        node("Output", shape=(10,)),
    ]
    names = ["input", *map(str, range(len(chained) - 2)), "output"]
    return dict(zip(names, chained, strict=True)), [list(pair) for pair in itertools.pairwise(names)]


def test_a_convolutional_nir_file(tmp_path):
    path = write_nir(tmp_path / "scnn.nir", *event_network(np.random.default_rng(0)))
    net = read_nir(path)
    assert (net.parameters, net.n_neurons, sum(layer.padded for layer in net.weighted)) == (39_584, 8_970, 903_680)
    table = workloads.load(path, steps=10)
    assert table.total("macs") == 9_036_800
    assert (table.info.name, table.info.parameters) == ("scnn", 39_584)
    before = workloads.profile_cache_info().hits
    workloads.load(path, steps=10)
    assert workloads.profile_cache_info().hits == before + 1
    assert jax.eval_shape(net.apply, net.read_parameters(), jnp.ones((2, 2, 34, 34))).shape == (2, 10)


def recurrent(rng, nested):
    weight = {"w1": (6, 4), "w_rec": (6, 6), "w2": (3, 6)}
    nodes = {name: node("Linear", weight=rng.normal(0, 0.6, shape).astype(np.float32)) for name, shape in weight.items()}
    nodes |= {"input": node("Input", shape=(4,)), "output": node("Output", shape=(3,)), "lif": lif(6), "lif2": lif(3)}
    edges = [["input", "w1"], ["w1", "lif"], ["lif", "w2"], ["w2", "lif2"], ["lif2", "output"]]
    loop = [["lif", "w_rec"], ["w_rec", "lif"]]
    if not nested:
        return nodes, edges + loop
    inner = {name: nodes.pop(name) for name in ("lif", "w_rec")} | {
        "in": node("Input", shape=(6,)),
        "out": node("Output", shape=(6,)),
    }
    graph = {"type": "NIRGraph", "nodes": inner, "edges": [*loop, ["in", "lif"], ["lif", "out"]]}
    return nodes | {"lif": graph}, edges


def test_recurrent_nir_files_flat_and_nested_are_the_same(tmp_path):
    train = jnp.asarray(np.random.default_rng(0).uniform(0, 3, (30, 4)), jnp.float32)
    found = []
    for nested in (False, True):
        net = read_nir(write_nir(tmp_path / f"{nested}.nir", *recurrent(np.random.default_rng(5), nested)))
        found.append(net.apply(net.read_parameters(), train))
        assert sum(edge.delayed for edge in net.edges) == 1
        assert dense_operations(net, 1) == 24 + 36 + 18
    np.testing.assert_array_equal(*found)
    assert 0 < found[0].sum() < found[0].size


def test_time_constants_become_decays(tmp_path):
    # tau 1 ms and dt 0.1 ms: beta = 1 - 0.1; r = tau / dt, so gain = r dt / tau = 1. Delay of 0.2 ms: two steps
    nodes = {"a": node("Input", shape=(2,)), "d": node("Delay", delay=[0.0, 2e-4]), "n": lif(2), "z": node("Output", shape=(2,))}
    path = write_nir(tmp_path / "one.nir", nodes, [["a", "d"], ["d", "n"], ["n", "z"]])
    net = read_nir(path, semantics="snntorch", reset="subtract")
    trace = net.record(net.read_parameters(), jnp.full((10, 2), 0.6)).potential["n"]
    np.testing.assert_allclose(trace[:, 0], TRACES["subtract"], atol=5e-5)
    np.testing.assert_allclose(trace[2:, 1], TRACES["subtract"][:8], atol=5e-5)
    with pytest.raises(ValueError, match=r"a time constant of 0\.001 s is below the time step dt = 0.01 s"):
        read_nir(path, dt=0.01)
    current = node("CubaLIF", tau_syn=[2e-4], tau_mem=[4e-4], r=[4.0], v_leak=[0.0], v_threshold=[1.0], w_in=[2.0])
    nodes = {"a": node("Input", shape=(1,)), "n": current, "z": node("Output", shape=(1,))}
    path = write_nir(tmp_path / "cuba.nir", nodes, [["a", "n"], ["n", "z"]])
    net = read_nir(path, semantics="snntorch", reset="subtract")
    trace = net.record(net.read_parameters(), jnp.asarray([[1.5], [0.4], [1.2], [0.1]])).potential["n"]
    np.testing.assert_allclose(trace[:, 0], BY_HAND["synaptic", "snntorch", "subtract"][1], rtol=1e-6)
    neuron = read_nir(path, semantics="spyx", reset="subtract").populations[0].neuron  # spyx means its decays alone
    assert (neuron.gain, neuron.gain_in, neuron.alpha) == (1.0, 1.0, 0.5)


def damaged(tmp_path):
    """Files with something wrong, and what is said of each."""
    rng = np.random.default_rng(0)
    whole = write_nir(tmp_path / "whole.nir", *recurrent(rng, False)).read_bytes()
    (tmp_path / "cut.nir").write_bytes(whole[: len(whole) // 2])
    yield "cut", "damaged, or not an HDF5 file"
    (tmp_path / "text.nir").write_text("hello")
    yield "text", "damaged, or not an HDF5 file"
    h5py.File(tmp_path / "empty.nir", "w").close()
    yield "empty", "not a NIR file: it has no group 'node'"
    nodes, edges = recurrent(rng, False)
    write_nir(tmp_path / "link.nir", nodes, edges)
    with h5py.File(tmp_path / "link.nir", "a") as file:
        file["node/nodes/other"] = h5py.ExternalLink("/etc/hostname", "/node")
    yield "link", "'other' is a link to somewhere else"
    write_nir(tmp_path / "huge.nir", nodes, edges)
    with h5py.File(tmp_path / "huge.nir", "a") as file:
        file["node/nodes/w1"].create_dataset("more", shape=(2**20, 2**20), dtype="f4", chunks=(64, 64), compression="gzip")
    yield "huge", "its numbers take more than"
    write_nir(tmp_path / "outside.nir", nodes, edges)
    with h5py.File(tmp_path / "outside.nir", "a") as file:
        file["node/nodes/w1"].create_dataset("more", shape=(4,), dtype="f4", external=[(str(tmp_path / "cut.nir"), 0, 16)])
    yield "outside", "dataset 'more' lies in another file"
    yield "missing", "cannot be read: No such file or directory"


def test_graphs_that_make_no_sense_are_one_line():
    nodes, edges = recurrent(np.random.default_rng(0), False)
    lone = node("LIF", tau=[1.0, 1.0, 1.0])
    for changed, joined, message in (
        (nodes, [*edges, ["lif2", "nowhere"]], "an edge joins 'lif2' and 'nowhere', of which one does not exist"),
        (nodes | {"w2": node("Linear", weight=np.ones((3, 5)))}, edges, r"its weight \(3, 5\) reads \(5,\), but \(6,\) arrives"),
        (nodes | {"lif2": node("Izhikevich", a=[1.0])}, edges, "type 'Izhikevich' is not read; known: Input"),
        (nodes | {"lif2": lone}, edges, r"node 'lif2' \(LIF\): it has no 'v_threshold'"),
        (nodes | {"lif2": lif(3, tau=np.nan)}, edges, "is not finite"),
        (nodes | {"lif2": {"type": "NIRGraph", "nodes": {}, "edges": []}}, edges, "has 0 nodes of type Input; one is read"),
        ({**nodes, "lone": lone}, edges, "nothing feeds node 'lone'"),
        ({}, [], "0 nodes, outside the range"),
    ):
        tree = {"type": "NIRGraph", "nodes": changed, "edges": np.asarray(joined, object)}
        with pytest.raises(ValueError, match=message):
            build_network("net", tree, {}, 1e-4, {"semantics": "nir", "reset": "zero"})


def test_damaged_nir_files_are_one_line(tmp_path):
    for name, message in damaged(tmp_path):
        path = tmp_path / f"{name}.nir"
        with pytest.raises(ValueError) as caught:
            workloads.load(path)
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
        assert message in str(caught.value), name


def test_inputs_without_shapes_are_bound(tmp_path):
    nodes = {"a": {"type": "Input"}, "w": node("Linear", weight=np.ones((2, 3))), "z": {"type": "Output"}}
    path = write_nir(tmp_path / "open.nir", nodes, [["a", "w"], ["w", "z"]])
    with pytest.raises(ValueError, match=r"its shape is unknown; give shapes=\{'a': \(...\)\}"):
        workloads.load(path)
    assert workloads.load(path, shapes={"a": (3,)}).total("macs") == 6
    with pytest.raises(ValueError, match="shapes names 'b', which is no input"):
        read_nir(path, {"b": (3,)})


@pytest.mark.slow
def test_mutated_nir_files_give_a_network_or_one_line(tmp_path):
    whole = write_nir(tmp_path / "whole.nir", *recurrent(np.random.default_rng(0), True)).read_bytes()
    path = tmp_path / "mutated.nir"
    for seed in range(80):
        rng = random.Random(seed)
        data = bytearray(whole)
        for _ in range(rng.choice((1, 4, 16))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data[: rng.randrange(len(data))] if rng.random() < 0.2 else data)
        try:
            assert read_nir(path).layers
        except ValueError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
