"""What `tempo profile` prints: every operation of a workload, its totals, and where it stands under a processor's roofline."""

from pathlib import Path
from typing import Any

import costmodel
from costmodel.studies.rooflines import RooflinePoints, roofline_chart, roofline_points, roofline_text
from rl.files import check_picture, write_with
from rl.study.quantities import quantity
from rl.study.tables import Printed, render
from workloads import OpKind, OpTable


def profile_report(ops: OpTable, on: str, picture: Path | None) -> Printed:
    """Table and roofline of `ops` on the processor called `on`; the roofline as a PNG file too, if there is a `picture`."""
    hardware = costmodel.load_hardware(on)
    if picture is not None:
        check_picture(picture, "--roofline")
    table, value = profile_table(ops)
    if not ops.total("macs"):
        return f"{table}\nno roofline: nothing multiplies", value
    points = roofline_points(hardware, ops)
    assert ops.info is not None
    if picture is not None:
        chart = roofline_chart(points, f"{ops.info.name} on {on}: {quantity(points.latency, 's')}")
        write_with(picture, lambda temporary: chart.savefig(temporary, format="png", dpi=130, metadata={"Software": None}))
    text = f"{table}\n\n{_under_roof(points, on)}"
    return text + (f"\nroofline: {picture}" if picture else ""), value | {"roofline": _roofline_value(points, on)}


def _under_roof(points: RooflinePoints, on: str) -> str:
    rest = 1 - points.share.sum()
    heading = (
        f"on {on}: {quantity(points.latency, 's')}; roof {quantity(points.peak, 'MAC/s')} and "
        f"{quantity(points.bandwidth, 'B/s')}, ridge at {points.ridge:.3g} MAC/B"
    )
    legend = "c compute, m memory, o overhead, p programming: what holds an operation back; capital: over 5 % of the time"
    beside = [f"{100 * rest:.0f} % of the time goes to operations that do not multiply"] if rest > 0.005 else []
    return "\n".join([heading, roofline_text(points), legend, *beside])


def _roofline_value(points: RooflinePoints, on: str) -> dict[str, Any]:
    rows = zip(points.names, points.intensity, points.rate, points.share, points.bound, strict=True)
    return {
        "hardware": on,
        "latency": points.latency,
        "peak_macs_per_second": points.peak,
        "bandwidth": points.bandwidth,
        "points": [
            {
                "name": name, "macs_per_byte": float(i), "macs_per_second": float(rate), "share": float(share),
                "bound": costmodel.Bound(int(bound)).name.lower(),
            }
            for name, i, rate, share, bound in rows
        ],
    }  # fmt: skip


def profile_table(ops: OpTable) -> Printed:
    """Every operation of a workload, and its totals."""
    info = ops.info
    assert info is not None
    columns = ("macs", "macs_valid", "flops", "weights", "inputs", "outputs", "live")
    rows, values = [], []
    for i, name in enumerate(info.op_names):
        kind = OpKind(int(ops.kind[i])).name.lower()
        shape = f"{ops.m[i]}x{ops.n[i]}x{ops.k[i]}" + (f" x{ops.groups[i]}" if ops.groups[i] > 1 else "") if ops.macs[i] else ""
        counts = {column: int(getattr(ops, column)[i]) for column in columns}
        rows.append([i, name, kind, shape, *[f"{count:,}" for count in counts.values()]])
        values.append({"name": name, "kind": kind} | {k: int(getattr(ops, k)[i]) for k in ("m", "n", "k", "groups")} | counts)
    totals = {"macs_padded": ops.total("macs"), "macs_valid": ops.total("macs_valid"), "flops": ops.total("flops")}
    totals |= {
        "transcendentals": ops.total("transcendentals"),
        "parameters": info.parameters,
        "peak_live_elements": ops.peak_live,
    }
    lines = [render(["", "operation", "kind", "M x N x K", *columns], rows, info.name, 4)]
    lines.append(f"MACs {totals['macs_padded']:,} with zero padding, {totals['macs_valid']:,} without; FLOPs {totals['flops']:,}")
    lines.append(
        f"parameters {info.parameters:,}; peak live activations {ops.peak_live:,} elements at {info.op_names[info.peak_op]}"
        + ":" * bool(info.peak_tensors)
    )
    lines += ["  " + "; ".join(info.peak_tensors)] if info.peak_tensors else []
    lines += [f"not counted: {name} (x{count})" for name, count in info.uncounted] + [f"note: {flag}" for flag in info.flags]
    peak = {"peak_at": info.op_names[info.peak_op], "peak_tensors": list(info.peak_tensors)}
    extra = {"uncounted": [list(pair) for pair in info.uncounted], "flags": list(info.flags)}
    return "\n".join(lines), {"network": info.name, "operations": values, "totals": totals, **peak, **extra}


def parse_shape(text: str) -> tuple[str, int | tuple[int, ...]]:
    """ "x=1x3x224x224" as an input's name and shape; "batch=8" as a dimension's name and size."""
    name, equals, sizes = text.rpartition("=")
    parts = sizes.lower().split("x")
    if not (name and equals) or not all(part.isdecimal() for part in parts):
        raise ValueError(f"--shape {text!r} is not NAME=1x3x224x224")
    whole = tuple(int(part) for part in parts)
    return name, whole[0] if len(whole) == 1 else whole
