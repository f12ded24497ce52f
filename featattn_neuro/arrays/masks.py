"""Masks of objects: made exclusive, averaged onto a layer's grid; and maps placed in image pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
CELLS = 5
"""A mask is resolved when it keeps this many cells to itself."""
_AT_ONCE = 256
MASK_CELLS = ("tiling", "measured")
"""How masks lie on a layer's grid: its cells are taken to tile the image, or placed by the layer's receptive fields."""


def cell_edges(centres: ArrayLike, stride: float) -> Float:
    """Where the cells of a map begin and end in the image: half a stride before and behind their centres.

    Parameters
    ----------
    centres : (cells,) pixels, 0 = centre of the first pixel, ascending by `stride`.

    Returns
    -------
    (cells + 1,) pixels from the image's first edge. A padded layer may reach beyond the image, an unpadded one leaves
    its margin out.

    >>> cell_edges([0.5, 2.5], 2.0).tolist()
    [0.0, 2.0, 4.0]
    """
    middle = np.asarray(centres, dtype=np.float64) + 0.5
    return np.append(middle - stride / 2, middle[-1] + stride / 2)


def overlap(pixels: int, edges: ArrayLike) -> Float:
    """(cells, pixels) share of each cell that each pixel covers; rows sum to 1.

    Parameters
    ----------
    edges : (cells + 1,) pixels from the image's first edge, ascending. Of a cell that reaches beyond the image only the
        part inside counts; one that lies beyond it altogether is given the pixel at that edge, all that it can see.

    >>> overlap(2, [0, 2]).tolist(), overlap(2, [-1, 1, 3]).tolist()
    ([[0.5, 0.5]], [[1.0, 0.0], [0.0, 1.0]])
    """
    ends = np.asarray(edges, dtype=np.float64)
    left = np.arange(pixels)
    inside = np.clip(np.minimum(ends[1:, None], left + 1) - np.maximum(ends[:-1, None], left), 0, None)
    total = inside.sum(axis=1, keepdims=True)
    found = inside / np.where(total > 0, total, 1.0)
    found[ends[1:] <= 0, 0] = 1.0
    found[ends[:-1] >= pixels, -1] = 1.0
    return found


def on_grid(masks: ArrayLike, grid: tuple[int, int], *, edges: tuple[ArrayLike, ArrayLike] | None = None) -> Float:
    """Masks (..., height, width) averaged over the area of each cell of a grid (h, w).

    Parameters
    ----------
    edges : (h + 1,) and (w + 1,) of the rows and columns of cells, pixels of the masks, see `cell_edges`; None: the
        cells tile the image, as those of padded layers whose strides are poolings do.

    >>> on_grid([[1.0, 0.0], [1.0, 0.0]], (1, 2)).tolist()
    [[1.0, 0.0]]
    >>> on_grid([[1.0, 0.0, 0.0]], (1, 1), edges=([0, 1], [1, 2])).tolist()
    [[0.0]]
    """
    values = np.asarray(masks)
    sides = values.shape[-2:]
    ends = tuple(np.linspace(0, n, k + 1) for n, k in zip(sides, grid, strict=True)) if edges is None else edges
    shares = [overlap(n, one) for n, one in zip(sides, ends, strict=True)]
    if tuple(len(one) for one in shares) != tuple(grid):
        raise ValueError(f"edges must be those of a grid {grid}; came {tuple(len(one) for one in shares)} cells")
    flat = values.reshape(-1, *sides)
    found = np.empty((len(flat), *grid))
    for begin in range(0, len(flat), _AT_ONCE):  # as float64, all masks at once would take eight times their memory
        block = flat[begin : begin + _AT_ONCE].astype(np.float64)
        found[begin : begin + _AT_ONCE] = shares[0] @ block @ shares[1].T
    return found.reshape(*values.shape[:-2], *grid)


def exclusive(masks: ArrayLike) -> NDArray[np.bool_]:
    """What each object has to itself: (..., object, height, width) true where it is the only one that is true.

    >>> exclusive([[[True, True]], [[False, True]]]).tolist()
    [[[True, False]], [[False, False]]]
    """
    flags = np.asarray(masks, dtype=bool)
    if flags.ndim < 3:
        raise ValueError(f"masks must be (..., object, height, width); came {flags.shape}")
    return flags & (flags.sum(axis=-3, keepdims=True) == 1)


def resolved_objects(masks: ArrayLike, *, cells: int = CELLS, present: ArrayLike | None = None) -> NDArray[np.bool_]:
    """Whether a grid keeps the objects apart: each has at least `cells` cells that no other has part in.

    Parameters
    ----------
    masks : (..., object, h, w) weights of `on_grid`. present : (..., object) which objects an image has, where numbers
        of objects differ; None: all. An image without any is not resolved.

    Returns
    -------
    boolean (...). Digits of 28 × 28 pixels, averaged in pairs: all pass at 28 × 28, 99.7 % at 14 × 14, 57 % at 7 × 7.

    >>> bool(resolved_objects([[[1, 1, 0]], [[0, 1, 1]]], cells=1))
    True
    >>> bool(resolved_objects([[[1, 1, 0]], [[0, 1, 1]]], cells=2))
    False
    >>> bool(resolved_objects([[[1, 1, 0]], [[0, 0, 0]]], cells=2, present=[True, False]))
    True
    """
    apart = exclusive(np.asarray(masks) > 0).sum(axis=(-2, -1)) >= cells
    if present is None:
        return apart.all(axis=-1)
    there = np.asarray(present, dtype=bool)
    return (apart | ~there).all(axis=-1) & there.any(axis=-1)


def distractors(masks: ArrayLike) -> Float:
    """For each object, the mask of the others: their sum, at most 1; (..., object, h, w).

    >>> distractors([[[1.0, 0.0]], [[0.0, 0.5]]]).tolist()
    [[[0.0, 0.5]], [[1.0, 0.0]]]
    """
    values = np.asarray(masks, dtype=np.float64)
    return np.clip(values.sum(axis=-3, keepdims=True) - values, 0, 1)


def cued_objects(labels: ArrayLike | None, tasks: list[str] | None, shape: tuple[int, int]) -> NDArray[np.int64]:
    """(stimulus, object) index of the task that cues each object; -1 for objects that no task cues.

    Parameters
    ----------
    labels : (stimulus, object) names, "" = no object; None = nameless. tasks : names; None = one map for all images,
        which cues the first object. shape : (stimuli, objects).

    >>> cued_objects([["b", "c"]], ["a", "b"], (1, 2)).tolist()
    [[1, -1]]
    """
    found = np.full(shape, -1, dtype=np.int64)
    if tasks is None:
        found[:, 0] = 0
    elif labels is not None:
        for k, task in enumerate(tasks):
            found[np.asarray(labels).astype(str) == task] = k
    return found


def united_objects(masks: ArrayLike, cued: ArrayLike) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Objects that one task cues in an image, as one object: any instance of a class is a hit (Zhang et al. 2016).

    Parameters
    ----------
    masks : (stimulus, object, height, width). cued : (stimulus, object) of `cued_objects`.

    Returns
    -------
    Both with the union in the place of the first of these objects, and the others empty and not cued; as given where no
    task cues two objects of an image.

    >>> masks, cued = united_objects([[[[1, 0, 0]], [[0, 1, 0]], [[0, 0, 1]]]], [[0, 1, 0]])
    >>> masks[0, :, 0].tolist(), cued.tolist()
    ([[1, 0, 1], [0, 1, 0], [0, 0, 0]], [[0, 1, -1]])
    """
    values, left = np.asarray(masks), np.asarray(cued, dtype=np.int64)
    copied = False
    for o in range(1, left.shape[1]):
        for first in range(o):
            same = (left[:, first] >= 0) & (left[:, first] == left[:, o])
            if not same.any():
                continue
            if not copied:
                values, left, copied = values.copy(), left.copy(), True
            values[same, first] = np.maximum(values[same, first], values[same, o])
            values[same, o], left[same, o] = 0, -1
    return values, left


