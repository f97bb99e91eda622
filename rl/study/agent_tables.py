"""What `tempo train`, `tempo evaluate` and `tempo study` print about schedulers: a text table, and plain values for --json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import costmodel
from rl.agents.config import TrainingConfig
from rl.agents.program import TrainResult
from rl.agents.records import Metrics
from rl.agents.training import load_agent, train
from rl.envs.routing import SchedulingEnv
from rl.files import check_writable
from rl.references.optimal import solve_routing
from rl.references.rules import baselines
from rl.study.algorithms import algorithm_name, label
from rl.study.comparison import compare
from rl.study.evaluation import EVALUATION_KEY, checked, evaluate, evaluate_each, evaluate_runs, summarise
from rl.study.logs import TrainingLog, counted
from rl.study.progress import Report
from rl.study.quantities import quantity
from rl.study.tables import Printed, render
from workloads import TaskStream, list_networks


def make_env(networks: Sequence[str]) -> SchedulingEnv:
    """The default platform with a stream of the named networks (default: all), observed with foresight."""
    return SchedulingEnv(costmodel.load_platform("edge"), TaskStream(tuple(networks) or list_networks()), foresight=True)


def train_agent(
    out: Path, config: TrainingConfig, seed: int, networks: Sequence[str], progress: Report, log: Path | None = None
) -> Printed:
    """Train an agent into a checkpoint, or resume it; with `log`, every row of metrics goes into that folder."""
    check_writable(out)
    records = None if log is None else TrainingLog(log)

    def report(done: int, total: int, row: Metrics) -> None:
        if records is not None:
            records(done, total, row)
        progress("training", done, total, latest(row))

    chunk = None if log is None else config.log_every
    agent = train(make_env(networks), config, seed=seed, checkpoint=out, progress=report, chunk_steps=chunk)
    returns = np.asarray(agent.metrics.episode_return)[np.asarray(agent.metrics.episodes) > 0]
    first, last = (float(returns[0]), float(returns[-1])) if returns.size else (None, None)
    value = {"checkpoint": str(out), "algorithm": algorithm_name(config), "steps": config.total_steps, "seed": seed}
    value |= {"first_return": first, "last_return": last, "log": None if log is None else str(log)}
    learned = "too short for a whole episode" if first is None else f"return {first:.1f} at first, {last:.1f} at last"
    logged = "" if log is None else f", log in {log}"
    return f"trained {label(value['algorithm'])} for {config.total_steps:,} steps: {learned}; written to {out}{logged}", value


def latest(row: Metrics) -> str:
    """The newest return as progress shows it; nothing before the first episode has ended."""
    value = counted(row)["episode_return"]
    return "" if value is None else f"return {value:.4g}"


def evaluation_table(checkpoints: Sequence[Path], episodes: int, networks: Sequence[str], optimum: bool = True) -> Printed:
    """Scores of the rules, of checkpointed agents and of the optimum on the same episodes, and how they compare."""
    env, key = make_env(networks), jax.random.key(EVALUATION_KEY)
    checked(episodes)
    agents, rules = agents_in(checkpoints, env), baselines(env)
    found = {name: summarise(played) for name, played in evaluate_each(env, rules, key, episodes).items()}
    found |= {name: summarise(evaluate_runs(env, runs, key, episodes)) for name, runs in agents.items()}
    if optimum:
        found["optimal"] = summarise(evaluate(env, solve_routing(env).policy(), key, episodes))
    judged = compare(found, rules, "optimal" if optimum else None)
    return policy_table(judged, env.platform.names), judged


def agents_in(checkpoints: Sequence[Path], env: SchedulingEnv) -> dict[str, list[TrainResult]]:
    """Checkpointed agents by name; those with equal settings are runs of one agent.

    An agent is named after its algorithm, or after its first file where several agents share the algorithm.
    ValueError for a file that is named twice or does not fit.
    """
    runs: dict[TrainingConfig, list[tuple[Path, TrainResult]]] = {}
    for path in checkpoints:
        if checkpoints.count(path) > 1:
            raise ValueError(f"agents: {path} is named twice")
        agent = load_agent(path, env)
        runs.setdefault(agent.config, []).append((path, agent))
    kinds = [algorithm_name(config) for config in runs]
    found = {}
    for kind, members in zip(kinds, runs.values(), strict=True):
        name = kind if kinds.count(kind) == 1 else f"{label(kind)} {members[0][0].stem}"
        found[name if name not in found else f"{name} {len(found)}"] = [agent for _, agent in members]
    return found


def policy_table(judged: Mapping[str, dict[str, Any]], processors: Sequence[str]) -> str:
    """Policies by falling score, with how they compare and what they did."""
    rows = []
    for name, f in judged.items():
        figures = [
            quantity(f["energy"], "J"),
            quantity(f["latency"], "s"),
            f"{100 * f['missed']:.1f} %",
            f"{100 * f['failed']:.2f} %",
            f"{1e6 * f['wear']:.3f}",
        ]
        rows.append([label(name), *verdict(f), *figures, *[f"{100 * s:.0f} %" for s in f["shares"]]])
    header = ["policy", "runs", "score", "gap to optimum", "beats best rule", "energy/task", "latency", "missed", "failed"]
    title = "score: interquartile mean over runs of the mean return; the same episodes for all; [95 % intervals]"
    return render([*header, "wear/1e6 tasks", *processors], rows, title, 1)


def verdict(f: Mapping[str, Any]) -> list[str]:
    """Runs, score, gap and improvement as text, empty where there is none."""
    lo, hi = f["score_interval"]
    texts = [str(f["runs"]), f"{f['score_iqm']:.2f} [{lo:.2f}, {hi:.2f}]"]
    for name, form in (("gap", lambda x: f"{x:.1f}"), ("improvement", lambda x: f"{100 * x:.0f}")):
        if name not in f:
            texts.append("")
            continue
        lo, hi = f[f"{name}_interval"]
        texts.append(f"{form(f[name])} % [{form(lo)}, {form(hi)}]")
    return texts


def study_table(results: Mapping[str, Any], out: Path) -> str:
    """The study's outcome in one table, and where its files are."""
    return policy_table(results["evaluation"], results["processors"]) + f"\nreport: {Path(out) / 'report.html'}"
