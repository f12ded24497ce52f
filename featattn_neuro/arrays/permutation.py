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
from featattn_neuro.arrays.packed_sort import exact_block, unit_blocks
from featattn_neuro.arrays.sorted_counts import is_tensor
from featattn_neuro.arrays.standardised import standardised_difference

Float = NDArray[np.float64]

EXACT_IN_FLOAT32 = 8_000
"""Up to so many observations sums of centred half-integer ranks stay below 2^24 halves: exact in float32."""
_BLOCK_NUMBERS = 2_000_000
_CHUNK = 250  # relabellings multiplied at a time


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
    p: Phipson & Smyth 2010. Maximum statistic: Westfall & Young 1993; Nichols & Holmes 2002. A relabelling whose d' has
    no variance to divide by counts as an exceedance, and is left out of the floor. Labels are exchanged between
    observations: where these share a source, that is no valid null.

    >>> rng = np.random.default_rng(0)
    >>> found = permutation_test([9.0, 8.0, 7.0, 2.0, 1.0, 0.0], [True] * 3 + [False] * 3, permutations=99, rng=rng)
    >>> bool(found.auc_p < 0.3), float(found.auc_p) == float(found.auc_p_max)  # 2 of 20 relabellings are as extreme
    (True, True)
    """
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1; came {permutations}")
    values, roles, shape = prepared(responses, target, among)
    tasks, units = roles.shape[0], values.shape[0]
    numbers = np.zeros(shape, dtype=np.intp) if family is None else np.asarray(family, dtype=np.intp)
    if numbers.shape != shape:
        raise ValueError(f"family must have the shape of the result, {shape}; came {numbers.shape}")
    kinds, families = np.unique(numbers.reshape(tasks, units), return_inverse=True)
    tally = _Tally(tasks, units, families.reshape(tasks, units), kinds.size, permutations)
    for members, mine in _same_observations(roles):
        part = values if members.all() else values[:, np.flatnonzero(members)]
        _permute(part, roles[mine][:, members] == 1, mine, permutations, rng, tally)
    return PermutationTest(*(one.reshape(shape) for one in tally.results()))


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


class _Tally:
    """Counts of exceedances, sums for the floor, and the largest value of each family in each relabelling."""

    def __init__(self, tasks: int, units: int, families: NDArray[np.intp], kinds: int, permutations: int) -> None:
        self.families, self.permutations = families, permutations
        self.observed = np.full((2, tasks, units), np.nan)
        self.exceedances = np.zeros((2, tasks, units), dtype=np.int64)
        self.sums = np.zeros((2, tasks, units))
        self.defined = np.zeros((2, tasks, units), dtype=np.int64)
        self.largest = np.full((2, kinds, permutations), -np.inf)

    def add(self, which: int, task: int, units: slice, chunk: slice, found: Float) -> None:
        """found (units, relabellings): |permuted|, NaN where it has no denominator."""
        observed = self.observed[which, task, units]
        known = np.isfinite(found)
        every = bool(known.all())
        extreme = found if every else np.where(known, found, np.inf)
        slack = 1e-9 * np.maximum(1.0, observed) if which == 0 else np.zeros_like(observed)
        self.exceedances[which, task, units] += (extreme >= (observed - slack)[:, None]).sum(axis=1)
        self.sums[which, task, units] += found.sum(axis=1) if every else np.where(known, found, 0.0).sum(axis=1)
        self.defined[which, task, units] += known.sum(axis=1)
        usable = np.isfinite(observed)
        mine = self.families[task, units]
        for kind in np.unique(mine[usable]):
            rows = extreme[usable & (mine == kind)]
            place = self.largest[which, kind, chunk]
            np.maximum(place, rows.max(axis=0), out=place)

    def results(self) -> list[Float]:
        """Floors, p, and p against the largest; each for d' and for the area."""
        known = np.isfinite(self.observed)
        with np.errstate(divide="ignore", invalid="ignore"):
            floors = np.where(known & (self.defined > 0), self.sums / self.defined, np.nan)
        p = np.where(known, (1 + self.exceedances) / (1 + self.permutations), np.nan)
        p_max = np.full_like(p, np.nan)
        for which in range(2):
            slack = 1e-9 if which == 0 else 0.0
            for kind in range(self.largest.shape[1]):
                mine = known[which] & (self.families == kind)
                observed = self.observed[which][mine]
                ordered = np.sort(self.largest[which, kind])
                beyond = ordered.size - np.searchsorted(ordered, observed - slack * np.maximum(1.0, observed))
                p_max[which][mine] = (1 + beyond) / (1 + self.permutations)
        return [one for pair in (floors, p, p_max) for one in pair]


