"""Moments of a network's responses while stimuli go by: nothing is stored, memory is that of the units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from featattn_neuro.arrays.moments import ClassMoments
from featattn_neuro.errors import DataError, choose
from featattn_neuro.nets.batches import StimulusSource
from featattn_neuro.nets.channels import ChannelAxis
from featattn_neuro.nets.fingerprint import weights_digest
from featattn_neuro.nets.plan import make_plan
from featattn_neuro.nets.recording import Progress, run_plan
from featattn_neuro.nets.reductions import Reducer
from featattn_neuro.nets.selection import Layers
from featattn_neuro.schema import MOMENTS, RecordingHeader

if TYPE_CHECKING:
    import xarray as xr

SIDES = ("target", "distractor")


def known_weights(module: nn.Module) -> dict[str, str]:
    """The attribute of MOMENTS by which parts of other weights are told apart; none for lazy layers, which have none.

    >>> list(known_weights(nn.ReLU())), known_weights(nn.LazyLinear(1))
    (['weights_sha256'], {})
    """
    lazy = any(nn.parameter.is_lazy(one) for one in (*module.parameters(), *module.buffers()))
    return {} if lazy else {"weights_sha256": weights_digest(module)}


class MomentsSink:
    """A recording's sink that keeps moments per group of stimuli instead of values.

    Parameters
    ----------
    target : None = one group per label of the stimuli; or a boolean DataArray over `stimulus` or (task, stimulus),
        matched by stimulus id = the two sides of each task. It may name more stimuli than are shown (other shards).
    """

    def __init__(self, target: xr.DataArray | None = None) -> None:
        self.target = target
        self.unreadable: list[int] = []

    def begin(self, header: RecordingHeader) -> list[tuple[int, int]]:
        self.header = header
        ids = np.asarray(header.coordinates["stimulus"][1]).astype(str)
        if self.target is not None:
            self.groups, self.rows = _task_groups(self.target, ids)
        elif "label" in header.coordinates:
            names, codes = np.unique(np.asarray(header.coordinates["label"][1]).astype(str), return_inverse=True)
            self.groups, self.rows = {"group": names.tolist()}, codes[None]
        else:
            raise DataError(
                "moments are per class, and the stimuli have no labels; load them with labels, or pass target, a "
                "boolean DataArray over 'stimulus'"
            )
        shape = (len(header.reductions), sum(header.widths))
        self.moments = ClassMoments(len(self.groups["group"]), shape)
        return [(0, header.n_stimuli)]

    def write(self, start: int, values: Sequence[np.ndarray], unreadable: Mapping[int, str]) -> None:
        rows = np.concatenate(values, axis=2)
        stop = start + rows.shape[1]
        member = self._member(start, stop)
        member[:, [position - start for position in unreadable]] = False
        self.unreadable += list(unreadable)
        self.moments.update(rows.transpose(0, 2, 1), member)

    def _member(self, start: int, stop: int) -> np.ndarray:
        rows = self.rows[:, start:stop]
        if self.target is None:
            return rows == np.arange(self.moments.groups)[:, None]
        return np.stack([rows, ~rows], axis=1).reshape(-1, stop - start)

    def finish(self) -> xr.Dataset:
        import xarray as xr

        header, coordinates = self.header, self.header.coordinates
        variables: dict[str, Any] = {
            name: ("group" if name == "count" else ("group", "reduction", "unit"), values)
            for name, values in self.moments.arrays().items()
        }
        seen = np.setdiff1d(np.arange(header.n_stimuli), self.unreadable)
        for name, place in (("stimulus_id", "stimulus"), ("constituents", "constituents")):
            if place in coordinates:
                variables[name] = ("observation", np.asarray(coordinates[place][1]).astype(str)[seen])
        units = {
            name: value for name, value in coordinates.items() if value[0] == "unit" and name in MOMENTS.coordinates
        }
        groups = {name: ("group", values) for name, values in self.groups.items()}
        dataset = xr.Dataset(
            variables,
            {"reduction": list(header.reductions), **units, **groups},
            {"kind": "MOMENTS", **header.attrs, "n_skipped": len(self.unreadable)},
        )
        if self.target is None:  # a label that only unreadable stimuli have is no group
            dataset = dataset.isel(group=np.unique(self.rows[0, seen]))
        if len(header.reductions) == 1:
            dataset = dataset.isel(reduction=0, drop=True).assign_attrs(reduction=header.reductions[0])
        return MOMENTS.check(dataset)


def stream_moments(
    module: nn.Module,
    stimuli: StimulusSource,
    layers: Layers,
    *,
    target: xr.DataArray | None = None,
    preprocess: Callable[[np.ndarray], torch.Tensor] | None = None,
    reduce: Reducer | Sequence[Reducer] = "mean",
    batch_size: int = 32,
    device: str | torch.device = "cpu",
    network_name: str = "network",
    compute_dtype: str = "float32",
    channel_axis: ChannelAxis = None,
    workers: int = 0,
    corrupt: str = "error",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Sum up the responses of `layers` per class while `module` sees `stimuli`; no response is stored.

    Parameters
    ----------
    target : None = one group per label of the stimuli; or a boolean DataArray over `stimulus` or (task, stimulus),
        matched by stimulus id = targets and distractors of each task. For many classes and few tasks, give tasks.
    layers, reduce, batch_size, compute_dtype, channel_axis, workers, corrupt, progress : as in `record_activations`
        and `run_plan`: what is summed up is bit for bit what they would store.

    Returns
    -------
    MOMENTS over (group, unit), float64, units of the layers' outputs; several reductions give a dimension
        `reduction`. Memory grows with groups x units, and with the stimuli only by their ids. Feed it to
        `measures.streaming.selectivity_from_moments`; parts of a stimulus set go through `merge_moments` first, which
        refuses parts of other weights (attribute `weights_sha256`). A label that no readable stimulus has is no group.

    Raises
    ------
    ConfigError : unknown layer or reduction (before the first batch). DataError : no labels, no stimuli, a layer
        without filters, stimuli that `target` does not name.

    Notes
    -----
    Chan, Golub & LeVeque 1983; see `featattn_neuro.arrays.moments`.
    """
    choose(corrupt, ("error", "skip"), "rule for corrupt images")
    plan = make_plan(
        module, layers, reduce, batch_size=batch_size, compute_dtype=compute_dtype, channel_axis=channel_axis
    )
    return run_plan(
        module, plan, stimuli, MomentsSink(target), preprocess=preprocess, device=torch.device(device),
        workers=workers, corrupt=corrupt, attrs={"network_name": network_name, **known_weights(module)},
        progress=progress,
    )  # fmt: skip


