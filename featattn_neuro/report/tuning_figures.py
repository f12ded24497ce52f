"""Figures of tuning: a gallery of curves; neurons and filters on one axis; match over depth. Stored values only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from featattn_neuro.errors import DataError, choose
from featattn_neuro.report.style import BLUE, INK, SERIES, SOFT, VERMILION, new_figure, number, styled
from featattn_neuro.schema import MATCH, TUNING

PANELS = 24
LAYERS = 12
"""Panels of a gallery, and layers of a figure, beyond which they are spread evenly over all."""

QUANTITIES = {
    "modulation_depth": "modulation depth, (max − min)/(max + min)",
    "sparseness": "lifetime sparseness",
    "orientation_index": "orientation selectivity (vector)",
    "direction_index": "direction selectivity (vector)",
    "fano": "Fano factor",
    "reliability": "split-half reliability",
    "p_selective": "p that the response is the same at all levels",
}
UNITS = {
    "orientation": "orientation (°)", "level": "stimulus level", "spatial_frequency": "spatial frequency "
    "(cycles/image)",
    "direction": "direction of motion (°)", "phase": "phase (°)", "contrast": "contrast",
}  # fmt: skip


@styled
def tuning_gallery(tuning: xr.Dataset, *, units: Sequence[str] | None = None, columns: int = 6) -> Figure:
    """Tuning curves of units, a panel each: means with their intervals, and the fit where there is one.

    Parameters
    ----------
    tuning : TUNING.
    units : ids, in the order of the panels; None = up to 24, evenly over the units whose status is "ok", the surest
        tuned (smallest `p_selective`) of each stretch.
    columns : panels in a row.

    Raises
    ------
    DataError : no unit that could be shown. ConfigError : an unknown unit.
    """
    checked = TUNING.check(tuning)
    known = checked["unit"].values.astype(str).tolist()
    shown = _gallery_units(checked) if units is None else [choose(str(one), known, "unit") for one in units]
    if not shown:
        raise DataError("no unit has a tuning curve (status ok); nothing can be shown; see status")
    across = min(columns, len(shown))
    rows = -(-len(shown) // across)
    figure = new_figure(1.75 * across + 0.6, 1.5 * rows + 0.4)
    grid = figure.subplots(rows, across, squeeze=False, sharex=True)
    for axes, name in zip(grid.ravel(), shown, strict=False):
        _curve(axes, checked.sel(unit=name), name)
    for axes in grid.ravel()[len(shown) :]:
        axes.set_visible(False)
    figure.supxlabel(_parameter(checked), fontsize=9)
    figure.supylabel(f"response{_in_units(checked)}", fontsize=9)
    return figure


def _gallery_units(tuning: xr.Dataset) -> list[str]:
    usable = np.flatnonzero(tuning["status"].values.astype(str) == "ok")
    if usable.size <= PANELS:
        return [str(one) for one in tuning["unit"].values[usable]]
    p = tuning["p_selective"].values[usable] if "p_selective" in tuning else np.zeros(usable.size)
    parts = np.array_split(np.arange(usable.size), PANELS)
    best = [part[np.argmin(np.where(np.isfinite(p[part]), p[part], np.inf))] for part in parts]
    return [str(one) for one in tuning["unit"].values[usable[best]]]


def _curve(axes: Axes, one: xr.Dataset, name: str) -> None:
    level, mean = one["level"].values.astype(float), one["curve"].values.astype(float)
    there = np.isfinite(mean)
    if "level_name" in one.coords:
        low, high = _ends(one, mean)
        axes.errorbar(
            level, mean, yerr=np.stack([mean - low, high - mean]), fmt="o", color=BLUE, markersize=3, linewidth=1
        )
        axes.set_xticks(level, [str(text)[:10] for text in one["level_name"].values], rotation=90, fontsize=6)
    else:
        if "low" in one:
            axes.fill_between(
                level[there], *(end[there] for end in _ends(one, mean)), color=BLUE, alpha=0.2, linewidth=0
            )
        fitted = "fit" in one
        axes.plot(level[there], mean[there], "o" if fitted else "o-", color=BLUE, markersize=2.5, linewidth=1.2)
        if fitted:
            axes.plot(one["fit_level"].values, one["fit"].values, color=VERMILION, linewidth=1.2)
    axes.set_title(_short(name), fontsize=7, weight="normal", pad=3)
    axes.tick_params(labelsize=6)
    if (mean[there] >= 0).all():
        axes.set_ylim(bottom=0)


def _ends(one: xr.Dataset, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the interval; the mean itself where there is none."""
    low, high = (one[name].values.astype(float) if name in one else mean for name in ("low", "high"))
    return np.where(np.isfinite(low), low, mean), np.where(np.isfinite(high), high, mean)


