"""Attention effects over a stimulus parameter: widths of tuning, and how the effect falls off with distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from featattn_neuro.arrays import similarity_profile as profiles
from featattn_neuro.arrays.width_models import FORMS, PERIODS, fit_widths
from featattn_neuro.errors import DataError, choose
from featattn_neuro.measures._join import aligned
from featattn_neuro.measures.attention_slopes import FEWEST_SPIKES, mean_response

Float = NDArray[np.float64]
Variables = dict[str, tuple[Any, Any]]

USUAL_FORMS = {"orientation": "orientation", "direction": "direction", "spatial_frequency": "log_gaussian"}
"""Form of tuning by what the levels are called, where the caller names none; "gaussian" for anything else."""

DISTANCES = 24
"""Distances from the preferred stimulus that ratios are averaged at, at most."""

LEAST = 0.05
"""Stimuli with less than this share of the unit's best response, judged by other repeats, give no usable ratio."""

_PARAMETERS = ("a", "b", "A", "s", "B", "t")


def stimulus_levels(responses: xr.Dataset, level: xr.DataArray | str, stimuli: NDArray[np.str_]) -> tuple[Float, str]:
    """Value of the stimulus parameter for each of `stimuli`, NaN where it has none; and what it is called."""
    if isinstance(level, xr.DataArray):
        ordered = aligned(level, "stimulus", stimuli, name="the levels", to="the responses")
        values, name = ordered.values, str(level.name or "level")
    else:
        sample = "trial" if "trial" in responses.dims else "stimulus"
        known = [str(one) for one, c in responses.coords.items() if c.dims == (sample,) and one not in ("trial",)]
        name = choose(str(level), known, f"coordinate of the {sample}s")
        position = {one: k for k, one in enumerate(stimuli.astype(str).tolist())}
        row = np.array([position.get(one, -1) for one in responses["stimulus"].values.astype(str).tolist()])
        given, row = responses[name].values[row >= 0], row[row >= 0]
        values = np.empty(stimuli.size, dtype=given.dtype)
        values[row] = given
        if not ((values[row] == given) | ((given != given) & (values[row] != values[row]))).all():
            raise DataError(
                f"{name!r} is no property of the stimuli: trials of one stimulus differ in it; name another"
            )
    if np.asarray(values).dtype.kind not in "fiu":
        raise DataError(f"widths and distances need a number for each stimulus; {name!r} is text; name another level")
    return np.asarray(values, dtype=np.float64), name


def tuning_form(form: str | None, name: str) -> str:
    """The form of tuning curves that was asked for, or the usual one of this parameter."""
    return choose(str(form or USUAL_FORMS.get(name, "gaussian")), FORMS, "form of tuning")


def width_variables(
    unattended: Float, attended: Float, levels: Float, form: str, phi: Float | None, confidence: float
) -> Variables:
    """Widths in both conditions, their change and its p; responses (unit, stimulus, repeat), levels (stimulus,)."""
    there = np.isfinite(levels)
    values, row = np.unique(levels[there], return_inverse=True)
    cells = [_by_level(one[:, there], unattended[:, there], attended[:, there], row, values.size)
             for one in (unattended, attended)]  # fmt: skip
    try:
        found = fit_widths(
            (cells[0][0], cells[1][0]), (cells[0][1], cells[1][1]), values, form=form, phi=phi, confidence=confidence
        )
    except ValueError as error:
        raise DataError(f"widths of tuning cannot be compared: {error}") from error
    named = {
        "curve_width": found.unattended, "curve_width_attended": found.attended, "curve_width_change": found.change,
        "curve_width_change_low": found.low, "curve_width_change_high": found.high, "p_width": found.p,
    }  # fmt: skip
    return {name: ("unit", one) for name, one in named.items()}


