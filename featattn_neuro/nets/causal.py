"""Causal check of saliency: mask the most amplified pixels, or bring them back, and watch the detector's logit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from featattn_neuro.arrays.curves import area_over
from featattn_neuro.arrays.masks import in_pixels
from featattn_neuro.arrays.resampling import t_interval
from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.nets.batches import StimulusSource
from featattn_neuro.nets.excess import input_batches
from featattn_neuro.nets.gain_rows import gain_rows, maps_of_gains
from featattn_neuro.nets.gradient_saliency import Logits, gained_pass, logits_of
from featattn_neuro.nets.hooks import evaluating
from featattn_neuro.nets.loading import Preprocess, load_batches
from featattn_neuro.schema import CAUSAL, SALIENCY

if TYPE_CHECKING:
    import xarray as xr

FILLS = ("blur", "mean")
DIRECTIONS = ("deletion", "insertion")
FRACTIONS = tuple(k / 10 for k in range(11))


def causal_check(
    module: nn.Module,
    gains: xr.Dataset,
    stimuli: StimulusSource,
    saliency: xr.Dataset,
    *,
    maps: Sequence[str] = ("excess", "activation", "random"),
    fill: str = "blur",
    fractions: Sequence[float] = FRACTIONS,
    blur_sd: float | None = None,
    head: str | None = None,
    output: int | Sequence[int] | None = None,
    seed: int = 0,
    preprocess: Preprocess = None,
    batch_size: int = 32,
    device: str | torch.device = "cpu",
) -> xr.Dataset:
    """Deletion and insertion curves (Petsiuk, Das & Saenko 2018) of the gained network's logit.

    Pixels are ranked by a map, placed in the image with the layer's receptive fields; the first share of them is
    replaced by a blurred or mean image (deletion), or put back into that image (insertion).

    Parameters
    ----------
    gains : GAINS whose logits are watched, with all their layers on. saliency : SALIENCY of the same gains and stimuli;
        gain sets and tasks are joined by label.
    maps : variables of `saliency` to rank by ("excess", "activation", "path_integrated", …), and "random": an order
        drawn anew for each image.
    fill : "blur" = Gaussian of SD `blur_sd` pixels (None: an eighth of the longer side); "mean" = each channel's mean
        over the image.
    fractions : shares of the pixels, ascending from 0 to 1.
    head, output : the logit, as in `gain_saliency`.

    Returns
    -------
    CAUSAL : `logit([sets,] direction, map, stimulus, fraction)`; `area` = mean over fractions (trapezoid) of the logit
        minus that at fraction 0; its mean and 95 % t interval over images. A map that is 0 all over an image ("dead" in
        `status`), or one value ("constant"), has no order: NaN, and the mean is over the others. A map that finds what
        drives the logit has a lower deletion area and a higher insertion area than "random" and than "activation".

    Raises
    ------
    DataError : maps of other stimuli, gain sets or layers, of another size of the input, maps or logits that are not
        finite, maps whose place in the image is not known. ConfigError : unknown fill or map, fractions that do not
        ascend from 0 to 1.
    """
    import xarray as xr

    choose(fill, FILLS, "fill")
    steps = np.asarray(fractions, dtype=np.float64)
    if steps.size < 2 or steps[0] != 0 or steps[-1] != 1 or (np.diff(steps) <= 0).any():
        raise ConfigError(f"wanted fractions that ascend from 0 to 1; came {steps.tolist()}; mend them")
    rows, checked = gain_rows(gains), SALIENCY.check(saliency)
    ids = np.asarray(stimuli.id)
    if set(checked["stimulus"].values.tolist()) != set(ids.tolist()):
        raise DataError("wanted maps of the stimuli that are masked; came maps of others; make them from these stimuli")
    if checked.attrs.get("geometry") == "cell index":
        raise DataError(
            "the place of these maps in the image is not known, so no pixel can be masked; use another layer"
        )
    layer = str(checked.attrs.get("layer", ""))
    if layer not in rows.values:
        raise DataError(
            f"wanted maps of a gained layer; came maps of layer {layer!r}; these gains act on "
            f"{', '.join(rows.values)}; make the maps of these gains"
        )
    checked = maps_of_gains(checked.sel(stimulus=ids), rows)
    first, batches = input_batches(stimuli, preprocess, batch_size)
    _check_size(checked, (first.shape[-2], first.shape[-1]))
    for name in maps:
        if name != "random":
            choose(name, _orders(checked), "map")
    place = torch.device(device)
    logits = logits_of(rows, head=head, output=output, device=place)
    factors = [
        {layer: torch.as_tensor(g[row], dtype=torch.float32, device=place) for layer, g in rows.values.items()}
        for row in range(rows.count)
    ]
    found = np.empty((rows.count, len(DIRECTIONS), len(maps), len(ids), len(steps)))
    status = np.full((rows.count, len(maps), len(ids)), "ok", dtype="U8")
    rng = np.random.default_rng(seed)
    with evaluating(module), torch.no_grad(), closing(load_batches(batches, 0)) as loaded:  # type: ignore[type-var]
        for batch in loaded:
            assert batch.images is not None
            images = batch.images[: batch.count].to(place)
            here = slice(batch.start, batch.start + batch.count)
            filled = _filled(images, fill, blur_sd)
            for k, name in enumerate(maps):
                ranks, flat = _ranks(checked.isel(stimulus=here), name, rows.dims, images.shape[-2:], rng)
                status[:, k, here] = flat
                for row in range(rows.count):
                    order = torch.as_tensor(ranks[row if len(ranks) > 1 else 0], device=place)
                    curves = _curves(module, images, filled, order, steps, factors[row], logits, row)
                    found[row, :, k, here] = curves
    # a map without an order masks at random: a curve under its name would be another map's
    found[np.broadcast_to((status != "ok")[:, None], found.shape[:-1])] = np.nan
    area = area_over(steps, found - found[..., :1])
    counts = np.isfinite(area).sum(axis=-1)
    mean = np.where(counts > 0, np.nansum(area, axis=-1) / np.maximum(counts, 1), np.nan)
    ends = np.apply_along_axis(lambda v: np.array(t_interval(v)), -1, area)
    sets = (*rows.dims, "direction", "map")
    return CAUSAL.check(
        xr.Dataset(
            {
                "logit": ((*sets, "stimulus", "fraction"), rows.spread(found)),
                "area": ((*sets, "stimulus"), rows.spread(area)),
                "area_mean": (sets, rows.spread(mean)),
                "area_low": (sets, rows.spread(ends[..., 0])),
                "area_high": (sets, rows.spread(ends[..., 1])),
                "status": ((*rows.dims, "map", "stimulus"), rows.spread(status)),
            },
            coords={
                "direction": list(DIRECTIONS),
                "map": list(maps),
                "fraction": steps,
                "stimulus": ids,
                **stimuli.coordinates(),
                **rows.coordinates(),
            },
            attrs={"kind": "CAUSAL", "fill": fill, "seed": int(seed), "layer": layer},
        )
    )


def _check_size(saliency: xr.Dataset, size: tuple[int, int]) -> None:
    """Places of maps are pixels of the input that they were made at."""
    made = (saliency.attrs.get("image_height", size[0]), saliency.attrs.get("image_width", size[1]))
    if made != size:
        raise DataError(
            f"wanted maps made at the network's input of {size[0]} × {size[1]} pixels; came maps made at {made[0]} × "
            f"{made[1]}; make them with the same preprocessing"
        )


def _orders(saliency: xr.Dataset) -> list[str]:
    """Variables that give every pixel of an image one value to rank it by; the number of a filter is none."""
    places = {"stimulus", "y", "x"}
    return [
        str(name)
        for name, variable in saliency.data_vars.items()
        if set(variable.dims) - {"gain_set", "task"} == places and name != "dominant_channel"
    ]


def _filled(images: Tensor, fill: str, blur_sd: float | None) -> Tensor:
    """What masked pixels show."""
    if fill == "mean":
        return images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    sd = blur_sd if blur_sd is not None else max(images.shape[-2:]) / 8
    if not sd > 0:
        raise ConfigError(f"wanted a blur of SD above 0 pixels; came {sd}; change it")
    # beyond the image its edge goes on; a kernel may not be padded by more than the image has
    radius = int(min(np.ceil(3 * sd), min(images.shape[-2:]) - 1))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=images.device) / sd) ** 2)
    kernel = (kernel / kernel.sum()).to(images.dtype)
    channels = images.shape[1]
    padded = functional.pad(images, (radius,) * 4, mode="replicate")
    rows = functional.conv2d(padded, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return functional.conv2d(rows, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def _ranks(
    saliency: xr.Dataset, name: str, sets: Sequence[str], size: Sequence[int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(S or 1, N, pixels) rank of every pixel, 0 = masked first, and (S or 1, N) why a map has no order, or "ok".

    Ties, as beyond the last cells, are in random order.
    """
    pixels = int(size[0]) * int(size[1])
    count = saliency.sizes["stimulus"]
    jitter = rng.permuted(np.broadcast_to(np.arange(pixels), (count, pixels)), axis=1)
    if name == "random":
        return jitter[None], np.full((1, count), "ok")
    here = [dim for dim in sets if dim in saliency[name].dims]
    values = saliency[name].transpose(*here, "stimulus", "y", "x").values
    cells = values.reshape(-1, count, values.shape[-2] * values.shape[-1])
    if not np.isfinite(cells).all():
        raise DataError(f"map {name!r} is not finite somewhere, so it orders no pixels; choose another map")
    status = np.where(np.ptp(cells, axis=-1) > 0, "ok", np.where((cells == 0).all(axis=-1), "dead", "constant"))
    placed = in_pixels(values, saliency["y"].values, saliency["x"].values, (int(size[0]), int(size[1])))
    flat = placed.reshape(-1, count, pixels)
    order = np.lexsort((np.broadcast_to(jitter, flat.shape), -flat), axis=-1)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(pixels), order.shape), axis=-1)
    return ranks, status


def _curves(
    module: nn.Module,
    images: Tensor,
    filled: Tensor,
    ranks: Tensor,
    steps: np.ndarray,
    factors: Mapping[str, Tensor],
    logits: Logits,
    row: int,
) -> np.ndarray:
    """(direction, image, fraction) logits of one gain set."""
    pixels = ranks.shape[1]
    found = np.empty((len(DIRECTIONS), len(images), len(steps)))
    for k, share in enumerate(steps):
        changed = (ranks < round(share * pixels)).view(len(images), 1, *images.shape[-2:])
        for d, (first, second) in enumerate(((filled, images), (images, filled))):
            z: Any = gained_pass(module, torch.where(changed, first, second), factors, logits)[0]
            found[d, :, k] = z[:, row].double().cpu().numpy()
    return found
