"""Records of what is done: keys, hashes, damage, locks."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from featattn_neuro.errors import StoreError
from featattn_neuro.jobs import ledger
from featattn_neuro.jobs.graph import Stage
from featattn_neuro.jobs.ledger import Ledger, code_hash, locked, open_folder, stage_key


def stage(name: str, *needs: str, seed: int = 0) -> Stage:
    return Stage(name, "network", "none", "n", None, needs, {"seed": seed}, ("learn",))


@pytest.fixture
def book(tmp_path: Path) -> Ledger:
    (tmp_path / "out").mkdir()
    return open_folder(tmp_path / "out", ["n"])


def do(book: Ledger, one: Stage, text: str) -> None:
    (book.folder / "scores" / one.id).write_text(text)
    book.finish(one.id, book.key_of(one), [f"scores/{one.id}"], 1.23456)


def test_a_stage_is_done_when_key_and_files_are_those_of_its_record(book: Ledger):
    first = stage("first")
    assert not book.is_done("first", book.key_of(first))
    do(book, first, "result")
    assert book.is_done("first", book.key_of(first))
    assert not book.is_done("first", book.key_of(stage("first", seed=1)))
    (book.folder / "scores" / "first").write_text("resulT")
    assert not book.is_done("first", book.key_of(first))
    (book.folder / "scores" / "first").unlink()
    assert not book.is_whole("first")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": "x"}'])
def test_a_damaged_record_counts_as_none(book: Ledger, text: str):
    do(book, stage("first"), "result")
    (book.folder / ".done" / "first.json").write_text(text)
    assert book.record("first") is None
    with pytest.raises(StoreError, match="has no record"):
        book.output_hashes("first")


def test_what_comes_after_depends_on_content_not_on_time(book: Ledger):
    first, second = stage("first"), stage("second", "first")
    do(book, first, "result")
    do(book, second, "more")
    assert book.settled([first, second]) == {"first", "second"}
    do(book, first, "result")
    assert book.settled([first, second]) == {"first", "second"}
    do(book, first, "another result")
    assert book.settled([first, second]) == {"first"}


def test_keys_depend_on_stage_code_settings_and_inputs():
    base = stage_key("a", ["learn"], {"x": 1, "y": 2}, ["i"])
    assert stage_key("a", ["learn"], {"y": 2, "x": 1}, ["i"]) == base
    others = {
        stage_key("b", ["learn"], {"x": 1, "y": 2}, ["i"]),
        stage_key("a", ["measure"], {"x": 1, "y": 2}, ["i"]),
        stage_key("a", ["learn"], {"x": 1, "y": 3}, ["i"]),
        stage_key("a", ["learn"], {"x": 1, "y": 2}, ["j"]),
    }
    assert len(others | {base}) == 5


def test_code_of_every_group_exists_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = Path(ledger.__file__).resolve().parents[1]
    assert all((package / name).exists() for names in ledger.CODE.values() for name in names)
    for name in {name for names in ledger.CODE.values() for name in names}:
        place = tmp_path / name
        place.mkdir(parents=True) if (package / name).is_dir() else place.parent.mkdir(parents=True, exist_ok=True)
        (place / "one.py" if place.is_dir() else place).write_text("x = 1\n")
    monkeypatch.setattr(ledger, "_PACKAGE", tmp_path)
    before = {group: code_hash.__wrapped__((group,)) for group in ledger.CODE}
    (tmp_path / "measures" / "one.py").write_text("x = 2\n")
    after = {group: code_hash.__wrapped__((group,)) for group in ledger.CODE}
    assert [group for group in before if before[group] != after[group]] == ["measure"]


def test_another_release_of_a_library_makes_every_stage_anew(monkeypatch: pytest.MonkeyPatch):
    before = code_hash.__wrapped__(("measure",))
    installed = ledger.importlib.metadata.version
    monkeypatch.setattr(
        ledger.importlib.metadata, "version", lambda name: "99.0" if name == "torch" else installed(name)
    )
    assert code_hash.__wrapped__(("measure",)) != before


def test_left_over_temporary_files_are_removed(book: Ledger):
    (book.folder / "scores" / ".n.nc.123-ab.partial").write_text("half")
    (book.folder / "arms" / "n" / ".x.nc.123-ab.partial").write_text("half")
    open_folder(book.folder, ["n"])
    assert not list(book.folder.rglob("*.partial"))


def _hold(folder: Path, ready: object, end: object) -> None:
    with locked(folder):
        ready.set()  # type: ignore[attr-defined]
        end.wait(30)  # type: ignore[attr-defined]


def test_one_holder_of_a_folder_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    context = multiprocessing.get_context("fork")
    ready, end = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "out", ready, end))
    holder.start()
    assert ready.wait(30)
    monkeypatch.setattr(ledger, "LOCK_SECONDS", 0.2)
    with pytest.raises(StoreError, match="another run is writing it"), locked(tmp_path / "out"):
        pass
    holder.kill()
    holder.join()
    with locked(tmp_path / "out"):
        pass


def test_other_versions_and_other_folders_are_refused(tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    open_folder(out, [])
    assert json.loads((out / "run.json").read_text()).keys() == {"format", "version"}
    (out / "run.json").write_text('{"format": 0, "version": "0.0.1"}')
    with pytest.raises(StoreError, match=r"made by featattn_neuro 0\.0\.1 \(format 0\)"):
        open_folder(out, [])
    with pytest.raises(StoreError, match="not a results folder"):
        open_folder(tmp_path, [])
