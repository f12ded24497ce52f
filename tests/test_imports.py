"""Imports go one way, and importing the package is free."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import resource
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "featattn_neuro"

# folder or module -> what of ours it may import, besides itself; None = everything
MAY_IMPORT: dict[str, set[str] | None] = {
    "__init__": {"api"},
    "__main__": {"cli"},
    "errors": set(),
    "schema": {"errors"},
    "arrays": set(),
    "nets": {"schema", "errors", "arrays"},
    "io": {"schema", "errors"},
    "measures": {"schema", "errors", "arrays"},
    "report": {"schema", "errors"},
    "jobs": None,
    "api": None,
    "cli": None,
}
# folder -> libraries that no module of it imports at its top
NOT_AT_TOP = {
    "arrays": {"torch", "xarray", "pandas", "sklearn", "matplotlib", "statsmodels", "timm", "torchvision"},
    "measures": {"torch", "sklearn", "matplotlib", "timm", "torchvision"},
    "io": {"torch", "matplotlib", "sklearn", "timm", "torchvision"},
    "report": {"torch", "scipy", "sklearn"},
    "errors": {"torch", "numpy", "xarray", "pandas", "scipy", "matplotlib"},
    "schema": {"torch", "numpy", "xarray", "pandas", "scipy", "matplotlib"},
    "__init__": {"torch", "numpy", "xarray", "pandas", "scipy", "matplotlib", "typer"},
    "cli": {"torch", "numpy", "xarray", "pandas", "scipy", "matplotlib", "yaml", "pydantic"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        yield (relative.parts[0] if len(relative.parts) > 1 else relative.stem), path


def is_module(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


def our_imports(tree: ast.AST, path: Path) -> set[str]:
    """First parts, below the package, of everything of ours that is imported anywhere in the file."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("featattn_neuro.")}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            if node.module == "featattn_neuro":
                found |= {a.name for a in node.names if is_module(a.name)}
            elif node.module and node.module.startswith("featattn_neuro."):
                found.add(node.module.split(".")[1])
    return found


def top_libraries(tree: ast.Module) -> set[str]:
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def libraries(source: str) -> set[str]:
    """First parts of everything that is imported anywhere in the text and is neither ours nor Python's own."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"featattn_neuro"}


def module_of(requirement: str) -> str:
    """What a distribution is imported as."""
    name = re.split(r"[\[<>=!~ ]", requirement)[0].lower().replace("-", "_")
    return {"pillow": "PIL", "pyyaml": "yaml", "scikit_learn": "sklearn"}.get(name, name)


def test_every_library_is_declared_and_every_declared_one_is_used():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    always = {module_of(one) for one in project["dependencies"]}
    sources = [path.read_text(encoding="utf-8") for _, path in modules()]
    imported = set().union(*map(libraries, sources))
    brought = {"h5py"}  # by h5netcdf[h5py]
    extras = {module_of(one) for some in project["optional-dependencies"].values() for one in some}
    assert imported - always - brought <= extras, "declare it in pyproject.toml"
    assert imported - always - brought <= {"onnxruntime", "pynwb", "rsatoolbox"}, "not to be taken for granted"
    text = "\n".join([*sources, (PACKAGE.parent / "data_manifest.yaml").read_text(encoding="utf-8")])
    assert not {name for name in always if not re.search(rf"\b{name}\b", text)}, "declared and not used"


def problems(room: str, path: Path, source: str) -> list[str]:
    tree, allowed = ast.parse(source), MAY_IMPORT[room]
    extra = set() if allowed is None else our_imports(tree, path) - allowed - {room}
    heavy = top_libraries(tree) & NOT_AT_TOP.get(room, set())
    first = tree.body[1] if ast.get_docstring(tree) and len(tree.body) > 1 else tree.body[0] if tree.body else None
    lazy = isinstance(first, ast.ImportFrom) and first.module == "__future__"
    only_docstring = len(tree.body) <= 1
    return (
        [f"{path.name}: {room} may not import {name}" for name in sorted(extra)]
        + [f"{path.name}: {room} imports {name} at its top" for name in sorted(heavy)]
        + ([] if lazy or only_docstring else [f"{path.name}: does not begin with from __future__ import annotations"])
    )


def test_imports_go_one_way():
    found = [text for room, path in modules() for text in problems(room, path, path.read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("room", "source", "word"),
    [
        ("nets", "from featattn_neuro.io.store import open_kind", "io"),
        ("report", "import featattn_neuro.measures.claims", "measures"),
        ("arrays", "def f():\n    from featattn_neuro import schema", "schema"),
        ("measures", "import torch", "torch"),
        ("io", "x = 1\ny = 2", "__future__"),
    ],
)
def test_the_check_sees_a_wrong_import(room, source, word):
    assert any(word in text for text in problems(room, Path("made_up.py"), source))


def test_every_room_has_a_rule():
    assert {room for room, _ in modules()} <= set(MAY_IMPORT)


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_importing_is_free():
    loaded, names = json.loads(
        run_python(
            "import sys, json, featattn_neuro; print(json.dumps([sorted(sys.modules), dir(featattn_neuro)]))",
        )
    )
    heavy = {"torch", "matplotlib", "xarray", "pandas", "scipy", "numpy", "sklearn", "typer", "pydantic"}
    assert heavy.isdisjoint(loaded)
    assert "record" in names


def processor_seconds(*arguments: str, times: int) -> float:
    """Of the quickest of several processes of their own: what else runs on the machine does not count."""
    found = []
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def test_importing_and_help_are_quick():
    """The promises; without other work it is 0.01 s and 0.13 s."""
    interpreter = processor_seconds("-c", "pass", times=3)
    assert processor_seconds("-c", "import featattn_neuro", times=5) - interpreter < 0.3
    assert processor_seconds("-m", "featattn_neuro", "--help", times=3) < 0.5
    assert processor_seconds("-c", "import time\nwhile time.process_time() < 0.4: pass", times=1) - interpreter > 0.3


def test_command_line_and_schema_load_nothing_heavy():
    out = run_python(
        "import importlib, json, pkgutil, sys, featattn_neuro.cli, featattn_neuro.schema\n"
        "for package in (featattn_neuro.cli, featattn_neuro.schema):\n"
        "    for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "print(json.dumps([*sys.modules]))"
    )
    assert {"torch", "matplotlib", "xarray", "pandas", "scipy", "numpy"}.isdisjoint(json.loads(out))


def test_unknown_public_name_lists_the_names():
    import featattn_neuro

    with pytest.raises(AttributeError, match="load_model"):
        _ = featattn_neuro.recrod


def test_every_public_name_is_there():
    import featattn_neuro

    assert importlib.util.find_spec("featattn_neuro.api") is not None
    for name in featattn_neuro.__all__:
        assert callable(getattr(featattn_neuro, name))
