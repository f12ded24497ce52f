"""Tuning curves and the match of layers with neurons."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from featattn_neuro.arrays.dissimilarity import correlation_distance, linear_cka
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.measures.neural_match import neural_match
from featattn_neuro.measures.selectivity import average_trials
from featattn_neuro.measures.tuning import tuning
from featattn_neuro.schema import ACTIVATIONS, DISSIMILARITY, NEURAL

N = 30


@pytest.fixture
def rng():
    return np.random.default_rng(12)


@pytest.fixture
def case(rng):
    ids = [f"s{i:02d}" for i in range(N)]
    names = [f"{layer}/{k}" for layer in ("early", "late") for k in range(6)]
    response = rng.normal(size=(N, 12))
    activations = xr.Dataset(
        {"response": (("stimulus", "unit"), response)},
        {
            "stimulus": ids,
            "unit": names,
            "layer": ("unit", [name.split("/")[0] for name in names]),
            "channel": ("unit", [int(name.split("/")[1]) for name in names]),
        },
    )
    driven = response[:, 6:] @ rng.normal(size=(6, 9))
    trials = np.repeat(driven, 4, axis=0) + 0.3 * rng.normal(size=(N * 4, 9))
    neural = xr.Dataset(
        {"response": (("trial", "unit"), trials)},
        {"trial": range(4 * N), "stimulus": ("trial", np.repeat(ids, 4)), "unit": [f"IT/{k}" for k in range(9)]},
    )
    order = rng.permutation(4 * N)
    return ACTIVATIONS.check(activations), NEURAL.check(neural.isel(trial=order))


def test_the_layer_that_drives_the_neurons_matches_best(case):
    activations, neural = case
    found = neural_match(activations, neural)
    assert found["score"].dims == ("layer", "measure")
    assert (found["score"].sel(layer="late") > found["score"].sel(layer="early") + 0.3).all()
    assert float(found["score"].sel({"layer": "late", "measure": "ridge"})) > 0.9
    assert 0.9 < float(found["ceiling"].sel({"measure": "ridge"})) <= 1
    assert np.isnan(found["ceiling"].sel({"measure": "rsa"}))


def test_scores_by_hand(case):
    activations, neural = case
    found = neural_match(activations, neural, methods=["cka", "rsa"])
    means = average_trials(neural).sel(stimulus=activations["stimulus"])["response"].values
    late = activations["response"].values[:, 6:]
    assert float(found["score"].sel({"layer": "late", "measure": "cka"})) == pytest.approx(linear_cka(late, means))
    upper = np.triu_indices(N, 1)
    wanted = stats.spearmanr(correlation_distance(late)[upper], correlation_distance(means)[upper]).statistic
    assert float(found["score"].sel({"layer": "late", "measure": "rsa"})) == pytest.approx(wanted)


def test_stimuli_are_matched_by_id(case, rng):
    activations, neural = case
    direct = neural_match(activations, neural)
    shuffled = neural_match(activations.isel(stimulus=rng.permutation(N)), neural)
    xr.testing.assert_allclose(shuffled, direct)
    with pytest.raises(DataError, match=r"1 of the neural data absent from the activations \(first: 's00'\)"):
        neural_match(activations.isel(stimulus=slice(1, None)), neural)


def test_a_dissimilarity_matrix(case, rng):
    activations, neural = case
    means = average_trials(neural)
    matrix = correlation_distance(means["response"].values)
    order = rng.permutation(N)
    ids = means["stimulus"].values
    reference = DISSIMILARITY.check(
        xr.Dataset(
            {"dissimilarity": (("subject", "stimulus", "other_stimulus"), matrix[None][:, :, order])},
            {"subject": ["monkey"], "stimulus": ids, "other_stimulus": ids[order]},
        )
    )
    found = neural_match(activations, reference, methods=["rsa"])
    wanted = neural_match(activations, neural, methods=["rsa"])
    np.testing.assert_allclose(found["score"], wanted["score"])
    with pytest.raises(DataError, match="'ridge' needs neurons"):
        neural_match(activations, reference, methods=["rsa", "ridge"])
    two = xr.concat([reference, reference.assign_coords(subject=["human"])], "subject")
    with pytest.raises(DataError, match="2 values along 'subject' \\(monkey, human\\)"):
        neural_match(activations, two, methods=["rsa"])
    np.testing.assert_allclose(
        neural_match(activations, two.sel(subject="human"), methods=["rsa"])["score"], found["score"]
    )


def test_neurons_that_missed_a_stimulus_are_left_out_of_the_geometry(case):
    activations, neural = case
    gap = neural.copy(deep=True)
    gap["response"][(gap["stimulus"] == "s03").values, 2] = np.nan
    found = neural_match(activations, gap)
    assert np.isfinite(found["score"]).all()
    without = neural_match(activations, neural.isel(unit=[k for k in range(9) if k != 2]), methods=["rsa", "cka"])
    np.testing.assert_allclose(found["score"].sel({"measure": ["rsa", "cka"]}), without["score"])


def test_unknown_method(case):
    with pytest.raises(ConfigError, match="unknown method 'lasso'"):
        neural_match(*case, methods=["lasso"])


def test_tuning_by_hand():
    trials = xr.Dataset(
        {"response": (("trial", "unit"), [[2.0, 0, 3], [4.0, 0, np.nan], [9.0, 0, np.nan], [5.0, 0, 3], [7.0, 1, 3]])},
        {
            "trial": range(5),
            "unit": ["a", "b", "c"],
            "stimulus": ("trial", list("xxyyz")),
            "level": ("trial", [-1.0, -1.0, 0.5, 0.5, np.nan]),
            "area": ("unit", ["MT"] * 3),
        },
    )
    found = tuning(trials)
    assert found["level"].values.tolist() == [-1.0, 0.5]
    np.testing.assert_array_equal(found["curve"], [[3, 7], [0, 0], [3, 3]])
    np.testing.assert_array_equal(found["n_trials"], [[2, 2], [2, 2], [1, 1]])
    assert found["sem"].values[0] == pytest.approx([1.0, 2.0])  # SDs sqrt 2 and sqrt 8 over sqrt 2
    assert np.isnan(found["sem"].values[2]).all()
    assert found["status"].values.tolist() == ["ok", "dead", "constant"]
    assert found["area"].values.tolist() == ["MT"] * 3


def test_tuning_of_filters_needs_levels_by_id(case, rng):
    activations, _ = case
    level = xr.DataArray(np.repeat([0.0, 1.0, 2.0], 10), {"stimulus": activations["stimulus"]}, "stimulus")
    found = tuning(activations, level=level.isel(stimulus=rng.permutation(N)))
    np.testing.assert_allclose(found["curve"].sel(level=1.0), activations["response"].values[10:20].mean(axis=0))
    with pytest.raises(DataError, match="no coordinate 'level'"):
        tuning(activations)
    with pytest.raises(DataError, match="two levels or more; came 1"):
        tuning(activations, level=level * 0)
    with pytest.raises(DataError, match="absent from the levels"):
        tuning(activations, level=level[:20])
