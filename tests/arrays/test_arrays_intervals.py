"""Floors, permutation p, maximum statistic, intervals of d', and cross-validated d'."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special, stats

from featattn_neuro.arrays import discrimination as d
from featattn_neuro.arrays.intervals import bootstrap_interval, noncentral_t_interval
from featattn_neuro.arrays.permutation import permutation_test


@pytest.fixture
def rng():
    return np.random.default_rng(21)


def orders_of(seed, permutations, n):
    rng = np.random.default_rng(seed)
    return [rng.permutation(n) for _ in range(permutations)]


@pytest.mark.parametrize("share", [0.5, 0.3])
def test_permutation_test_is_permuting_by_hand(rng, share):
    responses = np.maximum(rng.normal(size=(6, 50)), 0).round(1)
    target = np.stack([np.arange(50) < 50 * share, rng.random(50) < 0.4])
    responses[:3, target[0]] += 0.5
    found = permutation_test(responses, target, permutations=60, rng=np.random.default_rng(4))
    null = [
        (np.abs(d.dprime(responses, target[:, order])), np.abs(d.roc_area(responses, target[:, order]) - 0.5))
        for order in orders_of(4, 60, 50)
    ]
    moved, area = (np.stack(one) for one in zip(*null, strict=True))
    seen = np.abs(d.dprime(responses, target)), np.abs(d.roc_area(responses, target) - 0.5)
    np.testing.assert_allclose(found.dprime_floor, moved.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.auc_floor, area.mean(axis=0), rtol=1e-10)
    for p, p_max, draws, value, slack in (
        (found.dprime_p, found.dprime_p_max, moved, seen[0], 1e-5), (found.auc_p, found.auc_p_max, area, seen[1], 1e-12)
    ):  # fmt: skip
        np.testing.assert_allclose(p, (1 + (draws >= value - slack).sum(axis=0)) / 61)
        largest = draws.max(axis=(1, 2))[:, None, None]
        np.testing.assert_allclose(p_max, (1 + (largest >= value - slack).sum(axis=0)) / 61)


def test_families_have_their_own_maximum_and_tensors_give_the_same(rng):
    responses, target = rng.normal(size=(6, 40)), np.arange(40) < 20
    family = np.array([0, 0, 7, 7, 7, 7])
    found = permutation_test(responses, target, permutations=50, rng=np.random.default_rng(1), family=family)
    for one in (0, 7):
        alone = permutation_test(responses[family == one], target, permutations=50, rng=np.random.default_rng(1))
        np.testing.assert_array_equal(found.auc_p_max[family == one], alone.auc_p_max)
        np.testing.assert_array_equal(found.dprime_p_max[family == one], alone.dprime_p_max)
    there = permutation_test(
        torch.from_numpy(responses), target, permutations=50, rng=np.random.default_rng(1), family=family
    )
    for name, value in vars(found).items():
        np.testing.assert_allclose(getattr(there, name), value, rtol=1e-5, err_msg=name)


def test_more_observations_than_float32_holds_are_multiplied_in_float64(rng, monkeypatch):
    from featattn_neuro.arrays import permutation

    responses, target = rng.normal(size=(4, 60)), np.arange(60) < 20
    single = permutation_test(responses, target, permutations=80, rng=np.random.default_rng(0))
    monkeypatch.setattr(permutation, "EXACT_IN_FLOAT32", 10)
    double = permutation_test(responses, target, permutations=80, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(single.auc_floor, double.auc_floor)
    np.testing.assert_allclose(single.dprime_floor, double.dprime_floor, rtol=1e-6)
    np.testing.assert_allclose(single.dprime_p, double.dprime_p, atol=0.02)


def test_rank_sums_are_exact_at_the_limit_of_float32():
    n = 8000
    ranks = np.arange(n) - (n - 1) / 2
    worst = (np.arange(n) >= n // 2).astype(np.float32)
    assert float(ranks.astype(np.float32) @ worst) == float(ranks[n // 2 :].sum()) == n * n / 8
    assert n * n / 4 < 2**24


def test_labels_are_exchanged_among_those_that_take_part_only(rng):
    responses, target = rng.normal(size=(3, 40)), np.arange(40) < 20
    among = np.arange(40) % 2 == 0
    responses[:, ~among] += 1e6 * target[~among]
    found = permutation_test(responses, target, permutations=99, rng=np.random.default_rng(2), among=among)
    alone = permutation_test(responses[:, among], target[among], permutations=99, rng=np.random.default_rng(2))
    for name, value in vars(found).items():
        np.testing.assert_array_equal(getattr(alone, name), value, err_msg=name)


def test_undefined_units_have_no_p(rng):
    target = np.arange(20) < 10
    responses = np.stack([np.zeros(20), np.full(20, 2.0), np.r_[np.nan, np.ones(19)], rng.normal(size=20)])
    found = permutation_test(responses, target, permutations=19, rng=rng)
    for value in vars(found).values():
        assert np.isnan(value).tolist() == [True, True, True, False]
    with pytest.raises(ValueError, match="at least 1"):
        permutation_test(responses, target, permutations=0, rng=rng)


def test_the_p_of_the_maximum_holds_the_familywise_error(rng):
    target = np.arange(40) < 20
    shared = rng.normal(size=(200, 1, 40))
    family = np.maximum(shared + rng.normal(size=(200, 30, 40)), 0)
    smallest = [permutation_test(one, target, permutations=99, rng=rng).auc_p_max.min() for one in family]
    # 200 families, nominal .05: binomial 99.9 % limit
    assert (np.array(smallest) <= 0.05).sum() <= stats.binom.ppf(0.999, 200, 0.05)


def test_noncentral_t_interval_inverts_the_distribution():
    n1, n0, difference = 20, 35, 0.9
    found = noncentral_t_interval(difference, n1, n0, 2.0, 2.0)
    freedom = 16 / (4 / 19 + 4 / 34)
    scale = np.sqrt(1 / n1 + 1 / n0)
    assert special.nctdtr(freedom, found.low / scale, difference / scale) == pytest.approx(0.975, abs=1e-9)
    assert special.nctdtr(freedom, found.high / scale, difference / scale) == pytest.approx(0.025, abs=1e-9)
    assert np.isnan(noncentral_t_interval(np.nan, 5, 5, 1.0, 1.0).low)
    large = noncentral_t_interval(40.0, 5, 5, 1.0, 1.0)
    assert large.low < 40 < large.high


@pytest.mark.parametrize(
    ("n1", "n0", "sd1", "sd0", "effect"), [(30, 30, 1, 1, 0.8), (15, 150, 1, 1, 0.5), (40, 40, 2, 1, 1.0)]
)
def test_noncentral_t_interval_covers_gaussian_units(rng, n1, n0, sd1, sd0, effect):
    s = np.sqrt((sd1**2 + sd0**2) / 2)
    a, b = rng.normal(effect * s, sd1, (4000, n1)), rng.normal(0, sd0, (4000, n0))
    x, target = np.c_[a, b], np.arange(n1 + n0) < n1
    low, high = noncentral_t_interval(d.dprime(x, target), n1, n0, a.var(1, ddof=1), b.var(1, ddof=1))
    covered = ((low <= effect) & (effect <= high)).mean()
    assert 0.93 < covered < 0.97


def test_bootstrap_covers_a_skewed_unit_and_declines_small_classes(rng):
    # gamma responses, the second class stretched: a population d' in closed form
    true = (1.5 * 2 - 2) / np.sqrt((2 + 1.5**2 * 2) / 2)
    x = np.c_[1.5 * rng.gamma(2, size=(800, 60)), rng.gamma(2, size=(800, 60))]
    target = np.arange(120) < 60
    low, high = bootstrap_interval(x, target, resamples=600, rng=rng)
    covered = ((low <= true) & (true <= high)).mean()
    assert covered > 0.92
    assert covered < 0.98
    with pytest.raises(ValueError, match="noncentral t"):
        bootstrap_interval(x[:2, :70], target[:70] & (np.arange(70) < 62), rng=rng, resamples=99)
    with pytest.raises(ValueError, match="15 observations"):
        bootstrap_interval(x[:2, :65], target[:65], rng=rng)
    assert np.isnan(bootstrap_interval(np.zeros((1, 120)), target, rng=rng).low).all()


def test_bootstrap_is_widened_for_small_classes(rng, monkeypatch):
    """10 targets, 90 distractors, rectified, d' 2 in closed form: plain BCa covers .89, widened .92."""
    from featattn_neuro.arrays import intervals

    monkeypatch.setattr(intervals, "FEWEST_FOR_BOOTSTRAP", 10)
    target = np.arange(100) < 10
    x = np.maximum(rng.normal(size=(6000, 100)) + 2 * target, 0)
    moments = []
    for mean in (2.0, 0.0):
        first = mean * stats.norm.cdf(mean) + stats.norm.pdf(mean)
        moments.append((first, (mean**2 + 1) * stats.norm.cdf(mean) + mean * stats.norm.pdf(mean) - first**2))
    true = (moments[0][0] - moments[1][0]) / np.sqrt((moments[0][1] + moments[1][1]) / 2)
    low, high = bootstrap_interval(x, target, resamples=600, rng=rng)
    assert ((low <= true) & (true <= high)).mean() > 0.906


