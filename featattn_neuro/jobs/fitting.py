"""Arms of a run: what each one trains, which choice V makes, what comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from torch import nn

from featattn_neuro.arrays.discrimination import roc_area
from featattn_neuro.arrays.roc import placements_in_order
from featattn_neuro.errors import ConfigError
from featattn_neuro.jobs.config import THEORY_ARMS, ArmConfig
from featattn_neuro.jobs.context import NetworkJob
from featattn_neuro.jobs.reference import ReferenceTask
from featattn_neuro.nets.arms import ArmRule, arm_rule, arm_start, norm_obstacle
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.fine_tuning import learn_full
from featattn_neuro.nets.gain_sets import from_gain_set, to_gain_set
from featattn_neuro.nets.learning import (
    Fit,
    Schedule,
    Trained,
    features_of,
    fit_tasks,
    logits,
    permute_gains,
    start,
)

Progress = Callable[[float], None]


@dataclass(frozen=True)
class ArmFit:
    """Result of one arm: (T, P) logits; ROC areas and placements (T, P) where an arm is a mean over shuffles."""

    logits: np.ndarray | None
    trained_numbers: int
    auc: np.ndarray | None = None
    placement: np.ndarray | None = None
    gains: xr.Dataset | None = None
    choices: xr.Dataset | None = None
    rate: float = float("nan")
    penalty: float = float("nan")
    status: str = "ok"
    reference: np.ndarray | None = None
    reference_off: np.ndarray | None = None
    strength: float = float("nan")
    strength_best_on_test: float = float("nan")
    auc_best_on_test: np.ndarray | None = None


def mean_auc(scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(T,) ROC area of (T, N) logits."""
    return np.array([float(roc_area(z, t)) for z, t in zip(scores, target, strict=True)])


def fit_arm(job: NetworkJob, arm: str, progress: Progress, *, origin: xr.Dataset | None = None) -> ArmFit:
    """Learn one arm on G, choose rate and penalty on V, return what it says about P."""
    if arm == "ungained":
        job.cut.prefix(job.images("P")[:2])
        state = start(job.cut, job.detector)
        return ArmFit(logits(job.cut, job.rows("P"), state), 0)
    if arm in ("permuted", "permuted_head"):
        if origin is None:
            raise ConfigError(f"arm {arm!r} needs the gains that are permuted")
        return _permuted(job, origin, refit_head=arm == "permuted_head", progress=progress)
    config = job.config.arms[arm]
    if arm == "full":
        return _full(job, config, progress)
    if arm == "adabn" or arm in THEORY_ARMS:
        from featattn_neuro.jobs.derived_arms import fit_adabn, fit_theory

        return fit_adabn(job, progress) if arm == "adabn" else fit_theory(job, arm, config, progress)
    return _frozen(job, arm, rule_of(arm, config), config, progress)


def rule_of(arm: str, config: ArmConfig) -> ArmRule:
    """The rule of an arm with the configuration's parameterisation and combination."""
    return arm_rule(arm, parameterisation=config.parameterisation, combination=config.combination)


def not_applicable(job: NetworkJob, why: str = "") -> ArmFit:
    """What an arm says of a network that has not what the arm needs: no number, and a status that says so."""
    status = f"not_applicable: {why}" if why else "not_applicable"
    undefined = np.full((len(job.classes), job.config.composites["P"]), np.nan)
    return ArmFit(undefined, 0, auc=np.full(len(job.classes), np.nan), status=status)


def _schedule(job: NetworkJob, rate: float, penalty: float, norm: str = "l2") -> Schedule:
    config = job.config.learning
    return Schedule(
        rate=rate, penalty=penalty, batch_size=config.batch_size, epochs=config.epochs, updates=None, seed=job.index,
        norm=norm,
    )  # fmt: skip


def _choice_table(job: NetworkJob, arm: str, choices: list[tuple[float, float]], found: list[np.ndarray]) -> xr.Dataset:
    return xr.Dataset(
        {"auc_choice": (("arm", "task", "choice"), np.stack(found, axis=-1)[None])},
        coords={
            "arm": [arm],
            "task": job.classes,
            "choice": np.arange(len(choices)),
            "rate": ("choice", [rate for rate, _ in choices]),
            "penalty": ("choice", [penalty for _, penalty in choices]),
        },
        attrs={"kind": "CURVES", "network_name": job.name},
    )


