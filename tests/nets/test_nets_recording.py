"""Recording: what a layer gave, whatever comes after it and whoever stands beside."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.io.stimuli import Stimuli, load_stimuli
from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.batches import as_tensor, batches, to_input
from featattn_neuro.nets.plan import make_plan
from featattn_neuro.nets.recording import record_activations
from featattn_neuro.nets.reductions import REDUCTIONS, parse_reductions
from featattn_neuro.nets.selection import select_layers


def without_large_classifier(name: str, features: int) -> nn.Module:
    """AlexNet and VGG with a classifier of two classes: their own holds most of 60 and 130 million numbers."""
    with torch.device("meta"):
        net = getattr(torchvision.models, name)(weights=None)
        net.classifier = nn.Linear(features, 2)
    net = net.to_empty(device="cpu").eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.05)
    return net


def network(name: str) -> nn.Module:
    if name == "alexnet":
        return without_large_classifier("alexnet", 256 * 6 * 6)
    if name == "vgg11":
        return without_large_classifier("vgg11", 512 * 7 * 7)
    return build_network(name, weights="random").module


@pytest.mark.parametrize(
    ("name", "sites"),
    [
        ("alexnet", ["conv"]),
        ("vgg11", ["conv"]),
        ("resnet18", ["conv", "norm"]),
        ("mobilenet_v2", ["conv", "norm"]),
        ("efficientnet_lite0", ["conv", "*.drop"]),  # timm's batch norm runs `drop`, then an activation in place
    ],
)
def test_in_place_activations_do_not_alter_what_is_recorded(name: str, sites: list[str], noise: Any) -> None:
    net = network(name)
    assert any(getattr(part, "inplace", False) for part in net.modules())
    rebuilt = copy.deepcopy(net)
    for part in rebuilt.modules():
        if hasattr(part, "inplace"):
            part.inplace = False
    stimuli = noise(2, 3, 64)
    reduce = ("centre", "mean", "max")
    found = record_activations(net, stimuli, sites, reduce=reduce, batch_size=2)
    wanted = record_activations(rebuilt, stimuli, sites, reduce=reduce, batch_size=2)
    np.testing.assert_array_equal(found["response"], wanted["response"])
    for layer in set(found["layer"].values):
        responses = found["response"].values[..., found["layer"].values == layer]
        assert responses[0].min() < 0, layer  # the view "centre" would be rectified with the map
        assert responses[1].min() < 0, layer


class Twice(nn.Module):
    """One ReLU module, used on two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.relu(self.relu(self.conv(images)) - 3)


def test_a_module_that_runs_twice_gives_units_with_calls() -> None:
    net = Twice()
    nn.init.constant_(net.conv.weight, 4.0)
    found = record_activations(net, load_stimuli(np.ones((1, 1, 2, 2), np.float32), label=None), ["relu", "conv"])
    assert found["unit"].values.tolist() == [
        "conv/000",
        "conv/001",
        "relu@0/000",
        "relu@0/001",
        "relu@1/000",
        "relu@1/001",
    ]
    assert found["call"].values.tolist() == [0, 0, 0, 0, 1, 1]
    assert found["channel"].values.tolist() == [0, 1, 0, 1, 0, 1]
    assert found["response"].values.tolist() == [[4, 4, 4, 4, 1, 1]]


class Failing(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise RuntimeError("a layer of its own making")


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_left_as_found(fails: bool, noise: Any) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout().eval(), nn.ReLU(inplace=True))
    net(torch.rand(2, 1, 28, 28)).sum().backward()
    net[0].bias.requires_grad_(False)
    if fails:
        net.append(Failing())
    grads = [p.grad for p in net.parameters()]
    state = copy.deepcopy(net.state_dict())
    modes = [part.training for part in net.modules()]
    if fails:
        with pytest.raises(RuntimeError, match="of its own making"):
            record_activations(net, noise(3), ["0", "3"])
    else:
        record_activations(net, noise(3), ["0", "3"])
    assert [part.training for part in net.modules()] == modes
    assert [p.grad is g for p, g in zip(net.parameters(), grads, strict=True)] == [True] * len(grads)
    assert [p.requires_grad for p in net.parameters()] == [True, False, True, True]
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any(part._forward_hooks for part in net.modules())