def named_tasks(labels: ArrayLike | None, task: str | None) -> list[str] | None:
    """Tasks for `cued_objects` where maps are of one task without a dimension; None: the first object is cued.

    Parameters
    ----------
    labels : (stimulus, object) names, "" = no object; None = nameless. task : what the maps are called, or None.

    >>> named_tasks([["a", "b"]], "b"), named_tasks([["", ""]], "b"), named_tasks([["a", "b"]], None)
    (['b'], None, None)
    """
    named = labels is not None and bool((np.asarray(labels).astype(str) != "").any())
    return [task] if named and task is not None else None


def in_pixels(maps: ArrayLike, y: ArrayLike, x: ArrayLike, size: tuple[int, int]) -> Float:
    """Maps placed in the image: linear between the centres of the cells, the outermost cells' values beyond them.

    For pictures and for masking pixels only: statistics are taken on the layer's own grid.

    Parameters
    ----------
    maps : (..., h, w). y, x : centres of the cells in pixels, ascending. size : (height, width) of the image.

    Returns
    -------
    (..., height, width), in the maps' units.

    >>> in_pixels([[0.0, 2.0]], [0.0], [0.0, 2.0], (1, 4)).tolist()
    [[0.0, 1.0, 2.0, 2.0]]
    """
    rows, columns = (_linear(np.asarray(c, float), n) for c, n in zip((y, x), size, strict=True))
    return rows @ np.asarray(maps, dtype=np.float64) @ columns.T


def _linear(centres: Float, pixels: int) -> Float:
    """(pixels, cells) weights of linear interpolation between centres."""
    identity = np.eye(len(centres))
    at = np.arange(pixels, dtype=np.float64)
    return np.stack([np.interp(at, centres, row) for row in identity], axis=1)
