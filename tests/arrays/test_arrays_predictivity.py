"""Ridge and partial least squares against scikit-learn; similarity of distributions against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, StratifiedShuffleSplit
from sklearn.preprocessing import StandardScaler

from featattn_neuro.arrays.distribution_similarity import distribution_similarity, ks_similarity
from featattn_neuro.arrays.partial_least_squares import pls_predictivity
from featattn_neuro.arrays.prediction import columnwise_correlation, split_half_reliability
from featattn_neuro.arrays.ridge import PENALTIES, ridge_predictivity


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def nested_by_hand(x, y, *, folds, inner, scale, seed):
    """Every fit made for itself, as the textbook says."""
    predicted, chosen = np.full(y.shape, np.nan), []
    for train, test in KFold(folds, shuffle=True, random_state=seed).split(x):
        scaler = StandardScaler(with_std=scale).fit(x[train])
        a, b = scaler.transform(x[train]), scaler.transform(x[test])
        errors = np.zeros((len(PENALTIES), y.shape[1]))
        for fit, check in KFold(inner, shuffle=True, random_state=seed).split(a):
            for row, penalty in enumerate(PENALTIES):
                guess = Ridge(alpha=penalty).fit(a[fit], y[train][fit]).predict(a[check])
                errors[row] += ((guess - y[train][check]) ** 2).mean(axis=0)
        chosen.append(np.array(PENALTIES)[errors.argmin(axis=0)])
        for neuron, penalty in enumerate(chosen[-1]):
            predicted[test, neuron] = Ridge(alpha=penalty).fit(a, y[train, neuron]).predict(b)
    return predicted, np.array(chosen)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("features", [8, 30, 150], ids=["primal", "dual, few", "dual, many"])
def test_ridge_equals_nested_folds_by_hand(rng, features, scale):
    x = rng.normal(size=(60, features)) * rng.uniform(0.1, 3, features) + 5
    y = x[:, :4] @ rng.normal(size=(4, 3)) + 2 * rng.normal(size=(60, 3))
    found = ridge_predictivity(x, y, folds=4, inner_folds=3, scale=scale, seed=1)
    predicted, penalty = nested_by_hand(x, y, folds=4, inner=3, scale=scale, seed=1)
    np.testing.assert_allclose(found.predicted, predicted, atol=1e-7)
    np.testing.assert_array_equal(found.penalty, penalty)
    assert len(np.unique(penalty)) > 1  # one penalty for all would not show that each neuron has its own
    for fold, (_, test) in enumerate(KFold(4, shuffle=True, random_state=1).split(x)):
        wanted = [stats.pearsonr(predicted[test, k], y[test, k]).statistic for k in range(3)]
        np.testing.assert_allclose(found.r[fold], wanted, atol=1e-6)
        assert (found.fold[test] == fold).all()


def test_penalties_that_hardly_differ_are_told_apart(rng):
    """Far more features than stimuli: the errors of small penalties differ in the sixth digit only."""
    x = rng.normal(size=(60, 500))
    y = x[:, :20] @ rng.normal(size=(20, 8)) + 4 * rng.normal(size=(60, 8))
    penalties = [1e-3, 1e-2, 1e-1]
    found = ridge_predictivity(x, y, folds=3, inner_folds=4, penalties=penalties, scale=False, seed=2)
    for fold, (train, _) in enumerate(KFold(3, shuffle=True, random_state=2).split(x)):
        errors = np.zeros((3, 8))
        for fit, check in KFold(4, shuffle=True, random_state=2).split(train):
            a, b = train[fit], train[check]
            guesses = [Ridge(alpha=p, solver="svd").fit(x[a], y[a]).predict(x[b]) for p in penalties]
            errors += [((guess - y[b]) ** 2).mean(axis=0) for guess in guesses]
        assert (np.ptp(errors, axis=0) < 1e-3 * errors[0]).all()
        np.testing.assert_array_equal(found.penalty[fold], np.array(penalties)[errors.argmin(axis=0)])


def test_ridge_is_himalayas(rng):
    pytest.importorskip("himalaya", reason="himalaya is not installed")
    from himalaya.backend import set_backend
    from himalaya.kernel_ridge import KernelRidgeCV

    set_backend("numpy")
    x, y = rng.normal(size=(90, 200)), rng.normal(size=(90, 6))
    y[:, :3] += x[:, :5] @ rng.normal(size=(5, 3))
    x, y = x - x.mean(0), y - y.mean(0)
    found = ridge_predictivity(x, y, folds=3, inner_folds=4, scale=False, seed=2)
    for fold, (train, test) in enumerate(KFold(3, shuffle=True, random_state=2).split(x)):
        inner = KFold(4, shuffle=True, random_state=2)
        model = KernelRidgeCV(alphas=np.array(PENALTIES), cv=inner, fit_intercept=True, warn=False)
        model.fit(x[train], y[train])
        np.testing.assert_allclose(found.penalty[fold], model.best_alphas_)
        np.testing.assert_allclose(found.predicted[test], model.predict(x[test]), atol=1e-6)


@pytest.mark.parametrize("scale", [True, False])
def test_a_common_offset_changes_no_prediction(rng, scale):
    x, y = rng.normal(size=(40, 90)), rng.normal(size=(40, 2))
    wanted = ridge_predictivity(x, y, folds=3, scale=scale).predicted
    np.testing.assert_allclose(
        ridge_predictivity(x + 100, y - 7, folds=3, scale=scale).predicted, wanted - 7, atol=1e-6
    )


def test_ridge_does_not_find_what_is_not_there_and_ignores_missing(rng):
    x, y = rng.normal(size=(80, 200)), rng.normal(size=(80, 30))
    assert abs(np.nanmean(ridge_predictivity(x, y, folds=5).r)) < 0.1
    signal = x[:, :1] + 0.1 * rng.normal(size=(80, 1))
    both = np.hstack([signal, signal])
    both[::4, 1] = np.nan
    found = ridge_predictivity(x[:, :5], both, folds=5)
    assert (found.r.mean(axis=0) > 0.9).all()
    seen = np.arange(80) % 4 > 0
    np.testing.assert_array_equal(found.r[:, 1], ridge_predictivity(x[seen, :5], signal[seen], folds=5).r[:, 0])
    assert np.isnan(found.predicted[~seen, 1]).all()
    assert (found.fold[~seen, 1] == -1).all()
    both[9:, 1] = np.nan
    assert np.isnan(ridge_predictivity(x[:, :5], both, folds=5).r[:, 1]).all()


def test_a_feature_that_only_held_out_stimuli_have_changes_nothing(rng):
    """Scaling over all stimuli would let it in."""
    x, y = rng.normal(size=(20, 40)), rng.normal(size=(20, 2))
    _, test = next(iter(KFold(4, shuffle=True, random_state=0).split(x)))
    leak = np.zeros((20, 1))
    leak[test] = y[test, :1]
    wanted = ridge_predictivity(x, y, folds=4).predicted[test]
    np.testing.assert_allclose(ridge_predictivity(np.hstack([x, leak]), y, folds=4).predicted[test], wanted)


def test_ridge_says_what_it_wants(rng):
    with pytest.raises(ValueError, match="same stimuli"):
        ridge_predictivity(np.ones((4, 2)), np.ones((5, 2)))
    with pytest.raises(ValueError, match="greater than 0"):
        ridge_predictivity(np.ones((4, 2)), np.ones((4, 2)), penalties=[0.0, 1.0])
    with pytest.raises(ValueError, match="finite"):
        ridge_predictivity(np.full((4, 2), np.nan), np.ones((4, 2)))


def test_pls_is_scikit_learns(rng):
    x, y = rng.normal(size=(80, 60)), rng.normal(size=(80, 5))
    y[:, :3] += x[:, :3]
    labels = np.repeat(list("abcd"), 20)
    found = pls_predictivity(x, y, strata=labels, seed=3)
    assert (found.components, found.stratified, found.r.shape) == (25, True, (10, 5))
    plan = StratifiedShuffleSplit(10, train_size=0.9, random_state=3)
    for split, (train, test) in enumerate(plan.split(x, labels)):
        wanted = PLSRegression(n_components=25, scale=False).fit(x[train], y[train]).predict(x[test])
        np.testing.assert_allclose(found.predicted[split, test], wanted, atol=1e-6)
        np.testing.assert_array_equal(np.flatnonzero(found.test[split]), np.sort(test))
        assert sorted(labels[test]) == sorted("abcd" * 2)
        assert found.r[split, 1] == pytest.approx(stats.pearsonr(wanted[:, 1], y[test, 1]).statistic)


def test_pls_says_when_it_cannot_do_as_asked(rng):
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(30, 1))
    found = pls_predictivity(x, y, strata=np.arange(30))
    assert (found.components, found.stratified) == (4, False)
    with pytest.raises(ValueError, match="finite"):
        pls_predictivity(x, np.full_like(y, np.nan))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=20), st.lists(st.integers(0, 6), min_size=1, max_size=20))
def test_ks_is_scipys_also_with_ties(x, y):
    assert ks_similarity(x, y) == pytest.approx(1 - stats.ks_2samp(x, y).statistic)
    assert ks_similarity(x, y) == pytest.approx(ks_similarity(y, x))


def test_likeness_and_its_ceiling_are_on_the_same_footing(rng):
    reference = rng.normal(size=60)
    same = [distribution_similarity(rng.normal(size=60), reference, splits=50, rng=rng) for _ in range(40)]
    gap = np.mean([one.matched - one.ceiling for one in same])
    assert abs(gap) < 0.03  # 1 − KS itself is about .85 here, far from 1
    assert np.mean([one.ceiling for one in same]) < 0.9
    other = distribution_similarity(rng.normal(2, 1, size=60), reference, rng=rng)
    assert other.matched < other.ceiling - 0.3
    assert np.isnan(distribution_similarity([1.0], [1.0, 2.0], rng=rng).ceiling)


def test_two_held_out_stimuli_are_no_correlation():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(21, 4)), rng.normal(size=(21, 3))
    with pytest.raises(ValueError, match=r"came 20 stimuli, of which 2 are held out; show 21 or more"):
        pls_predictivity(x[:20], y[:20])
    assert (np.abs(pls_predictivity(x, y).r) < 1).any()
    assert np.isnan(ridge_predictivity(x[:14], y[:14], folds=5).r).all()
    assert np.isfinite(ridge_predictivity(x[:15], y[:15], folds=5).r).all()
    with pytest.raises(ValueError, match="5 inner folds need as many training stimuli; 6 stimuli in 2 folds leave 3"):
        ridge_predictivity(x[:6], y[:6], folds=2, inner_folds=5)
    y[6:, 0] = np.nan  # this neuron alone has too few
    found = ridge_predictivity(x, y, folds=2, inner_folds=5).r
    assert np.isnan(found[:, 0]).all()
    assert np.isfinite(found[:, 1:]).all()


@pytest.mark.parametrize("unit", [1.0, 1e-7, 1e9], ids=["as it is", "small", "large"])
def test_correlation_has_no_unit(unit):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 1))
    y = x + rng.normal(size=(20, 1))
    assert columnwise_correlation(unit * x, unit * y)[0] == pytest.approx(np.corrcoef(x[:, 0], y[:, 0])[0, 1])
    for constant in (137.3, 1e6 + 0.1, 0.0):
        assert np.isnan(columnwise_correlation(np.full((20, 1), unit * constant), unit * y)).all()


def test_a_neuron_with_few_spikes_is_judged_by_the_splits_that_it_varies_in():
    rng = np.random.default_rng(0)
    rate = np.where(np.arange(20) == 3, 1.0, 0.0)
    trials = rng.poisson(rate[:, None, None], (20, 6, 30)).astype(float)
    trials[:, 3:, 0] = trials[:, :3, 0] = 0.0
    trials[3, 0, 0] = 1.0  # one spike in all: no half pair varies in both
    found = split_half_reliability(trials, splits=60, rng=rng)
    assert np.isnan(found[0])
    assert np.isfinite(found[1:]).mean() > 0.8
