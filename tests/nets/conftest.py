"""Small stimuli and gain sets for the tests of networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
import xarray as xr

from featattn_neuro.io.stimuli import Stimuli, load_stimuli

MakeStimuli = Callable[..., Stimuli]
MakeGains = Callable[..., xr.Dataset]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def noise() -> MakeStimuli:
    """`noise(n, channels, size)`: n images of uniform noise, labels 0, 1, 0, 1, ..."""

    def make(n: int, channels: int = 1, size: int = 28, seed: int = 0) -> Stimuli:
        images = np.random.default_rng(seed).random((n, channels, size, size), dtype=np.float32)
        return load_stimuli(images, label=[str(i % 2) for i in range(n)])

    return make


@pytest.fixture
def gain_set() -> MakeGains:
    """`gain_set({layer: gains})`: GAINS, over (task, unit) where the gains of a layer are over (task, channel)."""

    def make(per_layer: Mapping[str, object], tasks: list[str] | None = None) -> xr.Dataset:
        values = {layer: np.asarray(gain, dtype=float) for layer, gain in per_layer.items()}
        channel = [k for gain in values.values() for k in range(gain.shape[-1])]
        layer = [name for name, gain in values.items() for _ in range(gain.shape[-1])]
        coords = {
            "unit": [f"{name}/{k:03d}" for name, k in zip(layer, channel, strict=True)],
            "layer": ("unit", layer),
            "channel": ("unit", channel),
        }
        dims = ("unit",) if tasks is None else ("task", "unit")
        named = {} if tasks is None else {"task": tasks}
        gain = (dims, np.concatenate(list(values.values()), axis=-1))
        return xr.Dataset({"gain": gain}, {**coords, **named}, {"kind": "GAINS"})

    return make
