"""Figures of the gain–selectivity association: filters, layers, tasks, networks, and where the null lies."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from featattn_neuro.errors import DataError
from featattn_neuro.report.figures import evenly, layer_names, one_arm, spread
from featattn_neuro.report.style import BLUE, FAINT, INK, SERIES, SOFT, VERMILION, new_figure, styled, zero_line
from featattn_neuro.schema import ASSOCIATION, CLAIMS, GAINS, SELECTIVITY

Datasets = Mapping[str, xr.Dataset]
SHOWN_LAYERS = 5
GAIN_TICKS = [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.4, 2, 3, 5, 10, 20]


@styled
def gain_selectivity_figure(
    gains: xr.Dataset, selectivity: xr.Dataset, association: xr.Dataset, *, arm: str = "gain", measure: str = "dprime"
) -> Figure:
    """One network: gain against |d'| of every live filter, a column per layer; below, ρ for each pair of tasks.

    Parameters
    ----------
    gains, selectivity, association : GAINS, SELECTIVITY and ASSOCIATION of the same network; joined on unit ids.
    arm : whose gains, where there are several arms.
    measure : which measure's correlations, where there are several.

    Raises
    ------
    DataError : gains and selectivity have different units.
    """
    gains, selectivity = one_arm(GAINS.check(gains), arm), SELECTIVITY.check(selectivity)
    association = _select(ASSOCIATION.check(association), measure)
    if set(gains["unit"].values) != set(selectivity["unit"].values):
        raise DataError("gains and selectivity have different units; came files of two networks; pass the same one")
    selectivity = selectivity.sel(unit=gains["unit"].values)
    every = [layer for layer in layer_names(gains) if layer in association["layer"].values]
    layers = evenly(every, SHOWN_LAYERS)
    figure = new_figure(min(3.2 * len(layers), 13), 4.4)
    grid = figure.subplots(2, len(layers), height_ratios=[2.4, 1], squeeze=False, sharey="row")
    for column, layer in enumerate(layers):
        _filters(grid[0, column], gains, selectivity, layer)
        _pairs(grid[1, column], association["rho"].sel(layer=layer))
    if len(layers) < len(every):
        figure.suptitle(f"{len(layers)} of {len(every)} layers, evenly spread over depth", fontsize=9, color=SOFT)
    grid[0, 0].set_ylabel("learned gain")
    grid[1, 0].set_yticks([0, 1], ["same task", "other task"])
    grid[1, 0].set_ylim(1.6, -0.6)
    return figure


def _filters(axes: Axes, gains: xr.Dataset, selectivity: xr.Dataset, layer: str) -> None:
    live = selectivity["live"].values == 1 if "live" in selectivity else np.ones(selectivity.sizes["unit"], bool)
    here = np.flatnonzero((gains["layer"].values == layer) & live)
    gain, dprime = gains["gain"].isel(unit=here), abs(selectivity["dprime"].isel(unit=here))
    tasks = [str(t) for t in gain["task"].values] if "task" in gain.dims else [""]
    for number, task in enumerate(tasks):
        x, y = (v.sel(task=task) if task and "task" in v.dims else v for v in (dprime, gain))
        axes.plot(x, y, "o", color=SERIES[number % len(SERIES)], markersize=3, alpha=0.55, markeredgewidth=0)
    axes.axhline(1, color=SOFT, linewidth=0.8, zorder=1)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_locator(FixedLocator(GAIN_TICKS))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.set_xlim(left=0)
    axes.set_title(layer)
    axes.set_xlabel("|d′| on images the gains never saw")


def _pairs(axes: Axes, rho: xr.DataArray) -> None:
    zero_line(axes)
    axes.set_xlim(-1, 1)
    axes.set_xlabel("Spearman ρ(gain, |d′|)")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    if "selectivity_task" not in rho.dims:
        groups = [np.atleast_1d(rho.values), np.empty(0)]
    else:
        same = rho["task"].values[:, None] == rho["selectivity_task"].values[None, :]
        table = rho.transpose("task", "selectivity_task").values
        groups = [table[same], table[~same]]
    for row, (values, colour) in enumerate(zip(groups, (VERMILION, SOFT), strict=True)):
        y = row + spread(len(values), 0.26)
        axes.plot(values, y, "o", color=colour, markersize=3.5, alpha=0.6, markeredgewidth=0)
        if np.isfinite(values).any():
            mean = np.nanmean(values)
            axes.plot([mean, mean], [row - 0.38, row + 0.38], color=INK, linewidth=1.8)
    if not any(np.isfinite(values).any() for values in groups):
        axes.text(0, 0.5, "too few live filters", ha="center", va="center", color=SOFT, fontsize=8)


@styled
def forest_figure(associations: Datasets, claims: xr.Dataset | None = None, *, measure: str = "dprime") -> Figure:
    """Networks as rows: association with the own task (matched) and its excess over other tasks (specific).

    Parameters
    ----------
    associations : ASSOCIATION by network, several tasks each.
    claims : CLAIMS; the row at the bottom is claim T3's mean with its 95 % interval.
    """
    picked = {name: _select(ASSOCIATION.check(ds), measure) for name, ds in associations.items()}
    rows = len(picked) + (claims is not None)
    figure = new_figure(5.8, 0.34 * rows + 1.3)
    axes = figure.subplots()
    for row, dataset in enumerate(picked.values()):
        axes.plot([float(dataset["specific"])], [row], "o", color=VERMILION, markersize=7)
        axes.plot([float(dataset["matched"])], [row], "o", markerfacecolor="white", color=BLUE, markersize=7)
    names = list(picked)
    if claims is not None:
        claim = CLAIMS.check(claims).sel(claim="T3")
        bound = float(claim["bound"])
        axes.axvspan(-bound, bound, color=FAINT, alpha=0.55, linewidth=0, zorder=0)
        axes.axhline(len(picked) - 0.5, color=SOFT, linewidth=0.6)
        axes.plot([claim["ci_low"], claim["ci_high"]], [len(picked)] * 2, color=VERMILION, linewidth=3)
        axes.plot(
            [float(claim["estimate"])], [len(picked)], "D", color=VERMILION, markersize=8, markeredgecolor="white"
        )
        names.append("all (T3)")
    zero_line(axes)
    axes.set_yticks(range(rows), names)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("atanh of Spearman ρ(gain, selectivity), mean over layers and tasks")
    axes.grid(axis="x")
    marks = [
        Line2D([], [], marker="o", linestyle="", color=VERMILION, label="specific: own task − other tasks"),
        Line2D([], [], marker="o", linestyle="", color=BLUE, markerfacecolor="white", label="matched: own task"),
    ]
    axes.legend(handles=marks, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


@styled
def task_matrix_figure(associations: Datasets, *, measure: str = "dprime") -> Figure:
    """Gains of each task (rows) against selectivity for each task (columns): z, mean over networks.

    Parameters
    ----------
    associations : ASSOCIATION by network with `z(task, selectivity_task)`.
    """
    matrices = [_select(ASSOCIATION.check(ds), measure)["z"] for ds in associations.values()]
    tasks = matrices[0]["task"].values
    square = [m.sel(task=tasks, selectivity_task=tasks).transpose("task", "selectivity_task") for m in matrices]
    table = np.nanmean([m.values for m in square], axis=0)
    figure = new_figure(4.6, 3.9)
    axes = figure.subplots()
    reach = float(np.nanmax(np.abs(table))) or 1.0
    image = axes.imshow(table, cmap="PuOr_r", vmin=-reach, vmax=reach)
    labels = [str(t) for t in tasks]
    turned = 90 if max(map(len, labels)) > 3 else 0
    axes.set_xticks(range(len(labels)), labels, rotation=turned)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("selectivity measured for task")
    axes.set_ylabel("gains learned for task")
    for k in range(len(labels)):
        axes.add_patch(Rectangle((k - 0.5, k - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=1))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, shrink=0.85)
    bar.set_label("z, mean over layers and networks")
    bar.outline.set_visible(False)
    return figure


@styled
def refit_null_figure(associations: Datasets, *, measure: str = "dprime") -> Figure:
    """Where a null lies when every fitted step is redone on permuted labels, and the matched correlations beside it.

    A diagnostic of location only: a claim is never judged by observed − null.

    Parameters
    ----------
    associations : ASSOCIATION by network; those with `refit_null` are drawn.
    """
    having = {name: ASSOCIATION.check(ds) for name, ds in associations.items() if "refit_null" in ds}
    if not having:
        raise DataError("wanted an association with refit_null; came none; run the job with --full")
    defined = [
        str(layer)
        for ds in having.values()
        for layer in ds["layer"].values
        if np.isfinite(ds["refit_null"].sel(layer=layer)).any()
    ]
    layers = evenly(list(dict.fromkeys(defined)), SHOWN_LAYERS)
    if not layers:
        raise DataError("wanted a refit null of one layer or more; all are undefined; refit more often")
    figure = new_figure(max(3.4 * len(layers), 5.2), 2.6)
    for axes, layer in zip(figure.subplots(1, len(layers), squeeze=False)[0], layers, strict=True):
        here = {name: ds for name, ds in having.items() if layer in ds["layer"].values}
        null = np.concatenate([ds["refit_null"].sel(layer=layer).values.ravel() for ds in here.values()])
        observed = [_matched(_select(ds, measure)["rho"].sel(layer=layer)) for ds in here.values()]
        # the null is a mean over tasks, so what is drawn beside it is one too: a dot a network
        means = [
            np.arctanh(np.clip(rho[np.isfinite(rho)], -0.999, 0.999)).mean()
            for rho in observed
            if np.isfinite(rho).any()
        ]
        axes.hist(null[np.isfinite(null)], bins=20, color=FAINT, edgecolor="white", label="refitted to permuted labels")
        axes.plot(
            means, np.full(len(means), -0.6), "|", color=VERMILION, markersize=9, label="observed, a network each"
        )
        zero_line(axes)
        axes.set_title(layer)
        axes.set_xlabel("atanh ρ(gain, selectivity), mean over tasks")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _matched(rho: xr.DataArray) -> np.ndarray:
    if "selectivity_task" not in rho.dims:
        return np.atleast_1d(rho.values)
    return np.array([float(rho.sel(task=t, selectivity_task=t)) for t in rho["task"].values])


def _select(association: xr.Dataset, measure: str) -> xr.Dataset:
    """One measure, and the only network, of an ASSOCIATION that may carry those dimensions."""
    if "measure" in association.dims:
        association = association.sel(measure=measure)
    return association.squeeze("network", drop=True) if association.sizes.get("network") == 1 else association
