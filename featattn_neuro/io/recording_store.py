"""Recordings on disk while they are made: zarr, one array per layer, streamed, checksummed, resumed after a kill.

Layout of a finished folder NAME.zarr (zarr format 3): an array `response_0000`, … (reduction, stimulus, unit of the
layer) per recorded layer, so that no chunk crosses a layer; coordinates as arrays; `chunks.json` with size and CRC-32C
of every file (`recording_manifest`). While it is made the folder is `.NAME.recording`; a name that does not start with
a dot is a whole recording. Blocks of stimuli are written one after the other; a line of `progress.jsonl` says that a
block is there. Killed at any moment, the blocks that are whole are kept and the others made again. The folder is locked
with flock, which ends with its process.
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import shutil
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from featattn_neuro.errors import StoreError
from featattn_neuro.io import recording_manifest as manifests
from featattn_neuro.io import store as files
from featattn_neuro.io.own_folders import check_replaceable
from featattn_neuro.io.recording_chunks import LayerChunks, StoredLayer, is_whole, zarr_codecs
from featattn_neuro.schema import RecordingHeader

BLOCK_BYTES = 8 << 20
"""About how many bytes are gathered before they are written, and the most that one chunk holds uncompressed."""

BLOCK_STIMULI = 512
"""About how many stimuli are gathered at most, so that little is lost of a recording of few units that is killed."""

_PROGRESS, _STATE, _MADE = "progress.jsonl", "state.json", ".made"
_QUEUED_BLOCKS = 1


class RecordingStore:
    """Sink of a recording: gathers batches to blocks, writes them in a thread beside the computation.

    Made by `recording_store`. Memory: at most three blocks and one batch, whatever the number of stimuli.
    """

    def __init__(self, path: Path, folder: Path, *, key: str, inputs: Mapping[str, str], block_bytes: int) -> None:
        self.path, self.folder, self.key, self.inputs, self.block_bytes = path, folder, key, dict(inputs), block_bytes
        self.done: dict[int, dict[str, Any]] = {}
        self.files: dict[str, list[Any]] = {}
        self.pending: list[tuple[int, Sequence[np.ndarray], Mapping[int, str]]] = []
        self.failure: BaseException | None = None
        self.thread: threading.Thread | None = None
        self.blocks: queue.Queue[_Block | None] = queue.Queue(_QUEUED_BLOCKS)

    # -- what a recorder calls -------------------------------------------------------------------------------------

    def begin(self, header: RecordingHeader) -> list[tuple[int, int]]:
        """Make the arrays, or find what an earlier process left; return the ranges of stimuli still wanted."""
        self.header = header
        self.rows = _block_rows(header, self.block_bytes)
        state = json.dumps({"format": manifests.FORMAT, "key": self.key, "rows": self.rows}, sort_keys=True)
        with _writing(self.path):
            if _read(self.folder / _STATE) == state:
                self.done = _verified(self.folder)
            else:
                _empty(self.folder)
            # also when a recording is taken up: what became of these files is not to get into the finished one
            self.files = _lay_out(self.folder, header, self.rows, self.block_bytes, self.key, self.inputs)
            files.write_text_atomic(self.folder / _STATE, state)
            self._rewrite_progress()
        self.layers = _layer_chunks(header, self.rows, self.block_bytes)
        self.thread = threading.Thread(target=self._run, name="recording-writer", daemon=True)
        self.thread.start()
        starts = range(0, header.n_stimuli, self.rows)
        return [(start, min(start + self.rows, header.n_stimuli)) for start in starts if start not in self.done]

    def write(self, start: int, values: Sequence[np.ndarray], unreadable: Mapping[int, str]) -> None:
        """Values (reduction, rows, units) of each layer for the stimuli from `start` on."""
        self.pending.append((start, values, unreadable))
        stop = start + values[0].shape[1]
        if stop % self.rows == 0 or stop == self.header.n_stimuli:
            block = _Block(self.pending)
            self.pending = []
            self._put(block)

    def finish(self) -> xr.Dataset:
        """Wait for the last block, write the manifest, give the recording its name; return it, opened."""
        self.stop()
        if self.failure is not None:
            raise self.failure
        with _writing(self.path):
            if self.path.suffix == ".zarr":
                self._seal()
                _give_name(self.folder, self.path)
                return files.open_kind(self.path)
            self._seal(keep_state=True)
            with open_recording(self.folder, self.block_bytes) as recorded:  # in small pieces: memory is not to grow
                files.save_kind(recorded, self.path)
            shutil.rmtree(self.folder)
            return files.open_kind(self.path)

    # -- the writer ------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the writer thread; what is queued is written first."""
        if self.thread is not None and self.thread.is_alive():
            self._put(None)
            self.thread.join()

    def _put(self, block: _Block | None) -> None:
        while self.thread is not None and self.thread.is_alive():
            try:
                self.blocks.put(block, timeout=0.2)
                return
            except queue.Full:
                continue
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            while (block := self.blocks.get()) is not None:
                self._write_block(block)
        except (OSError, RuntimeError, ValueError) as error:
            self.failure = _unwritten(self.path, error)
        except BaseException as error:  # handed to the recording process, which raises it
            self.failure = error

    def _write_block(self, block: _Block) -> None:
        start, stop = block.start, block.stop
        written: dict[str, list[Any]] = {}
        for number, layer in enumerate(self.layers):
            written |= layer.write(self.folder, start, block.values(number))
        entry = {
            "start": start,
            "stop": stop,
            "chunks": dict(sorted(written.items())),
            "unreadable": {str(i): reason for i, reason in sorted(block.unreadable.items())},
        }
        with open(self.folder / _PROGRESS, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(entry, sort_keys=True) + "\n")
        self.done[start] = entry

    def _rewrite_progress(self) -> None:
        lines = [json.dumps(self.done[start], sort_keys=True) + "\n" for start in sorted(self.done)]
        files.write_text_atomic(self.folder / _PROGRESS, "".join(lines))

    def _seal(self, *, keep_state: bool = False) -> None:
        entries = [self.done[start] for start in sorted(self.done)]
        chunks = {key: value for entry in entries for key, value in entry["chunks"].items()}
        unreadable = {key: value for entry in entries for key, value in entry["unreadable"].items()}
        manifests.write_manifest(self.folder, key=self.key, chunks=chunks, files=self.files, unreadable=unreadable)
        if not keep_state:
            (self.folder / _STATE).unlink()


