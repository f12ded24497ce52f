"""Balanced logistic read-outs of very many tasks on the same features, fitted together.

Newton's method, its linear systems solved by conjugate gradients for all tasks at once: a step costs two matrix
products of the features, which all tasks share, where one solver per task forms and factors a Hessian of its own. The
optimum is that of scikit-learn's `LogisticRegression(class_weight="balanced")`: the objective is strictly convex in
the weights.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import softplus

from featattn_neuro.errors import DataError
from featattn_neuro.nets.detectors import Detector, _both_classes, feature_scale

MOST_STEPS = 50


def joint_logistic_detectors(
    features: np.ndarray,
    target: np.ndarray,
    *,
    strength: float = 1.0,
    tolerance: float = 1e-6,
    device: str | torch.device = "cpu",
) -> Detector:
    """`detectors.logistic_detectors` for hundreds of tasks: the same optimum, the work of all tasks in one.

    Minimised per task: |w|^2 / 2 + C sum_i s_i log(1 + exp(-y_i (w x_i + b))), y = +-1, s balanced to equal mass (mean
    1 over images), x the features over their SD; b is not penalised.

    Parameters
    ----------
    features : (N, F) head inputs of the un-gained network. target : (T, N) bool. strength : C.
    tolerance : largest entry of the gradient over C N at which a task is done.

    Raises
    ------
    DataError : a task with targets or distractors only; no convergence in `MOST_STEPS` Newton steps.
    """
    flags = _both_classes(target)
    scale = feature_scale(features)
    x = torch.as_tensor(np.asarray(features) / scale, dtype=torch.float64, device=device)
    x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    y = torch.as_tensor(flags.T.copy(), device=device).to(x)
    mass = y.mean(dim=0)
    problem = _Problem(x, y, strength * (y / (2 * mass) + (1 - y) / (2 * (1 - mass))))
    weight = x.new_zeros(x.shape[1], y.shape[1])
    value, slope, curvature = problem.at(weight)
    limit = tolerance * strength * len(x)
    for _ in range(MOST_STEPS):
        left = slope.abs().amax(dim=0) > limit
        if not left.any():
            break
        step = problem.newton_step(slope, curvature, left)
        weight, (value, slope, curvature) = problem.descend(weight, value, slope, step)
    else:
        task = int(left.nonzero()[0])
        raise DataError(
            f"the read-out of task {task} did not converge in {MOST_STEPS} Newton steps; check the features"
        )
    found = weight.T.cpu().numpy()
    return Detector(np.ascontiguousarray(found[:, :-1]), found[:, -1].copy(), scale)


class _Problem:
    """The objectives of T tasks on shared inputs x (N, F + 1), labels y and masses s (N, T)."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, s: torch.Tensor) -> None:
        self.x, self.y, self.s = x, y, s
        self.ridge = x.new_ones(x.shape[1], 1)
        self.ridge[-1] = 0.0
        # the Hessian at weights 0 and equal masses: close to that of every task whose labels say little
        first = (x * (s.mean(dim=1, keepdim=True) / 4)).T @ x + torch.diag(self.ridge[:, 0])
        first.diagonal().add_(1e-10 * first.diagonal().mean())
        self.factor = torch.linalg.cholesky(first)

    def at(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Value (T,), gradient (F + 1, T) and curvature of each image's term (N, T)."""
        z = self.x @ weight
        value = (self.s * (softplus(z) - self.y * z)).sum(dim=0) + 0.5 * (self.ridge * weight.square()).sum(dim=0)
        p = torch.sigmoid(z)
        slope = self.x.T @ (self.s * (p - self.y)) + self.ridge * weight
        return value, slope, self.s * p * (1 - p)

    def newton_step(self, slope: torch.Tensor, curvature: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
        """Solve H step = -slope by preconditioned conjugate gradients; tasks that are done get 0."""
        step = torch.zeros_like(slope)
        rest = torch.where(left, -slope, torch.zeros_like(slope))
        size = rest.norm(dim=0)
        # superlinear: solve the more exactly the smaller the gradient is (Dembo, Eisenstat & Steihaug 1982)
        goal = torch.minimum(torch.full_like(size, 0.1), size.sqrt() / len(self.x) ** 0.5) * size
        ready = torch.cholesky_solve(rest, self.factor)
        direction, product = ready, (rest * ready).sum(dim=0)
        for _ in range(2 * len(slope)):
            if (rest.norm(dim=0) <= goal).all():
                break
            image = self.x.T @ (curvature * (self.x @ direction)) + self.ridge * direction
            bend = (direction * image).sum(dim=0)
            length = torch.where(bend > 0, product / bend, torch.zeros_like(bend))
            step = step + length * direction
            rest = rest - length * image
            ready = torch.cholesky_solve(rest, self.factor)
            before, product = product, (rest * ready).sum(dim=0)
            direction = ready + torch.where(before > 0, product / before, torch.zeros_like(before)) * direction
        return step

    def descend(
        self, weight: torch.Tensor, value: torch.Tensor, slope: torch.Tensor, step: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Weights and objective after the longest of 1, 1/2, 1/4, … of the step that lowers each task's value."""
        wanted = 1e-4 * (slope * step).sum(dim=0)
        length = torch.ones_like(value)
        for _ in range(30):
            moved = weight + length * step
            found = self.at(moved)
            # rounding of the value itself near the optimum is no failure to descend
            worse = found[0] > value + length * wanted + 1e-12 * value.abs()
            if not worse.any():
                break
            length = torch.where(worse, length / 2, length)
        return moved, found
