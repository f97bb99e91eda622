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
# # All layers at once: cross-layer scheduling on crossbars
#
# When every weight of a network sits in a crossbar, running layer by layer leaves almost all of them idle. A layer can start
# as soon as the first places of the layer before it are finished, and a few extra crossbars can hold copies of the slow layers.
# How much that gains depends on choices that are easily left unsaid; here they are arguments.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import costmodel
from costmodel import PIXELS, WHOLE_ROWS, Sets

graph = costmodel.layer_graph("tiny-yolo-v4")
needed = sum(graph.crossbars())
print(f"{len(graph.layers)} layers on {needed} crossbars of 256 x 256, {sum(graph.cycles):,} cycles layer by layer")
print(f"{'layer':8}{'places':>14}{'K x N':>13}{'crossbars':>11}{'cycles':>8}")
for layer, crossbars in list(zip(graph.layers, graph.crossbars(), strict=True))[:6]:
    places = f"{layer.rows} x {layer.columns}"
    print(f"{layer.name:8}{places:>14}{f'{layer.k} x {layer.n}':>13}{crossbars:>11}{layer.cycles:>8,}")

# %% [markdown]
# The first layer alone takes 38 % of the cycles on one of 117 crossbars. With 32 crossbars more:

# %%
plan = costmodel.plan_schedule(graph, needed + 32)
print(f"speedup {plan.speedup:.1f}, utilisation {plan.reference_utilisation:.1%} -> {plan.utilisation:.1%}")
print(costmodel.gantt_text(plan, 72))

# %% [markdown]
# ## A band, not a number
# Published speedups fix neither the size of the sets that layers hand on, nor who gets the copies, nor how copies share a layer.
# One identity holds throughout: copies conserve the work, so utilisation gains what speedup gains, less the crossbars added:
# $U / U_0 = S \, \mathrm{PE}_\min / (\mathrm{PE}_\min + x)$.

# %%
for other in costmodel.speedup_band(graph, needed + 32):
    left = other.utilisation / other.reference_utilisation
    right = other.speedup * needed / other.available
    print(f"{other.rule:8} sets {other.sets!s:10} speedup {other.speedup:5.2f}   U/U0 {left:.4f} = {right:.4f}")
rows = [float(costmodel.cross_layer(graph, plan.duplicates, sets=Sets(h, 0)).makespan) for h in (1, 2, 3)]
print("sets of 1, 2, 3 whole rows:", ", ".join(f"{plan.reference / r:.1f}" for r in rows))
flat = costmodel.plan_schedule(graph, needed + 32, direction="horizontal")
print(f"horizontal instead of vertical strips: {flat.speedup:.1f} (the last strip waits for the end of its producer)")

# %% [markdown]
# ## Every crossbar count at once
# A schedule is a window maximum and a cumulative maximum per layer, so a batch of platforms is one `vmap`.

# %%
extras = np.arange(0, 65, 4)
copies = np.stack([costmodel.greedy_duplicates(graph.cycles, graph.crossbars(), int(x)) for x in extras])
sums = np.stack([costmodel.min_sum_duplicates(graph.cycles, graph.crossbars(), int(x)) for x in extras])
figure, axis = plt.subplots(figsize=(7, 3.6))
for name, chosen in (("greedy", copies), ("smallest sum", sums)):
    for sets, style in ((PIXELS, "-"), (WHOLE_ROWS, "--")):
        makespan = jax.vmap(lambda d, s=sets: costmodel.cross_layer(graph, d, sets=s).makespan)(jnp.asarray(chosen))
        color = "tab:blue" if name == "greedy" else "tab:orange"
        axis.plot(extras, plan.reference / makespan, style, color=color, drawstyle="steps-post", label=f"{name}, sets {sets}")
axis.set_xlabel("extra crossbars")
axis.set_ylabel("speedup")
axis.legend()
plt.show()

# %% [markdown]
# ## Which layer is the bottleneck?
# The gradient of the makespan in the cycle time of each layer counts the places of that layer on the critical path; where paths
# tie they share it. It is homogeneous, so the products with the cycle times sum to the makespan.

# %%
slope = jax.grad(lambda cycle: costmodel.cross_layer(graph, plan.duplicates, cycle=cycle).makespan)(jnp.ones(len(graph.layers)))
print(f"sum {float(slope.sum()):.0f} of {float(plan.schedule.makespan):.0f} cycles")
for i in np.argsort(-slope)[:5]:
    print(f"  {graph.names[i]:8} x{plan.duplicates[i]:<3} {float(slope[i]):7.0f} cycles on the critical path")

# %% [markdown]
# ## How far is the greedy rule from the best?
# `search_duplicates` chooses copies for the makespan itself and returns a bound: no choice can be faster.

# %%
for extra in (4, 16):
    found = costmodel.search_duplicates(graph, graph.crossbars(), extra)
    greedy = costmodel.plan_schedule(graph, needed + extra)
    verdict = "the best there is" if found.proven else f"none is faster than {found.bound:.0f}"
    print(f"{extra:3} extra: greedy {float(greedy.schedule.makespan):6.0f}, search {found.makespan:6.0f} cycles, {verdict}")
