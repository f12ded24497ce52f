"""Sparseness, orientation, signal detection, variability, choice, tuning fits, classes: closed forms and vectors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from featattn_neuro.arrays import choice, class_selectivity, orientation, signal_detection, sparseness, variability
from featattn_neuro.arrays.tuning_fits import fit_tuning, von_mises_half_width


@pytest.fixture
def rng():
    return np.random.default_rng(11)


# ---------------------------------------------------------------------------------------------------- sparseness


def test_lifetime_sparseness_of_the_published_vector():
    found = sparseness.lifetime_sparseness([2.24, 3.6, 0.8, 2.4, 3.52, 5.68, 8.96, 0])
    assert float(found) == pytest.approx(0.43500091849856, abs=1e-13)


def test_sparseness_at_its_ends(rng):
    assert float(sparseness.lifetime_sparseness(np.full(9, 0.1))) == 0.0
    assert float(sparseness.lifetime_sparseness(np.eye(9)[3] * 1e-300)) == pytest.approx(1.0)
    assert np.isnan(sparseness.lifetime_sparseness(np.zeros(9)))
    responses = rng.gamma(1, size=(5, 30))
    np.testing.assert_allclose(sparseness.lifetime_sparseness(7 * responses), sparseness.lifetime_sparseness(responses))
    np.testing.assert_allclose(sparseness.population_sparseness(responses), sparseness.lifetime_sparseness(responses.T))


def test_negative_responses_are_refused_unless_rectified():
    with pytest.raises(ValueError, match="1 are negative"):
        sparseness.lifetime_sparseness([1.0, -2.0, 3.0])
    assert sparseness.lifetime_sparseness([1.0, -2.0, 3.0], rectify=True) == sparseness.lifetime_sparseness([1.0, 0, 3])
    with pytest.raises(ValueError, match="two stimuli"):
        sparseness.lifetime_sparseness([1.0])


def test_participation_ratio_counts_dimensions(rng):
    assert sparseness.participation_ratio(np.eye(7)) == pytest.approx(7)
    a = rng.normal(size=(6, 3))
    values = np.linalg.eigvalsh(a @ a.T)
    assert sparseness.participation_ratio(a @ a.T) == pytest.approx(values.sum() ** 2 / (values**2).sum())
    with pytest.raises(ValueError, match="symmetric"):
        sparseness.participation_ratio([[1.0, 2.0], [0.0, 1.0]])
    assert np.isnan(sparseness.participation_ratio(np.zeros((2, 2))))


# ---------------------------------------------------------------------------------------------------- orientation


def test_orientation_index_is_one_minus_circular_variance(rng):
    angles = np.arange(0, 180, 15.0)
    r = rng.gamma(2, size=(4, 12))
    doubled = np.deg2rad(2 * angles)
    wanted = np.hypot((r * np.cos(doubled)).sum(1), (r * np.sin(doubled)).sum(1)) / r.sum(1)
    np.testing.assert_allclose(orientation.orientation_selectivity(r, angles), wanted)
    order = rng.permutation(12)
    np.testing.assert_allclose(orientation.orientation_selectivity(r[:, order], angles[order]), wanted)
    both = np.concatenate([r, r], axis=1)
    np.testing.assert_allclose(orientation.orientation_selectivity(both, np.r_[angles, angles + 180]), wanted)
    np.testing.assert_allclose(orientation.direction_selectivity(both, np.r_[angles, angles + 180]), 0, atol=1e-12)


@pytest.mark.parametrize("first", [-90.0, -45.0, 90.0])
def test_orientations_may_be_coded_around_any_angle(rng, first):
    angles = np.arange(0, 180, 30.0)
    r = rng.uniform(1, 9, 6)
    coded = (angles - first) % 180 + first
    wanted = orientation.orientation_selectivity(r, angles)
    np.testing.assert_allclose(orientation.orientation_selectivity(r, coded), wanted)
    twice = np.r_[coded, coded + 180] % 360 - 180
    np.testing.assert_allclose(orientation.orientation_selectivity(np.r_[r, r], twice), wanted)


@pytest.mark.parametrize("angles", [[0, 90, 180], [0, 45, 90, 135, 180], [0, 30, 90], [0, 0, 90]])
def test_angles_that_do_not_tile_are_refused(angles):
    with pytest.raises(ValueError, match="must tile"):
        orientation.orientation_selectivity(np.ones(len(angles)), angles)
    with pytest.raises(ValueError, match="must tile 360"):
        orientation.direction_selectivity(np.ones(4), [0, 45, 90, 135])


def test_floors_of_a_flat_poisson_unit(rng):
    """Simulated: .057 for the vector index and .177 for preferred minus orthogonal, mean 2, 12 angles, 10 trials."""
    angles = np.arange(0, 180, 15.0)
    trials = rng.poisson(2.0, size=(3000, 12, 10)).astype(float)
    assert orientation.orientation_selectivity(trials.mean(-1), angles).mean() == pytest.approx(0.057, abs=0.002)
    assert orientation.preferred_minus_orthogonal(trials.mean(-1), angles).mean() == pytest.approx(0.177, abs=0.004)
    floor, p = orientation.selectivity_floor(trials[:300], angles, permutations=60, rng=rng)
    assert floor.mean() == pytest.approx(0.057, abs=0.004)
    assert (p <= 0.05).mean() < 0.1
    tuned = rng.poisson(5 + 5 * np.cos(np.deg2rad(2 * angles))[:, None], size=(5, 12, 10))
    assert (orientation.selectivity_floor(tuned, angles, permutations=60, rng=rng)[1] == 1 / 61).all()
    with pytest.raises(ValueError, match="negative"):
        orientation.orientation_selectivity([-1.0, 1.0], [0, 90])


# ---------------------------------------------------------------------------------------------------- signal detection


def test_signal_detection_of_the_published_rates():
    found = signal_detection.signal_detection(9, 1, 3, 7, correction="clip")
    assert float(found.dprime) == pytest.approx(1.805952, abs=1e-6)
    assert float(found.criterion) == pytest.approx(-0.378576, abs=1e-6)
    assert float(found.log_beta) == pytest.approx(float(found.criterion * found.dprime))
    # ln β is the log of the likelihood ratio at the criterion
    ratio = stats.norm.logpdf(stats.norm.ppf(0.9)) - stats.norm.logpdf(stats.norm.ppf(0.3))
    assert float(found.log_beta) == pytest.approx(ratio)


def test_corrections_use_the_count_of_their_own_cell():
    found = signal_detection.signal_detection(10, 0, 0, 40, correction="half")
    assert (float(found.hit_rate), float(found.false_alarm_rate)) == (1 - 1 / 20, 1 / 80)
    found = signal_detection.signal_detection(10, 0, 0, 40)
    assert (float(found.hit_rate), float(found.false_alarm_rate)) == (10.5 / 11, 0.5 / 41)
    found = signal_detection.signal_detection(10, 0, 0, 40, correction="clip")
    assert (float(found.hit_rate), float(found.false_alarm_rate)) == (0.99, 0.01)
    assert np.isnan(signal_detection.signal_detection(0, 0, 3, 4).dprime)
    with pytest.raises(ValueError, match="correction must be"):
        signal_detection.signal_detection(1, 1, 1, 1, correction="none")
    with pytest.raises(ValueError, match="between 0"):
        signal_detection.corrected_rate(5, 4)


def test_conclusions_that_the_correction_decides_are_flagged():
    # few trials without a miss against many with a few: which is better depends on the correction
    flips = signal_detection.comparison_flips([6, 240], [0, 10], [1, 41], [5, 209])
    assert bool(flips.dprime_sign_flips)
    assert not bool(signal_detection.comparison_flips([6, 5], [0, 1], [1, 1], [5, 5]).dprime_sign_flips)
    bias = signal_detection.correction_sensitivity([4, 40], [0, 10], [1, 40], [50, 10])
    assert bias.criterion.shape == (3, 2)
    assert bias.criterion_sign_flips.tolist() == [bool(np.ptp(np.sign(bias.criterion[:, 0])) > 0), False]


# ---------------------------------------------------------------------------------------------------- variability


def test_fano_factor_of_poisson_and_by_hand(rng):
    assert variability.fano_factor(rng.poisson(4, size=(50, 400))).mean() == pytest.approx(1, abs=0.02)
    values = np.array([1.0, 4.0, 7.0, np.nan])
    assert float(variability.fano_factor(values)) == pytest.approx(9 / 4)
    assert float(variability.fano_factor(values, ddof=0)) == pytest.approx(6 / 4)
    assert np.isnan(variability.fano_factor([0.0, 0.0]))
    with pytest.raises(ValueError, match="negative"):
        variability.fano_factor([-1.0, 1.0])


def test_noise_correlation_ignores_signal_and_recovers_the_planted_value(rng):
    shown = np.repeat(np.arange(40), 25)
    noise = rng.multivariate_normal([0, 0, 0], [[1, 0.4, 0], [0.4, 1, 0], [0, 0, 1]], size=1000).T
    signal = rng.normal(size=40)[shown] * np.array([5, 5, -5])[:, None]  # strong signal correlation
    found = variability.noise_correlation(noise + signal, shown)
    assert found.correlation[0, 1] == pytest.approx(0.4, abs=0.08)
    assert abs(found.correlation[0, 2]) < 0.1
    np.testing.assert_allclose(np.diag(found.correlation), 1)
    assert (found.trials == 1000).all()
    scores = np.stack([stats.zscore((noise + signal)[:, shown == s], axis=1, ddof=1) for s in range(40)], axis=1)
    np.testing.assert_allclose(found.correlation, np.corrcoef(scores.reshape(3, -1)), atol=1e-12)


def test_noise_correlation_with_missing_trials_is_that_of_shared_trials(rng):
    values, shown = rng.normal(size=(2, 40)), np.repeat([0, 1], 20)
    values[0, :3], values[1, 35:] = np.nan, np.nan
    scores = variability.zscore_within(values, shown)
    both = np.isfinite(scores).all(axis=0)
    found = variability.noise_correlation(values, shown)
    assert found.correlation[0, 1] == pytest.approx(np.corrcoef(scores[:, both])[0, 1])
    assert found.trials[0, 1] == both.sum() == 32


def test_a_deterministic_network_has_no_noise_correlation(rng):
    with pytest.raises(ValueError, match="deterministic network"):
        variability.noise_correlation(np.repeat(rng.normal(size=(3, 10)), 4, axis=1), np.repeat(np.arange(10), 4))
    with pytest.raises(ValueError, match="images of a class are different stimuli"):
        variability.noise_correlation(rng.normal(size=(3, 10)), np.arange(10))


# ---------------------------------------------------------------------------------------------------- choice


def test_grand_choice_probability_removes_the_stimulus(rng):
    shown = np.repeat(np.arange(8), 50)
    chosen = rng.random(400) < 0.2 + 0.6 * (shown / 7)  # stronger stimuli, more preferred choices
    drive = 10.0 * shown
    unrelated = rng.normal(size=400) + drive
    related = unrelated + 0.8 * chosen
    area, used = choice.grand_choice_probability([unrelated, related], chosen, shown)
    assert area[0] == pytest.approx(0.5, abs=0.07)
    assert area[1] > 0.6
    assert used.tolist() == [400, 400]
    # what not z-scoring would say: the area of the stimuli themselves
    p = 0.2 + 0.6 * np.arange(8) / 7
    pairs = np.outer(p, 1 - p)
    wanted = (np.tril(pairs, -1).sum() + 0.5 * np.trace(pairs)) / pairs.sum()
    assert wanted > 0.65
    assert choice.choice_probability(unrelated, chosen) == pytest.approx(wanted, abs=0.08)
    none, used = choice.grand_choice_probability(related, np.ones(400, bool), shown)
    assert np.isnan(none).all()
    assert used.tolist() == [0]


def test_grand_choice_probability_counts_the_trials_of_each_unit():
    """Trials on which a unit was not recorded do not make a condition large enough for it."""
    chosen = np.tile([True] * 4 + [False] * 4, 2)
    shown = np.repeat(["p", "q"], 8)
    whole = np.r_[[1.0, 2, 3, 4, 5, 6, 7, 8], [9.0, 8, 7, 6, 5, 4, 3, 2]]
    partly = whole.copy()
    partly[5:8] = np.nan  # one trial of the other choice is left at p
    area, used = choice.grand_choice_probability([whole, partly], chosen, shown)
    assert area.tolist() == [0.5, 1.0]
    assert used.tolist() == [16, 8]
    few, used = choice.grand_choice_probability([whole, partly], chosen, shown, fewest=5)
    assert np.isnan(few).all()
    assert used.tolist() == [0, 0]


def test_choice_is_named_where_it_does_not_fit():
    for wrong in ([True], [1, 0], True):
        with pytest.raises(ValueError, match="choice must be boolean"):
            choice.choice_probability([1.0, 2.0], wrong)


def test_negative_levels_against_a_reference_are_refused(rng):
    level = np.repeat([-1.0, 0.0, 1.0, 2.0], 9)
    with pytest.raises(ValueError, match="9 trials have negative ones; leave reference out"):
        choice.neurometric_function(rng.normal(size=36), level, reference=rng.normal(size=20))
    found = choice.neurometric_function(rng.normal(size=36), np.abs(level), reference=rng.normal(size=20))
    assert found.level.tolist() == [1.0, 2.0]
    assert found.trials.tolist() == [18, 9]


def test_weibull_recovers_its_parameters_and_refuses_a_flat_curve(rng):
    level = np.array([1, 2, 4, 8, 16, 32.0])
    n = np.full(6, 400)
    for threshold, slope in ((5.0, 1.2), (12.0, 2.5)):
        correct = rng.binomial(n, choice.weibull(level, threshold, slope))
        fit = choice.fit_weibull(level, correct, n)
        assert fit.status == "ok"
        assert fit.threshold == pytest.approx(threshold, rel=0.15)
        assert fit.slope == pytest.approx(slope, rel=0.3)
    flat = [choice.fit_weibull(level, rng.binomial(n, 0.5), n).status for _ in range(20)]
    assert flat.count("not_identifiable") >= 18
    assert choice.fit_weibull(level, n * 0.75, n).status == "not_identifiable"
    assert (
        float(choice.weibull(7.0, 7.0, 3.0)) == pytest.approx(choice.THRESHOLD_SHARE) == pytest.approx(0.816, abs=5e-4)
    )
    with pytest.raises(ValueError, match="above 0"):
        choice.fit_weibull([0.0, 1.0], [1, 1], [2, 2])


def test_neurometric_function_of_a_gaussian_unit(rng):
    level = np.repeat([-4, -2, -1, -0.5, 0, 0.5, 1, 2, 4.0], 300)
    found = choice.neurometric_function(rng.normal(size=level.size) + 0.5 * level, level)
    # area between N(±x/2, 1): Φ(x/√2)
    np.testing.assert_allclose(found.area, stats.norm.cdf(np.array([0.5, 1, 2, 4]) / np.sqrt(2)), atol=0.05)
    assert found.fit.status == "ok"
    assert 0.8 < found.fit.threshold < 1.8  # Φ(x/√2) = .816 at 1.27
    silent = choice.neurometric_function(np.zeros(level.size), level)
    assert silent.fit.status == "not_identifiable"
    with pytest.raises(ValueError, match="reference"):
        choice.neurometric_function([1.0, 2.0], [1, 1])


# ---------------------------------------------------------------------------------------------------- tuning fits


def test_half_widths_are_half_the_height():
    for kappa in (0.05, 0.5, 2.0, 10.0):
        half = np.deg2rad(von_mises_half_width(kappa))
        top, trough = 1.0, np.exp(-2 * kappa)
        assert np.exp(kappa * (np.cos(2 * half) - 1)) == pytest.approx((top + trough) / 2)
    assert von_mises_half_width(2.0) == pytest.approx(24.2545, abs=1e-4)
    assert von_mises_half_width(2.0, definition="asymptote") == pytest.approx(24.5998, abs=1e-4)
    assert np.isnan(von_mises_half_width(np.log(2) / 2 - 1e-6, definition="asymptote"))
    assert von_mises_half_width(np.log(2) / 2 + 1e-9, definition="asymptote") == pytest.approx(90, abs=0.01)
    with pytest.raises(ValueError, match="trough"):
        von_mises_half_width(1.0, definition="base")


@pytest.mark.parametrize(
    ("form", "level", "preferred", "width"),
    [
        ("von_mises", np.arange(0, 180, 15.0), 172.0, 1.5),
        ("von_mises", np.arange(0, 180, 15.0), 40.0, 6.0),
        ("direction", np.arange(0, 360, 30.0), 350.0, 1.5),
        ("gaussian", np.linspace(-2, 2, 9), 0.6, 0.5),
        ("log_gaussian", 2.0 ** np.arange(-2, 5), 3.0, 0.8),
    ],
)
def test_fits_recover_their_curves(rng, form, level, preferred, width):
    from featattn_neuro.arrays.tuning_fits import _CURVES

    curve = _CURVES[form](level, np.array([2.0, 9.0, preferred, width]))
    fit = fit_tuning(curve, level, form)
    assert (fit.status, fit.r2) == ("ok", pytest.approx(1, abs=1e-6))
    assert fit.preferred == pytest.approx(preferred, rel=1e-3)
    assert fit.width == pytest.approx(width, rel=1e-2)
    assert (fit.baseline, fit.amplitude) == (pytest.approx(2, abs=0.02), pytest.approx(9, abs=0.05))
    np.testing.assert_allclose(fit(level), curve, atol=1e-3)
    noisy = fit_tuning(curve + rng.normal(size=level.size) * 0.2, level, form, sem=np.full(level.size, 0.2))
    assert noisy.preferred == pytest.approx(preferred, rel=0.15)
    assert noisy.amplitude > 0
    # a trough is no tuning peak: amplitude stays at or above 0
    assert fit_tuning(20 - curve, level, form).amplitude >= 0


def test_a_dip_is_no_peak():
    """A curve with a trough is described badly by a peak, not well by a negative one."""
    level = np.linspace(-2, 2, 9)
    fit = fit_tuning(20 - 9 * np.exp(-((level - 0.1) ** 2) / 0.5), level)
    assert fit.amplitude >= 0
    assert fit.r2 < 0.9


def test_levels_count_by_their_precision():
    level = np.linspace(-2, 2, 9)
    responses, sem = 2 + 9 * np.exp(-((level - 0.6) ** 2) / 0.5), np.full(9, 0.1)
    responses[1], sem[1] = 40, 1e5  # a level about which nothing is known
    fit = fit_tuning(responses, level, sem=sem)
    assert (fit.preferred, fit.amplitude) == (pytest.approx(0.6, abs=1e-3), pytest.approx(9, abs=1e-2))
    assert fit_tuning(responses, level).preferred < -1


def test_what_cannot_be_fitted_says_why():
    assert fit_tuning(np.ones(8), np.arange(8.0)).status == "constant"
    assert fit_tuning([1.0, 2, 3, 1], np.arange(4.0)).status == "too_few"
    assert fit_tuning([1.0, 2, 3, 1, np.inf, 2], np.arange(6.0)).status == "nonfinite"
    assert np.isnan(fit_tuning(np.ones(8), np.arange(8.0)).preferred)
    with pytest.raises(ValueError, match="above 0"):
        fit_tuning(np.ones(8), np.arange(8.0), "log_gaussian")
    with pytest.raises(ValueError, match="form must be"):
        fit_tuning(np.ones(8), np.arange(8.0), "cosine")


# ---------------------------------------------------------------------------------------------------- classes


def test_eta_squared_is_anova(rng):
    label = np.repeat(["a", "b", "c"], [10, 15, 20])
    x = rng.normal(size=(5, 45)) + (label == "b")
    found = class_selectivity.eta_squared(x, label)
    for k in range(5):
        f, p = stats.f_oneway(*(x[k, label == one] for one in "abc"))
        assert (found.f[k], found.p[k]) == (pytest.approx(f), pytest.approx(p))
        between = sum((label == c).sum() * (x[k, label == c].mean() - x[k].mean()) ** 2 for c in "abc")
        assert found.eta_squared[k] == pytest.approx(between / ((x[k] - x[k].mean()) ** 2).sum())
    assert np.isnan(class_selectivity.eta_squared(np.ones(45), label).eta_squared)
    with pytest.raises(ValueError, match="two classes"):
        class_selectivity.eta_squared([1.0, 2.0], ["a", "a"])


def test_held_out_class_selectivity_has_no_floor(rng):
    label = np.repeat(np.arange(8), 10)
    noise = rng.gamma(2, size=(500, 80))
    means = np.stack([noise[:, label == c].mean(axis=1) for c in range(8)])
    top = means.max(axis=0)
    rest = (means.sum(axis=0) - top) / 7
    assert ((top - rest) / (top + rest)).mean() > 0.1  # chosen on the stimuli that it is measured on
    # a ratio of noisy means is curved: -(CV²/4)(1/5 - 1/35) by the delta method, CV² = 1/2, 5 held-out stimuli a class
    floor = -(0.5 / 4) * (1 / 5 - 1 / 35)
    found = class_selectivity.class_selectivity(noise, label, rng=rng)
    assert found.selectivity.mean() == pytest.approx(floor, abs=0.02)
    tuned = noise + 6 * (label == 3)
    found = class_selectivity.class_selectivity(tuned, label, rng=rng)
    assert (found.preferred == 3).mean() > 0.95
    assert found.selectivity.mean() == pytest.approx(6 / 10, abs=0.05)
    with pytest.raises(ValueError, match="negative"):
        class_selectivity.class_selectivity(-noise, label, rng=rng)
    with pytest.raises(ValueError, match="has one"):
        class_selectivity.class_selectivity(noise[:, :3], np.array([0, 0, 1]), rng=rng)


def test_ordinal_selectivity_of_noise_is_flat_and_of_tuned_units_falls(rng):
    label = np.repeat(np.arange(5), 20)
    noise = rng.gamma(2, size=(800, 100))
    curve, _ = class_selectivity.ordinal_selectivity(noise, label, rng=rng)
    assert abs(curve[:, 0].mean() - curve[:, -1].mean()) < 0.06
    tuned, order = class_selectivity.ordinal_selectivity(noise + 3 * label, label, rng=rng)
    assert (np.diff(tuned.mean(axis=0)) < 0).all()
    assert (order[:, 0] == 4).mean() > 0.99


def test_category_index_by_hand():
    assert float(class_selectivity.category_index([4.0, 4.0, 2.0], [True, True, False])) == pytest.approx(1 / 3)
    assert np.isnan(class_selectivity.category_index([0.0, 0.0], [True, False]))
    with pytest.raises(ValueError, match="inside must"):
        class_selectivity.category_index([1.0, 2.0], [True, True])
