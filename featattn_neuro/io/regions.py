"""Parts of a stored recording as dask arrays whose graph holds what is asked for, and nothing else.

Left to dask, a layer picked out of a recording carries the steps of all layers with it, a mask takes its positions out
of whole blocks, and the values are copied together at the end: that costs several times what reading costs. Here a
slice, or positions that are neighbours, make a smaller region of the files, and a region one array with few steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
from dask.array.core import finalize

from featattn_neuro.io.recording_chunks import StoredLayer

BLOCK_BYTES = 2**27
"""What one step of dask reads at most; dask's own default."""

_MOST_RUNS = 64
"""More runs of neighbours than this are left to dask: each costs a step of its own."""

Span = tuple[int, int]


@dataclass(frozen=True)
class Region:
    """A block (reduction, stimulus, unit) of a recording's layers side by side; axes in `dropped` have length 1.

    What dask wants of an array: shape, dtype, ndim, and basic indexing.
    """

    layers: tuple[StoredLayer, ...]
    spans: tuple[Span, Span, Span]
    dropped: tuple[int, ...] = ()

    @property
    def kept(self) -> list[int]:
        return [axis for axis in range(3) if axis not in self.dropped]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.spans[axis][1] - self.spans[axis][0] for axis in self.kept)

    @property
    def ndim(self) -> int:
        return len(self.kept)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.layers[0].dtype

    def narrowed(self, key: Sequence[int | slice]) -> Region:
        """The part that integers and slices of step 1 leave."""
        spans, dropped = list(self.spans), list(self.dropped)
        for axis, one in zip(self.kept, key, strict=False):
            low, high = self.spans[axis]
            if isinstance(one, slice):
                start, stop, _ = one.indices(high - low)
                spans[axis] = low + start, low + max(start, stop)
            else:
                place = range(low, high)[one]
                spans[axis] = place, place + 1
                dropped.append(axis)
        return Region(self.layers, (spans[0], spans[1], spans[2]), tuple(sorted(dropped)))

    def __getitem__(self, index: Any) -> np.ndarray:
        key = index if isinstance(index, tuple) else (index,)
        if all(not isinstance(one, slice) or one.step in (None, 1) for one in key):
            return self.narrowed(key).read()
        return self.read()[key]

    def read(self) -> np.ndarray:
        """The values; `StoreError` where a chunk is missing or damaged."""
        (low, high), rows = self.spans[2], slice(*self.spans[1])
        parts, start = [], 0
        for layer in self.layers:
            first, last = max(low - start, 0), min(high - start, layer.shape[2])
            if first < last:
                parts.append(layer[slice(*self.spans[0]), rows, first:last])
            start += layer.shape[2]
        if not parts:
            return np.empty(self.shape, self.dtype)
        found = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        return found.reshape(self.shape)

    def chunks(self, block_bytes: int | None = None) -> tuple[tuple[int, ...], ...]:
        """Blocks that are read at once: of one layer, and of as many whole chunks as `block_bytes` hold."""
        lengths = [high - low for low, high in self.spans]
        edges = np.cumsum([0] + [layer.shape[2] for layer in self.layers])
        inside = [int(edge) for edge in edges if self.spans[2][0] < edge < self.spans[2][1]]
        widths = np.diff([self.spans[2][0], *inside, self.spans[2][1]]).tolist()
        together = max(1, (block_bytes or BLOCK_BYTES) // max(1, lengths[0] * max(widths) * self.dtype.itemsize))
        step = self.layers[0].layer.rows
        rows = together // step * step if together >= step else together
        whole = ((lengths[0],), _blocks(self.spans[1], rows), tuple(widths))
        return tuple(whole[axis] for axis in self.kept)


def _blocks(span: Span, rows: int) -> tuple[int, ...]:
    """Lengths of the blocks of a span, cut at multiples of `rows` so that no stored chunk is in two of them."""
    edges = [span[0], *range((span[0] // rows + 1) * rows, span[1], rows), span[1]]
    return tuple(high - low for low, high in pairwise(edges)) if span[1] > span[0] else (0,)


def as_slices(positions: Any, length: int) -> list[slice] | None:
    """Increasing positions as few slices; None where they are many, or not increasing.

    >>> as_slices([0, 1, 2, 7, 8], 10)
    [slice(0, 3, None), slice(7, 9, None)]
    >>> as_slices([3, 2], 10) is None, as_slices(np.array([False, True, True]), 3)
    (True, [slice(1, 3, None)])
    """
    found = np.asarray(positions)
    if found.ndim != 1 or found.size == 0 or (found.dtype == bool and found.size != length):
        return None
    if found.dtype == bool:
        found = np.flatnonzero(found)
    if found.dtype.kind not in "iu" or found.size == 0:
        return None
    found = np.where(found < 0, found + length, found)
    steps = np.diff(found)
    breaks = np.flatnonzero(steps != 1) + 1
    if (steps <= 0).any() or found[0] < 0 or found[-1] >= length or len(breaks) >= _MOST_RUNS:
        return None
    return [slice(int(run[0]), int(run[-1]) + 1) for run in np.split(found, breaks)]


class RegionArray(da.Array):
    """As dask's; slices, integers and runs of neighbours narrow the region it is made from."""

    region: Region
    token: str
    block_bytes: int | None

    def __getitem__(self, index: Any) -> Any:
        key = index if isinstance(index, tuple) else (index,)
        lists = [axis for axis, one in enumerate(key) if isinstance(one, list | np.ndarray) and np.ndim(one) == 1]
        plain = all(_is_basic(one) for axis, one in enumerate(key) if axis not in lists)
        if not plain or len(key) > self.ndim or len(lists) > 1:
            return super().__getitem__(index)
        if not lists:
            return region_array(self.region.narrowed(key), self.token, self.block_bytes)
        axis = lists[0]
        slices = as_slices(key[axis], self.shape[axis])
        if slices is None or not all(isinstance(one, slice) for one in (*key[:axis], *key[axis + 1 :])):
            return super().__getitem__(index)
        parts = [self[(*key[:axis], one, *key[axis + 1 :])] for one in slices]
        return parts[0] if len(parts) == 1 else da.concatenate(parts, axis=axis)

    @staticmethod
    def __dask_optimize__(graph: Any, keys: Any, **options: Any) -> Any:
        """A region holds what is asked for and nothing else: there is nothing to cull or to fuse."""
        return graph

    def __dask_postcompute__(self) -> tuple[Any, tuple[Any, ...]]:
        return _whole, ()


def _whole(blocks: Any) -> Any:
    """The values of all blocks as one array; a single block is that array, since nobody else holds what was just read.

    dask copies it, which costs more than reading it.
    """
    one = blocks
    while isinstance(one, list | tuple) and len(one) == 1:
        one = one[0]
    return one if isinstance(one, np.ndarray) and one.flags.writeable else finalize(blocks)


def _is_basic(one: Any) -> bool:
    return isinstance(one, int | np.integer) or (isinstance(one, slice) and one.step in (None, 1))


def region_array(region: Region, token: str, block_bytes: int | None = None) -> RegionArray:
    """The values of a region, read when they are used; `token` names the recording; blocks as in `Region.chunks`."""
    name = f"{token}-{region.spans}-{region.dropped}"
    meta = np.empty((0,) * region.ndim, region.dtype)
    made = da.from_array(
        region, region.chunks(block_bytes), name=name, asarray=False, fancy=False, meta=meta, inline_array=True
    )
    found = RegionArray(made.dask, made.name, made.chunks, meta=made._meta)
    found.region, found.token, found.block_bytes = region, token, block_bytes
    return found


def whole_region(layers: Sequence[StoredLayer]) -> Region:
    """All of a recording."""
    reductions, stimuli, _ = layers[0].shape
    return Region(tuple(layers), ((0, reductions), (0, stimuli), (0, sum(layer.shape[2] for layer in layers))))
