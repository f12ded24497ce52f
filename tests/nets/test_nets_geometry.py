"""Places of cells against receptive fields that are measured: which columns of pixels move a cell."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.architectures import PaddedShortcut
from featattn_neuro.nets.geometry import Grid, layer_grid, layer_grids, measured_field
from featattn_neuro.nets.listing import run_layers


def made_positive(net: nn.Module) -> nn.Module:
    """All weights the same positive number, no biases: a cell is positive where it sees a lit pixel, 0 elsewhere."""
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.constant_(part.weight, 1 / part.weight[0].numel() ** 0.5)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return net.eval()


def seen_columns(net: nn.Module, layer: str, channels: int, size: int) -> np.ndarray:
    """(column of pixels, cell) bool for the middle row of cells."""
    lit = torch.eye(size)[:, None, None, :].expand(size, channels, size, size)
    maps: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda m, i, output: maps.append(output.clone()))
    with torch.no_grad():
        net(lit)
    handle.remove()
    return (maps[0][:, :, maps[0].shape[2] // 2] > 0).any(dim=1).numpy()


def small(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(*parts)


def alexnet_start() -> nn.Module:
    return small(nn.Conv2d(1, 1, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(1, 1, 5, padding=2))


def timm_same() -> nn.Module:
    return build_network("efficientnet_lite0", weights="random").module


def cifar() -> nn.Module:
    return build_network("cifar_resnet20", weights="random").module


class Branches(nn.Module):
    """Two branches joined by `cat`, one through a step of unknown geometry."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.relu = nn.Conv2d(1, 1, 5, 2, 2), nn.Conv2d(1, 1, 1, 2), nn.ReLU()
        self.shortcut = PaddedShortcut(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.relu(torch.cat([self.narrow(images), self.wide(images)], 1) + self.shortcut(images))


@pytest.mark.parametrize(
    ("net", "layer", "channels", "size"),
    [
        (lambda: build_network("digits_cnn").module, "relu3", 1, 28),
        (lambda: small(nn.Conv2d(1, 1, 5, padding=2, dilation=1), nn.AvgPool2d(3, 2, 1), nn.ReLU()), "2", 1, 17),
        (lambda: small(nn.Conv2d(1, 1, 3, dilation=3), nn.MaxPool2d(3, 2, ceil_mode=True)), "1", 1, 18),
        (lambda: small(nn.Conv2d(1, 1, 3, padding="valid"), nn.Conv2d(1, 1, 4, padding="same")), "1", 1, 12),
        (alexnet_start, "3", 1, 63),
        (Branches, "relu", 1, 16),
        (cifar, "layer1.1.relu2", 3, 32),
        (cifar, "layer2.0", 3, 32),
        (timm_same, "blocks.1.1.bn2.act", 3, 64),
        (timm_same, "blocks.1.0.bn2", 3, 63),
        (timm_same, "blocks.2.0.conv_dw", 3, 65),
    ],
)  # fmt: skip
def test_places_against_measured_receptive_fields(net: Any, layer: str, channels: int, size: int) -> None:
    module = made_positive(net())
    seen = seen_columns(module, layer, channels, size)
    grid = layer_grid(module, layer, image_size=size, cells=seen.shape[1])
    assert grid is not None
    measured = 0
    for cell, centre in enumerate(grid.centres(seen.shape[1])):
        columns = np.flatnonzero(seen[:, cell])
        first, last = centre - (grid.size - 1) / 2, centre + (grid.size - 1) / 2
        if first >= 0 and last <= size - 1:  # dilation leaves holes, so the ends are what is compared
            assert (columns[0], columns[-1]) == (first, last), cell
            measured += 1
        else:
            assert columns[0] >= max(0, math.floor(first)), cell
            assert columns[-1] <= min(size - 1, math.ceil(last)), cell
    assert measured > 0


class Functional(nn.Module):
    def __init__(self, step: Any) -> None:
        super().__init__()
        self.conv, self.relu, self.step = nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), step

    def forward(self, images: Tensor) -> Tensor:
        return self.relu(self.step(self.conv(images)))


@pytest.mark.parametrize(
    "step",
    [
        lambda x: functional.max_pool2d(x, 2),
        lambda x: functional.interpolate(x, scale_factor=2),
        lambda x: x[:, :, ::2, ::2],
        lambda x: x.transpose(2, 3),
    ],
)
def test_no_place_is_guessed_after_an_unknown_step(step: Any) -> None:
    net = Functional(step)
    assert layer_grid(net, "conv") == Grid(0, 1, 3)
    assert layer_grid(net, "relu") is None


@pytest.mark.parametrize("part", [nn.Upsample(scale_factor=2), nn.Conv2d(1, 1, (1, 3)), nn.AdaptiveAvgPool2d(2)])
def test_no_place_after_a_part_of_unknown_geometry(part: nn.Module) -> None:
    net = nn.Sequential(part, nn.ReLU())
    assert layer_grid(net, "1") is None


def test_no_place_where_the_trace_and_the_map_disagree() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3))
    assert layer_grid(net, "0", image_size=8, cells=6) == Grid(1, 1, 3)
    assert layer_grid(net, "0", image_size=8, cells=8) is None
    assert layer_grid(timm_same(), "conv_stem") is None  # "same" padding: the image size must be known


def test_untraceable_networks_and_idle_layers() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.idle = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.conv(images) if images.sum() > 0 else images

    class Idle(Branching):
        def forward(self, images: Tensor) -> Tensor:
            return self.conv(images)

    assert layer_grid(Branching(), "conv") is None
    assert layer_grid(Idle(), "idle") is None
    assert layer_grid(Idle(), "conv") == Grid()


