"""Slopes, fall-off and widths of attention effects: neurons with known effects, and gratings through a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats
from torch import nn

import featattn_neuro as fn
from featattn_neuro.arrays.sparseness import lifetime_sparseness
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.io.parametric_stimuli import parametric_stimuli
from featattn_neuro.measures.attention_effects import attention_effects
from featattn_neuro.measures.simulated_population import simulate_population
from featattn_neuro.schema import ATTENTION

ANGLES = 30.0 * np.arange(12)
QUICK = {"held_out": False, "models": ["none"]}


def with_gain_of_similarity(beta, *, surround=False, repeats=20, neurons=60, seed=0):
    """Poisson neurons whose factor falls off with the distance of the shown direction from the preferred one."""
    rng = np.random.default_rng(seed)
    preferred = rng.choice(ANGLES, neurons)
    away = np.abs((ANGLES[:, None] - preferred + 180) % 360 - 180)
    plain = 4 + 20 * np.exp(2 * (np.cos(np.deg2rad(away)) - 1))
    gain = 1.3 - beta * away / 180
    if surround:
        gain = 1 + 0.5 * np.exp(-0.5 * (away / 35) ** 2) - 0.25 * np.exp(-0.5 * (away / 90) ** 2)
    means = np.stack([plain, gain * plain])
    counts = rng.poisson(means[:, :, None, :], (2, 12, repeats, neurons)).astype(float)
    condition, stimulus, _ = (axis.ravel() for axis in np.indices(counts.shape[:3]))
    coordinates = {
        "trial": np.arange(condition.size), "unit": [f"V4/{k:03d}" for k in range(neurons)],
        "stimulus": ("trial", [f"{one:03.0f}" for one in ANGLES[stimulus]]),
        "condition": ("trial", np.array(["unattended", "attended"])[condition]), "level": ("trial", ANGLES[stimulus]),
    }  # fmt: skip
    return xr.Dataset({"response": (("trial", "unit"), counts.reshape(-1, neurons))}, coordinates, {"units": "spikes"})


@pytest.mark.parametrize("parameter", [None, "level"], ids=["rank", "distance"])
def test_the_shape_of_the_fall_off_is_found(parameter):
    more = {"parameter": parameter, "form": "direction"} if parameter else {}
    found = {
        "constant": attention_effects(with_gain_of_similarity(0.0), **QUICK, **more),
        "linear": attention_effects(with_gain_of_similarity(0.4), **QUICK, **more),
    }
    for shape, effects in found.items():
        best = effects["shape"].values[effects["profile_bic"].argmin("shape").item()]
        assert (best == "constant") == (shape == "constant")
        # ranks of the flat tail are mixed up by noise, which bends a line
        assert not parameter or effects["profile_shape"].item() == shape
        assert (effects["profile_bic"].min("shape") == 0).all()
    assert (found["linear"]["preference_slope"].mean() < -0.2).item()
    if parameter:
        line = found["linear"]["profile_parameter"].sel(layer="unknown", shape="linear")
        np.testing.assert_allclose(line.sel(profile_term=["a", "b"]), [1.3, -0.4 / 180], rtol=0.08)
        assert found["linear"]["distance"].values.tolist() == [0, 30, 60, 90, 120, 150, 180]
        truth = 1.3 - 0.4 * np.arange(7) / 6
        np.testing.assert_allclose(found["linear"]["profile_ratio"].sel(layer="unknown"), truth, atol=0.04)
        surround = attention_effects(with_gain_of_similarity(0.0, surround=True), **QUICK, **more)
        assert surround["profile_shape"].item() == "surround"
        assert surround.attrs["distance"] == "distance from the preferred level"


def test_shapes_by_other_code():
    """BIC of the constant and the linear shape from the ratios, by another least squares."""
    effects = attention_effects(with_gain_of_similarity(0.4, neurons=1), **QUICK, parameter="level", form="direction")
    ratio, at = effects["profile_ratio"].values[0], effects["distance"].values
    assert np.isnan(effects["profile_bic"]).all()  # seven ratios of one unit are too few
    neural = with_gain_of_similarity(0.4, neurons=2)
    effects = attention_effects(neural, **QUICK, parameter="level", form="direction")
    singles = [attention_effects(neural.isel(unit=[k]), **QUICK, parameter="level", form="direction") for k in (0, 1)]
    points = np.concatenate([one["profile_ratio"].values[0] for one in singles])
    np.testing.assert_allclose(effects["profile_ratio"][0], points.reshape(2, 7).mean(axis=0))
    line = stats.linregress(np.tile(at, 2), points)
    squares = [np.var(points), np.var(points - line.slope * np.tile(at, 2))]
    bic = [14 * np.log(one) + k * np.log(14) for k, one in enumerate(squares, start=1)]
    mine = effects["profile_bic"].sel(layer="unknown")
    assert float(mine.sel(shape="linear") - mine.sel(shape="constant")) == pytest.approx(bic[1] - bic[0])
    assert ratio.shape == (7,)


def test_ratios_are_not_biased_by_few_spikes():
    """No effect: the ratio is 1 at every distance, also where two spikes are expected."""
    none = simulate_population(400, gain=1.0, repeats=6, mean=4, modulation=0.8, seed=2)
    found = attention_effects(none, **QUICK, parameter="level", form="direction")
    error = found["profile_sem"].sel(layer="unknown")
    np.testing.assert_array_less(np.abs(found["profile_ratio"].sel(layer="unknown") - 1), 4 * error)


def test_selectivity_comes_from_other_repeats_than_the_index():
    none = simulate_population(800, gain=1.0, repeats=4, mean=3, seed=5)
    found = attention_effects(none, **QUICK, selectivity="sparseness")
    assert abs(found["selectivity_rho"].item()) < 3.5 / np.sqrt(800)
    assert found.attrs["selectivity"] == "sparseness"
    values = none["response"].values.reshape(2, 12, 4, 800)
    rho, slope = [], []
    for first in (0, 1):
        tuned, below = (values[0][:, one::2].mean(axis=1) for one in (first, 1 - first))
        on = values[1].mean(axis=1).sum(axis=0)
        index = (on - below.sum(axis=0)) / (on + below.sum(axis=0))
        sparseness = lifetime_sparseness(tuned.T)
        rho.append(stats.spearmanr(index, sparseness).statistic)
        slope.append(stats.linregress(sparseness, index).slope)
    # sums in another order break ties of the index otherwise
    assert found["selectivity_rho"].item() == pytest.approx(np.mean(rho), abs=1e-3)
    assert found["selectivity_slope"].item() == pytest.approx(np.mean(slope))


def test_stronger_gains_of_selective_neurons_have_a_positive_slope():
    sharp = np.linspace(0, 1, 100)
    parts = [simulate_population(1, gain=1 + 0.5 * m, modulation=m, seed=k) for k, m in enumerate(sharp)]
    named = [one.assign_coords(unit=[f"a/{k}"]) for k, one in enumerate(parts)]
    neural = xr.concat(named, "unit", data_vars="minimal", coords="minimal", compat="override", join="exact")
    found = attention_effects(neural, **QUICK, selectivity="modulation_depth")
    assert found["selectivity_rho"].item() > 0.8
    assert found["selectivity_slope"].item() > 0.1


def test_tuning_value_of_the_stimulus_that_is_shown():
    """Without noise: gains 1 + β f of the stimulus have slope β in every image."""
    rng = np.random.default_rng(0)
    off = rng.uniform(1, 3, size=(12, 30))
    f = (off - off.mean(axis=0)) / off.std(axis=0)
    unit = {"unit": [f"c/{k}" for k in range(30)], "layer": ("unit", ["c"] * 30), "channel": ("unit", np.arange(30))}
    coordinates = unit | {"stimulus": [f"s{k:02d}" for k in range(12)]}
    plain, gained = (
        xr.Dataset({"response": (("stimulus", "unit"), values)}, coordinates) for values in (off, off * (1 + 0.2 * f))
    )
    found = attention_effects(plain, gained, **QUICK, tuning_value="shown")
    np.testing.assert_allclose(found["similarity_slope"].sel(layer="c"), 0.2, atol=1e-9)
    given = xr.DataArray(f, {"stimulus": coordinates["stimulus"], "unit": unit["unit"]}, ("stimulus", "unit"))
    shuffled = given.isel(stimulus=rng.permutation(12), unit=rng.permutation(30))
    again = attention_effects(plain, gained, **QUICK, tuning_value=shuffled)
    np.testing.assert_allclose(again["similarity_slope"], found["similarity_slope"])


@pytest.fixture(scope="module")
def gratings():
    """A small network with random filters, recorded with gratings of 12 orientations, gains off and on."""
    torch.manual_seed(3)
    module = nn.Sequential(nn.Conv2d(1, 12, 7), nn.ReLU(), nn.Conv2d(12, 8, 5), nn.ReLU())
    shown = parametric_stimuli(
        size=32, orientation=[15.0 * k for k in range(12)], spatial_frequency=[3.0, 5.0], phase=[0.0, 90.0], channels=1
    )
    images = np.stack([shown[k] for k in range(len(shown))])
    off = fn.record(module, images, ["1", "3"])
    orientation = xr.DataArray(
        shown.parameters["orientation"], {"stimulus": off["stimulus"].values}, "stimulus", "orientation"
    )
    names = off["unit"].values[off["layer"].values == "3"]
    coordinates = {"unit": names, "layer": ("unit", ["3"] * 8), "channel": ("unit", np.arange(8))}
    gains = xr.Dataset({"gain": ("unit", np.linspace(0.5, 2.0, 8))}, coordinates, {"kind": "GAINS"})
    with fn.with_gains(module, gains):
        on = fn.record(module, images, ["1", "3"])
    return off, on, gains, orientation


def test_a_gain_module_changes_no_width(gratings):
    """The positive control: g to 1e-5, b = 0, width change 0, whatever the filters' baseline."""
    off, on, gains, orientation = gratings
    found = attention_effects(off, on, parameter=orientation, selectivity="sparseness", tuning_value="shown")
    assert found.attrs["form"] == "orientation"
    mine = found.sel(unit=gains["unit"].values)
    live = (mine["status"] == "ok").values
    assert live.sum() >= 4
    both = mine.sel(model_name="both")
    np.testing.assert_allclose(both["gain"].values[live], gains["gain"].values[live], atol=1e-5)
    np.testing.assert_allclose(both["shift"].values[live], 0, atol=1e-5)
    np.testing.assert_allclose(mine["width_change"].values[live], 0, atol=1e-5)
    width = mine["curve_width_change"].values[live]
    assert np.isfinite(width).sum() >= 4
    np.testing.assert_allclose(width[np.isfinite(width)], 0, atol=1e-5)
    assert (mine["p_width"].values[live][np.isfinite(width)] > 0.99).all()
    assert (mine["model"].values[live] == "multiplicative").all()
    ratio = found["profile_ratio"].sel(layer="1").values
    np.testing.assert_allclose(ratio[np.isfinite(ratio)], 1, atol=1e-6)  # upstream of the gains
    slopes = mine["preference_slope"].values[live]
    np.testing.assert_allclose(slopes[np.isfinite(slopes)], 0, atol=1e-5)
    assert ATTENTION.check(found).attrs["parameter"] == "orientation"


