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
PARAMETERS = {"constant": ("a",), "linear": ("a", "b"), "surround": ("a", "A", "s", "B", "t")}
FEWEST = 10
"""Ratios below which no shape is fitted."""
_FOLDS = 10
_STARTS = ((0.15, 0.5), (0.3, 0.7), (0.1, 1.0), (0.5, 0.5))


@dataclass(frozen=True)
class Profile:
    """One shape fitted to ratios over distance.

    Parameters
    ----------
    parameters : a; a, b; or a, A, s, B, t: distances in the units given, the rest as the ratio.
    bic : Bayesian information criterion (Gaussian errors, additive constant dropped); smaller is better.
    error : mean squared error of points left out in ten folds: whole groups, or every tenth point without groups.
    """

    parameters: Float
    bic: float
    error: float


def similarity_profiles(distance: ArrayLike, ratio: ArrayLike, *, group: ArrayLike | None = None) -> dict[str, Profile]:
    """Fit each of `SHAPES` to attended/unattended ratios over distance from the attended feature.

    Parameters
    ----------
    distance : (n,) >= 0, between preferred and attended feature (degrees of direction, …).
    ratio : (n,); pairs that are not both finite are left out; at least ten must remain.
    group : (n,) which points belong together (those of a unit): they are left out together in cross-validation, as they
        are not independent. None, or one group = every point on its own.

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
    names = np.arange(x.size) if group is None else np.asarray(group).ravel()
    if names.shape != x.shape:
        raise ValueError(f"group must be of the length of distance, {x.size}; came {names.size}")
    x, y = x[keep], y[keep]
    if x.size < FEWEST or np.ptp(x) == 0 or x.min() < 0:
        raise ValueError(f"wanted {FEWEST} finite ratios or more at different distances >= 0; came {x.size}")
    fold = _folds(names[keep])
    found = {}
    for name, fit in _FITS.items():
        parameters = _fit(fit, x, y)
        left = np.empty(x.size)
        for number in range(int(fold.max()) + 1):
            out = fold == number
            left[out] = profile_curve(name, _fit(fit, x[~out], y[~out]), x[out])
        # deviations below rounding are no evidence for a richer shape
        squares = ((profile_curve(name, parameters, x) - y) ** 2).mean()
        residual = max(float(squares), (1e-9 * float(np.abs(y).max())) ** 2)
        bic = x.size * np.log(residual) + parameters.size * np.log(x.size)
        found[name] = Profile(parameters, float(bic), float(((left - y) ** 2).mean()))
    return found


def profile_curve(shape: str, parameters: ArrayLike, distance: ArrayLike) -> Float:
    """Ratio that a fitted shape has at these distances, of their shape.

    Parameters
    ----------
    shape : one of `SHAPES`. parameters : those of its `Profile`. distance : >= 0.

    >>> profile_curve("linear", [1.5, -0.5], [0.0, 1.0]).tolist()
    [1.5, 1.0]
    """
    p, d = np.asarray(parameters, dtype=np.float64), np.asarray(distance, dtype=np.float64)
    if shape == "surround":
        return p[0] + p[1] * np.exp(-0.5 * (d / p[2]) ** 2) - p[3] * np.exp(-0.5 * (d / p[4]) ** 2)
    return p[0] + (p[1] * d if shape == "linear" else np.zeros_like(d))


def _folds(names: NDArray[np.generic]) -> NDArray[np.int64]:
    """Fold of each point: groups in the order in which they come, dealt out; points where there is but one group."""
    _, first, member = np.unique(names, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))[member.ravel()]
    return np.asarray(order if first.size > 1 else np.arange(names.size), dtype=np.int64) % _FOLDS


def _fit(fit: Callable[[Float, Float, Float], Float], x: Float, y: Float) -> Float:
    """Parameters by least squares: points at one distance enter by their mean and number, which loses nothing."""
    at, member = np.unique(x, return_inverse=True)
    count = np.bincount(member.ravel()).astype(np.float64)
    return fit(at, np.bincount(member.ravel(), weights=y) / count, np.sqrt(count))


def _linear(x: Float, y: Float, weight: Float, degree: int) -> Float:
    design = np.vander(x, degree + 1, increasing=True) * weight[:, None]
    return np.asarray(np.linalg.lstsq(design, y * weight, rcond=None)[0], dtype=np.float64)


def _surround(x: Float, y: Float, weight: Float) -> Float:
    from scipy.optimize import minimize, nnls

    reach = float(x.max())

    def columns(log_widths: Float) -> Float:
        s = np.exp(log_widths[0])
        t = s + np.exp(log_widths[1])
        one = np.ones_like(x)
        parts = [one, -one, np.exp(-0.5 * (x / s) ** 2), -np.exp(-0.5 * (x / t) ** 2)]
        return np.stack(parts, 1) * weight[:, None]

    def loss(log_widths: Float) -> float:
        # given the widths, the heights are a linear problem with signs
        return float(nnls(columns(log_widths), y * weight)[1])

    best = None
    for narrow, wider in _STARTS:
        start = np.log([narrow * reach, wider * reach])
        bounds = [(np.log(0.01 * reach), np.log(2 * reach))] * 2
        one = minimize(loss, start, method="Nelder-Mead", bounds=bounds, options={"maxiter": 200})
        best = one if best is None or one.fun < best.fun else best
    assert best is not None
    heights, _ = nnls(columns(best.x), y * weight)
    s = float(np.exp(best.x[0]))
    return np.array([heights[0] - heights[1], heights[2], s, heights[3], s + float(np.exp(best.x[1]))])


_FITS: dict[str, Callable[[Float, Float, Float], Float]] = {
    "constant": lambda x, y, weight: _linear(x, y, weight, 0),
    "linear": lambda x, y, weight: _linear(x, y, weight, 1),
    "surround": _surround,
}
