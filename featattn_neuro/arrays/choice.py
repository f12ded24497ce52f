"""Neurons and decisions: choice probability, grand choice probability, neurometric function."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

from featattn_neuro.arrays.roc import roc_area
from featattn_neuro.arrays.variability import zscore_within

Float = NDArray[np.float64]

THRESHOLD_SHARE = 1 - 0.5 * np.exp(-1)
"""Share correct at the Weibull threshold α: .816."""


def choice_probability(responses: ArrayLike, choice: ArrayLike) -> Float:
    """ROC area between trials with the preferred and the other choice, at one and the same stimulus.

    Parameters
    ----------
    responses : (..., trials), all to the same stimulus. choice : boolean (trials,); True = the preferred choice.

    Returns
    -------
    (...) in [0, 1]; .5 = the response does not predict the choice. NaN with fewer than two trials of a choice.

    Raises
    ------
    ValueError : a choice that is not boolean or not one per trial.

    Notes
    -----
    Britten et al. 1996.

    >>> float(choice_probability([5.0, 4.0, 4.0, 1.0], [True, True, False, False]))
    0.875
    """
    chosen = np.asarray(choice)
    if chosen.dtype != np.bool_ or not chosen.ndim or np.shape(responses)[-1:] != chosen.shape[-1:]:
        raise ValueError(
            "choice must be boolean (trials,), one for each response; "
            f"came {chosen.dtype} {chosen.shape}, responses {np.shape(responses)}"
        )
    return roc_area(responses, chosen)


def grand_choice_probability(
    responses: ArrayLike, choice: ArrayLike, condition: ArrayLike, *, fewest: int = 4
) -> tuple[Float, NDArray[np.int64]]:
    """Choice probability over stimuli: responses z-scored within each condition, then pooled.

    Parameters
    ----------
    responses : (units, trials). choice : boolean (trials,). condition : (trials,), the stimulus.
        A trial on which a unit was not recorded (NaN) does not count for it.
    fewest : a unit's conditions with fewer trials of either choice are left out; at least 2. Few and unequal ones bias
        the pooled area towards .5 (Kang & Maunsell 2012).

    Returns
    -------
    grand CP (units,) in [0, 1], NaN where no condition is left, and the number of trials used (units,).

    Raises
    ------
    ValueError : a choice that is not boolean, shapes that do not fit, `fewest` below 2.

    Notes
    -----
    Britten et al. 1996.

    >>> shown = np.repeat(["weak", "strong"], 4)
    >>> rates = [[3.0, 4.0, 1.0, 2.0, 13.0, 14.0, 11.0, 12.0]]
    >>> area, used = grand_choice_probability(rates, np.tile([True, True, False, False], 2), shown, fewest=2)
    >>> area.tolist(), used.tolist()
    ([1.0], [8])
    """
    values = np.atleast_2d(np.asarray(responses, dtype=np.float64))
    chosen, shown = np.asarray(choice), np.asarray(condition)
    if chosen.dtype != np.bool_ or chosen.shape != values.shape[1:] or shown.shape != chosen.shape or fewest < 2:
        raise ValueError(
            f"choice (boolean) and condition must be {values.shape[1:]}, fewest at least 2; "
            f"came {chosen.dtype} {chosen.shape}, {shown.shape}, {fewest}"
        )
    scores = zscore_within(values, shown)
    for one in np.unique(shown):
        mine = shown == one
        recorded, preferred = np.isfinite(values[:, mine]), chosen[mine]
        counts = [(recorded & side).sum(axis=1) for side in (preferred, ~preferred)]
        scores[np.ix_(np.minimum(*counts) < fewest, mine)] = np.nan
    area, used = np.full(values.shape[0], np.nan), np.isfinite(scores).sum(axis=1)
    for unit, row in enumerate(scores):
        seen = np.isfinite(row)
        if seen.any():
            # scores of equal responses must tie although their conditions were scaled apart: 1e-12 is rounding
            area[unit] = roc_area(row[seen].round(12), chosen[seen])
    return area, used


class WeibullFit(NamedTuple):
    """threshold α (units of the level; share correct .816), slope β, log-likelihood, and a status.

    status : "ok"; "not_identifiable" = a flat curve, or one that the levels do not pin down: α and β are then NaN.
    """

    threshold: float
    slope: float
    log_likelihood: float
    status: str


def weibull(level: ArrayLike, threshold: float, slope: float) -> Float:
    """Share correct p = 1 - ½ exp(-(level/α)^β): ½ at 0, .816 at the threshold.

    >>> float(weibull(0.0, 3.0, 1.5)), round(float(weibull(3.0, 3.0, 1.5)), 4)
    (0.5, 0.8161)
    """
    x = np.asarray(level, dtype=np.float64)
    with np.errstate(over="ignore"):
        return 1 - 0.5 * np.exp(-((x / threshold) ** slope))


def fit_weibull(level: ArrayLike, correct: ArrayLike, trials: ArrayLike, *, alpha: float = 0.05) -> WeibullFit:
    """Weibull function by maximum likelihood of binomial counts.

    Parameters
    ----------
    level : (levels,) > 0, signal strength. correct : (levels,) trials answered correctly, not necessarily whole
        numbers (for a neuron: area × trials). trials : (levels,).
    alpha : the fit must beat the best constant by a likelihood-ratio test at this level, else it is not identifiable.

    Notes
    -----
    Quick 1974; for neurons Britten, Shadlen, Newsome & Movshon 1992. Several starts; a threshold more than ten-fold
    outside the levels, or a slope at its bound (.1, 20), is not identifiable either.

    >>> x = np.array([1.0, 2.0, 4.0, 8.0])
    >>> fit = fit_weibull(x, 1000 * weibull(x, 3.0, 1.5), np.full(4, 1000))
    >>> round(fit.threshold, 3), round(fit.slope, 3), fit_weibull(x, [50, 50, 50, 50], np.full(4, 100)).status
    (3.0, 1.5, 'not_identifiable')
    """
    x, k, n = (np.asarray(one, dtype=np.float64) for one in (level, correct, trials))
    if x.ndim != 1 or k.shape != x.shape or n.shape != x.shape or x.size < 2:
        raise ValueError(
            f"level, correct and trials must be (levels,), two or more; came {x.shape}, {k.shape}, {n.shape}"
        )
    if (x <= 0).any() or (k < 0).any() or (k > n).any() or (n <= 0).any():
        raise ValueError("levels and trials must be above 0, correct answers between 0 and trials; came some outside")

    def loss(parameters: Float) -> float:
        return -_log_likelihood(weibull(x, float(np.exp(parameters[0])), float(np.exp(parameters[1]))), k, n)

    low, high = np.log(x.min() / 10), np.log(x.max() * 10)
    bounds = [(low - 3, high + 3), (np.log(0.1), np.log(20))]
    starts = [(np.log(a), np.log(b)) for a in np.quantile(x, [0.1, 0.5, 0.9]) for b in (0.7, 1.5, 4.0)]
    fits = [optimize.minimize(loss, start, bounds=bounds, method="L-BFGS-B") for start in starts]
    best = min(fits, key=lambda fit: float(fit.fun))
    # 1 parameter more than a constant at chance or above
    constant = _log_likelihood(np.full(x.size, np.clip(k.sum() / n.sum(), 0.5, 1.0)), k, n)
    ratio = 2 * (-float(best.fun) - constant)
    from scipy.stats import chi2

    inside = low <= best.x[0] <= high and np.log(0.1) + 1e-3 < best.x[1] < np.log(20) - 1e-3
    if not inside or chi2.sf(max(ratio, 0.0), 1) > alpha:
        return WeibullFit(float("nan"), float("nan"), -float(best.fun), "not_identifiable")
    return WeibullFit(float(np.exp(best.x[0])), float(np.exp(best.x[1])), -float(best.fun), "ok")


def _log_likelihood(share: Float, correct: Float, trials: Float) -> float:
    p = np.clip(share, 1e-12, 1 - 1e-12)
    return float((correct * np.log(p) + (trials - correct) * np.log1p(-p)).sum())


class Neurometric(NamedTuple):
    """ROC area at each level (levels,), the levels, the trials that count towards the fit, and the Weibull fit."""

    level: Float
    area: Float
    trials: NDArray[np.int64]
    fit: WeibullFit


def neurometric_function(responses: ArrayLike, level: ArrayLike, *, reference: ArrayLike | None = None) -> Neurometric:
    """How well a unit's response tells signal from no signal, at each strength of the signal.

    Parameters
    ----------
    responses : (trials,) of one unit.
    level : (trials,) strength, signed without a reference, 0 or more with one. Level 0 is no signal and left out.
    reference : (m,) responses without signal. None = negative levels are the null direction: each |level| is compared
        between its two signs (Britten et al. 1992).

    Returns
    -------
    Neurometric. `trials` is the smaller of the two counts compared; levels with fewer than two are left out.

    Raises
    ------
    ValueError : shapes that do not fit; no reference where there are no negative levels.

    Notes
    -----
    Britten, Shadlen, Newsome & Movshon 1992; threshold at 81.6 % correct.

    >>> found = neurometric_function([1.0, 2.0, 3.0, 5.0, 6.0, 7.0], [-1, -1, -1, 1, 1, 1])
    >>> found.area.tolist(), found.fit.status
    ([1.0], 'not_identifiable')
    """
    values, strength = np.asarray(responses, dtype=np.float64), np.asarray(level, dtype=np.float64)
    if values.ndim != 1 or strength.shape != values.shape:
        raise ValueError(f"responses and level must be (trials,); came {values.shape} and {strength.shape}")
    if reference is None and not (strength < 0).any():
        raise ValueError("without negative levels a reference is needed: responses without signal; give reference=")
    if reference is not None and (strength < 0).any():
        raise ValueError(
            f"against a reference, levels are 0 or more; {int((strength < 0).sum())} trials have negative ones; "
            "leave reference out to compare the two signs, or give |level|"
        )
    levels, areas, trials = [], [], []
    for one in np.unique(np.abs(strength[strength != 0])):
        signal = values[strength == one]
        other = values[strength == -one] if reference is None else np.asarray(reference, dtype=np.float64)
        if min(signal.size, other.size) < 2:
            continue
        joined = np.r_[signal, other]
        area = float(roc_area(joined, np.arange(joined.size) < signal.size))
        # all responses equal: the levels cannot be told apart
        levels.append(float(one))
        areas.append(0.5 if np.isnan(area) and np.isfinite(joined).all() else area)
        trials.append(min(signal.size, other.size))
    x, p, n = np.array(levels), np.array(areas), np.array(trials, dtype=np.int64)
    usable = np.isfinite(p)
    if usable.sum() < 2:
        return Neurometric(x, p, n, WeibullFit(float("nan"), float("nan"), float("nan"), "not_identifiable"))
    return Neurometric(x, p, n, fit_weibull(x[usable], p[usable] * n[usable], n[usable]))
