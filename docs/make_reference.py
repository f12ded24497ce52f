"""Write the pages api, modules and tables from the source: docstrings, kinds, columns. `--check` only compares."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import featattn_neuro
from featattn_neuro.report.columns import COLUMNS, TABLES_VERSION
from featattn_neuro.schema import KINDS, SCHEMA_VERSION, Variable

HERE = Path(__file__).resolve().parent
MODULES = {
    "featattn_neuro.io.conventions": None,
    "featattn_neuro.nets.streaming": ("stream_moments",),
    "featattn_neuro.measures.streaming": ("class_moments", "merge_moments", "selectivity_from_moments"),
    "featattn_neuro.arrays.moments": ("ClassMoments", "ClassStatistics", "dprime", "status_codes"),
}
"""Public modules beyond the names of the package, and their public names; None = the module's `__all__`."""
MADE = "<!-- made by `make docs` from the source; edit there -->"


def main() -> int:
    """Write the pages, or with --check return 1 if one is not what the source says."""
    pages = {"api.md": "\n".join(api_page()), "modules.md": "\n".join(modules_page())}
    pages["tables.md"] = "\n".join(tables_page())
    if "--check" in sys.argv[1:]:
        stale = [name for name, text in pages.items() if read(HERE / name) != text + "\n"]
        print("\n".join(f"docs/{name} is not what the source says: run make docs" for name in stale) or "current")
        return int(bool(stale))
    for name, text in pages.items():
        (HERE / name).write_text(text + "\n", encoding="utf-8")
        print(f"docs/{name}")
    return 0


def read(path: Path) -> str:
    """Text of the page, or nothing where there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def api_page() -> Iterator[str]:
    """The public functions with their docstrings, then the declared kinds."""
    yield from ("# API reference", "", MADE, "")
    yield "Public names of `featattn_neuro`. Each is loaded when it is first used; importing the package is free."
    yield ""
    for name in featattn_neuro.__all__:
        yield f"- [`{name}`](#{name})"
    for name in featattn_neuro.__all__:
        yield from entry(name, getattr(featattn_neuro, name), "##")
    yield from ("", "## Kinds", "")
    yield f"Every Dataset that the package takes or gives is of a declared kind (schema {SCHEMA_VERSION})."
    for kind in KINDS.values():
        yield from ("", f"### {kind.name}", "", f"{kind.meaning.capitalize()}.", "")
        yield from ("| | name | dimensions | type | meaning |", "|---|---|---|---|---|")
        for what, table in (("variable", kind.variables), ("coordinate", kind.coordinates)):
            for name, spec in table.items():
                yield f"| {what} | `{name}` | {dimensions(spec)} | {spec.dtype} | {meaning(spec)} |"


def entry(name: str, public: Any, heading: str) -> Iterator[str]:
    """Signature and docstring of one public name."""
    yield from ("", f"{heading} {name}", "", "```python", f"{name}{inspect.signature(public)}", "```", "", "```text")
    yield inspect.getdoc(public) or ""
    yield "```"


def modules_page() -> Iterator[str]:
    """Public modules with their functions: converters to other tools' layouts, statistics without storage."""
    yield from ("# Converters and streaming", "", MADE, "")
    yield "Public modules beyond the names of the package; import them by their path."
    for path, chosen in MODULES.items():
        module = importlib.import_module(path)
        yield from ("", f"## {path}", "", inspect.getdoc(module) or "")
        for name in chosen or module.__all__:
            public = getattr(module, name)
            yield from entry(name, public, "###")
            if inspect.isclass(public):
                for method, function in inspect.getmembers(public, inspect.isfunction):
                    if not method.startswith("_"):
                        yield from entry(f"{name}.{method}", function, "####")


def dimensions(spec: Variable) -> str:
    """`(dims)`, with those that may stand in front in brackets."""
    perhaps = f"[{', '.join(spec.extra)}] " if spec.extra else ""
    return perhaps + (", ".join(spec.dims) or "none")


def meaning(spec: Variable) -> str:
    """Meaning for a table cell, saying what is optional."""
    return spec.meaning.replace("|", "\\|") + ("" if spec.required else " (optional)")


def tables_page() -> Iterator[str]:
    """What every column of every table means."""
    yield from ("# Tables", "", MADE, "")
    yield (
        f"CSV files in `tables/` of a result folder, columns version {TABLES_VERSION}. UTF-8, comma-separated, full "
        "precision; an empty cell is undefined, and `status` says why where there is one."
    )
    for table, columns in COLUMNS.items():
        yield from ("", f"## {table}.csv", "", "| column | meaning |", "|---|---|")
        for column, text in columns.items():
            yield f"| `{column}` | {text.replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    raise SystemExit(main())
