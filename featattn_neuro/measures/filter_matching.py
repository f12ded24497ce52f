"""Filters like neurons: tuning distributions of network and brain, filters chosen to match, and gains asked in them."""

from __future__ import annotations

import numpy as np
import xarray as xr

from featattn_neuro.arrays.association import atanh_clipped, cross_correlation
from featattn_neuro.arrays.distribution_similarity import distribution_similarity, ks_similarity
from featattn_neuro.arrays.resampling import permutation_p
from featattn_neuro.errors import DataError
from featattn_neuro.measures._join import aligned, by_filter, same_ids
from featattn_neuro.measures._tables import paired_layers
from featattn_neuro.measures.gain_selectivity import MIN_LIVE, gain_selectivity
from featattn_neuro.schema import ASSOCIATION, MATCH


def tuning_match(filters: xr.DataArray, neurons: xr.DataArray, *, splits: int = 200, seed: int = 0) -> xr.Dataset:
    """How alike the distributions of a tuning quantity are in each layer and in a neural population.

    Parameters
    ----------
    filters : over `unit`, with the coordinate `layer`: sparseness, orientation selectivity, |d'|, bandwidth, …
    neurons : the same quantity over `unit` in the recorded neurons; NaN = not defined, left out.
    splits, seed : random halves of the neurons for the ceiling, and their seed.

    Returns
    -------
    MATCH with measures "1 - KS" (whole samples; 1 = the same distribution) and "1 - KS, matched size", whose `ceiling`
    is the mean 1 − KS of halves of the neurons: only these two are on the same footing, since KS of small samples is
    biased. `n_values` counts the filters.

    Raises
    ------
    DataError : not one value per unit, ids that come twice, filters without `layer`, fewer than four neurons with a
        value.

    >>> import xarray as xr
    >>> layer = {"unit": ["a", "b", "c", "d"], "layer": ("unit", ["conv"] * 4)}
    >>> same = xr.DataArray([1.0, 2.0, 3.0, 4.0], layer, "unit")
    >>> tuning_match(same, same.drop_vars("layer")).score.sel(measure="1 - KS").item()
    1.0
    """
    layers = _layers(filters)
    reference = _values(neurons, "the neurons")
    if np.isfinite(reference).sum() < 4:
        raise DataError(f"wanted the quantity of four neurons or more; came {np.isfinite(reference).sum()}")
    rng, found = np.random.default_rng(seed), []
    names = list(dict.fromkeys(layers.tolist()))
    values = _values(filters, "the filters")
    for name in names:
        found.append(distribution_similarity(values[layers == name], reference, splits=splits, rng=rng))
    counts = [int(np.isfinite(values[layers == name]).sum()) for name in names]
    data = {
        "score": (("layer", "measure"), np.array([[one.score, one.matched] for one in found])),
        "ceiling": ("measure", np.array([np.nan, _mean([one.ceiling for one in found])])),
        "ceiling_name": ("measure", ["none", "mean 1 - KS of random halves of the neurons"]),
        "n_values": ("layer", counts),
    }
    coordinates = {"layer": names, "measure": ["1 - KS", "1 - KS, matched size"]}
    attrs = {"quantity": str(filters.name or ""), "n_neurons": int(np.isfinite(reference).sum()), "seed": int(seed)}
    return MATCH.check(xr.Dataset(data, coordinates, attrs))


