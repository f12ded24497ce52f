"""Equivalence: before "no effect" is said, a bound named beforehand must be excluded on both sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from featattn_neuro.arrays.resampling import t_interval


@dataclass(frozen=True)
class Equivalence:
    """Result of `equivalence_test`.

    estimate : mean over replicates. p_lower, p_upper : one-sided p that the mean is above -bound, and below +bound.
    p : the larger of the two. ci_low, ci_high : the (1 - 2 alpha) interval; equivalent = it lies inside ±bound.
    """

    estimate: float
    p_lower: float
    p_upper: float
    p: float
    ci_low: float
    ci_high: float
    equivalent: bool


def equivalence_test(values: ArrayLike, bound: float, *, alpha: float = 0.05) -> Equivalence:
    """Two one-sided t-tests that the mean lies inside ±bound (Schuirmann 1987).

    Parameters
    ----------
    values : replicates (networks); NaN are left out.
    bound : smallest effect of interest, > 0, in the units of the values, named before the data are looked at.
    alpha : of each one-sided test; the interval has level 1 - 2 alpha.

    Returns
    -------
    Equivalence; NaN and not equivalent with fewer than two replicates, or without any spread (identical numbers would
    claim certainty).

    >>> found = equivalence_test([-0.5, 0.5], 10.0)
    >>> found.estimate, found.p_lower == found.p_upper, found.equivalent
    (0.0, True, True)
    """
    if not bound > 0:
        raise ValueError(f"the bound must be above 0; came {bound}")
    x = np.asarray(values, dtype=np.float64).ravel()
    x = x[np.isfinite(x)]
    estimate = float(x.mean()) if x.size else float("nan")
    error = float(x.std(ddof=1) / np.sqrt(x.size)) if x.size > 1 else 0.0
    if not error > 0:
        nan = float("nan")
        return Equivalence(estimate, nan, nan, nan, nan, nan, False)
    lower = float(stats.t.sf((estimate + bound) / error, x.size - 1))
    upper = float(stats.t.cdf((estimate - bound) / error, x.size - 1))
    low, high = t_interval(x, 1 - 2 * alpha)
    p = max(lower, upper)
    return Equivalence(estimate, lower, upper, p, low, high, p < alpha)
