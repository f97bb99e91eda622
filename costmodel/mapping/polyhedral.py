"""Polyhedral estimates: what tiling, fusion and time tiling of affine loop nests do to traffic, before any code is transformed.

    question                                              answer
    how many elements does a tile touch                   footprints(nest, tile)
    what does a tiled nest move                           nest_traffic(nest, extents, tile, fast, memory="scratchpad" | "lru")
    which tile moves least                                search_tiles(nest, extents, fast); of an operation best_tiles(ops, fast)
    what does fusing nests save, or cost                  fuse(nests, extents, rows, fast)
    how much is computed again by overlapped tiles        overlap_redundancy(tile, stages), group_stages
    what does tiling in time save                         time_tiling(extent, steps, width, fast)
    what does a program move as it is written             reuse_profile(program, sizes), lru_misses(profile, fast)
    how little could it move                              io_lower_bound(kernel, fast, n=...)
    may it be transformed                                 check_tiling(program, band), check_fusion(program)

All quantities are elements; multiply by their size. `fast` is the capacity of the fast memory in elements, `best_tiles` alone
takes bytes, because operands have different widths. Closed forms are differentiable in extents, tiles and capacity under a soft
policy and batched by jax.vmap; laws, ranges and sources stand in the modules of `costmodel.mapping.affine`.
"""

from costmodel.mapping.affine.bounds import LowerBound, bound_sizes, io_lower_bound, list_bounds
from costmodel.mapping.affine.caches import Traffic, nest_traffic
from costmodel.mapping.affine.fusion import ChainTraffic, Fusion, fuse, group_stages, overlap_redundancy, overlapped_loads
from costmodel.mapping.affine.legality import Legality, check_fusion, check_tiling
from costmodel.mapping.affine.nests import Nest, Stream, footprints, make_nest
from costmodel.mapping.affine.polybench import list_polybench, polybench
from costmodel.mapping.affine.products import TiledTraffic, best_tiles
from costmodel.mapping.affine.programs import AffineProgram
from costmodel.mapping.affine.reuse import LruMisses, ReuseProfile, lru_misses, reuse_profile
from costmodel.mapping.affine.time_tiling import TimeTiling, time_tiling

__all__ = [
    "AffineProgram",
    "ChainTraffic",
    "Fusion",
    "Legality",
    "LowerBound",
    "LruMisses",
    "Nest",
    "ReuseProfile",
    "Stream",
    "TiledTraffic",
    "TimeTiling",
    "Traffic",
    "best_tiles",
    "bound_sizes",
    "check_fusion",
    "check_tiling",
    "footprints",
    "fuse",
    "group_stages",
    "io_lower_bound",
    "list_bounds",
    "list_polybench",
    "lru_misses",
    "make_nest",
    "nest_traffic",
    "overlap_redundancy",
    "overlapped_loads",
    "polybench",
    "reuse_profile",
    "time_tiling",
]
