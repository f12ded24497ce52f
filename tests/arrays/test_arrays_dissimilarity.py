"""Distances, kernel alignment, ridge and reliability against NumPy, SciPy, scikit-learn, theory and symmetry."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import pdist, squareform
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

from featattn_neuro.arrays import dissimilarity as r
from featattn_neuro.arrays import prediction as p


@pytest.fixture
def rng():
    return np.random.default_rng(9)


def test_correlation_distance_is_scipys(rng):
    x = rng.normal(size=(7, 20))
    np.testing.assert_allclose(r.correlation_distance(x), squareform(pdist(x, "correlation")), atol=1e-12)
    np.testing.assert_allclose(r.correlation_distance(3 * x + 5), r.correlation_distance(x), atol=1e-12)


def test_a_constant_pattern_is_undefined_and_left_out(rng):
    x = rng.normal(size=(6, 10))
    x[2] = 0.1
    distance = r.correlation_distance(x)
    assert np.isnan(distance[2]).all()
    keep = [0, 1, 3, 4, 5]
    other = r.correlation_distance(rng.normal(size=(6, 10)))
    wanted = stats.spearmanr(
        r.upper_triangle(distance[np.ix_(keep, keep)]), r.upper_triangle(other[np.ix_(keep, keep)])
    )
    assert r.compare_dissimilarity(distance, other) == pytest.approx(wanted.statistic)


def hsic_by_definition(k, m):
    """Song et al. 2012, eq. 4: mean over distinct quadruples, by brute force."""
    n = k.shape[0]
    total = count = 0.0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for s in range(n):
                    if len({i, j, q, s}) == 4:
                        total += k[i, j] * (m[i, j] + m[q, s] - 2 * m[i, q])
                        count += 1
    return total / count


def test_unbiased_cka_equals_the_definition_over_quadruples(rng):
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 4))
    k, m = x @ x.T, y @ y.T
    norm = np.sqrt(hsic_by_definition(k, k) * hsic_by_definition(m, m))
    assert r.linear_cka(x, y) == pytest.approx(hsic_by_definition(k, m) / norm)


def test_biased_cka_is_the_feature_form(rng):
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 4))
    a, b = x - x.mean(0), y - y.mean(0)
    wanted = (np.linalg.norm(b.T @ a) ** 2) / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert r.linear_cka(x, y, unbiased=False) == pytest.approx(wanted)


def test_only_the_unbiased_form_is_centred_on_zero_for_independent_data(rng):
    pairs = [rng.normal(size=(2, 8, 200)) for _ in range(60)]
    assert np.mean([r.linear_cka(*pair, unbiased=False) for pair in pairs]) > 0.9
    assert abs(np.mean([r.linear_cka(*pair) for pair in pairs])) < 0.05


def test_cka_symmetries(rng):
    x, y = rng.normal(size=(15, 5)), rng.normal(size=(15, 7))
    y[:, :3] += x[:, :3]
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    for unbiased in (True, False):
        value = r.linear_cka(x, y, unbiased=unbiased)
        assert r.linear_cka(y, x, unbiased=unbiased) == pytest.approx(value)
        assert r.linear_cka(4 * x @ rotation + 2, y, unbiased=unbiased) == pytest.approx(value)
        assert r.linear_cka(x, x, unbiased=unbiased) == pytest.approx(1.0)
    assert np.isnan(r.linear_cka(np.ones((9, 3)), rng.normal(size=(9, 3))))
    assert np.isnan(r.linear_cka(x[:3], y[:3]))


def test_ridge_equals_folds_by_hand(rng):
    x = rng.normal(size=(50, 6))
    y = x @ rng.normal(size=(6, 2)) + rng.normal(size=(50, 2))
    by_fold = []
    for train, test in KFold(5, shuffle=True, random_state=3).split(x):
        scaler = StandardScaler().fit(x[train])
        model = RidgeCV(p.ALPHAS, alpha_per_target=True).fit(scaler.transform(x[train]), y[train])
        guess = model.predict(scaler.transform(x[test]))
        by_fold.append([stats.pearsonr(guess[:, k], y[test, k]).statistic for k in range(2)])
    np.testing.assert_allclose(p.ridge_predictivity(x, y, seed=3), np.mean(by_fold, axis=0))


def test_ridge_does_not_find_what_is_not_there_and_ignores_missing(rng):
    x, y = rng.normal(size=(80, 200)), rng.normal(size=(80, 30))
    assert abs(np.nanmean(p.ridge_predictivity(x, y))) < 0.1
    signal = x[:, :1] + 0.1 * rng.normal(size=(80, 1))
    both = np.hstack([signal, signal])
    both[::4, 1] = np.nan
    found = p.ridge_predictivity(x[:, :5], both)
    assert (found > 0.9).all()
    assert found[1] == p.ridge_predictivity(x[np.arange(80) % 4 > 0, :5], signal[np.arange(80) % 4 > 0])[0]
    both[9:, 1] = np.nan
    assert np.isnan(p.ridge_predictivity(x[:, :5], both)[1])


def test_reliability_recovers_the_ratio_of_variances(rng):
    signal = rng.normal(size=(2000, 1, 1))
    trials = signal + np.sqrt(4) * rng.normal(size=(2000, 8, 1))
    found = p.split_half_reliability(trials, splits=10, rng=rng)
    assert found[0] == pytest.approx(1 / (1 + 4 / 8), abs=0.03)
    gappy = np.concatenate([trials, np.full((2000, 3, 1), np.nan)], axis=1)
    assert p.split_half_reliability(gappy, splits=10, rng=rng)[0] == pytest.approx(found[0], abs=0.03)


def test_negative_reliability_is_not_corrected():
    np.testing.assert_array_equal(p.spearman_brown([-0.5, 0.0, 1.0]), [-0.5, 0.0, 1.0])
    one = np.full((5, 4, 1), np.nan)
    one[:, 0] = 1.0
    assert np.isnan(p.split_half_reliability(one, rng=np.random.default_rng(0))[0])  # no repeats
