"""Pictures of saliency: image, un-gained, gained, difference and strongest filters in rows; contact sheets per task.

Maps are placed in the image by the centres and strides of the layer's cells; values are never rescaled image by image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.report.style import FAINT, new_figure, number, objects_title, styled
from featattn_neuro.schema import SALIENCY
from featattn_neuro.schema.saliency import RELATIVE_GAUGE

DIVERGING, SEQUENTIAL = "RdBu_r", "cividis"
"""Colour maps that a colour-blind reader can use; the diverging one is white at zero."""
ORDERS = ("most", "least")
Extent = tuple[float, float, float, float]


class Scales(NamedTuple):
    """Ends of the colour scales, in units of the maps: of plain and gained maps, of differences, of single filters."""

    low: float
    high: float
    excess: float
    filters: float


def common_scales(shown: Iterable[tuple[xr.Dataset, str | None, Sequence[str]]]) -> Scales:
    """One scale for several pictures: what the maps of all of them reach.

    Parameters
    ----------
    shown : for each picture its SALIENCY, its task (None: there is one) and the ids of its images.
    """
    low, high, excess, filters = 0.0, 0.0, 0.0, 0.0
    for saliency, task, ids in shown:
        maps = _one_set(SALIENCY.check(saliency), task).sel(stimulus=list(ids))
        excess = max(excess, _largest(maps["excess"].values))
        filters = max(filters, _largest(maps["top_map"].values) if "top_map" in maps else 0.0)
        if "activation" in maps:
            both = np.stack([maps["activation"].values, (maps["activation"] + maps["excess"]).values])
            low, high = min(low, float(np.nanmin(both))), max(high, _largest(both))
    return Scales(-(high or 1.0) if low < 0 else 0.0, high or 1.0, excess or 1.0, filters or excess or 1.0)


def gain_symbol(saliency: xr.Dataset) -> str:
    """What multiplies A in the sums of these maps: "g", or "g/ḡ" where they are relative to the layer's mean gain.

    >>> gain_symbol(xr.Dataset(attrs={"gauge": "gain divided by the layer's mean"}))
    'g/ḡ'
    """
    return "g/ḡ" if saliency.attrs.get("gauge") == RELATIVE_GAUGE else "g"


def chosen_images(saliency: xr.Dataset, count: int, *, which: str = "most", task: str | None = None) -> list[str]:
    """Ids of the images that the gains change most, or least: by the mean |excess| over places (and tasks).

    Parameters
    ----------
    saliency : SALIENCY. count : how many. which : "most" or "least". task : only this task's maps.
    """
    choose(which, ORDERS, "choice of images")
    excess = _one_set(SALIENCY.check(saliency), task, keep_tasks=True)["excess"]
    size = abs(excess).mean([d for d in excess.dims if d != "stimulus"]).values
    if count < 1:
        raise ConfigError(f"count must be 1 or more; came {count}; change it")
    order = np.argsort(-size if which == "most" else size, kind="stable")[:count]
    return [str(one) for one in saliency["stimulus"].values[order]]


@styled
def saliency_overlays(
    images: Mapping[str, np.ndarray],
    saliency: xr.Dataset,
    *,
    task: str | None = None,
    titles: Mapping[str, str] | None = None,
    filters: int = 3,
    scales: Scales | None = None,
    raw: bool = False,
) -> Figure:
    """One row per image: the image, un-gained Σ A, gained Σ g A, their difference, and the strongest filters.

    Where the maps are relative to the layer's mean gain ḡ, g stands for g/ḡ, and titles and scales say so.

    Parameters
    ----------
    images : stimulus id → (height, width) or (height, width, 3), as the network sees it: resized and cropped.
    saliency : SALIENCY with activation, and `top_map` for the filters. task : which, where there are several.
    titles : id → text beside the image. filters : at most so many of the strongest filters.
    scales : of `common_scales`, where several pictures are to be compared; None: what these images reach.
    raw : the images are as they were before the network's preprocessing; maps then lie where it looked.

    Un-gained and gained share one scale from 0; differences and filters one that is centred at zero, the same for all
    images. Differences are laid over the image, fainter where they are smaller.

    Raises
    ------
    DataError : no image, an image without maps or of another size than the network's input, maps without activation,
        several tasks and none named.
    """
    maps = _one_set(SALIENCY.check(saliency), task)
    if "activation" not in maps:
        raise DataError("overlays show the un-gained map too; the maps have no activation; make them for one task")
    ids = _known(images, maps)
    shown = min(filters, maps.sizes.get("rank", 0))
    plain = maps["activation"].sel(stimulus=ids).values
    excess = maps["excess"].sel(stimulus=ids).values
    top = maps["top_map"].sel(stimulus=ids).values[:, :shown] if shown else np.zeros((len(ids), 0, *excess.shape[1:]))
    low, high, reach, filter_reach = scales if scales is not None else common_scales([(saliency, task, ids)])
    columns = 4 + shown
    figure = new_figure(1.35 * columns + 1.2, 1.4 * len(ids) + 0.9)
    grid = figure.subplots(len(ids), columns, squeeze=False)
    handles: dict[str, Any] = {}
    for row, name in enumerate(ids):
        image = images[name]
        extent = placed_extent(maps, image, raw=raw)
        _image(grid[row, 0], image)
        for column, values in ((1, plain[row]), (2, plain[row] + excess[row])):
            handles["plain"] = _map(grid[row, column], values, extent, image, SEQUENTIAL, low, high)
        handles["excess"] = _overlay(grid[row, 3], image, excess[row], extent, reach)
        for k in range(shown):
            axes = grid[row, 4 + k]
            handles["top"] = _map(axes, top[row, k], extent, image, DIVERGING, -filter_reach, filter_reach)
            channel = int(maps["top_channel"].sel(stimulus=name).values[k])
            axes.set_xlabel(f"filter {channel}", fontsize=7.5, labelpad=2)
        if titles and titles.get(name):
            grid[row, 0].set_ylabel(titles[name].replace("|", " + "), fontsize=8.5, rotation=90, labelpad=4)
    # with upstream gains on, the plain sum is not that of the un-gained network
    plain_head = "Σ A, gains upstream" if maps.attrs.get("upstream_gains") == "on" else "un-gained Σ A"
    symbol = gain_symbol(maps)
    gained = f"Σ {symbol} A" if symbol == "g" else f"Σ ({symbol}) A"
    heads = ["image", plain_head, f"gained {gained}", "difference", *(f"strongest {k + 1}" for k in range(shown))]
    for axes, text in zip(grid[0], heads, strict=True):
        axes.set_title(text, fontsize=8.5, weight="normal", loc="center", pad=4)
    _bar(figure, handles["plain"], grid[:, 1:3], f"Σ A, {gained}")
    _bar(figure, handles["excess"], grid[:, 3:4], f"Σ ({symbol} − 1) A")
    if shown:
        _bar(figure, handles["top"], grid[:, 4:], f"({symbol} − 1) A of one filter")
    return figure


@styled
def contact_sheet(
    images: Mapping[str, np.ndarray],
    saliency: xr.Dataset,
    *,
    task: str | None = None,
    titles: Mapping[str, str] | None = None,
    columns: int = 6,
    scales: Scales | None = None,
    raw: bool = False,
) -> Figure:
    """Many images of one task: each image above its difference map, in the order given; one scale for all.

    Parameters as in `saliency_overlays`; `columns` images stand side by side.
    """
    maps = _one_set(SALIENCY.check(saliency), task)
    ids = _known(images, maps)
    excess = maps["excess"].sel(stimulus=ids).values
    reach = (scales if scales is not None else common_scales([(saliency, task, ids)])).excess
    wide = min(columns, len(ids))
    blocks = -(-len(ids) // wide)
    figure = new_figure(1.25 * wide + 0.9, 2.75 * blocks + 0.6)
    grid = figure.subplots(2 * blocks, wide, squeeze=False)
    handle = None
    for axes in grid.flat:
        axes.set_visible(False)
    for k, name in enumerate(ids):
        upper, lower = grid[2 * (k // wide), k % wide], grid[2 * (k // wide) + 1, k % wide]
        for axes in (upper, lower):
            axes.set_visible(True)
        _image(upper, images[name])
        parts = (titles or {}).get(name, "").split("|")
        upper.set_title(
            objects_title(parts), fontsize=8 if len(parts) < 3 else 6.5, weight="normal", loc="center", pad=3
        )
        handle = _overlay(lower, images[name], excess[k], placed_extent(maps, images[name], raw=raw), reach)
        mean = float(np.abs(excess[k]).mean())
        lower.set_xlabel(f"mean |·| {number(mean, 2)}", fontsize=7.5, labelpad=2)
    _bar(figure, handle, grid, f"Σ ({gain_symbol(maps)} − 1) A")
    if task is not None:
        figure.suptitle(f"cued: {task}", fontsize=10, weight="bold", x=0.01, ha="left")
    return figure


def _one_set(saliency: xr.Dataset, task: str | None, *, keep_tasks: bool = False) -> xr.Dataset:
    if "gain_set" in saliency.dims and saliency.sizes["gain_set"] > 1:
        names = [str(n) for n in saliency["gain_set"].values]
        raise DataError(f"wanted maps of one gain set; came {', '.join(names)}; select one with .sel(gain_set=…)")
    one = saliency.isel(gain_set=0, drop=True) if "gain_set" in saliency.dims else saliency
    if "task" not in one.dims:
        return one
    names = [str(name) for name in one["task"].values]
    if task is None and len(names) > 1:
        if keep_tasks:
            return one
        raise DataError(f"these maps are of {len(names)} tasks ({', '.join(names)}); say which with task=")
    return one.sel(task=choose(names[0] if task is None else task, names, "task"), drop=True)


def _known(images: Mapping[str, np.ndarray], maps: xr.Dataset) -> list[str]:
    there = set(maps["stimulus"].values.tolist())
    missing = [name for name in images if name not in there]
    if missing or not images:
        came = f"no map of image {missing[0][:12]!r}" if missing else "no image"
        raise DataError(f"wanted images that have maps; came {came}; pass images by the ids of the maps")
    return list(images)


def _largest(values: np.ndarray) -> float:
    return float(np.nanmax(np.abs(values))) if values.size else 0.0


def placed_extent(maps: xr.Dataset, image: np.ndarray, *, raw: bool = False) -> Extent:
    """Left, right, bottom, top of the map in the image that is shown, so that every cell lies on its centre.

    Parameters
    ----------
    image : as the network sees it, resized and cropped; or `raw`, as it was before.

    Where the layer's geometry is not known, the map is stretched over what the network sees.

    Raises
    ------
    DataError : an image of another size than the maps say: where the network's input lies in it is not known.
    """
    height, width = image.shape[:2]
    attrs: Mapping[str, Any] = maps.attrs
    known = raw and "raw_height" in attrs
    seen = int(attrs.get("image_height", height)), int(attrs.get("image_width", width))
    wanted = (int(attrs["raw_height"]), int(attrs["raw_width"])) if known else seen
    if wanted != (height, width):
        how = "raw" if known else "as the network sees them"
        raise DataError(
            f"wanted pictures of {wanted[0]} × {wanted[1]} pixels, {how}; came {height} × {width}; "
            + ("pass those that the maps were made of" if known else "resize and crop them as the network does")
        )
    ends = {"top": 0.0, "left": 0.0, "bottom": float(height), "right": float(width)}
    window = [float(attrs[f"input_{side}"]) if known else at for side, at in ends.items()]
    down, across = (window[2] - window[0]) / seen[0], (window[3] - window[1]) / seen[1]
    y, x = maps["y"].values, maps["x"].values
    strides = float(attrs.get("stride_y", -1)), float(attrs.get("stride_x", -1))
    if attrs.get("geometry") == "cell index" or min(strides) <= 0:
        return window[1], window[3], window[2], window[0]
    # pixel k reaches from k to k + 1 in the picture, its centre is k + .5
    left, right = x[0] + 0.5 - strides[1] / 2, x[-1] + 0.5 + strides[1] / 2
    top, bottom = y[0] + 0.5 - strides[0] / 2, y[-1] + 0.5 + strides[0] / 2
    return (
        window[1] + left * across,
        window[1] + right * across,
        window[0] + bottom * down,
        window[0] + top * down,
    )


def _image(axes: Axes, image: np.ndarray) -> None:
    height, width = image.shape[:2]
    axes.imshow(image, cmap="gray" if image.ndim == 2 else None, extent=(0, width, height, 0))
    _bare(axes, image)


def _map(
    axes: Axes, values: np.ndarray, extent: Extent, image: np.ndarray, colours: str, low: float, high: float
) -> Any:
    handle = axes.imshow(values, cmap=colours, vmin=low, vmax=high, extent=extent)
    _bare(axes, image)
    return handle


def _overlay(axes: Axes, image: np.ndarray, values: np.ndarray, extent: Extent, reach: float) -> Any:
    height, width = image.shape[:2]
    grey = image[..., :3].mean(axis=-1) if image.ndim == 3 else image
    low, high = float(grey.min()), float(grey.max())
    # pale, so that dark and bright places of the image give the colours the same ground
    low, high = low - 4 * (high - low or 1.0), high or 1.0
    axes.imshow(grey, cmap="gray", vmin=low, vmax=high, extent=(0, width, height, 0))
    strength = np.clip(np.abs(np.nan_to_num(values)) / reach, 0, 1) ** 0.5
    handle = axes.imshow(values, cmap=DIVERGING, vmin=-reach, vmax=reach, extent=extent, alpha=0.15 + 0.85 * strength)
    _bare(axes, image)
    return handle


def _bare(axes: Axes, image: np.ndarray) -> None:
    axes.set_xlim(0, image.shape[1])
    axes.set_ylim(image.shape[0], 0)
    axes.set_facecolor(FAINT)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _bar(figure: Figure, handle: Any, axes: Sequence[Axes] | np.ndarray, label: str) -> None:
    from matplotlib.cm import ScalarMappable

    if handle is None:
        return
    # a mappable of its own: an overlay's transparency does not belong to the scale
    wide = np.atleast_2d(np.asarray(axes)).shape[1]
    bar = figure.colorbar(
        ScalarMappable(norm=handle.norm, cmap=handle.cmap), ax=axes, location="bottom",
        shrink=0.9 if wide < 4 else 0.5, aspect=12 * wide * (1 if wide < 4 else 0.6), pad=0.02,
    )  # fmt: skip
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
