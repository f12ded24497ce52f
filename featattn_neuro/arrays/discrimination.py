"""How well responses tell targets from distractors: d' in its forms, ROC area, reason codes.

`responses` is (..., n); `target` is boolean, (n,) for one task or (tasks, n) for several at once, where the task axis
comes first in the result: (tasks, ...). Undefined values are NaN, never 0; `status_codes` says why. Torch tensors are
taken on any device and computed there; results are NumPy arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featattn_neuro.arrays.counting import ClassSums, PairCounts, discrimination_counts, prepared
from featattn_neuro.arrays.permutation import dprime_floor
from featattn_neuro.arrays.roc import (
    area_of,
    delong,
    delong_covariance,
    delong_interval,
    interval_of_area,
    paired_delong,
    roc_area,
    roc_curve,
)
from featattn_neuro.arrays.sorted_counts import is_tensor
from featattn_neuro.arrays.standardised import DENOMINATORS, standardised_difference

__all__ = [
    "DENOMINATORS",
    "Discrimination",
    "class_variances",
    "crossvalidated_dprime",
    "delong",
    "delong_covariance",
    "delong_interval",
    "discriminate",
    "dprime",
    "dprime_floor",
    "interval_of_area",
    "nonfinite_places",
    "paired_delong",
    "roc_area",
    "roc_curve",
    "standardised_difference",
    "status_codes",
]

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Discrimination:
    """d' and ROC area of units, with what they were made of. Fields are (...) or (tasks, ...).

    dprime in SDs; auc in [0, 1] and its DeLong variance; status as in `status_codes`; mean and variance (ddof 1) of
    targets and of distractors, in the units of the responses; variance of the placements of both (S10, S01 of DeLong);
    n_target, n_distractor (tasks,) or scalars.
    """

    dprime: Float
    auc: Float
    auc_variance: Float
    status: NDArray[np.str_]
    target_mean: Float
    target_variance: Float
    distractor_mean: Float
    distractor_variance: Float
    target_placement_variance: Float
    distractor_placement_variance: Float
    n_target: NDArray[np.int64]
    n_distractor: NDArray[np.int64]


def discriminate(
    responses: Any, target: Any, *, denominator: str = "rms", among: Any = None, engine: str = "numba"
) -> Discrimination:
    """d', ROC area and its DeLong variance of all units at once, for the price of one sort.

    Parameters
    ----------
    responses : (..., n), any real units. Array of any real dtype and memory order, or torch tensor.
    target : boolean (n,) or (tasks, n); all tasks share the sort.
    denominator : as in `dprime`.
    among : boolean, as target: the observations that take part; None = all.
    engine : "numba" (compiled) or "numpy"; both give the same numbers.

    Returns
    -------
    Discrimination: d', ROC area, its variance and a status, (...) or (tasks, ...) each; counts of both classes.

    Raises
    ------
    ValueError : shapes that do not fit, responses that are not real numbers, integers beyond ±2^53, more than 1.5
        million observations.

    Notes
    -----
    d_a: Simpson & Fitter 1973; ROC area: Bamber 1975; variance: DeLong, DeLong & Clarke-Pearson 1988. Beyond the input
    a few megabytes are held, whatever its size: units go by in blocks.

    >>> found = discriminate([3.0, 5.0, 1.0, 3.0], [True, True, False, False])
    >>> round(float(found.dprime), 6), float(found.auc), str(found.status)
    (1.414214, 0.875, 'ok')
    """
    values, roles, shape = prepared(responses, target, among)
    sums, counts = discrimination_counts(values, roles, engine=engine)
    found = discrimination_of(sums, counts, denominator=denominator)
    lead = shape[:1] if np.ndim(target) == 2 else ()
    return Discrimination(
        **{name: value.reshape(lead if name.startswith("n_") else shape) for name, value in vars(found).items()}
    )


def discrimination_of(sums: ClassSums, counts: PairCounts | None, *, denominator: str = "rms") -> Discrimination:
    """Fields (tasks, units) from class sums (tasks, 2, units; class 1 = targets) and pair counts.

    Without counts the area is NaN.
    """
    variance = sums.variance()
    n0, n1 = sums.count[:, 0], sums.count[:, 1]
    enough = (np.minimum(n1, n0) >= 2)[:, None]
    values = standardised_difference(
        (n1[:, None], sums.mean[:, 1], variance[:, 1]),
        (n0[:, None], sums.mean[:, 0], variance[:, 0]),
        denominator=denominator,
    )
    area = np.full(values.shape, np.nan) if counts is None else area_of(sums, counts)
    undefined = np.full(values.shape, np.nan)
    spread = placed1 = placed0 = undefined
    if counts is not None:
        known = np.isfinite(area)
        spread = np.where(known, counts.variance(), np.nan)
        placed1, placed0 = (np.where(known, found, np.nan) for found in counts.placement_variances())
    fields = (
        np.where(enough, values, np.nan), area, spread, status_of(sums),
        sums.mean[:, 1], variance[:, 1], sums.mean[:, 0], variance[:, 0], placed1, placed0,
    )  # fmt: skip
    return Discrimination(*fields, n1, n0)


def class_variances(responses: Any, target: Any) -> Float:
    """Variance (ddof 1) within targets and within distractors, in front: (2, ...) or (2, tasks, ...).

    >>> class_variances([0.0, 2.0, 5.0, 5.0], [True, True, False, False]).tolist()
    [2.0, 0.0]
    """
    values, roles, shape = prepared(responses, target)
    variance = discrimination_counts(values, roles, pairs=False)[0].variance()
    return np.stack([variance[:, 1], variance[:, 0]]).reshape((2, *shape))


def dprime(responses: Any, target: Any, *, denominator: str = "rms", among: Any = None, engine: str = "numba") -> Float:
    """Difference of the class means in units of a within-class standard deviation.

    Parameters
    ----------
    responses : (..., n), any real units.
    target : boolean (n,) or (tasks, n); True = target.
    denominator : "rms" sqrt((s1² + s0²)/2), not affected by imbalance of the classes (d_a); "pooled"
        sqrt(((n1-1)s1² + (n0-1)s0²)/(n1+n0-2)) (Cohen); "hedges" the pooled one, times 1 - 3/(4(n1+n0-2) - 1), nearly
        unbiased; "noise" s0 of the distractors (Glass). All with ddof 1.
    among : boolean, as target: the observations that take part; None = all.
    engine : "numba" or "numpy"; both give the same numbers.

    Returns
    -------
    (...) or (tasks, ...), in SDs, any sign. NaN where the denominator is 0, a class has fewer than two observations or
    a response is not finite.

    Raises
    ------
    ValueError : shapes that do not fit, responses that are not real numbers, an unknown denominator or engine.

    Notes
    -----
    Green & Swets 1966; d_a: Simpson & Fitter 1973; Hedges 1981. Two-pass sums in float64: adding a constant to all
    responses does not change the result.

    >>> float(dprime([3.0, 5.0, 1.0, 3.0], [True, True, False, False]).round(6))
    1.414214
    """
    values, roles, shape = prepared(responses, target, among)
    sums, _ = discrimination_counts(values, roles, engine=engine, pairs=False)
    return discrimination_of(sums, None, denominator=denominator).dprime.reshape(shape)


def crossvalidated_dprime(
    responses: ArrayLike, target: ArrayLike, *, splits: int = 20, rng: np.random.Generator, denominator: str = "rms"
) -> Float:
    """|d'| without the bias of a magnitude: the sign is taken from one half of the data, the value from the other.

    Parameters
    ----------
    responses : (..., n). target : boolean (n,) or (tasks, n), four observations or more in each class.
    splits : random halves, stratified by class; both directions of each are averaged.
    rng : source of randomness.
    denominator : as in `dprime`.

    Returns
    -------
    (...) or (tasks, ...), in SDs: mean of sign(d' of one half) · d' of the other. Without an effect its expectation is
    0 (where |d'| has a floor, see `dprime_floor`); it may be negative. NaN where d' is undefined in a half.

    >>> rng = np.random.default_rng(0)
    >>> responses = [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0]
    >>> float(crossvalidated_dprime(responses, [True] * 4 + [False] * 4, splits=9, rng=rng)) > 0
    True
    """
    if splits < 1:
        raise ValueError(f"splits must be at least 1; came {splits}")
    values, roles, shape = prepared(np.asarray(responses), target)
    result = np.full((roles.shape[0], values.shape[0]), np.nan)
    for task, role in enumerate(roles):
        if min((role == 1).sum(), (role == 0).sum()) < 4:
            continue
        halves = np.stack([_half(role, rng) for _ in range(splits)])
        wanted = np.broadcast_to(role == 1, halves.shape)
        first, second = (dprime(values, wanted, among=part, denominator=denominator) for part in (halves, ~halves))
        result[task] = (np.sign(first) * second + np.sign(second) * first).mean(axis=0) / 2
    return result.reshape(shape)


def _half(role: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A random half of each class."""
    half = np.zeros(role.size, dtype=bool)
    for one in (0, 1):
        members = rng.permutation(np.flatnonzero(role == one))
        half[members[: members.size // 2]] = True
    return half


def status_codes(responses: Any, target: Any, *, among: Any = None) -> NDArray[np.str_]:
    """Why d' is defined ("ok") or not, one code per unit (and task), first that holds.

    "single_class" no targets or no distractors; "too_few" a class of one; "nonfinite" a NaN or infinity; "dead" all
    responses 0; "constant" no variance within either class (the ROC area is then still defined if the classes differ).

    >>> status_codes([[0.0, 0, 0, 0], [1, 1, 1, 1], [1, 2, 3, 4]], [True, True, False, False]).tolist()
    ['dead', 'constant', 'ok']
    """
    values, roles, shape = prepared(responses, target, among)
    return status_of(discrimination_counts(values, roles, pairs=False)[0]).reshape(shape)


def status_of(sums: ClassSums) -> NDArray[np.str_]:
    """`status_codes` (tasks, units) of class sums (tasks, 2, units)."""
    constant = (sums.low == sums.high).all(axis=1)
    dead = constant & (sums.low == 0).all(axis=1)
    fewest = np.broadcast_to(sums.count.min(axis=1)[:, None], constant.shape)
    conditions = [fewest == 0, fewest == 1, ~np.isfinite(sums.mean).all(axis=1), dead, constant]
    return np.select(conditions, ["single_class", "too_few", "nonfinite", "dead", "constant"], default="ok")


def nonfinite_places(responses: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which responses are NaN or infinite: how many of each unit, and where the first of them is (-1: none).

    Parameters
    ----------
    responses : (units, n), array or tensor.

    >>> count, first = nonfinite_places([[1.0, 2.0, 3.0], [1.0, float("nan"), float("inf")]])
    >>> count.tolist(), first.tolist()
    ([0, 2], [-1, 1])
    """
    if is_tensor(responses):
        import torch

        bad = (~torch.isfinite(responses)).cpu().numpy()
    else:
        bad = ~np.isfinite(np.asarray(responses))
    count = bad.sum(axis=1)
    return count, np.where(count > 0, bad.argmax(axis=1), -1)
