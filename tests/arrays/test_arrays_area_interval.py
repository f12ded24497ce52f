"""The adjusted interval of a ROC area against its definition with added observations, and DeLong's for many."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from featattn_neuro.arrays.area_interval import adjusted_area_interval, roc_area_interval
from featattn_neuro.arrays.discrimination import delong_interval, roc_area


def test_the_added_observations_are_those_of_the_definition():
    """One placement of one half appended to each class, then the ordinary formulas."""
    rng = np.random.default_rng(0)
    target = np.arange(30) < 9
    values = np.maximum(rng.normal(size=30) + target, 0)
    pairs = (values[target][:, None] > values[~target]) + 0.5 * (values[target][:, None] == values[~target])
    of_targets, of_distractors = (np.append(pairs.mean(axis=axis), 0.5) for axis in (1, 0))
    centre = (of_targets.mean() + of_distractors.mean()) / 2
    error = np.sqrt(of_targets.var(ddof=1) / of_targets.size + of_distractors.var(ddof=1) / of_distractors.size)
    logit, half = np.log(centre / (1 - centre)), 1.959964 * error / (centre * (1 - centre))
    found = roc_area_interval(values, target)
    wanted = [1 / (1 + np.exp(-(logit + sign * half))) for sign in (-1, 1)]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_large_samples_give_delongs_interval():
    rng = np.random.default_rng(1)
    target = np.arange(20000) < 7000
    values = rng.normal(size=(3, 20000)) + 0.8 * target
    np.testing.assert_allclose(roc_area_interval(values, target), delong_interval(values, target), atol=3e-4)


def test_swapping_the_classes_turns_the_interval_round():
    rng = np.random.default_rng(2)
    target = np.arange(40) < 11
    values = rng.integers(0, 9, size=(4, 40)).astype(float)
    low, high = roc_area_interval(values, target)
    other_low, other_high = roc_area_interval(values, ~target)
    np.testing.assert_allclose(low, 1 - other_high)
    np.testing.assert_allclose(high, 1 - other_low)
    area = roc_area(values, target)
    assert ((low < area) & (area < high)).all()
    both = roc_area_interval(values, np.stack([target, ~target]))
    np.testing.assert_allclose(both[0], np.stack([low, other_low]))


def test_undefined_areas_have_no_interval():
    target = np.array([True, True, False, False])
    rows = [[3.0, 4, 1, 2], [1, 1, 1, 1], [1, np.nan, 2, 3]]
    assert np.isnan(roc_area_interval(rows, target)).all()
    assert np.isnan(roc_area_interval([1.0, 2, 3, 4], np.array([True, False, False, False]))).all()
    for level in (95, 0, 1.0):
        with pytest.raises(ValueError, match="level must lie between 0 and 1"):
            adjusted_area_interval(0.7, 0.1, 0.1, 9, 9, level=level)
        with pytest.raises(ValueError, match="level must lie between 0 and 1"):
            roc_area_interval([1.0, 2, 3, 4], np.array([True, False, False, False]), level=level)
    with pytest.raises(ValueError, match="boolean"):
        roc_area_interval([1.0, 2.0], [1, 0])


def test_it_covers_where_the_plain_interval_does_not():
    rng = np.random.default_rng(3)
    target = np.arange(100) < 10
    values = rng.normal(size=(1500, 100)) + 2.2 * target
    truth = stats.norm.cdf(2.2 / np.sqrt(2))
    plain, adjusted = (
        int(((low <= truth) & (truth <= high)).sum())
        for low, high in (delong_interval(values, target), roc_area_interval(values, target))
    )
    limits = stats.binom.ppf([0.001, 0.999], 1500, 0.95)  # what an exact interval would give
    assert plain < limits[0]
    assert adjusted >= limits[0]
    middle, width = adjusted_area_interval(0.9, 0.05, 0.05, 50, 50)
    assert middle < 0.9 < width
