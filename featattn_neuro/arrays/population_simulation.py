"""Populations of spiking neurons with a known effect of attention, to test analyses on and to plan experiments with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """Spike counts and the truth they were drawn from.

    Parameters
    ----------
    counts : (condition, stimulus, repeat, neuron) spikes; condition 0 = unattended, 1 = attended.
    means : (condition, stimulus, neuron) expected counts.
    gain, shift, exponent, narrowing : (neuron,) the effect: attended = gain · c · (u/c)^exponent + shift, c the mean
        over stimuli, u the tuning with κ · narrowing in place of κ, baseline and peak as they are; not below 0.
    preferred : (neuron,) preferred stimulus value, radians in [0, 2π).
    """

    counts: Float
    means: Float
    gain: Float
    shift: Float
    exponent: Float
    narrowing: Float
    preferred: Float


def tuning_means(
    angles: ArrayLike,
    preferred: ArrayLike,
    *,
    mean: float,
    modulation: float,
    concentration: ArrayLike,
    scale: float | None = None,
) -> Float:
    """Von Mises tuning over a circle, (stimulus, neuron), scaled to the mean over these stimuli.

    Parameters
    ----------
    angles : (stimulus,) radians. preferred : (neuron,) radians.
    mean : mean over stimuli, spikes. modulation : share of the peak that is tuned, in [0, 1]; the rest is baseline.
    concentration : κ > 0, one for all or (neuron,); larger is narrower.
    scale : the κ whose curve has that mean, so that curves of other κ keep baseline and peak; None = `concentration`.

    >>> tuning_means([0.0, np.pi], [0.0], mean=10, modulation=0.0, concentration=2.0).tolist()
    [[10.0], [10.0]]
    """
    away = np.asarray(angles, dtype=np.float64)[:, None] - np.asarray(preferred, dtype=np.float64)

    def curve(kappa: ArrayLike) -> Float:
        return 1 - modulation + modulation * np.exp(np.asarray(kappa) * (np.cos(away) - 1))

    return mean * curve(concentration) / curve(concentration if scale is None else scale).mean(axis=0)


def draw_population(
    *,
    neurons: int,
    stimuli: int,
    repeats: int,
    mean: float,
    gain: ArrayLike,
    shift: ArrayLike,
    exponent: ArrayLike,
    modulation: float,
    concentration: float,
    phi: float,
    correlation: float,
    rng: np.random.Generator,
    narrowing: ArrayLike = 1.0,
) -> Population:
    """Spike counts of neurons with von Mises tuning in two conditions.

    Parameters
    ----------
    neurons, stimuli, repeats : how many; stimuli tile the circle; repeats of each stimulus in each condition.
    mean : spikes per presentation, unattended, mean over stimuli.
    gain, shift, exponent, narrowing : effect of attention, one for all or (neuron,); see `Population`.
    modulation, concentration : of the tuning, see `tuning_means`.
    phi : variance = mean + φ mean²; 0 = Poisson.
    correlation : noise correlation of every two neurons on the same presentation, in [0, 1): correlation of Gaussian
        quantiles; that of the counts is a little smaller (at 10 spikes by about 2 %).
    rng : source of randomness.

    Notes
    -----
    Poisson or negative binomial marginals joined by a Gaussian copula with one common factor.

    >>> drawn = draw_population(neurons=2, stimuli=4, repeats=3, mean=10, gain=1.2, shift=0, exponent=1, modulation=0.9,
    ...                         concentration=2, phi=0, correlation=0, rng=np.random.default_rng(0))
    >>> drawn.counts.shape, bool(np.allclose(drawn.means[1], 1.2 * drawn.means[0]))
    ((2, 4, 3, 2), True)
    """
    if min(neurons, stimuli, repeats) < 1 or mean <= 0 or phi < 0 or not 0 <= correlation < 1:
        raise ValueError(
            "wanted neurons, stimuli, repeats >= 1, mean > 0, phi >= 0, 0 <= correlation < 1; came "
            f"{neurons}, {stimuli}, {repeats}, {mean}, {phi}, {correlation}"
        )
    if (np.asarray(narrowing) <= 0).any():
        raise ValueError(f"wanted narrowing > 0; came {np.min(narrowing)}")
    effect = (gain, shift, exponent, narrowing)
    g, b, e, narrow = (np.broadcast_to(np.asarray(v, dtype=np.float64), (neurons,)) for v in effect)
    preferred = rng.uniform(0, 2 * np.pi, neurons)
    angles = 2 * np.pi * np.arange(stimuli) / stimuli
    plain = tuning_means(angles, preferred, mean=mean, modulation=modulation, concentration=concentration)
    centre = plain.mean(axis=0)
    narrower = tuning_means(
        angles, preferred, mean=mean, modulation=modulation, concentration=concentration * narrow, scale=concentration
    )
    attended = np.maximum(g * centre * (narrower / centre) ** e + b, 0.0)
    means = np.stack([plain, attended])
    counts = _draw(means[:, :, None, :], (2, stimuli, repeats, neurons), phi, correlation, rng)
    return Population(counts, means, g.copy(), b.copy(), e.copy(), narrow.copy(), preferred)


def _draw(means: Float, shape: tuple[int, ...], phi: float, correlation: float, rng: np.random.Generator) -> Float:
    expected = np.broadcast_to(means, shape)
    if correlation == 0:
        # a gamma rate of mean 1 and variance φ: the Poisson count of it is negative binomial
        rate = expected * (rng.gamma(1 / phi, phi, shape) if phi > 0 else 1.0)
        return rng.poisson(rate).astype(np.float64)
    common = rng.standard_normal((*shape[:-1], 1))
    z = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * rng.standard_normal(shape)
    share = stats.norm.cdf(z)
    if phi == 0:
        return stats.poisson.ppf(share, expected)
    return np.where(expected > 0, stats.nbinom.ppf(share, 1 / phi, 1 / (1 + phi * np.maximum(expected, 1e-12))), 0.0)
