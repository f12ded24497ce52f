"""Arms: each starts as the un-gained network, learns what it says, and leaves the network as it was."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.adabn import adapt_batch_norm, has_batch_norm
from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.arms import ARM_RULES, arm_network, arm_rule, arm_start, map_shapes, norm_obstacle, norm_sites
from featattn_neuro.nets.detectors import Detector, feature_scale
from featattn_neuro.nets.fine_tuning import learn_full
from featattn_neuro.nets.learning import Schedule, features_of, fit_tasks, logits
from featattn_neuro.nets.training import head_inputs

SCHEDULE = Schedule(rate=0.05, penalty=0.001, batch_size=8, epochs=None, updates=6)


def moved_norms(net: nn.Module) -> nn.Module:
    """Batch norms as after training: statistics, weights and biases that are not those of the start."""
    generator = torch.Generator().manual_seed(3)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            for values, low, high in (
                (part.weight.data, 0.5, 1.5),
                (part.bias.data, -0.2, 0.2),
                (part.running_mean, -0.2, 0.2),
                (part.running_var, 0.5, 1.5),
            ):
                values.copy_(low + (high - low) * torch.rand(values.shape, generator=generator))
    return net.eval()


@pytest.fixture(scope="module")
def problem() -> Any:
    rng = np.random.default_rng(0)
    images = torch.as_tensor(rng.random((16, 3, 16, 16), dtype=np.float32))
    net = moved_norms(build_network("cifar_resnet20", weights="random").module)
    target = np.stack([rng.permutation(16) < 6 + task for task in range(2)])
    features = head_inputs(net, "linear", images)
    detector = Detector(0.3 * rng.standard_normal((2, 64)), np.zeros(2), feature_scale(features))
    return net, images, target, detector, detector.logits(features)


@pytest.mark.parametrize("arm", list(ARM_RULES))
def test_every_arm_starts_un_gained_and_learns_only_its_own(arm: str, problem: Any) -> None:
    net, images, target, detector, plain = problem
    before = copy.deepcopy(net.state_dict())
    rule = arm_rule(arm)
    cut = arm_network(net, ["layer3.1.relu1", "layer3.2.relu2"], "linear", rule.place)
    assert cut is not None
    rows = cut.prefix(images)
    inside = copy.deepcopy(cut.module.state_dict())
    initial = arm_start(rule, cut, detector, net, images)
    np.testing.assert_allclose(logits(cut, rows, initial), plain, rtol=2e-4, atol=2e-4)
    if not rule.norm:
        untouched = arm_start(arm_rule("probe"), cut, detector, net, images)
        np.testing.assert_array_equal(logits(cut, rows, initial), logits(cut, rows, untouched))
    assert rule.on_network == (arm != "probe")
    fit = fit_tasks(
        cut, rows, target, initial, SCHEDULE, train_gains=rule.on_network, train_head=rule.head, evaluate=rows
    )
    changed = {
        part
        for part in ("theta", "shift", "spatial")
        for layer, values in getattr(fit.state, part).items()
        if not torch.equal(values, getattr(initial, part)[layer])
    }
    wanted = {"theta"} if rule.gain or rule.norm else set()
    wanted |= {"shift"} if rule.shift or rule.norm else set()
    wanted |= {"spatial"} if rule.spatial else set()
    assert changed == wanted
    assert torch.equal(fit.state.weight, initial.weight) == (not rule.head)
    sizes = {"filter": 128, "layer": 2, None: 0}[rule.gain] + 128 * rule.shift + 2 * 16 * rule.spatial
    norms = 2 * sum(part.num_features for part in net.modules() if isinstance(part, nn.BatchNorm2d))
    assert fit.state.trained_numbers(head=rule.head) == (norms if rule.norm else sizes) + 65 * rule.head
    assert np.abs(fit.logits[-1] - plain).max() > 1e-3
    for module, kept in ((net, before), (cut.module, inside)):
        found = module.state_dict()
        assert all(torch.equal(found[key], kept[key]) for key in kept)
    # with gains off, nothing is lost, exactly
    np.testing.assert_array_equal(detector.logits(head_inputs(net, "linear", images)), plain)


def test_norm_affine_is_learning_the_weights_and_biases_of_the_norms(problem: Any) -> None:
    net, images, target, detector, _ = problem
    rule = arm_rule("norm_affine")
    cut = arm_network(net, [], "linear", rule.place)
    assert cut is not None
    rows = cut.prefix(images)
    schedule = Schedule(rate=0.01, penalty=0.0, batch_size=16, epochs=None, updates=3)
    state = fit_tasks(
        cut, rows, target, arm_start(rule, cut, detector, net, images), schedule, train_gains=True, train_head=False
    ).state
    # torch by itself: one task, its own copy of the network, Adam on the norms' parameters
    copied = copy.deepcopy(net)
    parameters = [p for part in copied.modules() if isinstance(part, nn.BatchNorm2d) for p in (part.weight, part.bias)]
    optimiser = torch.optim.Adam(parameters, lr=0.01)
    weight, bias, scale = (
        torch.as_tensor(v, dtype=torch.float32) for v in (detector.weight[1], detector.bias[1], detector.scale)
    )
    labels = torch.as_tensor(target[1])
    mass = torch.where(labels, 16 / (2.0 * labels.sum()), 16 / (2.0 * (~labels).sum()))
    head, copied.linear = copied.linear, nn.Identity()
    for order in schedule.batches(16):
        z = (copied(images[order]) / scale) @ weight + bias
        loss = nn.functional.binary_cross_entropy_with_logits(z, labels[order].float(), mass[order])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    del head
    for name in ("bn1", "layer2.1.bn2", "layer3.2.bn1"):
        part = copied.get_submodule(name)
        torch.testing.assert_close(state.theta[name][1], part.weight.detach(), rtol=0, atol=2e-3)
        torch.testing.assert_close(state.shift[name][1], part.bias.detach(), rtol=0, atol=2e-3)
        assert (part.weight.detach() - net.get_submodule(name).weight).abs().max() > 0.01


def test_penalties_of_norm_affine_pull_to_the_networks_own_weights(problem: Any) -> None:
    net, images, target, detector, _ = problem
    rule = arm_rule("norm_affine")
    cut = arm_network(net, [], "linear", rule.place)
    assert cut is not None
    rows = cut.prefix(images)
    initial = arm_start(rule, cut, detector, net, images)
    heavy = Schedule(rate=1e-3, penalty=1e6, batch_size=16, epochs=None, updates=5)
    state = fit_tasks(cut, rows, target, initial, heavy, train_gains=True, train_head=False).state
    light = Schedule(rate=1e-3, penalty=0.0, batch_size=16, epochs=None, updates=5)
    loose = fit_tasks(cut, rows, target, initial, light, train_gains=True, train_head=False).state
    distance = [sum((s.theta[k] - initial.theta[k]).abs().mean().item() for k in s.theta) for s in (state, loose)]
    assert distance[0] < 0.7 * distance[1]


def test_norms_are_found_and_absent() -> None:
    assert arm_network(build_network("digits_cnn").module, ["relu1"], "head", "norm") is None
    timm = build_network("efficientnet_lite0", weights="random").module
    sites = norm_sites(timm)
    assert sites["bn1"] == "bn1.drop"
    cut = arm_network(moved_norms(timm), [], "classifier", "norm")
    assert cut is not None
    images = torch.rand(2, 3, 32, 32)
    rows = cut.prefix(images)
    features = head_inputs(timm, "classifier", images)
    detector = Detector(np.ones((1, features.shape[1])), np.zeros(1), np.ones(features.shape[1]))
    state = arm_start(arm_rule("norm_affine"), cut, detector, timm, images)
    np.testing.assert_allclose(features_of(cut, rows, state)[0], features, rtol=1e-3, atol=1e-3)


def test_norms_of_other_kinds_are_learned_or_in_the_way() -> None:
    from torchvision.models.convnext import LayerNorm2d

    parts = [nn.Conv2d(1, 4, 3), LayerNorm2d(4), nn.ReLU(), nn.InstanceNorm2d(4, affine=True), nn.GroupNorm(2, 4)]
    net = nn.Sequential(*parts, nn.InstanceNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    generator = torch.Generator().manual_seed(0)
    for part in (net[1], net[3], net[4]):
        for values in (part.weight.data, part.bias.data):
            values.copy_(torch.rand(4, generator=generator) + 0.5)
    assert norm_sites(net) == {"1": "1", "3": "3", "4": "4"}
    images = torch.rand(3, 1, 8, 8)
    cut = arm_network(net, [], "8", "norm")
    assert cut is not None
    rows = cut.prefix(images)
    detector = Detector(np.ones((1, 4)), np.zeros(1), np.ones(4))
    state = arm_start(arm_rule("norm_affine"), cut, detector, net, images)
    np.testing.assert_allclose(features_of(cut, rows, state)[0], head_inputs(net, "8", images), rtol=1e-4, atol=1e-5)
    mixed = nn.Sequential(*net[:8], nn.LayerNorm(4), nn.Linear(4, 2))
    assert arm_network(mixed, [], "9", "norm") is None
    assert norm_obstacle(mixed) == "layer norm '8' has its weights along the last axis"
    assert norm_obstacle(nn.Sequential(nn.LayerNorm(4, elementwise_affine=False))) == ""


@pytest.mark.parametrize("shape", [(4, 8, 8), (8, 8)])
def test_a_norm_of_whole_maps_is_in_the_way(shape: tuple[int, ...]) -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.LayerNorm(shape), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 2),
    )  # fmt: skip
    assert norm_sites(net) == {"1": "1"}
    assert arm_network(net, [], "5", "norm") is None
    assert norm_obstacle(net) == f"layer norm '2' has a weight for every place of its maps {shape}, not one per filter"


def test_arms_by_name_and_setting() -> None:
    with pytest.raises(ConfigError, match=r"unknown arm 'gian'.*'gain'"):
        arm_rule("gian")
    assert arm_rule("gain", parameterisation="free").place == "any"
    assert arm_rule("feature_spatial", combination="additive").combination == "additive"
    assert {arm: rule.place for arm, rule in ARM_RULES.items() if rule.place != "any"} == {
        "probe": "positive", "gain": "positive", "gain_head": "positive", "uniform": "positive", "bounded": "positive",
        "norm_affine": "norm", "norm_affine_head": "norm",
        **dict.fromkeys(("shift", "shift_head", "gain_shift", "gain_shift_head"), "shifted"),
    }  # fmt: skip


def test_maps_have_sizes_and_vectors_do_not() -> None:
    net = build_network("digits_cnn").module
    cut = arm_network(net, ["relu1", "mean"], "head", "any")
    assert cut is not None
    with pytest.raises(DataError, match=r"layer 'mean' gives .*no positions"):
        map_shapes(cut, torch.zeros(1, 1, 12, 12))


def test_before_the_nonlinearity_can_be_learned_too() -> None:
    net = build_network("digits_cnn", seed=2).module
    images = torch.rand(12, 1, 12, 12)
    rule = arm_rule("gain", parameterisation="free")
    found = {}
    for sites in (["relu3"], ["relu3.input"]):
        cut = arm_network(net, sites, "head", rule.place)
        assert cut is not None
        rows = cut.prefix(images)
        detector = Detector(np.ones((1, 64)) * np.sign(np.arange(64) - 31.5), np.zeros(1), np.ones(64))
        state = arm_start(rule, cut, detector, net, images)
        for values in state.theta.values():
            values[:] = -1.0
        found[sites[0]] = logits(cut, rows, state)
    assert not np.allclose(found["relu3"], found["relu3.input"])


def test_adabn_holds_the_statistics_of_the_images() -> None:
    net = moved_norms(
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    )
    before = copy.deepcopy(net.state_dict())
    images = 3 + 2 * torch.randn(20, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    adapted = adapt_batch_norm(net, images)
    with torch.no_grad():
        maps = adapted[0](images)
        np.testing.assert_allclose(adapted[1].running_mean, maps.mean(dim=(0, 2, 3)), rtol=1e-5)
        np.testing.assert_allclose(adapted[1].running_var, maps.var(dim=(0, 2, 3)), rtol=1e-4)
        # what the second norm sees was normalised by the new statistics of the first
        behind = (adapted(images) - net[4].bias.view(1, 2, 1, 1)) / net[4].weight.view(1, 2, 1, 1)
        np.testing.assert_allclose(behind.mean(dim=(0, 2, 3)), 0, atol=5e-3)
        np.testing.assert_allclose(behind.var(dim=(0, 2, 3)), 1, atol=1e-2)
        # the images' own scale and offset are what is removed
        again = adapt_batch_norm(net, images * 5 + 1)
        np.testing.assert_allclose(again(images * 5 + 1), adapted(images), atol=2e-3)
        assert not torch.allclose(net(images), adapted(images), atol=0.1)
    assert all(torch.equal(net.state_dict()[key], before[key]) for key in before)
    assert all(torch.equal(adapted.state_dict()[k], v) for k, v in before.items() if k.endswith(("weight", "bias")))
    assert not adapted.training
    assert adapted[1].momentum == net[1].momentum
    parts = adapt_batch_norm(net, images, batch_size=10)
    np.testing.assert_allclose(parts[1].running_mean, adapted[1].running_mean, rtol=1e-4)
    left_over = adapt_batch_norm(net, images[:11], batch_size=10)  # its eleventh image is not left out
    assert torch.equal(left_over[1].running_mean, adapt_batch_norm(net, images[:11])[1].running_mean)


def test_adabn_where_it_does_not_apply() -> None:
    digits = build_network("digits_cnn").module
    assert not has_batch_norm(digits)
    with pytest.raises(ConfigError, match="AdaBN needs batch norms"):
        adapt_batch_norm(digits, torch.rand(4, 1, 8, 8))
    with pytest.raises(DataError, match="two images or more"):
        adapt_batch_norm(nn.BatchNorm2d(1), torch.rand(1, 1, 8, 8))
    with pytest.raises(DataError, match="not finite"):
        adapt_batch_norm(nn.BatchNorm2d(1), torch.full((3, 1, 2, 2), float("nan")))


def test_full_fine_tuning_shows_its_network(problem: Any) -> None:
    net, images, target, detector, _ = problem
    cut = arm_network(net, ["layer3.2.relu2"], "linear", "positive")
    assert cut is not None
    seen: list[dict[str, torch.Tensor]] = []
    learn_full(
        cut, images, target[0], detector, 0, SCHEDULE, evaluate=images,
        afterwards=lambda module: seen.append({k: v.clone() for k, v in module.state_dict().items()}),
    )  # fmt: skip
    changed = [
        key
        for key, value in seen[0].items()
        if key.endswith("conv1.weight") and not torch.equal(value, net.state_dict()[key])
    ]
    assert changed
