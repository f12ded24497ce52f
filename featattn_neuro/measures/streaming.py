"""d' of any number of stimuli from moments: recordings never stored, shards that merge, lazily opened files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from featattn_neuro.arrays import moments as kernel
from featattn_neuro.arrays.intervals import noncentral_t_interval
from featattn_neuro.arrays.moments import FIELDS, ClassMoments
from featattn_neuro.errors import DataError, choose
from featattn_neuro.measures._join import same_ids, single, source_ids, without_scalars
from featattn_neuro.measures.contrasts import label_names
from featattn_neuro.measures.selectivity import (
    UNIT_COORDINATES,
    checked_activations,
    live_units,
    resolve_target,
    single_reduction,
    targets_from_labels,
)
from featattn_neuro.schema import CONSTITUENT_SEPARATOR, MOMENTS, SELECTIVITY

NO_AREA = "not computed: the ROC area needs the order of the stored responses; record them and call selectivity"
"""Why `auc` is NaN in a SELECTIVITY that was made from moments: its attribute `reason`."""


def class_moments(
    activations: xr.Dataset, target: str | int | xr.DataArray | None = None, *, block: int = 1024
) -> xr.Dataset:
    """Sum a recording up per group of stimuli, a block of stimuli at a time.

    Parameters
    ----------
    activations : ACTIVATIONS, response(stimulus, unit); lazily opened ones are read block by block.
    target : None = one group per `label`. A label value, or a boolean DataArray over `stimulus` or (task, stimulus),
        as in `selectivity` = the two sides, target and distractor, of each task.
    block : stimuli read at a time.

    Returns
    -------
    MOMENTS over (group, unit), float64, in the units of the responses; memory does not grow with the stimuli, but for
    their ids.

    Raises
    ------
    DataError : no labels, ids of target and recording differ, several reductions. ConfigError : unknown label value.

    >>> unit = {"unit": ["conv/0"], "layer": ("unit", ["conv"]), "channel": ("unit", [0])}
    >>> stimulus = {"stimulus": list("abcd"), "label": ("stimulus", ["cat", "cat", "dog", "dog"])}
    >>> recorded = xr.Dataset({"response": (("stimulus", "unit"), [[3.0], [5.0], [1.0], [3.0]])}, unit | stimulus)
    >>> found = class_moments(recorded)
    >>> found["mean"].values.ravel().tolist(), found.m2.values.ravel().tolist()
    ([4.0, 2.0], [2.0, 2.0])
    """
    if block < 1:
        raise DataError(f"block must be at least 1 stimulus; came {block}")
    recorded = single_reduction(checked_activations(activations))
    groups, member = _groups(recorded, target)
    found = ClassMoments(member.shape[0], (recorded.sizes["unit"],))
    response = recorded["response"].transpose("unit", "stimulus")
    for start in range(0, recorded.sizes["stimulus"], block):
        found.update(response[:, start : start + block].values, member[:, start : start + block])
    variables = {
        name: ("group" if name == "count" else ("group", "unit"), values) for name, values in found.arrays().items()
    }
    ids = {"stimulus_id": ("observation", recorded["stimulus"].values.astype(str))}
    if "constituents" in recorded.coords:
        ids["constituents"] = ("observation", recorded["constituents"].values.astype(str))
    units = {name: recorded[name] for name in UNIT_COORDINATES if name in recorded.coords}
    return MOMENTS.check(xr.Dataset(variables | ids, groups | units, recorded.attrs | {"kind": "MOMENTS"}))


def merge_moments(first: xr.Dataset, *others: xr.Dataset) -> xr.Dataset:
    """Join the moments of parts of a stimulus set: shards, machines, sessions. Any split merges to the whole.

    Parameters
    ----------
    first, others : MOMENTS of the same units (matched by id, in any order) and reductions. Groups are matched by name;
        a group that a part does not have is empty there.

    Returns
    -------
    MOMENTS of all stimuli, with the attributes of the first part; `n_skipped` is the sum.

    Raises
    ------
    DataError : a stimulus in two parts, which would count twice; different units; labels mixed with tasks; parts that
        say that they are of other weights, or were reduced, preprocessed or computed in another way.

    Notes
    -----
    Chan, Golub & LeVeque 1983.
    """
    parts = [MOMENTS.check(without_scalars(part)) for part in (first, *others)]
    _check_disjoint([part["stimulus_id"].values.astype(str) for part in parts])
    for part in parts[1:]:
        for dim in ("unit", "reduction"):
            if (dim in part.dims) != (dim in parts[0].dims):
                raise DataError(f"only some of the moments have a dimension {dim!r}; select the same in all first")
            if dim in part.dims:
                same_ids(
                    parts[0][dim].values, part[dim].values, what=dim, wanted_name="the first", came_name="another part"
                )
        if ("side" in part.coords) != ("side" in parts[0].coords):
            raise DataError("some moments are per label and some per task; sum all parts up in the same way")
        if ("constituents" in part) != ("constituents" in parts[0]):
            raise DataError(
                "only some of the moments name the constituents of their stimuli; sum all up in the same way"
            )
    skipped = _made_alike([part.attrs for part in parts])
    names = list(dict.fromkeys(str(name) for part in parts for name in part["group"].values))
    units, lead = parts[0]["unit"].values, parts[0]["mean"].dims[:-2]
    merged: ClassMoments | None = None
    for part in parts:
        ordered = part.sel({"unit": units} | {dim: parts[0][dim].values for dim in lead})
        found = _spread(_state(ordered), ordered["group"].values.astype(str), names)
        merged = found if merged is None else merged.merge(found)
    assert merged is not None
    variables = {
        name: ("group" if name == "count" else ("group", *lead, "unit"), values)
        for name, values in merged.arrays().items()
    }
    for name in ("stimulus_id", "constituents"):
        if name in parts[0]:
            variables[name] = ("observation", np.concatenate([part[name].values.astype(str) for part in parts]))
    coordinates: dict[str, Any] = {n: parts[0][n] for n in (*UNIT_COORDINATES, "reduction") if n in parts[0].coords}
    coordinates |= _group_coordinates(parts, names)
    return MOMENTS.check(xr.Dataset(variables, coordinates, parts[0].attrs | skipped))


def selectivity_from_moments(
    moments: xr.Dataset, target: str | int | Iterable[str | int] | None = None, *, interval: str | None = None
) -> xr.Dataset:
    """d' of every unit for one task or several, from moments: what `selectivity` gives on the stored recording.

    Parameters
    ----------
    moments : MOMENTS of one reduction.
    target : a label value or task name; several give a dimension `task`; None = every one that the moments have
        (composites "a|b" are targets of both a and b). One unnamed task needs none.
    interval : "noncentral_t" adds the 95 % interval of d' (`dprime_low`, `dprime_high`), as in `selectivity`; None. A
        bootstrap needs the responses.

    Returns
    -------
    SELECTIVITY over (unit) or (task, unit): `dprime` (rms, in SDs, signed), `status`, `n_target`, `n_distractor`,
    `mean_response`, `sd_response` (ddof 1), `zero_fraction`, `live`, `selection_source`, all as in `selectivity`
    (d' to 1e-10). `auc` is NaN throughout and its attribute `reason` says why: moments do not hold the order of
    responses.

    Raises
    ------
    ConfigError : unknown label or task, or none. DataError : several reductions.

    >>> unit = {"unit": ["conv/0"], "layer": ("unit", ["conv"]), "channel": ("unit", [0])}
    >>> stimulus = {"stimulus": list("abcd"), "label": ("stimulus", ["cat", "cat", "dog", "dog"])}
    >>> recorded = xr.Dataset({"response": (("stimulus", "unit"), [[3.0], [5.0], [1.0], [3.0]])}, unit | stimulus)
    >>> found = selectivity_from_moments(class_moments(recorded), "cat")
    >>> round(float(found.dprime[0]), 3), bool(found.auc.isnull().all())  # (4 - 2)/sqrt 2
    (1.414, True)
    """
    checked = single(MOMENTS.check(without_scalars(moments)), ["reduction"], name="the moments")
    tasks, chosen, other = _sides(checked, target)
    state = _state(checked)
    everything = state.pooled(chosen[:1] | other[:1]).compute()
    sides = [state.pooled(side).compute() for side in (chosen, other)]
    dims = ("task", "unit") if tasks is not None else ("unit",)
    keep = slice(None) if tasks is not None else 0
    dprime = kernel.dprime(state, chosen, other)
    values = {
        "dprime": (dims, dprime[keep]),
        "auc": (dims, np.full_like(dprime[keep], np.nan), {"reason": NO_AREA}),
        "status": (dims, kernel.status_codes(state, chosen, other)[keep]),
        "n_target": (dims[:-1], sides[0].count[keep]),
        "n_distractor": (dims[:-1], sides[1].count[keep]),
        "mean_response": ("unit", everything.mean[0]),
        "sd_response": ("unit", np.sqrt(everything.variance[0])),
        "zero_fraction": ("unit", everything.zero_fraction[0]),
        "live": ("unit", live_units(checked, np.stack([side.variance for side in sides]))),
        "selection_source": ("source", _sources(checked)),
    }
    if interval is not None:
        choose(interval, ("noncentral_t",), "interval of d' from moments")
        counts = [side.count[:, None] for side in sides]
        ends = noncentral_t_interval(dprime, *counts, *(side.variance for side in sides))
        values |= {"dprime_low": (dims, ends.low[keep]), "dprime_high": (dims, ends.high[keep])}
    coordinates: dict[str, Any] = {name: checked[name] for name in UNIT_COORDINATES if name in checked.coords}
    if tasks is not None:
        coordinates["task"] = ("task", tasks)
    attributes: dict[str, str | int] = {"n_stimuli": int(everything.count[0]), "method": "moments"}
    if interval is not None:
        attributes["dprime_interval"] = interval
    if isinstance(target, str | int | np.integer):
        attributes["target"] = str(target)
    return SELECTIVITY.check(xr.Dataset(values, coordinates, attributes))


def _groups(recorded: xr.Dataset, target: str | int | xr.DataArray | None) -> tuple[dict, np.ndarray]:
    """Coordinates of the groups, and which stimuli belong to each."""
    if target is None:
        if "label" not in recorded.coords:
            raise DataError("the activations have no coordinate 'label'; give target, or record labelled stimuli")
        labels = recorded["label"].values.astype(str)
        names = np.unique(labels)
        return {"group": names}, labels == names[:, None]
    wanted = resolve_target(recorded, target)
    member = np.atleast_2d(wanted.values)
    tasks = wanted["task"].values.tolist() if wanted.ndim == 2 else None
    return _side_coordinates(tasks), np.stack([member, ~member], axis=1).reshape(-1, member.shape[1])


def _side_coordinates(tasks: list[str] | None) -> dict[str, tuple[str, list[str]]]:
    """Names of the two sides of each task; of one unnamed task where there are no names."""
    sides = ["target", "distractor"] * len(tasks or [""])
    if tasks is None:
        return {"group": ("group", sides), "side": ("group", sides)}
    twice = [task for task in tasks for _ in range(2)]
    named = [f"{task}: {side}" for task, side in zip(twice, sides, strict=True)]
    return {"group": ("group", named), "task": ("group", twice), "side": ("group", sides)}


def _state(checked: xr.Dataset) -> ClassMoments:
    return ClassMoments.from_arrays({name: checked[name].transpose("group", ...).values for name in FIELDS})


def _spread(found: ClassMoments, mine: np.ndarray, names: list[str]) -> ClassMoments:
    """The same moments with one group per name, empty where there is none."""
    return found.pooled(np.array(names)[:, None] == mine)


def _check_disjoint(ids: list[np.ndarray]) -> None:
    joined = np.concatenate(ids)
    names, counts = np.unique(joined, return_counts=True)
    if (counts > 1).any():
        raise DataError(
            f"{int((counts > 1).sum())} stimuli are in the moments more than once "
            f"(first: {str(names[counts > 1][0])!r}) and would be counted twice; merge parts that share no stimulus"
        )


_ALIKE = ("network_name", "reduction", "preprocessing", "compute_dtype", "channel_rule")


def _made_alike(attrs: list[Mapping[str, Any]]) -> dict[str, int]:
    """`DataError` where parts say that they were made in other ways; what none or one of them says passes. Returns the
    attribute that counts the stimuli left out.
    """
    for name in _ALIKE:
        _check_alike(name, [one[name] for one in attrs if name in one])
    stored = [json.loads(str(one.get("recording_inputs", "{}"))) for one in attrs]
    weights = [one.get("weights_sha256", inputs.get("weights")) for one, inputs in zip(attrs, stored, strict=True)]
    _check_alike("weights_sha256", [one for one in weights if one is not None])
    counts = [int(one["n_skipped"]) for one in attrs if "n_skipped" in one]
    return {"n_skipped": sum(counts)} if counts else {}


def _check_alike(name: str, values: list[Any]) -> None:
    other = next((value for value in values if value != values[0]), None)
    if other is not None:
        raise DataError(
            f"wanted moments of responses that were made alike; the attribute {name!r} is {values[0]!r} in one part "
            f"and {other!r} in another; sum all parts up in the same way"
        )


def _group_coordinates(parts: list[xr.Dataset], names: list[str]) -> dict[str, tuple[str, list[str]]]:
    found: dict[str, tuple[str, list[str]]] = {"group": ("group", names)}
    for name in ("task", "side"):
        if name in parts[0].coords:
            known = {
                str(group): str(value)
                for part in parts
                for group, value in zip(part["group"].values, part[name].values, strict=True)
            }
            found[name] = ("group", [known[group] for group in names])
    return found


def _sides(
    checked: xr.Dataset, target: str | int | Iterable[str | int] | None
) -> tuple[list[str] | None, np.ndarray, np.ndarray]:
    """Names of the tasks (None: one, without a dimension) and boolean (tasks, groups) of targets and distractors."""
    groups = checked["group"].values.astype(str)
    one = isinstance(target, str | int | np.integer)
    if "side" not in checked.coords:
        labels = xr.DataArray(groups, {"stimulus": groups}, "stimulus")
        parts = sorted({part for group in groups for part in group.split(CONSTITUENT_SEPARATOR)})
        tasks = parts if target is None else label_names(target, "target")
        chosen = targets_from_labels(labels, tasks).values
        return None if one else tasks, chosen, ~chosen
    side = checked["side"].values.astype(str)
    if "task" not in checked.coords:
        if target is not None:
            raise DataError(f"the moments are of one unnamed task; came target {target!r}; leave it out")
        return None, (side == "target")[None], (side == "distractor")[None]
    task = checked["task"].values.astype(str)
    known = list(dict.fromkeys(task.tolist()))
    wanted = known if target is None else label_names(target, "target")
    mine = task == np.array([choose(name, known, "task") for name in wanted])[:, None]
    return None if one else wanted, mine & (side == "target"), mine & (side == "distractor")


def _sources(checked: xr.Dataset) -> np.ndarray:
    names = {"stimulus": checked["stimulus_id"]} | (
        {"constituents": checked["constituents"]} if "constituents" in checked else {}
    )
    return source_ids(xr.Dataset(coords={name: ("stimulus", ids.values) for name, ids in names.items()}))