def test_widths_of_neurons_pool_the_stimuli_of_a_level():
    """Two contrasts of each direction, shown unequally often, and a factor: no change of width."""
    rng = np.random.default_rng(1)
    tuned = 3 + 20 * np.exp(2 * (np.cos(np.deg2rad(ANGLES - 90)) - 1))
    rows = []
    for name, factor in (("unattended", 1.0), ("attended", 1.3)):
        for contrast, repeats in ((0.5, 30), (1.0, 60)):
            for angle, mean in zip(ANGLES, tuned, strict=True):
                rows += [(name, f"{angle:03.0f} at {contrast}", angle, one)
                         for one in rng.poisson(factor * contrast * mean, repeats)]  # fmt: skip
    condition, stimulus, level, count = map(np.array, zip(*rows, strict=True))
    neural = xr.Dataset(
        {"response": (("trial", "unit"), count[:, None].astype(float))},
        {"trial": np.arange(count.size), "unit": ["V4/0"], "stimulus": ("trial", stimulus),
         "condition": ("trial", condition), "level": ("trial", level)},
        {"units": "spikes"},
    )  # fmt: skip
    found = attention_effects(neural, **QUICK, noise="poisson", parameter="level", form="direction")
    assert float(found["curve_width"].item()) == pytest.approx(48.5, rel=0.06)
    assert found["curve_width_change_low"].item() < 0 < found["curve_width_change_high"].item()
    values = xr.DataArray(ANGLES[::-1], {"stimulus": [f"{a:03.0f} at 0.5" for a in ANGLES[::-1]]}, "stimulus")
    one = neural.isel(trial=np.flatnonzero([name.endswith("0.5") for name in stimulus]))
    by_name = attention_effects(one, **QUICK, parameter="level", form="direction")
    by_array = attention_effects(one, **QUICK, parameter=values.rename("level"), form="direction")
    xr.testing.assert_identical(by_name, by_array)


