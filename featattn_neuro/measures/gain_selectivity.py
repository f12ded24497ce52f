"""Do gains amplify the filters that discriminate best? Rank association within layers, and over networks.

Filters are not independent samples and layers are not pooled: the association is a Spearman correlation within each
layer over live filters, its atanh is averaged over layers, and the test is the task-mismatch null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from featattn_neuro.arrays import association as kernels
from featattn_neuro.errors import DataError, choose
from featattn_neuro.measures._join import aligned, by_filter, layers_of, same_ids, single, without_scalars
from featattn_neuro.schema import ASSOCIATION, GAINS, SELECTIVITY

MIN_LIVE = 8
"""A layer with fewer live filters is undefined (`too_few`) and left out of the mean over layers."""
METHODS = {
    "spearman": "Spearman's rank correlation",
    "kendall": "Kendall's tau b",
    "pearson_log": "Pearson's correlation with the log gain",
}
MEASURES = {
    "dprime": "gain with |d'|",
    "auc": "gain with |ROC area - 1/2|",
    "corrected": "log gain minus the mean log gain of the other tasks, with |d'|",
    "leverage": "optimiser check, not evidence: gain with signed d' of d logit / d gain",
}


def gain_selectivity(
    gains: xr.Dataset,
    selectivity: xr.Dataset,
    *,
    covariates: xr.Dataset | None = None,
    method: str = "spearman",
    permutations: int = 9999,
    seed: int = 0,
    circular: str = "refuse",
) -> xr.Dataset:
    """Association of gains with selectivity in one network.

    Parameters
    ----------
    gains : GAINS, gain(unit) or gain(task, unit); other dimensions must be selected first.
    selectivity : SELECTIVITY of the un-gained network on *other* stimuli, over the same units (and tasks), any order;
        one call of a module that runs several times.
    covariates : variables over `unit`, or ("task", "unit"), to be held fixed one at a time, and all together ("all"):
        mean activation, weight norm, …; nothing measured after the gain. With two tasks or more, the mean log gain of
        the other tasks is added as "other_tasks_gain". None = no partial correlations. A covariate measured with noise
        is not held fixed, and a partial rank correlation need not be exactly 0 where only the covariate links the two.
    method : "spearman" (the declared one), "kendall" (tau b) or "pearson_log" (log gain; NaN for a task with a gain
        that is not positive). Partial correlations are of ranks whatever the method.
    permutations, seed : joint permutations of tasks for `p_task_permutation`, and their seed.
    circular : "refuse" an overlap of the source stimuli of gains and selectivity, or "demonstrate" what it does.

    Returns
    -------
    ASSOCIATION with `rho` (measure, [task, selectivity_task,] layer), in [-1, 1]; `z`, the mean over layers of
    atanh(clip(rho, ±.999)); `n_live` and `status` per layer: "too_few" below 8 live filters, "constant" where the gains
    or the selectivity of a task do not vary, both NaN and left out of z. With two tasks or more also `matched` (mean of
    z(t, t)), `specific` (matched minus mismatched) and `p_task_permutation`. Measures are
    the gain with: "dprime" |d'|; "auc" |ROC area - 1/2|; "corrected" |d'|, of log gain minus the mean log gain of the
    other tasks (needs two tasks; NaN where a gain is not positive); "leverage" signed d' of d logit / d gain (needs
    `leverage_dprime`; an optimiser check, not evidence).

    Raises
    ------
    DataError : different units or tasks, or overlapping sources.

    Notes
    -----
    Spearman 1904; Kendall 1945; z(t, s) pairs the gains of task t with the selectivity of task s. Within
    one network the p says something about this network only.

    >>> import xarray as xr
    >>> names = [f"conv/{k}" for k in range(8)]
    >>> unit = {"unit": names, "layer": ("unit", ["conv"] * 8), "channel": ("unit", range(8))}
    >>> learned = xr.Dataset({"gain": ("unit", np.linspace(0.5, 1.5, 8))}, unit)
    >>> measured = {"dprime": ("unit", np.linspace(-2, -1, 8)), "auc": ("unit", np.linspace(0, 0.4, 8))}
    >>> measured["status"] = ("unit", ["ok"] * 8)
    >>> found = gain_selectivity(learned, xr.Dataset(measured, unit))
    >>> float(found.rho.sel(measure="dprime", layer="conv"))  # |d'| falls as the gain rises
    -1.0
    """
    learned = GAINS.check(single(without_scalars(gains), ("network", "arm", "gain_set"), name="the gains"))
    measured = by_filter(SELECTIVITY.check(without_scalars(selectivity)), name="the selectivity")
    choose(circular, ("refuse", "demonstrate"), "value of circular")
    choose(method, METHODS, "method")
    overlap = check_sources(learned, measured, circular)
    learned, measured = joined(learned, measured)
    gain = np.atleast_2d(learned["gain"].transpose(..., "unit").values.astype(np.float64))
    scores = _scores(measured)
    several = gain.shape[0] >= 2
    log_gain = np.log(np.where(gain > 0, gain, np.nan))
    predictors = dict.fromkeys(scores, log_gain if method == "pearson_log" else gain)
    if several:
        predictors["corrected"] = kernels.leave_one_task_out(log_gain)
        scores["corrected"] = scores["dprime"]
    order = [name for name in MEASURES if name in predictors]
    layers = layers_of(learned)
    live = live_filters(measured) & np.isfinite(gain).all(axis=0)
    members = [live & (learned["layer"].values.astype(str) == name) for name in layers]
    status = [_layer_status(gain, scores["dprime"], inside) for inside in members]
    usable = [inside if code == "ok" else np.zeros_like(inside) for inside, code in zip(members, status, strict=True)]
    rho = np.stack([_rho(predictors[name], scores[name], usable, method) for name in order])
    values = {
        "rho": (_dims(learned, "layer"), rho if "task" in learned.dims else rho[:, 0, 0]),
        "n_live": ("layer", [int(inside.sum()) for inside in members]),
        "status": ("layer", status),
    }
    result = xr.Dataset(values, {"measure": order, "layer": layers, **_tasks(learned)})
    result["z"] = _mean_over_layers(result["rho"], np.array(status) == "ok")
    if several:
        result = _with_task_permutation(result, permutations, seed)
    if covariates is not None:
        held = _covariate_table(learned, by_filter(covariates, name="covariates"), log_gain)
        result["partial"] = _partials(learned, held, gain, scores["dprime"], usable).assign_coords(layer=layers)
    notes = {f"measure_{name}": MEASURES[name] for name in order}
    counts = {"permutations": int(permutations), "seed": int(seed), "nonpositive_gains": int((gain <= 0).sum())}
    return ASSOCIATION.check(result.assign_attrs(notes | counts | {"sources": overlap, "method": METHODS[method]}))


def pool_networks(associations: Mapping[str, xr.Dataset], *, permutations: int = 9999, seed: int = 0) -> xr.Dataset:
    """Associations of replicate networks as one Dataset, with the task-mismatch test over all of them.

    Parameters
    ----------
    associations : network name → ASSOCIATION of `gain_selectivity`; same measures and tasks.
    permutations, seed : joint permutations of tasks, the same in all networks, and their seed.

    Returns
    -------
    ASSOCIATION with dimension `network` on z, matched, specific and p_task_permutation, and with `p_pooled` (measure):
    p of T(π) = mean over tasks of F(c, π(c)), F = mean over networks of z. `rho`, `n_live`, `status` and other values
    per layer are kept when all networks have the same layers; otherwise the layer is "mean" and rho is tanh of z.
    Partial correlations are over the covariates of all networks, NaN where one has a covariate not.
    """
    if not associations:
        raise DataError("wanted the associations of one network or more; came none")
    checked = {str(name): ASSOCIATION.check(without_scalars(one)) for name, one in associations.items()}
    first_name, first = next(iter(checked.items()))
    for name, one in checked.items():
        for dim in ("measure", "task", "selectivity_task"):
            if (dim in first.dims) != (dim in one.dims):
                raise DataError(
                    f"networks {first_name!r} and {name!r} must both have {dim!r} or neither; pool like with like"
                )
            if dim in first.dims:
                same_ids(first[dim].values, one[dim].values, what=dim, wanted_name=first_name, came_name=name)
    order = {dim: first[dim].values for dim in ("measure", "task", "selectivity_task") if dim in first.dims}
    agree = all(list(one["layer"].values) == list(first["layer"].values) for one in checked.values())
    parts = [_poolable(one.sel(order), agree) for one in checked.values()]
    names = set.intersection(*({str(n) for n in part.data_vars} for part in parts))
    parts = _same_covariates([part[sorted(names)] for part in parts])
    pooled = xr.concat(
        parts, xr.IndexVariable("network", list(checked)), data_vars="all", join="exact", combine_attrs="drop_conflicts"
    )
    if "selectivity_task" in pooled.dims:
        pooled["p_pooled"] = (
            "measure",
            [_pooled_p(pooled["z"].sel(measure=m), permutations, seed) for m in pooled["measure"].values],
        )
    counts = {"permutations": int(permutations), "seed": int(seed), "n_networks": len(checked)}
    return ASSOCIATION.check(pooled.assign_attrs(counts))


def _same_covariates(parts: list[xr.Dataset]) -> list[xr.Dataset]:
    """Every part over the covariates of all; undefined where a network has one of them not."""
    names = list(dict.fromkeys(name for part in parts if "covariate" in part for name in part["covariate"].values))
    return [part.reindex(covariate=names) if "covariate" in part else part for part in parts]


def check_sources(learned: xr.Dataset, measured: xr.Dataset, circular: str) -> str:
    """Refuse gains and selectivity from the same source stimuli; return what was found, in words."""
    if "training_source" not in learned or "selection_source" not in measured:
        return "not known: gains or selectivity do not name their source stimuli"
    trained = {str(i) for i in learned["training_source"].values}
    shared = sorted(trained & {str(i) for i in measured["selection_source"].values})
    if not shared:
        return "disjoint"
    if circular == "refuse":
        raise DataError(
            f"gains and selectivity must come from different stimuli; {len(shared)} source stimuli are in both "
            f"(first: {shared[0]!r}); measure selectivity on held-out stimuli, or pass circular='demonstrate' "
            "to show what the overlap does"
        )
    return f"circular on purpose: {len(shared)} source stimuli are in both"


def joined(learned: xr.Dataset, measured: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Both over the units and tasks of the gains, in their order."""
    units = learned["unit"].values
    same_ids(units, measured["unit"].values, what="unit", wanted_name="the gains", came_name="the selectivity")
    measured = measured.sel(unit=units)
    tasked = ["task" in one.dims for one in (learned, measured)]
    if tasked[0] != tasked[1]:
        which = "gains have" if tasked[0] else "selectivity has"
        raise DataError(f"only the {which} a dimension 'task'; give both tasks, or select one task")
    if tasked[0]:
        tasks = learned["task"].values
        same_ids(tasks, measured["task"].values, what="task", wanted_name="the gains", came_name="the selectivity")
        measured = measured.sel(task=tasks)
    return learned, measured


