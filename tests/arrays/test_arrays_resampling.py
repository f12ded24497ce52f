"""Intervals, p-values, corrections and areas against SciPy, statsmodels and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from featattn_neuro.arrays.curves import area_over, area_over_log2
from featattn_neuro.arrays.multiplicity import adjust
from featattn_neuro.arrays.resampling import permutation_p, share_interval, t_interval, t_test


def test_t_interval_and_test_are_scipys():
    x = np.random.default_rng(0).normal(0.3, size=9)
    found = stats.ttest_1samp(x, 0)
    assert t_test(x) == pytest.approx(found.pvalue)
    for level in (0.90, 0.95):
        wanted = found.confidence_interval(level)
        assert t_interval(x, level) == pytest.approx((wanted.low, wanted.high))
    assert t_test(np.r_[x, np.nan]) == pytest.approx(found.pvalue)


def test_the_interval_excludes_zero_exactly_when_p_is_below_alpha():
    rng = np.random.default_rng(1)
    for _ in range(100):
        x = rng.normal(0.5, size=5)
        low, high = t_interval(x)
        assert (low > 0 or high < 0) == (t_test(x) < 0.05)


@pytest.mark.parametrize(("hits", "n"), [(0, 12), (7, 12), (12, 12), (59, 60), (180, 400)])
def test_interval_of_a_share_is_statsmodels(hits, n):
    from statsmodels.stats.proportion import proportion_confint

    values = np.r_[np.ones(hits), np.zeros(n - hits), np.nan]
    for level in (0.9, 0.95):
        assert share_interval(values, level) == pytest.approx(
            proportion_confint(hits, n, alpha=1 - level, method="agresti_coull")
        )


def test_interval_of_a_share_covers_where_students_does_not():
    """Exactly, over all numbers of hits: 60 images, 97 % of them hit."""
    k = np.arange(61)
    weight = stats.binom.pmf(k, 60, 0.97)
    covers = dict.fromkeys((share_interval, t_interval), 0.0)
    for hits, chance in zip(k, weight, strict=True):
        values = np.arange(60) < hits
        for make in covers:
            low, high = make(values.astype(float))
            covers[make] += chance * (low <= 0.97 <= high)
    assert covers[share_interval] > 0.95
    assert covers[t_interval] < 0.85
    assert np.isnan(share_interval([np.nan])).all()
    with pytest.raises(ValueError, match=r"between 0 and 1; came 0\.5 to 1\.5"):
        share_interval([0.5, 1.5])


def test_degenerate_replicates():
    assert np.isnan(t_interval([1.0])).all()
    assert np.isnan(t_test([1.0]))
    assert t_interval([2.0, 2.0]) == (2.0, 2.0)
    assert np.isnan(t_test([2.0, 2.0]))
    assert t_test([0.0, 0.0, 0.0]) == 1.0


def test_permutation_p_is_never_zero_and_counts_ties():
    null = np.array([-1.0, 0.0, 1.0, 2.0, -2.0])
    assert permutation_p(2.0, null, centre=0.0) == 3 / 6
    assert permutation_p(9.0, null) == 1 / 6
    assert permutation_p(0.0, null) == 1.0
    assert np.isnan(permutation_p(np.nan, null))


VECTOR = [0.01, 0.04, 0.03, 0.005, 0.5]


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("holm", [0.04, 0.09, 0.09, 0.025, 0.5]),
        ("bh", [0.025, 0.05, 0.05, 0.025, 0.5]),
        ("by", [0.057083, 0.114167, 0.114167, 0.057083, 1.0]),
        ("bonferroni", [0.05, 0.2, 0.15, 0.025, 1.0]),
    ],
)
def test_the_published_vectors(method, wanted):
    np.testing.assert_allclose(adjust(VECTOR, method), wanted, atol=1e-6)


def test_one_family_is_one_family():
    p = [0.01, 0.02, 0.03, 0.04, 0.05]
    np.testing.assert_allclose(adjust(p, "bonferroni"), [0.05, 0.1, 0.15, 0.2, 0.25])
    np.testing.assert_allclose(adjust(p, "bh"), [0.05] * 5)


NAMES = {"holm": "holm", "bh": "fdr_bh", "by": "fdr_by", "bonferroni": "bonferroni"}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=15), st.sampled_from(sorted(NAMES)))
def test_adjusted_is_statsmodels_and_keeps_the_order(p, method):
    found = adjust(p, method)
    np.testing.assert_allclose(found, multipletests(p, method=NAMES[method])[1], atol=1e-12)
    assert (found >= np.array(p)).all()  # also by rounding: [0]*5 + [.83] once came back smaller
    order = np.argsort(p, kind="stable")
    assert (np.diff(found[order]) >= -1e-12).all()
    with_gap = adjust([*p, np.nan], method)
    np.testing.assert_array_equal(with_gap[:-1], found)  # the NaN is not in the family
    assert np.isnan(with_gap[-1])


def test_adjust_refuses_what_is_no_p():
    with pytest.raises(ValueError, match="lie in"):
        adjust([0.1, 1.2])
    with pytest.raises(ValueError, match="method"):
        adjust([0.1], "hs")
    assert np.isnan(adjust([np.nan, np.nan])).all()
    assert adjust(np.full((2, 3), 0.1)).shape == (2, 3)


def test_areas_have_their_closed_forms():
    m = np.array([1, 2, 5, 10, 20, 50, 100])
    line = 0.5 + 0.1 * np.log2(m)  # linear in log2 m: the trapezoid is exact
    assert area_over_log2(m, line) == pytest.approx(0.5 + 0.05 * np.log2(100))
    assert area_over_log2(m, np.full((3, 7), 0.7)) == pytest.approx(0.7)
    u = np.arange(0, 130, 10)
    assert area_over(u, 2.0 * u) == pytest.approx(120.0)
    assert area_over(u, np.full(13, 0.25)) == pytest.approx(0.25)
    by_hand = sum((line[i] + line[i + 1]) / 2 * np.log2(m[i + 1] / m[i]) for i in range(6)) / np.log2(100)
    assert area_over_log2(m, line) == pytest.approx(by_hand)


def test_areas_refuse_disorder():
    with pytest.raises(ValueError, match="must increase"):
        area_over([0, 10, 5], [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="positive"):
        area_over_log2([0, 1], [1.0, 1.0])
    with pytest.raises(ValueError, match="wanted"):
        area_over([0, 1], [1.0])
