"""The convolution behind the first gained map, computed once for each filter and summed with the gains.

A convolution is linear: conv(g a + b) = sum over c of g[c] conv(a[c]) + b[c] conv(1), plus the bias. Below the cut a is
fixed, so the terms conv(a[c]) of every image are computed once (conv(1), of shifts b, is the same for all images).
What tasks and updates need is then a sum of C maps with T x C weights - a matrix product, the size of the kernel fewer
multiplications than the convolution - and its gradient the transposed product. The terms of an image are read from
memory twice an update, whatever the number of tasks, so this pays for several tasks that learn from the same batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from featattn_neuro.nets.modulation import modulated

MOST_BYTES = 400_000_000
"""Terms of a convolution that are kept in memory; more than that, and it is computed anew in every update."""

TASKS_TOGETHER = 20
"""Tasks that learn in one pass: more spill the maps behind the convolution out of the cache."""

_MULTIPLICATIONS_PER_NUMBER = 30
"""A number of a stored term must save so many multiplications of the convolution to be worth its way from memory."""


@dataclass(frozen=True)
class FirstConvolution:
    """Where a cut network can be expanded: the only convolution that takes the first gained map, and what follows.

    layer : the gained site. module : the convolution. row : position of its map among the rows of the prefix.
    after : from the other rows (T * B, ...), what the convolution gave, and gains of all sites, to features.
    """

    layer: str
    module: nn.Conv2d
    row: int
    after: fx.GraphModule

    def expand(
        self, rows: Sequence[torch.Tensor], layers: Sequence[str], tasks: int, groups: int, *, shifts: bool = False
    ) -> Expanded | None:
        """The terms of all images, or None where that does not pay (few tasks, much memory, a GPU) or rows are drawn.

        groups : how many gains a task has at the site, the filters (one term each) or 1 (one term in all). shifts :
            whether a shift per filter acts there too.
        """
        maps, part = rows[self.row], self.module
        if part.weight.device.type != "cpu" or not all(_fixed(row) for row in rows):
            return None
        saved = part.in_channels * part.kernel_size[0] * part.kernel_size[1] * tasks
        with torch.no_grad():
            height, width = part(maps[:1]).shape[2:]
        numbers = part.out_channels * height * width * (groups + 1)
        if saved < _MULTIPLICATIONS_PER_NUMBER * groups or numbers * len(maps) * 4 > MOST_BYTES:
            return None
        terms = part.weight.new_empty(len(maps), groups + 1, height, width, part.out_channels)
        terms[:, groups] = 0.0 if part.bias is None else part.bias.detach()
        weight = part.weight.detach()
        if groups > 1:  # one convolution per filter: input channel c with its own copy of the kernels
            weight = weight.transpose(0, 1).reshape(-1, 1, *part.kernel_size)
        for begin in range(0, len(maps), 16):
            found = nn.functional.conv2d(
                maps[begin : begin + 16], weight, None, part.stride, part.padding, part.dilation, groups
            )
            terms[begin : begin + 16, :groups] = found.unflatten(1, (groups, -1)).permute(0, 1, 3, 4, 2)
        others = tuple(row for place, row in enumerate(rows) if place != self.row)
        of_ones = self._of_ones(maps) if shifts else None
        return Expanded(self, tuple(layers), terms.flatten(2), (height, width, part.out_channels), others, of_ones)

    def _of_ones(self, maps: Any) -> torch.Tensor:
        """(C, H * W * K) what the convolution gives for a map of ones of each filter; zeros around it, as always."""
        part, channels = self.module, self.module.in_channels
        kernels = part.weight.detach().transpose(0, 1).reshape(-1, 1, *part.kernel_size)
        ones = part.weight.new_ones(1, channels, *maps.shape[2:])
        found = nn.functional.conv2d(ones, kernels, None, part.stride, part.padding, part.dilation, channels)
        return found[0].unflatten(0, (channels, -1)).permute(0, 2, 3, 1).flatten(1)


def _fixed(row: Any) -> bool:
    """Whether a row set gives the same rows every time: a tensor or a file, not images under random augmentation."""
    return isinstance(row, torch.Tensor) or bool(getattr(row, "fixed", False))


@dataclass(frozen=True)
class Expanded:
    """Terms (N, groups + 1, H * W * K) of N images, the last one the bias; other rows of the prefix (N, ...) each.

    of_ones : (C, H * W * K) terms of shifts, the same for all images; None where none act.
    """

    place: FirstConvolution
    layers: tuple[str, ...]
    terms: torch.Tensor
    shape: tuple[int, int, int]
    others: tuple[torch.Tensor, ...]
    of_ones: torch.Tensor | None = None

    def features(self, images: torch.Tensor, factors: Mapping[str, Any]) -> torch.Tensor:
        """Features (T * B, F) in task-major order, for B positions of images that all tasks share.

        factors : layer to gains (T, C), or to a `modulation.Modulation` of gains and shifts.
        """
        gain, shift = _parts(factors[self.place.layer])
        tasks, groups = len(gain if gain is not None else shift), self.terms.shape[1] - 1  # type: ignore[arg-type]
        weights = self.terms.new_ones(tasks, groups) if gain is None else gain[:, :groups]
        base = None if shift is None or self.of_ones is None else shift @ self.of_ones
        summed = _Summed.apply(weights, base, self.terms, images.tolist())
        # rows are image-major from here: the product writes them so; their memory is in channels-last order
        convolved = summed.view(-1, *self.shape).permute(0, 3, 1, 2)
        others = [row[images].repeat_interleave(tasks, 0) for row in self.others]
        behind = [_ImageMajor(*_parts(factors[layer])) for layer in self.layers]
        found = self.place.after(*others, convolved, *behind)
        return found.unflatten(0, (-1, tasks)).transpose(0, 1).flatten(0, 1)


def _parts(factor: Any) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Gains and shifts (T, C) of what acts at a site."""
    return (factor, None) if isinstance(factor, torch.Tensor) else (factor.gain, factor.shift)


