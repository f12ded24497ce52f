"""Chunks of a recording: the bytes that zarr 3 would write (Blosc LZ4 bitshuffle, CRC-32C), without its event loop.

zarr encodes and writes each chunk through a loop of its own, with three copies and a rename; while a network runs on
the other core that costs as much as the compression. What is written here is read by zarr and any other reader of the
format; a test holds the bytes against those of zarr.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from featattn_neuro.errors import StoreError

COMPRESSOR = {"cname": "lz4", "clevel": 5}
_CHECKSUM_BYTES = 4


@dataclass(frozen=True)
class LayerChunks:
    """The array (reduction, stimulus, unit) of one layer, cut in chunks of `rows` stimuli and `columns` units.

    Parameters
    ----------
    folder : of the array, within the store. reductions, width : its first and last length.
    """

    folder: str
    reductions: int
    width: int
    rows: int
    columns: int
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of every chunk; the last ones are filled up with zeros."""
        return self.reductions, self.rows, self.columns

    @cached_property
    def _compressor(self) -> Any:
        from numcodecs import Blosc

        return Blosc(shuffle=Blosc.BITSHUFFLE, **COMPRESSOR)  # the size of a value comes with the array

    def write(self, store: Path, start: int, values: Sequence[np.ndarray]) -> dict[str, list[Any]]:
        """Write the stimuli from `start` on, which is the first of a chunk; return size and checksum by chunk key.

        Parameters
        ----------
        values : (reduction, some stimuli, width), one after the other; no more stimuli together than `rows`.
        """
        block = f"{self.folder}/c/0/{start // self.rows}"
        (store / block).mkdir(parents=True, exist_ok=True)
        written = {}
        for column, first in enumerate(range(0, self.width, self.columns)):
            chunk = self._chunk(values, slice(first, first + self.columns))
            written[f"{block}/{column}"] = self._write(store / block / str(column), chunk)
        return written

    def _chunk(self, values: Sequence[np.ndarray], columns: slice) -> np.ndarray:
        if len(values) == 1 and values[0].shape == self.shape:
            return np.ascontiguousarray(values[0], self.dtype)
        chunk = np.zeros(self.shape, self.dtype)
        row = 0
        for some in values:
            part = some[:, :, columns]
            chunk[:, row : row + part.shape[1], : part.shape[2]] = part
            row += part.shape[1]
        return chunk

    def _write(self, path: Path, chunk: np.ndarray) -> list[Any]:
        data = self._compressor.encode(chunk)
        checksum = crc32c(data)
        with open(path, "wb") as handle:
            handle.write(data)
            handle.write(checksum)
        return [len(data) + _CHECKSUM_BYTES, checksum.hex()]


def crc32c(data: Any) -> bytes:
    """CRC-32C of bytes, as zarr stores it (little endian).

    >>> crc32c(b"123456789").hex()  # the check value of the standard, e3069283, turned round
    '839206e3'
    """
    import google_crc32c

    value: int = google_crc32c.value(data)
    return value.to_bytes(_CHECKSUM_BYTES, "little")


def zarr_codecs(dtype: np.dtype[Any]) -> list[Any]:
    """The same compression as zarr's own codecs, for the array's metadata."""
    from zarr.codecs import BloscCodec, Crc32cCodec

    return [BloscCodec(shuffle="bitshuffle", typesize=dtype.itemsize, **COMPRESSOR), Crc32cCodec()]  # type: ignore[arg-type]


def is_whole(path: Path, size: int, checksum: str) -> bool:
    """Whether a chunk file is there with this size and checksum, and its bytes agree with it."""
    try:
        data = path.read_bytes()
    except OSError:
        return False
    if len(data) != size or data[-_CHECKSUM_BYTES:].hex() != checksum:
        return False
    return crc32c(data[:-_CHECKSUM_BYTES]).hex() == checksum


_room = threading.local()


def _file_bytes(path: str) -> np.ndarray:
    """Bytes of a file (uint8), in memory that this thread's next call overwrites: new memory costs as reading does."""
    handle = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(handle).st_size
        room: bytearray | None = getattr(_room, "bytes", None)
        if room is None or len(room) < size:
            room = _room.bytes = bytearray(size + size // 8 + 1)
        got = 0
        while got < size:
            more = os.readv(handle, [memoryview(room)[got:size]])
            if not more:
                break
            got += more
        return np.frombuffer(room, np.uint8, got)
    finally:
        os.close(handle)


Chunks = Sequence[tuple[int, int]]
"""Row and column of each, within the array."""


@cache
def _readers() -> ThreadPoolExecutor:
    """Threads that read and decode chunks, as many as the processors that this process may use."""
    return ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0))), thread_name_prefix="featattn-chunks")


