"""Maps of filters reduced to what statistics need: means in the masks of objects, covariances over places, leverage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from featattn_neuro.arrays.agreement import INK
from featattn_neuro.arrays.masks import MASK_CELLS, exclusive, on_grid, resolved_objects
from featattn_neuro.errors import DataError
from featattn_neuro.nets.batches import StimulusSource
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.detectors import Detector
from featattn_neuro.nets.excess import finite, input_batches, maps_of, run_network
from featattn_neuro.nets.geometry import map_edges
from featattn_neuro.nets.hooks import evaluating, hooked
from featattn_neuro.nets.layers import stage_of
from featattn_neuro.nets.loading import Preprocess, load_batches
from featattn_neuro.nets.plan import select_layers, unit_ids
from featattn_neuro.schema import MASKED_MAPS

if TYPE_CHECKING:
    import xarray as xr


class _MaskedSums:
    """What the cue swap needs of one layer, batch by batch: masked means, and moments of the maps over positions."""

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.maps: list[np.ndarray] = []
        self.means: list[np.ndarray] = []
        self.flags: list[np.ndarray] = []
        self.count = 0
        self.images: int | None = None  # rows of the batch that is next
        self.shift = self.total = self.products = np.zeros(0)

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.maps.append(maps_of(output, self.layer, self.images).detach().double().cpu().numpy())

    def take(self, count: int) -> np.ndarray:
        """The maps (count, C, h, w) of the batch, added to the moments."""
        if len(self.maps) != 1:
            raise DataError(
                f"layer {self.layer!r} must run once per image; it ran {len(self.maps)} times; choose another layer"
            )
        maps = self.maps.pop()[:count]
        finite(self.layer, torch.from_numpy(maps))
        flat = maps.transpose(1, 0, 2, 3).reshape(maps.shape[1], -1)
        if not self.count:
            # moments about the first batch's mean: no cancellation where means are large
            self.shift = flat.mean(axis=1, keepdims=True)
            self.total, self.products = np.zeros(len(flat)), np.zeros((len(flat), len(flat)))
        centred = flat - self.shift
        self.count += flat.shape[1]
        self.total = self.total + centred.sum(axis=1)
        self.products = self.products + centred @ centred.T
        return maps

    def covariance(self) -> np.ndarray:
        """(C, C) over all positions of all images, divided by their number."""
        mean = self.total / self.count
        return self.products / self.count - np.outer(mean, mean)


def masked_maps(
    module: nn.Module,
    stimuli: StimulusSource,
    layers: Sequence[str],
    source_a: np.ndarray,
    source_b: np.ndarray,
    *,
    preprocess: Preprocess = None,
    threshold: float = INK,
    batch_size: int = 50,
    device: str | torch.device = "cpu",
) -> xr.Dataset:
    """What the cue swap needs of un-gained maps, per filter: mean in mask a minus mean in mask b, and covariances.

    S_c of any gains is a weighted sum of filters, so these two are enough for any gains and any permutation of them.

    Parameters
    ----------
    source_a, source_b : (N, height, width) in [0, 1], the two sources of each composite; ink is above `threshold`.

    Returns
    -------
    MASKED_MAPS : `contrast(stimulus, unit)`, `covariance(unit, other_unit)` over all positions of all composites (0
        between layers), `resolved(site, stimulus)`: both masks keep 5 cells of exclusive ink on the layer's grid.
    """
    ink = np.stack([np.asarray(source_a) > threshold, np.asarray(source_b) > threshold], axis=1)
    # sources may be of another size than what the network is shown, resized as a whole
    found = _object_maps(
        module, stimuli, layers, exclusive(ink), preprocess=preprocess, batch_size=batch_size, device=device, same=False
    )
    mean = found["object_mean"]
    contrast = (mean.isel(object=0) - mean.isel(object=1)).transpose("stimulus", "unit")
    return MASKED_MAPS.check(found.drop_vars("object_mean").assign(contrast=contrast))


def object_maps(
    module: nn.Module,
    stimuli: StimulusSource,
    layers: Sequence[str],
    masks: np.ndarray,
    *,
    preprocess: Preprocess = None,
    batch_size: int = 50,
    device: str | torch.device = "cpu",
) -> xr.Dataset:
    """As `masked_maps`, for any number of objects: mean of every filter's un-gained map in the mask of each object.

    Parameters
    ----------
    masks : (N, objects, height, width) in [0, 1] over the image, one per object, objects that exclude each other; they
        are averaged over the area of each cell of a layer's grid: a stride wide around the centre of its receptive
        field, or, where that is not known, as if the grid tiled the image.

    Returns
    -------
    MASKED_MAPS : `object_mean(stimulus, object, unit)`, NaN where a mask is empty; `covariance`, `resolved`,
        `mask_cells(site)`: which of the two. All layers come from one pass; memory holds one batch of maps.

    Raises
    ------
    DataError : masks of another number than the stimuli, of another size than the network's input, or not in [0, 1].
    """
    return _object_maps(
        module, stimuli, layers, masks, preprocess=preprocess, batch_size=batch_size, device=device, same=True
    )


def _object_maps(
    module: nn.Module,
    stimuli: StimulusSource,
    layers: Sequence[str],
    masks: np.ndarray,
    *,
    preprocess: Preprocess,
    batch_size: int,
    device: str | torch.device,
    same: bool,
) -> xr.Dataset:
    values = np.asarray(masks)
    if values.ndim != 4 or len(values) != len(stimuli):
        raise DataError(
            f"wanted masks (stimulus, object, height, width) for {len(stimuli)} stimuli; came shape {values.shape}; "
            "make one mask per object of each stimulus"
        )
    if values.dtype != bool and not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise DataError("wanted masks with values in [0, 1]; came others; divide them by their maximum")
    names = select_layers(module, layers)
    sums = {layer: _MaskedSums(layer) for layer in names}
    place = torch.device(device)
    image, batches = input_batches(stimuli, preprocess, batch_size)
    if same:
        check_size(values.shape[2:], (image.shape[-2], image.shape[-1]))
    places = mask_edges(module, names, image.to(place), size=(values.shape[2], values.shape[3]))
    with (
        evaluating(module),
        torch.no_grad(),
        hooked(module, sums),
        closing(load_batches(batches, 0)) as loaded,  # type: ignore[type-var]
    ):
        for batch in loaded:
            assert batch.images is not None
            for one in sums.values():
                one.images = len(batch.images)
            run_network(module, batch.images.to(place))
            masks = values[batch.start : batch.start + batch.count]
            for layer, one in sums.items():
                maps = one.take(batch.count)
                shape = maps.shape[2], maps.shape[3]
                here = on_grid(masks, shape, edges=places[layer])
                one.means.append(_masked_means(maps, here))
                one.flags.append(resolved_objects(here))
    return _masked_dataset(module, stimuli, sums, {layer: MASK_CELLS[one is not None] for layer, one in places.items()})


def mask_edges(
    module: nn.Module, layers: Sequence[str], image: torch.Tensor, *, size: tuple[int, int]
) -> dict[str, tuple[np.ndarray, np.ndarray] | None]:
    """Edges of the cells of layers in masks of `size` (height, width), see `geometry.map_edges`.

    Parameters
    ----------
    image : (C, height, width), one input of the network; masks of another size are of the image before it was resized.
    """
    shapes: dict[str, tuple[int, int]] = {}

    def note(layer: str) -> Any:
        def hook(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            maps = maps_of(output, layer, 1)
            shapes[layer] = maps.shape[2], maps.shape[3]

        return hook

    with evaluating(module), torch.no_grad(), hooked(module, {layer: note(layer) for layer in layers}):
        run_network(module, image[None])
    return map_edges(module, shapes, (image.shape[-2], image.shape[-1]), size=size)


def check_size(masks: Sequence[int], image: tuple[int, int]) -> None:
    """Raise `DataError` unless masks have the size of the network's input: else no place is known."""
    if tuple(masks) != tuple(image):
        raise DataError(
            f"wanted masks of {image[0]} × {image[1]} pixels, the size of the network's input; came {masks[0]} × "
            f"{masks[1]}; make them for the images as the network sees them"
        )


