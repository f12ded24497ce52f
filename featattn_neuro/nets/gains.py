"""Placing gains: factors (and shifts) on what a layer gives or takes, for the length of a `with`.

Nothing is written into the network: a hook multiplies a copy of the map, so leaving the `with` gives back the very
bits, nothing is ever divided out, and a gain of 0 is a lesion that can be undone. The map itself is not touched, so an
operation that works in place before or behind the site sees what it should.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.nets.channels import ChannelAxis, ChannelRule, checked_axes, open_axis
from featattn_neuro.nets.hooks import CountingAnew, hooked
from featattn_neuro.nets.modulation import COMBINATIONS
from featattn_neuro.nets.operations import acting_on
from featattn_neuro.nets.sites import operation_sites, split_site
from featattn_neuro.schema import GAINS

if TYPE_CHECKING:
    import xarray as xr

_BESIDE = {"shift": "shifts", "spatial": "gains per position"}


def one_set(gains: xr.Dataset, task: str | None = None) -> xr.Dataset:
    """GAINS of one task; a clear error where the task is missing or must be named."""
    checked = GAINS.check(gains)
    if "task" in checked["gain"].dims:
        names = [str(name) for name in checked["task"].values]
        if task is None and len(names) > 1:
            raise DataError(f"these gains hold {len(names)} tasks ({', '.join(names)}); say which with task=")
        checked = checked.sel(task=choose(task if task is not None else names[0], names, "task"), drop=True)
    elif task is not None and "task" not in gains.coords:
        raise DataError(f"wanted gains of task {task!r}; these gains are of one task without a name; leave out task=")
    elif task is not None and str(gains.coords["task"].item()) != task:
        raise DataError(f"wanted gains of task {task!r}; came gains of {gains.coords['task'].item()!r}; name that task")
    extra = [str(dim) for dim in checked["gain"].dims if dim != "unit"]
    if extra:
        raise DataError(f"wanted one gain per unit; came dimensions {checked['gain'].dims}; select along {extra} first")
    return checked


def one_gain_set(gains: xr.Dataset, task: str | None = None) -> xr.DataArray:
    """The `gain(unit)` of one task of a GAINS Dataset; a clear error where the task is missing or must be named."""
    return one_set(gains, task)["gain"]


def gains_by_layer(gains: xr.Dataset, task: str | None = None) -> dict[str, np.ndarray]:
    """Layer name to gains ordered by channel, of sets that hold one factor per filter and nothing else.

    `DataError` for a gap in the channels, a gain that is not finite, and sets with shifts, gains per position or gains
    per call: what cannot handle those must not drop them unseen.
    """
    sites = site_gains(gains, task)
    out = {}
    for (layer, call), site in sites.items():
        beside = [name for part, name in _BESIDE.items() if getattr(site, part) is not None]
        beside += ["gains of one call"] if call is not None else []
        if beside:
            raise DataError(
                f"wanted one factor per filter; layer {layer!r} has {' and '.join(beside)} too; use with_gains, which "
                "places them all"
            )
        out[layer] = site.gain
    return out


@dataclass(frozen=True)
class SiteGains:
    """What acts at one site, y -> f y + b: gain (C,), shift b (C,) or None, spatial (H, W) or None."""

    gain: np.ndarray
    shift: np.ndarray | None = None
    spatial: np.ndarray | None = None
    combination: str = "multiplicative"

    def factor(self, axis: int, ndim: int) -> np.ndarray | None:
        """Factor that broadcasts over outputs with filters on `axis`; None where it is 1 everywhere."""
        gain = self.gain.reshape([-1 if place == axis else 1 for place in range(ndim)])
        if self.spatial is None:
            return None if (self.gain == 1).all() else gain
        spatial = np.expand_dims(self.spatial, (0, axis))
        return gain * spatial if self.combination == "multiplicative" else gain + (spatial - 1)


def site_gains(gains: xr.Dataset, task: str | None = None) -> dict[tuple[str, int | None], SiteGains]:
    """(Site, call) to what acts there, of one task of GAINS; call None = every call of the layer.

    A set tells calls apart where a coordinate `call` has another value than 0 for the layer.

    Raises
    ------
    DataError : a gap in the channels, a number that is not finite, positions that are no full grid.
    """
    one = one_set(gains, task)
    layers = one["layer"].values.astype(str)
    calls = one["call"].values if "call" in one.coords else np.zeros(len(layers), dtype=int)
    spatial = _spatial_by_layer(one)
    combination = str(one.attrs.get("combination", "multiplicative"))
    choose(combination, COMBINATIONS, "combination")
    out: dict[tuple[str, int | None], SiteGains] = {}
    for layer in dict.fromkeys(layers.tolist()):
        here = layers == layer
        several = bool((calls[here] != 0).any())
        for call in np.unique(calls[here]) if several else (None,):
            mine = here if call is None else here & (calls == call)
            channel = one["channel"].values[mine]
            order = np.argsort(channel)
            if not (channel[order] == np.arange(len(channel))).all():
                raise DataError(
                    f"gains of layer {layer!r} must name each channel once, 0 to n - 1; came {sorted(channel)}"
                )
            values = {
                name: _finite(one[name].values[mine], channel, layer, plural)[order]
                for name, plural in (("gain", "gains"), ("shift", "shifts"))
                if name in one
            }
            key = None if call is None else int(call)
            out[str(layer), key] = SiteGains(
                values["gain"], values.get("shift"), spatial.get(str(layer)), combination
            )  # fmt: skip
    return out


def _finite(values: np.ndarray, channel: np.ndarray, layer: str, what: str) -> np.ndarray:
    numbers = np.asarray(values, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise DataError(
            f"{what} of layer {layer!r} must be finite; channel {channel[~np.isfinite(numbers)].min()} is not"
        )
    return numbers


def _spatial_by_layer(one: xr.Dataset) -> dict[str, np.ndarray]:
    if "spatial" not in one:
        return {}
    value = np.asarray(one["spatial"].values, dtype=np.float64)
    layers = one["position_layer"].values.astype(str)
    y, x = one["position_y"].values, one["position_x"].values
    unknown = sorted(set(layers.tolist()) - set(one["layer"].values.astype(str).tolist()))
    if unknown:
        raise DataError(f"gains per position of layer {unknown[0]!r} need its filters too; give them the gain 1")
    out = {}
    for layer in dict.fromkeys(layers.tolist()):
        mine = layers == layer
        shape = (int(y[mine].max()) + 1, int(x[mine].max()) + 1)
        grid = np.full(shape, np.nan)
        grid[y[mine], x[mine]] = value[mine]
        if mine.sum() != grid.size or not np.isfinite(grid).all():
            raise DataError(f"gains per position of layer {layer!r} must name each position once and be finite")
        out[str(layer)] = grid
    return out


class _Site:
    """The hook of one site of a module: finds the filters' axis, keeps factors by type and device, counts calls."""

    def __init__(
        self, layer: str, part: str, entering: bool, per_call: Mapping[int | None, SiteGains], rule: ChannelRule
    ) -> None:
        self.layer, self.part, self.per_call, self.rule, self.entering = layer, part, per_call, rule, entering
        self.calls = 0
        self.made: dict[Any, tuple[torch.Tensor | None, torch.Tensor | None]] = {}
        self.taken: dict[Any, tuple[int, torch.Size]] = {}  # axis and shape, by what tells them apart

    def after(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        return self.apply(output)

    def before(self, module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        if not inputs:
            raise DataError(f"layer {self.layer!r} takes its input by name, so no gain can be placed on it")
        return (self.apply(inputs[0]), *inputs[1:])

    def apply(self, value: Any) -> Any:
        call = None if None in self.per_call else self.calls
        self.calls += 1
        site = self.per_call.get(call)
        if site is None:
            return value
        axis = self._axis(value, len(site.gain))
        if site.spatial is not None and (value.ndim != 4 or self._places(value, axis) != site.spatial.shape):
            raise DataError(
                f"gains per position of layer {self.layer!r} are for maps of {site.spatial.shape}; came "
                f"{tuple(value.shape)}; use images of the size that they were learned on"
            )
        key = (call, value.dtype, value.device, value.ndim, axis)
        if key not in self.made:
            self.made[key] = self._make(site, value, axis)
        factor, shift = self.made[key]
        changed = value if factor is None else value * factor
        return changed if shift is None else changed + shift

    @staticmethod
    def _places(value: torch.Tensor, axis: int) -> tuple[int, ...]:
        return tuple(size for place, size in enumerate(value.shape) if place not in (0, axis))

    def _make(self, site: SiteGains, value: torch.Tensor, axis: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        factor = site.factor(axis, value.ndim)
        shift = None if site.shift is None else site.shift.reshape([-1 if p == axis else 1 for p in range(value.ndim)])
        with torch.inference_mode(False):  # kept between passes: one of the next may be tracked by autograd
            factor_made, shift_made = (
                None if array is None else torch.tensor(array, dtype=value.dtype, device=value.device)
                for array in (factor, shift)
            )
        return factor_made, shift_made

    def __getstate__(self) -> dict[str, Any]:
        """What it does to a network, for the content key of a recording: not what earlier passes left behind."""
        return {"layer": self.layer, "part": self.part, "per_call": self.per_call, "axis": self.rule.said(self.part)}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Site:
        """A copied network is gained as this one is; what tells axes apart does not change."""
        return _Site(self.layer, self.part, self.entering, self.per_call, self.rule)

    def _axis(self, value: Any, filters: int) -> int:
        if not isinstance(value, torch.Tensor):
            return self.rule.axis(self.part, value)  # which refuses it
        key = value.shape[1:], value.dtype, filters
        if key not in self.taken:
            self.taken[key] = self._decided(value, filters), value.shape
        return self.taken[key][0]

    def _decided(self, value: torch.Tensor, filters: int) -> int:
        """The filters' axis, by what is known so far; `recheck` asks again when more is."""
        fitting = []
        if _is_maps(value) and self.rule.said(self.part) is None:
            fitting = [axis for axis in (1, value.ndim - 1) if value.shape[axis] == filters]
        last_too = self.rule.channels_last_seen or self.rule.has_last_norms
        if len(fitting) == 1 and value.ndim == 4 and last_too:
            return fitting[0]
        try:
            # a class that fixes the axis fixes it for its input too
            axis = self.rule.axis(self.part, value, entering=self.entering)
        except DataError:
            # the rule leaves it open; the number of gains may not
            if len(fitting) != 1:
                raise
            return fitting[0]
        if value.shape[axis] != filters:
            raise DataError(
                f"layer {self.layer!r} has {value.shape[axis]} filters; came {filters} gains; "
                "these gains were learned on another network"
            )
        return axis

    def recheck(self) -> None:
        """Ask again for the axes that were taken: a layer behind the site may show, in the same pass, that one is open.

        Better no pass than a first one on another axis than the next.
        """
        for (_, dtype, filters), (axis, shape) in self.taken.items():
            value = torch.empty(shape, dtype=dtype, device="meta")
            if self._decided(value, filters) != axis:
                raise open_axis(self.part, value, "and what other layers give speaks for another axis than before")


def _is_maps(value: torch.Tensor) -> bool:
    return value.ndim in (3, 4) and value.is_floating_point()


@contextmanager
def with_gains(
    module: nn.Module, gains: xr.Dataset, *, task: str | None = None, channel_axis: ChannelAxis = None
) -> Iterator[nn.Module]:
    """Multiply each gained site by its gains inside the `with`; give the network back on the way out.

    Parameters
    ----------
    gains : GAINS, `gain(unit)` with coordinates layer and channel; with several tasks, `task` names one. A layer
        "relu1" is what that module gives (after the nonlinearity), "relu1.input" what it takes (before it). `shift`
        per filter and `spatial` per position act too where the set has them; a coordinate `call` with other values than
        0 tells the calls of a module apart that runs more than once (otherwise its gains act on every call). A name
        that is no module is that of a functional operation, as recording names it ("layer1.0.add"): see
        `nets.operations`.
    channel_axis : where the filters are, for layers in which neither a rule nor the number of gains says it.

    Definition: y[n, k, ...] -> g[k] y[n, k, ...]; in general y -> f y + b, see `nets.modulation`. All g = 1 leaves the
    outputs bit-identical; g = 0 silences a filter until the `with` ends. Sets may be nested: the inner one acts on what
    the outer one gives, so factors multiply.

    Raises
    ------
    DataError : another number of filters or positions, a gain that is not finite, no or an unknown task, an output
        without filters.
    ConfigError : a layer that the network does not have; an operation that cannot be gained (the message says why).
    """
    names = [name for name, _ in module.named_modules() if name]
    per_site: dict[str, dict[int | None, SiteGains]] = {}
    for (layer, call), site in site_gains(gains, task).items():
        per_site.setdefault(layer, {})[call] = site
    checked_axes(channel_axis, dict.fromkeys([*names, *per_site]))
    operations = operation_sites(module, per_site)
    single = [name for name in operations if None not in per_site[name]]
    if single:
        raise ConfigError(
            f"operation {single[0]!r} runs once, so its gains have no calls; leave the coordinate call out"
        )
    parts = {name: split_site(module, name) for name in per_site if name not in operations}
    rule = ChannelRule(module, _by_layer(channel_axis, parts))
    sites = {name: _Site(name, *parts.get(name, (name, False)), per_call, rule) for name, per_call in per_site.items()}
    with ExitStack() as stack:
        # layer norms and linear layers may give maps (N, H, W, C); without the first, the second are few
        every = any(isinstance(part, nn.LayerNorm) for part in rule.modules.values())
        watchers = {
            name: _Watcher(rule, name, [*sites.values()])
            for name, axis in rule.watched().items()
            if every or axis == -1
        }
        stack.enter_context(hooked(module, watchers))
        if any(None not in per_call for per_call in per_site.values()):
            stack.callback(module.register_forward_pre_hook(CountingAnew(list(sites.values()))).remove)
        for name, (layer, is_input) in parts.items():
            part, hook = rule.modules[layer], sites[name]
            handle = part.register_forward_pre_hook(hook.before) if is_input else part.register_forward_hook(hook.after)
            stack.callback(handle.remove)
        for name, operation in operations.items():
            stack.enter_context(acting_on(module, operation, sites[name].apply))
        yield module


def _by_layer(given: ChannelAxis, parts: Mapping[str, tuple[str, bool]]) -> ChannelAxis:
    """Axes by layer, as the channel rule asks for them, where some are given by the name of a site at its input."""
    if not isinstance(given, Mapping):
        return given
    axes: dict[str, int] = {}
    for name, axis in given.items():
        layer = parts[name][0] if name in parts else name
        if axes.setdefault(layer, axis) != axis:
            raise ConfigError(f"wanted one channel axis for layer {layer!r}; came {axes[layer]} and {axis}; keep one")
    return axes


class _Watcher:
    """The hook that shows the channel rule what a layer gives; it changes nothing, so it has no state for a key."""

    def __init__(self, rule: ChannelRule, layer: str, sites: list[_Site]) -> None:
        self.rule, self.layer, self.sites = rule, layer, sites

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        known = self.rule.noted
        self.rule.watch(self.layer, output)
        if self.rule.noted != known:
            for site in self.sites:
                site.recheck()

    def __getstate__(self) -> dict[str, Any]:
        return {"layer": self.layer}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Watcher:
        """A copied network tells the same rule what it gives, and asks its own sites again."""
        return _Watcher(self.rule, self.layer, copy.deepcopy(self.sites, memo))
