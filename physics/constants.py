"""Constants of nature and conversions."""

from physics.types import Value

BOLTZMANN_EV = 8.617333262e-5  # eV/K, CODATA 2018, exact
ZERO_CELSIUS = 273.15  # K
YEAR = 365.25 * 86400.0  # s, Julian year


def from_celsius(temperature: Value) -> Value:
    """Degrees Celsius to kelvin."""
    return temperature + ZERO_CELSIUS


def to_celsius(temperature: Value) -> Value:
    """Kelvin to degrees Celsius."""
    return temperature - ZERO_CELSIUS
