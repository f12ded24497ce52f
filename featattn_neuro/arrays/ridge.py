"""Ridge regression of many neurons on many features by nested cross-validation, one penalty per neuron.

All neurons and penalties share one eigendecomposition per outer fold. The inner folds need none of their own: what a
fit without a block of stimuli would have predicted for that block follows from the fit to all of them,
residual(without B) = [P_BB]⁻¹ (P y)_B with P = Q diag(1/(λ + α)) Qᵀ on centred data (the block form of the
leave-one-out identity; Allen 1974, Cook & Weisberg 1982). Nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featattn_neuro.arrays.prediction import FEWEST_HELD, columnwise_correlation

Float = NDArray[np.float64]
Index = NDArray[np.int64]

PENALTIES = tuple(10.0**power for power in range(-2, 8))
"""Penalties among which the inner folds choose: they span what standardised features need, from one to 10⁵ of them."""


@dataclass(frozen=True)
class RidgeFit:
    """What nested cross-validation of a ridge regression gives.

    Parameters
    ----------
    predicted : (stimulus, neuron) prediction of each response by the outer fold that held the stimulus out; units of
        the responses; NaN where the neuron has no response.
    r : (fold, neuron) Pearson's r of predicted and measured responses in each outer fold; NaN where constant.
    penalty : (fold, neuron) penalty that the inner folds chose.
    fold : (stimulus, neuron) outer fold of each response, −1 where there is none.
    """

    predicted: Float
    r: Float
    penalty: Float
    fold: Index


def ridge_predictivity(
    features: ArrayLike,
    responses: ArrayLike,
    *,
    folds: int = 10,
    inner_folds: int = 5,
    penalties: Sequence[float] = PENALTIES,
    scale: bool = True,
    seed: int = 0,
) -> RidgeFit:
    """Cross-validated predictions of neurons from features; penalties are chosen per neuron inside the training folds.

    Parameters
    ----------
    features : (stimulus, feature), finite.
    responses : (stimulus, neuron); NaN where a neuron has no response to a stimulus, which is left out for it.
    folds : outer folds, shuffled: each response is predicted by the fold that did not see it.
    inner_folds : folds of the outer training stimuli, shuffled; the penalty with the smallest squared error (mean of
        the inner folds' means) is refitted on all of them; ties go to the smaller one.
    penalties : > 0; added to the eigenvalues of the features' Gram matrix, so in squared units of the features
        (of standardised features: no units).
    scale : divide features by their SD over the outer training stimuli (ddof 0); a feature that is constant there has
        no weight. False = as they are.
    seed : of the shuffles.

    Returns
    -------
    RidgeFit. NaN for a neuron with fewer than 3 · folds responses (r over two held-out stimuli is always 1 or −1), or
    with fewer training stimuli than inner folds.

    Raises
    ------
    ValueError : fewer training stimuli than inner folds, or other arguments out of range.

    Notes
    -----
    The intercept is not penalised, so that neither features nor responses need centring (Hoerl & Kennard 1970). No
    statistic of a held-out stimulus enters a fit. Cost: one Gram matrix and one eigendecomposition per outer fold.

    >>> x = np.arange(40.0)[:, None]
    >>> fit = ridge_predictivity(x, 3 * x + 1, folds=4, penalties=[1e-9])
    >>> bool(np.allclose(fit.predicted, 3 * x + 1)), fit.r.shape
    (True, (4, 1))
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(responses, dtype=np.float64)
    grid = np.sort(np.asarray(penalties, dtype=np.float64).ravel())
    _check(x, y, folds, inner_folds, grid)
    fit = RidgeFit(
        np.full(y.shape, np.nan),
        np.full((folds, y.shape[1]), np.nan),
        np.full((folds, y.shape[1]), np.nan),
        np.full(y.shape, -1, dtype=np.int64),
    )
    patterns, group = np.unique(np.isfinite(y), axis=1, return_inverse=True)
    for index in range(patterns.shape[1]):
        rows, neurons = np.flatnonzero(patterns[:, index]), np.flatnonzero(group.ravel() == index)
        if rows.size >= FEWEST_HELD * folds and _training(rows.size, folds) >= inner_folds:
            _fit_complete(fit, x, y, rows, neurons, (folds, inner_folds, seed), grid, scale)
    return fit


def _check(x: Float, y: Float, folds: int, inner_folds: int, grid: Float) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[0] != y.shape[0]:
        raise ValueError(f"features and responses must be (stimulus, ...), same stimuli; came {x.shape} and {y.shape}")
    if not np.isfinite(x).all():
        raise ValueError("features must be finite")
    if min(folds, inner_folds) < 2:
        raise ValueError(f"folds and inner_folds must be at least 2; came {folds} and {inner_folds}")
    if len(x) >= FEWEST_HELD * folds and _training(len(x), folds) < inner_folds:
        raise ValueError(
            f"{inner_folds} inner folds need as many training stimuli; {len(x)} stimuli in {folds} folds leave "
            f"{_training(len(x), folds)}; lower inner_folds, or show more"
        )
    if grid.size == 0 or not (grid > 0).all() or not np.isfinite(grid).all():
        raise ValueError(f"penalties must be finite and greater than 0; came {grid.tolist()}")


def _training(count: int, folds: int) -> int:
    """Stimuli that the largest outer fold leaves to train on."""
    return count - -(-count // folds)


def shuffled_folds(count: int, folds: int, seed: int) -> Iterator[tuple[Index, Index]]:
    """(train, test) indices of scikit-learn's `KFold(folds, shuffle=True, random_state=seed)`."""
    from sklearn.model_selection import KFold

    return iter(KFold(folds, shuffle=True, random_state=seed).split(np.empty((count, 1))))


def _fit_complete(
    fit: RidgeFit,
    x: Float,
    y: Float,
    rows: Index,
    neurons: Index,
    plan: tuple[int, int, int],
    grid: Float,
    scale: bool,
) -> None:
    """Fill in the neurons that were recorded with just these stimuli."""
    folds, inner_folds, seed = plan
    mine, targets = x[rows], y[np.ix_(rows, neurons)]
    # any shift of the features is absorbed by the intercept: this one only keeps their squares from drowning the rest
    mine = mine - mine[:1]
    primal = mine.shape[1] < rows.size // 3
    whole = None if scale or primal else _gram(mine)
    for number, (train, test) in enumerate(shuffled_folds(rows.size, folds, seed)):
        blocks = [block for _, block in shuffled_folds(train.size, inner_folds, seed)]
        divisor = _inverse_sd(mine[train]) if scale else None
        if primal:
            scaled = mine if divisor is None else mine * divisor
            found = _primal(scaled[train], scaled[test], targets[train], blocks, grid)
        else:
            gram = whole if whole is not None else _gram(mine if divisor is None else mine * divisor)
            found = _dual(gram, targets[train], train, test, blocks, grid)
        fit.predicted[np.ix_(rows[test], neurons)] = found[0]
        fit.penalty[number, neurons] = found[1]
        fit.r[number, neurons] = columnwise_correlation(found[0], targets[test])
        fit.fold[np.ix_(rows[test], neurons)] = number


def _inverse_sd(features: Float) -> Float:
    sd = features.std(axis=0)
    constant = sd <= 1e-12 * np.abs(features).max(axis=0)
    return np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, sd))


