"""Which folders may be replaced: those that this package made, and empty ones; never what somebody else put there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from featattn_neuro.errors import StoreError
from featattn_neuro.schema import KINDS

_KIND = re.compile(rf'"kind"\s*:\s*"({"|".join(KINDS)})"')
_METADATA = (".zattrs", ".zmetadata", "zarr.json")
_PARTS = ("chunks.json", "response_0000", "row_000")
"""What recordings and cached rows hold, be they damaged."""


def is_own_store(folder: Path) -> bool:
    """Whether a folder is a zarr store of this package: a Dataset of a declared kind, a recording, cached rows."""
    if any((folder / part).exists() for part in _PARTS):
        return True
    texts = ((folder / name).read_bytes().decode(errors="replace") for name in _METADATA if (folder / name).is_file())
    return any(_KIND.search(text) for text in texts)


def check_replaceable(path: Path, ours: Callable[[Path], bool] = is_own_store) -> None:
    """`StoreError` where `path` is a folder with something in it that is not `ours`: replacing would remove it."""
    if path.is_dir() and any(path.iterdir()) and not ours(path):
        raise StoreError(
            f"{str(path)!r} cannot be written: it is a folder with other things in it, which would be removed; choose "
            "another name, or remove it yourself"
        )
