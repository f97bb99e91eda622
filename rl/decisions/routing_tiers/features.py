"""What the second tier looks at: the workload's totals, the state, what the first tier allows, and a first guess of every cost.

The guess is a roofline of the whole workload, with rates found by asking every processor for the cost of a few probes:

    t = rows t_row + max(MACs t_mac + positions t_pos + blocks t_block + operations t_op,  elements t_elem) + written t_write

and the same sum, without the maximum, for energy. It knows nothing of single layers, tiles and arrays: a tree learns where
that matters.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from costmodel import Conditions, Platform, Processor, estimate
from rl.decisions.routing_tiers.outlooks import Outlook
from rl.decisions.routing_tiers.pricing import BLOCK, Priced, Totals
from rl.decisions.routing_tiers.states import HardwareState
from workloads import OpKind, OpTable, make_table, stack

FORBIDDEN = 30.0  # ln of the cost where the first tier forbids a processor
ROUNDING = 1e-6  # rates below this share of a whole probe are its rounding
MANY, POSITIONS = 1e9, 1000  # operations and elements, and M of the probes
SIDE = 8  # arrays of the wide probe along each side
KINDS = (OpKind.CONV, OpKind.DEPTHWISE, OpKind.DENSE)


class Rates(NamedTuple):
    """Time (s) and energy (J) of one unit of each total on every processor: arrays (2, P)."""

    row: Float[Array, "2 processors"]
    conv: Float[Array, "2 processors"]
    depthwise: Float[Array, "2 processors"]
    dense: Float[Array, "2 processors"]
    position: Float[Array, "2 processors"]
    block: Float[Array, "2 processors"]
    operation: Float[Array, "2 processors"]
    activation: Float[Array, "2 processors"]
    constant: Float[Array, "2 processors"]
    write: Float[Array, "2 processors"]  # of one array of weights into memory cells
    wake: Float[Array, "2 processors"]


def find_rates(platform: Platform) -> Rates:
    """Rates of every processor, from what it asks for a few probes."""
    found = [_rates(platform.processors[name]) for name in platform.names]
    return Rates(*(jnp.stack(column, axis=-1) for column in zip(*found, strict=True)))


def _product(k: int, n: int, kind: OpKind) -> dict[str, float]:
    macs = POSITIONS * n * k
    return {"kind": kind, "m": POSITIONS, "n": n, "k": k, "macs": macs, "flops": 2 * macs}


K, N = BLOCK
PROBES = {  # products of one weight, of one array and of many arrays tell MACs, arrays and positions apart
    "row": {"kind": OpKind.OTHER, "flops": 1},
    "operations": {"kind": OpKind.OTHER, "flops": MANY},
    "activations": {"kind": OpKind.MOVE, "inputs": MANY},
    "constants": {"kind": OpKind.MOVE, "weights": MANY},
    **{f"one {kind.name}": _product(1, 1, kind) for kind in KINDS},
    **{f"array {kind.name}": _product(K, N, kind) for kind in KINDS},
    "arrays": _product(SIDE * K, SIDE * N, OpKind.DENSE),
    "written": _product(K, N, OpKind.DENSE),
}


@jax.jit
def _ask(processor: Processor, tables: OpTable, resident: Array) -> Array:
    """Latency and switching energy of every table: (probes, 2)."""

    def one(table: OpTable, resident: Array) -> Array:
        cost = estimate(processor, table, Conditions(resident=resident))
        return jnp.stack([cost.latency, cost.dynamic_energy + cost.programming_energy])

    return jax.vmap(one)(tables, resident)


def _rates(processor: Processor) -> list[Array]:
    """Those of one processor, in the order of `Rates`."""
    tables = stack([make_table([row]) for row in PROBES.values()])
    resident = jnp.asarray([0.0 if name == "written" else 1.0 for name in PROBES])
    cost = dict(zip(PROBES, _ask(processor, tables, resident), strict=True))
    row, one, weights = cost["row"], cost["array DENSE"], K * N
    macs = [(cost[f"array {kind.name}"] - cost[f"one {kind.name}"]) / (POSITIONS * (weights - 1)) for kind in KINDS]
    block = (cost["arrays"] - one) / (POSITIONS * (SIDE**2 - 1)) - weights * macs[-1]
    position = (one - row) / POSITIONS - weights * macs[-1] - block
    each = [(cost[name] - row) / MANY for name in ("operations", "activations", "constants")]
    wake = jnp.stack([processor.wake_time, processor.wake_energy])
    found = (row, *macs, position, block, *each, cost["written"] - one, wake)
    return [jnp.where(value > ROUNDING * one / POSITIONS, value, 0.0) for value in found]


def feature_names(platform: Platform) -> tuple[str, ...]:
    """Names of the entries of `features`."""
    each = [f"{what} {name}" for what in ("temperature", "backlog", "asleep", "allowed", "guess") for name in platform.names]
    return (*Totals._fields, "intensity", "age", "writing", *each)


def features(rates: Rates, priced: Priced, state: HardwareState, seen: Sequence[Outlook]) -> list[Float[Array, ""]]:
    """What the tree sees of one spread-out state, in the order of `feature_names`, in float32.

    Logarithms of counts and times (1 + n, backlog + 0.1 ms, 1 + age), flags, temperatures (K). A guess is relative to the
    least among the others, so that its sign alone tells what a roofline would do.
    """
    each = range(len(seen))
    asleep = [jnp.where((state.backlog[i] > 0) | (state.awake[i] > 0), 0.0, 1.0) for i in each]
    guesses = [first_guess(rates, i, priced.totals, asleep[i], state.backlog[i], seen[i]) for i in each]
    guesses = [jnp.where(s.feasible, guess, FORBIDDEN) for s, guess in zip(seen, guesses, strict=True)]
    leads = [
        guess - functools.reduce(jnp.minimum, [*guesses[:i], *guesses[i + 1 :]], FORBIDDEN) for i, guess in enumerate(guesses)
    ]
    writing = functools.reduce(jnp.maximum, [s.writing for s in seen])
    whole = [*priced.described, jnp.log1p(state.age), writing]
    waits = [jnp.log(state.backlog[i] + 1e-4) for i in each]
    allowed = [jnp.where(s.feasible, 1.0, 0.0) for s in seen]
    entries = [*whole, *(state.temperature[i] for i in each), *waits, *asleep, *allowed, *leads]
    return [jnp.asarray(entry, jnp.float32) for entry in entries]


def first_guess(rates: Rates, i: int, totals: Totals, asleep: Array, backlog: Array, seen: Outlook) -> Float[Array, ""]:
    """ln(latency x energy) on processor number `i` from totals alone; see the module."""
    mine = Rates(*(rate[:, i] for rate in rates))
    pairs = ((totals.conv, mine.conv), (totals.depthwise, mine.depthwise), (totals.dense, mine.dense))
    pairs += ((totals.positions, mine.position), (totals.blocks, mine.block), (totals.operations, mine.operation))
    work = sum((amount * rate for amount, rate in pairs), jnp.zeros(2))
    moving, fixed = totals.activations * mine.activation + totals.constants * mine.constant, totals.rows * mine.row
    extra = asleep * mine.wake + (seen.writing * totals.kept + totals.streamed) * mine.write
    time = fixed[0] + jnp.maximum(work[0], moving[0]) + extra[0]
    energy = fixed[1] + work[1] + moving[1] + extra[1] + seen.static * time
    return jnp.log((backlog + time) * energy)