def _scores(measured: xr.Dataset) -> dict[str, np.ndarray]:
    """(task, unit) selectivity scores; gains without tasks have one row."""
    values = {
        "dprime": np.abs(measured["dprime"].transpose(..., "unit").values),
        "auc": np.abs(measured["auc"].transpose(..., "unit").values - 0.5),
    }
    if "leverage_dprime" in measured:
        values["leverage"] = measured["leverage_dprime"].transpose(..., "unit").values
    return {name: np.atleast_2d(value) for name, value in values.items()}


def live_filters(measured: xr.Dataset) -> np.ndarray:
    defined = np.atleast_2d((measured["status"] == "ok").transpose(..., "unit").values).all(axis=0)
    return np.asarray(defined & (measured["live"].values == 1) if "live" in measured else defined)


def _layer_status(gain: np.ndarray, score: np.ndarray, inside: np.ndarray) -> str:
    if inside.sum() < MIN_LIVE:
        return "too_few"
    flat = [(np.ptp(values[:, inside], axis=1) == 0).any() for values in (gain, score)]
    return "constant" if any(flat) else "ok"


def _rho(predictor: np.ndarray, score: np.ndarray, usable: Sequence[np.ndarray], method: str) -> np.ndarray:
    """(task, selectivity_task, layer) correlation over the usable filters of each layer."""
    columns = []
    for inside in usable:
        if not inside.any():
            columns.append(np.full((predictor.shape[0], score.shape[0]), np.nan))
        elif method == "spearman":
            rho = kernels.spearman(predictor[:, None, inside], score[None, :, inside])
            # an undefined value (the log of a gain that is not positive) undoes the task, it does not drop the filter
            defined = np.isfinite(predictor[:, inside]).all(axis=1)[:, None] & np.isfinite(score[:, inside]).all(axis=1)
            columns.append(np.where(defined, rho, np.nan))
        else:
            kind = "kendall" if method == "kendall" else "pearson"
            columns.append(kernels.cross_correlation(predictor[:, inside], score[:, inside], method=kind))
    return np.stack(columns, axis=-1)


