"""Commands that ask a network: layers, record."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from featattn_neuro.cli.options import (
    AsJson,
    Images,
    Labels,
    Layers,
    Limit,
    Model,
    Output,
    Seed,
    Weights,
    read_images,
    split_layers,
    split_names,
)
from featattn_neuro.cli.printing import print_rows
from featattn_neuro.errors import ConfigError


def layers(
    model: Model,
    weights: Weights = None,
    seed: Seed = 0,
    stage: Annotated[str | None, typer.Option(help="Only this stage: conv, activation, …")] = None,
    as_json: AsJson = False,
) -> None:
    """List a network's layers in the order in which they run: name, type, stage, output shape, filters, calls.

    No weights are needed. A question mark: recording wants to be told where the filters are (--channel-axis).
    """
    from featattn_neuro import api
    from featattn_neuro.errors import choose

    # a list of layers needs no weights
    found = api.list_layers(model if weights is None else api.load_model(model, weights=weights, seed=seed))
    if stage is not None:
        choose(stage, dict.fromkeys(layer.stage for layer in found), "stage")
    rows = [asdict(layer) for layer in found if stage in (None, layer.stage)]
    if not as_json:
        rows = [
            {
                **row,
                "output_shape": " × ".join(map(str, row["output_shape"])),
                "filters": "?" if row["filters"] is None else row["filters"],
            }
            for row in rows
        ]
    print_rows(rows, as_json=as_json)


def record(
    model: Model,
    images: Images,
    layers: Layers,
    out: Output,
    weights: Weights = None,
    seed: Seed = 0,
    labels: Labels = None,
    limit: Limit = None,
    reduce: Annotated[
        str,
        typer.Option(
            help="Reductions over positions, comma-separated: mean, max, sum, sd, centre, first, q0.9; none keeps all."
        ),
    ] = "mean",
    batch_size: Annotated[int, typer.Option(min=1, help="Images computed at a time.")] = 32,
    device: Annotated[str | None, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that read images; unless given, a few for files.")
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", "--storage-dtype", help="Of the stored values: float32, float16, float64.")
    ] = "float32",
    compute_dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16 (autocast).")] = "float32",
    channel_axis: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER=AXIS", help="Where the filters are, if no rule says it; again for more."),
    ] = None,
    corrupt: Annotated[str, typer.Option(help="Images that cannot be read: error, or skip and list them.")] = "error",
    metadata: Annotated[
        Path | None,
        typer.Option(help="Table (CSV, TSV, parquet) with a column id or path; its other columns go along."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another or damaged recording at --out.")
    ] = False,
) -> None:
    """Record the responses of a network's filters to images (ACTIVATIONS).

    Streamed to --out while images go by: memory does not grow with their number, and the same command goes on where a
    killed one stopped.
    """
    from featattn_neuro import api
    from featattn_neuro.errors import choose

    choose(corrupt, ("error", "skip"), "treatment of corrupt images")
    axes, reductions = _axes(channel_axis), split_names(reduce)
    network = api.load_model(model, weights=weights, seed=seed)
    stimuli = read_images(images, labels, limit, corrupt="keep" if corrupt == "skip" else corrupt)
    if metadata is not None:
        # a table of the whole set serves a part of it too
        stimuli = api.with_metadata(stimuli, metadata, others="error" if limit is None else "ignore")
    with _progress("images") as progress:
        recorded = api.record(
            network,
            stimuli,
            split_layers(layers),
            reduce=reductions[0] if len(reductions) == 1 else reductions,
            batch_size=batch_size,
            device=device,
            out=out,
            overwrite=overwrite,
            workers=workers,
            corrupt=corrupt,
            dtype=dtype,
            compute_dtype=compute_dtype,
            channel_axis=axes,
            progress=progress,
        )
    skipped = recorded["skipped"].values.tolist() if "skipped" in recorded else []
    recorded.close()
    left_out = recorded.attrs.get("layers_left_out")
    if left_out:
        typer.echo(f"layers left out: {left_out}", err=True)
    if skipped:
        typer.echo(f"left out, could not be read: {', '.join(skipped)}", err=True)
    typer.echo(str(out))


def _axes(given: list[str] | None) -> dict[str, int] | None:
    """LAYER=AXIS texts as a table."""
    found = {}
    for text in given or ():
        layer, _, axis = text.rpartition("=")
        if not layer or not axis.lstrip("-").isdigit():
            raise ConfigError(f"wanted --channel-axis LAYER=AXIS, for example blocks.0=-1; came {text!r}")
        found[layer] = int(axis)
    return found or None


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal's standard error; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
