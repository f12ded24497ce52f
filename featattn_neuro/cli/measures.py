"""Commands from responses and gains to numbers: selectivity, associate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featattn_neuro.cli.options import Output, Reduction, Seed, TableFormat, Tables, one_arm, one_reduction, split_names
from featattn_neuro.cli.printing import save
from featattn_neuro.errors import ConfigError

if TYPE_CHECKING:
    import xarray as xr


def selectivity(
    activations: Annotated[Path, typer.Argument(help="ACTIVATIONS file; or NEURAL, a recording with trials.")],
    out: Output,
    target: Annotated[
        str | None,
        typer.Option(help="Labels that count as targets, one task each, comma-separated; unless given, every label."),
    ] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Every two labels (of --target, or of all).")] = False,
    contrast: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=TARGETS:DISTRACTORS", help="Labels on both sides, comma-separated; again for more."),
    ] = None,
    permutations: Annotated[int, typer.Option(min=0, help="Label permutations, for the floor of |d'| and for p.")] = 0,
    family: Annotated[
        str | None, typer.Option(help="p-values, corrected over: all, task, layer or task_layer. Unless given, no p.")
    ] = None,
    correction: Annotated[
        str | None, typer.Option(help="Of p: max (largest of the family, unless given), holm, bh, by, bonferroni.")
    ] = None,
    interval: Annotated[
        str | None, typer.Option(help="95 % interval of d': noncentral_t (about Gaussian classes) or bootstrap.")
    ] = None,
    observations: Annotated[
        str | None, typer.Option(help="Of a NEURAL file: trial (unless given), or stimulus (mean over its trials).")
    ] = None,
    reduction: Reduction = None,
    seed: Seed = 0,
    tables: Tables = None,
    table_format: TableFormat = None,
) -> None:
    """d' and ROC area of every filter or neuron (SELECTIVITY). Use images that no gain was learned from."""
    from featattn_neuro import api

    recorded = one_reduction(api.open_kind(activations), reduction)
    wanted = _wanted(target, contrast, pairs)
    if correction is not None and family is None:
        raise ConfigError("--correction is of p-values over a family; came without one; say --family, or leave it out")
    if observations is not None and recorded.attrs.get("kind") != "NEURAL":
        raise ConfigError("--observations is for recordings with trials (NEURAL); came activations; leave it out")
    suffix = _table_suffix(tables, table_format)
    found = api.selectivity(
        recorded, wanted, pairs=pairs, permutations=permutations, family=family, correction=correction or "max",
        interval=interval, observations=observations or "trial", seed=seed,
    )  # fmt: skip
    save(found, out)
    if tables is not None:
        from featattn_neuro.report.tables import selectivity_table

        _write_tables({"selectivity": selectivity_table({activations.stem: found})}, tables, suffix)


def associate(
    gains: Annotated[Path, typer.Argument(help="GAINS file.")],
    selectivity: Annotated[Path, typer.Argument(help="SELECTIVITY file of the same network, un-gained.")],
    out: Output,
    arm: Annotated[str | None, typer.Option(help="Which arm, where the gains have several.")] = None,
    method: Annotated[str, typer.Option(help="spearman, kendall (tau b) or pearson_log (of log gains).")] = "spearman",
    covariates: Annotated[
        str | None,
        typer.Option(help="Columns of the selectivity file to hold fixed, e.g. mean_response,sd_response."),
    ] = None,
    permutations: Annotated[int, typer.Option(min=1, help="Permutations of the tasks.")] = 9999,
    seed: Seed = 0,
    circular: Annotated[str, typer.Option(help="refuse shared images, or demonstrate what they do.")] = "refuse",
    tables: Tables = None,
    table_format: TableFormat = None,
) -> None:
    """Association of gain with selectivity within layers (ASSOCIATION)."""
    from featattn_neuro import api

    suffix = _table_suffix(tables, table_format)
    learned = one_arm(api.open_kind(gains, "GAINS"), arm)
    measured = api.open_kind(selectivity, "SELECTIVITY")
    found = api.gain_selectivity(
        learned, measured, covariates=_covariates(measured, covariates), method=method, permutations=permutations,
        seed=seed, circular=circular,
    )  # fmt: skip
    save(found, out)
    if tables is not None:
        from featattn_neuro.report import tables as made

        each = {gains.stem: found}
        written = {
            "association": made.association_table(each),
            "association_summary": made.association_summary_table(each),
            "association_checks": made.association_checks_table(each),
        }
        _write_tables({name: table for name, table in written.items() if len(table)}, tables, suffix)


def _wanted(target: str | None, contrast: list[str] | None, pairs: bool) -> Any:
    """What `selectivity` takes as its target: labels, contrasts by name, or None for every label."""
    if contrast:
        given = [name for name, value in {"--target": target is not None, "--pairs": pairs}.items() if value]
        if given:
            raise ConfigError(f"--contrast names both sides itself; came also {', '.join(given)}; leave one out")
        found = dict(_contrast(text) for text in contrast)
        if len(found) < len(contrast):
            raise ConfigError(
                f"wanted contrasts with different names; came {len(contrast)} with {len(found)}; rename one"
            )
        return found
    names = None if target is None else split_names(target)
    return names[0] if names is not None and len(names) == 1 and not pairs else names


def _contrast(text: str) -> tuple[str, tuple[list[str], list[str]]]:
    """NAME=TARGETS:DISTRACTORS, labels comma-separated."""
    name, _, rest = text.partition("=")
    first, _, second = rest.partition(":")
    if not name.strip() or not first.strip(" ,") or not second.strip(" ,"):
        raise ConfigError(f"wanted --contrast NAME=TARGETS:DISTRACTORS, e.g. animal=cat,dog:car; came {text!r}")
    return name.strip(), (split_names(first), split_names(second))


def _covariates(measured: xr.Dataset, text: str | None) -> xr.Dataset | None:
    """The named columns of the selectivity; None where none are named."""
    from featattn_neuro.errors import choose

    if text is None:
        return None
    known = [
        str(name)
        for name, one in measured.data_vars.items()
        if "unit" in one.dims and one.dtype.kind in "fi" and name not in ("dprime", "auc", "live")
    ]
    return measured[[choose(name, known, "column of the selectivity") for name in split_names(text)]]


def _table_suffix(tables: Path | None, table_format: str | None) -> str:
    """Suffix of the tables' files; a format without tables is a mistake."""
    from featattn_neuro.errors import choose

    if tables is None and table_format is not None:
        raise ConfigError(f"--table-format {table_format} is of --tables FOLDER; came without; give both or neither")
    return "." + choose(table_format or "csv", ("csv", "parquet", "md", "tex"), "format of a table")


def _write_tables(made: dict[str, Any], folder: Path, suffix: str) -> None:
    from featattn_neuro.report.tables import write_table

    for name, table in made.items():
        typer.echo(str(write_table(table, folder / f"{name}{suffix}")))
