"""The data manifest: every data set and weight file with its origin, checksum, licence and citation; find and fetch.

`data_manifest.yaml` is the one source. A file is looked for in the folder that the environment variable
`FEATATTN_DATA` names, then in the cache folder (`FEATATTN_CACHE`, or the user's cache), under the same relative name;
sets that come inside a Python package are looked for there. A file with the wrong checksum is an error, never used and
never silently replaced.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from featattn_neuro.errors import ConfigError, StoreError, choose

MANIFEST_NAME = "data_manifest.yaml"
_HEX = {"sha256": 64, "md5": 32}


def _web_address(value: str | None) -> str | None:
    if value is not None and not value.startswith(("https://", "http://")):
        raise ValueError("must start with https:// or http://")
    return value


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Model):
    """One file: where it lies under a data folder (or in its package), its size in bytes, and its checksum."""

    path: str
    size: int = Field(gt=0)
    sha256: str | None = None
    md5: str | None = None
    url: str | None = None

    @field_validator("path")
    @classmethod
    def _relative(cls, value: str) -> str:
        if PurePosixPath(value).is_absolute() or ".." in PurePosixPath(value).parts:
            raise ValueError("must be a relative path without '..'")
        return value

    @field_validator("url")
    @classmethod
    def _web(cls, value: str | None) -> str | None:
        return _web_address(value)

    @model_validator(mode="after")
    def _one_checksum(self) -> FileEntry:
        given = {name: value for name in _HEX if (value := getattr(self, name)) is not None}
        if len(given) != 1:
            raise ValueError("needs a checksum: sha256, or md5 where only that is public, and not both")
        for name, value in given.items():
            if len(value) != _HEX[name] or set(value) - set("0123456789abcdef"):
                raise ValueError(f"{name} must be {_HEX[name]} hexadecimal digits in lower case")
        return self

    @property
    def algorithm(self) -> str:
        """Name of the checksum, "sha256" or "md5"."""
        return "sha256" if self.sha256 is not None else "md5"

    @property
    def checksum(self) -> str:
        """The checksum that is wanted."""
        return self.sha256 or self.md5 or ""


class Package(_Model):
    """A Python package that holds the files: its name for pip and its import name."""

    distribution: str
    module: str


class Entry(_Model):
    """One data set or weight file of the manifest."""

    name: str
    kind: Literal["images", "weights", "neural", "dissimilarity"]
    source: Literal["python_package", "url", "local"]
    package: Package | None = None
    base_url: str | None = None
    files: tuple[FileEntry, ...] = Field(min_length=1)
    licence: str
    citation: str
    loader: str
    notes: str = ""
    instead: str | None = None

    @field_validator("base_url")
    @classmethod
    def _web(cls, value: str | None) -> str | None:
        return _web_address(value)

    @model_validator(mode="after")
    def _source_is_complete(self) -> Entry:
        if (self.source == "python_package") != (self.package is not None):
            raise ValueError("field package belongs to source python_package, and only there")
        without = [f.path for f in self.files if self.url(f) is None]
        if self.source == "url" and without:
            raise ValueError(f"source url needs a url for every file, or a base_url; {without[0]} has none")
        return self

    def url(self, file: FileEntry) -> str | None:
        """Public address of one file: its own, or `base_url` and its file name; None where there is none."""
        if file.url is not None or self.base_url is None:
            return file.url
        return self.base_url.rstrip("/") + "/" + PurePosixPath(file.path).name

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(f.size for f in self.files)

    @property
    def relative(self) -> str:
        """What `find` returns, relative to the data folder: the file, or the folder that all files lie in."""
        if len(self.files) == 1:
            return self.files[0].path
        return os.path.commonpath([os.path.dirname(f.path) for f in self.files])


class Manifest(_Model):
    """All entries."""

    version: Literal[1]
    entries: tuple[Entry, ...]

    @model_validator(mode="after")
    def _unique(self) -> Manifest:
        seen: set[str] = set()
        for entry in self.entries:
            if entry.name in seen:
                raise ValueError(f"entry {entry.name} comes more than once")
            seen.add(entry.name)
        for entry in self.entries:
            if entry.instead is not None and entry.instead not in seen:
                raise ValueError(f"entry {entry.name} names {entry.instead} to be used instead; there is no such entry")
        return self

    def names(self, kind: str | None = None) -> list[str]:
        """Names of the entries, in the order of the file; of one kind if given."""
        return [e.name for e in self.entries if kind is None or e.kind == kind]

    def entry(self, name: str) -> Entry:
        """The entry called `name`; `ConfigError` that lists the names otherwise."""
        choose(name, self.names(), "data set")
        return next(e for e in self.entries if e.name == name)


def load_manifest(path: str | Path | None = None) -> Manifest:
    """Read and validate the manifest.

    Parameters
    ----------
    path : another manifest file; None = the package's own.

    Raises
    ------
    StoreError
        There is no such file.
    ConfigError
        It is not YAML, or an entry is wrong: the entry and the field are named.

    Examples
    --------
    >>> load_manifest().entry("digits").kind
    'images'
    """
    path = Path(path) if path is not None else _manifest_path()
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise StoreError(f"wanted a data manifest; there is none at {str(path)!r}; check the path") from error
    return _read_manifest(path.resolve(), changed)


def find(name: str, *, data_dir: str | Path | None = None) -> Path:
    """Where a data set lies on this machine; nothing is downloaded.

    Parameters
    ----------
    name : entry of the manifest.
    data_dir : folder to look in first; None = the environment variable FEATATTN_DATA, if set.

    Returns
    -------
    The file, or the folder for an entry of several files. Checksums have been verified.

    Raises
    ------
    ConfigError
        No such entry.
    StoreError
        Not there (it says how to get it), or a file with another checksum than the manifest's (it gives both).
    """
    entry = load_manifest().entry(name)
    roots = list(_roots(entry, data_dir))
    for wanted in (all, any):  # a complete copy anywhere before an incomplete one, which is an error
        for root in roots:
            if wanted((root / f.path).is_file() for f in entry.files):
                for file in entry.files:
                    _verify(root / file.path, file, entry.name)
                return root / entry.relative
    raise StoreError(f"data set {name!r} is not on this machine; {how_to_get(entry)}")


def is_present(name: str, *, data_dir: str | Path | None = None) -> bool:
    """Are all files of the entry on this machine, with their sizes? Checksums are left to `find`.

    Examples
    --------
    >>> is_present("digits")
    True
    """
    entry = load_manifest().entry(name)
    return any(all(_has_size(root / f.path, f.size) for f in entry.files) for root in _roots(entry, data_dir))


def fetch(name: str, *, progress: bool = True) -> Path:
    """Find a data set, or download it into the cache folder; an interrupted download goes on where it stopped.

    Parameters
    ----------
    name : entry of the manifest.
    progress : show a bar on standard error.

    Returns
    -------
    As `find`.

    Raises
    ------
    ConfigError
        No such entry.
    StoreError
        A set that has no public address or whose package is missing, no network (what to download, its checksum, where
        to put it), a wrong checksum (both are given), or too little space.
    """
    entry = load_manifest().entry(name)
    roots = list(_roots(entry, None))
    if any(all((root / f.path).is_file() for f in entry.files) for root in roots) or entry.source != "url":
        return find(name)
    from featattn_neuro.io.download import download

    target = cache_dir()
    missing = [f for f in entry.files if not (target / f.path).is_file()]
    for position, file in enumerate(missing, start=1):
        url = entry.url(file)
        assert url is not None  # the manifest's validator saw to it
        download(
            url,
            target / file.path,
            checksum=(file.algorithm, file.checksum),
            size=file.size,
            progress=f"{name} ({position}/{len(missing)})" if progress else None,
            advice=how_to_get(entry, file),
        )
    return find(name, data_dir=target)


def cache_dir() -> Path:
    """Folder for downloads: the environment variable FEATATTN_CACHE, or the user's cache folder for this package."""
    named = os.environ.get("FEATATTN_CACHE")
    if named:
        return Path(named)
    import pooch

    return Path(pooch.os_cache("featattn_neuro"))


