"""Scores of arms beside each other and over their learning: by hand, and against the paired test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from featattn_neuro.arrays.curves import first_reach
from featattn_neuro.errors import DataError
from featattn_neuro.measures.arms import compare_arms, describe_arms

ARMS = ["ungained", "probe", "gain", "permuted", "norm_affine"]


@pytest.fixture
def scores() -> xr.Dataset:
    rng = np.random.default_rng(0)
    target = np.arange(40) % 2 == np.arange(2)[:, None]
    logit = rng.normal(0, 1, (5, 2, 40)) + np.linspace(0.5, 1.5, 5)[:, None, None] * target
    logit[3:] = np.nan
    return xr.Dataset(
        {"auc": (("arm", "task"), np.full((5, 2), 0.5)), "logit": (("arm", "task", "stimulus"), logit),
         "target": (("task", "stimulus"), target.astype(int))},
        {"arm": ARMS, "task": ["a", "b"], "stimulus": [f"s{k}" for k in range(40)]}, {"kind": "SCORES"},
    )  # fmt: skip


def curves(**changes: Any) -> xr.Dataset:
    updates = np.array([[[0.5, 0.6, 0.7], [0.5, 0.7, 0.7]], [[0.6, 0.8, 0.9], [0.5, 0.5, 0.5]]])
    examples = np.array([[[0.5, 0.9], [0.6, 0.8]], [[0.5, 0.6], [0.9, 0.6]]])
    made = {
        "auc_updates": (("arm", "task", "updates"), updates),
        "auc_examples": (("arm", "task", "examples"), examples),
    }
    coords = {"arm": ["gain", "probe"], "task": ["a", "b"], "updates": [0, 10, 20], "examples": [1, 4]}
    return xr.Dataset({**made, **changes}, coords, {"kind": "CURVES"})


def test_differences_are_those_of_the_paired_test(scores: xr.Dataset) -> None:
    found = describe_arms(scores)
    table = compare_arms(scores.sel(arm=["ungained", "probe", "gain"])).set_index(["arm", "reference", "task"])
    for arm, reference in (("gain", "probe"), ("gain", "ungained"), ("probe", "ungained"), ("ungained", "probe")):
        for task in "ab":
            row = table.loc[(arm, reference, task)]
            for name, column in (
                ("difference", "difference"),
                ("difference_low", "ci_low"),
                ("difference_high", "ci_high"),
            ):
                value = float(found[f"{name}_{reference}"].sel(arm=arm, task=task))
                assert value == pytest.approx(row[column], abs=1e-12)
    for arm in ("permuted", "norm_affine"):
        assert found["difference_probe"].sel(arm=arm).isnull().all()
    assert found["difference_probe"].sel(arm="probe").isnull().all()


def test_one_criterion_for_all_arms(scores: xr.Dataset) -> None:
    found = describe_arms(scores, curves().isel(task=[1, 0]))
    # task a: lowest first point .5, highest last .9, half way .7; task b: .5 and .7, so .6
    assert found["criterion_updates"].sel(task="a").item() == pytest.approx(0.7)
    assert found["criterion_updates"].sel(task="b").item() == pytest.approx(0.6)
    reach = found["to_criterion_updates"]
    assert reach.sel(arm="gain").values.tolist() == [20, 10]
    assert reach.sel(arm="probe", task="a").item() == 10
    assert np.isnan(reach.sel(arm="probe", task="b").item())
    assert reach.sel(arm="ungained").isnull().all()
    assert found["area_updates"].sel(arm="gain", task="a").item() == pytest.approx(0.6)
    assert found["area_examples"].sel(arm="gain", task="a").item() == pytest.approx(0.7)
    assert found["to_criterion_examples"].sel(arm="gain", task="a").item() == 4
    assert found["criterion_examples"].sel(task="b").item() == pytest.approx(0.7)
    assert found["to_criterion_examples"].sel(arm="probe", task="b").item() == 1  # good enough at the first point
    assert found.attrs["criterion_share"] == 0.5
    strict = describe_arms(scores, curves(), share=1.0)
    assert strict["criterion_updates"].sel(task="a").item() == pytest.approx(0.9)


def test_what_does_not_fit(scores: xr.Dataset) -> None:
    with pytest.raises(DataError, match="share of the criterion"):
        describe_arms(scores, curves(), share=0)
    with pytest.raises(DataError, match="of the same tasks"):
        describe_arms(scores, curves().assign_coords(task=["a", "c"]))
    with pytest.raises(ValueError, match="increasing places"):
        first_reach([1, 1], [0.0, 1.0], 0.5)
