"""The reference task: naming single images of P, which the network could do before anything was learned."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import nn

from featattn_neuro.jobs.context import NetworkJob, labels_of
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

    def ungained(self) -> float:
        """Accuracy of the job's network as it is."""
        return self.of(self.job.network.module)
