"""The report's part on schedulers: the answer in a few sentences, the comparison, the ablation, what the policies do."""

import html
from typing import Any

from rl.study.agent_tables import verdict
from rl.study.algorithms import label
from rl.study.comparison import best_of
from rl.study.pages import bullets, table
from rl.study.quantities import quantity

RULES = {
    "cost-greedy": "tries every processor in the model, knowing when the next task comes, and takes the best immediate reward",
    "slack-greedy": 'the largest (deadline - latency) / service time; the seed project calls it "READYS baseline"',
    "threshold": "pim while it is cooler than 85 C, else the coolest other processor",
    "always-...": "one processor for everything",
    "random": "any processor",
}
LEARNED = {
    "dqn": "deep Q-network with double targets and a dueling head",
    "sac": "soft actor-critic over the choice of processor",
    "edge-sched-dqn": "the DQN without its parts: flat, one-step targets, uniform replay; named so by the seed project",
}


def answer(results: dict[str, Any]) -> str:
    """Title, the findings, and what the study is about."""
    s, found, rule = results["settings"], results["evaluation"], results["best_rule"]
    best = best_of(found, results["training"])
    rewards, heat = results["rewards"], results["decisions"]["own_heat"]
    findings = [_who_wins(results, best, rule), _gap(results), _efficiency(results)]
    findings.append(f"What that means: {_compared(found[best], found[rule])}.")
    context = [
        " ".join(_alone(found)),
        f"""Where the temperature comes from: in this stream the work itself warms the chip by less than {heat:.2g} K (99 % of
        states); the rest is the surroundings, {rewards["ambient_lo"] - 273.15:.0f} to {rewards["ambient_hi"] - 273.15:.0f} C,
        drawn for every episode. Heavier work heats more, see below.""",
    ]
    intro = f"""<p>Inference tasks ({html.escape(", ".join(s["networks"]))}) arrive at a small computer whose processors
    ({html.escape(", ".join(results["processors"]))}) share one package. A scheduler sends every task to one of them. Work makes
    power, power makes temperature, and temperature shortens how long the memory cells of the processing-in-memory chip (pim)
    remember the weights: once more than one cell in {1 / results["facts"]["hazard_budget"]:,.0f} has lost its value (the error
    budget), they must be written again, which takes time and wears the cells.</p>"""
    told, background = (bullets([html.escape(line) for line in lines if line]) for lines in (findings, context))
    return f"<h1>Tempo study</h1>{told}<h2>What is scheduled</h2>{intro}{background}"


def _who_wins(results: dict[str, Any], best: str, rule: str) -> str:
    found, s = results["evaluation"], results["settings"]
    a, r = found[best], found[rule]
    less = abs(a["score_iqm"] - r["score_iqm"]) / abs(r["score_iqm"])
    apart = a["score_interval"][0] > r["score_interval"][1] or r["score_interval"][0] > a["score_interval"][1]
    certain = "do not overlap" if apart else "overlap, since hard and easy episodes differ far more than policies do"
    return (
        f"The best learned scheduler, {label(best)}, scores {_score(a)} over {a['runs']} training runs of {s['steps']:,} tasks; "
        f"the best rule, {label(rule)}, {_score(r)} (penalties: nearer to 0 is better): {less:.0%} "
        f"{'less' if a['score_iqm'] > r['score_iqm'] else 'more'} penalty. The 95 % intervals {certain}; on the same episode "
        f"it beats the rule with probability {_percent(a, 'improvement')}."
    )


def ranked(results: dict[str, Any]) -> list[str]:
    """The policies by falling score."""
    return sorted(results["evaluation"], key=lambda name: -results["evaluation"][name]["score_iqm"])


def _gap(results: dict[str, Any]) -> str:
    found = results["evaluation"]
    if "optimal" not in found:
        return ""
    gaps = ", ".join(f"{label(name)} {_percent(found[name], 'gap')}" for name in results["settings"]["algorithms"])
    rule = f"{label(results['best_rule'])} {_percent(found[results['best_rule']], 'gap')}"
    optimal = f"{_score(found['optimal'])}; its value table predicts {found['optimal']['predicted']:.1f}"
    return f"Missing to the optimum of the discretised problem ({optimal}): {gaps}; {rule}."


def _efficiency(results: dict[str, Any]) -> str:
    goal = "optimum" if "optimal" in results["evaluation"] else "best rule"
    parts = [f"{label(name)} {_steps(results['efficiency'][name])}" for name in results["settings"]["algorithms"]]
    return f"Tasks until training has gone 90 % of the way from random to the {goal}: {', '.join(parts)}."


