"""Points of the ROC curves of chosen units, for drawing."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import xarray as xr

from featattn_neuro.arrays.roc import roc_curve
from featattn_neuro.errors import DataError, choose
from featattn_neuro.measures.selectivity import checked_activations, resolve_target, single_reduction


def roc_points(activations: xr.Dataset, target: str | int | xr.DataArray, units: Sequence[str]) -> pd.DataFrame:
    """Hit rate against false-alarm rate of chosen units, one row per threshold.

    Parameters
    ----------
    activations : ACTIVATIONS. target : one task, as in `selectivity`. units : ids of units.

    Returns
    -------
    DataFrame: `unit`, `false_alarms`, `hits`, rates in [0, 1] from (0, 0) to (1, 1); a response counts as "target" at
    or above the threshold. Ties move both rates at once, so the area under straight lines is the ROC area.

    Raises
    ------
    DataError : several tasks, no distractors, a response of a chosen unit that is NaN or infinite. ConfigError :
    unknown label value or unit.

    >>> import xarray as xr
    >>> unit = {"unit": ["c/0"], "layer": ("unit", ["c"]), "channel": ("unit", [0])}
    >>> shown = {"stimulus": list("abc"), "label": ("stimulus", ["x", "y", "y"])}
    >>> recorded = xr.Dataset({"response": (("stimulus", "unit"), [[2.0], [1.0], [2.0]])}, unit | shown)
    >>> found = roc_points(recorded, "x", ["c/0"])
    >>> found[["false_alarms", "hits"]].values.tolist()
    [[0.0, 0.0], [0.5, 1.0], [1.0, 1.0]]
    """
    recorded = single_reduction(checked_activations(activations))
    wanted = resolve_target(recorded, target)
    if wanted.ndim != 1:
        raise DataError(f"wanted one task; came {wanted.sizes['task']}; draw the points of one target at a time")
    known = [str(name) for name in recorded["unit"].values]
    frames = []
    for name in units:
        values = recorded["response"].sel(unit=choose(str(name), known, "unit")).values
        try:
            curve = roc_curve(values, wanted.values)
        except ValueError as error:
            raise DataError(f"unit {str(name)!r} has no ROC curve: {error}") from error
        points = {"unit": str(name), "false_alarms": curve.false_alarm_rate, "hits": curve.hit_rate}
        frames.append(pd.DataFrame(points))
    return pd.concat(frames, ignore_index=True)
