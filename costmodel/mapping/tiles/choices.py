"""Which tile to take: all of them scored, by gradient through the relaxed model, or the largest that fits.

    exhaustive   every tiling, scored in batches, then the recurrence from the best score on until no other score is below
                 the shortest found: the best there is, or the best of 32 where so many did not settle it. Of nests too large
                 for that, the smallest tiles of each count: along a loop of E iterations the sizes ceil(E / n)
    gradient     the relaxed model: Adam on  log cycles + weight softplus((use / C - 1) / sharp)  over the logarithms of the
                 sizes, from several starts; then the whole sizes around each end point, scored by the hard model
    largest      the tile whose buffers take most bytes, ties to the most iterations: what DORY's and Deeploy's solvers maximise
                 (Deeploy has no cycle objective at all)
    first        Deeploy's solver as it searches: loops in order, each as large as still fits with the rest at 1

Every rule minimises or ignores the same cycles under the same constraint, so their results can be set side by side.
"""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from costmodel.mapping.tiles.constraints import Nest, memory_use
from costmodel.mapping.tiles.levels import Dma, Kernels
from costmodel.mapping.tiles.scores import MOST_TILES, exact_stages, score
from costmodel.relax import soft
from physics.params import unknown_name

RULES = ("exhaustive", "gradient", "largest", "first")
MOST = 1 << 20  # tilings of one nest that are scored one by one
CHUNK = 256  # at once: all that is computed for them stays in the innermost cache
BATCH = 1 << 11  # in one call
SMALL = 128  # tilings of a small batch
FEW = 32  # tilings whose recurrence is run at most
STARTS, STEPS, RATE, SHARP, WEIGHT = 8, 120, 0.1, 0.02, 10.0


class Choice(NamedTuple):
    """A tile (iterations of each loop), its cycles by the recurrence (by `score` beyond `MOST_TILES` tiles), its bytes, its
    number of tiles, and how many tilings were scored.
    """

    tile: tuple[int, ...]
    cycles: float
    use: float
    tiles: int
    evaluated: int


