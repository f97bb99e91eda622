"""search_precision(): the fastest bits of weights and inputs, layer by layer, whose accuracy is still that of 8 bits.

Latency is exact and adds up over layers (`costmodel.mapping.precision`); only the accuracy of a policy has to be measured
(`costmodel.accuracy.bit_widths`: fine-tuning on real images). So searches are compared at equal numbers of measured policies:

    uniform      the same input bits everywhere, all weights as narrow as allowed or as wide; no search
    random       every layer drawn evenly from its options
    surrogate    each layer's weights and inputs are narrowed alone (at most three quarters of the budget); the sum of the
                 rises in cross entropy is a surrogate of the loss, whose whole trade-off against latency is solved exactly
                 (dynamic programming over layers, dominated sums dropped); then the policies of that front are measured, by
                 bisection, again and again with those that are left
    gradient     weights and bits are trained together, bits by the slope of latency under STRAIGHT_THROUGH and of the loss
                 through the quantiser, at a price of latency that is bisected (that training is charged, half the
                 budget); then the best policy is narrowed layer by layer
    exhaustive   every policy in the order of its latency until one is accurate enough: the optimum, for small networks

A policy is accurate enough if its validation accuracy is at most `allowed_loss` points below that of 8 bits, fine-tuned alike.
The result also has its loss on test images, which no search sees, with the standard error of the paired difference.
Options that only widen at no cost in latency replace narrower ones. State, action and reward of the published search by
reinforcement learning (Pelke et al. 2026, arXiv 2601.21737): `rl.PrecisionEnv`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from costmodel import relax
from costmodel.accuracy.bit_widths import BitStudy, PolicyAccuracy, descend, entropy, normalised
from costmodel.mapping.precision import (
    BASELINE_BITS,
    LEAST_BITS,
    MOST_BITS,
    BitPolicy,
    MatrixShapes,
    SerialCrossbar,
    latency_table,
    policy_latency,
    policy_speedup,
)
from physics import unknown_name
from physics.types import Scalar

METHODS = ("surrogate", "gradient", "random", "uniform", "exhaustive")
MOST_POLICIES = 1_000_000  # that are ordered by latency
PRICES = (0.01, 3.0)  # nats per baseline latency between which the gradient search bisects
RELAXED_STEPS = 3  # of the gradient search at one price, in units of a policy's fine-tuning
BIT_RATE = 0.05  # learning rate of bits
Measure = Callable[[BitPolicy], PolicyAccuracy]
Choice = tuple[int, ...]  # one option per layer


@dataclasses.dataclass(frozen=True)
class BitChoices:
    """Bits that a search may choose; `ends`, if given, fixes weights and inputs of the first and the last layer.

    The defaults are those of the published search for cells of 4 bits: weights fill their cells, inputs take 2 to 8 bits.
    """

    weight_bits: tuple[int, ...] = (4, 8)
    input_bits: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    ends: int | None = None

    def __post_init__(self) -> None:
        for name, choices in (("weight_bits", self.weight_bits), ("input_bits", self.input_bits)):
            if not choices or not all(LEAST_BITS <= bits <= MOST_BITS for bits in choices):
                raise ValueError(f"{name} = {choices} must be bits in [{LEAST_BITS}, {MOST_BITS}] bit")
        if self.ends is not None and not LEAST_BITS <= self.ends <= MOST_BITS:
            raise ValueError(f"ends = {self.ends} bit is outside its range [{LEAST_BITS}, {MOST_BITS}] bit")


class LayerOptions(NamedTuple):
    """What one layer may be given, the fastest first; arrays (options,). The last is the widest."""

    weight_bits: Float[np.ndarray, " options"]
    input_bits: Float[np.ndarray, " options"]
    latency: Float[np.ndarray, " options"]  # s

    def nearest(self, weight_bits: float, input_bits: float) -> int:
        """The option closest to these bits."""
        return int(np.argmin(np.abs(self.weight_bits - weight_bits) + np.abs(self.input_bits - input_bits)))


class Front(NamedTuple):
    """Policies that no other beats in both latency and loss, the fastest first."""

    choices: Int[np.ndarray, "policies layers"]
    latency: Float[np.ndarray, " policies"]
    loss: Float[np.ndarray, " policies"]


class PrecisionSearch(NamedTuple):
    """The fastest policy found that is accurate enough (8 bits, where none was), and all that were measured.

    Losses are in points (per cent of the images) against 8 bits; `test_error` is the standard error of `test_loss`.
    """

    policy: BitPolicy
    speedup: float
    valid_loss: float
    test_loss: float
    test_error: float
    evaluations: int  # measured policies, the baseline included, and training charged as such
    complete: bool  # the search ended by itself, not by its budget
    speedups: Float[np.ndarray, " measured"]
    valid_losses: Float[np.ndarray, " measured"]
    test_losses: Float[np.ndarray, " measured"]


def layer_options(crossbar: SerialCrossbar, shapes: MatrixShapes, choices: BitChoices = BitChoices()) -> tuple[LayerOptions, ...]:
    """The options of every layer, without those that another one widens at no cost."""
    free = _options(crossbar, shapes, choices.weight_bits, choices.input_bits)
    if choices.ends is None:
        return free
    fixed = _options(crossbar, shapes, (choices.ends,), (choices.ends,))
    return (fixed[0], *free[1:-1], fixed[-1]) if len(free) > 1 else fixed


def _options(
    crossbar: SerialCrossbar, shapes: MatrixShapes, weight_bits: Sequence[float], input_bits: Sequence[float]
) -> tuple[LayerOptions, ...]:
    table = np.asarray(latency_table(crossbar, shapes, weight_bits, input_bits), float)
    w, a = (x.ravel().astype(float) for x in np.meshgrid(weight_bits, input_bits, indexing="ij"))
    wider = (w[:, None] >= w) & (a[:, None] >= a) & ((w[:, None] > w) | (a[:, None] > a))  # of [row, column]
    found = []
    for latency in table.reshape(len(table), -1):
        kept = np.flatnonzero(~(wider & (latency[:, None] <= latency)).any(axis=0))
        order = kept[np.lexsort((w[kept] + a[kept], latency[kept]))]
        found.append(LayerOptions(w[order], a[order], latency[order]))
    return tuple(found)


def chosen_policy(options: Sequence[LayerOptions], choice: Sequence[int]) -> BitPolicy:
    """The policy that takes option `choice[i]` in layer i; ValueError for a choice of the wrong length."""
    if len(choice) != len(options):
        raise ValueError(f"choice has {len(choice)} entries, the network has {len(options)} layers")
    pairs = [(o.weight_bits[c], o.input_bits[c]) for o, c in zip(options, choice, strict=True)]
    return BitPolicy(*np.asarray(pairs, float).T)


def trade_off(options: Sequence[LayerOptions], losses: Sequence[Float[np.ndarray, " _"]], limit: int = MOST_POLICIES) -> Front:
    """All policies that no other beats in both latency and the sum of `losses`, one array per layer: exact.

    Dynamic programming over layers: a partial policy that is beaten stays beaten. ValueError if more than `limit` are left.
    """
    front = Front(np.zeros((1, 0), int), np.zeros(1), np.zeros(1))
    for layer, loss in zip(options, losses, strict=True):
        if len(loss) != len(layer.latency):
            raise ValueError(f"losses has {len(loss)} entries for a layer of {len(layer.latency)} options")
        latency = (front.latency[:, None] + layer.latency).ravel()
        total = (front.loss[:, None] + np.asarray(loss, float)).ravel()
        order = np.lexsort((total, latency))
        best_before = np.minimum.accumulate(np.r_[np.inf, total[order][:-1]])
        kept = order[total[order] < best_before]
        if len(kept) > limit:
            raise ValueError(f"{len(kept):,} policies are not dominated, the limit is {limit:,}: give coarser losses")
        before, option = np.divmod(kept, len(layer.latency))
        front = Front(np.column_stack([front.choices[before], option]), latency[kept], total[kept])
    return front


class _Bench:
    """What has been measured so far."""

    def __init__(self, measure: Measure, options: Sequence[LayerOptions], allowed_loss: float, budget: int) -> None:
        full = np.full(len(options), float(BASELINE_BITS))
        self.measure, self.options, self.allowed, self.budget = measure, tuple(options), allowed_loss, budget
        self.base = measure(BitPolicy(full, full))
        self.rows: dict[Choice, PolicyAccuracy] = {}
        self.spent = 1

    @property
    def left(self) -> int:
        return self.budget - self.spent

    def latency(self, choice: Choice) -> float:
        return float(sum(o.latency[c] for o, c in zip(self.options, choice, strict=True)))

    def loss(self, choice: Choice) -> float:
        """Points of validation accuracy below the baseline; measured if it was not yet."""
        if choice not in self.rows:
            self.rows[choice] = self.measure(chosen_policy(self.options, choice))
            self.spent += 1
        return 100 * float(self.base.valid_accuracy - self.rows[choice].valid_accuracy)

    def fits(self, choice: Choice) -> bool:
        return self.loss(choice) <= self.allowed + 1e-9

    def best(self) -> Choice | None:
        """The fastest of those that are accurate enough."""
        return min(filter(self.fits, self.rows), key=self.latency, default=None)


def search_precision(
    study: BitStudy | MatrixShapes,
    measure: Measure,
    crossbar: SerialCrossbar | None = None,
    choices: BitChoices = BitChoices(),
    *,
    method: str = "surrogate",
    budget: int = 40,
    allowed_loss: float = 0.1,
    seed: int = 0,
    steps: int = 50,
) -> PrecisionSearch:
    """The fastest policy whose validation accuracy is at most `allowed_loss` points below that of 8 bits.

    `measure(policy)` gives its accuracy, such as `functools.partial(measure_policy, study, steps=50)`; it is called at most
    `budget` times, the baseline included. `steps` is the fine-tuning of one measurement, by which the gradient search is charged;
    that search needs a `BitStudy`, the others take the shapes alone. ValueError for an unknown method or a budget below 2.
    """
    if method not in METHODS:
        raise ValueError(unknown_name("method", method, METHODS))
    if budget < 2:
        raise ValueError(f"budget = {budget} is below 2: the baseline and one policy")
    crossbar = SerialCrossbar() if crossbar is None else crossbar
    shapes = study if isinstance(study, MatrixShapes) else study.matrices
    bench = _Bench(measure, layer_options(crossbar, shapes, choices), allowed_loss, budget)
    if method == "gradient":
        if isinstance(study, MatrixShapes):
            raise ValueError("method 'gradient' trains the network: give a BitStudy, not its shapes")
        complete = _by_gradient(bench, study, crossbar, choices, seed, steps)
    elif method == "surrogate":
        complete = _by_surrogate(bench)
    else:
        lines = {"random": _random, "uniform": _uniform, "exhaustive": _in_order}
        complete = _first_fits(bench, lines[method](bench.options, seed), stop=method == "exhaustive")
    return _summary(bench, crossbar, shapes, complete)


def _first_fits(bench: _Bench, candidates: Iterator[Choice], stop: bool) -> bool:
    """Measure until no candidate or no budget is left, or (`stop`) one is accurate enough. Whether it ended by itself."""
    for choice in candidates:
        if bench.left < 1:
            return False
        if bench.fits(choice) and stop:
            return True
    return True


def _random(options: Sequence[LayerOptions], seed: int) -> Iterator[Choice]:
    rng, most = np.random.default_rng(seed), np.prod([float(len(o.latency)) for o in options])
    seen: set[Choice] = set()
    while len(seen) < most:
        choice = tuple(int(rng.integers(len(o.latency))) for o in options)
        if choice not in seen:
            seen.add(choice)
            yield choice


def _uniform(options: Sequence[LayerOptions], seed: int) -> Iterator[Choice]:
    """The same bits everywhere, as near as the options allow, the fastest first."""
    del seed
    pairs = {(w, a) for o in options for w, a in zip(o.weight_bits, o.input_bits, strict=True)}
    lines = {tuple(o.nearest(w, a) for o in options) for w, a in pairs}
    yield from sorted(lines, key=lambda choice: sum(o.latency[c] for o, c in zip(options, choice, strict=True)))


def _in_order(options: Sequence[LayerOptions], seed: int) -> Iterator[Choice]:
    """All policies, the fastest first; of equal ones the widest first."""
    del seed
    sizes = [len(o.latency) for o in options]
    if np.prod([float(s) for s in sizes]) > MOST_POLICIES:
        raise ValueError(f"{np.prod([float(s) for s in sizes]):.3g} policies; at most {MOST_POLICIES:,} are tried one by one")
    every = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), axis=-1).reshape(-1, len(sizes))
    latency = sum(o.latency[every[:, i]] for i, o in enumerate(options))
    width = sum((o.weight_bits + o.input_bits)[every[:, i]] for i, o in enumerate(options))
    for row in every[np.lexsort((-np.asarray(width), np.asarray(latency)))]:
        yield tuple(map(int, row))


def _by_surrogate(bench: _Bench) -> bool:
    """Every layer alone, the exact front of the sum of what was found, then that front by bisection."""
    widest = tuple(len(o.latency) - 1 for o in bench.options)
    losses = [np.full(len(o.latency), np.inf) for o in bench.options]
    bench.loss(widest)
    origin = float(bench.rows[widest].valid_entropy)
    for layer, option in _alone(bench.options):
        if 4 * bench.left <= bench.budget:
            break  # what was not measured is not used
        choice = (*widest[:layer], option, *widest[layer + 1 :])
        bench.loss(choice)
        losses[layer][option] = max(float(bench.rows[choice].valid_entropy) - origin, 0.0)
    for loss, o in zip(losses, bench.options, strict=True):
        loss[-1] = 0.0
        for c, (w, a) in enumerate(zip(o.weight_bits, o.input_bits, strict=True)):
            if np.isinf(loss[c]):  # both narrower: the sum of either alone
                loss[c] = loss[o.nearest(w, o.input_bits[-1])] + loss[o.nearest(o.weight_bits[-1], a)]
    known = [np.flatnonzero(np.isfinite(loss)) for loss in losses]
    reduced = [LayerOptions(*(column[k] for column in o)) for o, k in zip(bench.options, known, strict=True)]
    front = trade_off(reduced, [loss[k] for loss, k in zip(losses, known, strict=True)])
    line = [tuple(int(k[c]) for k, c in zip(known, row, strict=True)) for row in front.choices]
    while bench.left > 0:
        best = bench.best()
        left = [c for c in line if c not in bench.rows and (best is None or bench.latency(c) < bench.latency(best))]
        if not left:
            return True
        _bisect(bench, left)
    return False


def _bisect(bench: _Bench, line: list[Choice]) -> None:
    """Measure along `line`, the fastest first, towards the fastest that is accurate enough."""
    low, high = 0, len(line)
    while low < high and bench.left > 0:
        middle = (low + high) // 2
        low, high = (low, middle) if bench.fits(line[middle]) else (middle + 1, high)


def _alone(options: Sequence[LayerOptions]) -> Iterator[tuple[int, int]]:
    """(layer, option) with either bits the widest: weights first, then inputs from 4 bits on, all layers in turn."""
    ranked = []
    for o in options:
        weights = [c for c in range(len(o.latency) - 1) if o.input_bits[c] == o.input_bits[-1]]
        inputs = [c for c in range(len(o.latency) - 1) if o.weight_bits[c] == o.weight_bits[-1]]
        ranked.append(weights + sorted(inputs, key=lambda c, o=o: abs(o.input_bits[c] - 4)))
    for turn in itertools.zip_longest(*ranked):
        yield from ((layer, option) for layer, option in enumerate(turn) if option is not None)


def _by_gradient(bench: _Bench, study: BitStudy, crossbar: SerialCrossbar, choices: BitChoices, seed: int, steps: int) -> bool:
    """The highest price whose policy is accurate enough, by bisection; then the best policy narrowed, the most saving first."""
    bounds = [(float(min(b)), float(max(b))) for b in (choices.weight_bits, choices.input_bits)]
    free = jnp.asarray([float(len(o.latency) > 1) for o in bench.options])
    low, high = np.log(PRICES[0]), np.log(PRICES[1])
    key = jax.random.key(seed)
    while bench.spent + RELAXED_STEPS < max(bench.budget // 2, 2 + RELAXED_STEPS):
        price = (low + high) / 2
        policy = relaxed_policy(study, crossbar, float(np.exp(price)), key, free, bounds, steps=RELAXED_STEPS * steps)
        bench.spent += RELAXED_STEPS
        choice = tuple(o.nearest(float(w), float(a)) for o, w, a in zip(bench.options, *policy, strict=True))
        low, high = (price, high) if bench.fits(choice) else (low, price)
    while bench.left > 0:
        fresh = _next(bench)
        if not fresh:
            return True
        bench.loss(min(fresh, key=bench.latency))
    return False


def _next(bench: _Bench) -> list[Choice]:
    """What to measure next: the best policy with one layer narrower; where none is accurate enough, the best one wider."""
    best = bench.best()
    if best is None:
        start = max(bench.rows, key=lambda choice: float(bench.rows[choice].valid_accuracy), default=None)
        widest = tuple(len(o.latency) - 1 for o in bench.options)
        return [widest] if start is None else [c for c in _wider(bench.options, start) if c not in bench.rows]
    return [c for c in _narrower(bench.options, best) if c not in bench.rows]


def _narrower(options: Sequence[LayerOptions], choice: Choice) -> list[Choice]:
    """Every layer's next faster option, one at a time."""
    return [(*choice[:i], c - 1, *choice[i + 1 :]) for i, c in enumerate(choice) if c > 0]


