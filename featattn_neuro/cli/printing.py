"""What commands say: rows, JSON, the name of the file that was written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    import xarray as xr


def save(dataset: xr.Dataset, out: Path) -> None:
    """Write a Dataset and say where."""
    from featattn_neuro import api

    typer.echo(str(api.save_kind(dataset, out)))


def print_json(value: Any) -> None:
    """A value as indented JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_rows(rows: Iterable[dict[str, Any]], *, as_json: bool) -> None:
    """Rows as a table without lines, or as JSON."""
    rows = list(rows)
    if as_json:
        print_json(rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, key in enumerate(rows[0] if rows else ()):
        table.add_column(key.replace("_", " "), overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
