"""One look for all figures: colours a colour-blind reader tells apart, and saving. No global rc is changed."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from featattn_neuro.errors import ConfigError
from featattn_neuro.report.tables import write_atomic

P = ParamSpec("P")

INK, SOFT, FAINT, PAPER = "#1c2733", "#66727f", "#d9dee4", "#ffffff"
BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, YELLOW = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
    "#F0E442",
)  # Okabe & Ito 2008

ARM_LABELS = {
    "ungained": "un-gained",
    "probe": "probe (new head)",
    "gain": "gain, frozen head",
    "gain_head": "gain + head",
    "full": "full fine-tuning",
    "uniform": "uniform gain",
    "permuted": "permuted gain",
    "permuted_head": "permuted gain + head",
    "bounded": "bounded gain",
    "shift": "shift",
    "shift_head": "shift + head",
    "gain_shift": "gain + shift",
    "gain_shift_head": "gain + shift + head",
    "norm_affine": "norm weights",
    "norm_affine_head": "norm weights + head",
    "adabn": "AdaBN",
    "spatial": "gain per position",
    "feature_spatial": "gain × position",
    "tuning": "tuning gains",
    "gradient": "gradient gains",
}
ARM_COLOURS = {
    "ungained": SOFT,
    "probe": SKY,
    "gain": ORANGE,
    "gain_head": VERMILION,
    "full": BLUE,
    "uniform": PURPLE,
    "permuted": "#9aa5b1",
    "permuted_head": "#b9c1ca",
    "bounded": YELLOW,
    "shift": GREEN,
    "shift_head": "#006b4f",
    "gain_shift": "#b3742b",
    "gain_shift_head": "#8c3f00",
    "norm_affine": "#5b8fb0",
    "norm_affine_head": "#1f5f8b",
    "adabn": "#444444",
    "spatial": "#7F3C8D",
    "feature_spatial": "#8C6D1F",
    "tuning": "#11A579",
    "gradient": "#3969AC",
}
VERDICT_COLOURS = {
    "supported": "#00785a",
    "contradicted": "#b3450a",
    "negligible": "#3f5f7f",
    "inconclusive": "#7a6a2f",
    "not_applicable": "#7b8794",
}
SERIES = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, "#444444", "#8C6D1F", "#7F3C8D", "#11A579")

_RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "image.interpolation": "nearest",
    "svg.hashsalt": "featattn_neuro",
}


@contextmanager
def style() -> Iterator[None]:
    """The package's look inside the block; rc parameters are as before after it, also when it raises."""
    with mpl.rc_context(_RC):
        yield


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorator: draw a figure in the package's look."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with style():
            return draw(*args, **kwargs)

    return inside


def new_figure(width: float, height: float) -> Figure:
    """An empty figure (inches) that belongs to no window and no pyplot state."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.05))
    FigureCanvasAgg(figure)
    return figure


def zero_line(axes: Axes, *, vertical: bool = True) -> None:
    """A thin line where the effect is none."""
    (axes.axvline if vertical else axes.axhline)(0, color=SOFT, linewidth=0.8, zorder=1)


def png_bytes(figure: Figure, *, dpi: int = 160) -> bytes:
    """The figure as PNG; the same bytes for the same figure and matplotlib version (no clock time inside)."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def svg_bytes(figure: Figure) -> bytes:
    """The figure as SVG; the same bytes for the same figure and matplotlib version (no clock time inside)."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def save_figure(figure: Figure, path: Path | str, *, dpi: int = 160) -> Path:
    """Write the figure as PNG or SVG, by the suffix, under a temporary name, then rename; return the path."""
    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise ConfigError(f"wanted a figure's name to end in .png or .svg; came {str(path)!r}; rename it")
    return write_atomic(path, svg_bytes(figure) if path.suffix == ".svg" else png_bytes(figure, dpi=dpi))


def objects_title(labels: Sequence[str]) -> str:
    """Names of the objects of an image, two a line, as wide as a small picture.

    >>> print(objects_title(["deer", "bird", "airplane"]))
    deer + bird
    airplane
    """
    return "\n".join(" + ".join(labels[first : first + 2]) for first in range(0, len(labels), 2))


def number(value: float, digits: int = 3) -> str:
    """A number for people: significant digits, a true minus sign, an en dash for undefined.

    >>> number(-0.01234), number(float("nan")), number(2.0)
    ('−0.0123', '–', '2.00')
    """
    if value != value:
        return "–"
    if value == 0:
        return "0"
    text = f"{value:#.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"
    if "e" in text:
        text = f"{value:.1e}"
    return text.rstrip(".").replace("-", "−")


def probability(value: float) -> str:
    """A p value for people, never zero.

    >>> probability(0.03125), probability(0.00001), probability(float("nan"))
    ('p = .031', 'p < .0001', 'p = –')
    """
    if value != value:
        return "p = –"
    if value < 0.0001:
        return "p < .0001"
    return "p = " + (f"{value:.4f}" if value < 0.001 else f"{value:.3f}").removeprefix("0")
