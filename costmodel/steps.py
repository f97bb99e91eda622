"""The one step where cost, heat and reliability meet.

`step()` lets one task arrive, queues it on the chosen processor, and advances time to the next arrival:

1. The run starts when the processor's backlog is done. It wakes the processor if that was asleep, and writes the network's
   weights if they are not resident (or if more cells than the hazard budget allows have lost their state).
2. Energy of queued work is released evenly while it runs; with leakage at the present temperature and the sleep power of
   idle processors it is the power into the thermal network, which makes one exact zero-order-hold step.
3. Temperature sets the retention hazard of resident weights, reads disturb them, programming wears the cells.

    H += dt / tau(T) + reads rate(T)         cells lost, per resident network, in the log domain
    retention failure:  H at the end of the run > hazard budget   (the run is then worthless, its weights are gone)
    wear += written share of the chip / N_end(T)

Weights of several networks (W) share a chip; the least recently used are evicted first. Energy is conserved: what decisions
commit is what heats the package. Temperature inside one step is taken as its exact time average.

A decision may also set the clock of its run (`Decision.speed`, platforms with `clocks`) and have a chip's weights rewritten
first (`Decision.refresh`). On a platform with a `limit` hot processors are throttled. What is not used is not computed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from costmodel.cost import Conditions
from costmodel.platform import LONG_IDLE, Platform, PlatformState
from costmodel.tasks import Offer, Task
from costmodel.weights import NO_CELLS, CellRun, CellState, needs_writing, retention_margin, rewrite, use_cells, writing_costs
from physics import Modes

SHORTEST = 1e-12  # s; two tasks may arrive at the same moment


class Decision(NamedTuple):
    """Where to run a task, how fast, and what to rewrite before.

    processor: index into `Platform.names`
    speed: clock of this run as a fraction of nominal, clipped to the processor's own range; None: nominal
    refresh: index of a chip whose resident weights are all rewritten first; None, or an index that names no chip: none
    """

    processor: Int[Array, ""]
    speed: Float[Array, ""] | float | None = None
    refresh: Int[Array, ""] | int | None = None


class Outcome(NamedTuple):
    """Cost of one step.

    latency (s): from arrival to result: waiting, waking, writing weights, running
    energy (J): switching energy committed by the decision plus leakage of the whole platform until the next arrival
    power (W): mean into the thermal network until the next arrival
    missed, failed, written: 1 if the deadline passed before the result, if the weights were lost before it, if they were written
    wear: fraction of a chip's life consumed, by refreshing too
    deadline_margin (s): negative if missed
    retention_margin: ln(hazard budget / lost fraction) at the result; 50 where no cells are used
    peak_temperature (K): hottest junction at the end of the step
    throttled: 1 if the chosen processor was throttled
    tripped: 1 if a junction was at the critical temperature at the end of the step
    """

    latency: Float[Array, ""]
    energy: Float[Array, ""]
    power: Float[Array, ""]
    missed: Float[Array, ""]
    failed: Float[Array, ""]
    wear: Float[Array, ""]
    written: Float[Array, ""]
    deadline_margin: Float[Array, ""]
    retention_margin: Float[Array, ""]
    peak_temperature: Float[Array, ""]
    throttled: Float[Array, ""]
    tripped: Float[Array, ""]


class Quote(NamedTuple):
    """What a task would take on each processor if it were sent there now; arrays (P,)."""

    latency: Float[Array, " processors"]  # s, from arrival to result
    service: Float[Array, " processors"]  # s, waking, writing and running, without the wait
    energy: Float[Array, " processors"]  # J, switching energy it would commit
    writing: Float[Array, " processors"]  # 1 where its weights would have to be written first
    margin: Float[Array, " processors"]  # ln(hazard budget / lost fraction) at the result; 50 where no cells are used
    voltage: Float[Array, " processors"]  # supply of the run, of nominal
    pace: Float[Array, " processors"]  # share of the time that the processor's clock runs; below 1 it is throttled


class Refresh(NamedTuple):
    """What rewriting all resident weights of one chip takes: time (s), energy (J), share of the chip's life."""

    latency: Float[Array, ""]
    energy: Float[Array, ""]
    wear: Float[Array, ""]


