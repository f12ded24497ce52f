"""A network cut before its first gain computes what the whole network computes with hooks."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import featattn_neuro as fa
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.architectures import GlobalMean
from featattn_neuro.nets.arms import arm_network
from featattn_neuro.nets.cutting import CutNetwork, _scale, require_head
from featattn_neuro.nets.detectors import Detector
from featattn_neuro.nets.fine_tuning import learn_full
from featattn_neuro.nets.gains import with_gains
from featattn_neuro.nets.hooks import hooked
from featattn_neuro.nets.learning import Schedule, fit_tasks, start
from featattn_neuro.nets.modulation import Modulation
from featattn_neuro.nets.sites import with_site_modules
from featattn_neuro.nets.training import head_inputs, train_classifier


def random_gains(cut: CutNetwork, tasks: int = 1, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {layer: torch.randn(tasks, n, generator=generator).mul(0.5).exp() for layer, n in cut.n_filters.items()}


def through_hooks(net: nn.Module, head: str, images: Tensor, gains: dict[str, Tensor], gain_set: Any) -> np.ndarray:
    with with_gains(net, gain_set({layer: gain[0].detach().numpy() for layer, gain in gains.items()})):
        return head_inputs(net, head, images, chunk=len(images))


@pytest.mark.parametrize(
    ("name", "shape", "layers"),
    [
        ("digits_cnn", (1, 28, 28), ["relu1", "relu2", "relu3"]),
        ("digits_cnn", (1, 28, 28), ["conv2", "conv3"]),
        ("digits_cnn", (1, 28, 28), ["mean"]),
        ("cifar_resnet20", (3, 32, 32), ["layer2.1.relu1", "layer3.2.relu2"]),
        ("cifar_resnet20", (3, 32, 32), ["relu", "layer3.0.bn2"]),
        ("resnet18", (3, 64, 64), ["layer3.1.relu", "layer4.1.bn2"]),
        ("resnet18", (3, 64, 64), ["relu", "layer4.0"]),
        ("efficientnet_lite0", (3, 64, 64), ["blocks.4.0.bn2.act", "blocks.6.0", "bn2.act"]),
    ],
)
def test_the_cut_network_is_the_network(name: str, shape: tuple[int, ...], layers: list[str], gain_set: Any) -> None:
    network = build_network(name, **({} if name == "digits_cnn" else {"weights": "random"}))
    net, head = network.module, str(network.head)
    before = copy.deepcopy(net.state_dict())
    images = torch.rand(3, *shape)
    cut = CutNetwork(net, layers, head)
    assert cut.cached, cut.reason
    rows = cut.prefix(images)
    gains = random_gains(cut)
    wanted = through_hooks(net, head, images, gains, gain_set)
    found = cut.features(rows, gains).numpy()
    assert np.abs(wanted).max() > 0
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_relu_after_max_pooling_is_exact() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.pool = nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1)
            self.mean, self.head = GlobalMean(), nn.Linear(4, 2)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.mean(self.pool(self.relu(self.conv(images)))))

    for net, layer in ((Plain().eval(), "conv"), (build_network("digits_cnn").module, "relu1")):
        cut = CutNetwork(net, [layer], "head")
        images = torch.randn(4, 1, 28, 28).to(memory_format=torch.channels_last)
        names = [node.target for node in cut.whole.graph.nodes if node.op == "call_module"]  # type: ignore[union-attr]
        pool, relu = ("pool", "relu") if layer == "conv" else ("pool2", "relu2")
        if layer == "conv":
            assert names.index(pool) < names.index(relu)
        a, b = images.clone().requires_grad_(True), images.clone().requires_grad_(True)
        plain, moved = copy.deepcopy(net).to(memory_format=torch.channels_last)(a), cut.whole(b)
        assert torch.equal(plain, moved)
        plain.sum().backward()
        moved.sum().backward()
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("sites", [["pool"], ["relu", "pool"]])
def test_a_gained_pool_stays_behind_its_relu(sites: list[str]) -> None:
    net = nn.Sequential(OrderedDict(
        conv=nn.Conv2d(1, 3, 3), relu=nn.ReLU(), pool=nn.MaxPool2d(2), conv2=nn.Conv2d(3, 4, 3), mean=GlobalMean(),
        head=nn.Linear(4, 2),
    )).eval()  # fmt: skip
    images = torch.randn(5, 1, 12, 12)
    cut = CutNetwork(net, sites, "head", shifts=True)
    assert cut.cached, cut.reason
    rows = cut.prefix(images)
    acts = {site: Modulation(torch.tensor([[0.0, 2.0, 0.5]]), torch.tensor([[-0.3, -0.1, 0.4]])) for site in sites}
    with torch.no_grad():
        maps = net.relu(net.conv(images))
        maps = net.pool(acts["relu"](maps) if "relu" in acts else maps)
        wanted = net.mean(net.conv2(acts["pool"](maps)))
        torch.testing.assert_close(cut.features(rows, acts), wanted, rtol=1e-5, atol=1e-6)
    gain = torch.zeros(1, 3, requires_grad=True)  # projected onto its bound; it must be able to leave it
    rest = {site: torch.ones(1, 3) for site in sites}
    gradient = torch.autograd.grad(cut.features(rows, {**rest, "pool": gain}).sum(), gain)[0]
    assert bool((gradient != 0).all())


@pytest.mark.parametrize("layers", [["relu1", "relu2", "relu3"], ["conv3"]])
def test_gradients_of_gains_are_those_of_the_uncut_network(layers: list[str]) -> None:
    cut, uncut = (CutNetwork(build_network("digits_cnn").module, layers, "head") for _ in range(2))
    uncut.cached = False
    images = torch.rand(4, 1, 28, 28)
    found = []
    for one in (cut, uncut):
        rows = one.prefix(images)
        gains = {layer: gain.requires_grad_(True) for layer, gain in random_gains(one).items()}
        features = one.features(rows, gains)
        found.append((features, torch.autograd.grad(features.square().sum(), list(gains.values()))))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-6)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cached", [True, False])
def test_tasks_share_nothing_but_the_weights(cached: bool) -> None:
    cut = CutNetwork(build_network("digits_cnn").module, ["relu1", "relu3"], "head")
    cut.cached = cached
    images = torch.rand(5, 1, 28, 28)
    rows = cut.prefix(images)
    gains = random_gains(cut, tasks=3)
    together = cut.features([row.repeat(3, *[1] * (row.ndim - 1)) for row in rows], gains).unflatten(0, (3, 5))
    for task in range(3):
        alone = cut.features(rows, {layer: gain[task : task + 1] for layer, gain in gains.items()})
        torch.testing.assert_close(together[task], alone, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_scaled_map_is_that_of_differences() -> None:
    rows = torch.randn(6, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    gain = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_scale, (rows, gain))


def test_branches_that_no_gain_reaches_belong_to_the_prefix() -> None:
    cut = CutNetwork(build_network("resnet18", weights="random").module, ["layer4.0.bn1"], "fc")
    rows = cut.prefix(torch.rand(2, 3, 64, 64))
    assert sorted(tuple(row.shape[1:]) for row in rows) == [(512, 2, 2), (512, 2, 2)]  # not layer3's (256, 4, 4)
    names = {str(node.target) for node in cut._suffix.graph.nodes if node.op == "call_module"}
    assert "layer4.0.conv2" in names
    assert not {"layer4.0.conv1", "layer4.0.downsample.0", "layer4.0.downsample.1"} & names


@pytest.mark.parametrize(
    ("name", "layers", "width"),
    [("resnet18", ["layer4"], 512), ("digits_cnn", ["relu3"], 64), ("efficientnet_lite0", ["bn2.act"], 1280)],
)
def test_gains_that_pooling_commutes_with_act_on_the_features(name: str, layers: list[str], width: int) -> None:
    network = build_network(name, **({} if name == "digits_cnn" else {"weights": "random"}))
    cut = CutNetwork(network.module, layers, str(network.head))
    (rows,) = cut.prefix(torch.rand(2, *(network.input_shape or (1, 28, 28))[:1], 64, 64))
    assert cut.pooled
    assert rows.shape == (2, width)


# -- networks that cannot be cut, and say so


class Awkward(nn.Module):
    """One of several networks, by `kind`, in two channels."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv1, self.conv2 = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.mean, self.head = GlobalMean(), nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv1(images)
        if self.kind == "control flow" and maps.sum() > 1e9:
            return maps
        if self.kind == "result ignored":
            self.relu(maps)
        elif self.kind == "read again":
            maps = self.pool(self.relu(maps)) + self.pool(maps)
        elif self.kind == "noise":
            maps = self.relu(maps + torch.randn(1, 2, 1, 1))
        elif self.kind == "method in place":
            maps.relu_()
        elif self.kind == "another name":
            same = maps
            same += 1.0
            maps = torch.relu(maps)
        elif self.kind == "a view":
            rows = maps.flatten(2)
            rows *= -2.0
            maps = torch.relu(maps)
        else:
            maps = self.relu(maps)
        return self.head(self.mean(self.pool(self.conv2(maps))))


