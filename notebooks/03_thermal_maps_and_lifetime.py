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
# # Where a chip is hot, and what that costs its memory
#
# From a floorplan and a power trace to temperature maps, from there to the lifetime of every memory tile: which mechanism
# ends it, when, and what that depends on. All of it is one differentiable function.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import physics

# %% [markdown]
# ## A floorplan
# Sixteen tiles of resistive memory beside a digital core and a strip of input and output. Rectangles are given as
# width, height, left, bottom in metres; `read_floorplan` takes HotSpot's `.flp` files.

# %%
tile, core, strip = 1.5e-3, 2e-3, 1e-3
blocks = {f"T{r}{c}": (tile, tile, core + c * tile, strip + r * tile) for r in range(4) for c in range(4)}
blocks |= {"core": (core, 4 * tile, 0.0, strip), "io": (core + 4 * tile, strip, 0.0, 0.0)}
floorplan = physics.Floorplan.from_blocks(blocks)
package = physics.HeatSinkPackage(r_convec=2.0, s_spreader=0.015, s_sink=0.025)
network = floorplan.network(package)
print(f"{len(floorplan.names)} blocks, {len(network.names)} nodes")

# %% [markdown]
# ## Steady temperatures
# The core draws 6 W, four busy tiles 1.5 W each. The network is HotSpot's block model, solved exactly.

# %%
busy = {"core": 6.0, "io": 0.5, "T00": 1.5, "T10": 1.5, "T01": 1.5, "T11": 1.5}
power = jnp.array([busy.get(name, 0.05) for name in floorplan.names])
ambient = 318.15
temperature = ambient + floorplan.blocks(network.steady(floorplan.inject(power)))
figure = physics.draw_floorplan(floorplan, temperature, title="Block model, steady")
figure

# %% [markdown]
# The same chip on a grid of 64 x 64 cells per layer, without ever building a matrix. A block model sees one temperature per
# block; the grid shows what that hides.

# %%
grid = physics.ThermalGrid.from_floorplan(floorplan, package, 64, 64)
field = grid.steady(grid.inject(physics.power_map(floorplan, power, 64, 64)))
fine = ambient + field.cells[0]
difference = float(jnp.max(jnp.abs(physics.block_means(floorplan, fine) - temperature)))
print(f"the block model differs by at most {difference:.2f} K of a rise of {float(temperature.max()) - ambient:.1f} K")
figure = physics.draw_layer(floorplan, fine, title="Grid, steady")
figure

# %% [markdown]
# ## Gradients of a temperature
# How much would the hottest block cool with a better package? The elasticity is the change of its rise in per cent, per
# per cent of the parameter.


# %%
def hottest_rise(package):
    """Rise (K) of the hottest block above ambient."""
    return jnp.max(floorplan.blocks(floorplan.network(package).steady(floorplan.inject(power))))


slopes = physics.values(jax.grad(hottest_rise)(package))
now = physics.values(package)
rise = float(hottest_rise(package))
for label in sorted(slopes, key=lambda name: -abs(float(slopes[name] * now[name])))[:6]:
    print(f"{label:14}  {float(slopes[label] * now[label]) / rise:+.3f}")

# %% [markdown]
# ## Leakage, and how near the chip is to running away
# Leakage grows with temperature, and temperature with leakage. The equilibrium ends in a fold: its margin is the smallest
# eigenvalue of the coupled system, and it falls to zero there. Beyond the fold there is a flag, not an infinity.

# %%
area = floorplan.inject(floorplan.area)
resistances = np.linspace(1.0, 14.0, 40)


@jax.jit
def equilibrium(r_convec):
    """Hottest temperature, margin and flag at one resistance of the heat sink to air."""
    cooled = floorplan.network(physics.replace(package, {"r_convec": r_convec}))
    leaky = physics.LeakyNetwork(network=cooled, leakage=physics.Leakage(), area=area, ambient=ambient)
    state = leaky.steady(floorplan.inject(power))
    return ambient + jnp.max(state.theta), state.margin, state.runaway


