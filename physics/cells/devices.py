"""Named memory cells: every number with its unit and source.

A `Cell` joins a retention law, an endurance law, a read-disturb law and the electrical values a cost model needs.
Devices are points of departure for studies, not data sheets: retention is fitted to measurements, electrical
values come from NVSim's published sample cells, endurance from published ranges; what is assumed says so.

    hfox_reram                Ti/HfOx/TiN filamentary ReRAM     10-year temperature 123 C (criterion: R changes tenfold)
    hfalo_reram               Ti/HfAlO/TiN filamentary ReRAM    140 C (criterion: R changes tenfold; two bakes only)
    cbram                     Pt/Cu:MoOx/GdOx/Pt                77 C (abrupt loss)
    perpendicular_stt_mram    embedded-class MTJ                125 C at a bit error rate of 1e-6

`describe(load_device(name))` prints all values with their sources.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from physics.cells.disturb import MagneticDisturb, ResistiveDisturb
from physics.cells.endurance import Endurance
from physics.cells.logs import log_amount, log_sum
from physics.cells.retention import Retention, RetentionLaw, ThermalStability
from physics.params import Citations, ParameterTree, citations, param, unknown_name, with_sources
from physics.types import Result, Value
from physics.validity import Flag, in_bounds, inside

RRAM = "NVSim sample_RRAM.cell"
STT = "NVSim sample_STTRAM.cell (the 80 uA, 10 ns version)"
ENDURANCE_RANGE = "NVMExplorer endurance summary 2016-2020"


class Cell(ParameterTree):
    """One memory cell. Electrical defaults are those of NVSim's RRAM sample cell.

    `sources` are (label, citation) pairs for numbers that differ from the defaults. Raises ValueError if the disturb law
    does not belong to the retention law.
    """

    retention: RetentionLaw
    endurance: Endurance
    disturb: MagneticDisturb | ResistiveDisturb
    write_voltage: Float[Array, ""] = param(2.0, unit="V", lo=0.05, hi=20.0, log=True, source=RRAM)
    write_current: Float[Array, ""] = param(
        30e-6, unit="A", lo=1e-9, hi=1e-2, log=True, source=f"{RRAM}: energy / (voltage x pulse)"
    )
    write_time: Float[Array, ""] = param(10e-9, unit="s", lo=1e-11, hi=1e-2, log=True, source=f"{RRAM}: one pulse")
    write_energy: Float[Array, ""] = param(0.6e-12, unit="J", lo=1e-17, hi=1e-6, log=True, source=f"{RRAM}: per cell and pulse")
    read_voltage: Float[Array, ""] = param(0.4, unit="V", lo=0.001, hi=5.0, log=True, source=RRAM)
    read_time: Float[Array, ""] = param(10e-9, unit="s", lo=1e-11, hi=1e-2, log=True, source="assumed: one read cycle")
    r_on: Float[Array, ""] = param(1e6, unit="ohm", lo=1.0, hi=1e12, log=True, source=f"{RRAM}: at read voltage")
    r_off: Float[Array, ""] = param(1e7, unit="ohm", lo=1.0, hi=1e12, log=True, source=f"{RRAM}: at read voltage")
    bits: Float[Array, ""] = param(1.0, unit="bit", lo=1.0, hi=8.0, source="chosen: one bit (HfOx has shown four levels)")
    r_thermal: Float[Array, ""] = param(
        0.0, unit="K/W", lo=0.0, hi=1e9, source="assumed 0: reported endurance already includes the heat of its pulses"
    )
    sources: Citations = citations()

    def __check_init__(self) -> None:
        if isinstance(self.disturb, MagneticDisturb) != isinstance(self.retention, ThermalStability):
            raise ValueError(
                f"Cell: disturb {type(self.disturb).__name__} does not belong to retention {type(self.retention).__name__}"
            )

    @property
    def read_current(self) -> Result:
        """Current (A) of one read in the on state."""
        return self.read_voltage / self.r_on

    def log_disturb(self, temperature: Value) -> Result:
        """ln of the hazard of one read at `temperature` (K), at the cell's own read voltage and time."""
        if isinstance(self.disturb, MagneticDisturb) and isinstance(self.retention, ThermalStability):
            return self.disturb.log_hazard(self.retention, temperature, self.read_current, self.read_time)
        assert isinstance(self.disturb, ResistiveDisturb)
        return self.disturb.log_hazard(temperature, self.read_voltage, self.read_time)

    def log_loss(self, temperature: Value, duration: Value, reads: Value = 0.0) -> Result:
        """ln of the hazard gathered in `duration` (s) at `temperature` (K) with `reads` reads; -500 and below mean none."""
        disturbed = log_amount(jnp.asarray(reads, float)) + self.log_disturb(temperature)
        return log_sum(self.retention.log_hazard(temperature, duration), disturbed)

    def valid(self, temperature: Value) -> Flag:
        """Whether the laws hold: the cell at `temperature` (K), also while written, between 200 K and 700 K; every parameter
        in its range; the read current below critical.
        """
        inside_range = self.retention.valid(temperature) & self.endurance.valid(self.write_temperature(temperature))
        if isinstance(self.disturb, MagneticDisturb):
            inside_range &= inside(self.read_current, 0.0, self.disturb.critical_current)
        return inside_range & in_bounds(self)

    def write_temperature(self, temperature: Value) -> Result:
        """Temperature (K) of the cell while it is written, in surroundings at `temperature` (K)."""
        return temperature + self.r_thermal * self.write_energy / self.write_time


