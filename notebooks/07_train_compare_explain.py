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
# # A scheduler, trained, compared, explained
#
# Three networks ask for a CPU, a GPU or a crossbar chip that forgets when it is warm, and that has not quite enough room for
# all of them. Two agents learn where to send each request; rules and the optimum say what they are worth. Then one of them
# becomes a controller that gives reasons, and we look at what it looks at. This is a small version, with agents that are
# trained for seconds.

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import costmodel
import rl
import workloads
from rl.decisions.controller import make_decide, no_memory
from rl.decisions.explain import reference_state
from rl.study.evaluation import evaluate_each

platform = costmodel.load_platform("edge")
env = rl.SchedulingEnv(platform, workloads.TaskStream(["ds-cnn", "mobilenet-v1-0.25", "resnet8"]))
params = env.default_params._replace(max_steps=64)
shares = dict(zip(env.stream.networks, np.asarray(env.offers.memory[:, 2], float).round(2).tolist(), strict=True))
print(f"share of the chip: {shares}")
print(f"{len(env.observation_names)} entries in an observation, {env.num_actions} processors: {', '.join(platform.names)}")

# %% [markdown]
# ## Train
# One program from a random key to a trained agent. Discounting by 0.97 looks about thirty requests ahead.

# %%
common = {"num_envs": 10, "buffer_size": 20_000, "batch_size": 64, "learning_starts": 1_000, "log_every": 1_000}
common |= {"hidden": (64, 64), "reward_scale": 0.1, "gamma": 0.97}
agents = {
    "dqn": rl.train(env, rl.DQNConfig(total_steps=25_000, learning_rate=1e-3, **common), seed=0, params=params),
    "sac": rl.train(env, rl.SACConfig(total_steps=8_000, **common), seed=0, params=params),
}
for name, agent in agents.items():
    rows = np.asarray(agent.metrics.episodes) > 0
    plt.plot(agent.metrics.env_steps[rows], agent.metrics.episode_return[rows], label=name)
plt.xlabel("environment steps")
plt.ylabel("return of training episodes, exploration included")
plt.legend()
plt.show()

# %% [markdown]
# ## Compare
# Everybody plays the same episodes. The optimum is value iteration on a grid, a coarse one here, played in the continuous
# environment; cost-greedy looks at the next arrival, which nobody else may. The interval is of the interquartile mean over
# episodes, for one training seed: it says nothing about other seeds.

# %%
nodes = rl.GridNodes(ambient=(298.15, 340.0, 358.0, 383.0), mean_gap=(0.03, 0.3, 3.0), backlog=(0.0, 0.2), deadlines=6, gaps=2)
optimum = rl.solve_routing(env, params, nodes)
rules = rl.baselines(env, params)
policies = {name: rules[name] for name in ("random", "always-pim", "threshold", "slack-greedy", "cost-greedy")}
policies |= {name: (lambda key, observation, state, act=agent.policy(): act(observation)) for name, agent in agents.items()}
policies["optimum"] = optimum.policy()
scores = evaluate_each(env, policies, jax.random.key(1), 128, params)
print(f"{'':14}{'cost of an episode':>20}{'95 % interval':>18}   share of " + ", ".join(platform.names))
for name, found in sorted(scores.items(), key=lambda item: rl.interquartile_mean(item[1].score)):
    low, high = rl.bootstrap_interval(found.score)
    shares = "  ".join(f"{share:5.0%}" for share in np.mean(found.shares, axis=0))
    print(f"{name:14}{-rl.interquartile_mean(found.score):20.2f}{f'{-high:.2f} to {-low:.2f}':>18}            {shares}")

# %% [markdown]
# ## A controller
# It asks the agent only where the agent has been, keeps a network where it is unless that costs something, and leaves a chip
# whose weights would not survive until the result. Each decision says why, and what the others would have cost.

# %%
agent = agents["dqn"]
trained = rl.training_range(env, agent, jax.random.key(2), lanes=128, steps=64, params=params)
controller = rl.Controller(env, agent, trained=trained, params=params)
state = reference_state(env, "resnet8").platform._replace(ambient=jnp.asarray(340.0))
for network, deadline in (("resnet8", 0.1), ("ds-cnn", 0.05), ("mobilenet-v1-0.25", 0.5), ("resnet8", 30.0)):
    request = controller.request(network, deadline=deadline, mean_gap=0.2)
    decision = controller.decide(state, request)
    print(f"{network} within {deadline:g} s -> {decision}")
    task = env.task(reference_state(env, network, deadline=deadline, mean_gap=0.2))
    state, _ = costmodel.step(platform, state, task, costmodel.Decision(decision.index))