ARCHITECTURES = [
    ("digits_cnn", (1, 28, 28)),
    ("cifar_resnet20", (3, 32, 32)),
    ("efficientnet_lite0", (3, 96, 80)),
    ("features of alexnet", (3, 127, 127)),
    ("features of vgg11", (3, 64, 64)),
    ("torchvision:resnet18", (3, 64, 96)),
    ("torchvision:mobilenet_v2", (3, 64, 64)),
    ("features of mobilenet_v3_small", (3, 64, 64)),
]


def architecture(name: str) -> nn.Module:
    """The network; of those with large classifiers (behind a pooling without a grid) the layers before it."""
    if not name.startswith("features of "):
        return build_network(name, weights="random").module.eval()
    import torchvision

    with torch.device("meta"):  # weights play no part: where a cell sees is measured with weights all alike
        whole = torchvision.models.get_model(name.removeprefix("features of "))
    return whole.features.to_empty(device="cpu").eval()


def expected_ends(grid: Grid, cell: int, pixels: int) -> tuple[int, int]:
    """First and last pixel of a cell's receptive field, inside the image."""
    centre, half = grid.centres(cell + 1)[cell], (grid.size - 1) / 2
    return max(0, math.ceil(centre - half)), min(pixels - 1, math.floor(centre + half))


@pytest.mark.parametrize(("name", "shape"), ARCHITECTURES)
def test_every_layer_of_known_architectures_against_measured_gradients(name: str, shape: tuple[int, int, int]) -> None:
    """Layers spread over the depth, up to the last one with positions; a cell near the middle and the first one."""
    module = architecture(name)
    maps = [info for info in run_layers(module, shape) if len(info.output_shape) == 3 and info.calls == 1]
    maps = [info for info in maps if info.output_shape[1] > 1]
    chosen = maps[:: max(1, len(maps) // 6)] + maps[-1:]
    cells = {info.name: info.output_shape[1:] for info in chosen}
    found = layer_grids(module, list(cells), image_size=shape[1:], cells=cells)
    assert len(chosen) >= 5
    smaller = 0
    for layer, (height, width) in cells.items():
        place = found[layer]
        assert place is not None, layer
        for cell in ((height // 2, width // 2), (0, 0)):
            measured = measured_field(module, layer, shape, cell)
            wanted = tuple(
                expected_ends(grid, k, n)
                for grid, k, n in zip((place.rows, place.columns), cell, shape[1:], strict=True)
            )
            assert measured == wanted, (layer, cell)
            smaller += measured[0][1] - measured[0][0] + 1 < shape[1]
    assert smaller >= 5  # not only layers that see the whole image


def test_rows_and_columns_may_differ() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, (3, 5), stride=(2, 1), padding=(1, 0)), nn.MaxPool2d((1, 2)))
    place = layer_grids(net, ["1"], image_size=(9, 12))["1"]
    assert place is not None
    assert (place.rows, place.columns) == (Grid(0, 2, 3), Grid(2.5, 2, 6))
    assert measured_field(net, "1", (1, 9, 12), (2, 1)) == ((3, 5), (2, 7))
    assert layer_grid(net, "1") is None


def test_adaptive_pooling_is_pooling_where_cells_divide() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.AdaptiveAvgPool2d((2, None)))
    place = layer_grids(net, ["1"], image_size=(8, 6))["1"]
    assert place is not None
    assert (place.rows, place.columns) == (Grid(1.5, 4, 6), Grid(0, 1, 3))
    assert layer_grids(net, ["1"], image_size=(7, 6))["1"] is None
    assert layer_grids(net, ["1"])["1"] is None


class Gated(nn.Module):
    """A map times a gate from all of it, as in squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.squeeze = nn.Conv2d(1, 2, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 2, 1)
        self.relu = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        return self.relu(maps * self.squeeze(self.pool(maps)))


@pytest.mark.parametrize("cells", [None, {"relu": (6, 6)}])
def test_a_gate_has_no_place(cells: Any) -> None:
    place = layer_grids(Gated(), ["relu"], image_size=(12, 12), cells=cells)["relu"]
    assert place is not None
    assert place.rows == place.columns == Grid(0, 2, 3)
    assert measured_field(Gated(), "relu", (1, 12, 12), (2, 2)) == ((3, 5), (3, 5))
    assert measured_field(Gated(), "squeeze", (1, 12, 12), (0, 0)) == ((0, 11), (0, 11))


class TwiceRelu(nn.Module):
    """One module that runs behind both convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        return self.relu(self.second(self.relu(self.first(images))))


def test_the_field_of_a_module_that_runs_twice_is_that_of_its_first_call() -> None:
    assert measured_field(TwiceRelu(), "relu", (1, 9, 9), (4, 4)) == ((3, 5), (3, 5))


def test_unknown_layers_are_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown layer 'relo'; choose one of: .*did you mean 'relu'"):
        layer_grids(Gated(), ["relo"])


def test_a_field_that_cannot_be_measured() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten())
    with pytest.raises(DataError, match=r"wanted a cell \(row, column\) of maps \(1, 1, 3, 3\) at '0'; came \(3, 0\)"):
        measured_field(net, "0", (1, 5, 5), (3, 0))
    with pytest.raises(DataError, match="wanted a cell"):
        measured_field(net, "1", (1, 5, 5), (0, 0))
    assert not any(part._forward_hooks for part in net.modules())
