"""Masks of objects from files: boxes in a table, or a picture of segments per image; joined by path or id."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from featattn_neuro.errors import DataError, StoreError
from featattn_neuro.io.stimulus_set import Stimuli
from featattn_neuro.schema import MASKS

_BOX = ("top", "left", "bottom", "right")

_OBJECTS = 256
"""So many numbers of objects may have gaps; more are ids of a whole data set, and each would get a mask per image."""


def box_masks(boxes: ArrayLike, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Masks of boxes: true inside.

    Parameters
    ----------
    boxes : (..., 4) top, left, bottom, right, in pixels; the first row and column belong to the box, bottom and right
        do not. size : (height, width) of the image.

    Returns
    -------
    boolean (..., height, width).

    Raises
    ------
    DataError : a box without pixels, or one that reaches out of the image.

    >>> box_masks([0, 1, 1, 3], (2, 3)).astype(int).tolist()
    [[0, 1, 1], [0, 0, 0]]
    """
    values = np.asarray(boxes)
    if values.shape[-1:] != (4,):
        raise DataError(f"wanted boxes of four numbers, {', '.join(_BOX)}; came shape {values.shape}; pass four each")
    top, left, bottom, right = (values[..., k, None] for k in range(4))
    fine = (top >= 0) & (left >= 0) & (bottom <= size[0]) & (right <= size[1])
    fine &= (np.ceil(top) < bottom) & (np.ceil(left) < right)  # between two rows of pixels there is none
    if not fine.all():
        first = values.reshape(-1, 4)[np.flatnonzero(~fine.ravel())[0]].tolist()
        raise DataError(
            f"wanted boxes with pixels inside images of {size[0]} × {size[1]}; came {first} ({', '.join(_BOX)}); "
            "mend it, or give boxes in pixels of these images"
        )
    rows, columns = np.arange(size[0]), np.arange(size[1])
    return ((rows >= top) & (rows < bottom))[..., None] & ((columns >= left) & (columns < right))[..., None, :]


def read_boxes(path: str | Path, stimuli: Stimuli, size: tuple[int, int]) -> xr.Dataset:
    """MASKS of a CSV table of boxes.

    Parameters
    ----------
    path : columns `stimulus` (id) or `path` (as in the stimuli), top, left, bottom, right (pixels of the image as the
        network sees it), and perhaps `label` and `object` (0, 1, … within an image; boxes of one object are joined).
    size : (height, width) of that image.

    Raises
    ------
    StoreError : no such table, missing columns, a cell without a number or a label, an object with two labels,
        objects that are not numbered within an image.
        DataError : an image that the stimuli do not have, a stimulus without a box, a box outside the image or without
        a pixel.
    """
    try:
        # an empty cell stays an empty text, and a class may be called NA
        table = pd.read_csv(path, dtype={"stimulus": str, "path": str, "label": str}, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"wanted a CSV table of boxes at {str(path)!r}; it cannot be read ({error}); check it"
        ) from error
    key = "stimulus" if "stimulus" in table else "path"
    missing = [name for name in (key, *_BOX) if name not in table]
    if missing:
        raise StoreError(
            f"wanted columns stimulus or path, {', '.join(_BOX)} in {str(path)!r}; missing {', '.join(missing)}; add it"
        )
    position = _positions(stimuli, key, table[key].tolist(), str(path))
    objects = table["object"].to_numpy() if "object" in table else np.zeros(len(table), dtype=np.int64)
    if objects.dtype.kind not in "iu" or (objects < 0).any():
        raise StoreError(f"wanted whole numbers from 0 in column object of {str(path)!r}; came others; number them")
    boxes = int(table[key].value_counts().max()) if len(table) else 0
    if objects.max(initial=0) >= max(boxes, _OBJECTS):
        raise StoreError(
            f"wanted the objects of each image numbered 0, 1, … in column object of {str(path)!r}; came "
            f"{objects.max()} where no image has more than {boxes} boxes; number them within each image"
        )
    unnamed = np.flatnonzero(table["label"].str.strip() == "" if "label" in table else [])
    if unnamed.size:
        raise StoreError(
            f"wanted the class of each box in column label of {str(path)!r}; row {unnamed[0] + 1} of {len(table)} has "
            "no label; add it, or leave the column out"
        )
    flags = np.zeros((len(stimuli), int(objects.max(initial=0)) + 1, *size), dtype=bool)
    labels = np.full(flags.shape[:2], "", dtype=object)
    filled = box_masks(np.stack([_numbers(table, name, str(path)) for name in _BOX], axis=1), size)
    for row, (where, which) in enumerate(zip(position, objects, strict=True)):
        label = str(table["label"][row]) if "label" in table else ""
        if flags[where, which].any() and labels[where, which] != label:
            raise StoreError(
                f"wanted one class for each object in {str(path)!r}; row {row + 1} of {len(table)} calls object "
                f"{which} of {table[key][row]!r} {label!r}, a row before it {labels[where, which]!r}; give each object "
                "of an image a number of its own in column object"
            )
        flags[where, which] |= filled[row]
        labels[where, which] = label
    return _masks(stimuli, flags, labels, str(path))


