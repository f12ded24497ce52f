"""Full fine-tuning: all base weights and one task's read-out, the arm that gains are compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.batches import own_copy
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.detectors import Detector, as_tensors
from featattn_neuro.nets.hooks import hooked
from featattn_neuro.nets.learning import Schedule, class_weights, fused_adam


def learn_full(
    cut: CutNetwork,
    images: torch.Tensor,
    target: np.ndarray,
    detector: Detector,
    task: int,
    schedule: Schedule,
    *,
    evaluate: torch.Tensor,
    at: Sequence[int] = (),
    chosen: np.ndarray | None = None,
    afterwards: Callable[[nn.Module], None] | None = None,
    name: str | None = None,
) -> np.ndarray:
    """Fine-tune all base weights and one task's read-out; logits of `evaluate` after the updates in `at`.

    Parameters
    ----------
    images : (N, C, H, W) network input. target : (N,) bool. chosen : (M,) positions to learn from; all if None.
    evaluate : (P, C, H, W). at : update counts (0 = before learning); the end if empty.
    afterwards : called with the fine-tuned copy of the network, which is thrown away then.
    name : of the task, for messages; its position if None.

    Returns
    -------
    (len(at), P) logits, or (1, P). Batch-norm statistics stay those of the base network (evaluation mode).
    """
    if not cut.n_filters:
        cut.prefix(images[:1])  # settles the memory format
    module = copy.deepcopy(cut.whole)
    base = [p for name, p in module.named_parameters() if not name.startswith(f"{cut.head}.")]
    for parameter in base:
        parameter.requires_grad_(True)
    weight, bias, scale = as_tensors(detector, cut.device)
    weight, bias = weight[task].clone().requires_grad_(True), bias[task].clone().requires_grad_(True)
    origin = [p.detach().clone() for p in (*base, weight)]
    optimiser = fused_adam([*base, weight, bias], schedule.rate)
    labels = torch.as_tensor(np.asarray(target, dtype=bool), device=cut.device)
    mine = torch.arange(len(labels)) if chosen is None else torch.as_tensor(np.asarray(chosen))
    mine = mine.to(cut.device)
    weights = class_weights(labels[mine][None])[0]
    images = images.to(cut.device, memory_format=cut.memory_format)
    found: dict[int, np.ndarray] = {}
    steps = list(at)
    update = 0
    if 0 in steps:
        found[0] = _full_logits(module, cut.head, evaluate, weight, bias, scale, cut.memory_format)
    for update, batch in enumerate(schedule.batches(len(mine)), start=1):
        picked = mine[batch.to(cut.device)]
        z = (_head_input(module, cut.head, images[picked]) / scale) @ weight + bias
        loss = (binary_cross_entropy_with_logits(z, labels[picked].float(), weights[batch])) + (
            schedule.penalty * _mean_square([*base, weight], origin) if schedule.penalty else 0.0
        )
        if not torch.isfinite(loss):
            raise DataError(
                f"the loss of task {task if name is None else name} is not finite at update {update}; "
                f"lower the rate ({schedule.rate})"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if update in steps:
            found[update] = _full_logits(module, cut.head, evaluate, weight, bias, scale, cut.memory_format)
    if afterwards is not None:
        afterwards(module)
    if not steps:
        return _full_logits(module, cut.head, evaluate, weight, bias, scale, cut.memory_format)[None]
    missing = [step for step in steps if step not in found]
    if missing:
        raise ConfigError(f"wanted logits after {missing[0]} updates; the schedule ends after {update}; learn longer")
    return np.stack([found[step] for step in steps])


def _mean_square(now: Sequence[torch.Tensor], origin: Sequence[torch.Tensor]) -> torch.Tensor:
    total = torch.stack([(a - b).square().sum() for a, b in zip(now, origin, strict=True)]).sum()
    return total / sum(a.numel() for a in now)


def _head_input(module: nn.Module, head: str, images: torch.Tensor) -> torch.Tensor:
    seen: dict[str, torch.Tensor] = {}
    with hooked(module, {head: lambda part, inputs, output: seen.__setitem__("features", inputs[0])}):
        module(images)
    return seen["features"]


def _full_logits(
    module: nn.Module, head: str, images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, scale: torch.Tensor,
    memory_format: torch.memory_format,
) -> np.ndarray:  # fmt: skip
    out = []
    with torch.no_grad():
        for begin in range(0, len(images), 128):
            batch = own_copy(images[begin : begin + 128], weight.device, memory_format)
            out.append(((_head_input(module, head, batch) / scale) @ weight + bias).double().cpu())
    return torch.cat(out).numpy()
