"""What stands beside the primary test: joins by id, labels, conditions, and what is planted is found."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats
from statsmodels.stats.multitest import multipletests

from featattn_neuro.arrays.resampling import t_test
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.measures.association_errors import filter_permutation, gain_covariance_error
from featattn_neuro.measures.families import adjust_family
from featattn_neuro.measures.filter_matching import gain_selectivity_in
from featattn_neuro.measures.filter_sets import filter_sets, pool_set_effects, set_effects
from featattn_neuro.measures.gain_selectivity import gain_selectivity
from featattn_neuro.measures.mixed_model import fit_slopes, mixed_model
from featattn_neuro.measures.network_tests import (
    association_tests,
    disattenuated_association,
    gain_by_selectivity,
    task_permutation_null,
    u_shape,
)
from featattn_neuro.measures.population import population_change, population_selectivity
from featattn_neuro.measures.reliability import halves_reliability, refit_location
from featattn_neuro.measures.rivals import compare_rivals, fisher_selectivity, head_to_head
from featattn_neuro.measures.selectivity import selectivity

TASKS = ["0", "1", "2", "3"]
SIZES = {"relu1": 16, "relu2": 24, "relu3": 6}
K = sum(SIZES.values())


def units():
    names = [f"{layer}/{k:03d}" for layer, size in SIZES.items() for k in range(size)]
    return {
        "unit": names,
        "layer": ("unit", [name.split("/")[0] for name in names]),
        "channel": ("unit", [int(name.split("/")[1]) for name in names]),
    }


@pytest.fixture
def rng():
    return np.random.default_rng(17)


def gains_of(values, sources="g", **coords):
    dims = ("task", "unit") if values.ndim == 2 else ("gain_set", "task", "unit")
    table = {"gain": (dims, values), "training_source": ("source", [f"{sources}{i}" for i in range(4)])}
    return xr.Dataset(table, {"task": TASKS, **units(), **coords})


def make(rng, follow=0.0, bend=0.0):
    dprime = rng.normal(size=(4, K))
    gain = np.exp(0.3 * (rng.normal(size=(4, K)) + follow * np.abs(dprime) + bend * dprime))
    measured = {
        "dprime": (("task", "unit"), dprime),
        "auc": (("task", "unit"), stats.norm.cdf(dprime / np.sqrt(2))),
        "status": (("task", "unit"), np.full((4, K), "ok")),
        "live": ("unit", np.ones(K, dtype=int)),
        "mean_response": ("unit", rng.random(K)),
        "leverage_dprime": (("task", "unit"), rng.normal(size=(4, K))),
        "selection_source": ("source", [f"s{i}" for i in range(5)]),
    }
    return gains_of(gain), xr.Dataset(measured, {"task": TASKS, **units()})


def networks(rng, n, **options):
    made = {f"net{k}": make(rng, **options) for k in range(n)}
    return {k: v[0] for k, v in made.items()}, {k: v[1] for k, v in made.items()}


def inside(layer):
    return np.array(units()["layer"][1]) == layer


@pytest.mark.parametrize("method", ["kendall", "pearson_log"])
def test_other_correlations_by_name(rng, method):
    gains, measured = make(rng)
    found = gain_selectivity(gains, measured, method=method, permutations=9)
    x, y = gains["gain"].values[1, inside("relu2")], np.abs(measured["dprime"].values[3, inside("relu2")])
    wanted = stats.kendalltau(x, y) if method == "kendall" else stats.pearsonr(np.log(x), y)
    cell = {"measure": "dprime", "task": "1", "selectivity_task": "3", "layer": "relu2"}
    assert float(found["rho"].sel(cell)) == pytest.approx(wanted.statistic)
    assert method.split("_")[0] in found.attrs["method"].lower()
    with pytest.raises(ConfigError, match="unknown method 'kendal'"):
        gain_selectivity(gains, measured, method="kendal")


def test_a_gain_of_zero_undoes_the_log_for_its_task_only(rng):
    gains, measured = make(rng)
    gains["gain"][2, 0] = 0.0
    found = gain_selectivity(gains, measured, method="pearson_log", permutations=9)["rho"].sel(measure="dprime")
    assert np.isnan(found.sel(task="2", layer="relu1")).all()
    assert np.isfinite(found.sel(task="1", layer="relu1")).all()


def test_covariance_error_joins_by_id_and_leaves_small_layers_out(rng):
    _, measured = make(rng)
    refits = gains_of(np.exp(rng.normal(size=(40, 4, K))), gain_set=[f"refit_{k}" for k in range(40)])
    found = gain_covariance_error(refits, measured)
    assert found.dims == ("task", "layer")
    assert np.isnan(found.sel(layer="relu3")).all()
    # refits of independent filters: about 1/sqrt(K - 1)
    assert float(found.sel(layer="relu2").mean()) == pytest.approx(1 / np.sqrt(23), rel=0.25)
    shuffled = measured.isel(unit=rng.permutation(K), task=[2, 0, 3, 1])
    xr.testing.assert_allclose(gain_covariance_error(refits, shuffled), found)
    with pytest.raises(DataError, match="gain_set"):
        gain_covariance_error(refits.isel(gain_set=0, drop=True), measured)


def one_call(table):
    """The same units as recorded in the first call of their module."""
    names = [name.replace("/", "@0/") for name in table["unit"].values]
    return table.assign_coords(unit=names, call=("unit", np.zeros(K, dtype=int)))


def test_selectivity_of_one_call_joins_on_the_filter_everywhere(rng):
    """As `gain_selectivity` does: a gain is one for all calls of its filter."""
    gains, measured = make(rng, follow=1.0)
    refits = gains_of(np.exp(rng.normal(size=(5, 4, K))), gain_set=[f"refit_{k}" for k in range(5)])
    halves = [gains["gain"], gains["gain"] * np.exp(0.1 * rng.normal(size=(4, K)))]
    fisher = xr.DataArray(rng.random((4, K)), {"task": TASKS, **units()}, ("task", "unit"))
    called = one_call(measured)
    for call in (
        lambda s: filter_permutation(gains, s, permutations=19),
        lambda s: gain_covariance_error(refits, s),
        lambda s: refit_location(refits, s),
        lambda s: halves_reliability(*halves, s["live"]),
        lambda s: halves_reliability(abs(s["dprime"]), abs(s["dprime"]), s["live"]),
        lambda s: head_to_head(gains, s, one_call(fisher) if "call" in s.coords else fisher),
    ):
        xr.testing.assert_allclose(call(called), call(measured))
    pd.testing.assert_frame_equal(u_shape({"a": gains}, {"a": called}), u_shape({"a": gains}, {"a": measured}))
    some = xr.DataArray(np.ones(K, dtype=int), {"unit": gains["unit"].values}, "unit")
    chosen = [gain_selectivity_in(gains, s, some, draws=5, permutations=5) for s in (called, measured)]
    xr.testing.assert_identical(*chosen)
    both = xr.concat([called, called.assign_coords(unit=np.char.replace(called["unit"].values.astype(str), "@0", "@1"),
                                                   call=("unit", np.ones(K, dtype=int)))], "unit",
                     data_vars="minimal")  # fmt: skip
    for call in (filter_permutation, gain_covariance_error, refit_location):
        with pytest.raises(DataError, match="has calls"):
            call(gains if call is filter_permutation else refits, both)


def test_refits_need_the_selectivity_of_their_filters_and_tasks(rng):
    _, measured = make(rng)
    refits = gains_of(np.exp(rng.normal(size=(5, 4, K))), gain_set=[f"refit_{k}" for k in range(5)])
    for call in (gain_covariance_error, refit_location):
        for part, what in ((measured.isel(unit=slice(1, None)), "unit"), (measured.isel(task=[0, 1]), "task")):
            with pytest.raises(DataError, match=f"refitted {what}s have no selectivity"):
                call(refits, part)
        few = refits.sel(task=["1"]).isel(unit=np.flatnonzero(inside("relu2")))
        wanted = call(refits, measured).sel(layer=["relu2"])
        found = call(few, measured)
        if "task" in wanted.dims:
            xr.testing.assert_allclose(found, wanted.sel(task=["1"]))


def test_filter_permutation_is_labelled_and_right_for_independent_filters(rng):
    gains, measured = make(rng, follow=2.0)
    found = filter_permutation(gains, measured, permutations=199)
    assert "anticonservative" in found.attrs["label"]
    assert float(found.sel(layer="relu2").max()) < 0.05
    assert np.isnan(found.sel(layer="relu3")).all()
    rho = stats.spearmanr(
        gains["gain"].values[0, inside("relu1")], np.abs(measured["dprime"].values[0, inside("relu1")])
    )
    other = filter_permutation(gains, measured, permutations=2000, seed=1)
    assert float(other.sel(task="0", layer="relu1")) == pytest.approx(rho.pvalue, abs=0.05)


def test_overlapping_sources_are_refused_everywhere(rng):
    gains, measured = make(rng)
    leaky = gains.assign(training_source=("source", ["s0", "g1", "g2", "g3"]))
    for call in (
        lambda: filter_permutation(leaky, measured),
        lambda: u_shape({"a": leaky}, {"a": measured}),
        lambda: mixed_model({"a": leaky}, {"a": measured}),
    ):
        with pytest.raises(DataError, match="different stimuli"):
            call()


def test_association_tests_say_what_they_may_be_read_as(rng):
    gains, measured = networks(rng, 6, follow=1.0)
    associations = {n: gain_selectivity(gains[n], measured[n], permutations=9) for n in gains}
    found = association_tests(associations).set_index("test")
    own = [float(one["specific"].sel(measure="dprime")) for one in associations.values()]
    assert found.loc["t over networks", "estimate"] == pytest.approx(np.mean(own))
    assert found.loc["t over networks", "p"] == pytest.approx(t_test(own))
    assert found.loc["crossed, conservative", "p"] >= found.loc["t over networks", "p"] - 1e-12
    assert "not used" in found.loc["crossed, conservative", "reads"]
    assert found.loc["equivalence", "p"] > 0.5
    assert (found["n_networks"] == 6).all()
    one = association_tests(dict(list(associations.items())[:1]))
    assert one["p"].isna().all()
    assert one["status"].unique().tolist() == ["too_few"]


def test_task_permutation_null_is_undefined_where_no_network_is_complete(rng):
    gains, measured = networks(rng, 2, follow=1.0)
    associations = {n: gain_selectivity(gains[n], measured[n], permutations=9) for n in gains}
    associations["net0"]["z"][:, 1, 2] = np.nan
    observed, null = task_permutation_null(associations, permutations=9)
    table = associations["net1"]["z"].sel(measure="dprime").values
    assert observed == pytest.approx(np.trace(table) / 4)
    assert np.isfinite(null).all()
    associations["net1"]["z"][:, 0, 0] = np.nan
    observed, null = task_permutation_null(associations, permutations=9)
    assert np.isnan(observed)
    assert null.shape == (9,)
    assert np.isnan(null).all()


def test_u_shape_is_found_where_it_is_and_not_in_a_line(rng):
    bent = u_shape(*networks(rng, 6, follow=3.0)).set_index("test")
    straight = u_shape(*networks(rng, 6, bend=2.0)).set_index("test")
    assert bent.loc["U", "p"] < 0.05
    assert straight.loc["U", "p"] > 0.5
    assert straight.loc["left", "estimate"] > 0.2


def test_gain_by_selectivity_needs_the_same_networks(rng):
    gains, measured = networks(rng, 2)
    with pytest.raises(DataError, match="wanted the same networks"):
        gain_by_selectivity(gains, {"net0": measured["net0"]})


def test_disattenuated_needs_reliabilities(rng):
    gains, measured = networks(rng, 3, follow=1.0)
    associations = {n: gain_selectivity(gains[n], measured[n], permutations=9) for n in gains}
    with pytest.raises(DataError, match="gain_reliability"):
        disattenuated_association(associations)
    layers = associations["net0"]["layer"].values
    full = {
        n: one.assign(
            gain_reliability=("layer", np.full(len(layers), 0.6)), selectivity_reliability=("layer", [0.5, 0.5, np.nan])
        )
        for n, one in associations.items()
    }
    row = disattenuated_association(full).iloc[0]
    rho = np.mean(
        [
            one["rho"].sel(measure="dprime", layer=["relu1", "relu2"]).values[k, k]
            for one in full.values()
            for k in range(4)
        ]
    )
    assert row["estimate"] == pytest.approx(rho / np.sqrt(0.75 * 2 / 3))  # halves stepped up: .75 and 2/3
    assert row["status"] == "too_few"
    weak = {n: one.assign(gain_reliability=("layer", np.full(len(layers), 0.1))) for n, one in full.items()}
    assert disattenuated_association(weak).iloc[0]["status"] == "unreliable"


def test_mixed_model_finds_a_common_slope_and_shows_the_layer_slopes(rng):
    gains, measured = networks(rng, 4, follow=1.5)
    found = mixed_model(gains, measured)
    assert found.attrs["label"].startswith("exploratory")
    assert (found["status"] == "ok").all()
    assert (found["p"] < 0.05).all()
    np.testing.assert_allclose(found["slope"], found["layer_slope"], atol=0.1)


def test_mixed_model_joins_tasks_by_name_across_networks(rng):
    """Half of the networks list their tasks backwards: no position means the same task in all of them."""
    gains, measured = networks(rng, 4, follow=1.5)
    gains = {n: one.assign(gain=one["gain"] ** [[1], [-1], [1], [1]]) for n, one in gains.items()}
    turned = {n: one.isel(task=slice(None, None, -1)) if n in ("net1", "net3") else one for n, one in gains.items()}
    wanted = mixed_model(gains, measured)
    xr.testing.assert_allclose(mixed_model(turned, measured), wanted)
    assert (wanted["slope"].sel(task=["0", "1"]).values * [1, -1] > 0.3).all()


@pytest.mark.parametrize("kept", [slice(0, 3), slice(0, 4)], ids=["fewer", "more"])
def test_mixed_model_refuses_other_tasks_and_no_networks(rng, kept):
    gains, measured = networks(rng, 3)
    for table in (gains, measured):
        table["net1"] = table["net1"].isel(task=kept)
        for name in ("net0", "net2"):
            table[name] = table[name].isel(task=slice(0, 7 - kept.stop))
    with pytest.raises(DataError, match="wanted the same task ids"):
        mixed_model(gains, measured)
    with pytest.raises(DataError, match="one or more; came"):
        mixed_model({}, {})


def test_fit_slopes_against_statsmodels_formula_and_few_groups(rng):
    import pandas as pd
    import statsmodels.formula.api as smf

    group = np.repeat(np.arange(8), 30)
    x = rng.normal(size=240)
    y = rng.normal(size=8)[group] + (0.5 + 0.5 * rng.normal(size=8))[group] * x + rng.normal(size=240)
    found = fit_slopes(y, x, group)
    frame = pd.DataFrame({"y": y, "x": x, "g": group})
    wanted = smf.mixedlm("y ~ x", frame, groups="g", re_formula="~x").fit()
    assert found.slope == pytest.approx(wanted.params["x"], abs=1e-3)
    assert found.standard_error == pytest.approx(wanted.bse["x"], rel=0.01)
    assert found.df == 7
    assert fit_slopes(y, x, group % 3).status == "too_few"


def test_a_fit_that_does_not_converge_is_a_failed_test(rng, monkeypatch):
    from statsmodels.regression.mixed_linear_model import MixedLM

    class Stuck:
        converged = False
        bse_fe = np.array([1.0, 1.0])

    monkeypatch.setattr(MixedLM, "fit", lambda self, **_: Stuck())
    found = fit_slopes(rng.normal(size=40), rng.normal(size=40), np.repeat(np.arange(8), 5))
    assert found.status == "failed"
    assert np.isnan(found.p)


def recording(rng, n=80, shift=1.0):
    label = np.array(TASKS)[np.arange(n) % 4]
    values = np.abs(rng.normal(size=(n, K)))
    values[label == "0", 3] += shift
    return xr.Dataset(
        {"response": (("stimulus", "unit"), values)},
        {"stimulus": [f"x{i:03d}" for i in range(n)], "label": ("stimulus", label), **units()},
    )


def test_fisher_rival_joins_by_id_and_wins_when_gains_follow_it(rng):
    _, measured = make(rng)
    recorded = recording(rng)
    fisher = fisher_selectivity(recorded, TASKS)
    assert fisher.dims == ("task", "unit")
    assert (fisher >= 0).all()
    ranks = stats.rankdata(fisher.values, axis=1)
    gains = gains_of(np.exp(ranks / K + 0.02 * rng.normal(size=(4, K))))
    found = head_to_head(gains, measured, fisher.isel(unit=rng.permutation(K), task=[1, 0, 3, 2]))
    assert found["layer"].values.tolist() == ["relu1", "relu2"]
    assert float(found["r2"].sel(predictor="fisher").mean()) > 0.9
    assert float(found["difference"].mean()) < -0.5
    assert float(found["r2"].max()) <= 1
    table = compare_rivals({"a": found, "b": found + 0.01}).set_index("quantity")
    assert table.loc["dprime - fisher", "n_networks"] == 2
    with pytest.raises(DataError, match="two tasks"):
        head_to_head(gains.isel(task=0, drop=True), measured.isel(task=0, drop=True), fisher.isel(task=0, drop=True))


def test_population_dprime_by_layer_does_not_hang_on_order(rng):
    recorded = recording(rng, shift=6.0)
    found = population_selectivity(recorded, TASKS, seed=3)
    mixed = recorded.isel(stimulus=rng.permutation(80))
    xr.testing.assert_allclose(population_selectivity(mixed, TASKS, seed=3), found)
    assert float(found["dprime"].sel(task="0", layer="relu1")) > 2
    assert abs(float(found["dprime"].sel(layer="relu2").mean())) < 1
    assert found["n_units"].values.tolist() == list(SIZES.values())
    few = population_selectivity(recorded.isel(stimulus=slice(0, 20)), "0")
    assert set(few["status"].values) == {"too_few"}


def test_population_change_is_none_for_gains_and_some_for_new_signal(rng):
    before = recording(rng)
    factor = np.exp(rng.normal(size=K))
    scaled = before.assign(response=before["response"] * factor)
    same = population_change(scaled.isel(unit=rng.permutation(K)), before, "0")
    np.testing.assert_allclose(same["change"], 0, atol=1e-8)  # at the gained layer a linear read-out sees no difference
    extra = before["response"].copy()
    extra[:, 20] += 5.0 * (before["label"] == "0")
    more = population_change(before.assign(response=extra), before, "0")
    assert float(more["change"].sel(layer="relu2")) > 1
    with pytest.raises(DataError, match="same stimulus ids"):
        population_change(before.isel(stimulus=slice(1, None)), before, "0")


def test_filter_sets_choose_top_live_filters_and_matched_others(rng):
    _, measured = make(rng)
    measured["live"][:2] = 0
    measured = measured.sel(unit=[u for u in measured["unit"].values if not u.startswith("relu3")])
    sets = filter_sets(measured, share=0.2, repeats=3, seed=1)
    assert sets["gain_set"].values.tolist() == [
        "top",
        *(f"{c}/{k}" for c in ("random", "activation", "leverage") for k in range(3)),
    ]
    gain = sets["gain"]
    dead = gain.isel(unit=[0, 1])
    assert (dead == 1).all()
    for layer, count in (("relu1", 3), ("relu2", 5)):
        here = gain.isel(unit=np.flatnonzero(gain["layer"].values == layer))
        assert ((here == 0).sum("unit") == count).all()
        top = here.sel(gain_set="top", task="1") == 0
        score = np.where(measured["live"] == 1, np.abs(measured["dprime"].sel(task="1")), -1)[
            gain["layer"].values == layer
        ]
        assert set(np.flatnonzero(top)) == set(np.argsort(-score)[:count])
        others = here.sel(task="1").isel(gain_set=slice(1, None)) == 0
        assert not (others & top).any()
    matched = [abs(_mean_of(measured, gain, f"activation/{k}") - _mean_of(measured, gain, "top")) for k in range(3)]
    drawn = [abs(_mean_of(measured, gain, f"random/{k}") - _mean_of(measured, gain, "top")) for k in range(3)]
    assert np.mean(matched) < np.mean(drawn)
    assert sets["training_source"].values.tolist() == measured["selection_source"].values.tolist()
    assert float(filter_sets(measured, factor=1.5, repeats=1)["gain"].max()) == 1.5


def _mean_of(measured, gain, name):
    chosen = gain.sel(gain_set=name) == 0
    return float((measured["mean_response"] * chosen).sum() / chosen.sum())


def test_filter_sets_refuse_what_cannot_be_matched(rng):
    _, measured = make(rng)
    with pytest.raises(DataError, match="'relu3' has 6 live filters"):
        filter_sets(measured, share=0.3)
    wide = measured.sel(unit=[u for u in measured["unit"].values if not u.startswith("relu3")])
    with pytest.raises(DataError, match="needs leverage_dprime"):
        filter_sets(wide.drop_vars("leverage_dprime"))
    with pytest.raises(DataError, match="share"):
        filter_sets(wide, share=0.7)
    with pytest.raises(ConfigError, match="unknown control"):
        filter_sets(wide, controls=["randm"])


def test_set_effects_by_hand():
    arms = ["ungained", "top", *(f"random/{k}" for k in range(4))]
    auc = np.array([[0.9, 0.8], [0.6, 0.5], [0.88, 0.78], [0.89, 0.79], [0.9, 0.8], [0.87, 0.77]])
    found = set_effects(xr.Dataset({"auc": (("arm", "task"), auc)}, {"arm": arms, "task": ["a", "b"]}))
    row = found.iloc[0]
    assert (row["control"], row["repeats"], row["p"]) == ("random", 4, 1 / 5)
    assert row["change_top"] == pytest.approx(-0.3)
    assert row["change_control"] == pytest.approx(-0.015)
    assert "diagnostic" in row["reads"]


def test_set_effects_over_networks(rng):
    kinds = ["random", "activation"]
    numbers = rng.normal(size=(6, 2)) - [0.5, 0.0]
    tables = {
        f"n{k}": pd.DataFrame(
            {"control": kinds, "change_top": row - 1, "change_control": [-1.0, -1.0], "difference": row}
        )
        for k, row in enumerate(numbers)
    }
    found = pool_set_effects(tables).set_index("control")
    for column, kind in enumerate(kinds):
        wanted = stats.ttest_1samp(numbers[:, column], 0)
        ends = wanted.confidence_interval(0.95)
        assert found.loc[kind, "p"] == pytest.approx(wanted.pvalue)
        assert tuple(found.loc[kind, ["ci_low", "ci_high"]]) == pytest.approx((ends.low, ends.high))
        assert found.loc[kind, "difference"] == pytest.approx(numbers[:, column].mean())
        assert found.loc[kind, "change_top"] == pytest.approx(numbers[:, column].mean() - 1)
    assert (found["n_networks"] == 6).all()
    alone = pool_set_effects({"n0": tables["n0"]})
    assert alone[["ci_low", "ci_high", "p"]].isna().all(axis=None)
    with pytest.raises(DataError, match="same kinds of control"):
        pool_set_effects({"n0": tables["n0"], "n1": tables["n1"][:1]})
    with pytest.raises(DataError, match="came no network"):
        pool_set_effects({})


def test_families_are_corrected_apart_and_m_is_kept(rng):
    p = xr.DataArray(rng.random((2, 3, 4)), dims=("task", "layer", "unit"))
    p[0, 1, 2] = np.nan
    found = adjust_family(p, family=("layer", "unit"), method="bh")
    assert found["m"].values.tolist() == [11, 12]
    flat = p.values[1].ravel()
    np.testing.assert_allclose(found["p_adjusted"].values[1].ravel(), multipletests(flat, method="fdr_bh")[1])
    assert np.isnan(found["p_adjusted"].values[0, 1, 2])
    assert found.attrs == {"family": "layer, unit", "method": "bh"}
    with pytest.raises(DataError, match="must name dimensions"):
        adjust_family(p, family="filter")


def test_selectivity_and_fisher_agree_on_a_single_filter(rng):
    one = recording(rng, shift=2.0).isel(unit=[3])
    d = abs(float(selectivity(one, "0")["dprime"][0]))
    assert float(fisher_selectivity(one, "0")[0]) == pytest.approx(d, rel=0.15)  # pooled against rms SD


def test_a_task_is_predicted_from_the_others_not_from_itself(rng):
    """Gains of three tasks rise with |d'|, those of the fourth fall: its prediction is worse than none."""
    _, measured = make(rng)
    score = np.abs(measured["dprime"].values)
    gains = gains_of(np.exp(score * np.array([1, 1, 1, -1])[:, None]))
    fisher = xr.DataArray(rng.random((4, K)), {"task": TASKS, **units()}, ("task", "unit"))
    r2 = head_to_head(gains, measured, fisher)["r2"].sel(predictor="dprime", layer="relu2")
    assert float(r2.sel(task="3")) == pytest.approx(-3.0)  # 1 - (y - ŷ)²/y² with ŷ = -y
    assert float(r2.sel(task="0")) == pytest.approx(1 - (1 - 1 / 3) ** 2)  # slope of the others: (1 + 1 - 1)/3
