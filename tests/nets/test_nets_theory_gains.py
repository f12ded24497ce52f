"""Gains from theory: the exact statements of Lindsay & Miller 2018, and those of Luo, Roads & Love 2021."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.arms import arm_network
from featattn_neuro.nets.batches import as_tensor
from featattn_neuro.nets.detectors import Detector
from featattn_neuro.nets.gains import with_gains
from featattn_neuro.nets.learning import Schedule
from featattn_neuro.nets.recording import record_activations
from featattn_neuro.nets.target_importance import LUO_RATE, learn_target_importance
from featattn_neuro.nets.theory_gains import (
    additive_gains,
    gradient_values,
    quadrant_factor,
    theory_factors,
    theory_gains,
    tuning_quality,
    tuning_values,
    tuning_values_of,
    with_spatial,
)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 6), each=st.integers(2, 8))
def test_balanced_categories_have_mean_tuning_zero(seed: int, classes: int, each: int) -> None:
    responses = np.random.default_rng(seed).gamma(0.3, size=(classes * each, 5)) + 1e-3
    members = np.arange(classes * each) % classes == np.arange(classes)[:, None]
    values = tuning_values_of(responses, members)
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-6)
    # no unit of the response, and the SD is that of all images (1/N)
    np.testing.assert_allclose(tuning_values_of(3 * responses + 2, members), values, atol=1e-6)
    z = (responses - responses.mean(axis=0)) / responses.std(axis=0, ddof=0)
    np.testing.assert_allclose(values[0], z[members[0]].mean(axis=0), atol=1e-9)


def test_noise_control_has_the_published_quality() -> None:
    rng = np.random.default_rng(0)
    responses = rng.gamma(0.3, size=(20 * 35, 4000))
    members = np.arange(700) % 20 == np.arange(20)[:, None]
    quality = tuning_quality(tuning_values_of(responses, members))
    assert quality.mean() == pytest.approx(0.371, abs=0.005)  # the paper's shuffled control: .372
    assert quality.std() == pytest.approx(0.100, abs=0.006)


@pytest.fixture(scope="module")
def digits() -> nn.Module:
    return build_network("digits_cnn", seed=3).module


def labelled(noise: Any, n: int = 24) -> tuple[Any, xr.DataArray]:
    stimuli = noise(n)
    members = np.arange(n) % 3 == np.arange(3)[:, None]
    return stimuli, xr.DataArray(members, {"task": list("abc"), "stimulus": stimuli.id}, ("task", "stimulus"))


def test_ratio_of_attended_to_unattended_is_one_plus_beta_f(digits: nn.Module, noise: Any) -> None:
    stimuli, target = labelled(noise)
    plain = record_activations(digits, stimuli, "relu2")
    values = tuning_values(plain, target)
    for beta in (0.1, 0.4):
        gains = theory_gains(values, beta)
        with with_gains(digits, gains, task="b"):
            attended = record_activations(digits, stimuli, "relu2")
        live = (plain["response"].values > 1e-6).all(axis=0) & np.isfinite(values.sel(task="b").values)
        assert live.sum() > 5
        f = values.sel(task="b").values[live]
        assert (1 + beta * f >= 0).all()
        ratio = attended["response"].values[:, live] / plain["response"].values[:, live]
        np.testing.assert_allclose(ratio, np.broadcast_to(1 + beta * f, ratio.shape), rtol=1e-5)
        slope = np.polyfit(f, ratio.mean(axis=0), 1)[0]
        assert slope == pytest.approx(beta, abs=1e-5)


def test_a_clipped_factor_breaks_the_slope() -> None:
    f = np.linspace(-2, 2, 41)
    assert np.polyfit(f, theory_factors(f, 1.0), 1)[0] == pytest.approx(1)
    assert np.polyfit(f, theory_factors(f, 1.0, clip=True), 1)[0] < 0.9  # where 1 + beta f < 0 the identity fails
    assert theory_factors(f, 1.0).min() < 0 == theory_factors(f, 1.0, clip=True).min()
    assert theory_factors(f, 0.4, mode="positive").min() == 1
    with pytest.raises(ConfigError, match="unknown mode 'up'"):
        theory_factors(f, 1.0, mode="up")
    with pytest.raises(ConfigError, match="0 or more; came -1"):
        theory_factors(f, -1.0)


def test_tuning_joins_by_stimulus_and_refuses_other_reductions(digits: nn.Module, noise: Any) -> None:
    stimuli, target = labelled(noise)
    plain = record_activations(digits, stimuli, "relu3")
    wanted = tuning_values(plain, target)
    shuffled = target.isel(stimulus=np.random.default_rng(0).permutation(24))
    xr.testing.assert_allclose(tuning_values(plain, shuffled), wanted)
    with pytest.raises(DataError, match="differ in 4 stimuli"):
        tuning_values(plain, target.isel(stimulus=slice(4, None)))
    with pytest.raises(DataError, match="spatial means"):
        tuning_values(record_activations(digits, stimuli, "relu3", reduce="max"), target)
    with pytest.raises(DataError, match="category 1 has no image"):
        tuning_values(plain, target.where(target["task"] != "b", False).astype(bool))


def test_gradient_values_are_the_slopes_of_the_error(digits: nn.Module, noise: Any) -> None:
    stimuli, target = labelled(noise, 12)
    images = as_tensor(stimuli, None)
    rng = np.random.default_rng(0)
    detector = Detector(rng.normal(0, 1, (3, 64)), np.zeros(3), np.full(64, 0.05))
    cut = arm_network(digits, ["relu2", "relu3"], "head", "any")
    assert cut is not None
    values = gradient_values(cut, images, target.values, detector, chunk=5)
    assert values.shape == (3, 96)
    for layer in (slice(0, 32), slice(32, 96)):
        np.testing.assert_allclose(np.abs(values[:, layer]).max(axis=1), 1)

    def error(layer: str, channel: int, by: float, task: int) -> float:
        """Mean error over the category's images with `by` added everywhere on one map, by hooks and numpy alone."""

        def add(part: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            changed = output.clone()
            changed[:, channel] += by
            return changed

        seen: list[np.ndarray] = []
        handles = [
            digits.get_submodule(layer).register_forward_hook(add),
            digits.head.register_forward_pre_hook(lambda part, inputs: seen.append(inputs[0].double().numpy())),
        ]
        with torch.no_grad():
            digits(images)
        for handle in handles:
            handle.remove()
        z = detector.logits(seen[0])[task][target.values[task]]
        return float(np.log1p(np.exp(-z)).mean())

    for layer, first, count in (("relu2", 0, 32), ("relu3", 32, 64)):
        channels = np.argsort(-np.abs(values[1, first : first + count]))[:3]
        slopes = np.array([-(error(layer, k, 1e-2, 1) - error(layer, k, -1e-2, 1)) for k in channels])
        np.testing.assert_allclose(
            slopes / slopes[0], values[1, first + channels] / values[1, first + channels[0]], rtol=0.05, atol=0.02
        )
        assert np.sign(slopes[0]) == np.sign(values[1, first + channels[0]])
    by_script = gradient_values(cut, images, target.values, detector, normalise="filter", sign=1)
    ratio = by_script / -values
    live = np.isfinite(by_script).all(axis=0) & (np.abs(values) > 1e-9).all(axis=0)
    np.testing.assert_allclose(np.abs(by_script[:, live]).max(axis=0), 1)
    assert (ratio[:, live] > 0).all()
    passing = arm_network(digits, ["relu2"], "head", "positive")
    with pytest.raises(ConfigError, match="do not commute with pooling"):
        gradient_values(passing, images, target.values, detector)
    with pytest.raises(ConfigError, match="sign must be"):
        gradient_values(cut, images, target.values, detector, sign=2)


def test_gains_along_the_gradient_lower_the_error(digits: nn.Module, noise: Any) -> None:
    stimuli, target = labelled(noise, 12)
    images = as_tensor(stimuli, None)
    detector = Detector(np.random.default_rng(1).normal(0, 1, (3, 64)), np.zeros(3), np.full(64, 0.05))
    cut = arm_network(digits, ["relu3"], "head", "any")
    assert cut is not None
    values = gradient_values(cut, images, target.values, detector)
    coords = {
        "task": list("abc"),
        "unit": [f"relu3/{k:03d}" for k in range(64)],
        "layer": ("unit", ["relu3"] * 64),
        "channel": ("unit", np.arange(64)),
    }
    table = xr.DataArray(values, coords, ("task", "unit"))
    from featattn_neuro.nets.training import head_inputs

    def error(strength: float) -> float:
        with with_gains(digits, theory_gains(table, strength), task="c"):
            z = detector.logits(head_inputs(digits, "head", images))[2][target.values[2]]
        return float(np.log1p(np.exp(-z)).mean())

    assert error(0.05) < error(0.0)


def test_additive_attention_is_relu_of_a_shift(digits: nn.Module, noise: Any) -> None:
    stimuli, target = labelled(noise, 9)
    values = tuning_values(record_activations(digits, stimuli, "relu1"), target)
    mu = xr.DataArray([0.2], {"layer": ["relu1"]}, ("layer",))
    gains = additive_gains(values, mu, 0.5)
    before = record_activations(digits, stimuli, "conv1", reduce="none")["response"].values.reshape(9, 16, 28, 28)
    with with_gains(digits, gains, task="a"):
        after = record_activations(digits, stimuli, "relu1", reduce="none")["response"].values.reshape(9, 16, 28, 28)
    f = np.nan_to_num(values.sel(task="a").values)
    np.testing.assert_allclose(after, np.maximum(before + 0.2 * 0.5 * f[:, None, None], 0), atol=1e-5)
    with pytest.raises(DataError, match="names no layer 'relu1'"):
        additive_gains(values, mu.assign_coords(layer=["relu9"]), 0.5)


def test_feature_and_spatial_attention_add(digits: nn.Module, noise: Any) -> None:
    stimuli, target = labelled(noise, 9)
    values = tuning_values(record_activations(digits, stimuli, "relu2"), target)
    beta, beta_s = 0.3, 0.4
    factor = quadrant_factor((14, 14), "lower right", beta_s)
    assert sorted(set(factor.ravel().tolist())) == [1 - beta_s, 1 + beta_s]
    assert (factor == 1 + beta_s).mean() == 0.25
    gains = with_spatial(theory_gains(values, beta), {"relu2": factor})
    plain = record_activations(digits, stimuli, "relu2", reduce="none")["response"].values.reshape(9, 32, 14, 14)
    with with_gains(digits, gains, task="c"):
        found = record_activations(digits, stimuli, "relu2", reduce="none")["response"].values.reshape(9, 32, 14, 14)
    f = np.nan_to_num(values.sel(task="c").values)
    f_s = np.where(factor > 1, 1.0, -1.0)
    np.testing.assert_allclose(found, plain * (1 + beta * f[:, None, None] + beta_s * f_s), rtol=1e-4, atol=1e-6)
    with pytest.raises(ConfigError, match="unknown quadrant"):
        quadrant_factor((2, 2), "middle", 1.0)
    with pytest.raises(ConfigError, match="unknown gained layer 'relu1'"):
        with_spatial(gains, {"relu1": factor})
    with pytest.raises(DataError, match="have gains per position already"):
        with_spatial(gains, {"relu2": factor})


class Passing(nn.Module):
    """Filters that pass the image's channels on to a softmax over as many classes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.relu, self.mean = nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        self.flat, self.head = nn.Flatten(), nn.Linear(channels, channels)
        self.head.weight.data = 4 * torch.eye(channels)
        self.head.bias.data.zero_()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.flat(self.mean(self.relu(images))))


def test_hits_and_false_alarms_rise_as_importance_of_the_others_falls() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 4
    images = rng.random((160, 4, 2, 2), dtype=np.float32)
    images[np.arange(160), labels] += 0.12
    net = Passing(4).eval()
    cut = arm_network(net, ["relu"], "head", "positive")
    assert cut is not None
    rows = cut.prefix(torch.as_tensor(images))
    schedule = Schedule(rate=0.03, batch_size=40, epochs=20)
    importance = [1.0, 0.3, 0.03]
    state = learn_target_importance(cut, rows, labels, net.head, [2, 2, 2], importance, schedule)
    gains = state.gains()["relu"]
    assert (gains >= 0).all()
    rates = []
    for gain in gains:
        with torch.no_grad():
            answers = net(torch.as_tensor(images) * gain[None, :, None, None]).argmax(1).numpy()
        rates.append(((answers[labels == 2] == 2).mean(), (answers[labels != 2] == 2).mean()))
    hits, false_alarms = np.array(rates).T
    assert hits[0] < hits[1] <= hits[2]
    assert false_alarms[0] < false_alarms[1] < false_alarms[2]
    alone = learn_target_importance(cut, rows, labels, net.head, [2], 0.3, schedule)
    torch.testing.assert_close(alone.theta["relu"][0], state.theta["relu"][1], rtol=1e-3, atol=1e-4)
    assert LUO_RATE == 3e-4
    with pytest.raises(ConfigError, match=r"in \(0, 1\]"):
        learn_target_importance(cut, rows, labels, net.head, [2], 0.0, schedule)
    with pytest.raises(DataError, match="no image of target class 7"):
        learn_target_importance(cut, rows, labels, net.head, [7], 1.0, schedule)
