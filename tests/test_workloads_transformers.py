"""Decoder transformers against their published parameter totals and hand-counted products."""

import jax
import numpy as np
import pytest

import workloads
from workloads import TRANSFORMERS, OpKind

# Published totals (model cards and papers of the ten models); KV elements per token = 2 layers kv_heads head_dim
PUBLISHED = {
    "gpt2": (124_439_808, 18_432),
    "opt-125m": (125_239_296, 18_432),
    "llama-2-7b": (6_738_415_616, 262_144),
    "llama-2-13b": (13_015_864_320, 409_600),
    "llama-2-70b": (68_976_648_192, 163_840),
    "llama-3.1-8b": (8_030_261_248, 65_536),
    "llama-3.1-70b": (70_553_706_496, 163_840),
    "llama-3.2-1b": (1_235_814_400, 16_384),
    "mistral-7b": (7_241_732_096, 65_536),
    "mixtral-8x7b": (46_702_792_704, 65_536),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_totals_are_the_published_ones(name):
    model = TRANSFORMERS[name]
    assert (model.parameters, model.kv_elements(1)) == PUBLISHED[name]
    table = workloads.decode(model, context=1000, sequences=3)
    kinds, macs = np.asarray(table.kind), np.asarray(table.macs)
    # attention of one new token: layers (q k^T and weights v) heads head_dim context
    assert macs[kinds == OpKind.MATMUL].sum() == 3 * 2 * model.layers * model.heads * model.head_dim * 1000
    # every product with weights once for each sequence: linear parameters without embeddings and norms
    linear = model.layers * (
        model.qkv_width * model.d_model
        + model.heads * model.head_dim * model.d_model
        + model.top_k * (model.up_width + model.ffn) * model.d_model
        + (model.experts * model.d_model if model.experts > 1 else 0)
    )
    assert macs[kinds == OpKind.DENSE].sum() == 3 * (linear + model.vocab * model.d_model)


def test_prefill_is_causal_and_adds_up_to_decoding():
    """Visible pairs of 7 tokens after 5: 7 * 5 + 7 * 8 / 2 = 63 for each head; decoding them one by one sees the same."""
    model = TRANSFORMERS["llama-3.2-1b"]
    table = workloads.prefill(model, tokens=7, past=5)
    attention = np.asarray(table.kind) == OpKind.MATMUL
    assert table.macs_valid[attention].sum() == 2 * model.layers * model.heads * model.head_dim * 63
    one_by_one = [workloads.decode(model, context=5 + i) for i in range(1, 8)]
    assert sum(t.macs_valid[attention].sum() for t in one_by_one) == table.macs_valid[attention].sum()


def test_grouped_queries_share_what_is_read():
    """Eight heads to two keys: the cache that a step reads is a quarter of that of full attention."""
    few = TRANSFORMERS["llama-2-70b"]
    table = workloads.decode(few, context=2048)
    row = table.info.op_names.index("layer_0/scores")
    assert (table.groups[row], table.m[row], table.n[row], table.k[row]) == (8, 8, 2048, 128)
    assert table.inputs[row] == 64 * 128 + 8 * 2048 * 128  # the queries and the keys


def test_mixtures_read_only_the_experts_they_use():
    model = TRANSFORMERS["mixtral-8x7b"]
    for tokens, active in ((1, 2), (2, 4), (4, 8), (100, 8)):
        table = workloads.prefill(model, tokens=tokens)
        row = table.info.op_names.index("layer_0/up")
        assert table.weights[row] == active * 2 * 14336 * 4096
        assert table.macs[row] == tokens * 2 * 2 * 14336 * 4096


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: workloads.decode(m, context=0), "context = 0"),
        (lambda m: workloads.prefill(m, tokens=0), "tokens = 0"),
        (lambda m: workloads.prefill(m, tokens=1, past=-1), "past = -1"),
    ],
)
def test_bad_counts_are_one_line(call, message):
    with pytest.raises(ValueError, match=message):
        call(TRANSFORMERS["gpt2"])


def test_tables_are_priced_like_any_other():
    import costmodel

    hw = costmodel.load_hardware("edge-gpu")
    short, long = (costmodel.estimate(hw, workloads.decode(TRANSFORMERS["gpt2"], context=c)) for c in (16, 1024))
    assert jax.numpy.isfinite(long.latency) and long.latency > short.latency
