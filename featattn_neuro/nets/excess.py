"""Excess maps in one pass: many layers, many gain sets, reduced inside the hook, so that filters' maps are never kept.

S(y, x) = Σ_k (g_k - 1) A_k(y, x) is linear in the gains: G sets are G rows of one matrix product with the maps of a
batch. What is kept are (gain set, stimulus, y, x), not (stimulus, filter, y, x).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featattn_neuro.errors import DataError
from featattn_neuro.nets.batches import StimulusSource
from featattn_neuro.nets.gain_rows import GainRows
from featattn_neuro.nets.gains import with_gains
from featattn_neuro.nets.hooks import evaluating, hooked
from featattn_neuro.nets.loading import PaddedBatches, Preprocess, first_input, load_batches
from featattn_neuro.nets.map_sinks import MapSink
from featattn_neuro.nets.passes import mixes, other_rows, refuses_mixing

_ABOUT_SIZES = ("mat1 and mat2", "size", "channels")
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def maps_of(output: Any, layer: str, images: int | None = None) -> Tensor:
    """The maps (N, C, H, W) of a layer's output.

    Raises
    ------
    DataError : it has no positions, or other rows than `images`, which would be taken for those of other images.
    """
    if not isinstance(output, Tensor) or output.ndim != 4:
        came = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise DataError(
            f"saliency needs maps (N, C, H, W) at layer {layer!r}; came {came}; choose a layer with positions"
        )
    if images is not None and len(output) != images:
        raise other_rows(layer, len(output), images)
    return output


_NOWHERE_NEGATIVE = (nn.ReLU, nn.ReLU6, nn.Sigmoid)
"""Modules whose maps need not be searched for negative values; their subclasses may give others."""


def finite_logits(z: Tensor) -> Tensor:
    """`z`, or `DataError` where a logit is not finite."""
    if not bool(torch.isfinite(z.detach()).all()):
        raise DataError(
            "the logit is not finite for some image; check the weights of the head, the gains and the images"
        )
    return z


def finite(layer: str, values: Tensor) -> None:
    """Raise `DataError` where activations are not finite: 0 times infinity is NaN, so sums of products show it."""
    if not bool(torch.isfinite(values.sum())):
        raise DataError(f"layer {layer!r} gave activations that are not finite; check the weights and the images")


@dataclass
class Collector:
    """Reduces the maps of one layer as they come: rows of weights (R, C) times maps (B, C, P).

    Attributes
    ----------
    blocks : name of a variable to its rows; the rows lie one block after the other in `weights`.
    rows : images of the next batch that are no padding; None = all. images : rows of that batch, with padding.
    contributions : (S, C) g - 1 where the strongest `top` filters are wanted, else None.
    signed : whether a map was negative somewhere.
    """

    layer: str
    weights: Tensor
    blocks: dict[str, slice]
    contributions: Tensor | None = None
    top: int = 0
    shape: tuple[int, int] = (0, 0)
    signed: bool = False
    calls: int = 0
    rows: int | None = None
    images: int | None = None
    product: Tensor | None = None
    strongest: dict[str, Tensor] = field(default_factory=dict)
    _spread: Tensor | None = None
    _room: Tensor | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.calls += 1
        if self.calls > 1:
            return
        maps = maps_of(output, self.layer, self.images).detach()[: self.rows]  # the rest is padding
        if maps.shape[1] != self.weights.shape[1]:
            raise DataError(
                f"layer {self.layer!r} has {maps.shape[1]} filters; came {self.weights.shape[1]} gains of another "
                "network"
            )
        self.shape = (maps.shape[2], maps.shape[3])
        if not self.signed and type(module) not in _NOWHERE_NEGATIVE:  # once is enough
            self.signed = bool(maps.amin() < 0)
        flat = maps.to(self.weights.dtype).flatten(2)
        if self._spread is None or len(self._spread) != len(flat):
            self._spread = self.weights.expand(len(flat), -1, -1).contiguous()
            self._room = None
        if self._room is None or self._room.shape[2] != flat.shape[2]:
            self._room = flat.new_empty((len(flat), self.weights.shape[0], flat.shape[2]))
        self.product = torch.bmm(self._spread, flat, out=self._room[: len(flat)])
        if self.contributions is not None:
            self.strongest = _strongest(flat, self.contributions, self.top)

    def take(self) -> dict[str, Tensor]:
        """Variable to (rows, images, ...) of the batch that just went through; ready for the next."""
        if self.calls != 1 or self.product is None:
            raise DataError(
                f"layer {self.layer!r} must run once per image; it ran {self.calls} times; choose another layer"
            )
        self.calls = 0
        rows = self.product.unflatten(2, self.shape).transpose(0, 1)
        found = {name: rows[where] for name, where in self.blocks.items()}
        for name, values in self.strongest.items():
            found[name] = values.unflatten(-1, self.shape) if name in ("top_map", "dominant_channel") else values
        return found


def _strongest(flat: Tensor, excess: Tensor, top: int) -> dict[str, Tensor]:
    """Filters that contribute most, per set and image, and the one that leads at each place; (S, B, ...)."""
    total = flat.mean(dim=2) * excess[:, None]  # (S, B, C)
    top = min(top, flat.shape[1])
    order = total.abs().argsort(dim=2, descending=True, stable=True)[..., :top]
    maps, leaders = [], []
    for row, gain in enumerate(excess):
        chosen = order[row]
        maps.append(torch.gather(flat, 1, chosen[..., None].expand(-1, -1, flat.shape[2])) * gain[chosen][..., None])
        size, leader = (flat * gain[:, None]).abs().max(dim=1)
        leaders.append(torch.where(size > 0, leader, -1))
    return {
        "top_channel": order,
        "top_total": torch.gather(total, 2, order),
        "top_map": torch.stack(maps),
        "dominant_channel": torch.stack(leaders),
    }


def check_finite(found: Mapping[str, Collector]) -> None:
    """Raise `DataError` where activations of the batch that just went through are not finite.

    0 times infinity is NaN, so the products of any one row of weights show it; one look for all layers.
    """
    sums = {layer: one.product[:, 0].sum() for layer, one in found.items() if one.product is not None}
    if sums and not bool(torch.isfinite(torch.stack(list(sums.values()))).all()):
        for layer, total in sums.items():
            finite(layer, total)


@dataclass(frozen=True)
class ExcessOptions:
    """What the pass makes.

    upstream : A is taken with the gains of the other layers on. relative_to_mean : g divided by the layer's mean.
    live : layer to (C,) bool, filters that count. keep_activation : also the plain sum of A.
    relative : also sum g A / sum A - 1.
    class_weights : layer to (S, C), makes `class_weighted`. top : how many of the strongest filters to keep.
    dtype : "float32" or "float64".
    """

    upstream: bool = False
    relative_to_mean: bool = False
    live: Mapping[str, np.ndarray] = field(default_factory=dict)
    relative: bool = False
    keep_activation: bool = True
    class_weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    top: int = 0
    dtype: str = "float32"


def excess_gains(rows: GainRows, layer: str, options: ExcessOptions) -> np.ndarray:
    """(S, C): g - 1, or g divided by the mean over live filters minus 1; 0 for filters that are left out.

    Raises
    ------
    DataError : no live filter, or a mean gain of 0 to divide by.
    """
    gain = rows.values[layer]
    keep = options.live.get(layer)
    keep = np.ones(gain.shape[1], dtype=bool) if keep is None else keep
    if not keep.any():
        raise DataError(f"wanted a live filter at layer {layer!r}; came none, so there is nothing to sum; leave it out")
    scale = gain[:, keep].mean(axis=1, keepdims=True) if options.relative_to_mean else np.ones((1, 1))
    if not scale.all():
        raise DataError(
            f"wanted gains that can be divided by their mean; that of layer {layer!r} is 0; leave out relative_to_mean"
        )
    return np.where(keep, gain / scale - 1, 0.0)


def collector(
    rows: GainRows, layer: str, options: ExcessOptions, device: torch.device, which: slice = slice(None)
) -> Collector:
    """The collector of one layer for the sets `which`."""
    excess = excess_gains(rows, layer, options)[which]
    blocks, parts = {"excess": slice(0, len(excess))}, [excess]
    if layer in options.class_weights:
        blocks["class_weighted"] = slice(len(excess), 2 * len(excess))
        parts.append(excess * options.class_weights[layer][which])
    if options.keep_activation or options.relative:
        keep = options.live.get(layer)
        last = sum(len(part) for part in parts)
        blocks["activation"] = slice(last, last + 1)
        parts.append(np.ones((1, excess.shape[1])) if keep is None else keep[None].astype(np.float64))
    dtype = DTYPES[options.dtype]
    weights = torch.as_tensor(np.concatenate(parts), dtype=dtype, device=device)
    strongest = torch.as_tensor(excess, dtype=dtype, device=device) if options.top else None
    return Collector(layer, weights, blocks, strongest, options.top)


def input_batches(stimuli: StimulusSource, preprocess: Preprocess, batch_size: int) -> tuple[Tensor, PaddedBatches]:
    """The first image as network input, and all of them in padded batches."""
    first = first_input(stimuli, preprocess, skip=False)
    starts = list(range(0, len(stimuli), batch_size))
    return first, PaddedBatches(stimuli, preprocess, starts, batch_size, shape=first.shape, skip=False)


def run_network(module: nn.Module, images: Tensor) -> Any:
    """The network's output; images that it does not take are the user's mistake, told in one sentence.

    So are several images in one batch where a part normalises by the batch: each result would depend on the others.
    """
    mixing = [name for name, part in module.named_modules() if mixes(part)] if len(images) > 1 else []
    try:
        with hooked(module, {name: refuses_mixing(name) for name in mixing}) if mixing else nullcontext():
            return module(images)
    except (RuntimeError, ValueError, AssertionError) as error:
        # an assertion in a forward pass is about its input; other errors are if they speak of it
        if not isinstance(error, AssertionError) and not any(word in str(error) for word in _ABOUT_SIZES):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"the network does not take images of shape {tuple(images.shape[1:])} ({reason}); resize them, or give the "
            "network's preprocessing"
        ) from error


def check_gains(module: nn.Module, rows: GainRows, image: Tensor) -> None:
    """Run one image with the gains on: each gained layer must be there, with as many filters.

    Raises
    ------
    ConfigError : a layer that the network does not have. DataError : another number of filters.
    """
    with evaluating(module), torch.no_grad(), with_gains(module, rows.row(0)):
        run_network(module, image[None])


def map_shapes(
    module: nn.Module, rows: GainRows, layers: Sequence[str], image: Tensor, options: ExcessOptions
) -> dict[str, tuple[int, int]]:
    """Layer to (height, width) of its maps, from one image."""
    found = {layer: collector(rows, layer, options, image.device, slice(0, 1)) for layer in layers}
    # with the gains of all layers on, so that none is of another network; shapes do not depend on them
    for one in found.values():
        one.images = 1
    with hooked(module, found):
        check_gains(module, rows, image)
    for one in found.values():
        one.take()
    check_finite(found)
    return {layer: one.shape for layer, one in found.items()}


def run_excess(
    module: nn.Module,
    rows: GainRows,
    layers: Sequence[str],
    batches: PaddedBatches,
    sinks: Mapping[str, MapSink],
    options: ExcessOptions,
    *,
    device: torch.device,
    workers: int = 0,
) -> dict[str, bool]:
    """Fill the sinks of all layers in one pass over the images (with `upstream`: one per set); layer to signed or not.

    The network is left as it was found, also when something raises.
    """
    passes = [slice(k, k + 1) for k in range(rows.count)] if options.upstream else [slice(0, rows.count)]
    signed = dict.fromkeys(layers, False)
    for which in passes:
        found = {layer: collector(rows, layer, options, device, which) for layer in layers}
        with ExitStack() as stack:
            stack.enter_context(evaluating(module))
            stack.enter_context(torch.no_grad())
            # first our hooks, then the gains: a layer's own gains are not in its map
            stack.enter_context(hooked(module, found))
            if options.upstream:
                stack.enter_context(with_gains(module, rows.row(which.start)))
            for batch in stack.enter_context(closing(load_batches(batches, workers))):  # type: ignore[type-var]
                assert batch.images is not None
                for one in found.values():
                    one.rows, one.images = batch.count, len(batch.images)
                run_network(module, batch.images.to(device))
                check_finite(found)
                for layer, one in found.items():
                    _write(sinks[layer], one.take(), batch.start, which.start, options)
        for layer, one in found.items():
            signed[layer] = signed[layer] or one.signed
    return signed


def _write(sink: MapSink, values: dict[str, Tensor], start: int, row: int, options: ExcessOptions) -> None:
    blocks = {name: value.cpu().numpy() for name, value in values.items()}
    plain = blocks.pop("activation", None)
    for name, block in blocks.items():
        sink.write(name, start, block, row=row)
    if plain is not None and options.keep_activation:
        sink.write("activation", start, plain[0])
    if plain is not None and options.relative:
        excess = blocks["excess"]
        shared = np.broadcast_to(plain, excess.shape)
        undefined = np.full_like(excess, np.nan)
        sink.write("relative", start, np.divide(excess, shared, out=undefined, where=shared > 0), row=row)
