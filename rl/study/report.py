"""The report: one HTML file that opens offline, with every figure and comparison computed from `results.json`."""

import base64
import html
from pathlib import Path
from typing import Any

from rl.files import write_text
from rl.study.quantities import duration, quantity

CSS = """
body{font:16px/1.55 system-ui,sans-serif;color:#222;max-width:1120px;margin:2rem auto;padding:0 1.2rem}
h1{margin-bottom:.2rem}h2{margin-top:2.4rem;border-bottom:1px solid #ddd}
table{border-collapse:collapse;font-size:14px;margin:.6rem 0}th{color:#666;font-weight:600}
td,th{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #eee}td:first-child,th:first-child{text-align:left}
img{max-width:100%}.note{color:#666;font-size:14px}.best{font-weight:700}li{margin:.3rem 0}
"""
RULES = {
    "cost-greedy": "tries every processor in the model, knowing when the next task comes, and takes the best immediate reward",
    "slack-greedy": "the largest (deadline - latency) / service time",
    "threshold": "pim while it is cooler than 85 C, else the coolest other processor",
    "always-...": "one processor for everything",
    "random": "any processor",
}
ON_PLATFORM = {"cpu": "stm32l4r5", "gpu": "edge-gpu", "pim": "edge-pim"}  # processors of the platform among the named hardware


def write_report(results: dict[str, Any], plots: dict[str, Path], path: Path) -> None:
    """Write the report to `path`."""
    write_text(path, render_report(results, plots))


