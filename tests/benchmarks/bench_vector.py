"""Vector cores: predicted scaling over 128 to 2048 bits, and how fast the model is.

The table: speed-up over 128 bits of one Neoverse V1 core whose vectors, registers and load width grow while pipes, caches and
memory stay as they are; compute-bound and memory-bound work in four types, cold. All of it is predicted. `best` is the shortest
vector length within 2 % of the fastest. Beside it SVE over NEON on four real cores, and packed over plain layouts.

Speed: ResNet-50's 53 convolutions and its dense layer, padded to 64 rows, on batches of cores that differ in every parameter; per
layer and core, on one core of this machine.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from timing import best, one_core, report

import costmodel
import workloads
from physics import replace
from workloads import OpKind, make_table

LENGTHS = (128.0, 256.0, 512.0, 1024.0, 2048.0)
TYPES = ("f32", "f16", "bf16", "i8")
CHUNK = 256


def dense(m: int, sizes: list[tuple[int, int]]) -> workloads.OpTable:
    """Dense layers of m rows, (outputs, inputs) each."""
    return make_table(
        [dict(kind=OpKind.DENSE, m=m, n=n, k=k, macs=m * n * k, flops=2 * m * n * k, inputs=m * k, outputs=m * n, weights=n * k)
         for n, k in sizes]
    )  # fmt: skip


BERT_LAYER = [(1024, 1024)] * 4 + [(4096, 1024), (1024, 4096)]
NETWORKS = {
    "bert-large layer, 384 tokens": lambda: dense(384, BERT_LAYER),  # compute-bound
    "resnet50": lambda: workloads.load("resnet50").without_info(),
    "resnet8": lambda: workloads.load("resnet8").without_info(),
    "mobilenet-v1-0.25": lambda: workloads.load("mobilenet-v1-0.25").without_info(),
    "fc-autoencoder": lambda: workloads.load("fc-autoencoder").without_info(),  # memory-bound: one row
    "bert-large layer, 1 token": lambda: dense(1, BERT_LAYER),
}


@jax.jit
def estimates(core: costmodel.VectorCore, table: workloads.OpTable) -> costmodel.Cost:
    """At every vector length."""
    return jax.vmap(lambda bits: costmodel.estimate(replace(core, {"vector_bits": bits}), table))(jnp.asarray(LENGTHS))


def scaling() -> None:
    """Print the table of speed-ups over 128 bits."""
    for name, load in NETWORKS.items():
        table = load()
        for data in TYPES:
            cost = estimates(costmodel.vector_core("neoverse-v1", data), table)
            latency, used = np.asarray(cost.latency), np.asarray(cost.utilization)
            gain = latency[0] / latency
            enough = LENGTHS[int(np.argmax(gain > 0.98 * gain.max()))]
            speedup = {f"x{int(bits)}": float(g) for bits, g in zip(LENGTHS, gain, strict=True)}
            report(
                "vector_scaling",
                work=name,
                type=data,
                ms_128=1e3 * float(latency[0]),
                best=enough,
                **speedup,
                used_2048=float(used[-1]),
            )


def comparisons() -> None:
    """Print SVE over NEON, and plain over packed layouts, on the named cores."""
    run = jax.jit(costmodel.estimate)
    for name in costmodel.list_vector_cores():
        for work in ("bert-large layer, 384 tokens", "mobilenet-v1-0.25"):
            table = NETWORKS[work]()
            core = partial(costmodel.vector_core, name)
            sve, neon, plain = (float(run(c, table).latency) for c in (core(), core(isa="neon"), core(packed=False)))
            report("vector_cores", core=name, work=work, sve_over_neon=neon / sve, packed_over_plain=plain / sve)


def speed() -> None:
    """Print layers per second, forward and with the gradient in every parameter."""
    table = workloads.load("resnet50").without_info()
    chosen = np.asarray(table.macs) > 0
    layers = jax.tree.map(lambda column: np.asarray(column)[chosen], table)
    padded = jax.tree.map(jnp.asarray, layers.padded(64))
    leaves, tree = jax.tree.flatten(costmodel.vector_core("neoverse-v1"))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    factors = [jax.random.uniform(key, (16_384,), minval=0.9, maxval=1.1) for key in keys]
    cores = jax.tree.unflatten(tree, [leaf * factor for leaf, factor in zip(leaves, factors, strict=True)])

    def latency(core):
        return costmodel.estimate(core, padded).latency

    def slope(core):
        return jax.grad(lambda c: costmodel.estimate(c, padded, relaxation=costmodel.STRAIGHT_THROUGH).latency)(core)

    for name, function in (("forward", latency), ("gradient", slope)):
        run = jax.jit(lambda batch, function=function: costmodel.chunked(function, batch, CHUNK))
        rate = 16_384 * layers.n_ops / best(lambda run=run: run(cores), repeat=3)
        report("vector_layers", what=name, layers=layers.n_ops, layers_per_s=rate)


def main() -> None:
    one_core()
    scaling()
    comparisons()
    speed()


if __name__ == "__main__":
    main()
