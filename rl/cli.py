"""The command line: `tempo profile | cost | sweep | sensitivity | schedule | train | evaluate | route | study`, with --json.

Bad input, an unwritable folder or a full disk is one line on standard error and exit status 2; an interrupt is 130.
Heavy packages are imported inside the commands, so that --help and mistakes answer at once.
"""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

MOST_PES = 100_000  # crossbars; a schedule's work grows with them
TILED, UNTILED = ("memory", "l1", "home", "tile_rule", "training", "timeline"), ("on", "temperature")  # options of `cost`
app = typer.Typer(
    name="tempo",
    help="What work costs on heterogeneous computers with processing-in-memory, and who should run it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Networks = Annotated[str, typer.Option(help="Network names, separated by commas; default: all four of MLPerf Tiny.")]


INTERRUPTED = 130
# typer brings its own copy of click from 0.17 on; its usage errors all descend from this class.
UsageProblem: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def main() -> None:
    """Entry point of the console script."""
    try:
        status = app(standalone_mode=False)
    except SystemExit as ended:
        status = ended.code
    except (typer.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    except UsageProblem as error:
        status = _misused(error)
    except (ValueError, OSError) as error:
        status = _refused(str(error))
    if status == INTERRUPTED:
        print("tempo: interrupted; the same command goes on where it was", file=sys.stderr)
    sys.exit(status if isinstance(status, int) else 0)


def _misused(error: Any) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())
        return 0
    return _refused(error.format_message())


def _refused(message: str) -> int:
    print(f"tempo: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache folder, so that the second run starts at once."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    with contextlib.suppress(OSError, RuntimeError):
        folder = Path(base) / "tempo-pim" / "jax"
        folder.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _emit(value: Any, as_json: bool, text: str) -> None:
    typer.echo(json.dumps(value, indent=1, sort_keys=True) if as_json else text)


@app.command()
def profile(
    network: Annotated[str, typer.Argument(help="A network (resnet8), a kernel (fft n=2^20) or a file: .onnx, .tflite or .nir.")],
    shape: Annotated[
        list[str] | None, typer.Option(help="Of a file's input or symbolic dimension: NAME=1x3x224x224. May be repeated.")
    ] = None,
    on: Annotated[str, typer.Option(help="Processor whose roofline is drawn.")] = "edge-gpu",
    roofline: Annotated[Path | None, typer.Option(help="PNG file for the roofline.")] = None,
    json_: Json = False,
) -> None:
    """Operation counts of a network, and where its operations stand under a processor's roofline.

    Example: tempo profile resnet8 --on edge-gpu --roofline resnet8.png
    """
    from rl.study.profiles import parse_shape, profile_report
    from workloads import resolve

    options = {"shapes": dict(parse_shape(text) for text in shape)} if shape else {}
    table, value = profile_report(resolve(network, **options).table, on, roofline)
    _emit(value, json_, table)


class CostCommand(typer.core.TyperCommand):
    """A command that is told which of its options were given."""

    context_class = typer.Context


@app.command(cls=CostCommand)
def cost(
    context: typer.Context,
    networks: Annotated[list[str] | None, typer.Argument(help="Network names; default: all four.")] = None,
    on: Annotated[list[str] | None, typer.Option(help="Processor name; may be repeated. Default: all.")] = None,
    temperature: Annotated[float, typer.Option(help="Junction temperature in Celsius.")] = 45.0,
    validate: Annotated[bool, typer.Option("--validate", help="Print how the models compare with published figures.")] = False,
    tiling: Annotated[
        bool, typer.Option("--tiling", help="Tiles and double buffering in a small memory instead; the options below go with it.")
    ] = False,
    memory: Annotated[str, typer.Option(help="Memory hierarchy: gap9, siracusa, gap8 or deeploy-test.")] = "gap9",
    l1: Annotated[float | None, typer.Option(help="Bytes of L1; default: the hierarchy's.")] = None,
    home: Annotated[str, typer.Option(help="Where the tensors live: L2, or L3 (through L2).")] = "L2",
    tile_rule: Annotated[str, typer.Option(help="exhaustive, gradient, largest, first, or all, side by side.")] = "exhaustive",
    training: Annotated[bool, typer.Option("--training", help="A training step instead of an inference.")] = False,
    timeline: Annotated[Path | None, typer.Option(help="PNG of the operation that double buffering shortens most.")] = None,
    json_: Json = False,
) -> None:
    """Latency, energy and the active bound of networks on processors; with --tiling, their tiles in a small memory.

    Example: tempo cost resnet8 --on isaac --on stm32l4r5

    Example: tempo cost resnet8 --tiling --training --memory gap9 --timeline resnet8.png
    """
    from rl.study import tables

    _refuse_unused(context, "with" if tiling else "without", UNTILED if tiling else TILED)
    _use_compilation_cache()
    if tiling:
        from rl.study.tilings import published_table, tiling_table

        settings = (networks, memory, l1, home.upper(), tile_rule, training, timeline)
        table, value = published_table() if validate else tiling_table(*settings)
    else:
        table, value = tables.validation_table() if validate else tables.cost_table(networks, on, temperature)
    _emit(value, json_, table)


@app.command()
def sweep(
    hardware: Annotated[str, typer.Argument(help="Processor name, such as isaac.")],
    network: Annotated[str, typer.Argument(help="Network name, such as resnet8.")],
    vary: Annotated[list[str], typer.Option(help="label=start:stop:count (log-spaced where the parameter is), or label=a,b,c.")],
    out: Annotated[Path | None, typer.Option(help="NetCDF file to write.")] = None,
    json_: Json = False,
) -> None:
    """Cost of a network over a grid of any labelled parameters.

    Example: tempo sweep isaac resnet8 --vary rows=32:512:5 --vary bits_per_cell=1,2,4 --out sweep.nc
    """
    from rl.study.tables import sweep_table

    _use_compilation_cache()
    table, value = sweep_table(hardware, network, vary, out)
    _emit(value, json_, table)


@app.command()
def sensitivity(
    hardware: Annotated[str, typer.Argument(help="Processor name, such as isaac.")],
    network: Annotated[str, typer.Argument(help="Network name, such as resnet8.")],
    of: Annotated[str, typer.Option(help="Which figure of the cost: energy, latency, power, ...")] = "energy",
    policy: Annotated[str, typer.Option(help="hard, straight_through, or soft:SHARPNESS.")] = "straight_through",
    json_: Json = False,
) -> None:
    """Gradient and elasticity of a cost in every parameter, largest first.

    Example: tempo sensitivity isaac resnet8 --of latency
    """
    from rl.study.tables import sensitivity_table

    _use_compilation_cache()
    table, value = sensitivity_table(hardware, network, of, policy)
    _emit(value, json_, table)


@app.command()
def schedule(
    network: Annotated[str, typer.Argument(help="Name of a network, such as resnet50.")],
    extra_pes: Annotated[int, typer.Option(help="Crossbars beyond those that hold every layer once.")] = 0,
    crossbar: Annotated[str, typer.Option(help="ROWSxCOLUMNS of one crossbar, or one number for a square.")] = "256",
    rule: Annotated[str, typer.Option(help="Who gets copies: greedy, min_sum, or search (for the makespan itself).")] = "greedy",
    sets: Annotated[
        str, typer.Option(help="Places handed on together: pixel, row, or ROWSxCOLUMNS (0 columns: a whole row).")
    ] = "pixel",
    direction: Annotated[str, typer.Option(help="How copies share a layer: vertical, horizontal or interleaved.")] = "vertical",
    gantt: Annotated[Path | None, typer.Option(help="PNG file for the Gantt chart.")] = None,
    json_: Json = False,
) -> None:
    """Cross-layer schedule of a network on crossbars that hold all of its weights.

    Example: tempo schedule resnet50 --extra-pes 32 --gantt resnet50.png
    """
    from rl.study.schedules import schedule_report

    if not 0 <= extra_pes <= MOST_PES:
        raise ValueError(f"--extra-pes = {extra_pes} crossbars is outside its range [0, {MOST_PES}]")
    places = {"pixel": (1, 1), "row": (1, 0)}.get(sets) or _pair("--sets", sets)
    _use_compilation_cache()
    table, value = schedule_report(network, extra_pes, _pair("--crossbar", crossbar), rule, places, direction, gantt)
    _emit(value, json_, table)


@app.command()
def train(
    algorithm: Annotated[str, typer.Option(help="dqn, sac, or edge-sched-dqn (the flat ablation).")] = "dqn",
    steps: Annotated[int, typer.Option(help="Environment steps.")] = 200_000,
    seed: Annotated[int, typer.Option(help="Seed of the whole run.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A training setting as name=value; may be repeated.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Checkpoint to write; one of the same run is resumed. Default: ALGORITHM.npz.")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Folder for metrics.csv and a TensorBoard event file.")] = None,
    networks: Networks = "",
    json_: Json = False,
) -> None:
    """Train a scheduler on device.

    Example: tempo train --algorithm sac --steps 100000 --set batch_size=256 --log runs/sac
    """
    from rl.study.agent_tables import train_agent
    from rl.study.algorithms import algorithm_config, parse_settings
    from rl.study.progress import live_progress

    config = algorithm_config(algorithm, steps, parse_settings(set_ or []))
    _use_compilation_cache()
    with live_progress() as progress:
        table, value = train_agent(out or Path(f"{algorithm}.npz"), config, seed, _split(networks), progress, log)
    _emit(value, json_, table)


@app.command()
def evaluate(
    checkpoints: Annotated[
        list[Path] | None, typer.Argument(help="Checkpoints of trained agents; without any, only the rules play.")
    ] = None,
    agents: Annotated[
        str, typer.Option(help="More checkpoints, separated by commas; equal settings are runs of one agent.")
    ] = "",
    episodes: Annotated[int, typer.Option(help="Episodes of 256 tasks, the same for every policy.")] = 256,
    optimum: Annotated[bool, typer.Option(help="Solve for the optimum by value iteration and report the gaps to it.")] = True,
    networks: Networks = "",
    json_: Json = False,
) -> None:
    """Play rules, trained agents and the optimum against the same tasks.

    Example: tempo evaluate --agents dqn.npz,sac.npz --episodes 128
    """
    from rl.study.agent_tables import evaluation_table

    _use_compilation_cache()
    named = [*(checkpoints or []), *(Path(name) for name in _split(agents, "--agents", "checkpoint"))]
    table, value = evaluation_table(named, episodes, _split(networks), optimum)
    _emit(value, json_, table)


@app.command()
def route(
    task: Annotated[str, typer.Argument(help="What to run: a network (resnet8), a kernel (fft, gemm 512x512x512) or a file.")],
    temperature: Annotated[float, typer.Option(help="Temperature of every junction in Celsius.")] = 45.0,
    deadline: Annotated[float, typer.Option(help="Seconds until the result is due.")] = 0.1,
    load: Annotated[
        float, typer.Option(help="Seconds of work that wait on every processor; 0: none (of networks: all asleep).")
    ] = 0.0,
    gap: Annotated[float, typer.Option(help="Mean seconds between tasks.")] = 0.3,
    resident: Annotated[bool, typer.Option(help="Are the weights on the memory chip, freshly written?")] = True,
    agent: Annotated[
        Path | None, typer.Option(help="Checkpoint of the agent that decides; without one, the reward of this task does.")
    ] = None,
    networks: Networks = "",
    json_: Json = False,
) -> None:
    """Where one task should run, why, and what every alternative would cost.

    Example: tempo route resnet8 --temperature 45 --agent dqn.npz

    Example: tempo route "fft n=2^20" --temperature 45
    """
    from rl.study.routes import route_table

    _use_compilation_cache()
    table, value = route_table(task, temperature, deadline, load, gap, resident, agent, _split(networks))
    _emit(value, json_, table)


@app.command()
def study(
    networks: Networks = "",
    steps: Annotated[int, typer.Option(help="Environment steps of every training run.")] = 200_000,
    seeds: Annotated[int, typer.Option(help="Independent training runs of every algorithm.")] = 3,
    episodes: Annotated[int, typer.Option(help="Evaluation episodes of 256 tasks.")] = 256,
    algorithms: Annotated[str, typer.Option(help="Learned schedulers, separated by commas; default: all.")] = "",
    optimum: Annotated[bool, typer.Option(help="Solve for the optimum by value iteration and report the gaps to it.")] = True,
    out: Annotated[Path, typer.Option(help="Folder for the report and the data.")] = Path("study"),
    json_: Json = False,
) -> None:
    """Networks in, report out: costs, sensitivities, schedulers trained and judged against rules and the optimum, plots, data.

    Example: tempo study --networks resnet8,ds-cnn --steps 100000 --out study

    Killed or interrupted, the same command goes on where it was and ends with the same results.
    """
    from rl.study.agent_tables import study_table
    from rl.study.algorithms import ALGORITHMS
    from rl.study.pipeline import run_study
    from rl.study.progress import live_progress
    from rl.study.settings import StudySettings
    from workloads import list_networks

    _use_compilation_cache()
    learned = _split(algorithms, "--algorithms", "algorithm") or tuple(ALGORITHMS)
    settings = StudySettings(_split(networks) or list_networks(), steps, seeds, episodes, learned, optimum)
    with live_progress() as progress:
        results = run_study(settings, out, progress)
    _emit(results, json_, study_table(results, out))


def _refuse_unused(context: typer.Context, how: str, names: tuple[str, ...]) -> None:
    """ValueError for an option of `tempo cost` that was given but means nothing with, or without, --tiling."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP"):
            raise ValueError(f"--{name.replace('_', '-')} means nothing {how} --tiling")


def _pair(option: str, text: str) -> tuple[int, int]:
    """Two whole numbers, written 256x128, or one for both."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"{option} = {text!r} is not a whole number or ROWSxCOLUMNS")
    return int(parts[0]), int(parts[-1])


def _split(text: str, option: str = "--networks", kind: str = "network") -> tuple[str, ...]:
    """The names in a comma-separated list; none if the option was not given."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if text and not names:
        raise ValueError(f"{option} {text!r} names no {kind}")
    return names
