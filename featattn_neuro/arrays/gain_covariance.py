"""Standard error of a rank correlation over filters that are not independent: from the covariance of the gains."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Float = NDArray[np.float64]


def centred_ranks(values: ArrayLike) -> Float:
    """Mid-ranks along the last axis, centred and of unit length; NaN where a row is constant or not finite.

    >>> centred_ranks([10.0, 30.0, 20.0]).round(4).tolist()
    [-0.7071, 0.7071, 0.0]
    """
    x = np.asarray(values, dtype=np.float64)
    ranks = stats.rankdata(x, axis=-1)
    ranks = ranks - ranks.mean(axis=-1, keepdims=True)
    norm = np.sqrt((ranks**2).sum(axis=-1, keepdims=True))
    defined = (norm > 0) & np.isfinite(x).all(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(defined, ranks / norm, np.nan)


def spearman_standard_error(score: ArrayLike, null_gain: ArrayLike) -> Float:
    """SD of Spearman's ρ(gain, score) when gains vary as they do from refit to refit.

    Parameters
    ----------
    score : (..., unit) selectivity of the filters of one layer.
    null_gain : (refit, unit) gains of the same filters refitted to permuted labels, three refits or more.

    Returns
    -------
    (...) in [0, 1]; NaN where the score is constant or fewer than three refits have ranks.

    Notes
    -----
    With C_g the covariance over refits of the unit-length centred gain ranks and r_s those of the score,
    sd(ρ) = sqrt(r_s' C_g r_s / tr C_g): what the score's direction gets of the variance of the gains. Independent
    filters give 1/sqrt(K - 1). It is a spread, not a test: where a null lies is another question.

    >>> rng = np.random.default_rng(0)
    >>> error = spearman_standard_error(np.arange(10), rng.random((20000, 10)))
    >>> abs(float(error) - 1 / 3) < 0.01
    True
    """
    selectivity, gains = centred_ranks(score), centred_ranks(null_gain)
    if gains.ndim != 2 or gains.shape[1] != selectivity.shape[-1]:
        raise ValueError(f"null_gain must be (refit, {selectivity.shape[-1]}); came {gains.shape}")
    gains = gains[np.isfinite(gains).all(axis=1)]
    if len(gains) < 3:
        return np.full(selectivity.shape[:-1], np.nan)
    deviation = gains - gains.mean(axis=0)
    total = float((deviation**2).sum())
    if total <= 0:
        return np.full(selectivity.shape[:-1], np.nan)
    along = np.einsum("...k,rk->...r", selectivity, deviation)
    return np.sqrt((along**2).sum(axis=-1) / total)
