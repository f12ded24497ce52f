"""Labels of recorded units: ids that survive reordering, and where each unit lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from featattn_neuro.nets.plan import unit_ids


@dataclass(frozen=True)
class RecordedLayer:
    """One call of a layer as it ran.

    Parameters
    ----------
    layer, stage : name and sort. call, calls : which call of how many.
    channels : filters. positions : (H, W) of maps, (T,) of sequences, () of vectors.
    axis : of the filters in the layer's own output.
    node : name in the torch.fx graph, where it was recorded through that.
    """

    layer: str
    stage: str
    call: int
    calls: int
    channels: int
    positions: tuple[int, ...]
    axis: int
    node: str | None = None

    def at(self, node: str) -> RecordedLayer:
        """The same, with the name of its graph node."""
        return replace(self, node=node)

    def units(self, *, maps: bool) -> int:
        """Number of units: filters, times positions where these are kept."""
        return self.channels * int(np.prod(self.positions, dtype=int)) if maps else self.channels

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of every position; tokens are rows of one column; -1 where there are no positions."""
        if not self.positions:
            return np.array([-1]), np.array([-1])
        rows, columns = (*self.positions, 1)[:2]
        return np.repeat(np.arange(rows), columns), np.tile(np.arange(columns), rows)


def unit_coordinates(recorded: Sequence[RecordedLayer], *, maps: bool) -> dict[str, tuple[str, np.ndarray]]:
    """Coordinates along `unit`: unit, layer, channel, call, stage; y and x where positions are kept; node if known.

    >>> one = RecordedLayer("conv1", "conv", 0, 1, 2, (1, 2), 1)
    >>> unit_coordinates([one], maps=True)["unit"][1].tolist()
    ['conv1/000/0,0', 'conv1/000/0,1', 'conv1/001/0,0', 'conv1/001/0,1']
    """
    widths = [one.units(maps=maps) for one in recorded]
    columns = {
        "unit": np.array([name for one in recorded for name in _ids(one, maps=maps)]),
        "layer": np.repeat([one.layer for one in recorded], widths),
        "channel": np.concatenate(
            [
                np.repeat(np.arange(one.channels), width // one.channels)
                for one, width in zip(recorded, widths, strict=True)
            ]
        ),
        "call": np.repeat([one.call for one in recorded], widths),
        "stage": np.repeat([one.stage for one in recorded], widths),
    }
    if maps:
        grids = [one.grid() for one in recorded]
        for axis, name in enumerate(("y", "x")):
            columns[name] = np.concatenate(
                [np.tile(grid[axis], one.channels) for one, grid in zip(recorded, grids, strict=True)]
            )
    if any(one.node is not None for one in recorded):
        columns["node"] = np.repeat([one.node or "" for one in recorded], widths)
    return {name: ("unit", values) for name, values in columns.items()}


def _ids(one: RecordedLayer, *, maps: bool) -> list[str]:
    ids = unit_ids(one.layer, one.channels, one.call, one.calls)
    if not maps or not one.positions:
        return ids
    places = [f"{y},{x}" for y, x in zip(*one.grid(), strict=True)]
    return [f"{name}/{place}" for name in ids for place in places]
