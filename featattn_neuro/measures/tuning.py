"""Tuning curves of neurons or filters over a stimulus parameter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.measures._join import aligned, without_scalars
from featattn_neuro.schema import ACTIVATIONS, NEURAL, TUNING

Float = NDArray[np.float64]

TESTS: dict[str, Callable[..., Any]] = {"kruskal": stats.kruskal, "anova": stats.f_oneway}
"""Tests that responses do not depend on the level: Kruskal & Wallis 1952 (ranks), one-way analysis of variance."""

UNIT_COORDINATES = ("area", "subject", "layer", "channel")
"""What tuning keeps of what is known of units."""


@dataclass(frozen=True)
class Observations:
    """Responses with the level of each: what every measure of tuning starts from.

    Parameters
    ----------
    values : (observation, unit), NaN = not recorded. row : (observation,) position of its level in `levels`.
    levels : sorted, numbers or text. coordinates : of the units. parameter : what the levels are called.
    sample : "trial" or "stimulus": what an observation is.
    """

    values: Float
    row: NDArray[np.int64]
    levels: NDArray[Any]
    coordinates: dict[str, tuple[str, NDArray[Any]]]
    parameter: str
    sample: str

    def level_coordinates(self) -> dict[str, Any]:
        """`level`, and `level_name` where levels are names: then `level` counts them."""
        if self.levels.dtype.kind == "U":
            return {"level": np.arange(self.levels.size, dtype=float), "level_name": ("level", self.levels)}
        return {"level": self.levels.astype(np.float64)}


def tuning(
    responses: xr.Dataset,
    *,
    level: xr.DataArray | str | None = None,
    confidence: float = 0.95,
    test: str = "kruskal",
) -> xr.Dataset:
    """Mean response of each unit at each value of a stimulus parameter, with intervals, and whether it is tuned at all.

    Parameters
    ----------
    responses : NEURAL, or ACTIVATIONS (one reduction).
    level : name of a coordinate of the trials or stimuli ("level", "orientation", "label", "condition", …), numbers or
        text; or a DataArray over `stimulus` with the value of each, matched by id. None = "level". A NaN level (or an
        empty name) leaves the trial or stimulus out (a blank). All other parameters are averaged over: select
        responses first to hold them fixed.
    confidence : of the intervals, between 0 and 1.
    test : "kruskal" or "anova": that the response does not depend on the level; "none" = no `p_selective`.

    Returns
    -------
    TUNING: `curve` (unit, level) in the units of the responses; `sem` (SD with ddof 1 over the square root of n; NaN
    below two); `low`, `high` (mean ± Student's t times sem; NaN where all responses at the level are equal);
    `n_trials`; `p_selective` of the test, over all trials (or stimuli), NaN unless status is "ok" and some level has
    two; and `status`: "too_few" with responses at fewer than two levels, "dead" if all are 0, "constant" if all are
    equal. Levels rise; a unit without response at a level is NaN there with n_trials 0. Where levels are names, `level`
    counts them in sorted order and `level_name` holds them. In filters of a deterministic network the samples are
    stimuli (phases, images of a class), not repeats: intervals and p say how the mean varies over those.

    Raises
    ------
    DataError : no levels, fewer than two, ids that differ. ConfigError : unknown test or confidence out of range.

    >>> import xarray as xr
    >>> trials = {"trial": [0, 1, 2], "stimulus": ("trial", ["x", "x", "y"]), "level": ("trial", [0.0, 0.0, 1.0])}
    >>> spikes = xr.Dataset({"response": (("trial", "unit"), [[1.0], [3.0], [7.0]])}, trials | {"unit": ["V1/0"]})
    >>> found = tuning(spikes)
    >>> found.curve.values.tolist(), found.n_trials.values.tolist()
    ([[2.0, 7.0]], [[2, 1]])
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"wanted a confidence between 0 and 1; came {confidence}; 0.95 is usual")
    choose(test, [*TESTS, "none"], "test of selectivity")
    seen = observations(responses, level)
    counts, mean, squares = level_moments(seen.values, seen.row, seen.levels.size)
    with np.errstate(divide="ignore", invalid="ignore"):
        sem = np.where(counts > 1, np.sqrt(squares / (counts - 1) / counts), np.nan)
        # equal responses at a level have no spread to make an interval of: one of no width would be false
        spread = np.where(sem > 0, sem, np.nan)
        half = spread * stats.t.ppf((1 + confidence) / 2, np.where(counts > 1, counts - 1, np.nan))
    status = [unit_status(seen.values[:, k], counts[:, k]) for k in range(seen.values.shape[1])]
    curves: dict[str, Any] = {
        "curve": (("unit", "level"), mean.T),
        "sem": (("unit", "level"), sem.T),
        "low": (("unit", "level"), (mean - half).T),
        "high": (("unit", "level"), (mean + half).T),
        "n_trials": (("unit", "level"), counts.T.astype(np.int64)),
        "status": ("unit", status),
    }
    if test != "none":
        curves["p_selective"] = ("unit", _selective(seen, counts, np.array(status) == "ok", TESTS[test]))
    attrs = {
        "kind": "TUNING", "parameter": seen.parameter, "sample": seen.sample, "selectivity_test": test,
        "confidence": float(confidence), "units": str(responses.attrs.get("units", "")),
    }  # fmt: skip
    return TUNING.check(xr.Dataset(curves, {**seen.level_coordinates(), **seen.coordinates}, attrs))