class _ImageMajor:
    """Gains and shifts (T, C) that act on rows (B * T, C, ...): what a cut network takes for a site."""

    def __init__(self, gain: torch.Tensor | None, shift: torch.Tensor | None) -> None:
        self.gain, self.shift = gain, shift

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        first = self.gain if self.gain is not None else self.shift
        assert first is not None  # the site would not be one
        shape = (1, *first.shape, *[1] * (rows.ndim - 2))
        gain, shift = (None if one is None else one.view(shape) for one in (self.gain, self.shift))
        return modulated(rows, (-1, len(first)), gain, shift)


class _Summed(torch.autograd.Function):
    """Sum of an image's terms with each task's gains, (B, T, M), plus what is the same for all images (T, M).

    Images one by one, so that no term is copied.
    """

    @staticmethod
    def forward(
        ctx: Any, gains: torch.Tensor, base: torch.Tensor | None, terms: torch.Tensor, images: list[int]
    ) -> torch.Tensor:
        ctx.terms, ctx.images, ctx.based = terms, images, base is not None
        weights = torch.cat([gains, gains.new_ones(len(gains), 1)], dim=1)
        out = gains.new_empty(len(images), len(gains), terms.shape[2])
        for place, image in enumerate(images):
            if base is None:
                torch.mm(weights, terms[image], out=out[place])
            else:
                torch.addmm(base, weights, terms[image], out=out[place])
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        total = None
        if ctx.needs_input_grad[0]:
            total = gradient.new_zeros(gradient.shape[1], ctx.terms.shape[1])
            for place, image in enumerate(ctx.images):
                total.addmm_(gradient[place], ctx.terms[image].T)
            total = total[:, :-1]
        return total, gradient.sum(dim=0) if ctx.based else None, None, None
