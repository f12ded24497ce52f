"""Figures of statistics: layers and replicates, gain against d' with intervals, nulls, ROC and tuning curves.

Tables come from `featattn_neuro.measures` (`network_tests`, `roc_points`); nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from featattn_neuro.errors import DataError
from featattn_neuro.report.figures import evenly, spread
from featattn_neuro.report.style import BLUE, FAINT, INK, SERIES, SOFT, VERMILION, new_figure, styled, zero_line
from featattn_neuro.schema import TUNING

SHOWN_LAYERS = 5
SHOWN_UNITS = 12


def _wanted(table: pd.DataFrame, columns: Sequence[str], maker: str) -> pd.DataFrame:
    missing = [name for name in columns if name not in table]
    if missing or not len(table):
        raise DataError(
            f"wanted a table of {maker} with {', '.join(columns)}; came {list(table)} and {len(table)} rows"
        )
    return table


@styled
def layer_forest_figure(intervals: pd.DataFrame) -> Figure:
    """Layers as rows: association with the own task and its excess over other tasks; a dot a network, bars 95 %.

    Parameters
    ----------
    intervals : of `featattn_neuro.measures.network_tests.layer_intervals`.
    """
    table = _wanted(intervals, ("layer", "quantity", "network", "estimate", "ci_low", "ci_high"), "layer_intervals")
    layers = list(dict.fromkeys(table["layer"]))
    figure = new_figure(7.0, 0.62 * len(layers) + 1.4)
    panels = figure.subplots(1, 2, sharey=True)
    titles = {"matched": "own task", "specific": "own task − other tasks"}
    for axes, (quantity, title), colour in zip(panels, titles.items(), (BLUE, VERMILION), strict=True):
        mine = table[table["quantity"] == quantity]
        for row, layer in enumerate(layers):
            here = mine[mine["layer"] == layer]
            each, whole = here[here["network"] != ""], here[here["network"] == ""]
            axes.plot(each["estimate"], row + spread(len(each), 0.16), "o", color=colour, markersize=3.5, alpha=0.45,
                      markeredgewidth=0)  # fmt: skip
            if len(whole):
                axes.plot(whole[["ci_low", "ci_high"]].to_numpy()[0], [row - 0.3] * 2, color=INK, linewidth=1.6)
                axes.plot(whole["estimate"], [row - 0.3], "D", color=INK, markersize=5)
        zero_line(axes)
        axes.set_title(title)
        axes.set_xlabel("Fisher's z of ρ(gain, |d′|)")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
    panels[0].set_yticks(range(len(layers)), layers)
    panels[0].set_ylim(len(layers) - 0.5, -0.6)
    marks = [
        Line2D([], [], marker="o", linestyle="", color=SOFT, markersize=4, label="one network"),
        Line2D([], [], marker="D", color=INK, markersize=5, label="mean, 95 % over networks"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=2)
    return figure


@styled
def gain_by_selectivity_figure(table: pd.DataFrame) -> Figure:
    """Gain against |d'|: filters in equal-count bins of |d'|, a panel a layer, 95 % intervals over networks.

    Parameters
    ----------
    table : of `featattn_neuro.measures.network_tests.gain_by_selectivity`.
    """
    wanted = _wanted(table, ("layer", "bin", "dprime", "log_gain", "ci_low", "ci_high"), "gain_by_selectivity")
    layers = evenly(list(dict.fromkeys(wanted["layer"])), SHOWN_LAYERS)
    figure = new_figure(min(2.7 * len(layers) + 0.6, 13), 2.9)
    panels = figure.subplots(1, len(layers), squeeze=False, sharey=True)[0]
    for axes, layer in zip(panels, layers, strict=True):
        here = wanted[wanted["layer"] == layer].sort_values("bin")
        axes.axhline(1, color=SOFT, linewidth=0.8, zorder=1)
        middle = np.exp(here["log_gain"])
        reach = np.exp(here[["ci_low", "ci_high"]])
        axes.vlines(here["dprime"], reach["ci_low"], reach["ci_high"], color=VERMILION, linewidth=1.6)
        axes.plot(here["dprime"], middle, "o-", color=VERMILION, markersize=5, linewidth=1)
        axes.set_title(layer)
        axes.set_xlabel("|d′| of the bin")
        axes.set_xlim(left=0)
    panels[0].set_ylabel("gain ÷ geometric mean of the layer")
    return figure


@styled
def null_figure(nulls: Mapping[str, tuple[float, np.ndarray]], *, label: str = "statistic") -> Figure:
    """Null distributions with what was observed, a panel each.

    Parameters
    ----------
    nulls : title → (observed, null values), as `task_permutation_null` returns them. label : of the horizontal axis.
    """
    if not nulls:
        raise DataError("wanted one null distribution or more; came none")
    figure = new_figure(max(3.2 * len(nulls), 4.0), 2.5)
    for axes, (title, (observed, values)) in zip(
        figure.subplots(1, len(nulls), squeeze=False)[0], nulls.items(), strict=True
    ):
        finite = np.asarray(values, dtype=np.float64)
        finite = finite[np.isfinite(finite)]
        axes.hist(finite, bins=30, color=FAINT, edgecolor="white", linewidth=0.4)
        axes.axvline(observed, color=VERMILION, linewidth=1.8)
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    marks = [
        Line2D([], [], marker="s", linestyle="", color=FAINT, markersize=7, label="null"),
        Line2D([], [], color=VERMILION, linewidth=1.8, label="observed"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=2)
    return figure


@styled
def roc_figure(points: pd.DataFrame, *, areas: Mapping[str, float] | None = None) -> Figure:
    """ROC curves of chosen filters.

    Parameters
    ----------
    points : of `featattn_neuro.measures.roc_points.roc_points`. areas : ROC area by unit, shown in the legend.
    """
    table = _wanted(points, ("unit", "false_alarms", "hits"), "roc_points")
    figure = new_figure(5.4, 3.6)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8)
    for number, (unit, curve) in enumerate(table.groupby("unit", sort=False)):
        said = f"{unit}  {areas[str(unit)]:.3f}" if areas and str(unit) in areas else str(unit)
        axes.plot(curve["false_alarms"], curve["hits"], color=SERIES[number % len(SERIES)], linewidth=1.5, label=said)
    axes.set_aspect("equal")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_xlabel("false-alarm rate")
    axes.set_ylabel("hit rate")
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), title="filter" + ("  ROC area" if areas else ""))
    return figure


@styled
def tuning_figure(tuning: xr.Dataset, *, units: Sequence[str] | None = None, level_name: str = "level") -> Figure:
    """Tuning curves: mean response at each level, bars are standard errors of the mean.

    Parameters
    ----------
    tuning : TUNING. units : which; None = the first twelve that are defined. level_name : the parameter, with units.
    """
    checked = TUNING.check(tuning)
    known = [str(name) for name in checked["unit"].values]
    if units is None:
        defined = (checked["status"] == "ok").values
        shown = [name for name, good in zip(known, defined, strict=True) if good][:SHOWN_UNITS]
    else:
        shown = [str(name) for name in units]
    missing = [name for name in shown if name not in known]
    if missing or not shown:
        raise DataError(f"wanted units with a tuning curve; {missing[0]!r} is none" if missing else "no unit is tuned")
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(2.3 * columns + 0.5, 1.8 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for axes, name in zip(panels, shown, strict=False):
        _tuning_panel(axes, checked.sel(unit=name), name)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(shown) - columns) : len(shown)]:
        axes.set_xlabel(level_name)
        axes.tick_params(labelbottom=True)
    for axes in panels[::columns]:
        axes.set_ylabel("response")
    return figure


def _tuning_panel(axes: Axes, unit: xr.Dataset, name: str) -> None:
    level, curve = unit["level"].values, unit["curve"].values
    seen = np.isfinite(curve)
    if "sem" in unit:
        sem = np.where(np.isfinite(unit["sem"].values), unit["sem"].values, 0.0)
        axes.vlines(level[seen], (curve - sem)[seen], (curve + sem)[seen], color=BLUE, linewidth=1.2)
    axes.plot(level[seen], curve[seen], "o-", color=BLUE, markersize=3.5, linewidth=1)
    axes.set_title(name, fontsize=8)
