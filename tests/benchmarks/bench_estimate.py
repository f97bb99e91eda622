"""estimate() on batches of (hardware, operation) pairs: rate, NumPy at the same arithmetic, and value-and-gradient.

The batch has its own value of every parameter and of every column for every pair; the whole `Cost` is computed and returned.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from timing import best, one_core, report

import costmodel
import workloads
from costmodel.cost import UNITS

TARGET_RATE, TARGET_GRADIENT = 5e7, 3.5


def hardware_batch(name: str, n: int, key: jax.Array):
    """`n` variants of a named processor, every parameter scaled by a random factor in [0.9, 1.1]."""
    hardware = costmodel.load_hardware(name)
    leaves, tree = jax.tree.flatten(hardware)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        tree, [leaf * jax.random.uniform(k, (n,), minval=0.9, maxval=1.1) for leaf, k in zip(leaves, keys, strict=True)]
    )


def op_batch(n: int) -> workloads.OpTable:
    """`n` one-row tables, the rows of ResNet-8 over and over."""
    table = workloads.load("resnet8").without_info()
    rows = np.arange(n) % table.n_ops
    return jax.tree.map(lambda column: jnp.asarray(np.asarray(column)[rows][:, None]), table)


def cost(hardware, ops) -> dict:
    """Every figure of the Cost."""
    result = costmodel.estimate(hardware, ops)
    return {name: getattr(result, name) for name in UNITS}


def numpy_roofline(h: dict, t: dict) -> dict:
    """The arithmetic of the roofline estimate for one-row tables, vectorised by hand."""
    depthwise = np.where(t["kind"] == 1, h["efficiency_depthwise"], h["efficiency_dense"])
    efficiency = np.where(t["kind"] == 0, h["efficiency_conv"], depthwise)
    compute = t["macs"] / (h["peak_macs"] * efficiency) + (t["flops"] - 2 * t["macs"]) / h["vector_rate"]
    moved = np.where(t["mask"], (t["inputs"] + t["outputs"] + t["weights"]) * (h["operand_bits"] / 8), 0)
    memory = moved / h["bandwidth"]
    latency = np.where(t["mask"], h["overhead"] + np.maximum(compute, memory), 0)
    dynamic = t["macs"] * h["energy_per_mac"] + moved * h["energy_per_byte"] + latency * h["active_power"]
    dynamic = np.where(t["mask"], dynamic, 0)
    bound = np.where(h["overhead"] > np.maximum(compute, memory), 2, np.where(memory > compute, 1, 0))
    slope = np.minimum(h["leakage_slope"] * (np.float32(318.15) - h["temperature_ref"]), np.float32(20))
    static = h["leakage_power"] * np.exp(slope) * latency
    energy = dynamic + static
    safe = np.maximum(latency, np.finfo(np.float32).tiny)
    utilization = t["macs"] / safe / h["peak_macs"]
    return {
        "latency": latency, "energy": energy, "dynamic_energy": dynamic, "static_energy": static, "power": energy / safe,
        "bytes_moved": moved, "utilization": utilization, "bound": bound,
    }  # fmt: skip


def main() -> None:
    one_core()
    forward = jax.jit(jax.vmap(cost))
    for name, n in (("edge-gpu", 100_000), ("edge-gpu", 1_000_000), ("isaac", 100_000), ("edge-pim", 100_000)):
        hardware, ops = hardware_batch(name, n, jax.random.key(0)), op_batch(n)
        seconds = best(lambda: forward(hardware, ops))
        figures = {"pairs_per_s": n / seconds}
        if name == "edge-gpu":
            h = {f.name: np.asarray(getattr(hardware, f.name)) for f in dataclasses.fields(hardware)}
            t = {f.name: np.asarray(getattr(ops, f.name))[:, 0] for f in dataclasses.fields(ops) if f.name != "info"}
            t = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in t.items()}
            ours, theirs = forward(hardware, ops), numpy_roofline(h, t)
            worst = max(float(np.max(np.abs(np.asarray(ours[k]) - v) / np.maximum(np.abs(v), 1e-30))) for k, v in theirs.items())
            assert worst < 1e-5, f"NumPy and JAX disagree by {worst}"
            figures["numpy_share"] = seconds / best(lambda: numpy_roofline(h, t))
        report("estimate", hardware=name, pairs=n, target_pairs_per_s=TARGET_RATE, **figures)

    def energy(pair) -> jax.Array:
        return costmodel.estimate(*pair).energy

    def hardware_energy(hardware, ops) -> jax.Array:
        return costmodel.estimate(hardware, ops, relaxation=costmodel.STRAIGHT_THROUGH).energy

    @jax.jit
    def gradients(hardware, ops):
        return jax.lax.map(lambda pair: jax.value_and_grad(hardware_energy)(*pair), (hardware, ops), batch_size=2048)

    for name in ("edge-gpu", "isaac"):
        for n in (1_000, 100_000, 1_000_000, 10_000_000):
            if name == "isaac" and n > 1_000_000:
                continue
            hardware, ops = hardware_batch(name, n, jax.random.key(1)), op_batch(n)
            value = jax.jit(jax.vmap(hardware_energy))
            ahead, both = best(lambda: value(hardware, ops)), best(lambda: gradients(hardware, ops))
            report(
                "gradient",
                hardware=name,
                pairs=n,
                forward_pairs_per_s=n / ahead,
                ratio=both / ahead,
                target_ratio=TARGET_GRADIENT,
            )


if __name__ == "__main__":
    main()
