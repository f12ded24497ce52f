"""Records of what is done: keys, hashes, damage, locks."""

from __future__ import annotations

import ast
import importlib
import json
import multiprocessing
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from featattn_neuro import __version__, api
from featattn_neuro.errors import ConfigError, StoreError
from featattn_neuro.jobs import ledger, runner
from featattn_neuro.jobs.graph import Stage, stages_of
from featattn_neuro.jobs.ledger import Ledger, code_hash, locked, open_folder, stage_key
from featattn_neuro.nets.fingerprint import network_digest
from tests.jobs.test_jobs_config import DIGITS, changed, parse

PACKAGE = Path(ledger.__file__).resolve().parents[1]


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
        place.mkdir(parents=True, exist_ok=True) if (package / name).is_dir() else place.parent.mkdir(
            parents=True, exist_ok=True
        )
        (place / "one.py" if place.is_dir() else place).write_text("x = 1\n")
    monkeypatch.setattr(ledger, "_PACKAGE", tmp_path)
    before = {group: code_hash.__wrapped__((group,)) for group in ledger.CODE}
    (tmp_path / "measures" / "one.py").write_text("x = 2\n")
    after = {group: code_hash.__wrapped__((group,)) for group in ledger.CODE}
    assert [group for group in before if before[group] != after[group]] == ["measure"]


def source_of(module: str) -> Path | None:
    """File of a module of ours."""
    place = PACKAGE.joinpath(*module.split(".")[1:])
    found = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return found if module.startswith("featattn_neuro.") and found.is_file() else None


def imports_of(tree: ast.AST, source: str) -> dict[str, str]:
    """Name to the module of ours that it comes from, of every import anywhere below a node."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "featattn_neuro" and node.names[0].name == "api":
            # a list of names, each from a module of its own: only those that are used count
            used = {u.attr for u in ast.walk(ast.parse(source)) if isinstance(u, ast.Attribute)}
            found.update({name: getattr(api, name).__module__ for name in used & set(api.__all__)})
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found[alias.asname or alias.name] = inner if source_of(inner) else node.module
        elif isinstance(node, ast.Import):
            found.update({alias.asname or alias.name: alias.name for alias in node.names})
    return {name: module for name, module in found.items() if source_of(module)}


def files_of_stage(function: str) -> set[Path]:
    """Every source file of ours that a function of `jobs.stages` can reach, through the names that it uses."""
    path = PACKAGE / "jobs" / "stages.py"
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    top = imports_of(tree, text)
    modules, todo, seen = set(), [function], set()
    while todo:
        name = todo.pop()
        seen.add(name)
        used = {node.id for node in ast.walk(functions[name]) if isinstance(node, ast.Name)}
        todo += [other for other in used & set(functions) if other not in seen]
        modules |= {top[one] for one in used & set(top)}
    found, waiting = {path}, sorted(modules)
    while waiting:
        file = source_of(waiting.pop())
        if file is not None and file not in found:
            found.add(file)
            source = file.read_text(encoding="utf-8")
            waiting += imports_of(ast.parse(source), source).values()
    return found


def test_the_code_of_a_stage_is_all_that_it_imports():
    """Otherwise results of an older version of a file would be taken for those of this one."""
    every = changed(
        DIGITS, doses=[0.5], statistics__reference_gain=True, arms__adabn={}, arms__tuning={"strengths": [1.0]}
    )
    config = parse(every)
    stages = stages_of(config, dict.fromkeys(config.network_names(), ""), n_tasks=10)
    reached = files_of_stage("learn_arm")
    assert {PACKAGE / "jobs" / "derived_arms.py", PACKAGE / "nets" / "adabn.py"} <= reached, "inside functions too"
    missing = set()
    for function, code in {(stage.function, stage.code) for stage in stages}:
        places = [PACKAGE / name for group in code for name in ledger.CODE[group]]
        for file in files_of_stage(function):
            if not any(file == place or place in file.parents for place in places):
                missing.add(f"{function}: {file.relative_to(PACKAGE)}")
    assert not missing, sorted(missing)


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
    # of this version, from before maps said where they lie
    (out / "run.json").write_text(json.dumps({"format": 1, "version": __version__}))
    with pytest.raises(
        StoreError, match=r"\(format 1\); this is .* \(format 2\); results of two versions are not mixed"
    ):
        open_folder(out, [])
    with pytest.raises(StoreError, match="not a results folder"):
        open_folder(tmp_path, [])


def test_a_network_that_cannot_be_hashed_stands_for_the_files_it_is_made_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper, user = tmp_path / "unhashed_parts.py", tmp_path / "unhashed_network.py"
    helper.write_text("from torch import nn\nclass Part(nn.ReLU):\n    pass\n")
    user.write_text(
        "import threading\nfrom torch import nn\nfrom unhashed_parts import Part\n"
        "def make():\n    net = nn.Sequential(Part())\n    net.lock = threading.Lock()\n    return net\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def key() -> str:
        for name in ("unhashed_parts", "unhashed_network"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        made: Any = SimpleNamespace(module=importlib.import_module("unhashed_network").make(), preprocess=None)
        with pytest.raises(ConfigError):
            network_digest(made.module)
        return runner._own_code("unhashed_network:make", made)

    first = key()
    assert key() == first
    helper.write_text(helper.read_text() + "# other code, of another length\n")
    assert key() != first
