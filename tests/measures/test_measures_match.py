"""Match with neurons: ceilings, subjects, distances, the layer chosen elsewhere, gains on against off."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from featattn_neuro.arrays import dissimilarity as kernels
from featattn_neuro.arrays.partial_least_squares import pls_predictivity
from featattn_neuro.arrays.prediction import split_half_reliability
from featattn_neuro.arrays.ridge import ridge_predictivity
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.measures.neural_match import GROUPS, neural_match
from featattn_neuro.measures.selectivity import average_trials
from featattn_neuro.schema import ACTIVATIONS, DISSIMILARITY, NEURAL

N, REPEATS = 40, 6


@pytest.fixture
def rng():
    return np.random.default_rng(21)


def filters(response: np.ndarray, layers: list[str], labels: list[str] | None = None) -> xr.Dataset:
    channel = [layers[:k].count(name) for k, name in enumerate(layers)]
    coordinates = {
        "stimulus": [f"s{i:02d}" for i in range(len(response))],
        "unit": [f"{name}/{k}" for name, k in zip(layers, channel, strict=True)],
        "layer": ("unit", layers),
        "channel": ("unit", channel),
    }
    if labels is not None:
        coordinates["label"] = ("stimulus", labels)
    return ACTIVATIONS.check(xr.Dataset({"response": (("stimulus", "unit"), response)}, coordinates))


def recorded(driven: np.ndarray, noise: float, rng: np.random.Generator, repeats: int = REPEATS) -> xr.Dataset:
    trials = np.repeat(driven, repeats, axis=0)
    coordinates = {
        "trial": np.arange(len(trials)),
        "stimulus": ("trial", np.repeat([f"s{i:02d}" for i in range(len(driven))], repeats)),
        "unit": [f"IT/{k}" for k in range(driven.shape[1])],
        "subject": ("unit", ["a" if k % 2 else "b" for k in range(driven.shape[1])]),
    }
    values = trials + noise * rng.normal(size=trials.shape)
    return NEURAL.check(xr.Dataset({"response": (("trial", "unit"), values)}, coordinates))


@pytest.fixture
def case(rng):
    response = rng.normal(size=(N, 12))
    driven = response[:, 6:] @ rng.normal(size=(6, 8))
    return filters(response, ["early"] * 6 + ["late"] * 6, ["x", "y"] * (N // 2)), recorded(driven, 1.5, rng)


def test_predictive_scores_and_their_ceilings_by_hand(case):
    activations, neural = case
    found = neural_match(activations, neural, methods=["ridge", "pls"], folds=4, inner_folds=3, seed=5)
    means = average_trials(neural)["response"].values
    late = activations["response"].values[:, 6:]
    ridge = ridge_predictivity(late, means, folds=4, inner_folds=3, seed=5).r.mean(axis=0)
    pls = pls_predictivity(late, means, strata=activations["label"].values, seed=5)
    assert pls.stratified
    at = found.sel(layer="late")
    assert float(at["score"].sel(measure="ridge")) == pytest.approx(np.median(ridge))
    assert float(at["score"].sel(measure="pls")) == pytest.approx(np.median(pls.r, axis=1).mean())
    trials = neural["response"].values.reshape(N, REPEATS, 8)
    reliability = split_half_reliability(trials, splits=100, rng=np.random.default_rng(5))
    np.testing.assert_allclose(found["neuron_reliability"], reliability)
    np.testing.assert_allclose(found["ceiling"], np.median(reliability))
    np.testing.assert_allclose(at["neuron_score"].sel(measure="ridge"), ridge)
    assert float(at["explained"].sel(measure="ridge")) == pytest.approx(np.median(ridge * abs(ridge) / reliability))
    assert float(at["corrected"].sel(measure="ridge")) == pytest.approx(np.median(ridge / np.sqrt(reliability)))
    assert "compare with r²" in str(found["ceiling_name"].sel(measure="pls").item())
    assert found["neural_unit"].values.tolist() == neural["unit"].values.tolist()


def test_averages_have_no_ceiling_and_say_so(case):
    activations, neural = case
    found = neural_match(activations, average_trials(neural), methods=["ridge"])
    assert np.isnan(found["ceiling"]).all()
    assert np.isnan(found["explained"]).all()
    assert found["ceiling_name"].values.tolist() == ["none"]


@pytest.mark.parametrize("comparison", ["spearman", "kendall"])
def test_each_subject_has_its_matrix(case, comparison):
    activations, neural = case
    found = neural_match(activations, neural, methods=["rsa"], subjects="each", comparison=comparison)
    means = average_trials(neural)
    matrices = [
        kernels.correlation_distance(means["response"].values[:, (neural["subject"] == name).values]) for name in "ab"
    ]
    mine = kernels.correlation_distance(activations["response"].values[:, 6:])
    wanted = np.mean([kernels.compare_dissimilarity(mine, one, by=comparison) for one in matrices])
    assert float(found["score"].sel(layer="late").item()) == pytest.approx(wanted)
    bounds = kernels.noise_ceiling(np.stack(matrices), by=comparison)
    assert (found["ceiling_low"].item(), found["ceiling_high"].item()) == pytest.approx((bounds.lower, bounds.upper))
    ids = means["stimulus"].values
    both = xr.Dataset(
        {"dissimilarity": (("subject", "stimulus", "other_stimulus"), np.stack(matrices))},
        {"subject": ["b", "a"], "stimulus": ids, "other_stimulus": ids},
    )
    again = neural_match(
        activations, DISSIMILARITY.check(both), methods=["rsa"], subjects="each", comparison=comparison
    )
    np.testing.assert_allclose(again["score"], found["score"])
    np.testing.assert_allclose(again["ceiling_high"], found["ceiling_high"])
    with pytest.raises(DataError, match="two subjects or more"):
        neural_match(activations, neural.drop_vars("subject"), methods=["rsa"], subjects="each")
    with pytest.raises(DataError, match="two subjects or more"):
        neural_match(activations, both.isel(subject=[0]), methods=["rsa"], subjects="each")


def test_distances(case):
    activations, neural = case
    late = activations["response"].values[:, 6:]
    folds = np.moveaxis(neural["response"].values.reshape(N, REPEATS, 8), 1, 0)
    noise = folds.var(axis=0, ddof=1).mean(axis=0)
    wanted = {
        "euclidean": kernels.euclidean_distance(folds.mean(axis=0)),
        "crossnobis": kernels.crossnobis_distance(folds, precision=1 / noise),
    }
    for name, matrix in wanted.items():
        found = neural_match(activations, neural, methods=["rsa"], distance=name)["score"].sel(layer="late").item()
        assert found == pytest.approx(kernels.compare_dissimilarity(kernels.euclidean_distance(late), matrix))
    with pytest.raises(DataError, match="shown twice or more"):
        neural_match(activations, average_trials(neural), methods=["rsa"], distance="crossnobis")


def test_a_repeat_that_not_every_stimulus_had_is_no_fold(case):
    activations, neural = case
    short = neural.isel(
        trial=np.flatnonzero(~((neural["stimulus"] == "s03").values & (np.arange(N * REPEATS) % 6 > 2)))
    )
    found = neural_match(activations, short, methods=["rsa"], distance="crossnobis")
    wanted = neural_match(
        activations, neural.isel(trial=np.arange(N * REPEATS) % 6 <= 2), methods=["rsa"], distance="crossnobis"
    )
    np.testing.assert_allclose(found["score"], wanted["score"])


def test_the_layer_is_scored_on_stimuli_that_did_not_choose_it(rng):
    """With layers of noise, the best of them looks good where it was chosen and is nothing elsewhere."""
    here, there = [], []
    for _ in range(12):
        noise = filters(rng.normal(size=(N, 60)), [f"layer{k // 3}" for k in range(60)])
        found = neural_match(noise, recorded(rng.normal(size=(N, 5)), 0.1, rng), methods=["rsa"], layer_choice="halves")
        there.append(found["chosen_score"].values.mean())
        here.append(float(found["score"].max()))
        assert set(found["chosen_layer"].values.ravel()) <= set(found["layer"].values)
    assert np.mean(here) > 4 * np.std(here) / np.sqrt(len(here))
    assert abs(np.mean(there)) < 3 * np.std(there) / np.sqrt(len(there))


def test_the_chosen_layer_is_the_one_that_drives(case):
    found = neural_match(*case, methods=["rsa", "cka", "ridge"], layer_choice="halves")
    assert (found["chosen_layer"] == "late").all()
    assert (found["chosen_score"] > 0.3).all()


def test_the_same_activations_differ_by_nothing(case, rng):
    activations, neural = case
    shuffled = activations.isel(stimulus=rng.permutation(N), unit=rng.permutation(12))
    found = neural_match(activations, neural, methods=["rsa", "cka", "ridge", "pls"], gained=shuffled)
    for name in ("difference", "difference_low", "difference_high"):
        np.testing.assert_allclose(found[name], 0, atol=1e-9)
    with pytest.raises(DataError, match="absent from the gained activations"):
        neural_match(activations, neural, gained=activations.isel(unit=slice(0, 6)))


def test_gains_that_bring_out_what_drives_the_neurons_raise_the_match(rng):
    response = rng.normal(size=(N, 30))
    neural = recorded(response[:, :3] @ rng.normal(size=(3, 8)), 0.3, rng)
    plain = filters(response, ["layer"] * 30)
    louder = plain.assign(response=plain["response"] * np.repeat([5.0, 1.0], [3, 27]))
    found = neural_match(plain, neural, methods=["rsa", "cka"], gained=louder)
    np.testing.assert_allclose(found["difference"], found["score_gained"] - found["score"])
    assert (found["difference_low"] > 0).all()
    # ridge standardises its features: a gain per filter is no change for it
    ridge = neural_match(plain, neural, methods=["ridge"], gained=louder)
    assert abs(ridge["difference"].item()) < 1e-9


def test_the_interval_of_the_difference_covers_the_truth(rng):
    """Two recordings that are equally far from the neurons: the true difference is 0."""
    inside = []
    for _ in range(60):
        signal = rng.normal(size=(N, 6))
        neural = recorded(signal @ rng.normal(size=(6, 6)), 0.2, rng, repeats=2)
        both = [filters(signal + rng.normal(size=signal.shape), ["layer"] * 6) for _ in range(2)]
        found = neural_match(both[0], neural, methods=["rsa", "cka"], gained=both[1])
        inside.append(((found["difference_low"] <= 0) & (found["difference_high"] >= 0)).values.ravel())
    assert np.mean(inside) > 0.88
    assert GROUPS <= N


def test_what_cannot_be_done_is_said(case):
    activations, neural = case
    two = neural.assign_coords(condition=("trial", ["in", "out"] * (N * REPEATS // 2)))
    with pytest.raises(DataError, match="one condition; came in, out; select one first"):
        neural_match(activations, two)
    with pytest.raises(ConfigError, match="unknown distance 'cosine'"):
        neural_match(activations, neural, distance="cosine")
    with pytest.raises(DataError, match="finite responses in the activations"):
        neural_match(activations.where(activations["response"] < 1), neural)


def test_crossnobis_of_two_sessions_counts_repeats_in_each(case):
    """Neurons of either session, one after the other in the file: as if they had been recorded together."""
    activations, neural = case
    half = [neural.isel(unit=slice(0, 4)), neural.isel(unit=slice(4, 8))]
    later = half[1].assign_coords(trial=half[1]["trial"].values + 1000)
    joined = xr.concat(
        [half[0], later], "trial", data_vars="minimal", coords="minimal", compat="override", join="outer"
    )
    joined = joined.assign_coords({name: neural[name] for name in ("subject",)}).sel(unit=neural["unit"])
    found, wanted = (neural_match(activations, one, methods=["rsa"], distance="crossnobis") for one in (joined, neural))
    assert np.isfinite(found["score"]).all()
    np.testing.assert_allclose(found["score"], wanted["score"])
    once = joined.isel(trial=np.unique(joined["trial"].values // 6, return_index=True)[1])
    with pytest.raises(DataError, match="every stimulus shown twice or more; came none"):
        neural_match(activations, once, methods=["rsa"], distance="crossnobis")


def test_neurons_with_few_spikes_stay_and_those_without_a_score_are_counted(case):
    activations, neural = case
    values = neural["response"].values.copy()
    values[:, 0] = 0.0  # nothing to predict
    values[:, 1] = 0.0
    values[np.isin(neural["stimulus"].values, ["s03", "s11", "s20", "s30", "s35"]), 1] = 2.0
    found = neural_match(activations, neural.assign(response=(("trial", "unit"), values)), methods=["ridge", "rsa"])
    assert np.isnan(found["neuron_score"].sel(measure="ridge").values[:, 0]).all()
    assert np.isfinite(found["neuron_score"].sel(measure="ridge").values[:, 1:]).all()
    assert found["n_undefined"].sel(measure="ridge").values.tolist() == [1, 1]
    assert found["n_undefined"].sel(measure="rsa").values.tolist() == [0, 0]


def test_too_few_stimuli_to_hold_out_are_said(case):
    few = [one.sel(stimulus=[f"s{i:02d}" for i in range(12)]) for one in (case[0], average_trials(case[1]))]
    with pytest.raises(DataError, match=r"cannot be scored: partial least squares needs 3 held-out.*came 12 stimuli"):
        neural_match(*few, methods=["pls"])
