"""What d' and ROC area are worth when labels mean nothing: floors, p-values and the maximum statistic.

Responses are ranked and standardised once; every relabelling is then a column of a matrix product. The same
relabellings serve all units and tasks, so that the dependence between units is kept (Westfall & Young 1993).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featattn_neuro.arrays.counting import centred_ranks, discrimination_counts, prepared, tensor_block
from featattn_neuro.arrays.packed_sort import unit_blocks, wide_block
from featattn_neuro.arrays.sorted_counts import is_tensor
from featattn_neuro.arrays.standardised import standardised_difference

Float = NDArray[np.float64]

EXACT_IN_FLOAT32 = 8_000
"""Up to so many observations sums of centred half-integer ranks stay below 2^24 halves: exact in float32."""
_BLOCK_NUMBERS = 3_200_000
_CHUNK = 250  # relabellings multiplied at a time
_KEPT_LABELS = 64_000_000  # bytes
_TIE = 1e-5  # permuted d' this close below the observed one counts as equal: products are in float32


@dataclass(frozen=True)
class PermutationTest:
    """Of each unit (and task), (...) or (tasks, ...).

    dprime_floor, auc_floor : mean |d'| and mean |area - .5| over relabellings. dprime_p, auc_p : two-sided
    p = (1 + #{|permuted| >= |observed|})/(1 + permutations), never 0. dprime_p_max, auc_p_max : the same against the
    largest value in the family, which holds the family-wise error without assuming independence. NaN where undefined.
    """

    dprime_floor: Float
    auc_floor: Float
    dprime_p: Float
    auc_p: Float
    dprime_p_max: Float
    auc_p_max: Float


def permutation_test(
    responses: Any,
    target: Any,
    *,
    permutations: int,
    rng: np.random.Generator,
    family: ArrayLike | None = None,
    among: Any = None,
) -> PermutationTest:
    """Relabel the observations at random and see how large |d'| (rms) and |area - .5| become.

    Parameters
    ----------
    responses : (..., n), array or torch tensor.
    target : boolean (n,) or (tasks, n). Rows are permuted together, which keeps how tasks depend on each other.
    permutations : number of relabellings, 1 or more; the smallest p is 1/(1 + permutations).
    rng : source of randomness.
    family : integers in the shape of the result: which values are one family for the maximum statistic; None = all.
    among : boolean, as target: the observations that take part; labels are exchanged among them.

    Notes
    -----
    Up to 8,000 observations the products are in float32: areas are exact all the same (sums of centred half-integers),
    permuted d' is right to about 1e-6, and counts as equal to the observed one within 1e-5. Above, in float64.
    p: Phipson & Smyth 2010. Maximum statistic: Westfall & Young 1993; Nichols & Holmes 2002. A relabelling whose d' has
    no variance to divide by counts as an exceedance, and is left out of the floor. Labels are exchanged between
    observations: where these share a source, that is no valid null.

    >>> rng = np.random.default_rng(0)
    >>> found = permutation_test([9.0, 8.0, 7.0, 2.0, 1.0, 0.0], [True] * 3 + [False] * 3, permutations=99, rng=rng)
    >>> bool(found.auc_p < 0.3), float(found.auc_p) == float(found.auc_p_max)  # 2 of 20 relabellings are as extreme
    (True, True)
    """
    shape = prepared(responses, target, among)[2]
    numbers = np.zeros(shape, dtype=np.intp) if family is None else np.asarray(family, dtype=np.intp)
    if numbers.shape != shape:
        raise ValueError(f"family must have the shape of the result, {shape}; came {numbers.shape}")
    found = relabel(responses, target, permutations=permutations, rng=rng, family=numbers, among=among)
    p_max = [largest_p([found], measure).reshape(shape) for measure in range(2)]
    return PermutationTest(
        *(one.reshape(shape) for one in found.floors()), *(p.reshape(shape) for p in found.p()), *p_max
    )


def relabel(
    responses: Any, target: Any, *, permutations: int, rng: np.random.Generator, family: ArrayLike, among: Any = None
) -> Relabelled:
    """What `permutation_test` counts, for a part of the units: parts with the same relabellings share their maxima.

    Parameters as in `permutation_test`; family in the shape of the result.
    """
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1; came {permutations}")
    values, roles, _ = prepared(responses, target, among)
    families = np.asarray(family, dtype=np.intp).reshape(roles.shape[0], values.shape[0])
    tally = Relabelled(families, permutations)
    for members, mine in _same_observations(roles):
        part = values if members.all() else values[:, np.flatnonzero(members)]
        _permute(part, roles[mine][:, members] == 1, mine, permutations, rng, tally)
    return tally


def largest_p(parts: list[Relabelled], measure: int) -> Float:
    """p against the largest value of the family over all parts, (tasks, units of all parts); 0 = d', 1 = area."""
    largest: dict[int, NDArray] = {}
    for part in parts:
        for kind, row in zip(part.kinds.tolist(), part.largest[measure], strict=True):
            largest[kind] = np.maximum(largest[kind], row) if kind in largest else row
    slack = _TIE if measure == 0 else 0.0
    results = []
    for part in parts:
        observed = part.observed[measure]
        p = np.full(observed.shape, np.nan)
        for number, kind in enumerate(part.kinds.tolist()):
            mine = np.isfinite(observed) & (part.families == number)
            ordered = np.sort(largest[kind])
            limit = observed[mine] - slack * np.maximum(1.0, observed[mine])
            p[mine] = (1 + ordered.size - np.searchsorted(ordered, limit)) / (1 + part.permutations)
        results.append(p)
    return np.concatenate(results, axis=1)


def dprime_floor(responses: Any, target: Any, *, permutations: int, rng: np.random.Generator) -> Float:
    """Mean |d'| (rms) when labels are permuted: what |d'| of a unit without any effect looks like.

    Parameters
    ----------
    responses : (..., n).
    target : boolean (n,) or (tasks, n).
    permutations : number of label permutations, the same for all units.
    rng : source of randomness.

    Returns
    -------
    (...) or (tasks, ...), >= 0. About sqrt(2/pi) sqrt(1/n1 + 1/n0) for continuous responses. NaN where d' is undefined.

    >>> rng = np.random.default_rng(0)
    >>> float(dprime_floor([1.0, 2.0, 1.0, 2.0, 1.0, 2.0], [True] * 3 + [False] * 3, permutations=9, rng=rng)) > 0
    True
    """
    return permutation_test(responses, target, permutations=permutations, rng=rng).dprime_floor


def _same_observations(roles: NDArray[np.int32]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.intp]]]:
    """Tasks that use the same observations: which observations, which tasks."""
    inside = roles >= 0
    patterns, which = np.unique(inside, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        yield pattern, np.flatnonzero(which.ravel() == number)


class Relabelled:
    """Counts of exceedances, sums for the floor, and the largest value of each family in each relabelling.

    observed, exceedances, sums, defined : (2, tasks, units), d' and area. kinds : the families, as they were numbered;
    families : (tasks, units) places in kinds; largest : (2, kinds, permutations).
    """

    def __init__(self, family: NDArray[np.intp], permutations: int) -> None:
        self.kinds, places = np.unique(family, return_inverse=True)
        self.families, self.permutations = places.reshape(family.shape), permutations
        self.observed = np.full((2, *family.shape), np.nan)
        self.exceedances = np.zeros((2, *family.shape), dtype=np.int64)
        self.sums = np.zeros((2, *family.shape))
        self.defined = np.zeros((2, *family.shape), dtype=np.int64)
        self.largest = np.full((2, self.kinds.size, permutations), -np.inf)

    def add(self, which: int, task: int, units: slice, chunk: slice, found: Float) -> None:
        """found (relabellings, units): |permuted|, NaN where it has no denominator."""
        observed = self.observed[which, task, units]
        known = np.isfinite(found)
        every = bool(known.all())
        extreme = found if every else np.where(known, found, np.inf)
        limit = observed - _TIE * np.maximum(1.0, observed) if which == 0 else observed
        self.exceedances[which, task, units] += (extreme >= limit).sum(axis=0)
        self.sums[which, task, units] += (found if every else np.where(known, found, 0.0)).sum(axis=0)
        self.defined[which, task, units] += known.sum(axis=0)
        usable = np.isfinite(observed)
        mine = self.families[task, units]
        for kind in np.unique(mine[usable]):
            members = usable & (mine == kind)
            rows = extreme if members.all() else extreme[:, members]
            place = self.largest[which, kind, chunk]
            np.maximum(place, rows.max(axis=1), out=place)

    def floors(self) -> Float:
        """(2, tasks, units): mean |d'| and mean |area - .5| over relabellings."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(np.isfinite(self.observed) & (self.defined > 0), self.sums / self.defined, np.nan)

    def p(self) -> Float:
        """(2, tasks, units): p of each on its own."""
        return np.where(np.isfinite(self.observed), (1 + self.exceedances) / (1 + self.permutations), np.nan)


def _permute(
    values: Any,
    targets: NDArray[np.bool_],
    tasks: NDArray[np.intp],
    permutations: int,
    rng: np.random.Generator,
    tally: Relabelled,
) -> None:
    """All relabellings of some tasks over the same observations: values (units, n), targets (tasks, n)."""
    n = targets.shape[1]
    orders = np.empty((permutations, n), dtype=np.int32)
    for order in orders:
        order[:] = rng.permutation(n)
    sums, counts = discrimination_counts(values, targets.astype(np.int32))
    variance, n1, n0 = sums.variance(), counts.n1, counts.n0
    enough = np.minimum(n1, n0) >= 2
    differences = standardised_difference(
        (n1[:, None], sums.mean[:, 1], variance[:, 1]), (n0[:, None], sums.mean[:, 0], variance[:, 0])
    )
    varied = sums.low.min(axis=1) < sums.high.max(axis=1)
    finite = np.isfinite(sums.mean).all(axis=1) & enough[:, None]
    tally.observed[0, tasks] = np.where(finite, np.abs(differences), np.nan)
    pairs = (n1 * n0)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        # (rank sum of targets minus its expectation) / (n1 n0) = area - .5
        excess = np.abs((counts.wins - pairs) / 2) / pairs
    tally.observed[1, tasks] = np.where(finite & varied, excess, np.nan)
    labels = _Labellings(targets, orders)
    for units in unit_blocks(values, _BLOCK_NUMBERS):
        product = Products(values[units])
        for first in range(0, permutations, _CHUNK):
            chunk = slice(first, min(first + _CHUNK, permutations))
            for row in np.flatnonzero(enough).tolist():
                changed, area = product.statistics(labels.chunk(row, chunk))
                tally.add(0, tasks[row], units, chunk, changed)
                tally.add(1, tasks[row], units, chunk, area)


class _Labellings:
    """Permuted targets (labellings, n), kept where they are few, otherwise made again when asked for."""

    def __init__(self, targets: NDArray[np.bool_], orders: NDArray) -> None:
        self.targets, self.orders = targets, orders
        self.kept = targets[:, orders] if targets.shape[0] * orders.size <= _KEPT_LABELS else None

    def chunk(self, task: int, chunk: slice) -> NDArray[np.bool_]:
        return self.targets[task][self.orders[chunk]] if self.kept is None else self.kept[task, chunk]


class Products:
    """Units (units, n) ranked and standardised once, so that statistics of many labellings are matrix products."""

    def __init__(self, values: Any) -> None:
        self.n = values.shape[1]
        single = self.n <= EXACT_IN_FLOAT32
        self.real: Any = np.float32 if single else np.float64
        ranks = centred_ranks(values, dtype=self.real)
        if is_tensor(values):
            block = tensor_block(values)
            wide = _standardised(block.to(dtype=_double(block)).T)
            self.standard = wide.float() if single else wide
        else:
            self.standard = _standardised(wide_block(values).astype(np.float64)).astype(self.real, copy=False)
        self.ranks = self._moved(ranks).T
        self.squared = self.standard**2
        self.total = _numpy(self.standard.sum(0)).astype(np.float64)
        self.total_squared = _numpy(self.squared.sum(0)).astype(np.float64)

    def _moved(self, values: NDArray) -> Any:
        """`values` as a tensor beside the responses, or as they are."""
        if not is_tensor(self.standard):
            return values
        import torch

        return torch.as_tensor(values, device=self.standard.device)

    def statistics(self, chosen: NDArray[np.bool_]) -> tuple[Float, Float]:
        """|d'| (rms; NaN without variance) and |area - .5| of labellings (labellings, n) with equally many targets."""
        n1 = int(chosen[0].sum())
        n0 = self.n - n1
        rows = self._moved(chosen.astype(self.real))
        sums = _numpy(rows @ self.standard).astype(np.float64)
        rest = self.total - sums
        difference = np.abs(sums / n1 - rest / n0)
        if n1 == n0:  # then only the sum of both classes' squares is wanted, which no labelling changes
            variance = (self.total_squared - sums**2 / n1 - rest**2 / n0) / (n1 - 1)
        else:
            squares = _numpy(rows @ self.squared).astype(np.float64)
            variance = (squares - sums**2 / n1) / (n1 - 1) + (self.total_squared - squares - rest**2 / n0) / (n0 - 1)
        # responses are standardised: what is left below is rounding
        variance[variance <= (2e-6 if self.real is np.float32 else 2e-12)] = np.nan
        area = np.abs(_numpy(rows @ self.ranks).astype(np.float64)) / (n1 * n0)
        return difference / np.sqrt(variance / 2), area


def _standardised(wide: Any) -> Any:
    """Columns with mean 0 and SD 1, so that sums of squares do not cancel; columns without variance are 0."""
    centred = wide - wide.mean(0)
    sd = (centred**2).mean(0) ** 0.5
    sd[sd == 0] = 1.0
    centred /= sd
    return centred


def _double(block: Any) -> Any:
    import torch

    if block.device.type == "mps":
        raise ValueError("permutations need float64, which mps does not have; pass responses.cpu()")
    return torch.float64


def _numpy(value: Any) -> NDArray:
    return value.detach().cpu().numpy() if is_tensor(value) else value
