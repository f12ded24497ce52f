"""Is attention multiplicative, additive, both, or a change of width? Shared latent tuning, maximum likelihood.

Both conditions are noisy measurements of one latent tuning μ_s over stimuli s: unattended mean μ_s, attended mean
h(μ_s). Regressing noisy attended on noisy unattended responses would attenuate the slope and invent an added response;
here μ is estimated along with the parameters of h, by Fisher scoring with the latents eliminated (Schur complement),
for all neurons at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Float = NDArray[np.float64]

MODELS = {
    "none": "h = μ",
    "multiplicative": "h = g μ",
    "additive": "h = μ + b",
    "both": "h = g μ + b",
    "width": "h = g c (μ/c)^e, c the mean unattended response: e > 1 narrows tuning (Gaussian: width × 1/√e)",
}
PARAMETERS = {"none": (), "multiplicative": ("g",), "additive": ("b",), "both": ("g", "b"), "width": ("g", "e")}
NOISES = {
    "overdispersed": "counts, variance = mean + φ mean² (negative binomial), φ of each neuron from its repeats",
    "poisson": "counts, variance = mean",
    "gaussian": "equal variance everywhere: responses without repeats or noise (orthogonal regression)",
}
_NEUTRAL = {"g": 1.0, "b": 0.0, "e": 1.0}
_FLOOR = 1e-4
"""Smallest mean of counts, as a share of the neuron's mean response; a mean of 0 would make zero counts certain."""
_EXACT = 1e-6
"""Residuals below this share of the neuron's response are no evidence for a richer model (single precision)."""
_STEPS = 200


@dataclass(frozen=True)
class ModelFit:
    """One model fitted to every neuron.

    Parameters
    ----------
    value, error : parameter name ("g", "b", "e") → (neuron,) estimate and standard error; only those the model has.
    latent : (neuron, stimulus) tuning μ, units of the responses.
    log_likelihood : (neuron,), additive constants shared by all models dropped.
    held_out : (neuron,) the same of stimuli that were left out of the estimation of the parameters, or NaN.
    converged : (neuron,).
    freedom : (neuron,) stimuli minus parameters where a common variance is estimated from the residuals (Gaussian
        noise), else infinite.
    error_freedom : as `error`: degrees of freedom of the standard error. Gaussian noise with repeats of every stimulus
        has the variances of each mean from these (sandwich form; White 1980, freedom by Satterthwaite 1946), so that
        intervals hold where the variance grows with the response; else those of `freedom`.
    """

    value: dict[str, Float]
    error: dict[str, Float]
    latent: Float
    log_likelihood: Float
    held_out: Float
    converged: NDArray[np.bool_]
    freedom: Float
    error_freedom: dict[str, Float]


@dataclass(frozen=True)
class _Data:
    """Means, numbers and variances of responses (neuron, stimulus) by condition; φ, typical response, c (neuron, 1)."""

    mean: tuple[Float, Float]
    count: tuple[Float, Float]
    variance: tuple[Float, Float]
    phi: Float
    scale: Float
    centre: Float
    gaussian: bool

    @property
    def floor(self) -> Float:
        return np.full_like(self.scale, -np.inf) if self.gaussian else _FLOOR * self.scale

    def only(self, stimuli: NDArray[np.bool_]) -> _Data:
        return replace(self, count=(self.count[0] * stimuli, self.count[1] * stimuli))


