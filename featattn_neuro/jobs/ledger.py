"""What is done: one small record a stage, with the key of what it was made from and the hashes of what it wrote.

A stage is skipped when its key (configuration, code, inputs by content) is that of its record and its files still have
the recorded hashes. Times play no part.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from featattn_neuro import __version__
from featattn_neuro.errors import StoreError
from featattn_neuro.io.store import file_sha256, write_text_atomic
from featattn_neuro.jobs.graph import Stage

FORMAT = 2
"""Version of the folder's layout and of what its files say; a folder of another version is refused.

2: maps say where they lie in the images (`raw_height` and the other attributes of places).
"""

LOCK_SECONDS = 3.0
"""How long a run waits for the lock of a results folder."""

_PACKAGE = Path(__file__).resolve().parents[1]
CODE = {
    "learn": (
        "schema", "errors.py", "api", "arrays", "nets", "io", "jobs/config.py", "jobs/context.py",
        "jobs/derived_arms.py", "jobs/fitting.py", "jobs/reference.py", "jobs/stages.py",
        "measures/_join.py", "measures/contrasts.py",  # who is a target
    ),
    "measure": ("measures",),
    "report": ("report", "jobs/summary.py"),
}  # fmt: skip
"""Which source files a stage's result can depend on."""


LIBRARIES = ("numpy", "scipy", "scikit-learn", "statsmodels", "xarray", "torch", "torchvision", "timm", "pillow")
"""Whose installed version is part of every stage's key: another release may round, or decode an image, otherwise."""


