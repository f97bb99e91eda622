"""Residency: first in first out, least recently used and the pinned choice, against queues kept in Python and against theory."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from costmodel import pinned_loads, track_residency, whole_units

REGIONS, ACCESSES, COUNT = 6, 40, 1500


def queue(sizes, accesses, writes, capacity, policy):
    """Loads per region and bytes written back, by a list of what is resident (oldest first)."""
    resident, dirty, loads, back = [], set(), [0] * len(sizes), 0
    for region, write in zip(accesses, writes, strict=True):
        if region < 0:
            continue
        if region not in resident:
            while resident and sum(sizes[r] for r in resident) + sizes[region] > capacity:
                gone = resident.pop(0)
                back += sizes[gone] if gone in dirty else 0
                dirty.discard(gone)
            resident.append(region)
            loads[region] += 1
        elif policy == "lru":
            resident.remove(region)
            resident.append(region)
        if write:
            dirty.add(region)
    return loads, back


@pytest.fixture(scope="module")
def follow():
    """Both policies over a batch of (sizes, accesses, capacity, writes)."""

    def one(policy):
        return jax.jit(jax.vmap(lambda s, a, c, w: track_residency(s, a, c, w, policy=policy)))

    return {policy: one(policy) for policy in ("fifo", "lru")}


@pytest.mark.parametrize("policy", ["fifo", "lru"])
def test_agrees_with_a_queue(follow, policy):
    rng, count = np.random.default_rng(1), COUNT
    sizes, accesses = rng.integers(0, 9, (count, REGIONS)), rng.integers(-1, REGIONS, (count, ACCESSES))
    capacities, writes = rng.integers(0, 40, count), rng.random((count, ACCESSES)) < 0.3
    arrays = (jnp.asarray(x, jnp.int32) for x in (sizes, accesses, capacities))
    result = follow[policy](*arrays, jnp.asarray(writes))
    for index in range(count):
        expected = queue(*(x[index].tolist() for x in (sizes, accesses, writes)), capacities[index], policy)
        assert (result.loads[index].tolist(), int(result.written_back[index].sum())) == expected
    assert (result.missed.sum(1) == result.loads.sum(1)).all()


def loads(follow, policy, sizes, accesses, capacity):
    padded = np.full(ACCESSES, -1)
    padded[: len(accesses)] = accesses
    sizes = np.array([*sizes, *[0] * (REGIONS - len(sizes))])
    batch = (jnp.asarray(np.repeat(np.asarray(x)[None], COUNT, 0), jnp.int32) for x in (sizes, padded, capacity))
    return int(follow[policy](*batch, jnp.zeros((COUNT, ACCESSES), bool)).loads[0].sum())


def test_published_order_tells_fifo_from_lru(follow):
    # 0 1 0 2 0 1 with room for two: FIFO loads 0 1 2 0 1 (the hits do not renew 0), LRU 0 1 2 1
    assert [loads(follow, policy, [1, 1, 1], [0, 1, 0, 2, 0, 1], 2) for policy in ("fifo", "lru")] == [5, 4]


def test_cyclic_sweeps_never_hit_and_pinning_does(follow):
    # N = 5 equal regions, room for m = 3, 8 sweeps: 40 loads; pinned: 5 + 2 x 7 = 19, hits m / N in the steady state
    accesses = list(range(5)) * 8
    assert loads(follow, "fifo", [1] * 5, accesses, 3) == loads(follow, "lru", [1] * 5, accesses, 3) == 40
    pinned = pinned_loads(jnp.ones(5), jnp.full(5, 8.0), jnp.asarray(3.0))
    assert float(pinned.sum()) == pytest.approx(19) and loads(follow, "lru", [1] * 5, accesses, 5) == 5


def test_beladys_anomaly_and_lru_inclusion(follow):
    # Belady, Nelson, Shedler 1969: 1 2 3 4 1 2 5 1 2 3 4 5 faults 9 times with 3 frames and 10 times with 4 under FIFO
    order = [0, 1, 2, 3, 0, 1, 4, 0, 1, 2, 3, 4]
    assert [loads(follow, "fifo", [1] * 5, order, frames) for frames in (3, 4)] == [9, 10]
    assert [loads(follow, "lru", [1] * 5, order, frames) for frames in (3, 4, 5)] == [10, 8, 5]
    rng = np.random.default_rng(2)
    accesses = jnp.asarray(rng.integers(0, REGIONS, (COUNT, ACCESSES)), jnp.int32)
    sizes, none = jnp.ones((COUNT, REGIONS), jnp.int32), jnp.zeros((COUNT, ACCESSES), bool)
    counts = [follow["lru"](sizes, accesses, jnp.full(COUNT, c, jnp.int32), none).loads.sum(1) for c in range(1, 7)]
    assert all((more <= less).all() for less, more in itertools.pairwise(counts))  # equal sizes: inclusion


def test_oversized_region_is_loaded_once_per_visit(follow):
    assert loads(follow, "fifo", [5, 1], [0, 0, 0, 1, 0, 0], 3) == 3


def test_pinned_loads_are_the_best_fixed_choice():
    # against every subset of 5 regions (the best subset is at most better by the fraction that the relaxation may split)
    rng = np.random.default_rng(3)
    find = jax.jit(pinned_loads)
    subsets = np.array(list(itertools.product([0, 1], repeat=5)))
    for _ in range(60):
        sizes, visits, capacity = rng.integers(1, 20, 5), rng.integers(0, 9, 5), rng.integers(0, 60)
        ours = float(sizes @ np.asarray(find(*(jnp.asarray(x, float) for x in (sizes, visits, capacity)))))
        kept = subsets[subsets @ sizes <= capacity]
        whole = (sizes * np.where(visits > 0, np.where(kept == 1, 1, visits), 0)).sum(1).min()
        assert whole - sizes.max() * max(visits.max() - 1, 0) - 1e-3 <= ours <= whole + 1e-3


def test_pinned_gradient():
    # kinks at 3 and 5; between, one more byte of room saves the visits of the region being filled, less its first load
    def moved(sizes, visits, capacity):
        return pinned_loads(sizes, visits, capacity) @ sizes

    slopes = jax.jit(jax.vmap(jax.grad(moved, (0, 2))))
    sizes, visits = jnp.array([[3.0, 2.0]] * 4 + [[0.0, 0.0]]), jnp.array([[9.0, 4.0]] * 4 + [[9.0, 0.0]])
    by_size, by_capacity = slopes(sizes, visits, jnp.array([1.0, 2.5, 4.0, 6.0, 0.0]))
    np.testing.assert_allclose(by_capacity[:4], [-8, -8, -3, 0], rtol=1e-6)
    assert np.isfinite(by_size).all() and np.isfinite(by_capacity).all()


def test_whole_units_are_exact_beyond_int32():
    sizes = [40 * 2**30, 24 * 2**30, 8 * 2**30]
    unit, small, limits = whole_units(sizes, [2**36, 2**33 - 1, 2**50])
    assert unit == 8 * 2**30 and small.tolist() == [5, 3, 1] and limits.tolist() == [8, 0, 9]
    with pytest.raises(ValueError, match=r"total of the sizes = 2147483649 units of 1 B .* is outside its range \[0, 2\*\*30\]"):
        whole_units([2**31, 1], 5)
