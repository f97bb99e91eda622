"""Manifests: the JSON form, overlaps, naming rules, generation from compilers, tables and files; formats; boards.

Reference: AICrossSim/PLENA_Simulator pull request 90 and the compiled clm60m layer.
"""

import json

import jax
import numpy as np
import pytest

import workloads
from costmodel import (
    BlockFormat,
    Footprint,
    Manifest,
    Region,
    RegionKind,
    decoder_manifest,
    estimate,
    full_footprint,
    generate_manifest,
    kind_of,
    layer_of,
    list_boards,
    list_formats,
    load_board,
    load_format,
    manifest_from_ops,
    read_manifest,
    trace_ops,
    write_manifest,
)
from costmodel.memory.boards import EARLIER_LATENCIES
from costmodel.memory.validation import CLM60M, clm60m_trace
from physics import describe, replace

pytestmark = pytest.mark.single  # whole numbers: the same in either precision

W, KV, ACT = RegionKind


# Formats --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns, per_element", [(64, 2.0), (128, 1.5), (256, 1.25), (512, 1.125)])
def test_a_row_moves_more_than_it_occupies(columns, per_element):
    # (64 ceil(m / 64) + 64) / m bytes per element of MXFP8 in blocks of 8; footprint 9 / 8
    fmt = load_format("plena-mxfp8")
    assert fmt.row_traffic(columns) == fmt.row_traffic(columns, "one") == per_element * columns
    assert fmt.footprint(columns) == 1.125 * columns and fmt.bits == 9


def test_scales_beyond_one_block():
    # 1024 elements: 1024 B and 128 B of scales, two blocks; the published rule reads one
    fmt = load_format("plena-mxfp8")
    assert (fmt.row_traffic(1024), fmt.row_traffic(1024, "one")) == (1152, 1088)
    assert load_format("mxfp8").bits == 8.25 and load_format("mxfp4").bits == 4.25 and load_format("fp16").row_traffic(32) == 64
    assert fmt.footprint(7) == 7 and load_format("mxfp4").footprint(3) == 1  # 7.875 and 1.59 B, rounded down


# Manifests ------------------------------------------------------------------------------------------------------------


def test_json_round_trip(tmp_path):
    manifest = decoder_manifest(CLM60M, 64, 256, alignment=65536, capacity=2**29)
    write_manifest(manifest, tmp_path / "m.json")
    assert read_manifest(tmp_path / "m.json") == manifest
    content = json.loads((tmp_path / "m.json").read_text())
    assert set(content) == {"activation_ceiling", "ddr_capacity_bytes", "regions"}
    assert content["regions"][6] == {"layer_id": 0, "offset": 917504, "size": 294912, "kind": "weight", "name": "W_q_0"}


def test_kind_is_weight_and_capacity_open_by_default(tmp_path):
    path = tmp_path / "m.json"
    path.write_text('{"activation_ceiling": 0, "regions": [{"layer_id": 3, "offset": 64, "size": 128}]}')
    manifest = read_manifest(path)
    assert manifest.regions == (Region(64, 128, W, 3),) and manifest.capacity is None and manifest.footprint == (128, 0, 0)


OVERLAPPING = (Region(0, 100, W, 0, "a"), Region(50, 100, KV, 1, "b"), Region(200, 10, ACT, 2, "c"))


def test_overlaps_are_refused_kept_or_cut():
    with pytest.raises(ValueError, match="regions 'a' and 'b' overlap from 50 to 100 B"):
        Manifest(OVERLAPPING)
    first, cut = Manifest(OVERLAPPING, overlap="first"), Manifest(OVERLAPPING, overlap="clamp")
    points = [0, 49, 50, 99, 100, 149, 150, 199, 200, 209, 210]
    assert first.find(points).tolist() == [0, 0, 0, 0, 1, 1, -1, -1, 2, 2, -1] and first.footprint == (100, 100, 10)
    assert cut.find(points).tolist() == [0, 0, 1, 1, 1, 1, -1, -1, 2, 2, -1] and cut.footprint == (50, 100, 10)


def test_first_match_against_a_search():
    rng = np.random.default_rng(0)
    for _ in range(30):
        regions = tuple(Region(int(o), int(s)) for o, s in zip(rng.integers(0, 60, 8), rng.integers(0, 30, 8), strict=True))
        manifest, points = Manifest(regions, overlap="first"), np.arange(100)
        slow = [next((i for i, r in enumerate(regions) if r.offset <= p < r.end), -1) for p in points]
        assert manifest.find(points).tolist() == slow
    assert Manifest(()).find([1, 2]).tolist() == [-1, -1]