def _by_level(one: Float, first: Float, second: Float, row: NDArray[np.intp], count: int) -> tuple[Float, Float]:
    """Mean over the stimuli of a level of their means, (unit, level), and the number of trials that it is worth.

    Only stimuli that were shown in both conditions, each with the same weight, so that conditions do not differ in what
    was shown; the number is that of equally many trials of each which would have the same variance.
    """
    numbers = [np.isfinite(values).sum(axis=2).astype(np.float64) for values in (one, first, second)]
    both = (numbers[1] > 0) & (numbers[2] > 0)
    mean = np.where(np.isfinite(one), one, 0.0).sum(axis=2) / np.maximum(numbers[0], 1)
    table = np.zeros((row.size, count))
    table[np.arange(row.size), row] = 1.0
    stimuli = both @ table
    spread = np.where(both, 1 / np.maximum(numbers[0], 1), 0.0) @ table
    number = np.divide(stimuli**2, spread, out=np.zeros_like(stimuli), where=stimuli > 0)
    return (np.where(both, mean, 0.0) @ table) / np.maximum(stimuli, 1), number


def profile_variables(
    unattended: Float,
    attended: Float,
    members: Sequence[NDArray[np.bool_]],
    *,
    levels: Float | None,
    form: str,
    counts: bool,
) -> tuple[Variables, dict[str, Any], str]:
    """Attended/unattended over distance from the preferred stimulus, and the shapes compared in each layer.

    Parameters
    ----------
    unattended, attended : (unit, stimulus, repeat). members : (unit,) for each layer.
    levels : (stimulus,) value of the parameter: distance is that from the preferred level, on the circle for angles;
        None: distance is the rank of the stimulus, 0 = preferred, 1 = least.
    counts : responses are counts: the ratio's denominator is (sum + 1)/n (Chapman 1951), and there is none where
        the other half of the repeats expects fewer than `FEWEST_SPIKES`.

    Returns
    -------
    Variables and coordinates of ATTENTION, and what the distance is.
    """
    kept = np.ones(unattended.shape[1], dtype=bool) if levels is None else np.isfinite(levels)
    off, on = unattended[:, kept], attended[:, kept]
    halves = [off[..., k::2] for k in (0, 1)] if off.shape[2] > 1 else [off, off]
    ways = []
    for preferring, measuring in (halves, halves[::-1])[: 2 if off.shape[2] > 1 else 1]:
        preference = mean_response(preferring)
        place, grid = (
            _rank_places(preference, np.isfinite(mean_response(measuring)) & np.isfinite(mean_response(on)))
            if levels is None
            else _level_places(preference, levels[kept], PERIODS.get(form, 0.0))
        )
        ways.append(_ratios(preference, measuring, on, place, grid.size, counts))
    ratio = mean_response(np.stack(ways, axis=2))
    shapes = list(profiles.SHAPES)
    empty = {"bic": np.full(3, np.nan), "error": np.full(3, np.nan), "parameters": np.full((3, 6), np.nan)}
    fits = [_compared(ratio[member], grid) or empty for member in members]
    bic, error, parameters = (np.stack([one[part] for one in fits]) for part in ("bic", "error", "parameters"))
    defined = np.isfinite(bic).all(axis=1)
    by_bic, by_error = (np.array(shapes)[np.argmin(np.where(np.isfinite(v), v, np.inf), axis=1)] for v in (bic, error))
    curves = np.stack([
        np.stack([
            profiles.profile_curve(shape, row[[_PARAMETERS.index(p) for p in profiles.PARAMETERS[shape]]], grid)
            for shape, row in zip(shapes, layer, strict=True)
        ]) for layer in parameters
    ])  # fmt: skip
    spread = [_spread(ratio[member]) for member in members]
    found: Variables = {
        "profile_ratio": (("layer", "distance"), np.stack([one[0] for one in spread])),
        "profile_sem": (("layer", "distance"), np.stack([one[1] for one in spread])),
        "profile_fit": (("layer", "shape", "distance"), curves),
        "profile_bic": (("layer", "shape"), bic - np.where(defined, np.min(bic, axis=1), np.nan)[:, None]),
        "profile_error": (("layer", "shape"), error),
        "profile_parameter": (("layer", "shape", "profile_term"), parameters),
        "profile_shape": ("layer", np.where(defined & (by_bic == by_error), by_bic, "")),
    }
    coordinates = {"shape": shapes, "distance": grid, "profile_term": list(_PARAMETERS)}
    what = "rank of the stimulus, 0 = preferred, 1 = least" if levels is None else "distance from the preferred level"
    return found, coordinates, what


