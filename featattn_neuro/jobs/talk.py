"""What a run says, on the terminal and in the log beside the results."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> duration(65.2)
    '0:01:05'
    """
    return str(timedelta(seconds=round(seconds)))


def _write_line(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class Talk:
    """What a run says: lines in the log; a bar with the time left on a terminal, plain lines where there is none."""

    def __init__(self, log: Path, *, quiet: bool) -> None:
        self._log: int | None = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._quiet = quiet
        self._terminal = sys.stderr.isatty() and not quiet
        self._bar: Any = None
        self._task: Any = None
        self._last_line = self._begun = time.monotonic()

    def log(self, message: str) -> None:
        """One line in the log; a log that cannot be written (full disk) does not stop a run, results would."""
        if self._log is not None:
            with contextlib.suppress(OSError):
                os.write(self._log, f"{time.strftime('%H:%M:%S')} {message}\n".encode())

    def say(self, message: str) -> None:
        self.log(message)
        if not self._quiet:
            if self._bar is not None:
                self._bar.console.print(message, highlight=False, markup=False)
            else:
                _write_line(message)

    def start(self) -> None:
        """The work begins now; what is left is reckoned from here."""
        self._last_line = self._begun = time.monotonic()

    def progress(self, schedule: Any, message: str) -> None:
        if message:
            self.log(message)
        share = schedule.fraction()
        elapsed = time.monotonic() - self._begun
        left = elapsed * (1 - share) / share if share > 0.01 else None
        going = ", ".join(sorted(name for name in schedule.running if schedule.shares[schedule.running[name]] > 0))
        if self._terminal:
            self._draw(share, left, going)
        elif not self._quiet and time.monotonic() - self._last_line > 20:
            self._last_line = time.monotonic()
            rest = "" if left is None else f", about {duration(left)} left"
            _write_line(
                f"{share:4.0%} of the work, {len(schedule.done)}/{len(schedule.stages)} stages{rest}; now: {going}"
            )

    def _draw(self, share: float, left: float | None, going: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(
                BarColumn(30), TextColumn("{task.percentage:>3.0f} %  {task.fields[left]:<16} {task.description}"),
                console=Console(stderr=True), transient=True, auto_refresh=False,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("", total=1.0, left="")
        text = "" if left is None else f"{duration(left)} left"
        self._bar.update(self._task, completed=share, description=going[:70], left=text, refresh=True)

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def close(self) -> None:
        self.finish()
        if self._log is not None:
            os.close(self._log)
            self._log = None
