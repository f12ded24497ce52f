"""Does attention change the width of tuning? Curves over a stimulus parameter, fitted to both conditions together.

Baseline, amplitude and width of the attended curve are free, the preferred level is shared: a factor, an added response
and a baseline that attention leaves alone are all no change of width. Fisher scoring (Levenberg–Marquardt damping), for
all neurons at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from featattn_neuro.arrays.tuning_fits import von_mises_half_width

Float = NDArray[np.float64]

FORMS = {
    "orientation": "B + A exp(κ(cos 2(θ − θ0) − 1)), degrees of period 180",
    "direction": "B + A exp(κ(cos(θ − θ0) − 1)), degrees of period 360",
    "gaussian": "B + A exp(−(x − x0)²/2σ²)",
    "log_gaussian": "the same of ln x and ln x0; levels above 0",
}
PERIODS = {"orientation": 180.0, "direction": 360.0}
FEWEST = 5
"""Levels below which the seven parameters of the two curves cannot be told."""
_FLOOR = 1e-4
_EXACT = 1e-6
_STEPS = 300
_KAPPA = (0.05, 50.0)
_SHARED = np.array([[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0],
                    [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1]], dtype=np.float64)  # fmt: skip
"""From (B, A unattended, B, A attended, preferred, width) to the same with a width of each condition."""


@dataclass(frozen=True)
class WidthFit:
    """Widths of every neuron's tuning in the two conditions; NaN where they cannot be told.

    Parameters
    ----------
    unattended, attended : (neuron,) half width at half height from the trough, units of the level (log units for
        "log_gaussian").
    change, low, high : (neuron,) attended/unattended − 1 and its interval (delta method on the logarithm; normal for
        counts, Student's t where the variance is estimated from the residuals).
    p : (neuron,) likelihood ratio against one width for both conditions: χ² of one degree (Wilks 1938) for counts, F
        of one and (responses − 7) degrees where the variance is estimated.
    preferred : (neuron,) level of the peak, shared by the conditions.
    """

    unattended: Float
    attended: Float
    change: Float
    low: Float
    high: Float
    p: Float
    preferred: Float


@dataclass(frozen=True)
class _Data:
    """Means and numbers of responses (condition, neuron, level), φ and typical response (neuron, 1), bounds."""

    mean: Float
    count: Float
    phi: Float
    scale: Float
    level: Float
    period: float
    gaussian: bool
    bounds: tuple[Float, Float]


def fit_widths(
    mean: tuple[ArrayLike, ArrayLike],
    count: tuple[ArrayLike, ArrayLike],
    level: ArrayLike,
    *,
    form: str,
    phi: ArrayLike | None = None,
    confidence: float = 0.95,
) -> WidthFit:
    """Fit tuning curves with one width, and with a width for each condition, to unattended and attended responses.

    Parameters
    ----------
    mean : unattended and attended mean responses (neuron, level); a level that is missing (number 0) in one condition
        is left out of both.
    count : numbers of trials in those means, (neuron, level).
    level : (level,) value of the stimulus parameter, at least five.
    form : one of `FORMS`.
    phi : (neuron,) responses are counts with variance = mean + φ mean²; None = equal variance, from the residuals.
    confidence : of the interval.

    Returns
    -------
    WidthFit. NaN where a neuron has fewer than five levels, one of its curves has no peak (A <= 0), or a width lies at
    the edge of what the levels can tell (κ in [.05, 50]; SD from a quarter of a step to three ranges).

    Notes
    -----
    McAdams & Maunsell 1999 compared the widths of Gaussians fitted to orientation tuning in the two conditions, with
    baseline, amplitude and width free in each.

    >>> angle = np.arange(0, 180, 15.0)
    >>> tuned = lambda kappa: np.exp(kappa * (np.cos(2 * np.deg2rad(angle - 60)) - 1))[None]
    >>> one = np.ones((1, 12))
    >>> found = fit_widths((3 + 10 * tuned(2.0), 4 + 15 * tuned(2.0)), (one, one), angle, form="orientation")
    >>> found.unattended.round(3).tolist(), abs(found.change.round(5)).tolist(), found.preferred.round(3).tolist()
    ([24.255], [0.0], [60.0])
    """
    if form not in FORMS:
        raise ValueError(f"form is one of {', '.join(FORMS)}; came {form!r}")
    x = np.asarray(level, dtype=np.float64)
    y, n = (np.stack([np.asarray(one, dtype=np.float64) for one in pair]) for pair in (mean, count))
    if y.ndim != 3 or n.shape != y.shape or x.shape != y.shape[2:]:
        raise ValueError(f"means and numbers must be (neuron, level); came {y.shape}, {n.shape} and levels {x.shape}")
    if form == "log_gaussian":
        if (x <= 0).any():
            raise ValueError("a log-Gaussian needs levels above 0; leave out the blank, or take form 'gaussian'")
        x = np.log(x)
    shared = (n > 0).all(axis=0) & np.isfinite(y).all(axis=0)
    y, n = np.where(shared, y, 0.0), np.where(shared, n, 0.0)
    size = np.abs(y).sum(axis=(0, 2)) / np.maximum(2 * shared.sum(axis=1), 1)
    usable = (shared.sum(axis=1) >= FEWEST) & (size > 0)
    spread = np.zeros(len(size)) if phi is None else np.nan_to_num(np.asarray(phi, dtype=np.float64))
    data = _Data(
        y, n, spread[:, None], np.where(usable, size, 1.0)[:, None], x, PERIODS.get(form, 0.0), phi is None,
        _bounds(x, PERIODS.get(form, 0.0)),
    )  # fmt: skip
    one_width, theta, fine = _best(data)
    return _widths(data, one_width, theta, fine & usable, form, shared.sum(axis=1), confidence)


def _bounds(x: Float, period: float) -> tuple[Float, Float]:
    """Of the preferred level and the logarithm of the width (twice)."""
    if period:
        return np.array([-np.inf, *2 * [np.log(_KAPPA[0])]]), np.array([np.inf, *2 * [np.log(_KAPPA[1])]])
    span = float(np.ptp(x)) or 1.0
    step = span / max(x.size - 1, 1)
    low, high = np.log(step / 4), np.log(3 * span)
    return np.array([x.min() - span / 2, low, low]), np.array([x.max() + span / 2, high, high])


def _shape(data: _Data, theta: Float, which: int) -> tuple[Float, Float, Float]:
    """Tuned part f (neuron, level) of a condition, 1 at its peak; its derivatives by preferred level and log width."""
    away, width = data.level - theta[:, [4]], np.exp(theta[:, [5 + which]])
    if data.period:
        angle = 2 * np.pi * away / data.period
        f = np.exp(width * (np.cos(angle) - 1))
        return f, f * width * np.sin(angle) * 2 * np.pi / data.period, f * width * (np.cos(angle) - 1)
    z = away / width
    f = np.exp(-0.5 * z**2)
    return f, f * z / width, f * z**2


def _curves(data: _Data, theta: Float) -> tuple[Float, Float]:
    """Means (condition, neuron, level), and their derivatives (condition, neuron, level, 7)."""
    means, slopes = np.empty_like(data.mean), np.zeros((*data.mean.shape, 7))
    for k in (0, 1):
        f, by_place, by_width = _shape(data, theta, k)
        height = theta[:, [1 + 2 * k]]
        means[k] = theta[:, [2 * k]] + height * f
        slopes[k, ..., 2 * k], slopes[k, ..., 2 * k + 1] = 1.0, f
        slopes[k, ..., 4], slopes[k, ..., 5 + k] = height * by_place, height * by_width
    if data.gaussian:
        return means, slopes
    low = _FLOOR * data.scale
    return np.maximum(means, low), slopes * (means > low)[..., None]


def _objective(data: _Data, means: Float) -> Float:
    """(neuron,) log likelihood; for equal variances minus the squared residuals."""
    y, n = data.mean, data.count
    if data.gaussian:
        return -(n * (y - means) ** 2).sum(axis=(0, 2))
    over = np.log1p(data.phi * means)
    counted = np.where(data.phi > 1e-8, over / np.maximum(data.phi, 1e-8), means)
    return (n * (y * (np.log(means) - over) - counted)).sum(axis=(0, 2))


def _information(data: _Data, means: Float, slopes: Float) -> tuple[Float, Float]:
    """Score (neuron, 7) and Fisher information (neuron, 7, 7)."""
    variance = 1.0 if data.gaussian else means + data.phi * means**2
    weight = data.count / variance
    score = np.einsum("cnl,cnlp->np", weight * (data.mean - means), slopes)
    return score, np.einsum("cnl,cnlp,cnlq->npq", weight, slopes, slopes)


def _starts(data: _Data) -> list[Float]:
    """Peaks at the two best levels, three widths; baselines and amplitudes by least squares given those."""
    together = data.mean.sum(axis=0)
    order = np.argsort(np.where(data.count[0] > 0, -together, np.inf), axis=1)
    low, high = data.bounds[0][1], data.bounds[1][1]
    found = []
    for rank in (0, 1):
        for share in (0.3, 0.5, 0.7):
            theta = np.zeros((together.shape[0], 7))
            theta[:, 4], theta[:, 5:] = data.level[order[:, rank]], low + share * (high - low)
            for k in (0, 1):
                f, weight = _shape(data, theta, k)[0], data.count[k]
                total = np.maximum(weight.sum(axis=1), 1e-300)
                middle, level = ((weight * one).sum(axis=1) / total for one in (f, data.mean[k]))
                power = np.maximum((weight * (f - middle[:, None]) ** 2).sum(axis=1), 1e-300)
                slope = (weight * (f - middle[:, None]) * data.mean[k]).sum(axis=1) / power
                height = np.maximum(slope, 0.05 * data.scale[:, 0])
                base = level - height * middle
                theta[:, 2 * k] = base if data.gaussian else np.maximum(base, 0.02 * data.scale[:, 0])
                theta[:, 2 * k + 1] = height
            found.append(theta)
    return found


def _climb(data: _Data, theta: Float, *, shared: bool) -> tuple[Float, Float, NDArray[np.bool_]]:
    """Maximise from `theta`; the log likelihood reached, the parameters, and whether a maximum was found."""
    chart = _SHARED if shared else np.eye(7)
    low = np.concatenate([np.full(4, -np.inf), data.bounds[0]])
    high = np.concatenate([np.full(4, np.inf), data.bounds[1]])
    means, slopes = _curves(data, theta)
    value = _objective(data, means)
    damping = np.full(len(theta), 1e-3)
    found, done = np.zeros(len(theta), dtype=bool), np.zeros(len(theta), dtype=bool)
    eye = np.eye(chart.shape[1])
    for _ in range(_STEPS):
        score, information = _information(data, means, slopes)
        score, information = score @ chart, np.einsum("pi,npq,qj->nij", chart, information, chart)
        diagonal = np.einsum("nii->ni", information)
        diagonal = diagonal + 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300
        step = np.linalg.solve(information + (damping[:, None] * diagonal)[:, :, None] * eye, score[..., None])[..., 0]
        trial = np.clip(theta + step @ chart.T, low, high)
        trial_means, trial_slopes = _curves(data, trial)
        after = _objective(data, trial_means)
        better = (after >= value) & ~done
        moved = np.abs(trial - theta)
        small = (moved[:, :4].max(axis=1) <= 1e-9 * data.scale[:, 0]) & (moved[:, 4:].max(axis=1) <= 1e-9)
        theta = np.where(better[:, None], trial, theta)
        means = np.where(better[:, None], trial_means, means)
        slopes = np.where(better[:, None, None], trial_slopes, slopes)
        value = np.where(better, after, value)
        found |= small
        done |= small | (damping > 1e12)
        damping = np.clip(np.where(better, damping / 5, damping * 4), 1e-12, None)
        if done.all():
            break
    return value, theta, found


def _best(data: _Data) -> tuple[Float, Float, NDArray[np.bool_]]:
    """Likelihood with one width; likelihood-maximising parameters with two, from there; whether both were found."""
    value = np.full(data.mean.shape[1], -np.inf)
    theta, fine = np.zeros((value.size, 7)), np.zeros(value.size, dtype=bool)
    for start in _starts(data):
        reached, at, found = _climb(data, start, shared=True)
        better = reached > value
        value, theta = np.where(better, reached, value), np.where(better[:, None], at, theta)
        fine = np.where(better, found, fine)
    _, free, found = _climb(data, theta, shared=False)
    return value, free, fine & found


def _widths(
    data: _Data, one_width: Float, theta: Float, usable: NDArray[np.bool_], form: str, levels: NDArray[np.int64],
    confidence: float,
) -> WidthFit:  # fmt: skip
    means, slopes = _curves(data, theta)
    _, information = _information(data, means, slopes)
    value, responses = _objective(data, means), 2 * np.maximum(levels, 1)
    freedom = np.maximum(responses - 7, 1)
    inside = (theta[:, 5:] > data.bounds[0][1:] + 1e-6) & (theta[:, 5:] < data.bounds[1][1:] - 1e-6)
    usable = usable & inside.all(axis=1) & (theta[:, [1, 3]] > 1e-6 * data.scale).all(axis=1)
    if data.gaussian:
        rounding = (_EXACT * data.scale[:, 0]) ** 2
        residual, with_one = (np.maximum(-v / responses, rounding) for v in (value, one_width))
        # seven parameters of so few responses: χ² and the normal find a change of width two to three times too often
        p = stats.f.sf(np.maximum(with_one / residual - 1, 0.0) * freedom, 1, freedom)
        quantile = stats.t.ppf((1 + confidence) / 2, freedom)
        noise = np.where(-value / responses > rounding, -value, 0.0) / freedom
    else:
        p, noise = stats.chi2.sf(np.maximum(2 * (value - one_width), 0.0), 1), np.ones_like(value)
        quantile = np.full(len(value), stats.norm.ppf((1 + confidence) / 2))
    half, by_log = _half_width(theta[:, 5:], form)
    covariance = _inverse(information)[:, 5:, 5:] * noise[:, None, None]
    gradient = by_log * np.array([-1.0, 1.0])
    error = np.sqrt(np.einsum("ni,nij,nj->n", gradient, covariance, gradient))
    ratio = np.log(half[:, 1] / half[:, 0])
    place = theta[:, 4] % data.period if data.period else theta[:, 4]
    reach = np.minimum(quantile * error, 50.0)  # an interval without end, as a number
    numbers = (
        half[:, 0], half[:, 1], np.expm1(ratio), np.expm1(ratio - reach), np.expm1(ratio + reach),
        p, np.exp(place) if form == "log_gaussian" else place,
    )  # fmt: skip
    return WidthFit(*(np.where(usable, one, np.nan) for one in numbers))


def _half_width(log_width: Float, form: str) -> tuple[Float, Float]:
    """Half width at half height from the trough, and the derivative of its logarithm by the logarithm of the width."""
    if form not in PERIODS:
        return np.sqrt(2 * np.log(2)) * np.exp(log_width), np.ones_like(log_width)
    scale, step = PERIODS[form] / 180, 1e-4
    around = [np.log(von_mises_half_width(np.exp(log_width + end))) for end in (-step, step)]
    return scale * von_mises_half_width(np.exp(log_width)), (around[1] - around[0]) / (2 * step)


def _inverse(matrix: Float) -> Float:
    """Inverses; NaN where a matrix is singular to 1e-10 of its diagonal."""
    scale = np.sqrt(np.maximum(np.einsum("nii->ni", matrix), 1e-300))
    product = scale[:, :, None] * scale[:, None, :]
    unit = np.nan_to_num(matrix / product)
    good = np.linalg.eigvalsh(unit)[:, 0] > 1e-10
    found = np.linalg.inv(np.where(good[:, None, None], unit, np.eye(matrix.shape[1])))
    return np.where(good[:, None, None], found / product, np.nan)
