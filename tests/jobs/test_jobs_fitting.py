"""What a run learns before anything is tested: the choice on V, examples of a curve, the rate of a curve, shuffles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score
from torch import nn

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.io.splits import partition
from featattn_neuro.io.store import load_kind
from featattn_neuro.jobs import fitting, stages
from featattn_neuro.jobs.config import ArmConfig, parse_config
from featattn_neuro.jobs.context import NetworkJob
from featattn_neuro.jobs.derived_arms import fit_theory
from featattn_neuro.nets.fine_tuning import learn_full
from featattn_neuro.nets.learning import Schedule, logits
from tests.jobs.conftest import TINY, changed

DIGITS = {**TINY, "stimuli": "digits"}


def config_of(config: dict[str, Any], **changes: Any) -> Any:
    return parse_config(yaml.safe_dump(changed(config, **changes)), "mine.yaml")


def silent(_: float) -> None:
    """Progress that nobody watches."""


@pytest.fixture(scope="module")
def job(images: Path, tmp_path_factory: pytest.TempPathFactory) -> NetworkJob:
    """A small trained network with its detectors, and several choices for some of its arms."""
    config = config_of(
        {**TINY, "stimuli": str(images)},
        networks__train__count=1,
        arms__gain={"rates": [0.3, 0.03], "penalties": [0.0, 0.1]},
        arms__full={"rates": [0.01, 0.001], "penalties": [0.0, 0.1]},
    )
    found = NetworkJob(config, tmp_path_factory.mktemp("fitting"), "network_0")
    for part in ("splits", "networks", "detectors", "arms/network_0"):
        (found.out / part).mkdir(parents=True)
    stages.train_network(found, silent)
    return found


# ---- the choice on V
TARGETS = {
    "G": np.array([[True, False, True, False]] * 2),
    "V": np.array([[True, True, False, False], [False, True, False, True]]),
    "P": np.array([[True, False, False]] * 2),
}
DISTRACTORS = {1.0: (0, 0), 0.75: (0, 2), 0.5: (0, 3), 0.0: (3, 3)}
"""ROC area to the logits of two distractors, where both targets have 2."""


def scores(target: np.ndarray, areas: tuple[float, float]) -> np.ndarray:
    """Logits (2, 4) with the given area in each task."""
    found = np.full(target.shape, 2.0)
    for row, one, area in zip(found, target, areas, strict=True):
        row[~one] = DISTRACTORS[area]
    return found


def code(rate: float, penalty: float) -> float:
    """What the made-up arms say of every image of P, so that the result tells the choice it comes from."""
    return 1000 * rate + penalty


def chosen_of(
    arm: str, monkeypatch: pytest.MonkeyPatch, on_v: dict[tuple[float, float], tuple[float, float]]
) -> fitting.ArmFit:
    """Fit an arm whose areas on V are given per (rate, penalty); nothing is learned."""
    rates, penalties = ([*dict.fromkeys(pair[k] for pair in on_v)] for k in (0, 1))
    config = config_of(DIGITS, **{f"arms__{arm}": {"rates": rates, "penalties": penalties}})
    job = SimpleNamespace(
        config=config, classes=["a", "b"], name="network_0", index=0, head="head",
        cut=SimpleNamespace(module=nn.Linear(2, 3)), network=SimpleNamespace(module=None),
        detector=SimpleNamespace(weight=np.zeros((2, 5))), target_matrix=TARGETS.__getitem__,
        arm_cut=lambda place: "cut", arm_rows=lambda place, split: split, rows=lambda split: split,
        images=lambda split: torch.zeros(TARGETS[split].shape[1], 1),
    )  # fmt: skip

    def fit_tasks(cut: Any, rows: Any, target: np.ndarray, initial: Any, schedule: Schedule, **options: Any) -> Any:
        assert rows == "G"
        assert options["evaluate"] == "V"
        pair = schedule.rate, schedule.penalty
        return SimpleNamespace(state=pair, logits=scores(TARGETS["V"], on_v[pair])[None])

    def full(cut: Any, images: Any, target: Any, detector: Any, task: int, schedule: Schedule, **options: Any) -> Any:
        assert len(options["evaluate"]) == 4 + 3
        pair = schedule.rate, schedule.penalty
        return np.concatenate([scores(TARGETS["V"], on_v[pair])[task], np.full(3, code(*pair))])[None]

    monkeypatch.setattr(fitting, "fit_tasks", fit_tasks)
    monkeypatch.setattr(fitting, "learn_full", full)
    monkeypatch.setattr(fitting, "arm_start", lambda *arguments: None)
    monkeypatch.setattr(fitting, "logits", lambda cut, rows, state: np.full((2, 3), code(*state)))
    return fitting.fit_arm(job, arm, silent)


@pytest.mark.parametrize("arm", ["probe", "full"])
def test_the_best_mean_area_on_v_is_chosen(arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the best of one task, and not the first or the last of the choices."""
    on_v = {(0.1, 0.0): (1.0, 0.0), (0.1, 0.01): (0.75, 0.75), (0.01, 0.0): (0.0, 1.0), (0.01, 0.01): (0.5, 0.75)}
    found = chosen_of(arm, monkeypatch, on_v)
    assert (found.rate, found.penalty) == (0.1, 0.01)
    np.testing.assert_array_equal(found.logits, np.full((2, 3), code(0.1, 0.01)))
    table = found.choices
    assert list(zip(table["rate"].values, table["penalty"].values, strict=True)) == [
        (0.01, 0.01), (0.01, 0.0), (0.1, 0.01), (0.1, 0.0)
    ]  # fmt: skip
    np.testing.assert_array_equal(
        table["auc_choice"].sel(arm=arm), [[0.5, 0.0, 0.75, 1.0], [0.75, 1.0, 0.75, 0.0]]
    )  # fmt: skip


