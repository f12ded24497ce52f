"""The number of each claim T1-T4 in each network, before anything is decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from featattn_neuro.arrays.association import task_mismatch
from featattn_neuro.arrays.curves import area_over, area_over_log2
from featattn_neuro.arrays.resampling import t_test
from featattn_neuro.measures._join import same_ids, single, without_scalars
from featattn_neuro.schema import AGREEMENT, ASSOCIATION, CONSTITUENT_SEPARATOR, CURVES, SCORES

Novel = Mapping[str, Mapping[str, bool]]
Table = dict[str, float]


@dataclass
class Evidence:
    """What a claim is decided on.

    claim : T1-T4.
    numbers : network → u, one table, or two for T2 (examples, updates).
    p : p of the primary test over all networks.
    condition : network → number of the claim's further condition, None if it has none.
    p_networks : network → task-permutation p (T3).
    n_tasks, n_undefined : tasks, and undefined cells left out.
    novel, trained : mean over networks of u over novel and over trained cells; NaN where not known.
    absent : why the claim cannot be tested; "" if it can.
    layers : layers that entered (T4).
    """

    claim: str
    numbers: list[Table] = field(default_factory=list)
    p: float = float("nan")
    condition: Table | None = None
    p_networks: Table = field(default_factory=dict)
    n_tasks: int = 0
    n_undefined: int = 0
    novel: float = float("nan")
    trained: float = float("nan")
    absent: str = ""
    layers: tuple[str, ...] = ()


def transfer_evidence(scores: Mapping[str, xr.Dataset], novel: Novel) -> Evidence:
    """T1: mean over tasks of AUC(gain_head) - AUC(probe); condition: the same of gain - uniform."""
    evidence = Evidence("T1")
    if not scores:
        evidence.absent = "no arms were scored"
        return evidence
    checked = {
        str(n): SCORES.check(single(without_scalars(one), ("network",), name="scores")) for n, one in scores.items()
    }
    for name, one in checked.items():
        missing = [arm for arm in ("gain_head", "probe", "gain", "uniform") if arm not in one["arm"].values]
        if missing:
            evidence.absent = f"network {name} has no arm {', '.join(missing)}"
            return evidence
    cells = {name: _difference(one["auc"], "gain_head", "probe") for name, one in checked.items()}
    guard = {name: _difference(one["auc"], "gain", "uniform") for name, one in checked.items()}
    evidence.numbers = [{name: _mean(values) for name, values in cells.items()}]
    evidence.condition = {name: _mean(values) for name, values in guard.items()}
    evidence.p = t_test(list(evidence.numbers[0].values()))
    evidence.n_tasks = _n_tasks(cells)
    evidence.n_undefined = sum(int(values.isnull().sum()) for table in (cells, guard) for values in table.values())
    evidence.novel, evidence.trained = _apart(cells, novel)
    return evidence


def speed_evidence(curves: Mapping[str, xr.Dataset], novel: Novel) -> Evidence:
    """T2: area between gain_head and full over log2 examples and over updates, ROC area; p = the larger of the two."""
    evidence = Evidence("T2")
    if not curves:
        evidence.absent = "no learning curves were computed"
        return evidence
    checked = {
        str(n): CURVES.check(single(without_scalars(one), ("network",), name="curves")) for n, one in curves.items()
    }
    axes: list[tuple[str, str, Callable[..., np.ndarray]]] = [
        ("auc_examples", "examples", area_over_log2),
        ("auc_updates", "updates", area_over),
    ]
    tables = []
    for variable, axis, area in axes:
        cells = {}
        for name, one in checked.items():
            arms = set(one["arm"].values.astype(str)) if "arm" in one.coords else set()
            missing = [arm for arm in ("gain_head", "full") if arm not in arms]
            if variable not in one or missing:
                what = f"arm {', '.join(missing)}" if missing else f"curve over {axis}"
                evidence.absent = f"network {name} has no {what}"
                return evidence
            difference = _difference(one[variable], "gain_head", "full").transpose("task", axis)
            cells[name] = xr.DataArray(area(one[axis].values, difference.values), {"task": one["task"]}, ("task",))
        tables.append(cells)
    evidence.numbers = [{name: _mean(values) for name, values in cells.items()} for cells in tables]
    evidence.p = float(np.max([t_test(list(numbers.values())) for numbers in evidence.numbers]))
    evidence.n_tasks = _n_tasks(tables[0])
    evidence.n_undefined = sum(int(values.isnull().sum()) for cells in tables for values in cells.values())
    smaller = int(np.argmin([abs(_mean(np.array(list(numbers.values())))) for numbers in evidence.numbers]))
    evidence.novel, evidence.trained = _apart(tables[smaller], novel)
    return evidence


def gain_evidence(associations: Mapping[str, xr.Dataset], novel: Novel, *, permutations: int, seed: int) -> Evidence:
    """T3: matched minus mismatched z of gain with |d'|; p by joint permutation of tasks; condition: matched z."""
    evidence = Evidence("T3")
    if not associations:
        evidence.absent = "gains were not compared with selectivity"
        return evidence
    tables: dict[str, xr.DataArray] = {}
    for name, one in associations.items():
        checked = ASSOCIATION.check(single(without_scalars(one), ("network",), name="the association"))
        if "selectivity_task" not in checked["z"].dims or checked.sizes["selectivity_task"] < 2:
            evidence.absent = f"network {name} has one task, so tasks cannot be mismatched"
            return evidence
        z = checked["z"].sel(measure="dprime", drop=True) if "measure" in checked["z"].dims else checked["z"]
        tasks = next(iter(tables.values()))["task"].values if tables else z["task"].values
        for dim in ("task", "selectivity_task"):
            same_ids(tasks, z[dim].values, what="task", wanted_name="the first network", came_name=f"network {name}")
        tables[str(name)] = z.sel(task=tasks, selectivity_task=tasks).transpose("task", "selectivity_task")
    stack = np.stack([table.values for table in tables.values()])
    found = task_mismatch(stack, permutations=permutations, rng=np.random.default_rng(seed))
    evidence.numbers = [dict(zip(tables, found.specific.tolist(), strict=True))]
    evidence.condition = dict(zip(tables, found.matched.tolist(), strict=True))
    evidence.p = found.p
    for name, table in tables.items():
        own = task_mismatch(table.values, permutations=permutations, rng=np.random.default_rng(seed))
        evidence.p_networks[name] = own.p
    evidence.n_tasks = stack.shape[1]
    evidence.n_undefined = int(np.isnan(stack).sum())
    evidence.novel, evidence.trained = _apart({name: _specific_by_task(table) for name, table in tables.items()}, novel)
    return evidence


