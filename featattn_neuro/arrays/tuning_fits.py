"""Tuning curves fitted by least squares from several starts: von Mises, Gaussian, log-Gaussian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

Float = NDArray[np.float64]
FORMS = ("von_mises", "direction", "gaussian", "log_gaussian")
PERIODS = {"von_mises": 180.0, "direction": 360.0}
"""Of the angular forms, degrees."""


@dataclass(frozen=True)
class TuningFit:
    """One fitted curve.

    baseline, amplitude (>= 0) : units of the responses. preferred : in the units of the levels (degrees for von Mises).
    width : κ of "von_mises" and "direction"; SD of a Gaussian, in units of the level; SD of log level of a
    log-Gaussian. half_width : half width at half height from the trough; half_width_asymptote : from the baseline (see
    `von_mises_half_width`, twice that for "direction"; for log-Gaussian in log units). r2 : share of the variance of
    the given means. status : "ok"; "constant" without variance; "too_few" with fewer levels than 4 parameters + 1;
    "nonfinite"; parameters are then NaN.
    """

    form: str
    baseline: float
    amplitude: float
    preferred: float
    width: float
    half_width: float
    half_width_asymptote: float
    r2: float
    status: str

    def __call__(self, level: ArrayLike) -> Float:
        """The curve at other levels."""
        parameters = np.array([self.baseline, self.amplitude, self.preferred, self.width])
        return _CURVES[self.form](np.asarray(level, dtype=np.float64), parameters)


def von_mises_half_width(kappa: ArrayLike, *, definition: str = "trough") -> Float:
    """Half-width at half height of r = B + A exp(κ(cos 2(θ - θ0) - 1)), degrees.

    Parameters
    ----------
    kappa : > 0.
    definition : "trough" = halfway between peak and trough, ½ arccos(1 + ln((1 + e^(-2κ))/2)/κ), defined for all κ > 0;
        "asymptote" = halfway between peak and B, ½ arccos(1 - ln 2/κ), NaN below κ = ln 2/2.

    >>> von_mises_half_width(2.0).round(4), von_mises_half_width(2.0, definition="asymptote").round(4)
    (np.float64(24.2545), np.float64(24.5998))
    """
    k = np.asarray(kappa, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        if definition == "trough":
            cosine = 1 + (np.log1p(np.exp(-2 * k)) - np.log(2)) / k
        elif definition == "asymptote":
            cosine = 1 - np.log(2) / k
        else:
            raise ValueError(f"definition must be 'trough' or 'asymptote'; came {definition!r}")
        found = np.rad2deg(np.arccos(cosine)) / 2
    return np.where(k > 0, found, np.nan)[()]


def fit_tuning(
    responses: ArrayLike, level: ArrayLike, form: str = "gaussian", *, sem: ArrayLike | None = None, starts: int = 8
) -> TuningFit:
    """Fit a tuning curve to mean responses.

    Parameters
    ----------
    responses : (levels,), units of the recording. NaN levels are left out.
    level : (levels,); degrees for "von_mises" (period 180) and "direction" (360), > 0 for "log_gaussian".
    form : "von_mises" B + A exp(κ(cos 2(θ - θ0) - 1)); "direction" the same of θ - θ0; "gaussian"
        B + A exp(-(x - x0)²/(2σ²)); "log_gaussian" the same of ln x, ln x0. A >= 0 in all.
    sem : (levels,) > 0, to weight by; None = all alike.
    starts : widths that are tried, each at the two best levels; the best fit is kept.

    Returns
    -------
    TuningFit, the best of the fits. Where its status is not "ok", its numbers are NaN.

    Raises
    ------
    ValueError : an unknown form, shapes that do not fit, levels not above 0 for "log_gaussian", a `sem` that is not
        above 0 and finite.

    Notes
    -----
    Swindale 1998 (von Mises of orientation). Least squares, bounded (trust region).

    >>> angles = np.arange(0, 180, 15.0)
    >>> fit = fit_tuning(2 + 8 * np.exp(2 * (np.cos(2 * np.deg2rad(angles - 60)) - 1)), angles, "von_mises")
    >>> round(fit.preferred, 3), round(fit.width, 3), round(fit.half_width, 3)
    (60.0, 2.0, 24.255)
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {FORMS}; came {form!r}")
    r, x = np.asarray(responses, dtype=np.float64), np.asarray(level, dtype=np.float64)
    if r.ndim != 1 or x.shape != r.shape:
        raise ValueError(f"responses and level must be (levels,); came {r.shape} and {x.shape}")
    if form == "log_gaussian" and (x <= 0).any():
        raise ValueError("a log-Gaussian needs levels above 0; leave out the blank, or fit form='gaussian'")
    weight = np.ones(r.size) if sem is None else 1 / np.asarray(sem, dtype=np.float64)
    if weight.shape != r.shape or not (np.isfinite(weight) & (weight > 0)).all():
        raise ValueError("sem must be (levels,), above 0 and finite; leave out levels shown once, or pass sem=None")
    seen = ~np.isnan(r)
    r, x, weight = r[seen], x[seen], weight[seen]
    status = _status(r, x)
    if status != "ok":
        return _undefined(form, status)
    curve = _CURVES[form]
    low, high, guesses = _ranges(r, x, form, starts)

    def residuals(parameters: Float) -> Float:
        return (curve(x, parameters) - r) * weight

    fits = [optimize.least_squares(residuals, np.clip(g, low, high), bounds=(low, high)) for g in guesses]
    best = min(fits, key=lambda fit: float(fit.cost)).x
    explained = 1 - float(((curve(x, best) - r) ** 2).sum() / ((r - r.mean()) ** 2).sum())
    preferred = float(best[2] % PERIODS[form]) if form in PERIODS else float(best[2])
    trough, asymptote = _half_widths(form, float(best[3]))
    return TuningFit(
        form, float(best[0]), float(best[1]), preferred, float(best[3]), trough, asymptote, explained, "ok"
    )