hottest, margin, runaway = jax.vmap(equilibrium)(jnp.asarray(resistances))
stable = ~np.asarray(runaway)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5))
left.plot(resistances[stable], np.asarray(hottest)[stable] - 273.15)
left.set(xlabel="sink to air (K/W)", ylabel="hottest block (°C)")
right.plot(resistances[stable], np.asarray(margin)[stable] * 1e3)
right.set(xlabel="sink to air (K/W)", ylabel="margin to runaway (mW/K)", ylim=(0, None))
plt.show()
if not stable.all():
    print(f"no equilibrium from {resistances[~stable].min():.1f} K/W on")

# %% [markdown]
# ## A day of work
# Bursts of work for sixteen hours, eight hours of rest, in steps of ten minutes: exact steps in modal form, however long.

# %%
steps = 144
hours = np.arange(steps) / 6
bursts = np.where((hours > 6) & (hours < 22), 0.4 + 0.6 * (np.sin(2 * np.pi * hours / 1.5) > 0), 0.05)
trace = jnp.asarray(bursts)[:, None] * power
rises = network.rollout(jnp.zeros(len(network.names)), floorplan.inject(trace), 600.0)
day = ambient + floorplan.blocks(rises)
plt.figure(figsize=(9, 3))
for name in ("core", "T00", "T33"):
    plt.step(hours, np.asarray(day[:, floorplan.index(name)]) - 273.15, label=name, where="post")
plt.xlabel("hour of the day")
plt.ylabel("temperature (°C)")
plt.legend()
plt.show()

# %% [markdown]
# ## Lifetime of every tile
# `physics.lifetime` follows the trace and says which mechanism ends a cell's life first, and when. Here every day is like the
# one above, weights are written once, and one stored level in ten thousand may be lost before error correction fails. All
# sixteen tiles in one call.

# %%
cell = physics.load_device("hfox_reram")
tiles = np.array([i for i, name in enumerate(floorplan.names) if name.startswith("T")])
year = 365.25 * 86400.0


def life_of(temperatures):
    """Lifetime under one day of temperatures, day after day; no writes, one read an hour."""
    return physics.lifetime(cell, temperatures, 0.0, 1 / 3600, 600.0, budget=1e-4)


lives = jax.jit(jax.vmap(life_of))(day.T[tiles])
years = np.exp(np.asarray(lives.log_time)) / year
for row in range(3, -1, -1):
    print("  ".join(f"T{row}{column} {years[4 * row + column]:9.2g} years" for column in range(4)))
print("ended by", {lives.mechanisms[int(i)] for i in lives.first})

# %% [markdown]
# What the life of the hottest tile depends on: elasticities of the lifetime, and its loss per kelvin.

# %%
worst = int(np.argmin(years))
print(f"{floorplan.names[tiles[worst]]}: {100 * float(lives.per_kelvin[worst]):+.1f} % of lifetime per kelvin")
elasticities = {label: float(value[worst]) for label, value in lives.elasticities.items()}
for label in sorted(elasticities, key=lambda name: -abs(elasticities[name]))[:6]:
    print(f"{label:28}  {elasticities[label]:+.3f}")

# %% [markdown]
# ## From the package to the lifetime in one gradient
# The chain is differentiable from end to end: how does the worst tile's lifetime answer to the heat sink?


# %%
@jax.jit
def worst_log_life(package):
    """ln of the shortest lifetime (s) among the tiles."""
    rises = floorplan.network(package).rollout(jnp.zeros(len(network.names)), floorplan.inject(trace), 600.0)
    temperatures = ambient + floorplan.blocks(rises)
    return jnp.min(jax.vmap(lambda t: life_of(t).log_time)(temperatures.T[tiles]))


value, slopes = jax.value_and_grad(worst_log_life)(package)
print(f"shortest lifetime {float(jnp.exp(value)) / year:.2g} years")
for label in ("r_convec", "k_chip", "k_interface", "t_interface"):
    elasticity = float(physics.lookup(slopes, label).value * physics.lookup(package, label).value)
    print(f"{label:14}  {elasticity:+.2f} % of lifetime per %")
