"""Download one file: goes on where it stopped, verified before it takes its place, fails fast without a network.

pooch moves the file into place and checks it; what it lacks, resuming, is done by the downloader that is handed to it:
bytes go to `NAME.part` beside the target, and the next attempt asks the server for the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from featattn_neuro.errors import StoreError

CONNECT_SECONDS = 5
"""How long a server may take to answer before the network counts as absent."""
READ_SECONDS = 60
_BLOCK = 1 << 18


def download(
    url: str,
    target: Path,
    *,
    checksum: tuple[str, str],
    size: int,
    progress: str | None = None,
    advice: str = "try again",
) -> Path:
    """Download `url` to `target` and return it.

    Parameters
    ----------
    checksum : algorithm ("sha256" or "md5") and the wanted hexadecimal digits.
    size : wanted size in bytes, for the progress bar and the check of free space.
    progress : text of the progress bar on standard error; None = no bar.
    advice : what to do by hand; ends the message when there is no network.

    Raises
    ------
    StoreError
        No network, a refusal of the server, a wrong checksum after a fresh download, too little space, a folder that
        cannot be written, or another process that is downloading the same file.
    """
    import pooch

    algorithm, wanted = checksum
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # the progress bar says it
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_space(target.parent, size - (part.stat().st_size if part.exists() else 0), target)
        with _only_one(part):
            for fresh in (False, True):
                resumed = part.stat().st_size > 0
                try:
                    pooch.retrieve(
                        url,
                        known_hash=f"{algorithm}:{wanted}",
                        fname=target.name,
                        path=target.parent,
                        downloader=_Resuming(part, size, progress),
                    )
                    return target
                except ValueError as error:  # pooch: the hash differs
                    came = _came(part, algorithm)
                    os.truncate(part, 0)
                    if fresh or not resumed:
                        part.unlink()
                        raise StoreError(
                            f"wanted {algorithm} {wanted} from {url}; came {came}; nothing was kept: the file "
                            "there has changed or the network alters it, report it"
                        ) from error
    except OSError as error:
        raise _explained(error, url, target, advice) from error
    finally:
        logger.setLevel(level)
    raise AssertionError("the second attempt returns or raises")


class _Resuming:
    """A pooch downloader that appends to a part file, and hands it over when it is complete."""

    def __init__(self, part: Path, size: int, progress: str | None) -> None:
        self.part, self.size, self.progress = part, size, progress

    def __call__(self, url: str, output_file: str, pooch: Any, check_only: bool = False) -> None:
        import requests

        start = self.part.stat().st_size
        if start != self.size:
            headers = {"Range": f"bytes={start}-"} if start else {}
            headers["Accept-Encoding"] = "identity"  # a compressed answer cannot be resumed
            timeout = (CONNECT_SECONDS, READ_SECONDS)
            with requests.get(url, headers=headers, stream=True, timeout=timeout) as answer:
                if answer.status_code == requests.codes.requested_range_not_satisfiable:
                    start = 0  # what is there is longer than the file: the checksum will say so
                else:
                    answer.raise_for_status()
                    self._append(answer, start if answer.status_code == requests.codes.partial_content else 0)
        shutil.copyfile(self.part, output_file)

    def _append(self, answer: Any, start: int) -> None:
        with open(self.part, "r+b") as handle, _bar(self.progress, self.size, start) as advance:
            handle.seek(start)
            handle.truncate()
            for block in answer.iter_content(_BLOCK):
                handle.write(block)
                advance(len(block))


@contextlib.contextmanager
def _only_one(part: Path) -> Iterator[None]:
    """Hold the part file; another process that holds it is named. On success (the target is there) it is removed."""
    with open(part, "ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(f"another process is downloading {part.stem!r}; wait until it has finished") from error
        yield
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _bar(text: str | None, size: int, start: int) -> Iterator[Callable[[int], None]]:
    if text is None:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(text, total=size, completed=start)
        yield lambda count: bar.advance(task, count)


def _check_space(folder: Path, wanted: int, target: Path) -> None:
    free = shutil.disk_usage(folder).free
    # the part file and its verified copy lie beside each other for a moment
    if free < 2 * wanted:
        raise StoreError(
            f"wanted {2 * wanted / 1e6:.0f} MB of free space to download {target.name!r}; {str(folder)!r} has "
            f"{free / 1e6:.0f} MB; free some or set FEATATTN_CACHE to another folder"
        )


def _came(part: Path, algorithm: str) -> str:
    import hashlib

    with open(part, "rb") as handle:
        return f"{hashlib.file_digest(handle, algorithm).hexdigest()} ({part.stat().st_size} bytes)"


def _explained(error: OSError, url: str, target: Path, advice: str) -> StoreError:
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return StoreError(f"{url} answered {error.response.status_code} {error.response.reason}; {advice}")
    if isinstance(error, requests.RequestException):
        return StoreError(
            f"{url} cannot be reached, or the connection broke (what came is kept and the next attempt goes on "
            f"from there); {advice}"
        )
    return StoreError(
        f"{str(target)!r} cannot be written ({error.strerror}); free space or set FEATATTN_CACHE to another folder"
    )