def test_bootstrap_is_scipys_bca(rng):
    a, b = rng.gamma(2, size=40) * 1.5, rng.gamma(2, size=50)

    def effect(x, y, axis=-1):
        return (x.mean(axis) - y.mean(axis)) / np.sqrt((x.var(axis, ddof=1) + y.var(axis, ddof=1)) / 2)

    wanted = stats.bootstrap((a, b), effect, n_resamples=20000, method="BCa", rng=rng).confidence_interval
    found = bootstrap_interval(np.r_[a, b], np.arange(90) < 40, resamples=20000, rng=rng)
    assert float(found.low) == pytest.approx(wanted.low, abs=0.03)
    assert float(found.high) == pytest.approx(wanted.high, abs=0.03)


def test_bias_and_acceleration_move_the_ends_of_skewed_samples():
    """Small skewed classes, in which a plain percentile interval lies elsewhere."""
    from_bca, from_percentile = [], []

    def effect(x, y, axis=-1):
        return (x.mean(axis) - y.mean(axis)) / np.sqrt((x.var(axis, ddof=1) + y.var(axis, ddof=1)) / 2)

    for seed in range(4):
        draw = np.random.default_rng(seed)
        a, b = 2 * draw.exponential(size=20) + 1, draw.exponential(size=20)
        found = bootstrap_interval(np.r_[a, b], np.arange(40) < 20, resamples=5000, rng=draw)
        for method, distances in (("BCa", from_bca), ("percentile", from_percentile)):
            other = stats.bootstrap((a, b), effect, n_resamples=5000, method=method, rng=draw).confidence_interval
            distances += [abs(float(found.low) - other.low), abs(float(found.high) - other.high)]
    assert np.mean(from_bca) < 0.05
    assert np.mean(from_percentile) > 0.1


