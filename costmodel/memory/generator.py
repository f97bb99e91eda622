"""Manifests made from what a compiler left behind, from an operation table, or from a decoder's hyper-parameters.

Names carry the kind and the layer (rules of AICrossSim/PLENA_Simulator, make_weight_manifest.py):

    kv           `K_stored_` or `V_stored_` at the start or after an underscore (a bare K_0_h0 is an activation)
    weight       W_, V_W_, V_B_, V_LN1_, V_LN2_, V_POST_LN_ at the start; V_PATCH_W, V_PATCH_BIAS_POS, V_CONNECTOR_W and _B
    activation   everything else
    layer        the first integer of the name, after a trailing head number `_h3` and the digits of fc1, fc2, ln1, ln2 are gone

The published rule gives a name without a number layer 0, which merges embeddings and tables into that layer and inflates
layer swapping. `shared_layers="own"`, the default here, gives each of them a layer of its own.
"""

import os
import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Literal, NamedTuple

import numpy as np

from costmodel.memory.formats import CHUNK, BlockFormat, load_format
from costmodel.memory.manifests import Footprint, Manifest, Region, RegionKind
from costmodel.memory.traces import MemoryTrace, trace_bursts
from workloads import OpKind, OpTable, Transformer, load

KV_NAME = re.compile(r"(^|_)[KV]_stored_")
WEIGHT_PREFIXES = ("W_", "V_W_", "V_B_", "V_LN1_", "V_LN2_", "V_POST_LN_")
WEIGHT_NAMES = frozenset({"V_PATCH_W", "V_PATCH_BIAS_POS", "V_CONNECTOR_W", "V_CONNECTOR_B"})
HEAD, NUMBERED, INTEGER = re.compile(r"_h\d+$"), re.compile(r"(?i)(fc|ln)[12]"), re.compile(r"\d+")
LONGEST = 2**22  # chunks of a trace made from a table: 256 MiB of traffic, some 20 s of replay


class Generated(NamedTuple):
    """A manifest, and where its sizes came from ("sizes", "shapes" or "gap" by name); names left out, and regions cut."""

    manifest: Manifest
    sized_by: dict[str, str]
    unsized: tuple[str, ...]
    unplaced: tuple[str, ...]
    clamped: tuple[str, ...]


class Placed(NamedTuple):
    """The manifest of an operation table, and which regions each row reads and writes, with bytes: (region, bytes) pairs."""

    manifest: Manifest
    reads: tuple[tuple[tuple[int, int], ...], ...]
    writes: tuple[tuple[tuple[int, int], ...], ...]


def kind_of(name: str) -> RegionKind:
    """What a region called `name` holds, see the module."""
    if KV_NAME.search(name):
        return RegionKind.KV
    return RegionKind.WEIGHT if name in WEIGHT_NAMES or name.startswith(WEIGHT_PREFIXES) else RegionKind.ACTIVATION


def layer_of(name: str) -> int | None:
    """The layer a name speaks of, None if it holds no such number (the published rule takes 0 then)."""
    found = INTEGER.search(NUMBERED.sub(lambda match: match.group(0)[:-1], HEAD.sub("", name)))
    return int(found.group()) if found else None


def _layers(names: Sequence[str], shared: Literal["own", "published"]) -> list[int]:
    found = [layer_of(name) for name in names]
    following = max((layer for layer in found if layer is not None), default=-1) + 1
    result = []
    for layer in found:
        result.append(layer if layer is not None else 0 if shared == "published" else following)
        following += layer is None
    return result


def generate_manifest(
    addresses: Mapping[str, int | None],
    sizes: Mapping[str, int | None] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    capacity: int | None = None,
    fmt: BlockFormat | str = "plena-mxfp8",
    shared_layers: Literal["own", "published"] = "own",
) -> Generated:
    """The manifest of a compiler's memory map: base `addresses` (B) by name, with `sizes` (B) or else `shapes` (elements).

    A name with neither is taken to reach to the next address, an upper bound; the last one is then left out, and so are names
    without an address. Regions that overlap are cut where the next begins. ValueError if nothing is left.
    """
    block = load_format(fmt) if isinstance(fmt, str) else fmt
    placed = sorted(((name, at) for name, at in addresses.items() if isinstance(at, int)), key=lambda item: item[1])
    known, found = [], {}
    for index, (name, at) in enumerate(placed):
        gap = placed[index + 1][1] - at if index + 1 < len(placed) else 0
        shape = (shapes or {}).get(name)
        candidates = {"sizes": (sizes or {}).get(name), "shapes": block.footprint(prod(shape)) if shape else 0, "gap": gap}
        source = next((source for source, size in candidates.items() if size and size > 0), None)
        if source is not None:
            known.append((name, at, int(candidates[source] or 0)))
            found[name] = source
    if not known:
        raise ValueError("a manifest needs at least one name with an address (B) and a size (B)")
    layers = _layers([name for name, _, _ in known], shared_layers)
    regions = tuple(Region(at, size, kind_of(name), layer, name) for (name, at, size), layer in zip(known, layers, strict=True))
    manifest = Manifest(regions, _ceiling(regions), capacity, overlap="clamp")
    cut = [r.name for r, whole in zip(manifest.regions, regions, strict=True) if r.size < whole.size]
    unsized = tuple(name for name, _ in placed if name not in found)
    return Generated(manifest, found, unsized, tuple(n for n, at in addresses.items() if not isinstance(at, int)), tuple(cut))


