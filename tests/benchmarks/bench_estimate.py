"""estimate() on batches of (hardware, operation) pairs: rate, NumPy at the same arithmetic, and value-and-gradient.

The batch has its own value of every parameter and of every column for every pair; the whole `Cost` (13 figures) is computed
and returned. Forward means that; a gradient is the energy with its slopes in all parameters, straight-through.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from timing import best, one_core, report

import costmodel
import workloads
from costmodel.cost import UNITS
from costmodel.processors.cim import COMPONENTS, ELEMENT_COMPONENTS
from physics import values

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
    slope = np.minimum(h["leakage_slope"] * (np.float32(318.15) - h["temperature_ref"]), np.float32(4))
    static = h["leakage_power"] * np.exp(slope) * latency
    energy = dynamic + static
    safe = np.maximum(latency, np.finfo(np.float32).tiny)
    utilization = t["macs"] / safe / h["peak_macs"]
    return {
        "latency": latency, "energy": energy, "dynamic_energy": dynamic, "static_energy": static, "power": energy / safe,
        "bytes_moved": moved, "utilization": utilization, "bound": bound,
        **{name: np.zeros_like(latency) for name in ("programming_latency", "programming_energy", "memory", "written", "reads")},
    }  # fmt: skip


def numpy_crossbar(h: dict, t: dict) -> dict:
    """The arithmetic of the crossbar estimate (physical timing, whole chip, weights resident) for one-row tables, by hand."""

    def ceil_div(n, k):
        q = np.ceil(n / k)
        q = np.where((q - 1) * k >= n, q - 1, q)
        return np.where(q * k < n, q + 1, q)

    def floor_div(n, k):
        q = np.floor(n / k)
        q = np.where((q + 1) * k <= n, q + 1, q)
        return np.where(q * k > n, q - 1, q)

    one, k, n, m, groups = np.float32(1), *(t[name].astype(np.float32) for name in ("k", "n", "m", "groups"))
    slices, phases = ceil_div(h["weight_bits"], h["bits_per_cell"]), ceil_div(h["input_bits"], h["dac_bits"])
    filters = np.maximum(floor_div(h["cols"], slices), one)
    arrays = h["elements"] * h["units"] * h["arrays"]
    sharing = np.clip(np.minimum(floor_div(h["rows"], k), floor_div(filters, n)), one, groups)
    busy = (t["macs"] > 0) & t["mask"]
    tiles = np.where(busy, ceil_div(groups, sharing) * ceil_div(k, h["rows"]) * ceil_div(n, filters), 0)
    memory = tiles / arrays
    cycles = ceil_div(tiles * m, arrays) * phases + np.where(tiles > 0, h["pipeline"], 0)
    digital = (t["flops"] - 2 * t["macs"]) / h["digital_rate"]
    compute = cycles * h["cycle_time"] + digital
    moved = np.where(t["mask"], (t["inputs"] + t["outputs"]) * (h["input_bits"] / 8), 0)
    missing = one - one / np.maximum(one, memory)
    row_time = h["write_pulses"] * (h["write_time"] + h["verify_time"])
    write_latency = missing * tiles * h["rows"] * row_time / h["write_arrays"]
    write_energy = missing * np.where(busy, k * n * groups * slices, 0) * h["write_pulses"] * h["write_energy"]
    latency = np.where(t["mask"], np.maximum(compute, moved / h["buffer_bandwidth"]), 0) + write_latency
    unit = sum(h[f] for f in COMPONENTS.values())
    element = sum(h[f] for f in ELEMENT_COMPONENTS.values())
    power = unit / h["arrays"] + element / (h["arrays"] * h["units"])
    analog, units = power * tiles * m * phases * h["cycle_time"], h["power_digital"] * h["elements"] * digital
    dynamic = (one - h["leakage_fraction"]) * np.where(tiles > 0, analog, units)
    slope = np.minimum(h["leakage_slope"] * (np.float32(318.15) - h["temperature_ref"]), np.float32(4))
    static = (h["leakage_fraction"] * power * arrays * np.exp(slope) + h["standby_power"]) * latency
    energy, safe = dynamic + write_energy + static, np.maximum(latency, np.finfo(np.float32).tiny)
    peak = arrays * h["rows"] * filters / (phases * h["cycle_time"])
    bound = np.where(write_latency > 0.5 * latency, 3, np.where(moved / h["buffer_bandwidth"] > compute, 1, 0))
    return {
        "latency": latency, "energy": energy, "dynamic_energy": dynamic, "static_energy": static, "power": energy / safe,
        "programming_latency": write_latency, "programming_energy": write_energy, "bytes_moved": moved, "memory": memory,
        "utilization": t["macs"] / safe / peak,
        "written": missing * memory, "reads": np.where(tiles > 0, ceil_div(tiles * m, arrays) * phases, 0), "bound": bound,
    }  # fmt: skip


def as_numpy(hardware, ops) -> tuple[dict, dict]:
    """Parameters by last name and columns, as float32 NumPy arrays."""
    h = {label.rsplit(".")[-1]: np.asarray(value) for label, value in reversed(values(hardware).items())}
    t = {f.name: np.asarray(getattr(ops, f.name))[:, 0] for f in dataclasses.fields(ops) if f.name != "info"}
    return h, {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in t.items()}


def compare(ours: dict, theirs: dict) -> None:
    """Refuse to time two different computations; tile counts may differ where a product is within rounding of a multiple."""
    for name, value in theirs.items():
        error = np.abs(np.asarray(ours[name], np.float64) - value) / np.maximum(np.abs(value), 1e-30)
        assert np.mean(error > 1e-4) < 1e-3, f"{name}: NumPy and JAX disagree in {np.mean(error > 1e-4):.2%} of the pairs"


def hardware_energy(hardware, ops) -> jax.Array:
    return costmodel.estimate(hardware, ops, relaxation=costmodel.STRAIGHT_THROUGH).energy


@jax.jit
def forward(hardware, ops):
    """The Cost of every pair, in chunks as soon as a batch leaves the cache."""
    return costmodel.chunked(lambda pair: cost(*pair), (hardware, ops), 131_072)


@jax.jit
def gradients(hardware, ops):
    """Value and gradient in all parameters, in chunks."""
    return costmodel.chunked(lambda pair: jax.value_and_grad(hardware_energy)(*pair), (hardware, ops))


def main() -> None:
    one_core()
    for name, by_hand in (("edge-gpu", numpy_roofline), ("isaac", numpy_crossbar)):
        for n in (16_384, 100_000, 1_000_000):
            hardware, ops = hardware_batch(name, n, jax.random.key(0)), op_batch(n)
            seconds, arguments = best(lambda: forward(hardware, ops)), as_numpy(hardware, ops)
            compare(forward(hardware, ops), by_hand(*arguments))
            rate, share = n / seconds, seconds / best(lambda: by_hand(*arguments))
            report("estimate", hardware=name, pairs=n, pairs_per_s=rate, target_pairs_per_s=TARGET_RATE, numpy_share=share)
    for name in ("edge-gpu", "isaac"):
        for n in (1_000, 16_384, 100_000, 1_000_000, 10_000_000):
            hardware, ops = hardware_batch(name, n, jax.random.key(1)), op_batch(n)
            ahead, both = best(lambda: forward(hardware, ops)), best(lambda: gradients(hardware, ops))
            count = len(values(hardware))
            report(
                "gradient", hardware=name, pairs=n, parameters=count, ratio_to_forward=both / ahead, target_ratio=TARGET_GRADIENT
            )


if __name__ == "__main__":
    main()
