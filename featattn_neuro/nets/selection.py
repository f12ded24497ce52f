"""Which modules a user means: a name, a glob, a regular expression, a type, a stage, or a function."""

from __future__ import annotations

import fnmatch
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from featattn_neuro.errors import ConfigError, choose
from featattn_neuro.nets.layers import stage_of

LayerPattern = str | re.Pattern[str] | type | Callable[[str, nn.Module], bool]
Layers = LayerPattern | Iterable[LayerPattern]

REGULAR_EXPRESSION = "re:"
"""What a text starts with that is a regular expression, matched against whole names."""

STAGE, TYPE = "stage:", "type:"
"""What a text starts with that is a stage or a type, also where a module has that name."""


def as_patterns(layers: Layers) -> list[LayerPattern]:
    """One pattern or several, as a list; `ConfigError` if there is none, or one that is no text, compiled expression,
    type, or function (name, module) -> bool.
    """
    single = isinstance(layers, str) or callable(layers)
    patterns: list[Any] = [layers] if single or not isinstance(layers, Iterable) else list(layers)
    if not patterns:
        raise ConfigError("wanted at least one layer; came none; name a layer, a glob or a stage such as 'conv'")
    for pattern in patterns:
        compiled = isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str)
        if not isinstance(pattern, str) and not callable(pattern) and not compiled:
            raise ConfigError(
                f"wanted layers by name, pattern, type or function; came {pattern!r}; name a layer, or a stage such as "
                "'conv'"
            )
        if isinstance(pattern, nn.Module):
            raise ConfigError(
                f"wanted layers by name, pattern, type or function; came a module ({type(pattern).__name__}); give its "
                "name, see list_layers(model)"
            )
        if callable(pattern) and not isinstance(pattern, type):
            _check_takes_two(pattern)
    return patterns


def _check_takes_two(function: Callable[..., Any]) -> None:
    try:
        inspect.signature(function).bind("name", nn.Identity())
    except TypeError as error:
        raise ConfigError(
            f"wanted a function (name, module) -> bool to choose layers by; {function!r} takes other arguments "
            f"({error}); write for instance lambda name, module: name.endswith('conv1')"
        ) from None
    except ValueError:  # written in C without a signature
        return


def match_names(pattern: str | re.Pattern[str], names: Iterable[str]) -> list[str]:
    """Names that are `pattern`, or that it means as a glob or, after "re:" or compiled, as a regular expression.

    >>> match_names("re:conv[12]", ["conv1", "conv2", "conv3", "conv11"]), match_names("*3", ["conv1", "conv3"])
    (['conv1', 'conv2'], ['conv3'])
    """
    if isinstance(pattern, re.Pattern):
        return [name for name in names if pattern.fullmatch(name)]
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
    if isinstance(pattern, re.Pattern):
        return match_names(pattern, modules)
    if not isinstance(pattern, str):
        return [name for name, part in modules.items() if pattern(name, part)]
    if pattern in modules:
        return [pattern]
    if pattern in (aliases := _aliases(module)):
        return [aliases[pattern]]
    stage = [name for name, part in modules.items() if stage_of(part) == pattern.removeprefix(STAGE)]
    if stage or pattern.startswith(STAGE):
        return stage
    kind = [name for name, part in modules.items() if type(part).__name__ == pattern.removeprefix(TYPE)]
    return kind if kind or pattern.startswith(TYPE) else match_names(pattern, modules)


def _aliases(module: nn.Module) -> dict[str, str]:
    """Further names of a module that is registered twice, to the first one, under which its calls are recorded."""
    first = {id(part): name for name, part in module.named_modules()}
    return {name: first[id(part)] for name, part in module.named_modules(remove_duplicate=False) if name}


def select_layers(module: nn.Module, layers: Layers) -> list[str]:
    """Names of the modules that `layers` means, in network order, each once.

    Parameters
    ----------
    layers : a name; a glob ("layer3.*.relu*"); a regular expression ("re:layer[12]\\..*", or compiled), matched against
        whole names; a stage ("conv", "activation"); a type, by class or class name (nn.Conv2d, "Conv2d"); a function
        (name, module) -> bool; or several of these. A name goes before a stage, a stage before a type: "stage:norm" and
        "type:Conv2d" are never taken for a name.

    Raises
    ------
    ConfigError : a name or pattern matches nothing, and the message lists the nearest names; a function that takes
        other arguments.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.ReLU())
    >>> select_layers(net, "activation"), select_layers(net, ["2", "0"]), select_layers(net, "re:[01]")
    (['1', '2'], ['0', '2'], ['0', '1'])
    >>> select_layers(net, nn.Conv2d), select_layers(net, lambda name, part: name == "1")
    (['0'], ['1'])
    >>> timm_like = nn.ModuleDict({"norm": nn.LayerNorm(1), "other": nn.LayerNorm(1)})
    >>> select_layers(timm_like, "norm"), select_layers(timm_like, "stage:norm")
    (['norm'], ['norm', 'other'])
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
    if isinstance(pattern, str) and not pattern.startswith((REGULAR_EXPRESSION, STAGE, TYPE)):
        try:
            choose(pattern, names, "layer")
        except ConfigError as error:
            return error
    told = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
    shown = told if isinstance(told, str) else getattr(told, "__name__", repr(told))
    some = ", ".join(list(names)[:40])
    return ConfigError(f"{shown!r} matches no layer; the layers are: {some}; see list_layers(model)")
