"""Commands for whole runs: run, status, compare, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featattn_neuro.cli.options import AsJson, Folder
from featattn_neuro.cli.printing import print_json
from featattn_neuro.errors import ConfigError


def run(
    config: Annotated[Path, typer.Argument(help="Configuration (YAML), e.g. analyses/configs/digits.yaml.")],
    out: Annotated[Path, typer.Option(help="Result folder; an interrupted run goes on where it stopped.")],
    plan: Annotated[bool, typer.Option("--plan", help="Print fits, minutes and disk, then stop.")] = False,
    until: Annotated[str | None, typer.Option(help="Last stage to run.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Also the refit nulls of every layer (hours).")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Parallel workers, one thread each.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on the terminal; the log is written.")] = False,
) -> None:
    """Run a whole job: stages, tables, figures, and one page with the verdicts."""
    from featattn_neuro.jobs import runner

    if plan:
        unused = [name for name, value in {"--until": until, "--quiet": quiet}.items() if value]
        if unused:
            raise ConfigError(f"--plan only shows the run; came also {', '.join(unused)}; leave it out")
        runner.plan(config, out, full=full, workers=workers, say=typer.echo)
        return
    raise typer.Exit(runner.run(config, out, quiet=quiet, until=until, full=full, workers=workers))


def status(folder: Folder) -> None:
    """Show which stages of a run are done."""
    from featattn_neuro.jobs import runner

    typer.echo(runner.status(folder))


def compare(
    first: Annotated[Path, typer.Argument(help="Result folder.")],
    second: Annotated[Path, typer.Argument(help="Result folder to compare it with.")],
    as_json: AsJson = False,
) -> None:
    """Tell two result folders apart; exit status 1 if they differ."""
    from featattn_neuro.jobs.compare import compare as compare_folders

    differences = compare_folders(first, second)
    if as_json:
        print_json({"same": not differences, "differences": differences})
    else:
        typer.echo("\n".join(differences) if differences else "same")
    raise typer.Exit(1 if differences else 0)


def report(folder: Folder) -> None:
    """Write report.html, figures and tables from the result files in a folder, and print the verdicts."""
    from featattn_neuro.jobs import runner

    page, lines = runner.report(folder)
    for line in lines:
        typer.echo(line)
    typer.echo(str(page))
