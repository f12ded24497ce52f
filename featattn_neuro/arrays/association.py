"""Rank correlation of gains with selectivity, and the null in which tasks are mismatched. Last axis = units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Float = NDArray[np.float64]
CLIP = 0.999
"""Correlations are clipped to ± this before atanh, so that a perfect one does not make a mean infinite."""


def masked_ranks(values: ArrayLike, valid: ArrayLike | None = None) -> Float:
    """Mid-ranks along the last axis among the valid entries; NaN elsewhere.

    >>> masked_ranks([5.0, 1.0, 9.0, 1.0], [True, True, False, True]).tolist()
    [3.0, 1.5, nan, 1.5]
    """
    x = np.asarray(values, dtype=np.float64)
    keep = np.isfinite(x) if valid is None else np.broadcast_to(np.asarray(valid, dtype=bool), x.shape)
    # invalid entries go to the far end, where they cannot shift the ranks of the others
    ranks = stats.rankdata(np.where(keep, x, np.inf), axis=-1)
    # but for valid infinities, with which they would tie: these are the last of the valid entries
    last = keep & np.isposinf(x)
    if last.any():
        among = last.sum(axis=-1, keepdims=True)
        ranks = np.where(last, keep.sum(axis=-1, keepdims=True) - (among - 1) / 2, ranks)
    return np.where(keep, ranks, np.nan)


def _correlate(x: Float, y: Float, keep: NDArray[np.bool_]) -> Float:
    """Pearson correlation along the last axis over `keep`; NaN below three entries or without variance."""
    n = keep.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        dx = np.where(keep, x - np.where(keep, x, 0).sum(axis=-1, keepdims=True) / n[..., None], 0)
        dy = np.where(keep, y - np.where(keep, y, 0).sum(axis=-1, keepdims=True) / n[..., None], 0)
        norm = np.sqrt((dx**2).sum(axis=-1) * (dy**2).sum(axis=-1))
        rho = np.clip((dx * dy).sum(axis=-1) / norm, -1.0, 1.0)
    return np.where((n >= 3) & (norm > 1e-12), rho, np.nan)


def spearman(x: ArrayLike, y: ArrayLike, *, valid: ArrayLike | None = None) -> Float:
    """Spearman's rank correlation along the last axis, exact with ties, over the valid entries.

    Parameters
    ----------
    x, y : (..., n), broadcast against each other.
    valid : boolean, broadcast to (..., n); None = where both are finite. Entries that are not finite are never valid.

    Returns
    -------
    (...), in [-1, 1]; NaN with fewer than three valid entries or where x or y is constant over them.

    >>> float(spearman([1.0, 2.0, 3.0, 9.0], [10.0, 20.0, 30.0, 0.0], valid=[True, True, True, False]))
    1.0
    """
    a, b = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    keep = np.isfinite(a) & np.isfinite(b)
    if valid is not None:
        keep = keep & np.asarray(valid, dtype=bool)
    return _correlate(masked_ranks(a, keep), masked_ranks(b, keep), keep)


CORRELATIONS = ("spearman", "kendall", "pearson")


def cross_correlation(x: ArrayLike, y: ArrayLike, *, method: str = "spearman") -> Float:
    """Correlation of every row of x with every row of y, each ranked once.

    Parameters
    ----------
    x, y : (..., a, n) and (..., b, n); leading axes broadcast.
    method : "spearman" (mid-ranks), "kendall" (τ_b, exact with ties), "pearson".

    Returns
    -------
    (..., a, b) in [-1, 1]. NaN where a row has an entry that is not finite, is constant, or n < 3: no entry is left out
    silently, so all cells are over the same units.

    Notes
    -----
    Spearman 1904; Kendall 1945.

    >>> cross_correlation([[1.0, 2.0, 4.0]], [[1.0, 4.0, 16.0], [3.0, 2.0, 1.0]]).round(9).tolist()
    [[1.0, -1.0]]
    """
    if method not in CORRELATIONS:
        raise ValueError(f"method must be one of {CORRELATIONS}; came {method!r}")
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-1]:
        raise ValueError(f"x and y must be (..., a, n) and (..., b, n); came {a.shape} and {b.shape}")
    if a.shape[-1] < 3:
        leading = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        return np.full((*leading, a.shape[-2], b.shape[-2]), np.nan)
    if method == "kendall":
        return _kendall_table(a, b)
    units = [_unit_rows(stats.rankdata(v, axis=-1) if method == "spearman" else v, v) for v in (a, b)]
    return np.clip(units[0] @ np.swapaxes(units[1], -1, -2), -1.0, 1.0)


def _unit_rows(scores: Float, values: Float) -> Float:
    """Rows centred and of unit length; NaN for rows that are constant or not finite."""
    defined = np.isfinite(values).all(axis=-1, keepdims=True)
    usable = np.where(defined, scores, 0.0)
    defined = defined & (np.ptp(usable, axis=-1, keepdims=True) > 0)
    centred = usable - usable.mean(axis=-1, keepdims=True)
    norm = np.sqrt((centred**2).sum(axis=-1, keepdims=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(defined, centred / norm, np.nan)


def _kendall_table(a: Float, b: Float) -> Float:
    leading = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = np.broadcast_to(a, (*leading, *a.shape[-2:])), np.broadcast_to(b, (*leading, *b.shape[-2:]))
    table = np.full((*leading, a.shape[-2], b.shape[-2]), np.nan)
    for index in np.ndindex(table.shape):
        first, second = a[(*index[:-2], index[-2])], b[(*index[:-2], index[-1])]
        if np.isfinite(first).all() and np.isfinite(second).all():
            table[index] = stats.kendalltau(first, second).statistic  # NaN where one is constant
    return table


def atanh_clipped(rho: ArrayLike) -> Float:
    """Fisher's z of a correlation clipped to ±.999 (|z| <= 3.8).

    >>> float(atanh_clipped(0.0)), bool(np.isfinite(atanh_clipped(1.0)))
    (0.0, True)
    """
    return np.arctanh(np.clip(np.asarray(rho, dtype=np.float64), -CLIP, CLIP))


def partial_spearman(x: ArrayLike, y: ArrayLike, covariates: ArrayLike) -> float:
    """Rank correlation of x and y after the ranks of the covariates have been regressed out of both.

    Parameters
    ----------
    x, y : (n,).
    covariates : (n,) or (k, n). A covariate without variance removes nothing.

    Returns
    -------
    float in [-1, 1]. NaN with fewer than k + 3 entries finite in all, or where nothing of x or y is left.

    Notes
    -----
    Kendall 1942; for one covariate equal to (r_xy - r_xz r_yz)/sqrt((1 - r_xz²)(1 - r_yz²)) of Spearman correlations.

    >>> round(partial_spearman([1, 2, 3, 4], [2, 1, 4, 3], [1, 1, 1, 1]), 3)
    0.6
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    given = np.atleast_2d(np.asarray(covariates, dtype=np.float64))
    keep = np.isfinite(a) & np.isfinite(b) & np.isfinite(given).all(axis=0)
    if keep.sum() < given.shape[0] + 3:
        return float("nan")
    ranks = stats.rankdata(np.vstack([a, b, given])[:, keep], axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    design = ranks[2:].T
    residual = ranks[:2].T - design @ np.linalg.lstsq(design, ranks[:2].T, rcond=None)[0]
    norms = np.sqrt((residual**2).sum(axis=0))
    if (norms <= 1e-9 * np.sqrt((ranks[:2] ** 2).sum(axis=1)).clip(min=1e-12)).any():
        return float("nan")
    return float(np.clip(residual[:, 0] @ residual[:, 1] / (norms[0] * norms[1]), -1.0, 1.0))


def leave_one_task_out(log_gain: ArrayLike) -> Float:
    """Log gain of each task minus the mean log gain of the other tasks: what is left of a gain beyond calibration.

    Parameters
    ----------
    log_gain : (task, unit), at least two tasks.

    >>> leave_one_task_out([[1.0, 0.0], [3.0, 0.0], [2.0, 3.0]]).tolist()
    [[-1.5, -1.5], [1.5, -1.5], [0.0, 3.0]]
    """
    values = np.asarray(log_gain, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] < 2:
        raise ValueError(f"log_gain must be (task, unit) with two tasks or more; came {values.shape}")
    others = (values.sum(axis=0, keepdims=True) - values) / (values.shape[0] - 1)
    return values - others


@dataclass(frozen=True)
class TaskMismatch:
    """Result of `task_mismatch`.

    matched : (network,) mean of z(t, t).
    specific : (network,) matched minus the mean of z(t, s), s ≠ t.
    p : two-sided p of the joint permutation of tasks; NaN where no network is complete.
    statistic, centre : T(identity) and the mean of T over all permutations.
    n_networks : networks without an undefined cell, which alone enter p, statistic and centre.
    """

    matched: Float
    specific: Float
    p: float
    statistic: float
    centre: float
    n_networks: int


def task_mismatch(z: ArrayLike, *, permutations: int = 9999, rng: np.random.Generator) -> TaskMismatch:
    """Are gains of a task more associated with the selectivity of that task than with that of the others?

    Parameters
    ----------
    z : (network, task, task) or (task, task): association of the gains of the first with the selectivity of the second.
    permutations : random permutations of tasks, the same in all networks.
    rng : source of randomness.

    Notes
    -----
    F = mean over networks of z, T(π) = mean over c of F(c, π(c)), F̄ = mean of all entries of F, which is the mean of T
    over all permutations. p = (1 + #{|T(π_b) - F̄| >= |T(id) - F̄|})/(1 + permutations), never 0. The null hypothesis is
    that, within a network, tasks are exchangeable in the selectivity that the gains are compared with; it keeps the
    covariance of filters, activation scale and what any task would amplify.

    >>> result = task_mismatch(np.eye(2), permutations=99, rng=np.random.default_rng(0))
    >>> result.matched.tolist(), result.specific.tolist(), result.p
    ([1.0], [1.0], 1.0)
    """
    values = np.asarray(z, dtype=np.float64)
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[1] != values.shape[2]:
        raise ValueError(f"z must be (network, task, task); came {values.shape}")
    n_tasks = values.shape[1]
    matched = np.trace(values, axis1=1, axis2=2) / n_tasks
    if n_tasks < 2:
        undefined = np.full(values.shape[0], np.nan)
        return TaskMismatch(matched, undefined, float("nan"), float("nan"), float("nan"), 0)
    mismatched = (values.sum(axis=(1, 2)) - matched * n_tasks) / (n_tasks * (n_tasks - 1))
    complete = np.isfinite(values).all(axis=(1, 2))
    if not complete.any():
        return TaskMismatch(matched, matched - mismatched, float("nan"), float("nan"), float("nan"), 0)
    table = values[complete].mean(axis=0)
    centre = float(table.mean())
    rows = np.arange(n_tasks)
    orders = np.array([rng.permutation(n_tasks) for _ in range(permutations)]).reshape(permutations, n_tasks)
    null = table[rows, orders].mean(axis=1)
    statistic = float(table[rows[None], rows[None]].mean(axis=1)[0])
    extreme = abs(statistic - centre) - 1e-12 * max(1.0, float(np.abs(table).max()))  # ties are ties despite rounding
    p = (1 + int((np.abs(null - centre) >= extreme).sum())) / (1 + permutations)
    return TaskMismatch(matched, matched - mismatched, p, statistic, centre, int(complete.sum()))
