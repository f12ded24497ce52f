"""Learning gains: the network stays, tasks are strangers to each other, and what is planted is found."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.architectures import GlobalMean
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.detectors import Detector, feature_scale, head_detectors, logistic_detectors
from featattn_neuro.nets.fine_tuning import learn_full
from featattn_neuro.nets.gain_sets import detector_of, from_gain_set, to_gain_set
from featattn_neuro.nets.learning import (
    Schedule,
    Trained,
    class_weights,
    fit_tasks,
    learn,
    logits,
    permute_gains,
    start,
)
from featattn_neuro.nets.training import head_inputs, train_classifier
from featattn_neuro.nets.weight_norms import filter_weight_norms

LAYERS = ["relu2", "relu3"]
N, TASKS = 24, 5


@pytest.fixture(scope="module")
def problem() -> tuple[CutNetwork, tuple[Tensor, ...], np.ndarray, Trained, Tensor]:
    """Digits network, images of noise, five tasks of random labels, and read-outs of random weights."""
    rng = np.random.default_rng(0)
    images = torch.as_tensor(rng.random((N, 1, 12, 12), dtype=np.float32))
    cut = CutNetwork(build_network("digits_cnn", seed=1).module, LAYERS, "head")
    rows = cut.prefix(images)
    target = np.stack([rng.permutation(N) < N // 3 + task for task in range(TASKS)])
    features = head_inputs(cut.module, "head", images)
    detector = Detector(0.3 * rng.standard_normal((TASKS, 64)), np.zeros(TASKS), feature_scale(features))
    detector = replace(detector, bias=-detector.logits(features).mean(axis=1))  # logits of both signs, of order 1
    return cut, rows, target, start(cut, detector), images


def same(a: Trained, b: Trained, tolerance: float = 0.0) -> None:
    for one, other in [
        *((a.theta[layer], b.theta[layer]) for layer in a.theta),
        (a.weight, b.weight),
        (a.bias, b.bias),
    ]:
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


SCHEDULE = Schedule(rate=0.05, penalty=0.01, batch_size=10, epochs=4, seed=2)


@pytest.mark.parametrize(("gains", "head"), [(True, False), (True, True), (False, True)])
def test_tasks_together_are_tasks_alone(problem: Any, gains: bool, head: bool) -> None:
    cut, rows, target, initial, _ = problem
    learned = {"train_gains": gains, "train_head": head}
    together = fit_tasks(cut, rows, target, initial, SCHEDULE, block=TASKS, evaluate=rows, **learned)
    alone = fit_tasks(cut, rows, target, initial, SCHEDULE, block=1, evaluate=rows, **learned)
    same(together.state, alone.state, 2e-4)
    np.testing.assert_allclose(together.logits, alone.logits, atol=1e-3)
    for k in (0, 4):
        one = fit_tasks(cut, rows, target[k : k + 1], initial.tasks(slice(k, k + 1)), SCHEDULE, **learned)
        same(one.state, together.state.tasks(slice(k, k + 1)), 2e-4)
    moved = (together.state.theta["relu2"].abs().max() > 0.01, (together.state.weight != initial.weight).any())
    assert moved == (gains, head)


def test_the_order_of_tasks_does_not_matter(problem: Any) -> None:
    cut, rows, target, initial, _ = problem
    order = [3, 0, 4, 2, 1]
    shuffled = Trained(initial.theta, initial.weight[order], initial.bias[order], initial.scale, initial.filters)
    wanted = fit_tasks(cut, rows, target, initial, SCHEDULE, train_gains=True, train_head=True).state
    found = fit_tasks(cut, rows, target[order], shuffled, SCHEDULE, train_gains=True, train_head=True).state
    back = np.argsort(order)
    theta = {layer: values[back] for layer, values in found.theta.items()}
    same(Trained(theta, found.weight[back], found.bias[back], found.scale), wanted, 2e-4)


def test_the_same_seed_gives_the_same_bits(problem: Any) -> None:
    cut, rows, target, initial, _ = problem
    a, b = (fit_tasks(cut, rows, target, initial, SCHEDULE, train_gains=True, train_head=True) for _ in range(2))
    same(a.state, b.state)
    assert all((values == 0).all() for values in initial.theta.values())  # where learning starts is not altered


def test_the_network_does_not_change() -> None:
    net = build_network("cifar_resnet20", weights="random").module
    net.train()  # batch norm in training mode would move its statistics
    before = copy.deepcopy(net.state_dict())
    cut = CutNetwork(net, ["layer3.1.relu1", "layer3.2.relu2"], "linear")
    inside = copy.deepcopy(cut.module.state_dict())
    images, target = torch.rand(8, 3, 16, 16), np.arange(8) % 2 == 0
    detector = Detector(np.random.default_rng(0).standard_normal((1, 64)), np.zeros(1), np.ones(64))
    schedule = Schedule(rate=0.1, batch_size=4, epochs=None, updates=3)
    rows = cut.prefix(images)
    state = fit_tasks(cut, rows, target[None], start(cut, detector), schedule, train_gains=True, train_head=True).state
    learn_full(cut, images, target, detector, 0, schedule, evaluate=images)
    assert state.theta["layer3.1.relu1"].abs().max() > 0.1
    for module, kept in ((net, before), (cut.module, inside)):
        found = module.state_dict()
        assert found.keys() == kept.keys()
        assert any("running_var" in key for key in found)
        assert all(torch.equal(found[key], kept[key]) for key in kept)
    assert all(part.training for part in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


class Planted(nn.Module):
    """Filters that pass each channel of the image on."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(channels, channels, 1, bias=False), nn.ReLU()
        self.mean, self.head = GlobalMean(), nn.Linear(channels, 2)
        self.conv.weight.data = torch.eye(channels)[..., None, None]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.mean(self.relu(self.conv(images))))