def test_what_is_wanted_is_said():
    neural = simulate_population(3, repeats=1)
    with pytest.raises(DataError, match="needs repeats; no stimulus was shown twice"):
        attention_effects(neural, **QUICK, selectivity="sparseness")
    neural = simulate_population(3, repeats=2)
    with pytest.raises(ConfigError, match=r"unknown selectivity 'sparsenes'.*did you mean 'sparseness'"):
        attention_effects(neural, **QUICK, selectivity="sparsenes")
    with pytest.raises(ConfigError, match="unknown tuning value 'seen'"):
        attention_effects(neural, **QUICK, tuning_value="seen")
    with pytest.raises(ConfigError, match="unknown coordinate of the trials 'angle'"):
        attention_effects(neural, **QUICK, parameter="angle")
    with pytest.raises(DataError, match="'condition' is no property of the stimuli"):
        attention_effects(neural, **QUICK, parameter="condition")
    named = neural.assign_coords(label=("trial", neural["stimulus"].values))
    with pytest.raises(DataError, match="'label' is text"):
        attention_effects(named, **QUICK, parameter="label")
    with pytest.raises(ConfigError, match="unknown form of tuning 'von_mises'"):
        attention_effects(neural, **QUICK, parameter="level", form="von_mises")
    with pytest.raises(DataError, match="widths of tuning cannot be compared: a log-Gaussian needs levels above 0"):
        attention_effects(neural, **QUICK, parameter="level", form="log_gaussian")


