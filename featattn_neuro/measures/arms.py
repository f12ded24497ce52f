"""Arms of a transfer experiment against each other, on the same images, in one network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from featattn_neuro.arrays.curves import area_over, area_over_log2, first_reach
from featattn_neuro.arrays.discrimination import paired_delong, roc_area
from featattn_neuro.arrays.multiplicity import adjust
from featattn_neuro.arrays.roc import paired_placements, placements_in_order
from featattn_neuro.errors import DataError, choose
from featattn_neuro.measures._join import single, without_scalars
from featattn_neuro.schema import CURVES, SCORES

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


def compare_arms(
    scores: xr.Dataset, *, references: Sequence[str] = ("probe", "ungained"), level: float = 0.95
) -> pd.DataFrame:
    """Difference in ROC area of every arm and each reference arm, per task, paired by image.

    Parameters
    ----------
    scores : SCORES of one network, with logit(arm, task, stimulus) and target(task, stimulus).
    references : arms to compare with; each must be there.
    level : of the interval.

    Returns
    -------
    DataFrame, one row per (arm, reference, task): `auc`, `auc_reference`, `difference`, `standard_error`, `ci_low`,
    `ci_high`, `p` (two-sided, normal), `p_holm` over the tasks of that pair of arms, `status`: "ok", "constant" (the
    two arms order all images alike, so the variance is 0 and there is no p) or "nonfinite" (an undefined area).

    Notes
    -----
    DeLong, DeLong & Clarke-Pearson 1988, paired form. The image is the sampling unit: these p-values say something
    about this network and these tasks only; claims over networks are in `claims`.
    """
    import pandas as pd

    checked = SCORES.check(single(without_scalars(scores), ("network",), name="the scores"))
    for name in ("logit", "target"):
        if name not in checked:
            raise DataError(
                f"comparing arms by image needs the variable {name!r} of SCORES; came without; keep the logits"
            )
    arms = [str(arm) for arm in checked["arm"].values]
    for reference in references:
        choose(reference, arms, "reference arm")
    rows = []
    for reference in references:
        for arm in (one for one in arms if one != reference):
            rows += _compare(checked, arm, reference, level)
    return pd.DataFrame(rows)


def describe_arms(scores: xr.Dataset, curves: xr.Dataset | None = None, *, share: float = 0.5) -> xr.Dataset:
    """SCORES with, for every arm and task, what the score says beside other arms, and how soon the arm learned.

    Parameters
    ----------
    scores : SCORES of one network, with logit(arm, task, stimulus) where arms have logits.
    curves : CURVES of that network, or None.
    share : of the common criterion, in (0, 1].

    Returns
    -------
    SCORES with further variables: `difference_probe`, `difference_ungained` and the ends of their 95 % DeLong intervals
    (paired by image; of the permuted arms, which are means over shuffles, by the mean placements); per axis
    (updates, examples) `criterion`, `to_criterion` and `area`.

    The criterion of a network and task is one ROC area for all arms of the curves: lowest first point of any arm plus
    `share` of the way to the highest last point of any arm. `to_criterion` is the first point of the axis at which an
    arm's curve is not below it, NaN if that never happens; 0 updates means that it was good enough before learning.
    Areas are trapezoids over updates, or over log2 examples, divided by the range.
    """
    checked = SCORES.check(single(without_scalars(scores), ("network",), name="the scores"))
    found = _with_differences(checked)
    if curves is None:
        return SCORES.check(found)
    known = CURVES.check(single(without_scalars(curves), ("network",), name="curves"))
    if not 0 < share <= 1:
        raise DataError(f"share of the criterion must be in (0, 1]; came {share}")
    same_tasks = set(known["task"].values.tolist()) == set(checked["task"].values.tolist())
    if not same_tasks:
        raise DataError("scores and curves must be of the same tasks; pass those of one network")
    for axis, area in (("updates", area_over), ("examples", area_over_log2)):
        if f"auc_{axis}" in known:
            found = found.assign(_speed(known, axis, area, share, found))
    return SCORES.check(found.assign_attrs(criterion_share=float(share)))


def _speed(
    curves: xr.Dataset, axis: str, area: Callable[..., np.ndarray], share: float, scores: xr.Dataset
) -> dict[str, xr.DataArray]:
    """Criterion, first reach and area of the curves over one axis, over the arms and tasks of the scores."""
    import xarray as xr

    curve = curves[f"auc_{axis}"].transpose("arm", "task", axis)
    low = curve.isel({axis: 0}).min("arm")
    high = curve.isel({axis: -1}).max("arm")
    criterion = low + share * (high - low)
    places = curves[axis].values.astype(float)
    reached = first_reach(places, curve.values, criterion.values[None])
    tables = {"to_criterion": reached, "area": area(places, curve.values)}
    coords = {"arm": curve["arm"].values, "task": curve["task"].values}
    made = {f"criterion_{axis}": criterion.drop_vars(axis, errors="ignore").reindex(task=scores["task"].values)}
    for name, values in tables.items():
        array = xr.DataArray(values, coords, ("arm", "task"))
        made[f"{name}_{axis}"] = array.reindex(arm=scores["arm"].values, task=scores["task"].values)
    return made


def _with_differences(scores: xr.Dataset) -> xr.Dataset:
    """Paired differences from the arms probe and ungained, where these and the logits (or placements) are there."""
    if "logit" not in scores or "target" not in scores:
        return scores
    targets = scores["target"].transpose("task", "stimulus").values != 0
    placed = _placements(scores, targets)
    there = np.isfinite(placed).any(axis=(1, 2))
    arms = [str(arm) for arm in scores["arm"].values]
    width = float(stats.norm.ppf(0.975))
    made = {}
    for reference in ("probe", "ungained"):
        if reference not in arms or not there[arms.index(reference)]:
            continue
        other = placed[arms.index(reference)]
        table = np.full((3, len(arms), len(targets)), np.nan)
        for a in np.flatnonzero(there):
            if arms[a] == reference:
                continue
            for t, target in enumerate(targets):
                difference, variance = paired_placements(placed[a, t], other[t], target)
                half = width * np.sqrt(variance) if variance > 1e-24 else float("nan")
                table[:, a, t] = difference, difference - half, difference + half
        for name, values in zip(("difference", "difference_low", "difference_high"), table, strict=True):
            made[f"{name}_{reference}"] = (("arm", "task"), values)
    return scores.assign(made)


def _placements(scores: xr.Dataset, targets: np.ndarray) -> np.ndarray:
    """(arm, task, stimulus) placements: kept ones of arms that are means over shuffles, else those of the logits."""
    logit = scores["logit"].transpose("arm", "task", "stimulus").values
    found = np.full(logit.shape, np.nan)
    if "placement" in scores:
        found = scores["placement"].transpose("arm", "task", "stimulus").values.astype(float)
    for a in np.flatnonzero(np.isfinite(logit).all(axis=(1, 2))):
        for t, target in enumerate(targets):
            if target.any() and not target.all() and np.ptp(logit[a, t]) > 0:
                found[a, t] = placements_in_order(logit[a, t][None], target)[0]
    return found


def _compare(scores: xr.Dataset, arm: str, reference: str, level: float) -> list[dict[str, object]]:
    pair = [scores["logit"].sel(arm=one).transpose("task", "stimulus").values for one in (arm, reference)]
    targets = scores["target"].transpose("task", "stimulus").values != 0
    rows: list[dict[str, object]] = []
    p_values = []
    for task, logit, other, target in zip(scores["task"].values, *pair, targets, strict=True):
        difference, variance = (float(value) for value in paired_delong(logit, other, target))
        defined = np.isfinite(difference)
        varied = bool(defined and variance > 1e-24)
        error = float(np.sqrt(variance)) if varied else float("nan")
        half = float(stats.norm.ppf((1 + level) / 2)) * error
        p_values.append(float(2 * stats.norm.sf(abs(difference) / error)) if varied else float("nan"))
        rows.append(
            {
                "arm": arm,
                "reference": reference,
                "task": str(task),
                "auc": float(roc_area(logit, target)),
                "auc_reference": float(roc_area(other, target)),
                "difference": difference,
                "standard_error": error,
                "ci_low": difference - half,
                "ci_high": difference + half,
                "p": p_values[-1],
                "status": "ok" if varied else "constant" if defined else "nonfinite",
            }
        )
    for row, p_holm in zip(rows, adjust(p_values, "holm"), strict=True):
        row["p_holm"] = float(p_holm)
    return rows
