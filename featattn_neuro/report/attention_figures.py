"""Figures of attention's effect over a stimulus parameter: fall-off with distance from the preferred one, and width."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from featattn_neuro.errors import DataError
from featattn_neuro.report.figures import evenly
from featattn_neuro.report.style import BLUE, FAINT, INK, SOFT, VERMILION, new_figure, styled
from featattn_neuro.schema import ATTENTION

PANELS = 4
"""Layers (or areas) whose profile is drawn, at most."""
_LINES = {"constant": (SOFT, ":"), "linear": (BLUE, "--"), "surround": (VERMILION, "-")}


@styled
def attention_profile_figure(effects: xr.Dataset) -> Figure:
    """Attended/unattended over distance from the preferred stimulus with the fitted shapes; widths of tuning.

    Parameters
    ----------
    effects : ATTENTION with `profile_ratio` (dots: mean over units and its standard error), `curve_width`, or both. The
        title names the shape that BIC and left-out error both prefer. Layers beyond four are spread evenly.
    """
    found = ATTENTION.check(effects)
    profiled = "profile_ratio" in found and bool(found["profile_ratio"].notnull().any())
    widths = "curve_width" in found and bool(found["curve_width"].notnull().any())
    if not (profiled or widths):
        raise DataError(
            "wanted ATTENTION with a profile or with widths of tuning; came one in which neither is defined; "
            "pass parameter= to attention_effects, and more units"
        )
    layers = evenly(_profiled(found), PANELS) if profiled else []
    figure = new_figure(3.3 * (len(layers) + widths) + 0.4, 3.1)
    panels = np.atleast_1d(figure.subplots(1, len(layers) + widths))
    for axes, layer in zip(panels, layers, strict=False):
        _profile(axes, found.sel(layer=layer), layer)
    if layers:
        panels[0].set_ylabel("attended / unattended")
        panels[0].legend(loc="best", fontsize=7)
    if widths:
        _widths(panels[-1], found)
    return figure


def _profiled(found: xr.Dataset) -> list[str]:
    """Layers with a ratio at some distance."""
    there = found["profile_ratio"].notnull().any("distance").values
    return [str(name) for name, one in zip(found["layer"].values, there, strict=True) if one]


def _profile(axes: Axes, one: xr.Dataset, layer: str) -> None:
    distance, ratio = one["distance"].values, one["profile_ratio"].values
    axes.axhline(1, color=FAINT, linewidth=1)
    error = one["profile_sem"].values if "profile_sem" in one else np.full(ratio.shape, np.nan)
    axes.errorbar(distance, ratio, np.nan_to_num(error), fmt="o", color=INK, markersize=4, linewidth=1.2, zorder=3)
    for shape in one["shape"].values.tolist() if "profile_fit" in one else []:
        colour, style = _LINES.get(shape, (SOFT, "-"))
        axes.plot(distance, one["profile_fit"].sel(shape=shape), style, color=colour, linewidth=1.5, label=shape)
    best = str(one["profile_shape"].item()) if "profile_shape" in one else ""
    axes.set_title(f"{layer}: {best or 'no shape preferred by both'}", fontsize=9)
    axes.set_xlabel(_distance(one))


def _distance(one: xr.Dataset) -> str:
    if "parameter" in one.attrs:
        return f"distance from preferred\n{str(one.attrs['parameter']).replace('_', ' ')}"
    return "rank of the stimulus\n(0 = preferred, 1 = least)"


def _widths(axes: Axes, found: xr.Dataset) -> None:
    before, after = found["curve_width"].values, found["curve_width_attended"].values
    seen = np.isfinite(before) & np.isfinite(after)
    ends = [float(np.min([before[seen], after[seen]])), float(np.max([before[seen], after[seen]]))]
    pad = 0.08 * (ends[1] - ends[0]) or 0.1 * ends[1]
    limits = ends[0] - pad, ends[1] + pad
    axes.plot(limits, limits, color=SOFT, linewidth=0.8)
    changed = seen & (found["p_width"].values <= 0.05) if "p_width" in found else np.zeros_like(seen)
    for rows, colour, label in ((seen & ~changed, BLUE, "p > .05"), (changed, VERMILION, "p ≤ .05")):
        if rows.any():
            axes.plot(before[rows], after[rows], "o", color=colour, markersize=4, alpha=0.8, label=label)
    axes.set_xlim(limits)
    axes.set_ylim(limits)
    axes.set_xlabel("half width, unattended")
    axes.set_ylabel("half width, attended")
    axes.set_title(f"width of tuning, {int(seen.sum())} units", fontsize=9)
    axes.legend(loc="upper left", fontsize=7)
