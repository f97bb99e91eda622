"""What stays in a memory of limited capacity: first in first out, least recently used, and the best fixed choice.

The memory holds whole regions. The state is one number per region, its AGE IN BYTES b: the sizes of the region itself and of
all that entered (FIFO) or were used (LRU) after it. A region that enters makes all others older by its size s, and those that
no longer fit leave:

    miss of j   b_i <- b_i + s_j, gone if b_i > C;  b_j <- s_j
    hit of j    FIFO: nothing.   LRU: b_i <- b_i + s_j where b_i < b_j;  b_j <- s_j

That is one comparison per region and access, exact in integers, without a queue, and no number exceeds C + s_j. A region above
the capacity enters an emptied memory and leaves at the next miss, as in the published simulator (AICrossSim/PLENA_Simulator,
whose "LRU" is FIFO: order 0 1 0 2 0 1 with room for two equal layers makes 5 loads; LRU makes 4).

A cyclic sweep over N equal regions with room for m < N never hits under FIFO or LRU. The best fixed choice keeps m of them:

    loaded = sum_j s_j (1 + (visits_j - 1) (1 - f_j)),   sum_j f_j s_j <= C,   0 <= f_j <= 1

filled by visits in descending order (a fractional knapsack, so optimal among fixed choices). It is continuous in C and in the
sizes and has the gradient that the other two lack; non-smooth where a region is just filled.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Policy = Literal["fifo", "lru"]
ABSENT = -1
UNITS = 2**30


class Residency(NamedTuple):
    """Per access: whether it had to load its region, and the size of dirty regions that it drove out; loads per region."""

    missed: Bool[Array, " accesses"]
    written_back: Int[Array, " accesses"]
    loads: Int[Array, " regions"]


def track_residency(
    sizes: Int[Array, " regions"],
    accesses: Int[Array, " accesses"],
    capacity: Int[Array, ""],
    writes: Bool[Array, " accesses"] | None = None,
    policy: Policy = "fifo",
) -> Residency:
    """Follow `accesses` (region numbers; negative: no region) through a memory of `capacity`, empty at first.

    `sizes` and `capacity` are integers in any common unit (see `whole_units`), each at most 2**30. `writes` marks accesses that
    change their region. Scan over accesses; `jax.vmap` over capacities. No gradient: see `pinned_loads`.
    """
    regions = jnp.arange(sizes.shape[0])
    dirtied = jnp.zeros(accesses.shape, bool) if writes is None else writes

    def step(state, access):
        age, dirty, loads = state
        region, write = access
        mine = regions == region
        size = jnp.sum(jnp.where(mine, sizes, 0), dtype=sizes.dtype)
        own = jnp.sum(jnp.where(mine, age, 0), dtype=sizes.dtype)
        missed = (region >= 0) & (own == ABSENT)
        present = age != ABSENT
        moved = present & (missed | (age < own)) if policy == "lru" else present & missed
        older = age + jnp.where(moved, size, 0)
        gone = moved & missed & (older > capacity)
        renewed = mine if policy == "lru" else mine & missed
        kept = jnp.where(renewed, size, jnp.where(gone, ABSENT, older))
        left = jnp.sum(jnp.where(gone & dirty, sizes, 0), dtype=sizes.dtype)
        return (kept, (dirty & ~gone) | (mine & write), loads + (mine & missed)), (missed, left)

    start = (jnp.full(sizes.shape, ABSENT, sizes.dtype), jnp.zeros(sizes.shape, bool), jnp.zeros(sizes.shape, jnp.int32))
    (_, _, loads), (missed, left) = jax.lax.scan(step, start, (accesses, dirtied))
    return Residency(missed, left, loads)


class WholeUnits(NamedTuple):
    """Sizes and capacities in units of `unit` bytes, as int32."""

    unit: int
    sizes: Int[Array, " regions"]
    capacities: Int[Array, "*points"]


def whole_units(sizes: Any, capacities: Any) -> WholeUnits:
    """Byte counts in their greatest common divisor, so that int32 holds them and every comparison stays exact.

    `sizes` are the regions' (sequence of integers), `capacities` an integer or an array of them, rounded down to units and
    clipped to the total, which changes no comparison. ValueError if the total exceeds 2**30 units.
    """
    exact = [int(size) for size in sizes]
    unit = int(np.gcd.reduce(np.array(exact, np.int64))) if any(exact) else 1
    total = sum(exact) // unit
    if total > UNITS:
        raise ValueError(
            f"total of the sizes = {total} units of {unit} B (their greatest common divisor) is outside its range [0, 2**30]"
        )
    limits = np.clip(np.asarray(capacities, np.int64) // unit, 0, total)
    return WholeUnits(unit, jnp.asarray([size // unit for size in exact], jnp.int32), jnp.asarray(limits, jnp.int32))


def pinned_loads(
    sizes: Float[Array, " regions"], visits: Float[Array, " regions"], capacity: Float[Array, ""]
) -> Float[Array, " regions"]:
    """Loads per region (fractional) with the best fixed choice of what stays, see the module; `visits` are runs of accesses.

    `sizes` and `capacity` in one unit. Gradients with respect to both; a region that is never visited is never loaded.
    """
    order = jnp.argsort(-visits, stable=True)
    before = jnp.cumsum(sizes[order]) - sizes[order]
    room = jnp.clip(capacity - before, 0.0, sizes[order])
    kept = jnp.where(sizes[order] > 0, room / jnp.where(sizes[order] > 0, sizes[order], 1.0), 1.0)
    share = jnp.zeros_like(kept).at[order].set(kept)
    return jnp.where(visits > 0, 1.0 + (visits - 1.0) * (1.0 - share), 0.0)
