"""The controller: every rule in states made for it, its costs against `costmodel.step`, its words, one trace."""

import json
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import costmodel
import rl
from costmodel import Decision, Outcome, step
from physics import LogTotal
from rl.decisions.controller import Controller, hold, make_decide, migrate, no_memory
from rl.decisions.ranges import ObservationRange, training_range
from rl.decisions.records import ControlLimits

pytestmark = pytest.mark.single  # computes in float32 whatever the default

NO_LIMITS = ControlLimits(retention_margin=-50.0, temperature=1000.0, hysteresis=0.0)
DEADLINE = 4  # position of ln(deadline / 0.1 s) in the observation


@pytest.fixture(scope="module")
def env():
    return rl.SchedulingEnv(costmodel.load_platform("edge"))


@pytest.fixture(scope="module")
def trained(env):
    """A range in which all lies, but for deadlines outside 0.1 s times e^-4 to e^4."""
    full = jnp.full(len(env.observation_names), 100.0)
    return ObservationRange((-full).at[DEADLINE].set(-4.0), full.at[DEADLINE].set(4.0), 0 * full)


def by_deadline(observation):
    """The agent of these tests: cpu 0, gpu x, pim -x with x = ln(deadline / 0.1 s)."""
    return jnp.stack([0 * observation[DEADLINE], observation[DEADLINE], -observation[DEADLINE]])


def constant(*values):
    return lambda observation: jnp.array(values)


@pytest.fixture(scope="module")
def compiled(env, trained):
    return Controller(env, by_deadline, trained=trained)


@pytest.fixture
def controller(compiled):
    """Without memory or limits."""
    compiled.reset()
    compiled.limits = NO_LIMITS
    return compiled


@pytest.fixture(scope="module")
def states(env):
    return jax.jit(jax.vmap(lambda key: env.reset(key)[1]))(jax.random.split(jax.random.key(3), 256))


def at(states, number, x=None):
    """State `number`, with ln(deadline / 0.1 s) = `x`."""
    state = jax.tree.map(lambda leaf: leaf[number], states)
    return state if x is None else state._replace(deadline=jnp.asarray(0.1 * math.exp(x), state.deadline.dtype))


def test_the_agent_decides_where_nothing_is_unusual(env, controller, states):
    decision = controller.decide(at(states, 0, 0.5))
    assert (decision.target, decision.index, decision.preferred) == ("gpu", 1, 1)
    assert decision.margin == pytest.approx(0.5) and decision.within_limits
    assert not (decision.fallback or decision.held or decision.migrated)
    assert decision.reason == "gpu has the best value, 0.5 above cpu"
    assert str(decision) == "gpu: gpu has the best value, 0.5 above cpu"
    assert list(decision.observation) == list(env.observation_names)
    assert decision.observation["ln(deadline / 0.1 s)"] == pytest.approx(0.5)


def test_equals_the_greedy_policy_of_a_network(env, trained, states):
    weights = jax.random.normal(jax.random.key(1), (3, len(env.observation_names)))
    values = lambda observation: weights @ observation  # noqa: E731
    decide = make_decide(env, values, trained, NO_LIMITS)
    verdicts, memory = jax.jit(jax.vmap(decide, (None, 0)))(no_memory(env), states)
    scores = np.asarray(jax.jit(jax.vmap(lambda state: values(env.observe(state))))(states))
    clear = np.diff(np.sort(scores, axis=1), axis=1)[:, -1] > 1e-4  # batches round differently
    assert clear.sum() > 250
    assert np.array_equal(np.asarray(verdicts.target)[clear], np.argmax(scores, axis=1)[clear])
    assert np.array_equal(np.asarray(memory)[np.arange(256), states.network], verdicts.target)
    assert np.sum(np.asarray(memory) == -1) == 256 * (len(env.stream.networks) - 1)