def _gram(features: Float) -> Float:
    return features @ features.T


def _dual(
    gram: Float, y: Float, train: Index, test: Index, blocks: Sequence[Index], grid: Float
) -> tuple[Float, Float]:
    """Predictions of the test rows and the penalties chosen, from inner products of all rows."""
    inside = gram[np.ix_(train, train)]
    column = inside.mean(axis=0)
    inside -= column + column[:, None] - column.mean()
    # the constant would have eigenvalue 0 and weight 1/α, to be taken off again: lifted, it costs no digits
    lift = float(np.trace(inside)) / len(inside) or 1.0
    values, vectors = _eigen(inside + lift / len(inside))
    centre = y.mean(axis=0)
    turned = vectors.T @ (y - centre)
    chosen = grid[_inner_errors(values, vectors, turned, lift, blocks, grid).argmin(axis=0)]
    dual = vectors @ (turned / (values[:, None] + chosen))
    # the dual weights sum to 0, so only the training side of the inner products needs centring
    return gram[np.ix_(test, train)] @ dual - column @ dual + centre, chosen


def _eigen(matrix: Float) -> tuple[Float, Float]:
    from scipy.linalg import eigh

    values, vectors = eigh(matrix, driver="evd", overwrite_a=True, check_finite=False)
    return np.maximum(values, 0.0), vectors  # a Gram matrix has no negative eigenvalue


def _inner_errors(
    values: Float, vectors: Float, turned: Float, lift: float, blocks: Sequence[Index], grid: Float
) -> Float:
    """(penalty, neuron) squared error of blocks that were left out, mean of the blocks' means."""
    from scipy.linalg.lapack import dposv

    total = np.zeros((grid.size, turned.shape[1]))
    parts = [np.ascontiguousarray(vectors[block]) for block in blocks]
    for row, penalty in enumerate(grid):
        weight = 1.0 / (values + penalty)
        half = np.sqrt(weight)
        residual = vectors @ (weight[:, None] * turned)
        for block, part in zip(blocks, parts, strict=True):
            bent = part * half
            matrix = bent @ bent.T
            matrix -= 1.0 / ((lift + penalty) * vectors.shape[0])  # the intercept is free: the constant counts nothing
            _, error, info = dposv(matrix, residual[block], overwrite_a=True)
            if info:
                raise FloatingPointError(f"penalty {penalty:g} is too small for these features; leave it out")
            total[row] += (error**2).mean(axis=0)
    return total / len(blocks)


def _primal(x: Float, x_test: Float, y: Float, blocks: Sequence[Index], grid: Float) -> tuple[Float, Float]:
    """The same where features are few: one small eigendecomposition per training set."""
    errors = np.zeros((grid.size, y.shape[1]))
    for block in blocks:
        rest = np.setdiff1d(np.arange(len(x)), block)
        values, turned, bent, centre = _primal_fit(x[rest], y[rest], x[block])
        for row, penalty in enumerate(grid):
            guess = bent @ (turned / (values[:, None] + penalty)) + centre
            errors[row] += ((guess - y[block]) ** 2).mean(axis=0)
    chosen = grid[(errors / len(blocks)).argmin(axis=0)]
    values, turned, bent, centre = _primal_fit(x, y, x_test)
    return bent @ (turned / (values[:, None] + chosen)) + centre, chosen


def _primal_fit(x: Float, y: Float, others: Float) -> tuple[Float, Float, Float, Float]:
    """Eigenvalues, responses and other rows along the eigenvectors of the features' scatter, and the mean response."""
    middle, centre = x.mean(axis=0), y.mean(axis=0)
    centred = x - middle
    values, vectors = _eigen(centred.T @ centred)
    return values, vectors.T @ (centred.T @ (y - centre)), (others - middle) @ vectors, centre
