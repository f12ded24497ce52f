"""Does gain-weighted saliency fall on the cued object? The cue swap per layer, with its permuted-gain null."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from featattn_neuro.arrays import agreement as kernels
from featattn_neuro.arrays.resampling import permutation_p, t_interval
from featattn_neuro.errors import DataError, choose
from featattn_neuro.measures._join import aligned, layers_of, single, without_scalars
from featattn_neuro.schema import AGREEMENT, CONSTITUENT_SEPARATOR, GAINS, MASKED_MAPS, SALIENCY, SELECTIVITY

MIN_LIVE = 8
"""A layer with fewer live filters has no score."""
RESOLVED_SHARE = 0.9
"""A layer is usable if its grid resolves both masks in this share of the composites."""


_COLUMNS = ("layer_score", "score_low", "score_high", "null_mean", "null_sd", "p_permuted", "status")


def saliency_agreement(
    masked: xr.Dataset,
    gains: xr.Dataset,
    live: xr.DataArray | xr.Dataset,
    *,
    permutations: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Cue-swap score of every composite and layer, in SDs of the layer's saliency map.

    Parameters
    ----------
    masked : MASKED_MAPS of composites labelled "a|b"; mask a belongs to the first label. With `object_mean`: of any
        number of objects, labelled "a|b|…" in the order of the masks.
    gains : GAINS, gain(task, unit), with a task for each label and a gain for each unit; more units are fine.
    live : over `unit`, not 0 where the filter is live; or the SELECTIVITY that says so. Dead filters are left out.
    permutations, seed : gains permuted over the live filters within the layer (at least 1), and the seed.

    Returns
    -------
    AGREEMENT with `cue_swap` (layer, stimulus), of two objects
    t = ½{[S_a(mask a) - S_a(mask b)] + [S_b(mask b) - S_b(mask a)]}, where
    S_c = Σ (g_k/ḡ - 1) A_k over live filters (ḡ their mean in the layer) is divided by its SD over all positions;
    of more, the mean over objects a of S_a(mask a) - mean over the others of S_a(mask b);
    `cue_swap_by_cue` (layer, stimulus, object), the terms of that mean, one under the cue of each object of the label;
    `layer_score`, its mean over composites, with `score_low`, `score_high` (95 % t interval over composites);
    `null_mean`, `null_sd`, `p_permuted` of the permuted gains (too small where gains of filters covary: .09 false
    positives at .05 in the calibration battery; verdicts do not use it);
    `share_resolved` and `usable` (1 if at least 90 % of composites are resolved); `mask_cells` as in `masked`. A layer
    with fewer than 8 live filters is NaN, `status` "too_few"; one whose maps do not vary "dead"; one whose gains do not
    vary in some task "constant".

    Notes
    -----
    Exclusive ink of both objects and both cues: shared ink, centre bias, overlap and brightness cancel. The composite
    is the sampling unit within a network, the network across networks.
    """
    maps = MASKED_MAPS.check(without_scalars(masked))
    learned = GAINS.check(single(without_scalars(gains), ("network", "arm", "gain_set"), name="the gains"))
    if "task" not in learned.dims:
        raise DataError("the cue swap needs gains with a dimension 'task', one task for each object; came gains of one")
    units = maps["unit"].values
    gain = _gains_of(learned, units)
    alive = _alive(live, units)
    contrasts = _contrasts(maps)
    cued = _cued_tasks(maps, [str(task) for task in learned["task"].values], objects=contrasts.shape[1])
    covariance = aligned(maps["covariance"], "other_unit", units, name="covariance", to="unit").values
    resolved = aligned(maps["resolved"], "site", layers_of(maps), name="resolved", to="the layers of the units").values
    rng = np.random.default_rng(seed)
    rows = []
    for name in layers_of(maps):
        inside = alive & (maps["layer"].values.astype(str) == name)
        part = contrasts[:, :, inside], covariance[np.ix_(inside, inside)], gain[:, inside]
        rows.append(_layer(*part, cued, permutations, rng))
    share = resolved.mean(axis=1) if resolved.shape[1] else np.zeros(resolved.shape[0])
    values: dict[str, Any] = {
        "cue_swap": (("layer", "stimulus"), np.stack([row["scores"] for row in rows])),
        "cue_swap_by_cue": (("layer", "stimulus", "object"), np.stack([row["by_cue"] for row in rows])),
    }
    for column in _COLUMNS:
        values[column] = ("layer", np.array([row[column] for row in rows]))
    values["share_resolved"] = ("layer", share)
    values["usable"] = ("layer", (share >= RESOLVED_SHARE).astype(np.int64))
    if "mask_cells" in maps:
        cells = aligned(maps["mask_cells"], "site", layers_of(maps), name="mask_cells", to="the layers of the units")
        values["mask_cells"] = ("layer", cells.values.astype(str))
    names = [n for n in ("stimulus", "label", "split", "constituents", "path") if n in maps.coords]
    coordinates = {name: maps[name] for name in names} | {"layer": layers_of(maps)}
    counts = {"permutations": int(permutations), "seed": int(seed), "n_live": int(alive.sum())}
    return AGREEMENT.check(xr.Dataset(values, coordinates, counts))


