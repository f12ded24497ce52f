"""selectivity() as a whole table: labels, pairs, contrasts, families, blocks, neurons, bad input."""

from __future__ import annotations

import itertools

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from featattn_neuro.arrays import discrimination, intervals, multiplicity
from featattn_neuro.arrays.area_interval import roc_area_interval
from featattn_neuro.arrays.class_selectivity import eta_squared
from featattn_neuro.arrays.permutation import permutation_test
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.io.store import load_kind, save_kind
from featattn_neuro.measures import _selectivity_table
from featattn_neuro.measures.selectivity import selectivity
from featattn_neuro.measures.streaming import class_moments, selectivity_from_moments
from featattn_neuro.schema import ACTIVATIONS, NEURAL


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def recorded(rng):
    n, units = 60, 12
    label = np.repeat(["ant", "bee", "cat", "dog"], [12, 18, 10, 20])
    values = np.maximum(rng.normal(size=(n, units)), 0).astype(np.float32)
    values[label == "cat", :2] += 1.5
    values[:, 5] = 0.0
    return ACTIVATIONS.check(
        xr.Dataset(
            {"response": (("stimulus", "unit"), values)},
            {
                "stimulus": [f"s{i:02d}" for i in range(n)],
                "label": ("stimulus", label),
                "unit": [f"{'ab'[k // 6]}/{k % 6}" for k in range(units)],
                "layer": ("unit", [f"layer {'ab'[k // 6]}" for k in range(units)]),
                "channel": ("unit", [k % 6 for k in range(units)]),
            },
        )
    )


def same(found: xr.Dataset, wanted: discrimination.Discrimination, *, rtol: float = 1e-12) -> None:
    np.testing.assert_allclose(found["dprime"], wanted.dprime, rtol=rtol)
    np.testing.assert_array_equal(found["auc"], wanted.auc)
    assert (found["status"].values == wanted.status).all()
    np.testing.assert_array_equal(found["n_target"], wanted.n_target)
    np.testing.assert_array_equal(found["n_distractor"], wanted.n_distractor)


def test_every_label_against_the_rest_in_one_call(recorded):
    found = selectivity(recorded)
    responses, label = recorded["response"].values.T, recorded["label"].values
    assert found["task"].values.tolist() == ["ant", "bee", "cat", "dog"]
    wanted = discrimination.discriminate(responses, label == np.array(["ant", "bee", "cat", "dog"])[:, None])
    same(found, wanted)
    low, high = roc_area_interval(responses, label == np.array(["ant", "bee", "cat", "dog"])[:, None])
    np.testing.assert_allclose(found["auc_low"], low, rtol=1e-12)
    np.testing.assert_allclose(found["auc_high"], high, rtol=1e-12)
    np.testing.assert_allclose(found["eta_squared"], eta_squared(responses, label).eta_squared)
    np.testing.assert_array_equal(found["live"], selectivity(recorded, ["ant", "bee"])["live"])


def test_every_pair_of_labels(recorded):
    found = selectivity(recorded, pairs=True)
    responses, label = recorded["response"].values.T, recorded["label"].values
    both = list(itertools.combinations(["ant", "bee", "cat", "dog"], 2))
    assert found["task"].values.tolist() == [f"{a} vs {b}" for a, b in both]
    wanted = np.stack([label == a for a, _ in both])
    among = np.stack([(label == a) | (label == b) for a, b in both])
    same(found, discrimination.discriminate(responses, wanted, among=among))
    one = selectivity(recorded, ["dog", "ant"], pairs=True)
    assert one["task"].values.tolist() == ["dog vs ant"]
    np.testing.assert_allclose(one["auc"][0], 1 - found["auc"].sel(task="ant vs dog"), atol=1e-12)


def test_a_contrast_with_a_name_leaves_others_out(recorded):
    found = selectivity(recorded, {"insects": (["ant", "bee"], "dog"), "cat": ("cat", ["ant", "dog"])})
    label = recorded["label"].values
    inside = np.isin(label, ["ant", "bee", "dog"])
    alone = discrimination.discriminate(
        recorded["response"].values.T[:, inside], np.isin(label, ["ant", "bee"])[inside]
    )
    np.testing.assert_array_equal(found["auc"].sel(task="insects"), alone.auc)
    np.testing.assert_array_equal(found["dprime"].sel(task="insects"), alone.dprime)
    assert found["n_distractor"].values.tolist() == [20, 32]
    with pytest.raises(DataError, match="both sides"):
        selectivity(recorded, {"x": (["ant", "bee"], ["bee"])})
    with pytest.raises(ConfigError, match="did you mean 'bee'"):
        selectivity(recorded, {"x": ("ant", "beee")})
    with pytest.raises(ConfigError, match="pairs=True"):
        selectivity(recorded, "ant", pairs=True)


