"""Pictures of temperature: a floorplan coloured block by block, and one layer of a grid. Needs matplotlib only when called."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Array, Float

from physics.constants import ZERO_CELSIUS
from physics.thermal.floorplan import Floorplan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = "inferno"
MILLIMETRE = 1e3
INK = "#222222"
LONGEST_LABEL = 12


def draw_floorplan(
    floorplan: Floorplan, temperature: Float[Array, " blocks"] | np.ndarray, *, title: str = "", limits: Any = None
) -> "Figure":
    """The chip from above, every block in the colour of its `temperature` (K, shown in Celsius).

    `limits`: lowest and highest temperature (K) of the colour scale, to compare pictures; default the range of the data.
    Returns a matplotlib Figure; save it with `figure.savefig(path)`. ValueError unless there is one number per block.
    """
    shown = _celsius(temperature, (len(floorplan.names),))
    figure, axes, paint = _frame(floorplan, shown, limits, title)
    boxes = zip(floorplan.names, *_millimetres(floorplan), shown, strict=True)
    span = float(np.max(np.asarray(floorplan.extent))) * MILLIMETRE
    for name, width, height, left, bottom, value in boxes:
        axes.add_patch(_rectangle(left, bottom, width, height, paint.to_rgba(value)))
        _label(axes, name, value, (left, bottom, width, height), span, paint)
    return figure


def draw_layer(
    floorplan: Floorplan, temperature: Float[Array, "rows columns"] | np.ndarray, *, title: str = "", limits: Any = None
) -> "Figure":
    """One layer of a `ThermalGrid` over the chip, `temperature` (K, shown in Celsius), with the outlines of the blocks.

    Arguments as of `draw_floorplan`; rows run south to north. ValueError unless there are two axes.
    """
    shown = _celsius(temperature, None)
    figure, axes, paint = _frame(floorplan, shown, limits, title)
    width, length = np.asarray(floorplan.extent) * MILLIMETRE
    box = (0.0, float(width), 0.0, float(length))
    axes.imshow(shown, origin="lower", extent=box, cmap=COLOURS, norm=paint.norm, interpolation="nearest")
    for box_width, height, left, bottom in zip(*_millimetres(floorplan), strict=True):
        axes.add_patch(_rectangle(left, bottom, box_width, height, "none", edge="#ffffff80"))
    return figure


def _celsius(temperature: Any, shape: tuple[int, ...] | None) -> np.ndarray:
    array = np.asarray(temperature, float) - ZERO_CELSIUS
    if shape is None and array.ndim != 2:
        raise ValueError(f"temperature has shape {array.shape}, expected (rows, columns)")
    if shape is not None and array.shape != shape:
        raise ValueError(f"temperature has shape {array.shape}, expected {shape}, one per block")
    return array


def _millimetres(floorplan: Floorplan) -> np.ndarray:
    """Width, height, left and bottom of every block, from the chip's south-west corner."""
    width, height, left, bottom = (
        np.asarray(part, float) * MILLIMETRE for part in (floorplan.width, floorplan.height, floorplan.left, floorplan.bottom)
    )
    return np.stack([width, height, left - left.min(), bottom - bottom.min()])


def _frame(floorplan: Floorplan, shown: np.ndarray, limits: Any, title: str) -> tuple[Any, Any, Any]:
    """Figure, axes in millimetres, and what turns a temperature into a colour."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    low, high = (shown.min(), shown.max()) if limits is None else np.subtract(limits, ZERO_CELSIUS)
    paint = ScalarMappable(Normalize(low, high if high > low else low + 1.0), COLOURS)
    width, length = np.asarray(floorplan.extent, float) * MILLIMETRE
    figure = Figure(figsize=(6.4, 1.2 + 4.6 * min(length / width, 2.0)), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(0, width), ylim=(0, length), aspect="equal", xlabel="x (mm)", ylabel="y (mm)")
    axes.set_title(title, loc="left", fontweight="bold", fontsize=11, color=INK)
    axes.tick_params(colors=INK, labelsize=9)
    figure.colorbar(paint, ax=axes, label="temperature (°C)", shrink=0.9)
    return figure, axes, paint


def _rectangle(left: float, bottom: float, width: float, height: float, face: Any, edge: str = "#ffffff") -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((left, bottom), width, height, facecolor=face, edgecolor=edge, linewidth=0.6)


def _label(axes: Any, name: str, value: float, box: tuple[float, ...], span: float, paint: Any) -> None:
    """Name and temperature inside the block, where they fit; turned in slim blocks, dark on light colours."""
    left, bottom, width, height = box
    text = name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…"
    upright = height > 1.5 * width
    along, across = (height, width) if upright else (width, height)
    letters = max(len(text), 4)
    size = min(9.0, 460 * along / span / letters, 200 * across / span)
    if size < 3.5:
        return
    red, green, blue, _ = paint.to_rgba(value)
    colour = INK if 0.3 * red + 0.6 * green + 0.1 * blue > 0.55 else "#ffffff"
    label = f"{text}\n{value:.1f}"
    middle = (left + width / 2, bottom + height / 2)
    axes.text(*middle, label, ha="center", va="center", size=size, color=colour, rotation=90 if upright else 0)
