"""Tuning curves of neurons or filters over a stimulus parameter."""

from __future__ import annotations

import numpy as np
import xarray as xr

from featattn_neuro.errors import DataError
from featattn_neuro.measures._join import aligned, without_scalars
from featattn_neuro.schema import ACTIVATIONS, NEURAL, TUNING


def tuning(responses: xr.Dataset, *, level: xr.DataArray | None = None) -> xr.Dataset:
    """Mean response of each unit at each value of a stimulus parameter.

    Parameters
    ----------
    responses : NEURAL with the coordinate `level` over trials, or ACTIVATIONS together with `level`.
    level : value of the parameter of each stimulus, over `stimulus`, matched by id; overrides the coordinate. A NaN
        level leaves the trial or stimulus out (a blank).

    Returns
    -------
    TUNING: `curve` (unit, level) in the units of the responses, `sem` (SD with ddof 1 over the square root of n; NaN
    below two), `n_trials`, and `status`: "too_few" with responses at fewer than two levels, "dead" if all are 0,
    "constant" if all are equal. Levels rise; a unit without response at a level is NaN there with n_trials 0.

    >>> import xarray as xr
    >>> trials = {"trial": [0, 1, 2], "stimulus": ("trial", ["x", "x", "y"]), "level": ("trial", [0.0, 0.0, 1.0])}
    >>> spikes = xr.Dataset({"response": (("trial", "unit"), [[1.0], [3.0], [7.0]])}, trials | {"unit": ["V1/0"]})
    >>> found = tuning(spikes)
    >>> found.curve.values.tolist(), found.n_trials.values.tolist()
    ([[2.0, 7.0]], [[2, 1]])
    """
    values, levels, coordinates = _observations(responses, level)
    keep = np.isfinite(levels)
    names, row = np.unique(levels[keep], return_inverse=True)
    if names.size < 2:
        raise DataError(f"a tuning curve needs two levels or more; came {names.size}; give the level of each stimulus")
    values = values[keep]
    seen = np.isfinite(values)
    counts, sums, squares = (np.zeros((names.size, values.shape[1])) for _ in range(3))
    np.add.at(counts, row, seen.astype(np.float64))
    np.add.at(sums, row, np.where(seen, values, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(counts > 0, sums / counts, np.nan)
        np.add.at(squares, row, np.where(seen, values - mean[row], 0.0) ** 2)
        sem = np.where(counts > 1, np.sqrt(squares / (counts - 1) / counts), np.nan)
    curves = {
        "curve": (("unit", "level"), mean.T),
        "sem": (("unit", "level"), sem.T),
        "n_trials": (("unit", "level"), counts.T.astype(np.int64)),
        "status": ("unit", [_status(values[:, k], counts[:, k]) for k in range(values.shape[1])]),
    }
    return TUNING.check(xr.Dataset(curves, {"level": names, **coordinates}))


def _observations(
    responses: xr.Dataset, level: xr.DataArray | None
) -> tuple[np.ndarray, np.ndarray, dict[str, tuple[str, np.ndarray]]]:
    """(observation, unit) responses, the level of each observation, and the coordinates of the units."""
    given = without_scalars(responses)
    neural = isinstance(given, xr.Dataset) and "trial" in given.dims
    checked = NEURAL.check(given) if neural else ACTIVATIONS.check(given)
    if level is not None:
        shown = np.unique(checked["stimulus"].values)
        ordered = aligned(level, "stimulus", shown, name="the levels", to="the responses")
        levels = ordered.sel(stimulus=checked["stimulus"].values).values.astype(np.float64)
    elif neural and "level" in checked.coords:
        levels = checked["level"].values.astype(np.float64)
    else:
        raise DataError(
            "a tuning curve needs the level of each stimulus; the responses have no coordinate 'level'; "
            "pass level, a DataArray over 'stimulus'"
        )
    if "reduction" in checked["response"].dims:
        raise DataError("the activations hold several reductions; wanted one; select it first, .sel(reduction=…)")
    first = "trial" if neural else "stimulus"
    names = [name for name in ("unit", "area", "subject") if name in checked.coords]
    values = checked["response"].transpose(first, "unit").values.astype(np.float64)
    return values, levels, {name: ("unit", checked[name].values) for name in names}


def _status(values: np.ndarray, counts: np.ndarray) -> str:
    seen = values[np.isfinite(values)]
    if (counts > 0).sum() < 2:
        return "too_few"
    if (seen == 0).all():
        return "dead"
    return "constant" if np.ptp(seen) == 0 else "ok"
