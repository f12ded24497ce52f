"""What is printed beside the verdicts, number by number, on two networks that can be done by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from featattn_neuro.measures.secondary import secondary_quantities

T_975 = 12.706204736  # Student's t with one degree of freedom
LAYERS = ["relu1", "relu2", "relu3"]

AUC = {
    "ungained": (0.60, 0.70),
    "probe": (0.62, 0.72),
    "gain": (0.66, 0.70),
    "gain_head": (0.70, 0.78),
    "full": (0.75, 0.85),
    "uniform": (0.61, 0.69),
    "permuted": (0.50, 0.60),
    "permuted_head": (0.55, 0.75),
}
"""ROC areas of two tasks in the first network; in the second both of gain and the last of gain_head are 0.02 more."""


def scores() -> dict[str, xr.Dataset]:
    first = np.array(list(AUC.values()))
    second = first.copy()
    second[list(AUC).index("gain")] += 0.02
    second[list(AUC).index("gain_head"), 1] += 0.02
    return {
        name: xr.Dataset(
            {"auc": (("arm", "task"), auc), "novel": ("task", novel)}, {"arm": list(AUC), "task": ["a", "b"]}
        )
        for name, auc, novel in (("n0", first, [1, 0]), ("n1", second, [0, 1]))
    }


def curves() -> dict[str, xr.Dataset]:
    found = {}
    for name, more in (("n0", 0.0), ("n1", 0.1)):
        examples = np.array([[[0.5, 0.7], [0.6, 0.8]], [[0.5, 0.5], [0.5, 0.5]]]) + more  # means 0.65 and 0.5
        updates = np.array([[[0.4, 0.6], [0.4, 0.6]], [[0.3, 0.5], [0.5, 0.7]]])  # 0.5 and 0.5
        found[name] = xr.Dataset(
            {
                "auc_examples": (("arm", "task", "examples"), examples),
                "auc_updates": (("arm", "task", "updates"), updates),
            },
            {"arm": ["gain_head", "full"], "task": ["a", "b"], "examples": [1, 2], "updates": [0, 10]},
        )
    return found


def associations() -> dict[str, xr.Dataset]:
    found = {}
    for name, k in (("n0", 0.0), ("n1", 1.0)):
        found[name] = xr.Dataset(
            {
                "rho": (("layer",), [0.1, 0.1, 0.1]),
                "z": (("measure",), [0.9, 0.9, 0.9, 0.9]),
                "n_live": ("layer", [9, 9, 9]),
                "status": ("layer", ["ok"] * 3),
                "matched": ("measure", np.array([0.3, 0.2, 0.1, 0.8]) + 0.1 * k),
                "specific": ("measure", np.array([0.25, 0.15, 0.05, 0.75]) - 0.1 * k),
                # over layers, and over tasks: NaN is left out
                "partial": (
                    ("task", "layer", "covariate"),
                    np.array([[[0.1, 0.4], [0.3, 0.4], [np.nan, 0.4]], [[0.2, 0.4], [0.2, 0.4], [np.nan, 0.4]]]),
                ),
                "gain_reliability": ("layer", np.array([0.9, 0.7, np.nan])),
                "selectivity_reliability": ("layer", np.array([0.6, 0.6, 0.9]) - 0.3 * k),
                "refit_null": (("layer", "refit"), np.array([[np.nan] * 2, [np.nan] * 2, [-0.2, -0.4]]) + 0.2 * k),
            },
            {
                "measure": ["dprime", "auc", "corrected", "leverage"],
                "layer": LAYERS,
                "task": ["a", "b"],
                "covariate": ["mean_activation", "weight_norm"],
            },
        )
    return found


def agreements() -> dict[str, xr.Dataset]:
    return {
        name: xr.Dataset(
            {
                "layer_score": ("layer", np.array([0.2, 0.4, 9.0]) + k),
                "null_mean": ("layer", [-0.01, 0.01, 9.0]),
                "randomised_score": ("layer", [0.05, np.nan if k else 0.03, 9.0]),
                "mass_in_mask": ("layer", [0.06, 0.08, 9.0]),
                "mass_in_mask_plain": ("layer", [0.05, 0.07, 9.0]),
                "usable": ("layer", usable),
            },
            {"layer": LAYERS},
        )
        for name, k, usable in (("n0", 0.0, [1, 1, 1]), ("n1", 0.1, [1, 1, 0]))
    }


WANTED = [
    ("T1", "ROC area, gain_head − ungained", (0.09, 0.10)),
    ("T1", "ROC area, gain − ungained", (0.03, 0.05)),
    ("T1", "ROC area, gain − probe", (0.01, 0.03)),
    ("T1", "ROC area, gain − uniform", (0.03, 0.05)),
    ("T1", "ROC area, gain − permuted", (0.13, 0.15)),
    ("T1", "ROC area, gain_head − permuted_head", (0.09, 0.10)),
    ("T1", "ROC area, full − probe", (0.13, 0.13)),
    ("T1", "ROC area, gain_head − full", (-0.06, -0.05)),
    ("T1", "ROC area, gain_head − probe, novel classes", (0.08, 0.08)),
    ("T1", "ROC area, gain_head − probe, trained classes", (0.06, 0.08)),
    ("T2", "mean ROC area of gain_head over the curve of examples", (0.65, 0.75)),
    ("T2", "mean ROC area of full over the curve of examples", (0.5, 0.6)),
    ("T2", "mean ROC area of gain_head over the curve of updates", (0.5, 0.5)),
    ("T2", "mean ROC area of full over the curve of updates", (0.5, 0.5)),
    ("T3", "own task, z with |d'|", (0.3, 0.4)),
    ("T3", "own − other tasks, z with |d'|", (0.25, 0.15)),
    ("T3", "own task, z with |ROC area − ½|", (0.2, 0.3)),
    ("T3", "own − other tasks, z with |ROC area − ½|", (0.15, 0.05)),
    ("T3", "own task, z with |d'|, gains corrected by leaving one task out", (0.1, 0.2)),
    ("T3", "own − other tasks, z with |d'|, gains corrected by leaving one task out", (0.05, -0.05)),
    ("T3", "own task, z with leverage d' (optimiser check, not evidence)", (0.8, 0.9)),
    ("T3", "own − other tasks, z with leverage d' (optimiser check, not evidence)", (0.75, 0.65)),
    ("T3", "partial ρ given mean_activation", (0.2, 0.2)),
    ("T3", "partial ρ given weight_norm", (0.4, 0.4)),
    ("T3", "reliability of gains, halves of G (ρ of halves)", (0.8, 0.8)),
    ("T3", "reliability of |d'|, halves of S (ρ of halves)", (0.7, 0.4)),
    ("T3", "location of the refit null (z of refitted gains)", (-0.3, -0.1)),
    ("T4", "relu1: cue swap, SDs", (0.2, 0.3)),
    ("T4", "relu1: cue swap of permuted gains, SDs", (-0.01, -0.01)),
    ("T4", "relu1: cue swap in a network of shuffled weights, SDs", (0.05, 0.05)),
    ("T4", "relu1: mass in mask − area, excess map", (0.06, 0.06)),
    ("T4", "relu1: mass in mask − area, plain ΣA", (0.05, 0.05)),
    ("T4", "relu2: cue swap, SDs", (0.4, 0.5)),
    ("T4", "relu2: cue swap of permuted gains, SDs", (0.01, 0.01)),
    ("T4", "relu2: cue swap in a network of shuffled weights, SDs", (0.03, np.nan)),
    ("T4", "relu2: mass in mask − area, excess map", (0.08, 0.08)),
    ("T4", "relu2: mass in mask − area, plain ΣA", (0.07, 0.07)),
]
"""Claim, quantity, and its number in either network; the third layer is not resolved in one, so it is no part of T4."""


def table(replicated: bool = True, **changed: Any) -> pd.DataFrame:
    given = {"scores": scores(), "curves": curves(), "associations": associations(), "agreements": agreements()}
    return secondary_quantities(**(given | changed), replicated=replicated)


def test_every_quantity_by_hand() -> None:
    found = table()
    assert list(zip(found["claim"], found["quantity"], strict=True)) == [(claim, what) for claim, what, _ in WANTED]
    for row, (_, what, (a, b)) in zip(found.itertuples(), WANTED, strict=True):
        if np.isnan(b):  # one network alone has a number
            assert row.estimate == pytest.approx(a), what
            assert np.isnan(row.ci_low), what
            continue
        half = T_975 * abs(a - b) / 2  # SD/√2 of two numbers
        assert [row.estimate, row.ci_low, row.ci_high] == pytest.approx(
            [(a + b) / 2, (a + b) / 2 - half, (a + b) / 2 + half], abs=1e-9
        ), what


def test_networks_that_are_no_replicates_have_no_interval() -> None:
    found = table(replicated=False)
    assert found[["ci_low", "ci_high"]].isna().all(axis=None)
    np.testing.assert_array_equal(found["estimate"], table()["estimate"])


def test_what_a_run_has_not_is_not_printed() -> None:
    few = {name: one.sel(arm=["probe", "gain", "gain_head"]).drop_vars("novel") for name, one in scores().items()}
    found = table(scores=few, curves={}, associations={}, agreements={})
    assert found["quantity"].tolist() == ["ROC area, gain − probe"]
    assert table(scores={}, curves={}, associations={}, agreements={}).empty


@pytest.mark.parametrize("turned", [False, True], ids=["richer first", "richer last"])
def test_what_one_network_has_not_is_left_out(turned: bool) -> None:
    def pair(made: dict[str, xr.Dataset], poorer: Any) -> dict[str, xr.Dataset]:
        both = {"n0": made["n0"], "n1": poorer(made["n1"])}
        return dict(reversed(both.items())) if turned else both

    found = table(
        scores=pair(scores(), lambda one: one.sel(arm=["probe", "gain"])),
        curves=pair(curves(), lambda one: one.drop_vars("auc_updates")),
        associations=pair(associations(), lambda one: one.sel(measure=["auc"]).drop_vars("refit_null")),
        agreements=pair(agreements(), lambda one: one.drop_vars("randomised_score")),
    )
    absent = ("z with |d'|", "leverage", "refit", "shuffled")
    wanted = [what for claim, what, _ in WANTED if claim != "T1" and not any(part in what for part in absent)]
    assert found["quantity"].tolist() == ["ROC area, gain − probe", *wanted]


def test_curves_need_not_be_those_of_all_arms() -> None:
    some = {name: one.sel(arm=["gain_head"]) for name, one in curves().items()}
    speed = table(curves=some).query("claim == 'T2'")["quantity"].tolist()
    assert speed == [f"mean ROC area of gain_head over the curve of {axis}" for axis in ("examples", "updates")]


@pytest.mark.parametrize("turned", [False, True], ids=["richer first", "richer last"])
def test_a_covariate_that_one_network_has_not_is_left_out(turned: bool) -> None:
    both = associations()
    richer, poorer = (one.assign_coords(covariate=["mean_activation", "all"]) for one in both.values())
    extra = richer.isel(covariate=[0]).assign_coords(covariate=["readout_weight"])
    richer = xr.concat([richer, extra], "covariate", data_vars="minimal")
    pair = {"n0": richer, "n1": poorer}
    found = table(associations=dict(reversed(pair.items())) if turned else pair)["quantity"]
    assert [q for q in found if q.startswith("partial")] == ["partial ρ given mean_activation"]