def candidates(extents: tuple[int, ...], most: int = MOST) -> np.ndarray:
    """Tile sizes (tilings, loops) to try: all, or those of distinct counts where all would be more than `most`.

    If even those are too many, the counts along the longest loops are thinned to powers of two.
    """
    axes = [np.arange(1, e + 1) for e in extents]
    if math.prod(map(len, axes)) > most:
        axes = [np.unique(-(-e // np.arange(1, e + 1))) for e in extents]
    while math.prod(map(len, axes)) > most:
        longest = max(range(len(axes)), key=lambda d: len(axes[d]))
        keep = np.unique(np.geomspace(1, extents[longest], max(len(axes[longest]) // 2, 2)).astype(int))
        axes[longest] = np.unique(np.append(keep, extents[longest]))
    grid = np.meshgrid(*axes, indexing="ij")
    return np.stack([g.ravel() for g in grid], axis=-1)


@jax.jit(static_argnames="double")
def score_tilings(
    nest: Nest, tiles: Float[Array, "tilings loops"], link: Dma, kernels: Kernels, *, double: bool
) -> tuple[Float[Array, " tilings"], Float[Array, " tilings"]]:
    """Cycles and bytes of many tilings of one nest, in chunks that stay in the cache."""
    each = jax.vmap(lambda tile: (score(nest, tile, link, kernels, double=double), memory_use(nest, tile)))
    count = tiles.shape[0]
    chunk = min(CHUNK, count)
    room = -(-count // chunk) * chunk
    padded = jnp.pad(tiles, ((0, room - count), (0, 0)), constant_values=1.0).reshape(-1, chunk, tiles.shape[1])
    cycles, use = jax.lax.map(each, padded)
    return cycles.reshape(-1)[:count], use.reshape(-1)[:count]


def choose_tile(
    nest: Nest, link: Dma, kernels: Kernels, size: float, *, double: bool, rule: str = "exhaustive", most: int = MOST
) -> Choice:
    """The tile of a nest for `size` bytes by one of `RULES`.

    Raises ValueError for an unknown rule, or if not even one iteration fits.
    """
    if rule not in RULES:
        raise ValueError(unknown_name("tile rule", rule, RULES))
    extents = tuple(int(e) for e in np.rint(np.asarray(nest.extents)))
    if rule == "first":
        tiles = _in_order(nest, extents, size)
    elif rule == "gradient":
        tiles = _descend(nest, link, kernels, size, double, extents)
    else:
        tiles = candidates(extents, most)
    cycles, use = _scored(nest, tiles, link, kernels, double)
    fits = use <= size
    if not fits.any():
        raise ValueError(f"the smallest tile takes {use.min():,.0f} B; the level's size = {size:,.0f} B")
    if rule == "largest":
        order = np.lexsort((-np.prod(tiles.astype(float), axis=1), -use))
        order = order[fits[order]][:1]
    else:
        order = np.argsort(np.where(fits, cycles, np.inf), kind="stable")[: min(FEW, int(fits.sum()))]
    best: Choice | None = None
    for i in order:  # a score is never above the recurrence, so the rest cannot be faster once the scores are not
        if best is not None and cycles[i] >= best.cycles:
            break
        found = _choice(nest, tiles[i], extents, link, kernels, double, float(cycles[i]), float(use[i]), len(tiles))
        best = found if best is None or found.cycles < best.cycles else best
    assert best is not None
    return best


def _choice(
    nest: Nest,
    tile: np.ndarray,
    extents: tuple[int, ...],
    link: Dma,
    kernels: Kernels,
    double: bool,
    cycles: float,
    use: float,
    n: int,
) -> Choice:
    count = math.prod(-(-e // t) for e, t in zip(extents, tile.tolist(), strict=True))
    if double and 1 < count <= MOST_TILES:
        cycles = float(exact_stages(nest, tile, link, kernels, double=True).stages.total)
    return Choice(tuple(tile.tolist()), cycles, use, count, n)


def _scored(nest: Nest, tiles: np.ndarray, link: Dma, kernels: Kernels, double: bool) -> tuple[np.ndarray, np.ndarray]:
    """Cycles and bytes of tilings, in batches of two sizes only: few programs serve all nests."""
    size = SMALL if len(tiles) <= SMALL else BATCH
    cycles, use = [], []
    for begin in range(0, len(tiles), size):
        batch = tiles[begin : begin + size]
        padded = np.concatenate([batch, np.ones((size - len(batch), tiles.shape[1]))])
        found = score_tilings(nest, jnp.asarray(padded, float), link, kernels, double=double)
        cycles.append(np.asarray(found[0])[: len(batch)])
        use.append(np.asarray(found[1])[: len(batch)])
    return np.concatenate(cycles), np.concatenate(use)


def _in_order(nest: Nest, extents: tuple[int, ...], size: float) -> np.ndarray:
    """The tile of the solver's own order: each loop in turn as large as fits, by bisection."""
    tile = [1] * len(extents)
    for d, extent in enumerate(extents):
        low, high = 1, extent
        while low < high:
            middle = (low + high + 1) // 2
            trial = [*tile[:d], middle, *tile[d + 1 :]]
            low, high = (middle, high) if float(_use(nest, jnp.asarray(trial, float))) <= size else (low, middle - 1)
        tile[d] = low
    return np.asarray([tile])


def _descend(nest: Nest, link: Dma, kernels: Kernels, size: float, double: bool, extents: tuple[int, ...]) -> np.ndarray:
    """Whole sizes around the ends of the descents."""
    grid = np.random.default_rng(0).uniform(size=(STARTS, len(extents)))
    ends = np.asarray(_descents(nest, link, kernels, jnp.asarray(size, float), jnp.asarray(grid, float), double))
    around = []
    for end in ends:
        sides = [
            {max(1, math.floor(x)), min(e, math.ceil(x)), _balanced(e, x)} for x, e in zip(end.tolist(), extents, strict=True)
        ]
        around += list(itertools.product(*map(sorted, sides)))
        shrunk = [[max(1, math.floor(f * x)) for x in end.tolist()] for f in (0.97, 0.9, 0.8, 0.65, 0.5)]
        around += [tuple(s) for s in shrunk]
    return np.unique(np.asarray([*around, (1,) * len(extents)]), axis=0)


_use = jax.jit(memory_use)


def _balanced(extent: int, size: float) -> int:
    """The smallest tile that makes as many tiles as one of about `size`."""
    return -(-extent // max(1, math.ceil(extent / max(size, 1.0) - 1e-6)))


@functools.partial(jax.jit, static_argnames="double")
def _descents(nest: Nest, link: Dma, kernels: Kernels, size: Array, starts: Array, double: bool) -> Array:
    """End points (starts, loops) of Adam on the relaxed model, in iterations."""
    span, optimizer = jnp.log(nest.extents), optax.adam(RATE)

    def loss(x: Array) -> Array:
        tile = jnp.exp(jnp.clip(x, 0.0, 1.0) * span)
        over = jax.nn.softplus((memory_use(nest, tile, soft(8.0)) / size - 1.0) / SHARP)
        pull = jnp.sum(jnp.square(x - jnp.clip(x, 0.0, 1.0)))
        return jnp.log(score(nest, tile, link, kernels, double=double, policy=soft(8.0))) + WEIGHT * SHARP * over + pull

    def descend(x: Array) -> Array:
        def step(carry: tuple[Array, optax.OptState], _: None) -> tuple[tuple[Array, optax.OptState], None]:
            x, state = carry
            change, state = optimizer.update(jax.grad(loss)(x), state)
            return (optax.apply_updates(x, change), state), None  # type: ignore[return-value]

        (end, _), _ = jax.lax.scan(step, (x, optimizer.init(x)), None, length=STEPS)
        return jnp.exp(jnp.clip(end, 0.0, 1.0) * span)

    return jax.vmap(descend)(starts)
