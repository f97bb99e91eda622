"""TVM's MetaSchedule with the crossbar timing model in the place of a device.

After Liao, Chen, King, "Extending Auto-scheduler to Support Performance Evaluation with Timing Model": TVM proposes
schedules, the law of `costmodel.mapping.sketches` says what they cost, and nothing is compiled or run.

    sketch rule       the loops of a product, fused to M, N and K, are split and ordered in the three stationary ways
    annotation        `sample_perfect_tile` draws the extents; word lines and filters within an array's
    mutation          `MutateTileSize` redraws them
    builder, runner   keep the scheduled module, read the tile sizes off its loops, return seconds of the model
    cost model        the same for a whole generation of candidates in one vectorised call

The last spatial loop of the function is N, the other spatial loops are M, the reductions are K: a matrix product, or a
convolution with channels last. Tiles divide the loops exactly, as TVM's do; `costmodel.tune` knows no such limit.

Needs the extra `tvm`. Its packages are pinned: apache-tvm-ffi 0.1.15 breaks the serialisation of modules (a crash of the
interpreter). TVM's callback RemoveBuildArtifact deletes the PARENT DIRECTORY of an artifact with all that is in it; so each
artifact has a fresh directory of its own, and `tune_with_tvm` does not use that callback.
"""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import importlib.metadata
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from costmodel.cost import Conditions
from costmodel.estimation import estimate
from costmodel.mapping.sketches import Schedule, ScheduleCost, Stationary, default_schedule, schedule_cost
from costmodel.processors.base import Processor, as_arrays
from costmodel.processors.cim import CrossbarChip
from workloads import OpTable


def check_ffi(version: str) -> None:
    """ImportError for a version of apache-tvm-ffi that would crash the interpreter when a module is serialised."""
    if tuple(int(number) for number in version.split(".")[:3]) >= (0, 1, 15):
        raise ImportError(f"apache-tvm-ffi {version} crashes with TVM 0.27; install apache-tvm-ffi==0.1.14.post1")


try:
    check_ffi(importlib.metadata.version("apache-tvm-ffi"))  # before anything of it is loaded
    import tvm
    from tvm.ir.utils import derived_object
    from tvm.s_tir import meta_schedule as ms
except (ModuleNotFoundError, importlib.metadata.PackageNotFoundError) as error:
    raise ImportError(f"costmodel.integrations.tvm needs TVM ({error}); install it with: pip install 'tempo-pim[tvm]'") from None

ROLE = "tempo.role"  # the annotation of a loop: which number of a Schedule its extent is
BATCH = 64  # schedules scored in one call
INFEASIBLE = 1e10  # s, what TVM itself reports for a failed run


class TvmTuning(NamedTuple):
    """What TVM found for one operation. Latencies in seconds under the model."""

    schedule: Schedule
    cost: ScheduleCost
    default: ScheduleCost  # of the chip's own schedule
    start: float  # best latency of TVM's random first population
    typical_start: float  # its median
    predictions: int  # candidates the cost model was asked about
    measured: int  # candidates the runner was asked about
    database: Any  # TVM's, with a record of each measured candidate
    module: Any  # the best one's scheduled IRModule


