"""Indices of tuning against closed forms and simulations; intervals and tests against SciPy; units with gaps."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from featattn_neuro.arrays.tuning_curves import modulation_depth, preferred_level
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.measures.tuning import tuning
from featattn_neuro.measures.tuning_indices import repeats, tuning_indices, tuning_reliability


def population(rng, *, units=6, levels=8, trials=12, tuned=True):
    level = np.repeat(np.arange(levels) * 22.5, trials)
    preferred = 180 * rng.random(units)
    rate = 5 + 15 * np.exp(2 * (np.cos(2 * np.deg2rad(level[:, None] - preferred)) - 1)) * tuned
    order = rng.permutation(level.size)
    return xr.Dataset(
        {"response": (("trial", "unit"), rng.poisson(rate)[order].astype(float))},
        {
            "trial": np.arange(level.size),
            "unit": [f"V1/{k}" for k in range(units)],
            "stimulus": ("trial", np.array([f"s{one:g}" for one in level[order]])),
            "orientation": ("trial", level[order]),
            "label": ("trial", np.array(["low" if one < 90 else "high" for one in level[order]])),
        },
    )


@pytest.mark.parametrize(("test", "reference"), [("kruskal", stats.kruskal), ("anova", stats.f_oneway)])
def test_p_and_intervals_are_scipys_also_with_gaps(test, reference):
    neural = population(np.random.default_rng(0))
    neural["response"].values[3, 0] = neural["response"].values[5, 0] = neural["response"].values[7, 2] = np.nan
    found = tuning(neural, level="orientation", test=test, confidence=0.9)
    for unit in range(6):
        values, level = neural["response"].values[:, unit], neural["orientation"].values
        groups = [values[(level == one) & np.isfinite(values)] for one in np.unique(level)]
        assert float(found["p_selective"][unit]) == pytest.approx(reference(*groups).pvalue, rel=1e-9)
        for at, group in enumerate(groups):
            low, high = stats.t.interval(0.9, group.size - 1, group.mean(), stats.sem(group))
            assert float(found["low"][unit, at]) == pytest.approx(low)
            assert float(found["high"][unit, at]) == pytest.approx(high)


def test_untuned_units_are_called_tuned_at_the_rate_of_the_test():
    neural = population(np.random.default_rng(1), units=600, tuned=False)
    share = float((tuning(neural, level="orientation")["p_selective"] < 0.05).mean())
    # 600 units, standard error .009; Kruskal's chi-square is a little conservative at 12 a group
    assert 0.02 < share < 0.08


def test_levels_may_be_names():
    neural = population(np.random.default_rng(2))
    found = tuning(neural, level="label")
    assert found["level_name"].values.tolist() == ["high", "low"]
    assert found["level"].values.tolist() == [0, 1]
    wanted = neural["response"].values[neural["label"].values == "low"].mean(axis=0)
    np.testing.assert_allclose(found["curve"].sel(level=1), wanted)
    assert found.attrs["parameter"] == "label"
    with pytest.raises(ConfigError, match=r"unknown coordinate of the trials 'angle'"):
        tuning(neural, level="angle")
    with pytest.raises(DataError, match=r"the name of another \(.*orientation.*\)"):
        tuning(neural)
    with pytest.raises(ConfigError, match="a confidence between 0 and 1"):
        tuning(neural, level="label", confidence=95)
    with pytest.raises(ConfigError, match="unknown test of selectivity"):
        tuning(neural, level="label", test="t")


def test_filters_take_the_coordinates_of_their_stimuli():
    level = [0.0, 45.0, 90.0, 0.0, 45.0, 90.0]
    recorded = xr.Dataset(
        {"response": (("stimulus", "unit"), np.arange(12.0).reshape(6, 2))},
        {
            "stimulus": [f"s{k}" for k in range(6)], "unit": ["c/0", "c/1"], "layer": ("unit", ["c", "c"]),
            "channel": ("unit", [0, 1]), "orientation": ("stimulus", level),
        },
    )  # fmt: skip
    found = tuning(recorded, level="orientation")
    np.testing.assert_allclose(found["curve"].sel(unit="c/0"), [3, 5, 7])
    assert found["layer"].values.tolist() == ["c", "c"]
    assert found.attrs["sample"] == "stimulus"


def test_indices_and_their_floor():
    rng = np.random.default_rng(3)
    flat, tuned = population(rng, units=200, tuned=False), population(rng, units=200)
    found = tuning_indices(flat, level="orientation", permutations=50)
    difference = (found["modulation_depth"] - found["modulation_depth_floor"]).values
    # without tuning the index is its floor: mean difference 0, standard error near .003
    assert abs(difference.mean()) < 0.015
    assert float(found["modulation_depth"].mean()) > 0.15  # what would be believed without the floor
    found = tuning_indices(tuned, level="orientation", permutations=50)
    assert ((found["modulation_depth"] - found["modulation_depth_floor"]) > 0.1).all()
    assert "modulation_depth_floor" not in tuning_indices(tuned, level="orientation", permutations=0)
    with pytest.raises(ConfigError, match="0 permutations or more"):
        tuning_indices(tuned, level="orientation", permutations=-1)


# rates of 0, or large enough that scaling them loses no digits
RATE = st.just(0.0) | st.floats(1e-200, 100)


@given(st.lists(RATE, min_size=2, max_size=9), st.floats(0.01, 100), st.randoms())
@settings(max_examples=60, deadline=None)
def test_modulation_depth_has_no_units_and_no_order(curve, factor, random):
    wanted = modulation_depth(curve)
    shuffled = random.sample(curve, len(curve))
    np.testing.assert_allclose(modulation_depth(np.array(shuffled) * factor), wanted, rtol=1e-9)
    assert np.isnan(wanted) or 0 <= wanted <= 1
    level = np.arange(len(curve))
    assert np.isnan(preferred_level(curve, level)) or curve[int(preferred_level(curve, level))] == max(curve)


def test_gaps_in_curves_are_left_out():
    assert modulation_depth([np.nan, 1.0, 3.0]) == 0.5
    assert np.isnan(modulation_depth([np.nan, 1.0]))
    assert preferred_level([np.nan, 1.0, 3.0], [0, 1, 2]) == 2
    assert np.isnan(preferred_level([np.nan, np.nan], [0, 1]))


def test_repeats_keep_every_response():
    neural = population(np.random.default_rng(4), trials=3)
    neural = neural.isel(trial=np.arange(1, neural.sizes["trial"]))  # one stimulus has a repeat less
    table, names = repeats(neural)
    assert table.shape == (8, 3, 6)
    assert np.isnan(table).sum() == 6
    for position, name in enumerate(names):
        wanted = neural["response"].values[neural["stimulus"].values == name]
        np.testing.assert_array_equal(table[position][: len(wanted)], wanted)


def test_reliability_is_what_spearman_and_brown_promise():
    """Signal variance 1, noise variance 4 / 16 per mean of 16 repeats: reliability 1 / (1 + 1/4) = .8."""
    rng = np.random.default_rng(5)
    signal = rng.normal(size=(400, 1, 30))
    values = (signal + 2 * rng.normal(size=(400, 16, 30))).reshape(-1, 30)
    neural = xr.Dataset(
        {"response": (("trial", "unit"), values)},
        {
            "trial": np.arange(6400),
            "unit": [str(k) for k in range(30)],
            "stimulus": ("trial", np.repeat(np.arange(400), 16).astype(str)),
        },
    )
    found = tuning_reliability(neural, splits=10)
    assert float(found.mean()) == pytest.approx(0.8, abs=0.01)
    single = neural.isel(trial=np.arange(0, 6400, 16))
    with pytest.raises(DataError, match="no stimulus was shown twice"):
        tuning_reliability(single)


def test_published_units_are_reliable(shared_data):
    from featattn_neuro.io.neural import read_neural

    found = tuning_reliability(read_neural("v4_210325"), splits=20)
    assert float(found.median()) == pytest.approx(0.77, abs=0.01)


def test_selective_units_of_inferior_temporal_cortex(shared_data):
    from featattn_neuro.io.neural import read_neural

    found = tuning(read_neural("zhang_desimone_it"), level="label")
    assert int((found["p_selective"] < 0.01).sum()) == 106
    assert found.sizes["unit"] == 132
    assert found["level_name"].size == 7


def test_sparseness_and_vector_index_are_their_kernels_and_need_whole_curves():
    neural = population(np.random.default_rng(6), units=5)
    neural["response"].values[neural["orientation"].values == 0.0, 0] = np.nan
    neural["response"].values[:, 1] -= 10
    found = tuning_indices(neural, level="orientation", permutations=3)
    curve = found["curve"].values
    assert np.isnan(found["sparseness"].values[:2]).all()
    assert np.isnan(found["orientation_index"].values[:2]).all()
    n = curve.shape[1]
    for unit in (2, 3, 4):
        r = curve[unit]
        by_hand = (1 - r.mean() ** 2 / (r**2).mean()) / (1 - 1 / n)
        assert float(found["sparseness"][unit]) == pytest.approx(by_hand)
        vector = np.abs((r * np.exp(2j * np.deg2rad(found["level"].values))).sum()) / r.sum()
        assert float(found["orientation_index"][unit]) == pytest.approx(vector)
    assert found.attrs["period"] == 180
    assert "direction_index" not in found


def test_the_floor_of_the_vector_index_is_that_of_a_flat_poisson_unit():
    """.057 for mean 2, 12 angles, 10 trials."""
    rng = np.random.default_rng(7)
    level = np.repeat(np.arange(12) * 15.0, 10)
    neural = xr.Dataset(
        {"response": (("trial", "unit"), rng.poisson(2.0, (120, 400)).astype(float))},
        {
            "trial": np.arange(120), "unit": [str(k) for k in range(400)], "level": ("trial", level),
            "stimulus": ("trial", level.astype(str)),
        },
    )  # fmt: skip
    found = tuning_indices(neural, period=180, permutations=20)
    assert float(found["orientation_index"].mean()) == pytest.approx(0.057, abs=0.003)
    assert float(found["orientation_index_floor"].mean()) == pytest.approx(0.057, abs=0.003)


def test_angles_must_tile_the_period_that_is_asked_for():
    neural = population(np.random.default_rng(8))
    assert tuning_indices(neural, level="label", permutations=0).attrs["period"] == 0
    with pytest.raises(DataError, match=r"levels of 'orientation' are no angles of period 360"):
        tuning_indices(neural, level="orientation", period=360)
    with pytest.raises(ConfigError, match=r"a period of 180 or 360 degrees; came 90"):
        tuning_indices(neural, level="orientation", period=90)
    gap = neural.isel(trial=neural["orientation"].values != 45.0)
    found = tuning_indices(gap, level="orientation", permutations=0)
    assert "orientation_index" not in found
    twice = neural.assign_coords(level=("trial", 2 * neural["orientation"].values))
    assert {"orientation_index", "direction_index"} <= set(tuning_indices(twice, period=360, permutations=0))


def test_equal_responses_at_a_level_have_a_mean_and_no_interval():
    counts = [0.0, 0.0, 0.0, 2.0, 3.0, 4.0]
    coordinates = {
        "trial": np.arange(6),
        "unit": ["V1/0"],
        "stimulus": ("trial", ["x"] * 3 + ["y"] * 3),
        "level": ("trial", [0.0] * 3 + [1.0] * 3),
    }
    found = tuning(xr.Dataset({"response": (("trial", "unit"), np.array(counts)[:, None])}, coordinates))
    assert found["curve"].values.tolist() == [[0.0, 3.0]]
    assert found["sem"].values[0, 0] == 0
    assert np.isnan(found[["low", "high"]].to_array()[:, 0, 0]).all()
    assert np.isfinite(found[["low", "high"]].to_array()[:, 0, 1]).all()


def test_floors_of_units_of_different_sessions_are_those_of_each_session():
    rng = np.random.default_rng(0)
    level = np.tile(np.repeat(np.arange(8.0), 4), 2)
    response = rng.poisson(5, (64, 4)).astype(float)
    response[:32, 2:] = response[32:, :2] = np.nan
    coordinates = {
        "trial": np.arange(64), "unit": [f"u{k}" for k in range(4)], "level": ("trial", level),
        "stimulus": ("trial", level.astype(str)),
    }  # fmt: skip
    neural = xr.Dataset({"response": (("trial", "unit"), response)}, coordinates)
    found = tuning_indices(neural, permutations=60)
    first = tuning_indices(neural.isel(trial=slice(0, 32), unit=[0, 1]), permutations=60)
    for name in ("sparseness_floor", "modulation_depth_floor"):
        assert np.isfinite(found[name]).all()
        np.testing.assert_allclose(found[name][:2], first[name], rtol=0.15)


@pytest.mark.parametrize("first", [-90.0, -45.0])
def test_orientations_coded_around_zero_have_their_index(first):
    neural = population(np.random.default_rng(1))
    coded = neural.assign_coords(orientation=("trial", (neural["orientation"].values - first) % 180 + first))
    wanted, found = (tuning_indices(one, level="orientation", permutations=0) for one in (neural, coded))
    np.testing.assert_allclose(found["orientation_index"], wanted["orientation_index"])


def test_two_directions_have_no_orientation_and_that_is_said():
    level = np.repeat([0.0, 180.0], 3)
    coordinates = {
        "trial": np.arange(6),
        "unit": ["u"],
        "level": ("trial", level),
        "stimulus": ("trial", list("aaabbb")),
    }
    neural = xr.Dataset({"response": (("trial", "unit"), np.arange(6.0)[:, None])}, coordinates)
    with pytest.raises(DataError, match="no angles of period 360"):
        tuning_indices(neural, period=360, permutations=0)