def _masked_dataset(
    module: nn.Module, stimuli: StimulusSource, sums: Mapping[str, _MaskedSums], cells: Mapping[str, str]
) -> xr.Dataset:
    import xarray as xr

    blocks = [one.covariance() for one in sums.values()]
    widths = [len(block) for block in blocks]
    covariance = np.zeros((sum(widths), sum(widths)))
    for begin, block in zip(np.cumsum([0, *widths[:-1]]), blocks, strict=True):
        covariance[begin : begin + len(block), begin : begin + len(block)] = block
    units = [unit for layer, n in zip(sums, widths, strict=True) for unit in unit_ids(layer, n)]
    modules = dict(module.named_modules())
    return MASKED_MAPS.check(
        xr.Dataset(
            {
                "object_mean": (
                    ("stimulus", "object", "unit"),
                    np.concatenate([np.concatenate(one.means) for one in sums.values()], axis=2),
                ),
                "covariance": (("unit", "other_unit"), covariance),
                "resolved": (
                    ("site", "stimulus"),
                    np.stack([np.concatenate(one.flags).astype(np.int8) for one in sums.values()]),
                ),
                "mask_cells": ("site", [cells[layer] for layer in sums]),
            },
            coords={
                "stimulus": np.asarray(stimuli.id),
                "unit": units,
                "other_unit": units,
                "site": list(sums),
                "layer": ("unit", np.repeat(list(sums), widths)),
                "channel": ("unit", np.concatenate([np.arange(n) for n in widths])),
                "stage": ("unit", np.repeat([stage_of(modules[layer]) for layer in sums], widths)),
                **stimuli.coordinates(),
            },
            attrs={"kind": "MASKED_MAPS"},
        )
    )


