"""Instructions of packed matrix products, counted for real and by the model.

Packed products in SVE intrinsics (f32 and f16 with FMLA, bf16 with BFMMLA, i8 with SMMLA; sve/gemm_*.c) are compiled for
AArch64 and run under QEMU's user emulation at five vector lengths; a plugin (sve/count.c) counts executed instructions by
function, and every program checks its result. The model's counts are `costmodel.instruction_counts`. Two of its numbers, the
instructions of a loop and of a tile, were read from the code GCC makes of the f32 kernel (calibrated); the rest is predicted.

Not compared: four rows or fewer (the tiles of the model are then narrower), and a K of few groups of K0 values, where
the code for the last, partial group counts (i8 and bf16: 14 to 20 % too few at K = 17 and 9).

Packages (Debian): gcc, libc6-dev, gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user. Without them the script says so and
ends with status 0. It ends with status 1 if a program computes a wrong product, or a total or a kernel is off by more than 10 %.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from timing import report

from costmodel import VectorCore, instruction_counts
from workloads import OpKind, make_table

SOURCES = Path(__file__).parent / "sve"
TOOLS = {"gcc": "gcc", "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu", "qemu-aarch64": "qemu-user"}
CORES: dict[str, dict[str, Any]] = {
    "f32": {"data": "f32"},
    "f16": {"data": "f16"},
    "bf16": {"data": "bf16"},
    "i8": {"data": "i8"},
    "f32_wide": {"data": "f32", "tile_n": 16.0},  # tiles that spill; only its kernel is compared
}
VECTOR_BITS = (128, 256, 512, 1024, 2048)
SHAPES = (  # M, N, K: not all of them multiples of the tiles; wide and tall ones, where packing counts
    (64, 100, 128), (61, 97, 123), (128, 256, 64), (200, 33, 257), (9, 500, 40), (40, 700, 63),
)  # fmt: skip
FUNCTIONS = ("pack_lhs", "pack_rhs", "kernel", "unpack")
TOLERANCE = 0.10


def missing() -> list[str]:
    """Debian packages whose programs are not there."""
    return sorted(package for tool, package in TOOLS.items() if not shutil.which(tool))


def build(folder: Path) -> tuple[Path, dict[str, Path]]:
    """The counting plugin and one static program per operand type."""
    plugin = folder / "count.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", plugin, SOURCES / "count.c"], check=True)
    flags = ["-O2", "-fno-tree-vectorize", "-static", "-march=armv8.2-a+sve+fp16+bf16+i8mm"]
    programs = {name: folder / name for name in CORES}
    for name, path in programs.items():
        subprocess.run(["aarch64-linux-gnu-gcc", *flags, SOURCES / f"gemm_{name}.c", "-o", path], check=True)
    return plugin, programs


def counted(plugin: Path, program: Path, vector_bits: int, shape: tuple[int, int, int]) -> dict[str, int]:
    """Executed instructions by function; RuntimeError if the product is wrong or QEMU refuses."""
    cpu = f"max,sve-default-vector-length={vector_bits // 8}"
    command = ["qemu-aarch64", "-cpu", cpu, "-plugin", plugin, program, *map(str, shape)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode or run.stdout.strip() != "right":
        raise RuntimeError(f"{program.name} at {vector_bits} bit: {run.stdout} {run.stderr[-300:]}")
    lines = (line.rsplit(" ", 1) for line in run.stderr.splitlines())
    counts = {name.split(".")[0]: int(count) for name, count in lines}
    return {name: counts[name] for name in FUNCTIONS}


def modelled(name: str, vector_bits: int, shape: tuple[int, int, int]) -> dict[str, float]:
    """The same from the model."""
    m, n, k = shape
    table = make_table([dict(kind=OpKind.MATMUL, m=m, n=n, k=k, macs=m * n * k)])
    counts = instruction_counts(VectorCore(vector_bits=vector_bits, **CORES[name]), table)
    return {function: float(getattr(counts, function)[0]) for function in FUNCTIONS}


def compared(name: str, real: dict[str, int], model: dict[str, float]) -> dict[str, float]:
    """Model over count, less one: by function and in total."""
    functions = ("kernel",) if name == "f32_wide" else FUNCTIONS
    off = {function: model[function] / real[function] - 1 for function in functions}
    return off if name == "f32_wide" else off | {"total": sum(model.values()) / sum(real.values()) - 1}


def main() -> int:
    """Compare all types, vector lengths and shapes; one line each."""
    if packages := missing():
        print(f"skipped: not installed: {', '.join(packages)}")
        return 0
    worst = {"total": 0.0, "kernel": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        plugin, programs = build(Path(folder))
        for name in CORES:
            for vector_bits in VECTOR_BITS:
                for shape in SHAPES:
                    real, model = counted(plugin, programs[name], vector_bits, shape), modelled(name, vector_bits, shape)
                    off = compared(name, real, model)
                    worst = {key: max(value, abs(off.get(key, 0.0))) for key, value in worst.items()}
                    figures = {f"{key}_off": value for key, value in off.items()}
                    report(
                        "sve", type=name, bits=vector_bits, shape="x".join(map(str, shape)), counted=sum(real.values()), **figures
                    )
    report("sve_worst", **worst, tolerance=TOLERANCE)
    return 0 if max(worst.values()) <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
