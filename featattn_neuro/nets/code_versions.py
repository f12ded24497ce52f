"""Which code is fixed by a version: of Python, installed packages and this one; all other code is a user's own."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import sys
import sysconfig


@functools.cache
def fixed_version(module: str | None) -> str | None:
    """The version that fixes the code of a module; None = code of the user's own, which is hashed itself.

    >>> fixed_version("json.decoder"), fixed_version("__main__") is None
    ('python', True)
    """
    name = (module or "").split(".")[0]
    if name == "featattn_neuro":
        return "own"  # its source files are in the key
    if not name or name == "__main__":
        return None
    try:
        found = sys.modules.get(str(module))
        spec = (None if found is None else found.__spec__) or importlib.util.find_spec(str(module))
    except (ImportError, ValueError, AttributeError):
        return None
    places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or ())]
    if any(_is_installed(place) for place in places):
        return _package_version(name)
    library = sysconfig.get_path("stdlib") + os.sep
    # by place, not by name: a script's folder may hold a statistics.py of its own
    return "python" if any(place in ("built-in", "frozen") or place.startswith(library) for place in places) else None


@functools.cache
def _package_version(package: str) -> str | None:
    """Name and version of what was installed; None where nothing says it: files put among packages by hand."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:  # installed under another name, to be looked for in all of them
        names = sorted(set(importlib.metadata.packages_distributions().get(package, [])))
        return " ".join(f"{one} {importlib.metadata.version(one)}" for one in names) or None


def _is_installed(place: str) -> bool:
    """Whether a file belongs to an installed package; those of a development install change without a version."""
    return any(folder in ("site-packages", "dist-packages") for folder in pathlib.PurePath(place).parts)


def source_sha256(path: str | None) -> str:
    try:
        return hashlib.sha256(pathlib.Path(path or "").read_bytes()).hexdigest()
    except OSError:  # made in memory: its values are hashed where they are used
        return "no file"