def _permute(
    values: Any,
    targets: NDArray[np.bool_],
    tasks: NDArray[np.intp],
    permutations: int,
    rng: np.random.Generator,
    tally: _Tally,
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
    for units in unit_blocks(values, _BLOCK_NUMBERS):
        product = Products(values[units])
        for first in range(0, permutations, _CHUNK):
            chunk = slice(first, min(first + _CHUNK, permutations))
            for row, task in enumerate(tasks):
                if enough[row]:
                    chosen = targets[row][orders[chunk]]
                    tally.add(0, task, units, chunk, product.dprime(chosen))
                    tally.add(1, task, units, chunk, product.area_excess(chosen))


class Products:
    """Units (units, n) ranked and standardised once, so that statistics of many labellings are matrix products."""

    def __init__(self, values: Any) -> None:
        self.n = values.shape[1]
        exact = self.n <= EXACT_IN_FLOAT32
        if is_tensor(values):
            block = tensor_block(values)
            ranks = centred_ranks(values)
            self.standard = _standardised(block.to(dtype=_double(block)))
            self.ranks = self._moved(ranks.astype(np.float32) if exact else ranks)
        else:
            self.standard = _standardised(exact_block(values).astype(np.float64))
            self.ranks = centred_ranks(values, dtype=np.float32 if exact else np.float64)
        self.squared = self.standard**2
        self.total = _numpy(self.standard.sum(-1))[:, None]
        self.total_squared = _numpy(self.squared.sum(-1))[:, None]

    def _moved(self, values: NDArray) -> Any:
        """`values` as a tensor beside the responses, or as they are."""
        if not is_tensor(self.standard):
            return values
        import torch

        return torch.as_tensor(values, device=self.standard.device)

    def sums(self, weights: NDArray) -> tuple[Float, Float]:
        """Weighted sums of the standardised responses and of their squares; weights (labellings, n)."""
        columns = self._moved(weights.astype(np.float64).T)
        return _numpy(self.standard @ columns), _numpy(self.squared @ columns)

    def dprime(self, chosen: NDArray[np.bool_]) -> Float:
        """|d'| (rms) of boolean labellings (labellings, n), all with as many targets; NaN without variance."""
        n1 = int(chosen[0].sum())
        sums, squares = self.sums(chosen)
        n0 = self.n - n1
        difference = np.abs(sums * (1 / n1 + 1 / n0) - self.total / n0)
        variance = (squares - sums**2 / n1) / (n1 - 1)
        rest = self.total - sums
        variance += (self.total_squared - squares - rest**2 / n0) / (n0 - 1)
        variance /= 2
        with np.errstate(divide="ignore", invalid="ignore"):
            # standardised responses: what is left below 1e-12 is rounding
            return np.where(variance > 1e-12, difference / np.sqrt(variance), np.nan)

    def area_excess(self, chosen: NDArray[np.bool_]) -> Float:
        """|area - .5| of the same labellings, exact."""
        n1 = int(chosen[0].sum())
        columns = self._moved(chosen.T.astype(np.float32 if self.n <= EXACT_IN_FLOAT32 else np.float64))
        return np.abs(_numpy(self.ranks @ columns).astype(np.float64)) / (n1 * (self.n - n1))


def _standardised(block: Any) -> Any:
    """Rows with mean 0 and SD 1, so that sums of squares do not cancel; rows without variance are 0."""
    centred = block - block.mean(-1)[:, None]
    sd = (centred**2).mean(-1) ** 0.5
    sd[sd == 0] = 1.0
    return centred / sd[:, None]


def _double(block: Any) -> Any:
    import torch

    if block.device.type == "mps":
        raise ValueError("permutations need float64, which mps does not have; pass responses.cpu()")
    return torch.float64


def _numpy(value: Any) -> NDArray:
    return value.detach().cpu().numpy() if is_tensor(value) else value
