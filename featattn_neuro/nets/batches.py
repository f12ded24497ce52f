"""Stimuli to batches of network input: fixed batch size, last batch padded, so results do not depend on neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch

from featattn_neuro.errors import DataError


class StimulusSource(Protocol):
    """What this folder needs of stimuli: ids, raw images by position, coordinates along `stimulus`."""

    @property
    def id(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray: ...

    def coordinates(self) -> dict[str, Any]: ...


def to_input(raw: np.ndarray, preprocess: Callable[[np.ndarray], torch.Tensor] | None) -> torch.Tensor:
    """One raw image as float32 (C, H, W): through `preprocess`, or as it stands (uint8 (H, W, 3) becomes / 255).

    >>> to_input(np.full((2, 2, 3), 255, np.uint8), None).shape
    torch.Size([3, 2, 2])
    """
    if preprocess is not None:
        return preprocess(raw)
    if raw.dtype == np.uint8 and raw.ndim == 3:
        return torch.from_numpy(raw.copy()).permute(2, 0, 1).float() / 255
    return torch.from_numpy(np.array(raw, dtype=np.float32))


def own_copy(
    images: torch.Tensor, device: torch.device | str, memory_format: torch.memory_format = torch.preserve_format
) -> torch.Tensor:
    """Images on `device` in memory of their own: a network may work in place on what it is given.

    >>> images = torch.zeros(1, 1, 2, 2)
    >>> _ = own_copy(images, "cpu").add_(1)
    >>> images.sum().item()
    0.0
    """
    moved = images.to(device, memory_format=memory_format)
    return moved.clone() if moved.data_ptr() == images.data_ptr() else moved


def as_tensor(
    stimuli: StimulusSource, preprocess: Callable[[np.ndarray], torch.Tensor] | None, start: int = 0, stop: int = -1
) -> torch.Tensor:
    """Stimuli `start` to `stop` (exclusive; -1 = all) as float32 (N, C, H, W); `DataError` if sizes differ."""
    stop = len(stimuli) if stop < 0 else min(stop, len(stimuli))
    images = [to_input(stimuli[i], preprocess) for i in range(start, stop)]
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        odd = next(i for i, image in enumerate(images) if image.shape != images[0].shape)
        raise DataError(
            f"images must have one size; came {tuple(images[0].shape)} and {tuple(images[odd].shape)} "
            f"(stimulus {str(stimuli.id[start + odd])[:12]}…); give a network with preprocessing, or preprocess="
        )
    return torch.stack(images)


def batches(
    stimuli: StimulusSource,
    preprocess: Callable[[np.ndarray], torch.Tensor] | None,
    *,
    batch_size: int,
    device: torch.device | str,
) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield (batch, number of real images); the last batch is padded with copies of its first image.

    A convolution's rounding depends on the batch size in torch's CPU kernels, so one size throughout makes each
    image's result independent of how many others there are.
    """
    if len(stimuli) == 0:
        raise DataError("wanted at least one stimulus; came none; check the folder or the selection")
    for start in range(0, len(stimuli), batch_size):
        images = as_tensor(stimuli, preprocess, start, start + batch_size)
        count = len(images)
        if count < batch_size:
            images = torch.cat([images, images[:1].expand(batch_size - count, *images.shape[1:])])
        yield images.to(device), count
