"""What is wrong with a recording: times that cannot be seconds, trials outside it, codes among values, ids twice.

What makes numbers meaningless is a `DataError`. What a reader can live with is said: in a `NeuralDataWarning` and in
the
attribute `found` of the Dataset.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featattn_neuro.errors import DataError

Float = NDArray[np.float64]

CODES = (98.0, 99.0, 998.0, 999.0, 9998.0, 9999.0, 99999.0, 1000.0, 10000.0)
"""Absolute values that laboratories use for "no value"."""

CODED = ("stimulus", "level")
"""Coordinates whose codes need not be said by name: 0 may be a blank among these, and is an orientation or a phase."""

HIGHEST_RATE = 1000.0
"""Spikes per second that no neuron sustains: its refractory period is about 1 ms."""

UNEQUAL_SPANS = 500.0
"""Spikes or trials that last this many times longer than the other are in other units: ms are 1,000 times seconds."""

BEYOND_END = 100.0
"""A last spike so many times later than the recording's end is in other units; one a little later is said."""

LONGEST_TRIAL = 3600.0
"""Seconds; a median trial that lasts longer is none."""


class NeuralDataWarning(UserWarning):
    """Something in a recording that its user should know; the numbers are still what they say."""


def say(found: Sequence[str], *, where: str) -> dict[str, str]:
    """Warn of each finding, and give them as the attribute `found` (nothing where there are none).

    >>> say([], where="a.nwb")
    {}
    """
    for one in found:
        warnings.warn(f"{where}: {one}", NeuralDataWarning, stacklevel=3)
    return {"found": "; ".join(found)} if found else {}


def check_unit_ids(ids: ArrayLike, *, where: str) -> None:
    """`DataError` that names the first id of a unit that comes twice.

    >>> check_unit_ids(["a", "b", "a"], where="t.csv")
    Traceback (most recent call last):
    featattn_neuro.errors.DataError: unit ids of t.csv must be unique; 'a' comes 2 times (1 of 2 ids do); rename them
    """
    names, counts = np.unique(np.asarray(ids).astype(str), return_counts=True)
    if (counts > 1).any():
        first = np.flatnonzero(counts > 1)[0]
        raise DataError(
            f"unit ids of {where} must be unique; {str(names[first])!r} comes {counts[first]} times "
            f"({int((counts > 1).sum())} of {names.size} ids do); rename them"
        )


def suspected_codes(values: ArrayLike) -> list[float]:
    """Distinct values that look like codes for "no value" among the values of a stimulus parameter.

    A value is suspected if it is more than 10 times as far from 0 as all the others and is one of `CODES` (or at least
    100 and more than 20 times as far); if it is minus one of `CODES` where all others are not negative; or if it is −1
    where the others are five whole numbers or more, none negative.

    >>> suspected_codes([-1.6, 0.0, 0.4, 99.0, -9999.0])
    [-9999.0, 99.0]
    >>> suspected_codes([0.0, 45.0, 90.0, 135.0, -1.0, 180.0])
    [-1.0]
    >>> suspected_codes([-1.0, 0.0, 1.0]), suspected_codes([0.0, 90.0, 180.0, 270.0])
    ([], [])
    """
    numbers = np.asarray(values, dtype=np.float64)
    rest = sorted(np.unique(numbers[np.isfinite(numbers)]).tolist(), key=abs)
    codes: list[float] = []
    while len(rest) > 1:  # the farthest first: a code may hide behind a larger one
        far, others = rest[-1], np.array(rest[:-1])
        scale = np.abs([one for one in others if abs(one) not in CODES] or others).max()
        is_code = abs(far) in CODES
        beyond = (is_code and abs(far) > 10 * scale) or (abs(far) >= 100 and abs(far) > 20 * scale)
        negative = is_code and far < 0 and bool((others[np.abs(others) < 98] >= 0).all()) and (others >= 0).any()
        if not (beyond or negative):
            break
        codes.append(rest.pop())
    others = np.array([one for one in rest if one != -1.0])
    if -1.0 in rest and others.size >= 5 and (others >= 0).all() and (others == np.round(others)).all():
        codes.append(-1.0)
    return sorted(codes)


def check_codes(
    values: Float, sentinels: Sequence[float] | None, *, name: str, where: str, coordinate: str = "stimulus"
) -> NDArray[np.bool_]:
    """Which values are codes: those that the caller named; `DataError` where it named none and some look like codes.

    Parameters
    ----------
    values : numbers of one column. sentinels : its codes, None = nothing was said. name, where : of the column, for
        messages. coordinate : what the column becomes; codes of other coordinates than `CODED` are said by name.
    """
    if sentinels is not None:
        return np.isin(values, np.asarray(sentinels, dtype=np.float64))
    suspected = suspected_codes(values)
    if suspected:
        shown = ", ".join(f"{one:g} ({int((values == one).sum())} trials)" for one in suspected)
        listed = ", ".join(f"{one:g}" for one in suspected)
        rest = values[np.isfinite(values) & ~np.isin(values, suspected)]
        said = "{}" if coordinate in CODED else f"{{{{{coordinate!r}: {{}}}}}}"
        raise DataError(
            f"column {name!r} of {where} holds what look like codes, no values: {shown}, the others lie in "
            f"[{rest.min():g}, {rest.max():g}]; pass sentinels={said.format(f'({listed},)')} to leave those trials "
            f"out, or sentinels={said.format('()')} to keep them as values"
        )
    return np.zeros(values.shape, dtype=bool)