@pytest.mark.parametrize("arm", ["probe", "full"])
def test_ties_on_v_go_to_the_smaller_rate_then_to_the_larger_penalty(arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    best, other = (0.75, 0.75), (1.0, 0.5)  # of one mean
    on_v = {(0.1, 0.0): best, (0.1, 0.01): best, (0.03, 0.0): other, (0.03, 0.01): other, (0.01, 0.0): (0.5, 0.5),
            (0.01, 0.01): (0.0, 0.0)}  # fmt: skip
    found = chosen_of(arm, monkeypatch, on_v)
    assert (found.rate, found.penalty) == (0.03, 0.01)
    np.testing.assert_array_equal(found.logits, np.full((2, 3), code(0.03, 0.01)))


@pytest.mark.parametrize("arm", ["gain", "full"])
def test_what_is_recorded_is_the_best_on_v_of_a_network(arm: str, job: NetworkJob, tmp_path: Path) -> None:
    """The table of choices says the same as the record, and the choice alone gives the same answers."""
    found = fitting.fit_arm(job, arm, silent)
    means = found.choices["auc_choice"].sel(arm=arm).mean("task").values
    pairs = list(zip(found.choices["rate"].values, found.choices["penalty"].values, strict=True))
    assert len(set(pairs)) == 4
    assert len(set(means)) > 1, "the choices must differ for this to say anything"
    best = min(range(4), key=lambda k: (-means[k], pairs[k][0], -pairs[k][1]))
    assert (found.rate, found.penalty) == pairs[best]
    arms = {**job.config.arms, arm: job.config.arms[arm].model_copy(
        update={"rates": [found.rate], "penalties": [found.penalty]}
    )}  # fmt: skip
    alone = NetworkJob(job.config.model_copy(update={"arms": arms}), job.out, job.name)
    again = fitting.fit_arm(alone, arm, silent)
    assert again.choices is None
    np.testing.assert_array_equal(again.logits, found.logits)


# ---- examples and rates of curves
def test_first_examples_are_nested_and_of_both_classes() -> None:
    target = np.array([[0, 1, 0, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0, 1]], dtype=bool)
    np.testing.assert_array_equal(fitting.first_examples(target, 2), [[1, 3, 0, 2], [0, 1, 3, 4]])
    np.testing.assert_array_equal(fitting.first_examples(target, 3), [[1, 3, 4, 0, 2, 5], [0, 1, 2, 3, 4, 5]])
    rng = np.random.default_rng(0)
    many = rng.random((5, 200)) < 0.3
    for m in (1, 2, 5, 10, 20):
        here, more = fitting.first_examples(many, m), fitting.first_examples(many, 2 * m)
        assert here.shape == (5, 2 * m)
        np.testing.assert_array_equal(np.take_along_axis(many, here, axis=1), [[True] * m + [False] * m] * 5)
        assert all(set(small) < set(large) for small, large in zip(here.tolist(), more.tolist(), strict=True))


def test_first_examples_too_few_of_one_class() -> None:
    target = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]], dtype=bool)
    assert fitting.first_examples(target, 2).shape == (2, 4)
    with pytest.raises(ConfigError, match="wants 3 targets and 3 distractors; task 0 has 2 and 3; leave the larger"):
        fitting.first_examples(target, 3)
    with pytest.raises(ConfigError, match="task 1 has 4 and 2"):
        fitting.first_examples(np.array([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0]], dtype=bool), 3)


