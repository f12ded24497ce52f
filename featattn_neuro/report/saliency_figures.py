"""Figures of saliency: maps over images with one signed scale, and the cue-swap scores of the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from featattn_neuro.errors import DataError
from featattn_neuro.report.figures import MANY_LAYERS, spread
from featattn_neuro.report.style import BLUE, FAINT, GREEN, INK, PURPLE, SOFT, VERMILION, new_figure, styled, zero_line
from featattn_neuro.schema import AGREEMENT

Datasets = Mapping[str, xr.Dataset]
LOCALISER_LABELS = {
    "pointing_game": "pointing game",
    "mass_in_mask": "mass in mask − area",
    "auc_judd": "AUC-Judd",
    "energy": "energy vs. distractor",
}


@styled
def saliency_panels(
    images: Sequence[np.ndarray],
    maps: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    *,
    map_titles: Sequence[Sequence[str]] | None = None,
    extents: Sequence[tuple[float, float, float, float]] | None = None,
    label: str = "excess  Σ (g − 1) A",
) -> Figure:
    """Images in the top row; below each, its maps. One diverging scale, centred at zero, for all maps.

    Parameters
    ----------
    images : n arrays (height, width) or (height, width, 3); any range, shown as grey or RGB.
    maps : n sequences with the same number of signed arrays (rows, columns), statistics-free, at the layer's own grid.
    titles : n texts above the images.
    map_titles : n sequences of texts above the maps.
    extents : n times left, right, bottom, top of the maps in pixels of the image shown, see `placed_extent`; None: maps
        fill their images.
    label : what the colour scale shows, with its units.

    Raises
    ------
    DataError : the sequences differ in length, or there is nothing to show.
    """
    counts = {len(one) for one in (images, maps, titles, map_titles, extents) if one is not None}
    if len(counts) != 1 or not images or len({len(m) for m in maps}) != 1:
        raise DataError(
            f"wanted as many images, maps and titles, and as many maps for each image; came {len(images)} images, "
            f"{len(maps)} maps, {len(titles)} titles; pass one entry per image"
        )
    rows = 1 + len(maps[0])
    figure = new_figure(1.45 * len(images) + 1.1, 1.55 * rows + 0.2)
    grid = figure.subplots(rows, len(images), squeeze=False)
    reach = max(float(np.nanmax(np.abs(m))) for several in maps for m in several) or 1.0
    shown = None
    for column, image in enumerate(images):
        _picture(grid[0, column], image, titles[column])
        for row, values in enumerate(maps[column], start=1):
            axes = grid[row, column]
            height, width = image.shape[:2]
            extent = (0, width, height, 0) if extents is None else extents[column]
            shown = axes.imshow(values, cmap="RdBu_r", vmin=-reach, vmax=reach, extent=extent)
            _outline(axes, image)
            axes.set(xlim=(0, width), ylim=(height, 0))
            _bare(axes, map_titles[column][row - 1] if map_titles is not None else "")
    if shown is not None:
        bar = figure.colorbar(shown, ax=grid[1:, :], shrink=0.8, aspect=30)
        bar.set_label(label)
        bar.outline.set_visible(False)
    return figure


def _picture(axes: Axes, image: np.ndarray, title: str) -> None:
    if image.ndim == 2:
        axes.imshow(image, cmap="gray", extent=(0, image.shape[1], image.shape[0], 0))
    else:
        axes.imshow(image, extent=(0, image.shape[1], image.shape[0], 0))
    _bare(axes, title)


def _outline(axes: Axes, image: np.ndarray) -> None:
    """The image as faint contour lines, so that a map can be read against what was shown."""
    grey = image if image.ndim == 2 else image[..., :3].mean(axis=-1)
    low, high = float(grey.min()), float(grey.max())
    if high > low:
        height, width = grey.shape
        at = np.arange(width) + 0.5, np.arange(height) + 0.5
        axes.contour(*at, grey, levels=[low + 0.25 * (high - low)], colors=INK, linewidths=0.5, alpha=0.7)


def _bare(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=8.5, weight="normal", loc="center", pad=3)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


@styled
def agreement_figure(agreements: Datasets) -> Figure:
    """Cue-swap score per layer: a dot per network, against the range (mean ± 2 SD) under gains permuted in the layer.

    Layers whose grid does not resolve the masks are hollow: they are no part of the claim.

    Parameters
    ----------
    agreements : AGREEMENT by network.
    """
    checked = [AGREEMENT.check(ds) for ds in agreements.values()]
    layers = list(dict.fromkeys(str(layer) for ds in checked for layer in ds["layer"].values))
    height = max(0.55, 0.085 * len(checked)) if len(layers) <= MANY_LAYERS else 0.2  # each network has its own line
    figure = new_figure(5.8, height * len(layers) + 1.2)
    axes = figure.subplots()
    for row, layer in enumerate(layers):
        here = [ds for ds in checked if layer in ds["layer"].values]
        for dataset, offset in zip(here, spread(len(here), 0.24), strict=True):
            at = dataset.sel(layer=layer)
            if "null_mean" in at and "null_sd" in at:
                mean, sd = float(at["null_mean"]), float(at["null_sd"])
                axes.plot([mean - 2 * sd, mean + 2 * sd], [row + offset] * 2, color="#b9c1ca", linewidth=3, zorder=2)
            face = VERMILION if int(at["usable"]) else "white"
            axes.plot(
                [float(at["layer_score"])], [row + offset], "o", color=VERMILION, markerfacecolor=face, markersize=6,
                zorder=4,
            )  # fmt: skip
    zero_line(axes)
    axes.set_yticks(range(len(layers)), layers)
    axes.set_ylim(len(layers) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=FAINT)
    axes.set_xlabel("cue-swap score, SDs of the map (> 0: the cued object is amplified)")
    marks = [
        Line2D([], [], marker="o", linestyle="", color=VERMILION, label="a network"),
        Line2D([], [], marker="o", linestyle="", color=VERMILION, markerfacecolor="white", label="grid too coarse"),
        Line2D([], [], color="#b9c1ca", linewidth=3, label="gains permuted, ± 2 SD"),
    ]
    axes.legend(handles=marks, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, labelcolor=SOFT)
    return figure


@styled
def localisation_figure(agreements: Datasets) -> Figure:
    """Pointing game, mass in mask, AUC-Judd and energy per layer: excess beside plain activation and centre bias.

    A panel per score, a row per layer, a colour per map; a dot per network, at its mean over images. Layers whose grid
    does not resolve the masks are left out.

    Parameters
    ----------
    agreements : AGREEMENT by network, with `localisation_mean`.
    """
    checked = [AGREEMENT.check(ds) for ds in agreements.values() if "localisation_mean" in ds]
    if not checked:
        raise DataError("wanted maps that were scored against masks; came none; add them with localisation(…)")
    localisers = [str(name) for name in checked[0]["localiser"].values]
    maps = list(dict.fromkeys(str(name) for ds in checked for name in ds["map"].values))
    named = [(str(layer), ds) for ds in checked for layer in ds["layer"].values[ds["usable"].values == 1]]
    layers = list(dict.fromkeys(layer for layer, _ in named))
    figure = new_figure(2.3 * len(localisers) + 1.0, (0.62 if len(layers) <= MANY_LAYERS else 0.24) * len(layers) + 1.3)
    grid = figure.subplots(1, len(localisers), squeeze=False, sharey=True)[0]
    colours = dict(zip(maps, (VERMILION, BLUE, "#9aa5b1", GREEN, PURPLE), strict=False))
    for axes, localiser in zip(grid, localisers, strict=True):
        for row, layer in enumerate(layers):
            here = [ds for name, ds in named if name == layer]
            for k, name in enumerate(maps):
                scored = [ds["localisation_mean"].sel(localiser=localiser, layer=layer) for ds in here]
                values = [float(one.sel(map=name)) for one in scored if name in one["map"].values]
                at = row + 0.22 * (k - (len(maps) - 1) / 2)
                axes.plot(values, [at] * len(values), "o", color=colours.get(name, INK), markersize=4.5, alpha=0.85)
        chance = {"mass_in_mask": 0.0, "auc_judd": 0.5, "energy": 0.5}.get(localiser)
        if chance is not None:
            axes.axvline(chance, color=SOFT, linewidth=0.8, zorder=1)
        axes.set_title(LOCALISER_LABELS.get(localiser, localiser), fontsize=9)
        axes.grid(axis="x", color=FAINT)
        axes.tick_params(axis="y", length=0)
    grid[0].set_yticks(range(len(layers)), layers)
    grid[0].set_ylim(len(layers) - 0.45, -0.55)
    labels = {
        "excess": "excess (gains)", "activation": "plain Σ A", "centre": "centre bias", "randomised": "weights shuffled"
    }  # fmt: skip
    marks = [Line2D([], [], marker="o", linestyle="", color=colours.get(n, INK), label=labels.get(n, n)) for n in maps]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(maps), labelcolor=SOFT)
    return figure
