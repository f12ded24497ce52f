"""How well each unit tells targets from distractors. A filter is a neuron: recorded neurons take the same path."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import xarray as xr

from featattn_neuro.arrays import discrimination
from featattn_neuro.errors import DataError, SchemaError, choose
from featattn_neuro.measures._join import aligned, layers_of, source_ids, without_scalars
from featattn_neuro.schema import ACTIVATIONS, CONSTITUENT_SEPARATOR, NEURAL, SELECTIVITY

UNIT_COORDINATES = ("unit", "layer", "channel", "call", "stage", "y", "x", "node")
"""Coordinates of units that measures keep, where they are there."""

LIVE_SHARE = 1e-12
"""A filter is live if its variance exceeds this share of the largest in its layer, in each class of every task."""


def selectivity(
    activations: xr.Dataset,
    target: str | int | Sequence[str | int] | xr.DataArray,
    *,
    permutations: int = 0,
    seed: int = 0,
) -> xr.Dataset:
    """d' and ROC area of every unit for one task or several.

    Parameters
    ----------
    activations : ACTIVATIONS, response(stimulus, unit). With several reductions, select one first. Recordings with
        trials (NEURAL) go through `average_trials` first.
    target : what counts as a target. A label value is compared with the coordinate `label` (composites "a|b" are
        targets of both a and b); several label values make a task each; a boolean DataArray over `stimulus`, or over
        (task, stimulus), is matched by stimulus id, in any order.
    permutations : label permutations for the floor of |d'| (`dprime_floor`); 0 = not computed.
    seed : seed of those permutations.

    Returns
    -------
    SELECTIVITY over (unit) or (task, unit): `dprime` (rms, in SDs, signed), `auc` in [0, 1], `status` (why d' is
    undefined; then it is NaN, never 0), `auc_low`, `auc_high` (95 % DeLong; NaN where the area is 0 or 1, since its
    variance is then 0; `interval_status` says so), `n_target`, `n_distractor`, `mean_response`, `sd_response` (ddof 1),
    `zero_fraction`, `live` (variance above 1e-12 of the layer's largest in each class of every task),
    `selection_source` (source stimuli), and `leverage_dprime` where the activations carry `leverage`.

    Raises
    ------
    DataError : ids differ, target is not boolean, several reductions; ConfigError : unknown label value.

    Notes
    -----
    d_a: Simpson & Fitter 1973; ROC area by mid-ranks: Bamber 1975; interval: DeLong et al. 1988.

    >>> import xarray as xr
    >>> unit = {"unit": ["conv/0"], "layer": ("unit", ["conv"]), "channel": ("unit", [0])}
    >>> stimulus = {"stimulus": list("abcd"), "label": ("stimulus", ["cat", "cat", "dog", "dog"])}
    >>> responses = (("stimulus", "unit"), [[3.0], [5.0], [1.0], [3.0]])
    >>> recorded = xr.Dataset({"response": responses}, unit | stimulus)
    >>> found = selectivity(recorded, "cat")
    >>> float(found.auc[0]), round(float(found.dprime[0]), 3)  # 3.5 of 4 pairs; (4 - 2)/sqrt 2
    (0.875, 1.414)
    """
    recorded = single_reduction(checked_activations(activations))
    wanted = resolve_target(recorded, target)
    stimuli = recorded["stimulus"].values
    chosen = wanted.values
    responses = recorded["response"].transpose("unit", "stimulus").values
    dims = (*wanted.dims[:-1], "unit")
    auc, status = discrimination.roc_area(responses, chosen), discrimination.status_codes(responses, chosen)
    low, high = discrimination.delong_interval(responses, chosen)
    values = {
        "dprime": (dims, discrimination.dprime(responses, chosen)),
        "auc": (dims, auc),
        "status": (dims, status),
        "interval_status": (dims, np.where(np.isfinite(auc) & np.isnan(low), "constant", status)),
        "auc_low": (dims, low),
        "auc_high": (dims, high),
        "n_target": (dims[:-1], chosen.sum(axis=-1)),
        "n_distractor": (dims[:-1], (~chosen).sum(axis=-1)),
        "live": ("unit", live_units(recorded, discrimination.class_variances(responses, chosen))),
        "selection_source": ("source", source_ids(recorded)),
        **_response_summary(responses),
    }
    if permutations:
        rng = np.random.default_rng(seed)
        floor = discrimination.dprime_floor(responses, chosen, permutations=permutations, rng=rng)
        values["dprime_floor"] = (dims, floor)
    if "leverage" in recorded:
        leverage = _matching_leverage(recorded["leverage"], wanted, target).transpose(..., "unit", "stimulus").values
        if leverage.ndim == 3:
            pairs = zip(leverage, chosen, strict=True)
            values["leverage_dprime"] = (dims, np.stack([discrimination.dprime(one, mine) for one, mine in pairs]))
        else:
            values["leverage_dprime"] = (dims, discrimination.dprime(leverage, chosen))
    names = [n for n in UNIT_COORDINATES if n in recorded.coords]
    coordinates = {name: recorded[name] for name in names} | ({"task": wanted["task"]} if wanted.ndim == 2 else {})
    attributes: dict[str, str | int] = {
        "n_stimuli": int(stimuli.size),
        "permutations": int(permutations),
        "seed": int(seed),
    }
    if not isinstance(target, xr.DataArray):
        attributes["target"] = str(target)
    return SELECTIVITY.check(xr.Dataset(values, coordinates, attributes))


def targets_from_labels(labels: xr.Dataset | xr.DataArray, tasks: Iterable[str | int]) -> xr.DataArray:
    """Boolean (task, stimulus): which stimuli show each class; a composite labelled "a|b" shows a and b.

    Parameters
    ----------
    labels : a Dataset with the coordinate `label` over `stimulus`, or that DataArray itself.
    tasks : class names, which become the names of the tasks. Each must occur.

    >>> import xarray as xr
    >>> shown = xr.DataArray(["cat|dog", "cow"], {"stimulus": ["x", "y"]}, "stimulus")
    >>> targets_from_labels(shown, ["dog", "cow"]).values.tolist()
    [[True, False], [False, True]]
    """
    texts = _labels(labels) if isinstance(labels, xr.Dataset) else labels
    if texts.dims != ("stimulus",) or "stimulus" not in texts.coords:
        raise DataError(f"labels must be over 'stimulus' with stimulus ids; came dimensions {texts.dims}")
    parts = [set(str(text).split(CONSTITUENT_SEPARATOR)) for text in texts.values]
    known = sorted({*set().union(*parts), *(str(text) for text in texts.values)})
    names = [choose(str(task), known, "label") for task in tasks]
    values = [
        [name in part or name == str(text) for part, text in zip(parts, texts.values, strict=True)] for name in names
    ]
    coordinates = {"task": names, "stimulus": texts["stimulus"].values}
    return xr.DataArray(np.array(values, dtype=bool), coordinates, ("task", "stimulus"), name="target")


def average_trials(neural: xr.Dataset) -> xr.Dataset:
    """Mean response of each neuron to each stimulus: a recording with trials as ACTIVATIONS.

    Parameters
    ----------
    neural : NEURAL, response(trial, unit).

    Returns
    -------
    ACTIVATIONS: response(stimulus, unit) in the units of the recording; NaN where a neuron was never recorded with a
    stimulus. `layer` is the brain area ("unknown" where the recording names none), `channel` counts the neurons of an
    area from 0. Stimuli are sorted by id.

    >>> import xarray as xr
    >>> trials = {"trial": [0, 1, 2], "unit": ["V4/1"], "stimulus": ("trial", ["b", "b", "a"])}
    >>> spikes = xr.Dataset({"response": (("trial", "unit"), [[1.0], [3.0], [5.0]])}, trials)
    >>> average_trials(spikes).response.values.tolist()
    [[5.0], [2.0]]
    """
    recorded = NEURAL.check(without_scalars(neural))
    names, row = np.unique(recorded["stimulus"].values.astype(str), return_inverse=True)
    values = np.asarray(recorded["response"].values, dtype=np.float64)
    seen = np.isfinite(values)
    sums, counts = (np.zeros((names.size, values.shape[1])) for _ in range(2))
    np.add.at(sums, row, np.where(seen, values, 0.0))
    np.add.at(counts, row, seen.astype(np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        means = np.where(counts > 0, sums / counts, np.nan)
    area = recorded["area"].values.astype(str) if "area" in recorded.coords else np.full(values.shape[1], "unknown")
    channel = np.zeros(area.size, dtype=np.int64)
    for name in np.unique(area):
        channel[area == name] = np.arange((area == name).sum())
    coordinates = {"stimulus": names, "unit": recorded["unit"].values.astype(str)}
    result = xr.Dataset({"response": (("stimulus", "unit"), means)}, coordinates)
    return ACTIVATIONS.check(result.assign_coords(layer=("unit", area), channel=("unit", channel)))


def checked_activations(dataset: xr.Dataset) -> xr.Dataset:
    if getattr(dataset, "attrs", {}).get("kind") == "NEURAL":
        raise SchemaError(
            "wanted a Dataset of kind ACTIVATIONS; came kind NEURAL, which has trials; call average_trials(neural)"
        )
    return ACTIVATIONS.check(without_scalars(dataset))


def single_reduction(recorded: xr.Dataset) -> xr.Dataset:
    if "reduction" not in recorded.dims:
        return recorded
    if recorded.sizes["reduction"] > 1:
        names = [str(name) for name in recorded["reduction"].values]
        raise DataError(
            f"the activations hold {len(names)} reductions ({', '.join(names)}); wanted one; "
            f"select it first: activations.sel(reduction={names[0]!r})"
        )
    return recorded.isel(reduction=0, drop=True)


def _labels(recorded: xr.Dataset) -> xr.DataArray:
    if "label" not in recorded.coords:
        raise DataError(
            "a label value was given as target, but the activations have no coordinate 'label'; "
            "record labelled stimuli, or pass a boolean DataArray over 'stimulus'"
        )
    return recorded["label"]


def resolve_target(recorded: xr.Dataset, target: str | int | Sequence[str | int] | xr.DataArray) -> xr.DataArray:
    """Boolean DataArray over (stimulus) or (task, stimulus) in the order of the recording."""
    if isinstance(target, str | int | np.integer) and not isinstance(target, bool):
        return targets_from_labels(_labels(recorded), [str(target)]).isel(task=0, drop=True)
    if isinstance(target, list | tuple) and target:
        return targets_from_labels(_labels(recorded), [str(one) for one in target])
    if not isinstance(target, xr.DataArray):
        raise DataError(
            "target must be a label value, several of them, or a boolean DataArray over 'stimulus' or "
            f"('task', 'stimulus'), which is matched by stimulus id; came {type(target).__name__}"
        )
    if set(target.dims) not in ({"stimulus"}, {"task", "stimulus"}) or target.dtype != bool:
        raise DataError(
            "target must be boolean over 'stimulus' or ('task', 'stimulus'); came "
            f"{target.dtype} over {target.dims}; compare it with a value, or rename its dimensions"
        )
    if "task" in target.dims and "task" not in target.coords:
        raise DataError("target has a dimension 'task' without names; give it the coordinate 'task'")
    target = target.drop_vars([c for c in target.coords if c not in ("task", "stimulus")])
    target = target if "task" in target.dims else target.drop_vars("task", errors="ignore")
    ids = recorded["stimulus"].values
    result = aligned(target, "stimulus", ids, name="the target", to="the activations").transpose(..., "stimulus")
    if result.ndim == 2:
        result = result.assign_coords(task=result["task"].values.astype(str))
    return result


def _matching_leverage(
    leverage: xr.DataArray, wanted: xr.DataArray, target: str | int | Sequence[str | int] | xr.DataArray
) -> xr.DataArray:
    """The leverage of the same tasks, in the same order."""
    if wanted.ndim == 2:
        if "task" not in leverage.dims:
            raise DataError(
                "the target has several tasks but leverage has no dimension 'task'; record leverage per task"
            )
        return aligned(leverage, "task", wanted["task"].values, name="the leverage", to="the target")
    if "task" not in leverage.dims:
        return leverage
    if isinstance(target, xr.DataArray):
        raise DataError("leverage has a dimension 'task'; pass the target as a DataArray over ('task', 'stimulus')")
    name = choose(str(target), [str(t) for t in leverage["task"].values], "task of the leverage")
    return leverage.sel(task=name, drop=True)


def live_units(units: xr.Dataset, variances: np.ndarray) -> np.ndarray:
    """1 where a filter's variance (..., unit) is above the floor in each class of every task, else 0."""
    rows = variances.reshape(-1, variances.shape[-1])
    layer = units["layer"].values.astype(str)
    live = np.zeros(rows.shape[-1], dtype=np.int64)
    for name in layers_of(units):
        members = layer == name
        inside = np.where(np.isfinite(rows[:, members]), rows[:, members], 0.0)
        live[members] = (inside > LIVE_SHARE * inside.max(axis=1, keepdims=True)).all(axis=0)
    return live


def _response_summary(responses: np.ndarray) -> dict[str, tuple[str, np.ndarray]]:
    values = np.asarray(responses, dtype=np.float64)
    sd = values.std(axis=1, ddof=1) if values.shape[1] > 1 else np.full(values.shape[0], np.nan)
    return {
        "mean_response": ("unit", values.mean(axis=1)),
        "sd_response": ("unit", sd),
        "zero_fraction": ("unit", (values == 0).mean(axis=1)),
    }
