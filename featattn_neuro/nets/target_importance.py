"""Gains learned for one class of a softmax, errors on the other classes counting less (Luo, Roads & Love 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.checkpoints import Keeper
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.detectors import Detector
from featattn_neuro.nets.learning import Schedule, Trained, start
from featattn_neuro.nets.parameterisations import Parameterisation

LUO_RATE = 3e-4
"""Adam's rate in Luo, Roads & Love 2021 (arXiv 2002.02342)."""


def learn_target_importance(
    cut: CutNetwork,
    rows: Sequence[torch.Tensor],
    labels: np.ndarray,
    head: torch.nn.Linear,
    targets: Sequence[int],
    importance: float | Sequence[float],
    schedule: Schedule,
    *,
    names: Sequence[str] = (),
    keeper: Keeper | None = None,
) -> Trained:
    """Non-negative gains (start 1) for each target class, the network's own softmax head frozen.

    The loss is the cross-entropy over all classes, weighted 1 on images of the target and `importance` on all others:
    with 1 nothing is attended, towards 0 the network calls everything the target (hits and false alarms rise).

    Parameters
    ----------
    rows : `cut.prefix(images)`. labels : (N,) index of each image's class among the head's outputs.
    targets : class of each of T gain sets, learned at once. importance : in (0, 1], one, or one for each.
    schedule : `Schedule(rate=LUO_RATE, ...)` as published; its penalty pulls gains to 1.
    names : of the targets, for messages; their indices if empty. keeper : as in `learning.learn`.

    Returns
    -------
    `Trained` with T tasks; weight (T, F) and bias are those of each target's output.

    Raises
    ------
    ConfigError : importance outside (0, 1]. DataError : no image of a target; a loss that is not finite.
    """
    weights = np.broadcast_to(np.asarray(importance, dtype=np.float64), (len(targets),))
    if not ((weights > 0) & (weights <= 1)).all():
        raise ConfigError(f"importance of the other classes must be in (0, 1]; came {importance}")
    classes = torch.as_tensor(np.asarray(labels), device=cut.device)
    called = list(names) or [str(target) for target in targets]
    absent = [name for name, t in zip(called, targets, strict=True) if not bool((classes == int(t)).any())]
    if absent:
        raise DataError(f"no image of target class {absent[0]}; give images of every target")
    matrix = head.weight.detach().to(cut.device)
    bias = torch.zeros(len(matrix)) if head.bias is None else head.bias.detach()
    bias = bias.to(cut.device)
    chosen = torch.as_tensor(list(targets), device=cut.device)
    weight, offset = (v[chosen].double().cpu().numpy() for v in (matrix, bias))
    detector = Detector(weight, offset, np.ones(matrix.shape[1]))
    state = start(cut, detector, parameterisation=Parameterisation(low=0.0))
    other = torch.as_tensor(weights.copy(), dtype=matrix.dtype, device=cut.device)
    numbers = [values.requires_grad_(True) for values in state.theta.values()]
    optimiser = torch.optim.Adam(numbers, lr=schedule.rate)
    done = update = 0 if keeper is None else keeper.restore(numbers, optimiser)
    for update, batch in enumerate(schedule.batches(len(classes)), start=1):
        if update <= done:
            continue
        picked = batch.to(cut.device)
        features = cut.features([row[picked].repeat(len(chosen), *[1] * (row.ndim - 1)) for row in rows], state.gains())
        z = (features @ matrix.T + bias).unflatten(0, (len(chosen), -1))
        truth = classes[picked].expand(len(chosen), -1)
        mass = torch.where(truth == chosen[:, None], 1.0, other[:, None])
        loss = (cross_entropy(z.flatten(0, 1), truth.flatten(), reduction="none").view_as(truth) * mass).mean(dim=1)
        loss = loss + schedule.penalty * torch.cat(
            [state.parameterisation.deviation(v) for v in numbers], 1
        ).square().mean(1)
        if not torch.isfinite(loss).all():
            task = called[int((~torch.isfinite(loss)).nonzero()[0])]
            raise DataError(
                f"the loss of task {task} is not finite at update {update}; lower the rate ({schedule.rate})"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.sum().backward()
        optimiser.step()
        for values in numbers:
            state.parameterisation.project_(values)
        if keeper is not None:
            keeper.note(update, numbers, optimiser)
    if keeper is not None and update > done:
        keeper.note(update, numbers, optimiser, last=True)
    for values in numbers:
        values.requires_grad_(False)
    return state
