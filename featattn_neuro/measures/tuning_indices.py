"""How strongly units are tuned, in one number each, beside what noise alone would give."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from featattn_neuro.arrays.orientation import check_angles, direction_selectivity, orientation_selectivity
from featattn_neuro.arrays.prediction import split_half_reliability
from featattn_neuro.arrays.sparseness import lifetime_sparseness
from featattn_neuro.arrays.tuning_curves import modulation_depth, preferred_level
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.measures._join import without_scalars
from featattn_neuro.measures.tuning import Observations, level_moments, observations, tuning
from featattn_neuro.schema import NEURAL, TUNING

Float = NDArray[np.float64]
Index = Callable[[Float, Float], Float]
"""(unit, level) mean responses and (level,) values to (unit,) numbers."""

INDICES: dict[str, Index] = {
    "modulation_depth": lambda curve, level: modulation_depth(curve),
    "sparseness": lambda curve, level: lifetime_sparseness(_not_negative(curve)),
}
ANGULAR: dict[int, dict[str, Index]] = {
    180: {"orientation_index": lambda curve, level: orientation_selectivity(_not_negative(curve), level)},
    360: {
        "orientation_index": lambda curve, level: orientation_selectivity(_not_negative(curve), level),
        "direction_index": lambda curve, level: direction_selectivity(_not_negative(curve), level),
    },
}
"""Indices of angles that tile the circle, by its period in degrees."""

USUAL_PERIODS = {"orientation": 180, "direction": 360}
"""By what the levels are called, where the caller says no period."""


def tuning_indices(
    responses: xr.Dataset,
    *,
    level: xr.DataArray | str | None = None,
    period: int | None = None,
    permutations: int = 100,
    seed: int = 0,
    confidence: float = 0.95,
    test: str = "kruskal",
) -> xr.Dataset:
    """Tuning curves with one number each for how strong the tuning is, and the floor that noise alone reaches.

    Parameters
    ----------
    responses, level, confidence, test : as in `tuning`.
    period : 180 (orientations) or 360 (directions): the levels are degrees that tile the circle once, equally spaced,
        and `orientation_index` (360: also `direction_index`) are computed. None = 180 if the parameter is called
        orientation, 360 if it is called direction, and its levels tile it; else no angular index.
    permutations : shuffles of the levels over trials (or stimuli) for the floors; 0 = no floors.
    seed : of the shuffles.

    Returns
    -------
    TUNING as `tuning` gives it, with `preferred_level`, `modulation_depth`, `sparseness` and angular indices of the
    mean
    responses (NaN unless the status is "ok", or where a mean is negative; the last two also where a level was not
    recorded), and `…_floor`, the mean of the index over shuffles: these indices are
    biased upward, and an index near its floor says nothing.

    Raises
    ------
    As `tuning`; ConfigError : a negative number of permutations, another period. DataError : levels that do not tile
    the
    period that was asked for.

    >>> import xarray as xr
    >>> trials = {"trial": [0, 1, 2], "stimulus": ("trial", ["x", "x", "y"]), "level": ("trial", [0.0, 0.0, 1.0])}
    >>> spikes = xr.Dataset({"response": (("trial", "unit"), [[1.0], [3.0], [6.0]])}, trials | {"unit": ["V1/0"]})
    >>> found = tuning_indices(spikes, permutations=0)
    >>> found.modulation_depth.item(), found.preferred_level.item()
    (0.5, 1.0)
    """
    if permutations < 0:
        raise ConfigError(f"wanted 0 permutations or more; came {permutations}; 100 give a usable floor")
    curves = tuning(responses, level=level, confidence=confidence, test=test)
    seen = observations(responses, level)
    values = curves["level"].values.astype(np.float64)
    usable = (curves["status"] == "ok").values
    means = curves["curve"].values
    indices, found_period = _indices(seen, values, period)
    added = {name: ("unit", np.where(usable, index(means, values), np.nan)) for name, index in indices.items()}
    added["preferred_level"] = ("unit", np.where(usable, preferred_level(means, values), np.nan))
    if permutations:
        floors = _floors(seen, values, indices, permutations, np.random.default_rng(seed))
        added |= {f"{name}_floor": ("unit", np.where(usable, floor, np.nan)) for name, floor in floors.items()}
    notes = {"permutations": int(permutations), "seed": int(seed), "period": found_period}
    return TUNING.check(curves.assign(added).assign_attrs(notes))


def _indices(seen: Observations, level: Float, period: int | None) -> tuple[dict[str, Index], int]:
    """The indices that these levels have, and the period of the angular ones (0: none)."""
    wanted = USUAL_PERIODS.get(seen.parameter) if period is None else period
    if wanted is None:
        return INDICES, 0
    if wanted not in ANGULAR:
        raise ConfigError(f"wanted a period of 180 or 360 degrees; came {wanted}; leave it out for other parameters")
    try:
        check_angles(level, wanted)
        for index in ANGULAR[wanted].values():  # two directions tile the circle, and have no orientation
            index(np.ones((1, level.size)), level)
    except ValueError as error:
        if period is None:
            return INDICES, 0
        raise DataError(f"the levels of {seen.parameter!r} are no angles of period {period}: {error}") from error
    return INDICES | ANGULAR[wanted], wanted


def _not_negative(curve: Float) -> Float:
    """Curves with a negative mean, for which these indices are not defined, as NaN."""
    return np.where((curve < 0).any(axis=-1, keepdims=True), np.nan, curve)


def _floors(
    seen: Observations, level: Float, indices: dict[str, Index], permutations: int, rng: np.random.Generator
) -> dict[str, Float]:
    """Mean of each index over shuffles of the rows that a unit was recorded in, the same for units with the same gaps.

    Every level keeps its number of responses: over all rows, a level would lose all of a unit's now and then.
    """
    sums = {name: np.zeros(seen.values.shape[1]) for name in indices}
    patterns, group = np.unique(np.isfinite(seen.values), axis=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        there, members = np.flatnonzero(patterns[:, number]), np.flatnonzero(group.ravel() == number)
        values, row = np.ascontiguousarray(seen.values[:, members]), seen.row.copy()
        for _ in range(permutations):
            row[there] = rng.permutation(seen.row[there])
            _, mean, _ = level_moments(values, row, seen.levels.size)
            for name, index in indices.items():
                sums[name][members] += index(mean.T, level)
    return {name: total / permutations for name, total in sums.items()}


def repeats(neural: xr.Dataset) -> tuple[Float, NDArray[np.str_]]:
    """(stimulus, repeat, unit) responses, padded with NaN at the end of the repeats, and the ids of the stimuli."""
    checked = NEURAL.check(without_scalars(neural))
    names, row = np.unique(checked["stimulus"].values.astype(str), return_inverse=True)
    order = np.argsort(row, kind="stable")
    counts = np.bincount(row, minlength=names.size)
    repeat = np.empty(row.size, dtype=np.int64)
    repeat[order] = np.arange(row.size) - np.repeat(np.cumsum(counts) - counts, counts)
    values = checked["response"].transpose("trial", "unit").values.astype(np.float64)
    table = np.full((names.size, int(counts.max()), values.shape[1]), np.nan)
    table[row, repeat] = values
    return table, names


def tuning_reliability(neural: xr.Dataset, *, splits: int = 100, seed: int = 0) -> xr.DataArray:
    """Split-half reliability over stimuli of each neuron's mean response (Spearman 1910; Brown 1910).

    Parameters
    ----------
    neural : NEURAL with repeated stimuli.
    splits : random halves of the repeats, averaged before the correction. seed : of the halves.

    Returns
    -------
    DataArray `reliability` (unit): 2r/(1 + r); r <= 0 as it is; NaN with fewer than three repeated stimuli.

    Raises
    ------
    DataError : no stimulus was shown twice.
    """
    table, _ = repeats(neural)
    if table.shape[1] < 2:
        raise DataError(
            "reliability needs repeats; no stimulus was shown twice; give single presentations, not averages"
        )
    found = split_half_reliability(table, splits=splits, rng=np.random.default_rng(seed))
    return xr.DataArray(found, {"unit": neural["unit"].values.astype(str)}, "unit", name="reliability")
