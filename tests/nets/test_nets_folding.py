"""Folding: the plain copy answers as the gained network does; what cannot be folded is refused with the reason."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from featattn_neuro.errors import ConfigError, DataError, SchemaError
from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.architectures import CifarBlock
from featattn_neuro.nets.fold_paths import RefusedError
from featattn_neuro.nets.folding import check_folded, fold_gains
from featattn_neuro.nets.gains import with_gains
from featattn_neuro.nets.weights import weights_sha256

TOLERANCE = 1e-4


def gain_set(per_layer: dict[str, list[float] | np.ndarray], *, order: np.ndarray | None = None) -> xr.Dataset:
    layer = [name for name, values in per_layer.items() for _ in values]
    channel = [k for values in per_layer.values() for k in range(len(values))]
    gain = np.concatenate([np.asarray(values, dtype=float) for values in per_layer.values()])
    dataset = xr.Dataset(
        {"gain": ("unit", gain)},
        {
            "unit": [f"{name}/{k:03d}" for name, k in zip(layer, channel, strict=True)],
            "layer": ("unit", layer),
            "channel": ("unit", channel),
        },
    )
    return dataset if order is None else dataset.isel(unit=order)


def drawn(per_layer: dict[str, int], *, seed: int = 0, signed: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    gains = {name: np.exp(rng.normal(0.0, 0.7, width)) for name, width in per_layer.items()}
    for values in gains.values():
        values[0] = 0.0
        if signed:
            values[1::2] *= -1
    return gains


def gained(module: nn.Module, gains: dict[str, np.ndarray], images: Tensor) -> Tensor:
    """What folding must equal, written without the package: hooks that multiply each layer's output."""
    handles = []
    for name, values in gains.items():
        factor = torch.as_tensor(values, dtype=torch.float32)

        def scale(_module: nn.Module, _inputs: object, output: Tensor, factor: Tensor = factor) -> Tensor:
            return output * factor.view(1, -1, *[1] * (output.ndim - 2))

        handles.append(module.get_submodule(name).register_forward_hook(scale))
    with torch.no_grad():
        output = module(images)
    for handle in handles:
        handle.remove()
    return output


def check_fold(module: nn.Module, gains: dict[str, np.ndarray], images: Tensor) -> nn.Module:
    module.eval()
    before = weights_sha256(module)
    wanted, plain = gained(module, gains, images), module(images).detach()
    folded = fold_gains(module, gain_set(gains))
    with torch.no_grad():
        came = folded(images)
    assert float((came - wanted).abs().max()) <= TOLERANCE * float(wanted.abs().max())
    assert float((wanted - plain).abs().max()) > 100 * TOLERANCE * float(wanted.abs().max()), "the gains do nothing"
    assert weights_sha256(module) == before
    assert type(folded) is type(module)
    assert not any(part._forward_hooks for part in folded.modules())
    return folded


