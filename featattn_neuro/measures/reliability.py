"""Reliability of our own quantities, and where the refit null lies."""

from __future__ import annotations

import numpy as np
import xarray as xr

from featattn_neuro.arrays.association import atanh_clipped, spearman
from featattn_neuro.errors import DataError
from featattn_neuro.measures._join import aligned, by_filter, layers_of
from featattn_neuro.measures._tables import paired_refits
from featattn_neuro.measures.gain_selectivity import MIN_LIVE, live_filters


def halves_reliability(first: xr.DataArray, second: xr.DataArray, live: xr.DataArray) -> xr.DataArray:
    """Spearman correlation over live filters of a quantity from two disjoint halves of the data, mean over tasks.

    Parameters
    ----------
    first, second : ([task,] unit) with coordinate layer. live : (unit), 0 for filters that are left out; of a recording
        of one call, "layer@call/channel", it joins with gains on the filter.

    Returns
    -------
    (layer,) in [-1, 1]; NaN where fewer than 8 filters are live or a half does not vary. Not stepped up to full length:
    it is the reliability of half the data.
    """
    units = first["unit"].values
    other = _by_unit(second, units, name="the second half", to="the first")
    keep = _by_unit(live, units, name="live", to="the halves").values.astype(bool)
    if "task" in first.dims:
        other = aligned(other, "task", first["task"].values, name="the second half", to="the first")
    names = layers_of(first)
    values = []
    for layer in names:
        inside = keep & (first["layer"].values.astype(str) == layer)
        a, b = (np.atleast_2d(one.transpose(..., "unit").values[..., inside]) for one in (first, other))
        rho = spearman(a, b) if inside.sum() >= MIN_LIVE else np.array([np.nan])
        values.append(float(np.nanmean(rho)) if np.isfinite(rho).any() else np.nan)
    return xr.DataArray(values, {"layer": names}, ("layer",))


def _by_unit(array: xr.DataArray, units: np.ndarray, *, name: str, to: str) -> xr.DataArray:
    """In the order of the units; on the filter where these are no calls."""
    if "unit" in array.coords and set(array["unit"].values.tolist()) != set(units.tolist()):
        array = by_filter(array, name=name)
    return aligned(array, "unit", units, name=name, to=to)


def refit_location(refits: xr.Dataset, selectivity: xr.Dataset) -> xr.DataArray:
    """atanh Spearman of refitted gains with the true |d'|, mean over tasks: where the refit null lies.

    Parameters
    ----------
    refits : GAINS, gain(gain_set, task, unit), one gain set per relabelling; of some layers of the selectivity or all.
    selectivity : SELECTIVITY of the same tasks; one call of a module that runs several times.

    Returns
    -------
    (layer, refit). A diagnostic of location: values away from 0 say that gains and |d'| agree without any task.
    """
    null, measured = paired_refits(refits, selectivity)
    if "task" not in null["gain"].dims:
        raise DataError("the refit null needs refits and selectivity of tasks; came none; give them a dimension 'task'")
    score = abs(measured["dprime"]).transpose("task", "unit").values
    live = measured["live"].values.astype(bool) if "live" in measured else live_filters(measured)
    gain = null["gain"].transpose("gain_set", "task", "unit").values
    names = layers_of(null)
    found = []
    for layer in names:
        inside = live & (null["layer"].values.astype(str) == layer)
        if inside.sum() < MIN_LIVE:
            found.append(np.full(len(gain), np.nan))
            continue
        rho = spearman(gain[..., inside], np.broadcast_to(score[:, inside], gain[..., inside].shape))
        found.append(np.nanmean(atanh_clipped(rho), axis=1))
    return xr.DataArray(np.stack(found), {"layer": names}, ("layer", "refit"))
