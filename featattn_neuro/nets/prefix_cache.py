"""Rows of the frozen prefix, computed once per image: kept in memory or on disk by size, known again by content.

Learning reads rows by position. What is read may be a tensor, arrays on disk (`StoredRows`), or the network itself on
images that are drawn anew each time (`AugmentedRows`): then nothing can be kept, and that is said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from featattn_neuro.errors import DataError
from featattn_neuro.nets.batches import StimulusSource, batches, to_input
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.fingerprint import digest, network_digest, surroundings, weights_digest

Augmentation = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""Images (B, C, H, W) and a generator to images of the same number; all randomness from the generator."""

MEMORY_LIMIT = 2 << 30
"""Bytes of rows that are kept in memory by default; more goes to disk."""

_BATCH = 32


class RowStore(Protocol):
    """Arrays on disk by key: written whole or not at all, read by position."""

    def open(self, key: str) -> list[Any] | None: ...

    def write(
        self, key: str, shapes: Sequence[tuple[int, ...]], batches: Iterator[Sequence[np.ndarray]]
    ) -> list[Any]: ...


class StoredRows:
    """One array (N, ...) on disk that is read as a tensor is: by positions, or by a slice."""

    fixed = True
    """Every reading gives the same rows, unlike those of images drawn anew."""

    def __init__(self, array: Any, device: torch.device) -> None:
        self.array, self.device = array, device
        self.shape, self.ndim = tuple(array.shape), array.ndim

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, index: torch.Tensor | slice) -> torch.Tensor:
        if isinstance(index, slice):
            return torch.as_tensor(np.asarray(self.array[index]), device=self.device)
        # tasks that learn together ask for the same images: each is read once
        wanted, back = np.unique(index.cpu().numpy(), return_inverse=True)
        found = torch.as_tensor(np.asarray(self.array.oindex[wanted]), device=self.device)
        return found[torch.as_tensor(back, device=self.device)]


class _Drawn:
    """Augmented images through the prefix; the columns of one row set share what was drawn last."""

    def __init__(
        self, cut: CutNetwork, stimuli: StimulusSource, preprocess: Any, augment: Augmentation, seed: int
    ) -> None:
        self.cut, self.stimuli, self.preprocess, self.augment, self.seed = cut, stimuli, preprocess, augment, seed
        self.last: tuple[Any, tuple[torch.Tensor, ...]] | None = None
        self.update = 0

    def rows(self, index: torch.Tensor | slice) -> tuple[torch.Tensor, ...]:
        if self.last is not None and self.last[0] is index:
            return self.last[1]
        positions = range(len(self.stimuli))[index] if isinstance(index, slice) else index.tolist()
        order = list(dict.fromkeys(positions))  # tasks that learn together see the same drawn images
        # the draw follows from seed, update and batch, not from what was drawn before: learning that is taken up again,
        # and blocks of tasks one after the other, see the same images
        name = hashlib.sha256(f"{self.seed} {self.update} {order}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(name[:8], "little") >> 1)
        clean = torch.stack([to_input(self.stimuli[i], self.preprocess) for i in order])
        images = self.augment(clean, generator)
        if images.ndim != 4 or len(images) != len(clean):
            raise DataError(
                f"augment must give as many images as it takes, (B, C, H, W); gave {tuple(images.shape)} for "
                f"{tuple(clean.shape)}"
            )
        found = self.cut.prefix(images)
        place = {position: k for k, position in enumerate(order)}
        back = torch.tensor([place[position] for position in positions], device=self.cut.device)
        result = tuple(row[back] for row in found)
        self.last = index, result
        return result


def begin_update(rows: Sequence[Any], update: int) -> None:
    """Draw the images of augmented rows for this update of learning; 0 = outside of learning. Other rows stay."""
    for row in rows:
        if isinstance(row, AugmentedRows):
            row.drawn.update, row.drawn.last = update, None


class AugmentedRows:
    """One column of rows that are computed anew for every batch, from images drawn anew."""

    def __init__(self, drawn: _Drawn, column: int, example: torch.Tensor) -> None:
        self.drawn, self.column = drawn, column
        self.shape, self.ndim = (len(drawn.stimuli), *example.shape[1:]), example.ndim

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, index: torch.Tensor | slice) -> torch.Tensor:
        return self.drawn.rows(index)[self.column]