@pytest.mark.parametrize("informative", [[0, 1, 2], [4, 9, 11]])
def test_planted_filters_get_the_larger_gains(informative: list[int]) -> None:
    rng = np.random.default_rng(0)
    target = np.arange(60) % 2 == 0
    images = rng.random((60, 12, 4, 4), dtype=np.float32)
    images[np.ix_(target, informative)] += 0.3
    cut = CutNetwork(Planted(12).eval(), ["relu"], "head")
    # a read-out that likes every filter alike, so only the gains can tell them apart
    detector = Detector(np.ones((1, 12)), np.full(1, -12 * 0.55), np.ones(12))
    rows = cut.prefix(torch.as_tensor(images))
    schedule = Schedule(rate=0.05, batch_size=20, epochs=20)
    fit = fit_tasks(cut, rows, target[None], start(cut, detector), schedule, train_gains=True, train_head=False)
    gain = fit.state.gains()["relu"][0].numpy()
    others = np.setdiff1d(np.arange(12), informative)
    assert gain[informative].min() > 1.3
    assert gain[others].max() < 1.0


def test_penalties_pull_gains_to_one_and_gains_are_positive(problem: Any) -> None:
    cut, rows, target, initial, _ = problem
    spread = []
    for penalty in (0.0, 0.1, 100.0):
        schedule = Schedule(rate=0.01, penalty=penalty, batch_size=10, epochs=20)
        gains = fit_tasks(cut, rows, target, initial, schedule, train_gains=True, train_head=False).state.gains()
        assert all((g > 0).all() for g in gains.values())
        spread.append(float(gains["relu3"].log().square().mean()))
    assert spread[0] > spread[1] > 5 * spread[2]


def test_learning_lowers_the_loss_it_says(problem: Any) -> None:
    cut, rows, target, initial, _ = problem
    steps = [0, 5, 30]
    schedule = Schedule(rate=0.005, batch_size=N, epochs=None, updates=30)
    fit = fit_tasks(cut, rows, target, initial, schedule, train_gains=True, train_head=False, evaluate=rows, at=steps)
    weights = class_weights(torch.as_tensor(target)).numpy()
    losses = (np.logaddexp(0, np.where(target, -1, 1) * fit.logits) * weights).mean(axis=2)
    assert (np.diff(losses, axis=0) < 0).all()
    np.testing.assert_allclose(fit.logits[0], logits(cut, rows, initial), atol=1e-4)
    short = Schedule(rate=0.005, batch_size=N, epochs=None, updates=5)
    early = fit_tasks(cut, rows, target, initial, short, train_gains=True, train_head=False, evaluate=rows)
    np.testing.assert_allclose(fit.logits[1], early.logits[0], atol=1e-4)
    with pytest.raises(ConfigError, match="wanted logits after 9 updates"):
        fit_tasks(cut, rows, target, initial, short, train_gains=True, train_head=False, evaluate=rows, at=[0, 9])


