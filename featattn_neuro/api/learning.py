"""Gains learned from labelled images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from featattn_neuro.api._shared import as_stimuli, frozen_rows, task_targets
from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.io.row_store import RowFolder
from featattn_neuro.io.splits import check_disjoint
from featattn_neuro.io.store import BlobFolder
from featattn_neuro.nets.adapters import Network, as_network
from featattn_neuro.nets.arms import ArmRule, arm_network, arm_start
from featattn_neuro.nets.batches import as_tensor
from featattn_neuro.nets.checkpoints import Checkpoints
from featattn_neuro.nets.cutting import CutNetwork, require_head
from featattn_neuro.nets.detectors import Detector, as_tensors, feature_scale, logistic_detectors
from featattn_neuro.nets.fingerprint import digest, surroundings, weights_digest
from featattn_neuro.nets.gain_sets import to_gain_set
from featattn_neuro.nets.hooks import placed
from featattn_neuro.nets.learning import Schedule, Trained, fit_tasks
from featattn_neuro.nets.modulation import COMBINATIONS
from featattn_neuro.nets.prefix_cache import MEMORY_LIMIT, Augmentation, PrefixCache, check_alive
from featattn_neuro.nets.sites import select_sites
from featattn_neuro.nets.tasks import ClassWeight, declared_weights, learn_jointly, softmax_read_out
from featattn_neuro.nets.training import head_inputs

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

FEWEST = 2
"""Targets, and distractors, that a task must have."""


def learn_gains(
    model: nn.Module | Network,
    stimuli: Any,
    labels: ArrayLike | xr.DataArray,
    layers: str | Iterable[str],
    *,
    head_stimuli: Any = None,
    head_labels: ArrayLike | xr.DataArray | None = None,
    train_head: bool | None = None,
    rate: float = 0.03,
    penalty: float = 0.0,
    epochs: int = 30,
    batch_size: int = 60,
    seed: int = 0,
    device: str | torch.device | None = None,
    per: str = "filter",
    shift: bool = False,
    parameterisation: str = "log",
    combination: str = "multiplicative",
    penalty_norm: str = "l2",
    task: str = "detection",
    class_weight: ClassWeight = "balanced",
    cache: str | Path | PrefixCache | None = None,
    augment: Augmentation | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 50,
) -> xr.Dataset:
    """Learn one multiplicative gain per filter for a detection task, the network frozen.

    Parameters
    ----------
    stimuli : as in `record`. labels : one per stimulus: booleans (or 0 and 1) for one task; more values make one
        detection task each (class against the rest); or a boolean DataArray over stimulus, or (task, stimulus),
        matched by id; or the path of a CSV file with columns label and id or path ("cat|dog" = two labels; 0 and 1 are
        read as in an array; for "multilabel" an empty label is none of the labels).
    layers : gained sites (names, globs, stages); a gain multiplies the site's output, or with ".input" behind the
        pattern ("relu1.input") what goes into it. Functional operations are named as in `record` ("layer1.0.add").
        Sites give maps (N, C, H, W) or vectors (N, C) and lead to the head, whose own output is none.
    head_stimuli, head_labels : other images on which a read-out is fitted first (balanced logistic regression, C = 1)
        and then kept frozen. Without them the read-out starts at 0 and is learned together with the gains; then only
        gain times weight is identified at the last layer, and gains should not be compared with selectivity.
    train_head : False = frozen (default with `head_stimuli`), True = learned with the gains (default without).
    rate, penalty, epochs, batch_size, seed : Adam; penalty times mean (log gain)^2 pulls gains to 1.
    per : "filter" one gain each; "layer" one for all filters of a layer; "position" one per place of a layer's maps
        (`spatial`); "filter and position" both, acting together as `combination` says: "multiplicative" g s, or
        "additive" 1 + (g - 1) + (s - 1).
    shift : a number per filter is learned too, added to the gained map (`shift`).
    parameterisation : "log" g = exp theta; "free", "non_negative", "bounded(low, high)", "log(low, high)". With
        "+layer_mean" behind it the gains of a layer keep the mean 1 ("non_negative") or the geometric mean 1 ("log").
        The penalty is of log g where that is what is learned, of g - 1 otherwise. penalty_norm : "l2" squares, "l1"
        absolute values.
    task : "detection" = gains of their own for each task or class; "multiclass" = one set of gains for all classes
        (softmax, each image has one); "multilabel" = one set of gains for all labels (a sigmoid each).
    class_weight : in the loss. "balanced" = equal mass for targets and distractors, or for all classes; "equal" = every
        image counts the same; or declared: {"target": 2, "distractor": 1}, and for "multiclass" {class: weight}.
    cache : the part of the network that no gain reaches is computed once per image and kept, in memory or, above 2 GiB,
        in a temporary folder. A path keeps it there for other calls and processes; a `PrefixCache` keeps it for further
        tasks on the same images, network and layers. Known again by content.
    augment : function of images (B, C, H, W) and a `torch.Generator`, drawn anew for every batch. Nothing can be kept
        then: attribute `frozen_part_cached` says so, and a warning if a cache was asked for.
    checkpoint : folder that learning writes to every `checkpoint_every` updates. Called again with the same arguments
        after an interruption, it goes on from there and ends bit for bit as if it had not stopped; removed at the end.

    Returns
    -------
    GAINS : `gain(unit)`, or `gain(task, unit)` with several tasks, 1 before learning; positive unless
        `parameterisation` allows others ("free", "non_negative" and bounds below 0 do); with the read-out
        (`head_weight`, `head_bias`, `feature_scale`) and the ids of the source stimuli (`training_source`). Attribute
        `head_rule` says whether the head was frozen. One `gain(unit)` and read-outs over `output` for "multiclass" and
        "multilabel".

    Raises
    ------
    ConfigError : no head found (name it with `load_model(..., head=)`), or a device that is not here. DataError : one
        class only, fewer than two targets or distractors, labels that do not fit, read-out images that are among
        `stimuli`, a loss that is not finite, a layer whose filters are all silent.
        StoreError : the checkpoint is of other learning.
    """
    network = as_network(model)
    head = require_head(network.head, network.name)
    images, preprocess = as_stimuli(stimuli, network)
    target, names = task_targets(labels, images, task)
    weights = declared_weights(target, names or ["target"], task, class_weight)
    _check_counts(target, names, "labels")
    if (head_stimuli is None) != (head_labels is None):
        raise ConfigError("head_stimuli and head_labels belong together; give both or neither")
    if head_stimuli is None and train_head is False:
        raise ConfigError("a frozen head needs other images to be fitted on: give head_stimuli= and head_labels=")
    learns_head = head_stimuli is None if train_head is None else train_head
    schedule = Schedule(rate=rate, penalty=penalty, batch_size=batch_size, epochs=epochs, seed=seed, norm=penalty_norm)
    rule = _gain_rule(per, shift, parameterisation, combination)
    with placed(network.module, device) as place:
        detector = None
        if head_stimuli is not None:
            others, other_preprocess = as_stimuli(head_stimuli, network)
            check_disjoint(stimuli=images, head_stimuli=others)
            other_target, other_names = task_targets(head_labels, others, task)
            _check_counts(other_target, other_names, "head_labels")
            if other_names != names:
                raise DataError(f"head_labels must name the same tasks as labels ({names}); came {other_names}")
            features = head_inputs(network.module, head, as_tensor(others, other_preprocess).to(place))
            fit_head = softmax_read_out if task == "multiclass" else logistic_detectors
            detector = fit_head(features, other_target)
        cut = arm_network(network.module, select_sites(network.module, layers), head, rule.place, place)
        assert cut is not None  # only norms can be absent
        with frozen_rows(cut, images, preprocess, head=head, cache=cache, augment=augment, seed=seed) as (rows, kept):
            check_alive(cut, rows)
            if detector is None:
                scale = feature_scale(_plain_features(cut, rows))
                detector = Detector(np.zeros((len(target), len(scale))), np.zeros(len(target)), scale)
            single = Detector(detector.weight[:1], detector.bias[:1], detector.scale)
            first = as_tensor(images, preprocess, 0, 1)
            initial = arm_start(rule, cut, detector if task == "detection" else single, network.module, first)
            settings: dict[str, str | float | int] = {
                "network_name": network.name,
                "weights_sha256": weights_digest(network.module),
                "head_rule": "learned with the gains" if learns_head else "frozen",
                "rate": rate,
                "penalty": penalty,
                "epochs": epochs,
                "batch_size": batch_size,
                "seed": seed,
                "frozen_part_cached": kept,
            }
            if task != "detection" or class_weight != "balanced":
                shown = class_weight if isinstance(class_weight, str) else dict(class_weight)
                settings |= {"task_kind": task, "class_weight": str(shown)}
            checkpoints, blobs = None, None
            if checkpoint is not None:
                blobs = BlobFolder(checkpoint)
                inputs = {
                    **settings, "frozen_part_cached": "", "sites": list(cut.layers), "rule": str(rule),
                    "norm": penalty_norm, "target": target, "weights": weights.numpy(), "names": names,
                    "detector": [detector.weight, detector.bias, detector.scale], "stimuli": images.digest(),
                    "preprocessing": digest(preprocess), "augment": digest(augment),
                    "versions": digest(surroundings(cut.device)),
                }  # fmt: skip
                checkpoints = Checkpoints(blobs, digest(inputs), checkpoint_every)
            if task == "detection":
                state = fit_tasks(
                    cut, rows, target, initial, schedule, train_gains=True, train_head=learns_head,
                    names=names or ["target"], image_weights=None if class_weight == "balanced" else weights,
                    checkpoints=checkpoints,
                ).state  # fmt: skip
                gains = to_gain_set(cut, state, names or ["target"], images.sources(), attrs=settings)
            else:
                outputs = as_tensors(detector, cut.device)
                joint = replace(initial, weight=outputs[0].clone(), bias=outputs[1].clone(), scale=outputs[2])
                state = learn_jointly(
                    cut, rows, target, joint, schedule, kind=task, image_weights=weights, train_head=learns_head,
                    keeper=None if checkpoints is None else checkpoints.keeper("joint"),
                )  # fmt: skip
                gains = _joint_gain_set(cut, state, names or [], images.sources(), settings)
    if blobs is not None:
        blobs.remove()
    return gains if names is not None and task == "detection" else gains.isel(task=0, drop=True)


def _check_counts(target: np.ndarray, names: list[str] | None, what: str) -> None:
    """Refuse a task that a single image decides: nothing could be learned of it but that image."""
    for row, name in zip(target, names or ["target"], strict=True):
        targets = int(row.sum())
        if min(targets, row.size - targets) < FEWEST:
            raise DataError(
                f"wanted {FEWEST} targets and {FEWEST} distractors or more of each task in {what}; {name!r} has "
                f"{targets} and {row.size - targets}; give more images, or leave the task out"
            )


def prefix_cache(folder: str | Path | None = None, *, memory_limit: int = MEMORY_LIMIT) -> PrefixCache:
    """A cache for `learn_gains(cache=…)`: the frozen part of a network is computed once for any number of calls.

    Parameters
    ----------
    folder : None = in memory, as long as the object lives; otherwise also on disk, for other processes and for what is
        larger than `memory_limit` bytes.

    >>> prefix_cache().entries
    {}
    """
    if folder is None:
        return PrefixCache(memory_limit=memory_limit)
    return PrefixCache(RowFolder(folder), memory_limit, keep=True)


def _plain_features(cut: CutNetwork, rows: Sequence[Any], chunk: int = 60) -> np.ndarray:
    """(N, F) inputs of the head of the un-gained network."""
    ones = {layer: torch.ones(1, cut.n_filters[layer], device=cut.device) for layer in cut.layers}
    starts = range(0, len(rows[0]), chunk)
    with torch.no_grad():  # of copies: the network may work in place on rows that are learned from afterwards
        parts = [cut.features([row[k : k + chunk].clone() for row in rows], ones) for k in starts]
    return torch.cat(parts).double().cpu().numpy()


def _joint_gain_set(
    cut: CutNetwork, state: Trained, names: list[str], sources: Sequence[str], attrs: dict[str, str | float | int]
) -> xr.Dataset:
    """GAINS of one task whose read-outs are over `output`."""
    detector = state.detector()
    alone = replace(state, weight=state.weight[:1], bias=state.bias[:1])
    gains = to_gain_set(cut, alone, ["all"], sources, attrs=attrs).drop_vars(["head_weight", "head_bias"])
    return gains.assign(
        head_weight=(("output", "feature"), detector.weight), head_bias=("output", detector.bias)
    ).assign_coords(output=names)  # fmt: skip


_PER = {
    "filter": ArmRule("filter"),
    "layer": ArmRule("layer"),
    "position": ArmRule(spatial=True),
    "filter and position": ArmRule("filter", spatial=True),
}


def _gain_rule(per: str, shift: bool, parameterisation: str, combination: str) -> ArmRule:
    """What `learn_gains` is to learn; a combination is refused where there is nothing to combine."""
    rule = _PER[choose(per, _PER, "kind of gain")].with_settings(parameterisation)
    choose(combination, COMBINATIONS, "combination")
    if combination != "multiplicative" and per != "filter and position":
        raise ConfigError(f"combination={combination!r} is for per='filter and position'; came per={per!r}")
    return replace(rule, shift=shift, combination=combination)