@dataclass
class PrefixCache:
    """Rows of frozen prefixes, for every further task, relabelling or refit on the same network, sites and images.

    Parameters
    ----------
    store : where rows that are larger than the memory limit go, and, if `keep` is set, all rows; None = memory only.
    memory_limit : bytes of rows kept in memory, all entries together; the oldest are dropped.
    keep : whether small rows are written to the store too, to be found by other processes.

    The key is a hash over weights, structure and code of the network, sites, preprocessing, the images' bytes,
    versions, threads and device: whatever the rows depend on.
    """

    store: RowStore | None = None
    memory_limit: int = MEMORY_LIMIT
    keep: bool = False
    entries: dict[str, tuple[torch.Tensor, ...]] = field(default_factory=dict)

    def rows(self, cut: CutNetwork, stimuli: Any, preprocess: Any, *, head: str) -> tuple[Sequence[Any], str]:
        """Prefix rows of all stimuli, and where they are: "memory" or "disk", perhaps with ", found"."""
        count_filters(cut, stimuli, preprocess)
        key = digest(
            {
                "weights": weights_digest(cut.module),
                "network": network_digest(cut.module),
                "sites": [*cut.layers],
                "head": head,
                "past_pools": f"{cut.past_pools} {cut.shifts}",
                "preprocessing": digest(preprocess),
                "stimuli": stimuli.digest(),
                "surroundings": digest(surroundings(cut.device)),
            }
        )
        if key in self.entries:
            return self.entries[key], "memory, found"
        if self.store is not None and (found := self.store.open(key)) is not None:
            return [StoredRows(array, cut.device) for array in found], "disk, found"
        example = cut.prefix(next(iter(batches(stimuli, preprocess, batch_size=1, device="cpu")))[0])
        shapes = [(len(stimuli), *row.shape[1:]) for row in example]
        size = 4 * sum(int(np.prod(shape)) for shape in shapes)
        if self.store is not None and (self.keep or size > self.memory_limit):
            made = self.store.write(key, shapes, _computed(cut, stimuli, preprocess))
            if size > self.memory_limit:
                return [StoredRows(array, cut.device) for array in made], "disk"
            rows = tuple(torch.as_tensor(np.asarray(array[:]), device=cut.device) for array in made)
        else:
            parts = zip(*_tensors(cut, stimuli, preprocess), strict=True)
            rows = tuple(torch.cat(list(column)) for column in parts)
        self._remember(key, rows)
        return rows, "memory"

    def _remember(self, key: str, rows: tuple[torch.Tensor, ...]) -> None:
        self.entries[key] = rows
        while len(self.entries) > 1 and sum(_bytes(r) for r in self.entries.values()) > self.memory_limit:
            del self.entries[next(iter(self.entries))]


def augmented_rows(
    cut: CutNetwork, stimuli: Any, preprocess: Any, augment: Augmentation, *, seed: int
) -> Sequence[AugmentedRows]:
    """Rows that are never kept: the images are drawn anew whenever a batch is read."""
    count_filters(cut, stimuli, preprocess)
    drawn = _Drawn(cut, stimuli, preprocess, augment, seed)
    example = drawn.rows(slice(0, 1))
    return [AugmentedRows(drawn, column, row) for column, row in enumerate(example)]


def count_filters(cut: CutNetwork, stimuli: Any, preprocess: Any) -> None:
    """Have the network note how many filters each gained layer has, from one image."""
    if not cut.n_filters:
        cut.prefix(next(iter(batches(stimuli, preprocess, batch_size=1, device="cpu")))[0])


def check_alive(cut: CutNetwork, rows: Sequence[Any], chunk: int = 32) -> None:
    """`DataError` that names a gained layer whose filters are all silent for every image: no gain there does anything.

    Reads batches only until every layer has answered, which is nearly always the first.
    """
    starts = range(0, len(rows[0]), chunk)
    # no gain makes a copy here, and what follows may work in place: on rows that are learned from afterwards
    _check_answers(cut, ([row[k : k + chunk].clone() for row in rows] for k in starts), len(rows[0]))


def check_alive_on(cut: CutNetwork, images: torch.Tensor, chunk: int = 32) -> None:
    """`check_alive` of images (N, C, H, W) whose rows are not kept."""
    _check_answers(cut, (cut.prefix(images[k : k + chunk]) for k in range(0, len(images), chunk)), len(images))


def _check_answers(cut: CutNetwork, batches: Iterable[Sequence[Any]], count: int) -> None:
    silent = set(cut.layers)
    ones = {layer: torch.ones(1, cut.n_filters[layer], device=cut.device) for layer in cut.layers}

    def watch(layer: str) -> Callable[[torch.Tensor], torch.Tensor]:
        def noted(maps: torch.Tensor) -> torch.Tensor:
            if layer in silent and bool((maps != 0).any()):
                silent.discard(layer)
            return maps

        return noted

    watched = {layer: watch(layer) for layer in ones}
    with torch.no_grad():
        for batch in batches:
            cut.features(batch, watched)
            if not silent:
                return
    layer = next(layer for layer in cut.layers if layer in silent)
    raise DataError(
        f"all {cut.n_filters[layer]} filters of layer {layer!r} are dead: none answers to any of the {count} "
        "images, so gains there do nothing; choose another layer, or check the images and their preprocessing"
    )


def _tensors(cut: CutNetwork, stimuli: Any, preprocess: Any) -> Iterator[tuple[torch.Tensor, ...]]:
    for images, count in batches(stimuli, preprocess, batch_size=_BATCH, device=cut.device):
        yield tuple(row[:count] for row in cut.prefix(images))


def _computed(cut: CutNetwork, stimuli: Any, preprocess: Any) -> Iterator[list[np.ndarray]]:
    for rows in _tensors(cut, stimuli, preprocess):
        yield [row.cpu().contiguous().numpy() for row in rows]


def _bytes(rows: Sequence[torch.Tensor]) -> int:
    return sum(row.numel() * row.element_size() for row in rows)
