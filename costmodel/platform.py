"""A platform: processors on one thermal network, what may be switched on beside them, and the state they are in.

Processors are held by name and ordered alphabetically wherever arrays have a processor axis (P). Two parts are optional and cost
nothing where they are absent: `clocks`, the clock domains of processors whose frequency may be lowered (`clocks.py`), and
`limit`, the temperatures at which processors are throttled and the platform is shut off (`limits.py`).
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from costmodel.clocks import ClockDomain
from costmodel.limits import ThermalLimit
from costmodel.processors.base import Processor
from costmodel.processors.cim import CrossbarChip
from costmodel.weights import CellState
from physics import ParameterTree, SharedPackage, param

LONG_IDLE = 1e3  # s; idle time is not counted further


class Platform(ParameterTree):
    """Processors by name on one shared package. `package` has one junction per processor, in alphabetical order.

    `clocks` has the clock domain of every processor that can run slower than nominal; `limit` throttles all of them.
    Raises ValueError for parts that do not fit together.
    """

    processors: dict[str, Processor]
    package: SharedPackage
    hazard_budget: Float[Array, ""] = param(
        1e-6, unit="1", lo=1e-15, hi=0.5, log=True, source="assumed: bit error rate tolerated before correction, 1e-6..1e-4"
    )
    clocks: dict[str, ClockDomain] = eqx.field(default_factory=dict)
    limit: ThermalLimit | None = None

    def __check_init__(self) -> None:
        if not self.processors:
            raise ValueError("Platform.processors: a platform needs at least one processor, got 0")
        for name, processor in self.processors.items():
            if not isinstance(processor, Processor):
                raise ValueError(f"Platform.processors[{name!r}] must be a processor, got {type(processor).__name__}")
        if self.package.r_junction.shape[-1] != len(self.processors):
            raise ValueError(
                f"Platform.package has {self.package.r_junction.shape[-1]} junctions for {len(self.processors)} processors"
            )
        if self.package.names != self.names:
            raise ValueError(f"Platform.package.names = {self.package.names} must be the processors in order, {self.names}")
        for name in self.clocks:
            if name not in self.processors:
                raise ValueError(f"Platform.clocks[{name!r}] belongs to no processor; processors: {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Processor names in the order of every processor axis."""
        return tuple(sorted(self.processors))

    @property
    def cell_names(self) -> tuple[str, ...]:
        """Names of the processors that keep weights in memory cells."""
        return tuple(name for name in self.names if isinstance(self.processors[name], CrossbarChip))

    def chip(self, name: str) -> CrossbarChip:
        """The crossbar chip called `name`."""
        chip = self.processors[name]
        assert isinstance(chip, CrossbarChip)
        return chip

    def initial_state(self, ambient: Float[Array, ""] | float = 318.15, workloads: int = 1) -> "PlatformState":
        """Everything idle, at ambient temperature (K), no weights resident, for `workloads` distinct networks (>= 1)."""
        if isinstance(ambient, int | float) and not 200.0 <= ambient <= 500.0:
            raise ValueError(f"ambient = {ambient:g} K is outside its range [200, 500] K")
        if workloads < 1:
            raise ValueError(f"workloads = {workloads} is below 1")
        count = len(self.names)
        zeros = jnp.zeros(count)
        return PlatformState(
            ambient=jnp.asarray(ambient, float),
            theta=jnp.zeros(count + 2),
            backlog=zeros,
            idle=jnp.full(count, LONG_IDLE),
            pending=zeros,
            cells={name: CellState.empty(workloads) for name in self.cell_names},
            voltage=jnp.ones(count) if self.clocks else None,
        )


class PlatformState(NamedTuple):
    """State between tasks. N thermal nodes: the P junctions, then spreader and case."""

    ambient: Float[Array, ""]  # K
    theta: Float[Array, " nodes"]  # K above ambient
    backlog: Float[Array, " processors"]  # s of queued work
    idle: Float[Array, " processors"]  # s since the last work was done
    pending: Float[Array, " processors"]  # J of switching energy in that work
    cells: dict[str, CellState]
    voltage: Float[Array, " processors"] | None = None  # of nominal: mean supply of that work; stays when it is done

    @property
    def temperature(self) -> Float[Array, "... processors"]:
        """Junction temperatures (K)."""
        return jnp.asarray(self.ambient)[..., None] + self.theta[..., : self.backlog.shape[-1]]

    def with_ambient(self, ambient: Float[Array, ""] | float) -> "PlatformState":
        """The same state in other surroundings (K). Nothing is warmer or colder for it: rises change, temperatures do not."""
        change = jnp.asarray(ambient, self.theta.dtype) - self.ambient
        return self._replace(ambient=self.ambient + change, theta=self.theta - change)