def test_a_gain_module_in_a_residual_network():
    """The same call as for neurons, on a network by name: g, no added response, no width; later layers do change."""
    network = fn.load_model("cifar_resnet20", weights="random", seed=1)
    shown = parametric_stimuli(
        size=32, orientation=[15.0 * k for k in range(12)], spatial_frequency=[2.0, 4.0], phase=[0.0, 180.0]
    )
    layers = ["layer1.1.relu1", "layer2.0.relu1"]
    off = fn.record(network, shown, layers)
    here = np.flatnonzero(off["layer"].values == layers[0])
    coordinates = {name: ("unit", off[name].values[here]) for name in ("unit", "layer", "channel")}
    factor = np.random.default_rng(0).uniform(0.4, 2.5, here.size)
    gains = xr.Dataset({"gain": ("unit", factor)}, coordinates, {"kind": "GAINS"})
    with fn.with_gains(network, gains):
        on = fn.record(network, shown, layers)
    orientation = xr.DataArray(
        shown.parameters["orientation"], {"stimulus": shown.id}, "stimulus", "orientation"
    )  # fmt: skip
    found = attention_effects(off, on, parameter=orientation, held_out=False)
    mine = found.sel(unit=gains["unit"].values)
    live = (mine["status"] == "ok").values
    assert live.sum() >= 12
    for name, model in (("gain", "multiplicative"), ("gain", "both"), ("shift", "both")):
        wanted = factor if name == "gain" else np.zeros(factor.size)
        np.testing.assert_allclose(mine[name].sel(model_name=model).values[live], wanted[live], atol=1e-5)
    width = mine["curve_width_change"].values[live]
    assert np.isfinite(width).sum() >= 4
    np.testing.assert_allclose(width[np.isfinite(width)], 0, atol=1e-5)
    np.testing.assert_allclose(mine["width_change"].values[live], 0, atol=1e-5)
    later = found.isel(unit=np.flatnonzero(found["unit_layer"].values == layers[1]))
    assert (later["model"] != "multiplicative").sum() > 4


