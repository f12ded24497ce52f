"""How well predictions of neurons agree with measurements, and how well they could: reliability and ceilings."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]


def columnwise_correlation(a: ArrayLike, b: ArrayLike) -> Float:
    """Pearson's r of each column of a (n, k) with the same column of b; NaN where one is constant.

    >>> columnwise_correlation([[1.0, 1.0], [2.0, 1.0]], [[5.0, 0.0], [6.0, 1.0]]).tolist()
    [1.0, nan]
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    norm = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(norm > 1e-12, np.clip((x * y).sum(axis=0) / norm, -1.0, 1.0), np.nan)


def spearman_brown(r: ArrayLike) -> Float:
    """Reliability of the whole from the correlation of its halves, 2r/(1+r); r <= 0 is returned as it is.

    >>> spearman_brown([0.5, -0.2]).round(3).tolist()
    [0.667, -0.2]
    """
    values = np.asarray(r, dtype=np.float64)
    return np.where(values > 0, 2 * values / (1 + np.where(values > 0, values, 0)), values)


def split_half_reliability(trials: ArrayLike, *, splits: int = 100, rng: np.random.Generator) -> Float:
    """Reliability over stimuli of each neuron's mean response, by random halves of the repeats.

    Parameters
    ----------
    trials : (stimulus, repeat, neuron), NaN where a repeat is missing; a stimulus with fewer than two repeats of a
        neuron is left out for it.
    splits : random splits, averaged before the correction.
    rng : source of randomness.

    Returns
    -------
    (neuron,) Spearman–Brown corrected mean split-half r (Spearman 1910; Brown 1910); a mean r <= 0 is not corrected.
    NaN with fewer than three usable stimuli or without variance.
    """
    values = np.asarray(trials, dtype=np.float64)
    if values.ndim != 3:
        raise ValueError(f"trials must be (stimulus, repeat, neuron); came {values.shape}")
    result = np.full(values.shape[2], np.nan)
    for neuron in range(values.shape[2]):
        counts = np.isfinite(values[..., neuron]).sum(axis=1)
        usable = counts >= 2
        if usable.sum() >= 3:
            halves = _half_correlations(values[usable, :, neuron], counts[usable], splits, rng)
            result[neuron] = float(spearman_brown(halves.mean()))
    return result


def explained_share(r: ArrayLike, reliability: ArrayLike) -> Float:
    """Share of the explainable variance that is explained: r²/reliability, with the sign of r.

    Parameters
    ----------
    r : Pearson correlations of predicted and measured responses.
    reliability : reliability of the measured responses, a ratio of variances (Spearman–Brown), broadcast to r.

    Returns
    -------
    r·|r|/reliability; it is not clipped, so that noise may carry it above 1. NaN where the reliability is not > 0: what
    has no reliable variance cannot be explained to any share of it.

    Notes
    -----
    Schoppe et al. 2016; a split-half ceiling is a ratio of variances already and is not squared again. A negative r is
    no success: its square would count as one.

    >>> explained_share([0.6, -0.6, 0.6], [0.72, 0.72, 0.0]).round(9).tolist()
    [0.5, -0.5, nan]
    """
    values, ceiling = np.broadcast_arrays(np.asarray(r, dtype=np.float64), np.asarray(reliability, dtype=np.float64))
    usable = ceiling > 0
    return np.where(usable, values * np.abs(values) / np.where(usable, ceiling, 1.0), np.nan)


def attenuation_corrected(r: ArrayLike, reliability: ArrayLike) -> Float:
    """r/√reliability: the unsquared form of `explained_share` (Spearman 1904); NaN where the reliability is not > 0.

    >>> attenuation_corrected([0.6, -0.6], [0.36, 0.0]).round(9).tolist()
    [1.0, nan]
    """
    values, ceiling = np.broadcast_arrays(np.asarray(r, dtype=np.float64), np.asarray(reliability, dtype=np.float64))
    usable = ceiling > 0
    return np.where(usable, values / np.sqrt(np.where(usable, ceiling, 1.0)), np.nan)


def _half_correlations(table: Float, counts: NDArray[np.int64], splits: int, rng: np.random.Generator) -> Float:
    seen = np.isfinite(table)
    filled = np.where(seen, table, 0.0)
    found = np.empty(splits)
    for split in range(splits):
        # missing repeats sort to the end, so the first half of each row is a random half of what was seen
        order = np.argsort(np.where(seen, rng.random(table.shape), np.inf), axis=1)
        rank = np.argsort(order, axis=1)
        half = (rank < (counts // 2)[:, None]) & seen
        first = (filled * half).sum(axis=1) / half.sum(axis=1)
        rest = seen & ~half
        second = (filled * rest).sum(axis=1) / rest.sum(axis=1)
        found[split] = columnwise_correlation(first[:, None], second[:, None])[0]
    return found
