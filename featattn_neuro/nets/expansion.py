"""The convolution behind the first gained map, computed once for each filter and summed with the gains.

A convolution is linear: conv(g * a) = sum over c of g[c] conv(a[c]), plus the bias. Below the cut a is fixed, so the
terms conv(a[c]) of every image are computed once; what tasks and updates need is then a sum of C maps with T x C
weights - a matrix product, the size of the kernel fewer multiplications than the convolution - and its gradient the
transposed product. Shifts b[c] add the sum of b[c] conv(1), the same for all images. The terms of an image are read
from memory twice an update, whatever the number of tasks, so this pays for several tasks that learn from the same
batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from featattn_neuro.nets.modulation import Modulation, scaled

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
        self, rows: Sequence[torch.Tensor], layers: Sequence[str], tasks: int, groups: int, *, shift: bool = False
    ) -> Expanded | None:
        """The terms of all images, or None where that does not pay (few tasks, much memory, a GPU) or rows are drawn.

        groups : how many gains a task has at the site, the filters (one term each) or 1 (one term in all, also where
        there is no gain). shift : whether a shift per filter acts there too.
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
        for begin in range(0, len(maps), 16):
            terms[begin : begin + 16, :groups] = self._terms(maps[begin : begin + 16], groups)
        others = tuple(row for place, row in enumerate(rows) if place != self.row)
        ones = self._terms(torch.ones_like(maps[:1]), part.in_channels)[0].flatten(1) if shift else None
        return Expanded(self, tuple(layers), terms.flatten(2), (height, width, part.out_channels), others, ones)

    def _terms(self, maps: torch.Tensor, groups: int) -> torch.Tensor:
        """(N, groups, H, W, K): the convolution without its bias of each filter's map, or of all together."""
        part = self.module
        weight = part.weight.detach()
        if groups > 1:  # one convolution per filter: input channel c with its own copy of the kernels
            weight = weight.transpose(0, 1).reshape(-1, 1, *part.kernel_size)
        found = nn.functional.conv2d(maps, weight, None, part.stride, part.padding, part.dilation, groups)
        return found.unflatten(1, (groups, -1)).permute(0, 1, 3, 4, 2)


def _fixed(row: Any) -> bool:
    """Whether a row set gives the same rows every time: a tensor or a file, not images under random augmentation."""
    return isinstance(row, torch.Tensor) or bool(getattr(row, "fixed", False))


@dataclass(frozen=True)
class Expanded:
    """Terms (N, groups + 1, H * W * K) of N images, the last one the bias; other rows of the prefix (N, ...) each.

    ones : (C, H * W * K) terms of maps that are 1 everywhere, which shifts multiply; None where there is no shift.
    """

    place: FirstConvolution
    layers: tuple[str, ...]
    terms: torch.Tensor
    shape: tuple[int, int, int]
    others: tuple[torch.Tensor, ...]
    ones: torch.Tensor | None = None

    def features(self, images: torch.Tensor, acting: Mapping[str, Any]) -> torch.Tensor:
        """Features (T * B, F) in task-major order, for B positions of images that all tasks share.

        acting : layer to gains (T, C), or to a `Modulation` without factors per position.
        """
        sites = {layer: _ImageMajor.of(acting[layer]) for layer in self.layers}
        first, groups = sites[self.place.layer], self.terms.shape[1] - 1
        tasks = first.tasks
        gain = self.terms.new_ones(tasks, groups) if first.gain is None else first.gain[:, :groups]
        base = None if first.shift is None or self.ones is None else first.shift @ self.ones
        summed = _Summed.apply(gain, base, self.terms, images.tolist())
        # rows are image-major from here: the product writes them so; their memory is in channels-last order
        convolved = summed.view(-1, *self.shape).permute(0, 3, 1, 2)
        others = [row[images].repeat_interleave(tasks, 0) for row in self.others]
        found = self.place.after(*others, convolved, *sites.values())
        return found.unflatten(0, (-1, tasks)).transpose(0, 1).flatten(0, 1)


@dataclass(frozen=True)
class _ImageMajor:
    """Gains and shifts (T, C) that act on rows (B * T, C, ...): what a cut network takes for a site."""

    gain: torch.Tensor | None
    shift: torch.Tensor | None
    tasks: int

    @classmethod
    def of(cls, acting: torch.Tensor | Modulation) -> _ImageMajor:
        gain, shift = (acting, None) if isinstance(acting, torch.Tensor) else (acting.gain, acting.shift)
        return cls(gain, shift, next(len(part) for part in (gain, shift) if part is not None))

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        maps = rows.unflatten(0, (-1, self.tasks))
        ones = [1] * (rows.ndim - 2)
        if self.gain is not None:
            maps = scaled(maps, self.gain.view(1, *self.gain.shape, *ones))
        if self.shift is not None:
            maps = maps + self.shift.view(1, *self.shift.shape, *ones)
        return maps.flatten(0, 1)


class _Summed(torch.autograd.Function):
    """Sum of an image's terms with each task's gains, (B, T, M); images one by one, so that no term is copied.

    base : (T, M) that every image gets on top, or None.
    """

    @staticmethod
    def forward(
        ctx: Any, gains: torch.Tensor, base: torch.Tensor | None, terms: torch.Tensor, images: list[int]
    ) -> torch.Tensor:
        ctx.terms, ctx.images = terms, images
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
        of_gains = of_base = None
        if ctx.needs_input_grad[0]:
            total = gradient.new_zeros(gradient.shape[1], ctx.terms.shape[1])
            for place, image in enumerate(ctx.images):
                total.addmm_(gradient[place], ctx.terms[image].T)
            of_gains = total[:, :-1]
        if ctx.needs_input_grad[1]:
            of_base = gradient.sum(dim=0)
        return of_gains, of_base, None, None