@styled
def distribution_figure(
    neurons: xr.Dataset,
    filters: xr.Dataset | Mapping[str, xr.Dataset],
    *,
    quantity: str = "modulation_depth",
    match: xr.Dataset | None = None,
) -> Figure:
    """Distribution of one quantity of tuning in neurons (areas) and in filters (layers), on one axis.

    Every row is a group: dots are units, the bar spans the quartiles, the line is the median.

    Parameters
    ----------
    neurons : TUNING of neurons; a row per `area` where areas are known.
    filters : TUNING of filters, a row per `layer` in the order in which they come; or several by name.
    quantity : a variable over units, see `QUANTITIES`.
    match : MATCH of `tuning_match` of the same quantity: 1 − KS of each layer at matched size, and its ceiling, are
        written beside the rows.

    Raises
    ------
    ConfigError : the quantity is in none of them. DataError : no unit has a value.
    """
    sets = dict(filters) if isinstance(filters, Mapping) and not isinstance(filters, xr.Dataset) else {"": filters}
    groups = _groups(TUNING.check(neurons), "area", quantity, BLUE, "neurons")
    for name, dataset in sets.items():
        groups += _spread_evenly(_groups(TUNING.check(dataset), "layer", quantity, VERMILION, name or "filters"))
    groups = [group for group in groups if group[1].size]
    if not groups:
        raise DataError(f"no unit has a {quantity.replace('_', ' ')}; nothing can be shown; see status")
    figure = new_figure(6.6, 0.34 * len(groups) + 1.0)
    axes = figure.subplots()
    for row, (_, values, colour) in enumerate(groups):
        _strip(axes, row, values, colour)
    axes.set_yticks(range(len(groups)), [f"{name}  ({values.size})" for name, values, _ in groups])
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel(QUANTITIES.get(quantity, quantity.replace("_", " ")))
    if match is not None:
        _likeness(axes, MATCH.check(match), [name for name, _, _ in groups])
    return figure


def _likeness(axes: Axes, match: xr.Dataset, names: Sequence[str]) -> None:
    """1 − KS of each layer, in a column right of the rows; the ceiling in its heading."""
    one = match.sel(measure="1 - KS, matched size")
    where: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "ha": "center", "va": "center", "fontsize": 8}
    known = one["layer"].values.astype(str).tolist()
    for row, name in enumerate(names):
        if name in known:
            axes.text(1.09, row, number(float(one["score"].sel(layer=name)), 2), color=INK, **where)
    ceiling = number(float(one["ceiling"]), 2)
    axes.text(1.09, -0.95, f"1 − KS\n(ceiling {ceiling})", color=SOFT, **where)


Group = tuple[str, np.ndarray, str]


def _groups(tuning: xr.Dataset, by: str, quantity: str, colour: str, other: str) -> list[Group]:
    scalars = [str(name) for name, one in tuning.data_vars.items() if one.dims == ("unit",) and one.dtype.kind == "f"]
    values = tuning[choose(quantity, scalars, "quantity of tuning")].values.astype(float)
    names = tuning[by].values.astype(str) if by in tuning.coords else np.full(values.size, other)
    seen = np.isfinite(values)
    return [(one or other, values[seen & (names == one)], colour) for one in dict.fromkeys(names.tolist())]


def _spread_evenly(groups: list[Group]) -> list[Group]:
    if len(groups) <= LAYERS:
        return groups
    return [groups[int(at)] for at in np.unique(np.round(np.linspace(0, len(groups) - 1, LAYERS)))]


def _strip(axes: Axes, row: int, values: np.ndarray, colour: str) -> None:
    # a fixed pattern instead of random jitter: the same figure every time
    offsets = 0.28 * (np.modf(np.arange(values.size) * 0.618034)[0] * 2 - 1)
    size, alpha = (4.5, 0.8) if values.size < 60 else (2.4, 0.35)
    axes.plot(np.sort(values), row + offsets, "o", color=colour, markersize=size, alpha=alpha, markeredgewidth=0)
    low, middle, high = np.percentile(values, [25, 50, 75])
    axes.plot([low, high], [row, row], color=INK, linewidth=2.2, solid_capstyle="butt", alpha=0.75)
    axes.plot([middle, middle], [row - 0.26, row + 0.26], color=INK, linewidth=2)


@styled
def match_figure(match: xr.Dataset) -> Figure:
    """Match of every layer with the neurons, in order of depth: a panel per measure, the ceiling where it is known.

    Parameters
    ----------
    match : MATCH; scores over neurons are shown by their median.
    """
    checked = MATCH.check(match)
    measures = [str(one) for one in checked["measure"].values]
    layers = [str(one) for one in checked["layer"].values]
    figure = new_figure(3.3 * len(measures), 3.0)
    for axes, measure, colour in zip(np.atleast_1d(figure.subplots(1, len(measures))), measures, SERIES, strict=False):
        one = checked.sel(measure=measure)
        scores = one["score"].median("neural_unit") if "neural_unit" in one["score"].dims else one["score"]
        axes.plot(range(len(layers)), scores.values, "o-", color=colour, markersize=4)
        _ceiling(axes, one)
        axes.axhline(0, color=SOFT, linewidth=0.8)
        axes.set_title(measure)
        axes.set_xticks(range(len(layers)), layers, rotation=90, fontsize=7)
        axes.grid(axis="y")
    return figure


def _ceiling(axes: Axes, one: xr.Dataset) -> None:
    """The band of a noise ceiling in the score's units; a reliability, which bounds r², is written out instead."""
    if "ceiling_low" in one and np.isfinite(float(one["ceiling_low"])):
        axes.axhspan(float(one["ceiling_low"]), float(one["ceiling_high"]), color=SOFT, alpha=0.25, linewidth=0)
        return
    ceiling = one.get("ceiling")
    if ceiling is not None and ceiling.ndim == 0 and np.isfinite(float(ceiling)):
        axes.set_xlabel(f"reliability of the neurons {number(float(ceiling), 2)}", fontsize=8)


def _parameter(tuning: xr.Dataset) -> str:
    name = str(tuning.attrs.get("parameter", "level"))
    return UNITS.get(name, name.replace("_", " "))


def _in_units(tuning: xr.Dataset) -> str:
    units = str(tuning.attrs.get("units", ""))
    return f" ({units})" if units in ("spikes", "spikes/s") else ""


def _short(name: str) -> str:
    return name if len(name) <= 22 else "…" + name[-21:]
