"""Where in the images gains amplify: maps, scores against masks, the causal check, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from featattn_neuro.api._shared import as_stimuli, check_same_weights
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.io.masks import read_boxes, read_segmentations
from featattn_neuro.io.saliency_store import layer_file, saliency_store, saliency_stores
from featattn_neuro.io.stimuli import Stimuli, load_stimuli
from featattn_neuro.io.store import open_kind
from featattn_neuro.measures.localisation import localisation
from featattn_neuro.nets.adapters import Network, as_network
from featattn_neuro.nets.causal import causal_check as _causal_check
from featattn_neuro.nets.datasets import DatasetStimuli, is_torch_source
from featattn_neuro.nets.gain_rows import gains_of_maps
from featattn_neuro.nets.hooks import placed
from featattn_neuro.nets.loading import usual_workers
from featattn_neuro.nets.permuted_scores import permuted_scores
from featattn_neuro.nets.plan import select_layers
from featattn_neuro.nets.preprocessing import preprocessing_of
from featattn_neuro.nets.saliency import gain_saliency as _gain_saliency
from featattn_neuro.nets.saliency import saliency_by_layer as _saliency_by_layer
from featattn_neuro.schema.saliency import RELATIVE_GAUGE


def gain_saliency(
    model: nn.Module | Network,
    gains: xr.Dataset,
    stimuli: Any,
    *,
    layer: str,
    task: str | Sequence[str] | None = None,
    upstream: bool = False,
    relative_to_mean: bool = False,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    methods: str | Iterable[str] = "excess",
    relative: bool | None = None,
    live: xr.DataArray | None = None,
    output: int | Sequence[int] | None = None,
    top: int = 0,
    dtype: str = "float64",
    workers: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> xr.Dataset:
    """Where in the images the gains of a layer amplify: S(y, x) = sum over filters k of (g_k - 1) A_k(y, x).

    Parameters
    ----------
    methods : further maps beside the excess: "class_weighted", "gain_gradient", "gradcam", "path" (integrated gradients
        along the gains), one or several. They explain the logit of the read-out that the gains carry, or with `output`
        that of the network's output of this index.
    relative : sum g A / sum A - 1 too. None: where the layer's maps are nowhere negative; True: refuse signed maps.
    top : also the maps of the `top` filters that contribute most to each image.
    out : file to write while the maps are made, .zarr or .nc: memory then holds one batch, whatever the number of
        images. `overwrite` replaces a file of that name.

    See `featattn_neuro.nets.saliency.gain_saliency` for the other parameters and units; `stimuli` as in `record`.

    Returns
    -------
    SALIENCY : `excess(stimulus, y, x)` (with `task`, `gain_set` in front for several), signed, units of the layer's
        output; y and x in pixels of the network's input. All g = 1 gives exactly 0. Opened lazily with `out`.

    Raises
    ------
    DataError : gains of other weights, with shifts or per position; a layer without positions, activations that are not
        finite, images of another size than the network takes, relative amplification of maps that are negative
        somewhere. ConfigError : unknown layer, method, task or dtype, a device that is not here. StoreError : a file
        that is there without `overwrite`, or cannot be written.
    """
    network = as_network(model)
    check_same_weights(network, gains)
    images, preprocess = as_stimuli(stimuli, network)
    with placed(network.module, device) as place:
        run = partial(
            _gain_saliency, network.module, gains, images, layer=layer, task=task, preprocess=preprocess,
            upstream=upstream, relative_to_mean=relative_to_mean, batch_size=batch_size, device=place, methods=methods,
            relative=relative, live=live, head=network.head, output=output, top=top, dtype=dtype,
            workers=usual_workers(images, batch_size) if workers is None else workers,
        )  # fmt: skip
        if out is None:
            return run()
        with saliency_store(out, overwrite=overwrite) as sink:
            run(sink=sink)
    return open_kind(out, "SALIENCY")


def saliency_by_layer(
    model: nn.Module | Network,
    gains: xr.Dataset,
    stimuli: Any,
    layers: str | Iterable[str],
    *,
    device: str | torch.device | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    **options: Any,
) -> dict[str, xr.Dataset]:
    """Saliency at several layers, from one pass over the images: layer to SALIENCY.

    Parameters
    ----------
    layers : names or patterns, as in `learn_gains`.
    out : folder for one file a layer, LAYER.zarr, written while the maps are made: memory then holds one batch.
        `overwrite` replaces files of those names.
    options : keywords of `featattn_neuro.nets.saliency.saliency_by_layer`,
        such as `methods`, `task`, `top`, `relative`, `dtype`.

    Returns
    -------
    Layer to SALIENCY, as of `gain_saliency`; opened lazily with `out`.

    Raises
    ------
    ConfigError, DataError, StoreError : as in `gain_saliency`.
    """
    network = as_network(model)
    check_same_weights(network, gains)
    images, preprocess = as_stimuli(stimuli, network)
    names = select_layers(network.module, layers)
    with placed(network.module, device) as place:
        run = partial(
            _saliency_by_layer, network.module, gains, images, names, preprocess=preprocess, head=network.head,
            device=place, **options,
        )  # fmt: skip
        if out is None:
            return run()
        with saliency_stores(out, names, overwrite=overwrite) as sinks:
            run(sinks=sinks)
    return {layer: open_kind(layer_file(out, layer), "SALIENCY") for layer in names}


def causal_check(
    model: nn.Module | Network,
    gains: xr.Dataset,
    stimuli: Any,
    saliency: xr.Dataset,
    *,
    device: str | torch.device | None = None,
    **options: Any,
) -> xr.Dataset:
    """What masking the most amplified pixels does to the detector's logit: deletion and insertion curves (CAUSAL).

    Parameters
    ----------
    gains : GAINS whose logits are watched, with all their layers on. stimuli : as in `record`.
    saliency : SALIENCY of the same gains and stimuli, joined by label.
    options : `maps` to rank pixels by ("excess", "activation", "random"), `fill` ("blur" or "mean"), `fractions` of the
        pixels from 0 to 1, `blur_sd` in pixels, `output` (the logit), `seed`, `batch_size`.

    Returns
    -------
    CAUSAL : `logit([sets,] direction, map, stimulus, fraction)`, units of the logit; `area`, its mean over fractions
    minus that at fraction 0, with mean and 95 % t interval over images. NaN and a status where a map has no order.

    Raises
    ------
    DataError : gains of other weights, maps of other stimuli, gain sets, layers or input size, maps or logits that are
        not finite. ConfigError : unknown fill or map, fractions that do not ascend from 0 to 1, a device that is not
        here.

    Notes
    -----
    Petsiuk, Das & Saenko 2018; `featattn_neuro.nets.causal.causal_check` has the options in full.
    """
    network = as_network(model)
    check_same_weights(network, gains)
    images, preprocess = as_stimuli(stimuli, network)
    with placed(network.module, device) as place:
        return _causal_check(
            network.module, gains, images, saliency, preprocess=preprocess, head=network.head, device=place, **options
        )  # fmt: skip


def score_saliency(
    model: nn.Module | Network,
    gains: xr.Dataset,
    stimuli: Any,
    saliency: xr.Dataset,
    *,
    boxes: str | Path | None = None,
    segments: str | Path | None = None,
    masks: xr.Dataset | None = None,
    permutations: int = 1000,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> xr.Dataset:
    """Scores of one layer's maps against marked objects, with plain activation, centre bias and permuted gains beside.

    Parameters
    ----------
    saliency : SALIENCY of `gain_saliency`, with activation. boxes : CSV table; segments : folder of PNG; masks : MASKS;
        one of the three, in pixels of the images as the network sees them.
    permutations : gains permuted within the layer (0 = no null), by `seed`; maps of permuted gains are made as these
        were: gains of the same tasks, by label, the same filters left out, gains of other layers on or off.

    Returns
    -------
    AGREEMENT, see `featattn_neuro.measures.localisation.localisation`.

    Raises
    ------
    ConfigError : none or several of boxes, segments and masks, a device that is not here. DataError : gains of other
        weights, several gain sets, maps without activation, masks of other stimuli, of another size or without an
        object of a task, boxes or segments that cannot be used.
    """
    network = as_network(model)
    check_same_weights(network, gains)
    images, preprocess = as_stimuli(stimuli, network)
    given = [one for one in (boxes, segments, masks) if one is not None]
    if len(given) != 1:
        raise ConfigError(f"wanted one of boxes, segments and masks; came {len(given)}; give one")
    size = int(saliency.attrs["image_height"]), int(saliency.attrs["image_width"])
    if boxes is not None:
        masks = read_boxes(boxes, images, size)
    elif segments is not None:
        masks = read_segmentations(segments, images, size)
    assert masks is not None
    layer, null = str(saliency.attrs["layer"]), None
    if permutations:
        chosen = gains_of_maps(gains, saliency)
        one = chosen.squeeze("gain_set") if "gain_set" in chosen.dims and chosen.sizes["gain_set"] == 1 else chosen
        with placed(network.module, device) as place:
            null = permuted_scores(
                network.module, one, images, [layer], masks, permutations=permutations, seed=seed,
                preprocess=preprocess, device=place, live=_live_filters(saliency, one),
                upstream=saliency.attrs.get("upstream_gains") == "on",
                relative_to_mean=saliency.attrs.get("gauge") == RELATIVE_GAUGE,
            )  # fmt: skip
    return localisation({layer: saliency}, masks, null=null)


def _live_filters(saliency: xr.Dataset, gains: xr.Dataset) -> xr.DataArray | None:
    """Which filters the maps are the sum of, over the units of the gains; None: all."""
    dropped = [int(k) for k in str(saliency.attrs.get("filters_left_out", "")).split(",") if k]
    if not dropped:
        return None
    gone = (gains["layer"] == saliency.attrs["layer"]).values & np.isin(gains["channel"].values, dropped)
    return xr.DataArray(~gone, {"unit": gains["unit"].values}, "unit")


def picture_saliency(
    stimuli: Any,
    saliency: xr.Dataset,
    folder: str | Path,
    *,
    count: int = 12,
    which: str = "most",
    show: Sequence[str] | None = None,
    svg: bool = False,
) -> list[Path]:
    """Overlay panels and a contact sheet of every task, of the images that the gains change most, or least, or of some.

    Parameters
    ----------
    stimuli : those of the maps, or some of them, as in `gain_saliency`.
    folder : is made; `overlays_TASK.png` (or .svg) shows the first four
        images, `sheet_TASK.png` all `count`.
    show : which images instead: ids, beginnings of ids, or paths within the set; every task then shows these.

    Images are shown as the network saw them, resized and cropped; all pictures of a call share their colour scales.

    Returns
    -------
    The files, in the order of the tasks.

    Raises
    ------
    DataError : no picture has a map, a name in `show` is of no image or several, images with another number of channels
        than 1 or 3. ConfigError : an empty `show`.
    """
    from featattn_neuro.report.saliency_overlays import (
        chosen_images,
        common_scales,
        contact_sheet,
        saliency_overlays,
    )
    from featattn_neuro.report.style import save_figure

    if show is not None and not len(show):
        raise ConfigError("wanted one image or more in show; came none; name some, or leave show out")
    images: Stimuli | DatasetStimuli
    if isinstance(stimuli, Stimuli):
        images = stimuli
    else:
        images = DatasetStimuli(stimuli) if is_torch_source(stimuli) else load_stimuli(stimuli, label=None)
    order = {name: k for k, name in enumerate(images.id.tolist())}
    known = [name for name in saliency["stimulus"].values.tolist() if name in order]
    if not known:
        raise DataError(
            f"no picture has a map: none of the {len(order)} images is among the {saliency.sizes['stimulus']} of the "
            "maps; pass the images that the maps were made of"
        )
    maps = saliency.sel(stimulus=known)
    preprocess = preprocessing_of(maps.attrs)

    def shown(name: str) -> np.ndarray:
        raw = images[order[name]]
        return _shown(raw) if preprocess is None else preprocess.picture(raw)

    suffix, files = ".svg" if svg else ".png", []
    tasks = [str(task) for task in maps["task"].values] if "task" in maps.dims else [None]
    named = None if show is None else [_named(one, known, images, order) for one in show]
    ids = {task: named or chosen_images(maps, count, which=which, task=task) for task in tasks}
    scales = common_scales((maps, task, ids[task]) for task in tasks)
    for task in tasks:
        pictures = {name: shown(name) for name in ids[task]}
        titles = {} if images.label is None else {name: str(images.label[order[name]]) for name in pictures}
        name = "" if task is None else "_" + "".join(c if c.isalnum() or c in "-." else "_" for c in task)
        first = {one: pictures[one] for one in ids[task][:4]}
        for what, figure in (
            ("overlays", saliency_overlays(first, maps, task=task, titles=titles, scales=scales)),
            ("sheet", contact_sheet(pictures, maps, task=task, titles=titles, scales=scales)),
        ):
            files.append(save_figure(figure, Path(folder) / f"{what}{name}{suffix}"))
    return files


def _named(wanted: str, known: Sequence[str], images: Stimuli | DatasetStimuli, order: Mapping[str, int]) -> str:
    """The id of the one image with maps that has this path, or whose id begins so."""
    paths = images.path
    found = [name for name in known if paths is not None and str(paths[order[name]]) == wanted]
    found = found or [name for name in known if name.startswith(wanted)]
    if len(found) != 1:
        raise DataError(
            f"wanted one image whose id begins with {wanted!r}, or of that path; came {len(found)} with maps; "
            "write more of the id"
        )
    return found[0]


def _shown(raw: np.ndarray) -> np.ndarray:
    """A raw image as a picture: (H, W) grey or (H, W, 3)."""
    if raw.dtype == np.uint8:
        return raw
    if len(raw) not in (1, 3):
        raise DataError(
            f"wanted images of 1 or 3 channels to draw; came {len(raw)}; pass stimuli with the same ids that a picture "
            "can show"
        )
    return raw[0] if len(raw) == 1 else np.clip(raw.transpose(1, 2, 0), 0, 1)
