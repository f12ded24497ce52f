"""Arms over networks: one row an arm, of what the rows per network and task say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from featattn_neuro.arrays.resampling import t_interval
from featattn_neuro.schema import CURVES, SCORES

REFERENCES = ("probe", "ungained")


def arms_summary(
    scores: Mapping[str, xr.Dataset], choices: Mapping[str, xr.Dataset] | None = None, *, replicated: bool
) -> pd.DataFrame:
    """One row per arm: means over networks, of means over tasks.

    Parameters
    ----------
    scores : SCORES by network, as `describe_arms` gives them; what they lack is NaN.
    choices : CURVES with `auc_choice` by network: what V chose among.
    replicated : whether networks are replicates of one design; False leaves the t intervals NaN.

    Returns
    -------
    DataFrame with `arm`; `n_networks` to which it applies; `auc`; `difference_probe`, `difference_ungained` of ROC area
    and the ends of their 95 % t intervals over networks (networks are the samples; the tasks are fixed);
    `trained_numbers`; `area_updates`, `area_examples`; `to_criterion_updates`, `to_criterion_examples`: medians over
    networks and tasks, a cell that never gets there counting as more than all others, NaN where that is the median;
    `reference_score`, `reference_score_off`; `at_end_of_search`: networks in which the chosen rate is the smallest or
    the largest that was tried (gains from theory: the largest strength), so that a better one may lie outside; NaN
    where there was no choice.
    """
    checked = {name: SCORES.check(one) for name, one in scores.items()}
    tried = {name: CURVES.check(one) for name, one in (choices or {}).items()}
    arms = list(dict.fromkeys(str(arm) for one in checked.values() for arm in one["arm"].values))
    return pd.DataFrame([_row(arm, checked, tried, replicated) for arm in arms])


def _row(
    arm: str, scores: Mapping[str, xr.Dataset], tried: Mapping[str, xr.Dataset], replicated: bool
) -> dict[str, object]:
    having = {
        name: one
        for name, one in scores.items()
        if arm in one["arm"].values and np.isfinite(one["auc"].sel(arm=arm)).any()
    }
    row: dict[str, object] = {"arm": arm, "n_networks": len(having)}

    def mean(name: str) -> float:
        return _mean([float(one[name].sel(arm=arm).mean()) for one in having.values() if name in one])

    row["auc"] = mean("auc")
    for reference in REFERENCES:
        values = np.array(
            [
                float((one["auc"].sel(arm=arm) - one["auc"].sel(arm=reference)).mean())
                for one in having.values()
                if reference in one["arm"].values and arm != reference
            ]
        )
        values = values[np.isfinite(values)]
        low, high = t_interval(values) if replicated and len(values) > 1 else (np.nan, np.nan)
        row |= {
            f"difference_{reference}": _mean(values.tolist()),
            f"difference_low_{reference}": float(low),
            f"difference_high_{reference}": float(high),
        }
    for name in ("trained_numbers", "area_updates", "area_examples"):
        row[name] = mean(name)
    for name in ("to_criterion_updates", "to_criterion_examples"):
        row[name] = _median([one for one in having.values() if name in one], arm, name)
    for name in ("reference_score", "reference_score_off"):
        row[name] = mean(name)
    ends = [_at_end(one, tried[name], arm) for name, one in having.items() if name in tried]
    known = [end for end in ends if end is not None]
    row["at_end_of_search"] = float(sum(known)) if known else float("nan")
    return row


def _mean(values: list[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _median(scores: list[xr.Dataset], arm: str, name: str) -> float:
    """Median over networks and tasks that have a curve; NaN is "never", and more than any number."""
    area = name.replace("to_criterion", "area")
    reached = [
        one[name].sel(arm=arm).values[np.isfinite(one[area].sel(arm=arm).values)] for one in scores if area in one
    ]
    values = np.concatenate(reached) if reached else np.array([])
    if not len(values):
        return float("nan")
    ordered = np.sort(np.where(np.isfinite(values), values, np.inf))
    middle = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]
    return float(middle.mean()) if np.isfinite(middle).all() else float("nan")


def _at_end(scores: xr.Dataset, tried: xr.Dataset, arm: str) -> bool | None:
    """Whether the choice is at an end of what was tried; None where nothing was chosen."""
    if arm not in tried["arm"].values:
        return None
    for name in ("rate", "strength"):
        if name not in tried.coords or name not in scores:
            continue
        values = tried[name].sel(arm=arm).values if "arm" in tried[name].dims else tried[name].values
        among = np.unique(values[np.isfinite(values)])
        chosen = float(scores[name].sel(arm=arm))
        if len(among) > 1 and np.isfinite(chosen):
            # a strength of 0 is no gain at all: nothing lies beyond it
            return bool(chosen == among[-1] or (name == "rate" and chosen == among[0]))
    return None
