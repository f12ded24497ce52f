"""Reductions of a layer's maps over positions: by name, by quantile ("q0.9"), or a callable; all made in the hook."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featattn_neuro.errors import ConfigError, DataError, choose

MAPS = "none"
"""Name of the reduction that keeps every position."""

_ILL_CONDITIONED = 0.01
"""Share of E[x^2] below which the variance is taken again from centred values: q - m^2 has lost digits by then."""


@dataclass(frozen=True)
class Reduction:
    """One reduction: its name in the output and (N, C, positions...) -> (N, C)."""

    name: str
    function: Callable[[Tensor], Tensor]

    def __call__(self, maps: Tensor) -> Tensor:
        """(N, C, ...) to (N, C), never sharing memory with `maps`; half precision is summed in float32."""
        maps = _widened(maps)
        if maps.ndim == 2:  # a vector is a map of one position: its mean, quantiles and so on are the vector itself
            if self.function is not standard_deviation and not isinstance(self.function, _checked):
                return maps.clone()
            maps = maps[:, :, None, None]
        return self.function(maps)


def _widened(maps: Tensor) -> Tensor:
    return maps.float() if maps.dtype in (torch.float16, torch.bfloat16) else maps


def _positions(maps: Tensor) -> tuple[int, ...]:
    return tuple(range(2, maps.ndim))


def _mean(maps: Tensor) -> Tensor:
    return maps.mean(dim=_positions(maps))


def _max(maps: Tensor) -> Tensor:
    return maps.amax(dim=_positions(maps))


def _sum(maps: Tensor) -> Tensor:
    return maps.sum(dim=_positions(maps))


def _centre(maps: Tensor) -> Tensor:
    if maps.ndim != 4:
        raise DataError(f"reduction 'centre' needs maps (N, C, H, W); came {tuple(maps.shape)}; choose another")
    return maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2].clone()


def _first(maps: Tensor) -> Tensor:
    if maps.ndim != 3:
        raise DataError(
            f"reduction 'first' takes the first of a sequence of tokens; came maps {tuple(maps.shape)}; choose another"
        )
    return maps[:, :, 0].clone()


def standard_deviation(maps: Tensor, mean: Tensor | None = None) -> Tensor:
    """SD over positions (n in the denominator) from sums and sums of squares: sqrt(E[x^2] - E[x]^2).

    Where that difference has lost its digits (variance below a hundredth of E[x^2]) the centred values are summed
    instead (Chan, Golub & LeVeque 1983), so a constant map gives 0. torch.std costs tens of times more on the CPU.
    `mean` over positions is computed unless it is given.

    >>> standard_deviation(torch.tensor([[[-2.0, 2.0], [5.0, 5.0]]])).tolist()
    [[2.0, 0.0]]
    """
    dims = _positions(maps)
    count = maps[0, 0].numel()
    mean = maps.mean(dim=dims) if mean is None else mean
    if count == 1:
        return torch.where(mean.isfinite(), 0.0, torch.nan).to(mean.dtype)
    square = torch.linalg.vector_norm(maps, dim=dims).double().square() / count
    variance = square - mean.double().square()
    poor = (variance < _ILL_CONDITIONED * square) & (square > 0)
    if bool(poor.any()):
        centred = maps - mean.view(*mean.shape, *[1] * len(dims))
        variance = torch.where(poor, torch.linalg.vector_norm(centred, dim=dims).double().square() / count, variance)
    return variance.clamp_min(0).sqrt().to(maps.dtype)


def quantile(maps: Tensor, q: float) -> Tensor:
    """Quantile over positions, linear interpolation (Hyndman & Fan 1996, type 7); NaN where a position is NaN.

    >>> quantile(torch.tensor([[[0.0, 10.0]]]), 0.9).tolist()
    [[9.0]]
    """
    ordered = maps.flatten(2).sort(dim=-1).values
    place = q * (ordered.shape[-1] - 1)
    low = int(place)
    below, above = ordered[..., low], ordered[..., min(low + 1, ordered.shape[-1] - 1)]
    value = below + (above - below) * (place - low) if place > low else below.clone()
    return torch.where(ordered[..., -1].isnan(), torch.nan, value)


def reduced(reductions: Sequence[Reduction], maps: Tensor) -> Tensor:
    """Values (reduction, N, C) of maps (N, C, ...); what two reductions need is computed once, to the same bits.

    >>> reduced(parse_reductions(["mean", "sd"]), torch.tensor([[[-2.0, 2.0]]])).tolist()
    [[[0.0]], [[2.0]]]
    """
    if len(reductions) == 1:
        return reductions[0](maps)[None]
    names = [one.name for one in reductions if one.function in (_mean, standard_deviation)]
    if maps.ndim == 2 or len(names) < 2:
        return torch.stack([one(maps) for one in reductions])
    wide = _widened(maps)
    mean = _mean(wide)
    known = {_mean: mean, standard_deviation: standard_deviation(wide, mean)}
    return torch.stack([known[one.function] if one.function in known else one(maps) for one in reductions])


def prepared(reductions: Sequence[Reduction], ndim: int) -> Callable[[Tensor], Tensor]:
    """`reduced` for outputs of `ndim` dimensions in float32 or float64, decided beforehand: hooks run in every batch.

    >>> prepared(parse_reductions("mean"), 3)(torch.tensor([[[-2.0, 4.0]]])).tolist()
    [[[1.0]]]
    """
    if ndim > 2 and [one.function for one in reductions] == [_mean]:
        positions = tuple(range(2, ndim))
        return lambda maps: torch.mean(maps, positions)[None]
    return lambda maps: reduced(reductions, maps)


REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": _mean,
    "max": _max,
    "sum": _sum,
    "sd": standard_deviation,
    "centre": _centre,
    "first": _first,
}
"""Reductions over positions by name: (N, C, positions...) to (N, C)."""

Reducer = str | Callable[[Tensor], Tensor]


def parse_reductions(reduce: Reducer | Sequence[Reducer]) -> tuple[Reduction, ...]:
    """Names, quantiles and callables as reductions; `MAPS` alone gives an empty tuple: nothing is reduced.

    >>> [one.name for one in parse_reductions(["mean", "q0.9"])], parse_reductions("none")
    (['mean', 'q0.9'], ())
    """
    wanted = [reduce] if isinstance(reduce, str) or callable(reduce) else list(reduce)
    if MAPS in [one for one in wanted if isinstance(one, str)]:
        if len(wanted) > 1:
            raise ConfigError(
                "'none' keeps every position, other reductions keep none: they do not fit one array; record twice"
            )
        return ()
    found = tuple(_parse(one) for one in wanted)
    names = [one.name for one in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None and any(isinstance(one.function, _checked) for one in found if one.name == twice):
        raise ConfigError(
            f"wanted reductions of different names, by which they are told apart in the output; came two functions "
            f"called {twice!r}; define them with def, or set their __name__"
        )
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"wanted one or more different reductions; came {names}; choose from {[*REDUCTIONS, MAPS]}")
    return found


def _parse(one: Reducer) -> Reduction:
    if not isinstance(one, str):
        if not callable(one):
            raise ConfigError(f"wanted a reduction's name or a function; came {type(one).__name__}; see REDUCTIONS")
        return Reduction(getattr(one, "__name__", type(one).__name__), _checked(one))
    if re.fullmatch(r"q(0(\.\d+)?|1(\.0+)?|\.\d+)", one):
        return Reduction(one, _Quantile(float(one[1:])))
    return Reduction(one, REDUCTIONS[choose(one, [*REDUCTIONS, MAPS, "q0.5"], "reduction")])


@dataclass(frozen=True)
class _Quantile:
    q: float

    def __call__(self, maps: Tensor) -> Tensor:
        return quantile(maps, self.q)


@dataclass(frozen=True)
class _checked:  # noqa: N801 - reads as a verb where it is used
    """A caller's function, on a copy: it may work in place; its result must be (N, C) and no view of the maps."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, maps: Tensor) -> Tensor:
        value = self.function(maps.clone())
        if not isinstance(value, Tensor) or value.shape != maps.shape[:2]:
            came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise DataError(
                f"a reduction takes maps {tuple(maps.shape)} to (N, C) = {tuple(maps.shape[:2])}; came {came}; "
                "reduce over dimensions 2 and up"
            )
        return value.clone()
