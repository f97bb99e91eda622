"""One exact step of 10,000 different two-node networks against scipy.integrate.solve_ivp (RK45, LSODA, rtol 1e-6)."""

import time

import jax
import numpy as np
from scipy.integrate import solve_ivp
from timing import best, one_core, report

from physics import TwoNode

N, SAMPLE, DT, TARGET = 10_000, 100, 0.01, 500


def main() -> None:
    one_core()
    rng = np.random.default_rng(0)
    values = {
        "r_junction_case": rng.uniform(0.5, 5, N),
        "r_case_ambient": rng.uniform(5, 50, N),
        "c_junction": 10 ** rng.uniform(-3, -1, N),
        "c_case": rng.uniform(1, 20, N),
    }
    theta, power = rng.uniform(0, 20, (N, 2)).astype(np.float32), rng.uniform(0, 10, N).astype(np.float32)
    networks = jax.vmap(lambda v: TwoNode(**v))({k: v.astype(np.float32) for k, v in values.items()})
    step = jax.jit(jax.vmap(lambda network, t, p: network.step(t, p, DT)))
    ours = best(lambda: step(networks, theta, power))
    exact = np.asarray(step(networks, theta, power))
    for method in ("RK45", "LSODA"):
        start, worst = time.perf_counter(), 0.0
        for i in range(SAMPLE):
            rj, rc, cj, cc = (values[k][i] for k in values)

            def flow(_, t, i=i, rj=rj, rc=rc, cj=cj, cc=cc):
                across = (t[0] - t[1]) / rj
                return [(power[i] - across) / cj, (across - t[1] / rc) / cc]

            end = solve_ivp(flow, (0, DT), theta[i], method=method, rtol=1e-6, atol=1e-6).y[:, -1]
            worst = max(worst, float(np.max(np.abs(end - exact[i]))))
        theirs = (time.perf_counter() - start) / SAMPLE * N
        report(
            "two-node step", networks=N, scipy=method, ratio=theirs / ours, target_ratio=TARGET, largest_difference_kelvin=worst
        )


if __name__ == "__main__":
    main()
