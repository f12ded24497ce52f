"""`chunks.json` of a recording: size and CRC-32C of every file in it, and a checksum of itself.

A zarr reader fills what is missing with zeros, and believes metadata as they stand; so nothing of a recording is read
before it is held against this list. Format 1, of version 0.1.0, lists the chunks of the responses alone: such stores
are read as they are, with a warning where a coordinate has no file.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featattn_neuro.errors import StoreError
from featattn_neuro.io.recording_chunks import crc32c
from featattn_neuro.io.store import write_text_atomic

FORMAT = 2
NAME = "chunks.json"

_AGAIN = "copy the folder again, delete it, or record again with overwrite=True"


def write_manifest(
    folder: Path,
    *,
    key: str,
    chunks: Mapping[str, Sequence[Any]],
    files: Mapping[str, Sequence[Any]],
    unreadable: Mapping[str, str],
) -> None:
    """Write the list of a finished recording.

    Parameters
    ----------
    chunks : path in the folder to size and checksum, of the responses. files : the same of coordinates and metadata.
    unreadable : why each stimulus that could not be read was left out, by its number.
    """
    listed = {
        "format": FORMAT,
        "key": key,
        "chunks": dict(chunks),
        "files": dict(sorted(files.items())),
        "unreadable": dict(unreadable),
    }
    write_text_atomic(folder / NAME, json.dumps({**listed, "checksum": _checksum(listed)}, sort_keys=True, indent=1))


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `write_manifest` wrote.

    Raises
    ------
    StoreError : it is missing or damaged, or from a newer version.
    """
    try:
        found = json.loads((folder / NAME).read_text(encoding="utf-8"))
        version = found["format"]
        if version > FORMAT:
            raise StoreError(f"{str(folder)!r} was written by a newer featattn_neuro: update the package")
        checksum = found.pop("checksum", None)
        if version > 1 and checksum != _checksum(found):
            raise ValueError("its checksum differs")
        return {"files": {}, **found}
    except FileNotFoundError as error:
        raise StoreError(
            f"{NAME} of {str(folder)!r} is missing: without it nothing says whether the recording is whole; {_AGAIN}"
        ) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"{NAME} of {str(folder)!r} is damaged ({error}); {_AGAIN}") from error


def checked_files(folder: Path, files: Mapping[str, Sequence[Any]]) -> None:
    """`StoreError` if a file of the coordinates or the metadata is missing or damaged."""
    for name, wanted in files.items():
        try:
            found = measured((folder / name).read_bytes())
        except OSError as error:
            raise StoreError(f"{name} of {str(folder)!r} is missing ({error.strerror}); {_AGAIN}") from error
        if found != list(wanted):
            raise StoreError(f"{name} of {str(folder)!r} is damaged (its checksum differs); {_AGAIN}")


def present_chunks(folder: Path, chunks: Mapping[str, Sequence[Any]]) -> None:
    """`StoreError` if a chunk of the responses is missing or has another size; its checksum waits until it is read."""
    place = f"{folder}/"
    for name, (size, _) in chunks.items():
        try:
            found = os.stat(place + name).st_size
        except FileNotFoundError:
            found = -1
        if found != size:
            raise StoreError(f"chunk {name} of {str(folder)!r} is {'missing' if found < 0 else 'cut short'}; {_AGAIN}")


def warn_of_absent(folder: Path, coordinate: str) -> None:
    """Format 1: a coordinate that is zero or empty throughout has no file, and neither has one that lost it."""
    if not any(path.is_file() for path in (folder / coordinate / "c").rglob("*")):
        warnings.warn(
            f"coordinate {coordinate!r} of {str(folder)!r} has no file and is read as zeros or empty text; it was "
            "written so by version 0.1 if all its values are, and has lost a file otherwise",
            stacklevel=2,
        )


def measured(data: bytes) -> list[Any]:
    """Size and checksum of a file, as they are listed.

    >>> measured(b"123456789")
    [9, '839206e3']
    """
    return [len(data), crc32c(data).hex()]


def _checksum(listed: Mapping[str, Any]) -> str:
    return crc32c(json.dumps(listed, sort_keys=True).encode()).hex()
