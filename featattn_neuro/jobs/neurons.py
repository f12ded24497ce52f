"""From recorded neurons and a network's name to one page: what both are tuned to, and how well each layer matches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from featattn_neuro import api
from featattn_neuro.errors import ConfigError, DataError, StoreError, choose
from featattn_neuro.io.neural_names import with_stimulus_ids
from featattn_neuro.io.stimuli import Stimuli, load_stimuli
from featattn_neuro.io.store import save_kind, write_text_atomic
from featattn_neuro.jobs.attention import (
    are_counts,
    attention_in,
    compared_conditions,
    effects_by_area,
    form_over_blanks,
)
from featattn_neuro.jobs.ledger import check_writable
from featattn_neuro.measures.filter_matching import tuning_match
from featattn_neuro.measures.neural_match import METHODS, neural_match
from featattn_neuro.measures.tuning_fit import fit_tuning_curves
from featattn_neuro.measures.tuning_indices import tuning_indices, tuning_reliability
from featattn_neuro.measures.variability import response_variability
from featattn_neuro.report.neural_page import COMPARED, FILES, write_neural_page

LEVELS = ("orientation", "direction", "level", "spatial_frequency", "contrast", "label", "stimulus")
"""What tuning is measured over where the caller does not say: the first that trials have two values of, or more."""

MANY = 8
"""Layers that are compared where the caller names none: so many activations, evenly over the depth."""

METHODS_SHOWN = ("rsa", "cka", "ridge")

FEWEST_NEURONS = 4
"""Neurons with a value below which distributions are not compared: their halves would have one value each."""


def compare_with_neurons(
    source: str | Path,
    model: str,
    out: str | Path,
    *,
    images: str | Path | None = None,
    layers: Sequence[str] = (),
    level: str | None = None,
    weights: str | None = None,
    conditions: tuple[str, str] | None = None,
    extra: str = "error",
    permutations: int = 50,
    seed: int = 0,
    said: Mapping[str, Any] | None = None,
) -> Path:
    """Compare a network's filters with neurons that saw the same images; write Datasets, figures and a page.

    Parameters
    ----------
    source : recording, whatever `read_neural` takes; an NWB file may carry its images.
    model : network by name, see `load_model`. weights : likewise.
    out : folder for the results (made if it is not there).
    images : the images that were shown (folder, zip, set): stimuli are matched by id or by file name. None = those in
        the NWB file.
    layers : what to record, see `record`; none = eight activations, evenly over the depth.
    level : coordinate of the trials that tuning is measured over; None = the first of `LEVELS` that is there.
    conditions : names of the unattended and the attended condition; None = "unattended" and "attended" where the trials
        have these. What attention does is then measured as well.
    extra : trials that show none of the images (blanks): "error", or "drop" = leave them out, and say how many.
    permutations, seed : of the floors of indices; the seed also of cross-validation and of halves.
    said : further arguments of `read_neural` (stimulus_column, window, event, columns, …).

    Returns
    -------
    Path of the page `neurons.html`; beside it neural.nc, activations.nc, tuning_neurons.nc, tuning_filters.nc,
    match.nc, tuning_match_QUANTITY.nc, attention.nc (where the two conditions are there), facts.json, figures/. For
    tuning and match, trials of several conditions are averaged, and the page says so.

    Raises
    ------
    DataError, ConfigError, StoreError : as reading, loading and recording do; StoreError also where files of these
        names lie in a folder of something else.
    """
    folder = Path(out)
    _check_folder(folder)  # recording takes minutes
    read = api.read_neural(source, **dict(said or {}))
    stimuli = _stimuli(source, images)
    neural = with_stimulus_ids(read, stimuli, extra=extra)
    stimuli = stimuli.select(np.isin(stimuli.id, neural["stimulus"].values))
    parameter = _parameter(neural, level)
    levels = _by_stimulus(neural, parameter)  # before anything is computed: the level may not fit
    compared, limits = compared_conditions(neural, conditions)
    # the neurons first: what they lack is said in seconds, and recording takes minutes
    neurons, notes = _neurons(neural, parameter, permutations, seed)
    limits += notes
    effects, notes = attention_in(neural, parameter, compared) if compared else (None, [])
    limits += notes
    network = api.load_model(model, weights=weights, seed=seed)
    chosen = list(layers) or _spread(network)
    recorded = api.record(network, stimuli, chosen)
    pooled = neural.drop_vars("condition", errors="ignore")
    results = {
        "neural": neural,
        "activations": recorded,
        "tuning_neurons": neurons,
        "tuning_filters": tuning_indices(recorded, level=levels, permutations=permutations, seed=seed),
        "match": neural_match(recorded, pooled, methods=METHODS_SHOWN, seed=seed),
    }
    results |= _likeness(results["tuning_filters"], neurons, seed)
    if effects is not None:
        results["attention"] = effects
    folder.mkdir(parents=True, exist_ok=True)
    for name, dataset in results.items():
        of_network = name not in ("neural", "attention")
        save_kind(dataset.assign_attrs(network=model) if of_network else dataset, folder / f"{name}.nc")
    for name in set(FILES) - set(results):  # of an earlier run into this folder
        (folder / f"{name}.nc").unlink(missing_ok=True)
    facts = _facts(source, model, neural, stimuli, chosen, parameter, permutations, seed)
    left_out = read.sizes["trial"] - neural.sizes["trial"]
    if left_out:
        limits.insert(0, f"{left_out} trials that show none of the images were left out (extra='drop').")
    facts["limits"] += limits
    facts["attention"] = [] if effects is None else effects_by_area(effects)
    write_text_atomic(folder / "facts.json", json.dumps(facts, indent=2, ensure_ascii=False))
    return write_neural_page(folder)


def _check_folder(folder: Path) -> None:
    """Refuse a place that cannot be written, and files of our names that no earlier comparison left there."""
    check_writable(folder)
    names = [f"{name}.nc" for name in ("neural", "activations", *FILES)] + ["neurons.html"]
    there = next((name for name in names if (folder / name).exists()), None)
    if there is not None and not (folder / "facts.json").is_file():
        raise StoreError(
            f"wanted a folder for the results; {str(folder)!r} holds {there!r} of something else, which would be "
            "replaced; choose another"
        )


def _neurons(neural: xr.Dataset, parameter: str, permutations: int, seed: int) -> tuple[xr.Dataset, list[str]]:
    """Tuning of the neurons, with fits, reliability and Fano factors where the recording has what they need.

    And what the page must say of those that are not there.
    """
    found = tuning_indices(neural, level=parameter, permutations=permutations, seed=seed)
    if "level_name" not in found.coords and found.sizes["level"] >= 5:
        found = fit_tuning_curves(found, form=form_over_blanks(parameter, found["level"].values))
    shown = [neural[name].values for name in ("stimulus", "condition") if name in neural.coords]
    repeated = np.unique(np.stack(shown), axis=1).shape[1] < neural.sizes["trial"]
    if not repeated:
        return found, []
    found = found.assign(reliability=tuning_reliability(neural, seed=seed))
    if not are_counts(neural):
        return found, []
    try:
        return found.assign(fano=response_variability(neural, pairs=False)["fano"]), []
    except DataError:  # repeats lie in sessions of other neurons, or nothing fired at them
        return found, ["No Fano factors: no neuron fired in trials of a stimulus that it was shown twice."]


def _likeness(filters: xr.Dataset, neurons: xr.Dataset, seed: int) -> dict[str, xr.Dataset]:
    """1 − KS of layers and neurons, for each quantity that enough of both have."""
    found = {}
    for quantity in COMPARED:
        if not all(quantity in one and one[quantity].notnull().any() for one in (filters, neurons)):
            continue
        if int(neurons[quantity].notnull().sum()) >= FEWEST_NEURONS:
            found[f"tuning_match_{quantity}"] = tuning_match(filters[quantity], neurons[quantity], seed=seed)
    return found


def _stimuli(source: str | Path, images: str | Path | None) -> Stimuli:
    if images is not None:
        return load_stimuli(images)
    if Path(source).suffix.lower() != ".nwb":
        raise ConfigError(f"{str(source)!r} carries no images; name those that were shown with images= (--images)")
    try:
        return load_stimuli(source)
    except DataError as error:
        raise DataError(f"{error}; name the images that were shown with images= (--images)") from error


def _spread(network: Any) -> list[str]:
    names = [layer.name for layer in api.list_layers(network) if layer.stage == "activation"]
    names = names or [layer.name for layer in api.list_layers(network) if layer.stage == "conv"]
    if not names:
        raise ConfigError(f"{network.name!r} has neither activations nor convolutions; name its layers (--layers)")
    at = np.unique(np.round(np.linspace(0, len(names) - 1, min(MANY, len(names)))).astype(int))
    return [names[int(one)] for one in at]


def _parameter(neural: xr.Dataset, level: str | None) -> str:
    if level is not None:
        known = [str(name) for name, one in neural.coords.items() if one.dims == ("trial",) and name != "trial"]
        return choose(level, known, "level")
    for name in LEVELS:
        if name in neural.coords and len(_distinct(neural[name].values)) > 1:
            return name
    raise DataError("all trials show the same stimulus; tuning and match need two or more; choose another file")


def _distinct(values: np.ndarray) -> np.ndarray:
    return np.unique(values[values != ""] if values.dtype.kind == "U" else values[np.isfinite(values)])


def _by_stimulus(neural: xr.Dataset, parameter: str) -> xr.DataArray:
    """The parameter of each stimulus, as its trials say; an error where they differ."""
    ids, first, row = np.unique(neural["stimulus"].values.astype(str), return_index=True, return_inverse=True)
    values = neural[parameter].values
    of_stimulus = values[first]
    same = (values == of_stimulus[row]) | ((values != values) & (of_stimulus[row] != of_stimulus[row]))
    if not same.all():
        where = ids[row[np.flatnonzero(~same)[0]]]
        raise DataError(
            f"{parameter!r} is no property of the stimuli: trials of stimulus {str(where)[:12]!r} have several values; "
            "choose another level"
        )
    return xr.DataArray(of_stimulus, {"stimulus": ids}, "stimulus", name=parameter)


def _facts(
    source: str | Path, model: str, neural: xr.Dataset, stimuli: Stimuli, layers: list[str], parameter: str,
    permutations: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    conditions = sorted(set(neural["condition"].values.tolist())) if "condition" in neural.coords else []
    limits = [
        "Every neuron and filter counts once; neurons of one recording are not independent samples of an area.",
        "No layer is chosen here: the best layer on these stimuli would be best by chance too.",
        "Indices of tuning are biased upward by noise; each is to be read against its floor (levels permuted). A "
        "network has no trial noise: its floor comes from the spread over stimuli of a level.",
    ]
    if len(conditions) > 1:
        limits.append(f"For tuning and match, trials of the conditions {', '.join(conditions)} were averaged.")
    if neural.attrs.get("found"):
        limits.append(f"The reader noticed: {neural.attrs['found']}.")
    return {
        "title": f"{model} and the neurons of {Path(source).name}",
        "lead": f"{neural.sizes['unit']} neurons and the filters of {len(layers)} layers, on the same "
        f"{len(stimuli)} images.",
        "rows": [
            {"what": "recording", "value": Path(source).name},
            {"what": "trials", "value": neural.sizes["trial"]},
            {"what": "responses", "value": f"{neural.attrs.get('units', '')}, {neural.attrs.get('window', '')}"},
            {"what": "baseline", "value": str(neural.attrs.get("baseline", ""))},
            {"what": "network", "value": model},
            {"what": "layers", "value": ", ".join(layers)},
            {"what": "tuning over", "value": parameter},
            {"what": "permutations for floors", "value": permutations},
            {"what": "seed", "value": seed},
        ],
        "methods": {name: METHODS[name] for name in METHODS_SHOWN},
        "limits": limits,
    }