def tune_with_tvm(
    func: Any,
    hardware: Processor,
    ops: OpTable,
    *,
    trials: int = 32,
    trials_per_round: int = 16,
    population: int = 64,
    seed: int = 1,
    conditions: Conditions = Conditions(),
) -> TvmTuning:
    """Let MetaSchedule search the schedule of `func`, a TIR function with one product, that is fastest on a crossbar chip.

    `ops` is the same operation as a table of one row. `trials` candidates are measured in rounds of `trials_per_round`, chosen by
    an evolutionary search with `population` candidates. Raises ValueError for hardware without crossbars, sizes outside their
    range, or a function that is not the operation in `ops`.
    """
    model = TimingModel(hardware, ops, conditions)
    for name, value in (("trials", trials), ("trials_per_round", trials_per_round), ("population", population), ("seed", seed)):
        if not 1 <= value < 2**31:
            raise ValueError(f"{name} = {value} is outside its range [1, 2147483647]")
    model.check(func)
    predictor = Predictor(model)
    task = ms.TuneContext(
        tvm.IRModule({"main": func.with_attr("global_symbol", "main")}),
        target=tvm.target.Target({"kind": "llvm", "num-cores": 1}),  # of no consequence: nothing is compiled
        space_generator=make_space(model),
        search_strategy=ms.search_strategy.EvolutionarySearch(population_size=population, init_min_unmeasured=population),
        rand_state=seed,
        num_threads=1,
        logger=logging.getLogger(__name__),
    )
    with tempfile.TemporaryDirectory() as directory:
        builder = KeepModule(Path(directory))
        database = ms.tune_tasks(
            tasks=[task],
            task_weights=[1.0],
            work_dir=directory,
            max_trials_global=trials,
            num_trials_per_iter=min(trials, trials_per_round),
            builder=builder,
            runner=TimingRunner(model, builder),
            database="memory",
            cost_model=predictor,
            measure_callbacks=[
                ms.measure_callback.AddToDatabase(),
                ms.measure_callback.UpdateCostModel(),
            ],  # not the default: above
        )
    return _result(model, predictor, database)


def make_space(model: "TimingModel") -> Any:
    """TVM's design space: the sketch rule, no postprocessors, mutations of tile sizes."""
    return ms.space_generator.PostOrderApply(
        sch_rules=[SketchRule(model)], postprocs=[], mutator_probs={ms.mutator.MutateTileSize(): 1.0}
    )


@jax.jit
def _costs(chip: CrossbarChip, ops: OpTable, schedules: Schedule, conditions: Conditions) -> ScheduleCost:
    return jax.vmap(schedule_cost, in_axes=(None, None, 0, None))(chip, ops, schedules, conditions)


