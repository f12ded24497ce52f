"""What attention may do to a layer's maps: multiply per filter, per layer or per position, and add per filter.

One equation serves learning, placing and theory: y -> f y + b, with f = g s (multiplicative) or f = 1 + (g - 1) +
(s - 1) (additive, the sum of Lindsay & Miller 2018: (1 + beta f + beta_s s) relu(x)), g one number per filter or layer,
s one per position, b one per filter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from featattn_neuro.errors import DataError, choose

COMBINATIONS = ("multiplicative", "additive")


def combined_factor(gain: torch.Tensor | None, spatial: torch.Tensor | None, combination: str) -> torch.Tensor | None:
    """g s, or g + s - 1; tensors that broadcast against each other. None where both are None.

    >>> combined_factor(torch.tensor(1.5), torch.tensor(0.5), "additive").item()
    1.0
    >>> combined_factor(torch.tensor(1.5), torch.tensor(0.5), "multiplicative").item()
    0.75
    """
    choose(combination, COMBINATIONS, "combination")
    if gain is None or spatial is None:
        return spatial if gain is None else gain
    return gain * spatial if combination == "multiplicative" else gain + (spatial - 1)


def scaled(maps: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """maps * factor, which broadcasts, with a gradient that holds less memory than autograd's own."""
    found: torch.Tensor = _Scaled.apply(maps, factor)
    return found


class _Scaled(torch.autograd.Function):
    """maps * factor; backward holds one tensor of the maps' size beside the incoming gradient, autograd's own two."""

    @staticmethod
    def forward(ctx: Any, maps: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(maps, factor)
        return maps * factor

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        maps, factor = ctx.saved_tensors
        by_factor = (gradient * maps).sum_to_size(factor.shape) if ctx.needs_input_grad[1] else None
        return gradient * factor if ctx.needs_input_grad[0] else None, by_factor


@dataclass(frozen=True)
class Modulation:
    """y -> f y + b on one layer's maps, for T tasks at once; the maps' rows are in task-major order.

    Parameters
    ----------
    gain : (T, C) per filter, or (T, 1) per layer. shift : (T, C), units of the maps. spatial : (T, H, W).
    combination : of gain and spatial, "multiplicative" or "additive".

    >>> doubled = Modulation(gain=torch.tensor([[2.0]]), shift=torch.tensor([[1.0]]))
    >>> doubled(torch.ones(1, 1, 1, 1)).item()
    3.0
    """

    gain: torch.Tensor | None = None
    shift: torch.Tensor | None = None
    spatial: torch.Tensor | None = None
    combination: str = "multiplicative"

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (T * B, C, ...) modulated; `DataError` where spatial gains do not have the maps' size."""
        tasks = next((len(v) for v in (self.gain, self.shift, self.spatial) if v is not None), None)
        if tasks is None:
            return rows
        maps = rows.unflatten(0, (tasks, -1))
        ones = [1] * (maps.ndim - 3)
        gain = None if self.gain is None else self.gain.view(tasks, 1, -1, *ones)
        spatial = None
        if self.spatial is not None:
            if maps.shape[3:] != self.spatial.shape[1:]:
                raise DataError(
                    f"spatial gains have {tuple(self.spatial.shape[1:])} positions; the maps have "
                    f"{tuple(maps.shape[3:])}; learn them on images of this size"
                )
            spatial = self.spatial[:, None, None]
        factor = combined_factor(gain, spatial, self.combination)
        if factor is not None:
            maps = scaled(maps, factor)
        if self.shift is not None:
            maps = maps + self.shift.view(tasks, 1, -1, *ones)
        return maps.flatten(0, 1)
