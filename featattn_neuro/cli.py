"""The command `featattn`: whole runs, and the single steps from file to file. Thin: it parses, calls, and prints.

Heavy libraries are imported inside the commands, so that `featattn --help` is quick. A user's mistake ends with one
sentence on standard error and exit status 2, without a traceback.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from featattn_neuro import __version__
from featattn_neuro.errors import ConfigError, FeatattnError, StoreError

if TYPE_CHECKING:
    import xarray as xr

app = typer.Typer(
    name="featattn",
    help="Learned multiplicative filter gains in frozen convolutional networks, measured like neurons.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _output(path: Path) -> Path:
    """Refuse a name that nothing can be saved under before anything is computed for it."""
    if path.suffix not in (".nc", ".zarr"):
        raise ConfigError(f"wanted --out to end in .nc or .zarr; came {str(path)!r}; rename it")
    if not path.parent.is_dir():
        raise StoreError(f"wanted a folder to write {path.name!r} in; there is none at {str(path.parent)!r}; make it")
    if not os.access(path.parent, os.W_OK):
        raise StoreError(f"the folder {str(path.parent)!r} cannot be written; choose another --out")
    return path


def _maybe_output(path: Path | None) -> Path | None:
    return None if path is None else _output(path)


Model = Annotated[str, typer.Argument(help="Network: a name, torchvision:NAME, timm:NAME, or module:function.")]
Images = Annotated[str, typer.Argument(help="Name in the manifest, folder (sub-folders = labels), or zip of images.")]
Weights = Annotated[str | None, typer.Option(help="Weight file, 'pretrained' or 'random'.")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn.")]
Labels = Annotated[Path | None, typer.Option(help="CSV with columns path and label, instead of folder names.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many images, spread over the classes.")]
Layers = Annotated[str, typer.Option(help="Layers: names, patterns (layer3.*) or stages (conv), comma-separated.")]
Output = Annotated[Path, typer.Option("--out", callback=_output, help="File to write: .nc (netCDF-4) or .zarr.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Folder = Annotated[Path, typer.Argument(help="Result folder.")]


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


# ---------------------------------------------------------------------------------------------------- whole runs


@app.command()
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
        typer.echo(runner.plan(config, out, full=full, workers=workers))
        return
    raise typer.Exit(runner.run(config, out, quiet=quiet, until=until, full=full, workers=workers))


@app.command()
def status(folder: Folder) -> None:
    """Show which stages of a run are done."""
    from featattn_neuro.jobs import runner

    typer.echo(runner.status(folder))


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Result folder.")],
    second: Annotated[Path, typer.Argument(help="Result folder to compare it with.")],
    as_json: AsJson = False,
) -> None:
    """Tell two result folders apart; exit status 1 if they differ."""
    from featattn_neuro.jobs.compare import compare as compare_folders

    differences = compare_folders(first, second)
    if as_json:
        _print_json({"same": not differences, "differences": differences})
    else:
        typer.echo("\n".join(differences) if differences else "same")
    raise typer.Exit(1 if differences else 0)


@app.command()
def report(folder: Folder) -> None:
    """Write report.html, figures and tables from the result files in a folder, and print the verdicts."""
    from featattn_neuro.io.store import load_kind
    from featattn_neuro.report.page import verdict_lines, write_page

    page = write_page(folder)
    claims = folder / "claims.nc"
    for line in verdict_lines(load_kind(claims, "CLAIMS")) if claims.is_file() else []:
        typer.echo(line)
    typer.echo(str(page))


# ---------------------------------------------------------------------------------------------------- data


@app.command()
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
    _print_rows(rows, as_json=as_json)


@app.command()
def fetch(name: Annotated[str, typer.Argument(help="Name in the manifest, see featattn data.")]) -> None:
    """Find or download a data set, check its checksum, and print where it is."""
    from featattn_neuro.io.manifest import fetch as fetch_entry

    typer.echo(str(fetch_entry(name, progress=sys.stderr.isatty())))


# ---------------------------------------------------------------------------------------------------- single steps


@app.command()
def layers(
    model: Model,
    weights: Weights = None,
    seed: Seed = 0,
    stage: Annotated[str | None, typer.Option(help="Only this stage: conv, activation, …")] = None,
    as_json: AsJson = False,
) -> None:
    """List a network's layers in the order in which they run: name, type, stage, output shape, filters, calls."""
    from featattn_neuro import api
    from featattn_neuro.errors import choose

    found = api.list_layers(api.load_model(model, weights=weights, seed=seed))
    if stage is not None:
        choose(stage, dict.fromkeys(layer.stage for layer in found), "stage")
    rows = [asdict(layer) for layer in found if stage in (None, layer.stage)]
    if not as_json:
        rows = [{**row, "output_shape": " × ".join(map(str, row["output_shape"]))} for row in rows]
    _print_rows(rows, as_json=as_json)