def test_alternatives_are_the_steps_outcomes(env, controller, states):
    """Each of the three costs what `costmodel.step` says, with the next request after the mean gap."""
    advance = jax.jit(lambda state, action: step(env.platform, state.platform, env.task(state), Decision(action))[1])
    for number in range(4):
        state = at(states, number)
        asked = state._replace(gap=state.mean_gap)
        for action, found in enumerate(controller.decide(state).alternatives):
            outcome = advance(asked, jnp.asarray(action))
            assert found.target == env.platform.names[action]
            for name in ("latency", "energy", "deadline_margin", "retention_margin", "peak_temperature", "wear"):
                assert getattr(found, name) == pytest.approx(float(getattr(outcome, name)), rel=2e-5, abs=1e-6)
            assert found.reward == pytest.approx(float(env.reward(asked, outcome, env.default_params)), rel=2e-5, abs=1e-6)


def test_outside_the_training_range_cost_greedy_decides(env, controller, states):
    # slack 0.05 of the width 8 is 0.4: ln(deadline / 0.1 s) = 4.39 is still inside, 4.41 is not
    for x, fallback in ((4.39, False), (4.41, True), (-4.39, False), (-4.41, True)):
        state = at(states, 1, x)
        decision = controller.decide(state)
        assert decision.fallback == fallback
    rule = jax.jit(lambda state: rl.baselines(env)["cost-greedy"](jax.random.key(0), env.observe(state), state))
    greedy = rule(state._replace(gap=state.mean_gap))
    assert decision.index == int(greedy)
    words = "outside the training range: ln(deadline / 0.1 s) = -4.41, trained on [-4, 4], so the reward of this request decides"
    assert decision.reason.startswith(words + f"; {decision.target} has the best reward, ")
    rewards = sorted(found.reward for found in decision.alternatives)
    assert decision.margin == pytest.approx(rewards[-1] - rewards[-2])


def test_a_broken_sensor_or_agent_is_not_trusted(env, trained, controller, states):
    plant = at(states, 0).platform
    broken = at(states, 0)._replace(platform=plant._replace(backlog=plant.backlog.at[0].set(jnp.nan)))
    decision = controller.decide(broken)
    assert decision.fallback and "nan, trained on" in decision.reason
    assert "no reward is a finite number, and cpu is the first target" in decision.reason
    assert json.loads(json.dumps(decision.as_dict(), allow_nan=False))["target"] == "cpu"
    diverged = Controller(env, constant(math.nan, 0.0, 0.0), trained=trained, limits=NO_LIMITS).decide(at(states, 0))
    assert diverged.fallback and diverged.reason.startswith("the agent's values are not finite, so the reward")


def test_hysteresis_holds_small_differences_and_remembers_each_network(controller, states):
    controller.limits = NO_LIMITS._replace(hysteresis=0.1)
    plant = at(states, 0).platform

    def ask(network, x):
        return controller.decide(plant, controller.request(network, deadline=0.1 * math.exp(x), mean_gap=0.3))

    assert ask("resnet8", 0.04).target == "gpu"
    held = ask("resnet8", -0.04)  # pim at 0.04 leads gpu, at -0.04, by 0.08
    assert (held.target, held.held, held.preferred) == ("gpu", True, 2)
    assert held.margin == pytest.approx(-0.08, abs=1e-5)
    assert held.reason == "held on gpu: the value of pim is higher by 0.08, not more than the hysteresis of 0.1"
    assert ask("ds-cnn", -0.04).target == "pim"  # another network has its own memory
    moved = ask("resnet8", -0.06)  # by 0.12
    assert moved.target == "pim" and not moved.held
    assert ask("resnet8", 0.04).target == "pim"
    controller.reset()
    assert ask("resnet8", 0.04).target == "gpu"


