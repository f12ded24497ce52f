"""Reference training: a small network learns to name single images."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from featattn_neuro.errors import DataError
from featattn_neuro.nets.batches import own_copy
from featattn_neuro.nets.hooks import preserved, settle_memory_format


def train_classifier(
    module: nn.Module,
    images: torch.Tensor,
    labels: np.ndarray,
    *,
    epochs: int,
    batch_size: int,
    rate: float,
    seed: int,
    device: str | torch.device = "cpu",
) -> None:
    """Train `module` in place with Adam on softmax cross-entropy; images (N, C, H, W), labels (N,) output indices.

    Raises
    ------
    DataError : the loss stops being finite.
    """
    generator = torch.Generator().manual_seed(seed)
    target = torch.as_tensor(np.asarray(labels, dtype=np.int64), device=device)
    module.to(device)
    images = images.to(device, memory_format=settle_memory_format(module, images[:2].to(device)))
    module.train()
    optimiser = torch.optim.Adam(module.parameters(), lr=rate)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator).to(device)
        for start in range(0, len(images), batch_size):
            batch = order[start : start + batch_size]
            loss = cross_entropy(module(images[batch]), target[batch])
            if not torch.isfinite(loss):
                raise DataError(
                    f"reference training: the loss is not finite in epoch {epoch + 1}; lower the rate ({rate})"
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    module.eval()
    module.to(memory_format=torch.contiguous_format)


def head_inputs(module: nn.Module, head: str, images: torch.Tensor, *, chunk: int = 50) -> np.ndarray:
    """(N, F) float64 inputs of the head, un-gained; the last chunk is padded so that rows do not depend on N."""
    seen: list[torch.Tensor] = []
    part = module.get_submodule(head)
    handle = part.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0].detach().clone()))
    out = []
    try:
        with preserved(module), torch.no_grad():
            for start in range(0, len(images), chunk):
                batch = images[start : start + chunk]
                count = len(batch)
                if count < chunk:
                    batch = torch.cat([batch, batch[:1].expand(chunk - count, *batch.shape[1:])])
                module(own_copy(batch, batch.device))
                out.append(seen.pop()[:count].double().cpu().numpy())
    finally:
        handle.remove()
    return np.concatenate(out)
