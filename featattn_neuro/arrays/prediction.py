"""Prediction of neurons from features, and how reliable the neurons are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
ALPHAS = tuple(10.0**power for power in range(-2, 6))
"""Ridge penalties among which the training folds choose, for standardised features."""


def ridge_predictivity(features: ArrayLike, responses: ArrayLike, *, folds: int = 5, seed: int = 0) -> Float:
    """Correlation of predicted and measured responses to held-out stimuli, per neuron.

    Parameters
    ----------
    features : (stimulus, feature), finite.
    responses : (stimulus, neuron); NaN where a neuron has no response to a stimulus, which is left out for it.
    folds : cross-validation folds, shuffled; penalty and scaling are fitted inside the training folds.
    seed : of the shuffle.

    Returns
    -------
    (neuron,) mean over folds of Pearson's r, in [-1, 1]. NaN with fewer than 2 · folds stimuli, or where a neuron or
    its prediction is constant in a fold.

    Notes
    -----
    Hoerl & Kennard 1970; one penalty per neuron by leave-one-out inside the training folds.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(responses, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[0] != y.shape[0]:
        raise ValueError(f"features and responses must be (stimulus, ...), same stimuli; came {x.shape} and {y.shape}")
    if not np.isfinite(x).all():
        raise ValueError("features must be finite")
    result = np.full(y.shape[1], np.nan)
    patterns, group = np.unique(np.isfinite(y), axis=1, return_inverse=True)
    for index in range(patterns.shape[1]):
        seen, neurons = patterns[:, index], np.flatnonzero(group == index)
        if seen.sum() >= 2 * folds:
            result[neurons] = _cross_validated(x[seen], y[np.ix_(seen, neurons)], folds, seed)
    return result


def _cross_validated(x: Float, y: Float, folds: int, seed: int) -> Float:
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores = []
    for train, test in KFold(folds, shuffle=True, random_state=seed).split(x):
        model = make_pipeline(StandardScaler(), RidgeCV(ALPHAS, alpha_per_target=True))
        predicted = np.asarray(model.fit(x[train], y[train]).predict(x[test])).reshape(test.size, -1)
        scores.append(columnwise_correlation(predicted, y[test]))
    return np.mean(scores, axis=0)


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
