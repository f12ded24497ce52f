"""Where saliency maps go while they are made: into arrays here, into a store that is handed in elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from featattn_neuro.schema import SALIENCY

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class MapHeader:
    """Everything about the maps of one layer but their values, in plain types.

    Parameters
    ----------
    variables : name to (dimensions, shape, dtype); dimensions of the gain sets come first.
    sets : lengths of the dimensions of the gain sets, () for one set.
    coordinates : name to (dimension, values). attrs : text and numbers.
    batch_size : stimuli that are written together.
    """

    variables: Mapping[str, tuple[tuple[str, ...], tuple[int, ...], str]]
    sets: tuple[int, ...]
    coordinates: Mapping[str, Any]
    attrs: dict[str, str | int | float]
    batch_size: int


class MapSink(Protocol):
    """Takes maps batch by batch, in any order of rows and batches."""

    def begin(self, header: MapHeader) -> None: ...

    def write(self, name: str, start: int, block: np.ndarray, row: int | None = None) -> None:
        """Values of the stimuli from `start` on: (count, ...), or (sets, count, ...) of the gain sets from `row` on."""

    def finish(self, *, drop: Collection[str], attrs: Mapping[str, str | int | float]) -> xr.Dataset: ...


class MemoryMaps:
    """Keeps the maps in arrays, made once."""

    def begin(self, header: MapHeader) -> None:
        """Make the arrays."""
        self.header = header
        self.arrays: dict[str, np.ndarray] = {}
        for name, (_, shape, dtype) in header.variables.items():
            self.arrays[name] = np.full(shape, "", dtype) if dtype.startswith("U") else np.empty(shape, dtype)

    def write(self, name: str, start: int, block: np.ndarray, row: int | None = None) -> None:
        """Put a block in its place."""
        array = self.arrays[name]
        if row is None:
            array[start : start + len(block)] = block
            return
        depth = len(self.header.sets)
        flat = array.reshape(-1, *array.shape[depth:])  # a view: arrays are contiguous
        flat[row : row + len(block), start : start + block.shape[1]] = block

    def finish(self, *, drop: Collection[str], attrs: Mapping[str, str | int | float]) -> xr.Dataset:
        """SALIENCY without the variables in `drop`."""
        import xarray as xr

        values = {n: (self.header.variables[n][0], array) for n, array in self.arrays.items() if n not in drop}
        attributes = {**self.header.attrs, **attrs}
        return SALIENCY.check(xr.Dataset(values, coords=dict(self.header.coordinates), attrs=attributes))