@app.command()
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another recording at --out.")] = False,
) -> None:
    """Record the responses of a network's filters to images (ACTIVATIONS).

    Streamed to --out while images go by: memory does not grow with their number, and the same command goes on where a
    killed one stopped.
    """
    from featattn_neuro import api
    from featattn_neuro.errors import choose

    choose(corrupt, ("error", "skip"), "treatment of corrupt images")
    axes, reductions = _axes(channel_axis), _names(reduce)
    network = api.load_model(model, weights=weights, seed=seed)
    stimuli = _stimuli(images, labels, limit, corrupt="keep" if corrupt == "skip" else corrupt)
    if metadata is not None:
        # a table of the whole set serves a part of it too
        stimuli = api.with_metadata(stimuli, metadata, others="error" if limit is None else "ignore")
    with _progress("images") as progress:
        recorded = api.record(
            network,
            stimuli,
            _names(layers),
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
    if skipped:
        typer.echo(f"left out, could not be read: {', '.join(skipped)}", err=True)
    typer.echo(str(out))


_OF_LEARNING = ("epochs", "batch_size", "penalty", "rate", "cache")
_OF_METHOD: dict[str, tuple[str, ...]] = {
    "learned": (
        *_OF_LEARNING, "head_images", "head_labels", "train_head", "per", "shift", "parameterisation", "combination",
        "penalty_norm", "task", "class_weight", "checkpoint", "checkpoint_every",
    ),
    "tuning": ("strength", "mode", "clip", "choice_images", "choice_labels"),
    "gradient": ("strength", "mode", "clip", "choice_images", "choice_labels"),
    "target-importance": (*_OF_LEARNING, "importance", "outputs"),
}  # fmt: skip
"""Options of `gains` that not every method has."""


@app.command()
def gains(
    context: typer.Context,
    model: Model,
    images: Images,
    layers: Layers,
    out: Output,
    target: Annotated[str, typer.Option(help="Labels to detect, one task each, comma-separated.")],
    method: Annotated[
        str, typer.Option(help="learned; from theory: tuning or gradient; or target-importance (own softmax).")
    ] = "learned",
    head_images: Annotated[
        str | None, typer.Option(help="Other labelled images, on which a read-out is fitted first and then frozen.")
    ] = None,
    head_labels: Annotated[Path | None, typer.Option(help="As --labels, for --head-images.")] = None,
    train_head: Annotated[
        bool | None,
        typer.Option("--train-head/--frozen-head", help="Learn the read-out too; unless said, where none is given."),
    ] = None,
    weights: Weights = None,
    seed: Seed = 0,
    labels: Labels = None,
    limit: Limit = None,
    device: Annotated[str | None, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0, help="Learning rate; 0.03, target-importance 0.0003 unless given.")
    ] = None,
    penalty: Annotated[float, typer.Option(min=0, help="Pull towards gain 1: weight of --penalty-norm.")] = 0.0,
    penalty_norm: Annotated[str, typer.Option(help="l2 (mean square) or l1 (mean absolute value).")] = "l2",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = 30,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of one update.")] = 60,
    per: Annotated[
        str, typer.Option(help="A gain per filter, per layer, per position, or per 'filter and position'.")
    ] = "filter",
    shift: Annotated[bool, typer.Option("--shift", help="Also a number per filter that is added.")] = False,
    parameterisation: Annotated[
        str, typer.Option(help="log, free, non_negative, 'bounded(0.7, 1.3)', 'log(0.5, 2)'; +layer_mean behind it.")
    ] = "log",
    combination: Annotated[
        str, typer.Option(help="Of filter and position: multiplicative, or additive 1 + (g - 1) + (s - 1).")
    ] = "multiplicative",
    task: Annotated[
        str, typer.Option(help="detection (gains for each target), multiclass or multilabel (one set for all).")
    ] = "detection",
    class_weight: Annotated[
        str, typer.Option(help="balanced, equal, or declared: target=2,distractor=1 (multiclass: each class).")
    ] = "balanced",
    strength: Annotated[
        str, typer.Option(help="Theory: strength beta, or several, comma-separated, for --choice-images.")
    ] = "1",
    mode: Annotated[str, typer.Option(help="Theory: bidirectional, or positive (no filter is weakened).")] = (
        "bidirectional"
    ),
    clip: Annotated[bool, typer.Option("--clip", help="Theory: no factor below 0.")] = False,
    choice_images: Annotated[
        str | None, typer.Option(help="Theory: other labelled images, on which the strength is chosen.")
    ] = None,
    choice_labels: Annotated[Path | None, typer.Option(help="As --labels, for --choice-images.")] = None,
    importance: Annotated[
        float | None, typer.Option(help="Target importance: weight of images of other classes, 0 to 1.")
    ] = None,
    outputs: Annotated[
        str | None, typer.Option(help="Target importance: class=INDEX of the head, comma-separated, for every class.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps the frozen part, for further tasks.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Folder from which interrupted learning goes on.")] = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Updates between two checkpoints.")] = 50,
) -> None:
    """Learn one gain per filter for the detection of each target label, or for several classes together (GAINS).

    Without --head-images the read-out is learned together with the gains, and gains should not be compared with
    selectivity. Other methods derive gains instead: from tuning or gradient values, or from the network's own softmax.
    """
    from featattn_neuro import api

    _only_of_method(context, method)
    if head_images is None and head_labels is not None:
        raise ConfigError("--head-labels names the labels of --head-images; came alone; give both or neither")
    if choice_images is None and choice_labels is not None:
        raise ConfigError("--choice-labels names the labels of --choice-images; came alone; give both or neither")
    if checkpoint is None and _typed(context, "checkpoint_every"):
        raise ConfigError("--checkpoint-every is for learning with --checkpoint FOLDER; give both or neither")
    if method == "target-importance" and importance is None:
        raise ConfigError("--method target-importance wants --importance, from 0 (excluded) to 1; came none; give it")
    network, stimuli = api.load_model(model, weights=weights, seed=seed), _stimuli(images, labels, limit)
    wanted, sites = _task_labels(stimuli, images, target, task), _names(layers)
    if method in ("tuning", "gradient"):
        chosen: dict[str, Any] = {}
        if choice_images is not None:
            others = _stimuli(choice_images, choice_labels, None)
            chosen = {"choice_stimuli": others, "choice_labels": _targets(others, choice_images, target)}
        strengths = _numbers(strength, "--strength")
        found = api.theory_gains(
            network, stimuli, wanted, sites, method=method, mode=mode, clip=clip,
            strength=strengths[0] if len(strengths) == 1 else strengths,
            device=device, **chosen,
        )  # fmt: skip
        if "choice_auc" in found.attrs:
            typer.echo(f"strength {found.attrs['strength']:g} (ROC area by strength: {found.attrs['choice_auc']})")
        _save(found, out)
        return
    learning: dict[str, Any] = {
        "penalty": penalty, "epochs": epochs, "batch_size": batch_size, "seed": seed, "device": device, "cache": cache,
        **({} if rate is None else {"rate": rate}),
    }  # fmt: skip
    if method == "target-importance":
        named = None if outputs is None else _indices(outputs)
        assert importance is not None
        found = api.target_importance_gains(
            network, stimuli, stimuli.label, sites, targets=_names(target), importance=importance,
            outputs=named, **learning,
        )  # fmt: skip
        _save(found, out)
        return
    heads: dict[str, Any] = {}
    if head_images is not None:
        others = _stimuli(head_images, head_labels, None)
        heads = {"head_stimuli": others, "head_labels": _task_labels(others, head_images, target, task)}
    learned = api.learn_gains(
        network,
        stimuli,
        wanted,
        sites,
        train_head=train_head,
        per=per,
        shift=shift,
        parameterisation=parameterisation,
        combination=combination,
        penalty_norm=penalty_norm,
        task=task,
        class_weight=_class_weight(class_weight),
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        **learning,
        **heads,
    )
    _save(learned, out)