def test_hysteresis_ends_flapping(env, trained, states):
    """Values that tremble around a tie: 200 requests switch about every other time without, never with enough."""
    trembling = 0.02 * jax.random.normal(jax.random.key(0), (200,))
    requests = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (200, *leaf.shape)), at(states, 0))
    requests = requests._replace(deadline=0.1 * jnp.exp(trembling).astype(requests.deadline.dtype))

    @jax.jit
    def play(hysteresis):
        decide = make_decide(env, by_deadline, trained, NO_LIMITS._replace(hysteresis=hysteresis))
        _, targets = jax.lax.scan(lambda m, s: (lambda v, m: (m, v.target))(*decide(m, s)), no_memory(env), requests)
        return jnp.sum(jnp.diff(targets) != 0)

    largest = 2 * float(jnp.max(jnp.abs(trembling)))  # the widest lead
    assert 80 <= play(0.0) <= 120
    assert 1 <= play(0.06) <= 60
    assert play(1.01 * largest) == 0


def near_the_budget(env, margin):
    """All weights on the chip with `margin` = ln(hazard budget / lost fraction) now, on a cool idle platform."""
    count = len(env.stream.networks)
    plant = env.platform.initial_state(ambient=300.0, workloads=count)
    hazard = LogTotal.start(jnp.full(count, jnp.log(env.platform.hazard_budget) - margin))
    chip = plant.cells["pim"]._replace(resident=jnp.ones(count), memory=jnp.full(count, 0.1, float), lost=hazard)
    return plant._replace(cells={"pim": chip})


def test_emergency_migration_when_the_retention_margin_is_short(env, controller):
    controller.limits = NO_LIMITS._replace(retention_margin=math.log(2))
    request = controller.request("resnet8", deadline=0.1 / math.e, mean_gap=0.3)  # pim 1, cpu 0, gpu -1
    fine = controller.decide(near_the_budget(env, 0.8), request)
    assert fine.target == "pim" and not fine.migrated
    # at 300 K a run takes milliseconds of the weights' hours: the margin at the result is about the present one
    short = controller.decide(near_the_budget(env, 0.3), request)
    assert short.alternatives[2].retention_margin == pytest.approx(0.3, abs=1e-2)
    assert (short.target, short.migrated, short.held, short.fallback) == ("cpu", True, False, False)
    assert short.margin == pytest.approx(-1.0) and short.within_limits
    at_result = f"{short.alternatives[2].retention_margin:.3g}"
    assert short.reason == (
        "pim has the best value, 1 above cpu; "
        f"migrated from pim to cpu: its retention margin of {at_result} at the result is below 0.693"
    )
    beyond = controller.decide(near_the_budget(env, -0.1), request)  # would be written anew, and then is fresh
    assert beyond.target == "pim" and beyond.alternatives[2].retention_margin > 5


def test_a_hot_junction_is_left_and_the_last_resort_is_said(env, controller):
    plant = env.platform.initial_state(ambient=340.0, workloads=len(env.stream.networks))
    request = controller.request("resnet8", deadline=0.1 * math.e, mean_gap=0.05)  # gpu 1, cpu 0, pim -1
    peaks = [found.peak_temperature for found in controller.decide(plant, request).alternatives]
    assert peaks[1] > max(peaks[0], peaks[2])  # the GPU heats most
    between = (peaks[1] + max(peaks[0], peaks[2])) / 2
    controller.limits = NO_LIMITS._replace(temperature=between)
    decision = controller.decide(plant, request)
    assert decision.target == "cpu" and decision.migrated and decision.within_limits
    words = f"migrated from gpu to cpu: a junction would reach {peaks[1] - 273.15:.1f} C, above {between - 273.15:.1f} C"
    assert decision.reason.endswith(words)
    controller.limits = NO_LIMITS._replace(temperature=300.0)
    decision = controller.decide(plant, request)
    assert decision.index == int(np.argmin(peaks)) and not decision.within_limits
    assert decision.reason.endswith("above 26.9 C, and no target keeps the limits")


def outcomes(margin, peak):
    """Outcomes of which only the two limited fields are looked at."""
    zero = jnp.zeros_like(margin)
    fields = dict.fromkeys(Outcome._fields, zero) | {"retention_margin": margin, "peak_temperature": peak}
    return Outcome(**fields)


