"""Between learned numbers and labelled GAINS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from featattn_neuro.errors import DataError, choose
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.detectors import Detector
from featattn_neuro.nets.gains import gains_by_layer
from featattn_neuro.nets.layers import stage_of
from featattn_neuro.nets.learning import Trained
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
    """GAINS of learned numbers: `gain(task, unit)`, the read-out, and the ids of the source stimuli learned from."""
    import xarray as xr

    gains = state.gains()
    modules = dict(cut.module.named_modules())
    per_unit = [(layer, channel) for layer in cut.layers for channel in range(cut.n_filters[layer])]
    detector = state.detector()
    return GAINS.check(
        xr.Dataset(
            {
                "gain": (
                    ("task", "unit"),
                    np.concatenate([gains[layer].detach().cpu().double().numpy() for layer in cut.layers], axis=1),
                ),
                "head_weight": (("task", "feature"), detector.weight),
                "head_bias": ("task", detector.bias),
                "feature_scale": ("feature", detector.scale),
                "training_source": ("source", np.asarray(sources, dtype=str)),
            },
            coords={
                "task": np.asarray(tasks, dtype=str),
                "unit": [u for layer in cut.layers for u in unit_ids(layer, cut.n_filters[layer])],
                "layer": ("unit", [layer for layer, _ in per_unit]),
                "channel": ("unit", [channel for _, channel in per_unit]),
                "stage": ("unit", [stage_of(modules[layer]) for layer, _ in per_unit]),
            },
            attrs={"kind": "GAINS", **attrs},
        )
    )


def detector_of(gains: xr.Dataset) -> Detector:
    """The read-out that a GAINS Dataset carries, of all its tasks."""
    if "head_weight" not in gains:
        raise DataError("these gains carry no read-out (head_weight); learn them with learn_gains")
    weight = gains["head_weight"].transpose(..., "feature").values
    return Detector(np.atleast_2d(weight), np.atleast_1d(gains["head_bias"].values), gains["feature_scale"].values)


def from_gain_set(cut: CutNetwork, gains: xr.Dataset) -> Trained:
    """Numbers to go on from: theta = log gain, of all tasks (one, if `gains` has no dimension task).

    `DataError` where a gain is not positive or filters are missing, `ConfigError` where a layer of `cut` is.
    """
    detector = detector_of(gains)
    tasks = [str(task) for task in gains["task"].values] if "task" in gains["gain"].dims else [None]
    per_task = [gains_by_layer(gains, task) for task in tasks]
    theta = {}
    for layer in cut.layers:
        values = np.stack([one[choose(layer, one, "gained layer")] for one in per_task])
        if values.shape[1] != cut.n_filters[layer] or (values <= 0).any():
            raise DataError(f"gains of layer {layer!r} must be {cut.n_filters[layer]} positive numbers a task")
        theta[layer] = torch.as_tensor(np.log(values), dtype=torch.float32, device=cut.device)
    weight, bias, scale = (
        torch.as_tensor(v, dtype=torch.float32, device=cut.device)
        for v in (detector.weight, detector.bias, detector.scale)
    )
    return Trained(theta, weight, bias, scale, dict(cut.n_filters))
