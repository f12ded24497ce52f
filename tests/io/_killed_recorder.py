"""A recording to be killed: run as a script by test_io_recording_store, in a process of its own."""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from torch import nn

from featattn_neuro import api
from featattn_neuro.io import recording_store
from featattn_neuro.io.stimuli import load_stimuli

COUNT, BATCH = 64, 4


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(6, 10, 3), nn.ReLU()
        ).eval()


def stimuli():
    return load_stimuli(np.random.default_rng(0).standard_normal((COUNT, 3, 12, 12)).astype(np.float32), label=None)


def record(out: str, *, slow: float = 0.0, **options):
    """Record in blocks of two batches; `slow` seconds a batch, so that a kill falls anywhere."""
    recording_store.BLOCK_BYTES = 1  # a block is one batch
    return api.record(
        network(), stimuli(), ["0", "1", "2"], reduce="none", batch_size=BATCH, out=out,
        progress=lambda done, total: time.sleep(slow), **options,
    )  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("ready", flush=True)  # noqa: T201 - the test waits for it
    record(sys.argv[1], slow=float(sys.argv[2]))
