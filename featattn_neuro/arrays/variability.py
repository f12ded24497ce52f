"""Variability over repeats of the same stimulus: Fano factor, noise correlation. Images of a class are no repeats."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]


def fano_factor(counts: ArrayLike, *, ddof: int = 1) -> Float:
    """Variance over mean of spike counts.

    Parameters
    ----------
    counts : (..., trials), >= 0, of one condition; NaN trials are left out.
    ddof : of the variance; 1 = unbiased.

    Returns
    -------
    (...) >= 0; 1 for Poisson counts, NaN at mean 0 or with too few trials (ddof + 1).

    Raises
    ------
    ValueError : negative counts.

    Notes
    -----
    Fano 1947; Tolhurst, Movshon & Dean 1983.

    >>> float(fano_factor([1.0, 3.0])), float(fano_factor([1.0, 3.0], ddof=0))
    (1.0, 0.5)
    """
    values = np.asarray(counts, dtype=np.float64)
    if (values < 0).any():
        raise ValueError(f"spike counts are >= 0; {int((values < 0).sum())} are negative; give counts, not z-scores")
    seen = np.isfinite(values)
    n = seen.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(seen, values, 0.0).sum(axis=-1) / n
        squares = (np.where(seen, values - mean[..., None], 0.0) ** 2).sum(axis=-1)
        return np.where((n > ddof) & (mean > 0), squares / (n - ddof) / mean, np.nan)


class NoiseCorrelation(NamedTuple):
    """correlation (units, units) in [-1, 1], and the number of trials that each pair shares (units, units)."""

    correlation: Float
    trials: NDArray[np.int64]


def noise_correlation(responses: ArrayLike, condition: ArrayLike) -> NoiseCorrelation:
    """Correlation of trial-to-trial fluctuations between units, responses z-scored within condition.

    Parameters
    ----------
    responses : (units, trials); NaN where a unit was not recorded.
    condition : (trials,) what was shown: *identical* stimuli share a value. Images of one class are different stimuli;
        what a network or neuron varies by between them is signal, not noise.

    Returns
    -------
    NoiseCorrelation. NaN for pairs with fewer than three shared trials, or a unit without variance.

    Raises
    ------
    ValueError : no stimulus was repeated; or repeats are all identical, as those of a deterministic network, which has
        no trial noise.

    Notes
    -----
    Bair, Zohary & Newsome 2001; Cohen & Kohn 2011. Conditions with one trial, or in which a unit does not vary, are
    left out for it.

    >>> shown = ["a", "a", "a", "b", "b", "b"]
    >>> noise_correlation([[1.0, 2.0, 3.0, 11.0, 12.0, 13.0], [5.0, 4.0, 3.0, 5.0, 4.0, 3.0]], shown).correlation[0, 1]
    np.float64(-1.0)
    """
    values, shown = np.asarray(responses, dtype=np.float64), np.asarray(condition)
    if values.ndim != 2 or shown.shape != values.shape[-1:]:
        raise ValueError(f"responses must be (units, trials), condition (trials,); came {values.shape}, {shown.shape}")
    scores = zscore_within(values, shown)
    seen = np.isfinite(scores)
    if not seen.any():
        _, counts = np.unique(shown, return_counts=True)
        if counts.max(initial=0) < 2:
            raise ValueError(
                "noise correlation needs repeats of identical stimuli; every condition was shown once; "
                "images of a class are different stimuli"
            )
        raise ValueError(
            "noise correlation needs trial noise; all repeats of each stimulus gave the same response, as those of a "
            "deterministic network do; variability across images is not noise correlation"
        )
    filled = np.where(seen, scores, 0.0)
    members = seen.astype(np.float64)
    n = members @ members.T
    with np.errstate(divide="ignore", invalid="ignore"):
        sums = filled @ members.T  # [i, j]: sum of i over trials that both have
        covariance = filled @ filled.T / n - sums * sums.T / n**2
        squares = (filled**2) @ members.T / n - (sums / n) ** 2
        correlation = np.clip(covariance / np.sqrt(squares * squares.T), -1.0, 1.0)
    return NoiseCorrelation(np.where((n >= 3) & (squares * squares.T > 0), correlation, np.nan), n.astype(np.int64))


def zscore_within(values: ArrayLike, condition: ArrayLike) -> Float:
    """(..., trials) minus the mean of their condition, over its SD (ddof 1).

    NaN trials are left out, and NaN comes out where a condition has fewer than two trials or no variance.

    >>> zscore_within([1.0, 3.0, 7.0], ["a", "a", "b"]).round(3).tolist()
    [-0.707, 0.707, nan]
    """
    x, shown = np.asarray(values, dtype=np.float64), np.asarray(condition)
    result = np.full(x.shape, np.nan)
    for one in np.unique(shown):
        part = x[..., shown == one]
        seen = np.isfinite(part)
        n = seen.sum(axis=-1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.where(seen, part, 0.0).sum(axis=-1, keepdims=True) / n
            variance = (np.where(seen, part - mean, 0.0) ** 2).sum(axis=-1, keepdims=True) / (n - 1)
            lowest = np.where(seen, part, np.inf).min(axis=-1, keepdims=True)
            highest = np.where(seen, part, -np.inf).max(axis=-1, keepdims=True)
            scores = (part - mean) / np.sqrt(np.where(highest > lowest, variance, np.nan))
        result[..., shown == one] = scores
    return result
