"""The study: networks in, report out.

    profiles -> costs -> sensitivities -> sweep -> training (algorithms x seeds) and optimum -> evaluation -> decisions -> report

Every stage keeps its result (`stages.py`) and training keeps checkpoints, so the same command after a crash goes on
where it was and ends with bit-identical `results.json` (on the same machine with the same number of cores).
"""

import time
from pathlib import Path
from typing import Any

import jax

import costmodel
from rl.agents.program import TrainResult
from rl.envs.routing import SchedulingEnv
from rl.files import write_json
from rl.references.optimal import predicted_scores, solve_routing, starts
from rl.references.rules import Policy, baselines
from rl.study import decisions, measures
from rl.study.algorithms import algorithm_config
from rl.study.comparison import best_of, compare, median_run
from rl.study.evaluation import EVALUATION_KEY, agent_policy, evaluate, evaluate_each, evaluate_runs, summarise
from rl.study.learning import learning_curves, sample_efficiency
from rl.study.plots import draw_plots
from rl.study.progress import Report, silent
from rl.study.report import write_report
from rl.study.runs import train_all
from rl.study.settings import StudySettings
from rl.study.stages import StageStore
from workloads import TaskStream

STEPS = ("profile", "cost", "sensitivity", "sweep", "training", "evaluation", "decisions", "report")
COMPARED = ("stm32l4r5", "edge-gpu", "edge-pim", "isaac", "isaac-ce", "puma", "neurram")  # `tempo cost` knows all the others
VISIT_KEY, PROBE_KEY = EVALUATION_KEY + 1, EVALUATION_KEY + 2
Agents = dict[str, list[TrainResult]]  # training runs by algorithm


def run_study(settings: StudySettings, out: Path, progress: Report = silent) -> dict[str, Any]:
    """Run or resume a study in the folder `out`; returns what `results.json` holds.

    Writes report.html, plots/*.png, results.json, sweep.nc, checkpoints/ and timings.json. Raises ValueError if `out` holds
    another study, OSError if it cannot be written.
    """
    out = Path(out)
    stages = StageStore(out, settings)
    env = SchedulingEnv(costmodel.load_platform(settings.platform), TaskStream(settings.networks), foresight=True)
    results: dict[str, Any] = {"settings": settings.as_dict(), "processors": list(env.platform.names)}
    results["rewards"] = env.default_params._asdict()
    begin = lambda what: progress(what, STEPS.index(what), len(STEPS))  # noqa: E731
    _measure(results, env, settings, stages, begin)
    begin("training")
    configs = {name: algorithm_config(name, settings.steps) for name in settings.algorithms}
    solve = lambda: stages.run("optimum", lambda: _optimum(env, settings.episodes))  # noqa: E731
    meanwhile = solve if settings.optimum else lambda: None
    agents = train_all(env, configs, settings.seeds, out / "checkpoints", progress, stages.note, meanwhile)
    curves = lambda runs: learning_curves([run.metrics for run in runs])  # noqa: E731
    results["training"] = {name: stages.run(f"train-{name}", lambda r=runs: curves(r)) for name, runs in agents.items()}
    _judge(results, env, settings, stages, agents, {"optimal": solve()} if settings.optimum else {}, begin)
    begin("report")
    write_json(out / "results.json", results)
    start = time.perf_counter()
    plots = draw_plots(results, out)
    write_report(results, plots, out / "report.html")
    stages.note("report", time.perf_counter() - start)
    progress("done", len(STEPS), len(STEPS))
    return results


def _measure(results: dict[str, Any], env: SchedulingEnv, settings: StudySettings, stages: StageStore, begin: Any) -> None:
    """What needs no training: profiles, costs, sensitivities, the swept heat chain."""
    networks, out = settings.networks, stages.out
    begin("profile")
    results["profile"] = stages.run("profile", lambda: {name: measures.profile(name) for name in networks})
    begin("cost")
    results["cost"] = stages.run("cost", lambda: measures.costs(networks, COMPARED))
    results["facts"] = stages.run("facts", lambda: measures.facts(env.platform))
    begin("sensitivity")
    results["sensitivity"] = stages.run("sensitivity", lambda: measures.sensitivities(env.platform, networks[-1]))
    begin("sweep")
    results["sweep"] = stages.run("sweep", lambda: measures.sweep_heat_chain(env.platform, out / "sweep.nc"), out / "sweep.nc")


def _judge(
    results: dict[str, Any],
    env: SchedulingEnv,
    settings: StudySettings,
    stages: StageStore,
    agents: Agents,
    found: dict[str, Any],
    begin: Any,
) -> None:
    """All policies on the same episodes as those `found`, how they compare, when they had learned, and what they decide."""
    key, rules = jax.random.key(EVALUATION_KEY), baselines(env)
    optimum = "optimal" if found else None
    begin("evaluation")

    def played() -> dict[str, Any]:
        alone = {name: summarise(played) for name, played in evaluate_each(env, rules, key, settings.episodes).items()}
        return alone | {name: summarise(evaluate_runs(env, runs, key, settings.episodes)) for name, runs in agents.items()}

    found = found | stages.run("evaluation", played)
    results["evaluation"] = judged = compare(found, rules, optimum)
    results["best_rule"] = rule = best_of(judged, rules)
    goal = judged[optimum or rule]["score_iqm"]
    results["efficiency"] = {
        name: sample_efficiency(curves, judged["random"]["score_iqm"], goal) for name, curves in results["training"].items()
    }
    begin("decisions")
    results["decisions"] = stages.run("decisions", lambda: _decisions(env, agents, rules, judged, rule))


def _optimum(env: SchedulingEnv, episodes: int) -> dict[str, Any]:
    """The value-iteration policy's episodes, and the mean score that its table predicts for them."""
    optimum, key = solve_routing(env), jax.random.key(EVALUATION_KEY)
    predicted = predicted_scores(optimum, starts(env, key, episodes))
    return summarise(evaluate(env, optimum.policy(), key, episodes)) | {"predicted": float(predicted.mean())}


def _decisions(env: SchedulingEnv, agents: Agents, rules: dict[str, Policy], judged: dict[str, Any], rule: str) -> dict[str, Any]:
    """Decisions of the best algorithm's median run and of the best rule, in the states that agent meets."""
    name = best_of(judged, agents)
    seed = median_run(judged[name]["scores"])
    agent, key = agent_policy(agents[name][seed]), jax.random.key(PROBE_KEY)
    states, actions = decisions.visit(env, agent, jax.random.key(VISIT_KEY))
    return {
        "agent": f"{name}-{seed}",
        "rule": rule,
        "own_heat": decisions.own_heat(env, agent, jax.random.key(VISIT_KEY)),
        "by_network": decisions.by_network(env, states, actions),
        "probes": {
            who: decisions.probe(env, policy, states, key) for who, policy in ((f"{name}-{seed}", agent), (rule, rules[rule]))
        },
    }
