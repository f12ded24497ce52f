"""Networks × tasks: is the grand mean different from 0 when a claim is to reach beyond the tasks that were used?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Float = NDArray[np.float64]


@dataclass(frozen=True)
class CrossedTest:
    """Result of `crossed_test`.

    estimate : grand mean of the table.
    ms_network, ms_task, ms_error : mean squares of the two-way table without replication.
    denominator : the largest of ms_network, ms_task and ms_network + ms_task - ms_error; `source` says which.
    f, df, p : F(1, df) = networks · tasks · estimate² / denominator, and its two-sided p.
    ci_low, ci_high : the interval of the same denominator, `level` as asked for.
    """

    estimate: float
    ms_network: float
    ms_task: float
    ms_error: float
    denominator: float
    source: str
    f: float
    df: float
    p: float
    ci_low: float
    ci_high: float


_NAN = float("nan")
_UNDEFINED = CrossedTest(_NAN, _NAN, _NAN, _NAN, _NAN, "undefined", _NAN, _NAN, _NAN, _NAN, _NAN)


def crossed_test(table: ArrayLike, *, level: float = 0.95) -> CrossedTest:
    """Conservative test that the grand mean of networks × tasks is 0, both taken as random.

    Parameters
    ----------
    table : (network, task), one number each. Networks or tasks with an undefined cell are refused: fill or drop first.
    level : of the interval.

    Returns
    -------
    CrossedTest; undefined (NaN) with fewer than two networks or two tasks, with a cell that is not finite, or where
    nothing varies.

    Notes
    -----
    The variance of the grand mean is (MS_network + MS_task - MS_error)/(networks · tasks) in expectation when both are
    random (Clark 1973, quasi-F; Satterthwaite 1946 for its degrees of freedom), MS_network when tasks are fixed, and
    MS_task when networks are. The estimate of the sum can fall below either of its parts, so the largest of the three
    is used with the smaller of the degrees of freedom, networks - 1 and tasks - 1: conservative on purpose.

    >>> found = crossed_test([[1.0, 2.0], [2.0, 3.0]])
    >>> found.estimate, found.ms_network, found.ms_task, found.ms_error, found.denominator
    (2.0, 1.0, 1.0, 0.0, 2.0)
    """
    values = np.asarray(table, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"table must be (network, task); came {values.shape}")
    n, t = values.shape
    if n < 2 or t < 2 or not np.isfinite(values).all():
        return _UNDEFINED
    mean = float(values.mean())
    rows, columns = values.mean(axis=1), values.mean(axis=0)
    ms_network = float(t * ((rows - mean) ** 2).sum() / (n - 1))
    ms_task = float(n * ((columns - mean) ** 2).sum() / (t - 1))
    residual = values - rows[:, None] - columns[None] + mean
    ms_error = float((residual**2).sum() / ((n - 1) * (t - 1)))
    choices = {"networks": ms_network, "tasks": ms_task, "networks + tasks": ms_network + ms_task - ms_error}
    source = max(choices, key=lambda name: choices[name])
    denominator, df = choices[source], float(min(n, t) - 1)
    if denominator <= 0:
        return _UNDEFINED
    f = n * t * mean**2 / denominator
    half = float(stats.t.ppf((1 + level) / 2, df) * np.sqrt(denominator / (n * t)))
    p = float(stats.f.sf(f, 1, df))
    return CrossedTest(
        mean, ms_network, ms_task, ms_error, denominator, source, float(f), df, p, mean - half, mean + half
    )