def test_migration_against_its_definition(getkey):
    """5,000 drawn cases against the rule written out in Python."""
    count, limits = 5000, ControlLimits(retention_margin=1.0, temperature=350.0)
    scores = jax.random.normal(getkey(), (count, 3))
    margin = jax.random.uniform(getkey(), (count, 3), minval=-1, maxval=3)
    peak = jax.random.uniform(getkey(), (count, 3), minval=330, maxval=360)
    peak = jnp.where(jax.random.bernoulli(getkey(), 0.3, (count, 1)), peak + 40, peak)
    kept = jax.random.randint(getkey(), (count,), 0, 3)
    found = np.asarray(jax.jit(jax.vmap(lambda s, k, m, p: migrate(limits, s, k, outcomes(m, p))))(scores, kept, margin, peak))

    def expected(score, kept, margin, peak):
        both = [i for i in range(3) if margin[i] >= 1.0 and peak[i] <= 350.0]
        sound = [i for i in range(3) if margin[i] >= 1.0]
        if kept in both:
            return kept
        if both:
            return max(both, key=lambda i: score[i])
        return min(sound, key=lambda i: peak[i]) if sound else max(range(3), key=lambda i: margin[i])

    rows = (np.asarray(x).tolist() for x in (scores, kept, margin, peak))
    wanted = np.array([expected(*row) for row in zip(*rows, strict=True)])
    assert np.array_equal(found, wanted)
    assert len({tuple(sorted(set(found[wanted == i]))) for i in range(3)}) == 3


@pytest.mark.parametrize(
    ("last", "gain", "expected"),
    [(-1, 5.0, 1), (0, 0.25, 0), (0, 0.2500001, 1), (0, 0.0, 0), (0, -1.0, 0), (1, 0.0, 1)],
    ids=["nothing-yet", "equal-to-the-threshold", "above-it", "tie", "preferred-by-an-actor-only", "same"],
)
def test_hold_at_its_edges(last, gain, expected):
    scores = jnp.array([1.0, 1.0 + gain]) if last != 1 else jnp.array([0.0, 1.0])
    assert int(hold(ControlLimits(hysteresis=0.25), scores, jnp.asarray(1), jnp.asarray(last))) == expected


class Agent(NamedTuple):
    """An actor that disagrees with its critics, and learned rewards in tenths."""

    config: Any = NamedTuple("Config", [("reward_scale", float)])(0.1)

    def policy(self):
        return lambda observation: jnp.asarray(0, jnp.int32)

    def values(self, observation):
        return jnp.array([0.1, 0.2, 0.0])


def test_an_actors_policy_decides_and_values_are_in_units_of_the_reward(env, trained, states):
    decision = Controller(env, Agent(), trained=trained, limits=NO_LIMITS).decide(at(states, 0))
    assert [found.value for found in decision.alternatives] == pytest.approx([1.0, 2.0, 0.0])
    assert decision.target == "cpu" and decision.margin == pytest.approx(-1.0)
    assert decision.reason == "the policy takes cpu, though its critics value gpu higher by 1"


def test_both_forms_of_asking_agree_and_nothing_is_traced_twice(env, controller, states):
    whole = [controller.decide(at(states, number)) for number in range(5)]
    for number, expected in enumerate(whole):
        state = at(states, number)
        times = {"deadline": float(state.deadline), "mean_gap": float(state.mean_gap)}
        found = controller.decide(state.platform, controller.request(int(state.network), **times))
        assert found.target == expected.target and found.reason == expected.reason
        for row, other in zip(found.alternatives, expected.alternatives, strict=True):
            assert row[1:] == pytest.approx(other[1:], rel=1e-5, abs=1e-6)  # two programs, rounded differently
    controller.limits = ControlLimits()
    controller.decide(at(states, 9))
    assert controller._run._cache_size() <= 2  # one for each form, over all tests with other values and limits


def test_python_and_pure_function_agree(env, controller, states):
    controller.limits = ControlLimits(hysteresis=0.02)
    pure = jax.jit(controller.function)
    memory = no_memory(env)
    for number in range(20):
        verdict, memory = pure(memory, at(states, number))
        decision = controller.decide(at(states, number))
        assert decision.index == int(verdict.target) and decision.preferred == int(verdict.preferred)
        assert decision.fallback == bool(verdict.fallback)
    assert np.array_equal(memory, controller.memory)


