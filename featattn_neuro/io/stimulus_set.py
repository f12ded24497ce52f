"""A set of stimuli: images with ids that are made from their content, never from their position or file name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featattn_neuro.errors import DataError
from featattn_neuro.io.images import FileImages, decode
from featattn_neuro.schema import CONSTITUENT_SEPARATOR, UNREADABLE, metadata_name

Text = NDArray[np.str_]


class MadeImages(Protocol):
    """Images that are computed when one is asked for: float32 (C, H, W); an array of positions gives a smaller set."""

    dtype: np.dtype[Any]

    def __len__(self) -> int: ...

    def __getitem__(self, which: Any) -> Any: ...


_FIELDS = ("stimulus", "constituents", "label", "split", "path")

Images = NDArray[np.float32] | NDArray[np.uint8] | FileImages | MadeImages


def content_id(array: ArrayLike) -> str:
    """Id of an array: sha256 of its dtype, shape and bytes (C order), 64 hexadecimal digits.

    The same numbers as another dtype or shape are another stimulus.

    Examples
    --------
    >>> content_id(np.zeros(2, np.float32)) == content_id(np.zeros((1, 2), np.float32))
    False
    >>> content_id([1.0, 2.0]) == content_id(np.array([1.0, 2.0]))
    True
    """
    values = np.ascontiguousarray(array)
    return hashlib.sha256(f"{values.dtype.str}{np.shape(array)}".encode() + values.tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class Stimuli:
    """Images with ids and labels; dimension `stimulus`.

    Parameters
    ----------
    id : (stimulus,) text, unique: sha256 of the file's bytes, or `content_id` of the array.
    images : FileImages; or float32 (N, C, H, W) as given; or uint8 (N, H, W, 3) RGB; or made when asked for (gratings).
    constituents : (stimulus,) text: ids of the sources of a composite joined by "|"; None = each its own.
    label, split, path : (stimulus,) text or None: class; R, G, V, S or P; file name within the set.
    name : what the set is called in messages.
    parameters : name to (stimulus,) values: what generated stimuli were made with (orientation, contrast, …), and what
        a laboratory knows of its own (see `with_metadata`).

    Raises
    ------
    DataError
        Ids come more than once, a column is not as long as the set, or a parameter's name is taken.

    Examples
    --------
    >>> two = Stimuli(id=np.array(["i", "j"]), images=np.zeros((2, 1, 3, 3), np.float32), label=np.array(["a", "b"]))
    >>> len(two), two[0].shape, two.select([1]).label.tolist()
    (2, (1, 3, 3), ['b'])
    """

    id: Text
    images: Images
    constituents: Text = None  # type: ignore[assignment]  # __post_init__ puts the ids in its place
    label: Text | None = None
    split: Text | None = None
    path: Text | None = None
    name: str = "stimuli"
    parameters: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.constituents is None:
            object.__setattr__(self, "constituents", self.id)
        for column in ("id", "constituents", "label", "split", "path"):
            values = getattr(self, column)
            if values is None:
                continue
            values = np.asarray(values).astype(str)
            self._one_each(column, values)
            object.__setattr__(self, column, values)
        parameters = {metadata_name(name): _plain(name, values) for name, values in self.parameters.items()}
        for name, values in parameters.items():
            self._one_each(name, values)
        object.__setattr__(self, "parameters", parameters)
        ids, counts = np.unique(self.id, return_counts=True)
        if (counts > 1).any():
            twice = ids[counts > 1][0]
            where = np.flatnonzero(self.id == twice)[:2]
            raise DataError(
                f"{self.describe(where[0])} and {self.describe(where[1])} of {self.name} are identical; "
                "remove one, or load them with load_stimuli(..., duplicates='drop')"
            )

    def _one_each(self, column: str, values: NDArray[Any]) -> None:
        if values.shape != (len(self.images),):
            raise DataError(
                f"wanted one {column} for each of the {len(self.images)} images of {self.name}; came an array of "
                f"shape {values.shape}; pass {len(self.images)} of them"
            )

    def __len__(self) -> int:
        return len(self.id)

    def __getitem__(self, position: int) -> NDArray[Any]:
        """One raw image: uint8 (H, W, 3) RGB for files, float32 (C, H, W) as given for arrays."""
        return self.images[position]

    def read(self, position: int) -> NDArray[Any]:
        """One raw image, as indexing gives it; `DataError` if its file is not the one that its id was made from."""
        if not isinstance(self.images, FileImages):
            return self.images[position]
        data = self.images.data(position)
        if re.fullmatch("[0-9a-f]{64}", self.id[position]) and hashlib.sha256(data).hexdigest() != self.id[position]:
            raise DataError(
                f"{self.describe(position)} of {self.name} has changed since the set was loaded; load it again"
            )
        return decode(data, self.images.name(position))

    def digest(self, *, parameters: bool = True) -> str:
        """sha256 over the images' bytes as they are now and all columns, in order; without `parameters` on request.

        Examples
        --------
        >>> one = Stimuli(id=np.array(["i"]), images=np.zeros((1, 1, 3, 3), np.float32))
        >>> before = one.digest()
        >>> one.images[:] = 1  # the id is as it was
        >>> one.digest() == before
        False
        """
        found = hashlib.sha256()
        for name, (_, values) in self.coordinates().items():
            if not parameters and name in self.parameters:
                continue
            found.update(f"{name}{values.tolist()}".encode())
        for position in range(len(self)):
            if isinstance(self.images, FileImages):
                found.update(_file_digest(self.images, position, self.id[position]))
            else:
                image = self.images[position]
                found.update(f"{image.dtype.str}{image.shape}".encode() + image.tobytes())
        return found.hexdigest()

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        classes = "" if self.label is None else f", {len(np.unique(self.label))} classes"
        return f"<Stimuli {self.name}: {len(self)} images{classes}>"

    def describe(self, position: int) -> str:
        """How messages name one image: its path if it has one, its position and the start of its id otherwise."""
        if self.path is not None:
            return f"image {str(self.path[position])!r}"
        return f"image {int(position)} (id {self.id[position][:12]}…)"

    def pixels(self) -> NDArray[np.float32]:
        """All images as float32 (N, C, H, W); files in [0, 1], arrays as given.

        Raises `DataError` that names two files if their sizes differ.
        """
        if isinstance(self.images, np.ndarray) and self.images.dtype == np.float32:
            return self.images.astype(np.float32)  # a copy
        if not len(self):
            raise DataError(f"{self.name} has no images; choose another selection")
        if not isinstance(self.images, FileImages) and self.images.dtype == np.float32:
            return np.stack(list(self))  # made when asked for
        first = np.asarray(self[0])
        stacked = np.empty((len(self), 3, *first.shape[:2]), dtype=np.float32)
        for i, image in enumerate(self):
            if image.shape != first.shape:
                raise DataError(
                    f"wanted images of one size to stack; {self.describe(0)} is {_size(first)} and {self.describe(i)} "
                    f"is {_size(image)}; resize them, or go through a network's preprocessing"
                )
            stacked[i] = image.transpose(2, 0, 1)
        stacked /= 255
        return stacked

    def select(self, which: Any) -> Stimuli:
        """Some of the stimuli, in the order asked for.

        Parameters
        ----------
        which : positions (integers), a boolean mask as long as the set, or ids.

        Raises
        ------
        DataError
            A mask of the wrong length, a position or id that is not there, or one that comes twice.
        """
        positions = self._positions(np.asarray(which))

        def pick(values: Text | None) -> Text | None:
            return None if values is None else values[positions]

        images = self.images.select(positions) if isinstance(self.images, FileImages) else self.images[positions]
        return replace(
            self,
            id=self.id[positions],
            images=images,
            constituents=self.constituents[positions],
            label=pick(self.label),
            split=pick(self.split),
            path=pick(self.path),
            parameters={name: values[positions] for name, values in self.parameters.items()},
        )

    def _positions(self, which: NDArray[Any]) -> NDArray[np.int64]:
        if which.dtype.kind == "b":
            if which.shape != (len(self),):
                raise DataError(f"wanted a mask of length {len(self)} for {self.name}; came shape {which.shape}")
            return np.flatnonzero(which)
        if which.ndim != 1:
            raise DataError(f"wanted a list of positions, a mask or ids; came an array of shape {which.shape}")
        if which.dtype.kind in "UOT" and which.size:
            order = {one: i for i, one in enumerate(self.id.tolist())}
            missing = [one for one in which.tolist() if one not in order]
            if missing:
                raise DataError(
                    f"{len(missing)} of {which.size} ids are not in {self.name}, the first is {missing[0]!r}; "
                    "select from the set that they came from"
                )
            positions = np.array([order[one] for one in which.tolist()], dtype=np.int64)
        elif which.dtype.kind in "iu" or not which.size:
            positions = which.astype(np.int64)
            outside = (positions < -len(self)) | (positions >= len(self))
            if outside.any():
                raise DataError(f"{self.name} has {len(self)} images; position {positions[outside][0]} is not there")
            positions = np.where(positions < 0, positions + len(self), positions)
        else:
            raise DataError(f"wanted positions, a boolean mask or ids; came {which.dtype}; convert it")
        if np.unique(positions).size < positions.size:
            raise DataError(f"each image of {self.name} can be selected once; came some twice; drop the copies")
        return positions

    def coordinates(self) -> dict[str, tuple[str, NDArray[Any]]]:
        """Coordinates along `stimulus` for an xarray Dataset: stimulus, constituents, and label, split, path,
        parameters if there.

        Examples
        --------
        >>> one = Stimuli(id=np.array(["i"]), images=np.zeros((1, 1, 3, 3), np.float32), label=np.array(["a"]))
        >>> list(one.coordinates())
        ['stimulus', 'constituents', 'label']
        """
        columns = {
            "stimulus": self.id,
            "constituents": self.constituents,
            "label": self.label,
            "split": self.split,
            "path": self.path,
        }
        columns |= dict(self.parameters)
        return {name: ("stimulus", values) for name, values in columns.items() if values is not None}

    def sources(self) -> list[str]:
        """Sorted ids of the source images: the stimuli themselves, or what composites were made of."""
        return sorted({one for joined in self.constituents.tolist() for one in joined.split(CONSTITUENT_SEPARATOR)})


def array_stimuli(
    images: NDArray[Any],
    *,
    label: Iterable[str] | None = None,
    path: Iterable[str] | None = None,
    name: str = "array",
    duplicates: str = "error",
) -> Stimuli:
    """Stimuli of arrays: float32 (N, C, H, W) as given, or uint8 (N, H, W, 3); ids are `content_id` of each image.

    `duplicates="drop"` keeps the first of identical images; "error" raises `DataError` that names two.
    """
    ids = np.array([content_id(image) for image in images], dtype=str)
    return without_duplicates(
        lambda keep: Stimuli(
            id=ids[keep],
            images=images[keep],
            label=None if label is None else np.asarray(list(label))[keep],
            path=None if path is None else np.asarray(list(path))[keep],
            name=name,
        ),
        ids,
        duplicates,
    )


def without_duplicates(make: Callable[[NDArray[np.int64]], Stimuli], ids: Text, duplicates: str) -> Stimuli:
    """`make(positions)` of all stimuli, or with `duplicates="drop"` of the first of each id, in the order given."""
    if duplicates == "drop":
        return make(np.sort(np.unique(ids, return_index=True)[1]))
    return make(np.arange(ids.size))


def _file_digest(images: FileImages, position: int, name: str) -> bytes:
    try:
        return hashlib.sha256(images.data(position)).digest()
    except DataError:
        if not name.startswith(UNREADABLE):
            raise
        return name.encode()


def _size(image: NDArray[Any]) -> str:
    return f"{image.shape[0]} × {image.shape[1]}"


def _plain(name: str, values: Any) -> NDArray[Any]:
    """A parameter as an array of text, numbers or flags."""
    if name in _FIELDS:
        raise DataError(f"{name!r} is no parameter of stimuli but a column of its own; pass {name}=")
    array = np.asarray(values)
    if array.dtype.kind in "OT" and all(isinstance(one, str) for one in array.ravel()):
        array = array.astype(str)
    if array.dtype.kind not in "fiubU":
        raise DataError(f"parameter {name!r} must be text, numbers or flags; came {array.dtype}; convert it")
    return array
