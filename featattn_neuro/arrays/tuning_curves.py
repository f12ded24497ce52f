"""Numbers of a tuning curve that need no fit: depth of modulation, preferred level. Last axis = levels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]


def modulation_depth(curve: ArrayLike) -> Float:
    """(max − min)/(max + min) of mean responses, in [0, 1] (Michelson's contrast of the curve).

    Parameters
    ----------
    curve : (…, level) means >= 0; NaN levels are left out.

    Returns
    -------
    (…,). NaN with fewer than two levels, where a mean is negative (the index would leave its range), or all are 0.
    Noise raises the maximum and lowers the minimum, so an untuned unit is above 0: compare with permuted levels.

    >>> modulation_depth([[1.0, 3.0, 2.0], [2.0, 2.0, 2.0], [0.0, 0.0, 0.0], [-1.0, 1.0, 3.0]]).tolist()
    [0.5, 0.0, nan, nan]
    """
    values = np.asarray(curve, dtype=np.float64)
    seen = np.isfinite(values)
    low = np.where(seen, values, np.inf).min(axis=-1, initial=np.inf)
    high = np.where(seen, values, -np.inf).max(axis=-1, initial=-np.inf)
    defined = (seen.sum(axis=-1) > 1) & (low >= 0) & (high > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(defined, (high - low) / (high + low), np.nan)


def preferred_level(curve: ArrayLike, level: ArrayLike) -> Float:
    """Level with the largest mean response; the first of equals, NaN where nothing was measured or all are equal.

    Parameters
    ----------
    curve : (…, level) means. level : (level,) values.

    >>> preferred_level([[1.0, 3.0, 2.0], [2.0, 2.0, 2.0]], [0.0, 45.0, 90.0]).tolist()
    [45.0, nan]
    """
    values, at = np.asarray(curve, dtype=np.float64), np.asarray(level, dtype=np.float64)
    seen = np.isfinite(values)
    ranked = np.where(seen, values, -np.inf)
    spread = ranked.max(axis=-1) - np.where(seen, values, np.inf).min(axis=-1)
    with np.errstate(invalid="ignore"):
        return np.where(spread > 0, at[ranked.argmax(axis=-1)], np.nan)
