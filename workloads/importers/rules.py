"""What each primitive costs.

    macs         products that are accumulated, padded taps included; 2 flops each
    flops        2 macs + one for every addition, product, comparison, logical operation or cast of an element
    transcendentals, counted apart and not in flops: exp, log, powers and roots, trigonometric and hyperbolic functions,
                 logistic, erf, gamma and Bessel functions; one for every element

Reductions cost one operation for every element that disappears. Library calls cost their textbook flops: FFT 5 n log2 n
(half of it for real transforms), sort n log2 n comparisons, Cholesky n^3/3, triangular solve n^2 for each right-hand side,
LU n^2 (m - n/3), QR and the product of its reflectors 2 n^2 (m - n/3), symmetric eigenvectors 9 n^3 (4/3 n^3 for values
only), SVD 4 m^2 n + 8 m n^2 + 9 n^3 (Golub and Van Loan, Matrix Computations, 4th ed., 2013).
Random bits are Threefry-2x32-20 (Salmon et al., SC 2011): 20 rounds of an addition, a rotation (3) and a xor, and 5 key
injections of 3 additions: 115 operations for two 32-bit words.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from jax.lax import FftType

from workloads.importers.graph import Node
from workloads.importers.products import Product, convolution, matrix_product
from workloads.ops import OpKind


class Cost(NamedTuple):
    """What one run of a node costs; `reads` overrides how many elements of each operand are read."""

    kind: OpKind
    flops: float = 0.0
    transcendentals: float = 0.0
    product: Product | None = None
    reads: tuple[int, ...] | None = None

    @property
    def work(self) -> float:
        """Flops of one run, products included."""
        return self.flops + (2.0 * self.product.macs if self.product else 0.0)


VIEWS = frozenset(  # other names of the same storage; of constants and of functional programs, copies too
    "reshape squeeze broadcast_in_dim stop_gradient optimization_barrier sharding_constraint name copy "
    "device_put pvary bitcast_convert_type random_wrap random_unwrap".split()
)
ONE_FLOP = frozenset(
    "add sub mul div rem neg abs sign max min floor ceil round square not and or xor shift_left shift_right_logical "
    "mulhi shift_right_arithmetic eq ne lt le gt ge eq_to lt_to le_to select_n is_finite nextafter clz population_count "
    "convert_element_type reduce_precision add_any conj real imag complex".split()
)
TWO_FLOPS = frozenset(("clamp",))
TRANSCENDENTAL = frozenset(
    "exp exp2 expm1 log log1p sqrt rsqrt cbrt pow sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh "
    "logistic erf erfc erf_inv lgamma digamma polygamma igamma igammac bessel_i0e bessel_i1e regularized_incomplete_beta".split()
)
ELEMENTWISE = ONE_FLOP | TWO_FLOPS | TRANSCENDENTAL | {"integer_pow"}
REDUCTIONS = frozenset(
    "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor reduce argmax argmin".split()
)
WINDOWS = frozenset("reduce_window_sum reduce_window_max reduce_window_min reduce_window".split())
SCANS = frozenset("cumsum cumprod cummax cummin cumlogsumexp".split())
MOVES = frozenset("concatenate pad transpose rev split unstack tile".split())
PICKS = frozenset("slice dynamic_slice gather".split())  # read only what they return
SCATTERS = frozenset("scatter scatter-add scatter-sub scatter-mul scatter-min scatter-max dynamic_update_slice".split())
RANDOM = frozenset("random_bits rng_uniform threefry2x32 rng_bit_generator random_split random_fold_in".split())
GENERATED = frozenset("iota empty empty2 zeros_like platform_index".split())


def _elementwise(node: Node) -> Cost:
    size, name = node.outputs[0].size, node.primitive
    if name in TRANSCENDENTAL:
        return Cost(OpKind.ELEMENTWISE, transcendentals=size)
    if name == "integer_pow":
        power = abs(int(node.params["y"]))
        return Cost(OpKind.ELEMENTWISE, flops=size * max(0, power.bit_length() + power.bit_count() - 2))
    return Cost(OpKind.ELEMENTWISE, flops=size * (2 if name in TWO_FLOPS else 1))


def _reduction(node: Node) -> Cost:
    operand = node.activations[0] if node.activations else node.inputs[0]
    return Cost(OpKind.REDUCE, flops=operand.size - node.outputs[0].size)


def _window(node: Node) -> Cost:
    return Cost(OpKind.REDUCE, flops=node.outputs[0].size * (math.prod(node.params["window_dimensions"]) - 1))


def _select_and_scatter(node: Node) -> Cost:
    source = node.inputs[0]  # the cotangent of each window; one comparison for each other element, one addition each
    return Cost(OpKind.REDUCE, flops=source.size * math.prod(node.params["window_dimensions"]))


def _prefix(node: Node) -> Cost:
    size = node.outputs[0].size
    lines = size // max(1, node.outputs[0].shape[node.params["axis"]])
    extra = 2.0 * (size - lines) if node.primitive == "cumlogsumexp" else 0.0
    return Cost(OpKind.REDUCE, flops=size - lines, transcendentals=extra)


def _pick(node: Node) -> Cost:
    result = node.outputs[0].size
    indices = [v.stored for v in node.inputs[1:]]
    return Cost(OpKind.MOVE, reads=(min(result, node.inputs[0].stored), *indices))


def _scatter(node: Node) -> Cost:
    at = 1 if node.primitive == "dynamic_update_slice" else 2
    combines = node.primitive not in ("scatter", "dynamic_update_slice")
    return Cost(OpKind.MOVE, flops=node.inputs[at].size if combines else 0.0)


def _sort(node: Node) -> Cost:
    axis = node.params.get("dimension", -1)
    operand = node.inputs[0]
    return Cost(OpKind.OTHER, flops=operand.size * math.log2(max(1, operand.shape[axis])))


def _top_k(node: Node) -> Cost:
    return Cost(OpKind.OTHER, flops=node.inputs[0].size * math.log2(max(2, int(node.params["k"]))))


def _fft(node: Node) -> Cost:
    lengths = node.params["fft_lengths"]
    points = math.prod(lengths)
    real = FftType(node.params["fft_type"]) in (FftType.RFFT, FftType.IRFFT)
    batch = max(node.inputs[0].size, node.outputs[0].size) // points if points else 0
    return Cost(OpKind.OTHER, flops=(0.5 if real else 1.0) * 5.0 * batch * points * math.log2(max(1, points)))


def _matrix(formula: Callable[[float, float], float]) -> Callable[[Node], Cost]:
    def rule(node: Node) -> Cost:
        *batch, rows, columns = node.inputs[0].shape
        return Cost(OpKind.OTHER, flops=math.prod(batch) * formula(max(rows, columns), min(rows, columns)))

    return rule


def _triangular_solve(node: Node) -> Cost:
    triangle, right = node.inputs[0], node.inputs[1]
    return Cost(OpKind.OTHER, flops=float(triangle.shape[-1]) * right.size)


def _eigh(node: Node) -> Cost:
    vectors = len(node.outputs) > 1 and any(len(v.shape) == len(node.inputs[0].shape) for v in node.outputs)
    return _matrix(lambda m, n: (9.0 if vectors else 4.0 / 3.0) * n**3)(node)


def _random_bits(node: Node) -> Cost:
    words = sum(max(1, v.size) for v in node.outputs)
    return Cost(OpKind.OTHER, flops=57.5 * words)


def _product(rule: Callable[[Node], Product]) -> Callable[[Node], Cost]:
    def cost(node: Node) -> Cost:
        product = rule(node)
        return Cost(product.kind, product=product)

    return cost


def _fixed(kind: OpKind) -> Callable[[Node], Cost]:
    return lambda node: Cost(kind)


RULES: dict[str, Callable[[Node], Cost]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(WINDOWS, _window),
    **dict.fromkeys(SCANS, _prefix),
    **dict.fromkeys(MOVES | GENERATED | {"stack"}, _fixed(OpKind.MOVE)),
    **dict.fromkeys(PICKS, _pick),
    **dict.fromkeys(SCATTERS, _scatter),
    **dict.fromkeys(RANDOM, _random_bits),
    "random_seed": _fixed(OpKind.MOVE),
    "select_and_scatter_add": _select_and_scatter,
    "select_and_gather_add": _window,
    "conv_general_dilated": _product(convolution),
    "integer_convolution": _product(convolution),
    "dot_general": _product(matrix_product),
    "sort": _sort,
    "top_k": _top_k,
    "approx_top_k": _top_k,
    "fft": _fft,
    "cholesky": _matrix(lambda m, n: n**3 / 3.0),
    "lu": _matrix(lambda m, n: n**2 * (m - n / 3.0)),
    "lu_pivots_to_permutation": _fixed(OpKind.MOVE),
    "geqrf": _matrix(lambda m, n: 2.0 * n**2 * (m - n / 3.0)),
    "qr": _matrix(lambda m, n: 2.0 * n**2 * (m - n / 3.0)),
    "householder_product": _matrix(lambda m, n: 2.0 * n**2 * (m - n / 3.0)),
    "triangular_solve": _triangular_solve,
    "eigh": _eigh,
    "svd": _matrix(lambda m, n: 4.0 * m**2 * n + 8.0 * m * n**2 + 9.0 * n**3),
}


def cost_of(node: Node) -> Cost | None:
    """The cost of one run of `node`, or None if its primitive has no rule."""
    rule = RULES.get(node.primitive)
    return None if rule is None else rule(node)
