"""Intervals and p-values over replicates. Last axis = replicates (networks); NaN replicates are left out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def _finite(values: ArrayLike) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64).ravel()
    return x[np.isfinite(x)]


def t_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Mean ± t((1 + level)/2, N - 1) · SD/√N over the finite values; NaN, NaN when there are fewer than two.

    >>> tuple(round(end, 3) for end in t_interval([1.0, 3.0], 0.5))
    (1.0, 3.0)
    """
    x = _finite(values)
    if x.size < 2:
        return float("nan"), float("nan")
    half = float(stats.t.ppf((1 + level) / 2, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size))
    return float(x.mean()) - half, float(x.mean()) + half


def t_test(values: ArrayLike) -> float:
    """Two-sided p of Student's t-test that the mean is 0 (Student 1908), over the finite values.

    NaN when there are fewer than two. Without any spread: 1 if all values are 0, otherwise NaN (a p of 0 would claim
    certainty from identical numbers).

    >>> t_test([-1.0, 1.0]), t_test([0.0, 0.0])
    (1.0, 1.0)
    """
    x = _finite(values)
    if x.size < 2:
        return float("nan")
    if np.ptp(x) == 0:
        return 1.0 if x[0] == 0 else float("nan")
    t = x.mean() / (x.std(ddof=1) / np.sqrt(x.size))
    return float(2 * stats.t.sf(abs(t), x.size - 1))


def permutation_p(observed: float, null: ArrayLike, *, centre: float | None = None) -> float:
    """Two-sided permutation p: (1 + exceedances)/(1 + permutations), never 0.

    Parameters
    ----------
    observed : the statistic.
    null : (permutations,) the statistic under the null.
    centre : where the null is centred; None = its mean.

    Notes
    -----
    Phipson & Smyth 2010. NaN if the statistic, or any null value, is undefined.

    >>> permutation_p(3.0, [0.0, 1.0, -1.0])
    0.25
    """
    draws = np.asarray(null, dtype=np.float64)
    if not np.isfinite(observed) or draws.size == 0 or not np.isfinite(draws).all():
        return float("nan")
    middle = float(draws.mean()) if centre is None else centre
    extreme = abs(observed - middle)
    slack = 1e-12 * max(1.0, abs(observed))
    return (1 + int((np.abs(draws - middle) >= extreme - slack).sum())) / (1 + draws.size)