@pytest.mark.parametrize(
    ("kind", "layers", "reason"),
    [
        ("result ignored", ["conv2"], "again after step 'relu'"),
        ("read again", ["conv2"], "again after step 'relu'"),
        ("method in place", ["conv2"], "again after step 'relu_'"),
        ("another name", ["conv2"], "again after step 'add'"),
        ("a view", ["conv2"], "again after step 'mul'"),
        ("control flow", ["relu", "conv2"], "torch.fx cannot trace it"),
    ],
)
def test_what_cannot_be_cut_runs_whole_and_says_why(kind: str, layers: list[str], reason: str, gain_set: Any) -> None:
    net = Awkward(kind).eval()
    images = torch.randn(3, 1, 8, 8)
    cut = CutNetwork(net, layers, "head")
    assert not cut.cached
    assert reason in cut.reason
    rows = cut.prefix(images)
    gains = random_gains(cut)
    wanted = through_hooks(net, "head", images, gains, gain_set)
    np.testing.assert_allclose(cut.features(rows, gains).numpy(), wanted, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(cut.whole(images), net(images))


class Aside(nn.Module):
    """A layer beside the way to the head, whose maps are kept on the module or dropped."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.last = kind, torch.zeros(1)
        self.conv, self.relu = nn.Conv2d(1, 2, 3), nn.ReLU()
        self.aside, self.head = nn.Conv2d(2, 3, 1), nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.conv(images))
        if self.kind == "control flow" and maps.sum() > 1e9:
            return maps
        self.last = self.aside(maps)
        return self.head(maps.mean((2, 3)))


@pytest.mark.parametrize(
    ("net", "layers"),
    [
        (Aside("dropped"), ["aside"]),
        (Aside("dropped"), ["relu", "aside"]),
        (Aside("control flow"), ["aside"]),
        (Aside("control flow"), ["relu", "aside"]),
        (Awkward("result ignored"), ["conv2", "relu"]),
        (Awkward("result ignored"), ["relu.input"]),
    ],
)
def test_a_layer_that_leads_nowhere_is_refused(net: nn.Module, layers: list[str]) -> None:
    with pytest.raises(DataError, match=f"{layers[-1]}' gives does not lead to the input of head 'head'"):
        CutNetwork(with_site_modules(net.eval(), layers), layers, "head").prefix(torch.rand(3, 1, 8, 8))


def test_what_tracing_leaves_on_the_copy_is_taken_off() -> None:
    net = Aside("dropped").eval()
    cut = CutNetwork(net, ["relu"], "head")
    assert cut.cached
    assert torch.equal(cut.module.last, torch.zeros(1))


def test_noise_is_not_drawn_once_and_kept() -> None:
    """Not even while the network is copied: the caller's generator is where it was."""
    net = Awkward("noise").eval()
    state = torch.get_rng_state()
    cut = CutNetwork(net, ["conv2"], "head")
    assert torch.equal(torch.get_rng_state(), state)
    assert (cut.cached, cut.reason) == (False, "it draws random numbers")
    images = torch.rand(3, 1, 8, 8)
    rows = cut.prefix(images)
    first, second = (cut.features(rows, random_gains(cut)) for _ in range(2))
    assert not torch.equal(first, second)


def test_wrong_names_and_shapes() -> None:
    net = build_network("digits_cnn").module
    with pytest.raises(ConfigError, match="unknown layer 'relu4'"):
        CutNetwork(net, ["relu4"], "head")
    with pytest.raises(ConfigError, match=r"unknown head 'hed'.*did you mean 'head'"):
        CutNetwork(net, ["relu1"], "hed")
    with pytest.raises(DataError, match=r"input of head 'conv3' must be vectors"):
        CutNetwork(net, ["relu1"], "conv3").prefix(torch.rand(2, 1, 28, 28))
    with pytest.raises(ConfigError, match=r"network 'mine' has no final linear layer.*head="):
        require_head(None, "mine")


def test_a_module_with_two_widths_has_no_one_gain() -> None:
    class Widths(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2, self.relu = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 3, 1), nn.ReLU()
            self.mean, self.head = GlobalMean(), nn.Linear(3, 2)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.mean(self.relu(self.conv2(self.relu(self.conv1(images))))))

    with pytest.raises(DataError, match="'relu' runs several times, with 2 filters and with 3"):
        CutNetwork(Widths(), ["relu"], "head").prefix(torch.rand(2, 1, 4, 4))


