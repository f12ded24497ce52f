"""`learn_gains` in all its ways, and what it learned placed again: the public road from labels to gained answers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file
from torch import nn

import featattn_neuro as fn
from featattn_neuro.arrays.discrimination import roc_area
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.gain_sets import detector_of
from featattn_neuro.nets.hooks import hooked
from featattn_neuro.nets.training import head_inputs


@pytest.fixture
def problem() -> tuple[nn.Module, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.random((24, 1, 12, 12), dtype=np.float32)
    labels = np.array([["cat", "cow", "dog"][k % 3] for k in range(24)])
    images[labels == "cat", :, :6] += 0.5
    images[labels == "dog", :, :, :6] += 0.5
    return fn.load_model("digits_cnn", weights="random", seed=1).module, images, labels


@pytest.mark.parametrize(
    ("layers", "options"),
    [
        ("relu2", {}),
        (["relu2.input", "relu3"], {"parameterisation": "free"}),
        ("relu*", {"per": "layer"}),
        ("relu3", {"per": "position", "parameterisation": "non_negative"}),
        ("relu[23]", {"per": "filter and position", "combination": "additive", "shift": True}),
        ("relu3", {"parameterisation": "bounded(0.7, 1.3)", "penalty": 0.01, "penalty_norm": "l1"}),
    ],
    ids=str,
)
def test_what_is_learned_is_what_is_placed(problem, layers, options):
    net, images, labels = problem
    before = copy.deepcopy(net.state_dict())
    learned = fn.learn_gains(net, images, labels, layers, epochs=20, batch_size=12, rate=0.02, **options)
    assert all(torch.equal(net.state_dict()[key], before[key]) for key in before)
    sets = fn.GainSets(learned)
    assert list(sets) == ["cat", "cow", "dog"]
    plain = head_inputs(net, "head", torch.as_tensor(images))
    for task, name in enumerate(sets):
        with fn.with_gains(net, sets[name]):
            features = head_inputs(net, "head", torch.as_tensor(images))
        assert not np.allclose(features, plain)
        z = detector_of(learned).logits(features)[task]
        target = labels == name
        if name != "cow":  # cats and dogs were given something to be told by
            assert z[target].mean() > z[~target].mean()
    np.testing.assert_array_equal(head_inputs(net, "head", torch.as_tensor(images)), plain)
    with fn.switchable_gains(net, sets) as switch:
        switch("cow")
        first = head_inputs(net, "head", torch.as_tensor(images))
        switch("dog")
        switch("cow")
        np.testing.assert_array_equal(head_inputs(net, "head", torch.as_tensor(images)), first)


def test_options_that_mean_nothing_are_refused(problem):
    net, images, labels = problem
    for options, message in (
        ({"per": "pixel"}, "unknown kind of gain 'pixel'"),
        ({"combination": "additive"}, "is for per='filter and position'"),
        ({"parameterisation": "exp"}, "wanted free, non_negative"),
        ({"penalty_norm": "l0"}, "unknown norm of the penalty"),
    ):
        with pytest.raises(ConfigError, match=message):
            fn.learn_gains(net, images, labels, "relu3", epochs=1, **options)
    with pytest.raises(ConfigError, match="relu7"):
        fn.learn_gains(net, images, labels, "relu7.input", epochs=1)


def test_additive_gains_from_theory_are_relu_of_a_shift(problem):
    net, images, labels = problem
    found = fn.theory_gains(net, images, labels, "relu[12]", mode="additive", strength=0.7)
    assert set(found["layer"].values.tolist()) == {"relu1.input", "relu2.input"}
    assert (found["gain"] == 1).all()
    factors = fn.theory_gains(net, images, labels, "relu[12]", strength=0.7)
    record = fn.record(net, images, ["relu1", "relu2"])
    mean = record["response"].groupby("layer").mean(...)
    for layer in ("relu1", "relu2"):
        here = factors["layer"].values == layer
        shift = found["shift"].sel(task="dog").values[here]
        f = (factors["gain"].sel(task="dog").values[here] - 1) / 0.7
        np.testing.assert_allclose(shift, float(mean.sel(layer=layer)) * 0.7 * f, rtol=1e-4, atol=1e-6)
    seen = {}
    watched = {n: lambda m, i, out, n=n: seen.__setitem__(n, out.clone()) for n in ("conv1", "relu1")}
    with hooked(net, watched), fn.with_gains(net, found, task="dog"), torch.no_grad():
        net(torch.as_tensor(images))
    shift = torch.as_tensor(found["shift"].sel(task="dog").values[:16], dtype=torch.float32).view(-1, 1, 1)
    torch.testing.assert_close(seen["relu1"], torch.relu(seen["conv1"] + shift))
    others = np.flip(images, axis=3).copy()
    swept = fn.theory_gains(
        net, images, labels, "relu[12]", mode="additive", strength=[0.0, 0.7], choice_stimuli=others,
        choice_labels=labels,
    )  # fmt: skip
    assert swept.attrs["choice_auc"].startswith("0: ")
    assert swept.attrs["mode"] == "additive"
    best = swept.attrs["strength"]
    np.testing.assert_array_equal(swept["shift"], found["shift"] * (best > 0))
    z = detector_of(swept).logits(plain := head_inputs(net, "head", torch.as_tensor(others)))
    area = np.mean([float(roc_area(z[k], labels == name)) for k, name in enumerate(swept["task"].values)])
    assert plain.shape == (len(images), 64)
    assert abs(float(swept.attrs["choice_auc"].split(",")[0].removeprefix("0: ")) - area) < 1e-3
    for options, message in (
        ({"mode": "additive", "clip": True}, "clip is of factors"),
        ({"mode": "additve"}, "did you mean 'additive'"),
        ({"normalise": "filter"}, "are of gradient values"),
        ({"mode": "additive", "layers": "conv1"}, r"wanted activation modules such as nn.ReLU; came 'conv1'"),
    ):
        with pytest.raises(ConfigError, match=message):
            fn.theory_gains(net, images, labels, options.pop("layers", "relu1"), **options)


def test_options_of_gradient_values(problem):
    net, images, labels = problem
    paper, script = (
        fn.theory_gains(net, images, labels, "relu2", method="gradient", **options)
        for options in ({}, {"normalise": "filter", "sign": 1})
    )
    f = -(script["gain"].values - 1)
    live = ~np.isclose(paper["gain"].values, 1).all(axis=0)
    np.testing.assert_allclose(abs(f[:, live]).max(axis=0), 1, rtol=1e-5)
    assert np.sign(f[:, live]).tolist() == np.sign(paper["gain"].values[:, live] - 1).tolist()
    assert (script.attrs["normalised_by"], script.attrs["sign"]) == ("filter", 1)


def test_a_dead_layer_is_named_and_not_given_gains_of_one(problem):
    net, images, labels = problem
    with torch.no_grad():
        net.conv2.weight.zero_()
        net.conv2.bias.fill_(-1.0)
    for method in ("tuning", "gradient"):
        with pytest.raises(DataError, match=r"all 32 filters of layer 'relu2' are dead: none answers to any of the"):
            fn.theory_gains(net, images, labels, ["relu1", "relu2"], method=method)


def one_set(layers: dict[str, list[float]]) -> xr.Dataset:
    places = [(layer, k, g) for layer, gains in layers.items() for k, g in enumerate(gains)]
    layer, channel, gain = zip(*places, strict=True)
    unit = [f"{one}/{k}" for one, k, _ in places]
    return xr.Dataset(
        {"gain": ("unit", list(gain))},
        {"unit": unit, "layer": ("unit", list(layer)), "channel": ("unit", list(channel))},
        {"kind": "GAINS"},
    )


@pytest.mark.parametrize("tied", ["no", "parameter", "storage"])
def test_a_weight_file_holds_the_folded_network_or_is_refused(tied, tmp_path):
    def build() -> nn.Module:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.ReLU())
        if tied == "parameter":
            net[2].weight = net[0].weight
        if tied == "storage":
            net[2].weight = nn.Parameter(net[0].weight.detach().transpose(0, 1))
        return net.eval()

    net, path = build(), tmp_path / "folded.safetensors"
    gains = one_set({"1": [2.0, 0.5]})
    if tied != "no":
        with pytest.raises(ConfigError, match=r"shares the numbers of 0\.weight with other weights"):
            fn.save_folded(net, gains, path)
        assert not path.exists()
        gains = one_set({"1": [1.0, 1.0]})  # leaves the weights as they are
    images = torch.rand(2, 2, 3, 3)
    again = build()
    again.load_state_dict(load_file(fn.save_folded(net, gains, path)))
    with fn.with_gains(net, gains), torch.no_grad():
        torch.testing.assert_close(again(images), net(images))


def test_a_set_that_cannot_be_placed_leaves_none_of_them_acting():
    net, images = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sigmoid()).eval(), torch.rand(1, 1, 2, 2)
    sets = {"a": one_set({"1": [2.0, 3.0]}), "b": one_set({"nowhere": [2.0]})}
    with torch.no_grad(), fn.switchable_gains(net, sets) as switch:
        plain = net(images)
        switch("a")
        acting = net(images)
        assert not torch.equal(acting, plain)
        with pytest.raises(ConfigError, match="nowhere"):
            switch("a", "b")
        assert switch.active == ()
        assert torch.equal(net(images), plain)
        switch("a")
        assert torch.equal(net(images), acting)
    with torch.no_grad():
        assert torch.equal(net(images), plain)


def test_strengths_come_as_any_numbers(problem):
    net, images, labels = problem
    options = {"choice_stimuli": np.flip(images, axis=3).copy(), "choice_labels": labels}
    wanted = fn.theory_gains(net, images, labels, "relu2", strength=[0.0, 1.0], **options)
    xr.testing.assert_identical(
        fn.theory_gains(net, images, labels, "relu2", strength=np.array([0.0, 1.0]), **options), wanted
    )
    one = [fn.theory_gains(net, images, labels, "relu2", strength=s) for s in (0.5, np.array(0.5), np.array([0.5]))]
    for other in one[1:]:
        xr.testing.assert_identical(other, one[0])
