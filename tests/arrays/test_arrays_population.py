"""Gain covariance and linear read-outs: closed forms, scikit-learn, chance level."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from featattn_neuro.arrays.gain_covariance import centred_ranks, spearman_standard_error
from featattn_neuro.arrays.linear_discriminant import fisher_weights, hedges_factor, population_dprime, stratified_folds


@pytest.fixture
def rng():
    return np.random.default_rng(8)


def test_standard_error_is_the_quadratic_form_over_the_trace(rng):
    gains, score = rng.normal(size=(60, 4)) @ rng.normal(size=(4, 20)), rng.normal(size=20)
    covariance = np.cov(centred_ranks(gains).T, ddof=0)
    direction = centred_ranks(score)
    wanted = np.sqrt(direction @ covariance @ direction / np.trace(covariance))
    assert spearman_standard_error(score, gains) == pytest.approx(wanted)


def test_standard_error_predicts_the_spread_of_rho_where_the_naive_one_does_not(rng):
    """Filters of four dimensions: .21 of independent filters is far too small, the gains' covariance is right."""
    mixing, score = rng.normal(size=(24, 4)), rng.normal(size=24)
    score = score + mixing @ rng.normal(size=4)
    gains = rng.normal(size=(4000, 4)) @ mixing.T
    rho = centred_ranks(gains) @ centred_ranks(score)
    found = float(spearman_standard_error(score, gains[:500]))
    assert found == pytest.approx(rho.std(), rel=0.1)
    assert found > 1.3 / np.sqrt(23)


def test_standard_error_is_undefined_without_spread(rng):
    assert np.isnan(spearman_standard_error(np.ones(9), rng.normal(size=(9, 9))))
    assert np.isnan(spearman_standard_error(np.arange(9), rng.normal(size=(2, 9))))
    assert np.isnan(spearman_standard_error(np.arange(9), np.tile(np.arange(9), (5, 1))))
    with pytest.raises(ValueError, match="null_gain"):
        spearman_standard_error(np.arange(9), rng.normal(size=(5, 8)))


def test_fisher_weights_point_where_scikit_learns_lda_does(rng):
    """Without need of shrinkage, the direction is that of linear discriminant analysis."""
    target = np.arange(20000) < 8000
    mixing = np.eye(6) + 0.3 * rng.normal(size=(6, 6))
    values = mixing @ rng.normal(size=(6, 20000)) + np.arange(6)[:, None] * 0.3 * target
    lda = LinearDiscriminantAnalysis(solver="lsqr").fit(values.T, target)
    mine = fisher_weights(values, target)
    assert mine @ lda.coef_[0] / np.linalg.norm(mine) / np.linalg.norm(lda.coef_[0]) > 0.9999


@pytest.mark.parametrize("scale", [1e-14, 1e-100, 1e14])
def test_fisher_weights_know_no_absolute_size(rng, scale):
    target = np.arange(60) < 30
    values = rng.normal(size=(3, 60)) + target
    wanted = fisher_weights(values, target)
    np.testing.assert_allclose(fisher_weights(values * scale, target) * scale, wanted)
    beside = np.array([1.0, scale, 0.0])[:, None]  # a small, a large and a silent unit beside each other
    found = fisher_weights(values * beside, target)
    np.testing.assert_allclose(found[:2] * [1, scale], fisher_weights(values[:2], target))
    assert found[2] == 0
    assert fisher_weights(np.full((1, 60), 0.1 * scale), target).tolist() == [0.0]


def test_fisher_weights_do_not_hang_on_units_or_constant_filters(rng):
    target = np.arange(60) < 30
    values = rng.normal(size=(4, 60)) + target
    factor = np.array([1.0, 100.0, 0.01, 3.0])
    np.testing.assert_allclose(
        fisher_weights(values * factor[:, None], target) * factor, fisher_weights(values, target)
    )
    dead = np.vstack([values, np.zeros(60)])
    found = fisher_weights(dead, target)
    assert found[-1] == 0
    np.testing.assert_allclose(found[:-1], fisher_weights(values, target))
    assert np.isnan(fisher_weights(values, np.arange(60) < 1)).all()


def test_population_dprime_approaches_its_closed_form(rng):
    target = np.arange(1000) < 400
    root, shift = np.eye(5) + 0.3 * rng.normal(size=(5, 5)), rng.normal(size=5)
    draws = root @ rng.normal(size=(20, 5, 1000)) + shift[:, None] * target
    found = [population_dprime(values, target, rng=rng) for values in draws]
    wanted = np.sqrt(shift @ np.linalg.solve(root @ root.T, shift))
    # four Monte-Carlo standard errors, and the d²/n that five weights learned from 800 stimuli cost
    assert abs(np.mean(found) - wanted) < 4 * np.std(found) / np.sqrt(20) + 0.01 * wanted


def test_population_dprime_of_noise_is_near_zero_not_biased_upward(rng):
    target = np.arange(60) < 30
    found = [population_dprime(rng.normal(size=(40, 60)), target, rng=rng) for _ in range(60)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(60)
    in_sample = [fisher_weights(v, target) @ v for v in rng.normal(size=(5, 40, 60))]
    assert min(v[:30].mean() - v[30:].mean() for v in in_sample) > 0.5  # what leaving out the folds would give


def test_population_dprime_is_undefined_with_too_few(rng):
    assert np.isnan(population_dprime(rng.normal(size=(3, 30)), np.arange(30) < 9, rng=rng))
    values = rng.normal(size=(3, 30))
    values[1, 4] = np.inf
    assert np.isnan(population_dprime(values, np.arange(30) < 15, rng=rng))
    with pytest.raises(ValueError, match="boolean"):
        population_dprime(values, np.arange(30), rng=rng)


def test_folds_are_stratified_and_complete(rng):
    target = np.arange(53) < 13
    fold = stratified_folds(target, 5, rng)
    assert set(fold) == set(range(5))
    for side in (target, ~target):
        counts = np.bincount(fold[side], minlength=5)
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(("count", "others", "truth"), [(10, 10, 2.0), (10, 40, 2.0), (30, 30, 1.0)])
def test_few_held_out_trials_do_not_inflate_the_dprime(count, others, truth):
    """One unit, two held-out trials of a class in each fold: the mean over folds of their d' would be 1.8 times it."""
    rng = np.random.default_rng(2)
    target = np.arange(count + others) < count
    draws = rng.normal(size=(600, 1, target.size)) + truth * target
    found = np.array([population_dprime(values, target, rng=rng) for values in draws])
    assert abs(found.mean() - truth) < 4 * found.std() / np.sqrt(len(found))
    assert found.std() / np.sqrt(len(found)) < 0.03


def test_hedges_factor_is_the_ratio_of_gamma_functions():
    from scipy.special import gamma

    freedom = np.array([1.5, 2.0, 7.0, 60.0])
    wanted = gamma(freedom / 2) / (np.sqrt(freedom / 2) * gamma((freedom - 1) / 2))
    np.testing.assert_allclose(hedges_factor(freedom), wanted)
