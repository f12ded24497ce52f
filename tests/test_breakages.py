"""The list of breakages fits the source, and what the script says about them is what happened.

Running all of them takes minutes: `python benchmarks/breakages.py`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def load(name: str) -> Any:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


declared, script = load("breakage_list"), load("breakages")
Breakage = declared.Breakage
HALF = "featattn_neuro/half.py"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A package of one function, with a test that sees half of what can go wrong with it."""
    for name, text in {
        "featattn_neuro/__init__.py": "",
        HALF: "def half(x):\n    return abs(x) / 2\n",
        "tests/test_half.py": "from featattn_neuro.half import half\n\n\ndef test_half():\n    assert half(3) == 1.5\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_every_declared_text_occurs_once_and_every_test_exists() -> None:
    assert script.problems(ROOT, declared.BREAKAGES) == []
    modules = [one.module for one in declared.BREAKAGES]
    assert modules == sorted(modules, key=modules.index), "breakages of one module stand together"
    keys = [(one.file, one.old, one.new) for one in declared.BREAKAGES]
    assert len(set(keys)) == len(keys)


def test_noticed_and_not_noticed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = Breakage(HALF, "a third", "/ 2", "/ 3", "tests/test_half.py::test_half")
    unseen = Breakage(HALF, "sign lost", "abs(x)", "x", "tests/test_half.py")
    assert script.try_all(project, [seen]) == 0
    assert "| `half` | a third | `test_half` |" in capsys.readouterr().out
    assert script.try_all(project, [seen, unseen]) == 1
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| `half` | a third | `test_half` |", "|  | sign lost | NOT NOTICED |"
    ]  # fmt: skip
    assert (project / HALF).read_text() == "def half(x):\n    return abs(x) / 2\n"


def test_an_error_before_any_test_is_no_notice(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torn = Breakage(HALF, "does not parse", "return", "retrun", "tests/test_half.py::test_half")
    assert script.try_all(project, [torn]) == 1
    assert "NOT NOTICED: pytest ended with status" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"old": "/ 4"}, "occurs 0 times"),
        ({"old": "x"}, "occurs 2 times"),
        ({"file": "featattn_neuro/gone.py"}, "occurs 0 times"),
        ({"new": "/ 2"}, "the new text is the old one"),
        ({"test": "tests/test_half.py::test_third"}, "there is no test tests/test_half.py::test_third"),
        ({"test": "tests/test_gone.py"}, "there is no test tests/test_gone.py"),
    ],
)
def test_a_list_that_does_not_fit_the_source_is_refused(project: Path, changes: dict[str, str], message: str) -> None:
    one = Breakage(HALF, "a third", "/ 2", "/ 3", "tests/test_half.py::test_half")._replace(**changes)
    with pytest.raises(SystemExit, match=message):
        script.try_all(project, [one])


def test_tests_that_fail_unbroken_are_told(project: Path) -> None:
    (project / "tests" / "test_half.py").write_text("def test_half():\n    assert 0\n")
    with pytest.raises(SystemExit, match="wanted tests that pass before anything is broken"):
        script.try_all(project, [Breakage(HALF, "a third", "/ 2", "/ 3", "tests/test_half.py::test_half")])


def test_some_modules_only() -> None:
    found = script.chosen(declared.BREAKAGES, ["nets.excess", "io"])
    assert {one.module.split(".")[0] for one in found} == {"nets", "io"}
    assert "nets.excess" in {one.module for one in found}
    assert "nets.expansion" not in {one.module for one in found}
    with pytest.raises(SystemExit, match=r"no breakage of nets.nothing; there are: arrays"):
        script.chosen(declared.BREAKAGES, ["nets.nothing"])
