"""Published tile counts, gains and cycles of Deeploy beside this model's, what differs, and which are predictions.

All published figures are cycles of the GVSoC simulator (pulp-platform/Deeploy, its pull requests 114 and 138; runwangdl/Deeploy
pull request 22; configuration comments of runwangdl/TrainDeeploy). The networks of the training rows are not published as graphs:
the catalog's networks of the same names are taken, as they are in MLPerf Tiny, so totals differ for reasons that no constant
repairs. Of the autoencoder, 55 operations would be seven dense layers; MLPerf Tiny's has ten.

One constant is fitted to one row: the rate of multiply-accumulates, so that ResNet8 from L3 takes its 47.8 M cycles; MobileNetV1
is then predicted (and comes out too fast: the rate of depthwise layers is assumed). All else is predicted with the constants of
`levels`, of which the set-up was read from the stores. The number of tiles of the profiled GEMM, six, is inferred from its total.
Two published figures are inferred: MobileNetV1's 53.1 M cycles stand under the placement of stacks alone (53.1 against 68.7) and
are taken for the single-buffered run from L3; of DS-CNN's operations "95 to 96 of 97" have one tile from 16 KiB of L1 on, and the
larger number is taken for 128 KiB, the smaller for 16 KiB.
Published differences below 0.5 % are noise of code generation (0.3 %).
"""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp

from costmodel.mapping.tiles.levels import Hierarchy, load_hierarchy
from costmodel.mapping.tiles.pipelines import double_buffered, single_buffered
from costmodel.mapping.tiling import TilingPlan, compare_buffering, plan_tiling, promote_tensors
from workloads.nests import Program
from workloads.training_graphs import training_graph

DB138 = "Deeploy PR 138"
PR22 = "runwangdl/Deeploy PR 22"
TRAIN = "TrainDeeploy configuration comments"
INFERRED = f"inferred: {TRAIN}, there under the placement of stacks alone"
OTHER_GRAPH = "probably another graph: in 32 bits, MLPerf Tiny's 640 x 128 weights alone exceed 128 KiB"
MLPERF_GRAPH = "the published graph is not known; this is MLPerf Tiny's"
DS_CNN_COUNTS = "95 to 96 of 97 for L1 >= 16 KiB"
BUDGET = 840_000.0  # B of L2 for promoted tensors in the published runs


class PublishedRow(NamedTuple):
    """One published figure and the model's; `kind` is "calibrated" or "predicted", `note` what differs and why."""

    quantity: str
    unit: str
    published: float
    model: float
    kind: str
    source: str
    note: str


def pipeline_rows() -> tuple[PublishedRow, ...]:
    """Figures that need no graph: single transfers, and the GEMM and the empty kernel whose tiles were profiled."""
    link = load_hierarchy("siracusa").links[0]
    weights = float(link.time(0, 16_384))
    small = float(link.time(1, 8))
    load, store, control = jnp.full(6, 629.0), jnp.full(6, 96.0), 275.0
    rows = [
        PublishedRow(
            "loading 16,384 B more",
            "cycle",
            1912,
            weights,
            "predicted",
            "Deeploy tutorial (2037 - 125)",
            "8 B/cycle is DORY's, set-up apart",
        ),
        PublishedRow(
            "storing a small result", "cycle", 50, small, "calibrated", "Deeploy tutorial (49 to 56)", "the set-up was read here"
        ),
    ]
    source = "Deeploy PR 114, " + DB138
    for name, kernel, published, kinds, note in (
        (
            "float GEMM, six tiles", 22_294.0, (140_789, 137_984), ("calibrated", "calibrated"),
            "load 829 - 200, store 171 - 75 and kernel from one profile; their number, six, from the overlapped total",
        ),
        (
            "empty kernel, six tiles", 231.0, (7391, 5811), ("calibrated", "predicted"),
            "transfers and six tiles assumed as for the GEMM, kernel fitted to the serial run; the published cause is not known",
        ),
    ):  # fmt: skip
        own = jnp.full(6, kernel + control)
        serial, overlapped = float(single_buffered(load, own, store).total), float(double_buffered(load, own, store).total)
        rows.append(PublishedRow(f"{name}, nothing overlaps", "cycle", published[0], serial, kinds[0], source, note))
        rows.append(PublishedRow(f"{name}, overlapped", "cycle", published[1], overlapped, kinds[1], source, note))
        gain, shown = 100 * (1 - overlapped / serial), 100 * (1 - published[1] / published[0])
        rows.append(PublishedRow(f"{name}, gain", "%", shown, gain, "predicted", "Deeploy PR 114", note))
    return tuple(rows)


