"""Arms paired by image."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from sklearn.metrics import roc_auc_score

from featattn_neuro.arrays.discrimination import paired_delong
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.measures.arms import compare_arms


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    arms, tasks, n = ["ungained", "probe", "gain_head"], ["0", "1"], 80
    target = (rng.random((2, n)) < 0.3).astype(int)
    logit = rng.normal(size=(3, 2, n)) + target * np.array([0.0, 0.5, 1.0])[:, None, None]
    auc = [[roc_auc_score(target[t], logit[a, t]) for t in range(2)] for a in range(3)]
    return xr.Dataset(
        {
            "auc": (("arm", "task"), auc),
            "logit": (("arm", "task", "stimulus"), logit),
            "target": (("task", "stimulus"), target),
        },
        {"arm": arms, "task": tasks, "stimulus": [f"s{i}" for i in range(n)]},
    )


def test_rows_hold_the_paired_difference(scores):
    table = compare_arms(scores)
    assert len(table) == 2 * 2 * 2
    row = table.query("arm == 'gain_head' and reference == 'probe' and task == '1'").iloc[0]
    a, b = (scores["logit"].sel(arm=arm, task="1").values for arm in ("gain_head", "probe"))
    difference, variance = paired_delong(a, b, scores["target"].sel(task="1").values == 1)
    assert row.difference == pytest.approx(float(difference))
    assert row.difference == pytest.approx(row.auc - row.auc_reference)
    assert row.standard_error == pytest.approx(float(np.sqrt(variance)))
    assert row.ci_low < row.difference < row.ci_high
    assert row.p <= row.p_holm <= 2 * row.p + 1e-12


def test_swapping_arm_and_reference_turns_the_sign(scores):
    table = compare_arms(scores).set_index(["arm", "reference", "task"])
    one, other = table.loc[("probe", "ungained", "0")], table.loc[("ungained", "probe", "0")]
    assert one.difference == pytest.approx(-other.difference)
    assert one.p == pytest.approx(other.p)


def test_equal_arms_have_no_p(scores):
    logit = scores["logit"].copy(deep=True)
    logit[2] = logit[1]
    row = compare_arms(scores.assign(logit=logit)).query("arm == 'gain_head' and reference == 'probe'").iloc[0]
    assert row.difference == 0
    assert row.status == "constant"
    assert np.isnan(row.p)


def test_user_mistakes(scores):
    with pytest.raises(DataError, match="needs the variable 'logit'"):
        compare_arms(scores.drop_vars("logit"))
    with pytest.raises(ConfigError, match=r"unknown reference arm 'prob'.*did you mean 'probe'"):
        compare_arms(scores, references=["prob"])
