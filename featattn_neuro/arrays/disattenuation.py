"""What an association would be without measurement noise: shown under conditions, never a bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featattn_neuro.arrays.resampling import MIN_BOOTSTRAP, bootstrap_t_interval

MIN_RELIABILITY = 0.3
"""Below this reliability of either side no disattenuated value is given."""


@dataclass(frozen=True)
class Disattenuated:
    """Result of `disattenuated`.

    value : association / sqrt(product of the two reliabilities); NaN where suppressed. May exceed 1: no bound.
    ci_low, ci_high : studentised bootstrap over networks; NaN below ten networks.
    reliability_first, reliability_second : means over networks. n : networks with all three numbers.
    status : "ok", "unreliable" (a reliability below .3: suppressed), "too_few" (value, but no interval).
    """

    value: float
    ci_low: float
    ci_high: float
    reliability_first: float
    reliability_second: float
    n: int
    status: str


def disattenuated(
    association: ArrayLike,
    reliability_first: ArrayLike,
    reliability_second: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 1999,
    rng: np.random.Generator,
) -> Disattenuated:
    """Association divided by the root of the product of two reliabilities, all means over networks.

    Parameters
    ----------
    association, reliability_first, reliability_second : (network,) correlations; the reliabilities are those of the
        full measurement (stepped up from halves by Spearman–Brown). A network with an undefined one is left out.
    level, resamples, rng : of the bootstrap over networks.

    Notes
    -----
    Spearman 1904. It holds where the two measurements have independent errors, which signed d' and gains of disjoint
    images have and |d'| has not: with |d'| the ratio exceeded the true value, so it is no bound.

    >>> found = disattenuated([0.3, 0.3], [0.9, 0.9], [0.4, 0.4], rng=np.random.default_rng(0))
    >>> round(found.value, 3), found.status
    (0.5, 'too_few')
    """
    columns = [np.asarray(v, dtype=np.float64).ravel() for v in (association, reliability_first, reliability_second)]
    if len({column.size for column in columns}) != 1:
        raise ValueError(f"three numbers per network wanted; came {[column.size for column in columns]}")
    table = np.stack(columns, axis=1)
    table = table[np.isfinite(table).all(axis=1)]
    nan, n = float("nan"), len(table)
    if n == 0:
        return Disattenuated(nan, nan, nan, nan, nan, 0, "too_few")
    first, second = float(table[:, 1].mean()), float(table[:, 2].mean())
    if min(first, second) < MIN_RELIABILITY:
        return Disattenuated(nan, nan, nan, first, second, n, "unreliable")
    low, high = bootstrap_t_interval(table, _ratio, level=level, resamples=resamples, rng=rng)
    status = "ok" if n >= MIN_BOOTSTRAP else "too_few"
    return Disattenuated(float(_ratio(table)), low, high, first, second, n, status)


def _ratio(table: NDArray[np.float64]) -> NDArray[np.float64]:
    means = table.mean(axis=-2)
    product = means[..., 1] * means[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(product > 0, means[..., 0] / np.sqrt(product), np.nan))
