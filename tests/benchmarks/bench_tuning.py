"""tune(): factors over the random start, random search and the chip's own schedule; distance from the optimum; evaluations/s.

Under the model, at equal evaluations, geometric mean over `SEEDS` keys. The last lines are TVM's MetaSchedule on the same
law, if TVM is installed.
"""

import jax
import numpy as np
from timing import best, one_core, report

import costmodel
from workloads import OpKind, OpTable, load, make_table

SEEDS = 10
SMALL = dict(elements=1, units=3, arrays=8, rows=16, cols=32, weight_bits=8, input_bits=8, write_arrays=2)
CHIPS = {
    "isaac, copies written": costmodel.CrossbarChip(scope="layer"),
    "isaac, source's pool": costmodel.CrossbarChip(scope="pe"),
    "edge-pim": costmodel.load_hardware("edge-pim"),
}


def operation(m: int, k: int, n: int, kind: OpKind, inputs: float) -> OpTable:
    macs = float(m) * k * n
    return make_table([dict(kind=kind, m=m, n=n, k=k, macs=macs, flops=2 * macs, inputs=inputs, outputs=float(m) * n)])


OPS = {
    "convolution 56x56 64->64 3x3": operation(3136, 576, 64, OpKind.CONV, 58 * 58 * 64),
    "product 512x512x512": operation(512, 512, 512, OpKind.MATMUL, 2 * 512 * 512),
}


def mean(ratios: np.ndarray) -> float:
    """Geometric."""
    return float(np.exp(np.mean(np.log(ratios))))


def many_keys(chip: costmodel.CrossbarChip, table: OpTable, method: str, **sizes: int) -> list[costmodel.Tuning]:
    return [costmodel.tune(chip, table, jax.random.key(seed), method=method, **sizes) for seed in range(SEEDS)]


def factors() -> None:
    """Of one operation on each chip."""
    for chip_name, chip in CHIPS.items():
        for name, table in OPS.items():
            runs, blind = many_keys(chip, table, "evolution"), many_keys(chip, table, "random")
            found = np.asarray([run.history[-1][0] for run in runs])
            report(
                "tuning",
                hardware=chip_name,
                operation=name,
                evaluations=runs[0].evaluations,
                best_start_over_best=mean(np.asarray([run.history[0][0] for run in runs]) / found),
                median_start_over_best=mean(np.asarray([run.typical_start[0] for run in runs]) / found),
                random_over_best=mean(np.asarray([run.history[-1][0] for run in blind]) / found),
                default_over_best=float(runs[0].default.latency[0]) / mean(found),
                worst_key_over_best_key=float(found.max() / found.min()),
            )


def small_operations(count: int = 6) -> OpTable:
    """Operations whose schedules can all be tried."""
    rows = []
    for i, size in enumerate(np.random.default_rng(0).integers((5, 10, 5), (40, 50, 20), (count, 3))):
        m, k, n = (float(x) for x in size)
        kind = OpKind.DENSE if i % 2 else OpKind.MATMUL
        rows.append(dict(kind=kind, m=m, k=k, n=n, macs=m * k * n, flops=2 * m * k * n, inputs=m * k, outputs=m * n))
    return make_table(rows)


def optimum() -> None:
    """Distance from the exhaustive optimum on small operations: share of keys that reach it, and the excess."""
    chip, table = costmodel.CrossbarChip(**SMALL, scope="layer"), small_operations()
    exact = costmodel.tune(chip, table, method="exhaustive")
    for method, generations in (("evolution", 8), ("random", 8), ("evolution", 32), ("random", 32)):
        runs = many_keys(chip, table, method, population=64, generations=generations)
        excess = np.stack([np.asarray(run.history[-1]) for run in runs]) / np.asarray(exact.history[0])
        report(
            "tuning_optimum",
            method=method,
            operations=table.n_ops,
            evaluations=runs[0].evaluations,
            candidates=exact.evaluations,
            reached=float(np.mean(excess < 1 + 1e-6)),
            mean_over_optimum=mean(excess),
            worst_over_optimum=float(excess.max()),
        )


def rate() -> None:
    """Evaluations per second, every part of the search included."""
    chip = CHIPS["isaac, copies written"]
    for name, table in {**OPS, "resnet8, all operations": load("resnet8")}.items():
        for population in (256, 4096):
            count = costmodel.tune(chip, table, population=population).evaluations * table.n_ops
            seconds = best(lambda: costmodel.tune(chip, table, population=population).history, repeat=3)
            report("tuning_rate", operation=name, population=population, evaluations=count, evaluations_per_s=count / seconds)


def with_tvm() -> None:
    """MetaSchedule's random start over its best, and its best over ours."""
    try:
        from tvm import te

        from costmodel.integrations.tvm import tune_with_tvm
    except ImportError as error:
        report("tuning_tvm", skipped=str(error))
        return
    x, w = te.placeholder((1, 58, 58, 64)), te.placeholder((3, 3, 64, 64))
    i, j, c = (te.reduce_axis((0, extent)) for extent in (3, 3, 64))
    body = te.compute((1, 56, 56, 64), lambda b, y, z, o: te.sum(x[b, y + i, z + j, c] * w[i, j, c, o], axis=[i, j, c]))
    p, q, r = te.placeholder((512, 512)), te.placeholder((512, 512)), te.reduce_axis((0, 512))
    product = te.compute((512, 512), lambda a, b: te.sum(p[a, r] * q[r, b], axis=r))
    funcs = te.create_prim_func([x, w, body]), te.create_prim_func([p, q, product])
    for chip_name, chip in CHIPS.items():
        for func, (name, table) in zip(funcs, OPS.items(), strict=True):
            found = tune_with_tvm(func, chip, table, trials=64)
            latency, ours = float(found.cost.latency), float(costmodel.tune(chip, table).cost.latency[0])
            report(
                "tuning_tvm",
                hardware=chip_name,
                operation=name,
                predictions=found.predictions,
                measured=found.measured,
                best_start_over_best=found.start / latency,
                median_start_over_best=found.typical_start / latency if np.isfinite(found.typical_start) else None,
                default_over_best=float(found.default.latency) / latency,
                best_over_ours=latency / ours,
            )


def main() -> None:
    one_core()
    factors()
    optimum()
    rate()
    with_tvm()


if __name__ == "__main__":
    main()
