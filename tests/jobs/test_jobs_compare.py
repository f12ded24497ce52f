"""Two result folders told apart by their tables."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from featattn_neuro.cli import main
from featattn_neuro.errors import StoreError
from featattn_neuro.jobs.compare import compare

TABLE = "unit,rho,status\nconv1/000,0.25,ok\nconv1/001,,too_few\n"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in "ab":
        (tmp_path / name / "tables").mkdir(parents=True)
        (tmp_path / name / "tables" / "one.csv").write_text(TABLE)
    return tmp_path / "a", tmp_path / "b"


def test_same_tables_whatever_else_differs(folders: tuple[Path, Path]):
    (folders[1] / "timings.csv").write_text("stage,seconds\n")
    (folders[1] / "log.txt").write_text("12:00 done")
    assert compare(*folders) == []


@pytest.mark.parametrize(
    ("table", "difference"),
    [
        (TABLE.replace("0.25", "0.2500000001"), "rho in 1 rows (largest gap 1e-10)"),
        (TABLE.replace("0.25", ""), "rho in 1 rows (largest gap nan)"),
        (TABLE.replace("ok", "constant"), "status in 1 rows (row 1: 'ok' and 'constant')"),
        (TABLE.replace("0.25", "0.250"), "the same values, written differently"),
        (TABLE.replace("rho", "z"), "other columns (rho, z)"),
        (TABLE + "conv1/002,0.5,ok\n", "2 rows and 3 rows"),
    ],
)
def test_what_differs_is_said(folders: tuple[Path, Path], table: str, difference: str):
    (folders[1] / "tables" / "one.csv").write_text(table)
    assert compare(*folders) == [f"one.csv: {difference}"]


def test_columns_in_another_order(folders: tuple[Path, Path]):
    (folders[1] / "tables" / "one.csv").write_text("rho,unit,status\n0.25,conv1/000,ok\n,conv1/001,too_few\n")
    assert compare(*folders) == ["one.csv: other columns (in another order)"]


def test_a_table_that_only_one_has(folders: tuple[Path, Path]):
    shutil.copy(folders[0] / "tables" / "one.csv", folders[0] / "tables" / "two.csv")
    assert compare(*folders) == [f"two.csv is only in {folders[0]}"]
    assert compare(*folders[::-1]) == [f"two.csv is only in {folders[0]}"]


def test_no_tables(folders: tuple[Path, Path], tmp_path: Path):
    with pytest.raises(StoreError, match="has no tables"):
        compare(folders[0], tmp_path / "nowhere")


@pytest.mark.parametrize(
    "damage", [b"", b"unit,rho\nconv1/\xff\xfe,1\n", b'unit,rho\n"conv1,1\n', b"unit,rho\n1,2,3,4\n1,2,3\n1,2,3,4,5\n"]
)
def test_a_damaged_table_is_named(folders: tuple[Path, Path], damage: bytes, capsys: pytest.CaptureFixture[str]):
    (folders[1] / "tables" / "one.csv").write_bytes(damage)
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *map(str, folders)])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert re.fullmatch(
        rf"featattn: wanted a table in '{folders[1]}/tables/one.csv'; it is damaged \(.+\); write it .+\n", said
    )
