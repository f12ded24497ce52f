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
    gains : GAINS of one task each, with one factor per filter and nothing else.

    Returns
    -------
    GAINS, `gain(unit)`: units in the order in which they are first named.

    Raises
    ------
    DataError : no set; shifts or gains per position (their composition is no product); sets of several tasks; a unit
        that is another filter in another set.
    """
    import xarray as xr

    if not gains:
        raise DataError("wanted at least one gain set; came none")
    places: dict[str, tuple[str, int, int]] = {}
    product: dict[str, float] = {}
    for one in (one_set(given) for given in gains):
        beside = [name for name in ("shift", "spatial") if name in one]
        if beside:
            raise DataError(
                f"gain sets with {beside[0]!r} have no product; nest them instead: with with_gains(model, first), "
                "with_gains(model, second)"
            )
        calls = one["call"].values if "call" in one.coords else np.zeros(one.sizes["unit"], dtype=int)
        columns = (one[name].values.tolist() for name in ("unit", "layer", "channel", "gain"))
        for unit, layer, channel, gain, call in zip(*columns, calls.tolist(), strict=True):
            place = (str(layer), int(channel), int(call))
            if places.setdefault(str(unit), place) != place:
                raise DataError(f"unit {unit!r} is {place} in one set and {places[str(unit)]} in another; rename one")
            product[str(unit)] = product.get(str(unit), 1.0) * float(gain)
    layer, channel, call = zip(*places.values(), strict=True)
    coords = {"unit": list(places), "layer": ("unit", list(layer)), "channel": ("unit", list(channel))}
    if any(call):
        coords["call"] = ("unit", list(call))
    return GAINS.check(xr.Dataset({"gain": ("unit", list(product.values()))}, coords, {"kind": "GAINS"}))


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
