"""Weight manifests: which byte ranges of a memory hold weights, keys and values, and activations.

The JSON form is that of AICrossSim/PLENA_Simulator (pull request 90):

    {"activation_ceiling": 0, "ddr_capacity_bytes": 536870912,
     "regions": [{"layer_id": 0, "offset": 0, "size": 294912, "kind": "weight", "name": "W_q_0"}]}

`kind` is "weight" (default), "kv" or "activation"; `ddr_capacity_bytes` and `name` may be left out. `activation_ceiling` is the
lowest address that host streaming takes for weights.

Overlap: an address belongs to the FIRST region of the file that holds it (`Manifest.find`). Overlapping regions are refused
unless asked for: `overlap="first"` keeps them under that rule (the published lookup), `overlap="clamp"` sorts by offset and
cuts each region where the next begins (the published generator). Footprints are plain sums of sizes in every case.

Regimes by capacity C, both comparisons inclusive: everything fits -> resident; weights fit -> kv-swap; else weight-stream.
Counts are Python integers, exact below 2**63.
"""

import dataclasses
import enum
import itertools
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

Overlap = Literal["error", "first", "clamp"]
LIMIT, LAYERS = 2**63, 2**32


class RegionKind(enum.IntEnum):
    """What a region holds."""

    WEIGHT = 0
    KV = 1
    ACTIVATION = 2


class Regime(enum.StrEnum):
    """How a memory of limited capacity serves a model that may not fit."""

    RESIDENT = "resident"  # everything stays in memory
    KV_SWAP = "kv-swap"  # weights stay; keys, values and activations are loaded region by region
    WEIGHT_STREAM = "weight-stream"  # weights come over the link at every read, the rest stays
    HOST_STREAM = "host-stream"  # every region above the activation ceiling comes over the link at every read
    LAYER_SWAP = "layer-swap"  # layers are loaded whole


class Footprint(NamedTuple):
    """Bytes occupied, by kind."""

    weight: int
    kv: int
    activation: int

    @property
    def total(self) -> int:
        """All bytes."""
        return self.weight + self.kv + self.activation


@dataclasses.dataclass(frozen=True)
class Region:
    """`size` bytes from `offset`, of layer `layer`."""

    offset: int
    size: int
    kind: RegionKind = RegionKind.WEIGHT
    layer: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        for field, top in (("offset", LIMIT), ("size", LIMIT), ("layer", LAYERS)):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < top:
                raise ValueError(f"region {self.name or self.offset!r}: {field} = {value!r} is outside its range [0, {top - 1}]")
        if self.offset + self.size > LIMIT:
            raise ValueError(f"region {self.name or self.offset!r}: end = {self.offset + self.size} B is above 2**63 B")

    @property
    def end(self) -> int:
        """First address behind the region."""
        return self.offset + self.size


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Regions in file order; `capacity` (B) of the memory where the file names it. Overlaps: see the module."""

    regions: tuple[Region, ...]
    activation_ceiling: int = 0
    capacity: int | None = None
    overlap: Overlap = "error"

    def __post_init__(self) -> None:
        check_count("activation_ceiling", self.activation_ceiling, 0)
        if self.capacity is not None:
            check_count("capacity", self.capacity, 1)
        if self.overlap == "clamp":
            object.__setattr__(self, "regions", clamp_regions(self.regions))
        elif self.overlap == "error":
            _check_disjoint(self.regions)

    @property
    def footprint(self) -> Footprint:
        """Bytes by kind: plain sums of sizes, overlaps counted as often as they are named."""
        return Footprint(*(sum(region.size for region in self.regions if region.kind == kind) for kind in RegionKind))

    @property
    def counts(self) -> Footprint:
        """Number of regions by kind."""
        return Footprint(*(sum(region.kind == kind for region in self.regions) for kind in RegionKind))

    def find(self, addresses: Any) -> np.ndarray:
        """Index of the first region that holds each of `addresses`, -1 where none does (any shape)."""
        edges = np.unique(np.array([x for region in self.regions for x in (region.offset, region.end)], np.int64))
        owners = np.full(edges.size + 1, -1)  # of the interval that ends at each edge
        for index in reversed(range(len(self.regions))):
            first, last = np.searchsorted(edges, (self.regions[index].offset, self.regions[index].end))
            owners[first + 1 : last + 1] = index
        return owners[np.searchsorted(edges, np.asarray(addresses, np.int64), side="right")]


def choose_regime(footprint: Footprint, capacity: int) -> Regime:
    """The regime that a memory of `capacity` bytes allows; a footprint equal to the capacity fits."""
    if footprint.total <= capacity:
        return Regime.RESIDENT
    return Regime.KV_SWAP if footprint.weight <= capacity else Regime.WEIGHT_STREAM


def resolve_capacity(manifest: Manifest, capacity: int | None) -> int:
    """The capacity (B) given, else the manifest's; ValueError if neither is there or it is below 1.

    In the published simulator the manifest's own value silently overrides the flag; here the argument wins.
    """
    chosen = manifest.capacity if capacity is None else capacity
    if chosen is None:
        raise ValueError("capacity is missing: neither the manifest nor the call names it (B)")
    return check_count("capacity", chosen, 1)


def check_count(name: str, value: Any, least: int) -> int:
    """`value` as an int; ValueError unless it is a whole number of bytes in [least, 2**63)."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not least <= value < LIMIT:
        raise ValueError(f"{name} = {value!r} B is outside its range [{least}, {LIMIT - 1}] B")
    return int(value)


