"""How alike two distributions are (1 − Kolmogorov–Smirnov distance), with a ceiling from halves of one of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Similarity:
    """Likeness of a sample to a reference, on the same footing as its ceiling.

    Parameters
    ----------
    score : 1 − KS of the whole samples.
    matched : mean 1 − KS of random subsets of the sample, each as large as a half of the reference, and that half.
    ceiling : mean 1 − KS of the two halves of the reference: what a sample of the reference itself would reach.
    """

    score: float
    matched: float
    ceiling: float


def ks_similarity(x: ArrayLike, y: ArrayLike) -> float:
    """1 − the largest distance of the two cumulative distributions, over finite values.

    In [0, 1]; 1 = the same distribution, 0 = no overlap; NaN where one sample is empty. Small samples differ by chance:
    compare with a ceiling from samples of that size (`distribution_similarity`). Source: Smirnov 1948.

    >>> ks_similarity([1, 2, 3, 4], [1, 2, 3, 4]), ks_similarity([1, 2], [3, 4]), ks_similarity([1, 3], [2, 4])
    (1.0, 0.0, 0.5)
    """
    a, b = (np.sort(values[np.isfinite(values)]) for values in (_flat(x), _flat(y)))
    if 0 in (a.size, b.size):
        return float("nan")
    at = np.concatenate([a, b])
    gap = np.searchsorted(a, at, side="right") / a.size - np.searchsorted(b, at, side="right") / b.size
    return float(1.0 - np.abs(gap).max())


def distribution_similarity(
    sample: ArrayLike, reference: ArrayLike, *, splits: int = 200, rng: np.random.Generator
) -> Similarity:
    """Likeness of a sample's distribution to a reference's, beside what the reference's own halves reach.

    Parameters
    ----------
    sample : values of the filters; those that are not finite are left out.
    reference : values of the neurons, likewise.
    splits : random halves of the reference.
    rng : source of randomness.

    Returns
    -------
    Similarity; `matched` and `ceiling` are NaN with fewer than four reference values. A sample smaller than half the
    reference is compared whole.

    Notes
    -----
    KS of small samples is biased upward, so score and ceiling are taken at the same sizes; Marques et al. 2021 use
    1 − KS with such a ceiling for V1 properties.

    >>> same = distribution_similarity(range(50), range(50), rng=np.random.default_rng(0))
    >>> same.score, abs(same.matched - same.ceiling) < 0.1
    (1.0, True)
    """
    values, others = (v[np.isfinite(v)] for v in (_flat(sample), _flat(reference)))
    score, half = ks_similarity(values, others), others.size // 2
    if others.size < 4 or not values.size:
        return Similarity(score, float("nan"), float("nan"))
    found = np.empty((splits, 2))
    for split in range(splits):
        order = rng.permutation(others.size)
        drawn = rng.permutation(values.size)[: min(half, values.size)]
        found[split, 0] = ks_similarity(values[drawn], others[order[half:]])
        found[split, 1] = ks_similarity(others[order[:half]], others[order[half:]])
    return Similarity(score, *(float(mean) for mean in found.mean(axis=0)))


def _flat(values: ArrayLike) -> Float:
    return np.asarray(values, dtype=np.float64).ravel()
