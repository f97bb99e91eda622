"""DQN training in one program on one core: batch 128, one update per 10 environment steps, net 120-84, 10 lanes."""

import time

import jax
from timing import one_core, report

import costmodel
import rl

STEPS, TARGET = 500_000, 5e4


def main() -> None:
    one_core()
    env = rl.SchedulingEnv(costmodel.load_platform("edge"))
    config = rl.DQNConfig(total_steps=STEPS, num_envs=10, batch_size=128, train_every=10, hidden=(120, 84))
    start = time.perf_counter()
    program = jax.jit(rl.make_train(env, config)).lower(jax.random.key(0)).compile()
    compiled = time.perf_counter() - start
    seconds = []
    for seed in range(3):
        start = time.perf_counter()
        jax.block_until_ready(program(jax.random.key(seed)))
        seconds.append(time.perf_counter() - start)
    report(
        "dqn",
        env_steps_per_s=STEPS / min(seconds),
        updates_per_s=STEPS / 10 / min(seconds),
        target_steps_per_s=TARGET,
        compile_s=compiled,
    )


if __name__ == "__main__":
    main()