def _frozen(job: NetworkJob, arm: str, rule: ArmRule, config: ArmConfig, progress: Progress) -> ArmFit:
    cut = job.arm_cut(rule.place)
    if cut is None:
        return not_applicable(job, norm_obstacle(job.network.module))
    rows, target = job.arm_rows(rule.place, "G"), job.target_matrix("G")
    choices = config.choices()
    several = len(choices) > 1
    evaluation = job.arm_rows(rule.place, "V") if several else ()
    best: tuple[float, int, Fit] | None = None
    on_v: list[np.ndarray] = []
    for index, (rate, penalty) in enumerate(choices):
        initial = arm_start(rule, cut, job.detector, job.network.module, job.images("G")[:1])
        fit = fit_tasks(
            cut, rows, target, initial, _schedule(job, rate, penalty, config.penalty_norm),
            train_gains=rule.on_network, train_head=rule.head, evaluate=evaluation, names=job.classes,
        )  # fmt: skip
        score = 0.0
        if several:
            on_v.append(mean_auc(fit.logits[-1], job.target_matrix("V")))
            score = float(on_v[-1].mean())
        if best is None or score > best[0]:  # choices are ordered so that the first of equals is the one to keep
            best = (score, index, fit)
        progress((index + 1) / len(choices))
    assert best is not None
    _, index, fit = best
    gains = None
    if rule.on_network and not rule.norm:  # affine weights are no gains on the network as it is
        head_rule = "learned with the gains" if rule.head else "frozen"
        gains = to_gain_set(
            cut, fit.state, job.classes, job.composites["G"].stimuli.sources(),
            attrs={"arm": arm, "head_rule": head_rule, "network_name": job.name},
        )  # fmt: skip
    reference, reference_off = reference_scores(job, cut, fit.state, gains)
    return ArmFit(
        logits(cut, job.arm_rows(rule.place, "P"), fit.state),
        fit.state.trained_numbers(head=rule.head) if rule.on_network else _head_numbers(job),
        gains=gains,
        reference=reference,
        reference_off=reference_off,
        choices=_choice_table(job, arm, choices, on_v) if several else None,
        rate=choices[index][0],
        penalty=choices[index][1],
    )


def _head_numbers(job: NetworkJob) -> int:
    return job.detector.weight.shape[1] + 1


