"""SchedulingEnv under a random policy, 1024 environments, one core; and how that compares with the plant's step alone.

`of_plant` is the rate as a share of that of `costmodel.step` on the same tasks, timed in the same run: what drawing tasks,
observing, rewarding and resetting cost beside the physics.
"""

import dataclasses

import jax
import jax.numpy as jnp
from timing import best, one_core, report

import costmodel
import rl
from workloads import Burst, TaskStream, list_networks

LANES, STEPS, TARGET = 1024, 100, 2e6
CLOCKS = {"cpu": "stm32l4r5", "gpu": "edge-gpu", "pim": "edge-pim"}


def rate(env: rl.SchedulingEnv) -> float:
    """Environment steps per second under a random policy."""
    space = env.action_space()

    @jax.jit
    def play(key):
        observation, state = jax.vmap(env.reset)(jax.random.split(key, LANES))

        def body(carry, key):
            state, total = carry
            key_act, key_step = jax.random.split(key)
            actions = jax.vmap(space.sample)(jax.random.split(key_act, LANES))
            observation, state, reward, *_ = jax.vmap(env.step)(jax.random.split(key_step, LANES), state, actions)
            return (state, total + reward + 1e-6 * jnp.sum(observation, axis=1)), None

        return jax.lax.scan(body, (state, observation[:, 0] * 0), jax.random.split(key, STEPS))[0][1]

    return LANES * STEPS / best(lambda: play(jax.random.key(0)), repeat=5)


def plant_rate(env: rl.SchedulingEnv) -> float:
    """Steps per second of `costmodel.step` with the same tasks again and again."""
    _, states = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), LANES))
    tasks = jax.vmap(env.task)(states)
    decisions = costmodel.Decision(jax.random.randint(jax.random.key(1), (LANES,), 0, len(env.platform.names)))

    @jax.jit
    def play(state):
        def body(carry, _):
            state, total = carry
            after, outcome = jax.vmap(lambda s, t, d: costmodel.step(env.platform, s, t, d, env.modes))(state, tasks, decisions)
            return (after, total + outcome.energy), None

        return jax.lax.scan(body, (state, jnp.zeros(LANES)), length=STEPS)[0]

    return LANES * STEPS / best(lambda: play(states.platform), repeat=5)


def main() -> None:
    one_core()
    platform = costmodel.load_platform("edge")
    env = rl.SchedulingEnv(platform)
    plant, default = plant_rate(env), rate(env)
    report("environment", lanes=LANES, steps_per_s=default, of_plant=default / plant, target_steps_per_s=TARGET)
    governed = dataclasses.replace(
        platform, clocks={name: costmodel.load_clock(clock) for name, clock in CLOCKS.items()}, limit=costmodel.ThermalLimit()
    )
    variants = {
        "levels": rl.SchedulingEnv(governed, levels=(0.5, 0.75, 1.0)),
        "continuous": rl.SchedulingEnv(governed, levels="continuous"),
        "refresh": rl.SchedulingEnv(platform, refresh=True),
        "day": rl.SchedulingEnv(platform, ambient=rl.AmbientTrace.day(288.15, 308.15)),
        "bursts": rl.SchedulingEnv(platform, TaskStream(list_networks(), burst=Burst())),
    }
    for name, variant in variants.items():
        speed = rate(variant)
        report(f"environment, {name}", lanes=LANES, steps_per_s=speed, of_default=speed / default)


if __name__ == "__main__":
    main()