def test_one_step_against_adam_by_hand(problem: Any) -> None:
    """The first step of Adam is the rate times the sign of the gradient; the gradient by differences of the loss."""
    cut, rows, target, initial, _ = problem
    schedule = Schedule(rate=1e-3, batch_size=N, epochs=None, updates=1)
    state = fit_tasks(cut, rows, target, initial, schedule, train_gains=True, train_head=False).state
    weights = class_weights(torch.as_tensor(target)).numpy()
    for channel in range(0, 64, 7):
        losses = []
        for shift in (-0.01, 0.01):
            moved = initial.tasks(slice(0, TASKS))
            moved.theta["relu3"][:, channel] = shift
            losses.append((np.logaddexp(0, np.where(target, -1, 1) * logits(cut, rows, moved)) * weights).mean(axis=1))
        slope = (losses[1] - losses[0]) / 0.02
        clear = np.abs(slope) > 1e-4
        np.testing.assert_allclose(state.theta["relu3"][clear, channel], -1e-3 * np.sign(slope)[clear], rtol=1e-2)


def test_each_task_learns_from_its_own_images(problem: Any) -> None:
    cut, rows, target, initial, _ = problem
    chosen = np.stack([np.r_[np.flatnonzero(row)[:3], np.flatnonzero(~row)[:3]] for row in target])
    schedule = Schedule(rate=0.05, batch_size=4, epochs=3)
    fit = fit_tasks(cut, rows, target, initial, schedule, train_gains=True, train_head=True, chosen=chosen)
    for task in (1, 3):
        mine = [row[chosen[task]] for row in rows]
        alone = fit_tasks(
            cut, mine, target[task : task + 1, chosen[task]], initial.tasks(slice(task, task + 1)), schedule,
            train_gains=True, train_head=True,
        )  # fmt: skip
        same(alone.state, fit.state.tasks(slice(task, task + 1)), 2e-4)


def test_uniform_gains_are_one_number_per_layer(problem: Any) -> None:
    cut, rows, target, initial, _ = problem
    detector = initial.detector()
    uniform = start(cut, detector, per_filter=False)
    fit = fit_tasks(cut, rows, target, uniform, SCHEDULE, train_gains=True, train_head=False)
    assert {layer: tuple(theta.shape) for layer, theta in fit.state.theta.items()} == {"relu2": (5, 1), "relu3": (5, 1)}
    gains = fit.state.gains()
    assert {layer: tuple(gain.shape) for layer, gain in gains.items()} == {"relu2": (5, 32), "relu3": (5, 64)}
    assert all((gain == gain[:, :1]).all() for gain in gains.values())
    assert (gains["relu3"][:, 0] != 1).all()


def test_permuted_gains_keep_their_layer_and_task(problem: Any) -> None:
    initial = problem[3]
    state = initial.tasks(slice(0, TASKS))
    for layer, theta in state.theta.items():
        theta += torch.randn(theta.shape) + (10 if layer == "relu3" else 0)
    shuffled = permute_gains(state, np.random.default_rng(0))
    for layer in LAYERS:
        assert torch.equal(shuffled.theta[layer].sort(dim=1).values, state.theta[layer].sort(dim=1).values)
        assert not torch.equal(shuffled.theta[layer], state.theta[layer])
        ranks = [shuffled.theta[layer][t].argsort().argsort() for t in range(2)]
        assert not torch.equal(*ranks)  # each task has an order of its own
    assert torch.equal(shuffled.weight, state.weight)


@pytest.mark.parametrize("names", [(), ["a", "b", "c", "the fourth", "e"]])
def test_a_loss_that_is_not_finite_names_its_task(problem: Any, names: Any) -> None:
    cut, rows, target, initial, _ = problem
    state = initial.tasks(slice(0, TASKS))
    state.bias[3] = float("nan")
    wanted = f"loss of task {names[3] if names else 3} is not finite at update 1; lower the rate"
    with pytest.raises(DataError, match=wanted):
        fit_tasks(cut, rows, target, state, SCHEDULE, train_gains=True, train_head=False, names=names)
    one_class = target.copy()
    one_class[3] = True
    with pytest.raises(DataError, match=f"task {names[3] if names else 3} needs targets and distractors; came 24 "):
        fit_tasks(cut, rows, one_class, initial, SCHEDULE, train_gains=True, train_head=False, names=names)