@dataclass
class _Block:
    """Batches that are written together."""

    batches: list[tuple[int, Sequence[np.ndarray], Mapping[int, str]]]

    @property
    def start(self) -> int:
        return self.batches[0][0]

    @property
    def stop(self) -> int:
        start, values, _ = self.batches[-1]
        return start + values[0].shape[1]

    @property
    def unreadable(self) -> dict[int, str]:
        return {i: reason for _, _, some in self.batches for i, reason in some.items()}

    def values(self, layer: int) -> list[np.ndarray]:
        return [values[layer] for _, values, _ in self.batches]


@contextmanager
def recording_store(
    path: str | Path,
    *,
    key: str,
    inputs: Mapping[str, str],
    overwrite: bool = False,
    block_bytes: int | None = None,
) -> Iterator[RecordingStore | None]:
    """A store to record into, locked; None if `path` already holds the recording with this key.

    Parameters
    ----------
    path : ends in .zarr, or in .nc: then netCDF-4 is written from the zarr store at the end.
    key : hash of all that the recording depends on. inputs : the hashes it is made of, by name, for messages.
    overwrite : replace a recording, finished or not, that has another key, or is damaged: one with this key is read
        through.
    block_bytes : about how much is gathered before it is written; None = `BLOCK_BYTES`.

    Raises
    ------
    StoreError : another process is writing it; there is something else (a folder that is no store of this package
        also with `overwrite`), or a recording with another key; the disk is full, or nothing can be made there.
    """
    path = Path(path)
    files._suffix(path)
    if not path.parent.is_dir():
        raise StoreError(f"wanted a folder to write {path.name!r} in; there is none at {str(path.parent)!r}; make it")
    folder = path.with_name(f".{path.name}.recording")
    _settle(folder, path)
    if _holds(path, key, inputs, overwrite=overwrite):
        _remove_leftover(folder, path, key)
        yield None
        return
    with _locked(folder, path):
        if _holds(path, key, inputs, overwrite=overwrite):  # finished by another process in between
            _empty(folder)
            yield None
            return
        if _sealed_key(folder, path) == key:
            _give_name(folder, path)
            yield None
            return
        _check_unfinished(folder, path, key, overwrite=overwrite)
        sink = RecordingStore(path, folder, key=key, inputs=inputs, block_bytes=block_bytes or BLOCK_BYTES)
        try:
            yield sink
        finally:
            sink.stop()


