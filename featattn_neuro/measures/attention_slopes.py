"""The three feature-similarity slopes: over a unit's stimuli, over the units that see an image, over units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from featattn_neuro.arrays import attention_models as kernels
from featattn_neuro.arrays.association import spearman
from featattn_neuro.arrays.sparseness import lifetime_sparseness
from featattn_neuro.arrays.tuning_curves import modulation_depth
from featattn_neuro.errors import DataError, choose
from featattn_neuro.measures._join import aligned

Float = NDArray[np.float64]

SELECTIVITIES: dict[str, Callable[[Float], Float]] = {
    "sparseness": lambda means: lifetime_sparseness(_not_negative(means)),
    "modulation_depth": lambda means: modulation_depth(means),
}
"""Selectivity over the stimuli that can be computed here, from repeats that the attention index is not made of."""

FEWEST_SPIKES = 6.0
"""Spikes that a stimulus must be expected to give, by other repeats, for its ratio to be near unbiased.

With 3, neurons of 1.5 spikes a presentation and six repeats have a mean slope of −.12 without any effect; with 6, −.02.
"""

SHOWN = "shown"
"""Tuning value for the stimulus that is shown: attention to the stimulus in the receptive field."""


def mean_response(values: Float) -> Float:
    """Mean over the last axis, NaN left out; NaN where nothing is left."""
    seen = np.isfinite(values)
    counts = seen.sum(axis=-1)
    return np.where(counts > 0, np.where(seen, values, 0.0).sum(axis=-1) / np.maximum(counts, 1), np.nan)


def preference_slope(unattended: Float, attended: Float, *, counts: bool) -> Float:
    """Slope (i), (unit,): attended/unattended on the rank of the stimulus in the unit's preference.

    Preference comes from one half of the repeats, the ratio from the other, both ways; without repeats from the same.
    Of counts, stimuli that `FEWEST_SPIKES` are not expected of have no ratio, and ranks are among the others. The slope
    of a single unit is skewed: over units take the mean, their median is below 0 without any effect.
    Responses are (unit, stimulus, repeat).
    """
    on = mean_response(attended)
    ways = [kernels.preference_slope(on, below, preference) for preference, below in _ways(unattended, counts)]
    return mean_response(np.stack(ways, axis=-1))


def layer_slopes(
    unattended: Float,
    attended: Float,
    index: Float,
    members: Sequence[NDArray[np.bool_]],
    *,
    units: NDArray[np.str_],
    stimuli: NDArray[np.str_],
    selectivity: xr.DataArray | str | None,
    tuning_value: xr.DataArray | str | None,
    counts: bool,
) -> dict[str, tuple[tuple[str, ...], Float]]:
    """Slopes (ii) and (iii) over the units of each layer: layers differ in scale and are not pooled."""
    found: dict[str, tuple[tuple[str, ...], Float]] = {}
    if selectivity is not None:
        pairs = _indices_and_selectivity(unattended, attended, index, units, selectivity, counts)
        for name, of in (("selectivity_slope", kernels.selectivity_slope), ("selectivity_rho", spearman)):
            ways = [[float(of(one[m], values[m])) for m in members] for one, values in pairs]
            found[name] = (("layer",), np.mean(ways, axis=0))
        found["selectivity"] = (("unit",), np.mean([values for _, values in pairs], axis=0))
    if tuning_value is not None:
        on = mean_response(attended)
        steps = []
        for below, values in _tuning_values(unattended, units, stimuli, tuning_value, counts):
            steps.append(np.stack([kernels.similarity_slope(on[m].T, below[m].T, values[m].T) for m in members]))
        found["similarity_slope"] = (("layer", "stimulus"), np.mean(steps, axis=0))
    return found


def _ways(unattended: Float, counts: bool) -> list[tuple[Float, Float]]:
    """(unit, stimulus) responses that say what is preferred, and those that a ratio divides by: two halves, both ways.

    Few spikes in the denominator would inflate the ratio of the less preferred stimuli: (sum + 1)/n is used for counts,
    whose inverse is unbiased for Poisson counts but for a factor 1 − exp(−expected sum) (Chapman 1951). That factor
    lowers the ratios of the least preferred: those of which the first half expects fewer than `FEWEST_SPIKES` in the
    second have none.
    """
    if unattended.shape[2] < 2:
        return [(unattended[..., 0], unattended[..., 0])]
    halves = [unattended[..., k::2] for k in (0, 1)]
    means = [mean_response(half) for half in halves]
    if not counts:
        return [(means[k], means[1 - k]) for k in (0, 1)]
    trials = [np.isfinite(half).sum(axis=2) for half in halves]
    below = [mean + 1 / np.maximum(n, 1) for mean, n in zip(means, trials, strict=True)]
    return [(means[k], np.where(means[k] * trials[1 - k] >= FEWEST_SPIKES, below[1 - k], np.nan)) for k in (0, 1)]


def _indices_and_selectivity(
    unattended: Float, attended: Float, index: Float, units: NDArray[np.str_], selectivity: xr.DataArray | str,
    counts: bool,
) -> list[tuple[Float, Float]]:  # fmt: skip
    """Attention index and selectivity of each unit, of different trials where selectivity is computed here."""
    if not isinstance(selectivity, str):
        return [(index, _over_units(selectivity, units, "the selectivity"))]
    measure = SELECTIVITIES[choose(selectivity, SELECTIVITIES, "selectivity")]
    if unattended.shape[2] < 2:
        if counts:
            raise DataError(
                "selectivity from trials of its own needs repeats; no stimulus was shown twice; pass values"
            )
        return [(index, measure(unattended[..., 0]))]
    on, found = mean_response(attended), []
    for k in (0, 1):
        tuned, below = (mean_response(unattended[..., one::2]) for one in (k, 1 - k))
        shared = np.isfinite(on) & np.isfinite(below)
        totals = [np.where(shared, one, 0.0).sum(axis=1) for one in (on, below)]
        found.append((kernels.attention_index(*totals), measure(tuned)))
    return found


def _tuning_values(
    unattended: Float, units: NDArray[np.str_], stimuli: NDArray[np.str_], tuning_value: xr.DataArray | str,
    counts: bool,
) -> list[tuple[Float, Float]]:  # fmt: skip
    """(unit, stimulus) responses that ratios divide by, and tuning values."""
    if isinstance(tuning_value, str):
        choose(tuning_value, [SHOWN], "tuning value")
        found = []
        for preference, below in _ways(unattended, counts):
            with np.errstate(divide="ignore", invalid="ignore"):
                away = preference - mean_response(preference)[:, None]
                found.append((below, away / np.sqrt(mean_response(away**2))[:, None]))
        return found
    below = mean_response(unattended)
    if isinstance(tuning_value, xr.DataArray) and set(tuning_value.dims) == {"stimulus", "unit"}:
        ordered = aligned(tuning_value, "stimulus", stimuli, name="the tuning value", to="the responses")
        ordered = aligned(ordered, "unit", units, name="the tuning value", to="the responses")
        return [(below, ordered.transpose("unit", "stimulus").values.astype(np.float64))]
    return [(below, np.broadcast_to(_over_units(tuning_value, units, "the tuning value")[:, None], below.shape))]


def _over_units(values: Any, units: NDArray[np.str_], name: str) -> Float:
    if not isinstance(values, xr.DataArray) or values.dims != ("unit",):
        raise DataError(
            f"{name} must be a DataArray over 'unit'; came {getattr(values, 'dims', type(values).__name__)}"
        )
    return aligned(values, "unit", units, name=name, to="the responses").values.astype(np.float64)


def _not_negative(means: Float) -> Float:
    """Responses with a negative mean, or with a gap, as NaN: sparseness is not defined for them."""
    return np.where((~(means >= 0)).any(axis=-1, keepdims=True), np.nan, means)
