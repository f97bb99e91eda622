"""The measurements of a study that need no training: profiles, costs, sensitivities, and the sweep of the heat chain."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import costmodel
from costmodel import Bound, Decision, Platform, Task
from costmodel.cost import UNITS
from physics import lookup
from rl.files import write_netcdf
from workloads import load, stack

CHAIN_TASKS, CHAIN_FRAMES, CHAIN_GAP, CHAIN_AMBIENT = 256, 4000, 5.0, 328.15  # bursts, frames each, s apart, K


def profile(name: str) -> dict[str, Any]:
    """Operation counts of one network."""
    ops = load(name)
    info = ops.info
    assert info is not None
    return {
        "operations": ops.n_ops,
        "macs_padded": ops.total("macs"),
        "macs_valid": ops.total("macs_valid"),
        "flops": ops.total("flops"),
        "parameters": info.parameters,
        "peak_live_elements": ops.peak_live,
        "peak_at": info.op_names[info.peak_op],
        "uncounted": [list(pair) for pair in info.uncounted],
        "flags": list(info.flags),
    }


def costs(networks: Sequence[str], hardware: Sequence[str], temperature: float = 318.15) -> dict[str, dict[str, Any]]:
    """Cost of every network on every named processor at a junction temperature (K), weights resident, and of writing them."""
    tables, conditions = stack([load(name) for name in networks]), costmodel.Conditions(temperature=temperature)
    found: dict[str, dict[str, Any]] = {name: {} for name in networks}
    for name in hardware:
        processor = costmodel.load_hardware(name)
        price = jax.jit(
            jax.vmap(
                lambda ops, resident, p=processor: costmodel.estimate(p, ops, conditions._replace(resident=resident)), (0, None)
            )
        )
        resident, absent = price(tables, 1.0), price(tables, 0.0)
        for row, network in enumerate(networks):
            figures: dict[str, Any] = {field: float(getattr(resident, field)[row]) for field in UNITS if field != "bound"}
            figures["write_latency"] = float(absent.programming_latency[row] - resident.programming_latency[row])
            found[network][name] = figures | {
                "bound": Bound(int(resident.bound[row])).name.lower(),
                "relaxation": resident.relaxation,
            }
    return found


def facts(platform: Platform) -> dict[str, Any]:
    """For the report: how long the error budget lasts (s) at some temperatures (C), and what waking the GPU costs."""
    cell, gpu = platform.chip("pim").cell, platform.processors["gpu"]
    lasts = {str(c): float(jnp.exp(cell.retention.log_time(c + 273.15)) * platform.hazard_budget) for c in (45, 85, 105)}
    waking = {name: float(getattr(gpu, name)) for name in ("wake_time", "wake_energy", "linger")}
    return {"budget_lasts": lasts, "gpu": waking, "hazard_budget": float(platform.hazard_budget)}


def sensitivities(platform: Platform, network: str, top: int = 10) -> dict[str, Any]:
    """What the energy and latency of one network on each processor, and the heat chain, depend on most."""
    ops = load(network)
    tables = {}
    for name in platform.names:
        for figure in ("energy", "latency"):
            table = costmodel.sensitivity(
                lambda hw, policy, f=figure: getattr(costmodel.estimate(hw, ops, relaxation=policy), f), platform.processors[name]
            )
            tables[f"{figure} of {network} on {name}"] = _rows(table, top)
    chain = costmodel.sensitivity(lambda p: heat_chain(p)["lost_share_of_budget"], platform)
    tables["weights lost while the GPU works"] = _rows(chain, top)
    return tables


def _rows(table: costmodel.SensitivityTable, top: int) -> dict[str, Any]:
    """The largest rows."""
    return {"relaxation": table.relaxation, "value": table.value, "rows": [row._asdict() for row in table.relevant[:top]]}


def heat_chain(platform: Platform) -> dict[str, jax.Array]:
    """Work -> power -> temperature -> retention: 21 minutes of video bursts on the GPU, and what they do to the PIM's weights.

    Every 5 s a burst of 4000 ResNet-8 frames, at 55 C ambient, weights fresh. Scalars: the junction temperature of
    the chip at the end (K), the energy (J), and the lost share of its hazard budget.
    """
    frame = costmodel.make_offer(platform, load("resnet8"))
    burst = frame._replace(latency=CHAIN_FRAMES * frame.latency, energy=CHAIN_FRAMES * frame.energy)
    ones = jnp.ones(CHAIN_TASKS)
    offers = jax.tree.map(lambda x: jnp.broadcast_to(x, (CHAIN_TASKS, *x.shape)), burst)
    tasks = Task(offers, jnp.zeros(CHAIN_TASKS, int), CHAIN_GAP * ones, CHAIN_GAP * ones)
    gpu, pim = platform.names.index("gpu"), platform.names.index("pim")
    state = platform.initial_state(ambient=CHAIN_AMBIENT)
    end, outcomes = costmodel.rollout(platform, state, tasks, Decision(jnp.full(CHAIN_TASKS, gpu)))
    lost = end.cells["pim"].log_hazard[0] - jnp.log(platform.hazard_budget)
    return {"temperature": end.temperature[pim], "energy": jnp.sum(outcomes.energy), "lost_share_of_budget": jnp.exp(lost)}


SWEPT = ("package.r_ambient", "processors.gpu.active_power", "processors.pim.cell.retention.e_a")


def sweep_heat_chain(platform: Platform, path: Path, points: int = 24) -> dict[str, Any]:
    """The heat chain over package, GPU power and activation energy, written as NetCDF; a summary of it."""
    vary = {}
    for label in SWEPT:
        value = float(lookup(platform, label).value)
        vary[label] = (
            np.linspace(0.9 * value, 1.1 * value, points) if label.endswith("e_a") else np.geomspace(value / 3, value * 3, points)
        )
    data = costmodel.sweep(heat_chain, platform, vary, chunk=2048)
    for name, unit in (("temperature", "K"), ("energy", "J"), ("lost_share_of_budget", "1")):
        data[name].attrs["units"] = unit
    write_netcdf(path, data)
    spread = {name: [float(data[name].min()), float(data[name].max())] for name in data.data_vars}
    return {
        "file": path.name,
        "points": int(np.prod([data.sizes[d] for d in data.dims])),
        "ranges": spread,
        "labels": list(SWEPT),
    }
