"""Correction for multiple comparisons. All values handed in are one family; the caller names it by choosing them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

METHODS = ("holm", "bh", "by", "bonferroni")


def adjust(p: ArrayLike, method: str = "holm") -> NDArray[np.float64]:
    """Adjusted p-values of one family, in the shape that came.

    Parameters
    ----------
    p : any shape, in [0, 1]; NaN = not tested. The size of the family is the number of values that are not NaN.
    method : "holm" (Holm 1979), "bonferroni": family-wise error; "bh" (Benjamini & Hochberg 1995), "by" (Benjamini &
        Yekutieli 2001, any dependence): false discovery rate.

    Returns
    -------
    Same shape, in [0, 1], never below p; NaN in, NaN out, without effect on the others.

    >>> adjust([0.25, float("nan"), 0.5], "bonferroni").tolist()
    [0.5, nan, 1.0]
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}; came {method!r}")
    values = np.asarray(p, dtype=np.float64)
    flat = values.ravel()
    tested = np.flatnonzero(~np.isnan(flat))
    result = np.full(flat.shape, np.nan)
    m = tested.size
    if m == 0:
        return result.reshape(values.shape)
    if flat[tested].min() < 0 or flat[tested].max() > 1:
        raise ValueError("p-values lie in [0, 1]")
    order = tested[np.argsort(flat[tested], kind="stable")]
    ranked, rank = flat[order], np.arange(1, m + 1)
    if method == "bonferroni":
        adjusted = ranked * m
    elif method == "holm":
        adjusted = np.maximum.accumulate(ranked * (m - rank + 1))
    else:
        factor = 1.0 if method == "bh" else float((1.0 / rank).sum())
        adjusted = np.minimum.accumulate((ranked * (m / rank * factor))[::-1])[::-1]
    result[order] = np.minimum(adjusted, 1.0)
    return result.reshape(values.shape)


def max_statistic(observed: ArrayLike, null: ArrayLike, *, step_down: bool = True) -> NDArray[np.float64]:
    """Permutation p of many statistics at once, adjusted by the distribution of the largest (max-T).

    Parameters
    ----------
    observed : (test,) statistics, large = evidence (absolute values for two-sided tests), on a common scale. NaN = not
        tested.
    null : (permutation, test) the same statistics under joint permutations, which keep the dependence of the tests.
    step_down : compare each statistic with the largest of those not above it (Westfall & Young 1993, algorithm 4.1);
        False = with the largest of all.

    Returns
    -------
    (test,) in (0, 1], never 0: (1 + exceedances)/(1 + permutations); NaN in, NaN out. Null values of tests that are in
    the family must be finite.

    Notes
    -----
    Westfall & Young 1993: family-wise error under any dependence that the permutations keep; sharper than Bonferroni
    where the tests are correlated.

    >>> max_statistic([3.0, 1.0], [[1.0, 2.0], [0.0, 0.0], [2.0, 0.0]]).tolist()
    [0.25, 0.5]
    """
    values, draws = np.asarray(observed, dtype=np.float64), np.asarray(null, dtype=np.float64)
    if values.ndim != 1 or draws.ndim != 2 or draws.shape[1] != values.size:
        raise ValueError(f"observed must be (test,) and null (permutation, test); came {values.shape}, {draws.shape}")
    tested = np.flatnonzero(~np.isnan(values))
    result = np.full(values.size, np.nan)
    if tested.size == 0:
        return result
    if not np.isfinite(draws[:, tested]).all():
        raise ValueError("every null statistic of a tested hypothesis must be finite")
    order = tested[np.argsort(-values[tested], kind="stable")]
    slack = 1e-12 * np.maximum(1.0, np.abs(values[order]))  # ties are ties despite rounding
    if step_down:
        # the largest null statistic among this test and all that have smaller observed ones
        largest = np.maximum.accumulate(draws[:, order[::-1]], axis=1)[:, ::-1]
    else:
        largest = np.broadcast_to(draws[:, order].max(axis=1, keepdims=True), (len(draws), order.size))
    p = (1 + (largest >= values[order] - slack).sum(axis=0)) / (1 + len(draws))
    result[order] = np.maximum.accumulate(p) if step_down else p
    return result


def family_size(p: ArrayLike) -> int:
    """m, the number of hypotheses that were tested: values that are not NaN.

    >>> family_size([0.1, float("nan"), 0.5])
    2
    """
    return int((~np.isnan(np.asarray(p, dtype=np.float64))).sum())
