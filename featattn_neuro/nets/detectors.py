"""Detectors: the read-out of a task from the network's features, frozen or trained."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from featattn_neuro.errors import DataError


@dataclass(frozen=True)
class Detector:
    """Linear read-outs of T tasks: logit = (features / scale) @ weight + bias.

    weight : (T, F) float64. bias : (T,) float64, logit units. scale : (F,) float64, divisor of the features, > 0.
    """

    weight: np.ndarray
    bias: np.ndarray
    scale: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(T, N) logits of features (N, F).

        >>> Detector(np.array([[2.0]]), np.array([1.0]), np.array([4.0])).logits(np.array([[8.0]]))
        array([[5.]])
        """
        return self.weight @ (np.asarray(features, dtype=np.float64) / self.scale).T + self.bias[:, None]


def feature_scale(features: np.ndarray) -> np.ndarray:
    """Population SD of each feature over images, (F,); 1 where a feature never varies, so that it stays 0 or constant.

    >>> feature_scale(np.array([[0.0, 3.0], [2.0, 3.0]]))
    array([1., 1.])
    """
    sd = np.asarray(features, dtype=np.float64).std(axis=0)
    return np.where(sd > 0, sd, 1.0)


def logistic_detectors(features: np.ndarray, target: np.ndarray, *, strength: float = 1.0) -> Detector:
    """One balanced logistic regression per task on scaled features of single images.

    Parameters
    ----------
    features : (N, F) head inputs of the un-gained network. target : (T, N) bool.
    strength : inverse L2 penalty C of scikit-learn's `LogisticRegression` (class_weight="balanced").

    Raises
    ------
    DataError : a task with targets or distractors only.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    scale = feature_scale(features)
    scaled = np.asarray(features, dtype=np.float64) / scale
    weight, bias = [], []
    for row in _both_classes(target):
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            model = LogisticRegression(C=strength, class_weight="balanced", solver="newton-cholesky", max_iter=200).fit(
                scaled, row
            )
        weight.append(model.coef_[0])
        bias.append(model.intercept_[0])
    return Detector(np.array(weight), np.array(bias), scale)


def _both_classes(target: np.ndarray) -> np.ndarray:
    flags = np.asarray(target, dtype=bool)
    for task, row in enumerate(flags):
        if row.all() or not row.any():
            raise DataError(
                f"task {task} needs targets and distractors to fit its detector; came {int(row.sum())} targets "
                f"of {row.size} images; check the labels"
            )
    return flags


def head_detectors(head: nn.Linear, outputs: np.ndarray, features: np.ndarray, target: np.ndarray) -> Detector:
    """Detectors from the network's own final layer: one output each, centred over outputs, calibrated on single images.

    A softmax does not change when one vector is added to all its weights, so the mean over outputs is removed. A
    two-number logistic calibration a z + b on single images (balanced) sets the scale and the threshold of the logit;
    its ranks, hence its ROC area, are the head's own.

    Parameters
    ----------
    outputs : (T,) index of each task's output. features : (N, F) single images. target : (T, N) bool.

    Raises
    ------
    DataError : a task with targets or distractors only; an output that does not prefer its class.
    """
    from sklearn.linear_model import LogisticRegression

    weight = head.weight.detach().cpu().double().numpy()
    bias = np.zeros(len(weight)) if head.bias is None else head.bias.detach().cpu().double().numpy()
    weight, bias = (weight - weight.mean(axis=0))[outputs], (bias - bias.mean())[outputs]
    scale = feature_scale(features)
    logits = weight @ np.asarray(features, dtype=np.float64).T + bias[:, None]
    for task, row in enumerate(_both_classes(target)):
        model = LogisticRegression(C=1e6, class_weight="balanced").fit(logits[task][:, None], row)
        slope, shift = float(model.coef_[0, 0]), float(model.intercept_[0])
        if slope <= 0:
            raise DataError(
                f"output {int(outputs[task])} of the head does not prefer its class (slope {slope:.3g} on single "
                "images); check the order of the classes"
            )
        weight[task], bias[task] = weight[task] * slope, bias[task] * slope + shift
    return Detector(weight * scale, bias, scale)


def as_tensors(detector: Detector, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(weight (T, F), bias (T,), scale (F,)) in float32 on `device`."""
    return tuple(
        torch.as_tensor(a, dtype=torch.float32, device=device) for a in (detector.weight, detector.bias, detector.scale)
    )  # type: ignore[return-value]
