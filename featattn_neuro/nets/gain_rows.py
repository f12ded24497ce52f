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

    def coordinates(self) -> dict[str, Any]:
        """Coordinates along the dimensions of the sets."""
        return {dim: (dim, names) for dim, names in self.labels.items()}


def gain_rows(gains: xr.Dataset, task: str | Sequence[str] | None = None) -> GainRows:
    """Read GAINS over `unit`, and perhaps `task` and `gain_set`.

    Parameters
    ----------
    task : one task (its dimension is dropped), several, or all of them (None).

    Raises
    ------
    DataError : an unknown task, none at all, another dimension, channels with a gap, gains that are not finite.
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


def _of_tasks(gains: xr.Dataset, task: str | Sequence[str] | None) -> xr.Dataset:
    if task is None:
        return gains
    one = gains.isel(gain_set=0, drop=True) if "gain_set" in gains["gain"].dims else gains
    if isinstance(task, str):
        one_gain_set(one, task)  # says what is wrong with the name
        return gains.sel(task=task, drop=True) if "task" in gains.dims else gains
    wanted = [str(name) for name in task]
    known = [str(name) for name in gains["task"].values] if "task" in gains.dims else []
    if not wanted:
        raise DataError(f"wanted one task or more; came none; name some of {known or [None]}, or leave out task=")
    if not known:
        for name in wanted:
            one_gain_set(one, name)
        return gains
    return gains.sel(task=[choose(name, known, "task") for name in wanted])