class Untouchable:
    """Stimuli that must not be looked at."""

    id = np.array(["a"])

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> np.ndarray:
        raise AssertionError("an image was read")

    def coordinates(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "conv9"}, "unknown layer 'conv9'.*did you mean 'conv"),
        ({"layers": ["conv1", "layer3.*"]}, r"unknown layer 'layer3\.\*'"),
        ({"layers": []}, "at least one layer"),
        ({"layers": "conv1", "reduce": "maen"}, "did you mean 'mean'"),
        ({"layers": "conv1", "reduce": []}, "one or more different reductions"),
        ({"layers": "conv1", "reduce": ["mean", "mean"]}, "one or more different reductions"),
        ({"layers": "conv1", "batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_what_is_unknown_fails_before_the_first_image(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        record_activations(build_network("digits_cnn").module, Untouchable(), **options)


def by_id(stimuli: Stimuli, found: Any) -> dict[str, bytes]:
    assert found["stimulus"].values.tolist() == stimuli.id.tolist()
    return {i: row.tobytes() for i, row in zip(stimuli.id.tolist(), found["response"].values, strict=True)}


@pytest.mark.parametrize(("name", "channels", "size"), [("digits_cnn", 1, 28), ("cifar_resnet20", 3, 32)])
def test_a_row_depends_on_its_image_alone(name: str, channels: int, size: int, noise: Any) -> None:
    net = build_network(name, **({} if name == "digits_cnn" else {"weights": "random"})).module
    stimuli = noise(9, channels, size)
    record = {"layers": ["conv", "activation"], "batch_size": 4}
    wanted = by_id(stimuli, record_activations(net, stimuli, **record))
    for order in (np.random.default_rng(0).permutation(9), [8, 3], [5]):
        some = stimuli.select(np.asarray(order))
        found = by_id(some, record_activations(net, some, **record))
        assert found == {i: wanted[i] for i in found}


def test_reductions_against_numpy(noise: Any) -> None:
    net, stimuli = build_network("digits_cnn").module, noise(2)
    with torch.no_grad():
        maps = net.conv1(as_tensor(stimuli, None)).double().numpy()
    found = record_activations(net, stimuli, "conv1", reduce=("mean", "max", "sum", "sd", "centre"), batch_size=2)
    wanted = [maps.mean((2, 3)), maps.max((2, 3)), maps.sum((2, 3)), maps.std((2, 3)), maps[:, :, 14, 14]]
    np.testing.assert_allclose(found["response"], np.stack(wanted), rtol=1e-4, atol=1e-5)
    single = record_activations(net, stimuli, "conv1", reduce="sd", batch_size=2)
    assert single.attrs["reduction"] == "sd"
    np.testing.assert_array_equal(single["response"], found["response"].sel(reduction="sd"))


@pytest.mark.parametrize("reduction", list(REDUCTIONS))
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 3, 5), (2, 3)])
def test_a_reduction_shares_no_memory_with_the_map(reduction: str, shape: tuple[int, ...]) -> None:
    output = torch.randn(shape)
    if (reduction, len(shape)) in [("first", 4), ("centre", 3)]:
        with pytest.raises(DataError, match="choose another"):
            parse_reductions(reduction)[0](output)
        return
    reduced = parse_reductions(reduction)[0](output)
    kept = reduced.clone()
    output.fill_(9)
    assert torch.equal(reduced, kept)


def test_vectors_are_recorded_as_they_are(noise: Any) -> None:
    net, stimuli, seen = build_network("digits_cnn").module, noise(3), []
    found = record_activations(net, stimuli, ["head"], batch_size=3, progress=lambda *done: seen.append(done))
    with torch.no_grad():
        np.testing.assert_array_equal(found["response"], net(as_tensor(stimuli, None)).numpy())
    assert found["stage"].values.tolist() == ["linear"] * 10
    assert seen == [(3, 3)]


class Idle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle, self.tokens = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1), nn.Flatten(0)

    def forward(self, images: Tensor) -> Tensor:
        return self.tokens(self.used(images))


def test_layers_that_did_not_run_or_have_no_filters(noise: Any) -> None:
    with pytest.raises(DataError, match="'idle' exists but did not run"):
        record_activations(Idle(), noise(1), ["used", "idle"])
    with pytest.raises(DataError, match="'tokens' must give maps"):
        record_activations(Idle(), noise(1), ["tokens"])