def check_times(
    spikes: Sequence[Float], start: Float, stop: Float, *, end: float | None = None, where: str
) -> list[str]:
    """Raise `DataError` where spike or trial times cannot be seconds on one clock; return what else should be said.

    Parameters
    ----------
    spikes : times of each unit's spikes. start, stop : of the trials. end : when the recording ended, if it is known.

    Raises
    ------
    DataError : no spikes; times that are not finite; spike times that are all whole numbers; a unit with more than
    `HIGHEST_RATE` spikes per second; spikes `BEYOND_END` times later than the recording's end; spikes and trials whose
    spans differ `UNEQUAL_SPANS`-fold; trials that end before they start or last longer than `LONGEST_TRIAL`; half of
    the trials or more outside the time from the first to the last spike.
    """
    every = (
        np.concatenate([np.asarray(one, dtype=np.float64).ravel() for one in spikes]) if len(spikes) else np.empty(0)
    )
    if not every.size:
        raise DataError(f"{where} has no spikes; wanted spike times of at least one unit; check the file")
    for name, times in (("spike", every), ("trial", np.concatenate([start, stop]))):
        if not np.isfinite(times).all():
            advice = ", or pass window=(start, stop) in ms if only ends are missing" if name == "trial" else ""
            raise DataError(
                f"{name} times of {where} must be finite; {int((~np.isfinite(times)).sum())} are not; mend them{advice}"
            )
    found = _check_spikes(spikes, every, end, where)
    _check_trials(start, stop, where)
    first, last = float(every.min()), float(every.max())
    spans = {"spikes": last - first, "trials": float(stop.max() - start.min())}
    longer, shorter = sorted(spans, key=lambda name: -spans[name])
    if start.size >= 10 and spans[longer] > UNEQUAL_SPANS * spans[shorter]:
        raise DataError(
            f"times of {where} cannot all be seconds: {longer} span {spans[longer]:g}, {shorter} {spans[shorter]:g}; "
            f"divide the times of the {longer} by {_factor(spans[longer] / spans[shorter])}"
        )
    outside = (stop <= first) | (start >= last)
    if outside.mean() >= 0.5:
        raise DataError(
            f"{int(outside.sum())} of {outside.size} trials of {where} lie outside the recording: trials from "
            f"{start.min():g} to {stop.max():g} s, spikes from {first:g} to {last:g} s; bring both to one clock, "
            "in seconds"
        )
    if outside.any():
        found.append(f"{int(outside.sum())} trials lie before the first or after the last spike")
    return found


def _check_spikes(spikes: Sequence[Float], every: Float, end: float | None, where: str) -> list[str]:
    if every.size >= 50 and (every == np.round(every)).all():
        raise DataError(
            f"spike times of {where} cannot be seconds: all {every.size} are whole numbers, up to "
            f"{every.max():g}; they "
            "look like samples or milliseconds: divide by the sampling rate, or by 1000"
        )
    for number, times in enumerate(spikes):
        span = float(times.max() - times.min()) if len(times) >= 20 else 0.0
        if span > 0 and (len(times) - 1) / span > HIGHEST_RATE:
            raise DataError(
                f"spike times of {where} cannot be seconds: unit {number} would fire {(len(times) - 1) / span:.0f} "
                "times per second; multiply the times to make them seconds"
            )
    # the last sample's time may lie a little past a rounded end
    if end is None or every.max() <= end + 1.0:
        return []
    last, beyond = float(every.max()), f"{int((every > end + 1.0).sum())} of {every.size} spikes"
    if last > BEYOND_END * end:
        raise DataError(
            f"{beyond} of {where} lie beyond the recording: the last at {last:g} s, the recording ends at {end:g} s; "
            "the spike times cannot be seconds on its clock: divide them by "
            f"{_factor(last / end) if end > 0 else 'the sampling rate'}, or correct the end"
        )
    return [f"{beyond} lie after {end:g} s, where the recording ends as the file says; the last at {last:g} s"]


def _check_trials(start: Float, stop: Float, where: str) -> None:
    if not start.size:
        raise DataError(f"the table of trials of {where} is empty; wanted at least one trial; check the file")
    if (stop < start).any():
        row = int(np.flatnonzero(stop < start)[0])
        raise DataError(
            f"trial {row} of {where} ends before it starts ({start[row]:g} to {stop[row]:g} s); correct the times"
        )
    if np.median(stop - start) > LONGEST_TRIAL:
        raise DataError(
            f"trial times of {where} cannot be seconds: the median trial would last {np.median(stop - start):g} "
            "s; they "
            "look like milliseconds or samples: divide by 1000, or by the sampling rate"
        )


def _factor(ratio: float) -> str:
    """What times were multiplied with, in words."""
    if 300 < ratio < 3000:
        return "1000 (they look like milliseconds)"
    return "the sampling rate (they look like samples)" if ratio >= 3000 else "what makes them seconds"


def check_padding(response: NDArray[np.floating], dims: Sequence[str], *, where: str) -> list[str]:
    """What NaN says about an array of repeats: padding at the end, gaps between, or a unit that was never recorded.

    Parameters
    ----------
    response : array. dims : names of its axes, "repeat" among them.

    Raises
    ------
    DataError : nothing but NaN.
    """
    absent = np.isnan(response)
    if absent.all():
        raise DataError(f"{where} holds nothing but NaN; choose another array")
    if not absent.any() or "repeat" not in dims:
        return []
    ordered = np.moveaxis(absent, list(dims).index("repeat"), -1)
    counts = (~ordered).sum(axis=-1)
    padded = np.arange(ordered.shape[-1]) >= counts[..., None]
    found = [
        f"{int(absent.sum())} of {absent.size} repeats are NaN: "
        f"between {counts.min()} and {counts.max()} repeats were recorded, not {ordered.shape[-1]}"
    ]
    if (ordered != padded).any():
        found.append("some NaN lie between recorded repeats, so they are gaps, no padding")
    return found
