"""Stimuli to padded batches of network input, read and preprocessed in loader workers while the network computes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from featattn_neuro.errors import DataError, FeatattnError, UnreadableError
from featattn_neuro.nets.batches import StimulusSource, to_input

Preprocess = Callable[[np.ndarray], Tensor] | None

HERE: dict[str, Any] = {"device": "cpu", "dtype": torch.float32}
"""Of images: torch.set_default_device and set_default_dtype are the caller's affair."""

_UNREADABLE = (FeatattnError, OSError, SyntaxError, ValueError)
"""What reading or preprocessing one image raises where the image is at fault."""


@dataclass(frozen=True)
class Batch:
    """Input of the network for stimuli `start` to `start + count`; rows past `count` are padding.

    `images` is None where no image of the batch could be read; `unreadable` holds position and reason of each.
    """

    start: int
    count: int
    images: Tensor | None
    unreadable: dict[int, str] = field(default_factory=dict)


class PaddedBatches(Dataset[Batch | FeatattnError]):
    """Batches by their first stimulus; every batch has `batch_size` rows, whatever their number of stimuli.

    A convolution's rounding depends on the batch size in torch's CPU kernels, so one size throughout makes each row
    independent of the number of stimuli, of its neighbours and of where a recording was taken up again.

    Parameters
    ----------
    shape : (C, H, W) that every image must have; stands in for an image that cannot be read.
    skip : note images that cannot be read instead of failing.
    """

    def __init__(
        self,
        stimuli: StimulusSource,
        preprocess: Preprocess,
        starts: Sequence[int],
        batch_size: int,
        *,
        shape: Sequence[int],
        skip: bool,
    ) -> None:
        self.stimuli, self.preprocess, self.starts, self.batch_size = stimuli, preprocess, list(starts), batch_size
        self.shape, self.skip = tuple(shape), skip

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Batch | FeatattnError:
        try:
            return self.batch(self.starts[index])
        except FeatattnError as error:  # as a value: a loader would wrap its message in a worker's traceback
            return error

    def batch(self, start: int) -> Batch:
        """The batch that begins with stimulus `start`."""
        stop = min(start + self.batch_size, len(self.stimuli))
        rows = getattr(self.stimuli, "images", None)
        if self.preprocess is None and isinstance(rows, np.ndarray) and rows.dtype == np.float32:
            # a copy: a network may work in place on its input, and the stimuli are the caller's
            images = torch.empty((self.batch_size, *self.shape), **HERE)
            images.numpy()[: stop - start] = rows[start:stop]
            images[stop - start :] = 0
            return Batch(start, stop - start, images)
        images = torch.zeros((self.batch_size, *self.shape), **HERE)
        unreadable = {}
        for row, i in enumerate(range(start, stop)):
            try:
                image = read_input(self.stimuli, i, self.preprocess)
            except UnreadableError as error:
                if not self.skip:
                    raise
                unreadable[i] = str(error)
                continue
            if tuple(image.shape) != self.shape:
                raise DataError(
                    f"images must have one size; came {self.shape} and {tuple(image.shape)} "
                    f"(stimulus {str(self.stimuli.id[i])[:12]}…); give a network with preprocessing, or preprocess="
                )
            images[row] = image
        return Batch(start, stop - start, images, unreadable)


def read_input(stimuli: StimulusSource, position: int, preprocess: Preprocess) -> Tensor:
    """One stimulus as network input (C, H, W).

    Raises
    ------
    UnreadableError : it cannot be read. DataError : it was read, and is not what it was or cannot be preprocessed.
    """
    read = getattr(stimuli, "read", stimuli.__getitem__)
    try:
        raw = read(position)
    except FeatattnError:
        raise
    except _UNREADABLE as error:
        raise UnreadableError(
            f"stimulus {position} (id {str(stimuli.id[position])[:12]}…) cannot be read "
            f"({type(error).__name__}: {error}); replace it, remove it, or pass corrupt='skip'"
        ) from error
    try:
        return to_input(raw, preprocess)
    except FeatattnError:
        raise
    except _UNREADABLE as error:
        raise DataError(
            f"stimulus {position} (id {str(stimuli.id[position])[:12]}…) cannot be preprocessed "
            f"({type(error).__name__}: {error}); replace it, or remove it"
        ) from error


def first_input(stimuli: StimulusSource, preprocess: Preprocess, *, skip: bool) -> Tensor:
    """The first stimulus that can be read, as network input; with `skip` those before it are passed over."""
    if len(stimuli) == 0:
        raise DataError("wanted at least one stimulus; came none; check the folder or the selection")
    for position in range(len(stimuli)):
        try:
            return read_input(stimuli, position, preprocess)
        except UnreadableError:
            if not skip:
                raise
    raise DataError(f"none of the {len(stimuli)} stimuli can be read; check the files")


def load_batches(batches: PaddedBatches, workers: int) -> Iterator[Batch]:
    """Batches in order, made in `workers` processes (0: here); the global random generators are not drawn from."""
    if workers == 0 or len(batches) < 2:
        for index in range(len(batches)):
            yield _unwrapped(batches[index])
        return
    loader = DataLoader(
        batches,
        batch_size=None,
        num_workers=min(workers, len(batches)),
        generator=torch.Generator(),  # its own: a loader draws its workers' seed, by default from the global one
        prefetch_factor=2,
    )
    with torch.device("cpu"):  # it draws a seed, on the default device with a generator of the CPU
        iterator = iter(loader)
    with closing(_Workers(iterator)):
        for found in iterator:
            yield _unwrapped(found)


class _Workers:
    """Ends a loader's processes now, not when the garbage collector finds them."""

    def __init__(self, iterator: Any) -> None:
        self.iterator = iterator

    def close(self) -> None:
        shutdown = getattr(self.iterator, "_shutdown_workers", None)
        if shutdown is not None:
            shutdown()


def _unwrapped(found: Batch | FeatattnError) -> Batch:
    if isinstance(found, FeatattnError):
        raise found
    return found


def usual_workers(stimuli: StimulusSource, batch_size: int) -> int:
    """Loader processes where the caller names none: for files, half the processors, at most 4; else 0.

    Arrays need no decoding, a few batches do not repay the start, and a daemonic process may not have children.
    """
    in_memory = isinstance(getattr(stimuli, "images", None), np.ndarray)
    if in_memory or len(stimuli) < 4 * batch_size or multiprocessing.current_process().daemon:
        return 0
    return min(4, max(1, len(os.sched_getaffinity(0)) // 2))
