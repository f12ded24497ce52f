"""What is printed beside the verdicts: other contrasts, other measures, and parts of the same numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from featattn_neuro.arrays.resampling import t_interval
from featattn_neuro.schema import AGREEMENT, ASSOCIATION, CURVES, SCORES

CONTRASTS = (
    ("gain_head", "ungained"),
    ("gain", "ungained"),
    ("gain", "probe"),
    ("gain", "uniform"),
    ("gain", "permuted"),
    ("gain_head", "permuted_head"),
    ("full", "probe"),
    ("gain_head", "full"),
)
"""Contrasts of arms printed beside T1; each is named, because the answer depends on what a gain is compared with."""


def secondary_quantities(
    scores: Mapping[str, xr.Dataset],
    curves: Mapping[str, xr.Dataset],
    associations: Mapping[str, xr.Dataset],
    agreements: Mapping[str, xr.Dataset],
    *,
    replicated: bool,
) -> pd.DataFrame:
    """Rows claim, quantity, estimate, ci_low, ci_high: means over networks with 95 % t intervals.

    A quantity that one of the networks has not (an arm, a measure, a check) is left out; curves are those of the
    networks that have the arm. `replicated=False` (networks are no replicates of one design): intervals are NaN.
    """
    rows: list[dict[str, object]] = []

    def add(claim: str, quantity: str, values: list[float]) -> None:
        finite = np.array([v for v in values if np.isfinite(v)])
        low, high = t_interval(finite, 0.95) if replicated and len(finite) > 1 else (np.nan, np.nan)
        estimate = float(finite.mean()) if len(finite) else float("nan")
        rows.append(
            {"claim": claim, "quantity": quantity, "estimate": estimate, "ci_low": float(low), "ci_high": float(high)}
        )

    _transfer(add, [SCORES.check(one) for one in scores.values()])
    for curve, axis in (("auc_examples", "examples"), ("auc_updates", "updates")):
        for arm in ("gain_head", "full"):
            checked = [CURVES.check(one) for one in curves.values()]
            has = [one for one in checked if curve in one and arm in one["arm"].values]
            values = [float(one[curve].sel(arm=arm).mean()) for one in has]
            if values:
                add("T2", f"mean ROC area of {arm} over the curve of {axis}", values)
    _association(add, [ASSOCIATION.check(one) for one in associations.values()])
    _saliency(add, [AGREEMENT.check(one) for one in agreements.values()])
    return pd.DataFrame(rows, columns=["claim", "quantity", "estimate", "ci_low", "ci_high"])


def _transfer(add: object, scores: list[xr.Dataset]) -> None:
    if not scores:
        return
    assert callable(add)
    arms = set.intersection(*({str(arm) for arm in one["arm"].values} for one in scores))
    for arm, reference in CONTRASTS:
        if arm in arms and reference in arms:
            add("T1", f"ROC area, {arm} − {reference}", [float(d.mean()) for d in _differences(scores, arm, reference)])
    if not {"gain_head", "probe"} <= arms:
        return
    cells = _differences(scores, "gain_head", "probe")
    for kind, label in ((1, "novel"), (0, "trained")):
        if all("novel" in one and (one["novel"] == kind).any() for one in scores):
            means = [float(d.values[one["novel"].values == kind].mean()) for d, one in zip(cells, scores, strict=True)]
            add("T1", f"ROC area, gain_head − probe, {label} classes", means)


def _differences(scores: list[xr.Dataset], arm: str, reference: str) -> list[xr.DataArray]:
    return [one["auc"].sel(arm=arm) - one["auc"].sel(arm=reference) for one in scores]


def _association(add: object, associations: list[xr.Dataset]) -> None:
    if not associations:
        return
    assert callable(add)
    meanings = {
        "dprime": "|d'|",
        "auc": "|ROC area − ½|",
        "corrected": "|d'|, gains corrected by leaving one task out",
        "leverage": "leverage d' (optimiser check, not evidence)",
    }
    for measure in associations[0]["measure"].values.tolist():
        if all("matched" in one and measure in one["measure"].values for one in associations):
            picked = [one.sel(measure=measure) for one in associations]
            add("T3", f"own task, z with {meanings[measure]}", [float(one["matched"]) for one in picked])
            add("T3", f"own − other tasks, z with {meanings[measure]}", [float(one["specific"]) for one in picked])
    if all("partial" in one for one in associations):
        held = [one["covariate"].values.tolist() for one in associations]
        for covariate in held[0]:
            # what one network has not (a read-out of its filters, weights before each site) has no mean over networks,
            # nor has "all" where that is not the same in each
            if all(covariate in names if covariate != "all" else set(names) == set(held[0]) for names in held):
                values = [float(one["partial"].sel(covariate=covariate).mean()) for one in associations]
                add("T3", f"partial ρ given {covariate}", values)
    for name, label in (("gain_reliability", "gains, halves of G"), ("selectivity_reliability", "|d'|, halves of S")):
        if all(name in one for one in associations):
            add("T3", f"reliability of {label} (ρ of halves)", [float(one[name].mean()) for one in associations])
    if all("refit_null" in one for one in associations):
        add(
            "T3",
            "location of the refit null (z of refitted gains)",
            [float(one["refit_null"].mean()) for one in associations],
        )


def _saliency(add: object, agreements: list[xr.Dataset]) -> None:
    if not agreements:
        return
    assert callable(add)
    labels = {
        "layer_score": "cue swap, SDs",
        "null_mean": "cue swap of permuted gains, SDs",
        "randomised_score": "cue swap in a network of shuffled weights, SDs",
        "mass_in_mask": "mass in mask − area, excess map",
        "mass_in_mask_plain": "mass in mask − area, plain ΣA",
    }
    for layer in agreements[0]["layer"].values.tolist():
        if any(layer not in one["layer"].values or not int(one["usable"].sel(layer=layer)) for one in agreements):
            continue
        for name, label in labels.items():
            if all(name in one for one in agreements):
                add("T4", f"{layer}: {label}", [float(one[name].sel(layer=layer)) for one in agreements])