def fit_models(
    unattended: ArrayLike,
    attended: ArrayLike,
    *,
    noise: str = "overdispersed",
    models: Sequence[str] = tuple(MODELS),
    groups: int = 0,
) -> tuple[dict[str, ModelFit], Float]:
    """Fit models of what attention does to each neuron's tuning.

    Parameters
    ----------
    unattended, attended : (neuron, stimulus, repeat), the same stimuli; repeats of one may be more than of the other;
        NaN = missing. Counts ("overdispersed", "poisson") are >= 0 and not divided by time: their variance is known.
    noise : one of `NOISES`. models : of `MODELS`.
    groups : leave-stimuli-out groups for `held_out`: stimulus s is left out with group s mod groups; 0 = none. As many
        as stimuli is leave-one-stimulus-out.

    Returns
    -------
    fits by model, and the dispersion φ (neuron,) (0 for other noises). NaN where a neuron is silent, has fewer stimuli
    in both conditions than two more than the model has parameters, or a tuning too flat to tell parameters apart.

    Notes
    -----
    McAdams & Maunsell 1999 asked the question; the latent-tuning likelihood is the functional errors-in-variables model
    (Kendall & Stuart 1979, ch. 29). Held-out stimuli: their latent is fitted, one for every model, the parameters are
    not. The negative binomial is a Poisson count whose rate fluctuates from trial to trial (Goris et al. 2014).

    >>> tuning = np.array([[[2.0], [4.0], [6.0], [12.0]]])
    >>> fits, _ = fit_models(tuning, 1.5 * tuning, noise="gaussian", models=["multiplicative", "both"])
    >>> round(float(fits["multiplicative"].value["g"][0]), 6), abs(round(float(fits["both"].value["b"][0]), 6))
    (1.5, 0.0)
    """
    if noise not in NOISES or set(models) - set(MODELS):
        raise ValueError(f"noise is one of {', '.join(NOISES)}, models of {', '.join(MODELS)}; came {noise}, {models}")
    cells = [_cells(values) for values in (unattended, attended)]
    if cells[0][0].shape != cells[1][0].shape:
        raise ValueError(
            f"conditions must hold the same (neuron, stimulus); came {cells[0][0].shape, cells[1][0].shape}"
        )
    if noise != "gaussian" and min(np.min(cell[1], initial=0.0) for cell in cells) < 0:
        raise ValueError("counts must not be negative; use noise='gaussian' for signed responses")
    phi = dispersion(unattended, attended) if noise == "overdispersed" else np.zeros(cells[0][0].shape[0])
    seen = (cells[0][0] > 0) & (cells[1][0] > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        level = np.where(seen, np.abs(cells[0][1]) + np.abs(cells[1][1]), 0).sum(axis=1) / (2 * seen.sum(axis=1))
        plain = np.where(seen, cells[0][1], 0).sum(axis=1) / seen.sum(axis=1)
    usable = np.isfinite(level) & (level > 0)
    data = _Data(
        (cells[0][1], cells[1][1]),
        (cells[0][0] * seen, cells[1][0] * seen),
        (cells[0][2], cells[1][2]),
        np.where(np.isfinite(phi), phi, 0.0)[:, None],
        np.where(usable, level, 1.0)[:, None],
        np.where(usable & (plain > 0), plain, 1.0)[:, None],
        noise == "gaussian",
    )
    enough = {name: usable & (seen.sum(axis=1) >= len(PARAMETERS[name]) + 2) for name in models}
    return {name: _blank(_fit(name, data, groups), enough[name]) for name in models}, phi


def dispersion(unattended: ArrayLike, attended: ArrayLike) -> Float:
    """φ of variance = mean + φ mean² over the cells (stimulus, condition) of each neuron, by moments; >= 0.

    Parameters
    ----------
    unattended, attended : (neuron, stimulus, repeat) counts, NaN = missing; cells with fewer than two are left out.

    Returns
    -------
    (neuron,); 0 where counts vary less than Poisson counts; NaN where no cell has two repeats and a count.
    """
    cells = [_cells(values) for values in (unattended, attended)]
    n, mean, variance = (np.concatenate([cell[k] for cell in cells], axis=1) for k in range(3))
    usable = (n >= 2) & (mean > 0)
    phi = np.zeros(n.shape[0])
    with np.errstate(invalid="ignore", divide="ignore"):
        for _ in range(4):  # weights are the inverse variances of the variances, which depend on φ
            spread = mean + phi[:, None] * mean**2
            weight = np.where(usable, (n - 1) / spread**2, 0.0)
            excess = np.where(usable, weight * (variance - mean), 0.0).sum(axis=1)
            # E[mean²] exceeds the squared expectation by variance/n
            phi = np.maximum(excess / np.where(usable, weight * (mean**2 - variance / n), 0.0).sum(axis=1), 0.0)
    return np.where(usable.any(axis=1), phi, np.nan)


def information_criteria(
    fits: dict[str, ModelFit], observations: ArrayLike
) -> tuple[dict[str, Float], dict[str, Float]]:
    """BIC and AIC of each model, (neuron,) each; smaller is better; NaN where a model was not fitted.

    Parameters
    ----------
    observations : (neuron,) trials that the likelihood is over (stimuli for Gaussian noise without repeats).

    Notes
    -----
    Schwarz 1978, Akaike 1974. Latents are shared by all models and not counted. AIC overfits here: it accepts one
    superfluous parameter in 16 % of neurons.
    """
    n = np.asarray(observations, dtype=np.float64)
    with np.errstate(divide="ignore"):
        bic = {m: -2 * fit.log_likelihood + len(PARAMETERS[m]) * np.log(n) for m, fit in fits.items()}
    return bic, {m: -2 * fit.log_likelihood + 2 * len(PARAMETERS[m]) for m, fit in fits.items()}


def likelihood_ratio_p(richer: ModelFit, simpler: Sequence[ModelFit]) -> Float:
    """p that one more parameter is superfluous, against the best of the simpler models; (neuron,).

    Chi-square of the likelihood ratio (Wilks 1938); where the variance is estimated from the residuals, its exact form,
    F: with twelve stimuli chi-square would reject 8 % of true nulls at .05.
    """
    best = np.max([fit.log_likelihood for fit in simpler], axis=0)
    ratio = 2 * np.maximum(richer.log_likelihood - best, 0.0)
    known = np.isfinite(richer.freedom)
    freedom = np.where(known, richer.freedom, 1.0)
    with np.errstate(over="ignore"):  # a perfect fit: F is infinite, p is 0
        f = np.expm1(ratio / (freedom + len(richer.value))) * freedom
    return np.where(known, stats.f.sf(f, 1, freedom), stats.chi2.sf(ratio, 1))


def attention_index(attended: ArrayLike, unattended: ArrayLike) -> Float:
    """(attended − unattended)/(attended + unattended); 0/0 is NaN. In [−1, 1] for responses >= 0.

    >>> attention_index([3.0, 0.0], [1.0, 0.0]).tolist()
    [0.5, nan]
    """
    a, b = np.asarray(attended, dtype=np.float64), np.asarray(unattended, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(a + b == 0, np.nan, (a - b) / (a + b))


def preference_slope(attended: ArrayLike, unattended: ArrayLike, preference: ArrayLike) -> Float:
    """Per unit: slope of attended/unattended on the rank of the stimulus in the unit's preference.

    Parameters
    ----------
    attended, unattended : (..., stimulus) mean responses; where the unattended one is not > 0 there is no ratio.
    preference : (..., stimulus) what ranks the stimuli: responses from other trials than `unattended`, or the slope is
        biased (a response that was high by chance makes its stimulus preferred and its ratio small).

    Returns
    -------
    (...,) least-squares slope; rank 0 = most preferred, 1 = least. Feature-similarity gain at the preferred feature
    predicts a negative one. NaN with fewer than three ratios.

    Notes
    -----
    Martinez-Trujillo & Treue 2004.

    >>> preference_slope([3.0, 2.0, 1.0], [2.0, 2.0, 2.0], [9.0, 5.0, 1.0]).item()
    -1.0
    """
    a, b, p = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (attended, unattended, preference)))
    ratio, keep = _ratio(a, b)
    keep &= np.isfinite(p)
    rank = stats.rankdata(np.where(keep, -p, np.inf), axis=-1) - 1
    return _slope(rank / np.maximum(keep.sum(axis=-1, keepdims=True) - 1, 1), ratio, keep)


