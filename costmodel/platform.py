"""A platform: processors on one thermal network, and the one step where cost, heat and reliability meet.

`step()` lets one task arrive, queues it on the chosen processor, and advances time to the next arrival:

1. The run starts when the processor's backlog is done. It wakes the processor if that was asleep, and writes the network's
   weights if they are not resident (or if more cells than the hazard budget allows have lost their state).
2. Energy of queued work is released evenly while it runs; with leakage at the present temperature and the sleep power of
   idle processors it is the power into the thermal network, which makes one exact zero-order-hold step.
3. Temperature sets the retention hazard of resident weights, reads disturb them, programming wears the cells.

    H += dt / tau(T) + reads rate(T)         cells lost, per resident network, in the log domain
    retention failure:  H at the end of the run > hazard budget   (the run is then worthless, its weights are gone)
    wear += written share of the chip / N_end(T)

Processors are held by name and ordered alphabetically wherever arrays have a processor axis (P). Weights of several
networks (W) share a chip; the least recently used are evicted first. Energy is conserved: what decisions commit is
what heats the package. Temperature inside one step is taken as its exact time average.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from costmodel.cost import Conditions
from costmodel.estimation import estimate
from costmodel.processors.base import Processor
from costmodel.processors.cim import CrossbarChip
from costmodel.relax import HARD, Relaxation
from costmodel.weights import NO_CELLS, CellRun, CellState, needs_writing, retention_margin, use_cells
from physics import Modes, ParameterTree, SharedPackage, param
from workloads import OpTable, stack

LONG_IDLE = 1e3  # s; idle time is not counted further
SHORTEST = 1e-12  # s; two tasks may arrive at the same moment


class Platform(ParameterTree):
    """Processors by name on one shared package. `package` has one junction per processor, in alphabetical order."""

    processors: dict[str, Processor]
    package: SharedPackage
    hazard_budget: Float[Array, ""] = param(
        1e-6, unit="1", lo=1e-15, hi=0.5, log=True, source="assumed: bit error rate tolerated before correction, 1e-6..1e-4"
    )

    def __check_init__(self) -> None:
        if not self.processors:
            raise ValueError("Platform.processors: a platform needs at least one processor, got 0")
        for name, processor in self.processors.items():
            if not isinstance(processor, Processor):
                raise ValueError(f"Platform.processors[{name!r}] must be a processor, got {type(processor).__name__}")
        if self.package.r_junction.shape[-1] != len(self.processors):
            raise ValueError(
                f"Platform.package has {self.package.r_junction.shape[-1]} junctions for {len(self.processors)} processors"
            )
        if self.package.names != self.names:
            raise ValueError(f"Platform.package.names = {self.package.names} must be the processors in order, {self.names}")

    @property
    def names(self) -> tuple[str, ...]:
        """Processor names in the order of every processor axis."""
        return tuple(sorted(self.processors))

    @property
    def cell_names(self) -> tuple[str, ...]:
        """Names of the processors that keep weights in memory cells."""
        return tuple(name for name in self.names if isinstance(self.processors[name], CrossbarChip))

    def chip(self, name: str) -> CrossbarChip:
        """The crossbar chip called `name`."""
        chip = self.processors[name]
        assert isinstance(chip, CrossbarChip)
        return chip

    def initial_state(self, ambient: Float[Array, ""] | float = 318.15, workloads: int = 1) -> "PlatformState":
        """Everything idle, at ambient temperature (K), no weights resident, for `workloads` distinct networks (>= 1)."""
        if isinstance(ambient, int | float) and not 200.0 <= ambient <= 500.0:
            raise ValueError(f"ambient = {ambient:g} K is outside its range [200, 500] K")
        if workloads < 1:
            raise ValueError(f"workloads = {workloads} is below 1")
        count = len(self.names)
        zeros = jnp.zeros(count)
        return PlatformState(
            ambient=jnp.asarray(ambient, float),
            theta=jnp.zeros(count + 2),
            backlog=zeros,
            idle=jnp.full(count, LONG_IDLE),
            pending=zeros,
            cells={name: CellState.empty(workloads) for name in self.cell_names},
        )


class PlatformState(NamedTuple):
    """State between tasks. N thermal nodes: the P junctions, then spreader and case."""

    ambient: Float[Array, ""]  # K
    theta: Float[Array, " nodes"]  # K above ambient
    backlog: Float[Array, " processors"]  # s of queued work
    idle: Float[Array, " processors"]  # s since the last work was done
    pending: Float[Array, " processors"]  # J of switching energy in that work
    cells: dict[str, CellState]

    @property
    def temperature(self) -> Float[Array, "... processors"]:
        """Junction temperatures (K)."""
        return jnp.asarray(self.ambient)[..., None] + self.theta[..., : self.backlog.shape[-1]]


class Offer(NamedTuple):
    """What one network costs on every processor, weights resident; arrays (P,)."""

    latency: Float[Array, " processors"]  # s
    energy: Float[Array, " processors"]  # J, switching only
    write_latency: Float[Array, " processors"]  # s, to program its weights
    write_energy: Float[Array, " processors"]  # J
    memory: Float[Array, " processors"]  # share of the chip's weight memory
    streamed: Float[Array, " processors"]  # share of the chip that every run writes: weights beyond capacity, second operands
    reads: Float[Array, " processors"]  # reads per cell and run


class Task(NamedTuple):
    """One request: run network number `network` within `deadline` (s); the next task comes `gap` (s) later."""

    offer: Offer
    network: Int[Array, ""]
    deadline: Float[Array, ""]
    gap: Float[Array, ""]


class Decision(NamedTuple):
    """Where to run a task: index into `Platform.names`."""

    processor: Int[Array, ""]


class Outcome(NamedTuple):
    """Cost of one step.

    latency (s): from arrival to result: waiting, waking, writing weights, running
    energy (J): switching energy committed by the decision plus leakage of the whole platform until the next arrival
    power (W): mean into the thermal network until the next arrival
    missed, failed, written: 1 if the deadline passed before the result, if the weights were lost before it, if they were written
    wear: fraction of a chip's life consumed
    deadline_margin (s): negative if missed
    retention_margin: ln(hazard budget / lost fraction) at the result; 50 where no cells are used
    peak_temperature (K): hottest junction at the end of the step
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


