"""The verdict rules, branch by branch, and the numbers that they are applied to."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from featattn_neuro.arrays.association import task_mismatch
from featattn_neuro.arrays.multiplicity import adjust
from featattn_neuro.errors import DataError
from featattn_neuro.measures.claim_evidence import saliency_evidence
from featattn_neuro.measures.claims import claims, decide

TASKS = [str(t) for t in range(10)]
ARMS = ["ungained", "probe", "gain", "gain_head", "full", "uniform", "permuted", "permuted_head"]
EXAMPLES = [1, 2, 5, 10, 20, 50, 100]
UPDATES = list(range(0, 121, 10))


def spread(n, mean, sd):
    """n numbers with exactly this mean and SD."""
    x = np.linspace(-1, 1, n)
    return mean + sd * x / x.std(ddof=1) if n > 1 else np.array([mean])


def make_scores(values, guard):
    """SCORES per network with the given gain_head - probe and gain - uniform; novel cells carry twice the effect."""
    result = {}
    for n, (u, w) in enumerate(zip(values, guard, strict=True)):
        auc = np.full((len(ARMS), 10), 0.7)
        novel = np.zeros(10, dtype=int)
        novel[[2 * n % 10, (2 * n + 1) % 10]] = 1
        weight = np.where(novel == 1, 2.0, 0.75)  # mean 1 over the ten tasks
        auc[ARMS.index("gain_head")] += u * weight
        auc[ARMS.index("gain")] += w
        result[f"net{n}"] = xr.Dataset(
            {"auc": (("arm", "task"), auc), "novel": ("task", novel)}, {"arm": ARMS, "task": TASKS}
        )
    return result


def make_curves(over_examples, over_updates):
    result = {}
    for n, (u1, u2) in enumerate(zip(over_examples, over_updates, strict=True)):
        examples, updates = np.full((2, 10, 7), 0.7), np.full((2, 10, 13), 0.7)
        examples[0] += u1
        updates[0] += u2
        result[f"net{n}"] = xr.Dataset(
            {
                "auc_examples": (("arm", "task", "examples"), examples),
                "auc_updates": (("arm", "task", "updates"), updates),
            },
            {"arm": ["gain_head", "full"], "task": TASKS, "examples": EXAMPLES, "updates": UPDATES},
        )
    return result


def make_associations(matched, mismatched, noise=0.0, seed=0):
    """ASSOCIATION per network with the given mean z on and off the diagonal."""
    rng = np.random.default_rng(seed)
    result = {}
    for n, (m, o) in enumerate(zip(matched, mismatched, strict=True)):
        z = np.full((10, 10), float(o)) + noise * rng.normal(size=(10, 10))
        np.fill_diagonal(z, m)
        z = np.stack([z, np.full((10, 10), 9.0)])  # only the measure "dprime" is the primary one
        result[f"net{n}"] = xr.Dataset(
            {
                "rho": (("measure", "task", "selectivity_task", "layer"), np.zeros((2, 10, 10, 1))),
                "z": (("measure", "task", "selectivity_task"), z),
                "n_live": ("layer", [30]),
                "status": ("layer", ["ok"]),
            },
            {"measure": ["dprime", "auc"], "task": TASKS, "selectivity_task": TASKS, "layer": ["relu1"]},
        )
    return result


def make_agreements(values, usable=(1, 1, 0)):
    return {
        f"net{n}": xr.Dataset(
            {"layer_score": ("layer", [u + 0.1, u - 0.1, 99.0]), "usable": ("layer", list(usable))},
            {"layer": ["relu1", "relu2", "relu3"]},
        )
        for n, u in enumerate(values)
    }


def inputs(n=5, **changed):
    """All four claims supported, unless changed."""
    table = {
        "scores": make_scores(spread(n, 0.05, 0.01), spread(n, 0.04, 0.01)),
        "curves": make_curves(spread(n, 0.05, 0.01), spread(n, 0.04, 0.01)),
        "associations": make_associations(spread(n, 0.3, 0.02), np.zeros(n), noise=0.02),
        "agreements": make_agreements(spread(n, 0.4, 0.05)),
    }
    return table | changed


def run(n=5, interval="network", **changed):
    return claims(**inputs(n, **changed), permutations=999, interval=interval)


def verdict(result, claim):
    return str(result["verdict"].sel(claim=claim).values)


def said(result, claim):
    return str(result["sentence"].sel(claim=claim).values)


def test_all_supported():
    found = run()
    assert found["verdict"].values.tolist() == ["supported"] * 4
    assert found["claim"].values.tolist() == ["T1", "T2", "T3", "T4"]
    assert found["condition_met"].values.tolist() == [1, 1, 1, 1]
    assert found["n_networks"].values.tolist() == [5] * 4
    assert found["bound"].values.tolist() == [0.01, 0.01, 0.10, 0.10]


def test_the_numbers_behind_a_verdict():
    values = spread(5, 0.05, 0.01)
    found = run().sel(claim="T1")
    t = stats.ttest_1samp(values, 0)
    np.testing.assert_allclose(found["per_network"], values)
    assert float(found["estimate"]) == pytest.approx(0.05)
    assert float(found["p"]) == pytest.approx(t.pvalue)
    for level, names in ((0.95, ("ci_low", "ci_high")), (0.90, ("ci90_low", "ci90_high"))):
        wanted = t.confidence_interval(level)
        assert [float(found[name]) for name in names] == pytest.approx([wanted.low, wanted.high])
    assert float(found["novel"]) == pytest.approx(0.10)
    assert float(found["trained"]) == pytest.approx(0.0375)
    assert "Novel cells +0.1000, trained cells +0.0375." in said(run(), "T1")


def test_holm_is_over_the_four_primary_p():
    found = run()
    np.testing.assert_allclose(found["p_holm"], adjust(found["p"].values, "holm"))
    three = run(curves=None)
    keep = [0, 2, 3]
    np.testing.assert_allclose(three["p_holm"].values[keep], adjust(three["p"].values[keep], "holm"))
    assert np.isnan(three["p_holm"].values[1])


# ---- the pure rule, one row per branch
RULE = {
    "negligible": ([0.004], [(-0.002, 0.009)], 0.001, 5, True, "negligible"),
    "negligible comes before supported": ([0.005], [(0.004, 0.006)], 0.001, 5, True, "negligible"),
    "the bound itself is not inside": ([0.005], [(0.0, 0.01)], 0.001, 5, True, "supported"),
    "supported": ([0.05], [(0.04, 0.06)], 0.05, 5, True, "supported"),
    "p just too large": ([0.05], [(0.04, 0.06)], 0.0501, 5, True, "inconclusive"),
    "condition fails": ([0.05], [(0.04, 0.06)], 0.001, 5, False, "inconclusive"),
    "contradicted": ([-0.05], [(-0.06, -0.04)], 0.001, 5, True, "contradicted"),
    "contradicted needs no condition": ([-0.05], [(-0.06, -0.04)], 0.001, 5, False, "contradicted"),
    "wide": ([0.05], [(-0.04, 0.14)], 0.4, 5, True, "inconclusive"),
    "four networks": ([0.05], [(0.04, 0.06)], 0.001, 4, True, "inconclusive"),
    "four networks, negligible": ([0.001], [(0.0, 0.002)], 0.5, 4, True, "inconclusive"),
    "two numbers, one negligible": ([0.05, 0.001], [(0.04, 0.06), (0.0, 0.002)], 0.5, 5, True, "inconclusive"),
    "two numbers, both negligible": ([0.002, -0.001], [(0, 0.003), (-0.002, 0)], 0.5, 5, True, "negligible"),
    "two numbers disagree": ([0.05, -0.05], [(0.04, 0.06), (-0.06, -0.04)], 0.001, 5, True, "inconclusive"),
    "two numbers, both negative": ([-0.05, -0.04], [(-0.06, -0.04)] * 2, 0.001, 5, True, "contradicted"),
    "no p": ([0.05], [(0.04, 0.06)], float("nan"), 5, True, "inconclusive"),
}


@pytest.mark.parametrize("name", RULE)
def test_rule(name):
    estimates, intervals, p_holm, n, met, wanted = RULE[name]
    found = decide(
        estimates=estimates, intervals_90=intervals, p_holm=p_holm, bound=0.01, n_networks=n, condition_met=met
    )
    assert found == wanted


# ---- T1
def test_t1_contradicted_says_so():
    found = run(scores=make_scores(spread(5, -0.05, 0.01), spread(5, 0.04, 0.01)))
    assert verdict(found, "T1") == "contradicted"
    assert "detect worse than a new head alone" in said(found, "T1")


def test_t1_negligible_prints_the_sign():
    found = run(scores=make_scores(spread(5, -0.002, 0.001), spread(5, 0.04, 0.01)))
    assert verdict(found, "T1") == "negligible"
    assert "inside ±0.01; the sign is negative" in said(found, "T1")


def test_t1_needs_to_beat_the_uniform_gain():
    found = run(scores=make_scores(spread(5, 0.05, 0.01), spread(5, 0.001, 0.01)))
    assert verdict(found, "T1") == "inconclusive"
    assert "does not clearly beat one scalar a layer (uniform)" in said(found, "T1")
    assert int(found["condition_met"].sel(claim="T1")) == 0


def test_t1_condition_needs_five_networks_of_its_own():
    guard = spread(6, 0.04, 0.01)
    guard[4:] = np.nan
    found = run(6, scores=make_scores(spread(6, 0.05, 0.01), guard))
    assert int(found["n_networks"].sel(claim="T1")) == 6
    assert int(found["condition_met"].sel(claim="T1")) == 0
    assert verdict(found, "T1") == "inconclusive"
    assert "from 4 networks, fewer than five: it does not count" in said(found, "T1")
    guard[4] = 0.04
    assert verdict(run(6, scores=make_scores(spread(6, 0.05, 0.01), guard)), "T1") == "supported"


def test_t1_of_novel_classes_only_prints_no_number_of_trained_ones():
    scores = {name: one.assign(novel=one["novel"] * 0 + 1) for name, one in inputs()["scores"].items()}
    assert "no trained cells." in said(run(scores=scores), "T1")
    assert "nan" not in said(run(scores=scores), "T1")


def test_t1_without_the_arm_is_not_applicable():
    scores = {name: one.sel(arm=["ungained", "probe", "gain_head", "gain"]) for name, one in inputs()["scores"].items()}
    found = run(scores=scores)
    assert verdict(found, "T1") == "not_applicable"
    assert "network net0 has no arm uniform" in said(found, "T1")
    assert np.isnan(found["p"].sel(claim="T1"))
    assert verdict(found, "T4") == "supported"


def test_undefined_cells_are_left_out_and_counted():
    scores = inputs()["scores"]
    scores["net1"]["auc"][ARMS.index("probe"), 3] = np.nan
    found = run(scores=scores)
    assert int(found["n_undefined"].sel(claim="T1")) == 1
    assert int(found["n_networks"].sel(claim="T1")) == 5
    assert "Undefined cells left out: 1." in said(found, "T1")


# ---- T2
def test_t2_takes_the_larger_p_and_the_smaller_effect():
    u1, u2 = spread(5, 0.05, 0.01), spread(5, 0.03, 0.02)
    found = run(curves=make_curves(u1, u2))
    wanted = max(stats.ttest_1samp(u, 0).pvalue for u in (u1, u2))
    assert float(found["p"].sel(claim="T2")) == pytest.approx(wanted)
    assert float(found["estimate"].sel(claim="T2")) == pytest.approx(0.03)
    np.testing.assert_allclose(found["per_network"].sel(claim="T2"), u2)
    assert "Over examples +0.0500, over updates +0.0300." in said(found, "T2")


@pytest.mark.parametrize(
    ("u1", "u2", "wanted"),
    [
        ((0.05, 0.01), (0.04, 0.01), "supported"),
        ((-0.05, 0.01), (-0.04, 0.01), "contradicted"),
        ((0.05, 0.01), (-0.04, 0.01), "inconclusive"),
        ((0.001, 0.002), (-0.002, 0.002), "negligible"),
        ((0.05, 0.01), (0.001, 0.001), "inconclusive"),
    ],
)
def test_t2_verdicts(u1, u2, wanted):
    assert verdict(run(curves=make_curves(spread(5, *u1), spread(5, *u2))), "T2") == wanted


def test_t2_area_is_over_log2_examples_and_updates():
    curves = make_curves(np.zeros(5), np.zeros(5))
    for one in curves.values():
        one["auc_examples"][0] += 0.1 * np.log2(one["examples"]) / np.log2(100)
        one["auc_updates"][0] += 0.2 * one["updates"] / 120
    found = claims(**inputs(curves=curves), permutations=9)
    assert "Over examples +0.0500, over updates +0.1000." in said(found, "T2")


def test_t2_without_curves_or_arm():
    assert "no learning curves were computed" in said(run(curves=None), "T2")
    curves = {name: one.sel(arm=["gain_head"]) for name, one in inputs()["curves"].items()}
    assert "has no arm full" in said(run(curves=curves), "T2")
    curves = {name: one.drop_vars("auc_updates") for name, one in inputs()["curves"].items()}
    assert verdict(run(curves=curves), "T2") == "not_applicable"


def test_t2_counts_networks_that_have_both_areas():
    u1, u2 = spread(6, 0.05, 0.01), spread(6, 0.2, 0.01)
    u2[3:] = np.nan
    found = run(6, curves=make_curves(u1, u2))
    assert int(found["n_networks"].sel(claim="T2")) == 3
    assert verdict(found, "T2") == "inconclusive"
    u2[:] = np.nan
    assert "0 of 6 networks have both values" in said(run(6, curves=make_curves(u1, u2)), "T2")


# ---- T3
def test_t3_numbers_are_those_of_the_task_mismatch():
    associations = make_associations(spread(5, 0.3, 0.02), spread(5, 0.1, 0.03), noise=0.1)
    found = run(associations=associations)
    stack = np.stack([one["z"].sel(measure="dprime").values for one in associations.values()])
    wanted = task_mismatch(stack, permutations=999, rng=np.random.default_rng(0))
    assert float(found["p"].sel(claim="T3")) == wanted.p
    np.testing.assert_allclose(found["per_network"].sel(claim="T3"), wanted.specific)
    np.testing.assert_allclose(found["condition_per_network"].sel(claim="T3"), wanted.matched)
    low, high = stats.ttest_1samp(wanted.specific, 0).confidence_interval()
    assert [float(found[x].sel(claim="T3")) for x in ("ci_low", "ci_high")] == pytest.approx([low, high])
    reordered = {**associations, "net3": associations["net3"].isel(task=slice(None, None, -1))}
    assert said(run(associations=reordered), "T3") == said(found, "T3")


def test_t3_specific_but_not_positive():
    found = run(associations=make_associations(spread(5, -0.1, 0.02), spread(5, -0.5, 0.02), noise=0.02))
    assert verdict(found, "T3") == "inconclusive"
    assert "Specific but not positive." in said(found, "T3")
    assert "Generic only" not in said(found, "T3")


def test_t3_generic_only():
    found = run(associations=make_associations(spread(5, 0.3, 0.02), spread(5, 0.3, 0.02), noise=0.02))
    assert verdict(found, "T3") == "negligible"
    assert "Generic only: filters useful for any task." in said(found, "T3")
    supported = run()
    assert verdict(supported, "T3") == "supported"
    assert "Generic only" not in said(supported, "T3")
    for result in (found, supported):
        assert "Specific but not positive" not in said(result, "T3")


@pytest.mark.parametrize(
    ("n", "specific", "said_so"),
    [(4, 0.5, False), (4, 0.0, False), (5, 0.0, True), (5, 0.06, False)],
    ids=["withheld, clearly specific", "withheld", "generic", "negligible but above 0"],
)
def test_t3_generic_only_is_said_of_verdicts_without_a_specific_effect(n, specific, said_so):
    matched = spread(n, 0.3 + specific, 0.02)
    found = run(n, associations=make_associations(matched, np.full(n, 0.3), noise=0.02))
    assert verdict(found, "T3") == ("inconclusive" if n < 5 else "negligible")
    assert ("Generic only" in said(found, "T3")) == said_so


def test_t3_contradicted():
    found = run(associations=make_associations(spread(5, -0.3, 0.02), np.zeros(5), noise=0.02))
    assert verdict(found, "T3") == "contradicted"
    assert "selectivity of other tasks more than that of their own" in said(found, "T3")


def test_t3_nothing_at_all_is_negligible_and_not_generic():
    found = run(associations=make_associations(spread(5, 0.0, 0.02), spread(5, 0.0, 0.01), noise=0.02))
    assert verdict(found, "T3") == "negligible"
    assert "Generic only" not in said(found, "T3")


def test_t3_inconclusive_when_networks_differ_widely():
    found = run(associations=make_associations(spread(5, 0.12, 0.5), spread(5, 0.1, 0.02), noise=0.3))
    assert verdict(found, "T3") == "inconclusive"
    assert "Specific but not positive" not in said(found, "T3")


def test_t3_with_one_task_is_not_applicable():
    one = {
        name: a.isel(task=[0], selectivity_task=[0]).drop_vars(["rho"]).assign(rho=("layer", [0.1]))
        for name, a in inputs()["associations"].items()
    }
    found = run(associations=one)
    assert verdict(found, "T3") == "not_applicable"
    assert "one task" in said(found, "T3")


def test_t3_networks_must_have_the_same_tasks():
    associations = inputs()["associations"]
    associations["net2"] = associations["net2"].isel(task=slice(0, 9), selectivity_task=slice(0, 9))
    with pytest.raises(DataError, match="same task ids"):
        run(associations=associations)


# ---- T4
def test_t4_is_the_mean_over_usable_layers_only():
    found = run()
    assert float(found["estimate"].sel(claim="T4")) == pytest.approx(0.4)
    assert "Layers: relu1, relu2." in said(found, "T4")


@pytest.mark.parametrize(
    ("mean", "sd", "wanted"),
    [(0.4, 0.05, "supported"), (-0.4, 0.05, "contradicted"), (0.02, 0.02, "negligible"), (0.1, 0.3, "inconclusive")],
)
def test_t4_verdicts(mean, sd, wanted):
    assert verdict(run(agreements=make_agreements(spread(5, mean, sd))), "T4") == wanted


def test_t4_uses_layers_that_every_network_resolves():
    agreements = inputs()["agreements"]
    agreements["net2"]["usable"][1] = 0
    found = run(agreements=agreements)
    assert float(found["estimate"].sel(claim="T4")) == pytest.approx(0.5)
    none = run(agreements=make_agreements(spread(5, 0.4, 0.05), usable=(0, 0, 0)))
    assert verdict(none, "T4") == "not_applicable"
    assert "no layer's grid" in said(none, "T4")


def make_halves(values, novel_cue=0.9, trained_cue=0.1):
    """AGREEMENT with the halves of the cue swap; a half under a novel cue is larger.

    Layers differ, and the last is unusable. Of ten composites each digit is first object of one, and second of another.
    """
    labels = [f"{c}|{(c + 1) % 10}" for c in range(10)]
    result = {}
    for n, u in enumerate(values):
        novel = {str(2 * n % 10), str((2 * n + 1) % 10)}
        cue = np.array([[novel_cue if c in novel else trained_cue for c in label.split("|")] for label in labels])
        halves = np.stack([cue + u + 0.1, cue + u - 0.1, np.full((10, 2), 99.0)])
        whole = halves.mean(axis=2)
        result[f"net{n}"] = xr.Dataset(
            {
                "cue_swap_by_cue": (("layer", "stimulus", "object"), halves),
                "cue_swap": (("layer", "stimulus"), whole),
                "layer_score": ("layer", whole.mean(axis=1)),
                "usable": ("layer", [1, 1, 0]),
            },
            {"layer": ["relu1", "relu2", "relu3"], "stimulus": list("abcdefghij"), "label": ("stimulus", labels)},
        )
    return result


def test_t4_prints_halves_of_novel_and_of_trained_cues_apart():
    found = run(agreements=make_halves(spread(5, 0.0, 0.05)))
    one = found.sel(claim="T4")
    assert float(one["novel"]) == pytest.approx(0.9)
    assert float(one["trained"]) == pytest.approx(0.1)
    assert float(one["estimate"]) == pytest.approx(0.26)  # two novel digits of ten
    assert "Novel cells +0.9000, trained cells +0.1000." in said(found, "T4")


def test_t4_apart_is_the_mean_over_halves_then_layers_then_networks():
    """As the number itself: an undefined half of one layer does not take weight from that layer."""
    agreements = make_halves(spread(5, 0.0, 0.05))
    agreements["net0"]["cue_swap_by_cue"].loc["relu1", ["b", "c", "d"]] = np.nan  # 1|2, 2|3, 3|4
    agreements["net0"]["cue_swap_by_cue"].loc["relu1", "a"] = [2.0, 4.0]  # 0|1: both novel to this network
    found = run(agreements=agreements).sel(claim="T4")
    u = spread(5, 0.0, 0.05)
    relu1 = (2.0 + 4.0 + (0.9 + u[0] + 0.1)) / 3  # the fourth, 1 of 1|2, is undefined; 0 of 9|0 is left
    wanted = (relu1 + (0.9 + u[0] - 0.1)) / 2
    assert float(found["novel"]) == pytest.approx((wanted + (0.9 + u[1:]).sum()) / 5)


def test_t4_number_does_not_depend_on_the_halves():
    """Written before the halves were kept, or of images without labels: T4 as ever, cells apart not known."""
    agreements = make_halves(spread(5, 0.0, 0.05))
    whole = run(agreements=agreements).sel(claim="T4")
    for older in (
        {name: one.drop_vars("cue_swap_by_cue") for name, one in agreements.items()},
        {name: one.drop_vars("label") for name, one in agreements.items()},
    ):
        found = run(agreements=older)
        for name in ("estimate", "per_network", "ci_low", "p", "n_undefined"):
            np.testing.assert_array_equal(found[name].sel(claim="T4"), whole[name])
        assert np.isnan(found["novel"].sel(claim="T4"))
        assert np.isnan(found["trained"].sel(claim="T4"))
        assert "Novel cells" not in said(found, "T4")
        assert verdict(found, "T4") == str(whole["verdict"].values)


# ---- numbers of networks
def test_four_networks_have_an_interval_but_no_verdict():
    found = run(n=4)
    assert found["verdict"].values.tolist() == ["inconclusive"] * 4
    assert np.isfinite(found["ci_low"]).all()
    assert "Fewer than five networks: no verdict." in said(found, "T1")


def test_one_network_speaks_for_itself():
    found = run(n=1)
    assert found["verdict"].values.tolist() == ["inconclusive"] * 4
    assert np.isnan(found["ci_low"]).all()
    assert "one network" in said(found, "T3")
    assert "in this network +0.2984 (task" in said(found, "T3")
    assert f"task-permutation p = {1 / 1000:.2g}" in said(found, "T3")


def test_networks_of_different_designs_have_no_interval():
    found = run(interval="none")
    assert found["verdict"].values.tolist() == ["inconclusive"] * 4
    for name in ("ci_low", "ci_high", "p", "p_holm"):
        assert np.isnan(found[name]).all()
    assert np.isfinite(found["p_per_network"].sel(claim="T3")).all()
    assert said(found, "T3").count("in this network") == 5
    assert "no replicates of one design" in said(found, "T1")


def test_identical_arms_are_negligible_not_an_error():
    found = run(scores=make_scores(np.zeros(5), np.zeros(5)))
    assert verdict(found, "T1") == "negligible"
    assert "the sign is zero" in said(found, "T1")


def test_a_network_without_a_value_is_left_out_of_n():
    associations = inputs(6)["associations"]
    associations["net5"]["z"][0, 2, 3] = np.nan
    found = run(6, associations=associations)
    assert int(found["n_networks"].sel(claim="T3")) == 5
    assert int(found["n_undefined"].sel(claim="T3")) == 1
    assert verdict(found, "T3") == "supported"


def test_the_same_seed_gives_the_same_claims():
    xr.testing.assert_identical(run(), run())
    with pytest.raises(DataError, match="came none"):
        claims({})


def test_t4_of_other_designs_leaves_out_networks_without_a_layer():
    agreements = make_agreements([0.2, 0.4, 0.6])
    names = list(agreements)
    agreements[names[0]] = agreements[names[0]].assign_coords(layer=["x", "y", "z"])
    agreements[names[2]]["usable"][:] = 0
    evidence = saliency_evidence(agreements, {})
    assert evidence.numbers[0] == {names[0]: pytest.approx(0.2), names[1]: pytest.approx(0.4)}
    assert evidence.layers == (f"2 of {names[0]}", f"2 of {names[1]}", f"0 of {names[2]}")


def test_novel_and_trained_cells_of_t3_are_matched_minus_mismatched_by_task():
    associations = make_associations(np.full(5, 0.3), np.full(5, 0.1))
    for n, one in enumerate(associations.values()):
        for c in (2 * n % 10, (2 * n + 1) % 10):
            one["z"][0, c, c] = 0.8  # 0.7 above the others where the class is novel, 0.2 elsewhere
    found = run(associations=associations)
    one = found.sel(claim="T3")
    assert float(one["novel"]) == pytest.approx(0.7)
    assert float(one["trained"]) == pytest.approx(0.2)
    np.testing.assert_allclose(one["per_network"], 0.3)  # (2 · 0.7 + 8 · 0.2) / 10
    assert "Novel cells +0.7000, trained cells +0.2000." in said(found, "T3")


def test_novel_and_trained_cells_of_t2_are_of_the_area_that_decides():
    """The smaller of the two, here over updates; over examples both would be other numbers."""
    curves = make_curves(spread(5, 0.05, 0.01), np.zeros(5))
    for n, one in enumerate(curves.values()):
        novel = np.isin(np.arange(10), [2 * n % 10, (2 * n + 1) % 10])
        one["auc_updates"][0] += np.where(novel, 0.08, 0.01)[:, None]
    found = run(curves=curves)
    assert float(found["estimate"].sel(claim="T2")) == pytest.approx(0.024)
    assert "Novel cells +0.0800, trained cells +0.0100." in said(found, "T2")
