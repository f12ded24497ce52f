"""The command `featattn`: whole runs, and the single steps from file to file. Thin: it parses, calls, and prints.

Heavy libraries are imported inside the commands, so that `featattn --help` is quick. A user's mistake ends with one
sentence on standard error and exit status 2, without a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from featattn_neuro import __version__
from featattn_neuro.cli import data, export, gains, measures, neurons, recording, runs, saliency
from featattn_neuro.errors import FeatattnError

app = typer.Typer(
    name="featattn",
    help="Learned multiplicative filter gains in frozen convolutional networks, measured like neurons.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; exit status 0 = done, 1 = done and different (compare), 2 = a mistake in what was given."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="featattn")
    except FeatattnError as error:
        typer.echo(f"featattn: {error}", err=True)
        raise SystemExit(2) from None
    raise SystemExit(0)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"featattn_neuro {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Learned multiplicative filter gains in frozen convolutional networks, measured like neurons."""


# in the order in which --help lists them; a command is called as its function is, read_neural as read-neural
for command in (
    *(runs.run, runs.status, runs.compare, runs.report),
    *(data.data, data.fetch),
    *(recording.layers, recording.record),
    gains.gains,
    *(measures.selectivity, measures.associate),
    saliency.saliency,
    data.example,
    *(neurons.read_neural, neurons.neurons, neurons.match),
    *(export.export, export.fold, export.import_gains),
):
    app.command()(command)
