"""The refit null: labels are permuted once for all tasks, and read-out and gains are made again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.detectors import logistic_detectors
from featattn_neuro.nets.learning import Schedule, fit_tasks, start
from featattn_neuro.nets.refit import refit_gains
from featattn_neuro.nets.training import head_inputs

SCHEDULE = Schedule(rate=0.05, penalty=0.01, batch_size=10, epochs=2)


@pytest.fixture(scope="module")
def problem() -> tuple[Any, ...]:
    """Three tasks, the third a copy of the first; few images, so permuted labels still give read-outs."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    cut = CutNetwork(build_network("digits_cnn").module, ["relu2", "relu3"], "head")
    rows = cut.prefix(torch.rand(20, 1, 12, 12))
    features = head_inputs(cut.module, "head", torch.rand(30, 1, 12, 12))
    target = np.stack([rng.permutation(20) < 8, rng.permutation(20) < 10])
    source = np.stack([rng.permutation(30) < 10, rng.permutation(30) < 15])
    return cut, rows, target[[0, 1, 0]], features, source[[0, 1, 0]]


def test_refits_are_made_from_seeds(problem: Any) -> None:
    seen: list[tuple[int, int]] = []
    found = refit_gains(*problem, SCHEDULE, refits=3, seed=7, block=6, progress=lambda *now: seen.append(now))
    assert found.shape == (3, 3, 96)
    assert (found > 0).all()
    assert seen == [(2, 3), (3, 3)]
    np.testing.assert_array_equal(found, refit_gains(*problem, SCHEDULE, refits=3, seed=7, block=6))
    assert np.abs(found - refit_gains(*problem, SCHEDULE, refits=3, seed=8, block=6)).max() > 0.01
    assert np.abs(found[0] - found[1]).max() > 0.01
    assert np.abs(found[1] - found[2]).max() > 0.01


def test_one_permutation_serves_all_tasks(problem: Any) -> None:
    found = refit_gains(*problem, SCHEDULE, refits=2, seed=0)
    np.testing.assert_allclose(found[:, 0], found[:, 2], rtol=1e-4)
    assert np.abs(found[:, 0] - found[:, 1]).max() > 0.01


def test_a_refit_is_an_ordinary_fit_of_permuted_labels(problem: Any) -> None:
    cut, rows, target, features, source = problem
    found = refit_gains(*problem, SCHEDULE, refits=2, seed=3, block=100)
    small_blocks = refit_gains(*problem, SCHEDULE, refits=2, seed=3, block=1)
    np.testing.assert_allclose(found, small_blocks, rtol=1e-4)
    rng = np.random.default_rng(3)
    for refit in range(2):
        labels = target[:, rng.permutation(20)]
        detector = logistic_detectors(features, source[:, rng.permutation(30)])
        fit = fit_tasks(cut, rows, labels, start(cut, detector), SCHEDULE, train_gains=True, train_head=False)
        wanted = torch.cat([fit.state.gains()[layer] for layer in cut.layers], dim=1).numpy()
        np.testing.assert_allclose(found[refit], wanted, rtol=1e-3)
