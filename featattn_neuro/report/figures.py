"""Figures of claims, arms, curves and gains. Each takes Datasets by network and returns a matplotlib Figure.

A figure draws stored values and, where many are shown, their plain mean as a mark; it tests nothing and prints no
number that is not in a Dataset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from featattn_neuro.report.style import (
    ARM_COLOURS,
    ARM_LABELS,
    BLUE,
    FAINT,
    INK,
    SKY,
    SOFT,
    VERDICT_COLOURS,
    VERMILION,
    new_figure,
    styled,
    zero_line,
)
from featattn_neuro.schema import CLAIMS, CURVES, DOSES, GAINS, SCORES, SELECTIVITY

Datasets = Mapping[str, xr.Dataset]

MANY_LAYERS = 8
"""Up to so many layers get a panel each."""

CLAIM_TITLES = {"T1": "Transfer", "T2": "Speed", "T3": "Selective gain", "T4": "Saliency"}
CLAIM_UNITS = {
    "T1": "AUC, gain + head − probe",
    "T2": "AUC, gain + head − full fine-tuning",
    "T3": "atanh ρ, matched − mismatched task",
    "T4": "cue swap, SDs of the map",
}


@styled
def claims_figure(claims: xr.Dataset) -> Figure:
    """The four claims side by side: every network, the mean with its 95 % interval, and the band of negligible effects.

    Parameters
    ----------
    claims : CLAIMS.
    """
    claims = CLAIMS.check(claims)
    names = [str(c) for c in claims["claim"].values]
    figure = new_figure(3.0 * len(names), 2.4)
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        _one_claim(axes, claims.sel(claim=name), name)
    return figure


def _one_claim(axes: Axes, claim: xr.Dataset, name: str) -> None:
    verdict = str(claim["verdict"].item())
    colour = VERDICT_COLOURS[verdict]
    axes.set_title(f"{name}  {CLAIM_TITLES.get(name, '')}", color=INK)
    axes.set_xlabel(CLAIM_UNITS.get(name, ""), fontsize=8)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(-0.75, 0.6)
    axes.set_title(verdict.replace("_", " "), loc="right", color=colour, fontsize=9, weight="bold")
    bound = float(claim["bound"])
    values = claim["per_network"].values.astype(float)
    if np.isfinite(bound):
        axes.axvspan(-bound, bound, color=FAINT, alpha=0.55, linewidth=0, zorder=0)
    zero_line(axes)
    if not np.isfinite(values).any():
        axes.text(0.5, 0.4, "not tested", transform=axes.transAxes, ha="center", color=SOFT)
        return
    axes.plot(values, spread(len(values), 0.16) - 0.38, "o", color=colour, alpha=0.55, markersize=5, markeredgewidth=0)
    low, high, mean = (float(claim[v]) for v in ("ci_low", "ci_high", "estimate"))
    if np.isfinite(low) and np.isfinite(high):
        axes.plot([low, high], [0.2, 0.2], color=colour, linewidth=3, solid_capstyle="round")
    axes.plot([mean], [0.2], "D", color=colour, markersize=7, markeredgecolor="white")
    reach = np.nanmax(np.abs([*values, mean, low, high, 0 if np.isnan(bound) else bound]))
    axes.set_xlim(min(-0.35 * reach, 1.15 * np.nanmin([*values, low, -bound])), 1.15 * reach)
    axes.locator_params(axis="x", nbins=5)


@styled
def arms_figure(scores: Datasets) -> Figure:
    """ROC area of every arm: one dot per network (mean over tasks), a bar for the mean over networks.

    Where the reference training left classes out, novel and trained tasks are drawn apart in a second panel.

    Parameters
    ----------
    scores : SCORES by network.
    """
    checked = {name: SCORES.check(ds) for name, ds in scores.items()}
    arms = [a for a in ARM_LABELS if all(a in ds["arm"].values for ds in checked.values())]
    areas = [_per_task(ds["auc"], ds) for ds in checked.values()]
    novel = [ds.get("novel") for ds in checked.values()]
    apart = all(n is not None and 0 < int(n.sum()) < n.size for n in novel)
    figure = new_figure(9.6 if apart else 5.6, 0.42 * len(arms) + 1.1)
    panels = figure.subplots(1, 2 if apart else 1, sharey=True, squeeze=False)[0]
    _arm_rows(panels[0], arms, [("", "o", _task_means(areas, arms))])
    panels[0].set_title(f"All tasks · {len(areas)} networks")
    if apart:
        groups = [
            (label, marker, _task_means([a.where(n == flag) for a, n in zip(areas, novel, strict=True)], arms))
            for label, marker, flag in (("novel to the network", "o", 1), ("trained before", "s", 0))
        ]
        _arm_rows(panels[1], arms, groups)
        panels[1].set_title("Novel and trained classes apart")
        marks = [
            Line2D([], [], marker=m, color=SOFT, linestyle="", markerfacecolor=SOFT if m == "o" else "white")
            for _, m, _ in groups
        ]
        # above the rows: with many arms, nowhere among them is room
        panels[1].legend(
            marks, [label for label, _, _ in groups], loc="lower left", bbox_to_anchor=(0, 1), ncols=2,
            handletextpad=0.2, borderaxespad=0.1,
        )  # fmt: skip
        for axes in panels:
            axes.set_title(axes.get_title(loc="left"), pad=22)
    for axes in panels:
        axes.set_xlabel("ROC area on test composites")
    return figure


def _per_task(areas: xr.DataArray, dataset: xr.Dataset) -> xr.DataArray:
    return areas.squeeze("network", drop=True) if "network" in dataset["auc"].dims else areas


def _task_means(areas: Sequence[xr.DataArray], arms: Sequence[str]) -> np.ndarray:
    """(network, arm) mean over tasks."""
    return np.array([a.mean("task").sel(arm=list(arms)).values for a in areas])


def _arm_rows(axes: Axes, arms: Sequence[str], groups: Sequence[tuple[str, str, np.ndarray]]) -> None:
    offsets = [0.0] if len(groups) == 1 else [-0.17, 0.17]
    for (_, marker, values), offset in zip(groups, offsets, strict=True):
        for row, arm in enumerate(arms):
            if not np.isfinite(values[:, row]).any():
                continue
            height = 0.30 if len(groups) == 1 else 0.15
            y = row + offset + spread(len(values), height * 0.55)
            face = ARM_COLOURS[arm] if marker == "o" else "white"
            look: dict[str, Any] = {"color": ARM_COLOURS[arm], "markerfacecolor": face, "markersize": 5, "alpha": 0.85}
            axes.plot(values[:, row], y, marker, **look)
            mean = np.nanmean(values[:, row])
            axes.plot([mean, mean], [row + offset - height, row + offset + height], color=INK, linewidth=1.8)
    for row in range(len(arms)):
        if not any(np.isfinite(values[:, row]).any() for _, _, values in groups):
            axes.text(
                0.02, row, "not applicable", transform=axes.get_yaxis_transform(), va="center", color=SOFT, fontsize=8
            )
    axes.set_yticks(range(len(arms)), [ARM_LABELS[a] for a in arms])
    axes.set_ylim(len(arms) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


@styled
def curves_figure(curves: Datasets) -> Figure:
    """Learning curves over updates and over examples per class: thin = one network, thick = mean over networks.

    Parameters
    ----------
    curves : CURVES by network; panels appear for the axes that every network has.
    """
    checked = [CURVES.check(ds) for ds in curves.values()]
    titles = {"updates": "All examples", "examples": "Few examples"}
    labels = {"updates": "optimiser updates", "examples": "targets and distractors per class"}
    axes_names = [a for a in titles if all(f"auc_{a}" in ds for ds in checked)]
    figure = new_figure(4.6 * max(len(axes_names), 1), 3.2)
    panels = np.atleast_1d(figure.subplots(1, max(len(axes_names), 1), sharey=True))
    for axes, name in zip(panels, axes_names, strict=True):
        means = [_without_network(ds[f"auc_{name}"]).mean("task") for ds in checked]
        _curve_panel(axes, means, name)
        axes.set_title(titles[name])
        axes.set_xlabel(labels[name])
        axes.grid(axis="y")
    panels[0].set_ylabel("ROC area on test composites,\nmean over tasks")
    panels[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))  # many lines: nowhere among them is room
    return figure


def _without_network(values: xr.DataArray) -> xr.DataArray:
    return values.mean("network") if "network" in values.dims else values


def _curve_panel(axes: Axes, means: Sequence[xr.DataArray], name: str) -> None:
    at = means[0][name].values
    if name == "examples":
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(list(map(float, at))))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    arms = [a for a in ARM_LABELS if all(a in m["arm"].values for m in means)]
    for arm in arms:
        lines = np.array([m.sel(arm=arm).values for m in means])
        lines = lines[np.isfinite(lines).any(axis=1)]
        if not len(lines):  # the arm applies to none of the networks
            continue
        thin = (0.3, 0.8) if len(arms) <= 6 else (0.15, 0.6)
        axes.plot(at, lines.T, color=ARM_COLOURS[arm], alpha=thin[0], linewidth=thin[1])
        axes.plot(
            at,
            lines.mean(axis=0),
            color=ARM_COLOURS[arm],
            linewidth=2.2,
            marker="o",
            markersize=3.5,
            label=ARM_LABELS[arm],
        )


@styled
def gains_figure(gains: Datasets, *, arm: str = "gain") -> Figure:
    """How large the learned gains are: all filters and tasks, a histogram per layer (networks of one design pooled).

    Networks of different designs, or with more than eight gained layers, get a histogram each instead. The grey band
    is 5–30 % up or down, the range reported for attention in visual cortex.

    Parameters
    ----------
    gains : GAINS by network.
    arm : which arm, where the Datasets have several.
    """
    picked = {name: one_arm(GAINS.check(ds), arm) for name, ds in gains.items()}
    layers = common_layers(picked)
    if layers and len(layers) <= MANY_LAYERS:
        values = {
            layer: np.concatenate([of_layer(ds["gain"], layer).ravel() for ds in picked.values()]) for layer in layers
        }
    else:
        values = {name: ds["gain"].values.ravel() for name, ds in picked.items()}
    rows, columns = 1 + (len(values) - 1) // 4, min(len(values), 4)
    figure = new_figure(3.1 * columns, 2.4 * rows)
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    positive = np.concatenate([v[v > 0] for v in values.values()])
    reach = max(1.3, float(np.exp(np.abs(np.log(positive)).max()))) if positive.size else 2.0
    edges = np.geomspace(1 / reach, reach, 42)
    for axes, (title, found) in zip(grid.ravel(), values.items(), strict=False):
        axes.axvspan(1.05, 1.30, color=FAINT, alpha=0.8, linewidth=0)
        axes.axvspan(1 / 1.30, 1 / 1.05, color=FAINT, alpha=0.8, linewidth=0)
        axes.hist(found, bins=edges.tolist(), color=VERMILION, alpha=0.85)
        axes.axvline(1, color=INK, linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(LogLocator(base=2 if reach < 8 else 8))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}" if v >= 1 else f"1/{1 / v:g}"))
        axes.set_title(title)
        axes.set_xlabel("gain")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    for axes in grid.ravel()[len(values) :]:
        axes.set_visible(False)
    grid[0, 0].set_ylabel("how many")
    return figure


@styled
def doses_figure(doses: Datasets) -> Figure:
    """ROC area over the size of the gains (SD of log gain, mean over layers and tasks): a line per network.

    The grey band is 5–30 % up or down, the range reported for attention in visual cortex.

    Parameters
    ----------
    doses : DOSES by network.
    """
    figure = new_figure(4.8, 3.2)
    axes = figure.subplots()
    axes.axvspan(np.log(1.05), np.log(1.30), color=FAINT, alpha=0.8, linewidth=0)
    for dataset in (DOSES.check(ds) for ds in doses.values()):
        area, size = dataset["auc"].mean("task"), dataset["sd_log_gain"].mean(("layer", "task"))
        axes.plot(size, area, color=VERMILION, alpha=0.35, linewidth=0.9)
        for dose in dataset["dose"].values:
            learned = bool(dose == 1)
            face = VERMILION if learned else "white"
            axes.plot(
                size.sel(dose=dose), area.sel(dose=dose), "o", color=VERMILION, markerfacecolor=face, markersize=4.5
            )
    axes.set_xlabel("SD of log gain (mean over layers and tasks)")
    axes.set_ylabel("ROC area on test composites,\nmean over tasks")
    axes.grid(axis="y")
    marks = [Line2D([], [], marker="o", linestyle="", color=VERMILION, markerfacecolor=c) for c in (VERMILION, "white")]
    axes.legend(
        marks, ["gains as learned", "other doses"], loc="lower right", bbox_to_anchor=(1, 1), ncols=2, handletextpad=0.2
    )
    return figure


@styled
def live_filters_figure(selectivity: Datasets) -> Figure:
    """Live and dead filters per layer and network: dead ones are counted, not dropped silently.

    Parameters
    ----------
    selectivity : SELECTIVITY by network, with `live`.
    """
    checked = {name: SELECTIVITY.check(ds) for name, ds in selectivity.items()}
    layers = common_layers(checked)
    if layers and len(layers) <= MANY_LAYERS:
        return _live_by_layer(checked, layers)
    figure = new_figure(8.4, 1.5 * len(checked) + 0.5)
    panels = figure.subplots(len(checked), 1, squeeze=False)[:, 0]
    for axes, (name, dataset) in zip(panels, checked.items(), strict=True):
        counts = np.array([_live_and_dead(dataset, layer) for layer in layer_names(dataset)])
        at = np.arange(len(counts))
        axes.bar(at, counts[:, 0], color=BLUE, width=0.8, label="live")
        axes.bar(at, counts[:, 1], bottom=counts[:, 0], label="dead", linewidth=0.6, **_DEAD)
        axes.set_title(name)
        axes.set_ylabel("filters")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[-1].set_xlabel("layer, in order of depth")
    panels[0].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


_DEAD: dict[str, Any] = {"color": "white", "edgecolor": SKY, "hatch": "////"}


def _live_by_layer(selectivity: Datasets, layers: Sequence[str]) -> Figure:
    figure = new_figure(2.6 * len(layers), 0.26 * len(selectivity) + 1.2)
    panels = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
    for axes, layer in zip(panels, layers, strict=True):
        for row, dataset in enumerate(selectivity.values()):
            live, dead = _live_and_dead(dataset, layer)
            axes.barh(row, live, color=BLUE, height=0.66, label="live" if row == 0 else None)
            look = {**_DEAD, "label": "dead" if row == 0 else None, "linewidth": 0.6, "height": 0.66}
            axes.barh(row, dead, left=live, **look)
        axes.set_title(layer)
        axes.set_xlabel("filters")
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(selectivity)), list(selectivity))
    panels[0].invert_yaxis()
    panels[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _live_and_dead(dataset: xr.Dataset, layer: str) -> tuple[int, int]:
    live = dataset["live"].values[dataset["layer"].values == layer]
    return int((live == 1).sum()), int((live == 0).sum())


def common_layers(datasets: Datasets) -> list[str]:
    """The layers, in order, if every network has the same ones; else nothing."""
    found = [layer_names(ds) for ds in datasets.values()]
    return found[0] if all(names == found[0] for names in found) else []


def evenly(names: Sequence[str], count: int) -> list[str]:
    """At most `count` names, first and last among them, evenly spread.

    >>> evenly(["a", "b", "c", "d", "e"], 3), evenly(["a", "b"], 3)
    (['a', 'c', 'e'], ['a', 'b'])
    """
    if len(names) <= count:
        return list(names)
    return [names[k] for k in np.linspace(0, len(names) - 1, count).round().astype(int)]


def one_arm(gains: xr.Dataset, arm: str) -> xr.Dataset:
    for dim in ("arm", "gain_set"):
        if dim in gains.dims and arm in gains[dim].values:
            return gains.sel({dim: arm})
    return gains


def layer_names(dataset: xr.Dataset) -> list[str]:
    return list(dict.fromkeys(map(str, dataset["layer"].values)))


def of_layer(values: xr.DataArray, layer: str) -> np.ndarray:
    return values.isel(unit=np.flatnonzero(values["layer"].values == layer)).values


def spread(count: int, half_width: float) -> np.ndarray:
    """Positions that keep equal values apart; the same for the same count."""
    return np.linspace(-half_width, half_width, count) if count > 1 else np.zeros(count)
