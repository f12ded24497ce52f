"""Where a gain can sit: on what a layer or an operation gives, or, with ".input" behind its name, what a layer takes.

"relu1" is after the nonlinearity, "relu1.input" before it. (Before a ReLU is the same for gains that are not negative;
before a batch norm in training mode a gain is cancelled.) Operations such as `F.relu(x)` or `a + b` are named as
recording names them ("layer1.0.add").
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from featattn_neuro.errors import ConfigError
from featattn_neuro.nets.operations import Operation, Operations, with_operation_modules
from featattn_neuro.nets.selection import LayerPattern, Layers, as_patterns, match_modules, match_names, no_match

INPUT = ".input"
"""What the name of a site ends in that lies before its layer."""


def split_site(module: nn.Module, site: str) -> tuple[str, bool]:
    """The layer of a site, and whether the site is the layer's input. A layer that is really called so goes first.

    >>> split_site(nn.Sequential(nn.ReLU()), "0.input"), split_site(nn.Sequential(nn.ReLU()), "0")
    (('0', True), ('0', False))

    Raises
    ------
    ConfigError : no module of that name; functional operations are found by `operation_sites`.
    """
    names = dict(module.named_modules())
    if site in names and site:
        return site, False
    layer = site.removesuffix(INPUT)
    if layer != site and layer in names and layer:
        return layer, True
    problem = no_match(layer, [name for name in names if name])
    raise ConfigError(
        f"{problem} (a gain sits on the output of a module or of a functional operation, or with {INPUT!r} behind the "
        "name on the input of a module)"
    )


def select_sites(module: nn.Module, sites: Layers) -> list[str]:
    """Names of the sites that patterns mean, each once: in network order, inputs before outputs, operations last.

    A text pattern with ".input" behind it means the inputs of the layers that match without it; else as
    `nets.selection.select_layers`. A text that means no module is looked up among the functional operations of the
    torch.fx graph, as in recording.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    >>> select_sites(net, ["activation", "1.input"]), select_sites(net, "activation.input")
    (['1.input', '1'], ['1.input'])
    """
    wanted: set[tuple[str, bool]] = set()
    operations: set[str] = set()
    known: Operations | None = None
    names = [name for name, _ in module.named_modules() if name]
    for pattern in as_patterns(sites):
        found = match_modules(module, pattern)
        if found:
            wanted.update((name, False) for name in found)
            continue
        before = _without_input(pattern)
        found = [] if before is None else match_modules(module, before)
        if found:
            wanted.update((name, True) for name in found)
            continue
        known = known or _operations(module, pattern)
        matched = match_names(pattern if isinstance(pattern, re.Pattern) else str(pattern), known.names)
        if not matched:
            raise no_match(pattern, [*names, *known.names])
        operations.update(matched)
    chosen = [
        name + (INPUT if before else "") for name in names for before in (True, False) if (name, before) in wanted
    ]
    return chosen + [name for name in (known.names if known else ()) if name in operations]


def _operations(module: nn.Module, pattern: LayerPattern) -> Operations:
    """The functional operations of a network, for a pattern that means no module."""
    missing = no_match(pattern, [name for name, _ in module.named_modules() if name])
    if not isinstance(pattern, str | re.Pattern):
        raise missing
    try:
        return Operations(module)
    except ConfigError as error:
        raise ConfigError(f"{missing}; nor is it a functional operation: {error}") from error


def operation_sites(module: nn.Module, sites: Iterable[str]) -> dict[str, Operation]:
    """The sites that are no module and no module's input, as functional operations.

    Raises
    ------
    ConfigError : neither a module nor an operation; the input of an operation; an operation that cannot be gained.
    """
    modules = {name for name, _ in module.named_modules() if name}
    left = [site for site in sites if site not in modules and site.removesuffix(INPUT) not in modules]
    if not left:
        return {}
    known = _operations(module, left[0])
    found = {}
    for site in left:
        if site.removesuffix(INPUT) != site and site.removesuffix(INPUT) in known.names:
            raise ConfigError(
                f"no gain sits on what goes into the functional operation {site.removesuffix(INPUT)!r}; gain what "
                "gives it"
            )
        if site not in known.names:
            raise no_match(site, [*sorted(modules), *known.names])
        found[site] = known.find(site)
    return found


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


def name_in_copy(changed: nn.Module, layer: str) -> str:
    """The name of a layer in what `with_input_modules` gave: another one where its input is a module before it."""
    return f"{layer}.layer" if isinstance(dict(changed.named_modules()).get(layer), _AfterInput) else layer


def with_site_modules(module: nn.Module, sites: Iterable[str]) -> nn.Module:
    """`module` itself where all sites are outputs of modules; else a copy in which every site is one.

    See `with_input_modules` and `nets.operations.with_operation_modules`; the copy answers as the original, bit for
    bit.

    Raises
    ------
    ConfigError : an unknown site; an operation inside a layer whose input is gained too.
    """
    wanted = list(sites)
    operations = operation_sites(module, wanted)
    others = [site for site in wanted if site not in operations]
    inputs = [layer for layer, before in (split_site(module, site) for site in others) if before]
    for one in operations.values():
        around = [layer for layer in inputs if f"{one.owner}.".startswith(f"{layer}.")]
        if around:
            raise ConfigError(
                f"operation {one.name!r} and the input of layer {around[0]!r} around it cannot be learned together; "
                "gain the layer before instead of the input"
            )
    return with_operation_modules(with_input_modules(module, others), operations.values())
