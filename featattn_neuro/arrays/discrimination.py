"""How well responses tell targets from distractors: d', ROC area, their floors and intervals.

`responses` is (..., n); `target` is boolean, (n,) for one task or (tasks, n) for several at once, where the task axis
comes first in the result: (tasks, ...). Undefined values are NaN, never 0; `status_codes` says why.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Float = NDArray[np.float64]
DENOMINATORS = ("rms", "pooled", "noise")
_BLOCK_NUMBERS = 4_000_000  # responses ranked at a time: 32 MB in float64


def _prepare(responses: ArrayLike, target: ArrayLike) -> tuple[NDArray, NDArray[np.bool_], tuple[int, ...]]:
    """(units, n) responses as given, (tasks, n) targets, and the shape of the result."""
    values, wanted = np.asarray(responses), np.asarray(target)
    if wanted.dtype != np.bool_ or wanted.ndim not in (1, 2):
        raise ValueError(f"target must be boolean, (n,) or (tasks, n); came {wanted.dtype} {wanted.shape}")
    if values.ndim == 0 or values.shape[-1] != wanted.shape[-1]:
        raise ValueError(f"last axes of responses and target must agree; came {values.shape} and {wanted.shape}")
    shape = wanted.shape[:-1] + values.shape[:-1]
    return values.reshape(-1, values.shape[-1]), wanted.reshape(-1, wanted.shape[-1]), shape


def _blocks(values: NDArray) -> Iterator[tuple[slice, Float]]:
    """Units a block at a time in float64, so that a large recording is never copied whole."""
    step = max(1, _BLOCK_NUMBERS // max(1, values.shape[1]))
    for start in range(0, values.shape[0], step):
        yield slice(start, start + step), np.asarray(values[start : start + step], dtype=np.float64)


def _class_moments(block: Float, chosen: NDArray[np.bool_]) -> tuple[Float, Float]:
    """Mean and variance (ddof 1) over the chosen observations; two passes."""
    part = np.ascontiguousarray(block[:, chosen])  # so that sums do not depend on how many units share a block
    n = part.shape[1]
    if n < 2:
        return np.full(block.shape[0], np.nan), np.full(block.shape[0], np.nan)
    mean = part.mean(axis=1)
    deviation = part - mean[:, None]
    # a constant class must have variance exactly 0, also where its mean is not representable
    variance = np.where(np.ptp(part, axis=1) == 0, 0.0, (deviation**2).sum(axis=1) / (n - 1))
    return mean, variance


def class_variances(responses: ArrayLike, target: ArrayLike) -> Float:
    """Variance (ddof 1) within targets and within distractors, in front: (2, ...) or (2, tasks, ...).

    >>> class_variances([0.0, 2.0, 5.0, 5.0], [True, True, False, False]).tolist()
    [2.0, 0.0]
    """
    values, wanted, shape = _prepare(responses, target)
    result = np.full((2, wanted.shape[0], values.shape[0]), np.nan)
    for units, block in _blocks(values):
        for task, chosen in enumerate(wanted):
            result[0, task, units] = _class_moments(block, chosen)[1]
            result[1, task, units] = _class_moments(block, ~chosen)[1]
    return result.reshape((2, *shape))


def standardised_difference(
    targets: tuple[ArrayLike, ArrayLike, ArrayLike],
    distractors: tuple[ArrayLike, ArrayLike, ArrayLike],
    *,
    denominator: str = "rms",
) -> Float:
    """d' from the count, mean and variance (ddof 1) of targets and of distractors, which broadcast.

    `denominator` as in `dprime`. NaN where it is not above 0.

    >>> float(standardised_difference((2, 4.0, 2.0), (2, 2.0, 2.0), denominator="noise").round(6))
    1.414214
    """
    if denominator not in DENOMINATORS:
        raise ValueError(f"denominator must be one of {DENOMINATORS}; came {denominator!r}")
    n1, mean1, variance1 = (np.asarray(part) for part in targets)
    n0, mean0, variance0 = (np.asarray(part) for part in distractors)
    if denominator == "rms":
        variance = (variance1 + variance0) / 2
    elif denominator == "pooled":
        variance = ((n1 - 1) * variance1 + (n0 - 1) * variance0) / np.maximum(n1 + n0 - 2, 1)
    else:
        variance = variance0
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 0, (mean1 - mean0) / np.sqrt(variance), np.nan)


def dprime(responses: ArrayLike, target: ArrayLike, *, denominator: str = "rms") -> Float:
    """Difference of the class means in units of a within-class standard deviation.

    Parameters
    ----------
    responses : (..., n), any real units.
    target : boolean (n,) or (tasks, n); True = target.
    denominator : "rms" sqrt((s1² + s0²)/2), not affected by imbalance of the classes (d_a); "pooled"
        sqrt(((n1-1)s1² + (n0-1)s0²)/(n1+n0-2)) (Cohen); "noise" s0 of the distractors (Glass). All with ddof 1.

    Returns
    -------
    (...) or (tasks, ...), in SDs, any sign. NaN where the denominator is 0, a class has fewer than two observations or
    a response is not finite.

    Notes
    -----
    Green & Swets 1966; d_a: Simpson & Fitter 1973. Two-pass sums in float64: adding a constant to all responses does
    not change the result.

    >>> float(dprime([3.0, 5.0, 1.0, 3.0], [True, True, False, False]).round(6))
    1.414214
    """
    values, wanted, shape = _prepare(responses, target)
    result = np.full((wanted.shape[0], values.shape[0]), np.nan)
    for units, block in _blocks(values):
        for task, chosen in enumerate(wanted):
            mean1, variance1 = _class_moments(block, chosen)
            mean0, variance0 = _class_moments(block, ~chosen)
            targets = int(chosen.sum()), mean1, variance1
            distractors = int((~chosen).sum()), mean0, variance0
            result[task, units] = standardised_difference(targets, distractors, denominator=denominator)
    return result.reshape(shape)


def roc_area(responses: ArrayLike, target: ArrayLike) -> Float:
    """P(target > distractor) + P(equal)/2, exact with ties, by mid-ranks.

    Parameters
    ----------
    responses : (..., n), any real units; only their order matters, nothing is squashed.
    target : boolean (n,) or (tasks, n).

    Returns
    -------
    (...) or (tasks, ...), in [0, 1]. NaN where a class has fewer than two observations, where all responses are equal,
    or where one is not finite.

    Notes
    -----
    Bamber 1975: area = (rank sum of targets - n1(n1+1)/2)/(n1 n0). One ranking serves all tasks.

    >>> float(roc_area([1, 2, 2, 3, 0, 2, 2, 1], [True] * 4 + [False] * 4))
    0.71875
    """
    values, wanted, shape = _prepare(responses, target)
    result = np.full((wanted.shape[0], values.shape[0]), np.nan)
    n1 = wanted.sum(axis=1).astype(np.float64)
    n0 = wanted.shape[1] - n1
    enough = (n1 >= 2) & (n0 >= 2)
    for units, block in _blocks(values):
        usable = _varied(block)
        if not enough.any() or not usable.any():
            continue
        ranks = stats.rankdata(block[usable], axis=1)
        sums = wanted[enough].astype(np.float64) @ ranks.T
        area = (sums - (n1 * (n1 + 1) / 2)[enough, None]) / (n1 * n0)[enough, None]
        part = np.full((wanted.shape[0], block.shape[0]), np.nan)
        part[np.ix_(enough, usable)] = area
        result[:, units] = part
    return result.reshape(shape)


def _varied(block: Float) -> NDArray[np.bool_]:
    """Rows that are finite and not constant."""
    finite = np.isfinite(block).all(axis=1)
    varied = np.zeros(block.shape[0], dtype=bool)
    if block.shape[1]:
        varied[finite] = np.ptp(block[finite], axis=1) > 0
    return varied


def _placements(values: Float, chosen: NDArray[np.bool_]) -> tuple[Float, Float]:
    """Placement values of targets (units, n1) and of distractors (units, n0); their means are both the ROC area."""
    ranks = stats.rankdata(values, axis=1)
    inside1 = stats.rankdata(values[:, chosen], axis=1)
    inside0 = stats.rankdata(values[:, ~chosen], axis=1)
    n1, n0 = inside1.shape[1], inside0.shape[1]
    return (ranks[:, chosen] - inside1) / n0, 1.0 - (ranks[:, ~chosen] - inside0) / n1


def delong(responses: ArrayLike, target: ArrayLike) -> Float:
    """Variance of the ROC area without a distributional assumption.

    Parameters as in `roc_area`. Returns (...) or (tasks, ...), >= 0; exactly 0 where the area is 0 or 1 (no interval
    can be made of that: `delong_interval` returns NaN); NaN where the area is undefined.

    Notes
    -----
    DeLong, DeLong & Clarke-Pearson 1988; fast form by mid-ranks: Sun & Xu 2014, eq. 8-9.

    >>> float(delong([3.0, 1.0, 2.0, 0.0], [True, True, False, False]))
    0.125
    """
    values, wanted, shape = _prepare(responses, target)
    result = np.full((wanted.shape[0], values.shape[0]), np.nan)
    for units, block in _blocks(values):
        usable = _varied(block)
        for task, chosen in enumerate(wanted):
            if min(chosen.sum(), (~chosen).sum()) < 2 or not usable.any():
                continue
            targets, distractors = _placements(block[usable], chosen)
            part = np.full(block.shape[0], np.nan)
            part[usable] = targets.var(axis=1, ddof=1) / targets.shape[1]
            part[usable] += distractors.var(axis=1, ddof=1) / distractors.shape[1]
            result[task, units] = part
    return result.reshape(shape)


def delong_interval(responses: ArrayLike, target: ArrayLike, *, level: float = 0.95) -> tuple[Float, Float]:
    """Lower and upper end of the DeLong interval of the ROC area, clipped to [0, 1].

    NaN where the area is undefined or its DeLong variance is 0 (area 0 or 1: an interval of no width would be false).

    >>> low, high = delong_interval([3.0, 1.0, 2.0, 0.0], [True, True, False, False])
    >>> round(float(low), 4), float(high)
    (0.057, 1.0)
    """
    area, variance = roc_area(responses, target), delong(responses, target)
    # equal placements can leave a variance of 1e-33 by rounding; it is 0
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt(np.where(variance > 1e-24, variance, np.nan))
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
    first, _, shape = _prepare(responses_a, chosen)
    second, _, other_shape = _prepare(responses_b, chosen)
    if chosen.ndim != 1 or shape != other_shape:
        raise ValueError(f"one task and equal shapes wanted; came {first.shape}, {second.shape}, target {chosen.shape}")
    a, b = first.astype(np.float64), second.astype(np.float64)
    difference, variance = np.full(a.shape[0], np.nan), np.full(a.shape[0], np.nan)
    usable = _varied(a) & _varied(b)
    if min(chosen.sum(), (~chosen).sum()) >= 2 and usable.any():
        targets_a, distractors_a = _placements(a[usable], chosen)
        targets_b, distractors_b = _placements(b[usable], chosen)
        targets, distractors = targets_a - targets_b, distractors_a - distractors_b
        difference[usable] = targets.mean(axis=1)
        variance[usable] = targets.var(axis=1, ddof=1) / targets.shape[1]
        variance[usable] += distractors.var(axis=1, ddof=1) / distractors.shape[1]
    return difference.reshape(shape), variance.reshape(shape)


def status_codes(responses: ArrayLike, target: ArrayLike) -> NDArray[np.str_]:
    """Why d' is defined ("ok") or not, one code per unit (and task), first that holds.

    "single_class" no targets or no distractors; "too_few" a class of one; "nonfinite" a NaN or infinity; "dead" all
    responses 0; "constant" no variance within either class (the ROC area is then still defined if the classes differ).

    >>> status_codes([[0.0, 0, 0, 0], [1, 1, 1, 1], [1, 2, 3, 4]], [True, True, False, False]).tolist()
    ['dead', 'constant', 'ok']
    """
    values, wanted, shape = _prepare(responses, target)
    result = np.full((wanted.shape[0], values.shape[0]), "ok", dtype="<U12")
    for units, block in _blocks(values):
        nonfinite = ~np.isfinite(block).all(axis=1)
        dead = (block == 0).all(axis=1)
        for task, chosen in enumerate(wanted):
            n1, n0 = int(chosen.sum()), int((~chosen).sum())
            if min(n1, n0) < 2:
                result[task, units] = "single_class" if min(n1, n0) == 0 else "too_few"
                continue
            with np.errstate(invalid="ignore"):
                constant = (np.ptp(block[:, chosen], axis=1) == 0) & (np.ptp(block[:, ~chosen], axis=1) == 0)
            codes = np.where(constant, "constant", "ok")
            codes = np.where(dead, "dead", codes)
            result[task, units] = np.where(nonfinite, "nonfinite", codes)
    return result.reshape(shape)


def dprime_floor(responses: ArrayLike, target: ArrayLike, *, permutations: int, rng: np.random.Generator) -> Float:
    """Mean |d'| (rms) when labels are permuted: what |d'| of a unit without any effect looks like.

    Parameters
    ----------
    responses : (..., n).
    target : boolean (n,) or (tasks, n).
    permutations : number of label permutations, the same for all units.
    rng : source of randomness.

    Returns
    -------
    (...) or (tasks, ...), >= 0. About sqrt(2/pi) sqrt(1/n1 + 1/n0) for continuous responses. NaN where d' is undefined.

    >>> rng = np.random.default_rng(0)
    >>> float(dprime_floor([1.0, 2.0, 1.0, 2.0, 1.0, 2.0], [True] * 3 + [False] * 3, permutations=9, rng=rng)) > 0
    True
    """
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1; came {permutations}")
    values, wanted, shape = _prepare(responses, target)
    result = np.full((wanted.shape[0], values.shape[0]), np.nan)
    orders = np.array([rng.permutation(values.shape[1]) for _ in range(permutations)])
    for task, chosen in enumerate(wanted):
        n1, n0 = int(chosen.sum()), int((~chosen).sum())
        if min(n1, n0) < 2:
            continue
        shuffled = chosen[orders].astype(np.float64)  # (permutations, n)
        for units, block in _blocks(values):
            result[task, units] = _permuted_dprime(block, shuffled, n1, n0)
    return result.reshape(shape)


def _permuted_dprime(block: Float, shuffled: Float, n1: int, n0: int) -> Float:
    usable = _varied(block)
    result = np.full(block.shape[0], np.nan)
    # centring and scaling first: sums of squares of centred responses do not cancel
    centred = block[usable] - block[usable].mean(axis=1, keepdims=True)
    centred /= centred.std(axis=1, keepdims=True)
    sums1, squares1 = centred @ shuffled.T, (centred**2) @ shuffled.T
    sums0 = centred.sum(axis=1, keepdims=True) - sums1
    squares0 = (centred**2).sum(axis=1, keepdims=True) - squares1
    variance1 = (squares1 - sums1**2 / n1) / (n1 - 1)
    variance0 = (squares0 - sums0**2 / n0) / (n0 - 1)
    variance = (variance1 + variance0) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.abs(sums1 / n1 - sums0 / n0) / np.sqrt(np.where(variance > 1e-12, variance, np.nan))
    counted = np.isfinite(values).sum(axis=1)
    with np.errstate(invalid="ignore"):
        result[usable] = np.where(counted > 0, np.nansum(values, axis=1) / counted, np.nan)
    return result
