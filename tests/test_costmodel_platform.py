"""step(): one run against an independent simulator in plain Python, conservation, limits, reliability and gradients."""

import dataclasses
import math
import re
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from costmodel import (
    CellState,
    ClockDomain,
    Conditions,
    CrossbarChip,
    Decision,
    Offer,
    Platform,
    PlatformState,
    Roofline,
    Task,
    ThermalLimit,
    estimate,
    list_clocks,
    load_clock,
    load_platform,
    make_offer,
    make_offers,
    make_task,
    quote,
    refresh_weights,
    rollout,
    soft,
    step,
)
from costmodel.weights import JUST_WRITTEN, settle
from physics import BOLTZMANN_EV, LogTotal, SharedPackage, VoltageScaling, load_device, parameters, replace
from workloads import OpKind, make_table

X64 = jax.config.read("jax_enable_x64")
QUICK = {"xla_llvm_disable_expensive_passes": True, "xla_backend_optimization_level": 0}  # compile fast, run slowly
BUDGET = 1e-6
advance = jax.jit(step)


def tol(single: float, double: float) -> float:
    return double if X64 else single


def hot_platform() -> Platform:
    """A CPU that lingers, a chip that forgets within a second at 400 K, and a second chip; small heat capacities."""
    cpu = Roofline(leakage_power=0.5, sleep_fraction=0.1, linger=0.4, wake_time=0.03, wake_energy=0.2)
    pim = CrossbarChip(elements=1, standby_power=0.3, leakage_fraction=0.3, sleep_fraction=0.2, linger=0.05, wake_time=0.01,
                       wake_energy=0.05, cell=load_device("cbram"))  # fmt: skip
    ram = CrossbarChip(elements=1, standby_power=0.2, cell=load_device("hfox_reram"))
    package = SharedPackage(names=("cpu", "pim", "ram"), r_junction=(4.0, 3.0, 2.0), c_junction=(0.05, 0.1, 0.2), r_spreader=0.5,
                            c_spreader=0.6, r_ambient=2.0, c_case=3.0)  # fmt: skip
    return Platform({"pim": pim, "cpu": cpu, "ram": ram}, package)


def governed(platform: Platform) -> Platform:
    """The same platform with clocks on two of its processors and a thermal limit that the hot sequences pass."""
    clocks = {"cpu": ClockDomain(VoltageScaling(voltage_lo=0.55), 0.2), "pim": ClockDomain(VoltageScaling(voltage_lo=0.8), 0.5)}
    limit = ThermalLimit(temperature=396.0, width=12.0, lowest=0.3, critical=430.0)
    return dataclasses.replace(platform, clocks=clocks, limit=limit)


NETWORKS = 5


def random_tasks(seed: int, count: int, busy: float = 1.0) -> tuple[Task, Decision]:
    """Tasks whose offers are drawn at random: any latency, energy, memory; processors 1 and 2 keep weights."""
    rng = np.random.default_rng(seed)
    latency = np.exp(rng.uniform(np.log(0.01), np.log(0.8), (NETWORKS, 3))) * busy
    offers = Offer(
        latency=latency,
        energy=latency * rng.uniform(0.5, 8.0, (NETWORKS, 3)),
        write_latency=np.array([0.0, 1.0, 1.0]) * rng.uniform(0.01, 0.2, (NETWORKS, 3)),
        write_energy=np.array([0.0, 1.0, 1.0]) * rng.uniform(0.01, 0.5, (NETWORKS, 3)),
        memory=np.array([0.0, 1.0, 1.0]) * rng.uniform(0.15, 0.6, (NETWORKS, 3)),
        streamed=np.array([0.0, 1.0, 1.0]) * rng.choice([0.0, 0.05], (NETWORKS, 3)),
        reads=np.array([0.0, 1.0, 1.0]) * rng.integers(0, 3000, (NETWORKS, 3)),
    )
    network = rng.integers(0, NETWORKS, count)
    tasks = Task(
        offer=jax.tree.map(lambda x: jnp.asarray(x[network], float), offers),
        network=jnp.asarray(network),
        deadline=jnp.asarray(rng.uniform(0.05, 1.5, count), float),
        gap=jnp.asarray(rng.exponential(0.5, count) + 1e-3, float),
    )
    return tasks, Decision(jnp.asarray(rng.integers(0, 3, count)))


def governed_tasks(seed: int, count: int, busy: float) -> tuple[Task, Decision]:
    """The same tasks at random clocks, some with a refresh before; parts of each run follow the clock, parts do not."""
    tasks, decisions = random_tasks(seed, count, busy)
    rng = np.random.default_rng(seed + 100)
    shares = [jnp.asarray(rng.uniform(0.0, most, (NETWORKS, 3))[np.asarray(tasks.network)], float) for most in (1.0, 0.4, 0.5)]
    offer = tasks.offer._replace(
        clocked=tasks.offer.latency * shares[0],
        stalled=tasks.offer.energy * shares[1],
        programming=tasks.offer.energy * shares[2],
    )
    speeds = jnp.asarray(rng.uniform(0.1, 1.0, count), float)
    refresh = jnp.asarray(rng.choice([-1, 0, 1, 2], count, p=[0.7, 0.1, 0.1, 0.1]))
    return tasks._replace(offer=offer), decisions._replace(speed=speeds, refresh=refresh)


def one_task(platform: Platform, gap: float = 1.0, network: int = 0, deadline: float = 1.0, **offer) -> Task:
    """A task with the same offer everywhere, 0 where not given."""
    count = len(platform.names)
    columns = {name: jnp.full(count, float(offer.get(name, 0.0))) for name in Offer._fields[:7]}
    columns |= {name: jnp.full(count, float(offer[name])) for name in Offer._fields[7:] if name in offer}
    return Task(Offer(**columns), jnp.asarray(network), jnp.asarray(deadline, float), jnp.asarray(gap, float))


def on(processor: int) -> Decision:
    return Decision(jnp.asarray(processor))


# An independent simulator: float64, plain Python, one thing after the other -------------------------------------------


def log_retention(cell, temperature):
    r = cell.retention
    return float(r.log_tau_ref) + float(r.e_a) / BOLTZMANN_EV * (1 / temperature - 1 / float(r.temperature_ref))


def disturb_rate(cell, temperature):
    d = cell.disturb
    field = math.sinh(float(cell.read_voltage) / (float(d.voltage_scale) * temperature / float(d.temperature_ref)))
    field /= math.sinh(float(d.voltage_ref) / float(d.voltage_scale))
    arrhenius = math.exp(-float(d.e_a) / BOLTZMANN_EV * (1 / temperature - 1 / float(d.temperature_ref)))
    return float(cell.read_time) * math.exp(float(d.log_rate_ref)) * arrhenius * field


def life_per_write(cell, temperature):
    e = cell.endurance
    return math.exp(-float(e.log_cycles_ref) - float(e.e_a) / BOLTZMANN_EV * (1 / temperature - 1 / float(e.temperature_ref)))


def supply(scaling, speed):
    """Voltage at a relative clock by bisection of the alpha-power law, of nominal."""
    threshold, alpha, ref = float(scaling.threshold), float(scaling.alpha), float(scaling.voltage_ref)

    def clock(voltage):
        return (voltage - threshold) ** alpha / voltage

    low, high = threshold, ref
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if clock(middle) < speed * clock(ref) else (low, middle)
    return max(high, float(scaling.voltage_lo)) / ref


