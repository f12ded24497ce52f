"""What holds exactly of gains, each with its condition, and an example in which the condition and the identity fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featattn_neuro.arrays.discrimination import dprime, roc_area
from featattn_neuro.arrays.discrimination import roc_area as area
from featattn_neuro.errors import ConfigError
from featattn_neuro.nets.architectures import GlobalMean
from featattn_neuro.nets.arms import arm_network, arm_rule, arm_start
from featattn_neuro.nets.detectors import Detector
from featattn_neuro.nets.folding import fold_gains
from featattn_neuro.nets.gains import with_gains
from featattn_neuro.nets.learning import Schedule, fit_tasks
from featattn_neuro.nets.recording import record_activations
from tests.nets.test_nets_placing import spatial_set

GAINS = np.array([0.5, 2.0, 1.0, 3.0])
SIGNED = np.array([-0.5, 2.0, -1.0, 3.0])


def pair(between: nn.Module | None, activation: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    parts = [nn.Conv2d(2, 4, 3), activation or nn.ReLU(), *([between] if between else []), nn.Conv2d(4, 3, 2)]
    return nn.Sequential(*parts).eval()


def gained(net: nn.Module, gains: Any, images: Tensor) -> Tensor:
    with torch.no_grad(), with_gains(net, gains):
        return net(images)


def close(a: Tensor, b: Tensor) -> bool:
    return bool(((a - b).abs().max() / b.abs().max()) < 1e-4)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(6, 2, 9, 9, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("between", "gain", "exact"),
    [
        (None, SIGNED, True),
        (nn.AvgPool2d(2), SIGNED, True),
        (nn.MaxPool2d(2), GAINS, True),
        (nn.MaxPool2d(2), SIGNED, False),  # max(-a) is not -max(a)
        (nn.Softmax(dim=1), GAINS, False),  # not linear
        (nn.ReLU6(), 10 * GAINS, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_folding_forward_into_the_next_weights(
    between: nn.Module | None, gain: np.ndarray, exact: bool, images: Tensor, gain_set: Callable[..., Any]
) -> None:
    net = pair(between)
    wanted = gained(net, gain_set({"1": gain}), images)
    with torch.no_grad():
        net[-1].weight.mul_(torch.as_tensor(gain, dtype=torch.float32).view(1, -1, 1, 1))
        assert close(net(images), wanted) == exact


@pytest.mark.parametrize(
    ("activation", "gain", "exact"),
    [
        (nn.ReLU(), GAINS, True),
        (nn.LeakyReLU(0.1), GAINS, True),
        (nn.ReLU(), SIGNED, False),
        (nn.ReLU6(), 3 * GAINS, False),
        (nn.SiLU(), GAINS, False),
        (nn.GELU(), GAINS, False),
    ],
    ids=str,
)
def test_folding_backward_into_the_layers_own_weights(
    activation: nn.Module, gain: np.ndarray, exact: bool, images: Tensor, gain_set: Callable[..., Any]
) -> None:
    net = pair(None, activation)
    with torch.no_grad():
        net[0].weight.mul_(2)  # responses beyond 6 occur
    gains = gain_set({"1": gain})
    wanted = gained(net, gains, images)
    if exact:
        with torch.no_grad():
            assert close(fold_gains(net, gains)(images), wanted)
    factor = torch.as_tensor(gain, dtype=torch.float32)
    with torch.no_grad():
        net[0].weight.mul_(factor.view(-1, 1, 1, 1))
        net[0].bias.mul_(factor)
        assert close(net(images), wanted) == exact


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.next = nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.conv(images))
        return self.next(maps) + maps


def test_an_identity_skip_cannot_be_folded_forward(images: Tensor, gain_set: Callable[..., Any]) -> None:
    torch.manual_seed(1)
    net = Skip().eval()
    wanted = gained(net, gain_set({"relu": GAINS[:2]}), images)
    with torch.no_grad():
        net.next.weight.mul_(torch.as_tensor(GAINS[:2], dtype=torch.float32).view(1, -1, 1, 1))
        assert not close(net(images), wanted)


def responses(net: nn.Module, images: Tensor, layer: str) -> np.ndarray:
    from featattn_neuro.io.stimuli import load_stimuli

    stimuli = load_stimuli(images.numpy(), label=[str(k % 2) for k in range(len(images))])
    return record_activations(net, stimuli, layer, batch_size=8)["response"].values.T.astype(np.float64)


@pytest.mark.parametrize(
    ("what", "same"),
    [("gained layer alone", True), ("upstream too", False), ("per position", False), ("shift", True), ("zero", None)],
)
def test_own_layer_discriminability_rises_only_through_something_else(
    what: str, same: bool | None, gain_set: Callable[..., Any]
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()).eval()
    images = torch.rand(30, 2, 9, 9)
    target = np.arange(30) % 3 == 0
    plain = responses(net, images, "3")
    gains = {
        "gained layer alone": gain_set({"3": GAINS}),
        "upstream too": gain_set({"1": GAINS, "3": np.ones(4)}),
        "per position": spatial_set(gain_set({"3": GAINS}), "3", np.linspace(0, 3, 25).reshape(5, 5)),
        "shift": gain_set({"3": GAINS}).assign(shift=("unit", np.arange(4.0))),
        "zero": gain_set({"3": np.zeros(4)}),
    }[what]
    with with_gains(net, gains):
        found = responses(net, images, "3")
    live = plain.std(axis=1) > 1e-3
    assert live.sum() >= 2
    if same is None:
        assert np.isnan(dprime(found, target)).all()
        return
    # float32 responses, seen against the spread that d' divides by
    slack = 1e-6 + 4e-7 * np.abs(found).max(axis=1)[live] / found.std(axis=1)[live]
    difference = np.abs(dprime(found, target) - dprime(plain, target))[live]
    assert bool((difference <= slack * 4).all()) == same
    if same:
        np.testing.assert_allclose(roc_area(found, target)[live], roc_area(plain, target)[live], atol=1e-6)


def test_layer_mean_is_a_gauge_only_without_biases(images: Tensor, gain_set: Callable[..., Any]) -> None:
    for bias, same in ((False, True), (True, False)):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(2, 4, 3, bias=bias), nn.ReLU(), nn.Conv2d(4, 4, 3, bias=bias), nn.ReLU(), GlobalMean()
        ).eval()
        there = gained(net, gain_set({"1": 2 * GAINS, "3": GAINS}), images)
        here = gained(net, gain_set({"1": GAINS, "3": 2 * GAINS}), images)
        assert close(there, here) == same


def test_gain_and_head_are_not_identified_apart(images: Tensor) -> None:
    """At the layer before pooling and a linear read-out only g w is: exchanging them changes no logit."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), GlobalMean(), nn.Linear(4, 2)).eval()
    weight = np.array([[0.3, -1.0, 2.0, 0.5]])
    cut = arm_network(net, ["1"], "3", "positive")
    assert cut is not None
    rows = cut.prefix(images)
    from featattn_neuro.nets.learning import logits

    ones = Detector(weight * GAINS, np.zeros(1), np.ones(4))
    plain = logits(cut, rows, arm_start(arm_rule("gain"), cut, ones, net, images))
    state = arm_start(arm_rule("gain"), cut, Detector(weight, np.zeros(1), np.ones(4)), net, images)
    state.theta["1"] += torch.as_tensor(np.log(GAINS), dtype=torch.float32)
    np.testing.assert_allclose(logits(cut, rows, state), plain, rtol=1e-5, atol=1e-6)