def tile_rows(rule: str = "largest") -> tuple[PublishedRow, ...]:
    """Tile counts and gains of training steps whose tensors live in L2, by the published tile rule."""
    rows = []
    for network, l1, counts, gain in (
        ("fc-autoencoder", 131_072, 55 / 55, 0.2),
        ("fc-autoencoder", 32_768, 47 / 55, None),
        ("ds-cnn", 131_072, 96 / 97, 0.5),
        ("ds-cnn", 16_384, 95 / 97, None),
    ):
        found = compare_buffering(training_graph(network, update=False), load_hierarchy("siracusa", l1=l1), rule=rule)
        where, note = f"{network}, L1 {l1 // 1024} KiB", OTHER_GRAPH if network == "fc-autoencoder" else MLPERF_GRAPH
        label, source = ("", PR22) if network == "fc-autoencoder" else (", inferred", f"inferred: {PR22} has {DS_CNN_COUNTS}")
        for plan, kind in ((found.single, "SB"), (found.double, "DB")):
            one = 100 * plan.tile_counts().get(1, 0) / len(plan.operators)
            quantity = f"{where}, one-tile operations ({kind}{label})"
            rows.append(PublishedRow(quantity, "%", 100 * counts, one, "predicted", source, note))
        if gain is not None:
            rows.append(PublishedRow(f"{where}, DB gain", "%", gain, 100 * found.gain, "predicted", PR22, note))
    return tuple(rows)


def promotion_rows(rule: str = "largest") -> tuple[PublishedRow, ...]:
    """Cycles, and what promotion with double buffering saves, of training steps whose tensors live in L3 (GAP9, stacks in L1)."""
    rows, hierarchy = [], load_hierarchy("gap9")
    resnet = training_graph("resnet8", update=False)
    fitted = fit_mac_rate(resnet, hierarchy, 47.8e6, rule)
    for network, total, published, saved in (
        ("resnet8", 47.8, -7.7, 3.89 / 4.14),
        ("mobilenet-v1-0.25", 53.1, -6.8, 5.42 / 9.49),
    ):
        program = resnet if network == "resnet8" else training_graph(network, update=False)
        plans, kept_share = _promoted(program, fitted, rule)
        kind, label, source = ("calibrated", "", TRAIN) if network == "resnet8" else ("predicted", " (inferred)", INFERRED)
        what, cycles = f"{network}, SB from L3{label}", plans[0].cycles / 1e6
        rows.append(PublishedRow(what, "Mcycle", total, cycles, kind, source, "one rate fitted to ResNet8"))
        change = 100 * (plans[1].cycles / plans[0].cycles - 1)
        note = (
            "the published run also has a new gather kernel"
            if network == "resnet8"
            else "tiles of L2: one here, so all of it is promotion"
        )
        rows.append(PublishedRow(f"{network}, promoted and DB", "%", published, change, "predicted", TRAIN, note))
        what = "share of L3 traffic; here of its cycles, each weight counted once"
        rows.append(PublishedRow(f"{network}, kept off L3", "%", 100 * saved, 100 * kept_share, "predicted", TRAIN, what))
    return tuple(rows)


def fit_mac_rate(program: Program, hierarchy: Hierarchy, cycles: float, rule: str = "largest") -> Hierarchy:
    """The hierarchy with the rate of multiply-accumulates at which `program`, single-buffered from L3, takes `cycles`.

    Exact where the tile rule does not look at cycles. Raises ValueError if the rest takes longer than `cycles` already.
    """
    plan = plan_tiling(program, hierarchy, buffering="single", rule=rule, home="L3")
    products = sum(nest.macs * nest.repeat for nest in program.nests if not nest.depthwise)
    rest = plan.cycles - products / float(hierarchy.kernels.mac_rate)
    if not rest < cycles:
        raise ValueError(f"cycles = {cycles:g} is outside its range ({rest:g}, inf): all but the products take that long")
    return eqx.tree_at(lambda h: h.kernels.mac_rate, hierarchy, jnp.asarray(products / (cycles - rest), float))


def _promoted(program: Program, hierarchy: Hierarchy, rule: str) -> tuple[Sequence[TilingPlan], float]:
    """The plan that keeps nothing and the one with promotion and double buffering; the kept share of the benefit."""
    plain = plan_tiling(program, hierarchy, buffering="single", rule=rule, home="L3")
    room = float(hierarchy.levels[1].size)
    kept = promote_tensors(program, hierarchy, plain, headroom=room - BUDGET)
    everything = promote_tensors(program, eqx.tree_at(lambda h: h.levels[1].size, hierarchy, jnp.asarray(1e12)), plain)
    better = plan_tiling(program, hierarchy, buffering="training", rule=rule, home="L3", promoted=kept.kept)
    return (plain, better), kept.benefit / everything.benefit


def published_rows(rule: str = "largest") -> tuple[PublishedRow, ...]:
    """All rows; minutes on one core."""
    return pipeline_rows() + tile_rows(rule) + promotion_rows(rule)
