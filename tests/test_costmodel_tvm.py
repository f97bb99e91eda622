"""MetaSchedule with the timing model: a real run on a convolution and a matrix product, and the directory that must survive."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm", reason="TVM is not installed; its row of the checks installs it: pip install 'tempo-pim[tvm]'")

from tvm import te
from tvm.s_tir import Schedule as Loops
from tvm.s_tir import meta_schedule as ms
from tvm.target import Target

from costmodel import Conditions, CrossbarChip, load_hardware, tune
from costmodel.integrations import tvm as ours
from costmodel.mapping.sketches import Stationary, schedule_cost
from workloads import OpKind, OpTable, make_table

CHIP = CrossbarChip(scope="layer")


def matmul(m: int, k: int, n: int):
    """A TIR function: M x K times K x N."""
    a, b, r = te.placeholder((m, k), name="a"), te.placeholder((k, n), name="b"), te.reduce_axis((0, k), name="r")
    return te.create_prim_func([a, b, te.compute((m, n), lambda i, j: te.sum(a[i, r] * b[r, j], axis=r), name="product")])


def conv(size: int, inputs: int, outputs: int, kernel: int):
    """A TIR function: a convolution, channels last, of an input padded beforehand."""
    wide = size + kernel - 1
    x, w = te.placeholder((1, wide, wide, inputs), name="x"), te.placeholder((kernel, kernel, inputs, outputs), name="w")
    i, j, c = (te.reduce_axis((0, extent)) for extent in (kernel, kernel, inputs))
    body = lambda b, y, z, o: te.sum(x[b, y + i, z + j, c] * w[i, j, c, o], axis=[i, j, c])  # noqa: E731
    return te.create_prim_func([x, w, te.compute((1, size, size, outputs), body, name="product")])


def operation(m: int, k: int, n: int, kind: OpKind, inputs: float) -> OpTable:
    macs = float(m) * k * n
    return make_table([dict(kind=kind, m=m, n=n, k=k, macs=macs, flops=2 * macs, inputs=inputs, outputs=float(m) * n)])


CASES = {
    "convolution": (conv(28, 32, 64, 3), operation(784, 288, 64, OpKind.CONV, 30 * 30 * 32)),
    "product": (matmul(256, 256, 128), operation(256, 256, 128, OpKind.MATMUL, 256 * 256)),
}


@pytest.fixture(scope="module", params=CASES)
def tuned(request) -> tuple[OpTable, ours.TvmTuning]:
    func, table = CASES[request.param]
    return table, ours.tune_with_tvm(func, CHIP, table, trials=32, population=64, seed=1)


def test_the_tuner_beats_its_random_start(tuned):
    """At least 1.2 times the best and 10 times the median of TVM's first population; `bench_tuning.py` states the factors."""
    _, result = tuned
    assert 1.2 * float(result.cost.latency) <= result.start
    assert 10 * float(result.cost.latency) <= result.typical_start
    assert float(result.cost.latency) < float(result.default.latency)


def test_every_trial_is_measured_by_the_model(tuned):
    _, result = tuned
    assert result.measured == len(result.database) == 32
    assert result.predictions >= 64
    seconds = [float(record.run_secs[0]) for record in result.database.get_all_tuning_records()]
    np.testing.assert_allclose(min(seconds), result.cost.latency, rtol=1e-6)


def test_the_best_module_is_read_back(tuned):
    table, result = tuned
    again = ours.TimingModel(CHIP, table).read(result.module)
    assert tuple(map(int, again)) == tuple(map(int, result.schedule))
    np.testing.assert_allclose(schedule_cost(CHIP, table, result.schedule).latency, result.cost.latency, rtol=1e-6)


def test_tvm_does_not_beat_the_search_that_knows_more_tiles(tuned):
    table, result = tuned
    assert float(tune(CHIP, table, generations=64).cost.latency[0]) <= float(result.cost.latency) * (1 + 1e-6)


def test_the_schedule_is_read_off_the_loops():
    """Of a nest made by hand: M = 8 x 4 x 8, N = 2 x 4 x 16, K = 2 x 1 x 128, with the inputs stationary."""
    loops = Loops(matmul(256, 256, 128))
    block = loops.get_sblock("product")
    m, n, k = loops.get_loops(block)
    names = ("blocks", "copies", "vectors"), ("turns_n", "hold_n", "filters"), ("turns_k", "hold_k", "word_lines")
    factors = [8, 4, 8], [2, 4, 16], [2, 1, 128]
    part = {}
    for loop, name, factor in zip((m, n, k), names, factors, strict=True):
        part |= dict(zip(name, loops.split(loop, factor), strict=True))
    order = ("blocks", "turns_k", "turns_n", "copies", "vectors", "hold_n", "hold_k", "filters", "word_lines")
    loops.reorder(*(part[name] for name in order))
    for name in order:
        loops.annotate(part[name], ours.ROLE, name)
    read = ours.TimingModel(CHIP, CASES["product"][1]).read(loops.mod)
    assert tuple(map(int, read)) == (128, 16, 1, 4, 4, 32, Stationary.INPUTS)


