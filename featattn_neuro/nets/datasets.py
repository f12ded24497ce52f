"""torch datasets and loaders as stimuli: ids from content, labels joined to the image they came with."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Mapping, Sized
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
)
from torch.utils.data.dataloader import default_collate

from featattn_neuro.errors import DataError, UnreadableError
from featattn_neuro.schema import UNREADABLE

_IMAGE_KEYS = ("image", "img", "pixel_values")
_LABEL_KEYS = ("label", "labels", "target")


def is_torch_source(source: Any) -> bool:
    """Whether `source` is a torch dataset or loader or works like a dataset (length, items by position), or pictures in
    memory: bytes (N, H, W, 3), a list of PIL images or of dictionaries.
    """
    if isinstance(source, np.ndarray):
        return source.dtype == np.uint8 and source.ndim == 4 and source.shape[3] == 3
    if isinstance(source, list | tuple) and source:
        return isinstance(source[0], Mapping) or _is_pil(source[0])
    if isinstance(source, Dataset | DataLoader):
        return True
    if isinstance(source, str | bytes | os.PathLike | list | tuple | Mapping) or hasattr(source, "__array__"):
        return False
    return hasattr(type(source), "__len__") and hasattr(type(source), "__getitem__")


def first_raw(stimuli: DatasetStimuli) -> np.ndarray:
    """The first image of the dataset that can be read, as it is."""
    for position in range(len(stimuli)):
        if not stimuli.id[position].startswith(UNREADABLE):
            return stimuli.read(position)
    raise DataError(f"none of the {len(stimuli)} items of the dataset can be read")


class DatasetStimuli:
    """A map-style torch dataset, or what works like one (Hugging Face's), as stimuli.

    Items are images, (image, label, ...), or dictionaries with an image ("image", "img", "pixel_values") and perhaps a
    label ("label", "labels", "target"). Images are (C, H, W), bytes (C, H, W) with
    1 or 3 channels or (H, W, 3), or PIL; bytes that may be either (3 first and last) count as (C, H, W) in a tensor and
    are refused in an array. A label is a number
    or a text, or the name that the dataset's `classes` give it (not behind a `target_transform`, and not a number that
    `classes` does not have, as -1 for no class); what is neither (boxes, several labels) is no label.

    Reads the dataset once for the ids (sha256 of dtype, shape and bytes of each image), and again when recording; an
    image that is not the same then (random augmentation) is an error. Order does not matter: a shuffled loader gives
    the same units for the same ids.

    Parameters
    ----------
    source : the dataset, or a `DataLoader` of one with the default collation; its batch size is not used.
    skip : images that cannot be read get an id of their position and are left out of the recording.

    Items have no file names: `path` is None, and masks and pictures go by id.

    Raises
    ------
    DataError : no map-style dataset, a loader that alters or selects images, items that are no images, two the same.

    >>> found = DatasetStimuli(torch.utils.data.TensorDataset(torch.rand(2, 1, 3, 3), torch.tensor([7, 8])))
    >>> len(found), found.coordinates()["label"][1].tolist()
    (2, ['7', '8'])
    """

    path: np.ndarray | None = None
    name = "dataset"

    def __init__(self, source: Any, *, skip: bool = False) -> None:
        self.dataset: Any = _dataset(source)
        ids: list[str] = []
        labels: list[str | None] = []
        for position in range(len(self.dataset)):
            try:
                image, label = self._item(position)
            except Exception as error:  # a foreign dataset raises what it likes
                if not skip:
                    raise UnreadableError(
                        f"item {position} of the dataset cannot be read ({type(error).__name__}: {error}); repair it, "
                        "or pass corrupt='skip'"
                    ) from error
                ids.append(f"{UNREADABLE} {position}")
                labels.append("")
                continue
            ids.append(_content_id(image))
            labels.append(label)
        self.id = np.array(ids, dtype=str)
        self.parameters: dict[str, np.ndarray] = {}
        known = sum(label is not None for label in labels)
        self.label = np.array([label or "" for label in labels], dtype=str) if known else None
        unique, first, counts = np.unique(self.id, return_index=True, return_counts=True)
        if len(unique) < len(self.id):
            twice = np.flatnonzero(self.id == self.id[first[counts > 1][0]])
            raise DataError(f"items {twice[0]} and {twice[1]} of the dataset are identical; remove one")

    def __len__(self) -> int:
        return len(self.id)

    def __getitem__(self, position: int) -> np.ndarray:
        return self.read(position)

    def read(self, position: int) -> np.ndarray:
        """One image; `UnreadableError` if it cannot be read, or could not when ids were made; `DataError` if it is
        another one than then.
        """
        if self.id[position].startswith(UNREADABLE):
            raise UnreadableError(f"item {position} of the dataset could not be read when its id was made")
        try:
            image, _ = self._item(position)
        except Exception as error:  # as above
            raise UnreadableError(
                f"item {position} of the dataset cannot be read ({type(error).__name__}: {error})"
            ) from error
        if _content_id(image) != self.id[position]:
            raise DataError(
                f"item {position} of the dataset is another image each time it is read; take random transforms out"
            )
        return image

    def describe(self, position: int) -> str:
        """How messages name one item: its position and the start of its id."""
        return f"item {int(position)} (id {self.id[position][:12]}…)"

    def coordinates(self) -> dict[str, Any]:
        """Coordinates along `stimulus`."""
        found = {"stimulus": ("stimulus", self.id), "constituents": ("stimulus", self.id)}
        found |= {} if self.label is None else {"label": ("stimulus", self.label)}
        return found | {name: ("stimulus", values) for name, values in self.parameters.items()}

    def described(self, columns: Mapping[str, np.ndarray]) -> DatasetStimuli:
        """The same stimuli with more columns, (stimulus,) values by name; `label` only where there is none."""
        more = copy.copy(self)
        more.parameters = {**self.parameters, **{n: v for n, v in columns.items() if n != "label"}}
        more.label = columns.get("label", self.label)
        return more

    def digest(self, *, parameters: bool = True) -> str:
        """sha256 over ids and labels, in order, and over the columns put in by `described` unless told not to."""
        known = [self.id.tolist(), None if self.label is None else self.label.tolist()]
        if parameters and self.parameters:
            known.append({name: values.tolist() for name, values in self.parameters.items()})
        return hashlib.sha256(repr(known).encode()).hexdigest()

    def _item(self, position: int) -> tuple[np.ndarray, str | None]:
        image, label = _parts(self.dataset[position])
        array = _array(image, pictures=isinstance(self.dataset, np.ndarray))
        if array.ndim != 3:
            raise DataError(f"wanted an image (C, H, W) or (H, W, 3); came {array.shape}")
        return array, self._label(label)

    def _label(self, label: Any) -> str | None:
        """A class's name, or a number or text as it is; None for anything else (boxes, several labels)."""
        value = label.detach().cpu().numpy() if isinstance(label, torch.Tensor) else label
        value = value.item() if isinstance(value, np.ndarray | np.generic) and value.size == 1 else value
        if not isinstance(value, str | int | float) or value != value:  # NaN: no label
            return None
        whole = self.dataset
        while isinstance(whole, Subset):
            whole = whole.dataset
        return str(whole.classes[value]) if _is_class(whole, value) else str(value)