def render_report(results: dict[str, Any], plots: dict[str, Path]) -> str:
    """The report as HTML."""
    sections = [
        _summary(results),
        "<h2>Which processor wins where</h2>" + _why(results) + _image(plots["decisions"]) + _findings(results),
        "<h2>Policies against the same tasks</h2>" + _image(plots["policies"]) + _policy_table(results) + _scoring(results),
        "<h2>What each network costs</h2>" + _image(plots["costs"]) + _cost_table(results),
        "<h2>What matters: sensitivities</h2>" + _sensitivity_text() + _image(plots["sensitivity"]),
        "<h2>Work, power, temperature, retention</h2>" + _heat_text(results) + _image(plots["heat"]),
        "<h2>Training</h2>" + _image(plots["learning"]),
        "<h2>The networks</h2>" + _profile_table(results) + _glossary(),
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
    agent, rule = found[decided["agent"]], found[decided["rule"]]
    a, r = agent["score_iqm"], rule["score_iqm"]
    (low, high), (rule_low, rule_high) = agent["score_interval"], rule["score_interval"]
    apart = low > rule_high or rule_low > high
    certain = "the 95 % intervals do not overlap" if apart else "the 95 % intervals overlap"
    compared = ", ".join(
        f"{name} {form(agent)} against {form(rule)}"
        for name, form in (
            ("missed deadlines", lambda f: f"{f['missed']:.1%}"),
            ("energy per task", lambda f: quantity(f["energy"], "J")),
            ("retention failures", lambda f: f"{f['failed']:.2%}"),
            ("chip life per million tasks", lambda f: f"{1e6 * f['wear']:.3f}"),
        )
    )
    rewards, heat = results["rewards"], decided["own_heat"]
    lines = [
        f"""The scheduler, a DQN, was trained {s["seeds"]} times for {s["steps"]:,} tasks; all policies are judged on the same
        {s["episodes"]} episodes of {rewards["max_steps"]} tasks.""",
        f"""The median agent ({decided["agent"]}) scores {a:.1f} (penalties: nearer to 0 is better), the best rule
        ({decided["rule"]}) {r:.1f}: {abs(a - r) / abs(r):.0%} {"less" if a > r else "more"} penalty; {certain}.""",
        f"What that means: {compared}.",
        " ".join(_alone(found)),
        f"""Where the temperature comes from: in this stream the work itself warms the chip by less than {heat:.2g} K (99 % of
        states); the rest is the surroundings, {rewards["ambient_lo"] - 273.15:.0f} to {rewards["ambient_hi"] - 273.15:.0f} C,
        drawn for every episode. Heavier work heats more, see below.""",
    ]
    intro = f"""<p>Inference tasks ({html.escape(", ".join(s["networks"]))}) arrive at a small computer whose processors
    ({html.escape(", ".join(results["processors"]))}) share one package. A scheduler sends every task to one of them. Work makes
    power, power makes temperature, and temperature shortens how long the memory cells of the processing-in-memory chip (pim)
    remember the weights: once more than one cell in {1 / results["facts"]["hazard_budget"]:,.0f} has lost its value (the error
    budget), they must be written again,
    which takes time and wears the cells.</p>"""
    return "<h1>Tempo study</h1>" + intro + "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def _alone(found: dict[str, Any]) -> list[str]:
    """What happens if one processor gets everything."""
    return [
        f"Everything on {name.removeprefix('always-')}: {f['missed']:.0%} of deadlines missed, "
        f"{quantity(f['energy'], 'J')} per task, "
        f"weights written before {f['written']:.0%} of tasks."
        for name, f in found.items()
        if name.startswith("always-")
    ]


def _why(results: dict[str, Any]) -> str:
    """What speaks for and against each processor, from the costs."""
    costs = results["cost"]

    def span(processor: str, field: str, unit: str) -> str:
        values = [costs[network][ON_PLATFORM[processor]][field] for network in costs]
        return f"{quantity(min(values), unit)} to {quantity(max(values), unit)}"

    facts = results["facts"]
    budget = sorted(facts["budget_lasts"].items(), key=lambda item: float(item[0]))
    lasts = ", ".join(f"{duration(time)} at {celsius} C" for celsius, time in budget)
    units = (("wake_time", "s"), ("wake_energy", "J"), ("linger", "s"))
    wake = {name: quantity(facts["gpu"][name], unit) for name, unit in units}
    together = sum(costs[network]["edge-pim"]["memory"] for network in costs)
    fit = "all networks fit together" if together <= 1 else "not all networks fit together"
    reasons = {
        "pim": f"""{span("pim", "energy", "J")} and {span("pim", "latency", "s")} per inference, but only with the weights on the
        chip. Writing them takes {span("pim", "write_latency", "s")} and wears the cells, {fit}, and heat makes them fade: the
        error budget lasts {lasts}.""",
        "cpu": f"""always ready, {span("cpu", "energy", "J")} and {span("cpu", "latency", "s")}: slow for tight deadlines, and
        a queue builds up.""",
        "gpu": f"""{span("gpu", "latency", "s")} for any network, but waking it costs {wake["wake_time"]} and
        {wake["wake_energy"]}, and it then leaks for {wake["linger"]}, the more the hotter it is.""",
    }
    return "<ul>" + "".join(f"<li><b>{name}</b>: {text}</li>" for name, text in reasons.items()) + "</ul>"


MECHANISMS = {
    "deadline": "a tight deadline rules out the cpu for all but small networks",
    "load": "a waiting queue is drained soonest by the fastest",
    "residency": "with the weights on the chip, pim is fast and nearly free; without, they must be written first",
    "temperature": "heat makes the gpu leak and the weights in the chip fade",
}


def _findings(results: dict[str, Any]) -> str:
    """Sentences on what the agent's choice depends on."""
    decided, processors = results["decisions"], results["processors"]
    agent, items = decided["agent"], []
    for variable, probe in decided["probes"][agent].items():
        first, last = probe["shares"][0], probe["shares"][-1]
        moves = sorted(range(len(processors)), key=lambda i: -abs(last[i] - first[i]))
        parts = ", ".join(f"{processors[i]} {first[i]:.0%} &rarr; {last[i]:.0%}" for i in moves)
        change = f"{html.escape(probe['label'])} from {probe['values'][0]:g} to {probe['values'][-1]:g}"
        met = f"; nine in ten states met lie in {probe['met'][0]:.3g} .. {probe['met'][1]:.3g}" if probe["met"] else ""
        text = f"{change}: {parts}{_turning(probe, processors)}{met}"
        items.append(f"<li><b>{html.escape(variable)}</b> ({MECHANISMS[variable]}): {text}</li>")
    note = f"""<p class=note>Each probe takes states the agent met, changes one thing and asks again, so the curves show what the
    decision depends on, other things being equal; beyond the states it met the agent extrapolates. Upper row: the agent
    ({html.escape(agent)}); lower row: the best rule ({html.escape(decided["rule"])}). Chip temperature is that of the pim's
    junction.</p>"""
    return f"{note}<ul>{''.join(items)}</ul>" + _networks(results)


def _networks(results: dict[str, Any]) -> str:
    """Where the agent sends each network, beside what explains it."""
    shares, processors, costs = results["decisions"]["by_network"], results["processors"], results["cost"]
    pim = processors.index("pim")
    memory = {network: costs[network]["edge-pim"]["memory"] for network in shares}
    kept = [network for network in shares if shares[network][pim] > 0.5]
    text = f"""<p>Where the agent sends each network. All together need {sum(memory.values()):.0%} of the chip"""
    if kept:
        text += f"""; those it mostly sends there ({html.escape(", ".join(kept))}) need {sum(memory[n] for n in kept):.0%}"""
    header = ["network", *processors, "share of the chip", "to write", "energy on cpu", "energy on pim", "latency on cpu"]
    rows = []
    for network, share in shares.items():
        chip, cpu = costs[network]["edge-pim"], costs[network]["stm32l4r5"]
        why = [f"{memory[network]:.0%}", quantity(chip["write_latency"], "s"), quantity(cpu["energy"], "J")]
        why += [quantity(chip["energy"], "J"), quantity(cpu["latency"], "s")]
        rows.append([html.escape(network), *[f"{x:.0%}" for x in share], *why])
    return text + ".</p>" + _table(header, rows)


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


def _scoring(results: dict[str, Any]) -> str:
    p = results["rewards"]
    rules = "".join(f"<li><b>{name}</b>: {text}</li>" for name, text in RULES.items())
    return f"""<p class=note>Score: interquartile mean (the mean of the middle half) of the sum of rewards over an episode's
    {p["max_steps"]} tasks, with its bootstrap interval over episodes; the spread over training runs is that between the dqn rows.
    Reward of a task = &minus;({p["energy_weight"]:g} per J of energy + {p["latency_weight"]:g} per deadline of latency, at most 2
    deadlines + {p["miss_penalty"]:g} if the deadline was missed + {p["failure_penalty"]:g} if the weights were lost before the
    result + {p["wear_weight"]:g} per chip life of wear); wearing a chip out ends the episode and costs
    {p["end_of_life_penalty"]:g}. Latency is from arrival to result, waiting included; energy includes all leakage; rewrites are
    tasks before which weights had to be written.</p><ul class=note>{rules}</ul>"""


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
    {hi - 273.15:.0f} C, and its weights have used {lost_lo:.2g} to {lost_hi:.2g} of the error budget. Beyond the black line they
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


def _glossary() -> str:
    words = {
        "MACs padded, valid": "multiply-accumulates with and without the products whose input is zero padding",
        "peak live elements": "most activation values alive at once, and the operation at which that is",
        "utilization": "useful MACs per second over the processor's peak",
        "bound": "what sets the latency: compute, memory traffic, or overhead (launching operations)",
        "weight memory": "share of the chip's cells that the network's weights take",
        "chip life": "cell writes over the number of writes a cell endures; 1 is the end of the median cell",
    }
    return "<ul class=note>" + "".join(f"<li><b>{word}</b>: {meaning}</li>" for word, meaning in words.items()) + "</ul>"
