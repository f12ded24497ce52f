"""How well saliency finds marked objects: four scores, each beside that of plain activation, centre bias, and nulls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from featattn_neuro.arrays.localisation import LOCALISERS, centre_bias, localise
from featattn_neuro.arrays.masks import (
    MASK_CELLS,
    cell_edges,
    cued_objects,
    distractors,
    named_tasks,
    on_grid,
    resolved_objects,
    united_objects,
)
from featattn_neuro.arrays.resampling import permutation_p, share_interval, t_interval
from featattn_neuro.errors import DataError
from featattn_neuro.measures._join import aligned, single, without_scalars
from featattn_neuro.measures.saliency_agreement import RESOLVED_SHARE
from featattn_neuro.schema import AGREEMENT, MASKS, SALIENCY

OWN_MAPS = ("excess", "activation", "centre")
"""Maps that are always scored: what gains amplify, plain activation, and a map that knows nothing of the image."""


def localisation(
    saliency: Mapping[str, xr.Dataset],
    masks: xr.Dataset,
    *,
    baselines: Mapping[str, Mapping[str, xr.Dataset]] | None = None,
    null: xr.DataArray | None = None,
    agreement: xr.Dataset | None = None,
) -> xr.Dataset:
    """Pointing game, mass in mask minus area, AUC-Judd and energy against the distractor, image by image.

    Parameters
    ----------
    saliency : layer → SALIENCY with `activation`; with a coordinate `task`, a dimension or the one name of its maps, an
        object is cued where its label is a task; without one, or where no object has a label, the first object is.
        Objects of an image that one task cues count as one: none of them is another's background or distractor.
    masks : MASKS of the same stimuli, in pixels of the network's input. They are averaged over the cells of a layer's
        map, which lie where the maps say (`y`, `x` and strides); without that, cells are taken to tile the image.
    baselines : name → layer → SALIENCY to be scored likewise, for instance of a randomised network.
    null : (localiser, layer, permutation) of `permuted_scores`; its mean, and a two-sided p.
    agreement : AGREEMENT of `saliency_agreement` to add to; None = a new one without a cue swap (`layer_score` NaN).

    Returns
    -------
    AGREEMENT with `localisation(localiser, map, layer, stimulus)`, its mean over the cued objects of an image; mean,
    95 % interval over images (`localisation_mean`, `_low`, `_high`; Student's t, of the pointing game that of a share)
    and `localisation_status`: "dead" where all maps are 0, "too_few" where no image has a score (no distractor, no mask
    left on the grid). All but the cue swap are positive for plain brightness: read "excess" beside "activation".

    Raises
    ------
    DataError : masks of other stimuli or of another size, maps without activation, no object whose label is a task.

    Notes
    -----
    The image is the sampling unit of the intervals; networks are replicates one level up.
    """
    if not saliency:
        raise DataError("wanted maps of one layer or more; came none; make them with gain_saliency")
    flags = MASKS.check(without_scalars(masks))
    first = without_scalars(next(iter(saliency.values())))
    ids = first["stimulus"].values
    aligned(flags["mask"], "stimulus", ids, name="the masks", to="the maps")
    flags = flags.sel(stimulus=ids)
    names = [*OWN_MAPS, *(baselines or {})]
    values = np.full((len(LOCALISERS), len(names), len(saliency), len(ids)), np.nan)
    dead = np.zeros((len(names), len(saliency)), dtype=bool)
    share = np.zeros(len(saliency))
    cells = []
    for k, (layer, maps) in enumerate(saliency.items()):
        several = {"excess": maps, **{name: by_layer[layer] for name, by_layer in (baselines or {}).items()}}
        scored, dead[:, k], share[k] = _layer(layer, several, flags, ids)
        values[:, :, k] = scored
        cells.append(MASK_CELLS[_edges(maps) is not None])
    found = _dataset(values, dead, names, dict(zip(saliency, cells, strict=True)), share, first, agreement)
    if null is not None:
        found = _with_null(found, null)
    return AGREEMENT.check(found)


def _layer(
    layer: str, several: Mapping[str, xr.Dataset], flags: xr.Dataset, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """(localiser, map, stimulus) scores of one layer, which maps are 0 throughout, share of images resolved."""
    checked = {name: _checked(layer, one, flags, ids) for name, one in several.items()}
    maps = checked["excess"]
    grid, edges = (maps.sizes["y"], maps.sizes["x"]), _edges(maps)
    labels = flags["object_label"].values if "object_label" in flags.coords else None
    tasks = _tasks(several["excess"], labels)
    cued = cued_objects(labels, tasks, (flags.sizes["stimulus"], flags.sizes["object"]))
    if (cued < 0).all():
        raise DataError(f"no object of the masks is labelled as a task ({', '.join(tasks or [])}); name the objects so")
    masks, cued = united_objects(flags["mask"].transpose("stimulus", "object", "y", "x").values, cued)
    weights = on_grid(masks, grid, edges=edges)
    others = distractors(weights) if weights.shape[1] > 1 else None
    plain = maps["activation"].transpose("stimulus", "y", "x").values
    centre = centre_bias(grid, edges=edges, size=(flags.sizes["y"], flags.sizes["x"]))
    sources: list[np.ndarray] = [_by_task(maps), plain[None], np.broadcast_to(centre, plain.shape)[None]]
    for name, one in checked.items():
        if name != "excess":
            _same_tasks(name, _tasks(several[name], labels), tasks)
            sources.append(_by_task(one))
    scored = np.stack([_over_objects(source, weights, others, cued) for source in sources], axis=1)
    # an object that is not in the image leaves nothing on the grid either
    resolved = float(resolved_objects(weights, present=masks.any(axis=(2, 3))).mean())
    return scored, np.array([not np.nan_to_num(source).any() for source in sources]), resolved


def _edges(maps: xr.Dataset) -> tuple[np.ndarray, np.ndarray] | None:
    """Edges of the cells of a layer's map, rows and columns, pixels of the network's input; None if not known."""
    strides = float(maps.attrs.get("stride_y", -1)), float(maps.attrs.get("stride_x", -1))
    if maps.attrs.get("geometry") == "cell index" or min(strides) <= 0:
        return None
    return cell_edges(maps["y"].values, strides[0]), cell_edges(maps["x"].values, strides[1])


def _checked(layer: str, maps: xr.Dataset, flags: xr.Dataset, ids: np.ndarray) -> xr.Dataset:
    one = SALIENCY.check(single(without_scalars(maps), ("gain_set",), name=f"the maps of {layer}"))
    if "activation" not in one:
        raise DataError(
            f"a score of the excess map means nothing without that of plain activation; the maps of {layer!r} have "
            "none; make them without upstream gains, or for one task"
        )
    size = one.attrs.get("image_height", flags.sizes["y"]), one.attrs.get("image_width", flags.sizes["x"])
    if size != (flags.sizes["y"], flags.sizes["x"]):
        raise DataError(
            f"wanted masks of {size[0]} × {size[1]} pixels, the size of the network's input; came {flags.sizes['y']} × "
            f"{flags.sizes['x']}; make them for the images as the network sees them"
        )
    aligned(one["excess"], "stimulus", ids, name=f"the maps of {layer}", to="the maps of the first layer")
    return one.sel(stimulus=ids)


def _tasks(maps: xr.Dataset, labels: np.ndarray | None) -> list[str] | None:
    if "task" in maps["excess"].dims:
        return [str(task) for task in maps["task"].values]
    return named_tasks(labels, str(maps["task"].item()) if "task" in maps.coords else None)


def _same_tasks(name: str, came: list[str] | None, tasks: list[str] | None) -> None:
    if came != tasks:
        raise DataError(f"wanted the same tasks in baseline {name!r}; came {came}, not {tasks}; use the same gains")


def _by_task(maps: xr.Dataset) -> np.ndarray:
    """(task, stimulus, y, x) excess."""
    excess = maps["excess"].transpose(..., "stimulus", "y", "x").values
    return excess if excess.ndim == 4 else excess[None]


def _over_objects(source: np.ndarray, weights: np.ndarray, others: np.ndarray | None, cued: np.ndarray) -> np.ndarray:
    """(localiser, stimulus): mean over the cued objects of each image."""
    total = np.zeros((len(LOCALISERS), len(weights)))
    count = np.zeros_like(total)
    for o in range(weights.shape[1]):
        here = np.flatnonzero(cued[:, o] >= 0)
        if not here.size:
            continue
        task = cued[here, o] if len(source) > 1 else np.zeros(here.size, dtype=np.int64)
        away = None if others is None else others[here, o]
        scores = localise(source[task, here], weights[here, o], away)
        scores[:, weights[here, o].sum(axis=(1, 2)) == 0] = np.nan  # nothing of the object is left on the grid
        known = np.isfinite(scores)
        total[:, here] += np.where(known, scores, 0)
        count[:, here] += known
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _dataset(
    values: np.ndarray,
    dead: np.ndarray,
    names: list[str],
    cells: Mapping[str, str],
    share: np.ndarray,
    first: xr.Dataset,
    agreement: xr.Dataset | None,
) -> xr.Dataset:
    layers = list(cells)
    if agreement is not None:
        base = AGREEMENT.check(without_scalars(agreement)).copy()
        unknown = [layer for layer in layers if layer not in base["layer"].values]
        if unknown:
            raise DataError(f"layer {unknown[0]!r} of the maps is not in the agreement; score the same layers")
        order = [layers.index(str(layer)) if str(layer) in layers else -1 for layer in base["layer"].values]
        absent = np.array(order) < 0
        values, dead = values[:, :, order].copy(), dead[:, order]
        values[:, :, absent] = np.nan
        same = first["stimulus"].values
        if set(same.tolist()) != set(base["stimulus"].values.tolist()):
            raise DataError("wanted maps of the composites of the agreement; came others; score the same stimuli")
        base = base.sel(stimulus=same)
    else:
        known = [n for n in ("label", "split", "constituents", "path") if n in first.coords]
        coordinates: dict[str, Any] = {"layer": layers, "stimulus": first["stimulus"], **{n: first[n] for n in known}}
        base = xr.Dataset(
            {
                "layer_score": ("layer", np.full(len(layers), np.nan)),
                "status": ("layer", np.full(len(layers), "too_few")),
                "usable": ("layer", (share >= RESOLVED_SHARE).astype(np.int64)),
                "share_resolved": ("layer", share),
                "mask_cells": ("layer", list(cells.values())),
            },
            coordinates,
            {"kind": "AGREEMENT"},
        )
    values[:, dead] = np.nan  # the area under the ROC of a map of zeros is .5 by its ties alone
    ends = np.array([_intervals(block, name) for block, name in zip(values, LOCALISERS, strict=True)])
    known_any = np.isfinite(values).any(axis=-1)
    counts = np.maximum(np.isfinite(values).sum(axis=-1), 1)
    mean = np.where(known_any, np.nansum(values, axis=-1) / counts, np.nan)
    status = np.where(dead[None], "dead", np.where(known_any, "ok", "too_few"))
    dims = ("localiser", "map", "layer")
    return base.assign(
        localisation=((*dims, "stimulus"), values),
        localisation_mean=(dims, mean),
        localisation_low=(dims, ends[..., 0]),
        localisation_high=(dims, ends[..., 1]),
        localisation_status=(dims, status),
    ).assign_coords(localiser=list(LOCALISERS), map=names)


def _intervals(block: np.ndarray, localiser: str) -> list[list[tuple[float, float]]]:
    """95 % intervals over images (map, layer): of a share for the pointing game, which is hit or missed, else t."""
    if localiser == "pointing_game":
        return [[share_interval(np.clip(one, 0, 1)) for one in row] for row in block]  # 1 + rounding is 1
    return [[t_interval(one) for one in row] for row in block]


def _with_null(found: xr.Dataset, null: xr.DataArray) -> xr.Dataset:
    unknown = [str(layer) for layer in null["layer"].values if layer not in found["layer"].values]
    if unknown:
        raise DataError(f"the null has layer {unknown[0]!r}, the maps do not; permute the gains of the same layers")
    draws = null.reindex(layer=found["layer"].values, localiser=found["localiser"].values)
    draws = draws.transpose("localiser", "layer", "permutation")
    observed = found["localisation_mean"].sel(map="excess").transpose("localiser", "layer").values
    p = [
        # maps of permuted gains are float32: equal gains are no less extreme than their own permutations
        [permutation_p(float(o), d, rounding=1e-6) for o, d in zip(*row, strict=True)]
        for row in zip(observed, draws.values, strict=True)
    ]
    return found.assign(
        localisation_null=(("localiser", "layer", "permutation"), draws.values),
        localisation_p=(("localiser", "layer"), np.array(p)),
    )
