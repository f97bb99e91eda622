"""A grid over the state of a routing problem: the few coordinates a decision depends on, the rest reconstructed.

    order     which networks are on the chip, and which was used last: every ordered set that fits
    rise      K of the package above ambient
    backlog   s of queued work, of every processor whose runs can outlast a deadline
    idle      s since the last work, of every processor that lingers: awake nodes from 0 to `linger`, then asleep
    life      share of the hazard budget left, of every tracked network that is on the chip

Ambient temperature and mean gap stay constant for an episode: they are the context of a grid and no axes of it. Held,
because they hardly matter: switching energy still queued (0: it only heats), wear (0), one temperature for all nodes, the
life of networks not tracked (1), backlog and idle time of the other processors (0, asleep).

Nodes of life follow what one run costs, r = reads rate(T) / budget: expired (0), too worn for one more run (r / 2), one
run left (3 r / 2), from there to fresh (1) evenly in the logarithm. A network that is not on the chip has no life, so an
order with few of them has few nodes: nodes are numbered order by order, each in its own mixed radix.
"""

import dataclasses
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from costmodel import PlatformState
from costmodel.platform import LONG_IDLE
from costmodel.weights import JUST_WRITTEN, CellState
from physics import LogTotal, Wear
from rl.envs.routing import RoutingState, SchedulingEnv
from rl.references.interpolation import Mixture, mix, position

MOST_NETWORKS = 6  # orders are enumerated: 6 networks have up to 1957 of them
EXPIRED = 1e-3  # ln by which the lost fraction of expired weights exceeds the budget
SHORTEST_RUN, LONGEST_RUN = 1e-5, 0.25  # of a life: keeps nodes of life apart where a run costs next to nothing, or all


