"""Gain-weighted saliency: which places of an image a set of gains amplifies, signed and in the units of the maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.nets.batches import StimulusSource
from featattn_neuro.nets.excess import (
    DTYPES,
    ExcessOptions,
    excess_gains,
    input_batches,
    map_shapes,
    run_excess,
)
from featattn_neuro.nets.gain_rows import GainRows, gain_rows
from featattn_neuro.nets.geometry import Grid, Place, layer_grids
from featattn_neuro.nets.gradient_saliency import MOST_STEPS, class_weights, local_maps, logits_of, path_integrated
from featattn_neuro.nets.hooks import preserved
from featattn_neuro.nets.loading import PaddedBatches, load_batches
from featattn_neuro.nets.map_sinks import MapHeader, MapSink, MemoryMaps
from featattn_neuro.nets.preprocessing import geometry_attrs
from featattn_neuro.schema.saliency import RELATIVE_GAUGE

if TYPE_CHECKING:
    import xarray as xr

Preprocess = Callable[[np.ndarray], torch.Tensor] | None

METHODS: dict[str, tuple[str, ...]] = {
    "excess": ("excess",),
    "class_weighted": ("class_weighted",),
    "gain_gradient": ("gain_gradient",),
    "gradcam": ("cam_ungained", "cam_change"),
    "path": ("path_integrated", "path_sum", "logit_change", "path_steps", "path_status"),
}
"""Method to the variables that it makes."""
_TOP = ("top_channel", "top_total", "top_map", "dominant_channel")
_DTYPES = {"path_status": "U10", "path_steps": "int64", "top_channel": "int64", "dominant_channel": "int64"}


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
    methods: str | Iterable[str] = "excess",
    relative: bool | None = None,
    head: str | None = None,
    output: int | Sequence[int] | None = None,
    top: int = 0,
    dtype: str = "float64",
    workers: int = 0,
    sink: MapSink | None = None,
) -> xr.Dataset:
    """Excess map S(y, x) = sum over filters k of (g_k - 1) A_k(y, x), and the plain sum of A beside it.

    Parameters
    ----------
    gains : GAINS with gains at `layer`, over unit, and perhaps task and gain_set: all sets share one pass.
    task : one task, several, or all of them (None).
    upstream : whether A is taken with the gains of the other layers on (one pass per set); off: un-gained maps.
    relative_to_mean : use g_k divided by the layer's mean gain, since that mean is a gauge between layers.
    live : over `unit`, 0 for filters to leave out of the sum and of the mean gain; None: all filters.
    methods : further maps, any of `METHODS`: "class_weighted" = sum of w_ck (g_k - 1) A_k, w the read-out's weights;
        "gain_gradient" = sum of (g_k - 1) A_k dz/dA_k on the un-gained network; "gradcam" = signed Grad-CAM without
        gains, and its change when all gains are put on; "path" = integrated gradients of z along the gains of all
        layers jointly, from 1 to learned, with its completeness. "excess" is always made.
    relative : also sum g A / sum A - 1. None: where the layer's maps are nowhere negative; True: refuse signed maps.
    head, output : the logit z that gradients explain: the read-out that the gains carry, at the head's input; or the
        network's output(s) of that index, one for all sets or one each.
    top : also the `top` filters with the largest mean |(g - 1) A| of each image, with their maps, and the leading
        filter at each place.
    dtype : "float64", or "float32" (twice as fast, rounding of 1e-7).
    workers : processes that read images. sink : where maps go; None = memory.

    Returns
    -------
    SALIENCY : `excess([gain_set,] [task,] stimulus, y, x)` signed, units of the layer's output;
        `activation(stimulus, y, x)`, the plain sum of A: un-gained, or with `upstream` that behind the other layers'
        gains (with several sets it would differ by set and is left out);
        `relative`; and what `methods` and `top` add. y, x are centres of the cells in pixels of the network's input
        (attribute `geometry` says so, or "cell index" where the network could not be traced); `stride_y`, `stride_x`
        and `receptive_field`, the larger side, in pixels (-1 = not known).

    All g = 1 gives exactly 0.

    Raises
    ------
    DataError : no gains at the layer, another number of filters, a layer without positions, activations not finite,
        images of another size than the network takes, relative amplification of maps that are negative somewhere.
    """
    found = saliency_by_layer(
        module, gains, stimuli, [layer], task=task, preprocess=preprocess, upstream=upstream,
        relative_to_mean=relative_to_mean, live=live, batch_size=batch_size, device=device, methods=methods,
        relative=relative, head=head, output=output, top=top, dtype=dtype, workers=workers,
        sinks=None if sink is None else {layer: sink},
    )  # fmt: skip
    return found[layer]


def saliency_by_layer(
    module: nn.Module,
    gains: xr.Dataset,
    stimuli: StimulusSource,
    layers: Sequence[str],
    *,
    task: str | Sequence[str] | None = None,
    preprocess: Preprocess = None,
    upstream: bool = False,
    relative_to_mean: bool = False,
    live: xr.DataArray | None = None,
    batch_size: int = 32,
    device: str | torch.device = "cpu",
    methods: str | Iterable[str] = "excess",
    relative: bool | None = None,
    activation: bool = True,
    head: str | None = None,
    output: int | Sequence[int] | None = None,
    top: int = 0,
    dtype: str = "float32",
    workers: int = 0,
    most_steps: int = MOST_STEPS,
    sinks: Mapping[str, MapSink] | None = None,
) -> dict[str, xr.Dataset]:
    """Saliency at several layers from one pass over the images: layer to SALIENCY.

    Parameters as in `gain_saliency`; `activation` = False leaves the plain sum out (and `relative` with it);
    `most_steps` bounds the midpoints of "path". Memory holds the maps of the gain sets and one batch, never the
    filters' maps of all images.
    """
    names = _methods(methods, relative_to_mean=relative_to_mean, live=live)
    choose(dtype, DTYPES, "dtype of the maps")
    if top < 0 or batch_size < 1 or most_steps < 1:
        raise ConfigError(
            f"top must be at least 0, batch_size and most_steps at least 1; came {top}, {batch_size}, {most_steps}"
        )
    rows = gain_rows(gains, task)
    for layer in layers:
        choose(layer, rows.values, "gained layer")
    options = ExcessOptions(
        upstream=upstream,
        relative_to_mean=relative_to_mean,
        live={layer: live_filters(rows, layer, live) for layer in layers} if live is not None else {},
        relative=relative is True or (relative is None and activation),
        keep_activation=activation and not (upstream and rows.count > 1),
        class_weights={layer: class_weights(rows, layer, module, head=head, output=output) for layer in layers}
        if "class_weighted" in names
        else {},
        top=top,
        dtype=dtype,
    )
    place = torch.device(device)
    image, batches = input_batches(stimuli, preprocess, batch_size)
    shapes = map_shapes(module, rows, layers, image.to(place), options)
    size = image.shape[-2], image.shape[-1]
    grids = layer_grids(module, layers, image_size=size, cells=shapes)
    sinks = {layer: MemoryMaps() for layer in layers} if sinks is None else sinks
    for layer in layers:
        variables = _variables(rows, names, layer, shapes[layer], len(stimuli), options)
        header = _header(rows, layer, stimuli, shapes[layer], grids[layer], variables, options, batch_size, size)
        header.attrs.update(geometry_attrs(preprocess, np.asarray(stimuli[0])))
        sinks[layer].begin(header)
    signed = run_excess(module, rows, layers, batches, sinks, options, device=place, workers=workers)
    for layer in layers:
        if relative is True and signed[layer]:
            raise DataError(
                f"relative amplification divides by the sum of the maps; those of layer {layer!r} are negative "
                "somewhere (signed units); choose a layer after its activation, or leave relative out"
            )
    if set(names) & {"gain_gradient", "gradcam", "path"}:
        _run_gradients(
            module, rows, layers, batches, sinks, options, names, head=head, output=output, device=place,
            most_steps=most_steps,
        )  # fmt: skip
    found = {}
    for layer in layers:
        known = {"signed_maps": "yes" if signed[layer] else "no"}
        drop = ("relative",) if options.relative and signed[layer] else ()
        found[layer] = sinks[layer].finish(drop=drop, attrs=known)
    return found


def _methods(methods: str | Iterable[str], *, relative_to_mean: bool, live: xr.DataArray | None) -> list[str]:
    wanted = [methods] if isinstance(methods, str) else list(methods)
    for name in wanted:
        choose(name, METHODS, "saliency method")
    whole = [name for name in wanted if name in ("gradcam", "path")]
    if whole and (relative_to_mean or live is not None):
        raise ConfigError(
            f"method {whole[0]!r} explains the logit of the network with its gains as they are; leave out "
            "relative_to_mean and live, or ask for it in a call of its own"
        )
    return ["excess", *(name for name in METHODS if name in wanted and name != "excess")]


def _variables(
    rows: GainRows,
    methods: Sequence[str],
    layer: str,
    shape: tuple[int, int],
    count: int,
    options: ExcessOptions,
) -> dict[str, tuple[tuple[str, ...], tuple[int, ...], str]]:
    """Name to (dimensions, shape, dtype) of what one layer's Dataset will hold."""
    names = [variable for method in methods for variable in METHODS[method]]
    names += [*(["relative"] if options.relative else []), *(_TOP if options.top else ())]
    rank = min(options.top, rows.values[layer].shape[1])
    inner: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
        "top_map": (("rank", "y", "x"), (rank, *shape)),
        **dict.fromkeys(("top_channel", "top_total"), (("rank",), (rank,))),
        **dict.fromkeys(METHODS["path"][1:], ((), ())),
    }
    found = {}
    for name in names:
        dims, sizes = inner.get(name, (("y", "x"), shape))
        dtype = _DTYPES.get(name, options.dtype)
        found[name] = ((*rows.dims, "stimulus", *dims), (*rows.sizes, count, *sizes), dtype)
    if options.keep_activation:
        found["activation"] = (("stimulus", "y", "x"), (count, *shape), options.dtype)
    return found


