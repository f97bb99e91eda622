"""Several processors on one package: they heat each other through what they share.

    processor 1 junction --r_junction[0]--+
    processor 2 junction --r_junction[1]--+-- spreader --r_spreader-- case --r_ambient-- ambient
    processor P junction --r_junction[P-1]+

N = P + 2 nodes. The shared part is the default three-node package (see `lumped.py`); a junction of area A has
r_junction = 8.2 K mm2/W / A and c_junction = 1.26e-4 J/K/mm2 A, the first ladder element of that package scaled from its
256 mm2 die. Valid for processors that share a spreader; heat between neighbouring dies through silicon is neglected.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from physics.params import ParameterTree, param
from physics.thermal.networks import ThermalNetwork

SHARED = "fit to HotSpot's ev6 block model, area-mean step response, r_convec 1 K/W"
JUNCTION = "assumed: a 64 mm2 processor, scaled by area from a fit to HotSpot's ev6 block model"


class SharedPackage(ParameterTree):
    """P processor junctions on one spreader and case. `names` are the processors' names (static).

    `r_junction` (P,) and `c_junction` (P,) belong to each processor (one number means: the same for all), the other
    values to the shared package. Raises ValueError for wrong shapes and values out of range.
    """

    names: tuple[str, ...] = eqx.field(static=True, converter=tuple)
    r_junction: Float[Array, " processors"] = param(0.128, unit="K/W", lo=1e-4, hi=1e4, log=True, source=JUNCTION)
    c_junction: Float[Array, " processors"] = param(8.06e-3, unit="J/K", lo=1e-9, hi=1e6, log=True, source=JUNCTION)
    r_spreader: Float[Array, ""] = param(0.0583064, unit="K/W", lo=1e-4, hi=1e4, log=True, source=SHARED)
    c_spreader: Float[Array, ""] = param(7.08952, unit="J/K", lo=1e-9, hi=1e6, log=True, source=SHARED)
    r_ambient: Float[Array, ""] = param(0.995703, unit="K/W", lo=1e-4, hi=1e4, log=True, source=SHARED)
    c_case: Float[Array, ""] = param(70.5739, unit="J/K", lo=1e-9, hi=1e6, log=True, source=SHARED)

    def __post_init__(self) -> None:
        for field in ("r_junction", "c_junction"):
            setattr(self, field, _each(jnp.asarray(getattr(self, field), float), len(self.names)))

    def __check_init__(self) -> None:
        if not self.names:
            raise ValueError("SharedPackage.names is empty: a package needs at least one processor")
        for field in ("r_junction", "c_junction"):
            shape = getattr(self, field).shape
            if shape != (len(self.names),):
                raise ValueError(f"SharedPackage.{field} has shape {shape}, expected ({len(self.names)},), one per processor")

    def network(self) -> ThermalNetwork:
        """The package as a network: nodes are the processors in order, then spreader and case. Traceable."""
        count = len(self.names)
        shared = jnp.stack([self.c_spreader, self.c_case])
        ambient = jnp.zeros(count + 2, self.r_ambient.dtype).at[-1].set(1 / self.r_ambient)
        return ThermalNetwork(
            capacitance=jnp.concatenate([_each(self.c_junction, count), shared]),
            conductance=1 / jnp.append(_each(self.r_junction, count), self.r_spreader),
            ambient_conductance=ambient,
            links=[(i, count) for i in range(count)] + [(count, count + 1)],
            names=(*self.names, "spreader", "case"),
        )


def _each(value: Array, count: int) -> Array:
    """One number repeated for every processor; a vector as it is."""
    return jnp.broadcast_to(value, (count,)) if value.ndim == 0 else value
