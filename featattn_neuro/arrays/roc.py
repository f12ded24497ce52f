"""ROC area and what is known of its uncertainty: exact with ties, DeLong variance, covariance and interval, curves.

Shapes as in `discrimination`: responses (..., n), target (n,) or (tasks, n), result (...) or (tasks, ...). Torch
tensors are taken on any device, and computed there; results are NumPy arrays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from featattn_neuro.arrays.counting import ClassSums, PairCounts, discrimination_counts, prepared
from featattn_neuro.arrays.sorted_counts import OrderedBlock

Float = NDArray[np.float64]


def area_of(sums: ClassSums, counts: PairCounts) -> Float:
    """ROC area (tasks, units) of counts; NaN below two in a class, where all are equal, or one is not finite."""
    enough = (np.minimum(counts.n1, counts.n0) >= 2)[:, None]
    low, high = sums.low.min(axis=1), sums.high.max(axis=1)
    with np.errstate(invalid="ignore"):
        defined = enough & np.isfinite(sums.mean).all(axis=1) & (low < high)
    return np.where(defined, counts.area(), np.nan)


def roc_area(responses: Any, target: Any, *, among: Any = None, engine: str = "numba") -> Float:
    """P(target > distractor) + P(equal)/2, exact with ties, by mid-ranks.

    Parameters
    ----------
    responses : (..., n), any real units; only their order matters, nothing is squashed. Array or torch tensor.
    target : boolean (n,) or (tasks, n).
    among : boolean, as target: the observations that take part; None = all.
    engine : "numba" (compiled) or "numpy"; both give the same numbers.

    Returns
    -------
    (...) or (tasks, ...), in [0, 1]. NaN where a class has fewer than two observations, where all responses are equal,
    or where one is not finite.

    Raises
    ------
    ValueError : shapes that do not fit, responses that are not real numbers, more than 1.5 million observations.

    Notes
    -----
    Bamber 1975: area = (rank sum of targets - n1(n1+1)/2)/(n1 n0). One ranking serves all tasks.

    >>> float(roc_area([1, 2, 2, 3, 0, 2, 2, 1], [True] * 4 + [False] * 4))
    0.71875
    """
    values, roles, shape = prepared(responses, target, among)
    return area_of(*discrimination_counts(values, roles, engine=engine)).reshape(shape)


def delong(responses: Any, target: Any, *, among: Any = None, engine: str = "numba") -> Float:
    """Variance of the ROC area without a distributional assumption.

    Parameters as in `roc_area`. Returns (...) or (tasks, ...), >= 0; exactly 0 where the area is 0 or 1 (no interval
    can be made of that: `delong_interval` returns NaN); NaN where the area is undefined.

    Notes
    -----
    DeLong, DeLong & Clarke-Pearson 1988; fast form by mid-ranks: Sun & Xu 2014, eq. 8-9.

    >>> float(delong([3.0, 1.0, 2.0, 0.0], [True, True, False, False]))
    0.125
    """
    values, roles, shape = prepared(responses, target, among)
    sums, counts = discrimination_counts(values, roles, engine=engine)
    return np.where(np.isfinite(area_of(sums, counts)), counts.variance(), np.nan).reshape(shape)


def delong_interval(
    responses: Any, target: Any, *, level: float = 0.95, among: Any = None, engine: str = "numba"
) -> tuple[Float, Float]:
    """Lower and upper end of the plain DeLong interval of the ROC area, clipped to [0, 1].

    Too short with few observations in a class and an area far from one half: nominal .95 covers .85 with 20 targets,
    180 distractors and an area of .94, where `selectivity` prints `arrays.area_interval`, which covers.

    Parameters
    ----------
    responses, target, among, engine : as in `roc_area`.
    level : nominal coverage, between 0 and 1.

    Returns
    -------
    Two arrays (...) or (tasks, ...), in [0, 1]. NaN where the area is undefined or its DeLong variance is 0 (area 0 or
    1: an interval of no width would be false).

    Raises
    ------
    ValueError : as in `roc_area`; a level that is not between 0 and 1.

    Notes
    -----
    DeLong, DeLong & Clarke-Pearson 1988.

    >>> low, high = delong_interval([3.0, 1.0, 2.0, 0.0], [True, True, False, False])
    >>> round(float(low), 4), float(high)
    (0.057, 1.0)
    """
    values, roles, shape = prepared(responses, target, among)
    sums, counts = discrimination_counts(values, roles, engine=engine)
    low, high = interval_of_area(area_of(sums, counts), counts.variance(), level=level)
    return low.reshape(shape), high.reshape(shape)


def interval_of_area(area: Float, variance: Float, *, level: float = 0.95) -> tuple[Float, Float]:
    """Normal interval area ± z sqrt(variance), clipped to [0, 1]; NaN without variance.

    >>> low, high = interval_of_area(np.array(0.5), np.array(0.0))
    >>> float(low), float(high)
    (nan, nan)
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1; came {level}")
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt(np.where(variance > 0, variance, np.nan))
    return np.clip(area - half, 0.0, 1.0), np.clip(area + half, 0.0, 1.0)