def _header(
    rows: GainRows,
    layer: str,
    stimuli: StimulusSource,
    shape: tuple[int, int],
    place: Place | None,
    variables: Mapping[str, tuple[tuple[str, ...], tuple[int, ...], str]],
    options: ExcessOptions,
    batch_size: int,
    image_size: tuple[int, int],
) -> MapHeader:
    traced = place if place is not None else Place(Grid(), Grid())
    known = place is not None
    attrs: dict[str, str | int | float] = {
        "kind": "SALIENCY",
        "layer": layer,
        "geometry": "pixels of the network's input" if known else "cell index",
        "stride_y": traced.rows.stride if known else -1.0,
        "stride_x": traced.columns.stride if known else -1.0,
        "receptive_field": max(traced.rows.size, traced.columns.size) if known else -1.0,
        "upstream_gains": "on" if options.upstream else "off",
        "filters_left_out": ",".join(map(str, np.flatnonzero(~options.live[layer]))) if options.live else "",
        "gauge": RELATIVE_GAUGE if options.relative_to_mean else "gain as given",
        "units": "units of the layer's output",
        "image_height": image_size[0],
        "image_width": image_size[1],
    }
    coordinates = {
        "stimulus": ("stimulus", np.asarray(stimuli.id)),
        "y": ("y", traced.rows.centres(shape[0])),
        "x": ("x", traced.columns.centres(shape[1])),
        **stimuli.coordinates(),
        **rows.coordinates(),
    }
    return MapHeader(variables, rows.sizes, coordinates, attrs, batch_size)


