"""Dose of learned gains: log g times 0, 1/4, 1/2, 1, 1 1/2, so that their size can be held against that in cortex."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.learning import Trained, logits
from featattn_neuro.nets.parameterisations import LOG

DOSES = (0.0, 0.25, 0.5, 1.0, 1.5)
"""Factors on log g: none, a quarter, a half, as learned, half as much again."""


def at_dose(state: Trained, dose: float) -> Trained:
    """A copy with gains g ** dose; the read-out is kept. Dose 0 is the un-gained network, 1 the gains as learned.

    Raises
    ------
    ConfigError : a dose below 0. DataError : a gain that is not positive, so that it has no logarithm; shifts, or gains
        per position.
    """
    if not dose >= 0:
        raise ConfigError(f"a dose of gain must be 0 or more; came {dose}")
    beside = [what for what, held in (("shifts", state.shift), ("gains per position", state.spatial)) if held]
    if beside:
        raise DataError(
            f"wanted gains per filter alone; these come with {' and '.join(beside)}, of which there is no dose of "
            "log g; learn gains without"
        )
    theta = {}
    for layer, gain in state.gains().items():
        if not bool((gain > 0).all()):
            raise DataError(
                f"gains of layer {layer!r} are not all positive, so log g cannot be scaled; use gains learned as "
                "g = exp(theta) or with a lower bound above 0"
            )
        theta[layer] = gain.detach().log() * dose
    return replace(state, theta=theta, parameterisation=LOG)


def log_gain_spread(state: Trained) -> np.ndarray:
    """(L, T) population SD of log g over the filters of each layer, in the order of `state.theta`.

    >>> numbers = torch.tensor([[0.0, 0.2, 0.4]])
    >>> one = Trained({"a": numbers}, torch.ones(1, 1), torch.ones(1), torch.ones(1), {"a": 3})
    >>> log_gain_spread(one).round(4).tolist()  # 0.2 sqrt(2/3)
    [[0.1633]]
    """
    return np.stack(
        [g.detach().double().log().std(dim=1, unbiased=False).cpu().numpy() for g in state.gains().values()]
    )


def dose_curve(
    cut: CutNetwork, rows: Sequence[torch.Tensor], state: Trained, doses: Sequence[float] = DOSES
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (D, T, N) of rows and the SD of log g (D, L, T), with log gains times each dose.

    In cortex attention changes rates by 5 to 30 %, a log gain of about .05 to .26.
    """
    states = [at_dose(state, dose) for dose in doses]
    return (
        np.stack([logits(cut, rows, one) for one in states]),
        np.stack([log_gain_spread(one) for one in states]),
    )
