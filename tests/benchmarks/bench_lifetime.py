"""Lifetime of 100,000 different ReRAM cells along a trace of 1,000 temperatures, and its gradients, on one core."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from timing import best, one_core, report

from physics import lifetime, load_device, replace

DEVICES, POINTS, CHUNK = 100_000, 1_000, 128
TARGET_SECONDS, TARGET_RATIO = 2.0, 4.0


def main() -> None:
    one_core()
    rng = np.random.default_rng(0)
    hours = np.arange(POINTS) * 8.766  # one year
    trace = jnp.asarray(330 + 15 * np.sin(2 * np.pi * hours / 24) + rng.uniform(0, 10, POINTS), jnp.float32)
    cell = load_device("hfox_reram")
    changes = {
        "retention.log_tau_ref": rng.normal(24.4, 2.0, DEVICES).astype(np.float32),
        "retention.e_a": rng.uniform(1.2, 1.9, DEVICES).astype(np.float32),
        "endurance.log_cycles_ref": rng.normal(14, 2, DEVICES).astype(np.float32),
    }

    def log_time(values):
        return lifetime(replace(cell, values), trace, 1e-5, 1.0).log_time

    def everything(values):
        result = lifetime(replace(cell, values), trace, 1e-5, 1.0)
        return result.log_time, result.first, result.elasticities, result.per_kelvin, result.valid

    def chunked(function):
        return jax.jit(lambda values: lax.map(function, values, batch_size=CHUNK))

    timed = {
        "vmap": jax.jit(jax.vmap(log_time)),
        "forward": chunked(log_time),
        "gradient": chunked(jax.value_and_grad(log_time)),
        "elasticities of all parameters": chunked(everything),
    }
    seconds = {name: best(lambda f=f: f(changes), repeat=3, at_least=0.0) for name, f in timed.items()}
    for name, value in seconds.items():
        report(
            "lifetime",
            what=name,
            devices=DEVICES,
            points=POINTS,
            seconds=value,
            target_seconds=TARGET_SECONDS if name in ("vmap", "forward") else None,
            ratio_to_forward=value / seconds["forward"],
            target_ratio=TARGET_RATIO if name == "gradient" else None,
        )


if __name__ == "__main__":
    main()
