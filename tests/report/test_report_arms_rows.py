"""Arms on the page: means over networks in rounded numbers, and whether the search was wide enough."""

from __future__ import annotations

import html

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from featattn_neuro.report.arms_rows import arms_rows, at_end_sentence
from featattn_neuro.report.columns import COLUMNS
from featattn_neuro.report.page import write_page


def tables(**changed: list[float]) -> dict[str, pd.DataFrame]:
    nan = np.nan
    values = {
        "arm": ["ungained", "probe", "gain", "adabn"],
        "n_networks": [5, 5, 5, 0],
        "auc": [0.865, 0.891, 0.903, nan],
        "difference_probe": [-0.026, nan, 0.0118, nan],
        "difference_low_probe": [-0.0287, nan, 0.0066, nan],
        "difference_high_probe": [-0.023, nan, 0.0169, nan],
        "to_criterion_updates": [nan, nan, 115.0, nan],
        "at_end_of_search": [nan, 5.0, 2.0, nan],
    }
    return {"arms_summary": pd.DataFrame(values | changed).reindex(columns=list(COLUMNS["arms_summary"]))}


def test_rows_are_rounded_and_columns_without_content_are_left_out():
    rows = arms_rows(tables())
    assert list(rows[0]) == ["arm", "ROC area", "− probe", "updates to criterion", "at an end of the search"]
    assert list(rows[2].values()) == ["gain, frozen head", "0.903", "+0.0118 [+0.0066, +0.0169]", "115", "2 of 5"]
    assert rows[0]["at an end of the search"] == ""
    assert list(rows[3].values()) == ["AdaBN", "", "not applicable", "", ""]
    assert arms_rows({}) == []
    alone = tables(**{name: [np.nan] * 4 for name in ("difference_probe", "to_criterion_updates", "at_end_of_search")})
    assert arms_rows(alone)[3] == {"arm": "AdaBN", "ROC area": "not applicable"}


def test_arms_that_chose_at_an_end_in_most_networks_are_named():
    assert "most of the networks: probe (new head). A better one" in at_end_sentence(tables())
    assert at_end_sentence(tables(at_end_of_search=[np.nan, 2.0, 1.0, np.nan])).startswith("No arm chose")
    assert at_end_sentence(tables(at_end_of_search=[np.nan] * 4)) == ""
    assert at_end_sentence({}) == ""


@pytest.mark.parametrize("interval", ["network", "none"])
def test_the_page_says_what_the_brackets_are_where_there_are_some(results_folder, interval):
    path = results_folder / "claims.nc"
    claims = xr.load_dataset(path, engine="h5netcdf").assign_attrs(interval=interval)
    claims.to_netcdf(path, engine="h5netcdf")
    text = html.unescape(write_page(results_folder).read_text(encoding="utf-8"))
    summary = pd.read_csv(results_folder / "tables" / "arms_summary.csv", index_col="arm")
    assert f"<td>{summary.loc['gain_head', 'difference_probe']:+.4f}".replace("-", "−") in text
    assert ("95 % t intervals over networks" in text) == (interval == "network")