class Simulator:
    """The platform once more, by the words of its documentation and not by its code."""

    def __init__(self, platform: Platform, ambient: float):
        self.platform, self.ambient = platform, ambient
        self.names = sorted(platform.processors)
        self.parts = [platform.processors[name] for name in self.names]
        self.work = [[] for _ in self.names]  # (seconds, joules) still to do
        self.volts = [1.0] * len(self.names)  # mean supply of that work
        self.idle_since = [-1e9] * len(self.names)
        self.time = 0.0
        self.theta = np.zeros(len(self.names) + 2)
        self.chips = {i: OrderedDict() for i, p in enumerate(self.parts) if isinstance(p, CrossbarChip)}  # network -> memory
        self.lost = {i: {} for i in self.chips}  # network -> expected share of cells lost
        self.wear = {i: 0.0 for i in self.chips}
        self.events = {"evicted": 0, "refreshed": 0, "failed": 0, "woken": 0, "queued": 0}
        self.governed = {"throttled": 0, "rewritten": 0, "slow": 0, "lowest voltage": 0}
        self._heat()

    def _heat(self):
        package = self.platform.package
        count = len(self.names)
        r = [float(x) for x in package.r_junction]
        capacity = [*(float(x) for x in package.c_junction), float(package.c_spreader), float(package.c_case)]
        g = np.zeros((count + 2, count + 2))
        for i, j, resistance in [(i, count, r[i]) for i in range(count)] + [(count, count + 1, float(package.r_spreader))]:
            g[[i, j], [i, j]] += 1 / resistance
            g[[i, j], [j, i]] -= 1 / resistance
        g[-1, -1] += 1 / float(package.r_ambient)
        self.capacity, self.g = np.array(capacity), g

    def _thermal(self, power, gap):
        """Rise at the end and its mean: exponential of the generator augmented by the power and by the integral."""
        n = len(self.theta)
        block = np.zeros((2 * n + 1, 2 * n + 1))
        block[:n, :n], block[:n, -1] = -self.g / self.capacity[:, None], power / self.capacity
        block[n : 2 * n, :n] = np.eye(n)
        end = scipy.linalg.expm(block * gap) @ np.concatenate([self.theta, np.zeros(n), [1.0]])
        return end[:n], end[n : 2 * n] / gap

    def _add(self, i, seconds, joules, volts):
        queue = sum(s for s, _ in self.work[i])
        if seconds > 0:
            self.volts[i] = (self.volts[i] * queue + volts * seconds) / (queue + seconds)
        self.work[i].append((seconds, joules))

    def _rewrite(self, i, now):
        """Rewriting all weights of chip i before the task: (joules, life)."""
        memory = sum(self.chips[i].values()) if i in self.chips else 0.0
        if memory == 0:
            return 0.0, 0.0
        part = self.parts[i]
        self.governed["rewritten"] += 1
        arrays = float(part.elements) * float(part.units) * float(part.arrays)
        pulse = float(part.cell.write_time) + float(part.verify_time)
        rows = memory * arrays * float(part.rows)
        seconds = rows * float(part.write_pulses) * pulse / float(part.write_arrays)
        joules = rows * float(part.cols) * float(part.write_pulses) * float(part.cell.write_energy)
        if not self.work[i] and self.time - self.idle_since[i] > float(part.linger):
            seconds, joules = seconds + float(part.wake_time), joules + float(part.wake_energy)
        self._add(i, seconds, joules, 1.0)
        for network in self.chips[i]:
            self.lost[i][network] = 0.0
        worn = memory * life_per_write(part.cell, now[i])
        self.wear[i] += worn
        return joules, worn

    def _at_speed(self, offer, chosen, speed):
        """(seconds, joules, supply) of the run itself at a relative clock."""
        seconds, joules = float(offer.latency[chosen]), float(offer.energy[chosen])
        domain = self.platform.clocks.get(self.names[chosen])
        if speed is None or domain is None:
            return seconds, joules, 1.0
        speed = min(max(speed, float(domain.slowest)), 1.0)
        volts = supply(domain.scaling, speed)
        self.governed["slow"] += speed < 1
        self.governed["lowest voltage"] += volts * float(domain.scaling.voltage_ref) == float(domain.scaling.voltage_lo)
        clocked, stalled, programming = (float(x[chosen]) for x in (offer.clocked, offer.stalled, offer.programming))
        joules = programming + volts**2 * (joules - programming - stalled * (1 - speed))
        return seconds - clocked + clocked / speed, joules, volts

    def _pace(self, temperature):
        limit = self.platform.limit
        if limit is None:
            return 1.0
        over = min(max((temperature - float(limit.temperature)) / float(limit.width), 0.0), 1.0)
        return 1 - (1 - float(limit.lowest)) * over

    def run(self, offer, network, deadline, gap, chosen, speed=None, refresh=-1):
        part, now = self.parts[chosen], self.ambient + self.theta
        paces = [self._pace(now[i]) for i in range(len(self.names))]
        rewriting, worn = self._rewrite(refresh, now)
        waiting = sum(seconds for seconds, _ in self.work[chosen])
        (seconds, joules, volts), written, failed, margin = self._at_speed(offer, chosen, speed), 0.0, 0.0, 50.0
        self.events["queued"] += waiting > 0
        self.governed["throttled"] += paces[chosen] < 1
        if not self.work[chosen] and self.time - self.idle_since[chosen] > float(part.linger):
            seconds, joules = seconds + float(part.wake_time), joules + float(part.wake_energy)
            self.events["woken"] += float(part.wake_time) > 0
        if chosen in self.chips:
            chip, lost = self.chips[chosen], self.lost[chosen]
            stale = network in chip and lost[network] >= BUDGET
            self.events["refreshed"] += stale
            if network not in chip or stale:
                written = 1.0
                seconds, joules = seconds + float(offer.write_latency[chosen]), joules + float(offer.write_energy[chosen])
                lost[network] = 0.0
            share = written * float(offer.memory[chosen]) + float(offer.streamed[chosen])
            self.wear[chosen] += share * life_per_write(part.cell, now[chosen])
            worn += share * life_per_write(part.cell, now[chosen])
            exposed = (seconds if written else waiting + seconds) / paces[chosen]
            at_result = lost[network] + exposed / math.exp(log_retention(part.cell, now[chosen]))
            at_result += float(offer.reads[chosen]) * disturb_rate(part.cell, now[chosen])
            margin = min(math.log(BUDGET / at_result), 50.0)
            failed = float(at_result > BUDGET)
            self.events["failed"] += int(failed)
            chip[network] = float(offer.memory[chosen])
            chip.move_to_end(network)
            while sum(chip.values()) > 1:
                chip.popitem(last=False)
                self.events["evicted"] += 1
            if failed:
                chip.pop(network, None)
        self._add(chosen, seconds, joules, volts)
        latency = (waiting + seconds) / paces[chosen]

        power = np.zeros(len(self.theta))
        leaked = 0.0
        for i, processor in enumerate(self.parts):
            queue = sum(s for s, _ in self.work[i])
            pending = sum(e for _, e in self.work[i])
            most = gap * paces[i]
            released = pending * min(queue, most) / queue if queue > 0 else 0.0
            if queue > most:
                self.work[i] = [(queue - most, pending - released)]
                awake = gap
            else:
                if queue > 0:
                    self.work[i], self.idle_since[i] = [], self.time + queue / paces[i]
                asleep_at = self.idle_since[i] + float(processor.linger)
                awake = min(max(asleep_at - self.time, 0.0), gap)
            leakage, standby = (float(x) for x in processor.reference_static_power(Conditions()))
            exponent = min(float(processor.leakage_slope) * (now[i] - float(processor.temperature_ref)), 4.0)
            static = leakage * self.volts[i] * math.exp(exponent) + standby
            static_energy = static * (awake + float(processor.sleep_fraction) * (gap - awake))
            leaked += static_energy
            power[i] = (released + static_energy) / gap
        self.theta, mean = self._thermal(power, gap)
        for i in self.chips:
            cell, temperature = self.parts[i].cell, self.ambient + mean[i]
            for name in self.lost[i]:
                self.lost[i][name] += gap / math.exp(log_retention(cell, temperature))
                if i == chosen and name == network:
                    self.lost[i][name] += float(offer.reads[i]) * disturb_rate(cell, temperature)
        self.time += gap
        return dict(latency=latency, energy=joules + rewriting + leaked, power=power.sum(), missed=float(latency > deadline),
                    failed=failed, wear=worn, written=written, deadline_margin=deadline - latency, retention_margin=margin,
                    peak_temperature=self.ambient + self.theta[:3].max(), throttled=float(paces[chosen] < 1))  # fmt: skip


@pytest.fixture(scope="module")
def platform() -> Platform:
    return hot_platform()


@pytest.fixture(scope="module")
def roll():
    """rollout() of many sequences from their own states, one program."""
    return jax.jit(jax.vmap(rollout, in_axes=(None, 0, 0, 0)))


STEPS = 300
BATCH = (24, 600)  # one shape, one compilation


AMBIENTS, BUSY = (385.0, 340.0, 400.0), (1.0, 4.0, 0.3)  # one sequence is overloaded


