"""What to record, decided once: names, patterns and stages become a frozen plan before the first batch."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from featattn_neuro.errors import ConfigError, choose
from featattn_neuro.nets.layers import stage_of

REDUCTIONS = {
    "mean": lambda maps: maps.mean(dim=(2, 3)),
    "max": lambda maps: maps.amax(dim=(2, 3)),
    "sum": lambda maps: maps.sum(dim=(2, 3)),
    "sd": lambda maps: maps.std(dim=(2, 3), correction=0),
    "centre": lambda maps: maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2],
}
"""Reductions over positions: (N, C, H, W) to (N, C)."""


@dataclass(frozen=True)
class RecordingPlan:
    """What will be recorded: layer names in network order, reductions, and the compute batch size."""

    layers: tuple[str, ...]
    stages: tuple[str, ...]
    reductions: tuple[str, ...]
    batch_size: int


def select_layers(module: nn.Module, layers: str | Iterable[str]) -> list[str]:
    """Names of the modules that `layers` means, in network order, each once.

    Parameters
    ----------
    layers : a name, a glob ("layer3.*.relu*"), a stage ("conv", "activation"), or several of these.

    Raises
    ------
    ConfigError : a name or pattern matches nothing; the message lists the nearest names.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.ReLU())
    >>> select_layers(net, "activation"), select_layers(net, ["2", "0"])
    (['1', '2'], ['0', '2'])
    """
    modules = {name: part for name, part in module.named_modules() if name}
    stages = {name: stage_of(part) for name, part in modules.items()}
    wanted: set[str] = set()
    for pattern in [layers] if isinstance(layers, str) else list(layers):
        if pattern in modules:
            found = [pattern]
        elif pattern in stages.values():
            found = [name for name, stage in stages.items() if stage == pattern]
        else:
            found = fnmatch.filter(modules, pattern)
        if not found:
            choose(pattern, modules, "layer")
        wanted.update(found)
    if not wanted:
        raise ConfigError("wanted at least one layer; came none; name a layer, a glob or a stage such as 'conv'")
    return [name for name in modules if name in wanted]


def make_plan(
    module: nn.Module, layers: str | Iterable[str], reduce: str | Sequence[str] = "mean", *, batch_size: int = 32
) -> RecordingPlan:
    """Turn names into a frozen plan; everything unknown fails here, before the first batch."""
    reductions = (reduce,) if isinstance(reduce, str) else tuple(reduce)
    for name in reductions:
        choose(name, REDUCTIONS, "reduction")
    if not reductions or len(set(reductions)) < len(reductions):
        raise ConfigError(f"wanted one or more different reductions; came {reductions}; choose from {list(REDUCTIONS)}")
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1; came {batch_size}")
    names = select_layers(module, layers)
    modules = dict(module.named_modules())
    return RecordingPlan(tuple(names), tuple(stage_of(modules[name]) for name in names), reductions, batch_size)


def unit_ids(layer: str, channels: int, call: int = 0, calls: int = 1) -> list[str]:
    """Stable text ids of a layer's filters; a module that runs several times gets the call in its ids.

    >>> unit_ids("conv1", 2)
    ['conv1/000', 'conv1/001']
    >>> unit_ids("relu", 1, call=1, calls=2)
    ['relu@1/000']
    """
    place = layer if calls == 1 else f"{layer}@{call}"
    return [f"{place}/{channel:03d}" for channel in range(channels)]


def reduce_maps(output: torch.Tensor, reduction: str) -> torch.Tensor:
    """(N, C, H, W) to (N, C) by name; vectors (N, C) have no positions and are copied.

    The result never shares memory with `output`, so a later in-place ReLU cannot alter it.
    """
    if output.ndim == 2:
        return output.clone()
    return REDUCTIONS[reduction](output).clone() if reduction == "centre" else REDUCTIONS[reduction](output)
