"""Reliability of our own quantities, and where the refit null lies."""

from __future__ import annotations

import numpy as np
import xarray as xr

from featattn_neuro.arrays.association import atanh_clipped, spearman
from featattn_neuro.errors import DataError
from featattn_neuro.measures._join import aligned, layers_of
from featattn_neuro.measures.gain_selectivity import MIN_LIVE
from featattn_neuro.schema import GAINS, SELECTIVITY


def halves_reliability(first: xr.DataArray, second: xr.DataArray, live: xr.DataArray) -> xr.DataArray:
    """Spearman correlation over live filters of a quantity from two disjoint halves of the data, mean over tasks.

    Parameters
    ----------
    first, second : ([task,] unit) with coordinate layer. live : (unit), 0 for filters that are left out.

    Returns
    -------
    (layer,) in [-1, 1]; NaN where fewer than 8 filters are live or a half does not vary. Not stepped up to full length:
    it is the reliability of half the data.
    """
    units = first["unit"].values
    other = aligned(second, "unit", units, name="the second half", to="the first")
    keep = aligned(live, "unit", units, name="live", to="the halves").values.astype(bool)
    if "task" in first.dims:
        other = aligned(other, "task", first["task"].values, name="the second half", to="the first")
    names = layers_of(first.to_dataset(name="value"))
    values = []
    for layer in names:
        inside = keep & (first["layer"].values.astype(str) == layer)
        a, b = (np.atleast_2d(one.transpose(..., "unit").values[..., inside]) for one in (first, other))
        rho = spearman(a, b) if inside.sum() >= MIN_LIVE else np.array([np.nan])
        values.append(float(np.nanmean(rho)) if np.isfinite(rho).any() else np.nan)
    return xr.DataArray(values, {"layer": names}, ("layer",))


def refit_location(refits: xr.Dataset, selectivity: xr.Dataset) -> xr.DataArray:
    """atanh Spearman of refitted gains with the true |d'|, mean over tasks: where the refit null lies.

    Parameters
    ----------
    refits : GAINS, gain(gain_set, task, unit), one gain set per relabelling. selectivity : SELECTIVITY.

    Returns
    -------
    (layer, refit). A diagnostic of location: values away from 0 say that gains and |d'| agree without any task.
    """
    null, measured = GAINS.check(refits), SELECTIVITY.check(selectivity)
    if "gain_set" not in null["gain"].dims:
        raise DataError("the refit null needs gains with a dimension 'gain_set', one for each relabelling")
    units, tasks = null["unit"].values, null["task"].values
    score = abs(measured["dprime"]).sel(unit=units, task=tasks).transpose("task", "unit").values
    live = measured["live"].sel(unit=units).values.astype(bool)
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
