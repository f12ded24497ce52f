"""Models of attention's effect: recovery of the truth, closed forms, another optimiser, simulated counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from featattn_neuro.arrays import attention_models as models
from featattn_neuro.arrays.population_simulation import draw_population, tuning_means

STIMULI, REPEATS, NEURONS = 12, 20, 500


def population(seed=1, *, neurons=NEURONS, phi=0.0, gain=1.0, shift=0.0, exponent=1.0, correlation=0.0):
    drawn = draw_population(
        neurons=neurons, stimuli=STIMULI, repeats=REPEATS, mean=10, gain=gain, shift=shift, exponent=exponent,
        modulation=0.9, concentration=2, phi=phi, correlation=correlation, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return tuple(np.moveaxis(counts, (0, 1, 2), (1, 2, 0)) for counts in drawn.counts)


def chosen(fits, neurons=NEURONS):
    bic, _ = models.information_criteria(fits, np.full(neurons, 2 * STIMULI * REPEATS))
    return np.array(list(bic))[np.argmin(list(bic.values()), axis=0)]


@pytest.mark.parametrize("phi", [0.0, 0.1], ids=["poisson", "overdispersed"])
@pytest.mark.parametrize(
    ("truth", "effect"),
    [
        ("none", {}),
        ("multiplicative", {"gain": 1.25}),
        ("additive", {"shift": 2.5}),
        ("both", {"gain": 1.2, "shift": 2.0}),
        ("width", {"gain": 1.1, "exponent": 1.4}),
    ],
)
def test_the_truth_is_recovered(truth, effect, phi):
    off, on = population(phi=phi, **effect)
    fits, found_phi = models.fit_models(off, on)
    fit, picked = fits[truth], chosen(fits)
    wanted = {"g": effect.get("gain", 1.0), "b": effect.get("shift", 0.0), "e": effect.get("exponent", 1.0)}
    for name, value in fit.value.items():
        if name == "g":
            assert np.mean(value) == pytest.approx(wanted["g"], rel=0.01)
        covered = np.abs(value - wanted[name]) < 1.96 * fit.error[name]
        assert covered.mean() >= 0.92
        bias = np.mean(value) - wanted[name]
        assert abs(bias) < 3 * np.std(value) / np.sqrt(NEURONS) + 0.005 * abs(wanted[name])
    if truth in ("none", "multiplicative", "additive"):
        assert (picked == "both").mean() <= 0.05
        assert (picked == truth).mean() > 0.9
        both = fits["both"].value
        assert np.mean(both["g"]) == pytest.approx(wanted["g"], rel=0.01)  # no attenuated slope
        assert abs(np.mean(both["b"]) - wanted["b"]) < 4 * np.std(both["b"]) / np.sqrt(NEURONS)
    assert np.mean(found_phi) == pytest.approx(phi, abs=0.01)
    assert fit.converged.all()


def test_regression_of_noisy_on_noisy_would_have_invented_an_added_response():
    off, on = population(gain=1.25)
    few = off[..., :4].mean(axis=2), on[..., :4].mean(axis=2)
    slopes = [stats.linregress(x, y).slope for x, y in zip(*few, strict=True)]
    assert np.mean(slopes) < 0.98 * 1.25
    fits, _ = models.fit_models(off[..., :4], on[..., :4], noise="poisson")
    assert np.mean(fits["both"].value["g"]) == pytest.approx(1.25, rel=0.01)


def test_aic_overfits_where_bic_does_not():
    fits, _ = models.fit_models(*population(gain=1.25))
    both = list(fits).index("both")
    bic, aic = (
        np.argmin(list(table.values()), axis=0) for table in models.information_criteria(fits, np.full(NEURONS, 480))
    )
    assert (aic == both).mean() > 0.05 > (bic == both).mean()
    p = models.likelihood_ratio_p(fits["both"], [fits["multiplicative"], fits["additive"]])
    assert stats.binomtest(int((p < 0.05).sum()), NEURONS, 0.05).pvalue > 0.01


@pytest.mark.parametrize("name", ["multiplicative", "additive", "both", "width"])
@pytest.mark.parametrize("phi", [0.0, 0.1], ids=["poisson", "overdispersed"])
def test_the_maximum_is_that_of_another_optimiser(name, phi):
    off, on = population(3, neurons=2, phi=phi, gain=1.2, shift=1.0)
    fits, found_phi = models.fit_models(off, on)
    for neuron in range(2):
        counts, k = (off[neuron], on[neuron]), 1 / max(found_phi[neuron], 1e-9)
        centre = off[neuron].mean()

        def negative(x, counts=counts, k=k, centre=centre):
            mu, theta = np.exp(x[:STIMULI]), x[STIMULI:]
            attended = {
                "multiplicative": lambda: theta[0] * mu,
                "additive": lambda: mu + theta[0],
                "both": lambda: theta[0] * mu + theta[1],
                "width": lambda: theta[0] * centre * (mu / centre) ** theta[1],
            }[name]()
            if attended.min() <= 0:
                return 1e9
            return -sum(
                stats.nbinom.logpmf(c, k, k / (k + m[:, None])).sum()
                for c, m in zip(counts, (mu, attended), strict=True)
            )

        fit = fits[name]
        mine = np.concatenate([np.log(fit.latent[neuron]), [v[neuron] for v in fit.value.values()]])
        start = mine + np.random.default_rng(0).normal(0, 0.02, mine.size)
        theirs = optimize.minimize(negative, start, method="L-BFGS-B", options={"maxiter": 5000, "maxfun": 10**6})
        assert negative(mine) <= theirs.fun + 1e-4
        np.testing.assert_allclose(mine[STIMULI:], theirs.x[STIMULI:], atol=0.02)


def test_dispersion_closed_form():
    """Cells with mean 10 and variance 32 of two repeats: E[mean²] is 100 - 32/2, the excess variance 32 - 10."""
    cells = np.tile([6.0, 14.0], (1, 5, 1))
    assert models.dispersion(cells, cells)[0] == pytest.approx(22 / 84)
    assert models.dispersion(cells * 0 + 10, cells * 0 + 10)[0] == 0  # less than Poisson
    assert np.isnan(models.dispersion(cells[..., :1], cells[..., :1])[0])


def test_poisson_closed_forms():
    off, on = population(4, neurons=20, gain=1.3)
    fits, _ = models.fit_models(off, on, noise="poisson", models=["multiplicative", "none"])
    ratio = on.sum(axis=(1, 2)) / off.sum(axis=(1, 2))
    np.testing.assert_allclose(fits["multiplicative"].value["g"], ratio, rtol=1e-6)
    # the share of attended spikes is binomial, and that is all the information there is on g
    n, share = (off + on).sum(axis=(1, 2)), ratio / (1 + ratio)
    np.testing.assert_allclose(
        fits["multiplicative"].error["g"] / ratio, 1 / np.sqrt(n * share * (1 - share)), rtol=1e-5
    )
    np.testing.assert_allclose(fits["none"].latent, (off + on).mean(axis=2) / 2, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.0, 50.0), min_size=5, max_size=12, unique=True),
    st.floats(0.2, 4.0),
    st.floats(0.1, 20.0),
)
def test_without_noise_the_parameters_come_back(curve, gain, shift):
    tuning = np.array(curve)[None, :, None] + 0.5
    if np.ptp(tuning) < 1:
        return
    fits, _ = models.fit_models(tuning, gain * tuning, noise="gaussian")
    assert fits["multiplicative"].value["g"][0] == pytest.approx(gain, rel=1e-5)
    assert fits["both"].value["b"][0] == pytest.approx(0, abs=1e-5 * tuning.max())
    assert fits["width"].value["e"][0] == pytest.approx(1, abs=1e-5)
    fits, _ = models.fit_models(tuning, gain * tuning + shift, noise="gaussian")
    assert fits["both"].value["g"][0] == pytest.approx(gain, rel=1e-5)
    assert fits["both"].value["b"][0] == pytest.approx(shift, abs=1e-5 * (1 + gain) * tuning.max())


def test_gaussian_both_is_orthogonal_regression():
    rng = np.random.default_rng(0)
    tuning = rng.normal(5, 2, size=(3, 200, 1))
    off, on = tuning + 0.3 * rng.normal(size=tuning.shape), 1.4 * tuning - 2 + 0.3 * rng.normal(size=tuning.shape)
    fits, _ = models.fit_models(off, on, noise="gaussian", models=["both"])
    for k in range(3):
        (xx, xy), (_, yy) = np.cov(off[k, :, 0], on[k, :, 0])
        slope = (yy - xx + np.sqrt((yy - xx) ** 2 + 4 * xy**2)) / (2 * xy)
        assert fits["both"].value["g"][k] == pytest.approx(slope, rel=1e-6)
        assert fits["both"].value["b"][k] == pytest.approx(on[k].mean() - slope * off[k].mean(), rel=1e-5)


def test_held_out_stimuli_prefer_the_truth():
    off, on = population(5, neurons=200, gain=1.3)
    fits, _ = models.fit_models(off, on, groups=STIMULI)
    score = {name: fit.held_out.mean() for name, fit in fits.items()}
    assert max(score, key=score.__getitem__) == "multiplicative"
    # parameters that were not fitted to a stimulus cannot explain it better than those that were
    assert all((fit.held_out <= fit.log_likelihood + 1e-6).all() for fit in fits.values())


def test_what_cannot_be_told_is_nan():
    flat = np.full((1, 6, 3), 4.0)
    fits, _ = models.fit_models(flat, 2 * flat, noise="gaussian")
    assert np.isnan(fits["both"].value["g"][0])
    assert fits["multiplicative"].value["g"][0] == pytest.approx(2)
    silent, _ = models.fit_models(0 * flat, 0 * flat)
    assert np.isnan(silent["none"].log_likelihood[0])
    few, _ = models.fit_models(flat[:, :2] * [[[1.0], [2.0]]], flat[:, :2], noise="gaussian")
    assert np.isnan(few["multiplicative"].value["g"][0])
    with pytest.raises(ValueError, match="must not be negative"):
        models.fit_models(-flat, flat)


def test_missing_trials_and_stimuli_with_few_spikes():
    off, on = population(6, neurons=200, gain=1.3)
    rng = np.random.default_rng(0)
    off[rng.random(off.shape) < 0.3] = np.nan
    on[:, 3] = np.nan
    off[:, 5] = 0
    on[:, 5] = 0
    fits, _ = models.fit_models(off, on)
    assert np.mean(fits["multiplicative"].value["g"]) == pytest.approx(1.3, rel=0.02)
    assert fits["both"].converged.mean() > 0.98


def test_slopes_by_hand():
    rng = np.random.default_rng(0)
    unattended, tuning = rng.uniform(1, 2, size=(5, 30)), rng.normal(size=30)
    attended = unattended * (1 + 0.3 * tuning)
    np.testing.assert_allclose(models.similarity_slope(attended, unattended, tuning), 0.3)
    ratio = 1.5 - 0.4 * np.arange(8) / 7
    preferred_first = np.linspace(9, 2, 8)
    assert models.preference_slope(ratio * preferred_first, preferred_first, preferred_first) == pytest.approx(-0.4)
    gap = preferred_first.copy()
    gap[2] = 0
    assert np.isfinite(models.preference_slope(ratio * gap, gap, preferred_first))
    index, selectivity = rng.normal(size=20), rng.normal(size=20)
    assert models.selectivity_slope(index, selectivity) == pytest.approx(stats.linregress(selectivity, index).slope)
    assert np.isnan(models.selectivity_slope(index, np.ones(20)))
    assert models.attention_index([3.0, 0, 1], [1.0, 0, 3])[[0, 2]].tolist() == [0.5, -0.5]


@pytest.mark.parametrize("phi", [0.0, 0.2])
def test_simulated_counts_have_the_moments_they_were_given(phi):
    for correlation in (0.0, 0.3):
        drawn = draw_population(
            neurons=6, stimuli=4, repeats=4000, mean=10, gain=1.5, shift=1, exponent=1, modulation=0.5,
            concentration=1, phi=phi, correlation=correlation, rng=np.random.default_rng(2),
        )  # fmt: skip
        np.testing.assert_allclose(drawn.counts.mean(axis=2), drawn.means, rtol=0.03)
        np.testing.assert_allclose(drawn.counts.var(axis=2), drawn.means + phi * drawn.means**2, rtol=0.12)
        np.testing.assert_allclose(drawn.means[1], 1.5 * drawn.means[0] + 1)
        pairs = [np.corrcoef(drawn.counts[c, s].T)[np.triu_indices(6, 1)] for c in (0, 1) for s in range(4)]
        assert np.mean(pairs) == pytest.approx(correlation, abs=0.015)
    np.testing.assert_allclose(drawn.means[0].mean(axis=0), 10)


def test_tuning_peaks_at_the_preferred_direction():
    angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    curve = tuning_means(angles, angles[[5, 20]], mean=4, modulation=1.0, concentration=3.0)
    assert curve.argmax(axis=0).tolist() == [5, 20]
    assert curve.min() / curve.max() == pytest.approx(np.exp(-6))


def test_likelihood_ratio_of_estimated_noise_is_an_f_test():
    """Twelve stimuli, one mean each: chi-square would reject about 8 % of true nulls, F rejects 5 %."""
    rng = np.random.default_rng(2)
    tuned = 10 + 8 * np.sin(np.linspace(0, 3, 12)) + 0 * rng.random((2500, 1))
    off, on = (tuned + rng.normal(size=tuned.shape) for _ in range(2))
    fits, _ = models.fit_models(
        off[..., None], on[..., None], noise="gaussian", models=["none", "multiplicative", "both"]
    )
    assert set(fits["multiplicative"].freedom) == {11.0}
    assert set(fits["both"].freedom) == {10.0}
    p = models.likelihood_ratio_p(fits["multiplicative"], [fits["none"]])
    low, high = stats.binom.ppf([0.001, 0.999], p.size, 0.05)
    assert low <= (p <= 0.05).sum() <= high
    ratio = 2 * (fits["multiplicative"].log_likelihood - fits["none"].log_likelihood)
    assert (stats.chi2.sf(ratio, 1) <= 0.05).sum() > high
    squares = np.exp(ratio / 12)  # of residuals, none over multiplicative
    np.testing.assert_allclose(p, stats.f.sf((squares - 1) * 11, 1, 11), rtol=1e-9)
    counts, _ = models.fit_models(
        rng.poisson(off[:50, :, None] + 20), rng.poisson(on[:50, :, None] + 20), noise="poisson"
    )
    assert np.isinf(counts["both"].freedom).all()


@pytest.mark.parametrize("noise", ["poisson", "gaussian"])
@pytest.mark.parametrize("repeats", [2, 6])
def test_intervals_of_gaussian_noise_take_the_variances_from_the_repeats(noise, repeats):
    """Also where variance grows with the mean: from the residuals alone, Poisson counts would be covered in .8."""
    rng, shape = np.random.default_rng(3), (1000, 12, repeats)
    angle = np.arange(12) * np.pi / 6
    tuning = 0.5 + 11 * np.exp(2 * (np.cos(angle - rng.uniform(0, 2 * np.pi, (1000, 1))) - 1))
    both = [
        rng.poisson(mean[..., None], shape) if noise == "poisson" else mean[..., None] + 2 * rng.normal(size=shape)
        for mean in (tuning, 1.2 * tuning)
    ]
    fits, _ = models.fit_models(*both, noise="gaussian", models=["multiplicative", "both"])
    for model, parameter, truth in (("multiplicative", "g", 1.2), ("both", "g", 1.2), ("both", "b", 0.0)):
        fit = fits[model]
        reach = stats.t.ppf(0.975, fit.error_freedom[parameter]) * fit.error[parameter]
        covered = np.abs(fit.value[parameter] - truth) <= reach
        assert 0.93 < covered.mean() < 0.985
    single, _ = models.fit_models(*(one[..., :1] for one in both), noise="gaussian", models=["multiplicative"])
    np.testing.assert_array_equal(
        single["multiplicative"].error_freedom["g"], single["multiplicative"].freedom
    )  # without repeats from the residuals
