"""Datasets on disk: any declared kind, as netCDF-4 or zarr by suffix, written whole or not at all.

A file is first written under a temporary name in the same folder and then renamed, so that a killed process leaves
either the old file or the new one. netCDF means netCDF-4 through h5netcdf: xarray without it silently writes netCDF-3,
which loses integers and text, so netCDF-3 is neither written nor read. Text comes back as fixed-width numpy text
(dtype kind "U") and attributes as plain `str`, `int` and `float`, whatever the format did to them on the way.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr

from featattn_neuro.errors import SchemaError, StoreError
from featattn_neuro.io.netcdf_reading import first_line, open_netcdf, reading
from featattn_neuro.io.own_folders import check_replaceable, is_own_store
from featattn_neuro.io.recording_chunks import crc32c
from featattn_neuro.schema import KINDS, SCHEMA_VERSION, Kind, kind_of

SUFFIXES = (".nc", ".zarr")
"""File name endings that `save_kind` and `open_kind` know: netCDF-4 and zarr."""

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_NETCDF3_MAGIC = b"CDF"
_TEXT_CHECKSUM = "text_checksum"
_COMPRESSION = {"zlib": True, "complevel": 4, "shuffle": True, "fletcher32": True}


def save_kind(dataset: xr.Dataset, path: str | Path) -> Path:
    """Write a Dataset of a declared kind to `path` and return the path.

    Parameters
    ----------
    dataset : Dataset with the attribute `kind`; it is checked against the schema and not altered.
    path : ends in ".nc" (netCDF-4, compressed, through h5netcdf) or ".zarr" (a folder, zarr format 2). An existing
        file or store of that name is replaced after the new one is complete.

    Returns
    -------
    The path as given. The file has two attributes more than the Dataset: `provenance`, see `provenance`, and
    `text_checksum`, over text and attributes; numbers of netCDF have the checksums of HDF5.

    Raises
    ------
    SchemaError
        The Dataset is of no declared kind, breaks its kind, or a text variable holds something that is not text.
    StoreError
        Unknown suffix, missing or unwritable folder, full disk; a folder of that name that is no store of this package.

    Examples
    --------
    >>> save_kind(xr.Dataset(attrs={"kind": "MATCH"}), "match.csv")
    Traceback (most recent call last):
    featattn_neuro.errors.StoreError: wanted a file name that ends in .nc or .zarr; came 'match.csv'; rename it
    """
    path = Path(path)
    suffix = _suffix(path)
    checked = kind_of(dataset).check(dataset)
    ready = _plain(checked).assign_attrs(provenance=provenance())
    ready.attrs[_TEXT_CHECKSUM] = _text_checksum(ready)
    with _replacing(path) as temporary:
        if suffix == ".nc":
            encoding = {
                name: dict(_COMPRESSION) for name, v in ready.variables.items() if v.dtype.kind in "fiub" and v.ndim
            }
            reserve_space(temporary, _upper_size(ready))
            # one block after the other: HDF5 takes one at a time anyway, and those that wait would fill the memory
            with _spaces_in_names(), dask.config.set(scheduler="synchronous"):
                ready.to_netcdf(temporary, engine="h5netcdf", format="NETCDF4", encoding=encoding)
        else:
            # format 2 is what every zarr reader knows; its text encoding is settled, that of format 3 is not yet
            with _spaces_in_names():
                _even_chunks(ready).to_zarr(temporary, mode="w", zarr_format=2, consolidated=True)
    return path


def open_kind(path: str | Path, kind: Kind | str | None = None) -> xr.Dataset:
    """Open a Dataset that `save_kind` wrote; numbers stay on disk until they are used.

    Parameters
    ----------
    path : ".nc" or ".zarr".
    kind : the kind that is wanted (or its name); None accepts any declared kind.

    Returns
    -------
    Dataset, numbers as dask arrays, text in memory. Close it with `close()` or `with open_kind(path) as dataset:`;
    `load_kind` reads all of it and leaves nothing open.

    Raises
    ------
    StoreError
        Missing file, unknown suffix, netCDF-3 or no netCDF at all, damaged file, newer schema version.
    SchemaError
        Another kind than wanted, or a Dataset that breaks its kind.

    Examples
    --------
    >>> open_kind("nowhere.nc")
    Traceback (most recent call last):
    featattn_neuro.errors.StoreError: wanted a results file; there is none at 'nowhere.nc'; check the path
    """
    path = Path(path)
    suffix = _suffix(path)
    _check_file(path, suffix)
    with reading(path):
        if suffix == ".nc":
            opened = open_netcdf(path)
        else:
            opened = _open_zarr(path)
    try:
        _check_version(path, opened.attrs)
        try:
            declared = kind_of(_plain(opened, names=()))
        except SchemaError as error:
            raise SchemaError(f"{str(path)!r}: {error}") from error
        wanted = declared if kind is None else _named(kind)
        if declared is not wanted:
            raise SchemaError(
                f"wanted a Dataset of kind {wanted.name}; {str(path)!r} holds kind {declared.name}; "
                f"pass the {wanted.name} file"
            )
        with reading(path):
            read = _plain(metadata_as_coordinates(opened, wanted))
        if read.attrs.pop(_TEXT_CHECKSUM, None) not in (None, _text_checksum(read)):  # None: an older file
            raise StoreError(
                f"text or attributes of {str(path)!r} are not what was written (the checksum differs): it is damaged, "
                "or was edited by other means; write it again"
            )
        result = wanted.check(read)
    except BaseException:
        opened.close()
        raise
    result.set_close(opened.close)
    return result


def load_kind(path: str | Path, kind: Kind | str | None = None) -> xr.Dataset:
    """Read a Dataset that `save_kind` wrote fully into memory; the file is closed again. As `open_kind` otherwise.

    Examples
    --------
    >>> load_kind("nowhere.zarr")
    Traceback (most recent call last):
    featattn_neuro.errors.StoreError: wanted a results file; there is none at 'nowhere.zarr'; check the path
    """
    with open_kind(path, kind) as opened, reading(Path(path)):
        result = opened.load()
    # ranges are only checked on values in memory
    return kind_of(result).check(result)


def file_sha256(path: str | Path) -> str:
    """sha256 of a file's bytes, 64 hexadecimal digits.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as empty:
    ...     file_sha256(empty.name)[:8]
    'e3b0c442'
    """
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"{str(path)!r} cannot be read ({error.strerror}); check its permissions") from error


def write_text_atomic(path: str | Path, text: str) -> Path:
    """Write `text` (UTF-8, newlines as given) to `path`, whole or not at all; return the path.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_text_atomic(Path(folder) / "a.txt", "α").read_text(encoding="utf-8")
    'α'
    """
    return write_bytes_atomic(path, text.encode("utf-8"))


def write_bytes_atomic(path: str | Path, data: bytes) -> Path:
    """Write `data` to `path`, whole or not at all; return the path. Raises `StoreError` where it cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_bytes_atomic(Path(folder) / "a.bin", b"abc").stat().st_size
    3
    """
    path = Path(path)
    with _replacing(path) as temporary, open(temporary, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    return path


class BlobFolder:
    """Bytes by name in a folder of their own: what checkpoints are kept in. The folder is made when first written."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.names: set[str] = set()

    def read(self, name: str) -> bytes | None:
        """The bytes, or None where there are none."""
        place = self.path / name
        self.names.add(name)
        return place.read_bytes() if place.is_file() else None

    def write(self, name: str, data: bytes) -> None:
        """Write or replace; `StoreError` where it cannot be written."""
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(f"{str(self.path)!r} cannot be a checkpoint folder ({error}); choose another") from error
        self.names.add(name)
        write_bytes_atomic(self.path / name, data)

    def remove(self) -> None:
        """Remove what was read and written, and the folder if nothing else is in it."""
        for name in self.names:
            (self.path / name).unlink(missing_ok=True)
        if self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()


