"""Simulated replicate networks for the calibration battery: responses, held-out |d'|, and gains that owe it nothing.

A network has layers of correlated filters: responses are max(0, latent mixture + noise + bias) to composites of two
classes, so they are skewed, full of ties at 0, and targets are few. |d'| of each task is measured on those responses.
Under the null, the gains of a task follow a direction drawn without regard to any class, mixed by the same filters
(hence as correlated as the filters are), plus what every task amplifies (calibration), which follows mean |d'|.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from featattn_neuro.arrays.association import atanh_clipped, cross_correlation

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """What is simulated.

    layers : (filters, latent dimensions) of each layer; few dimensions = strongly correlated filters.
    stimuli : composites on which |d'| is measured, two classes each, so a task has 2/tasks of them as targets.
    shared_images : the same composites and image noise in all networks.
    common : share of the gains' random direction that all networks have in common (as shared training images cause).
    alike : share of the classes' places among the filters that all networks have in common.
    calibration : how strongly the gains of every task follow mean |d'|; trend : rise of gains and signal over layers.
    """

    networks: int = 5
    tasks: int = 10
    layers: tuple[tuple[int, int], ...] = ((16, 10), (32, 8), (64, 5))
    stimuli: int = 350
    shared_images: bool = False
    common: float = 0.0
    alike: float = 0.0
    calibration: float = 1.0
    trend: float = 0.5


@dataclass(frozen=True)
class Tables:
    """One draw: per layer, gains and |d'| (network, task, filter), and z (layer, network, task, task)."""

    gains: list[Float]
    scores: list[Float]
    mixing: list[Float]
    z: Float


def absolute_dprime(responses: Float, target: Float) -> Float:
    """|d'| (rms) of responses (network, filter, n) for targets (network, task, n): (network, task, filter).

    The same number as `featattn_neuro.arrays.discrimination.dprime`, by matrix products, for thousands of draws.
    """
    centred = responses - responses.mean(axis=-1, keepdims=True)
    n1 = target.sum(axis=-1)[..., None]
    n0 = target.shape[-1] - n1
    flipped = np.swapaxes(centred, -1, -2)
    sum1, square1 = target @ flipped, target @ flipped**2
    sum0, square0 = -sum1, (centred**2).sum(axis=-1)[:, None] - square1
    variance1 = (square1 - sum1**2 / n1) / (n1 - 1)
    variance0 = (square0 - sum0**2 / n0) / (n0 - 1)
    spread = np.sqrt(np.maximum((variance1 + variance0) / 2, 1e-12))
    return np.abs(sum1 / n1 - sum0 / n0) / spread


def standard(values: Float) -> Float:
    """Centred and scaled along the last axis."""
    return (values - values.mean(axis=-1, keepdims=True)) / (values.std(axis=-1, keepdims=True) + 1e-12)


def draw(design: Design, rng: np.random.Generator, effect: float = 0.0) -> Tables:
    """One simulated experiment; `effect` = how strongly gains follow the true signal of their own task."""
    n_net, n_task, n_stim = design.networks, design.tasks, design.stimuli
    width = max(rank for _, rank in design.layers)
    sets = 1 if design.shared_images else n_net
    first = rng.integers(0, n_task, size=(sets, n_stim))
    second = (first + rng.integers(1, n_task, size=(sets, n_stim))) % n_task
    names = np.arange(n_task)[:, None]
    target = ((first[:, None] == names) | (second[:, None] == names)).astype(np.float64)
    means = np.sqrt(design.alike) * rng.normal(size=(1, n_task, width))
    means = means + np.sqrt(1 - design.alike) * rng.normal(size=(n_net, n_task, width))
    image = rng.normal(size=(sets, n_stim, width))
    rows = np.arange(n_net)[:, None]
    shown = means[rows, first] + means[rows, second] if sets > 1 else means[:, first[0]] + means[:, second[0]]
    shared = rng.normal(size=(len(design.layers), 1, max(k for k, _ in design.layers), width))
    direction = np.sqrt(design.common) * rng.normal(size=(1, n_task, width))
    direction = direction + np.sqrt(1 - design.common) * rng.normal(size=(n_net, n_task, width))
    target = np.broadcast_to(target, (n_net, n_task, n_stim))
    gains, scores, mixings = [], [], []
    for level, (filters, rank) in enumerate(design.layers):
        mixing = np.sqrt(0.5) * shared[level, :, :filters, :rank] + np.sqrt(0.5) * rng.normal(
            size=(n_net, filters, rank)
        )
        mixing = mixing / np.sqrt(rank)
        signal = 0.25 * (1 + design.trend * level)
        latent = signal * shown[..., :rank] + image[..., :rank]
        private = 0.5 * rng.standard_normal((n_net, filters, n_stim))
        bias = rng.normal(-0.2, 0.4, size=(n_net, filters, 1))
        responses = np.maximum(mixing @ np.swapaxes(latent, -1, -2) + private + bias, 0.0)
        score = absolute_dprime(responses, target)
        own = np.swapaxes(mixing @ np.swapaxes(direction[..., :rank], -1, -2), -1, -2)
        generic = design.calibration * standard(score.mean(axis=1, keepdims=True))
        truth = np.abs(np.swapaxes(mixing @ np.swapaxes(means[..., :rank], -1, -2), -1, -2))
        gain = own + 0.3 * rng.normal(size=own.shape) + generic + effect * standard(truth) + design.trend * level
        gains.append(gain)
        scores.append(score)
        mixings.append(mixing)
    z = np.stack([atanh_clipped(cross_correlation(g, s)) for g, s in zip(gains, scores, strict=True)])
    return Tables(gains, scores, mixings, z)


def matched(z: Float) -> Float:
    """Mean over tasks of z(t, t), of (..., task, task)."""
    return np.trace(z, axis1=-2, axis2=-1) / z.shape[-1]


def specific(z: Float) -> Float:
    """Matched minus mismatched, of (..., task, task)."""
    n = z.shape[-1]
    diagonal = np.trace(z, axis1=-2, axis2=-1)
    return diagonal / n - (z.sum(axis=(-2, -1)) - diagonal) / (n * (n - 1))


def t_p(values: Float) -> Float:
    """Two-sided p of the t-test that the mean along the last axis is 0: `arrays.resampling.t_test` for many draws."""
    n = values.shape[-1]
    t = values.mean(axis=-1) / (values.std(axis=-1, ddof=1) / np.sqrt(n))
    return 2 * stats.t.sf(np.abs(t), n - 1)


def t_ends(values: Float, level: float = 0.95) -> tuple[Float, Float]:
    """Ends of the t interval along the last axis: `arrays.resampling.t_interval` for many draws."""
    n = values.shape[-1]
    half = stats.t.ppf((1 + level) / 2, n - 1) * values.std(axis=-1, ddof=1) / np.sqrt(n)
    return values.mean(axis=-1) - half, values.mean(axis=-1) + half


def spearman_p(rho: Float, n: int) -> Float:
    """p of Spearman's rho as if the n filters were independent."""
    t = rho * np.sqrt((n - 2) / np.maximum(1 - rho**2, 1e-12))
    return 2 * stats.t.sf(np.abs(t), n - 2)
