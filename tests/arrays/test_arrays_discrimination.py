"""d' and ROC area against scikit-learn, SciPy, statsmodels, closed forms and symmetries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from featattn_neuro.arrays import discrimination as d
from featattn_neuro.arrays import packed_sort


def with_moments(rng, n, mean, sd):
    """n numbers with exactly this mean and SD (ddof 1)."""
    x = rng.normal(size=n)
    return (x - x.mean()) / x.std(ddof=1) * sd + mean


def example(rng, units=7, n=60, share=0.3):
    responses = np.maximum(rng.normal(size=(units, n)), 0)
    target = np.zeros(n, dtype=bool)
    target[rng.permutation(n)[: int(n * share)]] = True
    return responses, target


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_dprime_denominators_have_their_closed_forms(rng):
    balanced = np.r_[with_moments(rng, 50, 1, 2), with_moments(rng, 50, 0, 1)]
    target = np.arange(100) < 50
    assert d.dprime(balanced, target) == pytest.approx(0.632456, abs=1e-6)
    assert d.dprime(balanced, target, denominator="noise") == pytest.approx(1.0)


def test_imbalance_changes_pooled_but_not_the_default(rng):
    target = np.arange(1000) < 20
    for sd1, sd0, pooled in ((2, 1, 0.9726), (1, 2, 0.5036)):
        x = np.r_[with_moments(rng, 20, 1, sd1), with_moments(rng, 980, 0, sd0)]
        assert d.dprime(x, target) == pytest.approx(0.632456, abs=1e-6)
        assert d.dprime(x, target, denominator="pooled") == pytest.approx(pooled, abs=1e-4)


def test_pooled_is_cohens_d_and_the_t_statistic(rng):
    responses, target = example(rng)
    n1, n0 = target.sum(), (~target).sum()
    t = stats.ttest_ind(responses[:, target], responses[:, ~target], axis=1).statistic
    np.testing.assert_allclose(d.dprime(responses, target, denominator="pooled"), t * np.sqrt(1 / n1 + 1 / n0))


def test_a_large_offset_does_not_move_dprime(rng):
    responses, target = example(rng)
    assert np.abs(d.dprime(responses + 1e6, target) - d.dprime(responses, target)).max() < 1e-6
    floor = [
        d.dprime_floor(responses + shift, target, permutations=5, rng=np.random.default_rng(0)) for shift in (0, 1e6)
    ]
    np.testing.assert_allclose(floor[0], floor[1], atol=1e-6)


def test_roc_area_is_scikit_learns_with_ties(rng):
    responses, target = example(rng, units=40)
    wanted = [roc_auc_score(target, unit) for unit in responses]
    np.testing.assert_allclose(d.roc_area(responses, target), wanted, atol=1e-12)
    assert (responses == 0).mean() > 0.3  # ties were really there


def test_roc_area_of_the_worked_example():
    assert float(d.roc_area([1, 2, 2, 3, 0, 2, 2, 1], np.arange(8) < 4)) == 0.71875


def test_roc_area_is_mann_whitney(rng):
    responses, target = example(rng)
    u = stats.mannwhitneyu(responses[:, target], responses[:, ~target], axis=1).statistic
    np.testing.assert_allclose(d.roc_area(responses, target), u / (target.sum() * (~target).sum()))


def test_large_raw_activations_are_not_squashed(rng):
    responses, target = example(rng)
    np.testing.assert_array_equal(d.roc_area(10 * responses + 30, target), d.roc_area(responses, target))


def test_several_tasks_at_once_equal_one_at_a_time_and_blocks_do_not_matter(rng, monkeypatch):
    responses, _ = example(rng)
    tasks = np.stack([example(rng)[1] for _ in range(4)])
    whole = [f(responses, tasks) for f in (d.dprime, d.roc_area, d.delong, d.status_codes)]
    monkeypatch.setattr(packed_sort, "BLOCK_NUMBERS", 2 * responses.shape[1])
    for kernel, together in zip((d.dprime, d.roc_area, d.delong, d.status_codes), whole, strict=True):
        assert together.shape == (4, 7)
        np.testing.assert_array_equal(together, np.stack([kernel(responses, task) for task in tasks]))


def naive_delong(x, target):
    """DeLong 1988 by the definition: all pairs."""
    a, b = x[target], x[~target]
    wins = (a[:, None] > b) + 0.5 * (a[:, None] == b)
    return wins.mean(1), wins.mean(0)


def test_delong_variance_equals_the_all_pairs_definition(rng):
    responses, target = example(rng)
    for unit, variance in zip(responses, d.delong(responses, target), strict=True):
        v10, v01 = naive_delong(unit, target)
        wanted = v10.var(ddof=1) / v10.size + v01.var(ddof=1) / v01.size
        assert variance == pytest.approx(wanted, rel=1e-10)


def test_paired_delong_equals_the_covariance_form(rng):
    a, target = example(rng, units=1)
    b = a + rng.normal(size=a.shape)
    difference, variance = d.paired_delong(a, b, target)
    (a10, a01), (b10, b01) = naive_delong(a[0], target), naive_delong(b[0], target)
    s10, s01 = np.cov(a10, b10), np.cov(a01, b01)
    s = s10 / a10.size + s01 / a01.size
    assert float(difference[0]) == pytest.approx(roc_auc_score(target, a[0]) - roc_auc_score(target, b[0]))
    assert float(variance[0]) == pytest.approx(s[0, 0] + s[1, 1] - 2 * s[0, 1], rel=1e-10)


def test_delong_interval_covers(rng):
    true = stats.norm.cdf(1 / np.sqrt(2))
    target = np.arange(120) < 60
    x = rng.normal(size=(1500, 120)) + target
    low, high = d.delong_interval(x, target)
    assert 0.925 < ((low <= true) & (true <= high)).mean() < 0.975


def test_delong_interval_of_a_perfect_unit_is_undefined_not_1_to_1():
    target = np.arange(8) < 4
    for x in (np.arange(8.0), -np.arange(8.0)):
        low, high = d.delong_interval(x, target)
        assert np.isnan(low)
        assert np.isnan(high)
        assert float(d.roc_area(x, target)) in (0.0, 1.0)


def test_the_undefined_is_nan_with_its_reason():
    target = np.array([True, True, False, False])
    rows = [[0, 0, 0, 0], [2, 2, 2, 2], [1, 1, 0, 0], [1, np.nan, 0, 2], [1, np.inf, 0, 2], [1, 2, 3, 4]]
    assert d.status_codes(rows, target).tolist() == ["dead", "constant", "constant", "nonfinite", "nonfinite", "ok"]
    with np.errstate(invalid="ignore"):
        assert np.isnan(d.dprime(rows, target)).tolist() == [True] * 5 + [False]
    np.testing.assert_array_equal(np.isnan(d.roc_area(rows, target)), [True, True, False, True, True, False])
    assert d.status_codes(rows[5], np.array([True, False, False, False])) == "too_few"
    assert d.status_codes(rows[5], np.zeros(4, bool)) == "single_class"
    for few in (np.zeros(4, bool), np.array([True, False, False, False])):
        assert np.isnan(d.dprime(rows[5], few))
        assert np.isnan(d.roc_area(rows[5], few))
        assert np.isnan(d.delong(rows[5], few))


def test_a_constant_class_has_no_variance_even_where_its_mean_is_not_representable():
    x = np.r_[np.full(7, 0.1), np.full(5, 0.3)]
    target = np.arange(12) < 7
    assert np.isnan(d.dprime(x, target))


def test_the_floor_of_dprime_has_its_closed_form(rng):
    target = np.arange(100) < 50
    gaussian = rng.normal(size=(300, 100))
    floor = d.dprime_floor(gaussian, target, permutations=200, rng=rng).mean()
    assert floor == pytest.approx(0.1608, rel=0.02)
    assert floor == pytest.approx(np.sqrt(2 / np.pi) * np.sqrt(2 / 50), rel=0.02)


def test_the_floor_equals_permuting_by_hand(rng):
    responses, target = example(rng)
    found = d.dprime_floor(responses, target, permutations=20, rng=np.random.default_rng(5))
    again = np.random.default_rng(5)
    orders = [again.permutation(60) for _ in range(20)]
    by_hand = np.mean([np.abs(d.dprime(responses, target[order])) for order in orders], axis=0)
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)


def test_gaussian_relation_of_dprime_and_area(rng):
    target = np.arange(40000) < 20000
    x = rng.normal(size=40000) + target
    assert np.sqrt(2) * stats.norm.ppf(d.roc_area(x, target)) == pytest.approx(float(d.dprime(x, target)), abs=0.03)


def test_what_is_not_boolean_is_refused():
    with pytest.raises(ValueError, match="must be boolean"):
        d.dprime([1.0, 2.0], [1, 0])
    with pytest.raises(ValueError, match="last axes"):
        d.roc_area([1.0, 2.0, 3.0], [True, False])
    with pytest.raises(ValueError, match="denominator"):
        d.dprime([1.0, 2.0], [True, False], denominator="sd")


numbers = st.lists(st.integers(-5, 5), min_size=6, max_size=30)


@settings(max_examples=60, deadline=None)
@given(numbers, st.integers(0, 2**16), st.floats(0.25, 4.0))
def test_gain_identities(values, seed, gain):
    """g > 0 leaves both, g < 0 turns the sign, g = 0 is undefined; swapping classes turns the sign."""
    x = np.array(values, dtype=float)
    target = np.zeros(x.size, dtype=bool)
    target[np.random.default_rng(seed).permutation(x.size)[: x.size // 2]] = True
    before, area = d.dprime(x, target), d.roc_area(x, target)
    np.testing.assert_allclose(d.dprime(gain * x, target), before, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(d.dprime(-gain * x, target), -before, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(d.dprime(x, ~target), -before, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(d.roc_area(gain * x, target), area)
    np.testing.assert_allclose(d.roc_area(-x, target), 1 - area, atol=1e-12)
    np.testing.assert_allclose(d.roc_area(np.exp(x), target), area)
    assert d.status_codes(0 * x, target) == "dead"
    assert np.isnan(d.dprime(0 * x, target))
