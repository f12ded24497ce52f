"""torch datasets and loaders as stimuli: ids from content, labels joined to the image they came with."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler
from torch.utils.data.dataloader import default_collate

from featattn_neuro.errors import DataError

_UNREADABLE = "unreadable item"


def is_torch_source(source: Any) -> bool:
    """Whether `source` is a torch dataset or loader."""
    return isinstance(source, Dataset | DataLoader)


def first_raw(stimuli: DatasetStimuli) -> np.ndarray:
    """The first image of the dataset that can be read, as it is."""
    for position in range(len(stimuli)):
        if not stimuli.id[position].startswith(_UNREADABLE):
            return stimuli.read(position)
    raise DataError(f"none of the {len(stimuli)} items of the dataset can be read")


class DatasetStimuli:
    """A map-style torch dataset as stimuli; items are images, or (image, label, ...), images (C, H, W) or PIL.

    Reads the dataset once for the ids (sha256 of dtype, shape and bytes of each image), and again when recording; an
    image that is not the same then (random augmentation) is an error. Order does not matter: a shuffled loader gives
    the same units for the same ids.

    Parameters
    ----------
    source : the dataset, or a `DataLoader` of one with the default collation; its batch size is not used.
    skip : images that cannot be read get an id of their position and are left out of the recording.

    Raises
    ------
    DataError : no map-style dataset, a loader that alters or selects images, items that are no images, two the same.

    >>> found = DatasetStimuli(torch.utils.data.TensorDataset(torch.rand(2, 1, 3, 3), torch.tensor([7, 8])))
    >>> len(found), found.coordinates()["label"][1].tolist()
    (2, ['7', '8'])
    """

    def __init__(self, source: Any, *, skip: bool = False) -> None:
        self.dataset: Any = _dataset(source)
        ids: list[str] = []
        labels: list[str | None] = []
        for position in range(len(self.dataset)):
            try:
                image, label = self._item(position)
            except Exception as error:  # a foreign dataset raises what it likes
                if not skip:
                    raise DataError(
                        f"item {position} of the dataset cannot be read ({type(error).__name__}: {error}); repair it, "
                        "or pass corrupt='skip'"
                    ) from error
                ids.append(f"{_UNREADABLE} {position}")
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
        """One image; `DataError` if it cannot be read or is not what it was when its id was made."""
        try:
            image, _ = self._item(position)
        except Exception as error:  # as above
            raise DataError(
                f"item {position} of the dataset cannot be read ({type(error).__name__}: {error})"
            ) from error
        if _content_id(image) != self.id[position]:
            raise DataError(
                f"item {position} of the dataset is another image each time it is read; take random transforms out"
            )
        return image

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
        item = self.dataset[position]
        image, label = (item[0], item[1] if len(item) > 1 else None) if isinstance(item, tuple | list) else (item, None)
        array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
        if array.ndim != 3:
            raise DataError(f"wanted an image (C, H, W) or (H, W, 3); came {array.shape}")
        return array, None if label is None else self._label(label)

    def _label(self, label: Any) -> str:
        value = label.item() if hasattr(label, "item") else label
        classes = getattr(self.dataset, "classes", None)
        return str(classes[value]) if classes is not None and isinstance(value, int) else str(value)


def _dataset(source: Any) -> Any:
    if isinstance(source, DataLoader):
        if not isinstance(source.sampler, SequentialSampler | RandomSampler) or (
            isinstance(source.sampler, RandomSampler) and source.sampler.replacement
        ):
            raise DataError("this loader selects or repeats images; pass the dataset (torch.utils.data.Subset)")
        if source.collate_fn is not default_collate and source.batch_size is not None:
            raise DataError("this loader's collate_fn may alter images; pass the dataset, whose items are recorded")
        source = source.dataset
    if isinstance(source, IterableDataset) or not hasattr(source, "__len__"):
        raise DataError("wanted a dataset with a length and items by position; came an iterable one; wrap it")
    return source


def _content_id(image: np.ndarray) -> str:
    values = np.ascontiguousarray(image)
    return hashlib.sha256(f"{values.dtype.str}{image.shape}".encode() + values.tobytes()).hexdigest()
