"""Fits give back the curves that data were made from, and say where there is nothing to fit."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.measures.tuning_fit import fit_tuning_curves
from featattn_neuro.schema import TUNING


def curves_of(
    curve: np.ndarray, level: np.ndarray, parameter: str = "level", status: list[str] | None = None
) -> xr.Dataset:
    units = len(curve)
    return TUNING.check(
        xr.Dataset(
            {"curve": (("unit", "level"), curve), "status": ("unit", status or ["ok"] * units)},
            {"unit": [f"u{k}" for k in range(units)], "level": level},
            {"kind": "TUNING", "parameter": parameter},
        )
    )


def test_parameters_are_given_back_by_the_name_of_the_parameter():
    angles = np.arange(0, 180, 15.0)
    preferred, kappa = np.array([10.0, 90.0, 171.0]), np.array([0.8, 2.0, 5.0])
    curve = 3 + 7 * np.exp(kappa[:, None] * (np.cos(2 * np.deg2rad(angles - preferred[:, None])) - 1))
    found = fit_tuning_curves(curves_of(curve, angles, "orientation"))
    assert found.attrs["fit_form"] == "von_mises"
    np.testing.assert_allclose(found["fit_preferred"], preferred, atol=1e-3)
    np.testing.assert_allclose(found["fit_width"], kappa, rtol=1e-3)
    np.testing.assert_allclose(found["fit_baseline"], 3, rtol=1e-3)
    np.testing.assert_allclose(found["fit_amplitude"], 7, rtol=1e-3)
    np.testing.assert_allclose(found["fit_r2"], 1, atol=1e-6)
    # κ = 2: 24.2545° from the trough
    assert float(found["fit_half_width"][1]) == pytest.approx(24.2545, abs=1e-3)
    at = found["fit_level"].values
    np.testing.assert_allclose(found["fit"][1], 3 + 7 * np.exp(2 * (np.cos(2 * np.deg2rad(at - 90)) - 1)), atol=1e-3)

    frequency = 2.0 ** np.arange(-1, 6)
    band = 1 + 4 * np.exp(-(np.log(frequency / 5) ** 2) / (2 * 0.7**2))
    found = fit_tuning_curves(curves_of(band[None], frequency, "spatial_frequency"))
    assert found.attrs["fit_form"] == "log_gaussian"
    assert float(found["fit_preferred"][0]) == pytest.approx(5, rel=1e-3)
    disparity = np.linspace(-1.6, 1.6, 9)
    bump = 2 + 5 * np.exp(-((disparity - 0.3) ** 2) / (2 * 0.4**2))
    found = fit_tuning_curves(curves_of(bump[None], disparity))
    assert found.attrs["fit_form"] == "gaussian"
    assert float(found["fit_preferred"][0]) == pytest.approx(0.3, abs=1e-3)


def test_units_without_tuning_have_no_parameters():
    level = np.arange(6.0)
    curve = np.array([[0.0] * 6, [2.0] * 6, [1, 2, np.nan, np.nan, 1, 3.0], [1, 2, 5, 2, 1, 1.0]])
    found = fit_tuning_curves(curves_of(curve, level, status=["dead", "constant", "ok", "ok"]))
    assert found["fit_status"].values.tolist() == ["dead", "constant", "too_few", "ok"]
    assert np.isnan(found["fit_width"].values).tolist() == [True, True, True, False]
    assert np.isnan(found["fit"].values[:3]).all()


def test_what_cannot_be_fitted_is_refused():
    curve, level = np.arange(6.0)[None], np.arange(6.0)
    with pytest.raises(DataError, match="needs five levels or more; came 4"):
        fit_tuning_curves(curves_of(curve[:, :4], level[:4]))
    with pytest.raises(DataError, match="are names"):
        fit_tuning_curves(curves_of(curve, level).assign_coords(level_name=("level", list("abcdef"))))
    with pytest.raises(DataError, match="levels above 0"):
        fit_tuning_curves(curves_of(curve, level, "spatial_frequency"))
    with pytest.raises(ConfigError, match="unknown form of a tuning curve 'gabor'"):
        fit_tuning_curves(curves_of(curve, level), form="gabor")


def test_directions_are_fitted_on_their_circle():
    angles = np.arange(0, 360, 30.0)
    preferred = np.array([0.0, 100.0, 345.0])
    curve = 3 + 7 * np.exp(2 * (np.cos(np.deg2rad(angles - preferred[:, None])) - 1))
    found = fit_tuning_curves(curves_of(curve, angles, "direction"))
    assert found.attrs["fit_form"] == "direction"
    away = np.abs((found["fit_preferred"].values - preferred + 180) % 360 - 180)
    np.testing.assert_allclose(away, 0, atol=1e-3)
    np.testing.assert_allclose(found["fit_half_width"], 2 * 24.2545, rtol=1e-3)
