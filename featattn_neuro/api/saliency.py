"""Where in the images gains amplify: maps, scores against masks, the causal check, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from featattn_neuro.api._shared import as_stimuli
from featattn_neuro.errors import ConfigError
from featattn_neuro.io.masks import read_boxes, read_segmentations
from featattn_neuro.io.saliency_store import saliency_store
from featattn_neuro.io.stimuli import Stimuli, load_stimuli
from featattn_neuro.io.store import open_kind
from featattn_neuro.measures.localisation import localisation
from featattn_neuro.nets.adapters import Network, as_network
from featattn_neuro.nets.causal import causal_check as _causal_check
from featattn_neuro.nets.hooks import placed
from featattn_neuro.nets.loading import usual_workers
from featattn_neuro.nets.permuted_scores import permuted_scores
from featattn_neuro.nets.plan import select_layers
from featattn_neuro.nets.saliency import gain_saliency as _gain_saliency
from featattn_neuro.nets.saliency import saliency_by_layer as _saliency_by_layer


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
    """
    network = as_network(model)
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
    **options: Any,
) -> dict[str, xr.Dataset]:
    """Saliency at several layers, from one pass over the images: layer to SALIENCY.

    Parameters
    ----------
    layers : names or patterns, as in `learn_gains`.
    options : keywords of `featattn_neuro.nets.saliency.saliency_by_layer`,
        such as `methods`, `task`, `top`, `relative`, `dtype`.
    """
    network = as_network(model)
    images, preprocess = as_stimuli(stimuli, network)
    with placed(network.module, device) as place:
        return _saliency_by_layer(
            network.module, gains, images, select_layers(network.module, layers), preprocess=preprocess,
            head=network.head, device=place, **options,
        )  # fmt: skip


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

    See `featattn_neuro.nets.causal.causal_check` for `options` (`maps`, `fill`, `fractions`, `output`, `seed`).
    """
    network = as_network(model)
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
    permutations : gains permuted within the layer (0 = no null), by `seed`.

    Returns
    -------
    AGREEMENT, see `featattn_neuro.measures.localisation.localisation`.
    """
    network = as_network(model)
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
    tasks = [str(task) for task in saliency["task"].values] if "task" in saliency.dims else None
    chosen = gains if tasks is None or "task" not in gains.dims else gains.sel(task=tasks)
    layer, null = str(saliency.attrs["layer"]), None
    if permutations:
        with placed(network.module, device) as place:
            null = permuted_scores(
                network.module, chosen, images, [layer], masks, permutations=permutations, seed=seed,
                preprocess=preprocess, device=place,
                relative_to_mean=saliency.attrs.get("gauge") == "gain divided by the layer's mean",
            )  # fmt: skip
    return localisation({layer: saliency}, masks, null=null)


def picture_saliency(
    stimuli: Any, saliency: xr.Dataset, folder: str | Path, *, count: int = 12, which: str = "most", svg: bool = False
) -> list[Path]:
    """Overlay panels and a contact sheet of every task, of the images that the gains change most, or least.

    Parameters
    ----------
    stimuli : those of the maps. folder : is made; `overlays_TASK.png` (or .svg) shows the first four images,
        `sheet_TASK.png` all `count`.

    Returns
    -------
    The files, in the order of the tasks.
    """
    from featattn_neuro.report.saliency_overlays import chosen_images, contact_sheet, saliency_overlays
    from featattn_neuro.report.style import save_figure

    images = stimuli if isinstance(stimuli, Stimuli) else load_stimuli(stimuli, label=None)
    order = {name: k for k, name in enumerate(images.id.tolist())}
    suffix, files = ".svg" if svg else ".png", []
    tasks = [str(task) for task in saliency["task"].values] if "task" in saliency.dims else [None]
    for task in tasks:
        ids = chosen_images(saliency, count, which=which, task=task)
        shown = {name: _shown(images[order[name]]) for name in ids}
        titles = {} if images.label is None else {name: str(images.label[order[name]]) for name in ids}
        name = "" if task is None else "_" + "".join(c if c.isalnum() or c in "-." else "_" for c in task)
        first = {one: shown[one] for one in ids[:4]}
        for what, figure in (
            ("overlays", saliency_overlays(first, saliency, task=task, titles=titles)),
            ("sheet", contact_sheet(shown, saliency, task=task, titles=titles)),
        ):
            files.append(save_figure(figure, Path(folder) / f"{what}{name}{suffix}"))
    return files


def _shown(raw: np.ndarray) -> np.ndarray:
    """A raw image as a picture: (H, W) grey or (H, W, 3)."""
    if raw.dtype == np.uint8:
        return raw
    return raw[0] if len(raw) == 1 else np.clip(raw[:3].transpose(1, 2, 0), 0, 1)
