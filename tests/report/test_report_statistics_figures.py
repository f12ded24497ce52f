"""Figures of statistics show what their tables say; tables are written in four formats."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sklearn.metrics import roc_auc_score

from featattn_neuro.errors import ConfigError, DataError, StoreError
from featattn_neuro.measures.network_tests import gain_by_selectivity, layer_intervals, task_permutation_null
from featattn_neuro.measures.roc_points import roc_points
from featattn_neuro.measures.tuning import tuning
from featattn_neuro.report import statistics_figures as figures
from featattn_neuro.report.results import read_results
from featattn_neuro.report.style import png_bytes
from featattn_neuro.report.tables import write_table


@pytest.fixture
def results(results_folder):
    return read_results(results_folder)


def test_layer_forest_shows_every_network_and_interval(results):
    table = layer_intervals(results.association)
    whole = table[table["network"] == ""]
    own = table[(table["network"] != "") & (table["layer"] == "relu1") & (table["quantity"] == "specific")]
    assert whole["estimate"].iloc[1] == pytest.approx(own["estimate"].mean())
    figure = figures.layer_forest_figure(table)
    right = figure.axes[1]
    drawn = [np.asarray(line.get_xdata(), float) for line in right.lines]
    assert any(len(x) == 3 and np.allclose(np.sort(x), np.sort(own["estimate"])) for x in drawn)
    row = whole[(whole["layer"] == "relu1") & (whole["quantity"] == "specific")].iloc[0]
    assert any(len(x) == 2 and np.allclose(x, [row["ci_low"], row["ci_high"]]) for x in drawn)
    assert len(png_bytes(figure)) > 5000


def test_layer_means_are_those_of_the_association(results):
    table = layer_intervals(results.association)
    per_network = table[(table["network"] == "net0") & (table["quantity"] == "matched")]["estimate"].mean()
    # the mean over layers of the matched z is what the association stores
    assert per_network == pytest.approx(float(results.association["net0"]["matched"].sel(measure="dprime")))


def test_gain_by_selectivity_by_hand(results):
    gains = {n: ds.sel(arm="gain") for n, ds in results.gains.items()}
    table = gain_by_selectivity(gains, results.selectivity, bins=3)
    net = results.selectivity["net1"]
    live = (net["live"].values == 1) & (net["layer"].values == "relu2")
    score, gain = np.abs(net["dprime"].values[:, live]), np.log(gains["net1"]["gain"].values[:, live])
    gain = gain - gain.mean(axis=1, keepdims=True)
    lowest = np.mean([gain[t, np.argsort(score[t])[:5]].mean() for t in range(4)])
    alone = gain_by_selectivity({"net1": gains["net1"]}, {"net1": net}, bins=3)
    assert alone[(alone["layer"] == "relu2") & (alone["bin"] == 1)]["log_gain"].iloc[0] == pytest.approx(lowest)
    figure = figures.gain_by_selectivity_figure(table)
    assert [axes.get_title("left") for axes in figure.axes] == ["relu1", "relu2"]
    line = figure.axes[1].lines[-1]
    here = table[table["layer"] == "relu2"]
    np.testing.assert_allclose(line.get_ydata(), np.exp(here["log_gain"]))


def test_null_figure_marks_the_observed_value(results):
    observed, null = task_permutation_null(results.association, permutations=99)
    assert null.shape == (99,)
    matched = np.mean([float(one["matched"][0]) for one in results.association.values()])
    assert observed == pytest.approx(matched)
    figure = figures.null_figure({"tasks": (observed, null)}, label="z")
    assert figure.axes[0].lines[0].get_xdata()[0] == observed
    with pytest.raises(DataError, match="came none"):
        figures.null_figure({})


def activations(rng):
    values = np.maximum(rng.normal(size=(40, 3)) + (np.arange(40) < 12)[:, None] * [0, 1, 2], 0)
    label = np.where(np.arange(40) < 12, "cat", "dog")
    unit = {"unit": ["c/0", "c/1", "c/2"], "layer": ("unit", ["c"] * 3), "channel": ("unit", [0, 1, 2])}
    return xr.Dataset(
        {"response": (("stimulus", "unit"), values)},
        {"stimulus": [f"s{i}" for i in range(40)], "label": ("stimulus", label), **unit},
    )


def test_area_under_the_roc_points_is_the_roc_area():
    recorded = activations(np.random.default_rng(0))
    points = roc_points(recorded, "cat", ["c/0", "c/2"])
    for name, curve in points.groupby("unit"):
        wanted = roc_auc_score(recorded["label"] == "cat", recorded["response"].sel(unit=name))
        assert np.trapezoid(curve["hits"], curve["false_alarms"]) == pytest.approx(wanted)
    figure = figures.roc_figure(points, areas={"c/0": 0.5})
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["c/0  0.500", "c/2"]
    with pytest.raises(ConfigError, match="unknown unit 'c/9'"):
        roc_points(recorded, "cat", ["c/9"])
    with pytest.raises(DataError, match="wanted one task; came 2"):
        roc_points(recorded, ["cat", "dog"], ["c/0"])
    recorded["response"][3, 0] = np.nan
    with pytest.raises(DataError, match="unit 'c/0' has no ROC curve: responses must be finite; 1 are not"):
        roc_points(recorded, "cat", ["c/0"])


def test_tuning_figure_draws_means_and_errors():
    rng = np.random.default_rng(0)
    trials = {"trial": np.arange(60), "stimulus": ("trial", np.arange(60) % 6)}
    trials["stimulus"] = ("trial", [f"x{k % 6}" for k in range(60)])
    trials["level"] = ("trial", np.arange(60) % 6 * 30.0)
    spikes = xr.Dataset(
        {"response": (("trial", "unit"), rng.poisson(5, size=(60, 5)).astype(float))},
        trials | {"unit": [f"V4/{k}" for k in range(5)]},
    )
    curves = tuning(spikes)
    figure = figures.tuning_figure(curves, level_name="orientation (degrees)")
    assert [axes.get_title("left") for axes in figure.axes if axes.get_visible()] == [f"V4/{k}" for k in range(5)]
    np.testing.assert_allclose(figure.axes[3].lines[0].get_ydata(), curves["curve"].values[3])
    with pytest.raises(DataError, match="'V1/0' is none"):
        figures.tuning_figure(curves, units=["V1/0"])


def test_wrong_tables_are_refused():
    with pytest.raises(DataError, match="wanted a table of layer_intervals"):
        figures.layer_forest_figure(pd.DataFrame({"a": [1]}))


TABLE = pd.DataFrame({"layer": ["a_1", "b|c"], "rho": [-0.123456, np.nan], "n_live": [12, 7]})


def test_markdown_and_latex_are_for_people(tmp_path):
    pytest.importorskip("tabulate", reason="tabulate is not installed")
    markdown = write_table(TABLE, tmp_path / "t.md").read_text()
    assert markdown.splitlines()[0].split() == ["|", "layer", "|", "rho", "|", "n_live", "|"]
    assert "−0.1235" in markdown
    assert "b\\|c" in markdown
    assert "–" in markdown
    latex = write_table(TABLE, tmp_path / "t.tex").read_text()
    assert r"n\_live" in latex
    assert r"a\_1 & $-$0.1235 & 12" in latex
    assert latex.startswith(r"\begin{tabular}")
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["t.md", "t.tex"]


def test_parquet_keeps_types_or_names_what_is_missing(tmp_path, monkeypatch):
    def absent(self, *_args, **_options):
        raise ImportError("pyarrow")

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_parquet", absent)
        with pytest.raises(StoreError, match=r"pyarrow is not installed; pip install 'featattn_neuro\[tables\]'"):
            write_table(TABLE, tmp_path / "t.parquet")
    assert not list(tmp_path.iterdir())
    pytest.importorskip("pyarrow")
    back = pd.read_parquet(write_table(TABLE, tmp_path / "t.parquet"))
    pd.testing.assert_frame_equal(back, TABLE)


def test_unknown_formats_print_the_table(tmp_path):
    with pytest.raises(ConfigError, match=r"choose one of: \.csv, \.parquet, \.md, \.tex"):
        write_table(TABLE, tmp_path / "t.xlsx")