class _Run(NamedTuple):
    """One run on every processor at a given clock; arrays (P,)."""

    latency: Array
    energy: Array
    voltage: Array


def quote(
    platform: Platform,
    state: PlatformState,
    task: Task,
    speed: Float[Array, ""] | Float[Array, " processors"] | float | None = None,
) -> Quote:
    """What `task` would take on every processor in the present state; `step()` books exactly this.

    `speed`: clock as a fraction of nominal, one for all or one each, clipped to each processor's range; None: nominal.
    """
    run, pace = _at_speed(platform, task.offer, speed), _pace(platform, state)
    asleep = jnp.where(state.idle > _gather(platform, "linger"), 1.0, 0.0)
    writing = _writing(platform, state, task)
    service = asleep * _gather(platform, "wake_time") + run.latency + writing * task.offer.write_latency
    energy = asleep * _gather(platform, "wake_energy") + run.energy + writing * task.offer.write_energy
    latency = state.backlog + service
    if platform.limit is not None:
        service, latency = service / pace, latency / pace
    exposed = jnp.where(writing > 0, service, latency)  # weights written for this run are fresh when it starts
    margins = _margins(platform, state, task, writing, exposed)
    return Quote(latency, service, energy, writing, margins, run.voltage, pace)


def refresh_weights(platform: Platform, state: PlatformState, processor: Int[Array, ""] | int) -> tuple[PlatformState, Refresh]:
    """Queue the rewriting of all resident weights of one chip: (state, what it takes). No time passes.

    Every cell of the arrays that hold weights is programmed again from a copy kept elsewhere, so that what was lost is
    restored too. It wears them as any writing does. `processor` is an index into `Platform.names`; where that is no chip
    with memory cells, or an empty one, nothing happens.
    """
    chosen = jax.nn.one_hot(processor, len(platform.names), dtype=state.theta.dtype)
    asleep = jnp.where(state.idle > _gather(platform, "linger"), 1.0, 0.0)
    time, energy, wear = jnp.zeros_like(chosen), jnp.zeros_like(chosen), jnp.zeros(())
    cells = dict(state.cells)
    for name in platform.cell_names:
        i, chip = platform.names.index(name), platform.chip(name)
        cells[name], share, worn = rewrite(chip.cell, state.cells[name], chosen[i], state.temperature[i])
        costs, waking = writing_costs(chip), jnp.where(share > 0, asleep[i], 0.0)
        time = time.at[i].set(share * costs.latency + waking * chip.wake_time)
        energy = energy.at[i].set(share * costs.energy + waking * chip.wake_energy)
        wear = wear + worn
    after = state._replace(
        backlog=state.backlog + time,
        pending=state.pending + energy,
        idle=jnp.where(time > 0, 0.0, state.idle),
        cells=cells,
        voltage=_mean_voltage(state, time, jnp.ones_like(time)),
    )
    return after, Refresh(jnp.sum(time), jnp.sum(energy), wear)