def paired_delong(responses_a: ArrayLike, responses_b: ArrayLike, target: ArrayLike) -> tuple[Float, Float]:
    """Difference of two ROC areas measured on the same observations, and its variance.

    Parameters
    ----------
    responses_a, responses_b : (..., n), same shape.
    target : boolean (n,), one task.

    Returns
    -------
    difference (a - b) and variance, both (...). NaN where either area is undefined.

    Notes
    -----
    DeLong, DeLong & Clarke-Pearson 1988: the covariance of the two areas is that of the placements, so the variance is
    that of the paired differences of placements.

    >>> difference, variance = paired_delong([3.0, 1.0, 2.0, 0.0], [3.0, 1.0, 2.0, 0.0], [True, True, False, False])
    >>> float(difference), float(variance)
    (0.0, 0.0)
    """
    chosen = np.asarray(target)
    first, _, shape = prepared(responses_a, chosen)
    second, _, other_shape = prepared(responses_b, chosen)
    if chosen.ndim != 1 or shape != other_shape:
        raise ValueError(f"one task and equal shapes wanted; came {first.shape}, {second.shape}, target {chosen.shape}")
    difference, variance = np.full(first.shape[0], np.nan), np.full(first.shape[0], np.nan)
    usable = _varied(first) & _varied(second)
    if min(chosen.sum(), (~chosen).sum()) >= 2 and usable.any():
        targets_a, distractors_a = placements(first[usable], chosen)
        targets_b, distractors_b = placements(second[usable], chosen)
        targets, distractors = targets_a - targets_b, distractors_a - distractors_b
        difference[usable] = targets.mean(axis=1)
        variance[usable] = targets.var(axis=1, ddof=1) / targets.shape[1]
        variance[usable] += distractors.var(axis=1, ddof=1) / distractors.shape[1]
    return difference.reshape(shape), variance.reshape(shape)


def delong_covariance(responses: ArrayLike, target: ArrayLike) -> Float:
    """Covariance of the ROC areas of units that were measured on the same observations.

    Parameters
    ----------
    responses : (units, n).
    target : boolean (n,), one task.

    Returns
    -------
    (units, units), symmetric; the diagonal is `delong`. Rows and columns of units whose area is undefined are NaN.

    Notes
    -----
    DeLong, DeLong & Clarke-Pearson 1988, eq. 5-7: S = S10/n1 + S01/n0, of the placements of targets and distractors.

    >>> delong_covariance([[3.0, 1.0, 2.0, 0.0], [0.0, 2.0, 1.0, 3.0]], [True, True, False, False]).tolist()
    [[0.125, -0.125], [-0.125, 0.125]]
    """
    chosen = np.asarray(target)
    values, _, shape = prepared(responses, chosen)
    if chosen.ndim != 1 or len(shape) != 1:
        raise ValueError(f"responses must be (units, n) and target (n,); came {values.shape} and {chosen.shape}")
    result = np.full((shape[0], shape[0]), np.nan)
    usable = np.flatnonzero(_varied(values))
    if min(chosen.sum(), (~chosen).sum()) >= 2 and usable.size:
        targets, distractors = placements(values[usable], chosen)
        found = np.atleast_2d(np.cov(targets)) / targets.shape[1]
        result[np.ix_(usable, usable)] = found + np.atleast_2d(np.cov(distractors)) / distractors.shape[1]
    return result


def placements(values: ArrayLike, chosen: NDArray[np.bool_]) -> tuple[Float, Float]:
    """Share of distractors below each target (units, n1), and of targets above each distractor (units, n0).

    Ties count half; the mean of either is the ROC area. Both in the order of the observations.

    >>> targets, distractors = placements(np.array([[3.0, 1.0, 2.0, 0.0]]), np.array([True, True, False, False]))
    >>> targets.tolist(), distractors.tolist()
    ([[1.0, 0.5]], [[0.5, 1.0]])
    """
    order = OrderedBlock(np.asarray(values))
    _, below0, equal0 = order.inside(~chosen)
    _, below1, equal1 = order.inside(chosen)
    back = np.argsort(order.order, axis=-1)
    won = np.take_along_axis(below0 + 0.5 * equal0, back, axis=-1)
    lost = np.take_along_axis(below1 + 0.5 * equal1, back, axis=-1)
    return won[:, chosen] / (~chosen).sum(), 1.0 - lost[:, ~chosen] / chosen.sum()