def roll_three(platform, roll, draw):
    """Random sequences at three ambient temperatures, by the model and by the simulator: (states, outcomes, simulated)."""
    sequences = [draw(seed, STEPS, busy) for seed, busy in enumerate(BUSY)]
    states = [platform.initial_state(ambient, NETWORKS) for ambient in AMBIENTS]
    tasks, decisions = (jax.tree.map(lambda *x: jnp.stack(x), *columns) for columns in zip(*sequences, strict=True))
    finals, outcomes = roll(platform, jax.tree.map(lambda *x: jnp.stack(x), *states), tasks, decisions)
    return tasks, finals, outcomes, [simulate(platform, *x) for x in zip(AMBIENTS, sequences, strict=True)]


def simulate(platform, ambient, sequence):
    """The simulator after a whole sequence, and the columns of its outcomes."""
    simulator, (tasks, decisions), rows = Simulator(platform, ambient), jax.tree.map(np.asarray, sequence), []
    for t in range(STEPS):
        task, decision = jax.tree.map(lambda x, t=t: x[t], (tasks, decisions))
        settings = {k: v.item() for k, v in decision._asdict().items() if k != "processor" and v is not None}
        columns = (task.network.item(), task.deadline.item(), task.gap.item(), decision.processor.item())
        rows.append(simulator.run(task.offer, *columns, **settings))
    return simulator, {name: np.array([row[name] for row in rows]) for name in rows[0]}


@pytest.fixture(scope="module")
def rolled(platform, roll):
    return roll_three(platform, roll, random_tasks)


@pytest.fixture(scope="module")
def rolled_governed(platform, roll):
    return roll_three(governed(platform), roll, governed_tasks)


@pytest.fixture(params=["plain", "governed"])
def runs(request):
    """Without and with clocks, refreshes and throttling."""
    return request.getfixturevalue("rolled" if request.param == "plain" else "rolled_governed")


def test_the_sequences_contain_everything_that_can_happen(runs):
    events = {name: sum(simulator.events[name] for simulator, _ in runs[3]) for name in runs[3][0][0].events}
    assert all(count >= 4 for count in events.values()), events


def test_the_governed_sequences_use_every_governor(rolled_governed):
    governed = {
        name: sum(simulator.governed[name] for simulator, _ in rolled_governed[3]) for name in rolled_governed[3][0][0].governed
    }
    assert all(count >= 20 for count in governed.values()), governed


def test_outcomes_equal_the_simulators(runs):
    outcomes = runs[2]
    for i, (_, expected) in enumerate(runs[3]):
        for name in ("missed", "failed", "written", "throttled"):
            np.testing.assert_array_equal(getattr(outcomes, name)[i], expected[name], err_msg=name)
        for name in ("latency", "energy", "power", "wear", "peak_temperature", "deadline_margin", "retention_margin"):
            got = np.asarray(getattr(outcomes, name)[i], np.float64)
            scale = dict(latency=1.0, deadline_margin=1.0, retention_margin=1.0, wear=1e-6).get(name, 0.0)
            atol = tol(3e-4 if name == "retention_margin" else 3e-5, 1e-9) * scale
            np.testing.assert_allclose(got, expected[name], rtol=tol(2e-4, 1e-8), atol=atol, err_msg=name)


def test_states_equal_the_simulators(platform, runs):
    finals = runs[1]
    for i, (simulator, _) in enumerate(runs[3]):
        final: PlatformState = jax.tree.map(lambda x, i=i: x[i], finals)
        np.testing.assert_allclose(final.theta, simulator.theta, rtol=tol(1e-4, 1e-8))
        np.testing.assert_allclose(final.temperature, simulator.ambient + simulator.theta[:3], rtol=tol(1e-5, 1e-9))
        queues = [(sum(s for s, _ in work), sum(e for _, e in work)) for work in simulator.work]
        np.testing.assert_allclose(final.backlog, [s for s, _ in queues], rtol=tol(2e-4, 1e-8), atol=tol(1e-4, 1e-9))
        np.testing.assert_allclose(final.pending, [e for _, e in queues], rtol=tol(2e-4, 1e-8), atol=tol(1e-3, 1e-9))
        if final.voltage is not None:
            np.testing.assert_allclose(final.voltage, simulator.volts, rtol=tol(1e-4, 1e-8))
        idle = [
            0.0 if queue[0] else min(simulator.time - since, 1e3)
            for queue, since in zip(queues, simulator.idle_since, strict=True)
        ]
        np.testing.assert_allclose(final.idle, idle, rtol=tol(1e-3, 1e-8), atol=tol(1e-3, 1e-9))
        for p, chip in simulator.chips.items():
            cells = final.cells[platform.names[p]]
            assert {n for n in range(NETWORKS) if cells.resident[n]} == set(chip)
            for network, lost in simulator.lost[p].items():
                assert cells.log_hazard[network] == pytest.approx(math.log(lost), abs=tol(2e-3, 1e-8))
            damage = finals.cells[platform.names[p]].wear.damage[i]
            assert float(damage) == pytest.approx(simulator.wear[p], rel=tol(1e-4, 1e-8))


# Conservation ---------------------------------------------------------------------------------------------------------


def test_energy_is_conserved(platform, roll):
    # what decisions commit and what leaks = what flows into the network + what is still pending
    count, steps = BATCH
    sequences = [random_tasks(seed, steps, busy) for seed, busy in zip(range(count), np.geomspace(0.02, 5, count), strict=True)]
    tasks, decisions = (jax.tree.map(lambda *x: jnp.stack(x), *columns) for columns in zip(*sequences, strict=True))
    states = jax.vmap(lambda ambient: platform.initial_state(ambient, NETWORKS))(jnp.linspace(300.0, 380.0, count))
    final, outcomes = roll(platform, states, tasks, decisions)
    booked = np.sum(np.asarray(outcomes.energy, np.float64), -1)
    flowed = np.sum(np.asarray(outcomes.power, np.float64) * np.asarray(tasks.gap, np.float64), -1)
    pending = np.sum(np.asarray(final.pending, np.float64), -1)
    np.testing.assert_allclose(booked, flowed + pending, rtol=tol(3e-6, 1e-12))
    assert pending.max() > 10 and (pending == 0).any()  # overloaded and idle platforms were among them
    assert (np.asarray(final.backlog) >= 0).all() and (np.asarray(final.pending) >= 0).all()
    assert ((np.asarray(final.pending) == 0) == (np.asarray(final.backlog) == 0)).all()


def test_heat_is_conserved(platform):
    # supplied = stored in the capacities + released to ambient, step by step
    state = platform.initial_state(330.0, NETWORKS)
    network = platform.package.network()
    tasks, decisions = random_tasks(7, 5)
    for t in range(5):
        task, decision = jax.tree.map(lambda x, t=t: x[t], (tasks, decisions))
        after, outcome = advance(platform, state, task, decision)
        supplied = float(outcome.power * task.gap)
        stored = float(jnp.sum(network.capacitance * (after.theta - state.theta)))
        leaves = (state.theta + after.theta) / 2
        assert stored <= supplied + 1e-4
        if float(task.gap) < 0.02:
            assert supplied - stored == pytest.approx(float(leaves[-1] / platform.package.r_ambient * task.gap), abs=1e-3)
        state = after


def test_the_thermal_state_is_the_networks_own_step(platform):
    state = platform.initial_state(330.0, 2)._replace(theta=jnp.asarray([20.0, 12.0, 9.0, 6.0, 3.0]))
    task = one_task(platform, gap=0.7, latency=0.3, energy=4.0)
    after, outcome = advance(platform, state, task, on(0))
    # the CPU wakes in 0.03 s for 0.2 J and runs 0.3 s for 4 J, then lingers: awake 0.7 s. Chips are long asleep.
    leakage = []
    for name, temperature, awake in zip(platform.names, (350.0, 342.0, 339.0), (0.7, 0.0, 0.0), strict=True):
        part = platform.processors[name]
        reference, standby = (float(x) for x in part.reference_static_power(Conditions()))
        static = reference * math.exp(0.036 * (temperature - 318.15)) + standby
        leakage.append(static * (awake + float(part.sleep_fraction) * (0.7 - awake)) / 0.7)
    power = np.array([4.2 / 0.7 + leakage[0], leakage[1], leakage[2], 0.0, 0.0])
    expected = platform.package.network().step(state.theta, jnp.asarray(power, float), 0.7)
    np.testing.assert_allclose(after.theta, expected, rtol=tol(1e-5, 1e-10))
    np.testing.assert_allclose(outcome.power, power.sum(), rtol=tol(1e-5, 1e-10))
    np.testing.assert_allclose(outcome.energy, 4.2 + 0.7 * sum(leakage), rtol=tol(1e-5, 1e-10))
    np.testing.assert_allclose(outcome.peak_temperature, 330.0 + expected[:3].max(), rtol=1e-6)