def _typed(context: typer.Context, option: str) -> bool:
    """Whether an option was given, be it with its default."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def _only_of_method(context: typer.Context, method: str) -> None:
    """Refuse options that the chosen method would ignore."""
    from featattn_neuro.errors import choose

    own = _OF_METHOD[choose(method, _OF_METHOD, "method")]
    others = dict.fromkeys(option for options in _OF_METHOD.values() for option in options if option not in own)
    wrong = [option for option in others if _typed(context, option)]
    if wrong:
        flag = "--train-head or --frozen-head" if wrong[0] == "train_head" else "--" + wrong[0].replace("_", "-")
        has = [name for name, options in _OF_METHOD.items() if wrong[0] in options]
        raise ConfigError(f"--method {method} has no {flag}, which is for {', '.join(has)}; leave it out")


def _indices(text: str) -> dict[str, int]:
    """class=INDEX texts, comma-separated, as a table."""
    pairs = [part.rpartition("=") for part in _names(text)]
    if not all(name and index.strip().isdigit() for name, _, index in pairs):
        raise ConfigError(f"wanted --outputs class=INDEX, comma-separated, for example cat=3,dog=5; came {text!r}")
    return {name.strip(): int(index) for name, _, index in pairs}


Tables = Annotated[Path | None, typer.Option(help="Folder to write the numbers to as tables, too.")]
TableFormat = Annotated[str | None, typer.Option(help="Of --tables: csv (unless given), parquet, md or tex.")]


@app.command()
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
    seed: Seed = 0,
    tables: Tables = None,
    table_format: TableFormat = None,
) -> None:
    """d' and ROC area of every filter or neuron (SELECTIVITY). Use images that no gain was learned from."""
    from featattn_neuro import api

    recorded = api.open_kind(activations)
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
    _save(found, out)
    if tables is not None:
        from featattn_neuro.report.tables import selectivity_table

        _write_tables({"selectivity": selectivity_table({activations.stem: found})}, tables, suffix)


