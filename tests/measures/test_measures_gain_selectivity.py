"""gain_selectivity(): joins on ids, live filters, measures, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from featattn_neuro.arrays.association import task_mismatch
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.measures.gain_selectivity import gain_selectivity, pool_networks

TASKS = ["0", "1", "2", "3"]
SIZES = {"relu1": 12, "relu2": 9, "relu3": 6}


def units():
    names = [f"{layer}/{k:03d}" for layer, size in SIZES.items() for k in range(size)]
    return {
        "unit": names,
        "layer": ("unit", [name.split("/")[0] for name in names]),
        "channel": ("unit", [int(name.split("/")[1]) for name in names]),
    }


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def make(rng, seed_sources="t"):
    k = sum(SIZES.values())
    gains = xr.Dataset(
        {
            "gain": (("task", "unit"), np.exp(0.4 * rng.normal(size=(4, k)))),
            "training_source": ("source", [f"{seed_sources}{i}" for i in range(5)]),
        },
        {"task": TASKS, **units()},
    )
    auc = rng.random((4, k))
    selectivity = xr.Dataset(
        {
            "dprime": (("task", "unit"), rng.normal(size=(4, k))),
            "auc": (("task", "unit"), auc),
            "status": (("task", "unit"), np.full((4, k), "ok")),
            "live": ("unit", np.ones(k, dtype=int)),
            "mean_response": ("unit", rng.random(k)),
            "leverage_dprime": (("task", "unit"), rng.normal(size=(4, k))),
            "selection_source": ("source", [f"s{i}" for i in range(7)]),
        },
        {"task": TASKS, **units()},
    )
    return gains, selectivity


def layer_of(dataset, name):
    return dataset["layer"].values == name


def test_values_by_hand(rng):
    gains, selectivity = make(rng)
    found = gain_selectivity(gains, selectivity, permutations=99)
    inside = layer_of(gains, "relu1")
    log_gain = np.log(gains["gain"].values)
    d = np.abs(selectivity["dprime"].values)
    area = np.abs(selectivity["auc"].values - 0.5)
    corrected = log_gain - (log_gain.sum(0) - log_gain) / 3
    wanted = {
        "dprime": (log_gain, d),
        "auc": (log_gain, area),
        "corrected": (corrected, d),
        "leverage": (log_gain, selectivity["leverage_dprime"].values),
    }
    assert found["measure"].values.tolist() == list(wanted)
    for measure, (gain, score) in wanted.items():
        rho = found["rho"].sel(measure=measure, layer="relu1", task="2", selectivity_task="0")
        assert float(rho) == pytest.approx(stats.spearmanr(gain[2, inside], score[0, inside]).statistic)
    two = [
        np.arctanh(stats.spearmanr(log_gain[1, layer_of(gains, name)], d[3, layer_of(gains, name)]).statistic)
        for name in ("relu1", "relu2")
    ]
    assert float(found["z"].sel(measure="dprime", task="1", selectivity_task="3")) == pytest.approx(np.mean(two))
    table = found["z"].sel(measure="dprime").transpose("task", "selectivity_task").values
    null = task_mismatch(table, permutations=99, rng=np.random.default_rng(0))
    assert float(found["p_task_permutation"].sel(measure="dprime")) == null.p
    assert float(found["specific"].sel(measure="dprime")) == pytest.approx(null.specific[0])


def test_a_layer_with_fewer_than_eight_live_filters_is_undefined_and_left_out(rng):
    gains, selectivity = make(rng)
    found = gain_selectivity(gains, selectivity, permutations=9)
    assert found["status"].values.tolist() == ["ok", "ok", "too_few"]
    assert found["n_live"].values.tolist() == [12, 9, 6]
    assert np.isnan(found["rho"].sel(layer="relu3")).all()
    assert np.isfinite(found["z"]).all()


def test_dead_filters_are_excluded_not_coded_zero(rng):
    gains, selectivity = make(rng)
    dead = selectivity.copy(deep=True)
    dead["live"][:3] = 0
    dead["dprime"][:, :3] = np.nan
    found = gain_selectivity(gains, dead, permutations=9)
    assert found["n_live"].values.tolist() == [9, 9, 6]
    inside = layer_of(gains, "relu1") & (np.arange(27) >= 3)
    wanted = stats.spearmanr(gains["gain"].values[0, inside], np.abs(selectivity["dprime"].values[0, inside])).statistic
    assert float(found["rho"].sel(measure="dprime", layer="relu1", task="0", selectivity_task="0")) == pytest.approx(
        wanted
    )
    dead["live"][:5] = 0
    assert gain_selectivity(gains, dead, permutations=9)["status"].values.tolist() == ["too_few", "ok", "too_few"]


def test_units_and_tasks_join_by_id(rng):
    gains, selectivity = make(rng)
    straight = gain_selectivity(gains, selectivity, permutations=99)
    shuffled = selectivity.isel(unit=rng.permutation(27), task=[2, 0, 3, 1])
    xr.testing.assert_allclose(gain_selectivity(gains, shuffled, permutations=99), straight)


def test_different_units_or_tasks_are_refused(rng):
    gains, selectivity = make(rng)
    with pytest.raises(DataError, match=r"1 of the gains absent from the selectivity \(first: 'relu1/000'\)"):
        gain_selectivity(gains, selectivity.isel(unit=slice(1, None)))
    with pytest.raises(DataError, match="same task ids"):
        gain_selectivity(gains, selectivity.isel(task=[0, 1]))
    with pytest.raises(DataError, match="only the gains have a dimension 'task'"):
        gain_selectivity(gains, selectivity.isel(task=0, drop=True))


def test_one_task(rng):
    gains, selectivity = make(rng)
    found = gain_selectivity(gains.sel(task="1"), selectivity.sel(task="1"))
    assert found["rho"].dims == ("measure", "layer")
    assert found["measure"].values.tolist() == ["dprime", "auc", "leverage"]
    assert "p_task_permutation" not in found
    full = gain_selectivity(gains, selectivity, permutations=9)
    np.testing.assert_allclose(
        found["rho"].sel(measure="dprime"), full["rho"].sel(measure="dprime", task="1", selectivity_task="1")
    )


def test_arms_must_be_selected(rng):
    gains, selectivity = make(rng)
    arms = xr.concat([gains, gains], xr.IndexVariable("arm", ["gain", "gain_head"]), data_vars=["gain"])
    with pytest.raises(DataError, match=r"2 values along 'arm' \(gain, gain_head\)"):
        gain_selectivity(arms, selectivity)
    xr.testing.assert_identical(
        gain_selectivity(arms.sel(arm="gain"), selectivity, permutations=9),
        gain_selectivity(gains, selectivity, permutations=9),
    )


def test_overlapping_sources_are_refused_unless_the_overlap_is_the_point(rng):
    gains, selectivity = make(rng, seed_sources="s")
    with pytest.raises(DataError, match=r"5 source stimuli are in both \(first: 's0'\)"):
        gain_selectivity(gains, selectivity)
    found = gain_selectivity(gains, selectivity, permutations=9, circular="demonstrate")
    assert found.attrs["sources"] == "circular on purpose: 5 source stimuli are in both"
    with pytest.raises(ConfigError, match="circular"):
        gain_selectivity(gains, selectivity, circular="yes")
    unknown = gain_selectivity(gains.drop_vars("training_source"), selectivity, permutations=9)
    assert unknown.attrs["sources"].startswith("not known")


def test_flat_gains_are_constant_not_zero(rng):
    gains, selectivity = make(rng)
    flat = gains.copy(deep=True)
    flat["gain"][0, layer_of(gains, "relu2")] = 1.0
    found = gain_selectivity(flat, selectivity, permutations=9)
    assert found["status"].values.tolist() == ["ok", "constant", "too_few"]
    assert np.isnan(found["rho"].sel(layer="relu2")).all()


def test_gains_that_are_not_positive_undo_the_log_but_not_the_ranks(rng):
    gains, selectivity = make(rng)
    zero = gains.copy(deep=True)
    zero["gain"][0, 0] = 0.0
    found = gain_selectivity(zero, selectivity, permutations=9)
    assert found.attrs["nonpositive_gains"] == 1
    assert np.isnan(found["rho"].sel(measure="corrected", layer="relu1")).all()
    assert np.isfinite(found["rho"].sel(measure="dprime", layer="relu1")).all()


def test_calibration_gain_does_not_enter_the_corrected_measure(rng):
    gains, selectivity = make(rng)
    shared = gains.assign(gain=gains["gain"] * xr.DataArray(np.exp(rng.normal(size=27)), dims="unit"))
    one, two = (gain_selectivity(g, selectivity, permutations=9) for g in (gains, shared))
    np.testing.assert_allclose(one["rho"].sel(measure="corrected"), two["rho"].sel(measure="corrected"))
    assert not np.allclose(one["rho"].sel(measure="dprime"), two["rho"].sel(measure="dprime"), equal_nan=True)


def test_partial_correlations(rng):
    gains, selectivity = make(rng)
    found = gain_selectivity(gains, selectivity, covariates=selectivity[["mean_response"]], permutations=9)
    assert found["covariate"].values.tolist() == ["mean_response", "other_tasks_gain", "all"]
    assert found["partial"].dims == ("task", "layer", "covariate")
    inside = layer_of(gains, "relu1")
    x, y, z = (
        v[inside]
        for v in (gains["gain"].values[1], np.abs(selectivity["dprime"].values[1]), selectivity["mean_response"].values)
    )
    xy, xz, yz = (stats.spearmanr(*pair).statistic for pair in ((x, y), (x, z), (y, z)))
    wanted = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert float(found["partial"].sel(task="1", layer="relu1", covariate="mean_response")) == pytest.approx(wanted)


def test_networks_are_pooled_with_one_permutation_of_tasks(rng):
    each = {f"net{n}": gain_selectivity(*make(rng), permutations=99) for n in range(3)}
    pooled = pool_networks(each, permutations=199, seed=4)
    assert pooled["z"].sizes["network"] == 3
    stack = np.stack([one["z"].sel(measure="dprime").values for one in each.values()])
    wanted = task_mismatch(stack, permutations=199, rng=np.random.default_rng(4)).p
    assert float(pooled["p_pooled"].sel(measure="dprime")) == wanted
    np.testing.assert_allclose(pooled["rho"].sel(network="net1"), each["net1"]["rho"])
    reordered = {**each, "net2": each["net2"].isel(task=[3, 2, 1, 0])}
    xr.testing.assert_allclose(pool_networks(reordered, permutations=199, seed=4), pooled)


@pytest.mark.parametrize("first", [0, 1], ids=["richer first", "richer last"])
def test_networks_with_different_covariates_pool(rng, first):
    gains, selectivity = make(rng)
    one = selectivity[["mean_response"]]
    two = one.assign(sd_response=("unit", rng.random(one.sizes["unit"])))
    covariates = (one, two)
    each = {f"net{k}": gain_selectivity(gains, selectivity, covariates=covariates[k], permutations=9) for k in (0, 1)}
    names = list(each)[::-1] if first == 0 else list(each)
    pooled = pool_networks({name: each[name] for name in names}, permutations=9)
    assert set(pooled["covariate"].values) == {"mean_response", "sd_response", "other_tasks_gain", "all"}
    for name in each:
        mine = pooled["partial"].sel(network=name)
        known = each[name]["covariate"].values
        xr.testing.assert_equal(
            mine.sel(covariate=known).drop_vars("network").transpose(*each[name]["partial"].dims), each[name]["partial"]
        )
        assert mine.drop_sel(covariate=known).isnull().all()


def test_networks_of_different_layers_pool_without_layers(rng):
    one = gain_selectivity(*make(rng), permutations=9)
    other = one.assign_coords(layer=["a", "b", "c"])
    pooled = pool_networks({"x": one, "y": other}, permutations=9)
    assert pooled["layer"].values.tolist() == ["mean"]
    np.testing.assert_allclose(pooled["rho"].isel(layer=0), np.tanh(pooled["z"]))
    with pytest.raises(DataError, match="same task ids"):
        pool_networks({"x": one, "y": one.isel(task=[0, 1], selectivity_task=[0, 1])})
    with pytest.raises(DataError, match="came none"):
        pool_networks({})
