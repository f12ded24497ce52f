"""Refit null: labels are permuted and every step that used them is done again - read-out and gains.

The rows of the composites x tasks label matrix are permuted once for all tasks, the source labels of the read-out
likewise, so tasks keep their dependence on each other. Keeping an informed read-out instead puts the null far from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.detectors import Detector, logistic_detectors
from featattn_neuro.nets.learning import Schedule, fit_tasks, start


def refit_gains(
    cut: CutNetwork,
    rows: Sequence[torch.Tensor],
    target: np.ndarray,
    features: np.ndarray,
    feature_target: np.ndarray,
    schedule: Schedule,
    *,
    refits: int,
    seed: int | Sequence[int],
    block: int = 100,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Gains learned from permuted labels, (refits, T, filters of all layers of `cut`).

    Parameters
    ----------
    rows, target : prefix rows of the composites, and (T, N) their labels.
    features, feature_target : (M, F) head inputs of single images, and (T, M) their labels, for the read-out.
    block : tasks times refits that learn in one pass.
    """
    rng = np.random.default_rng(seed)
    tasks = len(target)
    per_pass = max(1, block // tasks)
    out = []
    for begin in range(0, refits, per_pass):
        count = min(per_pass, refits - begin)
        labels, detectors = [], []
        for _ in range(count):
            labels.append(np.asarray(target)[:, rng.permutation(target.shape[1])])
            detectors.append(logistic_detectors(features, feature_target[:, rng.permutation(feature_target.shape[1])]))
        stacked = Detector(
            np.concatenate([d.weight for d in detectors]),
            np.concatenate([d.bias for d in detectors]),
            detectors[0].scale,
        )
        state = start(cut, stacked)
        fit = fit_tasks(
            cut, rows, np.concatenate(labels), state, schedule, train_gains=True, train_head=False, block=count * tasks
        )
        gains = torch.cat([fit.state.gains()[layer] for layer in cut.layers], dim=1)
        out.append(gains.double().cpu().numpy().reshape(count, tasks, -1))
        if progress is not None:
            progress(begin + count, refits)
    return np.concatenate(out)
