"""selectivity(): ids, targets, reason codes; the numbers are tested with the kernels."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from featattn_neuro.arrays import discrimination
from featattn_neuro.errors import ConfigError, DataError, SchemaError
from featattn_neuro.measures.selectivity import average_trials, selectivity, targets_from_labels
from featattn_neuro.schema import ACTIVATIONS, NEURAL


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def recorded(rng):
    n, per_layer = 40, 5
    names = [f"{layer}/{k:03d}" for layer in ("conv1", "conv2") for k in range(per_layer)]
    labels = [str(i % 4) for i in range(n)]
    values = np.maximum(rng.normal(size=(n, 10)), 0).astype(np.float32)
    values[:, 3] = 0.0
    values[:, 7] = 2.5
    dataset = xr.Dataset(
        {"response": (("stimulus", "unit"), values)},
        {
            "stimulus": [f"id{i:02d}" for i in range(n)],
            "label": ("stimulus", labels),
            "unit": names,
            "layer": ("unit", [name.split("/")[0] for name in names]),
            "channel": ("unit", [int(name.split("/")[1]) for name in names]),
        },
    )
    return ACTIVATIONS.check(dataset)


def test_values_are_those_of_the_kernels_and_reasons_are_given(recorded):
    found = selectivity(recorded, "1", permutations=5)
    target = recorded["label"].values == "1"
    responses = recorded["response"].values.T
    np.testing.assert_allclose(found["dprime"], discrimination.dprime(responses, target))
    np.testing.assert_allclose(found["auc"], discrimination.roc_area(responses, target))
    assert found["status"].values[[3, 7, 0]].tolist() == ["dead", "constant", "ok"]
    assert np.isnan(found["dprime"].values[[3, 7]]).all()
    assert found["live"].values.tolist() == [1, 1, 1, 0, 1, 1, 1, 0, 1, 1]
    assert int(found["n_target"]) == 10
    assert int(found["n_distractor"]) == 30
    assert float(found["zero_fraction"][3]) == 1.0
    assert ((found["auc_low"] < found["auc"]) & (found["auc"] < found["auc_high"])).values[[0, 1, 2]].all()
    assert (found["dprime_floor"].values[[0, 1, 2]] > 0).all()


def test_label_values_of_numbers_and_text_are_the_same(recorded):
    xr.testing.assert_identical(selectivity(recorded, 1), selectivity(recorded, "1"))
    xr.testing.assert_identical(selectivity(recorded, np.int64(1)), selectivity(recorded, "1"))
    numpy_sides = selectivity(recorded, {"x": (np.int64(1), np.array([2, 3]))})
    xr.testing.assert_identical(numpy_sides, selectivity(recorded, {"x": ("1", ("2", "3"))}))


def test_a_target_is_matched_by_id_in_any_order(recorded, rng):
    target = recorded["label"] == "2"
    shuffled = target.isel(stimulus=rng.permutation(40))
    direct = selectivity(recorded, target)
    xr.testing.assert_identical(selectivity(recorded, shuffled), direct)
    other = selectivity(recorded.isel(stimulus=rng.permutation(40)), target)
    np.testing.assert_allclose(other["dprime"], direct["dprime"])
    np.testing.assert_allclose(direct["dprime"], selectivity(recorded, "2")["dprime"])


def test_several_tasks_equal_one_at_a_time(recorded):
    tasks = ["0", "3"]
    found = selectivity(recorded, targets_from_labels(recorded, tasks))
    assert found["dprime"].dims == ("task", "unit")
    for task in tasks:
        np.testing.assert_allclose(found["auc"].sel(task=task), selectivity(recorded, task)["auc"])


def test_composites_are_targets_of_both_their_labels(recorded):
    pairs = recorded.assign_coords(label=("stimulus", ["a|b", "b|c"] * 20))
    targets = targets_from_labels(pairs, ["a", "b", "c"])
    assert targets.sum("stimulus").values.tolist() == [20, 40, 20]
    found = selectivity(pairs, targets.sel(task=["b"]))
    assert found["status"].values.tolist() == [["single_class"] * 10]
    assert np.isnan(found["dprime"]).all()
    np.testing.assert_allclose(selectivity(pairs, "a")["auc"], 1 - selectivity(pairs, "c")["auc"])


def test_a_filter_must_vary_in_each_class_of_every_task(recorded):
    values = recorded["response"].values.copy()
    values[recorded["label"].values == "3", 0] = 1.0  # silent variance in one class of one task
    changed = recorded.assign(response=(("stimulus", "unit"), values))
    found = selectivity(changed, targets_from_labels(changed, ["0", "3"]))
    assert found["live"].values[0] == 0
    assert selectivity(changed, targets_from_labels(changed, ["0", "1"]))["live"].values[0] == 1
    faint = recorded.assign(response=recorded["response"] * xr.where(recorded["unit"] == "conv1/001", 1e-7, 1.0))
    assert selectivity(faint, "0")["live"].values[1] == 0  # variance 1e-14 of the layer's largest


def test_sources_of_composites_are_their_constituents(recorded):
    assert selectivity(recorded, "0")["selection_source"].values.tolist() == sorted(recorded["stimulus"].values)
    pairs = recorded.assign_coords(constituents=("stimulus", ["x|y", "y|z"] * 20))
    assert selectivity(pairs, "0")["selection_source"].values.tolist() == ["x", "y", "z"]


def test_one_target_is_too_few(recorded):
    target = recorded["stimulus"] == "id05"
    assert set(selectivity(recorded, target)["status"].values) == {"too_few"}


def test_area_one_has_no_interval_and_says_why(recorded):
    values = recorded["response"].values.copy()
    values[:, 0] = (recorded["label"].values == "1") * 10 + np.arange(40) / 100
    found = selectivity(recorded.assign(response=(("stimulus", "unit"), values)), "1")
    assert float(found["auc"][0]) == 1.0
    assert np.isnan(found["auc_low"][0])
    assert found["interval_status"].values[[0, 1, 3]].tolist() == ["constant", "ok", "dead"]
    assert found["status"].values[0] == "ok"


def test_leverage_is_matched_by_task(recorded, rng):
    leverage = xr.DataArray(
        rng.normal(size=(2, 40, 10)),
        {"task": ["3", "0"], "stimulus": recorded["stimulus"], "unit": recorded["unit"]},
        ("task", "stimulus", "unit"),
    )
    both = recorded.assign(leverage=leverage.drop_vars(["label"], errors="ignore"))
    found = selectivity(both, targets_from_labels(recorded, ["0", "3"]))
    by_hand = discrimination.dprime(leverage.sel(task="0").values.T, recorded["label"].values == "0")
    np.testing.assert_allclose(found["leverage_dprime"].sel(task="0"), by_hand)
    np.testing.assert_allclose(selectivity(both, "0")["leverage_dprime"], by_hand)


def test_leverage_is_of_the_stimuli_of_the_contrast(recorded, rng):
    """The stimuli that a contrast leaves out of d' do not move the d' of the leverage either."""
    label = recorded["label"].values
    values = rng.normal(size=(2, 40, 10))
    values[:, (label == "1") | (label == "3")] += 100
    leverage = (("task", "stimulus", "unit"), values)

    def wanted(task, one, other):
        part = (label == one) | (label == other)
        return discrimination.dprime(values[task][part].T, label[part] == one)

    named = recorded.assign(leverage=leverage).assign_coords(task=["a", "b"])
    found = selectivity(named, {"b": ("2", "0"), "a": ("0", ["2"])})["leverage_dprime"]
    np.testing.assert_allclose(found.sel(task="a"), wanted(0, "0", "2"))
    np.testing.assert_allclose(found.sel(task="b"), wanted(1, "2", "0"))
    paired = recorded.assign(leverage=leverage).assign_coords(task=["0 vs 2", "x"]).isel(task=[0])
    np.testing.assert_allclose(selectivity(paired, ["0", "2"], pairs=True)["leverage_dprime"], [wanted(0, "0", "2")])


def test_several_reductions_must_be_selected(recorded):
    two = xr.concat([recorded, recorded], xr.IndexVariable("reduction", ["mean", "max"]), data_vars="all")
    with pytest.raises(DataError, match=r"2 reductions \(mean, max\).*sel\(reduction='mean'\)"):
        selectivity(two, "0")
    selected = selectivity(two.sel(reduction="mean"), "0")  # leaves a scalar coordinate behind
    np.testing.assert_allclose(selected["dprime"], selectivity(recorded, "0")["dprime"])


def test_user_mistakes(recorded):
    with pytest.raises(ConfigError, match="unknown label '9'; choose one of: 0, 1, 2, 3"):
        selectivity(recorded, "9")
    target = recorded["label"] == "0"
    with pytest.raises(DataError, match=r"1 of the activations absent from the target \(first: 'id00'\)"):
        selectivity(recorded, target.isel(stimulus=slice(1, None)))
    with pytest.raises(DataError, match="matched by stimulus id; came ndarray"):
        selectivity(recorded, target.values)
    with pytest.raises(DataError, match="no ids along 'stimulus'"):
        selectivity(recorded, target.drop_vars(["stimulus", "label"]))
    with pytest.raises(DataError, match="must be boolean"):
        selectivity(recorded, target.astype(int))
    with pytest.raises(DataError, match="no coordinate 'label'"):
        selectivity(recorded.drop_vars("label"), "0")
    for side in ([], None, 1.5):
        with pytest.raises(ConfigError, match="each side of contrast 'x' must be one label or several; came"):
            selectivity(recorded, {"x": (["1"], side)})
    with pytest.raises(ConfigError, match="pairs=True compares every two"):
        selectivity(recorded, np.int64(1), pairs=True)
    with pytest.raises(ConfigError, match="unknown observations 'trials'"):
        selectivity(recorded, "0", observations="trials")
    with pytest.raises(SchemaError, match="wanted an xarray Dataset"):
        selectivity(recorded["response"], "0")


def test_nothing_given_is_altered(recorded):
    before = recorded.copy(deep=True)
    selectivity(recorded, "0", permutations=3)
    xr.testing.assert_identical(recorded, before)


@pytest.fixture
def trials():
    response = [[1.0, np.nan], [3.0, 4.0], [5.0, 8.0], [7.0, np.nan]]
    return NEURAL.check(
        xr.Dataset(
            {"response": (("trial", "unit"), response)},
            {
                "trial": [0, 1, 2, 3],
                "stimulus": ("trial", ["b", "a", "a", "b"]),
                "unit": ["V4/7", "V4/9"],
                "area": ("unit", ["V4", "V4"]),
            },
        )
    )


def test_trials_are_averaged_by_stimulus_without_inventing_zeros(trials):
    found = average_trials(trials)
    assert found["stimulus"].values.tolist() == ["a", "b"]
    np.testing.assert_array_equal(found["response"], [[4.0, 6.0], [4.0, np.nan]])
    assert found["layer"].values.tolist() == ["V4", "V4"]
    assert found["channel"].values.tolist() == [0, 1]


def test_several_labels_are_several_tasks():
    shown = xr.Dataset(
        {"response": (("stimulus", "unit"), [[1.0], [2.0], [4.0], [3.0], [6.0], [9.0]])},
        {
            "stimulus": list("uvwxyz"),
            "unit": ["conv/000"],
            "layer": ("unit", ["conv"]),
            "channel": ("unit", [0]),
            "label": ("stimulus", ["a", "a", "b", "b", "c", "c"]),
        },
    )
    both = selectivity(shown, ["b", "a"])
    assert both["task"].values.tolist() == ["b", "a"]
    for name in ("a", "b"):
        np.testing.assert_array_equal(both["dprime"].sel(task=name), selectivity(shown, name)["dprime"])
