"""Between learned numbers and labelled GAINS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.detectors import Detector
from featattn_neuro.nets.gains import SiteGains, site_gains
from featattn_neuro.nets.layers import stage_of
from featattn_neuro.nets.learning import Trained
from featattn_neuro.nets.parameterisations import LOG, Parameterisation
from featattn_neuro.nets.plan import unit_ids
from featattn_neuro.schema import GAINS

if TYPE_CHECKING:
    import xarray as xr


def to_gain_set(
    cut: CutNetwork,
    state: Trained,
    tasks: Sequence[str],
    sources: Sequence[str],
    *,
    attrs: dict[str, str | float | int],
) -> xr.Dataset:
    """GAINS of learned numbers: `gain(task, unit)`, the read-out, and the ids of the source stimuli learned from.

    With `shift(task, unit)` and `spatial(task, position)` where the state has them; gains that it has not are 1. The
    attributes `parameterisation` and `combination` say how the numbers were made and act together.
    """
    import xarray as xr

    tasks_n = len(state.weight)
    gains = state.gains() or {k: torch.ones(tasks_n, cut.n_filters[k]) for k in cut.layers}
    modules = dict(cut.module.named_modules())
    per_unit = [(layer, channel) for layer in cut.layers for channel in range(cut.n_filters[layer])]
    detector = state.detector()
    beside = {"shift": (("task", "unit"), _together(cut, state.shift, tasks_n))} if state.shift else {}
    places = _positions(cut, state.spatial_gains(), tasks_n) if state.spatial else {}
    if state.parameterisation != LOG or state.spatial:
        attrs = {**attrs, "parameterisation": str(state.parameterisation), "combination": state.combination}
    return GAINS.check(
        xr.Dataset(
            {
                "gain": (("task", "unit"), _together(cut, gains, tasks_n)),
                **beside,
                **{name: value for name, value in places.items() if name == "spatial"},
                "head_weight": (("task", "feature"), detector.weight),
                "head_bias": ("task", detector.bias),
                "feature_scale": ("feature", detector.scale),
                "training_source": ("source", np.asarray(sources, dtype=str)),
            },
            coords={
                **{name: value for name, value in places.items() if name != "spatial"},
                "task": np.asarray(tasks, dtype=str),
                "unit": [u for layer in cut.layers for u in unit_ids(layer, cut.n_filters[layer])],
                "layer": ("unit", [layer for layer, _ in per_unit]),
                "channel": ("unit", [channel for _, channel in per_unit]),
                "stage": ("unit", [_stage(modules[layer]) for layer, _ in per_unit]),
            },
            attrs={"kind": "GAINS", **attrs},
        )
    )


def _stage(part: torch.nn.Module) -> str:
    """Stage of a gained layer; of a functional operation, which is a module in the cut copy, that of the operation."""
    return str(getattr(part, "operation_stage", stage_of(part)))


def _together(cut: CutNetwork, values: Mapping[str, torch.Tensor], tasks: int) -> np.ndarray:
    """Numbers (task, unit) of all layers side by side."""
    parts = [values[layer].expand(tasks, -1).detach().cpu().double().numpy() for layer in cut.layers]
    return np.concatenate(parts, axis=1)


def _positions(cut: CutNetwork, values: Mapping[str, torch.Tensor], tasks: int) -> dict[str, Any]:
    """The variable `spatial(task, position)` and the coordinates of its positions."""
    grids = {layer: np.indices(values[layer].shape[1:]).reshape(2, -1) for layer in cut.layers}
    flat = [values[layer].expand(tasks, -1, -1).flatten(1).detach().cpu().double().numpy() for layer in cut.layers]
    return {
        "spatial": (("task", "position"), np.concatenate(flat, axis=1)),
        "position": [f"{layer}/{y},{x}" for layer, grid in grids.items() for y, x in grid.T],
        "position_layer": ("position", [layer for layer, grid in grids.items() for _ in grid.T]),
        "position_y": ("position", np.concatenate([grid[0] for grid in grids.values()])),
        "position_x": ("position", np.concatenate([grid[1] for grid in grids.values()])),
    }


def detector_of(gains: xr.Dataset) -> Detector:
    """The read-out that a GAINS Dataset carries, of all its tasks."""
    if "head_weight" not in gains:
        raise DataError("these gains carry no read-out (head_weight); learn them with learn_gains")
    weight = gains["head_weight"].transpose(..., "feature").values
    return Detector(np.atleast_2d(weight), np.atleast_1d(gains["head_bias"].values), gains["feature_scale"].values)


def from_gain_set(
    cut: CutNetwork, gains: xr.Dataset, *, parameterisation: Parameterisation | str | None = None
) -> Trained:
    """Numbers to go on from, of all tasks (one, if `gains` has no dimension task); shifts and positions included.

    Parameters
    ----------
    parameterisation : how gains are made of the numbers; None = as the set's attribute says, theta = log gain without
        one. The layer mean is not divided out again: it is in the gains already.

    `DataError` where a gain is not positive (of theta = log gain) or filters are missing, `ConfigError` where a layer
    of `cut` is, or where gains are outside the parameterisation's bounds.
    """
    wanted = parameterisation if parameterisation is not None else str(gains.attrs.get("parameterisation", "log"))
    made = replace(Parameterisation.parse(wanted), layer_mean=False)
    detector = detector_of(gains)
    tasks = [str(task) for task in gains["task"].values] if "task" in gains["gain"].dims else [None]
    per_task = [_of_layers(gains, task) for task in tasks]
    theta, shift, spatial = {}, {}, {}
    for layer in cut.layers:
        sites = [one[choose(layer, one, "gained layer")] for one in per_task]
        values = np.stack([site.gain for site in sites])
        if values.shape[1] != cut.n_filters[layer] or (made.log and (values <= 0).any()):
            number = "positive numbers" if made.log else "numbers"
            raise DataError(f"gains of layer {layer!r} must be {cut.n_filters[layer]} {number} a task")
        theta[layer] = _float32(made.inverse(torch.as_tensor(values)), cut)
        if sites[0].shift is not None:
            shift[layer] = _float32(torch.as_tensor(np.stack([np.asarray(site.shift) for site in sites])), cut)
        if sites[0].spatial is not None:
            places = torch.as_tensor(np.stack([np.asarray(site.spatial) for site in sites]))
            spatial[layer] = _float32(made.inverse(places), cut)
    if cut.past_pools and ((shift and not cut.shifts) or spatial or not made.positive):
        raise ConfigError(
            "these gains do not commute with pooling; make the network with CutNetwork(..., past_pools=False)"
        )
    weight, bias, scale = (
        torch.as_tensor(v, dtype=torch.float32, device=cut.device)
        for v in (detector.weight, detector.bias, detector.scale)
    )
    combination = str(gains.attrs.get("combination", "multiplicative"))
    return Trained(theta, weight, bias, scale, dict(cut.n_filters), shift, spatial, made, combination)


def _of_layers(gains: xr.Dataset, task: str | None) -> dict[str, SiteGains]:
    sites = site_gains(gains, task)
    if any(call is not None for _, call in sites):
        raise DataError("gains of single calls of a layer cannot be learned on; place them with with_gains")
    return {layer: site for (layer, _), site in sites.items()}


def _float32(values: torch.Tensor, cut: CutNetwork) -> torch.Tensor:
    return values.to(device=cut.device, dtype=torch.float32)
