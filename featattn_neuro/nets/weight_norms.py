"""Norm of the weights that feed each filter: a rival explanation of any association with gains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from featattn_neuro.nets.hooks import evaluating, hooked


def filter_weight_norms(module: nn.Module, layers: Sequence[str], images: torch.Tensor) -> dict[str, np.ndarray]:
    """L2 norm per filter of the last convolution that ran before each layer and has as many filters, (C,) each.

    Layers without such a convolution are left out.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU())
    >>> _ = nn.init.constant_(net[0].weight, 3.0)
    >>> filter_weight_norms(net, ["1"], torch.zeros(1, 1, 2, 2))
    {'1': array([3.])}
    """
    last: dict[int, np.ndarray] = {}
    found: dict[str, np.ndarray] = {}

    def note(name: str) -> Any:
        def hook(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if isinstance(part, nn.Conv2d):
                weight = part.weight.detach().cpu().double()
                last[part.out_channels] = weight.flatten(1).norm(dim=1).numpy()
            if name in layers and isinstance(output, torch.Tensor) and output.shape[1] in last:
                found[name] = last[output.shape[1]]

        return hook

    wanted = [n for n, part in module.named_modules() if isinstance(part, nn.Conv2d) or n in layers]
    with evaluating(module), torch.no_grad(), hooked(module, {name: note(name) for name in wanted}):
        module(images.clone())
    return found