@pytest.mark.parametrize("correction", ["max", "holm", "bh"])
def test_p_values_name_their_family_and_its_size(recorded, correction):
    found = selectivity(recorded, permutations=99, family="task_layer", correction=correction, seed=3)
    assert found.attrs["family"] == "task_layer"
    assert found.attrs["correction"] == correction
    assert found["family"].values[2, 7] == "task cat, layer layer b"
    assert found["family_size"].values[0].tolist() == [5] * 6 + [6] * 6  # one unit of layer a is dead
    raw = found["auc_p"].values
    assert np.isnan(raw[:, 5]).all()
    assert np.nanmin(raw) >= 0.01
    corrected = found["auc_p_corrected"].values
    assert (corrected >= raw - 1e-12)[~np.isnan(raw)].all()
    assert (corrected[2, :2] <= 0.05).all()  # the planted effect
    if correction != "max":
        np.testing.assert_allclose(corrected[1, :6], multiplicity.adjust(raw[1, :6], correction))
    label = recorded["label"].values
    target = label == np.unique(label)[:, None]
    again = permutation_test(
        recorded["response"].values.T, target, permutations=99, rng=np.random.default_rng(3),
        family=np.arange(4)[:, None] * 2 + (np.arange(12) >= 6),
    )  # fmt: skip
    np.testing.assert_array_equal(found["dprime_p"], again.dprime_p)
    np.testing.assert_allclose(found["dprime_floor"], again.dprime_floor)
    if correction == "max":
        np.testing.assert_array_equal(corrected, again.auc_p_max)


@pytest.mark.parametrize("family", ["all", "task", "layer"])
def test_families_are_what_they_say(recorded, family):
    found = selectivity(recorded, permutations=19, family=family)
    sizes = {"all": 44, "task": 11, "layer": 20}
    assert int(found["family_size"][0, 0]) == sizes[family]


def test_a_lazy_recording_in_blocks_is_the_whole(recorded, monkeypatch):
    monkeypatch.setattr(_selectivity_table, "BLOCK_BYTES", 60 * 4 * 5)  # five units at a time
    lazy = recorded.chunk({"stimulus": 7, "unit": 3})
    assert isinstance(lazy["response"].data, da.Array)
    options = {"permutations": 40, "family": "all", "interval": "noncentral_t"}
    for target, pairs in ((None, False), (None, True), ("cat", False), (["cat", "dog"], False)):
        whole = selectivity(recorded, target, pairs=pairs, **options)
        blocks = selectivity(lazy, target, pairs=pairs, **options)
        xr.testing.assert_allclose(blocks, whole, rtol=1e-6)
        np.testing.assert_array_equal(blocks["auc_p_corrected"], whole["auc_p_corrected"])
        np.testing.assert_array_equal(blocks["dprime"], whole["dprime"])


def test_a_lazy_recording_is_never_read_whole(recorded, monkeypatch):
    monkeypatch.setattr(_selectivity_table, "BLOCK_BYTES", 60 * 4 * 4)
    largest = 0

    def watch(block):
        nonlocal largest
        largest = max(largest, block.shape[1])
        return block

    values = da.from_array(recorded["response"].values, chunks=(60, 1)).map_blocks(watch, dtype=np.float32)
    seen = []
    real = _selectivity_table._discriminate
    monkeypatch.setattr(
        _selectivity_table, "_discriminate", lambda block, *rest: (seen.append(len(block.units)), real(block, *rest))[1]
    )
    selectivity(recorded.assign(response=(("stimulus", "unit"), values)))
    assert seen == [4, 4, 4]
    assert largest == 1


def test_from_moments_is_from_stored_responses(recorded):
    stored, streamed = selectivity(recorded), selectivity_from_moments(class_moments(recorded))
    np.testing.assert_allclose(streamed["dprime"], stored["dprime"], rtol=1e-10)
    assert (streamed["status"].values == stored["status"].values).all()
    assert streamed["auc"].isnull().all()
    stored = selectivity(recorded, "dog", interval="noncentral_t")
    streamed = selectivity_from_moments(class_moments(recorded), "dog", interval="noncentral_t")
    np.testing.assert_allclose(streamed["dprime_low"], stored["dprime_low"], rtol=1e-9)
    with pytest.raises(ConfigError, match="unknown interval of d' from moments 'bootstrap'"):
        selectivity_from_moments(class_moments(recorded), interval="bootstrap")