def similarity_slope(attended: ArrayLike, unattended: ArrayLike, tuning: ArrayLike) -> Float:
    """Per image: slope over units of attended/unattended on the units' tuning value for the attended feature.

    Parameters
    ----------
    attended, unattended : (..., unit) responses to one image each. tuning : (unit,) tuning value, e.g. the mean
        response to the attended class minus the grand mean, over the SD.

    Returns
    -------
    (...,) least-squares slope: β where the gains are 1 + β · tuning. NaN with fewer than three ratios. Source:
    Treue & Martinez-Trujillo 1999; Lindsay & Miller 2018.

    >>> similarity_slope([1.0, 1.5, 2.0], [1.0, 1.0, 1.0], [0.0, 1.0, 2.0]).item()
    0.5
    """
    a, b, t = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (attended, unattended, tuning)))
    ratio, keep = _ratio(a, b)
    return _slope(t, ratio, keep & np.isfinite(t))


def selectivity_slope(index: ArrayLike, selectivity: ArrayLike) -> Float:
    """Across units: slope of the attention index on selectivity, over units where both are finite.

    Parameters
    ----------
    index, selectivity : (..., unit). Selectivity must come from other responses than the index.

    >>> selectivity_slope([0.1, 0.2, 0.3], [1.0, 2.0, 3.0]).round(9).item()
    0.1
    """
    y, x = np.broadcast_arrays(np.asarray(index, dtype=np.float64), np.asarray(selectivity, dtype=np.float64))
    return _slope(x, y, np.isfinite(x) & np.isfinite(y))


