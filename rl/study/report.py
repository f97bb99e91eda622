"""The report: one HTML file that opens offline, with every figure and comparison computed from `results.json`."""

import html
from pathlib import Path
from typing import Any

from rl.files import write_text
from rl.study import report_schedulers as schedulers
from rl.study.algorithms import run_label
from rl.study.pages import image, page, table
from rl.study.quantities import duration, quantity

ON_PLATFORM = {"cpu": "stm32l4r5", "gpu": "edge-gpu", "pim": "edge-pim"}  # processors of the platform among the named hardware


def write_report(results: dict[str, Any], plots: dict[str, Path], path: Path) -> None:
    """Write the report to `path`."""
    write_text(path, render_report(results, plots))


def render_report(results: dict[str, Any], plots: dict[str, Path]) -> str:
    """The report as HTML."""
    sections = [
        schedulers.answer(results),
        "<h2>Schedulers compared</h2>" + schedulers.comparison(results) + image(plots["learning"]) + image(plots["policies"]),
        "<h2>What the parts of the DQN add</h2>" + schedulers.ablation(results) if "dqn" in results["training"] else "",
        "<h2>Which processor wins where</h2>" + _why(results) + image(plots["decisions"]) + _findings(results),
        "<h2>What the policies do</h2>" + schedulers.behaviour(results) + schedulers.scoring(results),
        "<h2>What each network costs</h2>" + image(plots["costs"]) + _cost_table(results),
        "<h2>What matters: sensitivities</h2>" + _sensitivity_text() + image(plots["sensitivity"]),
        "<h2>Work, power, temperature, retention</h2>" + _heat_text(results) + image(plots["heat"]),
        "<h2>The networks</h2>" + _profile_table(results) + _glossary(),
    ]
    return page("Tempo study", sections)


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
    ({html.escape(run_label(agent))}); lower row: the best rule ({html.escape(decided["rule"])}). Chip temperature is that of the
    pim's junction.</p>"""
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
    return text + ".</p>" + table(header, rows)


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
    return table(["", "latency", "energy", "power", "utilization", "bound", "weight memory", "to write weights"], rows) + note


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
    return table(header, rows)


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
