"""Back from rates to spike counts, whose variance is known, where the recording says what it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

RATES = ("spikes/s", "Hz")
NOTHING_SUBTRACTED = ("none", "as in the table", "as in the file")
"""What recordings say of a baseline that nobody said was subtracted."""


def spike_counts(neural: xr.Dataset) -> xr.Dataset:
    """Rates times the window they were counted in, where that gives whole numbers; else what was given.

    Parameters
    ----------
    neural : NEURAL in spikes/s, with the coordinate `duration` over trials (s), the same in all, and no baseline
        subtracted. Windows that differ would make differences of counts out of none of rates.

    Returns
    -------
    NEURAL in spikes, its attribute `counts_from` saying so; or `neural` itself.

    >>> trials = {"trial": [0, 1], "stimulus": ("trial", ["x", "y"]), "duration": ("trial", [0.2, 0.2])}
    >>> rates = xr.Dataset({"response": (("trial", "unit"), [[15.0], [40.0]])}, trials | {"unit": ["V4/0"]})
    >>> spike_counts(rates.assign_attrs(units="spikes/s")).response.values.ravel().tolist()
    [3.0, 8.0]
    """
    window = _window(neural)
    if window is None:
        return neural
    counts = neural["response"].values * window
    whole = np.round(counts)
    seen = np.isfinite(counts)
    if not ((np.abs(counts[seen] - whole[seen]) <= 1e-6).all() and (whole[seen] >= 0).all()):
        return neural
    note = f"rates in {neural.attrs['units']} times the window of {window:g} s"
    return neural.assign(response=neural["response"].copy(data=whole)).assign_attrs(units="spikes", counts_from=note)


def in_counts(first: Any, second: Any) -> tuple[Any, Any]:
    """Both recordings in counts, if both can be and have one window; else both as they are."""
    given = [one for one in (first, second) if one is not None]
    if len({_window(one) for one in given}) > 1:
        return first, second
    found = [spike_counts(one) for one in given]
    if any(new is old for new, old in zip(found, given, strict=True)):
        return first, second
    return found[0], found[1] if len(found) > 1 else None


def _window(neural: Any) -> float | None:
    """The window of every trial, s; None where there is no one window, or nothing to undo."""
    if not isinstance(neural, xr.Dataset) or "duration" not in neural.coords or "response" not in neural:
        return None
    plain = neural.attrs.get("units") in RATES and neural.attrs.get("baseline", "none") in NOTHING_SUBTRACTED
    window = np.atleast_1d(neural["duration"].values).astype(np.float64)
    if not plain or not window.size or not np.isfinite(window).all() or window.min() <= 0:
        return None
    return round(float(window[0]), 9) if np.ptp(window) <= 1e-9 else None
