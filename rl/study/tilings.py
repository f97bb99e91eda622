"""What `tempo cost --tiling` shows: tiles, prologue, overlap and epilogue of every operation, who waits, and the timeline."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from costmodel.mapping.tiles.levels import Hierarchy, load_hierarchy
from costmodel.mapping.tiles.promotion import Promotion
from costmodel.mapping.tiles.published import published_rows
from costmodel.mapping.tiles.timeline import draw_timeline, hop_of
from costmodel.mapping.tiling import BufferingGain, OperatorPlan, compare_buffering, compare_rules, promote_tensors
from rl.files import check_picture, write_with
from rl.study.tables import Printed, render
from workloads import list_networks
from workloads.nests import Program, load_program
from workloads.training_graphs import training_graph

MOST_ROWS = 20  # operations of a network that the text shows; --json has all


def tiling_table(
    networks: Sequence[str] | None,
    memory: str,
    l1: float | None,
    home: str,
    rule: str,
    training: bool,
    timeline: Path | None,
) -> Printed:
    """Text and JSON value of networks, deployed or training, tiled for a memory hierarchy; draws `timeline` of the first."""
    if timeline is not None:
        if rule == "all":
            raise ValueError("--timeline shows the tiles of one rule; --tile-rule all has several")
        check_picture(timeline, "--timeline")
    sizes = {} if l1 is None else {"l1": l1}
    hierarchy = load_hierarchy(memory, **sizes)
    texts, value = [], {}
    for i, name in enumerate(networks or list_networks()):
        program = training_graph(name, update=False) if training else load_program(name)
        if rule == "all":
            text, value[name] = _rules(program, hierarchy, home)
            texts.append(text)
            continue
        found = compare_buffering(program, hierarchy, rule=rule, home=home)
        which = _drawn(found)
        if timeline is not None and i == 0:
            pictured = {
                "single buffered": hop_of(found.single.operators[which]),
                "double buffered": hop_of(found.double.operators[which]),
            }
            title = f"{program.name}, {found.double.operators[which].name}"
            write_with(timeline, lambda temporary, p=pictured, t=title: draw_timeline(p, temporary, t))
        value[name] = _value(found, hierarchy, which) | (_promotion(program, hierarchy, found) if home == "L3" else {})
        texts.append(_text(found, hierarchy, value[name]))
    text = "\n\n".join(texts) + (f"\ntimeline: {timeline}" if timeline else "")
    return text, value


def _rules(program: Program, hierarchy: Hierarchy, home: str) -> Printed:
    """Cycles of every operation by each tile rule, double-buffered; the longest operations in the text."""
    plans = compare_rules(program, hierarchy, home=home)
    names = [o.name for o in next(iter(plans.values())).operators]
    columns = {rule: [o.cycles for o in plan.operators] for rule, plan in plans.items()}
    order = sorted(range(len(names)), key=lambda i: -columns["exhaustive"][i])[:MOST_ROWS]
    rows = [[names[i], *(f"{cycles[i]:,.0f}" for cycles in columns.values())] for i in order]
    rows.append(["all operations", *(f"{plan.cycles:,.0f}" for plan in plans.values())])
    title = f"{program.name} on {hierarchy.name}, L1 {float(hierarchy.levels[0].size):,.0f} B, from {home}: cycles by tile rule"
    value = {rule: {"cycles": plan.cycles, "operations": columns[rule]} for rule, plan in plans.items()}
    return render(["operation", *plans], rows, title), {"operations": names, "rules": value}


def published_table() -> Printed:
    """The model beside published tile counts, gains and cycles; takes minutes."""
    rows = published_rows()
    shown = [[r.quantity, r.kind, r.unit, f"{r.published:,.4g}", f"{r.model:,.4g}"] for r in rows]
    remarks = {f"{r.note} ({r.source})": r.quantity for r in reversed(rows)}
    notes = [f"{quantity}: {remark}" for remark, quantity in reversed(remarks.items())]
    table = render(["quantity", "kind", "unit", "published", "model"], shown, numeric=3)
    return "\n".join([table, "", "what differs, from this row on:", *notes]), [r._asdict() for r in rows]


def _drawn(found: BufferingGain) -> int:
    """The operation whose time double buffering shortens most."""
    pairs = list(zip(found.single.operators, found.double.operators, strict=True))
    return max(range(len(pairs)), key=lambda i: (pairs[i][0].cycles - pairs[i][1].cycles, pairs[i][0].cycles))


def _value(found: BufferingGain, hierarchy: Hierarchy, which: int) -> dict[str, Any]:
    pairs = zip(found.single.operators, found.double.operators, strict=True)
    return {
        "memory": hierarchy.name,
        "l1_bytes": float(hierarchy.levels[0].size),
        "home": found.double.home,
        "rule": found.double.rule,
        "single_cycles": found.single.cycles,
        "double_cycles": found.double.cycles,
        "gain": found.gain,
        "seconds": found.double.cycles / float(hierarchy.frequency),
        "peak_bytes": found.double.peak,
        "tiles": {"single": found.single.tile_counts(), "double": found.double.tile_counts()},
        "drawn": found.double.operators[which].name,
        "operations": [_operation(single, double) for single, double in pairs],
    }


def _operation(single: OperatorPlan, double: OperatorPlan) -> dict[str, Any]:
    hop = hop_of(double)
    return {
        "name": double.name,
        "operator": double.operator,
        "phase": double.phase,
        "tile": list(hop.tile),
        "tiles_single": hop_of(single).tiles,
        "tiles": hop.tiles,
        "outer_tiles": double.outer.tiles if double.outer else 1,
        "bytes": hop.use,
        "single_cycles": single.cycles,
        "cycles": double.cycles,
        "gain": 1.0 - double.cycles / single.cycles,
        "load": hop.load,
        "kernel": hop.kernel,
        "store": hop.store,
        "prologue": float(hop.split.prologue),
        "overlap": float(hop.split.overlap),
        "epilogue": float(hop.split.epilogue),
        "wait_load": float(hop.split.wait_load),
        "wait_store": float(hop.split.wait_store),
        "waits": hop.waits,
        "reason": double.reason,
    }


def _promotion(program: Program, hierarchy: Hierarchy, found: BufferingGain) -> dict[str, Any]:
    """What staying in L2 would save, greedy and exact."""
    kept = {method: promote_tensors(program, hierarchy, found.single, method=method) for method in ("greedy", "exact")}
    return {"promotion": {method: _kept(program, p) for method, p in kept.items()}}


def _kept(program: Program, found: Promotion) -> dict[str, Any]:
    names = [program.tensors[i].name for i in found.kept]
    return {"tensors": names, "saved_cycles": found.benefit, "peak_bytes": found.peak, "proven": found.proven}


def _text(found: BufferingGain, hierarchy: Hierarchy, value: dict[str, Any]) -> str:
    rows = sorted(value["operations"], key=lambda o: -o["cycles"])[:MOST_ROWS]
    table = render(
        [
            "operation",
            "operator",
            "waits",
            "tiles SB",
            "tiles DB",
            "SB cycles",
            "DB cycles",
            "gain",
            "prologue",
            "overlap",
            "epilogue",
        ],
        [_row(o) for o in rows],
        numeric=3,
    )
    levels = f"{hierarchy.name}, L1 {value['l1_bytes']:,.0f} B, tensors in {value['home']}"
    counts = {kind: ", ".join(f"{n} x {count}" for count, n in value["tiles"][kind].items()) for kind in ("single", "double")}
    clock = float(hierarchy.frequency) / 1e6
    lines = [
        f"{found.double.name} on {levels}: {len(value['operations'])} operations, {value['peak_bytes']:,} B alive at most",
        f"single buffered {value['single_cycles']:>14,.0f} cycles   operations x tiles: {counts['single']}",
        f"double buffered {value['double_cycles']:>14,.0f} cycles   operations x tiles: {counts['double']}",
        f"gain {100 * value['gain']:.2f} % in the same memory; {value['seconds'] * 1e3:,.2f} ms at {clock:,.0f} MHz; "
        f"tile rule: {value['rule']}",
    ]
    for method, p in value.get("promotion", {}).items():
        tensors, size, saved = len(p["tensors"]), f"{p['peak_bytes']:,.0f} B", f"{p['saved_cycles']:,.0f} cycles"
        lines.append(f"kept in L2, {method}: {tensors} tensors, {size}, save {saved} of L3 transfers")
    more = len(value["operations"]) - len(rows)
    return "\n".join([*lines, "", table] + ([f"and {more} shorter ones"] if more else []))


def _row(o: dict[str, Any]) -> list[str]:
    cycles = [f"{o[key]:,.0f}" for key in ("single_cycles", "cycles")]
    parts = [f"{o[key]:,.0f}" for key in ("prologue", "overlap", "epilogue")]
    waits = o["reason"] or o["waits"]
    return [o["name"], o["operator"], waits, str(o["tiles_single"]), str(o["tiles"]), *cycles, f"{100 * o['gain']:.1f} %", *parts]