def level_moments(values: Float, row: NDArray[np.int64], count: int) -> tuple[Float, Float, Float]:
    """(level, unit) number of responses, their mean (NaN without any), and sum of squared deviations from it."""
    there = np.isfinite(values)
    order = np.argsort(row, kind="stable")
    starts = np.searchsorted(row[order], np.arange(count))  # every level has rows: levels are made from them
    counts = np.add.reduceat(there[order].astype(np.float64), starts, axis=0)
    sums = np.add.reduceat(np.where(there, values, 0.0)[order], starts, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(counts > 0, sums / counts, np.nan)
    deviations = np.where(there, values - mean[row], 0.0)
    return counts, mean, np.add.reduceat(deviations[order] ** 2, starts, axis=0)


def observations(responses: xr.Dataset, level: xr.DataArray | str | None) -> Observations:
    """Responses and their levels, checked, without those that have no level."""
    given = without_scalars(responses)
    neural = isinstance(given, xr.Dataset) and "trial" in given.dims
    checked = NEURAL.check(given) if neural else ACTIVATIONS.check(given)
    if "reduction" in checked["response"].dims:
        raise DataError("the activations hold several reductions; wanted one; select it first, .sel(reduction=…)")
    sample = "trial" if neural else "stimulus"
    values, parameter = _levels(checked, level, sample)
    text = values.dtype.kind in "UOT"
    values = values.astype(str) if text else values.astype(np.float64)
    keep = values != "" if text else np.isfinite(values)
    levels, row = np.unique(values[keep], return_inverse=True)
    if levels.size < 2:
        raise DataError(f"a tuning curve needs two levels or more; came {levels.size}; give the level of each stimulus")
    names = [name for name in ("unit", *UNIT_COORDINATES) if name in checked.coords]
    response = checked["response"].transpose(sample, "unit").values.astype(np.float64)
    coordinates = {name: ("unit", checked[name].values) for name in names}
    return Observations(response[keep], row.astype(np.int64), levels, coordinates, parameter, sample)


def _levels(checked: xr.Dataset, level: xr.DataArray | str | None, sample: str) -> tuple[NDArray[Any], str]:
    if isinstance(level, xr.DataArray):
        shown = np.unique(checked["stimulus"].values)
        ordered = aligned(level, "stimulus", shown, name="the levels", to="the responses")
        return ordered.sel(stimulus=checked["stimulus"].values).values, str(level.name or "level")
    if level is None and "level" not in checked.coords:
        raise DataError(
            "a tuning curve needs the level of each stimulus; the responses have no coordinate 'level'; "
            f"pass level: the name of another ({', '.join(_known(checked, sample))}), or a DataArray over 'stimulus'"
        )
    name = choose(level or "level", _known(checked, sample), f"coordinate of the {sample}s")
    return checked[name].values, name


def _known(checked: xr.Dataset, sample: str) -> list[str]:
    return [str(name) for name, one in checked.coords.items() if one.dims == (sample,) and name != "trial"]


def unit_status(values: Float, counts: Float) -> str:
    """Why the tuning of a unit is undefined, or "ok"; `counts` are its responses per level."""
    seen = values[np.isfinite(values)]
    if (counts > 0).sum() < 2:
        return "too_few"
    if (seen == 0).all():
        return "dead"
    return "constant" if np.ptp(seen) == 0 else "ok"


def _selective(seen: Observations, counts: Float, usable: NDArray[np.bool_], test: Callable[..., Any]) -> Float:
    """(unit,) p that the response does not depend on the level; units with the same gaps are tested together."""
    result = np.full(seen.values.shape[1], np.nan)
    units = np.flatnonzero(usable & (counts.max(axis=0) > 1))
    if not units.size:
        return result
    patterns, group = np.unique(np.isfinite(seen.values[:, units]), axis=1, return_inverse=True)
    for index in range(patterns.shape[1]):
        there, members = patterns[:, index], units[group.ravel() == index]
        order = np.argsort(seen.row[there], kind="stable")
        edges = np.flatnonzero(np.diff(seen.row[there][order])) + 1
        samples = np.split(seen.values[np.ix_(np.flatnonzero(there)[order], members)], edges)
        # a constant group warns and is handled: the statistic is still defined where the groups together vary
        with np.errstate(divide="ignore", invalid="ignore"):
            result[members] = test(*samples, axis=0).pvalue
    return result