REGION = '{"activation_ceiling": 0, "regions": [{"layer_id": 0, "offset": %s, "size": %s%s}]}'


@pytest.mark.parametrize("text, message", [
    ("[]", "a manifest is an object with a list of regions"),
    ("{", "not a manifest"),
    ('{"regions": []}', r"activation_ceiling \(B\) is missing"),
    ('{"activation_ceiling": 0, "regions": [{"layer_id": 0, "offset": 0}]}', "region 0 of the manifest: size is missing"),
    (REGION % (-1, 1, ""), "offset = -1 is outside its range"),
    (REGION % (0, 1.5, ""), "region 0 of the manifest: size = 1.5 is not a whole number"),
    (REGION % (0, 1, ', "kind": "bias"'), "none of weight, kv"),
    ('{"activation_ceiling": 0, "ddr_capacity_bytes": 0, "regions": []}', r"capacity = 0 B is outside its range \[1, "),
    (REGION % (2**63 - 1, 9, ""), "above 2\\*\\*63 B"),
])  # fmt: skip
def test_bad_manifests(tmp_path, text, message):
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_manifest(path)


# Names and generation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, kind, layer", [
    ("W_q_3", W, 3), ("W_k_2_h1", W, 2), ("K_stored_4_h0", KV, 4), ("V_stored_4_h1", KV, 4), ("V_K_stored_2", KV, 2),
    ("K_4_h0", ACT, 4), ("V_W_fc1_4", W, 4), ("V_B_fc2_7", W, 7), ("V_LN1_5_weight", W, 5), ("V_POST_LN_weight", W, None),
    ("V_PATCH_W", W, None), ("V_PATCH_OUT", ACT, None), ("V_CONNECTOR_B", W, None), ("vision_post_ln", ACT, None),
    ("vision_l4_ln1", ACT, 4), ("X", ACT, None), ("causal_mask", ACT, None), ("R_rope", ACT, None), ("O_proj_6", ACT, 6),
])  # fmt: skip
def test_naming_rules(name, kind, layer):
    assert (kind_of(name), layer_of(name)) == (kind, layer)


def test_clm60m_from_its_hyper_parameters():
    # compiled: 9 weights, 4 keys and values, 6 activations of 3,833,856, 294,912 and 589,824 B; 2,267,136 B of weights at mlen 64
    wide, narrow = (decoder_manifest(CLM60M, 64, mlen, alignment=alignment) for mlen, alignment in ((256, 65536), (64, 1)))
    assert wide.footprint == (3_833_856, 294_912, 589_824) and wide.counts == narrow.counts == (9, 4, 6)
    assert narrow.footprint == (2_267_136, 18_432, 73_728) and (wide.activation_ceiling, narrow.activation_ceiling) == (
        917504,
        73728,
    )
    # weights 52 tiles x 256 rows x 320 B; 64 tiles, 448 and 256 groups of 4 rows in all
    trace = clm60m_trace()
    kinds = np.array([region.kind for region in wide.regions])[wide.find(trace.addresses)]
    assert (
        trace.bytes == 6_144_000 == (64 * 256 + 448 * 4 + 256 * 4) * 320
        and 64 * int((kinds == W).sum()) == 4_259_840 == 52 * 81920
    )


def test_generated_from_a_compiler_by_precedence():
    addresses = {"W_q_0": 0, "K_stored_0_h0": 256, "X": 512, "W_o_1": 1024, "tail": 2048, "unmapped": None}
    sizes, shapes = {"W_q_0": 300, "K_stored_0_h0": None}, {"W_q_0": (4, 4), "X": (10, 10)}
    found = generate_manifest(addresses, sizes, shapes, capacity=4096, shared_layers="published")
    rows = [(r.name, r.size, r.kind, r.layer) for r in found.manifest.regions]
    # W_q_0: 300 B cut where the cache begins; the cache reaches to X; X = floor(100 x 9 / 8) B in layer 0; tail has no size
    assert rows == [("W_q_0", 256, W, 0), ("K_stored_0_h0", 256, KV, 0), ("X", 112, ACT, 0), ("W_o_1", 1024, W, 1)]
    assert found.sized_by == {"W_q_0": "sizes", "K_stored_0_h0": "gap", "X": "shapes", "W_o_1": "gap"}
    assert (found.clamped, found.unsized, found.unplaced) == (("W_q_0",), ("tail",), ("unmapped",))
    assert [r.layer for r in generate_manifest(addresses, sizes, shapes).manifest.regions] == [0, 0, 2, 1]  # X apart


