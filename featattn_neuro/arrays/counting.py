"""What d' and ROC area are made of, for a block of units at a time: class sums and pair counts, on three engines.

The engines are compiled code, plain NumPy (equal to it, number for number), and torch where a tensor lies (pair counts
equal, sums to rounding). Only numbers per unit and class come back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featattn_neuro.arrays import packed_sort, sorted_counts
from featattn_neuro.arrays.compiled import check_engine
from featattn_neuro.arrays.packed_sort import MOST_OBSERVATIONS, exact_block, unit_blocks, wide_block
from featattn_neuro.arrays.sorted_counts import OrderedBlock, is_tensor

Float = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class ClassSums:
    """Of each class and unit: mean, sum of squared deviations, minimum, maximum (..., units); count (...)."""

    count: Integers
    mean: Float
    squares: Float
    low: Float
    high: Float

    def variance(self) -> Float:
        """(..., units), ddof 1; exactly 0 where all members are equal; NaN below two, or where one is not finite."""
        n = self.count[..., None]
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.where(self.low == self.high, 0.0, self.squares / (n - 1))
        return np.where((n > 1) & np.isfinite(self.mean), found, np.nan)

    def part(self, index: Any) -> ClassSums:
        """The classes at `index` of the first axis."""
        return ClassSums(*(getattr(self, name)[index] for name in ("count", "mean", "squares", "low", "high")))


@dataclass(frozen=True)
class PairCounts:
    """Of each task and unit: pairs won by targets, times two, and sums of squares, (tasks, units) integers.

    wins = sum over targets of f = 2 #(distractors below) + #(equal), squares1 of f²; squares0 the same of distractors
    against targets. n1, n0 : (tasks,).
    """

    n1: Integers
    n0: Integers
    wins: Integers
    squares1: Integers
    squares0: Integers

    def part(self, index: Any) -> PairCounts:
        """The tasks at `index`."""
        return PairCounts(*(getattr(self, name)[index] for name in ("n1", "n0", "wins", "squares1", "squares0")))

    def area(self) -> Float:
        """ROC area, wins / (2 n1 n0) (Bamber 1975); NaN without pairs."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.wins / (2.0 * (self.n1 * self.n0))[:, None]

    def variance(self) -> Float:
        """DeLong variance of the area (DeLong et al. 1988), exactly 0 at area 0 and 1; NaN below two in a class."""
        n1, n0 = self.n1[:, None], self.n0[:, None]
        of_targets, of_distractors = self.placement_variances()
        with np.errstate(divide="ignore", invalid="ignore"):
            return of_targets / n1 + of_distractors / n0

    def placement_variances(self) -> tuple[Float, Float]:
        """DeLong's S10 of targets and S01 of distractors (ddof 1), exactly 0 at area 0 and 1; NaN below two in a class.

        Placement of a target: the share of distractors below it, equal ones counted half; and the other way round.
        """
        n1, n0 = self.n1[:, None], self.n0[:, None]
        pairs = 2 * n1 * n0
        certain = (self.wins == 0) | (self.wins == pairs)
        enough = (n1 >= 2) & (n0 >= 2)
        found = (
            n1 * _spread(self.wins, self.squares1, n1, 2 * n0),
            n0 * _spread(pairs - self.wins, self.squares0, n0, 2 * n1),
        )
        first, second = (np.where(enough, np.where(certain, 0.0, np.maximum(s, 0.0)), np.nan) for s in found)
        return first, second


def _spread(total: Integers, squares: Integers, count: Integers, top: Integers) -> Float:
    """Variance of the mean of `count` integers in [0, top], as shares of top, from their sum and sum of squares."""
    flip = 2 * total > count * top  # the complements then have the smaller sums, which lose less to cancellation
    squares = np.where(flip, count * top * top - 2 * top * total + squares, squares)
    total = np.where(flip, count * top - total, total)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (squares - total * (total / count)) / (count - 1) / count / np.square(top, dtype=np.float64)


