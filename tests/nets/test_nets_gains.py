"""Gains in place: the identities that must hold exactly, each with its condition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from featattn_neuro.arrays.discrimination import dprime, roc_area, status_codes
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.batches import as_tensor
from featattn_neuro.nets.gains import gains_by_layer, with_gains
from featattn_neuro.nets.recording import record_activations


def filters_of(net: nn.Module, layers: list[str], images: torch.Tensor) -> dict[str, int]:
    found: dict[str, int] = {}
    handles = [
        net.get_submodule(layer).register_forward_hook(lambda m, i, o, layer=layer: found.update({layer: o.shape[1]}))
        for layer in layers
    ]
    with torch.no_grad():
        net(images)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize(
    ("name", "layers", "channels", "size"),
    [
        ("digits_cnn", ["conv1", "relu1", "relu2", "pool2", "relu3", "mean"], 1, 28),
        ("cifar_resnet20", ["relu", "layer1.1.relu1", "layer2.0.bn1", "layer3.2.relu2"], 3, 32),
        ("resnet18", ["relu", "layer2.0.relu", "layer4.1.bn2"], 3, 64),
    ],
)
def test_gains_of_one_leave_the_output_bit_identical(
    name: str, layers: list[str], channels: int, size: int, noise: Any, gain_set: Any
) -> None:
    net = build_network(name, **({} if name == "digits_cnn" else {"weights": "random"})).module
    images = as_tensor(noise(2, channels, size), None)
    ones = gain_set({layer: np.ones(n) for layer, n in filters_of(net, layers, images).items()})
    with torch.no_grad():
        plain = net(images)
        with with_gains(net, ones) as gained:
            assert torch.equal(gained(images), plain)
        doubled = ones.assign(gain=ones["gain"] * 2)
        with with_gains(net, doubled):
            assert not torch.equal(net(images), plain)
        assert torch.equal(net(images), plain)


@pytest.fixture(scope="module")
def digits() -> nn.Module:
    return build_network("digits_cnn", seed=3).module


def responses(net: nn.Module, stimuli: Any, layer: str) -> np.ndarray:
    return record_activations(net, stimuli, layer, batch_size=16)["response"].values.T


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), spread=st.floats(0.1, 3))
def test_positive_gains_leave_the_layers_own_discriminability(
    digits: nn.Module, noise: Any, gain_set: Any, seed: int, spread: float
) -> None:
    stimuli = noise(16)
    target = np.arange(16) % 2 == 0
    gain = np.exp(spread * np.random.default_rng(seed).standard_normal(32))
    plain = responses(digits, stimuli, "relu2")
    with with_gains(digits, gain_set({"relu2": gain})):
        gained = responses(digits, stimuli, "relu2")
    np.testing.assert_allclose(gained, plain * gain[:, None], rtol=1e-5)
    np.testing.assert_array_equal(status_codes(gained, target), status_codes(plain, target))
    # rounding of one float32 response, seen against the spread over images that d' divides by
    noise_floor = 1e-6 * np.abs(plain).max(axis=1) / np.where(plain.std(axis=1) > 0, plain.std(axis=1), np.inf)
    assert (np.abs(np.nan_to_num(dprime(gained, target) - dprime(plain, target))) <= 1e-6 + noise_floor).all()
    np.testing.assert_allclose(roc_area(gained, target), roc_area(plain, target), atol=1e-6)


def test_negative_gains_negate_and_zero_gains_silence(digits: nn.Module, noise: Any, gain_set: Any) -> None:
    stimuli = noise(16)
    target = np.arange(16) % 2 == 0
    gain = np.tile([-1.0, 0.0], 16)
    plain = responses(digits, stimuli, "relu2")
    with with_gains(digits, gain_set({"relu2": gain})):
        gained = responses(digits, stimuli, "relu2")
    live = status_codes(plain, target) == "ok"
    negated, silenced = live & (gain < 0), gain == 0
    assert negated.sum() > 5
    np.testing.assert_allclose(dprime(gained, target)[negated], -dprime(plain, target)[negated], atol=1e-6)
    np.testing.assert_allclose(roc_area(gained, target)[negated], 1 - roc_area(plain, target)[negated], atol=1e-6)
    assert (gained[silenced] == 0).all()
    assert np.isnan(dprime(gained, target)[silenced]).all()
    assert set(status_codes(gained, target)[silenced]) <= {"constant", "dead"}


def test_nothing_upstream_changes_and_something_downstream_does(digits: nn.Module, noise: Any, gain_set: Any) -> None:
    stimuli = noise(5)
    layers = ["conv1", "relu1", "pool1", "conv2", "relu2", "conv3", "relu3", "head"]
    plain = record_activations(digits, stimuli, layers)
    with with_gains(digits, gain_set({"relu2": np.linspace(0.2, 3, 32)})):
        gained = record_activations(digits, stimuli, layers)
    for layer in layers:
        same = np.array_equal(*(d["response"].values[:, d["layer"].values == layer] for d in (plain, gained)))
        assert same == (layer in ("conv1", "relu1", "pool1", "conv2")), layer


def test_gains_upstream_do_change_discriminability(digits: nn.Module, noise: Any, gain_set: Any) -> None:
    stimuli, target = noise(16), np.arange(16) % 2 == 0
    plain = dprime(responses(digits, stimuli, "relu2"), target)
    with with_gains(digits, gain_set({"relu1": np.linspace(0.1, 3, 16), "relu2": np.ones(32)})):
        gained = dprime(responses(digits, stimuli, "relu2"), target)
    assert np.nanmax(np.abs(gained - plain)) > 0.01


def test_the_order_of_units_does_not_matter(digits: nn.Module, noise: Any, gain_set: Any) -> None:
    gains = gain_set({"relu1": np.linspace(0.1, 3, 16), "relu3": np.linspace(2, 0.5, 64)})
    shuffled = gains.isel(unit=np.random.default_rng(0).permutation(80))
    images = as_tensor(noise(2), None)
    with torch.no_grad():
        with with_gains(digits, gains):
            wanted = digits(images)
        with with_gains(digits, shuffled):
            assert torch.equal(digits(images), wanted)


def test_vectors_can_be_gained(digits: nn.Module, noise: Any, gain_set: Any) -> None:
    images, gain = as_tensor(noise(2), None), np.linspace(-1, 2, 64)
    with torch.no_grad():
        with with_gains(digits, gain_set({"mean": gain})):
            found = digits(images)
        with with_gains(digits, gain_set({"relu3": gain})):
            np.testing.assert_allclose(found, digits(images), atol=1e-6)


def test_one_task_of_several_is_named(gain_set: Any) -> None:
    gains = gain_set({"0": [[2.0, 2.0], [3.0, 3.0]]}, tasks=["cat", "dog"])
    net = nn.Sequential(nn.Identity())
    with with_gains(net, gains, task="dog"):
        assert net(torch.ones(1, 2, 1, 1)).flatten().tolist() == [3, 3]
    with pytest.raises(DataError, match=r"2 tasks \(cat, dog\); say which"):
        gains_by_layer(gains)
    with pytest.raises(ConfigError, match=r"unknown task 'dgo'.*'dog'"):
        gains_by_layer(gains, "dgo")
    assert gains_by_layer(gains.isel(task=[0]))["0"].tolist() == [2, 2]
    assert gains_by_layer(gains.isel(task=0), "cat")["0"].tolist() == [2, 2]
    with pytest.raises(DataError, match="wanted gains of task 'dog'; came gains of 'cat'"):
        gains_by_layer(gains.isel(task=0), "dog")
    with pytest.raises(DataError, match="one task without a name"):
        gains_by_layer(gains.isel(task=0, drop=True), "dog")


def broken(gains: xr.Dataset, how: str) -> xr.Dataset:
    if how == "gap":
        return gains.isel(unit=[0, 2])
    if how == "nan":
        return gains.assign(gain=gains["gain"].where(gains["channel"] != 1))
    return gains.assign(gain=gains["gain"].expand_dims(gain_set=2))


@pytest.mark.parametrize(
    ("how", "message"),
    [("gap", "each channel once"), ("nan", "must be finite; channel 1"), ("many sets", "one gain per unit")],
)
def test_gains_that_cannot_be_placed(how: str, message: str, gain_set: Any) -> None:
    with pytest.raises(DataError, match=message):
        gains_by_layer(broken(gain_set({"0": [1.0, 2.0, 3.0]}), how))


def test_gains_of_another_network(gain_set: Any) -> None:
    net = nn.Sequential(nn.Identity())
    with pytest.raises(DataError, match="has 2 filters; came 3 gains"), with_gains(net, gain_set({"0": np.ones(3)})):
        net(torch.ones(1, 2, 1, 1))
    assert not net[0]._forward_hooks
    with pytest.raises(ConfigError, match="unknown layer 'relu7'"), with_gains(net, gain_set({"relu7": np.ones(3)})):
        pass
