"""Figures of network and brain show what they were given."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from featattn_neuro.errors import DataError
from featattn_neuro.measures.attention_effects import attention_effects
from featattn_neuro.measures.simulated_population import simulate_population
from featattn_neuro.report import attention_figures, neural_figures, style
from featattn_neuro.schema import MATCH

LAYERS = [f"blocks.{k}" for k in range(7)]


def example_match(*, gained: bool = False) -> xr.Dataset:
    rng = np.random.default_rng(0)
    neurons = rng.normal(0.4, 0.15, size=(7, 2, 30))
    neurons[:, 0] = np.nan
    data = {
        "score": (("layer", "measure"), np.linspace(0.1, 0.5, 14).reshape(7, 2)),
        "ceiling": ("measure", [np.nan, 0.64]),
        "ceiling_low": ("measure", [0.5, np.nan]),
        "ceiling_high": ("measure", [0.6, np.nan]),
        "neuron_score": (("layer", "measure", "neural_unit"), neurons),
        "chosen_layer": (("measure", "half"), [["blocks.5", "blocks.6"], ["", "blocks.4"]]),
        "chosen_score": (("measure", "half"), [[0.41, 0.44], [np.nan, 0.37]]),
    }
    if gained:
        data |= {
            name: (("layer", "measure"), data["score"][1] * 0 + value)
            for name, value in {
                "score_gained": 0.45, "difference": 0.02, "difference_low": -0.01, "difference_high": 0.05,
            }.items()
        }  # fmt: skip
    names = [f"V4/{k}" for k in range(30)]
    coordinates = {"layer": LAYERS, "measure": ["rsa", "ridge"], "neural_unit": names, "half": ["first", "second"]}
    return MATCH.check(xr.Dataset(data, coordinates))


def lines(axes) -> list[np.ndarray]:
    return [np.asarray(line.get_xydata(), float) for line in axes.lines]


def test_match_figure_shows_scores_ceilings_neurons_and_choices():
    match = example_match(gained=True)
    figure = neural_figures.match_figure(match)
    rsa, ridge = figure.axes
    for axes, measure in ((rsa, "rsa"), (ridge, "ridge")):
        drawn = lines(axes)
        for name in ("score", "score_gained"):
            wanted = np.column_stack([np.arange(7), match[name].sel(measure=measure)])
            assert any(one.shape == wanted.shape and np.allclose(one, wanted) for one in drawn)
    assert any(len(one) == 2 and np.allclose(one[:, 1], 0.8) for one in lines(ridge))  # r: square root of .64
    assert any(np.allclose(one, [[4, 0.37]]) for one in lines(ridge) if one.shape == (1, 2))
    assert any(np.allclose(one, [[5, 0.41], [6, 0.44]]) for one in lines(rsa) if one.shape == (2, 2))
    assert any(one.size == 2 * 7 * 30 for one in lines(ridge))
    assert [t.get_text() for t in ridge.get_xticklabels()] == LAYERS


def test_difference_figure_shows_intervals():
    axes = neural_figures.match_difference_figure(example_match(gained=True)).axes[0]
    segments = np.array(axes.collections[0].get_segments())
    np.testing.assert_allclose(segments[:, :, 1], [[-0.01, 0.05]] * 7)
    with pytest.raises(DataError, match="pass gained="):
        neural_figures.match_difference_figure(example_match())


def test_distributions_are_cumulative_on_one_axis():
    values = np.arange(12.0)
    values[3] = np.nan
    filters = xr.DataArray(
        values, {"unit": [str(k) for k in range(12)], "layer": ("unit", ["a"] * 6 + ["b"] * 6)}, "unit"
    )
    neurons = xr.DataArray([5.0, 1.0, np.nan], {"unit": ["x", "y", "z"]}, "unit")
    axes = neural_figures.distributions_figure(filters, neurons, label="sparseness").axes[0]
    first, second, brain = lines(axes)
    np.testing.assert_allclose(first, np.column_stack([[0, 1, 2, 4, 5], np.arange(1, 6) / 5]))
    assert len(second) == 6
    np.testing.assert_allclose(brain, [[1, 0.5], [5, 1.0]])
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["a (5)", "b (6)", "neurons (2)"]


def test_attention_figure_counts_models_and_shows_the_plane():
    effects = attention_effects(simulate_population(40, seed=1), held_out=False)
    figure = neural_figures.attention_figure(effects)
    bars = [patch.get_width() for patch in figure.axes[2].patches]
    chosen = effects["model"].values.tolist()
    assert bars == [chosen.count(name) for name in effects["model_name"].values]
    both = effects.sel(model_name="both")
    wanted = np.column_stack([both["gain"], both["shift"]])
    assert any(one.shape == wanted.shape and np.allclose(one, wanted) for one in lines(figure.axes[1]))
    # the black lines are what the page's table gives: median of the index, mean of the slopes
    for k, middle in ((0, np.nanmedian(effects["mean_index"])), (3, np.nanmean(effects["preference_slope"]))):
        assert any(np.allclose(one[:, 0], middle) for one in lines(figure.axes[k]) if len(one))
    assert style.png_bytes(figure) == style.png_bytes(neural_figures.attention_figure(effects))
    with pytest.raises(DataError, match="pass tuning_value="):
        neural_figures.similarity_figure(effects)


def test_attention_figure_where_nothing_is_defined():
    silent = simulate_population(3, seed=1)
    effects = attention_effects(silent.assign(response=0 * silent["response"]), models=["none"])
    figure = neural_figures.attention_figure(effects)
    assert "undefined" in [text.get_text() for text in figure.axes[0].texts]


def test_similarity_figure_shows_every_image_and_unit_or_layer():
    neurons = simulate_population(40, seed=1)
    rng = np.random.default_rng(0)
    value = xr.DataArray(rng.normal(size=40), {"unit": neurons["unit"].values}, "unit")
    more = {"held_out": False, "models": ["none"], "tuning_value": value, "selectivity": value}
    effects = attention_effects(neurons, **more)
    left, right = neural_figures.similarity_figure(effects).axes
    assert any(
        np.allclose(np.sort(one[:, 1]), np.sort(effects["similarity_slope"].values[0]))
        for one in lines(left)
        if len(one) == 12
    )
    units = np.column_stack([value, effects["mean_index"]])
    assert any(np.allclose(one, units) for one in lines(right) if one.shape == units.shape)
    slope = style.number(effects["selectivity_slope"].item(), 2)
    assert f"slope {slope}" in right.get_legend().get_texts()[0].get_text()
    areas = neurons.assign_coords(area=("unit", [f"A{k // 8}" for k in range(40)]))
    effects = attention_effects(areas, **more)
    right = neural_figures.similarity_figure(effects).axes[1]
    wanted = np.column_stack([np.arange(5), effects["selectivity_slope"]])
    assert any(np.allclose(one, wanted) for one in lines(right) if one.shape == wanted.shape)


def test_profile_figure_shows_ratios_shapes_and_widths():
    neurons = simulate_population(30, seed=1, modulation=0.8)
    effects = attention_effects(neurons, held_out=False, models=["none"], parameter="level", form="direction")
    profile, widths = attention_figures.attention_profile_figure(effects).axes
    wanted = np.column_stack([effects["distance"], effects["profile_ratio"].values[0]])
    assert any(one.shape == wanted.shape and np.allclose(one, wanted) for one in lines(profile))
    for shape in effects["shape"].values:
        drawn = np.column_stack([effects["distance"], effects["profile_fit"].sel(shape=shape).values[0]])
        assert any(one.shape == drawn.shape and np.allclose(one, drawn) for one in lines(profile))
    assert (effects["profile_shape"].item() or "no shape") in profile.get_title("left")
    pairs = np.column_stack([effects["curve_width"], effects["curve_width_attended"]])
    drawn = np.concatenate([one for one in lines(widths) if len(one) != 2 or not np.allclose(one[:, 0], one[:, 1])])
    seen = pairs[np.isfinite(pairs).all(axis=1)]
    np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(seen, axis=0))
    ranked = attention_effects(neurons, held_out=False, models=["none"])
    axes = attention_figures.attention_profile_figure(ranked).axes
    assert len(axes) == 1
    assert "rank" in axes[0].get_xlabel()
    with pytest.raises(DataError, match="neither is defined"):
        attention_figures.attention_profile_figure(
            attention_effects(neurons, held_out=False, models=["none"], profile=False)
        )
