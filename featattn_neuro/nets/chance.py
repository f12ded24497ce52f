"""The global random generators, which a network may draw from: compared, and given back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


def random_state(device: torch.device) -> tuple[Any, ...]:
    """The state of the generators of Python, numpy and torch (and those of a CUDA device), to be compared.

    >>> random_state(torch.device("cpu")) == random_state(torch.device("cpu"))
    True
    """
    name, keys, position, *rest = np.random.get_state()  # noqa: NPY002 - what a network may draw from
    cuda = torch.cuda.get_rng_state(device).numpy().tobytes() if device.type == "cuda" else b""
    drawn_by_torch = torch.get_rng_state().numpy().tobytes()
    return drawn_by_torch, cuda, name, np.asarray(keys).tobytes(), position, rest, random.getstate()


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Give the generators back as they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one is what is kept
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def draws_noted(module: nn.Module) -> Iterator[Callable[[], bool]]:
    """Tells whether anything was drawn inside the `with`, also where a module lies; gives the generators back.

    A graph that is traced meanwhile holds what was drawn as a constant, the same in every pass.

    >>> with draws_noted(nn.Identity()) as drawn:
    ...     before, _ = drawn(), torch.rand(1)
    ...     before, drawn()
    (False, True)
    """
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    with random_state_kept(device):
        before = random_state(device)
        yield lambda: random_state(device) != before
