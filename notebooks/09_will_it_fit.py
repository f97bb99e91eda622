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
# # Will it fit, and how fast?
#
# On a small device speed is decided by where the bytes live, and by whether moving them overlaps with work. First question:
# does a network fit into a board's memory, and what does it cost if not? Second: what does double buffering buy, when half of
# the fast memory is the price?

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import costmodel
import workloads

# %% [markdown]
# ## Where the bytes live
# A manifest lists regions of weights, keys and values, and activations. Footprint (what must have room) and traffic (what
# moves) are two quantities. Capacity alone decides the regime: everything resident, state swapped, or weights streamed from the
# host.

# %%
placed = costmodel.manifest_from_ops("resnet8", fmt="int8")
manifest = placed.manifest
footprint = manifest.footprint
print(f"{len(manifest.regions)} regions: weights {footprint.weight:,} B, activations {footprint.activation:,} B")
for capacity in (2**18, 120_000, 60_000):
    print(f"{capacity:7,} B -> {costmodel.choose_regime(footprint, capacity)}")

# %% [markdown]
# Every capacity and every link at once: the trace of one inference is cut into bursts, and all pairs are priced in one program.

# %%
plan = costmodel.plan_bursts(manifest, costmodel.trace_ops(placed))
capacities = np.geomspace(footprint.weight // 2, 2 * footprint.total, 120).astype(int)
links = np.array([1e6, 1e7, 1e8])
found = costmodel.regime_times(plan, capacities, links)
for i, link in enumerate(links):
    plt.loglog(capacities, found.time[:, i], label=f"link of {link / 1e6:g} MB/s")
for limit in (footprint.weight, footprint.total):
    plt.axvline(limit, color="0.8", zorder=0)
plt.xlabel("capacity (B)")
plt.ylabel("seconds of memory traffic per inference")
plt.legend()
plt.show()

# %% [markdown]
# These steps have no gradient. The relaxed form blends the regimes and keeps the best fixed choice resident, so that a byte of
# memory and a byte per second of link can be weighed against each other:

# %%
slope = jax.grad(lambda c, b: jnp.log(costmodel.relaxed_time(plan, c, b)), (0, 1))
for capacity in (0.6, 1.1):
    c, b = jnp.asarray(capacity * footprint.total), jnp.asarray(1e7)
    dc, db = slope(c, b)
    print(f"{capacity:.1f} of the footprint: elasticity {float(dc * c):6.2f} in capacity, {float(db * b):6.2f} in the link")

# %% [markdown]
# ## A language model that does not fit
# Weights take the device's memory first, the cache what they leave; the rest stays with the host. As the cache grows, so does
# every token. (At 16 GB a little of the model comes over the link while the device reads its own part: slightly faster than
# with all of it inside.)

# %%
model = workloads.TRANSFORMERS["llama-3.1-8b"]
machine = costmodel.ServingMachine()
run = jax.jit(lambda m: costmodel.generate_tokens(model, m, 512, 64, sequences=8))
for gigabytes in (24, 16, 12, 8):
    told = run(costmodel.ServingMachine(device_capacity=gigabytes * 1e9))
    print(f"{gigabytes:3} GB: first token {float(told.first):6.2f} s, then {float(told.throughput):7.1f} tokens/s")

# %% [markdown]
# ## Published figures beside the model's
# What was calibrated, what only reproduces its source, and what was predicted are told apart.

# %%
print(costmodel.validate_memory())

# %% [markdown]
# ## Tiles and double buffering
# The training step of ResNet-8 (forward, loss, backward) as jax.grad writes it, tiled for a microcontroller with 64 KiB of fast
# memory. Two buffers for everything halve the tiles, so the fair comparison is one buffer in all of the memory against two in
# the same memory.

# %%
step = workloads.training_graph("resnet8", update=False)
gap9 = costmodel.load_hierarchy("gap9", l1=65_536)
gain = costmodel.compare_buffering(step, gap9)
print(f"{step.name}: {len(gain.single.operators)} operations, {gain.single.cycles:,.0f} and {gain.double.cycles:,.0f} cycles")
print(f"gain {100 * gain.gain:.2f} %; by the tiles that each operation has when it is double buffered:")
waits = {}
for before, after in zip(gain.single.operators, gain.double.operators, strict=True):
    kind = "one tile" if after.tiles == 1 else "several tiles"
    waits.setdefault(kind, []).append((before.cycles, after.cycles))
for kind, pairs in waits.items():
    single, double = np.sum(pairs, 0)
    print(f"  {kind:14} {len(pairs):3} operations, {100 * (1 - double / single):5.2f} % gained")

# %% [markdown]
# ## Who chooses the tile?
# All tiles tried, descent on the relaxed model, and the published rule (the largest tile that fits), on the deployed network:

# %%
deployed = workloads.load_program("resnet8")
for rule, plan in costmodel.compare_rules(
    deployed, gap9, rules=("exhaustive", "gradient", "largest"), buffering="double"
).items():
    print(f"{rule:12} {plan.cycles:12,.0f} cycles")

# %% [markdown]
# `tempo cost --tiling --validate` puts the published gains of Deeploy's training beside ours (half a minute):
#
# | row | published | model | |
# |---|---|---|---|
# | GEMM, double buffering | 2.0 % | 2.6 % | predicted, totals calibrated |
# | empty kernel, double buffering | 21 % | 41 % | predicted, poor |
# | DS-CNN, 128 KB: operators with one tile; gain | 96 to 97 %; 0.5 % | 99 %; 0.85 % | predicted |
# | DS-CNN, 16 KB: operators with one tile | 98 % | 31 % | predicted, poor |
# | autoencoder, 128 KB: gain | 0.2 % | 9.4 % | predicted, poor |
# | ResNet-8, promotion and double buffering | -7.7 % | -3.2 % | predicted, rate fitted |
# | MobileNetV1, promotion and double buffering | -6.8 % | -8.6 % | predicted |
#
# Its graphs are not public, so a part of the difference may be another graph; the rest is not explained yet.