@dataclasses.dataclass(frozen=True)
class GridNodes:
    """Nodes of every axis. ValueError for an axis that is empty, does not rise or has too few nodes."""

    ambient: tuple[float, ...] = (298.15, 322.0, 338.0, 350.0, 361.0, 372.0, 383.15)  # K
    mean_gap: tuple[float, ...] = (0.03, 0.1, 0.4, 1.2, 3.0)  # s
    rise: tuple[float, ...] = (0.0,)  # K; what lies beyond the axis is added to the ambient temperature
    backlog: tuple[float, ...] = (0.0, 0.06, 0.25)  # s
    awake: int = 2  # nodes of idle time before sleep
    life: int = 5
    deadlines: int = 10  # equally probable quadrature nodes
    gaps: int = 4  # likewise

    def __post_init__(self) -> None:
        for name in ("ambient", "mean_gap", "rise", "backlog"):
            nodes = getattr(self, name)
            if not nodes or nodes[0] < 0 or any(b <= a for a, b in itertools.pairwise(nodes)):
                raise ValueError(f"GridNodes.{name} = {nodes} must be one or more rising numbers of at least 0")
        if self.mean_gap[0] == 0:
            raise ValueError(f"GridNodes.mean_gap = {self.mean_gap} s must be above 0")
        for name, least in (("awake", 1), ("life", 4), ("deadlines", 1), ("gaps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"GridNodes.{name} = {getattr(self, name)} is below {least}")

    def coarser(self) -> "GridNodes":
        """Every second node of every axis, first and last kept, and half as many strata; awake nodes stay."""
        axes = {name: getattr(self, name) for name in ("ambient", "mean_gap", "rise", "backlog")}
        kept = {name: nodes[:-1:2] + nodes[-1:] for name, nodes in axes.items()}
        halves = {name: max(1, getattr(self, name) // 2) for name in ("deadlines", "gaps")}
        return dataclasses.replace(self, **kept, **halves, life=max(4, self.life // 2 + 2))


class Context(NamedTuple):
    """What stays constant during an episode."""

    ambient: Float[Array, "*batch"]  # K
    mean_gap: Float[Array, "*batch"]  # s


class RoutingGrid:
    """The grid of one `SchedulingEnv`; `size` nodes for each context.

    `tracked` names the networks whose life on the chip is followed (default: all). ValueError for a platform with several
    chips, for more than six networks, for an unknown tracked network.
    """

    def __init__(self, env: SchedulingEnv, nodes: GridNodes | None = None, tracked: tuple[str, ...] | None = None) -> None:
        self.env, self.nodes = env, GridNodes() if nodes is None else nodes
        self.chip = _only_chip(env)
        self.tracked = _positions(env, tracked) if self.chip else ()
        self.queued = _queued(env)
        self.linger = {p: float(env.platform.processors[name].linger) for p, name in enumerate(env.platform.names)}
        self.lingering = tuple(p for p, seconds in self.linger.items() if seconds > 0)
        self.memory = _memory(env, self.chip)
        self.orders = _orders(self.memory)
        self._template = env.reset(jax.random.key(0))[1]
        self._number_nodes()
        self._number_orders()

    @property
    def networks(self) -> int:
        """Number of networks in the stream."""
        return len(self.env.stream.networks)

    def _number_nodes(self) -> None:
        nodes = self.nodes
        plain = [len(nodes.rise)] + [len(nodes.backlog)] * len(self.queued) + [nodes.awake + 1] * len(self.lingering)
        shapes = np.array([plain + [nodes.life if n in order else 1 for n in self.tracked] for order in self.orders])
        sizes = np.array(plain + [nodes.life] * len(self.tracked))
        strides = np.cumprod(np.insert(shapes[:, :-1], 0, 1, axis=1), axis=1)
        counts = np.prod(shapes, axis=1)
        offsets = np.cumsum(counts) - counts
        self.size = int(counts.sum())
        self.order_of = np.repeat(np.arange(len(shapes)), counts)
        within = np.arange(self.size) - offsets[self.order_of]
        self.digits = (within[:, None] // strides[self.order_of]) % shapes[self.order_of]
        self._axes = np.flatnonzero(sizes > 1)
        self._sizes, self._offsets = jnp.asarray(sizes[self._axes], jnp.int32), jnp.asarray(offsets, jnp.int32)
        self._strides = jnp.asarray(np.where(shapes > 1, strides, 0)[:, self._axes], jnp.int32)

    def _number_orders(self) -> None:
        """A table from the ranks of all networks (0: absent), read as digits, to the number of the order."""
        base = self.networks + 1
        self._ranks = np.zeros((len(self.orders), self.networks), np.int32)
        for row, order in enumerate(self.orders):
            self._ranks[row, list(order)] = np.arange(1, len(order) + 1)
        self._radix = base ** np.arange(self.networks, dtype=np.int32)
        table = np.zeros(base**self.networks, np.int32)
        table[self._ranks @ self._radix] = np.arange(len(self.orders))
        self._order_number = jnp.asarray(table)

    def context_of(self, state: RoutingState) -> Context:
        """Where a state lies among the contexts: ambient plus the rise beyond its axis, and mean gap."""
        rise = state.platform.theta[-1]
        beyond = rise - jnp.clip(rise, self.nodes.rise[0], self.nodes.rise[-1])
        return Context(state.platform.ambient + beyond, state.mean_gap)

    def life_nodes(self, ambient: Float[Array, ""]) -> Float[Array, "tracked life"]:
        """Nodes of life (share of the hazard budget left) of every tracked network at `ambient` (K)."""
        if self.chip is None or not self.tracked:
            return jnp.zeros((len(self.tracked), self.nodes.life))
        platform = self.env.platform
        reads = self.env.offers.reads[np.array(self.tracked), platform.names.index(self.chip)]
        temperature = ambient + float(np.mean(self.nodes.rise))
        loss = platform.chip(self.chip).cell.log_loss(temperature, jnp.zeros(()), reads) - jnp.log(platform.hazard_budget)
        run = jnp.clip(jnp.exp(loss), SHORTEST_RUN, LONGEST_RUN)[:, None]
        rising = (1.5 * run) ** jnp.linspace(1.0, 0.0, self.nodes.life - 2)
        return jnp.concatenate([jnp.zeros_like(run), 0.5 * run, rising], axis=1)

    def states(self, context: Context) -> RoutingState:
        """The state at every node, arrays (size, ...), in one context; network, deadline, gap and time are placeholders."""
        return jax.vmap(lambda node: self.state(context, node))(jnp.arange(self.size))

    def state(self, context: Context, node: Int[Array, ""]) -> RoutingState:
        """The state at one node."""
        digits = jnp.asarray(self.digits)[node]
        lives = digits[self.digits.shape[1] - len(self.tracked) :]
        cells = self._cells(self.life_nodes(context.ambient), jnp.asarray(self.order_of)[node], lives)
        backlog, idle = self._queues(digits[1:])
        plant = self._template.platform._replace(
            ambient=jnp.asarray(context.ambient, float),
            theta=jnp.full_like(self._template.platform.theta, jnp.asarray(self.nodes.rise, float)[digits[0]]),
            backlog=backlog,
            idle=idle,
            pending=jnp.zeros_like(backlog),
            cells={name: cells for name in self.env.platform.cell_names},
        )
        return self._template._replace(platform=plant, mean_gap=jnp.asarray(context.mean_gap, float))

    def _queues(self, digits: Array) -> tuple[Array, Array]:
        """Backlog and idle time of every processor."""
        backlog, idle = jnp.zeros(len(self.linger)), jnp.full(len(self.linger), LONG_IDLE)
        for axis, p in enumerate(self.queued):
            backlog = backlog.at[p].set(jnp.asarray(self.nodes.backlog, float)[digits[axis]])
        for axis, p in enumerate(self.lingering, start=len(self.queued)):
            nodes = jnp.append(jnp.linspace(0.0, self.linger[p], self.nodes.awake), LONG_IDLE)
            idle = idle.at[p].set(nodes[digits[axis]])
        return backlog, jnp.where(backlog > 0, 0.0, idle)

    def _cells(self, lives: Array, order: Array, digits: Array) -> CellState:
        rank, life = jnp.asarray(self._ranks)[order], jnp.ones(self.networks)
        for axis, n in enumerate(self.tracked):
            life = life.at[n].set(lives[axis, digits[axis]])
        lost = jnp.where(life < 1, jnp.log1p(-jnp.where(life < 1, life, 0.0)), JUST_WRITTEN)
        hazard = jnp.log(self.env.platform.hazard_budget) + jnp.where(life > 0, lost, EXPIRED)
        return CellState(
            resident=jnp.where(rank > 0, 1.0, 0.0),
            memory=jnp.asarray(self.memory, float),
            age=jnp.where(rank > 0, rank - 1.0, float(self.networks)),
            lost=LogTotal.start(jnp.maximum(hazard, JUST_WRITTEN)),
            wear=Wear.zero(),
        )

    def locate(self, plant: PlatformState, lives: Float[Array, "tracked life"]) -> Mixture:
        """A platform state as a mixture of nodes; `lives` are the nodes of life of the context."""
        nodes, order = self.nodes, jnp.zeros((), jnp.int32)
        parts = [position(plant.theta[-1], jnp.asarray(nodes.rise, float))]
        parts += [position(plant.backlog[p], jnp.asarray(nodes.backlog, float)) for p in self.queued]
        for p in self.lingering:
            awake = plant.idle[p] / self.linger[p] * (nodes.awake - 1)
            parts.append(jnp.where(plant.idle[p] > self.linger[p], float(nodes.awake), awake))
        if self.chip is not None:
            cells = plant.cells[self.chip]
            order = self._order(cells)
            left = 1.0 - jnp.exp(cells.log_hazard - jnp.log(self.env.platform.hazard_budget))
            parts += [position(left[n], lives[axis]) for axis, n in enumerate(self.tracked)]
        coordinates = jnp.stack([parts[axis] for axis in self._axes]) if self._axes.size else jnp.zeros(0)
        return mix(coordinates, self._sizes, self._strides[order], self._offsets[order])

    def _order(self, cells: CellState) -> Int[Array, ""]:
        """The number of the order in which the networks on the chip were used."""
        on, age, index = cells.resident > 0, cells.age, jnp.arange(self.networks)
        newer = (age[None, :] < age[:, None]) | ((age[None, :] == age[:, None]) & (index[None, :] < index[:, None]))
        rank = jnp.where(on, 1 + jnp.sum(on[None, :] & newer, axis=1), 0)
        return self._order_number[jnp.sum(rank * self._radix)]


def _only_chip(env: SchedulingEnv) -> str | None:
    chips = env.platform.cell_names
    if len(chips) > 1:
        raise ValueError(f"platform has {len(chips)} chips with memory cells, {chips}; a routing grid holds at most 1")
    if chips and len(env.stream.networks) > MOST_NETWORKS:
        raise ValueError(f"stream has {len(env.stream.networks)} networks; a routing grid holds at most {MOST_NETWORKS}")
    return chips[0] if chips else None


def _positions(env: SchedulingEnv, names: tuple[str, ...] | None) -> tuple[int, ...]:
    known = env.stream.networks
    names = known if names is None else names
    for name in names:
        if name not in known:
            raise ValueError(f"tracked network {name!r} is unknown; the stream has {known}")
    return tuple(known.index(name) for name in names)


def _queued(env: SchedulingEnv) -> tuple[int, ...]:
    """Processors whose longest run, writing included, takes longer than the shortest deadline."""
    longest = np.asarray(jnp.max(env.offers.latency + env.offers.write_latency, axis=0))
    shortest = float(jnp.min(env.stream.deadline_lo))
    return tuple(int(p) for p in np.flatnonzero(longest > shortest))


def _memory(env: SchedulingEnv, chip: str | None) -> np.ndarray:
    """Share of the chip each network takes; without a chip none fits."""
    if chip is None:
        return np.full(len(env.stream.networks), 2.0)
    return np.asarray(env.offers.memory)[:, env.platform.names.index(chip)]


def _orders(memory: np.ndarray) -> list[tuple[int, ...]]:
    """Every ordered set of networks that fits on the chip, most recently used first."""
    networks = range(len(memory))
    ordered = (order for count in range(len(memory) + 1) for order in itertools.permutations(networks, count))
    return [order for order in ordered if memory[list(order)].sum() <= 1 + 1e-5]
