"""The reference task: naming single images of P, which the network could do before anything was learned."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
import xarray as xr
from torch import nn

from featattn_neuro.jobs.context import NetworkJob, labels_of
from featattn_neuro.nets.gains import with_gains
from featattn_neuro.nets.training import head_inputs


class ReferenceTask:
    """Accuracy of a network's own answer to single images of P whose class its reference training has seen.

    The answer is the largest output of the network's own head where that has one output per class of the run, else the
    largest of the frozen detectors. Read-outs that arms learn play no part.
    """

    def __init__(self, job: NetworkJob) -> None:
        self.job = job
        singles = job.splits["P"]
        labels = labels_of(singles)
        self._known = ~np.isin(labels, job.omitted)
        self._truth = np.array([job.classes.index(label) for label in labels.tolist()])[self._known]

    @cached_property
    def images(self) -> torch.Tensor:
        """Network input of the images that count (N, C, H, W)."""
        return self.job.single_images("P")[torch.as_tensor(self._known)]

    def accuracy(self, features: np.ndarray) -> float:
        """Share of images that are named right, of inputs of the head (N, F)."""
        head = self.job.network.module.get_submodule(self.job.head)
        if isinstance(head, nn.Linear) and head.out_features == len(self.job.classes):
            weight = head.weight.detach().cpu().double().numpy()
            bias = 0.0 if head.bias is None else head.bias.detach().cpu().double().numpy()
            answers = features @ weight.T + bias
        else:
            answers = self.job.detector.logits(features).T
        return float((answers.argmax(axis=1) == self._truth).mean())

    def of(self, module: nn.Module) -> float:
        """Accuracy of a network whose head is called as the job's."""
        return self.accuracy(head_inputs(module, self.job.head, self.images))

    def switched(self, gains: xr.Dataset | None) -> np.ndarray:
        """Accuracy (T,) of the job's network after the gains of each task were switched on and off again.

        None: nothing can be placed on it (a read-out or affine weights, which are learned on copies).
        """
        module, few = self.job.network.module, self.images[:1]
        if gains is not None:
            for task in self.job.classes:
                with with_gains(module, gains, task=task):
                    head_inputs(module, self.job.head, few)
        return np.full(len(self.job.classes), self.of(module))

    def ungained(self) -> float:
        """Accuracy of the job's network as it is."""
        return self.of(self.job.network.module)
