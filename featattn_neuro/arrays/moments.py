"""Class-conditional statistics in one pass: update / merge / compute, memory (groups, units) whatever is streamed by.

Groups are classes, or targets and distractors of tasks; one observation may belong to several groups. What comes out
is what a second pass over stored responses would give: any split of the observations merges to the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featattn_neuro.arrays.discrimination import standardised_difference

if TYPE_CHECKING:
    import torch

Float = NDArray[np.float64]
FIELDS = ("count", "mean", "m2", "minimum", "maximum", "zeros", "nonfinite")
_BLOCK_NUMBERS = 4_000_000  # responses summed at a time: 32 MB in float64


@dataclass(frozen=True)
class ClassStatistics:
    """What `ClassMoments.compute` gives.

    count is (groups,); the rest is (groups, ...). Undefined is NaN: mean, minimum, maximum and zero_fraction of a
    group without observations, variance (ddof 1) below two, and all but zero_fraction where a response was not finite.
    """

    count: NDArray[np.int64]
    mean: Float
    variance: Float
    minimum: Float
    maximum: Float
    zero_fraction: Float
    nonfinite: NDArray[np.int64]


class ClassMoments:
    """Running count, mean, M2 (sum of squared deviations), minimum, maximum, zeros and non-finite values, float64.

    Parameters
    ----------
    groups : number of groups.
    shape : shape of one observation, for example (units,) or (reductions, units).

    Notes
    -----
    Each block of observations is summed in two passes, and blocks are joined by Chan, Golub & LeVeque 1983
    (eq. 2.1): delta = mean_b - mean_a; mean = mean_a + delta n_b/n; M2 = M2_a + M2_b + delta² n_a n_b/n. Adding a
    constant to all responses therefore does not change variances, as a running sum of squares would.

    >>> moments = ClassMoments(2, (1,))
    >>> moments.update([[3.0, 5.0, 1.0]], [[True, True, False], [False, False, True]])
    >>> moments.update([[3.0]], [[False], [True]])
    >>> found = moments.compute()
    >>> found.count.tolist(), found.mean.tolist(), found.variance.tolist()
    ([2, 2], [[4.0], [2.0]], [[2.0], [2.0]])
    """

    def __init__(self, groups: int, shape: tuple[int, ...]) -> None:
        if groups < 1:
            raise ValueError(f"groups must be at least 1; came {groups}")
        size = (groups, *shape)
        self.count: NDArray[np.int64] = np.zeros(groups, dtype=np.int64)
        self.mean: Float = np.zeros(size)
        self.m2: Float = np.zeros(size)
        self.minimum: Float = np.full(size, np.inf)
        self.maximum: Float = np.full(size, -np.inf)
        self.zeros: NDArray[np.int64] = np.zeros(size, dtype=np.int64)
        self.nonfinite: NDArray[np.int64] = np.zeros(size, dtype=np.int64)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, ArrayLike]) -> ClassMoments:
        """Moments whose state is `arrays`, one per name in FIELDS, groups first; as `arrays()` gives them."""
        mean = np.asarray(arrays["mean"])
        moments = cls(mean.shape[0], mean.shape[1:])
        for name in FIELDS:
            own = getattr(moments, name)
            given = np.array(arrays[name], dtype=own.dtype)
            if given.shape != own.shape:
                raise ValueError(f"{name} must have shape {own.shape}; came {given.shape}")
            setattr(moments, name, given)
        return moments

    def arrays(self) -> dict[str, NDArray]:
        """The state by name, copied: (groups,) for count, (groups, ...) for the rest."""
        return {name: getattr(self, name).copy() for name in FIELDS}

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one observation."""
        return self.mean.shape[1:]

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.mean.shape[0]

    def update(self, responses: ArrayLike | torch.Tensor, member: ArrayLike | torch.Tensor) -> None:
        """Add observations.

        Parameters
        ----------
        responses : (..., n), any real units, an array or a torch tensor on any device (summed where it lies). A NaN
            or infinity makes mean and variance of its group NaN and is counted in `nonfinite`.
        member : boolean (groups, n); an observation may belong to several groups, or to none.
        """
        on_device = _is_tensor(responses)
        values: Any = responses if on_device else np.asarray(responses)
        belongs = np.asarray(member.detach().cpu() if _is_tensor(member) else member)  # type: ignore[union-attr]
        n = values.shape[-1] if values.ndim else -1
        if tuple(values.shape[:-1]) != self.shape or values.ndim == 0:
            raise ValueError(f"responses must be {(*self.shape, 'n')}; came {tuple(values.shape)}")
        if belongs.dtype != np.bool_ or belongs.shape != (self.groups, n):
            raise ValueError(f"member must be boolean {(self.groups, n)}; came {belongs.dtype} {belongs.shape}")
        step = max(1, _BLOCK_NUMBERS // max(1, int(np.prod(self.shape))))
        summarise = _summarise_tensor if on_device else _summarise_array
        for group, chosen in enumerate(belongs):
            index = np.flatnonzero(chosen)
            for first in range(0, index.size, step):
                self._join(group, *summarise(values, index[first : first + step]))

    def merge(self, other: ClassMoments) -> ClassMoments:
        """Moments of the observations of both, which must not share any; neither is altered."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"moments must have one shape; came {self.mean.shape} and {other.mean.shape}")
        merged = ClassMoments.from_arrays(self.arrays())
        for group in range(self.groups):
            merged._join(group, *(getattr(other, name)[group] for name in FIELDS))
        return merged

    def pooled(self, chosen: ArrayLike) -> ClassMoments:
        """Moments of unions of groups: `chosen` is boolean (sets, groups), groups of a set must share no observation.

        >>> moments = ClassMoments(3, ())
        >>> moments.update([1.0, 3.0, 9.0], np.eye(3, dtype=bool))
        >>> moments.pooled([[True, True, False]]).mean.tolist()
        [2.0]
        """
        sets = np.asarray(chosen)
        if sets.dtype != np.bool_ or sets.ndim != 2 or sets.shape[1] != self.groups:
            raise ValueError(f"chosen must be boolean (sets, {self.groups}); came {sets.dtype} {sets.shape}")
        result = ClassMoments(sets.shape[0], self.shape)
        for place, row in enumerate(sets):
            for group in np.flatnonzero(row):
                result._join(place, *(getattr(self, name)[group] for name in FIELDS))
        return result

    def compute(self) -> ClassStatistics:
        """Mean, variance (ddof 1), minimum, maximum, fraction of zeros per group and unit; see `ClassStatistics`."""
        count = self.count.reshape(-1, *(1,) * len(self.shape))
        defined = (count > 0) & (self.nonfinite == 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = self.m2 / (count - 1)
            zero_fraction = self.zeros / count
        # a constant group has variance exactly 0, also where its mean is not representable
        variance = np.where(self.minimum == self.maximum, 0.0, variance)
        return ClassStatistics(
            count=self.count.copy(),
            mean=np.where(defined, self.mean, np.nan),
            variance=np.where(defined & (count > 1), variance, np.nan),
            minimum=np.where(defined, self.minimum, np.nan),
            maximum=np.where(defined, self.maximum, np.nan),
            zero_fraction=np.where(count > 0, zero_fraction, np.nan),
            nonfinite=self.nonfinite.copy(),
        )

    def _join(
        self, group: int, count: int, mean: Float, m2: Float, low: Float, high: Float, zeros: Any, bad: Any
    ) -> None:
        total = int(self.count[group]) + int(count)
        if count == 0:
            return
        share = count / total
        # with a NaN or infinity the sums mean nothing; they are set to NaN at once, so that every split gives the same
        self.nonfinite[group] += bad
        spoilt = self.nonfinite[group] > 0
        with np.errstate(invalid="ignore", over="ignore"):
            delta = mean - self.mean[group]
            self.mean[group] = np.where(spoilt, np.nan, self.mean[group] + delta * share)
            grown = self.m2[group] + m2 + delta**2 * (share * self.count[group])
            self.m2[group] = np.where(spoilt, np.nan, grown)
            self.minimum[group] = np.where(spoilt, np.nan, np.minimum(self.minimum[group], low))
            self.maximum[group] = np.where(spoilt, np.nan, np.maximum(self.maximum[group], high))
        self.zeros[group] += zeros
        self.count[group] = total


def dprime(moments: ClassMoments, target: ArrayLike, distractor: ArrayLike, *, denominator: str = "rms") -> Float:
    """Difference of class means in units of a within-class SD, from moments alone.

    Parameters
    ----------
    target, distractor : boolean (tasks, groups): the groups whose observations are targets, and distractors.
    denominator : "rms", "pooled" or "noise", as in `discrimination.dprime`.

    Returns
    -------
    (tasks, ...), in SDs, any sign; NaN as in `discrimination.dprime`, whose result on stored responses it equals.

    >>> moments = ClassMoments(2, ())
    >>> moments.update([3.0, 5.0, 1.0, 3.0], np.repeat(np.eye(2, dtype=bool), 2, axis=1))
    >>> dprime(moments, [[True, False]], [[False, True]]).round(6).tolist()
    [1.414214]
    """
    one, two = moments.pooled(target).compute(), moments.pooled(distractor).compute()
    extent = (-1, *(1,) * len(moments.shape))
    count1, count0 = one.count.reshape(extent), two.count.reshape(extent)
    values = standardised_difference(
        (count1, one.mean, one.variance), (count0, two.mean, two.variance), denominator=denominator
    )
    return np.where(np.minimum(count1, count0) < 2, np.nan, values)


def status_codes(moments: ClassMoments, target: ArrayLike, distractor: ArrayLike) -> NDArray[np.str_]:
    """Why d' is defined ("ok") or not, (tasks, ...); codes and order of `discrimination.status_codes`.

    >>> moments = ClassMoments(2, (2,))
    >>> moments.update([[0.0, 0, 0, 0], [1, 2, 3, np.inf]], np.repeat(np.eye(2, dtype=bool), 2, axis=1))
    >>> status_codes(moments, [[True, False]], [[False, True]]).tolist()
    [['dead', 'nonfinite']]
    """
    one, two = moments.pooled(target), moments.pooled(distractor)
    extent = (-1, *(1,) * len(moments.shape))
    count1, count0 = one.count.reshape(extent), two.count.reshape(extent)
    constant = (one.minimum == one.maximum) & (two.minimum == two.maximum)
    dead = (one.zeros == count1) & (two.zeros == count0)
    fewest = np.broadcast_to(np.minimum(count1, count0), constant.shape)
    conditions = [fewest == 0, fewest == 1, (one.nonfinite + two.nonfinite) > 0, dead, constant]
    return np.select(conditions, ["single_class", "too_few", "nonfinite", "dead", "constant"], default="ok")


def _is_tensor(values: Any) -> bool:
    return type(values).__module__.split(".")[0] == "torch" and hasattr(values, "detach")


def _summarise_array(values: NDArray, index: NDArray[np.intp]) -> tuple[Any, ...]:
    """Fields of the observations at `index`; two passes in float64."""
    # contiguous, so that sums do not depend on the layout in which responses come
    part = np.ascontiguousarray(values[..., index], dtype=np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = part.mean(axis=-1)
        m2 = ((part - mean[..., None]) ** 2).sum(axis=-1)
        low, high = part.min(axis=-1), part.max(axis=-1)
    return index.size, mean, m2, low, high, (part == 0).sum(axis=-1), (~np.isfinite(part)).sum(axis=-1)


def _summarise_tensor(values: torch.Tensor, index: NDArray[np.intp]) -> tuple[Any, ...]:
    """The same on the tensor's device; only (...) numbers per field come back."""
    import torch

    place = torch.as_tensor(index, device=values.device)
    part = values.detach().index_select(-1, place)
    if part.device.type == "mps":  # knows no float64
        part = part.cpu()
    part = part.to(torch.float64)
    mean = part.mean(-1)
    m2 = ((part - mean[..., None]) ** 2).sum(-1)
    fields = mean, m2, part.amin(-1), part.amax(-1), (part == 0).sum(-1), (~torch.isfinite(part)).sum(-1)
    return index.size, *(field.cpu().numpy() for field in fields)