def _dims(learned: xr.Dataset, *last: str) -> tuple[str, ...]:
    return ("measure", *(("task", "selectivity_task") if "task" in learned.dims else ()), *last)


def _tasks(learned: xr.Dataset) -> dict[str, list[str]]:
    if "task" not in learned.dims:
        return {}
    names = [str(task) for task in learned["task"].values]
    return {"task": names, "selectivity_task": names}


def _mean_over_layers(rho: xr.DataArray, ok: np.ndarray) -> xr.DataArray:
    """Mean of atanh rho over the defined layers; NaN, not a mean of fewer, where one of them is NaN all the same."""
    z = xr.DataArray(kernels.atanh_clipped(rho.values), rho.coords, rho.dims)
    if not ok.any():
        return xr.full_like(z.isel(layer=0, drop=True), np.nan)
    return z.isel(layer=np.flatnonzero(ok)).mean("layer", skipna=False)


def _with_task_permutation(result: xr.Dataset, permutations: int, seed: int) -> xr.Dataset:
    found = [
        kernels.task_mismatch(table, permutations=permutations, rng=np.random.default_rng(seed))
        for table in result["z"].transpose("measure", "task", "selectivity_task").values
    ]
    return result.assign(
        matched=("measure", [float(one.matched[0]) for one in found]),
        specific=("measure", [float(one.specific[0]) for one in found]),
        p_task_permutation=("measure", [one.p for one in found]),
    )