def test_full_fine_tuning(problem: Any) -> None:
    cut, _rows, target, initial, images = problem
    detector = initial.detector()
    schedule = Schedule(rate=1e-4, batch_size=N, epochs=None, updates=15)
    found = learn_full(cut, images, target[1], detector, 1, schedule, evaluate=images, at=[0, 15])
    np.testing.assert_allclose(found[0], logits(cut, cut.prefix(images), initial)[1], atol=1e-4)
    wrong_way = np.where(target[1], -1, 1) * found
    weights = class_weights(torch.as_tensor(target[1:2])).numpy()
    loss = (np.logaddexp(0, wrong_way) * weights).mean(axis=1)
    assert loss[1] < 0.7 * loss[0]
    end = learn_full(cut, images, target[1], detector, 1, schedule, evaluate=images)
    np.testing.assert_allclose(end[0], found[1], atol=1e-6)
    held = learn_full(cut, images, target[1], detector, 1, Schedule(1e-4, 1e9, N, None, 15), evaluate=images)
    assert np.abs(held - found[0]).max() < 0.3 * np.abs(end - found[0]).max()
    with pytest.raises(ConfigError, match="schedule ends after 15"):
        learn_full(cut, images, target[1], detector, 1, schedule, evaluate=images, at=[16])
    with pytest.raises(DataError, match="loss of task 1 is not finite"):
        learn_full(cut, images * np.nan, target[1], detector, 1, schedule, evaluate=images)


def test_schedules() -> None:
    epochs = list(Schedule(rate=1, batch_size=4, epochs=2, seed=1).batches(10))
    assert [len(b) for b in epochs] == [4, 4, 2, 4, 4, 2]
    for half in (epochs[:3], epochs[3:]):
        assert sorted(torch.cat(half).tolist()) == list(range(10))
    assert not torch.equal(torch.cat(epochs[:3]), torch.cat(epochs[3:]))
    updates = list(Schedule(rate=1, batch_size=4, epochs=None, updates=5, seed=1).batches(10))
    assert all(torch.equal(a, b) for a, b in zip(epochs[:5], updates, strict=True))
    assert [len(b) for b in Schedule(rate=1, batch_size=60, epochs=1).batches(3)] == [3]


@pytest.mark.parametrize(
    "options",
    [
        {"rate": 0.0},
        {"rate": 1.0, "penalty": -1.0},
        {"rate": 1.0, "batch_size": 0},
        {"rate": 1.0, "updates": 3},
        {"rate": 1.0, "epochs": 0},
        {"rate": 1.0, "epochs": -1},
        {"rate": 1.0, "epochs": None, "updates": 0},
    ],
)
def test_schedules_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="wanted"):
        Schedule(**options)


def test_class_weights_give_equal_mass() -> None:
    target = torch.tensor([[True, False, False, False, False], [True, True, True, False, True]])
    weights = class_weights(target)
    torch.testing.assert_close((weights * target).sum(1), (weights * ~target).sum(1))
    torch.testing.assert_close(weights.mean(1), torch.ones(2))


def test_learned_numbers_survive_the_gain_set(problem: Any) -> None:
    cut, rows, target, initial, _ = problem
    state = fit_tasks(cut, rows, target, initial, SCHEDULE, train_gains=True, train_head=True).state
    gains = to_gain_set(cut, state, list("abcde"), ["i", "j"], attrs={"rate": 0.05})
    assert gains["gain"].dims == ("task", "unit")
    assert gains["unit"].values[[0, 32]].tolist() == ["relu2/000", "relu3/000"]
    np.testing.assert_array_equal(gains["gain"][:, 32:], state.gains()["relu3"].double())
    same(from_gain_set(cut, gains.isel(unit=slice(None, None, -1))), state, 1e-6)
    np.testing.assert_array_equal(detector_of(gains).weight, state.weight.double())
    with pytest.raises(DataError, match="'relu3' must be 64 positive numbers"):
        from_gain_set(cut, gains.assign(gain=gains["gain"] * np.where(gains["layer"] == "relu3", -1, 1)))
    with pytest.raises(ConfigError, match="unknown gained layer 'relu2'"):
        from_gain_set(cut, gains.isel(unit=slice(32, None)))
    one = from_gain_set(cut, gains.isel(task=2, drop=True))
    same(one, state.tasks(slice(2, 3)), 1e-6)
    with pytest.raises(DataError, match="carry no read-out"):
        detector_of(gains.drop_vars("head_weight"))


# -- read-outs


