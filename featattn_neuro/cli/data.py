"""Commands for data sets: data, fetch, example."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from featattn_neuro.cli.options import AsJson, Seed
from featattn_neuro.cli.printing import print_rows


def data(
    as_json: AsJson = False,
    kind: Annotated[str | None, typer.Option(help="Only images, weights, neural or dissimilarity.")] = None,
) -> None:
    """List the data sets and weights of the manifest, and which are here."""
    from featattn_neuro.errors import choose
    from featattn_neuro.io.manifest import is_present, load_manifest

    manifest = load_manifest()
    if kind is not None:
        choose(kind, dict.fromkeys(entry.kind for entry in manifest.entries), "kind of data")
    rows = [
        {
            "name": entry.name,
            "kind": entry.kind,
            "here": "yes" if is_present(entry.name) else "no",
            "MB": round(entry.size / 1e6, 1),
            "source": entry.source,
            "licence": entry.licence,
        }
        for entry in manifest.entries
        if kind in (None, entry.kind)
    ]
    print_rows(rows, as_json=as_json)


def fetch(name: Annotated[str, typer.Argument(help="Name in the manifest, see featattn data.")]) -> None:
    """Find or download a data set, check its checksum, and print where it is."""
    from featattn_neuro.io.manifest import fetch as fetch_entry

    typer.echo(str(fetch_entry(name, progress=sys.stderr.isatty())))


def example(
    folder: Annotated[Path, typer.Argument(help="Folder to write neurons.nwb and neurons.csv into.")], seed: Seed = 0
) -> None:
    """Write a small synthetic session of simulated neurons, as NWB and as CSV, to try things out with."""
    from featattn_neuro.io.example import write_example

    for path in write_example(folder, seed=seed):
        typer.echo(str(path))
