"""How well each unit tells targets from distractors. A filter is a neuron: recorded neurons take the same path."""

from __future__ import annotations

import numpy as np
import xarray as xr

from featattn_neuro.arrays import discrimination
from featattn_neuro.errors import ConfigError, DataError, SchemaError, choose
from featattn_neuro.measures._join import aligned, layers_of, source_ids, without_scalars
from featattn_neuro.measures._selectivity_table import FAMILIES, Table, measure_blocks
from featattn_neuro.measures.contrasts import Contrasts, Target, contrasts, resolve_target, targets_from_labels
from featattn_neuro.schema import ACTIVATIONS, CONSTITUENT_SEPARATOR, NEURAL, SELECTIVITY

__all__ = [
    "LIVE_SHARE",
    "UNIT_COORDINATES",
    "average_trials",
    "checked_activations",
    "live_units",
    "resolve_target",
    "selectivity",
    "single_reduction",
    "targets_from_labels",
    "trials_as_stimuli",
]

UNIT_COORDINATES = ("unit", "layer", "channel", "call", "stage", "y", "x", "node")
"""Coordinates of units that measures keep, where they are there."""

LIVE_SHARE = 1e-12
"""A filter is live if its variance exceeds this share of the largest in its layer, in each class of every task."""

INTERVALS = ("noncentral_t", "bootstrap")
CORRECTIONS = ("max", "holm", "bh", "by", "bonferroni")


def selectivity(
    activations: xr.Dataset,
    target: Target = None,
    *,
    pairs: bool = False,
    permutations: int = 0,
    seed: int = 0,
    family: str | None = None,
    correction: str = "max",
    interval: str | None = None,
    observations: str = "trial",
) -> xr.Dataset:
    """d' and ROC area of every unit for one task or many: one table, one call.

    Parameters
    ----------
    activations : ACTIVATIONS, response(stimulus, unit), in memory or opened lazily (then larger than memory: units go
        by in blocks); with several reductions, select one first. Or NEURAL, response(trial, unit).
    target : what counts as a target. None = every label against the rest, a task each. A label value (composites "a|b"
        are targets of both a and b); several label values, a task each, against the rest; a mapping of contrasts by
        name, {"animal": (["cat", "dog"], ["car"])}, targets and distractors, other stimuli left out; a boolean
        DataArray over `stimulus`, or over (task, stimulus), matched by stimulus id, in any order.
    pairs : compare every two labels (of those in `target`, or of all); tasks are named "a vs b", a being the target.
    permutations : label permutations for the floors, and for p; 0 = none.
    seed : of permutations and bootstrap.
    family : None = no p-values. Which tests are corrected together: "all", "task" (all units of a task), "layer" (all
        tasks of a layer's units) or "task_layer". Needs permutations.
    correction : "max" against the largest value in the family under each permutation (Westfall & Young), which knows
        how units depend on each other; "holm", "bonferroni", "bh", "by" of the permutation p.
    interval : of d': "noncentral_t" (classes about Gaussian), "bootstrap" (BCa; 15 stimuli or more a class), None.
    observations : of NEURAL: "trial" = single trials, their stimulus as label (target may be a DataArray over
        `stimulus`); "stimulus" = mean over the trials of each. A trial on which a unit was not recorded (NaN) is left
        out for that unit. Intervals over trials speak of the stimuli that were shown, not of others of their class.

    Returns
    -------
    SELECTIVITY over (unit) or (task, unit): `dprime` (rms, in SDs, signed), `auc` in [0, 1], `status` (why d' is
    undefined; then it is NaN, never 0), `auc_low`, `auc_high` (95 %, see `arrays.area_interval`; NaN where the area is
    0 or 1, since its variance is then 0; `interval_status` says so), `n_target`, `n_distractor`, `mean_response`,
    `sd_response` (ddof 1), `zero_fraction`, `live` (variance above 1e-12 of the layer's largest in each class of every
    task), `n_nonfinite` and `first_nonfinite` (how many responses are NaN or infinite; the first such stimulus),
    `selection_source` (source stimuli), `leverage_dprime` (d' of the leverage over the same stimuli as `dprime`) where
    the activations carry `leverage`, `eta_squared` where
    tasks are labels. With permutations `dprime_floor`, `auc_floor` (mean |d'|, |area - .5|); with a family also
    `dprime_p`, `auc_p`, `dprime_p_corrected`, `auc_p_corrected`, `family` (its name) and `family_size` (m, tests that
    are defined). With an interval `dprime_low`, `dprime_high` (95 %).

    Raises
    ------
    DataError : ids differ, target is not boolean, several reductions; a family is asked for where stimuli share
    sources (exchanging labels of composites is then no null: 25 % false positives) or where classes of several
    stimuli are compared by trials that repeat them; bootstrap of a small class.
    ConfigError : unknown label value or option, a family without permutations.

    Notes
    -----
    d_a: Simpson & Fitter 1973; ROC area by mid-ranks: Bamber 1975; interval: DeLong et al. 1988, adjusted as
    Agresti & Coull 1998; p: Phipson & Smyth 2010; maximum: Westfall & Young 1993.

    >>> import xarray as xr
    >>> unit = {"unit": ["conv/0"], "layer": ("unit", ["conv"]), "channel": ("unit", [0])}
    >>> stimulus = {"stimulus": list("abcd"), "label": ("stimulus", ["cat", "cat", "dog", "dog"])}
    >>> responses = (("stimulus", "unit"), [[3.0], [5.0], [1.0], [3.0]])
    >>> recorded = xr.Dataset({"response": responses}, unit | stimulus)
    >>> found = selectivity(recorded, "cat")
    >>> float(found.auc[0]), round(float(found.dprime[0]), 3)  # 3.5 of 4 pairs; (4 - 2)/sqrt 2
    (0.875, 1.414)
    >>> selectivity(recorded).task.values.tolist(), selectivity(recorded, pairs=True).task.values.tolist()
    (['cat', 'dog'], ['cat vs dog'])
    """
    _check_options(permutations, family, correction, interval)
    choose(observations, ("trial", "stimulus"), "observations")
    recorded, target, neural = _recorded(activations, target, observations)
    tasks = contrasts(recorded, target, pairs=pairs)
    if family is not None:
        _refuse_shared_sources(recorded)
        _refuse_repeats(recorded, tasks)
    table = measure_blocks(
        recorded, tasks, neural=neural, permutations=permutations, seed=seed, family=family, correction=correction,
        interval=interval,
    )  # fmt: skip
    return _labelled(recorded, table, target, tasks, permutations=permutations, seed=seed)


