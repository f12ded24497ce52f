"""The rival explanation: do gains follow the weights of the best linear read-out rather than |d'|? Head to head."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from featattn_neuro.arrays.gain_covariance import centred_ranks
from featattn_neuro.arrays.linear_discriminant import fisher_weights
from featattn_neuro.arrays.resampling import t_interval, t_test
from featattn_neuro.errors import DataError
from featattn_neuro.measures._join import aligned, by_filter, layers_of, source_ids
from featattn_neuro.measures._tables import PairedLayers, paired_layers
from featattn_neuro.measures.selectivity import checked_activations, resolve_target, single_reduction

PREDICTORS = ("dprime", "fisher", "both")


def fisher_selectivity(activations: xr.Dataset, target: object) -> xr.DataArray:
    """Size of each filter's weight in the best linear read-out of its layer, in SDs of its response.

    Parameters
    ----------
    activations : ACTIVATIONS of the un-gained network, the same held-out stimuli as `selectivity`.
    target : as in `selectivity`.

    Returns
    -------
    ([task,] unit) |w_k| · SD within classes of filter k, w = Σ⁻¹ Δμ with a shrunken Σ over the filters of the layer; no
    units. Attribute `selection_source_count` counts the source stimuli.

    Notes
    -----
    Fisher 1936; Ledoit & Wolf 2004.
    """
    recorded = single_reduction(checked_activations(activations))
    wanted = resolve_target(recorded, target)  # type: ignore[arg-type]
    responses = recorded["response"].transpose("unit", "stimulus").values.astype(np.float64)
    layer = recorded["layer"].values.astype(str)
    chosen = np.atleast_2d(wanted.values)
    table = np.full((len(chosen), len(layer)), np.nan)
    for row, task in enumerate(chosen):
        spread = np.sqrt((responses[:, task].var(axis=1, ddof=1) + responses[:, ~task].var(axis=1, ddof=1)) / 2)
        for name in layers_of(recorded):
            inside = layer == name
            table[row, inside] = np.abs(fisher_weights(responses[inside], task)) * spread[inside]
    names = [n for n in ("unit", "layer", "channel", "call") if n in recorded.coords]
    coordinates = {n: recorded[n] for n in names}
    counts = {"selection_source_count": int(source_ids(recorded).size)}
    if wanted.ndim == 1:
        return xr.DataArray(table[0], coordinates, ("unit",), name="fisher", attrs=counts)
    return xr.DataArray(table, {**coordinates, "task": wanted["task"]}, ("task", "unit"), name="fisher", attrs=counts)


def head_to_head(gains: xr.Dataset, selectivity: xr.Dataset, fisher: xr.DataArray) -> xr.Dataset:
    """How well |d'|, Fisher weights, or both predict the gains of a task whose gains were not used for the fit.

    Parameters
    ----------
    gains : GAINS with two tasks or more (one arm). selectivity : SELECTIVITY. fisher : of `fisher_selectivity`; the
        same units and tasks, any order.

    Returns
    -------
    Dataset: `r2` (predictor, task, layer), 1 - Σ(y - ŷ)²/Σy² of the gain ranks of the held-out task, at most 1, below 0
    where the prediction is worse than none; `difference` (task, layer), |d'| minus Fisher. The line is fitted to the
    ranks of the other tasks in the same layer. Layers with fewer than 8 live filters are left out.
    """
    pair = paired_layers(gains, selectivity)
    if len(pair.tasks) < 2:
        raise DataError("head to head needs the gains of two tasks or more: one is predicted from the others")
    rival = _rival(fisher, pair, gains)
    table = np.full((len(PREDICTORS), len(pair.tasks), len(pair.layers)), np.nan)
    for column, layer in enumerate(pair.layers):
        y = centred_ranks(pair.gain[layer])
        x = {"dprime": centred_ranks(pair.score[layer])[..., None], "fisher": centred_ranks(rival[layer])[..., None]}
        x["both"] = np.concatenate([x["dprime"], x["fisher"]], axis=-1)
        for row, name in enumerate(PREDICTORS):
            table[row, :, column] = _held_out(y, x[name])
    coordinates = {"predictor": list(PREDICTORS), "task": pair.tasks, "layer": pair.layers}
    result = xr.Dataset({"r2": (("predictor", "task", "layer"), table)}, coordinates)
    result["difference"] = result["r2"].sel(predictor="dprime", drop=True) - result["r2"].sel(
        predictor="fisher", drop=True
    )
    return result


def compare_rivals(found: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Mean over tasks and layers in each network, then Student's t over networks.

    Parameters
    ----------
    found : network → result of `head_to_head`.

    Returns
    -------
    DataFrame, rows "dprime", "fisher", "both" (cross-validated R²) and "dprime - fisher": `estimate`, `ci_low`,
    `ci_high`, `p` (NaN for an R², which is not tested against 0), `n_networks`.
    """
    rows = []
    for name in (*PREDICTORS, "dprime - fisher"):
        values = [
            float((one["difference"] if name not in PREDICTORS else one["r2"].sel(predictor=name)).mean())
            for one in found.values()
        ]
        low, high = t_interval(values)
        finite = np.array(values)[np.isfinite(values)]
        rows.append(
            {
                "quantity": name,
                "estimate": float(finite.mean()) if finite.size else float("nan"),
                "ci_low": low,
                "ci_high": high,
                "p": float("nan") if name in PREDICTORS else t_test(values),
                "n_networks": int(finite.size),
            }
        )
    return pd.DataFrame(rows)


def _rival(fisher: xr.DataArray, pair: PairedLayers, gains: xr.Dataset) -> dict[str, np.ndarray]:
    """layer → (task, filter) Fisher weights in the order of the pair."""
    ordered = aligned(
        by_filter(fisher, name="the Fisher weights"),
        "unit",
        gains["unit"].values,
        name="the Fisher weights",
        to="the gains",
    )
    if "task" not in ordered.dims:
        raise DataError("the Fisher weights have no dimension 'task'; compute them for the same tasks")
    ordered = aligned(ordered, "task", pair.tasks, name="the Fisher weights", to="the gains")
    table = ordered.transpose("task", "unit")
    return {layer: table.sel(unit=pair.units[layer]).values for layer in pair.layers}


def _held_out(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(task,) R² of each task's y (task, filter) from a line through the others; x is (task, filter, predictor)."""
    found = np.full(len(y), np.nan)
    for held in range(len(y)):
        rest = np.arange(len(y)) != held
        a, b = x[rest].reshape(-1, x.shape[-1]), y[rest].ravel()
        if np.isfinite(a).all() and np.isfinite(b).all() and np.isfinite(x[held]).all() and np.isfinite(y[held]).all():
            slope = np.linalg.lstsq(a, b, rcond=None)[0]
            found[held] = 1 - float(((y[held] - x[held] @ slope) ** 2).sum() / (y[held] ** 2).sum())
    return found
