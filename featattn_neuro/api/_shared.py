"""What several public functions begin with: stimuli, labels as tasks, the frozen part of a network."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from featattn_neuro.errors import DataError, choose
from featattn_neuro.io.labels import SEPARATOR, label_matrix, read_labels
from featattn_neuro.io.row_store import RowFolder
from featattn_neuro.io.stimuli import FileImages, Stimuli, load_stimuli
from featattn_neuro.nets.adapters import Network
from featattn_neuro.nets.batches import as_tensor
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.datasets import DatasetStimuli, first_raw, is_torch_source
from featattn_neuro.nets.fingerprint import weights_digest
from featattn_neuro.nets.prefix_cache import Augmentation, PrefixCache, augmented_rows, count_filters
from featattn_neuro.nets.preprocessing import Preprocessing
from featattn_neuro.nets.tasks import KINDS


def as_stimuli(stimuli: Any, network: Network, corrupt: str = "error") -> tuple[Any, Preprocessing | None]:
    """Stimuli and how to preprocess them: arrays are taken as they stand."""
    if isinstance(stimuli, Stimuli):
        return stimuli, network.preprocess
    if is_torch_source(stimuli):
        found = DatasetStimuli(stimuli, skip=corrupt == "skip")
        # tensors are what the dataset's own transform made of the images; decoded pictures still want preprocessing
        return found, network.preprocess if gives_bytes(found) else None
    if isinstance(stimuli, str | Path) or (
        isinstance(stimuli, list | tuple) and stimuli and all(isinstance(one, str | Path) for one in stimuli)
    ):
        return load_stimuli(stimuli, corrupt="keep" if corrupt == "skip" else corrupt), network.preprocess
    return load_stimuli(stimuli, label=None), None


def gives_bytes(stimuli: Stimuli | DatasetStimuli) -> bool:
    """Whether images are decoded pictures, whole numbers from 0 to 255."""
    if isinstance(stimuli, DatasetStimuli):
        return bool(len(stimuli)) and first_raw(stimuli).dtype == np.uint8
    return isinstance(stimuli.images, FileImages) or stimuli.images.dtype == np.uint8


def check_same_weights(network: Network, gains: xr.Dataset) -> None:
    """Raise `DataError` where gains say that they were learned on other weights; gains that do not say pass."""
    learned = gains.attrs.get("weights_sha256")
    if learned is None or weights_digest(network.module) == learned:
        return
    origin = gains.attrs.get("network_name", "a network")
    raise DataError(
        f"wanted gains that were learned on this network ({network.name}); came gains of other weights "
        f"({str(learned)[:12]}…, of {origin}); load that network, or if this one is meant, delete "
        "attrs['weights_sha256'] of the gains"
    )


def by_stimulus(labels: xr.DataArray, stimuli: Any) -> xr.DataArray:
    """Labels in the order of the stimuli, joined by id."""
    if "stimulus" not in labels.dims:
        raise DataError(f"labels must be over 'stimulus' or (task, stimulus); came {labels.dims}; rename them")
    named = [str(one) for one in labels["stimulus"].values]
    known = set(named)
    missing = [one for one in stimuli.id.tolist() if one not in known]
    if missing:
        raise DataError(f"labels name no stimulus {missing[0][:12]}… ({len(missing)} missing); match labels by id")
    if len(known) < len(named):
        twice = next(one for one in named if named.count(one) > 1)
        raise DataError(f"labels name stimulus {twice[:12]}… twice; keep one label of each")
    return labels.sel(stimulus=np.asarray(stimuli.id))


def target_rows(labels: Any, stimuli: Stimuli) -> tuple[np.ndarray, list[str] | None]:
    """(T, N) bool in the order of the stimuli, and task names (None: one unnamed task)."""
    if isinstance(labels, xr.DataArray):
        if set(labels.dims) - {"task", "stimulus"}:
            raise DataError(f"labels must be over 'stimulus' or (task, stimulus); came {labels.dims}; rename them")
        labels = by_stimulus(labels, stimuli)
        if "task" in labels.dims:
            if labels.dtype != bool and not np.isin(labels.values, (0, 1)).all():
                raise DataError(
                    "labels over (task, stimulus) must be true or false; came other values; see `learn_gains`"
                )
            return labels.transpose("task", "stimulus").values.astype(bool), [str(t) for t in labels["task"].values]
        labels = labels.values
    values = np.asarray(labels.cpu() if isinstance(labels, torch.Tensor) else labels)
    if values.shape != (len(stimuli),):
        raise DataError(f"labels must be one per stimulus ({len(stimuli)}); came shape {values.shape}")
    try:
        kinds = np.unique(values)
    except TypeError:
        sorts = ", ".join(sorted({type(one).__name__ for one in values.tolist()}))
        raise DataError(
            f"labels must be all texts or all numbers, one for each stimulus; came {sorts}; label every image alike, "
            "or leave out those without a label"
        ) from None
    if len(kinds) < 2:
        raise DataError(f"labels must name two classes or more; all {len(values)} are {kinds.tolist()}")
    if len(kinds) == 2 and (values.dtype == bool or set(kinds.tolist()) == {0, 1}):
        return values.astype(bool)[None], None
    return np.stack([values == kind for kind in kinds]), [str(kind) for kind in kinds]


def task_targets(labels: Any, stimuli: Any, task: str) -> tuple[np.ndarray, list[str] | None]:
    """(T, N) bool and names: tasks for detection, classes or labels otherwise."""
    choose(task, KINDS, "kind of task")
    if isinstance(labels, str | Path):
        labels = read_labels(labels, stimuli, unlabelled=task == "multilabel")
        if set(labels.values.tolist()) == {"0", "1"}:  # a file has text alone; numbers mean what they mean in an array
            labels = labels.astype(int)
    array = labels.values if isinstance(labels, xr.DataArray) else np.asarray(labels)
    several = array.dtype.kind in "UO" and any(
        SEPARATOR in str(one) or (task == "multilabel" and not str(one).strip()) for one in array.ravel()
    )
    if several and task == "multiclass":
        raise DataError(f"each image has one class in a multiclass task; one has several ({SEPARATOR}); use multilabel")
    if several:
        if isinstance(labels, xr.DataArray):
            array = by_stimulus(labels, stimuli).values
        if array.shape != (len(stimuli),):
            raise DataError(f"labels must be one text per stimulus ({len(stimuli)}); came shape {array.shape}")
        return label_matrix(array)
    target, names = target_rows(labels, stimuli)
    if task == "multiclass" and names is None:
        return np.concatenate([~target, target]), ["0", "1"]
    return target, names if task == "detection" or names is not None else ["target"]


@contextmanager
def frozen_rows(
    cut: CutNetwork,
    images: Any,
    preprocess: Any,
    *,
    head: str,
    cache: str | Path | PrefixCache | None,
    augment: Augmentation | None,
    seed: int,
) -> Iterator[tuple[Sequence[Any], str]]:
    """What learning reads images from, and in words whether it was kept."""
    if augment is not None:
        if cache is not None:
            warnings.warn(
                "the cache is off: augment draws the images anew for every batch, so nothing can be kept", stacklevel=3
            )
        rows = augmented_rows(cut, images, preprocess, augment, seed=seed)
        yield rows, "no: images are drawn anew for every batch (augment)"
        return
    if not cut.cached:
        count_filters(cut, images, preprocess)
        yield cut.prefix(as_tensor(images, preprocess)), f"no: {cut.reason}"
        return
    if isinstance(cache, PrefixCache):
        yield cache.rows(cut, images, preprocess, head=head)[0], "yes"
    elif cache is not None:
        yield PrefixCache(RowFolder(cache), keep=True).rows(cut, images, preprocess, head=head)[0], "yes"
    else:
        with tempfile.TemporaryDirectory(prefix="featattn_rows_") as folder:
            yield PrefixCache(RowFolder(folder)).rows(cut, images, preprocess, head=head)[0], "yes"