def test_full_model_estimate_with_and_without_what_layers_share():
    manifest = decoder_manifest(CLM60M, 64, 64)
    assert full_footprint(manifest, 8) == (8 * 2_267_136, 8 * 18_432, 73_728)
    assert full_footprint(manifest, 8, Footprint(1000, 0, 5)).weight == 8 * 2_267_136 + 1000


def test_transformer_tables_keep_every_parameter_and_key():
    model = workloads.TRANSFORMERS["llama-2-7b"]
    found = manifest_from_ops(workloads.decode(model, 1024), layers="names").manifest
    assert found.footprint[:2] == (2 * model.parameters, 2 * model.kv_elements(1024))  # fp16
    assert found.counts.kv == 2 * 32 and len({r.layer for r in found.regions if r.kind == KV}) == 32
    assert all(kind_of(r.name) == r.kind for r in found.regions)


def test_onnx_file(tmp_path):
    onnx = pytest.importorskip("onnx")
    h = onnx.helper
    graph = h.make_graph(
        [h.make_node("Gemm", ["x", "w", "b"], ["y"]), h.make_node("Relu", ["y"], ["z"])], "net",
        [h.make_tensor_value_info("x", 1, [1, 64])], [h.make_tensor_value_info("z", 1, [1, 32])],
        [h.make_tensor("w", 1, [64, 32], np.zeros(2048)), h.make_tensor("b", 1, [32], np.zeros(32))],
    )  # fmt: skip
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)]), tmp_path / "net.onnx")
    placed = manifest_from_ops(tmp_path / "net.onnx", fmt="plena-mxfp8", capacity=10_000)
    assert placed.manifest.footprint.weight == 2080 * 9 // 8 and placed.manifest.capacity == 10_000
    trace = trace_ops(placed, burst=16, writes=True)
    assert trace.bytes >= 2340 and trace.writes.any() and (placed.manifest.find(trace.addresses) >= 0).all()


def test_bad_generation():
    small = decoder_manifest(CLM60M, 64, 64)
    for make, message in (
        (lambda: generate_manifest({"a": None}), "at least one name with an address"),
        (lambda: full_footprint(small, 0), "layers = 0"),
        (lambda: decoder_manifest(CLM60M, 0, 64), "tokens = 0"),
        (lambda: load_format("mxfp9"), "unknown format 'mxfp9'; close: mxfp"),
        (lambda: BlockFormat("x", 8).row_traffic(0), "elements = 0"),
        (lambda: load_board("nexys"), "unknown board 'nexys'; close: nexys_video"),
        (lambda: trace_ops(manifest_from_ops(workloads.decode(workloads.TRANSFORMERS["llama-2-7b"], 8))), "too many to replay"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    assert "plena-mxint4" in list_formats()


# Boards ---------------------------------------------------------------------------------------------------------------


def test_boards_as_published():
    assert list_boards() == ("nexys_video", "custom_a7", "v80")
    links = [float(load_board(name).host_bandwidth) for name in ("nexys_video", "custom_a7")]
    assert links == [4.75e6, 1.5e9] and float(load_board("custom_a7").capacity) == 2**29
    v80 = load_board("v80")
    assert (float(v80.clock), float(v80.capacity), float(v80.systolic)) == (pytest.approx(400e6), 2**35, 0)
    assert "assumed: PCIe" in str(describe(v80))


def test_transfers_are_counted_in_bytes():
    # mlen 256: 256 rows x 320 B = 81,920 B at 1 GB/s and 100 MHz: 8,192 cycles; mlen 64: 64 x 128 B = 8,192 B: 820; published 400
    board = load_board("custom_a7")
    assert float(board.instruction_cycles("H_PREFETCH_M")) == 8192
    assert float(replace(board, {"mlen": 64}).instruction_cycles("H_PREFETCH_M")) == 820
    assert float(board.instruction_cycles("H_PREFETCH_M", "published")) == 400
    earlier = replace(board, EARLIER_LATENCIES)
    assert [float(b.instruction_cycles("V_EXP_V")) for b in (board, earlier)] == [15, 6]


def test_a_board_prices_a_table():
    # 64 x 512 x 512: 1 x 8 tiles of blen 64, each 2 products of mlen 256 in 264 cycles and one write-out
    table = workloads.make_table([dict(kind=2, m=64, n=512, k=512, macs=64 * 512 * 512, flops=2 * 64 * 512 * 512)])
    cost = jax.jit(estimate)(load_board("custom_a7"), table)
    assert float(cost.latency) == pytest.approx((8 * 2 * 264 + 8) / 100e6, rel=1e-5)