def provenance() -> str:
    """What the numbers may depend on besides the inputs, as JSON text with sorted keys.

    Installed versions of this package, Python, numpy, scipy, xarray and torch; numpy's BLAS library with its thread
    count; CPU instruction sets. No clock time, no path, no host, nothing that hangs on which modules happen to be
    loaded: the same on every run of one installation on one kind of CPU.

    Examples
    --------
    >>> sorted(json.loads(provenance()))
    ['blas', 'cpu', 'versions']
    """
    import threadpoolctl

    # what is installed, never what is loaded: a process that has also imported scipy, with a BLAS of its own, or torch
    # did the same work
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for distribution in ("featattn_neuro", "numpy", "scipy", "xarray", "torch"):
        try:
            versions[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            versions[distribution] = "not installed"
    pools = {
        f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}".strip(): pool["num_threads"]
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas" and _is_numpys(Path(pool["filepath"]))
    }
    simd: Any = np.show_config(mode="dicts").get("SIMD Extensions", {})
    cpu = " ".join([*simd.get("baseline", []), *simd.get("found", [])])
    return json.dumps({"versions": versions, "blas": pools, "cpu": cpu}, sort_keys=True)


def _is_numpys(library: Path) -> bool:
    """Whether numpy computes with this BLAS: the wheel's own, or a shared one outside every Python package."""
    folders = library.parts
    return "site-packages" not in folders or any(folder in ("numpy", "numpy.libs") for folder in folders)