def _compared(ratio: Float, grid: Float) -> dict[str, Float] | None:
    """Criteria and parameters of the shapes over the ratios (unit, distance) of a layer; None: too few ratios."""
    unit, place = np.nonzero(np.isfinite(ratio))
    if unit.size < profiles.FEWEST or np.unique(place).size < 2:
        return None
    fits = profiles.similarity_profiles(grid[place], ratio[unit, place], group=unit)
    parameters = np.full((len(fits), len(_PARAMETERS)), np.nan)
    for row, (shape, fit) in enumerate(fits.items()):
        parameters[row, [_PARAMETERS.index(name) for name in profiles.PARAMETERS[shape]]] = fit.parameters
    bic, error = (np.array([getattr(fit, part) for fit in fits.values()]) for part in ("bic", "error"))
    return {"bic": bic, "error": error, "parameters": parameters}


def _rank_places(preference: Float, there: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Float]:
    """(unit, stimulus) index into distances 0 … 1 of the stimulus's rank, −1 = none; the distances."""
    usable = there & np.isfinite(preference)
    order = np.argsort(np.where(usable, -preference, np.inf), axis=1, kind="stable")
    rank = np.argsort(order, axis=1)
    count = min(preference.shape[1], DISTANCES)
    share = rank / np.maximum(usable.sum(axis=1, keepdims=True) - 1, 1)
    place = np.round(share * (count - 1)).astype(np.int64)
    return np.where(usable, place, -1), np.linspace(0, 1, count)


def _level_places(preference: Float, levels: Float, period: float) -> tuple[NDArray[np.int64], Float]:
    """(unit, stimulus) index into the distances of the stimulus's level from the unit's best one; the distances."""

    def apart(first: Float, second: Float) -> Float:
        away = np.abs(first - second)
        nearest = np.minimum(away % period, -away % period) if period else away
        return np.asarray(np.round(nearest, 9), dtype=np.float64)

    values, row = np.unique(levels, return_inverse=True)
    means = np.stack([mean_response(preference[:, row == k]) for k in range(values.size)], axis=1)
    best = values[np.argmax(np.where(np.isfinite(means), means, -np.inf), axis=1)]
    away = apart(levels[None, :], best[:, None])
    # distances that any two levels have: the same whichever level a unit, or a half of its repeats, prefers
    grid = np.unique(apart(values[:, None], values[None, :]))
    if grid.size > DISTANCES:
        step = float(grid[-1]) / DISTANCES
        place = np.minimum((away / step).astype(np.int64), DISTANCES - 1)
        grid = step * (np.arange(DISTANCES, dtype=np.float64) + 0.5)
    else:
        place = np.searchsorted(grid, away).astype(np.int64)
    return place, grid


def _ratios(
    preference: Float, measuring: Float, attended: Float, place: NDArray[np.int64], size: int, counts: bool
) -> Float:
    """(unit, distance) attended/unattended of the mean responses at each distance; NaN where there is no ratio."""
    off, on = mean_response(measuring), mean_response(attended)
    usable = (place >= 0) & np.isfinite(off) & np.isfinite(on) & np.isfinite(preference)
    index = np.where(usable, np.arange(len(place))[:, None] * size + place, len(place) * size)

    def summed(values: Float) -> Float:
        flat = np.bincount(index.ravel(), np.where(usable, values, 0.0).ravel(), minlength=len(place) * size + 1)
        return np.asarray(flat[:-1], dtype=np.float64).reshape(len(place), size)

    number = summed(usable.astype(np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = [summed(values) / number for values in (off, on, preference)]
        trials = summed(np.isfinite(measuring).sum(axis=2).astype(np.float64))
        below = middle[0] + (1 / trials if counts else 0.0)
        best = np.nanmax(np.where(number > 0, middle[2], -np.inf), axis=1, keepdims=True)
        clear = (number > 0) & (middle[2] >= LEAST * best) & (best > 0) & (below > 0)
        if counts:  # (sum + 1)/n needs some spikes to be unbiased
            clear &= middle[2] * trials >= FEWEST_SPIKES
        return np.where(clear, middle[1] / below, np.nan)


def _spread(ratio: Float) -> tuple[Float, Float]:
    """Mean over units at each distance, and its standard error (NaN for one unit)."""
    seen = np.isfinite(ratio)
    count, mean = seen.sum(axis=0), mean_response(ratio.T)
    squares = np.where(seen, ratio - mean, 0.0) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return mean, np.where(count > 1, np.sqrt(squares.sum(axis=0) / (count - 1) / count), np.nan)
