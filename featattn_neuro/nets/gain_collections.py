"""Named gain sets: looked up by name, multiplied with each other, switched on a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from featattn_neuro.errors import DataError, choose
from featattn_neuro.nets.gains import one_set, with_gains
from featattn_neuro.schema import GAINS

if TYPE_CHECKING:
    import xarray as xr


class GainSets(Mapping[str, "xr.Dataset"]):
    """GAINS by name: `with with_gains(model, sets["cat"]): ...`.

    Parameters
    ----------
    gains : GAINS with a dimension `task`, whose tasks are the names; or a mapping from names to GAINS of one task.

    >>> import xarray as xr
    >>> unit = {"unit": ["0/000"], "layer": ("unit", ["0"]), "channel": ("unit", [0]), "task": ["cat", "dog"]}
    >>> sets = GainSets(xr.Dataset({"gain": (("task", "unit"), [[2.0], [3.0]])}, unit, {"kind": "GAINS"}))
    >>> list(sets), sets["dog"]["gain"].item(), sets.compose("cat", "dog")["gain"].item()
    (['cat', 'dog'], 3.0, 6.0)

    Raises
    ------
    DataError : no dimension `task`, or a set of several tasks in a mapping. ConfigError : an unknown name.
    """

    def __init__(self, gains: xr.Dataset | Mapping[str, xr.Dataset]) -> None:
        import xarray as xr

        if not isinstance(gains, xr.Dataset):
            self._sets = {str(name): one_set(one) for name, one in gains.items()}
            return
        checked = GAINS.check(gains)
        if "task" not in checked["gain"].dims:
            raise DataError(
                "wanted GAINS with a dimension task, which names the sets; came gains of one task; give a mapping "
                "{name: gains}"
            )
        self._sets = {str(name): checked.sel(task=name) for name in checked["task"].values}

    def __getitem__(self, name: str) -> xr.Dataset:
        return self._sets[choose(name, self._sets, "gain set")]

    def __contains__(self, name: object) -> bool:
        return name in self._sets

    def __iter__(self) -> Iterator[str]:
        return iter(self._sets)

    def __len__(self) -> int:
        return len(self._sets)

    def compose(self, *names: str) -> xr.Dataset:
        """The product of some of the sets, see `compose_gains`."""
        return compose_gains(*(self[name] for name in names))


def compose_gains(*gains: xr.Dataset) -> xr.Dataset:
    """The product of gain sets: filter by filter, joined by unit id; a filter that a set does not name keeps its gain.

    Parameters
    ----------
    gains : GAINS of one task each, with one factor per filter and nothing else. A set that does not tell the calls of a
        layer apart acts on every call: on each one that another set names.

    Returns
    -------
    GAINS, `gain(unit)`: units in the order in which they are first named.

    Raises
    ------
    DataError : no set; shifts or gains per position (their composition is no product); sets of several tasks; a unit
        that is another filter in another set, or a filter that is another unit.
    """
    import xarray as xr

    if not gains:
        raise DataError("wanted at least one gain set; came none")
    sets = [_filters(one_set(given)) for given in gains]
    apart = {(layer, call) for one in sets for layer, _, call, _, _ in one if call}
    units: dict[tuple[str, int, int], str] = {}
    product: dict[tuple[str, int, int], float] = {}
    for one in sets:
        for layer, channel, only, unit, gain in one:
            own = (layer, channel, only or 0)
            if units.setdefault(own, unit) != unit:
                raise DataError(f"filter {own} is unit {units[own]!r} in one set and {unit!r} in another; rename one")
            product[own] = product.get(own, 1.0) * gain
    names = dict(zip(units.values(), units, strict=False))
    for place, unit in units.items():
        if names[unit] != place:
            raise DataError(f"unit {unit!r} is {names[unit]} in one set and {place} in another; rename one")
    for one in sets:
        for layer, channel, only, _, gain in one:
            for call in [call for name, call in apart if name == layer and only is None]:
                if (layer, channel, call) in product:  # on every call, so on this one too
                    product[layer, channel, call] *= gain
    layers, channels, calls = zip(*units, strict=True)
    coords = {"unit": list(units.values()), "layer": ("unit", list(layers)), "channel": ("unit", list(channels))}
    if any(calls):
        coords["call"] = ("unit", list(calls))
    return GAINS.check(xr.Dataset({"gain": ("unit", [product[place] for place in units])}, coords, {"kind": "GAINS"}))


def _filters(one: xr.Dataset) -> list[tuple[str, int, int | None, str, float]]:
    """Layer, channel, call, unit and gain of each filter; call None where the set acts on every call of the layer."""
    beside = [name for name in ("shift", "spatial") if name in one]
    if beside:
        raise DataError(
            f"gain sets with {beside[0]!r} have no product; nest them instead: with with_gains(model, first), "
            "with_gains(model, second)"
        )
    calls = one["call"].values if "call" in one.coords else np.zeros(one.sizes["unit"], dtype=int)
    layers = one["layer"].values.astype(str)
    apart = set(layers[calls != 0].tolist())
    columns = (one[name].values.tolist() for name in ("unit", "channel", "gain"))
    return [
        (layer, int(channel), int(call) if layer in apart else None, str(unit), float(gain))
        for layer, unit, channel, gain, call in zip(layers.tolist(), *columns, calls.tolist(), strict=True)
    ]


class GainSwitch:
    """Which of several gain sets acts on a network now; made by `switchable_gains`."""

    def __init__(self, module: nn.Module, sets: Mapping[str, xr.Dataset]) -> None:
        self._module, self._sets = module, GainSets(sets)
        self._stack = ExitStack()
        self.active: tuple[str, ...] = ()

    def __call__(self, *names: str) -> None:
        """Let these sets act from now on, together; none of them: the plain network. Sets that act now are taken off.

        An unknown name changes nothing; where a set cannot be placed, none of them acts.
        """
        chosen = [self._sets[name] for name in names]
        self._stack.close()
        self.active = ()
        with ExitStack() as stack:  # all of them, or none
            for one in chosen:
                stack.enter_context(with_gains(self._module, one))
            self._stack = stack.pop_all()
        self.active = names


@contextmanager
def switchable_gains(module: nn.Module, sets: Mapping[str, xr.Dataset]) -> Iterator[GainSwitch]:
    """Switch between named gain sets inside the `with`; at its end the network is as it was.

    Parameters
    ----------
    sets : `GainSets`, or a mapping from names to GAINS of one task. At first none of them acts.

    Every switch takes off the hooks of the old sets and places the new ones: nothing is divided out, so any sequence of
    switches gives the bits that the last one alone gives.
    """
    switch = GainSwitch(module, sets)
    try:
        yield switch
    finally:
        switch()
