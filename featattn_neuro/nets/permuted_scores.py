"""Null of localisation scores: gains permuted within the layer, on maps that are made once and reused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from featattn_neuro.arrays.localisation import LOCALISERS, localise_many
from featattn_neuro.arrays.masks import cued_objects, distractors, named_tasks, on_grid, united_objects
from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.nets.batches import StimulusSource
from featattn_neuro.nets.excess import (
    ExcessOptions,
    check_gains,
    excess_gains,
    finite,
    input_batches,
    maps_of,
    run_network,
)
from featattn_neuro.nets.gain_rows import GainRows, gain_rows
from featattn_neuro.nets.gains import with_gains
from featattn_neuro.nets.hooks import evaluating, hooked
from featattn_neuro.nets.loading import Preprocess, load_batches
from featattn_neuro.nets.masked_maps import check_size, mask_edges
from featattn_neuro.nets.saliency import live_filters
from featattn_neuro.schema import MASKS

if TYPE_CHECKING:
    import xarray as xr


def permuted_scores(
    module: nn.Module,
    gains: xr.Dataset,
    stimuli: StimulusSource,
    layers: Sequence[str],
    masks: xr.Dataset,
    *,
    permutations: int = 1000,
    seed: int = 0,
    relative_to_mean: bool = False,
    live: xr.DataArray | None = None,
    upstream: bool = False,
    preprocess: Preprocess = None,
    batch_size: int = 32,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> xr.DataArray:
    """Mean over images of every localisation score, gains permuted over the live filters of the layer.

    Parameters
    ----------
    gains : GAINS over unit, and perhaps task, which says what objects are cued, as in `measures.localisation`.
    masks : MASKS of the same stimuli, in pixels of the network's input.
    permutations, seed : one permutation serves all tasks and all images; the draw starts anew in every layer.
    relative_to_mean, live, upstream : as in `gain_saliency`; use those of the maps that are compared with this null.
        Gains of the other layers are not permuted; with them on, one gain set at a time.

    Returns
    -------
    (localiser, layer, permutation), the variable `localisation_null` of AGREEMENT. The network runs once per image;
    memory holds one batch of filters' maps.

    Raises
    ------
    DataError : masks of other stimuli or another size, no object whose label is a task.
    """
    import xarray as xr

    if permutations < 1:
        raise ConfigError(f"wanted 1 permutation or more; came {permutations}; change it")
    rows = gain_rows(gains)
    if "gain_set" in rows.dims:
        raise DataError("gains are permuted within one gain set; came several; select one along gain_set first")
    if upstream and rows.count > 1:
        raise DataError(f"with upstream gains on, maps are permuted for one task; came {rows.count}; select one")
    for layer in layers:
        choose(layer, rows.values, "gained layer")
    ids = np.asarray(stimuli.id)
    flags = MASKS.check(masks)
    if set(flags["stimulus"].values.tolist()) != set(ids.tolist()):
        raise DataError("wanted masks of the same stimuli; came masks of others; make them from these stimuli")
    flags = flags.sel(stimulus=ids)
    shape = (flags.sizes["stimulus"], flags.sizes["object"])
    labels = flags["object_label"].values if "object_label" in flags else None
    tasks = rows.labels["task"].tolist() if "task" in rows.dims else named_tasks(labels, rows.name("task"))
    cued = cued_objects(labels, tasks, shape)
    if (cued < 0).all():
        raise DataError(f"no object of the masks is labelled as a task ({', '.join(tasks or [])}); name the objects so")
    values, cued = united_objects(flags["mask"].transpose("stimulus", "object", "y", "x").values, cued)
    options = ExcessOptions(
        relative_to_mean=relative_to_mean,
        live={} if live is None else {layer: live_filters(rows, layer, live) for layer in layers},
    )
    shuffled = {layer: _shuffled(rows, layer, options, permutations, seed) for layer in layers}
    sums = {layer: _Mean(len(LOCALISERS), permutations) for layer in layers}
    maps: dict[str, torch.Tensor] = {}

    def keep(layer: str) -> Any:
        def hook(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            maps[layer] = maps_of(output, layer, batch_size).detach().float().clone()

        return hook

    image, batches = input_batches(stimuli, preprocess, batch_size)
    size = image.shape[-2], image.shape[-1]
    check_size((flags.sizes["y"], flags.sizes["x"]), size)
    place = torch.device(device)
    check_gains(module, rows, image.to(place))
    places = mask_edges(module, layers, image.to(place), size=size)
    with (
        evaluating(module),
        torch.no_grad(),
        # first our hooks, then the gains: a layer's own gains are not in its map
        hooked(module, {layer: keep(layer) for layer in layers}),
        with_gains(module, rows.row(0)) if upstream else nullcontext(),
        closing(load_batches(batches, 0)) as loaded,  # type: ignore[type-var]
    ):
        for batch in loaded:
            assert batch.images is not None
            run_network(module, batch.images.to(place))
            here = slice(batch.start, batch.start + batch.count)
            for layer in layers:
                finite(layer, maps[layer][: batch.count])
                one = maps.pop(layer)[: batch.count].cpu().numpy()
                shape = one.shape[2], one.shape[3]
                weights = on_grid(values[here], shape, edges=places[layer])
                _score(one, weights, cued[here], shuffled[layer], sums[layer])
            if progress is not None:
                progress(here.stop, len(ids))
    scores = np.stack([sums[layer].value() for layer in layers], axis=1)
    return xr.DataArray(
        scores, {"localiser": list(LOCALISERS), "layer": list(layers)}, ("localiser", "layer", "permutation"),
        name="localisation_null",
    )  # fmt: skip


def _shuffled(rows: GainRows, layer: str, options: ExcessOptions, permutations: int, seed: int) -> np.ndarray:
    """(task, permutation, filter) g - 1 with the live filters' values in another order, the same for all tasks."""
    excess = excess_gains(rows, layer, options)
    keep = np.flatnonzero(options.live.get(layer, np.ones(excess.shape[1], dtype=bool)))
    rng = np.random.default_rng(seed)
    found = np.zeros((len(excess), permutations, excess.shape[1]), dtype=np.float32)
    for draw in range(permutations):
        found[:, draw, keep] = excess[:, rng.permutation(keep)]
    return found


class _Mean:
    """Mean over images, those without a score left out."""

    def __init__(self, scores: int, permutations: int) -> None:
        self.total = np.zeros((scores, permutations))
        self.count = np.zeros((scores, permutations))

    def add(self, values: np.ndarray) -> None:
        here = np.isfinite(values)
        self.total += np.where(here, values, 0)
        self.count += here

    def value(self) -> np.ndarray:
        return np.where(self.count > 0, self.total / np.maximum(self.count, 1), np.nan)


def _score(maps: np.ndarray, weights: np.ndarray, cued: np.ndarray, shuffled: np.ndarray, sums: _Mean) -> None:
    """Add the scores of one batch: maps (B, C, h, w), masks on their grid (B, object, h, w), cued (B, object)."""
    others = distractors(weights) if weights.shape[1] > 1 else None
    for n in range(len(maps)):
        flat = maps[n].reshape(maps.shape[1], -1)
        found = _Mean(len(LOCALISERS), shuffled.shape[1])
        for o in np.flatnonzero(cued[n] >= 0):
            if not weights[n, o].any():
                continue  # nothing of the object is left on the grid
            drawn = (shuffled[cued[n, o]] @ flat).reshape(-1, *maps.shape[2:])
            found.add(localise_many(drawn, weights[n, o], None if others is None else others[n, o]))
        if found.count.any():
            sums.add(found.value())
