"""How far a correlation over filters can be trusted: its standard error from refits, and a null that is too narrow."""

from __future__ import annotations

import numpy as np
import xarray as xr

from featattn_neuro.arrays.gain_covariance import centred_ranks, spearman_standard_error
from featattn_neuro.arrays.resampling import permutation_p
from featattn_neuro.errors import DataError
from featattn_neuro.measures._join import layers_of, same_ids, without_scalars
from featattn_neuro.measures._tables import paired_layers
from featattn_neuro.measures.gain_selectivity import MIN_LIVE, live_filters
from featattn_neuro.schema import GAINS, SELECTIVITY

ANTICONSERVATIVE = "anticonservative: filters are not independent, so the null is too narrow; not a test of T3"


def gain_covariance_error(refits: xr.Dataset, selectivity: xr.Dataset) -> xr.DataArray:
    """Standard error of ρ(gain, |d'|) of each layer, from how the gains of refits covary over filters.

    Parameters
    ----------
    refits : GAINS, gain(gain_set, [task,] unit): gains refitted to permuted labels, one set per relabelling, three or
        more. They may cover some layers of the selectivity only.
    selectivity : SELECTIVITY of the un-gained network on other stimuli.

    Returns
    -------
    ([task,] layer), >= 0: sqrt(r_s' C_g r_s / tr C_g); NaN with fewer than 8 live filters. It is the SD of ρ about
    wherever its null lies, and no statement about where that is.
    """
    null, measured = GAINS.check(refits), SELECTIVITY.check(without_scalars(selectivity))
    if "gain_set" not in null["gain"].dims:
        raise DataError("the standard error needs refitted gains with a dimension 'gain_set'; came one set of gains")
    if ("task" in null["gain"].dims) != ("task" in measured.dims):
        raise DataError("refits and selectivity must both have tasks or neither; select one task")
    units = null["unit"].values
    missing = sorted({str(u) for u in units} - {str(u) for u in measured["unit"].values})
    if missing:
        raise DataError(
            f"{len(missing)} refitted units have no selectivity (first: {missing[0]!r}); measure those layers"
        )
    measured = measured.sel(unit=units)
    tasks = null["task"].values if "task" in null["gain"].dims else None
    if tasks is not None:
        same_ids(tasks, measured["task"].values, what="task", wanted_name="the refits", came_name="the selectivity")
        measured = measured.sel(task=tasks)
    live = live_filters(measured)
    score = np.atleast_2d(np.abs(measured["dprime"].transpose(..., "unit").values))
    gain = null["gain"].transpose(..., "gain_set", "unit").values
    gain = gain if gain.ndim == 3 else gain[None]
    names = layers_of(null)
    table = np.full((score.shape[0], len(names)), np.nan)
    for column, layer in enumerate(names):
        inside = live & (null["layer"].values.astype(str) == layer)
        if inside.sum() >= MIN_LIVE:
            for row in range(score.shape[0]):
                table[row, column] = float(spearman_standard_error(score[row, inside], gain[row][:, inside]))
    return _labelled(table, names, None if tasks is None else [str(t) for t in tasks])


def filter_permutation(
    gains: xr.Dataset, selectivity: xr.Dataset, *, permutations: int = 999, seed: int = 0
) -> xr.DataArray:
    """p of ρ(gain, |d'|) when gains are permuted over the live filters of a layer: labelled anticonservative.

    Parameters
    ----------
    gains, selectivity : as in `gain_selectivity`. permutations, seed : of the permutation.

    Returns
    -------
    ([task,] layer) in (0, 1]; NaN with fewer than 8 live filters. The attribute `label` says that filters are not
    independent and the p therefore too small; it is shown so that it can be compared with the task-mismatch test.
    """
    pair = paired_layers(gains, selectivity)
    every = layers_of(GAINS.check(without_scalars(gains)))
    rng = np.random.default_rng(seed)
    table = np.full((max(len(pair.tasks), 1), len(every)), np.nan)
    for layer in pair.layers:
        gain, score = centred_ranks(pair.gain[layer]), centred_ranks(pair.score[layer])
        for row in range(len(gain)):
            orders = rng.random((permutations, gain.shape[1])).argsort(axis=1)
            null = gain[row][orders] @ score[row]
            table[row, every.index(layer)] = permutation_p(float(gain[row] @ score[row]), null, centre=0.0)
    return _labelled(table, every, pair.tasks or None).assign_attrs(label=ANTICONSERVATIVE)


def _labelled(table: np.ndarray, layers: list[str], tasks: list[str] | None) -> xr.DataArray:
    if tasks is None:
        return xr.DataArray(table[0], {"layer": layers}, ("layer",))
    return xr.DataArray(table, {"task": tasks, "layer": layers}, ("task", "layer"))
