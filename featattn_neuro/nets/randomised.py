"""A network that has learned nothing: a copy with shuffled weights, to ask what saliency owes to what was learned."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def randomised_network(module: nn.Module, *, seed: int = 0) -> nn.Module:
    """A copy of `module` whose weights are in another order, tensor by tensor (Adebayo et al. 2018, Sanity checks).

    Shuffling keeps every layer's distribution of weights, so maps stay of a usual size, and loses what was learned.
    Convolutions and linear layers, weights and biases; norms keep their scale and their running statistics. Weights
    that are computed from others (weight norm, spectral norm) are shuffled as the layer uses them, and are plain
    numbers in the copy. The network that is given is not altered.

    >>> net = nn.Conv2d(1, 8, 3)
    >>> bool((randomised_network(net).weight == net.weight).all())
    False
    """
    found = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in list(found.modules()):
            if isinstance(part, nn.Conv2d | nn.Linear):
                _make_plain(part)
                for parameter in (part.weight, part.bias):
                    if parameter is not None:
                        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                        parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return found


def _make_plain(part: nn.Module) -> None:
    """Put what a layer uses in the place of what it computes it from: a pass would compute the old weights again."""
    if parametrize.is_parametrized(part):
        used = {name: getattr(part, name).detach().clone() for name in part.parametrizations}  # type: ignore[union-attr]
        # not remove_parametrizations: the class that it alters is that of the network that was given, too
        part.__class__ = parametrize.type_before_parametrizations(part)
        del part.parametrizations
        for name, values in used.items():
            part.register_parameter(name, nn.Parameter(values))
    for hook in list(part._forward_pre_hooks.values()):  # the older form of both norms
        if isinstance(hook, WeightNorm):
            remove_weight_norm(part, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(part, hook.name)
