"""U-shape: does the gain rise towards both ends of signed selectivity? Two lines, tested over replicates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from featattn_neuro.arrays.association import spearman

Float = NDArray[np.float64]
MIN_SIDE = 5
"""Filters that a side of the break needs."""


def two_sides(x: ArrayLike, y: ArrayLike, *, at: float = 0.0, minimum: int = MIN_SIDE) -> Float:
    """Rank correlation of x and y below the break, and from the break on.

    Parameters
    ----------
    x, y : (..., n), broadcast; entries that are not finite are left out.
    at : the break, in the units of x, named before the data: 0 for signed d'.
    minimum : entries that a side needs.

    Returns
    -------
    (2, ...): left (x < at) and right (x >= at), in [-1, 1]; NaN where a side has fewer than `minimum` entries or does
    not vary.

    Notes
    -----
    Simonsohn 2018: a U needs a line that falls on the left *and* a line that rises on the right; a quadratic term does
    not show that. Ranks stand in for straight lines. The break is fixed, not searched for: a break chosen from the
    data needs independent observations, and filters are none.

    >>> two_sides([-3, -2, -1, 1, 2, 3], [9, 4, 1, 1, 4, 9], minimum=3).tolist()
    [-1.0, 1.0]
    """
    a, b = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    sides = []
    for side in (a < at, a >= at):
        valid = side & np.isfinite(a) & np.isfinite(b)
        sides.append(np.where(valid.sum(axis=-1) >= minimum, spearman(a, b, valid=valid), np.nan))
    return np.stack(sides)


@dataclass(frozen=True)
class UShape:
    """Result of `u_shape_test`: mean of each side, p of a U and of an inverted U, and the smaller of them doubled."""

    left: float
    right: float
    p_u: float
    p_inverted: float
    p: float
    n: int


def u_shape_test(left: ArrayLike, right: ArrayLike) -> UShape:
    """Over replicates: does y fall left of the break and rise right of it (or the reverse)?

    Parameters
    ----------
    left, right : (replicate,) slope or correlation of each side in each network; a replicate with an undefined side is
        left out.

    Returns
    -------
    UShape. `p_u` = the larger of the one-sided t-tests left < 0 and right > 0 (intersection–union: Berger 1982);
    `p_inverted` the reverse; `p` = twice the smaller, at most 1. NaN with fewer than two replicates or without spread.

    >>> found = u_shape_test([-1.0, -2.0, -1.5], [1.0, 2.0, 1.5])
    >>> found.p_u < 0.05 < found.p_inverted, found.n
    (True, 3)
    """
    a, b = np.asarray(left, dtype=np.float64).ravel(), np.asarray(right, dtype=np.float64).ravel()
    if a.shape != b.shape:
        raise ValueError(f"left and right must be of the same replicates; came {a.size} and {b.size}")
    keep = np.isfinite(a) & np.isfinite(b)
    a, b = a[keep], b[keep]
    if a.size < 2 or not (a.std(ddof=1) > 0 and b.std(ddof=1) > 0):
        nan = float("nan")
        mean_a, mean_b = (float(v.mean()) if v.size else nan for v in (a, b))
        return UShape(mean_a, mean_b, nan, nan, nan, int(a.size))
    t_left, t_right = (v.mean() / (v.std(ddof=1) / np.sqrt(v.size)) for v in (a, b))
    df = a.size - 1
    p_u = float(max(stats.t.cdf(t_left, df), stats.t.sf(t_right, df)))
    p_inverted = float(max(stats.t.sf(t_left, df), stats.t.cdf(t_right, df)))
    return UShape(float(a.mean()), float(b.mean()), p_u, p_inverted, min(1.0, 2 * min(p_u, p_inverted)), int(a.size))
