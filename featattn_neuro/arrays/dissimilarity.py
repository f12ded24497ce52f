"""Comparison of representations: correlation distance, agreement of distance matrices, centred kernel alignment."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featattn_neuro.arrays.association import spearman

Float = NDArray[np.float64]


def correlation_distance(patterns: ArrayLike) -> Float:
    """1 - Pearson correlation of the patterns of every two stimuli.

    Parameters
    ----------
    patterns : (stimulus, feature).

    Returns
    -------
    (stimulus, stimulus), in [0, 2], 0 on the diagonal. NaN for a stimulus whose pattern is constant or not finite.

    Notes
    -----
    Kriegeskorte, Mur & Bandettini 2008.

    >>> correlation_distance([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]).round(9).tolist()
    [[0.0, 2.0], [2.0, 0.0]]
    """
    values = np.asarray(patterns, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"patterns must be (stimulus, feature); came {values.shape}")
    if values.shape[1] < 2:
        return np.full((values.shape[0], values.shape[0]), np.nan)
    centred = values - values.mean(axis=1, keepdims=True)
    norm = np.sqrt((centred**2).sum(axis=1, keepdims=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = np.where(norm > 1e-12 * np.abs(values).max(axis=1, keepdims=True), centred / norm, np.nan)
    distance = np.clip(1 - unit @ unit.T, 0.0, 2.0)
    np.fill_diagonal(distance, np.where(np.isfinite(unit).all(axis=1), 0.0, np.nan))
    return distance


def upper_triangle(matrix: ArrayLike) -> Float:
    """Entries above the diagonal, row by row.

    >>> upper_triangle([[0, 1, 2], [1, 0, 3], [2, 3, 0]]).tolist()
    [1.0, 2.0, 3.0]
    """
    square = np.asarray(matrix, dtype=np.float64)
    if square.ndim != 2 or square.shape[0] != square.shape[1]:
        raise ValueError(f"matrix must be square; came {square.shape}")
    return square[np.triu_indices(square.shape[0], 1)]


def compare_dissimilarity(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman correlation (mid-ranks) of two dissimilarity matrices over the pairs that are defined in both.

    NaN with fewer than three pairs or without variance. Source: Nili et al. 2014.

    >>> compare_dissimilarity([[0, 1, 2], [1, 0, 3], [2, 3, 0]], [[0, 2, 4], [2, 0, 6], [4, 6, 0]])
    1.0
    """
    return float(spearman(upper_triangle(first), upper_triangle(second)))


def linear_cka(x: ArrayLike, y: ArrayLike, *, unbiased: bool = True) -> float:
    """Centred kernel alignment with a linear kernel.

    Parameters
    ----------
    x, y : (stimulus, feature), the same stimuli; at least four for the unbiased form.
    unbiased : unbiased HSIC, centred on 0 for independent data and possibly negative (default); False = the biased
        form, which exceeds .9 on independent data with many more features than stimuli.

    Returns
    -------
    float <= 1; NaN where a representation has no variance, its unbiased HSIC is not positive, or values are not finite.

    Notes
    -----
    Kornblith et al. 2019; unbiased HSIC: Song et al. 2012, eq. 5, as used by Nguyen, Raghu & Kornblith 2021.

    >>> round(linear_cka([[0.0], [1.0], [2.0], [5.0]], [[1.0], [3.0], [5.0], [11.0]]), 6)
    1.0
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[0] != second.shape[0]:
        raise ValueError(f"x and y must be (stimulus, feature), same stimuli; came {first.shape} and {second.shape}")
    n = first.shape[0]
    if 0 in (first.size, second.size) or (unbiased and n < 4) or n < 2:
        return float("nan")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return float("nan")
    kernels = []
    for values in (first, second):
        centred = values - values.mean(axis=0)
        scale = np.sqrt((centred**2).sum())
        if scale <= 1e-12 * max(1.0, float(np.abs(values).max())):
            return float("nan")
        kernels.append((centred / scale) @ (centred / scale).T)
    k, m = kernels
    hsic = _hsic_unbiased if unbiased else _hsic_biased
    spread = hsic(k, k), hsic(m, m)
    if min(spread) <= 0:
        return float("nan")
    return float(hsic(k, m) / np.sqrt(spread[0] * spread[1]))


def _hsic_biased(k: Float, m: Float) -> float:
    return float((k * m).sum())  # the kernels are centred


def _hsic_unbiased(k: Float, m: Float) -> float:
    n = k.shape[0]
    a, b = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    cross = a.sum(axis=0) @ b.sum(axis=0)
    total = (a * b).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)
    return float(total / (n * (n - 3)))
