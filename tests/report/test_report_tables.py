"""Tables: frozen columns, full precision, ids kept, undefined kept undefined."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from featattn_neuro.errors import SchemaError, StoreError
from featattn_neuro.report import tables
from featattn_neuro.report.columns import COLUMNS, ONLY_WHERE_ASKED
from featattn_neuro.report.results import read_results


def test_every_table_has_its_frozen_columns_and_reads_back(results_folder):
    written = tables.write_tables(read_results(results_folder))
    assert set(written) == set(COLUMNS)
    for name, path in written.items():
        asked = ONLY_WHERE_ASKED.get(name, ())
        assert list(pd.read_csv(path).columns) == [column for column in COLUMNS[name] if column not in asked], name


def test_columns_that_were_asked_for_are_there(results_folder):
    results = read_results(results_folder)
    network, measured = next(iter(results.selectivity.items()))
    tested = measured.assign(dprime_p=measured["dprime"] * 0 + 0.25, family=measured["status"])
    found = tables.selectivity_table({network: tested, "plain": measured})
    columns = [c for c in COLUMNS["selectivity"] if c in found]
    assert list(found.columns) == columns
    assert [c for c in columns if c in ONLY_WHERE_ASKED["selectivity"]] == ["dprime_p", "family"]
    assert found.loc[found["network"] == "plain", "dprime_p"].isna().all()
    assert set(found["dprime_p"].dropna()) == {0.25}
    assert set(ONLY_WHERE_ASKED["selectivity"]) <= set(COLUMNS["selectivity"])


def test_values_survive_the_file_to_the_last_bit(results_folder):
    results = read_results(results_folder)
    path = tables.write_tables(results)["selectivity"]
    back = pd.read_csv(path, dtype={"task": str})
    for name, dataset in results.selectivity.items():
        rows = back[back["network"] == name].set_index(["task", "unit"])["dprime"]
        wanted = dataset["dprime"].to_series()
        assert rows.reindex(wanted.index).equals(wanted)


def test_dead_filters_are_empty_cells_with_a_reason(results_folder):
    text = tables.write_tables(read_results(results_folder))["selectivity"].read_text()
    dead = [line for line in text.splitlines() if ",dead," in line]
    assert len(dead) == 3 * 4 * 2
    columns = list(COLUMNS["selectivity"])
    assert {line.split(",")[columns.index("dprime")] for line in dead} == {""}


def test_rows_are_one_per_unit_or_comparison(results_folder):
    made = tables.all_tables(read_results(results_folder))
    keys = {
        "selectivity": ["network", "task", "unit"],
        "gains": ["network", "arm", "task", "unit"],
        "association": ["network", "measure", "task", "selectivity_task", "layer"],
        "arms": ["network", "arm", "task"],
        "curves": ["network", "arm", "task", "axis", "at"],
        "saliency": ["network", "layer"],
        "claims": ["claim"],
        "claims_by_network": ["claim", "network"],
        "association_summary": ["network", "measure"],
    }
    for name, key in keys.items():
        assert not made[name].duplicated(key).any(), name
        assert made[name][key].notna().all(axis=None), name
    assert made["association_summary"]["network"].tolist() == ["net0", "net1", "net2", "pooled"]
    assert len(made["arms"]) == 3 * 8 * 4
    undefined = made["arms"][made["arms"]["auc"].isna()]
    assert undefined["status"].unique().tolist() == ["undefined"]  # scores without targets and logits give no reason


def test_an_undefined_area_has_its_own_reason():
    target = np.zeros((4, 6), dtype=int)
    target[[0, 3], :3], target[1, 0] = 1, 1  # both classes, one target, none, both
    logit = np.arange(24.0).reshape(1, 4, 6).repeat(2, axis=0)
    logit[0, 0], logit[1, 0, 2] = 0.3, np.nan
    auc = np.full((2, 4), np.nan)
    auc[:, 3] = 0.7
    scores = xr.Dataset(
        {
            "auc": (("arm", "task"), auc),
            "logit": (("arm", "task", "stimulus"), logit),
            "target": (("task", "stimulus"), target),
        },
        {"arm": ["probe", "gain"], "task": list("abcd"), "stimulus": list("uvwxyz")},
    )
    found = tables.arms_table({"net0": scores})
    by_arm = found.groupby("arm", sort=False)["status"].agg(list)
    assert by_arm["probe"] == ["constant", "too_few", "single_class", "ok"]
    assert by_arm["gain"] == ["nonfinite", "too_few", "single_class", "ok"]
    assert list(found.columns) == [column for column in COLUMNS["arms"] if column in found]
    without = tables.arms_table({"net0": scores.assign(arm_status=("arm", ["ok", "not_applicable: no batch norm"]))})
    assert without["status"].tolist()[3:5] == ["ok", "not_applicable: no batch norm"]


def test_integers_stay_integers(results_folder):
    made = tables.all_tables(read_results(results_folder))
    assert made["arms"]["trained_numbers"].dtype.kind == "i"
    assert made["association"]["n_live"].dtype.kind == "i"


def test_wrong_kind_is_refused(results_folder):
    results = read_results(results_folder)
    with pytest.raises(SchemaError, match="wanted a Dataset of kind SELECTIVITY; came kind GAINS"):
        tables.selectivity_table(results.gains)


def test_write_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tables.write_table(pd.DataFrame({"a": [1]}), tmp_path / "t.csv")
    assert path.read_text() == "a\n1\n"

    def fail(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StoreError, match="No space left"):
        tables.write_table(pd.DataFrame({"a": [2]}), path)
    assert path.read_text() == "a\n1\n"
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_unwritable_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose another folder"):
        tables.write_table(pd.DataFrame({"a": [1]}), tmp_path / "file" / "t.csv")


def test_shortest_digits_that_read_back(tmp_path):
    values = np.array([0.1, 1 / 3, 1e-17, np.nan, 2.0**60])
    path = tables.write_table(pd.DataFrame({"v": values}), tmp_path / "v.csv")
    text = path.read_text().splitlines()
    assert text[1] == "0.1"
    back = [float(cell) if cell not in ("", '""') else np.nan for cell in text[1:]]
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize("broken", ["claims.nc", "gains/net1.nc"])
def test_unreadable_result_file_is_named(results_folder, broken):
    (results_folder / broken).write_bytes(b"not a file")
    with pytest.raises(StoreError, match=broken.split("/")[-1]):
        read_results(results_folder)


def test_empty_and_missing_folders(tmp_path):
    with pytest.raises(StoreError, match="found none"):
        read_results(tmp_path)
    with pytest.raises(StoreError, match="is none; start one"):
        read_results(tmp_path / "nowhere")


def test_choices_that_an_arm_has_not_are_no_rows(results_folder):
    table = tables.choices_table(read_results(results_folder).choices)
    first = table[table["network"] == table["network"][0]]
    tasks = first["task"].nunique()
    assert first.groupby("arm").size().to_dict() == {"full": 2 * tasks, "gain": 2 * tasks, "tuning": 3 * tasks}
    assert first.loc[first["arm"] == "tuning", ["rate", "penalty"]].isna().all(axis=None)
    assert sorted(first.loc[first["arm"] == "tuning", "strength"].unique()) == [0.0, 0.5, 1.0]
    assert first.loc[first["arm"] == "full", "rate"].unique().tolist() == [0.001, 0.003]