def _check_disjoint(regions: Iterable[Region]) -> None:
    ordered = sorted((region for region in regions if region.size), key=lambda region: region.offset)
    for one, two in itertools.pairwise(ordered):
        if one.end > two.offset:
            first, second = (region.name or f"at {region.offset}" for region in (one, two))
            raise ValueError(
                f"regions {first!r} and {second!r} overlap from {two.offset} to {min(one.end, two.end)} B; "
                'overlap="first" or "clamp" accepts them'
            )


def clamp_regions(regions: Iterable[Region]) -> tuple[Region, ...]:
    """Regions sorted by offset, each cut where the next begins."""
    ordered = sorted(regions, key=lambda region: region.offset)
    following = [region.offset for region in ordered[1:]] + [LIMIT]
    pairs = zip(ordered, following, strict=True)
    return tuple(dataclasses.replace(region, size=min(region.size, start - region.offset)) for region, start in pairs)


def read_manifest(path: str | os.PathLike[str], overlap: Overlap = "error") -> Manifest:
    """The manifest of a JSON file; ValueError in one line for a file that is not one, and for overlaps (see the module)."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{os.fspath(path)}: not a manifest: {error}") from None
    return manifest_from_dict(content, overlap)


def manifest_from_dict(content: Any, overlap: Overlap = "error") -> Manifest:
    """The manifest that decoded JSON describes; ValueError for a missing field, a wrong type or an unknown kind."""
    if not isinstance(content, Mapping) or not isinstance(content.get("regions"), list):
        raise ValueError("a manifest is an object with a list of regions")
    if "activation_ceiling" not in content:
        raise ValueError("manifest: activation_ceiling (B) is missing")
    regions = tuple(_region(index, item) for index, item in enumerate(content["regions"]))
    limits = [_integer("manifest", field, content.get(field)) for field in ("activation_ceiling", "ddr_capacity_bytes")]
    return Manifest(regions, limits[0] or 0, limits[1], overlap)


def _integer(where: str, field: str, value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise ValueError(f"{where}: {field} = {value!r} is not a whole number")
    return value


def _region(index: int, item: Any) -> Region:
    if not isinstance(item, Mapping):
        raise ValueError(f"region {index} of the manifest is not an object")
    for field in ("layer_id", "offset", "size"):
        if field not in item:
            raise ValueError(f"region {index} of the manifest: {field} is missing")
        _integer(f"region {index} of the manifest", field, item[field])
    kinds = {kind.name.lower(): kind for kind in RegionKind}
    kind = item.get("kind", "weight")
    if kind not in kinds:
        raise ValueError(f"region {index} of the manifest: kind = {kind!r} is none of {', '.join(kinds)}")
    return Region(item["offset"], item["size"], kinds[kind], item["layer_id"], str(item.get("name", "")))


def manifest_to_dict(manifest: Manifest) -> dict[str, Any]:
    """The manifest as it is written to JSON; names and capacity only where they are known."""
    regions = [
        dict(layer_id=r.layer, offset=r.offset, size=r.size, kind=r.kind.name.lower()) | (dict(name=r.name) if r.name else {})
        for r in manifest.regions
    ]
    limit = {} if manifest.capacity is None else {"ddr_capacity_bytes": manifest.capacity}
    return {"activation_ceiling": manifest.activation_ceiling} | limit | {"regions": regions}


def write_manifest(manifest: Manifest, path: str | os.PathLike[str]) -> None:
    """Write the manifest as JSON."""
    Path(path).write_text(json.dumps(manifest_to_dict(manifest), indent=2) + "\n", encoding="utf-8")
