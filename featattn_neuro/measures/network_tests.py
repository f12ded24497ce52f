"""Tests over replicate networks that stand beside the primary one: each says what it may be read as.

The digits' ten tasks are all the tasks there are: tasks fixed, networks random. A claim about tasks that were not used
needs the conservative crossed test; "no effect" needs an equivalence test with a bound named beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from featattn_neuro.arrays.association import atanh_clipped
from featattn_neuro.arrays.crossed import crossed_test
from featattn_neuro.arrays.disattenuation import disattenuated
from featattn_neuro.arrays.equivalence import equivalence_test
from featattn_neuro.arrays.prediction import spearman_brown
from featattn_neuro.arrays.resampling import t_interval, t_test
from featattn_neuro.arrays.u_shape import two_sides, u_shape_test
from featattn_neuro.errors import DataError
from featattn_neuro.measures._join import same_ids, single, without_scalars
from featattn_neuro.measures._tables import paired_layers
from featattn_neuro.schema import ASSOCIATION

COLUMNS = ("test", "reads", "estimate", "ci_low", "ci_high", "df", "p", "n_networks", "n_tasks", "status")


def association_tests(
    associations: Mapping[str, xr.Dataset], *, measure: str = "dprime", bound: float = 0.10
) -> pd.DataFrame:
    """Matched minus mismatched association over networks and tasks, by the tests that are calibrated for it.

    Parameters
    ----------
    associations : network → ASSOCIATION of `gain_selectivity` with several tasks; networks are replicates of one design
        with their own images.
    measure : which association. bound : smallest effect of interest for equivalence, Fisher's z, named before the data.

    Returns
    -------
    DataFrame, one row per test: `test`, `reads` (what it may be read as), `estimate` (Fisher's z), `ci_low`, `ci_high`
    (95 %; 90 % for equivalence), `df`, `p`, `n_networks`, `n_tasks`, `status`: "ok" or "too_few" (NaN).

    Notes
    -----
    Cells are z(t, t) minus the mean of z(t, s), s ≠ t. Networks with an undefined cell are left out and not counted.
    """
    cells = _specific_cells(associations, measure)
    complete = cells[np.isfinite(cells).all(axis=1)]
    n, tasks = complete.shape
    per_network = complete.mean(axis=1) if n else np.array([])
    low, high = t_interval(per_network)
    crossed = crossed_test(complete) if n else crossed_test(np.full((2, 2), np.nan))
    same = equivalence_test(per_network, bound)
    estimate = float(per_network.mean()) if n else float("nan")
    shared = {"estimate": estimate, "n_networks": n, "n_tasks": tasks, "status": "ok" if n >= 2 else "too_few"}
    rows = [
        {"test": "t over networks", "reads": "networks of this design, these tasks", "ci_low": low, "ci_high": high,
         "df": n - 1.0, "p": t_test(per_network)},
        {"test": "crossed, conservative", "reads": f"also tasks that were not used (error: {crossed.source})",
         "ci_low": crossed.ci_low, "ci_high": crossed.ci_high, "df": crossed.df, "p": crossed.p},
        {"test": "equivalence", "reads": f"the effect lies inside ±{bound:g}", "ci_low": same.ci_low,
         "ci_high": same.ci_high, "df": n - 1.0, "p": same.p},
    ]  # fmt: skip
    return pd.DataFrame([row | shared for row in rows], columns=list(COLUMNS))


def u_shape(gains: Mapping[str, xr.Dataset], selectivity: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Do gains rise towards both ends of *signed* d'? Two lines with the break at d' = 0, tested over networks.

    Parameters
    ----------
    gains, selectivity : network → GAINS (one arm), SELECTIVITY of the same units and tasks.

    Returns
    -------
    DataFrame with one row per side ("left": d' < 0, "right": d' >= 0): mean over networks of Fisher's z of gain with d'
    on that side (mean over layers and tasks in each network), 95 % t interval; then the rows "U" and "inverted U", p =
    the larger of the two one-sided p. Sides with fewer than five live filters are left out of a network's mean.

    Notes
    -----
    Simonsohn 2018. |d'| takes symmetry for granted; this is where it is looked at.
    """
    if set(gains) != set(selectivity) or not gains:
        raise DataError(
            f"wanted the same networks in gains and selectivity; came {sorted(gains)}, {sorted(selectivity)}"
        )
    sides = []
    tasks = 1
    for name in gains:
        pair = paired_layers(gains[name], selectivity[name])
        tasks = max(len(pair.tasks), 1)
        found = [two_sides(pair.signed[layer], pair.gain[layer]) for layer in pair.layers]
        z = atanh_clipped(np.concatenate(found, axis=1)) if found else np.full((2, 1), np.nan)
        sides.append([_mean(side) for side in z])
    table = np.array(sides)
    test = u_shape_test(table[:, 0], table[:, 1])
    shared = {"n_networks": test.n, "n_tasks": tasks, "status": "ok" if test.n >= 2 else "too_few", "df": test.n - 1.0}
    rows: list[dict[str, object]] = []
    for column, name in enumerate(("left", "right")):
        low, high = t_interval(table[:, column])
        rows.append({"test": name, "reads": "z of gain with signed d', this side of 0", "ci_low": low, "ci_high": high,
                     "estimate": _mean(table[:, column]), "p": t_test(table[:, column]), **shared})  # fmt: skip
    for name, p in (("U", test.p_u), ("inverted U", test.p_inverted)):
        nan = float("nan")
        rows.append({"test": name, "reads": "both sides, the larger one-sided p", "ci_low": nan, "ci_high": nan,
                     "estimate": nan, "p": p, **shared})  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def disattenuated_association(
    associations: Mapping[str, xr.Dataset], *, measure: str = "dprime", resamples: int = 1999, seed: int = 0
) -> pd.DataFrame:
    """Matched ρ divided by the root of both reliabilities, under its conditions.

    Parameters
    ----------
    associations : network → ASSOCIATION with `gain_reliability` and `selectivity_reliability` (of halves; stepped up
        by Spearman–Brown here). measure, resamples, seed : as they say.

    Returns
    -------
    DataFrame of one row; NaN with status "unreliable" when a reliability is below .3, and no interval (status
    "too_few") below ten networks. The text in `reads` says that it is no bound: errors of |d'| are not independent of
    its size.
    """
    table = []
    for name, one in associations.items():
        found = ASSOCIATION.check(single(without_scalars(one), ("network",), name="the association"))
        absent = [part for part in ("gain_reliability", "selectivity_reliability") if part not in found]
        if absent:
            raise DataError(f"network {name!r} has no {absent[0]}; compute it with halves_reliability first")
        picked = found["rho"].sel(measure=measure) if "measure" in found["rho"].dims else found["rho"]
        if "selectivity_task" in picked.dims:
            own = [picked.sel(task=t, selectivity_task=t).values for t in picked["task"].values]
            rho = _mean(np.array(own))
        else:
            rho = _mean(picked.values)
        halves = [_mean(found[part].values) for part in ("gain_reliability", "selectivity_reliability")]
        table.append([rho, *(float(spearman_brown(half)) for half in halves)])
    columns = np.array(table).reshape(-1, 3).T
    got = disattenuated(*columns, resamples=resamples, rng=np.random.default_rng(seed))
    row = {
        "test": "disattenuated ρ",
        "reads": f"no bound; reliabilities {got.reliability_first:.2f} (gains) and {got.reliability_second:.2f} (|d'|)",
        "estimate": got.value, "ci_low": got.ci_low, "ci_high": got.ci_high, "df": float("nan"), "p": float("nan"),
        "n_networks": got.n, "n_tasks": 0, "status": got.status,
    }  # fmt: skip
    return pd.DataFrame([row], columns=list(COLUMNS))


def _specific_cells(associations: Mapping[str, xr.Dataset], measure: str) -> np.ndarray:
    """(network, task): z(t, t) minus the mean of z(t, s)."""
    if not associations:
        raise DataError("wanted the associations of two networks or more; came none")
    rows, tasks = [], None
    for name, one in associations.items():
        found = ASSOCIATION.check(single(without_scalars(one), ("network",), name="the association"))
        if "selectivity_task" not in found["z"].dims or found.sizes["task"] < 2:
            raise DataError(f"network {name!r} has one task; matched minus mismatched needs two tasks or more")
        z = found["z"].sel(measure=measure) if "measure" in found["z"].dims else found["z"]
        if tasks is None:
            tasks = z["task"].values
        same_ids(tasks, z["task"].values, what="task", wanted_name="the first network", came_name=f"network {name}")
        table = z.sel(task=tasks, selectivity_task=tasks).transpose("task", "selectivity_task").values
        own = np.diag(table)
        rows.append(own - (table.sum(axis=1) - own) / (len(tasks) - 1))
    return np.array(rows)


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def layer_intervals(associations: Mapping[str, xr.Dataset], *, measure: str = "dprime") -> pd.DataFrame:
    """Association of each layer over networks: own task, and own minus other tasks, with 95 % t intervals.

    Parameters
    ----------
    associations : network → ASSOCIATION with several tasks. A layer that a network has not, or not defined, is left out
        of that layer's mean.

    Returns
    -------
    DataFrame: `layer`, `quantity` ("matched" or "specific"), `estimate` (Fisher's z), `ci_low`, `ci_high`,
    `n_networks`; and one row per network with `network` named, its own value and no interval.
    """
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for name, one in associations.items():
        found = ASSOCIATION.check(single(without_scalars(one), ("network",), name="the association"))
        picked = found["rho"].sel(measure=measure) if "measure" in found["rho"].dims else found["rho"]
        if "selectivity_task" not in picked.dims:
            raise DataError(f"network {name!r} has one task; intervals per layer need several")
        tasks = picked["task"].values
        for layer in picked["layer"].values:
            table = atanh_clipped(
                picked.sel(layer=layer, selectivity_task=tasks).transpose("task", "selectivity_task").values
            )
            own = float(np.trace(table) / len(tasks))
            others = (float(table.sum()) - own * len(tasks)) / (len(tasks) * (len(tasks) - 1))
            for quantity, value in (("matched", own), ("specific", own - others)):
                cells.setdefault((str(layer), quantity), {})[str(name)] = value
    rows = []
    for (layer, quantity), values in cells.items():
        numbers = np.array(list(values.values()))
        low, high = t_interval(numbers)
        shared = {"layer": layer, "quantity": quantity}
        rows.append({**shared, "network": "", "estimate": _mean(numbers), "ci_low": low, "ci_high": high,
                     "n_networks": int(np.isfinite(numbers).sum())})  # fmt: skip
        for name, value in values.items():
            rows.append({**shared, "network": name, "estimate": value, "ci_low": np.nan, "ci_high": np.nan,
                         "n_networks": 1})  # fmt: skip
    return pd.DataFrame(rows)


def gain_by_selectivity(
    gains: Mapping[str, xr.Dataset], selectivity: Mapping[str, xr.Dataset], *, bins: int = 5
) -> pd.DataFrame:
    """Mean log gain of filters in equal-count bins of |d'|, per layer, with 95 % t intervals over networks.

    Parameters
    ----------
    gains, selectivity : network → GAINS (one arm; positive gains) and SELECTIVITY.
    bins : equal-count bins of |d'| within layer and task.

    Returns
    -------
    DataFrame: `layer`, `bin` (1 = lowest |d'|), `dprime` (mean |d'|), `log_gain` (relative to the layer's mean, mean
    over tasks in each network, then over networks), `ci_low`, `ci_high`, `n_networks`.
    """
    if set(gains) != set(selectivity):
        raise DataError(
            f"wanted the same networks in gains and selectivity; came {sorted(gains)}, {sorted(selectivity)}"
        )
    cells: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for name in gains:
        pair = paired_layers(gains[name], selectivity[name])
        for layer in pair.layers:
            gain = np.log(np.where(pair.gain[layer] > 0, pair.gain[layer], np.nan))
            gain = gain - gain.mean(axis=1, keepdims=True)
            order = np.argsort(pair.score[layer], axis=1, kind="stable")
            sorted_score = np.take_along_axis(pair.score[layer], order, axis=1)
            sorted_gain = np.take_along_axis(gain, order, axis=1)
            for index, members in enumerate(np.array_split(np.arange(gain.shape[1]), bins)):
                cells.setdefault((layer, index + 1), []).append(
                    (_mean(sorted_score[:, members].ravel()), _mean(sorted_gain[:, members].ravel()))
                )
    rows = []
    for (layer, index), values in cells.items():
        table = np.array(values)
        low, high = t_interval(table[:, 1])
        rows.append({"layer": layer, "bin": index, "dprime": _mean(table[:, 0]), "log_gain": _mean(table[:, 1]),
                     "ci_low": low, "ci_high": high, "n_networks": int(np.isfinite(table[:, 1]).sum())})  # fmt: skip
    return pd.DataFrame(rows)


def task_permutation_null(
    associations: Mapping[str, xr.Dataset], *, measure: str = "dprime", permutations: int = 999, seed: int = 0
) -> tuple[float, np.ndarray]:
    """Observed matched association over all networks, and its values under joint permutations of the tasks.

    Parameters
    ----------
    associations : network → ASSOCIATION with several tasks, the same ones.

    Returns
    -------
    statistic, null (permutations,): mean over tasks of F(c, π(c)), F = mean over networks of z, Fisher's z. Networks
    with an undefined z are left out; all NaN where none is left.
    """
    tables = []
    tasks: np.ndarray | None = None
    for name, one in associations.items():
        found = ASSOCIATION.check(single(without_scalars(one), ("network",), name="the association"))
        z = found["z"].sel(measure=measure) if "measure" in found["z"].dims else found["z"]
        if "selectivity_task" not in z.dims:
            raise DataError(f"network {name!r} has one task; tasks cannot be permuted")
        tasks = z["task"].values if tasks is None else tasks
        same_ids(tasks, z["task"].values, what="task", wanted_name="the first network", came_name=f"network {name}")
        tables.append(z.sel(task=tasks, selectivity_task=tasks).transpose("task", "selectivity_task").values)
    if not tables:
        raise DataError("wanted the associations of one network or more; came none")
    complete = [one for one in tables if np.isfinite(one).all()]
    if not complete:
        return float("nan"), np.full(permutations, np.nan)
    table = np.mean(complete, axis=0)
    rng, rows = np.random.default_rng(seed), np.arange(len(table))
    null = np.array([table[rows, rng.permutation(len(table))].mean() for _ in range(permutations)])
    return float(np.trace(table) / len(table)), null
