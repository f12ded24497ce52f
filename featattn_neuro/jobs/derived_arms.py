"""Arms of a run that learn no number: AdaBN, and gains from theory whose strength V chooses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from featattn_neuro.jobs.config import ArmConfig
from featattn_neuro.jobs.context import NetworkJob
from featattn_neuro.jobs.fitting import ArmFit, mean_auc, not_applicable, reference_scores
from featattn_neuro.jobs.reference import ReferenceTask
from featattn_neuro.nets.adabn import adapt_batch_norm, has_batch_norm
from featattn_neuro.nets.arms import arm_network
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.gain_sets import to_gain_set
from featattn_neuro.nets.learning import logits
from featattn_neuro.nets.recording import record_activations
from featattn_neuro.nets.theory_gains import (
    ADDITIVE,
    activation_inputs,
    additive_shifts,
    gradient_values,
    layer_means,
    site_means,
    theory_factors,
    tuning_values,
    with_factors,
    with_shifts,
)
from featattn_neuro.nets.training import head_inputs


def fit_adabn(job: NetworkJob, progress: Callable[[float], None]) -> ArmFit:
    """The frozen detectors on the network with the batch-norm statistics of G's composites, labels unseen."""
    if not has_batch_norm(job.network.module):
        return not_applicable(job)
    adapted = adapt_batch_norm(job.network.module, job.images("G"))
    progress(0.5)
    scores = job.detector.logits(head_inputs(adapted, job.head, job.images("P")))
    if not job.config.learning.reference:
        return ArmFit(scores, 0)
    reference = ReferenceTask(job)
    tasks = len(job.classes)
    return ArmFit(
        scores, 0, reference=np.full(tasks, reference.of(adapted)), reference_off=np.full(tasks, reference.ungained())
    )


def fit_theory(job: NetworkJob, arm: str, config: ArmConfig, progress: Callable[[float], None]) -> ArmFit:
    """Tuning or gradient gains of single images of R, at all gained sites; the strength with the best mean AUC on V.

    Equal scores: the smaller strength. What the strength that is best on P itself would give is kept beside it.
    """
    cut = job.arm_cut("any")
    assert cut is not None
    values = theory_values(job, arm, cut, config)
    rows = {split: job.arm_rows("any", split) for split in "VP"}
    means = None
    if config.mode == ADDITIVE:
        means = layer_means(cut, site_means(cut, job.single_images("R")))
        inputs = activation_inputs(job.network.module, job.layers)
        cut = arm_network(job.network.module, inputs, job.head, "any")
        assert cut is not None
        rows = {split: cut.prefix(job.images(split)) for split in "VP"}
    clip = config.clip is not False and means is None
    progress(0.3)
    strengths = sorted(config.strengths)
    areas = {split: [] for split in "VP"}  # type: dict[str, list[np.ndarray]]
    states = []
    for k, strength in enumerate(strengths):
        if means is None:
            factors = theory_factors(values, strength, mode=config.mode, clip=clip)
            states.append(with_factors(cut, job.detector, factors))
        else:
            states.append(with_shifts(cut, job.detector, additive_shifts(values, means, strength)))
        for split, found in areas.items():
            found.append(mean_auc(logits(cut, rows[split], states[-1]), job.target_matrix(split)))
        progress(0.3 + 0.6 * (k + 1) / len(strengths))
    chosen, best = (int(np.argmax([float(a.mean()) for a in areas[split]])) for split in "VP")
    gains = to_gain_set(
        cut, states[chosen], job.classes, job.splits["R"].sources(),
        attrs={"arm": arm, "head_rule": "frozen", "network_name": job.name, "strength": strengths[chosen],
               "mode": config.mode, "clipped": "yes" if clip else "no"},
    )  # fmt: skip
    reference, reference_off = reference_scores(job, cut, states[chosen], gains)
    return ArmFit(
        logits(cut, rows["P"], states[chosen]), 0, gains=gains,
        choices=_swept(job, arm, strengths, areas["V"]),
        reference=reference, reference_off=reference_off, strength=strengths[chosen],
        strength_best_on_test=strengths[best], auc_best_on_test=areas["P"][best],
    )  # fmt: skip


def theory_values(job: NetworkJob, arm: str, cut: CutNetwork, config: ArmConfig) -> np.ndarray:
    """(T, K) tuning or gradient values of the classes, from single images of R, un-gained."""
    singles = job.splits["R"]
    if arm == "gradient":
        target = job.targets(singles).transpose("task", "stimulus").values
        images = job.single_images("R")
        return gradient_values(cut, images, target, job.detector, normalise=config.normalise, sign=config.sign)
    cut.prefix(job.images("G")[:1])  # counts the filters
    recorded = record_activations(
        job.network.module, singles, list(cut.layers), preprocess=job.network.preprocess, network_name=job.name,
        batch_size=50,
    )  # fmt: skip
    found = tuning_values(recorded, job.targets(singles))
    order = [(layer, k) for layer in cut.layers for k in range(cut.n_filters[layer])]
    place = {
        pair: i
        for i, pair in enumerate(zip(found["layer"].values.tolist(), found["channel"].values.tolist(), strict=True))
    }
    return found.values[:, [place[pair] for pair in order]]


def _swept(job: NetworkJob, arm: str, strengths: list[float], on_v: list[np.ndarray]) -> xr.Dataset:
    return xr.Dataset(
        {"auc_choice": (("arm", "task", "choice"), np.stack(on_v, axis=-1)[None])},
        coords={
            "arm": [arm], "task": job.classes, "choice": np.arange(len(strengths)), "strength": ("choice", strengths),
        },
        attrs={"kind": "CURVES", "network_name": job.name},
    )  # fmt: skip
