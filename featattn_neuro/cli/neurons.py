"""Commands for recorded neurons: read-neural, neurons, match."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featattn_neuro.cli.options import (
    AsJson,
    Model,
    Output,
    Reduction,
    Seed,
    Weights,
    one_reduction,
    split_layers,
    split_names,
    split_numbers,
)
from featattn_neuro.cli.printing import print_rows, save
from featattn_neuro.errors import ConfigError

if TYPE_CHECKING:
    import xarray as xr

StimulusColumn = Annotated[
    str | None, typer.Option(help="Columns of the trials that name the stimulus, comma-separated.")
]
Event = Annotated[str | None, typer.Option(help="Column of the trials with the time that windows are counted from.")]
Window = Annotated[str | None, typer.Option(help="START,STOP in ms after the event: spikes that are counted.")]
Baseline = Annotated[str | None, typer.Option(help="START,STOP in ms: window whose mean rate is subtracted.")]
ResponseUnits = Annotated[str | None, typer.Option(help="spikes or spikes/s.")]
Columns = Annotated[str | None, typer.Option(help="OURS=THEIRS pairs, comma-separated, e.g. level=angle,area=region.")]
Trials = Annotated[str | None, typer.Option(help="NWB: table of intervals that holds the trials.")]
Sentinels = Annotated[
    str | None,
    typer.Option(
        help="Codes in the stimulus or level that are no values, comma-separated; '' = there are none; of another "
        "coordinate by its name: orientation=-1,level=-9999."
    ),
]


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
    more: dict[str, Any] = {"variable": variable, "dims": None if dims is None else tuple(split_names(dims))}
    save(api.read_neural(source, **said, **{k: v for k, v in more.items() if v is not None}), out)


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
    extra: Annotated[
        str, typer.Option(help="Trials that show none of the images (blanks): error, or drop = leave them out.")
    ] = "error",
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
    chosen = [] if layers is None else split_layers(layers)
    named = None if conditions is None else split_names(conditions)
    if named is not None and len(named) != 2:
        raise ConfigError(f"wanted --conditions as UNATTENDED,ATTENDED; came {conditions!r}")
    page = compare_with_neurons(
        recording, model, out, images=images, layers=chosen, level=level, weights=weights, seed=seed, said=said,
        extra=extra, conditions=None if named is None else (named[0], named[1]),
    )  # fmt: skip
    typer.echo(str(page))


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
    reduction: Reduction = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """How well each layer matches recorded neurons, stimulus by stimulus (MATCH). Prints the scores per layer."""
    from featattn_neuro import api

    brain = _of_subject(_brain(neural), subject, condition)
    found = api.neural_match(
        one_reduction(api.open_kind(activations, "ACTIVATIONS"), reduction).load(),
        brain,
        methods=split_names(methods),
        folds=folds,
        inner_folds=inner_folds,
        seed=seed,
        distance=distance,
        comparison=comparison,
        subjects="each" if subject == "each" else "pooled",
        layer_choice=layer_choice,
        gained=None if gained is None else one_reduction(api.open_kind(gained, "ACTIVATIONS"), reduction).load(),
    )
    path = api.save_kind(found, out)
    rows = [
        {"layer": str(layer)}
        | {str(m): round(float(found["score"].sel(layer=layer, measure=m)), 4) for m in found["measure"].values}
        for layer in found["layer"].values
    ]
    print_rows(rows, as_json=as_json)
    if not as_json:
        typer.echo(str(path))


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
    pairs = [one.partition("=") for one in split_names(columns)] if columns is not None else []
    if not all(ours and theirs for ours, _, theirs in pairs):
        raise ConfigError(f"wanted --columns as OURS=THEIRS pairs, comma-separated; came {columns!r}")
    said = {
        "stimulus_column": None if stimulus_column is None else split_names(stimulus_column),
        "columns": {ours: theirs for ours, _, theirs in pairs} or None,
        "event": event,
        "window": None if window is None else _two_numbers(window, "--window"),
        "baseline": None if baseline is None else _two_numbers(baseline, "--baseline"),
        "response_units": response_units,
        "trials": trials,
        "sentinels": None if sentinels is None else _codes(sentinels),
    }
    return {name: value for name, value in said.items() if value is not None}


def _codes(text: str) -> list[float] | dict[str, list[float]]:
    """Codes alone, or by coordinate where one is named; those without a name are of the stimulus and of the level."""
    if "=" not in text:
        return split_numbers(text, "--sentinels")
    found: dict[str, list[float]] = {}
    for one in split_names(text):
        name, named, code = one.rpartition("=")
        for coordinate in [name.strip()] if named else ["stimulus", "level"]:
            found.setdefault(coordinate, []).extend(split_numbers(code, "--sentinels"))
    return found


def _two_numbers(text: str, option: str) -> tuple[float, float]:
    found = split_numbers(text, option)
    if len(found) != 2:
        raise ConfigError(f"wanted {option} as START,STOP in ms; came {text!r}")
    return found[0], found[1]


def _brain(source: str) -> xr.Dataset:
    """Neurons or dissimilarity matrices, by what the file or the manifest says they are."""
    from featattn_neuro import api
    from featattn_neuro.errors import choose
    from featattn_neuro.io.manifest import load_manifest
    from featattn_neuro.io.neural import read_dissimilarity
    from featattn_neuro.io.neural_netcdf import is_of_a_kind
    from featattn_neuro.io.neural_sets import neural_sets
    from featattn_neuro.io.store import load_kind

    path = Path(source)
    if path.suffix.lower() in (".nc", ".zarr"):
        return load_kind(path) if not path.exists() or is_of_a_kind(path) else api.read_neural(path)
    matrices = load_manifest().names("dissimilarity")
    if not path.suffix and path.name == source:
        choose(source, [*neural_sets(), *matrices], "neural or dissimilarity set")
    return read_dissimilarity(source) if source in matrices else api.read_neural(source)


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
    several = sorted(set(brain["condition"].values.astype(str).tolist())) if "condition" in brain.coords else []
    if len(several) > 1:
        raise ConfigError(f"wanted neurons in one condition; came {', '.join(several)}; choose one with --condition")
    return brain