def comparison(results: dict[str, Any]) -> str:
    """Every policy: runs, score, gap, sample efficiency, probability of improvement."""
    found = results["evaluation"]
    rows = []
    for name in ranked(results):
        f = found[name]
        runs, score, gap, improved = (html.escape(text) for text in verdict(f))
        reached = _steps(results["efficiency"][name]) if name in results["efficiency"] else ""
        shown = html.escape(label(name))
        rows.append([f"<b>{shown}</b>" if name in results["training"] else shown, runs, score, gap, improved, reached])
    header = ["policy", "runs", "score", "gap to optimum", f"beats {label(results['best_rule'])}", "tasks to 90 %"]
    s = results["settings"]
    note = f"""<p class=note>Learned schedulers in bold. All play the same {s["episodes"]} episodes. Score: interquartile mean
    over training runs of a run's mean return. Gap: what is missing to the mean return of the value-iteration policy, in per
    cent of it; that policy is optimal for the discretised problem, so a gap may be a little negative. "Beats": probability to
    score more on the same episode, a tie counting half. "Tasks to 90 %": until the learning curve has gone 90 % of the way from
    the random policy to the optimum. In brackets 95 % bootstrap intervals over runs and episodes together.</p>"""
    return table(header, rows) + note


def ablation(results: dict[str, Any]) -> str:
    """The DQN, the same without its parts, and the rule that the seed project compares with."""
    found = results["evaluation"]
    names = [name for name in ("dqn", "edge-sched-dqn", "slack-greedy") if name in found]
    rows = []
    for name in names:
        _, score, gap, improved = (html.escape(text) for text in verdict(found[name]))
        reached = _steps(results["efficiency"][name]) if name in results["efficiency"] else ""
        rows.append([html.escape(label(name)), html.escape((LEARNED | RULES)[name]), score, gap, improved, reached])
    return table(["", "what it is", "score", "gap to optimum", f"beats {label(results['best_rule'])}", "tasks to 90 %"], rows)


def behaviour(results: dict[str, Any]) -> str:
    """What every policy spends and breaks."""
    header = ["policy", "score", "energy per task", "latency", "missed", "retention failures", "life per 1e6 tasks", "rewrites"]
    rows = []
    for name in ranked(results):
        f = results["evaluation"][name]
        figures = [quantity(f["energy"], "J"), quantity(f["latency"], "s"), f"{f['missed']:.1%}", f"{f['failed']:.2%}"]
        figures += [f"{1e6 * f['wear']:.3f}", f"{f['written']:.1%}"]
        rows.append([html.escape(label(name)), f"{f['score_iqm']:.1f}", *figures])
    return table(header, rows)


def scoring(results: dict[str, Any]) -> str:
    """How rewards are made, and what the policies are."""
    p = results["rewards"]
    known = {label(name): text for name, text in (LEARNED | RULES).items() if name in RULES or name in results["training"]}
    return f"""<p class=note>Return: the sum of rewards over an episode's {p["max_steps"]} tasks.
    Reward of a task = &minus;({p["energy_weight"]:g} per J of energy + {p["latency_weight"]:g} per deadline of latency, at most 2
    deadlines + {p["miss_penalty"]:g} if the deadline was missed + {p["failure_penalty"]:g} if the weights were lost before the
    result + {p["wear_weight"]:g} per chip life of wear); wearing a chip out ends the episode and costs
    {p["end_of_life_penalty"]:g}. Latency is from arrival to result, waiting included; energy includes all leakage; rewrites are
    tasks before which weights had to be written.</p>""" + bullets(
        [f"<b>{html.escape(name)}</b>: {html.escape(text)}" for name, text in known.items()], "note"
    )


def _compared(agent: dict[str, Any], rule: dict[str, Any]) -> str:
    forms = (
        ("missed deadlines", lambda f: f"{f['missed']:.1%}"),
        ("energy per task", lambda f: quantity(f["energy"], "J")),
        ("retention failures", lambda f: f"{f['failed']:.2%}"),
        ("chip life per million tasks", lambda f: f"{1e6 * f['wear']:.3f}"),
    )
    return ", ".join(f"{name} {form(agent)} against {form(rule)}" for name, form in forms)


def _alone(found: dict[str, Any]) -> list[str]:
    """What happens if one processor gets everything."""
    return [
        f"Everything on {name.removeprefix('always-')}: {f['missed']:.0%} of deadlines missed, "
        f"{quantity(f['energy'], 'J')} per task, "
        f"weights written before {f['written']:.0%} of tasks."
        for name, f in sorted(found.items())
        if name.startswith("always-")
    ]


def _score(figures: dict[str, Any]) -> str:
    lo, hi = figures["score_interval"]
    return f"{figures['score_iqm']:.1f} [{lo:.1f}, {hi:.1f}]"


def _percent(figures: dict[str, Any], name: str) -> str:
    if name not in figures:
        return "-"
    scale = 100 if name == "improvement" else 1
    value, (lo, hi) = figures[name], figures[f"{name}_interval"]
    return f"{scale * value:.1f} % [{scale * lo:.1f}, {scale * hi:.1f}]"


def _steps(entry: dict[str, Any]) -> str:
    """Steps until the target, with the interval; "not reached" where there are none."""
    shown = [f"{steps:,}" if steps is not None else "not reached" for steps in (entry["steps"], *entry["interval"])]
    return shown[0] if len(set(shown)) == 1 else f"{shown[0]} [{shown[1]}, {shown[2]}]"
