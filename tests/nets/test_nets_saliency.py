"""Saliency of gains against closed forms: sums by hand, changes of the logit, finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from featattn_neuro.arrays.agreement import exclusive_masks
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.io.stimuli import load_stimuli
from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.batches import as_tensor
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.detectors import Detector
from featattn_neuro.nets.gains import with_gains
from featattn_neuro.nets.masked_maps import leverage, masked_maps
from featattn_neuro.nets.saliency import gain_saliency

WIDTHS = {"relu1": 16, "relu2": 32, "relu3": 64}


@pytest.fixture(scope="module")
def digits() -> nn.Module:
    return build_network("digits_cnn", seed=2).module


def random_gains(seed: int = 0, *, tasks: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: np.exp(0.5 * rng.standard_normal((tasks, n) if tasks else n)) for name, n in WIDTHS.items()}


def maps_of(net: nn.Module, stimuli: Any, layer: str) -> np.ndarray:
    maps: list[torch.Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda m, i, output: maps.append(output.clone()))
    with torch.no_grad():
        net(as_tensor(stimuli, None))
    handle.remove()
    return maps[0].double().numpy()


@pytest.mark.parametrize("layer", ["relu1", "relu3", "conv2"])
@pytest.mark.parametrize("upstream", [False, True])
def test_gains_of_one_are_exactly_zero(
    digits: nn.Module, noise: Any, gain_set: Any, layer: str, upstream: bool
) -> None:
    n = WIDTHS.get(layer, 32)
    found = gain_saliency(digits, gain_set({layer: np.ones(n)}), noise(3), layer=layer, upstream=upstream)
    assert (found["excess"].values == 0).all()
    assert ("relative" in found) == (found.attrs["signed_maps"] == "no") == (layer != "conv2")


def test_the_excess_map_is_the_sum_and_linear_in_the_gains(digits: nn.Module, noise: Any, gain_set: Any) -> None:
    stimuli, gain = noise(3), random_gains()["relu2"]
    maps = maps_of(digits, stimuli, "relu2")
    found = gain_saliency(digits, gain_set({"relu2": gain}), stimuli, layer="relu2")
    np.testing.assert_allclose(found["excess"], np.einsum("nkyx,k->nyx", maps, gain - 1), atol=1e-5)
    np.testing.assert_allclose(found["activation"], maps.sum(1), rtol=1e-5)
    with np.errstate(invalid="ignore"):
        wanted = np.einsum("nkyx,k->nyx", maps, gain) / maps.sum(1) - 1
    np.testing.assert_allclose(found["relative"], wanted, atol=1e-5)

    def excess(g: np.ndarray) -> np.ndarray:
        return gain_saliency(digits, gain_set({"relu2": g}), stimuli, layer="relu2")["excess"].values

    other = random_gains(1)["relu2"]
    both = 1 + 3 * (gain - 1) - 0.5 * (other - 1)
    np.testing.assert_allclose(excess(both), 3 * excess(gain) - 0.5 * excess(other), atol=1e-9)


@pytest.mark.parametrize("output", [0, 7])
def test_the_class_weighted_map_is_the_change_of_the_logit(
    digits: nn.Module, noise: Any, gain_set: Any, output: int
) -> None:
    """Gains at the last ReLU before global mean and linear, maps taken with the upstream gains on."""
    stimuli, gains = noise(3), random_gains()
    upstream = {name: gains[name] for name in ("relu1", "relu2")}
    weighted = 1 + digits.head.weight[output].detach().numpy() * (gains["relu3"] - 1)
    found = gain_saliency(digits, gain_set({**upstream, "relu3": weighted}), stimuli, layer="relu3", upstream=True)
    images = as_tensor(stimuli, None)
    logits = []
    for placed in (gains, upstream):
        with torch.no_grad(), with_gains(digits, gain_set(placed)):
            logits.append(digits(images)[:, output].double().numpy())
    change = logits[0] - logits[1]
    assert np.abs(change).min() > 1e-4
    np.testing.assert_allclose(found["excess"].mean(("y", "x")), change, atol=1e-5)
    off = gain_saliency(digits, gain_set({**upstream, "relu3": weighted}), stimuli, layer="relu3")
    assert np.abs(off["excess"].mean(("y", "x")) - change).max() > 1e-4  # the condition matters


def same(values: Any, wanted: Any) -> None:
    """Equal up to float64: how a matrix product adds up may depend on how many gain sets are its rows."""
    np.testing.assert_allclose(values, wanted, rtol=1e-12, atol=1e-12 * float(np.abs(wanted).max()))


def test_tasks_the_mean_gain_and_live_filters(digits: nn.Module, noise: Any, gain_set: Any) -> None:
    stimuli, values = noise(3), random_gains(tasks=3)
    gains = gain_set(values, tasks=["a", "b", "c"])
    for upstream in (False, True):
        options = {"layer": "relu2", "upstream": upstream}
        every = gain_saliency(digits, gains, stimuli, **options)
        assert every["excess"].dims == ("task", "stimulus", "y", "x")
        assert ("activation" in every) != upstream
        for task in "abc":
            one = gain_saliency(digits, gains, stimuli, task=task, **options)
            assert "task" not in one.dims
            same(one["excess"], every["excess"].sel(task=task))
        some = gain_saliency(digits, gains, stimuli, task=["c", "a"], **options)
        same(some["excess"], every["excess"].sel(task=["c", "a"]))
    maps, gain = maps_of(digits, stimuli, "relu2"), values["relu2"][1]
    keep = np.arange(32) % 3 != 0
    live = xr.DataArray(keep.astype(int), {"unit": [f"relu2/{k:03d}" for k in range(32)]}, "unit")
    found = gain_saliency(digits, gains, stimuli, layer="relu2", task="b", relative_to_mean=True, live=live[::-1])
    share = gain[keep] / gain[keep].mean()
    np.testing.assert_allclose(found["excess"], np.einsum("nkyx,k->nyx", maps[:, keep], share - 1), atol=1e-5)
    scaled = gain_set({"relu2": 5 * gain})
    again = gain_saliency(digits, scaled, stimuli, layer="relu2", relative_to_mean=True, live=live)
    np.testing.assert_allclose(again["excess"], found["excess"], atol=1e-9)
    with pytest.raises(DataError, match="'relu2/007' is missing"):
        gain_saliency(digits, gains, stimuli, layer="relu2", task="b", live=live.drop_sel(unit="relu2/007"))


def test_places_are_pixels_or_say_that_they_are_not(digits: nn.Module, noise: Any, gain_set: Any) -> None:
    found = gain_saliency(digits, gain_set({"relu3": np.ones(64)}), noise(1), layer="relu3")
    assert found.attrs["geometry"] == "pixels of the network's input"
    np.testing.assert_allclose(found["y"], 1.5 + 4 * np.arange(7))
    np.testing.assert_allclose(found["x"], found["y"])
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Upsample(scale_factor=2))
    found = gain_saliency(net, gain_set({"1": np.ones(2)}), noise(1, 1, 5), layer="1")
    assert (found.attrs["geometry"], found.attrs["receptive_field"]) == ("cell index", -1)
    assert found["x"].values.tolist() == [0, 1, 2, 3, 4, 5]


def test_maps_before_an_in_place_activation(noise: Any, gain_set: Any) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True))
    found = gain_saliency(net, gain_set({"0": [2.0, 1.0]}), noise(2), layer="0")
    with torch.no_grad():
        wanted = net[0](as_tensor(noise(2), None))[:, 0]
    assert wanted.min() < 0
    np.testing.assert_allclose(found["excess"], wanted, atol=1e-6)


def test_relative_amplification_is_undefined_where_nothing_is_active(noise: Any, gain_set: Any) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())
    nn.init.constant_(net[0].bias, -9.0)
    found = gain_saliency(net, gain_set({"1": [2.0, 3.0]}), noise(1), layer="1")
    assert np.isnan(found["relative"]).all()
    assert (found["excess"] == 0).all()


@pytest.mark.parametrize(
    ("layers", "options", "error", "message"),
    [
        ({"relu1": 16}, {"layer": "relu2"}, ConfigError, "unknown gained layer 'relu2'"),
        ({"relu1": 15}, {"layer": "relu1"}, DataError, "'relu1' has 16 filters; came 15 gains"),
        ({"mean": 64}, {"layer": "mean"}, DataError, r"needs maps \(N, C, H, W\) at layer 'mean'"),
        ({"relu1": 16}, {"layer": "relu1", "task": "a"}, DataError, "one task without a name"),
        ({"relu1": 16}, {"layer": "relu1", "task": []}, DataError, "one task or more"),
    ],
)
def test_what_cannot_be_mapped(
    digits: nn.Module, noise: Any, gain_set: Any, layers: dict[str, int], options: dict, error: type, message: str
) -> None:
    gains = gain_set({layer: np.ones(n) for layer, n in layers.items()})
    with pytest.raises(error, match=message):
        gain_saliency(digits, gains, noise(1), **options)
    assert not any(part._forward_hooks for part in digits.modules())


def test_activations_that_are_not_finite_and_layers_that_run_twice(noise: Any, gain_set: Any) -> None:
    relu = nn.ReLU()
    net = nn.Sequential(nn.Conv2d(1, 2, 1), relu, relu)
    with pytest.raises(DataError, match="'1' must run once per image; it ran 2 times"):
        gain_saliency(net, gain_set({"1": np.ones(2)}), noise(1), layer="1")
    nn.init.constant_(net[0].bias, float("nan"))
    with pytest.raises(DataError, match="not finite"):
        gain_saliency(net, gain_set({"0": np.ones(2)}), noise(1), layer="0")


# -- what the cue swap needs


@pytest.mark.parametrize("filters", [1, 3])
def test_masked_maps_by_hand(noise: Any, filters: int) -> None:
    stimuli, rng = noise(4, 1, 8), np.random.default_rng(0)
    net = nn.Sequential(nn.Conv2d(1, filters, 3, padding=1), nn.ReLU(), nn.Conv2d(filters, 2, 1))
    source_a, source_b = rng.random((2, 4, 8, 8)) > 0.6
    found = masked_maps(
        net, stimuli, ["1", "2"], source_a.astype(float), source_b.astype(float), batch_size=3
    )  # two batches
    assert found["unit"].values.tolist() == [*(f"1/00{k}" for k in range(filters)), "2/000", "2/001"]
    mask_a, mask_b = exclusive_masks(source_a.astype(float), source_b.astype(float), (8, 8))
    maps = maps_of(net, stimuli, "1")
    for n in range(4):
        for k in range(filters):
            mean_a = (maps[n, k] * mask_a[n]).sum() / mask_a[n].sum()
            mean_b = (maps[n, k] * mask_b[n]).sum() / mask_b[n].sum()
            assert float(found["contrast"][n, k]) == pytest.approx(mean_a - mean_b, abs=1e-6)
    gain = np.exp(rng.standard_normal(filters))
    score = np.einsum("nkyx,k->nyx", maps, gain)
    block = found["covariance"].values[:filters, :filters]
    assert gain @ block @ gain == pytest.approx(score.var(), rel=1e-6)
    assert (found["covariance"].values[:filters, filters:] == 0).all()
    swapped = masked_maps(net, stimuli, ["1", "2"], source_b.astype(float), source_a.astype(float), batch_size=3)
    np.testing.assert_allclose(swapped["contrast"], -found["contrast"])


# -- leverage


def read_out(seed: int = 0) -> Detector:
    rng = np.random.default_rng(seed)
    return Detector(rng.standard_normal((2, 64)), rng.standard_normal(2), rng.uniform(0.1, 1, 64))


def test_leverage_against_finite_differences(digits: nn.Module) -> None:
    """z is piecewise linear in one gain: the slope is compared where both sides agree, so no kink lies between."""
    cut, detector = CutNetwork(digits, list(WIDTHS), "head"), read_out()
    images = torch.rand(4, 1, 12, 12)
    found = leverage(cut, images, detector, chunk=3)
    rows = cut.prefix(images)

    def logit(layer: str, channel: int, value: float) -> np.ndarray:
        gains = {name: torch.ones(1, n) for name, n in WIDTHS.items()}
        gains[layer][0, channel] = value
        return detector.logits(cut.features(rows, gains).numpy())

    for layer, n in WIDTHS.items():
        assert found[layer].shape == (2, 4, n)
        compared = 0
        for channel in range(0, n, n // 8):
            low, middle, high = (logit(layer, channel, value) for value in (0.998, 1.0, 1.002))
            smooth = np.abs((high - middle) - (middle - low)) < 5e-6
            slope = (high - low) / 0.004
            np.testing.assert_allclose(found[layer][:, :, channel][smooth], slope[smooth], atol=5e-3)
            compared += int((smooth & (np.abs(slope) > 0.02)).sum())
        assert compared >= 8, layer


def test_leverages_of_a_layer_add_up_to_the_logit_without_biases() -> None:
    """Euler: a bias-free ReLU network is homogeneous of degree 1 in all gains of any one layer."""
    net = build_network("digits_cnn", seed=4).module
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    cut, detector = CutNetwork(net, list(WIDTHS), "head"), read_out(1)
    images = torch.rand(3, 1, 28, 28)
    features = cut.features(cut.prefix(images), {name: torch.ones(1, n) for name, n in WIDTHS.items()}).numpy()
    wanted = detector.logits(features) - detector.bias[:, None]
    for layer, found in leverage(cut, images, detector).items():
        np.testing.assert_allclose(found.sum(axis=2), wanted, rtol=1e-4, atol=1e-4, err_msg=layer)
    last = leverage(cut, images, detector)["relu3"]
    np.testing.assert_allclose(last, (detector.weight / detector.scale)[:, None] * features[None], rtol=1e-4, atol=1e-6)


def test_leverage_is_the_same_cut_or_not(digits: nn.Module) -> None:
    cut, uncut = CutNetwork(digits, ["relu2", "relu3"], "head"), CutNetwork(digits, ["relu2", "relu3"], "head")
    uncut.cached = False
    images = torch.rand(3, 1, 28, 28)
    a, b = leverage(cut, images, read_out()), leverage(uncut, images, read_out())
    for layer in a:
        np.testing.assert_allclose(a[layer], b[layer], atol=1e-4)


class Leaky(nn.ReLU):
    """Called a ReLU by its class, and negative."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return super().forward(values) - 0.5


