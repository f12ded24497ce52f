"""Attention effects: neurons with known effects, and gain modules as the positive control."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import featattn_neuro as fn
from featattn_neuro.arrays import attention_models as kernels
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.measures.attention_effects import attention_effects
from featattn_neuro.measures.simulated_population import simulate_population
from featattn_neuro.schema import ACTIVATIONS, NEURAL


@pytest.fixture(scope="module")
def neurons():
    gain = np.where(np.arange(120) < 60, 1.3, 1.0)
    shift = np.where(np.arange(120) < 60, 0.0, 3.0)
    return simulate_population(120, gain=gain, shift=shift, correlation=0.1, dispersion=0.02, seed=3)


@pytest.fixture(scope="module")
def gained():
    """A small network with ReLUs, recorded with its gains off and on."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU())
    images = torch.rand(60, 1, 12, 12, generator=torch.Generator().manual_seed(1)).numpy()
    gain = np.linspace(0.5, 2.0, 6)
    off = fn.record(module, images, ["1", "3"])
    names = off["unit"].values[off["layer"].values == "3"]
    coordinates = {"unit": names, "layer": ("unit", ["3"] * 6), "channel": ("unit", np.arange(6))}
    gains = xr.Dataset({"gain": ("unit", gain)}, coordinates, {"kind": "GAINS"})
    with fn.with_gains(module, gains):
        on = fn.record(module, images, ["1", "3"])
    return off, on, gains


def test_neurons_get_back_what_they_were_given(neurons):
    found = attention_effects(neurons)
    truth = np.where(found["true_gain"] > 1, "multiplicative", "additive")
    assert (found["model"] == truth).mean() > 0.9
    assert (found["model"] == "both").mean() <= 0.05
    fit = found.sel(model_name="both")
    for name in ("gain", "shift"):
        inside = (fit[f"{name}_low"] <= found[f"true_{name}"]) & (found[f"true_{name}"] <= fit[f"{name}_high"])
        assert inside.mean() >= 0.9
    assert (found["status"] == "ok").all()
    assert float(found["dispersion"].mean()) == pytest.approx(0.02, abs=0.01)
    assert found["unit_layer"].values[0] == "unknown"
    assert ((found["bic"].min("model_name") == 0) & (found["held_out"].max("model_name") == 0)).all()


def test_index_and_the_neutral_values_by_hand(neurons):
    found = attention_effects(neurons, held_out=False, models=["none", "multiplicative"])
    values = neurons["response"].values.reshape(2, 12, 20, 120).mean(axis=2)
    order = np.argsort(neurons["stimulus"].values.reshape(2, 12, 20)[0, :, 0])
    wanted = (values[1] - values[0]) / (values[1] + values[0])
    np.testing.assert_allclose(found["index"], wanted[order])
    total = values.sum(axis=1)
    np.testing.assert_allclose(found["mean_index"], (total[1] - total[0]) / total.sum(axis=0))
    none = found.sel(model_name="none")
    assert (none["gain"] == 1).all()
    assert (none["shift"] == 0).all()
    assert "held_out" not in found
    assert "p_both" not in found


def test_preference_slope_is_not_biased_by_choosing_the_preferred_stimulus_on_the_same_trials():
    none = simulate_population(400, gain=1.0, repeats=4, mean=5, seed=8)
    found = attention_effects(none, held_out=False, models=["none"])["preference_slope"].values
    values = none["response"].values.reshape(2, 12, 4, 400).mean(axis=2)
    naive = kernels.preference_slope(values[1].T, values[0].T, values[0].T)
    assert abs(np.nanmean(found)) < abs(np.nanmean(naive)) / 3


def test_a_gain_module_gives_back_its_gains(gained):
    off, on, gains = gained
    found = attention_effects(off, on)
    mine = found.sel(unit=gains["unit"].values)
    live = mine["status"].values == "ok"
    assert live.sum() >= 4
    fit = mine.sel(model_name="multiplicative")
    np.testing.assert_allclose(fit["gain"].values[live], gains["gain"].values[live], atol=1e-5)
    both = mine.sel(model_name="both")
    np.testing.assert_allclose(both["gain"].values[live], gains["gain"].values[live], atol=1e-5)
    np.testing.assert_allclose(both["shift"].values[live], 0, atol=1e-5)
    np.testing.assert_allclose(mine["width_change"].values[live], 0, atol=1e-5)
    assert (mine["model"].values[live] == "multiplicative").all()
    np.testing.assert_allclose(
        mine["mean_index"].values[live], ((gains["gain"] - 1) / (gains["gain"] + 1)).values[live], atol=1e-6
    )
    upstream = found.isel(unit=np.flatnonzero(found["unit_layer"].values == "1"))
    assert (upstream["model"].values[upstream["status"].values == "ok"] == "none").all()


