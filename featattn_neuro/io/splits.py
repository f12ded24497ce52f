"""Disjoint splits, composites whose sources stay apart, and images that are almost the same.

A composite (average of two images) has an id of its own, and carries the ids of its sources: a leak through a shared
source is a leak.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featattn_neuro.errors import DataError
from featattn_neuro.io.stimulus_set import Stimuli, content_id
from featattn_neuro.schema import CONSTITUENT_SEPARATOR

SMALL_IMAGE = 64
"""Shorter side in pixels below which near-duplicates are found by pixel correlation (a hash flags most digits)."""

_BLOCK = 1024
_HASH_SIDE = 8


@dataclass(frozen=True, eq=False)
class Composites:
    """Averaged pairs of stimuli.

    Parameters
    ----------
    stimuli : the averages, float32 (N, C, H, W); label "a|b", constituents "id of a|id of b".
    first, second : (N,) positions of the sources in the stimuli that were paired.
    """

    stimuli: Stimuli
    first: NDArray[np.int64]
    second: NDArray[np.int64]


def partition(stimuli: Stimuli, sizes: Mapping[str, int], *, seed: int) -> Stimuli:
    """Draw disjoint splits, the same number of images per class in each; images that are not drawn are left out.

    Parameters
    ----------
    stimuli : with labels, single images.
    sizes : split name to images per class, for instance {"R": 200, "G": 120, "V": 40, "S": 70, "P": 70}.
    seed : of `numpy.random.default_rng`. The draw depends on the ids, not on their order.

    Returns
    -------
    Stimuli with `split` and all that was known of them, in the order given.

    Raises
    ------
    DataError
        No labels, composites, a size below 0, or a class with too few images (named, with both numbers).

    Examples
    --------
    >>> images = np.zeros((4, 1, 2, 2), np.float32)
    >>> four = Stimuli(id=np.array(list("ijkl")), images=images, label=np.array(list("aabb")))
    >>> sorted(partition(four, {"G": 1, "P": 1}, seed=0).split.tolist())
    ['G', 'G', 'P', 'P']
    """
    labels = _labels(stimuli, "partition")
    _check_single(stimuli)
    bad = [name for name, size in sizes.items() if size < 0]
    if bad:
        raise DataError(f"wanted split sizes of 0 or more; split {bad[0]!r} has {sizes[bad[0]]}; change it")
    wanted = sum(sizes.values())
    names = np.repeat(np.array(list(sizes), dtype=str), list(sizes.values()))
    rng = np.random.default_rng(seed)
    split = np.full(len(stimuli), "", dtype=names.dtype if names.size else "<U1")
    for one in np.unique(labels):
        members = np.flatnonzero(labels == one)
        if members.size < wanted:
            raise DataError(
                f"wanted {wanted} images of each class ({', '.join(f'{k} {v}' for k, v in sizes.items())}); class "
                f"{str(one)!r} of {stimuli.name} has {members.size}; make the splits smaller or add images"
            )
        split[rng.permutation(members[np.argsort(stimuli.id[members])])[:wanted]] = names
    drawn = stimuli.select(split != "")
    return replace(drawn, split=split[split != ""])


def pair_composites(stimuli: Stimuli, count: int, *, seed: int) -> Composites:
    """Average random pairs of stimuli with different labels, each source in at most one pair.

    Sources are drawn and paired at random; pairs with equal labels are paired again, together with as many others,
    until there are none.

    Parameters
    ----------
    stimuli : labelled single images of one size and one split (or none).
    count : number of pairs.
    seed : of `numpy.random.default_rng`.

    Returns
    -------
    Composites. Pixels are (x_a + x_b)/2, float32; files count in [0, 1].

    Raises
    ------
    DataError
        Fewer than 2 · count sources, one class too large for the others to pair it off, several splits at once, no
        labels, composites as sources, or images of different sizes.

    Examples
    --------
    >>> images = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
    >>> two = Stimuli(id=np.array(["i", "j"]), images=images, label=np.array(["a", "b"]))
    >>> pair_composites(two, 1, seed=0).stimuli[0].ravel().tolist()
    [2.0, 3.0, 4.0, 5.0]
    """
    labels = _labels(stimuli, "pair")
    _check_single(stimuli)
    splits = [] if stimuli.split is None else np.unique(stimuli.split).tolist()
    if len(splits) > 1:
        raise DataError(f"wanted stimuli of one split to pair; came {', '.join(splits)}; select one split first")
    first, second = _draw_pairs(labels, count, np.random.default_rng(seed), stimuli.name)
    pixels = stimuli.select(np.concatenate([first, second])).pixels()
    mixed = (pixels[:count] + pixels[count:]) / np.float32(2)
    join = np.strings.add

    def both(values: NDArray[np.str_]) -> NDArray[np.str_]:
        return join(join(values[first], CONSTITUENT_SEPARATOR), values[second])

    composites = Stimuli(
        id=np.array([content_id(image) for image in mixed], dtype=str),
        images=mixed,
        constituents=both(stimuli.id),
        label=both(labels),
        split=None if stimuli.split is None else stimuli.split[first],
        name=f"{stimuli.name} pairs",
    )
    return Composites(composites, first, second)


def _draw_pairs(
    labels: NDArray[np.str_], count: int, rng: np.random.Generator, name: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if count < 1:
        raise DataError(f"wanted 1 pair or more; came {count}; change the count")
    classes, code, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    # a class can stand in each pair once only, so at most `count` of its images can be used
    usable = np.minimum(sizes, count).sum()
    if usable < 2 * count:
        raise DataError(
            f"wanted {count} pairs of different classes, each image used once: {2 * count} images, at most {count} of "
            f"one class; {name} has {usable} that qualify ({len(classes)} classes, the largest has {sizes.max()}); "
            "ask for fewer pairs or add images"
        )
    order = rng.permutation(labels.size)
    rank = np.empty(labels.size, dtype=np.int64)
    for one in range(len(classes)):
        members = code[order] == one
        rank[members] = np.arange(members.sum())
    drawn = order[rank < count][: 2 * count]
    pairs = _separate(drawn.reshape(2, count).T.copy(), code, rng)
    return pairs[:, 0], pairs[:, 1]


def _separate(pairs: NDArray[np.int64], code: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Pair again, at random, until no pair has two sources of one class; terminates because none is above half."""
    while (equal := code[pairs[:, 0]] == code[pairs[:, 1]]).any():
        clashing = np.flatnonzero(equal)
        others = np.flatnonzero(~equal)
        helpers = rng.choice(others, size=min(len(clashing), len(others)), replace=False)
        again = np.concatenate([clashing, helpers])
        pairs[again] = rng.permutation(pairs[again].ravel()).reshape(-1, 2)
    return pairs


