"""Write docs/api.md, docs/converters.md, docs/tables.md, docs/modules.md and README.md's columns from the source.

`--check` only compares.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import featattn_neuro
from featattn_neuro.report.columns import COLUMNS, TABLES_VERSION
from featattn_neuro.schema import KINDS, SCHEMA_VERSION, STATUS, Variable

ROOT = Path(__file__).resolve().parents[1]
PUBLIC_MODULES = {
    "featattn_neuro.io.conventions": None,
    "featattn_neuro.nets.streaming": ("stream_moments",),
    "featattn_neuro.measures.streaming": ("class_moments", "merge_moments", "selectivity_from_moments"),
    "featattn_neuro.arrays.moments": ("ClassMoments", "ClassStatistics", "dprime", "status_codes"),
}
"""Public modules beyond the names of the package, and their public names; None = the module's `__all__`."""
START, END = "<!-- columns -->", "<!-- end of columns -->"
SHARED = ("network", "arm", "unit", "channel", "status")
"""Columns that the README explains once."""
MADE = "<!-- made by `make docs` from the source; edit there -->"


def main() -> int:
    """Write the pages, or with --check return 1 if one is not what the source says."""
    pages = {
        "docs/api.md": "\n".join(api_page()) + "\n",
        "docs/converters.md": "\n".join(converters_page()) + "\n",
        "docs/tables.md": "\n".join(tables_page()) + "\n",
        "docs/modules.md": "\n".join(modules_page()) + "\n",
        "README.md": with_columns(read(ROOT / "README.md")),
    }
    if "--check" in sys.argv[1:]:
        stale = [name for name, text in pages.items() if read(ROOT / name) != text]
        print("\n".join(f"{name} is not what the source says: run make docs" for name in stale) or "current")
        return int(bool(stale))
    for name, text in pages.items():
        (ROOT / name).write_text(text, encoding="utf-8")
        print(name)
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
    yield "Where rows are stimuli, coordinates of `stimulus` by other names come along: metadata of your own."
    yield f"STATUS is one of {', '.join(STATUS)}: a value is defined (ok), or the reason why it is NaN; incomplete, of"
    yield "path-integrated saliency, has a value that does not add up to the change of the logit."
    for kind in KINDS.values():
        yield from ("", f"### {kind.name}", "", f"{kind.meaning[:1].upper()}{kind.meaning[1:]}.", "")
        yield from ("| | name | dimensions | type | meaning |", "|---|---|---|---|---|")
        for what, table in (("variable", kind.variables), ("coordinate", kind.coordinates)):
            for name, spec in table.items():
                yield f"| {what} | `{name}` | {dimensions(spec)} | {spec.dtype} | {meaning(spec)} |"


def entry(name: str, public: Any, heading: str) -> Iterator[str]:
    """Signature and docstring of one public name."""
    yield from ("", f"{heading} {name}", "", "```python", f"{name}{inspect.signature(public)}", "```", "", "```text")
    yield inspect.getdoc(public) or ""
    yield "```"


def converters_page() -> Iterator[str]:
    """Public modules with their functions: converters to other tools' layouts, statistics without storage."""
    yield from ("# Converters and streaming", "", MADE, "")
    yield "Public modules beyond the names of the package; import them by their path."
    for path, chosen in PUBLIC_MODULES.items():
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
        yield from column_rows(columns)


def column_rows(columns: Mapping[str, str]) -> Iterator[str]:
    """Rows of a table of columns."""
    for column, text in columns.items():
        yield f"| `{column}` | {text.replace('|', chr(92) + '|')} |"


def modules_page() -> Iterator[str]:
    """Every module with the first sentence of its docstring, folder by folder."""
    yield from ("# Modules", "", MADE, "")
    yield "What is where. What a folder may import is on [one page](../CONTRIBUTING.md)."
    package = ROOT / "featattn_neuro"
    for folder in [package, *sorted(path for path in package.iterdir() if any(path.glob("*.py")))]:
        yield from ("", f"## {folder.relative_to(ROOT)}/", "", "| module | what it is |", "|---|---|")
        for file in sorted(folder.glob("*.py")):
            said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            first = " ".join(said.split("\n\n")[0].split())
            if first:
                yield f"| `{file.name}` | {first.replace('|', chr(92) + '|')} |"


def with_columns(readme: str) -> str:
    """README.md with the meaning of every column between its marks; what is the same everywhere comes once."""
    shared = {name: next(c[name] for c in COLUMNS.values() if name in c) for name in SHARED}
    lines = ["", "| in every file that has it | meaning |", "|---|---|", *column_rows(shared)]
    for table, columns in COLUMNS.items():
        own = {name: text for name, text in columns.items() if shared.get(name) != text}
        lines += ["", f"| `{table}.csv` | meaning |", "|---|---|", *column_rows(own)]
    before, mark, rest = readme.partition(START)
    _, closing, after = rest.partition(END)
    if not mark or not closing:
        raise SystemExit(f"README.md needs the marks {START} and {END}")
    return "\n".join([before + START, *lines, "", END + after])


if __name__ == "__main__":
    raise SystemExit(main())
