"""MATLAB files as plain dictionaries: version 5 to 7.2 by SciPy, 7.3 (HDF5) by h5py, with one result for both."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from featattn_neuro.errors import StoreError
from featattn_neuro.io.neural_arrays import variables_to_neural
from featattn_neuro.io.neural_columns import NeuralOptions

_HDF5 = b"\x89HDF\r\n\x1a\n"


def read_mat_neural(path: Path, options: NeuralOptions) -> xr.Dataset:
    """NEURAL of a .mat file; fields of structures are named with points ("data.resp"); see `read_neural`."""
    return variables_to_neural(flattened(read_mat(path)), options, where=path.name)


def read_mat(path: Path) -> dict[str, Any]:
    """Everything in a .mat file: arrays as MATLAB shows them, structures as dictionaries, text as str, cells as lists.

    Parameters
    ----------
    path : version 5 to 7.3; which one is seen in the file itself.

    Returns
    -------
    Names to values. Arrays of length 1 keep their two axes; arrays of structures are lists of dictionaries; logical
    arrays are bool. Anything of a class of its own (tables, objects) is left out.

    Raises
    ------
    StoreError : no such file, damaged, or no .mat file.
    """
    if not path.is_file():
        raise StoreError(f"wanted a MATLAB file; there is none at {str(path)!r}; check the path")
    with open(path, "rb") as handle:
        start = handle.read(1024)
    from scipy.io.matlab import MatReadError

    unreadable = (OSError, ValueError, TypeError, KeyError, NotImplementedError, RuntimeError, IndexError)
    try:
        # HDF5 files of MATLAB begin with 512 bytes of MATLAB's own header
        return _read_hdf5(path) if _HDF5 in (start[:8], start[512:520]) else _read_v5(path)
    except (*unreadable, MatReadError, zlib.error) as error:
        raise StoreError(f"{str(path)!r} is not a readable MATLAB file ({error}); save or fetch it again") from error


def flattened(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Arrays and lists of a nested dictionary by dotted names.

    >>> flattened({"data": {"resp": [1, 2]}, "fs": 3})
    {'data.resp': [1, 2], 'fs': 3}
    """
    found: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            found |= flattened(value, f"{prefix}{name}.")
        elif not (isinstance(value, list) and any(isinstance(one, dict | list) for one in value)):
            found[prefix + name] = value
    return found


def _read_v5(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    content = loadmat(path, struct_as_record=False, chars_as_strings=True)
    return {name: _plain(value) for name, value in content.items() if not name.startswith("__")}


def _plain(value: Any) -> Any:
    if hasattr(value, "_fieldnames"):
        return {name: _plain(getattr(value, name)) for name in value._fieldnames}
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.kind == "U":
        texts = [str(one).rstrip() for one in value.ravel()]  # rows of a char matrix are padded to one length
        return texts[0] if len(texts) == 1 else texts
    if value.dtype != object:
        return value
    if value.size == 1 and hasattr(value.ravel()[0], "_fieldnames"):
        return _plain(value.ravel()[0])
    return [_plain(one) for one in value.ravel(order="F")]


def _read_hdf5(path: Path) -> dict[str, Any]:
    import h5py

    with h5py.File(path, "r") as file:
        return {name: _hdf5(file, item) for name, item in file.items() if not name.startswith("#")}


def _hdf5(file: Any, item: Any) -> Any:
    """One variable of a version 7.3 file: axes are stored in MATLAB's order, reversed."""
    import h5py

    if isinstance(item, h5py.Group):
        return {name: _hdf5(file, one) for name, one in item.items()}
    kind = item.attrs.get("MATLAB_class", b"")
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    if "MATLAB_empty" in item.attrs:
        return "" if kind == "char" else np.empty((0, 0))
    values = item[()]
    if item.dtype == h5py.ref_dtype or h5py.check_dtype(ref=item.dtype) is not None:
        return [_hdf5(file, file[reference]) for reference in np.asarray(values).ravel()]
    array: NDArray[Any] = np.asarray(values).T
    if kind == "char":
        return _characters(array)
    return array.astype(bool) if kind == "logical" else array


def _characters(codes: NDArray[Any]) -> Any:
    """UTF-16 code units (row, column) to text: one row to str, several to a list."""
    rows = [row.astype("<u2").tobytes().decode("utf-16-le").rstrip() for row in np.atleast_2d(codes)]
    return rows[0] if len(rows) == 1 else rows
