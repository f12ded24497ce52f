"""Behavioural signal detection: d', criterion and ln β from counts, under the three corrections of extreme rates."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Float = NDArray[np.float64]
CORRECTIONS = ("loglinear", "half", "clip")


class SignalDetection(NamedTuple):
    """Sensitivity and bias; all in units of the standard normal distribution but the rates, which were corrected."""

    dprime: Float
    criterion: Float
    log_beta: Float
    hit_rate: Float
    false_alarm_rate: Float


def signal_detection(
    hits: ArrayLike,
    misses: ArrayLike,
    false_alarms: ArrayLike,
    correct_rejections: ArrayLike,
    *,
    correction: str = "loglinear",
) -> SignalDetection:
    """d' = z(H) - z(F), criterion c = -(z(H) + z(F))/2, ln β = c · d' from counts.

    Parameters
    ----------
    hits, misses : answers on target trials; false_alarms, correct_rejections : on distractor trials. Counts >= 0, any
        shapes that broadcast.
    correction : of the rates k/n, where n is the count of that cell's trials (targets for hits, distractors for false
        alarms): "loglinear" (k + .5)/(n + 1), all cells (Hautus 1995); "half" 0 → 1/(2n), 1 → 1 - 1/(2n) (Macmillan &
        Kaplan 1985); "clip" to [.01, .99].

    Returns
    -------
    SignalDetection. NaN where there were no target trials, or no distractor trials.

    Raises
    ------
    ValueError : counts below 0, an unknown correction, shapes that do not broadcast.

    Notes
    -----
    Green & Swets 1966; Macmillan & Creelman 2005.

    >>> found = signal_detection(90, 10, 30, 70, correction="half")  # H = .9, F = .3: neither is extreme
    >>> round(float(found.dprime), 6), round(float(found.criterion), 6)
    (1.805952, -0.378576)
    """
    hit = corrected_rate(hits, np.add(hits, misses), correction=correction)
    alarm = corrected_rate(false_alarms, np.add(false_alarms, correct_rejections), correction=correction)
    z_hit, z_alarm = special.ndtri(hit), special.ndtri(alarm)
    sensitivity, criterion = z_hit - z_alarm, -(z_hit + z_alarm) / 2
    return SignalDetection(sensitivity, criterion, criterion * sensitivity, hit, alarm)


def corrected_rate(count: ArrayLike, trials: ArrayLike, *, correction: str = "loglinear") -> Float:
    """Rate of `count` in `trials`, kept off 0 and 1 as in `signal_detection`; NaN without trials.

    >>> [float(corrected_rate(4, 4, correction=name)) for name in CORRECTIONS]
    [0.9, 0.875, 0.99]
    """
    if correction not in CORRECTIONS:
        raise ValueError(f"correction must be one of {CORRECTIONS}; came {correction!r}")
    k, n = np.broadcast_arrays(np.asarray(count, dtype=np.float64), np.asarray(trials, dtype=np.float64))
    if (k < 0).any() or (k > n).any():
        raise ValueError("counts must lie between 0 and the number of trials of their cell; came one outside")
    with np.errstate(divide="ignore", invalid="ignore"):
        if correction == "loglinear":
            rate = (k + 0.5) / (n + 1)
        elif correction == "half":
            rate = np.clip(k / n, 1 / (2 * n), 1 - 1 / (2 * n))
        else:
            rate = np.clip(k / n, 0.01, 0.99)
    return np.where(n > 0, rate, np.nan)


class CorrectionSensitivity(NamedTuple):
    """What the correction of extreme rates decides: values under each, (3, ...) as in CORRECTIONS, and what flips."""

    dprime: Float
    criterion: Float
    dprime_sign_flips: NDArray[np.bool_]
    criterion_sign_flips: NDArray[np.bool_]


def correction_sensitivity(
    hits: ArrayLike, misses: ArrayLike, false_alarms: ArrayLike, correct_rejections: ArrayLike
) -> CorrectionSensitivity:
    """d' and criterion under all three corrections; a sign that differs between them is flagged.

    To ask whether a *difference* between two conditions survives, give both along the last axis of length 2 to
    `comparison_flips`.

    >>> found = correction_sensitivity(3, 0, 1, 1)
    >>> found.dprime.round(3).tolist(), bool(found.dprime_sign_flips)
    ([1.15, 0.967, 2.326], False)
    """
    cells = hits, misses, false_alarms, correct_rejections
    each = [signal_detection(*cells, correction=name) for name in CORRECTIONS]
    sensitivity, criterion = np.stack([one.dprime for one in each]), np.stack([one.criterion for one in each])
    return CorrectionSensitivity(sensitivity, criterion, _flips(sensitivity), _flips(criterion))


def comparison_flips(
    hits: ArrayLike, misses: ArrayLike, false_alarms: ArrayLike, correct_rejections: ArrayLike
) -> CorrectionSensitivity:
    """Differences between two conditions under all three corrections, and whether their signs depend on it.

    Parameters
    ----------
    Counts as in `signal_detection`, (..., 2): the two conditions last.

    Returns
    -------
    CorrectionSensitivity of second minus first condition: (3, ...) and flags (...).

    >>> same = comparison_flips([9, 9], [1, 1], [2, 2], [8, 8])
    >>> same.dprime.tolist(), bool(same.dprime_sign_flips)
    ([0.0, 0.0, 0.0], False)
    """
    found = correction_sensitivity(hits, misses, false_alarms, correct_rejections)
    if found.dprime.shape[-1:] != (2,) or found.dprime.ndim < 2:
        raise ValueError(f"counts must be (..., 2), two conditions last; came {found.dprime.shape[1:]}")
    sensitivity, criterion = (np.diff(one, axis=-1)[..., 0] for one in (found.dprime, found.criterion))
    return CorrectionSensitivity(sensitivity, criterion, _flips(sensitivity), _flips(criterion))


def _flips(values: Float) -> NDArray[np.bool_]:
    """Whether the sign differs along the first axis; within rounding of 0 is 0."""
    signs = np.where(np.abs(values) < 1e-12, 0.0, np.sign(values))
    return np.asarray(np.ptp(np.nan_to_num(signs), axis=0) > 0)