def placements_in_order(values: ArrayLike, target: ArrayLike) -> Float:
    """Placement of every observation, (units, n): `placements` of targets and distractors, each in its own place.

    Their mean over repeats of a measurement (over shuffles of gains, say) is what `paired_placements` compares.

    >>> placements_in_order([[3.0, 1.0, 2.0, 0.0]], [True, True, False, False]).tolist()
    [[1.0, 0.5, 0.5, 1.0]]
    """
    chosen = np.asarray(target, dtype=bool)
    targets, distractors = placements(values, chosen)
    found = np.empty((len(targets), chosen.size))
    found[:, chosen], found[:, ~chosen] = targets, distractors
    return found


def paired_placements(first: ArrayLike, second: ArrayLike, target: ArrayLike) -> tuple[float, float]:
    """Difference of two ROC areas (first - second) from placements (n,) of the same observations, and its variance.

    `paired_delong` for areas that are means over repeats: placements are linear in them. NaN for fewer than two of
    either class, or where a placement is undefined.

    >>> paired_placements([1.0, 0.5, 0.5, 1.0], [1.0, 1.0, 1.0, 1.0], [True, True, False, False])
    (-0.25, 0.125)
    """
    chosen = np.asarray(target, dtype=bool)
    apart = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    if min(chosen.sum(), (~chosen).sum()) < 2 or not np.isfinite(apart).all():
        return float("nan"), float("nan")
    variance = sum(float(part.var(ddof=1)) / part.size for part in (apart[chosen], apart[~chosen]))
    return float(apart[chosen].mean()), variance


def _varied(values: NDArray) -> NDArray[np.bool_]:
    """Rows that are finite and not constant."""
    finite = np.isfinite(values).all(axis=1)
    varied = np.zeros(values.shape[0], dtype=bool)
    if values.shape[1]:
        varied[finite] = values[finite].min(axis=1) < values[finite].max(axis=1)
    return varied


class RocCurve(NamedTuple):
    """Points of an ROC curve, from (0, 0) to (1, 1)."""

    false_alarm_rate: Float
    hit_rate: Float
    threshold: Float


def roc_curve(responses: ArrayLike, target: ArrayLike) -> RocCurve:
    """Hit rate against false-alarm rate as the criterion falls, one point per distinct response.

    Parameters
    ----------
    responses : (n,), finite, of one unit.
    target : boolean (n,), with both classes.

    Returns
    -------
    RocCurve of (points,) arrays: at `threshold` t, the shares of distractors and of targets with response >= t; the
    first threshold is infinite. The trapezoid under it is `roc_area`, ties included.

    Raises
    ------
    ValueError : more than one unit or task, responses that are not finite, one class only.

    Notes
    -----
    Green & Swets 1966.

    >>> curve = roc_curve([2.0, 1.0, 1.0, 0.0], [True, True, False, False])
    >>> curve.hit_rate.tolist(), curve.false_alarm_rate.tolist()
    ([0.0, 0.5, 1.0, 1.0], [0.0, 0.0, 0.5, 1.0])
    """
    values, roles, shape = prepared(responses, target)
    if shape != ():
        raise ValueError(f"one unit and one task wanted, responses (n,); came shape {np.shape(responses)}")
    if not np.isfinite(values).all():
        raise ValueError(f"responses must be finite; {int((~np.isfinite(values)).sum())} are not; leave them out")
    chosen = roles[0] == 1
    if not 0 < chosen.sum() < chosen.size:
        raise ValueError(f"an ROC curve needs targets and distractors; came {chosen.sum()} and {(~chosen).sum()}")
    levels, place = np.unique(-values[0].astype(np.float64), return_inverse=True)
    hits = np.cumsum(np.bincount(place[chosen], minlength=levels.size)) / chosen.sum()
    alarms = np.cumsum(np.bincount(place[~chosen], minlength=levels.size)) / (~chosen).sum()
    return RocCurve(np.r_[0.0, alarms], np.r_[0.0, hits], np.r_[np.inf, -levels])
