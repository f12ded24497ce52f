"""Figures of network and brain: match over depth, gains on against off, distributions on one axis, attention slopes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from featattn_neuro.errors import DataError
from featattn_neuro.report.figures import evenly, spread
from featattn_neuro.report.style import (
    BLUE,
    FAINT,
    INK,
    ORANGE,
    PURPLE,
    SERIES,
    SOFT,
    VERMILION,
    new_figure,
    number,
    styled,
    zero_line,
)
from featattn_neuro.schema import ATTENTION, MATCH

MEASURE_LABELS = {
    "rsa": "rank correlation of\ndissimilarity matrices",
    "cka": "unbiased linear CKA",
    "ridge": "ridge, held-out r\n(median over neurons)",
    "pls": "PLS, held-out r\n(median over neurons)",
    "1 - KS, matched size": "1 − KS,\nmatched size",
    "1 - KS": "1 − KS",
}
MODEL_LABELS = {
    "none": "none",
    "multiplicative": "factor g",
    "additive": "added b",
    "both": "both",
    "width": "width",
    "": "undefined",
}
SCATTERED = 3
"""Layers, at most, whose units are shown one by one in the figure of slopes."""

NAMED = 10
"""At most so many layers are named below an axis."""


@styled
def match_figure(match: xr.Dataset) -> Figure:
    """Score of every layer over depth, one panel per measure, with what bounds it; gains on beside off where known.

    Parameters
    ----------
    match : MATCH of `neural_match` or `tuning_match`. Dots are neurons; the dashed line is the named ceiling (of r:
        the square root of the reliability), the band lies between the lower and the upper one. A ring marks a layer
        that was chosen on the other half of the stimuli.
    """
    found = MATCH.check(match)
    measures, layers = [str(m) for m in found["measure"].values], [str(v) for v in found["layer"].values]
    figure = new_figure(3.5 * len(measures) + 1.7, 3.1)
    panels = np.atleast_1d(figure.subplots(1, len(measures)))
    marks: dict[str, Any] = {}
    for axes, measure in zip(panels, measures, strict=True):
        _match_panel(axes, found.sel(measure=measure), measure, layers)
        handles, labels = axes.get_legend_handles_labels()
        marks |= dict(zip(labels, handles, strict=True))
    panels[-1].legend(list(marks.values()), list(marks), loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    return figure


def _match_panel(axes: Axes, one: xr.Dataset, measure: str, layers: Sequence[str]) -> None:
    at = np.arange(len(layers))
    zero_line(axes, vertical=False)
    if "neuron_score" in one and np.isfinite(one["neuron_score"].values).any():
        scores = one["neuron_score"].values
        where = at[:, None] + spread(scores.shape[1], 0.22)
        axes.plot(where.ravel(), scores.ravel(), ".", color=SOFT, alpha=0.45, markersize=3, zorder=1, label="neurons")
    if "ceiling" in one and np.isfinite(one["ceiling"]):
        # scores of single neurons are correlations, reliability is a ratio of variances
        height = float(np.sqrt(max(float(one["ceiling"]), 0.0))) if "neuron_score" in one else float(one["ceiling"])
        axes.axhline(height, color=SOFT, linestyle="--", linewidth=1, label="ceiling")
    if "ceiling_low" in one and np.isfinite(one["ceiling_low"]):
        bounds = float(one["ceiling_low"]), float(one["ceiling_high"])
        axes.axhspan(*bounds, color=FAINT, alpha=0.7, linewidth=0, zorder=0, label="noise ceiling")
    gained = "score_gained" in one
    axes.plot(at, one["score"], "-o", color=BLUE, markersize=4.5, zorder=3, label="gains off" if gained else "layer")
    if gained:
        axes.plot(at, one["score_gained"], "-s", color=VERMILION, markersize=4, zorder=3, label="gains on")
    if "chosen_layer" in one:
        names = [str(v) for v in one["chosen_layer"].values]
        pairs = [(layers.index(n), float(s)) for n, s in zip(names, one["chosen_score"].values, strict=True) if n]
        if pairs:
            ring: dict[str, Any] = {"color": INK, "markersize": 9, "markerfacecolor": "none", "zorder": 4}
            axes.plot(*np.array(pairs).T, "o", label="layer chosen on\nthe other stimuli", **ring)
    _name_layers(axes, layers)
    axes.set_ylabel(MEASURE_LABELS.get(measure, measure))
    axes.grid(axis="y")


@styled
def match_difference_figure(match: xr.Dataset) -> Figure:
    """Match with gains on minus off, per layer, with its 95 % interval over stimuli; one panel per measure.

    Parameters
    ----------
    match : MATCH with `difference`.
    """
    found = MATCH.check(match)
    if "difference" not in found:
        raise DataError("wanted a MATCH with gains on and off; came one without; pass gained= to neural_match")
    measures, layers = [str(m) for m in found["measure"].values], [str(v) for v in found["layer"].values]
    figure = new_figure(3.5 * len(measures) + 0.6, 2.7)
    at = np.arange(len(layers))
    for axes, measure in zip(np.atleast_1d(figure.subplots(1, len(measures))), measures, strict=True):
        one = found.sel(measure=measure)
        zero_line(axes, vertical=False)
        axes.vlines(at, one["difference_low"], one["difference_high"], color=VERMILION, linewidth=2.2, alpha=0.7)
        axes.plot(at, one["difference"], "o", color=VERMILION, markersize=5)
        axes.set_title(measure)
        axes.set_ylabel("gains on − off")
        _name_layers(axes, layers)
        axes.grid(axis="y")
    return figure


def _name_layers(axes: Axes, layers: Sequence[str]) -> None:
    shown = [layers.index(name) for name in evenly(layers, NAMED)]
    axes.set_xticks(shown, [layers[k] for k in shown], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(layers) - 0.4)
    axes.set_xlabel("layer, in order of depth" if len(layers) > 1 else "")


@styled
def distributions_figure(filters: xr.DataArray, neurons: xr.DataArray, *, label: str, layers: int = 4) -> Figure:
    """Distributions of one tuning quantity in the layers of a network and in neurons, cumulative, on one axis.

    Parameters
    ----------
    filters : over `unit` with the coordinate `layer`. neurons : over `unit`. Values that are not finite are left out.
    label : what the quantity is, with its units. layers : at most so many layers are drawn, evenly spread.
    """
    names = list(dict.fromkeys(filters["layer"].values.astype(str).tolist()))
    shown = evenly(names, layers)
    if len(shown) > len(SERIES):
        raise DataError(f"wanted at most {len(SERIES)} layers; came {len(shown)}; choose fewer")
    figure = new_figure(4.8, 3.2)
    axes = figure.subplots()
    for name, colour in zip(shown, SERIES, strict=False):
        inside = filters.values[filters["layer"].values.astype(str) == name]
        _cumulative(axes, inside, name, colour, 1.6)
    _cumulative(axes, neurons.values, "neurons", INK, 2.8)
    axes.set_xlabel(label)
    axes.set_ylabel("share of units up to the value")
    axes.set_ylim(0, 1.02)
    axes.grid()
    axes.legend(loc="lower right")
    return figure


def _cumulative(axes: Axes, values: np.ndarray, name: str, colour: str, width: float) -> None:
    finite = np.sort(values[np.isfinite(values)])
    if finite.size:
        steps = np.arange(1, finite.size + 1) / finite.size
        label = f"{name} ({finite.size})"
        axes.step(finite, steps, where="post", color=colour, linewidth=width, label=label)


@styled
def attention_figure(effects: xr.Dataset) -> Figure:
    """What attention, or gains, do to units: index, factor and added response, chosen models, feature-similarity slope.

    Parameters
    ----------
    effects : ATTENTION. The factor and the added response are those of the model with both, with their intervals.
    """
    found = ATTENTION.check(effects)
    figure = new_figure(12.6, 3.1)
    index, plane, models, slope = figure.subplots(1, 4, width_ratios=[1, 1.15, 1, 1])
    _histogram(index, found["mean_index"].values, "attention index", BLUE)
    _plane(plane, found)
    _models(models, found)
    values = found["preference_slope"].values if "preference_slope" in found else np.array([])
    label = "slope of attended / unattended\non rank of the stimulus (0 = preferred)"
    _histogram(slope, values, label, PURPLE, np.mean)
    return figure


def _histogram(
    axes: Axes, values: np.ndarray, label: str, colour: str, middle: Callable[[np.ndarray], Any] = np.median
) -> None:
    """Units by value, and a line at their median; at their mean where slopes of few spikes are skewed."""
    finite = values[np.isfinite(values)]
    zero_line(axes)
    axes.set_xlabel(label)
    axes.set_ylabel("units")
    if not finite.size:
        axes.text(0.5, 0.5, "undefined", transform=axes.transAxes, ha="center", color=SOFT)
        return
    low, high = np.quantile(finite, [0.01, 0.99])
    reach = 1.1 * max(abs(low), abs(high), 1e-6)
    axes.hist(
        np.clip(finite, -reach, reach),
        bins=np.linspace(-reach, reach, _bins(finite.size)).tolist(),
        color=colour,
        alpha=0.85,
    )
    axes.axvline(float(middle(finite)), color=INK, linewidth=1.6)
    axes.locator_params(axis="x", nbins=5)
    axes.set_title(f"{finite.size} units", fontsize=9)


def _plane(axes: Axes, found: xr.Dataset) -> None:
    axes.set_xlabel("factor g")
    axes.set_ylabel("added response b")
    if "both" not in found["model_name"].values:
        axes.text(0.5, 0.5, "not fitted", transform=axes.transAxes, ha="center", color=SOFT)
        return
    both = found.sel(model_name="both")
    g, b = both["gain"].values, both["shift"].values
    if "gain_low" in both:
        axes.hlines(b, both["gain_low"], both["gain_high"], color=FAINT, linewidth=0.7, zorder=1)
        axes.vlines(g, both["shift_low"], both["shift_high"], color=FAINT, linewidth=0.7, zorder=1)
    axes.axhline(0, color=SOFT, linewidth=0.8)
    axes.axvline(1, color=SOFT, linewidth=0.8)
    axes.plot(g, b, ".", color=VERMILION, markersize=4, zorder=3)
    if np.isfinite(g).any():
        for values, limits in ((g, axes.set_xlim), (b, axes.set_ylim)):
            low, high = np.nanquantile(values, [0.02, 0.98])
            neutral = 1.0 if values is g else 0.0
            low, high = min(low, neutral), max(high, neutral)
            pad = 0.35 * (high - low) or 0.1
            limits(low - pad, high + pad)


def _models(axes: Axes, found: xr.Dataset) -> None:
    chosen = found["model"].values.astype(str)
    names = [n for n in (*found["model_name"].values.astype(str), "") if n or (chosen == "").any()]
    counts = [int((chosen == name).sum()) for name in names]
    axes.barh(range(len(names)), counts, color=[ORANGE if name else FAINT for name in names], height=0.66)
    for row, count in enumerate(counts):
        axes.text(count, row, f" {count}", va="center", color=INK, fontsize=8)
    axes.set_yticks(range(len(names)), [MODEL_LABELS.get(name, name) for name in names])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max(counts, default=1))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("units with this model")


@styled
def similarity_figure(effects: xr.Dataset) -> Figure:
    """Feature-similarity slopes: per image (ratio on tuning value over units) and per layer (index on selectivity).

    Parameters
    ----------
    effects : ATTENTION with `similarity_slope`, `selectivity_slope`, or both. With up to three layers (or areas) the
        second is shown by its units, index over selectivity, the slope in the legend.
    """
    found = ATTENTION.check(effects)
    panels = [name for name in ("similarity_slope", "selectivity_slope") if name in found]
    if not panels:
        raise DataError(
            "wanted ATTENTION with slopes over units; came one without; "
            "pass tuning_value= or selectivity= to attention_effects"
        )
    layers = [str(v) for v in found["layer"].values]
    figure = new_figure(4.6 * len(panels), 3.0)
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        zero_line(axes, vertical=False)
        if name == "similarity_slope":
            for row, values in enumerate(found[name].transpose("layer", "stimulus").values):
                axes.plot(row + spread(values.size, 0.25), values, ".", color=BLUE, alpha=0.5, markersize=3)
            axes.set_ylabel("slope of attended / unattended\non tuning value, per image")
            axes.legend([Line2D([], [], marker=".", color=BLUE, linestyle="")], ["images"], loc="best")
            _name_layers(axes, layers)
        elif "selectivity" in found and len(layers) <= SCATTERED:
            _scatter(axes, found, layers)
        else:
            axes.plot(range(len(layers)), found[name], "o", color=VERMILION)
            axes.set_ylabel("slope of attention index\non selectivity, over units")
            _name_layers(axes, layers)
        axes.grid(axis="y")
    return figure


def _scatter(axes: Axes, found: xr.Dataset, layers: Sequence[str]) -> None:
    """Attention index over selectivity, a dot per unit; slope and rank correlation as stored."""
    of_unit = found["unit_layer"].values.astype(str)
    for layer, colour in zip(layers, SERIES, strict=False):
        one, rows = found.sel(layer=layer), of_unit == layer
        label = f"{layer}: slope {number(float(one['selectivity_slope']), 2)}"
        label += f", ρ {number(float(one['selectivity_rho']), 2)}" if "selectivity_rho" in one else ""
        axes.plot(found["selectivity"].values[rows], found["mean_index"].values[rows], "o", color=colour, markersize=4,
                  alpha=0.8, label=label)  # fmt: skip
    axes.set_xlabel(f"selectivity ({str(found.attrs.get('selectivity', 'given')).replace('_', ' ')})")
    axes.set_ylabel("attention index")
    axes.legend(loc="best", fontsize=7)


def _bins(count: int) -> int:
    """Edges of a histogram: an odd number of them, more for more units."""
    return int(np.clip(2 * round(np.sqrt(count)) + 1, 9, 31))