class _FunctionalWeights(nn.Module):
    """A weight that a function takes, behind the gained map: a step without rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1, self.head = nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Linear(4, 2)
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = nn.functional.conv2d(self.relu1(self.conv1(images)), self.weight * 2)
        return self.head(maps.relu().mean((2, 3)))


def test_weights_of_functions_have_no_rows() -> None:
    torch.manual_seed(0)
    net = _FunctionalWeights().eval()
    cut = CutNetwork(net, ["relu1"], "head")
    assert cut.cached
    images = torch.rand(7, 1, 9, 9)
    rows = cut.prefix(images, chunk=3)
    assert [len(row) for row in rows] == [7]
    gain = torch.tensor([[0.5, 2.0, 1.5]])
    with torch.no_grad():
        found = cut.features(rows, {"relu1": gain})
        maps = nn.functional.conv2d(net.relu1(net.conv1(images)) * gain.view(1, 3, 1, 1), net.weight * 2)
    torch.testing.assert_close(found, maps.relu().mean((2, 3)), rtol=1e-5, atol=1e-6)


def test_a_gained_block_with_gained_layers_inside_is_cut_too() -> None:
    net = build_network("cifar_resnet20", weights="random", seed=0)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    sites = ["layer3.1.relu1", "layer3.2", "layer3.2.relu1", "layer3"]
    assert "act on the same map" in CutNetwork(net.module, sites, str(net.head)).reason  # layer3 is what layer3.2 gives
    for chosen in (sites[:3], [sites[0], "layer3"]):
        cut = CutNetwork(net.module, chosen, str(net.head))
        assert cut.cached, cut.reason
        rows = cut.prefix(images)
        assert rows[0].shape[1:] == (64, 8, 8)
        generator = torch.Generator().manual_seed(1)
        gains = {name: torch.rand(1, 64, generator=generator) + 0.5 for name in chosen}
        seen: list[torch.Tensor] = []
        handles = [
            net.module.get_submodule(name).register_forward_hook(
                lambda part, inputs, output, gain=gains[name]: output * gain.view(1, -1, 1, 1)
            )
            for name in chosen
        ]
        head = net.module.get_submodule(str(net.head))
        handles.append(head.register_forward_pre_hook(lambda part, inputs, seen=seen: seen.append(inputs[0])))
        with torch.no_grad():
            net.module.eval()(images)
        for handle in handles:
            handle.remove()
        torch.testing.assert_close(cut.features(rows, gains), seen[0], rtol=1e-4, atol=1e-5)


# -- channels last, views, heads


class LastBlock(nn.Module):
    """A convolution, then a block on maps (N, H, W, C) as ConvNeXt has it, with a layer norm or without."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.stem, self.relu = nn.Conv2d(1, 6, 3), nn.ReLU()
        self.norm = nn.LayerNorm(6) if norm else nn.Identity()
        self.fc1, self.act, self.fc2 = nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 6)
        self.block, self.mean, self.head = nn.Identity(), GlobalMean(), nn.Linear(6, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.stem(images))
        inner = self.fc2(self.act(self.fc1(self.norm(maps.permute(0, 2, 3, 1)))))
        return self.head(self.mean(self.block(maps + inner.permute(0, 3, 1, 2))))


