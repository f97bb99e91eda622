"""One decision of a controller on one core: the call alone, with its reason, and a call into JAX that does nothing, in turns.

The three take turns within every round, so that what else the machine does meets all of them. The agent is a network of the
default size with random weights: its numbers do not matter for the time.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from timing import one_core, report

import costmodel
import rl
from rl.agents.networks import DuelingQNetwork, action_values
from rl.decisions.controller import Controller
from rl.decisions.ranges import ObservationRange

WARM_UP, ROUNDS, TARGET = 200, 5000, 100e-6


def main() -> None:
    one_core()
    env = rl.SchedulingEnv(costmodel.load_platform("edge"))
    entries = len(env.observation_names)
    network = DuelingQNetwork(env.num_actions)
    params = network.init(jax.random.key(0), jnp.zeros(entries, jnp.float32))
    full = jnp.full(entries, 100.0)

    def agent(observation):
        return action_values(network, params, observation.astype(jnp.float32))

    controller = Controller(env, agent, trained=ObservationRange(-full, full, 0 * full))
    state = env.platform.initial_state(workloads=len(env.stream.networks))
    request = controller.request("resnet8", deadline=0.1, mean_gap=0.3)
    nothing = jax.jit(lambda memory, limits, state, request: (request.deadline, memory))

    calls = {
        "decide": lambda: controller.decide(state, request),
        "decide_with_reason": lambda: controller.decide(state, request).reason,
        "nothing": lambda: np.asarray(nothing(controller.memory, full, state, request)[0]),
    }
    seconds = {name: np.empty(ROUNDS) for name in calls}
    for round_number in range(-WARM_UP, ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name][round_number] = time.perf_counter() - start
    for name, taken in seconds.items():
        ratio = float(np.median(taken) / np.median(seconds["nothing"]))
        middle, tail = (1e6 * float(np.percentile(taken, level)) for level in (50, 99))
        report(f"controller_{name}", median_us=middle, p99_us=tail, over_nothing=ratio, target_us=1e6 * TARGET)


if __name__ == "__main__":
    main()
