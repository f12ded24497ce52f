"""How far a correlation over filters can be trusted: its standard error from refits, and a null that is too narrow."""

from __future__ import annotations

import numpy as np
import xarray as xr

from featattn_neuro.arrays.gain_covariance import centred_ranks, spearman_standard_error
from featattn_neuro.arrays.resampling import permutation_p
from featattn_neuro.measures._join import layers_of, without_scalars
from featattn_neuro.measures._tables import paired_layers, paired_refits
from featattn_neuro.measures.gain_selectivity import MIN_LIVE, live_filters
from featattn_neuro.schema import GAINS

ANTICONSERVATIVE = "anticonservative: filters are not independent, so the null is too narrow; not a test of T3"


def gain_covariance_error(refits: xr.Dataset, selectivity: xr.Dataset) -> xr.DataArray:
    """Standard error of ρ(gain, |d'|) of each layer, from how the gains of refits covary over filters.

    Parameters
    ----------
    refits : GAINS, gain(gain_set, [task,] unit): gains refitted to permuted labels, one set per relabelling, three or
        more. They may cover some layers or tasks of the selectivity only.
    selectivity : SELECTIVITY of the un-gained network on other stimuli; one call of a module that runs several times.

    Returns
    -------
    ([task,] layer), >= 0: sqrt(r_s' C_g r_s / tr C_g); NaN with fewer than 8 live filters. It is the SD of ρ about
    wherever its null lies, and no statement about where that is.
    """
    null, measured = paired_refits(refits, selectivity)
    tasks = null["task"].values if "task" in null["gain"].dims else None
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