print(f"\n{'':6}{'latency':>12}{'energy':>12}{'ln(budget/lost)':>18}{'reward now':>12}")
for row in decision.alternatives:
    print(f"{row.target:6}{1e3 * row.latency:9.2f} ms{1e3 * row.energy:9.3f} mJ{row.retention_margin:18.1f}{row.reward:12.3f}")

# %% [markdown]
# What does caution cost? The same episodes with and without each rule. The limit on retention saves results that would have been
# lost, and pays with slower processors.


# %%
def play(limits, key):
    """Return, moves, and lost results of one episode under `limits`."""
    decide = make_decide(env, agent, trained, limits, params)
    key_reset, key_run = jax.random.split(key)

    def body(carry, key):
        state, memory = carry
        verdict, after = decide(memory, state)
        last = memory[state.network]
        moved = (last >= 0) & (last != verdict.target)
        following, outcome = env.step_env(key, state, verdict.target)
        return (following, after), jnp.stack([env.reward(state, outcome, params), moved, outcome.failed, verdict.fallback])

    start = (env.reset(key_reset, params)[1], no_memory(env))
    return jnp.sum(jax.lax.scan(body, start, jax.random.split(key_run, params.max_steps))[1], axis=0)


nothing = rl.ControlLimits(retention_margin=-50.0, temperature=1000.0, hysteresis=0.0, slack=1e6)
cases = {
    "the agent alone": nothing,
    "hysteresis 0.05": nothing._replace(hysteresis=0.05),
    "no lost results": nothing._replace(retention_margin=0.0),
    "half the budget in reserve": nothing._replace(retention_margin=float(np.log(2))),
    "default limits": rl.ControlLimits(),
}
stacked = jax.tree.map(lambda *values: jnp.array(values), *cases.values())
keys = jax.random.split(jax.random.key(3), 128)
found = np.mean(jax.jit(jax.vmap(jax.vmap(play, (None, 0)), (0, None)))(stacked, keys), axis=1)
print(f"{'per episode of 64':30}{'mean cost':>10}{'moves':>8}{'lost':>8}{'fall-backs':>12}")
for name, (score, moved, lost, fallback) in zip(cases, found, strict=True):
    print(f"{name:30}{-score:10.2f}{moved:8.1f}{lost:8.2f}{fallback:12.2f}")

# %% [markdown]
# ## Explain
# A map of decisions over temperature and load, with everything else held in the middle; crosses mark where the controller
# does not ask the agent. The right side shows how decided it is: dark lines are where it changes its mind.

# %%
temperatures, rates = np.linspace(290.0, 375.0, 35), np.geomspace(0.3, 30.0, 30)
controller.reset()
rl.plot_decision_map(rl.decision_map(controller, "resnet8", temperatures, rates))
plt.show()

# %% [markdown]
# Why this one? The lead over the runner-up is shared out over the entries of the observation by integrated gradients from
# the mean observation of training; the bars add up to the difference of the two leads in the title.

# %%
observation = env.observe(reference_state(env, "resnet8"))
why = rl.attributions(agent, observation, trained.mean)
print(f"missing from the sum: {float(why.residual):.1e}")
rl.plot_attributions(why, env.observation_names, platform.names, top=8)
plt.show()

# %%
resets = jax.jit(jax.vmap(lambda key: env.reset(key, params)[0]))(jax.random.split(jax.random.key(4), 4096))
rl.plot_value_gaps(rl.value_gaps(agent, resets), platform.names, rl.ControlLimits().hysteresis)
plt.show()

# %% [markdown]
# ## Take it elsewhere
# One file with the function and its parameters, which JAX alone can read; `rl.export_onnx` writes the same
# network for runtimes without JAX.

# %%
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "scheduler.tempo"
    rl.export_policy(agent, env, path)
    policy = rl.load_policy(path)
    same = np.mean(np.asarray(policy(resets)["action"]) == np.asarray(jax.vmap(agent.policy())(resets)))
    print(f"{path.stat().st_size / 1e3:.0f} kB for {', '.join(policy.about['targets'])}; {same:.0%} of 4096 decisions the same")
