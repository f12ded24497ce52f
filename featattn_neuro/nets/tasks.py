"""Tasks beyond one detection each: several classes or several labels that share one set of gains; declared weights.

Detection learns a set of gains per class (`learning.learn`). Here one set of gains serves K outputs at once: softmax
and cross-entropy where each image has one class, a sigmoid each and the mean of the K binary cross-entropies where it
has any number of labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.nets.checkpoints import Keeper
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.detectors import Detector, feature_scale
from featattn_neuro.nets.learning import Schedule, Trained, _distance, fused_adam
from featattn_neuro.nets.prefix_cache import begin_update

KINDS = ("detection", "multiclass", "multilabel")
SIDES = ("target", "distractor")

ClassWeight = str | Mapping[str, float]


def declared_weights(target: np.ndarray, names: Sequence[str], kind: str, declared: ClassWeight) -> torch.Tensor:
    """Weight of every image in the loss, (T, N), mean 1 over the images of a row; (1, N) for multiclass.

    Parameters
    ----------
    target : (T, N) bool, T tasks, classes or labels called `names`.
    declared : "balanced" = all classes (targets and distractors, for detection and for each label) have the same mass;
        "equal" = every image counts the same; or weights by name: of "target" and "distractor" for detection and
        multilabel, of every class for multiclass. Weights of a row are then divided by their mean.

    Raises
    ------
    ConfigError : names that are missing or unknown, weights that are not positive numbers.
    DataError : a class without images, or a label that all images have.

    >>> flags = np.array([[True, False, False]])
    >>> declared_weights(flags, ["a"], "detection", {"target": 2, "distractor": 0.5}).tolist()
    [[2.0, 0.5, 0.5]]
    """
    choose(kind, KINDS, "kind of task")
    flags = np.asarray(target, dtype=bool)
    counts = flags.sum(axis=1)
    single = kind == "multiclass"
    for name, count in zip(names, counts, strict=True):
        if count == 0 or (not single and count == flags.shape[1]):
            what = "class" if single else "task"
            raise DataError(
                f"{what} {name!r} needs {'images' if single else 'targets and distractors'}; came {count} of "
                f"{flags.shape[1]}; check the labels"
            )
    wanted = tuple(names) if single else SIDES
    if isinstance(declared, str):
        choose(declared, ("balanced", "equal"), "class weights")
        if declared == "equal":
            return torch.ones(1 if single else len(flags), flags.shape[1])
        each = 1.0 / counts if single else None
    else:
        said = {str(name): weight for name, weight in declared.items()}  # classes that are numbers are named by text
        if set(said) != set(wanted):
            raise ConfigError(f"class weights must name each of {', '.join(wanted)}; came {', '.join(said)}; name all")
        each = np.array([float(said[name]) for name in wanted])
        if not (np.isfinite(each).all() and (each > 0).all()):
            raise ConfigError(f"class weights must be positive numbers; came {dict(declared)}")
    if single:
        assert each is not None
        weights = (each[:, None] * flags).sum(axis=0, keepdims=True)
    elif each is None:
        weights = np.where(flags, 1.0 / counts[:, None], 1.0 / (flags.shape[1] - counts)[:, None])
    else:
        weights = np.where(flags, each[0], each[1])
    return torch.as_tensor(weights / weights.mean(axis=1, keepdims=True), dtype=torch.float32)


def learn_jointly(
    cut: CutNetwork,
    rows: Sequence[Any],
    target: np.ndarray,
    state: Trained,
    schedule: Schedule,
    *,
    kind: str,
    image_weights: torch.Tensor,
    train_head: bool,
    keeper: Keeper | None = None,
) -> Trained:
    """Learn one set of gains for K outputs; `state` (gains of one task, read-outs of K) is updated and returned.

    Parameters
    ----------
    target : (K, N) bool; one true a column for kind "multiclass". image_weights : as `declared_weights` gives them.

    Raises
    ------
    DataError : images with no class or several (multiclass); a loss that is not finite (the update is named).
    """
    flags = torch.as_tensor(np.asarray(target, dtype=bool), device=cut.device)
    if kind == "multiclass" and not bool((flags.sum(dim=0) == 1).all()):
        odd = int((flags.sum(dim=0) != 1).nonzero()[0])
        raise DataError(f"each image has one class in a multiclass task; image {odd} has {int(flags[:, odd].sum())}")
    weights, classes = image_weights.to(cut.device), flags.to(torch.uint8).argmax(dim=0)
    own = replace(state, weight=state.weight[:1])  # whose gains are those of one task
    parameters = [*state.modulation_numbers(), *([state.weight, state.bias] if train_head else [])]
    origin = (state.weight.clone(), state.bias.clone())
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = fused_adam(parameters, schedule.rate)
    done = update = 0 if keeper is None else keeper.restore(parameters, optimiser)
    for update, positions in enumerate(schedule.batches(flags.shape[1]), start=1):
        if update <= done:
            continue
        batch = positions.to(cut.device)
        begin_update(rows, update)
        features = cut.features([row[batch] for row in rows], own.modulations())
        z = (features / state.scale) @ state.weight.T + state.bias
        if kind == "multiclass":
            terms = cross_entropy(z, classes[batch], reduction="none") * weights[0, batch]
        else:
            losses = binary_cross_entropy_with_logits(z, flags[:, batch].T.float(), reduction="none")
            terms = (losses * weights[:, batch].T).mean(dim=1)
        pull = schedule.penalty * _distance(state, origin, True, train_head, schedule.norm)
        loss = terms.mean() + (pull.mean() if isinstance(pull, torch.Tensor) else pull)
        if not bool(torch.isfinite(loss)):
            raise DataError(
                f"the loss of the {kind} task is not finite at update {update}; lower the rate ({schedule.rate})"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        for numbers in (*state.theta.values(), *state.spatial.values()):
            state.parameterisation.project_(numbers)
        if keeper is not None:
            keeper.note(update, parameters, optimiser)
    if keeper is not None and update > done:
        keeper.note(update, parameters, optimiser, last=True)
    begin_update(rows, 0)
    for parameter in parameters:
        parameter.requires_grad_(False)
    return state


def softmax_read_out(features: np.ndarray, target: np.ndarray, *, strength: float = 1.0) -> Detector:
    """Balanced multinomial logistic regression on scaled features: the K read-outs of a multiclass task.

    Parameters
    ----------
    features : (N, F) head inputs of the un-gained network. target : (K, N) bool, one true a column; K >= 2.
    strength : inverse L2 penalty C of scikit-learn's `LogisticRegression`.
    """
    from sklearn.linear_model import LogisticRegression

    scale = feature_scale(features)
    classes = np.asarray(target).argmax(axis=0)
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000).fit(features / scale, classes)
    weight, bias = model.coef_, model.intercept_
    if len(target) == 2:  # scikit-learn keeps the difference of the two
        weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    return Detector(weight, bias, scale)
