"""A network that has learned nothing: a copy with shuffled weights, to ask what saliency owes to what was learned."""

from __future__ import annotations

import copy

import torch
from torch import nn


def randomised_network(module: nn.Module, *, seed: int = 0) -> nn.Module:
    """A copy of `module` whose weights are in another order, tensor by tensor (Adebayo et al. 2018, Sanity checks).

    Shuffling keeps every layer's distribution of weights, so maps stay of a usual size, and loses what was learned.
    Convolutions and linear layers, weights and biases; norms keep their scale and their running statistics. The
    network that is given is not altered.

    >>> net = nn.Conv2d(1, 8, 3)
    >>> bool((randomised_network(net).weight == net.weight).all())
    False
    """
    found = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in found.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                for parameter in (part.weight, part.bias):
                    if parameter is not None:
                        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                        parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return found
