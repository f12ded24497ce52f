"""Where a gain can sit: on what a layer gives, or, with ".input" behind its name, on what goes into it.

"relu1" is after the nonlinearity, "relu1.input" before it. (Before a ReLU is the same for gains that are not negative;
before a batch norm in training mode a gain is cancelled.)
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from featattn_neuro.errors import ConfigError
from featattn_neuro.nets.selection import LayerPattern, Layers, as_patterns, match_modules, no_match

INPUT = ".input"
"""What the name of a site ends in that lies before its layer."""


def split_site(module: nn.Module, site: str) -> tuple[str, bool]:
    """The layer of a site, and whether the site is the layer's input. A layer that is really called so goes first.

    >>> split_site(nn.Sequential(nn.ReLU()), "0.input"), split_site(nn.Sequential(nn.ReLU()), "0")
    (('0', True), ('0', False))

    Raises
    ------
    ConfigError : unknown layer; a functional operation, which no gain can be placed on.
    """
    names = dict(module.named_modules())
    if site in names and site:
        return site, False
    layer = site.removesuffix(INPUT)
    if layer != site and layer in names and layer:
        return layer, True
    problem = no_match(layer, [name for name in names if name])
    raise ConfigError(
        f"{problem} (a gain sits on a module's output, or with {INPUT!r} behind the name on its input; functional "
        "operations can be recorded but not gained: gain the module before or after)"
    )


def select_sites(module: nn.Module, sites: Layers) -> list[str]:
    """Names of the sites that patterns mean, in network order, inputs before outputs, each once.

    A text pattern with ".input" behind it means the inputs of the layers that match without it; else as
    `nets.selection.select_layers`.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    >>> select_sites(net, ["activation", "1.input"]), select_sites(net, "activation.input")
    (['1.input', '1'], ['1.input'])
    """
    wanted: set[tuple[str, bool]] = set()
    names = [name for name, _ in module.named_modules() if name]
    for pattern in as_patterns(sites):
        found = match_modules(module, pattern)
        if found:
            wanted.update((name, False) for name in found)
            continue
        before = _without_input(pattern)
        found = [] if before is None else match_modules(module, before)
        if not found:
            raise no_match(pattern, names)
        wanted.update((name, True) for name in found)
    return [name + (INPUT if before else "") for name in names for before in (True, False) if (name, before) in wanted]


def _without_input(pattern: LayerPattern) -> str | None:
    return pattern.removesuffix(INPUT) if isinstance(pattern, str) and pattern.endswith(INPUT) else None


class _AfterInput(nn.Module):
    """A layer with its input as a module of its own, so that what works on outputs can work on it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.input = nn.Identity()
        self.layer = layer

    def forward(self, first: Tensor, *others: Any, **named: Any) -> Any:
        """Return what the layer gives."""
        return self.layer(self.input(first), *others, **named)


def with_input_modules(module: nn.Module, sites: Iterable[str]) -> nn.Module:
    """`module` itself where no site is an input; else a copy in which every such site is the output of a module.

    In the copy "relu1.input" is an `nn.Identity` before the layer, which itself is called "relu1.layer" there; the copy
    answers as the original, bit for bit.

    Raises
    ------
    ConfigError : unknown layer; output and input of one layer together (its output has another name in the copy).
    """
    places = [split_site(module, site) for site in sites]
    inputs = [layer for layer, before in places if before]
    both = sorted({layer for layer, before in places if not before} & set(inputs))
    inside = [layer for layer, before in places if not before and any(layer.startswith(f"{i}.") for i in inputs)]
    if both or inside:
        raise ConfigError(
            f"sites inside and around layer {(both or inside)[0]!r} and its input cannot be learned together; "
            "gain the layer before it instead of its input"
        )
    if not inputs:
        return module
    changed = copy.deepcopy(module)
    for layer in sorted(inputs, key=lambda name: -name.count(".")):
        parent, _, child = layer.rpartition(".")
        setattr(changed.get_submodule(parent), child, _AfterInput(changed.get_submodule(layer)))
    return changed
