"""Arrays by key in a folder: zarr, written whole or not at all. What a prefix cache keeps on disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featattn_neuro.errors import StoreError
from featattn_neuro.io.store import _replacing

_CHUNK_BYTES = 256 << 10


class RowFolder:
    """Folder of row sets, one zarr group each, named by its key; chunks are a few rows, since rows are read at random.

    Parameters
    ----------
    path : made if its parent is there.

    Raises
    ------
    StoreError : the folder cannot be made or written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(f"{str(path)!r} cannot be a folder for cached rows ({error}); choose another") from error

    def open(self, key: str) -> list[Any] | None:
        """The arrays of a row set, or None where there is none."""
        import zarr

        place = self.path / f"{key}.zarr"
        if not place.is_dir():
            return None
        group: Any = zarr.open_group(str(place), mode="r")
        return [group[name] for name in sorted(group.array_keys())]

    def write(self, key: str, shapes: Sequence[tuple[int, ...]], batches: Iterator[Sequence[np.ndarray]]) -> list[Any]:
        """Write float32 arrays of these shapes from batches of rows, in order; `StoreError` if rows are missing."""
        import zarr

        with _replacing(self.path / f"{key}.zarr") as temporary:
            group: Any = zarr.open_group(str(temporary), mode="w")
            arrays = []
            for number, shape in enumerate(shapes):
                row = 4 * int(np.prod(shape[1:]))
                chunks = (min(shape[0], max(1, _CHUNK_BYTES // row)), *shape[1:])
                arrays.append(
                    group.create_array(f"row_{number:03d}", shape=shape, chunks=chunks, dtype="f4", compressors=None)
                )
            begin = 0
            for values in batches:
                for array, part in zip(arrays, values, strict=True):
                    array[begin : begin + len(part)] = part
                begin += len(values[0])
            if begin != shapes[0][0]:
                raise StoreError(f"wanted {shapes[0][0]} rows to cache; came {begin}; the images changed meanwhile")
        found = self.open(key)
        assert found is not None
        return found

    def remove(self) -> None:
        """Remove the folder and all row sets in it."""
        shutil.rmtree(self.path, ignore_errors=True)