def _wider(options: Sequence[LayerOptions], choice: Choice) -> list[Choice]:
    return [(*choice[:i], c + 1, *choice[i + 1 :]) for i, c in enumerate(choice) if c + 1 < len(options[i].latency)]


def relaxed_policy(
    study: BitStudy,
    crossbar: SerialCrossbar,
    price: float,
    key: PRNGKeyArray,
    free: Float[Array, " layers"],
    bounds: Sequence[tuple[float, float]],
    *,
    steps: int = 150,
    batch: int = 128,
    learning_rate: float = 1e-3,
) -> BitPolicy:
    """Bits trained together with the weights: cross entropy + `price` latency / latency of 8 bits.

    `free` is 1 where a layer's bits may change (else 8), `bounds` are the least and most bits of weights and of inputs. The
    forward pass rounds weights up to whole cells and inputs to whole bits; slopes go straight through. Returns real bits.
    """
    return _relaxed(study, crossbar, price, key, free, jnp.asarray(bounds, float), learning_rate, steps=steps, batch=batch)


@functools.partial(jax.jit, static_argnames=("steps", "batch"))
def _relaxed(
    study: BitStudy,
    crossbar: SerialCrossbar,
    price: Scalar,
    key: PRNGKeyArray,
    free: Array,
    bounds: Array,
    learning_rate: Scalar,
    *,
    steps: int,
    batch: int,
) -> BitPolicy:
    shapes, policy = study.matrices, relax.STRAIGHT_THROUGH
    full = jnp.full(len(free), float(BASELINE_BITS))
    base = policy_latency(crossbar, shapes, BitPolicy(full, full)).total

    def inside(bits: BitPolicy) -> BitPolicy:
        """Bits within their bounds; the slope is that of the unbounded ones, so that they can come back."""
        pairs = zip(bits, bounds, strict=True)
        return BitPolicy(*(full + free * (b + jax.lax.stop_gradient(jnp.clip(b, lo, hi) - b) - full) for b, (lo, hi) in pairs))

    def loss(params: tuple, images: Array, labels: Array) -> Array:
        layers, bits = params
        real = inside(bits)
        cells = crossbar.cell_bits * relax.ceil_div(jnp.asarray(real.weight_bits), crossbar.cell_bits, policy)
        inputs = real.input_bits + jax.lax.stop_gradient(jnp.round(real.input_bits) - real.input_bits)
        answers, _ = normalised(study.shapes, layers, BitPolicy(cells, inputs), images)
        return entropy(answers, labels) + price * policy_latency(crossbar, shapes, real, policy).total / base

    optimizers: dict[Hashable, optax.GradientTransformation] = {
        "weights": optax.adam(optax.cosine_decay_schedule(learning_rate, steps)),
        "bits": optax.adam(BIT_RATE),
    }
    optimizer = optax.multi_transform(optimizers, ("weights", "bits"))
    _, bits = descend(loss, (study.layers, BitPolicy(full, full)), optimizer, study, key, steps, batch)
    return BitPolicy(*(jnp.clip(b, lo, hi) for b, (lo, hi) in zip(inside(bits), bounds, strict=True)))