def _ceiling(regions: Sequence[Region]) -> int:
    """The lowest address of a weight, as published; 0 without weights."""
    return min((region.offset for region in regions if region.kind == RegionKind.WEIGHT), default=0)


def full_footprint(manifest: Manifest, layers: int, shared: Footprint = Footprint(0, 0, 0)) -> Footprint:
    """Bytes of a model of `layers` layers like those of `manifest`, plus what all layers share (embeddings, output matrix).

    The published estimate has no `shared` bytes. Activations are taken as they are: a floor. ValueError for layers below 1.
    """
    if layers < 1:
        raise ValueError(f"layers = {layers} is outside its range [1, inf)")
    held = len({region.layer for region in manifest.regions if region.kind != RegionKind.ACTIVATION}) or 1
    weight, kv, activation = manifest.footprint
    return Footprint(weight * layers // held + shared.weight, kv * layers // held + shared.kv, activation + shared.activation)


def _stacked(items: Sequence[tuple[str, int, RegionKind | None]], alignment: int, layers: Sequence[int]) -> tuple[Region, ...]:
    """Regions one behind the other, each start rounded up to `alignment`; kind by name where it is None."""
    regions, at = [], 0
    for (name, size, kind), layer in zip(items, layers, strict=True):
        regions.append(Region(at, size, kind_of(name) if kind is None else kind, layer, name))
        at += -(-size // alignment) * alignment
    return tuple(regions)


def decoder_manifest(
    model: Transformer, tokens: int, mlen: int, *, alignment: int = CHUNK, capacity: int | None = None
) -> Manifest:
    """The regions of a decoder as PLENA's compiler lays them out: every dimension padded to `mlen`, MXFP8 in blocks of 8.

    One region per projection and per key/value head; no embeddings (the compiled program starts behind them).
    """
    if tokens < 1 or mlen < 1:
        raise ValueError(f"tokens = {tokens}, mlen = {mlen}; both are outside [1, inf)")
    fmt = load_format("plena-mxfp8")
    padded = lambda n: -(-n // mlen) * mlen  # noqa: E731
    rows, d, head, ffn = (padded(n) for n in (tokens, model.d_model, model.head_dim, model.ffn))
    wide = padded(model.heads * model.head_dim)
    shapes: list[tuple[str, int, int]] = [("X", rows, d), ("POS", rows, d), ("R_rope", head, head)]
    shapes += [("COS", rows, head), ("SIN", rows, head), ("causal_mask", rows, rows)]
    for layer in range(model.layers):
        shapes += [(f"W_q_{layer}", d, wide), (f"W_o_{layer}", wide, d)]
        for kv in range(model.kv_heads):
            shapes += [(f"W_k_{layer}_h{kv}", d, head), (f"W_v_{layer}_h{kv}", d, head)]
        shapes += [(f"W_gate_{layer}", d, ffn)] * model.gated + [(f"W_up_{layer}", d, ffn), (f"W_down_{layer}", ffn, d)]
    for layer in range(model.layers):
        for kv in range(model.kv_heads):
            shapes += [(f"K_stored_{layer}_h{kv}", rows, head), (f"V_stored_{layer}_h{kv}", rows, head)]
    items = [(name, fmt.footprint(m * n), None) for name, m, n in shapes]
    regions = _stacked(items, alignment, _layers([name for name, _, _ in items], "published"))
    return Manifest(regions, _ceiling(regions), capacity)


def manifest_from_ops(
    ops: OpTable | str | os.PathLike[str],
    *,
    fmt: BlockFormat | str | None = None,
    capacity: int | None = None,
    alignment: int = CHUNK,
    layers: Literal["rows", "names"] = "rows",
    cache: bool = True,
) -> Placed:
    """The regions of an operation table, or of a network by name or file (.onnx, .tflite), and what each row reads and writes.

    Weights W_<row>; second operands of products of two activations K_stored_<row> and V_stored_<row> in turn (`cache=False`:
    they are activations); one region X for the largest set of live activations. Parameters that no row reads in full, an
    embedding's, count whole. `fmt` replaces the table's own widths. `layers`: every row with weights its own, or by name (see
    the module). Weights that several rows share are counted for each. ValueError for an alignment below 1.
    """
    table = ops if isinstance(ops, OpTable) else load(ops)
    if alignment < 1:
        raise ValueError(f"alignment = {alignment} B is outside its range [1, inf) B")
    block = load_format(fmt) if isinstance(fmt, str) else fmt
    names = table.info.op_names if table.info else tuple(f"op_{row}" for row in range(table.n_ops))

    def size(elements: float, bits: float) -> int:
        return block.footprint(int(elements)) if block else int(elements) * int(bits) // 8

    held = _held_weights(table)
    items: list[tuple[str, int, RegionKind | None]] = [("X", size(table.peak_live, float(np.max(table.activation_bits))), None)]
    owners, reads, writes = [0], [], []
    for row in np.flatnonzero(table.mask):
        act, weight = float(table.activation_bits[row]), float(table.weight_bits[row])
        mine, kept = [], 0.0
        if held[row]:
            mine.append((len(items), size(float(table.weights[row]), weight)))
            items.append((f"W_{names[row]}", size(held[row], weight), RegionKind.WEIGHT))
            owners.append(int(row))
        if table.kind[row] == OpKind.MATMUL and cache:
            kept = float(table.groups[row]) * float(table.n[row]) * float(table.k[row])
            letter = "KV"[sum(kind == RegionKind.KV for _, _, kind in items) % 2]
            mine.append((len(items), size(kept, act)))
            items.append((f"{letter}_stored_{names[row]}", size(kept, act), RegionKind.KV))
            owners.append(int(row))
        mine.append((0, size(max(float(table.inputs[row]) - kept, 0.0), act)))
        reads.append(tuple(mine))
        writes.append(((0, size(float(table.outputs[row]), act)),))
    numbers = owners if layers == "rows" else _layers([name for name, _, _ in items], "own")
    regions = _stacked(items, alignment, numbers)
    return Placed(Manifest(regions, _ceiling(regions), capacity), tuple(reads), tuple(writes))


def _held_weights(table: OpTable) -> np.ndarray:
    """Parameter elements kept per row: what it reads, and for a gather (embedding) all that no other row reads."""
    held = np.where(table.mask, np.asarray(table.weights, np.float64), 0.0)
    gathers = (np.asarray(table.kind) == OpKind.MOVE) & (held > 0)
    if table.info is not None and gathers.any():
        rest = max(table.info.parameters - held[~gathers].sum(), 0.0)
        held = np.where(gathers, rest / gathers.sum(), held)
    return held


def trace_ops(placed: Placed, burst: int = 64, writes: bool = False) -> MemoryTrace:
    """The trace of one run, row by row: every region from its start, `burst` chunks of 64 B at a time; outputs if `writes`.

    ValueError for a burst below 1, or if the run moves more than 2**22 chunks (replays are made access by access).
    """
    if burst < 1:
        raise ValueError(f"burst = {burst} chunks is outside its range [1, inf)")
    moves = []
    for read, written in zip(placed.reads, placed.writes, strict=True):
        moves += [(region, size, False) for region, size in read] + [(region, size, True) for region, size in written if writes]
    chunks = [-(-size // CHUNK) for _, size, _ in moves]
    if sum(chunks) > LONGEST:
        raise ValueError(f"the run moves {sum(chunks)} chunks of 64 B, outside [1, {LONGEST}]: too many to replay one by one")
    bursts, flags = [], []
    for (region, _, write), count in zip(moves, chunks, strict=True):
        start, length = placed.manifest.regions[region].offset, max(placed.manifest.regions[region].size, 1)
        addresses = start + (CHUNK * np.arange(count)) % (-(-length // CHUNK) * CHUNK)
        parts = [part for part in np.split(addresses, range(burst, count, burst)) if part.size]
        bursts += parts
        flags += [write] * len(parts)
    return trace_bursts(bursts, flags)
