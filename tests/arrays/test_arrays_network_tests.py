"""Crossed test, equivalence, U-shape, bootstrap, max-T, disattenuation: closed forms, other code, symmetries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from featattn_neuro.arrays import association as a
from featattn_neuro.arrays.crossed import crossed_test
from featattn_neuro.arrays.disattenuation import disattenuated
from featattn_neuro.arrays.equivalence import equivalence_test
from featattn_neuro.arrays.multiplicity import adjust, family_size, max_statistic
from featattn_neuro.arrays.resampling import bootstrap_t_interval, t_interval, t_test
from featattn_neuro.arrays.u_shape import two_sides, u_shape_test


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_crossed_mean_squares_are_the_two_way_anova(rng):
    table = rng.normal(size=(4, 6)) + rng.normal(size=(4, 1)) + rng.normal(size=(1, 6))
    found = crossed_test(table)
    design = np.eye(4)[:, None].repeat(6, 1).reshape(24, 4), np.tile(np.eye(6), (4, 1))
    y = table.ravel() - table.mean()
    explained = [float(y @ d @ np.linalg.pinv(d) @ y) for d in design]
    assert found.ms_network == pytest.approx(explained[0] / 3)
    assert found.ms_task == pytest.approx(explained[1] / 5)
    assert found.ms_error == pytest.approx((float(y @ y) - sum(explained)) / 15)


def test_crossed_is_the_t_test_over_networks_when_networks_dominate(rng):
    table = rng.normal(size=(5, 1)) * 9 + 3 + 0.01 * rng.normal(size=(5, 8))
    found = crossed_test(table)
    assert found.denominator == pytest.approx(found.ms_network, rel=1e-3)
    assert found.p == pytest.approx(t_test(table.mean(axis=1)), rel=1e-2)
    assert (found.ci_low, found.ci_high) == pytest.approx(t_interval(table.mean(axis=1)), rel=1e-2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(2, 6))
def test_crossed_never_rejects_more_than_either_t_test_and_is_symmetric(seed, n, t):
    table = np.random.default_rng(seed).normal(0.5, size=(n, t))
    found, turned = crossed_test(table), crossed_test(table.T)
    assert found.p == pytest.approx(turned.p)
    fewer = table.mean(axis=1) if n <= t else table.mean(axis=0)
    assert found.p >= t_test(fewer) - 1e-9
    assert (found.ci_low > 0 or found.ci_high < 0) == (found.p < 0.05)


def test_crossed_is_undefined_not_zero():
    assert np.isnan(crossed_test([[1.0, 2.0]]).p)
    assert np.isnan(crossed_test([[1.0, np.nan], [1.0, 2.0]]).p)
    assert np.isnan(crossed_test(np.ones((3, 3))).p)
    with pytest.raises(ValueError, match="network, task"):
        crossed_test([1.0, 2.0])


def test_equivalence_is_statsmodels(rng):
    x = rng.normal(0.02, 0.1, size=8)
    found = equivalence_test(x, 0.15)
    p, lower, upper = DescrStatsW(x).ttost_mean(-0.15, 0.15)
    assert (found.p, found.p_lower, found.p_upper) == pytest.approx((p, lower[1], upper[1]))
    assert (found.ci_low, found.ci_high) == pytest.approx(t_interval(x, 0.90))
    assert found.equivalent == (found.ci_low > -0.15 and found.ci_high < 0.15)
    with pytest.raises(ValueError, match="above 0"):
        equivalence_test(x, 0.0)
    assert not equivalence_test([0.0, 0.0, 0.0], 1.0).equivalent


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=2, max_size=9), st.floats(0.05, 3))
def test_equivalent_exactly_when_the_90_percent_interval_is_inside(values, bound):
    found = equivalence_test(values, bound)
    if (
        np.isfinite(found.ci_low)
        and np.ptp(values) > 1e-9
        and min(abs(found.ci_low + bound), abs(found.ci_high - bound)) > 1e-9
    ):
        assert found.equivalent == (-bound < found.ci_low and found.ci_high < bound)


def test_two_sides_are_scipys_on_each_side(rng):
    x, y = rng.normal(size=(2, 40))
    left, right = two_sides(x, y)
    assert left == pytest.approx(stats.spearmanr(x[x < 0], y[x < 0]).statistic)
    assert right == pytest.approx(stats.spearmanr(x[x >= 0], y[x >= 0]).statistic)
    assert np.isnan(two_sides(x, y, at=-9.0)[0])


def test_a_line_is_no_u_and_a_parabola_is(rng):
    x = rng.normal(size=(6, 60))
    straight = u_shape_test(*two_sides(x, 2 * x + rng.normal(size=x.shape)))
    bent = u_shape_test(*two_sides(x, x**2 + 0.3 * rng.normal(size=x.shape)))
    assert straight.p_u > 0.5
    assert bent.p_u < 0.01
    turned = u_shape_test(*two_sides(x, -(x**2) + 0.3 * rng.normal(size=x.shape)))
    assert turned.p_inverted < 0.01


def test_u_p_is_the_larger_one_sided_p():
    left, right = np.array([-1.0, -0.5, -2.0, 0.2]), np.array([0.1, 0.9, 1.1, 0.4])
    wanted = max(
        stats.ttest_1samp(left, 0, alternative="less").pvalue, stats.ttest_1samp(right, 0, alternative="greater").pvalue
    )
    assert u_shape_test(left, right).p_u == pytest.approx(wanted)


def test_bootstrap_is_refused_below_ten_replicates(rng):
    x = rng.normal(size=9)
    assert np.isnan(bootstrap_t_interval(x, rng=rng)).all()
    assert np.isfinite(bootstrap_t_interval(np.r_[x, 0.1], rng=rng)).all()
    assert np.isnan(bootstrap_t_interval(np.r_[x, np.nan], rng=rng)).all()


def test_bootstrap_t_of_normal_data_is_near_the_t_interval(rng):
    x = rng.normal(size=40)
    found = bootstrap_t_interval(x, resamples=4000, rng=rng)
    assert found == pytest.approx(t_interval(x), abs=0.08)


def test_bootstrap_moves_and_scales_with_the_data(rng):
    x = rng.exponential(size=12)
    one, two = (bootstrap_t_interval(v, resamples=500, rng=np.random.default_rng(1)) for v in (x, 3 * x + 5))
    assert two == pytest.approx((3 * one[0] + 5, 3 * one[1] + 5))


def test_max_statistic_by_enumeration(rng):
    observed, null = np.array([2.0, 3.5, 0.5, np.nan]), np.abs(rng.normal(size=(50, 4)))
    single = [(1 + (null[:, :3].max(axis=1) >= value).sum()) / 51 for value in observed[:3]]
    np.testing.assert_allclose(max_statistic(observed, null, step_down=False)[:3], single)
    down = max_statistic(observed, null)
    second = (1 + (null[:, [0, 2]].max(axis=1) >= 2.0).sum()) / 51
    assert down[1] == pytest.approx(single[1])
    assert down[0] == pytest.approx(max(second, down[1]))
    assert down[2] == pytest.approx(max((1 + (null[:, 2] >= 0.5).sum()) / 51, down[0]))
    assert np.isnan(down[3])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_max_statistic_properties(seed, m):
    rng = np.random.default_rng(seed)
    observed, null = np.abs(rng.normal(size=m)), np.abs(rng.normal(size=(30, m)))
    down, single = max_statistic(observed, null), max_statistic(observed, null, step_down=False)
    raw = (1 + (null >= observed).sum(axis=0)) / 31
    assert (down <= single + 1e-12).all()
    assert (down >= raw - 1e-12).all()
    assert (down > 0).all()
    order = np.argsort(-observed)
    assert (np.diff(down[order]) >= -1e-12).all()


def test_max_statistic_refuses_undefined_null_values():
    with pytest.raises(ValueError, match="finite"):
        max_statistic([1.0, 2.0], [[1.0, np.nan]])
    assert np.isnan(max_statistic([np.nan], [[np.nan]])).all()


def test_family_size_counts_what_was_tested():
    assert family_size([0.1, np.nan, 0.2]) == 2
    p = np.array([0.01, np.nan, 0.02])
    np.testing.assert_allclose(adjust(p, "bonferroni")[[0, 2]], p[[0, 2]] * family_size(p))


def test_partial_spearman_is_pingouins(rng):
    pingouin = pytest.importorskip("pingouin", reason="pingouin is not installed")
    import pandas as pd

    x, y, u, v = rng.normal(size=(4, 50))
    frame = pd.DataFrame({"x": x + u, "y": y + u - v, "u": u, "v": v})
    for given_ in (["u"], ["u", "v"]):
        wanted = pingouin.partial_corr(frame, x="x", y="y", covar=given_, method="spearman")["r"].iloc[0]
        found = a.partial_spearman(frame["x"], frame["y"], frame[given_].to_numpy().T)
        assert found == pytest.approx(float(wanted), abs=1e-12)


@pytest.mark.parametrize("method", ["spearman", "kendall", "pearson"])
def test_cross_correlation_is_scipys_with_ties(rng, method):
    x, y = rng.integers(0, 6, size=(3, 25)).astype(float), rng.integers(0, 6, size=(2, 25)).astype(float)
    reference = {"spearman": stats.spearmanr, "kendall": stats.kendalltau, "pearson": stats.pearsonr}[method]
    wanted = [[reference(u, v).statistic for v in y] for u in x]
    np.testing.assert_allclose(a.cross_correlation(x, y, method=method), wanted, atol=1e-12)
    x[0, 3], y[1] = np.nan, 2.0
    found = a.cross_correlation(x, y, method=method)
    assert np.isnan(found[0]).all()
    assert np.isnan(found[:, 1]).all()
    assert np.isfinite(found[1:, 0]).all()
    with pytest.raises(ValueError, match="method must be one of"):
        a.cross_correlation(x, y, method="tau")


def test_disattenuated_conditions(rng):
    good = disattenuated(np.full(12, 0.3) + 0.01 * rng.normal(size=12), np.full(12, 0.9), np.full(12, 0.4), rng=rng)
    assert good.value == pytest.approx(0.3 / np.sqrt(0.36), abs=0.02)
    assert good.ci_low < good.value < good.ci_high
    assert good.status == "ok"
    low = disattenuated([0.1] * 12, [0.29] * 12, [0.9] * 12, rng=rng)
    assert np.isnan(low.value)
    assert low.status == "unreliable"
    few = disattenuated([0.3] * 5, [0.5] * 5, [0.5] * 5, rng=rng)
    assert few.value == pytest.approx(0.6)
    assert np.isnan(few.ci_low)
    assert few.status == "too_few"
    beyond = disattenuated([0.8] * 5, [0.5] * 5, [0.5] * 5, rng=rng)
    assert beyond.value > 1  # no bound


def test_bootstrap_reaches_further_on_the_side_of_the_tail(rng):
    """The mean of right-skewed data falls short more often than it exceeds, so the upper end lies further away."""
    x = rng.exponential(size=15) ** 2
    low, high = bootstrap_t_interval(x, resamples=2000, rng=rng)
    assert high - x.mean() > 1.3 * (x.mean() - low)
    turned_low, turned_high = bootstrap_t_interval(-x, resamples=2000, rng=rng)
    assert -x.mean() - turned_low > 1.3 * (turned_high + x.mean())
