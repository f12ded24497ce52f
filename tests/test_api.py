"""The public names together: what goes in as arrays, labels and names comes out labelled."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import featattn_neuro as fa
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.io.stimuli import Stimuli
from featattn_neuro.nets.adapters import Network

LAYERS = ["relu2", "relu3"]


@pytest.fixture
def network() -> Network:
    return fa.load_model("digits_cnn", weights="random", seed=1)


def pictures(n: int, seed: int = 0) -> np.ndarray:
    """Noise; every second image is lighter on its left."""
    images = 0.6 * np.random.default_rng(seed).random((n, 1, 12, 12), dtype=np.float32)
    images[::2, :, :, :6] += 0.3
    return images


def stimuli(n: int, seed: int = 0) -> Stimuli:
    return fa.load_stimuli(pictures(n, seed), label=[str(i % 2) for i in range(n)])


def learn(network: Any, images: Any, labels: Any, **options: Any) -> xr.Dataset:
    return fa.learn_gains(network, images, labels, LAYERS, **{"epochs": 2, "batch_size": 6, **options})


def test_every_public_name_is_there() -> None:
    for name in fa.__all__:
        assert callable(getattr(fa, name)), name
    assert set(fa.__all__) <= set(dir(fa))
    with pytest.raises(AttributeError, match=r"no attribute 'lern_gains'; public names: .*learn_gains"):
        _ = fa.lern_gains


def test_recording_takes_arrays_tensors_and_stimuli(network: Network) -> None:
    images = pictures(5)
    found = fa.record(network, images, "relu*", batch_size=4)
    np.testing.assert_array_equal(
        found["response"], fa.record(network, torch.as_tensor(images), "relu*", batch_size=4)["response"]
    )
    np.testing.assert_array_equal(
        found["response"], fa.record(network.module, images, "relu*", batch_size=4)["response"]
    )
    labelled = fa.record(network, stimuli(5), "relu*")
    assert labelled["label"].values.tolist() == ["0", "1", "0", "1", "0"]
    assert labelled.sizes == {"stimulus": 5, "unit": 112}


@pytest.mark.parametrize("labels", [[True, False] * 6, [1, 0] * 6, np.array([1.0, 0.0] * 6), torch.tensor([1, 0] * 6)])
def test_two_valued_labels_are_one_task(network: Network, labels: Any) -> None:
    found = learn(network, pictures(12), labels)
    assert found["gain"].dims == ("unit",)
    assert found.sizes["unit"] == 96
    assert found["unit"].values[[0, 95]].tolist() == ["relu2/000", "relu3/063"]
    assert found["head_weight"].dims == ("feature",)
    assert (found["gain"] > 0).all()
    assert (found["gain"] != 1).any()
    wanted = learn(network, pictures(12), [True, False] * 6)
    np.testing.assert_array_equal(found["gain"], wanted["gain"])


@pytest.mark.parametrize(
    ("labels", "names"), [([0, 1, 2] * 4, ["0", "1", "2"]), (["b", "a"] * 6, ["a", "b"]), ([4, 9] * 6, ["4", "9"])]
)
def test_more_values_are_a_task_each(network: Network, labels: list, names: list[str]) -> None:
    found = learn(network, pictures(12), labels)
    assert found["gain"].dims == ("task", "unit")
    assert found["task"].values.tolist() == names
    one = learn(network, pictures(12), [str(label) == names[1] for label in labels])
    np.testing.assert_allclose(found["gain"].sel(task=names[1]), one["gain"], rtol=2e-4)


def test_labelled_labels_are_matched_by_id(network: Network) -> None:
    images = stimuli(12)
    flags = xr.DataArray(np.arange(12) % 2 == 0, {"stimulus": images.id}, "stimulus")
    wanted = learn(network, images, flags.values)
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_array_equal(learn(network, images, flags[order])["gain"], wanted["gain"])
    tasks = xr.concat([flags, ~flags], xr.IndexVariable("task", ["even", "odd"]))
    both = learn(network, images, tasks.isel(stimulus=order).transpose("stimulus", "task"))
    assert both["task"].values.tolist() == ["even", "odd"]
    np.testing.assert_allclose(both["gain"].sel(task="even"), wanted["gain"], rtol=2e-4)
    with pytest.raises(DataError, match=r"labels name no stimulus .*2 missing.*match labels by id"):
        learn(network, images, flags[2:])
    with pytest.raises(DataError, match="labels name no stimulus"):
        learn(network, images, xr.DataArray(flags.values, dims="stimulus"))
    with pytest.raises(DataError, match="must be true or false"):
        learn(network, images, tasks * 3)
    with pytest.raises(DataError, match=r"over 'stimulus' or \(task, stimulus\)"):
        learn(network, images, flags.rename(stimulus="image"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [([1, 0] * 5, r"one per stimulus \(12\); came shape \(10,\)"), ([1] * 12, "name two classes or more; all 12")],
)
def test_labels_that_do_not_fit(network: Network, labels: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        learn(network, pictures(12), labels)


def test_the_frozen_head_is_fitted_elsewhere(network: Network) -> None:
    images, others, labels = stimuli(12), stimuli(16, seed=1), [True, False] * 6
    head = {"head_stimuli": others, "head_labels": [True, False] * 8}
    found = learn(network, images, labels, **head)
    assert found.attrs["head_rule"] == "frozen"
    assert set(found["training_source"].values) == set(images.id)
    longer = learn(network, images, labels, epochs=4, **head)
    np.testing.assert_array_equal(found["head_weight"], longer["head_weight"])
    assert (found["gain"] != longer["gain"]).any()
    both = learn(network, images, labels, train_head=True, **head)
    assert both.attrs["head_rule"] == "learned with the gains"
    assert (found["head_weight"] != both["head_weight"]).any()
    with pytest.raises(DataError, match="head_stimuli"):
        learn(network, images, labels, head_stimuli=images, head_labels=labels)
    with pytest.raises(DataError, match="head_stimuli"):  # one shared image is enough
        learn(network, images, labels, head_stimuli=pictures(12)[3:6], head_labels=[True, False, True])
    with pytest.raises(ConfigError, match="belong together"):
        learn(network, images, labels, head_stimuli=others)
    with pytest.raises(ConfigError, match="a frozen head needs other images"):
        learn(network, images, labels, train_head=False)
    with pytest.raises(DataError, match="must name the same tasks"):
        learn(network, images, labels, head_stimuli=others, head_labels=["a", "b"] * 8)


def test_sources_of_composites_count_as_images(network: Network) -> None:
    single = stimuli(8)
    first, second = np.arange(0, 8, 2), np.arange(1, 8, 2)
    mixed = Stimuli(
        id=np.array([f"mixed {k}" for k in range(4)]),
        images=(single.pixels()[first] + single.pixels()[second]) / 2,
        constituents=np.array([f"{a}|{b}" for a, b in zip(single.id[first], single.id[second], strict=True)]),
    )
    gains = learn(network, mixed, [True, False] * 2)
    assert set(gains["training_source"].values) == set(single.id)
    with pytest.raises(DataError, match="head_stimuli"):
        learn(network, mixed, [True, False] * 2, head_stimuli=single, head_labels=[True, False] * 4)


def test_the_network_is_left_as_found(network: Network) -> None:
    module = network.module.train()
    module.conv1.weight.requires_grad_(False)
    module(torch.as_tensor(pictures(2))).sum().backward()
    grads = [p.grad for p in module.parameters()]
    before = copy.deepcopy(module.state_dict())
    gains = learn(module, pictures(12), [True, False] * 6)
    fa.record(module, pictures(3), "conv")
    fa.gain_saliency(module, gains, pictures(3), layer="relu2")
    with pytest.raises(DataError, match="not finite"):
        learn(module, pictures(12), [True, False] * 6, rate=1e9)
    assert all(part.training for part in module.modules())
    assert [p.grad for p in module.parameters()] == grads
    assert [p.requires_grad for p in module.parameters()] == [False] + [True] * 7
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_from_images_to_association_and_back_from_the_file(network: Network, tmp_path: Path) -> None:
    labels = [0, 1, 2] * 4
    head = {"head_stimuli": pictures(24, seed=1), "head_labels": [0, 1, 2] * 8}
    gains = learn(network, pictures(12), labels, **head)
    again = fa.open_kind(fa.save_kind(gains, tmp_path / "gains.nc")).load()
    xr.testing.assert_equal(gains, again)
    with fa.with_gains(network, again, task="1") as gained:
        changed = fa.record(gained, pictures(3), "head")
    assert np.abs(changed["response"] - fa.record(network, pictures(3), "head")["response"]).max() > 1e-4
    maps = fa.gain_saliency(network, again, pictures(3), layer="relu3", task=["0", "2"])
    assert maps["excess"].dims == ("task", "stimulus", "y", "x")
    held_out = fa.load_stimuli(pictures(30, seed=2), label=[str(i % 3) for i in range(30)])
    recorded = fa.record(network, held_out, LAYERS)
    target = xr.DataArray(
        held_out.label == np.array([["0"], ["1"], ["2"]]),
        {"task": ["0", "1", "2"], "stimulus": held_out.id},
        ("task", "stimulus"),
    )
    measured = fa.selectivity(recorded, target)
    found = fa.gain_selectivity(again, measured, permutations=9)
    assert set(found["layer"].values) <= set(LAYERS)
    one = fa.gain_selectivity(again.sel(task="1"), measured.sel(task="1"), permutations=9)
    measure = {"measure": "dprime"}
    np.testing.assert_allclose(
        one["rho"].sel(measure), found["rho"].sel(measure).sel(task="1", selectivity_task="1"), atol=1e-6
    )


def test_models_in_hand_and_by_name(network: Network) -> None:
    assert fa.load_model(network.module).head == "head"
    assert fa.load_model(network, head="mean").head == "mean"
    with pytest.raises(ConfigError, match="weights and num_classes are for networks by name"):
        fa.load_model(network.module, weights="random")
    with pytest.raises(ConfigError, match="digits_cn"):
        fa.load_model("digits_cn", weights="random")
    headless = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    with pytest.raises(ConfigError, match=r"no final linear layer.*head="):
        fa.learn_gains(headless, pictures(4), [True, False] * 2, ["1"])


def test_filter_sets_are_placed_and_taken_off_again(network: Network) -> None:
    from featattn_neuro.measures.filter_sets import filter_sets, set_effects

    learned = learn(network, stimuli(12), [0, 1] * 6, head_stimuli=stimuli(24, seed=1), head_labels=[0, 1] * 12)
    chosen_on, tested_on = stimuli(30, seed=2), stimuli(16, seed=3)
    measured = fa.selectivity(fa.record(network, chosen_on, LAYERS), "1")
    sets = filter_sets(measured, controls=["random"], repeats=2)
    before = {key: value.clone() for key, value in network.module.state_dict().items()}
    scores = fa.apply_filter_sets(network, sets, learned, tested_on, [0, 1] * 8)
    assert scores["arm"].values.tolist() == ["ungained", "top", "random/0", "random/1"]
    ones = sets.assign(gain=sets["gain"] * 0 + 1)
    plain = fa.apply_filter_sets(network, ones, learned, tested_on, [0, 1] * 8)["auc"]
    assert (plain == plain.isel(arm=0)).all()
    assert all(torch.equal(value, before[key]) for key, value in network.module.state_dict().items())
    assert set_effects(scores)["repeats"].tolist() == [2]
    with pytest.raises(DataError, match="chose the filters"):
        fa.apply_filter_sets(network, sets, learned, chosen_on, [0, 1] * 15)
    with pytest.raises(DataError, match="no read-out"):
        fa.apply_filter_sets(network, sets, learned.drop_vars("head_weight"), tested_on, [0, 1] * 8)
    with pytest.raises(DataError, match="gain_set"):
        fa.apply_filter_sets(network, sets.isel(gain_set=0, drop=True), learned, tested_on, [0, 1] * 8)


COUNTS = np.random.default_rng(0).poisson(4.0, size=(3, 24)).astype(np.float32)
LABEL, SIDE = np.repeat([0, 1, 2], 8), np.tile([True, False], 12)
ON_TENSORS: dict[str, tuple] = {
    "dprime": (COUNTS, SIDE),
    "roc_area": (COUNTS, SIDE),
    "delong_interval": (COUNTS, SIDE),
    "discriminate": (COUNTS, SIDE),
    "roc_curve": (COUNTS[0], SIDE),
    "eta_squared": (COUNTS, LABEL),
    "class_selectivity": (COUNTS, LABEL),
    "lifetime_sparseness": (COUNTS,),
    "population_sparseness": (COUNTS,),
    "orientation_selectivity": (COUNTS[:, :12], np.arange(0, 180, 15.0)),
    "direction_selectivity": (COUNTS[:, :12], np.arange(0, 360, 30.0)),
    "fit_tuning": (COUNTS[0, :12], np.arange(0, 180, 15.0)),
    "fano_factor": (COUNTS,),
    "noise_correlation": (COUNTS, LABEL),
    "choice_probability": (COUNTS, SIDE),
    "grand_choice_probability": (COUNTS, SIDE, LABEL),
    "neurometric_function": (COUNTS[0], np.where(SIDE, 1.0, -1.0) * (1.0 + LABEL)),
    "signal_detection": (30.0, 10.0, 12.0, 28.0),
}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", ON_TENSORS)
def test_kernels_take_tensors(name: str, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    given = ON_TENSORS[name]
    options = [{"rng": np.random.default_rng(0)} if name == "class_selectivity" else {} for _ in range(2)]
    wanted = getattr(fa, name)(*given, **options[0])
    moved = [torch.as_tensor(one, device=device) for one in given]
    if moved[0].ndim:
        moved[0].requires_grad_()
    found = getattr(fa, name)(*moved, **options[1])
    pairs = [(wanted, found)] if not isinstance(wanted, tuple) and not hasattr(wanted, "__dict__") else None
    if pairs is None:
        parts = [tuple(one) if isinstance(one, tuple) else tuple(vars(one).values()) for one in (wanted, found)]
        pairs = list(zip(*parts, strict=True))
    compared = 0
    for one, other in pairs:
        if isinstance(one, np.ndarray | float | np.floating) and np.asarray(one).dtype.kind in "fiu":
            np.testing.assert_allclose(other, one, rtol=1e-12, atol=1e-12)
            compared += 1
    assert compared


def test_complaints_of_kernels_are_what_their_docstrings_name() -> None:
    for kind in (ValueError, DataError):
        with pytest.raises(kind, match="choice_probability: choice must be boolean"):
            fa.choice_probability([1.0, 2.0], [True])
        with pytest.raises(kind, match="fano_factor: spike counts are >= 0"):
            fa.fano_factor([-1.0, 2.0])
