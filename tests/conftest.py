"""Shared fixtures: where the development data are, and one thread per test process."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch or BLAS start their pools

import pytest

ROOT = Path(__file__).resolve().parents[1]


def data_folder() -> Path | None:
    """FEATATTN_DATA, or shared/data next to the checkout; None where neither is there."""
    named = os.environ.get("FEATATTN_DATA")
    for folder in ([Path(named)] if named else []) + [ROOT.parent / "shared" / "data"]:
        if folder.is_dir():
            return folder
    return None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the development data; the test is skipped where it is absent."""
    folder = data_folder()
    if folder is None:
        pytest.skip("development data absent: set FEATATTN_DATA to a folder that holds them")
    os.environ["FEATATTN_DATA"] = str(folder)
    return folder