def test_units_and_stimuli_are_matched_by_id(gained):
    off, on, _ = gained
    rng = np.random.default_rng(0)
    shuffled = on.isel(unit=rng.permutation(on.sizes["unit"]), stimulus=rng.permutation(on.sizes["stimulus"]))
    xr.testing.assert_allclose(attention_effects(off, shuffled), attention_effects(off, on))
    with pytest.raises(DataError, match="absent from the one with gains"):
        attention_effects(off, on.isel(stimulus=slice(1, None)))


def test_tuning_gains_have_slope_beta(gained):
    """Lindsay & Miller: with gains 1 + beta f, the ratio's slope on f over units is beta, in every image."""
    off, _, gains = gained
    f = gains["gain"] * 0 + np.array([-0.9, -0.4, 0.0, 0.2, 0.6, 1.1])
    part = ACTIVATIONS.check(off.isel(unit=np.flatnonzero(off["layer"].values == "3")))
    on = part.assign(response=part["response"] * (1 + 0.5 * f))
    found = attention_effects(part, on, tuning_value=f.isel(unit=[3, 1, 0, 5, 4, 2]), selectivity=f)
    defined = found["similarity_slope"].sel(layer="3").values
    assert np.isfinite(defined).sum() > 50
    np.testing.assert_allclose(defined[np.isfinite(defined)], 0.5, atol=1e-5)
    assert float(found["selectivity_slope"][0]) > 0
    assert float(found["selectivity_rho"][0]) > 0.9


def test_reasons(gained):
    off, on, _ = gained
    silent = off.copy(deep=True)
    silent["response"][:, 0] = 0
    silent["response"][:, 1] = 2.5
    doubled = silent.assign(response=2 * silent["response"])
    found = attention_effects(silent, doubled)
    assert found["status"].values[:2].tolist() == ["dead", "constant"]
    assert found["model"].values[0] == ""
    assert np.isnan(found["gain"].sel(model_name="both").values[:2]).all()
    assert found["gain"].sel(model_name="multiplicative").values[1] == pytest.approx(2)
    few = attention_effects(off.isel(stimulus=[0, 1]), on.isel(stimulus=[0, 1]))
    assert (few["status"] == "too_few").all()


def test_what_is_wanted_is_said(neurons, gained):
    off, on, _ = gained
    with pytest.raises(DataError, match="activations have no conditions"):
        attention_effects(off)
    with pytest.raises(ConfigError, match="unknown condition 'away'; choose one of: attended, unattended"):
        attention_effects(neurons, conditions=("away", "attended"))
    with pytest.raises(DataError, match="rates, fractions or negative"):
        attention_effects(neurons.assign_attrs(units="spikes/s"))
    with pytest.raises(DataError, match="rates, fractions or negative"):
        attention_effects(neurons.assign(response=neurons["response"] / 2))
    with pytest.raises(DataError, match="both recordings must have trials"):
        attention_effects(neurons, on)
    with pytest.raises(DataError, match="'both' is not among models"):
        attention_effects(off, on, models=["none", "multiplicative", "additive"], criterion="likelihood_ratio")
    with pytest.raises(ConfigError, match="correlation < 1"):
        simulate_population(2, correlation=1.0)


def test_neurons_without_conditions_are_refused(neurons):
    """No claim about attention from neurons that were recorded without it."""
    with pytest.raises(DataError, match="there is none; add it"):
        attention_effects(neurons.drop_vars("condition"))
    one = neurons.isel(trial=np.flatnonzero(neurons["condition"] == "unattended"))
    with pytest.raises(ConfigError, match="unknown condition 'attended'"):
        attention_effects(one)


