"""SchedulingEnv under a random policy, 1024 environments, one core; and what a step of the plant alone costs."""

import jax
from timing import best, one_core, report

import costmodel
import rl

LANES, STEPS, TARGET = 1024, 100, 1e6


def main() -> None:
    one_core()
    env = rl.SchedulingEnv(costmodel.load_platform("edge"))

    @jax.jit
    def play(key):
        keys = jax.random.split(key, LANES)
        observation, state = jax.vmap(env.reset)(keys)

        def body(carry, key):
            state, total = carry
            key_act, key_step = jax.random.split(key)
            actions = jax.random.randint(key_act, (LANES,), 0, env.num_actions)
            _, state, reward, *_ = jax.vmap(env.step)(jax.random.split(key_step, LANES), state, actions)
            return (state, total + reward), None

        return jax.lax.scan(body, (state, observation[:, 0] * 0), jax.random.split(key, STEPS))[0][1]

    seconds = best(lambda: play(jax.random.key(0)), repeat=5)
    report("environment", lanes=LANES, steps_per_s=LANES * STEPS / seconds, target_steps_per_s=TARGET)


if __name__ == "__main__":
    main()
