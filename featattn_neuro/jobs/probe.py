"""What a network costs, measured on this machine, so that a run can say its minutes and its disk beforehand."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from featattn_neuro.jobs.context import NetworkJob, network_job
from featattn_neuro.nets.arms import arm_network, arm_rule, arm_start
from featattn_neuro.nets.cutting import CutNetwork, require_head
from featattn_neuro.nets.detectors import Detector
from featattn_neuro.nets.fine_tuning import learn_full
from featattn_neuro.nets.learning import Schedule, fit_tasks, start
from featattn_neuro.nets.training import head_inputs

TASKS = 2
"""Tasks of the timed updates."""

SHARED_UPDATES = 6
"""Updates that are timed where all tasks share the batches: what is computed once before them counts too."""


@dataclass(frozen=True)
class Costs:
    """Seconds that one thread needs for one image and task in one update, by what learns; and filters.

    per_image : "gain" (behind pooling where that is the same), "shared" (the same, all tasks from the same batches),
        "any" (at the very sites, with gains per position), "norm" (affine norms) and "full" fine-tuning; 0 for what the
        configuration has no arm of.
    """

    per_image: dict[str, float]
    units: int


def costs_of(config_text: str, out: str, name: str) -> Costs:
    """Time a few updates of one network and count its filters."""
    job = network_job(config_text, out, name)
    network = job.build()
    head = require_head(network.head, network.name)
    cut = CutNetwork(network.module, job.layers, head)
    size = job.config.learning.batch_size
    raw = job.splits["G"]
    from featattn_neuro.nets.batches import as_tensor

    images = as_tensor(raw, network.preprocess, 0, size)
    width = head_inputs(network.module, head, images[:2]).shape[1]
    detector = Detector(np.ones((TASKS, width)), np.zeros(TASKS), np.ones(width))
    target = np.tile(np.arange(len(images)) % 2 == 0, (TASKS, 1))
    rows = cut.prefix(images)
    schedule = Schedule(rate=1e-6, batch_size=size, epochs=None, updates=2)

    def gains() -> None:
        fit_tasks(cut, rows, target, start(cut, detector), schedule, train_gains=True, train_head=True)

    found = {"gain": _best(gains) / (2 * TASKS * len(images)), "any": 0.0, "norm": 0.0, "full": 0.0}
    tasks = len(job.classes)
    every = Detector(np.ones((tasks, width)), np.zeros(tasks), np.ones(width))
    both, longer = np.tile(target[:1], (tasks, 1)), replace(schedule, updates=SHARED_UPDATES)

    def shared() -> None:
        fit_tasks(cut, rows, both, start(cut, every), longer, train_gains=True, train_head=True)

    found["shared"] = _best(shared) / (SHARED_UPDATES * tasks * len(images))
    for kind in ("any", "norm"):
        found[kind] = _arm_seconds(job, network.module, head, kind, images, target, detector, schedule)
    if "full" in job.config.arms:
        full = _best(lambda: learn_full(cut, images, target[0], detector, 0, schedule, evaluate=images[:1]))
        found["full"] = full / (2 * len(images))
    return Costs(found, sum(cut.n_filters.values()))


def _arm_seconds(
    job: NetworkJob, module: nn.Module, head: str, kind: str, images: torch.Tensor, target: np.ndarray,
    detector: Detector, schedule: Schedule,
) -> float:  # fmt: skip
    """The same for the dearest arm of one place; 0 where the run has none, or the network not what it needs."""
    from featattn_neuro.jobs.graph import cost_of

    if not any(cost_of(job.config, arm) == f"{kind}_images" for arm in job.config.arms):
        return 0.0
    rule = arm_rule("norm_affine_head" if kind == "norm" else "feature_spatial")
    cut = arm_network(module, job.layers, head, kind)
    if cut is None:
        return 0.0
    rows = cut.prefix(images)

    def learn() -> None:
        initial = arm_start(rule, cut, detector, module, images)
        fit_tasks(cut, rows, target, initial, schedule, train_gains=True, train_head=True)

    return _best(learn) / (2 * TASKS * len(images))


def _best(work: Callable[[], object], times: int = 3) -> float:
    found = []
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        for _ in range(times):
            begun = time.process_time()  # of one thread: what else runs here now will not run then
            work()
            found.append(time.process_time() - begun)
    finally:
        torch.set_num_threads(before)
    return float(np.median(found))