def step(
    platform: Platform, state: PlatformState, task: Task, decision: Decision, modes: Modes | None = None
) -> tuple[PlatformState, Outcome]:
    """Run `task` as decided and advance to the next arrival: (state, `Outcome`). Pure, for one state (vmap it).

    `modes`, the thermal network's modal form, may be passed in to compute it once outside a loop; for gradients in the
    package's own parameters compute it inside the function that is differentiated, as `rollout` does. Non-smooth:
    deadline, failure, eviction and waking are hard decisions, their margins are smooth. A processor or network out of
    range is refused (ValueError) if it is a plain number, and counts as the nearest one in range if it is an array.
    """
    decision, task = _in_range(platform, state, task, decision)
    modes = platform.package.network().modes() if modes is None else modes
    chosen = jax.nn.one_hot(decision.processor, len(platform.names), dtype=state.theta.dtype)
    refreshed = Refresh(*(jnp.zeros(()),) * 3)
    if decision.refresh is not None:
        state, refreshed = refresh_weights(platform, state, decision.refresh)
    quoted = quote(platform, state, task, decision.speed)
    work = chosen * (quoted.service if platform.limit is None else quoted.service * quoted.pace)
    backlog = state.backlog + work
    pending = state.pending + chosen * quoted.energy
    voltage = _mean_voltage(state, work, quoted.voltage)
    latency, committed = jnp.sum(chosen * quoted.latency), jnp.sum(chosen * quoted.energy)

    done = jnp.minimum(backlog, task.gap if platform.limit is None else task.gap * quoted.pace)
    released = jnp.where(done < backlog, pending * done / jnp.maximum(backlog, SHORTEST), pending)  # the last of it exactly
    busy = done if platform.limit is None else jnp.minimum(done / quoted.pace, task.gap)
    per_gap = 1 / jnp.maximum(task.gap, SHORTEST)
    before = jnp.where(backlog > 0, 0.0, state.idle)
    awake = jnp.minimum(busy + jnp.maximum(_gather(platform, "linger") - before, 0.0), task.gap)
    leakage = _leakage(platform, state, voltage, awake * per_gap)
    power = released * per_gap + leakage
    padded = jnp.pad(power, (0, state.theta.shape[-1] - power.shape[-1]))
    theta, mean = modes.step(state.theta, padded, task.gap), modes.mean(state.theta, padded, task.gap)
    temperature = state.ambient + mean[: power.shape[-1]]

    failed = jnp.where(quoted.margin < 0, 1.0, 0.0)
    cells, wear = _cells_after(platform, state, task, chosen, quoted.writing, failed, temperature)
    idle = jnp.minimum(before + task.gap - busy, LONG_IDLE)
    after = PlatformState(state.ambient, theta, backlog - done, idle, pending - released, cells, voltage)
    peak = jnp.max(after.temperature)
    outcome = Outcome(
        latency=latency,
        energy=committed + refreshed.energy + jnp.sum(leakage) * task.gap,
        power=jnp.sum(power),
        missed=jnp.where(latency > task.deadline, 1.0, 0.0),
        failed=jnp.sum(chosen * failed),
        wear=refreshed.wear + wear,
        written=jnp.sum(chosen * quoted.writing),
        deadline_margin=task.deadline - latency,
        retention_margin=jnp.sum(chosen * quoted.margin),
        peak_temperature=peak,
        throttled=jnp.sum(chosen * jnp.where(quoted.pace < 1, 1.0, 0.0)),
        tripped=jnp.zeros(()) if platform.limit is None else platform.limit.tripped(peak),
    )
    return after, outcome


def rollout(platform: Platform, state: PlatformState, tasks: Task, decisions: Decision) -> tuple[PlatformState, Outcome]:
    """Many steps: `tasks` and `decisions` have a leading axis (T,); the final state and the outcomes (T,)."""
    modes = platform.package.network().modes()
    return jax.lax.scan(lambda s, x: step(platform, s, x[0], x[1], modes), state, (tasks, decisions))


def _in_range(platform: Platform, state: PlatformState, task: Task, decision: Decision) -> tuple[Decision, Task]:
    """No task may vanish because its index names nothing: a plain number is refused, an array's entries are clipped."""
    networks = min((cells.resident.shape[-1] for cells in state.cells.values()), default=1)
    last = len(platform.names) - 1
    for name, value, lowest, highest in (
        ("decision.processor", decision.processor, 0, last),
        ("decision.refresh", decision.refresh, -1, last),
        ("task.network", task.network, 0, networks - 1),
    ):
        if isinstance(value, int) and not lowest <= value <= highest:
            raise ValueError(f"{name} = {value} is outside its range [{lowest}, {highest}]")
    processor = jnp.clip(jnp.asarray(decision.processor), 0, last)
    return decision._replace(processor=processor), task._replace(network=jnp.clip(jnp.asarray(task.network), 0, networks - 1))


def _gather(platform: Platform, field: str) -> Float[Array, " processors"]:
    return jnp.stack([getattr(platform.processors[name], field) for name in platform.names])


