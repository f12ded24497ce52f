"""Context managers that change a network for a while and give it back as it was, also when something raises."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from featattn_neuro.errors import ConfigError, choose
from featattn_neuro.nets.batches import own_copy

ForwardHook = Callable[[nn.Module, tuple[Any, ...], Any], Any]


@contextmanager
def hooked(module: nn.Module, hooks: Mapping[str, ForwardHook]) -> Iterator[None]:
    """Register forward hooks on named modules; remove them on the way out, whatever happens.

    >>> net = nn.Sequential(nn.ReLU())
    >>> with hooked(net, {"0": lambda m, inputs, output: output * 2}):
    ...     net(torch.ones(1)).item()
    2.0
    >>> net(torch.ones(1)).item()
    1.0
    """
    modules = dict(module.named_modules())
    targets = [(modules[choose(name, modules, "layer")], hook) for name, hook in hooks.items()]
    handles = []
    try:
        for target, hook in targets:
            handles.append(target.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


class CountsCalls(Protocol):
    """What counts the calls of a module in one pass."""

    calls: int


class CountingAnew:
    """The hook of a network that starts to count calls anew with every pass; a copy counts with its own copy.

    A graph of the network does not call the network itself: who runs one starts the count with `count_anew`.
    """

    def __init__(self, sites: list[Any]) -> None:
        self.sites: list[CountsCalls] = sites

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        for site in self.sites:
            site.calls = 0


def counts_calls(module: nn.Module) -> bool:
    """Whether something acts on single calls of a module here."""
    return any(isinstance(hook, CountingAnew) for part in module.modules() for hook in part._forward_pre_hooks.values())


def count_anew(module: nn.Module) -> None:
    """Start to count calls, as a pass through `module` itself does."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, CountingAnew):
            hook(module, ())


@contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """Put `module` in evaluation mode; give every module's own training flag back on the way out.

    Flags are kept per module, so a part that was frozen in evaluation mode before stays so.

    >>> net = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with evaluating(net):
    ...     [m.training for m in net.modules()]
    [False, False, False]
    >>> [m.training for m in net.modules()]
    [True, True, False]
    """
    flags = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield module
    finally:
        for part, flag in flags:
            part.training = flag


@contextmanager
def preserved(module: nn.Module) -> Iterator[nn.Module]:
    """As `evaluating`, and every parameter's `requires_grad` and `.grad` are given back too."""
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in module.parameters()]
    try:
        with evaluating(module):
            yield module
    finally:
        for parameter, requires_grad, grad in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad


_REGISTERS = frozenset(vars(nn.Module())) - {"training"}
"""Where a module keeps parameters, buffers, parts and hooks."""


@contextmanager
def attributes_kept(module: nn.Module) -> Iterator[nn.Module]:
    """Give every part's plain attributes back: those that a pass, or tracing, sets are as they were on the way out.

    What is registered (parameters, buffers, parts, hooks), and what attributes hold inside, is left alone.

    >>> net = nn.Identity()
    >>> with attributes_kept(net):
    ...     net.last = torch.ones(1)
    >>> hasattr(net, "last")
    False
    """
    before = [(part, type(part), dict(vars(part))) for part in module.modules()]
    try:
        yield module
    finally:
        for part, kind, kept in before:
            now = vars(part)
            if type(part) is not kind:  # a lazy layer that has become a layer
                continue
            for name in set(now) - set(kept) - _REGISTERS:
                del now[name]
            now.update({name: value for name, value in kept.items() if name not in _REGISTERS})


def usable_device(device: str | torch.device) -> torch.device:
    """The device of this name; `ConfigError` for one that is unknown, or that nothing can be computed on here.

    >>> usable_device("cpu").type
    'cpu'
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        hint = " (a GPU of NVIDIA is cuda)" if "gpu" in str(device).lower() else ""
        raise ConfigError(
            f"unknown device {str(device)!r}{hint}; choose cpu, cuda, or one of several: cuda:1"
        ) from None
    if found.type == "cpu":
        return found
    try:  # there is no other way to know: builds, drivers and devices can each be absent
        torch.zeros(1, device=found).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"device {str(found)!r} cannot be used here ({reason}); choose cpu") from None
    return found


def settle_memory_format(module: nn.Module, images: torch.Tensor) -> torch.memory_format:
    """Put a network into channels-last memory, or leave it contiguous where it cannot run so; return which.

    Channels last is faster, but `x.view(n, -1)` behind maps needs them contiguous. One pass in evaluation mode tells.

    >>> settle_memory_format(nn.Conv2d(1, 2, 1), torch.zeros(1, 1, 2, 2))
    torch.channels_last
    """
    found = torch.channels_last
    module.to(memory_format=found)
    with torch.no_grad(), evaluating(module):
        try:
            module(own_copy(images, images.device, found))
        except RuntimeError:
            found = torch.contiguous_format
            module.to(memory_format=found)
            module(own_copy(images, images.device, found))  # what was wrong with something else is raised here
    return found


@contextmanager
def placed(module: nn.Module, device: str | torch.device | None) -> Iterator[torch.device]:
    """Have `module` on `device` for a while (None: where it is); bring it back to where it was on the way out.

    A module whose parameters lie on several devices must not be moved: give no device. `ConfigError` for a device that
    is unknown or not here.

    >>> with placed(nn.Linear(1, 1), None) as device:
    ...     device.type
    'cpu'
    """
    places = {parameter.device for parameter in module.parameters()} | {buffer.device for buffer in module.buffers()}
    home = next(iter(places)) if len(places) == 1 else None
    wanted = (home or torch.device("cpu")) if device is None else usable_device(device)
    if home is None or home == wanted or (home.type == wanted.type and wanted.index is None):
        if len(places) > 1 and device is not None:
            raise ConfigError(f"the network lies on several devices ({len(places)}); leave device= out")
        yield home or wanted
        return
    try:
        module.to(wanted)
        yield wanted
    finally:
        module.to(home)


def channel_axis(output: torch.Tensor, layer: str) -> int:
    """Axis of the filters in a layer's output: 1 for maps (N, C, H, W) and vectors (N, C); others are refused.

    >>> channel_axis(torch.zeros(2, 8, 4, 4), "conv1")
    1
    """
    from featattn_neuro.errors import DataError

    if not isinstance(output, torch.Tensor) or output.ndim not in (2, 4):
        came = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise DataError(
            f"layer {layer!r} must give maps (N, C, H, W) or vectors (N, C); came {came}; choose a layer inside it"
        )
    return 1