os.register_at_fork(after_in_child=_readers.cache_clear)  # threads do not follow into a forked process


def _side_by_side(read: Callable[[tuple[int, int]], np.ndarray | None], chunks: Chunks) -> list[np.ndarray | None]:
    """What `read` gives for each chunk; one after the other in worker processes, which share the processors."""
    if len(chunks) > 1 and multiprocessing.parent_process() is None:
        try:
            submitted = _readers().map(read, chunks)
        except RuntimeError:  # the main thread has ended, or no thread can be started
            pass
        else:
            return list(submitted)
    return [read(chunk) for chunk in chunks]


class StoredLayer:
    """The array (reduction, stimulus, unit) of one layer on disk; a chunk is read when a value of it is asked for.

    What dask wants of an array: shape, dtype, ndim, and basic indexing, one integer or slice per axis.

    Raises
    ------
    StoreError : a chunk is missing or damaged; never filled up, as a zarr reader would.
    """

    ndim = 3

    def __init__(self, store: Path, layer: LayerChunks, stimuli: int) -> None:
        self.store, self.layer = store, layer
        self.shape = (layer.reductions, stimuli, layer.width)
        self.dtype = layer.dtype

    def __getitem__(self, index: tuple[int | slice, ...]) -> np.ndarray:
        places = [
            range(length)[one] if isinstance(one, slice) else range(length)[one : one + 1 or None]
            for one, length in zip(index, self.shape, strict=True)
        ]
        low = [min(place, default=0) for place in places]
        high = [max(place, default=-1) + 1 for place in places]
        found = self._region(low, high)
        for axis in reversed(range(self.ndim)):
            inside = [place - low[axis] for place in places[axis]]
            if not isinstance(index[axis], slice):
                found = found[(slice(None),) * axis + (0,)]
            elif inside != list(range(found.shape[axis])):
                found = found.take(inside, axis=axis)
        return found

    def _region(self, low: list[int], high: list[int]) -> np.ndarray:
        """Values from `low` to `high` (exclusive) along the three axes."""
        rows, columns = self.layer.rows, self.layer.columns
        found = np.empty([stop - start for start, stop in zip(low, high, strict=True)], self.dtype)
        touched = [
            (row, column)
            for row in range(low[1] // rows, -(-high[1] // rows))
            for column in range(low[2] // columns, -(-high[2] // columns))
        ]

        def fill(chunk: tuple[int, int]) -> np.ndarray | None:
            row, column = chunk
            first, last = max(low[1], row * rows), min(high[1], (row + 1) * rows)
            left, right = max(low[2], column * columns), min(high[2], (column + 1) * columns)
            target = found[:, first - low[1] : last - low[1], left - low[2] : right - low[2]]
            if target.shape == self.layer.shape and target.flags.c_contiguous:
                self.read_chunk(row, column, into=target)  # whole and in one piece: no copy in between
                return None
            part = self.read_chunk(row, column)[
                low[0] : high[0], first - row * rows : last - row * rows,
                left - column * columns : right - column * columns,
            ]  # fmt: skip
            if part.shape == found.shape:
                return part
            target[:] = part
            return None

        # chunks side by side: what opens them, and the memory they come to, wait for the kernel more than they compute
        return next((part for part in _side_by_side(fill, touched) if part is not None), found)

    def read_chunk(self, row: int, column: int, into: np.ndarray | None = None) -> np.ndarray:
        """One chunk as written, filled up at the ends, checksum verified; `into` a contiguous array, or a new one."""
        import numcodecs.blosc

        key = f"{self.layer.folder}/c/0/{row}/{column}"
        try:
            data = _file_bytes(f"{self.store}/{key}")
        except OSError as error:
            raise StoreError(f"chunk {key} of {str(self.store)!r} cannot be read ({error.strerror})") from error
        body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:].tobytes()
        if crc32c(body) != checksum:
            raise StoreError(
                f"chunk {key} of {str(self.store)!r} is damaged (its checksum differs); record again with "
                "overwrite=True, or delete the folder"
            )
        chunk = np.empty(self.layer.shape, self.dtype) if into is None else into
        numcodecs.blosc.decompress(body, chunk)
        return chunk
