"""Responses in order, at the speed of a sort: values and places packed into one integer, NumPy's vectorised sort.

The 32 bits of a float32, turned into an integer that sorts as the number does, are the upper half of a 64-bit key; the
place of the observation is the lower half. Sorting the keys orders the responses and says where each came from, several
times faster than an argsort. Exact zeros, which are half of what a ReLU gives, are counted and never sorted. Numbers
that no float32 holds are ordered by argsort and numbered by rank, and take the same path from there.

Kernels below read keys of one block of units: `keys` (units, n) int64, of which the first `filled` of each row are set;
zeros are not among them where `filled` < n. All counts are integers, so results are exact whatever the path.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from featattn_neuro.arrays.compiled import compiled

MOST_OBSERVATIONS = 1_500_000
"""Squares of counts are summed in 64-bit integers: more observations could overflow them."""
BLOCK_NUMBERS = 262_144
"""Responses sorted at a time: keys of 2 MB stay near the processor."""

Integers = NDArray[np.int64]


def unit_blocks(values: NDArray, numbers: int = BLOCK_NUMBERS) -> Iterator[slice]:
    """Slices of units that hold about `numbers` responses."""
    step = max(1, numbers // max(1, values.shape[1]))
    step = step // 16 * 16 if step > 16 else step  # whole cache lines of float32
    for start in range(0, values.shape[0], step):
        yield slice(start, min(start + step, values.shape[0]))


def exact_block(values: NDArray) -> NDArray:
    """Contiguous float32 where that holds every value exactly, otherwise float64.

    Raises
    ------
    ValueError : not real numbers, or integers beyond ±2^53, which float64 would round.
    """
    if values.dtype == np.float32:
        return np.ascontiguousarray(values)
    if values.dtype.kind not in "fiub":
        raise ValueError(f"responses must be real numbers; came {values.dtype}")
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8 and values.size:
        low, high = int(values.min()), int(values.max())
        if low < -(2**53) or high > 2**53:
            raise ValueError(
                f"responses lie in [{low}, {high}], beyond the integers that float64 holds exactly (±2^53); "
                "subtract a common offset, or divide"
            )
    wide = np.ascontiguousarray(values, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = wide.astype(np.float32)
        # NaN is never equal to itself; such units are undefined on either path
        same = (narrow == wide) | np.isnan(wide)
    return narrow if bool(same.all()) else wide


def wide_block(values: NDArray) -> NDArray:
    """A block (units, n) turned to (n, units), contiguous and exact: the layout in which units are summed side by side.

    >>> wide_block(np.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    turned = values.T
    if turned.flags.c_contiguous or turned.strides[-1] == turned.itemsize or 1 in turned.shape:
        return exact_block(turned)
    source = exact_block(values)
    wide = np.empty(source.shape[::-1], dtype=source.dtype)
    _turn(source, wide)
    return wide


@compiled
def _turn(source: NDArray, turned: NDArray) -> None:
    side = 16  # a tile's lines stay in the nearest cache
    for top in range(0, source.shape[0], side):
        for left in range(0, source.shape[1], side):
            for row in range(top, min(top + side, source.shape[0])):
                for column in range(left, min(left + side, source.shape[1])):
                    turned[column, row] = source[row, column]


def ordered_keys(wide: NDArray) -> tuple[Integers, Integers]:
    """Sorted keys (units, n) of a block (n, units), and how many of each row are set (zeros are left out)."""
    keys = np.empty(wide.shape[::-1], dtype=np.int64)
    filled = np.zeros(wide.shape[1], dtype=np.int64)
    if wide.dtype == np.float32:
        _pack(wide.view(np.int32), keys, filled)
        for row, count in zip(keys, filled.tolist(), strict=True):
            row[:count].sort()
    else:
        block = np.empty(wide.shape[::-1])
        _turn(wide, block)
        _number(block, np.argsort(block, axis=1), keys)
        filled[:] = wide.shape[0]
    return keys, filled


@compiled
def _pack(bits: NDArray[np.int32], keys: Integers, filled: Integers) -> None:
    side = 16  # units written side by side
    for left in range(0, bits.shape[1], side):
        for place in range(bits.shape[0]):
            for unit in range(left, min(left + side, bits.shape[1])):
                bit = np.int64(bits[place, unit])
                value = bit if bit >= 0 else bit ^ np.int64(0x7FFFFFFF)  # negative numbers sort backwards
                count = filled[unit]
                keys[unit, count] = (value << 32) | place
                filled[unit] = count + ((bit & np.int64(0x7FFFFFFF)) != 0)  # 0.0, -0.0: overwritten by the next


@compiled
def _number(block: NDArray[np.float64], order: Integers, keys: Integers) -> None:
    for unit in range(block.shape[0]):
        rank = 0
        previous = block[unit, order[unit, 0]]
        for position in range(block.shape[1]):
            place = order[unit, position]
            if block[unit, place] != previous:
                rank += 1
                previous = block[unit, place]
            keys[unit, position] = (np.int64(rank) << 32) | place


@compiled
def two_class_counts(
    keys: Integers,
    filled: Integers,
    codes: NDArray[np.int32],
    found: Integers,
) -> None:
    """Pair counts of one task: `codes` (n,) 1 = target, 0 = distractor, -1 = left out.

    found : (3, units) written. wins = sum over targets of f, where f = 2 #(distractors below) + #(distractors equal);
    squares1 the sum of f², and squares0 the same of distractors, of 2 #(targets below) + #(targets equal).
    """
    n1 = n0 = 0
    for place in range(codes.size):
        n1 += codes[place] == 1
        n0 += codes[place] == 0
    for unit in range(keys.shape[0]):
        count = filled[unit]
        zeros1, zeros0 = n1, n0
        for position in range(count):
            code = codes[keys[unit, position] & 0xFFFFFFFF]
            zeros1 -= code == 1
            zeros0 -= code == 0
        pending = count < keys.shape[1]
        below1 = below0 = won = first = second = 0
        position = 0
        while position < count or pending:
            equal1 = equal0 = 0
            if pending and (position == count or (keys[unit, position] >> 32) > 0):
                equal1, equal0, pending = zeros1, zeros0, False
            else:
                value = keys[unit, position] >> 32
                while position < count and (keys[unit, position] >> 32) == value:
                    code = codes[keys[unit, position] & 0xFFFFFFFF]
                    equal1 += code == 1
                    equal0 += code == 0
                    position += 1
            mine, other = 2 * below0 + equal0, 2 * below1 + equal1
            won += equal1 * mine
            first += equal1 * mine * mine
            second += equal0 * other * other
            below1 += equal1
            below0 += equal0
        found[0, unit], found[1, unit], found[2, unit] = won, first, second


@compiled
def one_versus_rest_counts(
    keys: Integers,
    filled: Integers,
    codes: NDArray[np.int32],
    sizes: Integers,
    found: Integers,
) -> None:
    """Pair counts of every class against all others, in one pass over the order; as `two_class_counts`.

    codes : (n,) class, -1 = left out. sizes : (classes,) observations of each. found : (3, classes, units) written:
    wins, squares1, squares0.
    """
    classes = sizes.size
    total = sizes.sum()
    below, equal = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    last, zeros = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    members = np.zeros(classes, np.int64)
    for unit in range(keys.shape[0]):
        count = filled[unit]
        for one in range(classes):
            below[one] = last[one] = 0
            zeros[one] = sizes[one]
            found[0, one, unit] = found[1, one, unit] = found[2, one, unit] = 0
        for position in range(count):
            code = codes[keys[unit, position] & 0xFFFFFFFF]
            if code >= 0:
                zeros[code] -= 1
        pending = count < keys.shape[1]
        seen = position = 0
        while position < count or pending:
            size = present = 0
            if pending and (position == count or (keys[unit, position] >> 32) > 0):
                pending = False
                for one in range(classes):
                    if zeros[one] > 0:
                        members[present] = one
                        equal[one] = zeros[one]
                        size += zeros[one]
                        present += 1
            else:
                value = keys[unit, position] >> 32
                while position < count and (keys[unit, position] >> 32) == value:
                    code = codes[keys[unit, position] & 0xFFFFFFFF]
                    position += 1
                    if code >= 0:
                        if equal[code] == 0:
                            members[present] = code
                            present += 1
                        equal[code] += 1
                        size += 1
            for k in range(present):
                one = members[k]
                mine = equal[one]
                rest = 2 * (seen - below[one]) + size - mine
                found[0, one, unit] += mine * rest
                found[1, one, unit] += mine * rest * rest
                # all others since the class was last seen have the same number of its members below them
                found[2, one, unit] += (seen - last[one]) * (2 * below[one]) ** 2
                found[2, one, unit] += (size - mine) * (2 * below[one] + mine) ** 2
                below[one] += mine
                last[one] = seen + size
                equal[one] = 0
            seen += size
        for one in range(classes):
            found[2, one, unit] += (total - last[one]) * (2 * below[one]) ** 2


@compiled
def all_pairs_counts(
    keys: Integers, filled: Integers, codes: NDArray[np.int32], sizes: Integers, found: Integers
) -> None:
    """Pair counts of every class i against every class j.

    found : (2, classes, classes, units) written: wins and squares.
    wins[i, j] = sum over members of i of f = 2 #(members of j below) + #(equal); squares[i, j] the sum of f².
    """
    classes = sizes.size
    below, equal, zeros = np.zeros(classes, np.int64), np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    won, squared = np.zeros((classes, classes), np.int64), np.zeros((classes, classes), np.int64)
    for unit in range(keys.shape[0]):
        count = filled[unit]
        below[:] = 0
        won[:] = 0
        squared[:] = 0
        zeros[:] = sizes
        for position in range(count):
            code = codes[keys[unit, position] & 0xFFFFFFFF]
            if code >= 0:
                zeros[code] -= 1
        pending = count < keys.shape[1]
        position = 0
        while position < count or pending:
            equal[:] = 0
            if pending and (position == count or (keys[unit, position] >> 32) > 0):
                pending = False
                equal[:] = zeros
            else:
                value = keys[unit, position] >> 32
                while position < count and (keys[unit, position] >> 32) == value:
                    code = codes[keys[unit, position] & 0xFFFFFFFF]
                    position += 1
                    if code >= 0:
                        equal[code] += 1
            for one in range(classes):
                if equal[one] > 0:
                    for other in range(classes):
                        mine = 2 * below[other] + equal[other]
                        won[one, other] += equal[one] * mine
                        squared[one, other] += equal[one] * mine * mine
            below += equal
        found[0, :, :, unit] = won
        found[1, :, :, unit] = squared


@compiled
def centred_ranks(keys: Integers, filled: Integers, ranks: NDArray) -> None:
    """Mid-rank minus (n + 1)/2 of every response, a half-integer: `ranks` (units, n) of any float, written."""
    n = keys.shape[1]
    for unit in range(keys.shape[0]):
        count = filled[unit]
        negative = 0
        while negative < count and (keys[unit, negative] >> 32) < 0:
            negative += 1
        zeros = n - count
        ranks[unit, :] = negative + 0.5 * (zeros - n)
        position = 0
        while position < count:
            value = keys[unit, position] >> 32
            end = position + 1
            while end < count and (keys[unit, end] >> 32) == value:
                end += 1
            before = position if value < 0 or zeros == 0 else position + zeros
            rank = before + 0.5 * (end - position - n)
            for k in range(position, end):
                ranks[unit, keys[unit, k] & 0xFFFFFFFF] = rank
            position = end


@compiled
def sums_by_class(wide: NDArray, codes: NDArray[np.int32], counts: Integers, found: NDArray[np.float64]) -> None:
    """Mean, sum of squared deviations, minimum and maximum per class, in float64, observations in order.

    wide : (n, units); codes : (n,) class, -1 = left out; counts : (classes,) members; found : (4, classes, units)
    written. The mean of an empty class is NaN. Corrected two-pass sums (Chan, Golub & LeVeque 1983, eq. 1.7).
    """
    classes, units = counts.size, wide.shape[1]
    total, slip, square = np.zeros((classes, units)), np.zeros((classes, units)), np.zeros((classes, units))
    least, most = np.full((classes, units), np.inf), np.full((classes, units), -np.inf)
    for place in range(codes.size):
        code = codes[place]
        if code >= 0:
            for unit in range(units):
                total[code, unit] += np.float64(wide[place, unit])
    for one in range(classes):
        for unit in range(units):
            total[one, unit] = total[one, unit] / counts[one] if counts[one] else np.nan
    for place in range(codes.size):
        code = codes[place]
        if code >= 0:
            for unit in range(units):
                value = np.float64(wide[place, unit])
                deviation = value - total[code, unit]
                slip[code, unit] += deviation
                square[code, unit] += deviation * deviation
                least[code, unit] = min(least[code, unit], value)
                most[code, unit] = max(most[code, unit], value)
    for one in range(classes):
        n = max(counts[one], 1)
        for unit in range(units):
            found[0, one, unit] = total[one, unit] + slip[one, unit] / n
            found[1, one, unit] = square[one, unit] - slip[one, unit] * slip[one, unit] / n
            found[2, one, unit], found[3, one, unit] = least[one, unit], most[one, unit]
