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
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.gain_sets import to_gain_set
from featattn_neuro.nets.learning import logits
from featattn_neuro.nets.recording import record_activations
from featattn_neuro.nets.theory_gains import ADDITIVE, theory_states, tuning_values
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
    sites = job.arm_cut("any")
    assert sites is not None
    clip = config.clip is not False and config.mode != ADDITIVE
    strengths = sorted(config.strengths)
    target = job.targets(job.splits["R"]).transpose("task", "stimulus").values
    cut, states = theory_states(
        sites, job.detector, job.single_images("R"), target, strengths, module=job.network.module,
        head=job.head, method=arm, mode=config.mode, clip=clip, normalise=config.normalise, sign=config.sign,
        values=recorded_tuning(job, sites) if arm == "tuning" else None,
    )  # fmt: skip
    rows = {split: job.arm_rows("any", split) if cut is sites else cut.prefix(job.images(split)) for split in "VP"}
    progress(0.3)
    areas = {split: [] for split in "VP"}  # type: dict[str, list[np.ndarray]]
    for k, state in enumerate(states):
        for split, found in areas.items():
            found.append(mean_auc(logits(cut, rows[split], state), job.target_matrix(split)))
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


def recorded_tuning(job: NetworkJob, cut: CutNetwork) -> np.ndarray:
    """(T, K) tuning values of the classes, from single images of R, un-gained, in the order of the cut's filters."""
    singles = job.splits["R"]
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
