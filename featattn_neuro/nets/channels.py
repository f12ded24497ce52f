"""Where a layer's filters are: the channel axis by a declared rule, refused where it is ambiguous."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.nets.layers import stage_of

ChannelAxis = int | Mapping[str, int] | None
"""None: by rule; one axis for all layers; or an axis per layer name."""


def declared_axis(part: nn.Module) -> int | None:
    """The channel axis that a module's class fixes: 1 for convolutions and batch norms, -1 for linear and layer norm.

    A layer norm over several dimensions, maps (C, H, W) for instance, fixes none. What a class with a forward of its
    own does is held against its outputs by `ChannelRule`.

    >>> declared_axis(nn.Conv2d(1, 1, 1)), declared_axis(nn.Linear(1, 1)), declared_axis(nn.ReLU())
    (1, -1, None)
    >>> declared_axis(nn.LayerNorm(8)), declared_axis(nn.LayerNorm((8, 5, 5)))
    (-1, None)
    """
    if isinstance(part, nn.modules.batchnorm._NormBase | nn.GroupNorm) or stage_of(part) == "conv":
        return 1
    # timm's LayerNorm2d, LayerNorm2dFp32 and LayerNormAct2d derive from LayerNorm and work on (N, C, H, W)
    name = type(part).__name__
    if name.endswith("2d") or ("2d" in name and stage_of(part) == "norm"):
        return 1
    if isinstance(part, nn.Linear) or (isinstance(part, nn.LayerNorm) and len(part.normalized_shape) == 1):
        return -1
    return None


def _own_size(part: nn.Module, *, entering: bool) -> int | None:
    """Features along the last axis of the output (or input) of a linear layer or layer norm whose forward is not
    torch's own: such a forward may work on another axis. None for all others.
    """
    base = nn.LayerNorm if isinstance(part, nn.LayerNorm) else nn.Linear
    if not isinstance(part, base) or (type(part).forward is base.forward and "forward" not in vars(part)):
        return None
    if isinstance(part, nn.LayerNorm):
        return part.normalized_shape[0]
    return part.in_features if entering else part.out_features


def checked_axes(given: ChannelAxis, names: Iterable[str]) -> ChannelAxis:
    """`given` if it is a whole number, or whole numbers by names that are among `names`.

    Raises
    ------
    ConfigError : anything else; the nearest names are printed.
    """
    if isinstance(given, Mapping):
        known = list(names)
        for layer in given:
            choose(layer, known, "layer in channel_axis")
    for axis in given.values() if isinstance(given, Mapping) else () if given is None else (given,):
        if not isinstance(axis, int | np.integer) or isinstance(axis, bool):
            raise ConfigError(f"channel_axis must be a whole number, such as 1 or -1; came {axis!r}; name one axis")
    return given


def without_filters(output: Any) -> str | None:
    """What came, where an output is nothing that filters can be found in; None where it is.

    >>> import torch
    >>> without_filters((1, 2)), without_filters(torch.zeros(2, 3))
    ('tuple', None)
    """
    if not isinstance(output, Tensor):
        return type(output).__name__
    if output.ndim not in (2, 3, 4) or not output.is_floating_point():
        return f"{tuple(output.shape)}, {output.dtype}"
    return None


class ChannelRule:
    """Channel axis of each layer's output.

    Rule: vectors (N, C) have axis 1. A module whose class fixes the axis has that one (`declared_axis`); where a linear
    layer or layer norm has a forward of its own, the sizes of its output must bear it out, and one that gives its
    features on axis 1 (layer norms that permute inside) has axis 1. The others follow those that the network holds, and
    where these do not settle it the layer is refused until `channel_axis` says it: one axis for all layers that no rule
    settles, or an axis by layer, which goes before every rule.

    - (N, T, C): last axis if a linear layer or layer norm of the network gives sequences with as many features, and no
      convolution or norm over maps has as many channels as the other axis; axis 1 if one-dimensional convolutions or
      batch norms give (N, C, T) with as many channels, and no sequence has as many features. Maps (N, C, H, W)
      flattened to (N, C, H W) are neither.
    - (N, C, H, W): axis 1, unless the network also works on maps (N, H, W, C), or on sequences while no convolution or
      norm has as many channels (attention weights, heads). The colours of the image, which the first convolution takes,
      are none of these channels: three heads are not three filters.
    """

    def __init__(self, module: nn.Module, given: ChannelAxis = None) -> None:
        self.given = given
        self.modules = dict(module.named_modules())
        self.channels_last_seen = False
        self.noted = 0  # rises with everything new that `watch` sees
        self.has_last_norms = any(isinstance(p, nn.LayerNorm) and declared_axis(p) == -1 for p in self.modules.values())
        self.sequence_features: set[int] = set()
        self.series_channels: set[int] = set()
        taken = [part.in_channels for part in self.modules.values() if stage_of(part) == "conv"]
        given_by_a_layer = {size for part in self.modules.values() for size in _channel_counts(part)}
        self.map_channels = given_by_a_layer | (set(taken) - set(taken[:1]))

    def watched(self) -> dict[str, int]:
        """Layers whose outputs `watch` wants to see before any axis is asked for; the axis that their class fixes."""
        axes = {name: declared_axis(part) for name, part in self.modules.items()}
        return {name: axis for name, axis in axes.items() if axis is not None}

    def watch(self, layer: str, output: Any) -> int | None:
        """Note an output of a watched layer: what it is decides for layers whose class does not.

        Returns the axis (from the front) of its filters; None where it tells nothing.
        """
        if not isinstance(output, Tensor) or output.ndim not in (3, 4):
            return None
        axis = self._of_class(layer, output)
        if axis is None:
            return None
        size = output.shape[axis]
        if output.ndim == 4 and axis == 3:
            self.noted += not self.channels_last_seen
            self.channels_last_seen = True
        elif output.ndim == 4 and declared_axis(self.modules[layer]) == -1:  # it was not counted among the others
            self._note(self.map_channels, size)
        if output.ndim == 3:
            self._note(self.sequence_features if axis == 2 else self.series_channels, size)
        return axis

    def _note(self, sizes: set[int], size: int) -> None:
        self.noted += size not in sizes
        sizes.add(size)

    def _of_class(self, layer: str, output: Tensor, *, entering: bool = False) -> int | None:
        """The axis (from the front) that a layer's class fixes and the sizes of its output bear out; None: neither."""
        part = self.modules.get(layer)
        fixed = None if part is None else declared_axis(part)
        if part is None or fixed is None:
            return None
        size = _own_size(part, entering=entering) if fixed == -1 else None
        if size is None:
            return fixed % output.ndim
        fitting = [axis for axis in (1, output.ndim - 1) if output.shape[axis] == size]
        return fitting[0] if len(fitting) == 1 else None

    def said(self, layer: str) -> int | None:
        """The axis that is given for a layer, or that its class fixes; None where neither says it."""
        by_name = self.given.get(layer) if isinstance(self.given, Mapping) else None
        if by_name is not None:
            return by_name
        part = self.modules.get(layer)
        fixed = None if part is None else declared_axis(part)
        return fixed if fixed is not None or isinstance(self.given, Mapping) else self.given

    def axis(self, layer: str, output: Any, *, entering: bool = False) -> int:
        """Axis (from the front) of the filters in `output` of `layer`; `DataError` if there is none or it is open.

        entering : `output` is what goes into the layer.
        """
        came = without_filters(output)
        if came is not None:
            raise no_filters(layer, came)
        given = self.given.get(layer) if isinstance(self.given, Mapping) else self.given
        if given is None or not isinstance(self.given, Mapping):
            fixed = 1 if output.ndim == 2 else self._of_class(layer, output, entering=entering)
            if fixed is not None:
                return fixed
        if given is not None:
            if not -output.ndim <= given < output.ndim or given % output.ndim == 0:
                raise DataError(
                    f"layer {layer!r} gives {output.ndim} dimensions, the first of them images; channel axis {given} "
                    f"is not one of the others; name one of 1 to {output.ndim - 1}, or -1 for the last"
                )
            return given % output.ndim
        if layer in self.modules and declared_axis(self.modules[layer]) is not None:
            raise open_axis(layer, output, "and the sizes do not tell on which axis its class works")
        return self._of_series(layer, output) if output.ndim == 3 else self._of_maps(layer, output)

    def _of_series(self, layer: str, output: Tensor) -> int:
        first, last = output.shape[1], output.shape[2]
        if last in self.sequence_features and first not in self.map_channels:
            return 2
        if first in self.series_channels and last not in self.sequence_features:
            return 1
        raise open_axis(
            layer, output, "maps with their positions in one row, or a sequence: nothing in the network tells"
        )

    def _of_maps(self, layer: str, output: Tensor) -> int:
        if self.channels_last_seen:
            raise open_axis(layer, output, "and this network holds maps with channels first and with channels last")
        if self.sequence_features and output.shape[1] not in self.map_channels:
            raise open_axis(layer, output, "and no convolution or norm of this network has as many channels")
        return 1