def saliency_evidence(agreements: Mapping[str, xr.Dataset], novel: Novel) -> Evidence:
    """T4: mean cue swap over composites, then over the layers whose grid is fine enough in every network."""
    evidence = Evidence("T4")
    if not agreements:
        evidence.absent = "saliency was not scored"
        return evidence
    checked = {
        str(n): AGREEMENT.check(single(without_scalars(one), ("network",), name="agreement"))
        for n, one in agreements.items()
    }
    usable = [
        {str(layer) for layer, flag in zip(one["layer"].values, one["usable"].values, strict=True) if flag}
        for one in checked.values()
    ]
    first = next(iter(checked.values()))
    if all(one["layer"].values.tolist() == first["layer"].values.tolist() for one in checked.values()):
        common = set.intersection(*usable)
        evidence.layers = tuple(str(layer) for layer in first["layer"].values if str(layer) in common)
        layers = {name: list(evidence.layers) for name in checked}
    else:  # networks of other designs: each by its own layers
        layers = {name: sorted(own) for name, own in zip(checked, usable, strict=True)}
        if any(layers.values()):
            evidence.layers = tuple(f"{len(own)} of {name}" for name, own in layers.items())
            checked = {name: one for name, one in checked.items() if layers[name]}
    if not evidence.layers:
        evidence.absent = "no layer's grid resolves the masks in at least 90 % of the composites of every network"
        return evidence
    chosen = {name: one.sel(layer=layers[name]) for name, one in checked.items()}
    evidence.numbers = [{name: _mean(one["layer_score"]) for name, one in chosen.items()}]
    evidence.p = t_test(list(evidence.numbers[0].values()))
    if "label" in first.coords:
        parts = {part for label in first["label"].values for part in str(label).split(CONSTITUENT_SEPARATOR)}
        evidence.n_tasks = len(parts)
    for one in chosen.values():
        cells = one["cue_swap"] if "cue_swap" in one else one["layer_score"]
        evidence.n_undefined += int(cells.isnull().sum())
    by_cue = {name: _by_cue(one) for name, one in chosen.items()}
    evidence.novel, evidence.trained = _apart({name: part for name, part in by_cue.items() if part is not None}, novel)
    return evidence


def _by_cue(agreement: xr.Dataset) -> xr.DataArray | None:
    """Parts of the cue swap (layer, task), task being the cue; None where they were not kept or cues have no names."""
    if "cue_swap_by_cue" not in agreement or "label" not in agreement.coords:
        return None
    values = agreement["cue_swap_by_cue"].transpose("layer", "stimulus", "object").values
    cues = [cue for label in agreement["label"].values for cue in str(label).split(CONSTITUENT_SEPARATOR)]
    return xr.DataArray(values.reshape(len(values), -1), {"task": cues}, ("layer", "task"))


def _difference(values: xr.DataArray, arm: str, reference: str) -> xr.DataArray:
    return values.sel(arm=arm, drop=True) - values.sel(arm=reference, drop=True)


def _mean(values: xr.DataArray | np.ndarray) -> float:
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[np.isfinite(numbers)]
    return float(numbers.mean()) if numbers.size else float("nan")


def _n_tasks(cells: Mapping[str, xr.DataArray]) -> int:
    return len({str(task) for values in cells.values() for task in values["task"].values})


def _specific_by_task(table: xr.DataArray) -> xr.DataArray:
    """z(t, t) minus the mean of z(t, s), s ≠ t; its mean over tasks is the network's number."""
    values = table.values
    matched = np.diag(values)
    others = (values.sum(axis=1) - matched) / (values.shape[0] - 1)
    return xr.DataArray(matched - others, {"task": table["task"].values}, ("task",))


def _apart(cells: Mapping[str, xr.DataArray], novel: Novel) -> tuple[float, float]:
    """Mean over networks of the mean over novel cells, and over trained cells; cells (task,) or (layer, task).

    With layers: over the cells of each layer, then over layers, as the network's number is.
    """
    means: dict[bool, list[float]] = {True: [], False: []}
    for name, values in cells.items():
        flags = novel.get(name)
        if flags is None or any(str(task) not in flags for task in values["task"].values):
            continue
        is_novel = np.array([flags[str(task)] for task in values["task"].values])
        for wanted in (True, False):
            if (is_novel == wanted).any():
                rows = np.atleast_2d(values.values)[:, is_novel == wanted]
                means[wanted].append(_mean(np.array([_mean(row) for row in rows])))
    return _mean(np.array(means[True])), _mean(np.array(means[False]))
