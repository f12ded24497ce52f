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
        raise DataError(f"wanted the same networks in gains and selectivity; came {sorted(gains)}, {sorted(selectivity)}")
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
        rows.append({"test": name, "reads": "z of gain with signed d' on this side of 0", "ci_low": low, "ci_high": high,
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