def randomise_norms(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.copy_(torch.randn(part.num_features, generator=generator))
            part.running_var.copy_(torch.rand(part.num_features, generator=generator) + 0.5)
            if part.affine:
                with torch.no_grad():
                    part.weight.copy_(torch.randn(part.num_features, generator=generator))
                    part.bias.copy_(torch.randn(part.num_features, generator=generator))
    return module.eval()


def sequence(*parts: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    for part in parts:
        for inner in part.modules():
            if hasattr(inner, "reset_parameters"):
                inner.reset_parameters()
    return randomise_norms(nn.Sequential(*parts))  # type: ignore[return-value]


IMAGES = torch.randn(3, 4, 10, 10, generator=torch.Generator().manual_seed(2))


class Fire(nn.Module):
    """Two branches joined along the channels, as in SqueezeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 5, 3, padding=1)
        self.left_relu, self.right_relu = nn.ReLU(inplace=True), nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([self.left_relu(self.left(maps)), self.right_relu(self.right(maps))], 1)


class Projection(nn.Module):
    """A residual block whose shortcut has weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.skip, self.skip_norm = nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6)
        self.relu = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        out = self.norm(self.conv(maps))
        out += self.skip_norm(self.skip(maps))
        return self.relu(out)


HEAD = (nn.Conv2d(8, 5, 3), nn.Flatten(), nn.Linear(5 * 64, 3))


@pytest.mark.parametrize(
    ("module", "sites", "signed"),
    [
        (sequence(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), *HEAD), {"1": 8}, False),
        (sequence(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(inplace=True), *HEAD), {"0": 8, "1": 8}, False),
        (sequence(nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), *HEAD), {"2": 8}, False),
        (sequence(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8, affine=False), nn.ReLU(), *HEAD), {"2": 8}, False),
        (sequence(nn.Conv2d(4, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.LeakyReLU(), *HEAD), {"2": 8}, False),
        (sequence(nn.Conv2d(4, 8, 3, padding=1, groups=4), nn.PReLU(8), *HEAD), {"1": 8}, False),
        (sequence(nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.ReLU(), *HEAD), {"1": 8}, False),
        (sequence(nn.Conv2d(4, 8, 1), nn.ReLU(), nn.MaxPool2d(3, 1, 1), nn.Dropout(), *HEAD), {"3": 8}, False),
        (sequence(nn.Conv2d(4, 8, 3, padding=1), nn.AvgPool2d(3, 1, 1), *HEAD), {"1": 8}, True),
        (sequence(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), *HEAD), {"0": 8, "1": 8}, True),
        (sequence(Fire(), *HEAD), {"0.left_relu": 3, "0.right_relu": 5}, False),
        (sequence(Fire(), *HEAD), {"0": 8}, False),
        (sequence(Fire(), nn.MaxPool2d(3, 1, 1), *HEAD), {"1": 8, "0.left": 3}, False),
        (sequence(Projection(), nn.Conv2d(6, 8, 3, padding=1), *HEAD), {"0.relu": 6}, False),
        (sequence(Projection(), nn.Conv2d(6, 8, 3, padding=1), *HEAD), {"0": 6, "0.norm": 6}, False),
        (sequence(nn.Flatten(), nn.Linear(400, 8), nn.BatchNorm1d(8), nn.ReLU(), HEAD[1]), {"3": 8}, False),
    ],
    ids=[
        "conv-relu", "conv and in-place relu", "conv-norm-relu", "norm without weights", "group norm, leaky",
        "depthwise, prelu", "grouped", "max pool", "average pool, negative", "conv and norm, negative", "branches",
        "concatenation", "pooled concatenation", "sum of two branches", "block and branch", "linear",
    ],
)  # fmt: skip
def test_the_copy_answers_as_the_gained_network(module: nn.Module, sites: dict[str, int], signed: bool) -> None:
    check_fold(module, drawn(sites, signed=signed), IMAGES)


def test_digits_network_at_all_layers_equals_with_gains() -> None:
    network = build_network("digits_cnn", seed=4)
    gains = drawn({"relu1": 16, "relu2": 32, "relu3": 64})
    images = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    folded = check_fold(network.module, gains, images)
    with torch.no_grad(), with_gains(network.module, gain_set(gains)) as module:
        assert torch.allclose(module(images), folded(images), rtol=1e-4, atol=1e-6)
    assert torch.equal(fold_gains(network, gain_set(gains))(images), folded(images))


def test_squeezenet_at_every_activation() -> None:
    module = build_network("torchvision:squeezenet1_1", weights="random").module
    widths: dict[str, int] = {}
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    handles = [
        part.register_forward_hook(lambda _m, _i, out, name=name: widths.__setitem__(name, out.shape[1]))
        for name, part in module.named_modules()
        if isinstance(part, nn.ReLU)
    ]
    module(images)
    for handle in handles:
        handle.remove()
    assert len(widths) == 26
    check_fold(module, drawn(widths), images)


def test_cifar_resnet_where_no_identity_skip_follows() -> None:
    module = randomise_norms(build_network("cifar_resnet20", weights="random").module)
    gains = drawn({"relu": 16, "layer1.1.relu1": 16, "layer2.0.relu1": 32, "layer3.2.bn2": 64})
    check_fold(module, gains, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))


