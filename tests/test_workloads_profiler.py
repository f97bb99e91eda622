"""The jaxpr profiler: loops, branches, fusion, parameters, liveness, what has no rule, and agreement with XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AbstractMesh, PartitionSpec

from workloads import OpKind, make_table, profile
from workloads.ops import COUNTS

pytestmark = pytest.mark.single  # whole numbers: the same in either precision

# exercised below with and without fusion
CASES = {}


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def case(*shapes, weights=()):
    args = [jax.tree.map(lambda s: shape(*s), s, is_leaf=lambda v: isinstance(v, tuple)) for s in shapes]

    def register(fn):
        CASES[fn.__name__] = (fn, args, weights)
        return fn

    return register


def kinds(table):
    return [OpKind(k).name for k in table.kind]


@case({"qkv": (64, 192), "b": (192,), "out": (64, 64), "c": (64,)}, (50, 64), weights=(0,))
def attention(p, x):
    """Scaled dot-product attention: 50 tokens, width 64, 4 heads, projections with biases."""
    heads = lambda t: t.reshape(50, 4, 16)  # noqa: E731
    q, k, v = (heads(t) for t in jnp.split(x @ p["qkv"] + p["b"], 3, axis=-1))
    scores = jnp.einsum("qhd,khd->hqk", q, k) / 4.0
    mixed = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores), v)
    return mixed.reshape(50, 64) @ p["out"] + p["c"]


@case({"g": (64,), "b": (64,), "up": (64, 256), "down": (256, 64)}, (50, 64), weights=(0,))
def transformer_mlp(p, x):
    """Pre-normalised feed-forward block with a residual."""
    mean = x.mean(-1, keepdims=True)
    y = (x - mean) * lax.rsqrt(jnp.var(x, axis=-1, keepdims=True) + 1e-5) * p["g"] + p["b"]
    return x + jax.nn.gelu(y @ p["up"]) @ p["down"]


@case((8, 16), (16, 16), (16,), (20, 8), weights=(0, 1, 2))
def recurrent(wx, wh, b, xs):
    def cell(h, x):
        h = jnp.tanh(x @ wx + h @ wh + b)
        return h, h

    return lax.scan(cell, jnp.zeros(16, xs.dtype), xs)[1]


@case((4, 6), (6, 6))
def gradient(x, w):
    return jax.grad(lambda w: jnp.sum(jnp.tanh(x @ w) ** 2))(w)


@case((1, 8, 8, 3))
def pooled(x):
    total = lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return jax.nn.relu(total / 4.0)


@pytest.mark.parametrize("name", CASES)
def test_fusion_changes_rows_not_work(name):
    fn, args, weights = CASES[name]
    fused, plain = (profile(fn, *args, weights=weights, fuse=fuse) for fuse in (True, False))
    for column in ("macs", "macs_valid", "flops", "transcendentals"):
        assert fused.total(column) == plain.total(column), column
    assert fused.n_ops < plain.n_ops
    assert fused.peak_live <= plain.peak_live
    assert fused.total("inputs") < plain.total("inputs")
    assert fused.info.parameters == plain.info.parameters
    assert fused.info.uncounted == ()


@pytest.mark.parametrize("name", CASES)
def test_edges_are_a_forward_graph(name):
    fn, args, weights = CASES[name]
    for fuse in (True, False):
        table = profile(fn, *args, weights=weights, fuse=fuse)
        assert all(0 <= a < b < table.n_ops for a, b in table.info.edges)
        assert len(table.info.op_names) == len(set(table.info.op_names)) == table.n_ops


# -- loops, branches, calls


def test_scan_counts_every_iteration():
    table = profile(lambda x: lax.scan(lambda c, _: (c @ c, None), x, None, 10)[0], shape(128, 128))
    assert table.total("macs") == 10 * 128**3 == 10 * 2_097_152
    assert (kinds(table), int(table.groups[0])) == (["MATMUL"], 10)
    assert table.peak_live == 2 * 128 * 128


def test_scan_equals_the_unrolled_loop():
    def unrolled(wx, wh, b, xs):
        h, states = jnp.zeros(16, xs.dtype), []
        for i in range(20):
            h = jnp.tanh(xs[i] @ wx + h @ wh + b)
            states.append(h)
        return jnp.stack(states)

    fn, args, weights = CASES["recurrent"]
    scan, flat = profile(fn, *args, weights=weights), profile(unrolled, *args, weights=weights)
    # unrolled, the first state is a constant: its product is known beforehand
    assert scan.total("macs") == 20 * (8 * 16 + 16 * 16) == flat.total("macs") + 16 * 16
    assert scan.total("transcendentals") == flat.total("transcendentals") == 20 * 16
    # a weight that stays the same adds rows, not groups
    assert [(int(m), int(g)) for m, g in zip(scan.m[:2], scan.groups[:2], strict=True)] == [(20, 1), (20, 1)]
    assert scan.info.parameters == 8 * 16 + 16 * 16 + 16


@pytest.mark.parametrize("by_index", [False, True])
def test_scan_over_stacked_layers_reads_each_once(by_index):
    def sliced(w, x):
        return lax.scan(lambda h, wi: (jax.nn.relu(h @ wi), None), x, w)[0]

    def indexed(w, x):
        return lax.fori_loop(0, 3, lambda i, h: jax.nn.relu(h @ w[i]), x)

    table = profile(indexed if by_index else sliced, shape(3, 64, 64), shape(5, 64), weights=(0,))
    assert (kinds(table), table.n_ops) == (["DENSE"], 1)
    assert (int(table.m[0]), int(table.groups[0])) == (5, 3)
    assert table.total("weights") == table.info.parameters == 3 * 64 * 64


def test_nested_scans_multiply():
    def fn(x):
        inner = lambda c, _: (c @ c, None)  # noqa: E731
        return lax.scan(lambda c, _: (lax.scan(inner, c, None, 3)[0] + 1.0, None), x, None, 5)[0]

    assert profile(fn, shape(4, 4)).total("macs") == 15 * 64


def test_what_a_loop_reads_lives_until_it_ends():
    def step(c, y):
        p = c @ y
        return p @ p

    once = profile(step, shape(8, 8), shape(8, 8))
    loop = profile(lambda x, y: lax.scan(lambda c, _: (step(c, y), None), x, None, 10)[0], shape(8, 8), shape(8, 8))
    assert once.live.tolist() == [3 * 64, 2 * 64]  # first product: both arguments and p; second: p and the result
    assert loop.live.tolist() == [3 * 64, 3 * 64]  # y waits for the next iteration


def test_while_is_flagged_or_counted():
    def fn(x):
        return lax.while_loop(lambda c: c[0] < 5, lambda c: (c[0] + 1, c[1] @ c[1]), (0, x))[1]

    once = profile(fn, shape(8, 8))
    assert once.total("macs") == 512
    assert once.info.flags == ("while: trip count unknown, counted once",)
    seven = profile(fn, shape(8, 8), trip_count=7)
    assert seven.total("macs") == 7 * 512
    assert seven.info.flags == ()


def test_cond_counts_the_heaviest_branch():
    fn = lambda x: lax.cond(x[0, 0] > 0, jnp.exp, lambda a: a @ a, x)  # noqa: E731
    table = profile(fn, shape(8, 8))
    assert table.total("macs") == 512
    assert "cond" in table.info.flags[0]
    assert table.total("transcendentals") == 0
    tie = profile(lambda x: lax.cond(x[0] > 0, jnp.exp, lambda a: a, x), shape(8))  # no flops in either
    assert tie.total("transcendentals") == 8


def with_vjp(fn):
    custom = jax.custom_vjp(fn)
    custom.defvjp(lambda x: (fn(x), x), lambda x, g: (g @ x,))
    return custom


def with_jvp(fn):
    custom = jax.custom_jvp(fn)
    custom.defjvp(lambda primals, tangents: (fn(*primals), fn(*tangents)))
    return custom


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, with_vjp, with_jvp, lambda f: lambda x: lax.switch(1, [f, f], x)])
def test_calls_are_inlined(wrap):
    table = profile(wrap(lambda x: jnp.sin(x) @ x), shape(8, 8))
    assert (table.total("macs"), table.total("transcendentals")) == (512, 64)
    assert table.info.uncounted == ()


def test_checkpoint_recomputes_in_the_gradient():
    layer = lambda x: jnp.sum(jnp.sin(jnp.sin(x) @ x))  # noqa: E731
    plain, again = (profile(jax.value_and_grad(f), shape(8, 8)) for f in (layer, jax.checkpoint(layer)))
    # forward two sines, backward two cosines; the checkpoint computes the inner sine and the product again
    assert (plain.total("transcendentals"), again.total("transcendentals")) == (4 * 64, 5 * 64)
    assert (plain.total("macs"), again.total("macs")) == (3 * 512, 4 * 512)


def test_shard_map_counts_all_devices():
    mesh, parts = AbstractMesh((4,), ("i",)), PartitionSpec
    rows = jax.shard_map(lambda w, x: x @ w, mesh=mesh, in_specs=(parts(), parts("i")), out_specs=parts("i"))
    table = profile(rows, shape(64, 32), shape(16, 64), weights=(0,))
    assert table.total("macs") == 16 * 64 * 32
    assert table.total("weights") == 4 * 64 * 32  # every device reads its copy
    inner = jax.shard_map(
        lambda w, x: lax.psum(x @ w, "i"), mesh=mesh, in_specs=(parts("i"), parts(None, "i")), out_specs=parts()
    )
    table = profile(inner, shape(64, 32), shape(16, 64), weights=(0,))
    assert table.total("macs") == 16 * 64 * 32
    assert table.total("weights") == 64 * 32
    assert len(table.info.uncounted) == 1  # the collective has no rule


# -- fusion and parameters


def test_attention_block_by_hand():
    fn, args, weights = CASES["attention"]
    table = profile(fn, *args, weights=weights)
    # four projections 50 x 64 x 64 and two products 4 x 50 x 50 x 16: 819,200 + 320,000
    assert table.total("macs") == 1_139_200
    by_kind = {k: int(table.macs[table.kind == k].sum()) for k in (OpKind.DENSE, OpKind.MATMUL)}
    assert by_kind == {OpKind.DENSE: 819_200, OpKind.MATMUL: 320_000}
    assert table.total("transcendentals") == 4 * 50 * 50
    assert table.info.parameters == 4 * 64 * 64 + 4 * 64
    assert sum(name.endswith("softmax") for name in table.info.op_names) == 1


def test_attention_of_flax():
    import flax.linen as nn

    module = nn.MultiHeadDotProductAttention(4)
    variables = jax.eval_shape(module.init, jax.random.key(0), shape(1, 50, 64))
    assert profile(module.apply, variables, shape(1, 50, 64), weights=(0,)).total("macs") == 1_139_200


def test_transformer_block_has_four_operations():
    fn, args, weights = CASES["transformer_mlp"]
    table = profile(fn, *args, weights=weights)
    assert kinds(table) == ["REDUCE", "DENSE", "DENSE", "ELEMENTWISE"]  # layer norm, dense with gelu, dense, residual
    assert table.total("transcendentals") == 50 + 50 * 256
    assert set(table.info.edges) == {(0, 1), (1, 2), (2, 3)}
    # the residual input is alive next to the wide layer's input and output
    assert table.live[1] == 2 * 50 * 64 + 50 * 256


def test_epilogues_join_and_residuals_stay():
    def fn(p, x):
        y = jax.nn.relu(x @ p["w"] * p["scale"] + p["shift"])
        return jax.nn.relu(y @ p["v"] + y)

    p = {"w": shape(4, 4), "v": shape(4, 4), "scale": shape(4), "shift": shape(4)}
    table = profile(fn, p, shape(3, 4), weights=(0,))
    assert kinds(table) == ["DENSE", "DENSE", "ELEMENTWISE"]
    assert table.flops.tolist() == [2 * 48 + 3 * 12, 2 * 48, 2 * 12]
    assert table.weights.tolist() == [16 + 4 + 4, 16, 0]
    assert table.inputs.tolist() == [12, 12, 24]


def test_an_intermediate_result_is_not_fused_away():
    def fn(w, x):
        y = x @ w
        return y, jax.nn.relu(y)

    table = profile(fn, shape(4, 4), shape(3, 4), weights=(0,))
    assert kinds(table) == ["DENSE", "ELEMENTWISE"]
    assert table.outputs.tolist() == [12, 12]


def test_average_pooling_is_one_operation():
    fn, args, _ = CASES["pooled"]
    table = profile(fn, *args)
    # 3 additions for each of 4 x 4 x 3 outputs, one division, one ReLU
    assert (kinds(table), table.flops.tolist()) == (["REDUCE"], [48 * 5])


def test_work_on_parameters_is_hoisted_and_reported():
    def fn(p, x):
        return x @ (p["w"] * p["s"]) + p["b"]

    p = {"w": shape(3, 4), "s": shape(4), "b": shape(4)}
    table = profile(fn, p, shape(2, 3), weights=(0,))
    assert (table.n_ops, table.total("flops")) == (1, 2 * 24 + 8)
    assert table.total("weights") == 16
    assert table.info.parameters == 20
    assert table.info.flags == ("hoisted: 12 flops on parameters alone are computed once and not counted",)


def test_closed_over_arrays_are_parameters_once():
    w = jnp.ones((3, 3))
    table = profile(lambda x: jnp.tanh(x @ w) @ w, shape(2, 3))
    assert kinds(table) == ["DENSE", "DENSE"]
    assert (table.info.parameters, table.total("weights")) == (9, 18)


def test_an_argument_that_is_no_parameter_makes_a_matmul():
    assert kinds(profile(lambda w, x: x @ w, shape(3, 4), shape(2, 3))) == ["MATMUL"]


def test_embedding_reads_only_its_rows():
    table = profile(lambda e, i: e.at[i].get(mode="clip"), shape(1000, 16), jax.ShapeDtypeStruct((5,), jnp.int32), weights=(0,))
    assert table.total("weights") == 5 * 16
    assert table.info.parameters == 16_000
    assert "MOVE" in kinds(table)


def test_views_are_free():
    table = profile(lambda x: jnp.tanh(x.reshape(4, 6)[None].squeeze(0).reshape(-1)), shape(2, 12))
    assert (table.n_ops, table.peak_live) == (1, 48)


def test_dead_code_is_dropped():
    def fn(x):
        _ = jnp.exp(x)
        return x * 2

    table = profile(fn, shape(5))
    assert (table.n_ops, table.total("transcendentals")) == (1, 0)


def test_widths_come_from_the_dtypes():
    w, x = jax.ShapeDtypeStruct((4, 4), jnp.int8), jax.ShapeDtypeStruct((3, 4), jnp.bfloat16)
    table = profile(lambda w, x: x @ w.astype(x.dtype), w, x, weights=(0,))
    assert (table.activation_bits[0], table.weight_bits[0]) == (16, 16)  # the device sees the folded (cast) weight
    table = profile(lambda w, x: lax.dot(x, w, preferred_element_type=jnp.float32), w, x, weights=(0,))
    assert (table.activation_bits[0], table.weight_bits[0]) == (16, 8)


# -- liveness against an independent simulation


@pytest.mark.parametrize("seed", range(12))
def test_liveness_of_random_programs(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 12))
    program = [tuple(int(v) for v in rng.integers(0, i + 1, 2)) for i in range(n)]  # tensor i + 1 = product of two earlier
    keep = {n, int(rng.integers(1, n + 1))}

    def fn(x):
        tensors = [x]
        for a, b in program:
            tensors.append(tensors[a] @ tensors[b])
        return [tensors[i] for i in sorted(keep)]

    needed = set(keep)
    for i in range(n, 0, -1):
        needed |= set(program[i - 1]) if i in needed else set()
    steps = [i for i in range(1, n + 1) if i in needed]
    expected = []
    for step in steps:
        later = [program[i - 1] for i in steps if i >= step]
        alive = {t for pair in later for t in pair if t < step} | {step} | {t for t in keep if t < step}
        expected.append(9 * len(alive))
    assert profile(fn, shape(3, 3)).live.tolist() == expected


# -- rules against XLA's cost analysis of the program as written

# (logistic is left out: XLA expands it to 3 flops and an exponential)
UNARY = ["neg", "abs", "floor", "ceil", "sign", "exp", "log", "tanh", "sin", "cos", "rsqrt", "sqrt", "expm1", "log1p"]


def xla(fn, *args):
    analysis = jax.jit(fn).lower(*args).cost_analysis()
    return analysis.get("flops", 0.0), analysis.get("transcendentals", 0.0)


@pytest.mark.parametrize("name", UNARY)
def test_unary_rules_equal_xla(name):
    fn, x = getattr(lax, name), shape(7, 9)
    table = profile(fn, x)
    assert (table.total("flops"), table.total("transcendentals")) == xla(fn, x)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "max", "min", "pow", "atan2"])
def test_binary_rules_equal_xla(name):
    fn, x = getattr(lax, name), shape(7, 9)
    table = profile(fn, x, x)
    assert (table.total("flops"), table.total("transcendentals")) == xla(fn, x, x)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jnp.sum(x, 1),
        lambda x: jnp.max(x),
        lambda x: lax.reduce_window(x, 0.0, lax.add, (2, 3), (1, 2), "VALID"),
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (2, 2), "VALID"),
        lambda x: jnp.where(x > 0, x, -x),
        lambda x: x @ x.T,
    ],
)
def test_reductions_and_products_equal_xla(fn):
    table = profile(fn, shape(7, 9))
    assert (table.total("flops"), table.total("transcendentals")) == xla(fn, shape(7, 9))


@pytest.mark.parametrize(
    ("fn", "n", "flops"),
    [
        (lambda x: jnp.sort(x), (1024,), 10 * 1024),  # n log2 n
        (lambda x: jnp.fft.fft(x), (1024,), 51_200 + 1024),  # 5 n log2 n, and a cast to complex
        (lambda x: jnp.fft.rfft(x), (1024,), 25_600),
        (lambda x: lax.linalg.cholesky(x, symmetrize_input=False), (128, 128), 699_050),  # n^3 / 3, tril included below
        (lambda x: lax.linalg.lu(x)[0], (12, 12), 1152),  # 2 n^3 / 3
        (lambda x: lax.linalg.triangular_solve(x, x), (12, 12), 12**3),
        (lambda x: lax.linalg.qr(x, full_matrices=False)[0], (12, 6), 2 * 36 * 10),
        (lambda x: x**5, (10,), 30),
        (lambda x: jnp.cumsum(x), (10,), 9),
        (lambda x: x.at[2:5].add(1.0), (10,), 3),
    ],
)
def test_textbook_flops(fn, n, flops):
    table = profile(fn, shape(*n))
    assert table.info.uncounted == ()
    main = max(table.flops) if "fft" not in table.info.op_names[-1] else table.total("flops")
    assert main == pytest.approx(flops, rel=0.03)


# -- what cannot be counted, and errors


def test_primitives_without_a_rule_are_listed():
    fn = lambda x: jnp.linalg.eig(x)[0].real * 2 + jnp.linalg.eig(x.T)[0].real  # noqa: E731
    table = profile(fn, shape(4, 4))
    assert table.info.uncounted == (("eig", 2),)
    assert "OTHER" in kinds(table)
    with pytest.raises(ValueError, match=r"product: no rule for eig \(x2\)"):
        profile(fn, shape(4, 4), strict=True, name="product")


def test_random_numbers_have_a_rule():
    fn = lambda k, x: x + jax.random.normal(k, (8,))  # noqa: E731
    assert profile(fn, jax.random.key(0), shape(8), strict=True).total("flops") > 8 * 57


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: profile(lambda x: x, shape(3)), "nothing to profile"),
        (lambda: profile(lambda x: x.reshape(-1), shape(3, 2)), "nothing to profile"),
        (lambda: profile(lambda x: x * 2, shape(3), weights=(0,)), "nothing to profile"),
        (lambda: profile(lambda x: x * 2, shape(3), weights=(1,)), r"weights = 1 is outside its range \[0, 0\]"),
        (lambda: profile(lambda x: x * 2, shape(3), trip_count=0), r"trip_count = 0 is outside its range \[1, inf\)"),
    ],
)
def test_profile_errors_are_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_nothing_is_allocated_or_run():
    table = profile(lambda w, x: x @ w, shape(2**17, 2**17), shape(1, 2**17), weights=(0,))  # 64 GiB if it were allocated
    assert table.total("macs") == 2**34


# -- the table itself


def test_make_table_checks_its_columns():
    with pytest.raises(ValueError, match="at least one operation"):
        make_table([])
    with pytest.raises(ValueError, match="unknown column 'mac'"):
        make_table([{"mac": 3}])
    with pytest.raises(ValueError, match="operation 1: macs = -1"):
        make_table([{"macs": 1}, {"macs": -1}])
    with pytest.raises(ValueError, match="operation 0: m = 0"):
        make_table([{"m": 0}])
    with pytest.raises(ValueError, match="flops = nan"):
        make_table([{"flops": float("nan")}])


def test_padding_adds_nothing():
    table = profile(lambda w, x: x @ w, shape(3, 4), shape(2, 3), weights=(0,))
    padded = table.padded(5)
    assert (padded.n_ops, padded.mask.tolist()) == (5, [True] + [False] * 4)
    assert padded.peak_live == table.peak_live
    for column in COUNTS:
        assert padded.total(column) == table.total(column)
    with pytest.raises(ValueError, match="n_ops = 0 is below"):
        table.padded(0)


def test_widths_change_bytes_only():
    table = profile(lambda w, x: x @ w, shape(3, 4), shape(2, 3), weights=(0,))
    narrow = table.with_bits(activation=8, weight=4)
    assert (table.bytes_in[0], table.bytes_out[0], table.bytes_weights[0]) == (24, 32, 48)
    assert (narrow.bytes_in[0], narrow.bytes_out[0], narrow.bytes_weights[0]) == (6, 8, 6)
    assert narrow.total("macs") == table.total("macs")
    with pytest.raises(ValueError, match="weight width = 0 bit"):
        table.with_bits(activation=8, weight=0)