@app.command()
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
    learned = _one_arm(api.open_kind(gains, "GAINS"), arm)
    measured = api.open_kind(selectivity, "SELECTIVITY")
    found = api.gain_selectivity(
        learned, measured, covariates=_covariates(measured, covariates), method=method, permutations=permutations,
        seed=seed, circular=circular,
    )  # fmt: skip
    _save(found, out)
    if tables is not None:
        from featattn_neuro.report import tables as made

        each = {gains.stem: found}
        written = {
            "association": made.association_table(each),
            "association_summary": made.association_summary_table(each),
            "association_checks": made.association_checks_table(each),
        }
        _write_tables({name: table for name, table in written.items() if len(table)}, tables, suffix)


@app.command()
def saliency(
    model: Model,
    gains: Annotated[Path, typer.Argument(help="GAINS file.")],
    images: Images,
    layer: Annotated[str, typer.Option(help="Layer whose maps are shown.")],
    out: Output,
    weights: Weights = None,
    seed: Seed = 0,
    arm: Annotated[str | None, typer.Option(help="Which arm, where the gains have several.")] = None,
    task: Annotated[str | None, typer.Option(help="Only these tasks, comma-separated.")] = None,
    methods: Annotated[
        str, typer.Option(help="Maps: excess, class_weighted, gain_gradient, gradcam, path; comma-separated.")
    ] = "excess",
    output: Annotated[int | None, typer.Option(min=0, help="Explain this output, not the gains' read-out.")] = None,
    top: Annotated[int, typer.Option(min=0, help="Also the maps of so many strongest filters.")] = 0,
    boxes: Annotated[
        Path | None, typer.Option(help="CSV of boxes (path or stimulus, top, left, bottom, right).")
    ] = None,
    segments: Annotated[Path | None, typer.Option(help="Folder with a PNG of segments for each image.")] = None,
    scores: Annotated[
        Path | None, typer.Option(callback=_maybe_output, help="File for the scores (AGREEMENT).")
    ] = None,
    permutations: Annotated[int, typer.Option(min=0, help="Permuted gains for the null of the scores.")] = 1000,
    causal: Annotated[
        Path | None, typer.Option(callback=_maybe_output, help="File for deletion and insertion curves (CAUSAL).")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for overlays and a contact sheet per task.")] = None,
    pictured: Annotated[int, typer.Option(min=1, help="How many images each picture shows.")] = 12,
    which: Annotated[str, typer.Option(help="Which: most or least changed by the gains.")] = "most",
    svg: Annotated[bool, typer.Option("--svg", help="Pictures as SVG instead of PNG.")] = False,
    labels: Labels = None,
    limit: Limit = None,
) -> None:
    """Where the gains amplify, and where they suppress (SALIENCY); scores, causal check and pictures if asked for."""
    from featattn_neuro import api

    marked = [name for name, given in {"--boxes": boxes, "--segments": segments}.items() if given is not None]
    if (scores is None) != (not marked) or len(marked) > 1:
        raise ConfigError("scores need masks, and masks make scores: give --scores with --boxes or with --segments")
    network = api.load_model(model, weights=weights, seed=seed)
    learned, stimuli = _one_arm(api.open_kind(gains, "GAINS"), arm), _stimuli(images, labels, limit)
    tasks = _names(task) if task is not None else None
    found = api.gain_saliency(
        network, learned, stimuli, layer=layer, task=tasks, methods=_names(methods), output=output,
        top=max(top, 3) if figures is not None else top, out=out, overwrite=True,
    )  # fmt: skip
    typer.echo(str(out))
    if scores is not None:
        result = api.score_saliency(
            network, learned, stimuli, found, boxes=boxes, segments=segments, permutations=permutations, seed=seed
        )
        _save(result, scores)
    if causal is not None:
        chosen = learned.sel(task=tasks) if tasks is not None and "task" in learned.dims else learned
        _save(api.causal_check(network, chosen, stimuli, found, output=output, seed=seed), causal)
    if figures is not None:
        for path in api.picture_saliency(stimuli, found, figures, count=pictured, which=which, svg=svg):
            typer.echo(str(path))


@app.command()
def example(
    folder: Annotated[Path, typer.Argument(help="Folder to write neurons.nwb and neurons.csv into.")], seed: Seed = 0
) -> None:
    """Write a small synthetic session of simulated neurons, as NWB and as CSV, to try things out with."""
    from featattn_neuro.io.example import write_example

    for path in write_example(folder, seed=seed):
        typer.echo(str(path))


StimulusColumn = Annotated[
    str | None, typer.Option(help="Columns of the trials that name the stimulus, comma-separated.")
]
Event = Annotated[str | None, typer.Option(help="Column of the trials with the time that windows are counted from.")]
Window = Annotated[str | None, typer.Option(help="START,STOP in ms after the event: spikes that are counted.")]
Baseline = Annotated[str | None, typer.Option(help="START,STOP in ms: window whose mean rate is subtracted.")]
ResponseUnits = Annotated[str | None, typer.Option(help="spikes or spikes/s.")]
Columns = Annotated[str | None, typer.Option(help="OURS=THEIRS pairs, comma-separated, e.g. level=angle,area=region.")]
Trials = Annotated[str | None, typer.Option(help="NWB: table of intervals that holds the trials.")]
Sentinels = Annotated[str | None, typer.Option(help="Codes that are no values, comma-separated; '' = there are none.")]


@app.command("read-neural")
def read_neural(
    source: Annotated[str, typer.Argument(help="Recording: .nwb, .csv, .parquet, .mat, .npy, .npz, .nc, or a set.")],
    out: Output,
    stimulus_column: StimulusColumn = None,
    columns: Columns = None,
    event: Event = None,
    window: Window = None,
    baseline: Baseline = None,
    response_units: ResponseUnits = None,
    trials: Trials = None,
    variable: Annotated[str | None, typer.Option(help=".mat and .npz: array of the responses.")] = None,
    dims: Annotated[str | None, typer.Option(help="Axes of the responses, e.g. unit,stimulus,repeat.")] = None,
    sentinels: Sentinels = None,
) -> None:
    """Read a recording of neurons, in whatever layout, into one file (NEURAL)."""
    from featattn_neuro import api

    said = _neural_options(stimulus_column, columns, event, window, baseline, response_units, trials, sentinels)
    more: dict[str, Any] = {"variable": variable, "dims": None if dims is None else tuple(_names(dims))}
    _save(api.read_neural(source, **said, **{k: v for k, v in more.items() if v is not None}), out)


@app.command()
def neurons(
    recording: Annotated[str, typer.Argument(help="Recording of neurons; an NWB file may carry its images.")],
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for the results and the page.")],
    images: Annotated[str | None, typer.Option(help="Folder, zip or set of the images that were shown.")] = None,
    layers: Annotated[str | None, typer.Option(help="As in featattn record; default: eight activations.")] = None,
    level: Annotated[str | None, typer.Option(help="What tuning is measured over: orientation, label, …")] = None,
    weights: Weights = None,
    conditions: Annotated[
        str | None,
        typer.Option(help="UNATTENDED,ATTENDED: the conditions of the trials that attention is measured between."),
    ] = None,
    seed: Seed = 0,
    stimulus_column: StimulusColumn = None,
    columns: Columns = None,
    event: Event = None,
    window: Window = None,
    baseline: Baseline = None,
    response_units: ResponseUnits = None,
    trials: Trials = None,
    sentinels: Sentinels = None,
) -> None:
    """Compare a network with neurons that saw the same images: tuning, match over depth, attention, one page."""
    from featattn_neuro.jobs.neurons import compare_with_neurons

    said = _neural_options(stimulus_column, columns, event, window, baseline, response_units, trials, sentinels)
    chosen = [] if layers is None else _names(layers)
    named = None if conditions is None else _names(conditions)
    if named is not None and len(named) != 2:
        raise ConfigError(f"wanted --conditions as UNATTENDED,ATTENDED; came {conditions!r}")
    page = compare_with_neurons(
        recording, model, out, images=images, layers=chosen, level=level, weights=weights, seed=seed, said=said,
        conditions=None if named is None else (named[0], named[1]),
    )  # fmt: skip
    typer.echo(str(page))


@app.command()
def match(
    activations: Annotated[Path, typer.Argument(help="ACTIVATIONS file, of the stimuli that the neurons saw.")],
    neural: Annotated[str, typer.Argument(help="Neurons or dissimilarities: a name in the manifest, or a file.")],
    out: Output,
    methods: Annotated[str, typer.Option(help="rsa, cka, ridge, pls, comma-separated.")] = "rsa,cka,ridge",
    folds: Annotated[int, typer.Option(min=2, help="Outer folds of ridge.")] = 5,
    inner_folds: Annotated[int, typer.Option(min=2, help="Inner folds of ridge, which choose the penalty.")] = 5,
    distance: Annotated[str, typer.Option(help="Of rsa: correlation, euclidean or crossnobis.")] = "correlation",
    comparison: Annotated[str, typer.Option(help="Of rsa: spearman or kendall (tau a).")] = "spearman",
    subject: Annotated[
        str | None, typer.Option(help="One subject; 'each' = the mean over them, with ceilings.")
    ] = None,
    condition: Annotated[
        str | None, typer.Option(help="Which condition of the neurons, where there are several.")
    ] = None,
    layer_choice: Annotated[
        str, typer.Option(help="halves: score the layer on stimuli that did not choose it.")
    ] = "none",
    gained: Annotated[Path | None, typer.Option(help="ACTIVATIONS with gains on: adds the difference.")] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """How well each layer matches recorded neurons, stimulus by stimulus (MATCH). Prints the scores per layer."""
    from featattn_neuro import api

    brain = _of_subject(_brain(neural), subject, condition)
    found = api.neural_match(
        api.open_kind(activations, "ACTIVATIONS").load(),
        brain,
        methods=_names(methods),
        folds=folds,
        inner_folds=inner_folds,
        seed=seed,
        distance=distance,
        comparison=comparison,
        subjects="each" if subject == "each" else "pooled",
        layer_choice=layer_choice,
        gained=None if gained is None else api.open_kind(gained, "ACTIVATIONS").load(),
    )
    path = api.save_kind(found, out)
    rows = [
        {"layer": str(layer)}
        | {str(m): round(float(found["score"].sel(layer=layer, measure=m)), 4) for m in found["measure"].values}
        for layer in found["layer"].values
    ]
    _print_rows(rows, as_json=as_json)
    if not as_json:
        typer.echo(str(path))


# ---------------------------------------------------------------------------------------------------- helpers


def _brain(source: str) -> xr.Dataset:
    """Neurons or dissimilarity matrices, by what the file or the manifest says they are."""
    from featattn_neuro import api
    from featattn_neuro.io.manifest import load_manifest
    from featattn_neuro.io.neural import read_dissimilarity
    from featattn_neuro.io.store import load_kind

    if Path(source).suffix in (".nc", ".zarr"):
        return load_kind(source)
    if source in load_manifest().names("dissimilarity"):
        return read_dissimilarity(source)
    return api.read_neural(source)


def _of_subject(brain: xr.Dataset, subject: str | None, condition: str | None) -> xr.Dataset:
    """The part of one subject and one condition."""
    from featattn_neuro.errors import choose

    for wanted, name in ((None if subject == "each" else subject, "subject"), (condition, "condition")):
        if wanted is None:
            continue
        if name not in brain.coords:
            raise ConfigError(f"wanted {name} {wanted!r}; the data name no {name}; leave --{name} out")
        values = brain[name].values.astype(str)
        keep = values == choose(wanted, sorted(set(values)), name)
        brain = brain.isel({str(brain[name].dims[0]): keep})
    return brain


def _neural_options(
    stimulus_column: str | None,
    columns: str | None,
    event: str | None,
    window: str | None,
    baseline: str | None,
    response_units: str | None,
    trials: str | None,
    sentinels: str | None,
) -> dict[str, Any]:
    """Arguments of `read_neural` from texts; those that were not given are left out."""
    pairs = [one.partition("=") for one in _names(columns)] if columns is not None else []
    if not all(ours and theirs for ours, _, theirs in pairs):
        raise ConfigError(f"wanted --columns as OURS=THEIRS pairs, comma-separated; came {columns!r}")
    said = {
        "stimulus_column": None if stimulus_column is None else _names(stimulus_column),
        "columns": {ours: theirs for ours, _, theirs in pairs} or None,
        "event": event,
        "window": None if window is None else _two_numbers(window, "--window"),
        "baseline": None if baseline is None else _two_numbers(baseline, "--baseline"),
        "response_units": response_units,
        "trials": trials,
        "sentinels": None if sentinels is None else _numbers(sentinels, "--sentinels"),
    }
    return {name: value for name, value in said.items() if value is not None}


def _two_numbers(text: str, option: str) -> tuple[float, float]:
    found = _numbers(text, option)
    if len(found) != 2:
        raise ConfigError(f"wanted {option} as START,STOP in ms; came {text!r}")
    return found[0], found[1]


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ConfigError(f"wanted numbers in {option}, separated by commas; came {text!r}") from error


def _stimuli(images: str, labels: Path | None, limit: int | None, *, corrupt: str = "error") -> Any:
    from featattn_neuro import api

    if labels is not None and labels.is_file():
        with open(labels, encoding="utf-8-sig") as table:
            by_id = "id" in [name.strip().strip('"') for name in table.readline().split(",")]
        if by_id:
            from dataclasses import replace

            from featattn_neuro.io.labels import read_labels

            stimuli = api.load_stimuli(images, label=None, limit=limit, corrupt=corrupt)
            return replace(stimuli, label=read_labels(labels, stimuli).values)
    return api.load_stimuli(images, label="folder" if labels is None else labels, limit=limit, corrupt=corrupt)


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
    names = None if target is None else _names(target)
    return names[0] if names is not None and len(names) == 1 and not pairs else names


def _contrast(text: str) -> tuple[str, tuple[list[str], list[str]]]:
    """NAME=TARGETS:DISTRACTORS, labels comma-separated."""
    name, _, rest = text.partition("=")
    first, _, second = rest.partition(":")
    if not name.strip() or not first.strip(" ,") or not second.strip(" ,"):
        raise ConfigError(f"wanted --contrast NAME=TARGETS:DISTRACTORS, e.g. animal=cat,dog:car; came {text!r}")
    return name.strip(), (_names(first), _names(second))


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
    return measured[[choose(name, known, "column of the selectivity") for name in _names(text)]]


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


def _targets(stimuli: Any, images: str, text: str) -> xr.DataArray:
    """Which stimuli are targets: over stimulus for one label, over (task, stimulus) for several."""
    import xarray as xr

    from featattn_neuro.measures.selectivity import targets_from_labels

    if stimuli.label is None:
        raise ConfigError(
            f"wanted labelled images; {images!r} has no labels; use sub-folders, --labels CSV or --head-labels CSV"
        )
    found = xr.DataArray(stimuli.label, {"stimulus": stimuli.id}, "stimulus", name="label")
    tasks = _names(text)
    targets = targets_from_labels(found, tasks)
    return targets.isel(task=0, drop=True) if len(tasks) == 1 else targets


def _task_labels(stimuli: Any, images: str, text: str, task: str) -> Any:
    """What `learn_gains` wants: the class of every image for multiclass, who is a target otherwise."""
    if task != "multiclass":
        return _targets(stimuli, images, text)
    names = _names(text)
    _targets(stimuli, images, text)  # refuses names that no image has
    odd = [label for label in stimuli.label.tolist() if label not in names]
    if odd:
        raise ConfigError(
            f"--task multiclass wants every image in one of {', '.join(names)}; one is {odd[0]!r}; name it too"
        )
    return stimuli.label


def _class_weight(text: str) -> str | dict[str, float]:
    """The words balanced and equal, or name=weight, comma-separated."""
    if "=" not in text:
        return text
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): float(weight) for name, weight in pairs}
    except ValueError as error:
        raise ConfigError(f"wanted --class-weight name=number, comma-separated; came {text!r}") from error