def _ratio(attended: Float, unattended: Float) -> tuple[Float, NDArray[np.bool_]]:
    keep = np.isfinite(attended) & np.isfinite(unattended) & (unattended > 0)
    return np.where(keep, attended, 0.0) / np.where(keep, unattended, 1.0), keep


def _slope(x: Float, y: Float, keep: NDArray[np.bool_]) -> Float:
    """Least squares along the last axis over `keep`; NaN below three points or where x is constant."""
    n = keep.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        dx = np.where(keep, x - (np.where(keep, x, 0).sum(axis=-1) / n)[..., None], 0.0)
        dy = np.where(keep, y - (np.where(keep, y, 0).sum(axis=-1) / n)[..., None], 0.0)
        power = (dx**2).sum(axis=-1)
        return np.where((n >= 3) & (power > 1e-24), (dx * dy).sum(axis=-1) / power, np.nan)


# ---------------------------------------------------------------------------------------------------- fitting


def _cells(values: ArrayLike) -> tuple[Float, Float, Float]:
    """Number, mean (0 where empty) and variance (ddof 1) over the repeats."""
    trials = np.asarray(values, dtype=np.float64)
    if trials.ndim != 3:
        raise ValueError(f"responses must be (neuron, stimulus, repeat); came {trials.shape}")
    seen = np.isfinite(trials)
    n = seen.sum(axis=2).astype(np.float64)
    mean = np.where(seen, trials, 0.0).sum(axis=2) / np.maximum(n, 1)
    square = np.where(seen, trials - mean[..., None], 0.0) ** 2
    return n, mean, square.sum(axis=2) / np.maximum(n - 1, 1)


def _start(name: str, data: _Data) -> tuple[Float, Float]:
    """Latents and parameters (neuron, parameter) to begin with."""
    (y0, y1), (n0, n1) = data.mean, data.count
    weight = np.maximum(n0.sum(axis=1), 1e-300), np.maximum(n1.sum(axis=1), 1e-300)
    total = (y0 * n0).sum(axis=1) / weight[0], (y1 * n1).sum(axis=1) / weight[1]
    ratio = np.divide(total[1], total[0], out=np.ones_like(total[0]), where=np.abs(total[0]) > 1e-12)
    ratio = np.clip(ratio, 0.01, 100.0)
    first = {"g": ratio, "b": total[1] - total[0], "e": np.ones_like(ratio)}
    if name == "both":
        first["b"] = np.zeros_like(ratio)
    wanted = PARAMETERS[name]
    theta = np.stack([first[p] for p in wanted], axis=1) if wanted else np.zeros((y0.shape[0], 0))
    latent = np.maximum(y0, np.maximum(data.floor, _FLOOR * data.scale if name == "width" else -np.inf))
    return latent, theta


