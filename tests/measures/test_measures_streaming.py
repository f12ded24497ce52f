"""Moments of labelled recordings: the same selectivity as from the stored recording, however it was cut up."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.io.store import load_kind, open_kind, save_kind
from featattn_neuro.measures.gain_selectivity import gain_selectivity
from featattn_neuro.measures.selectivity import selectivity, targets_from_labels
from featattn_neuro.measures.streaming import NO_AREA, class_moments, merge_moments, selectivity_from_moments
from featattn_neuro.schema import ACTIVATIONS, GAINS

N, UNITS = 60, 20
SHARED = ("dprime", "mean_response", "sd_response", "zero_fraction")
EXACT = ("status", "n_target", "n_distractor", "live", "selection_source")


def make_recording(labels=None):
    rng = np.random.default_rng(0)
    values = np.maximum(rng.normal(size=(N, UNITS)), 0).astype(np.float32)
    values[:, 3], values[:, 7], values[5, 11] = 0.0, 2.5, np.nan
    names = [f"conv{k // 10}/{k % 10:03d}" for k in range(UNITS)]
    coords = {
        "stimulus": [f"id{i:02d}" for i in range(N)],
        "label": ("stimulus", labels or [str(i % 4) for i in range(N)]),
        "unit": names,
        "layer": ("unit", [name.split("/")[0] for name in names]),
        "channel": ("unit", [k % 10 for k in range(UNITS)]),
    }
    return ACTIVATIONS.check(xr.Dataset({"response": (("stimulus", "unit"), values)}, coords))


@pytest.fixture
def recorded():
    return make_recording()


def assert_agree(found, wanted):
    for name in SHARED:
        np.testing.assert_allclose(found[name].values, wanted[name].values, rtol=0, atol=1e-10, err_msg=name)
    for name in EXACT:
        np.testing.assert_array_equal(found[name].values, wanted[name].values, err_msg=name)
        assert found[name].dims == wanted[name].dims
    assert found.attrs["n_stimuli"] == wanted.attrs["n_stimuli"]
    xr.testing.assert_equal(found["unit"], wanted["unit"])


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 61), st.lists(st.integers(1, N - 1), max_size=4, unique=True), st.randoms(use_true_random=False))
def test_any_shards_give_the_stored_result(block, cuts, random):
    recorded = make_recording()
    order = list(range(N))
    random.shuffle(order)
    pieces = np.split(np.array(order), sorted(cuts))
    shards = [class_moments(recorded.isel(stimulus=piece), block=block) for piece in pieces]
    found = selectivity_from_moments(merge_moments(*shards), "1")
    assert_agree(found, selectivity(recorded, "1"))


def test_a_million_added_changes_nothing(recorded):
    shifted = recorded.assign(response=recorded["response"].astype(np.float64) + 1e6)
    first, second = (selectivity_from_moments(class_moments(one, block=7), "0") for one in (recorded, shifted))
    assert float(abs(first["dprime"] - second["dprime"]).max()) < 1e-6


def test_several_labels_and_tasks(recorded):
    wanted = selectivity(recorded, targets_from_labels(recorded, ["0", "3"]))
    by_label = selectivity_from_moments(class_moments(recorded), ["0", "3"])
    targets = targets_from_labels(recorded, ["0", "3"])
    by_task = selectivity_from_moments(class_moments(recorded, targets, block=11))
    for found in (by_label, by_task):
        assert_agree(found, wanted)
        assert found["task"].values.tolist() == ["0", "3"]
    every = selectivity_from_moments(class_moments(recorded))
    assert every["task"].values.tolist() == ["0", "1", "2", "3"]
    one = selectivity_from_moments(class_moments(recorded, targets), "3")
    assert_agree(one, selectivity(recorded, "3"))
    unnamed = selectivity_from_moments(class_moments(recorded, "3"))
    assert_agree(unnamed, selectivity(recorded, "3"))


def test_composites_are_targets_of_both_their_labels():
    pairs = make_recording(["a|b", "b|c", "c|a"] * 20)
    pairs = pairs.assign_coords(constituents=("stimulus", [f"x{i}|y{i}" for i in range(N)]))
    moments = class_moments(pairs)
    assert moments["group"].values.tolist() == ["a|b", "b|c", "c|a"]
    halves = [class_moments(pairs.isel(stimulus=half)) for half in (slice(0, 25), slice(25, N))]
    for given_moments in (moments, merge_moments(*halves)):
        assert_agree(selectivity_from_moments(given_moments, "a"), selectivity(pairs, "a"))


def test_area_is_absent_with_its_reason_and_survives_the_file(recorded, tmp_path):
    found = selectivity_from_moments(class_moments(recorded), "1")
    assert found["auc"].isnull().all()
    assert found["auc"].attrs["reason"] == NO_AREA
    assert load_kind(save_kind(found, tmp_path / "s.nc"))["auc"].attrs["reason"] == NO_AREA


def test_association_by_dprime_needs_no_area(recorded):
    unit = {name: recorded[name] for name in ("unit", "layer", "channel")}
    gains = GAINS.check(xr.Dataset({"gain": ("unit", np.linspace(0.5, 1.5, UNITS))}, unit))
    streamed = gain_selectivity(gains, selectivity_from_moments(class_moments(recorded), "1"))
    stored = gain_selectivity(gains, selectivity(recorded, "1"))
    xr.testing.assert_allclose(streamed["rho"].sel(measure="dprime"), stored["rho"].sel(measure="dprime"))
    assert streamed["rho"].sel(measure="auc").isnull().all()


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_shards_meet_in_files_and_recordings_are_read_lazily(recorded, tmp_path, suffix):
    with open_kind(save_kind(recorded, tmp_path / f"a{suffix}")) as opened:
        shards = [
            save_kind(class_moments(opened.isel(stimulus=part), block=8), tmp_path / f"m{i}{suffix}")
            for i, part in enumerate([slice(0, 10), slice(10, N)])
        ]
    merged = merge_moments(*(load_kind(path, "MOMENTS") for path in shards))
    assert_agree(selectivity_from_moments(merged, "2"), selectivity(recorded, "2"))


def test_parts_are_matched_by_unit_id_and_by_group_name(recorded):
    parts = [recorded.isel(stimulus=slice(0, 2)), recorded.isel(stimulus=slice(2, N), unit=slice(None, None, -1))]
    merged = merge_moments(*map(class_moments, parts))  # the first part lacks two groups
    assert_agree(selectivity_from_moments(merged, "3"), selectivity(recorded, "3"))


def test_reductions_are_kept_apart(recorded):
    two = [class_moments(one) for one in (recorded, recorded.assign(response=recorded["response"] * 2))]
    both = xr.concat(
        [part.drop_vars(["count", "stimulus_id"]) for part in two], xr.IndexVariable("reduction", ["mean", "max"])
    ).assign(count=two[0]["count"], stimulus_id=two[0]["stimulus_id"])
    with pytest.raises(DataError, match="reduction"):
        selectivity_from_moments(both, "1")
    one = selectivity_from_moments(both.sel(reduction="mean"), "1")
    assert_agree(one, selectivity(recorded, "1"))


def test_user_mistakes(recorded):
    moments = class_moments(recorded)
    with pytest.raises(ConfigError, match="unknown label '9'"):
        selectivity_from_moments(moments, "9")
    xr.testing.assert_identical(selectivity_from_moments(moments, np.int64(1)), selectivity_from_moments(moments, "1"))
    for none in ([], 1.5):
        with pytest.raises(ConfigError, match="target must be one label or several; came"):
            selectivity_from_moments(moments, none)
    with pytest.raises(DataError, match=r"60 stimuli are in the moments more than once \(first: 'id00'\)"):
        merge_moments(moments, moments)
    first, second = recorded.isel(stimulus=slice(0, 30)), recorded.isel(stimulus=slice(30, N))
    with pytest.raises(DataError, match="same unit ids"):
        merge_moments(class_moments(first), class_moments(second.isel(unit=slice(0, 5))))
    with pytest.raises(DataError, match="per label and some per task"):
        merge_moments(class_moments(first), class_moments(second, "1"))
    with pytest.raises(DataError, match="no coordinate 'label'"):
        class_moments(recorded.drop_vars("label"))
    with pytest.raises(DataError, match="one unnamed task"):
        selectivity_from_moments(class_moments(recorded, "1"), "1")
    tasks = class_moments(recorded, targets_from_labels(recorded, ["0", "1"]))
    with pytest.raises(ConfigError, match="unknown task 'x'; choose one of: 0, 1"):
        selectivity_from_moments(tasks, "x")
    with pytest.raises(DataError, match="block must be at least 1"):
        class_moments(recorded, block=0)


def test_nothing_given_is_altered(recorded):
    before = recorded.copy(deep=True)
    moments = class_moments(recorded)
    kept = moments.copy(deep=True)
    merge_moments(moments)
    selectivity_from_moments(moments, "1")
    xr.testing.assert_identical(recorded, before)
    xr.testing.assert_identical(moments, kept)
