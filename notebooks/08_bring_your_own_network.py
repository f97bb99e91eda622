# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Bring your own network
#
# A function of JAX, an ONNX or TFLite file, a language model, a spiking network: each becomes an operation table, and from
# there on Tempo asks all of them the same questions. How much work is it? Where does the time go? What could a compiler make of
# it? Where should it run?

# %%
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import onnx

import costmodel
import rl
import workloads
from costmodel.studies.rooflines import roofline_chart, roofline_points

# %% [markdown]
# ## A function of JAX
# Loops count as often as they run, what has no rule is listed and never silently zero, and the MACs of zero padding stand
# apart.


# %%
def attention(x, w):
    """One head, unrolled over 8 steps of a scan."""

    def step(x, _):
        q, k, v = (x @ m for m in w)
        return x + jax.nn.softmax(q @ k.T / np.sqrt(64)) @ v, None

    return jax.lax.scan(step, x, length=8)[0]


ops = workloads.load(attention, jnp.zeros((50, 64)), [jnp.zeros((64, 64))] * 3, weights=(1,))
per_step = 3 * 50 * 64 * 64 + 2 * 50 * 50 * 64
print(f"{ops.total('macs'):,} MACs; by hand 8 x {per_step:,} = {8 * per_step:,}")
print(f"{ops.info.parameters:,} parameters, not counted: {ops.info.uncounted or 'nothing'}")

# %% [markdown]
# ## A file
# `read_network` makes a pure function of an ONNX or TFLite file: to be counted, run, differentiated and batched. Nothing in the
# file is executed. A torch module goes the same way: `workloads.load(module, example)` exports it first.

# %%
path = Path(onnx.__file__).parent / "backend/test/data/light/light_squeezenet.onnx"  # comes with the package onnx
squeeze = workloads.load(path)
print(f"{squeeze.info.name}: {squeeze.n_ops} operations, {squeeze.total('macs'):,} MACs, {squeeze.info.parameters:,} parameters")
print(f"at most {squeeze.peak_live:,} activations alive, at {squeeze.info.op_names[squeeze.info.peak_op]}")

network = workloads.read_network(path)
image = next(iter(network.inputs.values()))
scores = jax.jit(network.apply)(network.read_parameters(), jnp.ones(image.shape))[0]
print(f"run: {scores.size} scores that add up to {float(scores.sum()):.3f}")

# %% [markdown]
# ## A language model
# Prefill and decoding are two different workloads: the same weights, read for 512 tokens at once or for a single one.

# %%
llama = workloads.TRANSFORMERS["llama-3.2-1b"]
print(f"{llama.parameters:,} parameters; the cache takes {2 * llama.kv_elements(1):,} bytes a token at 16 bit")
for name, table in {
    "prefill of 512": workloads.prefill(llama, 512),
    "decoding after 512": workloads.decode(llama, 512),
}.items():
    moved = float(np.sum(table.bytes_in + table.bytes_out + table.bytes_weights))
    print(f"{name:18}  {table.total('macs'):>15,} MACs  {table.total('macs') / moved:8.2f} MACs a byte")

# %% [markdown]
# ## A spiking network
# Twenty channels in, three hidden layers of 256 leaky neurons, 200 steps. What it does depends on how often it spikes, so the
# spikes are counted where the weights meet them; no global sparsity is multiplied in.

# %%
spiking = workloads.spiking_mlp((20, 256, 256, 256, 35), workloads.Leaky(beta=0.9), name="speech commands")
print(f"{workloads.dense_operations(spiking, 200):,} synaptic operations if everything spikes (published: 29,030,400)")
parameters = spiking.initial_parameters(jax.random.key(0))
trains = np.random.default_rng(0).uniform(size=(4, 200, 20)) < 0.2
counts = workloads.count_operations(spiking, parameters, trains.astype(np.float32))
print(f"random weights, 20 % of the inputs spike: {counts.acs:,.0f} accumulates")

hardware, sizes = costmodel.EventHardware(), costmodel.layer_sizes(spiking)
for steps in (5.0, 10.0, 200.0):
    rate = float(costmodel.break_even_rate(hardware, sizes, steps))
    verdict = f"spikes win below a rate of {100 * rate:.1f} %" if rate > 0 else "spikes never win"
    print(f"{steps:3.0f} steps against {int(costmodel.quantised_bits(steps))} bits, data movement counted: {verdict}")

# %% [markdown]
# ## Where does the time go?
# On a small GPU most layers of SqueezeNet are held back by the launch of their kernels (grey), not by arithmetic or memory.

# %%
points = roofline_points(costmodel.load_hardware("edge-gpu"), squeeze)
roofline_chart(points, f"SqueezeNet on edge-gpu: {1e3 * points.latency:.2f} ms")
# %% [markdown]
# ## What could a compiler make of it?
# The traffic of the best tiles for a fast memory of any size, beside the least that any schedule could move.

# %%
sizes_kib = np.array([16, 32, 64, 128, 256, 512, 1024, 2048])
tiles = jax.vmap(lambda fast: costmodel.best_tiles(squeeze, fast))(jnp.asarray(1024.0 * sizes_kib))
plt.semilogx(sizes_kib, np.sum(tiles.bytes_moved, -1) / 1e6, "o-", label="best tiles of every layer")
plt.semilogx(sizes_kib, np.sum(tiles.bound, -1) / 1e6, "--", label="lower bound of any schedule")
plt.xlabel("fast memory (KiB)")
plt.ylabel("megabytes moved")
plt.legend()
plt.show()

# %% [markdown]
# Fusing layers is not always a gain. Two dense layers, one row at a time, reload both weight matrices for every row as soon as
# they do not fit together:

# %%
up = costmodel.make_nest("i h k", "H[i, h] += X[i, k] * W1[k, h]")
down = costmodel.make_nest("i d j", "Y[i, d] += H[i, j] * W2[j, d]")
extents = {"i": 64, "h": 64, "k": 32, "d": 32, "j": 64}
for fast in (1024, 4096, 8192):
    found = costmodel.fuse([up, down], extents, fast=fast)
    print(f"{fast:5} elements: {float(found.apart.loads):9,.0f} loads apart, {float(found.fused.loads):9,.0f} fused")

# %% [markdown]
# ## Where should it run?
# The router takes a name with a size, a file, a function or a table, and says why. Tier 1 excludes what cannot work, tier 2 is
# a decision tree, tier 3 asks the whole cost model.

# %%
router = rl.ComplexityRouter()
for celsius in (45.0, 85.0):
    state = rl.HardwareState.from_temperature(T=celsius)
    for task in ("FFT", "gemm 512x512x512", "resnet8", "gpt2 context=512"):
        report = router.route(task, hw=state)
        print(f"{celsius:3.0f} C  {report.task:22} {report.target:4} {report.tier_used:20} {report.reason}")

report = router.route(squeeze)
for option in report.options:
    print(option)
