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
# # Work makes power, power makes temperature, temperature shortens memory
#
# Ten minutes through the chain that Tempo models. Every arrow is a pure, jitted function with a gradient.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import costmodel
import physics
import workloads

# %% [markdown]
# ## Work
# A network is an operation table: one row per operation as a device would run it.

# %%
ops = workloads.load("resnet8")
print(f"{ops.n_ops} operations, {ops.total('macs'):,} MACs with zero padding, {ops.total('macs_valid'):,} without")
print(
    f"{ops.info.parameters:,} parameters, at most {ops.peak_live:,} activations alive, at {ops.info.op_names[ops.info.peak_op]}"
)

# %% [markdown]
# ## Work makes power
# `estimate` answers one question for every kind of processor: what does this table cost here, under these conditions?

# %%
for name in costmodel.list_hardware():
    cost = costmodel.estimate(costmodel.load_hardware(name), ops)
    bound = costmodel.Bound(int(cost.bound)).name.lower()
    print(f"{name:10}  {1e3 * cost.latency:8.3f} ms  {1e3 * cost.energy:8.4f} mJ  {cost.power:8.3f} W  {bound}")

# %% [markdown]
# ## Power makes temperature
# A platform's processors sit on one thermal network. A step with constant power is solved exactly, however long it is.

# %%
platform = costmodel.load_platform("edge")
network = platform.package.network()
times = jnp.geomspace(1e-2, 3e3, 200)
gpu_on = jnp.array([0.0, 2.0, 0.0, 0.0, 0.0])  # W into cpu, gpu, pim, spreader, case
rise = jax.vmap(lambda t: network.step(jnp.zeros(5), gpu_on, t))(times)

for index, name in enumerate(network.names):
    plt.semilogx(times, rise[:, index], label=name)
plt.xlabel("time (s)")
plt.ylabel("rise above ambient (K)")
plt.title("2 W on the GPU warm the memory chip beside it")
plt.legend()
plt.show()

# %% [markdown]
# ## Temperature shortens memory
# Retention follows Arrhenius' law. It is carried as a logarithm, because at room temperature it is longer than float32 can say.

# %%
temperature = jnp.linspace(300.0, 420.0, 121)
for name in physics.list_devices():
    cell = physics.load_device(name)
    plt.plot(temperature - 273.15, jax.vmap(cell.retention.log_time)(temperature) / np.log(10), label=name)
plt.axhline(np.log10(10 * physics.YEAR), color="gray", linestyle=":", label="ten years")
plt.xlabel("temperature (C)")
plt.ylabel("log10 of retention time (s)")
plt.legend()
plt.show()

# %% [markdown]
# ## The whole chain
# `costmodel.step` is the only place where cost, heat and reliability meet. Here the GPU gets a burst of video frames every
# five seconds, while weights wait in the memory chip next to it.

# %%
FRAMES, GAP, BURSTS = 4000, 5.0, 240


def play(platform, processor="gpu"):
    """Twenty minutes of bursts on one processor: temperatures of the chip and lost share of its error budget, over time."""
    frame = costmodel.make_offer(platform, ops)
    burst = frame._replace(latency=FRAMES * frame.latency, energy=FRAMES * frame.energy)
    task = costmodel.Task(burst, jnp.asarray(0), jnp.asarray(GAP), jnp.asarray(GAP))
    tasks = jax.tree.map(lambda x: jnp.broadcast_to(x, (BURSTS, *x.shape)), task)
    decisions = costmodel.Decision(jnp.full(BURSTS, platform.names.index(processor)))
    start = platform.initial_state(ambient=physics.from_celsius(55.0))
    end, outcomes = costmodel.rollout(platform, start, tasks, decisions)
    lost = jnp.exp(end.cells["pim"].log_hazard[0] - jnp.log(platform.hazard_budget))
    return lost, (outcomes, end)


lost, (outcomes, end) = jax.jit(play)(platform)
plt.plot(np.arange(BURSTS) * GAP / 60, outcomes.peak_temperature - 273.15)
plt.xlabel("time (min)")
plt.ylabel("hottest junction (C)")
plt.show()
print(f"after 20 minutes the memory chip is at {end.temperature[2] - 273.15:.1f} C; {lost:.0%} of its error budget is gone")

# %% [markdown]
# ## Gradients
# One reverse pass gives the derivative of that lost share in every labelled parameter of all processors, the package and
# the cells. Elasticity is per cent per cent.

# %%
table = costmodel.sensitivity(lambda platform: play(platform)[0], platform)
for row in table.relevant[:12]:
    print(f"{row.label:48} {row.elasticity:+8.3f}")

# %% [markdown]
# The cell's activation energy matters most; next come the GPU's power and the package, in which the memory has no say.
# Weights count as lost once more than one cell in a million (the hazard budget) has lost its value.
# A scheduler that knows all this decides better: `make study` trains one.