def _mean(name: str, latent: Float, theta: Float, data: _Data) -> tuple[Float, Float, list[Float]]:
    """Attended mean, its derivative by the latent, and by each parameter."""
    one = np.ones_like(latent)
    if name == "none":
        value, slope, by = latent, one, []
    elif name == "multiplicative":
        value, slope, by = theta[:, :1] * latent, theta[:, :1] * one, [latent]
    elif name == "additive":
        value, slope, by = latent + theta[:, :1], one, [one]
    elif name == "both":
        value, slope, by = theta[:, :1] * latent + theta[:, 1:], theta[:, :1] * one, [latent, one]
    else:
        relative = np.maximum(latent / data.centre, _FLOOR)
        power = relative ** theta[:, 1:]
        value, slope = data.centre * theta[:, :1] * power, theta[:, :1] * theta[:, 1:] * power / relative
        by = [data.centre * power, value * np.log(relative)]
    if data.gaussian:
        return value, slope, by
    inside = value > data.floor
    return np.maximum(value, data.floor), slope * inside, [one * inside for one in by]


def _variance(mean: Float, data: _Data) -> Float:
    return np.ones_like(mean) if data.gaussian else mean + data.phi * mean**2


def _stimulus_log_likelihood(mean: Float, which: int, data: _Data) -> Float:
    """(neuron, stimulus); for Gaussian noise minus the squared residuals, whose variance is profiled later."""
    y, n = data.mean[which], data.count[which]
    if data.gaussian:
        return -n * (y - mean) ** 2
    over = np.log1p(data.phi * mean)
    counted = np.where(data.phi > 1e-8, over / np.maximum(data.phi, 1e-8), mean)
    return n * (y * (np.log(mean) - over) - counted)


def _objective(name: str, latent: Float, theta: Float, data: _Data) -> Float:
    attended = _mean(name, latent, theta, data)[0]
    return (_stimulus_log_likelihood(latent, 0, data) + _stimulus_log_likelihood(attended, 1, data)).sum(axis=1)


def _scores(name: str, latent: Float, theta: Float, data: _Data, *, fixed: bool) -> tuple[Float, Float, Float]:
    """Fisher step of latents and parameters, and the information of the parameters with the latents profiled out."""
    attended, slope, by = _mean(name, latent, theta, data)
    w0, w1 = data.count[0] / _variance(latent, data), data.count[1] / _variance(attended, data)
    left, right = data.mean[0] - latent, data.mean[1] - attended
    score = w0 * left + w1 * slope * right
    information = w0 + w1 * slope**2
    low = np.maximum(data.floor, _FLOOR * data.scale if name == "width" else -np.inf)
    held = (information <= 0) | ((latent <= low) & (score < 0))  # at its bound, pulled outwards: it stays
    inverse = np.where(held, 0.0, 1.0 / np.where(information > 0, information, 1.0))
    if fixed or not by:
        return score * inverse, np.zeros_like(theta), np.zeros((len(theta), theta.shape[1], theta.shape[1]))
    cross = [w1 * slope * one for one in by]
    matrix = np.stack(
        [
            np.stack([(w1 * a * b - ca * cb * inverse).sum(axis=1) for b, cb in zip(by, cross, strict=True)], axis=1)
            for a, ca in zip(by, cross, strict=True)
        ],
        axis=1,
    )
    pull = np.stack(
        [(w1 * a * right - c * inverse * score).sum(axis=1) for a, c in zip(by, cross, strict=True)], axis=1
    )
    step = np.einsum("npq,nq->np", _inverse(matrix), pull)
    moved = sum(c * step[:, [k]] for k, c in enumerate(cross))
    return (score - moved) * inverse, step, matrix


