"""Per-layer estimate of ResNet-50 on chips of crossbars: latency and energy of every layer, for batches of hardware points.

Every hardware point has its own value of every parameter; latency (s) and energy (J, switching and writing) of every layer
with weights are computed and returned. The table is padded to 64 rows, a multiple of the vector width: rows that cost
nothing are computed faster than a remainder. Rate counts the network's own layers only, per second on one core.
"""

import jax
import jax.numpy as jnp
import numpy as np
from timing import best, one_core, report

import costmodel
import workloads

TARGET_RATE, CHUNK, PADDED = 5e7, 256, 64


def layers_with_weights(name: str) -> workloads.OpTable:
    """The rows of a network that have products."""
    table = workloads.load(name).without_info()
    chosen = np.asarray(table.macs) > 0
    return jax.tree.map(lambda column: np.asarray(column)[chosen], table)


def points(name: str, n: int) -> costmodel.Processor:
    """`n` variants of a named chip, every parameter scaled by a random factor in [0.9, 1.1]."""
    leaves, tree = jax.tree.flatten(costmodel.load_hardware(name))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    scale = [jax.random.uniform(key, (n,), minval=0.9, maxval=1.1) for key in keys]
    return jax.tree.unflatten(tree, [leaf * factor for leaf, factor in zip(leaves, scale, strict=True)])


def main() -> None:
    one_core()
    layers = layers_with_weights("resnet50")
    table = jax.tree.map(jnp.asarray, layers.padded(PADDED))

    def costs(hardware):
        per_op = costmodel.estimate(hardware, table).per_op
        return per_op.latency, per_op.dynamic_energy + per_op.programming_energy

    run = jax.jit(lambda batch: costmodel.chunked(costs, batch, CHUNK))
    for name in ("isaac", "isaac-ce", "neurram", "dimc4"):
        for n in (16_384, 100_000):
            hardware = points(name, n)
            rate = n * layers.n_ops / best(lambda: run(hardware))
            report("cim_layers", hardware=name, points=n, layers=layers.n_ops, layers_per_s=rate, target_layers_per_s=TARGET_RATE)


if __name__ == "__main__":
    main()