@pytest.mark.parametrize("count", [7, 60])
def test_distances_of_levels_on_a_line(count):
    """Unequal steps, halves that prefer different levels, and more distances than are kept apart."""
    rng = np.random.default_rng(2)
    levels = np.sort(rng.uniform(-2, 2, count))
    means = 2 + 6 * np.exp(-0.5 * (levels[:, None] - rng.uniform(-2, 2, 40)) ** 2)
    counts = rng.poisson(np.stack([means, 1.4 * means])[:, :, None], (2, count, 4, 40)).astype(float)
    condition, stimulus, _ = (axis.ravel() for axis in np.indices(counts.shape[:3]))
    neural = xr.Dataset(
        {"response": (("trial", "unit"), counts.reshape(-1, 40))},
        {"trial": np.arange(condition.size), "unit": [f"V1/{k}" for k in range(40)],
         "stimulus": ("trial", [f"s{k:02d}" for k in stimulus]), "level": ("trial", levels[stimulus]),
         "condition": ("trial", np.array(["unattended", "attended"])[condition])},
        {"units": "spikes"},
    )  # fmt: skip
    found = attention_effects(neural, **QUICK, parameter="level")
    assert found.attrs["form"] == "gaussian"
    gaps = np.unique(np.round(np.abs(levels[:, None] - levels), 9))
    assert found.sizes["distance"] == min(gaps.size, 24)
    assert float(found["distance"][-1]) <= gaps[-1]
    weight = 1 / found["profile_sem"].values[0] ** 2
    ratio, seen = found["profile_ratio"].values[0], np.isfinite(weight)
    assert np.average(ratio[seen], weights=weight[seen]) == pytest.approx(1.4, abs=0.06)


def test_stimuli_of_a_level_are_worth_their_trials():
    """Each direction under one name, or under two with half of its repeats each: the same widths and intervals."""
    neural = simulate_population(6, gain=1.2, repeats=20, modulation=0.8, seed=1)
    half = neural["repetition"].values % 2
    named = [f"{name} {one}" for name, one in zip(neural["stimulus"].values, half, strict=True)]
    split = neural.assign_coords(stimulus=("trial", named))
    more = {"noise": "poisson", "parameter": "level", "form": "direction", "profile": False}
    one, two = (attention_effects(data, **QUICK, **more) for data in (neural, split))
    for end in ("", "_low", "_high"):
        name = f"curve_width_change{end}"
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5)
    np.testing.assert_allclose(two["p_width"], one["p_width"], rtol=1e-5)


def test_stimuli_without_a_response_give_no_ratio():
    """A neuron that is silent at most directions: ratios only where it responds, and those are not biased."""
    rng = np.random.default_rng(0)
    neural = with_gain_of_similarity(0.0, neurons=30)
    away = np.abs((neural["level"].values[:, None] - rng.choice(ANGLES, 30) + 180) % 360 - 180)
    factor = np.where(neural["condition"].values == "attended", 1.5, 1.0)[:, None]
    mean = np.where(away <= 60, 20.0, 0.02) * factor
    silent = neural.assign(response=(("trial", "unit"), rng.poisson(mean).astype(float)))
    found = attention_effects(silent, **QUICK, parameter="level", form="direction")
    ratio = found["profile_ratio"].values[0]
    np.testing.assert_allclose(ratio[:3], 1.5, atol=0.05)  # up to 120 degrees from a preferred one of three
    assert np.isnan(ratio[5:]).all()
