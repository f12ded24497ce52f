"""Run by a test in a process of its own: learns gains with checkpoints, and is killed on the way."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
import torch

import featattn_neuro as fa
from featattn_neuro.io.store import BlobFolder


def arguments(task: str) -> dict:
    """The same images and settings in every process."""
    rng = np.random.default_rng(0)
    labels = [str(k % 3) for k in range(24)]
    return {
        "stimuli": fa.load_stimuli(rng.random((24, 1, 12, 12), dtype=np.float32), label=labels),
        "labels": labels,
        "layers": ["relu2", "relu3"],
        "rate": 0.05,
        "penalty": 0.01,
        "epochs": 6,
        "batch_size": 10,
        "task": task,
        "checkpoint_every": 4,
    }


def main() -> None:
    torch.set_num_threads(1)
    folder, task, writes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    count = 0
    write = BlobFolder.write

    def counted(self: BlobFolder, name: str, data: bytes) -> None:
        nonlocal count
        write(self, name, data)
        count += 1
        if count == writes:
            os.kill(os.getpid(), signal.SIGKILL)

    BlobFolder.write = counted
    fa.learn_gains(fa.load_model("digits_cnn", weights="random", seed=1), checkpoint=folder, **arguments(task))


if __name__ == "__main__":
    main()