def how_to_get(entry: Entry, file: FileEntry | None = None) -> str:
    """One sentence on how to get an entry (or one of its files) onto this machine."""
    if entry.package is not None:
        return f"install it with: pip install {entry.package.distribution}"
    place = os.environ.get("FEATATTN_DATA") or str(cache_dir())
    files = [file] if file is not None else list(entry.files)
    first, url = files[0], entry.url(files[0])
    put = f"put it at {str(Path(place) / first.path)!r} ({first.algorithm} {first.checksum})"
    more = f", and {len(files) - 1} more files of the manifest likewise" if len(files) > 1 else ""
    if url is None and entry.instead is not None:
        return (
            f"it has no public address; use {entry.instead!r} instead (featattn fetch {entry.instead}; in a "
            f"configuration stimuli: {entry.instead}), or {put}{more}"
        )
    if url is None:
        return f"it has no public address: {put}{more}"
    by_command = f"run 'featattn fetch {entry.name}', or " if file is None else ""
    return f"{by_command}download {url} and {put}{more}"


def _manifest_path() -> Path:
    package = Path(__file__).resolve().parents[1]
    for folder in (package, package.parent):
        if (folder / MANIFEST_NAME).is_file():
            return folder / MANIFEST_NAME
    raise StoreError(
        f"wanted {MANIFEST_NAME} in {str(package)!r} or beside it; there is none; install the package again"
    )


