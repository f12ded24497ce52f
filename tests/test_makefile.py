"""Setting up with make: a half-made environment is made anew, an old Python is refused in one sentence."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """#!/bin/sh
echo "$@" >> said
case "$*" in
"-m venv --clear .venv") mkdir -p .venv/bin; cp usable .venv/bin/python; cp usable .venv/bin/pip ;;
esac
exit {code}
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "setup.py", "constraints.txt"):
        (tmp_path / name).touch()
    for name, code in (("usable", 0), ("broken", 1)):
        (tmp_path / name).write_text(SCRIPT.format(code=code))
        (tmp_path / name).chmod(0o755)
    return tmp_path


def make(folder: Path, python: str) -> tuple[int, str, list[str]]:
    done = subprocess.run(
        ["make", "install", f"PYTHON=./{python}"], cwd=folder, capture_output=True, text=True, check=False
    )
    said = folder / "said"
    return done.returncode, done.stdout + done.stderr, said.read_text().splitlines() if said.exists() else []


@pytest.mark.parametrize("left", [None, "broken"], ids=["none", "half-made"])
def test_an_environment_that_is_not_usable_is_made_anew(folder: Path, left: str | None) -> None:
    if left is not None:
        (folder / ".venv" / "bin").mkdir(parents=True)
        shutil.copy(folder / left, folder / ".venv" / "bin" / "python")
    code, printed, said = make(folder, "usable")
    assert code == 0, printed
    assert "-m venv --clear .venv" in said
    assert any(line.startswith("install -c constraints.txt") for line in said)


def test_a_usable_environment_stays(folder: Path) -> None:
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "pip"):
        shutil.copy(folder / "usable", folder / ".venv" / "bin" / name)
    code, printed, said = make(folder, "broken")  # the one on the path is not asked then
    assert code == 0, printed
    assert not any("venv" in line for line in said)


def test_an_old_python_is_refused(folder: Path) -> None:
    code, printed, _ = make(folder, "broken")
    assert code != 0
    assert "wanted Python 3.11 or newer; ./broken is older or not there; name one: make install PYTHON=" in printed
    assert not (folder / ".venv").exists()