def _unwritten(path: Path, error: Exception) -> StoreError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
    return StoreError(
        f"{str(path)!r} cannot be written ({reason}); free space and run again (what is there is kept), or choose "
        "another place"
    )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say of a full disk, or of a place where nothing can be made, which recording it stopped."""
    try:
        yield
    except OSError as error:
        raise _unwritten(path, error) from error


@contextmanager
def _locked(folder: Path, path: Path) -> Iterator[None]:
    while True:
        with _writing(path):
            folder.mkdir(exist_ok=True)
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise StoreError(
                f"another process is recording into {str(path)!r}; wait until it ends, or choose another file"
            ) from error
        try:
            same = os.fstat(handle).st_ino == folder.stat().st_ino
        except FileNotFoundError:
            same = False
        if same:
            break
        os.close(handle)  # another process finished and renamed the folder between opening and locking
    try:
        yield
    finally:
        with suppress(OSError):  # not empty: to be taken up again; not there: it has its name
            folder.rmdir()
        os.close(handle)


def _remove_leftover(folder: Path, path: Path, key: str) -> None:
    """What a process left that was killed when its file was written already."""
    state = _read(folder / _STATE)
    if state is not None and _key_of(state) == key:
        with suppress(StoreError), _locked(folder, path):  # another process is at it: it will tidy up itself
            _empty(folder)


def _holds(path: Path, key: str, inputs: Mapping[str, str], *, overwrite: bool) -> bool:
    if not path.exists():
        return False
    try:
        with files.open_kind(path) as found:
            attrs = dict(found.attrs)
    except (StoreError, files.SchemaError):
        if overwrite:
            check_replaceable(path)  # before hours of recording
            return False
        raise
    if attrs.get("recording_key") == key:
        return not overwrite or _is_whole_recording(path)
    if overwrite:
        return False
    was = json.loads(str(attrs.get("recording_inputs", "{}")))
    other = [name for name, value in inputs.items() if was.get(name) != value]
    raise StoreError(
        f"{str(path)!r} holds another recording ({'other ' + ', '.join(other) if was else 'of unknown origin'}); "
        "choose another file, or pass overwrite=True"
    )


def _is_whole_recording(path: Path) -> bool:
    """Whether every value of a finished recording can be read, checksums and all."""
    try:
        if path.suffix == ".zarr":
            verify_recording(path)
            return True
        with files.open_kind(path) as found:
            for array in found.data_vars.values():
                for block in np.ndindex(getattr(array.data, "numblocks", ())):
                    np.asarray(array.data.blocks[block] if block else array.data)  # one at a time
    except (StoreError, files.SchemaError):
        return False
    return True


def _check_unfinished(folder: Path, path: Path, key: str, *, overwrite: bool) -> None:
    text = _read(folder / _STATE)
    if text is None:
        return
    if _key_of(text) != key:
        if not overwrite:
            raise StoreError(
                f"{str(path)!r} was begun with other weights, stimuli, layers or versions and not finished; choose "
                "another file, or pass overwrite=True"
            )
        _empty(folder)


def _settle(folder: Path, path: Path) -> None:
    """Where nothing has the name: give it to a whole recording that was to have it, or back to the one replaced."""
    if path.exists() or not (folder.is_dir() or files._aside(path).is_dir()):
        return
    with _locked(folder, path), _writing(path):
        if _sealed_key(folder, path) is None:
            files._recover(path)
        else:
            _give_name(folder, path)


def _sealed_key(folder: Path, path: Path) -> str | None:
    """The key of a recording whose process was killed between its last word and its name; None = there is none."""
    if (folder / _STATE).exists() or path.suffix != ".zarr":
        return None
    try:
        return str(manifests.read_manifest(folder)["key"])
    except StoreError:
        return None


def _give_name(folder: Path, path: Path) -> None:
    check_replaceable(path)
    (folder / _PROGRESS).unlink(missing_ok=True)
    files._move_over(folder, path)


def _key_of(state: str) -> Any:
    try:
        return json.loads(state)["key"]
    except (ValueError, TypeError, KeyError):  # damaged: no recording's
        return None


def _block_rows(header: RecordingHeader, block_bytes: int) -> int:
    """Stimuli per block: whole batches, about `block_bytes` of values or `BLOCK_STIMULI`, no more than there are."""
    batch = header.batch_size * sum(header.widths) * len(header.reductions) * np.dtype(header.dtype).itemsize
    wanted = max(1, block_bytes // max(batch, 1))
    most = min(header.n_stimuli, BLOCK_STIMULI)
    return header.batch_size * min(wanted, -(-most // header.batch_size))


def _layer_chunks(header: RecordingHeader, rows: int, block_bytes: int) -> list[LayerChunks]:
    """One array per layer; a chunk holds whole filters, and about `block_bytes` at most."""
    dtype, found = np.dtype(header.dtype), []
    for i, (width, step) in enumerate(zip(header.widths, header.steps, strict=True)):
        per_filter = rows * step * len(header.reductions) * dtype.itemsize
        filters = min(width // step, max(1, block_bytes // per_filter))
        found.append(LayerChunks(_layer_name(i), len(header.reductions), width, rows, filters * step, dtype))
    return found


def _lay_out(
    folder: Path, header: RecordingHeader, rows: int, block_bytes: int, key: str, inputs: Mapping[str, str]
) -> dict[str, list[Any]]:
    """Put metadata and coordinates in their places, beside chunks that are there; return their sizes and checksums."""
    made = folder / _MADE
    files._remove(made)
    _create(made, header, rows, block_bytes, key, inputs)
    found = {}
    for path in sorted(made.rglob("*")):
        if path.is_file():
            name = str(path.relative_to(made))
            found[name] = manifests.measured(path.read_bytes())
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, folder / name)
    files._remove(made)
    return found


def _create(
    folder: Path, header: RecordingHeader, rows: int, block_bytes: int, key: str, inputs: Mapping[str, str]
) -> None:
    import zarr

    with _quiet():
        group: Any = zarr.create_group(folder, zarr_format=3, overwrite=False)
        for layer in _layer_chunks(header, rows, block_bytes):
            group.create_array(
                layer.folder,
                shape=(layer.reductions, header.n_stimuli, layer.width),
                chunks=layer.shape,
                dtype=layer.dtype,
                fill_value=np.nan,  # a chunk that is missing must not read as silence
                compressors=zarr_codecs(layer.dtype),
                dimension_names=("reduction", "stimulus", f"unit_{layer.folder[-4:]}"),
            )
        for name, (dim, values) in header.coordinates.items():
            values = np.asarray(values)
            array = group.create_array(
                name, shape=values.shape, chunks=(max(1, min(len(values), 1 << 18)),), dtype=values.dtype,
                compressors=zarr_codecs(values.dtype), dimension_names=(dim,),
                config={"write_empty_chunks": True},  # zeros too: then a file that is not there is one that was lost
            )  # fmt: skip
            array[:] = values
        group.attrs.update(
            {
                "format": manifests.FORMAT,
                "layers": len(header.widths),
                "reductions": list(header.reductions),
                "coordinates": {name: dim for name, (dim, _) in header.coordinates.items()},
                "steps": list(header.steps),
                "attrs": {
                    **header.attrs,
                    "recording_key": key,
                    "recording_inputs": json.dumps(dict(inputs), sort_keys=True),
                    "provenance": files.provenance(),
                },
            }
        )


def _layer_name(i: int) -> str:
    return f"response_{i:04d}"


def _verified(folder: Path) -> dict[int, dict[str, Any]]:
    """Blocks of `progress.jsonl` whose chunks are all there and whole; every other chunk file is removed."""
    done: dict[int, dict[str, Any]] = {}
    for line in (_read(folder / _PROGRESS) or "").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # the line that was being written
            continue
        if all(is_whole(folder / key, *wanted) for key, wanted in entry["chunks"].items()):
            done[entry["start"]] = entry
    for torn in folder.glob(".*.partial"):  # small files that were being written
        torn.unlink()
    keep = {str(folder / key) for entry in done.values() for key in entry["chunks"]}
    for array in folder.glob("response_[0-9]*"):
        for place, _, names in os.walk(array / "c"):
            for name in names:
                if os.path.join(place, name) not in keep:
                    os.unlink(os.path.join(place, name))
    return done


def is_recording(path: Path) -> bool:
    """Whether a folder holds a recording in this module's layout, be it damaged."""
    return (path / manifests.NAME).is_file() or (path / _layer_name(0)).is_dir()