def hfox_reram() -> Cell:
    """Ti/HfOx/TiN filamentary ReRAM; R changes tenfold after 2.05e5 s at 200 C, 3.34e3 s at 250 C, 268 s at 300 C."""
    fit = "fit to R x10 bake times at 200, 250, 300 C, coreylammie/SST-Reproducibility (tau_0 = 10^-11.35 s)"
    cell = Cell(Retention(), Endurance(), ResistiveDisturb())
    return with_sources(cell, {"retention.log_tau_ref": (24.3622, fit), "retention.e_a": (1.5588, fit)})


def hfalo_reram() -> Cell:
    """Ti/HfAlO/TiN filamentary ReRAM; R changes tenfold after 2.96e4 s at 250 C and 1.42e3 s at 300 C."""
    fit = "through the R x10 bake times at 250 and 300 C, coreylammie/SST-Reproducibility (tau_0 = 10^-10.65 s)"
    same = "assumed as for HfOx ReRAM: no data on this stack"
    numbers = {
        "retention.log_tau_ref": (26.3346, fit),
        "retention.e_a": (1.5695, fit),
        "endurance.log_cycles_ref": (np.log(1e6), same),
    }
    return with_sources(Cell(Retention(), Endurance(), ResistiveDisturb()), numbers)


def cbram() -> Cell:
    """Pt/Cu:MoOx/GdOx/Pt conductive bridge; its low-resistance state is lost abruptly."""
    fit = "fit to bake times 4.03e3, 875, 190 s at 200, 225, 250 C, coreylammie/SST-Reproducibility (tau_0 = 10^-10.25 s)"
    same = "assumed as for HfOx ReRAM: no data on this stack"
    numbers = {
        "retention.log_tau_ref": (18.5791, fit),
        "retention.e_a": (1.3020, fit),
        "endurance.log_cycles_ref": (np.log(1e6), same),
    }
    return with_sources(Cell(Retention(), Endurance(), ResistiveDisturb()), numbers)


def perpendicular_stt_mram() -> Cell:
    """Embedded-class perpendicular STT-MRAM, ten years at 125 C.

    NVSim's sample cell reads at 0.25 V, which through its own 3 kilo-ohm would exceed the write current; the read
    voltage here draws a third of the critical current instead.
    """
    numbers = {
        "endurance.log_cycles_ref": (np.log(1e10), f"chosen inside the reported range 1e6 to 1e15, {ENDURANCE_RANGE}"),
        "write_voltage": (1.25, f"{STT}: energy / (current x pulse)"),
        "write_current": (80e-6, STT),
        "write_time": (10e-9, f"{STT}: one pulse"),
        "write_energy": (1e-12, f"{STT}: per cell and pulse"),
        "read_voltage": (0.06, "assumed: a third of the critical current through r_on"),
        "read_time": (5e-9, "assumed: one read cycle"),
        "r_on": (3e3, STT),
        "r_off": (6e3, STT),
        "bits": (1.0, "one bit per junction"),
    }
    return with_sources(Cell(ThermalStability(), Endurance(), MagneticDisturb()), numbers)


DEVICES: dict[str, Callable[[], Cell]] = {
    "hfox_reram": hfox_reram,
    "hfalo_reram": hfalo_reram,
    "cbram": cbram,
    "perpendicular_stt_mram": perpendicular_stt_mram,
}


def list_devices() -> tuple[str, ...]:
    """Names that `load_device` knows."""
    return tuple(DEVICES)


def load_device(name: str) -> Cell:
    """The named cell; ValueError with close matches for an unknown name."""
    if name not in DEVICES:
        raise ValueError(unknown_name("device", name, DEVICES))
    return DEVICES[name]()
