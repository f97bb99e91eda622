"""Products of a 256 x 256 binary crossbar (BNN_I), one core, batches of 4096: converter, IR drop, read noise, and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from timing import best, one_core, report

from physics import Adc, Crossbar, CrossbarCells, Wires, load_mapping, program_crossbar

SIZE, BATCH = 256, 4096
CASES = {  # wires, read noise, batch, target (products per second)
    "8-bit converter": (None, None, BATCH, 5e5),
    "IR drop": (Wires(1.0), None, BATCH, 5e4),
    "read noise of every cell": (None, "cell", 256, 1.5e3),
    "read noise of column sums": (None, "column", BATCH, 2e5),
}


def main() -> None:
    one_core()
    rng = np.random.default_rng(0)
    weights, inputs = rng.choice([-1, 1], (SIZE, SIZE)), jnp.asarray(rng.choice([-1, 1], (BATCH, SIZE)), jnp.int32)
    mapping = load_mapping("BNN_I")
    cells = CrossbarCells.from_currents(5e-6, 30e-6, 0.2, read_noise=(1e-6, 4e-6))
    adc, through = (Adc.full_range(mapping, 8.0, rounding) for rounding in ("hard", "straight_through"))
    for name, (wires, noise, batch, target) in CASES.items():
        crossbar = program_crossbar(weights, mapping, cells, rows=SIZE, columns=2 * SIZE, wires=wires)
        key = None if noise is None else jax.random.key(0)

        def product(crossbar: Crossbar, inputs: jax.Array, adc: Adc) -> jax.Array:
            return crossbar.mvm(inputs, adc, key, noise=noise or "cell")

        x = inputs[:batch]
        forward = jax.jit(product)
        gradient = jax.jit(jax.grad(lambda c, x, a: jnp.sum(product(c, x, a) ** 2)))
        seconds = best(lambda: forward(crossbar, x, adc))
        slope = best(lambda: gradient(crossbar, x, through), repeat=3)
        report(
            "crossbar", case=name, products_per_second=batch / seconds, target=target, gradient_ratio=slope / seconds, allowed=4
        )


if __name__ == "__main__":
    main()
