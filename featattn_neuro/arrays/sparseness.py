"""Sparseness of responses: of a unit over stimuli (lifetime), of a population for one stimulus; participation ratio."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]


def lifetime_sparseness(responses: ArrayLike, *, rectify: bool = False) -> Float:
    """How few stimuli carry a unit's response: S = (1 - a)/(1 - 1/n), a = (Σr/n)²/(Σr²/n).

    Parameters
    ----------
    responses : (..., n), >= 0, any units: mean responses to n >= 2 stimuli.
    rectify : set negative responses to 0 first; otherwise they are an error.

    Returns
    -------
    (...) in [0, 1]: 0 = the same response to all, 1 = response to one stimulus alone. NaN where all are 0 or one is
    not finite.

    Raises
    ------
    ValueError : fewer than two stimuli; negative responses without `rectify`.

    Notes
    -----
    Vinje & Gallant 2000, after Rolls & Tovee 1995.

    >>> lifetime_sparseness([[2.0, 2.0], [0.0, 3.0]]).tolist()
    [0.0, 1.0]
    """
    values = np.asarray(responses, dtype=np.float64)
    n = values.shape[-1] if values.ndim else 0
    if n < 2:
        raise ValueError(f"sparseness needs two stimuli or more along the last axis; came shape {values.shape}")
    if rectify:
        values = np.where(values < 0, 0.0, values)
    elif (values < 0).any():
        raise ValueError(
            f"sparseness is defined for responses >= 0; {int((values < 0).sum())} are negative "
            f"(lowest: {float(np.nanmin(values))}); take a rectified site, or pass rectify=True"
        )
    largest = values.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = values / largest  # the index does not depend on scale; squares of tiny responses would vanish
        activity = values.mean(axis=-1) ** 2 / (values**2).mean(axis=-1)
    constant = values.min(axis=-1) == 1.0
    return np.where(constant, 0.0, np.clip((1 - activity) / (1 - 1 / n), 0.0, 1.0))


def population_sparseness(responses: ArrayLike, *, rectify: bool = False) -> Float:
    """How few units carry the response to a stimulus: `lifetime_sparseness` over units.

    Parameters
    ----------
    responses : (..., units, n), >= 0.

    Returns
    -------
    (..., n), one value per stimulus.

    Raises
    ------
    ValueError : fewer than two units; negative responses without `rectify`.

    >>> population_sparseness([[1.0, 0.0], [1.0, 5.0]]).tolist()
    [0.0, 1.0]
    """
    return lifetime_sparseness(np.moveaxis(np.asarray(responses, dtype=np.float64), -2, -1), rectify=rectify)


def participation_ratio(covariance: ArrayLike) -> float:
    """Effective number of dimensions, (Σλ)²/Σλ² of the eigenvalues of a covariance: 1 … K.

    A description of how spread out variance is; never a number of degrees of freedom for an interval.

    Parameters
    ----------
    covariance : (K, K), symmetric. NaN where it is all 0.

    Notes
    -----
    Gao & Ganguli 2015. (tr C)²/tr C², so no eigenvalue is computed.

    >>> participation_ratio([[2.0, 0.0], [0.0, 2.0]]), participation_ratio([[1.0, 1.0], [1.0, 1.0]])
    (2.0, 1.0)
    """
    matrix = np.asarray(covariance, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a covariance must be square; came {matrix.shape}")
    if not np.allclose(matrix, matrix.T, rtol=1e-8, atol=1e-12 * max(1.0, float(np.abs(matrix).max(initial=0)))):
        raise ValueError("a covariance must be symmetric; the matrix given is not")
    squares = float((matrix**2).sum())
    return float(np.trace(matrix) ** 2 / squares) if squares > 0 else float("nan")
