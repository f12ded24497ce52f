"""Gain sets as rows of a matrix: every combination of `gain_set` and `task`, so that one pass serves them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featattn_neuro.errors import DataError, choose
from featattn_neuro.nets.gains import one_gain_set
from featattn_neuro.schema import GAINS

if TYPE_CHECKING:
    import xarray as xr

_DIMS = ("gain_set", "task")
_BESIDE = {"shift": ("shifts", 0.0, "layer"), "spatial": ("gains per position", 1.0, "position_layer")}
"""What may act beside the factors: how it is called, the value that changes nothing, the coordinate of its layer."""


@dataclass(frozen=True, eq=False)
class GainRows:
    """Gains of S sets, by layer and channel.

    Attributes
    ----------
    dims, sizes : dimensions of the sets and their lengths, () for one set; S is the product of the sizes.
    labels : dimension to the names along it.
    values : layer to (S, C) float64, ordered by channel. units : layer to the ids of its C filters.
    source : GAINS whose sets these are, dimensions `dims` in front.
    """

    dims: tuple[str, ...]
    sizes: tuple[int, ...]
    labels: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    units: dict[str, np.ndarray]
    source: xr.Dataset

    @property
    def count(self) -> int:
        """Number of sets S."""
        return int(np.prod(self.sizes, dtype=int))

    def __len__(self) -> int:
        return self.count

    def row(self, index: int) -> xr.Dataset:
        """GAINS of one set, without dimensions of sets."""
        place = np.unravel_index(index, self.sizes) if self.sizes else ()
        return self.source.isel({dim: int(i) for dim, i in zip(self.dims, place, strict=True)}, drop=True)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """(S, ...) as (sizes..., ...)."""
        return values.reshape(self.sizes + values.shape[1:])

    def name(self, dim: str) -> str | None:
        """What the one set is called along a dimension that was selected from; None where that is not known."""
        return _name(self.source, dim)

    def coordinates(self) -> dict[str, Any]:
        """Coordinates along the dimensions of the sets, and what is known of those that were selected from."""
        single = {dim: ((), name) for dim in _DIMS if (name := self.name(dim)) is not None}
        return single | {dim: (dim, names) for dim, names in self.labels.items()}


def gain_rows(gains: xr.Dataset, task: str | Sequence[str] | None = None) -> GainRows:
    """Read GAINS over `unit`, and perhaps `task` and `gain_set`.

    Parameters
    ----------
    task : one task (its dimension is dropped, its name stays), several, or all of them (None).

    Raises
    ------
    DataError : an unknown task, none at all, another dimension, channels with a gap, gains that are not finite, shifts
        other than 0 or gains per position other than 1, which a factor per filter does not hold.
    """
    checked = GAINS.check(gains)
    gain = checked["gain"]
    extra = [str(dim) for dim in gain.dims if dim not in (*_DIMS, "unit")]
    if extra:
        raise DataError(
            f"wanted gains over unit, and perhaps task and gain_set; came dimensions {gain.dims}; "
            f"select along {extra} first"
        )
    chosen = _of_tasks(checked, task)
    _refuse_beside(chosen)
    gain = chosen["gain"].transpose(..., "unit")
    dims = tuple(str(dim) for dim in gain.dims[:-1])
    rows = gain.values.reshape(-1, gain.sizes["unit"]).astype(np.float64)
    if not rows.size:
        raise DataError(f"wanted gains of one set or more; came none over {gain.dims}; check the selection")
    layer, channel = chosen["layer"].values.astype(str), chosen["channel"].values
    values, units = {}, {}
    for name in dict.fromkeys(layer.tolist()):
        here = np.flatnonzero(layer == name)
        here = here[np.argsort(channel[here])]
        if not (channel[here] == np.arange(len(here))).all():
            raise DataError(
                f"gains of layer {name!r} must name each channel once, 0 to n - 1; came {channel[here].tolist()}"
            )
        values[name], units[name] = rows[:, here], chosen["unit"].values[here].astype(str)
        bad = ~np.isfinite(values[name]).all(axis=0)
        if bad.any():
            raise DataError(f"gains of layer {name!r} must be finite; channel {np.flatnonzero(bad)[0]} is not")
    labels = {
        dim: chosen[dim].values.astype(str)
        if dim in chosen.coords
        else np.array([f"{dim}_{k}" for k in range(gain.sizes[dim])])
        for dim in dims
    }
    return GainRows(dims, tuple(gain.sizes[dim] for dim in dims), labels, values, units, chosen)


def _refuse_beside(gains: xr.Dataset) -> None:
    """Refuse what the sum of (g - 1) A cannot show: its maps and curves would be of another network."""
    for name, (what, neutral, where) in _BESIDE.items():
        if name not in gains:
            continue
        place = "unit" if name == "shift" else "position"
        acting = (gains[name] != neutral).transpose(..., place).values.reshape(-1, gains.sizes[place]).any(axis=0)
        if acting.any():
            layer = str(gains[where].values[np.flatnonzero(acting)[0]])
            raise DataError(
                f"wanted gains of one factor per filter and nothing else; layer {layer!r} has {what} too, so maps and "
                "curves would not be of the learned network; learn gains without them"
            )


def _of_tasks(gains: xr.Dataset, task: str | Sequence[str] | None) -> xr.Dataset:
    if task is None:
        return gains
    one = gains.isel(gain_set=0, drop=True) if "gain_set" in gains["gain"].dims else gains
    if isinstance(task, str):
        one_gain_set(one, task)  # says what is wrong with the name
        return gains.sel(task=task) if "task" in gains.dims else gains
    wanted = [str(name) for name in task]
    known = [str(name) for name in gains["task"].values] if "task" in gains.dims else []
    if not wanted:
        raise DataError(f"wanted one task or more; came none; name some of {known or [None]}, or leave out task=")
    if not known:
        for name in wanted:
            one_gain_set(one, name)
        return gains
    return gains.sel(task=[choose(name, known, "task") for name in wanted])


def _name(sets: xr.Dataset, dim: str) -> str | None:
    return str(sets.coords[dim].item()) if dim in sets.coords and not sets.coords[dim].dims else None


def _among(dim: str) -> str:
    return "gain sets" if dim == "gain_set" else "tasks"


def _labels(sets: xr.Dataset, dim: str) -> list[str]:
    return [str(one) for one in sets[dim].values]


def maps_of_gains(saliency: xr.Dataset, rows: GainRows) -> xr.Dataset:
    """The maps of each gain set, in the order of the gain sets, joined by label.

    Raises
    ------
    DataError : a set without maps, or it is not known which maps belong to which set.
    """
    maps = saliency
    for dim in _DIMS:
        what, mine, alone, named = _among(dim).removesuffix("s"), rows.labels.get(dim), rows.name(dim), _name(maps, dim)
        if mine is not None and dim in maps.dims:
            missing = [str(one) for one in mine if str(one) not in _labels(maps, dim)]
            if missing:
                raise DataError(
                    f"wanted maps of each {what} of the gains; came none of {', '.join(missing)}; make them, or select "
                    f"the gains of {', '.join(_labels(maps, dim))}"
                )
            maps = maps.sel({dim: mine})
        elif mine is not None:
            if len(mine) > 1 or named not in (None, str(mine[0])):
                came = "maps that name none" if named is None else f"those of {named} alone"
                raise DataError(
                    f"wanted maps of each {what} of the gains; came {came}; select the gains of the {what} that the "
                    "maps are of"
                )
        elif dim in maps.dims:
            there = _labels(maps, dim)
            if alone is None and len(there) > 1:
                raise DataError(
                    f"it is not known which of the {_among(dim)} of the maps ({', '.join(there)}) these gains are; "
                    f"select both by label, .sel({dim}=…)"
                )
            if alone not in (None, *there):
                raise DataError(
                    f"wanted maps of {what} {alone}; came those of {', '.join(there)}; make them of these gains"
                )
            maps = maps.sel({dim: there[0] if alone is None else alone})
        elif None not in (alone, named) and alone != named:
            raise DataError(f"wanted maps of {what} {alone}; came those of {named}; make them of these gains")
    return maps


def gains_of_maps(gains: xr.Dataset, saliency: xr.Dataset) -> xr.Dataset:
    """The gains that maps were made of, joined by label, with dimensions and names of sets as the maps have them.

    Errors as of `maps_of_gains`. Scores go by the names of tasks: gains called otherwise would be scored on others.
    """
    found = gains
    for dim in _DIMS:
        what, named, own = _among(dim).removesuffix("s"), _name(saliency, dim), _name(found, dim)
        wanted = _labels(saliency, dim) if dim in saliency.dims else [] if named is None else [named]
        there = _labels(found, dim) if dim in found.dims else [] if own is None else [own]
        missing = [one for one in wanted if one not in there] if there else []
        if missing:
            raise DataError(
                f"wanted gains of the maps' {what if len(wanted) == 1 else _among(dim)}; came none of "
                f"{', '.join(missing)}; pass the gains that the maps were made of"
            )
        if len(there) > 1 and not wanted:
            raise DataError(
                f"it is not known which of the {_among(dim)} of the gains ({', '.join(there)}) these maps are; select "
                f"both by label, .sel({dim}=…)"
            )
        if len(wanted) > 1 and not there:
            raise DataError(
                f"wanted gains of the maps' {_among(dim)} ({', '.join(wanted)}); came gains of one; pass the gains "
                "that the maps were made of"
            )
        if dim in found.dims:
            found = found.sel({dim: wanted if dim in saliency.dims else (wanted or there)[0]})
        elif dim in saliency.dims:
            found = found.drop_vars(dim, errors="ignore")
            found = found.assign(gain=found["gain"].expand_dims({dim: wanted}))
        if dim not in saliency.dims:
            found = found.drop_vars(dim, errors="ignore")
            found = found if named is None else found.assign_coords({dim: named})
    return found