Curves = dict[float, tuple[list[float], list[float]]]


def stub(curves: Curves, asked: list[tuple[str, ...]] | None = None) -> Callable[..., np.ndarray]:
    """A fit whose two tasks lie 0.1 above and below the given mean curves, on V and on P."""

    def fit(rate: float, split_names: Any) -> np.ndarray:
        if asked is not None:
            asked.append(tuple(split_names))
        parts = {"V": np.array(curves[rate][0]), "P": np.array(curves[rate][1])}
        return np.stack([np.stack([parts[s] + 0.1, parts[s] - 0.1]) for s in split_names])

    return fit


def test_the_rate_of_a_curve_has_the_largest_area_on_v() -> None:
    """Over an axis of unequal steps, so that the mean of the points would choose the other; P prefers the other too."""
    axis = np.array([0.0, 1.0, 9.0])
    curves = {0.1: ([0.9, 0.6, 0.6], [0.2, 0.2, 0.2]), 0.3: ([0.1, 0.9, 0.9], [0.1, 0.1, 0.1]),
              0.9: ([0.9, 0.9, 0.3], [1.0, 1.0, 1.0])}  # fmt: skip
    # areas on V: (0.75 + 4.8, 0.5 + 7.2, 0.9 + 4.8); means 0.7, 0.63, 0.7
    curve, rate = fitting._best_curve([0.1, 0.3, 0.9], stub(curves), axis)
    assert rate == 0.3
    np.testing.assert_allclose(curve, [[0.2] * 3, [0.0] * 3])


def test_the_smaller_rate_wins_a_tie_between_curves() -> None:
    same = ([0.5, 0.7], [0.6, 0.6])
    curves = {0.1: same, 0.01: ([0.7, 0.5], [0.4, 0.4])}
    for rates in ([0.01, 0.1], [0.1, 0.01]):
        curve, rate = fitting._best_curve(rates, stub(curves), np.array([0.0, 1.0]))
        assert rate == 0.01
        np.testing.assert_allclose(curve, [[0.5, 0.5], [0.3, 0.3]])


def test_one_rate_needs_no_v() -> None:
    asked: list[tuple[str, ...]] = []
    curve, rate = fitting._best_curve([0.1], stub({0.1: ([0.0], [0.7])}, asked), np.array([0.0]))
    assert rate == 0.1
    assert asked == [("P",)]
    np.testing.assert_allclose(curve, [[0.8], [0.6]])


