"""What `tempo schedule` shows: copies, speedup, utilisation, the band over sets and rules, and the Gantt chart."""

from pathlib import Path
from typing import Any

import costmodel
from costmodel import Plan
from costmodel.mapping.gantt import draw_gantt, gantt_text
from rl.files import check_picture, write_with


def schedule_report(
    network: str,
    extra: int,
    crossbar: tuple[int, int],
    rule: str,
    sets: tuple[int, int],
    direction: str,
    gantt: Path | None,
) -> tuple[str, dict[str, Any]]:
    """Text and JSON value of one network on `extra` crossbars more than one copy of each layer takes."""
    if gantt is not None:
        check_picture(gantt, "--gantt")
    graph = costmodel.layer_graph(network)
    available = sum(graph.crossbars(*crossbar)) + extra
    plan = costmodel.plan_schedule(
        graph, available, rule=rule, sets=costmodel.Sets(*sets), direction=direction, crossbar=crossbar
    )
    band = costmodel.speedup_band(graph, available, direction=direction, crossbar=crossbar)
    if gantt is not None:
        write_with(gantt, lambda temporary: draw_gantt(plan, temporary))
    value = _value(plan, extra, crossbar) | {"band": [_summary(p) for p in band], "gantt": str(gantt) if gantt else None}
    return _text(plan, band, crossbar, gantt), value


def _summary(plan: Plan) -> dict[str, Any]:
    return {
        "rule": plan.rule,
        "sets": list(plan.sets),
        "makespan_cycles": float(plan.schedule.makespan),
        "speedup": plan.speedup,
        "speedup_layer_by_layer": plan.serial_speedup,
        "utilisation": plan.utilisation,
    }


def _value(plan: Plan, extra: int, crossbar: tuple[int, int]) -> dict[str, Any]:
    columns = zip(plan.graph.layers, plan.crossbars, plan.duplicates, plan.schedule.start, plan.schedule.finish, strict=True)
    return _summary(plan) | {
        "network": plan.graph.name,
        "crossbar": list(crossbar),
        "direction": plan.direction,
        "crossbars_needed": sum(plan.crossbars),
        "crossbars_extra": extra,
        "crossbars_available": plan.available,
        "layer_by_layer_cycles": plan.reference,
        "utilisation_layer_by_layer": plan.reference_utilisation,
        "bound_cycles": plan.bound,
        "layers": [
            {
                "name": layer.name, "cycles": layer.cycles, "crossbars": c, "copies": int(d),
                "start": float(start), "finish": float(finish),
            }
            for layer, c, d, start, finish in columns
        ],
    }  # fmt: skip


def _text(plan: Plan, band: tuple[Plan, ...], crossbar: tuple[int, int], gantt: Path | None) -> str:
    needed, makespan = sum(plan.crossbars), float(plan.schedule.makespan)
    lines = [
        f"{plan.graph.name}: {len(plan.graph.layers)} layers on {plan.available} crossbars of {crossbar[0]} x {crossbar[1]} "
        f"({needed} needed, {plan.available - needed} extra)",
        f"layer by layer, one copy each   {plan.reference:>10,.0f} cycles   utilisation {100 * plan.reference_utilisation:.2f} %",
        f"layer by layer, copies          {float(plan.serial.makespan):>10,.0f} cycles   speedup {plan.serial_speedup:.2f}",
        f"across layers, copies           {makespan:>10,.0f} cycles   speedup {plan.speedup:.2f}   "
        f"utilisation {100 * plan.utilisation:.2f} %",
    ]
    if plan.bound is not None:
        lines.append(
            f"no copies are faster than       {plan.bound:>10,.0f} cycles   ({100 * (makespan / plan.bound - 1):.1f} % below)"
        )
    lines += ["", "band                       speedup   utilisation   layer by layer"]
    for other in band:
        name = f"{other.rule}, sets {other.sets}"
        lines.append(f"  {name:24} {other.speedup:7.2f}   {100 * other.utilisation:9.2f} %   {other.serial_speedup:14.2f}")
    lines += ["", f"time 0 to {makespan:,.0f} cycles; the denser, the more copies of the layer work", gantt_text(plan)]
    return "\n".join(lines + ([f"Gantt chart: {gantt}"] if gantt else []))
