"""Figures: they show what they were given, change no global state, and give the same bytes twice."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr

from featattn_neuro.errors import DataError
from featattn_neuro.report import association_figures, figures, saliency_figures, style
from featattn_neuro.report.results import Results, read_results


@pytest.fixture
def results(results_folder) -> Results:
    return read_results(results_folder)


def points(axes, marker=None) -> np.ndarray:
    """x, y of everything drawn as markers."""
    lines = [line for line in axes.lines if line.get_linestyle() == "None" and marker in (None, line.get_marker())]
    return np.concatenate([np.asarray(line.get_xydata(), float) for line in lines])


def test_no_global_style_and_no_pyplot(results):
    before = dict(mpl.rcParams)
    style.png_bytes(figures.arms_figure(results.scores))
    assert dict(mpl.rcParams) == before


def test_rc_is_restored_when_a_drawing_fails(results):
    before = dict(mpl.rcParams)
    with pytest.raises(DataError):
        saliency_figures.saliency_panels([], [], [])
    assert dict(mpl.rcParams) == before


def test_same_figure_same_bytes(results):
    first, second = (style.png_bytes(figures.claims_figure(results.claims)) for _ in range(2))
    assert first == second


def test_claims_figure_shows_every_network_interval_and_verdict(results):
    figure = figures.claims_figure(results.claims)
    for axes, name in zip(figure.axes, ["T1", "T2", "T3", "T4"], strict=True):
        claim = results.claims.sel(claim=name)
        drawn = [np.asarray(line.get_xdata(), float) for line in axes.lines]
        assert any(np.allclose(x, claim["per_network"]) for x in drawn if len(x) == 3)
        assert any(np.allclose(x, [claim["ci_low"], claim["ci_high"]]) for x in drawn if len(x) == 2)
        assert axes.get_title("right") == str(claim["verdict"].item())
        low, high = axes.get_xlim()
        assert low < float(claim["ci_low"])
        assert high > float(claim["ci_high"])


def test_claims_figure_with_an_untested_claim(results):
    claims = results.claims.copy(deep=True)
    claims["per_network"].loc["T4"] = np.nan
    for name in ("estimate", "ci_low", "ci_high", "p", "p_holm"):
        claims[name].loc["T4"] = np.nan
    axes = figures.claims_figure(claims).axes[3]
    assert "not tested" in [text.get_text() for text in axes.texts]


def test_arms_figure_places_each_network_at_its_mean(results):
    axes = figures.arms_figure(results.scores).axes[0]
    wanted = sorted(float(v) for ds in results.scores.values() for v in ds["auc"].mean("task").values)
    assert np.allclose(sorted(points(axes)[:, 0]), wanted)


def test_novel_panel_only_where_classes_were_left_out(results):
    assert len(figures.arms_figure(results.scores).axes) == 2
    without = {name: ds.drop_vars("novel") for name, ds in results.scores.items()}
    assert len(figures.arms_figure(without).axes) == 1


def test_curves_figure_has_the_axes_that_are_there(results):
    assert len(figures.curves_figure(results.curves).axes) == 2
    only = {name: ds.drop_vars("auc_examples") for name, ds in results.curves.items()}
    figure = figures.curves_figure(only)
    assert [axes.get_xlabel() for axes in figure.axes] == ["optimiser updates"]


def test_scatter_joins_gains_and_selectivity_on_ids(results):
    gains, selectivity, association = (getattr(results, k)["net0"] for k in ("gains", "selectivity", "association"))
    shuffled = selectivity.isel(unit=np.random.default_rng(0).permutation(selectivity.sizes["unit"]))
    first, second = (
        points(association_figures.gain_selectivity_figure(gains, s, association).axes[0])
        for s in (selectivity, shuffled)
    )
    np.testing.assert_array_equal(first, second)
    assert len(first) == 4 * 11  # tasks × live filters of the first layer
    other = selectivity.assign_coords(unit=[f"x/{k}" for k in range(selectivity.sizes["unit"])])
    with pytest.raises(DataError, match="different units"):
        association_figures.gain_selectivity_figure(gains, other, association)


def test_forest_shows_matched_and_specific_of_every_network(results):
    axes = association_figures.forest_figure(results.association, results.claims).axes[0]
    drawn = points(axes, "o")[:, 0]
    for dataset in results.association.values():
        for name in ("matched", "specific"):
            assert np.isclose(drawn, dataset[name].item()).any()
    assert [label.get_text() for label in axes.get_yticklabels()][-1] == "all (T3)"


def test_task_matrix_is_centred_at_zero_and_rows_are_gains(results):
    axes = association_figures.task_matrix_figure(results.association).axes[0]
    image = axes.images[0]
    low, high = image.get_clim()
    assert low == -high
    wanted = np.mean([ds["z"].sel(measure="dprime").values for ds in results.association.values()], axis=0)
    np.testing.assert_allclose(np.asarray(image.get_array()), wanted)


def test_refit_null_needs_a_refit(results):
    assert len(association_figures.refit_null_figure(results.association).axes) == 2
    without = {name: ds.drop_vars("refit_null") for name, ds in results.association.items()}
    with pytest.raises(DataError, match="--full"):
        association_figures.refit_null_figure(without)


def test_saliency_panels_share_one_scale_centred_at_zero():
    rng = np.random.default_rng(0)
    images = [rng.random((28, 28)), rng.integers(0, 255, (28, 28, 3)).astype(np.uint8)]
    maps = [[rng.standard_normal((7, 7)), 3 * rng.standard_normal((7, 7))] for _ in images]
    figure = saliency_figures.saliency_panels(images, maps, ["a", "b"])
    shown = [axes.images[0] for axes in figure.axes[2:6]]
    reach = max(np.abs(m).max() for several in maps for m in several)
    assert {image.get_clim() for image in shown} == {(-reach, reach)}


def test_saliency_panels_put_maps_where_the_layer_sees():
    extents = [(2.0, 6.0, 6.0, 2.0), (0.0, 4.0, 4.0, 0.0)]
    figure = saliency_figures.saliency_panels(
        [np.zeros((8, 8)), np.eye(8)], [[np.ones((2, 2))]] * 2, ["a", "b"], extents=extents
    )
    for axes, extent in zip(figure.axes[2:4], extents, strict=True):
        assert tuple(axes.images[-1].get_extent()) == extent
        assert (axes.get_xlim(), axes.get_ylim()) == ((0, 8), (8, 0))


def test_saliency_panels_refuse_what_does_not_fit():
    with pytest.raises(DataError, match="as many images, maps and titles"):
        saliency_figures.saliency_panels([np.zeros((4, 4))], [], ["a"])


def test_coarse_layers_are_hollow(results):
    axes = saliency_figures.agreement_figure(results.agreement).axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    hollow = [line.get_ydata()[0] > 1.5 for line in dots if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 3
    assert all(hollow)


def test_live_filters_are_counted(results):
    axes = figures.live_filters_figure(results.selectivity).axes[0]
    assert [round(bar.get_width()) for bar in axes.patches] == [11, 1] * 3


def test_gains_figure_takes_the_named_arm(results):
    figure = figures.gains_figure(results.gains, arm="gain")
    heights = [bar.get_height() for bar in figure.axes[0].patches[2:]]  # the first two are the grey bands
    assert sum(heights) == 3 * 4 * 12
    assert max(heights) < 3 * 4 * 12
    same = figures.gains_figure(results.gains, arm="uniform")
    assert max(bar.get_height() for bar in same.axes[0].patches[2:]) == 3 * 4 * 12  # all gains are 1


def renamed(dataset: xr.Dataset, old: str, new: str) -> xr.Dataset:
    """The same Dataset with one layer called otherwise: a network of another design."""
    names = np.array([str(v).replace(old, new) for v in dataset["layer"].values])
    return dataset.assign_coords(layer=(dataset["layer"].dims, names))


def test_networks_of_different_designs_are_drawn_apart(results):
    agreement = dict(results.agreement)
    agreement["net1"] = renamed(agreement["net1"], "relu2", "features.9")
    labels = [t.get_text() for t in saliency_figures.agreement_figure(agreement).axes[0].get_yticklabels()]
    assert labels == ["relu1", "relu2", "relu3", "features.9"]
    for kind, draw in (("gains", figures.gains_figure), ("selectivity", figures.live_filters_figure)):
        datasets = dict(getattr(results, kind))
        datasets["net1"] = renamed(datasets["net1"], "relu2", "features.9")
        assert [axes.get_title("left") for axes in draw(datasets).axes] == ["net0", "net1", "net2"]


def test_deep_networks_show_some_layers_and_say_so(results):
    gains, selectivity, association = (getattr(results, k)["net0"] for k in ("gains", "selectivity", "association"))
    layers = np.array([f"layer{k // 2}" for k in range(gains.sizes["unit"])])
    deep = [ds.assign_coords(layer=("unit", layers)) for ds in (gains, selectivity)]
    many = list(dict.fromkeys(layers))
    rho = xr.concat([association["rho"].isel(layer=[0])] * len(many), "layer").assign_coords(layer=many)
    deep_association = association.drop_dims("layer").assign(
        rho=rho, n_live=("layer", np.full(len(many), 2)), status=("layer", np.full(len(many), "ok"))
    )
    figure = association_figures.gain_selectivity_figure(*deep, deep_association)
    assert [axes.get_title("left") for axes in figure.axes[:5]][::4] == [many[0], many[-1]]
    assert f"5 of {len(many)} layers" in figure.get_suptitle()
