"""The counts of `packed_sort`, with whole-array operations: plain NumPy, or torch tensors where they lie.

Slower than compiled code and equal to it, count for count. One text serves both libraries; `space_of` says which.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

BLOCK_NUMBERS = 4_000_000
"""Responses sorted at a time; the copies made of them are about ten times as large."""


def is_tensor(values: Any) -> bool:
    """Whether `values` is a torch tensor; torch is not imported to find out."""
    return type(values).__module__.split(".")[0] == "torch" and hasattr(values, "detach")


class NumpySpace:
    """The few operations that NumPy and torch name differently."""

    def integers(self, values: Any) -> Any:
        return values.astype(np.int64)

    def argsort(self, values: Any) -> Any:
        return np.argsort(values, axis=-1, kind="stable")

    def take(self, values: Any, places: Any) -> Any:
        return np.take_along_axis(values, places, axis=-1)

    def cumulative_maximum(self, values: Any) -> Any:
        return np.maximum.accumulate(values, axis=-1)

    def cumulative_sum(self, values: Any) -> Any:
        return np.cumsum(values, axis=-1)

    def flip(self, values: Any) -> Any:
        return values[..., ::-1]

    def places(self, like: Any) -> Any:
        return np.broadcast_to(np.arange(like.shape[-1]), like.shape)

    def where(self, condition: Any, one: Any, other: int) -> Any:
        return np.where(condition, one, other)

    def changes(self, ordered: Any) -> Any:
        first = np.ones((*ordered.shape[:-1], 1), dtype=bool)
        return np.concatenate([first, ordered[..., 1:] != ordered[..., :-1]], axis=-1)

    def like(self, values: ArrayLike, _: Any) -> Any:
        return np.asarray(values)

    def floats(self, values: Any) -> Any:
        return values.astype(np.float64)


class TorchSpace:
    """The same of torch, on the device of the tensors it is handed."""

    def __init__(self) -> None:
        import torch

        self.torch = torch

    def integers(self, values: Any) -> Any:
        return values.to(self.torch.int64)

    def argsort(self, values: Any) -> Any:
        return self.torch.argsort(values, dim=-1, stable=True)

    def take(self, values: Any, places: Any) -> Any:
        return self.torch.take_along_dim(values, places, dim=-1)

    def cumulative_maximum(self, values: Any) -> Any:
        return self.torch.cummax(values, dim=-1).values

    def cumulative_sum(self, values: Any) -> Any:
        return self.torch.cumsum(values, dim=-1)

    def flip(self, values: Any) -> Any:
        return self.torch.flip(values, dims=(-1,))

    def places(self, like: Any) -> Any:
        return self.torch.arange(like.shape[-1], device=like.device).expand(like.shape)

    def where(self, condition: Any, one: Any, other: int) -> Any:
        return self.torch.where(condition, one, other)

    def changes(self, ordered: Any) -> Any:
        first = self.torch.ones((*ordered.shape[:-1], 1), dtype=self.torch.bool, device=ordered.device)
        return self.torch.cat([first, ordered[..., 1:] != ordered[..., :-1]], dim=-1)

    def like(self, values: ArrayLike, tensor: Any) -> Any:
        return self.torch.as_tensor(np.ascontiguousarray(values), device=tensor.device)

    def floats(self, values: Any) -> Any:
        return values.to(self.torch.float64)


def space_of(values: Any) -> Any:
    """Operations for `values`: of torch for tensors, else of NumPy."""
    return TorchSpace() if is_tensor(values) else NumpySpace()


class OrderedBlock:
    """A block of units (units, n), sorted once: where each response came from, and where its ties begin and end."""

    def __init__(self, block: Any) -> None:
        self.space = space_of(block)
        self.order = self.space.argsort(block)
        ordered = self.space.take(block, self.order)
        places = self.space.places(ordered)
        first = self.space.changes(ordered)
        self.start = self.space.cumulative_maximum(self.space.where(first, places, 0))
        # from the other end, the last of each tie is where a change begins
        n = ordered.shape[-1]
        back = self.space.changes(self.space.flip(ordered))
        self.end = n - 1 - self.space.flip(self.space.cumulative_maximum(self.space.where(back, places, 0)))

    def inside(self, member: Any) -> tuple[Any, Any, Any]:
        """Of boolean (n,): whether each ordered response is a member, how many members are below it, how many equal."""
        mine = self.space.integers(self.space.like(member, self.order))[self.order]
        upto = self.space.cumulative_sum(mine)
        below = self.space.take(upto - mine, self.start)
        return mine, below, self.space.take(upto, self.end) - below

    def two_class_counts(self, first: Any, second: Any) -> tuple[Any, Any, Any]:
        """wins, squares1, squares0 of `packed_sort.two_class_counts`, (units,) each."""
        mine1, below1, equal1 = self.inside(first)
        mine0, below0, equal0 = self.inside(second)
        won, lost = 2 * below0 + equal0, 2 * below1 + equal1
        return (mine1 * won).sum(-1), (mine1 * won * won).sum(-1), (mine0 * lost * lost).sum(-1)

    def centred_ranks(self) -> Any:
        """`packed_sort.centred_ranks` of the block, float64."""
        n = self.order.shape[-1]
        ranks = 0.5 * self.space.floats(self.start + self.end + 1 - n)
        # back to the places where the responses came from
        return self.space.take(ranks, self.space.argsort(self.order))
