"""Decoder transformers as operation tables: prefill and decoding, grouped queries, mixtures of experts.

Per layer, for M tokens in each of B sequences that attend to C positions (those cached and their own):

    qkv      B M x (heads + 2 kv_heads) head_dim x d_model        scores   B kv_heads times (M heads / kv_heads) x C x head_dim
    out      B M x d_model x heads head_dim                       values   B kv_heads times (M heads / kv_heads) x head_dim x C
    up       B M x ffn (twice if gated) x d_model                 down     B M x d_model x ffn

`macs` of the attention are those of full rectangles; `macs_valid` leaves out the positions that causality masks. Keys and values
of the past are read, those of the new tokens written: KV bytes = 2 layers kv_heads head_dim positions sequences bits / 8.
Of a mixture, each token runs `top_k` experts; min(experts, tokens top_k) of them are read, each for an equal share of the tokens.
Hyper-parameters: the published configurations of the models, checked by the exact parameter totals in the tests.
"""

import dataclasses
from typing import Any

from workloads.ops import OpInfo, OpKind, OpTable, make_table


@dataclasses.dataclass(frozen=True)
class Transformer:
    """Hyper-parameters of a decoder. `positions` are learned position embeddings; `bias` goes with layer norms of two vectors."""

    name: str
    d_model: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    layers: int
    vocab: int
    tied: bool = False
    experts: int = 1
    top_k: int = 1
    gated: bool = True
    bias: bool = False
    positions: int = 0

    @property
    def qkv_width(self) -> int:
        """Outputs of the joint projection."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def up_width(self) -> int:
        """Outputs of the projection into one expert's hidden layer."""
        return self.ffn * (2 if self.gated else 1)

    @property
    def parameters(self) -> int:
        """All parameters, embeddings and norms included."""
        d, wide = self.d_model, self.heads * self.head_dim
        matrices = self.qkv_width * d + wide * d + self.experts * (self.up_width * d + self.ffn * d)
        router = self.experts * d if self.experts > 1 else 0
        biases = self.qkv_width + d + self.up_width + d if self.bias else 0
        norm = d * (2 if self.bias else 1)
        embeddings = self.vocab * d * (1 if self.tied else 2) + self.positions * d
        return self.layers * (matrices + router + biases + 2 * norm) + norm + embeddings

    def kv_elements(self, positions: int, sequences: int = 1) -> int:
        """Elements of keys and values kept for `positions` positions of each of `sequences` sequences."""
        return 2 * self.layers * self.kv_heads * self.head_dim * positions * sequences


TRANSFORMERS = {
    model.name: model
    for model in (
        Transformer("gpt2", 768, 12, 12, 64, 3072, 12, 50257, tied=True, gated=False, bias=True, positions=1024),
        Transformer("opt-125m", 768, 12, 12, 64, 3072, 12, 50272, tied=True, gated=False, bias=True, positions=2050),
        Transformer("llama-2-7b", 4096, 32, 32, 128, 11008, 32, 32000),
        Transformer("llama-2-13b", 5120, 40, 40, 128, 13824, 40, 32000),
        Transformer("llama-2-70b", 8192, 64, 8, 128, 28672, 80, 32000),
        Transformer("llama-3.1-8b", 4096, 32, 8, 128, 14336, 32, 128256),
        Transformer("llama-3.1-70b", 8192, 64, 8, 128, 28672, 80, 128256),
        Transformer("llama-3.2-1b", 2048, 32, 8, 64, 8192, 16, 128256, tied=True),
        Transformer("mistral-7b", 4096, 32, 8, 128, 14336, 32, 32000),
        Transformer("mixtral-8x7b", 4096, 32, 8, 128, 14336, 32, 32000, experts=8, top_k=2),
    )
}


def prefill(model: Transformer, tokens: int, sequences: int = 1, past: int = 0, bits: int = 16) -> OpTable:
    """The first pass over `tokens` new tokens of each sequence, after `past` cached positions; one row per operation.

    `bits` is the width of weights and activations. Raises ValueError for counts below 1 (`past`: below 0).
    """
    return _table(model, f"{model.name} prefill of {tokens}", tokens, sequences, past, bits)


def decode(model: Transformer, context: int, sequences: int = 1, bits: int = 16) -> OpTable:
    """One new token of each sequence, with `context` positions in all (cached and the new one, >= 1)."""
    _check("context", context, 1)
    return _table(model, f"{model.name} decode at {context}", 1, sequences, context - 1, bits)


