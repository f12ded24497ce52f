"""Simulated neurons with a known effect of attention: for tests of an analysis, and for power before an experiment."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from featattn_neuro.arrays.population_simulation import draw_population
from featattn_neuro.errors import ConfigError
from featattn_neuro.schema import NEURAL

CONDITIONS = ("unattended", "attended")


def simulate_population(
    neurons: int = 100,
    *,
    stimuli: int = 12,
    repeats: int = 20,
    mean: float = 10.0,
    gain: ArrayLike = 1.2,
    shift: ArrayLike = 0.0,
    exponent: ArrayLike = 1.0,
    narrowing: ArrayLike = 1.0,
    modulation: float = 0.9,
    concentration: float = 2.0,
    dispersion: float = 0.0,
    correlation: float = 0.0,
    seed: int = 0,
) -> xr.Dataset:
    """Spike counts of tuned neurons, unattended and attended, with the truth beside them.

    Parameters
    ----------
    neurons, stimuli, repeats : how many; directions tile the circle; each is shown `repeats` times per condition.
    mean : spikes per presentation, unattended, mean over stimuli of each neuron.
    gain, shift, exponent, narrowing : effect of attention on the expected count μ, one number or one per neuron:
        gain · c · (μ/c)^exponent + shift, c the mean over stimuli, not below 0. With exponent 1, shift 0 is a
        multiplicative effect and gain 1 an additive one; exponent > 1 narrows tuning, its baseline sinking with it;
        narrowing > 1 makes κ · narrowing of κ and leaves baseline and peak.
    modulation, concentration : tuning 1 − m + m · exp{κ (cos Δ − 1)}: share that is tuned, and κ.
    dispersion : φ of variance = mean + φ mean²; 0 = Poisson. 0.1 doubles the variance at 10 spikes.
    correlation : noise correlation of every two neurons on a presentation, in [0, 1).
    seed : of everything that is drawn.

    Returns
    -------
    NEURAL: counts (trial, unit), with `condition` ("unattended", "attended"), `level` (direction, degrees),
    `repetition`, and the truth over units in `true_gain`, `true_shift`, `true_exponent`, `true_narrowing`.

    Raises
    ------
    ConfigError : no neurons, stimuli or repeats; a mean, narrowing, dispersion or correlation out of its range; effects
        that are neither one number nor one per neuron.

    >>> found = simulate_population(3, stimuli=4, repeats=2)
    >>> dict(found.sizes), sorted(set(found.condition.values.tolist()))
    ({'trial': 16, 'unit': 3}, ['attended', 'unattended'])
    """
    try:
        drawn = draw_population(
            neurons=neurons, stimuli=stimuli, repeats=repeats, mean=mean, gain=gain, shift=shift, exponent=exponent,
            narrowing=narrowing,
            modulation=modulation, concentration=concentration, phi=dispersion, correlation=correlation,
            rng=np.random.default_rng(seed),
        )  # fmt: skip
    except ValueError as error:
        raise ConfigError(f"the population cannot be drawn: {error}") from error
    shape = drawn.counts.shape[:3]
    condition, stimulus, repeat = (axis.ravel() for axis in np.indices(shape))
    angle = 360.0 * stimulus / stimuli
    coordinates = {
        "trial": np.arange(condition.size),
        "unit": np.array([f"simulated/{k:04d}" for k in range(neurons)]),
        "stimulus": ("trial", np.array([f"direction {one:07.3f}" for one in angle])),
        "condition": ("trial", np.array(CONDITIONS)[condition]),
        "repetition": ("trial", repeat),
        "level": ("trial", angle, {"units": "degree"}),
        "true_gain": ("unit", drawn.gain),
        "true_shift": ("unit", drawn.shift),
        "true_exponent": ("unit", drawn.exponent),
        "true_narrowing": ("unit", drawn.narrowing),
    }
    attrs: dict[str, str | int | float] = {
        "units": "spikes",
        "simultaneous": 1,
        "source": "simulate_population",
        "dispersion": float(dispersion),
        "correlation": float(correlation),
        "seed": int(seed),
    }
    values = {"response": (("trial", "unit"), drawn.counts.reshape(-1, neurons))}
    return NEURAL.check(xr.Dataset(values, coordinates, attrs))