def steady(platform: Platform) -> Platform:
    """The same platform without feedback from temperature to power."""
    return replace(platform, {f"processors.{name}.leakage_slope": 0.0 for name in platform.names})


def test_splitting_a_busy_gap_changes_nothing(platform):
    # constant power: a long run covers the gap, or everything sleeps. An empty task on the sleepless `ram` only passes time.
    frozen = steady(platform)
    empty = one_task(frozen)
    for load in (5.0, 0.0):
        state = frozen.initial_state(330.0, 2)
        if load:
            state, _ = advance(frozen, state, one_task(frozen, gap=0.1, latency=load, energy=30.0), on(0))
        whole, cost = advance(frozen, state, empty._replace(gap=jnp.asarray(2.0)), on(2))
        half, first = advance(frozen, state, empty._replace(gap=jnp.asarray(0.6)), on(2))
        split, second = advance(frozen, half, empty._replace(gap=jnp.asarray(1.4)), on(2))
        for field in ("theta", "backlog", "pending"):
            np.testing.assert_allclose(
                getattr(split, field), getattr(whole, field), rtol=tol(1e-5, 1e-9), atol=1e-6, err_msg=field
            )
        np.testing.assert_allclose(first.energy + second.energy, cost.energy, rtol=tol(1e-5, 1e-10))


def test_splitting_any_gap_keeps_the_energy(platform):
    # waking, running, lingering and sleeping all fall somewhere inside: with constant leakage the sum is the same
    frozen = steady(platform)
    state, _ = advance(frozen, frozen.initial_state(330.0, 2), one_task(frozen, gap=0.01, latency=0.5, energy=3.0), on(0))
    _, whole = advance(frozen, state, one_task(frozen, gap=3.0), on(2))
    for pieces in ([1.5, 1.5], [0.1, 0.5, 0.05, 0.3, 2.05], [0.02] * 150):
        at, total = state, 0.0
        for gap in pieces:
            at, outcome = advance(frozen, at, one_task(frozen, gap=gap), on(2))
            total += float(outcome.energy)
        assert total == pytest.approx(float(whole.energy), rel=tol(1e-5, 1e-10))
        assert float(at.idle[0]) == pytest.approx(3.01 - 0.53, rel=1e-4)


# Bookkeeping and limits -----------------------------------------------------------------------------------------------


def test_a_queue_makes_the_next_task_wait(platform):
    state = platform.initial_state(320.0, 2)
    state, first = advance(platform, state, one_task(platform, gap=0.1, latency=1.0, energy=2.0), on(0))
    state, second = advance(platform, state, one_task(platform, gap=0.1, latency=1.0, energy=2.0), on(0))
    # wake 0.03 + 1.0; then what is left of it, 0.93, + 1.0 without waking
    np.testing.assert_allclose([first.latency, second.latency], [1.03, 1.93], rtol=1e-6)
    np.testing.assert_allclose(state.backlog, [1.83, 0, 0], rtol=1e-6)
    assert float(second.missed) == 1.0 and float(second.deadline_margin) == pytest.approx(-0.93, rel=1e-5)
    # 2.2 J over 1.03 s, then (2.2 x 0.93 / 1.03 + 2) J over 1.93 s
    left = (2.2 * 0.93 / 1.03 + 2.0) * 1.83 / 1.93
    np.testing.assert_allclose(state.pending, [left, 0, 0], rtol=1e-5)


def test_a_lingering_processor_needs_no_waking(platform):
    state = platform.initial_state(320.0, 2)
    for gap, woken in ((0.2 + 0.03 + 0.39, True), (0.2 + 0.41, False), (1.0, True)):
        state, outcome = advance(platform, state, one_task(platform, gap=gap, latency=0.2), on(0))
        assert float(outcome.latency) == pytest.approx(0.23 if woken else 0.2, rel=1e-5)


def test_quotes_are_what_step_books(platform):
    tasks, decisions = random_tasks(5, 12)
    state = platform.initial_state(390.0, NETWORKS)
    for t in range(12):
        task, decision = jax.tree.map(lambda x, t=t: x[t], (tasks, decisions))
        quoted = jax.jit(quote)(platform, state, task)
        after, outcome = advance(platform, state, task, decision)
        chosen = int(decision.processor)
        np.testing.assert_allclose(outcome.latency, quoted.latency[chosen], rtol=1e-6)
        assert float(outcome.written) == float(quoted.writing[chosen])
        np.testing.assert_allclose(outcome.retention_margin, quoted.margin[chosen], rtol=1e-6)
        released = float(jnp.sum(state.pending) + quoted.energy[chosen] - jnp.sum(after.pending))
        leaked = float(outcome.energy - quoted.energy[chosen])
        assert released + leaked == pytest.approx(float(outcome.power * task.gap), rel=1e-4)
        state = after


def test_no_time_between_tasks(platform):
    state = platform.initial_state(320.0, 2)
    now, first = advance(platform, state, one_task(platform, gap=0.0, latency=0.5, energy=1.0), on(1))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((now, first)))
    np.testing.assert_allclose(now.theta, state.theta, atol=1e-6)
    np.testing.assert_allclose(now.pending[1], 1.05, rtol=1e-6)
    np.testing.assert_allclose(first.energy, 1.05, rtol=1e-6)
    then, second = advance(platform, now, one_task(platform, gap=0.0, latency=0.5, energy=1.0), on(1))
    np.testing.assert_allclose(second.latency, 1.01, rtol=1e-5)  # the first is still to be run
    np.testing.assert_allclose(then.pending[1], 2.05, rtol=1e-6)


def test_a_very_long_queue_stays_finite_and_drains(platform):
    state = platform.initial_state(300.0, 2)._replace(backlog=jnp.asarray([1e6, 0.0, 0.0]), pending=jnp.asarray([1e6, 0.0, 0.0]))
    after, outcome = advance(platform, state, one_task(platform, gap=1e6 + 1, latency=0.5), on(0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after, outcome)))
    np.testing.assert_array_equal(after.backlog, 0.0)
    np.testing.assert_array_equal(after.pending, 0.0)
    steady_rise = platform.package.network().steady(jnp.asarray([1e6 / (1e6 + 1), 0.0, 0.0, 0.0, 0.0], float))
    assert (np.asarray(after.theta) >= np.asarray(steady_rise) - 0.01).all()


def test_states_stay_finite_at_the_ends_of_the_temperature_range(platform, roll):
    tasks, decisions = jax.tree.map(lambda x: jnp.stack([x] * 3), random_tasks(11, STEPS, 3.0))
    states = jax.vmap(lambda ambient: platform.initial_state(ambient, NETWORKS))(jnp.asarray([200.0, 318.15, 500.0]))
    final, outcomes = roll(platform, states, tasks, decisions)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((final, outcomes)))
    assert (np.asarray(outcomes.power) > 0).all() and (np.asarray(outcomes.retention_margin) <= 50).all()


def test_a_batch_equals_single_runs_and_changed_values_do_not_retrace(platform):
    traces = []

    @jax.jit
    def run(platform, state, tasks, decisions):
        traces.append(1)
        return rollout(platform, state, tasks, decisions)

    sequences = [random_tasks(seed, 20) for seed in range(3)]
    singles = [
        run(platform, platform.initial_state(350.0 + seed, NETWORKS), *sequence) for seed, sequence in enumerate(sequences)
    ]
    run(
        replace(platform, {"hazard_budget": 1e-4, "processors.cpu.linger": 0.7}),
        platform.initial_state(300.0, NETWORKS),
        *sequences[0],
    )
    assert len(traces) == 1
    tasks, decisions = (jax.tree.map(lambda *x: jnp.stack(x), *columns) for columns in zip(*sequences, strict=True))
    states = jax.vmap(lambda ambient: platform.initial_state(ambient, NETWORKS))(jnp.asarray([350.0, 351.0, 352.0]))
    batch = jax.jit(jax.vmap(rollout, in_axes=(None, 0, 0, 0)))(platform, states, tasks, decisions)
    for i, single in enumerate(singles):
        for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(single), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=tol(2e-5, 1e-10), atol=tol(2e-5, 1e-10))


