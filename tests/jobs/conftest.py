"""Made-up images, the smallest configurations that reach the end, and runs in processes of their own."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import yaml
from PIL import Image

from featattn_neuro import cli
from featattn_neuro.jobs.ledger import code_hash

CLASSES = ("east", "north", "northwest", "south", "southwest", "west")
SIDE = 12

TINY: dict[str, Any] = {
    "name": "tiny",
    "networks": {
        "train": {"architecture": "digits_cnn", "count": 2, "omitted_classes": 1, "epochs": 2, "batch_size": 20},
        "layers": ["relu1", "relu2", "relu3"],
    },
    "splits": {split: {"per_class": count} for split, count in {"R": 8, "G": 6, "V": 4, "S": 6, "P": 6}.items()},
    "composites": {"G": 18, "V": 12, "S": 18, "P": 18},
    "learning": {"batch_size": 9, "epochs": 1, "shuffles": 2},
    "arms": {
        "probe": {"rates": [0.03]},
        "gain": {"rates": [0.03, 0.1], "penalties": [0.001]},
        "gain_head": {"rates": [0.03], "penalties": [0.001]},
        "full": {"rates": [0.003]},
        "uniform": {"rates": [0.03]},
    },
    "curves": {
        "examples": [1, 2],
        "updates": 2,
        "every": 1,
        "batch_size": 9,
        "rates_examples": {"gain_head": [0.03], "full": [0.003]},
        "rates_updates": {"gain_head": [0.03], "full": [0.003]},
    },
    "statistics": {"permutations": 99, "refits": 2, "refit_layers": ["relu3"]},
    "saliency": {"permutations": 19, "shown": 2},
    "workers": 2,
}

DRAW = {"figures": False}
"""Whether runs of `start` draw their figures."""

OWN_NETWORK = """
import torch
from torch import nn

def small(width=16, num_classes=5):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(width, 20, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, num_classes),
    )
"""


def changed(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy with values at dotted places; None removes one. `learning__epochs=2` is learning.epochs."""
    found: dict[str, Any] = yaml.safe_load(yaml.safe_dump(config))
    for place, value in changes.items():
        *parents, last = place.split("__")
        inner = found
        for name in parents:
            inner = inner[name]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
    return found


def make_images(folder: Path, *, classes: tuple[str, ...] = CLASSES, count: int = 30, colour: bool = False) -> Path:
    """A bright blob on dim noise; its place (and hue) tells the class."""
    rng = np.random.default_rng(len(classes) + colour)
    y, x = np.mgrid[:SIDE, :SIDE]
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        angle = 2 * np.pi * k / len(classes)
        for i in range(count):
            cy, cx = SIDE / 2 - 0.5 + 3.2 * np.array([np.sin(angle), np.cos(angle)]) + rng.normal(0, 0.6, 2)
            blob = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 1.2**2))
            pixels = 220 * blob + rng.uniform(0, 30, (SIDE, SIDE))
            if colour:
                pixels = pixels[..., None] * np.roll([1.0, 0.4, 0.3], k)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_code() -> None:
    """The sources are hashed once, now, so that an edit during the tests does not make results old."""
    for groups in (("learn",), ("learn", "measure"), ("learn", "measure", "report")):
        code_hash(groups)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six classes of 30 grey images; not to be altered."""
    return make_images(tmp_path_factory.mktemp("images") / "blobs")


@pytest.fixture(scope="session")
def tiny(images: Path) -> dict[str, Any]:
    """A configuration with everything in it, in seconds."""
    return {**TINY, "stimuli": str(images)}


def write_config(folder: Path, config: dict[str, Any], name: str = "tiny.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


@dataclass
class Started:
    """A command that runs in a process (and session) of its own, forked from this one, where all is loaded."""

    process: Any
    output: Path
    others: list[int] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def wait(self, seconds: float = 120) -> tuple[int, str]:
        """Exit status (minus a signal's number) and what was printed."""
        self.process.join(seconds)
        assert not self.process.is_alive(), f"still running after {seconds} s: {self.output.read_text()}"
        return int(self.process.exitcode), self.output.read_text()

    def workers(self) -> list[int]:
        """Living processes of the session but the first."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.pid and int(entry.name) != self.pid and fields[0] not in "ZX":
                    found.append(int(entry.name))
        return found

    def until(self, reached: Callable[[], bool], seconds: float = 90) -> None:
        """Wait until something is so, while the process runs."""
        end = time.monotonic() + seconds
        while not reached():
            assert self.process.is_alive(), f"ended before: {self.output.read_text()}"
            assert time.monotonic() < end, f"not reached in {seconds} s: {self.output.read_text()}"
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL, of the first process alone."""
        os.kill(self.pid, signal.SIGKILL)
        self.process.join(20)

    def left(self, seconds: float = 5) -> list[int]:
        """Workers that are still there after some time."""
        end = time.monotonic() + seconds
        while self.workers() and time.monotonic() < end:
            time.sleep(0.02)
        return self.workers()


def _main(arguments: list[str], output: Path) -> None:
    os.setsid()
    dask.config.set(scheduler="synchronous")  # threads of the testing process are not here
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = sys.stderr = os.fdopen(handle, "w", buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        cli.main(arguments)
    except SystemExit as end:
        sys.stderr.flush()
        os._exit(int(end.code or 0))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


@pytest.fixture
def start(tmp_path: Path, plain_pictures: None) -> Iterator[Callable[..., Started]]:
    """Start `featattn ARGUMENTS` in another process; it is ended with the test."""
    started: list[Started] = []

    def begin(*arguments: str | Path, draw: bool = False) -> Started:
        output = tmp_path / f"output_{len(started)}.txt"
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_main, args=([str(a) for a in arguments], output))
        DRAW["figures"] = draw
        process.start()
        DRAW["figures"] = False
        started.append(Started(process, output))
        return started[-1]

    yield begin
    for one in started:
        for pid in [*one.workers(), one.pid]:
            with contextlib.suppress(ProcessLookupError):
                if pid != one.pid or one.process.is_alive():
                    os.kill(pid, signal.SIGKILL)
        one.process.join(10)


@pytest.fixture(scope="session")
def plain_pictures() -> Iterator[None]:
    """Figures are made but not drawn, which takes most of the time of a small run; for runs of `start`."""
    buffer = io.BytesIO()
    Image.new("RGB", (160, 160)).save(buffer, format="PNG")
    from featattn_neuro.report import page

    drawn = page.png_bytes

    def plain(figure: Any, *, dpi: int) -> bytes:
        return drawn(figure, dpi=dpi) if os.getpid() == testing or DRAW["figures"] else buffer.getvalue()

    testing = os.getpid()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "png_bytes", plain)
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any], plain_pictures: None) -> Path:
    """A results folder of an uninterrupted run with two workers; not to be altered."""
    folder = tmp_path_factory.mktemp("finished")
    config = write_config(folder, tiny)
    context = multiprocessing.get_context("fork")
    arguments = ["run", str(config), "--out", str(folder / "out")]
    process = context.Process(target=_main, args=(arguments, folder / "output.txt"))
    process.start()
    process.join(180)
    assert process.exitcode == 0, (folder / "output.txt").read_text()
    return folder / "out"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished folder, to be altered."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


@pytest.fixture
def featattn(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `featattn ARGUMENTS` in this process: exit status, standard output, standard error."""

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return int(end.value.code or 0), out, err

    return command