def _labelled(
    recorded: xr.Dataset, table: Table, target: Target, tasks: Contrasts, *, permutations: int, seed: int
) -> xr.Dataset:
    values = dict(table.variables)
    values["live"] = ("unit", live_units(recorded, table.class_variances))
    sources = "label" if recorded.attrs.get("observations") == "trial" else "stimulus"
    values["selection_source"] = (
        "source", np.unique(recorded[sources].values.astype(str)) if sources == "label" else source_ids(recorded)
    )  # fmt: skip
    if "leverage" in recorded:
        wanted = table.wanted if tasks.names is not None else table.wanted.isel(task=0, drop=True)
        leverage = _matching_leverage(recorded["leverage"], wanted, target).transpose(..., "unit", "stimulus").values
        each = leverage if leverage.ndim == 3 else leverage[None]
        among = [None] * len(each) if tasks.among is None else tasks.among  # stimuli of the contrast, as for d'
        found = [
            discrimination.dprime(one, mine, among=part)
            for one, mine, part in zip(each, tasks.wanted, among, strict=True)
        ]
        one_task = tasks.names is None
        values["leverage_dprime"] = ("unit", found[0]) if one_task else (("task", "unit"), np.stack(found))
    names = [n for n in UNIT_COORDINATES if n in recorded.coords]
    coordinates = {name: recorded[name] for name in names}
    if tasks.names is not None:
        coordinates["task"] = xr.DataArray(tasks.names, dims="task")
    attributes: dict[str, str | int] = {
        "n_stimuli": int(recorded.sizes["stimulus"]),
        "permutations": int(permutations),
        "seed": int(seed),
        **table.attributes,
    }
    if "observations" in recorded.attrs:
        attributes["observations"] = str(recorded.attrs["observations"])
    if isinstance(target, str | int | np.integer | list | tuple):
        attributes["target"] = str(target)
    return SELECTIVITY.check(xr.Dataset(values, coordinates, attributes))


def _check_options(permutations: int, family: str | None, correction: str, interval: str | None) -> None:
    if permutations < 0:
        raise ConfigError(f"permutations must be 0 or more; came {permutations}")
    choose(correction, CORRECTIONS, "correction")
    if interval is not None:
        choose(interval, INTERVALS, "interval of d'")
    if family is not None:
        choose(family, FAMILIES, "family of tests")
        if permutations < 1:
            raise ConfigError("p-values come from label permutations; give permutations=999 or more beside family")


