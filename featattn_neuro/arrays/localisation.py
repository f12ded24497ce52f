"""Does a map point at an object? Pointing game, mass in mask, AUC-Judd, energy against the distractor; centre bias.

Brightness and centre bias score well on all of these, so none is to be shown without the same score of the plain sum
of activations. Maps and masks are (..., h, w) on a layer's own grid, masks are weights in [0, 1] (shares of a cell).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featattn_neuro.arrays.agreement import mass_in_mask
from featattn_neuro.arrays.compiled import compiled
from featattn_neuro.arrays.counting import centred_ranks

Float = NDArray[np.float64]

LOCALISERS = ("pointing_game", "mass_in_mask", "auc_judd", "energy")
"""Names of the scores, in the order of `localise`."""


def _flat(maps: ArrayLike, mask: ArrayLike) -> tuple[Float, Float]:
    values, weights = np.asarray(maps, dtype=np.float64), np.asarray(mask, dtype=np.float64)
    if values.shape[-2:] != weights.shape[-2:]:
        raise ValueError(f"maps and masks must share one grid; came {values.shape[-2:]} and {weights.shape[-2:]}")
    values, weights = np.broadcast_arrays(values, weights)
    return values.reshape(*values.shape[:-2], -1), weights.reshape(*weights.shape[:-2], -1)


def pointing_game(maps: ArrayLike, mask: ArrayLike) -> Float:
    """Whether the largest value lies in the mask (Zhang, Bargal, Lin, Brandt, Shen & Sclaroff 2016).

    Returns
    -------
    (...,) in [0, 1]: the mask's weight at the maximum, its mean over maxima that tie. NaN for a map of one value, which
    points nowhere.

    >>> pointing_game([[0.0, 2.0, 1.0]], [[0.0, 1.0, 1.0]]).item()
    1.0
    >>> pointing_game([[2.0, 2.0, 1.0]], [[0.0, 1.0, 1.0]]).item()
    0.5
    """
    values, weights = _flat(maps, mask)
    best = values == values.max(axis=-1, keepdims=True)
    hit = (best * weights).sum(axis=-1) / np.maximum(best.sum(axis=-1), 1)
    return np.where(np.ptp(values, axis=-1) > 0, hit, np.nan)


def auc_judd(maps: ArrayLike, mask: ArrayLike) -> Float:
    """Area under the ROC of the map's values, mask against the rest (Judd, Ehinger, Durand & Torralba 2009).

    A threshold at every value; hits are cells of the mask, false alarms the others; trapezoid, so ties count half. A
    cell that lies in the mask by its share w counts w on one side and 1 - w on the other. The published procedure has
    thresholds at the values of the n cells inside only, and its straight lines between them add up to 1/(2 n).

    Returns
    -------
    (...,) in [0, 1], .5 = chance. NaN where the mask is empty or everything, or a value is not finite.

    Notes
    -----
    By centred mid-ranks r: pairs of two cells of the mask cancel, so the area is 1/2 + Σ w r / (W (n - W)), W = Σ w.

    >>> auc_judd([[3.0, 1.0, 2.0]], [[1.0, 0.0, 0.0]]).item()
    1.0
    >>> auc_judd([[1.0, 1.0]], [[1.0, 0.0]]).item()
    0.5
    """
    values, inside = _flat(maps, mask)
    ranks = centred_ranks(values.reshape(-1, values.shape[-1])).reshape(values.shape)
    area = _judd((inside * ranks).sum(axis=-1), inside.sum(axis=-1), values.shape[-1])
    return np.where(np.isfinite(values).all(axis=-1), area, np.nan)


def _judd(ranks_in_mask: Float, weights: Float, cells: int) -> Float:
    with np.errstate(divide="ignore", invalid="ignore"):
        area = 0.5 + ranks_in_mask / (weights * (cells - weights))
    return np.where((weights > 0) & (weights < cells), area, np.nan)


def energy_against_distractor(maps: ArrayLike, mask: ArrayLike, distractor: ArrayLike) -> Float:
    """Positive mass per area in the mask, as a share of that in the mask and in the distractor's mask together.

    Returns
    -------
    (...,) in [0, 1]; .5 = no preference, whatever the sizes of the masks. NaN where neither has positive mass, or a
    mask is empty.

    >>> energy_against_distractor([[3.0, -1.0, 1.0]], [[1.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]).item()
    0.6
    """
    values, weights = _flat(maps, mask)
    _, others = _flat(maps, distractor)
    positive = np.clip(values, 0, None)
    with np.errstate(divide="ignore", invalid="ignore"):
        here = (positive * weights).sum(axis=-1) / weights.sum(axis=-1)
        there = (positive * others).sum(axis=-1) / others.sum(axis=-1)
        return here / (here + there)


def centre_bias(
    grid: tuple[int, int], *, width: float = 0.25, edges: tuple[ArrayLike, ArrayLike] | None = None,
    size: tuple[int, int] | None = None,
) -> Float:  # fmt: skip
    """A map that knows nothing of the image: a Gaussian at its centre, SD `width` of each side; maximum 1.

    Parameters
    ----------
    edges, size : where the cells lie (see `masks.cell_edges`) in an image of (height, width) pixels; None: they tile
        it.

    >>> centre_bias((1, 3)).round(3).tolist()
    [[0.411, 1.0, 0.411]]
    >>> centre_bias((1, 1), edges=([0, 2], [2, 4]), size=(2, 4)).round(3).tolist()  # in the right half
    [[0.607]]
    """
    if edges is None or size is None:
        edges, size = (np.arange(grid[0] + 1), np.arange(grid[1] + 1)), grid
    shares = [(np.asarray(e)[1:] + np.asarray(e)[:-1]) / 2 / n for e, n in zip(edges, size, strict=True)]
    rows, columns = ((share - 0.5) / width for share in shares)
    return np.exp(-(rows[:, None] ** 2 + columns[None, :] ** 2) / 2)


def localise(maps: ArrayLike, mask: ArrayLike, distractor: ArrayLike | None = None) -> Float:
    """All scores of `LOCALISERS`, in that order: (4, ...). Energy is NaN without a distractor."""
    values = np.asarray(maps, dtype=np.float64)
    weights = np.broadcast_to(np.asarray(mask, dtype=np.float64), values.shape)
    energy = (
        np.full(values.shape[:-2], np.nan)
        if distractor is None
        else energy_against_distractor(values, weights, np.broadcast_to(distractor, values.shape))
    )
    return np.stack([pointing_game(values, weights), mass_in_mask(values, weights), auc_judd(values, weights), energy])


def localise_many(maps: NDArray[np.floating], mask: ArrayLike, distractor: ArrayLike | None = None) -> Float:
    """`localise` for many maps of one image, as a null needs them: sums over cells become matrix products.

    Parameters
    ----------
    maps : (m, h, w), finite, float32 or float64; sums are in that precision. mask, distractor : (h, w).

    Returns
    -------
    (4, m).

    >>> maps = np.array([[[3.0, 1.0, 2.0]], [[0.0, 0.0, 1.0]]])
    >>> localise_many(maps, [[1.0, 0.0, 0.0]])[[0, 2]].tolist()
    [[1.0, 0.0], [1.0, 0.25]]
    """
    values = maps.reshape(len(maps), -1)
    inside = np.asarray(mask, dtype=np.float64).ravel()
    others = np.full(inside.size, np.nan) if distractor is None else np.asarray(distractor, dtype=np.float64).ravel()
    ordered = np.sort(values, axis=1)
    best = ordered[:, -1]
    hit = inside[values.argmax(axis=1)]
    for row in np.flatnonzero(ordered[:, -2:][:, 0] == best):
        hit[row] = inside[values[row] == best[row]].mean()
    hit[best == ordered[:, 0]] = np.nan
    sides = np.stack([np.ones(inside.size), inside, np.nan_to_num(others)], axis=1)
    total, here, there = (np.maximum(values, 0) @ sides.astype(values.dtype)).T.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        mass = np.where(total > 0, here / total, np.nan) - inside.mean()
        here, there = here / inside.sum(), there / others.sum()
        energy = here / (here + there)
    cells = np.flatnonzero(inside)
    ranks = np.empty(len(values))
    _rank_sums(ordered, np.ascontiguousarray(values), cells, inside[cells], ranks)
    return np.stack([hit, mass, _judd(ranks, inside.sum(), inside.size), energy])


@compiled
def _rank_sums(ordered: Float, values: Float, cells: NDArray[np.intp], shares: Float, found: Float) -> None:
    """Sum over some cells of share times centred mid-rank, a map a row: `found` (m,) is written.

    ordered : `values` (m, n) with each row sorted: a few cells are looked up sooner than all are ranked.
    """
    n = ordered.shape[1]
    for row in range(ordered.shape[0]):
        total = 0.0
        for k in range(cells.size):
            value = values[row, cells[k]]
            # how many are below; halved without a branch, which would be guessed wrongly half the time
            below = 0
            size = n
            while size > 1:
                half = size // 2
                below += half * (ordered[row, below + half - 1] < value)
                size -= half
            below += ordered[row, below] < value
            upto = below + 1  # and with those equal to it, itself among them
            while upto < n and ordered[row, upto] == value:
                upto += 1
            total += shares[k] * 0.5 * (below + upto - n)
        found[row] = total