def _masked_means(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(N, objects, C) weighted means of maps (N, C, h, w) over masks (N, objects, h, w); NaN where a mask is empty."""
    mass = masks.sum(axis=(2, 3))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.einsum("nchw,nohw->noc", maps, masks, optimize=True) / mass[:, :, None]


def leverage(cut: CutNetwork, images: torch.Tensor, detector: Detector, *, chunk: int = 50) -> dict[str, np.ndarray]:
    """Leverage L_k(n) = sum over y, x of A_k dz/dA_k = dz/dg_k at g = 1, per gained layer: (T, N, C).

    Computed on the un-gained network as the gradient with respect to one gain per image and filter.
    """
    weight, bias, scale = (
        torch.as_tensor(v, dtype=torch.float32, device=cut.device)
        for v in (detector.weight, detector.bias, detector.scale)
    )
    rows = cut.prefix(images)
    out: dict[str, list[np.ndarray]] = {layer: [] for layer in cut.layers}
    for begin in range(0, len(images), chunk):
        block = [row[begin : begin + chunk] for row in rows]
        ones = {
            layer: torch.ones(len(block[0]), cut.n_filters[layer], device=cut.device, requires_grad=True)
            for layer in cut.layers
        }
        z = (cut.features(block, ones) / scale) @ weight.T + bias
        grads = [
            torch.autograd.grad(z[:, task].sum(), list(ones.values()), retain_graph=True) for task in range(len(weight))
        ]
        for index, layer in enumerate(cut.layers):
            out[layer].append(torch.stack([g[index] for g in grads]).double().cpu().numpy())
    return {layer: np.concatenate(parts, axis=1) for layer, parts in out.items()}
