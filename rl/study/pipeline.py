"""The study: networks in, report out.

    profiles -> costs -> sensitivities -> sweep -> training (one run per seed) -> evaluation -> decisions -> report

Every stage keeps its result (`stages.py`) and training keeps a checkpoint, so the same command after a crash goes on
where it was and ends with bit-identical `results.json` (on the same machine with the same number of cores).
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import costmodel
from rl.agents.dqn import TrainResult
from rl.agents.dqn_config import DQNConfig
from rl.agents.training import train
from rl.envs.routing import SchedulingEnv
from rl.files import write_json
from rl.references.rules import Policy, baselines
from rl.study import decisions, measures
from rl.study.evaluation import EVALUATION_KEY, agent_policy, evaluate, summarise
from rl.study.plots import draw_plots
from rl.study.report import write_report
from rl.study.settings import StudySettings
from rl.study.stages import StageStore
from workloads import TaskStream

Progress = Callable[[str, int, int], None]  # (what, done, total)

VISIT_KEY, PROBE_KEY = EVALUATION_KEY + 1, EVALUATION_KEY + 2


def run_study(settings: StudySettings, out: Path, progress: Progress = lambda what, done, total: None) -> dict[str, Any]:
    """Run or resume a study in the folder `out`; returns what `results.json` holds.

    Writes report.html, plots/*.png, results.json, sweep.nc, checkpoints/ and timings.json. Raises ValueError if `out` holds
    another study, OSError if it cannot be written.
    """
    out = Path(out)
    stages = StageStore(out, settings)
    platform = costmodel.load_platform(settings.platform)
    env = SchedulingEnv(platform, TaskStream(settings.networks))
    steps = [
        "profile",
        "cost",
        "sensitivity",
        "sweep",
        *[f"train {seed}" for seed in range(settings.seeds)],
        "evaluate",
        "decisions",
        "report",
    ]

    def begin(what: str) -> None:
        progress(what, steps.index(what), len(steps))

    begin("profile")
    results: dict[str, Any] = {"settings": settings.as_dict(), "processors": list(platform.names)}
    results["rewards"] = env.default_params._asdict()
    results["profile"] = stages.run("profile", lambda: {name: measures.profile(name) for name in settings.networks})
    begin("cost")
    results["cost"] = stages.run("cost", lambda: measures.costs(settings.networks, costmodel.list_hardware()))
    results["facts"] = stages.run("facts", lambda: measures.facts(platform))
    begin("sensitivity")
    results["sensitivity"] = stages.run("sensitivity", lambda: measures.sensitivities(platform, settings.networks[-1]))
    begin("sweep")
    results["sweep"] = stages.run("sweep", lambda: measures.sweep_heat_chain(platform, out / "sweep.nc"), out / "sweep.nc")
    agents = _train_all(env, settings, stages, begin, progress)
    results["training"] = {str(seed): stages.run(f"train-{seed}", lambda a=agent: _curve(a)) for seed, agent in agents.items()}
    begin("evaluate")
    policies = baselines(env) | {f"dqn-{seed}": agent_policy(agent) for seed, agent in agents.items()}
    results["evaluation"] = stages.run("evaluate", lambda: _evaluate_all(env, policies, settings.episodes))
    begin("decisions")
    results["decisions"] = stages.run("decisions", lambda: _decide_all(env, policies, results["evaluation"]))
    begin("report")
    write_json(out / "results.json", results)
    start = time.perf_counter()
    plots = draw_plots(results, out)
    write_report(results, plots, out / "report.html")
    stages.note("report", time.perf_counter() - start)
    progress("done", len(steps), len(steps))
    return results


def study_config(settings: StudySettings) -> DQNConfig:
    """The agent's settings in a study: those of `DQNConfig`, for the study's number of steps."""
    return DQNConfig(total_steps=settings.steps)


def _train_all(
    env: SchedulingEnv, settings: StudySettings, stages: StageStore, begin: Any, progress: Progress
) -> dict[int, TrainResult]:
    agents = {}
    for seed in range(settings.seeds):
        begin(f"train {seed}")
        start = time.perf_counter()
        path = stages.out / "checkpoints" / f"dqn-{seed}.npz"
        report = lambda done, total, row, s=seed: progress(f"training seed {s}", done, total)  # noqa: E731
        agents[seed] = train(env, study_config(settings), seed=seed, progress=report, checkpoint=path)
        stages.note(f"training-{seed}", time.perf_counter() - start)
    return agents


def _evaluate_all(env: SchedulingEnv, policies: dict[str, Policy], episodes: int) -> dict[str, Any]:
    key = jax.random.key(EVALUATION_KEY)
    return {name: summarise(evaluate(env, policy, key, episodes)) for name, policy in policies.items()}


def _decide_all(env: SchedulingEnv, policies: dict[str, Policy], evaluation: dict[str, Any]) -> dict[str, Any]:
    """Decisions of the median agent and of the best rule, in the states that agent meets."""
    agents = sorted((name for name in policies if name.startswith("dqn-")), key=lambda name: evaluation[name]["score_iqm"])
    agent = agents[(len(agents) - 1) // 2]
    rule = max((name for name in policies if name not in agents), key=lambda name: evaluation[name]["score_iqm"])
    states, actions = decisions.visit(env, policies[agent], jax.random.key(VISIT_KEY))
    key = jax.random.key(PROBE_KEY)
    return {
        "agent": agent,
        "rule": rule,
        "own_heat": decisions.own_heat(env, policies[agent], jax.random.key(VISIT_KEY)),
        "by_network": decisions.by_network(env, states, actions),
        "probes": {name: decisions.probe(env, policies[name], states, key) for name in (agent, rule)},
    }


def _curve(agent: TrainResult) -> dict[str, Any]:
    """The learning curve: environment steps and mean return of the episodes that ended since the last row."""
    rows = agent.metrics
    valid = np.asarray(rows.episodes) > 0
    return {
        "steps": np.asarray(rows.env_steps)[valid].astype(int).tolist(),
        "return": np.asarray(rows.episode_return, np.float64)[valid].round(6).tolist(),
        "episodes": int(np.sum(np.asarray(rows.episodes))),
    }