# Cells ----------------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_weights_go_first(platform, roll):
    rng = np.random.default_rng(9)
    (count, steps), networks = BATCH, NETWORKS
    memory = rng.choice([0.25, 0.5, 0.3, 0.2, 1.0, 0.75], (count, networks))  # exact quarters too: four of them just fit
    network = rng.integers(0, networks, (count, steps))
    columns = {name: np.zeros((count, steps, 3)) for name in Offer._fields[:7]}
    columns["memory"][:, :, 2] = np.take_along_axis(memory, network, 1)
    columns["latency"][:] = 1e-3
    tasks = Task(Offer(**{k: jnp.asarray(v, float) for k, v in columns.items()}), jnp.asarray(network),
                 jnp.ones((count, steps)), jnp.full((count, steps), 0.01))  # fmt: skip
    states = jax.vmap(lambda ambient: platform.initial_state(ambient, networks))(jnp.full(count, 300.0))
    final, outcomes = roll(platform, states, tasks, Decision(jnp.full((count, steps), 2)))
    for i in range(count):
        resident: OrderedDict[int, float] = OrderedDict()
        for t in range(steps):
            name = int(network[i, t])
            assert float(outcomes.written[i, t]) == float(name not in resident), f"sequence {i}, step {t}"
            resident[name] = memory[i, name]
            resident.move_to_end(name)
            while sum(resident.values()) > 1 + 1e-9:
                resident.popitem(last=False)
        assert {n for n in range(networks) if final.cells["ram"].resident[i, n]} == set(resident)


def test_settling_evicts_the_oldest():
    cells = CellState.empty(3)._replace(
        resident=jnp.ones(3), memory=jnp.asarray([0.5, 0.4, 0.3]), age=jnp.asarray([2.0, 0.0, 1.0])
    )
    np.testing.assert_array_equal(settle(cells).resident, [0, 1, 1])


def test_hazards_add_up_like_a_float64_sum(platform):
    # 3000 steps at constant temperature (no power): ln H against a plain sum, in float32 too
    cold = replace(steady(platform), {f"processors.{name}.sleep_fraction": 0.0 for name in platform.names})
    cell = cold.chip("pim").cell
    rng = np.random.default_rng(3)
    gaps, reads = np.exp(rng.uniform(-3, 3, 3000)), rng.integers(0, 5000, 3000)
    chosen = rng.integers(0, 2, 3000)
    zero = jnp.zeros((3000, 3))
    offer = Offer(zero, zero, zero, zero, zero + 0.1, zero, zero + jnp.asarray(reads, float)[:, None])
    tasks = Task(offer, jnp.zeros(3000, int), jnp.ones(3000), jnp.asarray(gaps, float))
    budgetless = replace(cold, {"hazard_budget": 0.5, "processors.pim.wake_energy": 0.0, "processors.cpu.wake_energy": 0.0,
                                "processors.cpu.linger": 0.0, "processors.pim.linger": 0.0,
                                "processors.cpu.wake_time": 0.0, "processors.pim.wake_time": 0.0})  # fmt: skip
    final, outcomes = jax.jit(rollout)(budgetless, budgetless.initial_state(350.0, 2), tasks, Decision(jnp.asarray(chosen)))
    np.testing.assert_allclose(final.theta, 0.0, atol=1e-4)
    lost, started = 0.0, False
    for gap, read, where in zip(gaps, reads, chosen, strict=True):
        if where == 1 and not started:
            lost, started = 0.0, True
        lost += gap / math.exp(log_retention(cell, 350.0)) + (read * disturb_rate(cell, 350.0) if where == 1 else 0.0)
    assert float(outcomes.written.sum()) == 1.0
    assert float(final.cells["pim"].log_hazard[0]) == pytest.approx(math.log(lost), abs=tol(1e-4, 1e-9))


def test_without_reads_only_time_counts(platform):
    state = platform.initial_state(350.0, 2)
    after, _ = advance(platform, state, one_task(platform, gap=2.0, latency=0.1, memory=0.2), on(1))
    hot, cold = (log_retention(platform.chip("pim").cell, float(t)) for t in (after.temperature[1], 350.0))
    got = float(after.cells["pim"].log_hazard[0])
    assert math.log(2.0) - cold <= got <= math.log(2.0) - hot  # between the hazards at the first and the last temperature


def test_weights_are_refreshed_once_the_budget_is_used_up(platform):
    state = platform.initial_state(350.0, 2)
    task = one_task(platform, gap=0.5, latency=0.01, memory=0.2, write_latency=0.07)
    state, first = advance(platform, state, task, on(1))
    state, second = advance(platform, state, task, on(1))
    assert (float(first.written), float(second.written)) == (1.0, 0.0)
    old = state._replace(
        cells=state.cells | {"pim": state.cells["pim"]._replace(lost=LogTotal.start(jnp.full(2, math.log(1.01 * BUDGET))))}
    )
    after, third = advance(platform, old, task, on(1))
    assert float(third.written) == 1.0 and float(third.failed) == 0.0
    assert float(third.latency) == pytest.approx(0.08 + 0.01, rel=1e-5)  # asleep since 0.05 s: waking takes 0.01 s
    assert float(after.cells["pim"].log_hazard[0]) < math.log(BUDGET) - 3
    _, elsewhere = advance(platform, old, task, on(0))
    assert float(elsewhere.written) == 0.0 and float(elsewhere.retention_margin) == 50.0


def test_a_run_that_outlasts_its_weights_fails_and_loses_them(platform):
    state = platform.initial_state(420.0, 2)
    long = one_task(platform, gap=1.0, latency=5.0, memory=0.3)
    after, outcome = advance(platform, state, long, on(1))
    assert float(outcome.failed) == 1.0 and float(outcome.retention_margin) < 0
    np.testing.assert_array_equal(after.cells["pim"].resident, [0, 0])
    short = long._replace(offer=long.offer._replace(latency=jnp.full(3, 0.01)))
    after, outcome = advance(platform, state, short, on(1))
    assert float(outcome.failed) == 0.0 and float(outcome.retention_margin) > 0
    np.testing.assert_array_equal(after.cells["pim"].resident, [1, 0])


def test_wear_of_one_write(platform):
    state = platform.initial_state(340.0, 2)
    task = one_task(platform, gap=1.0, latency=0.01, memory=0.3, network=1)
    after, outcome = advance(platform, state, task, on(2))
    expected = 0.3 * life_per_write(platform.chip("ram").cell, 340.0)
    assert float(outcome.wear) == pytest.approx(expected, rel=1e-4)
    assert float(after.cells["ram"].wear.damage) == pytest.approx(expected, rel=1e-4)
    again, second = advance(platform, after, task, on(2))
    assert float(second.wear) == 0.0 and float(again.cells["ram"].wear.damage) == float(after.cells["ram"].wear.damage)
    assert float(after.cells["pim"].wear.damage) == 0.0


def test_hotter_means_more_leakage_shorter_retention_and_more_wear(platform):
    task = one_task(platform, gap=0.5, latency=0.05, energy=0.5, memory=0.3, reads=100.0)
    run = jax.jit(jax.vmap(lambda ambient: step(platform, platform.initial_state(ambient, 2), task, on(1))))
    after, outcome = run(jnp.linspace(300.0, 415.0, 200))
    leaking = np.asarray(outcome.energy)
    assert (np.diff(leaking) > 0).all()
    assert (np.diff(outcome.retention_margin) < 0).all()
    assert (np.diff(outcome.wear) > 0).all()
    assert (np.diff(after.cells["pim"].log_hazard[:, 0]) > 0).all()


# Clocks, throttling, refreshing ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hot(platform) -> Platform:
    return governed(platform)