@functools.lru_cache(maxsize=8)
def _read_manifest(path: Path, changed: int) -> Manifest:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506  a safe loader, in C if built
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(path)!r} is not readable YAML ({error}); correct it") from error
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{str(path)!r}: {_explain(error, content)}") from error


def _explain(error: ValidationError, content: Any) -> str:
    """The first mistake: entry, field, what was wrong, what came."""
    first = error.errors()[0]
    where = list(first["loc"])
    entry = ""
    if len(where) >= 2 and where[0] == "entries" and isinstance(where[1], int):
        raw = content["entries"][where[1]]
        name = raw.get("name", f"number {where[1] + 1}") if isinstance(raw, dict) else f"number {where[1] + 1}"
        entry, where = f"entry {name!r}, ", where[2:]
    field = ".".join(map(str, where)) or "as a whole"
    came = first.get("input")
    shown = f"; came {came!r}" if isinstance(came, str | int | float | bool) or came is None else ""
    more = f" ({error.error_count() - 1} more mistakes)" if error.error_count() > 1 else ""
    return f"{entry}field {field}: {first['msg'].removeprefix('Value error, ')}{shown}; correct it{more}"


def _roots(entry: Entry, data_dir: str | Path | None) -> Iterator[Path]:
    """Folders that the entry's relative paths may start from, in the order they are looked in."""
    if entry.package is not None:
        spec = importlib.util.find_spec(entry.package.module)
        if spec is not None and spec.submodule_search_locations:
            yield from map(Path, spec.submodule_search_locations)
        return
    first = data_dir if data_dir is not None else os.environ.get("FEATATTN_DATA")
    if first:
        yield Path(first)
    yield cache_dir()


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size
    except OSError:
        return False


def _verify(path: Path, file: FileEntry, name: str) -> None:
    if not path.is_file():
        raise StoreError(
            f"data set {name!r} is incomplete: there is no {str(path)!r} ({file.algorithm} {file.checksum}); add it, "
            f"or run 'featattn fetch {name}'"
        )
    stat = path.stat()
    came = _digest(path, file.algorithm, stat.st_size, stat.st_mtime_ns)
    if came != file.checksum:
        raise StoreError(
            f"wanted {file.algorithm} {file.checksum} for {str(path)!r} of data set {name!r}; came {came} "
            f"({stat.st_size} bytes, wanted {file.size}); remove the file and get it again"
        )


@functools.lru_cache(maxsize=4096)
def _digest(path: Path, algorithm: str, size: int, changed: int) -> str:
    """Checksum of a file, computed once as long as its size and time of change stay."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, algorithm).hexdigest()