def mass_in_masks(
    agreement: xr.Dataset, saliency: Mapping[str, xr.Dataset], masks: Mapping[str, tuple[xr.DataArray, xr.DataArray]]
) -> xr.Dataset:
    """`agreement` with `mass_in_mask` of the excess map and, beside it, of the plain sum of activations.

    Parameters
    ----------
    agreement : AGREEMENT of `saliency_agreement`.
    saliency : layer → SALIENCY with excess(task, stimulus, y, x) and activation(stimulus, y, x).
    masks : layer → (mask a, mask b), each over (stimulus, y, x) on the layer's grid, see `exclusive_masks`.

    Returns
    -------
    AGREEMENT; both numbers are means over composites and both cues of (share of positive mass in the cued object's
    mask) - (the mask's share of the area); NaN for a layer without maps. The first is positive for plain brightness
    too, hence never shown without the second.
    """
    result = AGREEMENT.check(without_scalars(agreement))
    found: dict[str, list[float]] = {"mass_in_mask": [], "mass_in_mask_plain": []}
    for layer in [str(name) for name in result["layer"].values]:
        excess, plain = (np.nan, np.nan)
        if layer in saliency:
            excess, plain = _mass(SALIENCY.check(without_scalars(saliency[layer])), masks[layer])
        found["mass_in_mask"].append(excess)
        found["mass_in_mask_plain"].append(plain)
    return AGREEMENT.check(result.assign({name: ("layer", values) for name, values in found.items()}))


def _mass(maps: xr.Dataset, masks: tuple[xr.DataArray, xr.DataArray]) -> tuple[float, float]:
    if "activation" not in maps or "task" not in maps["excess"].dims:
        raise DataError("mass in mask needs SALIENCY with activation and with excess over 'task'; record both")
    ids = maps["stimulus"].values
    excess = maps["excess"].transpose("task", "stimulus", "y", "x").values
    cued = _cued_tasks(maps, [str(task) for task in maps["task"].values])
    shares: list[np.ndarray] = []
    plain: list[np.ndarray] = []
    for mask, task in zip(masks, cued.T, strict=True):
        weights = aligned(mask, "stimulus", ids, name="the mask", to="the maps").transpose("stimulus", "y", "x").values
        shares.append(kernels.mass_in_mask(excess[task, np.arange(ids.size)], weights))
        plain.append(kernels.mass_in_mask(maps["activation"].values, weights))
    return float(np.nanmean(np.stack(shares))), float(np.nanmean(np.stack(plain)))