def verify_recording(path: str | Path) -> int:
    """Compare every file of a finished recording with its manifest; return the number of chunks of its responses.

    Raises
    ------
    StoreError : no recording, or a file that is missing or damaged; the first is named.
    """
    path = Path(path)
    if not is_recording(path):
        raise StoreError(f"wanted a recording (.zarr); there is none at {str(path)!r}; check the path")
    manifest = manifests.read_manifest(path)
    manifests.checked_files(path, manifest["files"])
    for key, wanted in manifest["chunks"].items():
        if not is_whole(path / key, *wanted):
            raise StoreError(
                f"chunk {key} of {str(path)!r} is missing or damaged; record again with overwrite=True, or delete the "
                "folder"
            )
    return len(manifest["chunks"])


def _stored_layer(path: Path, name: str) -> StoredLayer:
    described = json.loads((path / name / "zarr.json").read_text(encoding="utf-8"))
    reductions, stimuli, width = described["shape"]
    _, rows, columns = described["chunk_grid"]["configuration"]["chunk_shape"]
    layer = LayerChunks(name, reductions, width, rows, columns, np.dtype(described["data_type"]))
    return StoredLayer(path, layer, stimuli)


def open_recording(path: Path, block_bytes: int | None = None) -> xr.Dataset:
    """A finished recording as ACTIVATIONS; values are read when they are used, about `block_bytes` at once."""
    import zarr

    from featattn_neuro.io.regions import region_array, whole_region

    manifest = manifests.read_manifest(path)
    manifests.checked_files(path, manifest["files"])
    manifests.present_chunks(path, manifest["chunks"])
    with _quiet():
        group: Any = zarr.open_group(path, mode="r")
        layout: dict[str, Any] = dict(group.attrs)
        if manifest["format"] == 1:
            for name in layout["coordinates"]:
                manifests.warn_of_absent(path, name)
        coordinates = {name: (dim, group[name][:]) for name, dim in layout["coordinates"].items()}
    arrays = [_stored_layer(path, _layer_name(i)) for i in range(layout["layers"])]
    token = f"{manifest['key'][:32]}-{os.stat(path).st_mtime_ns}"
    header = RecordingHeader(
        widths=tuple(array.shape[2] for array in arrays),
        steps=tuple(layout["steps"]),
        reductions=tuple(layout["reductions"]),
        dtype=str(arrays[0].dtype),
        batch_size=layout["attrs"]["batch_size"],
        n_stimuli=arrays[0].shape[1],
        coordinates=coordinates,
        attrs=layout["attrs"],
    )
    return header.dataset(
        region_array(whole_region(arrays), token, block_bytes),
        {int(i): reason for i, reason in manifest["unreadable"].items()},
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """zarr warns that fixed-width text has no final specification in format 3; the text is read back by this module."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        yield


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