def live_filters(rows: GainRows, layer: str, live: xr.DataArray) -> np.ndarray:
    """(C,) bool: which filters of `layer` are live, by id; `DataError` where one is missing."""
    missing = set(rows.units[layer]) - {str(unit) for unit in live["unit"].values}
    if missing:
        raise DataError(f"live must say which filters of layer {layer!r} are live; {str(min(missing))!r} is missing")
    return live.sel(unit=rows.units[layer]).values.astype(bool)


def _run_gradients(
    module: nn.Module,
    rows: GainRows,
    layers: Sequence[str],
    batches: PaddedBatches,
    sinks: Mapping[str, MapSink],
    options: ExcessOptions,
    methods: Sequence[str],
    *,
    head: str | None,
    output: int | Sequence[int] | None,
    device: torch.device,
    most_steps: int,
) -> None:
    """Fill the sinks with the maps that need gradients; parameters, modes and gradients are given back."""
    logits = logits_of(rows, head=head, output=output, device=device)
    gains = {name: torch.as_tensor(g, dtype=torch.float32, device=device) for name, g in rows.values.items()}
    excess = {
        name: torch.as_tensor(excess_gains(rows, name, options), dtype=torch.float32, device=device) for name in layers
    }
    local = [name for name in ("gain_gradient", "gradcam") if name in methods]
    with preserved(module), torch.enable_grad(), closing(load_batches(batches, 0)) as loaded:  # type: ignore[type-var]
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        for batch in loaded:
            assert batch.images is not None
            images = batch.images[: batch.count].to(device)
            if local:
                found = local_maps(module, images, gains, excess, logits, layers, local)
                for layer, variables in found.items():
                    for name, values in variables.items():
                        sinks[layer].write(name, batch.start, values.cpu().numpy(), row=0)
            if "path" in methods:
                for row in range(rows.count):
                    _write_path(
                        sinks, layers, batch.start, row,
                        *path_integrated(
                            module, images, {name: g[row] for name, g in gains.items()}, logits, row,
                            most_steps=most_steps,
                        ),
                    )  # fmt: skip


def _write_path(
    sinks: Mapping[str, MapSink],
    layers: Sequence[str],
    start: int,
    row: int,
    maps: Mapping[str, torch.Tensor],
    facts: Mapping[str, torch.Tensor],
) -> None:
    status = np.where(facts["complete"].cpu().numpy(), "ok", "incomplete")
    for layer in layers:
        sinks[layer].write("path_integrated", start, maps[layer].cpu().numpy()[None], row=row)
        sinks[layer].write("path_status", start, status[None], row=row)
        for name in ("path_sum", "logit_change", "path_steps"):
            sinks[layer].write(name, start, facts[name].cpu().numpy()[None], row=row)