def select_like_neurons(
    filters: xr.DataArray, neurons: xr.DataArray, *, count: int | None = None, tolerance: float = np.inf
) -> xr.DataArray:
    """Choose the filters whose distribution of a tuning quantity is that of a neural population.

    Parameters
    ----------
    filters : over `unit`; NaN = never chosen.
    neurons : the same quantity over `unit`; NaN = left out.
    count : how many; None = as many as neurons, or as a third of the filters if that is fewer: chosen without
        replacement from few more, they would have to take what is left.
    tolerance : largest difference between a chosen filter and its quantile of the neurons; farther ones are dropped.

    Returns
    -------
    (unit) 1 = chosen. Attributes `similarity_before` and `similarity_after` are 1 − KS with the neurons; `n_dropped`.

    Raises
    ------
    DataError : not one value per unit, ids that come twice, no neuron with a value, a count below 1 or above the number
        of filters with a value.

    Notes
    -----
    The quantiles (i + ½)/count of the neurons are each given one filter so that the sum of differences is smallest
    (optimal assignment; Hansen & Klopfer 2006). Choose by a quantity that no gain, and no selectivity that the gains
    will be related to, was computed from; choosing by |d'| narrows its range and so its correlations.

    >>> import xarray as xr
    >>> filters = xr.DataArray([0.1, 0.5, 0.9, 0.52], {"unit": ["a", "b", "c", "d"]}, "unit")
    >>> neurons = xr.DataArray([0.1, 0.9], {"unit": ["x", "y"]}, "unit")
    >>> select_like_neurons(filters, neurons, count=2).values.tolist()
    [1, 0, 1, 0]
    """
    from scipy.optimize import linear_sum_assignment

    values, reference = _values(filters, "the filters"), _values(neurons, "the neurons")
    reference, usable = reference[np.isfinite(reference)], np.flatnonzero(np.isfinite(values))
    wanted = min(reference.size, max(usable.size // 3, 1)) if count is None else int(count)
    if not reference.size or not 1 <= wanted <= usable.size:
        raise DataError(
            f"wanted neurons, and 1 to {usable.size} filters to choose (those with a value); came {reference.size} "
            f"neurons and count {wanted}"
        )
    targets = np.quantile(reference, (np.arange(wanted) + 0.5) / wanted, method="hazen")
    distance = np.abs(values[usable][:, None] - targets)
    row, column = linear_sum_assignment(distance)
    near = distance[row, column] <= tolerance
    chosen = np.zeros(values.size, dtype=np.int64)
    chosen[usable[row[near]]] = 1
    after = ks_similarity(values[chosen == 1], reference)
    result = xr.DataArray(chosen, {"unit": filters["unit"].values}, "unit", name="chosen")
    notes = {"similarity_before": ks_similarity(values, reference), "similarity_after": after}
    return result.assign_attrs(notes | {"n_dropped": int((~near).sum())})


def gain_selectivity_in(
    gains: xr.Dataset,
    selectivity: xr.Dataset,
    chosen: xr.DataArray,
    *,
    draws: int = 500,
    permutations: int = 9999,
    seed: int = 0,
) -> xr.Dataset:
    """`gain_selectivity` among the chosen filters, and how that differs from as many filters taken at random.

    Parameters
    ----------
    gains, selectivity : as in `gain_selectivity`.
    chosen : (unit) of `select_like_neurons`, of the same units.
    draws, seed : random choices of as many live filters in each layer, and their seed.
    permutations : of the tasks among the chosen filters, as in `gain_selectivity`.

    Returns
    -------
    ASSOCIATION of the chosen filters. Attributes: `matched_chosen`, z (of d', the task's own) averaged over layers and
    tasks; `matched_random`, its mean over the draws; `p_random`, permutation p that these filters are no different
    (too small where filters that respond alike share the chosen property: a diagnostic of one network, see the
    calibration battery); `draws` counts those that were defined. Layers with fewer than 8 chosen live filters are
    `too_few`.

    Raises
    ------
    DataError : chosen filters of other units, no layer with 8 chosen live filters; and as in `gain_selectivity`.
    """
    same_ids(gains["unit"].values, chosen["unit"].values, what="unit", wanted_name="the gains",
             came_name="the chosen filters")  # fmt: skip
    flags = chosen.sel(unit=gains["unit"].values).values.astype(bool)
    selectivity = by_filter(selectivity, name="the selectivity")
    found = _within(gains, selectivity, flags, permutations=permutations, seed=seed)
    observed = _matched(found)
    if not np.isfinite(observed):
        raise DataError(
            f"wanted {MIN_LIVE} chosen live filters in a layer or more; came {int(flags.sum())} chosen filters in all, "
            "and no layer with as many live ones; choose more filters"
        )
    null = _random_choices(gains, selectivity, flags, draws=draws, rng=np.random.default_rng(seed))
    usable = null[np.isfinite(null)]
    notes = {
        "n_chosen": int(flags.sum()),
        "matched_chosen": observed,
        "matched_random": float(usable.mean()) if usable.size else float("nan"),
        "p_random": permutation_p(observed, usable),
        "draws": int(usable.size),
    }
    return ASSOCIATION.check(found.assign_attrs(notes))


def _random_choices(
    gains: xr.Dataset, selectivity: xr.Dataset, flags: np.ndarray, *, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """(draws,) matched z of as many live filters as are chosen and live, in the layers where these are enough."""
    pair = paired_layers(gains, selectivity)
    ids = {str(unit) for unit in gains["unit"].values[flags]}
    counts = {layer: sum(str(unit) in ids for unit in pair.units[layer]) for layer in pair.layers}
    kept = [layer for layer in pair.layers if counts[layer] >= MIN_LIVE]
    null = np.empty(draws)
    for draw in range(draws):
        own = []
        for layer in kept:
            taken = rng.choice(pair.units[layer].size, counts[layer], replace=False)
            table = cross_correlation(pair.gain[layer][:, taken], pair.score[layer][:, taken])
            own.append(np.diagonal(table))
        null[draw] = atanh_clipped(np.stack(own)).mean()
    return null


def _within(
    gains: xr.Dataset, selectivity: xr.Dataset, flags: np.ndarray, *, permutations: int, seed: int
) -> xr.Dataset:
    ids = gains["unit"].values[flags]
    return gain_selectivity(gains.sel(unit=ids), selectivity.sel(unit=ids), permutations=permutations, seed=seed)


def _matched(association: xr.Dataset) -> float:
    z = association["z"].sel(measure="dprime").values
    return float(np.diag(z).mean()) if z.ndim == 2 else float(z)


def _mean(values: list[float]) -> float:
    """Over layers that have a value; NaN where none has."""
    seen = np.array(values)[np.isfinite(values)]
    return float(seen.mean()) if seen.size else float("nan")


def _values(array: xr.DataArray, name: str) -> np.ndarray:
    if not isinstance(array, xr.DataArray) or array.dims != ("unit",):
        came = getattr(array, "dims", type(array).__name__)
        raise DataError(f"{name} must be a DataArray over 'unit'; came {came}; select one variable and task")
    return aligned(array, "unit", array["unit"].values, name=name, to=name).values.astype(np.float64)


def _layers(filters: xr.DataArray) -> np.ndarray:
    if "layer" not in filters.coords:
        raise DataError("the filters need the coordinate 'layer' over 'unit'; take the variable from its Dataset")
    return filters["layer"].values.astype(str)
