"""The report: one HTML file that opens offline, with every statement computed from `results.json`."""

import base64
import html
from pathlib import Path
from typing import Any

import jax.numpy as jnp

import costmodel
from rl.files import write_text
from rl.study.tables import duration, quantity

CSS = """
body{font:16px/1.55 system-ui,sans-serif;color:#222;max-width:1120px;margin:2rem auto;padding:0 1.2rem}
h1{margin-bottom:.2rem}h2{margin-top:2.4rem;border-bottom:1px solid #ddd}
table{border-collapse:collapse;font-size:14px;margin:.6rem 0}th{color:#666;font-weight:600}
td,th{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #eee}td:first-child,th:first-child{text-align:left}
img{max-width:100%}.note{color:#666;font-size:14px}.best{font-weight:700}li{margin:.3rem 0}
"""
ON_PLATFORM = {"cpu": "stm32l4r5", "gpu": "edge-gpu", "pim": "edge-pim"}  # processors of the platform among the named hardware


def write_report(results: dict[str, Any], plots: dict[str, Path], path: Path) -> None:
    """Write the report to `path`."""
    write_text(path, render_report(results, plots))


def render_report(results: dict[str, Any], plots: dict[str, Path]) -> str:
    """The report as HTML."""
    sections = [
        _summary(results),
        "<h2>Which processor wins where</h2>" + _why(results) + _image(plots["decisions"]) + _findings(results),
        "<h2>Policies against the same tasks</h2>" + _image(plots["policies"]) + _policy_table(results) + _scoring(),
        "<h2>What each network costs</h2>" + _image(plots["costs"]) + _cost_table(results),
        "<h2>What matters: sensitivities</h2>" + _sensitivity_text() + _image(plots["sensitivity"]),
        "<h2>Work, power, temperature, retention</h2>" + _heat_text(results) + _image(plots["heat"]),
        "<h2>Training</h2>" + _image(plots["learning"]),
        "<h2>The networks</h2>" + _profile_table(results),
    ]
    head = f"<meta charset=utf-8><title>Tempo study</title><style>{CSS}</style>"
    return f"<!doctype html><html lang=en>{head}<body>{''.join(sections)}</body></html>\n"


def _image(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}"></p>'