@pytest.mark.parametrize(("activation", "signed"), [(nn.ReLU(), "no"), (Leaky(), "yes"), (nn.Tanh(), "yes")])
def test_maps_are_called_signed_by_what_a_module_gives(gain_set: Any, activation: nn.Module, signed: str) -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), activation, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    images = np.random.default_rng(0).standard_normal((4, 1, 6, 6)).astype(np.float32)
    found = gain_saliency(net, gain_set({"1": np.array([1.5, 0.5, 2.0])}), load_stimuli(images, label=None), layer="1")
    assert found.attrs["signed_maps"] == signed


@pytest.mark.parametrize(
    ("gain", "live", "message"),
    [
        ([0.0, 0.0, 0.0], [1, 1, 1], r"mean; that of layer '1' is 0; leave out relative_to_mean"),
        ([2.0, 0.0, 0.0], [0, 1, 1], r"mean; that of layer '1' is 0; leave out relative_to_mean"),
        ([2.0, 1.0, 0.5], [0, 0, 0], r"wanted a live filter at layer '1'; came none"),
    ],
)
def test_what_has_no_mean_gain_is_refused(
    noise: Any, gain_set: Any, gain: list[float], live: list[int], message: str
) -> None:
    net, gains = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU()), gain_set({"1": gain})
    alive = xr.DataArray(live, {"unit": gains["unit"].values}, "unit")
    with pytest.raises(DataError, match=message):
        gain_saliency(net, gains, noise(2, size=6), layer="1", live=alive, relative_to_mean=True)
    if not any(live):  # nor a map that is 0 all over
        with pytest.raises(DataError, match=message):
            gain_saliency(net, gains, noise(2, size=6), layer="1", live=alive)