@pytest.mark.parametrize("norm", [True, False])
def test_maps_with_filters_last_are_refused_and_others_are_not(norm: bool, gain_set: Any) -> None:
    net, images = LastBlock(norm).eval(), torch.rand(3, 1, 6, 6)
    for layer in ("fc1", "act", "fc2", "act.input"):
        inside = arm_network(net, [layer], "head", "positive")
        assert inside is not None
        with pytest.raises(DataError, match=r"gives \(2, 4, 4, \d+\), with its filters on axis 3; gains are learned"):
            inside.prefix(images)
    cut = CutNetwork(net, ["relu", "block"], "head")
    rows = cut.prefix(images)
    assert cut.n_filters == {"relu": 6, "block": 6}
    gains = random_gains(cut)
    wanted = through_hooks(net, "head", images, gains, gain_set)
    np.testing.assert_allclose(cut.features(rows, gains).numpy(), wanted, rtol=1e-5, atol=1e-6)
    with with_gains(net, gain_set({"act": np.linspace(0.0, 2.0, 10)})), torch.no_grad():
        found = net(images)
    with hooked(net, {"act": lambda part, inputs, output: output * torch.linspace(0.0, 2.0, 10)}), torch.no_grad():
        torch.testing.assert_close(found, net(images))


def test_maps_of_which_nothing_tells_the_axis_are_refused() -> None:
    net = LastBlock(norm=True).eval()
    with pytest.raises(DataError, match=r"\(2, 6, 6, 6\), and nothing in the network tells on which axis its filters"):
        CutNetwork(net, ["block"], "head").prefix(torch.rand(2, 1, 8, 8))


