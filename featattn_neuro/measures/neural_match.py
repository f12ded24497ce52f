"""Layers of a network against recorded neurons, stimulus by stimulus, matched by id."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from featattn_neuro.arrays.dissimilarity import compare_dissimilarity, correlation_distance, linear_cka
from featattn_neuro.arrays.prediction import ridge_predictivity, split_half_reliability
from featattn_neuro.errors import DataError, choose
from featattn_neuro.measures._join import layers_of, same_ids, single, without_scalars
from featattn_neuro.measures.selectivity import average_trials
from featattn_neuro.schema import ACTIVATIONS, DISSIMILARITY, MATCH, NEURAL

METHODS = {
    "rsa": "Spearman correlation of dissimilarity matrices (1 - Pearson)",
    "cka": "centred kernel alignment, linear, unbiased",
    "ridge": "median over neurons of cross-validated ridge r (not squared)",
}
SPLITS = 100


def neural_match(
    activations: xr.Dataset,
    neural: xr.Dataset,
    *,
    methods: Sequence[str] = ("rsa", "cka", "ridge"),
    folds: int = 5,
    seed: int = 0,
) -> xr.Dataset:
    """How well each layer matches neurons, or a published dissimilarity matrix.

    Parameters
    ----------
    activations : ACTIVATIONS, one reduction, of exactly the stimuli of `neural`, in any order.
    neural : NEURAL (averaged over trials), ACTIVATIONS-like averages of `average_trials`, or DISSIMILARITY of one
        subject (only "rsa" then).
    methods : "rsa" (Kriegeskorte 2008), "cka" (unbiased; Song 2012), "ridge" (cross-validated, per neuron).
    folds, seed : of the cross-validation, and of the split halves.

    Returns
    -------
    MATCH: `score` (layer, measure), see `METHODS` ("rsa" and "cka" over the neurons recorded with every stimulus);
    `ceiling` (measure): for "ridge" the median over neurons of split-half reliability (Spearman–Brown), a ratio of
    variances that r² is compared with; NaN for the others and where no stimulus was repeated. No layer is chosen:
    choosing it on these scores would be circular.

    Raises
    ------
    DataError : stimuli differ, a method needs neurons but a dissimilarity matrix came.
    """
    wanted = [choose(str(method), METHODS, "method") for method in methods]
    recorded = ACTIVATIONS.check(without_scalars(activations))
    if "reduction" in recorded["response"].dims:
        recorded = ACTIVATIONS.check(single(recorded, ["reduction"], name="the activations"))
    kind = getattr(neural, "attrs", {}).get("kind")
    ceiling = np.full(len(wanted), np.nan)
    if kind == "DISSIMILARITY" or (isinstance(neural, xr.Dataset) and "dissimilarity" in neural):
        reference, ids = _matrix(neural, wanted)
        neurons = None
    else:
        averages = _averages(neural)
        neurons, ids = averages["response"].transpose("stimulus", "unit").values, averages["stimulus"].values
        reference = correlation_distance(_complete(neurons))
        if "ridge" in wanted:
            ceiling[wanted.index("ridge")] = _ceiling(neural, seed)
    same_ids(
        recorded["stimulus"].values, ids, what="stimulus", wanted_name="the activations", came_name="the neural data"
    )
    ordered = recorded.sel(stimulus=ids)
    layers = layers_of(recorded)
    scores = np.full((len(layers), len(wanted)), np.nan)
    for row, layer in enumerate(layers):
        inside = np.flatnonzero(ordered["layer"].values.astype(str) == layer)
        features = ordered["response"].isel(unit=inside).transpose("stimulus", "unit").values.astype(np.float64)
        scores[row] = [_score(method, features, reference, neurons, folds, seed) for method in wanted]
    values = {"score": (("layer", "measure"), scores), "ceiling": ("measure", ceiling)}
    notes = {f"method_{name}": METHODS[name] for name in wanted}
    counts = {"n_stimuli": len(ids), "folds": int(folds), "seed": int(seed)}
    return MATCH.check(xr.Dataset(values, {"layer": layers, "measure": wanted}, notes | counts))


def _score(
    method: str, features: np.ndarray, reference: np.ndarray, neurons: np.ndarray | None, folds: int, seed: int
) -> float:
    if method == "rsa":
        return compare_dissimilarity(correlation_distance(features), reference)
    if neurons is None:
        raise DataError(f"method {method!r} needs neurons; a dissimilarity matrix came; use methods=['rsa']")
    if method == "cka":
        return linear_cka(features, _complete(neurons))
    found = ridge_predictivity(features, neurons, folds=folds, seed=seed)
    return float(np.nanmedian(found)) if np.isfinite(found).any() else float("nan")


def _complete(neurons: np.ndarray) -> np.ndarray:
    """The neurons that were recorded with every stimulus; geometry over stimuli needs the same neurons throughout."""
    return neurons[:, np.isfinite(neurons).all(axis=0)]


def _matrix(neural: xr.Dataset, wanted: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    for method in wanted:
        if method != "rsa":
            raise DataError(f"method {method!r} needs neurons; a dissimilarity matrix came; use methods=['rsa']")
    checked = DISSIMILARITY.check(single(without_scalars(neural), ("subject", "layer"), name="the dissimilarities"))
    ids = checked["stimulus"].values
    same_ids(ids, checked["other_stimulus"].values, what="stimulus", wanted_name="the rows", came_name="the columns")
    matrix = checked["dissimilarity"].sel(other_stimulus=ids).transpose("stimulus", "other_stimulus")
    return matrix.values, ids


def _averages(neural: xr.Dataset) -> xr.Dataset:
    given = without_scalars(neural)
    if isinstance(given, xr.Dataset) and "trial" in given.dims:
        return average_trials(given)
    return ACTIVATIONS.check(given)


def _ceiling(neural: xr.Dataset, seed: int) -> float:
    """Median split-half reliability over neurons; NaN where the data are averages already."""
    given = without_scalars(neural)
    if "trial" not in given.dims:
        return float("nan")
    checked = NEURAL.check(given)
    _, row = np.unique(checked["stimulus"].values.astype(str), return_inverse=True)
    repeat = np.zeros(row.size, dtype=np.int64)
    for stimulus in range(row.max() + 1):
        repeat[row == stimulus] = np.arange((row == stimulus).sum())
    values = checked["response"].transpose("trial", "unit").values.astype(np.float64)
    trials = np.full((row.max() + 1, repeat.max() + 1, values.shape[1]), np.nan)
    trials[row, repeat] = values
    found = split_half_reliability(trials, splits=SPLITS, rng=np.random.default_rng(seed))
    return float(np.nanmedian(found)) if np.isfinite(found).any() else float("nan")
