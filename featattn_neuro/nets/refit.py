"""Refit null: labels are permuted and every step that used them is done again - read-out, choice of rate, gains.

The rows of the composites x tasks label matrix are permuted once for all tasks, the source labels of the read-out
likewise, so tasks keep their dependence on each other. Keeping an informed read-out instead puts the null far from 0.

All relabellings learn from the same prefix rows in the same batches. Where nothing but pooling lies between the gains
and the read-out, hundreds of them cost little more than one: the logits of all are one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from featattn_neuro.arrays.discrimination import roc_area
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.detectors import Detector, as_tensors
from featattn_neuro.nets.learning import Schedule, class_weights, fit_tasks, start
from featattn_neuro.nets.parameterisations import LOG, Parameterisation
from featattn_neuro.nets.readouts import joint_logistic_detectors

TOGETHER = 2000
"""Tasks times relabellings whose labels, read-outs and gains are held at once."""


def refit_gains(
    cut: CutNetwork,
    rows: Sequence[torch.Tensor],
    target: np.ndarray,
    features: np.ndarray,
    feature_target: np.ndarray,
    schedule: Schedule | Sequence[Schedule],
    *,
    refits: int,
    seed: int | Sequence[int],
    choice_rows: Sequence[torch.Tensor] = (),
    choice_target: np.ndarray | None = None,
    informed: Detector | None = None,
    block: int | None = None,
    parameterisation: Parameterisation = LOG,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Gains learned from permuted labels, (refits, T, filters of all layers of `cut`).

    Parameters
    ----------
    rows, target : prefix rows of the composites, and (T, N) their labels.
    features, feature_target : (M, F) head inputs of single images, and (T, M) their labels, for the read-out.
    schedule : one, or several to choose from in each relabelling anew: by the mean ROC area over tasks on
        `choice_rows` (prefix rows of V) with `choice_target` (T, V) permuted too; the first of equals.
    informed : a read-out that is kept instead of being refitted. This is the trap, for demonstration: such a null does
        not lie at 0, and anything looks above it.
    block : tasks times refits that learn in one pass; None = as many as suit the layer.
    parameterisation : of the gains, as in the arm whose null this is.

    Raises
    ------
    ConfigError : several schedules without `choice_rows` and `choice_target`. DataError : a loss that is not finite.
    """
    schedules = [schedule] if isinstance(schedule, Schedule) else list(schedule)
    if len(schedules) > 1 and (choice_target is None or not len(choice_rows)):
        raise ConfigError("several schedules are chosen from on other images: give choice_rows and choice_target")
    rng = np.random.default_rng(seed)
    tasks = len(target)
    per_pass = max(1, (TOGETHER if block is None else block) // tasks)
    if not cut.pooled:
        per_pass = min(per_pass, max(1, 200 // tasks))  # progress is told between passes
    out = []
    for begin in range(0, refits, per_pass):
        count = min(per_pass, refits - begin)
        labels, sources, checks = [], [], []
        for _ in range(count):
            labels.append(np.asarray(target)[:, rng.permutation(target.shape[1])])
            if informed is None:
                sources.append(feature_target[:, rng.permutation(feature_target.shape[1])])
            if choice_target is not None and len(schedules) > 1:
                checks.append(choice_target[:, rng.permutation(choice_target.shape[1])])
        detector = (
            joint_logistic_detectors(features, np.concatenate(sources), device=cut.device)
            if informed is None
            else Detector(np.tile(informed.weight, (count, 1)), np.tile(informed.bias, count), informed.scale)
        )
        found = [_gains(cut, rows, np.concatenate(labels), detector, one, block, parameterisation) for one in schedules]
        best = _choices(cut, choice_rows, checks, detector, found) if checks else np.zeros(count, dtype=int)
        shaped = np.stack([gains.reshape(count, tasks, -1) for gains in found])
        out.append(shaped[best, np.arange(count)])
        if progress is not None:
            progress(begin + count, refits)
    return np.concatenate(out)


def _gains(
    cut: CutNetwork,
    rows: Sequence[torch.Tensor],
    target: np.ndarray,
    detector: Detector,
    schedule: Schedule,
    block: int | None,
    parameterisation: Parameterisation,
) -> np.ndarray:
    """(T, filters of all layers) float64 gains."""
    if cut.pooled and parameterisation == LOG and schedule.norm == "l2":  # what the closed form is of
        return _pooled_gains(rows[0], target, detector, schedule, cut.device).double().cpu().numpy()
    initial = start(cut, detector, parameterisation=parameterisation)
    fit = fit_tasks(cut, rows, target, initial, schedule, train_gains=True, train_head=False, block=block)
    gains = fit.state.gains()
    return torch.cat([gains[layer] for layer in cut.layers], dim=1).double().cpu().numpy()


def _pooled_gains(
    rows: torch.Tensor, target: np.ndarray, detector: Detector, schedule: Schedule, device: torch.device
) -> torch.Tensor:
    """What `fit_tasks` learns on features (N, F) themselves with a frozen read-out, all tasks in one matrix product.

    z = x (g w / scale)^T + b, g = exp(theta); d loss / d theta = ((sigma(z) - y) s / B)^T x * g w / scale, plus the
    penalty's 2 lambda theta / F.
    """
    weight, bias, scale = as_tensors(detector, device)
    flags = torch.as_tensor(np.asarray(target, dtype=bool), device=device)
    mass, labels = class_weights(flags).T.contiguous(), flags.T.to(weight).contiguous()
    x, reads = rows.to(weight), weight / scale
    theta = torch.zeros_like(weight)
    optimiser = torch.optim.Adam([theta], lr=schedule.rate, fused=device.type in ("cpu", "cuda"))
    pull = 2 * schedule.penalty / theta.shape[1]
    with torch.no_grad():
        for positions in schedule.batches(len(x)):
            batch = positions.to(device)
            images, gained = x[batch], theta.exp() * reads
            wrong = (torch.addmm(bias, images, gained.T).sigmoid_() - labels[batch]) * mass[batch]
            theta.grad = (wrong.T @ images).mul_(gained).div_(len(batch))
            if pull:
                theta.grad.add_(theta, alpha=pull)
            optimiser.step()
        if not torch.isfinite(theta).all():
            task = int((~torch.isfinite(theta)).any(dim=1).nonzero()[0])
            raise DataError(f"the gains of task {task} are not finite; lower the rate ({schedule.rate})")
        return theta.exp()


def _choices(
    cut: CutNetwork,
    rows: Sequence[torch.Tensor],
    targets: Sequence[np.ndarray],
    detector: Detector,
    found: Sequence[np.ndarray],
) -> np.ndarray:
    """Index of the schedule with the largest mean ROC area over tasks, for each relabelling."""
    count, tasks = len(targets), len(targets[0])
    areas = []
    for gains in found:
        scores = _scores(cut, rows, gains, detector).reshape(count, tasks, -1)
        areas.append(
            [np.mean([roc_area(z, t) for z, t in zip(scores[k], targets[k], strict=True)]) for k in range(count)]
        )
    return np.argmax(np.array(areas), axis=0)


def _scores(cut: CutNetwork, rows: Sequence[torch.Tensor], gains: np.ndarray, detector: Detector) -> np.ndarray:
    """(T, N) logits under gains (T, filters of all layers)."""
    widths = [cut.n_filters[layer] for layer in cut.layers]
    weight, bias, scale = as_tensors(detector, cut.device)
    out = []
    with torch.no_grad():
        for task, own in enumerate(torch.as_tensor(gains, dtype=torch.float32, device=cut.device)):
            per_layer = dict(zip(cut.layers, own[None].split(widths, dim=1), strict=True))
            copies = [row.clone() for row in rows]  # of what no gain multiplies, the network may overwrite the rows
            out.append((cut.features(copies, per_layer) / scale) @ weight[task] + bias[task])
    return torch.stack(out).double().cpu().numpy()
