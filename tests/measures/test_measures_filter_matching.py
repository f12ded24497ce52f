"""Tuning distributions of network and brain, and filters chosen like neurons."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from featattn_neuro.errors import DataError
from featattn_neuro.measures.filter_matching import gain_selectivity_in, select_like_neurons, tuning_match
from featattn_neuro.measures.gain_selectivity import gain_selectivity

PER_LAYER = 60


@pytest.fixture
def rng():
    return np.random.default_rng(6)


def over_units(values: np.ndarray) -> xr.DataArray:
    layer = np.repeat(["conv1", "conv2"], PER_LAYER)
    names = [f"{one}/{k:03d}" for k, one in enumerate(layer)]
    return xr.DataArray(
        values, {"unit": names, "layer": ("unit", layer), "channel": ("unit", np.arange(len(values)))}, "unit"
    )


@pytest.fixture
def filters(rng):
    return over_units(rng.uniform(0, 1, 2 * PER_LAYER)).rename("sparseness")


@pytest.fixture
def neurons(rng):
    return xr.DataArray(rng.beta(2, 6, 35), {"unit": [f"V4/{k}" for k in range(35)]}, "unit")


def test_the_layer_that_has_the_neurons_distribution_is_the_most_alike(rng, filters, neurons):
    alike = filters.copy(deep=True)
    alike[PER_LAYER:] = rng.beta(2, 6, PER_LAYER)
    found = tuning_match(alike, neurons)
    score = found["score"].sel(measure="1 - KS, matched size")
    ceiling = float(found["ceiling"][1])
    assert abs(float(score[1]) - ceiling) < 0.1
    assert float(score[0]) < ceiling - 0.2
    wanted = 1 - stats.ks_2samp(alike[:PER_LAYER], neurons).statistic
    assert float(found["score"].sel(layer="conv1", measure="1 - KS")) == pytest.approx(wanted)
    assert np.isnan(found["ceiling"][0])
    assert found["n_values"].values.tolist() == [PER_LAYER, PER_LAYER]
    assert found.attrs["quantity"] == "sparseness"
    with pytest.raises(DataError, match="need the coordinate 'layer'"):
        tuning_match(alike.drop_vars("layer"), neurons)
    with pytest.raises(DataError, match="four neurons or more; came 3"):
        tuning_match(alike, neurons[:3])


def test_chosen_filters_have_the_distribution_of_the_neurons(rng, filters, neurons):
    found = select_like_neurons(filters, neurons)
    assert int(found.sum()) == 35
    fresh = [1 - stats.ks_2samp(rng.beta(2, 6, 35), neurons).statistic for _ in range(200)]
    assert found.attrs["similarity_after"] > np.median(fresh)  # as alike as other neurons of the same population
    assert found.attrs["similarity_before"] < np.quantile(fresh, 0.01)
    shuffled = select_like_neurons(filters.isel(unit=rng.permutation(2 * PER_LAYER)), neurons[::-1])
    np.testing.assert_array_equal(shuffled.sel(unit=found["unit"].values), found)


def test_the_choice_is_the_best_of_all_choices(filters, neurons):
    """By brute force over all choices of 3 of 6."""
    from itertools import combinations

    targets = np.quantile(neurons, [1 / 6, 0.5, 5 / 6], method="hazen")
    for first in range(0, 2 * PER_LAYER, 6):
        few = filters[first : first + 6]
        cost = {one: np.abs(np.sort(few.values[list(one)]) - targets).sum() for one in combinations(range(6), 3)}
        found = select_like_neurons(few, neurons, count=3)
        assert tuple(np.flatnonzero(found.values)) == min(cost, key=cost.__getitem__)


def test_far_and_undefined_filters_are_left_out(filters, neurons):
    filters[:40] = np.nan
    found = select_like_neurons(filters, neurons, count=30, tolerance=0.005)
    assert not found[:40].any()
    assert 0 < found.attrs["n_dropped"] == 30 - int(found.sum())
    with pytest.raises(DataError, match="1 to 80 filters to choose"):
        select_like_neurons(filters, neurons, count=100)
    with pytest.raises(DataError, match="over 'unit'"):
        select_like_neurons(filters.expand_dims("task"), neurons)


def test_gains_asked_in_the_chosen_filters(rng, filters):
    tasks = ["a", "b", "c"]
    dprime = rng.normal(size=(3, 2 * PER_LAYER))
    chosen = over_units(np.zeros(2 * PER_LAYER, dtype=np.int64))
    chosen[::3] = 1
    noise = np.where(chosen.values == 1, 0.05, 5.0)
    gain = np.exp(0.2 * np.abs(dprime) + 0.2 * noise * rng.normal(size=dprime.shape))
    coordinates = {name: chosen[name] for name in ("unit", "layer", "channel")} | {"task": tasks}
    gains = xr.Dataset({"gain": (("task", "unit"), gain)}, coordinates, {"kind": "GAINS"})
    values = {
        "dprime": (("task", "unit"), dprime),
        "auc": (("task", "unit"), stats.norm.cdf(dprime / np.sqrt(2))),
        "status": (("task", "unit"), np.full(dprime.shape, "ok")),
    }
    selectivity = xr.Dataset(values, coordinates, {"kind": "SELECTIVITY"})
    order = rng.permutation(2 * PER_LAYER)
    found = gain_selectivity_in(gains, selectivity, chosen.isel(unit=order), draws=60)
    inside = chosen["unit"].values[chosen.values == 1]
    wanted = gain_selectivity(gains.sel(unit=inside), selectivity.sel(unit=inside))
    np.testing.assert_allclose(found["rho"], wanted["rho"])
    assert found.attrs["matched_chosen"] == pytest.approx(float(wanted["matched"].sel(measure="dprime")))
    assert found.attrs["matched_chosen"] > found.attrs["matched_random"] + 0.5
    assert found.attrs["p_random"] <= 1 / 61 + 1e-9
    assert (found["n_live"] == 20).all()
    whole_layer = chosen * 0 + (chosen["layer"] == "conv1")
    same = gain_selectivity_in(gains, selectivity, whole_layer, draws=5).attrs  # a layer has no other filters to draw
    assert same["matched_random"] == pytest.approx(same["matched_chosen"])
    assert same["p_random"] == 1
    with pytest.raises(DataError, match="wanted 8 chosen live filters in a layer"):
        gain_selectivity_in(gains, selectivity, chosen * (np.arange(2 * PER_LAYER) < 12))


def test_random_filters_are_drawn_among_live_ones(rng):
    """Forty of sixty filters of a layer are dead: the chosen ones are all that live, so nothing else can be drawn."""
    chosen = over_units(np.zeros(2 * PER_LAYER, dtype=np.int64))
    chosen[:20] = 1
    coordinates = {name: chosen[name] for name in ("unit", "layer", "channel")}
    dprime = rng.normal(size=2 * PER_LAYER)
    values = {
        "dprime": ("unit", dprime),
        "auc": ("unit", stats.norm.cdf(dprime)),
        "status": ("unit", np.where(np.arange(2 * PER_LAYER) < 20, "ok", "dead")),
        "live": ("unit", (np.arange(2 * PER_LAYER) < 20).astype(int)),
    }
    gains = xr.Dataset({"gain": ("unit", np.exp(rng.normal(size=2 * PER_LAYER)))}, coordinates)
    found = gain_selectivity_in(gains, xr.Dataset(values, coordinates), chosen, draws=9).attrs
    assert found["draws"] == 9
    assert found["matched_random"] == pytest.approx(found["matched_chosen"])
    assert found["p_random"] == 1


def test_a_layer_without_values_has_no_score_and_takes_nobody_elses_ceiling(filters, neurons):
    gone = filters.where(filters["layer"] != "conv1")
    found, wanted = tuning_match(gone, neurons), tuning_match(filters, neurons)
    assert np.isnan(found["score"].sel(layer="conv1")).all()
    assert found["ceiling"].values[1] == pytest.approx(wanted["ceiling"].values[1], abs=0.02)
    empty = tuning_match(filters.where(filters > 2), neurons)
    assert np.isnan(empty["ceiling"]).all()
