"""Orientation and direction selectivity from mean responses to angles, with the floor that noise alone gives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]


def check_angles(angles: ArrayLike, period: float) -> Float:
    """Angles in degrees, refused unless they tile `period` once, equally spaced, in any order.

    >>> check_angles([0, 90], 180).tolist()
    [0.0, 90.0]
    """
    degrees = np.asarray(angles, dtype=np.float64)
    if degrees.ndim != 1 or degrees.size < 2 or not np.isfinite(degrees).all():
        raise ValueError(f"angles must be two or more finite numbers in degrees; came shape {degrees.shape}")
    ordered = np.sort(degrees % period)
    gaps = np.diff(np.r_[ordered, ordered[0] + period])
    if not np.allclose(gaps, period / degrees.size, atol=1e-6 * period):
        raise ValueError(
            f"angles must tile {period:g} degrees once, equally spaced ({period:g} is the same as 0); "
            f"came {np.sort(degrees).tolist()}, with gaps {gaps.round(4).tolist()}; average repeats, leave out copies"
        )
    return degrees


def _tile(degrees: Float, period: float) -> bool:
    try:
        check_angles(degrees, period)
    except ValueError:
        return False
    return True


def orientation_selectivity(responses: ArrayLike, angles: ArrayLike) -> Float:
    """|Σ r exp(2iθ)|/Σ r, which is 1 - circular variance: 0 = no preference, 1 = one orientation alone.

    Parameters
    ----------
    responses : (..., angles), >= 0: mean response to each angle.
    angles : degrees. Orientations tile 180 once; directions that tile 360 once are taken too (an even number), where
        both directions of an orientation count.

    Returns
    -------
    (...) in [0, 1]. Biased upwards by noise: .057 for a flat Poisson unit of mean 2 at 12 angles and 10 trials; see
    `selectivity_floor`. NaN where all responses are 0.

    Raises
    ------
    ValueError : angles that do not tile 180 or 360 degrees, not one response per angle, negative responses.

    Notes
    -----
    Swindale 1998; Ringach, Shapley & Hawken 2002; recommended over preferred-minus-orthogonal by Mazurek et al. 2014.

    >>> float(orientation_selectivity([0.0, 4.0, 0.0, 0.0], [0, 45, 90, 135]))
    1.0
    """
    degrees = np.asarray(angles, dtype=np.float64)
    # whichever of the two they tile: how far they reach says nothing, orientations may be coded −90 … 60
    check_angles(degrees, 360 if degrees.size > 2 and degrees.size % 2 == 0 and _tile(degrees, 360) else 180)
    return _vector_length(responses, degrees, 2)


def direction_selectivity(responses: ArrayLike, angles: ArrayLike) -> Float:
    """|Σ r exp(iθ)|/Σ r over directions that tile 360 degrees once; else as `orientation_selectivity`.

    Raises
    ------
    ValueError : angles that do not tile 360 degrees, not one response per angle, negative responses.

    >>> float(direction_selectivity([4.0, 4.0, 4.0, 4.0], [0, 90, 180, 270]))
    0.0
    """
    return _vector_length(responses, check_angles(angles, 360), 1)


def preferred_minus_orthogonal(responses: ArrayLike, angles: ArrayLike) -> Float:
    """(R_preferred - R_orthogonal)/(R_preferred + R_orthogonal); offered, not the default: noise biases it more.

    Parameters
    ----------
    responses : (..., angles), >= 0. angles : degrees that tile 180 once, an even number of them.

    Returns
    -------
    (...) in [-1, 1]; .177 for the flat Poisson unit of `orientation_selectivity`. NaN where both responses are 0.

    >>> float(preferred_minus_orthogonal([3.0, 9.0, 2.0, 1.0], [0, 45, 90, 135]))
    0.8
    """
    degrees = check_angles(angles, 180)
    if degrees.size % 2:
        raise ValueError(f"an orthogonal angle needs an even number of angles; came {degrees.size}")
    order = np.argsort(degrees % 180)
    values = _non_negative(responses, degrees.size)[..., order]
    best = values.argmax(axis=-1)[..., None]
    preferred = np.take_along_axis(values, best, axis=-1)[..., 0]
    orthogonal = np.take_along_axis(values, (best + degrees.size // 2) % degrees.size, axis=-1)[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        return (preferred - orthogonal) / (preferred + orthogonal)


def selectivity_floor(
    trials: ArrayLike,
    angles: ArrayLike,
    index: Callable[[ArrayLike, ArrayLike], Float] = orientation_selectivity,
    *,
    permutations: int = 200,
    rng: np.random.Generator,
) -> tuple[Float, Float]:
    """What an index is for units without any preference: its mean, and p, when trials are dealt to angles at random.

    Parameters
    ----------
    trials : (..., angles, repeats), >= 0: responses of single trials, as many at each angle.
    index : one of this module.
    permutations : random deals, the same for all units.

    Returns
    -------
    floor (...), the mean index over deals; p (...) = (1 + #{index >= observed})/(1 + permutations). NaN where the index
    is undefined.

    >>> rng = np.random.default_rng(0)
    >>> floor, p = selectivity_floor(np.ones((4, 5)), [0, 45, 90, 135], permutations=9, rng=rng)
    >>> float(abs(floor).round(9)), float(p)
    (0.0, 1.0)
    """
    values = np.asarray(trials, dtype=np.float64)
    if values.ndim < 2 or permutations < 1:
        raise ValueError(f"trials must be (..., angles, repeats), permutations at least 1; came {values.shape}")
    observed = np.asarray(index(values.mean(axis=-1), angles))
    flat = values.reshape(*values.shape[:-2], -1)
    total, beyond = np.zeros(observed.shape), np.zeros(observed.shape)
    for _ in range(permutations):
        dealt = flat[..., rng.permutation(flat.shape[-1])].reshape(values.shape)
        found = np.asarray(index(dealt.mean(axis=-1), angles))
        total += found
        beyond += found >= observed - 1e-12
    p = np.where(np.isfinite(observed), (1 + beyond) / (1 + permutations), np.nan)
    return total / permutations, p


def _vector_length(responses: ArrayLike, degrees: Float, harmonic: int) -> Float:
    values = _non_negative(responses, degrees.size)
    vector = values @ np.exp(1j * harmonic * np.deg2rad(degrees))
    with np.errstate(divide="ignore", invalid="ignore"):
        length = np.abs(vector) / values.sum(axis=-1)
    return np.where(length < 1e-12, 0.0, np.minimum(length, 1.0))


def _non_negative(responses: ArrayLike, size: int) -> Float:
    values = np.asarray(responses, dtype=np.float64)
    if values.ndim == 0 or values.shape[-1] != size:
        raise ValueError(f"responses must be (..., {size}), one per angle; came {values.shape}")
    if (values < 0).any():
        raise ValueError(
            f"angular selectivity is defined for responses >= 0; {int((values < 0).sum())} are negative; "
            "take a rectified site, or subtract no baseline"
        )
    return values