def _check(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**31:
        raise ValueError(f"{name} = {value!r} is outside its range [{least}, {2**31 - 1}]")


class _Rows:
    """Rows under construction, with the edges between them."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.names: list[str] = []
        self.edges: list[tuple[int, int]] = []

    def add(self, name: str, row: dict[str, Any], *after: int) -> int:
        """Append one row that reads the results of the rows `after`."""
        self.rows.append(row)
        self.names.append(name)
        self.edges += [(producer, len(self.rows) - 1) for producer in after]
        return len(self.rows) - 1


def _table(model: Transformer, name: str, tokens: int, sequences: int, past: int, bits: int) -> OpTable:
    for field, value, least in (("tokens", tokens, 1), ("sequences", sequences, 1), ("past", past, 0)):
        _check(field, value, least)
    build = _Rows()
    stream = build.add("embed", _gathered(model, tokens * sequences))
    for layer in range(model.layers):
        stream = _layer(build, model, f"layer_{layer}", stream, tokens, sequences, past)
    final = build.add("norm", _norm(model, tokens * sequences), stream)
    build.add("lm_head", _product(sequences, model.vocab, model.d_model), final)  # of the last token of each sequence
    rows = [row | {"activation_bits": float(bits), "weight_bits": float(bits)} for row in build.rows]
    stream_elements = tokens * sequences * model.d_model
    for row in rows:
        row["live"] = row["inputs"] + row["outputs"] + (stream_elements if row["kind"] != OpKind.ELEMENTWISE else 0)
    peak = max(range(len(rows)), key=lambda i: rows[i]["live"])
    info = OpInfo(
        name=name,
        op_names=tuple(build.names),
        edges=tuple(build.edges),
        parameters=model.parameters,
        peak_op=peak,
        peak_tensors=(f"{build.names[peak]} inputs, outputs and the residual stream",),
        flags=("causal attention: macs of full rectangles, macs_valid without masked positions",),
    )
    return make_table(rows, info)


def _layer(build: _Rows, model: Transformer, name: str, stream: int, tokens: int, sequences: int, past: int) -> int:
    rows, d, wide = tokens * sequences, model.d_model, model.heads * model.head_dim
    normed = build.add(f"{name}/norm_1", _norm(model, rows), stream)
    qkv = build.add(f"{name}/qkv", _product(rows, model.qkv_width, d, bias=model.bias), normed)
    mixed = _attention(build, model, name, qkv, tokens, sequences, past)
    out = build.add(f"{name}/out", _product(rows, d, wide, bias=model.bias), mixed)
    stream = build.add(f"{name}/add_1", _sum(rows * d), stream, out)
    normed = build.add(f"{name}/norm_2", _norm(model, rows), stream)
    down = _feed_forward(build, model, name, normed, rows)
    return build.add(f"{name}/add_2", _sum(rows * d), stream, down)


def _attention(build: _Rows, model: Transformer, name: str, qkv: int, tokens: int, sequences: int, past: int) -> int:
    """Scores, softmax and weighted values of all heads; keys and values of the past come from the cache."""
    context, groups, per_group = past + tokens, sequences * model.kv_heads, model.heads // model.kv_heads
    seen = tokens * past + tokens * (tokens + 1) // 2  # pairs of a query and a position that it may see
    cached, queries = groups * context * model.head_dim, sequences * tokens * model.heads * model.head_dim
    pairs = sequences * model.heads * tokens * context
    product = dict(kind=OpKind.MATMUL, m=tokens * per_group, groups=groups, macs=pairs * model.head_dim)
    product |= dict(macs_valid=sequences * model.heads * seen * model.head_dim, flops=2 * pairs * model.head_dim)
    scores = build.add(f"{name}/scores", product | dict(n=context, k=model.head_dim, inputs=queries + cached, outputs=pairs), qkv)
    softmax = dict(kind=OpKind.REDUCE, flops=4 * pairs, transcendentals=pairs, inputs=pairs, outputs=pairs)
    shares = build.add(f"{name}/softmax", softmax, scores)
    values = product | dict(n=model.head_dim, k=context, inputs=pairs + cached, outputs=queries)
    return build.add(f"{name}/values", values, shares, qkv)


def _feed_forward(build: _Rows, model: Transformer, name: str, normed: int, rows: int) -> int:
    d, active = model.d_model, min(model.experts, rows * model.top_k)
    runs = rows * model.top_k  # pairs of a token and an expert
    before = [normed]
    if model.experts > 1:
        before.append(build.add(f"{name}/router", _product(rows, model.experts, d), normed))
    up = build.add(f"{name}/up", _product(runs, model.up_width, d, active, model.bias, rows * d), *before)
    hidden = runs * model.ffn
    gate = dict(kind=OpKind.ELEMENTWISE, flops=2 * hidden, transcendentals=hidden, inputs=runs * model.up_width, outputs=hidden)
    gated = build.add(f"{name}/activation", gate, up)
    return build.add(f"{name}/down", _product(runs, d, model.ffn, active, model.bias, hidden, rows * d), gated)


def _product(
    rows: int, n: int, k: int, matrices: int = 1, bias: bool = False, inputs: int | None = None, outputs: int | None = None
) -> dict[str, Any]:
    """`rows` rows through `matrices` matrices, an equal share each."""
    macs = rows * n * k
    return dict(
        kind=OpKind.DENSE,
        m=-(-rows // matrices),
        n=n,
        k=k,
        groups=matrices,
        macs=macs,
        macs_valid=macs,
        flops=2 * macs + (rows * n if bias else 0),
        inputs=rows * k if inputs is None else inputs,
        outputs=rows * n if outputs is None else outputs,
        weights=matrices * (n * k + (n if bias else 0)),
    )


def _norm(model: Transformer, rows: int) -> dict[str, Any]:
    """Mean square (and mean) of each row, its root, scale (and offset)."""
    elements = rows * model.d_model
    weights = model.d_model * (2 if model.bias else 1)
    flops = elements * (7 if model.bias else 4)
    return dict(kind=OpKind.REDUCE, flops=flops, transcendentals=rows, inputs=elements, outputs=elements, weights=weights)


def _sum(elements: int) -> dict[str, Any]:
    return dict(kind=OpKind.ELEMENTWISE, flops=elements, inputs=2 * elements, outputs=elements)


def _gathered(model: Transformer, rows: int) -> dict[str, Any]:
    elements = rows * model.d_model
    return dict(kind=OpKind.MOVE, inputs=rows, outputs=elements, weights=elements * (2 if model.positions else 1))