def test_intervals_of_dprime(recorded):
    label = recorded["label"].values
    responses = recorded["response"].values.T
    found = selectivity(recorded, "dog", interval="noncentral_t")
    kernel = discrimination.discriminate(responses, label == "dog")
    wanted = intervals.noncentral_t_interval(kernel.dprime, 20, 40, kernel.target_variance, kernel.distractor_variance)
    np.testing.assert_array_equal(found["dprime_low"], wanted.low)
    boot = selectivity(recorded, "dog", interval="bootstrap", seed=4)
    by_hand = intervals.bootstrap_interval(responses, label == "dog", rng=np.random.default_rng(4))
    np.testing.assert_array_equal(boot["dprime_high"], by_hand.high)
    assert boot.attrs["dprime_interval"] == "bootstrap"
    with pytest.raises(DataError, match=r"task 'ant'.*noncentral t"):
        selectivity(recorded.isel(stimulus=slice(0, 35)), ["ant", "cat"], interval="bootstrap")


def test_which_unit_and_stimulus_are_not_finite_is_said(recorded):
    values = recorded["response"].values.copy()
    values[4, 3], values[9, 3], values[2, 8] = np.nan, np.inf, -np.inf
    found = selectivity(recorded.assign(response=(("stimulus", "unit"), values)))
    assert found["n_nonfinite"].values[[3, 8, 0]].tolist() == [2, 1, 0]
    assert found["first_nonfinite"].values[[3, 8, 0]].tolist() == ["s04", "s02", ""]
    assert (found["status"].values[:, 3] == "nonfinite").all()
    assert found[["dprime", "auc", "auc_low", "eta_squared"]].isel(unit=[3, 8]).isnull().all().to_array().all()
    others = [0, 1, 2, 4, 6, 7, 9]
    np.testing.assert_array_equal(found["auc"][:, others], selectivity(recorded)["auc"][:, others])


def test_p_values_are_refused_where_composites_share_sources(recorded):
    names = [f"x{i // 2}|y{i}" for i in range(60)]
    shared = recorded.assign_coords(constituents=("stimulus", names))
    with pytest.raises(DataError, match="share no source; 30 sources"):
        selectivity(shared, permutations=9, family="all")
    assert "dprime_floor" in selectivity(shared, permutations=9)
    own = recorded.assign_coords(constituents=("stimulus", [f"x{i}|y{i}" for i in range(60)]))
    assert "auc_p" in selectivity(own, permutations=9, family="all")


def test_p_values_are_refused_where_trials_repeat_stimuli(rng):
    shown = np.tile([f"i{k}" for k in range(8)], 3)
    values = {"response": (("trial", "unit"), rng.poisson(3.0, size=(24, 2)).astype(float))}
    coordinates = {"trial": np.arange(24), "unit": ["a", "b"], "stimulus": ("trial", shown)}
    neural = NEURAL.check(xr.Dataset(values, coordinates))
    options = {"permutations": 19, "family": "all"}
    half = xr.DataArray(np.arange(8) < 4, {"stimulus": [f"i{k}" for k in range(8)]}, "stimulus")
    for target in (half, {"some": (["i0", "i1"], ["i2", "i3"])}):
        with pytest.raises(DataError, match=r"shown repeatedly.*observations='stimulus'"):
            selectivity(neural, target, **options)
        assert "dprime_floor" in selectivity(neural, target, permutations=19)
        assert "auc_p" in selectivity(neural, target, observations="stimulus", **options)
    # one stimulus against others is a statement about that stimulus; trials shown once each are independent
    assert "auc_p" in selectivity(neural, {"one": (["i0"], ["i2", "i3"])}, **options)
    assert "auc_p" in selectivity(neural, **options)
    assert "auc_p" in selectivity(neural.isel(trial=slice(0, 8)), half, **options)


def test_bad_options_say_what_to_do(recorded):
    with pytest.raises(ConfigError, match="permutations=999"):
        selectivity(recorded, family="all")
    with pytest.raises(ConfigError, match="did you mean 'task_layer'"):
        selectivity(recorded, permutations=9, family="task-layer")
    with pytest.raises(ConfigError, match="unknown correction"):
        selectivity(recorded, permutations=9, family="all", correction="sidak")
    with pytest.raises(ConfigError, match="unknown interval"):
        selectivity(recorded, interval="wald")
    with pytest.raises(DataError, match="needs two labels"):
        selectivity(recorded.isel(stimulus=slice(0, 5)))
    with pytest.raises(DataError, match="no coordinate 'label'"):
        selectivity(recorded.drop_vars("label"))