def _summary(bench: _Bench, crossbar: SerialCrossbar, shapes: MatrixShapes, complete: bool) -> PrecisionSearch:
    full = np.full(shapes.n_layers, float(BASELINE_BITS))
    base_latency = float(policy_latency(crossbar, shapes, BitPolicy(full, full)).total)
    best = bench.best()
    policy = BitPolicy(full, full) if best is None else chosen_policy(bench.options, best)
    found = bench.base if best is None else bench.rows[best]
    loss, error = paired_loss(np.asarray(bench.base.test_right), np.asarray(found.test_right))
    tests = [paired_loss(np.asarray(bench.base.test_right), np.asarray(row.test_right))[0] for row in bench.rows.values()]
    return PrecisionSearch(
        policy,
        float(policy_speedup(crossbar, shapes, policy)),
        100 * float(bench.base.valid_accuracy - found.valid_accuracy),
        loss,
        error,
        bench.spent,
        complete,
        np.array([base_latency / bench.latency(choice) for choice in bench.rows]),
        np.array([bench.loss(choice) for choice in bench.rows]),
        np.array(tests),
    )


def paired_loss(base: Bool[np.ndarray, " t"], other: Bool[np.ndarray, " t"]) -> tuple[float, float]:
    """Points that `other` loses against `base` on the same images, and the standard error of that difference."""
    change = base.astype(float) - other.astype(float)
    return 100 * float(change.mean()), 100 * float(change.std() / np.sqrt(len(change)))
