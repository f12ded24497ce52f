"""The refit null: labels are permuted once for all tasks, and read-out and gains are made again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from featattn_neuro.arrays.discrimination import roc_area
from featattn_neuro.arrays.resampling import t_interval
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.detectors import logistic_detectors
from featattn_neuro.nets.learning import Schedule, fit_tasks, logits, start
from featattn_neuro.nets.parameterisations import Parameterisation
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


@pytest.mark.parametrize("layers", [["relu2", "relu3"], ["relu3"]])
def test_gains_of_another_kind_are_fitted_as_that_kind(problem: Any, layers: list[str]) -> None:
    cut, _, target, features, source = problem
    torch.manual_seed(1)
    cut = CutNetwork(cut.module, layers, "head")
    rows = cut.prefix(torch.rand(20, 1, 12, 12))
    made = Parameterisation.parse("bounded(0.98, 1.02)")
    schedule = replace(SCHEDULE, norm="l1")
    found = refit_gains(cut, rows, target, features, source, schedule, refits=1, seed=3, parameterisation=made)
    assert found.min() >= 0.98 - 1e-6
    assert found.max() <= 1.02 + 1e-6
    rng = np.random.default_rng(3)
    labels = target[:, rng.permutation(20)]
    detector = logistic_detectors(features, source[:, rng.permutation(30)])
    initial = start(cut, detector, parameterisation=made)
    fit = fit_tasks(cut, rows, labels, initial, schedule, train_gains=True, train_head=False)
    wanted = torch.cat([fit.state.gains()[layer] for layer in cut.layers], dim=1).numpy()
    np.testing.assert_allclose(found[0], wanted, atol=1e-3)


@pytest.fixture(scope="module")
def pooled(problem: Any) -> tuple[Any, ...]:
    """The same with gains on the last layer only, where they act on the features themselves."""
    cut = CutNetwork(problem[0].module, ["relu3"], "head")
    torch.manual_seed(1)
    rows = cut.prefix(torch.rand(20, 1, 12, 12))
    assert cut.pooled
    assert not problem[0].pooled
    return (cut, rows, *problem[2:])


@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_pooled_refits_are_ordinary_fits(pooled: Any, penalty: float) -> None:
    cut, rows, target, features, source = pooled
    schedule = Schedule(rate=0.05, penalty=penalty, batch_size=7, epochs=5)
    found = refit_gains(*pooled, schedule, refits=3, seed=3)
    rng = np.random.default_rng(3)
    for refit in range(3):
        labels = target[:, rng.permutation(20)]
        detector = logistic_detectors(features, source[:, rng.permutation(30)])
        fit = fit_tasks(cut, rows, labels, start(cut, detector), schedule, train_gains=True, train_head=False)
        assert (fit.state.gains()["relu3"] - 1).abs().max() > 0.1
        np.testing.assert_allclose(found[refit], fit.state.gains()["relu3"].numpy(), rtol=2e-3)


@pytest.mark.parametrize("where", ["problem", "pooled"])
def test_the_choice_of_rate_is_made_again_for_every_relabelling(where: str, request: Any) -> None:
    cut, rows, target, features, source = request.getfixturevalue(where)
    schedules = [Schedule(rate=rate, batch_size=10, epochs=4) for rate in (0.002, 0.05, 0.4)]
    other_images = torch.rand(16, 1, 12, 12)
    other_rows, other = cut.prefix(other_images), np.stack([np.arange(16) % (2 + task) == 0 for task in range(3)])
    options = {"refits": 6, "seed": 5, "choice_rows": other_rows, "choice_target": other}
    found = refit_gains(cut, rows, target, features, source, schedules, **options)
    rng, taken = np.random.default_rng(5), []
    for refit in range(6):
        labels, sources, checks = (one[:, rng.permutation(one.shape[1])] for one in (target, source, other))
        state = start(cut, logistic_detectors(features, sources))
        fits = [fit_tasks(cut, rows, labels, state, one, train_gains=True, train_head=False).state for one in schedules]
        areas = [
            np.mean([roc_area(z, t) for z, t in zip(logits(cut, other_rows, fit), checks, strict=True)]) for fit in fits
        ]
        taken.append(int(np.argmax(areas)))
        each = [torch.cat([fit.gains()[layer] for layer in cut.layers], dim=1).numpy() for fit in fits]
        # a large rate magnifies rounding, so the fits are told apart rather than compared digit by digit
        assert int(np.argmin([np.abs(np.log(found[refit] / one)).mean() for one in each])) == taken[-1]
    assert len(set(taken)) > 1
    with pytest.raises(ConfigError, match="give choice_rows and choice_target"):
        refit_gains(cut, rows, target, features, source, schedules, refits=1, seed=0)


def test_a_kept_informed_read_out_shifts_the_null() -> None:
    """The documented trap: gains then turn down what the read-out relies on, and the null is not at 0.

    Twelve networks' worth of planted features, two tasks each; location = rank correlation with held-out |d'|.
    """
    cut = CutNetwork(build_network("digits_cnn").module, ["relu3"], "head")
    cut.prefix(torch.rand(2, 1, 12, 12))
    schedule = Schedule(rate=0.03, batch_size=60, epochs=30)
    null, trap = [], []
    for network in range(12):
        rng = np.random.default_rng(network)
        strength = rng.permutation(np.r_[np.linspace(0.4, 1.2, 20), np.zeros(44)])
        target = np.stack([np.arange(300) % 2 == 0, np.arange(300) // 2 % 2 == 0])

        def features(rng: Any = rng, strength: Any = strength, target: Any = target) -> np.ndarray:
            signal = target[0][:, None] * strength + target[1][:, None] * strength[::-1]
            return np.maximum(2 + signal + rng.standard_normal((300, 64)), 0)

        x, x_source, held_out = features(), features(), features()
        ranks = [np.abs(held_out[row].mean(axis=0) - held_out[~row].mean(axis=0)).argsort().argsort() for row in target]
        for informed, found in ((None, null), (logistic_detectors(x_source, target), trap)):
            rows = (torch.as_tensor(x, dtype=torch.float32),)
            gains = refit_gains(cut, rows, target, x_source, target, schedule, refits=10, seed=1, informed=informed)
            order = gains.argsort(axis=2).argsort(axis=2)
            found.append(np.mean([[np.corrcoef(one[t], ranks[t])[0, 1] for t in range(2)] for one in order]))
    low, high = t_interval(null, 0.99)  # that it holds 0 on the digits networks is for benchmarks/refit_null.py
    assert -0.1 < low < high < 0.1
    assert t_interval(trap, 0.99)[1] < min(low, 0)


def test_a_rate_that_blows_up_names_the_task(pooled: Any) -> None:
    with pytest.raises(DataError, match=r"gains of task \d are not finite; lower the rate"):
        refit_gains(*pooled, Schedule(rate=1e30, batch_size=10, epochs=2), refits=1, seed=0)
