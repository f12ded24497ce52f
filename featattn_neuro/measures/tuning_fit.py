"""Curves fitted to tuning: von Mises for orientations and directions, Gaussian, log-Gaussian."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from featattn_neuro.arrays.tuning_fits import FORMS, TuningFit, fit_tuning
from featattn_neuro.errors import DataError, choose
from featattn_neuro.measures._join import without_scalars
from featattn_neuro.schema import TUNING

USUAL = {"orientation": "von_mises", "direction": "direction", "spatial_frequency": "log_gaussian"}
"""Form by what the levels are, where the caller names none; "gaussian" for anything else."""

PARAMETERS = ("baseline", "amplitude", "preferred", "width", "half_width", "r2")
POINTS = 121
"""Levels at which the fitted curve is given."""


def fit_tuning_curves(curves: xr.Dataset, *, form: str | None = None, starts: int = 8) -> xr.Dataset:
    """Fit a curve to each unit's tuning, by least squares of its mean responses.

    Parameters
    ----------
    curves : TUNING over a numeric parameter, five levels or more.
    form : "von_mises" (orientations in degrees, period 180), "direction" (von Mises, period 360), "gaussian" or
        "log_gaussian" (levels above 0); None = by the parameter's name: orientation von_mises, direction direction,
        spatial_frequency log_gaussian, others gaussian.
    starts : widths that each fit is started from.

    Returns
    -------
    TUNING as given, with `fit_baseline`, `fit_amplitude` (>= 0; units of the responses), `fit_preferred` (of the level;
        degrees for von Mises), `fit_width` (κ of von Mises, SD of a Gaussian, SD of the log level), `fit_half_width`
        (half width at half height from the trough), `fit_r2` (of the means), `fit_status` ("ok", "too_few", "constant",
        "nonfinite", "dead"; parameters are NaN unless ok), and the curve `fit` (unit, fit_level). A fit of an untuned
        unit
        describes its noise: look at `p_selective` and the indices' floors first.

    Raises
    ------
    DataError : levels that are names, fewer than five of them, or, for "log_gaussian", not above 0. ConfigError : an
        unknown form.

    Notes
    -----
    Swindale 1998 (von Mises of orientation tuning).

    >>> angles = np.arange(0, 180, 15.0)
    >>> means = 2 + 8 * np.exp(2 * (np.cos(2 * np.deg2rad(angles - 60)) - 1))
    >>> variables = {"curve": (("unit", "level"), means[None]), "status": ("unit", ["ok"])}
    >>> one = xr.Dataset(variables, {"unit": ["a"], "level": angles})
    >>> found = fit_tuning_curves(one, form="von_mises")
    >>> round(found.fit_preferred.item(), 3), round(found.fit_half_width.item(), 3)
    (60.0, 24.255)
    """
    checked = TUNING.check(without_scalars(curves))
    parameter = str(checked.attrs.get("parameter", "level"))
    wanted = choose(form or USUAL.get(parameter, "gaussian"), FORMS, "form of a tuning curve")
    level = checked["level"].values.astype(np.float64)
    if "level_name" in checked.coords:
        raise DataError(f"the levels of {parameter!r} are names; a curve can only be fitted over numbers")
    if level.size < 5:
        raise DataError(f"a fit of four parameters needs five levels or more; came {level.size}; show more")
    if wanted == "log_gaussian" and (level <= 0).any():
        raise DataError("a log_gaussian needs levels above 0; leave the blank out, or pass form='gaussian'")
    dense = _dense(level, wanted)
    fits = [
        fit_tuning(curve, level, wanted, starts=starts) if status == "ok" else _nothing(wanted, str(status))
        for curve, status in zip(checked["curve"].values, checked["status"].values, strict=True)
    ]
    added: dict[str, Any] = {
        f"fit_{name}": ("unit", np.array([getattr(one, name) for one in fits])) for name in PARAMETERS
    }
    added["fit_status"] = ("unit", np.array([one.status for one in fits]))
    added["fit"] = (("unit", "fit_level"), np.stack([one(dense) for one in fits]))
    found = checked.assign(added).assign_coords(fit_level=dense)
    return TUNING.check(found.assign_attrs(fit_form=wanted, fit_starts=int(starts)))


def _dense(level: np.ndarray, form: str) -> np.ndarray:
    if form == "log_gaussian":
        return np.geomspace(level.min(), level.max(), POINTS)
    return np.linspace(level.min(), level.max(), POINTS)


def _nothing(form: str, status: str) -> TuningFit:
    nan = float("nan")
    return TuningFit(form, nan, nan, nan, nan, nan, nan, nan, status)