def _table(header: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _ranked(results: dict[str, Any]) -> list[str]:
    return sorted(results["evaluation"], key=lambda name: -results["evaluation"][name]["score_iqm"])


def _summary(results: dict[str, Any]) -> str:
    s, decided, found = results["settings"], results["decisions"], results["evaluation"]
    agent, rule = decided["agent"], decided["rule"]
    a, r = found[agent]["score_iqm"], found[rule]["score_iqm"]
    apart = found[agent]["score_interval"][0] > found[rule]["score_interval"][1]
    against = f"{abs(a - r) / abs(r):.0%} {'better' if a > r else 'worse'} than" if r else "against"
    certain = "the 95 % intervals do not overlap" if apart else "the 95 % intervals overlap"
    fixed = {name: found[name]["score_iqm"] for name in found if name.startswith("always-")}
    single = ", ".join(f"{name.removeprefix('always-')} {score:.1f}" for name, score in fixed.items())
    lines = [
        f"""Scheduler: a DQN, {s["seeds"]} training runs of {s["steps"]:,} steps; all policies are judged on the same
        {s["episodes"]} episodes.""",
        f"The median agent ({agent}) scores {a:.1f}, {against} the best rule ({rule}, {r:.1f}); {certain}.",
        f"No processor is best for everything: sending every task to one scores {single}.",
    ]
    intro = f"""<p>Inference tasks ({html.escape(", ".join(s["networks"]))}) arrive at a small computer whose processors
    ({html.escape(", ".join(results["processors"]))}) share one package. A scheduler sends every task to one of them. Work makes
    power, power makes temperature, and temperature shortens how long the memory cells of the processing-in-memory chip (pim)
    remember the weights.</p>"""
    return "<h1>Tempo study</h1>" + intro + "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def _why(results: dict[str, Any]) -> str:
    """What speaks for and against each processor, from the costs."""
    costs = results["cost"]

    def span(processor: str, field: str, unit: str) -> str:
        values = [costs[network][ON_PLATFORM[processor]][field] for network in costs]
        return f"{quantity(min(values), unit)} to {quantity(max(values), unit)}"

    platform = costmodel.load_platform(results["settings"]["platform"])
    gpu, budget = platform.processors["gpu"], platform.hazard_budget
    retention = platform.chip("pim").cell.retention
    seconds = {c: float(jnp.exp(retention.log_time(c + 273.15)) * budget) for c in (45, 85, 105)}
    lasts = ", ".join(f"{duration(time)} at {celsius} C" for celsius, time in seconds.items())
    reasons = {
        "pim": f"""least energy by far ({span("pim", "energy", "J")}) and fast ({span("pim", "latency", "s")}), but only with the
        weights on the chip. Writing them takes {span("pim", "write_latency", "s")} and wears the cells, not all networks fit
        together, and heat makes them fade: the error budget lasts {lasts}.""",
        "cpu": f"""always ready and frugal ({span("cpu", "energy", "J")}), but slow ({span("cpu", "latency", "s")}): it
        misses tight deadlines and queues up.""",
        "gpu": f"""quick at any network ({span("gpu", "latency", "s")}), but waking it costs
        {quantity(float(gpu.wake_time), "s")} and {quantity(float(gpu.wake_energy), "J")}, and it then leaks for
        {quantity(float(gpu.linger), "s")}, the more the hotter it is.""",
    }
    return "<ul>" + "".join(f"<li><b>{name}</b>: {text}</li>" for name, text in reasons.items()) + "</ul>"


def _findings(results: dict[str, Any]) -> str:
    """Sentences on what the agent's choice depends on."""
    decided, processors = results["decisions"], results["processors"]
    agent, items = decided["agent"], []
    for variable, probe in decided["probes"][agent].items():
        first, last = probe["shares"][0], probe["shares"][-1]
        moves = sorted(range(len(processors)), key=lambda i: -abs(last[i] - first[i]))
        parts = ", ".join(f"{processors[i]} {first[i]:.0%} &rarr; {last[i]:.0%}" for i in moves)
        change = f"{html.escape(probe['label'])} from {probe['values'][0]:g} to {probe['values'][-1]:g}"
        items.append(f"<li><b>{html.escape(variable)}</b>: {change}: {parts}{_turning(probe, processors)}</li>")
    rows = [[html.escape(n), *[f"{share:.0%}" for share in shares]] for n, shares in decided["by_network"].items()]
    note = f"""<p class=note>Each probe takes states the agent met, changes one thing and asks again, so the curves show what the
    decision depends on, other things being equal. Upper row: the agent ({html.escape(agent)}); lower row: the best rule
    ({html.escape(decided["rule"])}).</p>"""
    return f"{note}<ul>{''.join(items)}</ul><p>Where the agent sends each network:</p>" + _table(["network", *processors], rows)


def _turning(probe: dict[str, Any], processors: list[str]) -> str:
    """Where the most-chosen processor changes."""
    leaders = [max(range(len(processors)), key=lambda i, s=shares: s[i]) for shares in probe["shares"]]
    values = probe["values"]
    turns = [
        f"between {values[k]:g} and {values[k + 1]:g} the lead goes from {processors[leaders[k]]} to {processors[leaders[k + 1]]}"
        for k in range(len(leaders) - 1)
        if leaders[k] != leaders[k + 1]
    ]
    return f"; {', '.join(turns)}" if turns else f"; {processors[leaders[0]]} leads throughout"


def _policy_table(results: dict[str, Any]) -> str:
    header = [
        "policy",
        "score",
        "95 % interval",
        "energy per task",
        "latency",
        "missed",
        "retention failures",
        "life per 1e6 tasks",
        "rewrites",
    ]
    rows = []
    for name in _ranked(results):
        f = results["evaluation"][name]
        lo, hi = f["score_interval"]
        figures = [
            quantity(f["energy"], "J"),
            quantity(f["latency"], "s"),
            f"{f['missed']:.1%}",
            f"{f['failed']:.2%}",
            f"{1e6 * f['wear']:.3f}",
            f"{f['written']:.1%}",
        ]
        label = html.escape(name)
        rows.append(
            [
                f"<span class=best>{label}</span>" if name == _ranked(results)[0] else label,
                f"{f['score_iqm']:.1f}",
                f"{lo:.1f} .. {hi:.1f}",
                *figures,
            ]
        )
    return _table(header, rows)


def _scoring() -> str:
    from rl.envs.routing import RoutingParams

    p = RoutingParams()
    return f"""<p class=note>Score: interquartile mean of the sum of rewards over {p.max_steps} tasks, bootstrap interval.
    Reward of a task = &minus;({p.energy_weight:g} per J of energy + {p.latency_weight:g} per deadline of latency
    + {p.miss_penalty:g} if the deadline was missed + {p.failure_penalty:g} if the weights were lost before the result
    + {p.wear_weight:g} per chip life of wear).</p>"""


def _cost_table(results: dict[str, Any]) -> str:
    rows = []
    for network in results["settings"]["networks"]:
        for name, c in results["cost"][network].items():
            shown = [
                quantity(c["latency"], "s"),
                quantity(c["energy"], "J"),
                quantity(c["power"], "W"),
                f"{c['utilization']:.2%}",
                c["bound"],
            ]
            rows.append([html.escape(f"{network} on {name}"), *shown, f"{c['memory']:.0%}", quantity(c["write_latency"], "s")])
    note = """<p class=note>Weights resident, junction at 45 C, exact (hard) rounding. "Weight memory" is the share of the chip
    that the network takes. stm32l4r5, edge-gpu and edge-pim are the cpu, gpu and pim of the platform; isaac is for
    comparison.</p>"""
    return _table(["", "latency", "energy", "power", "utilization", "bound", "weight memory", "to write weights"], rows) + note


def _sensitivity_text() -> str:
    return """<p>Elasticity: per cent of the figure per per cent of the parameter, from one reverse pass through the whole model.
    Tile counts take the straight-through slope. Reference temperatures, at which laws are only anchored, are left out.</p>"""


def _heat_text(results: dict[str, Any]) -> str:
    sweep = results["sweep"]
    lo, hi = sweep["ranges"]["temperature"]
    lost_lo, lost_hi = sweep["ranges"]["lost_share_of_budget"]
    return f"""<p>{sweep["points"]:,} combinations of {html.escape(", ".join(sweep["labels"]))}, each 21 minutes of video
    bursts on the GPU (4000 frames of ResNet-8 every 5 s) at 55 C ambient: the memory chip ends between {lo - 273.15:.0f} and
    {hi - 273.15:.0f} C, and its weights have used {lost_lo:.2g} to {lost_hi:.2g} of the hazard budget. Beyond the black line they
    have to be written again. Data: {html.escape(sweep["file"])}.</p>"""


def _profile_table(results: dict[str, Any]) -> str:
    header = ["network", "operations", "MACs (padded)", "MACs (valid)", "parameters", "peak live elements", "at"]
    rows = [
        [
            html.escape(n),
            str(p["operations"]),
            f"{p['macs_padded']:,}",
            f"{p['macs_valid']:,}",
            f"{p['parameters']:,}",
            f"{p['peak_live_elements']:,}",
            html.escape(p["peak_at"]),
        ]
        for n, p in results["profile"].items()
    ]
    return _table(header, rows)
