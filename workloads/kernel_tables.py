"""A kernel of one size as an operation table, so that what prices networks prices kernels too.

Matrix products stand in rows of their own, as M x N x K; what is left of the kernel's work is one row of other operations:

    gemm, gemv, convolution      the second operand is kept: constant weights
    attention, k-means, syrk     products of two operands that are both new: scores and values, distances, A A^T
    spiking layer                n neurons on `fan_out` outputs for `steps` steps; `macs` are those of spikes, M N K those of a
                                 crossbar, which cannot leave the others out
    all others                   no matrix product; factorisations too, as their panels change at every step

Rows of other operations move Q(n; S) elements (`kernels.py`), rows of products what they read and write once: how often
more is a matter of the machine that runs them. `TYPICAL` are the sizes of a kernel named without any.
"""

from typing import Any, NamedTuple

from workloads.kernels import Kernel, complexity
from workloads.ops import OpInfo, OpKind, OpTable, make_table

TYPICAL: dict[str, dict[str, float]] = {
    "gemm": {"n": 512}, "gemv": {"n": 512}, "lu": {"n": 512}, "cholesky": {"n": 512}, "syrk": {"n": 512}, "qr": {"n": 512},
    "spmv": {"nnz": 1e6}, "fft": {"n": 2**20}, "stencil": {"n": 1024, "steps": 10}, "convolution": {"n": 56},
    "n-body": {"n": 4096}, "sort": {"n": 2**20}, "k-means": {"n": 1e5}, "attention": {"n": 1024}, "graph sweep": {"edges": 1e6},
    "alignment": {"n": 4096}, "folding": {"n": 1024}, "monte carlo": {"n": 1e6}, "spiking layer": {"n": 1024},
}  # fmt: skip
ORDER: dict[str, tuple[str, ...]] = {"gemm": ("m", "n", "k"), "gemv": ("m", "n"), "qr": ("m", "n")}  # else as in `Kernel.sizes`
EVERYTHING = 2.0**62  # elements of a fast memory in which all fits
ROUNDING = 1e-5  # closed forms are in float32: less than this share of the work is no work


class Product(NamedTuple):
    """One matrix product M x N x K; `share` of its MACs are done by a machine that may leave some out."""

    kind: OpKind
    m: int
    n: int
    k: int
    share: float = 1.0


def kernel_table(kernel: Kernel, sizes: dict[str, float], fast: float = EVERYTHING) -> OpTable:
    """The operations of `kernel` with `sizes`, its traffic that of a fast memory of `fast` elements (default: all fits).

    Raises ValueError for unknown, missing or unusable sizes.
    """
    whole = complexity(kernel.name, fast=fast, **sizes)
    defaults = {name: value for name, value in kernel.sizes.items() if value == value}
    products = _products(kernel.name, defaults | sizes)
    rows = [_product_row(product) for product in products]
    rest = max(float(whole.work) - sum(row["flops"] for row in rows), 0.0)
    if rest > ROUNDING * float(whole.work) or not rows:
        moved = 0.0 if rows else float(whole.traffic)
        rows.append({"kind": OpKind.OTHER, "flops": rest, "inputs": moved, "live": float(whole.footprint)})
    label = f"{kernel.name} {' '.join(f'{name}={value:.12g}' for name, value in sizes.items())}".strip()
    names = tuple([f"product {i}" for i in range(len(products))] + ["other"])[: len(rows)]
    edges = tuple((i, i + 1) for i in range(len(rows) - 1))
    return make_table(rows, OpInfo(label, names, edges, int(sum(row.get("weights", 0) for row in rows)), 0, ()))


def _product_row(product: Product) -> dict[str, Any]:
    kind, m, n, k, share = product
    kept = kind in (OpKind.DENSE, OpKind.CONV)
    macs = share * m * n * k
    inputs, second = float(m * k), float(n * k)
    row = {"kind": kind, "m": m, "n": n, "k": k, "macs": macs, "macs_valid": macs, "flops": 2 * macs, "outputs": float(m * n)}
    moved = {"inputs": inputs, "weights": second} if kept else {"inputs": inputs + second}
    return row | moved | {"live": inputs + m * n + (0.0 if kept else second)}


def _products(name: str, sizes: dict[str, float]) -> list[Product]:
    """The matrix products of a kernel; sizes that follow from others are filled in as the kernel does."""

    def size(key: str, otherwise: str = "n") -> int:
        return max(round(sizes.get(key, sizes[otherwise])), 1)

    match name:
        case "gemm":
            return [Product(OpKind.DENSE, size("m"), size("n"), size("k"))]
        case "gemv":
            return [Product(OpKind.DENSE, 1, size("m"), size("n"))]
        case "convolution":
            outputs = size("batch") * round(max(sizes["n"] / sizes["stride"], 1.0)) ** 2
            return [Product(OpKind.CONV, outputs, size("filters"), size("channels") * size("kernel") ** 2)]
        case "attention":
            n, d = size("n"), size("d")
            return [Product(OpKind.MATMUL, n, n, d), Product(OpKind.MATMUL, n, d, n)]
        case "k-means":
            return [Product(OpKind.MATMUL, size("n"), size("k"), size("d"))]
        case "syrk":
            return [Product(OpKind.MATMUL, size("n"), size("n"), size("m"), 0.5)]
        case "spiking layer":
            return [Product(OpKind.DENSE, size("steps"), size("fan_out"), size("n"), sizes["rate"])]
        case _:
            return []
