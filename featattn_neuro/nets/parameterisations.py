"""How a gain is made of the number that is learned: free, non-negative, bounded or logarithmic; and its pull to 1."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch

from featattn_neuro.errors import ConfigError, choose

PENALTY_NORMS = ("l2", "l1")
_TEXT = re.compile(r"^(free|non_negative|bounded|log)(?:\(([^,()]+),([^,()]+)\))?(\+layer_mean)?$")


@dataclass(frozen=True)
class Parameterisation:
    """A gain g of a learned number theta: g = theta, or g = exp(theta); kept between bounds by projection.

    Parameters
    ----------
    log : g = exp(theta), theta starts at 0; otherwise g = theta, which starts at 1. Either way all gains start at
        exactly 1, so a network with gains that have not learned answers bit for bit as without.
    low, high : bounds of g, low <= 1 <= high. After every update theta is moved to the nearest number allowed
        (projected gradient, as the non-negativity of Luo, Roads & Love 2021), so bounds are reached exactly and a gain
        at a bound can leave it again.
    layer_mean : the gains of a layer are divided by their mean (log: by their geometric mean) before they act: the
        factor that a layer's gains have in common is fixed to 1.

    As text: "free", "non_negative", "bounded(0.7, 1.3)", "log", "log(0.7, 1.3)"; "non_negative+layer_mean",
    "log+layer_mean".

    Raises
    ------
    ConfigError : bounds that do not hold 1 between them, log with a bound of 0 or less, the layer mean of gains that
        may be negative (it can be 0), or together with bounds, which dividing by it would break.

    >>> Parameterisation.parse("bounded(0.7, 1.3)")
    Parameterisation(log=False, low=0.7, high=1.3, layer_mean=False)
    >>> str(Parameterisation(low=0.0)), str(Parameterisation(log=True, layer_mean=True))
    ('non_negative', 'log+layer_mean')
    """

    log: bool = False
    low: float = -math.inf
    high: float = math.inf
    layer_mean: bool = False

    def __post_init__(self) -> None:
        if not self.low <= 1 <= self.high or self.low == self.high:
            raise ConfigError(f"bounds of a gain must hold 1 between them; came {self.low} to {self.high}")
        if self.log and not (self.low == -math.inf or self.low > 0):
            raise ConfigError(f"the logarithm of a gain needs a lower bound above 0; came {self.low}; use bounded")
        if self.layer_mean and (self.high != math.inf or self.low not in (-math.inf, 0.0)):
            raise ConfigError(
                f"bounds do not hold once gains are divided by their layer's mean; came {self.low} to {self.high} with "
                "layer_mean; leave one of them out"
            )
        if self.layer_mean and not self.positive:
            raise ConfigError("gains that may be negative can have the layer mean 0; use non_negative or log")

    @property
    def positive(self) -> bool:
        """Whether no gain can be negative."""
        return self.log or self.low >= 0

    @property
    def start(self) -> float:
        """The number that a gain of 1 is made of."""
        return 0.0 if self.log else 1.0

    @classmethod
    def parse(cls, text: str | Parameterisation) -> Parameterisation:
        """Read what `str` writes; what is a Parameterisation already is given back."""
        if isinstance(text, Parameterisation):
            return text
        found = _TEXT.match(text.replace(" ", ""))
        kind = None if found is None else found[1]
        bounds = None if found is None or found[2] is None else _numbers(found[2], found[3])
        unread = found is not None and found[2] is not None and bounds is None
        if (
            found is None
            or unread
            or (kind == "bounded" and not bounds)
            or (kind in ("free", "non_negative") and bounds)
        ):
            raise ConfigError(
                "wanted free, non_negative, bounded(low, high), log or log(low, high), perhaps with +layer_mean; "
                f"came {text!r}"
            )
        low, high = bounds or ((0.0, math.inf) if kind == "non_negative" else (-math.inf, math.inf))
        return cls(kind == "log", low, high, found[4] is not None)

    def __str__(self) -> str:
        bounds = f"({self.low}, {self.high})"
        if self.log:
            text = "log" if (self.low, self.high) == (-math.inf, math.inf) else f"log{bounds}"
        elif self.high == math.inf and self.low in (0.0, -math.inf):
            text = "non_negative" if self.low == 0 else "free"
        else:
            text = f"bounded{bounds}"
        return text + ("+layer_mean" if self.layer_mean else "")

    def gain(self, theta: torch.Tensor) -> torch.Tensor:
        """Gains of learned numbers (T, ...); the layer mean is over all but the first axis.

        >>> Parameterisation(log=True).gain(torch.zeros(1, 2)).tolist()
        [[1.0, 1.0]]
        >>> Parameterisation(low=0.0, layer_mean=True).gain(torch.tensor([[1.0, 3.0]])).tolist()
        [[0.5, 1.5]]
        """
        axes = tuple(range(1, theta.ndim))
        if self.log:
            return (theta - theta.mean(dim=axes, keepdim=True) if self.layer_mean else theta).exp()
        return theta / theta.mean(dim=axes, keepdim=True) if self.layer_mean else theta

    def inverse(self, gain: torch.Tensor) -> torch.Tensor:
        """The learned numbers of gains; `ConfigError` where a gain is outside the bounds or log of a number <= 0."""
        slack = 1e-6  # gains are kept in float32, so 0.7 may come back as 0.69999999
        outside = (gain < self.low - slack) | (gain > self.high + slack)
        if self.log:
            outside |= gain <= 0
        if outside.any():
            worst = float(gain[outside].flatten()[0])
            raise ConfigError(f"a gain of {worst:.6g} cannot be written as {self}; choose another parameterisation")
        return gain.log() if self.log else gain

    def deviation(self, theta: torch.Tensor) -> torch.Tensor:
        """What penalties pull to 0: log g where g = exp(theta), else g - 1 (before the layer mean is divided out)."""
        return theta if self.log else theta - 1

    def project_(self, theta: torch.Tensor) -> None:
        """Move the learned numbers to the nearest ones that the bounds allow, in place."""
        if (self.low, self.high) != (-math.inf, math.inf):
            low, high = (_log(self.low), _log(self.high)) if self.log else (self.low, self.high)
            with torch.no_grad():
                theta.clamp_(low, high)


def _log(value: float) -> float:
    return -math.inf if value == -math.inf else math.log(value)


def _numbers(low: str, high: str) -> tuple[float, float] | None:
    try:
        return float(low), float(high)
    except ValueError:
        return None


LOG = Parameterisation(log=True)
"""g = exp(theta): the parameterisation of the arms whose gains are compared with selectivity."""


def mean_penalty(deviations: list[torch.Tensor], norm: str) -> torch.Tensor:
    """Mean over all numbers of the square (l2) or absolute value (l1) of deviations (T, ...): (T,).

    >>> mean_penalty([torch.tensor([[3.0]]), torch.tensor([[-1.0]])], "l1").item()
    2.0
    """
    choose(norm, PENALTY_NORMS, "norm of the penalty")
    together = torch.cat([one.flatten(1) for one in deviations], dim=1)
    return (together.square() if norm == "l2" else together.abs()).mean(dim=1)
