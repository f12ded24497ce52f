"""localisation(): joins, cues, plain activation beside, nulls; against maps made by hand and a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch.nn.utils import parametrizations

from featattn_neuro.arrays.localisation import LOCALISERS, localise
from featattn_neuro.arrays.masks import distractors, on_grid, united_objects
from featattn_neuro.arrays.resampling import permutation_p, share_interval, t_interval
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.io.arrangements import array_composites
from featattn_neuro.io.stimuli import Stimuli, load_stimuli
from featattn_neuro.measures.localisation import localisation
from featattn_neuro.measures.saliency_agreement import saliency_agreement
from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.masked_maps import object_maps
from featattn_neuro.nets.permuted_scores import permuted_scores
from featattn_neuro.nets.randomised import randomised_network
from featattn_neuro.nets.saliency import saliency_by_layer

TASKS = ["a", "b", "c", "d", "e"]
WIDTHS = {"relu1": 16, "relu2": 32}


def singles(n: int = 60, size: int = 10) -> Stimuli:
    rng = np.random.default_rng(1)
    images = rng.random((n, 1, size, size), dtype=np.float32)
    return load_stimuli(images, label=[TASKS[k % 5] for k in range(n)])


@pytest.fixture(scope="module")
def case() -> dict[str, Any]:
    """Arrays of four objects through a small network with random gains of five tasks."""
    module = build_network("digits_cnn", seed=3).module
    arranged = array_composites(singles(), 8, seed=2)
    rng = np.random.default_rng(0)
    unit = [f"{layer}/{k:03d}" for layer, n in WIDTHS.items() for k in range(n)]
    coords = {
        "task": TASKS,
        "unit": unit,
        "layer": ("unit", [u.split("/")[0] for u in unit]),
        "channel": ("unit", [int(u.split("/")[1]) for u in unit]),
    }
    gain = np.exp(0.5 * rng.standard_normal((5, len(unit))))
    gains = xr.Dataset({"gain": (("task", "unit"), gain)}, coords, {"kind": "GAINS"})
    live = xr.DataArray(np.ones(len(unit), int), {"unit": unit}, "unit")
    live[[2, 20]] = 0
    options: dict[str, Any] = {"relative_to_mean": True, "live": live}
    maps = saliency_by_layer(module, gains, arranged.stimuli, list(WIDTHS), dtype="float64", **options)
    return {
        "module": module, "arranged": arranged, "gains": gains, "live": live, "maps": maps,
        "masks": arranged.masks(), "options": options,
    }  # fmt: skip


def test_scores_are_those_of_the_kernel_for_each_cued_object(case: dict[str, Any]) -> None:
    found = localisation(case["maps"], case["masks"])
    maps = case["maps"]["relu2"]
    weights = on_grid(case["masks"]["mask"].values, (maps.sizes["y"], maps.sizes["x"]))
    others = distractors(weights)
    for n, label in enumerate(case["arranged"].stimuli.label.tolist()):
        each = [
            localise(maps["excess"].values[TASKS.index(name), n], weights[n, o], others[n, o])
            for o, name in enumerate(label.split("|"))
        ]
        got = found["localisation"].sel(map="excess", layer="relu2").values[:, n]
        np.testing.assert_allclose(got, np.mean(each, axis=0), rtol=1e-9)
        plain = [localise(maps["activation"].values[n], weights[n, o], others[n, o]) for o in range(4)]
        got = found["localisation"].sel(map="activation", layer="relu2").values[:, n]
        np.testing.assert_allclose(got, np.mean(plain, axis=0), rtol=1e-9)
    values = found["localisation"].sel(localiser="auc_judd", map="excess", layer="relu1").values
    at = {"localiser": "auc_judd", "map": "excess", "layer": "relu1"}
    assert float(found["localisation_mean"].sel(at)) == pytest.approx(values.mean())
    ends = float(found["localisation_low"].sel(at)), float(found["localisation_high"].sel(at))
    assert ends == pytest.approx(t_interval(values))
    at["localiser"] = "pointing_game"  # hit or missed: t would have no width where all images are hit
    ends = float(found["localisation_low"].sel(at)), float(found["localisation_high"].sel(at))
    assert ends == pytest.approx(share_interval(found["localisation"].sel(at).values))
    assert set(found["localisation_status"].values.ravel()) == {"ok"}
    # a map that knows nothing of the image prefers no quadrant
    centre = found["localisation_mean"].sel(map="centre", localiser="energy").values
    np.testing.assert_allclose(centre, 0.25 / 0.5, atol=1e-9)


def test_the_order_of_stimuli_of_the_masks_does_not_matter(case: dict[str, Any]) -> None:
    wanted = localisation(case["maps"], case["masks"])
    turned = case["masks"].isel(stimulus=np.random.default_rng(3).permutation(8))
    xr.testing.assert_allclose(localisation(case["maps"], turned)["localisation"], wanted["localisation"])


def test_added_to_the_cue_swap_of_four_objects(case: dict[str, Any]) -> None:
    masked = object_maps(case["module"], case["arranged"].stimuli, list(WIDTHS), case["masks"]["mask"].values)
    scored = saliency_agreement(masked, case["gains"], case["live"], permutations=20)
    both = localisation(case["maps"], case["masks"], agreement=scored)
    xr.testing.assert_identical(both["cue_swap"], scored["cue_swap"])
    # the cue swap from the maps themselves
    maps = case["maps"]["relu1"]
    weights = on_grid(case["masks"]["mask"].values, (maps.sizes["y"], maps.sizes["x"]))
    excess = maps["excess"].values / maps["excess"].values.std(axis=(1, 2, 3), keepdims=True)
    for n, label in enumerate(case["arranged"].stimuli.label.tolist()):
        inside = np.array([
            [np.average(excess[TASKS.index(name), n], weights=weights[n, o]) for o in range(4)]
            for name in label.split("|")
        ])  # fmt: skip
        wanted = np.mean([inside[a, a] - np.delete(inside[a], a).mean() for a in range(4)])
        assert float(both["cue_swap"].sel(layer="relu1")[n]) == pytest.approx(wanted, rel=1e-5)
    assert (scored["score_low"] < scored["layer_score"]).all()


def test_permuted_gains_are_maps_of_permuted_gains(case: dict[str, Any]) -> None:
    """The null against maps that are made anew from gains permuted by hand."""
    found = permuted_scores(
        case["module"], case["gains"], case["arranged"].stimuli, ["relu2"], case["masks"], permutations=3, seed=5,
        batch_size=3, **case["options"],
    )  # fmt: skip
    assert found.dims == ("localiser", "layer", "permutation")
    rng = np.random.default_rng(5)
    inside = np.flatnonzero((case["gains"]["layer"] == "relu2").values)
    keep = np.array([k for k in range(32) if case["live"].values[inside[k]]])
    for draw in range(3):
        gains = case["gains"].copy(deep=True)
        gains["gain"].values[:, inside[keep]] = case["gains"]["gain"].values[:, inside[rng.permutation(keep)]]
        maps = saliency_by_layer(case["module"], gains, case["arranged"].stimuli, ["relu2"], **case["options"])
        again = localisation(maps, case["masks"])["localisation_mean"].sel(map="excess", layer="relu2")
        np.testing.assert_allclose(found.values[:, 0, draw], again, rtol=1e-3, atol=1e-4)
    scored = localisation({"relu2": case["maps"]["relu2"]}, case["masks"], null=found)
    observed = scored["localisation_mean"].sel(map="excess", layer="relu2").values
    for k in range(4):
        assert float(scored["localisation_p"][k, 0]) == permutation_p(observed[k], found.values[k, 0])


def test_a_randomised_network_is_a_baseline(case: dict[str, Any]) -> None:
    other = randomised_network(case["module"], seed=1)
    before = case["module"].conv2.weight
    assert float(abs(before.detach().flatten().sort()[0] - other.conv2.weight.detach().flatten().sort()[0]).max()) == 0
    assert not np.array_equal(before.detach().numpy(), other.conv2.weight.detach().numpy())
    maps = saliency_by_layer(other, case["gains"], case["arranged"].stimuli, list(WIDTHS), **case["options"])
    found = localisation(case["maps"], case["masks"], baselines={"randomised": maps})
    assert found["map"].values.tolist() == ["excess", "activation", "centre", "randomised"]
    alone = localisation(maps, case["masks"])
    np.testing.assert_allclose(found["localisation"].sel(map="randomised"), alone["localisation"].sel(map="excess"))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    "norm",
    [
        parametrizations.weight_norm, parametrizations.spectral_norm,
        torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm,
    ],
)  # fmt: skip
def test_normed_weights_are_shuffled_too(norm: Any) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(norm(torch.nn.Conv2d(2, 4, 3, bias=False)), torch.nn.ReLU()).eval()
    images = torch.rand(2, 2, 6, 6)
    with torch.no_grad():
        before = net(images)  # computes the weights
        used = net[0].weight.detach().clone()
        other = randomised_network(net, seed=1)
        torch.testing.assert_close(other[0].weight.flatten().sort()[0], used.flatten().sort()[0])
        assert float((other(images) - before).abs().max()) > 0.01
        torch.testing.assert_close(net(images), before)


def test_without_tasks_the_first_object_is_cued(case: dict[str, Any]) -> None:
    one = {"relu1": case["maps"]["relu1"].sel(task="a", drop=True)}
    mask = case["masks"].isel(object=[0])
    found = localisation(one, mask)
    assert np.isnan(found["localisation_mean"].sel(localiser="energy")).all()
    assert (found["localisation_status"].sel(localiser="energy") == "too_few").all()
    assert np.isfinite(found["localisation_mean"].sel(localiser="auc_judd")).all()
    assert np.isnan(found["layer_score"]).all()


def test_maps_of_zeros_have_a_reason(case: dict[str, Any]) -> None:
    flat = {"relu1": case["maps"]["relu1"].assign(excess=case["maps"]["relu1"]["excess"] * 0)}
    found = localisation(flat, case["masks"])
    status = found["localisation_status"].sel(map="excess", layer="relu1")
    assert status.values.tolist() == ["dead"] * 4
    at = {"map": "excess", "layer": "relu1"}
    for name in ("localisation", "localisation_mean", "localisation_low", "localisation_high"):
        assert np.isnan(found[name].sel(at)).all()
    assert set(found["localisation_status"].sel(map="activation").values.ravel()) == {"ok"}


def test_images_with_fewer_objects_are_no_less_resolved(case: dict[str, Any]) -> None:
    one = {"relu2": case["maps"]["relu2"].sel(task="a", drop=True)}
    masks = case["masks"].copy(deep=True)
    masks["mask"].values[1:, 1:] = 0  # all images but the first have one object
    found = localisation(one, masks)
    assert float(found["share_resolved"][0]) == 1.0
    assert int(found["usable"][0]) == 1
    masks["mask"].values[:2] = 0
    masks["mask"].values[0, 0, :1, :1] = 1  # an object of one pixel, and an image without any
    assert float(localisation(one, masks)["share_resolved"][0]) == 6 / 8


def test_two_objects_of_a_class_are_one(case: dict[str, Any]) -> None:
    """Whether their masks are one object or two, no instance of the cued class counts against another."""
    masks, stimuli = case["masks"], case["arranged"].stimuli
    flags, labels = masks["mask"].values, masks["object_label"].values.copy()
    labels[:, 3] = labels[:, 0]
    split = masks.assign_coords(object_label=(("stimulus", "object"), labels))
    whole = np.stack([flags[:, 0] | flags[:, 3], flags[:, 1], flags[:, 2]], axis=1)
    joined = masks.isel(object=[0, 1, 2]).assign(mask=(("stimulus", "object", "y", "x"), whole))
    names = ["localisation", "localisation_mean", "localisation_null", "localisation_p", "share_resolved"]
    scored = []
    for one in (split, joined):
        null = permuted_scores(
            case["module"], case["gains"], stimuli, list(WIDTHS), one, permutations=5, **case["options"]
        )
        scored.append(localisation(case["maps"], one, null=null))
    for name in names:
        np.testing.assert_array_equal(scored[0][name], scored[1][name], err_msg=name)
    # a map that is highest on one instance, and nowhere else, is perfect
    perfect = {"relu2": case["maps"]["relu2"].sel(task=[str(labels[0, 0])]).copy(deep=True)}
    corner = on_grid(flags[:, 3], (perfect["relu2"].sizes["y"], perfect["relu2"].sizes["x"]))
    perfect["relu2"]["excess"].values[:] = corner
    found = localisation(perfect, split)["localisation"].sel(map="excess", layer="relu2").values[:, 0]
    assert found[LOCALISERS.index("pointing_game")] == found[LOCALISERS.index("energy")] == 1
    assert found[LOCALISERS.index("mass_in_mask")] == 0.5
    # where no task cues two objects nothing is touched
    cued = np.argsort(np.random.default_rng(0).random((8, 4)), axis=1)
    same = united_objects(flags, cued)
    assert same[0] is flags
    assert same[1] is cued


def test_user_mistakes(case: dict[str, Any]) -> None:
    maps, masks = case["maps"], case["masks"]
    with pytest.raises(
        DataError, match="wanted masks of 20 × 20 pixels, the size of the network's input; came 10 × 20"
    ):
        localisation(maps, masks.isel(y=slice(0, 10)))
    with pytest.raises(DataError, match="wanted the same stimulus ids"):
        localisation(maps, masks.isel(stimulus=slice(1, None)))
    with pytest.raises(DataError, match="have none; make them without upstream gains"):
        localisation({"relu1": maps["relu1"].drop_vars("activation")}, masks)
    with pytest.raises(DataError, match="no object of the masks is labelled as a task"):
        localisation(maps, masks.drop_vars("object_label"))
    with pytest.raises(DataError, match="came none; make them with gain_saliency"):
        localisation({}, masks)
    stimuli, values = case["arranged"].stimuli, masks["mask"].values
    with pytest.raises(DataError, match=r"wanted masks of 20 × 20 pixels.*; came 10 × 20"):
        object_maps(case["module"], stimuli, ["relu1"], values[:, :, :10])
    with pytest.raises(DataError, match=r"for 8 stimuli; came shape \(7, 4, 20, 20\)"):
        object_maps(case["module"], stimuli, ["relu1"], values[1:])
    with pytest.raises(DataError, match=r"values in \[0, 1\]"):
        object_maps(case["module"], stimuli, ["relu1"], 3 * values)
    with pytest.raises(DataError, match="came masks of others"):
        permuted_scores(case["module"], case["gains"], stimuli, ["relu1"], masks.isel(stimulus=slice(1, None)))
    with pytest.raises(ConfigError, match="wanted 1 permutation or more; came 0"):
        permuted_scores(case["module"], case["gains"], stimuli, ["relu1"], masks, permutations=0)
    assert tuple(localisation(maps, masks)["localiser"].values) == LOCALISERS