def _task_groups(target: xr.DataArray, ids: np.ndarray) -> tuple[dict[str, list[str]], np.ndarray]:
    """Coordinates of the groups, and (tasks, stimuli) whether each stimulus is a target."""
    if set(target.dims) not in ({"stimulus"}, {"task", "stimulus"}) or target.dtype != bool:
        raise DataError(
            f"target must be boolean over 'stimulus' or ('task', 'stimulus'); came {target.dtype} over {target.dims}; "
            "compare it with a value, or rename its dimensions"
        )
    for dim in target.dims:
        if dim not in target.coords:
            raise DataError(f"target has a dimension {str(dim)!r} without names; give it that coordinate")
    place = {str(name): row for row, name in enumerate(target["stimulus"].values)}
    missing = [name for name in ids if name not in place]
    if missing or len(place) < target.sizes["stimulus"]:
        raise DataError(
            f"target does not name {len(missing)} of the stimuli (first: {str(missing[0])[:12]!r}…); match it by id"
            if missing
            else "target names a stimulus more than once; drop the copies"
        )
    rows = np.atleast_2d(target.transpose(..., "stimulus").values)[:, [place[name] for name in ids]]
    if "task" not in target.dims:
        return {"group": list(SIDES), "side": list(SIDES)}, rows
    tasks = [str(name) for name in target["task"].values for _ in SIDES]
    sides = list(SIDES) * target.sizes["task"]
    names = [f"{task}: {side}" for task, side in zip(tasks, sides, strict=True)]
    return {"group": names, "task": tasks, "side": sides}, rows
