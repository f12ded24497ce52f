"""How the effect of attention falls off with distance from the attended feature: linearly, or with a surround."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]

SHAPES = {
    "constant": "ratio = a",
    "linear": "ratio = a + b · distance",
    "surround": "ratio = a + A exp(−d²/2s²) − B exp(−d²/2t²), A, B >= 0, t >= s: enhanced centre, suppressed surround",
}
_FOLDS = 10
_STARTS = ((0.15, 0.5), (0.3, 0.7), (0.1, 1.0), (0.5, 0.5))


@dataclass(frozen=True)
class Profile:
    """One shape fitted to ratios over distance.

    Parameters
    ----------
    parameters : a; a, b; or a, A, s, B, t: distances in the units given, the rest as the ratio.
    bic : Bayesian information criterion (Gaussian errors, additive constant dropped); smaller is better.
    error : mean squared error of points left out in ten interleaved folds.
    """

    parameters: Float
    bic: float
    error: float


def similarity_profiles(distance: ArrayLike, ratio: ArrayLike) -> dict[str, Profile]:
    """Fit each of `SHAPES` to attended/unattended ratios over distance from the attended feature.

    Parameters
    ----------
    distance : (n,) >= 0, between preferred and attended feature (degrees of direction, …).
    ratio : (n,); pairs that are not both finite are left out; at least ten must remain.

    Returns
    -------
    shape → Profile. Compare by `bic` and by `error`: a shape is supported where both prefer it.

    Notes
    -----
    Linear: feature-similarity gain (Martinez-Trujillo & Treue 2004). Surround: Störmer & Alvarez 2014.

    >>> d = np.arange(20.0)
    >>> fits = similarity_profiles(d, 1.2 - 0.01 * d)
    >>> fits["linear"].parameters.round(6).tolist(), min(fits, key=lambda name: fits[name].bic)
    ([1.2, -0.01], 'linear')
    """
    x, y = np.asarray(distance, dtype=np.float64).ravel(), np.asarray(ratio, dtype=np.float64).ravel()
    if x.shape != y.shape:
        raise ValueError(f"distance and ratio must be of equal length; came {x.shape} and {y.shape}")
    keep = np.isfinite(x) & np.isfinite(y)
    x, y = x[keep], y[keep]
    if x.size < _FOLDS or np.ptp(x) == 0 or x.min() < 0:
        raise ValueError(f"wanted {_FOLDS} finite ratios or more at different distances >= 0; came {x.size}")
    fits: dict[str, Callable[[Float, Float], tuple[Float, Callable[[Float], Float]]]] = {
        "constant": lambda a, b: _linear(a, b, 0),
        "linear": lambda a, b: _linear(a, b, 1),
        "surround": _surround,
    }
    found = {}
    for name, fit in fits.items():
        parameters, predict = fit(x, y)
        left = np.empty(x.size)
        for fold in range(_FOLDS):
            out = np.arange(x.size) % _FOLDS == fold
            left[out] = fit(x[~out], y[~out])[1](x[out])
        # deviations below rounding are no evidence for a richer shape
        residual = max(float(((predict(x) - y) ** 2).mean()), (1e-9 * float(np.abs(y).max())) ** 2)
        bic = x.size * np.log(residual) + parameters.size * np.log(x.size)
        found[name] = Profile(parameters, float(bic), float(((left - y) ** 2).mean()))
    return found


def _linear(x: Float, y: Float, degree: int) -> tuple[Float, Callable[[Float], Float]]:
    design = np.vander(x, degree + 1, increasing=True)
    parameters: Float = np.asarray(np.linalg.lstsq(design, y, rcond=None)[0], dtype=np.float64)
    return parameters, lambda at: np.vander(at, degree + 1, increasing=True) @ parameters


def _surround(x: Float, y: Float) -> tuple[Float, Callable[[Float], Float]]:
    from scipy.optimize import minimize, nnls

    reach = float(x.max())

    def columns(at: Float, log_widths: Float) -> Float:
        s = np.exp(log_widths[0])
        t = s + np.exp(log_widths[1])
        return np.stack(
            [np.ones_like(at), -np.ones_like(at), np.exp(-0.5 * (at / s) ** 2), -np.exp(-0.5 * (at / t) ** 2)], 1
        )

    def loss(log_widths: Float) -> float:
        # given the widths, the heights are a linear problem with signs
        return float(nnls(columns(x, log_widths), y)[1])

    best = None
    for narrow, wider in _STARTS:
        start = np.log([narrow * reach, wider * reach])
        bounds = [(np.log(0.01 * reach), np.log(2 * reach))] * 2
        one = minimize(loss, start, method="Nelder-Mead", bounds=bounds, options={"maxiter": 200})
        best = one if best is None or one.fun < best.fun else best
    assert best is not None
    heights, _ = nnls(columns(x, best.x), y)
    s = float(np.exp(best.x[0]))
    parameters = np.array([heights[0] - heights[1], heights[2], s, heights[3], s + float(np.exp(best.x[1]))])
    return parameters, lambda at: columns(at, best.x) @ heights
