"""d' from counts, means and variances alone: its denominators, in one place."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

DENOMINATORS = ("rms", "pooled", "hedges", "noise")


def standardised_difference(
    targets: tuple[ArrayLike, ArrayLike, ArrayLike],
    distractors: tuple[ArrayLike, ArrayLike, ArrayLike],
    *,
    denominator: str = "rms",
) -> NDArray[np.float64]:
    """d' from the count, mean and variance (ddof 1) of targets and of distractors, which broadcast.

    `denominator` as in `discrimination.dprime`. NaN where it is not above 0.

    >>> float(standardised_difference((2, 4.0, 2.0), (2, 2.0, 2.0), denominator="noise").round(6))
    1.414214
    """
    if denominator not in DENOMINATORS:
        raise ValueError(f"denominator must be one of {DENOMINATORS}; came {denominator!r}")
    n1, mean1, variance1 = (np.asarray(part) for part in targets)
    n0, mean0, variance0 = (np.asarray(part) for part in distractors)
    freedom = n1 + n0 - 2
    if denominator == "rms":
        variance = (variance1 + variance0) / 2
    elif denominator == "noise":
        variance = variance0
    else:
        variance = ((n1 - 1) * variance1 + (n0 - 1) * variance0) / np.maximum(freedom, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(variance > 0, (mean1 - mean0) / np.sqrt(variance), np.nan)
    return found * hedges_factor(freedom) if denominator == "hedges" else found


def hedges_factor(freedom: ArrayLike) -> NDArray[np.float64]:
    """Correction of the small-sample bias of d', 1 - 3/(4ν - 1) (Hedges 1981); ν = n1 + n0 - 2 >= 1.

    >>> float(hedges_factor(1))
    0.0
    """
    return 1 - 3 / (4 * np.maximum(np.asarray(freedom), 1) - 1)
