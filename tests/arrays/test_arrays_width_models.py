"""Width of tuning in two conditions: closed forms, another optimiser, simulated counts, and what an exponent misses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from featattn_neuro.arrays import attention_models
from featattn_neuro.arrays.population_simulation import draw_population
from featattn_neuro.arrays.tuning_fits import fit_tuning, von_mises_half_width
from featattn_neuro.arrays.width_models import fit_widths

LEVELS = {
    "orientation": np.arange(0, 180, 15.0), "direction": np.arange(0, 360, 30.0), "gaussian": np.linspace(-2, 2, 11),
    "log_gaussian": np.geomspace(0.5, 16, 11),
}  # fmt: skip
STIMULI, REPEATS, NEURONS = 12, 20, 300


def curve(form, level, preferred, width):
    if form in ("orientation", "direction"):
        angle = np.deg2rad(level - preferred) * (2 if form == "orientation" else 1)
        return np.exp(width * (np.cos(angle) - 1))
    x, at = (np.log(level), np.log(preferred)) if form == "log_gaussian" else (level, preferred)
    return np.exp(-0.5 * ((x - at) / width) ** 2)


def half(form, width):
    if form in ("orientation", "direction"):
        return von_mises_half_width(width) * (1 if form == "orientation" else 2)
    return np.sqrt(2 * np.log(2)) * width


@pytest.mark.parametrize("form", list(LEVELS))
@pytest.mark.parametrize("counts", [True, False], ids=["counts", "gaussian"])
def test_without_noise_both_widths_come_back(form, counts):
    level, preferred = LEVELS[form], {"orientation": 70.0, "direction": 250.0}.get(form, 1.2)
    widths = (2.0, 3.5) if form in ("orientation", "direction") else (0.6, 0.45)
    off = 3 + 20 * curve(form, level, preferred, widths[0])
    on = 5 + 30 * curve(form, level, preferred, widths[1])
    same = 5 + 30 * curve(form, level, preferred, widths[0])
    n = np.full((2, level.size), 10.0)
    found = fit_widths(
        (np.stack([off, off]), np.stack([on, same])), (n, n), level, form=form, phi=np.zeros(2) if counts else None
    )
    np.testing.assert_allclose(found.unattended, half(form, widths[0]), rtol=1e-6)
    np.testing.assert_allclose(found.attended, [half(form, widths[1]), half(form, widths[0])], rtol=1e-6)
    np.testing.assert_allclose(found.change, found.attended / found.unattended - 1, atol=1e-12)
    np.testing.assert_allclose(found.preferred, preferred, rtol=1e-6)
    assert found.p[0] < 1e-3
    assert found.p[1] > 0.999


def cells(*, seed=1, repeats=REPEATS, **effect):
    drawn = draw_population(
        neurons=NEURONS, stimuli=STIMULI, repeats=repeats, mean=10, modulation=0.8, concentration=2, correlation=0,
        rng=np.random.default_rng(seed), **({"gain": 1.0, "shift": 0.0, "exponent": 1.0, "phi": 0.0} | effect),
    )  # fmt: skip
    return tuple(np.moveaxis(counts, (0, 1, 2), (1, 2, 0)) for counts in drawn.counts)


def widths_of(off, on, **more):
    n = np.full(off.shape[:2], float(off.shape[2]))
    level = 360 / STIMULI * np.arange(STIMULI)
    return fit_widths((off.mean(axis=2), on.mean(axis=2)), (n, n), level, form="direction", **more)


@pytest.mark.parametrize("phi", [0.0, 0.05], ids=["poisson", "overdispersed"])
def test_a_factor_and_an_added_response_are_no_change_of_width(phi):
    """Also where a baseline is there, which a power of the whole tuning takes for a broader curve."""
    off, on = cells(gain=1.2, shift=2.0, phi=phi)
    fits, found_phi = attention_models.fit_models(off, on, models=["width"])
    found = widths_of(off, on, phi=found_phi)
    seen = np.isfinite(found.p)
    assert seen.mean() > 0.98
    rejected = int((found.p[seen] <= 0.05).sum())
    assert stats.binomtest(rejected, int(seen.sum()), 0.05, alternative="greater").pvalue > 0.01
    assert np.mean((found.low[seen] <= 0) & (found.high[seen] >= 0)) >= 0.92
    assert abs(np.median(found.change[seen])) < 0.02
    assert np.median(fits["width"].value["e"]) < 0.95


def test_narrowing_above_a_baseline_is_found_and_covered():
    off, on = cells(gain=1.1, narrowing=1.8)
    found = widths_of(off, on, phi=np.zeros(NEURONS))
    truth = von_mises_half_width(3.6) / von_mises_half_width(2.0) - 1
    seen = np.isfinite(found.change)
    covered = (found.low[seen] <= truth) & (truth <= found.high[seen])
    assert seen.mean() > 0.98
    assert covered.mean() >= 0.92
    assert np.median(found.change[seen]) == pytest.approx(truth, abs=0.02)
    assert (found.p[seen] <= 0.05).mean() > 0.8
    fits, _ = attention_models.fit_models(off, on, models=["width"])
    assert abs(np.median(fits["width"].value["e"] ** -0.5 - 1) - truth) > 0.05  # a power pulls the baseline along


def test_the_maximum_is_that_of_another_optimiser():
    off, on = cells(gain=1.2, narrowing=1.5)
    found = widths_of(off[:3], on[:3], phi=np.full(3, 0.05))
    angle = np.deg2rad(360 / STIMULI * np.arange(STIMULI))
    for neuron in range(3):
        counts = off[neuron], on[neuron]

        def negative(x, counts=counts, shared=False):
            total = 0.0
            for k in (0, 1):
                kappa = np.exp(x[5 if shared else 5 + k])
                mean = x[2 * k] + x[2 * k + 1] * np.exp(kappa * (np.cos(angle - x[4]) - 1))
                if mean.min() <= 1e-3:
                    return 1e9
                total -= stats.nbinom.logpmf(counts[k], 20, 20 / (20 + mean[:, None])).sum()
            return total

        place = np.deg2rad(found.preferred[neuron])
        start = np.array([2, 20, 2, 25, place, np.log(2), np.log(3)])
        options = {"maxiter": 20000, "maxfev": 40000, "xatol": 1e-7, "fatol": 1e-10}
        theirs = optimize.minimize(negative, start, method="Nelder-Mead", options=options)
        theirs = optimize.minimize(negative, theirs.x, method="Nelder-Mead", options=options)
        both = [2 * von_mises_half_width(np.exp(v)) for v in theirs.x[5:]]
        assert found.unattended[neuron] == pytest.approx(both[0], rel=1e-3)
        assert found.attended[neuron] == pytest.approx(both[1], rel=1e-3)
        one = optimize.minimize(lambda x: negative(x, shared=True), theirs.x[:6], method="Nelder-Mead", options=options)
        one = optimize.minimize(lambda x: negative(x, shared=True), one.x, method="Nelder-Mead", options=options)
        assert found.p[neuron] == pytest.approx(stats.chi2.sf(2 * (one.fun - theirs.fun), 1), rel=0.02)


def test_one_condition_is_the_fit_of_one_curve():
    off, _ = cells()
    level = 180 / STIMULI * np.arange(STIMULI)
    mean = off[:20].mean(axis=2)
    n = np.ones(mean.shape)
    found = fit_widths((mean, 1.5 * mean + 2), (n, n), level, form="orientation")
    wanted = [fit_tuning(one, level, "von_mises").half_width for one in mean]
    seen = np.isfinite(found.unattended)
    assert seen.sum() >= 18
    np.testing.assert_allclose(found.unattended[seen], np.array(wanted)[seen], rtol=1e-4)
    np.testing.assert_allclose(found.change[seen], 0, atol=1e-6)


def test_what_cannot_be_told_is_nan():
    level = LEVELS["orientation"]
    n = np.ones((3, 12))
    flat, silent = np.full(12, 4.0), np.zeros(12)
    tuned = 2 + 5 * curve("orientation", level, 45.0, 2.0)
    found = fit_widths((np.stack([flat, silent, tuned]),) * 2, (n, n), level, form="orientation", phi=np.zeros(3))
    assert np.isnan(found.change[:2]).all()
    assert found.change[2] == pytest.approx(0, abs=1e-6)
    few = np.where(np.arange(12) < 4, 1.0, 0.0) * n
    assert np.isnan(fit_widths((np.stack([tuned] * 3),) * 2, (few, n), level, form="orientation").change).all()
    with pytest.raises(ValueError, match="levels above 0"):
        fit_widths((n, n), (n, n), np.arange(12.0), form="log_gaussian")
    with pytest.raises(ValueError, match="form is one of"):
        fit_widths((n, n), (n, n), np.arange(12.0), form="von_mises")
    with pytest.raises(ValueError, match=r"must be \(neuron, level\)"):
        fit_widths((n, n), (n, n), np.arange(11.0), form="gaussian")


def test_the_interval_is_as_wide_as_changes_vary():
    off, on = cells(gain=1.2, narrowing=1.4, seed=4)
    found = widths_of(off, on, phi=np.zeros(NEURONS))
    error = (np.log1p(found.high) - np.log1p(found.low)) / (2 * stats.norm.ppf(0.975))
    seen = np.isfinite(error)
    # neurons have the same tuning, so that their changes differ by noise alone
    assert np.sqrt(np.mean(error[seen] ** 2)) == pytest.approx(np.std(np.log1p(found.change[seen])), rel=0.15)
    narrower = widths_of(off, on, phi=np.zeros(NEURONS), confidence=0.5)
    np.testing.assert_allclose(np.log1p(narrower.high) - np.log1p(narrower.low), error * 2 * stats.norm.ppf(0.75))


@pytest.mark.parametrize("count", [6, 12])
def test_an_estimated_variance_invents_no_change_of_width(count):
    """Seven parameters of 2 · count responses: χ² and the normal interval would err in .23 and .11 of true nulls."""
    rng, neurons = np.random.default_rng(0), 500
    level = 180 / count * np.arange(count)
    tuned = np.stack([5 + 10 * curve("orientation", level, at, 2.0) for at in rng.uniform(0, 180, neurons)])
    off, on = (factor * tuned + 0.7 * rng.normal(size=tuned.shape) for factor in (1.0, 1.2))
    n = np.full(tuned.shape, 10.0)
    found = fit_widths((off, on), (n, n), level, form="orientation")
    seen = np.isfinite(found.p)
    assert seen.mean() > 0.95
    # curves are nonlinear in their widths, so that F is not exact either with the fewest levels
    assert 0.02 < (found.p[seen] <= 0.05).mean() < 0.09
    assert 0.93 < ((found.low[seen] <= 0) & (found.high[seen] >= 0)).mean() <= 0.995