def test_curves_have_one_rate_over_log2_examples_and_one_over_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """What each fit is asked for, and which rate's curve on P comes out; areas on V by hand."""
    config = config_of(
        DIGITS,
        curves__examples=[1, 2, 4],
        curves__updates=20,
        curves__every=10,
        curves__rates_examples={"gain_head": [0.1, 0.3], "full": [0.1]},
        curves__rates_updates={"gain_head": [0.1, 0.3], "full": [0.1]},
    )
    target = np.array([[1, 0, 1, 0, 1, 0, 1, 0], [0, 0, 0, 0, 1, 1, 1, 1]], dtype=bool)
    job = SimpleNamespace(config=config, classes=["a", "b"], target_matrix=lambda split: target, arm_cut=lambda p: 1)
    # over log2 m: 1.0 and 0.9, so 0.1 is chosen; over m itself: 1.25 and 1.55
    on_v = {0.1: [1.0, 0.5, 0.0], 0.3: [0.0, 0.5, 0.8]}
    # over updates: 10 and 14, so 0.3
    on_v_updates = {0.1: [0.5, 0.5, 0.5], 0.3: [0.5, 0.7, 0.9]}
    on_p = {0.1: [0.11, 0.12, 0.13], 0.3: [0.31, 0.32, 0.33]}
    calls = []

    def fit(job: Any, arm: str, rate: float, at: list[int], chosen: Any, split_names: Any) -> np.ndarray:
        calls.append((rate, at, None if chosen is None else chosen.tolist()))
        if chosen is None:
            parts = {"V": on_v_updates[rate], "P": on_p[rate]}
        else:
            point = [2, 4, 8].index(chosen.shape[1])
            parts = {"V": [on_v[rate][point]], "P": [on_p[rate][point]]}
        return np.array([[parts[s], parts[s]] for s in split_names])

    monkeypatch.setattr(fitting, "_curve_fit", fit)
    found = fitting.fit_curves(job, "gain_head", silent)
    assert found["auc_examples"].dims == ("arm", "task", "examples")
    assert found["auc_updates"].dims == ("arm", "task", "updates")
    assert found["examples"].values.tolist() == [1, 2, 4]
    assert found["updates"].values.tolist() == [0, 10, 20]
    assert found.attrs["rate_examples_gain_head"] == 0.1
    assert found.attrs["rate_updates_gain_head"] == 0.3
    np.testing.assert_array_equal(found["auc_examples"][0], [on_p[0.1]] * 2)
    np.testing.assert_array_equal(found["auc_updates"][0], [on_p[0.3]] * 2)
    first = [[0, 1], [4, 0]]
    two, four = [[0, 2, 1, 3], [4, 5, 0, 1]], [[0, 2, 4, 6, 1, 3, 5, 7], [4, 5, 6, 7, 0, 1, 2, 3]]
    by_rate = [([20], first), ([20], two), ([20], four)]
    assert sorted(calls, key=lambda c: (c[2] is None, c[0])) == [
        *((0.1, *one) for one in by_rate), *((0.3, *one) for one in by_rate),
        (0.1, [0, 10, 20], None), (0.3, [0, 10, 20], None),
    ]  # fmt: skip


@pytest.mark.parametrize("m", [1, 2, 5, 10, 20, 50, 100, 300])
def test_batches_of_a_curve_hold_fifty_or_all_there_are(m: int) -> None:
    sizes = {len(batch) for batch in Schedule(rate=0.1, batch_size=50, epochs=None, updates=120).batches(2 * m)}
    assert sizes == {min(50, 2 * m)}
    assert len(list(Schedule(rate=0.1, batch_size=50, epochs=None, updates=120).batches(2 * m))) == 120