def no_filters(layer: str, came: str) -> DataError:
    """The error for a layer that gives nothing that filters can be found in."""
    return DataError(
        f"layer {layer!r} must give maps (N, C, H, W), sequences (N, T, C) or vectors (N, C) of floating-point "
        f"numbers; came {came}; choose a layer inside it"
    )


class OpenAxisError(DataError):
    """Nothing says where the filters of a layer are."""


def open_axis(layer: str, output: Tensor, reason: str) -> OpenAxisError:
    """The error for a layer of which nothing says where its filters are."""
    return OpenAxisError(
        f"layer {layer!r} gives {tuple(output.shape)}, {reason}; say where the filters are, "
        f"channel_axis={{{layer!r}: 1}} or {{{layer!r}: -1}}"
    )


def _channel_counts(part: nn.Module) -> tuple[int, ...]:
    """Numbers of channels that a module with channels on axis 1 gives."""
    if declared_axis(part) != 1:
        return ()
    names = ("out_channels", "num_features", "num_channels")
    counts = [getattr(part, name, None) for name in names] + list(getattr(part, "normalized_shape", ()))
    return tuple(count for count in counts if isinstance(count, int))


def channels_first(output: Tensor, axis: int) -> Tensor:
    """(N, C, positions...) of an output whose channels are on `axis`.

    >>> import torch
    >>> channels_first(torch.zeros(2, 7, 3), 2).shape
    torch.Size([2, 3, 7])
    """
    return output if axis == 1 else output.movedim(axis, 1)