@app.command()
def export(
    context: typer.Context,
    gains: Annotated[Path, typer.Argument(help="GAINS file.")],
    out: Annotated[Path, typer.Option(help=".safetensors, .onnx (folded network), or a folder (peft IA3 adapter).")],
    model: Annotated[str | None, typer.Option(help="Network, for .onnx and peft; as in the other commands.")] = None,
    weights: Weights = None,
    seed: Seed = 0,
    task: Annotated[str | None, typer.Option(help="Which task, for .onnx and peft; a .safetensors holds all.")] = None,
    arm: Annotated[str | None, typer.Option(help="Which arm, where the gains have several.")] = None,
    input_shape: Annotated[
        str | None, typer.Option(help="CHANNELS,HEIGHT,WIDTH of the images, for .onnx, unless the network says it.")
    ] = None,
) -> None:
    """Write gains for other tools: safetensors, ONNX of the folded network, or a peft adapter."""
    from featattn_neuro import api

    if out.suffix == ".safetensors":
        _only_with(context, ("model", "weights", "seed", "task", "input_shape"), "is for .onnx and peft")
    elif out.suffix != ".onnx":
        _only_with(context, ("input_shape",), "is for .onnx")
    shape = None if input_shape is None else _shape(input_shape)
    learned = _one_arm(api.open_kind(gains, "GAINS").load(), arm)
    network = None if model is None else api.load_model(model, weights=weights, seed=seed)
    typer.echo(str(api.export_gains(learned, out, model=network, task=task, input_shape=shape)))


