"""Doses of log gain: none is the un-gained network, one is what was learned, sizes scale with the dose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.arms import arm_network, arm_rule, arm_start
from featattn_neuro.nets.detectors import Detector
from featattn_neuro.nets.doses import DOSES, at_dose, dose_curve, log_gain_spread
from featattn_neuro.nets.learning import logits


@pytest.fixture
def problem() -> Any:
    net = build_network("digits_cnn", seed=1).module
    images = torch.rand(5, 1, 12, 12)
    cut = arm_network(net, ["relu2", "relu3"], "head", "positive")
    assert cut is not None
    rows = cut.prefix(images)
    rng = np.random.default_rng(0)
    detector = Detector(rng.normal(0, 1, (2, 64)), np.zeros(2), np.full(64, 0.1))
    return net, images, cut, rows, detector


@pytest.mark.parametrize("parameterisation", ["log", "bounded(0.1, 20.0)", "log+layer_mean"])
def test_doses_scale_the_logarithm(problem: Any, parameterisation: str) -> None:
    net, images, cut, rows, detector = problem
    rule = arm_rule("gain", parameterisation=parameterisation)
    state = arm_start(rule, cut, detector, net, images)
    plain = logits(cut, rows, state)
    for values in state.theta.values():
        values += 0.3 * torch.rand(values.shape, generator=torch.Generator().manual_seed(0))
    learned = logits(cut, rows, state)
    scores, spread = dose_curve(cut, rows, state)
    assert scores.shape == (5, 2, 5)
    assert spread.shape == (5, 2, 2)
    np.testing.assert_allclose(scores[DOSES.index(0.0)], plain, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores[DOSES.index(1.0)], learned, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(spread, np.array(DOSES)[:, None, None] * spread[DOSES.index(1.0)], rtol=1e-4, atol=1e-7)
    log_gain = np.log(state.gains()["relu3"].double().numpy())
    np.testing.assert_allclose(log_gain_spread(state)[1], log_gain.std(axis=1), rtol=1e-6)
    half = at_dose(state, 0.5).gains()["relu2"]
    torch.testing.assert_close(half.square(), state.gains()["relu2"], rtol=1e-4, atol=1e-5)


def test_gains_without_a_logarithm_have_no_dose(problem: Any) -> None:
    net, images, cut, _, detector = problem
    state = arm_start(arm_rule("gain", parameterisation="non_negative"), cut, detector, net, images)
    state.theta["relu3"][0, 3] = 0.0
    with pytest.raises(DataError, match="layer 'relu3' are not all positive"):
        at_dose(state, 0.5)
    with pytest.raises(ConfigError, match="0 or more; came -1"):
        at_dose(state, -1)


@pytest.mark.parametrize(("arm", "what"), [("gain_shift", "shifts"), ("feature_spatial", "gains per position")])
def test_there_is_no_dose_of_shifts_and_gains_per_position(problem: Any, arm: str, what: str) -> None:
    net, images, _, _, detector = problem
    rule = arm_rule(arm)
    cut = arm_network(net, ["relu2", "relu3"], "head", rule.place)
    assert cut is not None
    cut.prefix(images)
    with pytest.raises(DataError, match=f"these come with {what}"):
        at_dose(arm_start(rule, cut, detector, net, images), 0.5)