def test_half_speed_by_hand(platform):
    # alpha 1: f ~ 1 - V_th / V. With V_th 0.5 V and 1 V nominal, half the clock needs 1 - 0.5 / V = 0.25: V = 2/3
    law = VoltageScaling(threshold=0.5, alpha=1.0, voltage_lo=0.52)
    clocked = dataclasses.replace(platform, clocks={"ram": ClockDomain(law, 0.1)})
    task = one_task(clocked, latency=0.2, clocked=0.15, energy=3.0, stalled=0.4, programming=0.6)
    quoted = quote(clocked, clocked.initial_state(320.0), task, 0.5)
    np.testing.assert_allclose(quoted.voltage, [1.0, 1.0, 2 / 3], rtol=1e-5)
    # 0.05 + 0.15 / 0.5 = 0.35 s; 0.6 + 4/9 (2.4 - 0.4 / 2) = 1.5778 J. `cpu` and `pim` have no clocks, and wake first
    np.testing.assert_allclose(quoted.latency, [0.2 + 0.03, 0.2 + 0.01, 0.35], rtol=1e-5)
    np.testing.assert_allclose(quoted.energy, [3.2, 3.05, 1.577778], rtol=1e-5)
    slower = quote(clocked, clocked.initial_state(320.0), task, jnp.asarray(0.01))  # clipped to its slowest, 0.1
    assert float(slower.latency[2]) == pytest.approx(0.05 + 1.5, rel=1e-5)


def test_leakage_follows_the_supply_of_the_queued_work(platform):
    law = VoltageScaling(threshold=0.5, alpha=1.0, voltage_lo=0.52)
    clocked = dataclasses.replace(steady(platform), clocks={"cpu": ClockDomain(law, 0.1)})
    state = clocked.initial_state(320.0)
    task = one_task(clocked, gap=0.1, latency=1.0)
    slow = Decision(jnp.asarray(0), jnp.asarray(0.5))
    state, first = advance(clocked, state, task, slow)
    state, second = advance(clocked, state, task, on(0))
    # 0.03 s of waking and 1.0 s at half speed: 2.03 s at 2/3; then 1.93 s are left, and 1.0 s at 1 joins
    np.testing.assert_allclose(state.voltage, [(1.93 * 2 / 3 + 1.0) / 2.93, 1.0, 1.0], rtol=1e-5)
    # the CPU leaks 0.5 W at nominal supply, and is awake; the two chips leak alike in both steps
    difference = 0.5 * 0.1 * (float(state.voltage[0]) - 2 / 3)
    assert float(second.energy - first.energy) == pytest.approx(difference - 0.2, abs=tol(1e-5, 1e-9))  # 0.2 J of waking


