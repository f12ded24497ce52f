"""Terms of the first convolution, summed with gains, are the convolution of the gained map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from timm.layers.pool2d_same import AvgPool2dSame
from torch import Tensor, nn

from featattn_neuro.errors import ConfigError
from featattn_neuro.nets import expansion, learning
from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.detectors import Detector
from featattn_neuro.nets.learning import Schedule, fit_tasks, start
from featattn_neuro.nets.modulation import Modulation

TASKS = 10


def small(**convolution: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, **convolution), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


class _Drawn:
    """Rows of images that are augmented anew whenever they are asked for."""

    def __init__(self, row: Tensor) -> None:
        self.row, self.shape = row, row.shape

    def __getitem__(self, index: Any) -> Tensor:
        return self.row[index] + torch.rand(1)


def cut_and_rows(module: nn.Module, layers: list[str], head: str, images: Tensor) -> tuple[CutNetwork, Any]:
    cut = CutNetwork(module, layers, head)
    return cut, cut.prefix(images)


@pytest.mark.parametrize(
    "convolution",
    [
        {},
        {"bias": False},
        {"padding": 1},
        {"padding": "same"},
        {"stride": 2},
        {"dilation": 2},
        {"padding": (1, 2), "stride": (2, 1)},
    ],
)
@pytest.mark.parametrize("groups", [4, 1])
def test_terms_give_the_features_and_the_gradients_of_the_convolution(convolution: Any, groups: int) -> None:
    images = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    cut, rows = cut_and_rows(small(**convolution), ["1", "4"], "7", images)
    assert cut.first is not None
    assert cut.first.layer == "1"
    expanded = cut.first.expand(rows, cut.layers, 20, groups)
    assert expanded is not None
    generator = torch.Generator().manual_seed(2)
    gains = {
        "1": torch.rand(20, groups, generator=generator).add(0.5).requires_grad_(),
        "4": torch.rand(20, 6, generator=generator).add(0.5).requires_grad_(),
    }
    full = {"1": gains["1"].expand(20, 4), "4": gains["4"]}
    picked = torch.tensor([3, 0, 4])
    found = expanded.features(picked, full)
    wanted = cut.features([row[picked.expand(20, -1).flatten()] for row in rows], full)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    weights = torch.rand(found.shape, generator=generator)
    ours = torch.autograd.grad((found * weights).sum(), list(gains.values()))
    theirs = torch.autograd.grad((wanted * weights).sum(), list(gains.values()))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "layers"), [("digits_cnn", ["relu1", "relu2", "relu3"]), ("digits_cnn", ["relu2"])])
@pytest.mark.parametrize(("per_filter", "head"), [(True, False), (True, True), (False, False)])
def test_learning_is_the_same_with_and_without_terms(
    monkeypatch: pytest.MonkeyPatch, name: str, layers: list[str], per_filter: bool, head: bool
) -> None:
    rng = np.random.default_rng(0)
    images = torch.as_tensor(rng.random((26, 1, 12, 12), dtype=np.float32))
    cut, rows = cut_and_rows(build_network(name, seed=1).module, layers, "head", images)
    target = np.stack([rng.permutation(26) < 8 + task for task in range(TASKS)])
    detector = Detector(0.3 * rng.standard_normal((TASKS, 64)), np.zeros(TASKS), np.ones(64))
    schedule = Schedule(rate=0.03, penalty=0.01, batch_size=10, epochs=4, seed=2)
    asked: list[bool] = []
    real = learning._expanded

    def noted(*arguments: Any) -> Any:
        asked.append(real(*arguments) is not None)
        return real(*arguments)

    def fit() -> Any:
        initial = start(cut, detector, per_filter=per_filter)
        return fit_tasks(cut, rows, target, initial, schedule, train_gains=True, train_head=head, evaluate=rows)

    monkeypatch.setattr(learning, "_expanded", noted)
    found = fit()
    monkeypatch.setattr(learning, "_expanded", lambda *arguments: None)
    wanted = fit()
    assert asked == [True]
    for layer in layers:
        assert found.state.theta[layer].abs().max() > 0.05
        torch.testing.assert_close(found.state.theta[layer], wanted.state.theta[layer], rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(found.logits, wanted.logits, atol=1e-3)


def test_maps_that_more_than_one_convolution_takes_are_not_expanded() -> None:
    net = build_network("cifar_resnet20", weights="random").module
    assert CutNetwork(net, ["layer3.0.relu2", "layer3.2.relu2"], "linear").first is None  # the skip takes it too
    inside = CutNetwork(net, ["layer3.1.relu1", "layer3.2.relu2"], "linear")
    assert inside.first is not None
    assert inside.first.layer == "layer3.1.relu1"
    rows = inside.prefix(torch.rand(4, 3, 16, 16))
    gains = {layer: torch.rand(6, n) + 0.5 for layer, n in inside.n_filters.items()}
    expanded = inside.first.expand(rows, inside.layers, 6, 64)
    assert expanded is not None
    assert len(expanded.others) == 1  # the skip beside the convolution
    picked = torch.tensor([2, 0])
    wanted = inside.features([row[picked.expand(6, -1).flatten()] for row in rows], gains)
    torch.testing.assert_close(expanded.features(picked, gains), wanted, rtol=1e-5, atol=1e-5)


def test_grouped_convolutions_and_pooled_sites_are_not_expanded() -> None:
    assert CutNetwork(small(groups=2), ["1", "4"], "7").first is None
    assert CutNetwork(small(padding=1, padding_mode="reflect"), ["1", "4"], "7").first is None
    assert CutNetwork(small(), ["4"], "7").first is None  # behind it only pooling and the head


def test_expansion_is_declined_where_it_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    cut, rows = cut_and_rows(small(), ["1", "4"], "7", torch.rand(5, 1, 16, 16))
    assert cut.first is not None
    assert cut.first.expand(rows, cut.layers, 3, 4) is None  # 3 tasks save 27 multiplications a number
    assert cut.first.expand(rows, cut.layers, 4, 4) is not None
    drawn = tuple(_Drawn(row) for row in rows)
    assert cut.first.expand(drawn, cut.layers, 4, 4) is None  # type: ignore[arg-type]  # other maps in every update
    monkeypatch.setattr(expansion, "MOST_BYTES", 1000)
    assert cut.first.expand(rows, cut.layers, 4, 4) is None


@pytest.mark.parametrize("gain", [True, False])
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)])
def test_shifts_behind_pooling_and_in_terms_are_shifts_at_the_site(gain: bool, pool: nn.Module) -> None:
    net = small(padding=1)
    net[2] = pool
    rng = np.random.default_rng(1)
    images = torch.as_tensor(rng.random((24, 1, 12, 12), dtype=np.float32))
    target = np.stack([rng.permutation(24) < 9 + task for task in range(TASKS)])
    detector = Detector(0.5 * rng.standard_normal((TASKS, 6)), np.zeros(TASKS), np.ones(6))
    found = []
    for shifts in (True, False):
        cut = CutNetwork(net, ["1", "4"], "7", past_pools=shifts, shifts=shifts)
        rows = cut.prefix(images)
        assert (cut.first is not None) == shifts  # at the very site pooling lies before the convolution
        initial = start(cut, detector, gain=gain, shift=True)
        schedule = Schedule(rate=0.05, penalty=0.01, batch_size=10, epochs=4, seed=2)
        found.append(fit_tasks(cut, rows, target, initial, schedule, train_gains=True, train_head=True, evaluate=rows))
    here, there = found
    for layer in ("1", "4"):
        assert there.state.shift[layer].abs().max() > 0.05
        torch.testing.assert_close(here.state.shift[layer], there.state.shift[layer], rtol=2e-3, atol=2e-4)
        if gain:
            torch.testing.assert_close(here.state.theta[layer], there.state.theta[layer], rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(here.logits, there.logits, atol=1e-3)


def test_shifts_stay_before_pooling_that_counts_padding() -> None:
    net = small(padding=1)
    net[2] = nn.AvgPool2d(3, 2, padding=1)
    assert CutNetwork(net, ["1"], "7", past_pools=True).first is not None
    behind = CutNetwork(net, ["1"], "7", past_pools=True, shifts=True)
    assert behind.first is None
    images = torch.rand(3, 1, 12, 12)
    rows = behind.prefix(images)
    at = CutNetwork(net, ["1"], "7", past_pools=False)
    at.prefix(images)
    shift = {"1": Modulation(shift=torch.tensor([[1.0, -2.0, 0.0, 3.0]]))}
    torch.testing.assert_close(behind.features(rows, shift), at.features(at.prefix(images), shift))
    plain = CutNetwork(net, ["1"], "7")
    plain.prefix(images)
    with pytest.raises(ConfigError, match="nor do shifts with all"):
        start(plain, Detector(np.ones((1, 6)), np.zeros(1), np.ones(6)), shift=True)


def test_shifts_stay_before_pooling_of_other_classes() -> None:
    """timm's pads inside its forward: at the border its means are not those of the map alone."""
    net = small(padding=1)
    net[2] = AvgPool2dSame(3, 2)
    images = torch.rand(3, 1, 7, 7)
    shift = {"1": Modulation(shift=torch.tensor([[1.0, -2.0, 0.0, 3.0]]))}
    behind, at = (CutNetwork(net, ["1"], "7", past_pools=past, shifts=past) for past in (True, False))
    torch.testing.assert_close(behind.features(behind.prefix(images), shift), at.features(at.prefix(images), shift))
    assert CutNetwork(net, ["1"], "7").first is not None  # gains alone go on