def check_size(observations: int) -> None:
    """Refuse more observations than integer counts can hold."""
    if observations > MOST_OBSERVATIONS:
        raise ValueError(
            f"ranks take at most {MOST_OBSERVATIONS} observations; came {observations}; "
            "take a random part of them, or compute d' alone, from moments"
        )


def class_sums(values: Any, codes: ArrayLike, classes: int, *, engine: str = "numba") -> ClassSums:
    """Class sums of (units, n) values; codes (n,) in 0…classes-1, -1 = left out. Fields (classes, units)."""
    kinds = np.asarray(codes, dtype=np.int32)
    count = np.bincount(kinds[kinds >= 0], minlength=classes)
    sums = ClassSums(count, *(np.empty((classes, values.shape[0])) for _ in range(4)))
    for units, block in _blocks(values, check_engine(engine)):
        _sum_block(block, kinds, sums, units, engine)
    return sums


def two_class_counts(values: Any, roles: ArrayLike, *, engine: str = "numba") -> PairCounts:
    """Pair counts of (units, n) values; roles (tasks, n): 1 target, 0 distractor, -1 left out."""
    return discrimination_counts(values, roles, engine=engine, sums=False)[1]


def discrimination_counts(
    values: Any, roles: ArrayLike, *, engine: str = "numba", sums: bool = True, pairs: bool = True
) -> tuple[ClassSums, PairCounts]:
    """Class sums (tasks, 2, units), class 1 = targets, and pair counts (tasks, units), in one walk over the blocks.

    What is not asked for is left zero.
    """
    kinds = np.atleast_2d(np.asarray(roles, dtype=np.int32))
    tasks, n, units = kinds.shape[0], kinds.shape[1], values.shape[0]
    n1, n0 = (kinds == 1).sum(axis=1), (kinds == 0).sum(axis=1)
    if pairs:
        check_size(n)
    found = ClassSums(np.stack([n0, n1], axis=1), *(np.zeros((tasks, 2, units)) for _ in range(4)))
    counts = PairCounts(n1, n0, *(np.zeros((tasks, units), dtype=np.int64) for _ in range(3)))
    for part, block in _blocks(values, check_engine(engine)):
        order = _order(block, engine) if pairs else None
        for task, kind in enumerate(kinds):
            if sums:
                _sum_block(block, kind, found.part(task), part, engine)
            if order is None:
                continue
            if isinstance(order, OrderedBlock):
                tallied = np.stack([_array(value) for value in order.two_class_counts(kind == 1, kind == 0)])
            else:
                tallied = np.empty((3, _width(part)), dtype=np.int64)
                packed_sort.two_class_counts(*order, kind, tallied)
            for place, value in zip((counts.wins, counts.squares1, counts.squares0), tallied, strict=True):
                place[task, part] = value
    return found, counts


def one_versus_rest_counts(values: Any, codes: ArrayLike, classes: int, *, engine: str = "numba") -> PairCounts:
    """Pair counts of each class against all others; codes (n,) in 0…classes-1, -1 = left out. (classes, units)."""
    kinds = np.asarray(codes, dtype=np.int32)
    if engine == "numpy" or is_tensor(values):
        members = kinds == np.arange(classes, dtype=np.int32)[:, None]
        return two_class_counts(values, np.where(kinds < 0, -1, members), engine=engine)
    check_size(kinds.size)
    sizes = np.bincount(kinds[kinds >= 0], minlength=classes)
    fields = np.zeros((3, classes, values.shape[0]), dtype=np.int64)
    for part, block in _blocks(values, check_engine(engine)):
        found = np.empty((3, classes, _width(part)), dtype=np.int64)
        packed_sort.one_versus_rest_counts(*_order(block, engine), kinds, sizes, found)
        fields[:, :, part] = found
    return PairCounts(sizes, sizes.sum() - sizes, *fields)


