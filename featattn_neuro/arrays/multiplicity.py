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
        adjusted = np.minimum.accumulate((ranked * m / rank * factor)[::-1])[::-1]
    result[order] = np.minimum(adjusted, 1.0)
    return result.reshape(values.shape)
