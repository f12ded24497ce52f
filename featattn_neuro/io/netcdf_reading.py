"""netCDF-4 opened so that what HDF5 raises on damaged values names the file, also when they are read much later."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from featattn_neuro.errors import StoreError


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say of what HDF5, zarr and xarray raise on damaged files which file it was."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{str(path)!r} cannot be read ({first_line(error)}); it is damaged or half copied: write it again"
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says, on one line.

    >>> first_line(ValueError("no\\nyes")), first_line(KeyError())
    ('no', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def open_netcdf(path: Path) -> xr.Dataset:
    """A netCDF-4 file; numbers are dask arrays in the chunks of the file, whose errors are `StoreError`."""
    opened = xr.open_dataset(path, engine="h5netcdf", cache=False)
    lazy = {}
    for name, variable in opened.variables.items():
        if variable.ndim and variable.dtype.kind in "fiub" and name not in opened.indexes:
            kept = variable.encoding.get("preferred_chunks", {})
            chunks = tuple(kept.get(dim, size) for dim, size in zip(variable.dims, variable.shape, strict=True))
            token = f"{name}-{tokenize(str(path), os.stat(path).st_mtime_ns, name)}"
            array = da.from_array(
                _Values(path, variable), chunks, name=token, meta=np.empty((0,) * variable.ndim, variable.dtype)
            )
            lazy[name] = (variable.dims, array, variable.attrs, variable.encoding)
    found = opened.assign_coords({name: one for name, one in lazy.items() if name in opened.coords}).assign(
        {name: one for name, one in lazy.items() if name not in opened.coords}
    )
    found.set_close(opened.close)
    return found


class _Values:
    """Values of a variable, as dask reads them."""

    def __init__(self, path: Path, variable: xr.Variable) -> None:
        self.path, self.variable = path, variable
        self.shape, self.dtype, self.ndim = variable.shape, variable.dtype, variable.ndim

    def __getitem__(self, key: Any) -> np.ndarray[Any, Any]:
        with reading(self.path):
            return self.variable[key].to_numpy()