def _refuse_shared_sources(recorded: xr.Dataset) -> None:
    if "constituents" not in recorded.coords:
        return
    parts = [set(str(text).split(CONSTITUENT_SEPARATOR)) for text in recorded["constituents"].values]
    names, counts = np.unique([one for part in parts for one in part], return_counts=True)
    if (counts > 1).any():
        raise DataError(
            f"p-values by exchanging labels need stimuli that share no source; {int((counts > 1).sum())} sources are "
            f"in more than one (first: {str(names[counts > 1][0])!r}), where such a test rejects 25 % of true "
            "nulls; use each source once, or leave family out"
        )


def _refuse_repeats(recorded: xr.Dataset, tasks: Contrasts) -> None:
    """Trials of one stimulus are no more exchangeable between classes of stimuli than the stimulus itself is."""
    if recorded.attrs.get("observations") != "trial":
        return
    shown = recorded["label"].values.astype(str)
    for row, wanted in enumerate(tasks.wanted):
        part = np.ones(wanted.size, dtype=bool) if tasks.among is None else tasks.among[row]
        sides = [np.unique(shown[side & part], return_counts=True)[1] for side in (wanted, ~wanted)]
        if min(side.size for side in sides) > 1 and max(side.max() for side in sides) > 1:
            name = "" if tasks.names is None else f" of task {tasks.names[row]!r}"
            raise DataError(
                f"the classes{name} hold {sides[0].size} and {sides[1].size} stimuli that were shown repeatedly; "
                "exchanging labels of single trials would take repeats for independent stimuli (ten repeats: 40 % of "
                "true nulls rejected); pass observations='stimulus', or leave family out"
            )


def _recorded(activations: xr.Dataset, target: Target, observations: str) -> tuple[xr.Dataset, Target, bool]:
    """The recording as response(stimulus, unit), the target in its terms, and whether NaN means not recorded."""
    if getattr(activations, "attrs", {}).get("kind") != "NEURAL":
        return single_reduction(checked_activations(activations)), target, False
    if observations == "stimulus":
        averaged = average_trials(activations)
        return averaged.assign_coords(label=averaged["stimulus"]).assign_attrs(observations="stimulus"), target, True
    trials = trials_as_stimuli(activations)
    if isinstance(target, xr.DataArray) and "stimulus" in target.dims:
        shown = trials["label"].values
        found = aligned(target, "stimulus", np.unique(shown), name="the target", to="the recording")
        target = found.sel(stimulus=shown).assign_coords(stimulus=trials["stimulus"].values)
    return trials, target, True


def trials_as_stimuli(neural: xr.Dataset) -> xr.Dataset:
    """Single trials of a recording as ACTIVATIONS: each trial an observation, labelled by the stimulus it showed.

    Parameters
    ----------
    neural : NEURAL, response(trial, unit).

    Returns
    -------
    ACTIVATIONS : `stimulus` is "trial N", `label` the stimulus; units as in `average_trials`; NaN = not recorded.

    >>> import xarray as xr
    >>> trials = {"trial": [4, 7], "unit": ["V4/1"], "stimulus": ("trial", ["face", "car"])}
    >>> found = trials_as_stimuli(xr.Dataset({"response": (("trial", "unit"), [[1.0], [3.0]])}, trials))
    >>> found.stimulus.values.tolist(), found.label.values.tolist()
    (['trial 4', 'trial 7'], ['face', 'car'])
    """
    recorded = NEURAL.check(without_scalars(neural))
    names = [f"trial {int(one)}" for one in recorded["trial"].values]
    shown = recorded["stimulus"].values.astype(str)
    response = (("stimulus", "unit"), recorded["response"].transpose("trial", "unit").variable.data)
    result = xr.Dataset(
        {"response": response},
        {"stimulus": names, "label": ("stimulus", shown), **_neuron_coordinates(recorded)},
        {"observations": "trial"},
    )
    return ACTIVATIONS.check(result)


def _neuron_coordinates(recorded: xr.Dataset) -> dict[str, tuple[str, np.ndarray]]:
    """`unit`, its area as layer ("unknown" where the recording names none), and its number within the area."""
    area = recorded["area"].values.astype(str) if "area" in recorded.coords else None
    area = np.full(recorded.sizes["unit"], "unknown") if area is None else area
    channel = np.zeros(area.size, dtype=np.int64)
    for name in np.unique(area):
        channel[area == name] = np.arange((area == name).sum())
    unit = recorded["unit"].values.astype(str)
    return {"unit": ("unit", unit), "layer": ("unit", area), "channel": ("unit", channel)}


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

    Raises
    ------
    SchemaError : not of kind NEURAL.

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
    coordinates = {"stimulus": names, **_neuron_coordinates(recorded)}
    return ACTIVATIONS.check(xr.Dataset({"response": (("stimulus", "unit"), means)}, coordinates))


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


def _matching_leverage(leverage: xr.DataArray, wanted: xr.DataArray, target: Target) -> xr.DataArray:
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
