"""What a linear read-out of all units can tell: Fisher weights and the cross-validated d' of a population."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

Float = NDArray[np.float64]
Flags = NDArray[np.bool_]


def _classes(responses: ArrayLike, target: ArrayLike) -> tuple[Float, Flags]:
    values, wanted = np.asarray(responses, dtype=np.float64), np.asarray(target)
    if values.ndim != 2 or wanted.dtype != np.bool_ or wanted.shape != values.shape[1:]:
        raise ValueError(
            f"responses must be (unit, n) and target boolean (n,); came {values.shape}, {wanted.dtype} {wanted.shape}"
        )
    return values, wanted


def fisher_weights(responses: ArrayLike, target: ArrayLike) -> Float:
    """Weights of the best linear read-out under equal covariances, Σ⁻¹ Δμ, with a shrunken Σ.

    Parameters
    ----------
    responses : (unit, n). target : boolean (n,).

    Returns
    -------
    (unit,) signed, in 1/units of the response. NaN for all with fewer than two observations in a class or a response
    that is not finite; 0 for a unit without variance within classes (an SD of 1e-12 of its largest
    response or less, which is rounding).

    Notes
    -----
    Fisher 1936. Σ is the pooled within-class covariance shrunken to a multiple of the identity by Ledoit & Wolf 2004,
    on responses divided by their pooled SD, so that the shrinkage does not depend on the units' scales.

    >>> fisher_weights([[0.0, 2.0, 4.0, 6.0], [1.0, 1.0, 1.0, 1.0]], [False, False, True, True]).round(3).tolist()
    [2.0, 0.0]
    """
    from sklearn.covariance import ledoit_wolf

    values, wanted = _classes(responses, target)
    n1, n0 = int(wanted.sum()), int((~wanted).sum())
    if min(n1, n0) < 2 or not np.isfinite(values).all():
        return np.full(values.shape[0], np.nan)
    means = [values[:, side].mean(axis=1) for side in (wanted, ~wanted)]
    within = values - np.where(wanted, means[0][:, None], means[1][:, None])
    sd = np.sqrt((within**2).sum(axis=1) / (n1 + n0 - 2))
    varied = sd > 1e-12 * np.abs(values).max(axis=1)  # rounding of this unit's responses, whatever the others' scale
    weights = np.zeros(values.shape[0])
    if varied.any():
        scaled = (within[varied] / sd[varied, None]).T
        covariance, _ = ledoit_wolf(scaled, assume_centered=True)
        covariance *= (n1 + n0) / (n1 + n0 - 2)
        difference = (means[0] - means[1])[varied] / sd[varied]
        weights[varied] = np.linalg.solve(covariance, difference) / sd[varied]
    return weights


def stratified_folds(target: ArrayLike, folds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Fold of each observation, (n,), with each class spread evenly over the folds.

    >>> folds = stratified_folds(np.array([True] * 4 + [False] * 6), 2, np.random.default_rng(0))
    >>> np.bincount(folds[:4]).tolist(), np.bincount(folds[4:]).tolist()
    ([2, 2], [3, 3])
    """
    wanted = np.asarray(target, dtype=bool)
    fold = np.empty(wanted.size, dtype=np.int64)
    for side in (wanted, ~wanted):
        members = rng.permutation(np.flatnonzero(side))
        fold[members] = np.arange(members.size) % folds
    return fold


def population_dprime(responses: ArrayLike, target: ArrayLike, *, folds: int = 5, rng: np.random.Generator) -> float:
    """Cross-validated d' of the best linear read-out of all units, in SDs.

    Parameters
    ----------
    responses : (unit, n). target : boolean (n,).
    folds : each observation is read out once, with weights from the other folds.
    rng : draws the folds, stratified by class.

    Returns
    -------
    float, signed: around 0 without information (it is not biased upward), about sqrt(Δμ' Σ⁻¹ Δμ) with plenty of data.
    NaN with fewer than 2 · folds observations in a class, a response that is not finite, or no variance.

    Notes
    -----
    Weights: `fisher_weights`. Held-out projections are divided by the SD within classes of all projections by the same
    weights, which makes the scales of the folds alike. d' is the mean over folds of the difference between classes,
    over the rms of the SDs within classes, whose squares are pooled over folds: few held-out observations have no SD to
    speak of, and a mean over folds of d' would be too large. What is left of that bias is taken off by Hedges' exact
    factor, with the degrees of freedom of the rms (Hedges 1981, Satterthwaite 1946). Averbeck & Lee 2006 on d' of
    populations.
    """
    values, wanted = _classes(responses, target)
    if min(wanted.sum(), (~wanted).sum()) < 2 * folds or not np.isfinite(values).all():
        return float("nan")
    fold = stratified_folds(wanted, folds, rng)
    difference, squares = np.empty(folds), np.zeros(2)
    freedom = np.array([wanted.sum() - folds, (~wanted).sum() - folds])
    for held in range(folds):
        inside = fold == held
        weights = fisher_weights(values[:, ~inside], wanted[~inside])
        scale = _within_sd(weights @ values, wanted)
        if not scale > 0:
            return float("nan")
        means = []
        for side, flags in enumerate((wanted, ~wanted)):
            projected = weights @ values[:, inside & flags] / scale
            means.append(projected.mean())
            squares[side] += ((projected - means[-1]) ** 2).sum()
        difference[held] = means[0] - means[1]
    spread = np.sqrt((squares / freedom).mean())
    if not spread > 0:
        return float("nan")
    return float(hedges_factor(4 / (1 / freedom).sum()) * difference.mean() / spread)


def hedges_factor(freedom: ArrayLike) -> Float:
    """What d' is multiplied by to be unbiased, Γ(ν/2) / (√(ν/2) Γ((ν − 1)/2)); ν > 1 (Hedges 1981).

    >>> hedges_factor([2.0, 10.0, 1000.0]).round(3).tolist()
    [0.564, 0.923, 0.999]
    """
    half = np.asarray(freedom, dtype=np.float64) / 2
    return np.asarray(np.exp(gammaln(half) - gammaln(half - 0.5)) / np.sqrt(half))


def _within_sd(projected: Float, wanted: Flags) -> float:
    squares = [((projected[side] - projected[side].mean()) ** 2).sum() for side in (wanted, ~wanted)]
    return float(np.sqrt(sum(squares) / (wanted.size - 2)))