def test_a_module_that_runs_twice_is_gained_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.relu = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU()

        def forward(self, maps: Tensor) -> Tensor:
            return self.relu(self.second(self.relu(self.first(maps))))

    check_fold(Twice(), drawn({"relu": 4}), IMAGES)


@given(
    values=st.lists(st.floats(0.0, 5.0), min_size=4, max_size=4),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=20, deadline=None)
def test_any_gains_in_any_order(values: list[float], seed: int) -> None:
    module = sequence(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    gains = {"2": np.array(values)}
    order = np.random.default_rng(seed).permutation(4)
    folded = fold_gains(module, gain_set(gains, order=order))
    assert torch.allclose(folded(IMAGES), gained(module, gains, IMAGES), rtol=1e-4, atol=1e-5)


def test_ones_change_nothing_and_are_taken_anywhere() -> None:
    module = sequence(nn.Conv2d(4, 4, 3), nn.ReLU6())
    assert torch.equal(fold_gains(module, gain_set({"1": np.ones(4)}))(IMAGES), module(IMAGES))


def test_modes_and_frozen_weights_are_kept() -> None:
    module = sequence(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    module.train()
    module[1].eval()
    module[1].weight.requires_grad_(False)
    folded = fold_gains(module, gain_set({"2": [2.0] * 4}))
    assert [part.training for part in folded.modules()] == [part.training for part in module.modules()]
    assert module[1].training is False
    assert not folded[1].weight.requires_grad
    assert folded[1].bias.requires_grad


def test_tied_weights_stay_what_they_are_elsewhere() -> None:
    module = sequence(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    module[2].weight = module[0].weight
    check_fold(module, drawn({"1": 4}), IMAGES)


@pytest.mark.parametrize(
    "activation", [nn.ReLU6(), nn.SiLU(), nn.GELU(), nn.Sigmoid(), nn.Hardtanh()], ids=lambda a: type(a).__name__
)
def test_bounded_and_smooth_activations_are_refused(activation: nn.Module) -> None:
    module = sequence(nn.Conv2d(4, 4, 3), activation)
    with pytest.raises(ConfigError, match=rf"layer '1' cannot be folded: {type(activation).__name__} \(1\)") as caught:
        fold_gains(module, gain_set({"1": [2.0] * 4}))
    assert "with_gains" in str(caught.value)


def test_efficientnet_lite0_is_refused_backward_at_relu6_and_folded_onward() -> None:
    module = randomise_norms(build_network("efficientnet_lite0", weights="random").module)
    for site in ("blocks.1.0.bn1", "blocks.1.0.bn1.act"):
        with pytest.raises(ConfigError, match=r"ReLU6 \(blocks.1.0.bn1.act\)"):
            fold_gains(module, gain_set({site: np.full(96, 2.0)}), direction="backward")
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    check_fold(module, drawn({"blocks.1.0.bn3": 24, "blocks.2.1.conv_pwl": 40}, signed=True), images)
    check_fold(module, drawn({"blocks.1.0.bn1.act": 96, "blocks.2.1.bn1": 240}, signed=True), images)


def test_negative_gain_behind_a_relu_is_refused() -> None:
    module = sequence(nn.Conv2d(4, 4, 3), nn.ReLU())
    with pytest.raises(ConfigError, match=r"gain of channel 2 is negative \(-0.5\) and would have to pass ReLU \(1\)"):
        fold_gains(module, gain_set({"1": [1.0, 1.0, -0.5, 1.0]}))


def test_identity_skips_are_refused() -> None:
    block = sequence(nn.Conv2d(4, 4, 3), nn.ReLU(), CifarBlock(4, 4, 1))
    with pytest.raises(ConfigError, match=r"layer '2.relu2' cannot be folded: an identity skip"):
        fold_gains(block, gain_set({"2.relu2": [2.0] * 4}))
    resnet = build_network("torchvision:resnet18", weights="random").module
    with pytest.raises(ConfigError, match="an identity skip"):
        fold_gains(resnet, gain_set({"layer1.0.relu": [2.0] * 64}))
    with pytest.raises(ConfigError, match="an identity skip"):
        fold_gains(resnet, gain_set({"layer1.0": [2.0] * 64}))


def test_padded_shortcuts_are_refused_by_name() -> None:
    resnet = build_network("cifar_resnet20", weights="random").module
    with pytest.raises(ConfigError, match=r"identity skip|PaddedShortcut"):
        fold_gains(resnet, gain_set({"layer2.0.relu2": [2.0] * 32}))


def test_another_reader_of_the_map_is_refused() -> None:
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(4, 4, 3), nn.ReLU()

        def forward(self, maps: Tensor) -> Tensor:
            maps = self.conv(maps)
            return torch.cat([self.relu(maps), maps], 1)

    with pytest.raises(ConfigError, match="the map conv before it is also read by cat"):
        fold_gains(Aside(), gain_set({"relu": [2.0] * 4}))


def test_functional_operations() -> None:
    class Functional(nn.Module):
        def __init__(self, act: object) -> None:
            super().__init__()
            self.conv, self.pool, self.act = nn.Conv2d(4, 4, 3), nn.AvgPool2d(2), act

        def forward(self, maps: Tensor) -> Tensor:
            return self.pool(self.act(self.conv(maps)))  # type: ignore[operator]

    check_fold(Functional(torch.relu), drawn({"pool": 4}), IMAGES)
    with pytest.raises(ConfigError, match="the operation tanh, which is no module"):
        fold_gains(Functional(torch.tanh), gain_set({"pool": [2.0] * 4}))


class Sums(nn.Module):
    def __init__(self, operation: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.relu, self.operation = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU(), operation

    def forward(self, maps: Tensor) -> Tensor:
        return self.relu(self.operation(self.a(maps), self.b(maps)))


@pytest.mark.parametrize(
    "operation",
    [
        lambda a, b: torch.add(a, other=b),
        lambda a, b: torch.add(input=a, other=b),
        lambda a, b: torch.add(a, b, alpha=2.0),
        lambda a, b: a.add(other=b, alpha=-0.5),
        lambda a, b: a + a,
    ],
)
def test_sums_of_two_maps_are_folded_however_they_are_called(operation: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    check_fold(Sums(operation), drawn({"relu": 4}), IMAGES)


@pytest.mark.parametrize(
    "operation",
    [
        lambda a, b: torch.add(a, other=1.0),
        lambda a, b: torch.add(input=a, other=1.0),
        lambda a, b: a.add(other=1.0),
        lambda a, b: torch.add(a, 1.0),
        lambda a, b: torch.add(a, a, alpha=b.mean()),
        lambda a, b: torch.sub(a, other=1.0),
        lambda a, b: torch.mul(a, other=b),
        lambda a, b: torch.div(a, other=b),
    ],
)
def test_a_number_that_is_added_is_refused_however_it_is_called(operation: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(RefusedError):
        fold_gains(Sums(operation).eval(), gain_set({"relu": [2.0] * 4}))


def test_weights_that_are_used_twice_or_in_another_way_are_refused() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    with pytest.raises(ConfigError, match="are used 2 times"):
        fold_gains(nn.Sequential(conv, conv, nn.ReLU()), gain_set({"2": [2.0] * 4}))

    class Again(nn.Module):
        """A function takes the weights of a layer too, under its own name or another."""

        def __init__(self, tied: bool) -> None:
            super().__init__()
            self.conv, self.other, self.relu = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU()
            if tied:
                self.other.weight = self.conv.weight

        def forward(self, maps: Tensor) -> Tensor:
            return nn.functional.conv2d(self.relu(self.conv(maps)), self.conv.weight * 2) + self.other(maps)

    for tied, layer in ((False, "relu"), (True, "relu"), (True, "other")):
        with pytest.raises(ConfigError, match="are used 2 times"):
            fold_gains(Again(tied).eval(), gain_set({layer: [2.0] * 4}), direction="backward")
    check_fold(Again(tied=False), drawn({"other": 4}), IMAGES)
    spectral = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)), nn.ReLU())
    with pytest.raises(ConfigError, match=r"cannot be (folded|traced)"):
        fold_gains(spectral, gain_set({"1": [2.0] * 4}))

    class Standardised(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            weight = self.weight / self.weight.norm()
            return nn.functional.conv2d(input, weight, self.bias)

    with pytest.raises(ConfigError, match="Standardised"):
        fold_gains(nn.Sequential(Standardised(4, 4, 3), nn.ReLU()), gain_set({"1": [2.0] * 4}))


def test_a_part_that_hands_its_input_on_is_refused() -> None:
    class HandsOn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.ReLU()

        def forward(self, maps: Tensor) -> Tensor:
            return maps

    class Passing(nn.Module):
        def __init__(self, rest: nn.Module) -> None:
            super().__init__()
            self.conv, self.rest = nn.Conv2d(4, 4, 3), rest

        def forward(self, maps: Tensor) -> Tensor:
            maps = self.conv(maps)
            return maps + self.rest(maps)

    with pytest.raises(ConfigError, match="returns its input"):
        fold_gains(Passing(HandsOn()), gain_set({"rest": [2.0] * 4}))
    with pytest.raises(ConfigError, match="also read by add"):
        fold_gains(Passing(nn.Sequential()), gain_set({"rest": [2.0] * 4}))


def test_networks_that_cannot_be_traced_or_carry_hooks_are_refused() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3)

        def forward(self, maps: Tensor) -> Tensor:
            return self.conv(maps) if maps.sum() > 0 else maps

    with pytest.raises(ConfigError, match="cannot be traced"):
        fold_gains(Branching(), gain_set({"conv": [2.0] * 4}))
    module = sequence(nn.Conv2d(4, 4, 3), nn.ReLU())
    gains = gain_set({"1": [2.0] * 4})
    with with_gains(module, gains), pytest.raises(ConfigError, match="carries hooks"):
        fold_gains(module, gains)


def test_wrong_gains_are_refused() -> None:
    module = sequence(nn.Conv2d(4, 4, 3), nn.ReLU())
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ConfigError, match=r"unknown layer '7'; choose one of: 0, 1"):
        fold_gains(module, gain_set({"7": [2.0] * 4}))
    with pytest.raises(DataError, match="has 4 channels; 3 gains came"):
        fold_gains(module, gain_set({"1": [2.0] * 3}))
    with pytest.raises(DataError, match="finite"):
        fold_gains(module, gain_set({"1": [2.0, np.nan, 1.0, 1.0]}))
    with pytest.raises(DataError, match="each channel once"):
        fold_gains(module, gain_set({"1": [2.0] * 4}).isel(unit=[0, 1, 3]))
    with pytest.raises(SchemaError):
        fold_gains(module, xr.Dataset({"g": ("unit", [1.0])}))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_one_task_is_selected_by_name() -> None:
    module = sequence(nn.Conv2d(4, 4, 3), nn.ReLU())
    gains = xr.concat([gain_set({"1": [2.0] * 4}), gain_set({"1": [3.0] * 4})], dim="task").assign_coords(
        task=["cat", "dog"]
    )
    folded = fold_gains(module, gains, task="dog")
    assert torch.allclose(folded[0].weight, 3 * module[0].weight)
    with pytest.raises(DataError, match="2 tasks"):
        fold_gains(module, gains)
    with pytest.raises(ConfigError, match="unknown task 'cow'"):
        fold_gains(module, gains, task="cow")


def test_a_folded_network_that_answers_otherwise_is_noticed() -> None:
    module = sequence(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), *HEAD)
    gains = gain_set(drawn({"1": 8}))
    folded = fold_gains(module, gains)
    check_folded(module, gains, folded, (4, 10, 10))
    with pytest.raises(ConfigError, match="answers otherwise than the gained one"):
        check_folded(module, gains, module, (4, 10, 10))