def _is_class(dataset: Any, label: Any) -> bool:
    """Whether `classes` of a dataset names a label: not what a transform made of it, nor one of other targets."""
    classes = getattr(dataset, "classes", None)
    if type(label) is not int or getattr(dataset, "target_transform", None) is not None:
        return False
    if list(getattr(dataset, "_target_types", ["category"])) != ["category"]:  # OxfordIIITPet names breeds
        return False
    return (
        label in classes if isinstance(classes, Mapping) else isinstance(classes, Sized) and 0 <= label < len(classes)
    )


def _parts(item: Any) -> tuple[Any, Any]:
    """Image and label of an item: the image alone, (image, label, ...), or a dictionary."""
    if isinstance(item, Mapping):
        key = next((key for key in _IMAGE_KEYS if key in item), None)
        if key is None:
            raise DataError(f"wanted an image under one of the keys {', '.join(_IMAGE_KEYS)}; came {sorted(item)}")
        return item[key], next((item[name] for name in _LABEL_KEYS if name in item), None)
    if isinstance(item, tuple | list):
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def _is_pil(image: Any) -> bool:
    return hasattr(image, "convert") and hasattr(image, "mode")


def _array(image: Any, *, pictures: bool = False) -> np.ndarray:
    """Values as they stand, and bytes as a picture (H, W, 3), which arrays are already where they are `pictures`; a PIL
    image as RGB.
    """
    if _is_pil(image):
        if image.mode.startswith(("I", "F")):
            raise DataError(f"more than 8 bits a channel (mode {image.mode}); convert it to 8 bits")
        return np.asarray(image.convert("RGB"))
    tensor = isinstance(image, torch.Tensor)
    if tensor:
        values = image.detach().cpu()
        array = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    else:
        array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or pictures:
        return array
    first, last = array.shape[0] in (1, 3), array.shape[2] == 3
    if first and last and not tensor:
        raise DataError(f"bytes {array.shape} may be (C, H, W) or (H, W, 3); pass them as a tensor (C, H, W)")
    if not first and not last:
        raise DataError(
            f"wanted bytes (H, W, 3), or (C, H, W) with 1 or 3 channels; came {array.shape}; convert the image to RGB"
        )
    if not first:
        return array
    return np.ascontiguousarray(np.broadcast_to(array, (3, *array.shape[1:])).transpose(1, 2, 0))


def _dataset(source: Any) -> Any:
    if isinstance(source, DataLoader) and not isinstance(source.dataset, IterableDataset):
        if _selects(source):
            raise DataError("this loader selects or repeats images; pass the dataset (torch.utils.data.Subset)")
        if source.collate_fn is not default_collate and source.batch_size is not None:
            raise DataError("this loader's collate_fn may alter images; pass the dataset, whose items are recorded")
    source = source.dataset if isinstance(source, DataLoader) else source
    if isinstance(source, IterableDataset) or not hasattr(source, "__len__"):
        raise DataError("wanted a dataset with a length and items by position; came an iterable one; wrap it")
    return source


def _selects(loader: DataLoader[Any]) -> bool:
    """Whether a loader shows other images than its dataset holds, or some of them twice."""
    batches: Any = loader.batch_sampler
    sampler: Any = loader.sampler if batches is None else getattr(batches, "sampler", None)
    if (batches is not None and type(batches) is not BatchSampler) or (
        batches is not None and batches.drop_last and len(sampler) % batches.batch_size
    ):
        return True
    if isinstance(sampler, RandomSampler):
        return sampler.replacement or sampler.num_samples != len(sampler.data_source)
    return not isinstance(sampler, SequentialSampler)


def _content_id(image: np.ndarray) -> str:
    values = np.ascontiguousarray(image)
    return hashlib.sha256(f"{values.dtype.str}{image.shape}".encode() + values.tobytes()).hexdigest()