def _gains_of(learned: xr.Dataset, units: np.ndarray) -> np.ndarray:
    """(task, unit) gains of the given units."""
    missing = sorted({str(u) for u in units} - {str(u) for u in learned["unit"].values})
    if missing:
        raise DataError(
            f"wanted a gain for each of the {units.size} units of the maps; {len(missing)} have none "
            f"(first: {missing[0]!r}); learn gains at these layers, or make the maps of the gained layers"
        )
    return learned["gain"].sel(unit=units).transpose("task", "unit").values.astype(np.float64)


def _alive(live: xr.DataArray | xr.Dataset, units: np.ndarray) -> np.ndarray:
    flags = live
    if isinstance(live, xr.Dataset):
        checked = SELECTIVITY.check(without_scalars(live))
        if "live" not in checked:
            raise DataError("the selectivity does not say which filters are live; use what selectivity() returns")
        flags = checked["live"]
    missing = sorted({str(u) for u in units} - {str(u) for u in flags["unit"].values})
    if missing:
        raise DataError(
            f"wanted to know of each of the {units.size} units of the maps whether it is live; {len(missing)} are "
            f"absent (first: {missing[0]!r}); measure selectivity of the same layers"
        )
    return np.asarray(flags.sel(unit=units).values) != 0


def _contrasts(maps: xr.Dataset) -> np.ndarray:
    """(stimulus, object, unit): each object's mask against the others."""
    if "object_mean" in maps:
        if maps.sizes["object"] < 2:
            raise DataError("the cue swap needs composites of two objects or more; came maps with the mask of one")
        return kernels.object_contrasts(maps["object_mean"].values)
    if "contrast" not in maps:
        raise DataError("the maps hold neither contrast nor object_mean; make them with masked_maps or object_maps")
    return np.stack([maps["contrast"].values, -maps["contrast"].values], axis=1)


def _cued_tasks(maps: xr.Dataset, tasks: list[str], *, objects: int = 2) -> np.ndarray:
    """(stimulus, object) index of the task of each object of each composite, from its label "a|b|…"."""
    if "label" not in maps.coords:
        raise DataError("the composites have no coordinate 'label'; wanted labels such as 'a|b'")
    rows = []
    for label in maps["label"].values:
        parts = str(label).split(CONSTITUENT_SEPARATOR)
        if len(parts) != objects:
            wanted = {2: "two objects, labelled 'a|b'"}.get(objects, f"{objects} objects, their labels joined by '|'")
            raise DataError(f"wanted composites of {wanted}; came the label {str(label)!r}")
        rows.append([tasks.index(choose(part, tasks, "task of a composite")) for part in parts])
    return np.array(rows, dtype=np.int64).reshape(-1, objects)


def _layer(
    contrasts: np.ndarray,
    covariance: np.ndarray,
    gain: np.ndarray,
    cued: np.ndarray,
    permutations: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Scores and null of one layer over its live filters."""
    empty: dict[str, Any] = dict.fromkeys(_COLUMNS[:-1], np.nan)
    empty["scores"] = np.full(contrasts.shape[0], np.nan)
    empty["by_cue"] = np.full(contrasts.shape[:2], np.nan)
    if gain.shape[1] < MIN_LIVE:
        return {**empty, "status": "too_few"}
    if not covariance.any():
        return {**empty, "status": "dead"}
    if (np.ptp(gain, axis=1) == 0).any():
        return {**empty, "status": "constant"}
    same_shape = contrasts, covariance, kernels.excess_gain(gain), cued
    by_cue = kernels.cue_swap_by_cue(*same_shape)
    scores = by_cue.mean(axis=1)
    null = kernels.cue_swap_objects_null(*same_shape, permutations=permutations, rng=rng)
    low, high = t_interval(scores)
    mean = float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")
    return {
        "scores": scores,
        "by_cue": by_cue,
        "layer_score": mean,
        "score_low": low,
        "score_high": high,
        "null_mean": float(null.mean()),
        "null_sd": float(null.std(ddof=1)) if null.size > 1 else float("nan"),
        "p_permuted": permutation_p(mean, null),
        "status": "ok" if np.isfinite(mean) else "nonfinite",
    }