def test_crossvalidated_dprime_has_no_floor(rng):
    target = np.arange(100) < 50
    noise = rng.normal(size=(600, 100))
    assert np.abs(d.dprime(noise, target)).mean() > 0.15
    assert abs(d.crossvalidated_dprime(noise, target, splits=4, rng=rng).mean()) < 0.02
    effect = noise + 1.0 * target
    both = d.crossvalidated_dprime(np.concatenate([effect, -effect]), target, splits=4, rng=rng)
    assert both.mean() == pytest.approx(1.0, abs=0.05)
    assert np.isnan(d.crossvalidated_dprime(noise[0, :7], np.arange(7) < 4, splits=2, rng=rng))


def test_hedges_is_nearly_unbiased(rng):
    x, target = rng.normal(size=(20000, 12)), np.arange(12) < 6
    x[:, :6] += 1.0
    assert d.dprime(x, target, denominator="hedges").mean() == pytest.approx(1.0, abs=0.02)
    assert d.dprime(x, target, denominator="pooled").mean() > 1.06
    one = d.dprime(x[0], target, denominator="pooled")
    assert d.dprime(x[0], target, denominator="hedges") == pytest.approx(one * (1 - 3 / 39))


def test_delong_covariance_is_that_of_the_pairs(rng):
    responses, target = rng.normal(size=(4, 40)).round(1), np.arange(40) < 15
    found = d.delong_covariance(responses, target)
    np.testing.assert_allclose(np.diag(found), d.delong(responses, target))
    for i, j in ((0, 1), (2, 3)):
        _, variance = d.paired_delong(responses[i], responses[j], target)
        assert found[i, i] + found[j, j] - 2 * found[i, j] == pytest.approx(float(variance), rel=1e-9)
    assert np.isnan(d.delong_covariance(np.stack([responses[0], np.ones(40)]), target)).sum() == 3


