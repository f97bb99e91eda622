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
# # Search: exhaustive, learned, gradient
#
# Which array shape, which buffers, which mapping? With a batched cost model the honest first answer is often: try them all. Where
# that is possible, it is the yardstick for everything cleverer: a network that recommends, and searches that follow a gradient,
# breed, or model what they have seen.

# %%
import time

import jax
import matplotlib.pyplot as plt
import numpy as np

import costmodel
import rl

# %% [markdown]
# ## Try them all
# A systolic array for a matrix product (m, n, k) within a budget of multiply-accumulators: 153 shapes with powers of two as
# sides, three dataflows, 459 configurations. Cycles are exact integers (float32 does not tell near ties apart), and among
# equals the first in the table is the label.

# %%
space = costmodel.ArraySpace()
work = np.asarray(space.sample(jax.random.key(1), 20_000))
start = time.perf_counter()
best = space.oracle(work)
seconds = time.perf_counter() - start
print(f"{len(work):,} workloads x {space.count} configurations in {seconds:.2f} s, compilation included")
for name in ("dataflow", "rows", "columns"):
    print(name, np.asarray(space.table[name])[best.configuration[:5]])

# %% [markdown]
# How much hangs on the choice? For one product, the cost of every allowed configuration over the best:

# %%
one = np.asarray([[300, 700, 512, 4096]])
allowed = np.asarray(space.allowed(one))[0]
costs = np.asarray(space.costs_of(one, np.arange(space.count)[None])[0], float)
figure, pane = plt.subplots(figsize=(7, 3), layout="constrained")
for flow, colour in enumerate(("#4c78a8", "#f58518", "#54a24b")):
    chosen = allowed & (np.asarray(space.table["dataflow"]) == flow)
    pane.semilogy(np.sort(costs[chosen] / costs[allowed].min()), color=colour, label=("OS", "WS", "IS")[flow])
pane.set(xlabel="configurations of each dataflow, best first", ylabel="cycles over the best")
pane.legend(frameon=False)
pane.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# ## Learn to recommend
# A small network, trained on random products only, answers at once. It is judged against the oracle on products it has never
# seen, and on the layers of real networks, beside two rules that need no learning. `best of 8` prices its eight favourites
# exactly and takes the best.

# %%
recommender = rl.load_recommender()
print(rl.judge_recommender(recommender, work))

# %%
layers = costmodel.layer_products(["resnet50", "mobilenet-v1-0.25", "ds-cnn"])
real = np.concatenate([np.column_stack([layers, np.full(len(layers), 2**power)]) for power in (8, 12, 16)])
print(rl.judge_recommender(recommender, real))

# %% [markdown]
# ## Follow the gradient
# A mapping cuts the seven loops of a layer into factors, one for each level of storage, and orders them. Its cost has a gradient
# in the logarithms of the factors once they may be real numbers. The search rounds them, and only what fits and has been
# priced exactly counts. A product small enough to try everything shows how good it is.

# %%
accelerator = costmodel.LoopAccelerator(accumulator=2048.0, scratchpad=2048.0, memory_words=2.0)
product = costmodel.loop_layer({"P": 32, "C": 64, "K": 32})
start = time.perf_counter()
optimum = costmodel.search_mappings(accelerator, product, method="exhaustive", orders="stationary")
print(f"exhaustive, {time.perf_counter() - start:.1f} s:", optimum)
found = costmodel.search_mappings(accelerator, product, method="gradient", orders="stationary", evaluations=10_000)
print("by gradient:", found)

# %% [markdown]
# ## Equal evaluations, equal time
# One search proves nothing. Every method gets the same budget of evaluations (a gradient counts as the evaluations it takes the
# time of) and the same time, over several seeds; `regret` is what the best found costs above the optimum. The Bayesian search
# chooses its points with care and pays for it in time.

# %%
data = costmodel.compare_searches(
    accelerator,
    [product],
    orders="stationary",
    seeds=3,
    evaluations=np.geomspace(30, 10_000, 12),
    seconds=np.geomspace(0.01, 0.5, 9),
)
picture = costmodel.plot_searches(data, title=f"a product of 32 x 64 x 32, {data.attrs['choices']:,.0f} mappings")

# %% [markdown]
# ## Hardware too
# Which accelerator should a network have? Side of the array and sizes of the buffers are searched together with a mapping for
# every layer; a genome whose mappings need less gets the smaller buffers.

# %%
bert = [
    costmodel.loop_layer({"P": 512, "C": 768, "K": 768}, repeats=48),
    costmodel.loop_layer({"P": 512, "C": 768, "K": 3072}, repeats=12),
    costmodel.loop_layer({"P": 512, "C": 3072, "K": 768}, repeats=12),
]
hardware = {"side": [8, 16, 32, 64], "accumulator": 2.0 ** np.arange(10, 21), "scratchpad": 2.0 ** np.arange(10, 22)}
results = {}
for method in ("gradient", "evolution", "random"):
    results[method] = result = costmodel.search_hardware(
        costmodel.LoopAccelerator(), hardware, bert, method=method, evaluations=60_000
    )
    chosen = {name: float(getattr(result.accelerator, name)) for name in hardware}
    print(f"{method:10} {result.value:.4g} J s", chosen)
print("by gradient:", results["gradient"])

# %% [markdown]
# No method wins everywhere (`tests/benchmarks/bench_search.py` has more spaces, more seeds and longer budgets). Where everything
# can be tried, try everything; where a question is asked a million times, let a network answer it and price its favourites;
# where the space is vast, follow the gradient or breed, and look at random search beside both.
