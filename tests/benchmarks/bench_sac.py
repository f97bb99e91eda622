"""SAC on Pendulum on one core: net 64-64, batch 256, one update per step, 10,000 steps; and rejax where it is installed.

Both are timed alternately by the processor time they take, which neighbours on the machine disturb least. rejax needs
gymnax 0.0.9, which our protocol of six results does not fit, so the pendulum is written out here (constants of Gym).
"""

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from timing import one_core, report

import rl
from rl.agents.presets import pendulum

STEPS, ROUNDS = 10_000, 3


class Pendulum:
    """Gym's Pendulum-v1: torque up to 2 on a rod of length and mass 1, 200 steps of 0.05 s, no natural end."""

    default_params = None

    def action_space(self, params: Any) -> rl.Box:
        return rl.Box(-2.0, 2.0, (1,))

    def observe(self, state: Any) -> jax.Array:
        return jnp.stack([jnp.cos(state[0]), jnp.sin(state[0]), state[1]])

    def reset(self, key: Any, params: Any) -> Any:
        angle, speed = jax.random.uniform(key, (2,), jnp.float32, -1.0, 1.0) * jnp.asarray([jnp.pi, 1.0], jnp.float32)
        state = (angle, speed, jnp.zeros((), jnp.int32))
        return self.observe(state), state

    def step(self, key: Any, state: Any, action: Any, params: Any) -> Any:
        angle, speed, count = state
        torque = jnp.clip(action[0], -2.0, 2.0)
        reward = -(((angle + jnp.pi) % (2 * jnp.pi) - jnp.pi) ** 2 + 0.1 * speed**2 + 0.001 * torque**2)
        speed = jnp.clip(speed + (15.0 * jnp.sin(angle) + 3.0 * torque) * 0.05, -8.0, 8.0)
        ended = (angle + speed * 0.05, speed, count + 1)
        terminated, truncated = jnp.zeros((), bool), ended[2] >= 200
        state = jax.tree.map(lambda a, b: jnp.where(truncated, a, b), self.reset(key, params)[1], ended)
        return self.observe(state), state, reward, terminated, truncated, {"final_observation": self.observe(ended)}


def ours() -> Callable[[Any], Any]:
    """Our training as a function of a key."""
    return rl.make_train(Pendulum(), pendulum(total_steps=STEPS))


def theirs(activation: str) -> Callable[[Any], Any]:
    """rejax's training as a function of a key, at the same settings."""
    from rejax import SAC  # pyright: ignore[reportMissingImports]

    agent = SAC.create(
        env="Pendulum-v1",
        total_timesteps=STEPS,
        num_envs=1,
        buffer_size=10_000,
        fill_buffer=1_000,
        batch_size=256,
        learning_rate=1e-3,
        polyak=0.995,
        eval_freq=STEPS,
        hidden_layer_sizes=(64, 64),
        agent_kwargs={"activation": activation},
        skip_initial_evaluation=True,
    )
    return agent.replace(eval_callback=lambda *_: jnp.zeros(())).train


def main() -> None:
    one_core()
    trainings = {"ours": ours()}
    if importlib.util.find_spec("rejax") is not None:
        trainings |= {"rejax_relu": theirs("relu"), "rejax_swish": theirs("swish")}
    programs, compiled = {}, {}
    for name, train in trainings.items():
        start = time.process_time()
        programs[name] = jax.jit(train).lower(jax.random.key(0)).compile()
        compiled[name] = time.process_time() - start
    seconds = {name: float("inf") for name in programs}
    for seed in range(ROUNDS):
        for name, program in programs.items():
            start = time.process_time()
            jax.block_until_ready(program(jax.random.key(seed)))
            seconds[name] = min(seconds[name], time.process_time() - start)
    ratios = {f"times_{name}": seconds[name] / seconds["ours"] for name in programs if name != "ours"}
    report("sac", env_steps_per_s=STEPS / seconds["ours"], compile_s=compiled["ours"], **ratios)


if __name__ == "__main__":
    main()