def test_delong_of_an_example_worked_by_hand():
    """Worked by hand from DeLong, DeLong & Clarke-Pearson 1988, eq. 2-6: 3 targets, 4 distractors, one tie."""
    targets, distractors = [4.0, 3.0, 1.0], [2.0, 1.0, 0.0, 0.0]
    # placements of targets 4/4, 4/4, 2.5/4; of distractors 2/3, 2.5/3, 3/3, 3/3
    v10, v01 = np.array([1, 1, 0.625]), np.array([2 / 3, 2.5 / 3, 1, 1])
    wanted = v10.var(ddof=1) / 3 + v01.var(ddof=1) / 4
    assert float(d.delong(targets + distractors, np.arange(7) < 3)) == pytest.approx(wanted, rel=1e-13)
    assert wanted == pytest.approx(19 / 864, rel=1e-12)  # (3/64)/3 + (11/432)/4


def test_near_perfect_areas_keep_their_variance():
    n = 2000
    x = np.r_[np.arange(n) + n - 1.5, np.arange(n)].astype(float)
    target = np.arange(2 * n) < n
    wins = x[target][:, None] > x[~target]
    wanted = wins.mean(1).var(ddof=1) / n + wins.mean(0).var(ddof=1) / n
    assert float(d.delong(x, target)) == pytest.approx(wanted, rel=1e-9)


def test_roc_curve_is_scikit_learns(rng):
    from sklearn.metrics import roc_curve

    x, target = np.maximum(rng.normal(size=60), 0).round(1), np.arange(60) < 25
    found = d.roc_curve(x, target)
    alarms, hits, thresholds = roc_curve(target, x, drop_intermediate=False)
    np.testing.assert_allclose(found.false_alarm_rate, alarms)
    np.testing.assert_allclose(found.hit_rate, hits)
    np.testing.assert_array_equal(found.threshold, thresholds)
    assert np.trapezoid(found.hit_rate, found.false_alarm_rate) == pytest.approx(float(d.roc_area(x, target)))
    with pytest.raises(ValueError, match="finite"):
        d.roc_curve([1.0, np.nan], [True, False])
    with pytest.raises(ValueError, match="targets and distractors"):
        d.roc_curve([1.0, 2.0], [True, True])


def test_pooled_and_hedges_are_pingouins_effect_sizes(rng):
    pingouin = pytest.importorskip("pingouin")
    targets, distractors = rng.normal(0.6, 1.4, size=17), rng.normal(size=31)
    values, target = np.r_[targets, distractors], np.arange(48) < 17
    for denominator, kind in (("pooled", "cohen"), ("hedges", "hedges")):
        wanted = pingouin.compute_effsize(targets, distractors, eftype=kind)
        assert float(d.dprime(values, target, denominator=denominator)) == pytest.approx(wanted, rel=1e-12)