def test_as_dict_is_json(controller, states):
    found = controller.decide(at(states, 0)).as_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [row["target"] for row in found["alternatives"]] == ["cpu", "gpu", "pim"]


def test_excess_by_hand():
    """[0, 2] is 2 wide: 3 lies half a width above, -0.5 a quarter below; what is not a number lies infinitely far."""
    trained = ObservationRange(jnp.zeros(5), jnp.full(5, 2.0), jnp.ones(5))
    found = trained.excess(jnp.array([1.0, 3.0, -0.5, jnp.nan, jnp.inf]))
    assert np.array_equal(found, [0.0, 0.5, 0.25, np.inf, np.inf])


def test_training_range_covers_what_is_met(env):
    met = training_range(env, constant(0.0, 1.0, 2.0), jax.random.key(0), lanes=32, steps=8)
    slack = 1e-5 * np.maximum(1.0, np.abs(met.mean))
    assert np.all(met.lo <= met.mean + slack) and np.all(met.mean <= met.hi + slack)
    met.check(len(env.observation_names))
    names = list(env.observation_names)
    networks = met.mean[: len(env.stream.networks)]
    assert np.allclose(np.sum(networks), 1.0, atol=1e-5)  # one network at a time
    assert met.lo[DEADLINE] >= math.log(0.2) - 1e-5 and met.hi[DEADLINE] <= math.log(10) + 1e-5  # deadlines 0.02 to 1 s
    awake = [names.index(f"{name} is awake") for name in env.platform.names]
    assert np.all(np.asarray(met.hi)[awake] == 1.0) and np.all(np.asarray(met.lo)[awake] == 0.0)  # some lanes act at random


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"limits": ControlLimits(hysteresis=-1.0)}, r"limits.hysteresis = -1.0 must be a number in \[0, inf\)"),
        ({"limits": ControlLimits(temperature=30.0)}, r"limits.temperature \(K\) = 30.0 must be a number in \[200, 1000\]"),
        ({"limits": ControlLimits(retention_margin=math.nan)}, "limits.retention_margin = nan must be a number"),
        ({"limits": ControlLimits(slack=-0.1)}, "limits.slack = -0.1 must be a number"),
        ({"trained": ObservationRange(jnp.zeros(3), jnp.ones(3), jnp.ones(3))}, r"trained.lo of shape \(3,\) must hold"),
        ({"agent": 3}, "agent must be a trained agent or a function of an observation, got int"),
        ({"agent": constant(1.0, 2.0)}, r"agent gives values of shape \(2,\), expected \(3,\)"),
        ({"agent": lambda observation: jnp.zeros((3, 4)) @ observation}, "agent does not take an observation of "),
    ],
    ids=["hysteresis", "temperature", "margin", "slack", "range", "no-agent", "actions", "entries"],
)
def test_what_does_not_fit_is_refused(env, trained, arguments, words):
    with pytest.raises(ValueError, match=words) as caught:
        Controller(env, **({"agent": constant(1.0, 2.0, 3.0), "trained": trained} | arguments))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("network", "changes", "words"),
    [
        ("resnet", {}, "network = 'resnet' must be one of ds-cnn, "),
        (4, {}, "network = 4 must be below 4"),
        (-1, {}, "network = -1 must be an integer"),
        ("resnet8", {"deadline": 0.0}, r"deadline \(s\) = 0.0 must be a number in \(0, 1e\+09\]"),
        ("resnet8", {"mean_gap": math.inf}, r"mean_gap \(s\) = inf must be"),
    ],
    ids=["name", "number", "negative", "deadline", "gap"],
)
def test_requests_are_checked(controller, network, changes, words):
    with pytest.raises(ValueError, match=words):
        controller.request(network, **({"deadline": 0.1, "mean_gap": 0.3} | changes))