def _only_with(context: typer.Context, options: Iterable[str], what: str) -> None:
    """Refuse options that were given where they would be ignored."""
    for option in options:
        if _typed(context, option):
            raise ConfigError(f"--{option.replace('_', '-')} {what}; leave it out")


def _shape(text: str) -> tuple[int, int, int]:
    parts = _names(text)
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"wanted --input-shape CHANNELS,HEIGHT,WIDTH, for example 3,224,224; came {text!r}")
    channels, height, width = map(int, parts)
    return channels, height, width


@app.command()
def fold(
    model: Model,
    gains: Annotated[Path, typer.Argument(help="GAINS file.")],
    out: Annotated[Path, typer.Option(help="Weight file of the folded network, .safetensors.")],
    weights: Weights = None,
    seed: Seed = 0,
    task: Annotated[str | None, typer.Option(help="Which task, where the gains have several.")] = None,
    arm: Annotated[str | None, typer.Option(help="Which arm, where the gains have several.")] = None,
    direction: Annotated[
        str, typer.Option(help="auto; backward, into the weights that make the map; forward, into those that read it.")
    ] = "auto",
) -> None:
    """Fold gains into the weights: a plain network, to be loaded with --weights FILE, that answers as the gained one.

    Where folding is impossible (an identity skip, a negative gain behind a ReLU) it says where, and why.
    """
    from featattn_neuro import api

    learned = _one_arm(api.open_kind(gains, "GAINS").load(), arm)
    network = api.load_model(model, weights=weights, seed=seed)
    typer.echo(str(api.save_folded(network, learned, out, task=task, direction=direction)))