def test_the_table_survives_the_disk(recorded, tmp_path):
    found = selectivity(recorded, permutations=9, family="layer", interval="noncentral_t")
    for suffix in ("nc", "zarr"):
        xr.testing.assert_identical(
            load_kind(save_kind(found, tmp_path / f"table.{suffix}"), "SELECTIVITY").drop_attrs(), found.drop_attrs()
        )


# ---------------------------------------------------------------------------------------------------- neurons


@pytest.fixture
def neural(rng):
    shown = np.repeat(["face", "car", "kiwi"], 14)
    values = rng.poisson(3.0, size=(42, 5)).astype(float)
    values[shown == "face", 0] += 4
    values[:20, 3] = np.nan  # another session
    values[30:, 4] = np.nan
    return NEURAL.check(
        xr.Dataset(
            {"response": (("trial", "unit"), values)},
            {
                "trial": np.arange(42) + 100,
                "unit": [f"IT/{k}" for k in range(5)],
                "stimulus": ("trial", shown),
                "area": ("unit", ["IT", "IT", "V4", "V4", "V4"]),
            },
        )
    )


def test_neurons_take_the_same_path_and_missing_trials_are_left_out(neural):
    found = selectivity(neural, permutations=19, family="task")
    shown, values = neural["stimulus"].values, neural["response"].values.T
    assert found["task"].values.tolist() == ["car", "face", "kiwi"]
    assert found["layer"].values.tolist() == ["IT", "IT", "V4", "V4", "V4"]
    for unit in range(5):
        seen = np.isfinite(values[unit])
        for task, name in enumerate(["car", "face", "kiwi"]):
            alone = discrimination.discriminate(values[unit, seen], shown[seen] == name)
            assert str(found["status"][task, unit].values) == str(alone.status)
            np.testing.assert_allclose(found["auc"][task, unit], alone.auc)
            np.testing.assert_allclose(found["dprime"][task, unit], alone.dprime, rtol=1e-12)
            assert int(found["n_target"][task, unit]) == int(alone.n_target)
    assert str(found["status"].sel(task="face")[3].values) == "single_class"
    assert float(found["auc_p"].sel(task="face")[0]) == 0.05
    assert found.attrs["observations"] == "trial"
    assert found["selection_source"].values.tolist() == ["car", "face", "kiwi"]
    assert found["n_nonfinite"].values.tolist() == [0] * 5


def test_neurons_by_mean_response_to_stimuli(neural, rng):
    many = NEURAL.check(
        xr.Dataset(
            {"response": (("trial", "unit"), rng.poisson(3.0, size=(24, 2)).astype(float))},
            {
                "trial": np.arange(24),
                "unit": ["a", "b"],
                "stimulus": ("trial", np.tile([f"i{k}" for k in range(8)], 3)),
            },
        )
    )
    target = xr.DataArray(np.arange(8) < 4, {"stimulus": [f"i{k}" for k in range(8)]}, "stimulus")
    found = selectivity(many, target[::-1], observations="stimulus")
    means = many["response"].values.reshape(3, 8, 2).mean(axis=0).T
    np.testing.assert_allclose(found["auc"], discrimination.roc_area(means, np.arange(8) < 4))
    single = selectivity(many, target)
    np.testing.assert_allclose(
        single["auc"], discrimination.roc_area(many["response"].values.T, np.tile(np.arange(8) < 4, 3))
    )
    with pytest.raises(ConfigError, match="unknown observations"):
        selectivity(many, target, observations="spike")


def test_real_neurons(shared_data):
    from featattn_neuro.io.neural import read_neural

    folder = shared_data / "neural" / "zhang_desimone_it"
    if not folder.exists():
        pytest.skip("no IT recordings")
    recorded = read_neural("zhang_desimone_it")
    found = selectivity(recorded, permutations=99, family="all", correction="bh")
    ok = found["status"] == "ok"
    assert found.sizes["unit"] == 132
    assert float(ok.mean()) > 0.9
    # most IT neurons prefer an object: far more than 5 % of tests, before and after correction
    assert float((found["auc_p"] <= 0.05).where(ok).mean()) > 0.2