def pair_counts(
    values: Any, codes: ArrayLike, pairs: list[tuple[int, int]], classes: int, *, engine: str = "numba"
) -> PairCounts:
    """Pair counts of class i (targets) against class j for every (i, j) of `pairs`; (pairs, units)."""
    kinds = np.asarray(codes, dtype=np.int32)
    if engine == "numpy" or is_tensor(values):
        roles = [np.where(kinds == one, 1, np.where(kinds == other, 0, -1)) for one, other in pairs]
        return two_class_counts(values, np.array(roles).reshape(-1, kinds.size), engine=engine)
    check_size(kinds.size)
    sizes = np.bincount(kinds[kinds >= 0], minlength=classes)
    first, second = (np.array(side, dtype=np.intp) for side in zip(*pairs, strict=True))
    fields = np.zeros((3, len(pairs), values.shape[0]), dtype=np.int64)
    for part, block in _blocks(values, check_engine(engine), BLOCK_PAIRS // (classes * classes) * kinds.size):
        found = np.empty((2, classes, classes, _width(part)), dtype=np.int64)
        packed_sort.all_pairs_counts(*_order(block, engine), kinds, sizes, found)
        fields[0, :, part], fields[1, :, part] = found[:, first, second]
        fields[2, :, part] = found[1, second, first]
    return PairCounts(sizes[first], sizes[second], *fields)


BLOCK_PAIRS = 2_000_000
"""Numbers of classes × classes × units that are held while all pairs are counted."""


def centred_ranks(values: Any, *, engine: str = "numba", dtype: Any = np.float64) -> NDArray:
    """Mid-rank minus (n + 1)/2 of (units, n) values along the last axis."""
    check_size(values.shape[1])
    ranks = np.empty(tuple(values.shape), dtype=dtype)
    for part, block in _blocks(values, check_engine(engine)):
        order = _order(block, engine)
        if isinstance(order, OrderedBlock):
            ranks[part] = _array(order.centred_ranks())
        else:
            packed_sort.centred_ranks(*order, ranks[part])
    return ranks


def _blocks(values: Any, engine: str, numbers: int | None = None) -> Iterator[tuple[slice, Any]]:
    """Slices of units, and their responses: exact and contiguous, (n, units) for compiled code, else (units, n)."""
    whole = engine == "numpy" or is_tensor(values)
    most = sorted_counts.BLOCK_NUMBERS if whole else packed_sort.BLOCK_NUMBERS
    for units in unit_blocks(values, most if numbers is None else min(most, max(numbers, 1))):
        part = values[units]
        yield units, tensor_block(part) if is_tensor(part) else exact_block(part) if whole else wide_block(part)


def _width(units: slice) -> int:
    return units.stop - units.start


def tensor_block(block: Any) -> Any:
    """A floating block that torch can sort and sum where it lies."""
    block = block.detach()
    if not block.is_floating_point():
        import torch

        return torch.as_tensor(exact_block(block.cpu().numpy()), device=block.device)
    return block.float() if block.element_size() < 4 else block


def _order(block: Any, engine: str) -> Any:
    """`OrderedBlock`, or the sorted keys and how many are set."""
    if engine == "numpy" or is_tensor(block):
        return OrderedBlock(block)
    return packed_sort.ordered_keys(block)


def _sum_block(block: Any, codes: NDArray[np.int32], sums: ClassSums, units: slice, engine: str) -> None:
    found = np.empty((4, sums.count.size, _width(units)))
    if is_tensor(block):
        _sum_tensor(block, codes, found)
    elif engine == "numpy":
        _sum_plain(block, codes, found)
    else:
        packed_sort.sums_by_class(block, codes, np.ascontiguousarray(sums.count), found)
    for place, value in zip((sums.mean, sums.squares, sums.low, sums.high), found, strict=True):
        place[:, units] = value


def _sum_plain(block: NDArray, codes: NDArray[np.int32], found: Float) -> None:
    """`packed_sort.sums_by_class` with additions in the same order, one class and unit at a time."""
    for one in range(found.shape[1]):
        part = block[:, codes == one].astype(np.float64)
        if part.shape[1] == 0:
            found[:, one] = np.array([[np.nan], [0.0], [np.inf], [-np.inf]])
            continue
        n = part.shape[1]
        with np.errstate(invalid="ignore", over="ignore"):
            # cumsum adds in order; sum would add in pairs
            mean = np.cumsum(part, axis=1)[:, -1] / n
            deviation = part - mean[:, None]
            slip = np.cumsum(deviation, axis=1)[:, -1]
            found[0, one] = mean + slip / n
            found[1, one] = np.cumsum(deviation * deviation, axis=1)[:, -1] - slip * slip / n
            found[2, one], found[3, one] = part.min(axis=1), part.max(axis=1)


def _sum_tensor(block: Any, codes: NDArray[np.int32], found: Float) -> None:
    import torch

    if block.device.type == "mps":  # knows no float64
        block = block.cpu()
    for one in range(found.shape[1]):
        index = torch.as_tensor(np.flatnonzero(codes == one), device=block.device)
        if index.numel() == 0:
            found[:, one] = np.array([[np.nan], [0.0], [np.inf], [-np.inf]])
            continue
        part = block.index_select(-1, index).to(torch.float64)
        mean = part.mean(-1)
        deviation = part - mean[:, None]
        slip = deviation.mean(-1)
        squares = (deviation**2).sum(-1) - slip**2 * index.numel()
        for place, value in zip(found, (mean + slip, squares, part.amin(-1), part.amax(-1)), strict=True):
            place[one] = _array(value)


def _array(value: Any) -> NDArray:
    return value.detach().cpu().numpy() if is_tensor(value) else value


def prepared(responses: Any, target: Any, among: Any = None) -> tuple[Any, NDArray[np.int32], tuple[int, ...]]:
    """(units, n) responses as given, (tasks, n) roles (1 target, 0 distractor, -1 left out), and the result's shape."""
    values = responses if is_tensor(responses) else np.asarray(responses)
    wanted = np.asarray(_array(target))
    if wanted.dtype != np.bool_ or wanted.ndim not in (1, 2):
        raise ValueError(f"target must be boolean, (n,) or (tasks, n); came {wanted.dtype} {wanted.shape}")
    if values.ndim == 0 or values.shape[-1] != wanted.shape[-1]:
        raise ValueError(f"last axes of responses and target must agree; came {tuple(values.shape)} and {wanted.shape}")
    roles = wanted.astype(np.int32)
    if among is not None:
        inside = np.asarray(_array(among))
        if inside.dtype != np.bool_ or inside.shape not in (wanted.shape, wanted.shape[-1:]):
            raise ValueError(f"among must be boolean, {wanted.shape}; came {inside.dtype} {inside.shape}")
        roles = np.where(inside, roles, np.int32(-1))
    shape = wanted.shape[:-1] + tuple(values.shape[:-1])
    return values.reshape(-1, values.shape[-1]), roles.reshape(-1, roles.shape[-1]), shape


def against_rest(sums: ClassSums) -> ClassSums:
    """Class sums (classes, 2, units) of each class (1) and of all others together (0), from those of classes.

    Moments of a union: Chan, Golub & LeVeque 1983, eq. 2.1, all deviations taken from the grand mean.
    """
    n = sums.count[:, None].astype(np.float64)
    total = n.sum()
    mean = np.where(n > 0, sums.mean, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        grand = (n * mean).sum(axis=0) / total
        between = n * (mean - grand) ** 2
        rest = (total * grand - n * mean) / (total - n)
        spread = between.sum(axis=0) - between - (total - n) * (rest - grand) ** 2
        squares = (sums.squares.sum(axis=0) - sums.squares) + np.maximum(spread, 0.0)
    others = sums.count.sum() - sums.count
    low, high = _least_of_others(sums.low), -_least_of_others(-sums.high)
    # a response that is not finite is in the class or in its rest: the grand mean spoils the unit for all classes
    fields = ((rest, sums.mean), (squares, sums.squares), (low, sums.low), (high, sums.high))
    return ClassSums(np.stack([others, sums.count], axis=1), *(np.stack(pair, axis=1) for pair in fields))


def _least_of_others(values: Float) -> Float:
    """(classes, units): the smallest value of all other classes."""
    ordered = np.sort(values, axis=0)
    return np.where(values == ordered[0], ordered[1], ordered[0])
