"""How well predictions of neurons agree with measurements, and how well they could: reliability and ceilings."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]

FEWEST_HELD = 3
"""Held-out stimuli below which r says nothing: over two it is always 1 or −1."""


def columnwise_correlation(a: ArrayLike, b: ArrayLike) -> Float:
    """Pearson's r of each column of a (n, k) with the same column of b; NaN where one is constant.

    Constant is what varies by less than 1e-12 of its largest value: rounding, in whatever units.

    >>> columnwise_correlation([[1.0, 1.0], [2.0, 1.0]], [[5.0, 0.0], [6.0, 1.0]]).tolist()
    [1.0, nan]
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    varies = _varies(x) & _varies(y)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    norm = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(varies & (norm > 0), np.clip((x * y).sum(axis=0) / norm, -1.0, 1.0), np.nan)


def _varies(columns: Float) -> NDArray[np.bool_]:
    largest = np.abs(columns).max(axis=0, initial=0.0)
    return np.asarray(columns.std(axis=0) > 1e-12 * largest)


def mean_of_defined(values: ArrayLike) -> Float:
    """Mean over the first axis of what is defined there, NaN where less than half of it is.

    A neuron with few spikes is constant, and its r undefined, in some splits: these say nothing of the others.

    >>> mean_of_defined([[0.5, 0.5], [0.7, np.nan], [np.nan, np.nan]]).tolist()
    [0.6, nan]
    """
    table = np.asarray(values, dtype=np.float64)
    seen = np.isfinite(table)
    count = seen.sum(axis=0)
    mean = np.where(seen, table, 0.0).sum(axis=0) / np.maximum(count, 1)
    return np.where((count > 0) & (2 * count >= len(table)), mean, np.nan)


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
    NaN with fewer than three usable stimuli. A split in which a half of the repeats is constant over the stimuli has no
    r: the mean is over the others; NaN where these are less than half of the splits.
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
            result[neuron] = float(spearman_brown(mean_of_defined(halves)))
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