def _von_mises(x: Float, p: Float) -> Float:
    return p[0] + p[1] * np.exp(p[3] * (np.cos(2 * np.deg2rad(x - p[2])) - 1))


def _direction(x: Float, p: Float) -> Float:
    return p[0] + p[1] * np.exp(p[3] * (np.cos(np.deg2rad(x - p[2])) - 1))


def _gaussian(x: Float, p: Float) -> Float:
    return p[0] + p[1] * np.exp(-((x - p[2]) ** 2) / (2 * p[3] ** 2))


def _log_gaussian(x: Float, p: Float) -> Float:
    return p[0] + p[1] * np.exp(-((np.log(x) - np.log(p[2])) ** 2) / (2 * p[3] ** 2))


_CURVES: dict[str, Callable[[Float, Float], Float]] = {
    "von_mises": _von_mises,
    "direction": _direction,
    "gaussian": _gaussian,
    "log_gaussian": _log_gaussian,
}


def _status(r: Float, x: Float) -> str:
    if np.unique(x).size < 5:
        return "too_few"
    if not np.isfinite(r).all():
        return "nonfinite"
    return "constant" if np.ptp(r) == 0 else "ok"


def _undefined(form: str, status: str) -> TuningFit:
    nan = float("nan")
    return TuningFit(form, nan, nan, nan, nan, nan, nan, nan, status)


def _ranges(r: Float, x: Float, form: str, starts: int) -> tuple[Float, Float, list[Float]]:
    """Bounds, and guesses: several widths at the levels of the largest and second largest response."""
    height = float(np.ptp(r))
    span = float(np.ptp(np.log(x) if form == "log_gaussian" else x))
    step = span / max(np.unique(x).size - 1, 1)
    if form in PERIODS:
        low, high, widths = -2 * PERIODS[form], 3 * PERIODS[form], (0.05, 50.0)
    elif form == "gaussian":
        low, high, widths = float(x.min()) - span / 2, float(x.max()) + span / 2, (step / 10, 3 * span)
    else:
        low, high = float(x.min() * np.exp(-span / 2)), float(x.max() * np.exp(span / 2))
        widths = (step / 10, 3 * span)
    lower = np.array([r.min() - 2 * height, 0.0, low, widths[0]])
    upper = np.array([r.max(), 10 * height, high, widths[1]])
    tried = np.geomspace(widths[0] * 3, widths[1] / 3, max(starts, 1))
    best = x[np.argsort(r)[::-1][:2]]
    return lower, upper, [np.array([r.min(), height, place, width]) for place in best for width in tried]


def _half_widths(form: str, width: float) -> tuple[float, float]:
    if form in PERIODS:
        scale = PERIODS[form] / 180
        trough, asymptote = (von_mises_half_width(width, definition=one) for one in ("trough", "asymptote"))
        return float(scale * trough), float(scale * asymptote)
    half = float(np.sqrt(2 * np.log(2)) * width)  # the trough of a Gaussian is its baseline
    return half, half