@app.command("import-gains")
def import_gains(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help=".safetensors of featattn export, or the folder of a peft adapter.")],
    out: Output,
    model: Annotated[str | None, typer.Option(help="Network that a peft adapter is for.")] = None,
    weights: Weights = None,
    seed: Seed = 0,
) -> None:
    """Read gains of other tools into a file of this package (GAINS)."""
    from featattn_neuro import api

    if source.suffix == ".safetensors":
        _only_with(context, ("model", "weights", "seed"), "is for a peft adapter")
    elif model is None:
        _only_with(context, ("weights", "seed"), "is of the network that --model names")
    network = None if model is None else api.load_model(model, weights=weights, seed=seed)
    _save(api.import_gains(source, model=network), out)


def _save(dataset: xr.Dataset, out: Path) -> None:
    from featattn_neuro import api

    typer.echo(str(api.save_kind(dataset, out)))


def _one_arm(gains: xr.Dataset, arm: str | None) -> xr.Dataset:
    """The arm that was named, or the only one there is."""
    from featattn_neuro.errors import choose

    names = [str(name) for name in gains["arm"].values] if "arm" in gains.dims else []
    if not names:
        if arm is not None:
            raise ConfigError(f"wanted arm {arm!r}; the gains have no arms; leave --arm out")
        return gains
    if arm is None and len(names) > 1:
        raise ConfigError(f"wanted one arm; the gains have several: {', '.join(names)}; say which with --arm")
    return gains.sel(arm=names[0] if arm is None else choose(arm, names, "arm")).drop_vars("arm")


def _names(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise ConfigError(f"wanted one name or more, separated by commas; came {text!r}")
    return names


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _print_rows(rows: Iterable[dict[str, Any]], *, as_json: bool) -> None:
    rows = list(rows)
    if as_json:
        _print_json(rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, key in enumerate(rows[0] if rows else ()):
        table.add_column(key.replace("_", " "), overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
