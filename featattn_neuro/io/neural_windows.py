"""Spikes in windows: times in seconds, windows in milliseconds after an event, the first end included, the last not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.io.neural_checks import check_times, check_unit_ids, say
from featattn_neuro.io.neural_columns import NeuralOptions, trial_coordinates, unit_coordinates
from featattn_neuro.schema import NEURAL

Float = NDArray[np.float64]

SHORTEST_WINDOW = 2.0
"""Milliseconds; a shorter window was most likely given in seconds."""

TOUCHING = 1e-6
"""Seconds between two observed intervals below which nothing was left unobserved: less than a sample."""

_TIMES = ("start_time", "stop_time", "id", "tags", "timeseries")


@dataclass(frozen=True)
class SpikeRecording:
    """Spike times and trials of one session, as any format gives them.

    Parameters
    ----------
    times : seconds, of each unit's spikes. units : one row per unit (column unit or index = id).
    trials : one row per trial, columns start_time and stop_time (s) and whatever else is known.
    observed : (intervals, 2) seconds in which each unit was observed, or None: always.
    end : when the recording ended, s, if the file says it. name : how messages name the source.
    attrs : text and numbers to pass on.
    """

    times: Sequence[Float]
    units: pd.DataFrame
    trials: pd.DataFrame
    name: str
    observed: Sequence[Float | None] | None = None
    end: float | None = None
    attrs: dict[str, str | int | float] | None = None


def count_spikes(times: Sequence[ArrayLike], start: ArrayLike, stop: ArrayLike) -> Float:
    """(trial, unit) number of spikes with start <= time < stop.

    >>> count_spikes([[0.1, 0.2, 0.3]], [0.1, 0.25], [0.3, 0.35]).tolist()
    [[2.0], [1.0]]
    """
    counts = np.empty((np.size(start), len(times)))
    for column, one in enumerate(times):
        ordered = np.sort(np.asarray(one, dtype=np.float64))
        counts[:, column] = np.searchsorted(ordered, stop) - np.searchsorted(ordered, start)
    return counts


def check_window(window: tuple[float, float], name: str) -> tuple[float, float]:
    """The window as two finite numbers, the first smaller; `ConfigError` if not, or if it looks like seconds."""
    try:
        start, stop = (float(end) for end in window)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"wanted {name} as (start, stop) in ms after the event; came {window!r}; give two numbers"
        ) from error
    if not (np.isfinite(start) and np.isfinite(stop) and start < stop):
        raise ConfigError(
            f"wanted {name} as (start, stop) in ms, start before stop; came ({start:g}, {stop:g}); change it"
        )
    if stop - start < SHORTEST_WINDOW:
        raise ConfigError(
            f"{name} is in milliseconds; ({start:g}, {stop:g}) is {stop - start:g} ms long; "
            f"if seconds were meant, pass ({1000 * start:g}, {1000 * stop:g})"
        )
    return start, stop


def window_text(window: tuple[float, float] | None, event: str) -> str:
    """The window in words, for the attribute that records it.

    >>> window_text((100, 500), "start_time"), window_text(None, "start_time")
    ('100 to 500 ms after start_time', 'start_time to stop_time')
    """
    return f"{event} to stop_time" if window is None else f"{window[0]:g} to {window[1]:g} ms after {event}"


def spikes_to_neural(recording: SpikeRecording, options: NeuralOptions) -> xr.Dataset:
    """NEURAL of spike counts or rates in a window of each trial, baseline subtracted where it is asked for."""
    where = recording.name
    units = unit_coordinates(recording.units, options, where=where)
    check_unit_ids(units["unit"], where=where)
    event = choose(options.event or "start_time", _events(recording.trials), f"event of the trials of {where}")
    kept, trials, found = trial_coordinates(recording.trials, options, where=where, skip=_TIMES)
    onset, stop = (recording.trials[name].to_numpy(dtype=np.float64) for name in (event, "stop_time"))
    without = kept & np.isnan(onset)
    if without.any():
        found.append(f"{int(without.sum())} trials without {event} were left out")
        trials = {name: values[~without[kept]] for name, values in trials.items()}
        kept &= ~without
    starts = recording.trials["start_time"].to_numpy(dtype=np.float64)[kept]
    # with a window, no end of a trial is used: those that are missing are no fault
    ends = stop[kept] if options.window is None else np.where(np.isnan(stop[kept]), starts, stop[kept])
    found += check_times(recording.times, starts, ends, end=recording.end, where=where)
    onset, stop = onset[kept], stop[kept]
    response, duration = _responses(recording, onset, stop, options, found)
    coordinates: dict[str, Any] = {
        "trial": np.flatnonzero(kept),
        "unit": units.pop("unit"),
        **{name: ("trial", values) for name, values in trials.items()},
        **{name: ("unit", values) for name, values in units.items()},
        "onset": ("trial", onset),
        "duration": ("trial", duration),
    }
    attrs = {
        "kind": "NEURAL",
        "units": options.response_units or "spikes",
        "window": window_text(options.window, event),
        "baseline": "none" if options.baseline is None else window_text(options.baseline, event) + ", subtracted",
        "simultaneous": 1,
        **(recording.attrs or {}),
        **say(found, where=where),
    }
    return NEURAL.check(xr.Dataset({"response": (("trial", "unit"), response)}, coordinates, attrs))


def _responses(
    recording: SpikeRecording, onset: Float, stop: Float, options: NeuralOptions, found: list[str]
) -> tuple[Float, Float]:
    """(trial, unit) responses and (trial,) lengths of the windows in s."""
    rates = (options.response_units or "spikes") == "spikes/s"
    if options.window is None:
        low, high = onset, stop
        lengths = high - low
        if (lengths <= 0).any():
            raise DataError(f"some trials of {recording.name} end before the event; pass window=(start, stop) in ms")
        if not rates and np.ptp(lengths) > 0.001:
            raise DataError(
                f"trials of {recording.name} last from {lengths.min():g} to {lengths.max():g} s, so their spike counts "
                "cannot be compared; pass window=(start, stop) in ms after the event, or response_units='spikes/s'"
            )
    else:
        window = check_window(options.window, "window")
        low, high = onset + window[0] / 1000, onset + window[1] / 1000
        lengths = np.full(onset.size, (window[1] - window[0]) / 1000)
    response = count_spikes(recording.times, low, high)
    seen = _observed(recording, low, high)
    response = response / lengths[:, None] if rates else response
    if options.baseline is not None:
        before = check_window(options.baseline, "baseline")
        start, end = onset + before[0] / 1000, onset + before[1] / 1000
        rate = count_spikes(recording.times, start, end) / ((before[1] - before[0]) / 1000)
        response = response - (rate if rates else rate * lengths[:, None])
        seen &= _observed(recording, start, end)
    if not seen.all():
        found.append(
            f"{int((~seen).sum())} responses are NaN: the window lies outside the time in which the unit was observed"
        )
    return np.where(seen, response, np.nan), lengths


def _observed(recording: SpikeRecording, low: Float, high: Float) -> NDArray[np.bool_]:
    """(trial, unit) whether the unit was observed during the whole window."""
    seen = np.ones((low.size, len(recording.times)), dtype=bool)
    for column, intervals in enumerate(recording.observed or []):
        if intervals is not None and np.size(intervals):
            pairs = _joined(np.asarray(intervals, dtype=np.float64).reshape(-1, 2))
            inside = (low[:, None] >= pairs[:, 0] - 1e-9) & (high[:, None] <= pairs[:, 1] + 1e-9)
            seen[:, column] = inside.any(axis=1)
    return seen


def _joined(pairs: Float) -> Float:
    """Intervals (interval, 2), those that touch or overlap made one."""
    ordered = pairs[np.argsort(pairs[:, 0], kind="stable")]
    reach = np.maximum.accumulate(ordered[:, 1])
    first = np.flatnonzero(np.r_[True, ordered[1:, 0] > reach[:-1] + TOUCHING])
    return np.stack([ordered[first, 0], reach[np.r_[first[1:] - 1, -1]]], axis=1)


def _events(trials: pd.DataFrame) -> list[str]:
    """Columns that hold a time: numbers, called …_time or …time."""
    return [
        str(name)
        for name in trials.columns
        if pd.api.types.is_numeric_dtype(trials[name])
        and (str(name).endswith("time") or str(name).endswith(("_on", "onset")))
    ]
