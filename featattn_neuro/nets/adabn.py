"""AdaBN: batch-norm statistics of the new images instead of the old, no number learned (Li et al. 2016)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.batches import own_copy
from featattn_neuro.nets.hooks import evaluating


def has_batch_norm(module: nn.Module) -> bool:
    """Whether a network keeps statistics of batches, so that AdaBN applies.

    >>> has_batch_norm(nn.BatchNorm2d(1)), has_batch_norm(nn.GroupNorm(1, 1))
    (True, False)
    """
    return bool(_tracking(module))


def _tracking(module: nn.Module) -> list[nn.Module]:
    return [
        part
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None
    ]


def adapt_batch_norm(module: nn.Module, images: torch.Tensor, *, batch_size: int | None = None) -> nn.Module:
    """A copy whose batch norms hold the mean and variance of `images`; weights are those of the original.

    Parameters
    ----------
    images : (N, C, H, W) network input, N >= 2, without labels.
    batch_size : images in one pass; None = all, which is exact. In several passes each is normalised by its own
        statistics, and the copy gets their plain means (passes of unequal size count alike). One image that is left
        over has no variance, so the last pass takes it too.

    Layers adapt together: what a norm sees comes from norms before it that already use the new images. Variances are
    unbiased over images and positions, as torch keeps them. The original is untouched.

    Raises
    ------
    ConfigError : no batch norm with statistics: AdaBN does not apply. DataError : fewer than two images in a pass, or
        statistics that are not finite.
    """
    if not has_batch_norm(module):
        raise ConfigError("AdaBN needs batch norms that keep statistics; this network has none; leave the arm out")
    size = len(images) if batch_size is None else batch_size
    if size < 2 or len(images) < 2:
        raise DataError(f"AdaBN needs two images or more in a pass; came {len(images)} in passes of {size}")
    adapted = copy.deepcopy(module)
    norms: list[Any] = _tracking(adapted)
    momenta = [part.momentum for part in norms]
    place = next(iter(norms[0].buffers())).device
    with torch.no_grad(), evaluating(adapted):
        for part in norms:
            part.reset_running_stats()
            part.momentum = None  # plain mean over passes
            part.train()
            for inner in part.children():  # timm's batch norms hold activation and dropout
                inner.eval()
        for batch in _passes(images, size):
            adapted(own_copy(batch, place))
    for part, momentum in zip(norms, momenta, strict=True):
        part.momentum = momentum
        if not (torch.isfinite(part.running_mean).all() and torch.isfinite(part.running_var).all()):
            raise DataError("AdaBN: statistics of the new images are not finite; check the images' preprocessing")
    return adapted


def _passes(images: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Batches of `size` images; one that would be alone goes with those before it.

    >>> [len(batch) for batch in _passes(torch.zeros(5), 2)]
    [2, 3]
    """
    ends = [end for end in range(size, len(images), size) if end != len(images) - 1]
    return [images[begin:end] for begin, end in zip([0, *ends], [*ends, len(images)], strict=True)]
