"""Chosen filters silenced or boosted, and what that does to a frozen read-out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from featattn_neuro.api._shared import as_stimuli, target_rows
from featattn_neuro.api.kernels import roc_area
from featattn_neuro.errors import DataError
from featattn_neuro.nets import gains as _gains
from featattn_neuro.nets.adapters import Network, as_network
from featattn_neuro.nets.batches import as_tensor
from featattn_neuro.nets.cutting import require_head
from featattn_neuro.nets.gain_sets import detector_of
from featattn_neuro.nets.hooks import placed
from featattn_neuro.nets.training import head_inputs
from featattn_neuro.schema import GAINS, SCORES

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def apply_filter_sets(
    model: nn.Module | Network,
    sets: xr.Dataset,
    detectors: xr.Dataset,
    stimuli: Any,
    labels: ArrayLike | xr.DataArray,
    *,
    device: str | torch.device | None = None,
) -> xr.Dataset:
    """Performance of a frozen read-out while chosen filters are silenced or boosted.

    Parameters
    ----------
    sets : GAINS of `featattn_neuro.measures.filter_sets.filter_sets`, gain(gain_set, [task,] unit).
    detectors : GAINS that carry the read-out (`head_weight`, `head_bias`, `feature_scale`), as `learn_gains` returns;
        its gains are not applied.
    stimuli, labels : images that neither chose the filters nor trained the read-out; labels as in `learn_gains`.

    Returns
    -------
    SCORES : `auc` (arm, task); arm "ungained", then the names of the gain sets; read it with
        `measures.filter_sets.set_effects`.

    Raises
    ------
    DataError : no read-out in `detectors`, other tasks in labels than in the sets, images shared with training.
    """
    network = as_network(model)
    head = require_head(network.head, network.name)
    images, preprocess = as_stimuli(stimuli, network)
    target, names = target_rows(labels, images)
    readout, tasks = detector_of(detectors), names or ["target"]
    sets = GAINS.check(sets)
    if "gain_set" not in sets["gain"].dims:
        raise DataError(f"wanted gain sets along 'gain_set', as filter_sets makes them; came {sets['gain'].dims}")
    for what, one in (("chose the filters", sets), ("trained the read-out", detectors)):
        known = {str(i) for i in one["training_source"].values} if "training_source" in one else set()
        if known & {str(i) for i in images.sources()}:
            raise DataError(f"some of these images {what}; test performance on images that played no part before")
    if len(readout.weight) != len(tasks) or ("task" in detectors.dims and list(detectors["task"].values) != tasks):
        raise DataError(f"labels name the tasks {tasks}; the read-outs are of other tasks; label the same ones")
    if "task" in sets["gain"].dims and set(sets["task"].values) != set(tasks):
        raise DataError(f"labels name the tasks {tasks}; the filter sets are of {list(sets['task'].values)}")
    pixels = as_tensor(images, preprocess)
    arms = ["ungained", *(str(name) for name in sets["gain_set"].values)]
    auc = np.full((len(arms), len(tasks)), np.nan)
    with placed(network.module, device) as place:
        pixels = pixels.to(place)
        logits = readout.logits(head_inputs(network.module, head, pixels))
        auc[0] = [float(roc_area(logits[t], target[t])) for t in range(len(tasks))]
        for row in range(1, len(arms)):
            one = sets.isel(gain_set=row - 1, drop=True)
            for t, task in enumerate(tasks):
                if t == 0 or "task" in one.dims:  # else the same set for all tasks: one pass over the images
                    with _gains.with_gains(network.module, one, task=task if "task" in one.dims else None):
                        logits = readout.logits(head_inputs(network.module, head, pixels))
                auc[row, t] = float(roc_area(logits[t], target[t]))
    values = {"auc": (("arm", "task"), auc)}
    attrs = {"network_name": network.name, "kind": "SCORES"}
    return SCORES.check(xr.Dataset(values, {"arm": arms, "task": tasks}, attrs))
