"""How gains are made of learned numbers: starts, bounds, penalties, the layer mean."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.detectors import Detector, feature_scale
from featattn_neuro.nets.gain_sets import from_gain_set, to_gain_set
from featattn_neuro.nets.gains import with_gains
from featattn_neuro.nets.learning import Schedule, fit_tasks, learn, logits, permute_gains, start
from featattn_neuro.nets.parameterisations import LOG, Parameterisation, mean_penalty
from featattn_neuro.nets.training import head_inputs

TEXTS = [
    "free",
    "non_negative",
    "bounded(0.7, 1.3)",
    "log",
    "log(0.5, 2.0)",
    "log+layer_mean",
    "non_negative+layer_mean",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_and_numbers_there_and_back(text: str) -> None:
    made = Parameterisation.parse(text)
    assert str(made) == text
    assert Parameterisation.parse(str(made)) == made
    theta = torch.full((2, 3), made.start)
    assert torch.equal(made.gain(theta), torch.ones(2, 3))
    assert torch.equal(made.deviation(theta), torch.zeros(2, 3))
    assert made.positive == (text != "free")
    gains = torch.tensor([[0.8, 1.2]])
    torch.testing.assert_close(replace(made, layer_mean=False).gain(made.inverse(gains)), gains)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bounded", "wanted free"), ("bounded(a, b)", "wanted free"), ("free(0, 1)", "wanted free"),
        ("exp", "wanted free"),
        ("bounded(1.1, 2)", "hold 1 between"), ("log(0, 2)", "above 0"), ("free+layer_mean", "layer mean 0"),
        ("bounded(0.7, 1.3)+layer_mean", "bounds do not hold once"),
        ("log(0.5, 2)+layer_mean", "bounds do not hold once"),
    ],
)  # fmt: skip
def test_what_is_no_parameterisation(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Parameterisation.parse(text)


def test_numbers_outside_the_bounds_are_refused_and_projected() -> None:
    bounded = Parameterisation.parse("bounded(0.7, 1.3)")
    with pytest.raises(ConfigError, match=r"1.5 cannot be written as bounded\(0.7, 1.3\)"):
        bounded.inverse(torch.tensor([1.5]))
    theta = torch.tensor([0.1, 1.0, 9.0])
    bounded.project_(theta)
    torch.testing.assert_close(theta, torch.tensor([0.7, 1.0, 1.3]))
    logs = Parameterisation.parse("log(0.5, 2.0)")
    theta = torch.tensor([-9.0, 0.1, 9.0])
    logs.project_(theta)
    torch.testing.assert_close(logs.gain(theta), torch.tensor([0.5, math.exp(0.1), 2.0]))
    with pytest.raises(ConfigError, match="cannot be written as log"):
        LOG.inverse(torch.tensor([0.0]))


@given(st.lists(st.floats(0.1, 3), min_size=2, max_size=6), st.floats(0.1, 10))
def test_the_layer_mean_is_one_and_takes_the_common_factor_away(values: list[float], factor: float) -> None:
    gains = torch.tensor([values], dtype=torch.float64)
    plain = Parameterisation(low=0.0, layer_mean=True)
    assert plain.gain(gains).mean().item() == pytest.approx(1)
    torch.testing.assert_close(plain.gain(gains * factor), plain.gain(gains))
    logs = Parameterisation(log=True, layer_mean=True)
    assert logs.gain(gains.log()).log().mean().item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(logs.gain((gains * factor).log()), logs.gain(gains.log()))


def test_penalties_by_hand() -> None:
    deviations = [torch.tensor([[1.0, -3.0]]), torch.tensor([[[2.0], [0.0]]])]
    assert mean_penalty(deviations, "l2").item() == pytest.approx((1 + 9 + 4) / 4)
    assert mean_penalty(deviations, "l1").item() == pytest.approx((1 + 3 + 2) / 4)
    with pytest.raises(ConfigError, match="unknown norm of the penalty 'l3'"):
        mean_penalty(deviations, "l3")
    with pytest.raises(ConfigError, match="unknown norm"):
        Schedule(rate=0.1, norm="L2")


@pytest.fixture(scope="module")
def problem() -> Any:
    rng = np.random.default_rng(0)
    images = torch.as_tensor(rng.random((24, 1, 12, 12), dtype=np.float32))
    net = build_network("digits_cnn", seed=1).module
    cut = CutNetwork(net, ["relu2", "relu3"], "head", past_pools=False)
    target = np.stack([rng.permutation(24) < 8 + task for task in range(3)])
    features = head_inputs(net, "head", images)
    detector = Detector(0.3 * rng.standard_normal((3, 64)), np.zeros(3), feature_scale(features))
    detector = replace(detector, bias=-detector.logits(features).mean(axis=1))
    rows = cut.prefix(images)
    return net, cut, rows, target, detector, images


SCHEDULE = Schedule(rate=0.1, penalty=0.001, batch_size=12, epochs=None, updates=12)


@pytest.mark.parametrize("text", TEXTS)
def test_learning_keeps_to_the_parameterisation(problem: Any, text: str) -> None:
    _, cut, rows, target, detector, _ = problem
    made = Parameterisation.parse(text)
    initial = start(cut, detector, parameterisation=made)
    np.testing.assert_array_equal(
        logits(cut, rows, initial), logits(cut, rows, start(cut, detector))
    )  # all gains 1, bit for bit
    state = learn(cut, rows, target, initial, SCHEDULE, train_gains=True, train_head=False)
    gains = torch.cat(list(state.gains().values()), dim=1)
    assert (gains - 1).abs().max() > 0.2
    if not made.layer_mean:
        assert gains.min() >= made.low - 1e-6
        assert gains.max() <= made.high + 1e-6
    if text in ("bounded(0.7, 1.3)", "non_negative"):
        assert (gains == made.low).any() or (gains.isclose(torch.tensor(made.low))).any()  # bounds are reached


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_penalties_pull_to_one_and_not_to_zero(problem: Any, norm: str) -> None:
    _, cut, rows, target, detector, _ = problem
    for text in ("free", "log"):
        initial = start(cut, detector, parameterisation=Parameterisation.parse(text))
        for values in initial.theta.values():
            values += 0.5
        heavy = Schedule(rate=0.02, penalty=1e4, batch_size=12, epochs=None, updates=60, norm=norm)
        state = learn(cut, rows, target, initial, heavy, train_gains=True, train_head=False)
        gains = torch.cat(list(state.gains().values()), dim=1)
        torch.testing.assert_close(gains, torch.ones_like(gains), atol=0.1, rtol=0)


def test_shifts_and_positions_are_learned_stored_and_placed(problem: Any) -> None:
    net, cut, rows, target, detector, images = problem
    shapes = {"relu2": (6, 6), "relu3": (3, 3)}
    for parts in ({"shift": True}, {"shapes": shapes}, {"gain": False, "shift": True},
                  {"shapes": shapes, "combination": "additive", "shift": True},
                  {"shapes": shapes, "parameterisation": Parameterisation()}):  # fmt: skip
        state = start(cut, detector, **parts)
        np.testing.assert_array_equal(logits(cut, rows, state), logits(cut, rows, start(cut, detector)))
        fit = fit_tasks(cut, rows, target, state, SCHEDULE, train_gains=True, train_head=True, block=2)
        alone = fit_tasks(cut, rows, target[2:], state.tasks(slice(2, 3)), SCHEDULE, train_gains=True, train_head=True)
        for layer in fit.state.shift:
            torch.testing.assert_close(fit.state.shift[layer][2:], alone.state.shift[layer], rtol=1e-3, atol=1e-4)
        wanted = logits(cut, rows, fit.state)
        gains = to_gain_set(cut, fit.state, ["a", "b", "c"], ["s"], attrs={})
        back = from_gain_set(cut, gains)
        np.testing.assert_allclose(logits(cut, rows, back), wanted, rtol=1e-4, atol=1e-4)
        for task, name in enumerate("abc"):
            with with_gains(net, gains, task=name):
                features = head_inputs(net, "head", images)
            found = Detector(
                *(v[task : task + 1] for v in (gains.head_weight.values, gains.head_bias.values)),
                gains.feature_scale.values,
            ).logits(features)[0]
            np.testing.assert_allclose(found, wanted[task], rtol=1e-3, atol=1e-3)
        assert fit.state.trained_numbers(head=True) == 65 + (96 if parts.get("gain", True) else 0) + (
            96 if "shift" in parts else 0
        ) + (45 if "shapes" in parts else 0)


def test_tasks_may_share_their_gains(problem: Any) -> None:
    _, cut, rows, target, detector, _ = problem
    shared = start(cut, detector, shared=True)
    fit = fit_tasks(cut, rows, target, shared, SCHEDULE, train_gains=True, train_head=False, block=1)
    gains = fit.state.gains()["relu2"]
    assert gains.shape == (3, 32)
    assert torch.equal(gains[0], gains[2])
    # one task shares with nobody: then it is the ordinary fit
    one, own = (
        fit_tasks(
            cut,
            rows,
            target[:1],
            start(cut, Detector(detector.weight[:1], detector.bias[:1], detector.scale), shared=s),
            SCHEDULE,
            train_gains=True,
            train_head=False,
        ).state
        for s in (True, False)
    )
    assert torch.equal(one.theta["relu3"], own.theta["relu3"])


def test_pooling_is_not_passed_by_what_does_not_commute(problem: Any) -> None:
    net, cut, rows, _, detector, images = problem
    passing = CutNetwork(net, ["relu2", "relu3"], "head")
    passing.prefix(images)
    for parts in ({"shift": True}, {"parameterisation": Parameterisation()}, {"shapes": {"relu2": (6, 6)}}):
        with pytest.raises(ConfigError, match="do not commute with pooling"):
            start(passing, detector, **parts)
    with pytest.raises(ConfigError, match="uniform gain cannot be learned"):
        start(cut, detector, per_filter=False, parameterisation=Parameterisation.parse("log+layer_mean"))
    free = start(cut, detector, parameterisation=Parameterisation())
    for values in free.theta.values():
        values[:] = -1.0
    # max pooling of -a is not -(max pooling of a)
    flipped = logits(cut, rows, free)
    gains = to_gain_set(cut, free, ["a", "b", "c"], ["s"], attrs={})
    with with_gains(net, gains, task="b"):
        np.testing.assert_allclose(detector.logits(head_inputs(net, "head", images))[1], flipped[1], atol=1e-4)
    with pytest.raises(DataError, match="positive numbers"):
        from_gain_set(passing, gains, parameterisation="log")
    assert permute_gains(free, np.random.default_rng(0)).parameterisation == Parameterisation()
