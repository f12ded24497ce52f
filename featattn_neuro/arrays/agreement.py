"""Does gain-weighted saliency fall on the cued object? Exclusive-ink masks, the cue swap, and its permuted-gain null.

Two objects a and b share an image. S_c is the map Σ_k h_ck A_k with h = g/ḡ - 1, divided by its SD over all positions.
The cue swap compares S_a and S_b on ink that only a has and ink that only b has, so that shared ink, centre bias,
overlap and brightness cancel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featattn_neuro.arrays.masks import CELLS, exclusive, on_grid, resolved_objects

Float = NDArray[np.float64]
INK = 0.25
"""Pixels above this are ink (images in [0, 1])."""


def exclusive_masks(
    source_a: ArrayLike,
    source_b: ArrayLike,
    grid: tuple[int, int],
    *,
    threshold: float = INK,
    edges: tuple[ArrayLike, ArrayLike] | None = None,
) -> tuple[Float, Float]:
    """Ink of one source only, on a layer's grid: area-averaged weights for a and for b.

    Parameters
    ----------
    source_a, source_b : (..., height, width) in [0, 1], the two sources before they were averaged.
    grid : (h, w) of the layer's map.
    threshold : ink is above it. edges : of the grid's cells, see `on_grid`; None = they tile the image.

    Returns
    -------
    mask_a, mask_b : (..., h, w) in [0, 1]: the share of the cell where source a > threshold and source b <= threshold,
        and the reverse.

    >>> a, b = exclusive_masks([[1.0, 1.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]], (1, 1))
    >>> a.tolist(), b.tolist()
    ([[0.25]], [[0.25]])
    """
    ink_a, ink_b = np.asarray(source_a) > threshold, np.asarray(source_b) > threshold
    if ink_a.shape != ink_b.shape or ink_a.ndim < 2:
        raise ValueError(f"sources must be (..., height, width) of one shape; came {ink_a.shape} and {ink_b.shape}")
    masks = on_grid(exclusive(np.stack([ink_a, ink_b], axis=-3)), grid, edges=edges)
    return masks[..., 0, :, :], masks[..., 1, :, :]


def resolved(mask_a: ArrayLike, mask_b: ArrayLike, *, cells: int = CELLS) -> NDArray[np.bool_]:
    """Whether the grid keeps the two masks apart: each has at least `cells` cells that the other has no part in.

    Parameters
    ----------
    mask_a, mask_b : (..., h, w) weights of `exclusive_masks`.

    Returns
    -------
    boolean (...). Digits of 28 × 28 pixels: all pairs pass at 28 × 28, 99.7 % at 14 × 14, 57 % at 7 × 7.

    >>> bool(resolved([[1, 1, 1, 1, 1, 0, 0, 0, 0, 0]], [[0, 0, 0, 0, 0, 1, 1, 1, 1, 1]]))
    True
    >>> bool(resolved([[1, 1, 1, 1, 1, 0, 0, 0, 0, 0]], [[0, 0, 0, 0, 1, 1, 1, 1, 1, 1]]))
    False
    """
    return resolved_objects(np.stack([np.asarray(mask_a), np.asarray(mask_b)], axis=-3), cells=cells)


def excess_gain(gain: ArrayLike) -> Float:
    """h = g/ḡ - 1 along the last axis, the filters of one layer; the layer's mean gain is a gauge and drops out.

    NaN where the mean gain is 0.

    >>> excess_gain([1.0, 3.0]).tolist()
    [-0.5, 0.5]
    """
    values = np.asarray(gain, dtype=np.float64)
    mean = values.mean(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(mean != 0, values / mean - 1, np.nan)


def _map_sd(excess: Float, covariance: Float) -> Float:
    """SD over positions of each task's map, sqrt(h' C h); NaN where the map is flat (all gains equal)."""
    variance = np.einsum("...tk,kj,...tj->...t", excess, covariance, excess)
    scale = np.einsum("...tk,k->...t", excess**2, np.diag(covariance))
    return np.sqrt(np.where(variance > 1e-12 * scale, variance, np.nan))


def object_contrasts(means: ArrayLike) -> Float:
    """Mean in the mask of each object minus the mean over the masks of the others.

    Parameters
    ----------
    means : (n, object, unit) weighted mean of each filter's map in each object's mask.

    Returns
    -------
    (n, object, unit). For two objects a and b: a - b, and b - a.

    >>> object_contrasts([[[1.0], [2.0], [6.0]]]).ravel().tolist()
    [-3.0, -1.5, 4.5]
    """
    values = np.asarray(means, dtype=np.float64)
    m = values.shape[1]
    if m < 2:
        raise ValueError(f"a cue is swapped between two objects or more; came {m}")
    return (m * values - values.sum(axis=1, keepdims=True)) / (m - 1)


def cue_swap_objects(contrasts: ArrayLike, covariance: ArrayLike, excess: ArrayLike, tasks: ArrayLike) -> Float:
    """Cue-swap score of composites of two objects or more, in SDs of the map.

    Parameters
    ----------
    contrasts : (n, object, unit) of `object_contrasts`.
    covariance : (unit, unit) covariance of the filters' maps over all positions of all composites.
    excess : (task, unit) h = g/ḡ - 1, see `excess_gain`.
    tasks : (n, object) index of each object's task.

    Returns
    -------
    (n,) t = mean over objects a of S_a(mask a) - mean over the others b of S_a(mask b), S_a the map under the cue of a.
    What all cues share (ink, place, brightness) cancels: every mask is cued once and stands against it as often as the
    others. Positive = the map of a cue is stronger on the cued object. NaN where a contrast or a map's SD is undefined.

    >>> cue_swap_objects([[[2.0, 0.0], [-2.0, 0.0]]], np.eye(2), [[1.0, 0.0], [0.0, 1.0]], [[0, 1]]).tolist()
    [1.0]
    """
    return cue_swap_by_cue(contrasts, covariance, excess, tasks).mean(axis=1)


def cue_swap_by_cue(contrasts: ArrayLike, covariance: ArrayLike, excess: ArrayLike, tasks: ArrayLike) -> Float:
    """Parts of the cue swap, one under the cue of each object; the score is their mean. See `cue_swap_objects`.

    Returns
    -------
    (n, object) S_a(mask a) - mean over the other objects b of S_a(mask b), a the object. One part alone is no score:
    ink, place and brightness cancel only between the parts.

    >>> cue_swap_by_cue([[[2.0, 0.0], [-2.0, 0.0]]], np.eye(2), [[1.0, 0.0], [0.0, 1.0]], [[0, 1]]).tolist()
    [[2.0, 0.0]]
    """
    values, weights = np.asarray(contrasts, dtype=np.float64), np.asarray(excess, dtype=np.float64)
    sd = _map_sd(weights, np.asarray(covariance, dtype=np.float64))
    scores = values @ (weights / sd[:, None]).T  # (n, object, task)
    return np.take_along_axis(scores, np.asarray(tasks)[..., None], axis=2)[..., 0]


def cue_swap(
    contrast: ArrayLike, covariance: ArrayLike, excess: ArrayLike, first_task: ArrayLike, second_task: ArrayLike
) -> Float:
    """Cue-swap score of composites of two objects, in SDs of the map; see `cue_swap_objects`.

    Parameters
    ----------
    contrast : (n, unit) weighted mean of the filter's map in mask a minus that in mask b.
    first_task, second_task : (n,) index of the task of a and of b.

    Returns
    -------
    (n,) t = ½{[S_a(mask_a) - S_a(mask_b)] + [S_b(mask_b) - S_b(mask_a)]}.

    >>> cue_swap([[2.0, 0.0]], np.eye(2), [[1.0, 0.0], [0.0, 1.0]], [0], [1]).tolist()
    [1.0]
    """
    return cue_swap_objects(_both_ways(contrast), covariance, excess, np.stack([first_task, second_task], axis=-1))


def _both_ways(contrast: ArrayLike) -> Float:
    values = np.asarray(contrast, dtype=np.float64)
    return np.stack([values, -values], axis=1)


def cue_swap_null(
    contrast: ArrayLike,
    covariance: ArrayLike,
    excess: ArrayLike,
    first_task: ArrayLike,
    second_task: ArrayLike,
    *,
    permutations: int = 1000,
    rng: np.random.Generator,
) -> Float:
    """Mean cue swap of two objects when gains are permuted over the filters; see `cue_swap_objects_null`."""
    tasks = np.stack([first_task, second_task], axis=-1)
    return cue_swap_objects_null(
        _both_ways(contrast), covariance, excess, tasks, permutations=permutations, rng=rng
    )  # fmt: skip


def cue_swap_objects_null(
    contrasts: ArrayLike,
    covariance: ArrayLike,
    excess: ArrayLike,
    tasks: ArrayLike,
    *,
    permutations: int = 1000,
    rng: np.random.Generator,
) -> Float:
    """Mean cue swap when gains are permuted over the filters of the layer, (permutations,).

    Parameters as in `cue_swap_objects`. One permutation serves all tasks, so gains keep their covariance between tasks
    and their distribution; which filter has which gain is lost. Composites without a contrast are left out, as in the
    mean.
    """
    values = np.asarray(contrasts, dtype=np.float64)
    weights, spread = np.asarray(excess, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
    cued = np.asarray(tasks)
    keep = np.isfinite(values).all(axis=(1, 2))
    null = np.full(permutations, np.nan)
    if not keep.any():
        return null
    # the mean over composites is linear in the map, so composites are summed once per task, not once per permutation
    summed = np.zeros(weights.shape)
    np.add.at(summed, cued[keep].ravel(), values[keep].reshape(-1, values.shape[2]))
    summed /= keep.sum() * values.shape[1]
    used = np.isin(np.arange(len(weights)), cued[keep])
    for draw in range(permutations):
        shuffled = weights[used][:, rng.permutation(weights.shape[1])]
        null[draw] = ((shuffled * summed[used]).sum(axis=1) / _map_sd(shuffled, spread)).sum()
    return null


def mass_in_mask(maps: ArrayLike, mask: ArrayLike) -> Float:
    """Share of a map's positive mass that lies in the mask, minus the mask's share of the area.

    Positive for plain brightness too: only to be shown beside the same number of the un-gained map.

    Parameters
    ----------
    maps : (n, h, w), any sign; negative values count as 0.
    mask : (n, h, w) weights in [0, 1].

    Returns
    -------
    (n,), in [-1, 1]. NaN where a map has no positive mass.

    >>> mass_in_mask([[[3.0, 1.0]]], [[[1.0, 0.0]]]).tolist()
    [0.25]
    """
    positive = np.clip(np.asarray(maps, dtype=np.float64), 0, None)
    weights = np.asarray(mask, dtype=np.float64)
    total = positive.sum(axis=(-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(total > 0, (positive * weights).sum(axis=(-2, -1)) / total, np.nan)
    return share - weights.mean(axis=(-2, -1))