def test_gains_on_a_square_map_of_a_linear_layer_act_on_its_features(gain_set: Any) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), Last(), nn.Linear(4, 4), nn.ReLU()).eval()
    images = torch.randn(2, 1, 6, 6)  # maps (N, 4, 4, 4)
    gain = np.array([0.0, 1.0, 2.0, 3.0])
    with torch.no_grad(), with_gains(net, gain_set({"2": gain})):
        found = net[:3](images)
    with torch.no_grad():
        torch.testing.assert_close(found, net[:3](images) * torch.tensor(gain, dtype=torch.float32))
    with (
        torch.no_grad(), with_gains(net, gain_set({"3": gain})),
        pytest.raises(DataError, match="say where the filters are"),
    ):  # fmt: skip
        net(images)


class Last(nn.Module):
    """(N, C, H, W) to (N, H, W, C)."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.permute(0, 2, 3, 1)


class LeNet(nn.Module):
    """Convolutions, pooling and a view, as in the first tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 3)
        self.fc, self.head = nn.Linear(5 * 2 * 2, 6), nn.Linear(6, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.max_pool2d(torch.relu(self.conv1(images)), 2)
        maps = torch.max_pool2d(torch.relu(self.conv2(maps)), 2)
        return self.head(torch.relu(self.fc(maps.view(len(images), -1))))


def test_a_network_that_views_its_maps_is_cut_learned_on_and_trained(gain_set: Any) -> None:
    net, images = LeNet().eval(), torch.rand(12, 1, 14, 14)
    target = np.arange(12)[None] % 2 == 0
    for layers in (["conv1"], ["conv2"], ["conv1", "conv2"]):
        cut = CutNetwork(net, layers, "head")
        rows, gains = cut.prefix(images), random_gains(cut)
        assert cut.memory_format == torch.contiguous_format
        wanted = through_hooks(net, "head", images, gains, gain_set)
        np.testing.assert_allclose(cut.features(rows, gains).numpy(), wanted, rtol=1e-5, atol=1e-6)
        detector = Detector(np.ones((1, 6)), np.zeros(1), np.ones(6))
        schedule = Schedule(rate=0.1, epochs=2, batch_size=6)
        fit = fit_tasks(cut, rows, target, start(cut, detector), schedule, train_gains=True, train_head=False)
        assert all(bool((gain != 1).any()) for gain in fit.state.gains().values())
    full = learn_full(
        CutNetwork(net, ["conv2"], "head"), images, target[0], detector, 0, schedule, evaluate=images
    )  # fmt: skip
    assert np.isfinite(full).all()
    train_classifier(net, images, target[0].astype(int), epochs=1, batch_size=6, rate=0.01, seed=0)
    assert net.conv1.weight.is_contiguous()


def test_another_error_of_the_network_is_not_taken_for_one_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        CutNetwork(LeNet().eval(), ["conv1"], "head").prefix(torch.rand(2, 1, 20, 20))


def test_what_the_head_takes_is_a_site_and_what_it_gives_is_none(gain_set: Any) -> None:
    net, images = build_network("digits_cnn").module.eval(), torch.rand(3, 1, 28, 28)
    cut = arm_network(net, ["relu2", "head.input"], "head", "positive")
    assert cut is not None
    assert cut.cached, cut.reason
    rows, gains = cut.prefix(images), random_gains(cut)
    assert cut.n_filters == {"relu2": 32, "head.input": 64}
    plain = {"relu2": gains["relu2"], "head.input": torch.ones(1, 64)}
    with torch.no_grad():
        wanted = cut.features(rows, plain) * gains["head.input"]
        torch.testing.assert_close(cut.features(rows, gains), wanted)
    outside = through_hooks(net, "head", images, {"relu2": gains["relu2"]}, gain_set)
    np.testing.assert_allclose(cut.features(rows, plain).numpy(), outside, rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match=r"what the head 'head' gives .* is no gain of filters; gain 'head.input'"):
        CutNetwork(net, ["head"], "head")
    behind = nn.Sequential(OrderedDict(net=net, soft=nn.Softmax(1)))
    for sites in (["soft"], ["net.relu1", "soft"]):
        with pytest.raises(DataError, match=r"layer 'soft' gives does not lead to the input of head 'net\.head'"):
            CutNetwork(behind, sites, "net.head")
    hidden = nn.Sequential(OrderedDict(net=Untraced(net), soft=nn.Softmax(1)))
    with pytest.raises(DataError, match="layer 'soft' gives does not lead to the input of head"):
        CutNetwork(hidden, ["soft"], "net.net.head").prefix(images)


class Untraced(nn.Module):
    """A network that torch.fx cannot follow."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images if images.sum() < 1e9 else images / 2)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.relu, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.b(self.relu(self.a(images))))
        return self.head((maps + 1.0).mean((2, 3)))


def test_gains_of_one_call_act_while_others_are_learned(gain_set: Any) -> None:
    torch.manual_seed(0)
    net, images = Twice().eval(), torch.randn(4, 1, 8, 8)
    acting = gain_set({"relu": [2.0, 0.5, 3.0, 1.5]}).assign_coords(call=("unit", [1] * 4))
    with with_gains(net, acting):
        wanted = head_inputs(net, "head", images)
        cut = CutNetwork(net, ["b"], "head")
        assert not cut.cached
        assert "single calls" in cut.reason
        for _ in range(2):
            rows = cut.prefix(images)
            np.testing.assert_allclose(cut.features(rows, {"b": torch.ones(1, 4)}).numpy(), wanted, rtol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(cut.whole(images), net(images))


def test_gains_of_one_call_act_in_every_batch_of_a_graph(gain_set: Any) -> None:
    torch.manual_seed(0)
    net, images = Twice().eval(), np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)
    acting = gain_set({"relu": [2.0, 0.5, 3.0, 1.5]}).assign_coords(call=("unit", [1] * 4))
    with with_gains(net, acting):
        found = fa.record(net, images, ["add"], batch_size=2)
        with torch.no_grad():
            seen: list[Tensor] = []
            handle = net.head.register_forward_pre_hook(lambda part, inputs: seen.append(inputs[0]))
            net(torch.as_tensor(images))
            handle.remove()
    np.testing.assert_allclose(found["response"].values, seen[0].numpy(), rtol=1e-5)
