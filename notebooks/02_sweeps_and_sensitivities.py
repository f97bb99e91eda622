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
# # A million hardware states, and what matters in them
#
# Sweeps and sensitivities work on labels: every number of the hardware has a name, a unit, a range and a source.

# %%
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import costmodel
import physics
import workloads

chip = costmodel.load_hardware("isaac")
ops = workloads.load("resnet8")
for row in physics.describe(chip)[:12]:
    print(f"{row.label:16} {float(row.value):10.4g} {row.param.unit:6} [{row.param.lo:g}, {row.param.hi:g}]  {row.param.source}")

# %% [markdown]
# ## A million states in one call
# Crossbar rows, bits per cell, cycle time and ADC power on a grid; the result is an `xarray.Dataset` with units.

# %%
vary = {
    "rows": np.geomspace(32, 1024, 32),
    "bits_per_cell": np.arange(1, 5),
    "cycle_time": np.geomspace(20e-9, 500e-9, 64),
    "power_adc": np.geomspace(2e-3, 64e-3, 128),
}
start = time.perf_counter()
data = costmodel.sweep(lambda hw: costmodel.estimate(hw, ops), chip, vary)
seconds = time.perf_counter() - start
print(f"{data.latency.size:,} states, {len(data.data_vars)} figures each, in {seconds:.1f} s with compilation")
data

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
flat = data.isel(power_adc=64)
axes[0].loglog(1e6 * flat.latency.values.ravel(), 1e6 * flat.energy.values.ravel(), ".", markersize=2)
axes[0].set_xlabel("latency (us)")
axes[0].set_ylabel("energy (uJ)")
for bits in data.bits_per_cell.values:
    memory = 100 * data.memory.sel(bits_per_cell=bits).isel(cycle_time=32, power_adc=64)
    axes[1].loglog(data.rows, memory, drawstyle="steps-post", label=f"{bits:g} bits per cell")
axes[1].set_xlabel("crossbar rows")
axes[1].set_ylabel("share of the chip that the weights take (%)")
axes[1].legend()
plt.show()

# %% [markdown]
# The stairs on the right are real: a layer takes whole crossbars. That is why a gradient needs a policy.
#
# ## Three policies
# `HARD` is exact and its slope is zero through every rounding. `STRAIGHT_THROUGH` keeps the exact value and takes the slope of
# the smooth relaxation. `soft(s)` is smooth in value and slope, but its value is biased:
# use it for search, not for figures. The policy stands in the signature and in the result.

# %%
for policy in (costmodel.HARD, costmodel.STRAIGHT_THROUGH, costmodel.soft(8)):
    table = costmodel.sensitivity(lambda hw, p: costmodel.estimate(hw, ops, relaxation=p).latency, chip, policy)
    shown = ", ".join(
        f"{label} {table[label].elasticity:+.3f}" for label in ("cycle_time", "rows", "cols", "elements", "weight_bits")
    )
    print(f"{table.relaxation:17} latency {1e6 * table.value:.2f} us   {shown}")

# %% [markdown]
# ## What matters for the energy
# One reverse pass, every parameter.

# %%
table = costmodel.sensitivity(lambda hw, p: costmodel.estimate(hw, ops, relaxation=p).energy, chip)
rows = [row for row in table.relevant if abs(row.elasticity) > 0.01][::-1]
plt.figure(figsize=(7, 0.3 * len(rows) + 1))
plt.barh([row.label for row in rows], [row.elasticity for row in rows])
plt.xlabel("elasticity of the energy (% per %)")
plt.show()

# %% [markdown]
# ## Gradients of a whole batch
# `batched_gradients` works through any number of states in chunks inside one program: bounded memory, and faster than
# one big `vmap`.

# %%
n = 50_000
keys = jax.random.split(jax.random.key(0), 2)
states = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), chip)
states = physics.replace(
    states,
    {
        "rows": jax.random.uniform(keys[0], (n,), minval=32, maxval=512),
        "power_adc": jax.random.uniform(keys[1], (n,), minval=4e-3, maxval=32e-3),
    },
)


def energy(hw):
    """Energy (J) of one inference."""
    return costmodel.estimate(hw, ops, relaxation=costmodel.STRAIGHT_THROUGH).energy


values, gradients = jax.jit(lambda s: costmodel.batched_gradients(energy, s))(states)
share = np.abs(np.asarray(gradients.power_adc) * np.asarray(states.power_adc) / np.asarray(values))
print(f"{n:,} states x {len(physics.labels(chip))} parameters; ADC: {share.min():.0%} to {share.max():.0%} of the energy")
