"""Bit widths: published latencies of a policy, exact trade-offs against brute force, real fine-tuning, and the environment."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import rl
from costmodel import (
    HARD,
    STRAIGHT_THROUGH,
    BitChoices,
    BitPolicy,
    LayerOptions,
    MatrixShapes,
    PolicyAccuracy,
    SerialCrossbar,
    chosen_policy,
    conv_net,
    crossbar_accuracy,
    latency_table,
    layer_options,
    load_dataset,
    load_encoding,
    matrix_shapes,
    measure_policy,
    policy_latency,
    policy_speedup,
    prepare_study,
    search_precision,
    soft,
    trade_off,
    tune_policy,
    uniform_policy,
)
from costmodel.accuracy.bit_widths import quantise_inputs, quantise_weights
from costmodel.studies.mixed_precision import paired_loss, relaxed_policy
from physics import Adc, CrossbarCells, load_mapping
from workloads import load

X64 = jax.config.read("jax_enable_x64")
CLASSIFIER = [(4096, 25088, 1), (4096, 4096, 1), (1000, 4096, 1)]  # of VGG16; the workload ends before it


def tol(single: float, double: float) -> float:
    return double if X64 else single


@pytest.fixture(scope="module")
def vgg16() -> MatrixShapes:
    convolutions = [tuple(int(x) for x in row) for row in zip(*matrix_shapes(load("vgg16")), strict=True)]
    return matrix_shapes([*convolutions, *CLASSIFIER])


def published_policy() -> BitPolicy:
    """VGG16, first and last layer fixed, cells of 4 bits: jmkle/cim-aq results/, weights/inputs of 16 layers."""
    text = "8/8 4/7 4/6 4/3 4/5 4/4 4/4 4/6 4/4 4/2 4/6 4/3 4/7 8/8 4/7 8/8"
    return BitPolicy(*np.array([[float(b) for b in pair.split("/")] for pair in text.split()]).T)


SMALL = matrix_shapes([(16, 9, 196), (32, 144, 49), (32, 288, 16, 3), (10, 512, 1)])
TINY_ARRAY = SerialCrossbar(rows=64, columns=64)


def random_policies(n: int, layers: int, seed: int = 0) -> BitPolicy:
    return BitPolicy(*np.random.default_rng(seed).integers(1, 17, (2, n, layers)).astype(float))


# Latency --------------------------------------------------------------------------------------------------------------


def test_by_hand():
    # 100 outputs, 300 inputs, 10 calls, 2 repeats; 5-bit weights in 4-bit cells: 2 slices, 100 * 2 * 2 = 400 columns, 2 arrays;
    # 300 rows, 2 arrays. W = 2 * 4 = 8, E = 2 * 10 * 4 * 3 = 240. L = 8 * 56 us + 240 * 1.4 us = 784 us.
    cost = policy_latency(SerialCrossbar(), matrix_shapes([(100, 300, 10, 2)]), BitPolicy(np.array([5.0]), np.array([3.0])))
    np.testing.assert_allclose([cost.writes[0], cost.executions[0]], [8, 240])
    np.testing.assert_allclose(cost.total, 784e-6, rtol=1e-6)


PUBLISHED = {  # encoding: ms at 8/8, ms and speedup of the policy, writes, executions; from the equations of cim-aq in float64
    "differential_columns": (12394.6368, 4993.5648, 2.4821, 7494, 3267072),
    "offset": (9781.7664, 4502.6352, 2.1725, 3989, 3056608),
    "differential_rows": (13167.2352, 6376.9328, 2.0648, 7501, 4254912),
}


@pytest.mark.parametrize("encoding", PUBLISHED)
def test_published_policy_of_vgg16(vgg16, encoding):
    # The paper's headline is 2.48 (Pelke et al. 2026, abstract): differential columns.
    base, total, gain, writes, executions = PUBLISHED[encoding]
    crossbar = SerialCrossbar(encoding=load_encoding(encoding))
    cost = policy_latency(crossbar, vgg16, published_policy())
    np.testing.assert_allclose(cost.total, total / 1e3, rtol=1e-6)
    np.testing.assert_allclose(policy_latency(crossbar, vgg16, uniform_policy(vgg16, 8, 8)).total, base / 1e3, rtol=1e-6)
    np.testing.assert_allclose(policy_speedup(crossbar, vgg16, published_policy()), gain, atol=6e-5)
    assert (cost.writes.sum(), cost.executions.sum()) == (writes, executions)


def test_published_uniform_policies_of_vgg16(vgg16):
    # First and last layer 8/8: 3.05 at 4/4 and 5.08 at 2/2 (same equations).
    gains = [policy_speedup(SerialCrossbar(), vgg16, uniform_policy(vgg16, bits, bits, ends=8)) for bits in (4, 2)]
    np.testing.assert_allclose(gains, [3.05, 5.08], atol=0.005)


def test_batched_counts_equal_integer_arithmetic():
    policies = random_policies(2000, SMALL.n_layers)
    m, n, k, r = (np.asarray(x, int) for x in SMALL)
    for name in ("offset", "differential_rows"):
        e = load_encoding(name)
        crossbar = SerialCrossbar(rows=48, columns=40, cell_bits=3, drive_bits=2, encoding=e)
        cost = jax.jit(jax.vmap(lambda p, c=crossbar: policy_latency(c, SMALL, p)))(policies)
        w, a = (np.asarray(x, int) for x in policies)
        arrays = -(-(m * -(-w // 3) * e.columns_per_slice + e.reference_columns) // 40) * -(-(n * e.rows_per_weight) // 48)
        np.testing.assert_array_equal(cost.writes, r * arrays)
        np.testing.assert_array_equal(cost.executions, r * k * arrays * -(-a // 2))
        one = policy_latency(crossbar, SMALL, jax.tree.map(lambda x: x[7], policies))
        np.testing.assert_allclose(one.latency, cost.latency[7], rtol=1e-6)


def test_latency_rises_with_bits_and_with_smaller_arrays():
    table = np.asarray(latency_table(TINY_ARRAY, SMALL, range(1, 17), range(1, 17)))
    assert (np.diff(table, axis=1) >= 0).all() and (np.diff(table, axis=2) > 0).all()
    large = np.asarray(latency_table(SerialCrossbar(), SMALL, range(1, 17), range(1, 17)))
    assert (large <= table).all()


def test_soft_latency_is_below_the_exact_one_and_reaches_it():
    bits = jax.random.uniform(jax.random.key(0), (2, 500, SMALL.n_layers), minval=1.0, maxval=16.0)

    def totals(policy):
        return jax.vmap(lambda w, a: policy_latency(TINY_ARRAY, SMALL, BitPolicy(w, a), policy).total)(*bits)

    exact, loose, sharp = totals(HARD), totals(soft(4.0)), totals(soft(1000.0))
    assert (loose <= exact * (1 + 1e-6)).all()
    assert np.median(sharp / exact) > 0.98
    np.testing.assert_array_equal(exact, totals(STRAIGHT_THROUGH))


def test_gradients():
    def total(bits, policy):
        return 1e3 * policy_latency(TINY_ARRAY, SMALL, BitPolicy(bits[0], bits[1]), policy).total

    whole = jnp.full((2, SMALL.n_layers), 4.0)
    for policy in (STRAIGHT_THROUGH, soft(8.0)):
        slope = jax.grad(total)(whole, policy)
        assert np.isfinite(slope).all() and (slope[1] > 0).all() and (slope >= 0).all()
    assert (jax.grad(total)(whole, HARD) == 0).all()
    if X64:
        check_grads(lambda b: total(b, soft(6.0)), (whole + 0.37,), order=1, modes=["rev"], rtol=1e-5)


def test_one_trace_for_other_bits_and_other_crossbars():
    traces = []

    @jax.jit
    def total(crossbar, policy):
        traces.append(0)
        return policy_latency(crossbar, SMALL, policy).total

    for bits, rows in ((4.0, 256), (6.0, 64), (3.5, 100)):
        total(SerialCrossbar(rows=rows), BitPolicy(jnp.full(4, bits), jnp.full(4, bits)))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: policy_latency(SerialCrossbar(), SMALL, BitPolicy(np.full(4, 4.0), np.array([4, 4, 0, 4.0]))),
            "input_bits[2] = 0 bit",
        ),
        (lambda: policy_latency(SerialCrossbar(), SMALL, BitPolicy(np.full(3, 4.0), np.full(3, 4.0))), "has 4 layers"),
        (lambda: uniform_policy(SMALL, 17, 8), "weight_bits[0] = 17 bit is outside its range [1, 16] bit"),
        (lambda: uniform_policy(SMALL, float("nan"), 8), "= nan bit"),
        (lambda: latency_table(SerialCrossbar(), SMALL, (4, 20), (4,)), "weight_choices = [4, 20]"),
        (lambda: matrix_shapes([]), "no matrix product"),
        (lambda: matrix_shapes([(10, 0, 1)]), "layer 0: inputs = 0 is below 1"),
        (lambda: SerialCrossbar(write_time=-1.0), "write_time = -1"),
        (lambda: SerialCrossbar(encoding=load_encoding("BNN_I")), "unknown encoding 'BNN_I'"),
        (lambda: BitChoices(input_bits=(0, 4)), "input_bits = (0, 4)"),
        (lambda: BitChoices(ends=40), "ends = 40 bit"),
        (lambda: chosen_policy(layer_options(SerialCrossbar(), SMALL), (0, 0)), "choice has 2 entries"),
        (lambda: search_precision(SMALL, flat, method="magic"), "unknown method 'magic'"),
        (lambda: search_precision(SMALL, flat, method="gradient"), "give a BitStudy"),
        (lambda: search_precision(SMALL, flat, budget=1), "budget = 1 is below 2"),
        (lambda: rl.PrecisionEnv(SMALL, lambda policy: 1.0, ends=1), "ends = 1 bit"),
    ],
)
def test_bad_input_is_one_clear_line(call, words):
    with pytest.raises(ValueError) as problem:
        call()
    assert words in str(problem.value) and "\n" not in str(problem.value)


# Searches -------------------------------------------------------------------------------------------------------------

SENSITIVITY = np.array([0.02, 0.3, 0.1, 0.6])  # points, of a stand-in for a measurement that is a formula


def points_lost(policy: BitPolicy) -> float:
    return float(np.sum(SENSITIVITY * (2.0 ** (6 - np.asarray(policy.input_bits)) + 0.5 * (np.asarray(policy.weight_bits) < 8))))


def additive(policy: BitPolicy) -> PolicyAccuracy:
    lost = points_lost(policy)
    return PolicyAccuracy(jnp.asarray(0.9 - lost / 100, float), jnp.asarray(lost, float), jnp.ones(1000, bool))


def flat(policy: BitPolicy) -> PolicyAccuracy:
    return PolicyAccuracy(jnp.asarray(0.9, float), jnp.asarray(0.3, float), jnp.ones(1000, bool))


def test_options_leave_out_what_is_widened_for_free():
    # 16 outputs in 64 columns: 8-bit weights take 16 * 2 * 2 = 64 columns, one array like 4-bit ones; 32 outputs take two.
    options = layer_options(TINY_ARRAY, SMALL)
    assert [len(o.latency) for o in options] == [7, 14, 14, 7]
    assert (options[0].weight_bits == 8).all() and set(options[1].weight_bits) == {4, 8}
    assert all((np.diff(o.latency) >= 0).all() and o.weight_bits[-1] == o.input_bits[-1] == 8 for o in options)
    ends = layer_options(TINY_ARRAY, SMALL, BitChoices(ends=8))
    assert [len(o.latency) for o in ends] == [1, 14, 14, 1]


def test_trade_off_equals_brute_force():
    rng = np.random.default_rng(1)
    options = [LayerOptions(np.zeros(5), np.zeros(5), rng.integers(1, 9, 5).astype(float)) for _ in range(5)]
    losses = [rng.integers(0, 7, 5).astype(float) for _ in range(5)]
    front = trade_off(options, losses)
    every = np.array(list(itertools.product(range(5), repeat=5)))
    latency = sum(o.latency[every[:, i]] for i, o in enumerate(options))
    loss = sum(x[every[:, i]] for i, x in enumerate(losses))
    for budget in np.unique(loss):
        fastest = latency[loss <= budget].min()
        assert front.latency[front.loss <= budget].min() == fastest
    assert (np.diff(front.latency) > 0).all() and (np.diff(front.loss) < 0).all()
    for choice, total, lost in zip(front.choices, front.latency, front.loss, strict=True):
        assert sum(o.latency[c] for o, c in zip(options, choice, strict=True)) == total
        assert sum(x[c] for x, c in zip(losses, choice, strict=True)) == lost


def test_trade_off_of_sixteen_layers(vgg16):
    options = layer_options(SerialCrossbar(), vgg16, BitChoices(ends=8))
    losses = [2.0 ** (8 - o.input_bits) + 5 * (o.weight_bits < 8) for o in options]  # integers keep the front short
    front = trade_off(options, losses)
    assert front.latency[0] == pytest.approx(sum(o.latency[0] for o in options))
    published = np.sum([2.0 ** (8 - a) + 5 * (w < 8) for w, a in zip(*published_policy(), strict=True)])
    reached = front.latency[front.loss <= published].min()
    assert reached < float(
        policy_latency(SerialCrossbar(), vgg16, published_policy()).total
    )  # the formula's optimum, not ImageNet's
    with pytest.raises(ValueError, match="the limit is 10"):
        trade_off(options, losses, limit=10)


def test_searches_against_the_optimum():
    found = {
        method: search_precision(SMALL, additive, TINY_ARRAY, method=method, budget=budget, allowed_loss=3.0)
        for method, budget in (("surrogate", 60), ("random", 60), ("uniform", 60), ("exhaustive", 100_000))
    }
    best = found["exhaustive"]
    assert best.complete and points_lost(best.policy) - points_lost(uniform_policy(SMALL, 8, 8)) <= 3.0
    for result in found.values():
        assert result.valid_loss <= 3.0 + 1e-4 and result.speedup <= best.speedup * (1 + 1e-6)
        np.testing.assert_allclose(result.speedup, policy_speedup(TINY_ARRAY, SMALL, result.policy), rtol=1e-5)
    assert found["surrogate"].evaluations <= 60 and found["surrogate"].speedup > 0.97 * best.speedup
    assert found["surrogate"].speedup > found["random"].speedup > 1
    assert found["surrogate"].speedup >= found["uniform"].speedup


def test_nothing_accurate_enough_is_eight_bits():
    def hopeless(policy):
        return flat(policy)._replace(valid_accuracy=jnp.asarray(0.9 if np.min(policy.input_bits) == 8 else 0.1))

    result = search_precision(SMALL, hopeless, SerialCrossbar(), method="random", budget=5)
    assert result.speedup == 1 and (result.policy.input_bits == 8).all() and result.evaluations == 5


def test_paired_loss():
    # 3 of 100 lost, 1 won: 2 points; variance of the differences 0.04 - 0.02^2 = 0.0396, error 100 sqrt(0.0396 / 100) = 1.99.
    base, other = np.ones(100, bool), np.ones(100, bool)
    base[0], other[1:4] = False, False
    np.testing.assert_allclose(paired_loss(base, other), (2.0, 1.98997), rtol=1e-5)


# Networks of any bits -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study():
    return prepare_study(load_dataset("digits"), conv_net((6,)), steps=150)


def test_quantisers():
    x = jax.random.normal(jax.random.key(0), (400, 3))
    for bits in (2.0, 4.0, 8.0):
        whole, step = quantise_weights(x, bits)
        assert np.abs(whole).max() == 2 ** (bits - 1) - 1 and len(np.unique(whole)) <= 2**bits - 1
        assert (np.abs(whole * step - x) <= step / 2 + 1e-6).all()
        whole, step = quantise_inputs(x, jnp.asarray(2.0), bits)
        assert whole.min() == 0 and whole.max() == 2**bits - 1
    slope = jax.grad(lambda b: jnp.sum((quantise_weights(x, b)[0] * quantise_weights(x, b)[1] - x) ** 2))(4.3)
    assert np.isfinite(slope)


def test_more_bits_lose_less_and_one_program_serves_all(study):
    policies = BitPolicy(*(jnp.broadcast_to(jnp.array([[2.0], [4.0], [8.0]]), (3, 2)) for _ in range(2)))
    rows = [measure_policy(study, jax.tree.map(lambda x, i=i: x[i], policies), steps=20) for i in range(3)]
    coarse, _, fine = (float(row.valid_entropy) for row in rows)
    assert coarse > fine + 0.1 and float(rows[2].valid_accuracy) > 0.85


@pytest.mark.slow
def test_policies_in_one_batch(study):
    policies = BitPolicy(*(jnp.array([[2.0, 4.0], [4.0, 5.0], [8.0, 8.0]]) for _ in range(2)))
    batched = jax.vmap(lambda p: measure_policy(study, p, steps=20))(policies)
    rows = [measure_policy(study, jax.tree.map(lambda x, i=i: x[i], policies), steps=20) for i in range(3)]
    np.testing.assert_allclose(batched.valid_accuracy, [row.valid_accuracy for row in rows], atol=0.03)


def test_crossbars_give_the_digital_answers(study):
    policy = BitPolicy(np.array([8.0, 6.0]), np.array([3.0, 5.0]))
    right = float(jnp.mean(measure_policy(study, policy, steps=20).test_right))
    layers = tune_policy(study, policy, steps=20)
    cells = CrossbarCells(levels=16)
    assert crossbar_accuracy(study, layers, policy, cells) == pytest.approx(right, abs=0.005)  # two images at ties
    with pytest.raises(ValueError, match="levels"):
        crossbar_accuracy(study, layers, policy, CrossbarCells(levels=2))


@pytest.mark.slow
def test_coarse_converters_cost_accuracy(study):
    policy = BitPolicy(np.array([8.0, 4.0]), np.array([4.0, 4.0]))
    layers, cells = tune_policy(study, policy, steps=20), CrossbarCells(levels=16)
    coarse = Adc.full_range(load_mapping("I_UINT_W_DIFF", 4, 4, (4,)), 2.0)
    assert crossbar_accuracy(study, layers, policy, cells, coarse) < crossbar_accuracy(study, layers, policy, cells) - 0.1


def test_bad_policies_of_a_study(study):
    with pytest.raises(ValueError, match="the network has 2 layers"):
        measure_policy(study, BitPolicy(np.full(3, 8.0), np.full(3, 8.0)))
    with pytest.raises(ValueError, match="weights are signed"):
        measure_policy(study, BitPolicy(np.full(2, 1.0), np.full(2, 8.0)))
    with pytest.raises(ValueError, match="steps = -1 is below 0"):
        measure_policy(study, BitPolicy(np.full(2, 8.0), np.full(2, 8.0)), steps=-1)
    with pytest.raises(ValueError, match="steps = 0"):
        prepare_study(load_dataset("digits"), conv_net((4,)), steps=0)


def test_a_higher_price_of_latency_trains_fewer_bits(study):
    bounds = ((4.0, 8.0), (2.0, 8.0))
    low, high = (
        relaxed_policy(study, TINY_ARRAY, price, jax.random.key(0), jnp.ones(2), bounds, steps=60) for price in (1e-3, 10.0)
    )
    assert float(high.input_bits.mean()) < float(low.input_bits.mean()) - 1
    for bits, (lo, hi) in zip(high, bounds, strict=True):
        assert (bits >= lo).all() and (bits <= hi).all()


@pytest.mark.slow
def test_searches_on_digits(study):
    shared = functools.cache(lambda w, a: measure_policy(study, BitPolicy(np.array(w), np.array(a)), steps=30))
    found = {
        method: search_precision(
            study,
            lambda p: shared(tuple(map(float, p.weight_bits)), tuple(map(float, p.input_bits))),
            method=method,
            budget=400 if method == "exhaustive" else 40,
            allowed_loss=1.0,
            steps=30,
        )
        for method in ("surrogate", "gradient", "random", "exhaustive")
    }
    for result in found.values():
        assert 1 < result.speedup <= found["exhaustive"].speedup * (1 + 1e-6)
    assert found["surrogate"].speedup > 0.9 * found["exhaustive"].speedup


# The environment ------------------------------------------------------------------------------------------------------


def formula(policy: BitPolicy):
    lost = jnp.sum(jnp.asarray(SENSITIVITY) * jnp.exp2(4.0 - policy.input_bits))
    return 0.9 - lost / 100


@pytest.fixture(scope="module")
def env() -> rl.PrecisionEnv:
    return rl.PrecisionEnv(SMALL, formula, TINY_ARRAY)


def test_reward_by_hand(env):
    params = env.default_params
    full = uniform_policy(SMALL, 8, 8)
    # 8 bits: speedup 1, accuracy 0.1 above the target: 100 * 0 + 0.1 * 0.1.
    np.testing.assert_allclose(env.reward(full, params), 0.01, atol=tol(2e-4, 1e-9))
    coarse = uniform_policy(SMALL, 8, 2)
    lost = 100 * float(formula(full) - formula(coarse))
    np.testing.assert_allclose(env.reward(coarse, params), -10 * (lost - 0.1), rtol=1e-3)
    free = params._replace(allowed_loss=100.0)
    gain = float(policy_speedup(TINY_ARRAY, SMALL, coarse))
    np.testing.assert_allclose(env.reward(coarse, free), 100 * (gain - 1) + 0.1 * (100 - lost), rtol=1e-4)


def test_actions_are_the_published_bits(env):
    # bits = round(7 a + 2 - 0.5) at the middle a = (i + 0.5) / 7 of each action: 2 to 8.
    # Weights in cells of 4 bits: valid[min(floor(2 a), 1)] of (4, 8).
    actions = jnp.arange(7)
    np.testing.assert_array_equal(jax.vmap(lambda a: env.bits(a, jnp.asarray(False)))(actions), np.arange(2, 9))
    np.testing.assert_array_equal(jax.vmap(lambda a: env.bits(a, jnp.asarray(True)))(actions), [4, 4, 4, 8, 8, 8, 8])


def test_an_episode(env, getkey):
    observation, state = env.reset(getkey())
    assert observation.shape == (len(env.observation_names),)
    actions = jnp.array([6, 3, 0, 2, 6, 6, 1, 4])
    rewards = []
    step = jax.jit(env.step)
    for number, action in enumerate(actions):
        assert env.observation_space().contains(observation) and observation[-1] == (number % 2 == 0)
        observation, state, reward, terminated, truncated, info = step(getkey(), state, action)
        rewards.append(float(reward))
        assert bool(terminated) == (number == 7) and not truncated
    np.testing.assert_array_equal(info["policy"].weight_bits, [8, 4, 8, 4])
    np.testing.assert_array_equal(info["policy"].input_bits, [5, 4, 8, 6])
    assert rewards[:-1] == [0.0] * 7
    np.testing.assert_allclose(rewards[-1], env.reward(info["policy"], env.default_params), rtol=1e-5)
    assert state.time == 0 and observation[-2] == 0  # reset, the last action cleared
    np.testing.assert_array_equal(jnp.stack(env.play(actions)), jnp.stack(info["policy"]))


def test_ends_are_fixed():
    fixed = rl.PrecisionEnv(SMALL, formula, TINY_ARRAY, ends=8)
    policy = fixed.play(jnp.zeros(8, jnp.int32))
    np.testing.assert_array_equal(policy.input_bits, [8, 2, 2, 8])
    np.testing.assert_array_equal(policy.weight_bits, [8, 4, 4, 8])


@pytest.mark.slow
def test_dqn_beats_chance():
    env = rl.PrecisionEnv(SMALL, formula, TINY_ARRAY, markov=True)
    params = env.default_params._replace(allowed_loss=2.0)
    config = rl.DQNConfig(
        total_steps=16_000,
        num_envs=8,
        buffer_size=8_000,
        batch_size=64,
        learning_starts=400,
        train_every=8,
        gamma=1.0,
        learning_rate=1e-3,
        hidden=(64, 64),
        reward_scale=0.01,
        log_every=2_000,
    )
    agent = rl.train(env, config, seed=0, params=params)
    act = jax.jit(agent.policy())
    observation, state = env.reset(jax.random.key(0))
    for _ in range(8):
        observation, state, reward, *_ = env.step(jax.random.key(0), state, act(observation), params)
    chance = jax.vmap(lambda key: env.reward(env.play(jax.random.randint(key, (8,), 0, 7)), params))
    drawn = np.asarray(chance(jax.random.split(jax.random.key(1), 500)))
    assert float(reward) > np.quantile(drawn, 0.9)