def test_two_recordings_of_neurons_are_two_conditions(neurons):
    parts = [neurons.isel(trial=np.flatnonzero(neurons["condition"] == c)) for c in ("unattended", "attended")]
    found = attention_effects(NEURAL.check(parts[0]), NEURAL.check(parts[1]))
    xr.testing.assert_allclose(found, attention_effects(neurons))


def test_likelihood_ratio_decides_one_parameter_at_a_time(neurons):
    found = attention_effects(neurons, criterion="likelihood_ratio", held_out=False)
    truth = np.where(found["true_gain"] > 1, "multiplicative", "additive")
    assert (found["model"] == truth).mean() > 0.85
    assert ((found["p_both"] <= 0.05) == found["model"].isin(["both", "width"])).all()


def as_rates(neural, window=0.25, **attrs):
    rates = neural.assign(response=neural["response"] / window)
    return rates.assign_coords(duration=("trial", np.full(neural.sizes["trial"], window))).assign_attrs(
        {"units": "spikes/s"} | attrs
    )


def test_rates_with_a_known_window_are_counts_again(neurons):
    few = neurons.isel(unit=slice(0, 8))
    found, wanted = attention_effects(as_rates(few), held_out=False), attention_effects(few, held_out=False)
    xr.testing.assert_allclose(found, wanted)
    assert found.attrs["counts_from"] == "rates in spikes/s times the window of 0.25 s"
    differ = as_rates(few)
    differ["duration"].values[:3] = 0.5
    for other in (differ, as_rates(few, baseline="[-0.2, 0) s, subtracted"), as_rates(few) * 1.01):
        with pytest.raises(DataError, match="came rates, fractions"):
            attention_effects(other.assign_attrs(as_rates(few).attrs | other.attrs), held_out=False)
    plain = attention_effects(as_rates(few), noise="gaussian", held_out=False)
    assert "several times too often" in plain.attrs["noise_note"]
    assert "counts_from" not in plain.attrs


def test_recordings_in_other_units_are_not_compared(neurons):
    parts = [neurons.isel(trial=np.flatnonzero(neurons["condition"] == c)) for c in ("unattended", "attended")]
    with pytest.raises(DataError, match="same units; came 'spikes' unattended and 'spikes/s' attended"):
        attention_effects(parts[0], as_rates(parts[1]))
    windows = [as_rates(parts[0]), as_rates(parts[1], 0.5)]
    with pytest.raises(DataError, match="came rates"):  # counts of windows that differ would differ too
        attention_effects(*windows)


@pytest.mark.parametrize(("mean", "bound"), [(1.5, 0.06), (5.0, 0.04)])
def test_few_spikes_are_no_feature_similarity_gain(mean, bound):
    """Without the least number of spikes the mean slope would be -.26 at 1.5 spikes."""
    none = simulate_population(1000, stimuli=12, repeats=6, mean=mean, gain=1.0, seed=5)
    found = attention_effects(none, held_out=False, models=["none"], profile=False)["preference_slope"].values
    assert np.isfinite(found).mean() > 0.95
    assert abs(np.nanmean(found)) < bound


def test_repeats_are_counted_in_each_session(neurons):
    """Units of the second session have their repeats behind those of the first."""
    few = neurons.isel(unit=slice(0, 6))
    values, first = few["response"].values.copy(), (few["repetition"] < 10).values
    values[np.ix_(first, [3, 4, 5])] = values[np.ix_(~first, [0, 1, 2])] = np.nan
    found = attention_effects(few.assign(response=(("trial", "unit"), values)), held_out=False)
    for rows, units in ((first, [0, 1, 2]), (~first, [3, 4, 5])):
        alone = attention_effects(few.isel(trial=np.flatnonzero(rows), unit=units), held_out=False)
        np.testing.assert_allclose(found["preference_slope"][units], alone["preference_slope"])
    two = simulate_population(6, stimuli=8, repeats=2, seed=3)
    values, first = two["response"].values.copy(), (two["repetition"] == 0).values
    values[np.ix_(first, [3, 4, 5])] = values[np.ix_(~first, [0, 1, 2])] = np.nan
    one_each = attention_effects(two.assign(response=(("trial", "unit"), values)), held_out=False)
    assert np.isfinite(one_each["preference_slope"]).all()