class TimingModel:
    """Seconds that one operation takes on a crossbar chip when scheduled as a TIR module says."""

    def __init__(self, hardware: Processor, ops: OpTable, conditions: Conditions = Conditions()) -> None:
        jax.eval_shape(lambda: estimate(hardware, ops, conditions))  # the same demands, without the arithmetic
        if not isinstance(hardware, CrossbarChip):
            raise ValueError(f"TVM schedules crossbars here; hardware is a {type(hardware).__name__}, not a CrossbarChip")
        if ops.n_ops != 1 or not ops.total("macs"):
            raise ValueError(f"ops must be one matrix product, got {ops.n_ops} operations with {ops.total('macs')} MACs")
        self.chip, self.ops, self.conditions = hardware, as_arrays(ops), conditions
        self.sizes = int(ops.m[0]), int(ops.n[0]), int(ops.k[0])
        if int(ops.groups[0]) != 1:
            raise ValueError(f"ops has {int(ops.groups[0])} groups; only a product of one group is scheduled through TVM")

    def check(self, func: Any) -> None:
        """ValueError unless `func` has exactly one product, with the M, N and K of the operation."""
        schedule = tvm.s_tir.Schedule(func)
        names = [block.name_hint for block in _blocks(func.body) if _is_product(block)]
        if len(names) != 1:
            raise ValueError(f"func has {len(names)} blocks with a reduction; exactly 1 is scheduled")
        spatial, reduced = _axes(schedule, schedule.get_sblock(names[0]))
        found = int(np.prod(spatial[:-1], initial=1)), spatial[-1], int(np.prod(reduced))
        if found != self.sizes:
            raise ValueError(f"func has (M, N, K) = {found}, but ops has {self.sizes}")

    def costs(self, schedules: Sequence[Schedule]) -> ScheduleCost:
        """Costs of many schedules, each field (schedules,); scored in batches of one size, so that one program is compiled."""
        columns = [np.asarray(column, np.int32) for column in zip(*schedules, strict=True)]
        parts = []
        for begin in range(0, len(schedules), BATCH):
            at = np.minimum(np.arange(begin, begin + BATCH), len(schedules) - 1)
            parts.append(_costs(self.chip, self.ops, Schedule(*(jnp.asarray(column[at]) for column in columns)), self.conditions))
        return jax.tree.map(lambda *x: jnp.concatenate(x)[: len(schedules)], *parts)

    def seconds(self, modules: Sequence[Any]) -> np.ndarray:
        """Latency (s) of every scheduled module; infinite where the chip cannot hold the schedule."""
        cost = self.costs([self.read(module) for module in modules])
        return np.asarray(jnp.where(cost.feasible, cost.latency, jnp.inf), np.float64)

    def read(self, module: Any) -> Schedule:
        """The schedule that the annotated loops of `module` describe."""
        loops = {str(x.annotations[ROLE]): int(x.extent) for x in _loops(module["main"].body) if ROLE in x.annotations}
        order = list(loops)
        stationary = Stationary.WEIGHTS
        if "blocks" in loops:
            inputs = order.index("turns_k") < order.index("turns_n")
            stationary = Stationary.INPUTS if inputs else Stationary.OUTPUTS
        block = -(-self.sizes[0] // loops.get("blocks", 1))
        numbers = [loops[name] for name in ("word_lines", "filters", "hold_k", "hold_n", "copies")]
        return Schedule(*(np.int32(x) for x in (*numbers, block, stationary)))  # pyright: ignore[reportArgumentType]


@derived_object
class SketchRule(ms.schedule_rule.PyScheduleRule):
    """Three sketches of a product, one for each `Stationary`; blocks without a reduction stay as they are."""

    def __init__(self, model: TimingModel) -> None:
        self.model = model

    def _initialize_with_tune_context(self, context: Any) -> None:
        """Nothing depends on the context."""

    def clone(self) -> Any:
        """A rule for the same model."""
        return SketchRule(self.model)

    def apply(self, schedule: Any, block: Any) -> list[Any]:
        """The sketches, with the annotations drawn at random."""
        if not _is_product(schedule.get(block)):
            return [schedule]
        return [_sketch(schedule.copy(), block, self.model.chip, stationary) for stationary in Stationary]


@derived_object
class KeepModule(ms.builder.PyBuilder):
    """Builds nothing: keeps the scheduled modules, each under the path of an artifact in a fresh directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.modules = directory, {}

    def build(self, inputs: Sequence[Any]) -> list[Any]:
        """One artifact path for every module."""
        return [ms.builder.BuilderResult(self._keep(entry.mod), None) for entry in inputs]

    def _keep(self, module: Any) -> str:
        path = str(Path(tempfile.mkdtemp(dir=self.directory)) / "module")
        self.modules[path] = module
        return path


@derived_object
class TimingRunner(ms.runner.PyRunner):
    """Runs nothing: asks the timing model."""

    def __init__(self, model: TimingModel, builder: Any) -> None:
        self.model, self.builder = model, builder

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """One finished future for every artifact."""
        return [Answer(x) for x in self.model.seconds([self.builder.modules[str(entry.artifact_path)] for entry in inputs])]


@derived_object
class Answer(ms.runner.PyRunnerFuture):
    """The model's answer, known at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def done(self) -> bool:
        """Always."""
        return True

    def result(self) -> Any:
        """Seconds, or why there are none."""
        if np.isfinite(self.seconds):
            return ms.runner.RunnerResult([float(self.seconds)], None)
        return ms.runner.RunnerResult(None, "the chip has too few arrays or registers for this schedule")


@derived_object
class Predictor(ms.cost_model.PyCostModel):
    """TVM's cost model: the timing model itself, so there is nothing to learn. Remembers what it was asked."""

    def __init__(self, model: TimingModel) -> None:
        self.model, self.asked = model, []

    def load(self, path: str) -> None:
        """Nothing to load."""

    def save(self, path: str) -> None:
        """Nothing to save."""

    def update(self, context: Any, candidates: Sequence[Any], results: Sequence[Any]) -> None:
        """Nothing to learn."""

    def predict(self, context: Any, candidates: Sequence[Any]) -> np.ndarray:
        """Higher is better: minus the logarithm of seconds."""
        seconds = self.model.seconds([candidate.sch.mod for candidate in candidates])
        self.asked.append(seconds)
        return -np.log(np.minimum(seconds, INFEASIBLE))


def _sketch(schedule: Any, block: Any, chip: CrossbarChip, stationary: Stationary) -> Any:
    """`schedule` with the loops of `block` fused, split by drawn factors, ordered and annotated."""
    loops = schedule.get_loops(block)
    n_spatial = len(_axes(schedule, block)[0])
    m, n, k = _fuse(schedule, loops[: n_spatial - 1]), loops[n_spatial - 1], _fuse(schedule, loops[n_spatial:])
    if m is None:
        raise ValueError("func has one spatial loop; a product needs M and N")

    def split(loop: Any, names: tuple[str, ...], most: int) -> dict[str, Any]:
        factors = schedule.sample_perfect_tile(loop, n=len(names), max_innermost_factor=most)
        return dict(zip(names, schedule.split(loop, factors), strict=True))

    along_m = ("copies", "vectors") if stationary == Stationary.WEIGHTS else ("blocks", "copies", "vectors")
    parts = split(m, along_m, 2**30)
    parts |= split(n, ("turns_n", "hold_n", "filters"), int(chip.filters_per_array()))
    parts |= split(k, ("turns_k", "hold_k", "word_lines"), int(chip.rows))
    turns = ("turns_k", "turns_n") if stationary == Stationary.INPUTS else ("turns_n", "turns_k")
    order = [
        name for name in ("blocks", *turns, "copies", "vectors", "hold_n", "hold_k", "filters", "word_lines") if name in parts
    ]
    schedule.reorder(*(parts[name] for name in order))
    for name in order:
        schedule.annotate(parts[name], ROLE, name)
    return schedule


def _fuse(schedule: Any, loops: Sequence[Any]) -> Any:
    if not loops:
        return None
    return schedule.fuse(*loops) if len(loops) > 1 else loops[0]


def _axes(schedule: Any, block: Any) -> tuple[list[int], list[int]]:
    """Extents of the spatial and of the reduced axes of a block, in order."""
    spatial, reduced = [], []
    for axis in schedule.get(block).iter_vars:
        (reduced if _is_reduced(axis) else spatial).append(int(axis.dom.extent))
    return spatial, reduced


def _is_reduced(axis: Any) -> bool:
    return int(axis.iter_type) == 2  # IterVar::kCommReduce


def _is_product(block: Any) -> bool:
    return any(_is_reduced(axis) for axis in block.iter_vars)


def _statements(stmt: Any) -> Iterator[Any]:
    """The statement and those inside it, outer ones first."""
    yield stmt
    inner = [getattr(stmt, "body", None), getattr(stmt, "block", None), *getattr(stmt, "seq", ())]
    for child in inner:
        if child is not None:
            yield from _statements(child)


def _loops(stmt: Any) -> Iterator[Any]:
    return (node for node in _statements(stmt) if isinstance(node, tvm.tirx.For))


def _blocks(stmt: Any) -> Iterator[Any]:
    return (node for node in _statements(stmt) if isinstance(node, tvm.s_tir.stmt.SBlock))


def _result(model: TimingModel, predictor: Any, database: Any) -> TvmTuning:
    records = [x for x in database.get_all_tuning_records() if x.run_secs is not None and float(x.run_secs[0]) < INFEASIBLE]
    if not records:
        raise ValueError(f"none of {len(database)} measured schedules fits on the chip; allow more trials")
    best = min(records, key=lambda record: float(record.run_secs[0]))
    module = tvm.s_tir.Schedule(best.workload.mod)
    best.trace.apply_to_schedule(module, remove_postproc=False)
    schedule = model.read(module.mod)
    costs = model.costs([schedule, default_schedule(model.chip, model.ops)])
    first = predictor.asked[0]
    return TvmTuning(
        schedule=jax.tree.map(jnp.asarray, schedule),
        cost=jax.tree.map(lambda x: x[0], costs),
        default=jax.tree.map(lambda x: x[1], costs),
        start=float(first.min()),
        typical_start=float(np.median(first)),
        predictions=sum(map(len, predictor.asked)),
        measured=len(database),
        database=database,
        module=module.mod,
    )
