"""Memory: residency scans over many capacities, regimes over capacities and links, gradients, replays access by access.

Accesses per second count every capacity of a batch (one core). The gradient is that of the smooth time by capacity and link
for every point of a batch, beside the time alone.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from timing import best, one_core, report

import costmodel
from costmodel.memory.regimes import burst_times
from costmodel.memory.serving import generation
from costmodel.memory.validation import clm60m_manifest, clm60m_plan, clm60m_trace
from workloads import TRANSFORMERS

TARGET, POINTS = 1e6, 10_000
CHUNK = 256  # points at a time, so that what a gradient keeps stays in the cache


def scans() -> None:
    """Accesses per second of a scan batched over 10,000 capacities."""
    rng = np.random.default_rng(0)
    for regions, accesses in ((8, 64), (19, 108), (64, 256)):
        sizes = jnp.asarray(rng.integers(1, 1000, regions), jnp.int32)
        order = jnp.asarray(rng.integers(0, regions, accesses), jnp.int32)
        capacities = jnp.asarray(rng.integers(1, int(sizes.sum()), POINTS), jnp.int32)
        for policy in ("fifo", "lru"):

            def loads(capacity, sizes=sizes, order=order, policy=policy):
                return costmodel.track_residency(sizes, order, capacity, policy=policy).loads

            run = jax.jit(jax.vmap(loads))
            rate = POINTS * accesses / best(lambda: run(capacities))
            report("residency", policy=policy, regions=regions, accesses=accesses, accesses_per_s=rate, target=TARGET)


def regimes() -> None:
    """Points (capacity, link) per second of clm60m's 108 bursts: every regime's time, the smooth time and its gradient."""
    plan = clm60m_plan()
    rng = np.random.default_rng(0)
    capacities, links = jnp.asarray(rng.uniform(1e6, 6e6, POINTS), float), jnp.asarray(rng.uniform(1e6, 1e10, POINTS), float)
    units = (capacities / plan.unit).astype(jnp.int32)
    hard = jax.jit(jax.vmap(lambda c, link: jnp.sum(burst_times(plan, c, link))))
    rate = POINTS / best(lambda: hard(units, links))
    report("regimes", points=POINTS, points_per_s=rate, accesses_per_s=rate * plan.regions.units.size, target=TARGET)
    swap = lambda c, link: jnp.sum(burst_times(plan, c, link, "kv-swap"))  # noqa: E731
    for name, value, batch in (
        ("relaxed", lambda c, link: costmodel.relaxed_time(plan, c, link), (capacities, links)),
        ("kv-swap", swap, (units, links)),
    ):
        slopes = jax.value_and_grad(value, (0, 1) if name == "relaxed" else 1)
        forward, backward = (jax.jit(lambda b, f=f: costmodel.chunked(lambda x: f(*x), b, CHUNK)) for f in (value, slopes))
        plain, slope = best(lambda: forward(batch)), best(lambda: backward(batch))
        report("regime_gradient", model=name, points_per_s=POINTS / plain, gradient_over_forward=slope / plain, target=4)


def serving() -> None:
    """Gradient over forward time of generating 64 tokens on 10,000 machines, in chunks."""
    network = TRANSFORMERS["llama-2-7b"]
    first, later = costmodel.prefill_load(network, 512), costmodel.decode_loads(network, 512, 64)
    cache = jnp.asarray(costmodel.kv_bytes(network, 576), float)
    scale = jax.random.uniform(jax.random.key(0), (POINTS,), minval=0.5, maxval=2.0)
    machines = jax.tree.map(lambda leaf: leaf * scale, costmodel.ServingMachine())
    for overlap in (True, False):

        def value(machine, overlap=overlap):
            return generation(first, later, cache, machine, 1, overlap).throughput

        forward = jax.jit(lambda batch, value=value: costmodel.chunked(value, batch, CHUNK))
        backward = jax.jit(lambda batch, value=value: costmodel.chunked(jax.value_and_grad(value), batch, CHUNK))
        plain, slope = best(lambda: forward(machines)), best(lambda: backward(machines))
        report("serving", overlap=overlap, machines_per_s=POINTS / plain, gradient_over_forward=slope / plain, target=4)


def replays() -> None:
    """Accesses per second of an exact replay (host, Python integers)."""
    manifest, trace = clm60m_manifest(), clm60m_trace()
    for regime in ("resident", "kv-swap", "weight-stream"):
        rounds = []
        for _ in range(3):
            start = time.perf_counter()
            costmodel.replay(manifest, trace, regime, link=1.5e9)
            rounds.append(time.perf_counter() - start)
        report("replay", regime=regime, accesses=trace.addresses.size, accesses_per_s=trace.addresses.size / min(rounds))


def main() -> None:
    one_core()
    scans()
    regimes()
    serving()
    replays()


if __name__ == "__main__":
    main()