def test_what_is_switched_on_but_not_used_changes_nothing(platform, roll, rolled):
    tasks, finals, outcomes, _ = rolled
    limit = ThermalLimit(lowest=1.0, critical=700.0)
    idle = dataclasses.replace(platform, clocks={"cpu": ClockDomain()}, limit=limit)
    states = jax.tree.map(lambda *x: jnp.stack(x), *[idle.initial_state(ambient, NETWORKS) for ambient in AMBIENTS])
    decisions = jax.tree.map(lambda *x: jnp.stack(x), *[random_tasks(seed, STEPS, busy)[1] for seed, busy in enumerate(BUSY)])
    nominal = decisions._replace(speed=jnp.ones((3, STEPS)), refresh=jnp.full((3, STEPS), -1))
    other_finals, other_outcomes = roll(idle, states, tasks, nominal)
    for ours, theirs in zip(
        jax.tree.leaves((other_finals._replace(voltage=None), other_outcomes)), jax.tree.leaves((finals, outcomes)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=tol(1e-4, 1e-10), atol=tol(1e-4, 1e-10))
    np.testing.assert_allclose(other_finals.voltage, 1.0, rtol=1e-5)
    assert not np.any(other_outcomes.throttled) and not np.any(other_outcomes.tripped)


def test_a_slower_clock_never_costs_more_energy_and_never_less_time(hot):
    tasks, _ = governed_tasks(3, 200, 1.0)
    state = hot.initial_state(350.0, NETWORKS)
    speeds = jnp.linspace(0.05, 1.0, 60)
    quoted = jax.jit(jax.vmap(lambda task: jax.vmap(lambda s: quote(hot, state, task, s))(speeds)))(tasks)
    scale = np.asarray(quoted.energy[:, -1:])
    assert (np.diff(quoted.energy, axis=1) >= -tol(3e-6, 1e-12) * scale).all()
    assert (np.diff(quoted.latency, axis=1) <= tol(1e-5, 1e-12)).all()
    assert (np.diff(quoted.voltage, axis=1) >= -tol(1e-6, 1e-12)).all()
    np.testing.assert_allclose(quoted.energy[:, -1], jax.vmap(lambda task: quote(hot, state, task))(tasks).energy, rtol=1e-5)


def test_energy_is_conserved_with_clocks_refreshes_and_throttling(rolled_governed):
    tasks, finals, outcomes, _ = rolled_governed
    booked = np.sum(np.asarray(outcomes.energy, np.float64), -1)
    flowed = np.sum(np.asarray(outcomes.power, np.float64) * np.asarray(tasks.gap, np.float64), -1)
    np.testing.assert_allclose(booked, flowed + np.sum(np.asarray(finals.pending, np.float64), -1), rtol=tol(3e-6, 1e-12))


@pytest.mark.parametrize("name", list_clocks())
def test_offers_know_slow_clocks(name):
    # exact at both ends of the range of clocks; between them latency is an upper bound, within a few per cent
    edge = load_platform("edge")
    names = {"stm32l4r5": "cpu", "edge-gpu": "gpu", "edge-pim": "pim"}
    clocked = dataclasses.replace(edge, clocks={names[name]: load_clock(name)})
    domain, i, state = load_clock(name), edge.names.index(names[name]), clocked.initial_state()
    slowest = float(domain.slowest)
    task = make_task(clocked, slow_table(), deadline=1.0, gap=1.0)
    rested = state._replace(idle=jnp.zeros(3))  # awake, so that nothing but the run is quoted
    for speed in (slowest, 0.8, 1.0):
        quoted = quote(
            clocked,
            rested,
            task._replace(offer=task.offer._replace(write_latency=jnp.zeros(3), write_energy=jnp.zeros(3))),
            speed,
        )
        volts = float(domain.voltage(speed))
        cost = estimate(edge.processors[names[name]], slow_table(), Conditions(frequency=speed, voltage=volts))
        ratio = float(quoted.latency[i] / cost.latency)
        assert 1 - tol(1e-5, 1e-9) <= ratio <= (1.03 if speed == 0.8 else 1 + tol(1e-5, 1e-9))
        np.testing.assert_allclose(quoted.energy[i], cost.dynamic_energy, rtol=1e-2 if speed == 0.8 else tol(1e-4, 1e-9))


def test_stm32_voltages_are_those_of_its_manual():
    domain = load_clock("stm32l4r5")
    # RM0432: 120 MHz at 1.28 V, 26 MHz at 1.0 V; between them 80 MHz are allowed at 1.2 V, and the law asks for less
    assert float(domain.voltage(1.0)) == pytest.approx(1.0, rel=1e-5)
    assert float(domain.voltage(26 / 120)) * 1.28 == pytest.approx(1.0, rel=2e-3)
    assert 1.1 < float(domain.voltage(80 / 120)) * 1.28 < 1.2


def test_gradients_in_the_clock_equal_central_differences(platform):
    with jax.enable_x64(True):
        hot = governed(hot_platform())
        tasks, decisions = governed_tasks(2, 12, 1.0)

        def objective(speed):
            start = hot.initial_state(386.0, NETWORKS)
            final, outcomes = rollout(hot, start, tasks, decisions._replace(speed=speed, refresh=None))
            return jnp.log(jnp.sum(outcomes.energy)) + 0.3 * jnp.sum(outcomes.latency) + 0.01 * jnp.sum(final.theta)

        speed = jnp.linspace(0.62, 0.97, 12)
        slope = jax.jit(jax.grad(objective), compiler_options=QUICK)
        slopes, shifts = np.asarray(slope(speed)), 1e-6 * jnp.eye(12)
        up, down = jax.jit(jax.vmap(objective), compiler_options=QUICK)(speed + jnp.concatenate([shifts, -shifts])).reshape(2, 12)
        np.testing.assert_allclose(slopes, (up - down) / 2e-6, rtol=1e-4, atol=1e-7)
        on_clocks = np.asarray(decisions.processor) < 2  # `ram` has none
        assert (np.abs(slopes[on_clocks]) > 1e-4).all() and (slopes[~on_clocks] == 0).all()
        assert np.isfinite(slope(jnp.concatenate([jnp.asarray([1e-3, 0.2, 0.5, 1.0, 1.5]), speed[5:]]))).all()


def test_throttling_by_hand(platform):
    limited = dataclasses.replace(platform, limit=ThermalLimit(temperature=390.0, width=20.0, lowest=0.2, critical=450.0))
    # 395 K: 1 - 0.8 x 5 / 20 = 0.8. The CPU needs 0.03 s to wake and 0.37 s to run: 0.4 / 0.8 = 0.5 s
    state = limited.initial_state(395.0)
    task = one_task(limited, gap=0.25, latency=0.37, energy=3.8)
    np.testing.assert_allclose(quote(limited, state, task).pace, 0.8, rtol=1e-5)
    after, outcome = advance(limited, state, task, on(0))
    assert float(outcome.latency) == pytest.approx(0.5, rel=1e-5) and float(outcome.throttled) == 1
    # half of it is done by the next arrival: 0.2 s and 2 J of 0.4 s and 4 J are left
    np.testing.assert_allclose([after.backlog[0], after.pending[0]], [0.2, 2.0], rtol=1e-5)
    for temperature, pace in ((389.0, 1.0), (400.0, 0.6), (410.0, 0.2), (440.0, 0.2)):
        assert float(limited.limit.pace(jnp.asarray(temperature))) == pytest.approx(pace, rel=1e-5)


def test_throttling_cools_an_overloaded_platform(platform, roll):
    # leakage does not depend on temperature or sleep here: what throttling changes is when switching heat comes
    even = replace(steady(platform), {f"processors.{name}.sleep_fraction": 1.0 for name in platform.names})
    count, steps = BATCH
    sequences = [random_tasks(seed, steps, busy) for seed, busy in zip(range(count), np.geomspace(0.5, 5, count), strict=True)]
    tasks, decisions = (jax.tree.map(lambda *x: jnp.stack(x), *columns) for columns in zip(*sequences, strict=True))
    states = jax.vmap(lambda ambient: even.initial_state(ambient, NETWORKS))(jnp.linspace(340.0, 380.0, count))
    limited = dataclasses.replace(even, limit=ThermalLimit(temperature=375.0, width=10.0))
    (_, free), (_, kept) = roll(even, states, tasks, decisions), roll(limited, states, tasks, decisions)
    throttled = np.asarray(kept.throttled).mean(axis=1) > 0.05
    assert throttled.sum() > count // 2
    free_peak, kept_peak = (np.asarray(o.peak_temperature).max(axis=1) for o in (free, kept))
    assert (kept_peak <= free_peak + 1e-2).all()  # never beyond
    assert (free_peak - kept_peak)[throttled].mean() > 1.0
    assert (np.asarray(kept.latency).sum(axis=1) >= np.asarray(free.latency).sum(axis=1) * (1 - 1e-5)).all()


def test_a_critically_hot_platform_trips(platform):
    limited = dataclasses.replace(platform, limit=ThermalLimit(temperature=360.0, critical=400.0))
    for ambient, tripped in ((399.0, 0.0), (401.0, 1.0)):
        _, outcome = advance(limited, limited.initial_state(ambient), one_task(limited, gap=1e-3), on(2))
        assert float(outcome.tripped) == tripped


def resident(platform, state, **memory):
    """`state` with networks 0 and 1 on the chips named, aged to a tenth of the hazard budget."""
    cells = dict(state.cells)
    for name, share in memory.items():
        cells[name] = cells[name]._replace(
            resident=jnp.ones(2), memory=jnp.asarray(share), lost=LogTotal.start(jnp.full(2, math.log(0.1 * BUDGET)))
        )
    return state._replace(cells=cells)


def test_a_refresh_resets_what_is_lost_and_costs_what_writing_costs(platform):
    state = resident(platform, platform.initial_state(350.0, 2), ram=[0.25, 0.5])
    after, taken = jax.jit(refresh_weights)(platform, state, 2)
    chip = platform.chip("ram")
    # 0.75 of 12 x 8 arrays of 128 x 128 cells, 8.52 pulses each, 168 arrays at once
    pulses = 0.75 * 12 * 8 * 128 * 8.52
    seconds = pulses * (float(chip.cell.write_time) + float(chip.verify_time)) / 168
    assert float(taken.latency) == pytest.approx(seconds, rel=1e-5)
    assert float(taken.energy) == pytest.approx(pulses * 128 * float(chip.cell.write_energy), rel=1e-5)
    assert float(taken.wear) == pytest.approx(0.75 * life_per_write(chip.cell, 350.0), rel=1e-4)
    assert float(after.cells["ram"].wear.damage) == pytest.approx(float(taken.wear), rel=1e-6)
    np.testing.assert_array_equal(after.cells["ram"].log_hazard, JUST_WRITTEN)
    np.testing.assert_allclose([after.backlog[2], after.pending[2]], [taken.latency, taken.energy], rtol=1e-6)
    # a task that goes there waits for it; the weights it finds are fresh
    task = one_task(platform, gap=0.1, latency=0.01, memory=0.25)
    _, waited = advance(platform, state, task, on(2)._replace(refresh=jnp.asarray(2)))
    assert float(waited.latency) == pytest.approx(0.01 + seconds, rel=1e-4) and float(waited.written) == 0
    assert float(waited.wear) == pytest.approx(float(taken.wear), rel=1e-6)
    _, plain = advance(platform, state, task, on(2)._replace(refresh=jnp.asarray(-1)))
    assert float(plain.latency) == pytest.approx(0.01, rel=1e-4) and float(plain.wear) == 0
    assert float(waited.retention_margin) > float(plain.retention_margin) + 2


def test_a_refresh_of_nothing_is_free(platform):
    state = resident(platform, platform.initial_state(350.0, 2), pim=[0.25, 0.5])
    for index in (-1, 0, 2, 3):  # none, a CPU, an empty chip, beyond
        after, taken = refresh_weights(platform, state, jnp.asarray(index))
        assert [float(x) for x in taken] == [0, 0, 0]
        for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
            np.testing.assert_array_equal(a, b)
    after, taken = refresh_weights(platform, state, jnp.asarray(1))  # asleep: it wakes for it, once
    task = one_task(platform, gap=0.1, latency=0.01, memory=0.25)
    assert float(taken.latency) > 0.01 and float(quote(platform, after, task).service[1]) == pytest.approx(0.01, rel=1e-5)


def test_refreshes_do_not_depend_on_their_order(platform):
    state = resident(platform, platform.initial_state(350.0, 2), pim=[0.3, 0.5], ram=[0.25, 0.5])
    for first, second in ((1, 2), (2, 1)):
        after, _ = refresh_weights(platform, refresh_weights(platform, state, first)[0], second)
        if first == 1:
            expected = after
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_surroundings_change_no_temperature(platform):
    state = platform.initial_state(330.0, 2)._replace(theta=jnp.asarray([20.0, 12.0, 9.0, 6.0, 3.0]))
    moved = state.with_ambient(310.0)
    assert float(moved.ambient) == 310.0
    np.testing.assert_allclose(moved.temperature, state.temperature, rtol=1e-6)
    np.testing.assert_allclose(moved.theta, [40.0, 32.0, 29.0, 26.0, 23.0], rtol=1e-6)


# Gradients ------------------------------------------------------------------------------------------------------------


GENERIC = dict(rows=121.7, cols=131.3, bits_per_cell=1.87, weight_bits=7.3, input_bits=6.6, dac_bits=1.3, write_arrays=1.7)


def objective_of(policy):
    """A mixture of ln energy, ln H and margins over twelve tasks of two networks, as a function of the platform."""
    rng = np.random.default_rng(4)
    network, decisions = rng.integers(0, 2, 12), jnp.asarray([0, 1, 2, 1, 0, 1, 1, 2, 0, 1, 2, 1])
    gaps = jnp.asarray(rng.uniform(0.05, 0.6, 12))

    def objective(platform):
        offer = make_offer(platform, slow_table(), policy)
        tasks = Task(jax.tree.map(lambda x: jnp.stack([x, 0.7 * x])[network], offer), jnp.asarray(network), jnp.ones(12), gaps)
        final, outcomes = rollout(platform, platform.initial_state(341.0, 2), tasks, Decision(decisions))
        hazard = sum(jnp.sum(final.cells[name].log_hazard) for name in platform.cell_names)
        return jnp.log(jnp.sum(outcomes.energy)) + 0.31 * hazard + 0.17 * jnp.sum(outcomes.retention_margin)

    return objective


def slow_table():
    """A network that takes tens of milliseconds on slow processors."""
    row = dict(kind=OpKind.CONV, m=5000, k=200, n=30, macs=3e7, flops=6.1e7, inputs=1e5, outputs=1.5e5, weights=6e3)
    group = dict(
        kind=OpKind.DEPTHWISE, m=3000, k=9, n=1, groups=50, macs=1.35e6, flops=2.8e6, inputs=1e5, outputs=1e5, weights=450
    )
    return make_table([row, group])


def smooth_platform() -> Platform:
    platform = replace(hot_platform(), {"processors.ram.linger": 0.07})  # 0 is a kink: lingering cannot be negative
    changes = {f"processors.{name}.{label}": value for name in ("pim", "ram") for label, value in GENERIC.items()}
    changes |= {
        f"processors.{name}.{label}": value
        for name in ("pim", "ram")
        for label, value in dict(elements=1.37, units=5.7, arrays=6.3, digital_rate=1e8, buffer_bandwidth=1e8).items()
    }
    changes |= {"processors.cpu.peak_macs": 3e8, "processors.cpu.bandwidth": 4e6, "processors.cpu.vector_rate": 1e8,
                "processors.cpu.active_power": 2.0, "processors.cpu.energy_per_mac": 1e-9, "processors.cpu.energy_per_byte": 1e-8,
                "processors.cpu.efficiency_conv": 0.8, "processors.cpu.overhead": 1e-3}  # fmt: skip
    return replace(platform, changes)


def test_gradients_of_a_rollout_are_finite():
    platform = load_platform("edge")
    slopes = jax.jit(jax.grad(objective_of(soft(4.0))), compiler_options=QUICK)(platform)
    bad = [p.label for p in parameters(slopes) if not np.isfinite(p.value).all()]
    assert not bad


def test_gradients_of_a_rollout_equal_central_differences_in_every_parameter():
    with jax.enable_x64(True):
        platform = smooth_platform()
        objective = objective_of(soft(3.0))
        leaves, structure = jax.tree.flatten(platform)
        named = [(p.label, i) for p in parameters(platform) for i in range(np.size(p.value))]
        flat = np.concatenate([np.ravel(leaf) for leaf in leaves])
        assert len(named) == len(flat)
        sizes = np.cumsum([0, *(np.size(leaf) for leaf in leaves)])

        def at(vector):
            pieces = [vector[a:b].reshape(np.shape(leaf)) for a, b, leaf in zip(sizes[:-1], sizes[1:], leaves, strict=True)]
            return objective(jax.tree.unflatten(structure, pieces))

        width, scale = 1e-6, np.where(flat == 0, 1.0, np.abs(flat))
        shifts = np.eye(len(flat)) * width * scale
        run = jax.jit(jax.vmap(at), compiler_options=QUICK)
        up, down = np.asarray(run(flat + shifts)), np.asarray(run(np.where(flat == 0, flat, flat - shifts)))
        differences = (up - down) / np.where(flat == 0, width, 2 * width)
        slopes = np.asarray(jax.jit(jax.grad(at), compiler_options=QUICK)(jnp.asarray(flat))) * scale
        for (label, index), slope, difference in zip(named, slopes, differences, strict=True):
            assert slope == pytest.approx(difference, rel=1e-4, abs=1e-5), f"{label}[{index}]"
        assert (np.abs(slopes) > 1e-5).sum() > 60


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(deadline=0.0), "deadline = 0 s is outside its range (0, 1e9) s"),
        (dict(deadline=float("nan")), "deadline = nan s is outside its range (0, 1e9) s"),
        (dict(gap=-1.0), "gap = -1 s is outside its range (0, 1e9) s"),
        (dict(gap=float("inf")), "gap = inf s is outside its range (0, 1e9) s"),
        (dict(network=-1), "network = -1 is below 0"),
    ],
)
def test_tasks_outside_their_range_are_refused(platform, changes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make_task(platform, slow_table(), **(dict(deadline=1.0, gap=1.0) | changes))


def test_states_outside_their_range_are_refused(platform):
    for ambient in (199.0, 501.0, float("nan")):
        with pytest.raises(ValueError, match=rf"^ambient = {ambient:g} K is outside its range \[200, 500\] K$"):
            platform.initial_state(ambient)
    with pytest.raises(ValueError, match=r"^workloads = 0 is below 1$"):
        platform.initial_state(workloads=0)


def test_platforms_that_do_not_fit_together_are_refused():
    cpu = Roofline()
    with pytest.raises(ValueError, match=r"^Platform.processors: a platform needs at least one processor, got 0$"):
        Platform({}, SharedPackage(names=("a",)))
    with pytest.raises(ValueError, match=r"^Platform.package has 2 junctions for 1 processors$"):
        Platform({"a": cpu}, SharedPackage(names=("a", "b")))
    with pytest.raises(
        ValueError, match=r"^Platform.package.names = \('b', 'a'\) must be the processors in order, \('a', 'b'\)$"
    ):
        Platform({"a": cpu, "b": cpu}, SharedPackage(names=("b", "a")))
    with pytest.raises(ValueError, match=r"^unknown platform 'egde'; close: edge$"):
        load_platform("egde")
    with pytest.raises(ValueError, match=r"^a platform needs at least one workload, got 0$"):
        make_offers(load_platform("edge"), [])


def test_decisions_outside_their_range_are_refused(platform, hot):
    state, task = hot.initial_state(350.0), one_task(hot)
    for speed, message in ((0.0, "decision.speed = 0"), (1.2, "decision.speed = 1.2"), (float("nan"), "decision.speed = nan")):
        with pytest.raises(ValueError, match=re.escape(f"{message} of nominal is outside its range (0, 1]")):
            step(hot, state, task, Decision(jnp.asarray(0), speed))
    with pytest.raises(ValueError, match=r"^decision.refresh = 3 is outside its range \[-1, 2\]$"):
        step(hot, state, task, Decision(jnp.asarray(0), refresh=3))
    with pytest.raises(ValueError, match=r"^decision.speed is given, but the platform has no clock domains \(Platform.clocks\)$"):
        step(platform, platform.initial_state(350.0), task, Decision(jnp.asarray(0), 0.5))


def test_governors_that_do_not_fit_are_refused(platform):
    with pytest.raises(ValueError, match=r"^Platform.clocks\['npu'\] belongs to no processor; processors: cpu, pim, ram$"):
        dataclasses.replace(platform, clocks={"npu": ClockDomain()})
    with pytest.raises(ValueError, match=r"^ThermalLimit.critical = 350 K must exceed temperature = 360 K$"):
        ThermalLimit(temperature=360.0, critical=350.0)
    with pytest.raises(ValueError, match=r"^ClockDomain.scaling: voltage_ref = 1 V is outside its range \[0.6, 0.9\] V$"):
        ClockDomain(VoltageScaling(voltage_hi=0.9))
    with pytest.raises(ValueError, match=r"^unknown clock domain 'stm32'; close: stm32l4r5$"):
        load_clock("stm32")


def test_offers_are_the_costs_of_resident_weights_and_of_writing_them():
    platform = load_platform("edge")
    table = slow_table()
    offer = make_offer(platform, table)
    for i, name in enumerate(platform.names):
        resident, empty = (estimate(platform.processors[name], table, Conditions(resident=r)) for r in (1.0, 0.0))
        np.testing.assert_allclose(offer.latency[i] + offer.write_latency[i], empty.latency, rtol=1e-5)
        np.testing.assert_allclose(offer.latency[i], resident.latency, rtol=1e-6)
        np.testing.assert_allclose(offer.energy[i], resident.dynamic_energy + resident.programming_energy, rtol=1e-6)
        np.testing.assert_allclose(
            offer.energy[i] + offer.write_energy[i], empty.dynamic_energy + empty.programming_energy, rtol=1e-5
        )
    assert JUST_WRITTEN < -500