@lru_cache(maxsize=8)
def code_hash(groups: tuple[str, ...]) -> str:
    """sha256 over the sources of some groups of `CODE` and the versions of the libraries they compute with."""
    digest = hashlib.sha256(__version__.encode())
    for library in LIBRARIES:
        digest.update(f"{library} {importlib.metadata.version(library)}\0".encode())
    for group in groups:
        for name in CODE[group]:
            place = _PACKAGE / name
            files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.suffix in (".py", ".j2"))
            for file in files:
                digest.update(str(file.relative_to(_PACKAGE)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def stage_key(stage: str, code: Sequence[str], settings: Mapping[str, Any], inputs: Sequence[str]) -> str:
    """sha256 of everything that a stage is made from."""
    made_from = {"stage": stage, "code": code_hash(tuple(code)), "settings": settings, "inputs": list(inputs)}
    return hashlib.sha256(json.dumps(made_from, sort_keys=True, default=str).encode()).hexdigest()


class Ledger:
    """Records in FOLDER/.done, one a stage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._done = folder / ".done"

    def record(self, stage: str) -> dict[str, Any] | None:
        """The record of a stage, or None; a damaged record counts as none (the stage is done again)."""
        path = self._done / f"{stage}.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and {"key", "outputs", "seconds"} <= set(found) else None

    def is_done(self, stage: str, key: str) -> bool:
        """Whether the stage was made from just this, and its files are unchanged."""
        found = self.record(stage)
        return found is not None and found["key"] == key and self.is_whole(stage)

    def is_whole(self, stage: str) -> bool:
        """Whether a stage has a record and its files are as they were written."""
        found = self.record(stage)
        return found is not None and all(
            (self.folder / name).is_file() and file_sha256(self.folder / name) == sha
            for name, sha in found["outputs"].items()
        )

    def settled(self, stages: Sequence[Stage]) -> set[str]:
        """Ids of the stages that need not be done again, nor anything before them. `stages`: each after its needs."""
        found: set[str] = set()
        for stage in stages:
            if set(stage.needs) <= found and self.is_done(stage.id, self.key_of(stage)):
                found.add(stage.id)
        return found

    def key_of(self, stage: Stage) -> str:
        """Key of a stage whose needs are all done."""
        inputs = [line for need in stage.needs for line in self.output_hashes(need)]
        return stage_key(stage.id, stage.code, stage.settings, inputs)

    def finish(self, stage: str, key: str, files: Sequence[str], seconds: float, **noted: str) -> None:
        """Write the record, last of all: a stage without record has not happened.

        `noted`: what else the key was made from that neither the configuration nor the files show.
        """
        outputs = {name: file_sha256(self.folder / name) for name in files}
        record = {"key": key, "outputs": outputs, "seconds": round(seconds, 3), "noted": noted}
        write_text_atomic(self._done / f"{stage}.json", json.dumps(record, indent=1, sort_keys=True) + "\n")

    def noted(self, stage: str, what: str) -> str:
        """What `finish` was told beside the key; empty where there is no record."""
        return str(((self.record(stage) or {}).get("noted") or {}).get(what, ""))

    def output_hashes(self, stage: str) -> list[str]:
        """Hashes of what a finished stage wrote, in order of name."""
        found = self.record(stage)
        if found is None:
            raise StoreError(f"stage {stage!r} has no record in {self._done}; run the job again")
        return [f"{name} {sha}" for name, sha in sorted(found["outputs"].items())]


PARTS = (
    "networks", "splits", "detectors", "activations", "halves", "refits", "selectivity", "association", "agreement",
    "saliency", "sheets", "scores", "gains", "curves", "choices", "doses", "stimuli", "tables", "figures", ".done",
)  # fmt: skip
"""Sub-folders of a results folder; `arms` and `curve_parts` have one more level, a folder a network."""


def make_parts(folder: Path, networks: Sequence[str]) -> None:
    """Make the sub-folders that stages write to."""
    for part in PARTS:
        (folder / part).mkdir(exist_ok=True)
    for name in networks:
        for part in ("arms", "curve_parts"):
            (folder / part / name).mkdir(parents=True, exist_ok=True)


def open_folder(folder: Path, networks: Sequence[str]) -> Ledger:
    """Make or take up a results folder that is locked; refuse one of another version, or one that cannot be written."""
    try:
        check_folder(folder)
        write_text_atomic(folder / "run.json", json.dumps({"format": FORMAT, "version": __version__}) + "\n")
        make_parts(folder, networks)
        for left in folder.rglob(".*.partial"):  # of a run that was killed while it wrote; nobody else writes here now
            left.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(
            f"cannot write the results folder {folder}: {error.strerror or error}; choose another --out"
        ) from None
    return Ledger(folder)


def check_folder(folder: Path) -> None:
    """Refuse a folder with other things in it, and results of another version; a new or empty one is fine."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StoreError(f"wanted a results folder; {folder} is a file; choose another --out")
    mark = folder / "run.json"
    if mark.is_file():
        _check_mark(mark)
    elif any(p.name not in (".lock", "log.txt") and p.suffix != ".partial" for p in folder.iterdir()):
        raise StoreError(
            f"{folder} is not empty and not a results folder (no run.json); choose another --out, or empty it"
        )


def nearest_folder(folder: Path) -> Path:
    """The folder itself, or the first above it that is there."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return place


def check_writable(folder: Path) -> None:
    """Refuse a place where no folder can be made or written; tried, since permissions alone do not say it."""
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".featattn_", suffix=".partial", dir=nearest_folder(folder)))
    except OSError as error:
        raise StoreError(
            f"cannot write the results folder {folder}: {error.strerror or error}; choose another --out"
        ) from None


def _check_mark(mark: Path) -> None:
    try:
        found = json.loads(mark.read_text(encoding="utf-8"))
        came = (found["format"], found["version"])
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"{mark} is damaged; choose another --out, or remove the folder and run again") from None
    if came != (FORMAT, __version__):
        raise StoreError(
            f"{mark.parent} was made by featattn_neuro {came[1]} (format {came[0]}); this is {__version__} (format "
            f"{FORMAT}); results of two versions are not mixed: choose another --out, or remove that folder"
        )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one run writes a results folder; the kernel drops the lock when the run ends, however it ends.

    The workers hold the lock too, so it is free when the last of them is gone; the wait is for those of a run that was
    killed a moment ago.
    """
    try:
        check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(
            f"cannot write the results folder {folder}: {error.strerror or error}; choose another --out"
        ) from None
    try:
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > until:
                    raise StoreError(
                        f"wanted {folder} for this run; another run is writing it; wait for it, or choose another --out"
                    ) from None
                time.sleep(0.1)
        yield
    finally:
        os.close(handle)
