"""Small networks defined here: the digits network and the CIFAR-10 ResNets. Every nonlinearity is a named module.

A gain is placed after a nonlinearity, so a nonlinearity must be a module that a hook can find; none works in place, so
what is recorded before it is what the convolution gave.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from featattn_neuro.errors import ConfigError, choose


class GlobalMean(nn.Module):
    """Mean over all positions of each map: (N, C, H, W) -> (N, C).

    >>> GlobalMean()(torch.tensor([[[[1.0, 3.0]]]])).tolist()
    [[2.0]]
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Return the spatial mean of `maps` (N, C, H, W) as (N, C)."""
        return maps.mean(dim=(2, 3))


class DigitsCNN(nn.Module):
    """Three convolutions (16, 32, 64 filters) with ReLU, global mean, linear; biases, no batch norm.

    Input (N, 1, H, W) in [0, 1], usually 28 x 28; output (N, num_classes) logits. The maps after `relu1`, `relu2` and
    `relu3` are 28 x 28, 14 x 14 and 7 x 7 for a 28 x 28 input. 23,946 numbers for ten classes.

    Parameters
    ----------
    num_classes : number of logits, at least 1.

    Raises
    ------
    ConfigError : `num_classes` below 1.

    Examples
    --------
    >>> network = DigitsCNN()
    >>> sum(p.numel() for p in network.parameters())  # 160 + 4640 + 18496 + 650
    23946
    >>> tuple(network(torch.zeros(2, 1, 28, 28)).shape)
    (2, 10)
    """

    def __init__(self, *, num_classes: int = 10) -> None:
        super().__init__()
        _check_classes(num_classes)
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1)
        self.relu3 = nn.ReLU()
        self.mean = GlobalMean()
        self.head = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) of `images` (N, 1, H, W)."""
        maps = self.pool1(self.relu1(self.conv1(images)))
        maps = self.pool2(self.relu2(self.conv2(maps)))
        maps = self.relu3(self.conv3(maps))
        return self.head(self.mean(maps))


class PaddedShortcut(nn.Module):
    """Shortcut "A" of He et al. (2016): every `stride`-th position, new channels zero; no weights.

    >>> PaddedShortcut(2, 4)(torch.ones(1, 2, 4, 4)).sum(dim=(2, 3)).tolist()
    [[0.0, 4.0, 4.0, 0.0]]
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.pad = (outputs - inputs) // 2

    def forward(self, maps: Tensor) -> Tensor:
        """Return `maps` (N, C, H, W) at half the resolution with zero maps on both sides of the channels."""
        return functional.pad(maps[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))


class CifarBlock(nn.Module):
    """conv - norm - ReLU - conv - norm, plus the shortcut, ReLU (He et al. 2016, Figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = PaddedShortcut(inputs, outputs) if stride != 1 or inputs != outputs else nn.Identity()
        self.relu2 = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """Return the block's output for `maps` (N, C, H, W)."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(maps)))))
        return self.relu2(residual + self.shortcut(maps))


class CifarResNet(nn.Module):
    """CIFAR-10 ResNet of depth 6n + 2 (He et al. 2016, section 4.2): 16, 32, 64 filters, shortcuts "A".

    Input (N, 3, 32, 32), ImageNet mean and SD removed; output (N, num_classes) logits. Parameter names are those of
    the public weights of akamaster/pytorch_resnet_cifar10, so that its files load as they are.

    Parameters
    ----------
    depth : 20, 32, 44, 56, …: 6n + 2 with n >= 1.
    num_classes : number of logits, at least 1.

    Raises
    ------
    ConfigError : a depth that is not 6n + 2, or `num_classes` below 1.

    Examples
    --------
    >>> round(sum(p.numel() for p in CifarResNet(20).parameters()) / 1e6, 2)  # Table 6 of the paper: 0.27 M
    0.27
    """

    def __init__(self, depth: int, *, num_classes: int = 10) -> None:
        super().__init__()
        _check_classes(num_classes)
        if depth < 8 or (depth - 2) % 6:
            raise ConfigError(f"a CIFAR ResNet has depth 6n + 2 (20, 32, 44, 56, …); came {depth}; choose one of these")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.mean = GlobalMean()
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) of `images` (N, 3, H, W)."""
        maps = self.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        return self.linear(self.mean(maps))


def _stage(inputs: int, outputs: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = CifarBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(CifarBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


def _check_classes(num_classes: int) -> None:
    if num_classes < 1:
        raise ConfigError(f"num_classes must be at least 1; came {num_classes}; say how many classes the head has")


ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {
    "digits_cnn": lambda classes: DigitsCNN(num_classes=classes),
    "cifar_resnet20": lambda classes: CifarResNet(20, num_classes=classes),
    "cifar_resnet32": lambda classes: CifarResNet(32, num_classes=classes),
    "cifar_resnet56": lambda classes: CifarResNet(56, num_classes=classes),
}
"""Networks defined in this module, by name: number of classes -> module in train mode, weights drawn."""


def build_architecture(name: str, *, num_classes: int = 10, seed: int = 0) -> nn.Module:
    """Return the named network in eval mode, its weights drawn from `seed`; the global generator is left alone.

    Parameters
    ----------
    name : a key of `ARCHITECTURES`.
    num_classes : number of logits.
    seed : of the weights.

    Raises
    ------
    ConfigError : unknown name, or impossible `num_classes`.

    Examples
    --------
    >>> first, second = build_architecture("digits_cnn", seed=3), build_architecture("digits_cnn", seed=3)
    >>> bool((first.conv1.weight == second.conv1.weight).all())
    True
    """
    make = ARCHITECTURES[choose(name, ARCHITECTURES, "architecture")]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(num_classes).eval()