def make_offer(platform: Platform, ops: OpTable, relaxation: Relaxation = HARD) -> Offer:
    """Cost of `ops` on every processor at nominal conditions; differentiable in every parameter of `platform`."""
    rows = []
    for name in platform.names:
        fresh = estimate(platform.processors[name], ops, Conditions(), relaxation)
        empty = estimate(platform.processors[name], ops, Conditions(resident=0.0), relaxation)
        write = (empty.programming_latency - fresh.programming_latency, empty.programming_energy - fresh.programming_energy)
        switching = fresh.dynamic_energy + fresh.programming_energy
        rows.append(Offer(fresh.latency, switching, *write, jnp.minimum(fresh.memory, 1.0), fresh.written, fresh.reads))
    return jax.tree.map(lambda *columns: jnp.stack(columns), *rows)


def make_offers(platform: Platform, tables: Sequence[OpTable], relaxation: Relaxation = HARD) -> Offer:
    """Offers of several networks: arrays (W, P)."""
    if not tables:
        raise ValueError("a platform needs at least one workload, got 0")
    return _offers(platform, stack(tables), relaxation)


@partial(jax.jit, static_argnums=2)
def _offers(platform: Platform, tables: OpTable, relaxation: Relaxation) -> Offer:
    return jax.vmap(lambda table: make_offer(platform, table, relaxation))(tables)


def make_task(platform: Platform, ops: OpTable, *, deadline: float, gap: float, network: int = 0) -> Task:
    """A task that runs `ops`, kept on the chip as network number `network`. `deadline` and `gap` in s, > 0."""
    for name, value in (("deadline", deadline), ("gap", gap)):
        if isinstance(value, int | float) and not 0 < value < 1e9:
            raise ValueError(f"{name} = {value:g} s is outside its range (0, 1e9) s")
    if isinstance(network, int) and network < 0:
        raise ValueError(f"network = {network} is below 0")
    return Task(make_offer(platform, ops), jnp.asarray(network), jnp.asarray(deadline, float), jnp.asarray(gap, float))


class Quote(NamedTuple):
    """What a task would take on each processor if it were sent there now; arrays (P,)."""

    latency: Float[Array, " processors"]  # s, from arrival to result
    service: Float[Array, " processors"]  # s, waking, writing and running, without the wait
    energy: Float[Array, " processors"]  # J, switching energy it would commit
    writing: Float[Array, " processors"]  # 1 where its weights would have to be written first
    margin: Float[Array, " processors"]  # ln(hazard budget / lost fraction) at the result; 50 where no cells are used


def quote(platform: Platform, state: PlatformState, task: Task) -> Quote:
    """What `task` would take on every processor in the present state; `step()` books exactly this."""
    asleep = jnp.where(state.idle > _gather(platform, "linger"), 1.0, 0.0)
    writing = _writing(platform, state, task)
    service = asleep * _gather(platform, "wake_time") + task.offer.latency + writing * task.offer.write_latency
    energy = asleep * _gather(platform, "wake_energy") + task.offer.energy + writing * task.offer.write_energy
    latency = state.backlog + service
    exposed = jnp.where(writing > 0, service, latency)  # weights written for this run are fresh when it starts
    return Quote(latency, service, energy, writing, _margins(platform, state, task, writing, exposed))


