"""Which modules a user means: a name, a glob, a regular expression, a type, a stage, or a function."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from featattn_neuro.errors import ConfigError, choose
from featattn_neuro.nets.layers import stage_of

LayerPattern = str | type | Callable[[str, nn.Module], bool]
Layers = LayerPattern | Iterable[LayerPattern]

REGULAR_EXPRESSION = "re:"
"""What a text starts with that is a regular expression, matched against whole names."""


def as_patterns(layers: Layers) -> list[LayerPattern]:
    """One pattern or several, as a list; `ConfigError` if there is none, or one that is no text, type or function."""
    single = isinstance(layers, str) or callable(layers)
    patterns: list[Any] = [layers] if single or not isinstance(layers, Iterable) else list(layers)
    if not patterns:
        raise ConfigError("wanted at least one layer; came none; name a layer, a glob or a stage such as 'conv'")
    for pattern in patterns:
        if not isinstance(pattern, str) and not callable(pattern):
            raise ConfigError(
                f"wanted layers by name, pattern, type or function; came {pattern!r}; name a layer, or a stage such as "
                "'conv'"
            )
        if isinstance(pattern, nn.Module):
            raise ConfigError(
                f"wanted layers by name, pattern, type or function; came a module ({type(pattern).__name__}); give its "
                "name, see list_layers(model)"
            )
    return patterns


def match_names(pattern: str, names: Iterable[str]) -> list[str]:
    """Names that are `pattern`, or that it means as a glob or, after "re:", as a regular expression.

    >>> match_names("re:conv[12]", ["conv1", "conv2", "conv3", "conv11"]), match_names("*3", ["conv1", "conv3"])
    (['conv1', 'conv2'], ['conv3'])
    """
    if pattern.startswith(REGULAR_EXPRESSION):
        try:
            expression = re.compile(pattern.removeprefix(REGULAR_EXPRESSION))
        except re.error as error:
            raise ConfigError(f"layer pattern {pattern!r} is no regular expression ({error}); correct it") from error
        return [name for name in names if expression.fullmatch(name)]
    return [name for name in names if name == pattern] or fnmatch.filter(names, pattern)


def match_modules(
    module: nn.Module, pattern: LayerPattern, modules: Mapping[str, nn.Module] | None = None
) -> list[str]:
    """Names of the modules that one pattern means, in network order; empty if none.

    `modules` : what `module.named_modules()` gives, by name, where the caller has it already.
    """
    modules = {name: part for name, part in (modules or dict(module.named_modules())).items() if name}
    if isinstance(pattern, type):
        return [name for name, part in modules.items() if isinstance(part, pattern)]
    if not isinstance(pattern, str):
        return [name for name, part in modules.items() if pattern(name, part)]
    if pattern in modules:
        return [pattern]
    if pattern in (aliases := _aliases(module)):
        return [aliases[pattern]]
    stages = {name: stage_of(part) for name, part in modules.items()}
    if pattern in stages.values():
        return [name for name, stage in stages.items() if stage == pattern]
    types = {name: type(part).__name__ for name, part in modules.items()}
    if pattern in types.values():
        return [name for name, kind in types.items() if kind == pattern]
    return match_names(pattern, modules)


def _aliases(module: nn.Module) -> dict[str, str]:
    """Further names of a module that is registered twice, to the first one, under which its calls are recorded."""
    first = {id(part): name for name, part in module.named_modules()}
    return {name: first[id(part)] for name, part in module.named_modules(remove_duplicate=False) if name}


def select_layers(module: nn.Module, layers: Layers) -> list[str]:
    """Names of the modules that `layers` means, in network order, each once.

    Parameters
    ----------
    layers : a name; a glob ("layer3.*.relu*"); a regular expression ("re:layer[12]\\..*"), matched against whole
        names; a stage ("conv", "activation"); a type, by class or class name (nn.Conv2d, "Conv2d"); a function
        (name, module) -> bool; or several of these. A name goes before a stage, a stage before a type.

    Raises
    ------
    ConfigError : a name or pattern matches nothing; the message lists the nearest names.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.ReLU())
    >>> select_layers(net, "activation"), select_layers(net, ["2", "0"]), select_layers(net, "re:[01]")
    (['1', '2'], ['0', '2'], ['0', '1'])
    >>> select_layers(net, nn.Conv2d), select_layers(net, lambda name, part: name == "1")
    (['0'], ['1'])
    """
    modules = dict(module.named_modules())
    names = [name for name in modules if name]
    wanted: set[str] = set()
    for pattern in as_patterns(layers):
        found = match_modules(module, pattern, modules)
        if not found:
            raise no_match(pattern, names)
        wanted.update(found)
    return [name for name in names if name in wanted]


def no_match(pattern: LayerPattern, names: Iterable[str]) -> ConfigError:
    """The error for a pattern that means nothing: nearest names, or the table."""
    if isinstance(pattern, str) and not pattern.startswith(REGULAR_EXPRESSION):
        try:
            choose(pattern, names, "layer")
        except ConfigError as error:
            return error
    shown = pattern if isinstance(pattern, str) else getattr(pattern, "__name__", repr(pattern))
    some = ", ".join(list(names)[:40])
    return ConfigError(f"{shown!r} matches no layer; the layers are: {some}; see list_layers(model)")
