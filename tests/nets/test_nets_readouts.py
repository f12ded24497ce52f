"""Read-outs fitted together are scikit-learn's, one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from featattn_neuro.errors import DataError
from featattn_neuro.nets.detectors import logistic_detectors
from featattn_neuro.nets.readouts import joint_logistic_detectors


def images(n: int = 120, width: int = 9, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = np.maximum(rng.standard_normal((n, width)) @ rng.standard_normal((width, width)), 0) * 10.0 ** rng.integers(
        -2, 3, width
    )
    found[:, -1] = 0.0  # a dead filter
    return found


def relabelled(features: np.ndarray, tasks: int, seed: int = 0) -> np.ndarray:
    """Informative, separable and shuffled labels of unequal frequency."""
    rng = np.random.default_rng(seed)
    score = (
        features
        / np.where(features.std(axis=0) > 0, features.std(axis=0), 1)
        @ rng.standard_normal((features.shape[1], tasks))
    )
    # by place and not by value: where most images share the highest score, none would lie above it
    place = score.argsort(axis=0, kind="stable").argsort(axis=0)
    flags = place >= rng.uniform(0.3, 0.9, tasks) * len(score)
    for task in range(tasks // 2, tasks):
        flags[:, task] = rng.permutation(flags[:, task])
    return flags.T


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_the_optimum_is_scikit_learns(strength: float) -> None:
    features = images()
    target = relabelled(features, 12)
    found = joint_logistic_detectors(features, target, strength=strength, tolerance=1e-10)
    scaled = features / found.scale
    for task, row in enumerate(target):
        theirs = LogisticRegression(
            C=strength, class_weight="balanced", solver="newton-cholesky", tol=1e-10, max_iter=500
        ).fit(scaled, row)
        np.testing.assert_allclose(found.weight[task], theirs.coef_[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.bias[task], theirs.intercept_[0], rtol=1e-5, atol=1e-5)


def test_the_default_is_the_detector_of_the_jobs() -> None:
    features = images(300, 20)
    target = relabelled(features, 6)
    found, wanted = joint_logistic_detectors(features, target), logistic_detectors(features, target)
    np.testing.assert_array_equal(found.scale, wanted.scale)
    np.testing.assert_allclose(found.weight, wanted.weight, atol=2e-3)
    np.testing.assert_allclose(found.bias, wanted.bias, atol=2e-3)


@given(st.integers(0, 1000))
@example(441)  # most images give nothing at all
@settings(max_examples=15, deadline=None)
def test_tasks_together_are_tasks_alone(seed: int) -> None:
    features = images(60, 5, seed)
    target = relabelled(features, 4, seed)
    together = joint_logistic_detectors(features, target, tolerance=1e-9)
    for task in range(4):
        alone = joint_logistic_detectors(features, target[task : task + 1], tolerance=1e-9)
        np.testing.assert_allclose(together.weight[task], alone.weight[0], atol=1e-5)


def test_one_class_is_refused() -> None:
    target = relabelled(images(), 3)
    target[1] = False
    with pytest.raises(DataError, match="task 1 needs targets and distractors"):
        joint_logistic_detectors(images(), target)