def reference_scores(
    job: NetworkJob, cut: CutNetwork, state: Trained, gains: xr.Dataset | None = None
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Score of each task's modulation on the reference task, and with all taken off again; None unless asked for.

    gains : what is placed on the network itself and taken off before the second is measured, where it can be placed.
    """
    if not job.config.learning.reference:
        return None, None
    reference = ReferenceTask(job)
    rows = cut.prefix(reference.images)
    on = np.array([reference.accuracy(features) for features in features_of(cut, rows, state)])
    return on, reference.switched(gains)


def _permuted(job: NetworkJob, origin: xr.Dataset, *, refit_head: bool, progress: Progress) -> ArmFit:
    """Mean ROC area over shuffles of learned gains within their layer, with the head rule of the arm they come from.

    Rate and penalty are those that the arm of the gains chose on V, with its gains in their places. A head that is
    refitted on shuffled gains chooses nothing on V itself, so it may fare worse than one that did: the difference
    gain_head - permuted_head is of that choice too.
    """
    arm = "gain_head" if refit_head else "gain"
    scores = xr.open_dataset(job.out / "arms" / job.name / f"{arm}.nc", engine="h5netcdf")
    with scores:
        rate, penalty = float(scores["rate"][0]), float(scores["penalty"][0])
    place = rule_of(arm, job.config.arms[arm]).place
    cut = job.arm_cut(place)
    assert cut is not None
    rows_p, target_p = job.arm_rows(place, "P"), job.target_matrix("P")
    rows_g = job.arm_rows(place, "G")
    learned = from_gain_set(cut, origin)
    frozen = start(cut, job.detector)
    rng = np.random.default_rng([job.index, int(refit_head)])
    areas, placed = [], []
    for shuffle in range(job.config.learning.shuffles):
        shuffled = permute_gains(learned, rng)
        state = replace(shuffled, weight=frozen.weight.clone(), bias=frozen.bias.clone(), scale=frozen.scale)
        if refit_head:
            state = fit_tasks(
                cut, rows_g, job.target_matrix("G"), state,
                _schedule(job, rate, penalty, job.config.arms[arm].penalty_norm), train_gains=False, train_head=True,
                names=job.classes,
            ).state  # fmt: skip
        shuffled_logits = logits(cut, rows_p, state)
        areas.append(mean_auc(shuffled_logits, target_p))
        placed.append([placements_in_order(z[None], t)[0] for z, t in zip(shuffled_logits, target_p, strict=True)])
        progress((shuffle + 1) / job.config.learning.shuffles)
    numbers = _head_numbers(job) if refit_head else 0
    return ArmFit(
        None, numbers, auc=np.mean(areas, axis=0), placement=np.mean(placed, axis=0), rate=rate, penalty=penalty
    )  # fmt: skip


def _full(job: NetworkJob, config: ArmConfig, progress: Progress) -> ArmFit:
    target = job.target_matrix("G")
    choices = config.choices()
    several = len(choices) > 1
    images_v, images_p = job.images("V"), job.images("P")
    evaluation = torch.cat([images_v, images_p])
    images, target_v = job.images("G"), job.target_matrix("V")
    job.rows("P")  # counts the filters
    reference = ReferenceTask(job) if job.config.learning.reference else None
    best: tuple[float, int, np.ndarray, list[float]] | None = None
    on_v: list[np.ndarray] = []
    for index, (rate, penalty) in enumerate(choices):
        found: list[np.ndarray] = []
        kept: list[float] = []

        def note(module: nn.Module, kept: list[float] = kept) -> None:
            if reference is not None:
                kept.append(reference.of(module))

        for task in range(len(target)):
            found.append(
                learn_full(
                    job.cut,
                    images,
                    target[task],
                    job.detector,
                    task,
                    _schedule(job, rate, penalty),
                    evaluate=evaluation,
                    afterwards=note,
                    name=job.classes[task],
                )[-1]
            )
            progress((index + (task + 1) / len(target)) / len(choices))
        scores = np.stack(found)
        score = 0.0
        if several:
            on_v.append(mean_auc(scores[:, : len(images_v)], target_v))
            score = float(on_v[-1].mean())
        if best is None or score > best[0]:
            best = (score, index, scores[:, len(images_v) :], kept)
    assert best is not None
    return ArmFit(
        best[2],
        _full_numbers(job),
        choices=_choice_table(job, "full", choices, on_v) if several else None,
        rate=choices[best[1]][0],
        penalty=choices[best[1]][1],
        reference=np.array(best[3]) if reference is not None else None,
        # the base weights have changed: there is nothing to take off again
        reference_off=np.full(len(target), np.nan) if reference is not None else None,
    )


def _full_numbers(job: NetworkJob) -> int:
    base = sum(p.numel() for name, p in job.cut.module.named_parameters() if not name.startswith(f"{job.head}."))
    return base + job.detector.weight.shape[1] + 1


def first_examples(target: np.ndarray, m: int) -> np.ndarray:
    """(T, 2m) positions of the first m targets and first m distractors of each task: nested in m.

    >>> first_examples(np.array([[False, True, False, True]]), 1)
    array([[1, 0]])
    """
    rows = []
    for task, row in enumerate(np.asarray(target, dtype=bool)):
        positive, negative = np.flatnonzero(row), np.flatnonzero(~row)
        if min(len(positive), len(negative)) < m:
            raise ConfigError(
                f"curves.examples wants {m} targets and {m} distractors; task {task} has {len(positive)} and "
                f"{len(negative)}; leave the larger counts out, or make more composites for G"
            )
        rows.append(np.concatenate([positive[:m], negative[:m]]))
    return np.stack(rows)


def fit_curves(job: NetworkJob, arm: str, progress: Progress) -> xr.Dataset:
    """ROC area on P over examples per class and over updates; one rate per network and curve, chosen by area on V."""
    settings = job.config.curves
    assert settings is not None
    target = job.target_matrix("G")
    if arm != "full" and job.arm_cut(rule_of(arm, job.config.arms[arm]).place) is None:
        return _no_curves(job, arm)
    steps = list(range(0, settings.updates + 1, settings.every))
    sizes = [min(2 * m, settings.batch_size) for m in settings.examples]
    rates = settings.rates_examples[arm], settings.rates_updates[arm]
    work = len(rates[0]) * sum(sizes) + len(rates[1]) * settings.batch_size
    done = 0

    def advance(images: int) -> None:
        nonlocal done
        done += images
        progress(done / work)

    def over_examples(rate: float, split_names: Sequence[str]) -> np.ndarray:
        areas = []
        for m, size in zip(settings.examples, sizes, strict=True):
            areas.append(_curve_fit(job, arm, rate, [settings.updates], first_examples(target, m), split_names)[..., 0])
            advance(size)
        return np.stack(areas, axis=-1)

    def over_updates(rate: float, split_names: Sequence[str]) -> np.ndarray:
        areas = _curve_fit(job, arm, rate, steps, None, split_names)
        advance(settings.batch_size)
        return areas

    by_examples, rate_examples = _best_curve(
        rates[0], over_examples, np.log2(np.asarray(settings.examples, dtype=float))
    )
    by_updates, rate_updates = _best_curve(rates[1], over_updates, np.asarray(steps, dtype=float))
    return xr.Dataset(
        {
            "auc_examples": (("arm", "task", "examples"), by_examples[None]),
            "auc_updates": (("arm", "task", "updates"), by_updates[None]),
        },
        coords={"arm": [arm], "task": job.classes, "examples": settings.examples, "updates": steps},
        attrs={"kind": "CURVES", f"rate_examples_{arm}": rate_examples, f"rate_updates_{arm}": rate_updates},
    )


def _no_curves(job: NetworkJob, arm: str) -> xr.Dataset:
    """Curves of an arm that does not apply to the network: undefined, in the shape of the others."""
    settings = job.config.curves
    assert settings is not None
    steps = list(range(0, settings.updates + 1, settings.every))
    axes = {"examples": list(settings.examples), "updates": steps}
    return xr.Dataset(
        {
            f"auc_{axis}": (("arm", "task", axis), np.full((1, len(job.classes), len(values)), np.nan))
            for axis, values in axes.items()
        },
        coords={"arm": [arm], "task": job.classes, **axes},
        attrs={"kind": "CURVES"},
    )


def _best_curve(
    rates: Sequence[float], fit: Callable[[float, Sequence[str]], np.ndarray], axis: np.ndarray
) -> tuple[np.ndarray, float]:
    """The curve on P (T, points) at the rate whose mean curve on V has the largest area; V is unused for one rate."""
    if len(rates) == 1:
        return fit(rates[0], ("P",))[0], rates[0]
    rates = sorted(rates)  # the first of equals is kept, which is to be the smaller
    found = [fit(rate, ("V", "P")) for rate in rates]
    areas = [float(np.trapezoid(curves[0].mean(axis=0), axis)) for curves in found]
    best = int(np.argmax(areas))
    return found[best][1], rates[best]


def _curve_fit(
    job: NetworkJob, arm: str, rate: float, at: list[int], chosen: np.ndarray | None, split_names: Sequence[str]
) -> np.ndarray:
    """(splits, T, len(at)) ROC areas; learned without a penalty, since the curves have a choice of rate alone."""
    settings = job.config.curves
    assert settings is not None
    schedule = Schedule(
        rate=rate, batch_size=settings.batch_size, epochs=None, updates=settings.updates, seed=job.index
    )
    target = job.target_matrix("G")
    if arm == "full":
        images, evaluation = job.images("G"), torch.cat([job.images(split) for split in split_names])
        found = np.stack(
            [
                learn_full(
                    job.cut, images, target[task], job.detector, task, schedule, evaluate=evaluation, at=at,
                    chosen=None if chosen is None else chosen[task], name=job.classes[task],
                )
                for task in range(len(target))
            ],
            axis=1,
        )  # fmt: skip
    else:
        rule = rule_of(arm, job.config.arms[arm])
        cut = job.arm_cut(rule.place)
        assert cut is not None  # `fit_curves` has asked
        parts = (job.arm_rows(rule.place, split) for split in split_names)
        rows = [torch.cat(list(column)) for column in zip(*parts, strict=True)]
        learned_from = job.arm_rows(rule.place, "G")
        initial = arm_start(rule, cut, job.detector, job.network.module, job.images("G")[:1])
        found = fit_tasks(
            cut, learned_from, target, initial, schedule, train_gains=rule.on_network, train_head=rule.head,
            evaluate=rows, at=at, chosen=chosen, names=job.classes,
        ).logits  # fmt: skip
    areas, begin = [], 0
    for split in split_names:
        wanted = job.target_matrix(split)
        part = found[..., begin : begin + wanted.shape[1]]
        areas.append(np.stack([mean_auc(logits_then, wanted) for logits_then in part], axis=-1))
        begin += wanted.shape[1]
    return np.stack(areas)
