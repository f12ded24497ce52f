"""Figures of tuning show what they were given, and say where there is nothing to show."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from featattn_neuro.errors import ConfigError, DataError, StoreError
from featattn_neuro.io.store import save_kind
from featattn_neuro.measures.filter_matching import tuning_match
from featattn_neuro.report import style
from featattn_neuro.report.neural_page import write_neural_page
from featattn_neuro.report.tuning_figures import distribution_figure, match_figure, tuning_gallery
from featattn_neuro.schema import MATCH, TUNING


def tuning_of(units: int, group: str, *, names: bool = False, fitted: bool = False) -> xr.Dataset:
    rng = np.random.default_rng(units)
    curve = rng.uniform(1, 9, (units, 5))
    status = np.array(["ok"] * units)
    status[0] = "dead"
    depth = rng.random(units)
    depth[0] = np.nan
    coordinates = {
        "unit": [f"{group}/{k}" for k in range(units)],
        "level": np.arange(5.0),
        group: ("unit", [f"{group}{k % 3}" for k in range(units)]),
    }
    if group == "layer":
        coordinates["channel"] = ("unit", np.arange(units))
    if names:
        coordinates["level_name"] = ("level", list("abcde"))
    variables = {
        "curve": (("unit", "level"), curve),
        "low": (("unit", "level"), curve - 1),
        "high": (("unit", "level"), curve + 1),
        "p_selective": ("unit", rng.random(units)),
        "modulation_depth": ("unit", depth),
        "status": ("unit", status),
    }
    if fitted:
        coordinates["fit_level"] = np.linspace(0, 4, 9)
        variables["fit"] = (("unit", "fit_level"), np.full((units, 9), 4.0))
    return TUNING.check(
        xr.Dataset(variables, coordinates, {"kind": "TUNING", "parameter": "orientation", "units": "spikes"})
    )


def test_a_panel_per_unit_with_its_curve():
    tuning = tuning_of(4, "area", fitted=True)
    figure = tuning_gallery(tuning)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title("left") for axes in shown] == ["area/1", "area/2", "area/3"]  # the dead one is not shown
    for axes, unit in zip(shown, (1, 2, 3), strict=True):
        np.testing.assert_allclose(axes.lines[0].get_ydata(), tuning["curve"].values[unit])
        np.testing.assert_allclose(axes.lines[1].get_ydata(), 4.0)
        band = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert band.max() == pytest.approx(tuning["high"].values[unit].max())
    assert figure.get_supxlabel() == "orientation (°)"
    assert figure.get_supylabel() == "response (spikes)"
    assert len(tuning_gallery(tuning, units=["area/2"]).axes) == 1


def test_a_gallery_of_many_takes_the_surest_of_each_stretch():
    tuning = tuning_of(241, "area", names=True)
    shown = [axes.get_title("left") for axes in tuning_gallery(tuning).axes if axes.get_visible()]
    assert len(shown) == 24
    p = tuning["p_selective"].sel(unit=shown).values
    for stretch, value in zip(np.array_split(np.arange(1, 241), 24), p, strict=True):
        assert value == tuning["p_selective"].values[stretch].min()


def test_nothing_to_show_is_said():
    tuning = tuning_of(1, "area")
    with pytest.raises(DataError, match="no unit has a tuning curve"):
        tuning_gallery(tuning)
    with pytest.raises(ConfigError, match="unknown unit 'area/9'"):
        tuning_gallery(tuning, units=["area/9"])
    with pytest.raises(DataError, match="no unit has a modulation depth"):
        distribution_figure(tuning, tuning_of(1, "layer"))
    with pytest.raises(ConfigError, match="unknown quantity of tuning 'depth'"):
        distribution_figure(tuning_of(4, "area"), tuning_of(4, "layer"), quantity="depth")


def test_neurons_and_filters_share_one_axis():
    neurons, filters = tuning_of(10, "area"), tuning_of(40, "layer")
    figure = distribution_figure(neurons, filters)
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == [  # the dead unit of the first group has no value
        "area0  (3)", "area1  (3)", "area2  (3)", "layer0  (13)", "layer1  (13)", "layer2  (13)"
    ]  # fmt: skip
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    for row, (dataset, group) in enumerate([(neurons, "area1"), (filters, "layer2")]):
        by = "area" if dataset is neurons else "layer"
        wanted = dataset["modulation_depth"].values[dataset[by].values == group]
        np.testing.assert_allclose(dots[(1, 5)[row]].get_xdata(), np.sort(wanted))
    medians = [line.get_xdata()[0] for line in axes.lines if line.get_linewidth() == 2]
    assert medians[1] == pytest.approx(np.median(dots[1].get_xdata()))
    two = distribution_figure(neurons, {"net a": filters.drop_vars("layer"), "net b": filters.drop_vars("layer")})
    assert [text.get_text() for text in two.axes[0].get_yticklabels()][3:] == ["net a  (39)", "net b  (39)"]
    assert style.png_bytes(distribution_figure(neurons, filters)) == style.png_bytes(figure)


def test_likeness_stands_beside_the_rows_of_its_layers():
    neurons, filters = tuning_of(10, "area"), tuning_of(40, "layer")
    likeness = tuning_match(filters["modulation_depth"], neurons["modulation_depth"])
    axes = distribution_figure(neurons, filters, match=likeness).axes[0]
    written = {round(text.get_position()[1], 2): text.get_text() for text in axes.texts}
    one = likeness.sel(measure="1 - KS, matched size")
    for row, layer in ((3, "layer0"), (4, "layer1"), (5, "layer2")):
        assert written[row] == style.number(float(one["score"].sel(layer=layer)), 2)
    assert f"ceiling {style.number(float(one['ceiling']), 2)}" in " ".join(written.values())
    assert set(written) == {-0.95, 3, 4, 5}


def match() -> xr.Dataset:
    return MATCH.check(
        xr.Dataset(
            {"score": (("layer", "measure"), [[0.1, 0.2], [0.3, 0.5]]), "ceiling": ("measure", [np.nan, 0.8])},
            {"layer": ["a", "b"], "measure": ["rsa", "ridge"]},
            {"kind": "MATCH"},
        )
    )


def test_match_over_depth():
    figure = match_figure(match())
    assert [axes.get_title("left") for axes in figure.axes] == ["rsa", "ridge"]
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata(), [0.2, 0.5])
    assert figure.axes[1].get_xlabel() == "reliability of the neurons 0.80"
    assert figure.axes[0].get_xlabel() == ""


def test_the_page_holds_what_is_there(tmp_path):
    with pytest.raises(StoreError, match="wanted results of a comparison"):
        write_neural_page(tmp_path)
    save_kind(match(), tmp_path / "match.nc")
    page = write_neural_page(tmp_path).read_text(encoding="utf-8")
    assert "Match over depth" in page
    assert "Tuning of neurons" not in page
    assert "0.500" in page
    save_kind(tuning_of(10, "area"), tmp_path / "tuning_neurons.nc")
    save_kind(tuning_of(40, "layer"), tmp_path / "tuning_filters.nc")
    (tmp_path / "facts.json").write_text('{"title": "A & B", "limits": ["none <b>"]}')
    page = write_neural_page(tmp_path).read_text(encoding="utf-8")
    for text in (
        "A &amp; B",
        "none &lt;b&gt;",
        "Tuning of filters",
        "Network and brain: modulation depth",
        "<td>39</td>",
    ):
        assert text in page
    assert "http://" not in page
    assert 'src="data:image/png' in page
    assert (tmp_path / "figures" / "distribution_modulation_depth.png").is_file()
    assert "sparseness" not in page
