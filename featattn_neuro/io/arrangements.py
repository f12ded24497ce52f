"""Composites in which objects lie apart: 2 × 2 arrays and shifted pairs, with the place of every object.

Every source is used once, and the labels of one composite differ; ids of the sources travel as `constituents`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from featattn_neuro.errors import DataError
from featattn_neuro.io.masks import box_masks
from featattn_neuro.io.stimulus_set import Stimuli, content_id
from featattn_neuro.schema import CONSTITUENT_SEPARATOR, MASKS


@dataclass(frozen=True, eq=False)
class Arrangement:
    """Composites of several objects, each at its own place.

    Parameters
    ----------
    stimuli : the composites, float32 (N, C, H, W); label "a|b…", constituents "id of a|id of b…".
    sources : (N, objects) positions of the sources in the stimuli that were arranged.
    boxes : (N, objects, 4) top, left, bottom, right of each object, pixels.
    """

    stimuli: Stimuli
    sources: NDArray[np.int64]
    boxes: NDArray[np.int64]

    def masks(self, *, ink: NDArray[Any] | None = None, threshold: float = 0.25) -> xr.Dataset:
        """MASKS of the objects: what each has to itself, of its box, or of its ink where that is given.

        Parameters
        ----------
        ink : (sources, height, width) in [0, 1], of the stimuli that were arranged; ink is above `threshold`.
        """
        height, width = self.stimuli[0].shape[1:]
        flags = box_masks(self.boxes, (height, width))
        if ink is not None:
            for n, o in np.ndindex(self.sources.shape):
                top, left, bottom, right = self.boxes[n, o]
                flags[n, o, top:bottom, left:right] &= ink[self.sources[n, o]] > threshold
        alone = flags & (flags.sum(axis=1, keepdims=True) == 1)
        assert self.stimuli.label is not None
        labels = np.array([str(label).split(CONSTITUENT_SEPARATOR) for label in self.stimuli.label])
        return MASKS.check(
            xr.Dataset(
                {"mask": (("stimulus", "object", "y", "x"), alone.astype(np.uint8))},
                coords={"object_label": (("stimulus", "object"), labels), **self.stimuli.coordinates()},
                attrs={"kind": "MASKS", "exclusive": "yes"},
            )
        )


def array_composites(stimuli: Stimuli, count: int, *, seed: int) -> Arrangement:
    """2 × 2 arrays of stimuli with different labels, each source in at most one (Lindsay & Miller 2018, figure 4).

    Parameters
    ----------
    stimuli : labelled single images of one size and one split (or none). count : number of arrays.
    seed : of `numpy.random.default_rng`: which images, and where in the array.

    Returns
    -------
    Arrangement : images of twice the height and width; objects in reading order.

    Raises
    ------
    DataError : no labels, fewer than four classes, too few images, images of different sizes, composites as sources.

    >>> images = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1)
    >>> four = Stimuli(id=np.array(list("ijkl")), images=images, label=np.array(list("abcd")))
    >>> sorted(array_composites(four, 1, seed=0).stimuli[0].ravel().tolist())
    [0.0, 1.0, 2.0, 3.0]
    """
    pixels, sources = _drawn(stimuli, count, 4, seed)
    height, width = pixels.shape[2:]
    canvas = np.empty((count, pixels.shape[1], 2 * height, 2 * width), dtype=np.float32)
    boxes = np.empty((count, 4, 4), dtype=np.int64)
    for place in range(4):
        top, left = (place // 2) * height, (place % 2) * width
        canvas[:, :, top : top + height, left : left + width] = pixels[sources[:, place]]
        boxes[:, place] = top, left, top + height, left + width
    return _arrangement(stimuli, canvas, sources, boxes, "arrays")


def shifted_composites(stimuli: Stimuli, count: int, *, shift: int, seed: int, background: float = 0.0) -> Arrangement:
    """Averaged pairs whose images lie in opposite corners of a larger canvas, `shift` pixels apart in y and in x.

    Parameters
    ----------
    shift : pixels; the image's side or more = no overlap, 0 = averaged pairs. background : value outside an image.
        Others as in `array_composites`; two classes are enough.

    Returns
    -------
    Arrangement : (x_a + x_b) / 2 on canvases of side + shift; the corner of a is drawn at random.

    >>> images = np.array([[[[2.0]]], [[[4.0]]]], dtype=np.float32)
    >>> two = Stimuli(id=np.array(["i", "j"]), images=images, label=np.array(["a", "b"]))
    >>> sorted(shifted_composites(two, 1, shift=1, seed=0).stimuli[0].ravel().tolist())
    [0.0, 0.0, 1.0, 2.0]
    """
    if shift < 0:
        raise DataError(f"wanted a shift of 0 pixels or more; came {shift}; change it")
    pixels, sources = _drawn(stimuli, count, 2, seed)
    height, width = pixels.shape[2:]
    rng = np.random.default_rng([seed, 1])
    flip = rng.integers(0, 2, (count, 2))  # a at the top or the bottom, left or right
    canvas = np.zeros((count, pixels.shape[1], height + shift, width + shift), dtype=np.float32)
    boxes = np.empty((count, 2, 4), dtype=np.int64)
    for n in range(count):
        for place in range(2):
            top, left = (shift * ((flip[n] + place) % 2)).tolist()
            layer = np.full(canvas.shape[1:], background, dtype=np.float32)
            layer[:, top : top + height, left : left + width] = pixels[sources[n, place]]
            canvas[n] += layer / np.float32(2)
            boxes[n, place] = top, left, top + height, left + width
    return _arrangement(stimuli, canvas, sources, boxes, "shifted pairs")


def _drawn(stimuli: Stimuli, count: int, objects: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All pixels, and (count, objects) positions of sources whose labels differ within each row."""
    if stimuli.label is None:
        raise DataError(f"wanted labelled stimuli to arrange; {stimuli.name} has no labels; pass label= when loading")
    joined = [c for c in stimuli.constituents.tolist() if CONSTITUENT_SEPARATOR in c]
    if joined:
        raise DataError(f"wanted single images; {stimuli.name} has {len(joined)} composites; pass their sources")
    splits = [] if stimuli.split is None else np.unique(stimuli.split).tolist()
    if len(splits) > 1:
        raise DataError(f"wanted stimuli of one split to arrange; came {', '.join(splits)}; select one split first")
    classes, sizes = np.unique(stimuli.label, return_counts=True)
    if count < 1 or np.minimum(sizes, count).sum() < objects * count:
        raise DataError(
            f"wanted {count} composites of {objects} different classes, each image used once; {stimuli.name} has "
            f"{len(stimuli)} images of {len(classes)} classes, which is too few; ask for fewer composites"
        )
    rng = np.random.default_rng(seed)
    pools = [rng.permutation(np.flatnonzero(stimuli.label == one)).tolist() for one in classes]
    sources = np.empty((count, objects), dtype=np.int64)
    for n in range(count):
        # the fullest classes first, at random among equals: then no class is left over at the end
        left = np.array([len(pool) for pool in pools])
        chosen = np.lexsort((rng.random(len(left)), -left))[:objects]
        sources[n] = rng.permutation([pools[k].pop() for k in chosen])
    return stimuli.pixels(), sources


def _arrangement(
    stimuli: Stimuli, canvas: NDArray[np.float32], sources: NDArray[np.int64], boxes: NDArray[np.int64], what: str
) -> Arrangement:
    def joined(values: NDArray[np.str_]) -> NDArray[np.str_]:
        return np.array([CONSTITUENT_SEPARATOR.join(values[row].tolist()) for row in sources], dtype=str)

    assert stimuli.label is not None
    composites = Stimuli(
        id=np.array([content_id(image) for image in canvas], dtype=str),
        images=canvas,
        constituents=joined(stimuli.id),
        label=joined(stimuli.label),
        split=None if stimuli.split is None else stimuli.split[sources[:, 0]],
        name=f"{stimuli.name} {what}",
    )
    return Arrangement(composites, sources, boxes)