class Copies(nn.Module):
    """Filters that pass channels of the image on, some of which carry the class."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(channels, channels, 1, bias=False), nn.ReLU()
        self.mean, self.head = GlobalMean(), nn.Linear(channels, 2)
        self.conv.weight.data = torch.eye(channels)[..., None, None]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.mean(self.relu(self.conv(images))))


@pytest.mark.parametrize("arm", ["gain", "bounded", "gain_shift", "feature_spatial"])
def test_planted_informative_filters_get_the_gains(arm: str) -> None:
    """Positive control: eight of forty filters carry the class, in both directions; their gains are the larger ones."""
    rng = np.random.default_rng(4)
    target = np.arange(200) % 2 == 0
    images = rng.random((200, 40, 4, 4), dtype=np.float32)
    planted = rng.permutation(40)[:8]
    direction = np.where(np.arange(8) % 2 == 0, 1.0, -1.0)
    for k, sign in zip(planted, direction, strict=True):
        images[target, k] += np.float32(0.15 * sign)
    images = images.clip(0)
    # a read-out of the right sign for what is planted, and of any sign elsewhere, all of one size
    weight = rng.choice([-1.0, 1.0], 40)
    weight[planted] = direction
    scale = images.mean(axis=(2, 3)).std(axis=0)
    detector = Detector(weight[None], np.zeros(1), scale)
    shifted = Detector(weight[None], -detector.logits(images.mean(axis=(2, 3))).mean(axis=1), scale)
    rule = arm_rule(arm)
    net = Copies(40).eval()
    cut = arm_network(net, ["relu"], "head", rule.place)
    assert cut is not None
    rows = cut.prefix(torch.as_tensor(images))
    schedule = Schedule(rate=0.02, penalty=0.01, batch_size=50, epochs=10)
    initial = arm_start(rule, cut, shifted, net, torch.as_tensor(images))
    state = fit_tasks(cut, rows, target[None], initial, schedule, train_gains=True, train_head=False).state
    gains = state.gains()["relu"][0].double().numpy()
    informative = np.isin(np.arange(40), planted)
    assert area(gains, informative) >= 0.95
    assert area(np.random.default_rng(0).permutation(gains), informative) < 0.9  # the measure can fail
    with pytest.raises(ConfigError, match="unknown arm"):
        arm_rule("none")