def _covariate_table(learned: xr.Dataset, covariates: xr.Dataset, log_gain: np.ndarray) -> dict[str, np.ndarray]:
    """Covariate name → (task, unit), in the order of the gains."""
    n_tasks, units = log_gain.shape[0], learned["unit"].values
    held = {}
    for name, variable in without_scalars(covariates).data_vars.items():
        if not set(variable.dims) <= {"task", "unit"} or "unit" not in variable.dims:
            raise DataError(f"covariate {name!r} must be over 'unit' or ('task', 'unit'); came {variable.dims}")
        ordered = aligned(variable, "unit", units, name=f"covariate {name!r}", to="the gains")
        if "task" in variable.dims:
            if "task" not in learned.dims:
                raise DataError(f"covariate {name!r} has a dimension 'task' but the gains have not; select one task")
            ordered = aligned(ordered, "task", learned["task"].values, name=f"covariate {name!r}", to="the gains")
        values = ordered.transpose(..., "unit").values.astype(np.float64)
        held[str(name)] = np.broadcast_to(values, (n_tasks, units.size))
    if n_tasks >= 2:
        held["other_tasks_gain"] = log_gain - kernels.leave_one_task_out(log_gain)
    if len(held) >= 2:
        held["all"] = np.array([])  # computed from the others
    return held


def _partials(
    learned: xr.Dataset, held: dict[str, np.ndarray], gain: np.ndarray, score: np.ndarray, usable: Sequence[np.ndarray]
) -> xr.DataArray:
    """Partial Spearman of the gain of each task with |d'| of the same task, ([task,] layer, covariate)."""
    table = np.full((gain.shape[0], len(usable), len(held)), np.nan)
    single_ones = [values for name, values in held.items() if name != "all"]
    for layer, inside in enumerate(usable):
        if not inside.any():
            continue
        for column, (name, values) in enumerate(held.items()):
            for task in range(gain.shape[0]):
                given = [one[task, inside] for one in single_ones] if name == "all" else [values[task, inside]]
                table[task, layer, column] = kernels.partial_spearman(
                    gain[task, inside], score[task, inside], np.array(given)
                )
    dims = ("task", "layer", "covariate") if "task" in learned.dims else ("layer", "covariate")
    coordinates = {"covariate": list(held)} | ({"task": _tasks(learned)["task"]} if "task" in learned.dims else {})
    return xr.DataArray(table if "task" in learned.dims else table[0], coordinates, dims)


def _poolable(one: xr.Dataset, agree: bool) -> xr.Dataset:
    """`one` as it is, or with its layers summarised where the networks have different layers."""
    if agree:
        return one
    kept = one.drop_dims([dim for dim in ("layer", "covariate", "refit") if dim in one.dims])
    summary = {
        "rho": one["z"].copy(data=np.tanh(one["z"].values)).expand_dims(layer=["mean"], axis=-1),
        "n_live": ("layer", [int(one["n_live"].sum())]),
        "status": ("layer", ["ok" if (one["status"] == "ok").any() else "too_few"]),
    }
    return kept.assign(summary)


def _pooled_p(z: xr.DataArray, permutations: int, seed: int) -> float:
    tables = z.transpose("network", "task", "selectivity_task").values
    return kernels.task_mismatch(tables, permutations=permutations, rng=np.random.default_rng(seed)).p
