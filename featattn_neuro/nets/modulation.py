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


def modulated(
    rows: torch.Tensor, groups: tuple[int, int], factor: torch.Tensor | None, shift: torch.Tensor | None = None
) -> torch.Tensor:
    """factor * rows + shift, each of which broadcasts against the rows in their `groups`; rows as they are for neither.

    rows : (N, ...). groups : the two axes that the first is seen as, e.g. (tasks, -1).

    >>> modulated(torch.ones(4, 1), (2, -1), torch.tensor([2.0, 3.0]).view(2, 1, 1)).flatten()
    tensor([2., 2., 3., 3.])
    """
    if factor is None and shift is None:
        return rows
    found: torch.Tensor = _Modulated.apply(rows, groups, factor, shift)
    return found


class _Modulated(torch.autograd.Function):
    """factor * rows + shift. What it gives is no view, so that a ReLU may work on it in place without copies of it.

    Backward holds one tensor of the rows' size beside the incoming gradient, autograd's own product two.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, groups: tuple[int, int], factor: torch.Tensor | None, shift: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.groups, ctx.shift_shape = groups, None if shift is None else shift.shape
        ctx.save_for_backward(rows if ctx.needs_input_grad[2] else None, factor)
        dtype = rows.dtype
        for one in (factor, shift):
            dtype = dtype if one is None else torch.promote_types(dtype, one.dtype)
        out = torch.empty_like(rows, dtype=dtype)
        maps, grouped = rows.unflatten(0, groups), out.unflatten(0, groups)
        if factor is not None:
            maps = torch.mul(maps, factor, out=grouped)
        if shift is not None:
            torch.add(maps, shift, out=grouped)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, factor = ctx.saved_tensors
        grouped = gradient.unflatten(0, ctx.groups)
        by_rows = by_factor = by_shift = None
        if ctx.needs_input_grad[2]:
            by_factor = (grouped * rows.unflatten(0, ctx.groups)).sum_to_size(factor.shape)
        if ctx.needs_input_grad[3]:
            by_shift = grouped.sum_to_size(ctx.shift_shape)
        if ctx.needs_input_grad[0]:
            by_rows = gradient if factor is None else (grouped * factor).flatten(0, 1)
        return by_rows, None, by_factor, by_shift


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
        ones = [1] * (rows.ndim - 2)
        gain = None if self.gain is None else self.gain.view(tasks, 1, -1, *ones)
        spatial = None
        if self.spatial is not None:
            if rows.shape[2:] != self.spatial.shape[1:]:
                raise DataError(
                    f"spatial gains have {tuple(self.spatial.shape[1:])} positions; the maps have "
                    f"{tuple(rows.shape[2:])}; learn them on images of this size"
                )
            spatial = self.spatial[:, None, None]
        factor = combined_factor(gain, spatial, self.combination)
        shift = None if self.shift is None else self.shift.view(tasks, 1, -1, *ones)
        return modulated(rows, (tasks, -1), factor, shift)