def _inverse(matrix: Float) -> Float:
    """Inverse of symmetric 1 × 1 or 2 × 2 matrices; NaN where singular to 1e-10 of its diagonal."""
    diagonal = np.einsum("nii->ni", matrix)
    scale = np.sqrt(np.maximum(diagonal, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = matrix / (scale[:, :, None] * scale[:, None, :])
        if matrix.shape[1] == 1:
            found = 1.0 / unit
        else:
            determinant = 1.0 - unit[:, 0, 1] ** 2
            determinant = np.where(determinant > 1e-10, determinant, np.nan)
            off = -unit[:, 0, 1] / determinant
            found = np.stack(
                [np.stack([1 / determinant, off], axis=1), np.stack([off, 1 / determinant], axis=1)], axis=1
            )
        return found / (scale[:, :, None] * scale[:, None, :])


def _solve(
    name: str, data: _Data, latent: Float, theta: Float, *, fixed: bool = False
) -> tuple[Float, Float, NDArray[np.bool_]]:
    """Fisher scoring with step halving; neurons that are done, or cannot go on, stand still."""
    low = np.maximum(data.floor, _FLOOR * data.scale if name == "width" else -np.inf)
    latent = np.maximum(latent, low)
    value = _objective(name, latent, theta, data)
    done, failed = np.zeros(len(latent), dtype=bool), np.zeros(len(latent), dtype=bool)
    for _ in range(_STEPS):
        by_latent, by_theta, _ = _scores(name, latent, theta, data, fixed=fixed)
        failed |= ~(np.isfinite(by_latent).all(axis=1) & np.isfinite(by_theta).all(axis=1))
        size = np.maximum(np.abs(by_latent / data.scale).max(axis=1), np.abs(by_theta).max(axis=1, initial=0.0))
        active = ~(done | failed)
        length = np.where(active, 1.0, 0.0)
        for _ in range(30):
            trial = np.maximum(latent + length[:, None] * np.nan_to_num(by_latent), low)
            moved = theta + length[:, None] * np.nan_to_num(by_theta)
            if "g" in PARAMETERS[name] and not data.gaussian:  # counts have positive means
                moved[:, 0] = np.clip(moved[:, 0], 0.1 * theta[:, 0], 10 * theta[:, 0])
            if name == "width":
                moved = np.clip(moved, [1e-3, 0.05], [1e3, 20.0])
            with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
                after = _objective(name, trial, moved, data)
            worse = active & ~(after >= value - 1e-10 * (1 + np.abs(value)))
            if not worse.any():
                break
            length[worse] /= 2
        keep = active & ~worse
        # zero counts put the maximum on a bound, where steps shrink slowly: there the likelihood says when to stop
        still = (size < 1e-9) | ((after - value < 1e-10 * (1 + np.abs(value))) & (not data.gaussian))
        latent, theta = np.where(keep[:, None], trial, latent), np.where(keep[:, None], moved, theta)
        value = np.where(keep, after, value)
        done |= active & (still | worse)
        if (done | failed).all():
            break
    return latent, theta, done & ~failed


def _fit(name: str, data: _Data, groups: int) -> ModelFit:
    latent, theta, converged = _solve(name, data, *_start(name, data))
    wanted = PARAMETERS[name]
    _, _, information = _scores(name, latent, theta, data, fixed=False)
    error = np.zeros_like(theta)
    freedom = np.full(len(theta), np.inf)
    loose = np.full(theta.shape, np.inf)
    if wanted:
        with np.errstate(invalid="ignore"):
            error = np.sqrt(np.einsum("nii->ni", _inverse(information)))
    if data.gaussian:
        # one residual per stimulus is left when its latent is fitted
        freedom = np.maximum((data.count[1] > 0).sum(axis=1) - len(wanted), 1).astype(np.float64)
        error = error * np.sqrt(-_objective(name, latent, theta, data) / freedom)[:, None]
        error, loose = _from_repeats(name, latent, theta, data, information, error, freedom)
    found = _objective(name, latent, theta, data)
    held_out = np.full(len(latent), np.nan)
    if groups:
        held_out = _held_out(name, data, latent, theta, groups)
    if data.gaussian:
        found, held_out = _profiled(found, data), _profiled(held_out, data)
    return ModelFit(
        {p: theta[:, k] for k, p in enumerate(wanted)},
        {p: error[:, k] for k, p in enumerate(wanted)},
        latent,
        found,
        held_out,
        converged,
        freedom,
        {p: loose[:, k] for k, p in enumerate(wanted)},
    )


def _from_repeats(
    name: str, latent: Float, theta: Float, data: _Data, information: Float, error: Float, freedom: Float
) -> tuple[Float, Float]:
    """Errors (neuron, parameter) and their freedom, from the variances of each mean where all have repeats."""
    other = np.repeat(freedom[:, None], theta.shape[1], axis=1)
    (n0, n1), seen = data.count, data.count[1] > 0
    repeated = (seen & (n0 > 1) & (n1 > 1)).sum(axis=1) == seen.sum(axis=1)
    if not (repeated.any() and theta.shape[1]):
        return error, other
    _, slope, by = _mean(name, latent, theta, data)
    power = n0 + n1 * slope**2
    pull = np.stack(by, axis=2) * (n0 * n1 / np.where(power > 0, power, 1.0))[:, :, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = np.einsum("npq,nsq->nsp", _inverse(information), pull) ** 2
        parts = [
            np.where(seen & (n > 0), factor * v / np.maximum(n, 1), 0.0)[:, :, None] * moved
            for factor, v, n in ((slope**2, data.variance[0], n0), (1.0, data.variance[1], n1))
        ]
        total = sum(part.sum(axis=1) for part in parts)
        spread = sum(
            (part**2 / np.maximum(n - 1, 1)[:, :, None]).sum(axis=1) for part, n in zip(parts, (n0, n1), strict=True)
        )
        loose = np.where(spread > 0, total**2 / spread, 1.0)
    use = repeated[:, None] & (total > 0)
    return np.where(use, np.sqrt(total), error), np.where(use, loose, other)


def _profiled(negative_squares: Float, data: _Data) -> Float:
    """Gaussian log likelihood with its variance profiled out; residuals below rounding count as rounding."""
    stimuli = np.maximum((data.count[1] > 0).sum(axis=1), 1)
    rounding = (_EXACT * data.scale[:, 0]) ** 2
    return -0.5 * stimuli * np.log(np.maximum(-negative_squares / stimuli, rounding) / rounding)


def _held_out(name: str, data: _Data, latent: Float, theta: Float, groups: int) -> Float:
    """Log likelihood of stimuli under parameters estimated without them."""
    total = np.zeros(len(latent))
    group = np.arange(latent.shape[1]) % groups
    for number in range(min(groups, latent.shape[1])):
        mine = group == number
        _, without, fine = _solve(name, data.only(~mine), latent, theta)
        rest = data.only(mine)
        own, _, _ = _solve(name, rest, latent, without, fixed=True)
        total += np.where(fine, _objective(name, own, without, rest), np.nan)
    return total


def _blank(fit: ModelFit, enough: NDArray[np.bool_]) -> ModelFit:
    """NaN where there is too little to fit, or no maximum was found."""
    good = enough & fit.converged & np.all([np.isfinite(e) for e in fit.error.values()] or [enough], axis=0)

    def kept(values: Float) -> Float:
        return np.where(good if values.ndim == 1 else good[:, None], values, np.nan)

    return ModelFit(
        {p: kept(v) for p, v in fit.value.items()},
        {p: kept(v) for p, v in fit.error.items()},
        kept(fit.latent),
        kept(fit.log_likelihood),
        kept(fit.held_out),
        good,
        fit.freedom,
        fit.error_freedom,
    )
