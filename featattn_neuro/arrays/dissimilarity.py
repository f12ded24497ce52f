"""Comparison of representations: distances, agreement of distance matrices and its ceilings, kernel alignment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from featattn_neuro.arrays.association import masked_ranks, spearman

Float = NDArray[np.float64]

BLOCK = 16384
"""Features multiplied at once: few enough that float32 sums stay short and that little memory is needed."""


def correlation_distance(patterns: ArrayLike) -> Float:
    """1 - Pearson correlation of the patterns of every two stimuli.

    Parameters
    ----------
    patterns : (stimulus, feature). float32 is multiplied in float32 after each pattern's mean is off, and summed up in
        float64: errors stay below 1e-6 also under a large common offset, at the price of one matrix product.

    Returns
    -------
    (stimulus, stimulus), float64 in [0, 2], 0 on the diagonal. NaN for a stimulus whose pattern is constant or not
    finite.

    Notes
    -----
    Kriegeskorte, Mur & Bandettini 2008.

    >>> correlation_distance([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]).round(9).tolist()
    [[0.0, 2.0], [2.0, 0.0]]
    """
    values = _patterns(patterns)
    if values.shape[1] < 2:
        return np.full((values.shape[0], values.shape[0]), np.nan)
    with np.errstate(invalid="ignore", over="ignore"):
        product, middle = _centred_products(values)
        power = np.diag(product).copy()
        resolution = 4 * np.finfo(values.dtype).eps * np.abs(middle)
        defined = np.isfinite(power) & (power > 0) & (power > values.shape[1] * resolution**2)
        scale = np.where(defined, 1 / np.sqrt(np.where(defined, power, 1.0)), np.nan)
        product *= scale
        product *= scale[:, None]
    distance = np.clip(1 - product, 0.0, 2.0)
    np.fill_diagonal(distance, np.where(defined, 0.0, np.nan))
    return distance


def euclidean_distance(patterns: ArrayLike) -> Float:
    """Squared Euclidean distance of the patterns of every two stimuli, divided by the number of features.

    Parameters
    ----------
    patterns : (stimulus, feature); float32 as in `correlation_distance`.

    Returns
    -------
    (stimulus, stimulus), float64 >= 0, squared units of the patterns. NaN for a stimulus that is not finite.

    Notes
    -----
    As rsatoolbox's "euclidean" (van den Bosch et al. 2025): squared, and a mean over features.

    >>> euclidean_distance([[0.0, 0.0], [3.0, 1.0]]).tolist()
    [[0.0, 5.0], [5.0, 0.0]]
    """
    values = _patterns(patterns)
    if 0 in values.shape:
        return np.full((values.shape[0], values.shape[0]), np.nan)
    finite = np.isfinite(values).all(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        product = np.zeros((values.shape[0], values.shape[0]))
        for begin in range(0, values.shape[1], BLOCK):
            part = values[:, begin : begin + BLOCK]
            part = part - (part[finite].mean(axis=0) if finite.any() else 0)  # a common shift is in no difference
            product += part @ part.T
        power = np.diag(product)
        distance = np.maximum(power + power[:, None] - 2 * product, 0.0) / values.shape[1]
    distance[~finite], distance[:, ~finite] = np.nan, np.nan
    np.fill_diagonal(distance, np.where(finite, 0.0, np.nan))
    return distance


def crossnobis_distance(folds: ArrayLike, *, precision: ArrayLike | None = None) -> Float:
    """Cross-validated squared Mahalanobis distance of every two stimuli: 0 on average where only noise differs.

    Parameters
    ----------
    folds : (fold, stimulus, feature), independent measurements of the same patterns, two folds or more, finite.
    precision : inverse noise covariance, (feature, feature), or its diagonal (feature,); None = identity.

    Returns
    -------
    (stimulus, stimulus), 0 on the diagonal, negative values possible. Mean over ordered pairs of folds a ≠ b of
    (x_i − x_j in a)ᵀ Σ⁻¹ (x_i − x_j in b), divided by the number of features.

    Notes
    -----
    Walther et al. 2016; equal to leaving one fold out against the mean of the others.

    >>> crossnobis_distance([[[0.0], [2.0]], [[0.0], [3.0]]]).tolist()
    [[0.0, 6.0], [6.0, 0.0]]
    """
    values = np.asarray(folds, dtype=np.float64)
    if values.ndim != 3 or values.shape[0] < 2 or 0 in values.shape:
        raise ValueError(f"folds must be (fold, stimulus, feature) with two folds or more; came {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("folds must be finite: crossnobis needs every feature in every fold")
    values = values - values.mean(axis=(0, 1))  # a common shift is in no difference
    count, _, features = values.shape
    weighted = _weighted(values, precision)
    total = values.sum(axis=0) @ weighted.sum(axis=0).T
    total -= np.einsum("fik,fjk->ij", values, weighted, optimize=True)
    product = (total + total.T) / (2 * count * (count - 1) * features)
    power = np.diag(product)
    distance = power + power[:, None] - 2 * product
    np.fill_diagonal(distance, 0.0)
    return distance


def _weighted(values: Float, precision: ArrayLike | None) -> Float:
    if precision is None:
        return values
    weight, features = np.asarray(precision, dtype=np.float64), values.shape[-1]
    if weight.shape == (features,):
        return values * weight
    if weight.shape == (features, features):
        return values @ weight
    raise ValueError(f"precision must be ({features},) or ({features}, {features}); came {weight.shape}")


def _patterns(patterns: ArrayLike) -> NDArray[np.floating]:
    given = np.asarray(patterns)
    values = given if given.dtype == np.float32 else given.astype(np.float64)
    if values.ndim != 2:
        raise ValueError(f"patterns must be (stimulus, feature); came {values.shape}")
    return values


def _centred_products(values: NDArray[np.floating]) -> tuple[Float, Float]:
    """Inner products of rows without their means, and those means: summed up in float64, in one pass over memory.

    Each block of columns is centred by its own means in cache; what lies between the blocks' means and the rows' is
    added at the end (the pairwise update of Chan, Golub & LeVeque 1983).
    """
    rows, columns = values.shape
    begins = range(0, columns, BLOCK)
    product, means = np.zeros((rows, rows)), np.empty((rows, len(begins)))
    left, widths = np.empty((rows, len(begins))), np.empty(len(begins))
    buffer = np.empty((rows, min(BLOCK, columns)), dtype=values.dtype)
    for number, begin in enumerate(begins):
        block = values[:, begin : begin + BLOCK]
        width = block.shape[1]
        part, ones = buffer[:, :width], np.ones(width, dtype=values.dtype)
        middle = block @ ones / width
        np.subtract(block, middle[:, None], part)
        product += part @ part.T
        left[:, number] = part @ ones / width  # what rounding left of the mean
        means[:, number] = middle + left[:, number]
        widths[number] = width
    middle = means @ widths / columns
    between = means - middle[:, None]
    product += (between * widths) @ between.T - (left * widths) @ left.T
    return product, middle


def upper_triangle(matrix: ArrayLike) -> Float:
    """Entries above the diagonal, row by row.

    >>> upper_triangle([[0, 1, 2], [1, 0, 3], [2, 3, 0]]).tolist()
    [1.0, 2.0, 3.0]
    """
    square = np.asarray(matrix, dtype=np.float64)
    if square.ndim != 2 or square.shape[0] != square.shape[1]:
        raise ValueError(f"matrix must be square; came {square.shape}")
    return square[np.triu_indices(square.shape[0], 1)]


def kendall_tau_a(x: ArrayLike, y: ArrayLike) -> float:
    """Kendall's τ_a: (concordant − discordant) pairs over all pairs; ties count as neither.

    Parameters
    ----------
    x, y : (n,), pairs of values; those that are not both finite are left out.

    Returns
    -------
    In [-1, 1]; NaN with fewer than two pairs. Unlike τ_b, it does not favour a model that predicts ties.

    Notes
    -----
    Kendall 1938; recommended for comparing dissimilarity matrices by Nili et al. 2014.

    >>> round(kendall_tau_a([1, 2, 3, 4], [1, 1, 2, 3]), 6), kendall_tau_a([1, 2], [3, 3])
    (0.833333, 0.0)
    """
    a, b = np.asarray(x, dtype=np.float64).ravel(), np.asarray(y, dtype=np.float64).ravel()
    if a.shape != b.shape:
        raise ValueError(f"x and y must be of equal length; came {a.shape} and {b.shape}")
    keep = np.isfinite(a) & np.isfinite(b)
    n = int(keep.sum())
    if n < 2:
        return float("nan")
    untied = [_untied_pairs(values[keep]) for values in (a, b)]
    if 0 in untied:
        return 0.0
    tau_b = float(stats.kendalltau(a[keep], b[keep]).statistic)
    return float(np.clip(tau_b * np.sqrt(untied[0]) * np.sqrt(untied[1]) / (n * (n - 1) / 2), -1.0, 1.0))


def _untied_pairs(values: Float) -> float:
    counts = np.unique(values, return_counts=True)[1].astype(np.float64)
    return float(values.size * (values.size - 1) / 2 - (counts * (counts - 1) / 2).sum())


COMPARISONS = ("spearman", "kendall")
"""Rank correlations by which dissimilarity matrices are compared: Spearman (mid-ranks) and Kendall τ_a."""


def compare_dissimilarity(first: ArrayLike, second: ArrayLike, *, by: str = "spearman") -> float:
    """Rank correlation of two dissimilarity matrices over the pairs of stimuli that are defined in both.

    Parameters
    ----------
    first, second : (stimulus, stimulus), the same stimuli.
    by : "spearman" (mid-ranks) or "kendall" (τ_a).

    Returns
    -------
    In [-1, 1]; NaN with fewer than three pairs, or without variance (Spearman). Source: Nili et al. 2014.

    >>> compare_dissimilarity([[0, 1, 2], [1, 0, 3], [2, 3, 0]], [[0, 2, 4], [2, 0, 6], [4, 6, 0]])
    1.0
    """
    return _compare(upper_triangle(first), upper_triangle(second), by)


def _compare(x: Float, y: Float, by: str) -> float:
    if by not in COMPARISONS:
        raise ValueError(f"by must be one of {', '.join(COMPARISONS)}; came {by!r}")
    if by == "spearman":
        return float(spearman(x, y))
    return kendall_tau_a(x, y) if (np.isfinite(x) & np.isfinite(y)).sum() >= 3 else float("nan")


@dataclass(frozen=True)
class NoiseCeiling:
    """How well any model could agree with the matrices of the subjects: it lies between `lower` and `upper`."""

    lower: float
    upper: float


def noise_ceiling(matrices: ArrayLike, *, by: str = "spearman") -> NoiseCeiling:
    """Bounds of the mean agreement that the true model would reach with the subjects' dissimilarity matrices.

    Parameters
    ----------
    matrices : (subject, stimulus, stimulus), two subjects or more.
    by : as in `compare_dissimilarity`.

    Returns
    -------
    NoiseCeiling: `upper`, the mean over subjects of the agreement with the mean of all subjects' ranks (this subject
    among them: too good); `lower`, with the mean of the other subjects' (too noisy). NaN below two subjects.

    Notes
    -----
    Nili et al. 2014. For τ_a the mean of ranks is not the matrix of best agreement, so that its upper bound is
    approximate, as in rsatoolbox.

    >>> pair = [[[0, 1, 2], [1, 0, 3], [2, 3, 0]]] * 2
    >>> noise_ceiling(pair)
    NoiseCeiling(lower=1.0, upper=1.0)
    """
    values = np.asarray(matrices, dtype=np.float64)
    if values.ndim != 3 or values.shape[1] != values.shape[2]:
        raise ValueError(f"matrices must be (subject, stimulus, stimulus); came {values.shape}")
    pairs = np.stack([upper_triangle(one) for one in values]) if len(values) else np.empty((0, 0))
    if len(pairs) < 2:
        return NoiseCeiling(float("nan"), float("nan"))
    ranks = masked_ranks(pairs, np.isfinite(pairs).all(axis=0))
    total = ranks.sum(axis=0)  # the order of a sum is that of the mean, and sums of mid-ranks are exact
    upper = [_compare(one, total, by) for one in ranks]
    lower = [_compare(one, total - one, by) for one in ranks]
    return NoiseCeiling(float(np.mean(lower)), float(np.mean(upper)))


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
