"""Saliency maps on disk while they are made: streamed into zarr, written whole or not at all, netCDF-4 from it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import dask.array
import numpy as np
import xarray as xr
import zarr

from featattn_neuro.errors import StoreError
from featattn_neuro.io.store import (
    _replacing,
    _spaces_in_names,
    _suffix,
    metadata_as_coordinates,
    provenance,
    save_kind,
)
from featattn_neuro.schema import SALIENCY


class Header(Protocol):
    """What is told before the first map: see `featattn_neuro.nets.map_sinks.MapHeader`."""

    @property
    def variables(self) -> Mapping[str, tuple[tuple[str, ...], tuple[int, ...], str]]: ...
    @property
    def sets(self) -> tuple[int, ...]: ...
    @property
    def coordinates(self) -> Mapping[str, Any]: ...
    @property
    def attrs(self) -> Mapping[str, str | int | float]: ...
    @property
    def batch_size(self) -> int: ...


class SaliencyStore:
    """A sink for maps: memory holds one batch, the rest is on disk. Made by `saliency_store`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done = False

    def begin(self, header: Header) -> None:
        """Make the arrays, one chunk a batch."""
        self.header = header
        values = {}
        for name, (dims, shape, dtype) in header.variables.items():
            chunks = tuple(
                min(header.batch_size, n) if d == "stimulus" else n for d, n in zip(dims, shape, strict=True)
            )
            values[name] = (dims, dask.array.zeros(shape, chunks=chunks, dtype=dtype))
        attrs = {"kind": "SALIENCY", **header.attrs}
        template = SALIENCY.check(xr.Dataset(values, coords=dict(header.coordinates), attrs=attrs))
        with _spaces_in_names():
            template.to_zarr(self.folder, mode="w", zarr_format=2, compute=False, consolidated=True)
        self.group: Any = zarr.open_group(self.folder, mode="r+")

    def write(self, name: str, start: int, block: np.ndarray, row: int | None = None) -> None:
        """Put a block in its place: (count, ...), or (sets, count, ...) of the gain sets from `row` on."""
        array = self.group[name]
        if row is None:
            array[start : start + len(block)] = block
            return
        for k, values in enumerate(block):
            place = np.unravel_index(row + k, self.header.sets) if self.header.sets else ()
            array[(*(int(i) for i in place), slice(start, start + len(values)))] = values

    def finish(self, *, drop: Collection[str], attrs: Mapping[str, str | int | float]) -> xr.Dataset:
        """The maps, opened lazily, without the variables in `drop`."""
        for name in drop:
            del self.group[name]
        self.group.attrs.update({**attrs, "provenance": provenance()})
        zarr.consolidate_metadata(self.folder, zarr_format=2)
        self.done = True
        return metadata_as_coordinates(xr.open_zarr(self.folder, chunks={}), SALIENCY)


@contextmanager
def saliency_store(path: str | Path, *, overwrite: bool = False) -> Iterator[SaliencyStore]:
    """A sink that becomes the file `path` at the end of the `with`, if all went well: .zarr, or .nc made from it.

    Raises
    ------
    StoreError : another suffix, a file that is there already (unless `overwrite`; a folder that is no store of this
        package also then), a folder that cannot be written.
    """
    path = Path(path)
    suffix = _suffix(path)
    if path.exists() and not overwrite:
        raise StoreError(f"{str(path)!r} is there already; remove it, choose another name, or pass overwrite=True")
    if suffix == ".zarr":
        with _replacing(path) as temporary:
            yield SaliencyStore(temporary)
        return
    with _replacing(path) as temporary:
        sink, written = SaliencyStore(temporary.with_suffix(".zarr")), temporary.with_suffix(".nc")
        try:
            yield sink
            opened = metadata_as_coordinates(xr.open_zarr(sink.folder, chunks={}), SALIENCY)
            opened.attrs.pop("provenance", None)
            save_kind(opened, written)
            os.replace(written, temporary)
        finally:
            written.unlink(missing_ok=True)
            shutil.rmtree(sink.folder, ignore_errors=True)


def layer_file(folder: str | Path, layer: str) -> Path:
    """Where `saliency_stores` puts the maps of a layer.

    >>> layer_file("maps", "layer1.0").as_posix()
    'maps/layer1.0.zarr'
    """
    return Path(folder) / f"{layer}.zarr"


@contextmanager
def saliency_stores(
    folder: str | Path, layers: Iterable[str], *, overwrite: bool = False
) -> Iterator[dict[str, SaliencyStore]]:
    """`saliency_store` for several layers, a file each: layer to sink. The folder is made."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"wanted a folder for maps at {str(folder)!r}; it cannot be made ({error}); choose another"
        ) from error
    with ExitStack() as stack:
        yield {n: stack.enter_context(saliency_store(layer_file(folder, n), overwrite=overwrite)) for n in layers}
