"""What a case of the calibration battery is, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Rng = np.random.Generator
OFFERED, DIAGNOSTIC, BEYOND, BAD = "offered", "diagnostic", "beyond", "known bad"


@dataclass(frozen=True)
class Outcome:
    """What one method said in each simulation.

    role : "offered" (must be calibrated), "diagnostic" (shown by the package with a warning label), "beyond" (an
        offered test where its assumption is broken on purpose: how far it bends), "known bad" (not in the package).
    p : p-values. low, high : interval ends. truth : what they should cover; NaN = the mean of `estimate` over all
        simulations, where the estimator is unbiased and its expectation has no closed form.
    """

    role: str
    p: Float | None = None
    low: Float | None = None
    high: Float | None = None
    truth: float = 0.0
    estimate: Float | None = None


Simulate = Callable[[Rng, int, float], dict[str, Outcome]]


@dataclass(frozen=True)
class Case:
    """A null, how it is simulated, and the effect that is planted for power (0 = none is)."""

    name: str
    null: str
    simulate: Simulate
    effect: float = 0.0
    cost: float = 1.0

    @property
    def factor(self) -> int:
        """More simulations where they cost little, so that an exact test seldom misses the limits by chance.

        At 2,000 an exact test has an upper limit above .07 in 7 cases of 100, at 4,000 in 1 of 1,000.
        """
        return 5 if self.cost <= 1 else 3 if self.cost <= 6 else 2 if self.cost <= 15 else 1


def decided(found: NDArray[np.bool_]) -> Float:
    """0 where a decision at .05 was for an effect, else 1: enough for a false-positive rate at that level."""
    return np.where(found, 0.0, 1.0)
