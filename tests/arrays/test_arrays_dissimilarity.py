"""Distances, kernel alignment and reliability against SciPy, rsatoolbox, definitions, theory and symmetry."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import pdist, squareform

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


def test_cka_of_independent_data_with_many_features(rng):
    x, y = rng.normal(size=(2, 1000, 10_000)).astype(np.float32)
    assert abs(r.linear_cka(x, y)) < 0.1
    assert r.linear_cka(x, y, unbiased=False) > 0.9


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


def test_shares_of_the_explainable_keep_the_sign():
    np.testing.assert_allclose(p.explained_share([0.5, -0.5], 0.5), [0.5, -0.5])
    np.testing.assert_allclose(p.attenuation_corrected([0.5, -0.5], 0.25), [1.0, -1.0])
    assert np.isnan(p.explained_share(0.3, [0.0, -0.2])).all()


def test_euclidean_is_scipys_squared_mean(rng):
    x = rng.normal(size=(7, 20)) + 1e4
    np.testing.assert_allclose(r.euclidean_distance(x), squareform(pdist(x, "sqeuclidean")) / 20, atol=1e-9)
    x[3, 5] = np.nan
    found = r.euclidean_distance(x)
    assert np.isnan(found[3]).all()
    assert np.isfinite(np.delete(np.delete(found, 3, 0), 3, 1)).all()


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_float32_keeps_six_digits_under_an_offset(rng, offset):
    x = (rng.normal(size=(40, 20_000)) + offset).astype(np.float32)
    exact = np.corrcoef(x.astype(np.float64))
    assert np.abs(1 - r.correlation_distance(x) - exact).max() < 1e-6
    wanted = squareform(pdist(x.astype(np.float64), "sqeuclidean")) / x.shape[1]
    assert np.abs(r.euclidean_distance(x) / np.where(wanted > 0, wanted, 1) - (wanted > 0)).max() < 1e-6
    x[4] = offset + 0.1
    assert np.isnan(r.correlation_distance(x)[4]).all()


def test_distances_are_rsatoolboxs(rng):
    rsatoolbox = pytest.importorskip("rsatoolbox", reason="rsatoolbox is not installed")
    folds, stimuli, features = 4, 9, 15
    values = rng.normal(size=(folds, stimuli, features)) + 3 * rng.normal(size=(stimuli, features))
    rows = values.reshape(-1, features)
    descriptors = {"s": np.tile(np.arange(stimuli), folds), "fold": np.repeat(np.arange(folds), stimuli)}
    trials = rsatoolbox.data.Dataset(rows, obs_descriptors=descriptors)
    means = rsatoolbox.data.Dataset(values.mean(axis=0))
    covariance = np.cov(rng.normal(size=(200, features)), rowvar=False)
    precision = np.linalg.inv(covariance)

    def theirs(data, method, **more):
        return rsatoolbox.rdm.calc_rdm(data, method=method, **more).get_matrices()[0]

    np.testing.assert_allclose(r.correlation_distance(values.mean(0)), theirs(means, "correlation"), atol=1e-6)
    np.testing.assert_allclose(r.euclidean_distance(values.mean(0)), theirs(means, "euclidean"), atol=1e-6)
    for noise, mine in ((None, None), (precision, precision), (np.diag(np.diag(precision)), np.diag(precision))):
        wanted = theirs(trials, "crossnobis", descriptor="s", cv_descriptor="fold", noise=noise)
        np.testing.assert_allclose(r.crossnobis_distance(values, precision=mine), wanted, atol=1e-6)


def test_crossnobis_is_zero_on_average_where_only_noise_differs(rng):
    noise = [r.upper_triangle(r.crossnobis_distance(rng.normal(size=(3, 6, 30)))).mean() for _ in range(200)]
    assert abs(np.mean(noise)) < 4 * np.std(noise) / np.sqrt(len(noise))
    biased = [
        r.upper_triangle(r.euclidean_distance(rng.normal(size=(3, 6, 30)).mean(axis=0))).mean() for _ in range(50)
    ]
    assert np.mean(biased) == pytest.approx(2 / 3, abs=0.05)
    with pytest.raises(ValueError, match="two folds or more"):
        r.crossnobis_distance(rng.normal(size=(1, 6, 30)))


def tau_by_pairs(x, y):
    n = len(x)
    signs = [np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i in range(n) for j in range(i)]
    return np.sum(signs) / (n * (n - 1) / 2)


@pytest.mark.parametrize("levels", [3, 1000])
def test_kendall_tau_a_counts_pairs(rng, levels):
    x, y = rng.integers(levels, size=(2, 25)).astype(float)
    assert r.kendall_tau_a(x, y) == pytest.approx(tau_by_pairs(x, y), abs=1e-12)
    assert r.kendall_tau_a(x, -y) == pytest.approx(-r.kendall_tau_a(x, y))


def test_agreement_and_ceilings_are_rsatoolboxs(rng):
    rsatoolbox = pytest.importorskip("rsatoolbox", reason="rsatoolbox is not installed")
    truth = rng.normal(size=(12, 8))
    matrices = np.stack([r.correlation_distance(truth + rng.normal(size=truth.shape)) for _ in range(4)])
    rdms = rsatoolbox.rdm.RDMs(np.stack([r.upper_triangle(one) for one in matrices]))
    for by, method in (("spearman", "spearman"), ("kendall", "tau-a")):
        wanted = rsatoolbox.rdm.compare(rdms[0], rdms[1], method).item()
        assert r.compare_dissimilarity(matrices[0], matrices[1], by=by) == pytest.approx(wanted, abs=1e-6)
        low, high = rsatoolbox.inference.boot_noise_ceiling(rdms, method=method, rdm_descriptor="index")
        found = r.noise_ceiling(matrices, by=by)
        assert (found.lower, found.upper) == pytest.approx((low, high), abs=1e-6)
        assert found.lower < found.upper
    assert np.isnan(r.noise_ceiling(matrices[:1]).upper)
