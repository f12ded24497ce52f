"""Arms over networks, on two networks that can be done by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from featattn_neuro.measures.arms_summary import arms_summary

T_975 = 12.706204736  # Student's t with one degree of freedom
ARMS = ["ungained", "probe", "gain", "adabn", "tuning"]


def scores(more: float = 0.0, **changed: object) -> xr.Dataset:
    nan = np.nan
    never = nan
    values = {
        "auc": (("arm", "task"), [[0.6, 0.7], [0.7, 0.7], [0.8 + more, 0.9], [nan, nan], [0.6, 0.7]]),
        "trained_numbers": ("arm", [0, 3, 10, 0, 0]),
        "area_updates": (("arm", "task"), [[nan, nan], [0.6, 0.8], [0.7, 0.9], [nan, nan], [nan, nan]]),
        "to_criterion_updates": (("arm", "task"), [[nan, nan], [10, never], [20, 30], [nan, nan], [nan, nan]]),
        "reference_score": (("arm", "task"), [[nan, nan], [0.9, 0.9], [0.5, 0.3], [nan, nan], [0.9, 0.7]]),
        "rate": ("arm", [nan, 0.1, 0.03, nan, nan]),
        "strength": ("arm", [nan, nan, nan, nan, 0.0]),
    }
    return xr.Dataset(values | changed, {"arm": ARMS, "task": ["a", "b"]})


def choices() -> xr.Dataset:
    nan = np.nan
    return xr.Dataset(
        {"auc_choice": (("arm", "task", "choice"), np.full((3, 2, 3), 0.7))},
        {
            "arm": ["probe", "gain", "tuning"],
            "task": ["a", "b"],
            "choice": [0, 1, 2],
            "rate": (("arm", "choice"), [[0.01, 0.03, 0.1], [0.01, 0.03, 0.1], [nan, nan, nan]]),
            "strength": (("arm", "choice"), [[nan] * 3, [nan] * 3, [0.0, 0.5, 1.0]]),
        },
    )


def summary(replicated: bool = True, second: xr.Dataset | None = None) -> pd.DataFrame:
    both = {"n0": scores(), "n1": scores(0.04) if second is None else second}
    return arms_summary(both, dict.fromkeys(both, choices()), replicated=replicated).set_index("arm")


def test_means_differences_and_their_intervals_by_hand():
    found = summary()
    assert found.index.tolist() == ARMS
    assert found.loc["gain", "auc"] == pytest.approx(0.86)
    # differences of the networks: 0.15 and 0.17 from the probe, 0.20 and 0.22 from the un-gained
    for reference, mean in (("probe", 0.16), ("ungained", 0.21)):
        assert found.loc["gain", f"difference_{reference}"] == pytest.approx(mean)
        assert found.loc["gain", f"difference_low_{reference}"] == pytest.approx(mean - T_975 * 0.01)
        assert found.loc["gain", f"difference_high_{reference}"] == pytest.approx(mean + T_975 * 0.01)
    assert np.isnan(found.loc["probe", "difference_probe"])
    assert found.loc["gain", "trained_numbers"] == 10
    assert found.loc["gain", "area_updates"] == pytest.approx(0.8)
    assert found.loc["gain", "reference_score"] == pytest.approx(0.4)
    assert found["reference_score_off"].isna().all(), "the scores have none"


def test_networks_that_are_no_replicates_have_no_interval():
    found = summary(replicated=False)
    assert found.loc["gain", "difference_probe"] == pytest.approx(0.16)
    assert found.filter(regex="low|high").isna().all(axis=None)


def test_a_cell_that_never_gets_there_counts_as_more_than_all_others():
    found = summary()
    assert found.loc["gain", "to_criterion_updates"] == 25  # 20, 20, 30, 30
    assert np.isnan(found.loc["probe", "to_criterion_updates"])  # 10, 10, never, never: the middle is 10 and never
    sooner = [[np.nan] * 2, [5, 7], [20, 30], [np.nan] * 2, [np.nan] * 2]
    second = scores(to_criterion_updates=(("arm", "task"), sooner))
    assert summary(second=second).loc["probe", "to_criterion_updates"] == 8.5  # 5, 7, 10, never


def test_an_arm_that_applies_to_no_network_has_no_numbers():
    found = summary().loc["adabn"]
    assert found["n_networks"] == 0
    assert found.drop("n_networks").isna().all()
    one = scores()
    one["auc"].loc[{"arm": "adabn"}] = 0.7
    found = summary(second=one).loc["adabn"]
    assert found["n_networks"] == 1
    assert found["auc"] == pytest.approx(0.7)
    assert found["difference_ungained"] == pytest.approx(0.05)


def test_choices_at_an_end_of_the_search_are_counted():
    found = summary()["at_end_of_search"]
    assert found["probe"] == 2
    assert found["gain"] == 0
    assert found["tuning"] == 0, "a strength of 0 is no gain at all: nothing lies beyond it"
    assert np.isnan(found["ungained"])
    second = scores(rate=("arm", [np.nan, 0.03, 0.01, np.nan, np.nan]), strength=("arm", [np.nan] * 4 + [1.0]))
    found = summary(second=second)["at_end_of_search"]
    assert (found["probe"], found["gain"], found["tuning"]) == (1, 1, 1)
    alone = arms_summary({"n0": scores()}, replicated=True)
    assert alone["at_end_of_search"].isna().all()
