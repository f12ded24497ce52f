"""Selectivity among several classes: η², category index, class selectivity and its order, on held-out stimuli."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from featattn_neuro.arrays.counting import class_sums
from featattn_neuro.arrays.sorted_counts import is_tensor

Float = NDArray[np.float64]


class Omnibus(NamedTuple):
    """η² (units,) in [0, 1], F, and its p under normal errors with equal variance."""

    eta_squared: Float
    f: Float
    p: Float


def eta_squared(responses: ArrayLike, label: ArrayLike) -> Omnibus:
    """Share of a unit's variance that lies between classes: the omnibus beside pairwise d'.

    Parameters
    ----------
    responses : (..., n). label : (n,), two or more different values.

    Returns
    -------
    Omnibus, (...): η² = SS_between/SS_total (Fisher 1925); F with classes - 1 and n - classes degrees of freedom. NaN
    where all responses are equal, one is not finite, or no class has two members.

    Raises
    ------
    ValueError : not one label per response, fewer than two classes.

    >>> found = eta_squared([1.0, 3.0, 5.0, 7.0], ["a", "a", "b", "b"])
    >>> float(found.eta_squared), float(found.f)
    (0.8, 8.0)
    """
    values, codes, names, shape = _classes(responses, label)
    sums = class_sums(values, codes, names.size)
    n = sums.count[:, None]
    grand = (n * sums.mean).sum(axis=0) / codes.size
    between = (n * (sums.mean - grand) ** 2).sum(axis=0)
    within = np.where(sums.low == sums.high, 0.0, sums.squares).sum(axis=0)
    freedom = names.size - 1, codes.size - names.size
    varied = (sums.low.min(axis=0) < sums.high.max(axis=0)) & np.isfinite(grand) & (freedom[1] > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = between / (between + within)
        f = (between / freedom[0]) / (within / max(freedom[1], 1))
    p = stats.f.sf(f, *freedom) if freedom[1] > 0 else np.full(f.shape, np.nan)
    return Omnibus(*(np.where(varied, one, np.nan).reshape(shape) for one in (share, f, p)))


def category_index(responses: ArrayLike, inside: ArrayLike, *, rectify: bool = False) -> Float:
    """(R_in - R_out)/(R_in + R_out) of mean responses within and outside a category named beforehand.

    Parameters
    ----------
    responses : (..., n), >= 0. inside : boolean (n,). rectify : set negative responses to 0 instead of refusing them.

    Returns
    -------
    (...) in [-1, 1]; 1/3 = twice the response. NaN where both means are 0.

    >>> float(category_index([2.0, 4.0, 1.0, 1.0], [True, True, False, False]))
    0.5
    """
    member = np.asarray(inside)
    if member.dtype != np.bool_ or member.all() or not member.any():
        raise ValueError("inside must be boolean and name stimuli within and outside the category")
    values = _non_negative(responses, rectify)
    one, other = values[..., member].mean(axis=-1), values[..., ~member].mean(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (one - other) / (one + other)


class ClassSelectivity(NamedTuple):
    """Selectivity (units,) in [-1, 1], and the preferred class (units,), named by the other half of the stimuli."""

    selectivity: Float
    preferred: NDArray


def class_selectivity(
    responses: ArrayLike, label: ArrayLike, *, rng: np.random.Generator, rectify: bool = False
) -> ClassSelectivity:
    """(μ_max - μ_rest)/(μ_max + μ_rest), the preferred class chosen on one half of the stimuli, measured on the other.

    Parameters
    ----------
    responses : (units, n), >= 0. label : (n,); each class needs two stimuli.
    rng : deals the stimuli of each class to two halves.
    rectify : set negative responses to 0 instead of refusing them.

    Returns
    -------
    ClassSelectivity. Chosen and measured on the same stimuli the index would be above 0 for noise; here its expectation
    is then 0, but for the curvature of a ratio (-CV²/4 over the held-out stimuli of a class). NaN where
    both means are 0.

    Raises
    ------
    ValueError : negative responses without `rectify`, not one label per response, a class with one stimulus, one class
        alone.

    Notes
    -----
    Morcos, Barrett, Rabinowitz & Botvinick 2018; their index, held out.

    >>> rng = np.random.default_rng(0)
    >>> found = class_selectivity([[3.0, 3.0, 1.0, 1.0]], ["a", "a", "b", "b"], rng=rng)
    >>> float(found.selectivity[0]), str(found.preferred[0])
    (0.5, 'a')
    """
    first, second, names = _half_means(responses, label, rng, rectify)
    best = first.argmax(axis=0)
    units = np.arange(best.size)
    top = second[best, units]
    rest = (second.sum(axis=0) - top) / (names.size - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        index = (top - rest) / (top + rest)
    return ClassSelectivity(index, names[best])


def ordinal_selectivity(
    responses: ArrayLike, label: ArrayLike, *, rng: np.random.Generator, rectify: bool = False
) -> tuple[Float, NDArray]:
    """Mean response by rank of the class: ranked on one half of the stimuli, shown on the other.

    Parameters
    ----------
    As in `class_selectivity`.

    Returns
    -------
    curve (units, classes), the held-out mean response to the best, second best … class; order (units, classes), the
    classes themselves. A curve of noise is flat; ranked on the same stimuli it would fall.

    >>> rng = np.random.default_rng(0)
    >>> curve, order = ordinal_selectivity([[1.0, 1.0, 3.0, 3.0]], ["a", "a", "b", "b"], rng=rng)
    >>> curve.tolist(), order.tolist()
    ([[3.0, 1.0]], [['b', 'a']])
    """
    first, second, names = _half_means(responses, label, rng, rectify)
    order = np.argsort(-first, axis=0, kind="stable")
    return np.take_along_axis(second, order, axis=0).T, names[order].T


def _half_means(
    responses: ArrayLike, label: ArrayLike, rng: np.random.Generator, rectify: bool
) -> tuple[Float, Float, NDArray]:
    """Class means (classes, units) over two random halves of each class, and the names of the classes."""
    values, codes, names, _ = _classes(_non_negative(responses, rectify), label)
    counts = np.bincount(codes)
    if counts.min() < 2:
        raise ValueError(f"each class needs two stimuli, one for each half; {names[counts.argmin()]!r} has one")
    half = np.zeros(codes.size, dtype=bool)
    for one in range(names.size):
        members = rng.permutation(np.flatnonzero(codes == one))
        half[members[: members.size // 2]] = True
    first, second = (class_sums(values[:, part], codes[part], names.size).mean for part in (half, ~half))
    return first, second, names


def _classes(responses: ArrayLike, label: ArrayLike) -> tuple[NDArray, NDArray[np.intp], NDArray, tuple[int, ...]]:
    values = np.asarray(responses.cpu()) if is_tensor(responses) else np.asarray(responses)  # type: ignore[union-attr]
    names, codes = np.unique(np.asarray(label), return_inverse=True)
    if values.ndim == 0 or codes.shape != values.shape[-1:]:
        raise ValueError(f"label must be one per response along the last axis; came {codes.shape}, {values.shape}")
    if names.size < 2:
        raise ValueError(f"two classes or more are needed; came {names.tolist()}")
    return values.reshape(-1, values.shape[-1]), codes, names, values.shape[:-1]


def _non_negative(responses: ArrayLike, rectify: bool) -> Float:
    values = np.asarray(responses, dtype=np.float64)
    if rectify:
        return np.maximum(values, 0.0)
    if (values < 0).any():
        raise ValueError(
            f"this index is defined for responses >= 0; {int((values < 0).sum())} are negative; "
            "take a rectified site, or pass rectify=True"
        )
    return values