def step(
    platform: Platform, state: PlatformState, task: Task, decision: Decision, modes: Modes | None = None
) -> tuple[PlatformState, Outcome]:
    """Run `task` on the chosen processor and advance to the next arrival: (state, `Outcome`). Pure, for one state (vmap it).

    `modes`, the thermal network's modal form, may be passed in to compute it once outside a loop; for gradients in the
    package's own parameters compute it inside the function that is differentiated, as `rollout` does. Non-smooth:
    deadline, failure, eviction and waking are hard decisions, their margins are smooth. A processor or network out of
    range is refused (ValueError) if it is a plain number, and counts as the nearest one in range if it is an array.
    """
    decision, task = _in_range(platform, state, task, decision)
    modes = platform.package.network().modes() if modes is None else modes
    chosen = jax.nn.one_hot(decision.processor, len(platform.names), dtype=state.theta.dtype)
    quoted = quote(platform, state, task)
    backlog = state.backlog + chosen * quoted.service
    pending = state.pending + chosen * quoted.energy
    latency, committed = jnp.sum(chosen * quoted.latency), jnp.sum(chosen * quoted.energy)

    busy = jnp.minimum(backlog, task.gap)
    released = jnp.where(busy < backlog, pending * busy / jnp.maximum(backlog, SHORTEST), pending)  # the last of it exactly
    per_gap = 1 / jnp.maximum(task.gap, SHORTEST)
    before = jnp.where(backlog > 0, 0.0, state.idle)
    awake = jnp.minimum(busy + jnp.maximum(_gather(platform, "linger") - before, 0.0), task.gap)
    leakage = _leakage(platform, state, awake * per_gap)
    power = released * per_gap + leakage
    padded = jnp.pad(power, (0, state.theta.shape[-1] - power.shape[-1]))
    theta, mean = modes.step(state.theta, padded, task.gap), modes.mean(state.theta, padded, task.gap)
    temperature = state.ambient + mean[: power.shape[-1]]

    failed = jnp.where(quoted.margin < 0, 1.0, 0.0)
    cells, wear = {}, jnp.zeros(())
    for name in platform.cell_names:
        i = platform.names.index(name)
        run = CellRun(
            used=chosen[i],
            network=task.network,
            memory=task.offer.memory[i],
            reads=task.offer.reads[i],
            written=quoted.writing[i],
            streamed=task.offer.streamed[i],
            failed=failed[i],
            gap=task.gap,
            temperature=state.temperature[i],
            mean_temperature=temperature[i],
        )
        cells[name], worn = use_cells(platform.chip(name).cell, state.cells[name], run)
        wear = wear + worn
    idle = jnp.minimum(before + task.gap - busy, LONG_IDLE)
    after = PlatformState(state.ambient, theta, backlog - busy, idle, pending - released, cells)
    outcome = Outcome(
        latency=latency,
        energy=committed + jnp.sum(leakage) * task.gap,
        power=jnp.sum(power),
        missed=jnp.where(latency > task.deadline, 1.0, 0.0),
        failed=jnp.sum(chosen * failed),
        wear=wear,
        written=jnp.sum(chosen * quoted.writing),
        deadline_margin=task.deadline - latency,
        retention_margin=jnp.sum(chosen * quoted.margin),
        peak_temperature=jnp.max(after.temperature),
    )
    return after, outcome


def _in_range(platform: Platform, state: PlatformState, task: Task, decision: Decision) -> tuple[Decision, Task]:
    """No task may vanish because its index names nothing: a plain number is refused, an array's entries are clipped."""
    networks = min((cells.resident.shape[-1] for cells in state.cells.values()), default=1)
    for name, value, count in (
        ("decision.processor", decision.processor, len(platform.names)),
        ("task.network", task.network, networks),
    ):
        if isinstance(value, int) and not 0 <= value < count:
            raise ValueError(f"{name} = {value} is outside its range [0, {count - 1}]")
    processor = jnp.clip(jnp.asarray(decision.processor), 0, len(platform.names) - 1)
    return Decision(processor), task._replace(network=jnp.clip(jnp.asarray(task.network), 0, networks - 1))


def rollout(platform: Platform, state: PlatformState, tasks: Task, decisions: Decision) -> tuple[PlatformState, Outcome]:
    """Many steps: `tasks` and `decisions` have a leading axis (T,); the final state and the outcomes (T,)."""
    modes = platform.package.network().modes()
    return jax.lax.scan(lambda s, x: step(platform, s, x[0], x[1], modes), state, (tasks, decisions))


def _gather(platform: Platform, field: str) -> Float[Array, " processors"]:
    return jnp.stack([getattr(platform.processors[name], field) for name in platform.names])


def _leakage(platform: Platform, state: PlatformState, awake: Float[Array, " processors"]) -> Float[Array, " processors"]:
    """Mean static power (W) of every processor, awake for the fraction `awake` of the step."""
    static = jnp.stack(
        [platform.processors[n].static_power(Conditions(temperature=state.temperature[i])) for i, n in enumerate(platform.names)]
    )
    return static * (awake + _gather(platform, "sleep_fraction") * (1 - awake))


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
