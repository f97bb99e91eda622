"""What `tempo route` prints: one task on every processor under given conditions, the target, and why.

Networks that the scheduling environment knows go to the controller, with or without an agent; kernels, sizes, files and all other
names go to the router of three tiers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from physics import unknown_name
from rl.agents.config import check_real
from rl.agents.training import load_agent
from rl.decisions.controller import Controller, Request
from rl.decisions.ranges import ObservationRange
from rl.decisions.records import ControlDecision
from rl.decisions.router import ComplexityRouter
from rl.decisions.routing_tiers.states import HardwareState
from rl.envs.routing import RoutingState, SchedulingEnv
from rl.study.agent_tables import make_env
from rl.study.decisions import changed
from rl.study.quantities import quantity
from rl.study.tables import Printed, render
from workloads import list_networks
from workloads.catalog import ENTRIES
from workloads.names import find

CELSIUS = (-73.15, 226.85)


def route_table(
    task: str,
    temperature: float,
    deadline: float,
    load: float,
    gap: float,
    resident: bool,
    agent: Path | None,
    networks: Sequence[str],
) -> Printed:
    """One decision of the controller: `temperature` of every junction (C), `deadline`, `load` of every processor, mean `gap` (s).

    `agent` is a checkpoint; without one the reward of this task alone decides. ValueError for what is not known or out of range.
    """
    if not CELSIUS[0] <= temperature <= CELSIUS[1]:
        raise ValueError(f"--temperature = {temperature:g} C is outside its range [{CELSIUS[0]:g}, {CELSIUS[1]:g}] C")
    for name, number, open_lo in (("--deadline (s)", deadline, True), ("--gap (s)", gap, True), ("--load (s)", load, False)):
        check_real(name, number, 0.0, 1e6, open_lo=open_lo)
    for name in networks:
        find(name, ENTRIES, "network")
    known = tuple(networks) or list_networks()
    if task not in known and agent is None:
        return _routed(task, HardwareState.from_temperature(temperature, backlog=load, resident=resident, deadline=deadline))
    env = make_env(networks)
    if task not in env.stream.networks:
        raise ValueError(unknown_name("network", task, list(env.stream.networks)))
    controller = _controller(env, agent)
    request = controller.request(task, deadline=deadline, mean_gap=gap)
    decision = controller.decide(_platform(env, controller.template, request, temperature, load, resident).platform, request)
    reason = decision.reason if agent is not None else decision.reason.partition("; ")[2]
    asked = {"task": task, "temperature": temperature + 273.15, "deadline": deadline, "load": load, "gap": gap}
    value: dict[str, Any] = asked | {"resident": resident, "agent": None if agent is None else str(agent)}
    value |= decision.as_dict() | {"reason": reason}
    if agent is None:
        value["alternatives"] = [alternative | {"value": None} for alternative in value["alternatives"]]
    return _text(decision, reason, task, temperature, agent), value


def _routed(task: str, state: HardwareState) -> Printed:
    """The router's decision on anything that `workloads.resolve` takes as text; processors without load are awake."""
    report = ComplexityRouter().route(task, hw=state)
    best = min(option.log_cost for option in report.options)
    rows = []
    for option in report.options:
        margins = ["-" if option.retention >= 50 else f"{option.retention:+.2f}", f"{option.capacity:+.2f}"]
        times = [quantity(option.latency, "s"), quantity(option.energy, "J"), f"{np.exp(option.log_cost - best):.3g}"]
        mark = "<- chosen" if option.target == report.target else ""
        rows.append([option.target, *times, *margins, ", ".join(option.broken) or "-", mark])
    header = ["processor", "latency", "energy", "latency x energy", "retention", "capacity", "forbidden by", ""]
    celsius = float(np.max(np.asarray(state.temperature))) - 273.15
    asked = {"temperature": celsius + 273.15, "deadline": state.deadline, "load": state.backlog, "resident": bool(state.resident)}
    why = f"{report.target} by {report.tier_used}: {report.reason}"
    note = "retention, capacity: ln(limit / need) at the result, below 0 it is forbidden"
    return f"{render(header, rows, f'{report.task} at {celsius:g} C', 1)}\n{why}\n{note}", asked | report.as_dict()


def _controller(env: SchedulingEnv, agent: Path | None) -> Controller:
    """The controller of a checkpointed agent, or one that has none to ask and falls back to the reward."""
    if agent is not None:
        return Controller(env, load_agent(agent, env))
    entries = len(env.observation_names)
    anything = ObservationRange(jnp.full(entries, -1e9), jnp.full(entries, 1e9), jnp.zeros(entries))
    return Controller(env, lambda observation: jnp.full(env.num_actions, jnp.nan), trained=anything)


def _platform(
    env: SchedulingEnv, template: RoutingState, request: Request, temperature: float, load: float, resident: bool
) -> RoutingState:
    """A cool, idle platform, changed as asked."""
    fresh = env.platform.initial_state(workloads=len(env.stream.networks))
    state = template._replace(platform=fresh, network=request.network, deadline=request.deadline)
    state = state._replace(platform=fresh._replace(ambient=jnp.full_like(fresh.ambient, temperature + 273.15)))
    state = changed(env, state, "residency", jnp.asarray(float(resident)))
    return changed(env, state, "load", jnp.asarray(load)) if load > 0 else state


def _text(decision: ControlDecision, reason: str, task: str, temperature: float, agent: Path | None) -> str:
    rows = []
    for index, row in enumerate(decision.alternatives):
        margin = "no cells" if row.retention_margin >= 50 else f"{row.retention_margin:+.2f}"
        times = [quantity(row.latency, "s"), ("+" if row.deadline_margin > 0 else "") + quantity(row.deadline_margin, "s")]
        heat = [margin, f"{row.peak_temperature - 273.15:.1f} C"]
        value = "" if agent is None else f"{row.value:.3f}"
        chosen = (
            "<- " + ("moved" if decision.migrated else "held" if decision.held else "chosen") if index == decision.index else ""
        )
        rows.append([row.target, *times, quantity(row.energy, "J"), *heat, f"{row.reward:.3f}", value, chosen])
    header = ["processor", "latency", "to deadline", "energy", "retention margin", "hottest", "reward", "value", ""]
    table = render(header, rows, f"{task} at {temperature:g} C", 1)
    by = f"agent {agent}" if agent is not None else "no agent: the reward of this task alone decides"
    note = "retention margin: ln(error budget / lost weights) at the result, below 0 the weights are lost"
    return f"{table}\n{decision.target}: {reason} ({by})\n{note}"
