"""Areas under learning curves, normalised by the range, so that a constant curve has its own height as area."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _trapezoid(abscissa: NDArray[np.float64], values: ArrayLike, name: str) -> NDArray[np.float64]:
    heights = np.asarray(values, dtype=np.float64)
    if abscissa.ndim != 1 or abscissa.size < 2 or heights.shape[-1:] != abscissa.shape:
        raise ValueError(f"{name} (n >= 2,) and values (..., n) wanted; came {abscissa.shape} and {heights.shape}")
    if not (np.diff(abscissa) > 0).all():
        raise ValueError(f"{name} must increase; came {abscissa.tolist()}")
    return np.trapezoid(heights, abscissa, axis=-1) / (abscissa[-1] - abscissa[0])


def area_over_log2(examples: ArrayLike, values: ArrayLike) -> NDArray[np.float64]:
    """Trapezoid of values (..., n) over log2 of the examples (n,), divided by log2(last/first).

    >>> float(area_over_log2([1, 2, 8], [0.0, 1.0, 1.0]).round(6))
    0.833333
    """
    counts = np.asarray(examples, dtype=np.float64)
    if counts.size and counts.min() <= 0:
        raise ValueError(f"examples must be positive; came {counts.tolist()}")
    return _trapezoid(np.log2(counts), values, "examples")


def area_over(updates: ArrayLike, values: ArrayLike) -> NDArray[np.float64]:
    """Trapezoid of values (..., n) over the updates (n,), divided by last - first.

    >>> float(area_over([0, 10, 20], [0.0, 1.0, 1.0]))
    0.75
    """
    return _trapezoid(np.asarray(updates, dtype=np.float64), values, "updates")


def first_reach(places: ArrayLike, values: ArrayLike, criterion: ArrayLike) -> NDArray[np.float64]:
    """First place at which a curve is not below a criterion; NaN where it never is, or either is undefined.

    Parameters
    ----------
    places : (n,), increasing. values : (..., n). criterion : broadcast to values without the last axis.

    >>> first_reach([0, 10, 20], [[0.5, 0.7, 0.9], [0.5, 0.5, 0.6]], 0.7).tolist()
    [10.0, nan]
    """
    at = np.asarray(places, dtype=np.float64)
    heights = np.asarray(values, dtype=np.float64)
    if at.ndim != 1 or heights.shape[-1:] != at.shape or not (np.diff(at) > 0).all():
        raise ValueError(f"increasing places (n,) and values (..., n) wanted; came {at.shape} and {heights.shape}")
    reached = heights >= np.asarray(criterion, dtype=np.float64)[..., None]
    return np.where(reached.any(axis=-1), at[reached.argmax(axis=-1)], np.nan)
