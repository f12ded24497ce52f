"""Where a layer's filters are: the channel axis by a declared rule, refused where it is ambiguous."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from featattn_neuro.errors import DataError
from featattn_neuro.nets.layers import stage_of

ChannelAxis = int | Mapping[str, int] | None
"""None: by rule; one axis for all layers; or an axis per layer name."""


def declared_axis(part: nn.Module) -> int | None:
    """The channel axis that a module's class fixes: 1 for convolutions and batch norms, -1 for linear and layer norm.

    >>> declared_axis(nn.Conv2d(1, 1, 1)), declared_axis(nn.Linear(1, 1)), declared_axis(nn.ReLU())
    (1, -1, None)
    """
    if isinstance(part, nn.modules.batchnorm._NormBase | nn.GroupNorm) or stage_of(part) == "conv":
        return 1
    # timm's LayerNorm2d derives from LayerNorm and works on (N, C, H, W)
    if type(part).__name__.endswith("2d"):
        return 1
    if isinstance(part, nn.Linear | nn.LayerNorm):
        return -1
    return None


class ChannelRule:
    """Channel axis of each layer's output.

    Rule: vectors (N, C) have axis 1. A module whose class fixes the axis has that one (`declared_axis`). Otherwise
    sequences (N, T, C) have the last, maps (N, C, H, W) axis 1, unless the network also works on maps (N, H, W, C):
    then nothing tells which is meant, and the layer is refused until `channel_axis` says it.
    """

    def __init__(self, module: nn.Module, given: ChannelAxis = None) -> None:
        self.given = given
        self.modules = dict(module.named_modules())
        self.channels_last_seen = False

    def watched(self) -> list[str]:
        """Layers whose outputs `watch` wants to see before any axis is asked for."""
        return [name for name, part in self.modules.items() if declared_axis(part) == -1]

    def watch(self, output: Any) -> None:
        """Note an output of a watched layer: four dimensions make layers of undeclared axis ambiguous."""
        if isinstance(output, Tensor) and output.ndim == 4:
            self.channels_last_seen = True

    def axis(self, layer: str, output: Any) -> int:
        """Axis (from the front) of the filters in `output` of `layer`; `DataError` if there is none or it is open."""
        if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4) or not output.is_floating_point():
            came = f"{tuple(output.shape)}, {output.dtype}" if isinstance(output, Tensor) else type(output).__name__
            raise DataError(
                f"layer {layer!r} must give maps (N, C, H, W), sequences (N, T, C) or vectors (N, C) of floating-point "
                f"numbers; came {came}; choose a layer inside it"
            )
        given = self.given.get(layer) if isinstance(self.given, Mapping) else self.given
        if given is not None:
            if not given % output.ndim >= 1:
                raise DataError(f"layer {layer!r} gives {output.ndim} dimensions; channel axis {given} is not one")
            return given % output.ndim
        if output.ndim == 2:
            return 1
        part = self.modules.get(layer)
        fixed = None if part is None else declared_axis(part)
        if fixed is not None:
            return fixed % output.ndim
        if output.ndim == 3:
            if isinstance(part, nn.Flatten):  # maps (N, C, H, W) flattened keep C in front, sequences do not
                raise DataError(
                    f"layer {layer!r} flattens to {tuple(output.shape)}: maps or a sequence, nothing tells; say "
                    f"where the filters are, channel_axis={{{layer!r}: 1}} or {{{layer!r}: -1}}"
                )
            return 2
        if self.channels_last_seen:
            raise DataError(
                f"layer {layer!r} gives {tuple(output.shape)}, and this network holds maps with channels first and "
                f"with channels last: say which, channel_axis={{{layer!r}: 1}} or {{{layer!r}: -1}}"
            )
        return 1


def channels_first(output: Tensor, axis: int) -> Tensor:
    """(N, C, positions...) of an output whose channels are on `axis`.

    >>> import torch
    >>> channels_first(torch.zeros(2, 7, 3), 2).shape
    torch.Size([2, 3, 7])
    """
    return output if axis == 1 else output.movedim(axis, 1)