def test_frozen_read_outs_against_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    features = rng.standard_normal((60, 4)) * [1, 10, 0.1, 0] + [0, 0, 5, 2]
    target = np.stack([features[:, 0] + rng.standard_normal(60) > 0.8, features[:, 1] > 0])
    detector = logistic_detectors(features, target)
    assert detector.scale[3] == 1
    np.testing.assert_allclose(detector.scale[:3], features[:, :3].std(axis=0))
    for task in (0, 1):
        model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=5000, tol=1e-8)
        wanted = model.fit(features / detector.scale, target[task]).decision_function(features / detector.scale)
        np.testing.assert_allclose(detector.logits(features)[task], wanted, atol=0.01)
    with pytest.raises(DataError, match="task 1 needs targets and distractors"):
        logistic_detectors(features, np.stack([target[0], np.zeros(60, bool)]))


def test_read_outs_from_the_networks_own_head() -> None:
    rng = np.random.default_rng(0)
    features, label = rng.random((90, 3)), np.repeat(np.arange(3), 30)
    features[np.arange(90), label] += 0.5
    head = nn.Linear(3, 3)
    head.weight.data, head.bias.data = 7 + 3 * torch.eye(3), torch.tensor([1.0, 2.0, 3.0])
    target = np.stack([label == 2, label == 0])
    detector = head_detectors(head, np.array([2, 0]), features, target)
    with torch.no_grad():
        own = head(torch.as_tensor(features, dtype=torch.float32)).double().numpy()
    own = own - own.mean(axis=1, keepdims=True)  # what a softmax sees
    for task, output in enumerate((2, 0)):
        order = detector.logits(features)[task]
        slope, _shift = np.polyfit(own[:, output], order, 1)
        assert slope > 0
        assert np.corrcoef(own[:, output], order)[0, 1] == pytest.approx(1, abs=1e-6)
    shifted = copy.deepcopy(head)
    shifted.weight.data += 5
    again = head_detectors(shifted, np.array([2, 0]), features, target)
    np.testing.assert_allclose(again.logits(features), detector.logits(features), rtol=1e-3)
    with pytest.raises(DataError, match="output 0 of the head does not prefer its class"):
        head_detectors(head, np.array([0, 2]), features, target)
    with pytest.raises(DataError, match="task 0 needs targets"):
        head_detectors(head, np.array([2]), features, np.ones((1, 90), bool))


def test_inputs_of_the_head_and_norms_of_weights() -> None:
    net = build_network("digits_cnn").module.train()
    images = torch.rand(7, 1, 12, 12)
    found = head_inputs(net, "head", images, chunk=4)
    assert net.training
    np.testing.assert_array_equal(found[5:6], head_inputs(net, "head", images[5:6], chunk=4))
    with torch.no_grad():
        np.testing.assert_allclose(found @ net.head.weight.double().numpy().T + net.head.bias.double().numpy(),
                                   net.eval()(images), atol=1e-5)  # fmt: skip
    norms = filter_weight_norms(net, ["relu2", "pool2"], images)
    wanted = net.conv2.weight.detach().double().square().sum((1, 2, 3)).sqrt()
    np.testing.assert_allclose(norms["relu2"], wanted)
    np.testing.assert_allclose(norms["pool2"], wanted)


def test_reference_training_learns_and_can_be_repeated() -> None:
    images = torch.rand(40, 1, 12, 12)
    labels = np.arange(40) % 2
    images[labels == 1, :, :6] = 0
    states = []
    for _ in range(2):
        net = build_network("digits_cnn", seed=5, num_classes=2).module
        train_classifier(net, images, labels, epochs=8, batch_size=10, rate=0.01, seed=3)
        states.append(net.state_dict())
        assert not net.training
        with torch.no_grad():
            assert (net(images).argmax(1).numpy() == labels).mean() > 0.9
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    with pytest.raises(DataError, match="loss is not finite in epoch 1"):
        train_classifier(net, images * np.nan, labels, epochs=1, batch_size=10, rate=0.01, seed=0)


def test_only_what_is_learned_changes_and_flags_end_as_they_began(problem: Any) -> None:
    cut, rows, target, initial, _ = problem
    state = initial.tasks(slice(0, TASKS))
    seen = []
    learn(
        cut, rows, target, state, Schedule(rate=0.1, epochs=1, batch_size=12), train_gains=True, train_head=False,
        watch=lambda update, now: seen.append((update, float(now.theta["relu3"].detach().abs().max()))),
    )  # fmt: skip
    assert [update for update, _ in seen] == [0, 1, 2]
    assert seen[0][1] == 0 < seen[1][1]
    assert torch.equal(state.weight, initial.weight)
    assert not any(v.requires_grad for v in (*state.theta.values(), state.weight, state.bias))