def test_a_schedule_that_does_not_fit_is_a_failed_run():
    func, table = CASES["product"]
    small = ours.TimingModel(CrossbarChip(elements=1, units=1, arrays=1, scope="layer"), table)
    context = ms.TuneContext(
        func, target=Target("llvm"), space_generator=ours.make_space(small), search_strategy="replay-trace", num_threads=1
    )
    seconds = small.seconds([schedule.mod for schedule in context.generate_design_space()])
    assert len(seconds) == len(Stationary)
    result = ours.Answer(np.inf).result()
    assert result.run_secs is None
    assert "too few arrays" in str(result.error_msg)


# The directory --------------------------------------------------------------------------------------------------------


def test_every_artifact_has_a_directory_of_its_own(tmp_path):
    builder = ours.KeepModule(tmp_path)
    module = Loops(CASES["product"][0]).mod
    inputs = [ms.builder.BuilderInput(module, Target("llvm"))] * 5
    parents = [Path(str(result.artifact_path)).parent for result in builder.build(inputs)]
    assert len(set(parents)) == 5
    assert all(parent.parent == tmp_path and not list(parent.iterdir()) for parent in parents)


def test_tvms_own_callbacks_cannot_delete_what_lies_beside(tmp_path):
    """RemoveBuildArtifact, one of TVM's defaults, removes the parent directory of every artifact: here, nothing else."""
    func, table = CASES["product"]
    shared, work = tmp_path / "shared", tmp_path / "work"
    shared.mkdir(), work.mkdir()
    (shared / "precious").write_text("kept")
    model = ours.TimingModel(CHIP, table)
    builder = ours.KeepModule(shared)
    task = ms.TuneContext(
        func,
        target=Target("llvm"),
        space_generator=ours.make_space(model),
        search_strategy="replay-trace",
        num_threads=1,
        rand_state=1,
    )
    ms.tune_tasks(
        tasks=[task],
        task_weights=[1.0],
        work_dir=str(work),
        max_trials_global=4,
        builder=builder,
        runner=ours.TimingRunner(model, builder),
        database="memory",
        cost_model=ours.Predictor(model),
        measure_callbacks="default",
    )
    assert (shared / "precious").read_text() == "kept"
    assert [entry.name for entry in shared.iterdir()] == ["precious"]  # it did run, and took the artifacts' directories


def test_the_removing_callback_is_not_used(monkeypatch):
    used = []

    def record(*_, measure_callbacks, **__):
        used.extend(type(callback) for callback in measure_callbacks)
        raise InterruptedError

    monkeypatch.setattr(ms, "tune_tasks", record)
    func, table = CASES["product"]
    with pytest.raises(InterruptedError):
        ours.tune_with_tvm(func, CHIP, table)
    assert used == [ms.measure_callback.AddToDatabase, ms.measure_callback.UpdateCostModel]


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.1.15", "0.1.15.post2", "0.2.0"])
def test_a_crashing_ffi_is_refused_before_it_crashes(version):
    with pytest.raises(ImportError, match=r"apache-tvm-ffi .* crashes with TVM 0.27; install apache-tvm-ffi==0.1.14.post1"):
        ours.check_ffi(version)
    ours.check_ffi("0.1.14.post1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(hardware=load_hardware("edge-gpu")), "hardware is a Roofline, not a CrossbarChip"),
        (dict(func=matmul(8, 8, 8)), r"func has \(M, N, K\) = \(8, 8, 8\), but ops has \(256, 128, 256\)"),
        (dict(ops=make_table([dict(flops=1.0)])), "ops must be one matrix product, got 1 operations with 0 MACs"),
        (dict(trials=0), r"trials = 0 is outside its range \[1, 2147483647\]"),
        (dict(conditions=Conditions(resident=2.0)), "conditions.resident = 2"),
    ],
)
def test_bad_input_is_refused_in_one_line(changes, message):
    func, table = CASES["product"]
    arguments = dict(func=func, hardware=CHIP, ops=table) | changes
    with pytest.raises(ValueError, match=message) as error:
        ours.tune_with_tvm(arguments.pop("func"), arguments.pop("hardware"), arguments.pop("ops"), **arguments)
    assert "\n" not in str(error.value)