@pytest.mark.parametrize("arm", ["gain_head", "full"])
def test_a_curve_starts_ungained_and_learns_from_its_examples_alone(
    arm: str, job: NetworkJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedules = []

    def noted(function: Callable[..., Any], place: int) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            schedules.append(arguments[place])
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(fitting, "fit_tasks", noted(fitting.fit_tasks, 4))
    monkeypatch.setattr(fitting, "learn_full", noted(fitting.learn_full, 5))
    both = fitting._curve_fit(job, arm, 0.03, [0, 1, 2], None, ("V", "P"))
    assert both.shape == (2, len(job.classes), 3)
    for split, areas in zip(("V", "P"), both, strict=True):
        target = job.target_matrix(split)
        features = logits(job.cut, job.rows(split), fitting.start(job.cut, job.detector))
        wanted = [roc_auc_score(t, z) for t, z in zip(target, features, strict=True)]
        np.testing.assert_allclose(areas[:, 0], wanted, atol=1e-12)  # every arm starts from the frozen detector
    assert (both[..., 2] != both[..., 0]).any()
    assert {(s.rate, s.penalty, s.batch_size, s.updates, s.epochs) for s in schedules} == {(0.03, 0.0, 9, 2, None)}
    # an arm that is shown two examples learns as if there were no other images
    chosen = fitting.first_examples(job.target_matrix("G"), 1)
    few = fitting._curve_fit(job, arm, 0.03, [2], chosen, ("P",))[0, :, 0]
    assert few.shape == (len(job.classes),)
    schedule = Schedule(rate=0.03, batch_size=9, epochs=None, updates=2, seed=job.index)
    near = 1e-9 if arm == "full" else 0.02  # one pair of images may change places by the rounding of blocks of tasks
    for task, rows in enumerate(chosen):
        target = job.target_matrix("G")[:, rows]
        if arm == "full":
            said = learn_full(
                job.cut, job.images("G")[rows], target[task], job.detector, task, schedule, evaluate=job.images("P"),
                at=[2],
            )[0]  # fmt: skip
        else:
            begin = fitting.start(job.cut, job.detector).tasks(slice(task, task + 1))
            said = fitting.fit_tasks(
                job.cut, [row[rows] for row in job.rows("G")], target[[task]], begin, schedule, train_gains=True,
                train_head=True, evaluate=job.rows("P"), at=[2],
            ).logits[0, 0]  # fmt: skip
        assert few[task] == pytest.approx(roc_auc_score(job.target_matrix("P")[task], said), abs=near)


# ---- gains from theory
@pytest.mark.parametrize("arm", ["tuning", "gradient"])
@pytest.mark.parametrize("mode", ["bidirectional", "additive"])
def test_a_dead_layer_is_named_and_not_given_factors_of_one(arm: str, mode: str, job: NetworkJob) -> None:
    dead = NetworkJob(job.config, job.out, job.name)
    with torch.no_grad():
        dead.network.module.conv2.weight.zero_()
        dead.network.module.conv2.bias.fill_(-1.0)
    with pytest.raises(DataError, match=r"all 32 filters of layer 'relu2' are dead: none answers to any of the 48"):
        fit_theory(dead, arm, ArmConfig(strengths=[0.5, 1.0], mode=mode), silent)


# ---- arms that a network has not what is needed for
def test_the_status_of_an_arm_gives_its_reason(job: NetworkJob) -> None:
    config = config_of(job.config.model_dump(mode="json"), arms__norm_affine={"rates": [0.1]})
    plain, other = (NetworkJob(config, job.out, job.name) for _ in range(2))
    assert fitting.fit_arm(plain, "norm_affine", silent).status == "not_applicable"  # no norms: no more to say
    other.network.module.add_module("token_norm", nn.LayerNorm(3))
    found = fitting.fit_arm(other, "norm_affine", silent)
    assert found.status == "not_applicable: layer norm 'token_norm' has its weights along the last axis"
    assert np.isnan(found.auc).all()


# ---- shuffled gains
def test_permuted_head_learns_the_read_out_on_gains_shuffled_within_layers(
    job: NetworkJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages.learn_arm(job, "gain_head", silent)
    learned = load_kind(job.out / "arms" / job.name / "gain_head.gains.nc", "GAINS")
    fits = []
    real = fitting.fit_tasks

    def noted(*arguments: Any, **options: Any) -> Any:
        initial = arguments[3]
        begin = {layer: theta.clone() for layer, theta in initial.theta.items()}, initial.weight.clone()
        fits.append((begin, options, real(*arguments, **options)))
        return fits[-1][2]

    monkeypatch.setattr(fitting, "fit_tasks", noted)
    found = fitting.fit_arm(job, "permuted_head", silent, origin=learned)
    assert all(options["names"] == job.classes for _, options, _ in fits)
    assert len(fits) == job.config.learning.shuffles == 2
    moved = 0
    areas = []
    for (theta, weight), options, fit in fits:
        assert (options["train_gains"], options["train_head"]) == (False, True)
        np.testing.assert_allclose(weight, job.detector.weight, rtol=1e-6)  # from the frozen read-out, not the learned
        assert not np.allclose(fit.state.weight, job.detector.weight)
        for layer, numbers in theta.items():
            gains = learned["gain"].sel(unit=learned["layer"] == layer).transpose("task", "unit").values
            if "arm" in learned["gain"].dims:
                gains = gains[0]
            wanted = np.log(gains)
            np.testing.assert_allclose(np.sort(numbers, axis=1), np.sort(wanted, axis=1), atol=1e-6)
            np.testing.assert_array_equal(fit.state.theta[layer], numbers)
            moved += int((np.abs(numbers.numpy() - wanted) > 1e-6).any(axis=1).sum())
        said = logits(job.cut, job.rows("P"), fit.state)
        areas.append([roc_auc_score(t, z) for t, z in zip(job.target_matrix("P"), said, strict=True)])
    assert moved == 2 * len(job.layers) * len(job.classes), "every task of every layer is shuffled each time"
    np.testing.assert_allclose(found.auc, np.mean(areas, axis=0), atol=1e-12)
    assert found.trained_numbers == job.detector.weight.shape[1] + 1


def test_halves_name_the_class_whose_loss_is_not_finite(job: NetworkJob, monkeypatch: pytest.MonkeyPatch) -> None:
    stages.learn_arm(job, "gain", silent)
    monkeypatch.setattr(stages, "_gain_schedule", lambda job, rate, penalty: Schedule(rate=1e30, epochs=2))
    with pytest.raises(DataError, match=rf"the loss of task ({'|'.join(job.classes)}) is not finite"):
        stages.learn_halves(job, silent)


def test_permuted_keeps_the_read_out_frozen(job: NetworkJob, monkeypatch: pytest.MonkeyPatch) -> None:
    stages.learn_arm(job, "gain", silent)
    learned = load_kind(job.out / "arms" / job.name / "gain.gains.nc", "GAINS")
    monkeypatch.setattr(fitting, "fit_tasks", lambda *a, **k: pytest.fail("learned something"))
    assert fitting.fit_arm(job, "permuted", silent, origin=learned).trained_numbers == 0


# ---- what makes a network of the run
def test_each_digit_is_novel_to_every_fifth_network(tmp_path: Path) -> None:
    digits = list("0123456789")
    omitted = []
    for n in range(10):
        config = config_of(DIGITS, networks__train__count=10, networks__train__omitted_classes=2)
        one = NetworkJob(config, tmp_path, f"network_{n}")
        vars(one)["classes"] = digits  # of the stimuli, which need not be loaded to know them
        assert one.omitted == [str(2 * n % 10), str((2 * n + 1) % 10)]
        omitted += one.omitted
    assert sorted(omitted[:10]) == digits
    assert sorted(omitted) == sorted(2 * digits)
    later = config_of(
        DIGITS, networks__train__count=2, networks__train__first_seed=101, networks__train__omitted_classes=2
    )
    one = NetworkJob(later, tmp_path, "network_102")
    vars(one)["classes"] = digits
    assert one.omitted == ["4", "5"]  # 204 mod 10


def test_every_network_draws_its_own_partition_with_seed_1000_plus_its_own(images: Path, tmp_path: Path) -> None:
    config = config_of({**TINY, "stimuli": str(images)})
    drawn = {}
    for n in (0, 1):
        one = NetworkJob(config, tmp_path, f"network_{n}")
        wanted = partition(one.stimuli, {"R": 8, "G": 6, "V": 4, "S": 6, "P": 6}, seed=1000 + n)
        for split, part in one.splits.items():
            assert sorted(part.id) == sorted(wanted.id[wanted.split == split])
        drawn[n] = sorted(one.splits["S"].id)
    assert drawn[0] != drawn[1]


# ---- covariates


@pytest.mark.parametrize(
    ("behind", "wanted"),
    [
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten()], True),
        ([nn.AdaptiveMaxPool2d(1), nn.Flatten()], False),
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 6), nn.ReLU()], False),
    ],
    ids=["means", "maxima", "hidden layer"],
)
def test_a_read_out_weight_belongs_to_a_filter_only_where_the_head_reads_its_mean(
    behind: list[nn.Module], wanted: bool
) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), *behind, nn.Linear(6, 4)).eval()
    images = torch.rand(5, 1, 8, 8)
    job: Any = SimpleNamespace(
        network=SimpleNamespace(module=module),
        head=str(len(module) - 1),
        layers=("0", "1"),
        images=lambda split: images,
    )
    assert stages._read_out(job) is wanted
    job.layers = ("0",)
    assert stages._read_out(job) is False, "before the ReLU the means are others"
    job.layers = ("1", "relu()")
    assert stages._read_out(job) is False, "an operation"
