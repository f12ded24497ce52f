"""The figure of doses: a point per network and dose, the dose that was learned marked."""

from __future__ import annotations

import numpy as np
import xarray as xr

from featattn_neuro.report.figures import doses_figure
from featattn_neuro.report.style import png_bytes
from featattn_neuro.report.tables import doses_table


def one(seed: int) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    dose = np.array([0.0, 0.5, 1.0])
    spread = dose[:, None, None] * rng.uniform(0.1, 0.4, (1, 2, 3))
    coords = {"dose": dose, "layer": ["relu1", "relu2"], "task": list("abc")}
    table = {
        "auc": (("dose", "task"), rng.uniform(0.7, 0.9, (3, 3))),
        "sd_log_gain": (("dose", "layer", "task"), spread),
    }
    return xr.Dataset(table, coords, {"kind": "DOSES"})


def test_points_are_means_of_the_stored_values() -> None:
    doses = {"n0": one(0), "n1": one(1)}
    axes = doses_figure(doses).axes[0]
    points = [line for line in axes.lines if line.get_marker() == "o"]
    assert len(points) == 6
    wanted = [
        (float(ds["sd_log_gain"].sel(dose=d).mean()), float(ds["auc"].sel(dose=d).mean()))
        for ds in doses.values()
        for d in ds["dose"].values
    ]
    found = [(float(np.asarray(p.get_xdata()).item()), float(np.asarray(p.get_ydata()).item())) for p in points]
    np.testing.assert_allclose(found, wanted)
    assert sum(p.get_markerfacecolor() != "white" for p in points) == 2  # dose 1, once a network
    assert len(png_bytes(doses_figure(doses))) > 5000


def test_table_has_a_row_per_dose_layer_and_task() -> None:
    table = doses_table({"n0": one(0)})
    assert len(table) == 3 * 2 * 3
    assert list(table.columns) == ["network", "task", "dose", "layer", "sd_log_gain", "auc"]