def _numbers(table: pd.DataFrame, name: str, origin: str) -> NDArray[np.number]:
    values = pd.to_numeric(table[name], errors="coerce")
    bad = np.flatnonzero(~np.isfinite(values.to_numpy(dtype=np.float64)))
    if bad.size:
        raise StoreError(
            f"wanted a number in column {name} of {origin!r}; row {bad[0] + 1} has {str(table[name].iloc[bad[0]])!r}; "
            "mend it"
        )
    return values.to_numpy()


def read_segmentations(folder: str | Path, stimuli: Stimuli, size: tuple[int, int]) -> xr.Dataset:
    """MASKS of a folder with one picture per image: NAME.png for the image NAME.jpg (same sub-folders).

    Parameters
    ----------
    folder : grey (8 or 16 bits) or palette pictures; 0 is background, every other value is an object, in ascending
        order (a picture of 0 and 255 holds one object). size : (height, width) of the image as the network sees it.

    Raises
    ------
    StoreError : a picture is missing or cannot be read. DataError : a picture in colour, or of another size, stimuli
        without paths.
    """
    if stimuli.path is None:
        raise DataError(
            f"segmentation files are matched by file name; those of the {stimuli.name} have none; use boxes with ids"
        )
    pictures = []
    for name in stimuli.path.tolist():
        file = Path(folder) / Path(name).with_suffix(".png")
        try:
            with Image.open(file) as opened:
                mode, values = opened.mode, np.asarray(opened)
        except OSError as error:
            raise StoreError(
                f"wanted the segmentation of {name!r} at {str(file)!r}; it cannot be read ({error}); add it"
            ) from error
        if values.ndim != 2:
            raise DataError(
                f"wanted grey or palette pictures of segments; {file.relative_to(folder).as_posix()!r} is {mode}, and "
                "which colours are one object is not known; save it with a number for each object"
            )
        if values.shape != tuple(size):
            raise DataError(
                f"wanted masks of {size[0]} × {size[1]} pixels, as the images; {file.name!r} has {values.shape[0]} × "
                f"{values.shape[1]}; resize it with nearest neighbours"
            )
        pictures.append([values == one for one in np.unique(values) if one])
    most = max((len(objects) for objects in pictures), default=0)
    flags = np.zeros((len(stimuli), max(most, 1), *size), dtype=bool)
    for n, objects in enumerate(pictures):
        for o, flag in enumerate(objects):
            flags[n, o] = flag
    labels = np.full(flags.shape[:2], "", dtype=object)
    if stimuli.label is not None:
        labels[:, 0] = stimuli.label  # the class of the image is that of its object, where there is one
    return _masks(stimuli, flags, labels, str(folder))


def _positions(stimuli: Stimuli, key: str, names: list[str], origin: str) -> list[int]:
    known = stimuli.id if key == "stimulus" else stimuli.path
    if known is None:
        raise DataError(f"{origin} names images by path; those of the {stimuli.name} have none; name them by id")
    order = {name: k for k, name in enumerate(known.tolist())}
    unknown = [name for name in names if name not in order]
    if unknown:
        raise DataError(
            f"{origin} has boxes of {len(unknown)} images that {stimuli.name} does not have (first: {unknown[0]!r}); "
            "load the same images"
        )
    return [order[name] for name in names]


def _masks(stimuli: Stimuli, flags: NDArray[np.bool_], labels: NDArray[np.object_], origin: str) -> xr.Dataset:
    empty = ~flags[:, 0].any(axis=(1, 2))
    if empty.any():
        raise DataError(
            f"{origin} has no mask for {int(empty.sum())} of {len(stimuli)} images, one is "
            f"{stimuli.describe(int(np.flatnonzero(empty)[0]))}; add it, or select the images that have one"
        )
    return MASKS.check(
        xr.Dataset(
            {"mask": (("stimulus", "object", "y", "x"), flags.astype(np.uint8))},
            coords={"object_label": (("stimulus", "object"), labels.astype(str)), **stimuli.coordinates()},
            attrs={"kind": "MASKS", "exclusive": "no"},
        )
    )
