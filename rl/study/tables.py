"""What the command line prints: for each command a text table and the same as plain values for --json."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

import costmodel
from costmodel.cost import UNITS
from physics import lookup, unknown_name
from rl.files import write_netcdf
from rl.study.quantities import quantity
from workloads import list_networks, load

Printed = tuple[str, Any]
MOST_POINTS = 10_000_000  # of one axis on the command line


def render(header: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "", numeric: int = 1) -> str:
    """A text table; columns from number `numeric` on are right-aligned."""
    table = Table(*[], title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index >= numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*[str(cell) for cell in row])
    buffer = io.StringIO()
    Console(file=buffer, width=200, force_terminal=False).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def cost_table(networks: Sequence[str] | None, on: Sequence[str] | None, temperature: float) -> Printed:
    """Cost of networks on processors at a junction temperature in Celsius."""
    from rl.study.measures import costs

    if not -73.15 <= temperature <= 226.85:
        raise ValueError(f"--temperature = {temperature:g} C is outside its range [-73.15, 226.85] C")
    values = costs(networks or list_networks(), on or costmodel.list_hardware(), temperature + 273.15)
    rows = []
    for network, processors in values.items():
        for name, value in processors.items():
            shown = [quantity(value[f], u) for f, u in (("latency", "s"), ("energy", "J"), ("power", "W"), ("bytes_moved", "B"))]
            share = [f"{100 * value['utilization']:.2f} %", value["bound"], f"{100 * value['memory']:.0f} %"]
            rows.append([network, name, *shown, *share, quantity(value["write_latency"], "s")])
    header = [
        "network",
        "processor",
        "latency",
        "energy",
        "power",
        "bytes moved",
        "utilization",
        "bound",
        "weight memory",
        "to write weights",
    ]
    return render(header, rows, f"weights resident, {temperature:g} C, policy {costmodel.HARD}", 2), values


def validation_table() -> Printed:
    """Published figures beside the model's, with what was calibrated and what was predicted."""
    from costmodel.studies.validation import validate

    found = validate()
    rows = [
        [
            r.target,
            r.quantity,
            quantity(r.published, r.unit),
            quantity(r.modelled, r.unit),
            f"{100 * r.error:+.1f} %",
            r.role,
            r.source,
        ]
        for r in found
    ]
    predicted = [abs(r.error) for r in found if r.role == "predicted"]
    text = render(["target", "quantity", "published", "model", "error", "role", "source"], rows, "validation", 2)
    text += f"\npredicted figures: mean error {100 * np.mean(predicted):.1f} %, largest {100 * np.max(predicted):.1f} %"
    return text, [r._asdict() | {"error": r.error} for r in found]


def parse_axis(tree: Any, text: str) -> tuple[str, np.ndarray]:
    """ "rows=32:512:5" or "rows=32,64" as a label and its values; log-spaced where the parameter is on a log scale."""
    label, _, values = text.partition("=")
    label = label.strip()
    info = lookup(tree, label).param
    try:
        if ":" in values:
            start, stop, count = values.split(":")
            lo, hi, n = float(start), float(stop), int(count)
            if not 1 <= n <= MOST_POINTS or (info.log and min(lo, hi) <= 0):
                raise ValueError
            return label, np.geomspace(lo, hi, n) if info.log else np.linspace(lo, hi, n)
        return label, np.array([float(v) for v in values.split(",")])
    except ValueError:
        raise ValueError(
            f"--vary {text!r} is not label=start:stop:count (count in [1, 1e7], positive on a log scale) or label=a,b,c"
        ) from None


def sweep_table(hardware: str, network: str, vary: Sequence[str], out: Path | None) -> Printed:
    """A sweep of one processor's parameters on one network, optionally written as NetCDF; the best and worst points."""
    processor, ops = costmodel.load_hardware(hardware), load(network)
    axes: dict[str, np.ndarray] = {}
    for label, values in (parse_axis(processor, text) for text in vary):
        if label in axes:
            raise ValueError(f"--vary names {label!r} twice")
        axes[label] = values
    data = costmodel.sweep(lambda hw: costmodel.estimate(hw, ops), processor, axes)
    if out is not None:
        write_netcdf(out, data)
    rows, figures = [], {}
    for name in ("latency", "energy", "power", "utilization", "memory"):
        variable = data[name]
        low, high = variable.argmin(...), variable.argmax(...)
        best, worst = ({d: float(data[d][int(i[d])]) for d in data.dims} for i in (low, high))
        figures[name] = {"smallest": float(variable.min()), "at": best, "largest": float(variable.max()), "at_largest": worst}
        at = ", ".join(f"{label} {v:.4g}" for label, v in best.items())
        same = float(variable.min()) == float(variable.max())
        largest = "constant" if same else quantity(float(variable.max()), UNITS[name])
        rows.append([name, quantity(float(variable.min()), UNITS[name]), "" if same else at, largest])
    points = int(np.prod([data.sizes[d] for d in data.dims]))
    text = render(["figure", "smallest", "at", "largest"], rows, f"{network} on {hardware}, {points:,} points", 1)
    return text + (f"\nwritten to {out}" if out else ""), {
        "points": points,
        "figures": figures,
        "file": str(out) if out else None,
    }


def parse_policy(text: str) -> costmodel.Relaxation:
    """ "hard", "straight_through" or "soft:8" as a relaxation policy."""
    if text in ("hard", "straight_through"):
        return costmodel.HARD if text == "hard" else costmodel.STRAIGHT_THROUGH
    name, _, sharpness = text.partition(":")
    if name == "soft" and sharpness.replace(".", "", 1).isdigit():
        return costmodel.soft(float(sharpness))
    raise ValueError(f"--policy {text!r} is not one of hard, straight_through, soft:SHARPNESS")


def sensitivity_table(hardware: str, network: str, of: str, policy: str) -> Printed:
    """Gradients and elasticities of one figure of the cost."""
    figures = [name for name in UNITS if name != "bound"]
    if of not in figures:
        raise ValueError(unknown_name("figure", of, figures))
    processor, ops = costmodel.load_hardware(hardware), load(network)
    table = costmodel.sensitivity(
        lambda hw, p: getattr(costmodel.estimate(hw, ops, relaxation=p), of), processor, parse_policy(policy)
    )
    rows = [[r.label, f"{r.elasticity:+.4f}", f"{r.gradient:+.4g}", f"{r.value:.6g}", r.unit] for r in table.relevant]
    title = f"{of} of {network} on {hardware}: {quantity(table.value, UNITS[of])}, policy {table.relaxation}"
    value = {"value": table.value, "unit": UNITS[of], "relaxation": table.relaxation, "rows": [r._asdict() for r in table.rows]}
    rest = f"and {len(table.rows) - len(table.relevant)} parameters without effect or that only anchor a law"
    return render(["parameter", "elasticity", "gradient", "value", "unit"], rows, title, 1) + f"\n{rest}", value