def check_disjoint(**named: Stimuli | Iterable[str]) -> None:
    """Raise `DataError` if two sets share a source; it names the sets, how many sources they share, and one of them.

    Parameters
    ----------
    named : sets by name; Stimuli (composites count by their sources) or ids.

    Examples
    --------
    >>> check_disjoint(gains=["i", "j"], selectivity=["k"])
    >>> check_disjoint(gains=["i", "j"], selectivity=["j|k"])
    Traceback (most recent call last):
    featattn_neuro.errors.DataError: sets 'gains' and 'selectivity' must not share images; they share 1, one is 'j'; \
take one partition and give each set a split of its own
    """
    sources = {name: _sources(one) for name, one in named.items()}
    for (name, one), (other_name, other) in combinations(sources.items(), 2):
        shared = one & other
        if shared:
            raise DataError(
                f"sets {name!r} and {other_name!r} must not share images; they share {len(shared)}, one is "
                f"{min(shared)!r}; take one partition and give each set a split of its own"
            )


def _sources(one: Stimuli | Iterable[str]) -> set[str]:
    if isinstance(one, Stimuli):
        return set(one.sources())
    return {source for joined in one for source in str(joined).split(CONSTITUENT_SEPARATOR)}


def near_duplicates(stimuli: Stimuli, *, threshold: float = 0.98, bits: int = 3) -> pd.DataFrame:
    """Pairs of images that are almost the same.

    Images whose shorter side is below 64 px: Pearson correlation over pixels above `threshold`, among images of one
    size. Larger ones: 64-bit difference hashes (signs of horizontal steps on an 8 × 9 grey grid; Krawetz 2013) that
    differ in at most `bits` bits; their correlation is that of the signs, 1 − 2 · differing / 64. A small image is not
    compared with a large one.

    Returns
    -------
    DataFrame, one row a pair, most alike first: first, second (ids), correlation, first_split, second_split ("" where
    the stimuli have no splits).

    Examples
    --------
    >>> ramp = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    >>> three = Stimuli(id=np.array(list("ijk")), images=np.concatenate([ramp, 2 * ramp + 1, -ramp]))
    >>> found = near_duplicates(three)
    >>> list(zip(found["first"], found["second"], strict=True))
    [('i', 'j')]
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    hashes, large = [], []
    small: dict[int, NDArray[np.float32]] = {}
    for i, image in enumerate(stimuli):
        grid = image.shape[:2] if image.dtype == np.uint8 else image.shape[1:]
        if min(grid) < SMALL_IMAGE:
            groups.setdefault(image.shape, []).append(i)
            small[i] = image.astype(np.float32).ravel()
        else:
            large.append(i)
            hashes.append(difference_hash(image))
    found = [
        hit
        for members in groups.values()
        for hit in _close(_unit_vectors([small[i] for i in members]), members, lambda c: c > threshold)
    ]
    if large:
        signs = np.stack(hashes).astype(np.float32) * 2 - 1
        least = 1 - 2 * bits / signs.shape[1] - 1e-6
        found += _close(signs / np.float32(np.sqrt(signs.shape[1])), large, lambda c: c >= least)
    found.sort(key=lambda hit: (-hit[2], hit[0], hit[1]))
    split = np.full(len(stimuli), "") if stimuli.split is None else stimuli.split
    return pd.DataFrame(
        {
            "first": [str(stimuli.id[i]) for i, _, _ in found],
            "second": [str(stimuli.id[j]) for _, j, _ in found],
            "correlation": np.array([c for _, _, c in found], dtype=float),
            "first_split": [str(split[i]) for i, _, _ in found],
            "second_split": [str(split[j]) for _, j, _ in found],
        }
    )


def difference_hash(image: NDArray[Any]) -> NDArray[np.bool_]:
    """64 bits: is each cell of an 8 × 9 grey grid darker than its right neighbour (Krawetz 2013)?

    Parameters
    ----------
    image : uint8 (H, W, 3), or float (C, H, W).
    """
    from PIL import Image

    grey = image.mean(axis=-1 if image.dtype == np.uint8 else 0, dtype=np.float32)
    small = Image.fromarray(grey.astype(np.float32)).resize((_HASH_SIDE + 1, _HASH_SIDE), Image.Resampling.BOX)
    cells = np.asarray(small)
    return (cells[:, :-1] < cells[:, 1:]).ravel()


def _unit_vectors(images: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    rows = np.stack(images)
    rows = rows - rows.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    # an image of one grey has no correlation: it stays 0 and matches nothing
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)


def _close(unit: NDArray[np.float32], members: list[int], keep: Any) -> list[tuple[int, int, float]]:
    hits = []
    for start in range(0, len(unit), _BLOCK):
        correlation = unit[start : start + _BLOCK] @ unit[start:].T
        rows, columns = np.nonzero(np.triu(keep(correlation), k=1))
        hits += [
            (members[start + r], members[start + c], float(min(correlation[r, c], 1.0)))
            for r, c in zip(rows, columns, strict=True)
        ]
    return hits


def _labels(stimuli: Stimuli, verb: str) -> NDArray[np.str_]:
    if stimuli.label is None:
        raise DataError(f"wanted labelled stimuli to {verb}; {stimuli.name} has no labels; pass label= when loading")
    return stimuli.label


def _check_single(stimuli: Stimuli) -> None:
    joined = [c for c in stimuli.constituents.tolist() if CONSTITUENT_SEPARATOR in c]
    if joined:
        raise DataError(f"wanted single images; {stimuli.name} has {len(joined)} composites; pass their sources")
