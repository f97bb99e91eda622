"""Products: valid taps against brute force and against XLA, and the GEMM view of convolutions and dot products."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from workloads import OpKind, profile
from workloads.importers.products import valid_taps

pytestmark = pytest.mark.single  # whole numbers: the same in either precision


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def brute_taps(size, out, kernel, stride, low, size_dilation, kernel_dilation):
    """Mark the input elements in the dilated and padded line, then slide the window over it."""
    reach = (out - 1) * stride + (kernel - 1) * kernel_dilation + 1
    line = np.zeros(max(reach + abs(low), low + size * size_dilation) + abs(low) + 1, bool)
    for i in range(size):
        if low + i * size_dilation >= 0:
            line[low + i * size_dilation] = True
    return sum(bool(line[o * stride + t * kernel_dilation]) for o, t in itertools.product(range(out), range(kernel)))


ranges = dict(size=(1, 12), kernel=(1, 5), stride=(1, 4), low=(-2, 5), high=(-2, 5), size_dilation=(1, 4), kernel_dilation=(1, 3))
dimension = st.tuples(*(st.integers(*bounds) for bounds in ranges.values()))


@given(dimension)
@settings(max_examples=400, deadline=None)
def test_valid_taps_equal_brute_force(case):
    size, kernel, stride, low, high, size_dilation, kernel_dilation = case
    span = (size - 1) * size_dilation + 1 + low + high
    out = (span - (kernel - 1) * kernel_dilation - 1) // stride + 1
    if span <= 0 or out <= 0:
        return
    expected = brute_taps(size, out, kernel, stride, low, size_dilation, kernel_dilation)
    assert valid_taps(size, out, kernel, stride, low, size_dilation, kernel_dilation) == expected
    assert expected <= out * kernel


def convolution(key, spatial):
    """A random legal convolution: function, image, kernel."""
    draw = np.random.default_rng(key)
    pick = lambda lo, hi, n=spatial: tuple(int(v) for v in draw.integers(lo, hi + 1, n))  # noqa: E731
    kind = draw.integers(3)  # ordinary, feature groups, batch groups
    feature_groups, batch_groups = (1, int(draw.integers(2, 4)))[:: -1 if kind == 1 else 1] if kind else (1, 1)
    channels, filters, batch = int(draw.integers(1, 4)), int(draw.integers(1, 4)), int(draw.integers(1, 3))
    image = shape(batch * batch_groups, *pick(5, 9), channels * feature_groups)
    kernel = shape(*pick(1, 3), channels, filters * feature_groups * batch_groups)
    letters = "DHW"[3 - spatial :]
    options = dict(
        window_strides=pick(1, 3),
        padding=[(int(a), int(b)) for a, b in zip(pick(0, 2), pick(0, 2), strict=True)],
        lhs_dilation=pick(1, 2),
        rhs_dilation=pick(1, 2),
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=feature_groups,
        batch_group_count=batch_groups,
    )
    return (lambda w, x: lax.conv_general_dilated(x, w, **options)), image, kernel


def xla_flops(fn, *args):
    analysis = jax.jit(fn).lower(*args).cost_analysis()  # of the program as written: the CPU compiler rewrites batch groups
    return analysis.get("flops", 0.0)  # no entry if the output is empty


@pytest.mark.parametrize("spatial", [1, 2, 3])
@pytest.mark.parametrize("key", range(8))
def test_random_convolutions_equal_xla(key, spatial):
    fn, image, kernel = convolution(100 * spatial + key, spatial)
    table = profile(fn, kernel, image, weights=(0,))
    assert table.total("macs_valid") <= table.total("macs")
    assert table.total("macs") == int(table.m[0]) * int(table.n[0]) * int(table.k[0]) * int(table.groups[0])
    assert table.total("outputs") == np.prod(jax.eval_shape(fn, kernel, image).shape)
    assert 2 * table.total("macs_valid") == xla_flops(fn, kernel, image)


def test_same_padding_by_hand():
    def fn(w, x):
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    table = profile(fn, shape(3, 3, 16, 16), shape(1, 32, 32, 16), weights=(0,))
    # each dimension has 3 * 32 - 2 valid taps: 2 * 16 * 16 * 94^2 flops; XLA's cost analysis says the same
    assert 2 * table.total("macs_valid") == 4_524_032
    assert table.total("macs") == 32 * 32 * 16 * 9 * 16
    assert OpKind(table.kind[0]) is OpKind.CONV


def test_depthwise_by_hand():
    def fn(w, x):
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=64)

    table = profile(fn, shape(3, 3, 1, 64), shape(1, 25, 5, 64), weights=(0,))
    # (3 * 25 - 2) (3 * 5 - 2) = 949 valid taps for each of 64 channels: 121,472 flops instead of 144,000
    assert 2 * table.total("macs_valid") == 121_472
    assert 2 * table.total("macs") == 144_000
    assert OpKind(table.kind[0]) is OpKind.DEPTHWISE
    assert (table.m[0], table.n[0], table.k[0], table.groups[0]) == (125, 1, 9, 64)


def test_transposed_convolution_by_hand():
    table = profile(lambda w, x: lax.conv_transpose(x, w, (2,), "SAME"), shape(2, 3, 5), shape(1, 4, 3), weights=(0,))
    # stride 2, kernel 2: 8 outputs, each sees exactly one of the 4 inputs: 8 * 3 * 5 valid of 16 * 3 * 5 padded products
    assert table.total("macs_valid") == 8 * 3 * 5
    assert table.total("macs") == 16 * 3 * 5


def test_layout_does_not_matter():
    def fn(w, x):
        return lax.conv_general_dilated(x, w, (2, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))

    def other(w, x):
        return lax.conv_general_dilated(x, w, (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    first = profile(fn, shape(7, 3, 3, 2), shape(1, 3, 9, 8), weights=(0,))
    second = profile(other, shape(3, 2, 3, 7), shape(1, 9, 8, 3), weights=(0,))
    for name in ("m", "n", "k", "groups", "macs", "macs_valid", "inputs", "outputs", "weights"):
        assert getattr(first, name)[0] == getattr(second, name)[0], name


def test_convolution_of_two_activations_is_a_matmul():
    table = profile(lambda w, x: lax.conv(x, w, (1, 1), "SAME"), shape(4, 2, 3, 3), shape(1, 2, 8, 8))
    assert OpKind(table.kind[0]) is OpKind.MATMUL
    assert table.total("weights") == 0


@pytest.mark.parametrize(
    ("fn", "w", "x", "expected"),
    [
        # rows of all batch dimensions are positions of one weight
        (lambda w, x: x @ w, (4, 5), (7, 3, 4), (OpKind.DENSE, 21, 5, 4, 1)),
        (lambda w, x: jax.vmap(lambda v: v @ w)(x), (4, 5), (7, 3, 4), (OpKind.DENSE, 21, 5, 4, 1)),
        (lambda w, x: jnp.matmul(x, jnp.broadcast_to(w[None], (7, 4, 5))), (4, 5), (7, 3, 4), (OpKind.DENSE, 21, 5, 4, 1)),
        # the weight on the left
        (lambda w, x: w @ x, (5, 4), (4, 3), (OpKind.DENSE, 3, 5, 4, 1)),
        # one weight for each group
        (lambda w, x: jnp.einsum("ebk,ekn->ebn", x, w), (6, 4, 5), (6, 3, 4), (OpKind.DENSE, 3, 5, 4, 6)),
        (lambda w, x: w @ x, (4,), (4,), (OpKind.DENSE, 1, 1, 4, 1)),
    ],
)
def test_dense_dimensions(fn, w, x, expected):
    table = profile(fn, shape(*w), shape(*x), weights=(0,))
    assert (OpKind(table.kind[0]), *(int(c[0]) for c in (table.m, table.n, table.k, table.groups))) == expected
    assert table.total("weights") == np.prod(w)
    assert table.n_ops == 1


def test_two_activations_are_a_matmul_with_batch_groups():
    table = profile(lambda a, b: jnp.einsum("bhmk,bhnk->bhmn", a, b), shape(2, 3, 5, 4), shape(2, 3, 6, 4))
    assert OpKind(table.kind[0]) is OpKind.MATMUL
    assert (table.m[0], table.n[0], table.k[0], table.groups[0]) == (5, 6, 4, 6)


def test_no_numpy_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        profile(lambda w, x: x @ w, shape(4, 5), shape(3, 4), weights=(0,))
