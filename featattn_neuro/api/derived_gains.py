"""Gains that follow from theory, or from a network's own softmax."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from featattn_neuro.api._shared import as_stimuli, by_stimulus, frozen_rows, task_targets
from featattn_neuro.api.kernels import roc_area
from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.io.labels import read_labels
from featattn_neuro.io.splits import check_disjoint
from featattn_neuro.io.store import BlobFolder
from featattn_neuro.nets.adapters import Network, as_network
from featattn_neuro.nets.arms import arm_network
from featattn_neuro.nets.batches import as_tensor
from featattn_neuro.nets.checkpoints import Checkpoints
from featattn_neuro.nets.cutting import require_head
from featattn_neuro.nets.detectors import logistic_detectors
from featattn_neuro.nets.fingerprint import digest, network_digest, surroundings, weights_digest
from featattn_neuro.nets.gain_sets import to_gain_set
from featattn_neuro.nets.hooks import placed
from featattn_neuro.nets.learning import Schedule, logits
from featattn_neuro.nets.prefix_cache import PrefixCache, check_alive
from featattn_neuro.nets.sites import select_sites
from featattn_neuro.nets.target_importance import LUO_RATE, learn_target_importance
from featattn_neuro.nets.theory_gains import ADDITIVE, METHODS, MODES, theory_states
from featattn_neuro.nets.training import head_inputs

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def theory_gains(
    model: nn.Module | Network,
    stimuli: Any,
    labels: ArrayLike | xr.DataArray,
    layers: str | Iterable[str],
    *,
    method: str = "tuning",
    strength: float | Sequence[float] | np.ndarray = 1.0,
    choice_stimuli: Any = None,
    choice_labels: ArrayLike | xr.DataArray | None = None,
    mode: str = "bidirectional",
    clip: bool = False,
    normalise: str = "layer",
    sign: int = -1,
    device: str | torch.device | None = None,
) -> xr.Dataset:
    """Gains from theory, nothing learned: 1 + beta f, f the tuning or gradient values of the targets.

    Parameters
    ----------
    stimuli, labels, layers : as in `learn_gains`; single images, of which the values are and on which the read-out is
        fitted (balanced logistic regression, C = 1).
    method : "tuning" f = (mean response to targets - mean over all images) / SD over all images; "gradient"
        f = -(mean over targets of the spatial mean of dE/dx) / the layer's largest, E the read-out's cross-entropy.
    strength : beta >= 0; several are tried on `choice_stimuli`, and the one with the largest mean ROC area over tasks
        is kept (the smallest of equals).
    choice_stimuli, choice_labels : other images, for several strengths and only then.
    mode : "bidirectional"; "positive" = negative f count as 0; "additive" = relu(x + mu beta f) instead of a factor,
        mu the mean response of the layer: gains of 1 and shifts at the inputs of the `layers`, activation modules.
    clip : factors below 0 become 0; not for "additive".
    normalise, sign : of gradient values. "layer" and -1 as in the paper; "filter" (each filter by its largest value
        over the tasks) and 1 as in the authors' script for objects.

    Returns
    -------
    GAINS : `gain(unit)` or `gain(task, unit)` with the read-out; attributes `method`, `strength`, `mode`, `clipped`,
        and `choice_auc`, what each strength gave on `choice_stimuli`. A filter that never varies has the gain 1.

    Raises
    ------
    ConfigError : several strengths without images to choose on, or such images with one strength; options that the
        method or mode has not; additive attention elsewhere than at activation modules. DataError : one class only;
        images in both sets; a layer whose filters are all silent.

    Notes
    -----
    Lindsay & Miller 2018, eLife 7:e38105: equations of tuning values, gradient values, multiplicative and additive
    attention.
    """
    network = as_network(model)
    head = require_head(network.head, network.name)
    choose(method, METHODS, "method")
    choose(mode, (*MODES, ADDITIVE), "mode")
    if method != "gradient" and (normalise, sign) != ("layer", -1):
        raise ConfigError("normalise and sign are of gradient values; leave them out, or take method='gradient'")
    if mode == ADDITIVE and clip:
        raise ConfigError("clip is of factors, and mode='additive' multiplies nothing; leave it out")
    strengths = sorted({float(one) for one in np.atleast_1d(strength)})
    given = choice_stimuli is not None, choice_labels is not None
    if not strengths or given != (len(strengths) > 1,) * 2:
        raise ConfigError(
            "several strengths are chosen from on other images, one strength is not: give choice_stimuli and "
            f"choice_labels with several, neither with one; came {len(strengths)} strengths"
        )
    images, preprocess = as_stimuli(stimuli, network)
    target, names = task_targets(labels, images, "detection")
    with placed(network.module, device) as place:
        pixels = as_tensor(images, preprocess)
        detector = logistic_detectors(head_inputs(network.module, head, pixels.to(place)), target)
        sites = select_sites(network.module, layers)
        cut = arm_network(network.module, sites, head, "any", place)
        assert cut is not None  # only norms can be absent
        cut, states = theory_states(
            cut, detector, pixels, target, strengths, module=network.module, head=head, method=method, mode=mode,
            clip=clip, normalise=normalise, sign=sign,
        )  # fmt: skip
        attrs: dict[str, str | float | int] = {
            "network_name": network.name, "weights_sha256": weights_digest(network.module), "head_rule": "frozen",
            "method": method, "mode": mode, "clipped": "yes" if clip else "no",
            **({"normalised_by": normalise, "sign": sign} if method == "gradient" else {}),
        }  # fmt: skip
        best = 0
        if len(strengths) > 1:
            others, other_preprocess = as_stimuli(choice_stimuli, network)
            check_disjoint(stimuli=images, choice_stimuli=others)
            wanted, other_names = task_targets(choice_labels, others, "detection")
            if other_names != names:
                raise DataError(f"choice_labels must name the same tasks as labels ({names}); came {other_names}")
            rows = cut.prefix(as_tensor(others, other_preprocess))
            areas = [
                float(np.mean([float(roc_area(z, t)) for z, t in zip(logits(cut, rows, one), wanted, strict=True)]))
                for one in states
            ]
            best = int(np.argmax(areas))
            attrs["choice_auc"] = ", ".join(f"{s:g}: {a:.4f}" for s, a in zip(strengths, areas, strict=True))
        attrs["strength"] = strengths[best]
        gains = to_gain_set(cut, states[best], names or ["target"], images.sources(), attrs=attrs)
    return gains if names is not None else gains.isel(task=0, drop=True)


def target_importance_gains(
    model: nn.Module | Network,
    stimuli: Any,
    labels: ArrayLike | xr.DataArray,
    layers: str | Iterable[str],
    *,
    targets: str | Sequence[str],
    importance: float,
    outputs: Mapping[str, int] | None = None,
    rate: float = LUO_RATE,
    penalty: float = 0.0,
    epochs: int = 30,
    batch_size: int = 60,
    seed: int = 0,
    device: str | torch.device | None = None,
    cache: str | Path | PrefixCache | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 50,
) -> xr.Dataset:
    """Non-negative gains for target classes of a network's own softmax; errors on other classes count less.

    Parameters
    ----------
    stimuli, layers, device, cache, checkpoint, checkpoint_every : as in `learn_gains`.
    labels : the class of every image, names or a CSV file.
    targets : classes to attend to, a set of gains each. importance : in (0, 1], the weight of images of other classes
        in the loss, targets having 1: with 1 nothing is attended; the smaller, the more hits and false alarms.
    outputs : class name to index of the head's output; None = classes 0, 1, ... are the outputs of these numbers, and
        other names the outputs in sorted order.
    rate, penalty, epochs, batch_size, seed : Adam from gains of 1; the penalty pulls to 1.

    Returns
    -------
    GAINS : `gain(task, unit)`, a task for each target, with the weights of the target's output as read-out.

    Raises
    ------
    ConfigError : a head that is no linear layer; classes and outputs that do not fit; importance outside (0, 1].
    DataError : no image of a target; a loss that is not finite; a layer whose filters are all silent.
        StoreError : the checkpoint is of other learning.

    Notes
    -----
    Luo, Roads & Love 2021, arXiv 2002.02342: non-negative gains, initial 1, Adam 3e-4, frozen softmax head.
    """
    network = as_network(model)
    head = require_head(network.head, network.name)
    last = network.module.get_submodule(head)
    if not isinstance(last, nn.Linear):
        raise ConfigError(f"wanted a linear head with one output a class; {head!r} is {type(last).__name__}")
    images, preprocess = as_stimuli(stimuli, network)
    classes = _class_names(labels, images)
    index = _outputs(classes, outputs, last.out_features)
    wanted = [choose(name, index, "target class") for name in ([targets] if isinstance(targets, str) else targets)]
    schedule = Schedule(rate=rate, penalty=penalty, batch_size=batch_size, epochs=epochs, seed=seed)
    with placed(network.module, device) as place:
        cut = arm_network(network.module, select_sites(network.module, layers), head, "positive", place)
        assert cut is not None  # only norms can be absent
        with frozen_rows(cut, images, preprocess, head=head, cache=cache, augment=None, seed=seed) as (rows, kept):
            check_alive(cut, rows)
            truth, chosen = np.array([index[name] for name in classes]), [index[name] for name in wanted]
            keeper, blobs = None, None
            if checkpoint is not None:
                blobs = BlobFolder(checkpoint)
                inputs = {
                    "method": "target importance", "importance": float(importance), "schedule": str(schedule),
                    "weights_sha256": weights_digest(network.module), "network": network_digest(network.module),
                    "head": head, "sites": list(cut.layers), "labels": truth,
                    "targets": chosen, "stimuli": images.digest(), "preprocessing": digest(preprocess),
                    "versions": digest(surroundings(cut.device)),
                }  # fmt: skip
                keeper = Checkpoints(blobs, digest(inputs), checkpoint_every).keeper("targets")
            state = learn_target_importance(
                cut, rows, truth, last, chosen, importance, schedule, names=wanted, keeper=keeper
            )
            attrs: dict[str, str | float | int] = {
                "network_name": network.name, "weights_sha256": weights_digest(network.module), "head_rule": "frozen",
                "method": "target importance", "importance": float(importance), "rate": rate, "penalty": penalty,
                "epochs": epochs, "batch_size": batch_size, "seed": seed, "frozen_part_cached": kept,
            }  # fmt: skip
            gains = to_gain_set(cut, state, wanted, images.sources(), attrs=attrs)
    if blobs is not None:
        blobs.remove()
    return gains


def _class_names(labels: Any, stimuli: Any) -> list[str]:
    """The class of every stimulus, in their order."""
    if isinstance(labels, str | Path):
        labels = read_labels(labels, stimuli)
    if isinstance(labels, xr.DataArray):
        if labels.dims != ("stimulus",):
            raise DataError(
                f"wanted one class per stimulus; came labels over {labels.dims}; give names over 'stimulus'"
            )
        labels = by_stimulus(labels, stimuli).values
    values = np.asarray(labels)
    if values.shape != (len(stimuli),):
        raise DataError(f"labels must be one class per stimulus ({len(stimuli)}); came shape {values.shape}")
    return [str(one) for one in values]


def _outputs(classes: Sequence[str], outputs: Mapping[str, int] | None, count: int) -> dict[str, int]:
    """Class name to index of the head's output."""
    names = sorted(set(classes))
    if outputs is None:
        numbers = {name: int(float(name)) for name in names if re.fullmatch(r"\d+(\.0)?", name)}
        if len(numbers) == len(names):  # as text 10 comes before 2
            if max(numbers.values()) < count and len({*numbers.values()}) == len(names):
                return numbers
            names = sorted(names, key=lambda name: (numbers[name], name))
        if len(names) != count:
            raise ConfigError(
                f"the head has {count} outputs and the images {len(names)} classes, so it is not known which is which; "
                "give outputs={class: index} (on the command line --outputs class=INDEX)"
            )
        return {name: k for k, name in enumerate(names)}
    missing = [name for name in names if name not in outputs]
    wrong = [name for name, k in outputs.items() if not 0 <= int(k) < count]
    if missing or wrong:
        what = f"no output of class {missing[0]!r}" if missing else f"output {outputs[wrong[0]]} of {wrong[0]!r}"
        raise ConfigError(f"outputs must give each class an index from 0 to {count - 1}; came {what}")
    return {name: int(outputs[name]) for name in names}