def _at_speed(platform: Platform, offer: Offer, speed: Array | float | None) -> _Run:
    """Time, energy and supply of a run on every processor at a relative clock; the laws are those of `clocks.py`."""
    if speed is None:
        return _Run(offer.latency, offer.energy, jnp.ones_like(offer.latency))
    if not platform.clocks:
        raise ValueError("decision.speed is given, but the platform has no clock domains (Platform.clocks)")
    if isinstance(speed, int | float) and not 0 < speed <= 1:
        raise ValueError(f"decision.speed = {speed:g} of nominal is outside its range (0, 1]")
    some = next(iter(platform.clocks.values()))  # stands in, masked, where a processor has no domain
    domains = jax.tree.map(lambda *x: jnp.stack(x), *[platform.clocks.get(name, some) for name in platform.names])
    has_clock = jnp.asarray([name in platform.clocks for name in platform.names])
    share = jnp.clip(jnp.asarray(speed, offer.latency.dtype), jnp.where(has_clock, domains.slowest, 1.0), 1.0)
    voltage = jnp.where(has_clock, domains.voltage(share), 1.0)
    clocked = offer.latency if offer.clocked is None else offer.clocked
    stalled = 0.0 if offer.stalled is None else offer.stalled
    programming = 0.0 if offer.programming is None else offer.programming
    switching = offer.energy - programming - stalled * (1 - share)
    return _Run(offer.latency + clocked * (1 / share - 1), programming + voltage**2 * switching, voltage)


def _pace(platform: Platform, state: PlatformState) -> Float[Array, " processors"]:
    return jnp.ones_like(state.backlog) if platform.limit is None else platform.limit.pace(state.temperature)


def _mean_voltage(state: PlatformState, work: Array, voltage: Array) -> Array | None:
    """Mean supply of the queued work after `work` (s) at `voltage` has joined it; unchanged where none did."""
    if state.voltage is None:
        return None
    joined = work > 0
    share = jnp.where(joined, work / jnp.where(joined, state.backlog + work, 1.0), 0.0)
    return state.voltage + share * (voltage - state.voltage)


def _leakage(
    platform: Platform, state: PlatformState, voltage: Array | None, awake: Float[Array, " processors"]
) -> Float[Array, " processors"]:
    """Mean static power (W) of every processor, awake for the fraction `awake` of the step."""
    static = []
    for i, name in enumerate(platform.names):
        supply = 1.0 if voltage is None else voltage[i]
        static.append(platform.processors[name].static_power(Conditions(temperature=state.temperature[i], voltage=supply)))
    return jnp.stack(static) * (awake + _gather(platform, "sleep_fraction") * (1 - awake))


def _cells_after(
    platform: Platform, state: PlatformState, task: Task, chosen: Array, writing: Array, failed: Array, temperature: Array
) -> tuple[dict[str, CellState], Float[Array, ""]]:
    """Cells of every chip after the step, at mean junction temperatures `temperature` (K), and the life it consumed."""
    cells, wear = {}, jnp.zeros(())
    for name in platform.cell_names:
        i = platform.names.index(name)
        run = CellRun(
            used=chosen[i],
            network=task.network,
            memory=task.offer.memory[i],
            reads=task.offer.reads[i],
            written=writing[i],
            streamed=task.offer.streamed[i],
            failed=failed[i],
            gap=task.gap,
            temperature=state.temperature[i],
            mean_temperature=temperature[i],
        )
        cells[name], worn = use_cells(platform.chip(name).cell, state.cells[name], run)
        wear = wear + worn
    return cells, wear


def _margins(
    platform: Platform,
    state: PlatformState,
    task: Task,
    writing: Float[Array, " processors"],
    exposed: Float[Array, " processors"],
) -> Float[Array, " processors"]:
    budget, margins = jnp.log(platform.hazard_budget), []
    for i, name in enumerate(platform.names):
        if name not in platform.cell_names:
            margins.append(jnp.full((), NO_CELLS))
            continue
        cell, reads = platform.chip(name).cell, task.offer.reads[i]
        now = state.temperature[i]
        margins.append(retention_margin(cell, state.cells[name], task.network, writing[i], now, exposed[i], reads, budget))
    return jnp.stack(margins)


def _writing(platform: Platform, state: PlatformState, task: Task) -> Float[Array, " processors"]:
    """1 where the task's weights would have to be written before it can run."""
    budget = jnp.log(platform.hazard_budget)
    flags = [
        needs_writing(state.cells[name], task.network, budget) if name in platform.cell_names else jnp.zeros(())
        for name in platform.names
    ]
    return jnp.stack(flags)