def metadata_as_coordinates(dataset: xr.Dataset, kind: Kind) -> xr.Dataset:
    """What was written as a variable because its name has a space in it: a coordinate again, if the kind has none."""
    return dataset.set_coords([n for n, v in dataset.data_vars.items() if n not in kind.variables and kind.carries(v)])


@contextmanager
def _spaces_in_names() -> Iterator[None]:
    """xarray warns that files cannot call a name with a space a coordinate; `metadata_as_coordinates` knows it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has a space in its name.*")
        yield


def _text_checksum(dataset: xr.Dataset) -> str:
    """CRC-32C of all text: HDF5 has no checksums for text of variable length, nor for attributes."""
    attrs = {str(name): value for name, value in dataset.attrs.items() if name != _TEXT_CHECKSUM}
    text = {str(n): v.values.ravel().tolist() for n, v in dataset.variables.items() if v.dtype.kind == "U"}
    return crc32c(json.dumps([attrs, text], sort_keys=True).encode()).hex()


@contextmanager
def _replacing(path: Path, ours: Callable[[Path], bool] = is_own_store) -> Iterator[Path]:
    """Give a temporary name beside `path`; on success it takes the place of `path`, on failure it is removed.

    `ours` says of a folder that is there whether it may be replaced.
    """
    if not path.parent.is_dir():
        raise StoreError(f"wanted a folder to write {path.name!r} in; there is none at {str(path.parent)!r}; make it")
    _tidy(path)
    temporary = path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{os.urandom(4).hex()}.partial")
    try:
        check_replaceable(path, ours)
        yield temporary
        check_replaceable(path, ours)  # somebody may have filled it meanwhile
        _move_over(temporary, path)
    except (OSError, RuntimeError) as error:  # h5py reports a full disk as either
        raise StoreError(
            f"{str(path)!r} cannot be written ({first_line(error)}); free space or choose another folder"
        ) from error
    finally:
        _remove(temporary)


def _upper_size(dataset: xr.Dataset) -> int:
    """Bytes that the uncompressed netCDF file cannot exceed: values, and heap entries of text."""
    text = sum(48 * v.size for v in dataset.variables.values() if v.dtype.kind == "U")
    return int(1.25 * (dataset.nbytes + text)) + (1 << 20)


def reserve_space(path: Path, size: int) -> None:
    """Raise OSError now if `size` bytes cannot be written: HDF5 kills the process when a disk fills up under it."""
    with open(path, "wb") as handle:
        try:
            os.posix_fallocate(handle.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # a file system that cannot tell
                raise


def _move_over(temporary: Path, path: Path) -> None:
    if not temporary.is_dir():
        os.replace(temporary, path)
        return
    if path.exists() and not path.is_dir():
        raise StoreError(f"wanted a zarr folder at {str(path)!r}; there is a file of that name; remove or rename it")
    aside = _aside(path)
    if path.is_dir():
        # a folder that is not empty cannot be replaced in one step: the old one steps aside first
        _remove(aside)  # of a process that was killed while it removed it
        os.replace(path, aside)
    os.replace(temporary, path)
    _remove(aside)


def _aside(path: Path) -> Path:
    """Where a folder is while another takes its place."""
    return path.with_name(f".{path.name}.replaced")


def _recover(path: Path) -> None:
    """Put a folder back that had stepped aside when its process was killed."""
    if not path.exists() and _aside(path).is_dir():
        os.replace(_aside(path), path)


def _tidy(path: Path) -> None:
    """What killed processes of this machine left beside `path`: a folder that stepped aside, half-written files."""
    _recover(path)
    name = rf"\.\.?{re.escape(path.name)}\.{_machine()}-([0-9]+)-[0-9a-f]{{8}}\..+"
    for entry in os.listdir(path.parent):
        found = re.fullmatch(name, entry)
        if found is not None and not _is_running(int(found[1])):
            _remove(path.with_name(entry))


def _machine() -> str:
    """Stands in names of temporary files: a process number says nothing of processes on another machine."""
    return hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:8]


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _suffix(path: Path) -> str:
    if path.suffix not in SUFFIXES:
        raise StoreError(f"wanted a file name that ends in .nc or .zarr; came {str(path)!r}; rename it")
    return path.suffix


def _open_zarr(path: Path) -> xr.Dataset:
    from featattn_neuro.io.recording_store import is_recording, open_recording

    return open_recording(path) if is_recording(path) else xr.open_zarr(path, chunks={})


def _named(kind: Kind | str) -> Kind:
    name = kind.name if isinstance(kind, Kind) else kind
    if name not in KINDS:
        raise SchemaError(f"wanted a declared kind, one of {', '.join(KINDS)}; came {name!r}; use one of these")
    return KINDS[name]


def _check_file(path: Path, suffix: str) -> None:
    if not path.exists() and _aside(path).exists():
        raise StoreError(
            f"wanted a results file; a process was killed while it replaced the one at {str(path)!r}; make it again, "
            f"or rename the old one, {_aside(path).name!r}"
        )
    if not path.exists():
        raise StoreError(f"wanted a results file; there is none at {str(path)!r}; check the path")
    if suffix == ".zarr":
        if not path.is_dir() and not zipfile.is_zipfile(path):
            raise StoreError(f"wanted a zarr folder; {str(path)!r} is a file of another format; write it again")
        return
    try:
        with open(path, "rb") as handle:
            start = handle.read(len(_HDF5_MAGIC))
    except OSError as error:
        raise StoreError(f"{str(path)!r} cannot be read ({error.strerror}); check its permissions") from error
    if start != _HDF5_MAGIC:
        came = "netCDF-3" if start.startswith(_NETCDF3_MAGIC) else "another format"
        raise StoreError(f"wanted netCDF-4; {str(path)!r} is {came}; write it with save_kind(dataset, path)")


def _check_version(path: Path, attrs: dict[Any, Any]) -> None:
    version = attrs.get("schema_version", 0)
    if int(version) > SCHEMA_VERSION:
        raise StoreError(
            f"wanted schema version {SCHEMA_VERSION} or older; {str(path)!r} has version {int(version)}; "
            "it was made by a newer featattn_neuro: update the package"
        )


def _plain(dataset: xr.Dataset, names: tuple[str, ...] | None = None) -> xr.Dataset:
    """Text to numpy "U" in memory, attributes to plain Python, encodings of an earlier file forgotten."""
    dataset = dataset.copy()  # shallow: the caller's variables keep their attributes
    # what is fixed-width text in memory already is left alone, with its index: rebuilding it takes longer than reading
    kinds = {n: v.dtype.kind for n, v in dataset.variables.items() if v.chunks is not None or v.dtype.kind != "U"}
    text = [n for n, kind in kinds.items() if kind in "OTSU"] if names is None else list(names)
    replaced = {}
    for name in text:
        variable = dataset.variables[name]
        replaced[name] = (variable.dims, _as_text(str(name), variable.to_numpy()), _plain_attrs(variable.attrs))
    coordinates = {n: v for n, v in replaced.items() if n in dataset.coords}
    result = dataset.assign({n: v for n, v in replaced.items() if n not in dataset.coords})
    result = result.assign_coords(coordinates).drop_encoding()
    for variable in result.variables.values():
        variable.attrs = _plain_attrs(variable.attrs)
    result.attrs = _plain_attrs(dataset.attrs)
    return result


def _as_text(name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if values.dtype.kind == "O":
        wrong = [v for v in values.ravel() if not isinstance(v, str)]
        if wrong:
            raise SchemaError(
                f"variable {name!r} must hold text only; came {wrong[0]!r} ({type(wrong[0]).__name__}); "
                "convert it, with '' for what is missing"
            )
    return values.astype(str)


def _plain_attrs(attrs: Any) -> dict[Any, Any]:
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in attrs.items()}


def _even_chunks(dataset: xr.Dataset) -> xr.Dataset:
    """zarr needs chunks of one size along a dimension; take the largest that dask came with."""
    sizes = {
        dim: max(max(v.chunksizes[dim]) for v in dataset.variables.values() if dim in v.chunksizes)
        for dim in {d for v in dataset.variables.values() for d in v.chunksizes}
    }
    return dataset.chunk(sizes) if sizes else dataset
