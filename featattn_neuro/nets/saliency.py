"""Gain-weighted saliency: which places of an image a set of gains amplifies, signed and in the units of the maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from featattn_neuro.arrays.agreement import INK, exclusive_masks, resolved
from featattn_neuro.errors import DataError, choose
from featattn_neuro.nets.batches import StimulusSource, as_tensor, batches
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.detectors import Detector
from featattn_neuro.nets.gains import gains_by_layer, with_gains
from featattn_neuro.nets.geometry import Grid, layer_grid
from featattn_neuro.nets.hooks import evaluating, hooked
from featattn_neuro.nets.layers import stage_of
from featattn_neuro.nets.plan import select_layers, unit_ids
from featattn_neuro.schema import MASKED_MAPS, SALIENCY

if TYPE_CHECKING:
    import xarray as xr

Preprocess = Callable[[np.ndarray], torch.Tensor] | None


def _maps_of(output: Any, layer: str) -> torch.Tensor:
    if not isinstance(output, torch.Tensor) or output.ndim != 4:
        came = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise DataError(
            f"saliency needs maps (N, C, H, W) at layer {layer!r}; came {came}; choose a layer with positions"
        )
    return output.clone()


def gain_saliency(
    module: nn.Module,
    gains: xr.Dataset,
    stimuli: StimulusSource,
    *,
    layer: str,
    task: str | Sequence[str] | None = None,
    preprocess: Preprocess = None,
    upstream: bool = False,
    relative_to_mean: bool = False,
    live: xr.DataArray | None = None,
    batch_size: int = 32,
    device: str | torch.device = "cpu",
) -> xr.Dataset:
    """Excess map S(y, x) = sum over filters k of (g_k - 1) A_k(y, x), and the plain sum of A beside it.

    Parameters
    ----------
    gains : GAINS with gains at `layer`. task : one task, several, or all of them (None).
    upstream : whether A is taken with the gains of the other layers on; off: un-gained maps.
    relative_to_mean : use g_k divided by the layer's mean gain, since that mean is a gauge between layers.
    live : over `unit`, 0 for filters to leave out of the sum and of the mean gain; None: all filters.

    Returns
    -------
    SALIENCY : `excess([task,] stimulus, y, x)` signed, units of the layer's output; `activation(stimulus, y, x)` (with
        `upstream` and several tasks it would differ by task and is left out); `relative` = sum g A / sum A - 1, for
        layers whose maps are nowhere negative (NaN where sum A = 0). y, x are centres of the cells in pixels of the
        network's input (attribute `geometry` says so, or "cell index" where the network could not be traced).

    All g = 1 gives exactly 0.

    Raises
    ------
    DataError : no gains at the layer, another number of filters, a layer without positions, activations not finite.
    """
    import xarray as xr

    names = [str(t) for t in gains["task"].values] if "task" in gains["gain"].dims else [None]
    single = isinstance(task, str) or names == [None]
    wanted: list[str | None] = list(names) if task is None else [task] if isinstance(task, str) else list(task)
    if not wanted:
        raise DataError(f"wanted one task or more; came none; name some of {names}, or leave out task=")
    excess, relative = [], []
    plain, signed = None, False
    for name in wanted:
        factor = gains_by_layer(gains, name)
        choose(layer, factor, "gained layer")
        if plain is None or upstream:
            others = gains.isel(unit=gains["layer"].values != layer) if upstream else None
            maps = _layer_maps(module, stimuli, layer, preprocess, batch_size, device, others, name)
        if len(factor[layer]) != maps.shape[1]:
            raise DataError(
                f"layer {layer!r} has {maps.shape[1]} filters; came {len(factor[layer])} gains of another network"
            )
        keep = _live_filters(gains, layer, live, maps.shape[1])
        gain = factor[layer][keep] / (factor[layer][keep].mean() if relative_to_mean else 1.0)
        excess.append(np.tensordot(maps[:, keep], gain - 1, axes=([1], [0])))
        plain, signed = maps[:, keep].sum(axis=1), signed or bool(maps.min() < 0)
        relative.append(np.divide(excess[-1], plain, out=np.full_like(plain, np.nan), where=plain > 0))
    image = as_tensor(stimuli, preprocess, 0, 1).shape[-2:]
    shape = excess[0].shape[-2:]
    rows, columns = (layer_grid(module, layer, image_size=n, cells=m) for n, m in zip(image, shape, strict=True))
    traced = rows is not None and columns is not None
    dims = ("stimulus", "y", "x") if single else ("task", "stimulus", "y", "x")
    variables: dict[str, Any] = {"excess": (dims, excess[0] if single else np.stack(excess))}
    if single or not upstream:
        variables["activation"] = (("stimulus", "y", "x"), plain)
    if not signed:
        variables["relative"] = (dims, relative[0] if single else np.stack(relative))
    coords = {
        "stimulus": np.asarray(stimuli.id),
        "y": (rows if rows is not None and traced else Grid()).centres(shape[0]),
        "x": (columns if columns is not None and traced else Grid()).centres(shape[1]),
        **stimuli.coordinates(),
        **({} if single else {"task": [str(t) for t in wanted]}),
    }
    attrs = {
        "kind": "SALIENCY",
        "layer": layer,
        "geometry": "pixels of the network's input" if traced else "cell index",
        "receptive_field": -1.0 if rows is None or not traced else rows.size,
        "upstream_gains": "on" if upstream else "off",
        "gauge": "gain divided by the layer's mean" if relative_to_mean else "gain as given",
        "units": "units of the layer's output",
        "signed_maps": "yes" if signed else "no",
    }
    return SALIENCY.check(xr.Dataset(variables, coords=coords, attrs=attrs))


def _live_filters(gains: xr.Dataset, layer: str, live: xr.DataArray | None, n: int) -> np.ndarray:
    if live is None:
        return np.ones(n, dtype=bool)
    mine = gains["layer"].values == layer
    ids = gains["unit"].values[mine][np.argsort(gains["channel"].values[mine])]
    missing = set(ids) - set(live["unit"].values)
    if missing:
        raise DataError(f"live must say which filters of layer {layer!r} are live; {str(min(missing))!r} is missing")
    return live.sel(unit=ids).values.astype(bool)


def _layer_maps(
    module: nn.Module,
    stimuli: StimulusSource,
    layer: str,
    preprocess: Preprocess,
    batch_size: int,
    device: str | torch.device,
    others: xr.Dataset | None,
    task: str | None,
) -> np.ndarray:
    """(N, C, h, w) float64 maps of one layer."""
    seen: list[torch.Tensor] = []
    out = []
    with ExitStack() as stack:
        stack.enter_context(evaluating(module))
        stack.enter_context(torch.inference_mode())
        if others is not None and others.sizes["unit"]:
            stack.enter_context(with_gains(module, others, task=task))
        stack.enter_context(hooked(module, {layer: lambda m, i, output: seen.append(_maps_of(output, layer))}))
        for batch, count in batches(stimuli, preprocess, batch_size=batch_size, device=device):
            module(batch)
            if len(seen) != 1:
                raise DataError(
                    f"layer {layer!r} must run once per image; it ran {len(seen)} times; choose another layer"
                )
            out.append(seen.pop()[:count].double().cpu().numpy())
    maps = np.concatenate(out)
    if not np.isfinite(maps).all():
        raise DataError(f"layer {layer!r} gave activations that are not finite; check the weights and the images")
    return maps


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
    import xarray as xr

    names = select_layers(module, layers)
    contrasts, covariances, flags, units, per_unit = [], [], [], [], []
    for layer in names:
        maps = _layer_maps(module, stimuli, layer, preprocess, batch_size, device, None, None)
        mask_a, mask_b = exclusive_masks(source_a, source_b, (maps.shape[2], maps.shape[3]), threshold=threshold)
        flags.append(resolved(mask_a, mask_b).astype(np.int8))
        contrasts.append(_masked_mean(maps, mask_a) - _masked_mean(maps, mask_b))
        flat = maps.transpose(1, 0, 2, 3).reshape(maps.shape[1], -1)
        covariances.append(np.atleast_2d(np.cov(flat, ddof=0)))
        units += unit_ids(layer, maps.shape[1])
        per_unit += [(layer, channel) for channel in range(maps.shape[1])]
    covariance = np.zeros((len(units), len(units)))
    begin = 0
    for block in covariances:
        covariance[begin : begin + len(block), begin : begin + len(block)] = block
        begin += len(block)
    modules = dict(module.named_modules())
    return MASKED_MAPS.check(
        xr.Dataset(
            {
                "contrast": (("stimulus", "unit"), np.concatenate(contrasts, axis=1)),
                "covariance": (("unit", "other_unit"), covariance),
                "resolved": (("site", "stimulus"), np.stack(flags)),
            },
            coords={
                "stimulus": np.asarray(stimuli.id),
                "unit": units,
                "other_unit": units,
                "site": names,
                "layer": ("unit", [layer for layer, _ in per_unit]),
                "channel": ("unit", [channel for _, channel in per_unit]),
                "stage": ("unit", [stage_of(modules[layer]) for layer, _ in per_unit]),
                **stimuli.coordinates(),
            },
            attrs={"kind": "MASKED_MAPS"},
        )
    )


def _masked_mean(maps: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(N, C) weighted mean of maps (N, C, h, w) over mask (N, h, w); NaN where the mask is empty."""
    mass = mask.sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.einsum("nchw,nhw->nc", maps, mask) / mass[:, None]


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
