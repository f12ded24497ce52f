"""The generated pages say what the source says."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import featattn_neuro

ROOT = Path(__file__).resolve().parents[1]


def test_reference_pages_are_current():
    command = [sys.executable, str(ROOT / "docs" / "make_reference.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_public_functions_say_what_they_raise():
    public = {name: getattr(featattn_neuro, name) for name in featattn_neuro.__all__}
    silent = {n for n, one in public.items() if not inspect.isclass(one) and "Raises\n" not in inspect.getdoc(one)}
    assert silent <= {"prefix_cache"}  # it raises nothing