def test_selecting_layers_by_name_glob_and_stage() -> None:
    net = build_network("cifar_resnet20", weights="random").module
    assert select_layers(net, ["layer3.2.relu2", "relu", "layer1.0.relu?"]) == [
        "relu",
        "layer1.0.relu1",
        "layer1.0.relu2",
        "layer3.2.relu2",
    ]
    assert len(select_layers(net, "activation")) == 19
    mobile = torchvision.models.mobilenet_v2(weights=None)
    assert {type(mobile.get_submodule(name)) for name in select_layers(mobile, "norm")} == {nn.BatchNorm2d}
    plan = make_plan(net, ["linear", "conv1"], batch_size=5)
    assert plan.layers == ("conv1", "linear")
    assert [one.name for one in plan.reductions] == ["mean"]


def test_batches_are_padded_and_counted(noise: Any) -> None:
    stimuli = noise(5, 1, 4)
    parts: Iterator[tuple[Tensor, int]] = batches(stimuli, None, batch_size=3, device="cpu")
    (first, all_of_it), (last, rest) = parts
    assert (tuple(first.shape), all_of_it, tuple(last.shape), rest) == ((3, 1, 4, 4), 3, (3, 1, 4, 4), 2)
    assert torch.equal(last[2], last[0])
    with pytest.raises(DataError, match="at least one stimulus"):
        next(batches(stimuli.select([]), None, batch_size=3, device="cpu"))


def test_images_of_two_sizes_are_named() -> None:
    class Mixed(Untouchable):
        id = np.array(["first", "second"])

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> np.ndarray:
            return np.zeros((4 + index, 4, 3), np.uint8)

    with pytest.raises(DataError, match=r"came \(3, 4, 4\) and \(3, 5, 4\) \(stimulus second"):
        as_tensor(Mixed(), None)
    scaled = to_input(np.full((1, 2, 3), 255, np.uint8), None)
    assert scaled.tolist() == [[[1.0, 1.0]]] * 3


def test_flattened_maps_are_not_taken_for_a_sequence(noise: Any) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(2))
    with pytest.raises(DataError, match="say where the filters are, channel_axis"):
        record_activations(net, noise(2), "1")
    found = record_activations(net, noise(2), "1", channel_axis={"1": 1})
    np.testing.assert_allclose(found["response"], record_activations(net, noise(2), "0")["response"], rtol=1e-5)
    # also where a linear layer mixes the positions, so that a sequence has as many features as there are positions
    mixed = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(2), nn.Linear(9, 9))
    with pytest.raises(DataError, match="say where the filters are, channel_axis"):
        record_activations(mixed, noise(2, size=3), "1")


class Counting(nn.Module):
    """Counts its passes and the rows that it was shown."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.rows = inner, []

    def forward(self, images: Tensor) -> Tensor:
        self.rows.append(len(images))
        return self.inner(images)


@pytest.mark.parametrize(("count", "batch_size", "passes"), [(9, 4, 3), (8, 4, 2), (3, 8, 1), (1, 1, 1)])
def test_no_pass_is_made_for_the_shapes_alone(count: int, batch_size: int, passes: int, noise: Any) -> None:
    net = Counting(build_network("digits_cnn").module)
    done: list[int] = []
    found = record_activations(
        net, noise(count), ["conv", "activation"], batch_size=batch_size, progress=lambda now, _all: done.append(now)
    )
    assert net.rows == [batch_size] * passes
    assert done == [min(batch_size * (k + 1), count) for k in range(passes)]
    with torch.no_grad():
        maps = net.inner.conv1(as_tensor(noise(count), None))
    np.testing.assert_allclose(found["response"][:, :16], maps.mean(dim=(2, 3)), rtol=1e-4, atol=1e-6)


def test_axes_that_are_open_in_the_first_pass_cost_a_second_one() -> None:
    """A sequence before the first layer that says what its axes are: known when every layer has run."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.tokens, self.norm = nn.Conv2d(1, 6, 2, 2), nn.Identity(), nn.LayerNorm(6)

        def forward(self, images: Tensor) -> Tensor:
            return self.norm(self.tokens(self.conv(images).flatten(2).transpose(1, 2)))

    net = Counting(Tokens())
    stimuli = load_stimuli(np.random.default_rng(0).random((5, 1, 8, 8), np.float32), label=None)
    found = record_activations(net, stimuli, ["inner.conv", "inner.tokens"], batch_size=2)
    assert net.rows == [2] * 4
    conv, tokens = found["response"].values[:, :6], found["response"].values[:, 6:]
    np.testing.assert_allclose(tokens, conv, rtol=1e-5, atol=1e-6)
