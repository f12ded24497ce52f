"""What a network costs, measured on this machine, so that a run can say its minutes and its disk beforehand."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from featattn_neuro.jobs.context import network_job
from featattn_neuro.nets.cutting import CutNetwork, require_head
from featattn_neuro.nets.detectors import Detector
from featattn_neuro.nets.learning import Schedule, fit_tasks, learn_full, start
from featattn_neuro.nets.training import head_inputs

TASKS = 2
"""Tasks of the timed updates."""


@dataclass(frozen=True)
class Costs:
    """Seconds that one thread needs for one image and task in one update, of gains and of full fine-tuning; filters."""

    per_gain_image: float
    per_full_image: float
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

    per_gain = _best(gains) / (2 * TASKS * len(images))
    if "full" not in job.config.arms:
        return Costs(per_gain, 0.0, sum(cut.n_filters.values()))
    per_full = _best(lambda: learn_full(cut, images, target[0], detector, 0, schedule, evaluate=images[:1])) / (
        2 * len(images)
    )
    return Costs(per_gain, per_full, sum(cut.n_filters.values()))


def _best(work: Callable[[], object], times: int = 3) -> float:
    found = []
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        for _ in range(times):
            begun = time.perf_counter()
            work()
            found.append(time.perf_counter() - begun)
    finally:
        torch.set_num_threads(before)
    return float(np.median(found))
