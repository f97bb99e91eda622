"""Polyhedral estimates: tilings scored per second, tile search by gradient against all tiles, sampled reuse distances."""

import time

import jax
import jax.numpy as jnp
from timing import best, one_core, report

import costmodel
from costmodel import AffineProgram

COUNT = 1_000_000
GEMM = costmodel.make_nest("i j k", "C[i, j] += A[i, k] * B[k, j]")
CONVOLUTION = costmodel.make_nest("f y x c r s", "O[f, y, x] += I[c, y + r, x + s] * W[f, c, r, s]")
CASES = {
    "product": (GEMM, [512.0, 300.0, 700.0]),
    "convolution": (CONVOLUTION, [64.0, 56.0, 56.0, 64.0, 3.0, 3.0]),
}


def scored() -> None:
    """Seconds for a million tilings of different sides, on one core."""
    for name, (nest, extents) in CASES.items():
        whole = jnp.asarray(extents)
        tiles = 1 + jnp.floor(jax.random.uniform(jax.random.key(0), (COUNT, len(extents))) * whole)
        for memory in ("scratchpad", "lru"):

            def moved(tile, fast, nest=nest, whole=whole, memory=memory):
                return costmodel.nest_traffic(nest, whole, tile, fast, memory=memory).moved

            run = jax.jit(lambda t, s: costmodel.chunked(lambda tile: moved(tile, s), t))
            seconds = best(lambda: run(tiles, jnp.asarray(4096.0)), repeat=5)
            report("polyhedral_scored", nest=name, memory=memory, tilings=COUNT, seconds=seconds, tilings_per_s=COUNT / seconds)


def searched() -> None:
    """Traffic found by gradient over that of the best tile of all, and seconds of each once compiled."""
    for memory in ("scratchpad", "lru"):
        for fast in (256.0, 1024.0, 4096.0, 16384.0):
            nest, extents = CASES["product"]
            figures = {}
            for method in ("gradient", "exhaustive"):

                def run(method=method):
                    return costmodel.search_tiles(nest, extents, fast, memory=memory, method=method)

                run()
                start = time.perf_counter()
                figures[method] = run(), time.perf_counter() - start
            (by_gradient, fast_time), (best_of_all, slow_time) = figures["gradient"], figures["exhaustive"]
            report(
                "polyhedral_search",
                memory=memory,
                fast=fast,
                gradient_over_optimum=float(by_gradient.traffic.moved / best_of_all.traffic.moved),
                gradient_evaluations=by_gradient.evaluations,
                exhaustive_evaluations=best_of_all.evaluations,
                gradient_s=fast_time,
                exhaustive_s=slow_time,
            )


def reuse() -> None:
    """Seconds for the LRU misses of programs as written, at any size."""
    sizes = {"gemm": dict(ni=0, nj=0, nk=0), "lu": dict(n=0), "jacobi-2d": dict(n=0, t=0)}
    for name, fields in sizes.items():
        program: AffineProgram = costmodel.polybench(name)
        for n in (64, 1000):
            given = dict.fromkeys(fields, n)
            jax.block_until_ready(costmodel.reuse_profile(program, given))
            start = time.perf_counter()
            profile = jax.block_until_ready(costmodel.reuse_profile(program, given))
            report(
                "polyhedral_reuse", kernel=name, n=n, accesses=float(profile.weight.sum()), seconds=time.perf_counter() - start
            )


def main() -> None:
    one_core()
    scored()
    searched()
    reuse()


if __name__ == "__main__":
    main()
